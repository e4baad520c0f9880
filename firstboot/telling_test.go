package firstboot

import (
	"context"
	"errors"
	"testing"

	"slipway.dev/slipway/configs/handoff"
)

// TestTheSeedIsToldOfANewCertificate: when there is one, and again when a look finds
// another, also after a look or a saying that went wrong.
func TestTheSeedIsToldOfANewCertificate(t *testing.T) {
	type found struct {
		admin string
		err   error
	}
	ctx, stop := context.WithCancel(t.Context())
	looked, finds, said, answers, failed := make(chan struct{}), make(chan found), make(chan string), make(chan error), make(chan error)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		telling(ctx, looked, func() (handoff.Cluster, error) {
			f := <-finds
			return handoff.Cluster{Kubeconfig: f.admin}, f.err
		}, func(_ context.Context, k handoff.Cluster) error {
			said <- k.Kubeconfig
			return <-answers
		}, func(err error) { failed <- err })
	}()
	hears := func(want string, answer error) {
		t.Helper()
		if got := <-said; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		answers <- answer
	}
	refused := errors.New("refused")
	finds <- found{"first", nil}
	hears("first", nil)
	looked <- struct{}{}
	finds <- found{"first", nil}
	looked <- struct{}{} // nothing was said: it listens again
	finds <- found{"", refused}
	<-failed
	looked <- struct{}{}
	finds <- found{"second", nil}
	hears("second", refused)
	<-failed
	looked <- struct{}{}
	finds <- found{"second", nil}
	hears("second", nil)
	looked <- struct{}{}
	finds <- found{"second", nil}
	stop()
	<-ended
}
