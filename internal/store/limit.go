package store

import (
	"context"
	"errors"
	"slices"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/repo"
	"github.com/stockroom/stockroom/internal/txn"
)

// The limit is kept exactly, by all servers on a database together, without
// making writers wait for each other while there is room:
//
// A write that is small, while the store is far from full, holds the size lock
// together with others. "Far" leaves a margin that all such writes together
// cannot fill, however many there are at once. Any other write holds the lock
// alone: nobody else is adding then, so the counters are exact, and it evicts what
// it needs in its own transaction.
//
// What it evicts it locks after what it has stored, and so out of the order of keys. That
// nobody waits in a circle with it is why all who lock items without adding any hold the
// lock together with others, too.
const (
	// marginShare of the limit is left to writes that hold the lock together.
	marginShare = 4
	// evictionBatch is how many items are looked at, and deleted, at once.
	evictionBatch = 500
)

// errNearLimit says that a write must hold the size lock alone.
var errNearLimit = errors.New("store: too near the limit to write together with others")

// change is what a write has done in its unit.
type change struct {
	usage   item.Usage
	stored  []item.Key // must not be evicted for this very write
	checked []item.Key // are evicted for it only when nothing else is left
}

// write runs fn in a unit, keeps the store within its limit, evicting what must
// go for that, and keeps the counters. size is the most that fn will add, in
// bytes charged; an fn that adds more than it said is run again.
func (s *Store) write(ctx context.Context, size int64, fn func(context.Context, *txn.Unit) (change, error)) error {
	if s.options.MaxBytes == 0 {
		return s.writeAnyway(ctx, fn)
	}
	alone := s.full.Load()
	for {
		err := s.writeWithin(ctx, size, alone, fn)
		if !errors.Is(err, errNearLimit) {
			return err
		}
		alone = true
	}
}

// writeAnyway is write for an fn that adds nothing, or where there is no limit.
func (s *Store) writeAnyway(ctx context.Context, fn func(context.Context, *txn.Unit) (change, error)) error {
	return s.units.Do(ctx, func(ctx context.Context, u *txn.Unit) error {
		s.shareSize(u)
		done, err := fn(ctx, u)
		if err != nil {
			return err
		}
		repo.AddUsage(u, done.usage)
		return nil
	})
}

// shareSize begins a unit that locks items and adds none.
func (s *Store) shareSize(u *txn.Unit) {
	if s.options.MaxBytes > 0 {
		repo.ShareSize(u)
	}
}

func (s *Store) writeWithin(ctx context.Context, size int64, alone bool, fn func(context.Context, *txn.Unit) (change, error)) error {
	marks := s.newMarksInUnit()
	defer marks.end()
	return s.units.Do(ctx, func(ctx context.Context, u *txn.Unit) error {
		// Both are known only when fn has had its answers: a write that must not go
		// together with others is rolled back, once, and what it has seen is kept.
		var before repo.Size
		repo.LockSize(u, alone, &before)
		done, err := fn(ctx, u)
		if before.Writers > 0 { // the lock was had, whatever came after
			s.full.Store(!s.far(before, 0))
		}
		if err != nil {
			return err
		}
		if !alone && (!s.far(before, size) || done.usage.Bytes.Total() > size) {
			return errNearLimit
		}
		if alone {
			evicted, err := s.evict(ctx, u, marks, done)
			if err != nil {
				return err
			}
			done.usage = done.usage.Plus(evicted)
		}
		repo.AddUsage(u, done.usage)
		return nil
	})
}

// far tells whether a write of size may hold the size lock together with others.
func (s *Store) far(before repo.Size, size int64) bool {
	margin := s.options.MaxBytes / marginShare
	return size <= margin/before.Writers && before.Bytes+size+margin <= s.options.MaxBytes
}

// evict brings the store back within its limit, in a unit that holds the size
// lock alone and has done what done says: expired items go first, then the least
// recently used, without those that were stored, and those that were checked last. It
// returns the change of the usage.
func (s *Store) evict(ctx context.Context, u *txn.Unit, marks *marksInUnit, done change) (item.Usage, error) {
	var evicted item.Usage
	swept, exhausted := false, false // no expired items, no items at all are left
	marked := false
	keep := slices.Concat(done.stored, done.checked)
	for {
		// Anew each time: a server that has no limit deletes without the size lock, and
		// makes room meanwhile.
		size, err := repo.ReadSize(ctx, u)
		if err != nil {
			return item.Usage{}, err
		}
		over := size.Bytes + done.usage.Plus(evicted).Bytes.Total() - s.options.MaxBytes
		if over <= 0 {
			return evicted, nil
		}
		var usage item.Usage
		switch {
		case !swept:
			usage, swept, err = s.evictExpired(ctx, u)
		case exhausted && len(keep) == len(done.stored):
			return item.Usage{}, item.ErrTooLarge
		case exhausted:
			keep, exhausted = done.stored, false
		case !marked:
			// What has been read must show before the least recently used are chosen.
			err, marked = marks.apply(ctx, u), true
		default:
			usage, exhausted, err = s.evictOldest(ctx, u, over, keep)
		}
		if err != nil {
			return item.Usage{}, err
		}
		evicted = evicted.Plus(usage)
	}
}

// evictExpired deletes a batch of expired items and tells whether that was the last.
func (s *Store) evictExpired(ctx context.Context, u *txn.Unit) (usage item.Usage, last bool, err error) {
	n, usage, err := repo.DeleteExpired(ctx, u, evictionBatch)
	if n > 0 {
		s.count(u, &s.counters.expirations, usage)
	}
	return usage, n == 0, err
}

// evictOldest deletes the least recently used items, without those of keep, as
// far as they are needed to free so many bytes, or a batch of them, and tells
// whether there were none.
func (s *Store) evictOldest(ctx context.Context, u *txn.Unit, need int64, keep []item.Key) (usage item.Usage, none bool, err error) {
	victims, err := repo.LeastRecentlyUsed(ctx, u, keep, evictionBatch)
	if err != nil || len(victims) == 0 {
		return item.Usage{}, true, err
	}
	usage, err = s.evictItems(ctx, u, enough(victims, need))
	return usage, false, err
}

// enough returns the first victims that together have need bytes, or all.
func enough(victims []repo.Victim, need int64) []repo.Victim {
	for i, v := range victims {
		if need -= v.Bytes; need <= 0 {
			return victims[:i+1]
		}
	}
	return victims
}

// evictItems deletes victims and returns the change of the usage.
func (s *Store) evictItems(ctx context.Context, u *txn.Unit, victims []repo.Victim) (item.Usage, error) {
	keys, usage, err := repo.Evict(ctx, u, victims)
	if err != nil {
		return item.Usage{}, err
	}
	s.changed(u, keys...)
	s.count(u, &s.counters.evictions, usage)
	return usage, nil
}

// checkSize refuses what can never fit.
func (s *Store) checkSize(values []item.Value) (size int64, err error) {
	limit := s.options.MaxBytes
	var faults item.Faults
	for i := range values {
		value := &values[i]
		if limit > 0 && value.Bytes > limit {
			faults = append(faults, &item.Fault{
				Code: item.CodeTooLarge, Key: value.Key.String(), Detail: "the item is larger than the limit of the store",
			})
		}
		size += value.Bytes
	}
	switch {
	case len(faults) > 0:
		return 0, faults
	case limit > 0 && size > limit:
		return 0, item.ErrBatchTooLarge
	}
	return size, nil
}
