//go:build !linux

package web

import "syscall"

// sendFile leaves everything to the copy: Windows sends from the file's own
// position, which requests share, and on macOS nobody has measured it.
func sendFile(syscall.RawConn, uintptr, int64, int64, func()) (int64, error) { return 0, nil }

// cork is Linux' own.
func (c *conn) cork(bool) {}
