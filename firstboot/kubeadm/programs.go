package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"regexp"
	"strings"

	"slipway.dev/slipway/firstboot/supervise"
)

// Every program this package runs. kubectl is not one of them: it costs one to
// three seconds of an emulated processor each time, see api.go.
const (
	containerdProgram = "/usr/bin/containerd"
	ctrProgram        = "/usr/bin/ctr"
	kubeadmProgram    = "/usr/bin/kubeadm"
	kubeletProgram    = "/usr/bin/kubelet"
	nftProgram        = "/usr/sbin/nft"
	runcProgram       = "/usr/bin/runc"
)

// pathEnv is what kubeadm and kubelet find mount, modprobe, nft and the like in.
const pathEnv = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Exec runs a program to its end and hands over each line it writes, as
// supervise.Children.Run does: PID 1 must know of every process it starts.
type Exec func(ctx context.Context, cmd *exec.Cmd, line func(string)) error

// keep is how many of a program's last lines an error shows.
const keep = 12

// run logs argv, runs it, and puts the program's last lines into the error.
// Bootstrap tokens are masked everywhere.
func (e Exec) run(ctx context.Context, log *slog.Logger, line func(string), argv ...string) error {
	log.Info("running", "argv", argv)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{pathEnv, "HOME=/root"}
	var tail []string
	err := e(ctx, cmd, func(s string) {
		s = Mask(s)
		log.Debug("output", "program", argv[0], "line", s)
		if tail = append(tail, s); len(tail) > keep {
			tail = tail[1:]
		}
		if line != nil {
			line(s)
		}
	})
	if exit := (*supervise.ExitError)(nil); errors.As(err, &exit) {
		err = exit.Err // its own last lines are not masked
	}
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, strings.Join(tail, "\n"))
	}
	return nil
}

// secret matches bootstrap tokens ("abcdef.0123456789abcdef") and certificate keys (64 hex).
var secret = regexp.MustCompile(`\b([a-z0-9]{6}\.[a-z0-9]{16}|[0-9a-f]{64})\b`)

// sha256 digests have the shape of certificate keys and are no secret.
var digest = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// Mask replaces what lets a machine into the cluster by "***".
func Mask(s string) string {
	keepers := digest.FindAllString(s, -1)
	if len(keepers) == 0 {
		return secret.ReplaceAllString(s, "***")
	}
	parts := digest.Split(s, -1)
	var b strings.Builder
	for i, p := range parts {
		b.WriteString(secret.ReplaceAllString(p, "***"))
		if i < len(keepers) {
			b.WriteString(keepers[i])
		}
	}
	return b.String()
}
