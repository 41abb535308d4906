package telemetry

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/dbconv"
	"go.opentelemetry.io/otel/semconv/v1.43.0/httpconv"
)

// Metrics are the instruments of the server. What happens is reported by the
// methods; what is, is asked for at each scrape from whoever was given to an
// Observe method. All are safe for concurrent use.
//
// Kinds, states and reasons become labels: pass names of a short list, never
// anything from a request.
type Metrics struct {
	requests    httpconv.ServerRequestDuration
	labels      requestLabels
	slotWaits   metric.Float64Histogram
	retries     metric.Int64Counter
	breaker     metric.Int64Counter
	evictions   metric.Int64Counter
	expirations metric.Int64Counter
	distrusts   metric.Int64Counter

	gauges
}

// gauges are read at each scrape. A source that is not there (yet) has no value.
type gauges struct {
	slots, slotsUsed, queue, queueLimit metric.Int64ObservableGauge
	rejections                          metric.Int64ObservableCounter
	breakerState                        metric.Int64ObservableGauge
	usage, usageLimit, items            metric.Int64ObservableGauge
	pool                                dbconv.ClientConnectionCountObservable
	poolMax                             dbconv.ClientConnectionMaxObservable
	connections                         metric.Int64ObservableGauge
	listening, peers                    metric.Int64ObservableGauge
	cacheHits, cacheMisses              metric.Int64ObservableCounter

	observeGate        atomic.Pointer[func() GateState]
	observeBreaker     atomic.Pointer[func() string]
	observeUsage       atomic.Pointer[func() (Usage, bool)]
	observePool        atomic.Pointer[func() PoolState]
	observeConnections atomic.Pointer[func() map[string]int]
	observeNotices     atomic.Pointer[func() NoticeState]
	observeCache       atomic.Pointer[func() CacheState]
}

// NewMetrics makes the instruments with the meter. It has to be called once for a
// meter: a second set would report its gauges beside the first's.
func NewMetrics(meter metric.Meter) (*Metrics, error) {
	m := &Metrics{}
	var errs []error
	var err error

	// Boundaries as the semantic conventions recommend them for durations.
	buckets := metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
	m.requests, err = httpconv.NewServerRequestDuration(meter, buckets)
	errs = append(errs, err)
	m.slotWaits, err = meter.Float64Histogram("stockroom.slot.wait.duration", metric.WithUnit("s"),
		metric.WithDescription("How long requests waited for a slot for database work."),
		metric.WithExplicitBucketBoundaries(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10))
	errs = append(errs, err)

	counter := func(name, unit, description string) metric.Int64Counter {
		c, err := meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	m.retries = counter("stockroom.transaction.retries", "{retry}", "Transactions that were run again, by SQLSTATE.")
	m.breaker = counter("stockroom.breaker.changes", "{change}", "Changes of the circuit breaker, by its new state.")
	m.evictions = counter("stockroom.evictions", "{item}", "Items evicted to stay below the limit.")
	m.expirations = counter("stockroom.expirations", "{item}", "Expired items that were deleted.")

	m.distrusts = counter("stockroom.notice.distrusts", "{distrust}", "Times that all that was cached had to be read again, since changes of other servers may have gone unheard, by reason.")

	gauge := func(name, unit, description string) metric.Int64ObservableGauge {
		g, err := meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return g
	}
	m.slots = gauge("stockroom.slot.limit", "{slot}", "Slots for database work.")
	m.slotsUsed = gauge("stockroom.slot.used", "{slot}", "Slots in use.")
	m.queue = gauge("stockroom.slot.queue.length", "{request}", "Requests that wait for a slot.")
	m.queueLimit = gauge("stockroom.slot.queue.limit", "{request}", "Requests that may wait for a slot.")
	total := func(name, unit, description string) metric.Int64ObservableCounter {
		c, err := meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	m.rejections = total("stockroom.slot.rejections", "{request}", "Requests that got no slot, by reason.")
	m.cacheHits = total("stockroom.cache.hits", "{read}", "Reads that the cache answered.")
	m.cacheMisses = total("stockroom.cache.misses", "{read}", "Reads that the cache could not answer.")
	m.breakerState = gauge("stockroom.breaker.state", "{state}", "1 for the state that the circuit breaker is in, 0 for the others.")
	m.usage = gauge("stockroom.usage", "By", "Charged size of the items.")
	m.usageLimit = gauge("stockroom.usage.limit", "By", "Limit of the charged size; 0: none.")
	m.items = gauge("stockroom.items", "{item}", "Items stored.")
	m.connections = gauge("stockroom.connections", "{connection}", "Connections that are tracked for shutdown, by type.")
	m.listening = gauge("stockroom.notice.listening", "{connection}", "1 while notices of other servers come in, else 0.")
	m.peers = gauge("stockroom.notice.peers", "{server}", "Other servers on this database that are heard.")
	m.pool, err = dbconv.NewClientConnectionCountObservable(meter)
	errs = append(errs, err)
	m.poolMax, err = dbconv.NewClientConnectionMaxObservable(meter)
	errs = append(errs, err)

	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	m.beginCounts()
	_, err = meter.RegisterCallback(m.observe, m.slots, m.slotsUsed, m.queue, m.queueLimit, m.rejections, m.breakerState,
		m.usage, m.usageLimit, m.items, m.connections, m.listening, m.peers, m.cacheHits, m.cacheMisses,
		m.pool.Inst(), m.poolMax.Inst())
	return m, err
}

var breakerStates = []string{"closed", "half-open", "open"}

// beginCounts has what may happen counted from 0: a series that begins with its first
// event has not risen, to those who look at rates (Prometheus, "Instrumentation", avoid
// missing metrics).
func (m *Metrics) beginCounts() {
	ctx := context.Background()
	for _, kind := range []string{"component", "block", "entry"} {
		m.Evicted(ctx, kind, 0)
		m.Expired(ctx, kind, 0)
	}
	for _, state := range breakerStates {
		m.breaker.Add(ctx, 0, by("state", state))
	}
	for _, sqlState := range []string{"40001", "40P01", "55P03"} {
		m.retries.Add(ctx, 0, metric.WithAttributes(semconv.DBResponseStatusCode(sqlState)))
	}
}

// NoMetrics returns Metrics that go nowhere.
func NoMetrics() *Metrics {
	m, err := NewMetrics(noop.Meter{})
	if err != nil {
		panic(err) // the no-op meter refuses nothing
	}
	return m
}

// Request is a request that was answered.
type Request struct {
	Method   string
	Scheme   string // http or https
	Route    string // the pattern that matched, never the path; "" if none did
	Status   int
	Duration time.Duration
}

// RequestDone counts a request.
func (m *Metrics) RequestDone(ctx context.Context, r Request) {
	m.requests.Inst().Record(ctx, r.Duration.Seconds(), m.labels.of(requestKind{knownMethod(r.Method), r.Scheme, r.Route, r.Status})...)
}

// requestKind is what requests are told apart by. There are few, since nothing in it
// is up to callers.
type requestKind struct {
	method httpconv.RequestMethodAttr
	scheme string
	route  string
	status int
}

// requestLabels keeps the labels of each kind of request: making them anew would be
// most of what it costs to count one.
type requestLabels struct {
	mu     sync.RWMutex
	byKind map[requestKind][]metric.RecordOption
}

func (l *requestLabels) of(kind requestKind) []metric.RecordOption {
	l.mu.RLock()
	options, ok := l.byKind[kind]
	l.mu.RUnlock()
	if ok {
		return options
	}
	options = []metric.RecordOption{metric.WithAttributeSet(kind.labels())}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byKind == nil {
		l.byKind = make(map[requestKind][]metric.RecordOption)
	}
	l.byKind[kind] = options
	return options
}

func (k requestKind) labels() attribute.Set {
	var named httpconv.ServerRequestDuration // it has the names
	attrs := []attribute.KeyValue{
		semconv.HTTPRequestMethodKey.String(string(k.method)),
		semconv.URLScheme(k.scheme),
		named.AttrResponseStatusCode(k.status),
	}
	if k.route != "" {
		attrs = append(attrs, named.AttrRoute(k.route))
	}
	if k.status >= http.StatusInternalServerError {
		attrs = append(attrs, named.AttrErrorType(httpconv.ErrorTypeAttr(strconv.Itoa(k.status))))
	}
	return attribute.NewSet(attrs...)
}

// knownMethod keeps made-up methods from becoming labels.
func knownMethod(method string) httpconv.RequestMethodAttr {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete,
		http.MethodPatch, http.MethodOptions, http.MethodTrace, http.MethodConnect:
		return httpconv.RequestMethodAttr(method)
	default:
		return httpconv.RequestMethodOther
	}
}

// Evicted counts n items of the kind that were evicted.
func (m *Metrics) Evicted(ctx context.Context, kind string, n int) {
	m.evictions.Add(ctx, int64(n), byKind(kind))
}

// Expired counts n expired items of the kind that were deleted.
func (m *Metrics) Expired(ctx context.Context, kind string, n int) {
	m.expirations.Add(ctx, int64(n), byKind(kind))
}

// SlotWaited records how long a request waited for its slot: 0 if one was free.
func (m *Metrics) SlotWaited(ctx context.Context, d time.Duration) {
	m.slotWaits.Record(ctx, d.Seconds())
}

// TransactionRetried counts a transaction that is run again after the SQLSTATE.
func (m *Metrics) TransactionRetried(ctx context.Context, sqlState string) {
	m.retries.Add(ctx, 1, metric.WithAttributes(semconv.DBResponseStatusCode(sqlState)))
}

// BreakerChanged counts a change of the circuit breaker into the state.
func (m *Metrics) BreakerChanged(ctx context.Context, state string) {
	m.breaker.Add(ctx, 1, by("state", state))
}

// NoticeDistrusted counts a time that what was cached had to be distrusted.
func (m *Metrics) NoticeDistrusted(ctx context.Context, reason string) {
	m.distrusts.Add(ctx, 1, by("reason", reason))
}

// NoticeState is what ObserveNotices reports.
type NoticeState struct {
	Listening bool
	Peers     int // other servers
}

// ObserveNotices reports the notices between servers.
func (m *Metrics) ObserveNotices(f func() NoticeState) { m.observeNotices.Store(&f) }

// CacheState is what ObserveCache reports: reads since the start, by kind.
type CacheState struct{ Hits, Misses map[string]int64 }

// ObserveCache reports what the read cache has answered and what it could not: the
// cache counts that itself, which costs a read less than to count it here.
func (m *Metrics) ObserveCache(f func() CacheState) { m.observeCache.Store(&f) }

// GateState is what ObserveGate reports.
type GateState struct {
	Slots, InUse             int
	QueueLength, Waiting     int
	QueueFull, WaitedTooLong int64 // since the start
}

// ObserveGate reports the slots for database work.
func (m *Metrics) ObserveGate(f func() GateState) { m.observeGate.Store(&f) }

// ObserveBreaker reports the circuit breaker's state: closed, half-open or open.
func (m *Metrics) ObserveBreaker(f func() string) { m.observeBreaker.Store(&f) }

// Usage is what ObserveUsage reports.
type Usage struct {
	Limit int64 // 0: none
	Kinds map[string]KindUsage
}

// KindUsage is what the items of one kind use.
type KindUsage struct{ Bytes, Items int64 }

// ObserveUsage reports the store's size. The function must not wait for the
// database; it returns false while it does not know.
func (m *Metrics) ObserveUsage(f func() (Usage, bool)) { m.observeUsage.Store(&f) }

// PoolState is what ObservePool reports.
type PoolState struct{ Used, Idle, Max int }

// ObservePool reports the pool of database connections.
func (m *Metrics) ObservePool(f func() PoolState) { m.observePool.Store(&f) }

// ObserveConnections reports how many connections are tracked, by type.
func (m *Metrics) ObserveConnections(f func() map[string]int) { m.observeConnections.Store(&f) }

func (g *gauges) observe(_ context.Context, o metric.Observer) error {
	if f := g.observeGate.Load(); f != nil {
		s := (*f)()
		o.ObserveInt64(g.slots, int64(s.Slots))
		o.ObserveInt64(g.slotsUsed, int64(s.InUse))
		o.ObserveInt64(g.queue, int64(s.Waiting))
		o.ObserveInt64(g.queueLimit, int64(s.QueueLength))
		o.ObserveInt64(g.rejections, s.QueueFull, by("reason", "queue_full"))
		o.ObserveInt64(g.rejections, s.WaitedTooLong, by("reason", "timeout"))
	}
	if f := g.observeBreaker.Load(); f != nil {
		current := (*f)()
		for _, state := range breakerStates {
			var value int64
			if state == current {
				value = 1
			}
			o.ObserveInt64(g.breakerState, value, by("state", state))
		}
	}
	if f := g.observeUsage.Load(); f != nil {
		if usage, known := (*f)(); known {
			o.ObserveInt64(g.usageLimit, usage.Limit)
			for kind, k := range usage.Kinds {
				o.ObserveInt64(g.usage, k.Bytes, byKind(kind))
				o.ObserveInt64(g.items, k.Items, byKind(kind))
			}
		}
	}
	if f := g.observePool.Load(); f != nil {
		s := (*f)()
		name := g.pool.AttrClientConnectionPoolName("stockroom")
		state := g.pool.AttrClientConnectionState
		o.ObserveInt64(g.pool.Inst(), int64(s.Used), metric.WithAttributes(name, state(dbconv.ClientConnectionStateUsed)))
		o.ObserveInt64(g.pool.Inst(), int64(s.Idle), metric.WithAttributes(name, state(dbconv.ClientConnectionStateIdle)))
		o.ObserveInt64(g.poolMax.Inst(), int64(s.Max), metric.WithAttributes(name))
	}
	if f := g.observeConnections.Load(); f != nil {
		for kind, n := range (*f)() {
			o.ObserveInt64(g.connections, int64(n), by("type", kind))
		}
	}
	if f := g.observeCache.Load(); f != nil {
		s := (*f)()
		for kind, n := range s.Hits {
			o.ObserveInt64(g.cacheHits, n, byKind(kind))
		}
		for kind, n := range s.Misses {
			o.ObserveInt64(g.cacheMisses, n, byKind(kind))
		}
	}
	if f := g.observeNotices.Load(); f != nil {
		s := (*f)()
		var listening int64
		if s.Listening {
			listening = 1
		}
		o.ObserveInt64(g.listening, listening)
		o.ObserveInt64(g.peers, int64(s.Peers))
	}
	return nil
}

func byKind(kind string) metric.MeasurementOption { return by("kind", kind) }

func by(key, value string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attribute.String(key, value)))
}
