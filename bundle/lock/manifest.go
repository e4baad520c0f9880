package lock

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway.dev/slipway/configs/arch"
)

// Role says what a blob is used for on a node.
type Role string

// The roles a blob can have.
const (
	RoleKernel    Role = "kernel"
	RoleInitramfs Role = "initramfs"
	RoleSystem    Role = "system" // EROFS of the root file system
	RoleLayer     Role = "layer"  // EROFS of one container image layer
	RoleImages    Role = "images" // OCI archive of manifests and configs, no layers
	RoleLoader    Role = "loader" // what firmware fetches over the network before the kernel
	// RoleDiskLoader is what an installed node's disk starts with, "disk/<file>".
	RoleDiskLoader Role = "disk-loader"
	// RoleBlocks is the list of another blob's blocks, "<its name>.blocks"; see Blocks.
	RoleBlocks Role = "blocks"
)

// ManifestFormat is the version of the manifest's shape.
const ManifestFormat = 1

// Manifest lists every blob of one bundle for one architecture. It is signed
// as a file (manifest.sig: 64 bytes of ed25519 over the exact bytes of
// manifest.json) and is the only way a node finds content.
type Manifest struct {
	Format     int       `json:"format"`
	Name       string    `json:"name"`       // metadata.name of bundle.yaml
	Serial     uint64    `json:"serial"`     // grows with every release; never goes back
	Arch       arch.Arch `json:"arch"`       //
	Built      time.Time `json:"built"`      // floor for a node's clock
	Kubernetes string    `json:"kubernetes"` // "v1.37.1"
	Blobs      []Blob    `json:"blobs"`      // sorted by role, then name
}

// Blob is one file of the store: blobs/sha256/<File()>.
type Blob struct {
	Name   string `json:"name"` // unique: "system.erofs", "layers/kube-proxy.1"
	Role   Role   `json:"role"`
	Size   int64  `json:"size"` // bytes
	SHA256 Digest `json:"sha256"`
	// DiffID names a layer as the image config does: sha256 of its tar.
	DiffID Digest `json:"diffID,omitempty"`
	// Chunks are the sha256 of each ChunkSize bytes, the last chunk shorter, so
	// that a blob can be verified by several processors and piece by piece.
	Chunks []Digest `json:"chunks"`
	// Frames are the lengths in bytes of the zstd frames (RFC 8878) that hold
	// one chunk each, in order, nothing between them; without, the file is plain.
	// Size, SHA256 and Chunks are always those of the plain bytes.
	Frames []int64 `json:"frames,omitempty"`
}

// File is the blob's name below blobs/sha256: its digest, and ".zst" when it
// is in frames.
func (b Blob) File() string {
	if len(b.Frames) > 0 {
		return string(b.SHA256) + ".zst"
	}
	return string(b.SHA256)
}

// StoredSize is the number of bytes the blob takes on a medium.
func (b Blob) StoredSize() int64 {
	if len(b.Frames) == 0 {
		return b.Size
	}
	var n int64
	for _, f := range b.Frames {
		n += f
	}
	return n
}

// ChunkSize is the number of bytes that one entry of Blob.Chunks stands for.
const ChunkSize = 4 << 20

// ChunkCount is how many chunks a blob of size bytes has.
func ChunkCount(size int64) int { return int((size + ChunkSize - 1) / ChunkSize) }

// Chunks digests r, size bytes, chunk by chunk with as many goroutines as
// processors. A shorter r is an error.
func Chunks(r io.ReaderAt, size int64) ([]Digest, error) {
	out := make([]Digest, ChunkCount(size))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range out {
		g.Go(func() error {
			d, n, err := Sum(io.NewSectionReader(r, int64(i)*ChunkSize, ChunkSize))
			if want := min(ChunkSize, size-int64(i)*ChunkSize); err == nil && n != want {
				err = fmt.Errorf("chunk %d: got %d bytes, want %d", i, n, want)
			}
			out[i] = d
			return err
		})
	}
	return out, g.Wait()
}

// Find returns the only blob of the role, or an error that says how many there are.
func (m *Manifest) Find(r Role) (Blob, error) {
	var found []Blob
	for _, b := range m.Blobs {
		if b.Role == r {
			found = append(found, b)
		}
	}
	if len(found) != 1 {
		return Blob{}, fmt.Errorf("manifest %q: want one blob of role %q, got %d", m.Name, r, len(found))
	}
	return found[0], nil
}

// Encode renders the manifest with a stable layout.
func (m *Manifest) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding manifest: %w", err)
	}
	return append(b, '\n'), nil
}

// Sign returns manifest.sig for the exact bytes of manifest.json.
func Sign(key ed25519.PrivateKey, manifest []byte) []byte { return ed25519.Sign(key, manifest) }

// Open verifies the signature over the exact bytes, then decodes and checks them.
func Open(pub ed25519.PublicKey, manifest, sig []byte) (*Manifest, error) {
	if len(pub) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("manifest: public key has %d bytes, want %d", len(pub), ed25519.PublicKeySize)
	}
	if !ed25519.Verify(pub, manifest, sig) {
		return nil, fmt.Errorf("manifest: signature does not match key %x", pub[:8])
	}
	return decode(manifest)
}

func decode(b []byte) (*Manifest, error) {
	var m Manifest
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if m.Format != ManifestFormat {
		return nil, fmt.Errorf("manifest: format %d, this program reads %d", m.Format, ManifestFormat)
	}
	seen := map[string]bool{}
	for _, bl := range m.Blobs {
		if _, err := ParseDigest(string(bl.SHA256)); err != nil {
			return nil, fmt.Errorf("manifest: blob %q: %w", bl.Name, err)
		}
		if bl.Name == "" || seen[bl.Name] {
			return nil, fmt.Errorf("manifest: blob name %q is empty or used twice", bl.Name)
		}
		if bl.Size < 0 || len(bl.Chunks) != ChunkCount(bl.Size) {
			return nil, fmt.Errorf("manifest: blob %q: %d chunks for %d bytes, want %d", bl.Name, len(bl.Chunks), bl.Size, ChunkCount(bl.Size))
		}
		if len(bl.Frames) > 0 && (len(bl.Frames) != len(bl.Chunks) || slices.Min(bl.Frames) < 1 || slices.Max(bl.Frames) > 2*ChunkSize) {
			return nil, fmt.Errorf("manifest: blob %q: %d frames for %d chunks, or one that is empty or longer than %d bytes", bl.Name, len(bl.Frames), len(bl.Chunks), 2*ChunkSize)
		}
		for _, c := range bl.Chunks {
			if _, err := ParseDigest(string(c)); err != nil {
				return nil, fmt.Errorf("manifest: blob %q: chunks: %w", bl.Name, err)
			}
		}
		seen[bl.Name] = true
	}
	return &m, nil
}
