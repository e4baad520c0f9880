package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"slipway.dev/slipway/bundle/lock"
)

// signingKey reads the ed25519 seed (64 hex characters) that signs bundles. A
// missing default key is made and announced; a missing named one is an error.
func (a *app) signingKey(name string) (ed25519.PrivateKey, error) {
	named := name != ""
	if !named {
		dir, err := os.UserConfigDir()
		if err != nil {
			return nil, usageError{fmt.Errorf("%w (or give --key FILE)", err)}
		}
		name = filepath.Join(dir, "slipway", "bundle.key")
	}
	raw, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return a.newKey(name)
	}
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	seed, err := hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("signing key %s: want %d hex characters", name, 2*ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

func (a *app) newKey(name string) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	if err := lock.WriteFile(name, fmt.Appendf(nil, "%x\n", key.Seed()), 0o600); err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	fmt.Fprintf(a.err, "made a signing key: %s (keep it; nodes trust what it signed)\n", name)
	return key, nil
}
