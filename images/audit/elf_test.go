package audit

import (
	"debug/elf"
	"encoding/binary"
	"strings"
)

// object is a small ELF file as a test describes it.
type object struct {
	machine elf.Machine // 0: amd64
	interp  string
	needed  []string
	runpath string
	rpath   string
	defines []string // symbol versions
	wants   []string // "library version", or "library version weak"
	bare    bool     // without section headers
}

// bytes writes a 64-bit little-endian file: header, program headers, the
// interpreter's name, the sections, section headers.
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

	name := func(s string) uint32 {
		str = append(str, s+"\x00"...)
		return uint32(len(str) - len(s) - 1)
	}
	var defs, needs []byte
	for i, d := range o.defines {
		// Elfxx_Verdef and its one Elfxx_Verdaux (LSB Core, 10.7.3).
		defs = le(defs, uint16(1), uint16(0), uint16(i+2), uint16(1), uint32(0), uint32(20), next(i, o.defines, 28), name(d), uint32(0))
	}
	for i, w := range o.wants {
		// Elfxx_Verneed and its one Elfxx_Vernaux (LSB Core, 10.7.4).
		f := strings.Fields(w)
		needs = le(needs, uint16(1), uint16(1), name(f[0]), uint32(16), next(i, o.wants, 32), uint32(0), uint16(len(f)-2)*2, uint16(i+2), name(f[1]), uint32(0))
	}
	return o.layout(dyn, str, defs, needs)
}

func next(i int, all []string, size uint32) uint32 {
	if i == len(all)-1 {
		return 0
	}
	return size
}

func le(to []byte, values ...any) []byte {
	for _, v := range values {
		to, _ = binary.Append(to, binary.LittleEndian, v)
	}
	return to
}

func (o object) layout(dyn []elf.Dyn64, str, defs, needs []byte) []byte {
	const head, progs = 64, 2 * 56
	interp := []byte(o.interp + "\x00")
	parts := []struct {
		kind elf.SectionType
		raw  []byte
		size uint64 // of one entry
	}{
		{elf.SHT_DYNAMIC, le(nil, dyn), 16}, {elf.SHT_STRTAB, str, 0}, {elf.SHT_DYNSYM, make([]byte, elf.Sym64Size), elf.Sym64Size},
		{elf.SHT_GNU_VERSYM, []byte{0, 0}, 2}, {elf.SHT_GNU_VERDEF, defs, 0}, {elf.SHT_GNU_VERNEED, needs, 0},
	}
	sections := []elf.Section64{{}}
	body := interp
	for _, p := range parts {
		if len(p.raw) > 0 {
			sections = append(sections, elf.Section64{Type: uint32(p.kind), Off: uint64(head + progs + len(body)), Size: uint64(len(p.raw)), Link: 2, Entsize: p.size})
			body = append(body, p.raw...)
		}
	}
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(o.machine), Version: 1, Phoff: head, Ehsize: head,
		Phentsize: 56, Phnum: 2, Shoff: uint64(head + progs + len(body)), Shentsize: 64, Shnum: uint16(len(sections)), Shstrndx: 2}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	if o.bare {
		h.Shoff, h.Shnum, h.Shstrndx, sections = 0, 0, 0, nil
	}
	first := elf.Prog64{Type: uint32(elf.PT_NULL)}
	if o.interp != "" {
		first = elf.Prog64{Type: uint32(elf.PT_INTERP), Off: head + progs, Filesz: uint64(len(interp))}
	}
	dynamic := elf.Prog64{Type: uint32(elf.PT_DYNAMIC), Off: uint64(head + progs + len(interp)), Filesz: uint64(16 * len(dyn))}
	return le(nil, h, first, dynamic, body, sections)
}
