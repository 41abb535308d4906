package readcache

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/stockroom/stockroom/internal/item"
)

// Loader begins to read an item, and does not wait for it: finish is called with what
// was read, once, by whichever goroutine, which may be the loader's own. ctx has
// the values of the caller's and never ends. cancel is called when nobody waits any
// more, once at most and maybe after the end, and says why.
type Loader func(ctx context.Context, finish func(item.Stored, error)) (cancel func(reason error))

// flight is one load for everyone who waits for it.
type flight struct {
	key     string
	began   time.Duration
	many    bool // one of many keys, which is not waited for by others: of the rest only began is set
	cancel  func(reason error)
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
// for the others, so it has to use the context that it is given and nothing that is
// the first caller's own. A loader that panics is an error to all who wait.
func (c *Cache) Load(ctx context.Context, key item.Key, load Loader) (item.Stored, error) {
	return c.load(ctx, key, load, false)
}

// Reload is Load for a caller who wants the database's answer and no other: it
// starts a load in any case, which callers after it may share.
func (c *Cache) Reload(ctx context.Context, key item.Key, load Loader) (item.Stored, error) {
	return c.load(ctx, key, load, true)
}

func (c *Cache) load(ctx context.Context, key item.Key, load Loader, anew bool) (item.Stored, error) {
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
			f = &flight{key: key.String(), began: c.now(), cancel: func(error) {}, done: make(chan struct{})}
			if !c.isHeld(f.key) {
				c.flights[f.key] = f
			}
		}
		f.waiters++
		c.mu.Unlock()

		if own {
			c.takeOff(ctx, f, load)
		}
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

// takeOff begins a load, outside of mu: it may end at once.
func (c *Cache) takeOff(ctx context.Context, f *flight, load Loader) {
	defer func() {
		if r := recover(); r != nil {
			c.land(f, item.Stored{}, fmt.Errorf("readcache: the loader panicked: %v\n%s", r, debug.Stack()))
		}
	}()
	f.cancel = load(context.WithoutCancel(ctx), func(stored item.Stored, err error) { c.land(f, stored, err) })
}

// land ends a load: its result goes into the cache, if it is still registered,
// and to those who wait.
func (c *Cache) land(f *flight, stored item.Stored, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(f.done)

	f.stored, f.err = stored, err
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
	f.waiters--
	last := f.waiters == 0
	if last && c.flights[f.key] == f { // nobody joins a load that was cancelled
		delete(c.flights, f.key)
	}
	c.mu.Unlock()
	if last {
		f.cancel(reason) // which may end it
	}
}
