package seed

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe"
)

// How long a step may take before it counts as stuck. Firmware gives up on DHCP
// after 60 s at most; a kernel and initramfs unpack within seconds, on slow
// machines with much hardware in two minutes.
const (
	patientDHCP   = 30 * time.Second
	patientLoader = 60 * time.Second
	patientStart  = 3 * time.Minute
	patientBlobs  = 90 * time.Second
	patientFetch  = 2 * time.Minute
	patientReady  = 2 * time.Minute // a Node is not Ready until its network plugin runs
	patientNode   = 10 * time.Minute
	patientAsk    = 2 * time.Minute  // an order that nobody asks for
	patientObey   = 30 * time.Minute // one that was told
	tooOften      = 3                // failed transfers of one loader
)

// Judge says why a machine stands still and what to do; nil while all is well.
// The steps are the machine's own, oldest first.
func Judge(m Machine, steps []Step, now time.Time) *Verdict {
	if n := len(steps); n > 0 && m.Step.Seq < steps[n-1].Seq {
		m.Step = steps[n-1]
	}
	idle := now.Sub(m.Step.Time)
	if m.Order != nil && (m.State == Taken || m.State == Ready) {
		if v := orderVerdict(m, idle, now); v != nil || m.Order.Open() {
			return v
		}
	}
	if v := wipeVerdict(m, now); v != nil {
		return v
	}
	switch m.State {
	case Ready:
		return nil
	case Held:
		return heldVerdict(m, steps)
	case Rejected:
		return &Verdict{"SW-SEED-REJECTED", cmp.Or(m.Reason, "it was rejected"), "to let it in after all, restart it and approve its new code"}
	case Waiting:
		return waitingVerdict(m)
	case Approved:
		if idle > patientFetch {
			return &Verdict{"SW-SEED-NOT-FETCHED", fmt.Sprintf("approved %s ago; it has not fetched its config", short(idle)),
				"look at its screen; if it was restarted it shows a new code to approve"}
		}
		return nil
	case Taken:
		return takenVerdict(m, steps, idle)
	}
	return bootVerdict(m, attempt(steps), now)
}

// wipeVerdict is about a machine whose disk held others' data, while that can be
// had back.
func wipeVerdict(m Machine, now time.Time) *Verdict {
	w, name := m.Wipe, cmp.Or(m.Name, m.ID)
	switch {
	case m.State != Approved && m.State != Taken || !w.Undoable():
	case w.Undoing():
		return &Verdict{"SW-UNDO-ASKED", "the wipe of its disk is being undone: it has not said yet that this is done", "look at its screen; if it is off, switch it on: it goes on with that"}
	case now.Before(w.Until):
		return &Verdict{"SW-UNDO-WINDOW", fmt.Sprintf("disk %s (%s) is written in %s", w.Disk.Name, cmp.Or(w.Disk.Serial, w.Disk.WWN, w.Disk.Path), short(w.Until.Sub(now))), "to stop that: slipway undo-wipe " + name}
	case w.ID != "" && now.Sub(w.Saved) > patientFetch:
		return &Verdict{"SW-UNDO-OPEN", fmt.Sprintf("it began to write disk %s %s ago and went no further", w.Disk.Name, short(now.Sub(w.Saved))), "look at its screen; to have the disk back as it was: slipway undo-wipe " + name}
	}
	return nil
}

// orderVerdict is about a node that has an order, or failed in its last.
func orderVerdict(m Machine, idle time.Duration, now time.Time) *Verdict {
	name := cmp.Or(m.Name, m.ID)
	switch o := m.Order; {
	case o.State == handoff.Failed:
		return &Verdict{cmp.Or(o.Code, "SW-ORDER-FAILED"), fmt.Sprintf("%s: %s", o, cmp.Or(o.Text, "it failed")),
			cmp.Or(o.Hint, "look at its screen; out of sight: slipway withdraw "+name)}
	case !o.Open() && (o.Leave || o.Stay) && now.Sub(o.Ended) > patientAsk:
		text := "its Node is still to be deleted from the cluster"
		if o.Stay {
			text = "its Node takes no new pods still"
		}
		return &Verdict{"SW-ORDER-API", fmt.Sprintf("%s: %s ended %s ago, and the API server did not do it yet", text, o, short(now.Sub(o.Ended))), "check that the control plane runs: slipway nodes"}
	case !o.Open() || o.Drain:
	case o.Told.IsZero() && now.Sub(o.Given) > patientAsk:
		return &Verdict{"SW-ORDER-NOT-ASKED", fmt.Sprintf("it has not asked for its order for %s: %s", short(now.Sub(o.Given)), o), "look whether it is on; to take the order back: slipway withdraw " + name}
	case !o.Told.IsZero() && now.Sub(o.Told) > patientObey && idle > patientNode:
		return &Verdict{"SW-ORDER-SLOW", fmt.Sprintf("told %s ago, and nothing was heard for %s: %s", short(now.Sub(o.Told)), short(idle), o), "look at its screen" + m.ifGone()}
	}
	return nil
}

func heldVerdict(m Machine, steps []Step) *Verdict {
	for _, st := range slices.Backward(steps) {
		if st.Code != "" && st.State == string(handoff.Failed) {
			return &Verdict{st.Code, "it stopped: " + st.Text, cmp.Or(st.Hint, "look at its screen")}
		}
	}
	return &Verdict{"SW-SEED-HELD", cmp.Or(m.Reason, "it stopped with an error"), "look at its screen"}
}

func waitingVerdict(m Machine) *Verdict {
	switch {
	case strings.Contains(m.Reason, "none gets a config until"):
		return &Verdict{"SW-SEED-DUPLICATE", m.Reason, "compare the codes with the screens; this one: slipway reject " + m.Code}
	case strings.HasPrefix(m.Reason, "no rule of cluster.yaml has room"):
		return &Verdict{"SW-SEED-NO-ROLE", m.Reason, "add a rule for it to cluster.yaml and start the seed again"}
	}
	return &Verdict{"SW-SEED-APPROVE", "it waits for you: " + cmp.Or(m.Reason, "compare the code with its screen"), "slipway approve " + m.Code}
}

func takenVerdict(m Machine, steps []Step, idle time.Duration) *Verdict {
	// Every new Node is not Ready for some moments; one that was is worth a look at once.
	if strings.HasPrefix(m.Reason, "its Node is not Ready") && (m.Step.Stage == StageReady || idle > patientReady) {
		return &Verdict{"SW-SEED-NOT-READY", m.Reason, "kubectl describe node " + m.Name}
	}
	last := m.Step
	if last.State == string(handoff.Failed) && last.Code != "" {
		return &Verdict{last.Code, last.Text, cmp.Or(last.Hint, "look at its screen")}
	}
	var blob *Step
	for _, st := range slices.Backward(steps) {
		if st.Stage == StageBlobs {
			blob = &st
			break
		}
	}
	switch {
	case blob != nil && blob.Seq == last.Seq && last.State == string(handoff.Running) && idle > patientBlobs:
		return &Verdict{"SW-SEED-BLOBS", fmt.Sprintf("no bytes for %s: %d of %d MB", short(idle), m.Done/1e6, m.Total/1e6),
			"check its cable and switch port, then its screen"}
	case idle > patientNode:
		return &Verdict{"SW-SEED-SILENT", fmt.Sprintf("nothing was heard of it for %s; the last was %q", short(idle), last.Text), "look at its screen"}
	}
	return nil
}

// attempt is the newest power-on in a machine's steps: it begins with a DISCOVER
// of firmware after something that only a started kernel does, or after a pause.
func attempt(steps []Step) []Step {
	start := 0
	for i := 1; i < len(steps); i++ {
		if kind(steps[i]) != pxe.StepDiscover {
			continue
		}
		before := steps[i-1]
		early := before.Stage == StageDHCP && kind(before) != "" || before.Stage == StageTFTP || before.Stage == StageLoader
		if !early || steps[i].Time.Sub(before.Time) > 5*time.Minute {
			start = i
		}
	}
	return steps[start:]
}

// kind is the DHCP server's step; empty for what a running system asked.
func kind(st Step) pxe.Step {
	if st.Stage != StageDHCP || strings.HasPrefix(st.Text, RunningSystem) {
		return ""
	}
	word, _, _ := strings.Cut(st.Text, ":")
	return pxe.Step(word)
}

// RunningSystem begins the text of what a started kernel asked: firmware and
// loaders have the same MAC and address.
const RunningSystem = "running system: "

// seen is how far a boot got.
type seen struct {
	dhcp             map[pxe.Step]Step
	tftp, tftpFailed int
	loader, kernel   bool
	system           bool // the kernel asked for an address
	node             bool // it spoke to the seed
	ignored          string
	last             Step
}

func summary(steps []Step) seen {
	s := seen{dhcp: map[pxe.Step]Step{}}
	for _, st := range steps {
		s.last = st
		done := st.State == string(handoff.Done)
		switch st.Stage {
		case StageDHCP:
			if k := kind(st); k == "" {
				s.system = true
			} else {
				s.dhcp[k] = st
				if _, why, _ := strings.Cut(st.Text, ": "); k == pxe.StepIgnored {
					s.ignored = why
				}
			}
		case StageTFTP:
			if done {
				s.tftp, s.tftpFailed = s.tftp+1, 0
			} else if st.State == string(handoff.Failed) {
				s.tftpFailed++
			}
		case StageLoader:
			s.loader = true
		case StageKernel:
			s.kernel = s.kernel || st.State != string(handoff.Failed)
			s.system = s.system || strings.HasPrefix(st.Text, RunningSystem)
		case StageEnrol, StageSystem, StageBlobs, StageKubernetes:
			s.node = true
		}
	}
	return s
}

// bootVerdict is about machines between power-on and enrolment.
func bootVerdict(m Machine, steps []Step, now time.Time) *Verdict {
	s := summary(steps)
	idle := now.Sub(s.last.Time)
	if len(steps) == 0 || s.node {
		return nil
	}
	_, offer := s.dhcp[pxe.StepOffer]
	_, proxy := s.dhcp[pxe.StepProxyOffer]
	_, ack := s.dhcp[pxe.StepAck]
	_, at4011 := s.dhcp[pxe.StepProxy4011]
	_, conflict := s.dhcp[pxe.StepConflict]
	begun := now.Sub(steps[0].Time)
	switch {
	case s.system && idle > patientStart:
		return &Verdict{"SW-SEED-NO-HELLO", "its kernel runs, but it never spoke to the seed",
			"look at its screen; check that no firewall on the seed closes its TLS port, and that the kernel argument slipway.pin= is this seed's"}
	case s.kernel && !s.system && idle > patientStart:
		return &Verdict{"SW-SEED-NO-START", fmt.Sprintf("it fetched kernel and initramfs %s ago and was not heard of since", short(idle)),
			"look at its screen; too little memory (2 GiB is the least) or a network card without a driver are the usual causes"}
	case s.kernel || s.system:
		return nil
	case s.tftpFailed >= tooOften:
		return &Verdict{"SW-SEED-TFTP", fmt.Sprintf("the transfer of its loader broke off %d times in a row", s.tftpFailed),
			"check cable, switch port and duplex; a firewall must let UDP through from any port of the seed, not from port 69 alone"}
	case (s.tftp > 0 || s.loader) && idle > patientLoader:
		return &Verdict{"SW-SEED-NO-KERNEL", "it has its loader and did not fetch the kernel",
			"look at its screen: Secure Boot may have refused the loader, or a firewall closes the seed's HTTP port"}
	case s.tftp > 0 || s.loader:
		return nil
	case s.ignored != "" && !offer && !proxy && !ack:
		return &Verdict{"SW-SEED-IGNORED", "the seed does not answer it: " + s.ignored, "serve a bundle for its architecture, or correct cluster.yaml, if it is to be a node"}
	case (ack || at4011) && idle > patientDHCP:
		return &Verdict{"SW-SEED-NO-TFTP", "it was told where its loader is and did not fetch it",
			"let UDP port 69 through to the seed; if the site's own DHCP server names another boot server, point that one at the seed: slipway dhcp"}
	case conflict && begun > patientDHCP:
		return &Verdict{"SW-SEED-CONFLICT", "the addresses it could get are in use by others", "give the seed a range of its own: spec.seed.dhcp.first and last"}
	case proxy && begun > patientDHCP:
		return &Verdict{"SW-SEED-NO-4011", "it was offered a loader and neither asked port 4011 nor fetched it",
			"it may have got no address: the seed gives none here. Check the site's DHCP server, and let UDP port 4011 through to the seed; firmware that never takes a second server's offer needs the site's server to point at the seed: slipway dhcp"}
	case offer && begun > patientDHCP:
		return &Verdict{"SW-SEED-NO-REQUEST", "it was offered an address and did not take it",
			"another DHCP server may have answered first: the seed shows it as foreign; else check that the switch port forwards (spanning tree: portfast)"}
	case begun > patientDHCP && idle > patientDHCP:
		return &Verdict{"SW-SEED-NO-OFFER", "it asked for an address and got no answer from the seed", "look at the seed's own log; mode: off answers nobody"}
	}
	return nil
}

func short(d time.Duration) string {
	if d < 2*time.Minute {
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f min", d.Minutes())
}

// Snippet is what makes a site's own DHCP server point machines at the seed.
// The server is dnsmasq, isc, kea or windows; empty for any other. Codes of
// option 93 are those of RFC 4578 section 2.1 and IANA's registry.
func Snippet(server string, seed netip.Addr) string {
	text := map[string]string{"dnsmasq": snippetDnsmasq, "isc": snippetISC, "kea": snippetKea, "windows": snippetWindows}[server]
	return strings.ReplaceAll(text, "SEED", seed.String())
}

const snippetDnsmasq = `# /etc/dnsmasq.d/slipway.conf
dhcp-userclass=set:ipxe,iPXE
dhcp-match=set:bios,option:client-arch,0
dhcp-match=set:amd64,option:client-arch,7
dhcp-match=set:amd64,option:client-arch,9
dhcp-match=set:arm64,option:client-arch,11
dhcp-match=set:amd64-http,option:client-arch,16
dhcp-match=set:arm64-http,option:client-arch,19
dhcp-boot=tag:ipxe,boot.ipxe,,SEED
dhcp-boot=tag:bios,tag:!ipxe,undionly.kpxe,,SEED
dhcp-boot=tag:amd64,tag:!ipxe,shimx64.efi,,SEED
dhcp-boot=tag:arm64,tag:!ipxe,shimaa64.efi,,SEED
dhcp-option-force=tag:amd64-http,option:vendor-class,HTTPClient
dhcp-option-force=tag:arm64-http,option:vendor-class,HTTPClient
dhcp-boot=tag:amd64-http,http://SEED/shimx64.efi
dhcp-boot=tag:arm64-http,http://SEED/shimaa64.efi
`

const snippetISC = `# dhcpd.conf, before the subnet
option slipway-arch code 93 = unsigned integer 16;
next-server SEED;
if exists user-class and option user-class = "iPXE" {
  filename "boot.ipxe";
} elsif option slipway-arch = 0 {
  filename "undionly.kpxe";
} elsif option slipway-arch = 7 or option slipway-arch = 9 {
  filename "shimx64.efi";
} elsif option slipway-arch = 11 {
  filename "shimaa64.efi";
} elsif option slipway-arch = 16 {
  option vendor-class-identifier "HTTPClient";
  filename "http://SEED/shimx64.efi";
} elsif option slipway-arch = 19 {
  option vendor-class-identifier "HTTPClient";
  filename "http://SEED/shimaa64.efi";
}
`

const snippetKea = `"client-classes": [
  {"name": "slipway-ipxe", "test": "option[77].hex == 'iPXE'", "next-server": "SEED", "boot-file-name": "boot.ipxe"},
  {"name": "slipway-bios", "test": "option[93].hex == 0x0000 and not member('slipway-ipxe')", "next-server": "SEED", "boot-file-name": "undionly.kpxe"},
  {"name": "slipway-amd64", "test": "(option[93].hex == 0x0007 or option[93].hex == 0x0009) and not member('slipway-ipxe')", "next-server": "SEED", "boot-file-name": "shimx64.efi"},
  {"name": "slipway-arm64", "test": "option[93].hex == 0x000b and not member('slipway-ipxe')", "next-server": "SEED", "boot-file-name": "shimaa64.efi"},
  {"name": "slipway-amd64-http", "test": "option[93].hex == 0x0010", "boot-file-name": "http://SEED/shimx64.efi",
   "option-data": [{"name": "vendor-class-identifier", "data": "HTTPClient", "always-send": true}]},
  {"name": "slipway-arm64-http", "test": "option[93].hex == 0x0013", "boot-file-name": "http://SEED/shimaa64.efi",
   "option-data": [{"name": "vendor-class-identifier", "data": "HTTPClient", "always-send": true}]}
]
`

// Policies are asked in their order: iPXE's comes first, because it still says
// that it is a BIOS.
const snippetWindows = `# PowerShell on the DHCP server, as an administrator
Add-DhcpServerv4Class -Name "slipway iPXE" -Type User -Data "iPXE"
Add-DhcpServerv4Class -Name "slipway BIOS" -Type Vendor -Data "PXEClient:Arch:00000"
Add-DhcpServerv4Class -Name "slipway amd64" -Type Vendor -Data "PXEClient:Arch:00007"
Add-DhcpServerv4Class -Name "slipway arm64" -Type Vendor -Data "PXEClient:Arch:00011"
Add-DhcpServerv4Policy -Name "slipway iPXE" -ProcessingOrder 1 -Condition OR -UserClass EQ,"slipway iPXE"
Add-DhcpServerv4Policy -Name "slipway BIOS" -ProcessingOrder 2 -Condition OR -VendorClass EQ,"slipway BIOS*"
Add-DhcpServerv4Policy -Name "slipway amd64" -ProcessingOrder 3 -Condition OR -VendorClass EQ,"slipway amd64*"
Add-DhcpServerv4Policy -Name "slipway arm64" -ProcessingOrder 4 -Condition OR -VendorClass EQ,"slipway arm64*"
"slipway iPXE", "slipway BIOS", "slipway amd64", "slipway arm64" | ForEach-Object { Set-DhcpServerv4OptionValue -PolicyName $_ -OptionId 66 -Value "SEED" }
Set-DhcpServerv4OptionValue -PolicyName "slipway iPXE" -OptionId 67 -Value "boot.ipxe"
Set-DhcpServerv4OptionValue -PolicyName "slipway BIOS" -OptionId 67 -Value "undionly.kpxe"
Set-DhcpServerv4OptionValue -PolicyName "slipway amd64" -OptionId 67 -Value "shimx64.efi"
Set-DhcpServerv4OptionValue -PolicyName "slipway arm64" -OptionId 67 -Value "shimaa64.efi"
`
