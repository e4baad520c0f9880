package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
)

var errMonitorEnded = errors.New("the emulator closed its monitor")

// monitor speaks the QEMU Machine Protocol (docs/interop/qmp-spec.rst) over one
// connection. Commands may be sent from several goroutines.
type monitor struct {
	conn  net.Conn
	event func(name string) // called for every asynchronous event

	mu      sync.Mutex
	last    int
	waiting map[int]chan answer
	ended   error
}

type answer struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
	ID    int    `json:"id"`
}

type command struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        int    `json:"id"`
}

func newMonitor(conn net.Conn, event func(string)) *monitor {
	return &monitor{conn: conn, event: event, waiting: map[int]chan answer{}}
}

// read serves answers until the connection ends.
func (q *monitor) read() {
	d := json.NewDecoder(q.conn)
	for {
		var a answer
		if err := d.Decode(&a); err != nil {
			q.mu.Lock()
			q.ended = errMonitorEnded
			for id, c := range q.waiting {
				close(c)
				delete(q.waiting, id)
			}
			q.mu.Unlock()
			return
		}
		switch {
		case a.Event != "":
			q.event(a.Event)
		case a.ID != 0: // the greeting has none
			q.mu.Lock()
			c := q.waiting[a.ID]
			delete(q.waiting, a.ID)
			q.mu.Unlock()
			if c != nil {
				c <- a
			}
		}
	}
}

// execute sends one command and waits for its answer; result may be nil.
func (q *monitor) execute(ctx context.Context, name string, arguments, result any) error {
	c := make(chan answer, 1)
	q.mu.Lock()
	if q.ended != nil {
		q.mu.Unlock()
		return fmt.Errorf("monitor command %q: %w", name, q.ended)
	}
	q.last++
	id := q.last
	q.waiting[id] = c
	b, err := json.Marshal(command{name, arguments, id})
	if err == nil {
		_, err = q.conn.Write(append(b, '\n'))
	}
	if err != nil {
		delete(q.waiting, id)
	}
	q.mu.Unlock()
	if err != nil {
		return fmt.Errorf("monitor command %q: %w", name, err)
	}
	select {
	case <-ctx.Done():
		q.mu.Lock()
		delete(q.waiting, id)
		q.mu.Unlock()
		return fmt.Errorf("monitor command %q: %w", name, context.Cause(ctx))
	case a, ok := <-c:
		if !ok {
			return fmt.Errorf("monitor command %q: %w", name, errMonitorEnded)
		}
		if a.Error != nil {
			return fmt.Errorf("monitor command %q: %s: %s", name, a.Error.Class, a.Error.Desc)
		}
		if result == nil {
			return nil
		}
		if err := json.Unmarshal(a.Return, result); err != nil {
			return fmt.Errorf("monitor command %q: answer: %w", name, err)
		}
		return nil
	}
}
