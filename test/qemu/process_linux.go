package qemu

import "syscall"

// processAttr has the kernel kill the emulator when the thread that started
// it ends (prctl(2) PR_SET_PDEATHSIG): a test that panics or is killed leaves
// no machine behind.
func processAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
