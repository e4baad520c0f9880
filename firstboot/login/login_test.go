package login

import "testing"

func TestText(t *testing.T) {
	for _, c := range []struct {
		names   []string
		program bool
		want    string
	}{
		{nil, true, "off: give a user hashed_passwd and lock_passwd: false"},
		{nil, false, "off: give a user hashed_passwd and lock_passwd: false"},
		{[]string{"ada"}, false, "off: the bundle has no package login"},
		{[]string{"root", "ada"}, true, "press Enter (root, ada)"},
	} {
		if got := Text(c.names, c.program); got != c.want {
			t.Errorf("%q, %v: got %q, want %q", c.names, c.program, got, c.want)
		}
	}
}
