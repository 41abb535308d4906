package store

import (
	"context"
	"errors"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/repo"
	"github.com/stockroom/stockroom/internal/txn"
)

// Action is what an operation of a transaction does.
type Action int

// The actions that there are.
const (
	Check  Action = iota + 1 // that the item is as expected
	Set                      // the item
	Delete                   // it, where there is one
	Touch                    // it, which there must be
)

// Operation is one of a transaction.
type Operation struct {
	Action Action
	Key    item.Key
	ETag   *string    // of a Check: the opaque tag that the item must have; nil: there must be none
	Value  item.Value // of a Set
	TTL    *item.TTL  // of a Set as in Put, of a Touch as there
}

// Outcome is what became of an operation.
type Outcome struct {
	ETag     string        // opaque tag of the item as the operations have left it; "" where there is none
	Metadata item.Metadata // of a Set and a Touch
	Created  bool          // by a Set, as in Written
	Deleted  bool          // by a Delete, that is, there was an item
}

// Refusal is an operation for which a transaction was not carried out.
type Refusal struct {
	Operation int    // its place
	Err       error  // item.ErrPreconditionFailed of a Check, item.ErrNotFound of a Touch
	ETag      string // opaque tag of the item; "" where there is none
}

// Refusals are those of one transaction, in their order; there is at least one.
type Refusals []Refusal

// Error returns the first refusal's error.
func (r Refusals) Error() string { return "store: a transaction is refused: " + r[0].Err.Error() }

// Unwrap returns the first refusal's error.
func (r Refusals) Unwrap() error { return r[0].Err }

// Transact carries out operations, of which no two change the same item: all of them,
// where every check holds, or else none. Checks look at what was before the other
// operations, and what they have found stays so until the commit; whoever writes one
// of the keys meanwhile comes wholly before this or after it. Where checks fail, or
// an item that is to be touched is not there, the error is a Refusals.
//
// What it sets or touches is not evicted to make room for it, and what it checks only
// where nothing else is left. Where what it sets does not fit beside what it touches,
// the error is item.ErrTouchedTooLarge.
func (s *Store) Transact(ctx context.Context, operations []Operation) (outcomes []Outcome, err error) {
	if len(operations) == 0 {
		return nil, nil
	}
	t := transaction{operations: operations, keys: make([]item.Key, len(operations))}
	var values []item.Value
	for i := range operations {
		op := &operations[i]
		t.keys[i] = op.Key
		switch op.Action {
		case Check:
			continue
		case Set:
			values = append(values, op.Value)
			t.writes = append(t.writes, repo.Write{Value: op.Value, TTL: s.ttl(op.TTL)})
		case Delete:
			t.deletes = append(t.deletes, op.Key)
		case Touch:
			t.touches = append(t.touches, repo.Touched{Key: op.Key, TTL: op.TTL})
		}
		t.changes = append(t.changes, op.Key)
	}
	size, err := s.checkSize(values)
	if err != nil {
		return nil, err
	}
	run := func(ctx context.Context, u *txn.Unit) (done change, err error) {
		outcomes, done, err = s.transact(ctx, u, &t)
		return done, err
	}
	if len(values) == 0 {
		err = s.writeAnyway(ctx, run) // adds nothing
	} else {
		err = s.write(ctx, size, run)
	}
	if errors.Is(err, item.ErrTooLarge) {
		err = item.ErrTouchedTooLarge // what is set alone has been found to fit
	}
	if err != nil {
		return nil, err
	}
	return outcomes, nil
}

// transaction is what Transact has to do, sorted.
type transaction struct {
	operations []Operation
	keys       []item.Key // of all operations
	writes     []repo.Write
	deletes    []item.Key
	touches    []repo.Touched
	changes    []item.Key // of all operations but checks
}

// transact carries out t in a unit.
func (s *Store) transact(ctx context.Context, u *txn.Unit, t *transaction) (outcomes []Outcome, done change, err error) {
	etags := make(map[item.Key]string, len(t.keys))
	if len(t.writes) < len(t.operations) {
		// All keys at once, in the one order of locks: what follows waits for nobody.
		// Writes alone lock in that order by themselves.
		if etags, err = repo.LockKeys(ctx, u, t.keys); err != nil {
			return nil, change{}, err
		}
		if refusals := t.refusals(etags); len(refusals) > 0 {
			return nil, change{}, refusals
		}
	}
	s.changed(u, t.changes...)
	written := make(map[item.Key]Written)
	if len(t.writes) > 0 {
		if written, done.usage, err = repo.Upsert(ctx, u, t.writes); err != nil {
			return nil, change{}, err
		}
	}
	var created []item.Key
	for i := range t.writes {
		key := t.writes[i].Value.Key
		etags[key] = t.writes[i].Value.ETag
		done.stored = append(done.stored, key)
		if written[key].Created {
			created = append(created, key)
		}
	}
	s.created(u, created...)
	for i := range t.operations {
		switch op := &t.operations[i]; {
		case op.Action == Touch:
			done.stored = append(done.stored, op.Key)
		case op.Action == Check && op.ETag != nil:
			done.checked = append(done.checked, op.Key)
		}
	}
	deleted := make(map[item.Key]bool, len(t.deletes))
	if len(t.deletes) > 0 {
		gone, usage, err := repo.Delete(ctx, u, t.deletes)
		if err != nil {
			return nil, change{}, err
		}
		for _, key := range gone {
			deleted[key] = true
			delete(etags, key)
		}
		done.usage = done.usage.Plus(usage)
	}
	var touched map[item.Key]item.Metadata
	if len(t.touches) > 0 {
		if touched, err = repo.TouchMany(ctx, u, t.touches); err != nil {
			return nil, change{}, err
		}
	}
	outcomes = make([]Outcome, len(t.operations))
	for i := range t.operations {
		op, outcome := &t.operations[i], &outcomes[i]
		outcome.ETag = etags[op.Key]
		switch op.Action {
		case Check:
		case Set:
			outcome.Metadata, outcome.Created = written[op.Key].Metadata, written[op.Key].Created
		case Delete:
			outcome.Deleted = deleted[op.Key]
		case Touch:
			outcome.Metadata = touched[op.Key]
		}
	}
	return outcomes, done, nil
}

// refusals returns the checks that fail where items have etags, or else the touches
// of items that there are not.
func (t *transaction) refusals(etags map[item.Key]string) (refusals Refusals) {
	for i := range t.operations {
		op := &t.operations[i]
		if op.Action != Check {
			continue
		}
		etag, exists := etags[op.Key]
		if op.ETag == nil && exists || op.ETag != nil && !(exists && etag == *op.ETag) {
			refusals = append(refusals, Refusal{Operation: i, Err: item.ErrPreconditionFailed, ETag: etag})
		}
	}
	if len(refusals) > 0 {
		return refusals
	}
	for i := range t.operations {
		if _, exists := etags[t.operations[i].Key]; !exists && t.operations[i].Action == Touch {
			refusals = append(refusals, Refusal{Operation: i, Err: item.ErrNotFound})
		}
	}
	return refusals
}
