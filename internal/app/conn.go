package app

import (
	"bytes"
	"net"
)

// maxHeld bounds what is held back of an answer. Beyond it, one write more or less
// makes no difference.
const maxHeld = 64 << 10

// maxKept bounds the memory that an idle connection keeps for its next answer.
const maxKept = 8 << 10

// listener accepts connections as clientConns.
type listener struct{ *net.TCPListener }

// Accept waits for the next connection.
func (l listener) Accept() (net.Conn, error) {
	conn, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return newClientConn(conn), nil
}

// clientConn is a connection to a client that writes an answer in one piece. Where
// the headers and the body together are longer than net/http's buffer of 4 KiB, as
// half of all components are, that writes twice, and to write is the better part of
// what it costs to answer from the cache.
//
// It is used by the goroutine that serves the connection; others only close it, and
// then what is held back is lost: a part of an answer.
type clientConn struct {
	deadlineConn
	entry *tracked // set before it is served

	body int    // bytes of the body that is announced; 0: nothing is
	held []byte // the beginning of the answer
	size int    // of the whole answer, while something is held back
}

func newClientConn(conn *net.TCPConn) *clientConn {
	return &clientConn{deadlineConn: deadlineConn{tcpConn: conn}}
}

// ExpectBody says that an answer with a body of n bytes is about to be written.
func (c *clientConn) ExpectBody(n int) {
	if n <= maxHeld {
		c.body = n
	}
}

// Write writes p, or holds it back until the rest of the answer has come.
func (c *clientConn) Write(p []byte) (int, error) {
	switch {
	case len(c.held) > 0:
		c.held = append(c.held, p...)
		if len(c.held) < c.size {
			return len(p), nil
		}
		return len(p), c.release()
	case c.body > 0:
		header := bytes.Index(p, []byte("\r\n\r\n"))
		size := header + len("\r\n\r\n") + c.body
		c.body = 0
		if header >= 0 && len(p) < size {
			c.held, c.size = append(c.held, p...), size
			return len(p), nil
		}
	}
	return c.deadlineConn.Write(p)
}

// release writes what is held back.
func (c *clientConn) release() error {
	_, err := c.deadlineConn.Write(c.held)
	c.held = c.held[:0]
	if cap(c.held) > maxKept {
		c.held = nil
	}
	return err
}

// idle is called when an answer has ended, whatever was announced.
func (c *clientConn) idle() {
	c.body = 0
	if len(c.held) > 0 {
		_ = c.release() // net/http will see it when it reads
	}
}
