package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/store"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/boot"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/images/medium"
	"slipway.dev/slipway/pxe/web"
)

// early are the roles whose bytes run before anything on the machine can
// verify them.
func early(r lock.Role) (Kind, bool) {
	switch r {
	case lock.RoleLoader:
		return Loader, true
	case lock.RoleKernel:
		return Kernel, true
	case lock.RoleInitramfs:
		return Initramfs, true
	}
	return Blob, false
}

// maxEarly bounds what is kept in memory of one blob; Debian's kernel has 12 MB
// and the initramfs 40.
const maxEarly = 512 << 20

// total is how many bytes New reads.
func total(media []Medium) (n int64) {
	for _, m := range media {
		for _, b := range m.Manifest.Blobs {
			if _, yes := early(b.Role); yes {
				n += b.Size
			}
		}
	}
	return n
}

type progress struct {
	tell        func(done, total int64)
	done, total int64
}

func (p *progress) add(n int64) {
	if p.done += n; p.tell != nil {
		p.tell(p.done, p.total)
	}
}

// add gives everything on a medium its names and returns the bundle's own part
// of the command line.
func (b *Boot) add(ctx context.Context, m Medium, p *progress) (c boot.Cmdline, err error) {
	a := m.Manifest.Arch
	if err := b.addManifest(m); err != nil {
		return c, err
	}
	need := map[string]bool{boot.Kernel: false, boot.Initramfs: false, layout.Cmdline: false, layout.Netboot + "/" + shim(a): false}
	for _, bl := range m.Manifest.Blobs {
		at := medium.Path(bl)
		if need[at] = true; at == layout.Cmdline {
			raw, err := read(ctx, m, bl, p)
			if err != nil {
				return c, err
			}
			if c, err = boot.Parse(string(raw)); err != nil {
				return c, fmt.Errorf("%s: %w", at, err)
			}
			b.put(string(a)+"/"+at, Blob, a, raw, "") // a node keeps all that the manifest names
			continue
		}
		if err := b.addBlob(ctx, m, bl, p); err != nil {
			return c, err
		}
	}
	for name, there := range need {
		if !there {
			return c, fmt.Errorf("the manifest names no %s: build the bundle again with this slipway", name)
		}
	}
	return c, nil
}

func (b *Boot) addManifest(m Medium) error {
	raw, err := m.ReadFile(layout.Manifest)
	if err != nil {
		return err
	}
	want, err := m.Manifest.Encode()
	if err != nil {
		return err
	}
	if !bytes.Equal(raw, want) {
		return errors.New("the manifest on the medium is not the one that was verified")
	}
	sig, err := m.ReadFile(layout.Signature)
	if err != nil {
		return err
	}
	a := m.Manifest.Arch
	b.put(string(a)+"/"+layout.Manifest, Manifest, a, raw, "application/json")
	b.put(string(a)+"/"+layout.Signature, Manifest, a, sig, "")
	return nil
}

func (b *Boot) addBlob(ctx context.Context, m Medium, bl lock.Blob, p *progress) error {
	a, at := m.Manifest.Arch, medium.Path(bl)
	name := string(a) + "/" + at
	kind, now := early(bl.Role)
	if now {
		raw, err := read(ctx, m, bl, p)
		if err != nil {
			return err
		}
		b.put(name, kind, a, raw, "")
		if kind == Loader { // firmware and shim ask for it at the root
			return b.alias(path.Base(at), name)
		}
		return nil
	}
	f, size, err := m.Open(at)
	if err != nil {
		return fmt.Errorf("blob %q: %w", bl.Name, err)
	}
	if size != bl.StoredSize() {
		return errors.Join(&store.SizeError{Blob: bl, Got: size}, f.Close())
	}
	if _, there := b.files[name]; there { // equal layers are one blob
		return f.Close()
	}
	b.files[name] = file{web.Content{Reader: f, Size: size, Digest: "sha256:" + path.Base(at)}, kind, a}
	return nil
}

// read returns the verified bytes of a blob.
func read(ctx context.Context, m Medium, bl lock.Blob, p *progress) ([]byte, error) {
	if bl.Size > maxEarly {
		return nil, fmt.Errorf("blob %q: %d bytes, want at most %d", bl.Name, bl.Size, maxEarly)
	}
	if len(bl.Frames) > 0 {
		return nil, fmt.Errorf("blob %q is in frames, which firmware does not know", bl.Name)
	}
	f, size, err := m.Open(medium.Path(bl))
	if err != nil {
		return nil, fmt.Errorf("blob %q: %w", bl.Name, err)
	}
	defer f.Close()
	if size != bl.Size {
		return nil, &store.SizeError{Blob: bl, Got: size}
	}
	r, err := store.NewReader(f, bl)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	out := make([]byte, 0, bl.Size)
	for i := range r.Count() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		plain, err := r.Chunk(i, nil)
		if err != nil {
			return nil, err
		}
		out = append(out, plain...)
		p.add(int64(len(plain)))
	}
	return out, nil
}

// put adds bytes under a name.
func (b *Boot) put(name string, k Kind, a arch.Arch, raw []byte, typ string) {
	b.files[name] = file{web.Content{Reader: bytes.NewReader(raw), Size: int64(len(raw)), Type: typ, Digest: "sha256:" + string(lock.SumBytes(raw))}, k, a}
}

// alias gives a file a second name. Media of two architectures cannot meet: the
// names of their loaders differ.
func (b *Boot) alias(name, of string) error {
	if _, there := b.files[name]; there || strings.HasPrefix(name, ".") {
		return fmt.Errorf("loader %q: the name is taken", name)
	}
	b.files[name] = b.files[of]
	return nil
}
