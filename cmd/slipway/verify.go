package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/images/medium"
)

func (a *app) verifyCommand() *cobra.Command {
	var f projectFlags
	var pub string
	cmd := &cobra.Command{
		Use:   "verify [ISO | DEVICE | NETBOOT-DIR]...",
		Short: "Read finished media, or everything that the lock names, and compare every digest",
		Long: `With arguments, verify opens ISO files, sticks or netboot directories, checks the
signature of each manifest, reads every blob and names what is missing or wrong.
Without, it reads what was fetched for the bundle and compares it with the lock.
It never uses a network.`,
		Example: `  slipway verify out/example-amd64.iso
  slipway verify --pub release.key.pub /dev/sdb
  slipway verify -f bundle.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.verifyCache(cmd.Context(), &f)
			}
			key, err := a.trusted(pub)
			if err != nil {
				return err
			}
			return a.verifyMedia(cmd.Context(), key, args)
		},
	}
	f.register(cmd)
	f.narrow(cmd)
	cmd.Flags().StringVar(&pub, "pub", "", "public key to trust (default: that of the signing key in the user's config directory)")
	return cmd
}

// trusted is the public key given, or that of this user's own signing key.
func (a *app) trusted(name string) (ed25519.PublicKey, error) {
	if name != "" {
		return publicKey(name)
	}
	file, err := defaultKey()
	if err != nil {
		return nil, err
	}
	key, err := a.signingKey(file)
	if err != nil {
		return nil, usageError{fmt.Errorf("%w; give the key to trust with --pub FILE", err)}
	}
	return key.Public().(ed25519.PublicKey), nil
}

// verified is what one medium turned out to hold.
type verified struct {
	Medium string `json:"medium"`
	Bundle string `json:"bundle"`
	Serial uint64 `json:"serial"`
	Arch   string `json:"arch"`
	Blobs  int    `json:"blobs"`
	Bytes  int64  `json:"bytes"` // of the plain blobs
}

func (a *app) verifyMedia(ctx context.Context, key ed25519.PublicKey, names []string) error {
	p := newProgress(a.err)
	var all []verified
	var errs []error
	for _, name := range names {
		v, err := verifyMedium(ctx, p, key, name)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
		all = append(all, v...)
	}
	p.Done()
	err := a.show(all, func() {
		for _, v := range all {
			fmt.Fprintf(a.out, "%s: bundle %q serial %d for %s: signature and %d blobs (%s) are right\n", v.Medium, v.Bundle, v.Serial, v.Arch, v.Blobs, size(v.Bytes))
		}
	})
	return errors.Join(append(errs, err)...)
}

// verifyMedium returns what is right of a medium, one per architecture.
func verifyMedium(ctx context.Context, p *progress, key ed25519.PublicKey, name string) ([]verified, error) {
	m, err := medium.Open(name)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	parts, err := m.Parts()
	if err != nil {
		return nil, err
	}
	var all []verified
	var errs []error
	for _, part := range parts {
		man, err := part.Manifest(key)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		v := verified{name, man.Name, man.Serial, man.Arch.String(), len(man.Blobs), total(man)}
		if err := part.Verify(ctx, man, func(done int64) { p.Step(fmt.Sprintf("verifying %s for %s", name, man.Arch), done, v.Bytes) }); err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, v)
	}
	return all, errors.Join(errs...)
}

func total(m *lock.Manifest) (n int64) {
	seen := map[string]bool{}
	for _, b := range m.Blobs {
		if !seen[medium.Path(b)] {
			n += b.Size
		}
		seen[medium.Path(b)] = true
	}
	return n
}

func (a *app) verifyCache(ctx context.Context, f *projectFlags) error {
	f.offline = true
	proj, p, err := a.open(f)
	if err != nil {
		return err
	}
	defer p.Done()
	l, err := proj.Locked()
	if err != nil {
		return err
	}
	archs, err := f.architectures(proj)
	if err != nil {
		return err
	}
	type line struct {
		Arch  string `json:"arch"`
		Items int    `json:"items"`
		Bytes int64  `json:"bytes"`
	}
	var all []line
	var errs []error
	for _, ar := range archs {
		n, bytes, err := proj.Verify(ctx, l, ar)
		errs = append(errs, err)
		if err == nil {
			all = append(all, line{ar.String(), n, bytes})
		}
	}
	p.Done()
	err = a.show(all, func() {
		for _, l := range all {
			fmt.Fprintf(a.out, "%s: %d items (%s) are what %s says\n", l.Arch, l.Items, size(l.Bytes), proj.Lock)
		}
	})
	return errors.Join(append(errs, err)...)
}
