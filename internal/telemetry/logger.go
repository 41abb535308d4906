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

// RequestIDKey is the key under which the context of a request has its id, a
// *string: a pointer, so that asking for it allocates nothing.
var RequestIDKey any = requestIDKey{}

// RequestID returns the id of the request that the context is of, or "".
func RequestID(ctx context.Context) string {
	if id, ok := ctx.Value(RequestIDKey).(*string); ok {
		return *id
	}
	return ""
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
	id := RequestID(ctx)
	span := trace.SpanContextFromContext(ctx)
	switch {
	case id == "" && !span.IsValid():
		return h.Handler.Handle(ctx, r)
	case len(h.grouped) > 0:
		next := h.base.WithAttrs(attrs(id, span))
		for _, apply := range h.grouped {
			next = apply(next)
		}
		return next.Handle(ctx, r)
	case span.IsValid():
		r = r.Clone()
		r.AddAttrs(attrs(id, span)...)
		return h.Handler.Handle(ctx, r)
	default: // what most lines are
		r = r.Clone()
		r.AddAttrs(slog.String("request_id", id))
		return h.Handler.Handle(ctx, r)
	}
}

func attrs(id string, span trace.SpanContext) []slog.Attr {
	var ids []slog.Attr
	if id != "" {
		ids = append(ids, slog.String("request_id", id))
	}
	if span.IsValid() {
		ids = append(ids, slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return ids
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
