package telemetry

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	nooptrace "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// setup is Setup with the variables, name=value; it is shut down in the end.
func setup(t *testing.T, log io.Writer, variables ...string) *Telemetry {
	t.Helper()
	tel, err := Setup(t.Context(), Options{Version: "v1.2.3", Getenv: getenv(variables...), Logger: NewLogger(log, slog.LevelInfo, "json")})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = tel.Shutdown(ctx) // the second, for most
	})
	return tel
}

func getenv(variables ...string) func(string) string {
	return func(name string) string {
		for _, v := range variables {
			if value, ok := strings.CutPrefix(v, name+"="); ok {
				return value
			}
		}
		return ""
	}
}

func scrape(t *testing.T, tel *Telemetry) string {
	t.Helper()
	w := httptest.NewRecorder()
	tel.MetricsHandler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
	require.Equal(t, http.StatusOK, w.Code)
	return w.Body.String()
}

// collector is an OTLP collector that keeps what it is sent.
type collector struct {
	*httptest.Server
	mu    sync.Mutex
	paths []string
	auth  []string
	body  bytes.Buffer
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		var body io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			unzipped, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			body = unzipped
		}
		c.paths = append(c.paths, r.URL.Path)
		c.auth = append(c.auth, r.Header.Get("Authorization"))
		if _, err := io.Copy(&c.body, body); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func TestWithoutVariablesTracesAreOff(t *testing.T) {
	t.Parallel()
	for _, variables := range [][]string{
		nil,
		{"OTEL_TRACES_EXPORTER=none", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1"},
		{"OTEL_SDK_DISABLED=TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_TRACES_SAMPLER=nonsense"},
	} {
		tel := setup(t, io.Discard, variables...)
		require.IsType(t, nooptrace.TracerProvider{}, tel.TracerProvider)
		_, span := tel.TracerProvider.Tracer(Scope).Start(t.Context(), "s")
		require.False(t, span.IsRecording())
		require.NoError(t, tel.Shutdown(t.Context()))
	}
}

func TestTracesReachTheCollector(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name      string
		variables []string // {} is the collector
		path      string
		auth      string
		service   string
	}{
		{
			"base", []string{
				"OTEL_EXPORTER_OTLP_ENDPOINT={}", "OTEL_EXPORTER_OTLP_HEADERS=x-a=b, Authorization=Bearer%20s3cret",
				"OTEL_RESOURCE_ATTRIBUTES=team=a%20team,service.name=from-attributes",
			}, "/v1/traces", "Bearer s3cret", "from-attributes",
		},
		{
			"base with a path", []string{
				"OTEL_EXPORTER_OTLP_ENDPOINT={}/otlp/", "OTEL_SERVICE_NAME=from-name", "OTEL_RESOURCE_ATTRIBUTES=service.name=from-attributes",
			}, "/otlp/v1/traces", "", "from-name",
		},
		{
			"for traces", []string{
				"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT={}/here", "OTEL_TRACES_EXPORTER=otlp",
				"OTEL_EXPORTER_OTLP_HEADERS=Authorization=no", "OTEL_EXPORTER_OTLP_TRACES_HEADERS=Authorization=yes", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
			}, "/here", "yes", "stockroom",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := newCollector(t)
			for i := range tc.variables {
				tc.variables[i] = strings.ReplaceAll(tc.variables[i], "{}", c.URL)
			}
			tel := setup(t, io.Discard, tc.variables...)
			_, span := tel.TracerProvider.Tracer(Scope).Start(t.Context(), "a-span-of-ours")
			require.True(t, span.IsRecording())
			span.End()
			require.NoError(t, tel.Shutdown(t.Context()))
			require.NoError(t, tel.Shutdown(t.Context()), "again")

			c.mu.Lock()
			defer c.mu.Unlock()
			require.Equal(t, []string{tc.path}, c.paths)
			require.Equal(t, []string{tc.auth}, c.auth)
			for _, text := range []string{"a-span-of-ours", tc.service, "v1.2.3"} {
				require.Contains(t, c.body.String(), text)
			}
		})
	}
}

func TestSampler(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, arg, want string }{
		{"", "", "ParentBased{root:AlwaysOnSampler"},
		{"always_on", "", "AlwaysOnSampler"},
		{"always_off", "", "AlwaysOffSampler"},
		{"traceidratio", "", "TraceIDRatioBased{1}"},
		{"traceidratio", "0.25", "TraceIDRatioBased{0.25}"},
		{"ParentBased_TraceIDRatio", "0.5", "ParentBased{root:TraceIDRatioBased{0.5}"},
		{"parentbased_always_off", "ignored", "ParentBased{root:AlwaysOffSampler"},
	} {
		sampler, err := environment(getenv("OTEL_TRACES_SAMPLER="+tc.name, "OTEL_TRACES_SAMPLER_ARG="+tc.arg)).sampler()
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(sampler.Description(), tc.want), sampler.Description())
	}
}

func TestSetupRefusesWhatItDoesNotUnderstand(t *testing.T) {
	t.Parallel()
	const on = "OTEL_TRACES_EXPORTER=otlp"
	for _, variable := range []string{
		"OTEL_TRACES_EXPORTER=s3cret",
		"OTEL_TRACES_EXPORTER=console",
		"OTEL_EXPORTER_OTLP_ENDPOINT=s3cret:4317",
		"OTEL_EXPORTER_OTLP_ENDPOINT=ftp://s3cret",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://s3%cret",
		"OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
		"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json",
		"OTEL_EXPORTER_OTLP_HEADERS=s3cret",
		"OTEL_EXPORTER_OTLP_TRACES_HEADERS==s3cret",
		"OTEL_EXPORTER_OTLP_HEADERS=a=s3cret%zz",
		"OTEL_RESOURCE_ATTRIBUTES=s3cret",
		"OTEL_TRACES_SAMPLER=s3cret",
		"OTEL_TRACES_SAMPLER=parentbased_",
		"OTEL_TRACES_SAMPLER_ARG=s3cret",
		"OTEL_TRACES_SAMPLER_ARG=1.5",
		"OTEL_TRACES_SAMPLER_ARG=NaN",
	} {
		name, _, _ := strings.Cut(variable, "=")
		variables := []string{variable, on}
		if name == "OTEL_TRACES_SAMPLER_ARG" {
			variables = append(variables, "OTEL_TRACES_SAMPLER=traceidratio")
		}
		tel, err := Setup(t.Context(), Options{Getenv: getenv(variables...)})
		require.Nil(t, tel, variable)
		require.ErrorContains(t, err, name+": expected", variable)
		require.NotContains(t, err.Error(), "s3", variable)
	}
}

func TestShutdownDoesNotWaitForTheCollector(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{}, 16)
	c := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client left
		arrived <- struct{}{}
		<-r.Context().Done()
	}))
	defer c.Close()
	tel := setup(t, io.Discard, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.URL)
	_, span := tel.TracerProvider.Tracer(Scope).Start(t.Context(), "s")
	span.End()

	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	require.ErrorIs(t, tel.Shutdown(ctx), context.Canceled)
	require.ErrorIs(t, tel.Shutdown(t.Context()), context.Canceled, "again")
	// c.Close returns, and goleak finds nothing: the delivery was called off.
}

func TestFailedDeliveriesAreLoggedOnce(t *testing.T) {
	t.Parallel()
	var logged bytes.Buffer
	inner := &failing{err: errors.New("no collector")}
	e := &quietExporter{SpanExporter: inner, log: NewLogger(&logged, slog.LevelInfo, "text"), aborted: t.Context()}
	export := func(err error) {
		inner.err = err
		require.NoError(t, e.ExportSpans(t.Context(), tracetest.SpanStubs{{Name: "s"}}.Snapshots()))
	}
	for _, err := range []error{nil, inner.err, inner.err, inner.err, nil, nil, inner.err} {
		export(err)
	}
	require.Equal(t, 2, strings.Count(logged.String(), "cannot be delivered"), logged.String())
	require.Equal(t, 1, strings.Count(logged.String(), "delivered again"))
}

type failing struct {
	sdktrace.SpanExporter
	err error
}

func (f *failing) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return f.err }

func TestMetricsHandler(t *testing.T) {
	t.Parallel()
	tel := setup(t, io.Discard)
	ctx := t.Context()
	tel.Metrics.RequestDone(ctx, Request{Method: "GET", Scheme: "http", Route: "/v1/items/{key}", Status: 200, Duration: time.Second})
	tel.Metrics.ObserveCache(func() CacheState { return CacheState{Hits: map[string]int64{"entry": 1}} })
	tel.Metrics.SlotWaited(ctx, time.Second)
	tel.Metrics.ObserveGate(func() GateState { return GateState{Slots: 16} })
	tel.Metrics.ObservePool(func() PoolState { return PoolState{Used: 4} })
	tel.Metrics.ObserveBreaker(func() string { return "closed" })
	tel.Metrics.ObserveUsage(func() (Usage, bool) {
		return Usage{Limit: 7, Kinds: map[string]KindUsage{"entry": {Bytes: 5, Items: 1}}}, true
	})
	tel.Metrics.ObserveConnections(func() map[string]int { return map[string]int{"listener": 1} })

	body := scrape(t, tel)
	for _, line := range []string{
		`http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="200",http_route="/v1/items/{key}",url_scheme="http"} 1`,
		`http_server_request_duration_seconds_bucket{http_request_method="GET",http_response_status_code="200",http_route="/v1/items/{key}",url_scheme="http",le="0.75"} 0`,
		`stockroom_cache_hits_total{kind="entry"} 1`,
		`stockroom_slot_wait_duration_seconds_sum 1`,
		`stockroom_slot_limit 16`,
		`stockroom_slot_rejections_total{reason="timeout"} 0`,
		`stockroom_breaker_state{state="closed"} 1`,
		`stockroom_usage_bytes{kind="entry"} 5`,
		`stockroom_usage_limit_bytes 7`,
		`stockroom_items{kind="entry"} 1`,
		`stockroom_connections{type="listener"} 1`,
		`db_client_connection_count{db_client_connection_pool_name="stockroom",db_client_connection_state="used"} 4`,
	} {
		require.Contains(t, body, line+"\n")
	}
	require.Regexp(t, `target_info\{.*service_name="stockroom",service_version="v1.2.3"`, body)
	require.Contains(t, body, "go_goroutines ")
	require.Contains(t, body, "process_start_time_seconds ")

	problems, err := promlint.New(strings.NewReader(body)).Lint()
	require.NoError(t, err)
	for _, p := range problems {
		require.NotContains(t, p.Metric, "stockroom_", p.Text) // the others' names are not ours to choose
	}

	require.NoError(t, tel.Shutdown(ctx))
	require.NotContains(t, scrape(t, tel), "stockroom_", "after Shutdown only the process is left")
}

func TestDisabledMetrics(t *testing.T) {
	t.Parallel()
	tel := setup(t, io.Discard, "OTEL_SDK_DISABLED=true")
	tel.Metrics.Expired(t.Context(), "entry", 1)
	body := scrape(t, tel)
	require.NotContains(t, body, "stockroom_")
	require.Contains(t, body, "go_goroutines ")
}

func TestGlobalsAreLeftAlone(t *testing.T) {
	t.Parallel()
	one, two := setup(t, io.Discard, "OTEL_TRACES_EXPORTER=otlp"), setup(t, io.Discard)
	require.IsType(t, &sdktrace.TracerProvider{}, one.TracerProvider)
	require.NotEqual(t, one.TracerProvider, otel.GetTracerProvider())
	_, sdk := otel.GetMeterProvider().(*sdkmetric.MeterProvider)
	require.False(t, sdk)
	require.Empty(t, otel.GetTextMapPropagator().Fields())

	one.Metrics.Expired(t.Context(), "entry", 1)
	require.Contains(t, scrape(t, one), `stockroom_expirations_total{kind="entry"} 1`)
	require.Contains(t, scrape(t, two), `stockroom_expirations_total{kind="entry"} 0`)
}

func TestPropagator(t *testing.T) {
	t.Parallel()
	tel := setup(t, io.Discard)
	in := propagation.MapCarrier{"traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01", "baggage": "a=b"}
	ctx := tel.Propagator.Extract(t.Context(), in)
	require.Equal(t, "0123456789abcdef0123456789abcdef", trace.SpanContextFromContext(ctx).TraceID().String())
	out := propagation.MapCarrier{}
	tel.Propagator.Inject(ctx, out)
	require.Equal(t, in, out)
}
