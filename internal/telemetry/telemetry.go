// Package telemetry makes the logger, the traces and the metrics of a server.
//
// It touches no global of OpenTelemetry: who measures is given a provider or the
// Metrics, so that several servers can live in one process.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	promexporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	nooptrace "go.opentelemetry.io/otel/trace/noop"
)

// Scope is the name under which the server's own spans and metrics stand.
const Scope = "github.com/stockroom/stockroom"

// shutdownTimeout bounds Shutdown, whatever its context allows: a collector that
// does not answer must not hold up the end of the server.
const shutdownTimeout = 5 * time.Second

// Options are what Setup cannot find out by itself.
type Options struct {
	ServiceName string                   // where OTEL_* names none; "stockroom" if empty
	Version     string                   // of the service
	Getenv      func(name string) string // os.Getenv if nil
	Logger      *slog.Logger             // told when traces cannot be delivered; nobody if nil
}

// Telemetry is what Setup made. Its fields are for reading.
type Telemetry struct {
	TracerProvider trace.TracerProvider          // a no-op unless OTEL_* asks for traces
	MeterProvider  metric.MeterProvider          // read by MetricsHandler
	Propagator     propagation.TextMapPropagator // W3C trace context and baggage
	Metrics        *Metrics                      // the server's instruments

	registry  *prometheus.Registry
	shutdowns []func(context.Context) error
	abort     context.CancelFunc // calls off a delivery that is under way

	once sync.Once
	err  error
}

// Setup makes the telemetry that the standard variables ask for; config.Variables
// lists them. Each of these, and the same with OTEL_EXPORTER_OTLP_TRACES_ for a
// prefix, is read by opts.Getenv. What else OpenTelemetry's SDK knows (OTEL_BSP_*,
// the exporter's TIMEOUT, COMPRESSION and CERTIFICATE) it reads from the process's
// environment by itself.
//
// Nothing is sent and nobody is asked: a collector that is away is no error. A
// variable that cannot be understood is one; the error shows no values.
func Setup(ctx context.Context, opts Options) (*Telemetry, error) {
	if opts.Getenv == nil {
		opts.Getenv = os.Getenv
	}
	if opts.ServiceName == "" {
		opts.ServiceName = "stockroom"
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	env := environment(opts.Getenv)

	t := &Telemetry{
		TracerProvider: nooptrace.NewTracerProvider(),
		MeterProvider:  noopmetric.NewMeterProvider(),
		Propagator:     propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
		registry:       prometheus.NewRegistry(),
		abort:          func() {},
	}
	if err := errors.Join(
		t.registry.Register(collectors.NewGoCollector()),
		t.registry.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})),
	); err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	if !env.disabled() {
		res, err := env.resource(ctx, opts.ServiceName, opts.Version)
		if err != nil {
			return nil, fmt.Errorf("telemetry: %w", err)
		}
		if err := errors.Join(t.setupMetrics(res), t.setupTraces(ctx, env, res, opts.Logger)); err != nil {
			return nil, errors.Join(fmt.Errorf("telemetry: %w", err), t.Shutdown(ctx))
		}
	}
	var err error
	if t.Metrics, err = NewMetrics(t.MeterProvider.Meter(Scope)); err != nil {
		return nil, errors.Join(fmt.Errorf("telemetry: %w", err), t.Shutdown(ctx))
	}
	return t, nil
}

func (t *Telemetry) setupMetrics(res *resource.Resource) error {
	exporter, err := promexporter.New(
		promexporter.WithRegisterer(t.registry),
		promexporter.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes),
		// The scope is the same for nearly all: as labels it is only noise.
		promexporter.WithoutScopeInfo(),
	)
	if err != nil {
		return err
	}
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithResource(res))
	t.MeterProvider = provider
	t.shutdowns = append(t.shutdowns, provider.Shutdown)
	return nil
}

func (t *Telemetry) setupTraces(ctx context.Context, env environment, res *resource.Resource, log *slog.Logger) error {
	exporter, err := env.traceExporter(ctx)
	if exporter == nil || err != nil {
		return err
	}
	sampler, err := env.sampler()
	if err != nil {
		return errors.Join(err, exporter.Shutdown(ctx))
	}
	aborted, abort := context.WithCancel(context.Background())
	t.abort = abort
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(&quietExporter{SpanExporter: exporter, log: log, aborted: aborted}),
		sdktrace.WithResource(res),
		sdktrace.WithSampler(sampler),
	)
	t.TracerProvider = provider
	t.shutdowns = append(t.shutdowns, provider.Shutdown)
	return nil
}

// Tracing reports whether traces are made at all. Where they are not, whoever
// would only pass them on can be left out, at no cost.
func (t *Telemetry) Tracing() bool {
	_, off := t.TracerProvider.(nooptrace.TracerProvider)
	return !off
}

// Tracer makes the server's own spans.
func (t *Telemetry) Tracer() trace.Tracer { return t.TracerProvider.Tracer(Scope) }

// MetricsHandler answers with all metrics in Prometheus' formats: those of
// MeterProvider, the Go runtime's and the process's.
func (t *Telemetry) MetricsHandler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// Shutdown sends the spans that are still held and stops. It returns within five
// seconds, or when the context ends. Further calls return what the first did.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	t.once.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
		defer cancel()
		defer t.abort()
		errs := make([]error, 0, len(t.shutdowns))
		for _, shutdown := range t.shutdowns {
			errs = append(errs, shutdown(ctx))
		}
		if err := errors.Join(errs...); err != nil {
			t.err = fmt.Errorf("telemetry: %w", err)
		}
	})
	return t.err
}

// quietExporter logs the first failure of a row and its end. The SDK would hand
// every failure to its global error handler.
type quietExporter struct {
	sdktrace.SpanExporter
	log     *slog.Logger
	aborted context.Context //nolint:containedctx // ends when deliveries are to be called off
	failing bool            // the SDK exports one batch at a time
}

// ExportSpans never returns an error.
func (e *quietExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.aborted, cancel)() //nolint:contextcheck // beside the one that was given

	err := e.SpanExporter.ExportSpans(ctx, spans)
	if failing := err != nil; failing != e.failing {
		e.failing = failing
		if failing {
			e.log.WarnContext(ctx, "traces cannot be delivered and are dropped", "error", err)
		} else {
			e.log.InfoContext(ctx, "traces are delivered again")
		}
	}
	return nil
}
