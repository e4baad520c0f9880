package modules

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// compressed tells finit_module(2) that the kernel has to unpack the file
// (MODULE_INIT_COMPRESSED_FILE, since 5.17).
const compressed = 4

// Loader loads modules of the running kernel from a root directory.
type Loader struct {
	dir   string // <root>/usr/lib/modules/<release>
	index *Index
	mu    sync.Mutex
	seen  map[string]bool // aliases already looked at
}

// Release is the running kernel's release.
func Release() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// Open reads the indexes of the running kernel below root.
func Open(root string) (*Loader, error) {
	rel, err := Release()
	if err != nil {
		return nil, err
	}
	x, err := Read(os.DirFS(root), rel)
	if err != nil {
		return nil, err
	}
	return &Loader{dir: filepath.Join(root, "usr/lib/modules", rel), index: x, seen: map[string]bool{}}, nil
}

// Load loads a module by name with all that it needs.
func (l *Loader) Load(name string) error {
	files, err := l.index.Order(name)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := insert(filepath.Join(l.dir, f.Path)); err != nil && !f.Soft {
			return fmt.Errorf("module %q: loading %s: %w", name, f.Path, err)
		}
	}
	return nil
}

// Known reports whether the kernel has the module, as a file or built in.
func (l *Loader) Known(name string) bool { return l.index.Known(name) }

// LoadAlias loads everything that fits a device's alias; no match is no error.
// Errors of single modules are joined: hardware that a driver refuses
// (ENODEV) is none.
func (l *Loader) LoadAlias(modalias string) error {
	l.mu.Lock()
	known := l.seen[modalias]
	l.seen[modalias] = true
	l.mu.Unlock()
	if known {
		return nil
	}
	var errs []error
	for _, m := range l.index.Match(modalias) {
		if err := l.Load(m); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Probe is modprobe: the argument is an alias or a name.
func (l *Loader) Probe(arg string) error {
	if m := l.index.Match(arg); len(m) > 0 {
		return l.LoadAlias(arg)
	}
	return l.Load(arg)
}

func insert(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(path, ".ko") {
		flags = compressed
	}
	err = unix.FinitModule(int(f.Fd()), "", flags)
	if err == unix.EEXIST {
		return nil
	}
	return err
}

// Coldplug loads what the devices below sys/devices ask for. It walks again
// until a walk finds no new device, because a loaded bus driver makes some.
// It returns the number of aliases seen and the errors of modules, joined.
func (l *Loader) Coldplug(sys string) (int, error) {
	var errs []error
	total := 0
	for {
		found, err := aliases(sys)
		if err != nil {
			return total, err
		}
		fresh, err := l.loadNew(found)
		errs = append(errs, err)
		total += fresh
		if fresh == 0 {
			return total, errors.Join(errs...)
		}
	}
}

// loadNew loads for the aliases that were not looked at yet, several at a time:
// unpacking and checking a module is the kernel's work and takes one processor.
func (l *Loader) loadNew(found []string) (fresh int, err error) {
	var g errgroup.Group
	g.SetLimit(4)
	errs := make([]error, len(found))
	for i, a := range found {
		l.mu.Lock()
		known := l.seen[a]
		l.mu.Unlock()
		if known {
			continue
		}
		fresh++
		g.Go(func() error {
			errs[i] = l.LoadAlias(a)
			return nil
		})
	}
	_ = g.Wait() // errors are kept one by one
	return fresh, errors.Join(errs...)
}

func aliases(sys string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(filepath.Join(sys, "devices"), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // devices go away while we walk
		}
		if d.Name() == "modalias" && d.Type().IsRegular() {
			if raw, err := os.ReadFile(p); err == nil {
				if a := strings.TrimSpace(string(raw)); a != "" {
					out = append(out, a)
				}
			}
		}
		return nil
	})
	return out, err
}
