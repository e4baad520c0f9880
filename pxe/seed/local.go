package seed

import (
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe"
)

// dataDisk names the GUID of a node's disk in the event that says that the
// machine starts from it: phase install, step active.
const dataDisk = "disk"

// installed believes a node that its disk is complete.
func (r *record) installed(key string, e handoff.Event) {
	if r.Node != key || e.Phase != "install" || e.Step != "active" || e.State != handoff.Done {
		return
	}
	if disk, ok := e.Data[dataDisk].(string); ok {
		r.Disk = clean(disk, maxText)
	}
}

// starts keeps Local's answers for a machine.
func (s *Seed) starts(r *record) {
	macs := []string{r.ID}
	if r.Facts != nil {
		macs = append(macs, r.Facts.MACs...)
	}
	for _, m := range macs {
		if r.Disk != "" && r.ours() {
			s.local.Store(m, r.Disk)
		} else {
			s.local.Delete(m)
		}
	}
}

// Local says that a machine starts from its own disk, and from which: firmware
// that asks the network first gets an address and nothing to start, and goes on
// to the disk. It is called for every packet: it takes no lock and does no I/O.
func (s *Seed) Local(m pxe.Machine) (disk string, ok bool) {
	v, ok := s.local.Load(m.MAC.String())
	disk, _ = v.(string)
	return disk, ok
}
