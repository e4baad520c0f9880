package tftp

import (
	"net"
	"testing"
)

// watched tells how many slots are taken at the moment a datagram goes out.
type watched struct {
	net.PacketConn
	slots *slots
	taken chan int
}

func (w watched) WriteTo(b []byte, to net.Addr) (int, error) {
	w.slots.mu.Lock()
	w.taken <- len(w.slots.all)
	w.slots.mu.Unlock()
	return w.PacketConn.WriteTo(b, to)
}

// A client that asks again as soon as it is refused, even for the same name, is
// not taken for a copy, nor counted twice.
func TestSlotIsFreeBeforeTheRefusal(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	s := &Server{Files: lookup(nil)}
	w := watched{pc, &s.slots, make(chan int, 1)}
	for _, name := range []string{"grub/x86_64-efi/command.lst", "revocations.efi"} {
		rest := s.accept(t.Context(), w, pc.LocalAddr(), "\x00\x01"+name+"\x00octet\x00", Limits{}.orDefaults())
		if rest == nil {
			t.Fatalf("%s: nothing to do", name)
		}
		rest()
		if n := <-w.taken; n != 0 {
			t.Errorf("%s: %d slots are taken while the refusal is sent", name, n)
		}
	}
}
