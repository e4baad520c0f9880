package install

import (
	"context"
	"fmt"
	"path/filepath"

	"slipway.dev/slipway/images/bootdisk"
)

// Found is a disk that has slipway's tables.
type Found struct {
	Path   string
	ID     bootdisk.GUID
	Active bool
}

// Find looks at whole disks, by their paths, for those with slipway's tables. A
// disk that cannot be read is none.
func Find(paths []string) []Found {
	var out []Found
	for _, p := range paths {
		if f, err := look(p); err == nil {
			out = append(out, f)
		}
	}
	return out
}

func look(path string) (Found, error) {
	dev, err := open(path)
	if err != nil {
		return Found{}, err
	}
	defer dev.Close()
	f, err := bootdisk.Read(dev, dev.geometry)
	if err != nil {
		return Found{}, err
	}
	return Found{path, f.Disk.ID(), f.Active}, nil
}

// Open mounts a disk that Find found. An error that is fs.ErrNotExist means
// that the disk was only begun.
func Open(ctx context.Context, m Machine, f Found) (*Disk, error) {
	d, err := f.disk(m, m.Mounts)
	if err != nil {
		return nil, err
	}
	if err := d.mount(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path, err)
	}
	return d, nil
}

// disk is what was found, with nothing mounted yet.
func (f Found) disk(m Machine, mounts string) (*Disk, error) {
	dev, err := open(f.Path)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	read, err := bootdisk.Read(dev, dev.geometry)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path, err)
	}
	return &Disk{Path: f.Path, ID: read.Disk.ID(), Active: read.Active, m: m, plan: read.Disk,
		Store: filepath.Join(mounts, "store"), State: filepath.Join(mounts, "state")}, nil
}
