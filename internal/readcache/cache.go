// Package readcache keeps items that were read, as they are answered, in the
// memory of one server: bounded in bytes, and each loaded once however many
// callers miss it.
//
// What it promises within the server: a read that begins after Invalidate has
// returned never gets a value from before it. So a writer calls Invalidate after
// its commit and before it acknowledges, and does so too when the outcome of its
// commit is unknown. Writers do not fill the cache: two of them can commit in one
// order and get here in the other, and then the older value would stay. Only
// loads fill it, and only those which nothing has overtaken.
//
// Changes of other servers come in by the same Invalidate. Heard says up to when
// all of them have come; an item is fresh for a short time from then, or from when
// it was loaded. So where nobody hears, or not any more, it is the same rule that
// bounds how old it gets.
//
// Items are cached one by one. LookupMany returns several of them only where they
// are a snapshot of the database all the same.
package readcache

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/stockroom/stockroom/internal/item"
)

// overhead is what a cached item costs besides its key and its JSON, measured
// by TestOverheadIsCounted: the entry, its hits, its ETag, and its share of otter's
// tables.
const overhead = 448

// forever is when an item without TTL expires.
const forever time.Duration = math.MaxInt64

// Cache is a bounded cache of items. It is safe for concurrent use; New makes
// one.
//
// Otter holds the entries and chooses which of them go. Its own loader is not
// used: there a load dies with the context of the caller who began it, and one
// that is in flight survives a clearing. Here every fill and every removal happens
// under mu, and a fill asks whether its load is still the one registered for its
// key; whatever makes a load worthless only has to strike it off.
type Cache struct {
	maxBytes     int64
	maxStaleness time.Duration
	start        time.Time // carries a monotonic reading; every time below is counted from it

	era          atomic.Pointer[era] // stored under mu
	heard        atomic.Int64        // up to when the changes of other servers are known
	hits, misses counter
	firstHit     func(*Hits) // see OnFirstHit

	mu      sync.Mutex
	flights map[string]*flight // the loads that newcomers may join and that may fill the cache, by key
	held    map[string]int     // writes that are being committed, by key
	heldAll int                // those that may change any key
	closed  bool
}

// era is a span of time in which nothing happened that concerns every entry: what
// concerns them all begins a new one.
type era struct {
	entries *otter.Cache[string, *entry] // nil where the cache is off or closed
	// heard is up to when the changes of other servers were known at its end.
	heard *atomic.Int64
}

// entry is an item as it was loaded. It never changes, but for its hits.
type entry struct {
	stored  item.Stored
	hits    *Hits
	era     *era          // in which it was loaded: only then is it fresh
	began   time.Duration // when its load began; it may be as old as that
	landed  time.Duration // when its load had ended
	expires time.Duration // when its TTL ends
}

// New returns a cache of at most maxBytes, 0 being none at all: then every
// Lookup misses, and Load still loads once for all who wait together. An item is
// fresh for maxStaleness after its load began, and after the time that Heard was
// told last; so with 0 no item is ever fresh.
func New(maxBytes int64, maxStaleness time.Duration) *Cache {
	if maxBytes < 0 || maxStaleness < 0 {
		panic(fmt.Sprintf("readcache: New(%d, %v)", maxBytes, maxStaleness))
	}
	c := &Cache{
		maxBytes:     maxBytes,
		maxStaleness: maxStaleness,
		start:        time.Now(),
		flights:      make(map[string]*flight),
		held:         make(map[string]int),
	}
	c.heard.Store(-1) // from before the first load
	c.era.Store(&era{entries: c.newEntries(), heard: new(atomic.Int64)})
	return c
}

func (c *Cache) newEntries() *otter.Cache[string, *entry] {
	if c.maxBytes == 0 || c.closed {
		return nil
	}
	return otter.Must(&otter.Options[string, *entry]{
		MaximumWeight: uint64(c.maxBytes), //nolint:gosec // not negative, see New
		Weigher:       weigh,
		// Housekeeping is short. Done by whoever causes it, it starts no
		// goroutine, and a fill that makes the cache too large evicts at once.
		Executor: func(housekeeping func()) { housekeeping() },
	})
}

func weigh(key string, e *entry) uint32 {
	return uint32(min(overhead+len(key)+cap(e.stored.JSON), math.MaxUint32))
}

// now is the time on the monotonic clock.
func (c *Cache) now() time.Duration { return time.Since(c.start) }

// Lookup returns the item if it is cached and fresh, with Remaining counted down
// to now. It counts as a hit or a miss. The item has not expired: its TTL is
// counted from when its load began, by the monotonic clock, so that no clock but
// the database's decides.
func (c *Cache) Lookup(key item.Key) (item.Stored, bool) {
	now := c.now()
	e := c.lookup(c.era.Load(), key.String(), now)
	if e == nil {
		c.misses.add(key.Kind())
		return item.Stored{}, false
	}
	c.hits.add(key.Kind())
	c.hit(e, now)
	return e.at(now), true
}

// LookupStale returns the item if it is cached and has not expired, however old
// it is and whatever went unheard since. It is for a database that cannot be
// asked, and counts as nothing. Of writes on this server it still never returns
// a value from before an Invalidate or a Reset.
func (c *Cache) LookupStale(key item.Key) (item.Stored, bool) {
	now := c.now()
	e := c.era.Load().find(key.String(), now)
	if e == nil {
		return item.Stored{}, false
	}
	return e.at(now), true
}

// lookup returns the entry of key if it is fresh, or nil.
func (c *Cache) lookup(current *era, key string, now time.Duration) *entry {
	e := current.find(key, now)
	if e == nil || e.era != current || !c.fresh(e.began, now) {
		return nil
	}
	return e
}

// fresh says whether what was read at began is, at now, good enough in spite of
// other servers.
func (c *Cache) fresh(began, now time.Duration) bool {
	return now-max(began, time.Duration(c.heard.Load())) < c.maxStaleness
}

// find returns the entry of key if it has not expired, or nil.
func (e *era) find(key string, now time.Duration) *entry {
	if e.entries == nil {
		return nil
	}
	found, ok := e.entries.GetIfPresent(key)
	if !ok {
		return nil
	}
	if now < found.expires {
		return found
	}
	// It makes room, unless it has been replaced by now.
	e.entries.ComputeIfPresent(key, func(current *entry) (*entry, otter.ComputeOp) {
		if current == found {
			return nil, otter.InvalidateOp
		}
		return nil, otter.CancelOp
	})
	return nil
}

func (e *entry) at(now time.Duration) item.Stored {
	stored := e.stored
	if e.expires != forever {
		stored.Remaining = e.expires - now
	}
	return stored
}

// fill caches what a load that began at began has read. It is called under mu,
// for a load that is still registered.
func (c *Cache) fill(key string, stored item.Stored, began, expires time.Duration) {
	current := c.era.Load()
	if current.entries == nil {
		return
	}
	// The caller's key may be a part of its whole request, which would stay in
	// memory with it.
	own, err := item.ParseKey(strings.Clone(key))
	if err != nil {
		return
	}
	stored.Key = own
	next := &entry{
		stored: stored, hits: &Hits{key: own, cache: c},
		era: current, began: began, landed: c.now(), expires: expires,
	}
	// What is still the same has been so all the time. Else an item that is asked for
	// all the time, beside others that are missing, would never have been there by the
	// time up to which other servers are heard, which follows a little behind.
	if last, ok := current.entries.GetIfPresent(key); ok && last.era == current && sameItem(&last.stored, &stored) {
		next.landed = last.landed
	}
	current.entries.Set(own.String(), next)
}

// sameItem tells whether two reads of a key have found it unchanged.
func sameItem(a, b *item.Stored) bool {
	return a.ETag == b.ETag && a.Version == b.Version && a.Updated.Equal(b.Updated) && a.Created.Equal(b.Created) &&
		a.TTL == b.TTL && a.Expires.Equal(b.Expires)
}

// drop removes what is cached under key. It is called under mu.
func (c *Cache) drop(key string) {
	if entries := c.era.Load().entries; entries != nil {
		entries.Invalidate(key)
	}
}

// Invalidate says that the items of these keys have changed, or may have. What
// is cached of them is gone when it returns; loads of them that are in flight
// answer only those who wait already, and fill nothing.
func (c *Cache) Invalidate(keys ...item.Key) {
	for _, key := range keys { // one by one: a large batch does not hold up the readers
		c.mu.Lock()
		delete(c.flights, key.String())
		c.drop(key.String())
		c.mu.Unlock()
	}
}

// Hold says that the items of these keys are about to change. From now on and until
// the function that it returns is called, they are read from the database by
// everybody: else one reader could see the new value there, and after him another
// one the old value here. That function is Invalidate as well.
func (c *Cache) Hold(keys ...item.Key) (release func()) {
	for _, key := range keys {
		c.mu.Lock()
		c.held[key.String()]++
		delete(c.flights, key.String())
		c.drop(key.String())
		c.mu.Unlock()
	}
	return func() {
		for _, key := range keys {
			c.mu.Lock()
			if c.held[key.String()]--; c.held[key.String()] == 0 {
				delete(c.held, key.String())
			}
			c.mu.Unlock()
		}
		c.Invalidate(keys...)
	}
}

// HoldAll is Hold of all keys.
func (c *Cache) HoldAll() (release func()) {
	hold := func(n int) {
		c.turn(func(next *era) {
			c.heldAll += n
			discard(next.entries)
			next.entries = c.newEntries()
		})
	}
	hold(1)
	return func() { hold(-1) }
}

// isHeld tells whether a key is held. It is called under mu.
func (c *Cache) isHeld(key string) bool { return c.heldAll > 0 || c.held[key] > 0 }

// Reset says that every item has changed, or may have, as by a clear: it is
// Invalidate of all keys.
func (c *Cache) Reset() {
	c.turn(func(next *era) {
		discard(next.entries)
		next.entries = c.newEntries()
	})
}

// Distrust says that changes of other servers may have gone unheard, as when a
// notice is missing or a peer has fallen silent. For Lookup and Load it is a
// Reset; only LookupStale and LookupManyStale, of which nobody expects news, still
// find what is cached. Otherwise losing the database, and with it the connection on which
// changes are heard, would take away the very items that could still be served.
func (c *Cache) Distrust() {
	c.turn(func(*era) {})
}

// Heard says that all changes of other servers that were committed before until
// have come in by Invalidate, Reset or Distrust. until has to carry a monotonic
// reading. What is known already stays known: an earlier time changes nothing.
func (c *Cache) Heard(until time.Time) {
	heard := int64(until.Sub(c.start))
	for {
		known := c.heard.Load()
		if heard <= known || c.heard.CompareAndSwap(known, heard) {
			return
		}
	}
}

// Close gives the memory back. Afterwards every Lookup misses, and Load loads
// but caches nothing. It does not wait for loads in flight, which end when
// their callers have left. Further calls do nothing.
func (c *Cache) Close() {
	c.turn(func(next *era) {
		c.closed = true
		discard(next.entries)
		next.entries = nil
	})
}

// turn begins a new era, which change makes different from the current one. No
// load that is in flight belongs to it.
func (c *Cache) turn(change func(next *era)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turnLocked(change)
}

func (c *Cache) turnLocked(change func(next *era)) {
	last := c.era.Load()
	last.heard.Store(c.heard.Load())
	next := era{entries: last.entries, heard: new(atomic.Int64)}
	change(&next)
	c.era.Store(&next)
	clear(c.flights)
}

// discard ends entries that nobody will use again.
func discard(entries *otter.Cache[string, *entry]) {
	if entries != nil {
		entries.StopAllGoroutines()
	}
}

// Stats is what a cache has done and holds.
type Stats struct {
	Hits    item.Counts // of Lookup
	Misses  item.Counts // of Lookup
	Entries int
	Bytes   int64 // as counted against the limit
}

// Stats returns what the cache has done since it was made, and what it holds.
func (c *Cache) Stats() Stats {
	stats := Stats{Hits: c.hits.counts(), Misses: c.misses.counts()}
	if entries := c.era.Load().entries; entries != nil {
		// WeightedSize does the housekeeping that is due, so it goes first.
		stats.Bytes = int64(entries.WeightedSize()) //nolint:gosec // at most maxBytes
		stats.Entries = entries.EstimatedSize()
	}
	return stats
}

// counter counts by kind.
type counter struct {
	components, blocks, entries atomic.Int64
}

func (c *counter) add(kind item.Kind) {
	switch kind {
	case item.KindComponent:
		c.components.Add(1)
	case item.KindBlock:
		c.blocks.Add(1)
	case item.KindEntry:
		c.entries.Add(1)
	}
}

func (c *counter) addAll(n item.Counts) {
	c.components.Add(n.Components)
	c.blocks.Add(n.Blocks)
	c.entries.Add(n.Entries)
}

func (c *counter) counts() item.Counts {
	return item.Counts{Components: c.components.Load(), Blocks: c.blocks.Load(), Entries: c.entries.Load()}
}
