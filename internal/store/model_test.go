package store_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/registry"
	"github.com/stockroom/stockroom/internal/store"
)

// model is what the store should hold, in memory. Items that have expired have
// their rows until they are swept, written over or deleted.
type model struct {
	rows  map[item.Key]*row
	marks map[item.Key]int64
}

type row struct {
	value    item.Value
	ttl      item.TTL
	expired  bool
	version  int64
	accesses int64
}

func (m *model) alive(k item.Key) *row {
	if r := m.rows[k]; r != nil && !r.expired {
		return r
	}
	return nil
}

// holds tells whether an item is as required.
func (m *model) holds(k item.Key, required item.Precondition) bool {
	if r := m.alive(k); r != nil {
		return required.Holds(true, r.value.ETag)
	}
	return required.Holds(false, "")
}

// put stores a value and tells whether it is new.
func (m *model) put(v item.Value, ttl item.TTL) (created bool) {
	r := m.alive(v.Key)
	if r == nil {
		r = &row{}
		created = true
		delete(m.marks, v.Key) // they were of what stood there before
	}
	m.rows[v.Key] = &row{value: v, ttl: ttl, version: r.version + 1, accesses: r.accesses + 1}
	return created
}

func (m *model) usage() (usage item.Usage) {
	for k, r := range m.rows {
		usage = usage.Plus(item.UsageOf(k.Kind(), 1, r.value.Bytes))
	}
	return usage
}

// keys returns those of the items that there are, in order.
func (m *model) keys() []string {
	list := []string{}
	for k, r := range m.rows {
		if !r.expired {
			list = append(list, k.String())
		}
	}
	slices.Sort(list)
	return list
}

func count(counts *item.Counts, kind item.Kind) {
	switch kind {
	case item.KindComponent:
		counts.Components++
	case item.KindBlock:
		counts.Blocks++
	case item.KindEntry:
		counts.Entries++
	}
}

// matches tells whether a glob matches text, by characters.
func matches(glob, text []rune) bool {
	switch {
	case len(glob) == 0:
		return len(text) == 0
	case glob[0] == '*':
		return matches(glob[1:], text) || len(text) > 0 && matches(glob, text[1:])
	case len(text) == 0:
		return false
	case glob[0] == '?':
		return matches(glob[1:], text[1:])
	case glob[0] == '\\':
		return glob[1] == text[0] && matches(glob[2:], text[1:])
	}
	return glob[0] == text[0] && matches(glob[1:], text[1:])
}

// Names and keys in which patterns, orders and demos have something to get wrong.
var (
	names = []string{"a", "a-demo", "a-demo-demo", "B", "ä", "_", "%"}
	globs = []string{"*", "**", "component:*", "*:react:*", "block:?ue:*", "*-demo", "*:_", "*:?", `*\%*`, "entry*", "?", "component:react:a", "*é*", `\*`, "nothing*"}
)

func modelKeys(t require.TestingT) (list []item.Key) {
	for _, framework := range []string{"react", "vue"} {
		for _, name := range names {
			list = append(list, keys(t, "component:"+framework+":"+name, "block:"+framework+":"+name)...)
		}
	}
	return append(list, keys(t, "entry", "entry/é", "Entry", "*", "a", "components:react:a", "\U0010FFFF")...)
}

func TestStoreIsLikeItsModel(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{DefaultTTL: 7200})
	rapid.Check(t, func(rt *rapid.T) {
		exec(rt, b.other, `TRUNCATE components, blocks, entries; UPDATE usage_counters SET
			component_items = 0, block_items = 0, entry_items = 0, component_bytes = 0, block_bytes = 0, entry_bytes = 0`)
		require.NoError(rt, b.FlushMarks(t.Context())) // of the sequence before
		m := &model{rows: map[item.Key]*row{}, marks: map[item.Key]int64{}}
		all := modelKeys(rt)
		rt.Repeat(actions(t, b, m, all))
	})
}

func actions(t *testing.T, b *bundle, m *model, all []item.Key) map[string]func(*rapid.T) {
	t.Helper()
	ctx := t.Context()
	anyKey := func(rt *rapid.T) item.Key {
		// One that there is, more often than not.
		if living := m.keys(); len(living) > 0 && rapid.IntRange(0, 2).Draw(rt, "known") > 0 {
			return key(rt, rapid.SampledFrom(living).Draw(rt, "key"))
		}
		return rapid.SampledFrom(all).Draw(rt, "key")
	}
	someKeys := func(rt *rapid.T) []item.Key {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(all), 0, 12, func(k item.Key) string { return k.String() }).Draw(rt, "keys")
	}
	anyText := func(rt *rapid.T) string {
		return rapid.StringOfN(rapid.RuneFrom([]rune("aé\"\n")), 0, 20, -1).Draw(rt, "text")
	}
	anyTTL := func(rt *rapid.T) (given *item.TTL, effective item.TTL) {
		effective = rapid.SampledFrom([]item.TTL{-1, 0, 3600}).Draw(rt, "ttl")
		if effective < 0 {
			return nil, 7200
		}
		return &effective, effective
	}
	anyPrecondition := func(rt *rapid.T, k item.Key) item.Precondition {
		etag := "none such"
		if r := m.alive(k); r != nil {
			etag = r.value.ETag
		}
		return rapid.SampledFrom([]item.Precondition{
			{},
			{},
			ifAny, ifNone, ifMatch(etag), ifMatch("another"),
			{IfNoneMatch: &item.Tags{List: []item.Tag{{Opaque: etag, Weak: true}}}},
			{IfMatch: &item.Tags{List: []item.Tag{{Opaque: etag, Weak: true}}}},
		}).Draw(rt, "required")
	}
	checkWritten := func(rt *rapid.T, written store.Written, created bool) {
		r := m.rows[written.Key]
		require.Equal(rt, created, written.Created)
		checkMetadata(rt, r, written.Metadata)
	}
	return map[string]func(*rapid.T){
		"put": func(rt *rapid.T) {
			v := value(rt, anyKey(rt), anyText(rt))
			given, ttl := anyTTL(rt)
			required := anyPrecondition(rt, v.Key)
			ok := m.holds(v.Key, required)
			written, err := b.Put(ctx, v, given, required)
			if !ok {
				require.ErrorIs(rt, err, item.ErrPreconditionFailed)
				return
			}
			require.NoError(rt, err)
			checkWritten(rt, written, m.put(v, ttl))
		},
		"delete": func(rt *rapid.T) {
			k := anyKey(rt)
			required := anyPrecondition(rt, k)
			living, ok := m.alive(k) != nil, m.holds(k, required)
			err := b.Delete(ctx, k, required)
			switch {
			case !living:
				require.ErrorIs(rt, err, item.ErrNotFound)
				if scan[int](rt, b.other, `SELECT count(*) FROM `+table(k)+` WHERE key = $1`, k.String()) == 0 {
					delete(m.rows, k) // whether it takes what has expired with it is its own affair
				}
			case !ok:
				require.ErrorIs(rt, err, item.ErrPreconditionFailed)
			default:
				require.NoError(rt, err)
				delete(m.rows, k)
			}
		},
		"mset": func(rt *rapid.T) {
			set := someKeys(rt)
			text := anyText(rt)
			given, ttl := anyTTL(rt)
			require.NoError(rt, b.PutMany(ctx, values(rt, set, text), given))
			for _, v := range values(rt, set, text) {
				m.put(v, ttl)
			}
		},
		"mdelete": func(rt *rapid.T) {
			set := someKeys(rt)
			want := 0
			for _, k := range set {
				if m.alive(k) != nil {
					want++
				}
				delete(m.rows, k)
			}
			n, err := b.DeleteMany(ctx, slices.Concat(set, set)) // twice counts once
			require.NoError(rt, err)
			require.Equal(rt, want, n)
		},
		"clear": func(rt *rapid.T) {
			glob := rapid.SampledFrom(append([]string{""}, globs...)).Draw(rt, "pattern")
			p := item.Pattern{}
			if glob != "" {
				p = pattern(rt, glob)
			}
			var want item.Counts
			for k, r := range m.rows {
				if glob == "" || matches([]rune(glob), []rune(k.String())) {
					if !r.expired {
						count(&want, k.Kind())
					}
					delete(m.rows, k)
				}
			}
			cleared, err := b.Clear(ctx, p)
			require.NoError(rt, err)
			require.Equal(rt, want, cleared)
		},
		"touch": func(rt *rapid.T) {
			k := anyKey(rt)
			given, ttl := anyTTL(rt)
			metadata, err := b.Touch(ctx, k, given)
			r := m.alive(k)
			if r == nil {
				require.ErrorIs(rt, err, item.ErrNotFound)
				return
			}
			require.NoError(rt, err)
			if given != nil {
				r.ttl = ttl
			}
			checkMetadata(rt, r, metadata)
		},
		"expire": func(rt *rapid.T) {
			if r := m.rows[anyKey(rt)]; r != nil {
				expire(rt, b.other, r.value.Key)
				r.expired = true
			}
		},
		"sweep": func(rt *rapid.T) {
			want := 0
			for k, r := range m.rows {
				if r.expired {
					want++
					delete(m.rows, k)
				}
			}
			n, again, err := b.Sweep(ctx)
			require.NoError(rt, err)
			require.Equal(rt, want, n)
			require.False(rt, again)
		},
		"publish": func(rt *rapid.T) {
			v := registryItemOf(rt, rapid.SampledFrom([]string{"registry:ui", "registry:example", "registry:block"}).Draw(rt, "type"),
				rapid.SampledFrom([]string{"a", "a-demo", "a-demo-demo", "B"}).Draw(rt, "name"), anyText(rt))
			given, ttl := anyTTL(rt)
			required := anyPrecondition(rt, v.Key)
			ok := m.holds(v.Key, required)
			written, err := b.Publish(ctx, v, given, required)
			switch {
			case m.alive(otherKind(rt, v.Key)) != nil:
				require.ErrorIs(rt, err, item.ErrConflict)
			case !ok:
				require.ErrorIs(rt, err, item.ErrPreconditionFailed)
			default:
				require.NoError(rt, err)
				created := m.publish(rt, v, ttl)
				checkWritten(rt, written, created)
			}
		},
		"get": func(rt *rapid.T) {
			k := anyKey(rt)
			stored, err := b.Get(ctx, k)
			r := m.alive(k)
			if r == nil {
				require.ErrorIs(rt, err, item.ErrNotFound)
				return
			}
			require.NoError(rt, err)
			require.Equal(rt, string(r.value.JSON()), string(stored.JSON))
			checkMetadata(rt, r, stored.Metadata)
			m.marks[k]++
		},
		"mget": func(rt *rapid.T) {
			set := someKeys(rt)
			found, err := b.GetMany(ctx, set)
			require.NoError(rt, err)
			want := map[string]string{}
			for _, k := range set {
				if r := m.alive(k); r != nil {
					want[k.String()] = string(r.value.JSON())
					m.marks[k]++
				}
			}
			got := map[string]string{}
			for _, stored := range found {
				got[stored.Key.String()] = string(stored.JSON)
				checkMetadata(rt, m.rows[stored.Key], stored.Metadata)
			}
			require.Equal(rt, want, got)
		},
		"flush": func(rt *rapid.T) {
			require.NoError(rt, b.FlushMarks(ctx))
			for k, n := range m.marks {
				if r := m.rows[k]; r != nil {
					r.accesses += n
				}
			}
			clear(m.marks)
		},
		"keys": func(rt *rapid.T) {
			glob := rapid.SampledFrom(globs).Draw(rt, "pattern")
			size := rapid.SampledFrom([]int{1, 2, 5, 100}).Draw(rt, "page")
			want := slices.DeleteFunc(m.keys(), func(k string) bool { return !matches([]rune(glob), []rune(k)) })
			got := []string{}
			for more, after := true, ""; more; {
				var page []string
				var err error
				page, more, err = b.Keys(ctx, pattern(rt, glob), store.Page{After: after, Limit: size})
				require.NoError(rt, err)
				require.LessOrEqual(rt, len(page), size)
				got = append(got, page...)
				if more {
					after = page[len(page)-1]
				}
			}
			require.Equal(rt, want, got, glob)
		},
		"list": func(rt *rapid.T) { checkList(rt, b, m) },
		"":     func(rt *rapid.T) { check(rt, b, m) },
	}
}

// publish stores a registry item with what it has to do with its demo, and tells
// whether it is new.
func (m *model) publish(t require.TestingT, v item.Value, ttl item.TTL) (created bool) {
	if v.Component != nil {
		if r := m.alive(v.Key); r != nil && r.value.Component.DemoCode != nil {
			v = withDemo(t, v, r.value.Component.DemoCode)
		} else if k, ok := registry.DemoOf(v.Key); ok && m.alive(k) != nil {
			demo := m.alive(k).value
			if target, ok := registry.DemoTarget(demo); ok && target == v.Key {
				v = withDemo(t, v, &demo.Component.SourceCode)
			}
		}
	}
	created = m.put(v, ttl)
	if target, ok := registry.DemoTarget(v); ok {
		if r := m.alive(target); r != nil {
			if filled := withDemo(t, r.value, &v.Component.SourceCode); filled.ETag != r.value.ETag {
				m.put(filled, r.ttl)
			}
		}
	}
	return created
}

func withDemo(t require.TestingT, v item.Value, demo *string) item.Value {
	filled, err := registry.WithDemo(v, demo)
	require.NoError(t, err)
	return filled
}

func otherKind(t require.TestingT, k item.Key) item.Key {
	if k.Kind() == item.KindBlock {
		return key(t, strings.Replace(k.String(), "block:", "component:", 1))
	}
	return key(t, strings.Replace(k.String(), "component:", "block:", 1))
}

// checkMetadata holds an item's metadata against its row.
func checkMetadata(t require.TestingT, r *row, got item.Metadata) {
	require.Equal(t, r.value.ETag, got.ETag)
	require.Equal(t, r.value.Bytes, got.Bytes)
	require.Equal(t, r.ttl, got.TTL)
	require.Equal(t, r.version, got.Version)
	require.Equal(t, r.accesses, got.AccessCount)
	require.Equal(t, r.ttl == 0, got.Expires.IsZero())
	if r.ttl == 0 {
		require.Zero(t, got.Remaining)
	} else {
		require.InDelta(t, float64(r.ttl), got.Remaining.Seconds(), 60)
	}
	require.False(t, got.Updated.Before(got.Created))
}

// check holds the whole store against the model.
func check(t require.TestingT, b *bundle, m *model) {
	require.Equal(t, m.usage(), checkUsage(t, b.other))
	rows, err := b.other.Query(b.t.Context(), `SELECT key, version, access_count, expires_at IS NOT NULL AND expires_at <= now() FROM components
		UNION ALL SELECT key, version, access_count, expires_at IS NOT NULL AND expires_at <= now() FROM blocks
		UNION ALL SELECT key, version, access_count, expires_at IS NOT NULL AND expires_at <= now() FROM entries`)
	require.NoError(t, err)
	defer rows.Close()
	got, want := map[string]string{}, map[string]string{}
	for rows.Next() {
		var k string
		var version, accesses int64
		var expired bool
		require.NoError(t, rows.Scan(&k, &version, &accesses, &expired))
		got[k] = fmt.Sprint(version, accesses, expired)
	}
	require.NoError(t, rows.Err())
	for k, r := range m.rows {
		want[k.String()] = fmt.Sprint(r.version, r.accesses, r.expired)
	}
	require.Equal(t, want, got)
}

// checkList holds the lists and the counts of frameworks against the model.
func checkList(t *rapid.T, b *bundle, m *model) {
	ctx := b.t.Context()
	forms, none := "forms", "none"
	want := map[string]*item.FrameworkUsage{}
	for _, framework := range []string{"react", "vue", "svelte"} {
		for _, kind := range []item.Kind{item.KindComponent, item.KindBlock} {
			var keys, inForms []string
			for _, k := range m.keys() {
				k := key(t, k)
				if k.Kind() != kind || k.Framework() != framework {
					continue
				}
				r := m.rows[k]
				keys = append(keys, k.String())
				if r.value.Block != nil && r.value.Block.Category != nil && *r.value.Block.Category == forms {
					inForms = append(inForms, k.String())
				}
				if want[framework] == nil {
					want[framework] = &item.FrameworkUsage{Framework: framework}
				}
				want[framework].Bytes += r.value.Bytes
				if kind == item.KindBlock {
					want[framework].Blocks++
				} else {
					want[framework].Components++
				}
			}
			require.Equal(t, keys, listAll(t, b, m, kind, framework, nil))
			if kind == item.KindBlock {
				require.Equal(t, inForms, listAll(t, b, m, kind, framework, &forms))
				require.Empty(t, listAll(t, b, m, kind, framework, &none))
			}
		}
	}
	frameworks, err := b.Frameworks(ctx)
	require.NoError(t, err)
	var got []item.FrameworkUsage
	for _, name := range slices.Sorted(maps.Keys(want)) {
		got = append(got, *want[name])
	}
	require.ElementsMatch(t, got, frameworks)
	require.True(t, slices.IsSortedFunc(frameworks, func(a, b item.FrameworkUsage) int { return strings.Compare(a.Framework, b.Framework) }))
}

// listAll reads a list page by page.
func listAll(t *rapid.T, b *bundle, m *model, kind item.Kind, framework string, category *string) (keys []string) {
	for more, after := true, ""; more; {
		var page []item.Summary
		var err error
		page, more, err = b.List(b.t.Context(), kind, framework, category, store.Page{After: after, Limit: 3})
		require.NoError(t, err)
		for _, summary := range page {
			keys = append(keys, summary.Key.String())
			checkMetadata(t, m.rows[summary.Key], summary.Metadata)
			require.Equal(t, kind == item.KindComponent, summary.Component != nil)
			require.Equal(t, kind == item.KindBlock, summary.Block != nil)
		}
		if more {
			after = keys[len(keys)-1]
		}
	}
	return keys
}
