package firstboot

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"slipway.dev/slipway/configs/handoff"
)

// clockFuture is how far after its build a bundle is still believed to run.
const clockFuture = 10 * 365 * 24 * time.Hour

// clockLimit is how long certificates wait for chronyd to be sure of the time.
const clockLimit = 45 * time.Second

// setClock looks at the clock in the light of the build time and says what it did.
func setClock(built string) string {
	t, err := readTime(built)
	switch {
	case err != nil:
		return "the build time is not known"
	case raiseClock(t):
		return "the clock was behind and is set to the build time"
	case time.Until(t) < -clockFuture:
		return fmt.Sprintf("the clock says %s, %d years after the build: correct it in the firmware or name ntp servers",
			time.Now().UTC().Format(time.DateOnly), int(time.Since(t).Hours()/24/365))
	}
	return "the clock was right"
}

func readTime(name string) (time.Time, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return time.Time{}, err
	}
	return time.Parse(time.RFC3339, strings.TrimSpace(string(raw)))
}

// raiseClock sets the clock to floor when it is behind: a machine without a
// battery would make certificates that are not valid yet.
func raiseClock(floor time.Time) bool {
	if !time.Now().Before(floor) {
		return false
	}
	tv := unix.NsecToTimeval(floor.UnixNano())
	return unix.Settimeofday(&tv) == nil
}

// clockStep is how far off the clock may be before a seed corrects it: less does
// not matter to certificates.
const clockStep = 2 * time.Second

// followSeed sets the clock to that of a seed that has been believed in, but
// not before the bundle was built: nodes of one cluster have to agree.
func (n *Node) followSeed(offset time.Duration) {
	if offset.Abs() < clockStep {
		return
	}
	t := time.Now().Add(offset)
	if floor := n.Manifest.Built; t.Before(floor) {
		n.Report.Emit(handoff.Event{Step: "clock", State: handoff.Skipped, Code: "SW-CLOCK-SEED", Hint: "set the clock of the seed",
			Text: fmt.Sprintf("the seed's clock says %s, before the bundle was built", t.UTC().Format(time.DateTime))})
		return
	}
	tv := unix.NsecToTimeval(t.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		n.Report.Error("config", "clock", fmt.Errorf("setting the clock: %w", err), nil)
		return
	}
	n.step("clock", fmt.Sprintf("the clock was off by %s and is the seed's now: %s", (-offset).Round(time.Second), t.UTC().Format(time.DateTime)), nil)
}

// clockSynced waits until chronyd has the kernel's clock right, so that no
// certificate is made before a step. Time servers that do not answer are said
// and not waited for any longer: a cluster can do without.
func (n *Node) clockSynced(ctx context.Context) {
	began := time.Now()
	for time.Since(began) < clockLimit {
		var tx unix.Timex
		if state, err := unix.Adjtimex(&tx); err == nil && state != unix.TIME_ERROR && tx.Status&unix.STA_UNSYNC == 0 {
			n.step("clock", fmt.Sprintf("the clock follows its servers after %.0f s", time.Since(began).Seconds()), nil)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(250 * time.Millisecond):
		}
	}
	n.Report.Emit(handoff.Event{Phase: "services", Step: "clock", State: handoff.Skipped, Code: "SW-CLOCK-UNSYNCED",
		Text: fmt.Sprintf("no time server answered within %.0f s: the clock stays %s", clockLimit.Seconds(), time.Now().UTC().Format(time.DateTime)),
		Hint: "check the ntp servers of user-data; chronyd goes on asking"})
}
