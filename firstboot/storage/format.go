package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/firstboot/disks"
)

// format makes one file system unless it is there.
func (s Setup) format(ctx context.Context, c *configs.Storage, f configs.FSSetup) error {
	name, n := c.Device(f.Device)
	dev, err := s.find(name)
	if err != nil {
		return err
	}
	if n == 0 {
		n = f.Partition.Number()
	}
	var target string
	switch {
	case n > 0:
		target = configs.PartitionPath(dev, n)
	case f.Partition == "none":
		target = dev
	default:
		if target, err = choose(dev, f); err != nil || target == "" {
			return err
		}
	}
	found, err := look(target)
	if err != nil {
		return err
	}
	if fits(found, f, false) {
		return nil
	}
	replaces := f.ReplaceFS != "" && found.Kind == f.ReplaceFS && f.Partition.Number() == 0 && f.Partition != "none"
	if found.Kind != "" && !f.Overwrite && !replaces {
		return fmt.Errorf("%s holds %s and not %s: write overwrite: true if that may be lost", target, found, wanted(f))
	}
	d, err := openDisk(target, true)
	if err != nil {
		return err
	}
	why, err := s.own(target, d)
	d.Close()
	if err != nil || why != "" {
		return errors.Join(err, refusal(why))
	}
	return s.mkfs(ctx, target, f)
}

func wanted(f configs.FSSetup) disks.Found { return disks.Found{Kind: f.Filesystem, Label: f.Label} }

// fits: a file system without a label in the config may have any.
func fits(found disks.Found, f configs.FSSetup, anyLabel bool) bool {
	return found.Kind == f.Filesystem && (anyLabel || f.Label == "" || found.Label == f.Label)
}

// choose finds the partition for auto and any: the one that fits already, else
// the first empty one, else one that may be replaced. A disk without
// partitions is its own only candidate.
func choose(dev string, f configs.FSSetup) (string, error) {
	d, err := openDisk(dev, false)
	if err != nil {
		return "", err
	}
	t, ok := readTable(d)
	d.Close()
	candidates := []string{dev}
	if ok && len(t.parts) > 0 {
		candidates = nil
		for i := range t.parts {
			candidates = append(candidates, configs.PartitionPath(dev, i+1))
		}
	}
	empty, replaced := "", ""
	var all []string
	for _, c := range candidates {
		found, err := look(c)
		if err != nil {
			return "", err
		}
		switch {
		case fits(found, f, f.Partition != "auto"):
			return "", nil
		case found.Kind == "" && empty == "":
			empty = c
		case (f.Overwrite || f.ReplaceFS != "" && found.Kind == f.ReplaceFS) && replaced == "":
			replaced = c
		}
		all = append(all, fmt.Sprintf("%s holds %s", c, found))
	}
	if empty != "" {
		return empty, nil
	}
	if replaced != "" {
		return replaced, nil
	}
	return "", fmt.Errorf("no room for %s: %s", wanted(f), strings.Join(all, ", "))
}

func (s Setup) mkfs(ctx context.Context, target string, f configs.FSSetup) error {
	argv, label, pkg := []string{mkfsExt, "-q", "-F", "-t", f.Filesystem}, "-L", "e2fsprogs"
	switch f.Filesystem {
	case "xfs":
		argv, pkg = []string{mkfsXFS, "-q", "-f"}, "xfsprogs"
	case "vfat":
		argv, label, pkg = []string{mkfsVFAT}, "-n", "dosfstools"
	case "swap":
		argv, pkg = []string{mkswap}, "util-linux"
	}
	if f.Label != "" {
		argv = append(argv, label, f.Label)
	}
	argv = append(append(argv, f.ExtraOpts...), target)
	if err := s.program(ctx, argv, pkg); err != nil {
		return err
	}
	found, err := look(target)
	if err == nil && !fits(found, f, false) {
		err = fmt.Errorf("%s holds %s after %s, want %s", target, found, argv[0], wanted(f))
	}
	if err == nil {
		s.Report(fmt.Sprintf("%s: %s made", target, wanted(f)))
	}
	return err
}

// program runs one, or names the package that it is in.
func (s Setup) program(ctx context.Context, argv []string, pkg string) error {
	if _, err := os.Stat(argv[0]); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the bundle has no %s: add %s to its packages", argv[0], pkg)
	}
	return s.Run(ctx, argv)
}
