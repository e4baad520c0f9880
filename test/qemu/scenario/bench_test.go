package scenario

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/bundle/oci"
	"slipway.dev/slipway/images/layout"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
)

// BenchmarkImages makes the bundle's images available to containerd in one
// guest, in two ways by turns: slipway's metadata import over layer caches, and
// `ctr images import` of an archive with the same images' layers. It reports
// the ratio of times and the bytes each leaves on the node.
func BenchmarkImages(b *testing.B) {
	l := newLogin(b)
	_, port := network(b)
	image := iso(b)
	archive := filepath.Join(b.TempDir(), "images.tar")
	if err := fullArchive(image, archive); err != nil {
		b.Fatal(err)
	}
	vm := start(b, qemu.Machine{Memory: 8192, Boot: qemu.CD(image), NICs: []*lan.Port{port}, CIDATA: l.cidata("node-1"),
		Disks: []qemu.Drive{{Path: archive, ReadOnly: true, Serial: "ARCHIVE"}}})
	ctx := limit(b, time.Hour)
	if _, err := vm.Wait(ctx, done("ready")); err != nil {
		b.Fatal(err)
	}
	r, err := vm.SSH(ctx, qemu.SSHOptions{Signer: l.signer})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	ours, err := r.Must(ctx, "bash", "-c", "ls /run/slipway/medium/"+layout.Blobs+" | while read b; do f=/run/slipway/medium/"+layout.Blobs+
		"/$b; if tar tf $f index.json >/dev/null 2>&1; then echo $f; fi; done")
	if err != nil {
		b.Fatal(err)
	}
	disk, err := r.Must(ctx, "bash", "-c", "for d in /sys/block/*; do grep -qs ARCHIVE $d/serial && echo /dev/${d##*/}; done; true")
	if err != nil {
		b.Fatal(err)
	}
	var mine, peer measured
	for i := range 3 {
		if err := mine.add(ctx, r, fmt.Sprintf("mine%d", i), "--snapshotter", "erofs", strings.TrimSpace(ours)); err != nil {
			b.Fatal(err)
		}
		if i == 2 {
			break // twice is enough for what takes a minute
		}
		if err := peer.add(ctx, r, fmt.Sprintf("peer%d", i), strings.TrimSpace(disk)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(peer.median()/mine.median(), "times-faster")
	b.ReportMetric(mine.median(), "s-slipway")
	b.ReportMetric(peer.median(), "s-ctr-import")
	b.ReportMetric(mine.bytes, "bytes-slipway")
	b.ReportMetric(peer.bytes, "bytes-ctr-import")
	b.ReportMetric(0, "ns/op")
}

// measured are the runs of one way.
type measured struct {
	seconds []float64
	bytes   float64 // most that one run left below /var/lib/containerd
}

func (m *measured) median() float64 {
	s := append([]float64(nil), m.seconds...)
	for i := range s {
		for j := i; j > 0 && s[j] < s[j-1]; j-- {
			s[j], s[j-1] = s[j-1], s[j]
		}
	}
	return s[len(s)/2]
}

// add imports into a namespace of its own, measured by the guest's clock, and
// removes it again so that the next run finds nothing of it.
func (m *measured) add(ctx context.Context, r *qemu.Remote, ns string, args ...string) error {
	before, err := used(ctx, r)
	if err != nil {
		return err
	}
	script := `b=$(cut -d' ' -f1 /proc/uptime); ctr -n "$0" images import "$@" >/dev/null || exit; cut -d' ' -f1 /proc/uptime | sed "s/$/ $b/"`
	out, err := r.Must(ctx, append([]string{"bash", "-c", script, ns}, args...)...)
	if err != nil {
		return err
	}
	var end, begin float64
	if _, err := fmt.Sscan(out, &end, &begin); err != nil {
		return fmt.Errorf("clock %q: %w", out, err)
	}
	m.seconds = append(m.seconds, max(end-begin, 0.01))
	after, err := used(ctx, r)
	if err != nil {
		return err
	}
	m.bytes = max(m.bytes, after-before)
	_, err = r.Must(ctx, "bash", "-c", `ctr -n "$0" images ls -q | xargs -r ctr -n "$0" images rm --sync >/dev/null; ctr -n "$0" content prune references >/dev/null; sleep 5`, ns)
	return err
}

func used(ctx context.Context, r *qemu.Remote) (float64, error) {
	out, err := r.Must(ctx, "du", "-sxb", "/var/lib/containerd")
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.Fields(out)[0], 64)
}

// fullArchive writes the archive that people without slipway carry: the
// medium's manifests and configs, and every layer as the tar it stands for.
func fullArchive(image, name string) error {
	m, at, err := contents(image)
	if err != nil {
		return err
	}
	iso, err := os.Open(image)
	if err != nil {
		return err
	}
	defer iso.Close()
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, b := range m.Blobs {
		section := io.NewSectionReader(iso, at[b.SHA256], b.Size)
		switch b.Role {
		case lock.RoleImages:
			err = copyTar(w, tar.NewReader(section))
		case lock.RoleLayer:
			err = addLayer(w, section, b)
		}
		if err != nil {
			return fmt.Errorf("blob %q: %w", b.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	return f.Truncate((fi.Size() + 4095) / 4096 * 4096) // whole sectors: it is a disk
}

func copyTar(w *tar.Writer, r *tar.Reader) error {
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
	}
}

func addLayer(w *tar.Writer, blob io.ReaderAt, b lock.Blob) error {
	entries, err := oci.ReadErofs(blob)
	if err != nil {
		return err
	}
	var layer bytes.Buffer
	if err := oci.WriteTar(context.Background(), &layer, entries); err != nil {
		return err
	}
	if got := lock.SumBytes(layer.Bytes()); got != b.DiffID {
		return fmt.Errorf("tar of the layer: got %s, want diffID %s", got, b.DiffID)
	}
	if err := w.WriteHeader(&tar.Header{Name: "blobs/sha256/" + string(b.DiffID), Mode: 0o444, Size: int64(layer.Len()), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err = w.Write(layer.Bytes())
	return err
}

// contents reads the manifest of an ISO and where its blobs are.
func contents(image string) (*lock.Manifest, map[lock.Digest]int64, error) {
	fsys, err := openImage(image)
	if err != nil {
		return nil, nil, err
	}
	f, err := fsys.OpenFile(layout.Manifest, os.O_RDONLY)
	if err != nil {
		return nil, nil, err
	}
	raw, err := io.ReadAll(f)
	if err != nil {
		return nil, nil, err
	}
	var m lock.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, nil, err
	}
	at, err := offsets(fsys, layout.Blobs)
	return &m, at, err
}
