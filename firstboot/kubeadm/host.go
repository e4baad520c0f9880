package kubeadm

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"slipway.dev/slipway/firstboot/report"
)

// Paths below Runner.Root.
const (
	kubeadmConfig = "/etc/kubernetes/kubeadm.yaml"
	pkiDir        = "/etc/kubernetes/pki"
	manifestDir   = "/etc/kubernetes/manifests"
	adminConf     = "/etc/kubernetes/admin.conf"
	superConf     = "/etc/kubernetes/super-admin.conf"
	etcdData      = "/var/lib/etcd/member"
	cniConfig     = "/etc/cni/net.d/10-flannel.conflist"
	hostsFile     = "/etc/hosts"
	guardRules    = "/run/slipway/guard.nft"
	manifestsDir  = "/usr/lib/slipway/manifests"
	// doneMarker is written after kubeadm has ended well, with the version it made.
	doneMarker = "/var/lib/slipway/kubeadm-init"
)

// progress is how far an earlier boot got.
type progress string

const (
	fresh   progress = "fresh"   // kubeadm has not started kubelet's part
	partial progress = "partial" // it was interrupted; its phases may run again
	done    progress = "done"
)

// progress looks at what is on disk.
func (r Runner) progress() (progress, error) {
	marker, etcd := exists(r.at(doneMarker)), exists(r.at(etcdData))
	// Preflight wants none of these (kubeadm app/preflight/checks.go); certificates may be there.
	manifests, _ := filepath.Glob(r.at(manifestDir + "/*.yaml"))
	begun := len(manifests) > 0 || exists(r.at(kubeletKubeconfig)) || exists(r.at(kubeletConfig))
	switch {
	case marker && !etcd:
		return "", fmt.Errorf("this node made a cluster (%s), and its data %s is gone", doneMarker, etcdData)
	case marker:
		return done, nil
	case etcd || begun:
		return partial, nil
	}
	return fresh, nil
}

// wholeFiles are written in one go: empty, they are what a power cut left.
// kubelet does not start with an empty state file.
var wholeFiles = []string{pkiDir + "/*", pkiDir + "/etcd/*", "/etc/kubernetes/*.conf", manifestDir + "/*.yaml",
	kubeletConfig, kubeletFlags, "/var/lib/kubelet/*_state", "/var/lib/kubelet/pki/*", "/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint",
	"/etc/cni/net.d/*", "/var/lib/cni/*/*/*"}

// Repair removes what a power cut leaves of files that are written in one go:
// empty files, and keys whose certificate was not written any more (kubeadm
// writes the key first). A certificate without a key is an external CA's and
// stays. Call it before kubelet starts.
func (r Runner) Repair() error {
	var files []string
	for _, glob := range wholeFiles {
		m, err := filepath.Glob(r.at(glob))
		if err != nil {
			return err
		}
		files = append(files, m...)
	}
	for _, f := range files {
		info, err := os.Lstat(f)
		if err != nil || !info.Mode().IsRegular() || info.Size() > 0 {
			continue
		}
		r.Log.Info("removing empty file", "file", f)
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	for _, f := range files {
		key, ok := strings.CutSuffix(f, ".key")
		if !ok || exists(key+".crt") || exists(key+".pub") || !exists(f) {
			continue
		}
		r.Log.Info("removing key without certificate", "file", f)
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	return r.foreignKubelet()
}

// foreignKubelet removes kubelet's client certificate when the CA of this node
// did not sign it: it belongs to a CA that a power cut took, and the API server
// would refuse kubelet for ever. kubelet.conf brings a new one.
func (r Runner) foreignKubelet() error {
	raw, err := os.ReadFile(r.at(kubeletClient))
	if err != nil {
		return nil //nolint:nilerr // none there
	}
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(r.at(pkiDir + "/ca.crt"))
	if err == nil {
		roots.AppendCertsFromPEM(ca)
	}
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			break
		}
		if _, err := c.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: c.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
			return nil
		}
	}
	old, err := filepath.Glob(r.at(filepath.Dir(kubeletClient) + "/kubelet-client-*.pem"))
	for _, f := range old {
		r.Log.Info("removing kubelet certificate of another CA", "file", f)
		err = errors.Join(err, os.Remove(f))
	}
	return err
}

// host makes the machine what kubeadm and kubelet want to find.
func (r Runner) host(ctx context.Context, n Node) error {
	if err := r.prepare(n); err != nil {
		return report.Fail("SW-KUBEADM-PREPARE", "", fmt.Errorf("preparing for kubeadm: %w", err))
	}
	if err := r.Exec.run(ctx, r.Log, nil, nftProgram, "-f", r.at(guardRules)); err != nil {
		return report.Fail("SW-KUBEADM-GUARD", "The system root needs the package nftables.", fmt.Errorf("keeping Service addresses on the node: %w", err))
	}
	return nil
}

// prepare writes what has to be there before kubeadm and kubelet start.
func (r Runner) prepare(n Node) error {
	for _, f := range []struct {
		name string
		mode os.FileMode
		data []byte
	}{
		{cniConfig, 0o644, CNIConfig()},
		{resolvConf, 0o644, PodResolvConf(n.Nameservers, n.Address)},
		{guardRules, 0o600, []byte(guard(n.Networks.Services))},
	} {
		if err := r.write(f.name, f.mode, f.data); err != nil {
			return err
		}
	}
	// A preflight check; pods are behind a router.
	sysctl := "/proc/sys/net/ipv4/ip_forward"
	if n.Address.Is6() {
		sysctl = "/proc/sys/net/ipv6/conf/default/forwarding"
	}
	if err := os.WriteFile(r.at(sysctl), []byte("1\n"), 0o644); err != nil {
		return err
	}
	return r.name(n)
}

// name puts the node's name into /etc/hosts: kubeadm's preflight looks it up,
// and without this asks a name server.
func (r Runner) name(n Node) error {
	old, err := os.ReadFile(r.at(hostsFile))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for _, line := range strings.Split(string(old), "\n") {
		line, _, _ = strings.Cut(line, "#")
		for i, f := range strings.Fields(line) {
			if i > 0 && f == n.Name {
				return nil
			}
		}
	}
	if len(old) > 0 && !bytes.HasSuffix(old, []byte("\n")) {
		old = append(old, '\n')
	}
	return r.write(hostsFile, 0o644, append(old, fmt.Sprintf("%s %s\n", n.Address, n.Name)...))
}

// write replaces a file as a whole: written beside it, synced, renamed, and the directory synced.
func (r Runner) write(name string, mode os.FileMode, data []byte) error {
	name = r.at(name)
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".slipway-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (r Runner) at(name string) string { return filepath.Join(r.Root, name) }
