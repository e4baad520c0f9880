package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway.dev/slipway/bundle"
	"slipway.dev/slipway/bundle/deb"
	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/images/erofs"
	"slipway.dev/slipway/images/iso9660"
	"slipway.dev/slipway/images/rootfs"
)

// work is what both sides of the measurements start from.
type work struct {
	file, lock, cache, dir string
	netboot, next          string         // directories of bundles, built
	gib                    int64          // size of the disks that nodes are put on
	match                  *regexp.Regexp // of the seed's servers
}

func (w *work) self(step string) []string {
	me, err := os.Executable()
	if err != nil {
		me = os.Args[0]
	}
	return []string{me, "-step", step, "-f", w.file, "-lock", w.lock, "-cache", w.cache, "-work", w.dir}
}

func (w *work) at(name string) string { return filepath.Join(w.dir, name) }

func (w *work) measure(ctx context.Context, full bool) ([]*comparison, error) {
	if err := w.prepare(ctx); err != nil {
		return nil, err
	}
	names, err := w.names()
	if err != nil {
		return nil, err
	}
	fresh := func(names ...string) func() error {
		return func() error {
			var errs []error
			for _, n := range names {
				errs = append(errs, os.RemoveAll(w.at(n)))
			}
			return errors.Join(errs...)
		}
	}
	all := []*comparison{
		{What: "root from local .debs, cold",
			Ours: side{Name: "slipway: EROFS", argv: w.self("root"), prep: fresh("unpacked", "root.erofs")},
			Peer: side{Name: "mmdebstrap --variant=extract: tar", prep: fresh("root.tar"), argv: []string{"mmdebstrap", "--variant=extract", "--mode=root",
				"--include=" + strings.Join(names, ","), "", w.at("root.tar"), "deb [trusted=yes] copy:" + w.at("repo") + " ./"}}},
		{What: "EROFS of that root",
			Ours: side{Name: "slipway", argv: w.self("erofs"), prep: fresh("root.erofs")},
			Peer: side{Name: "mkfs.erofs", argv: []string{"mkfs.erofs", "-T0", "--quiet", w.at("peer.erofs"), w.at("tree")}, prep: fresh("peer.erofs")}},
		{What: "ISO of the netboot files",
			Ours: side{Name: "slipway", argv: w.self("iso"), prep: fresh("our.iso")},
			Peer: side{Name: "xorriso -as mkisofs", argv: []string{"xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", w.at("peer.iso"), w.at("out/example-amd64-netboot")}, prep: fresh("peer.iso")}},
	}
	for _, c := range all {
		if err := c.alternate(ctx, 5); err != nil {
			return nil, err
		}
	}
	more, err := w.rebuilds(ctx, full)
	return append(all, more...), err
}

// rebuilds compares slipway with itself: nothing changed, one package changed,
// everything cold.
func (w *work) rebuilds(ctx context.Context, full bool) ([]*comparison, error) {
	bin := w.at("slipway")
	raw, err := os.ReadFile(w.file)
	if err != nil {
		return nil, err
	}
	one := regexp.MustCompile(`\bstrace, `).ReplaceAll(raw, nil)
	if bytes.Equal(one, raw) {
		return nil, fmt.Errorf("%s: no package strace to leave out", w.file)
	}
	changed := w.at("config/changed.yaml")
	if err := os.WriteFile(changed, one, 0o644); err != nil {
		return nil, err
	}
	build := func(file, lock, out, cache string) []string {
		return []string{bin, "build", "--cache", cache, "-f", file, "--lock", lock, "--out", out}
	}
	// The package's index and the rest are in the cache; what is new is the lock.
	drop := func() error {
		return errors.Join(os.RemoveAll(w.at("changed")), os.RemoveAll(w.at("changed.lock")))
	}
	main := w.at("config/bundle.yaml")
	all := []*comparison{{What: "rebuild with nothing changed, against one package left out",
		Ours: side{Name: "slipway build, unchanged", argv: build(main, w.lock, w.at("out"), w.cache)},
		Peer: side{Name: "slipway build, one package out", argv: build(changed, w.at("changed.lock"), w.at("changed"), w.cache), prep: drop}}}
	if err := all[0].alternate(ctx, 3); err != nil || !full {
		return all, err
	}
	cold := &comparison{What: "rebuild with one package left out, against a cold build",
		Ours: side{Name: "slipway build, one package out", argv: all[0].Peer.argv, prep: drop},
		Peer: side{Name: "slipway build, all caches empty", argv: append([]string{"env", "GOCACHE=" + w.at("gocache")}, build(main, w.at("cold.lock"), w.at("cold"), w.at("cache"))...)}}
	return append(all, cold), cold.alternate(ctx, 1)
}

// step is one side, in a process of its own.
func (w *work) step(ctx context.Context, name string) error {
	switch name {
	case "root":
		t, err := w.tree(w.at("unpacked"))
		if err != nil {
			return err
		}
		return writeErofs(w.at("root.erofs"), t)
	case "erofs":
		t, err := w.tree(filepath.Join(w.cache, "unpacked"))
		if err != nil {
			return err
		}
		return writeErofs(w.at("root.erofs"), t)
	case "iso":
		return w.iso(ctx)
	}
	return fmt.Errorf("step %q is not known", name)
}

func writeErofs(name string, t *rootfs.Tree) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(erofs.Write(f, t, time.Unix(1, 0), filepath.Dir(name)), f.Close())
}

func (w *work) debs() (*lock.Lock, []lock.Deb, error) {
	l, err := lock.Read(w.lock)
	if err != nil {
		return nil, nil, err
	}
	return l, slices.DeleteFunc(l.Debs, func(d lock.Deb) bool { return d.Arch != arch.AMD64 || !d.In(bundle.SetSystem) }), nil
}

func (w *work) names() (out []string, err error) {
	_, debs, err := w.debs()
	for _, d := range debs {
		out = append(out, d.Name)
	}
	return out, err
}

// tree unpacks every package of the system set, into or out of the directory.
func (w *work) tree(unpacked string) (*rootfs.Tree, error) {
	if err := os.MkdirAll(unpacked, 0o755); err != nil {
		return nil, err
	}
	_, debs, err := w.debs()
	if err != nil {
		return nil, err
	}
	u := &deb.Unpacker{Cache: unpacked}
	out := make([]*deb.Archive, len(debs))
	slices.SortFunc(debs, func(a, b lock.Deb) int { return cmp.Compare(b.Size, a.Size) }) // as the builder does
	var g errgroup.Group
	g.SetLimit(2)
	for i, d := range debs {
		g.Go(func() (err error) {
			out[i], err = u.Unpack(d.Name, string(d.SHA256), func() (io.ReadCloser, error) { return os.Open(w.blob(d.SHA256)) })
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	t := rootfs.New()
	for _, first := range []bool{true, false} { // base-files brings the usr-merge links
		for i, d := range debs {
			if (d.Name == "base-files") != first {
				continue
			}
			for _, f := range out[i].Files {
				if rootfs.Clean(f.Path) == "" {
					continue
				}
				if err := t.Add(rootfs.Entry{Path: f.Path, Mode: f.Mode, UID: f.UID, GID: f.GID, Size: f.Size, Link: f.Link, Xattrs: f.Xattrs, Source: d.Name, Open: f.Open}); err != nil {
					return nil, err
				}
			}
		}
	}
	return t, nil
}

func (w *work) blob(d lock.Digest) string { return filepath.Join(w.cache, "blobs/sha256", string(d)) }

// iso writes the netboot directory as slipway's ISO writer does.
func (w *work) iso(ctx context.Context) error {
	dir := w.at("out/example-amd64-netboot")
	var files []iso9660.File
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		fi, err := e.Info()
		rel, _ := filepath.Rel(dir, p)
		files = append(files, iso9660.File{Path: filepath.ToSlash(rel), Mode: 0o444, Size: fi.Size(), Open: func() (io.ReadCloser, error) { return os.Open(p) }})
		return err
	})
	if err != nil {
		return err
	}
	im, err := iso9660.Plan(iso9660.Volume{ID: "BENCH", Time: time.Unix(1e9, 0), Files: files})
	if err != nil {
		return err
	}
	f, err := os.Create(w.at("our.iso"))
	if err != nil {
		return err
	}
	return errors.Join(im.Write(ctx, f, nil), f.Close())
}

// prepare builds once, and lays out what the peers read: the .debs as an apt
// repository without dependencies, which the lock has resolved, and the tree.
func (w *work) prepare(ctx context.Context) error {
	for _, d := range []string{"repo", "config", "tree"} {
		if err := os.MkdirAll(w.at(d), 0o755); err != nil {
			return err
		}
	}
	config, err := filepath.Glob(filepath.Join(filepath.Dir(w.file), "*"))
	if err != nil {
		return err
	}
	for _, c := range config {
		raw, err := os.ReadFile(c)
		if err != nil {
			return err
		}
		if err := os.WriteFile(w.at("config/"+filepath.Base(c)), raw, 0o644); err != nil {
			return err
		}
	}
	for _, argv := range [][]string{
		{"go", "build", "-o", w.at("slipway"), "./cmd/slipway"},
		{w.at("slipway"), "build", "--cache", w.cache, "-f", w.at("config/bundle.yaml"), "--lock", w.lock, "--out", w.at("out")},
	} {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", argv[0], err)
		}
	}
	if err := w.repository(); err != nil {
		return err
	}
	t, err := w.tree(filepath.Join(w.cache, "unpacked"))
	if err != nil {
		return err
	}
	return extract(t, w.at("tree"))
}

func (w *work) repository() error {
	_, debs, err := w.debs()
	if err != nil {
		return err
	}
	var index bytes.Buffer
	relations := regexp.MustCompile(`(?m)^(Depends|Pre-Depends|Recommends|Suggests|Breaks|Conflicts|Filename):.*\n(?:[ \t].*\n)*`)
	for _, d := range debs {
		name := string(d.SHA256) + ".deb"
		if err := os.Link(w.blob(d.SHA256), w.at("repo/"+name)); err != nil {
			return err
		}
		fmt.Fprintf(&index, "%sFilename: ./%s\n\n", relations.ReplaceAllString(strings.TrimRight(d.Control, "\n")+"\n", ""), name)
	}
	return os.WriteFile(w.at("repo/Packages"), index.Bytes(), 0o644)
}

// extract writes a tree as files; it needs root for owners.
func extract(t *rootfs.Tree, dir string) error {
	return t.Walk(func(e rootfs.Entry) error {
		name := filepath.Join(dir, e.Path)
		switch e.Mode.Type() {
		case fs.ModeDir:
			if err := os.MkdirAll(name, 0o755); err != nil {
				return err
			}
		case fs.ModeSymlink:
			return errors.Join(os.Symlink(e.Link, name), os.Lchown(name, e.UID, e.GID))
		default:
			in, err := e.Open()
			if err != nil {
				return err
			}
			defer in.Close()
			out, err := os.Create(name)
			if err != nil {
				return err
			}
			if _, err := io.Copy(out, in); err != nil {
				return err
			}
			if err := out.Close(); err != nil {
				return err
			}
		}
		return errors.Join(os.Lchown(name, e.UID, e.GID), os.Chmod(name, e.Mode))
	})
}
