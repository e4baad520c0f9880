package kube

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/test/kubeapi"
)

// put makes a pod on node w1 that runs and is ready.
func (s *site) put(t *testing.T, name string, alter func(meta, spec map[string]any)) {
	t.Helper()
	meta := map[string]any{"name": name, "labels": map[string]string{"app": name}}
	spec := map[string]any{"nodeName": "w1", "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
		"containers": []map[string]any{{"name": "c", "image": "x"}}}
	if alter != nil {
		alter(meta, spec)
	}
	p := map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
	if code := s.Do(t, http.MethodPost, "/api/v1/namespaces/default/pods", "", p, nil); code != http.StatusCreated {
		t.Fatalf("%s: %d", name, code)
	}
	p["status"] = map[string]any{"phase": "Running", "conditions": []map[string]string{{"type": "Ready", "status": "True"}}}
	if code := s.Do(t, http.MethodPut, "/api/v1/namespaces/default/pods/"+name+"/status", "", p, nil); code != http.StatusOK {
		t.Fatalf("%s: %d", name, code)
	}
}

func owned(kind string) func(meta, spec map[string]any) {
	return func(meta, _ map[string]any) {
		meta["ownerReferences"] = []map[string]any{{"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "u", "controller": true}}
	}
}

// budget allows n pods of an app to be evicted.
func (s *site) budget(t *testing.T, app string, n int) {
	t.Helper()
	const path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
	var b map[string]any
	if s.Do(t, http.MethodGet, path+"/"+app, "", nil, &b) == http.StatusNotFound {
		b = map[string]any{"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": map[string]any{"name": app},
			"spec": map[string]any{"minAvailable": 1, "selector": map[string]any{"matchLabels": map[string]string{"app": app}}}}
		if code := s.Do(t, http.MethodPost, path, "", b, &b); code != http.StatusCreated {
			t.Fatal(code)
		}
	}
	b["status"] = map[string]any{"observedGeneration": 1, "disruptionsAllowed": n, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}
	if code := s.Do(t, http.MethodPut, path+"/"+app+"/status", "", b, nil); code != http.StatusOK {
		t.Fatal(code)
	}
}

func TestDrain(t *testing.T) {
	s := &site{Server: kubeapi.Start(t)}
	s.Kubeadm(t)
	s.cluster = s.Cluster(t)
	k := New(slog.New(slog.DiscardHandler))
	k.evict = 50 * time.Millisecond
	s.Do(t, http.MethodPost, "/api/v1/namespaces/default/serviceaccounts", "", map[string]any{"metadata": map[string]string{"name": "default"}}, nil)
	s.node(t, "w1", "True", "well")
	s.node(t, "w2", "False", "gone")
	s.Do(t, http.MethodPost, "/api/v1/nodes", "", map[string]any{"metadata": map[string]any{"name": "cp", "labels": map[string]string{labelControlPlane: ""}}}, nil)
	nodes, err := k.Nodes(t.Context(), s.cluster)
	if err != nil || len(nodes) != 3 || !nodes[0].ControlPlane || nodes[0].Ready || !nodes[1].Ready || nodes[1].ControlPlane || nodes[2].Text != "Kubelet: gone" {
		t.Fatalf("%+v, %v", nodes, err)
	}
	s.put(t, "bare", nil)
	s.put(t, "web", func(meta, spec map[string]any) {
		owned("ReplicaSet")(meta, spec)
		spec["volumes"] = []map[string]any{{"name": "v", "emptyDir": map[string]any{}}}
	})
	s.put(t, "ds", owned("DaemonSet"))
	s.put(t, "mirror", func(meta, _ map[string]any) {
		meta["annotations"] = map[string]string{"kubernetes.io/config.mirror": "x"}
	})
	s.put(t, "db", owned("StatefulSet"))
	s.put(t, "elsewhere", func(_, spec map[string]any) { spec["nodeName"] = "w2" })
	s.budget(t, "db", 0)
	pods, err := k.Pods(t.Context(), s.cluster, "w1")
	if err != nil || len(pods) != 3 || pods[0] != (Pod{"default", "bare", false, true}) || pods[1] != (Pod{"default", "db", false, false}) || pods[2] != (Pod{"default", "web", true, false}) {
		t.Fatalf("%+v, %v", pods, err)
	}
	var said []string
	err = k.Drain(t.Context(), s.cluster, "w1", 300*time.Millisecond, func(line string) { said = append(said, line) })
	var standing *StandingError
	stays := func(p string) bool { // a slow API server may have others that are still ending
		return strings.HasPrefix(p, "default/db stays: Cannot evict pod as it would violate the pod's disruption budget")
	}
	if !errors.As(err, &standing) || !slices.ContainsFunc(standing.Pods, stays) {
		t.Fatalf("%v", err)
	}
	t.Log(err)
	if text := strings.Join(said, "\n"); strings.Count(text, "default/db stays") != 1 || !strings.Contains(text, "default/web is ending") || strings.Contains(text, "default/ds") || strings.Contains(text, "mirror") {
		t.Error(text)
	}
	if nodes, _ = k.Nodes(t.Context(), s.cluster); !nodes[1].Cordoned {
		t.Error("not cordoned")
	}
	ctx, stop := context.WithCancel(t.Context())
	if err := k.Drain(ctx, s.cluster, "w1", time.Hour, func(string) { stop() }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := k.Drain(t.Context(), s.cluster, "w1", time.Minute, func(string) { s.budget(t, "db", 1) }); err != nil {
		t.Error(err)
	}
	var left struct{ Items []pod }
	s.Do(t, http.MethodGet, pathPods, "", nil, &left)
	names := ""
	for _, p := range left.Items {
		names += p.Metadata.Name + " "
	}
	if names != "ds elsewhere mirror " {
		t.Errorf("left: %s", names)
	}
	if err := k.Cordon(t.Context(), s.cluster, "w1", false); err != nil {
		t.Error(err)
	}
	if nodes, _ = k.Nodes(t.Context(), s.cluster); nodes[1].Cordoned {
		t.Error("still cordoned")
	}
	for range 2 {
		if err := k.Delete(t.Context(), s.cluster, "w1"); err != nil {
			t.Error(err)
		}
	}
	if _, err := k.Nodes(t.Context(), s.Ended(t)); !errors.Is(err, seed.ErrCredentials) || !strings.Contains(seed.HintAPI(err), "restart the control plane") {
		t.Errorf("with a certificate that has ended: %v", err)
	}
	var refused *statusError
	if err := k.Drain(t.Context(), s.cluster, "w1", time.Second, nil); !errors.As(err, &refused) || refused.code != http.StatusNotFound {
		t.Error(err)
	}
}
