package drive

import "regexp"

// rule is one kind of secret and what stands in its place.
type rule struct {
	what *regexp.Regexp
	with string
}

// named is a field whose value is a secret, up to the value.
const named = `(?i)((?:password|passwd|passphrase|secret|token|api[_-]?key|certificate[_-]key|client-key-data|private[_-]key)\\?["']?\s*[:=]\s*)`

// rules are what a support bundle must not carry out of the house.
var rules = []rule{
	{regexp.MustCompile(`(?s)-----BEGIN ([A-Z0-9 ]*)PRIVATE KEY-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`), "*** private key ***"},
	{regexp.MustCompile(`(?s)\A[A-Za-z0-9+/=\s]*-----END [A-Z0-9 ]*PRIVATE KEY-----`), "*** private key ***"}, // the rest of one that was cut
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+`), "***"},                  // a service account's token (RFC 7519)
	{regexp.MustCompile(`\b[a-z0-9]{6}\.[a-z0-9]{16}\b`), "***"},                                              // a bootstrap token
	{regexp.MustCompile(`\$(?:1|2[abxy]|5|6|7|y|gy)\$[^\s:"',]+`), "***"},                                     // crypt(5)
	{regexp.MustCompile(`(://[^/\s:@"']*):[^/\s@"']+@`), "$1:***@"},                                           // a URL's password
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}`), "$1 ***"},
	{regexp.MustCompile(named + `"(?:[^"\\\n]|\\.)*"`), `$1"***"`},
	{regexp.MustCompile(named + `\\"[^"\n]*\\"`), `$1\"***\"`}, // quoted within a string
	{regexp.MustCompile(named + `'[^'\n]*'`), `$1'***'`},
	{regexp.MustCompile(named + `[^\s"',;}&\\]+`), "$1***"},
}

// long is 64 hex digits: a certificate key of kubeadm, or the ID of a container.
// The first twelve stay, as for a container's short ID; 208 bits remain unknown.
var long = regexp.MustCompile(`(sha256:)?\b([0-9a-f]{12})[0-9a-f]{52}\b`)

// mask replaces secrets; a digest that says so is none.
func mask(s string) string {
	for _, r := range rules {
		s = r.what.ReplaceAllString(s, r.with)
	}
	return long.ReplaceAllStringFunc(s, func(m string) string {
		if len(m) > 64 {
			return m
		}
		return m[:12] + "***"
	})
}
