// Package boot is the contract between whoever writes a loader entry and the
// machine that reads its kernel command line.
//
// It does not know who boots: firmware, ISO, network or disk.
package boot

import (
	"fmt"
	"strings"
)

// File names of the loader's payload on a medium.
const (
	Kernel    = "boot/vmlinuz"
	Initramfs = "boot/initrd.img"
)

// Cmdline is what a kernel command line says to slipway-init. Arguments that
// are not slipway's stay in Extra, in order.
type Cmdline struct {
	// Config is slipway.config=: where the config is, "" for the usual search;
	// "none", "medium", "cidata", or a URL that ends in "/". Without it cloud-init's
	// ds=nocloud;s=URL/ is understood.
	Config string
	// Store is slipway.store=: URL of a directory with the medium's content, "" for a medium.
	Store string
	// Seed is slipway.seed=: https URL of a seed that the node enrols at.
	Seed string
	// Pin is slipway.pin=: hex of the SHA-256 of the seed's CA certificate. Without
	// it only the code that the operator compares tells the right seed.
	Pin string
	// Disk is slipway.disk=: GUID of the disk that the node was installed on and
	// starts from; Slot is slipway.slot=, which of the two systems on it.
	Disk, Slot string
	// Reimage is slipway.reimage=: the token of the seed's order to install this
	// machine anew. What is on the node's own disk may be lost; no other disk is touched.
	Reimage string
	// Trial is slipway.trial=: how long this start may take to be Ready before the
	// node goes back to the slot that it ran before; "" is no trial.
	Trial string
	// Events is slipway.events=: "console" (default) or "off".
	Events string
	// Until is slipway.until=: stop after this phase and power off; for tests and rehearsals.
	Until string
	// Consoles are the console= arguments in order; the last is /dev/console.
	Consoles []string
	Extra    []string
}

// String renders the command line; Parse reads it back.
func (c Cmdline) String() string {
	var s []string
	for _, k := range c.Consoles {
		s = append(s, "console="+k)
	}
	add := func(k, v string) {
		if v != "" {
			s = append(s, k+"="+v)
		}
	}
	add("slipway.config", c.Config)
	add("slipway.store", c.Store)
	add("slipway.seed", c.Seed)
	add("slipway.pin", c.Pin)
	add("slipway.disk", c.Disk)
	add("slipway.slot", c.Slot)
	add("slipway.reimage", c.Reimage)
	add("slipway.trial", c.Trial)
	add("slipway.events", c.Events)
	add("slipway.until", c.Until)
	return strings.Join(append(s, c.Extra...), " ")
}

// Parse reads /proc/cmdline. An unknown slipway.* argument is an error that
// names it: nothing is guessed.
func Parse(s string) (Cmdline, error) {
	var c Cmdline
	for _, f := range strings.Fields(s) {
		k, v, _ := strings.Cut(f, "=")
		switch k {
		case "console":
			c.Consoles = append(c.Consoles, v)
		case "slipway.config":
			c.Config = v
		case "slipway.store":
			c.Store = strings.TrimRight(v, "/")
		case "slipway.seed":
			c.Seed = strings.TrimRight(v, "/")
		case "slipway.pin":
			c.Pin = strings.ToLower(v)
		case "slipway.disk":
			c.Disk = strings.ToLower(v)
		case "slipway.slot":
			c.Slot = v
		case "slipway.reimage":
			c.Reimage = v
		case "slipway.trial":
			c.Trial = v
		case "slipway.events":
			c.Events = v
		case "slipway.until":
			c.Until = v
		default:
			if strings.HasPrefix(k, "slipway.") {
				return c, fmt.Errorf("kernel argument %q: unknown (known: slipway.config, slipway.disk, slipway.events, slipway.pin, slipway.reimage, slipway.seed, slipway.slot, slipway.store, slipway.trial, slipway.until)", f)
			}
			c.Extra = append(c.Extra, f)
		}
	}
	for _, e := range c.Extra {
		if v, ok := strings.CutPrefix(e, "ds=nocloud"); ok && c.Config == "" {
			c.Config = nocloudSeed(v)
		}
	}
	return c, nil
}

// nocloudSeed takes the seed out of "-net;h=name;s=URL/" (cloud-init: NoCloud,
// kernel command line), "" when there is none.
func nocloudSeed(v string) string {
	for _, f := range strings.Split(v, ";") {
		for _, k := range []string{"s=", "seedfrom="} {
			if url, ok := strings.CutPrefix(f, k); ok {
				return url
			}
		}
	}
	return ""
}
