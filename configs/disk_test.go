package configs

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestSizeLimit(t *testing.T) {
	const gb, gib = 1000 * 1000 * 1000, 1 << 30
	for _, c := range []struct {
		limit SizeLimit
		fits  []int64
		not   []int64
	}{
		{">= 200GB", []int64{200 * gb, 200*gb + 1}, []int64{200*gb - 1, 0}},
		{">=200GiB", []int64{200 * gib}, []int64{200*gib - 1, 200 * gb}},
		{"> 0GB", []int64{1}, []int64{0}},
		{"< 2TB", []int64{0, 2000*gb - 1}, []int64{2000 * gb}},
		{"<= 1.5TiB", []int64{1536 * gib}, []int64{1536*gib + 1}},
		{"== 480GB", []int64{480103981056, 480 * gb}, []int64{500107862016, 470 * gb}},
		{"== 1.92TB", []int64{1920383410176}, []int64{2000398934016}},
		{"< 4096B", []int64{4095}, []int64{4096}},
		{"200GB", nil, []int64{200 * gb}},
	} {
		for _, n := range c.fits {
			if !c.limit.Fits(n) {
				t.Errorf("%q does not fit %d", c.limit, n)
			}
		}
		for _, n := range c.not {
			if c.limit.Fits(n) {
				t.Errorf("%q fits %d", c.limit, n)
			}
		}
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		glob Glob
		s    string
		want bool
	}{
		{"S4*", "S4EVNX0N", true}, {"s4*", "S4EVNX0N", true}, {"S4", "S4EVNX0N", false}, {"*0N", "S4EVNX0N", true}, {"S?EV*", "S4EVNX0N", true},
		{"*", "", true}, {"?", "", false}, {"a.c", "abc", false}, {"[ab]", "a", false}, {"a/*", "a/b/c", true}, {"(a", "(a", true},
	} {
		if got := c.glob.Match(c.s); got != c.want {
			t.Errorf("%q, %q: %v", c.glob, c.s, got)
		}
	}
}

// What a rule is written as is read back the same: the seed hands it on.
func TestDiskRulesTravel(t *testing.T) {
	for _, text := range []string{`"/dev/vda"`, `{"size":">= 1GB","type":"ssd"}`, `[{"size":[">= 1GB","< 2GB"]},{"serial":"S4*"}]`} {
		var first, second DiskRules
		if err := json.Unmarshal([]byte(text), &first); err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(first)
		if err == nil {
			err = json.Unmarshal(b, &second)
		}
		if err != nil || len(first) == 0 || !reflect.DeepEqual(first, second) {
			t.Errorf("%s: %v, %v, %v", text, first, second, err)
		}
	}
}
