package qemutest_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/test/qemu/lan"
	"slipway.dev/slipway/test/qemu/qemutest"
)

// recorder is a test that keeps its complaints and runs its clean-up on demand.
type recorder struct {
	testing.TB
	cleanup []func()
	errors  []string
}

func (r *recorder) Cleanup(f func()) { r.cleanup = append(r.cleanup, f) }
func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}
func (r *recorder) Failed() bool { return len(r.errors) > 0 }

// A machine that pings a public address fails the test that started it.
func TestViolationFailsTheTest(t *testing.T) {
	r := &recorder{TB: t}
	s := qemutest.LAN(r, lan.Options{})
	p := qemutest.Port(r, s, "cp-1")
	conn, err := net.Dial("unix", p.SocketPath())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	frame := make([]byte, 34)
	frame[12], frame[14], frame[23] = 8, 0x45, 1
	copy(frame[6:], p.MAC)
	copy(frame[30:], []byte{8, 8, 8, 8})
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, 34), frame...)); err != nil {
		t.Fatal(err)
	}
	for p.Counters().InFrames == 0 {
		time.Sleep(time.Millisecond)
	}
	for _, f := range r.cleanup {
		f()
	}
	got := strings.Join(r.errors, "\n")
	if len(r.errors) != 1 || !strings.Contains(got, `port "cp-1"`) || !strings.Contains(got, "8.8.8.8") {
		t.Errorf("got complaints %q, want one about 8.8.8.8", r.errors)
	}
}
