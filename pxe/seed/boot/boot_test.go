package boot

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/medium"
	"slipway.dev/slipway/pxe"
)

var key = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

// loaders are the network loaders of a sample medium.
var loaders = map[arch.Arch][]string{
	arch.AMD64: {"undionly.kpxe", "shimx64.efi", "mmx64.efi", "grubx64.efi"},
	arch.ARM64: {"shimaa64.efi", "mmaa64.efi", "grubaa64.efi"},
}

// sample writes a netboot directory beside a file that nobody may have, and
// returns it. change may alter the blobs before they are signed.
func sample(t testing.TB, a arch.Arch, change func(map[string]string)) string {
	t.Helper()
	texts := map[string]string{"boot/vmlinuz": strings.Repeat("kernel "+string(a), 1000), "boot/initrd.img": "initramfs " + string(a),
		"netboot/cmdline": "console=tty0 console=" + a.Console() + " quiet\n", "system.erofs": "the system", "layers/one": "a layer", "layers/same": "a layer"}
	for _, l := range loaders[a] {
		texts["netboot/"+l] = "loader " + l
	}
	if change != nil {
		change(texts)
	}
	m := &lock.Manifest{Format: lock.ManifestFormat, Name: "t", Serial: 7, Arch: a, Built: time.Unix(1e9, 0).UTC(), Kubernetes: "v1.37.1"}
	dir := filepath.Join(t.TempDir(), "netboot")
	put := func(name, text string) {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range texts {
		b := lock.Blob{Name: name, Role: lock.RoleLayer, Size: int64(len(text)), SHA256: lock.SumBytes([]byte(text)), Chunks: []lock.Digest{lock.SumBytes([]byte(text))}}
		switch {
		case name == "boot/vmlinuz":
			b.Role = lock.RoleKernel
		case name == "boot/initrd.img":
			b.Role = lock.RoleInitramfs
		case name == "system.erofs":
			b.Role = lock.RoleSystem
		case strings.HasPrefix(name, "netboot/"):
			b.Role = lock.RoleLoader
		}
		m.Blobs = append(m.Blobs, b)
		put(medium.Path(b), text)
	}
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	put(layout.Manifest, string(raw))
	put(layout.Signature, string(lock.Sign(key, raw)))
	put(layout.Seed+"/user-data", secret)
	put("../secret", secret)
	put("secret", secret)
	return dir
}

// TestMediaOfOneBundle: what is served together was built together.
func TestMediaOfOneBundle(t *testing.T) {
	for want, change := range map[string]func(*lock.Manifest){
		"": func(*lock.Manifest) {},
		`"t" serial 7 with Kubernetes v1.37.1 for amd64 and "other" serial 7 with Kubernetes v1.37.1 for arm64`: func(m *lock.Manifest) { m.Name = "other" },
		`serial 8 with`:      func(m *lock.Manifest) { m.Serial = 8 },
		"Kubernetes v1.36.4": func(m *lock.Manifest) { m.Kubernetes = "v1.36.4" },
	} {
		second := open(t, sample(t, arch.ARM64, nil))
		man := *second.Manifest
		change(&man)
		raw, err := man.Encode()
		if err != nil {
			t.Fatal(err)
		}
		dir := sample(t, arch.ARM64, nil)
		if err := os.WriteFile(filepath.Join(dir, layout.Manifest), raw, 0o644); err != nil {
			t.Fatal(err)
		}
		m, err := medium.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		_, err = New(t.Context(), []Medium{open(t, sample(t, arch.AMD64, nil)), {m, &man}}, options)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), "media of different bundles: ") || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

const secret = "nobody may read this"

func open(t testing.TB, dir string) Medium {
	t.Helper()
	m, err := medium.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	man, err := m.Manifest(key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return Medium{m, man}
}

var options = Options{HTTP: netip.MustParseAddrPort("10.0.0.1:8080"), Seed: "https://10.0.0.1:8443", Pin: strings.Repeat("ab", 32), Extra: []string{"ds=nocloud;s=http://10.0.0.9/"}}

func both(t testing.TB) *Boot {
	t.Helper()
	b, err := New(t.Context(), []Medium{open(t, sample(t, arch.ARM64, nil)), open(t, sample(t, arch.AMD64, nil))}, options)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDecide(t *testing.T) {
	b := both(t)
	for _, c := range []struct {
		m         pxe.Machine
		file, url string
	}{
		{pxe.Machine{Arch: arch.AMD64, Firmware: pxe.BIOS, Class: "PXEClient:Arch:00000"}, "undionly.kpxe", ""},
		{pxe.Machine{Arch: arch.AMD64, Firmware: pxe.BIOS, Class: "PXEClient", IPXE: true}, "", "http://10.0.0.1:8080/amd64/boot.ipxe"},
		{pxe.Machine{Arch: arch.AMD64, Firmware: pxe.UEFI, Class: "PXEClient:Arch:00007"}, "shimx64.efi", ""},
		{pxe.Machine{Arch: arch.AMD64, Firmware: pxe.UEFI, Class: "PXEClient", IPXE: true}, "", "http://10.0.0.1:8080/amd64/boot.ipxe"},
		{pxe.Machine{Arch: arch.AMD64, Firmware: pxe.UEFIHTTP, Class: "HTTPClient:Arch:00016"}, "", "http://10.0.0.1:8080/shimx64.efi"},
		{pxe.Machine{Arch: arch.ARM64, Firmware: pxe.UEFI, Class: "PXEClient:Arch:00011"}, "shimaa64.efi", ""},
		{pxe.Machine{Arch: arch.ARM64, Firmware: pxe.UEFIHTTP, Class: "HTTPClient:Arch:00019"}, "", "http://10.0.0.1:8080/shimaa64.efi"},
		{pxe.Machine{Arch: arch.ARM64, Firmware: pxe.UEFI, Class: "PXEClient", IPXE: true}, "", "http://10.0.0.1:8080/arm64/boot.ipxe"},
		{pxe.Machine{}, "", ""}, // an ordinary DHCP client
	} {
		got := b.Decide(c.m)
		if got != (pxe.Boot{File: c.file, URL: c.url}) {
			t.Errorf("%s: got %+v", c.m, got)
		}
		if _, _, ok := b.TFTP()(got.File); got.File != "" && !ok {
			t.Errorf("%s: %q is not served by TFTP", c.m, got.File)
		}
		if _, ok := b.HTTP()(strings.TrimPrefix(got.URL, "http://10.0.0.1:8080/")); got.URL != "" && !ok {
			t.Errorf("%s: %q is not served by HTTP", c.m, got.URL)
		}
	}
	one, err := New(t.Context(), []Medium{open(t, sample(t, arch.AMD64, nil))}, options)
	if err != nil {
		t.Fatal(err)
	}
	got := one.Decide(pxe.Machine{Arch: arch.ARM64, Firmware: pxe.UEFI, Class: "PXEClient"})
	if want := "no medium for arm64 is served, only for [amd64]"; !got.Ignore || got.Reason != want {
		t.Errorf("got %+v, want to ignore: %s", got, want)
	}
}

func content(t *testing.T, b *Boot, name string) string {
	t.Helper()
	c, ok := b.HTTP()(name)
	if !ok {
		t.Fatalf("%q is not served", name)
	}
	raw, err := io.ReadAll(io.NewSectionReader(c.Reader, 0, c.Size))
	if err != nil {
		t.Fatal(err)
	}
	if c.Digest != "sha256:"+string(lock.SumBytes(raw)) {
		t.Errorf("%q: the ETag %q is not of its content", name, c.Digest)
	}
	return string(raw)
}

func TestServed(t *testing.T) {
	b := both(t)
	for name, want := range map[string]string{
		"amd64/boot/vmlinuz": strings.Repeat("kernel amd64", 1000), "arm64/boot/initrd.img": "initramfs arm64",
		"shimaa64.efi": "loader shimaa64.efi", "amd64/slipway/netboot/grubx64.efi": "loader grubx64.efi",
		"amd64/" + layout.Blobs + "/" + string(lock.SumBytes([]byte("the system"))): "the system",
	} {
		if got := content(t, b, name); got != want {
			t.Errorf("%s: got %.60q", name, got)
		}
	}
	for _, name := range b.Names() {
		content(t, b, name)
		_, _, tftp := b.TFTP()(name)
		if k := b.Kind(name); k == "" || tftp == (k == Blob || k == Manifest) {
			t.Errorf("%s: a %q, TFTP %v", name, k, tftp)
		}
		if strings.Contains(name, "nocloud") || strings.Contains(name, "secret") {
			t.Errorf("%s is served", name)
		}
	}
	if _, err := lock.Open(key.Public().(ed25519.PublicKey), []byte(content(t, b, "amd64/"+layout.Manifest)), []byte(content(t, b, "amd64/"+layout.Signature))); err != nil {
		t.Error(err)
	}
}

// TestScripts: the texts hold the whole command line, and are the same for
// whoever asks.
func TestScripts(t *testing.T) {
	b := both(t)
	line := "console=tty0 console=%s slipway.store=http://10.0.0.1:8080/%s slipway.seed=https://10.0.0.1:8443 slipway.pin=" + options.Pin + " quiet ds=nocloud;s=http://10.0.0.9/"
	amd := fmt.Sprintf(line, "ttyS0", "amd64")
	arm := fmt.Sprintf(line, "ttyAMA0", "arm64")
	quotes := func(s string) string { return "'" + strings.ReplaceAll(s, " ", "' '") + "'" }
	for name, want := range map[string][]string{
		"amd64/boot.ipxe": {"#!ipxe\n", "\nkernel --name vmlinuz http://10.0.0.1:8080/amd64/boot/vmlinuz initrd=initrd.img " + amd + " || goto failed\n", "\ninitrd --name initrd.img http://10.0.0.1:8080/amd64/boot/initrd.img ||"},
		"arm64/boot.ipxe": {"http://10.0.0.1:8080/arm64/boot/vmlinuz initrd=initrd.img " + arm + " ||"},
		"boot.ipxe":       {"#!ipxe\n", "http://10.0.0.1:8080/amd64/boot.ipxe", "http://10.0.0.1:8080/arm64/boot.ipxe"},
		"grub/grub.cfg": {"set web=\"(http,10.0.0.1:8080)\"\n", "set tftp=\"(tftp,10.0.0.1)\"\n", "linux $from/amd64/boot/vmlinuz " + quotes(amd) + "; then", "linux $from/arm64/boot/vmlinuz " + quotes(arm) + "; then",
			`"$grub_cpu" = "x86_64"`, `"$grub_cpu" = "arm64"`},
	} {
		got := content(t, b, name)
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s lacks %q:\n%s", name, w, got)
			}
		}
	}
	o := options
	o.HTTP, o.Consoles = netip.MustParseAddrPort("10.0.0.1:80"), []string{"ttyS1"}
	at80, err := New(t.Context(), []Medium{open(t, sample(t, arch.AMD64, nil))}, o)
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, at80, "grub/grub.cfg"); !strings.Contains(got, "(http,10.0.0.1)") || !strings.Contains(got, "linux $from/amd64/boot/vmlinuz 'console=ttyS1' 'slipway.store=http://10.0.0.1/amd64'") {
		t.Errorf("at port 80:\n%s", got)
	}
}

func TestRefuses(t *testing.T) {
	with := func(change func(*Options)) Options { o := options; change(&o); return o }
	amd := func(change func(map[string]string)) []Medium { return []Medium{open(t, sample(t, arch.AMD64, change))} }
	damaged := func(name string, raw string) []Medium {
		dir := sample(t, arch.AMD64, nil)
		m := open(t, dir)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(raw), 0o644); err != nil {
			t.Fatal(err)
		}
		return []Medium{m}
	}
	system := layout.Blobs + "/" + string(lock.SumBytes([]byte("the system")))
	for _, c := range []struct {
		media []Medium
		o     Options
		want  string
	}{
		{nil, options, "no medium to serve"},
		{append(amd(nil), amd(nil)...), options, "two media for amd64: serve one of them"},
		{amd(func(m map[string]string) { delete(m, "netboot/shimx64.efi") }), options, "the manifest names no slipway/netboot/shimx64.efi: build the bundle again"},
		{amd(func(m map[string]string) { delete(m, "netboot/cmdline") }), options, "the manifest names no slipway/netboot/cmdline"},
		{amd(func(m map[string]string) { delete(m, "boot/vmlinuz") }), options, "the manifest names no boot/vmlinuz"},
		{amd(func(m map[string]string) { m["netboot/cmdline"] = "slipway.typo=1" }), options, "slipway/netboot/cmdline: kernel argument \"slipway.typo=1\": unknown"},
		{amd(func(m map[string]string) { m["netboot/cmdline"] = "a=$(reboot)" }), options, "no loader script can hold the character '$'"},
		{damaged("boot/vmlinuz", strings.Repeat("Kernel amd64", 1000)), options, `blob "boot/vmlinuz": `},
		{damaged("boot/initrd.img", "short"), options, `blob "boot/initrd.img": `},
		{damaged("slipway/netboot/shimx64.efi", "loader SHIMx64.efi"), options, `blob "netboot/shimx64.efi": `},
		{damaged(system, "short"), options, `blob "system.erofs": `},
		{damaged(layout.Manifest, "{}"), options, "the manifest on the medium is not the one that was verified"},
		{amd(nil), with(func(o *Options) { o.HTTP = netip.AddrPort{} }), "want an IPv4 address and a port"},
		{amd(nil), with(func(o *Options) { o.Seed = "http://10.0.0.1" }), "want an https URL"},
		{amd(nil), with(func(o *Options) { o.Extra = []string{"a", "&&", "reboot"} }), `kernel argument "&&": means something else`},
		{amd(nil), with(func(o *Options) { o.Extra = []string{"a='b'"} }), "no loader script can hold"},
		{amd(nil), with(func(o *Options) { o.Extra = []string{strings.Repeat("x", 1900)} }), "want at most 1900"},
	} {
		_, err := New(t.Context(), c.media, c.o)
		if c.want == "" {
			if err != nil {
				t.Errorf("got %v, want none", err)
			}
		} else if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
	}
}

// TestMemory: what was verified is what is served, whatever the medium does later.
func TestMemory(t *testing.T) {
	dir := sample(t, arch.AMD64, nil)
	var last, all int64
	o := options
	o.Progress = func(done, total int64) { last, all = done, total }
	b, err := New(t.Context(), []Medium{open(t, dir)}, o)
	if err != nil {
		t.Fatal(err)
	}
	if last != all || all == 0 {
		t.Errorf("progress ended at %d of %d", last, all)
	}
	for _, n := range []string{"boot/vmlinuz", "slipway/netboot/shimx64.efi"} {
		f, err := os.OpenFile(filepath.Join(dir, n), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(bytes.Repeat([]byte("evil"), 4)); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if got := content(t, b, "amd64/"+n); strings.Contains(got, "evil") {
			t.Errorf("%s changed after it was verified", n)
		}
	}
}
