// Package lock holds the values that name content: Digest, the Lock written by
// `slipway lock`, and the signed Manifest that a node trusts.
//
// It does not fetch, build or open any of the content it names.
package lock
