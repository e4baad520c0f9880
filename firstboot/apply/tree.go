package apply

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxLinks is how many symlinks a path may have, as in path_resolution(7).
const maxLinks = 40

// resolve gives the place of a path below root, with symlinks followed as a
// process whose / is root would, so that none leads out of it. A link that
// belongs to anyone but root is not followed: its owner could make PID 1 write
// wherever they like.
func resolve(root, name string) (string, error) {
	var rootUID uint32
	if st, err := os.Lstat(root); err != nil {
		return "", err
	} else if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		rootUID = sys.Uid
	}
	cur, rest := "", split(name)
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		if part == ".." {
			cur = filepath.Dir("/" + cur)[1:]
			continue
		}
		next := filepath.Join(cur, part)
		st, err := os.Lstat(filepath.Join(root, next))
		if errors.Is(err, fs.ErrNotExist) {
			return filepath.Join(append([]string{root, next}, rest...)...), nil
		}
		if err != nil {
			return "", err
		}
		if st.Mode()&fs.ModeSymlink == 0 {
			cur = next
			continue
		}
		if sys, ok := st.Sys().(*syscall.Stat_t); ok && sys.Uid != 0 && sys.Uid != rootUID {
			return "", fmt.Errorf("the symlink %q belongs to user %d and not to root: not followed", "/"+next, sys.Uid)
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%q: more than %d symlinks", name, maxLinks)
		}
		target, err := os.Readlink(filepath.Join(root, next))
		if err != nil {
			return "", err
		}
		if filepath.IsAbs(target) {
			cur = ""
		}
		rest = append(split(target), rest...)
	}
	return filepath.Join(root, cur), nil
}

func split(name string) []string {
	return strings.FieldsFunc(name, func(r rune) bool { return r == '/' })
}

// owner is who a file belongs to; same keeps what the old file had.
type owner struct{ uid, gid int }

func same() owner { return owner{-1, -1} }

// put replaces root/name at once: a reader sees the old file or the new one,
// and never one that others may read before its mode is set.
func put(root, name string, content []byte, mode fs.FileMode, o owner) error {
	p, err := resolve(root, name)
	if err != nil {
		return err
	}
	if o == same() {
		o = owner{os.Geteuid(), os.Getegid()}
		if st, err := os.Stat(p); err == nil {
			if sys, ok := st.Sys().(*syscall.Stat_t); ok {
				o = owner{int(sys.Uid), int(sys.Gid)}
			}
		}
	}
	if err := parents(filepath.Dir(p), o); err != nil {
		return err
	}
	if st, err := os.Stat(p); err == nil && st.IsDir() {
		return fmt.Errorf("%q is a directory", "/"+strings.TrimPrefix(name, "/"))
	}
	temp := filepath.Join(filepath.Dir(p), ".slipway-"+filepath.Base(p))
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, seal(f, mode, o)); err != nil {
		_ = os.Remove(temp)
		return err
	}
	return os.Rename(temp, p)
}

// seal sets owner and mode, in this order: chown takes setuid bits away.
func seal(f *os.File, mode fs.FileMode, o owner) error {
	var err error
	if (o != owner{os.Geteuid(), os.Getegid()}) {
		err = f.Chown(o.uid, o.gid)
	}
	return errors.Join(err, f.Chmod(mode), f.Close())
}

// add appends to root/name, which is made if it is not there.
func add(root, name string, content []byte, mode fs.FileMode, o owner) error {
	p, err := resolve(root, name)
	if err != nil {
		return err
	}
	if err := parents(filepath.Dir(p), o); err != nil {
		return err
	}
	f, err := os.OpenFile(p, os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, seal(f, mode, o))
}

// parents makes the directories above a file. In a directory of the file's
// owner they are the owner's too, elsewhere root's.
func parents(dir string, o owner) error {
	st, err := os.Stat(dir)
	if err == nil && st.IsDir() || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		return fmt.Errorf("%s is not a directory", dir)
	}
	if err := parents(filepath.Dir(dir), o); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	above, err := os.Stat(filepath.Dir(dir))
	if err != nil {
		return err
	}
	if sys, ok := above.Sys().(*syscall.Stat_t); ok && int(sys.Uid) == o.uid && o.uid != os.Geteuid() {
		return os.Lchown(dir, o.uid, o.gid)
	}
	return nil
}

// directory makes a directory of somebody's own.
func directory(root, name string, mode fs.FileMode, o owner) error {
	p, err := resolve(root, name)
	if err != nil {
		return err
	}
	if err := parents(filepath.Dir(p), owner{}); err != nil {
		return err
	}
	if err := os.Mkdir(p, mode); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	if (o != owner{os.Geteuid(), os.Getegid()}) {
		return os.Lchown(p, o.uid, o.gid)
	}
	return nil
}

// write replaces a file of root's.
func write(root, name, content string, mode fs.FileMode) error {
	return put(root, name, []byte(content), mode, same())
}

func read(root, name string) (string, error) {
	p, err := resolve(root, name)
	if err != nil {
		return "", err
	}
	raw, err := os.ReadFile(p)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(raw), err
}
