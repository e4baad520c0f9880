package kubeadm

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/report"
)

// renewBefore is how long before its end a certificate is renewed; those that
// live shorter than three times as long are renewed in their last third.
const renewBefore = 60 * 24 * time.Hour

// kubeletClient is what kubelet's kubeconfig points to; kubelet renews it
// itself as long as it is valid.
const kubeletClient = "/var/lib/kubelet/pki/kubelet-client-current.pem"

// Renew renews the node's certificates when the first of them comes near its
// end, and returns when it wants to look again. Without a cluster it does
// nothing. It needs no API server: a machine that was off for longer than its
// certificates lived comes back.
func (r Runner) Renew(ctx context.Context, now time.Time) (next time.Time, err error) {
	next = now.Add(12 * time.Hour)
	if !exists(r.at(doneMarker)) {
		return next, nil
	}
	name, first, err := r.firstToEnd()
	if err != nil {
		return next, report.Fail("SW-CERTIFICATES-READ", "look at the files in "+pkiDir, err)
	}
	due := first != nil && !now.Before(first.NotAfter.Add(-min(renewBefore, first.NotAfter.Sub(first.NotBefore)/3)))
	if due {
		left := first.NotAfter.Sub(now).Hours() / 24
		r.Report(handoff.Event{Step: "certificates", State: handoff.Started, Text: fmt.Sprintf("%s ends in %.0f days: renewing all", name, left), Data: map[string]any{"days": int(left)}})
		if err := r.Exec.run(ctx, r.Log, nil, kubeadmProgram, "certs", "renew", "all", "--config", r.at(kubeadmConfig)); err != nil {
			return next, report.Fail("SW-CERTIFICATES-RENEW", "run it by hand after the cause is gone; the node tries again in 12 hours", err)
		}
	} else if first != nil {
		r.Log.Info("certificates", "first to end", name, "at", first.NotAfter)
	}
	// Only now: kubeadm makes nothing beside a certificate that has ended.
	if err := errors.Join(r.restore(ctx), r.kubelet(ctx, now)); err != nil {
		return next, report.Fail("SW-CERTIFICATES-RESTORE", "run it by hand after the cause is gone; the node tries again in 12 hours", err)
	}
	if !due {
		return next, nil
	}
	if err := r.restartPods(now); err != nil {
		return next, report.Fail("SW-CERTIFICATES-RESTART", "restart the node: the new certificates are in place", err)
	}
	r.Report(handoff.Event{Step: "certificates", State: handoff.Done, Text: "renewed; the control plane starts again with them"})
	return next, nil
}

// restore makes what a control plane reads and does not have: a power cut while
// kubeadm renews leaves empty files, which Repair removes, and `kubeadm certs
// renew` passes over what is missing. What is there stays. Who wants no
// super-admin.conf on the node may have removed it; with admin.conf PID 1 itself
// asks the API server.
func (r Runner) restore(ctx context.Context) error {
	certs := []string{"apiserver", "apiserver-kubelet-client", "front-proxy-client"}
	if exists(r.at(manifestDir + "/etcd.yaml")) { // an etcd elsewhere has its own
		certs = append(certs, "apiserver-etcd-client", "etcd/server", "etcd/peer", "etcd/healthcheck-client")
	}
	var phases [][]string
	lost := func(what string, phase ...string) {
		r.Report(handoff.Event{Step: "certificates", State: handoff.Running, Text: what + " is missing: making it again"})
		if !slices.ContainsFunc(phases, func(p []string) bool { return slices.Equal(p, phase) }) {
			phases = append(phases, phase)
		}
	}
	for _, c := range certs {
		crt, key := pkiDir+"/"+c+".crt", pkiDir+"/"+c+".key"
		if exists(r.at(crt)) && exists(r.at(key)) {
			continue
		}
		lost(crt+" or its key", "certs", "all")
		for _, f := range []string{crt, key} { // kubeadm is content with half a pair
			if err := os.Remove(r.at(f)); err != nil && !os.IsNotExist(err) {
				return err
			}
		}
	}
	for _, c := range []string{"admin", "controller-manager", "scheduler", "kubelet"} {
		if f := "/etc/kubernetes/" + c + ".conf"; !exists(r.at(f)) {
			lost(f, "kubeconfig", c)
		}
	}
	for _, p := range phases {
		argv := append(append([]string{kubeadmProgram, "init", "phase"}, p...), "--config", r.at(kubeadmConfig))
		if err := r.Exec.run(ctx, r.Log, nil, argv...); err != nil {
			return err
		}
	}
	return nil
}

// firstToEnd is the leaf certificate with the earliest end, nil if there is none.
func (r Runner) firstToEnd() (name string, first *x509.Certificate, err error) {
	var files []string
	for _, glob := range []string{pkiDir + "/*.crt", pkiDir + "/etcd/*.crt", "/etc/kubernetes/*.conf"} {
		m, err := filepath.Glob(r.at(glob))
		if err != nil {
			return "", nil, err
		}
		files = append(files, m...)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			return "", nil, err
		}
		if strings.HasSuffix(f, ".conf") {
			raw = clientCertificate(raw)
		}
		block, _ := pem.Decode(raw)
		if block == nil {
			continue // kubelet.conf names a file; an external etcd's CA may be missing
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return "", nil, fmt.Errorf("%s: %w", f, err)
		}
		if !c.IsCA && (first == nil || c.NotAfter.Before(first.NotAfter)) {
			name, first = filepath.Base(f), c
		}
	}
	return name, first, nil
}

// clientCertificate takes the embedded certificate out of a kubeconfig.
func clientCertificate(raw []byte) []byte {
	var c struct {
		Users []struct {
			User struct {
				Data string `json:"client-certificate-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if yaml.Unmarshal(raw, &c) != nil || len(c.Users) == 0 {
		return nil
	}
	out, _ := base64.StdEncoding.DecodeString(c.Users[0].User.Data)
	return out
}

// kubelet gives kubelet a new client certificate when its own has ended: it
// cannot ask the API server for one any more. `kubeadm certs renew` leaves it out.
func (r Runner) kubelet(ctx context.Context, now time.Time) error {
	raw, err := os.ReadFile(r.at(kubeletClient))
	if err != nil {
		return nil //nolint:nilerr // not rotated yet: the one in kubelet.conf is as old as the others
	}
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || now.Before(c.NotAfter) {
			return err
		}
		if err := errors.Join(os.Remove(r.at(kubeletKubeconfig)), os.Remove(r.at(kubeletClient))); err != nil {
			return err
		}
		r.Report(handoff.Event{Step: "certificates", State: handoff.Running, Text: "kubelet's certificate has ended: making a new one"})
		return r.restore(ctx) // or, after a power cut here, the next boot does
	}
	return nil
}

// restartPods marks the static pods' manifests, so that kubelet makes the pods
// anew: components read their certificates at start.
func (r Runner) restartPods(now time.Time) error {
	files, err := filepath.Glob(r.at(manifestDir + "/*.yaml"))
	if err != nil {
		return err
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		var pod map[string]any
		if err := yaml.Unmarshal(raw, &pod); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		meta, _ := pod["metadata"].(map[string]any)
		if meta == nil {
			return fmt.Errorf("%s: no metadata", f)
		}
		notes, _ := meta["annotations"].(map[string]any)
		if notes == nil {
			notes = map[string]any{}
		}
		notes["slipway.dev/renewed"] = now.UTC().Format(time.RFC3339)
		meta["annotations"] = notes
		if raw, err = yaml.Marshal(pod); err != nil {
			return err
		}
		if err := r.write(strings.TrimPrefix(f, r.Root), 0o600, raw); err != nil {
			return err
		}
	}
	return nil
}
