package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"slipway.dev/slipway/images/bootdisk"
)

// Names below the mount points of a slipway disk's two volumes.
const (
	recordFile = "install.json" // in the store
	slotsDir   = "slots"        // in the store: a medium's tree per slot, files shared by hard links
	ownDir     = "slipway"      // in the state volume, 0700: what the node is
	configDir  = ownDir + "/config"
	keptFile   = ownDir + "/enrolment.json"
	markFile   = ownDir + "/order.json"
)

// Progress is how far a disk is.
type Progress string

// The steps of a disk's life. Only the last starts by itself.
const (
	Writing   Progress = "writing"   // its content is not complete
	Installed Progress = "installed" // all of it was read back from the disk and is right
)

// Record says whose disk this is and how far it is: install.json in the store.
type Record struct {
	Format   int           `json:"format"`   // 1
	Node     string        `json:"node"`     // host name
	Instance string        `json:"instance"` // NoCloud's instance-id
	Progress Progress      `json:"progress"`
	Slot     bootdisk.Slot `json:"slot"`   // that the node runs
	Bundle   string        `json:"bundle"` // name and serial in that slot, for people
	Trial    *Trial        `json:"trial,omitempty"`
	// Ends is the verb of a Mark: nothing runs from this disk any more, and it is
	// nobody's to go on with but its own machine's. "" for a node that lives.
	Ends string `json:"ends,omitempty"`
}

func (r Record) String() string {
	if r.Ends != "" {
		return fmt.Sprintf("node %q (%s), to be %s", r.Node, r.Instance, r.Ends)
	}
	return fmt.Sprintf("node %q (%s), %s", r.Node, r.Instance, r.Progress)
}

// readRecord returns fs.ErrNotExist when there is none.
func readRecord(store string) (Record, error) {
	var r Record
	raw, err := os.ReadFile(filepath.Join(store, recordFile))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("%s: %w", recordFile, err)
	}
	if r.Format != 1 {
		return r, fmt.Errorf("%s: format %d, want 1", recordFile, r.Format)
	}
	if r.Slot != bootdisk.A && r.Slot != bootdisk.B {
		return r, fmt.Errorf("%s: slot %q", recordFile, r.Slot)
	}
	return r, nil
}

// WriteFile puts a file in its place whole, or not at all: written beside it,
// synced, renamed, and the directory synced.
func WriteFile(name string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// save writes the record to its place, not to the journal alone: Look reads no journal.
func (d *Disk) save() error {
	raw, err := json.MarshalIndent(d.Record, "", "  ")
	if err != nil {
		return err
	}
	if err := WriteFile(filepath.Join(d.Store, recordFile), append(raw, '\n'), 0o644); err != nil {
		return err
	}
	return syncFS(d.Store)
}

// KeepConfig stores what the node is, before a seed forgets it.
func (d *Disk) KeepConfig(files map[string][]byte) error {
	dir := filepath.Join(d.State, configDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return failed(d.Path, err)
	}
	for name, raw := range files {
		if err := WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			return failed(d.Path, err)
		}
	}
	return failed(d.Path, errors.Join(syncDir(filepath.Dir(dir)), syncDir(d.State)))
}

// Config reads what KeepConfig stored; empty when there is nothing.
func (d *Disk) Config() (map[string][]byte, error) {
	dir := filepath.Join(d.State, configDir)
	all, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for _, e := range all {
		if !e.Type().IsRegular() || filepath.Ext(e.Name()) == ".new" {
			continue
		}
		if out[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// KeepEnrolment stores the node's part of its conversation with the seed, where
// Look finds it.
func (d *Disk) KeepEnrolment(v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(d.State, ownDir), 0o700); err != nil {
		return failed(d.Path, err)
	}
	if err := WriteFile(filepath.Join(d.State, keptFile), raw, 0o600); err != nil {
		return failed(d.Path, err)
	}
	if err := syncFS(d.State); err != nil {
		return failed(d.Path, err)
	}
	dev, err := open(d.Path)
	if err != nil {
		return err
	}
	defer dev.Close()
	return failed(d.Path, dev.forgetNote()) // it says the same
}

// Enrolment reads what KeepEnrolment stored, and whether there is any.
func (d *Disk) Enrolment(v any) (bool, error) {
	raw, err := os.ReadFile(filepath.Join(d.State, keptFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return false, fmt.Errorf("%s: %w", keptFile, err)
	}
	return true, nil
}
