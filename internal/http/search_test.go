package http_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type searchResult struct {
	Key, Kind, Framework, Name, Snippet string
	Score                               float64
}

func searchPath(q string, params ...string) string {
	values := url.Values{"q": {q}}
	for i := 0; i < len(params); i += 2 {
		values.Set(params[i], params[i+1])
	}
	return "/v1/search?" + values.Encode()
}

// search returns the keys that a search finds, all pages of them.
func (b *bundle) search(q string, params ...string) []string {
	b.t.Helper()
	query := url.Values{"q": {q}, "limit": {"3"}}
	for i := 0; i < len(params); i += 2 {
		query.Set(params[i], params[i+1])
	}
	results := walk[searchResult](b, "/v1/search", "results", query, func(int) {})
	keys := make([]string, len(results))
	for i, r := range results {
		keys[i] = r.Key
	}
	return keys
}

// fillForSearch stores what the tests below look for.
func fillForSearch(b *bundle) {
	b.t.Helper()
	component := func(source string) any { return map[string]any{"sourceCode": source} }
	b.do(http.MethodPost, "/v1/mset", bodyOf(map[string]any{"entries": map[string]any{
		"component:react:data-table":  component("export function DataTable() {}"),
		"component:react:table":       component("export function Table() {}"),
		"component:vue:dataTable":     component("<template><b/></template>"),
		"component:react:grid":        component("a data table, in other words"),
		"component:react:button":      map[string]any{"sourceCode": "<button/>", "demoCode": "<Button>demonstrate</Button>", "dependencies": []string{"@radix-ui/react-slot"}},
		"block:react:login-01":        map[string]any{"category": "auth", "description": "A simple login form.", "files": []any{map[string]any{"path": "app/login/page.tsx", "content": "useLogin()"}}},
		"block:react:orders":          map[string]any{"category": "shop", "files": map[string]any{"orders.tsx": "<DataTable/>"}},
		"block:vue:login":             map[string]any{"category": "auth", "files": []any{}},
		"data-table":                  "an entry",
		"component:react:<b>&\"quote": component("odd name"),
	}})).is(http.StatusOK)
}

func TestSearch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	fillForSearch(b)
	tables := []string{"component:react:data-table", "component:vue:dataTable", "component:react:grid", "block:react:orders"}
	for _, documents := range []bool{false, true} {
		if documents {
			for again := true; again; {
				var err error
				again, _, err = b.store.MakeDocuments(t.Context())
				require.NoError(t, err)
			}
			require.Equal(t, 9, b.changed(`SELECT FROM search_documents`), "entries are not searched")
		}
		for q, want := range map[string][]string{
			"dataTable": tables, "data-table": tables, "data table": tables, "DATA_TABLE": tables, "datatab": tables,
			"table":            append([]string{"component:react:table"}, tables...),
			`"simple login"`:   {"block:react:login-01"},
			`"login simple"`:   {},
			"login":            {"block:vue:login", "block:react:login-01"},
			"login -simple":    {"block:vue:login"},
			"simple or orders": {"block:react:login-01", "block:react:orders"},
			"login-01":         {"block:react:login-01"},
			"useLogin":         {"block:react:login-01"},
			"page.tsx":         {"block:react:login-01"},
			"auth":             {"block:react:login-01", "block:vue:login"},
			"demonstrate":      {"component:react:button"},
			"react-slot":       {"component:react:button"},
			"odd":              {"component:react:<b>&\"quote"},
			"nowhere":          {}, "-": {}, "-login": {}, " ": {}, "?!": {}, "or": {}, "🎉": {},
		} {
			require.ElementsMatch(t, want, b.search(q), "%q", q)
		}
		require.Equal(t, "component:react:table", b.search("table")[0], "the name itself")
		require.Equal(t, "block:vue:login", b.search("login")[0])
		require.ElementsMatch(t, []string{"component:react:data-table", "component:vue:dataTable"}, b.search("data table")[:2], "names before texts")

		require.ElementsMatch(t, []string{"component:vue:dataTable"}, b.search("dataTable", "framework", "vue"))
		require.ElementsMatch(t, []string{"block:react:orders"}, b.search("dataTable", "kind", "block"))
		require.ElementsMatch(t, tables[:3], b.search("dataTable", "kind", "component"))
		require.ElementsMatch(t, []string{"block:react:login-01"}, b.search("login", "framework", "react", "category", "auth"))
		require.Empty(t, b.search("login", "category", "shop"))
		require.Empty(t, b.search("login", "framework", "svelte"))

		a := b.get(searchPath("login form")).is(http.StatusOK)
		require.Empty(t, a.header.Get("Stockroom-Search-Incomplete"))
		var found struct{ Results []searchResult }
		require.NoError(t, json.Unmarshal([]byte(a.body), &found))
		require.Len(t, found.Results, 1)
		r := found.Results[0]
		require.Positive(t, r.Score)
		r.Score = 0
		require.Equal(t, searchResult{
			Key: "block:react:login-01", Kind: "block", Framework: "react", Name: "login-01", Snippet: "A simple ⟦login⟧ ⟦form⟧.",
		}, r)
	}

	// What is no more is not found, whatever documents there are.
	b.expire("component:react:data-table")
	b.do(http.MethodDelete, itemPath("component:react:grid")).is(http.StatusNoContent)
	b.put(itemPath("block:react:orders"), `{"files":[]}`).is(http.StatusOK)
	require.Equal(t, []string{"component:vue:dataTable"}, b.search("dataTable"))
	b.do(http.MethodDelete, "/v1/items").is(http.StatusOK)
	require.Empty(t, b.search("dataTable"))
	require.Equal(t, `{"results":[]}`, b.get(searchPath("dataTable")).is(http.StatusOK).body)
}

// An item is found until the instant at which it expires, and not after.
func TestSearchUntilItExpires(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.stored("component:react:fleeting", `{"sourceCode":""}`)
	_, _, err := b.store.MakeDocuments(t.Context())
	require.NoError(t, err)
	b.expireIn(3*time.Second, "component:react:fleeting")
	require.Len(t, b.search("fleeting"), 1)
	b.until("it expires", func() bool { return b.get(itemPath("component:react:fleeting")).status == http.StatusNotFound })
	require.Empty(t, b.search("fleeting"))
}

// It is no access.
func TestSearchIsNoAccess(t *testing.T) {
	t.Parallel()
	b := setup(t)
	before := b.stored("component:react:x", `{"sourceCode":""}`)
	require.Len(t, b.search("x"), 1)
	b.flushMarks()
	require.Equal(t, before, b.metadata("component:react:x"))
}

// Pages of any size make the same list, in whatever way it is ranked, and what comes
// and goes meanwhile shifts nothing else.
func TestSearchPages(t *testing.T) {
	t.Parallel()
	b := setup(t)
	entries := map[string]any{}
	for i := range 57 {
		entries[fmt.Sprintf("component:react:n%02d-%s", i, []string{"word", "other"}[i%2])] = map[string]any{"sourceCode": strings.Repeat("word ", i%5+1)}
	}
	b.do(http.MethodPost, "/v1/mset", bodyOf(map[string]any{"entries": entries})).is(http.StatusOK)
	whole := b.search("word", "limit", "100")
	require.Len(t, whole, 57)
	require.True(t, slices.ContainsFunc(whole[:29], func(key string) bool { return strings.HasSuffix(key, "word") }))
	require.False(t, slices.ContainsFunc(whole[29:], func(key string) bool { return strings.HasSuffix(key, "word") }), "names first")
	for _, limit := range []string{"1", "7", "56", "57"} {
		require.Equal(t, whole, b.search("word", "limit", limit), limit)
	}
	between := 0
	results := walk[searchResult](b, "/v1/search", "results", url.Values{"q": {"word"}, "limit": {"10"}}, func(int) {
		_, _, err := b.store.MakeDocuments(t.Context())
		require.NoError(t, err)
		b.put(itemPath(fmt.Sprintf("component:react:new%d-word", between)), `{"sourceCode":"word"}`).is(http.StatusCreated)
		between++
	})
	require.Positive(t, between)
	seen := map[string]int{}
	for _, r := range results {
		seen[r.Key]++
	}
	for _, key := range whole {
		require.Equal(t, 1, seen[key], key)
	}
}

func TestSearchRefuses(t *testing.T) {
	t.Parallel()
	b := setup(t)
	fillForSearch(b)
	cursor := decode[struct{ NextCursor string }](b.get(searchPath("table", "limit", "1")).is(http.StatusOK)).NextCursor
	require.NotEmpty(t, cursor)
	b.get(searchPath("table", "limit", "1", "cursor", cursor)).is(http.StatusOK)
	for name, path := range map[string]string{
		"no query":               "/v1/search",
		"empty query":            searchPath(""),
		"zero byte":              searchPath("a\x00"),
		"not UTF-8":              searchPath("a\xff"),
		"too long":               searchPath(strings.Repeat("a", 1001)),
		"10 kB":                  searchPath(strings.Repeat("word ", 2000)),
		"unknown parameter":      searchPath("a", "offset", "1"),
		"twice":                  searchPath("a") + "&q=b",
		"entries":                searchPath("a", "kind", "entry"),
		"unknown kind":           searchPath("a", "kind", "Block"),
		"no kind":                searchPath("a", "kind", ""),
		"no framework":           searchPath("a", "framework", ""),
		"framework with a colon": searchPath("a", "framework", "a:b"),
		"long framework":         searchPath("a", "framework", strings.Repeat("f", 51)),
		"long category":          searchPath("a", "category", strings.Repeat("c", 51)),
		"limit 0":                searchPath("a", "limit", "0"),
		"limit 101":              searchPath("a", "limit", "101"),
		"limit -1":               searchPath("a", "limit", "-1"),
		"broken encoding":        "/v1/search?q=%zz",
	} {
		p := b.get(path, marked(bad)).fails(http.StatusBadRequest, "invalid_parameter")
		require.NotEmpty(t, p.Detail, name)
	}
	b.get(searchPath(strings.Repeat("word ", 33)), marked(loose)).fails(http.StatusBadRequest, "invalid_parameter")
	for _, path := range []string{
		searchPath("tables", "cursor", cursor), searchPath("table", "framework", "react", "cursor", cursor),
		searchPath("table", "cursor", cursor[:len(cursor)-1]), searchPath("table", "cursor", "garbage"),
	} {
		b.get(path, marked(loose)).fails(http.StatusBadRequest, "invalid_cursor")
	}
}
