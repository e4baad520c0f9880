package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"slipway.dev/slipway/configs/handoff"
)

// Node is one of the cluster's.
type Node struct {
	Name         string
	ControlPlane bool
	Ready        bool
	Cordoned     bool
	Kubelet      string // version: v1.37.1
	Text         string // why it is not Ready
}

// Pod is one that a drain evicts.
type Pod struct {
	Namespace, Name string
	EmptyDir        bool // what it keeps in one is lost
	Bare            bool // no controller makes it again
}

func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// StandingError says which pods a drain could not move in its time.
type StandingError struct {
	Node  string
	Limit time.Duration
	Pods  []string // "default/db-0: Cannot evict pod as it would violate the pod's disruption budget."
}

func (e *StandingError) Error() string {
	return fmt.Sprintf("draining %s: after %s there still stand %s", e.Node, e.Limit, strings.Join(e.Pods, "; "))
}

// pathNodes and pathPods are the collections of the core API.
const (
	pathNodes = "/api/v1/nodes"
	pathPods  = "/api/v1/pods"
)

// labelControlPlane is set by kubeadm on the nodes that are one.
const labelControlPlane = "node-role.kubernetes.io/control-plane"

// Nodes lists the cluster's nodes by name.
func (k *Kube) Nodes(ctx context.Context, c handoff.Cluster) ([]Node, error) {
	a, err := dial(c)
	if err != nil {
		return nil, err
	}
	defer a.close()
	var list struct {
		Items []struct {
			node
			Spec struct {
				Unschedulable bool `json:"unschedulable"`
			} `json:"spec"`
			Status struct {
				Conditions []csrCondition `json:"conditions"`
				NodeInfo   struct {
					KubeletVersion string `json:"kubeletVersion"`
				} `json:"nodeInfo"`
			} `json:"status"`
		} `json:"items"`
	}
	if _, err := a.do(ctx, http.MethodGet, pathNodes, nil, &list); err != nil {
		return nil, err
	}
	var out []Node
	for _, i := range list.Items {
		i.node.Status.Conditions = i.Status.Conditions
		st := i.standing()
		_, plane := i.Metadata.Labels[labelControlPlane]
		out = append(out, Node{Name: i.Metadata.Name, ControlPlane: plane, Ready: st.ready, Cordoned: i.Spec.Unschedulable, Kubelet: i.Status.NodeInfo.KubeletVersion, Text: st.text})
	}
	return out, nil
}

// pod is what is read of one.
type pod struct {
	Metadata struct {
		Name              string            `json:"name"`
		Namespace         string            `json:"namespace"`
		Annotations       map[string]string `json:"annotations"`
		DeletionTimestamp *time.Time        `json:"deletionTimestamp"`
		OwnerReferences   []struct {
			Kind       string `json:"kind"`
			Controller bool   `json:"controller"`
		} `json:"ownerReferences"`
	} `json:"metadata"`
	Spec struct {
		Volumes []struct {
			EmptyDir *struct{} `json:"emptyDir"`
		} `json:"volumes"`
	} `json:"spec"`
}

// stays: the node's own pods (kubelet's mirrors of static ones, and those of
// DaemonSets) end with it. Evicted they would be there again at once.
func (p *pod) stays() bool {
	_, mirror := p.Metadata.Annotations["kubernetes.io/config.mirror"]
	return mirror || p.controller() == "DaemonSet"
}

func (p *pod) controller() string {
	for _, o := range p.Metadata.OwnerReferences {
		if o.Controller {
			return o.Kind
		}
	}
	return ""
}

func (p *pod) brief() Pod {
	out := Pod{Namespace: p.Metadata.Namespace, Name: p.Metadata.Name, Bare: p.controller() == ""}
	for _, v := range p.Spec.Volumes {
		out.EmptyDir = out.EmptyDir || v.EmptyDir != nil
	}
	return out
}

// pods lists what a drain has to move.
func (a *api) pods(ctx context.Context, node string) ([]pod, error) {
	var list struct {
		Items []pod `json:"items"`
	}
	q := url.Values{"fieldSelector": {"spec.nodeName=" + node}}
	if _, err := a.do(ctx, http.MethodGet, pathPods+"?"+q.Encode(), nil, &list); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(p pod) bool { return p.stays() }), nil
}

// Pods lists the pods of a node that a drain evicts.
func (k *Kube) Pods(ctx context.Context, c handoff.Cluster, node string) ([]Pod, error) {
	a, err := dial(c)
	if err != nil {
		return nil, err
	}
	defer a.close()
	all, err := a.pods(ctx, node)
	if err != nil {
		return nil, err
	}
	var out []Pod
	for _, p := range all {
		out = append(out, p.brief())
	}
	return out, nil
}

// Cordon keeps new pods from a node, or lets them come again.
func (k *Kube) Cordon(ctx context.Context, c handoff.Cluster, node string, on bool) error {
	a, err := dial(c)
	if err != nil {
		return err
	}
	defer a.close()
	_, err = a.do(ctx, http.MethodPatch, pathNodes+"/"+url.PathEscape(node), map[string]any{"spec": map[string]any{"unschedulable": on}}, nil)
	return err
}

// Delete takes a Node out of the cluster; one that is not there is no error.
func (k *Kube) Delete(ctx context.Context, c handoff.Cluster, node string) error {
	a, err := dial(c)
	if err != nil {
		return err
	}
	defer a.close()
	return a.drop(ctx, pathNodes+"/"+url.PathEscape(node))
}

// Drain cordons a node and evicts its pods, by the eviction subresource: the API
// server keeps to their disruption budgets, and what it refuses is asked again.
// It returns when none is left, or with a *StandingError when limit has passed.
// Say gets a line for each pod.
func (k *Kube) Drain(ctx context.Context, c handoff.Cluster, node string, limit time.Duration, say func(string)) error {
	if err := k.Cordon(ctx, c, node, true); err != nil {
		return fmt.Errorf("draining %s: %w", node, err)
	}
	a, err := dial(c)
	if err != nil {
		return err
	}
	defer a.close()
	d := &drain{api: a, say: say, why: map[string]string{}}
	for end := time.Now().Add(limit); ; {
		left, err := d.round(ctx, node)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil && len(left) == 0 {
			return nil
		}
		if time.Now().After(end) {
			if err != nil {
				return fmt.Errorf("draining %s: %w", node, err)
			}
			return &StandingError{node, limit, left}
		}
		if err := sleep(ctx, k.evict); err != nil {
			return err
		}
	}
}

// drain is what one has said and learnt.
type drain struct {
	*api
	say func(string)
	why map[string]string // pod → why it stands
}

// round asks once for each pod that is not ending yet and names those that stand.
func (d *drain) round(ctx context.Context, node string) (left []string, err error) {
	all, err := d.pods(ctx, node)
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		name := p.brief().String()
		why := "is ending"
		if p.Metadata.DeletionTimestamp == nil {
			if why, err = d.ask(ctx, p.brief()); err != nil {
				return nil, err
			}
		}
		if d.why[name] != why {
			d.why[name] = why
			d.say(name + " " + why)
		}
		left = append(left, name+" "+why)
	}
	return left, nil
}

// ask wants one pod evicted. Why is what is said of it.
func (d *drain) ask(ctx context.Context, p Pod) (why string, err error) {
	path := "/api/v1/namespaces/" + url.PathEscape(p.Namespace) + "/pods/" + url.PathEscape(p.Name) + "/eviction"
	_, err = d.do(ctx, http.MethodPost, path, map[string]any{"apiVersion": "policy/v1", "kind": "Eviction",
		"metadata": map[string]string{"name": p.Name, "namespace": p.Namespace}}, nil)
	var refused *statusError
	switch {
	case err == nil, errors.As(err, &refused) && refused.code == http.StatusNotFound:
		return "is ending", nil
	case refused != nil:
		// 429: a disruption budget; 500: two of them (registry/core/pod/storage/eviction.go)
		return "stays: " + refused.text, nil
	}
	return "", err
}
