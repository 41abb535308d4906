package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stockroom/stockroom/internal/config"
	"github.com/stockroom/stockroom/internal/conntrack"
	stockhttp "github.com/stockroom/stockroom/internal/http"
)

const (
	// readHeaderTimeout and idleTimeout keep connections that send nothing from
	// being held for ever.
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
	// writeMargin is what an answer may take to be read beyond its request's time.
	writeMargin = 10 * time.Second
	// cancelMargin is what cancelled requests get to give their answer, and
	// drainMargin what all that follows the grace may take.
	cancelMargin = time.Second
	drainMargin  = 3 * time.Second
	// freshGrace is how long a connection without a request is kept at shutdown.
	freshGrace = 250 * time.Millisecond
)

// server is the listener with the HTTP server on it.
type server struct {
	listener net.Listener
	http     *http.Server
	handler  atomic.Pointer[http.Handler]
	tls      bool
	failed   chan error // gets the error that ends the server by itself
	cancel   context.CancelFunc

	log      *slog.Logger
	registry *conntrack.Registry
	open     sync.WaitGroup // connections

	mu    sync.Mutex
	conns map[net.Conn]*tracked
}

// listen begins to listen and to answer with handler.
func listen(ctx context.Context, cfg config.Config, registry *conntrack.Registry, log *slog.Logger, handler http.Handler) (*server, error) {
	certificates, err := loadCertificates(cfg)
	if err != nil {
		return nil, err
	}
	bound, err := new(net.ListenConfig).Listen(ctx, "tcp", string(cfg.Addr))
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if tcp, ok := bound.(*net.TCPListener); ok {
		bound = listener{tcp}
	}
	// Requests outlive the signal that ends ctx: they are finished first.
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &server{
		listener: bound,
		tls:      cfg.TLS(),
		failed:   make(chan error, 1),
		cancel:   cancel,
		log:      log,
		registry: registry,
		conns:    make(map[net.Conn]*tracked),
	}
	s.handle(handler)
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serveHTTP),
		ReadHeaderTimeout: readHeaderTimeout,
		// Longer than a request may take: when it passes, net/http takes the client for
		// gone, even one that has sent everything, and calls the request off.
		ReadTimeout:    cfg.RequestTimeout + readHeaderTimeout,
		WriteTimeout:   cfg.RequestTimeout + writeMargin,
		IdleTimeout:    idleTimeout,
		MaxHeaderBytes: maxHeaderBytes,
		BaseContext:    func(net.Listener) context.Context { return requests },
		ConnContext:    stockhttp.WithConn,
		ConnState:      s.track,
		TLSConfig:      certificates,
		// What net/http has to say is about single connections of clients.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	go func() {
		var err error
		if s.tls {
			err = s.http.ServeTLS(bound, "", "")
		} else {
			err = s.http.Serve(bound)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("serve: %w", err)
		}
	}()
	return s, nil
}

// loadCertificates returns the configuration of TLS, nil without it.
func loadCertificates(cfg config.Config) (*tls.Config, error) {
	if !cfg.TLS() {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(cfg.TLSCertFile, cfg.TLSKeyFile)
	if err != nil {
		return nil, fmt.Errorf("STOCKROOM_TLS_CERT_FILE and STOCKROOM_TLS_KEY_FILE: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}, nil
}

// handle makes next answer the requests from now on.
func (s *server) handle(next http.Handler) { s.handler.Store(&next) }

func (s *server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	(*s.handler.Load()).ServeHTTP(w, r)
}

// address returns host and port that the server listens on.
func (s *server) address() string { return s.listener.Addr().String() }

func (s *server) url() string {
	if s.tls {
		return "https://" + s.address()
	}
	return "http://" + s.address()
}

// tracked is an open connection.
type tracked struct {
	*conntrack.Conn
	used atomic.Bool // a request has begun on it
}

// track registers connections from when they are accepted until they are closed.
func (s *server) track(conn net.Conn, state http.ConnState) {
	plain, _ := conn.(*clientConn) // nil: it is encrypted
	switch state {
	case http.StateNew:
		entry := &tracked{Conn: s.registry.Open(conntrack.HTTP, conntrack.New)}
		if plain != nil {
			plain.entry = entry
		}
		s.open.Add(1)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.conns[conn] = entry
	case http.StateActive:
		if entry := s.entryOf(conn, plain); entry != nil {
			if !entry.used.Load() {
				entry.used.Store(true)
			}
			entry.Does(conntrack.Request)
		}
	case http.StateIdle:
		if plain != nil {
			plain.idle()
		}
		if entry := s.entryOf(conn, plain); entry != nil {
			entry.Does(conntrack.Idle)
		}
	case http.StateClosed, http.StateHijacked:
		s.mu.Lock()
		defer s.mu.Unlock()
		if entry := s.conns[conn]; entry != nil {
			entry.Close()
			delete(s.conns, conn)
			s.open.Done()
		}
	}
}

// entryOf returns what is known of an open connection. Twice for each request: so a
// connection has it at hand, if it is ours.
func (s *server) entryOf(conn net.Conn, plain *clientConn) *tracked {
	if plain != nil {
		return plain.entry
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns[conn]
}

// drain stops accepting, waits at most grace for the requests in flight, cancels
// those that are left, and cuts the connections on which even then no answer comes.
// It is an error only if something is left behind after that.
func (s *server) drain(ctx context.Context, grace time.Duration) error {
	// net/http would wait five seconds for a connection that has sent nothing,
	// such as a browser's spare one. Whoever has connected to send gets a moment.
	closeFresh := time.AfterFunc(freshGrace, s.closeFresh)
	defer closeFresh.Stop()
	err := s.shutdown(ctx, grace)
	s.cancel()
	if err != nil {
		s.log.WarnContext(ctx, "shutdown: requests are cancelled", "grace", grace)
		err = s.shutdown(ctx, cancelMargin)
	}
	if err != nil {
		s.log.WarnContext(ctx, "shutdown: connections are cut")
		if err := s.http.Close(); err != nil {
			return fmt.Errorf("close the connections: %w", err)
		}
	}
	return s.awaitClosed(ctx)
}

// shutdown waits for the requests in flight, at most for limit.
func (s *server) shutdown(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return s.http.Shutdown(ctx)
}

// awaitClosed waits for the connections that have been closed to be noticed as such.
func (s *server) awaitClosed(ctx context.Context) error {
	closed := make(chan struct{})
	go func() {
		s.open.Wait()
		close(closed)
	}()
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("connections are left behind: %w", ctx.Err())
	}
}

func (s *server) closeFresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn, c := range s.conns {
		if !c.used.Load() {
			_ = conn.Close() // already closed is as good
		}
	}
}
