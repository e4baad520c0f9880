package logfile

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	for name, c := range map[string]struct {
		head       string
		writes     []string
		now, older string
	}{
		"below the limit":     {"", []string{"aaaa\n", "b\n"}, "aaaa\nb\n", ""},
		"one older":           {"", []string{"aaaaaaaaaaaa\n", "b\n"}, "b\n", "aaaaaaaaaaaa\n"},
		"the oldest goes":     {"", []string{"aaaaaaaaaaaa\n", "bbbbbbbbbbbb\n", "c\n"}, "c\n", "bbbbbbbbbbbb\n"},
		"only later files":    {"head\n", []string{"a\n"}, "a\n", ""},
		"later ones begin so": {"head\n", []string{"aaaaaaaaaaaa\n", "b\n"}, "head\nb\n", "aaaaaaaaaaaa\n"},
	} {
		t.Run(name, func(t *testing.T) {
			p := filepath.Join(t.TempDir(), "log", "x.log")
			var head func() []byte
			if c.head != "" {
				head = func() []byte { return []byte(c.head) }
			}
			l, err := Open(p, 10, head)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			for _, w := range c.writes {
				fmt.Fprint(l, w)
			}
			now, _ := os.ReadFile(p)
			older, _ := os.ReadFile(Older(p))
			if string(now) != c.now || string(older) != c.older {
				t.Errorf("got %q and older %q, want %q and %q", now, older, c.now, c.older)
			}
		})
	}
}

// TestWriteGoesOn opens a file again that reached its limit before, and one
// whose directory went away meanwhile.
func TestWriteGoesOn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	p := filepath.Join(dir, "x.log")
	for _, s := range []string{"first run, long enough\n", "second\n"} {
		l, err := Open(p, 10, nil)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(l, s)
		l.Close()
	}
	if now, _ := os.ReadFile(p); string(now) != "second\n" {
		t.Errorf("got %q", now)
	}
	l, err := Open(p, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(l, "lost")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(l, "there")
	if now, _ := os.ReadFile(p); string(now) != "there\n" {
		t.Errorf("after the directory came back: %q", now)
	}
}
