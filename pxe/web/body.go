package web

import (
	"bytes"
	"io"
	"net"
	"os"
	"syscall"
)

// body is the content of one request as http.ServeContent wants it.
type body struct {
	*io.SectionReader // of failing
	failing           *reader
	file              *os.File      // where the bytes are, or
	memory            *bytes.Reader // or neither
	at                int64         // of the first one
	extend            func()        // moves the write deadline along
}

func newBody(c Content, extend func()) *body {
	r := &reader{ReaderAt: c.Reader}
	b := &body{SectionReader: io.NewSectionReader(r, 0, c.Size), failing: r, extend: extend}
	where, at := region(c.Reader, c.Size)
	switch b.at = at; v := where.(type) {
	case *os.File:
		b.file = v
	case *bytes.Reader:
		b.memory = v
	}
	return b
}

// direct says that the bytes can go to the connection without a copy of ours.
func (b *body) direct() bool { return b.file != nil || b.memory != nil }

// region finds what r is a part of and where that begins. A file on an ISO is a
// section of the image.
func region(r io.ReaderAt, size int64) (outer io.ReaderAt, at int64) {
	for {
		switch v := r.(type) {
		case interface {
			Outer() (io.ReaderAt, int64, int64) // of io.SectionReader
		}:
			inner, off, n := v.Outer()
			if at+size > n { // what is behind the section is not the client's
				return nil, 0
			}
			r, at = inner, at+off
		default:
			return r, at
		}
	}
}

// sendTo gives up to n bytes, from where the body stands, to the connection.
// What cannot be sent so is left for a copy; only an error of the connection is
// returned.
func (b *body) sendTo(c *net.TCPConn, n int64) (sent int64, err error) {
	from, err := b.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	switch {
	case b.file != nil:
		sent, err = b.sendFile(c, from, n)
	case b.memory != nil:
		sent, err = b.sendMemory(c, from, n)
	}
	if _, err := b.Seek(from+sent, io.SeekStart); err != nil {
		return sent, err
	}
	return sent, err
}

// sendFile lets the kernel move the bytes.
func (b *body) sendFile(c *net.TCPConn, from, n int64) (sent int64, err error) {
	in, err := b.file.SyscallConn()
	if err != nil {
		return 0, nil // a closed file: the copy says so
	}
	out, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	in.Control(func(fd uintptr) { // holds the file open
		sent, err = sendFile(out, fd, b.at+from, n, b.extend)
	})
	return sent, err
}

// piece is how much memory is written under one deadline, in bytes.
const piece = 64 << 10

// sendMemory writes from where the bytes are.
func (b *body) sendMemory(c *net.TCPConn, from, n int64) (sent int64, err error) {
	r := *b.memory // requests share it
	if _, err := r.Seek(b.at+from, io.SeekStart); err != nil {
		return 0, nil
	}
	var all view
	r.WriteTo(&all)
	for left := all[:min(n, int64(len(all)))]; len(left) > 0; {
		b.extend()
		did, err := c.Write(left[:min(piece, len(left))])
		sent += int64(did)
		if left = left[did:]; err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// view keeps what bytes.Reader writes at once: its own bytes, which nobody changes.
type view []byte

func (v *view) Write(b []byte) (int, error) {
	*v = b
	return len(b), nil
}

// ReadFrom is what net/http calls with a *body when the answer's header is out.
func (c *conn) ReadFrom(src io.Reader) (n int64, err error) {
	l, limited := src.(*io.LimitedReader)
	tcp, plain := c.Conn.(*net.TCPConn)
	out := io.Writer(c.Conn)
	if limited && plain {
		if b, ok := l.R.(*body); ok {
			n, err = b.sendTo(tcp, l.N)
			if l.N -= n; err != nil {
				return n, err
			}
			out = paced{c.Conn, b.extend}
		}
	}
	rest, err := io.Copy(struct{ io.Writer }{out}, src)
	return n + rest, err
}

// paced moves the write deadline along before each write.
type paced struct {
	io.Writer
	extend func()
}

func (p paced) Write(b []byte) (int, error) {
	p.extend()
	return p.Writer.Write(b)
}

// refused says whether the kernel does not send from such a file, or could not
// read it: reading says why.
func refused(err error) bool {
	switch err {
	case syscall.EINVAL, syscall.ENOSYS, syscall.EOPNOTSUPP, syscall.EIO, syscall.EOVERFLOW, syscall.EPERM:
		return true
	}
	return false
}
