package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/repo"
	"github.com/stockroom/stockroom/internal/txn"
)

// What can be in the way of a restore, of which nothing has happened then.
var (
	// ErrNoRoom says that the store would be larger than its limit.
	ErrNoRoom = errors.New("store: no room within the limit")
	// ErrTaken says that another item stands under a key.
	ErrTaken = errors.New("store: another item stands under this key")
	// ErrBrokenOff says that a snapshot cannot be read to its end.
	ErrBrokenOff = errors.New("store: the database has broken off the snapshot")
)

// errDryRun rolls a dry run back.
var errDryRun = errors.New("store: a dry run")

// Existing says what becomes of another item that stands where one is restored.
type Existing int

// The ways to treat it.
const (
	Replace Existing = iota // it gives way
	Keep                    // it stays, and the other one is left out
	Refuse                  // the restore fails with ErrTaken
)

// RestoreRules say how to restore.
type RestoreRules struct {
	Existing Existing
	DryRun   bool // find out what would happen, and undo it
	// Planned is what a dry run would have added before, in bytes charged.
	Planned int64
}

// Restored is what a restore has done.
type Restored struct {
	Stored    int   // items that are new, or have replaced others
	Unchanged int   // that stood there already
	Kept      int   // whose place is taken by others, which were kept
	Expired   int   // that have expired since, and were left out
	Added     int64 // bytes charged
}

// Restore stores records, whose keys differ from each other, as they are: with
// their times, counts and what is left of their lives, all or none. It evicts nothing
// but what has expired: where there is no room, the error is ErrNoRoom.
func (s *Store) Restore(ctx context.Context, records []item.Record, rules RestoreRules) (done Restored, err error) {
	var size int64
	for i := range records {
		size += records[i].Value.Bytes
	}
	err = s.write(ctx, size, func(ctx context.Context, u *txn.Unit) (made change, err error) {
		done, made, err = s.restore(ctx, u, records, rules)
		if err == nil && rules.DryRun {
			err = errDryRun
		}
		return made, err
	})
	if errors.Is(err, errDryRun) {
		err = nil
	}
	if err != nil {
		return Restored{}, err
	}
	return done, nil
}

func (s *Store) restore(ctx context.Context, u *txn.Unit, records []item.Record, rules RestoreRules) (done Restored, made change, err error) {
	now, err := repo.Now(ctx, u)
	if err != nil {
		return Restored{}, change{}, err
	}
	alive := make([]item.Record, 0, len(records))
	for i := range records {
		if expires := records[i].Expires; expires.IsZero() || expires.After(now) {
			alive = append(alive, records[i])
		}
	}
	stored, usage, err := repo.Restore(ctx, u, alive, rules.Existing == Replace)
	if err != nil {
		return Restored{}, change{}, err
	}
	done = Restored{Stored: len(stored), Expired: len(records) - len(alive), Added: usage.Bytes.Total()}
	if done.Kept, err = s.kept(ctx, u, alive, stored, rules.Existing); err != nil {
		return Restored{}, change{}, err
	}
	done.Unchanged = len(alive) - done.Stored - done.Kept
	if err := s.checkRoom(ctx, u, usage.Bytes.Total()+rules.Planned); err != nil {
		return Restored{}, change{}, err
	}
	if err := searchAnew(ctx, u, alive); err != nil {
		return Restored{}, change{}, err
	}
	s.changed(u, stored...)
	return done, change{usage: usage, stored: stored}, nil
}

// restoreLockTimeout is how long a restore waits for those who make documents, which
// they do in small batches.
const restoreLockTimeout = 30 * time.Second

// searchAnew lets searches look for what was written and read as long ago as records,
// for which they would not look any more.
func searchAnew(ctx context.Context, u *txn.Unit, records []item.Record) error {
	var updated, accessed time.Time
	for i := range records {
		r := &records[i]
		if r.Value.Key.Kind() == item.KindEntry {
			continue // is not searched
		}
		if updated.IsZero() || r.Updated.Before(updated) {
			updated = r.Updated
		}
		if accessed.IsZero() || r.Accessed.Before(accessed) {
			accessed = r.Accessed
		}
	}
	if updated.IsZero() {
		return nil
	}
	if err := repo.LockDocuments(ctx, u, restoreLockTimeout); err != nil {
		return err
	}
	repo.RewindProgress(u, updated, accessed)
	return nil
}

// kept counts the records whose places others keep.
func (s *Store) kept(ctx context.Context, u *txn.Unit, records []item.Record, stored []item.Key, existing Existing) (n int, err error) {
	if existing == Replace || len(stored) == len(records) {
		return 0, nil
	}
	left := make(map[item.Key]item.Record, len(records))
	for i := range records {
		left[records[i].Value.Key] = records[i]
	}
	for _, key := range stored {
		delete(left, key)
	}
	keys := make([]item.Key, 0, len(left))
	for key := range left {
		keys = append(keys, key)
	}
	standing, err := repo.Records(ctx, u, keys)
	if err != nil {
		return 0, err
	}
	for key, record := range standing {
		if record.SameWrite(left[key]) {
			continue
		}
		if existing == Refuse {
			return 0, fmt.Errorf("%w: %s", ErrTaken, key)
		}
		n++
	}
	return n, nil
}

// checkRoom refuses to add bytes to a store that cannot take them without evicting
// items that are alive.
func (s *Store) checkRoom(ctx context.Context, u *txn.Unit, added int64) error {
	limit := s.options.MaxBytes
	if limit == 0 {
		return nil
	}
	size, err := repo.ReadSize(ctx, u)
	if err != nil || size.Bytes+added <= limit {
		return err
	}
	expired, err := repo.Expired(ctx, u)
	if err != nil {
		return err
	}
	if size, err = repo.ReadSize(ctx, u); err != nil { // again: a sweep may have ended in between
		return err
	}
	if over := size.Bytes + added - expired.Bytes.Total() - limit; over > 0 {
		return fmt.Errorf("%w: it is %d bytes, and would be %d bytes over it", ErrNoRoom, limit, over)
	}
	return nil
}

// ReadAll calls begin with what is stored, and then read for every item that there
// is, in the order of repo.ReadAll: all of one snapshot, in which the access marks
// of the last moment may be missing. What is expired is in neither. The error of
// either function ends it.
func (s *Store) ReadAll(ctx context.Context, begin func(item.Usage) error, read func(item.Record) error) error {
	begun := false
	return s.units.Read(ctx, func(ctx context.Context, u *txn.Unit) error {
		if begun { // what has been read of the snapshot before cannot be taken back
			return ErrBrokenOff
		}
		begun = true
		stored, err := repo.Usage(ctx, u)
		if err != nil {
			return err
		}
		expired, err := repo.Expired(ctx, u)
		if err == nil {
			err = begin(stored.Minus(expired))
		}
		if err != nil {
			return err
		}
		return repo.ReadAll(ctx, u, read)
	})
}
