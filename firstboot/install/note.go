package install

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"

	"slipway.dev/slipway/images/bootdisk"
)

// A note is noteMark, the GUID that the disk is to have, the length of the text as
// four bytes (big-endian), the SHA-256 of GUID and text, the text, and zeros, in
// bootdisk.Spare.
const (
	noteMark = "slipway note 2\n\x00"
	noteSum  = len(noteMark) + len(bootdisk.GUID{}) + 4
	noteHead = noteSum + sha256.Size
)

// noteWrites are the groups that leave a note. Its first sector is on the disk
// before any other: without it nothing of the disk has changed.
func noteWrites(id bootdisk.GUID, text []byte, sector int) [][]bootdisk.Write {
	at := bootdisk.Spare()
	if int64(noteHead+len(text)) > at.Size {
		text = nil // without it the machine is approved again, if power goes now
	}
	sum := sha256.Sum256(append(id[:], text...))
	out := append([]byte(noteMark), id[:]...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(text)))
	out = append(append(out, sum[:]...), text...)
	out = append(out, make([]byte, int(at.Size)-len(out))...)
	return [][]bootdisk.Write{{{At: at.At, Data: out[:sector]}}, {{At: at.At + int64(sector), Data: out[sector:]}}}
}

// readNote is what a whole note says.
func readNote(disk io.ReaderAt) (id bootdisk.GUID, text []byte, ok bool) {
	at := bootdisk.Spare()
	b := make([]byte, at.Size)
	if _, err := disk.ReadAt(b, at.At); err != nil || !bytes.HasPrefix(b, []byte(noteMark)) {
		return id, nil, false
	}
	copy(id[:], b[len(noteMark):])
	n := int64(binary.BigEndian.Uint32(b[noteSum-4:]))
	if n > at.Size-int64(noteHead) {
		return id, nil, false
	}
	text = b[noteHead:][:n]
	sum := sha256.Sum256(append(id[:], text...))
	return id, text, bytes.Equal(sum[:], b[noteSum:noteHead])
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
	if _, text, ok := readNote(disk); ok && len(text) > 0 {
		return text
	}
	return nil
}

// NotedFor says that a disk was begun for this owner and nobody finished.
func NotedFor(path string, o Owner) bool {
	dev, err := open(path)
	if err != nil {
		return false
	}
	defer dev.Close()
	return NotedForIn(dev, o.ID())
}

// NotedForIn is NotedFor of a disk that is open.
func NotedForIn(disk io.ReaderAt, id bootdisk.GUID) bool {
	got, _, ok := readNote(disk)
	return ok && got == id
}

// Begun says that somebody began to leave a note on this disk: whether or not it
// can be read, the disk is not as it was.
func Begun(disk io.ReaderAt) bool {
	b := make([]byte, len(noteMark))
	_, err := disk.ReadAt(b, bootdisk.Spare().At)
	return err == nil && string(b) == noteMark
}

// forgetNote takes the note away, which may hold a secret.
func (dev *device) forgetNote() error {
	if !Begun(dev) {
		return nil
	}
	at := bootdisk.Spare()
	return dev.write([]bootdisk.Write{{At: at.At, Data: make([]byte, at.Size)}})
}
