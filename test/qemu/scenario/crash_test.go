package scenario

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/test/crash"
	"slipway.dev/slipway/test/qemu"
	"slipway.dev/slipway/test/qemu/lan"
)

var (
	points    = flag.Int("points", 300, "how many power cuts of an install TestCrashedInstalls judges")
	boots     = flag.Int("boots", 3, "how many of them it really starts")
	recordDir = flag.String("recording", "", "directory that keeps an install's recording, and is used again when it has one")
	replayed  = flag.String("point", "", "judge and start this point alone, as TestCrashedInstalls printed it, of -recording")
)

// crashDisk is as small as the example bundle allows: the judge reads all of it.
const crashDisk = 10 << 30

// recording is what a machine wrote to a disk while it installed itself.
type recording struct {
	*crash.Log
	dir  string
	user []byte // its config
}

// recordInstall installs a node on a disk and keeps every write, until the machine says
// that it is installed and a little longer.
func recordInstall(t *testing.T) recording {
	t.Helper()
	dir := *recordDir
	if dir == "" {
		dir = t.TempDir()
	}
	path, user := filepath.Join(dir, "install.log"), filepath.Join(dir, "user-data")
	if _, err := os.Stat(user); err != nil {
		config := newLogin(t).installing("node-1", "")
		_, port := network(t)
		vm := start(t, qemu.Machine{Memory: 4096, Boot: qemu.CD(iso(t)), NICs: []*lan.Port{port}, CIDATA: config,
			Disks:    []qemu.Drive{{Path: filepath.Join(dir, "node.img"), Size: crashDisk, Serial: "NODE", Log: path}},
			Tolerate: func(e handoff.Event) bool { return e.Phase == "services" && e.Step != "" }})
		if _, err := vm.Wait(limit(t, 40*time.Minute), step("install", "active", handoff.Done)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second) // what comes after is a part of the story
		vm.Close()
		if err := os.WriteFile(user, config["user-data"], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	l, err := crash.Parse(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(user)
	if err != nil {
		t.Fatal(err)
	}
	return recording{l, dir, raw}
}

// TestCrashedInstalls takes the power away at every kind of moment of one
// install, in a model; see package crash.
func TestCrashedInstalls(t *testing.T) {
	r := recordInstall(t)
	fmt.Println(len(r.Entries), len(r.Epochs), r.Bytes()>>20)
}
