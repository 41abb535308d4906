package faults

import (
	"context"
	"net"
	"sync"
	"time"
)

// bufferSize is the most that is read at once, and held while nothing gets through.
const bufferSize = 32 << 10

// ticksPerSecond is how finely a trickle flows.
const ticksPerSecond = 20

// link is one connection through a proxy.
type link struct {
	proxy  *Proxy
	client net.Conn
	ended  context.Context //nolint:containedctx // ends with the link, not with a call
	end    context.CancelFunc

	mu       sync.Mutex
	server   net.Conn // nil until it is connected
	stranded bool
	muted    bool // what the server says is dropped

	// Of the goroutine that forwards to the server alone.
	round int
	sent  int // to the server, in this round of rules
}

func newLink(p *Proxy, client net.Conn) *link {
	ended, end := context.WithCancel(context.Background())
	return &link{proxy: p, client: client, ended: ended, end: end}
}

// run forwards until one side ends, or the link is cut.
func (l *link) run() {
	defer l.proxy.forget(l)
	defer l.close()
	if !l.proceed() {
		return
	}
	server, err := l.proxy.dial()
	if err != nil {
		l.reset()
		return
	}
	if !l.connected(server) {
		_ = server.Close()
		return
	}
	answers := make(chan struct{})
	go func() {
		defer close(answers)
		l.forward(server, l.client, l.deliver)
		if !l.isStranded() {
			l.close()
		}
	}()
	l.forward(l.client, server, l.deliverToServer)
	l.close()
	<-answers
}

// connected takes the server's side into the link, unless that has ended.
func (l *link) connected(server net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended.Err() != nil || l.stranded {
		return false
	}
	l.server = server
	return true
}

// forward reads from one side and delivers to the other until one of them ends.
func (l *link) forward(from, to net.Conn, deliver func(net.Conn, []byte) bool) {
	buffer := make([]byte, bufferSize)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !deliver(to, buffer[:n]) {
			return
		}
		if err != nil {
			l.proceed() // the end of a connection gets through no sooner than its bytes
			return
		}
	}
}

// proceed returns when the rule lets bytes through; false where the link has ended.
func (l *link) proceed() bool {
	for {
		rule, _, changed := l.proxy.inForce()
		if !rule.Hang {
			return l.ended.Err() == nil
		}
		select {
		case <-changed:
		case <-l.ended.Done():
			return false
		}
	}
}

// deliverToServer delivers what the client sent, as the rule says. It returns
// false when the link has come to its end.
func (l *link) deliverToServer(to net.Conn, piece []byte) bool {
	if l.isStranded() {
		return true // into the void
	}
	if !l.proceed() {
		return false
	}
	rule, round, changed := l.proxy.inForce()
	if l.round != round {
		l.round, l.sent = round, 0
	}
	if rule.CutAfter > 0 && l.sent+len(piece) > rule.CutAfter {
		_, _ = to.Write(piece[:max(rule.CutAfter-l.sent, 0)]) // cut off in a moment
		l.drop()
		return false
	}
	l.sent += len(piece)
	if rule.Commit != CommitPassed && IsCommit(piece) && l.proxy.hit() {
		return l.befall(rule, changed, to, piece)
	}
	return l.deliver(to, piece)
}

// befall lets a COMMIT have its fate, under a rule and until that has changed. It
// returns whether the link goes on.
func (l *link) befall(rule Rule, changed <-chan struct{}, to net.Conn, piece []byte) bool {
	switch rule.Commit {
	case CommitUnanswered:
		_, _ = to.Write(piece)
		l.drop()
		return false
	case CommitSilent:
		l.mute()
		_, err := to.Write(piece)
		return err == nil
	case CommitLate:
		abort(l.client)
		if l.wait(rule.Late, changed) {
			_, _ = to.Write(piece)
		}
		return false
	case CommitPassed, CommitLost:
	}
	l.reset()
	return false
}

// deliver writes a piece, as late and as slowly as the rule says.
func (l *link) deliver(to net.Conn, piece []byte) bool {
	if !l.proceed() {
		return false
	}
	rule, _, changed := l.proxy.inForce()
	if rule.Delay > 0 && !l.wait(rule.Delay, changed) {
		return false
	}
	for len(piece) > 0 {
		if !l.proceed() {
			return false
		}
		n := len(piece)
		if rule, _, changed := l.proxy.inForce(); rule.Rate > 0 {
			n = min(n, max(rule.Rate/ticksPerSecond, 1))
			if !l.wait(time.Second/ticksPerSecond, changed) {
				return false
			}
		}
		if l.isMuted() && to == l.client {
			return true
		}
		if _, err := to.Write(piece[:n]); err != nil {
			// A client that was left behind must not learn of it.
			return to != l.client && l.isStranded()
		}
		piece = piece[n:]
	}
	return true
}

// wait returns after d, or at once when the rule has changed that says to wait, or
// the link ends; false for the latter.
func (l *link) wait(d time.Duration, changed <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-l.ended.Done():
		return false
	}
	return true
}

func (l *link) mute() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.muted = true
}

func (l *link) isMuted() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.muted
}

func (l *link) isStranded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stranded
}

// strand closes the server's side only. It returns false where there is none.
func (l *link) strand() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended.Err() != nil || l.stranded || l.server == nil {
		return false
	}
	l.stranded = true
	abort(l.server)
	return true
}

// close ends the link in order: what has been written gets there.
func (l *link) close() { l.finish(closed, closed) }

// drop is close to the server and a reset to the client.
func (l *link) drop() { l.finish(abort, closed) }

// reset ends the link with a reset on both sides: what is on its way may be lost.
// It returns false where the link had ended.
func (l *link) reset() bool { return l.finish(abort, abort) }

func (l *link) finish(client, server func(net.Conn)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended.Err() != nil {
		return false
	}
	l.end()
	client(l.client)
	if l.server != nil {
		server(l.server)
	}
	return true
}

func closed(conn net.Conn) { _ = conn.Close() }

// abort closes a connection by a reset. A Unix socket has none: what has been
// written to it is read, and then comes the end.
func abort(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
