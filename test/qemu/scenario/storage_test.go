package scenario

import (
	"fmt"
	"strings"
	"testing"
)

// storageClients wants what slipway.services named to answer, and NFS to get as
// far as a server that is not there.
func (n *node) storageClients(t *testing.T) {
	if name, err := n.r.Must(n.ctx, "cat", "/etc/iscsi/initiatorname.iscsi"); err != nil || !strings.HasPrefix(name, "InitiatorName=iqn.1993-08.org.debian:01:") {
		t.Errorf("initiator name %q: %v", name, err)
	}
	for _, c := range []struct {
		argv string
		code int
		want string // in what it prints
	}{
		{"grep ISCSIADM_ABSTRACT_NAMESPACE /proc/net/unix", 0, "@ISCSIADM"}, // iscsid's (its unit's socket)
		{"grep -w iscsi_tcp /proc/modules", 0, ""},
		{"multipathd show daemon", 0, "idle"},
		{"rpcinfo -p 127.0.0.1", 0, "portmapper"},
		{"start-statd", 0, ""}, // as mount.nfs does for version 3
		{"rpcinfo -p 127.0.0.1", 0, "status"},
		{"mount -t nfs4 -o retry=0 127.0.0.1:/ /mnt", 32, "refused"},
		{"grep nfs4 /proc/filesystems", 0, "nfs4"},
	} {
		n.until(t, c.argv, func() error {
			out, err := n.r.Run(n.ctx, strings.Fields(c.argv)...)
			if err != nil {
				return err
			}
			if all := string(out.Stdout) + string(out.Stderr); out.Code != c.code || !strings.Contains(all, c.want) {
				return fmt.Errorf("exit %d, want %d with %q: %s", out.Code, c.code, c.want, all)
			}
			return nil
		})
	}
}
