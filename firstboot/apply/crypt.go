package apply

import (
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"strings"
)

// alphabet is that of crypt(3), six bits each.
const alphabet = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// hashPassword makes a crypt(5) hash of a password, "$6$...": SHA-512 with its
// default of 5000 rounds.
func hashPassword(password string) string {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	for i := range raw {
		raw[i] = alphabet[raw[i]%64]
	}
	return sha512Crypt(password, string(raw))
}

// fits reports whether a password belongs to a hash that hashPassword made.
func fits(password, hash string) bool {
	parts := strings.Split(hash, "$")
	if len(parts) != 4 || parts[1] != "6" {
		return false
	}
	return subtle.ConstantTimeCompare([]byte(sha512Crypt(password, parts[2])), []byte(hash)) == 1
}

// sha512Crypt follows U. Drepper, "Unix crypt using SHA-256 and SHA-512",
// whose step numbers stand beside the code.
func sha512Crypt(password, salt string) string {
	key, s := []byte(password), []byte(salt)
	alternate := sum(key, s, key) // 4-8
	a := sha512.New()
	a.Write(key)
	a.Write(s)
	a.Write(cycle(alternate, len(key))) // 9, 10
	for n := len(key); n > 0; n >>= 1 { // 11
		if n&1 != 0 {
			a.Write(alternate)
		} else {
			a.Write(key)
		}
	}
	digest := a.Sum(nil)
	dp := sha512.New() // 13-15
	for range key {
		dp.Write(key)
	}
	p := cycle(dp.Sum(nil), len(key)) // 16
	ds := sha512.New()                // 17-19
	for range 16 + int(digest[0]) {
		ds.Write(s)
	}
	q := cycle(ds.Sum(nil), len(s)) // 20
	for i := range 5000 {           // 21
		c := sha512.New()
		first, last := digest, p
		if i%2 != 0 {
			first, last = p, digest
		}
		c.Write(first)
		if i%3 != 0 {
			c.Write(q)
		}
		if i%7 != 0 {
			c.Write(p)
		}
		c.Write(last)
		digest = c.Sum(nil)
	}
	return "$6$" + salt + "$" + encode(digest)
}

func sum(parts ...[]byte) []byte {
	h := sha512.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// cycle repeats b up to n bytes.
func cycle(b []byte, n int) []byte {
	out := make([]byte, 0, n+len(b))
	for len(out) < n {
		out = append(out, b...)
	}
	return out[:n]
}

// encode writes three bytes as four characters, lowest bits first; the bytes
// are taken from thirds of the digest in turn (22).
func encode(d []byte) string {
	var out strings.Builder
	group := func(b2, b1, b0 byte, n int) {
		w := uint(b2)<<16 | uint(b1)<<8 | uint(b0)
		for range n {
			out.WriteByte(alphabet[w&63])
			w >>= 6
		}
	}
	i, j, k := 0, 21, 42
	for range 21 {
		group(d[i], d[j], d[k], 4)
		i, j, k = j+1, k+1, i+1
	}
	group(0, 0, d[63], 2)
	return out.String()
}
