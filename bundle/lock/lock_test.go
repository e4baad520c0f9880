package lock

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func signed(t *testing.T, change func(*Manifest)) (ed25519.PublicKey, []byte, []byte) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	d := SumBytes([]byte("x"))
	m := &Manifest{Format: ManifestFormat, Name: "t", Arch: "amd64", Blobs: []Blob{{Name: "system.erofs", Role: RoleSystem, Size: 1, SHA256: d, Chunks: []Digest{d}}}}
	if change != nil {
		change(m)
	}
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return pub, raw, Sign(key, raw)
}

func TestOpenTrustsOnlyTheExactBytes(t *testing.T) {
	pub, raw, sig := signed(t, nil)
	m, err := Open(pub, raw, sig)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := m.Find(RoleSystem); err != nil || b.Name != "system.erofs" {
		t.Errorf("Find: %+v, %v", b, err)
	}
	if _, err := m.Find(RoleImages); err == nil || !strings.Contains(err.Error(), "want one blob of role \"images\", got 0") {
		t.Errorf("Find of a missing role: %v", err)
	}
	other, _, _ := ed25519.GenerateKey(nil)
	for name, c := range map[string]struct {
		key      ed25519.PublicKey
		raw, sig []byte
	}{
		"a changed byte":    {pub, bytes.Replace(raw, []byte("amd64"), []byte("amd65"), 1), sig},
		"a space more":      {pub, append(bytes.Clone(raw), ' '), sig},
		"another key":       {other, raw, sig},
		"a short signature": {pub, raw, sig[:63]},
		"a short key":       {pub[:31], raw, sig},
	} {
		if _, err := Open(c.key, c.raw, c.sig); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestOpenRefusesWhatItDoesNotUnderstand(t *testing.T) {
	for want, change := range map[string]func(*Manifest){
		"format 9, this program reads 1":                  func(m *Manifest) { m.Format = 9 },
		`blob name "system.erofs" is empty or used twice`: func(m *Manifest) { m.Blobs = append(m.Blobs, m.Blobs[0]) },
		`digest "../../etc": want 64`:                     func(m *Manifest) { m.Blobs[0].SHA256 = "../../etc" },
		"1 chunks for 9000000 bytes, want 3":              func(m *Manifest) { m.Blobs[0].Size = 9000000 },
	} {
		pub, raw, sig := signed(t, change)
		if _, err := Open(pub, raw, sig); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestChunks(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 900_000)
	got, err := Chunks(bytes.NewReader(content), int64(len(content)))
	if err != nil || len(got) != 3 {
		t.Fatalf("%d chunks, %v", len(got), err)
	}
	for i, d := range got {
		if want := SumBytes(content[i*ChunkSize : min((i+1)*ChunkSize, len(content))]); d != want {
			t.Errorf("chunk %d: got %s, want %s", i, d, want)
		}
	}
	if _, err := Chunks(bytes.NewReader(content[:10]), 11); err == nil || err.Error() != "chunk 0: got 10 bytes, want 11" {
		t.Errorf("short content: %v", err)
	}
}

func TestLockRoundTripIsSortedAndStrict(t *testing.T) {
	name := filepath.Join(t.TempDir(), "slipway.lock")
	d := SumBytes(nil)
	l := &Lock{Format: LockFormat, Config: d, Debs: []Deb{{Name: "b", SHA256: d, Sets: []string{"system"}}, {Name: "a", SHA256: d}}}
	if err := l.Write(name); err != nil {
		t.Fatal(err)
	}
	back, err := Read(name)
	if err != nil || back.Debs[0].Name != "a" || !back.Debs[1].In("system") || back.Debs[1].In("loader") {
		t.Fatalf("%+v, %v", back, err)
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for want, bad := range map[string]string{
		`unknown field "formats"`:        strings.Replace(string(raw), `"format"`, `"formats"`, 1),
		"format 7, this program reads 1": strings.Replace(string(raw), `"format": 1`, `"format": 7`, 1),
		`package "a": digest`:            strings.Replace(string(raw), string(d)+`",`+"\n      \"sets\": null", `xyz",`+"\n      \"sets\": null", 1),
	} {
		if err := os.WriteFile(name, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
