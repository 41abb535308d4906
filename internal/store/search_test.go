package store_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/registry"
	"github.com/stockroom/stockroom/internal/search"
	"github.com/stockroom/stockroom/internal/store"
)

func ask(t require.TestingT, q string) store.Search {
	query, err := search.ParseQuery(q)
	require.NoError(t, err, "%q", q)
	return store.Search{Query: query, Limit: 20}
}

// namesOf returns the names of results.
func namesOf(results store.Results) []string {
	list := make([]string, len(results.List))
	for i, r := range results.List {
		list[i] = r.Key.Name()
	}
	return list
}

// makeDocuments makes all documents that are missing.
func (b *bundle) makeDocuments() {
	b.t.Helper()
	for again := true; again; {
		var err error
		again, _, err = b.MakeDocuments(b.t.Context())
		require.NoError(b.t, err)
	}
}

// realRegistry returns the items of the registry that is read in place, or skips.
func realRegistry(t testing.TB) []item.Value {
	t.Helper()
	folder := os.Getenv("STOCKROOM_REGISTRY_DIR")
	if folder == "" {
		folder = filepath.Join("..", "..", "..", "shared", "registry", "new-york")
		if _, err := os.Stat(folder); err != nil {
			t.Skipf("no registry to read: set STOCKROOM_REGISTRY_DIR to a folder of registry items (%v)", err)
		}
	}
	paths, err := filepath.Glob(filepath.Join(folder, "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	list := make([]item.Value, len(paths))
	for i, path := range paths {
		body, err := os.ReadFile(path)
		require.NoError(t, err)
		list[i], err = registry.Decode("react", strings.TrimSuffix(filepath.Base(path), ".json"), body)
		require.NoError(t, err, path)
	}
	return list
}

// What people look for in a registry of 365 items, and what they expect first.
var obvious = []struct{ query, first string }{
	{"dialog", "dialog"},
	{"Dialog", "dialog"},
	{"alert dialog", "alert-dialog"},
	{"AlertDialog", "alert-dialog"},
	{"alert-dialog", "alert-dialog"},
	{"date picker", "date-picker-demo"},
	{"datePicker", "date-picker-demo"},
	{"date picker range", "date-picker-with-range"},
	{"data-table", "data-table-demo"},
	{"dataTable", "data-table-demo"},
	{"data table", "data-table-demo"},
	{"table", "table"},
	{"useCarousel", "carousel"},
	{"carousel", "carousel"},
	{"login form", "login-0\\d"},
	{"login", "login-0\\d"},
	{"recharts pie", "chart-pie-.*"},
	{"pie chart", "chart-pie-.*"},
	{"donut", "chart-pie-donut"},
	{"sidebar", "sidebar"},
	{"collapsible sidebar", "sidebar-.*collapsible|sidebar-0\\d"},
	{"calendar", "calendar"},
	{"cal", "calendar"},
	{"button", "button"},
	{"buttons", "button"},
	{"btn or button", "button"},
	{"ghost button", "button-ghost"},
	{"dropdown menu", "dropdown-menu"},
	{"DropdownMenu", "dropdown-menu"},
	{"otp", "input-otp"},
	{"InputOTP", "input-otp"},
	{"useToast", "use-toast"},
	{"use toast", "use-toast"},
	{"hook mobile", "use-mobile"},
	{"useIsMobile", "use-mobile"},
	{"theme", "theme-.*"},
	{"dark mode", "mode-toggle"},
	{"react-hook-form", "form|.*-form.*"},
	{"embla-carousel-react", "carousel"},
	{"cmdk", "command"},
	{"vaul", "drawer"},
	{"sonner", "sonner"},
	{"dashboard", "dashboard-01"},
	{"dnd-kit", "dashboard-01"},
	{"@tanstack/react-table", "data-table-demo|dashboard-01"},
	{"radio", "radio-group"},
	{"tabs", "tabs"},
	{"tab", "tabs"},
	{"tooltip", "tooltip"},
	{"chart tooltip formatter", "chart-tooltip-formatter"},
	{`"area chart"`, "chart-area-.*"},
	{"calendar -demo -form", "calendar"},
	{"typography h1", "typography-h1"},
}

func TestSearchPutsTheObviousFirst(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	require.NoError(t, b.PutMany(t.Context(), realRegistry(t), nil))
	b.makeDocuments()
	for _, tc := range obvious {
		results, err := b.Search(t.Context(), ask(t, tc.query))
		require.NoError(t, err, tc.query)
		found := namesOf(results)
		if len(found) == 0 || !regexp.MustCompile("^("+tc.first+")$").MatchString(found[0]) {
			t.Errorf("%q: %q is not first of %q", tc.query, tc.first, found)
		}
		for _, r := range results.List[:min(3, len(results.List))] {
			t.Logf("%q: %.2f %s: %s", tc.query, r.Score, r.Key, r.Snippet)
		}
	}
}

// Whatever else a longer name has to offer.
func TestSearchPutsTheNameItselfFirst(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	for name, source := range map[string]string{"tab": "nothing", "tabular": "tab tab tab", "tabs": "tab tabs tab", "a-tab": "tab"} {
		_, err := b.Put(t.Context(), value(t, key(t, "component:react:"+name), source), nil, item.Precondition{})
		require.NoError(t, err)
	}
	results, err := b.Search(t.Context(), ask(t, "tab"))
	require.NoError(t, err)
	require.Equal(t, "tab", namesOf(results)[0], "%v", results)
	require.Equal(t, "a-tab", namesOf(results)[3])
}

// searched returns the keys of all that a search for q finds, from pages of limit.
func (b *bundle) searched(q string, limit int) (keys []string) {
	b.t.Helper()
	asked := ask(b.t, q)
	asked.Limit = limit
	for {
		results, err := b.Search(b.t.Context(), asked)
		require.NoError(b.t, err, "%q", q)
		for _, r := range results.List {
			keys = append(keys, r.Key.String())
		}
		if !results.More {
			return keys
		}
		require.Len(b.t, results.List, limit)
		asked.After = &results.List[limit-1].Place
	}
}

// Of names that differ only in how their parts are written, that comes first which was
// typed, then that which differs in capitals alone, on pages of any size.
func TestSearchPutsTheSpellingFirst(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	var batch []item.Value
	for _, name := range []string{"data-table", "dataTable", "datatable", "data_table", "data-table-demo", "login-form", "loginform", "tabs or cards", "tabs"} {
		body := `{"sourceCode":"x"}`
		if !strings.Contains(name, "-") { // has all else to be ranked by
			body = fmt.Sprintf(`{"sourceCode":%q,"metadata":{"title":%[1]q}}`, strings.Repeat(name+" data-table login-form tabs ", 20))
		}
		for _, framework := range []string{"react", "vue"} {
			v, err := item.Parse(key(t, "component:"+framework+":"+name), []byte(body))
			require.NoError(t, err)
			batch = append(batch, v)
		}
	}
	require.NoError(t, b.PutMany(t.Context(), batch, nil))
	for _, made := range []bool{false, true} {
		if made {
			b.makeDocuments()
		}
		for q, first := range map[string][]string{
			"data-table":    {"data-table"},
			" data-table ":  {"data-table"},
			"dataTable":     {"dataTable", "datatable"},
			"datatable":     {"datatable", "dataTable"},
			"data_table":    {"data_table"},
			"DATA-TABLE":    {"data-table"},
			"login-form":    {"login-form", "loginform"},
			"Login-Form":    {"login-form", "loginform"},
			"loginform":     {"loginform", "login-form"},
			"tabs or cards": {"tabs or cards"},
		} {
			whole := b.searched(q, 100)
			require.GreaterOrEqual(t, len(whole), 2*len(first), q)
			for i, name := range first {
				require.Equal(t, []string{"component:react:" + name, "component:vue:" + name}, whole[2*i:2*i+2], "%q, %t", q, made)
			}
			require.Equal(t, whole, b.searched(q, 1), "%q, %t", q, made)
		}
	}
}

// finds tells whether a search for q finds the item k.
func finds(ctx context.Context, s *store.Store, q string, k item.Key) (bool, error) {
	query, err := search.ParseQuery(q)
	if err != nil {
		return false, err
	}
	results, err := s.Search(ctx, store.Search{Query: query, Limit: 100})
	return slices.ContainsFunc(results.List, func(r store.Result) bool { return r.Key == k }), err
}

// Every server finds what any of them has acknowledged, and nothing that is no more,
// while documents are made, by all of them, and those who make them are killed.
func TestSearchSeesEveryWrite(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	const servers, writers, rounds = 2, 6, 40
	stores := make([]*store.Store, servers)
	makers := make([]*store.Store, servers)
	for i := range stores {
		stores[i] = store.New(b.open(6), store.Options{})
		makers[i] = stores[i].On(b.open(1))
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var background sync.WaitGroup
	var made atomic.Int64
	for _, maker := range makers {
		for _, work := range []func(context.Context) (bool, time.Duration, error){maker.MakeDocuments, maker.CompareDocuments} {
			pacer := pgtest.Connect(t, b.dsn)
			background.Go(func() {
				for ctx.Err() == nil {
					if _, _, err := work(ctx); err == nil {
						made.Add(1)
					}
					exec(t, pacer, `SELECT pg_sleep(0.002)`)
				}
			})
		}
	}
	killer := pgtest.Connect(t, b.dsn)
	background.Go(func() {
		for ctx.Err() == nil {
			// Whoever is making documents at this moment, half-way.
			exec(t, killer, `SELECT pg_sleep(0.02), pg_terminate_backend(l.pid) FROM pg_locks l
				WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
				AND (l.classid::bigint << 32 | l.objid::bigint) = $1 AND random() < 0.2`, int64(0x53746f636b536561))
		}
	})
	conns := make([]*pgx.Conn, writers)
	for w := range conns {
		conns[w] = pgtest.Connect(t, b.dsn)
	}
	together(writers, func(w int) {
		random := rand.New(rand.NewPCG(uint64(w), 1))
		some := func() *store.Store { return stores[random.IntN(servers)] }
		check := func(want bool, q string, k item.Key, what string) {
			found, err := finds(t.Context(), some(), q, k)
			if err != nil || found != want {
				t.Errorf("%s: %s by %q: %t, %v", what, k, q, found, err)
			}
		}
		for n := range rounds {
			k := key(t, fmt.Sprintf("%s:react:item%d", []string{"component", "block"}[n%2], w))
			word := func(version string) string { return fmt.Sprintf("w%dq%dr%sword", w, n, version) }
			put := func(version string) {
				_, err := some().Put(t.Context(), value(t, k, "some text with "+word(version)), nil, item.Precondition{})
				if err != nil {
					t.Errorf("put: %v", err)
				}
			}
			put("first")
			check(true, word("first"), k, "put")
			put("second")
			check(true, word("second"), k, "overwritten")
			check(false, word("first"), k, "overwritten")
			switch n % 3 {
			case 0:
				if err := some().Delete(t.Context(), k, item.Precondition{}); err != nil {
					t.Errorf("delete: %v", err)
				}
				check(false, word("second"), k, "deleted")
				put("second")
				check(true, word("second"), k, "put again")
			case 1:
				expire(t, conns[w], k)
				check(false, word("second"), k, "expired")
				put("third")
				check(true, word("third"), k, "put in the place of an expired one")
			}
		}
	})
	stop()
	background.Wait()
	t.Logf("%d runs made documents", made.Load())
	require.Positive(t, made.Load())
	b.makeDocuments()
	require.Zero(t, scan[int](t, b.other, `SELECT count(*) FROM components t
		WHERE NOT EXISTS (SELECT FROM search_documents d WHERE d.key = t.key AND d.etag = t.etag)`))
}

// A write that began long before it was committed is found, although documents have
// been made of all that was there meanwhile.
func TestSearchSeesWhatIsCommittedLate(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	_, err := b.Put(t.Context(), value(t, key(t, "component:react:early"), "lateword"), nil, item.Precondition{})
	require.NoError(t, err)
	late := pgtest.Connect(t, b.dsn)
	exec(t, late, `BEGIN`)
	began := scan[time.Time](t, late, `SELECT now()`)
	b.exec(`SELECT pg_sleep(2.5)`) // longer than the margin
	for range 3 {
		_, err := b.Put(t.Context(), value(t, key(t, "component:react:early"), "lateword "+time.Now().String()), nil, item.Precondition{})
		require.NoError(t, err)
		b.makeDocuments()
	}
	require.False(t, scan[time.Time](t, b.other, `SELECT complete FROM search_state`).After(began))
	exec(t, late, `INSERT INTO components (name, framework, source_code, bytes, etag, created_at, updated_at, cached_at, accessed_at)
		VALUES ('late', 'react', 'lateword', 8, 'x', now(), now(), now(), now())`)
	exec(t, late, `COMMIT`)
	for range 2 {
		results, err := b.Search(t.Context(), ask(t, "lateword"))
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"early", "late"}, namesOf(results))
		b.makeDocuments()
	}
	require.Equal(t, 2, scan[int](t, b.other, `SELECT count(*) FROM search_documents`))
	require.True(t, scan[time.Time](t, b.other, `SELECT complete FROM search_state`).After(began), "nobody holds it back any more")
}

// backlog stores items without documents, by SQL, the last of them now.
func (b *bundle) backlog(n int) {
	b.t.Helper()
	b.exec(`INSERT INTO components (name, framework, source_code, bytes, etag, created_at, updated_at, cached_at, accessed_at)
		SELECT 'item' || i, 'react', 'backlog', 7, 'x', a, a, a, a
		FROM (SELECT i, now() - ($1 - i) * interval '1 second' AS a FROM generate_series(1, $1::integer) i) i`, n)
}

// An item that is read while those before it get their documents still gets its own.
func TestDocumentsOfWhatIsReadMeanwhile(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	b.backlog(450)
	again, _, err := b.MakeDocuments(t.Context())
	require.NoError(t, err)
	require.True(t, again, "there is more than a batch")
	require.Equal(t, 100, scan[int](t, b.other, `SELECT count(*) FROM search_documents`), "in bounded batches")
	b.exec(`UPDATE components SET accessed_at = now() WHERE name IN ('item150', 'item90')`)
	b.makeDocuments()
	require.Equal(t, 450, scan[int](t, b.other, `SELECT count(*) FROM search_documents`))
	before := scan[string](t, b.other, `SELECT s::text FROM search_state s`)
	b.exec(`UPDATE components SET accessed_at = now() - interval '1 hour'`)
	for range 3 {
		again, _, err := b.MakeDocuments(t.Context())
		require.NoError(t, err)
		require.False(t, again)
	}
	require.Equal(t, before, scan[string](t, b.other, `SELECT s::text FROM search_state s`), "at rest nothing is written")
}

// Documents by older rules count for nothing, and all are made anew.
func TestDocumentsOfAnOlderFormat(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	b.backlog(20)
	b.makeDocuments()
	b.exec(`UPDATE search_documents SET format = $1::integer, vector = ''`, search.Format-1)
	b.exec(`UPDATE search_state SET format = $1::integer`, search.Format-1)
	for range 2 {
		found, err := finds(t.Context(), b.Store, "backlog", key(t, "component:react:item1"))
		require.NoError(t, err)
		require.True(t, found)
		b.makeDocuments()
	}
	require.Zero(t, scan[int](t, b.other, `SELECT count(*) FROM search_documents WHERE format < $1::integer OR vector = ''`, search.Format))
}

// searchAll searches until the results are complete: at once, but on a machine where
// that takes longer than a search may spend on documents.
func (b *bundle) searchAll(asked store.Search) store.Results {
	b.t.Helper()
	for end := time.Now().Add(soon); ; {
		began := time.Now()
		results, err := b.Search(b.t.Context(), asked)
		require.NoError(b.t, err)
		if !results.Incomplete {
			return results
		}
		require.GreaterOrEqual(b.t, time.Since(began), time.Second, "it has given up before its time")
		require.True(b.t, time.Now().Before(end), "the results stay incomplete")
	}
}

// Where much has been written at once, a search makes the documents itself.
func TestSearchCatchesUp(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	b.backlog(350)
	results := b.searchAll(ask(t, "backlog"))
	require.Len(t, results.List, 20)
	require.True(t, results.More)
	require.GreaterOrEqual(t, scan[int](t, b.other, `SELECT count(*) FROM search_documents`), 250)
}

// More than is ranked by all its words is still one list, names first.
func TestSearchFindsVeryMuch(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	b.backlog(1200)
	_, err := b.Put(t.Context(), value(t, key(t, "component:vue:a-backlog"), "x"), nil, item.Precondition{})
	require.NoError(t, err)
	b.makeDocuments()
	asked, all := ask(t, "backlog"), []string{}
	asked.Limit = 100
	for {
		results, err := b.Search(t.Context(), asked)
		require.NoError(t, err)
		all = append(all, namesOf(results)...)
		if !results.More {
			break
		}
		place := results.List[len(results.List)-1].Place
		require.True(t, place.Brief)
		asked.After = &place
		// What was found is less now, and ranked as before all the same.
		b.exec(`DELETE FROM search_documents WHERE key IN (SELECT key FROM search_documents WHERE framework = 'vue' OR key <= $1 COLLATE "C")`, place.Key)
	}
	require.Len(t, all, 1201)
	require.Equal(t, "a-backlog", all[0])
	require.True(t, slices.IsSorted(all[1:]), "in the order of their keys")
}

// Of very much, each is found once: first what has the words in its name or title, by
// its score; then, by name, what has them elsewhere. So it is under each restriction,
// and wherever the documents are.
func TestSearchOfVeryMuchInOrder(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	wanted := make(map[string]bool) // by key, whether it has a score
	categories := make(map[string]string)
	var batch []item.Value
	add := func(text string, scored bool, body string) {
		v, err := item.Parse(key(t, text), []byte(body))
		require.NoError(t, err)
		batch, wanted[text] = append(batch, v), scored
		if v.Block != nil && v.Block.Category != nil {
			categories[text] = *v.Block.Category
		}
	}
	block := func(category string) string {
		return fmt.Sprintf(`{"category":%q,"files":[{"path":"a.tsx","content":"of the backlog"}]}`, category)
	}
	const component = `{"sourceCode":"of the backlog"}`
	put := func() {
		require.NoError(t, b.PutMany(t.Context(), batch, nil))
		batch = nil
	}
	name := func(i int) string { return fmt.Sprintf("w%d", i*7919%1100) }
	for i := range 1100 {
		category := "forms"
		if i%100 == 1 {
			category = "tables"
		}
		add("block:react:"+name(i), false, block(category))
	}
	put()
	for i := range 100 {
		add("component:react:"+name(i), false, component)
		add("component:vue:"+name(2*i), false, component)
		add("block:vue:"+name(3*i), false, block("forms"))
	}
	for i := range 4 {
		add(fmt.Sprintf("component:react:backlog-%d", i), true, component)
		add(fmt.Sprintf("block:react:a-backlog-%d", i), true, block("forms"))
		add(fmt.Sprintf("component:svelte:w%d-titled", i), true, `{"sourceCode":"x","metadata":{"title":"Backlog"}}`)
	}
	add("component:vue:backlog", true, component)
	put()
	b.makeDocuments()

	// What is no more, was overwritten since, or is just written.
	for _, gone := range []string{"block:react:" + name(7), "component:react:backlog-3"} {
		b.exec(`UPDATE components SET expires_at = now() WHERE key = $1`, gone)
		b.exec(`UPDATE blocks SET expires_at = now() WHERE key = $1`, gone)
		delete(wanted, gone)
	}
	for i := range 30 {
		add("component:svelte:"+name(5*i), false, component)
		add("block:react:"+name(11*i+100), false, block("late"))
	}
	add("component:react:backlog-0", true, `{"sourceCode":"the backlog, again"}`)
	add("component:qwik:backlog-late", true, component)
	put()
	// More than is walked over, and more than there is to spare, of items that are no more.
	b.exec(`INSERT INTO search_documents (name, framework, kind, etag, format, words, folded, categories, head, vector)
		SELECT 'w5-' || i, 'react', 'block', 'x', $1::integer, 1, 'a' || i, '{forms}', 'a:1A', 'a:1A' FROM generate_series(1, 5500) i`, search.Format)
	for _, head := range []string{"backlog:1A", "a:1A"} {
		b.exec(`INSERT INTO search_documents (name, framework, kind, etag, format, words, folded, categories, head, vector)
			SELECT 'b', $1::text || i, 'block', 'x', $2::integer, 1, 'backlog', '{forms}', $1::text::tsvector, 'backlog:1A' FROM generate_series(1, 200) i`, head, search.Format)
	}

	check := func(asked store.Search, wanted map[string]bool, between func(page int)) {
		t.Helper()
		var list []store.Result
		for page := 0; ; page++ {
			results, err := b.Search(t.Context(), asked)
			require.NoError(t, err)
			require.False(t, results.Incomplete)
			list = append(list, results.List...)
			if !results.More {
				break
			}
			require.Len(t, results.List, asked.Limit)
			require.Less(t, page, 100, "no end")
			asked.After = &results.List[len(results.List)-1].Place
			between(page)
		}
		require.Greater(t, len(list), 1000)
		seen := make(map[string]bool, len(list))
		for _, r := range list {
			require.True(t, r.Brief)
			require.NotContains(t, seen, r.Key.String(), "twice")
			seen[r.Key.String()] = r.Score > 0
		}
		require.Equal(t, wanted, seen)
		require.True(t, slices.IsSortedFunc(list, func(a, b store.Result) int {
			if a.Score > 0 || b.Score > 0 {
				return cmp.Or(cmp.Compare(b.Score, a.Score), strings.Compare(a.Key.String(), b.Key.String()))
			}
			return cmp.Or(strings.Compare(a.Key.Name(), b.Key.Name()), strings.Compare(a.Key.Framework(), b.Key.Framework()),
				strings.Compare(string(a.Key.Kind()), string(b.Key.Kind())))
		}))
	}
	never := func(int) {}
	of := func(admits func(k item.Key) bool) map[string]bool {
		some := make(map[string]bool)
		for text, scored := range wanted {
			if admits(key(t, text)) {
				some[text] = scored
			}
		}
		return some
	}
	framework, kind, category := "react", "block", "forms"
	search := func(q string, limit int) store.Search {
		asked := ask(t, q)
		asked.Limit = limit
		return asked
	}
	asked := search("backlog", 100)
	asked.Framework = &framework
	check(asked, of(func(k item.Key) bool { return k.Framework() == framework }), never)
	asked = search("backlog", 100)
	asked.Kind = &kind
	check(asked, of(func(k item.Key) bool { return k.Kind() == item.KindBlock }), never)
	asked = search("backlog", 100)
	asked.Category = &category
	check(asked, of(func(k item.Key) bool { return categories[k.String()] == category }), never)
	// Words that stand in a name as one have a score where that is the whole name alone.
	only := of(func(item.Key) bool { return true })
	for text := range only {
		only[text] = text == "component:vue:backlog"
	}
	check(search("back log", 100), only, never)
	check(search("backlog", 29), wanted, func(page int) {
		if page == 20 {
			b.makeDocuments() // of what was found without until then
		}
	})
}

// Where it cannot, it finds what was written last, and says that it lacks something.
func TestSearchThatCannotCatchUp(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	b.backlog(350)
	_, err := b.Put(t.Context(), value(t, key(t, "component:react:last"), "backlog of the last"), nil, item.Precondition{})
	require.NoError(t, err)
	holder := pgtest.Connect(t, b.dsn)
	exec(t, holder, `SELECT pg_advisory_lock($1)`, int64(0x53746f636b536561))
	results, err := b.Search(t.Context(), ask(t, "backlog"))
	require.NoError(t, err)
	require.True(t, results.Incomplete)
	require.Len(t, results.List, 20)
	found, err := finds(t.Context(), b.Store, `"the last"`, key(t, "component:react:last"))
	require.NoError(t, err)
	require.True(t, found)
	again, _, err := b.MakeDocuments(t.Context())
	require.NoError(t, err)
	require.False(t, again, "while another server makes documents")
	exec(t, holder, `SELECT pg_advisory_unlock($1)`, int64(0x53746f636b536561))
	b.searchAll(ask(t, "backlog"))
}

func TestCompareDocuments(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	b.backlog(1200)
	_, err := b.Put(t.Context(), value(t, key(t, "block:react:b"), "backlog"), nil, item.Precondition{})
	require.NoError(t, err)
	b.makeDocuments()
	compare := func() (steps int) {
		for again := true; again; steps++ {
			var err error
			again, _, err = b.CompareDocuments(t.Context())
			require.NoError(t, err)
		}
		return steps
	}
	b.exec(`DELETE FROM components WHERE name LIKE '%7'`)
	b.exec(`DELETE FROM search_documents WHERE name LIKE '%3' OR kind = 'block'`)
	b.exec(`UPDATE search_documents SET etag = 'other' WHERE name LIKE '%5'`)
	require.Positive(t, compare(), "at the start")
	require.Equal(t, 1081, scan[int](t, b.other, `SELECT count(*) FROM search_documents`))
	require.Zero(t, scan[int](t, b.other, `SELECT count(*) FROM components t
		WHERE NOT EXISTS (SELECT FROM search_documents d WHERE d.key = t.key AND d.etag = t.etag)`))

	b.exec(`DELETE FROM components`)
	require.Equal(t, 1, compare(), "it was done a moment ago")
	require.Equal(t, 1081, scan[int](t, b.other, `SELECT count(*) FROM search_documents`))
	other := store.New(b.open(2), store.Options{})
	b.exec(`UPDATE search_state SET compare_at = now()`)
	again, _, err := b.CompareDocuments(t.Context())
	require.NoError(t, err)
	require.True(t, again)
	again, _, err = other.CompareDocuments(t.Context())
	require.NoError(t, err)
	require.False(t, again, "not on two servers at once")
	compare()
	require.Equal(t, 1, scan[int](t, b.other, `SELECT count(*) FROM search_documents`))
}

// However many different words a source has, its last ones are found like its first.
func TestSearchFindsTheEndOfManyWords(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	random := rand.New(rand.NewPCG(3, 4))
	word := func(n int) string {
		letters := make([]byte, n)
		for i := range letters {
			letters[i] = byte('a' + random.IntN(26))
		}
		return string(letters)
	}
	title := func() string { w := word(7); return strings.ToUpper(w[:1]) + w[1:] }
	const end = "quiteTheLastOne = omegaword"
	sources := make(map[string]string)
	for name, line := range map[string]func() string{
		"words":       func() string { return word(6+random.IntN(20)) + " " },
		"short":       func() string { return fmt.Sprintf("%s%05d ", word(1), random.IntN(1e5)) },
		"identifiers": func() string { return "export const use" + title() + title() + title() + " = 1;\n" },
		"lines":       func() string { return word(7) + title() + title() + " = " + word(7) + title() + "();\n" },
	} {
		var source strings.Builder
		source.WriteString("alphaword\n")
		for range map[string]int{"words": 16_000, "short": 40_000, "identifiers": 8000, "lines": 8000}[name] {
			source.WriteString(line())
		}
		sources[name] = source.String() + end
	}
	for name, source := range sources {
		k := key(t, "component:react:"+name)
		_, err := b.Put(t.Context(), value(t, k, source), nil, item.Precondition{})
		require.NoError(t, err)
		expect := func(q string, want bool) {
			t.Helper()
			found, err := finds(t.Context(), b.Store, q, k)
			require.NoError(t, err, q)
			require.Equal(t, want, found, "%q in %s of %d bytes", q, name, len(source))
		}
		expect("alphaword omegaword", true) // before it has its document
		expect("quite-the-last-one", true)
		b.makeDocuments()
		for q, want := range map[string]bool{
			"omegaword": true, "omegaw": true, "alphaword omegaword": true, "alphaword or nowhere": true,
			"quiteTheLastOne": true, "quite-the-last-one": true, "theLast": true, "quiteTheLa": true, "alphaword the-last": true, "quite last": true,
			"alphaword -omegaword": false, "quiteTheLost": false, "lastNowhere": false, "omegawordy": false,
		} {
			expect(q, want)
		}
	}
}

// A source as large as one can be has a document that PostgreSQL takes, and so have
// others in which there is more than it takes of one thing.
func TestSearchInLargeSources(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	random := rand.New(rand.NewPCG(1, 2))
	var words, same strings.Builder
	for words.Len() < 8<<20 {
		fmt.Fprintf(&words, "%x%s ", random.Uint64(), strings.Repeat("é", random.IntN(40)))
	}
	for same.Len() < 2<<20 {
		same.WriteString("same words again-and-again ")
	}
	for name, source := range map[string]string{
		"words": "firstword " + words.String() + "lastword", "same": same.String(), "one": strings.Repeat("a", 8<<20), "joined": "a" + strings.Repeat("-Wx.y/z", 1<<18),
		"marks": strings.Repeat("e\u0301", 1<<19), "ideographs": strings.Repeat("数据表格", 1<<17), "capitals": strings.Repeat("UvSt", 1<<19),
	} {
		body, err := json.Marshal(map[string]string{"sourceCode": source})
		require.NoError(t, err)
		v, err := item.Parse(key(t, "component:react:large-"+name), body)
		require.NoError(t, err)
		_, err = b.Put(t.Context(), v, nil, item.Precondition{})
		require.NoError(t, err)
		found, err := finds(t.Context(), b.Store, "large "+name, v.Key)
		require.NoError(t, err, name)
		require.True(t, found, "%s, before it has its document", name)
	}
	b.makeDocuments()
	require.Equal(t, 7, scan[int](t, b.other, `SELECT count(*) FROM search_documents`))
	for q, name := range map[string]string{"firstword": "words", "lastword firstword": "words", `"words again-and-again"`: "same", "表格": "ideographs", "wxY": "joined", "uvStU": "capitals"} {
		results, err := b.Search(t.Context(), ask(t, q))
		require.NoError(t, err)
		require.Equal(t, []string{"large-" + name}, namesOf(results), q)
		require.Contains(t, results.List[0].Snippet, search.MarkBegin, q)
		require.Less(t, len(results.List[0].Snippet), 1000)
	}
}

// Whatever is asked for, the answer is a result or a word about what is wrong.
func FuzzSearch(f *testing.F) {
	for _, seed := range []string{
		"", " ", "-", "--", "-a", "or", "or or", "a or", `"`, `""`, `"a`, `-"a b"`, "a -b or c", "!", "&|!<->():*", `'`, `\`, "a'b", `a\b`, "a:*", "a:*A", "a<->b",
		"the", "a the of", "🎉", "\x00", "\xff", "é", "e\u0301", "\u0301", "数据", "dataTable", "data-table", "ui/x.tsx", strings.Repeat("a", 1000), strings.Repeat("a-", 500),
		strings.Repeat("a ", 32), strings.Repeat("a or ", 16), strings.Repeat("-a ", 32), strings.Repeat("数", 1000), strings.Repeat("aB", 500), "İ", "ß", "ǅ",
	} {
		f.Add(seed)
	}
	b := setup(f, store.Options{})
	for name, text := range map[string]string{
		"data-table": "const dataTable = useTable({ data: 'it''s' })", "date-picker": "⟦marks⟧ of its own 🎉", "数据": "数据表格", "é": "ÉE\u0301ß İ", "a": "a the of or -b",
	} {
		if _, err := b.Put(f.Context(), value(f, key(f, "component:react:"+name), text), nil, item.Precondition{}); err != nil {
			f.Fatal(err)
		}
	}
	b.makeDocuments()
	// One that has no document yet is matched in another way.
	if _, err := b.Put(f.Context(), value(f, key(f, "block:vue:late-table"), "dataTable 数据 é a"), nil, item.Precondition{}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, q string) {
		query, err := search.ParseQuery(q)
		if err != nil {
			fault, ok := errors.AsType[*item.Fault](err)
			if !ok || fault.Code != item.CodeInvalidQuery || fault.Detail == "" {
				t.Fatalf("%q: %#v", q, err)
			}
			return
		}
		results, err := b.Search(t.Context(), store.Search{Query: query, Limit: 100})
		if err != nil {
			t.Fatalf("%q is %s: %v", q, query.Text, err)
		}
		for i, r := range results.List {
			begun, ended := strings.Count(r.Snippet, search.MarkBegin), strings.Count(r.Snippet, search.MarkEnd)
			if begun != ended || !utf8.ValidString(r.Snippet) {
				t.Errorf("%q: %q", q, r.Snippet)
			}
			if i > 0 && results.List[i-1].Score < r.Score {
				t.Errorf("%q: %v is after %v", q, r.Place, results.List[i-1].Place)
			}
		}
	})
}
