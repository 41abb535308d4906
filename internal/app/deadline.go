package app

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// deadlineConn is a connection whose deadlines cost little to move. net/http moves them
// half a dozen times for each request, nearly always to later, and to move a timer is
// what most of that costs. So they are moved at once only to sooner; one to later is kept
// in mind, and looked at when the sooner one has passed.
type deadlineConn struct {
	tcpConn
	reads, writes deadline
}

// tcpConn is what net/http asks of a TCP connection, without its ReadFrom, which would
// go past Write.
type tcpConn interface {
	net.Conn
	CloseWrite() error
}

// Read reads until the deadline that was asked for last.
func (c *deadlineConn) Read(p []byte) (int, error) {
	if err := c.reads.resume(c.tcpConn.SetReadDeadline); err != nil {
		return 0, err
	}
	for {
		n, err := c.tcpConn.Read(p)
		if n > 0 || !c.reads.postponed(err, c.tcpConn.SetReadDeadline) {
			return n, err
		}
	}
}

// Write writes until the deadline that was asked for last.
func (c *deadlineConn) Write(p []byte) (written int, err error) {
	for {
		n, err := c.tcpConn.Write(p[written:])
		written += n
		if !c.writes.postponed(err, c.tcpConn.SetWriteDeadline) {
			return written, err
		}
	}
}

// SetReadDeadline sets the deadline of Read, also of one under way.
func (c *deadlineConn) SetReadDeadline(t time.Time) error {
	return c.reads.move(t, c.tcpConn.SetReadDeadline)
}

// SetWriteDeadline sets the deadline of Write, also of one under way.
func (c *deadlineConn) SetWriteDeadline(t time.Time) error {
	return c.writes.move(t, c.tcpConn.SetWriteDeadline)
}

// SetDeadline sets both.
func (c *deadlineConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// deadline is one of reads or of writes. It is safe for concurrent use.
type deadline struct {
	mu     sync.Mutex
	wanted time.Time // what was asked for last; zero: none
	armed  time.Time // what the connection has: wanted, or sooner; zero: none
	// before is what the connection had before its reader was woken; zero: it was not,
	// or had none.
	before time.Time
	woken  bool
}

// move makes t the deadline. set gives the connection another one.
func (d *deadline) move(t time.Time, set func(time.Time) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted = t
	if !sooner(t, d.armed) {
		return nil
	}
	if wakes(t) && !d.woken {
		d.woken, d.before = true, d.armed
	}
	d.armed = t
	return set(t)
}

// resume gives back a deadline to a connection whose reader was woken.
func (d *deadline) resume(set func(time.Time) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.woken || wakes(d.wanted) {
		return nil
	}
	d.woken, d.armed = false, d.wanted
	if sooner(d.before, d.wanted) {
		d.armed = d.before
	}
	return set(d.armed)
}

// postponed tells whether err is that of a deadline which has been moved since to one
// that has not passed; then the connection has that one now.
func (d *deadline) postponed(err error, set func(time.Time) error) bool {
	if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.wanted.IsZero() && time.Until(d.wanted) <= 0 {
		return false
	}
	d.woken, d.armed = false, d.wanted
	return set(d.armed) == nil
}

// sooner tells whether deadline a is before b.
func sooner(a, b time.Time) bool {
	return !a.IsZero() && (b.IsZero() || a.Before(b))
}

// wakes tells whether t is how net/http wakes its own reader between two requests: a
// second of 1970, for a moment. Any other that has passed does so too, at more cost.
func wakes(t time.Time) bool { return t.Unix() == 1 }
