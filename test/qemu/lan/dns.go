package lan

import (
	"fmt"
	"net"
	"slices"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// DNSQuery is one question somebody asked a Host.
type DNSQuery struct {
	Time time.Time
	From string // address and port
	Name string // as asked, with the final dot
	Type string // "A", "AAAA", "PTR"
}

// ServeDNS answers every question on UDP port 53 with NXDOMAIN (RFC 1035
// RCODE 3) until the host is closed, and keeps it for DNSQueries.
func (h *Host) ServeDNS() error {
	c, err := h.ListenPacket(53)
	if err != nil {
		return fmt.Errorf("DNS: %w", err)
	}
	h.onClose(c.Close)
	h.wg.Go(func() { h.serveDNS(c) })
	return nil
}

// DNSQueries are the questions so far, oldest first.
func (h *Host) DNSQueries() []DNSQuery {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.queries)
}

func (h *Host) serveDNS(c net.PacketConn) {
	b := make([]byte, 4096)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		reply, q, ok := nxdomain(b[:n])
		if !ok {
			continue
		}
		h.mu.Lock()
		h.queries = append(h.queries, DNSQuery{time.Now(), from.String(), q.Name.String(), q.Type.String()[4:]})
		h.mu.Unlock()
		if _, err := c.WriteTo(reply, from); err != nil {
			h.sw.opts.Log.Warn("DNS answer lost", "to", from.String(), "reason", err)
		}
	}
}

// nxdomain is the denial of the first question in a query.
func nxdomain(query []byte) (reply []byte, q dnsmessage.Question, ok bool) {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil || head.Response {
		return nil, q, false
	}
	if q, err = p.Question(); err != nil {
		return nil, q, false
	}
	m := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: head.ID, Response: true, OpCode: head.OpCode, RecursionDesired: head.RecursionDesired,
			RecursionAvailable: true, RCode: dnsmessage.RCodeNameError,
		},
		Questions: []dnsmessage.Question{q},
	}
	reply, err = m.Pack()
	return reply, q, err == nil
}
