// Package nbd serves a raw file as a disk that lies: it says that a write was
// done and did not do it, or did something else. QEMU has drivers for disks that
// fail, but none for disks that lie.
//
// It speaks as much of the NBD protocol as QEMU's client asks of a server
// without TLS (doc/proto.md of NetworkBlockDevice/nbd: fixed newstyle, simple
// replies), to one client at a time. It never serves a network.
package nbd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// Request is what the machine asked of the disk.
type Request struct {
	Kind     Kind
	Off, Len int64 // bytes
	N        int   // of its kind, from 0
}

// Kind of request, by its number in the protocol.
type Kind uint16

// The kinds.
const (
	Read        Kind = 0
	Write       Kind = 1
	disconnect  Kind = 2
	Flush       Kind = 3
	Discard     Kind = 4
	WriteZeroes Kind = 6
)

// Answer is what the disk does. The zero value is what it is asked for.
type Answer struct {
	Drop  bool          // say it was done
	Flip  bool          // write, or read, with the lowest bit of the first byte inverted
	Errno syscall.Errno // fail with EIO, ENOSPC, EINVAL or EPERM
}

// Storage is what a disk keeps its bytes in, such as an *os.File.
type Storage interface {
	io.ReaderAt
	io.WriterAt
}

// Disk is a disk of so many bytes.
type Disk struct {
	Storage Storage
	Size    int64
	// Answer decides for each request; nil does what is asked.
	Answer func(Request) Answer

	counts map[Kind]int
}

// Numbers of the protocol.
const (
	optMagic     = 0x49484156454f5054 // IHAVEOPT
	optReply     = 0x3e889045565a9
	requestMagic = 0x25609513
	replyMagic   = 0x67446698

	optExportName = 1
	optAbort      = 2
	optInfo       = 6
	optGo         = 7

	repAck   = 1
	repInfo  = 3
	repUnsup = 1<<31 | 1

	// HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES.
	exportFlags = 1<<0 | 1<<2 | 1<<3 | 1<<5 | 1<<6

	most = 64 << 20 // bytes of a request; QEMU sends at most 32 MiB
)

var be = binary.BigEndian

// Serve serves whoever connects, one after the other, until ctx is done or the
// listener is closed.
func (d *Disk) Serve(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	d.counts = map[Kind]int{}
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		end := context.AfterFunc(ctx, func() { c.Close() })
		err = d.serve(c)
		end()
		if c.Close(); err != nil && ctx.Err() == nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("nbd: %w", err)
		}
	}
}

func (d *Disk) serve(c net.Conn) error {
	r := bufio.NewReaderSize(c, 1<<20)
	goOn, err := d.negotiate(r, c)
	if err != nil || !goOn {
		return err
	}
	var head [28]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		if m := be.Uint32(head[:]); m != requestMagic {
			return fmt.Errorf("request magic %#x", m)
		}
		q := Request{Kind: Kind(be.Uint16(head[6:])), Off: int64(be.Uint64(head[16:])), Len: int64(be.Uint32(head[24:]))}
		if q.Kind == disconnect {
			return nil
		}
		var data []byte
		if q.Kind == Read || q.Kind == Write {
			if q.Len > most {
				return fmt.Errorf("request of %d bytes", q.Len)
			}
			data = make([]byte, q.Len)
		}
		if q.Kind == Write {
			if _, err := io.ReadFull(r, data); err != nil {
				return err
			}
		}
		errno := d.do(q, data)
		reply := make([]byte, 16, 16+len(data))
		be.PutUint32(reply, replyMagic)
		be.PutUint32(reply[4:], uint32(errno))
		copy(reply[8:], head[8:16])
		if q.Kind == Read && errno == 0 {
			reply = append(reply, data...)
		}
		if _, err := c.Write(reply); err != nil {
			return err
		}
	}
}

// negotiate ends in transmission, or with the client gone.
func (d *Disk) negotiate(r io.Reader, w io.Writer) (bool, error) {
	hello := append([]byte("NBDMAGICIHAVEOPT"), 0, 1|2) // FIXED_NEWSTYLE, NO_ZEROES
	if _, err := w.Write(hello); err != nil {
		return false, err
	}
	var flags [4]byte
	if _, err := io.ReadFull(r, flags[:]); err != nil {
		return false, err
	}
	var export [10]byte
	be.PutUint64(export[:], uint64(d.Size))
	be.PutUint16(export[8:], exportFlags)
	for {
		var head [16]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return false, err
		}
		option, n := be.Uint32(head[8:]), be.Uint32(head[12:])
		if m := be.Uint64(head[:]); m != optMagic || n > 64<<10 {
			return false, fmt.Errorf("option magic %#x, %d bytes", m, n)
		}
		if _, err := io.CopyN(io.Discard, r, int64(n)); err != nil {
			return false, err
		}
		var err error
		switch option {
		case optExportName: // no reply but the export; zeros only if not NO_ZEROES
			if be.Uint32(flags[:])&2 == 0 {
				_, err = w.Write(append(export[:], make([]byte, 124)...))
			} else {
				_, err = w.Write(export[:])
			}
			return err == nil, err
		case optInfo, optGo: // NBD_INFO_EXPORT is 0
			err = errors.Join(reply(w, option, repInfo, append([]byte{0, 0}, export[:]...)), reply(w, option, repAck, nil))
			if option == optGo {
				return err == nil, err
			}
		case optAbort:
			return false, reply(w, option, repAck, nil)
		default:
			err = reply(w, option, repUnsup, nil)
		}
		if err != nil {
			return false, err
		}
	}
}

func reply(w io.Writer, option, kind uint32, data []byte) error {
	b := make([]byte, 20, 20+len(data))
	be.PutUint64(b, optReply)
	be.PutUint32(b[8:], option)
	be.PutUint32(b[12:], kind)
	be.PutUint32(b[16:], uint32(len(data)))
	_, err := w.Write(append(b, data...))
	return err
}

// do is the disk itself.
func (d *Disk) do(q Request, data []byte) syscall.Errno {
	q.N = d.counts[q.Kind]
	d.counts[q.Kind]++
	var a Answer
	if d.Answer != nil {
		a = d.Answer(q)
	}
	switch {
	case a.Errno != 0:
		return a.Errno
	case q.Off < 0 || q.Off+q.Len > d.Size:
		return syscall.EINVAL
	case a.Drop && q.Kind != Read:
		return 0
	}
	if a.Flip && q.Kind == Write && len(data) > 0 {
		data[0] ^= 1
	}
	var err error
	switch q.Kind {
	case Read:
		var n int
		if n, err = d.Storage.ReadAt(data, q.Off); errors.Is(err, io.EOF) {
			clear(data[n:]) // a file shorter than its disk
			err = nil
		}
		if a.Flip && len(data) > 0 {
			data[0] ^= 1
		}
	case Write:
		_, err = d.Storage.WriteAt(data, q.Off)
	case WriteZeroes, Discard:
		err = d.zero(q.Off, q.Len)
	case Flush: // a power cut of the host is not what this tests
	default:
		return syscall.EINVAL
	}
	if err != nil {
		return syscall.EIO
	}
	return 0
}

// zero leaves a hole where there is one: mke2fs discards all of a partition.
func (d *Disk) zero(off, n int64) error {
	have, none := make([]byte, min(n, 1<<20)), make([]byte, min(n, 1<<20))
	for n > 0 {
		part := none[:min(n, int64(len(none)))]
		got, err := d.Storage.ReadAt(have[:len(part)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if !bytes.Equal(have[:got], part[:got]) {
			if _, err := d.Storage.WriteAt(part, off); err != nil {
				return err
			}
		}
		off, n = off+int64(len(part)), n-int64(len(part))
	}
	return nil
}
