package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Instance remembers what was done for an instance id (meta-data). It has to
// live exactly as long as the root it speaks of: a node that runs from memory
// starts with both empty and does everything at every boot; on a disk a boot
// with the same id does nothing twice, and one with a new id does all anew.
//
//	once per instance  write_files, disk_setup, fs_setup, users, groups, keys,
//	                   host keys, passwords, ca_certs, ntp, timezone, runcmd,
//	                   hooks, power_state
//	at every boot      bootcmd, mounts, swap, hostname, hosts, final_message
//
// disk_setup and fs_setup look at the disks instead of here: they leave alone
// what is as described.
type Instance struct {
	Dir string // "" remembers nothing
	ID  string // "nocloud"
}

// Once runs f unless it ended well before under this name for this instance.
func (i Instance) Once(name string, f func() error) error {
	if i.Dir == "" {
		return f()
	}
	if i.Ran(name) {
		return nil
	}
	if err := f(); err != nil {
		return err
	}
	// What f wrote lasts before the mark does: after a power cut a mark without
	// its files would leave an empty host key for ever.
	syscall.Sync()
	mark := i.mark(name)
	if err := os.MkdirAll(filepath.Dir(mark), 0o700); err != nil {
		return fmt.Errorf("remembering %s: %w", name, err)
	}
	m, err := os.Create(mark)
	if err != nil {
		return fmt.Errorf("remembering %s: %w", name, err)
	}
	// A mark that a power cut takes back means that f runs again.
	return errors.Join(m.Sync(), m.Close())
}

// Ran reports whether Once ran it.
func (i Instance) Ran(name string) bool {
	if i.Dir == "" {
		return false
	}
	_, err := os.Stat(i.mark(name))
	return !errors.Is(err, fs.ErrNotExist)
}

func (i Instance) mark(name string) string { return filepath.Join(i.Dir, i.ID, "done", name) }
