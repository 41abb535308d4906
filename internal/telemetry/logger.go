package telemetry

import (
	"context"
	"io"
	"log/slog"

	"go.opentelemetry.io/otel/trace"
)

// NewLogger returns a logger of lines on w, from the level up. The format is
// "text", in the form of slog's TextHandler, or else JSON. A record that is logged
// with a context carries, beside its own attributes and outside of every group,
// request_id, trace_id and span_id, as far as the context has them.
func NewLogger(w io.Writer, level slog.Leveler, format string) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if format == "text" {
		return slog.New(newIDHandler(slog.NewTextHandler(w, opts)))
	}
	return slog.New(newIDHandler(slog.NewJSONHandler(w, opts)))
}

type requestIDKey struct{}

// WithRequestID returns a context that carries the request's id.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID returns the id that WithRequestID put into the context, or "".
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// idHandler adds the context's ids to each record.
type idHandler struct {
	slog.Handler // with everything below applied

	// What the handler was before its first group, and what came since: inside
	// of a group the ids have to be added before it is opened.
	base    slog.Handler
	grouped []func(slog.Handler) slog.Handler
}

func newIDHandler(h slog.Handler) *idHandler { return &idHandler{Handler: h, base: h} }

// Handle adds the ids and passes the record on.
func (h *idHandler) Handle(ctx context.Context, r slog.Record) error {
	var ids []slog.Attr
	if id := RequestID(ctx); id != "" {
		ids = append(ids, slog.String("request_id", id))
	}
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		ids = append(ids, slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	switch {
	case len(ids) == 0:
		return h.Handler.Handle(ctx, r)
	case len(h.grouped) == 0:
		r = r.Clone()
		r.AddAttrs(ids...)
		return h.Handler.Handle(ctx, r)
	default:
		next := h.base.WithAttrs(ids)
		for _, apply := range h.grouped {
			next = apply(next)
		}
		return next.Handle(ctx, r)
	}
}

// WithAttrs returns a handler whose records have the attributes too.
func (h *idHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(h.grouped) == 0 {
		return newIDHandler(h.Handler.WithAttrs(attrs))
	}
	return h.within(func(next slog.Handler) slog.Handler { return next.WithAttrs(attrs) })
}

// WithGroup returns a handler whose records have their attributes in the group.
func (h *idHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.within(func(next slog.Handler) slog.Handler { return next.WithGroup(name) })
}

func (h *idHandler) within(apply func(slog.Handler) slog.Handler) *idHandler {
	grouped := make([]func(slog.Handler) slog.Handler, 0, len(h.grouped)+1)
	grouped = append(append(grouped, h.grouped...), apply)
	return &idHandler{Handler: apply(h.Handler), base: h.base, grouped: grouped}
}
