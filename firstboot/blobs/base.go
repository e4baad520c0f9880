package blobs

import (
	"encoding/binary"
	"errors"
	"io"

	"slipway.dev/slipway/bundle/lock"
)

// Base is an older version of a blob, from which a newer one takes the blocks
// that both have; the others come from the newer one's source.
type Base struct {
	old io.ReaderAt
	at  []int64 // by block of the new version: its place in old, -1 where old has none
}

// NewBase compares two lists of blocks (lock.Blocks). Neither has to be right:
// what comes of it is verified like all content.
func NewBase(old io.ReaderAt, oldBlocks, newBlocks []byte) *Base {
	where := make(map[uint64]int64, len(oldBlocks)/lock.BlockSum)
	for i := 0; i+lock.BlockSum <= len(oldBlocks); i += lock.BlockSum {
		where[binary.BigEndian.Uint64(oldBlocks[i:])] = int64(i / lock.BlockSum * lock.BlockSize)
	}
	b := &Base{old: old}
	for i := 0; i+lock.BlockSum <= len(newBlocks); i += lock.BlockSum {
		at, ok := where[binary.BigEndian.Uint64(newBlocks[i:])]
		if !ok {
			at = -1
		}
		b.at = append(b.at, at)
	}
	return b
}

// near is how many blocks that the base has are asked of the source rather than
// that there is a second request for what comes after them: a request over the
// network costs about what 64 KiB do.
const near = 16

// over is the new version: base where it has a block, from elsewhere. A nil from
// has nothing.
func (b *Base) over(from io.ReaderAt) io.ReaderAt {
	if b == nil {
		return nil
	}
	return &overlaid{b, from}
}

type overlaid struct {
	*Base
	from io.ReaderAt
}

var errNotHere = errors.New("the older version does not have it")

// ReadAt reads whole blocks, the last one shorter.
func (o *overlaid) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		first := int((off + int64(done)) / lock.BlockSize)
		if first >= len(o.at) {
			return done, io.EOF
		}
		from, at, blocks := o.run(first, (len(p)-done+lock.BlockSize-1)/lock.BlockSize)
		if from == nil {
			return done, errNotHere
		}
		n, err := from.ReadAt(p[done:min(len(p), done+blocks*lock.BlockSize)], at)
		done += n
		if n == 0 || err != nil && done < len(p) && n%lock.BlockSize != 0 {
			return done, errors.Join(err, io.ErrUnexpectedEOF)
		}
	}
	return done, nil
}

// run is where block first and those after it are, as long as they follow each
// other there, at most limit.
func (o *overlaid) run(first, limit int) (from io.ReaderAt, at int64, blocks int) {
	limit = min(limit, len(o.at)-first)
	n := 1
	if at := o.at[first]; at >= 0 {
		for n < limit && o.at[first+n] == at+int64(n)*lock.BlockSize {
			n++
		}
		return o.old, at, n
	}
	for last := 1; n < limit && last <= near; last++ {
		if n++; o.at[first+n-1] < 0 {
			last = 0
		}
	}
	for o.at[first+n-1] >= 0 { // the older version has those at the end
		n--
	}
	return o.from, int64(first) * lock.BlockSize, n
}
