// Package conntrack knows every connection that is open, to clients and to the
// database: what it is doing and since when. What is left in it after a shutdown
// is a leak.
package conntrack

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Kind says which side a connection is on.
type Kind string

// The kinds of connections.
const (
	HTTP     Kind = "http"
	Database Kind = "database"
)

// Activity says what a connection is doing.
type Activity int32

// The activities of connections.
const (
	New         Activity = iota // open, and nothing has come yet
	Idle                        // between two requests or transactions
	Request                     // a client's request
	Transaction                 // somebody's transaction
	Listening                   // waits for notices of other servers, and sends our own
)

// String returns the activity in words.
func (a Activity) String() string {
	switch a {
	case New:
		return "new"
	case Idle:
		return "idle"
	case Request:
		return "request"
	case Transaction:
		return "transaction"
	case Listening:
		return "listening"
	}
	return "unknown"
}

// Registry holds the open connections. The zero Registry is empty and ready; it
// is safe for concurrent use.
type Registry struct {
	mu    sync.Mutex
	conns map[*Conn]struct{}
}

// Conn is an open connection in a registry.
type Conn struct {
	registry *Registry
	kind     Kind
	opened   time.Time
	// Written for every request: so they are plain numbers, not a pointer to both.
	doing atomic.Int32
	since atomic.Int64 // after opened, in nanoseconds
}

// Info is what is known of an open connection.
type Info struct {
	Kind   Kind
	Opened time.Time
	Doing  Activity
	Since  time.Time // of what it is doing
}

// Open registers a connection that is open now, with what it is doing. The
// caller must Close it when it is closed.
func (r *Registry) Open(kind Kind, doing Activity) *Conn {
	c := &Conn{registry: r, kind: kind, opened: time.Now()}
	c.doing.Store(int32(doing))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		r.conns = make(map[*Conn]struct{})
	}
	r.conns[c] = struct{}{}
	return c
}

// Does says what the connection is doing from now on.
func (c *Conn) Does(what Activity) {
	c.doing.Store(int32(what))
	c.since.Store(int64(time.Since(c.opened)))
}

// Close takes the connection out of its registry. It may be called more than once.
func (c *Conn) Close() {
	c.registry.mu.Lock()
	defer c.registry.mu.Unlock()
	delete(c.registry.conns, c)
}

// Count returns how many connections of a kind are open.
func (r *Registry) Count(kind Kind) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for c := range r.conns {
		if c.kind == kind {
			n++
		}
	}
	return n
}

// List returns the open connections, the oldest first.
func (r *Registry) List() []Info {
	r.mu.Lock()
	list := make([]Info, 0, len(r.conns))
	for c := range r.conns {
		list = append(list, Info{
			Kind: c.kind, Opened: c.opened,
			Doing: Activity(c.doing.Load()), Since: c.opened.Add(time.Duration(c.since.Load())),
		})
	}
	r.mu.Unlock()
	slices.SortFunc(list, func(a, b Info) int { return a.Opened.Compare(b.Opened) })
	return list
}
