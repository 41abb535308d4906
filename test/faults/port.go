package faults

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// Port is a TCP port of 127.0.0.1 that stays ours while nothing listens on it: so
// what listens there can go and come back. Until then connections are refused.
//
// On Linux a socket that is bound but does not listen keeps the port out of
// everybody's reach who does not name it, and lets in who does.
type Port struct {
	socket int
	number int
}

// ReservePort picks a free port. The caller must Release it.
func ReservePort() (*Port, error) {
	syscall.ForkLock.RLock()
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(socket)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("faults: reserve a port: %w", err)
	}
	number, err := bind(socket)
	if err != nil {
		_ = syscall.Close(socket)
		return nil, fmt.Errorf("faults: reserve a port: %w", err)
	}
	return &Port{socket: socket, number: number}, nil
}

func bind(socket int) (int, error) {
	if err := syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return 0, err
	}
	if err := syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, err
	}
	bound, err := syscall.Getsockname(socket)
	if err != nil {
		return 0, err
	}
	inet, ok := bound.(*syscall.SockaddrInet4)
	if !ok {
		return 0, fmt.Errorf("the socket is bound to a %T", bound)
	}
	return inet.Port, nil
}

// Number returns the port's number.
func (p *Port) Number() int { return p.number }

// Address returns host and port.
func (p *Port) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.number)) }

// Listen listens on the port. When the listener is closed, the port is still
// reserved.
func (p *Port) Listen() (net.Listener, error) {
	return new(net.ListenConfig).Listen(context.Background(), "tcp", p.Address())
}

// Release gives the port back. It must be called once.
func (p *Port) Release() error { return syscall.Close(p.socket) }
