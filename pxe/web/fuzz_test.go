package web

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// FuzzCleanName holds what Files is promised of names.
func FuzzCleanName(f *testing.F) {
	for _, s := range []string{"/", "//grubx64.efi", "/a/../b", "/a/./b", "/..", "/a\\b", "/a\x00", "/ä", "/...", "/a//b", "a", "", "/%2e%2e/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		name, ok := cleanName(path)
		if !ok {
			return
		}
		if name == "" || name[0] == '/' || !strings.HasSuffix(path, name) || strings.Trim(strings.TrimSuffix(path, name), "/") != "" {
			t.Fatalf("%q became %q", path, name)
		}
		for part := range strings.SplitSeq(name, "/") {
			if part == "." || part == ".." || strings.ContainsFunc(part, func(r rune) bool { return r < ' ' || r > '~' || r == '\\' }) {
				t.Fatalf("%q became %q", path, name)
			}
		}
	})
}

// FuzzRequest asks for a file with any method, path and header: nothing but the
// file's bytes is ever answered, in the range that the answer names.
func FuzzRequest(f *testing.F) {
	for _, s := range []struct{ method, path, ranges, cond string }{
		{"GET", "/f", "", ""}, {"HEAD", "//f", "bytes=0-", ""}, {"GET", "/f", "bytes=2-5", `"sha256:f"`}, {"GET", "/f", "bytes=-3", `W/"sha256:f"`},
		{"GET", "/f", "bytes=0-1,4-5,9-", "*"}, {"GET", "/f", "bytes=99-", ""}, {"GET", "/f", "bytes=5-2", ""}, {"GET", "/f", "bytes=9223372036854775807-", ""},
		{"GET", "/f", "bytes=-9223372036854775808", ""}, {"POST", "/f", "", ""}, {"GET", "/none", "", ""}, {"GET", "/../f", "octets=1-2", `"a", "b"`},
	} {
		f.Add(s.method, s.path, s.ranges, s.cond)
	}
	file := []byte("0123456789abcdef")
	var seen Event
	h := &Handler{Events: func(e Event) { seen = e }, Files: func(name string) (Content, bool) {
		return Content{Reader: bytes.NewReader(file), Size: int64(len(file)), Digest: "sha256:f"}, name == "f"
	}}
	f.Fuzz(func(t *testing.T, method, path, ranges, cond string) {
		r := &http.Request{Method: method, URL: &url.URL{Path: path}, RemoteAddr: "192.0.2.1:4000",
			Header: http.Header{"Range": {ranges}, "If-Range": {cond}, "If-None-Match": {cond}, "User-Agent": {cond}}}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(t.Context()))
		got, err := io.ReadAll(w.Result().Body)
		if err != nil || h.Panics() != 0 || seen.Status != w.Code || seen.Bytes != int64(len(got)) {
			t.Fatalf("%q %q: %v, status %d, %d bytes, event %+v", method, path, err, w.Code, len(got), seen)
		}
		switch {
		case w.Code == 200 && string(got) == string(file), w.Code == 304 && len(got) == 0:
		case w.Code == 206 && (bytes.Contains(file, got) || strings.HasPrefix(w.Header().Get("Content-Type"), "multipart/")):
		case (w.Code == 200 || w.Code == 206) && method == "HEAD" && len(got) == 0:
		case w.Code >= 400 && len(got) < 64 && !bytes.Contains(got, file[:4]):
		default:
			t.Fatalf("%q %q range %q: %d %q", method, path, ranges, w.Code, got)
		}
	})
}
