package crash

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"strings"
)

// Kind is how a point chooses among the unflushed writes of its epoch.
type Kind string

// The kinds. Each takes whole epochs before its own for granted.
const (
	Boundary Kind = "boundary" // none of the epoch
	Prefix   Kind = "prefix"   // the first Cut requests
	DropOne  Kind = "drop-one" // all but request Cut
	OnlyOne  Kind = "only-one" // request Cut alone
	TornLast Kind = "torn-last"
	Subset   Kind = "subset" // of the first Cut, each whole or not at all
	Torn     Kind = "torn"   // of the first Cut, each whole, torn, or not at all
)

// Discards is what the disk did with the discards it was asked for.
type Discards string

// What a disk may do with a discard.
const (
	Zeros   Discards = "zeros"
	Ignored Discards = "ignored"
	Rubbish Discards = "rubbish"
)

// Point is one legal image. It is made from the log and these values alone.
type Point struct {
	Epoch    int
	Kind     Kind
	Cut      int // a request of the epoch, from 0
	Discards Discards
	Seed     uint64
}

// String is the point in one word, which ParsePoint reads.
func (p Point) String() string {
	return fmt.Sprintf("%d:%s:%d:%s:%x", p.Epoch, p.Kind, p.Cut, p.Discards, p.Seed)
}

// ParsePoint reads what String wrote, for a log.
func (l *Log) ParsePoint(s string) (p Point, err error) {
	f := strings.Split(s, ":")
	if len(f) != 5 {
		return p, fmt.Errorf("point %q: want epoch:kind:cut:discards:seed", s)
	}
	p.Kind, p.Discards = Kind(f[1]), Discards(f[3])
	if p.Epoch, err = strconv.Atoi(f[0]); err != nil || p.Epoch < 0 || p.Epoch >= len(l.Epochs) {
		return p, fmt.Errorf("point %q: the log has epochs 0 to %d", s, len(l.Epochs)-1)
	}
	e := l.Epochs[p.Epoch]
	if p.Cut, err = strconv.Atoi(f[2]); err != nil || p.Cut < 0 || p.Cut > e.End-e.Start {
		return p, fmt.Errorf("point %q: epoch %d has %d requests", s, p.Epoch, e.End-e.Start)
	}
	if p.Seed, err = strconv.ParseUint(f[4], 16, 64); err != nil {
		return p, fmt.Errorf("point %q: seed: %w", s, err)
	}
	return p, nil
}

// fate is what became of one request of the epoch: how many of its atomic
// units are there.
type fate struct {
	how  howMuch
	n    int64  // units, for head and tail
	mask uint64 // seed of the choice, for some
}

type howMuch uint8

const (
	none howMuch = iota
	whole
	head
	tail
	some
)

// has says whether a unit of the request is there.
func (f fate) has(unit int64) bool {
	switch f.how {
	case whole:
		return true
	case head:
		return unit < f.n
	case tail:
		return unit >= f.n
	case some:
		return mix(f.mask+uint64(unit))&1 == 1
	}
	return false
}

// mix is the finaliser of SplitMix64.
func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// fates decides for every request of the point's epoch. This is where the
// legal set of the package's comment is kept: FUA below.
func (l *Log) fates(p Point) []fate {
	epoch := l.Epochs[p.Epoch]
	f := make([]fate, epoch.End-epoch.Start)
	rng := rand.New(rand.NewPCG(p.Seed, uint64(p.Epoch)))
	chance := []float64{0.05, 0.3, 0.5, 0.7, 0.95}[rng.IntN(5)]
	completed := min(p.Cut, len(f)) // requests before this one completed
	for i := range f {
		switch p.Kind {
		case Prefix:
			f[i] = ifTrue(i < p.Cut)
		case DropOne:
			f[i] = ifTrue(i != p.Cut)
			completed = len(f)
		case OnlyOne:
			f[i] = ifTrue(i == p.Cut)
		case TornLast:
			f[i] = ifTrue(i < p.Cut)
			if i == p.Cut {
				f[i] = l.tear(epoch.Start+i, rng)
			}
		case Subset, Torn:
			f[i] = ifTrue(i <= p.Cut && rng.Float64() < chance)
			if p.Kind == Torn && f[i].how == whole && rng.IntN(2) == 0 {
				f[i] = l.tear(epoch.Start+i, rng)
			}
		}
	}
	if p.Kind == Boundary {
		return f
	}
	if p.Kind == DropOne && p.Cut < len(f) && l.Entries[epoch.Start+p.Cut].Flags&FUA != 0 {
		// It was in flight: what waited for it was never asked for.
		completed = p.Cut
		clear(f[p.Cut:])
	}
	for i := range f[:completed] {
		if l.Entries[epoch.Start+i].Flags&FUA != 0 {
			f[i] = fate{how: whole}
		}
	}
	return f
}

func ifTrue(yes bool) fate {
	if yes {
		return fate{how: whole}
	}
	return fate{}
}

// tear lets a part of a request arrive. A single unit arrives whole.
func (l *Log) tear(entry int, rng *rand.Rand) fate {
	units := l.Entries[entry].Len / int64(l.Atomic)
	if units < 2 {
		return fate{how: whole}
	}
	switch rng.IntN(3) {
	case 0:
		return fate{how: head, n: 1 + rng.Int64N(units-1)}
	case 1:
		return fate{how: tail, n: 1 + rng.Int64N(units-1)}
	}
	return fate{how: some, mask: rng.Uint64()}
}

// fingerprint is equal for two points that are the same image by construction.
func (l *Log) fingerprint(p Point) uint64 {
	fates, epoch := l.fates(p), p.Epoch
	all, nothing := true, true
	for i, f := range fates {
		if l.Entries[l.Epochs[epoch].Start+i].Len == 0 {
			continue
		}
		all = all && f.how == whole
		nothing = nothing && f.how == none
	}
	if all && epoch+1 < len(l.Epochs) {
		epoch, nothing = epoch+1, true // the next epoch's boundary
	}
	h := fnv.New64a()
	fmt.Fprint(h, epoch, p.Discards)
	if !nothing {
		for _, f := range fates {
			fmt.Fprintf(h, "%d,%d,%d;", f.how, f.n, f.mask)
		}
	}
	return h.Sum64()
}

// Points are at most so many different points of all epochs; see PointsOf.
func (l *Log) Points(count int, seed uint64) []Point {
	all := make([]int, len(l.Epochs))
	for i := range all {
		all[i] = i
	}
	return l.PointsOf(all, count, seed)
}

// PointsOf are at most so many different points of some epochs, in order: first
// boundaries, every one where they are no more than half of the points and spread
// evenly where they are; then rounds over the epochs, which take turns in the
// kinds. An epoch is left when it gives nothing new. The same log, epochs, count
// and seed give the same points; fewer than count only when the epochs have no
// more (nearly: the search is random).
func (l *Log) PointsOf(epochs []int, count int, seed uint64) []Point {
	var points []Point
	seen := map[uint64]bool{}
	add := func(p Point) bool {
		fp := l.fingerprint(p)
		if seen[fp] {
			return false
		}
		seen[fp] = true
		points = append(points, p)
		return true
	}
	for _, i := range Spread(epochs, (count+1)/2) {
		add(Point{Epoch: i, Kind: Boundary, Discards: Zeros})
	}
	if n := len(epochs); n > 0 && len(points) < count { // everything
		last := l.Epochs[epochs[n-1]]
		add(Point{Epoch: epochs[n-1], Kind: Prefix, Cut: last.End - last.Start, Discards: Zeros})
	}
	rng := rand.New(rand.NewPCG(seed, 0x51d3))
	kinds := []Kind{DropOne, Torn, OnlyOne, TornLast, Subset, Prefix}
	tired := map[int]int{} // rounds in a row without anything new
	for round, busy := 0, true; busy && len(points) < count; round++ {
		busy = false
		for _, n := range rng.Perm(len(epochs)) {
			i := epochs[n]
			e := l.Epochs[i]
			if e.Start == e.End || tired[i] >= patience || len(points) >= count {
				continue
			}
			busy = true
			p := Point{Epoch: i, Kind: kinds[(round+i)%len(kinds)], Cut: rng.IntN(e.End - e.Start), Discards: l.discards(e.End, rng), Seed: rng.Uint64()}
			if (p.Kind == Subset || p.Kind == Torn) && rng.IntN(2) == 0 {
				p.Cut = e.End - e.Start
			}
			tired[i]++
			if add(p) {
				tired[i] = 0
			}
		}
	}
	return points
}

// Spread takes n of some values, evenly; all where there are no more.
func Spread(all []int, n int) []int {
	if len(all) <= n {
		return all
	}
	out := make([]int, n)
	for i := range out {
		out[i] = all[(2*i+1)*len(all)/(2*n)]
	}
	return out
}

// patience is how often an epoch may give nothing new before it is left: the
// six kinds four times.
const patience = 24

// discards chooses what became of the discards, if there were any so far.
func (l *Log) discards(end int, rng *rand.Rand) Discards {
	choice := []Discards{Zeros, Zeros, Ignored, Rubbish}[rng.IntN(4)]
	for _, e := range l.Entries[:end] {
		if e.Flags&Discard != 0 {
			return choice
		}
	}
	return Zeros
}
