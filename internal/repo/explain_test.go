package repo_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/repo"
	"github.com/stockroom/stockroom/internal/search"
	"github.com/stockroom/stockroom/internal/txn"
)

const (
	rowsPerTable    = 100_000
	expiredPerTable = rowsPerTable / 100
)

// fill puts many rows into each table: most never expire, some will, a few have.
func fill(b *bundle) {
	b.t.Helper()
	const times = `now(), now(), now(), now() - random() * interval '1 day',
		CASE WHEN i % 100 = 7 THEN now() - i * interval '1 second' WHEN i % 5 = 0 THEN now() + interval '1 hour' + i * interval '1 second' END`
	const framework = `(ARRAY['react', 'react', 'react', 'react', 'vue', 'vue', 'svelte'])[1 + i % 7]`
	const name = `md5(i::text) || '-' || i`
	const text = `repeat(md5(i::text), 16)`
	// Indexes are made in a fraction of the time when the rows are there.
	const which = ` FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = 'public'::regnamespace AND NOT i.indisprimary`
	indexes := scan[[]string](b, `SELECT array_agg(pg_get_indexdef(i.indexrelid))`+which)
	b.exec(scan[string](b, `SELECT 'DROP INDEX ' || string_agg(i.indexrelid::regclass::text, ', ')`+which))
	for _, sql := range []string{
		`INSERT INTO components (name, framework, source_code, dependencies, bytes, etag, created_at, updated_at, cached_at, accessed_at, expires_at)
			SELECT ` + name + `, ` + framework + `, ` + text + `, '["a"]', 512, md5(i::text), ` + times + ` FROM generate_series(1, $1) i`,
		`INSERT INTO blocks (name, framework, category, files, bytes, etag, created_at, updated_at, cached_at, accessed_at, expires_at)
			SELECT ` + name + ` || CASE WHEN i % 3 = 0 THEN '' ELSE 'b' END, ` + framework + `, 'category-' || i % 20, ` + text + `, 512, md5(i::text), ` + times + ` FROM generate_series(1, $1) i`,
		`INSERT INTO entries (key, value, bytes, etag, created_at, updated_at, cached_at, accessed_at, expires_at)
			SELECT 'metadata:' || ` + name + `, ` + text + `, 512, md5(i::text), ` + times + ` FROM generate_series(1, $1) i`,
	} {
		b.exec(sql, rowsPerTable)
	}
	// Nine documents of ten, so that some are pending; every one has a word in common,
	// and a body that is stored apart.
	for _, kind := range []string{"component", "block"} {
		b.exec(`INSERT INTO search_documents (name, framework, kind, etag, format, words, folded, categories, head, vector)
			SELECT t.name, t.framework, $1, t.etag, $2::integer, 9, t.name, '{}', to_tsvector('simple', left(t.name, 3)),
				to_tsvector('simple', left(t.name, 3) || ' everywhere ' || repeat(regexp_replace(t.name, '(..)', '\1 ', 'g') || ' ', 3))
			FROM `+kind+`s t WHERE t.etag NOT LIKE '7%'`, kind, search.Format)
	}
	for _, index := range indexes {
		b.exec(index)
	}
	// For whoever runs a function before its plan is looked at.
	b.exec(`ANALYZE`)
}

// No statement reads a whole table, whatever plan the database chooses: one for
// the arguments, or one for all of them.
func TestStatementsUseIndexes(t *testing.T) { //nolint:tparallel // the subtests share a connection
	t.Parallel()
	b := setup(t)
	fill(b)

	pattern := func(glob string) item.Pattern {
		p, err := item.ParsePattern(glob)
		require.NoError(t, err)
		return p
	}
	existing := func(table string, n int) (keys []item.Key) {
		rows, err := b.other.Query(t.Context(), `SELECT key FROM `+table+` ORDER BY etag LIMIT $1`, n)
		require.NoError(t, err)
		texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		for _, text := range texts {
			keys = append(keys, key(t, text))
		}
		return keys
	}
	mixed := func(n int) []item.Key {
		return slices.Concat(existing("components", n), existing("blocks", n), existing("entries", n))
	}
	category := "category-3"
	type run func(ctx context.Context, u *txn.Unit) error
	each := func(f func(ctx context.Context, u *txn.Unit, key item.Key) error) run {
		return func(ctx context.Context, u *txn.Unit) error {
			for _, key := range mixed(1) {
				if err := f(ctx, u, key); err != nil && err != item.ErrNotFound { //nolint:errorlint // as it is
					return err
				}
			}
			return nil
		}
	}
	keys := func(p item.Pattern, after string, limit int) run {
		return func(ctx context.Context, u *txn.Unit) error {
			found, err := repo.Keys(ctx, u, p, after, limit)
			require.Len(t, found, limit, "%+v after %q", p, after)
			return err
		}
	}
	list := func(kind item.Kind, category *string, after string) run {
		return func(ctx context.Context, u *txn.Unit) error {
			found, err := repo.List(ctx, u, kind, "react", category, after, 101)
			require.Len(t, found, 101)
			return err
		}
	}
	catalogue := func(q repo.CatalogueQuery, offset int) run {
		q.Framework = "react"
		return func(ctx context.Context, u *txn.Unit) error {
			found, err := repo.Catalogue(ctx, u, q, offset, 100)
			require.Len(t, found, 100)
			return err
		}
	}
	catalogueSize := func(q repo.CatalogueQuery, least int64) run {
		q.Framework = "react"
		return func(ctx context.Context, u *txn.Unit) error {
			n, err := repo.CatalogueSize(ctx, u, q)
			require.GreaterOrEqual(t, n, least)
			return err
		}
	}
	find := func(q string, change func(*repo.Search)) run {
		return func(ctx context.Context, u *txn.Unit) error {
			query, err := search.ParseQuery(q)
			require.NoError(t, err)
			ask := repo.Search{Query: query, Limit: 21}
			change(&ask)
			found, err := repo.Find(ctx, u, ask, nil)
			require.NotEmpty(t, found, q)
			return err
		}
	}
	react, block := "react", "block"
	ttl := item.TTL(60)
	runs := map[string]run{
		"find a word":                 find("abc", func(*repo.Search) {}),
		"find a part and not another": find("abc or bc -ff", func(*repo.Search) {}),
		"find a common word":          find("everywhere x", func(ask *repo.Search) { ask.Query.Text = "'everywhere'" }),
		"find a restricted word":      find("abc", func(ask *repo.Search) { ask.Kind, ask.Framework = &block, &react }),
		"find behind":                 find("abc", func(ask *repo.Search) { ask.After = &repo.Place{Score: 3, Key: "component:react:a"} }),
		"find behind, in brief":       find("abc", func(ask *repo.Search) { ask.After = &repo.Place{Score: 3, Key: "component:react:a", Brief: true} }),
		"find far between": find("abc", func(ask *repo.Search) {
			ask.Query.Head, ask.Query.Any = "'x'", "'x'"
			ask.After = &repo.Place{Key: "component:react:0", Brief: true}
		}),
		"walk to a common word": find("everywhere", func(ask *repo.Search) {
			ask.After = &repo.Place{Key: "component:react:7", Brief: true}
		}),
		"walk to a restricted word": find("everywhere", func(ask *repo.Search) {
			ask.Kind, ask.Framework = &block, &react
			ask.After = &repo.Place{Key: "component:react:7", Brief: true}
		}),
		"pending, first": func(ctx context.Context, u *txn.Unit) error {
			pending, err := repo.PendingDocuments(ctx, u, false, 100)
			require.Len(t, pending, 100)
			return err
		},
		"pending, latest": func(ctx context.Context, u *txn.Unit) error {
			pending, err := repo.PendingDocuments(ctx, u, true, 101)
			require.Len(t, pending, 101)
			return err
		},
		"texts": func(ctx context.Context, u *txn.Unit) error {
			texts, err := repo.Texts(ctx, u, slices.Concat(existing("components", 50), existing("blocks", 50)), 1000)
			require.Len(t, texts, 100)
			return err
		},
		"progress": func(ctx context.Context, u *txn.Unit) error {
			_, err := repo.ReadProgress(ctx, u)
			return err
		},
		"missing": func(ctx context.Context, u *txn.Unit) error {
			missing, next, err := repo.MissingDocuments(ctx, u, item.KindComponent, "component:react:77", 1000)
			require.NotEmpty(t, missing)
			require.NotEmpty(t, next)
			return err
		},
		"orphans": func(ctx context.Context, u *txn.Unit) error {
			next, err := repo.DeleteOrphans(ctx, u, []string{"8", "", ""}, 1000)
			require.NotNil(t, next)
			return err
		},
		"catalogue":       catalogue(repo.CatalogueQuery{}, 0),
		"catalogue, deep": catalogue(repo.CatalogueQuery{}, rowsPerTable/2),
		"catalogue size":  catalogueSize(repo.CatalogueQuery{}, rowsPerTable*9/10),
		"catalogued": func(ctx context.Context, u *txn.Unit) error {
			n := 0
			err := repo.EachCatalogued(ctx, u, mixed(50), func(item.Value) error { n++; return nil })
			require.Equal(t, 100, n)
			return err
		},
		"get": each(func(ctx context.Context, u *txn.Unit, key item.Key) error {
			_, err := repo.Get(ctx, u, key)
			return err
		}),
		"metadata": each(func(ctx context.Context, u *txn.Unit, key item.Key) error {
			_, err := repo.Metadata(ctx, u, key)
			return err
		}),
		"lock": each(func(ctx context.Context, u *txn.Unit, key item.Key) error {
			_, err := repo.Lock(ctx, u, key)
			return err
		}),
		"touch": each(func(ctx context.Context, u *txn.Unit, key item.Key) error {
			_, err := repo.Touch(ctx, u, key, &ttl)
			return err
		}),
		"keys, first page":              keys(item.Pattern{}, "", 101),
		"keys, largest page":            keys(item.Pattern{}, "", 1001),
		"keys, deep page":               keys(item.Pattern{}, "component:vue:8", 101),
		"keys, prefix":                  keys(pattern("component:react:a*"), "", 101),
		"keys, prefix of entries":       keys(pattern("metadata:0*"), "", 101),
		"keys, prefix and then some":    keys(pattern("block:vue:*-1*"), "block:vue:3", 101),
		"list components":               list(item.KindComponent, nil, ""),
		"list components, deep":         list(item.KindComponent, nil, "component:react:9"),
		"list blocks":                   list(item.KindBlock, nil, ""),
		"list blocks by category":       list(item.KindBlock, &category, ""),
		"list blocks by category, deep": list(item.KindBlock, &category, "block:react:3"),
		"expired": func(ctx context.Context, u *txn.Unit) error {
			n, _, err := repo.DeleteExpired(ctx, u, 100)
			require.Equal(t, 300, n)
			return err
		},
		"expired, many": func(ctx context.Context, u *txn.Unit) error {
			n, _, err := repo.DeleteExpired(ctx, u, expiredPerTable)
			require.Equal(t, 3*expiredPerTable, n)
			return err
		},
		"oldest": func(ctx context.Context, u *txn.Unit) error {
			victims, err := repo.LeastRecentlyUsed(ctx, u, mixed(3), 500)
			require.Len(t, victims, 500)
			return err
		},
		"evict": func(ctx context.Context, u *txn.Unit) error {
			victims, err := repo.LeastRecentlyUsed(ctx, u, nil, 500)
			if err != nil {
				return err
			}
			b.sent.take()
			evicted, _, err := repo.Evict(ctx, u, victims)
			require.Len(t, evicted, 500)
			return err
		},
		"count expired": func(ctx context.Context, u *txn.Unit) error {
			expired, err := repo.Expired(ctx, u)
			require.Equal(t, item.Counts{Components: expiredPerTable, Blocks: expiredPerTable, Entries: expiredPerTable}, expired.Items)
			return err
		},
		"frameworks": func(ctx context.Context, u *txn.Unit) error {
			found, err := repo.Frameworks(ctx, u)
			require.Len(t, found, 3)
			return err
		},
		"all": func(ctx context.Context, u *txn.Unit) error {
			n := 0
			err := repo.ReadAll(ctx, u, func(item.Record) error { n++; return nil })
			require.Equal(t, 3*(rowsPerTable-expiredPerTable), n)
			return err
		},
		"clear a prefix": func(ctx context.Context, u *txn.Unit) error {
			_, _, err := repo.Clear(ctx, u, pattern("component:react:ab*"))
			return err
		},
	}
	for _, n := range []int{1, 10, 330} {
		many := mixed(n)
		runs[fmt.Sprintf("get %d", 3*n)] = func(ctx context.Context, u *txn.Unit) error {
			_, err := repo.GetMany(ctx, u, many)
			return err
		}
		runs[fmt.Sprintf("records %d", 3*n)] = func(ctx context.Context, u *txn.Unit) error {
			_, err := repo.Records(ctx, u, many)
			return err
		}
		runs[fmt.Sprintf("delete %d", 3*n)] = func(ctx context.Context, u *txn.Unit) error {
			_, _, err := repo.Delete(ctx, u, many)
			return err
		}
		runs[fmt.Sprintf("retouch %d", 3*n)] = func(ctx context.Context, u *txn.Unit) error {
			touched := make([]repo.Touched, len(many))
			for i, key := range many {
				touched[i] = repo.Touched{Key: key, TTL: &ttl}
			}
			_, err := repo.TouchMany(ctx, u, touched)
			return err
		}
		runs[fmt.Sprintf("mark %d", 3*n)] = func(ctx context.Context, u *txn.Unit) error {
			marks := make([]repo.Mark, len(many))
			for i, key := range many {
				marks[i] = repo.Mark{Key: key, Count: 1}
			}
			return repo.ApplyMarks(ctx, u, marks)
		}
	}
	statements := make(map[string][]statement, len(runs))
	for name, run := range runs {
		b.sent.take()
		b.try(func(ctx context.Context, u *txn.Unit) error {
			// Without its index a statement may take for ever, and would not be looked at.
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			defer func() {
				if ctx.Err() != nil {
					t.Errorf("%q takes more than a minute", name)
				}
			}()
			return run(ctx, u)
		})
		statements[name] = b.sent.take()
		require.NotEmpty(t, statements[name], name)
	}
	b.exec(`VACUUM ANALYZE`)

	for name, list := range statements {
		t.Run(name, func(t *testing.T) {
			b.inTurn(list, func(s statement, mode string) {
				plan, nodes := explain(t, b.other, mode, s)
				for _, node := range nodes {
					if slices.Contains([]string{"components", "blocks", "entries", "search_documents"}, node.Relation) && strings.Contains(node.Type, "Seq Scan") {
						t.Errorf("%s reads all of %s:\n%s\n%s", mode, node.Relation, s.sql, plan)
					}
				}
				checkIndexes(t, name, nodes, plan)
			})
		})
	}
}

// Where items have just come, such as in a new database, PostgreSQL knows nothing of
// the tables yet; the work of documents must not grow with their square then.
func TestDocumentsWithoutStatistics(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const items = 2000
	for _, table := range []string{"components", "search_documents"} {
		b.exec(`ALTER TABLE ` + table + ` SET (autovacuum_enabled = off)`)
	}
	b.exec(`INSERT INTO components (name, framework, source_code, dependencies, bytes, etag, created_at, updated_at, cached_at, accessed_at)
		SELECT 'name-' || i, 'react', 'source', '[]', 6, md5(i::text), now(), now(), now(), now() FROM generate_series(1, $1) i`, items)
	b.exec(`INSERT INTO search_documents (name, framework, kind, etag, format, words, folded, categories, head, vector)
		SELECT t.name, t.framework, 'component', t.etag, $1::integer, 9, t.name, '{}', 'name:1', 'name:1' FROM components t`, search.Format)
	for name, run := range map[string]func(ctx context.Context, u *txn.Unit) error{
		"pending, first": func(ctx context.Context, u *txn.Unit) error {
			pending, err := repo.PendingDocuments(ctx, u, false, 100)
			require.Empty(t, pending)
			return err
		},
		"pending, latest": func(ctx context.Context, u *txn.Unit) error {
			pending, err := repo.PendingDocuments(ctx, u, true, 101)
			require.Empty(t, pending)
			return err
		},
		"missing": func(ctx context.Context, u *txn.Unit) error {
			missing, _, err := repo.MissingDocuments(ctx, u, item.KindComponent, "", items)
			require.Empty(t, missing)
			return err
		},
		"orphans": func(ctx context.Context, u *txn.Unit) error {
			next, err := repo.DeleteOrphans(ctx, u, nil, items)
			require.NotEmpty(t, next)
			return err
		},
	} {
		b.sent.take()
		b.try(run)
		b.inTurn(b.sent.take(), func(s statement, mode string) {
			plan, nodes := explain(t, b.other, mode, s, "ANALYZE", "TIMING OFF")
			var rows float64
			for _, node := range nodes {
				rows += node.Loops * (node.Rows + node.Filtered + node.Mismatched)
			}
			require.Less(t, rows, 20.*items, "%s with %s\n%s", name, mode, plan)
		})
	}
}

// inTurn calls check for each of a unit's statements and each way of planning it, in
// a transaction with the unit's settings.
func (b *bundle) inTurn(unit []statement, check func(s statement, mode string)) {
	b.t.Helper()
	b.exec(`BEGIN`)
	defer b.exec(`ROLLBACK`)
	for _, s := range unit {
		if s.sql == "commit" || s.sql == "rollback" || strings.HasPrefix(s.sql, "begin ") {
			continue
		}
		if strings.HasPrefix(s.sql, `SELECT set_config(`) {
			b.exec(s.sql, s.args...) // a setting for the statements that follow
			continue
		}
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			check(s, mode)
		}
	}
}

// wanted says by the first word of a run what its statements are read with.
var wanted = map[string]struct {
	indexes []string
	sorted  bool // the index gives the order, so nothing is sorted
}{
	"get":        {indexes: []string{"components_pkey", "blocks_pkey", "components_key_idx", "blocks_key_idx", "entries_pkey"}},
	"metadata":   {indexes: []string{"components_pkey", "blocks_pkey", "entries_pkey"}, sorted: true},
	"lock":       {indexes: []string{"components_pkey", "blocks_pkey", "entries_pkey"}, sorted: true},
	"touch":      {indexes: []string{"components_pkey", "blocks_pkey", "entries_pkey"}, sorted: true},
	"keys":       {indexes: []string{"components_key_idx", "blocks_key_idx", "entries_pkey"}},
	"list":       {indexes: []string{"components_key_idx", "blocks_key_idx", "blocks_category_idx"}, sorted: true},
	"expired":    {indexes: []string{"components_expires_at_idx", "blocks_expires_at_idx", "entries_expires_at_idx", "components_key_idx", "blocks_key_idx", "entries_pkey"}, sorted: true},
	"oldest":     {indexes: []string{"components_accessed_at_idx", "blocks_accessed_at_idx", "entries_accessed_at_idx"}},
	"evict":      {indexes: []string{"components_accessed_at_idx", "blocks_accessed_at_idx", "entries_accessed_at_idx", "components_key_idx", "blocks_key_idx", "entries_pkey"}, sorted: true},
	"catalogue":  {indexes: []string{"components_key_idx", "blocks_key_idx"}},
	"catalogued": {indexes: []string{"components_key_idx", "blocks_key_idx"}},
	"count":      {indexes: []string{"components_expires_at_idx", "blocks_expires_at_idx", "entries_expires_at_idx"}},
	"frameworks": {indexes: []string{"components_key_idx", "blocks_key_idx"}},
	"all":        {indexes: []string{"components_key_idx", "blocks_key_idx", "entries_pkey"}, sorted: true},
	"records":    {indexes: []string{"components_key_idx", "blocks_key_idx", "entries_pkey"}},
	"clear":      {indexes: []string{"components_key_idx", "blocks_key_idx", "entries_pkey"}, sorted: true},
	"delete":     {indexes: []string{"components_key_idx", "blocks_key_idx", "entries_pkey"}, sorted: true},
	"retouch":    {indexes: []string{"components_key_idx", "blocks_key_idx", "entries_pkey"}},
	"mark":       {indexes: []string{"components_key_idx", "blocks_key_idx", "entries_pkey"}},
	"find":       {indexes: []string{"search_documents_words_idx", "search_documents_pkey", "components_pkey", "blocks_pkey"}},
	"walk":       {indexes: []string{"search_documents_pkey", "components_pkey", "blocks_pkey"}, sorted: true},
	"pending":    {indexes: []string{"components_accessed_at_idx", "blocks_accessed_at_idx", "search_documents_pkey", "search_state_pkey"}},
	"texts":      {indexes: []string{"components_key_idx", "blocks_key_idx"}},
	"progress":   {indexes: []string{"components_accessed_at_idx", "blocks_accessed_at_idx", "search_state_pkey"}},
	"missing":    {indexes: []string{"components_key_idx", "search_documents_pkey"}, sorted: true},
	"orphans":    {indexes: []string{"search_documents_pkey", "components_pkey", "blocks_pkey"}, sorted: true},
}

// checkIndexes checks that a run's plan uses the indexes that were made for it.
func checkIndexes(t testing.TB, name string, nodes []planNode, plan string) {
	t.Helper()
	first, _, _ := strings.Cut(strings.NewReplacer(",", " ").Replace(name), " ")
	want, ok := wanted[first]
	require.True(t, ok, name)
	scans := 0
	for _, node := range nodes {
		if node.Index != "" {
			scans++
			require.Contains(t, want.indexes, node.Index, "%s\n%s", name, plan)
		}
		if want.sorted {
			require.NotContains(t, node.Type, "Sort", "%s\n%s", name, plan)
		}
		switch {
		case strings.HasPrefix(name, "frameworks") && node.Relation != "":
			require.Equal(t, "Index Only Scan", node.Type, plan)
		case first == "catalogue" && node.Relation != "":
			require.Equal(t, "Index Only Scan", node.Type, plan)
		case strings.HasPrefix(name, "list blocks by category") && node.Relation != "":
			require.Equal(t, "blocks_category_idx", node.Index, plan)
		}
	}
	require.Positive(t, scans, "%s\n%s", name, plan)
}

type planNode struct {
	Type     string     `json:"Node Type"`
	Relation string     `json:"Relation Name"`
	Index    string     `json:"Index Name"`
	Plans    []planNode `json:"Plans"`

	// With ANALYZE: how often it was run, and the rows of each time that it gave, and
	// that it read for nothing.
	Loops      float64 `json:"Actual Loops"`
	Rows       float64 `json:"Actual Rows"`
	Filtered   float64 `json:"Rows Removed by Filter"`
	Mismatched float64 `json:"Rows Removed by Join Filter"`
}

// explain returns the plan of a statement as text, and its nodes.
func explain(t testing.TB, conn *pgx.Conn, mode string, s statement, options ...string) (string, []planNode) {
	t.Helper()
	run := func(sql string) string {
		t.Helper()
		results, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
		require.NoError(t, err, sql)
		var text strings.Builder
		for _, row := range results[len(results)-1].Rows {
			text.Write(row[0])
			text.WriteByte('\n')
		}
		return text.String()
	}
	run(`SET plan_cache_mode = ` + mode)
	prepared, err := conn.Prepare(t.Context(), "", s.sql)
	require.NoError(t, err, s.sql)
	types := make([]string, len(prepared.ParamOIDs))
	for i, oid := range prepared.ParamOIDs {
		types[i] = strings.TrimSpace(run(fmt.Sprintf(`SELECT format_type(%d, NULL)`, oid)))
	}
	declared, literals := "", ""
	if len(types) > 0 {
		args := make([]string, len(s.args))
		for i, arg := range s.args {
			args[i] = literal(t, arg)
		}
		declared, literals = ` (`+strings.Join(types, ", ")+`)`, ` (`+strings.Join(args, ", ")+`)`
	}
	run(`PREPARE q` + declared + ` AS ` + s.sql)
	defer run(`DEALLOCATE q`)
	var plans []struct{ Plan planNode }
	require.NoError(t, json.Unmarshal([]byte(run(`EXPLAIN (`+strings.Join(append(options, `FORMAT JSON`), `, `)+`) EXECUTE q`+literals)), &plans))
	var nodes []planNode
	var walk func(node planNode)
	walk = func(node planNode) {
		nodes = append(nodes, node)
		for _, child := range node.Plans {
			walk(child)
		}
	}
	for _, plan := range plans {
		walk(plan.Plan)
	}
	lines := strings.Split(run(`EXPLAIN EXECUTE q`+literals), "\n")
	for i, line := range lines {
		lines[i] = line[:min(len(line), 300)] // conditions hold all the keys
	}
	return strings.Join(lines, "\n"), nodes
}

// literal writes an argument as SQL.
func literal(t testing.TB, arg any) string {
	t.Helper()
	quote := func(text string) string { return `'` + strings.ReplaceAll(text, `'`, `''`) + `'` }
	switch arg := arg.(type) {
	case nil:
		return `NULL`
	case string:
		return quote(arg)
	case int:
		return strconv.Itoa(arg)
	case int64:
		return strconv.FormatInt(arg, 10)
	case float64, bool:
		return fmt.Sprint(arg)
	case *string:
		if arg == nil {
			return `NULL`
		}
		return quote(*arg)
	case []int32:
		return `ARRAY[` + strings.Trim(strings.Join(strings.Fields(fmt.Sprint(arg)), ", "), "[]") + `]::integer[]`
	case *int64:
		return strconv.FormatInt(*arg, 10)
	case time.Time:
		return quote(arg.Format(time.RFC3339Nano))
	case []string:
		elements := make([]string, len(arg))
		for i, element := range arg {
			elements[i] = quote(element)
		}
		return `ARRAY[` + strings.Join(elements, ", ") + `]::text[]`
	case []*int64:
		elements := make([]string, len(arg))
		for i, element := range arg {
			elements[i] = literal(t, element)
		}
		return `ARRAY[` + strings.Join(elements, ", ") + `]`
	case []int64, []float64:
		return `ARRAY[` + strings.Trim(strings.Join(strings.Fields(fmt.Sprint(arg)), ", "), "[]") + `]`
	}
	require.FailNow(t, "no literal", "%T", arg)
	return ""
}
