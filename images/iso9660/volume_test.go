package iso9660

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	reader "github.com/diskfs/go-diskfs/filesystem/iso9660"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)

func text(name, content string) File {
	return File{Path: name, Mode: 0o444, Size: int64(len(content)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	}}
}

func bootable() Boot {
	image := bytes.Repeat([]byte{1, 2, 3, 4}, 3000)
	return Boot{BIOS: &BIOS{Path: "isolinux/isolinux.bin", Image: image, MBR: bytes.Repeat([]byte{0x90}, 512)}, EFI: make([]byte, 64*1024)}
}

func write(t *testing.T, v Volume) []byte {
	t.Helper()
	im, err := Plan(v)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := im.Write(context.Background(), &b, nil); err != nil {
		t.Fatal(err)
	}
	if int64(b.Len()) != im.Size() {
		t.Fatalf("wrote %d bytes, planned %d", b.Len(), im.Size())
	}
	return b.Bytes()
}

func sample() Volume {
	v := Volume{ID: "SLIPWAY", Time: epoch, Boot: bootable()}
	v.Files = append(v.Files, text("slipway/manifest.json", "{}"), text("a/b/c/d/e/f/deep.txt", "deep"), text("empty", ""))
	for i := range 300 {
		v.Files = append(v.Files, text(fmt.Sprintf("slipway/blobs/sha256/%064x", i), strings.Repeat("x", i)))
	}
	return v
}

func TestAnotherReaderFindsNamesAndContents(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.iso")
	raw := write(t, sample())
	if err := os.WriteFile(name, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := file.OpenFromPath(name, true)
	if err != nil {
		t.Fatal(err)
	}
	fsys, err := reader.Read(b, int64(len(raw)), 0, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimRight(fsys.Label(), " \x00"); got != "SLIPWAY" {
		t.Errorf("label %q", got)
	}
	for _, f := range sample().Files {
		h, err := fsys.OpenFile("/"+f.Path, os.O_RDONLY)
		if err != nil {
			t.Fatalf("%s: %v", f.Path, err)
		}
		got, err := io.ReadAll(h)
		if err != nil || int64(len(got)) != f.Size {
			t.Errorf("%s: %d bytes, want %d (%v)", f.Path, len(got), f.Size, err)
		}
	}
}

func TestSameInputSameBytes(t *testing.T) {
	if !bytes.Equal(write(t, sample()), write(t, sample())) {
		t.Error("two images differ")
	}
}

func TestBootStructures(t *testing.T) {
	raw := write(t, sample())
	le := binary.LittleEndian
	if string(raw[17*2048+1:17*2048+6]) != "CD001" || !bytes.Contains(raw[17*2048:18*2048], []byte("EL TORITO")) {
		t.Error("no boot record in sector 17")
	}
	cat := raw[int(le.Uint32(raw[17*2048+71:]))*2048:]
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += le.Uint16(cat[i:])
	}
	if sum != 0 {
		t.Errorf("catalog checksum is off by %d", sum)
	}
	bios := le.Uint32(cat[32+8:])
	if got := le.Uint64(raw[432:]); got != uint64(bios)*4 {
		t.Errorf("MBR points at %d, isolinux.bin is at %d", got, bios*4)
	}
	if img := raw[int(bios)*2048:]; le.Uint32(img[8:]) != 16 || le.Uint32(img[12:]) != bios || le.Uint32(img[16:]) != 12000 {
		t.Errorf("boot information table: % x", img[8:24])
	}
	for name, at := range map[string]int{"primary": 512, "backup": len(raw) - 512} {
		h := bytes.Clone(raw[at : at+92])
		want := le.Uint32(h[16:])
		clear(h[16:20])
		if string(h[:8]) != "EFI PART" || crc32.ChecksumIEEE(h) != want {
			t.Errorf("%s GPT header is damaged", name)
		}
		table := raw[le.Uint64(h[72:])*512:][:128*128]
		if crc32.ChecksumIEEE(table) != le.Uint32(h[88:]) {
			t.Errorf("%s GPT table is damaged", name)
		}
		if first := le.Uint64(table[32:]); first != uint64(le.Uint32(cat[96+8:]))*4 {
			t.Errorf("%s GPT: EFI partition at %d", name, first)
		}
	}
}

func TestWrongContentIsNamed(t *testing.T) {
	for want, content := range map[string]string{"content has 3 bytes, want 4": "abc", "content has more than 4 bytes": "abcde"} {
		f := text("d/x", content)
		f.Size = 4
		im, err := Plan(Volume{ID: "X", Time: epoch, Files: []File{f}})
		if err != nil {
			t.Fatal(err)
		}
		if err := im.Write(context.Background(), io.Discard, nil); err == nil || err.Error() != "adding /d/x: "+want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	for want, v := range map[string]Volume{
		`volume identifier "x": want`:              {ID: "x"},
		`path "/a" is not clean and relative`:      {ID: "X", Files: []File{text("/a", "")}},
		`path "a/../b" is not clean`:               {ID: "X", Files: []File{text("a/../b", "")}},
		`a: "a" is there twice`:                    {ID: "X", Files: []File{text("a", ""), text("a", "")}},
		`a/b: "a" is there twice`:                  {ID: "X", Files: []File{text("a", ""), text("a/b", "")}},
		"more than 8 directory levels":             {ID: "X", Files: []File{text("1/2/3/4/5/6/7/8/9", "")}},
		"the name has 141 bytes, want at most 140": {ID: "X", Files: []File{text(strings.Repeat("n", 141), "")}},
	} {
		if _, err := Plan(v); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestFileOfFiveGiB streams a sparse file through the writer and looks at its
// directory records: two extents that add up.
func TestFileOfFiveGiB(t *testing.T) {
	const size = 5 << 30
	f := File{Path: "big", Mode: 0o444, Size: size}
	im, err := Plan(Volume{ID: "X", Time: epoch, Files: []File{f, text("small", "s")}})
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	n := 0
	for _, r := range im.records(im.root)[2:] {
		if strings.HasPrefix(string(r[33:]), "BIG") {
			total += int64(binary.LittleEndian.Uint32(r[10:]))
			n++
			if last := total == size; (r[25]&flagMulti == 0) != last {
				t.Errorf("extent %d: flags %#x", n, r[25])
			}
		}
	}
	if n != 2 || total != size || im.Size() < size {
		t.Errorf("%d extents, %d bytes, image of %d", n, total, im.Size())
	}
}

func TestCancelled(t *testing.T) {
	im, err := Plan(sample())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := im.Write(ctx, io.Discard, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestXorrisoAgrees(t *testing.T) {
	if _, err := exec.LookPath("xorriso"); err != nil {
		t.Skip("xorriso is not installed; only this comparison needs it")
	}
	name := filepath.Join(t.TempDir(), "x.iso")
	if err := os.WriteFile(name, write(t, sample()), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("xorriso", "-indev", name, "-report_el_torito", "plain", "-report_system_area", "plain", "-find", "/slipway/manifest.json", "-exec", "lsdl").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"El Torito boot img :   1  BIOS  y   none", "El Torito boot img :   2  UEFI  y   none", "GPT", "boot-info-table", "'/slipway/manifest.json'"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("xorriso does not say %q:\n%s", want, out)
		}
	}
}
