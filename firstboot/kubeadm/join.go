package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/kubeadm/api"
	"slipway.dev/slipway/firstboot/report"
)

// Paths below Runner.Root of a node that joins. What is below /run holds the
// bootstrap token or points to it.
const (
	joinConfig    = "/run/slipway/kubeadm/join.yaml"
	discoveryConf = "/run/slipway/kubeadm/discovery.conf"
	patchesDir    = "/run/slipway/kubeadm/patches"
	// joinedMarker is written after kubeadm has ended well, with the node's version.
	joinedMarker = "/var/lib/slipway/kubeadm-join"
)

// Means is how a worker is let into a cluster.
type Means struct {
	// Ask waits for a cluster and returns a token for the node and its key.
	Ask func(context.Context, handoff.JoinRequest) (handoff.Join, error)
	// Done is called once the token is not needed any more; it must not wait.
	Done func()
}

// Join makes the machine a worker: kubelet's certificate from a key that PID 1
// made, kubeadm join, and the wait for Ready. It may be called again after any
// failure or power cut; every attempt asks for a token of its own.
func (r Runner) Join(ctx context.Context, n Node, m Means) error {
	n, err := n.complete()
	if err != nil {
		return report.Fail("SW-KUBEADM-NODE", "Correct the node's configuration.", err)
	}
	if err := r.Repair(); err != nil {
		return report.Fail("SW-KUBEADM-REPAIR", "look at the state volume with e2fsck", fmt.Errorf("repairing after an interruption: %w", err))
	}
	if err := r.host(ctx, n); err != nil {
		return err
	}
	if r.Patience == 0 {
		r.Patience = 15 * time.Minute
	}
	state := r.joined()
	r.Log.Info("kubernetes", "state", state, "node", n.Name, "address", n.Address, "version", n.KubernetesVersion)
	switch state {
	case fresh:
		err = r.join(ctx, n, m)
	case partial: // kubeadm only waits for kubelet after its files are written
		r.Report(handoff.Event{Step: "resume", State: handoff.Running, Text: "an earlier attempt got as far as kubelet's files"})
		err = r.renewClient(ctx, n, m)
	case done:
		r.Report(handoff.Event{Step: "join", State: handoff.Skipped, Text: "this node has joined its cluster before"})
		if err = r.renewClient(ctx, n, m); err == nil {
			err = r.follow(ctx, n)
		}
	}
	if err != nil {
		return err
	}
	if err := r.forget(); err != nil {
		return report.Fail("SW-JOIN-FORGET", "", err)
	}
	if state != done {
		if err := r.write(joinedMarker, 0o644, []byte(n.KubernetesVersion+"\n")); err != nil {
			return report.Fail("SW-KUBEADM-MARK", "", err)
		}
		m.Done()
	}
	s := r.session(n)
	s.own = true
	return s.ready(ctx)
}

// Joined reports that the node needs nobody's means any more.
func (r Runner) Joined() bool { return r.joined() != fresh }

// joined is how far an earlier attempt got. kubeadm writes the flags last
// (cmd/phases/join/kubelet.go, runKubeletStartJoinPhase).
func (r Runner) joined() progress {
	if exists(r.at(joinedMarker)) {
		return done
	}
	for _, f := range []string{pkiDir + "/ca.crt", kubeletKubeconfig, kubeletClient, kubeletConfig, kubeletFlags} {
		if !exists(r.at(f)) {
			return fresh
		}
	}
	return partial
}

// forget removes what holds the token.
func (r Runner) forget() error {
	var errs []error
	for _, f := range []string{discoveryConf, kubeletBootstrap} {
		if err := os.Remove(r.at(f)); !os.IsNotExist(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// join asks for the means, gets kubelet's certificate and runs kubeadm.
func (r Runner) join(ctx context.Context, n Node, m Means) error {
	if err := r.forget(); err != nil { // an earlier attempt's
		return report.Fail("SW-JOIN-FORGET", "", err)
	}
	j, c, err := r.certify(ctx, n, m)
	if err != nil {
		return err
	}
	if err := r.unknown(ctx, n, c); err != nil {
		return err
	}
	if err := r.joinFiles(n, j); err != nil {
		return report.Fail("SW-KUBEADM-PREPARE", "", fmt.Errorf("preparing for kubeadm: %w", err))
	}
	defer func() { _ = r.forget() }()
	tell := newNarrator(r.Report, nil)
	err = r.Exec.run(ctx, r.Log, tell.line, kubeadmProgram, "join", "--config", r.at(joinConfig))
	if err == nil {
		tell.end(handoff.Done, "")
		return nil
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	step := tell.end(handoff.Failed, first)
	if step == "" {
		step = "join"
	}
	return report.Fail("SW-KUBEADM-"+strings.ToUpper(step), "The lines above are kubeadm's; the node asks for another token and tries again.", err)
}

// unknown waits while the API server takes a Node of this name for Ready:
// kubeadm would refuse. It is this machine before a restart without a state
// volume, and the node controller notices within a minute, or another machine.
func (r Runner) unknown(ctx context.Context, n Node, c *api.Client) error {
	const enough = 3 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, min(enough, r.Patience))
	defer cancel()
	told := false
	for {
		ready, err := c.Ready(ctx, n.Name)
		if err == nil && !ready {
			return nil
		}
		if err == nil && !told {
			told = true
			r.Report(handoff.Event{Step: "name", State: handoff.Running, Text: "a Node " + n.Name + " is still Ready: waiting until the cluster misses it"})
		}
		select {
		case <-ctx.Done():
			if !told { // the time may end within a request: what was answered before counts
				return report.Fail("SW-JOIN-API", "Check that this machine reaches the API server; the node tries again.", fmt.Errorf("looking for node %q: %w", n.Name, err))
			}
			return report.Fail("SW-JOIN-NAME", "Give one of the two machines another name, or delete the Node if it is gone.", fmt.Errorf("another machine is Ready under the name %q", n.Name))
		case <-time.After(poll):
		}
	}
}

// joinFiles writes what kubeadm reads.
func (r Runner) joinFiles(n Node, j handoff.Join) error {
	n, err := r.patched(n)
	if err != nil {
		return err
	}
	doc, err := n.render(joinDocument(n, r.at(discoveryConf)))
	if err != nil {
		return err
	}
	discovery, err := yaml.Marshal(kubeconfig(j.Server, []byte(j.CA), map[string]any{"token": j.Token}))
	if err != nil {
		return err
	}
	return errors.Join(r.write(joinConfig, 0o600, doc), r.write(discoveryConf, 0o600, discovery))
}

// patched is n with the directory of kubeadm's patches: kubelet's configuration is
// the cluster's, and what this node has of its own is laid over it.
func (r Runner) patched(n Node) (Node, error) {
	if n.Patches != "" || len(n.Overrides["KubeletConfiguration"]) == 0 {
		return n, nil
	}
	b, err := yaml.Marshal(n.Overrides["KubeletConfiguration"])
	if err != nil {
		return n, err
	}
	n.Patches = r.at(patchesDir)
	return n, r.write(patchesDir+"/kubeletconfiguration0+merge.yaml", 0o600, b)
}

type joinConfiguration struct {
	typeMeta         `json:",inline"`
	Discovery        discovery    `json:"discovery"`
	NodeRegistration registration `json:"nodeRegistration"`
	Patches          *patches     `json:"patches,omitempty"`
	Timeouts         timeouts     `json:"timeouts"`
}

type discovery struct {
	File fileDiscovery `json:"file"`
}

type fileDiscovery struct {
	KubeConfigPath string `json:"kubeConfigPath"`
}

// joinDocument has kubeadm find the cluster in a file. With the token as the
// file's own credentials it asks nothing anonymously, and that cluster-info may
// not be read does not matter (app/discovery/file, ValidateConfigInfo).
func joinDocument(n Node, discoveryFile string) joinConfiguration {
	d := joinConfiguration{
		typeMeta:  typeMeta{"kubeadm.k8s.io/v1beta4", "JoinConfiguration"},
		Discovery: discovery{fileDiscovery{discoveryFile}},
		NodeRegistration: registration{Name: n.Name, CRISocket: criSocket, Taints: n.Taints, ImagePullPolicy: "IfNotPresent",
			// PID 1 wrote both files itself.
			IgnorePreflightErrors: append(ignored(), "FileAvailable--etc-kubernetes-kubelet.conf", "FileAvailable--etc-kubernetes-pki-ca.crt"),
			KubeletExtraArgs:      []arg{{"node-ip", n.Address.String()}}},
		Timeouts: timeouts{patient, patient, patient, patient, patient, patient},
	}
	// A token that has ended is refused until this does.
	d.Timeouts.Discovery = "2m0s"
	if d.NodeRegistration.Taints == nil {
		d.NodeRegistration.Taints = []Taint{}
	}
	if n.Patches != "" {
		d.Patches = &patches{Directory: n.Patches}
	}
	return d
}

// kubeconfig is a v1 Config with one cluster and one user.
func kubeconfig(server string, ca []byte, user map[string]any) map[string]any {
	const name = "slipway"
	return map[string]any{"apiVersion": "v1", "kind": "Config", "current-context": name,
		"clusters": []any{map[string]any{"name": name, "cluster": map[string]any{"server": server, "certificate-authority-data": ca}}},
		"users":    []any{map[string]any{"name": name, "user": user}},
		"contexts": []any{map[string]any{"name": name, "context": map[string]any{"cluster": name, "user": name, "namespace": "default"}}}}
}

// close takes away what kubeadm leaves open for whoever holds any bootstrap
// token, or none: certificates that nobody looks at, and the cluster's CA and
// address for anyone who asks. The seed approves, and tells them.
func (s *session) close(ctx context.Context) error {
	for _, p := range []string{
		"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/" + url.PathEscape("kubeadm:node-autoapprove-bootstrap"),
		"/apis/rbac.authorization.k8s.io/v1/namespaces/kube-public/rolebindings/" + url.PathEscape("kubeadm:bootstrap-signer-clusterinfo"),
	} {
		if err := s.until(ctx, "close", func(c *api.Client) (string, error) { return "", c.Delete(ctx, p) }); err != nil {
			return report.Fail("SW-KUBEADM-CLOSE", "The node tries again.", fmt.Errorf("deleting %s: %w", p, err))
		}
	}
	return nil
}

// Cluster is how others reach the cluster that Init made.
func (r Runner) Cluster(n Node) (handoff.Cluster, error) {
	ca, err := os.ReadFile(r.at(pkiDir + "/ca.crt"))
	if err != nil {
		return handoff.Cluster{}, err
	}
	admin, err := os.ReadFile(r.at(adminConf))
	if err != nil {
		return handoff.Cluster{}, err
	}
	host, port := n.apiServer()
	return handoff.Cluster{Server: (&url.URL{Scheme: "https", Host: net.JoinHostPort(host, port)}).String(), CA: string(ca), Kubeconfig: string(admin)}, nil
}
