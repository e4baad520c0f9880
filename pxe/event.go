package pxe

import (
	"fmt"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Step names what happened to a packet.
type Step string

// The steps an operator sees.
const (
	StepDiscover   Step = "DISCOVER"
	StepOffer      Step = "OFFER"
	StepRequest    Step = "REQUEST"
	StepAck        Step = "ACK"
	StepNak        Step = "NAK"
	StepInform     Step = "INFORM"
	StepRelease    Step = "RELEASE"
	StepDecline    Step = "DECLINE"
	StepConflict   Step = "CONFLICT" // somebody else answers at an address of ours
	StepProxyOffer Step = "PROXY-OFFER"
	StepProxy4011  Step = "PROXY-4011"
	StepForeign    Step = "FOREIGN-SERVER"
	StepIgnored    Step = "IGNORED"
)

// Event is one line of what the server did. Text is plain ASCII.
type Event struct {
	Machine Machine
	Step    Step
	Text    string
}

func (e Event) String() string {
	s := fmt.Sprintf("%s %s", e.Step, e.Machine)
	if e.Text != "" {
		s += ": " + e.Text
	}
	return s
}

// Answer is what a handler makes of one packet.
type Answer struct {
	Packet *dhcpv4.DHCPv4 // nil: say nothing
	To     netip.AddrPort // where Packet goes; the zero port means back to where the question came from
	Events []Event
}

func (a *Answer) note(m Machine, s Step, format string, args ...any) {
	a.Events = append(a.Events, Event{Machine: m, Step: s, Text: fmt.Sprintf(format, args...)})
}

func ignored(m Machine, format string, args ...any) Answer {
	var a Answer
	a.note(m, StepIgnored, format, args...)
	return a
}
