package kubeadm

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func certificate(t *testing.T, ca bool, from, to time.Time) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: to, IsCA: ca, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestRenew(t *testing.T) {
	now := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	conf := func(to time.Time) string {
		return "users:\n- user: {client-certificate-data: " + base64.StdEncoding.EncodeToString([]byte(certificate(t, false, now.Add(-day), to))) + "}\n"
	}
	const renew = "certs renew all --config /etc/kubernetes/kubeadm.yaml"
	const kubelet = "init phase kubeconfig kubelet --config /etc/kubernetes/kubeadm.yaml"
	for _, c := range []struct {
		name    string
		server  time.Time // end of apiserver.crt, valid for a year
		admin   time.Time
		kubelet time.Time
		fail    bool
		want    []string
	}{
		{"young", now.Add(200 * day), now.Add(200 * day), now.Add(100 * day), false, nil},
		{"a server's ends soon", now.Add(59 * day), now.Add(200 * day), now.Add(100 * day), false, []string{renew}},
		{"a kubeconfig's ends soon", now.Add(200 * day), now.Add(10 * time.Hour), now.Add(100 * day), false, []string{renew}},
		{"the machine was off for a year", now.Add(-day), now.Add(-day), now.Add(-day), false, []string{renew, kubelet}},
		{"only kubelet's has ended", now.Add(200 * day), now.Add(200 * day), now.Add(-day), false, []string{kubelet}},
		{"kubeadm refuses", now.Add(time.Hour), now.Add(200 * day), now.Add(day), true, []string{renew}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			s.put(doneMarker, "v1.37.1\n")
			s.controlPlane(now.Add(-day), now.Add(200*day), t)
			s.put(pkiDir+"/ca.crt", certificate(t, true, now.Add(-9*day), now.Add(day)))
			s.put(pkiDir+"/apiserver.crt", certificate(t, false, c.server.Add(-365*day), c.server))
			s.put(adminConf, conf(c.admin))
			s.put(kubeletKubeconfig, "users:\n- user: {client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem}\n")
			s.put(kubeletClient, certificate(t, false, c.kubelet.Add(-365*day), c.kubelet))
			s.put(manifestDir+"/etcd.yaml", "kind: Pod\nmetadata:\n  name: etcd\n  annotations: {a: b}\nspec: {}\n")
			r := s.runner()
			var ran []string
			r.Exec = func(_ context.Context, cmd *exec.Cmd, _ func(string)) error {
				args := strings.ReplaceAll(strings.Join(cmd.Args[1:], " "), s.root, "")
				ran = append(ran, args)
				if args == kubelet {
					s.put(kubeletKubeconfig, "users: []\n")
				}
				if c.fail {
					return errors.New("exit status 1")
				}
				return nil
			}
			_, err := r.Renew(t.Context(), now)
			if (err != nil) != c.fail {
				t.Errorf("error %v", err)
			}
			if !slices.Equal(ran, c.want) {
				t.Errorf("ran %q, want %q", ran, c.want)
			}
			marked := strings.Contains(s.read(manifestDir+"/etcd.yaml"), "slipway.dev/renewed: \"2026-11-21T00:00:00Z\"")
			if want := !c.fail && slices.Contains(c.want, renew); marked != want {
				t.Errorf("manifest marked: %v, want %v\n%s", marked, want, s.read(manifestDir+"/etcd.yaml"))
			}
		})
	}
	s := newSite(t)
	if _, err := s.runner().Renew(t.Context(), now); err != nil || len(s.ran) > 0 {
		t.Errorf("without a cluster: %v, ran %q", err, s.ran)
	}
}

// controlPlane puts everything that a control plane with its own etcd reads.
func (s *site) controlPlane(from, to time.Time, t *testing.T) {
	one := certificate(t, false, from, to)
	for _, f := range []string{"apiserver-kubelet-client", "front-proxy-client", "apiserver-etcd-client", "etcd/server", "etcd/peer", "etcd/healthcheck-client"} {
		s.put(pkiDir+"/"+f+".crt", one)
		s.put(pkiDir+"/"+f+".key", "a key\n")
	}
	s.put(pkiDir+"/apiserver.key", "a key\n")
	for _, f := range []string{"controller-manager", "scheduler"} {
		s.put("/etc/kubernetes/"+f+".conf", "users: []\n")
	}
	s.put(manifestDir+"/etcd.yaml", "kind: Pod\nmetadata: {name: etcd}\n")
}

// TestRestore takes files away as a power cut does while kubeadm renews: they
// are empty, and the boot after it removes them.
func TestRestore(t *testing.T) {
	now := time.Now()
	const certs, conf = "init phase certs all", "init phase kubeconfig "
	var all []string
	for _, f := range []string{"apiserver", "apiserver-kubelet-client", "front-proxy-client", "apiserver-etcd-client", "etcd/server", "etcd/peer", "etcd/healthcheck-client"} {
		all = append(all, pkiDir+"/"+f+".crt", pkiDir+"/"+f+".key")
	}
	for name, c := range map[string]struct {
		empty []string
		etcd  bool // on this node
		want  []string
	}{
		"nothing":           {nil, true, nil},
		"two certificates":  {[]string{pkiDir + "/apiserver.crt", pkiDir + "/etcd/peer.crt"}, true, []string{certs}},
		"every kind":        {[]string{pkiDir + "/front-proxy-client.crt", adminConf, "/etc/kubernetes/scheduler.conf"}, true, []string{certs, conf + "admin", conf + "scheduler"}},
		"a key":             {[]string{pkiDir + "/apiserver.key"}, true, []string{certs}},
		"all":               {all, true, []string{certs}},
		"kubelet's":         {[]string{kubeletKubeconfig}, true, []string{conf + "kubelet"}},
		"an etcd elsewhere": {[]string{pkiDir + "/etcd/server.crt", pkiDir + "/apiserver-etcd-client.crt"}, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.put(doneMarker, "v1.37.1\n")
			s.controlPlane(now.Add(-time.Hour), now.AddDate(1, 0, 0), t)
			s.put(pkiDir+"/apiserver.crt", certificate(t, false, now.Add(-time.Hour), now.AddDate(1, 0, 0)))
			s.put(adminConf, "users: []\n")
			s.put(kubeletKubeconfig, "users: []\n")
			if !c.etcd {
				s.put(manifestDir+"/etcd.yaml", "") // Repair removes it
			}
			for _, f := range c.empty {
				s.put(f, "")
			}
			r := s.runner()
			var ran []string
			r.Exec = func(_ context.Context, cmd *exec.Cmd, _ func(string)) error {
				ran = append(ran, strings.TrimSuffix(strings.ReplaceAll(strings.Join(cmd.Args[1:], " "), s.root, ""), " --config /etc/kubernetes/kubeadm.yaml"))
				return nil
			}
			if err := r.Repair(); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Renew(t.Context(), now); err != nil {
				t.Error(err)
			}
			if !slices.Equal(ran, c.want) {
				t.Errorf("ran %q, want %q", ran, c.want)
			}
		})
	}
}

func TestRepairRemovesTheCertificateOfALostCA(t *testing.T) {
	now := time.Now()
	year := 365 * 24 * time.Hour
	ca := certificate(t, true, now.Add(-time.Hour), now.Add(10*year))
	for name, c := range map[string]struct {
		ca, kubelet string
		kept        bool
	}{
		"of this CA":          {ca, ca, true}, // self-signed: its own issuer
		"of another CA":       {ca, certificate(t, true, now.Add(-time.Hour), now.Add(year)), false},
		"whose CA is not yet": {"", ca, false},
		"cut in half":         {ca, ca[:100], false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.put(pkiDir+"/ca.crt", c.ca)
			s.put(kubeletClient, c.kubelet)
			if err := s.runner().Repair(); err != nil {
				t.Fatal(err)
			}
			if got := exists(s.root + kubeletClient); got != c.kept {
				t.Errorf("kept: %v, want %v", got, c.kept)
			}
		})
	}
}
