package button

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

func TestOnlyThePressOfThePowerKeyCounts(t *testing.T) {
	var in bytes.Buffer
	for _, e := range [][3]uint32{{evKey, 30, 1}, {evKey, keyPower, 1}, {0, 0, 0}, {evKey, keyPower, 0}, {4, keyPower, 1}, {evKey, keyPower, 1}} {
		b := make([]byte, eventSize)
		binary.NativeEndian.PutUint16(b[16:], uint16(e[0]))
		binary.NativeEndian.PutUint16(b[18:], uint16(e[1]))
		binary.NativeEndian.PutUint32(b[20:], e[2])
		in.Write(b)
	}
	n := 0
	if err := events(&in, func() { n++ }); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if n != 2 {
		t.Errorf("%d presses, want 2", n)
	}
}

func TestWatchNamesAMissingDevice(t *testing.T) {
	if err := Watch(t.Context(), t.TempDir()+"/event0", func() {}); err == nil {
		t.Error("no error")
	}
}
