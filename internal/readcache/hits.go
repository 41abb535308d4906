package readcache

import (
	"sync/atomic"
	"time"

	"github.com/stockroom/stockroom/internal/item"
)

// Hits counts how often one cached item is found, until that is taken. It is with the
// item, so that to count costs nearly nothing, and outlives it: what was counted can
// be taken whatever has become of the item since.
type Hits struct {
	key   item.Key
	cache *Cache
	count atomic.Int64
	last  atomic.Int64 // the time of the last one, on the cache's clock
}

// add counts one at now, and tells whether it is the first since they were taken.
func (h *Hits) add(now time.Duration) (first bool) {
	h.last.Store(int64(now))
	return h.count.Add(1) == 1
}

// Key is the item's.
func (h *Hits) Key() item.Key { return h.key }

// Take returns how often the item was found since they were taken before, and when
// last. The next one is a first one again.
func (h *Hits) Take() (count int64, last time.Time) {
	count = h.count.Swap(0)
	return count, h.cache.start.Add(time.Duration(h.last.Load()))
}

// OnFirstHit has told called, by whoever causes it, each time that a hit of Lookup or
// LookupMany is the first one of its item, or the first since its Hits were taken.
// Until they are, it is not called for them again. It must be set before the cache is
// used.
func (c *Cache) OnFirstHit(told func(*Hits)) { c.firstHit = told }

// hit counts that an entry was found at now.
func (c *Cache) hit(e *entry, now time.Duration) {
	if e.hits.add(now) && c.firstHit != nil {
		c.firstHit(e.hits)
	}
}
