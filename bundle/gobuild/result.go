package gobuild

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"slipway.dev/slipway/bundle/lock"
)

// index names the programs of a cache directory; it is written last, so a
// directory without it is no result.
const index = "programs.json"

func save(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var bins []Binary
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		d, n, err := lock.Sum(f)
		f.Close()
		if err != nil {
			return err
		}
		bins = append(bins, Binary{Name: e.Name(), Size: n, SHA256: d})
	}
	raw, err := json.Marshal(bins)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, index), raw, 0o644)
}

// load reads a cache directory back and checks that the sizes still hold;
// digests are checked where the programs are used.
func load(dir string) ([]Binary, error) {
	raw, err := os.ReadFile(filepath.Join(dir, index))
	if err != nil {
		return nil, err
	}
	var bins []Binary
	if err := json.Unmarshal(raw, &bins); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, index), err)
	}
	for i := range bins {
		bins[i].Path = filepath.Join(dir, bins[i].Name)
		fi, err := os.Stat(bins[i].Path)
		if err != nil {
			return nil, err
		}
		if fi.Size() != bins[i].Size {
			return nil, fmt.Errorf("%s: %d bytes, want %d", bins[i].Path, fi.Size(), bins[i].Size)
		}
	}
	return bins, nil
}
