package scenario

import (
	"testing"

	"slipway.dev/slipway/configs/handoff"
)

// A user of TestReady's user-data and the yescrypt hash of its password.
const (
	adaPassword = "slip way!"
	adaHash     = `$y$j9T$0123456789abcdefghij./$d51UrjPrpaEI906tEu.NcdQ8/00fl4AR7huKUJQP73B`
)

// consoleLogin logs in on the serial console: not as root without a password,
// but as a user who has one. Events wait meanwhile and come after logout.
func (n *node) consoleLogin(t *testing.T) {
	c := n.vm.Console
	type step struct{ send, want string }
	do := func(steps ...step) {
		t.Helper()
		for _, s := range steps {
			c.Forget()
			if err := n.vm.Type(s.send); err != nil {
				t.Fatal(err)
			}
			if _, err := n.vm.WaitLine(n.ctx, s.want); err != nil {
				t.Fatal(err)
			}
		}
	}
	do(step{"\r", "node-1 login:"}, step{"root\r", "Password:"}, step{"\r", "Login incorrect"})
	if _, err := n.vm.WaitLine(n.ctx, "node-1 login:"); err != nil {
		t.Fatal(err)
	}
	do(step{"ada\r", "Password:"}, step{adaPassword + "\r", "$"}, step{"echo I am $(id -un) on $(tty)\r", "I am ada on /dev/ttyS0"},
		step{"cat /proc/self/cgroup\r", "0::/system/login-ttyS0"})
	before := len(c.Events())
	if _, err := n.r.Must(n.ctx, "kill", "-9", n.oldest(t, "chronyd")); err != nil {
		t.Fatal(err)
	}
	n.until(t, "chronyd runs again", func() error {
		_, err := n.r.Must(n.ctx, "pgrep", "-o", "-x", "chronyd")
		return err
	})
	do(step{"echo still $((1+1)) alone\r", "still 2 alone"})
	for _, e := range c.Events()[before:] {
		t.Errorf("an event between what ada sees: %+v", e)
	}
	if err := n.vm.Type("exit\r"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.vm.Wait(n.ctx, func(e handoff.Event) bool { return e.Step == "chronyd" && e.State == handoff.Done }); err != nil {
		t.Fatal(err)
	}
}
