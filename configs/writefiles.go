package configs

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
)

// maxContent bounds one file after unpacking, in bytes: a megabyte of gzip can
// hold a gigabyte.
const maxContent = 64 << 20

// WriteFile is one entry of write_files.
type WriteFile struct {
	Path        string       `json:"path"` // absolute
	Content     string       `json:"content,omitempty"`
	Encoding    Encoding     `json:"encoding,omitempty"`
	Owner       string       `json:"owner,omitempty"` // "user" or "user:group"; default root:root
	Permissions *Permissions `json:"permissions,omitempty"`
	Append      bool         `json:"append,omitempty"`
	Defer       bool         `json:"defer,omitempty"` // written after users were created
}

// Encoding is how content is packed, in one of cloud-init's spellings; see
// [WriteFile.Bytes].
type Encoding string

// Permissions are Unix permission bits, 0 to 0o7777. In YAML they are a string
// of octal digits or an octal number.
type Permissions uint16

func (WriteFile) notes() map[string]note {
	return each(note{
		text: "fetches the content from a URL, and a node reads nothing from the network but its seed",
		hint: "write the content here, or put the file into the bundle's overlay",
	}, "source")
}

// packing takes an encoding apart (cloud-init: cc_write_files, in all of its
// spellings).
func (e Encoding) packing() (base64, gzip bool, err error) {
	switch strings.ToLower(strings.TrimSpace(string(e))) {
	case "", "text/plain":
		return false, false, nil
	case "b64", "base64":
		return true, false, nil
	case "gz", "gzip":
		return false, true, nil
	case "gz+b64", "gz+base64", "gzip+b64", "gzip+base64":
		return true, true, nil
	}
	return false, false, fmt.Errorf("encoding %q: want b64, gz+b64 or none", string(e))
}

// Bytes is the content as it goes to disk.
func (f WriteFile) Bytes() ([]byte, error) {
	is64, isGzip, err := f.Encoding.packing()
	if err != nil {
		return nil, err
	}
	b := []byte(f.Content)
	if is64 {
		if b, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(f.Content), "")); err != nil {
			return nil, fmt.Errorf("base64: %w", err)
		}
	}
	if !isGzip {
		return b, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	if b, err = io.ReadAll(io.LimitReader(z, maxContent+1)); err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	if len(b) > maxContent {
		return nil, fmt.Errorf("gzip: unpacks to more than %d bytes", maxContent)
	}
	return b, nil
}

// Mode is the file's permissions, 0644 unless given.
func (f WriteFile) Mode() fs.FileMode {
	if f.Permissions == nil {
		return 0o644
	}
	p := *f.Permissions
	mode := fs.FileMode(p & 0o777)
	for bit, m := range map[Permissions]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if p&bit != 0 {
			mode |= m
		}
	}
	return mode
}

// UserGroup is the owner's user and group, each a name or a number; root
// unless given. The group is empty when only the user is given.
func (f WriteFile) UserGroup() (user, group string) {
	if f.Owner == "" {
		return "root", "root"
	}
	user, group, _ = strings.Cut(f.Owner, ":")
	return user, group
}

func (Permissions) forms() []any { return []any{"", 0} }

// UnmarshalJSON reads a string of octal digits ("0644", "0o644"), or a number,
// which YAML has already made of them.
func (p *Permissions) UnmarshalJSON(b []byte) error {
	var s string
	base := 10
	if b[0] == '"' {
		base = 8
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		s = strings.TrimPrefix(s, "0o")
	} else {
		s = string(b)
	}
	n, err := strconv.ParseUint(s, base, 16)
	if err != nil || n > 0o7777 {
		return fmt.Errorf("want octal digits such as \"0644\", got %s", b)
	}
	*p = Permissions(n)
	return nil
}

// MarshalJSON writes a string of octal digits.
func (p Permissions) MarshalJSON() ([]byte, error) {
	return json.Marshal(fmt.Sprintf("%04o", uint16(p)))
}

func (f *WriteFile) check(a at) {
	a.key("path").must(f.Path, nodePath)
	is64, isGzip, err := f.Encoding.packing()
	switch {
	case err != nil:
		a.key("encoding").errorf("%s", err)
	case isGzip && !is64:
		a.key("encoding").errorf("%q: YAML text cannot hold gzip as it is", string(f.Encoding)).Hint = "write the content in base64 and encoding: gz+b64"
	default:
		if _, err := f.Bytes(); err != nil {
			a.key("content").errorf("%s", err)
		}
	}
	perm := a.key("permissions")
	if text := perm.text(); perm.isNumber() && matches(`[1-9][0-9]*`, text) {
		// cloud-init hands a YAML number to chmod as it is.
		perm.errorf("%s is a decimal number in YAML, octal %o", text, uint16(*f.Permissions)).Hint = fmt.Sprintf("write %q", "0"+text)
	}
	id := `([a-z_][a-z0-9_-]*\$?|[0-9]+)`
	if f.Owner != "" && !matches(id+`(:`+id+`)?`, f.Owner) {
		a.key("owner").errorf("%q: want user or user:group", f.Owner)
	}
}
