package web

import (
	"io"
	"net"
	"os"
	"syscall"
)

// body is the content of one request as http.ServeContent wants it.
type body struct {
	*io.SectionReader // of failing
	failing           *reader
	file              *os.File // where the bytes are, nil when in no file
	at                int64    // of the first one
	extend            func()   // moves the write deadline along
}

func newBody(c Content, extend func()) *body {
	r := &reader{ReaderAt: c.Reader}
	b := &body{SectionReader: io.NewSectionReader(r, 0, c.Size), failing: r, extend: extend}
	b.file, b.at = region(c.Reader, c.Size)
	return b
}

// region finds the file of which r is a part and where that begins. A file on an
// ISO is a section of the image.
func region(r io.ReaderAt, size int64) (f *os.File, at int64) {
	for {
		switch v := r.(type) {
		case *os.File:
			return v, at
		case interface {
			Outer() (io.ReaderAt, int64, int64) // of io.SectionReader
		}:
			outer, off, n := v.Outer()
			if at+size > n { // what is behind the section is not the client's
				return nil, 0
			}
			r, at = outer, at+off
		default:
			return nil, 0
		}
	}
}

// sendTo lets the kernel move up to n bytes, from where the body stands, to the
// connection. What it does not take is left for a copy; only an error of the
// connection is returned.
func (b *body) sendTo(c *net.TCPConn, n int64) (sent int64, err error) {
	if b.file == nil {
		return 0, nil
	}
	from, err := b.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	in, err := b.file.SyscallConn()
	if err != nil {
		return 0, nil // a closed file: the copy says so
	}
	out, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	in.Control(func(fd uintptr) { // holds the file open
		sent, failed = sendFile(out, fd, b.at+from, n, b.extend)
	})
	if _, err := b.Seek(from+sent, io.SeekStart); err != nil {
		return sent, err
	}
	return sent, failed
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
