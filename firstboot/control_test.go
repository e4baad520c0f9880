package firstboot

import (
	"strings"
	"testing"
	"time"
)

func TestParseUpgrade(t *testing.T) {
	for _, c := range []struct {
		args []string
		want wanted
		err  string
	}{
		{nil, wanted{limit: trialLimit}, ""},
		{[]string{"http://10.0.0.1/slipway"}, wanted{source: "http://10.0.0.1/slipway", limit: trialLimit}, ""},
		{[]string{"http://10.0.0.1/slipway", "--limit", "5m"}, wanted{source: "http://10.0.0.1/slipway", limit: 5 * time.Minute}, ""},
		{[]string{"--limit=5m"}, wanted{limit: 5 * time.Minute}, ""},
		{[]string{"--limit", "5s"}, wanted{}, "want a minute at least"},
		{[]string{"/dev/sdb"}, wanted{}, "want a URL, or nothing"},
		{[]string{"a", "b"}, wanted{}, `"b": one source at most`},
		{[]string{"--now"}, wanted{}, "usage: slipway upgrade"},
	} {
		got, err := parseUpgrade(c.args)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: %v, want %q", c.args, err, c.err)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("%q: %+v, %v", c.args, got, err)
		}
	}
}
