package audit

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"slipway.dev/slipway/images/rootfs"
)

// unread are large parts of a root that no command needs to start.
var unread = []string{"usr/lib/modules/", "usr/lib/firmware/", "usr/share/doc/"}

// extract writes a tree into an empty directory, with owners and modes.
func extract(tree *rootfs.Tree, root string) error {
	return tree.Walk(func(e rootfs.Entry) error {
		for _, p := range unread {
			if strings.HasPrefix(e.Path, p) {
				return nil
			}
		}
		name := filepath.Join(root, e.Path)
		switch e.Mode.Type() {
		case fs.ModeDir:
			if err := os.MkdirAll(name, 0o755); err != nil {
				return err
			}
		case fs.ModeSymlink:
			return os.Symlink(e.Link, name)
		case 0:
			if err := write(name, e); err != nil {
				return err
			}
		default:
			return nil // devtmpfs makes nodes
		}
		if err := os.Lchown(name, e.UID, e.GID); err != nil {
			return err
		}
		return os.Chmod(name, e.Mode) // after chown(2), which takes setuid away
	})
}

func write(name string, e rootfs.Entry) error {
	in, err := e.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}
