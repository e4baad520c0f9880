// Package seed is what the seed knows and decides: which machines there are,
// what they boot, who may become a node and with which name and role, and what
// has happened to each of them.
//
// It opens no sockets of the boot protocols (package pxe and those below it do),
// holds no key of a cluster's CA and none that signs bundles.
package seed

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe"
)

// State is how far a machine is.
type State string

// The states in the order of a machine's life.
const (
	Seen     State = "seen"     // it asked for an address or a loader
	Waiting  State = "waiting"  // it enrolled and waits for approval
	Approved State = "approved" // it may fetch its config
	Taken    State = "taken"    // it has its config; this enrolment is used up
	Ready    State = "ready"    // its Node is Ready
	Rejected State = "rejected" // by the operator or a rule
	Held     State = "held"     // it stopped with an error that is not tried again
)

// Machine is what the seed knows of one machine. ID is the MAC of the card it
// boots from, as pxe.MAC prints it.
type Machine struct {
	ID       string         `json:"id"`
	Name     string         `json:"name,omitempty"` // as a node; kept over re-boots
	Role     configs.Role   `json:"role,omitempty"`
	State    State          `json:"state"`
	Arch     arch.Arch      `json:"arch,omitempty"`
	Firmware string         `json:"firmware,omitempty"` // bios, uefi, uefi-http
	UUID     string         `json:"uuid,omitempty"`
	Address  netip.Addr     `json:"address,omitzero"`
	Facts    *handoff.Facts `json:"facts,omitempty"`
	Key      string         `json:"key,omitempty"`      // KeyID of the node's key
	Code     string         `json:"code,omitempty"`     // to compare, while it waits
	HostKeys string         `json:"hostkeys,omitempty"` // handoff.Event.HostKeys with spaces between: whom `slipway logs` may believe
	Disk     string         `json:"disk,omitempty"`     // GUID of the disk that it was installed on and starts from
	Bundle   string         `json:"bundle,omitempty"`   // name and serial of what it runs
	// Kubernetes is that bundle's version; "" while nobody knows.
	Kubernetes string    `json:"kubernetes,omitempty"`
	Order      *Ordered  `json:"order,omitempty"` // the newest
	Wipe       *Wipe     `json:"wipe,omitempty"`  // the newest
	Trust      string    `json:"trust,omitempty"` // L0 to L3, see docs/trust.md
	Reason     string    `json:"reason,omitempty"`
	First      time.Time `json:"first"`
	Last       time.Time `json:"last"`
	Step       Step      `json:"step,omitzero"` // the newest of its timeline
	Done       int64     `json:"done,omitempty"`
	Total      int64     `json:"total,omitempty"`   // bytes of blobs it needs and has
	Verdict    *Verdict  `json:"verdict,omitempty"` // why it stands still
}

// Step is one line of a machine's timeline. Seq orders all steps of a seed.
type Step struct {
	Seq     uint64    `json:"seq"`
	Machine string    `json:"machine"` // ID; empty: the seed itself
	Time    time.Time `json:"time"`
	Stage   Stage     `json:"stage"`
	State   string    `json:"state,omitempty"` // handoff.State, for stages that take time
	Text    string    `json:"text,omitempty"`
	Code    string    `json:"code,omitempty"`
	Hint    string    `json:"hint,omitempty"`
}

// Stage is a place on the way from power-on to Ready.
type Stage string

// The stages, in order.
const (
	StageDHCP       Stage = "dhcp"   // DISCOVER, OFFER, 4011
	StageTFTP       Stage = "tftp"   // first loader
	StageLoader     Stage = "loader" // its configuration, over HTTP
	StageKernel     Stage = "kernel" // kernel and initramfs were fetched; PID 1 runs
	StageEnrol      Stage = "enrol"
	StageBlobs      Stage = "blobs"
	StageSystem     Stage = "system" // PID 1's phases up to services
	StageKubernetes Stage = "kubernetes"
	StageReady      Stage = "ready"
	StageSeed       Stage = "seed" // of the seed itself: started, a foreign DHCP server, armed
)

// Verdict says in plain words why a machine stands still and what to do.
type Verdict struct {
	Code string `json:"code"` // stable: "SW-SEED-NO-4011"
	Text string `json:"text"`
	Hint string `json:"hint"`
}

// Status is the seed as a whole.
type Status struct {
	Cluster  string       `json:"cluster"`
	Bundle   string       `json:"bundle"` // name and serial
	Arch     []arch.Arch  `json:"arch"`
	Address  netip.Prefix `json:"address"`  // on the wire it serves
	DHCP     string       `json:"dhcp"`     // full, proxy, off, yielded
	Foreign  []string     `json:"foreign"`  // other DHCP servers
	Pin      string       `json:"pin"`      // hex of the SHA-256 of the CA certificate
	Approve  string       `json:"approve"`  // ask, list, auto
	Armed    time.Time    `json:"armed"`    // auto approves until then
	API      string       `json:"api"`      // https://10.0.0.1:6443 once there is a cluster
	Started  time.Time    `json:"started"`  //
	Machines int          `json:"machines"` //
	ReadyOf  [2]int       `json:"ready"`    // ready nodes, nodes
	Counters any          `json:"counters"` // of the wire servers
	Trust    string       `json:"trust"`    // the level all claims here need
	Verdict  *Verdict     `json:"verdict,omitempty"`
}

// mostHolds is how much of what a disk holds is kept.
const mostHolds = 12

// tidy refuses facts that cannot be and cuts what is too long to show.
func tidy(f *handoff.Facts) error {
	if _, err := arch.Parse(string(f.Arch)); err != nil {
		return refusal(codeFacts, "", "%s", clean(err.Error(), 200))
	}
	if len(f.MACs) > 64 || len(f.Disks) > 256 || f.Memory < 0 || f.CPUs < 0 {
		return refusal(codeFacts, "", "a machine with %d cards, %d disks, %d CPUs and %d bytes of memory", len(f.MACs), len(f.Disks), f.CPUs, f.Memory)
	}
	if f.Boot != "" {
		f.MACs = append(f.MACs, f.Boot)
	}
	var macs []string
	for _, text := range f.MACs {
		m, err := pxe.ParseMAC(text)
		if err != nil || m[0]&1 != 0 || m == (pxe.MAC{}) {
			return refusal(codeFacts, "", "%q is not the MAC of a card", clean(text, 32))
		}
		macs = append(macs, m.String())
	}
	if len(macs) == 0 {
		return refusal(codeFacts, "check that a network card has a driver", "a machine without a network card")
	}
	if f.Boot != "" {
		f.Boot = macs[len(macs)-1]
	}
	slices.Sort(macs)
	f.MACs = slices.Compact(macs)
	for _, t := range []*string{&f.Vendor, &f.Product, &f.Serial, &f.UUID, &f.Firmware, &f.Medium, &f.Bundle} {
		*t = clean(*t, 128)
	}
	f.UUID = strings.ToLower(f.UUID)
	for i := range f.Disks {
		d := &f.Disks[i]
		for _, t := range []*string{&d.Name, &d.Also, &d.Model, &d.Serial, &d.WWN, &d.Type, &d.Path} {
			*t = clean(*t, 128)
		}
		if len(d.Holds) > mostHolds {
			d.Holds = append(d.Holds[:mostHolds-1:mostHolds-1], fmt.Sprintf("%d more", len(d.Holds)-mostHolds+1))
		}
		for j := range d.Holds {
			d.Holds[j] = clean(d.Holds[j], 128)
		}
	}
	return nil
}

// runs takes note of what a node was installed from. Its Kubernetes is known only
// of the bundle that is served here.
func (r *record) runs(o Options, bundle string) {
	if r.Bundle, r.Kubernetes = bundle, ""; bundle == "" {
		return
	}
	if m := o.medium(r.Arch); m != nil && bundleOf(m) == bundle {
		r.Kubernetes = m.Kubernetes
	}
}

// Names in the Data of the event of phase upgrade: what the node runs now.
const (
	dataBundle     = "bundle"     // name and serial
	dataKubernetes = "kubernetes" // v1.37.1
)

// upgraded takes from a node which bundle it has confirmed.
func (r *record) upgraded(e handoff.Event) {
	bundle, _ := e.Data[dataBundle].(string)
	kubernetes, _ := e.Data[dataKubernetes].(string)
	if e.Phase != string(handoff.Upgrade) || e.State != handoff.Done || bundle == "" {
		return
	}
	r.Bundle, r.Kubernetes = clean(bundle, 128), clean(kubernetes, 32)
}

// Nodes are the machines that are nodes, control planes first.
func (s *Seed) Nodes() []Machine {
	all := s.Machines()
	s.mu.Lock()
	all = slices.DeleteFunc(all, func(m Machine) bool { r := s.machines[m.ID]; return r == nil || r.Node == "" || m.Name == "" })
	s.mu.Unlock()
	slices.SortStableFunc(all, func(a, b Machine) int { return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Name, b.Name)) })
	return all
}
