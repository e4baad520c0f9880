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

	"github.com/spf13/cobra"

	"slipway.dev/slipway/bundle/lock"
)

// signingKey reads the ed25519 seed (64 hex characters) that signs bundles. A
// missing default key is made and announced; a missing named one is an error.
func (a *app) signingKey(name string) (ed25519.PrivateKey, error) {
	named := name != ""
	if !named {
		var err error
		if name, err = defaultKey(); err != nil {
			return nil, err
		}
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

// defaultKey is where this user's own signing key is, or will be.
func defaultKey() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", usageError{fmt.Errorf("%w (or give --key FILE)", err)}
	}
	return filepath.Join(dir, "slipway", "bundle.key"), nil
}

func (a *app) keygenCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make the key that signs bundles",
		Long: `Keygen writes an ed25519 private key for "slipway build --key", and beside it the
public key (.pub) that nodes and "slipway verify --pub" trust. Keep the private
key where bundles are built; no node and no seed needs it.`,
		Example: "  slipway keygen --out release.key\n  slipway build -f bundle.yaml --key release.key",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			if _, err := os.Lstat(out); err == nil {
				return fmt.Errorf("%s exists; a key is never overwritten", out)
			}
			key, err := a.newKey(out)
			if err != nil {
				return err
			}
			pub := fmt.Sprintf("%x", key.Public())
			if err := lock.WriteFile(out+".pub", []byte(pub+"\n"), 0o644); err != nil {
				return fmt.Errorf("public key: %w", err)
			}
			return a.show(map[string]string{"key": out, "public": pub}, func() { fmt.Fprintln(a.out, pub) })
		},
	}
	cmd.Flags().StringVar(&out, "out", "bundle.key", "the private key; the public one gets .pub")
	return cmd
}

// publicKey reads 64 hex characters.
func publicKey(name string) (ed25519.PublicKey, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("public key %s: want %d hex characters", name, 2*ed25519.PublicKeySize)
	}
	return key, nil
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
