// Package rules keeps the architecture: which package may import which, what
// every package says of itself, and how long a piece of code may get. It holds
// tests only.
//
// It does not judge what code does.
package rules

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "slipway.dev/slipway/"

type pkg struct {
	ImportPath, Dir, Doc string
	GoFiles, Deps        []string
	Imports              []string
}

func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module) }

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,GoFiles,Deps,Imports", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// within says whether a package is one of the trees: "images" covers "images/boot".
func within(name string, trees ...string) bool {
	return slices.ContainsFunc(trees, func(tree string) bool { return name == tree || strings.HasPrefix(name, tree+"/") })
}

// TestImports: what a tree may reach of slipway's own packages, directly or not.
func TestImports(t *testing.T) {
	allowed := map[string][]string{
		"configs": {"configs"},
		"bundle":  {"bundle", "configs"},
		"images":  {"images", "configs", "bundle/lock", "bundle/store", "bundle/deb"},
		"overlay": {"overlay", "images/rootfs", "bundle/lock", "configs/arch"},
		// The node knows the contracts about media and command lines, never how they are made.
		"firstboot": {"firstboot", "configs", "bundle/lock", "bundle/store", "images/boot", "images/bootdisk", "images/layout", "images/medium", "images/isofs"},
		"pxe":       {"pxe", "configs", "bundle/lock", "bundle/store", "images/boot", "images/layout", "images/isofs", "images/medium"},
	}
	leaves := []string{"configs/arch", "images/rootfs", "images/layout", "images/iso9660", "images/isofs"}
	for _, p := range packages(t) {
		for tree, may := range allowed {
			if !within(p.name(), tree) {
				continue
			}
			for _, d := range p.Deps {
				if d, own := strings.CutPrefix(d, module); own && !within(d, may...) {
					t.Errorf("%s reaches %s; %s may reach %s", p.name(), d, tree, strings.Join(may, " "))
				}
			}
		}
		if slices.Contains(leaves, p.name()) {
			for _, d := range p.Deps {
				if strings.HasPrefix(d, module) {
					t.Errorf("%s is a leaf and reaches %s", p.name(), d)
				}
			}
		}
	}
}

// TestOneHTTPClient: only bundle fetches. firstboot/kubeadm talks to its own
// node's API server, with that cluster's CA alone; firstboot/blobs to the
// address on the kernel command line.
func TestOneHTTPClient(t *testing.T) {
	for _, p := range packages(t) {
		if slices.Contains(p.Imports, "net/http") && !within(p.name(), "bundle", "firstboot/kubeadm", "firstboot/blobs", "firstboot/enrol", "pxe", "test", "cmd") {
			t.Errorf("%s imports net/http", p.name())
		}
	}
}

// TestEveryPackageSaysWhatItDoesNotDo: one doc comment, with both halves.
func TestEveryPackageSaysWhatItDoesNotDo(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 {
			continue
		}
		fset := token.NewFileSet()
		docs := 0
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, f), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc == nil {
				continue
			}
			docs++
			text := strings.ReplaceAll(file.Doc.Text(), "\n", " ")
			if !slices.ContainsFunc([]string{" not ", " no ", "neither", "never", "nothing", "holds no", "only"}, func(w string) bool { return strings.Contains(text, w) }) {
				t.Errorf("%s: the doc comment does not say what the package does not do", p.name())
			}
		}
		if docs != 1 {
			t.Errorf("%s: %d doc comments, want one", p.name(), docs)
		}
	}
}

// TestBudgets: 500 lines a file, 80 a function, twelve files a package. The
// exceptions stand here with their reason.
func TestBudgets(t *testing.T) {
	files := map[string]int{
		"cmd/slipway":       23, // a file per verb
		"configs":           25, // a section of a file that a person writes is a file here
		"firstboot":         25, // a file per phase, and per thing that a running node is asked for
		"firstboot/kubeadm": 15, // documents and services of one program, init and join
		"pxe/seed":          13, // a file per thing that is decided about a machine, on one state
		"test/qemu":         13, // a file per part of a machine
	}
	for _, p := range packages(t) {
		if most := max(12, files[p.name()]); len(p.GoFiles) > most {
			t.Errorf("%s: %d files, want at most %d", p.name(), len(p.GoFiles), most)
		}
		fset := token.NewFileSet()
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, f), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			if n := fset.Position(file.End()).Line; n > 500 {
				t.Errorf("%s/%s: %d lines", p.name(), f, n)
			}
			for _, d := range file.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok {
					if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1; n > 80 {
						t.Errorf("%s/%s: func %s has %d lines", p.name(), f, fn.Name.Name, n)
					}
				}
			}
		}
	}
}

// TestOnlyCommandsExit: flags, the environment and exit codes belong to cmd and
// to test programs. gobuild hands its environment on to the go tool.
func TestOnlyCommandsExit(t *testing.T) {
	forbidden := map[string]string{"os.Exit": "", "os.Getenv": "", "os.LookupEnv": "", "log.Fatal": ""}
	for _, p := range packages(t) {
		if within(p.name(), "cmd", "test") {
			continue
		}
		fset := token.NewFileSet()
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, f), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok {
					if x, ok := s.X.(*ast.Ident); ok {
						if _, bad := forbidden[x.Name+"."+s.Sel.Name]; bad {
							t.Errorf("%s: %s.%s", fset.Position(n.Pos()), x.Name, s.Sel.Name)
						}
					}
				}
				return true
			})
		}
	}
}
