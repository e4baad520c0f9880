package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/firstboot/report"
)

// What a Mark says.
const (
	Reimage = "reimage"
	Reset   = "reset"
)

// Mark is an order that ends the node on a disk. It is there before anything of
// it is done, so that a power cut in between goes on with the order, and not with
// a node that has left its cluster. It goes away with the file system.
type Mark struct {
	Verb  string `json:"verb"`            // Reimage, Reset
	Order string `json:"order,omitempty"` // its ID at the seed
	Store string `json:"store,omitempty"` // reimage: where the installer is, as slipway.store= has it
	Token string `json:"token,omitempty"` // reimage: shown to the seed once; a secret
}

// KeepMark stores a mark: the record in the store says that there is one once all
// of it is on the disk.
func (d *Disk) KeepMark(m Mark) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(d.State, ownDir), 0o700); err != nil {
		return failed(d.Path, err)
	}
	err = WriteFile(filepath.Join(d.State, markFile), raw, 0o600)
	full := errors.Is(err, unix.ENOSPC) // of what pods wrote
	switch {
	case full && m.Verb == Reset: // which needs no more than the record
	case full:
		return report.Fail("SW-INSTALL-FULL", "make room on the state volume: pods' data, logs; or end the node for good: slipway reset", fmt.Errorf("%s: %w", d.Path, err))
	case err != nil:
		return failed(d.Path, err)
	}
	d.Record.Ends = m.Verb
	return failed(d.Path, d.save())
}

// DropMark undoes KeepMark.
func (d *Disk) DropMark() error {
	d.Record.Ends = ""
	if err := d.save(); err != nil {
		return failed(d.Path, err)
	}
	err := os.Remove(filepath.Join(d.State, markFile))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return failed(d.Path, err)
}

// Mark is what KeepMark stored; Verb is "" when there is none.
func (d *Disk) Mark() (Mark, error) {
	m := Mark{Verb: d.Record.Ends}
	if m.Verb == "" {
		return m, nil
	}
	raw, err := os.ReadFile(filepath.Join(d.State, markFile))
	if errors.Is(err, fs.ErrNotExist) && m.Verb == Reset { // a reset takes it away on its way
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err == nil && m.Verb != d.Record.Ends {
		err = fmt.Errorf("%q, and %s says %q", m.Verb, recordFile, d.Record.Ends)
	}
	if err != nil {
		return m, fmt.Errorf("%s: %s: %w", d.Path, markFile, err)
	}
	return m, nil
}
