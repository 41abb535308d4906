package repo

import (
	"context"
	"fmt"
	"slices"

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

// maxRanked is how many documents are ranked by all their words. To rank more would
// take longer than it is worth.
const maxRanked = 1000

// Find returns the first items, in the order of their scores, then of their keys,
// that there are and that a search finds: by their documents, or by those of pending,
// which have just been made of items that have none yet.
func Find(ctx context.Context, u *txn.Unit, s Search, pending []Document) ([]Found, error) {
	// No sequential scan: the planner takes a common word for a reason to read all,
	// and does not know what it costs to fetch each vector. What a common word finds is
	// kept in memory, and compiled it would be found later.
	u.Queue(`SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'on', true),
		set_config('work_mem', '32MB', true), set_config('jit', 'off', true)`)
	var after Place
	ranking := 0 // as many as are found say
	if s.After != nil {
		after, ranking = *s.After, 1
		if after.Brief {
			ranking = 2
		}
	}
	var keys, etags, folded, heads, vectors []string
	var words []int32
	for i := range pending {
		d := &pending[i]
		if !s.admits(d) {
			continue
		}
		keys, etags, folded = append(keys, d.Key.String()), append(etags, d.ETag), append(folded, d.Folded)
		heads, vectors = append(heads, d.Head), append(vectors, d.Vector)
		words = append(words, int32(min(d.Words, 1<<15-1))) //nolint:gosec // bounded
	}
	return query(ctx, u, func(row pgx.CollectableRow) (f Found, err error) {
		if err := row.Scan(&f.Place.Key, &f.Score, &f.Brief); err != nil {
			return f, err
		}
		f.Key, err = item.ParseKey(f.Place.Key)
		return f, err
	}, findSQL, s.Query.Text, s.Kind, s.Framework, s.Category,
		keys, etags, folded, words, heads, vectors,
		s.Query.Any, s.Query.Words, s.Query.Names, s.Query.Sizes, s.Query.Folded,
		ranking, s.After != nil, after.Score, after.Key, s.Limit)
}

// admits tells whether a document passes the restrictions, and may have what is
// looked for.
func (s Search) admits(d *Document) bool {
	return (s.Kind == nil || *s.Kind == string(d.Key.Kind())) &&
		(s.Framework == nil || *s.Framework == d.Key.Framework()) &&
		(s.Category == nil || slices.Contains(d.Categories, *s.Category)) &&
		s.Query.MayFind(d.Vector)
}

// A name that is just what was asked for is worth 10; one with all the words in it
// 2.5 to 5, by how much else it has; all of them in name, title and categories 2
// more; and what stands in all the texts less than 1.
var findSQL = fmt.Sprintf(`
WITH found AS MATERIALIZED (
	SELECT d.kind, d.framework, d.name, d.key, d.etag, d.folded, d.words, d.head, d.vector
	FROM search_documents d
	WHERE d.vector @@ $1::text::tsquery AND d.format >= %[1]d AND ($2::text IS NULL OR d.kind = $2)
		AND ($3::text IS NULL OR d.framework = $3) AND ($4::text IS NULL OR $4 = ANY (d.categories))
	UNION ALL
	SELECT split_part(p.key, ':', 1), split_part(p.key, ':', 2), split_part(p.key, ':', 3), p.key, p.etag, p.folded,
		p.words::smallint, p.head::tsvector, p.vector::tsvector
	FROM unnest($5::text[], $6::text[], $7::text[], $8::integer[], $9::text[], $10::text[])
		AS p (key, etag, folded, words, head, vector)
	WHERE p.vector::tsvector @@ $1::text::tsquery
), ranking AS MATERIALIZED (
	SELECT CASE $16::integer WHEN 0 THEN (SELECT count(*) FROM found) > %[2]d ELSE $16 = 2 END AS brief
), ranked AS (
	SELECT f.key COLLATE "C" AS key, f.kind, f.framework COLLATE "C" AS framework, f.name COLLATE "C" AS name, f.etag, r.brief, (
		CASE WHEN f.folded COLLATE "C" = $15 COLLATE "C" THEN 10 ELSE 0 END
		+ CASE WHEN f.head @@ $11::text::tsquery THEN (
			SELECT 5 * power(w.named / w.asked, 2) * (0.5 + 0.5 * least(1, w.named / greatest(f.words, 1)))
				+ 2 * power(w.titled / w.asked, 2)
			FROM (
				SELECT sum(w.size)::float8 AS asked,
					coalesce(sum(w.size) FILTER (WHERE f.head @@ w.named::tsquery), 0)::float8 AS named,
					coalesce(sum(w.size) FILTER (WHERE f.head @@ w.titled::tsquery), 0)::float8 AS titled
				FROM unnest($12::text[], $13::text[], $14::integer[]) AS w (titled, named, size)
			) w
		) ELSE 0 END
		+ CASE WHEN r.brief THEN 0 ELSE ts_rank('{0.05, 0.1, 0.4, 1}', f.vector, $1::text::tsquery, 1 | 32) END
	)::float8 AS score
	FROM found f CROSS JOIN ranking r
)
SELECT r.key, r.score, r.brief
FROM (
	SELECT r.key, r.kind, r.framework, r.name, r.etag, r.brief, r.score FROM ranked r
	WHERE NOT $17::boolean OR r.score < $18::float8 OR r.score = $18::float8 AND r.key > $19::text
	ORDER BY r.score DESC, r.key
) r CROSS JOIN LATERAL (
	SELECT FROM components t
	WHERE r.kind = 'component' AND t.name = r.name AND t.framework = r.framework AND t.etag = r.etag AND %[3]s
	UNION ALL
	SELECT FROM blocks t
	WHERE r.kind = 'block' AND t.name = r.name AND t.framework = r.framework AND t.etag = r.etag AND %[3]s
) live
ORDER BY r.score DESC, r.key LIMIT $20`, search.Format, maxRanked, alive)

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
