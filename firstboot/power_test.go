package firstboot

import (
	"context"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs"
)

func TestPowerState(t *testing.T) {
	command := func(argv ...string) configs.Condition {
		return configs.Condition{Command: &configs.Command{Argv: argv}}
	}
	for name, c := range map[string]struct {
		p    configs.PowerState
		ends bool // the configuration does
		want Power
	}{
		"at once":              {configs.PowerState{Mode: "reboot"}, true, Reboot},
		"after the timeout":    {configs.PowerState{Mode: "halt", Timeout: 1}, false, Halt},
		"condition false":      {configs.PowerState{Mode: "poweroff", Condition: configs.Condition{Never: true}}, true, ""},
		"condition holds":      {configs.PowerState{Mode: "poweroff", Condition: command("/bin/true")}, true, Off},
		"condition fails":      {configs.PowerState{Mode: "poweroff", Condition: command("/bin/false")}, true, ""},
		"condition is no file": {configs.PowerState{Mode: "poweroff", Condition: command("/nowhere")}, true, ""},
		"delay":                {configs.PowerState{Mode: "poweroff", Delay: 1}, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			n := New(ctx)
			n.Meta = &configs.MetaData{}
			var got Power
			n.end = func(p Power) { got = p }
			done := make(chan struct{})
			if c.ends {
				close(done)
			}
			if c.p.Delay > 0 { // nobody waits a minute here
				time.AfterFunc(50*time.Millisecond, cancel)
			}
			n.powerState(ctx, c.p, done)
			cancel()
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestFinalMessage(t *testing.T) {
	n := &Node{source: "volume CIDATA on /dev/sdb", User: &configs.UserData{}}
	n.User.FinalMessage = "$uptime ${UPTIME} $datasource $DATASOURCE $other"
	if got, want := n.finalMessage(12.346), "12.35 12.35 volume CIDATA on /dev/sdb volume CIDATA on /dev/sdb $other"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	n.User.FinalMessage = "$version at $timestamp"
	if got := n.finalMessage(1); strings.Contains(got, "$") || !strings.Contains(got, "+0000") {
		t.Errorf("got %q", got)
	}
}
