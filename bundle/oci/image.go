package oci

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/configs/arch"
)

// Image is a container image: layers shared with others below, its own on top.
type Image struct {
	Ref    Ref
	Arch   arch.Arch
	Layers []Layer // lowest first
	Config Config
}

// Config is what a container of the image runs when the pod does not say otherwise.
type Config struct {
	Entrypoint []string
	Cmd        []string
	Env        []string // "NAME=value"
	User       string   // "65532:65532"; "" is root
	WorkDir    string   // "" is "/"
}

// Documents are the two JSON files of an image; the manifest names the config
// by digest and its digest is the image's.
type Documents struct {
	Manifest []byte
	Config   []byte
}

// Digest of the manifest: what lock.Image and "crictl images --digests" call the image.
func (d Documents) Digest() lock.Digest { return lock.SumBytes(d.Manifest) }

// Documents renders the config and the manifest (OCI image spec 1.1, config.md
// and manifest.md). Layers are described as plain tars by their diffID, so that
// the images stay valid for any client should the tars be made one day.
func (i Image) Documents() (Documents, error) {
	if i.Ref == "" || i.Arch == "" || len(i.Layers) == 0 {
		return Documents{}, fmt.Errorf("image %q: needs a reference, an architecture and a layer", i.Ref)
	}
	created := Epoch()
	cfg := ocispec.Image{
		Created:  &created,
		Platform: ocispec.Platform{Architecture: i.Arch.Go(), OS: "linux"},
		Config: ocispec.ImageConfig{Entrypoint: i.Config.Entrypoint, Cmd: i.Config.Cmd, Env: i.Config.Env,
			User: i.Config.User, WorkingDir: i.Config.WorkDir},
		RootFS: ocispec.RootFS{Type: "layers"},
	}
	if cfg.Config.WorkingDir == "" {
		cfg.Config.WorkingDir = "/"
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range i.Layers {
		d := digest.Digest(l.DiffID.OCI())
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, d)
		cfg.History = append(cfg.History, ocispec.History{Created: &created, CreatedBy: "slipway"})
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: l.TarSize})
	}
	var out Documents
	var err error
	if out.Config, err = json.Marshal(cfg); err != nil {
		return out, fmt.Errorf("image %q: %w", i.Ref, err)
	}
	m.Config = descriptor(ocispec.MediaTypeImageConfig, out.Config)
	if out.Manifest, err = json.Marshal(m); err != nil {
		return out, fmt.Errorf("image %q: %w", i.Ref, err)
	}
	return out, nil
}

// Locked is the image as the lock names it.
func (i Image) Locked() (lock.Image, error) {
	d, err := i.Documents()
	if err != nil {
		return lock.Image{}, err
	}
	out := lock.Image{Ref: string(i.Ref), Arch: i.Arch, Digest: d.Digest()}
	for _, l := range i.Layers {
		out.Layers = append(out.Layers, l.DiffID)
	}
	return out, nil
}

func descriptor(mediaType string, b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.Digest(lock.SumBytes(b).OCI()), Size: int64(len(b))}
}
