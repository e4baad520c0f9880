package qemu

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"sort"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
)

// cidataSize is above the 33 MB below which FAT has too few clusters to be
// FAT32; the file is sparse.
const cidataSize = 40 << 20

// WriteCIDATA makes a FAT32 image at image with the label CIDATA, the volume
// cloud-init's NoCloud data source and slipway-init look for. Names are below
// the volume's root and may have directories.
func WriteCIDATA(image string, files map[string][]byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("CIDATA volume: %w", err)
		}
	}()
	b, err := file.CreateFromPath(image, cidataSize)
	if err != nil {
		return err
	}
	defer b.Close()
	volume, err := fat32.Create(b, cidataSize, 0, 512, "CIDATA", true)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		if !fs.ValidPath(n) || n == "." {
			return fmt.Errorf("adding %q: not a clean relative path", n)
		}
		if dir := path.Dir(n); dir != "." {
			if err := volume.Mkdir(dir); err != nil {
				return fmt.Errorf("adding %q: %w", n, err)
			}
		}
		f, err := volume.OpenFile(n, os.O_CREATE|os.O_RDWR|os.O_TRUNC)
		if err != nil {
			return fmt.Errorf("adding %q: %w", n, err)
		}
		if len(files[n]) > 0 {
			if _, err := f.Write(files[n]); err != nil {
				return fmt.Errorf("adding %q: %w", n, err)
			}
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("adding %q: %w", n, err)
		}
	}
	return nil
}
