package readcache

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/stockroom/stockroom/internal/item"
)

// errExited is a load's error if it neither returned nor panicked.
var errExited = errors.New("readcache: the load ended its goroutine")

// flight is one load for everyone who waits for it.
type flight struct {
	key     string
	began   time.Duration
	many    bool // one of many keys, which is not waited for by others: of the rest only began is set
	cancel  context.CancelCauseFunc
	waiters int // guarded by Cache.mu

	done    chan struct{} // closed when the load has ended and what follows is set
	stored  item.Stored
	err     error
	expires time.Duration // of stored
}

// Load returns the item if it is cached and fresh, and otherwise what load reads.
// Callers that miss the same key together share one load; its error is theirs
// too. They share it only with those who came before: a caller that comes after
// an Invalidate of the key, or after what it reads may be staler than New allows,
// starts a load of its own. What load reads is cached, unless it was overtaken.
//
// A caller whose ctx ends leaves at once with the error of ctx. The load goes on
// for the others, so it has to use the context that it is given, which has the
// values of the first caller's and ends when all have left, and nothing that is
// the first caller's own. A load that panics is an error to all who wait.
func (c *Cache) Load(ctx context.Context, key item.Key, load func(context.Context) (item.Stored, error)) (item.Stored, error) {
	return c.load(ctx, key, load, false)
}

// Reload is Load for a caller who wants the database's answer and no other: it
// starts a load in any case, which callers after it may share.
func (c *Cache) Reload(ctx context.Context, key item.Key, load func(context.Context) (item.Stored, error)) (item.Stored, error) {
	return c.load(ctx, key, load, true)
}

func (c *Cache) load(
	ctx context.Context, key item.Key, load func(context.Context) (item.Stored, error), anew bool,
) (item.Stored, error) {
	arrived := c.now()
	for {
		if err := ctx.Err(); err != nil {
			return item.Stored{}, err
		}
		c.mu.Lock()
		current := c.era.Load()
		if !anew {
			// Another load may have landed since the caller's Lookup.
			if e := c.lookup(current, key.String(), arrived); e != nil {
				c.mu.Unlock()
				return e.at(arrived), nil
			}
		}
		f := c.flights[key.String()]
		own := anew || f == nil || f.many || !c.fresh(f.began, arrived)
		if own {
			f = c.takeOff(ctx, key.String(), load)
			if !c.isHeld(f.key) {
				c.flights[f.key] = f
			}
		}
		f.waiters++
		c.mu.Unlock()

		select {
		case <-f.done:
		case <-ctx.Done():
			c.leave(f, ctx.Err())
			return item.Stored{}, ctx.Err()
		}
		if f.err != nil || own || arrived < f.expires {
			return f.stored, f.err
		}
		// The load was slow, and the item that it read had expired before this
		// caller came.
	}
}

// takeOff starts a load. It is called under mu.
func (c *Cache) takeOff(ctx context.Context, key string, load func(context.Context) (item.Stored, error)) *flight {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	f := &flight{key: key, began: c.now(), cancel: cancel, done: make(chan struct{}), err: errExited}
	go func() {
		defer cancel(nil)
		defer c.land(f)
		f.stored, f.err = call(ctx, load)
	}()
	return f
}

func call(ctx context.Context, load func(context.Context) (item.Stored, error)) (_ item.Stored, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("readcache: the load panicked: %v\n%s", r, debug.Stack())
		}
	}()
	return load(ctx)
}

// land ends a load: its result goes into the cache, if it is still registered,
// and to those who wait.
func (c *Cache) land(f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(f.done)

	f.expires = forever
	if f.err == nil {
		f.expires = expiry(f.stored, f.began)
	}
	if c.flights[f.key] != f && !refilledByOvertaken {
		return
	}
	delete(c.flights, f.key)
	switch {
	case f.err == nil:
		c.fill(f.key, f.stored, f.began, f.expires)
	case errors.Is(f.err, item.ErrNotFound):
		c.drop(f.key) // nor may it be served as stale
	}
}

// expiry is when the TTL of an item ends that was read in a load which began at began.
func expiry(stored item.Stored, began time.Duration) time.Duration {
	if stored.TTL == 0 {
		return forever
	}
	return began + stored.Remaining
}

// leave takes a caller off a load. The last one ends it, and his reason is why: a
// load that took too long is to know that it was not just unwanted.
func (c *Cache) leave(f *flight, reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.waiters--
	if f.waiters > 0 {
		return
	}
	f.cancel(reason)
	if c.flights[f.key] == f { // nobody joins a load that was cancelled
		delete(c.flights, f.key)
	}
}
