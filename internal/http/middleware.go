package http

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
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
		id := requestID(r)
		header := w.Header()
		header[headerRequestID] = []string{id}
		header.Set("X-Content-Type-Options", "nosniff")
		// chi routes by RawPath where there is one and by the decoded Path
		// otherwise; always routing by the encoded path means that a parameter is
		// decoded once, by us, whatever its text.
		r.URL.RawPath = r.URL.EscapedPath()

		recorder := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		routed := chi.NewRouteContext()
		r = r.WithContext(context.WithValue(r.Context(), chi.RouteCtxKey, routed))
		defer func() {
			if cause := recover(); cause != nil {
				s.recovered(recorder, r, cause)
			}
			s.log.LogAttrs(r.Context(), slog.LevelInfo, "request",
				slog.String("method", r.Method),
				slog.String("route", routed.RoutePattern()),
				slog.String("path", r.URL.EscapedPath()),
				slog.Int("status", recorder.Status()),
				slog.Int("bytes", recorder.BytesWritten()),
				slog.Duration("duration", time.Since(start)),
				slog.String("remote", r.RemoteAddr),
				slog.String("request_id", id),
			)
		}()
		next.ServeHTTP(recorder, r)
	})
}

// recovered answers a request whose handler panicked, if it can still be
// answered, and goes on as if that had been an error.
func (s *server) recovered(w middleware.WrapResponseWriter, r *http.Request, cause any) {
	if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(cause) // net/http's own way to cut a connection
	}
	s.log.ErrorContext(r.Context(), "panic", "cause", cause, "stack", string(debug.Stack()))
	if w.Status() == 0 {
		s.writeProblem(w, r, fmt.Errorf("panic: %v", cause))
	}
}

// requestID returns the caller's id of the request where it is sane: what goes
// into logs and headers unescaped must be.
func requestID(r *http.Request) string {
	id := r.Header.Get(headerRequestID)
	if id == "" || len(id) > maxRequestIDBytes || strings.ContainsFunc(id, notInRequestID) {
		return rand.Text()
	}
	return id
}

func notInRequestID(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
}

// serve is in front of everything that needs data: it turns requests away while
// the service is not up, and bounds their time.
func (s *server) serve(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.Serving(); err != nil {
			s.writeProblem(w, r, err)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), s.config.RequestTimeout)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// methodNotAllowed answers 405 with the methods that the path does have, as RFC
// 9110, section 15.5.6, requires.
func methodNotAllowed(routes chi.Routes) handler {
	methods := []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete}
	return func(w http.ResponseWriter, r *http.Request) error {
		var allowed []string
		for _, method := range methods {
			if routes.Match(chi.NewRouteContext(), method, r.URL.RawPath) {
				allowed = append(allowed, method)
			}
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return &apiError{codeMethodNotAllowed, "this route allows " + strings.Join(allowed, ", ") + " only"}
	}
}
