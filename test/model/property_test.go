package model_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/stockroom/stockroom/internal/registry"
)

// The keys that everything happens under: few, so that operations meet.
var (
	entryKeys = []string{"a", "b", "c/d e", "ключ", `100%_*\`, "components:x"}
	namedKeys = []string{
		"component:react:button", "component:react:card", "component:vue:button", "component:react:b%5",
		"block:react:card", "block:react:login", "block:vue:button",
	}
	allKeys = slices.Concat(entryKeys, namedKeys)
	globs   = []string{"*", "a", "?", "??????", "c*", "component:*", "component:react:*", "block:*:button", "*:card", "*d e", "nothing*", `100\%_\*\\`, `100?_*`, "к*", "*%*"}
)

// world is a run of the service beside its model.
type world struct {
	*service
	*model
	// exact says that the order of accesses is kept exactly, which is what the
	// choice of what is evicted is held against.
	exact bool
}

// begin empties the service.
func begin(t *rapid.T, s *service, limit int64, exact bool) *world {
	w := &world{s, newModel(limit), exact}
	s.send(t, http.MethodPost, "/v1/maintenance", `{"evictItems":0}`).is(t, http.StatusOK) // accesses that are pending go with their items
	s.send(t, http.MethodDelete, "/v1/items", "").is(t, http.StatusOK)
	return w
}

func anyKey(t *rapid.T) string { return rapid.SampledFrom(allKeys).Draw(t, "key") }

func someKeys(t *rapid.T) []string {
	return rapid.SliceOfN(rapid.SampledFrom(allKeys), 0, 6).Draw(t, "keys")
}

// anyText is a text of up to size bytes, and sometimes an odd one.
func anyText(t *rapid.T, size int64) string {
	if rapid.IntRange(0, 3).Draw(t, "odd") == 0 {
		return rapid.SampledFrom([]string{"", "é\n\"\\", "</script>\u2028", "😀"}).Draw(t, "text")
	}
	return strings.Repeat("x", int(rapid.Int64Range(0, size).Draw(t, "length")))
}

// anyValue is a value for a key, about as large as size at most.
func (w *world) anyValue(t *rapid.T, key string, size int64) value {
	if kindOf(key) == "entry" {
		compact := quote(anyText(t, size))
		compact = rapid.SampledFrom([]string{compact, compact, compact, "null", "1.50", "-0", "1e400", "{}", `{"a":[1,2.0,{"b":null}],"é":"` + "\\u00e9" + `"}`}).Draw(t, "value")
		sent := compact
		if rapid.Bool().Draw(t, "spaced") {
			sent = " \n" + strings.NewReplacer("{", "{ ", "[", "[\t", "]", " ]").Replace(compact) + "\r\n"
			if strings.HasPrefix(compact, `"`) {
				sent = " " + compact + " "
			}
		}
		return value{sent: sent, json: compact, bytes: int64(len(compact))}
	}
	segments := strings.Split(key, ":")
	var fields []string
	field := func(name, text string) { fields = append(fields, quote(name)+":"+text) }
	if rapid.Bool().Draw(t, "says its name") {
		field("framework", quote(segments[1]))
		field("name", quote(segments[2]))
	}
	v := value{}
	// Parts of the limit, so that sums meet it to the byte, and miss it by one.
	claim := rapid.SampledFrom([]int64{-1, 0, 1, w.limit / 4, w.limit / 4, w.limit / 2, w.limit/2 + 1, size}).Draw(t, "claim")
	source := anyText(t, size/2)
	v.bytes = max(int64(len(source)), claim)
	if kindOf(key) == "component" {
		field("sourceCode", plain(source))
		if rapid.IntRange(0, 3).Draw(t, "has a demo") == 0 {
			demo := anyText(t, size/2)
			v.demo = &demo
			v.bytes = max(int64(len(source)+len(demo)), claim)
			field("demoCode", plain(demo))
		}
		if claim >= 0 {
			field("fileSize", strconv.FormatInt(claim, 10))
		}
	} else {
		if rapid.Bool().Draw(t, "has a category") {
			field("category", `"forms"`)
		}
		field("files", `[{"path":"a","content":`+plain(source)+`}]`)
		if claim >= 0 {
			field("totalSize", strconv.FormatInt(claim, 10))
		}
	}
	v.json = "{" + strings.Join(fields, ",") + "}"
	slices.Reverse(fields)
	v.sent = "{" + strings.Join(fields, " , ") + "}"
	return v
}

// plain is a string in JSON with nothing escaped that need not be.
func plain(text string) string {
	return strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u2028`, "\u2028").Replace(quote(text))
}

func anyTTL(t *rapid.T) int64 {
	return rapid.SampledFrom([]int64{-1, -1, 0, 1000, 3155760000}).Draw(t, "ttl") // -1: not given
}

// itemSize is how large an item that fits well may be.
func (w *world) itemSize() int64 {
	if w.limit > 0 {
		return w.limit / 2
	}
	return 300
}

// put writes an item, on some condition.
func (w *world) put(t *rapid.T) {
	key := anyKey(t)
	size := w.itemSize()
	if w.limit > 0 && rapid.IntRange(0, 9).Draw(t, "too large") == 0 {
		size = w.limit * 2
	}
	v := w.anyValue(t, key, size)
	ttl := anyTTL(t)
	target := path(key, rapid.Bool().Draw(t, "of its kind"))
	if ttl >= 0 {
		target += "?ttl=" + strconv.FormatInt(ttl, 10)
	}
	current := w.alive(key)
	var headers []string
	holds := true
	switch rapid.SampledFrom([]string{"", "", "", "absent", "as it is", "otherwise", "not as it is"}).Draw(t, "condition") {
	case "absent":
		headers, holds = []string{"If-None-Match", "*"}, current == nil
	case "as it is":
		headers, holds = []string{"If-Match", `"x", ` + w.etag(key)}, current != nil
	case "otherwise":
		headers, holds = []string{"If-Match", `"x"`}, false
	case "not as it is":
		headers, holds = []string{"If-None-Match", w.etag(key)}, current == nil
	}
	a := w.send(t, http.MethodPut, target, v.sent, headers...)
	switch {
	case w.limit > 0 && v.bytes > w.limit:
		a.fails(t, http.StatusRequestEntityTooLarge, "item_too_large")
		w.settle(t)
		return
	case !holds:
		a.fails(t, http.StatusPreconditionFailed, "precondition_failed")
		w.settle(t)
		return
	}
	w.written(t, key, v, max(ttl, 0), a)
	w.settle(t, key)
}

// etag is the tag of an item that there is, or one of none.
func (w *world) etag(key string) string {
	if r := w.alive(key); r != nil {
		return r.etag
	}
	return `"none"`
}

// written takes a write that was acknowledged into the model.
func (w *world) written(t *rapid.T, key string, v value, ttl int64, a answer) {
	t.Helper()
	status := http.StatusCreated
	if w.alive(key) != nil {
		status = http.StatusOK
	}
	a.is(t, status)
	got := decode[metadata](t, a)
	r := w.write(key, v, ttl)
	r.etag, r.updated = got.ETag, text(got.UpdatedAt)
	if status == http.StatusCreated {
		r.created = text(got.CreatedAt)
		require.Equal(t, r.updated, r.created, key)
		require.Equal(t, int64(1), got.AccessCount, key)
	}
	require.Equal(t, r.etag, a.header.Get("ETag"))
	r.check(t, key, got)
	w.afterWrite(key)
}

// get reads an item, with or without a condition, past the cache or not.
func (w *world) get(t *rapid.T) {
	key := anyKey(t)
	method := rapid.SampledFrom([]string{http.MethodGet, http.MethodGet, http.MethodHead}).Draw(t, "method")
	var headers []string
	if rapid.IntRange(0, 3).Draw(t, "fresh") == 0 {
		headers = append(headers, "Cache-Control", "no-cache")
	}
	known := rapid.IntRange(0, 3).Draw(t, "known") == 0
	if known {
		headers = append(headers, "If-None-Match", w.etag(key))
	}
	a := w.send(t, method, path(key, rapid.Bool().Draw(t, "of its kind")), "", headers...)
	r := w.alive(key)
	if r == nil {
		a.is(t, http.StatusNotFound)
		w.settle(t)
		return
	}
	require.Equal(t, r.etag, a.header.Get("ETag"))
	require.Equal(t, r.ttl > 0, a.header.Get("Stockroom-Expires") != "", key)
	require.Empty(t, a.header.Get("Stockroom-Stale"))
	switch {
	case known:
		a.is(t, http.StatusNotModified)
	case method == http.MethodGet:
		require.Equal(t, r.json, a.is(t, http.StatusOK).body)
	default:
		a.is(t, http.StatusOK)
	}
	if method == http.MethodHead { // is no access
		w.settle(t)
		return
	}
	w.read(key)
	w.settle(t, key)
}

func (w *world) metadata(t *rapid.T) {
	key := anyKey(t)
	a := w.send(t, http.MethodGet, path(key, false)+"/metadata", "")
	if r := w.alive(key); r != nil {
		r.check(t, key, decode[metadata](t, a.is(t, http.StatusOK)))
	} else {
		a.fails(t, http.StatusNotFound, "not_found")
	}
	w.settle(t)
}

func (w *world) remove(t *rapid.T) {
	key := anyKey(t)
	var headers []string
	holds := true
	switch rapid.SampledFrom([]string{"", "", "as it is", "otherwise"}).Draw(t, "condition") {
	case "as it is":
		headers = []string{"If-Match", w.etag(key)}
	case "otherwise":
		headers, holds = []string{"If-Match", `"x"`}, false
	}
	a := w.send(t, http.MethodDelete, path(key, rapid.Bool().Draw(t, "of its kind")), "", headers...)
	switch {
	case w.alive(key) == nil: // a row that has expired may go or stay
		a.fails(t, http.StatusNotFound, "not_found")
	case !holds:
		a.fails(t, http.StatusPreconditionFailed, "precondition_failed")
	default:
		a.is(t, http.StatusNoContent)
		delete(w.rows, key)
	}
	w.settle(t)
}

func (w *world) touch(t *rapid.T) {
	key, ttl := anyKey(t), anyTTL(t)
	body := rapid.SampledFrom([]string{"", "{}"}).Draw(t, "body")
	if ttl >= 0 {
		body = fmt.Sprintf(`{"ttl":%d}`, ttl)
	}
	a := w.send(t, http.MethodPost, path(key, false)+"/touch", body)
	r := w.alive(key)
	if r == nil {
		a.fails(t, http.StatusNotFound, "not_found")
		w.settle(t)
		return
	}
	if ttl >= 0 {
		r.ttl = ttl
	}
	r.check(t, key, decode[metadata](t, a.is(t, http.StatusOK)))
	w.settle(t)
}

func (w *world) mset(t *rapid.T) {
	keys := slices.Compact(slices.Sorted(slices.Values(someKeys(t))))
	ttl := anyTTL(t)
	values := make([]value, len(keys))
	var entries []string
	var size int64
	tooLarge := false
	for n, key := range keys {
		values[n] = w.anyValue(t, key, w.itemSize())
		entries = append(entries, quote(key)+":"+values[n].sent)
		size += values[n].bytes
		tooLarge = tooLarge || w.limit > 0 && values[n].bytes > w.limit
	}
	body := `{"entries":{` + strings.Join(entries, ",") + `}`
	if ttl >= 0 {
		body += `,"ttl":` + strconv.FormatInt(ttl, 10)
	}
	a := w.send(t, http.MethodPost, "/v1/mset", body+"}")
	switch {
	case tooLarge:
		a.fails(t, http.StatusRequestEntityTooLarge, "item_too_large")
		w.settle(t)
		return
	case w.limit > 0 && size > w.limit:
		a.fails(t, http.StatusRequestEntityTooLarge, "batch_too_large")
		w.settle(t)
		return
	}
	a.is(t, http.StatusOK)
	require.Equal(t, len(keys), decode[struct{ Stored int }](t, a).Stored)
	for n, key := range keys {
		w.write(key, values[n], max(ttl, 0))
	}
	w.afterWrite(keys...)
	for _, key := range keys { // mset does not say what became of them
		got := decode[metadata](t, w.send(t, http.MethodGet, path(key, false)+"/metadata", "").is(t, http.StatusOK))
		r := w.rows[key]
		r.etag, r.updated = got.ETag, text(got.UpdatedAt)
		if r.created == "" {
			r.created = text(got.CreatedAt)
		}
		r.check(t, key, got)
	}
	w.settle(t, keys...)
}

// operation is one of a transaction.
type operation struct {
	what, key string
	v         value
	ttl       int64
}

// transact checks and changes several items at once.
func (w *world) transact(t *rapid.T) {
	var operations []operation
	var sent []string
	var failed, missing []int
	var size int64
	tooLarge := false
	changed := map[string]bool{}
	for n, key := range someKeys(t) {
		op := operation{what: rapid.SampledFrom([]string{"set", "delete", "touch", "check", "check", "check otherwise"}).Draw(t, "operation"), key: key}
		if op.what[0] != 'c' && changed[key] {
			op.what = "check" // an item is changed once
		}
		changed[key] = changed[key] || op.what[0] != 'c'
		current := w.alive(key)
		text := ""
		switch op.what {
		case "set":
			op.v, op.ttl = w.anyValue(t, key, w.itemSize()), anyTTL(t)
			size += op.v.bytes
			tooLarge = tooLarge || w.limit > 0 && op.v.bytes > w.limit
			text = `,"value":` + op.v.sent
		case "touch":
			op.ttl = anyTTL(t)
			if current == nil {
				missing = append(missing, n)
			}
		case "check":
			text = `,"etag":null`
			if current != nil {
				text = `,"etag":` + quote(current.etag)
			}
		case "check otherwise":
			op.what, text = "check", `,"etag":`+quote(`"x"`)
			if current != nil && rapid.Bool().Draw(t, "absent") {
				text = `,"etag":null`
			}
			failed = append(failed, n)
		}
		if op.what != "check" && op.what != "delete" && op.ttl >= 0 {
			text += `,"ttl":` + strconv.FormatInt(op.ttl, 10)
		}
		operations = append(operations, op)
		sent = append(sent, `{"`+op.what+`":{"key":`+quote(key)+text+`}}`)
	}
	a := w.send(t, http.MethodPost, "/v1/transactions", `{"operations":[`+strings.Join(sent, ",")+`]}`)
	places := func(of []int) {
		want := []string{}
		for _, n := range of {
			want = append(want, fmt.Sprintf("%s /operations/%d/%s", operations[n].key, n, operations[n].what))
		}
		got := []string{}
		for _, at := range decode[struct {
			Errors []struct{ Key, Pointer string }
		}](t, a).Errors {
			got = append(got, at.Key+" "+at.Pointer)
		}
		require.Equal(t, want, got, a.what)
	}
	switch {
	case tooLarge:
		a.fails(t, http.StatusRequestEntityTooLarge, "item_too_large")
	case w.limit > 0 && size > w.limit:
		a.fails(t, http.StatusRequestEntityTooLarge, "batch_too_large")
	case len(failed) > 0:
		a.fails(t, http.StatusConflict, "check_failed")
		places(failed)
	case len(missing) > 0:
		a.fails(t, http.StatusNotFound, "not_found")
		places(missing)
	case w.limit > 0 && w.staying(operations) > w.limit:
		a.fails(t, http.StatusRequestEntityTooLarge, "batch_too_large")
	default:
		w.settle(t, w.transacted(t, a, operations)...)
		return
	}
	w.settle(t)
}

// stays tells whether an item may not be evicted for the transaction: what it
// stores, has touched or has found there.
func (op operation) stays(current *row) bool {
	return op.what == "set" || op.what == "touch" || op.what == "check" && current != nil
}

// staying is the size of all that may not be evicted for a transaction.
func (w *world) staying(operations []operation) (size int64) {
	sizes := map[string]int64{}
	for _, op := range operations {
		if current := w.alive(op.key); current != nil && op.stays(current) {
			sizes[op.key] = current.bytes
		}
	}
	for _, op := range operations { // the changes come after the checks
		switch op.what {
		case "set":
			sizes[op.key] = op.v.bytes
		case "delete":
			delete(sizes, op.key)
		}
	}
	for _, n := range sizes {
		size += n
	}
	return size
}

// transacted takes a transaction that was acknowledged into the model, and returns
// the keys that it has set.
func (w *world) transacted(t *rapid.T, a answer, operations []operation) (stored []string) {
	t.Helper()
	results := decode[struct {
		Results []struct {
			Key              string
			ETag             *string
			Created, Deleted *bool
			Metadata         *metadata
		}
	}](t, a.is(t, http.StatusOK)).Results
	require.Len(t, results, len(operations))
	var kept []string
	for n, op := range operations {
		got, before := results[n], w.alive(op.key)
		if op.stays(before) {
			kept = append(kept, op.key)
		}
		require.Equal(t, op.key, got.Key)
		require.Equal(t, op.what == "set", got.Created != nil)
		require.Equal(t, op.what == "delete", got.Deleted != nil)
		require.Equal(t, op.what == "set" || op.what == "touch", got.Metadata != nil)
		switch op.what {
		case "set":
			require.Equal(t, before == nil, *got.Created, op.key)
			r := w.write(op.key, op.v, max(op.ttl, 0))
			r.etag, r.updated = got.Metadata.ETag, text(got.Metadata.UpdatedAt)
			if before == nil {
				r.created = text(got.Metadata.CreatedAt)
			}
			stored = append(stored, op.key)
		case "delete":
			require.Equal(t, before != nil, *got.Deleted, op.key)
			delete(w.rows, op.key)
		case "touch":
			if op.ttl >= 0 {
				before.ttl = op.ttl
			}
		}
		if got.Metadata != nil {
			w.rows[op.key].check(t, op.key, *got.Metadata)
		}
	}
	for _, got := range results { // before anything is evicted for it
		if r := w.alive(got.Key); r == nil {
			require.Nil(t, got.ETag, got.Key)
		} else {
			require.NotNil(t, got.ETag, got.Key)
			require.Equal(t, r.etag, *got.ETag, got.Key)
		}
	}
	w.afterWrite(kept...)
	return stored
}

func keysBody(keys []string) string {
	body, err := json.Marshal(map[string]any{"keys": append([]string{}, keys...)})
	if err != nil {
		panic(err)
	}
	return string(body)
}

func (w *world) mget(t *rapid.T) {
	keys := someKeys(t)
	a := w.send(t, http.MethodPost, "/v1/mget", keysBody(keys)).is(t, http.StatusOK)
	items, missing, found := []string{}, []string{}, []string{}
	for n, key := range keys {
		if slices.Contains(keys[:n], key) {
			continue // counts once
		}
		if r := w.alive(key); r != nil {
			items = append(items, plain(key)+":"+r.json)
			found = append(found, key)
			w.read(key)
		} else {
			missing = append(missing, plain(key))
		}
	}
	require.Equal(t, `{"items":{`+strings.Join(items, ",")+`},"missing":[`+strings.Join(missing, ",")+`]}`, a.body)
	w.settle(t, found...)
}

func (w *world) mdelete(t *rapid.T) {
	keys := someKeys(t)
	a := w.send(t, http.MethodPost, "/v1/mdelete", keysBody(keys)).is(t, http.StatusOK)
	n := 0
	for _, key := range keys {
		if w.alive(key) != nil {
			n++
		}
		delete(w.rows, key)
	}
	require.Equal(t, n, decode[struct{ Deleted int }](t, a).Deleted, a.what)
	w.settle(t)
}

func (w *world) clear(t *rapid.T) {
	glob, target := "*", "/v1/items"
	if rapid.IntRange(0, 4).Draw(t, "all") > 0 {
		glob = rapid.SampledFrom(globs).Draw(t, "glob")
		target += "?pattern=" + url.QueryEscape(glob)
	}
	a := w.send(t, http.MethodDelete, target, "").is(t, http.StatusOK)
	cleared := map[string]int{"components": 0, "blocks": 0, "entries": 0}
	for key, r := range maps.Clone(w.rows) {
		if !matches(glob, key) {
			continue
		}
		if !r.expired {
			cleared[map[string]string{"component": "components", "block": "blocks", "entry": "entries"}[kindOf(key)]]++
		}
		delete(w.rows, key)
	}
	require.Equal(t, cleared, decode[map[string]int](t, a), a.what)
	w.settle(t)
}

// list reads keys, by pages.
func (w *world) list(t *rapid.T) {
	glob, query := "*", url.Values{"limit": {strconv.Itoa(rapid.IntRange(1, 6).Draw(t, "limit"))}}
	if rapid.Bool().Draw(t, "in part") {
		glob = rapid.SampledFrom(globs).Draw(t, "glob")
		query.Set("pattern", glob)
	}
	got := []string{}
	for {
		page := decode[struct {
			Keys       []string
			NextCursor string
		}](t, w.send(t, http.MethodGet, "/v1/items?"+query.Encode(), "").is(t, http.StatusOK))
		got = append(got, page.Keys...)
		if page.NextCursor == "" {
			break
		}
		require.NotEmpty(t, page.Keys)
		query.Set("cursor", page.NextCursor)
	}
	want := slices.DeleteFunc(w.keys(), func(key string) bool { return !matches(glob, key) })
	require.Equal(t, want, got, glob)
	w.settle(t)
}

// listKind reads the list of a framework's components or blocks.
func (w *world) listKind(t *rapid.T) {
	kind := rapid.SampledFrom([]string{"component", "block"}).Draw(t, "kind")
	framework := rapid.SampledFrom([]string{"react", "vue", "none"}).Draw(t, "framework")
	a := w.send(t, http.MethodGet, "/v1/"+kind+"s/"+framework, "").is(t, http.StatusOK)
	prefix := kind + ":" + framework + ":"
	want := slices.DeleteFunc(w.keys(), func(key string) bool { return !strings.HasPrefix(key, prefix) })
	got := []string{}
	for _, item := range decode[struct{ Items []metadata }](t, a).Items {
		got = append(got, item.Key)
		if r := w.alive(item.Key); r != nil {
			r.check(t, item.Key, item)
		}
	}
	require.Equal(t, want, got)
	require.NotContains(t, a.body, "sourceCode")
	w.settle(t)
}

// publish puts a registry item.
func (w *world) publish(t *rapid.T) {
	segments := strings.Split(rapid.SampledFrom(namedKeys).Draw(t, "key"), ":")
	framework, name := segments[1], segments[2]
	kind, of := "component", "block"
	form := `{"$schema":"https://ui.shadcn.com/schema/registry-item.json","name":%s,"type":"registry:ui","dependencies":["a"],"files":[{"path":"ui/x.tsx","content":%s,"type":"registry:ui","target":""}]}`
	if rapid.Bool().Draw(t, "a block") {
		kind, of = of, kind
		form = `{"name":%s,"type":"registry:block","description":"d","categories":["forms","x"],"files":[{"path":"x/page.tsx","content":%s,"type":"registry:page","target":"app/page.tsx"}]}`
	}
	body := fmt.Sprintf(form, quote(name), plain(anyText(t, w.itemSize())))
	target := "/r/" + url.PathEscape(framework) + "/" + url.PathEscape(name) + ".json"
	a := w.send(t, http.MethodPut, target, body)
	key := kind + ":" + framework + ":" + name
	if w.alive(of+":"+framework+":"+name) != nil {
		a.fails(t, http.StatusConflict, "conflict")
		w.settle(t)
		return
	}
	decoded, err := registry.Decode(framework, name, []byte(body))
	require.NoError(t, err)
	tooLarge := w.limit > 0 && decoded.Bytes > w.limit
	v := value{}
	if before := w.alive(key); before != nil && before.demo != nil { // which the registry item does not carry
		v.demo = before.demo
		decoded, err = registry.WithDemo(decoded, before.demo)
		require.NoError(t, err)
	}
	if tooLarge || w.limit > 0 && decoded.Bytes > w.limit {
		a.fails(t, http.StatusRequestEntityTooLarge, "item_too_large")
		w.settle(t)
		return
	}
	v.json, v.bytes, v.published = string(decoded.JSON()), decoded.Bytes, body
	w.written(t, key, v, 0, a)
	w.settle(t, key)
	// What comes back is what went in.
	require.JSONEq(t, body, w.send(t, http.MethodGet, target, "").is(t, http.StatusOK).body)
	w.read(key)
	w.settle(t, key)
}

// expire makes items expire.
func (w *world) expire(t *rapid.T) {
	keys := slices.DeleteFunc(someKeys(t), func(key string) bool { return w.alive(key) == nil })
	for _, table := range tables {
		_, err := w.conn.Exec(context.Background(), `UPDATE `+table+` SET expires_at = now() - interval '1 second' WHERE key = ANY($1)`, keys)
		require.NoError(t, err)
	}
	for _, key := range keys {
		w.rows[key].expired = true
		// The cache cannot know: no clock was moved on its side.
		w.send(t, http.MethodGet, path(key, false), "", "Cache-Control", "no-cache").fails(t, http.StatusNotFound, "not_found")
	}
	w.settle(t)
}

// maintain sweeps and evicts.
func (w *world) maintain(t *rapid.T) {
	body, swept, evicted := "{}", 0, 0
	sweep := func() { swept = w.sweep(); w.flush() }
	choice := "to the limit"
	if w.exact {
		choice = rapid.SampledFrom([]string{choice, "items", "bytes"}).Draw(t, "what")
	}
	switch choice {
	case "items":
		n := rapid.IntRange(0, 5).Draw(t, "items")
		body = fmt.Sprintf(`{"evictItems":%d}`, n)
		sweep()
		oldest := w.oldest()
		for _, key := range oldest[:min(n, len(oldest))] {
			delete(w.rows, key)
			evicted++
		}
	case "bytes":
		size := rapid.Int64Range(0, w.limit).Draw(t, "bytes")
		body = fmt.Sprintf(`{"targetBytes":%d}`, size)
		sweep()
		evicted = w.evict(size)
	default:
		sweep()
	}
	a := w.send(t, http.MethodPost, "/v1/maintenance", body).is(t, http.StatusOK)
	type result struct{ Expired, Evicted, SizeBytes, Items int64 }
	require.Equal(t, result{int64(swept), int64(evicted), w.sizeAlive(), int64(len(w.rows))}, decode[result](t, a), a.what)
	w.settle(t)
}

// look reads what the service says of itself.
func (w *world) look(t *rapid.T) {
	type totals struct{ Total, Components, Blocks, Entries int64 }
	var items, bytes totals
	type usage struct {
		Framework                     string
		Components, Blocks, SizeBytes int64
	}
	frameworks := map[string]*usage{}
	for _, key := range w.keys() {
		r := w.rows[key]
		add := func(total *totals, n int64) {
			total.Total += n
			switch kindOf(key) {
			case "component":
				total.Components += n
			case "block":
				total.Blocks += n
			default:
				total.Entries += n
			}
		}
		add(&items, 1)
		add(&bytes, r.bytes)
		if kindOf(key) == "entry" {
			continue
		}
		name := strings.Split(key, ":")[1]
		if frameworks[name] == nil {
			frameworks[name] = &usage{Framework: name}
		}
		f := frameworks[name]
		f.SizeBytes += r.bytes
		if kindOf(key) == "component" {
			f.Components++
		} else {
			f.Blocks++
		}
	}
	stats := decode[struct {
		Items, SizeBytes totals
		Limit            int64
	}](t, w.send(t, http.MethodGet, "/v1/stats", "").is(t, http.StatusOK))
	require.Equal(t, items, stats.Items)
	require.Equal(t, bytes, stats.SizeBytes)
	require.Equal(t, w.limit, stats.Limit)
	want := []usage{}
	for _, name := range slices.Sorted(maps.Keys(frameworks)) {
		want = append(want, *frameworks[name])
	}
	got := decode[struct{ Frameworks []usage }](t, w.send(t, http.MethodGet, "/v1/frameworks", "").is(t, http.StatusOK))
	require.Equal(t, want, got.Frameworks)
	w.settle(t)
}

// refused sends what must change nothing.
func (w *world) refused(t *rapid.T) {
	key := anyKey(t)
	switch rapid.IntRange(0, 5).Draw(t, "what") {
	case 0:
		w.send(t, http.MethodPut, path(key, false), `{"a":`).fails(t, http.StatusBadRequest, "malformed_json")
	case 1:
		w.send(t, http.MethodPut, "/v1/items/component:react:button", `{"sourceCode":"","unknown":1}`).fails(t, http.StatusUnprocessableEntity, "unknown_field")
	case 2:
		w.send(t, http.MethodPost, "/v1/mset", `{"entries":{"a":1,"component:x":{}}}`).fails(t, http.StatusBadRequest, "invalid_key")
	case 3:
		w.send(t, http.MethodPost, "/v1/mdelete", `{"keys":["a","block:"]}`).fails(t, http.StatusBadRequest, "invalid_key")
	case 4:
		w.send(t, http.MethodPut, path(key, false)+"?ttl=-1", "1").fails(t, http.StatusBadRequest, "invalid_ttl")
	case 5:
		w.send(t, http.MethodDelete, `/v1/items?pattern=a%5C`, "").fails(t, http.StatusBadRequest, "invalid_parameter")
	}
	w.settle(t)
}

var tables = []string{"components", "blocks", "entries"}

// union selects columns of all rows.
func union(columns string) string {
	parts := make([]string, len(tables))
	for i, table := range tables {
		parts[i] = "SELECT " + columns + " FROM " + table
	}
	return strings.Join(parts, " UNION ALL ")
}

// settle comes behind each operation that has accessed the items of keys, and no
// others. Where the order of accesses counts, it has them written, sees that they
// are the latest, and spreads them out: no two are so near that it matters which
// clock measured them when.
func (w *world) settle(t *rapid.T, accessed ...string) {
	t.Helper()
	if !w.exact {
		return
	}
	for _, r := range w.rows {
		if r.pending > 0 {
			w.send(t, http.MethodPost, "/v1/maintenance", `{"evictItems":0}`).is(t, http.StatusOK)
			w.sweep()
			w.flush()
			break
		}
	}
	rows, err := w.conn.Query(context.Background(), `SELECT key FROM (`+union("key, accessed_at")+`) AS items WHERE accessed_at > '2020-01-01' ORDER BY key`)
	require.NoError(t, err)
	latest, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	want := slices.DeleteFunc(slices.Sorted(slices.Values(accessed)), func(key string) bool { return w.rows[key] == nil })
	require.Equal(t, append([]string{}, want...), append([]string{}, latest...), "what counts as used")
	at := make([]int, len(want))
	for i, key := range want {
		w.use(key)
		at[i] = w.rows[key].used
	}
	for _, table := range tables {
		_, err := w.conn.Exec(context.Background(), `UPDATE `+table+` t SET accessed_at = timestamptz '2000-01-01' + used.at * interval '1 second'
			FROM unnest($1::text[], $2::int[]) AS used (key, at) WHERE t.key = used.key`, want, at)
		require.NoError(t, err)
	}
}

// check holds the database against the model: each row, the counters, and the
// limit.
func (w *world) check(t *rapid.T) {
	type stored struct {
		Key     string
		Bytes   int64
		Count   int64
		Expired bool
	}
	rows, err := w.conn.Query(context.Background(), union("key, bytes, access_count, coalesce(expires_at <= now(), false)"))
	require.NoError(t, err)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[stored])
	require.NoError(t, err)
	got, want := map[string]stored{}, map[string]stored{}
	sums := map[string][2]int64{}
	var size int64
	for _, r := range list {
		got[r.Key] = r
		sum := sums[kindOf(r.Key)]
		sums[kindOf(r.Key)] = [2]int64{sum[0] + 1, sum[1] + r.Bytes}
		size += r.Bytes
	}
	for key, r := range w.rows {
		want[key] = stored{key, r.bytes, r.counted, r.expired}
	}
	require.Equal(t, want, got)
	if w.limit > 0 {
		require.LessOrEqual(t, size, w.limit, "the store is over its limit")
	}
	var counters [6]int64
	require.NoError(t, w.conn.QueryRow(context.Background(), `SELECT sum(component_items)::bigint, sum(component_bytes)::bigint, sum(block_items)::bigint,
		sum(block_bytes)::bigint, sum(entry_items)::bigint, sum(entry_bytes)::bigint FROM usage_counters`).
		Scan(&counters[0], &counters[1], &counters[2], &counters[3], &counters[4], &counters[5]))
	require.Equal(t, [6]int64{
		sums["component"][0], sums["component"][1], sums["block"][0], sums["block"][1], sums["entry"][0], sums["entry"][1],
	}, counters, "the counters are not the sums of the rows")
}

// actions are the operations. Those that stand first by their names are chosen
// more often: what fills the store comes before what empties it.
func (w *world) actions() map[string]func(*rapid.T) {
	actions := map[string]func(*rapid.T){"": w.check}
	for n, action := range []func(*rapid.T){
		w.put, w.mset, w.put, w.get, w.transact, w.expire, w.publish, w.mset, w.list, w.put, w.mget, w.listKind, w.metadata, w.look,
		w.get, w.touch, w.maintain, w.put, w.remove, w.mdelete, w.refused, w.clear,
	} {
		actions[fmt.Sprintf("%02d %s", n, nameOf(action))] = action
	}
	return actions
}

// nameOf is the name of a method.
func nameOf(method func(*rapid.T)) string {
	name := runtime.FuncForPC(reflect.ValueOf(method).Pointer()).Name()
	return strings.TrimSuffix(name[strings.LastIndexByte(name, '.')+1:], "-fm")
}

func check(t *testing.T, variables map[string]string, limit int64, exact bool) {
	t.Helper()
	s := run(t, variables)
	rapid.Check(t, func(t *rapid.T) { t.Repeat(begin(t, s, limit, exact).actions()) })
	if limit > 0 {
		stats := decode[struct{ Evictions, Expirations int64 }](t, s.send(t, http.MethodGet, "/v1/stats", ""))
		t.Logf("%d items were evicted, %d have expired", stats.Evictions, stats.Expirations)
		require.Greater(t, stats.Evictions, int64(50), "too little went on")
		require.Positive(t, stats.Expirations)
	}
}

// TestPropertyWithoutACache: every read is one of the database.
func TestPropertyWithoutACache(t *testing.T) {
	t.Parallel()
	check(t, map[string]string{"STOCKROOM_CACHE_BYTES": "0", "STOCKROOM_MAX_BYTES": "0"}, 0, false)
}

// TestPropertyWithACache: no read is older than an acknowledged write.
func TestPropertyWithACache(t *testing.T) {
	t.Parallel()
	check(t, map[string]string{"STOCKROOM_MAX_BYTES": "0"}, 0, false)
}

// TestPropertyWithALimit: the store is never larger than it may be, and what goes
// is what was used the longest ago.
func TestPropertyWithALimit(t *testing.T) {
	t.Parallel()
	const limit = 400
	check(t, map[string]string{"STOCKROOM_MAX_BYTES": strconv.Itoa(limit)}, limit, true)
}
