//go:build !linux

package qemu

import "syscall"

// processAttr is empty: there is no such thing as Linux' PR_SET_PDEATHSIG.
func processAttr() *syscall.SysProcAttr { return nil }
