package configs

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the expected files of testdata anew")

// parse reads a file by the directory it is in.
func parse(t *testing.T, kind, name string, data []byte) (v any, warnings []Problem, err error) {
	t.Helper()
	switch kind {
	case "bundle":
		v, err = ParseBundle(name, data)
	case "cluster":
		v, err = ParseCluster(name, data)
	case "user-data":
		u, e := ParseUserData(name, data)
		if u != nil {
			warnings = u.Warnings
		}
		v, err = u, e
	case "network-config":
		n, e := ParseNetworkConfig(name, data)
		if n != nil {
			warnings = n.Warnings
		}
		v, err = n, e
	case "meta-data":
		m, e := ParseMetaData(name, data)
		if m != nil {
			warnings = m.Warnings
		}
		v, err = m, e
	default:
		t.Fatalf("no parser for %q", kind)
	}
	return v, warnings, err
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\ngot:\n%s\nwant:\n%s", file, got, want)
	}
}

func files(t *testing.T, pattern string, atLeast int) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) < atLeast {
		t.Fatalf("%s: %d files, want %d or more (%v)", pattern, len(found), atLeast, err)
	}
	return found
}

// Every wrong file yields exactly the problems in the .txt next to it.
func TestBad(t *testing.T) {
	for _, file := range files(t, "testdata/bad/*/*.yaml", 40) {
		t.Run(strings.TrimPrefix(file, "testdata/bad/"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = parse(t, filepath.Base(filepath.Dir(file)), filepath.Base(file), data)
			if err == nil {
				t.Fatal("no problem found")
			}
			if _, ok := err.(Problems); !ok {
				t.Errorf("the error is a %T, want Problems", err)
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".txt", []byte(err.Error()+"\n"))
		})
	}
}

// Every section yields the value, defaults included, and the warnings in the
// .json next to it.
func TestGood(t *testing.T) {
	for _, file := range files(t, "testdata/good/*/*.yaml", 18) {
		t.Run(strings.TrimPrefix(file, "testdata/good/"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			v, warnings, err := parse(t, filepath.Base(filepath.Dir(file)), filepath.Base(file), data)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			enc := json.NewEncoder(&out)
			enc.SetEscapeHTML(false)
			enc.SetIndent("", "  ")
			if err := enc.Encode(v); err != nil {
				t.Fatal(err)
			}
			for _, w := range warnings {
				out.WriteString("warning: " + w.Error() + "\n")
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".json", out.Bytes())
		})
	}
}

// The examples parse without a warning.
func TestExamples(t *testing.T) {
	for file, kind := range map[string]string{
		"bundle.yaml": "bundle", "cluster.yaml": "cluster", "user-data": "user-data", "meta-data": "meta-data", "network-config": "network-config",
	} {
		data, err := os.ReadFile(filepath.Join("examples", file))
		if err != nil {
			t.Fatal(err)
		}
		_, warnings, err := parse(t, kind, file, data)
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v\n%v", file, warnings, err)
		}
	}
}
