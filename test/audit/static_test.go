package audit

import (
	"testing"

	"slipway.dev/slipway/bundle/deb"
	"slipway.dev/slipway/images/audit"
)

// TestRootIsWhole: nothing in the root lacks what it needs, on any architecture.
func TestRootIsWhole(t *testing.T) {
	p, l := project(t)
	for _, a := range p.Bundle.Spec.Architectures {
		t.Run(a.String(), func(t *testing.T) {
			r := assemble(t, p, l, a)
			found, err := audit.Check(r.tree, audit.Want{Arch: a, Packages: r.packages})
			if err != nil {
				t.Fatal(err)
			}
			rest, unused := audit.Review(found, audit.Known())
			for _, f := range rest {
				t.Error(f)
			}
			for _, e := range unused {
				t.Logf("nothing needs the exception %+v", e)
			}
			t.Logf("%d packages, %d entries: %d findings, %d of them reviewed", len(r.packages), r.tree.Len(), len(found), len(found)-len(rest))
		})
	}
}

// TestScriptsAreReviewed: somebody has read every maintainer script that is not run.
func TestScriptsAreReviewed(t *testing.T) {
	p, l := project(t)
	for _, a := range p.Bundle.Spec.Architectures {
		for _, name := range deb.Unreviewed(assemble(t, p, l, a).scripts) {
			t.Errorf("%s: package %q: nobody has read its maintainer scripts (bundle/deb/fixups_table.go)", a, name)
		}
	}
}
