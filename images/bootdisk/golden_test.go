package bootdisk

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write testdata")

// TestGolden holds every byte of every structure. Installed disks have them:
// when one has to change, Read has to know the old one too.
func TestGolden(t *testing.T) {
	for _, k := range kinds {
		d := k.plan(t)
		format, err := d.Format(testLoaders(k.arch))
		join(t, format, err)
		var b bytes.Buffer
		for _, l := range []struct {
			name   string
			writes []Write
		}{{"Table", d.Table()}, {"Format", format}, {"Fill a", version(1).fill(t, d, A)}, {"Fill b", version(2).fill(t, d, B)}, {"Clear b", d.Clear(B)}, {"Default b", d.Default(B)}, {"Activate", d.Activate()}} {
			fmt.Fprintln(&b, l.name)
			for _, w := range l.writes {
				fmt.Fprintf(&b, "%12d %8d %.12x\n", w.At, len(w.Data), sha256.Sum256(w.Data))
			}
		}
		name := filepath.Join("testdata", k.String()+".txt")
		if *update {
			if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(want, b.Bytes()) {
			t.Errorf("%s differs (%v); got\n%s", name, err, b.Bytes())
		}
	}
}
