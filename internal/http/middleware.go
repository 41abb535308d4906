package http

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/stockroom/stockroom/internal/auth"
	"github.com/stockroom/stockroom/internal/telemetry"
)

const (
	headerRequestID   = "X-Request-Id"
	maxRequestIDBytes = 128
)

// observe is the outermost middleware: it gives the request its id, keeps a
// panic from ending the process, and writes the access log.
func (s *server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		e, r := begin(w, r, start, s.config.RequestTimeout)
		defer e.end()
		header := w.Header()
		e.set(header, headerRequestID, e.id)
		header["X-Content-Type-Options"] = nosniff
		if r.ProtoMajor == 1 && (r.ProtoMinor == 0 || len(r.TransferEncoding) > 0) {
			// Where a length stood beside the chunks, net/http has dropped it without a
			// word: what follows on the connection could be another's view of the same
			// request (RFC 9112, section 6.1).
			header.Set("Connection", "close")
		}
		// chi routes by RawPath where there is one and by the decoded Path
		// otherwise; always routing by the encoded path means that a parameter is
		// decoded once, by us, whatever its text.
		r.URL.RawPath = r.URL.EscapedPath()
		defer func() {
			if cause := recover(); cause != nil {
				s.recovered(e, r, cause)
			}
			s.finished(e, r, time.Since(start))
		}()
		next.ServeHTTP(&e.recorder, r)
	})
}

var nosniff = []string{"nosniff"}

// finished counts and logs a request that has been answered.
func (s *server) finished(e *exchange, r *http.Request, took time.Duration) {
	// The contract's name of the route, whose suffix chi cannot have.
	route := strings.Replace(e.route.RoutePattern(), "{file}", "{name}.json", 1)
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	status := e.status
	if status == 0 { // nothing was written: net/http answers so
		status = http.StatusOK
	}
	if span := trace.SpanFromContext(r.Context()); span.IsRecording() && route != "" {
		span.SetName(r.Method + " " + route)
		span.SetAttributes(semconv.HTTPRoute(route))
	}
	s.Metrics.RequestDone(r.Context(), telemetry.Request{
		Method: r.Method, Scheme: scheme, Route: route, Status: status, Duration: took,
	})
	level := slog.LevelInfo
	if route == "/livez" || route == "/readyz" || route == "/metrics" {
		level = slog.LevelDebug // asked for every few seconds by machines
	}
	if !s.log.Enabled(r.Context(), level) {
		return
	}
	s.log.LogAttrs(r.Context(), level, "request",
		slog.String("method", r.Method),
		slog.String("route", route),
		slog.String("path", r.URL.EscapedPath()),
		slog.Int("status", status),
		slog.Int("bytes", e.bytes),
		slog.Duration("duration", took),
		slog.String("remote", r.RemoteAddr),
	)
}

// recovered answers a request whose handler panicked, if it can still be
// answered, and goes on as if that had been an error.
func (s *server) recovered(e *exchange, r *http.Request, cause any) {
	if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(cause) // net/http's own way to cut a connection
	}
	s.log.ErrorContext(r.Context(), "panic", "cause", cause, "stack", string(debug.Stack()))
	if e.status == 0 {
		s.writeProblem(&e.recorder, r, fmt.Errorf("panic: %v", cause))
	}
}

// requestID returns the caller's id of the request where it is sane: what goes
// into logs and headers unescaped must be.
func requestID(r *http.Request) string {
	lines := r.Header[headerRequestID]
	if len(lines) == 0 {
		return newRequestID()
	}
	id := lines[0]
	if id == "" || len(id) > maxRequestIDBytes || strings.ContainsFunc(id, notInRequestID) {
		return newRequestID()
	}
	return id
}

// newRequestID returns 100 random bits in base 32. They tell requests apart and keep
// no secret.
func newRequestID() string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	var id [20]byte
	for half := range 2 {
		bits := rand.Uint64() //nolint:gosec // see above
		for i := range len(id) / 2 {
			id[half*len(id)/2+i] = digits[bits%32]
			bits /= 32
		}
	}
	return string(id[:])
}

func notInRequestID(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
}

// guarded is in front of everything that needs data: it lets nobody in who may
// not, and turns requests away while the service is not up.
func (s *server) guarded(scope auth.Scopes, next handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := s.admit(w, r, scope); err != nil {
			return err
		}
		if err := s.Serving(); err != nil {
			return err
		}
		return next(w, r)
	}
}

// admit checks the request's API key, its scope and its client's rate. A client
// is known by its key and, where it has none that is good, by its address.
func (s *server) admit(w http.ResponseWriter, r *http.Request, scope auth.Scopes) error {
	// A page whose own name has been made to resolve to this machine is, to the
	// browser, of our origin: only the name in its requests tells.
	if s.config.OwnNamesOnly && fromBrowser(r) && !ownName(r.Host) {
		return &apiError{codeForbidden, "without API keys browsers reach this service by the name localhost or a loopback address only, unless STOCKROOM_ALLOW_INSECURE says otherwise"}
	}
	// A page of another site, open in the browser of somebody who can reach us,
	// must not write here in that one's name.
	if err := s.crossOrigin.Check(r); err != nil {
		return &apiError{codeForbidden, "a browser sent this for a page of another origin"}
	}
	principal, refused := s.authenticate(w, r)
	if s.limiter != nil {
		client := "key:" + principal.ID
		if principal.ID == "" {
			client = "address:" + clientAddress(r)
		}
		if s.limiter.OnLimit(w, r, client) {
			return &apiError{codeRateLimited, "too many requests; see Retry-After"}
		}
	}
	if refused != nil {
		return refused
	}
	if s.Keys != nil && !principal.Has(scope) {
		return &apiError{codeForbidden, "the API key lacks the scope " + scope.String()}
	}
	return nil
}

func (s *server) authenticate(w http.ResponseWriter, r *http.Request) (auth.Principal, error) {
	if s.Keys == nil {
		return auth.Principal{}, nil
	}
	const scheme = "bearer "
	header := r.Header.Get("Authorization")
	if len(header) > len(scheme) && strings.EqualFold(header[:len(scheme)], scheme) {
		if principal, ok := s.Keys.Authenticate(strings.TrimSpace(header[len(scheme):])); ok {
			return principal, nil
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="stockroom", error="invalid_token"`)
		return auth.Principal{}, &apiError{codeUnauthorized, "the API key is not known"}
	}
	w.Header().Set("WWW-Authenticate", `Bearer realm="stockroom"`)
	return auth.Principal{}, &apiError{codeUnauthorized, "an API key is required: Authorization: Bearer <key>"}
}

// fromBrowser tells whether a browser may have sent a request: each sends some of
// these headers with every request, and no page can keep it from that.
func fromBrowser(r *http.Request) bool {
	for _, name := range []string{"Origin", "Sec-Fetch-Site", "Accept-Language", "Referer"} {
		if len(r.Header[name]) > 0 {
			return true
		}
	}
	return strings.HasPrefix(r.UserAgent(), "Mozilla/")
}

// ownName tells whether a request's host, with or without port, is this machine's
// loopback. HTTP/1.0 names none.
func ownName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && ip.Unmap().IsLoopback()
}

// clientAddress is the address of the connection. A header such as
// X-Forwarded-For could be anybody's invention.
func clientAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// methodNotAllowed answers 405 with the methods that the path does have, as RFC
// 9110, section 15.5.6, requires.
func methodNotAllowed(routes chi.Routes) handler {
	methods := []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete}
	return func(w http.ResponseWriter, r *http.Request) error {
		var allowed []string
		for _, method := range methods {
			if method == http.MethodPut && isCatalogue(r.URL.Path) {
				continue // chi knows of no item that cannot be
			}
			if routes.Match(chi.NewRouteContext(), method, r.URL.RawPath) {
				allowed = append(allowed, method)
			}
		}
		// chi takes a method that it does not know for one that is not allowed, and
		// does not know what the names of registry items end with.
		if len(allowed) == 0 || strings.HasPrefix(r.URL.Path, registryPath) && !strings.HasSuffix(r.URL.Path, ".json") {
			return errNoRoute
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return &apiError{codeMethodNotAllowed, "this route allows " + strings.Join(allowed, ", ") + " only"}
	}
}
