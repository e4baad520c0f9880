package qemu

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"slipway.dev/slipway/test/qemu/lan"
)

func TestQuote(t *testing.T) {
	for _, tt := range []struct {
		argv []string
		want string
	}{
		{[]string{"kubectl", "get", "-o=json", "pods"}, `kubectl get '-o=json' pods`},
		{[]string{"echo", "", "a b", "$HOME", "it's", "*"}, `echo '' 'a b' '$HOME' 'it'\''s' '*'`},
		{[]string{"cat", "/etc/hosts"}, `cat /etc/hosts`},
		{[]string{"echo", "naïve\n;rm"}, "echo 'naïve\n;rm'"},
	} {
		if got := Quote(tt.argv); got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.argv, got, tt.want)
		}
	}
}

func TestQuoteSurvivesShell(t *testing.T) {
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("SKIPPED: no POSIX shell on this host")
	}
	argv := []string{"printf", "%s|", "a b", "'", "\\", "$(id)", "`id`", "~", "{1..3}", "\n", "!x", "#"}
	cmd := exec.Command(shell)
	cmd.Stdin = strings.NewReader(Quote(argv))
	got, err := cmd.Output()
	if want := strings.Join(argv[2:], "|") + "|"; err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A server on a Host of the segment stands for a guest's sshd: it answers each
// command with its text and exit status 3.
func TestRemoteRun(t *testing.T) {
	s, err := lan.New(lan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	guest, err := s.Host("guest", netip.MustParseAddr("10.77.0.10"))
	if err != nil {
		t.Fatal(err)
	}
	near, err := s.Host("near", netip.MustParseAddr("10.77.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := guest.Listen(22)
	if err != nil {
		t.Fatal(err)
	}
	user := newSigner(t)
	go serveSSH(l, newSigner(t), user.PublicKey())
	client, err := dialSSH(t.Context(), SSHOptions{
		User: "root", Signer: user, Host: near, Addr: guest.Addr, Port: 22, HostKey: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		t.Fatal(err)
	}
	r := &Remote{client, "guest"}
	defer r.Close()
	out, err := r.Run(t.Context(), "echo", "a b")
	if err != nil || out.Code != 3 || string(out.Stdout) != "echo 'a b'" || string(out.Stderr) != "noise" {
		t.Errorf("got %+v, %v", out, err)
	}
	if _, err := r.Must(t.Context(), "false"); err == nil || !strings.Contains(err.Error(), "running false: exit status 3: noise") {
		t.Errorf("got %v, want status and standard error", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Run(ctx, "x"); err == nil {
		t.Error("a run whose context has ended succeeded")
	}
	if _, err := dialSSH(t.Context(), SSHOptions{
		User: "root", Signer: newSigner(t), Host: near, Addr: guest.Addr, Port: 22, HostKey: ssh.InsecureIgnoreHostKey()}); err == nil {
		t.Error("a foreign key logged in")
	}
}

func serveSSH(l net.Listener, host ssh.Signer, user ssh.PublicKey) {
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if string(k.Marshal()) != string(user.Marshal()) {
			return nil, fmt.Errorf("unknown key")
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, channels, requests, err := ssh.NewServerConn(c, config)
			if err != nil {
				return
			}
			go ssh.DiscardRequests(requests)
			for n := range channels {
				ch, requests, err := n.Accept()
				if err != nil {
					return
				}
				go session(ch, requests)
			}
		}()
	}
}

func session(ch ssh.Channel, requests <-chan *ssh.Request) {
	defer ch.Close()
	for r := range requests {
		if r.Type != "exec" {
			r.Reply(false, nil)
			continue
		}
		var m struct{ Command string }
		ssh.Unmarshal(r.Payload, &m)
		r.Reply(true, nil)
		fmt.Fprint(ch, m.Command)
		fmt.Fprint(ch.Stderr(), "noise")
		ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{3}))
		return
	}
}
