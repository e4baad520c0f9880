package seed

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
//	POST /v1/arm                  Arming → Status
//	GET  /v1/events?after=SEQ&follow=1   Step lines, application/x-ndjson
//	GET  /v1/kubeconfig           YAML; 409 while there is no cluster
const (
	Socket      = "seed.sock"
	PathStatus  = "/v1/status"
	PathNodes   = "/v1/nodes"
	PathArm     = "/v1/arm"
	PathEvents  = "/v1/events"
	PathKubeCfg = "/v1/kubeconfig"
)

// Approval lets a machine become a node.
type Approval struct {
	Code string `json:"code,omitempty"` // what its screen shows; compared when given
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
