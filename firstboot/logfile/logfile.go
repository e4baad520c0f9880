// Package logfile appends to files that live in a node's memory and must not
// fill it: one that has grown to its limit is renamed to <name>.1, whatever had
// that name goes, and a new one begins.
//
// It splits nothing into lines and stamps nothing; what a write means is its
// caller's. It never makes a caller wait for more than the file system.
package logfile

import (
	"os"
	"path/filepath"
)

// File is one file and its older one. It is not for use by several goroutines.
type File struct {
	path string
	max  int64
	head func() []byte
	f    *os.File
	size int64
}

// Open opens or makes the file, and its directory (0750). max is in bytes: the
// file is renamed before the first write after it has reached them. head, if
// set, is what a file that follows another begins with.
func Open(path string, max int64, head func() []byte) (*File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	l := &File{path: path, max: max, head: head}
	return l, l.open()
}

// Path is the file's name.
func (l *File) Path() string { return l.path }

// Older is the name of what the file was before it was renamed.
func Older(path string) string { return path + ".1" }

func (l *File) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.f, l.size = f, st.Size()
	return nil
}

// Write appends b as one write(2). A file that cannot be written loses b and
// stops nothing: it is in memory, and there is nobody to tell. The error is nil.
func (l *File) Write(b []byte) (int, error) {
	if l.size >= l.max {
		l.f.Close()
		_ = os.Rename(l.path, Older(l.path))
		if l.open() != nil {
			return len(b), nil // tried again with the next
		}
		if l.head != nil {
			l.put(l.head())
		}
	}
	l.put(b)
	return len(b), nil
}

func (l *File) put(b []byte) {
	n, _ := l.f.Write(b)
	l.size += int64(n)
}

// Close closes the file; what is appended later is lost.
func (l *File) Close() { l.f.Close() }
