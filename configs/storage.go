package configs

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Storage is what is done with disks for data. The boot medium and disks that
// hold something else are never touched.
type Storage struct {
	DeviceAliases map[string]string    `json:"device_aliases,omitempty"` // name to use below: device
	DiskSetup     map[string]DiskSetup `json:"disk_setup,omitempty"`     // by device or alias
	FSSetup       []FSSetup            `json:"fs_setup,omitempty"`
	Mounts        []Mount              `json:"mounts,omitempty"`
	MountDefaults []MountField         `json:"mount_default_fields,omitempty"` // six, as in fstab(5)
	Swap          Swap                 `json:"swap,omitzero"`
}

// DiskSetup is the partition table of one disk.
type DiskSetup struct {
	TableType TableType `json:"table_type,omitempty"` // empty is "mbr"
	Layout    Layout    `json:"layout,omitzero"`
	// Overwrite allows a disk that holds something else to be partitioned. A
	// disk that already is as described is left alone even then.
	Overwrite bool `json:"overwrite,omitempty"`
}

// TableType is "gpt" or "mbr".
type TableType string

func (TableType) words() []string { return []string{"gpt", "mbr"} }

// Layout is the partitions of a disk, none when it is false in YAML.
type Layout struct {
	Parts []Part // true in YAML is one of 100 percent
}

// Part is one partition.
type Part struct {
	Percent int    // of the disk
	Type    string // MBR: two hex digits; GPT: four, or a GUID. Empty is Linux.
}

// FSSetup is one file system to make.
type FSSetup struct {
	Label      string    `json:"label,omitempty"`
	Filesystem string    `json:"filesystem,omitempty"` // ext2, ext3, ext4, xfs, vfat, swap
	Device     string    `json:"device,omitempty"`     // path or alias
	Partition  Partition `json:"partition,omitempty"`  // empty is "any"
	// Overwrite allows a file system of another kind to be replaced. One of
	// this kind and label is left alone even then.
	Overwrite bool    `json:"overwrite,omitempty"`
	ReplaceFS string  `json:"replace_fs,omitempty"` // with auto and any: the kind that may be replaced
	ExtraOpts Options `json:"extra_opts,omitempty"` // arguments of mkfs
}

// Partition is "auto" (by kind and label), "any" (by kind), "none" (the whole
// device) or a number from 1.
type Partition string

// Number is the partition's number, 0 when it is chosen by what it holds.
func (p Partition) Number() int {
	n, _ := strconv.Atoi(string(p))
	return n
}

// Options are arguments; in YAML also one string with blanks between them.
type Options []string

// Mount is one line of fstab(5): 1 to 6 fields. Missing ones are taken from
// mount_default_fields; a mount without a directory takes an earlier one back.
type Mount []MountField

// MountField is one field; in YAML also a number or nothing.
type MountField string

// Swap is a swap file on a mounted disk.
type Swap struct {
	Filename string `json:"filename,omitempty"` // default /swap.img
	Size     Size   `json:"size,omitempty"`
	MaxSize  Size   `json:"maxsize,omitempty"`
}

// Size is in bytes; SizeAuto goes by the machine's memory.
type Size int64

// SizeAuto is "auto".
const SizeAuto Size = -1

func (FSSetup) notes() map[string]note {
	return each(note{text: "would be a line for the shell", hint: "write filesystem, label and extra_opts, or run the command in bootcmd"}, "cmd")
}

func (Layout) forms() []any { return []any{false, []layoutItem(nil), ""} }

type layoutItem Part

func (layoutItem) forms() []any { return []any{0, []layoutWord(nil)} }

type layoutWord string

func (layoutWord) forms() []any { return []any{"", 0} }

func (w *layoutWord) UnmarshalJSON(b []byte) error {
	*w = layoutWord(strings.Trim(string(b), `"`))
	return nil
}

// UnmarshalJSON reads true, false or a list.
func (l *Layout) UnmarshalJSON(b []byte) error {
	*l = Layout{}
	switch {
	case b[0] == '"':
		return fmt.Errorf("want true, false or a list, got %s: slipway empties no disk", b)
	case string(b) == "true":
		l.Parts = []Part{{Percent: 100}}
		return nil
	case string(b) == "false", string(b) == "null":
		return nil
	}
	var items []layoutItem
	if err := json.Unmarshal(b, &items); err != nil {
		return err
	}
	for _, i := range items {
		l.Parts = append(l.Parts, Part(i))
	}
	return nil
}

// UnmarshalJSON reads a number, or a list of a number and a type.
func (i *layoutItem) UnmarshalJSON(b []byte) error {
	*i = layoutItem{}
	if b[0] != '[' {
		return json.Unmarshal(b, &i.Percent)
	}
	var words []layoutWord
	if err := json.Unmarshal(b, &words); err != nil {
		return err
	}
	if len(words) != 2 {
		return fmt.Errorf("want [percent, type], got %d values", len(words))
	}
	n, err := strconv.Atoi(string(words[0]))
	if err != nil {
		return fmt.Errorf("want a percentage first, got %q", string(words[0]))
	}
	i.Percent, i.Type = n, string(words[1])
	return nil
}

// MarshalJSON writes a list.
func (l Layout) MarshalJSON() ([]byte, error) {
	items := []any{}
	for _, p := range l.Parts {
		if p.Type == "" {
			items = append(items, p.Percent)
		} else {
			items = append(items, []any{p.Percent, p.Type})
		}
	}
	return json.Marshal(items)
}

func (Partition) forms() []any { return []any{"", 0} }

func (Partition) words() []string { return []string{"auto", "any", "none"} }

// UnmarshalJSON reads auto, any, none or a number.
func (p *Partition) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	if n, err := strconv.Atoi(s); s != "auto" && s != "any" && s != "none" && (err != nil || n < 1 || n > 128) {
		return fmt.Errorf("want auto, any, none or a number from 1, got %q", s)
	}
	*p = Partition(s)
	return nil
}

func (Options) forms() []any { return []any{[]string(nil), ""} }

// UnmarshalJSON reads a list, or one string split at blanks.
func (o *Options) UnmarshalJSON(b []byte) error {
	var s string
	if b[0] != '"' {
		return json.Unmarshal(b, (*[]string)(o))
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*o = strings.Fields(s)
	return nil
}

func (MountField) forms() []any { return []any{"", 0, false} }

func (MountField) nullable() {}

// UnmarshalJSON reads a string, a number, a boolean or null as text.
func (f *MountField) UnmarshalJSON(b []byte) error {
	var s string
	if string(b) == "null" {
		*f = ""
		return nil
	}
	if b[0] != '"' {
		*f = MountField(b)
		return nil
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if strings.ContainsAny(s, " \t\n") {
		return fmt.Errorf("%q has a blank, which fstab(5) cannot hold", s)
	}
	*f = MountField(s)
	return nil
}

func (Size) forms() []any { return []any{"", 0} }

// UnmarshalJSON reads "auto", bytes, or a number with B, K, M, G or T (powers of 1024).
func (z *Size) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	if s == "auto" {
		*z = SizeAuto
		return nil
	}
	digits, factor := strings.TrimSuffix(s, "B"), int64(1)
	for i, unit := range []string{"K", "M", "G", "T"} {
		if d, ok := strings.CutSuffix(digits, unit); ok {
			digits, factor = d, 1<<(10*(i+1))
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > 1<<50/factor {
		return fmt.Errorf("want auto or a size such as 2G, got %q", s)
	}
	*z = Size(n * factor)
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (z Size) MarshalJSON() ([]byte, error) {
	if z == SizeAuto {
		return json.Marshal("auto")
	}
	return json.Marshal(int64(z))
}

// Device resolves an alias, "sdb" and "ephemeral.1" ("/dev/sdb", partition 1).
func (s *Storage) Device(name string) (device string, partition int) {
	if base, n, ok := strings.Cut(name, "."); ok && !strings.Contains(base, "/") || ok && matches(`/dev/[a-z0-9]+\.[0-9]+`, name) {
		if i, err := strconv.Atoi(n); err == nil {
			name, partition = base, i
		}
	}
	if to, ok := s.DeviceAliases[name]; ok {
		name = to
	}
	if matches(`x?[shv]d[a-z]+[0-9]*|nvme[0-9]+n[0-9]+(p[0-9]+)?|sr[0-9]+`, name) {
		name = "/dev/" + name
	}
	return name, partition
}

// Lines are the mounts with all six fields, after defaults and removals, and
// the swap file's when there is one.
func (s *Storage) Lines() [][6]string {
	def := [6]string{"", "", "auto", "defaults,nofail,_netdev", "0", "2"}
	for i, f := range s.MountDefaults {
		if i < 6 && f != "" {
			def[i] = string(f)
		}
	}
	var out [][6]string
	for _, m := range s.Mounts {
		line := def
		for i, f := range m {
			if i < 6 && f != "" {
				line[i] = string(f)
			}
		}
		line[0] = s.mountDevice(line[0])
		if len(m) < 2 || m[1] == "" {
			out = slices.DeleteFunc(out, func(l [6]string) bool { return l[0] == line[0] })
			continue
		}
		out = append(out, line)
	}
	return out
}

// mountDevice is the device of a mount; "sdb.1" is a partition.
func (s *Storage) mountDevice(name string) string {
	device, n := s.Device(name)
	if n == 0 {
		return device
	}
	return PartitionPath(device, n)
}

// PartitionPath is the device of a disk's partition: /dev/sdb1, /dev/nvme0n1p1.
func PartitionPath(disk string, n int) string {
	if last := disk[len(disk)-1]; '0' <= last && last <= '9' {
		return fmt.Sprintf("%sp%d", disk, n)
	}
	return fmt.Sprintf("%s%d", disk, n)
}

func (s *Storage) check(a at) {
	for _, name := range slices.Sorted(maps.Keys(s.DeviceAliases)) {
		a.key("device_aliases").key(name).must(s.DeviceAliases[name], devicePath)
	}
	for _, name := range slices.Sorted(maps.Keys(s.DiskSetup)) {
		here := a.key("disk_setup").key(name)
		s.checkDevice(here.onKey(), name)
		d := s.DiskSetup[name]
		d.check(here)
	}
	for i, f := range s.FSSetup {
		here := a.key("fs_setup").item(i)
		f.check(here)
		if f.Device != "" {
			s.checkDevice(here.key("device"), f.Device)
		}
	}
	points := map[string]int{}
	for i, m := range s.Mounts {
		here := a.key("mounts").item(i)
		s.checkMount(here, m)
		if len(m) < 2 || m[1] == "" || m[1] == "none" || m[1] == "swap" {
			continue
		}
		if j, ok := points[string(m[1])]; ok {
			here.item(1).errorf("%q is already mounts[%d]", string(m[1]), j)
		}
		points[string(m[1])] = i
	}
	if len(s.MountDefaults) > 6 {
		a.key("mount_default_fields").errorf("want six fields, got %d", len(s.MountDefaults))
	}
	swap := a.key("swap")
	if swap.set() && s.Swap.Size == 0 {
		swap.key("size").missing()
	}
	swap.key("filename").may(s.Swap.Filename, nodePath)
}

func (s *Storage) checkDevice(a at, name string) {
	device, _ := s.Device(name)
	if strings.HasPrefix(device, "ephemeral") || strings.HasPrefix(device, "ebs") || device == "ami" || device == "root" {
		a.errorf("%q is a name that a cloud gives to a disk", name).Hint = "write the disk's path, best one from /dev/disk/by-id, or give the name under device_aliases"
		return
	}
	a.may(device, devicePath)
}

func devicePath(s string) error {
	if !strings.HasPrefix(s, "/dev/") || path.Clean(s) != s || strings.ContainsAny(s, " \t\n") {
		return fmt.Errorf("%q is not a device: want a path such as %q", s, "/dev/sdb")
	}
	return nil
}

func (s *Storage) checkMount(a at, m Mount) {
	if len(m) == 0 || len(m) > 6 {
		a.errorf("want 1 to 6 fields, got %d", len(m))
		return
	}
	spec := string(m[0])
	if device, _ := s.Device(spec); !strings.Contains(spec, ":") && !strings.Contains(spec, "=") && (len(m) < 3 || m[2] != "tmpfs") {
		if spec == "" {
			a.item(0).missing()
		} else {
			s.checkDevice(a.item(0), device)
		}
	}
	if len(m) > 1 && m[1] != "" && m[1] != "none" && m[1] != "swap" {
		a.item(1).may(string(m[1]), nodePath)
	}
}

func (d *DiskSetup) check(a at) {
	a.key("table_type").oneOf(string(d.TableType), "gpt", "mbr")
	total := 0
	for i, p := range d.Layout.Parts {
		here := a.key("layout").item(i)
		if p.Percent < 1 || p.Percent > 100 {
			here.errorf("want a percentage from 1 to 100, got %d", p.Percent)
		}
		total += p.Percent
		kind := `[0-9A-Fa-f]{1,2}`
		if d.TableType == "gpt" {
			kind = `[0-9A-Fa-f]{4}|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|82|83`
		}
		if p.Type != "" && !matches(kind, p.Type) {
			here.errorf("%q is not a partition type of a table of type %s", p.Type, d.Table())
		}
	}
	if total > 100 {
		a.key("layout").errorf("the partitions are %d percent of the disk", total)
	}
	if n := len(d.Layout.Parts); d.Table() == "mbr" && n > 4 {
		a.key("layout").errorf("%d partitions, and a table of type mbr holds 4", n).Hint = "write table_type: gpt"
	}
}

// Table is the table type with its default.
func (d *DiskSetup) Table() TableType {
	if d.TableType == "" {
		return "mbr"
	}
	return d.TableType
}

func (f *FSSetup) check(a at) {
	a.key("device").must(f.Device, nil)
	a.key("filesystem").must(f.Filesystem, nil)
	most := map[string]int{"ext2": 16, "ext3": 16, "ext4": 16, "xfs": 12, "vfat": 11, "swap": 15}
	a.key("filesystem").oneOf(f.Filesystem, "ext4", "xfs", "vfat", "swap", "ext2", "ext3")
	if n := most[f.Filesystem]; n > 0 && len(f.Label) > n {
		a.key("label").errorf("%q is %d bytes long, and %s takes %d", f.Label, len(f.Label), f.Filesystem, n)
	}
	if f.Filesystem == "vfat" && f.Label != strings.ToUpper(f.Label) {
		a.key("label").errorf("%q has lower-case letters, which vfat does not keep: write %q", f.Label, strings.ToUpper(f.Label))
	}
	if slices.Contains([]string{"SLIPWAY", "SLIPWAY-STORE", "SLIPWAY-STATE", "CIDATA"}, strings.ToUpper(f.Label)) {
		a.key("label").errorf("%q is what slipway calls a volume of its own", f.Label)
	}
	if f.ReplaceFS != "" && f.Partition != "" && f.Partition != "auto" && f.Partition != "any" {
		a.key("replace_fs").warnf("has an effect with partition auto and any only")
	}
}
