// Package scenario proves slipway on virtual machines: real firmware, a real
// kernel, an unmodified kubeadm. It holds tests only.
//
// It does not build the ISO it boots; `make test` does and says where it is.
package scenario

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
	"slipway.dev/slipway/test/qemu/qemutest"
)

var (
	out = flag.String("out", "", "directory with the bundles plain, packed and both, built")
	all = flag.Bool("all", false, "also the scenarios that take many minutes")
)

// limit is how long a scenario may take to reach an event. It is no
// expectation: a quiet machine needs a tenth of it.
func limit(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	d, err := qemu.Patience(d, os.Getenv("SLIPWAY_PATIENCE"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// iso is the ISO under test.
func iso(t testing.TB) string {
	dir := filepath.Join(*out, "plain")
	return filepath.Join(dir, built(t, dir).ISO.Path)
}

// packed is the directory with the same bundle built with zstd.
func packed(t testing.TB) string {
	if *out == "" {
		t.Skip(noISO)
	}
	return filepath.Join(*out, "packed")
}

const noISO = "no ISO given: run `make test`, or after it add -args -out DIR"

// record is what `slipway build` says of its results, paths relative to dir.
type record struct {
	ISO struct {
		Path string `json:"path"`
	} `json:"iso"`
	Netboot string `json:"netboot"`
}

func built(t testing.TB, dir string) record {
	t.Helper()
	return builtFor(t, dir, arch.AMD64)
}

func builtFor(t testing.TB, dir string, a arch.Arch) record {
	t.Helper()
	if *out == "" {
		t.Skip(noISO)
	}
	raw, err := os.ReadFile(filepath.Join(dir, ".built-"+string(a)+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var b record
	if err := json.Unmarshal(raw, &b); err != nil {
		t.Fatal(err)
	}
	return b
}

// steady is kernel arguments that `make test` gives the ISOs it boots. For the
// first see start. The second leaves out the check whether the timer's interrupt
// arrives within ten ticks (arch/x86/kernel/apic/io_apic.c, timer_irq_works): a
// busy host does not run the emulator for so long, and the kernel stops with
// "IO-APIC + timer doesn't work!". The kernel leaves it out by itself on KVM.
const steady = "tsc=reliable no_timer_check"

// login is a key pair that opens one machine.
type login struct {
	signer ssh.Signer
	public string
}

func newLogin(t testing.TB) login {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return login{s, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.PublicKey())))}
}

// cidata is a config volume for one schedulable control plane.
func (l login) cidata(hostname string) map[string][]byte {
	return map[string][]byte{
		"user-data": fmt.Appendf(nil, "#cloud-config\nhostname: %s\nssh_authorized_keys:\n  - %s\nslipway:\n  role: control-plane\n", hostname, l.public),
		"meta-data": []byte("instance-id: test\n"),
	}
}

// network is a segment with DHCP and DNS whose router forwards nothing, and a
// port for one machine. Any attempt to leave it fails the test.
func network(t testing.TB) (*lan.Switch, *lan.Port) {
	t.Helper()
	seg := qemutest.LAN(t, lan.Options{Subnet: netip.MustParsePrefix("10.77.0.0/24"), Domains: []string{"cluster.local", "local"}})
	qemutest.Gateway(t, seg, lan.DHCP{})
	return seg, qemutest.Port(t, seg, "node-1")
}

// start starts a machine and waits until it has read its config.
//
// It starts it again, at most twice, when the emulator's fault of
// qemu.Console.Stale stopped the kernel before. The patch that met it most, in one
// of about fifteen boots on a quiet host, is the switch from a stable to an
// unstable TSC in the first seconds; with tsc=reliable there is none. Any other
// end is a failure. Later than this, test/run does the whole test once more.
func start(t testing.TB, m qemu.Machine) *qemu.VM {
	t.Helper()
	for try := 1; ; try++ {
		vm := qemutest.Start(t, m)
		_, err := vm.Wait(limit(t, 20*time.Minute), done("config"))
		if err == nil {
			return vm
		}
		var p *qemu.PanicError
		if !errors.As(err, &p) || vm.Console.Stale() == "" || try == 3 {
			t.Fatal(err)
		}
		t.Logf("boot %d ended in the emulator's int3: starting again", try)
		vm.Close()
	}
}

func done(phase string) func(handoff.Event) bool {
	return func(e handoff.Event) bool { return e.Phase == phase && e.Step == "" && e.State == handoff.Done }
}

func failed(code string) func(handoff.Event) bool {
	return func(e handoff.Event) bool { return e.State == handoff.Failed && e.Code == code }
}
