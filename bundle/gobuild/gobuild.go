// Package gobuild turns a program of a pinned Go module version into a static
// binary for one architecture.
//
// It does not know what a program is for, picks no versions, and never
// switches checksum verification off: modules come through the go tool.
package gobuild

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
)

// Module is a Go module at a version and how to build from it.
type Module struct {
	Path    string // "k8s.io/kubernetes"
	Version string // "v1.37.1"
	// Dir is set for a module that is a directory of this machine (slipway's
	// own source) instead of a published version.
	Dir string
	// Replace maps module paths to versions, for modules whose go.mod replaces
	// parts of itself by directories that a published version does not have.
	Replace map[string]string
	// Stub lists package directories, relative to the module, that are replaced
	// by an empty package: for packages imported for their side effects only
	// that would need a C compiler.
	Stub []string
}

// Program is a main package of a module.
type Program struct {
	Name    string   // file name of the result
	Package string   // import path
	LDFlags []string // in addition to -s -w
	Tags    []string
}

// Binary is a built program.
type Binary struct {
	Name   string      `json:"name"`
	Path   string      `json:"-"`
	Size   int64       `json:"size"` // bytes
	SHA256 lock.Digest `json:"sha256"`
}

// Builder builds into a directory that is keyed by everything that went in.
type Builder struct {
	Cache string // directory
	Log   *slog.Logger
	// Offline refuses to download or compile anything: what is not there is an error.
	Offline bool
	// Progress is told when a module is compiled, which what is cached is not:
	// how many packages so far.
	Progress func(m Module, a arch.Arch, packages int)
}

// Info is what the go tool knows about a module version.
type Info struct {
	Dir     string    // where the source is
	Sum     string    // h1: hash that the checksum database confirmed
	Time    time.Time // of the version
	Version string
}

// Download fetches a module version and returns where its source is.
func (b *Builder) Download(ctx context.Context, path, version string) (Info, error) {
	dir, err := os.MkdirTemp("", "slipway-mod-")
	if err != nil {
		return Info{}, err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module slipway.build\n"), 0o644); err != nil {
		return Info{}, err
	}
	out, err := b.run(ctx, dir, nil, "mod", "download", "-json", path+"@"+version)
	if err != nil {
		return Info{}, fmt.Errorf("module %s@%s: %w", path, version, err)
	}
	var d struct{ Dir, Sum, Version, Info string }
	if err := json.Unmarshal(out, &d); err != nil {
		return Info{}, fmt.Errorf("module %s@%s: %w", path, version, err)
	}
	var meta struct{ Time time.Time }
	if raw, err := os.ReadFile(d.Info); err == nil {
		if err := json.Unmarshal(raw, &meta); err != nil {
			return Info{}, fmt.Errorf("module %s@%s: %s: %w", path, version, d.Info, err)
		}
	}
	return Info{Dir: d.Dir, Sum: d.Sum, Version: d.Version, Time: meta.Time}, nil
}

// Toolchain is the version of the go tool, "go1.26.0": part of every result.
func (b *Builder) Toolchain(ctx context.Context) (string, error) {
	out, err := b.run(ctx, "", nil, "env", "GOVERSION")
	return strings.TrimSpace(string(out)), err
}

// Build makes all programs of one module for one architecture, or takes them
// from the cache when every input is the same as before. Results are sorted by name.
func (b *Builder) Build(ctx context.Context, m Module, progs []Program, a arch.Arch) ([]Binary, error) {
	key, err := b.key(ctx, m, progs, a)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.Cache, string(key))
	if bins, err := load(dir); err == nil {
		return bins, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		b.Log.Warn("built programs are damaged, building again", "dir", dir, "cause", err)
	}
	if b.Offline {
		return nil, fmt.Errorf("programs of %s@%s for %s: not built yet, or damaged: %w", m.Path, m.Version, a, fs.ErrNotExist)
	}
	if err := os.MkdirAll(b.Cache, 0o755); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(b.Cache, ".build-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	if err := b.compile(ctx, tmp, m, progs, a); err != nil {
		return nil, fmt.Errorf("building %s@%s for %s: %w", m.Path, m.Version, a, err)
	}
	if err := save(filepath.Join(tmp, "bin")); err != nil {
		return nil, err
	}
	if err := errors.Join(os.RemoveAll(dir), os.Rename(filepath.Join(tmp, "bin"), dir)); err != nil {
		return nil, err
	}
	return load(dir)
}

// key is the digest of everything that decides the bytes of the result.
func (b *Builder) key(ctx context.Context, m Module, progs []Program, a arch.Arch) (lock.Digest, error) {
	tool, err := b.Toolchain(ctx)
	if err != nil {
		return "", err
	}
	content := struct {
		Tool  string
		M     Module
		P     []Program
		A     arch.Arch
		Local lock.Digest
	}{Tool: tool, M: m, P: progs, A: a}
	content.M.Dir = ""
	if m.Dir != "" {
		if content.Local, err = b.sourceDigest(ctx, m.Dir, progs, a); err != nil {
			return "", err
		}
	}
	raw, err := json.Marshal(content)
	return lock.SumBytes(raw), err
}

// sourceDigest names the non-test Go files (and go.sum) that the programs of a
// local module are made from.
func (b *Builder) sourceDigest(ctx context.Context, dir string, progs []Program, a arch.Arch) (lock.Digest, error) {
	const files = `{{if not .Standard}}{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}{{range .EmbedFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}{{end}}`
	args := []string{"list", "-deps", "-f", files}
	for _, p := range progs {
		args = append(args, p.Package)
	}
	out, err := b.run(ctx, dir, environ(a), args...)
	if err != nil {
		return "", err
	}
	paths := strings.Fields(string(out))
	sort.Strings(paths)
	var all bytes.Buffer
	for _, p := range paths {
		if !strings.HasPrefix(p, dir+"/") {
			continue // published modules are named by go.sum
		}
		raw, err := os.ReadFile(p)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&all, "%s %s\n", strings.TrimPrefix(p, dir), lock.SumBytes(raw))
	}
	for _, p := range []string{"go.mod", "go.sum"} {
		raw, err := os.ReadFile(filepath.Join(dir, p))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&all, "%s %s\n", p, lock.SumBytes(raw))
	}
	return lock.SumBytes(all.Bytes()), nil
}

func (b *Builder) compile(ctx context.Context, tmp string, m Module, progs []Program, a arch.Arch) error {
	out := filepath.Join(tmp, "bin")
	if err := os.Mkdir(out, 0o755); err != nil {
		return err
	}
	dir, mod, err := b.workspace(ctx, tmp, m)
	if err != nil {
		return err
	}
	packages := 0
	b.Progress(m, a, packages)
	count := func(line string) {
		if !strings.HasPrefix(line, "go: ") && !strings.ContainsAny(line, " :") { // -v names each package it compiles
			packages++
			b.Progress(m, a, packages)
		}
	}
	for _, group := range groups(progs) {
		args := []string{"build", "-v", "-trimpath", "-buildvcs=false", mod}
		if len(group[0].Tags) > 0 {
			args = append(args, "-tags", strings.Join(group[0].Tags, ","))
		}
		args = append(args, "-ldflags", strings.Join(append([]string{"-s", "-w", "-buildid="}, group[0].LDFlags...), " "), "-o", out+"/")
		for _, p := range group {
			args = append(args, p.Package)
		}
		if _, err := b.watch(ctx, dir, environ(a), count, args...); err != nil {
			return err
		}
		for _, p := range group {
			if err := rename(out, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// workspace prepares the directory to build in: the module itself, or a module
// of one requirement around a published version.
func (b *Builder) workspace(ctx context.Context, tmp string, m Module) (dir, modFlag string, err error) {
	if m.Dir != "" {
		return m.Dir, "-mod=readonly", nil
	}
	info, err := b.Download(ctx, m.Path, m.Version)
	if err != nil {
		return "", "", err
	}
	var gomod bytes.Buffer
	fmt.Fprintf(&gomod, "module slipway.build\n\ngo 1.26.0\n\nrequire %s %s\n", m.Path, m.Version)
	names := make([]string, 0, len(m.Replace))
	for n := range m.Replace {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		fmt.Fprintf(&gomod, "replace %s => %s %s\n", n, n, m.Replace[n])
	}
	if len(m.Stub) > 0 {
		// The go tool refuses an overlay over its module cache, so the module is copied.
		if err := copyModule(filepath.Join(tmp, "src"), info.Dir, m.Stub); err != nil {
			return "", "", err
		}
		fmt.Fprintf(&gomod, "replace %s => ./src\n", m.Path)
	}
	if err := os.WriteFile(filepath.Join(tmp, "go.mod"), gomod.Bytes(), 0o644); err != nil {
		return "", "", err
	}
	return tmp, "-mod=mod", nil
}

// copyModule copies a module's source with the stubs in place; a stub for a
// package that is not there is an error, because then the list is stale.
func copyModule(dst, src string, stubs []string) error {
	if err := os.CopyFS(dst, os.DirFS(src)); err != nil {
		return err
	}
	for _, s := range stubs {
		dir := filepath.Join(dst, s)
		if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // copies of a read-only cache
			return err
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			return fmt.Errorf("stubbing a package: %w", err)
		}
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)); err != nil {
			return err
		}
		text := "package " + filepath.Base(s) + "\n"
		if err := os.WriteFile(filepath.Join(dir, "stub.go"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// groups splits programs so that those with the same flags share one go build.
func groups(progs []Program) [][]Program {
	var out [][]Program
	at := map[string]int{}
	for _, p := range progs {
		k := strings.Join(p.LDFlags, "\x00") + "\x01" + strings.Join(p.Tags, ",")
		i, ok := at[k]
		if !ok {
			i = len(out)
			at[k] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], p)
	}
	return out
}

// rename gives the go tool's output (last element of the package path, or the
// one before a major version) the program's name.
func rename(dir string, p Program) error {
	base := filepath.Base(p.Package)
	if len(base) > 1 && base[0] == 'v' && strings.Trim(base[1:], "0123456789") == "" {
		base = filepath.Base(filepath.Dir(p.Package))
	}
	if base == p.Name {
		return nil
	}
	return os.Rename(filepath.Join(dir, base), filepath.Join(dir, p.Name))
}

func environ(a arch.Arch) []string {
	return []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + a.Go(), "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS="}
}

func (b *Builder) run(ctx context.Context, dir string, env []string, args ...string) ([]byte, error) {
	return b.watch(ctx, dir, env, func(string) {}, args...)
}

// watch runs the go tool and hands over each line of its standard error.
func (b *Builder) watch(ctx context.Context, dir string, env []string, line func(string), args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), append([]string{"GOTOOLCHAIN=local", "GOWORK=off"}, env...)...)
	if b.Offline {
		cmd.Env = append(cmd.Env, "GOPROXY=off")
	}
	var stdout bytes.Buffer
	stderr := &lines{each: line}
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	b.Log.Debug("run", "dir", dir, "argv", cmd.Args)
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args[:min(2, len(args))], " "), err, tail(stdout.String()+stderr.text.String(), 20))
	}
	return stdout.Bytes(), nil
}

// lines keeps what is written and hands over each whole line.
type lines struct {
	text bytes.Buffer
	from int
	each func(string)
}

func (l *lines) Write(b []byte) (int, error) {
	l.text.Write(b)
	for {
		rest := l.text.Bytes()[l.from:]
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			return len(b), nil
		}
		l.each(string(rest[:i]))
		l.from += i + 1
	}
}

func tail(s string, n int) string {
	l := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(l[max(0, len(l)-n):], "\n")
}
