// Package login runs Debian's login(1) on a terminal and says who may use it.
//
// It checks no password itself and watches no console: package console hands
// it one when somebody presses Enter.
package login

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"slipway.dev/slipway/firstboot/supervise"
)

// Program asks for name and password, holds them against shadow(5) through
// PAM, pauses after a wrong one, ends after five or after a minute, and makes
// who has an expired password choose another (login(1), login.defs(5)).
const Program = "/usr/bin/login"

// Text tells somebody in front of the machine how to get in. names have a
// password; program is whether Program is in the system root.
func Text(names []string, program bool) string {
	switch {
	case len(names) == 0:
		return "off: give a user hashed_passwd and lock_passwd: false"
	case !program:
		return "off: the bundle has no package login"
	}
	return "press Enter (" + strings.Join(names, ", ") + ")"
}

// Run runs Program in a session of its own on a terminal until it ends, and all
// that a person starts there in a control group below groups, "" for none: a
// shell's memory is not its caller's. Processes that a person leaves behind stay
// in it, as they do after ssh.
func Run(c *supervise.Children, device, groups string, serial bool) error {
	f, err := os.OpenFile(device, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("login: %w", err)
	}
	defer f.Close()
	begin, term := "\x1b[H\x1b[J", "linux" // ECMA-48: CUP, ED
	if serial {
		begin, term = "\r\n", "vt220" // agetty(8)'s for a serial line
	}
	if _, err := f.WriteString(begin + "slipway: the node's messages wait until logout\r\n"); err != nil {
		return fmt.Errorf("login: %w", err)
	}
	cmd := exec.Command(Program)
	cmd.Env = []string{"TERM=" + term, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = "/", f, f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if groups != "" {
		dir := filepath.Join(groups, "login-"+filepath.Base(device))
		group, err := supervise.Into(cmd, dir)
		if err != nil {
			return fmt.Errorf("login: %w", err)
		}
		defer os.Remove(dir) // unless somebody is left in it
		defer group.Close()
	}
	if err := c.Start(cmd); err != nil {
		return fmt.Errorf("login: %w", err)
	}
	return c.Wait(cmd)
}
