package http_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/readcache"
)

func cached(cache *readcache.Cache) func(*settings) {
	return func(s *settings) { s.options.Cache = cache }
}

// mget answers from the cache what is a snapshot there, and else, or where the
// caller wants that, from the database.
func TestMgetFromTheCache(t *testing.T) {
	t.Parallel()
	cache := readcache.New(1<<20, time.Hour)
	defer cache.Close()
	b := setup(t, cached(cache))
	b.put(itemPath("a"), `1`).is(http.StatusCreated)
	b.put(itemPath("component:f:n"), `{"sourceCode":"x"}`).is(http.StatusCreated)
	const both, first = `{"keys":["component:f:n","a"]}`, `{"items":{"component:f:n":{"sourceCode":"x"},"a":1},"missing":[]}`
	mget := func(keys string, options ...option) string {
		t.Helper()
		return b.post("/v1/mget", keys, options...).is(http.StatusOK).body
	}
	require.Equal(t, first, mget(both))
	b.exec(`UPDATE entries SET value = '2' WHERE key = 'a'`)
	second := strings.Replace(first, `"a":1`, `"a":2`, 1)
	require.Equal(t, second, mget(both), "nobody has said that this is all that others have done")

	cache.Heard(time.Now())
	b.exec(`UPDATE entries SET value = '3' WHERE key = 'a'`)
	require.Equal(t, second, mget(both))
	require.Equal(t, `{"items":{"a":3},"missing":["none"]}`, mget(`{"keys":["none","a"]}`), "what there is not is asked for")
	require.Equal(t, strings.Replace(first, `"a":1`, `"a":3`, 1), mget(both), "and what was read with it counts")
	cache.Heard(time.Now())
	b.exec(`UPDATE entries SET value = '4' WHERE key = 'a'`)
	require.Equal(t, strings.Replace(first, `"a":1`, `"a":4`, 1), mget(both, header("Cache-Control", "no-cache")))
	require.Equal(t, `4`, b.get(itemPath("a")).is(http.StatusOK).body)

	require.NoError(t, b.store.FlushMarks(t.Context()))
	require.EqualValues(t, 8, b.get(itemPath("a")+"/metadata").metadata().AccessCount, "a write, six times mget, a get")
}
