package seed

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
)

// The operator's interface is HTTP with JSON over a unix socket (Socket in the
// state directory), and read-only on loopback for the web page. REF is a
// machine's ID, node name or code. Errors are a handoff.Refusal.
//
//	GET  /v1/status               Status
//	GET  /v1/nodes                []Machine, by ID
//	GET  /v1/nodes/REF            Machine
//	GET  /v1/nodes/REF/timeline   []Step
//	POST /v1/nodes/REF/approve    Approval → Machine
//	POST /v1/nodes/REF/reject     Rejection → Machine
//	POST /v1/nodes/REF/assign     Assignment → Machine
//	GET  /v1/nodes/REF/leave      Departure: what reimage and remove would do to it
//	POST /v1/nodes/REF/reimage    Leaving → Machine, with its Order; answered after the drain
//	POST /v1/nodes/REF/remove     Leaving → Machine, without an Order if it was not reached
//	POST /v1/nodes/REF/upgrade    → Machine, with its Order
//	POST /v1/nodes/REF/withdraw   → Machine
//	POST /v1/nodes/REF/undo-wipe  → Machine, with its Wipe
//	GET  /v1/upgrade              Upgrade: what each node would get
//	POST /v1/arm                  Arming → Status
//	GET  /v1/events?after=SEQ&follow=1   Step lines, application/x-ndjson
//	GET  /v1/kubeconfig           YAML; 409 while there is no cluster
const (
	Socket      = "seed.sock"
	PathStatus  = "/v1/status"
	PathNodes   = "/v1/nodes"
	PathUpgrade = "/v1/upgrade"
	PathArm     = "/v1/arm"
	PathEvents  = "/v1/events"
	PathKubeCfg = "/v1/kubeconfig"
)

// Approval lets a machine become a node.
type Approval struct {
	Code string   `json:"code,omitempty"` // what its screen shows; compared when given
	Wipe []string `json:"wipe,omitempty"` // configs.DiskNames of disks that may lose what they hold, this once
}

// Rejection refuses a machine.
type Rejection struct {
	Reason string `json:"reason,omitempty"`
}

// Assignment gives a machine a name or a role before it has its config.
type Assignment struct {
	Name string `json:"name,omitempty"`
	Role string `json:"role,omitempty"`
}

// Arming opens the window in which approve: auto lets machines in; 0 closes it.
type Arming struct {
	Seconds int `json:"seconds"`
}

// Leaving is how a node leaves its cluster.
type Leaving struct {
	Force bool `json:"force,omitempty"` // whatever still stands on it, or does not answer
	Drain int  `json:"drain,omitempty"` // seconds that its pods have to move; 0: DrainFor
}

// DrainFor is how long pods have to move.
const DrainFor = 5 * time.Minute

// Departure is what a node has to lose.
type Departure struct {
	Machine   Machine  `json:"machine"`
	Node      string   `json:"node"`      // "Ready", or why not; "" if the cluster has none of its name
	Pods      []string `json:"pods"`      // that are evicted, with what each loses
	Reachable bool     `json:"reachable"` // it asked for orders within the last half minute
}

// Upgrade is what each node would get.
type Upgrade struct {
	Bundle     string        `json:"bundle"` // name and serial of what this seed serves
	Kubernetes string        `json:"kubernetes"`
	Nodes      []UpgradeNode `json:"nodes"` // in the order in which they are upgraded
}

// UpgradeNode is one node's part in it.
type UpgradeNode struct {
	ID         string       `json:"id"`
	Name       string       `json:"name"`
	Role       configs.Role `json:"role"`
	Has        string       `json:"has"`        // bundle
	Kubernetes string       `json:"kubernetes"` // that it runs
	Step       UpgradeStep  `json:"step"`
	Why        string       `json:"why,omitempty"`  // of what is not to be done
	Hint       string       `json:"hint,omitempty"` // what to do about it
}

// UpgradeStep is what is to be done with a node.
type UpgradeStep string

// The steps.
const (
	UpgradeNow     UpgradeStep = "upgrade" // its turn comes
	UpgradeOrdered UpgradeStep = "ordered" // it has the order
	UpgradeSame    UpgradeStep = "same"    // it has the bundle
	UpgradeSkipped UpgradeStep = "skipped" // it takes no upgrade, and stands in nobody's way
	UpgradeRefused UpgradeStep = "refused" // by a rule, or a problem to solve first
)

// Stable codes of what the seed refuses.
const (
	codeTLS       = "SW-ENROL-TLS"       // no client certificate
	codeBody      = "SW-ENROL-BODY"      // not what was asked for, or too much of it
	codeFacts     = "SW-ENROL-FACTS"     // no usable card, for one
	codeUnknown   = "SW-ENROL-UNKNOWN"   // say hello first
	codeNonce     = "SW-ENROL-NONCE"     // not the one committed to
	codeCrowd     = "SW-ENROL-CROWD"     // too many wait
	codeRate      = "SW-ENROL-RATE"      // too many hellos
	codeWaiting   = "SW-ENROL-WAITING"   // not approved yet
	codeRejected  = "SW-ENROL-REJECTED"  //
	codeTaken     = "SW-ENROL-TAKEN"     // used up
	codeReplaced  = "SW-ENROL-REPLACED"  // another power-on took its place
	codeCode      = "SW-ENROL-CODE"      // another code than the machine's
	codeDouble    = "SW-ENROL-DUPLICATE" // two say to be one
	codeRule      = "SW-ENROL-RULE"      // no rule fits
	codeName      = "SW-ENROL-NAME"      // a name or role that cannot be
	codeConfig    = "SW-ENROL-CONFIG"    // cluster.yaml makes no config
	codeDisk      = "SW-ENROL-DISK"      // consent for a disk that is not there
	codeNotYours  = "SW-ENROL-ROLE"      // another node's business
	codeJoin      = "SW-ENROL-JOIN"      // the API server did not do it
	codeState     = "SW-ENROL-STATE"     // the seed's disk
	codeToken     = "SW-ENROL-TOKEN"     // not, or no more, that of an order to reimage
	codeArm       = "SW-SEED-ARM"
	codeNoCluster = "SW-SEED-NO-CLUSTER"

	codeOrderArch    = "SW-ORDER-BUNDLE"  // nothing is served for it
	codeOrderNode    = "SW-ORDER-NODE"    // no node
	codeOrderSelf    = "SW-ORDER-SELF"    // the seed's own machine
	codeOrderState   = "SW-ORDER-STATE"   // it enrols again
	codeOrderOpen    = "SW-ORDER-OPEN"    // one at a time
	codeOrderNone    = "SW-ORDER-NONE"    // nothing to withdraw
	codeOrderTold    = "SW-ORDER-TOLD"    // too late to withdraw
	codeOrderLost    = "SW-ORDER-LOST"    // the machine is another node now, or none
	codeOrderCut     = "SW-ORDER-CUT"     // the seed ended before it was told
	codeOrderUnknown = "SW-ORDER-UNKNOWN" // an outcome of what nobody ordered
)

// ErrCredentials is what an error of a Kube is when the API server does not accept
// the certificate that this seed has, or not any more.
var ErrCredentials = errors.New("the API server does not accept this seed's certificate")

// HintAPI is what to do when the API server did not do something.
func HintAPI(err error) string {
	if errors.Is(err, ErrCredentials) {
		return "the certificate that this seed has for the cluster has ended: restart the control plane, it tells the seed of its new one"
	}
	return "check that the control plane runs: slipway nodes"
}

// Refuse makes a refusal for the packages that carry out what is decided here.
func Refuse(code, hint, format string, args ...any) *handoff.Refusal {
	return refusal(code, hint, format, args...)
}

func refusal(code, hint, format string, args ...any) *handoff.Refusal {
	return &handoff.Refusal{Code: code, Text: fmt.Sprintf(format, args...), Hint: hint}
}

func errUnknown() error {
	return refusal(codeUnknown, "the machine introduces itself again", "this key has not enrolled here")
}

// turnedDown says why a key gets nothing any more.
func (s *Seed) turnedDown(e *enrolment) error {
	switch e.Phase {
	case used:
		return refusal(codeTaken, "restart the machine: it enrols with a new key", "the config was taken and is not given twice")
	case replaced:
		return refusal(codeReplaced, "restart the machine: it enrols with a new key", "a later start of this machine took the place of this one")
	case refused:
		return refusal(codeRejected, "look at the seed: slipway nodes", "rejected: %s", e.Reason)
	}
	return refusal(codeWaiting, "", "not approved yet")
}

// HTTPStatus is what an error of this package is over HTTP.
func HTTPStatus(err error) int {
	r, ok := errors.AsType[*handoff.Refusal](err)
	if !ok {
		return http.StatusInternalServerError
	}
	switch r.Code {
	case codeTLS, codeBody, codeFacts, codeNonce, codeName, codeArm:
		return http.StatusBadRequest
	case codeRejected, codeNotYours, codeToken:
		return http.StatusForbidden
	case codeUnknown, codeOrderUnknown:
		return http.StatusNotFound
	case codeCrowd, codeRate:
		return http.StatusTooManyRequests
	case codeConfig, codeState:
		return http.StatusInternalServerError
	case codeJoin:
		return http.StatusServiceUnavailable
	}
	return http.StatusConflict
}
