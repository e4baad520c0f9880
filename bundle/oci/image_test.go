package oci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestParseRef(t *testing.T) {
	for _, c := range []struct{ in, want, err string }{
		{"registry.k8s.io/coredns/coredns:v1.14.6", "registry.k8s.io/coredns/coredns:v1.14.6", ""},
		{"busybox:1.37", "docker.io/library/busybox:1.37", ""},
		{"busybox", "", "has no tag"},
		{"example.org/UPPER:1", "", "must be lowercase"},
		{"a/b@sha256:" + strings.Repeat("0", 64), "", "write a tag only"},
	} {
		got, err := ParseRef(c.in)
		if string(got) != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: got %q, %v; want %q, %q", c.in, got, err, c.want, c.err)
		}
	}
	r := Ref("localhost:5000/a/b:v1")
	if r.Registry() != "localhost:5000" || r.Repository() != "a/b" || r.Tag() != "v1" || r.Name() != "b" {
		t.Errorf("parts of %s: %q %q %q %q", r, r.Registry(), r.Repository(), r.Tag(), r.Name())
	}
}

func images() []Image {
	base := Layer{DiffID: lock.SumBytes([]byte("base")), TarSize: 1024}
	own := Layer{DiffID: lock.SumBytes([]byte("own")), TarSize: 2048}
	return []Image{
		{Ref: "registry.k8s.io/pause:3.10.2", Arch: arch.AMD64, Layers: []Layer{own}, Config: Config{Entrypoint: []string{"/pause"}, User: "65535:65535"}},
		{Ref: "example.org/two:1", Arch: arch.AMD64, Layers: []Layer{base, own}, Config: Config{Cmd: []string{"a"}, Env: []string{"B=c"}, WorkDir: "/d"}},
	}
}

func TestMetadataArchive(t *testing.T) {
	var buf bytes.Buffer
	if err := WriteMetadataArchive(&buf, images()); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	var listing bytes.Buffer
	for tr := tar.NewReader(&buf); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(tr)
		files[h.Name] = b
		listing.WriteString(h.Name + "\n" + string(b) + "\n")
		if hex, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok && hex != string(lock.SumBytes(b)) {
			t.Errorf("%s holds %s", h.Name, lock.SumBytes(b))
		}
	}
	golden(t, "archive.txt", listing.Bytes())
	var index ocispec.Index
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"example.org/two:1", "registry.k8s.io/pause:3.10.2"} {
		d := index.Manifests[i]
		if got := d.Annotations["io.containerd.image.name"]; got != want {
			t.Errorf("manifest %d: name got %q, want %q", i, got, want)
		}
		if files["blobs/sha256/"+d.Digest.Encoded()] == nil {
			t.Errorf("manifest %s is not in the archive", d.Digest)
		}
	}
	if len(files) != 2+2*2 {
		t.Errorf("got %d files, want index, layout and two per image: no layers", len(files))
	}
}

func TestMetadataArchiveRefuses(t *testing.T) {
	twice := append(images(), images()[0])
	if err := WriteMetadataArchive(io.Discard, twice); err == nil || !strings.Contains(err.Error(), `"registry.k8s.io/pause:3.10.2" is there twice`) {
		t.Errorf("got %v", err)
	}
	if err := WriteMetadataArchive(io.Discard, []Image{{Ref: "a/b:1", Arch: arch.AMD64}}); err == nil || !strings.Contains(err.Error(), "a layer") {
		t.Errorf("got %v", err)
	}
}

const constantsSource = `package constants
const (
	DefaultEtcdVersion = "3.9.9-0"
	CoreDNSVersion = "v1.2.3"
	PauseVersion = "3.10"
)
var SupportedEtcdVersion = map[uint8]string{35: "3.5.0-0", 36: "3.6.0-0"}
`

func TestKubeadmImagesFromSource(t *testing.T) {
	dir := t.TempDir()
	write := func(src string) {
		file := filepath.Join(dir, "cmd/kubeadm/app/constants/constants.go")
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(src), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ name, src, version, etcd, err string }{
		{"in the table", constantsSource, "v1.35.4", "registry.k8s.io/etcd:3.5.0-0", ""},
		{"newer than the table", constantsSource, "v1.37.1", "registry.k8s.io/etcd:3.6.0-0", ""},
		{"older than the table", constantsSource, "v1.30.0", "registry.k8s.io/etcd:3.5.0-0", ""},
		{"no table", strings.Replace(constantsSource, "SupportedEtcdVersion", "Other", 1), "v1.37.1", "registry.k8s.io/etcd:3.9.9-0", ""},
		{"no pause", strings.Replace(constantsSource, "PauseVersion", "Other", 1), "v1.37.1", "", `no constant "PauseVersion"`},
		{"not a version", constantsSource, "1.37", "", `version "1.37": want vX.Y.Z`},
	} {
		t.Run(c.name, func(t *testing.T) {
			write(c.src)
			got, err := KubeadmImages(dir, c.version)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != 7 || string(got[6]) != c.etcd || got[4] != "registry.k8s.io/coredns/coredns:v1.2.3" {
				t.Errorf("got %q", got)
			}
		})
	}
}

// TestKubeadmImagesOfTheModule reads the real source when this machine has it.
func TestKubeadmImagesOfTheModule(t *testing.T) {
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "k8s.io/kubernetes@v1.37.1")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("module k8s.io/kubernetes v1.37.1 is not in the module cache: %v", err)
	}
	got, err := KubeadmImages(dir, "v1.37.1")
	if err != nil {
		t.Fatal(err)
	}
	// `kubeadm config images list --kubernetes-version v1.37.1` of the same version.
	want := []Ref{"registry.k8s.io/kube-apiserver:v1.37.1", "registry.k8s.io/kube-controller-manager:v1.37.1",
		"registry.k8s.io/kube-scheduler:v1.37.1", "registry.k8s.io/kube-proxy:v1.37.1",
		"registry.k8s.io/coredns/coredns:v1.14.6", "registry.k8s.io/pause:3.10.2", "registry.k8s.io/etcd:3.7.0-0"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestKubernetesImages(t *testing.T) {
	specs, err := KubernetesImages([]Ref{"registry.k8s.io/kube-proxy:v1", "registry.k8s.io/coredns/coredns:v1", "registry.k8s.io/etcd:3"}, "ghcr.io/flannel-io/flannel:v0.26.7")
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.MarshalIndent(specs, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "specs.json", append(b, '\n'))
	if _, err := specs[1].Entries(nil); err == nil || !strings.Contains(err.Error(), `program "coredns" was not built`) {
		t.Errorf("got %v", err)
	}
	if _, err := KubernetesImages([]Ref{"registry.k8s.io/other:1"}, "x/y:1"); err == nil || !strings.Contains(err.Error(), "no rule says what is in it") {
		t.Errorf("got %v", err)
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs:\ngot\n%s\nwant\n%s", file, got, want)
	}
}
