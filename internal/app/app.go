// Package app wires the rooms together: it starts them forward and stops them
// backward.
package app

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/stockroom/stockroom"
	"github.com/stockroom/stockroom/internal/auth"
	"github.com/stockroom/stockroom/internal/buildinfo"
	"github.com/stockroom/stockroom/internal/config"
	"github.com/stockroom/stockroom/internal/conntrack"
	"github.com/stockroom/stockroom/internal/embeddedpg"
	stockhttp "github.com/stockroom/stockroom/internal/http"
	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/janitor"
	"github.com/stockroom/stockroom/internal/limit"
	"github.com/stockroom/stockroom/internal/notice"
	"github.com/stockroom/stockroom/internal/postgres"
	"github.com/stockroom/stockroom/internal/readcache"
	"github.com/stockroom/stockroom/internal/store"
	"github.com/stockroom/stockroom/internal/telemetry"
	"github.com/stockroom/stockroom/internal/txn"
)

const (
	// backgroundConnections are those of the pool beyond the slots, for the five jobs that
	// run by the clock and for the readiness probe: nobody who holds a slot waits for a
	// connection. That of the notices is beside the pool.
	backgroundConnections = 6
	// idleMargin is what a transaction may be idle beyond the longest request.
	idleMargin        = 30 * time.Second
	connectTimeout    = 5 * time.Second
	usageInterval     = 5 * time.Second // of the metrics of what is stored
	documentsInterval = time.Second
	compareInterval   = 10 * time.Second
	probeTimeout      = 2 * time.Second
	helloTimeout      = 10 * time.Second
	// firstRetry and lastRetry bound the waits between the attempts to reach a
	// database that is down at the start.
	firstRetry, lastRetry = 100 * time.Millisecond, 5 * time.Second
	// AddressFile is the name, in the data folder, of the file that holds the
	// address the service listens on.
	AddressFile = "server.addr"
)

// phase is how far the service is up.
type phase int32

const (
	starting phase = iota
	serving
	stopping
)

// App is the service. What is nil has not been started.
type App struct {
	cfg     config.Config
	log     *slog.Logger
	started time.Time
	phase   atomic.Int32
	// connections has every open connection, of clients and to the database.
	connections conntrack.Registry

	telemetry  *telemetry.Telemetry
	keys       *auth.Keyring // nil: everybody may do everything
	server     *server
	embedded   *embeddedpg.Server
	dsn        string
	db         *postgres.DB
	gate       *limit.Gate
	cache      *readcache.Cache
	notices    *notice.Notices
	breaker    *txn.Breaker
	background *store.Store // the same items, for what runs by the clock
	last       *store.Store // likewise, for what is done whatever the breaker says
	janitor    *janitor.Janitor
}

// Signals are what a running service listens to.
type Signals struct {
	Reload <-chan os.Signal // read the API keys again
}

// Run runs the service until ctx ends, or until something fails without which it
// cannot go on, and then stops it. A nil error says that everything was stopped
// in order.
func Run(ctx context.Context, cfg config.Config, signals Signals, getenv func(string) string, log *slog.Logger) error {
	defer raiseHeap(getenv)()
	a := &App{cfg: cfg, log: log, started: time.Now()}
	err := a.start(ctx, getenv)
	if err == nil {
		err = a.wait(ctx, signals)
	}
	err = unlessStopped(ctx, err)
	if err != nil {
		log.ErrorContext(ctx, "failed", "error", err)
	}
	return errors.Join(err, a.stop())
}

// start starts everything, forward: what it has started when it fails is for
// stop to stop.
func (a *App) start(ctx context.Context, getenv func(string) string) (err error) {
	a.log.InfoContext(ctx, "starting", "version", buildinfo.String())
	a.telemetry, err = telemetry.Setup(ctx, telemetry.Options{Version: buildinfo.String(), Getenv: getenv, Logger: a.log})
	if err != nil {
		return err
	}
	if a.cfg.APIKeysFile != "" {
		if a.keys, err = auth.Load(a.cfg.APIKeysFile); err != nil {
			return err
		}
	}
	// Before the database, so that probes are answered while that recovers.
	if a.server, err = listen(ctx, a.cfg, &a.connections, a.log, a.handler(nil)); err != nil {
		return err
	}
	a.log.InfoContext(ctx, "listening", "url", a.server.url())
	if err := a.openDatabase(ctx); err != nil {
		return err
	}
	items := a.newStore()
	if err := a.whileDatabaseRuns(ctx, a.sayHello); err != nil {
		return err
	}
	a.server.handle(a.handler(items))
	a.startJobs()
	a.phase.Store(int32(serving))
	a.log.InfoContext(ctx, "ready", "url", a.server.url())
	return nil
}

// newStore wires the store: breaker, then slot, then transaction.
func (a *App) newStore() *store.Store {
	metrics, tracer := a.telemetry.Metrics, a.telemetry.Tracer()
	a.gate = limit.NewGate(a.cfg.DBMaxConcurrency, a.cfg.DBQueueLength, a.cfg.DBQueueTimeout)
	breaker := txn.NewBreaker(a.cfg.BreakerFailures, a.cfg.BreakerTimeout, func(state string) {
		a.log.Warn("circuit breaker", "state", state)
		metrics.BreakerChanged(context.Background(), state)
	})
	units := txn.New(a.db, a.gate, a.log).Guard(breaker).Observe(metrics, tracer)
	// What runs in the background has connections of its own and takes no slot.
	background := txn.New(a.db, nil, a.log).Guard(breaker).Observe(metrics, tracer)
	a.cache = readcache.New(int64(a.cfg.CacheBytes), a.cfg.CacheMaxStaleness)
	a.notices = notice.Start(a.noticeConfig())
	items := store.New(units, store.Options{
		DefaultTTL: item.TTL(a.cfg.DefaultTTL / time.Second),
		MaxBytes:   int64(a.cfg.MaxBytes),
		Cache:      a.cache,
		Notices:    a.notices,
		Metrics:    metrics,
	})
	a.background = items.On(background)
	a.last = items.On(txn.New(a.db, nil, a.log).Observe(metrics, tracer))
	a.breaker = breaker
	a.observe()
	return items
}

// noticeConfig makes the server listen to others where it has a cache that they
// could make stale. What it changes itself it tells in any case.
func (a *App) noticeConfig() notice.Config {
	config := notice.Config{
		Database:     a.db,
		MaxStaleness: a.cfg.CacheMaxStaleness,
		Metrics:      a.telemetry.Metrics,
		Log:          a.log,
	}
	if a.cfg.CacheBytes > 0 {
		config.Cache = a.cache
	}
	return config
}

// sayHello returns once other servers expect notices of this one, before which it
// should change nothing. It does not wait for that for ever: a database that takes
// so long takes no changes either.
func (a *App) sayHello(ctx context.Context) error {
	hello, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	err := a.notices.Hello(hello)
	if err != nil && ctx.Err() == nil {
		a.log.WarnContext(ctx, "other servers do not know of this one yet", "error", err)
		return nil
	}
	return err
}

// wait returns when it is time to stop: with nil where that was asked for.
func (a *App) wait(ctx context.Context, signals Signals) error {
	var databaseGone <-chan struct{}
	if a.embedded != nil {
		databaseGone = a.embedded.Done()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-signals.Reload:
			a.reloadKeys()
		case err := <-a.server.failed:
			return err
		case <-databaseGone:
			return a.databaseGone()
		}
	}
}

// reloadKeys reads the API keys again. Should the file be bad, those that were
// read before go on counting: nobody is let in or shut out by a slip of the pen.
func (a *App) reloadKeys() {
	if a.keys == nil {
		return
	}
	if err := a.keys.Reload(); err != nil {
		a.log.Error("the API keys stay as they were", "error", err)
		return
	}
	a.log.Info("API keys read again", "keys", a.keys.Len())
}

// unlessStopped drops an error that came of being asked to stop.
func unlessStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // what else went wrong is of no interest then
	}
	return err
}

func (a *App) handler(items *store.Store) http.Handler {
	handler := stockhttp.New(stockhttp.Config{
		MaxBodyBytes:   int64(a.cfg.MaxBodyBytes),
		MaxBatch:       a.cfg.MaxBatch,
		RequestTimeout: a.cfg.RequestTimeout,
		RateLimit:      a.cfg.RateLimit,
		OwnNamesOnly:   a.keys == nil && a.cfg.Addr.Loopback() && !a.cfg.AllowInsecure,
	}, stockhttp.Dependencies{
		Store:          items,
		Log:            a.log,
		Contract:       stockroom.OpenAPI,
		Serving:        a.serving,
		NotReady:       a.notReady,
		State:          a.state,
		Keys:           a.keys,
		Metrics:        a.telemetry.Metrics,
		MetricsHandler: a.telemetry.MetricsHandler(),
	})
	if !a.telemetry.Tracing() {
		return handler
	}
	return otelhttp.NewHandler(handler, "request",
		otelhttp.WithTracerProvider(a.telemetry.TracerProvider),
		otelhttp.WithPropagators(a.telemetry.Propagator),
		// The handler itself counts requests, by route.
		otelhttp.WithMeterProvider(noop.NewMeterProvider()),
	)
}

// rest has a job that serves the others take at most a twentieth of the time.
const rest = 20

func (a *App) startJobs() {
	jobs := []janitor.Job{
		{
			// Where many items are read, to write what was gathered costs more than the
			// reads: the fewer times it is written, the more of it is of the same items.
			Name: "write access marks", Every: a.cfg.AccessFlushInterval, Rest: rest, Wake: a.background.ManyMarks(),
			Run: once(a.background.FlushMarks),
		},
		{Name: "sweep expired items", Every: a.cfg.SweepInterval, Run: func(ctx context.Context) (bool, time.Duration, error) {
			_, again, err := a.background.Sweep(ctx)
			return again, 0, err
		}},
		{Name: "make documents for search", Every: documentsInterval, Rest: rest, Run: a.background.MakeDocuments},
		{Name: "compare items and documents", Every: compareInterval, Run: a.background.CompareDocuments},
		{Name: "read the usage", Every: usageInterval, Run: once(a.background.ReadUsage)},
	}
	for i := range jobs {
		jobs[i].Timeout = jobTimeout
	}
	a.janitor = janitor.Start(jobs, a.log)
}

// once is a run that leaves nothing for the next one.
func once(do func(context.Context) error) func(context.Context) (bool, time.Duration, error) {
	return func(ctx context.Context) (bool, time.Duration, error) { return false, 0, do(ctx) }
}

// jobTimeout bounds one run of a job: a database host that vanishes without a word
// must not end it for good.
const jobTimeout = 10 * time.Second

// writeAddress tells scripts and health checks where the service listens. A data
// folder that cannot be written matters only where it is needed for data.
func (a *App) writeAddress() error {
	err := os.MkdirAll(a.cfg.DataDir, 0o755) //nolint:gosec // PostgreSQL's user must be able to enter it
	if err == nil {
		err = replaceFile(filepath.Join(a.cfg.DataDir, AddressFile), a.server.address()+"\n")
	}
	if err != nil && a.cfg.DatabaseURL != "" {
		a.log.Info("the address is not written to the data folder", "error", err)
		return nil
	}
	return err
}

// replaceFile writes a file so that whoever reads it sees the old or the new text,
// never a part.
func replaceFile(path, text string) error {
	next := path + ".new"
	if err := os.WriteFile(next, []byte(text), 0o644); err != nil { //nolint:gosec // no secret
		return err
	}
	return os.Rename(next, path)
}
