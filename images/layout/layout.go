// Package layout is the contract between the builder and the machine about
// names on a medium: volume labels and the paths below them.
//
// It does not write or read any medium.
package layout

import "strings"

// Names on every medium that holds a bundle: an ISO, a netboot directory and a
// node's disk have the same tree below Dir.
const (
	// Volume is the ISO 9660 volume identifier (at most 16 characters of A-Z 0-9 _, ECMA-119 8.4.9).
	Volume = "SLIPWAY"
	// Dir holds all of slipway's content.
	Dir = "slipway"
	// Manifest and Signature are below Dir.
	Manifest  = Dir + "/manifest.json"
	Signature = Dir + "/manifest.sig"
	// Blobs holds blobs by digest: Blobs/<64 hex>.
	Blobs = Dir + "/blobs/sha256"
	// Netboot holds what firmware fetches over the network before the kernel.
	Netboot = Dir + "/netboot"
	// Cmdline is the bundle's own part of the kernel command line, one line of text.
	Cmdline = Netboot + "/cmdline"
	// Seed holds config baked into the medium: user-data, meta-data, network-config.
	Seed = Dir + "/nocloud"
)

// For is where a file of one architecture is on a combined medium: below the
// architecture's name, as the seed serves it (amd64/slipway/manifest.json,
// arm64/boot/vmlinuz). A blob has its digest for a name and config is the
// site's: both are for all, where they are on every medium.
func For(arch, name string) string {
	if strings.HasPrefix(name, Blobs+"/") || strings.HasPrefix(name, Seed+"/") {
		return name
	}
	return arch + "/" + name
}

// Cluster is the file that makes a machine the site's seed, beside user-data.
const Cluster = "cluster.yaml"

// CIDATA is the volume label of a NoCloud config volume (either case).
const CIDATA = "CIDATA"

// Paths inside the initramfs and the system root.
const (
	// PublicKey is the ed25519 public key (64 hex characters) the machine trusts, in the initramfs.
	PublicKey = "etc/slipway/bundle.pub"
	// Init is PID 1's program in the system root.
	Init = "usr/lib/slipway/slipway-init"
	// Tool is the operator's program in the system root: any node can be a seed.
	Tool = "usr/lib/slipway/slipway"
	// ModulesAlias and ModulesDep are the text indexes below /usr/lib/modules/<release>/.
	ModulesDep   = "modules.dep"
	ModulesAlias = "modules.alias"
	// Mke2fs and E2fsck make and check a node's own file systems, in the initramfs.
	Mke2fs = "usr/sbin/mke2fs"
	E2fsck = "usr/sbin/e2fsck"
	// Manifests holds Kubernetes manifests applied after kubeadm init, in file-name order.
	Manifests = "usr/lib/slipway/manifests"
	// CNIBin holds CNI plugins.
	CNIBin = "opt/cni/bin"
)
