package store

import (
	"context"
	"sync/atomic"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/repo"
	"github.com/stockroom/stockroom/internal/txn"
)

// sweepBatch is how many expired items of each kind one transaction deletes:
// few enough that it yields to traffic.
const sweepBatch = 1000

// counters count what this server has done since its start.
type counters struct {
	evictions   counter
	expirations counter
}

type counter struct {
	n   atomic.Int64
	add func(ctx context.Context, kind string, n int)
}

// count adds the items that a change of the usage took away, once the unit is
// committed.
func (s *Store) count(u *txn.Unit, c *counter, usage item.Usage) {
	u.AfterCommit(func() {
		c.n.Add(-usage.Items.Total())
		for kind, n := range map[item.Kind]int64{
			item.KindComponent: -usage.Items.Components,
			item.KindBlock:     -usage.Items.Blocks,
			item.KindEntry:     -usage.Items.Entries,
		} {
			if n > 0 {
				c.add(context.Background(), string(kind), int(n))
			}
		}
	})
}

// Stats are what a store knows of itself.
type Stats struct {
	Usage       item.Usage // without what has expired
	LimitBytes  int64      // 0: none
	Hits        int64      // reads that the cache answered, by this server since its start
	Misses      int64      // reads that it could not answer
	Evictions   int64      // by this server, since its start
	Expirations int64      // likewise
}

// Stats returns what is stored, by kind, and what this server has done.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	var usage item.Usage
	err := s.units.Read(ctx, func(ctx context.Context, u *txn.Unit) error {
		stored, err := repo.Usage(ctx, u)
		if err != nil {
			return err
		}
		expired, err := repo.Expired(ctx, u)
		usage = stored.Minus(expired)
		return err
	})
	cache := s.cache.Stats()
	return Stats{
		Hits:        cache.Hits.Total(),
		Misses:      cache.Misses.Total(),
		Usage:       usage,
		LimitBytes:  s.options.MaxBytes,
		Evictions:   s.counters.evictions.n.Load(),
		Expirations: s.counters.expirations.n.Load(),
	}, err
}

// ReadUsage reads what is stored, for Usage to return.
func (s *Store) ReadUsage(ctx context.Context) error {
	var usage item.Usage
	err := s.units.ReadOne(ctx, func(ctx context.Context, u *txn.Unit) (err error) {
		usage, err = repo.Usage(ctx, u)
		return err
	})
	if err == nil {
		s.usage.Store(&usage)
	}
	return err
}

// Usage returns what was stored when ReadUsage read it last, expired items that
// had not been swept included; false where it never has.
func (s *Store) Usage() (item.Usage, bool) {
	usage := s.usage.Load()
	if usage == nil {
		return item.Usage{}, false
	}
	return *usage, true
}

// Sweep deletes at most a batch of expired items of each kind and returns how
// many; none where another server is sweeping. Again tells that there may be more.
func (s *Store) Sweep(ctx context.Context) (n int, again bool, err error) {
	err = s.units.Do(ctx, func(ctx context.Context, u *txn.Unit) error {
		n = 0
		s.shareSize(u)
		mine, err := repo.TrySweepLock(ctx, u)
		if err != nil || !mine {
			return err
		}
		var usage item.Usage
		if n, usage, err = repo.DeleteExpired(ctx, u, sweepBatch); err != nil {
			return err
		}
		s.count(u, &s.counters.expirations, usage)
		repo.AddUsage(u, usage)
		return nil
	})
	return n, n >= sweepBatch, err
}

// Maintenance is what Maintain is asked to do besides sweeping.
type Maintenance struct {
	EvictItems  *int64 // evict so many of the least recently used items
	TargetBytes *int64 // or evict down to so many bytes; neither: to the limit
}

// Maintained is what Maintain has done and left.
type Maintained struct {
	Expired int64
	Evicted int64
	Usage   item.Usage
}

// Maintain sweeps what has expired and then evicts the least recently used items
// as it is asked to, in bounded transactions.
func (s *Store) Maintain(ctx context.Context, ask Maintenance) (done Maintained, err error) {
	for again := true; again; {
		var n int
		if n, again, err = s.Sweep(ctx); err != nil {
			return done, err
		}
		done.Expired += int64(n)
	}
	for more := true; more; {
		var batch Maintained
		if batch, more, err = s.evictBatch(ctx, ask, done.Evicted); err != nil {
			return done, err
		}
		done.Expired += batch.Expired
		done.Evicted += batch.Evicted
	}
	stats, err := s.Stats(ctx)
	done.Usage = stats.Usage
	return done, err
}

// evictBatch evicts one batch of what ask wants, of which evicted are gone
// already, and tells whether there is more to do. What has expired goes first, since
// somebody else may have been sweeping, or time has passed.
func (s *Store) evictBatch(ctx context.Context, ask Maintenance, evicted int64) (done Maintained, more bool, err error) {
	marks := s.newMarksInUnit()
	defer marks.end()
	err = s.units.Do(ctx, func(ctx context.Context, u *txn.Unit) error {
		done, more = Maintained{}, false
		var size repo.Size
		repo.LockSize(u, true, &size)
		usage, last, err := s.evictExpired(ctx, u)
		if err != nil {
			return err
		}
		if !last {
			done.Expired, more = -usage.Items.Total(), true
			repo.AddUsage(u, usage)
			return nil
		}
		if err := marks.apply(ctx, u); err != nil {
			return err
		}
		victims, err := repo.LeastRecentlyUsed(ctx, u, nil, evictionBatch)
		if err != nil {
			return err
		}
		all := len(victims)
		victims = s.wanted(victims, ask, evicted, size.Bytes)
		if len(victims) == 0 {
			return nil
		}
		if usage, err = s.evictItems(ctx, u, victims); err != nil {
			return err
		}
		done.Evicted = -usage.Items.Total()
		// Those that were used since they were chosen are still there.
		more = len(victims) == all || done.Evicted < int64(len(victims))
		repo.AddUsage(u, usage)
		return nil
	})
	return done, more, err
}

// wanted returns the first victims as far as ask wants them to go.
func (s *Store) wanted(victims []repo.Victim, ask Maintenance, evicted, size int64) []repo.Victim {
	if ask.EvictItems != nil {
		return victims[:min(int64(len(victims)), max(*ask.EvictItems-evicted, 0))]
	}
	target := s.options.MaxBytes
	if ask.TargetBytes != nil {
		target = *ask.TargetBytes
	} else if target == 0 {
		return nil // no limit to evict to
	}
	if size <= target {
		return nil
	}
	return enough(victims, size-target)
}
