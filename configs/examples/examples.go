// Package examples holds commented starting files for people. A test in
// configs parses each of them.
//
// It does not hold defaults: what is not written in a file has its default in
// configs.
package examples

import "embed"

// Files are bundle.yaml with the NoCloud files it names, and cluster.yaml.
//
//go:embed bundle.yaml cluster.yaml user-data meta-data network-config
var Files embed.FS
