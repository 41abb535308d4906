// Package faults is a TCP address in front of a PostgreSQL, on which whatever can
// happen to a network and to the machine behind it happens on demand: refused and
// reset connections, silence, latency, a trickle, and connections that are cut in
// the middle of a statement or of a COMMIT.
package faults

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// maxLinks bounds the connections through a proxy. Beyond it they are reset.
const maxLinks = 1000

// dialTimeout bounds the connecting to the target.
const dialTimeout = 5 * time.Second

// Rule is what befalls connections. The zero Rule passes everything on.
type Rule struct {
	Refuse   bool          // new connections are refused; those that there are stay
	Hang     bool          // nothing gets through, in either direction, until the next rule
	Delay    time.Duration // of every piece, in each direction
	Rate     int           // bytes a second of each connection, in each direction; 0: no limit
	CutAfter int           // a connection is cut when it has sent so many bytes to the server; 0: never
	Commit   Commit        // what becomes of a COMMIT
	Every    int           // of so many of them; 0: of each
	Late     time.Duration // with CommitLate: how late
}

// Commit is what becomes of a COMMIT on its way to the server.
type Commit int

// The fates of a COMMIT. To the client all but CommitPassed look alike.
const (
	CommitPassed     Commit = iota
	CommitLost              // the connection is cut before the server has it
	CommitUnanswered        // the connection is cut when the server has it
	CommitSilent            // the server has it, and the answer never comes
	CommitLate              // the connection is cut, and the server gets it later
)

// commits are how a COMMIT looks on the wire: the message of the simple protocol,
// and the part of Bind that names the statement that pgx has prepared for it (an
// empty portal comes before it). Each is in one piece with what is sent along,
// since the client then waits for the answer.
var commits = [][]byte{
	[]byte("Q\x00\x00\x00\x0bcommit\x00"),
	[]byte("\x00" + statementName("commit") + "\x00"),
}

// statementName is the name under which pgx prepares a statement.
func statementName(sql string) string {
	digest := sha256.Sum256([]byte(sql))
	return "stmtcache_" + hex.EncodeToString(digest[:24])
}

// IsCommit tells whether a piece of what pgx sends to a server has a COMMIT in it.
func IsCommit(piece []byte) bool {
	return slices.ContainsFunc(commits, func(commit []byte) bool { return bytes.Contains(piece, commit) })
}

// Proxy forwards connections to its target under the rule that it was given last.
// Its methods may be called by several goroutines.
type Proxy struct {
	port    *Port
	running sync.WaitGroup
	done    context.Context //nolint:containedctx // ends with the proxy, not with a call
	end     context.CancelFunc

	mu       sync.Mutex
	network  string
	address  string
	rule     Rule
	round    int           // of rules: what a link has sent is counted anew in each
	changed  chan struct{} // closed when the rule changes
	commits  int
	listener net.Listener // nil: connections are refused
	links    map[*link]struct{}
}

// Listen returns a proxy to the target, an address of package net, on a port of
// 127.0.0.1 that it keeps until Close.
func Listen(network, address string) (*Proxy, error) {
	port, err := ReservePort()
	if err != nil {
		return nil, err
	}
	done, end := context.WithCancel(context.Background())
	p := &Proxy{
		port: port, network: network, address: address, done: done, end: end,
		changed: make(chan struct{}), links: make(map[*link]struct{}),
	}
	if err := p.Set(Rule{}); err != nil {
		return nil, errors.Join(err, port.Release())
	}
	return p, nil
}

// Port returns the port's number.
func (p *Proxy) Port() int { return p.port.Number() }

// Target makes new connections go somewhere else.
func (p *Proxy) Target(network, address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.network, p.address = network, address
}

// Set puts rule in force, for the connections that there are, too.
func (p *Proxy) Set(rule Rule) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done.Err() != nil {
		return net.ErrClosed
	}
	p.rule = rule
	p.round++
	p.commits = 0
	close(p.changed)
	p.changed = make(chan struct{})
	switch {
	case rule.Refuse && p.listener != nil:
		err := p.listener.Close()
		p.listener = nil
		return err
	case !rule.Refuse && p.listener == nil:
		listener, err := p.port.Listen()
		if err != nil {
			return fmt.Errorf("faults: listen again: %w", err)
		}
		p.listener = listener
		p.running.Go(func() { p.accept(listener) })
	}
	return nil
}

// Cut resets every connection and returns how many there were.
func (p *Proxy) Cut() int {
	cut := 0
	for _, l := range p.snapshot() {
		if l.reset() {
			cut++
		}
	}
	return cut
}

// Strand leaves every connection behind without a word: the server's side is
// closed, and the client never hears of it. So it looks when a machine is gone
// and another one has taken over its address. It returns how many there were.
func (p *Proxy) Strand() int {
	stranded := 0
	for _, l := range p.snapshot() {
		if l.strand() {
			stranded++
		}
	}
	return stranded
}

// Links returns how many connections there are.
func (p *Proxy) Links() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Close resets every connection, and returns when nothing is left. Further calls
// do nothing.
func (p *Proxy) Close() error {
	closed, err := p.stop()
	if !closed {
		return nil
	}
	for _, l := range p.snapshot() {
		l.reset()
	}
	p.running.Wait()
	return errors.Join(err, p.port.Release())
}

// stop lets nobody in any more. It returns false where that was so already.
func (p *Proxy) stop() (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done.Done():
		return false, nil
	default:
	}
	p.end()
	if p.listener == nil {
		return true, nil
	}
	return true, p.listener.Close()
}

func (p *Proxy) snapshot() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	links := make([]*link, 0, len(p.links))
	for l := range p.links {
		links = append(links, l)
	}
	return links
}

func (p *Proxy) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		l := newLink(p, client)
		if !p.admit(l) {
			l.reset()
			continue
		}
		p.running.Go(l.run)
	}
}

// admit puts a link on the list, unless that is full or closed.
func (p *Proxy) admit(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done.Err() != nil || len(p.links) >= maxLinks {
		return false
	}
	p.links[l] = struct{}{}
	return true
}

func (p *Proxy) forget(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

// dial connects to the target of now.
func (p *Proxy) dial() (net.Conn, error) {
	p.mu.Lock()
	network, address := p.network, p.address
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(p.done, dialTimeout)
	defer cancel()
	return new(net.Dialer).DialContext(ctx, network, address)
}

// inForce returns the rule, its number, and what is closed when another one comes.
func (p *Proxy) inForce() (Rule, int, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rule, p.round, p.changed
}

// hit tells whether a COMMIT is one of those that the rule is about.
func (p *Proxy) hit() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.commits++
	return p.rule.Every <= 1 || p.commits%p.rule.Every == 0
}
