package app

import "net"

// NewClientConn returns conn as the server serves it.
func NewClientConn(conn *net.TCPConn) net.Conn { return newClientConn(conn) }
