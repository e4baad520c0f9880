package scenario

import (
	"net/http"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
	"slipway.dev/slipway/test/qemu/qemutest"
)

// TestNetbootFromAnyServer starts kernel and initramfs of the netboot directory without
// any medium. An ordinary web server on the segment serves the packed content
// and the config; it goes away while blobs are fetched, and comes back once the
// node has noticed. TestSeed goes on from there to a cluster.
func TestNetbootFromAnyServer(t *testing.T) {
	l := newLogin(t)
	out := packed(t)
	dir := filepath.Join(out, built(t, out).Netboot)
	seg, port := network(t)
	web := qemutest.Host(t, seg, "web", netip.MustParseAddr("10.77.0.80"))
	ln, err := web.Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/bundle/", http.StripPrefix("/bundle/", http.FileServer(http.Dir(dir))))
	for name, body := range l.cidata("node-1") {
		mux.HandleFunc("/config/"+name, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })
	}
	var away atomic.Bool
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			panic(http.ErrAbortHandler)
		}
		mux.ServeHTTP(w, r)
	})}
	go func() { _ = srv.Serve(ln) }()
	defer srv.Close()
	args := boot.Cmdline{Consoles: []string{"tty0", "ttyS0"}, Store: "http://10.77.0.80/bundle", Extra: []string{"quiet", steady, "ds=nocloud;s=http://10.77.0.80/config/"}}
	vm := start(t, qemu.Machine{Memory: 6144, Boot: qemu.Kernel(filepath.Join(dir, boot.Kernel), filepath.Join(dir, boot.Initramfs), args.String()), NICs: []*lan.Port{port}})
	ctx := limit(t, 40*time.Minute)
	if _, err := vm.Wait(ctx, done("network")); err != nil {
		t.Fatal(err)
	}
	away.Store(true)
	if _, err := vm.Wait(ctx, func(e handoff.Event) bool { return e.Phase == "medium" && e.Step == "wait" }); err != nil {
		t.Fatal(err)
	}
	away.Store(false)
	if _, err := vm.Wait(ctx, done("services")); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", table(vm.Console.Events()))
	for _, e := range vm.Console.Events() {
		if e.Phase == "medium" && e.State == handoff.Done {
			t.Log(e.Text)
		}
	}
}
