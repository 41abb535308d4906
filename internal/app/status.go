package app

import (
	"context"
	"time"

	"github.com/stockroom/stockroom/internal/conntrack"
	stockhttp "github.com/stockroom/stockroom/internal/http"
	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/telemetry"
)

// state is what /v1/stats shows besides the store.
func (a *App) state() stockhttp.State {
	gate, pool := a.gate.State(), a.db.Stat()
	return stockhttp.State{
		Breaker: stockhttp.BreakerState(a.breaker.State()),
		Queue: stockhttp.QueueStats{
			InFlight: int64(gate.InUse), Waiting: int64(gate.Waiting),
			Capacity: int64(gate.Slots), Length: int64(gate.QueueLength),
		},
		Pool: stockhttp.PoolStats{
			Max: int64(pool.MaxConns()), Total: int64(pool.TotalConns()), Idle: int64(pool.IdleConns()),
			Acquired: int64(pool.AcquiredConns()), Constructing: int64(pool.ConstructingConns()),
			Acquires: pool.AcquireCount(), EmptyAcquires: pool.EmptyAcquireCount(), CanceledAcquires: pool.CanceledAcquireCount(),
		},
		Connections: stockhttp.ConnectionStats{
			HTTP:     int64(a.connections.Count(conntrack.HTTP)),
			Database: int64(a.connections.Count(conntrack.Database)),
		},
		Uptime: time.Since(a.started),
	}
}

// observe tells the metrics whom to ask for what is.
func (a *App) observe() {
	a.telemetry.Metrics.ObserveBreaker(a.breaker.State)
	a.telemetry.Metrics.ObserveConnections(func() map[string]int {
		return map[string]int{
			string(conntrack.HTTP):     a.connections.Count(conntrack.HTTP),
			string(conntrack.Database): a.connections.Count(conntrack.Database),
		}
	})
	a.telemetry.Metrics.ObserveUsage(func() (telemetry.Usage, bool) {
		usage, ok := a.background.Usage()
		return telemetry.Usage{Limit: int64(a.cfg.MaxBytes), Kinds: map[string]telemetry.KindUsage{
			string(item.KindComponent): {Bytes: usage.Bytes.Components, Items: usage.Items.Components},
			string(item.KindBlock):     {Bytes: usage.Bytes.Blocks, Items: usage.Items.Blocks},
			string(item.KindEntry):     {Bytes: usage.Bytes.Entries, Items: usage.Items.Entries},
		}}, ok
	})
	a.telemetry.Metrics.ObserveCache(func() telemetry.CacheState {
		stats := a.cache.Stats()
		return telemetry.CacheState{Hits: byKind(stats.Hits), Misses: byKind(stats.Misses)}
	})
	a.telemetry.Metrics.ObserveGate(func() telemetry.GateState {
		state := a.gate.State()
		return telemetry.GateState{
			Slots: state.Slots, InUse: state.InUse, QueueLength: state.QueueLength, Waiting: state.Waiting,
			QueueFull: state.QueueFull, WaitedTooLong: state.WaitedTooLong,
		}
	})
	a.telemetry.Metrics.ObserveNotices(func() telemetry.NoticeState {
		return telemetry.NoticeState{Listening: a.notices.Listening(), Peers: a.notices.Peers()}
	})
	a.telemetry.Metrics.ObservePool(func() telemetry.PoolState {
		stat := a.db.Stat()
		return telemetry.PoolState{Used: int(stat.AcquiredConns()), Idle: int(stat.IdleConns()), Max: int(stat.MaxConns())}
	})
}

func byKind(n item.Counts) map[string]int64 {
	return map[string]int64{
		string(item.KindComponent): n.Components, string(item.KindBlock): n.Blocks, string(item.KindEntry): n.Entries,
	}
}

func (a *App) serving() error {
	switch phase(a.phase.Load()) {
	case serving:
		return nil
	case stopping:
		return stockhttp.ErrShuttingDown
	default:
		return stockhttp.ErrStarting
	}
}

// notReady returns why the service should get no requests.
func (a *App) notReady(ctx context.Context) []string {
	if err := a.serving(); err != nil {
		return []string{err.Error()}
	}
	var reasons []string
	if a.breaker.Open() {
		reasons = append(reasons, "the circuit breaker is open")
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if err := a.db.Ping(ctx); err != nil {
		a.log.WarnContext(ctx, "readiness: the database does not answer", "error", err)
		reasons = append(reasons, "the database does not answer")
	}
	return reasons
}
