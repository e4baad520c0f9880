// Package examples holds commented starting files for people. A test in
// configs parses each of them.
//
// It does not hold defaults: what is not written in a file has its default in
// configs.
package examples

import "embed"

// Files are bundle.yaml with the NoCloud files it names.
//
//go:embed bundle.yaml user-data meta-data network-config
var Files embed.FS
