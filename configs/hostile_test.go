package configs

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// Inputs made to cost much are refused; each says why.
func TestHostile(t *testing.T) {
	bomb := "a: &a [x]\n"
	for c := 'b'; c < 'z'; c++ {
		prev := string(c - 1)
		bomb += string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+prev+",", 9) + "*" + prev + "]\n"
	}
	for name, c := range map[string]struct{ in, want string }{
		"too long":      {strings.Repeat("#", maxBytes+1), "1048577 bytes long, the limit is 1048576"},
		"10 MB value":   {"a: " + strings.Repeat("x", 10<<20), "10485763 bytes long, the limit is 1048576"},
		"many tokens":   {strings.Repeat("a: 1\n", 10_000), "more than 20000 YAML tokens"},
		"flow nesting":  {strings.Repeat("[", maxTokens-1), "levels deep"},
		"block nesting": {strings.Repeat("- ", maxTokens/2) + "a", "levels deep"},
		"alias bomb":    {bomb, "aliases and merge keys are not allowed"},
		"not UTF-8":     {"a: b\nc: \xff\n", "2:4: byte 0xff is not UTF-8"},
		"control":       {"a: \x00\n", "not YAML"},
		"binary":        {"\x7fELF\x02\x01\x01\x00\x00", "not YAML"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDocument("f", []byte(c.in))
			d.read()
			if err := d.err(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %.200v, want %q", err, c.want)
			}
		})
	}
}

func TestGzipBomb(t *testing.T) {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	for range maxContent/(1<<20) + 1 {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f := WriteFile{Content: base64.StdEncoding.EncodeToString(z.Bytes()), Encoding: "gz+b64"}
	if _, err := f.Bytes(); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v, want a refusal", err)
	}
}

// seeds gives the fuzzer all test files of a kind.
func seeds(f *testing.F, kind string) {
	found, err := filepath.Glob("testdata/*/" + kind + "/*.yaml")
	if err != nil || len(found) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range found {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
}

// verify checks what holds for every input: a value or problems, each with a
// message and a line the file has; and the same again the second time.
func verify(t *testing.T, data []byte, parse func() (any, error)) {
	v, err := parse()
	if err == nil {
		if again, err := parse(); err != nil || !reflect.DeepEqual(v, again) {
			t.Errorf("second time: %v %v, first %v", again, err, v)
		}
		return
	}
	ps, ok := err.(Problems)
	if !ok || len(ps) == 0 {
		t.Fatalf("error is a %T: %v", err, err)
	}
	lines := bytes.Count(data, []byte("\n")) + bytes.Count(data, []byte("\r")) + 2
	for _, p := range ps {
		if p.File != "f" || p.Message == "" || p.Line < 0 || p.Line > lines || p.Line > 0 && p.Col < 1 {
			t.Errorf("odd problem %+v in %d lines", p, lines)
		}
		if strings.Contains(p.Message, "internal error") {
			t.Errorf("%s", p)
		}
	}
}

func FuzzParseBundle(f *testing.F) {
	seeds(f, "bundle")
	f.Fuzz(func(t *testing.T, data []byte) {
		verify(t, data, func() (any, error) { return ParseBundle("f", data) })
	})
}

func FuzzParseUserData(f *testing.F) {
	seeds(f, "user-data")
	f.Fuzz(func(t *testing.T, data []byte) {
		verify(t, data, func() (any, error) { return ParseUserData("f", data) })
	})
}

func FuzzParseNetworkConfig(f *testing.F) {
	seeds(f, "network-config")
	f.Fuzz(func(t *testing.T, data []byte) {
		verify(t, data, func() (any, error) { return ParseNetworkConfig("f", data) })
	})
}
