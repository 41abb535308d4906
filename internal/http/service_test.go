package http_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// totals is a number of the whole store and its parts.
type totals struct{ Total, Components, Blocks, Entries int64 }

type stats struct {
	SizeBytes, Items totals
	Limit            int64
	BreakerState     string
}

func (b *bundle) stats() stats {
	b.t.Helper()
	return decode[stats](b.get("/v1/stats").is(http.StatusOK))
}

func TestStats(t *testing.T) {
	t.Parallel()
	b := setup(t, func(s *settings) { s.options.MaxBytes = 1 << 20 })
	empty := b.stats()
	require.Zero(t, empty.Items)
	require.Zero(t, empty.SizeBytes)
	require.EqualValues(t, 1<<20, empty.Limit)
	require.Equal(t, "closed", empty.BreakerState)
	b.put("/v1/components/f/a", `{"sourceCode":"abc","fileSize":100}`).is(http.StatusCreated)
	b.put("/v1/blocks/f/a", `{"files":[],"totalSize":200}`).is(http.StatusCreated)
	b.put("/v1/blocks/f/b?ttl=1000", `{"files":[],"totalSize":1000}`).is(http.StatusCreated)
	b.stored("a", "1234")
	full := b.stats()
	require.Equal(t, totals{Total: 4, Components: 1, Blocks: 2, Entries: 1}, full.Items)
	require.Equal(t, totals{Total: 1304, Components: 100, Blocks: 1200, Entries: 4}, full.SizeBytes)
	b.expire("block:f:b")
	require.Equal(t, totals{Total: 3, Components: 1, Blocks: 1, Entries: 1}, b.stats().Items, "an expired item is counted")
	require.Equal(t, totals{Total: 304, Components: 100, Blocks: 200, Entries: 4}, b.stats().SizeBytes)
}

func TestMaintenance(t *testing.T) {
	t.Parallel()
	b := setup(t)
	fill := func() {
		t.Helper()
		b.do(http.MethodDelete, "/v1/items").is(http.StatusOK)
		for _, key := range []string{"a", "b", "component:f:c", "block:f:d", "e"} {
			text := map[byte]string{'c': `{"sourceCode":"","fileSize":10}`, 'b': `{"files":[],"totalSize":10}`}[key[0]]
			if len(key) == 1 {
				text = `"01234567"`
			}
			b.stored(key, text)
		}
		b.get("/v1/items/a").is(http.StatusOK) // so b is the least recently used
	}
	for name, tc := range map[string]struct {
		text, want string
		left       []string
	}{
		"nothing":        {``, `{"expired":0,"evicted":0,"sizeBytes":50,"items":5}`, []string{"a", "b", "block:f:d", "component:f:c", "e"}},
		"empty":          {`{}`, `{"expired":0,"evicted":0,"sizeBytes":50,"items":5}`, []string{"a", "b", "block:f:d", "component:f:c", "e"}},
		"one item":       {`{"evictItems":1}`, `{"expired":0,"evicted":1,"sizeBytes":40,"items":4}`, []string{"a", "block:f:d", "component:f:c", "e"}},
		"three items":    {`{"evictItems":3}`, `{"expired":0,"evicted":3,"sizeBytes":20,"items":2}`, []string{"a", "e"}},
		"no item":        {`{"evictItems":0}`, `{"expired":0,"evicted":0,"sizeBytes":50,"items":5}`, []string{"a", "b", "block:f:d", "component:f:c", "e"}},
		"more than all":  {`{"evictItems":100}`, `{"expired":0,"evicted":5,"sizeBytes":0,"items":0}`, []string{}},
		"to a size":      {`{"targetBytes":25}`, `{"expired":0,"evicted":3,"sizeBytes":20,"items":2}`, []string{"a", "e"}},
		"to just a size": {`{"targetBytes":30}`, `{"expired":0,"evicted":2,"sizeBytes":30,"items":3}`, []string{"a", "block:f:d", "e"}},
		"to nothing":     {`{"targetBytes":0}`, `{"expired":0,"evicted":5,"sizeBytes":0,"items":0}`, []string{}},
	} {
		fill()
		require.JSONEq(t, tc.want, b.post("/v1/maintenance", tc.text).is(http.StatusOK).body, name)
		require.Equal(t, tc.left, b.keys("", 10), name)
		b.requireUsageIsTrue()
	}
	fill()
	b.expire("a", "component:f:c")
	require.JSONEq(t, `{"expired":2,"evicted":1,"sizeBytes":20,"items":2}`, b.post("/v1/maintenance", `{"evictItems":1}`).is(http.StatusOK).body)
	require.Equal(t, []string{"block:f:d", "e"}, b.keys("", 10))

	for text, want := range map[string]badValue{
		`{"evictItems":-1}`:                 {"", "/evictItems", http.StatusUnprocessableEntity, "invalid_value"},
		`{"targetBytes":9007199254740992}`:  {"", "/targetBytes", http.StatusUnprocessableEntity, "invalid_value"},
		`{"evictItems":1.5}`:                {"", "/evictItems", http.StatusBadRequest, "wrong_type"},
		`{"targetBytes":"1"}`:               {"", "/targetBytes", http.StatusBadRequest, "wrong_type"},
		`{"targetBytes":null}`:              {"", "/targetBytes", http.StatusBadRequest, "wrong_type"},
		`{"force":true}`:                    {"", "/force", http.StatusUnprocessableEntity, "unknown_field"},
		`{"evictItems":0,"evictItems":0}`:   {"", "/evictItems", http.StatusBadRequest, "duplicate_name"},
		`{"evictItems":0,"targetBytes":10}`: {"", "", http.StatusUnprocessableEntity, "invalid_value"},
		`[]`:                                {"", "", http.StatusBadRequest, "wrong_type"},
		`{`:                                 {"", "", http.StatusBadRequest, "malformed_json"},
	} {
		b.post("/v1/maintenance", text, marked(bad)).fails(want.status, want.code, at(want.pointer, want.code)...)
	}
	require.Equal(t, []string{"block:f:d", "e"}, b.keys("", 10))
}
