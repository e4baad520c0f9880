package drive

import (
	"regexp"
	"slices"
	"strings"
)

// rule is one kind of secret within a line, words of which one must be there in
// lower case for it to be worth a look, and what stands in its place. Logs have
// megabytes: without the words a bundle would take minutes.
type rule struct {
	words []string
	what  *regexp.Regexp
	with  string
}

// named is a field whose value is a secret, up to the value.
const named = `(?i)((?:password|passwd|passphrase|secret|token|api[_-]?key|certificate[_-]key|client-key-data|private[_-]key)\\?["']?\s*[:=]\s*)`

// A private key (RFC 7468), and the rest of one whose beginning was cut off.
var (
	privateKey = regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`)
	restOfKey  = regexp.MustCompile(`(?s)\A[A-Za-z0-9+/=\s]*-----END [A-Z0-9 ]*PRIVATE KEY-----`)
)

// long is 64 hex digits: a certificate key of kubeadm, or the ID of a container.
// The first twelve stay, as for a container's short ID; 208 bits remain unknown.
var long = regexp.MustCompile(`(sha256:)?\b([0-9a-f]{12})[0-9a-f]{52}\b`)

// masker replaces what a support bundle must not carry out of the house.
type masker []rule

func newMasker() masker {
	field := []string{"pass", "secret", "token", "key"}
	return masker{
		{[]string{"eyj"}, regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+`), "***"}, // a service account's token (RFC 7519)
		{[]string{"."}, regexp.MustCompile(`\b[a-z0-9]{6}\.[a-z0-9]{16}\b`), "***"},                               // a bootstrap token
		{[]string{"$"}, regexp.MustCompile(`\$(?:1|2[abxy]|5|6|7|y|gy)\$[^\s:"',]+`), "***"},                      // crypt(5)
		{[]string{"://"}, regexp.MustCompile(`(://[^/\s:@"']*):[^/\s@"']+@`), "$1:***@"},                          // a URL's password
		{[]string{"bearer", "basic"}, regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}`), "$1 ***"},
		{field, regexp.MustCompile(named + `"(?:[^"\\\n]|\\.)*"`), `$1"***"`},
		{field, regexp.MustCompile(named + `\\"[^"\n]*\\"`), `$1\"***\"`}, // quoted within a string
		{field, regexp.MustCompile(named + `'[^'\n]*'`), `$1'***'`},
		{field, regexp.MustCompile(named + `[^\s"',;}&\\]+`), "$1***"},
	}
}

func (m masker) text(s string) string {
	if strings.Contains(s, "PRIVATE KEY-----") {
		s = privateKey.ReplaceAllLiteralString(s, "*** private key ***")
		s = restOfKey.ReplaceAllLiteralString(s, "*** private key ***")
	}
	var b strings.Builder
	b.Grow(len(s))
	for line := range strings.Lines(s) {
		b.WriteString(m.line(line))
	}
	return b.String()
}

func (m masker) line(s string) string {
	lower := strings.ToLower(s)
	for _, r := range m {
		if slices.ContainsFunc(r.words, func(w string) bool { return strings.Contains(lower, w) }) {
			s = r.what.ReplaceAllString(s, r.with)
		}
	}
	if !hexRun(s, 64) {
		return s
	}
	return long.ReplaceAllStringFunc(s, func(m string) string {
		if len(m) > 64 {
			return m // a digest that says so is no secret
		}
		return m[:12] + "***"
	})
}

// hexRun says whether s has n hex digits in a row.
func hexRun(s string, n int) bool {
	run := 0
	for i := range len(s) {
		if c := s[i]; c >= '0' && c <= '9' || c >= 'a' && c <= 'f' {
			if run++; run == n {
				return true
			}
		} else {
			run = 0
		}
	}
	return false
}
