package readcache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
)

// world is what the cache stands before: one row to a key, of which only the
// version matters, written by several writers.
type world struct {
	cache *Cache
	rows  []row
	delay func() // of random length, wherever a real database or network would take time
	wrong atomic.Pointer[string]
}

type row struct {
	key          item.Key
	writing      chan struct{} // a lock on which a bubble lets time pass
	version      atomic.Int64  // committed
	acknowledged atomic.Int64
}

// load reads the row, some time after it is asked and some time before it answers.
func (w *world) load(r *row) func(context.Context) (item.Stored, error) {
	return func(ctx context.Context) (item.Stored, error) {
		w.delay()
		version := r.version.Load()
		w.delay()
		if err := ctx.Err(); err != nil {
			return item.Stored{}, err
		}
		switch {
		case version%7 == 0:
			return item.Stored{}, item.ErrNotFound
		case version%3 == 0:
			return expiring(r.key, version, time.Hour), nil
		}
		return value(r.key, version), nil
	}
}

func (w *world) write(r *row) {
	r.writing <- struct{}{}
	defer func() { <-r.writing }()
	version := r.version.Add(1)
	w.delay()
	if version%11 == 0 {
		w.cache.Reset()
	} else {
		w.cache.Invalidate(r.key)
	}
	r.acknowledged.Store(version)
}

// read checks that a read sees what was acknowledged before it began, and nothing
// that is not yet committed when it ends.
func (w *world) read(r *row) {
	least := r.acknowledged.Load()
	how := rand.IntN(20)
	var (
		stored item.Stored
		found  bool
		err    error
	)
	switch how {
	case 0:
		stored, found = w.cache.LookupStale(r.key)
	case 1:
		least = r.version.Load() // committed is enough for a reload
		stored, err = w.cache.Reload(context.Background(), r.key, loading(w.load(r)))
		found = err == nil
	default:
		stored, found = w.cache.Lookup(r.key)
		if found {
			break
		}
		w.delay()
		ctx, leave := context.WithCancel(context.Background())
		defer leave()
		if how < 5 {
			go func() { w.delay(); leave() }()
		}
		stored, err = w.cache.Load(ctx, r.key, loading(w.load(r)))
		found = err == nil
	}
	most := r.version.Load()
	switch {
	case found && (stored.Version < least || stored.Version > most || stored.Key != r.key):
		w.failf("way %d: read version %d of %v, which has at least %d and at most %d", how, stored.Version, r.key, least, most)
	case errors.Is(err, item.ErrNotFound) && most < (least+6)/7*7:
		w.failf("way %d: read %v as deleted between versions %d and %d", how, r.key, least, most)
	case err != nil && !errors.Is(err, item.ErrNotFound) && !errors.Is(err, context.Canceled):
		w.failf("way %d: %v", how, err)
	}
}

func (w *world) failf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.wrong.CompareAndSwap(nil, &text)
}

// run lets writers, readers and a troublemaker work, each for so many rounds.
func (w *world) run(t *testing.T, rounds int) {
	t.Helper()
	w.rows = make([]row, 4)
	for i := range w.rows {
		w.rows[i].key = keyOf(t, fmt.Sprintf("e%d", i))
		w.rows[i].writing = make(chan struct{}, 1)
	}
	var workers sync.WaitGroup
	work := func(n int, do func(*row)) {
		for range n {
			workers.Go(func() {
				for range rounds {
					do(&w.rows[rand.IntN(len(w.rows))])
				}
			})
		}
	}
	work(2, func(r *row) { w.delay(); w.delay(); w.write(r) })
	work(6, w.read)
	work(1, func(*row) {
		until := time.Now()
		w.delay()
		w.delay()
		if rand.IntN(2) == 0 {
			w.cache.Distrust()
			return
		}
		w.cache.Heard(until)
	})
	workers.Wait()
	if wrong := w.wrong.Load(); wrong != nil {
		t.Fatal(*wrong)
	}
	require.NotZero(t, w.cache.Stats().Hits.Total())
	w.cache.mu.Lock()
	defer w.cache.mu.Unlock()
	require.Empty(t, w.cache.flights) // no trace of keys stays behind
}

// In a bubble, delays are long and of all lengths, so that a load meets many
// writes: what matters is the order of the steps.
func TestReadsSeeAcknowledgedWritesInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{cache: New(big, staleness), delay: func() {
			if rand.IntN(3) > 0 {
				pass(time.Duration(rand.IntN(5)) * 20 * time.Millisecond)
			}
		}}
		defer w.cache.Close()
		w.run(t, 5000)
		synctest.Wait()
	})
}

// Outside of one, delays are a few instructions: what matters is what happens
// between them.
func TestReadsSeeAcknowledgedWritesInARace(t *testing.T) {
	t.Parallel()
	for name, bytes := range map[string]int64{"roomy": big, "narrow": 2 * overhead, "off": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &world{cache: New(bytes, time.Hour), delay: func() {
				for range rand.IntN(4) {
					runtime.Gosched()
				}
			}}
			defer w.cache.Close()
			if bytes == 0 {
				w.cache.hits.add(item.KindEntry) // there are none
			}
			w.run(t, 20_000)
		})
	}
}
