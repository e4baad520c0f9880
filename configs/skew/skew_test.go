package skew

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, tt := range []struct{ have, want, plane, bad string }{
		{"v1.37.1", "v1.37.1", "", ""},
		{"v1.37.1", "v1.37.4", "", ""},
		{"v1.37.9", "v1.38.0", "", ""},
		{"1.37.1", "v1.38.0", "", ""},
		{"v1.37.1-rc.1+k", "v1.37.1", "", ""},
		{"v1.37.1", "v1.39.0", "", "one minor at a time, v1.38 first"},
		{"v1.37.1", "v2.0.0", "", "one minor at a time"},
		{"v2.0.0", "v1.37.1", "", "it never goes back"},
		{"v1.38.0", "v1.37.9", "", "it never goes back"},
		{"v1.37.2", "v1.37.1", "", "it never goes back"},
		{"v1.9.1", "v1.10.0", "", ""}, // numbers, not text
		{"v1.37.1", "v1.38.0", "v1.38.0", ""},
		{"v1.37.1", "v1.38.0", "v1.38.1", ""},
		{"v1.37.1", "v1.38.0", "v1.37.1", "upgrade the control plane first"},
		{"v1.37.1", "v1.37.2", "v1.37.1", "upgrade the control plane first"},
		{"v1.34.1", "v1.35.0", "v1.38.0", ""},
		{"v1.33.1", "v1.34.0", "v1.38.0", "at most 3 minors between them"},
		{"", "v1.37.1", "", `the node's Kubernetes "": want a version like v1.37.1`},
		{"v1.37.1", "v1.37", "", `the bundle's Kubernetes "v1.37"`},
		{"v1.37.1", "v1.37.1.1", "", "want a version"},
		{"v1.37.1", "v1.+7.1", "", "want a version"},
		{"v1.37.1", "v1.-1.1", "", "want a version"},
		{"v1.37.1", "v1.99999.1", "", "want a version"},
		{"v1.37.1", "v1.37.1", "x", `the control plane's Kubernetes "x"`},
	} {
		verify(t, tt.have+" → "+tt.want+" at "+tt.plane, Check(tt.have, tt.want, tt.plane), tt.bad)
	}
}

func TestBehind(t *testing.T) {
	for _, tt := range []struct{ have, want, bad string }{
		{"v1.37.1", "v1.38.0", ""},
		{"v1.35.1", "v1.38.0", ""},
		{"v1.34.1", "v1.38.0", "upgrade the worker first"},
		{"x", "v1.38.0", "the worker's"},
		{"v1.37.1", "x", "the bundle's"},
	} {
		verify(t, tt.have+" under "+tt.want, Behind(tt.have, tt.want), tt.bad)
	}
}

func TestBundle(t *testing.T) {
	for _, tt := range []struct{ have, want, bad string }{
		{"site 3", "site 4", ""},
		{"site 4", "site 4", ""},
		{"site 9", "site 10", ""},
		{"site 4", "site 3", "the serial number never goes back"},
		{"site 4", "other 5", "another name"},
		{"site", "site 4", `bundle "site": want a name and a serial number`},
		{"site 4", "site x", `bundle "site x"`},
		{" 4", "site 4", `bundle " 4"`},
		{"", "site 4", `bundle ""`},
	} {
		verify(t, tt.have+" → "+tt.want, Bundle(tt.have, tt.want), tt.bad)
	}
}

func verify(t *testing.T, name string, err error, bad string) {
	t.Helper()
	if (err == nil) != (bad == "") || err != nil && !strings.Contains(err.Error(), bad) {
		t.Errorf("%s: got %v, want %q", name, err, bad)
	}
}
