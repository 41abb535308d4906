package repo

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/txn"
)

// Write is one item to be stored.
type Write struct {
	Value item.Value
	TTL   item.TTL
	// CreateOnly leaves an item that stands under the key as it is.
	CreateOnly bool
	// Replaces, where it is not "", is the ETag that the item must have which stands
	// under the key: any other is left as it is, and where there is none, none is
	// created.
	Replaces string
}

// Written is what became of a Write.
type Written struct {
	item.Metadata
	// Created says that there was no such item before, or only an expired one.
	Created bool
}

// Upsert stores writes, whose keys differ from each other, and returns what was
// written by key: a write that did not find what it must is missing there. It also
// returns by how much the usage has changed, which the caller owes to
// AddUsage.
func Upsert(ctx context.Context, u *txn.Unit, writes []Write) (map[item.Key]Written, item.Usage, error) {
	written := make(map[item.Key]Written, len(writes))
	usage, err := upsert(ctx, u, writes, false, func(w Written) { written[w.Key] = w })
	return written, usage, err
}

// UpsertMany is Upsert for callers who want to know no more than which items have
// been created.
func UpsertMany(ctx context.Context, u *txn.Unit, writes []Write) (created []item.Key, usage item.Usage, err error) {
	usage, err = upsert(ctx, u, writes, true, func(w Written) {
		if w.Created {
			created = append(created, w.Key)
		}
	})
	return created, usage, err
}

// upsert stores writes and calls done for each that was written. With brief, that
// has nothing but whether it is new, and then its key.
func upsert(ctx context.Context, u *txn.Unit, writes []Write, brief bool, done func(Written)) (usage item.Usage, err error) {
	groups := make(map[*table][]Write, len(tables))
	for _, w := range writes {
		t := tableOf(w.Value.Key.Kind())
		groups[t] = append(groups[t], w)
	}
	for _, t := range tables {
		group := groups[t]
		slices.SortFunc(group, func(a, b Write) int { return cmp.Compare(a.Value.Key.String(), b.Value.Key.String()) })
		for len(group) > 0 {
			n := statementRows(group)
			sql, args := t.upsertStatement(group[:n], brief)
			u.Queue(sql, args...).Query(func(rows pgx.Rows) error {
				if brief {
					return t.collectBrief(rows, done, &usage)
				}
				return t.collectWritten(rows, done, &usage)
			})
			group = group[n:]
		}
	}
	err = u.Flush(ctx) // runs the functions above
	return usage, err
}

// statementSizes are how many rows a statement may have: few, since each is prepared
// on each connection, but close enough to each other that a batch needs few statements,
// and one where it has a round number of items or is no larger than what is put at the
// same moment. They bound the parameters, of which PostgreSQL takes 65,535.
var statementSizes = []int{128, 100, 64, 50, 32, 24, 20, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1}

// statementRows says how many of the first writes go into one statement, all of
// one mode.
func statementRows(writes []Write) int {
	if writes[0].Replaces != "" {
		return 1
	}
	same := 1
	for same < len(writes) && writes[same].CreateOnly == writes[0].CreateOnly && writes[same].Replaces == "" {
		same++
	}
	return statementSize(same)
}

// statementSize says how many of so many rows go into one statement.
func statementSize(rows int) int {
	return statementSizes[slices.IndexFunc(statementSizes, func(n int) bool { return n <= rows })]
}

// upsertSQL is a table's upsert for any number of rows; its texts are made once.
type upsertSQL struct {
	once    sync.Once
	columns int    // parameters a row
	head    string // up to VALUES
	tail    string // behind the rows
	replace string // an update of one row, in place of all that
	texts   sync.Map
}

type upsertShape struct {
	rows       int
	createOnly bool
	brief      bool
}

// upsertStatement returns the statement that stores writes, with its arguments.
func (t *table) upsertStatement(writes []Write, brief bool) (string, []any) {
	t.upsert.once.Do(t.prepareUpsert)
	args := make([]any, 0, len(writes)*t.upsert.columns)
	for i := range writes {
		w := &writes[i]
		args = append(args, t.identityArgs(w.Value.Key)...)
		args = append(args, t.valueArgs(&w.Value)...)
		args = append(args, w.Value.Bytes, w.Value.ETag, int64(w.TTL))
	}
	if etag := writes[0].Replaces; etag != "" {
		return t.upsert.replace, append(args, etag)
	}
	shape := upsertShape{rows: len(writes), createOnly: writes[0].CreateOnly, brief: brief}
	if sql, ok := t.upsert.texts.Load(shape); ok {
		return sql.(string), args //nolint:errcheck // only strings are stored
	}
	sql := t.upsertText(shape)
	t.upsert.texts.Store(shape, sql)
	return sql, args
}

func (t *table) prepareUpsert() {
	params := slices.Concat(t.identity, t.value, []string{"bytes", "etag", "ttl_seconds"})
	t.upsert.columns = len(params)
	t.upsert.head = `INSERT INTO ` + t.name + ` AS t (` + strings.Join(params, ", ") +
		`, created_at, updated_at, cached_at, accessed_at, expires_at) VALUES `

	set := make([]string, 0, len(t.value))
	for _, column := range t.value {
		set = append(set, column+" = excluded."+column)
	}
	// An item that has expired is not there any more: what takes its row is a
	// first write. The clock is excluded.updated_at, the statement's own now().
	const expired = `t.expires_at <= excluded.updated_at`
	t.upsert.tail = ` ON CONFLICT (` + strings.Join(t.identity, ", ") + `) DO UPDATE SET ` + strings.Join(set, ", ") + `,
		prev_bytes = t.bytes, bytes = excluded.bytes, etag = excluded.etag, ttl_seconds = excluded.ttl_seconds,
		version = CASE WHEN ` + expired + ` THEN 1 ELSE t.version + 1 END,
		created_at = CASE WHEN ` + expired + ` THEN excluded.created_at ELSE t.created_at END,
		updated_at = excluded.updated_at, cached_at = excluded.cached_at, accessed_at = excluded.accessed_at,
		access_count = CASE WHEN ` + expired + ` THEN 1 ELSE t.access_count + 1 END,
		expires_at = excluded.expires_at`

	parameter := func(column string) string { return fmt.Sprintf("$%d", slices.Index(params, column)+1) }
	set = set[:0]
	for _, column := range slices.Concat(t.value, []string{"bytes", "etag", "ttl_seconds"}) {
		set = append(set, column+" = "+parameter(column))
	}
	t.upsert.replace = `UPDATE ` + t.name + ` t SET ` + strings.Join(set, ", ") + `, prev_bytes = t.bytes, version = t.version + 1,
		updated_at = now(), cached_at = now(), accessed_at = now(), access_count = t.access_count + 1,
		expires_at = now() + nullif(` + parameter("ttl_seconds") + `::bigint, 0) * interval '1 second'
		WHERE ` + t.where() + ` AND ` + alive + ` AND t.etag = ` + fmt.Sprintf("$%d", len(params)+1) + `
		RETURNING t.prev_bytes, ` + metadataColumns
}

func (t *table) upsertText(shape upsertShape) string {
	var b strings.Builder
	b.WriteString(t.upsert.head)
	for row := range shape.rows {
		if row > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('(')
		first := row*t.upsert.columns + 1
		for column := range t.upsert.columns {
			fmt.Fprintf(&b, "$%d, ", first+column)
		}
		fmt.Fprintf(&b, "now(), now(), now(), now(), now() + nullif($%d::bigint, 0) * interval '1 second')", first+t.upsert.columns-1)
	}
	b.WriteString(t.upsert.tail)
	if shape.createOnly {
		b.WriteString(` WHERE t.expires_at <= excluded.updated_at`)
	}
	if shape.brief {
		b.WriteString(` RETURNING t.prev_bytes, t.bytes, t.version, CASE t.version WHEN 1 THEN t.key END`)
	} else {
		b.WriteString(` RETURNING t.prev_bytes, ` + metadataColumns)
	}
	return b.String()
}

// collectWritten reads the rows of an upsert.
func (t *table) collectWritten(rows pgx.Rows, done func(Written), usage *item.Usage) error {
	for rows.Next() {
		var r metadataRow
		var before *int64
		if err := rows.Scan(append([]any{&before}, r.dests()...)...); err != nil {
			return err
		}
		metadata, err := r.finish()
		if err != nil {
			return err
		}
		done(Written{Metadata: metadata, Created: metadata.Version == 1})
		*usage = usage.Plus(t.replaced(before, metadata.Bytes))
	}
	return rows.Err()
}

// collectBrief likewise where that returns the least it can.
func (t *table) collectBrief(rows pgx.Rows, done func(Written), usage *item.Usage) error {
	var before *int64
	var bytes, version int64
	var key *string
	_, err := pgx.ForEachRow(rows, []any{&before, &bytes, &version, &key}, func() error {
		*usage = usage.Plus(t.replaced(before, bytes))
		w := Written{Created: version == 1}
		if key != nil {
			var err error
			if w.Key, err = item.ParseKey(*key); err != nil {
				return err
			}
		}
		done(w)
		return nil
	})
	return err
}

// replaced is the change of the usage by a row that was written; before is the size
// of the one that stood there, nil for none.
func (t *table) replaced(before *int64, bytes int64) item.Usage {
	if before == nil {
		return item.UsageOf(t.kind, 1, bytes)
	}
	return item.UsageOf(t.kind, 0, bytes-*before)
}

// Delete deletes the items of keys and returns those that there were. Rows of
// expired items go too, but count as not there. The second result is the change
// of the usage, which the caller owes to AddUsage.
func Delete(ctx context.Context, u *txn.Unit, keys []item.Key) ([]item.Key, item.Usage, error) {
	groups := byTable(keys)
	var deleted []item.Key
	var usage item.Usage
	// Rows are locked in the order of their keys, which is that of the index.
	u.Queue(inOrder)
	for _, t := range tables {
		if len(groups[t]) == 0 {
			continue
		}
		u.Queue(`DELETE FROM `+t.name+` t WHERE t.key = ANY($1) RETURNING t.key, t.bytes, `+alive, groups[t]).
			Query(func(rows pgx.Rows) error {
				var err error
				deleted, usage, err = t.collectDeleted(rows, deleted, usage)
				return err
			})
	}
	err := u.Flush(ctx) // runs the functions above
	return deleted, usage, err
}

// collectDeleted reads the rows of a delete and adds them to what was deleted.
func (t *table) collectDeleted(rows pgx.Rows, deleted []item.Key, usage item.Usage) ([]item.Key, item.Usage, error) {
	gone, err := pgx.CollectRows(rows, pgx.RowToStructByPos[deletedRow])
	if err != nil {
		return nil, item.Usage{}, err
	}
	for _, row := range gone {
		usage = usage.Plus(item.UsageOf(t.kind, -1, -row.Bytes))
		if !row.Alive {
			continue
		}
		key, err := item.ParseKey(row.Key)
		if err != nil {
			return nil, item.Usage{}, err
		}
		deleted = append(deleted, key)
	}
	return deleted, usage, nil
}

type deletedRow struct {
	Key   string
	Bytes int64
	Alive bool
}

// Touch gives an item ttl from now on, or its own TTL anew where ttl is nil, and
// returns its metadata. An item that there is not is item.ErrNotFound.
func Touch(ctx context.Context, u *txn.Unit, key item.Key, ttl *item.TTL) (item.Metadata, error) {
	t := tableOf(key.Kind())
	args := t.identityArgs(key)
	next := fmt.Sprintf("coalesce($%d::bigint, t.ttl_seconds)", len(args)+1)
	return queryOne(ctx, u, scanMetadata,
		`UPDATE `+t.name+` t SET ttl_seconds = `+next+`, cached_at = now(),
			expires_at = now() + nullif(`+next+`, 0) * interval '1 second'
			WHERE `+t.where()+` AND `+alive+` RETURNING `+metadataColumns,
		append(args, (*int64)(ttl))...)
}

// LockAll keeps everybody else from writing any item from the unit's next
// statement on until it ends, and waits for those who are writing. Reads go on.
func LockAll(u *txn.Unit) {
	for _, t := range tables {
		// EXCLUSIVE also waits for FOR UPDATE, so that nobody who holds a row's lock
		// can be waiting for this unit.
		u.Queue(`LOCK TABLE ` + t.name + ` IN EXCLUSIVE MODE`)
	}
}

// Clear deletes the items whose keys match pattern, after LockAll, and returns
// how many there were, with the change of the usage, which the caller owes to
// AddUsage or, where nothing is left, to ResetUsage.
func Clear(ctx context.Context, u *txn.Unit, pattern item.Pattern) (item.Counts, item.Usage, error) {
	var cleared, usage item.Usage
	bytes := `coalesce(sum(bytes), 0)::bigint`
	if pattern.MatchesAll() {
		bytes = sumOfSizes("bytes") // nobody owes it to anybody
	}
	for _, t := range tables {
		row, err := queryOne(ctx, u, pgx.RowToStructByPos[clearedRow],
			`WITH gone AS (DELETE FROM `+t.name+` t WHERE `+keyRange+` AND t.key LIKE $4 RETURNING t.bytes, `+alive+` AS alive)
			SELECT count(*), count(*) FILTER (WHERE alive), `+bytes+` FROM gone`,
			append(rangeArgs(pattern.Prefix(), ""), pattern.Like())...)
		if err != nil {
			return item.Counts{}, item.Usage{}, err
		}
		cleared = cleared.Plus(item.UsageOf(t.kind, row.Alive, 0))
		usage = usage.Plus(item.UsageOf(t.kind, -row.Rows, -row.Bytes))
	}
	return cleared.Items, usage, nil
}

type clearedRow struct{ Rows, Alive, Bytes int64 }
