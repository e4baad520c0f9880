package oci

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"sort"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// annotationName is how containerd's importer learns an image's full name
// (containerd core/images, AnnotationImageName); OCI's own annotation below may
// hold a mere tag.
const annotationName = "io.containerd.image.name"

// WriteMetadataArchive writes an OCI image layout as a tar, with the manifests
// and configs of the images and without a single layer. It imports with
//
//	ctr -n k8s.io images import --snapshotter erofs FILE
//
// when each layer is in a directory of the erofs snapshotter's
// layer_content_caches; containerd then mounts the layers from there.
func WriteMetadataArchive(w io.Writer, images []Image) error {
	images = append([]Image(nil), images...)
	sort.Slice(images, func(i, j int) bool { return images[i].Ref < images[j].Ref })
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	blobs := map[string][]byte{}
	for i, im := range images {
		if i > 0 && images[i-1].Ref == im.Ref {
			return fmt.Errorf("image archive: %q is there twice", im.Ref)
		}
		d, err := im.Documents()
		if err != nil {
			return fmt.Errorf("image archive: %w", err)
		}
		m := descriptor(ocispec.MediaTypeImageManifest, d.Manifest)
		c := descriptor(ocispec.MediaTypeImageConfig, d.Config)
		blobs["blobs/sha256/"+m.Digest.Encoded()] = d.Manifest
		blobs["blobs/sha256/"+c.Digest.Encoded()] = d.Config
		m.Platform = &ocispec.Platform{Architecture: im.Arch.Go(), OS: "linux"}
		m.Annotations = map[string]string{annotationName: string(im.Ref), ocispec.AnnotationRefName: string(im.Ref)}
		index.Manifests = append(index.Manifests, m)
	}
	var err error
	if blobs[ocispec.ImageIndexFile], err = json.Marshal(index); err != nil {
		return fmt.Errorf("image archive: %w", err)
	}
	if blobs[ocispec.ImageLayoutFile], err = json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}); err != nil {
		return fmt.Errorf("image archive: %w", err)
	}
	if err := writeFiles(w, blobs); err != nil {
		return fmt.Errorf("image archive: %w", err)
	}
	return nil
}

func writeFiles(w io.Writer, files map[string][]byte) error {
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	sort.Strings(names)
	tw := tar.NewWriter(w)
	for _, n := range names {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: n, Mode: 0o644, Size: int64(len(files[n])), ModTime: Epoch()}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := tw.Write(files[n]); err != nil {
			return err
		}
	}
	return tw.Close()
}
