package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/firstboot/disks"
)

// find gives the device behind a path of the config. No udev makes links below
// /dev/disk here: a name in by-id is the disk whose serial number or WWN it
// ends with, with -part<n> for a partition.
func (s Setup) find(path string) (string, error) {
	dev, err := filepath.EvalSymlinks(path)
	name, byID := strings.CutPrefix(path, "/dev/disk/by-id/")
	if err == nil || !byID || !errors.Is(err, fs.ErrNotExist) {
		return dev, err
	}
	part := 0
	if m := regexp.MustCompile(`^(.*)-part([0-9]+)$`).FindStringSubmatch(name); m != nil {
		name = m[1]
		_, _ = fmt.Sscan(m[2], &part)
	}
	all, _ := filepath.Glob(filepath.Join(s.Sys, "block/*"))
	var found []string
	for _, d := range all {
		for _, file := range []string{"serial", "device/serial", "wwid", "device/wwid"} {
			raw, _ := os.ReadFile(filepath.Join(d, file))
			if disks.Identifies(name, strings.TrimSpace(string(raw))) {
				found = append(found, filepath.Join("/dev", filepath.Base(d)))
				break
			}
		}
	}
	switch {
	case len(found) == 0:
		return "", err
	case len(found) > 1:
		return "", fmt.Errorf("%s could be %s", path, strings.Join(found, " or "))
	case part > 0:
		return configs.PartitionPath(found[0], part), nil
	}
	return found[0], nil
}
