package repo

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/search"
	"github.com/stockroom/stockroom/internal/txn"
)

// Search is what is looked for.
type Search struct {
	Query search.Query
	// What is not nil restricts the search.
	Kind, Framework, Category *string
	After                     *Place // behind which the results begin
	Limit                     int
}

// Place is the place of a result among all.
type Place struct {
	Score float64
	Key   string
	// Brief says that so much was found that only names, titles and categories
	// counted: pages that follow are ranked in the same way.
	Brief bool
}

// Found is a result.
type Found struct {
	Place
	Key item.Key
}

const (
	// maxRanked is how many documents are ranked by all their words. To rank more would
	// take longer than it is worth.
	maxRanked = 1000
	// maxWalked is how many documents are read in the order of their names to meet a page
	// of those with a common word.
	maxWalked = 5000
	// spare is how many results are read besides, for items that are no more.
	spare = 20
)

// Find returns the first items, in the order of their scores, then of their keys,
// that there are and that a search finds: by their documents, or by those of pending,
// which have just been made of items that have none yet.
//
// Where more than maxRanked are found, only names, titles and categories count. What has
// none of the words in them has no score then, and comes last, in the order of names.
func Find(ctx context.Context, u *txn.Unit, s Search, pending []Document) ([]Found, error) {
	// No sequential scan: the planner takes a common word for a reason to read all,
	// and does not know what it costs to fetch each vector. What a common word finds is
	// kept in memory, and compiled it would be found later.
	u.Queue(`SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'on', true),
		set_config('work_mem', '32MB', true), set_config('jit', 'off', true)`)
	f := finder{Search: s}
	for i := range pending {
		f.add(&pending[i])
	}
	if s.After != nil {
		var err error
		if f.after, err = item.ParseKey(s.After.Key); err != nil {
			return nil, err
		}
		f.brief = s.After.Brief
	}
	if !f.brief {
		found, err := f.ranked(ctx, u)
		if err != nil || !f.tooMuch {
			return found, err
		}
		f.brief = true
	}
	var found []Found
	if !f.behindScores() {
		var err error
		if found, err = f.ranked(ctx, u); err != nil || len(found) == s.Limit {
			return found, err
		}
	}
	// All of this comes last, so that it is not looked at before.
	rest, err := f.unranked(ctx, u, s.Limit-len(found))
	return append(found, rest...), err
}

// finder makes the statements of a search.
type finder struct {
	Search
	after item.Key // that of After
	// brief is Place.Brief; tooMuch says that it has to be.
	brief, tooMuch bool
	// Of the documents that are not stored.
	keys, etags, folded, heads, vectors []string
	words                               []int32
}

// behindScores tells whether the results begin behind all that has a score.
func (f *finder) behindScores() bool { return f.After != nil && f.After.Score <= 0 }

// add adds a document that is not stored, if the search may find it.
func (f *finder) add(d *Document) {
	if (f.Kind != nil && *f.Kind != string(d.Key.Kind())) ||
		(f.Framework != nil && *f.Framework != d.Key.Framework()) ||
		(f.Category != nil && !slices.Contains(d.Categories, *f.Category)) ||
		!f.Query.MayFind(d.Vector) {
		return
	}
	f.keys, f.etags, f.folded = append(f.keys, d.Key.String()), append(f.etags, d.ETag), append(f.folded, d.Folded)
	f.heads, f.vectors = append(f.heads, d.Head), append(f.vectors, d.Vector)
	f.words = append(f.words, int32(min(d.Words, 1<<15-1))) //nolint:gosec // bounded
}

// restricted is the condition that the search admits a stored document.
func (f *finder) restricted(args *arguments) string {
	sql := `d.format >= ` + strconv.Itoa(search.Format)
	if f.Kind != nil {
		sql += ` AND d.kind = ` + args.add(*f.Kind)
	}
	if f.Framework != nil {
		sql += ` AND d.framework = ` + args.add(*f.Framework)
	}
	if f.Category != nil {
		sql += ` AND ` + args.add(*f.Category) + ` = ANY (d.categories)`
	}
	return sql
}

// stored selects of the stored documents those that a condition holds for.
func (f *finder) stored(args *arguments, columns, condition string) string {
	return `SELECT ` + columns + ` FROM search_documents d WHERE ` + f.restricted(args) + ` AND ` + condition
}

// pending likewise selects of those that are not stored.
func (f *finder) pending(args *arguments, columns, condition string) string {
	return `SELECT ` + columns + ` FROM (
		SELECT split_part(p.key, ':', 1) COLLATE "C" AS kind, split_part(p.key, ':', 2) COLLATE "C" AS framework,
			split_part(p.key, ':', 3) COLLATE "C" AS name, p.key COLLATE "C" AS key, p.etag, p.folded COLLATE "C" AS folded,
			p.words::smallint AS words, p.head::tsvector AS head, p.vector::tsvector AS vector
		FROM unnest(` + args.add(f.keys) + `::text[], ` + args.add(f.etags) + `::text[], ` + args.add(f.folded) + `::text[], ` +
		args.add(f.words) + `::integer[], ` + args.add(f.heads) + `::text[], ` + args.add(f.vectors) + `::text[])
			AS p (key, etag, folded, words, head, vector)
		OFFSET 0
	) d WHERE ` + condition
}

// all selects of both.
func (f *finder) all(args *arguments, columns, condition string) string {
	sql := f.stored(args, columns, condition)
	if len(f.keys) > 0 {
		sql += ` UNION ALL ` + f.pending(args, columns, condition)
	}
	return sql
}

// matches is the condition that a document is found.
func (f *finder) matches(args *arguments) string {
	return `d.vector @@ ` + args.add(f.Query.Text) + `::tsquery`
}

// headed is the condition that a document has a score by its head alone.
func (f *finder) headed(args *arguments) string {
	headed := `d.head @@ ` + args.add(f.Query.Head) + `::tsquery`
	if f.Query.Head == f.Query.Any {
		return headed
	}
	return `(` + headed + ` AND (d.head @@ ` + args.add(f.Query.Any) + `::tsquery OR d.folded = ` + args.add(f.Query.Folded) + `))`
}

// ranked returns the first of those that have a score: of all that is found or, in
// brief, by their heads.
//
// A name that is just what was asked for is worth 10, 20 where it differs in capitals
// alone, and 30 where it does not differ at all; one with all the words in it 2.5 to 5,
// by how much else it has; all of them in name, title and categories 2 more; and what
// stands in all the texts less than 1.
func (f *finder) ranked(ctx context.Context, u *txn.Unit) ([]Found, error) {
	var args arguments
	asked := int32(0)
	for _, size := range f.Query.Sizes {
		asked += size
	}
	// sum adds up the sizes of those words that stand in a head.
	sum := func(words []string) string {
		sizes := make([]string, len(words))
		for i, word := range words {
			sizes[i] = `CASE WHEN d.head @@ ` + args.add(word) + `::tsquery THEN ` + args.add(int64(f.Query.Sizes[i])) + `::integer ELSE 0 END`
		}
		return `(` + strings.Join(sizes, ` + `) + `)::float8`
	}
	columns := `d.key, d.kind, d.framework, d.name, d.etag, d.folded, d.words, d.vector, ` +
		sum(f.Query.Names) + ` AS named, ` + sum(f.Query.Words) + ` AS titled, ` + args.add(float64(asked)) + `::float8 AS asked`
	score := `5 * power(d.named / d.asked, 2) * (0.5 + 0.5 * least(1, d.named / greatest(d.words, 1))) + 2 * power(d.titled / d.asked, 2)`
	just := ``
	if f.Query.Folded != "" {
		just = ` WHEN d.folded = ` + args.add(f.Query.Folded) + ` THEN 10`
	}
	typed := args.add(f.Query.Name) + `::text COLLATE "C"`
	score = `CASE WHEN d.name = ` + typed + ` THEN 30 WHEN lower(d.name) = lower(` + typed + `) THEN 20` + just + ` ELSE 0 END + (` + score + `)`
	condition, fromFound, much := f.matches(&args), ` FROM found d OFFSET 0`, ``
	if f.brief {
		condition = f.headed(&args) + ` AND ` + condition
	} else {
		score += ` + ts_rank('{0.05, 0.1, 0.4, 1}', d.vector, ` + args.add(f.Query.Text) + `::tsquery, 1 | 32)`
	}
	found := f.all(&args, `d.key, d.kind, d.framework, d.name, d.etag, d.folded, d.words, d.head, d.vector`, condition)
	if !f.brief && f.After == nil {
		// One look finds whether it is too much and, mostly, ranks it.
		found += fmt.Sprintf(` LIMIT %d`, maxRanked+1)
		const count = `(SELECT count(*) FROM found)`
		fromFound = fmt.Sprintf(` FROM found d WHERE %s <= %d OFFSET 0`, count, maxRanked)
		much = fmt.Sprintf(` UNION ALL SELECT '', '', '', '', '', 0 WHERE %s > %d`, count, maxRanked)
	}
	from := `WITH found AS (` + found + `)
		SELECT d.key, d.kind, d.framework, d.name, d.etag, (` + score + `)::float8 AS score FROM (SELECT ` + columns + fromFound + `) d` + much
	if f.After != nil {
		last := args.add(f.After.Score) + `::float8`
		from = `SELECT ` + candidate + ` FROM (` + from + `) d WHERE d.score < ` + last + ` OR d.score = ` + last + ` AND d.key > ` + args.add(f.After.Key)
	}
	return f.first(ctx, u, from, `d.score DESC, d.key`, f.Limit, args)
}

// unranked returns the first of those that, in brief, have no score. Each is found in
// the order of the primary key: name, framework, kind.
func (f *finder) unranked(ctx context.Context, u *txn.Unit, limit int) ([]Found, error) {
	found, err := f.walk(ctx, u, limit)
	if err == nil && len(found) < limit {
		// They are far between. OFFSET keeps the database from walking on.
		var args arguments
		sql := f.stored(&args, unrankedColumns, f.behind(&args)+` AND `+f.unheaded(&args)) + ` OFFSET 0`
		found, err = f.first(ctx, u, sql, inNames, limit, args)
	}
	if err != nil || len(f.keys) == 0 {
		return found, err
	}
	var args arguments
	sql := f.pending(&args, unrankedColumns, f.behind(&args)+` AND `+f.unheaded(&args))
	pending, err := f.first(ctx, u, sql, inNames, limit, args)
	found = append(found, pending...)
	slices.SortFunc(found, func(a, b Found) int {
		return cmp.Or(strings.Compare(a.Key.Name(), b.Key.Name()), strings.Compare(a.Key.Framework(), b.Key.Framework()),
			strings.Compare(string(a.Key.Kind()), string(b.Key.Kind())))
	})
	return found[:min(limit, len(found))], err
}

const (
	// candidate are the columns of what may be a result.
	candidate       = `d.key, d.kind, d.framework, d.name, d.etag, d.score`
	unrankedColumns = `d.key, d.kind, d.framework, d.name, d.etag, 0::float8 AS score`
	inNames         = `d.name, d.framework, d.kind`
)

func (f *finder) unheaded(args *arguments) string {
	return `NOT ` + f.headed(args) + ` AND ` + f.matches(args)
}

// behind is the condition that a document without a score comes behind the
// place where the results begin.
func (f *finder) behind(args *arguments) string {
	if !f.behindScores() {
		return `true`
	}
	return `(` + inNames + `) > (` + args.add(f.after.Name()) + `, ` + args.add(f.after.Framework()) + `, ` + args.add(string(f.after.Kind())) + `)`
}

// walk returns the first of the stored documents without a score that maxWalked hold,
// in their order: all that is asked for where the words are common.
func (f *finder) walk(ctx context.Context, u *txn.Unit, limit int) ([]Found, error) {
	var args arguments
	// Nothing but the order restricts what is read, so that the bound is one.
	sql := `SELECT d.key, d.kind, d.framework, d.name, d.etag, d.format, d.folded, d.categories, d.head, d.vector FROM search_documents d WHERE ` + f.behind(&args) + ` ORDER BY ` + inNames + ` LIMIT ` + strconv.Itoa(maxWalked)
	sql = `SELECT d.key, 0::float8, true FROM (` + sql + `) d CROSS JOIN LATERAL (` + liveSQL + `) live
		WHERE ` + f.restricted(&args) + ` AND ` + f.unheaded(&args) + ` ORDER BY ` + inNames + ` LIMIT ` + args.add(int64(limit))
	found, _, err := f.read(ctx, u, sql, args)
	return found, err
}

// liveSQL selects the item of a document, if that is what the document was made of.
const liveSQL = `SELECT true AS live FROM components t
	WHERE d.kind = 'component' AND t.name = d.name AND t.framework = d.framework AND t.etag = d.etag AND ` + alive + `
	UNION ALL
	SELECT true FROM blocks t
	WHERE d.kind = 'block' AND t.name = d.name AND t.framework = d.framework AND t.etag = d.etag AND ` + alive

// first returns the first, in an order, of the documents of from whose items there are.
func (f *finder) first(ctx context.Context, u *txn.Unit, from, order string, limit int, args arguments) ([]Found, error) {
	n := int64(limit + spare)
	sql := `SELECT d.key, d.score, live.live IS NOT NULL
		FROM (SELECT ` + candidate + ` FROM (` + from + `) d ORDER BY ` + order + ` LIMIT ` + args.add(n) + `) d
		LEFT JOIN LATERAL (` + liveSQL + `) live ON true ORDER BY ` + order
	for ; ; n *= 16 {
		args[len(args)-1] = n
		found, seen, err := f.read(ctx, u, sql, args)
		if err != nil || len(found) >= limit || seen < n {
			return found[:min(limit, len(found))], err
		}
	}
}

// read runs a statement that selects keys, scores and whether the items are there. It
// returns those that are, and how many it saw. An empty key says that it is too much.
func (f *finder) read(ctx context.Context, u *txn.Unit, sql string, args arguments) (found []Found, seen int64, err error) {
	err = u.Select(ctx, func(rows pgx.Rows) error {
		found, seen, f.tooMuch = nil, 0, false
		of, live := Found{Place: Place{Brief: f.brief}}, false
		_, err := pgx.ForEachRow(rows, []any{&of.Place.Key, &of.Score, &live}, func() (err error) {
			seen++
			if of.Place.Key == "" {
				f.tooMuch = true
			} else if live {
				of.Key, err = item.ParseKey(of.Place.Key)
				found = append(found, of)
			}
			return err
		})
		return err
	}, sql, args...)
	return found, seen, err
}

// DeleteOrphans deletes those of the next limit documents behind a place whose items
// are no more, and returns the place that it came to; nil at the end.
func DeleteOrphans(ctx context.Context, u *txn.Unit, after []string, limit int) (next []string, err error) {
	if after == nil {
		after = []string{"", "", ""}
	}
	type place struct{ Name, Framework, Kind string }
	u.Queue(inOrder)
	places, err := query(ctx, u, pgx.RowToStructByPos[place],
		`SELECT d.name, d.framework, d.kind FROM search_documents d WHERE (d.name, d.framework, d.kind) > ($1, $2, $3)
			ORDER BY d.name, d.framework, d.kind LIMIT $4`, after[0], after[1], after[2], limit)
	if err != nil || len(places) == 0 {
		return nil, err
	}
	last := places[len(places)-1]
	_, err = u.Exec(ctx, `DELETE FROM search_documents d
		WHERE (d.name, d.framework, d.kind) > ($1, $2, $3) AND (d.name, d.framework, d.kind) <= ($4, $5, $6)
			AND NOT EXISTS (SELECT FROM components t WHERE d.kind = 'component' AND t.name = d.name AND t.framework = d.framework)
			AND NOT EXISTS (SELECT FROM blocks t WHERE d.kind = 'block' AND t.name = d.name AND t.framework = d.framework)`,
		after[0], after[1], after[2], last.Name, last.Framework, last.Kind)
	if len(places) < limit {
		return nil, err
	}
	return []string{last.Name, last.Framework, last.Kind}, err
}

// MissingDocuments returns those of the next limit components, or else blocks, behind
// a key that have no document, and the key that it came to; "" at the end.
func MissingDocuments(ctx context.Context, u *txn.Unit, kind item.Kind, after string, limit int) (missing []Pending, next string, err error) {
	t := texts[slices.IndexFunc(texts, func(t *textTable) bool { return t.kind == kind })]
	type row struct {
		Key     string
		Bytes   int64
		Missing bool
	}
	u.Queue(inOrder)
	rows, err := query(ctx, u, pgx.RowToStructByPos[row],
		`SELECT t.key, `+t.size()+`, `+t.pendingCondition()+` FROM `+t.name+` t WHERE t.key > $1 ORDER BY t.key LIMIT $2`, after, limit)
	if err != nil {
		return nil, "", err
	}
	for _, r := range rows {
		if r.Missing {
			key, err := item.ParseKey(r.Key)
			if err != nil {
				return nil, "", err
			}
			missing = append(missing, Pending{Key: key, Bytes: r.Bytes})
		}
	}
	if len(rows) == limit {
		next = rows[len(rows)-1].Key
	}
	return missing, next, nil
}

// ClaimComparison tells whether it is time to hold all items and documents against
// each other, and for this unit's server to do it: for so many seconds nobody else will.
func ClaimComparison(ctx context.Context, u *txn.Unit, seconds float64) (bool, error) {
	tag, err := u.Exec(ctx, `UPDATE search_state SET compare_at = clock_timestamp() + $1 * interval '1 second'
		WHERE id = 1 AND compare_at <= clock_timestamp()`, seconds)
	return tag.RowsAffected() == 1, err
}

// SetComparison puts off the next comparison.
func SetComparison(u *txn.Unit, seconds float64) {
	u.Queue(`UPDATE search_state SET compare_at = clock_timestamp() + $1 * interval '1 second' WHERE id = 1`, seconds)
}
