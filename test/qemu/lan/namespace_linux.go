package lan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// nicName is the segment's card inside a Namespace.
const nicName = "lan0"

// Namespace is a network namespace of this machine whose only card is on the
// segment: real programs run in it as if on a computer of the LAN. It needs
// root. The tripwire does not watch it.
type Namespace struct {
	Name string
	MAC  net.HardwareAddr
	Port *Port

	handle netns.NsHandle
	tap    *os.File
	wg     sync.WaitGroup
	once   sync.Once
}

// Namespace adds a namespace with the addresses given, none for a computer
// whose owner has not said one yet.
func (s *Switch) Namespace(name string, addrs ...netip.Prefix) (*Namespace, error) {
	port, err := s.newPort(name, false)
	if err != nil {
		return nil, fmt.Errorf("namespace %q: %w", name, err)
	}
	n := &Namespace{Name: name, MAC: port.MAC, Port: port}
	if err := onThread(func() error { return n.create(addrs) }); err != nil {
		return nil, errors.Join(fmt.Errorf("namespace %q: %w", name, err), port.Close())
	}
	port.mu.Lock()
	port.deliver = func(frame []byte) { _, _ = n.tap.Write(frame) }
	port.mu.Unlock()
	n.wg.Go(n.read)
	return n, nil
}

// onThread runs f on a thread of its own, which ends with it: a thread that
// changed its namespace is of no use to anybody else.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// create makes the namespace of the calling thread and its card.
func (n *Namespace) create(addrs []netip.Prefix) error {
	var err error
	if n.handle, err = netns.New(); err != nil {
		return err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("opening /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(nicName)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return errors.Join(fmt.Errorf("making a tap device: %w", err), unix.Close(fd))
	}
	n.tap = os.NewFile(uintptr(fd), "tap")
	return n.configure(addrs)
}

func (n *Namespace) configure(addrs []netip.Prefix) error {
	for _, name := range []string{"lo", nicName} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if name == nicName {
			if err := netlink.LinkSetHardwareAddr(link, n.MAC); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			for _, a := range addrs {
				ip := &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}
				if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ip}); err != nil {
					return fmt.Errorf("%s: adding %s: %w", name, a, err)
				}
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// read takes frames off the tap device until it is closed.
func (n *Namespace) read() {
	buf := make([]byte, frameLimit+headerLength)
	for {
		size, err := n.tap.Read(buf)
		if err != nil {
			return
		}
		n.Port.sw.receive(n.Port, append([]byte(nil), buf[:size]...))
	}
}

// Do runs f on a thread inside the namespace. Sockets that f opens stay there.
func (n *Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(n.handle); err != nil {
			return fmt.Errorf("entering namespace %q: %w", n.Name, err)
		}
		return f()
	})
}

// Start starts a program inside the namespace.
func (n *Namespace) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// Close takes the card off the segment. Programs inside keep an empty namespace.
func (n *Namespace) Close() error {
	n.once.Do(func() {
		n.tap.Close()
		n.wg.Wait()
		n.Port.Close()
		n.handle.Close()
	})
	return nil
}
