package console

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestNames(t *testing.T) {
	got := Names([]string{"tty0", "ttyS1,115200n8", "ttyS1", "", "../sda"})
	if want := []string{"tty0", "ttyS1", "ttyS0"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if isVirtual("ttyS0") || isVirtual("ttyAMA0") || isVirtual("hvc0") || !isVirtual("tty0") || !isVirtual("tty1") {
		t.Error("serial lines and screens are mixed up")
	}
}

func TestEveryConsoleGetsEverything(t *testing.T) {
	s := &Set{}
	s.Write([]byte("early screen\n"), []byte("early serial\n"))
	open := func(name string, serial bool) chan string {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		s.Add(name, serial, w)
		out := make(chan string)
		go func() {
			b, _ := io.ReadAll(r)
			out <- string(b)
		}()
		t.Cleanup(func() { w.Close(); r.Close() })
		return out
	}
	screen, serial := open("tty0", false), open("ttyS0", true)
	s.Opened()
	s.Write([]byte("screen\n"), []byte("serial\n"))
	if got := s.Names(); !slices.Equal(got, []string{"tty0", "ttyS0"}) {
		t.Errorf("names %q", got)
	}
	s.mu.Lock()
	all := s.all
	s.mu.Unlock()
	s.Close(5 * time.Second)
	for _, c := range all {
		c.w.Close()
	}
	if got := <-screen; !strings.HasSuffix(got, "screen\n") { // of two pictures the newer, maybe both
		t.Errorf("screen %q", got)
	}
	if got := <-serial; got != "early serial\nserial\n" {
		t.Errorf("serial %q", got)
	}
}

// TestBeforeThereIsAConsole writes more than is kept before one is opened.
func TestBeforeThereIsAConsole(t *testing.T) {
	s := &Set{}
	for i := range queue + 7 {
		s.Write(nil, fmt.Appendf(nil, "[%d]", i))
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.Add("ttyS0", true, w)
	s.Opened()
	s.Close(5 * time.Second)
	w.Close()
	got, err := io.ReadAll(r)
	if want := fmt.Sprintf("[%d]           | 7 messages were not shown", queue-1); err != nil || !strings.Contains(string(got), want) {
		t.Errorf("no %q in %q, %v", want, got, err)
	}
}
