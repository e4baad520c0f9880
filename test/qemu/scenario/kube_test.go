package scenario

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"

	"sigs.k8s.io/yaml"
)

// kubeClient speaks to the cluster of a kubeconfig with one cluster and one
// user, from the computer that dial belongs to.
func kubeClient(file string, dial func(ctx context.Context, network, address string) (net.Conn, error)) (*http.Client, string, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, "", err
	}
	var k struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
				CA     []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Cert []byte `json:"client-certificate-data"`
				Key  []byte `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := yaml.Unmarshal(raw, &k); err != nil || len(k.Clusters) != 1 || len(k.Users) != 1 {
		return nil, "", fmt.Errorf("%s: want one cluster and one user: %w", file, err)
	}
	cert, err := tls.X509KeyPair(k.Users[0].User.Cert, k.Users[0].User.Key)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", file, err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(k.Clusters[0].Cluster.CA)
	return &http.Client{Transport: &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}}}, k.Clusters[0].Cluster.Server, nil
}
