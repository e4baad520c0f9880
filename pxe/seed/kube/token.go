package kube

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"slipway.dev/slipway/configs/handoff"
)

// Lifetime is how long a token lives, by the API server's clock.
const Lifetime = 15 * time.Minute

// What a bootstrap token is made of ("Authenticating with Bootstrap Tokens" of
// the Kubernetes documentation).
const (
	pathSecrets = "/api/v1/namespaces/kube-system/secrets"
	secretType  = "bootstrap.kubernetes.io/token"
	secretName  = "bootstrap-token-" // + id
	tokenUser   = "system:bootstrap:"
	// kubeadm gives this group what a join needs: to ask for a certificate and
	// to read kubeadm-config, kubelet-config and the nodes.
	tokenGroups = "system:bootstrappers:kubeadm:default-node-token"

	// kubeadm lets the controller manager approve whatever that group asks for.
	// While this binding is there no check of ours means anything.
	pathAutoApprove = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/kubeadm:node-autoapprove-bootstrap"

	nodeLabel = "slipway.dev/node"
	enrolled  = "slipway.dev/enrolled" // annotation: an enrolment as JSON
)

// enrolment says what a token is for.
type enrolment struct {
	Node  string `json:"node"`
	Token string `json:"token"` // id
	Key   string `json:"key"`   // as handoff.JoinRequest.Key
}

type secret struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   metadata          `json:"metadata"`
	Type       string            `json:"type"`
	StringData map[string]string `json:"stringData,omitempty"` // towards the API server
	Data       map[string][]byte `json:"data,omitempty"`       // from it
}

type metadata struct {
	Name            string            `json:"name"`
	UID             string            `json:"uid,omitempty"`
	ResourceVersion string            `json:"resourceVersion,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	Annotations     map[string]string `json:"annotations,omitempty"`
}

// enrolment is false for a token that is not ours.
func (s *secret) enrolment() (enrolment, bool) {
	var e enrolment
	if s.Type != secretType || json.Unmarshal([]byte(s.Metadata.Annotations[enrolled]), &e) != nil {
		return enrolment{}, false
	}
	return e, e.Node != "" && e.Node == s.Metadata.Labels[nodeLabel] && s.Metadata.Name == secretName+e.Token && keyHash(e.Key)
}

// keyHash says whether s is 32 bytes in lower case hex.
func keyHash(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == 32 && s == strings.ToLower(s)
}

// Mint makes the token with which node, and only with the kubelet key of hash
// key, can join; an earlier token of the node ends. Requests that this key made
// before go too: a denied one would stand in its way for an hour, because
// kubelet names a request after its key.
func (k *Kube) Mint(ctx context.Context, c handoff.Cluster, node, key string) (handoff.Join, error) {
	j, err := k.token(ctx, c, node, key)
	if err != nil {
		return handoff.Join{}, fmt.Errorf("token for node %q: %w", node, err)
	}
	return j, nil
}

func (k *Kube) token(ctx context.Context, c handoff.Cluster, node, key string) (handoff.Join, error) {
	if !keyHash(key) {
		return handoff.Join{}, fmt.Errorf("key %q: want a SHA-256 in lower case hex", key)
	}
	a, err := dial(c)
	if err != nil {
		return handoff.Join{}, err
	}
	defer a.close()
	k.mint.Lock()
	defer k.mint.Unlock()
	now, err := a.revoke(ctx, node)
	if err != nil {
		return handoff.Join{}, err
	}
	if err := errors.Join(a.drop(ctx, pathAutoApprove), a.forget(ctx, key)); err != nil {
		return handoff.Join{}, err
	}
	id, word := text(6), text(16)
	note, err := json.Marshal(enrolment{Node: node, Token: id, Key: key})
	if err != nil {
		return handoff.Join{}, err
	}
	s := secret{APIVersion: "v1", Kind: "Secret", Type: secretType,
		Metadata: metadata{Name: secretName + id, Labels: map[string]string{nodeLabel: node}, Annotations: map[string]string{enrolled: string(note)}},
		StringData: map[string]string{"token-id": id, "token-secret": word, "expiration": now.Add(Lifetime).UTC().Format(time.RFC3339),
			"usage-bootstrap-authentication": "true", "auth-extra-groups": tokenGroups, "description": "slipway: node " + node}}
	if _, err := a.do(ctx, http.MethodPost, pathSecrets, s, nil); err != nil {
		return handoff.Join{}, err
	}
	k.log.Info("bootstrap token made", "node", node, "id", id, "until", now.Add(Lifetime))
	return handoff.Join{Server: c.Server, CA: c.CA, Token: id + "." + word}, nil
}

// Finish deletes the node's token; one that is gone is no error.
func (k *Kube) Finish(ctx context.Context, c handoff.Cluster, node string) error {
	a, err := dial(c)
	if err == nil {
		defer a.close()
		k.mint.Lock()
		defer k.mint.Unlock()
		_, err = a.revoke(ctx, node)
	}
	if err != nil {
		return fmt.Errorf("deleting the token of node %q: %w", node, err)
	}
	k.log.Info("bootstrap token deleted", "node", node)
	return nil
}

// tokens lists our tokens; selector is a label selector.
func (a *api) tokens(ctx context.Context, selector string) ([]secret, time.Time, error) {
	var list struct {
		Items []secret `json:"items"`
	}
	now, err := a.do(ctx, http.MethodGet, pathSecrets+"?"+url.Values{"labelSelector": {selector}}.Encode(), nil, &list)
	return list.Items, now, err
}

// revoke deletes all tokens of a node and returns the API server's clock.
func (a *api) revoke(ctx context.Context, node string) (time.Time, error) {
	list, now, err := a.tokens(ctx, nodeLabel+"="+node)
	for _, s := range list {
		if s.Type == secretType {
			err = errors.Join(err, a.drop(ctx, pathSecrets+"/"+url.PathEscape(s.Metadata.Name)))
		}
	}
	return now, err
}

// expire deletes our tokens that have run out. The token cleaner of the
// controller manager does so too where kubeadm has switched it on.
func (a *api) expire(ctx context.Context) error {
	list, now, err := a.tokens(ctx, nodeLabel)
	for _, s := range list {
		end, bad := time.Parse(time.RFC3339, string(s.Data["expiration"]))
		if s.Type == secretType && (bad != nil || end.Before(now)) {
			err = errors.Join(err, a.drop(ctx, pathSecrets+"/"+url.PathEscape(s.Metadata.Name)))
		}
	}
	return err
}

// lookup finds the enrolment of a token; false: there is none, or it is not ours.
func (a *api) lookup(ctx context.Context, id string) (enrolment, bool, error) {
	var s secret
	_, err := a.do(ctx, http.MethodGet, pathSecrets+"/"+url.PathEscape(secretName+id), nil, &s)
	var refused *statusError
	if errors.As(err, &refused) && refused.code == http.StatusNotFound {
		return enrolment{}, false, nil
	}
	if err != nil {
		return enrolment{}, false, err
	}
	e, ok := s.enrolment()
	return e, ok && e.Token == id, nil
}

// text is n random characters of those that a token may have.
func text(n int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	out := make([]byte, 0, n)
	var b [1]byte
	for len(out) < n {
		rand.Read(b[:])
		if int(b[0]) < 256-256%len(letters) { // all letters alike
			out = append(out, letters[int(b[0])%len(letters)])
		}
	}
	return string(out)
}
