package serve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"sigs.k8s.io/yaml"

	"slipway.dev/slipway/configs/handoff"
)

// reach waits for the cluster of this machine and tells the seed of it, and of
// every renewal of the admin's certificate: this seed may run for years.
func (s *Server) reach(ctx context.Context) error {
	for told := ""; ; {
		k, err := clusterOf(s.o.Kubeconfig)
		if err == nil {
			err = s.Reach(k) // nothing, if it is what is known
		}
		pause := reachEvery
		if err != nil {
			pause = time.Second
		}
		if err == nil {
			told = ""
		} else if !errors.Is(err, fs.ErrNotExist) && err.Error() != told {
			told = err.Error()
			s.say("SW-SEED-SELF", "this machine's cluster: %v", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

const reachEvery = time.Minute

// clusterOf reads what joining nodes and the operator need from an admin's kubeconfig.
func clusterOf(file string) (handoff.Cluster, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return handoff.Cluster{}, err
	}
	var k struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
				CA     []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
	}
	if err := yaml.Unmarshal(raw, &k); err != nil { // kubeadm writes it in place; its text may hold what the file holds
		return handoff.Cluster{}, fmt.Errorf("%s: not a kubeconfig yet", file)
	}
	if len(k.Clusters) != 1 {
		return handoff.Cluster{}, fmt.Errorf("%s: %d clusters, want one", file, len(k.Clusters))
	}
	c := k.Clusters[0].Cluster
	return handoff.Cluster{Server: c.Server, CA: string(c.CA), Kubeconfig: string(raw)}, nil
}
