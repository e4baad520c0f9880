package deb

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"slipway.dev/slipway/configs/arch"
)

var signedAt = time.Date(2026, 9, 12, 8, 0, 0, 0, time.UTC) // never changed

func newKey(t *testing.T, lifetime time.Duration) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity("Archive", "", "archive@mirror.example", &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return signedAt.Add(-time.Hour) },
		KeyLifetimeSecs: uint32(lifetime.Seconds())})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func keyring(t *testing.T, armored bool, keys ...*openpgp.Entity) []byte {
	t.Helper()
	var raw bytes.Buffer
	for _, k := range keys {
		if err := k.Serialize(&raw); err != nil {
			t.Fatal(err)
		}
	}
	if !armored {
		return raw.Bytes()
	}
	return armorOf(t, openpgp.PublicKeyType, raw.Bytes())
}

func armorOf(t *testing.T, kind string, raw []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := armor.Encode(&out, kind, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(raw)
	w.Close()
	return out.Bytes()
}

func sign1(t *testing.T, text string, keys ...*openpgp.Entity) []byte {
	t.Helper()
	var private []*packet.PrivateKey
	for _, k := range keys {
		private = append(private, k.PrivateKey)
	}
	var out bytes.Buffer
	w, err := clearsign.EncodeMulti(&out, private, &packet.Config{Time: func() time.Time { return signedAt }})
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte(text))
	w.Close()
	return out.Bytes()
}

const packageList = "Package: a\nVersion: 1\nArchitecture: amd64\nFilename: pool/a.deb\nSize: 1\nSHA256: 0000000000000000000000000000000000000000000000000000000000000000\n"

func gz(t *testing.T, s string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(s))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func releaseText(t *testing.T, plainSize int) (string, []byte) {
	raw := gz(t, packageList)
	return fmt.Sprintf("Suite: stable\nCodename: trixie\nDate: Sat, 12 Sep 2026 07:55:41 UTC\nValid-Until: Sat, 19 Sep 2026 07:55:41 UTC\n"+
		"Acquire-By-Hash: yes\nArchitectures: all amd64\nComponents: main\nSHA256:\n %s %d main/binary-amd64/Packages.gz\n %s %d main/binary-amd64/Packages\n",
		sumHex(raw), len(raw), sumHex([]byte(packageList)), plainSize), raw
}

func TestParseRelease(t *testing.T) {
	text, _ := releaseText(t, len(packageList))
	key, other, short := newKey(t, 0), newKey(t, 0), newKey(t, 2*24*time.Hour)
	good := sign1(t, text, key)
	id := func(k *openpgp.Entity) string { return fmt.Sprintf("%016X", k.PrimaryKey.KeyId) }
	for _, c := range []struct {
		name   string
		signed []byte
		ring   []byte
		now    time.Time
		want   string // "" is good
	}{
		{"good", good, keyring(t, false, key), time.Time{}, ""},
		{"good, armored keyring, in time", good, keyring(t, true, other, key), signedAt.Add(time.Hour), ""},
		{"two signatures, one known", sign1(t, text, other, key), keyring(t, false, key), time.Time{}, ""},
		{"expired but not asked", good, keyring(t, false, key), time.Time{}, ""},
		{"expired", good, keyring(t, false, key), signedAt.AddDate(0, 0, 8),
			`InRelease of "trixie": valid until 2026-09-19T07:55:41Z, it is 2026-09-20T08:00:00Z`},
		{"altered byte", bytes.Replace(good, []byte("stable"), []byte("stab1e"), 1), keyring(t, false, key), time.Time{},
			"InRelease: signature by key " + id(key) + ": openpgp: invalid signature: EdDSA verification failure"},
		{"wrong key", good, keyring(t, false, other), time.Time{},
			"InRelease: signature by key " + id(key) + ": openpgp: signature made by unknown entity"},
		{"expired key", sign1(t, text, short), keyring(t, false, short), signedAt.AddDate(0, 0, 3),
			"InRelease: signature by key " + id(short) + ": openpgp: key expired"},
		{"key that expired later", sign1(t, text, short), keyring(t, false, short), time.Time{}, ""},
		{"not signed", []byte(text), keyring(t, false, key), time.Time{}, "InRelease: not a clear-signed message"},
		{"empty keyring", good, nil, time.Time{}, "InRelease: keyring: holds no key"},
		{"no list", sign1(t, "Codename: x\nDate: Sat, 12 Sep 2026 07:55:41 UTC\n", key), keyring(t, false, key), time.Time{},
			"InRelease: no Date or no SHA256 list (MD5Sum and SHA1 prove nothing)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := ParseRelease(c.signed, c.ring, c.now)
			if c.want != "" {
				if err == nil || err.Error() != c.want {
					t.Fatalf("got %v, want %s", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("%X", key.PrimaryKey.Fingerprint); r.Codename != "trixie" || !r.ByHash || (r.Signer != want && c.name != "key that expired later") {
				t.Errorf("got %+v, want signer %s", r, want)
			}
		})
	}
}

func TestReadPackages(t *testing.T) {
	text, raw := releaseText(t, len(packageList))
	r, err := parseRelease(text)
	if err != nil {
		t.Fatal(err)
	}
	path, sum, err := r.PackagesFile("main", arch.AMD64)
	if err != nil || path != "main/binary-amd64/Packages.gz" || sum.Size != int64(len(raw)) {
		t.Fatalf("got %q %+v %v", path, sum, err)
	}
	if got, want := r.ByHashPath(path), "main/binary-amd64/by-hash/SHA256/"+sumHex(raw); got != want {
		t.Errorf("by hash: got %q, want %q", got, want)
	}
	pkgs, err := r.ReadPackages(path, raw)
	if err != nil || len(pkgs) != 1 || pkgs[0].Suite != "trixie" {
		t.Fatalf("got %+v %v", pkgs, err)
	}
	if _, _, err := r.PackagesFile("contrib", arch.AMD64); err == nil ||
		err.Error() != `suite "trixie" has no package list for component "contrib", architecture "amd64" (components: main; architectures: all amd64)` {
		t.Errorf("got %v", err)
	}
	bad := append([]byte(nil), raw...)
	bad[len(bad)-1] ^= 1
	if _, err := r.ReadPackages(path, bad); err == nil || !strings.HasPrefix(err.Error(), "trixie: "+path+": digest mismatch: got ") {
		t.Errorf("altered byte: got %v", err)
	}
	if _, err := r.ReadPackages(path, raw[1:]); err == nil || !strings.Contains(err.Error(), ": size mismatch: got ") {
		t.Errorf("cut: got %v", err)
	}
	text, raw = releaseText(t, 3)
	if r, err = parseRelease(text); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadPackages(path, raw); err == nil || err.Error() != "trixie: "+path+": more than 3 bytes when decoded" {
		t.Errorf("bomb: got %v", err)
	}
}
