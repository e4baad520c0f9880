package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
)

// standing is what was last told of a node.
type standing struct {
	ready bool
	text  string
}

// nodes follows the Node objects and serialises what is told.
type nodes struct {
	mu    sync.Mutex
	known map[string]standing
	tell  Tell

	once   sync.Once
	listed chan struct{} // closed when all nodes are known: until then nobody can say whether one is Ready
}

func newNodes(tell Tell) *nodes {
	return &nodes{known: map[string]standing{}, tell: tell, listed: make(chan struct{})}
}

type node struct {
	Metadata metadata `json:"metadata"`
	Status   struct {
		Conditions []csrCondition `json:"conditions"`
	} `json:"status"`
}

func (n *node) standing() standing {
	for _, c := range n.Status.Conditions {
		if c.Type != "Ready" {
			continue
		}
		if c.Status == "True" {
			return standing{ready: true, text: "Ready"}
		}
		const most = 300
		text := c.Reason
		if c.Message != "" {
			text += ": " + c.Message
		}
		return standing{text: fmt.Sprintf("%.*s", most, text)}
	}
	return standing{text: "kubelet has not reported yet"}
}

func (n *nodes) all(_ context.Context, items []json.RawMessage) error {
	there := map[string]bool{}
	for _, i := range items {
		name, err := n.update(i)
		if err != nil {
			return err
		}
		there[name] = true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for name := range n.known {
		if !there[name] {
			n.removed(name)
		}
	}
	n.once.Do(func() { close(n.listed) })
	return nil
}

func (n *nodes) changed(_ context.Context, kind string, object json.RawMessage) error {
	if kind != "DELETED" {
		_, err := n.update(object)
		return err
	}
	var x node
	if err := json.Unmarshal(object, &x); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.removed(x.Metadata.Name)
	return nil
}

// update tells a node whose standing is another than before: kubelet reports
// every few minutes even if nothing has changed.
func (n *nodes) update(object json.RawMessage) (string, error) {
	var x node
	if err := json.Unmarshal(object, &x); err != nil {
		return "", fmt.Errorf("node: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	name, s := x.Metadata.Name, x.standing()
	if s != n.known[name] {
		n.known[name] = s
		n.tell(name, s.ready, s.text)
	}
	return name, nil
}

func (n *nodes) removed(name string) {
	delete(n.known, name)
	n.tell(name, false, "the Node was deleted from the cluster")
}

// say tells something of a node that does not change whether it is Ready.
func (n *nodes) say(name, text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tell(name, n.known[name].ready, text)
}
