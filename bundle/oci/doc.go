// Package oci makes container images out of files: a layer as an EROFS blob
// named by the digest of the tar it stands for, image configs and manifests,
// and the archive of metadata that containerd imports without any layer.
//
// It does not talk to a registry, does not read packages or clusters, and never
// stores a layer's tar: the tar only exists as a stream into its digest.
package oci
