package storage

import (
	"bytes"
	"fmt"
	"os"
	"testing"
)

// A node that is installed anew finds its disks for data as they were, with the
// same config: overwrite is about what else they hold.
func TestDataOutlivesTheNode(t *testing.T) {
	needs(t, mkfsExt)
	for _, overwrite := range []bool{false, true} {
		for name, text := range map[string]string{
			"a table":       "disk_setup: {img: {table_type: gpt, layout: [50, 50], overwrite: %v}}",
			"a file system": "fs_setup: [{label: DATA, filesystem: ext4, device: img, partition: none, overwrite: %v}]",
		} {
			t.Run(fmt.Sprintf("%s, overwrite %v", name, overwrite), func(t *testing.T) {
				img := image(t, 32<<20)
				c := alias(t, img, fmt.Sprintf(text, overwrite))
				s, _ := setup(t)
				if err := s.Apply(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				f, err := os.OpenFile(img, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.WriteAt([]byte("what a pod wrote"), 20<<20); err != nil {
					t.Fatal(err)
				}
				f.Close()
				before, err := os.ReadFile(img)
				if err != nil {
					t.Fatal(err)
				}
				fresh, said := setup(t) // another root, nothing of the first instance
				if err := fresh.Apply(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				after, err := os.ReadFile(img)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(before, after) || len(*said) != 0 {
					t.Errorf("the disk was changed: %q", *said)
				}
			})
		}
	}
}
