package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"slipway.dev/slipway/bundle"
	"slipway.dev/slipway/bundle/lock"
	"slipway.dev/slipway/cmd/slipway/content"
	"slipway.dev/slipway/images"
	"slipway.dev/slipway/images/combined"
	"slipway.dev/slipway/images/medium"
)

const combinedRecord = "combined"

// of says whether a combined ISO was made of these. A later build without
// --combined leaves the old one, which belongs to none of its sums.
func (b *built) of(isos []*built) bool {
	var archs []string
	for _, one := range isos {
		archs = append(archs, string(one.Arch))
	}
	var mine []string
	for _, a := range b.Combined {
		mine = append(mine, string(a))
	}
	slices.Sort(archs)
	slices.Sort(mine)
	return slices.Equal(mine, archs) && b.Inputs == combinedInputs(isos)
}

// combinedInputs is the ISOs: they have the loaders, the command lines and the config in them.
func combinedInputs(isos []*built) lock.Digest {
	var all []string
	for _, b := range isos {
		all = append(all, fmt.Sprintf("%s %s\n", b.Arch, b.ISO.SHA256))
	}
	slices.Sort(all) // in whatever order --arch names them
	return lock.SumBytes([]byte(strings.Join(all, "")))
}

// combine writes the ISO that boots all the architectures, out of their finished ones.
func (a *app) combine(ctx context.Context, proj *bundle.Project, each []*bundle.Parts, isos []*built, out string, key ed25519.PrivateKey, p *progress) (*built, error) {
	name := filepath.Join(out, proj.Bundle.Metadata.Name+"-combined.iso")
	if b, ok := upToDate(out, combinedRecord); ok && b.of(isos) {
		b.ISO.Path = name
		fmt.Fprintf(a.err, "%s is up to date\n", name)
		return b, nil
	}
	done := &built{Inputs: combinedInputs(isos)}
	var parts []combined.Part
	for i, one := range isos {
		m, err := medium.Open(one.ISO.Path)
		if err != nil {
			return nil, err
		}
		defer m.Close()
		part := combined.Part{Medium: m}
		if part.Boot, err = content.Boot(proj, each[i]); err != nil {
			return nil, err
		}
		if part.Loader, err = content.Loaders(proj, each[i]); err != nil {
			return nil, err
		}
		parts, done.Combined = append(parts, part), append(done.Combined, one.Arch)
	}
	im, err := combined.Plan(parts, key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	if done.ISO, err = im.Write(ctx, name, p.Step); err != nil {
		return nil, err
	}
	done.Files, done.Shared = []images.Artefact{done.ISO}, im.Shared
	if err := done.relative(out); err != nil {
		return nil, err
	}
	raw, err := json.MarshalIndent(done, "", " ")
	if err != nil {
		return nil, err
	}
	done.ISO.Path = name
	return done, lock.WriteFile(filepath.Join(out, recordName(combinedRecord)), raw, 0o644)
}
