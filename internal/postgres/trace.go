package postgres

import (
	"context"
	"strings"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
)

// Tracer is told of statements and connections.
type Tracer = pgx.QueryTracer

// NewTracer returns a tracer that makes a span of each statement and connection,
// without the values of parameters.
func NewTracer(provider trace.TracerProvider) Tracer {
	return otelpgx.NewTracer(
		otelpgx.WithTracerProvider(provider),
		// The pool is measured by those who own it.
		otelpgx.WithMeterProvider(noop.NewMeterProvider()),
		otelpgx.WithDisableConnectionDetailsInAttributes(),
		otelpgx.WithSpanNameCtxFunc(func(ctx context.Context, sql string) string {
			return otelpgx.SQLOperationName(ctx, strings.TrimLeft(sql, "( \t\n")) // a UNION may begin with a bracket
		}),
	)
}
