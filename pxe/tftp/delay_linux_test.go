package tftp

import (
	"syscall"
	"time"
)

// delay sleeps for d and not, as time.Sleep in a process that waits in epoll,
// for the next whole millisecond.
func delay(d time.Duration) {
	left := syscall.NsecToTimespec(int64(d))
	for syscall.Nanosleep(&left, &left) == syscall.EINTR {
	}
}
