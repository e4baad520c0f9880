// Package skew says which Kubernetes version a node may take after the one it
// runs, and which bundle after which.
//
// It reads nothing and changes nothing: whoever knows the versions asks before
// the first byte is written.
package skew

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// mostBehind is how many minors a kubelet may be older than its API server
// (kubernetes.io/releases/version-skew-policy, since 1.28).
const mostBehind = 3

// ErrMinor is why a node may not go on by itself that was left behind: what is between
// has to be taken first, or the node installed anew.
var ErrMinor = errors.New("one minor at a time")

// version is MAJOR.MINOR.PATCH; what follows a hyphen or a plus is not compared.
type version struct{ major, minor, patch int }

func parse(what, s string) (version, error) {
	text, _, _ := strings.Cut(strings.TrimPrefix(s, "v"), "+")
	text, _, _ = strings.Cut(text, "-")
	parts := strings.Split(text, ".")
	var n [3]int
	for i, p := range parts {
		v, err := strconv.Atoi(p)
		if len(parts) != 3 || err != nil || v < 0 || len(p) > 4 {
			return version{}, fmt.Errorf("%s %q: want a version like v1.37.1", what, s)
		}
		n[i] = v
	}
	return version{n[0], n[1], n[2]}, nil
}

func (v version) compare(o version) int {
	return cmp.Or(cmp.Compare(v.major, o.major), cmp.Compare(v.minor, o.minor), cmp.Compare(v.patch, o.patch))
}

// Check says why a node that runs Kubernetes have may not go to want; nil when it
// may. ControlPlane is the version that the API servers run, for a worker; "" for
// a control plane itself. Versions are like "v1.37.1".
//
//   - never down: kubeadm and etcd's data know no way back
//   - one minor at a time (kubeadm upgrade skips none)
//   - a worker never newer than the control plane, nor more than three minors older
func Check(have, want, controlPlane string) error {
	h, err := parse("the node's Kubernetes", have)
	if err != nil {
		return err
	}
	w, err := parse("the bundle's Kubernetes", want)
	if err != nil {
		return err
	}
	switch {
	case w.compare(h) < 0:
		return fmt.Errorf("from Kubernetes %s to %s: it never goes back", have, want)
	case w.major != h.major || w.minor > h.minor+1:
		return fmt.Errorf("from Kubernetes %s to %s: %w, v%d.%d first", have, want, ErrMinor, h.major, h.minor+1)
	}
	if controlPlane == "" {
		return nil
	}
	c, err := parse("the control plane's Kubernetes", controlPlane)
	if err != nil {
		return err
	}
	if w.compare(c) > 0 {
		return fmt.Errorf("a worker with Kubernetes %s and a control plane with %s: upgrade the control plane first", want, controlPlane)
	}
	return behind(w, c, want, controlPlane)
}

// Behind says why a control plane may not go to want while a worker runs have.
func Behind(have, want string) error {
	h, err := parse("the worker's Kubernetes", have)
	if err != nil {
		return err
	}
	w, err := parse("the bundle's Kubernetes", want)
	if err != nil {
		return err
	}
	return behind(h, w, have, want)
}

func behind(worker, plane version, w, p string) error {
	if worker.major != plane.major || worker.minor+mostBehind < plane.minor {
		return fmt.Errorf("a worker with Kubernetes %s and a control plane with %s: at most %d minors between them, upgrade the worker first", w, p, mostBehind)
	}
	return nil
}

// Bundle says why a node that runs the bundle have may not go to want; nil when it
// may. Both are a name and a serial number, as handoff.Facts.Bundle has them.
func Bundle(have, want string) error {
	hn, hs, err := split(have)
	if err != nil {
		return err
	}
	wn, ws, err := split(want)
	switch {
	case err != nil:
		return err
	case hn != wn:
		return fmt.Errorf("bundle %q after %q: another name, whose serial numbers say nothing of this one's", want, have)
	case ws < hs:
		return fmt.Errorf("bundle %q after %q: the serial number never goes back", want, have)
	}
	return nil
}

func split(s string) (name string, serial uint64, err error) {
	i := strings.LastIndexByte(s, ' ')
	if i > 0 {
		serial, err = strconv.ParseUint(s[i+1:], 10, 64)
	}
	if i <= 0 || err != nil {
		return "", 0, fmt.Errorf("bundle %q: want a name and a serial number", s)
	}
	return s[:i], serial, nil
}
