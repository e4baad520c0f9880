package overlay

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/images/rootfs"
)

// ModesFile is the name of an optional file at the top of a user's overlay
// directory: lines of "path mode uid gid" for what a directory in version
// control cannot say. It is not laid over the root itself.
const ModesFile = ".modes"

// Directory is a user's own files, laid over the root last: spec.overlay of
// bundle.yaml. Everything belongs to root; directories are 0755, files 0755
// when their owner may execute them and else 0644, symbolic links stay, so
// that the image does not depend on who checked the files out. ModesFile says
// otherwise. The zero value is an overlay without files.
type Directory struct{ entries []rootfs.Entry }

// Read lists a directory. Devices, sockets and named pipes are refused, and so
// is a line of ModesFile without its file.
func Read(dir string) (*Directory, error) {
	d := &Directory{}
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil || rel == "." || rel == ModesFile {
			return err
		}
		entry, err := read(name, filepath.ToSlash(rel), e)
		d.entries = append(d.entries, entry)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("overlay: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(dir, ModesFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("overlay: %w", err)
	}
	for i, line := range strings.Split(string(text), "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := d.mode(line); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", filepath.Join(dir, ModesFile), i+1, err)
		}
	}
	return d, nil
}

func read(name, rel string, e fs.DirEntry) (rootfs.Entry, error) {
	out := rootfs.Entry{Path: rel, Source: "overlay " + rel}
	fi, err := e.Info()
	if err != nil {
		return out, err
	}
	switch fi.Mode().Type() {
	case fs.ModeDir:
		out.Mode = fs.ModeDir | 0o755
	case fs.ModeSymlink:
		out.Mode = fs.ModeSymlink | 0o777
		out.Link, err = os.Readlink(name)
	case 0:
		out.Mode, out.Size = 0o644|fi.Mode()&0o100|fi.Mode()&0o100>>3|fi.Mode()&0o100>>6, fi.Size()
		out.Open = func() (io.ReadCloser, error) { return os.Open(name) }
	default:
		return out, fmt.Errorf("%s is a %s: want files, directories and symbolic links", name, fi.Mode().Type())
	}
	return out, err
}

// mode applies one line of ModesFile.
func (d *Directory) mode(line string) error {
	f := strings.Fields(line)
	if len(f) != 4 {
		return fmt.Errorf("want \"path mode uid gid\", got %q", line)
	}
	mode, err1 := strconv.ParseUint(f[1], 8, 12)
	uid, err2 := strconv.ParseUint(f[2], 10, 31)
	gid, err3 := strconv.ParseUint(f[3], 10, 31)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	for i := range d.entries {
		e := &d.entries[i]
		if e.Path != rootfs.Clean(f[0]) {
			continue
		}
		e.Mode = e.Mode.Type() | fs.FileMode(mode)&fs.ModePerm
		for bit, flag := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
			if mode&bit != 0 {
				e.Mode |= flag
			}
		}
		e.UID, e.GID = int(uid), int(gid)
		return nil
	}
	return fmt.Errorf("no file %q in the overlay", f[0])
}

// Apply sets every entry in the tree, replacing what was there.
func (d *Directory) Apply(t *rootfs.Tree) error {
	for _, e := range d.entries {
		if old, ok := t.Get(e.Path); ok && e.Mode == fs.ModeDir|0o755 && (old.Mode.IsDir() || old.Mode.Type() == fs.ModeSymlink) {
			continue // a directory of the system keeps its mode and owner, and /bin stays a link
		}
		if err := t.Set(e); err != nil {
			return err
		}
	}
	return nil
}

// Digest names the overlay's files with content, modes and owners.
func (d *Directory) Digest() (lock.Digest, error) {
	type line struct {
		Path, Link string
		Mode       fs.FileMode
		UID, GID   int
		SHA256     lock.Digest
	}
	var all []line
	for _, e := range d.entries {
		l := line{Path: e.Path, Link: e.Link, Mode: e.Mode, UID: e.UID, GID: e.GID}
		if e.Open != nil {
			f, err := e.Open()
			if err != nil {
				return "", fmt.Errorf("overlay: %w", err)
			}
			l.SHA256, _, err = lock.Sum(f)
			f.Close()
			if err != nil {
				return "", fmt.Errorf("overlay: %s: %w", e.Path, err)
			}
		}
		all = append(all, l)
	}
	raw, err := json.Marshal(all)
	return lock.SumBytes(raw), err
}
