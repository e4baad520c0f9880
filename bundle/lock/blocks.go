package lock

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// BlockSize is the number of bytes that one entry of Blocks stands for: what
// EROFS aligns the content of files to, so that equal files are equal blocks
// wherever two images have them.
const BlockSize = 4096

// BlockSum is the length of an entry of Blocks.
const BlockSum = 8

// Blocks is the first eight bytes of the sha256 of each block, the last one
// shorter. They say what two versions of a blob may share, not that they do: what
// is put together by them is verified by the manifest's chunks.
func Blocks(r io.Reader) ([]byte, error) {
	var out []byte
	buf := make([]byte, BlockSize)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			sum := sha256.Sum256(buf[:n])
			out = append(out, sum[:BlockSum]...)
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return out, nil
		case err != nil:
			return nil, err
		}
	}
}

// BlocksOf is the blob that lists the blocks of b; false when the bundle has none.
func (m *Manifest) BlocksOf(b Blob) (Blob, bool) {
	for _, x := range m.Blobs {
		if x.Role == RoleBlocks && x.Name == BlocksName(b.Name) {
			return x, true
		}
	}
	return Blob{}, false
}

// BlocksName is the name of the list of a blob's blocks.
func BlocksName(blob string) string { return fmt.Sprintf("%s.blocks", blob) }
