package audit

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/audit"
	"slipway.dev/slipway/images/rootfs"
)

// cannotStart are the programs that do not start in a stage and why that is no
// fault of the root. What the static audit has reviewed is not started at all.
func cannotStart() map[string]string {
	const perl = "comes with libperl, which keepalived's SNMP library wants; perl's own modules are left out"
	return map[string]string{"usr/bin/cpan5.40-x86_64-linux-gnu": perl, "usr/bin/cpan5.40-aarch64-linux-gnu": perl}
}

// TestEveryProgramStarts runs every program of every package and of slipway
// with --version: it has to come past the loader and its interpreter.
func TestEveryProgramStarts(t *testing.T) {
	p, l := project(t)
	for _, a := range p.Bundle.Spec.Architectures {
		t.Run(a.String(), func(t *testing.T) {
			runnable(t, a)
			r := assemble(t, p, l, a)
			dir, programs, libraries := unfold(t, r)
			for _, lib := range libraries {
				programs = append(programs, attempt{Path: strings.TrimPrefix(loader(a), "/"), Args: []string{"--list", "/" + lib}})
			}
			known, used := cannotStart(), map[string]bool{}
			failed := 0
			for _, d := range inTwo(t, dir, programs) {
				name := subject(d)
				switch {
				case d.Error == "":
				case known[name] != "":
					used[name] = true
				default:
					failed++
					t.Errorf("/%s (%s): %s", name, r.owner(name), d.Error)
				}
			}
			for name := range known {
				if _, there := r.tree.Get(name); there && !used[name] {
					t.Errorf("/%s starts: take its exception away", name)
				}
			}
			t.Logf("%d programs started, %d libraries loaded, %d of both did not, %d known exceptions", len(programs)-len(libraries), len(libraries), failed, len(used))
		})
	}
}

// runnable skips when this machine cannot run programs of the architecture.
func runnable(t *testing.T, a arch.Arch) {
	t.Helper()
	if a.Go() == runtime.GOARCH {
		return
	}
	raw, err := os.ReadFile("/proc/sys/fs/binfmt_misc/qemu-" + a.QEMU())
	if err != nil || !bytes.Contains(raw, []byte("\nflags: ")) || !strings.Contains(strings.SplitAfter(string(raw), "flags: ")[1], "F") {
		t.Skipf("this machine does not run %s programs (no qemu-user-static with binfmt): they had the static audit only", a)
	}
}

func loader(a arch.Arch) string {
	if a == arch.ARM64 {
		return "/lib/ld-linux-aarch64.so.1"
	}
	return "/lib64/ld-linux-x86-64.so.2"
}

// subject is the file that an attempt is about: the library, or the program.
func subject(a attempt) string {
	if len(a.Args) == 2 && a.Args[0] == "--list" {
		return strings.TrimPrefix(a.Args[1], "/")
	}
	return a.Path
}

func (r *root) owner(name string) string {
	e, _ := r.tree.Get(name)
	return e.Source
}

// inTwo divides the attempts between two stages.
func inTwo(t *testing.T, dir string, todo []attempt) []attempt {
	t.Helper()
	half := len(todo) / 2
	var first, second []attempt
	var wg sync.WaitGroup
	wg.Go(func() { first = onStage(t, dir, todo[:half]) })
	second = onStage(t, dir, todo[half:])
	wg.Wait()
	if len(first)+len(second) != len(todo) {
		t.Fatalf("%d attempts came back, want %d", len(first)+len(second), len(todo))
	}
	return append(first, second...)
}

// unfold writes the root into a directory and lists what to start in it.
func unfold(t *testing.T, r *root) (dir string, programs []attempt, libraries []string) {
	t.Helper()
	reviewed := map[string]bool{}
	found, err := audit.Check(r.tree, audit.Want{Arch: r.arch, Packages: r.packages})
	if err != nil {
		t.Fatal(err)
	}
	rest, _ := audit.Review(found, audit.Known())
	for _, f := range found {
		reviewed[f.Path] = !slices.Contains(rest, f)
	}
	dir = t.TempDir()
	err = r.tree.Walk(func(e rootfs.Entry) error {
		if strings.HasPrefix(e.Path, "usr/lib/modules/") || strings.HasPrefix(e.Path, "usr/lib/firmware/") {
			return nil
		}
		if err := put(dir, e); err != nil {
			return fmt.Errorf("/%s: %w", e.Path, err)
		}
		if reviewed[e.Path] || e.Mode.IsDir() {
			return nil
		}
		kind, err := kindOf(e)
		if err != nil {
			return fmt.Errorf("/%s: %w", e.Path, err)
		}
		onPath := slices.Contains([]string{"usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin"}, path.Dir(e.Path))
		switch {
		case kind == library:
			libraries = append(libraries, e.Path)
		case kind == program && e.Mode&0o111 != 0, onPath && e.Mode&0o111 != 0 && !reviewed[final(r.tree, e)]:
			programs = append(programs, attempt{Path: e.Path, Args: arguments(e.Path)})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir, programs, libraries
}

// arguments are what a program is started with.
func arguments(name string) []string {
	switch name {
	case "usr/bin/busybox":
		return []string{"--list"} // takes any other word for an applet, and exits with 127
	case "usr/sbin/fstab-decode":
		return []string{"/usr/bin/true"} // runs what it is given
	}
	return []string{"--version"}
}

// final is where a chain of links in one directory ends.
func final(t *rootfs.Tree, e rootfs.Entry) string {
	for range 10 {
		if e.Mode.Type() != fs.ModeSymlink {
			return e.Path
		}
		to := e.Link
		if !path.IsAbs(to) {
			to = path.Join("/", path.Dir(e.Path), to)
		}
		e, _ = t.Get(to)
	}
	return e.Path
}

type kind int

const (
	other kind = iota
	program
	library
)

// kindOf tells programs from libraries: a program names a loader, or has an
// entry point and no name of its own to be linked by.
func kindOf(e rootfs.Entry) (kind, error) {
	if !e.Mode.IsRegular() || e.Size < 64 {
		return other, nil
	}
	in, err := e.Open()
	if err != nil {
		return other, err
	}
	defer in.Close()
	at, ok := in.(io.ReaderAt)
	if !ok {
		return other, nil // a script of the overlay
	}
	f, err := elf.NewFile(at)
	var format *elf.FormatError
	if errors.As(err, &format) {
		return other, nil
	}
	if err != nil {
		return other, err
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return other, nil
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return program, nil
		}
	}
	needed, _ := f.ImportedLibraries()
	name, _ := f.DynString(elf.DT_SONAME)
	if f.Type == elf.ET_DYN && (len(needed) > 0 || len(name) > 0) {
		return library, nil
	}
	return program, nil
}

// put writes one entry as the image would have it; owners only as root.
func put(dir string, e rootfs.Entry) error {
	name := filepath.Join(dir, e.Path)
	switch e.Mode.Type() {
	case fs.ModeDir:
		if err := os.MkdirAll(name, 0o755); err != nil {
			return err
		}
	case fs.ModeSymlink:
		return os.Symlink(e.Link, name)
	default:
		in, err := e.Open()
		if err != nil {
			return err
		}
		defer in.Close()
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, in)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	if os.Getuid() == 0 {
		if err := os.Chown(name, e.UID, e.GID); err != nil {
			return err
		}
	}
	return os.Chmod(name, e.Mode.Perm()|e.Mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky))
}
