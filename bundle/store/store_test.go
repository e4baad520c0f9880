package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway.dev/slipway/bundle/lock"
)

func TestPutNamesByDigestAndRefusesAnotherOne(t *testing.T) {
	dir := t.TempDir()
	s, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := lock.SumBytes([]byte("hello"))
	d, n, err := s.Put(context.Background(), strings.NewReader("hello"), want)
	if err != nil || d != want || n != 5 || !s.Has(d, 5) || s.Has(d, 4) {
		t.Fatalf("Put = %s, %d, %v", d, n, err)
	}
	var mm *MismatchError
	_, _, err = s.Put(context.Background(), strings.NewReader("hellO"), want)
	if !errors.As(err, &mm) || mm.Want != want {
		t.Fatalf("wrong content: %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, ".put-*"))
	if len(left) != 0 {
		t.Errorf("temporary files left: %v", left)
	}
	if err := os.WriteFile(s.Path(want), []byte("hellp"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(want); !errors.As(err, &mm) {
		t.Errorf("Verify of a changed blob: %v", err)
	}
}

func TestPutStopsWithItsContext(t *testing.T) {
	s, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := s.Put(ctx, strings.NewReader("x"), ""); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}
