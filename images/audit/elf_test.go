package audit

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// object is a small ELF file as a test describes it.
type object struct {
	machine elf.Machine // 0: amd64
	interp  string
	needed  []string
	runpath string
	rpath   string
	bare    bool // without section headers
}

// bytes writes a 64-bit little-endian file: header, program headers, the
// interpreter's name, the dynamic section, its strings, section headers.
func (o object) bytes() []byte {
	if o.machine == 0 {
		o.machine = elf.EM_X86_64
	}
	str := []byte{0}
	var dyn []elf.Dyn64
	tag := func(t elf.DynTag, s string) {
		if s != "" {
			dyn = append(dyn, elf.Dyn64{Tag: int64(t), Val: uint64(len(str))})
			str = append(str, s+"\x00"...)
		}
	}
	for _, n := range o.needed {
		tag(elf.DT_NEEDED, n)
	}
	tag(elf.DT_RUNPATH, o.runpath)
	tag(elf.DT_RPATH, o.rpath)
	dyn = append(dyn, elf.Dyn64{})

	const head, progs = 64, 2 * 56
	interp := []byte(o.interp + "\x00")
	dynAt := uint64(head + progs + len(interp))
	dynSize := uint64(len(dyn) * 16)
	strAt := dynAt + dynSize
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(o.machine), Version: 1, Phoff: head, Ehsize: head,
		Phentsize: 56, Phnum: 2, Shoff: strAt + uint64(len(str)), Shentsize: 64, Shnum: 3, Shstrndx: 2}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	if o.bare {
		h.Shoff, h.Shnum, h.Shstrndx = 0, 0, 0
	}
	first := elf.Prog64{Type: uint32(elf.PT_NULL)}
	if o.interp != "" {
		first = elf.Prog64{Type: uint32(elf.PT_INTERP), Off: head + progs, Filesz: uint64(len(interp))}
	}
	var out bytes.Buffer
	for _, part := range []any{h, first, elf.Prog64{Type: uint32(elf.PT_DYNAMIC), Off: dynAt, Filesz: dynSize}, interp, dyn, str} {
		_ = binary.Write(&out, binary.LittleEndian, part)
	}
	if !o.bare {
		_ = binary.Write(&out, binary.LittleEndian, []elf.Section64{{},
			{Type: uint32(elf.SHT_DYNAMIC), Off: dynAt, Size: dynSize, Link: 2, Entsize: 16},
			{Type: uint32(elf.SHT_STRTAB), Off: strAt, Size: uint64(len(str))}})
	}
	return out.Bytes()
}
