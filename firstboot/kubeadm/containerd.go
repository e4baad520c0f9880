package kubeadm

import (
	"fmt"
	"strings"
	"text/template"

	_ "embed"

	"slipway.dev/slipway/configs/arch"
)

//go:embed containerd.toml
var containerdTemplate string

// Runtime says where containerd keeps and finds things. Zero fields have the
// defaults written beside them.
type Runtime struct {
	Arch    arch.Arch
	Sandbox string // the pause image as kubeadm names it: "registry.k8s.io/pause:3.10.2"
	Layers  string // directory of EROFS layers, not on overlayfs; /run/slipway/layers
	Root    string // /var/lib/containerd
	State   string // /run/containerd
	Socket  string // /run/containerd/containerd.sock
	Runc    string // /usr/bin/runc
}

// ContainerdConfig renders /etc/containerd/config.toml.
func ContainerdConfig(r Runtime) ([]byte, error) {
	if r.Arch == "" || r.Sandbox == "" {
		return nil, fmt.Errorf("containerd config: architecture %q and sandbox image %q must be known", r.Arch, r.Sandbox)
	}
	or := func(v, def string) string {
		if v == "" {
			return def
		}
		return v
	}
	values := map[string]string{
		"Root": or(r.Root, "/var/lib/containerd"), "State": or(r.State, "/run/containerd"),
		"Socket": or(r.Socket, "/run/containerd/containerd.sock"), "Layers": or(r.Layers, "/run/slipway/layers"),
		"Runc": or(r.Runc, runcProgram), "Sandbox": r.Sandbox, "Platform": "linux/" + r.Arch.Go(),
	}
	for k, v := range values {
		if strings.ContainsAny(v, "'\n\r") { // TOML 1.0, literal strings
			return nil, fmt.Errorf("containerd config: %s %q has a quote or a line break", k, v)
		}
		values[k] = "'" + v + "'"
	}
	t, err := template.New("containerd.toml").Parse(containerdTemplate)
	if err != nil {
		return nil, fmt.Errorf("containerd config: %w", err)
	}
	var b strings.Builder
	if err := t.Execute(&b, values); err != nil {
		return nil, fmt.Errorf("containerd config: %w", err)
	}
	return []byte(b.String()), nil
}
