package drive

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"
)

const (
	maxFile    = 8 << 20          // bytes of one command's output that are kept, the last
	perCommand = 30 * time.Second // a disk that hangs must not hold the others up
	perNode    = 5 * time.Minute
	atOnce     = 4 // nodes
	maxUnits   = 64
)

// File is one file of a support bundle.
type File struct {
	Name string // path below the bundle's directory
	Data []byte
}

// Bundle is what goes into a support bundle.
type Bundle struct {
	Name  string    // of its directory
	Time  time.Time // of its files
	Nodes []Node
	Seed  []File                  // what the seed knows, below seed/
	Tell  func(n Node, err error) // after each node, nil: all went well; from one goroutine at a time
}

// unsafeName is what a file name should not hold, for whoever unpacks it.
var unsafeName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

func safe(name string) string {
	s := strings.TrimLeft(unsafeName.ReplaceAllString(name, "_"), ".")
	if s == "" {
		return "_"
	}
	return s
}

// SupportBundle writes a tar.gz: per node what it says of itself, and the seed's
// files, with secrets masked. A node that cannot be asked is a file that says
// why, and no error. Errors are those of w and of ctx.
func (d *Driver) SupportBundle(ctx context.Context, b Bundle, w io.Writer) error {
	z := gzip.NewWriter(w)
	a := &archive{tar: tar.NewWriter(z), top: safe(b.Name), at: b.Time, mask: newMasker()}
	for _, f := range b.Seed {
		if err := a.add(path.Join("seed", path.Clean("/"+f.Name)), string(f.Data)); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	var mu sync.Mutex
	for _, n := range b.Nodes {
		g.Go(func() error {
			limit, cancel := context.WithTimeout(ctx, perNode)
			defer cancel()
			files, problem := d.gather(limit, n)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			mu.Lock()
			defer mu.Unlock()
			for _, f := range files {
				if err := a.add(path.Join("nodes", safe(n.Name), f.Name), string(f.Data)); err != nil {
					return err
				}
			}
			if b.Tell != nil {
				b.Tell(n, problem)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return errors.Join(a.tar.Close(), z.Close())
}

// archive adds files under one directory, masked.
type archive struct {
	tar  *tar.Writer
	top  string
	at   time.Time
	mask masker
}

func (a *archive) add(name, text string) error {
	text = a.mask.text(text)
	if err := a.tar.WriteHeader(&tar.Header{Name: path.Join(a.top, name), Mode: 0o600, Size: int64(len(text)), ModTime: a.at, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err := io.WriteString(a.tar, text)
	return err
}

// gather asks one node everything; the error says what could not be had.
func (d *Driver) gather(ctx context.Context, n Node) ([]File, error) {
	c, err := d.dial(ctx, n)
	if err != nil {
		text := err.Error() + "\n"
		var e *Error
		if errors.As(err, &e) && e.hint != "" {
			text += "hint: " + e.hint + "\n"
		}
		return []File{{Name: "unreachable.txt", Data: []byte(text)}}, err
	}
	q := &questions{Driver: d, node: n, client: c}
	defer func() { q.client.Close() }()
	q.ask(ctx, "status.txt", "slipway", "status")
	q.ask(ctx, "events.jsonl", "slipway", "events", "-o", "json")
	units := strings.Fields(q.ask(ctx, "services.txt", "slipway", "logs"))
	units = slices.DeleteFunc(units, func(u string) bool { return !unitName.MatchString(u) })
	for _, u := range []string{"containerd", "kubelet"} {
		if !slices.Contains(units, u) {
			units = append(units, u) // its absence is worth a line
		}
	}
	for _, u := range units[:min(len(units), maxUnits)] {
		q.ask(ctx, path.Join("logs", u+".txt"), "slipway", "logs", u)
	}
	q.ask(ctx, "dmesg.txt", "dmesg")
	q.ask(ctx, "ip-addr.txt", "ip", "addr")
	q.ask(ctx, "ip-route.txt", "ip", "route")
	q.ask(ctx, "df.txt", "df", "-k")
	return q.files, errors.Join(q.problems...)
}

// questions are one node's, over one connection, or a new one after a command
// that hung.
type questions struct {
	*Driver
	node     Node
	client   *ssh.Client
	files    []File
	problems []error
}

// ask keeps a command's output, and why it has none, as a file.
func (q *questions) ask(ctx context.Context, name string, argv ...string) string {
	patience := perCommand
	if q.within != nil {
		patience = q.within(argv)
	}
	limit, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out := &tail{most: maxFile}
	err := run(limit, q.client, out, argv...)
	text := out.String()
	if err != nil {
		q.problems = append(q.problems, &Error{Node: q.node.Name, Err: err})
		text += fmt.Sprintf("\n[slipway: %v]\n", err)
	}
	q.files = append(q.files, File{Name: name, Data: []byte(text)})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil { // run closed the connection
		if c, err := q.dial(ctx, q.node); err == nil {
			q.client = c
		}
	}
	return out.String()
}
