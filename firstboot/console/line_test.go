package console

import (
	"fmt"
	"strings"
	"testing"
)

func TestLine(t *testing.T) {
	const slow, in = "this line is slower than the node", "somebody was logged in here"
	gone := func(n int, why string) string {
		return fmt.Sprintf("           | %d messages were not shown, %s: they are in `slipway events`\r\n", n, why)
	}
	fill := func(l *line, from, n int) {
		for i := range n {
			l.put(fmt.Appendf(nil, "[%d]", from+i))
		}
	}
	for name, c := range map[string]struct {
		serial bool
		do     func(*line)
		want   string // with the run of messages between two that are named left out
	}{
		"nothing is lost":  {true, func(l *line) { fill(l, 0, queue) }, fmt.Sprintf("[0]..[%d]", queue-1)},
		"too slow, at end": {true, func(l *line) { fill(l, 0, queue+3) }, fmt.Sprintf("[0]..[%d]%s", queue-1, gone(3, slow))},
		"too slow, between": {true, func(l *line) {
			fill(l, 0, queue+3)
			l.take()
			fill(l, 1000, 1)
		}, fmt.Sprintf("[1]..[%d]%s[1000]", queue-1, gone(3, slow))},
		"logged in": {true, func(l *line) {
			l.hold(true)
			fill(l, 0, queue+3)
			l.hold(false)
		}, gone(3, in) + fmt.Sprintf("[3]..[%d]", queue+2)},
		"first slow, then logged in": {true, func(l *line) {
			fill(l, 0, queue+3)
			l.hold(true)
			fill(l, 1000, queue)
		}, gone(queue+3, in) + fmt.Sprintf("[1000]..[%d]", 1000+queue-1)},
		"a screen": {false, func(l *line) { fill(l, 0, 2*queue) }, fmt.Sprintf("[%d]", 2*queue-1)},
		"forgotten": {false, func(l *line) {
			fill(l, 0, 2)
			l.forget()
		}, ""},
		"missed before": {true, func(l *line) {
			l.miss(2)
			fill(l, 0, 1)
		}, gone(2, slow) + "[0]"},
		"closed": {true, func(l *line) {
			fill(l, 0, 1)
			l.close()
			fill(l, 1, 1)
		}, "[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLine(c.serial)
			c.do(l)
			l.close()
			var got strings.Builder
			for l.ready() {
				got.Write(l.take())
			}
			begin, end, _ := strings.Cut(c.want, "..")
			if s := got.String(); !strings.HasPrefix(s, begin) || !strings.HasSuffix(s, end) || end == "" && s != begin {
				t.Errorf("got %.300q ... %q, want %q", s, s[max(0, len(s)-200):], c.want)
			}
		})
	}
}
