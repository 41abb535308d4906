package readcache

import (
	"errors"
	"time"

	"github.com/stockroom/stockroom/internal/item"
)

// errExited is a load's error if it does not return.
var errExited = errors.New("readcache: the load did not return")

// LookupMany returns the items of keys, in their order, if all are cached and
// fresh and together a snapshot: the database has held them all at one instant,
// no longer ago than New allows. All of them count as hits, or else as misses.
//
// That instant is the time up to which other servers have been heard. An item that
// was loaded by then, and that is still here, had not been changed by anybody: not
// by them, for that would have been heard, nor here since, for that would have
// removed it before it was committed. Nor does it matter that the items are looked
// up one after the other: none can come in meanwhile that was loaded by then. A single
// item is a snapshot by itself, as Lookup finds it.
func (c *Cache) LookupMany(keys []item.Key) ([]item.Stored, bool) {
	now := c.now()
	found := c.lookupMany(keys, now)
	if found == nil && len(keys) > 0 {
		c.misses.addAll(item.CountKinds(keys))
		return nil, false
	}
	c.hits.addAll(item.CountKinds(keys))
	for _, e := range found {
		c.hit(e, now)
	}
	return allAt(found, now), true
}

func (c *Cache) lookupMany(keys []item.Key, now time.Duration) []*entry {
	heard, current := time.Duration(c.heard.Load()), c.era.Load()
	if len(keys) == 1 {
		if e := c.lookup(current, keys[0].String(), now); e != nil {
			return []*entry{e}
		}
		return nil
	}
	if now-heard >= c.maxStaleness {
		return nil
	}
	return current.snapshot(keys, now, func(e *entry) bool { return e.era == current && e.landed <= heard })
}

// LookupManyStale is to LookupMany what LookupStale is to Lookup: the items are a
// snapshot, however old it is.
func (c *Cache) LookupManyStale(keys []item.Key) ([]item.Stored, bool) {
	heard := time.Duration(c.heard.Load())
	now, current := c.now(), c.era.Load()
	var of *era // of all items: what was missed at its end was missed by all of them
	found := current.snapshot(keys, now, func(e *entry) bool {
		if of == nil {
			if of = e.era; of != current {
				heard = time.Duration(of.heard.Load())
			}
		}
		return len(keys) == 1 || e.era == of && e.landed <= heard
	})
	return allAt(found, now), found != nil
}

// snapshot returns the entries of keys if all are cached, have not expired, and
// belong to it.
func (e *era) snapshot(keys []item.Key, now time.Duration, belongs func(*entry) bool) []*entry {
	found := make([]*entry, 0, len(keys))
	for _, key := range keys {
		cached := e.find(key.String(), now)
		if cached == nil || !belongs(cached) {
			return nil
		}
		found = append(found, cached)
	}
	return found
}

func allAt(entries []*entry, now time.Duration) []item.Stored {
	items := make([]item.Stored, len(entries))
	for i, e := range entries {
		items[i] = e.at(now)
	}
	return items
}

// LoadMany returns what load reads of keys, and caches each item of it that
// nothing has overtaken meanwhile, as Load does. load must have begun to read only
// after it was called. Nobody waits for it but the caller, in whose goroutine it
// runs; where somebody is loading one of the keys already, that load fills the
// cache.
func (c *Cache) LoadMany(keys []item.Key, load func() ([]item.Stored, error)) ([]item.Stored, error) {
	f := &flight{many: true}
	c.takeOffMany(f, keys)
	var stored []item.Stored
	err := errExited                                    // unless it returns
	defer func() { c.landMany(f, keys, stored, err) }() // also where load panics
	stored, err = load()
	return stored, err
}

// takeOffMany registers a load of keys.
func (c *Cache) takeOffMany(f *flight, keys []item.Key) {
	if c.maxBytes == 0 {
		return // no place to fill
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f.began = c.now()
	for _, key := range keys {
		// A later load of many knows more than an earlier one.
		if before := c.flights[key.String()]; (before == nil || before.many) && !c.isHeld(key.String()) {
			c.flights[key.String()] = f
		}
	}
}

// landMany ends a load that has read stored, or failed.
func (c *Cache) landMany(f *flight, keys []item.Key, stored []item.Stored, err error) {
	if c.maxBytes == 0 {
		return
	}
	if err != nil {
		stored = nil
	}
	for i := range stored { // one by one: a large batch does not hold up others
		c.mu.Lock()
		if key := stored[i].Key.String(); c.flights[key] == f {
			delete(c.flights, key)
			c.fill(key, stored[i], f.began, expiry(stored[i], f.began))
		}
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range keys {
		if c.flights[key.String()] == f {
			delete(c.flights, key.String())
			if err == nil {
				c.drop(key.String()) // it was not found: nor may it be served as stale
			}
		}
	}
}
