package readcache

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/stockroom/stockroom/internal/item"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	big       = 1 << 20
	staleness = time.Second
)

var errDown = errors.New("database down")

// pass lets time pass, in a bubble of synctest: nobody really waits.
func pass(d time.Duration) { <-time.After(d) }

func keyOf(t testing.TB, text string) item.Key {
	t.Helper()
	key, err := item.ParseKey(text)
	require.NoError(t, err)
	return key
}

// value is an item that never expires.
func value(key item.Key, version int64) item.Stored {
	return item.Stored{
		Metadata: item.Metadata{Key: key, Version: version, ETag: "0123456789012345678901"},
		JSON:     []byte(`{"a":1}`),
	}
}

func expiring(key item.Key, version int64, remaining time.Duration) item.Stored {
	stored := value(key, version)
	stored.TTL, stored.Remaining = item.TTL(max(1, remaining/time.Second)), remaining
	return stored
}

// loading is a loader that calls load, which may wait, in the background.
func loading(load func(context.Context) (item.Stored, error)) Loader {
	return func(ctx context.Context, finish func(item.Stored, error)) func(error) {
		ctx, cancel := context.WithCancelCause(ctx)
		go func() {
			defer cancel(nil)
			finish(load(ctx))
		}()
		return cancel
	}
}

// returns is a loader that has read the item before it returns.
func returns(stored item.Stored, err error) Loader {
	return func(_ context.Context, finish func(item.Stored, error)) func(error) {
		finish(stored, err)
		return func(error) {}
	}
}

// store loads the item into the cache.
func store(t testing.TB, c *Cache, stored item.Stored) {
	t.Helper()
	_, err := c.Load(t.Context(), stored.Key, returns(stored, nil))
	require.NoError(t, err)
}

// versions of what is fresh and of what can be served as stale; 0 is a miss.
func versions(c *Cache, key item.Key) [2]int64 {
	fresh, _ := c.Lookup(key)
	stale, _ := c.LookupStale(key)
	return [2]int64{fresh.Version, stale.Version}
}

// slow is a load whose end the test decides.
type slow struct {
	ctx     chan context.Context
	proceed chan func() (item.Stored, error)
}

func newSlow() *slow {
	return &slow{ctx: make(chan context.Context, 1), proceed: make(chan func() (item.Stored, error), 1)}
}

func (s *slow) load(ctx context.Context, finish func(item.Stored, error)) (cancel func(error)) {
	return loading(s.wait)(ctx, finish)
}

func (s *slow) wait(ctx context.Context) (item.Stored, error) {
	s.ctx <- ctx
	select {
	case end := <-s.proceed:
		return end()
	case <-ctx.Done():
		return item.Stored{}, ctx.Err()
	}
}

func (s *slow) end(stored item.Stored, err error) {
	s.proceed <- func() (item.Stored, error) { return stored, err }
}

type answer struct {
	stored item.Stored
	err    error
}

// ask loads in the background.
func ask(ctx context.Context, c *Cache, key item.Key, load Loader) <-chan answer {
	answers := make(chan answer, 1)
	go func() {
		stored, err := c.Load(ctx, key, load)
		answers <- answer{stored, err}
	}()
	return answers
}
