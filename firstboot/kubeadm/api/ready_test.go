package api

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

const readyPods = `{"items":[
{"metadata":{"name":"kube-proxy-x","namespace":"kube-system","labels":{"k8s-app":"kube-proxy"}},"spec":{"nodeName":"node-1"},"status":{"conditions":[{"type":"Ready","status":"True"}]}},
{"metadata":{"name":"kube-flannel-ds-x","namespace":"kube-flannel","labels":{"k8s-app":"flannel"}},"spec":{"nodeName":"node-1"},"status":{"conditions":[{"type":"Ready","status":"True"}]}},
{"metadata":{"name":"coredns-x","namespace":"kube-system","labels":{"k8s-app":"kube-dns"}},"spec":{"nodeName":"node-1"},"status":{"conditions":[{"type":"Ready","status":"True"}]}}]}`

func TestMissing(t *testing.T) {
	apps := []string{"flannel", "kube-dns", "kube-proxy"}
	raw := `{"items":[
{"metadata":{"name":"kube-proxy-x","namespace":"kube-system","labels":{"k8s-app":"kube-proxy"}},"spec":{"nodeName":"node-1"},"status":{"phase":"Pending","containerStatuses":[{"name":"a","state":{"waiting":{"reason":"ErrImagePull","message":"no such host"}}}]}},
{"metadata":{"name":"kube-proxy-y","namespace":"kube-system","labels":{"k8s-app":"kube-proxy"}},"spec":{"nodeName":"node-2"},"status":{"phase":"Pending"}},
{"metadata":{"name":"coredns-a","namespace":"kube-system","labels":{"k8s-app":"kube-dns"}},"status":{"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"0/1 nodes are available"}]}},
{"metadata":{"name":"coredns-b","namespace":"kube-system","labels":{"k8s-app":"kube-dns"}},"spec":{"nodeName":"node-1"},"status":{"phase":"Running","containerStatuses":[{"name":"a","state":{"terminated":{"reason":"Error","exitCode":2}}}]}},
{"metadata":{"name":"coredns-c","namespace":"kube-system","labels":{"k8s-app":"kube-dns"}},"spec":{"nodeName":"node-1"},"status":{"phase":"Running"}}]}`
	var l podList
	if err := json.Unmarshal([]byte(raw), &l); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"flannel: no pod yet",
		"pod kube-system/coredns-a: Unschedulable: 0/1 nodes are available",
		"pod kube-system/coredns-b: Error, exit code 2",
		"pod kube-system/coredns-c: running, not ready",
		"pod kube-system/kube-proxy-x: ErrImagePull: no such host",
	}
	if got := l.missing("node-1", apps); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if err := json.Unmarshal([]byte(readyPods), &l); err != nil {
		t.Fatal(err)
	}
	if got := l.missing("node-1", apps); len(got) != 0 {
		t.Errorf("ready: got %q", got)
	}
	if got := (nodeObject{}).missing("node-1"); len(got) != 1 || got[0] != "node node-1: kubelet has not reported yet" {
		t.Errorf("node: got %q", got)
	}
}
