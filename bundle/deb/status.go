package deb

import (
	"bytes"
	"sort"
	"strings"
)

// Status renders /var/lib/dpkg/status for the packages (dpkg(1), FILES), so
// that scanners and `dpkg-query -l` see what is there. Every package was
// unpacked whole, so each is "install ok installed"; that its scripts did not
// run is what the fixups make up for. Fields that only describe the download
// are left out, as dpkg does.
func Status(pkgs []Package) []byte {
	sorted := append([]Package(nil), pkgs...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].Name < sorted[j].Name })
	var out bytes.Buffer
	for _, p := range sorted {
		keep := true
		for line := range strings.Lines(p.Control + "\n") {
			key, _, isField := strings.Cut(line, ":")
			if line[0] != ' ' && line[0] != '\t' {
				keep = isField && !ofDownload(key)
			}
			if !keep {
				continue
			}
			out.WriteString(line)
			if key == "Package" {
				out.WriteString("Status: install ok installed\n")
			}
		}
		out.WriteByte('\n')
	}
	return out.Bytes()
}

func ofDownload(field string) bool {
	switch field {
	case "Filename", "Size", "MD5sum", "SHA1", "SHA256", "SHA512", "Description-md5", "Tag", "Status", "Task":
		return true
	}
	return false
}
