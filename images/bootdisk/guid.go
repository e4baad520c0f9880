package bootdisk

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// GUID is a GUID in the order in which it is printed (RFC 9562 section 4). On
// disk the first three fields are little-endian (UEFI 2.10 appendix A).
type GUID [16]byte

// NewGUID makes a GUID of sixteen random bytes (RFC 9562 section 5.4).
func NewGUID(random [16]byte) GUID {
	g := GUID(random)
	g[6] = g[6]&0x0f | 0x40
	g[8] = g[8]&0x3f | 0x80
	return g
}

// ParseGUID reads the usual form, 8-4-4-4-12 hexadecimal digits.
func ParseGUID(s string) (GUID, error) {
	var g GUID
	raw, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(raw) != len(g) || len(s) != 36 {
		return g, fmt.Errorf("GUID %q: want 8-4-4-4-12 hexadecimal digits", s)
	}
	copy(g[:], raw)
	return g, nil
}

func (g GUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", g[:4], g[4:6], g[6:8], g[8:10], g[10:])
}

// disk is the GUID in its order on disk; it is its own inverse.
func (g GUID) disk() GUID {
	var out GUID
	binary.LittleEndian.PutUint32(out[:], binary.BigEndian.Uint32(g[:]))
	binary.LittleEndian.PutUint16(out[4:], binary.BigEndian.Uint16(g[4:]))
	binary.LittleEndian.PutUint16(out[6:], binary.BigEndian.Uint16(g[6:]))
	copy(out[8:], g[8:])
	return out
}

// The types of partitions: BIOS boot, which no operating system looks into, EFI
// system (UEFI 2.10 table 5.7), and Linux data.
var (
	typeBIOS  = GUID{0x21, 0x68, 0x61, 0x48, 0x64, 0x49, 0x6e, 0x6f, 0x74, 0x4e, 0x65, 0x65, 0x64, 0x45, 0x46, 0x49}
	typeESP   = GUID{0xc1, 0x2a, 0x73, 0x28, 0xf8, 0x1f, 0x11, 0xd2, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}
	typeLinux = GUID{0x0f, 0xc6, 0x3d, 0xaf, 0x84, 0x83, 0x47, 0x72, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4}
)
