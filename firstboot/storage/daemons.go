package storage

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"slipway.dev/slipway/configs"
)

// Daemon is a client of shared storage that some nodes want to run. None runs
// unless slipway.services names it.
type Daemon struct {
	Argv    []string
	Package string   // of Debian, that has the program
	Modules []string // of the kernel, loaded before
	Dir     string   // below /run, made before; "" for none
	Owner   string   // of Dir, "" for root
}

// Find is how a service of slipway.services is run. An error names the package
// that the bundle lacks.
func Find(root string, s configs.Daemon) (Daemon, error) {
	var d Daemon
	switch s {
	case configs.DaemonISCSI: // as in its unit, but in the foreground; ib_iser is for InfiniBand and loads itself
		d = Daemon{Argv: []string{"/usr/sbin/iscsid", "-f"}, Package: "open-iscsi", Modules: []string{"iscsi_tcp"}, Dir: "/run/lock/iscsi"}
	case configs.DaemonMultipath:
		d = Daemon{Argv: []string{"/usr/sbin/multipathd", "-d", "-s"}, Package: "multipath-tools", Modules: []string{"dm_multipath"}, Dir: "/run/multipath"}
	case configs.DaemonRPC: // mount.nfs starts rpc.statd itself once this answers (start-statd(8))
		d = Daemon{Argv: []string{"/usr/sbin/rpcbind", "-f", "-w"}, Package: "rpcbind", Dir: "/run/rpcbind", Owner: "_rpc"}
	default:
		return d, fmt.Errorf("service %q: not known", s)
	}
	if _, err := os.Stat(filepath.Join(root, d.Argv[0])); err != nil {
		return d, fmt.Errorf("service %q: the bundle has no package %s", s, d.Package)
	}
	return d, nil
}

// Prepare makes the daemon's directory.
func (d Daemon) Prepare(root string) error {
	if d.Dir == "" {
		return nil
	}
	dir := filepath.Join(root, d.Dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if d.Owner == "" {
		return nil
	}
	u, err := user.Lookup(d.Owner)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	return os.Chown(dir, uid, 0)
}
