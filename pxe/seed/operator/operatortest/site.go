package operatortest

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/arch"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
)

// Site is a customer's: n machines of which the first dozen are in every state
// there is, one of them with a hostile product name; the rest are ready workers.
func Site(n int) (seed.Status, []seed.Machine, []seed.Step) {
	now := Now()
	s := seed.Status{
		Cluster: "fab-7", Bundle: "example 12", Arch: []arch.Arch{arch.AMD64, arch.ARM64},
		Address: netip.MustParsePrefix("10.20.0.1/24"), DHCP: "proxy", Foreign: []string{"10.20.0.254 (52:54:00:aa:bb:cc)"},
		Pin: strings.Repeat("5eed", 16), Approve: "auto", Armed: now.Add(12*time.Minute + 34*time.Second),
		Started: now.Add(-72 * time.Minute), Trust: "L0",
	}
	if n > 1 {
		s.API = "https://10.20.0.10:6443"
	}
	var machines []seed.Machine
	var steps []seed.Step
	for i := range n {
		m := seed.Machine{
			ID: fmt.Sprintf("52:54:00:12:%02x:%02x", i/256, i%256), Arch: arch.AMD64, Firmware: "uefi",
			Address: netip.AddrFrom4([4]byte{10, 20, byte(i / 200), byte(20 + i%200)}), First: now.Add(-20 * time.Minute), Trust: "L0",
			Facts: &handoff.Facts{Arch: arch.AMD64, Vendor: "Dell Inc.", Product: "PowerEdge R650", Serial: fmt.Sprintf("7XK%04d", i), CPUs: 32, Memory: 128 << 30, Firmware: "uefi", Medium: "network",
				Disks: []handoff.Disk{{Name: "nvme0n1", Size: 1920383410176, Type: "nvme"}, {Name: "sda", Size: 480103981056, Type: "ssd"}}},
		}
		if i < len(cases()) {
			cases()[i](&m, now)
		} else {
			m.Name, m.Role, m.State = fmt.Sprintf("worker-%d", i-len(cases())+10), configs.RoleWorker, seed.Ready
			m.Step = step(seed.StageReady, handoff.Done, "Node is Ready")
		}
		steps = append(steps, history(&m, now)...)
		m.Step, m.Last = steps[len(steps)-1], steps[len(steps)-1].Time
		machines = append(machines, m)
	}
	return s, machines, steps
}

func step(stage seed.Stage, state handoff.State, text string) seed.Step {
	return seed.Step{Stage: stage, State: string(state), Text: text}
}

// cases are machines worth looking at. Each sets what differs and the newest step.
func cases() []func(m *seed.Machine, now time.Time) {
	const total = 1_412_000_000
	return []func(*seed.Machine, time.Time){
		func(m *seed.Machine, _ time.Time) {
			m.State, m.Code, m.Name, m.Role = seed.Waiting, "7K3-M9Q", "cp-2", configs.RoleControlPlane
			m.Step = step(seed.StageEnrol, handoff.Running, "waits for approval")
		},
		func(m *seed.Machine, _ time.Time) {
			m.State, m.Name, m.Role = seed.Ready, "cp-1", configs.RoleControlPlane
			m.Step = step(seed.StageReady, handoff.Done, "Node is Ready")
		},
		func(m *seed.Machine, _ time.Time) {
			m.State, m.Facts = seed.Seen, nil
			m.Step = step(seed.StageDHCP, "", "DISCOVER; offered beside 10.20.0.254")
			m.Verdict = &seed.Verdict{Code: "SW-SEED-NO-4011", Text: "It took an address from 10.20.0.254 and never asked this seed for its boot file.",
				Hint: "Its firmware ignores proxy offers, or UDP port 4011 is blocked. Let `slipway serve --dhcp full` run on a separate switch, or set next-server 10.20.0.1 and the boot file on 10.20.0.254."}
		},
		func(m *seed.Machine, _ time.Time) {
			m.State, m.Name, m.Role, m.Done, m.Total = seed.Taken, "worker-1", configs.RoleWorker, 611_000_000, total
			m.Step = step(seed.StageBlobs, handoff.Running, "system.erofs (9 of 31)")
		},
		func(m *seed.Machine, _ time.Time) {
			m.State, m.Name, m.Role, m.Done, m.Total = seed.Taken, "cp-3", configs.RoleControlPlane, total, total
			m.Step = step(seed.StageKubernetes, handoff.Running, "kubeadm join: control-plane-join/etcd")
		},
		func(m *seed.Machine, _ time.Time) {
			m.State, m.Name, m.Role = seed.Held, "worker-2", configs.RoleWorker
			m.Step = step(seed.StageSystem, handoff.Failed, "two disks match install.disk: nvme0n1, sda")
			m.Step.Code = "SW-DISK-AMBIGUOUS"
			m.Verdict = &seed.Verdict{Code: "SW-DISK-AMBIGUOUS", Text: "Two disks match the rule in cluster.yaml and it chose neither: nvme0n1 (1.9 TB), sda (480 GB).",
				Hint: "Name one by serial number or size in spec.nodes[].disk, then `slipway check cluster.yaml` and power it on again."}
		},
		func(m *seed.Machine, _ time.Time) {
			m.State, m.Name, m.Role, m.Firmware, m.Arch, m.Done, m.Total = seed.Taken, "worker-3", configs.RoleWorker, "uefi-http", arch.ARM64, total, total
			m.Facts.Vendor, m.Facts.Product, m.Facts.Arch = "Ampere", "Mt. Jade", arch.ARM64
			m.Step = step(seed.StageSystem, handoff.Running, "services: containerd")
		},
		func(m *seed.Machine, _ time.Time) {
			m.State, m.Facts, m.Firmware = seed.Seen, nil, "bios"
			m.Step = step(seed.StageTFTP, handoff.Running, "undionly.kpxe")
		},
		func(m *seed.Machine, _ time.Time) {
			m.State, m.Reason = seed.Rejected, "not ours: lab printer"
			m.Verdict = &seed.Verdict{Code: "SW-SEED-REJECTED", Text: m.Reason, Hint: "to let it in after all, restart it and approve its new code"}
			m.Facts.Vendor, m.Facts.Product = "\x1b[31mEvil\u202e", `<img src=x onerror=alert(1)></script>`
			m.Step = step(seed.StageEnrol, handoff.Failed, "rejected: not ours: lab printer")
		},
		func(m *seed.Machine, _ time.Time) {
			m.State, m.Code = seed.Waiting, "Q0W-4ZT"
			m.Verdict = &seed.Verdict{Code: "SW-SEED-APPROVE", Text: "it waits for you: compare the code with its screen", Hint: "slipway approve Q0W-4ZT"}
			m.Facts.Medium, m.Trust = "iso", "L1"
			m.Step = step(seed.StageEnrol, handoff.Running, "waits for approval")
		},
		func(m *seed.Machine, _ time.Time) {
			m.State, m.Name, m.Role = seed.Approved, "worker-4", configs.RoleWorker
			m.Step = step(seed.StageEnrol, handoff.Done, "approved by rule: serial 7XK0010")
		},
		func(m *seed.Machine, _ time.Time) {
			m.State, m.Name, m.Role = seed.Ready, "worker-5", configs.RoleWorker
			m.Step = step(seed.StageReady, handoff.Done, "Node is Ready")
		},
	}
}

// history is a plausible timeline that ends in the machine's newest step.
func history(m *seed.Machine, now time.Time) []seed.Step {
	past := []seed.Step{
		step(seed.StageDHCP, "", "DISCOVER"), step(seed.StageDHCP, "", "OFFER "+m.Address.String()),
		step(seed.StageTFTP, handoff.Done, "shimx64.efi 948 kB"), step(seed.StageLoader, handoff.Done, "grub.cfg"),
		step(seed.StageKernel, handoff.Done, "vmlinuz, initrd.img 61.2 MB"), step(seed.StageEnrol, handoff.Done, "approved"),
		step(seed.StageBlobs, handoff.Done, "31 blobs, 1.41 GB"), step(seed.StageSystem, handoff.Done, "services"),
		step(seed.StageKubernetes, handoff.Done, "kubeadm join"),
	}
	var out []seed.Step
	for _, s := range past {
		if s.Stage == m.Step.Stage {
			break
		}
		out = append(out, s)
	}
	out = append(out, m.Step)
	for i := range out {
		out[i].Machine = m.ID
		out[i].Time = now.Add(-time.Duration(len(out)-i)*time.Minute + 48*time.Second)
	}
	return out
}
