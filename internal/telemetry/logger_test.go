package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"testing"
	"testing/slogtest"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
)

func traced(t *testing.T) context.Context {
	t.Helper()
	traceID, err := trace.TraceIDFromHex("0123456789abcdef0123456789abcdef")
	require.NoError(t, err)
	spanID, err := trace.SpanIDFromHex("0123456789abcdef")
	require.NoError(t, err)
	return trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID}))
}

// record logs by the function and returns the line without time.
func record(t *testing.T, log func(*slog.Logger)) map[string]any {
	t.Helper()
	var b bytes.Buffer
	log(NewLogger(&b, slog.LevelDebug, "json"))
	line := map[string]any{}
	require.NoError(t, json.Unmarshal(b.Bytes(), &line))
	require.NotEmpty(t, line["time"])
	delete(line, "time")
	return line
}

func TestLoggerAddsIDs(t *testing.T) {
	t.Parallel()
	both := withRequestID(traced(t), "r-1")
	ids := map[string]any{"request_id": "r-1", "trace_id": "0123456789abcdef0123456789abcdef", "span_id": "0123456789abcdef"}
	with := func(more map[string]any) map[string]any {
		want := map[string]any{"level": "INFO", "msg": "m"}
		maps.Copy(want, ids)
		maps.Copy(want, more)
		return want
	}

	require.Equal(t, with(map[string]any{"a": 1.0}), record(t, func(l *slog.Logger) { l.InfoContext(both, "m", "a", 1) }))
	require.Equal(t, with(map[string]any{"a": 1.0, "b": 2.0}), record(t, func(l *slog.Logger) { l.With("a", 1).InfoContext(both, "m", "b", 2) }))
	require.Equal(t,
		with(map[string]any{"a": 1.0, "g": map[string]any{"b": 2.0, "h": map[string]any{"c": 3.0}}}),
		record(t, func(l *slog.Logger) {
			l.With("a", 1).WithGroup("").WithGroup("g").With("b", 2).WithGroup("h").InfoContext(both, "m", "c", 3)
		}), "ids stay outside of groups")

	require.Equal(t, map[string]any{"level": "WARN", "msg": "m", "request_id": "r-2"},
		record(t, func(l *slog.Logger) { l.WarnContext(withRequestID(t.Context(), "r-2"), "m") }))
	require.Equal(t, map[string]any{"level": "INFO", "msg": "m"},
		record(t, func(l *slog.Logger) { l.InfoContext(t.Context(), "m") }))
}

func TestGroupsDoNotShare(t *testing.T) {
	t.Parallel()
	ctx := withRequestID(t.Context(), "r")
	var b bytes.Buffer
	group := NewLogger(&b, slog.LevelInfo, "json").WithGroup("g")
	one, two := group.With("one", 1), group.With("two", 2)
	one.InfoContext(ctx, "m")
	require.Contains(t, b.String(), `"request_id":"r","g":{"one":1}}`)
	b.Reset()
	two.InfoContext(ctx, "m")
	require.Contains(t, b.String(), `"request_id":"r","g":{"two":2}}`)
}

func TestLoggerLevelAndFormat(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	var level slog.LevelVar
	l := NewLogger(&b, &level, "text")
	l.DebugContext(t.Context(), "unseen")
	require.Empty(t, b.String())
	level.Set(slog.LevelDebug)
	l.DebugContext(withRequestID(t.Context(), "r"), "seen")
	require.Regexp(t, `^time=\S+ level=DEBUG msg=seen request_id=r\n$`, b.String())
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	require.Empty(t, RequestID(t.Context()))
	require.Equal(t, "r", RequestID(withRequestID(t.Context(), "r")))
}

// The handler keeps slog's rules for handlers.
func TestHandlerConforms(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	slogtest.Run(t, func(*testing.T) slog.Handler {
		b.Reset()
		return NewLogger(&b, slog.LevelInfo, "json").Handler()
	}, func(t *testing.T) map[string]any {
		t.Helper()
		line := map[string]any{}
		require.NoError(t, json.Unmarshal(b.Bytes(), &line))
		return line
	})
}

func withRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, RequestIDKey, &id)
}
