package http

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/stockroom/stockroom/internal/telemetry"
)

// exchange is a request with its answer. All that belongs to it is one piece of
// memory: most requests are answered from the cache, in less time than it takes to
// allocate the parts.
type exchange struct {
	recorder
	requestContext
	values [6]string // of headers, see set
	used   int
}

// set sets a header that has one value, without allocating.
func (e *exchange) set(header http.Header, name, value string) {
	if e.used == len(e.values) {
		header[name] = []string{value}
		return
	}
	e.values[e.used] = value
	header[name] = e.values[e.used : e.used+1 : e.used+1]
	e.used++
}

// setHeader sets a header, by its canonical name, that has one value.
func setHeader(w http.ResponseWriter, name, value string) {
	if r, ok := w.(*recorder); ok {
		r.whole.set(w.Header(), name, value)
		return
	}
	w.Header()[name] = []string{value}
}

// recorder is the response writer of an exchange, which keeps what was answered.
type recorder struct {
	http.ResponseWriter
	whole  *exchange
	status int // 0: nothing has been written
	bytes  int
}

// WriteHeader keeps the status, unless it is one of those that precede another.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= http.StatusOK {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write counts what is written.
func (r *recorder) Write(body []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(body)
	r.bytes += n
	return n, err
}

// Unwrap lets an http.ResponseController find the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

type connKey struct{}

// answerer is a connection that writes an answer in one piece when it knows how
// long its body is.
type answerer interface{ ExpectBody(n int) }

// WithConn is for an http.Server's ConnContext. It lets answers tell a connection
// with a method ExpectBody(n int) how long their bodies are.
func WithConn(ctx context.Context, conn net.Conn) context.Context {
	if a, ok := conn.(answerer); ok {
		return context.WithValue(ctx, connKey{}, a)
	}
	return ctx
}

// expectBody says that a body of n bytes follows at once, and will not be left out
// as that of an answer to HEAD is.
func expectBody(w http.ResponseWriter, n int) {
	if r, ok := w.(*recorder); ok {
		if a, ok := r.whole.parent.Value(connKey{}).(answerer); ok {
			a.ExpectBody(n)
		}
	}
}

// requestContext is the context of a request: it ends with its parent, which is
// net/http's, at its deadline, or when the request has been answered. What that
// takes is made only when somebody asks for its end, which an answer from the cache
// does not.
type requestContext struct {
	parent   context.Context //nolint:containedctx // it is a context
	deadline time.Time
	id       string
	route    *chi.Context

	mu       sync.Mutex
	inner    context.Context //nolint:containedctx // likewise
	cancel   context.CancelFunc
	answered bool
}

// Deadline returns until when the request has to be answered.
func (c *requestContext) Deadline() (time.Time, bool) { return c.deadline, true }

// Done returns a channel that is closed when the request ends.
func (c *requestContext) Done() <-chan struct{} { return c.bounded().Done() }

// Err tells why the request has ended.
func (c *requestContext) Err() error { return c.bounded().Err() }

// Value returns what belongs to the request, to its parent, or to what ends it.
func (c *requestContext) Value(key any) any {
	switch key {
	case chi.RouteCtxKey:
		return c.route
	case telemetry.RequestIDKey:
		return &c.id
	}
	c.mu.Lock()
	inner := c.inner
	c.mu.Unlock()
	if inner == nil {
		inner = c.parent
	}
	return inner.Value(key)
}

// bounded returns the context that ends when the request does.
func (c *requestContext) bounded() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		c.inner, c.cancel = context.WithDeadline(c.parent, c.deadline)
		if c.answered {
			c.cancel()
		}
	}
	return c.inner
}

// end ends the context, since the request has been answered.
func (c *requestContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered = true
	if c.cancel != nil {
		c.cancel()
	}
}

// routeContexts are chi's, which are large, and of no use to anybody once their
// request has been answered.
var routeContexts = sync.Pool{New: func() any { return chi.NewRouteContext() }}

// begin makes a request part of an exchange that must be answered within timeout.
// The caller has to end it.
func begin(w http.ResponseWriter, r *http.Request, start time.Time, timeout time.Duration) (*exchange, *http.Request) {
	route, ok := routeContexts.Get().(*chi.Context)
	if !ok {
		route = chi.NewRouteContext()
	}
	e := &exchange{
		recorder:       recorder{ResponseWriter: w},
		requestContext: requestContext{parent: r.Context(), deadline: start.Add(timeout), id: requestID(r), route: route},
	}
	e.whole = e
	return e, r.WithContext(&e.requestContext)
}

// end gives back what can be used again.
func (e *exchange) end() {
	route := e.route
	e.requestContext.end()
	e.route = nil
	route.Reset()
	routeContexts.Put(route)
}
