package deb

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// maxEntries bounds the listing; Debian's kernel package has about 5,000.
const maxEntries = 1 << 20

// File is one entry of a .deb's data.tar.
type File struct {
	Path string      // clean and relative: "usr/bin/bash"; "." is the root
	Mode fs.FileMode // type bits of io/fs, permissions, setuid/setgid/sticky
	UID  int
	GID  int
	Size int64  // bytes, regular files only
	Link string // symlink target, verbatim
	// Hardlink names the entry that a hard link was made of. The file is
	// regular and independent: it has that entry's mode, owner and content.
	Hardlink string
	Xattrs   map[string]string
	// Open reads the content of a regular file from the decoded tar; nil for
	// other types. It may be called from several goroutines.
	Open func() (io.ReadCloser, error)
}

// list reads the headers of a decoded tar, seeking over the content. tarName
// is where the tar will be when files are opened.
func list(f *os.File, tarName string) ([]File, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	l := &lister{tarName: tarName, seen: map[string]int{}}
	t := tar.NewReader(f)
	for {
		h, err := t.Next()
		if err == io.EOF {
			return l.files, l.parents()
		}
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", len(l.files)+1, err)
		}
		// archive/tar reads whole blocks from f and nothing ahead, so the
		// content starts where f stands.
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if err := l.add(h, at, end); err != nil {
			return nil, fmt.Errorf("entry %q: %w", h.Name, err)
		}
		if len(l.files) > maxEntries {
			return nil, fmt.Errorf("more than %d entries", maxEntries)
		}
	}
}

type lister struct {
	tarName string
	files   []File
	seen    map[string]int // index into files
}

func (l *lister) add(h *tar.Header, at, end int64) error {
	name, err := cleanPath(h.Name)
	if err != nil {
		return err
	}
	e := File{Path: name, Mode: mode(h), UID: h.Uid, GID: h.Gid, Xattrs: xattrs(h)}
	if old, ok := l.seen[name]; ok && !(e.Mode.IsDir() && l.files[old].Mode.IsDir()) {
		return errors.New("is in the archive twice")
	}
	switch h.Typeflag {
	case tar.TypeDir:
	case tar.TypeReg:
		if sparse(h) {
			return errors.New("sparse files are refused")
		}
		if h.Size < 0 || h.Size > end-at {
			return fmt.Errorf("size %d, but %d bytes are left in the archive", h.Size, end-at)
		}
		e.Size = h.Size
		e.Open = section(l.tarName, at, h.Size)
	case tar.TypeSymlink:
		e.Link = h.Linkname
		if err := checkTarget(name, h.Linkname); err != nil {
			return err
		}
	case tar.TypeLink:
		if e, err = l.hardlink(name, h.Linkname); err != nil {
			return err
		}
	case tar.TypeChar, tar.TypeBlock:
		return errors.New("device nodes are refused")
	case tar.TypeFifo:
		return errors.New("named pipes are refused")
	default:
		return fmt.Errorf("entry type %q is not known", h.Typeflag)
	}
	l.seen[name] = len(l.files)
	l.files = append(l.files, e)
	return nil
}

// mode takes the type from the type flag alone: FileInfo would also believe
// type bits in the mode field.
func mode(h *tar.Header) fs.FileMode {
	m := fs.FileMode(h.Mode & 0o777)
	for bit, to := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if h.Mode&bit != 0 {
			m |= to
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		m |= fs.ModeDir
	case tar.TypeSymlink:
		m |= fs.ModeSymlink
	}
	return m
}

// hardlink makes a file of its own with the content of an earlier entry.
func (l *lister) hardlink(name, target string) (File, error) {
	to, err := cleanPath(target)
	if err != nil {
		return File{}, fmt.Errorf("hard link: %w", err)
	}
	i, ok := l.seen[to]
	if !ok || !l.files[i].Mode.IsRegular() {
		return File{}, fmt.Errorf("hard link to %q, which is not an earlier file of the archive", target)
	}
	e := l.files[i]
	e.Path, e.Hardlink = name, to
	return e, nil
}

// parents refuses entries below something that is not a directory; a symlink
// there would let one entry write through another. Entries of a .deb are made
// from a real tree, where neither can be.
func (l *lister) parents() error {
	for _, f := range l.files {
		for d := path.Dir(f.Path); d != "."; d = path.Dir(d) {
			i, ok := l.seen[d]
			if ok && !l.files[i].Mode.IsDir() {
				kind := "not a directory"
				if l.files[i].Mode.Type() == fs.ModeSymlink {
					kind = fmt.Sprintf("a symlink to %q", l.files[i].Link)
				}
				return fmt.Errorf("entry %q: its parent %q is %s", f.Path, d, kind)
			}
		}
	}
	return nil
}

func section(tarName string, at, size int64) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		f, err := os.Open(tarName)
		if err != nil {
			return nil, err
		}
		return struct {
			*io.SectionReader
			io.Closer
		}{io.NewSectionReader(f, at, size), f}, nil
	}
}

// cleanPath accepts "./usr/bin/x", "usr/bin/x" and "./".
func cleanPath(name string) (string, error) {
	if name == "" || strings.ContainsRune(name, 0) {
		return "", errors.New("the path is empty or holds a zero byte")
	}
	if path.IsAbs(name) {
		return "", fmt.Errorf("path %q is absolute", name)
	}
	for _, el := range strings.Split(name, "/") {
		if el == ".." {
			return "", fmt.Errorf("path %q climbs out with %q", name, "..")
		}
	}
	return path.Clean(name), nil
}

// checkTarget refuses relative symlinks that climb above the root. An absolute
// target is read below the root of the image.
func checkTarget(name, target string) error {
	if target == "" || strings.ContainsRune(target, 0) {
		return errors.New("symlink without a target")
	}
	if path.IsAbs(target) {
		return nil
	}
	depth := strings.Count(name, "/")
	for _, el := range strings.Split(target, "/") {
		switch el {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return fmt.Errorf("symlink to %q climbs above the root", target)
			}
		default:
			depth++
		}
	}
	return nil
}

// sparse recognises GNU and PAX sparse files, whose content is not one run of bytes.
func sparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// xattrs reads the records that GNU tar and bsdtar write (SCHILY.xattr.*).
func xattrs(h *tar.Header) map[string]string {
	var out map[string]string
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			if out == nil {
				out = map[string]string{}
			}
			out[name] = v
		}
	}
	return out
}
