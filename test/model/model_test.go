package model_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
)

// row is an item as it should stand in the database.
type row struct {
	json    string
	bytes   int64
	ttl     int64
	expired bool // and not swept yet
	demo    *string
	// published is the registry item that it was made of, "" where it was not.
	published string

	counted int64 // accesses that are written
	pending int64 // accesses that are not yet
	used    int   // when it was accessed last, in the order of accesses

	etag, created, updated string
}

// model is what the service should hold.
type model struct {
	rows  map[string]*row
	limit int64 // 0: none
	clock int
}

func newModel(limit int64) *model { return &model{rows: map[string]*row{}, limit: limit} }

func kindOf(key string) string {
	if first, _, _ := strings.Cut(key, ":"); first == "component" || first == "block" {
		return first
	}
	return "entry"
}

// alive is the item under a key; nil where there is none for anybody who asks.
func (m *model) alive(key string) *row {
	if r := m.rows[key]; r != nil && !r.expired {
		return r
	}
	return nil
}

// keys are those of all items that there are, in the order of their bytes.
func (m *model) keys() []string {
	keys := slices.AppendSeq([]string{}, maps.Keys(m.rows))
	slices.Sort(keys)
	return slices.DeleteFunc(keys, func(key string) bool { return m.rows[key].expired })
}

// size is what is charged for all rows.
func (m *model) size() (n int64) {
	for _, r := range m.rows {
		n += r.bytes
	}
	return n
}

// sizeAlive is what is charged for all items that there are.
func (m *model) sizeAlive() (n int64) {
	for _, key := range m.keys() {
		n += m.rows[key].bytes
	}
	return n
}

// write stores an item as a write does that has no time to live but ttl.
func (m *model) write(key string, v value, ttl int64) *row {
	before := m.alive(key)
	r := &row{json: v.json, bytes: v.bytes, ttl: ttl, demo: v.demo, published: v.published, counted: 1}
	if before != nil {
		r.counted, r.pending, r.created = before.counted+1, before.pending, before.created
	}
	m.rows[key] = r
	m.use(key)
	return r
}

func (m *model) use(key string) {
	m.clock++
	m.rows[key].used = m.clock
}

// read is an access by reading.
func (m *model) read(key string) {
	m.rows[key].pending++
	m.use(key)
}

// flush writes the accesses.
func (m *model) flush() {
	for _, r := range m.rows {
		r.counted, r.pending = r.counted+r.pending, 0
	}
}

// sweep deletes what has expired and returns how much that was.
func (m *model) sweep() int {
	before := len(m.rows)
	maps.DeleteFunc(m.rows, func(_ string, r *row) bool { return r.expired })
	return before - len(m.rows)
}

// oldest are the keys in the order in which they are to be evicted.
func (m *model) oldest(keep ...string) []string {
	keys := slices.SortedFunc(maps.Keys(m.rows), func(a, b string) int { return m.rows[a].used - m.rows[b].used })
	return slices.DeleteFunc(keys, func(key string) bool { return slices.Contains(keep, key) })
}

// evict brings the size down to size, and returns how many items went for it:
// first what has expired, then what was used the longest ago.
func (m *model) evict(size int64, keep ...string) (n int) {
	if m.size() <= size {
		return 0
	}
	m.sweep()
	for _, key := range m.oldest(keep...) {
		if m.size() <= size {
			break
		}
		delete(m.rows, key)
		n++
	}
	return n
}

// afterWrite evicts what has to go for a write of keep.
func (m *model) afterWrite(keep ...string) {
	if m.limit > 0 {
		m.evict(m.limit, keep...)
	}
}

// value is what an item may be, with what should become of it.
type value struct {
	sent      string // the body
	json      string // what comes back
	bytes     int64  // what it is charged
	demo      *string
	published string
}

// matches tells whether a glob matches a key, in the most simple way.
func matches(glob, key string) bool {
	if glob == "" {
		return key == ""
	}
	switch {
	case glob[0] == '*':
		return matches(glob[1:], key) || key != "" && matches(glob, key[1:])
	case key == "":
		return false
	case glob[0] == '?':
		_, rest, _ := cutRune(key)
		return matches(glob[1:], rest)
	case glob[0] == '\\':
		return glob[1] == key[0] && matches(glob[2:], key[1:])
	}
	return glob[0] == key[0] && matches(glob[1:], key[1:])
}

func cutRune(text string) (r rune, rest string, ok bool) {
	for i, r := range text {
		return r, text[i+len(string(r)):], true
	}
	return 0, "", false
}

// metadata is an item's metadata as the service gives it.
type metadata struct {
	Key, Kind                        string
	SizeBytes, TTLSeconds            int64
	TTLRemainingSeconds              *int64
	CreatedAt, UpdatedAt, AccessedAt time.Time
	AccessCount                      int64
	ETag                             string
}

// check holds metadata against the row.
func (r *row) check(t tester, key string, got metadata) {
	t.Helper()
	require.Equal(t, key, got.Key)
	require.Equal(t, kindOf(key), got.Kind)
	require.Equal(t, r.bytes, got.SizeBytes, key)
	require.Equal(t, r.ttl, got.TTLSeconds, key)
	require.Equal(t, r.counted, got.AccessCount, key)
	require.Equal(t, r.etag, got.ETag, key)
	require.Equal(t, r.created, text(got.CreatedAt), key)
	require.Equal(t, r.updated, text(got.UpdatedAt), key)
	require.False(t, got.UpdatedAt.Before(got.CreatedAt), key)
	if r.ttl == 0 {
		require.Nil(t, got.TTLRemainingSeconds, key)
		return
	}
	require.NotNil(t, got.TTLRemainingSeconds, key)
	require.LessOrEqual(t, *got.TTLRemainingSeconds, r.ttl, key)
	require.Greater(t, *got.TTLRemainingSeconds, r.ttl-int64(patience/time.Second), key)
}

func text(at time.Time) string { return at.Format(time.RFC3339Nano) }

// quote is a string in JSON.
func quote(text string) string {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic(fmt.Sprintf("%q: %v", text, err))
	}
	return string(quoted)
}
