package images

import (
	"fmt"
	"io"
	"io/fs"

	"slipway.dev/slipway/images/kmod"
	"slipway.dev/slipway/images/rootfs"
)

// Plan is what will be written, before anything is: every name of the root and
// of the initramfs with its mode, owner, size and origin.
type Plan struct {
	Content   *Content
	Release   string // of the kernel: "6.12.0-amd64"
	Kernel    rootfs.Entry
	System    *rootfs.Tree
	Initramfs *rootfs.Tree
}

// ModuleReader gives the modules of a kernel release in a tree; kmod.Read, or
// a cache around it.
type ModuleReader func(t *rootfs.Tree, release string) ([]kmod.Module, error)

// Assemble lays out the root and the initramfs. It writes nothing.
func Assemble(c *Content, read ModuleReader) (*Plan, error) {
	sys, err := system(c)
	if err != nil {
		return nil, fmt.Errorf("system root: %w", err)
	}
	release, image, err := kernel(sys)
	if err != nil {
		return nil, fmt.Errorf("system root: %w", err)
	}
	mods, err := read(sys, release)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", release, err)
	}
	builtin, err := content(sys, kmod.Dir(release)+"/modules.builtin")
	if err != nil {
		return nil, err
	}
	mods, dropped := kmod.Prune(mods, trimmedModules(c))
	for _, m := range dropped {
		sys.Remove(kmod.Dir(release) + "/" + m.Path)
	}
	if err := addIndexes(sys, release, mods, builtin); err != nil {
		return nil, err
	}
	ram, err := initramfs(sys, release, mods, builtin, c)
	if err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	return &Plan{Content: c, Release: release, Kernel: image, System: sys, Initramfs: ram}, nil
}

// Print writes the plan as text, one line per name, stable from run to run.
func (p *Plan) Print(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "bundle %s serial %d, %s, Kubernetes %s, kernel %s\ncmdline %s\n",
		p.Content.Name, p.Content.Serial, p.Content.Arch, p.Content.Kubernetes, p.Release, p.Content.Boot.Cmdline); err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		tree *rootfs.Tree
	}{{"system", p.System}, {"initramfs", p.Initramfs}} {
		if err := part.tree.Walk(func(e rootfs.Entry) error {
			_, err := fmt.Fprintf(w, "%s %s %d:%d %d /%s%s (%s)\n", part.name, e.Mode, e.UID, e.GID, e.Size, e.Path, arrow(e), e.Source)
			return err
		}); err != nil {
			return err
		}
	}
	for _, b := range p.Content.Blobs {
		if _, err := fmt.Fprintf(w, "blob %s %s %d %s\n", b.Role, b.Name, b.Size, b.SHA256); err != nil {
			return err
		}
	}
	return nil
}

func arrow(e rootfs.Entry) string {
	if e.Mode.Type() == fs.ModeSymlink {
		return " -> " + e.Link
	}
	return ""
}
