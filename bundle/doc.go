// Package bundle decides what a bundle is made of (Resolve), brings it here
// (Fetch) and makes its images. It is the only package that talks to the
// internet, and after Fetch nothing does.
//
// It does not know ISO, netboot or nodes: images turns locked content into media.
package bundle
