// Package fleet carries out what the operator wants of nodes that run: it checks
// what an upgrade would do to each of them, and takes nodes out of the cluster
// before they are reimaged or removed.
//
// It does not talk to nodes (package seed does, which keeps their orders), takes
// no member out of etcd, and chooses no moment by itself.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/kube"
)

// Lister reads what the cluster knows.
type Lister interface {
	Nodes(ctx context.Context, c handoff.Cluster) ([]kube.Node, error)
	Pods(ctx context.Context, c handoff.Cluster, node string) ([]kube.Pod, error)
}

// Leaver takes nodes out of it.
type Leaver interface {
	Drain(ctx context.Context, c handoff.Cluster, node string, limit time.Duration, say func(string)) error
	Cordon(ctx context.Context, c handoff.Cluster, node string, on bool) error
	Delete(ctx context.Context, c handoff.Cluster, node string) error
}

// Cluster is what *kube.Kube does.
type Cluster interface {
	Lister
	Leaver
}

var _ Cluster = (*kube.Kube)(nil)

// Fleet is the nodes of one seed. Use New.
type Fleet struct {
	seed *seed.Seed
	kube Cluster
	log  *slog.Logger
}

// New is the fleet of s, whose cluster is asked through k.
func New(s *seed.Seed, k Cluster, log *slog.Logger) *Fleet {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Fleet{s, k, log}
}

// The codes of this package's refusals.
const (
	codeSame    = "SW-ORDER-SAME"          // it has the bundle
	codeSkew    = "SW-ORDER-SKEW"          // versions that may not follow or meet
	codeMemory  = "SW-ORDER-MEMORY"        // not installed on a disk
	codePlane   = "SW-ORDER-CONTROL-PLANE" // the cluster or its quorum would be lost
	codeDrain   = "SW-ORDER-DRAIN"         // pods still stand
	codeCluster = "SW-ORDER-API"           // the API server does not answer
)

// again is how often the API server is asked once more.
const again = 15 * time.Second

// Run deletes the Nodes of machines that were reimaged, before they may join again,
// and of those that were reset, and lets pods come to those that were drained for nothing, until ctx ends: also
// what an earlier run of the seed left to do.
func (f *Fleet) Run(ctx context.Context) error {
	for {
		_, changed := f.seed.Steps(^uint64(0))
		for _, d := range f.seed.Departing() {
			if err := f.leave(ctx, d); err != nil && ctx.Err() == nil {
				f.log.Warn("a Node is not as it should be yet", "node", d.Name, "in", again, "err", err)
				pause := make(chan struct{}) // whatever else happens
				time.AfterFunc(again, func() { close(pause) })
				changed = pause
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

func (f *Fleet) leave(ctx context.Context, d seed.Departing) error {
	k, ok := f.seed.Reached()
	if !ok || f.kube == nil {
		return fmt.Errorf("no cluster is known")
	}
	if !d.Stays {
		if err := f.kube.Delete(ctx, k, d.Name); err != nil {
			return err
		}
		return f.seed.Left(d.ID, d.Order, "its Node was deleted from the cluster")
	}
	nodes, err := f.kube.Nodes(ctx, k)
	if err != nil {
		return err
	}
	n, ok := named(nodes, d.Name)
	if !ok {
		return f.seed.Left(d.ID, d.Order, "it has no Node: restart the machine to bring it back")
	}
	if n.Cordoned {
		if err := f.kube.Cordon(ctx, k, d.Name, false); err != nil {
			return err
		}
	}
	return f.seed.Left(d.ID, d.Order, "its Node takes pods again")
}

// say puts a line into a machine's timeline.
func (f *Fleet) say(id string, format string, args ...any) {
	f.seed.Record(seed.Step{Machine: id, Stage: seed.StageKubernetes, State: string(handoff.Running), Text: fmt.Sprintf(format, args...)})
}

// cluster lists the nodes of the cluster that runs; none without one.
func (f *Fleet) cluster(ctx context.Context) (k handoff.Cluster, nodes []kube.Node, err error) {
	k, ok := f.seed.Reached()
	if !ok || f.kube == nil {
		return k, nil, nil
	}
	nodes, err = f.kube.Nodes(ctx, k)
	if err != nil {
		what := "does not answer"
		if errors.Is(err, seed.ErrCredentials) {
			what = "does not accept this seed"
		}
		err = seed.Refuse(codeCluster, seed.HintAPI(err), "the API server at %s %s: %s", k.Server, what, err)
	}
	return k, nodes, err
}

// planes counts the cluster's control planes, and those that are Ready.
func planes(nodes []kube.Node) (all, ready int) {
	for _, n := range nodes {
		if n.ControlPlane {
			if all++; n.Ready {
				ready++
			}
		}
	}
	return all, ready
}

func isPlane(m seed.Machine) bool { return m.Role == configs.RoleControlPlane }
