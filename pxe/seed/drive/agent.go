package drive

import (
	"fmt"
	"io"
	"net"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// remote signs with a key of an ssh-agent, over a connection of its own, so that
// no connection has to outlive the login.
type remote struct {
	socket string
	key    *agent.Key
}

func (r *remote) PublicKey() ssh.PublicKey { return r.key }

func (r *remote) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return r.SignWithAlgorithm(rand, data, "")
}

// SignWithAlgorithm lets an RSA key sign with SHA-2 (RFC 8332); agents take
// that as a flag.
func (r *remote) SignWithAlgorithm(_ io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		return nil, fmt.Errorf("ssh-agent: %w", err)
	}
	defer conn.Close()
	var flags agent.SignatureFlags
	switch algorithm {
	case ssh.KeyAlgoRSASHA256:
		flags = agent.SignatureFlagRsaSha256
	case ssh.KeyAlgoRSASHA512:
		flags = agent.SignatureFlagRsaSha512
	}
	return agent.NewClient(conn).SignWithFlags(r.key, data, flags)
}
