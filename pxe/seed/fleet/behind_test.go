package fleet

import (
	"strings"
	"testing"

	"slipway.dev/slipway/configs/handoff"
)

func hintOf(err error) string {
	if r, ok := err.(*handoff.Refusal); ok {
		return r.Hint
	}
	return ""
}

// TestAWorkerLeftBehind: what cannot be upgraded any more can be installed anew.
func TestAWorkerLeftBehind(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	kubelet := func(i int, version string) {
		s.kube.mu.Lock()
		defer s.kube.mu.Unlock()
		s.kube.nodes[i].Kubelet = version
	}
	hints := func() (out string) {
		p, err := s.Plan(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range p.Nodes {
			out += u.Name + " " + string(u.Step) + " " + u.Hint + "\n"
		}
		return out
	}
	const anew = "install it anew, when the control plane has v1.38.0: slipway reimage w1; the others by name: slipway upgrade REF..."
	kubelet(1, "v1.36.0")
	if got := hints(); got != "cp upgrade \nw1 refused "+anew+"\nw2 upgrade \n" {
		t.Error(got)
	}
	kubelet(0, "v1.36.0") // the control plane may not have it either
	if got := hints(); got != "cp refused \nw1 refused \nw2 refused \n" {
		t.Error(got)
	}
	if _, err := s.Upgrade(ctx, "w1"); codeOf(err) != codeSkew || strings.Contains(hintOf(err), "reimage") || !strings.Contains(err.Error(), "cp comes before w1, and may not have this bundle: ") {
		t.Errorf("%v: %s", err, hintOf(err))
	}
	kubelet(0, "v1.39.0")
	if _, err := s.Upgrade(ctx, "w1"); codeOf(err) != codeSkew || !strings.HasSuffix(hintOf(err), "; or install it anew with this one: slipway reimage w1") {
		t.Errorf("%v: %s", err, hintOf(err))
	}
	kubelet(0, "v1.37.0")
	if _, err := s.Upgrade(ctx, "cp"); err != nil {
		t.Fatal(err)
	}
	var o handoff.Order
	s.nodes[0].do("GET", handoff.PathOrder, nil, &o)
	s.nodes[0].do("POST", handoff.PathOrdered, handoff.Outcome{ID: o.ID, State: handoff.Done}, nil)
	kubelet(0, "v1.38.0")
	if _, err := s.Upgrade(ctx, "w1"); codeOf(err) != codeSkew || hintOf(err) != anew {
		t.Errorf("%v: %s", err, hintOf(err))
	}
}
