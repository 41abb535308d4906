package telemetry

import (
	"context"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// measured returns Metrics, and a function that reads them: each series as
// name{label=value,…} in the unit, with its value (a histogram's sum).
func measured(t *testing.T) (*Metrics, func() map[string]float64) {
	t.Helper()
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	t.Cleanup(func() { require.NoError(t, provider.Shutdown(context.Background())) })
	m, err := NewMetrics(provider.Meter(Scope))
	require.NoError(t, err)
	return m, func() map[string]float64 {
		var data metricdata.ResourceMetrics
		require.NoError(t, reader.Collect(t.Context(), &data))
		series := map[string]float64{}
		add := func(name, unit string, set attribute.Set, value float64) {
			series[name+"{"+set.Encoded(attribute.DefaultEncoder())+"} "+unit] = value
		}
		for _, scope := range data.ScopeMetrics {
			for _, metric := range scope.Metrics {
				require.NotEmpty(t, metric.Description, metric.Name)
				switch d := metric.Data.(type) {
				case metricdata.Sum[int64]:
					for _, p := range d.DataPoints {
						add(metric.Name, metric.Unit, p.Attributes, float64(p.Value))
					}
				case metricdata.Gauge[int64]:
					for _, p := range d.DataPoints {
						add(metric.Name, metric.Unit, p.Attributes, float64(p.Value))
					}
				case metricdata.Histogram[float64]:
					for _, p := range d.DataPoints {
						add(metric.Name, metric.Unit, p.Attributes, p.Sum)
					}
				default:
					t.Errorf("%s is a %T", metric.Name, d)
				}
			}
		}
		return series
	}
}

// begun is what is counted of what has not happened yet.
func begun() map[string]float64 {
	counts := map[string]float64{}
	for _, kind := range []string{"component", "block", "entry"} {
		counts["stockroom.evictions{kind="+kind+"} {item}"] = 0
		counts["stockroom.expirations{kind="+kind+"} {item}"] = 0
	}
	for _, state := range []string{"closed", "half-open", "open"} {
		counts["stockroom.breaker.changes{state="+state+"} {change}"] = 0
	}
	for _, sqlState := range []string{"40001", "40P01", "55P03"} {
		counts["stockroom.transaction.retries{db.response.status_code="+sqlState+"} {retry}"] = 0
	}
	return counts
}

func TestMetricsOfEvents(t *testing.T) {
	t.Parallel()
	m, read := measured(t)
	counts := begun()
	require.Equal(t, counts, read())
	ctx := t.Context()
	m.RequestDone(ctx, Request{Method: http.MethodGet, Scheme: "http", Route: "/v1/items/{key}", Status: 200, Duration: 250 * time.Millisecond})
	m.RequestDone(ctx, Request{Method: http.MethodGet, Scheme: "http", Route: "/v1/items/{key}", Status: 503, Duration: time.Second})
	m.RequestDone(ctx, Request{Method: "BREW", Scheme: "https", Status: 405, Duration: 2 * time.Second})
	m.Evicted(ctx, "block", 3)
	m.Expired(ctx, "entry", 4)
	m.SlotWaited(ctx, 500*time.Millisecond)
	m.TransactionRetried(ctx, "40001")
	m.BreakerChanged(ctx, "open")
	maps.Copy(counts, map[string]float64{
		"http.server.request.duration{http.request.method=GET,http.response.status_code=200,http.route=/v1/items/{key},url.scheme=http} s":                0.25,
		"http.server.request.duration{error.type=503,http.request.method=GET,http.response.status_code=503,http.route=/v1/items/{key},url.scheme=http} s": 1,
		"http.server.request.duration{http.request.method=_OTHER,http.response.status_code=405,url.scheme=https} s":                                       2,
		"stockroom.evictions{kind=block} {item}":                               3,
		"stockroom.expirations{kind=entry} {item}":                             4,
		"stockroom.slot.wait.duration{} s":                                     0.5,
		"stockroom.transaction.retries{db.response.status_code=40001} {retry}": 1,
		"stockroom.breaker.changes{state=open} {change}":                       1,
	})
	require.Equal(t, counts, read())
}

func TestMetricsOfStates(t *testing.T) {
	t.Parallel()
	m, read := measured(t)
	known := true
	m.ObserveGate(func() GateState {
		return GateState{Slots: 16, InUse: 5, QueueLength: 1024, Waiting: 7, QueueFull: 2, WaitedTooLong: 3}
	})
	m.ObserveBreaker(func() string { return "half-open" })
	m.ObserveUsage(func() (Usage, bool) {
		return Usage{Limit: 1000, Kinds: map[string]KindUsage{"component": {Bytes: 300, Items: 2}}}, known
	})
	m.ObservePool(func() PoolState { return PoolState{Used: 4, Idle: 2, Max: 20} })
	m.ObserveConnections(func() map[string]int { return map[string]int{"http": 9} })
	m.ObserveCache(func() CacheState {
		return CacheState{Hits: map[string]int64{"component": 2}, Misses: map[string]int64{"entry": 1}}
	})
	want := map[string]float64{
		"stockroom.slot.limit{} {slot}":                          16,
		"stockroom.slot.used{} {slot}":                           5,
		"stockroom.slot.queue.limit{} {request}":                 1024,
		"stockroom.slot.queue.length{} {request}":                7,
		"stockroom.slot.rejections{reason=queue_full} {request}": 2,
		"stockroom.slot.rejections{reason=timeout} {request}":    3,
		"stockroom.breaker.state{state=closed} {state}":          0,
		"stockroom.breaker.state{state=half-open} {state}":       1,
		"stockroom.breaker.state{state=open} {state}":            0,
		"stockroom.connections{type=http} {connection}":          9,
		"db.client.connection.count{db.client.connection.pool.name=stockroom,db.client.connection.state=used} {connection}": 4,
		"db.client.connection.count{db.client.connection.pool.name=stockroom,db.client.connection.state=idle} {connection}": 2,
		"db.client.connection.max{db.client.connection.pool.name=stockroom} {connection}":                                   20,
		"stockroom.usage{kind=component} By":          300,
		"stockroom.usage.limit{} By":                  1000,
		"stockroom.items{kind=component} {item}":      2,
		"stockroom.cache.hits{kind=component} {read}": 2,
		"stockroom.cache.misses{kind=entry} {read}":   1,
	}
	maps.Copy(want, begun())
	require.Equal(t, want, read())

	known = false
	delete(want, "stockroom.usage{kind=component} By")
	delete(want, "stockroom.usage.limit{} By")
	delete(want, "stockroom.items{kind=component} {item}")
	require.Equal(t, want, read(), "an unknown usage is not reported")
}

func TestNoMetrics(t *testing.T) {
	t.Parallel()
	m := NoMetrics()
	m.Expired(t.Context(), "entry", 1)
	m.ObserveBreaker(func() string { return "open" })
	m.RequestDone(t.Context(), Request{})
}

//nolint:paralleltest // it counts allocations
func TestCountingARequestAllocatesNothing(t *testing.T) {
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	m, err := NewMetrics(provider.Meter(Scope))
	require.NoError(t, err)
	ctx := t.Context()
	require.Zero(t, testing.AllocsPerRun(100, func() {
		m.RequestDone(ctx, Request{Method: "GET", Scheme: "http", Route: "/v1/items/{key}", Status: 200, Duration: time.Millisecond})
	}))
}

func BenchmarkRequestDone(b *testing.B) {
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	m, err := NewMetrics(provider.Meter(Scope))
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		m.RequestDone(b.Context(), Request{Method: "GET", Scheme: "http", Route: "/v1/items/{key}", Status: 200, Duration: time.Millisecond})
	}
}
