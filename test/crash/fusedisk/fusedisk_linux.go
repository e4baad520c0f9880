// Package fusedisk is a file whose every write and flush is recorded, for a loop
// device: what the kernel's own ext4 does to a disk can so be had without a
// machine. It wants root and /dev/fuse.
//
// It speaks as much FUSE as one file of a fixed size needs
// (include/uapi/linux/fuse.h, version 7.31). It does not refuse, tear or reorder
// anything: package crash does, afterwards.
package fusedisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/test/crash"
)

// Disk is a mounted file.
type Disk struct {
	Path string // give it to losetup(8)

	dir  string
	dev  *os.File
	data *os.File
	size int64
	log  *crash.Writer
	end  sync.WaitGroup
	err  error // of the server; valid when it ended
}

// Opcodes of struct fuse_in_header.
const (
	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opSetattr     = 4
	opOpen        = 14
	opRead        = 15
	opWrite       = 16
	opRelease     = 18
	opFsync       = 20
	opFlush       = 25
	opInit        = 26
	opInterrupt   = 36
	opDestroy     = 38
	opBatchForget = 42

	inHeader, outHeader = 40, 16

	bigWrites  = 1 << 5
	maxPages   = 1 << 22
	maxWrite   = 1 << 20
	openDirect = 1 // FOPEN_DIRECT_IO: no page cache between the loop device and here

	rootNode, diskNode = 1, 2
	sector             = 512
)

var le = binary.LittleEndian

// Mount makes a file of a size below dir, an empty directory. data keeps its
// content, log its recording.
func Mount(dir string, size int64, data, log *os.File) (*Disk, error) {
	if err := data.Truncate(size); err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/fuse: %w", err)
	}
	d := &Disk{Path: filepath.Join(dir, "disk"), dir: dir, dev: os.NewFile(uintptr(fd), "fuse"), data: data, size: size, log: crash.NewWriter(log, sector)}
	err = unix.Mount("slipway-crash", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mounting fuse: %w", err), d.dev.Close())
	}
	d.end.Go(func() { d.err = d.serve(fd) })
	return d, nil
}

// Close unmounts the file, which nothing may use any more.
func (d *Disk) Close() error {
	err := unix.Unmount(d.dir, 0)
	if err != nil {
		return fmt.Errorf("unmounting %s: %w", d.dir, err)
	}
	d.end.Wait()
	return errors.Join(d.err, d.dev.Close())
}

// serve answers until the file system is unmounted (ENODEV).
func (d *Disk) serve(fd int) error {
	b := make([]byte, maxWrite+4096)
	for {
		n, err := unix.Read(fd, b)
		switch {
		case errors.Is(err, unix.ENODEV):
			return nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil:
			return fmt.Errorf("/dev/fuse: %w", err)
		case n < inHeader:
			return fmt.Errorf("/dev/fuse: %d bytes", n)
		}
		op := le.Uint32(b[4:])
		if op == opForget || op == opBatchForget || op == opInterrupt {
			continue // no answer
		}
		out, errno := d.answer(op, le.Uint64(b[16:]), b[inHeader:n])
		reply := make([]byte, outHeader, outHeader+len(out))
		le.PutUint32(reply, uint32(outHeader+len(out)))
		le.PutUint32(reply[4:], uint32(-int32(errno)))
		copy(reply[8:], b[8:16]) // unique
		if _, err := unix.Write(fd, append(reply, out...)); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("answering operation %d: %w", op, err)
		}
		if op == opDestroy {
			return nil
		}
	}
}

// answer is a reply's body, or an errno.
func (d *Disk) answer(op uint32, node uint64, in []byte) ([]byte, unix.Errno) {
	switch op {
	case opInit:
		out := make([]byte, 64)
		le.PutUint32(out, 7)
		le.PutUint32(out[4:], 31)
		le.PutUint32(out[8:], le.Uint32(in[8:])) // max_readahead
		le.PutUint32(out[12:], le.Uint32(in[12:])&(bigWrites|maxPages))
		le.PutUint16(out[16:], 16)
		le.PutUint16(out[18:], 12)
		le.PutUint32(out[20:], maxWrite)
		le.PutUint32(out[24:], 1)
		le.PutUint16(out[28:], maxWrite/4096)
		return out, 0
	case opLookup:
		if node != rootNode || string(in) != "disk\x00" {
			return nil, unix.ENOENT
		}
		out := make([]byte, 40, 128)
		le.PutUint64(out, diskNode)
		le.PutUint64(out[16:], 3600)
		le.PutUint64(out[24:], 3600)
		return append(out, d.attr(diskNode)...), 0
	case opGetattr, opSetattr:
		out := make([]byte, 16, 104)
		le.PutUint64(out, 3600)
		return append(out, d.attr(node)...), 0
	case opOpen:
		out := make([]byte, 16)
		le.PutUint32(out[8:], openDirect)
		return out, 0
	case opRead:
		return d.read(int64(le.Uint64(in[8:])), int64(le.Uint32(in[16:])))
	case opWrite:
		return d.write(int64(le.Uint64(in[8:])), in[40:])
	case opFsync:
		return nil, errno(d.log.Add(0, 0, crash.Flush, nil))
	case opFlush, opRelease, opDestroy:
		return nil, 0
	}
	return nil, unix.ENOSYS // FALLOCATE too: the disk knows no discard
}

// attr is struct fuse_attr.
func (d *Disk) attr(node uint64) []byte {
	b := make([]byte, 88)
	le.PutUint64(b, node)
	mode, size := uint32(unix.S_IFDIR|0o700), int64(0)
	if node == diskNode {
		mode, size = unix.S_IFREG|0o600, d.size
	}
	le.PutUint64(b[8:], uint64(size))
	le.PutUint64(b[16:], uint64(size/512))
	le.PutUint32(b[60:], mode)
	le.PutUint32(b[64:], 1)
	le.PutUint32(b[80:], 4096)
	return b
}

func (d *Disk) read(off, n int64) ([]byte, unix.Errno) {
	b := make([]byte, max(min(n, d.size-off), 0))
	if _, err := d.data.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
		return nil, unix.EIO
	}
	return b, 0
}

func (d *Disk) write(off int64, data []byte) ([]byte, unix.Errno) {
	if off%sector != 0 || len(data)%sector != 0 || off+int64(len(data)) > d.size {
		return nil, unix.EINVAL // a loop device writes whole sectors
	}
	if _, err := d.data.WriteAt(data, off); err != nil {
		return nil, unix.EIO
	}
	if e := errno(d.log.Add(off, 0, 0, data)); e != 0 {
		return nil, e
	}
	out := make([]byte, 8)
	le.PutUint32(out, uint32(len(data)))
	return out, 0
}

func errno(err error) unix.Errno {
	if err != nil {
		return unix.EIO
	}
	return 0
}
