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
		"everything": {func(m *machine) {
			*m = machine{configs.RoleControlPlane, 1 << 30, 1, 1 << 30, 48 * time.Hour, []int{6443, 2379}}
		},
			"1 processor, a control plane needs 2\n1024 MiB of memory, a control-plane needs 1700\n1024 MiB free on the state volume, want 3072\n" +
				"the clock is 48h0m0s before the bundle was built\nport 6443 is in use\nport 2379 is in use"},
	} {
		t.Run(name, func(t *testing.T) {
			m := good
			c.change(&m)
			got := ""
			if err := m.problems(); err != nil {
				got = err.Error()
			}
			if strings.TrimSpace(got) != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
