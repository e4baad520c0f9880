package deb

import "testing"

func TestCompareVersions(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"1.0", "1.0", 0},
		{"1.0", "1.0-0", 0}, // a missing revision is revision 0 (policy 5.6.12)
		{"1.0~rc1", "1.0", -1},
		{"1.0~~", "1.0~", -1},
		{"1.0~", "1.0~~", 1},
		{"1.9", "1.10", -1},
		{"1:0.1", "2.0", 1},
		{"1.0a", "1.0+", -1}, // letters before the rest
		{"1.0", "1.0a", -1},
		{"13.8+deb13u1", "13.8", 1},
		{"13.8+deb13u2", "13.8+deb13u10", -1},
		{"2.41-12+deb13u4", "2.41-12", 1},
		{"1.0-1", "1.0-1+b1", -1},
		{"0:1.0", "1.0", 0},
		{"6.12.9-1", "6.12.117-1", -1},
		{"1.001", "1.1", 0},
		{"1.2.3-4-5", "1.2.3-4-4", 1}, // the last hyphen splits
	} {
		got, err := CompareVersions(c.a, c.b)
		if err != nil {
			t.Errorf("%q %q: %v", c.a, c.b, err)
		}
		back, _ := CompareVersions(c.b, c.a)
		if sign(got) != c.want || sign(back) != -c.want {
			t.Errorf("compare %q %q: got %d, reversed %d, want %d", c.a, c.b, got, back, c.want)
		}
	}
	for _, bad := range []string{"", "a", "1 2", "x:1", "-1:1", "1.0_1", "1:"} {
		if _, err := CompareVersions(bad, "1"); err == nil {
			t.Errorf("version %q: no error", bad)
		}
	}
}

func sign(n int) int {
	return min(1, max(-1, n))
}

func TestParseRelations(t *testing.T) {
	got, err := ParseRelations("a, b:any (>= 1) | c(<<2) ,\n d (= 1:2-3)")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a", "b:any (>= 1) | c (<< 2)", "d (= 1:2-3)"}
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if got[i].String() != want[i] {
			t.Errorf("group %d: got %q, want %q", i, got[i], want[i])
		}
	}
	for in, msg := range map[string]string{
		"a (>= 1":   `relation "a (>= 1": the version is not in parentheses`,
		"a (~ 1)":   `relation "a (~ 1)": operator ""`,
		"a (>= )":   `relation "a (>= )": version "": version string is empty`,
		"A":         `relation "A": package name "A" holds 'A'`,
		"a | | b":   `relation "" has no name`,
		"a [amd64]": `relation "a [amd64]": package name "a [amd64]" holds ' '`,
	} {
		if _, err := ParseRelations(in); err == nil || err.Error() != msg {
			t.Errorf("%q: got %v, want %s", in, err, msg)
		}
	}
}
