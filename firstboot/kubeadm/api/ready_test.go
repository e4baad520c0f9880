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
	now := Start{BootID: "b-2", Runs: func(id string) bool { return id == "new" }}
	if got := l.missing("node-1", now, apps); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if err := json.Unmarshal([]byte(readyPods), &l); err != nil {
		t.Fatal(err)
	}
	if got := l.missing("node-1", now, apps); len(got) != 0 {
		t.Errorf("ready: got %q", got)
	}
	for _, c := range []struct{ status, want string }{
		{`{}`, "node node-1: kubelet has not reported yet"},
		{`{"nodeInfo":{"bootID":"b-1"},"conditions":[{"type":"Ready","status":"True"}]}`, "node node-1: kubelet has not reported since this start"},
		{`{"nodeInfo":{"bootID":"b-2"},"conditions":[{"type":"Ready","status":"False","reason":"KubeletNotReady","message":"no CNI"}]}`, "node node-1: KubeletNotReady: no CNI"},
		{`{"nodeInfo":{"bootID":"b-2"},"conditions":[{"type":"Ready","status":"True"}]}`, ""},
	} {
		var n nodeObject
		if err := json.Unmarshal([]byte(c.status), &n.Status); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(n.missing("node-1", now), "; "); got != c.want {
			t.Errorf("node %s: got %q, want %q", c.status, got, c.want)
		}
	}
}

// TestPodsOfTheStartBefore: what the API has of a pod outlives a restart.
func TestPodsOfTheStartBefore(t *testing.T) {
	now := Start{Runs: func(id string) bool { return id == "new" }}
	for _, c := range []struct{ node, id, want string }{
		{"node-1", "containerd://old", "pod n/p: not started again yet"},
		{"node-1", "containerd://new", ""},
		{"node-1", "", ""},
		{"node-2", "containerd://elsewhere", ""},
	} {
		raw := `{"items":[{"metadata":{"name":"p","namespace":"n","labels":{"k8s-app":"kube-dns"}},"spec":{"nodeName":"` + c.node +
			`"},"status":{"conditions":[{"type":"Ready","status":"True"}],"containerStatuses":[{"containerID":"` + c.id + `"}]}}]}`
		var l podList
		if err := json.Unmarshal([]byte(raw), &l); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(l.missing("node-1", now, []string{"kube-dns"}), "; "); got != c.want {
			t.Errorf("%+v: got %q", c, got)
		}
	}
}
