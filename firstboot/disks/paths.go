package disks

import (
	"path/filepath"
	"slices"
)

// merge makes one disk of what is reached over several paths and listed once for
// each, as SAS and Fibre Channel do: the first by name, with the others' names.
func merge(all []Disk) []Disk {
	var out []Disk
	for _, d := range all {
		i := slices.IndexFunc(out, func(o Disk) bool { return sameDisk(o, d) })
		if i < 0 {
			out = append(out, d)
			continue
		}
		o := &out[i]
		o.Also = append(o.Also, d.Name)
		o.Mounted = o.Mounted || d.Mounted // the kernel knows that of one path only
		o.ByID, o.ByPath = union(o.ByID, d.ByID), union(o.ByPath, d.ByPath)
	}
	return out
}

func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

// sameDisk says that two of the list are one disk: by WWN, or where neither has
// one by serial number and model. A WWN alone is not believed: there are
// controllers that give every disk the same. USB and virtio have one path, and
// bridges and machines' configs that give two disks one number.
func sameDisk(a, b Disk) bool {
	differ := func(a, b string) bool { return a != "" && b != "" && a != b }
	if a.Type != b.Type || a.Type == "usb" || a.Type == "virtio" || a.Size != b.Size || differ(a.Serial, b.Serial) || differ(a.Model, b.Model) {
		return false
	}
	if a.WWN != "" || b.WWN != "" {
		return a.WWN == b.WWN
	}
	return a.Serial != "" && a.Serial == b.Serial && a.Model == b.Model
}

// names are the kernel's, one for each path.
func (d Disk) names() []string { return append([]string{d.Name}, d.Also...) }

// devices are the paths of its devices.
func (d Disk) devices() (out []string) {
	for _, n := range d.names() {
		out = append(out, "/dev/"+n, filepath.Join(filepath.Dir(d.Path), n))
	}
	return out
}

// Has reports whether a device is the disk or a partition of it, by the kernel's names.
func (d Disk) Has(name string) bool {
	return slices.ContainsFunc(d.names(), func(n string) bool { return name == n || PartOf(name, n) })
}
