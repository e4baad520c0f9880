package deb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// arReader walks the members of an ar archive (deb(5): common ar format, no
// long names). It reads forward only.
type arReader struct {
	r    io.Reader
	size int64 // of the current member
	body *io.LimitedReader
}

func newArReader(r io.Reader) (*arReader, error) {
	magic := make([]byte, 8)
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != "!<arch>\n" {
		return nil, errors.New("not an ar archive")
	}
	return &arReader{r: r}, nil
}

// next skips the rest of the current member and returns the next one's name
// and content; io.EOF after the last.
func (a *arReader) next() (string, io.Reader, error) {
	if a.body != nil {
		if _, err := io.CopyN(io.Discard, a.r, a.body.N+a.size%2); err != nil { // members start at even offsets
			return "", nil, fmt.Errorf("ar member is cut short: %w", io.ErrUnexpectedEOF)
		}
	}
	head := make([]byte, 60)
	n, err := io.ReadFull(a.r, head)
	if n == 0 && err == io.EOF {
		return "", nil, io.EOF
	}
	if err != nil {
		return "", nil, errors.New("ar header is cut short")
	}
	if !bytes.Equal(head[58:], []byte("`\n")) {
		return "", nil, errors.New("ar header without its end mark")
	}
	name := strings.TrimSuffix(strings.TrimRight(string(head[:16]), " "), "/")
	size, err := strconv.ParseInt(strings.TrimRight(string(head[48:58]), " "), 10, 64)
	if err != nil || size < 0 {
		return "", nil, fmt.Errorf("ar member %q: size %q", name, head[48:58])
	}
	a.size = size
	a.body = &io.LimitedReader{R: a.r, N: size}
	return name, a.body, nil
}
