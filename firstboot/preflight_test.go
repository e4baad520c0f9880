package firstboot

import (
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/configs"
)

func TestPreflightNamesAllProblemsAtOnce(t *testing.T) {
	good := machine{role: configs.RoleControlPlane, memory: 4 << 30, cpus: 2, state: -1, early: -time.Hour}
	for name, c := range map[string]struct {
		change func(*machine)
		want   string
	}{
		"good":              {func(*machine) {}, ""},
		"a small worker":    {func(m *machine) { m.role, m.memory, m.cpus = configs.RoleWorker, 1<<30, 1 }, ""},
		"a worker's memory": {func(m *machine) { m.role, m.memory = configs.RoleWorker, 512<<20 }, "512 MiB of memory, a worker needs 900"},
		"a member that has got small": {func(m *machine) { m.member, m.memory, m.cpus, m.state = true, 1<<30, 1, 1<<30 },
			"short of 1 processor, a control plane needs 2\n1024 MiB of memory, a control-plane needs 1700\n1024 MiB free on the state volume, want 3072"},
		"a member whose port is taken": {func(m *machine) { m.member, m.taken = true, []int{6443} }, "port 6443 is in use"},
		"everything": {func(m *machine) {
			*m = machine{configs.RoleControlPlane, false, 1 << 30, 1, 1 << 30, 48 * time.Hour, []int{6443, 2379}}
		},
			"1 processor, a control plane needs 2\n1024 MiB of memory, a control-plane needs 1700\n1024 MiB free on the state volume, want 3072\n" +
				"the clock is 48h0m0s before the bundle was built\nport 6443 is in use\nport 2379 is in use"},
	} {
		t.Run(name, func(t *testing.T) {
			m := good
			c.change(&m)
			got := ""
			stop, short := m.problems()
			if stop != nil {
				got = stop.Error()
			}
			if short != nil {
				got += "short of " + short.Error()
			}
			if strings.TrimSpace(got) != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
