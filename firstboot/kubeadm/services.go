package kubeadm

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"slipway.dev/slipway/firstboot/supervise"
)

// Files that `kubeadm init` and `join` write for kubelet.
const (
	kubeletConfig     = "/var/lib/kubelet/config.yaml"
	kubeletFlags      = "/var/lib/kubelet/kubeadm-flags.env"
	kubeletKubeconfig = "/etc/kubernetes/kubelet.conf"
	kubeletBootstrap  = "/etc/kubernetes/bootstrap-kubelet.conf"
)

// KubeletService starts kubelet once kubeadm has written its files and starts
// it again whenever it ends; its flags are read at every start.
func KubeletService() supervise.Service {
	return supervise.Service{
		Name: "kubelet",
		// kubelet ends when containerd does not answer yet, as after a restart of the node.
		When: func() bool { return exists(kubeletConfig) && exists(kubeletFlags) && answers(criSocket) },
		Command: func() (argv, env []string, err error) {
			// kubeadm does not fsync; kubelet does. After a power cut kubelet's
			// certificate would be there and the CA that signed it would not.
			syscall.Sync()
			argv = []string{kubeletProgram, "--config=" + kubeletConfig,
				"--kubeconfig=" + kubeletKubeconfig, "--bootstrap-kubeconfig=" + kubeletBootstrap}
			raw, err := os.ReadFile(kubeletFlags)
			if err != nil {
				return nil, nil, err
			}
			extra, err := parseFlags(string(raw))
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", kubeletFlags, err)
			}
			return append(argv, extra...), nil, nil
		},
	}
}

// ContainerdService is ready when its socket accepts: containerd opens it after
// its plugins are up.
func ContainerdService() supervise.Service {
	return supervise.Service{
		Name: "containerd",
		Argv: []string{containerdProgram, "--config", "/etc/containerd/config.toml"},
		Ready: func(ctx context.Context) error {
			for {
				c, err := (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(criSocket, "unix://"))
				if err == nil {
					return c.Close()
				}
				select {
				case <-ctx.Done():
					return fmt.Errorf("containerd does not answer: %w", err)
				case <-time.After(50 * time.Millisecond):
				}
			}
		},
	}
}

// answers says whether a socket takes connections; url is unix://<path>.
func answers(url string) bool {
	c, err := net.DialTimeout("unix", strings.TrimPrefix(url, "unix://"), time.Second)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// parseFlags reads kubeadm-flags.env: one assignment to KUBELET_KUBEADM_ARGS
// whose double-quoted value holds flags between spaces (kubeadm
// phases/kubelet/flags.go). Single or double quotes inside keep spaces together.
func parseFlags(s string) ([]string, error) {
	const name = "KUBELET_KUBEADM_ARGS="
	for _, line := range strings.Split(s, "\n") {
		v, ok := strings.CutPrefix(strings.TrimSpace(line), name)
		if !ok {
			continue
		}
		if len(v) < 2 || v[0] != '"' || v[len(v)-1] != '"' {
			return nil, fmt.Errorf("value of %q is not in double quotes", strings.TrimSuffix(name, "="))
		}
		return split(strings.ReplaceAll(v[1:len(v)-1], `\"`, `"`))
	}
	return nil, fmt.Errorf("no line begins with %q", name)
}

func split(s string) (out []string, err error) {
	var word strings.Builder
	var quote rune
	inWord := false
	for _, r := range s {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '"' || r == '\'':
			quote, inWord = r, true
		case r == ' ' || r == '\t':
			if inWord {
				out = append(out, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("quote %q is not closed", quote)
	}
	if inWord {
		out = append(out, word.String())
	}
	return out, nil
}
