package bootdisk

import (
	"bytes"
	"fmt"
	"slices"
)

// Code gives a disk that was read the MBR's code, the content of isohdpfx.bin,
// which Activate writes; one that Format was called on has it.
func (d *Disk) Code(isohdpfx []byte) error {
	if !d.bios {
		return nil
	}
	if len(isohdpfx) < mbrCode {
		return fmt.Errorf("%s has %d bytes, want at least %d", mbrName, len(isohdpfx), mbrCode)
	}
	d.code = slices.Clone(isohdpfx[:mbrCode])
	return nil
}

// passing is what Pass does; see there.
var passing = []byte{
	0x31, 0xc0, // xor ax, ax
	0x8e, 0xd8, // mov ds, ax
	0x8e, 0xc0, // mov es, ax
	0x8e, 0xd0, // mov ss, ax
	0xbc, 0x00, 0x7c, // mov sp, 7c00h
	0xfb,             // sti
	0xfc,             // cld
	0xbe, 0x00, 0x7c, // mov si, 7c00h: out of the way of the next disk's code
	0xbf, 0x00, 0x06, // mov di, 600h
	0xb9, 0x00, 0x01, // mov cx, 256
	0xf3, 0xa5, // rep movsw
	0xea, 0x1d, 0x06, 0x00, 0x00, // jmp 0:61dh
	0x84, 0xd2, // test dl, dl: the BIOS's number of this disk
	0x78, 0x02, // js known
	0xb2, 0x80, // mov dl, 80h
	0xbe, 0x57, 0x06, // known: mov si, text
	0xac,       // letter: lodsb
	0x84, 0xc0, // test al, al
	0x74, 0x09, // jz next
	0xb4, 0x0e, // mov ah, 0eh: teletype
	0xbb, 0x07, 0x00, // mov bx, 7
	0xcd, 0x10, // int 10h
	0xeb, 0xf2, // jmp letter
	0xfe, 0xc2, // next: inc dl
	0xb6, 0x00, // mov dh, 0
	0xb8, 0x01, 0x02, // mov ax, 201h: read one sector
	0xbb, 0x00, 0x7c, // mov bx, 7c00h
	0xb9, 0x01, 0x00, // mov cx, 1
	0xcd, 0x13, // int 13h
	0x72, 0x0d, // jc pass
	0x81, 0x3e, 0xfe, 0x7d, 0x55, 0xaa, // cmp word [7dfeh], aa55h
	0x75, 0xe7, // jne next
	0xea, 0x00, 0x7c, 0x00, 0x00, // jmp 0:7c00h
	0xcd, 0x18, // pass: int 18h
	0xf4,       // wait: hlt
	0xeb, 0xfd, // jmp wait
}

// Pass is MBR code for a disk that holds no system: it says why, starts the next
// disk that the BIOS knows (interrupt 13h), and has the BIOS try its next device
// where there is none (interrupt 18h, BIOS Boot Specification 1.01 section 6.7).
// A table has the mark of a disk that starts (55h AAh) also where nothing does,
// and a BIOS that goes by it alone would run zeros for ever.
func Pass(why string) []byte {
	return append(slices.Clone(passing), "slipway: "+why+": trying the next device\r\n\x00"...)
}

// Passes reports that an MBR has Pass's code.
func Passes(mbr []byte) bool { return bytes.HasPrefix(mbr, passing) }
