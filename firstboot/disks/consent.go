package disks

import (
	"fmt"
	"slices"
	"strings"
)

// DataError says that a disk holds what nobody has agreed to lose.
type DataError struct {
	Disk Disk
	Name string // what install.wipe has to hold; "" when nothing can name the disk
}

// Error names all that the disk holds, and the line that consents to losing it.
func (e *DataError) Error() string {
	return fmt.Sprintf("%s holds %s: %s", e.Disk, holdsText(e.Disk.Holds), e.next())
}

func (e *DataError) next() string {
	if e.Name == "" {
		return "it has no serial number, WWN or path by which it could be named: empty it by hand"
	}
	return "nobody agreed to lose that: " + e.Line()
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

func holdsText(holds []Holding) string {
	var out []string
	for _, h := range holds {
		out = append(out, h.String())
	}
	if n := len(out) - most; n > 0 {
		out = append(out[:most], fmt.Sprintf("%d more", n))
	}
	return strings.Join(out, "; ")
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
func (d Disk) Called(name string) bool {
	switch {
	case name == "":
		return false
	case name == d.Serial, d.WWN != "" && plainWWN(name) == plainWWN(d.WWN):
		return true
	}
	return d.Serial == "" && d.WWN == "" && slices.Contains(d.ByPath, name)
}
