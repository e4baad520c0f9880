package scenario

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/medium"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
	"slipway.dev/slipway/test/qemu/qemutest"
)

// release is a bundle that a web server on the segment offers to nodes: a netboot
// directory, with some files changed and signed again.
type release struct {
	dir      string
	manifest *lock.Manifest
	files    map[string][]byte // by their path, in place of those in dir
	moved    atomic.Int64      // bytes of blobs that were asked for
}

// newRelease is the bundle built in dir, with a serial of its own.
func newRelease(t *testing.T, name string, serial uint64) *release {
	t.Helper()
	dir := filepath.Join(*out, name)
	r := &release{dir: filepath.Join(dir, built(t, dir).Netboot), files: map[string][]byte{}, manifest: new(lock.Manifest)}
	raw, err := os.ReadFile(filepath.Join(r.dir, layout.Manifest))
	if err != nil {
		t.Fatal(err)
	}
	decode(t, string(raw), r.manifest)
	r.manifest.Serial = serial
	return r
}

// replace gives a blob other content.
func (r *release) replace(t *testing.T, role lock.Role, change func([]byte) []byte) {
	t.Helper()
	for i, b := range r.manifest.Blobs {
		if b.Role != role {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(r.dir, filepath.FromSlash(medium.Path(b))))
		if err != nil {
			t.Fatal(err)
		}
		raw = change(raw)
		sum, size, err := lock.Sum(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		chunks, err := lock.Chunks(bytes.NewReader(raw), size)
		if err != nil {
			t.Fatal(err)
		}
		b.SHA256, b.Size, b.Chunks = sum, size, chunks
		r.manifest.Blobs[i] = b
		r.files[medium.Path(b)] = raw
	}
}

// sign signs the manifest with the key that `make test` builds with.
func (r *release) sign(t *testing.T) {
	t.Helper()
	dir, err := os.UserConfigDir()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "slipway", "bundle.key"))
	if err != nil {
		t.Fatal(err)
	}
	seed, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := r.manifest.Encode()
	if err != nil {
		t.Fatal(err)
	}
	r.files[layout.Manifest], r.files[layout.Signature] = raw, lock.Sign(ed25519.NewKeyFromSeed(seed), raw)
}

func (r *release) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	name := strings.TrimPrefix(q.URL.Path, "/")
	if raw, ok := r.files[name]; ok {
		http.ServeContent(&counted{w, &r.moved}, q, name, time.Time{}, bytes.NewReader(raw))
		return
	}
	http.ServeFile(&counted{w, &r.moved}, q, filepath.Join(r.dir, filepath.FromSlash(name)))
}

// counted counts what is written; it hides sendfile, which would pass it by.
type counted struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// store is a web server on the segment whose content changes between upgrades.
type store struct {
	url string
	now atomic.Pointer[release]
}

func newStore(t *testing.T, seg *lan.Switch) *store {
	t.Helper()
	ln, err := qemutest.Host(t, seg, "store", netip.MustParseAddr("10.77.0.81")).Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	s := &store{url: "http://10.77.0.81"}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { s.now.Load().ServeHTTP(w, q) })}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	return s
}

// upgrading is a node on its own disk whose bundle is changed while it runs.
type upgrading struct {
	l     login
	vm    *qemu.VM
	seg   *lan.Switch
	store *store
	ca    string
}

// rollback is one way for a bundle not to be one.
type rollback struct {
	name   string
	change func(*testing.T, *release)
	then   string // on the node, when the upgrade is prepared
	limit  string
	panics bool
	code   string
	slow   bool
	asks   string // the domain that its node looks for
}

// rollbacks are the ways in which a bundle is none: the node ends with what it
// ran before, and says why.
func rollbacks() []rollback {
	return []rollback{
		{name: "the kernel panics", panics: true, code: "SW-UPGRADE-DIED", change: func(t *testing.T, r *release) {
			r.replace(t, lock.RoleInitramfs, func([]byte) []byte { return make([]byte, 1<<20) })
		}},
		{name: "init ends", slow: true, panics: true, code: "SW-UPGRADE-DIED", change: func(t *testing.T, r *release) {
			r.replace(t, lock.RoleInitramfs, func(old []byte) []byte { return append(old, otherInit(t, len(old))...) })
		}},
		{name: "content is damaged", slow: true, code: "SW-DISK-DIGEST", then: "dd if=/dev/zero of=%s bs=4096 seek=1000 count=1 conv=notrunc,fsync", change: func(t *testing.T, r *release) {
			r.replace(t, lock.RoleSystem, func(old []byte) []byte { return append(old, make([]byte, 4096)...) })
		}},
		{name: "never Ready", slow: true, asks: "registry.k8s.io", code: "SW-UPGRADE-LATE", limit: "3m", change: func(_ *testing.T, r *release) {
			r.manifest.Kubernetes += "9" // no image has that version
		}},
	}
}

// otherInit is a cpio archive that makes /init a program that ends at once,
// padded as the kernel wants what comes after an archive of size bytes.
func otherInit(t *testing.T, size int) []byte {
	t.Helper()
	var b bytes.Buffer
	b.Write(make([]byte, (4-size%4)%4))
	w := cpio.NewWriter(&b)
	to := "/" + layout.Mke2fs
	if err := w.WriteHeader(&cpio.Header{Name: "init", Mode: cpio.TypeSymlink | 0o777, Size: int64(len(to)), Linkname: to}); err != nil {
		t.Fatal(err)
	}
	_, err := io.WriteString(w, to)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// run asks for an upgrade on the node, from a URL or the medium that is plugged
// in, and returns when it starts the other slot.
func (u *upgrading) run(t *testing.T, source, limit, then string) {
	t.Helper()
	ctx := limitOf(t)
	r, err := u.vm.SSH(ctx, qemu.SSHOptions{Signer: u.l.signer})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	u.vm.Console.Forget()
	argv := "slipway upgrade " + source
	if limit != "" {
		argv += " --limit " + limit
	}
	if then != "" {
		argv += " && " + then
	}
	said, err := r.Must(ctx, "bash", "-c", argv)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s\n%s", argv, said)
}

// back waits until the node is Ready with slot and bundle as they were.
func (u *upgrading) back(t *testing.T, code string) {
	t.Helper()
	ctx := limitOf(t)
	e, err := u.vm.Wait(ctx, func(e handoff.Event) bool {
		return e.Phase == "upgrade" && e.Step == "" && e.State == handoff.Failed && strings.HasPrefix(e.Text, "rolled back")
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %s\n  next: %s", e.Code, e.Text, e.Hint)
	if e.Code != code || e.Hint == "" {
		t.Errorf("rolled back with code %s and hint %q, want %s", e.Code, e.Hint, code)
	}
	if _, err := u.vm.Wait(ctx, done("ready")); err != nil {
		t.Fatal(err)
	}
	u.runs(t, "example 1", "a")
	if again := caOf(t, u.vm, u.l); again != u.ca {
		t.Errorf("another cluster: CA %.12s, before %.12s", again, u.ca)
	}
}

// runs wants the newest start to run a bundle from a slot.
func (u *upgrading) runs(t *testing.T, bundle, slot string) {
	t.Helper()
	got := ""
	for _, e := range u.vm.Console.Events() {
		if done("medium")(e) {
			got = fmt.Sprintf("%v %v in slot %v", e.Data["bundle"], e.Data["serial"], e.Data["slot"])
		}
	}
	if want := bundle + " in slot " + slot; got != want {
		t.Errorf("the node runs %s, want %s", got, want)
	}
}

// test goes through failed upgrades to one that holds.
func (u *upgrading) test(t *testing.T) {
	for i, c := range rollbacks() {
		t.Run(c.name, func(t *testing.T) {
			if c.slow && !*all {
				t.Skip("skipped: one way back is enough here; make test-all goes all four")
			}
			rel := newRelease(t, "plain", uint64(100+i))
			c.change(t, rel)
			rel.sign(t)
			u.store.now.Store(rel)
			then := c.then
			if strings.Contains(then, "%s") {
				sys, err := rel.manifest.Find(lock.RoleSystem)
				if err != nil {
					t.Fatal(err)
				}
				then = fmt.Sprintf(then, "/run/slipway/store/slots/b/"+medium.Path(sys))
			}
			u.vm.Console.Tolerate = func(handoff.Event) bool { return true }
			if c.asks != "" {
				defer u.seg.ExpectName(c.asks)()
			}
			u.run(t, u.store.url, c.limit, then)
			if c.panics {
				line, err := u.vm.WaitLine(limitOf(t), "Kernel panic - not syncing")
				if err != nil {
					t.Fatal(err)
				}
				t.Log(line)
				u.vm.Console.Forget()
			}
			u.back(t, c.code)
			t.Logf("%.1f MB moved", float64(rel.moved.Load())/1e6)
		})
	}
	t.Run("to the next bundle", func(t *testing.T) {
		u.vm.Console.Tolerate = func(e handoff.Event) bool { return e.Phase == "services" }
		source := "" // the medium, which is there faster
		rel := newRelease(t, "next", 2)
		if *all {
			rel.sign(t)
			u.store.now.Store(rel)
			source = u.store.url
		}
		u.run(t, source, "", "")
		e, err := u.vm.Wait(limitOf(t), done("upgrade"))
		if err != nil {
			t.Fatal(err)
		}
		t.Log(e.Text)
		if *all {
			var total int64
			for _, b := range rel.manifest.Blobs {
				total += b.Size
			}
			moved := rel.moved.Load()
			t.Logf("%.1f MB of %.1f MB moved", float64(moved)/1e6, float64(total)/1e6)
			if moved > total/20 {
				t.Error("one package less, and more than a twentieth of the bundle moved")
			}
		}
		u.runs(t, "example 2", "b")
		if again := caOf(t, u.vm, u.l); again != u.ca {
			t.Errorf("another cluster: CA %.12s, before %.12s", again, u.ca)
		}
		u.vm.Console.Forget()
	})
}

func limitOf(t *testing.T) context.Context { return limit(t, 40*time.Minute) }
