// Package isofs finds the files of an ISO 9660 image with Rock Ridge names, as
// places in the image: nothing is unpacked or mounted, so that a laptop of any
// operating system can serve from the file.
//
// It writes no image (images/iso9660 does), and reads no Joliet or UDF.
package isofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

const (
	sector = 2048
	// Bounds against images that were made to harm: slipway's own have some
	// fifty names in directories of a few sectors.
	maxNames     = 1 << 16
	maxDepth     = 32
	maxDirectory = 16 << 20

	flagDir   = 0x02
	flagMulti = 0x80
)

// File is where a file's bytes are in the image: one run.
type File struct{ At, Size int64 }

// Image is the directory of an image.
type Image struct {
	Label string // volume identifier, without padding
	Files map[string]File
}

// Read reads the directories of an image of size bytes (ECMA-119; names from
// Rock Ridge NM entries, RRIP 1.10 section 4.1.4, when there are any).
func Read(r io.ReaderAt, size int64) (*Image, error) {
	p := make([]byte, sector)
	if _, err := r.ReadAt(p, 16*sector); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if string(p[:6]) != "\x01CD001" {
		return nil, errors.New("no ISO 9660 volume: sector 16 is not a primary volume descriptor")
	}
	w := &walker{r: r, size: size, seen: map[uint32]bool{}, image: &Image{Label: strings.TrimRight(string(p[40:72]), " "), Files: map[string]File{}}}
	root := p[156:190]
	err := w.directory("", binary.LittleEndian.Uint32(root[2:]), binary.LittleEndian.Uint32(root[10:]), 0)
	return w.image, err
}

type walker struct {
	r     io.ReaderAt
	size  int64
	names int
	seen  map[uint32]bool
	image *Image
}

func (w *walker) directory(dir string, start, size uint32, depth int) error {
	if depth > maxDepth || w.seen[start] {
		return fmt.Errorf("directory /%s: nested too deep, or in itself", dir)
	}
	w.seen[start] = true
	if size > maxDirectory || int64(start)*sector+int64(size) > w.size {
		return fmt.Errorf("directory /%s: %d bytes at sector %d do not fit into the image of %d bytes", dir, size, start, w.size)
	}
	b := make([]byte, size)
	if _, err := w.r.ReadAt(b, int64(start)*sector); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("directory /%s: %w", dir, err)
	}
	for at := 0; at < len(b); {
		n := int(b[at])
		if n == 0 { // records do not cross sectors
			at = (at/sector + 1) * sector
			continue
		}
		if n < 34 || at+n > len(b) || 33+int(b[at+32]) > n {
			return fmt.Errorf("directory /%s: a record of %d bytes at byte %d", dir, n, at)
		}
		if err := w.record(dir, b[at:at+n], depth); err != nil {
			return err
		}
		at += n
	}
	return nil
}

func (w *walker) record(dir string, rec []byte, depth int) error {
	id := rec[33 : 33+int(rec[32])]
	if len(id) == 1 && id[0] <= 1 { // the directory itself and its parent
		return nil
	}
	if w.names++; w.names > maxNames {
		return fmt.Errorf("more than %d names", maxNames)
	}
	start, size := binary.LittleEndian.Uint32(rec[2:]), binary.LittleEndian.Uint32(rec[10:])
	name := rockRidge(rec[33+len(id)+(len(id)+1)%2:])
	if name == "" {
		name, _, _ = strings.Cut(strings.ToLower(string(id)), ";")
	}
	if name == "." || name == ".." || strings.ContainsAny(name, "/\\\x00") {
		return fmt.Errorf("directory /%s: name %q", dir, name)
	}
	full := path.Join(dir, name)
	if rec[25]&flagDir != 0 {
		return w.directory(full, start, size, depth+1)
	}
	f := File{At: int64(start) * sector, Size: int64(size)}
	if f.At+f.Size > w.size {
		return fmt.Errorf("file /%s: %d bytes at byte %d do not fit into the image of %d bytes: it is cut short", full, f.Size, f.At, w.size)
	}
	if old, ok := w.image.Files[full]; ok { // the next extent of a large file
		if old.At+old.Size != f.At {
			return fmt.Errorf("file /%s: in pieces that are not side by side", full)
		}
		f = File{At: old.At, Size: old.Size + f.Size}
	}
	w.image.Files[full] = f
	return nil
}

// rockRidge joins the NM entries of a system use area (SUSP 1.12 section 4).
func rockRidge(use []byte) string {
	var name string
	for len(use) >= 4 {
		n := int(use[2])
		if n < 4 || n > len(use) {
			break
		}
		if string(use[:2]) == "NM" && n > 5 {
			name += string(use[5:n])
		}
		use = use[n:]
	}
	return name
}
