package http_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	stockhttp "github.com/stockroom/stockroom/internal/http"
	"github.com/stockroom/stockroom/internal/item"
)

// matches is the glob as the contract describes it, as plainly as it can be
// written.
func matches(pattern, text []rune) bool {
	switch {
	case len(pattern) == 0:
		return len(text) == 0
	case pattern[0] == '*':
		return matches(pattern[1:], text) || len(text) > 0 && matches(pattern, text[1:])
	case len(text) == 0:
		return false
	case pattern[0] == '?':
		return matches(pattern[1:], text[1:])
	case pattern[0] == '\\':
		return pattern[1] == text[0] && matches(pattern[2:], text[1:])
	}
	return pattern[0] == text[0] && matches(pattern[1:], text[1:])
}

// endsEscaping tells whether a pattern ends with a backslash that escapes nothing.
func endsEscaping(pattern string) bool {
	return (len(pattern)-len(strings.TrimRight(pattern, `\`)))%2 == 1
}

func TestKeysMatchPattern(t *testing.T) {
	t.Parallel()
	b := setup(t)
	keys := []string{
		"a", "ab", "abc", "a*c", "a?c", `a\c`, "a%c", "a_c", "A", "é", "éa", "🎉", "a/b", "a:b", "component:f:a", "block:f:a", "component:g:ab",
		"components", "\uffff", "\U0010ffff", "a c", "100%",
	}
	entries := map[string]any{}
	for _, key := range keys {
		entries[key] = map[string]any{}
		switch {
		case strings.HasPrefix(key, "component:"):
			entries[key] = map[string]any{"sourceCode": ""}
		case strings.HasPrefix(key, "block:"):
			entries[key] = map[string]any{"files": []any{}}
		}
	}
	b.do(http.MethodPost, "/v1/mset", bodyOf(map[string]any{"entries": entries})).is(http.StatusOK)
	slices.Sort(keys)
	require.Equal(t, keys, b.keys("", 3))
	for _, pattern := range []string{
		"*", "**", "?", "??", "???", "a*", "*a", "*b*", "a?c", `a\*c`, `a\?c`, `a\\c`, "a%c", "a_c", `a\%c`, `a\_c`, `\a\b`, "a.c", "[ab]", "é*", "?a",
		"component:*", "*:f:*", "component:?:*", "*%", "_", "%", "a/*", "A", "zzz", "*c", "a*c*", "component", `\component:f:a`, "\U0010ffff*",
	} {
		want := []string{}
		for _, key := range keys {
			if matches([]rune(pattern), []rune(key)) {
				want = append(want, key)
			}
		}
		require.Equal(t, want, b.keys(pattern, 2), pattern)
		require.Equal(t, want, b.keys(pattern, 1000), pattern)
	}
}

// TestKeysMatchTheModel compares pages of keys under random patterns with the
// model.
func TestKeysMatchTheModel(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// Few different runes in short keys, so that patterns match some of them but
	// not all.
	text := func(most int) *rapid.Generator[string] {
		return rapid.StringOfN(rapid.SampledFrom([]rune(`ab_%*?\é`)), 1, most, -1)
	}
	prefixed := func(prefix string, text *rapid.Generator[string]) *rapid.Generator[string] {
		return rapid.Map(text, func(end string) string { return prefix + end })
	}
	key := rapid.OneOf(text(3), text(3), prefixed("component:f:", text(2)), prefixed("block:f:", text(2)))
	piece := rapid.SampledFrom([]string{"*", "*", "?", `\*`, `\?`, `\\`, `\_`, `\a`, `\`, "_", "%", "a", "b", "é", ":"})
	glob := rapid.Map(rapid.SliceOfN(piece, 1, 5), func(pieces []string) string { return strings.Join(pieces, "") })
	pattern := rapid.OneOf(glob, glob, prefixed("component:f:", glob), prefixed("*:f:", glob))
	rapid.Check(t, func(rt *rapid.T) {
		keys := rapid.SliceOfNDistinct(key, 20, 30, rapid.ID).Draw(rt, "keys")
		entries := map[string]any{}
		for _, key := range keys {
			parsed, err := item.ParseKey(key)
			require.NoError(rt, err, key)
			entries[key] = map[item.Kind]any{
				item.KindComponent: map[string]any{"sourceCode": ""}, item.KindBlock: map[string]any{"files": []any{}}, item.KindEntry: 1,
			}[parsed.Kind()]
		}
		b.do(http.MethodDelete, "/v1/items").is(http.StatusOK)
		b.do(http.MethodPost, "/v1/mset", bodyOf(map[string]any{"entries": entries})).is(http.StatusOK)
		slices.Sort(keys)
		for _, pattern := range rapid.SliceOfN(pattern, 3, 6).Draw(rt, "patterns") {
			if endsEscaping(pattern) {
				b.get("/v1/items?pattern="+url.QueryEscape(pattern), marked(bad)).fails(http.StatusBadRequest, "invalid_parameter")
				continue
			}
			want := []string{}
			for _, key := range keys {
				if matches([]rune(pattern), []rune(key)) {
					want = append(want, key)
				}
			}
			require.Equal(rt, want, b.keys(pattern, rapid.IntRange(3, 15).Draw(rt, "limit")), "pattern %q", pattern)
		}
	})
}

// TestListsStandStill walks lists while other items come and go between the
// pages: what stood all the time is there exactly once, in order.
func TestListsStandStill(t *testing.T) {
	t.Parallel()
	for name, list := range map[string]struct {
		path, member, key, text string
		query                   url.Values
	}{
		"keys":       {"/v1/items", "keys", "component:f:", `{"sourceCode":""}`, url.Values{}},
		"pattern":    {"/v1/items", "keys", "block:f:", `{"files":[]}`, url.Values{"pattern": {"block:f:*"}}},
		"components": {"/v1/components/f", "items", "component:f:", `{"sourceCode":""}`, url.Values{}},
		"blocks":     {"/v1/blocks/f", "items", "block:f:", `{"files":[]}`, url.Values{}},
		"category":   {"/v1/blocks/f", "items", "block:f:", `{"files":[],"category":"c"}`, url.Values{"category": {"c"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			random := rand.New(rand.NewPCG(1, uint64(len(name))))
			nameOf := func(i int) string { return list.key + fmt.Sprintf("n%03d", i) }
			const n = 60
			standing := []string{}
			there := map[int]bool{} // of the odd ones, which come and go
			var entries []string
			for i := range n {
				if i%2 == 0 {
					standing = append(standing, nameOf(i))
				} else if there[i] = random.IntN(2) == 0; !there[i] {
					continue
				}
				entries = append(entries, fmt.Sprintf("%q:%s", nameOf(i), list.text))
			}
			b.post("/v1/mset", `{"entries":{`+strings.Join(entries, ",")+`}}`).is(http.StatusOK)
			list.query.Set("limit", "4")
			change := func(int) {
				for range 6 {
					i := random.IntN(n/2)*2 + 1
					if there[i] = !there[i]; there[i] {
						b.put(itemPath(nameOf(i)), list.text).is(http.StatusCreated)
					} else {
						b.do(http.MethodDelete, itemPath(nameOf(i))).is(http.StatusNoContent)
					}
				}
			}
			seen := []string{}
			for _, raw := range walk[json.RawMessage](b, list.path, list.member, list.query, change) {
				var key string
				if json.Unmarshal(raw, &key) != nil {
					var m metadata
					require.NoError(t, json.Unmarshal(raw, &m))
					key = m.Key
				}
				seen = append(seen, key)
			}
			require.True(t, slices.IsSorted(seen))
			require.Equal(t, seen, slices.Compact(slices.Clone(seen)), "an item is listed twice")
			for _, key := range standing {
				require.Contains(t, seen, key, "an item that stood all the time is not listed")
			}
		})
	}
}

// TestCursorOutlivesItsItem goes on behind an item that is not there any more.
func TestCursorOutlivesItsItem(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, key := range []string{"a", "b", "c"} {
		b.stored(key, "1")
	}
	page := decode[struct {
		Keys       []string
		NextCursor string
	}](b.get("/v1/items?limit=2").is(http.StatusOK))
	require.Equal(t, []string{"a", "b"}, page.Keys)
	b.post("/v1/mdelete", `{"keys":["a","b"]}`).is(http.StatusOK)
	require.JSONEq(t, `{"keys":["c"]}`, b.get("/v1/items?limit=2&cursor="+page.NextCursor).is(http.StatusOK).body)
	b.post("/v1/mdelete", `{"keys":["c"]}`).is(http.StatusOK)
	require.JSONEq(t, `{"keys":[]}`, b.get("/v1/items?limit=2&cursor="+page.NextCursor).is(http.StatusOK).body)
}

func TestEmptyLists(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.Equal(t, `{"keys":[]}`, b.get("/v1/items").is(http.StatusOK).body)
	require.Equal(t, `{"items":[]}`, b.get("/v1/components/none").is(http.StatusOK).body)
	require.Equal(t, `{"items":[]}`, b.get("/v1/blocks/none?category=x").is(http.StatusOK).body)
	require.Equal(t, `{"frameworks":[]}`, b.get("/v1/frameworks").is(http.StatusOK).body)
}

func TestDefaultAndLargestLimit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	entries := make([]string, 1000)
	for i := range entries {
		entries[i] = fmt.Sprintf(`"component:f:n%04d":{"sourceCode":""}`, i)
	}
	b.post("/v1/mset", `{"entries":{`+strings.Join(entries, ",")+`}}`).is(http.StatusOK)
	b.stored("component:f:last", `{"sourceCode":""}`)
	for path, member := range map[string]string{"/v1/items": "keys", "/v1/components/f": "items"} {
		for query, n := range map[string]int{"": 100, "?limit=1": 1, "?limit=1000": 1000} {
			page := decode[map[string]json.RawMessage](b.get(path + query).is(http.StatusOK))
			var list []json.RawMessage
			require.NoError(t, json.Unmarshal(page[member], &list))
			require.Len(t, list, n, path+query)
			require.NotEmpty(t, page["nextCursor"], path+query)
		}
		require.Len(t, walk[json.RawMessage](b, path, member, url.Values{"limit": {"1000"}}, nil), 1001)
	}
}

// TestListShowsSmallFields lists components and blocks of all fields and of the
// fewest.
func TestListShowsSmallFields(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.stored("component:react:button", sampleComponent)
	b.stored("component:react:plain", `{"sourceCode":"abc"}`)
	b.stored("component:react:empty", `{"sourceCode":"","dependencies":[],"registryDependencies":[],"fileSize":0,"demoCode":"x","metadata":{}}`)
	b.stored("component:reactive:other", `{"sourceCode":"abc"}`)
	b.put("/v1/items/block%3Areact%3Alogin?ttl=1000", sampleBlock).is(http.StatusCreated)
	b.stored("block:react:plain", `{"files":[]}`)
	for _, sample := range samples[:2] {
		list := walk[map[string]any](b, "/v1/"+sample.kind+"s/react", "items", url.Values{}, nil)
		byName := map[string]map[string]any{}
		for _, entry := range list {
			name, _ := entry["name"].(string)
			byName[name] = entry
			require.Equal(t, "react", entry["framework"])
			// The metadata is that of the item's own route.
			key, _ := entry["key"].(string)
			want := decode[map[string]any](b.get(itemPath(key) + "/metadata").is(http.StatusOK))
			for field, value := range want {
				if field != "ttlRemainingSeconds" {
					require.Equal(t, value, entry[field], "%s of %s", field, key)
				}
			}
			for _, field := range []string{"sourceCode", "demoCode", "metadata", "files", "structure"} {
				require.NotContains(t, entry, field, key)
			}
		}
		require.Len(t, byName, map[string]int{"component": 3, "block": 2}[sample.kind])
		whole := decode[map[string]any](b.get(sample.path).is(http.StatusOK))
		name, _ := whole["name"].(string)
		for _, field := range []string{
			"dependencies", "registryDependencies", "githubSha", "fileSize", "lastModified", "category", "type", "description", "componentsUsed", "totalSize",
		} {
			shown := byName[name]
			require.Equal(t, whole[field], shown[field], field)
			require.NotContains(t, byName["plain"], field)
		}
		if sample.kind == "component" {
			require.Equal(t, []any{}, byName["empty"]["dependencies"])
			require.Equal(t, []any{}, byName["empty"]["registryDependencies"])
			require.EqualValues(t, 0, byName["empty"]["fileSize"])
			continue
		}
		require.EqualValues(t, 1000, byName["login"]["ttlSeconds"])
	}
}

func TestListByCategory(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.post("/v1/mset", `{"entries":{
		"block:f:a":{"files":[],"category":"one"}, "block:f:b":{"files":[],"category":"One"}, "block:f:c":{"files":[],"category":"one"},
		"block:f:d":{"files":[]}, "block:f:e":{"files":[],"category":""}, "block:f:f":{"files":[],"category":"ünï & 100%"},
		"block:g:a":{"files":[],"category":"one"}, "block:f:g":{"files":[],"category":"one"}, "component:f:a":{"sourceCode":""}}}`).is(http.StatusOK)
	for category, want := range map[string][]string{
		"one": {"a", "c", "g"}, "One": {"b"}, "": {"e"}, "ünï & 100%": {"f"}, "o%": {}, "on": {}, "none": {}, "*": {}, strings.Repeat("é", 50): {},
	} {
		for _, limit := range []string{"1", "2", "100"} {
			names := []string{}
			for _, entry := range walk[struct{ Name string }](b, "/v1/blocks/f", "items", url.Values{"category": {category}, "limit": {limit}}, nil) {
				names = append(names, entry.Name)
			}
			require.Equal(t, want, names, "category %q by %s", category, limit)
		}
	}
	require.Len(t, walk[any](b, "/v1/blocks/f", "items", url.Values{"limit": {"3"}}, nil), 7)
}

func TestFrameworks(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.post("/v1/mset", `{"entries":{
		"component:react:a":{"sourceCode":"abc"}, "component:react:b":{"sourceCode":"","fileSize":100}, "block:react:a":{"files":[],"totalSize":1000},
		"component:vue:a":{"sourceCode":"x"}, "block:äpfel/%:a":{"files":[{"content":"é"}]}, "component:React:a":{"sourceCode":""}, "entry:not:counted":1}}`).is(http.StatusOK)
	require.JSONEq(t, `{"frameworks":[
		{"framework":"React","components":1,"blocks":0,"sizeBytes":0},
		{"framework":"react","components":2,"blocks":1,"sizeBytes":1103},
		{"framework":"vue","components":1,"blocks":0,"sizeBytes":1},
		{"framework":"äpfel/%","components":0,"blocks":1,"sizeBytes":2}]}`, b.get("/v1/frameworks").is(http.StatusOK).body)
	b.do(http.MethodDelete, "/v1/components/vue/a").is(http.StatusNoContent)
	b.put("/v1/components/react/a", `{"sourceCode":"abcdef"}`).is(http.StatusOK)
	got := b.get("/v1/frameworks").is(http.StatusOK).body
	require.NotContains(t, got, "vue")
	require.Contains(t, got, `"sizeBytes":1106`)
}

func FuzzCursor(f *testing.F) {
	own := stockhttp.NewCursor("keys:a*", "abc")
	for _, seed := range []string{own, own[:len(own)-1], own + "A", stockhttp.NewCursor("keys:", "abc"), stockhttp.NewCursor("keys:a*", ""), "", "AAAA", "AAAAAA", "=", "\xff"} {
		f.Add("keys:a*", seed)
	}
	f.Fuzz(func(t *testing.T, scope, cursor string) {
		after, err := stockhttp.ParseCursor(scope, cursor)
		if err == nil && stockhttp.NewCursor(scope, after) != cursor {
			t.Errorf("two cursors of %q are one place: %q and %q", scope, cursor, stockhttp.NewCursor(scope, after))
		}
		// The other way: what is made is read again, and by no other list.
		made := stockhttp.NewCursor(scope, cursor)
		if after, err := stockhttp.ParseCursor(scope, made); err != nil || after != cursor {
			t.Errorf("the cursor %q behind %q is read as %q, %v", made, cursor, after, err)
		}
		if _, err := stockhttp.ParseCursor(scope+"x", made); err == nil {
			t.Errorf("the cursor of %q is taken for one of another list", scope)
		}
	})
}

func FuzzPattern(f *testing.F) {
	for _, seed := range []string{"", "*", "a*?", `\`, `\\`, `\*\?`, "100%_", "\x00", "\xff", "é*", strings.Repeat("*", 511)} {
		f.Add(seed, "a"+seed)
	}
	f.Add("*_c", "abc")
	f.Add("?%", "abc")
	f.Add(`*\_`, "ab")
	f.Fuzz(func(t *testing.T, glob, key string) {
		pattern, err := item.ParsePattern(glob)
		bad := glob == "" || len(glob) > 510 || !utf8.ValidString(glob) || endsEscaping(glob) ||
			strings.ContainsFunc(glob, func(r rune) bool { return r < 0x20 || r == 0x7f })
		if (err != nil) != bad {
			t.Fatalf("%q: %v", glob, err)
		}
		if bad || strings.Count(glob, "*") > 5 || len(key) > 100 || !utf8.ValidString(key) {
			return // the model takes too long for more
		}
		// LIKE is the glob in other words, and what matches begins with the prefix.
		if matches([]rune(glob), []rune(key)) {
			if !like([]rune(pattern.Like()), []rune(key)) {
				t.Errorf("%q does not match %q as LIKE %q", glob, key, pattern.Like())
			}
			if !strings.HasPrefix(key, pattern.Prefix()) {
				t.Errorf("%q matches %q, which does not begin with %q", glob, key, pattern.Prefix())
			}
		} else if like([]rune(pattern.Like()), []rune(key)) {
			t.Errorf("%q matches %q as LIKE %q", glob, key, pattern.Like())
		}
	})
}

// like is SQL's LIKE with its default escape.
func like(pattern, text []rune) bool {
	switch {
	case len(pattern) == 0:
		return len(text) == 0
	case pattern[0] == '%':
		return like(pattern[1:], text) || len(text) > 0 && like(pattern, text[1:])
	case len(text) == 0:
		return false
	case pattern[0] == '_':
		return like(pattern[1:], text[1:])
	case pattern[0] == '\\':
		return pattern[1] == text[0] && like(pattern[2:], text[1:])
	}
	return pattern[0] == text[0] && like(pattern[1:], text[1:])
}

func FuzzTags(f *testing.F) {
	for _, seed := range []string{`"a"`, `W/"a"`, `*`, `"a", W/"b"`, ``, `,`, `"`, `"a" "b"`, `*,"a"`, `W/`, "\"\x00\"", `"a b"`, `,,"a",,`, "\t*\t"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		tags, err := stockhttp.ParseTags(line)
		if err != nil {
			return
		}
		// What was read is written and read again as the same.
		var list []string
		for _, tag := range tags.List {
			written := `"` + tag.Opaque + `"`
			if tag.Weak {
				written = "W/" + written
			}
			if strings.ContainsFunc(tag.Opaque, func(r rune) bool { return r <= 0x20 || r == 0x7f || r == '"' }) {
				t.Errorf("%q has the tag %q", line, tag.Opaque)
			}
			list = append(list, written)
		}
		if tags.Any {
			list = append(list, "*")
		}
		again, err := stockhttp.ParseTags(strings.Join(list, ", "))
		if err != nil {
			t.Fatalf("%q is read as %q, which is not", line, list)
		}
		require.Equal(t, tags, again)
	})
}
