package handoff

// Before a node writes a disk that holds others' data, the seed keeps what the
// first writes destroy: partition tables, superblocks, and every other place
// that is written before file systems are made. Until then the wipe can be
// undone.
//
//	POST PathSaved         saved beginning → Window   application/octet-stream, at most MaxSaved bytes
//	GET  PathSaved/{id}    → the same bytes           for a node that lost power in between
//	POST PathWipe          Wiping → Window            202 while a node waits and nobody stops it
//
// A saved beginning is Saved as one line of JSON, and the bytes of its places one
// after the other, packed with zstd (RFC 8878).
const (
	PathSaved = "/v1/saved"
	PathWipe  = "/v1/wipe"
)

// Limits of a saved beginning, in bytes.
const (
	MaxPlaces    = 64 << 20 // of the disk
	MaxSavedHead = 64 << 10
	MaxSaved     = MaxPlaces + MaxPlaces/64 + MaxSavedHead // zstd may grow what it cannot pack
)

// SavedFormat is the value of Saved.Format.
const SavedFormat = 1

// Saved says of which disk a saved beginning is, and where its bytes were.
type Saved struct {
	Format int    `json:"format"`
	ID     string `json:"id"` // 16 random bytes in hex
	Node   string `json:"node"`
	Disk   Disk   `json:"disk"`
	// Begun: a node's note is on the disk, an earlier try began to write it.
	Begun  bool    `json:"begun,omitempty"`
	Places []Place `json:"places"` // by At, apart from each other
	SHA256 string  `json:"sha256"` // hex, of what follows the line
}

// Place is a run of bytes from the start of a disk.
type Place struct {
	At   int64 `json:"at"`
	Size int64 `json:"size"`
}

// WipeStage is how far a node is with writing a disk that held others' data.
type WipeStage string

// The stages.
const (
	WipeAgain  WipeStage = "again"  // an earlier start of this machine began: is its wipe still to be undone?
	WipeWaits  WipeStage = "waits"  // saved, and nothing is written: the operator may look
	WipeTables WipeStage = "tables" // the saved places are written next
	WipeLarge  WipeStage = "large"  // file systems are made next: there is no undoing after this
	WipeUndone WipeStage = "undone" // nothing was written, or all of it was written back and read back
)

// Wiping is what a node says of its wipe.
type Wiping struct {
	ID    string    `json:"id,omitempty"` // of Saved; none with WipeAgain
	Stage WipeStage `json:"stage"`
	Disk  Disk      `json:"disk,omitzero"` // with WipeAgain
	Text  string    `json:"text,omitempty"`
}

// Window is what a node may do. ID is "" when nothing is saved that could be
// brought back.
type Window struct {
	ID   string `json:"id,omitempty"`
	Wait int    `json:"wait,omitempty"` // seconds that the operator has before anything is written
	Undo bool   `json:"undo,omitempty"` // write nothing; what was written, write back
}
