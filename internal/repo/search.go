package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/search"
	"github.com/stockroom/stockroom/internal/txn"
)

// Documents for search are made after the writes of their items, never by them. An
// item is pending while no document has its ETag. To find what is pending, a write
// costs nothing: it sets accessed_at to its now() anyway, which has an index, and
// only ever later accesses move it on.
//
// A document is written under the documents lock alone, in a unit that reads the
// item once it holds that: so no older text comes after a newer one.

// documentsLock is the key of the advisory lock under which documents are made. It
// is ours by nothing but its odd value.
const documentsLock int64 = 0x53746f636b536561 // "StockSea"

// TryDocumentsLock tells whether this unit alone may make documents, until it ends.
func TryDocumentsLock(ctx context.Context, u *txn.Unit) (bool, error) {
	return queryOne(ctx, u, pgx.RowTo[bool], `SELECT pg_try_advisory_xact_lock($1)`, documentsLock)
}

// ErrDocumentsLocked says that others were making documents all the time.
var ErrDocumentsLocked = errors.New("repo: others are making documents")

// LockDocuments is TryDocumentsLock, but waits, at most so long; then it returns
// ErrDocumentsLocked.
func LockDocuments(ctx context.Context, u *txn.Unit, wait time.Duration) error {
	u.Queue(`SELECT set_config('lock_timeout', $1, true)`, strconv.FormatInt(max(1, wait.Milliseconds()), 10))
	_, err := u.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, documentsLock)
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "55P03" {
		return ErrDocumentsLocked
	}
	return err
}

// texts are the tables that have documents, with the columns that these are made of.
var texts = []*textTable{
	{
		table:   components,
		columns: []string{"source_code", "demo_code", "metadata", "dependencies", "registry_dependencies"},
		scan: func(text *Text) []any {
			c := new(item.Component)
			text.Component = c
			return []any{&c.SourceCode, &c.DemoCode, &c.Metadata, &c.Dependencies, &c.RegistryDependencies}
		},
	},
	{
		table:   blocks,
		columns: []string{"category", "description", "files", "structure", "dependencies", "components_used"},
		scan: func(text *Text) []any {
			b := new(item.Block)
			text.Block = b
			return []any{&b.Category, &b.Description, &b.Files, &b.Structure, &b.Dependencies, &b.ComponentsUsed}
		},
	},
}

type textTable struct {
	*table
	columns []string
	scan    func(*Text) []any
}

// Text is what of an item can be searched.
type Text struct {
	Key       item.Key
	ETag      string
	Component *item.Component // or
	Block     *item.Block
}

// size is how many bytes of text an item has. What it is charged may be less, or more.
func (t *textTable) size() string {
	sizes := make([]string, len(t.columns))
	for i, column := range t.columns {
		sizes[i] = `coalesce(octet_length(t.` + column + `), 0)::bigint`
	}
	return `(` + strings.Join(sizes, ` + `) + `)`
}

// onlyByItself at the end of an EXISTS keeps PostgreSQL from making a join of it: without
// statistics, or with old ones, it would choose one that reads all of the other table for
// each row.
const onlyByItself = ` OFFSET 0`

// pendingCondition holds for items without a document.
func (t *textTable) pendingCondition() string {
	return fmt.Sprintf(`NOT EXISTS (SELECT FROM search_documents d WHERE d.name = t.name AND d.framework = t.framework
		AND d.kind = '%s' AND d.etag = t.etag AND d.format >= %d`+onlyByItself+`)`, t.kind, search.Format)
}

// progressSQL selects how far documents are made by these rules: not at all, where that
// was said of older ones.
var progressSQL = fmt.Sprintf(`SELECT CASE WHEN s.format >= %[1]d THEN s.complete ELSE 'epoch' END AS complete,
	CASE WHEN s.format >= %[1]d THEN s.reached ELSE 'epoch' END AS reached FROM search_state s WHERE s.id = 1`, search.Format)

// Pending is an item whose document is still to be made.
type Pending struct {
	Key      item.Key
	Bytes    int64
	Accessed time.Time
}

// PendingDocuments returns at most limit items that have no document: with latest,
// those last accessed and not expired, else those first accessed, expired or not.
func PendingDocuments(ctx context.Context, u *txn.Unit, latest bool, limit int) ([]Pending, error) {
	condition, order := `true`, `accessed_at`
	if latest {
		condition, order = alive, `accessed_at DESC`
	}
	parts := make([]string, len(texts))
	for i, t := range texts {
		parts[i] = `(SELECT t.key, ` + t.size() + ` AS bytes, t.accessed_at FROM ` + t.name + ` t
			WHERE t.accessed_at >= (SELECT s.reached FROM (` + progressSQL + `) s)
				AND t.updated_at >= (SELECT s.complete FROM (` + progressSQL + `) s)
				AND ` + condition + ` AND ` + t.pendingCondition() + ` ORDER BY t.` + order + ` LIMIT $1)`
	}
	u.Queue(inOrder)
	return query(ctx, u, func(row pgx.CollectableRow) (p Pending, err error) {
		var key string
		if err := row.Scan(&key, &p.Bytes, &p.Accessed); err != nil {
			return p, err
		}
		p.Key, err = item.ParseKey(key)
		return p, err
	}, strings.Join(parts, ` UNION ALL `)+` ORDER BY `+order+` LIMIT $1`, limit)
}

// Texts reads the texts of items, each cut to so many characters; 0: whole.
func Texts(ctx context.Context, u *txn.Unit, keys []item.Key, chars int) ([]Text, error) {
	groups := byTable(keys)
	var all []Text
	u.Queue(inOrder)
	for _, t := range texts {
		if len(groups[t.table]) == 0 {
			continue
		}
		columns := prefixed(t.columns)
		if chars > 0 {
			columns = ""
			for _, column := range t.columns {
				columns += fmt.Sprintf(`, left(t.%s, %d)`, column, chars)
			}
		}
		found, err := query(ctx, u, func(row pgx.CollectableRow) (text Text, err error) {
			var key string
			if err := row.Scan(append([]any{&key, &text.ETag}, t.scan(&text)...)...); err != nil {
				return text, err
			}
			text.Key, err = item.ParseKey(key)
			return text, err
		}, `SELECT t.key, t.etag`+columns+` FROM `+t.name+` t WHERE t.key = ANY($1)`, groups[t.table])
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// Document is what an item is found by.
type Document struct {
	search.Document
	Key  item.Key
	ETag string
}

// NewDocument makes the document of a text.
func NewDocument(text Text) Document {
	return Document{search.NewDocument(text.Key, text.Component, text.Block), text.Key, text.ETag}
}

// documentRows are how many rows a statement may have; see statementSizes.
var documentRows = []int{16, 4, 1}

// PutDocuments stores documents, in a unit that has the documents lock.
func PutDocuments(ctx context.Context, u *txn.Unit, documents []Document) error {
	for len(documents) > 0 {
		n := documentRows[slices.IndexFunc(documentRows, func(n int) bool { return n <= len(documents) })]
		var rows strings.Builder
		args := make([]any, 0, n*documentColumns)
		for i, d := range documents[:n] {
			if i > 0 {
				rows.WriteString(", ")
			}
			p := i * documentColumns
			fmt.Fprintf(&rows, `($%d, $%d, $%d, $%d, %d, $%d, $%d, $%d::text[], $%d::text::tsvector, $%d::text::tsvector)`,
				p+1, p+2, p+3, p+4, search.Format, p+5, p+6, p+7, p+8, p+9)
			args = append(args, d.Key.Name(), d.Key.Framework(), string(d.Key.Kind()), d.ETag,
				min(d.Words, 1<<15-1), d.Folded, notNil(d.Categories), d.Head, d.Vector)
		}
		u.Queue(`INSERT INTO search_documents AS d (name, framework, kind, etag, format, words, folded, categories, head, vector)
			VALUES `+rows.String()+` ON CONFLICT (name, framework, kind) DO UPDATE SET etag = excluded.etag, format = excluded.format,
				words = excluded.words, folded = excluded.folded, categories = excluded.categories, head = excluded.head,
				vector = excluded.vector`, args...)
		documents = documents[n:]
	}
	return u.Flush(ctx)
}

const documentColumns = 9

func notNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// Progress is how far documents are made.
type Progress struct {
	Complete, Reached time.Time
	// Horizon is a time before which no unit that is under way has begun: what is
	// not seen by a statement behind this one was not written before it.
	Horizon time.Time
	// Others is how many sessions are at work at this moment.
	Others int64
	// Accessed tells whether anything has been accessed at Reached or later.
	Accessed bool
}

// horizonMargin is for sessions that have begun but do not show it yet, and for a
// clock that is set back a little.
const horizonMargin = 2 * time.Second

// ReadProgress reads how far documents are made.
func ReadProgress(ctx context.Context, u *txn.Unit) (Progress, error) {
	// A transaction counts by its now(), which is when its first statement came. One
	// that lasts for an hour is a backup or forgotten.
	return queryOne(ctx, u, pgx.RowToStructByPos[Progress],
		`SELECT s.complete, s.reached, least(a.began, clock_timestamp() - $1 * interval '1 second'), a.active,
			EXISTS (SELECT FROM components t WHERE t.accessed_at >= s.reached) OR EXISTS (SELECT FROM blocks t WHERE t.accessed_at >= s.reached)
		FROM (`+progressSQL+`) s, (
			SELECT min(least(a.xact_start, CASE a.state WHEN 'active' THEN a.query_start END))
					FILTER (WHERE a.xact_start IS NULL OR a.xact_start > clock_timestamp() - interval '1 hour') AS began,
				count(*) FILTER (WHERE a.state = 'active') AS active
			FROM pg_stat_activity a
			WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend') a`, horizonMargin.Seconds())
}

// SetProgress says how far documents are made when the unit ends.
func SetProgress(u *txn.Unit, p Progress) {
	u.Queue(`UPDATE search_state SET complete = $1, reached = $2, format = $3 WHERE id = 1`, p.Complete, p.Reached, search.Format)
}

// RewindProgress says, when the unit ends, that items of so long ago may have no
// document. The unit must have the documents lock, so that nobody who has read how far
// documents are made has yet to say how far they are then.
func RewindProgress(u *txn.Unit, updated, accessed time.Time) {
	u.Queue(`UPDATE search_state SET complete = least(complete, $1), reached = least(reached, $2) WHERE id = 1`, updated, accessed)
}
