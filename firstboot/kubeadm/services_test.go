package kubeadm

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseFlags(t *testing.T) {
	for _, c := range []struct {
		in, err string
		want    []string
	}{
		{in: "KUBELET_KUBEADM_ARGS=\"--hostname-override=node-1 --node-ip=192.0.2.2\"\n", want: []string{"--hostname-override=node-1", "--node-ip=192.0.2.2"}},
		{in: "# note\nOTHER=\"x\"\nKUBELET_KUBEADM_ARGS=\"  --a=1   --b='2 3' \"\n", want: []string{"--a=1", "--b=2 3"}},
		{in: `KUBELET_KUBEADM_ARGS="--labels=\"a b\",c"`, want: []string{"--labels=a b,c"}},
		{in: `KUBELET_KUBEADM_ARGS="--a=$(reboot) ;reboot"`, want: []string{"--a=$(reboot)", ";reboot"}},
		{in: `KUBELET_KUBEADM_ARGS=""`, want: nil},
		{in: `KUBELET_KUBEADM_ARGS=--a`, err: `value of "KUBELET_KUBEADM_ARGS" is not in double quotes`},
		{in: `KUBELET_KUBEADM_ARGS="--a='b"`, err: `quote '\'' is not closed`},
		{in: "", err: "no line begins with"},
	} {
		got, err := parseFlags(c.in)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: got %v, want %q", c.in, err, c.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: got %q, %v; want %q", c.in, got, err, c.want)
		}
	}
}

func TestMask(t *testing.T) {
	hex := strings.Repeat("0123456789abcdef", 4)
	for in, want := range map[string]string{
		"[bootstrap-token] Using token: abcdef.0123456789abcdef": "[bootstrap-token] Using token: ***",
		"key " + hex:             "key ***",
		"image sha256:" + hex:    "image sha256:" + hex,
		"kubernetes.default.svc": "kubernetes.default.svc",
	} {
		if got := Mask(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
