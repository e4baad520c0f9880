package nbd

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestAgainstQEMU lets QEMU's client use disks that lie.
func TestAgainstQEMU(t *testing.T) {
	tool, err := exec.LookPath("qemu-io")
	if err != nil {
		t.Skipf("qemu-io is not installed (Debian package qemu-utils): %v", err)
	}
	at := func(kind Kind, n int, a Answer) func(Request) Answer {
		return func(q Request) Answer {
			if q.Kind == kind && q.N == n {
				return a
			}
			return Answer{}
		}
	}
	two := []string{"write -P 1 0 4k", "write -P 2 4k 4k", "flush"}
	for _, tt := range []struct {
		name   string
		answer func(Request) Answer
		do     []string
		want   string // of qemu-io, "" when all is well
	}{
		{"honest", nil, append(two, "read -P 1 0 4k", "read -P 2 4k 4k", "write -z 0 1k", "read -P 0 0 1k", "read -P 1 1k 3k", "discard 4k 4k", "read -P 0 4k 4k", "read -P 0 1020k 4k"), ""},
		{"drops the second write", at(Write, 1, Answer{Drop: true}), append(two, "read -P 1 0 4k", "read -P 0 4k 4k"), ""},
		{"drops the second write, seen", at(Write, 1, Answer{Drop: true}), append(two, "read -P 2 4k 4k"), "Pattern verification failed"},
		{"flips a bit", at(Write, 0, Answer{Flip: true}), append(two, "read -P 0 0 1", "read -P 1 1 4095"), ""},
		{"flips a bit of what is read", at(Read, 0, Answer{Flip: true}), append(two, "read -P 1 0 4k"), "Pattern verification failed"},
		{"fails", at(Write, 1, Answer{Errno: syscall.EIO}), two, "write failed: Input/output error"},
		{"is full", at(Write, 0, Answer{Errno: syscall.ENOSPC}), two, "write failed: No space left on device"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "nbd")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			f, err := os.Create(filepath.Join(dir, "disk.img"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			socket := filepath.Join(dir, "s")
			ln, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				done <- (&Disk{Storage: f, Size: 1 << 20, Answer: tt.answer}).Serve(ctx, ln)
			}()
			args := []string{"-t", "writeback", "--image-opts", "driver=nbd,server.type=unix,discard=unmap,server.path=" + socket}
			for _, c := range tt.do {
				args = append(args, "-c", c)
			}
			out, err := exec.Command(tool, args...).CombinedOutput()
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			bad := err != nil || strings.Contains(string(out), "failed")
			if bad != (tt.want != "") || !strings.Contains(string(out), tt.want) {
				t.Errorf("%v\n%s\nwant %q", err, out, tt.want)
			}
		})
	}
}

// TestGarbage: a client that does not speak NBD ends its own connection only
// with an error, and never crashes the server.
func TestGarbage(t *testing.T) {
	for _, garbage := range []string{"", "GET / HTTP/1.1\r\n\r\n0123456789", "\x00\x00\x00\x01IHAVEOPT\x00\x00\x00\x07\xff\xff\xff\xff"} {
		a, b := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- (&Disk{Size: 1}).serve(b); b.Close() }()
		a.Read(make([]byte, 18))
		a.Write([]byte(garbage))
		a.Close()
		if err := <-done; err == nil {
			t.Errorf("%q: no error", garbage)
		}
	}
}
