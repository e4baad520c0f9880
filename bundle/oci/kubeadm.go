package oci

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
)

// kubernetesRegistry is kubeadm's default imageRepository (v1beta4 defaults.go).
const kubernetesRegistry = "registry.k8s.io"

// KubeadmImages lists the images that kubeadm of a Kubernetes version wants on
// a control plane, in the order of `kubeadm config images list`. The tags of
// CoreDNS, pause and etcd are read from kubeadm's own source, found in
// moduleDir, an unpacked module k8s.io/kubernetes: nobody has to type them.
func KubeadmImages(moduleDir, version string) ([]Ref, error) {
	file := filepath.Join(moduleDir, "cmd/kubeadm/app/constants/constants.go")
	c, err := parseConstants(file)
	if err != nil {
		return nil, fmt.Errorf("images of kubeadm %s: %w", version, err)
	}
	etcd, err := c.etcd(version)
	if err != nil {
		return nil, fmt.Errorf("images of kubeadm %s: %s: %w", version, file, err)
	}
	for _, name := range []string{"CoreDNSVersion", "PauseVersion"} {
		if c.strings[name] == "" {
			return nil, fmt.Errorf("images of kubeadm %s: %s: no constant %q", version, file, name)
		}
	}
	tag := strings.ReplaceAll(version, "+", "_") // kubeadm util.KubernetesVersionToImageTag
	var out []Ref
	for _, image := range []string{
		"kube-apiserver:" + tag, "kube-controller-manager:" + tag, "kube-scheduler:" + tag, "kube-proxy:" + tag,
		"coredns/coredns:" + c.strings["CoreDNSVersion"], "pause:" + c.strings["PauseVersion"], "etcd:" + etcd,
	} {
		r, err := ParseRef(kubernetesRegistry + "/" + image)
		if err != nil {
			return nil, fmt.Errorf("images of kubeadm %s: %w", version, err)
		}
		out = append(out, r)
	}
	return out, nil
}

type constants struct {
	strings   map[string]string
	supported map[int]string // SupportedEtcdVersion: Kubernetes minor to etcd image tag
}

func parseConstants(file string) (constants, error) {
	c := constants{strings: map[string]string{}, supported: map[int]string{}}
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		return c, err
	}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, name := range spec.Names {
			if i >= len(spec.Values) {
				break
			}
			switch v := spec.Values[i].(type) {
			case *ast.BasicLit:
				if s, err := strconv.Unquote(v.Value); err == nil && v.Kind == token.STRING {
					c.strings[name.Name] = s
				}
			case *ast.CompositeLit:
				if name.Name == "SupportedEtcdVersion" {
					c.addSupported(v)
				}
			}
		}
		return false
	})
	return c, nil
}

func (c constants) addSupported(lit *ast.CompositeLit) {
	for _, el := range lit.Elts {
		kv, ok := el.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		k, kok := kv.Key.(*ast.BasicLit)
		v, vok := kv.Value.(*ast.BasicLit)
		if !kok || !vok {
			continue
		}
		minor, err1 := strconv.Atoi(k.Value)
		tag, err2 := strconv.Unquote(v.Value)
		if err1 == nil && err2 == nil {
			c.supported[minor] = tag
		}
	}
}

// etcd repeats kubeadm's choice (constants.EtcdSupportedVersion): the entry of
// the Kubernetes minor version, or the nearest one in the table.
func (c constants) etcd(version string) (string, error) {
	parts := strings.Split(strings.TrimPrefix(version, "v"), ".")
	if len(parts) != 3 {
		return "", fmt.Errorf("version %q: want vX.Y.Z", version)
	}
	minor, err := strconv.Atoi(parts[1])
	if err != nil {
		return "", fmt.Errorf("version %q: want vX.Y.Z", version)
	}
	best := -1
	for m := range c.supported {
		if best < 0 || dist(m, minor) < dist(best, minor) {
			best = m
		}
	}
	if best >= 0 {
		return c.supported[best], nil
	}
	if v := c.strings["DefaultEtcdVersion"]; v != "" {
		return v, nil
	}
	return "", fmt.Errorf("neither %q nor %q", "SupportedEtcdVersion", "DefaultEtcdVersion")
}

func dist(a, b int) int {
	if a < b {
		return b - a
	}
	return a - b
}
