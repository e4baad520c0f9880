//go:build unix

package store

import "golang.org/x/sys/unix"

// free is the number of bytes that this user may still write below dir.
func free(dir string) (int64, bool) {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return 0, false
	}
	return int64(st.Bavail) * int64(st.Bsize), true
}
