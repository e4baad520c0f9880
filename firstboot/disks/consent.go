package disks

import (
	"fmt"
	"slices"
	"strings"

	"slipway.dev/slipway/configs"
)

// DataError says that a disk holds what nobody has agreed to lose.
type DataError struct {
	Disk Disk
	Name string // what install.wipe has to hold; "" when nothing can name the disk
}

// Error names all that the disk holds, and the line that consents to losing it.
func (e *DataError) Error() string {
	return fmt.Sprintf("%s holds %s: %s", e.Disk, strings.Join(e.Disk.HoldsText(most), "; "), e.next())
}

func (e *DataError) next() string {
	if e.Name == "" {
		return "it has no serial number, WWN or path by which it could be named: empty it by hand"
	}
	return "nobody agreed to lose that; the line that does is " + e.Line()
}

// Line is the line of config, below install, that consents; "" when there is none.
func (e *DataError) Line() string {
	if e.Name == "" {
		return ""
	}
	return fmt.Sprintf("wipe: [%q]", e.Name)
}

// Hint is what to do about it.
func (e *DataError) Hint() string {
	if e.Name == "" {
		return "start the machine from another medium and run wipefs --all " + e.Disk.Path
	}
	return fmt.Sprintf("if all of it may be lost: write %s below slipway.install in user-data (below install in cluster.yaml), or approve the machine with --wipe %s", e.Line(), e.Name)
}

// most is how many holdings are told of one disk.
const most = 12

// HoldsText is what the disk holds, at most n lines: the last says how many more.
func (d Disk) HoldsText(n int) (out []string) {
	for _, h := range d.Holds {
		out = append(out, h.String())
	}
	if len(out) > n {
		out = append(out[:n-1:n-1], fmt.Sprintf("%d more", len(out)-n+1))
	}
	return out
}

// Consent refuses a disk that holds anything, unless wipe names it exactly: by
// serial number or WWN, or by its path in by-path if it has neither. An error is
// a *DataError.
func Consent(d Disk, wipe []string) error {
	if len(d.Holds) == 0 || slices.ContainsFunc(wipe, d.Called) {
		return nil
	}
	return &DataError{Disk: d, Name: d.OwnName()}
}

// OwnName is what names the disk in install.wipe: serial number, WWN or path in
// by-path, "" when it has none of them.
func (d Disk) OwnName() string {
	switch {
	case d.Serial != "":
		return d.Serial
	case d.WWN != "":
		return d.WWN
	case len(d.ByPath) > 0:
		return d.ByPath[0]
	}
	return ""
}

// Called reports whether an entry of install.wipe names the disk.
func (d Disk) Called(name string) bool { return configs.Called(name, d.Serial, d.WWN, d.ByPath...) }
