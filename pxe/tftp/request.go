package tftp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// Opcodes of RFC 1350 section 5; OACK is RFC 2347.
const (
	opRead  = 1
	opWrite = 2
	opData  = 3
	opAck   = 4
	opError = 5
	opOACK  = 6
)

// Error codes of RFC 1350's appendix; 8 is RFC 2347.
const (
	codeUndefined  = 0
	codeNotFound   = 1
	codeAccess     = 2
	codeIllegal    = 4
	codeUnknownTID = 5
	codeOptions    = 8
)

// maxRequest is the largest request RFC 2347 allows, in bytes.
const maxRequest = 512

// refusal is an answer to the client: an ERROR packet.
type refusal struct {
	code uint16
	text string
}

func (r *refusal) Error() string { return fmt.Sprintf("tftp error %d: %s", r.code, r.text) }

// packet is the ERROR datagram of the refusal.
func (r *refusal) packet() []byte {
	b := binary.BigEndian.AppendUint16(nil, opError)
	b = binary.BigEndian.AppendUint16(b, r.code)
	return append(append(b, r.text...), 0)
}

// request is a read request as it came, before any option was judged.
type request struct {
	name    string   // cleaned by cleanName
	raw     string   // as sent, for the operator
	options []option // in the order sent, first of each name
}

type option struct{ name, value string }

// parseRequest reads the datagram of a client's first packet. What is no
// request at all (an ACK, an ERROR, noise) gives a nil refusal and ok false: it
// gets no answer, because answering stray packets makes a server a reflector.
func parseRequest(b []byte) (req request, no *refusal, ok bool) {
	if len(b) < 2 {
		return req, nil, false
	}
	switch binary.BigEndian.Uint16(b) {
	case opRead, opWrite:
	default:
		return req, nil, false
	}
	if len(b) > maxRequest {
		return req, &refusal{codeIllegal, "request longer than 512 bytes"}, false
	}
	fields, closed := split(b[2:])
	if !closed || len(fields) < 2 || fields[0] == "" {
		return req, &refusal{codeIllegal, "malformed request"}, false
	}
	req.raw = fields[0]
	if binary.BigEndian.Uint16(b) == opWrite {
		return req, &refusal{codeAccess, "this server is read-only"}, false
	}
	if !strings.EqualFold(fields[1], "octet") {
		return req, &refusal{codeIllegal, "only mode octet is served"}, false
	}
	if len(fields)%2 != 0 {
		return req, &refusal{codeIllegal, "option without a value"}, false
	}
	req.name, ok = cleanName(req.raw)
	if !ok {
		return req, &refusal{codeAccess, "not a name this server has"}, false
	}
	req.options = options(fields[2:])
	return req, nil, true
}

// split cuts NUL-terminated strings. Some PXE ROMs pad a request with further
// NULs behind the last string; those end the list.
func split(b []byte) (fields []string, closed bool) {
	for len(b) > 0 {
		end := bytes.IndexByte(b, 0)
		if end < 0 {
			return fields, false
		}
		if end == 0 && len(fields) >= 2 && len(fields)%2 == 0 && len(bytes.Trim(b, "\x00")) == 0 {
			break
		}
		fields = append(fields, string(b[:end]))
		b = b[end+1:]
	}
	return fields, true
}

// options pairs names with values. RFC 2347 allows each name once; of a
// repeated one the first counts. Names are case-insensitive.
func options(fields []string) []option {
	var out []option
	seen := map[string]bool{}
	for i := 0; i+1 < len(fields); i += 2 {
		name := strings.ToLower(fields[i])
		if !seen[name] {
			seen[name] = true
			out = append(out, option{name, fields[i+1]})
		}
	}
	return out
}

// cleanName takes one leading slash away. Names that could mean something to a
// file system (backslashes, dot-dot, control bytes) are refused although they
// are only ever looked up: whoever gives Files may be less careful.
func cleanName(raw string) (name string, ok bool) {
	name = strings.TrimPrefix(raw, "/")
	if name == "" || name[0] == '/' || strings.ContainsRune(name, '\\') {
		return "", false
	}
	for i := range len(name) {
		if name[i] < 0x20 || name[i] > 0x7e {
			return "", false
		}
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." || part == "." {
			return "", false
		}
	}
	return name, true
}
