package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strings"
)

type condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

type nodeObject struct {
	Status struct {
		Conditions []condition `json:"conditions"`
		NodeInfo   struct {
			BootID string `json:"bootID"`
		} `json:"nodeInfo"`
	} `json:"status"`
}

type podList struct {
	Items []pod `json:"items"`
}

type pod struct {
	Metadata struct {
		Name      string            `json:"name"`
		Namespace string            `json:"namespace"`
		Labels    map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		NodeName string `json:"nodeName"`
	} `json:"spec"`
	Status struct {
		Phase             string            `json:"phase"`
		Conditions        []condition       `json:"conditions"`
		ContainerStatuses []containerStatus `json:"containerStatuses"`
	} `json:"status"`
}

type containerStatus struct {
	Name         string `json:"name"`
	RestartCount int    `json:"restartCount"`
	ContainerID  string `json:"containerID"` // containerd://<id>
	State        struct {
		Waiting *struct {
			Reason  string `json:"reason"`
			Message string `json:"message"`
		} `json:"waiting"`
		Terminated *struct {
			Reason   string `json:"reason"`
			ExitCode int    `json:"exitCode"`
			Message  string `json:"message"`
		} `json:"terminated"`
	} `json:"state"`
}

// Start is this start of the machine. What the API has of a node outlives it: the
// node controller takes a kubelet for gone that was silent for 40 s and more, and a
// machine may be back before that.
type Start struct {
	BootID string               // /proc/sys/kernel/random/boot_id
	Runs   func(id string) bool // whether a container was started since
}

// Missing says, for people, what keeps a control plane from being usable; empty
// means Ready since this start: the node, its pods of the network, and the
// cluster's DNS.
func (c *Client) Missing(ctx context.Context, node string, s Start) ([]string, error) {
	return c.missing(ctx, node, s, "", "flannel", "kube-dns", "kube-proxy")
}

// MissingOwn is Missing for a worker, asked with its own certificate: a node may
// list its own pods alone (plugin/pkg/auth/authorizer/node).
func (c *Client) MissingOwn(ctx context.Context, node string, s Start) ([]string, error) {
	return c.missing(ctx, node, s, "&fieldSelector=spec.nodeName%3D"+url.QueryEscape(node), "flannel", "kube-proxy")
}

func (c *Client) missing(ctx context.Context, node string, s Start, selector string, apps ...string) ([]string, error) {
	var n nodeObject
	if err := c.get(ctx, "/api/v1/nodes/"+url.PathEscape(node), &n); Is(err, http.StatusNotFound) {
		return []string{fmt.Sprintf("node %s: kubelet has not registered it yet", node)}, nil
	} else if err != nil {
		return nil, err
	}
	var pods podList
	if err := c.get(ctx, "/api/v1/pods?labelSelector=k8s-app+in+("+strings.Join(apps, ",")+")"+selector, &pods); err != nil {
		return nil, err
	}
	return append(n.missing(node, s), pods.missing(node, s, apps)...), nil
}

func (n nodeObject) missing(name string, s Start) []string {
	if len(n.Status.Conditions) > 0 && n.Status.NodeInfo.BootID != s.BootID {
		return []string{fmt.Sprintf("node %s: kubelet has not reported since this start", name)}
	}
	for _, c := range n.Status.Conditions {
		if c.Type != "Ready" {
			continue
		}
		if c.Status == "True" {
			return nil
		}
		return []string{fmt.Sprintf("node %s: %s", name, brief(c.Reason, c.Message))}
	}
	return []string{fmt.Sprintf("node %s: kubelet has not reported yet", name)}
}

// missing looks at the pods with one of the k8s-app labels; all but the DNS's
// count on this node only.
func (l podList) missing(node string, s Start, apps []string) []string {
	count := map[string]int{}
	var out []string
	for _, p := range l.Items {
		app := p.Metadata.Labels["k8s-app"]
		if !slices.Contains(apps, app) || app != "kube-dns" && p.Spec.NodeName != "" && p.Spec.NodeName != node {
			continue
		}
		count[app]++
		why := p.unready()
		if why == "" && p.Spec.NodeName == node && p.older(s) {
			why = "not started again yet"
		}
		if why != "" {
			out = append(out, fmt.Sprintf("pod %s/%s: %s", p.Metadata.Namespace, p.Metadata.Name, why))
		}
	}
	for _, app := range apps {
		if count[app] == 0 {
			out = append(out, app+": no pod yet")
		}
	}
	sort.Strings(out)
	return out
}

// older says that what the API has of a pod is from before this start.
func (p pod) older(s Start) bool {
	return slices.ContainsFunc(p.Status.ContainerStatuses, func(c containerStatus) bool {
		_, id, _ := strings.Cut(c.ContainerID, "://")
		return id != "" && !s.Runs(id)
	})
}

// unready is the most telling reason the pod has: an image, a mount, a crash,
// a scheduler that finds no node.
func (p pod) unready() string {
	var ready, scheduled condition
	for _, c := range p.Status.Conditions {
		switch c.Type {
		case "Ready":
			ready = c
		case "PodScheduled":
			scheduled = c
		}
	}
	if ready.Status == "True" {
		return ""
	}
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil {
			return brief(w.Reason, w.Message)
		}
		if t := c.State.Terminated; t != nil {
			return brief(fmt.Sprintf("%s, exit code %d", t.Reason, t.ExitCode), t.Message)
		}
	}
	if scheduled.Status == "False" {
		return brief(scheduled.Reason, scheduled.Message)
	}
	if p.Status.Phase == "Running" {
		return "running, not ready"
	}
	return strings.ToLower(p.Status.Phase)
}

func brief(reason, message string) string {
	if message == "" {
		return reason
	}
	const most = 200
	if len(message) > most {
		message = message[:most] + "…"
	}
	return reason + ": " + message
}

// Ready says whether the API server takes a node for Ready; one that is not
// there is not.
func (c *Client) Ready(ctx context.Context, node string) (bool, error) {
	var n nodeObject
	err := c.get(ctx, "/api/v1/nodes/"+url.PathEscape(node), &n)
	if Is(err, http.StatusNotFound) {
		return false, nil
	}
	return err == nil && slices.ContainsFunc(n.Status.Conditions, func(c condition) bool { return c.Type == "Ready" && c.Status == "True" }), err
}
