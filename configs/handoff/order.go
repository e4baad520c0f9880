package handoff

// A node that has its config asks the seed for orders as long as it runs. The
// operator gives them at the seed; the node decides whether it can follow one,
// and says how it ended.
//
//	GET  PathOrder     → Order              202 while there is none
//	POST PathOrdered   Outcome → 204        once the order was followed, or cannot be
//
// An order stands until its Outcome is known: a node that lost power in between
// is told it again, by the same ID.
const (
	PathOrder   = "/v1/order"
	PathOrdered = "/v1/order/done"
)

// Verb is what a node is told to do.
type Verb string

// The verbs.
const (
	// Upgrade: take the bundle that Order.Store serves into the other slot and
	// try it; the outcome is done when the node has confirmed it and starts from
	// it, failed when it runs what it ran before.
	Upgrade Verb = "upgrade"
	// Reimage: start the seed's installer in place of the system (kexec), which
	// shows Order.Token instead of waiting for the operator, and wipe the node's
	// own disk. Nobody sends an outcome: the enrolment with the token is it.
	Reimage Verb = "reimage"
	// Reset: end Kubernetes, make the disk one that does not start and holds
	// nothing of the node, and power off.
	Reset Verb = "reset"
)

// Order is what the operator wants of one node.
type Order struct {
	ID     string `json:"id"` // of one order: 16 random bytes in hex
	Verb   Verb   `json:"verb"`
	Store  string `json:"store,omitempty"`  // upgrade, reimage: URL of a directory with the bundle, as slipway.store= has it
	Bundle string `json:"bundle,omitempty"` // its name and serial, for people
	Token  string `json:"token,omitempty"`  // reimage: to be shown in Hello, once; a secret
}

// Outcome is how an order ended.
type Outcome struct {
	ID    string `json:"id"`
	State State  `json:"state"` // done, failed
	Code  string `json:"code,omitempty"`
	Text  string `json:"text,omitempty"`
	Hint  string `json:"hint,omitempty"`
}
