package operator

import (
	"bytes"
	"context"
	"image/color"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/operator/operatortest"
)

// browser opens a URL in a headless browser and returns the document as its
// scripts left it, and a picture. Its clock runs ahead when nothing is loaded.
func browser(t *testing.T, name, url, size string) (dom string, pic []byte) {
	t.Helper()
	var exe string
	for _, e := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(e); err == nil {
			exe = p
			break
		}
	}
	if exe == "" {
		t.Skip("skipped: no chromium; on Debian: apt-get install --no-install-recommends chromium fonts-dejavu-core")
	}
	file := filepath.Join(t.ArtifactDir(), name+".png")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--user-data-dir="+t.TempDir(), "--window-size="+size, "--virtual-time-budget=5000", "--dump-dom", "--screenshot="+file, url)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", exe, err, errOut.String())
	}
	pic, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), pic
}

// colours counts what a picture shows, and returns its upper left corner.
func colours(t *testing.T, pic []byte) (n int, corner string) {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(pic))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[color.RGBA]bool{}
	b := img.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y += 2 {
		for x := b.Min.X; x < b.Max.X; x += 2 {
			seen[color.RGBAModel.Convert(img.At(x, y)).(color.RGBA)] = true
		}
	}
	c := color.RGBAModel.Convert(img.At(b.Min.X, b.Min.Y)).(color.RGBA)
	return len(seen), string([]byte{hex(c.R >> 4), hex(c.R), hex(c.G >> 4), hex(c.G), hex(c.B >> 4), hex(c.B)})
}

func hex(b uint8) byte { return "0123456789abcdef"[b&15] }

func TestPageInABrowser(t *testing.T) {
	const light, dark = "f4f6f8", "0d1014"
	all := []string{"7K3-M9Q", "Q0W-4ZT", "SW-SEED-NO-4011", "SW-DISK-AMBIGUOUS", ">slipway approve 7K3-M9Q<", ">slipway check cluster.yaml<",
		"not ours: lab printer", "kubeadm join: control-plane-join/etcd", "611 MB of 1.41 GB", "&lt;img src=x onerror=alert(1)&gt;", "beside 10.20.0.254", ">12:3"}
	for _, tt := range []struct {
		name, theme, size, corner string
		machines                  int
		want                      []string
	}{
		{"none", "light", "1280,800", light, 0, []string{"No machine has asked yet", "10.20.0.1/24"}},
		{"one", "light", "1280,800", light, 1, []string{">7K3-M9Q<", "<title>(1) 0/1 ready · fab-7</title>"}},
		{"light", "light", "1600,1900", light, 12, all},
		{"dark", "dark", "1600,1900", dark, 12, all},
		{"phone", "light", "500,3000", light, 12, all},
		{"many", "dark", "1920,2400", dark, 200, append([]string{"<title>(4) 190/196 ready · fab-7</title>", "worker-197"}, all...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := httptest.NewServer(pageAt(operatortest.New(tt.machines), operatortest.Now))
			defer s.Close()
			dom, pic := browser(t, tt.name, s.URL+"/#"+tt.theme, tt.size)
			for _, w := range tt.want {
				if !strings.Contains(dom, w) {
					t.Errorf("the document has no %q", w)
				}
			}
			if n := strings.Count(dom, `<article class="machine`); n != tt.machines {
				t.Errorf("%d rows, want %d", n, tt.machines)
			}
			shown, _, _ := strings.Cut(dom, "<script")
			if strings.Contains(dom, "<img") || strings.ContainsAny(shown, "\x1b\u202e") {
				t.Error("a machine's text is more than text")
			}
			if n, corner := colours(t, pic); n < 60 || corner != tt.corner {
				t.Errorf("the picture has %d colours on %s, want at least 60 on %s", n, corner, tt.corner)
			}
			if !strings.Contains(dom, `<div id="gone" role="alert" hidden="">`) {
				t.Error("the page thinks that the seed is gone")
			}
		})
	}
}

func TestPageSaysThatTheSeedIsGone(t *testing.T) {
	h := pageAt(operatortest.New(3), operatortest.Now)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	}))
	defer s.Close()
	dom, _ := browser(t, "gone", s.URL+"/#light", "1280,900")
	for _, w := range []string{"The seed has not answered since", "<title>seed gone · fab-7</title>", `<body class="gone">`, "7K3-M9Q"} {
		if !strings.Contains(dom, w) {
			t.Errorf("the document has no %q", w)
		}
	}
}

// TestPageIsLive: between two questions bytes arrive and a machine is approved;
// a click shows a timeline. The click is a script more than the page has, so
// that this page goes without its policy.
func TestPageIsLive(t *testing.T) {
	d := operatortest.New(12)
	h := pageAt(d, operatortest.Now)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			d.Change("worker-1", func(m *seed.Machine) { m.Done += 50_000_000 })
			_, _ = d.Approve("cp-2", "7K3-M9Q") // refused from the second time on
			h.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, strings.Replace(rec.Body.String(), "</html>", `<script>document.querySelector("[data-id='52:54:00:12:00:04'] h3").click()</script></html>`, 1))
	}))
	defer s.Close()
	dom, _ := browser(t, "live", s.URL+"/#light", "1280,1600")
	shown, _, _ := strings.Cut(dom, "<script")
	for _, w := range []string{" MB/s", " left", "<title>(3) 2/8 ready · fab-7</title>", ">shimx64.efi 948 kB<", ">10:", ">Needs you<b>3</b>", ">On the way<b>6</b>"} {
		if !strings.Contains(shown, w) {
			t.Errorf("the document has no %q", w)
		}
	}
	if strings.Contains(shown, ">7K3-M9Q<") || strings.Contains(shown, "slipway approve 7K3-M9Q") {
		t.Error("the code of a machine that was approved is still there")
	}
}
