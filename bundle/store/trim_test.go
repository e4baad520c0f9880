package store

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/bundle/lock"
)

func TestTrim(t *testing.T) {
	s, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	put := func(c string, age time.Duration) lock.Digest {
		d, _, err := s.Put(context.Background(), strings.NewReader(strings.Repeat(c, 1000)), "")
		if err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(s.Path(d), at, at); err != nil {
			t.Fatal(err)
		}
		return d
	}
	old, older, asked, young := put("a", 48*time.Hour), put("b", 72*time.Hour), put("c", 96*time.Hour), put("d", time.Minute)
	if !s.Has(asked, 1000) {
		t.Fatal("not there")
	}
	for _, c := range []struct {
		limit, removed int64
		left           []lock.Digest
	}{
		{4000, 0, []lock.Digest{old, older, asked, young}},
		{3500, 1000, []lock.Digest{old, asked, young}},
		{0, 1000, []lock.Digest{asked, young}},
	} {
		got, err := s.Trim(c.limit)
		if err != nil || got != c.removed {
			t.Errorf("limit %d: removed %d, %v; want %d", c.limit, got, err, c.removed)
		}
		n := 0
		for _, d := range []lock.Digest{old, older, asked, young} {
			if _, err := os.Stat(s.Path(d)); err == nil {
				n++
			}
		}
		for _, d := range c.left {
			if _, err := os.Stat(s.Path(d)); err != nil || n != len(c.left) {
				t.Errorf("limit %d: %v; %d left, want %d", c.limit, err, n, len(c.left))
			}
		}
	}
}
