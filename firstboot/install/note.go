package install

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"

	"slipway.dev/slipway/images/bootdisk"
)

// A note is noteMark, the length as four bytes (big-endian), the SHA-256 of the
// text, the text, and zeros, in bootdisk.Spare.
const (
	noteMark = "slipway note 1\n\x00"
	noteHead = len(noteMark) + 4 + sha256.Size
)

// noteWrites are the groups that leave a note; none for nil. Its first sector is on
// the disk before any other: without it nothing of the disk has changed.
func noteWrites(text []byte, sector int) [][]bootdisk.Write {
	if text == nil {
		return nil
	}
	at := bootdisk.Spare()
	if int64(noteHead+len(text)) > at.Size {
		return nil // without it the machine is approved again, if power goes now
	}
	sum := sha256.Sum256(text)
	out := binary.BigEndian.AppendUint32([]byte(noteMark), uint32(len(text)))
	out = append(append(out, sum[:]...), text...)
	out = append(out, make([]byte, int(at.Size)-len(out))...)
	return [][]bootdisk.Write{{{At: at.At, Data: out[:sector]}}, {{At: at.At + int64(sector), Data: out[sector:]}}}
}

// Noted is the Machine.Note of whoever last began to write this disk, nil when
// that has been done or when there was none.
func Noted(path string) []byte {
	dev, err := open(path)
	if err != nil {
		return nil
	}
	defer dev.Close()
	return NotedIn(dev)
}

// NotedIn is Noted of a disk that is open.
func NotedIn(disk io.ReaderAt) []byte {
	at := bootdisk.Spare()
	b := make([]byte, at.Size)
	if _, err := disk.ReadAt(b, at.At); err != nil || !bytes.HasPrefix(b, []byte(noteMark)) {
		return nil
	}
	n := int64(binary.BigEndian.Uint32(b[len(noteMark):]))
	if n > at.Size-int64(noteHead) {
		return nil
	}
	text := b[noteHead:][:n]
	if sum := sha256.Sum256(text); !bytes.Equal(sum[:], b[noteHead-sha256.Size:noteHead]) {
		return nil
	}
	return text
}

// Begun says that somebody began to leave a note on this disk: whether or not it
// can be read, the disk is not as it was.
func Begun(disk io.ReaderAt) bool {
	b := make([]byte, len(noteMark))
	_, err := disk.ReadAt(b, bootdisk.Spare().At)
	return err == nil && string(b) == noteMark
}

// forgetNote takes the note away, which may hold a secret.
func (d *Disk) forgetNote() error {
	dev, err := open(d.Path)
	if err != nil {
		return err
	}
	defer dev.Close()
	if NotedIn(dev) == nil {
		return nil
	}
	at := bootdisk.Spare()
	return dev.write([]bootdisk.Write{{At: at.At, Data: make([]byte, at.Size)}})
}
