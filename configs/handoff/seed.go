package handoff

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"net/netip"
	"time"

	"slipway.dev/slipway/configs/arch"
)

// The node speaks to the seed in JSON over TLS 1.3. It shows a self-signed
// certificate of a key that it made at this power-on; the seed knows the node
// by the SHA-256 of that key and by nothing else. A request that must wait is
// answered with 202 and a Standing after at most Patience, and asked again.
//
//	POST PathHello     Hello → Welcome      who I am, and a commitment to my nonce
//	POST PathReveal    Reveal → Standing    the nonce; both screens show Code from here on
//	GET  PathConfig    → Config             202 while not approved; 403 rejected; 409 used up
//	POST PathTaken     –  → 204             the config is stored: never give it out again
//	POST PathEvents    Event lines → 204    application/x-ndjson, at most MaxEvents bytes
//	POST PathCluster   Cluster → 204        from the first control plane, when its cluster runs
//	POST PathJoin      JoinRequest → Join   202 while there is no cluster to join
//	POST PathJoined    –  → 204             the token may be deleted
//
// An error is a Refusal with its HTTP status.
const (
	PathHello   = "/v1/hello"
	PathReveal  = "/v1/reveal"
	PathConfig  = "/v1/config"
	PathTaken   = "/v1/config/taken"
	PathEvents  = "/v1/events"
	PathCluster = "/v1/cluster"
	PathJoin    = "/v1/join"
	PathJoined  = "/v1/join/done"
)

// Limits of the conversation.
const (
	Patience  = 20 * time.Second // longest answer to a request that waits
	MaxHello  = 64 << 10         // bytes
	MaxEvents = 256 << 10
	MaxConfig = 4 << 20
)

// Hello is the first thing a node says.
type Hello struct {
	Facts  Facts  `json:"facts"`
	Commit string `json:"commit"` // hex of SHA-256 of the nonce that Reveal tells
	// Token is that of the order to reimage this machine: it gets its place again
	// without the operator, once. A node tells it only to a seed with slipway.pin=.
	Token string `json:"token,omitempty"`
}

// Facts are what a machine says of itself. They identify and never authenticate.
type Facts struct {
	Arch     arch.Arch `json:"arch"`
	Vendor   string    `json:"vendor,omitempty"`  // SMBIOS
	Product  string    `json:"product,omitempty"` //
	Serial   string    `json:"serial,omitempty"`  //
	UUID     string    `json:"uuid,omitempty"`    // lower case
	Boot     string    `json:"boot,omitempty"`    // MAC of the card with the default route
	MACs     []string  `json:"macs"`              // of all cards with hardware behind them, sorted
	Memory   int64     `json:"memory"`            // bytes
	CPUs     int       `json:"cpus"`
	Disks    []Disk    `json:"disks,omitempty"`
	Firmware string    `json:"firmware"` // bios, uefi, uefi-secure
	Medium   string    `json:"medium"`   // network, iso: where kernel and initramfs came from
	Bundle   string    `json:"bundle"`   // name and serial of the manifest that was verified
}

// Disk is one disk of a machine.
type Disk struct {
	Name   string `json:"name"`           // kernel's: sda, nvme0n1
	Also   string `json:"also,omitempty"` // the kernel's other names, "sdb, sdc": each path to a disk has one
	Size   int64  `json:"size"`           // bytes
	Model  string `json:"model,omitempty"`
	Serial string `json:"serial,omitempty"`
	WWN    string `json:"wwn,omitempty"`
	Type   string `json:"type,omitempty"` // hdd, ssd, nvme, virtio, usb
	// Path is its name below /dev/disk/by-path if it has neither serial number nor WWN.
	Path  string   `json:"path,omitempty"`
	Holds []string `json:"holds,omitempty"` // what would be lost: "a partition table (gpt)", `sda1: ext4 "root"`; none: it is empty
}

// Welcome answers Hello.
type Welcome struct {
	Cluster string    `json:"cluster"`
	Nonce   string    `json:"nonce"` // 32 bytes in hex
	Time    time.Time `json:"time"`  // of the seed's clock
}

// Reveal tells the nonce that Hello committed to.
type Reveal struct {
	Nonce string `json:"nonce"` // 32 bytes in hex
}

// Standing is where a machine stands while it waits.
type Standing struct {
	State string `json:"state"` // waiting, approved
	Text  string `json:"text"`  // for people
}

// Refusal is the body of every error.
type Refusal struct {
	Code string `json:"code"` // stable: "SW-ENROL-REJECTED"
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"`
}

func (r *Refusal) Error() string { return r.Text }

// Config is what an enrolled node is told: NoCloud's files by name. It may hold secrets.
type Config struct {
	Name  string            `json:"name"` // of the node
	Files map[string]string `json:"files"`
}

// Cluster is how to reach a cluster that runs. It holds the operator's secret.
type Cluster struct {
	Server     string `json:"server"` // https://10.0.0.1:6443
	CA         string `json:"ca"`     // PEM
	Kubeconfig string `json:"kubeconfig"`
}

// JoinRequest asks for the means to join.
type JoinRequest struct {
	Name string `json:"name"`
	Key  string `json:"key"` // hex of SHA-256 of kubelet's public key (PKIX DER); a CSR with another key is not approved
}

// Join lets one node join, for a quarter of an hour.
type Join struct {
	Server  string     `json:"server"`
	CA      string     `json:"ca"`    // PEM
	Token   string     `json:"token"` // bootstrap token id.secret, this node's alone
	Address netip.Addr `json:"address,omitzero"`
}

// Code is what the machine's screen and the seed show for the operator to
// compare: seven characters, 30 bits of SHA-256 over the node's public key, the
// seed's CA certificate (both DER) and both nonces. The node commits to its nonce
// before it knows the seed's, so that whoever sits between them has one try in
// 2^30 for equal codes on both sides, and cannot search for a key that helps.
func Code(nodeKey, seedCA, nodeNonce, seedNonce []byte) string {
	h := sha256.New()
	h.Write([]byte("slipway code 1\x00"))
	for _, b := range [][]byte{nodeKey, seedCA, nodeNonce, seedNonce} {
		s := sha256.Sum256(b)
		h.Write(s[:])
	}
	s := base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").EncodeToString(h.Sum(nil)) // Crockford's: no I, L, O, U
	return s[:3] + "-" + s[3:6]
}

// KeyID is how a public key (PKIX DER) or a certificate is named: hex of its SHA-256.
func KeyID(der []byte) string {
	s := sha256.Sum256(der)
	return hex.EncodeToString(s[:])
}
