package bootmedia

import (
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
	return os.ReadFile(name)
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
