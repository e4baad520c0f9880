package firstboot

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"slipway.dev/slipway/configs/handoff"
	"slipway.dev/slipway/firstboot/apply"
)

// loginProgram is Debian's login(1): it asks for name and password, holds them
// against shadow(5) through PAM, pauses after a wrong one, ends after five or
// after a minute, and makes who has an expired password choose another.
const loginProgram = "/usr/bin/login"

// consoleLogin lets those in at the consoles who have a password, and says who
// they are. Without any, keys do nothing: there is no prompt to guess at.
func (n *Node) consoleLogin() error {
	names, err := apply.Logins("/")
	if err != nil {
		return applyFailure(err)
	}
	_, missing := os.Stat(loginProgram)
	e := handoff.Event{Step: "login", State: handoff.Skipped}
	n.access = loginText(names, missing == nil)
	e.Text = "console login: " + n.access
	if len(names) > 0 && missing == nil {
		e.State = handoff.Done
		n.Consoles.Login(n.life, n.login)
	}
	n.Report.Emit(e)
	return nil
}

// loginText tells somebody in front of the machine how to get in.
func loginText(names []string, program bool) string {
	switch {
	case len(names) == 0:
		return "off: give a user hashed_passwd and lock_passwd: false"
	case !program:
		return "off: the bundle has no package login"
	}
	return "press Enter (" + strings.Join(names, ", ") + ")"
}

// login runs login(1) in a session of its own on a terminal.
func (n *Node) login(_ context.Context, device string, serial bool) {
	f, err := os.OpenFile(device, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		n.log.Warn("login", "device", device, "err", err)
		return
	}
	defer f.Close()
	cmd := exec.Command(loginProgram)
	cmd.Env = []string{"TERM=linux", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if serial {
		cmd.Env[0] = "TERM=vt220" // agetty(8)'s for a serial line
	}
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = "/", f, f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	_, _ = f.WriteString(map[bool]string{true: "\r\n", false: "\x1b[H\x1b[J"}[serial] + "slipway: the boot's messages come back after logout\r\n")
	if err = n.Children.Start(cmd); err == nil {
		err = n.Children.Wait(cmd)
	}
	n.log.Info("login", "device", device, "ended", err)
}
