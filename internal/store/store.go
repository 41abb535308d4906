// Package store holds the operations on items: each is one unit of work over the
// repositories. It knows no HTTP.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/readcache"
	"github.com/stockroom/stockroom/internal/registry"
	"github.com/stockroom/stockroom/internal/repo"
	"github.com/stockroom/stockroom/internal/telemetry"
	"github.com/stockroom/stockroom/internal/txn"
)

// Options are the rules of a store.
type Options struct {
	DefaultTTL item.TTL           // for writes that name none
	MaxBytes   int64              // that all items together are charged at most; 0: no limit
	Cache      *readcache.Cache   // of this store alone; nil: none
	Notices    Notices            // to the other servers on the database; nil: there are none
	Metrics    *telemetry.Metrics // nil counts nothing
}

// Notices tells other servers what changes, so that they do not go on with what
// they have cached. Each method is called right before a commit, and what it
// returns when the outcome is settled; neither may wait for anything.
type Notices interface {
	Announce(keys ...item.Key) (settled func())
	AnnounceAll() (settled func())
}

// noNotices is for a server that is alone on its database.
type noNotices struct{}

func (noNotices) Announce(...item.Key) func() { return func() {} }

func (noNotices) AnnounceAll() func() { return func() {} }

// Written is what became of a write.
type Written = repo.Written

// Store is the items of one database. Its methods may be called by several
// goroutines. Besides the errors named at each, any of them can return those of
// package txn and the error of its context.
type Store struct {
	units    *txn.Manager
	options  Options
	cache    *readcache.Cache
	marks    *marks
	counters *counters
	puts     *putGroup
	gets     map[item.Kind]*getGroup
	// full is what the last write saw: a hint, so that writes near the limit do
	// not first try to go together.
	full      *atomic.Bool
	usage     *atomic.Pointer[item.Usage] // as last read
	documents *documentWork
}

// New returns a store whose units of work units runs.
func New(units *txn.Manager, options Options) *Store {
	if options.Metrics == nil {
		options.Metrics = telemetry.NoMetrics()
	}
	if options.Cache == nil {
		options.Cache = readcache.New(0, 0)
	}
	if options.Notices == nil {
		options.Notices = noNotices{}
	}
	s := &Store{
		units: units, options: options, cache: options.Cache, marks: newMarks(), full: new(atomic.Bool), usage: new(atomic.Pointer[item.Usage]),
		counters: &counters{evictions: counter{add: options.Metrics.Evicted}, expirations: counter{add: options.Metrics.Expired}},
	}
	s.cache.OnFirstHit(s.marks.addHits)
	s.puts, s.gets = s.newPutGroup(), s.newGetGroups()
	s.documents = &documentWork{making: make(chan struct{}, 1)}
	return s
}

// On returns the same store with its units of work run by units: for background
// work, which must not wait behind requests.
func (s *Store) On(units *txn.Manager) *Store {
	background := *s
	background.units = units
	return &background
}

// Get reads an item and counts as an access to it: from the read cache, or from
// the database for all who wait for it together. An item that there is not, or
// that has expired, is item.ErrNotFound.
//
// While the circuit breaker is open, what the cache holds is returned with Stale
// set, however old it is.
func (s *Store) Get(ctx context.Context, key item.Key) (item.Stored, error) {
	if stored, ok := s.cache.Lookup(key); ok {
		return stored, nil // the cache has counted it
	}
	return s.get(ctx, key, s.cache.Load)
}

// GetFresh is Get from the database, whatever the read cache holds.
func (s *Store) GetFresh(ctx context.Context, key item.Key) (item.Stored, error) {
	return s.get(ctx, key, s.cache.Reload)
}

func (s *Store) get(
	ctx context.Context, key item.Key, load func(context.Context, item.Key, readcache.Loader) (item.Stored, error),
) (item.Stored, error) {
	stored, err := load(ctx, key, func(ctx context.Context, finish func(item.Stored, error)) func(error) {
		op := &getOp{key: key}
		return s.gets[key.Kind()].Start(ctx, loadTimeout, op, func(err error) { finish(op.stored, err) })
	})
	stored, err = s.orStale(key, stored, err)
	if err == nil {
		s.marks.add(key)
	}
	return stored, err
}

// orStale returns what a read of key has found or, where the circuit breaker is why
// it has not, what the cache holds.
func (s *Store) orStale(key item.Key, stored item.Stored, err error) (item.Stored, error) {
	if errors.Is(err, txn.ErrBreakerOpen) {
		if cached, ok := s.cache.LookupStale(key); ok {
			cached.Stale = true
			return cached, nil
		}
	}
	return stored, err
}

// loadTimeout bounds a load, which has no caller of its own: as long as newcomers
// join it, nobody would end one that hangs.
const loadTimeout = 30 * time.Second

// Head reads an item from the database, as it is at the moment, which is no access.
// An item that there is not is item.ErrNotFound. While the circuit breaker is open it
// answers as Get does.
func (s *Store) Head(ctx context.Context, key item.Key) (stored item.Stored, err error) {
	err = s.units.ReadOne(ctx, func(ctx context.Context, u *txn.Unit) error {
		stored, err = repo.Get(ctx, u, key)
		return err
	})
	return s.orStale(key, stored, err)
}

// Metadata reads what is known of an item besides its value, which is no access.
// An item that there is not is item.ErrNotFound.
func (s *Store) Metadata(ctx context.Context, key item.Key) (metadata item.Metadata, err error) {
	err = s.units.ReadOne(ctx, func(ctx context.Context, u *txn.Unit) error {
		metadata, err = repo.Metadata(ctx, u, key)
		return err
	})
	return metadata, err
}

// Put stores a value with ttl, or the default TTL where that is nil. Where the
// item is not as required, nothing happens and the error is
// item.ErrPreconditionFailed.
func (s *Store) Put(ctx context.Context, value item.Value, ttl *item.TTL, required item.Precondition) (written Written, err error) {
	if _, err := s.checkSize([]item.Value{value}); err != nil {
		return Written{}, err
	}
	op := &putOp{write: repo.Write{Value: value, TTL: s.ttl(ttl)}, required: required}
	err = s.puts.Do(ctx, op)
	return op.written, err
}

// put stores one item as required and returns the change of the usage. A prepare
// other than nil makes the value that is written, while the item, where it exists,
// is locked.
func put(
	ctx context.Context, u *txn.Unit, write repo.Write, required item.Precondition,
	prepare func(context.Context, *txn.Unit, item.Value) (item.Value, error),
) (Written, item.Usage, error) {
	key, value := write.Value.Key, write.Value
	for {
		if !required.None() || prepare != nil {
			exists, err := checkLocked(ctx, u, key, required)
			if err != nil {
				return Written{}, item.Usage{}, err
			}
			// There is no row to lock where there is no item: should somebody else
			// create it now, that must be looked at again, not overwritten.
			write.CreateOnly = !exists
		}
		if prepare != nil {
			prepared, err := prepare(ctx, u, value)
			if err != nil {
				return Written{}, item.Usage{}, err
			}
			write.Value = prepared
		}
		byKey, usage, err := repo.Upsert(ctx, u, []repo.Write{write})
		if err != nil {
			return Written{}, item.Usage{}, err
		}
		if written, ok := byKey[key]; ok {
			return written, usage, nil
		}
	}
}

// checkLocked locks an item where it exists and holds it against what is required.
func checkLocked(ctx context.Context, u *txn.Unit, key item.Key, required item.Precondition) (exists bool, err error) {
	metadata, err := repo.Lock(ctx, u, key)
	if err != nil && !errors.Is(err, item.ErrNotFound) {
		return false, err
	}
	exists = err == nil
	if !required.Holds(exists, metadata.ETag) {
		return exists, item.ErrPreconditionFailed
	}
	return exists, nil
}

// Delete deletes an item. One that there is not is item.ErrNotFound, whatever was
// required (RFC 9110, section 13.2.1); one that is not as required stays, and the
// error is item.ErrPreconditionFailed.
func (s *Store) Delete(ctx context.Context, key item.Key, required item.Precondition) error {
	return s.units.Do(ctx, func(ctx context.Context, u *txn.Unit) error {
		s.shareSize(u)
		if !required.None() {
			metadata, err := repo.Lock(ctx, u, key)
			if err != nil {
				return err
			}
			if !required.Holds(true, metadata.ETag) {
				return item.ErrPreconditionFailed
			}
		}
		deleted, usage, err := repo.Delete(ctx, u, []item.Key{key})
		if err != nil {
			return err
		}
		s.changed(u, key)
		repo.AddUsage(u, usage)
		if len(deleted) == 0 {
			return item.ErrNotFound
		}
		return nil
	})
}

// Touch gives an item ttl from now on, or its own TTL anew where ttl is nil. One
// that there is not is item.ErrNotFound. It is no access.
func (s *Store) Touch(ctx context.Context, key item.Key, ttl *item.TTL) (metadata item.Metadata, err error) {
	err = s.units.Do(ctx, func(ctx context.Context, u *txn.Unit) error {
		s.shareSize(u)
		metadata, err = repo.Touch(ctx, u, key, ttl)
		s.changed(u, key)
		return err
	})
	return metadata, err
}

// Page is a part of an ordered list.
type Page struct {
	After string // key behind which it begins; "": at the beginning
	Limit int    // entries at most
}

// Keys returns a page of the keys that match pattern, in the order of their
// bytes, and whether more follow.
func (s *Store) Keys(ctx context.Context, pattern item.Pattern, page Page) (keys []string, more bool, err error) {
	err = s.units.ReadOne(ctx, func(ctx context.Context, u *txn.Unit) error {
		keys, err = repo.Keys(ctx, u, pattern, page.After, page.Limit+1)
		return err
	})
	keys, more = cut(keys, page.Limit)
	return keys, more, err
}

// List returns a page of the components or the blocks of a framework, in the
// order of their names, and whether more follow. A category other than nil
// restricts blocks to it.
func (s *Store) List(ctx context.Context, kind item.Kind, framework string, category *string, page Page) (list []item.Summary, more bool, err error) {
	err = s.units.ReadOne(ctx, func(ctx context.Context, u *txn.Unit) error {
		list, err = repo.List(ctx, u, kind, framework, category, page.After, page.Limit+1)
		return err
	})
	list, more = cut(list, page.Limit)
	return list, more, err
}

// cut shortens a list that was read with one entry more than the limit.
func cut[T any](list []T, limit int) ([]T, bool) {
	if len(list) > limit {
		return list[:limit], true
	}
	return list, false
}

// Frameworks returns what each framework holds, in the order of their names.
func (s *Store) Frameworks(ctx context.Context) (frameworks []item.FrameworkUsage, err error) {
	err = s.units.ReadOne(ctx, func(ctx context.Context, u *txn.Unit) error {
		frameworks, err = repo.Frameworks(ctx, u)
		return err
	})
	return frameworks, err
}

// Clear deletes the items whose keys match pattern, all or none, and returns how
// many there were. No batch that is written meanwhile is cleared in part.
func (s *Store) Clear(ctx context.Context, pattern item.Pattern) (cleared item.Counts, err error) {
	err = s.units.Do(ctx, func(ctx context.Context, u *txn.Unit) error {
		s.shareSize(u)
		repo.LockAll(u)
		var usage item.Usage
		s.clearedAll(u)
		cleared, usage, err = repo.Clear(ctx, u, pattern)
		if pattern.MatchesAll() {
			repo.ResetUsage(u)
		} else {
			repo.AddUsage(u, usage)
		}
		return err
	})
	return cleared, err
}

// PutMany stores values, whose keys differ from each other, with ttl, or the
// default TTL where that is nil: all of them or none.
func (s *Store) PutMany(ctx context.Context, values []item.Value, ttl *item.TTL) error {
	if len(values) == 0 {
		return nil
	}
	size, err := s.checkSize(values)
	if err != nil {
		return err
	}
	writes := make([]repo.Write, len(values))
	keys := make([]item.Key, len(values))
	for i, value := range values {
		writes[i] = repo.Write{Value: value, TTL: s.ttl(ttl)}
		keys[i] = value.Key
	}
	if tornBatches && len(values) > 1 {
		return errors.Join(s.PutMany(ctx, values[:1], ttl), s.PutMany(ctx, values[1:], ttl))
	}
	return s.write(ctx, size, func(ctx context.Context, u *txn.Unit) (change, error) {
		created, usage, err := repo.UpsertMany(ctx, u, writes)
		s.changed(u, keys...)
		s.created(u, created...)
		return change{usage: usage, stored: keys}, err
	})
}

// DeleteMany deletes the items of keys that there are, all or none, and returns
// how many there were.
func (s *Store) DeleteMany(ctx context.Context, keys []item.Key) (n int, err error) {
	if len(keys) == 0 {
		return 0, nil
	}
	do := func(ctx context.Context, u *txn.Unit) error {
		deleted, usage, err := repo.Delete(ctx, u, keys)
		if err != nil {
			return err
		}
		n = len(deleted)
		s.changed(u, keys...)
		repo.AddUsage(u, usage)
		return nil
	}
	// At READ COMMITTED a batch that is written meanwhile could lose the items
	// that already stood and keep those that it creates.
	err = s.units.DoRepeatable(ctx, func(ctx context.Context, u *txn.Unit) error {
		s.shareSize(u)
		return do(ctx, u)
	})
	if errors.Is(err, txn.ErrContention) {
		// Others write the same items all the time: they wait this once.
		err = s.units.Do(ctx, func(ctx context.Context, u *txn.Unit) error {
			s.shareSize(u)
			repo.LockAll(u)
			return do(ctx, u)
		})
	}
	return n, err
}

// GetPublished reads the component or block that the registry view has under a
// name, as Get does or, with fresh, as GetFresh. One that there is not is
// item.ErrNotFound.
func (s *Store) GetPublished(ctx context.Context, framework, name string, fresh bool) (item.Stored, error) {
	get := s.Get
	if fresh {
		get = s.GetFresh
	}
	component, block, err := publishedKeys(framework, name)
	if err != nil {
		return item.Stored{}, err
	}
	stored, err := get(ctx, component)
	if errors.Is(err, item.ErrNotFound) {
		return get(ctx, block)
	}
	return stored, err
}

// CatalogueQuery says which items of a framework a catalogue has.
type CatalogueQuery = repo.CatalogueQuery

// Catalogue returns what the catalogue shows of limit items behind the first offset, each
// as JSON, and how many there are in all, as of one moment. That is no access to them.
func (s *Store) Catalogue(ctx context.Context, q CatalogueQuery, offset, limit int) (items []json.RawMessage, total int64, err error) {
	err = s.units.Read(ctx, func(ctx context.Context, u *txn.Unit) error {
		keys, err := repo.Catalogue(ctx, u, q, offset, limit)
		if err != nil {
			return err
		}
		// A page that is not full ends where the catalogue does.
		total = int64(offset + len(keys))
		if len(keys) == limit || (len(keys) == 0 && offset > 0) {
			if total, err = repo.CatalogueSize(ctx, u, q); err != nil {
				return err
			}
		}
		summaries := make(map[item.Key]json.RawMessage, len(keys))
		err = repo.EachCatalogued(ctx, u, keys, func(value item.Value) error {
			summary, err := registry.Summarize(value)
			summaries[value.Key] = summary
			return err
		})
		items = make([]json.RawMessage, len(keys))
		for i, key := range keys {
			items[i] = summaries[key]
		}
		return err
	})
	return items, total, err
}

// Publish stores a value made of a registry item, with ttl as in Put. Where an
// item of the other kind has the name, the error is item.ErrConflict. The demo of
// a component fills that component's demoCode; a component that is published
// anew keeps the demoCode that it has. Where that is too much for the store, the error
// is item.ErrDemoTooLarge.
func (s *Store) Publish(ctx context.Context, value item.Value, ttl *item.TTL, required item.Precondition) (written Written, err error) {
	component, block, err := publishedKeys(value.Key.Framework(), value.Key.Name())
	if err != nil {
		return repo.Written{}, err
	}
	other := block
	if value.Key.Kind() == item.KindBlock {
		other = component
	}
	size, err := s.checkSize([]item.Value{value})
	if err != nil {
		return Written{}, err
	}
	if value.Component != nil {
		size *= 2 // the demo of a component is stored with that, too
	}
	err = s.write(ctx, size, func(ctx context.Context, u *txn.Unit) (change, error) {
		lockNames(u, value)
		if err := lockTarget(ctx, u, value); err != nil {
			return change{}, err
		}
		switch _, err := repo.Metadata(ctx, u, other); {
		case err == nil:
			return change{}, fmt.Errorf("%w: %s stands under this name", item.ErrConflict, other)
		case !errors.Is(err, item.ErrNotFound):
			return change{}, err
		}
		var prepare func(context.Context, *txn.Unit, item.Value) (item.Value, error)
		if value.Component != nil {
			prepare = withStoredDemo
		}
		var done change
		if written, done.usage, err = put(ctx, u, repo.Write{Value: value, TTL: s.ttl(ttl)}, required, prepare); err != nil {
			return change{}, err
		}
		done.stored = []item.Key{value.Key}
		filled, usage, err := fillDemo(ctx, u, value)
		if err != nil {
			return change{}, err
		}
		if filled != nil {
			done.stored = append(done.stored, *filled)
			done.usage = done.usage.Plus(usage)
		}
		s.changed(u, done.stored...)
		if written.Created {
			s.created(u, value.Key)
		}
		return done, nil
	})
	if errors.Is(err, item.ErrTooLarge) { // the value alone is not
		err = item.ErrDemoTooLarge
	}
	return written, err
}

// lockNames keeps others from publishing under the name of value, and under that
// of the component whose demo it is, until the unit ends: what is decided there
// spans rows and tables. The shorter name, the component's, comes first.
func lockNames(u *txn.Unit, value item.Value) {
	if target, ok := registry.DemoTarget(value); ok {
		repo.LockName(u, target.Framework(), target.Name())
	}
	repo.LockName(u, value.Key.Framework(), value.Key.Name())
}

// lockTarget locks the component whose demo value is, where it exists: its key is before
// that of the demo, and items are locked in the order of their keys.
func lockTarget(ctx context.Context, u *txn.Unit, value item.Value) error {
	target, ok := registry.DemoTarget(value)
	if !ok {
		return nil
	}
	_, err := repo.Lock(ctx, u, target)
	if errors.Is(err, item.ErrNotFound) {
		return nil
	}
	return err
}

func publishedKeys(framework, name string) (component, block item.Key, err error) {
	component, err = item.ComponentKey(framework, name)
	if err != nil {
		return item.Key{}, item.Key{}, err
	}
	block, err = item.BlockKey(framework, name)
	return component, block, err
}

// changed keeps keys out of the read cache while the unit is committed, until its
// outcome is settled, of which the other servers are told then.
func (s *Store) changed(u *txn.Unit, keys ...item.Key) {
	u.AroundCommit(func() func() {
		return both(s.cache.Hold(keys...), s.options.Notices.Announce(keys...))
	})
}

// created keeps accesses to items that are no more from counting for those that
// have been created in their places.
func (s *Store) created(u *txn.Unit, keys ...item.Key) {
	if len(keys) > 0 {
		u.AfterCommit(func() { s.marks.forget(keys...) })
	}
}

// clearedAll is changed for any key.
func (s *Store) clearedAll(u *txn.Unit) {
	u.AroundCommit(func() func() { return both(s.cache.HoldAll(), s.options.Notices.AnnounceAll()) })
}

func both(first, second func()) func() {
	return func() {
		first()
		second()
	}
}

func (s *Store) ttl(ttl *item.TTL) item.TTL {
	if ttl == nil {
		return s.options.DefaultTTL
	}
	return *ttl
}
