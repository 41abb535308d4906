package store

import (
	"context"
	"errors"
	"slices"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/limit"
	"github.com/stockroom/stockroom/internal/repo"
	"github.com/stockroom/stockroom/internal/txn"
)

// Single writes that wait at the same moment go in one transaction, and single
// reads of one kind in one statement. A second one begins beside the first only where
// that is slow or nothing is gained by waiting for it; more would only make them smaller
// (measured by make bench).
const (
	putWorkers = 2
	putSize    = 32
	// putBytes bounds what is written together, so that a few large items do not
	// keep many small ones waiting.
	putBytes   = 1 << 20
	getWorkers = 2
	getSize    = 64
)

// putOp is one Put.
type putOp struct {
	write    repo.Write
	required item.Precondition
	written  Written
	missed   bool // the item was not any more as it had been looked at
}

// getOp is one read of an item.
type getOp struct {
	key    item.Key
	stored item.Stored
}

type (
	putGroup = txn.Group[*putOp]
	getGroup = txn.Group[*getOp]
)

func (s *Store) newPutGroup() *putGroup {
	return txn.NewGroup(s.units, txn.GroupRules[*putOp]{Workers: putWorkers, Size: putSize, Fits: putFits}, s.putTogether)
}

func (s *Store) newGetGroups() map[item.Kind]*getGroup {
	groups := make(map[item.Kind]*getGroup)
	for _, kind := range []item.Kind{item.KindComponent, item.KindBlock, item.KindEntry} {
		groups[kind] = txn.NewGroup(s.units, txn.GroupRules[*getOp]{
			Workers: getWorkers, Size: getSize,
			Fits: func([]*txn.Op[*getOp], *getOp) bool { return true },
		}, s.getTogether)
	}
	return groups
}

// putFits keeps the keys of a transaction distinct and its size within bounds.
func putFits(chosen []*txn.Op[*putOp], next *putOp) bool {
	size := next.write.Value.Bytes
	for _, op := range chosen {
		if op.Value.write.Value.Key == next.write.Value.Key {
			return false
		}
		size += op.Value.write.Value.Bytes
	}
	return size <= putBytes
}

// putTogether stores what waits at the same moment, each with its own outcome:
// what fails by itself fails alone.
func (s *Store) putTogether(ctx context.Context, ops []*txn.Op[*putOp]) {
	if len(ops) == 1 {
		ops[0].Err = s.putAlone(ctx, ops[0].Value)
		return
	}
	var size int64
	for _, op := range ops {
		size += op.Value.write.Value.Bytes
	}
	err := s.write(ctx, size, func(ctx context.Context, u *txn.Unit) (change, error) { return s.putAll(ctx, u, ops) })
	for _, op := range ops {
		switch {
		case err == nil && op.Value.missed, err != nil && isOfOne(err):
			op.RunAlone(func() error { return s.putAlone(ctx, op.Value) })
		case err != nil:
			op.Err = err
		}
	}
}

// putAlone stores one item in a transaction of its own.
func (s *Store) putAlone(ctx context.Context, op *putOp) error {
	return s.write(ctx, op.write.Value.Bytes, func(ctx context.Context, u *txn.Unit) (done change, err error) {
		u.CommitTogether()
		op.written, done.usage, err = put(ctx, u, op.write, op.required, nil)
		done.stored = []item.Key{op.write.Value.Key}
		s.changed(u, done.stored...)
		if op.written.Created {
			s.created(u, done.stored...)
		}
		return done, err
	})
}

// putAll stores ops, whose keys differ from each other, but for those whose items
// are not as required, which get that as their error, or are not any more what they
// were found to be a moment before, which have missed.
func (s *Store) putAll(ctx context.Context, u *txn.Unit, ops []*txn.Op[*putOp]) (change, error) {
	u.CommitTogether()
	writes, err := conditions(ctx, u, ops)
	if err != nil {
		return change{}, err
	}
	byKey, usage, err := repo.Upsert(ctx, u, writes)
	if err != nil {
		return change{}, err
	}
	done := change{usage: usage, stored: make([]item.Key, 0, len(byKey))}
	var created []item.Key
	for _, op := range ops {
		key := op.Value.write.Value.Key
		written, ok := byKey[key]
		op.Value.written = written
		op.Value.missed = !ok && op.Err == nil
		if ok {
			done.stored = append(done.stored, key)
			if written.Created {
				created = append(created, key)
			}
		}
	}
	s.changed(u, done.stored...)
	s.created(u, created...)
	return done, nil
}

// conditions returns the writes of ops. What is required of an item is held
// against what it is now, and then the write is made to depend on its still being
// so: that locks no row before the upsert does, all in the order of keys.
func conditions(ctx context.Context, u *txn.Unit, ops []*txn.Op[*putOp]) ([]repo.Write, error) {
	var conditional []item.Key
	for _, op := range ops {
		op.Err = nil // of a run before
		if !op.Value.required.None() {
			conditional = append(conditional, op.Value.write.Value.Key)
		}
	}
	var etags map[item.Key]string
	if len(conditional) > 0 {
		var err error
		if etags, err = repo.ETags(ctx, u, conditional); err != nil {
			return nil, err
		}
	}
	writes := make([]repo.Write, 0, len(ops))
	for _, op := range ops {
		write := op.Value.write
		if !op.Value.required.None() {
			etag, exists := etags[write.Value.Key]
			if !op.Value.required.Holds(exists, etag) {
				op.Err = item.ErrPreconditionFailed
				continue
			}
			write.CreateOnly, write.Replaces = !exists, etag
		}
		writes = append(writes, write)
	}
	return writes, nil
}

// getTogether reads what is asked for at the same moment.
func (s *Store) getTogether(ctx context.Context, ops []*txn.Op[*getOp]) {
	if len(ops) == 1 {
		ops[0].Err = s.getAlone(ctx, ops[0].Value)
		return
	}
	keys := make([]item.Key, len(ops))
	for i, op := range ops {
		keys[i] = op.Value.key
	}
	var found []item.Stored
	err := s.units.ReadOne(ctx, func(ctx context.Context, u *txn.Unit) (err error) {
		found, err = repo.GetMany(ctx, u, keys)
		return err
	})
	for i, op := range ops {
		switch {
		case err != nil && isOfOne(err):
			op.RunAlone(func() error { return s.getAlone(ctx, op.Value) })
		case err != nil:
			op.Err = err
		case missing(found[i]):
			op.Err = item.ErrNotFound
		default:
			op.Value.stored = found[i]
		}
	}
}

func (s *Store) getAlone(ctx context.Context, op *getOp) error {
	return s.units.ReadOne(ctx, func(ctx context.Context, u *txn.Unit) (err error) {
		op.stored, err = repo.Get(ctx, u, op.key)
		return err
	})
}

// isOfOne tells whether an error may be due to one of several operations, rather
// than to the database, the queue or the time.
func isOfOne(err error) bool {
	return !slices.ContainsFunc([]error{
		txn.ErrUnavailable, txn.ErrCommitUnknown, txn.ErrContention, txn.ErrClosed,
		limit.ErrBusy, limit.ErrClosed, context.Canceled, context.DeadlineExceeded,
	}, func(of error) bool { return errors.Is(err, of) })
}
