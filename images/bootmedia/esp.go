package bootmedia

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat16"
)

// espSize is the size of the EFI image: the loaders are 5 MB, and FAT16 needs
// at least 4,085 clusters to be FAT16 (UEFI 2.10 section 13.3.1.1).
const espSize = 16 << 20

// efiImage writes the files into a FAT16 volume with fixed dates and serial.
func efiImage(files map[string][]byte) ([]byte, error) {
	total := 0
	for _, raw := range files {
		total += len(raw)
	}
	if total > espSize-(1<<20) {
		return nil, fmt.Errorf("%d bytes of loaders do not fit into %d", total, espSize)
	}
	dir, err := os.MkdirTemp("", "slipway-esp-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "esp")
	if err := fill(name, files); err != nil {
		return nil, err
	}
	image, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	undate(image)
	return image, nil
}

// undate removes the dates of all directory entries (Microsoft FAT
// specification, section 6): go-diskfs takes them from the clock.
func undate(image []byte) {
	le := binary.LittleEndian
	perCluster, reserved := int(image[13]), int(le.Uint16(image[14:]))
	fats, rootEntries, fatSize := int(image[16]), int(le.Uint16(image[17:])), int(le.Uint16(image[22:]))
	fat := image[reserved*512:]
	root := (reserved + fats*fatSize) * 512
	data := root + rootEntries*32
	var walk func(dir []byte)
	walk = func(dir []byte) {
		for ; len(dir) >= 32 && dir[0] != 0; dir = dir[32:] {
			const longName, subdirectory = 0x0f, 0x10
			if dir[11] == longName || dir[0] == 0xe5 {
				continue
			}
			clear(dir[13:20])
			clear(dir[22:26])
			if dir[11]&subdirectory == 0 || dir[0] == '.' {
				continue
			}
			for c := int(le.Uint16(dir[26:])); c >= 2 && c < 0xfff8; c = int(le.Uint16(fat[2*c:])) {
				at := data + (c-2)*perCluster*512
				walk(image[at : at+perCluster*512])
			}
		}
	}
	walk(image[root:data])
}

func fill(name string, files map[string][]byte) error {
	b, err := file.CreateFromPath(name, espSize)
	if err != nil {
		return err
	}
	defer b.Close()
	fsys, err := fat16.Create(b, espSize, 0, 512, "SLIPWAYESP", true)
	if err != nil {
		return err
	}
	names := sortedNames(files)
	for _, d := range parents(names) {
		if err := fsys.Mkdir(d); err != nil {
			return fmt.Errorf("making %s: %w", d, err)
		}
	}
	for _, n := range names {
		f, err := fsys.OpenFile(n, os.O_CREATE|os.O_RDWR|os.O_TRUNC)
		if err != nil {
			return fmt.Errorf("adding %s: %w", n, err)
		}
		if _, err := f.Write(files[n]); err != nil {
			return fmt.Errorf("adding %s: %w", n, err)
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("adding %s: %w", n, err)
		}
	}
	return nil
}
