package report

import (
	"slices"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/logfile"
)

// maxEvents is the size in bytes at which the file of events is renamed; the
// file is in memory.
const maxEvents = 4 << 20

// maxKept is how many steps' last events are kept: a boot has about a hundred.
const maxKept = 256

// journal is the file of events. A file that follows another begins with the
// last event of every phase and step in the order they happened, so that each
// file alone tells how everything stands. Their numbers are those of before: a
// reader of both files leaves out what it has had.
type journal struct {
	file *logfile.File
	last map[[2]string]kept
}

type kept struct {
	seq  int
	line []byte
}

func newJournal(path string, max int64) (*journal, error) {
	j := &journal{last: map[[2]string]kept{}}
	var err error
	j.file, err = logfile.Open(path, max, j.standing)
	return j, err
}

func (j *journal) add(e handoff.Event, line []byte) {
	_, _ = j.file.Write(line)
	j.last[[2]string{e.Phase, e.Step}] = kept{e.Seq, line}
	if len(j.last) <= maxKept {
		return
	}
	oldest := [2]string{e.Phase, e.Step}
	for key, k := range j.last {
		if key[1] != "" && k.seq < j.last[oldest].seq { // a phase stays
			oldest = key
		}
	}
	delete(j.last, oldest)
}

// standing is the last event of every step, oldest first.
func (j *journal) standing() []byte {
	all := make([]kept, 0, len(j.last))
	for _, k := range j.last {
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b kept) int { return a.seq - b.seq })
	var out []byte
	for _, k := range all {
		out = append(out, k.line...)
	}
	return out
}
