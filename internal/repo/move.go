package repo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/txn"
)

// Now is the database's clock at the beginning of the unit, by which what expires
// later is alive in it.
func Now(ctx context.Context, u *txn.Unit) (time.Time, error) {
	return queryOne(ctx, u, pgx.RowTo[time.Time], `SELECT now()`)
}

// ReadAll calls read for every item that there is: by kind, in the order of tables,
// and each kind in the order of its keys. In a unit that reads one snapshot it is
// that. It keeps no more than one item in memory.
func ReadAll(ctx context.Context, u *txn.Unit, read func(item.Record) error) error {
	// By the index of keys, however many there are: to sort them all first would
	// write them all to the disk.
	u.Queue(`SELECT set_config('enable_sort', 'off', true)`)
	for _, t := range tables {
		err := u.Select(ctx, func(rows pgx.Rows) error {
			for rows.Next() {
				record, err := t.scanRecord(rows)
				if err == nil {
					err = read(record)
				}
				if err != nil {
					return err
				}
			}
			return rows.Err()
		}, `SELECT `+metadataColumns+`, t.cached_at`+prefixed(t.value)+` FROM `+t.name+` t WHERE `+alive+` ORDER BY t.key`)
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *table) scanRecord(row pgx.Rows) (item.Record, error) {
	var r metadataRow
	var cached time.Time
	values, encode := t.scanValue()
	if err := row.Scan(append(append(r.dests(), &cached), values...)...); err != nil {
		return item.Record{}, err
	}
	metadata, err := r.finish()
	if err != nil {
		return item.Record{}, err
	}
	record := recordOf(metadata)
	record.Cached, record.JSON = cached.UTC(), encode(metadata.Key)
	return record, nil
}

func recordOf(m item.Metadata) item.Record {
	return item.Record{
		Value: item.Value{Key: m.Key, ETag: m.ETag, Bytes: m.Bytes},
		TTL:   m.TTL, Expires: m.Expires, Created: m.Created, Updated: m.Updated,
		Accessed: m.Accessed, AccessCount: m.AccessCount, Version: m.Version,
	}
}

// Records returns what is known of the items of keys that there are, without their
// values and Cached.
func Records(ctx context.Context, u *txn.Unit, keys []item.Key) (map[item.Key]item.Record, error) {
	groups := byTable(keys)
	records := make(map[item.Key]item.Record, len(keys))
	for _, t := range tables {
		if len(groups[t]) == 0 {
			continue
		}
		found, err := query(ctx, u, scanMetadata,
			`SELECT `+metadataColumns+` FROM `+t.name+` t WHERE t.key = ANY($1) AND `+alive, groups[t])
		if err != nil {
			return nil, err
		}
		for _, metadata := range found {
			records[metadata.Key] = recordOf(metadata)
		}
	}
	return records, nil
}

// Restore makes rows of records, whose keys differ from each other, just as they
// are: with their times and counts. An item that stands under a key is replaced
// where replace says so, and otherwise left as it is, as one that has expired never
// is. It returns the keys of the rows that have changed by that, and by how much
// the usage has, which the caller owes to AddUsage.
func Restore(ctx context.Context, u *txn.Unit, records []item.Record, replace bool) (keys []item.Key, usage item.Usage, err error) {
	groups := make(map[*table][]item.Record, len(tables))
	for i := range records {
		t := tableOf(records[i].Value.Key.Kind())
		groups[t] = append(groups[t], records[i])
	}
	for _, t := range tables {
		group := groups[t]
		slices.SortFunc(group, func(a, b item.Record) int {
			return strings.Compare(a.Value.Key.String(), b.Value.Key.String())
		})
		for len(group) > 0 {
			n := statementSize(len(group))
			sql, args := t.restoreStatement(group[:n], replace)
			group = group[n:]
			u.Queue(sql, args...).Query(func(rows pgx.Rows) error {
				var before *int64
				var bytes int64
				var text string
				_, err := pgx.ForEachRow(rows, []any{&before, &bytes, &text}, func() error {
					key, err := item.ParseKey(text)
					keys = append(keys, key)
					usage = usage.Plus(t.replaced(before, bytes))
					return err
				})
				return err
			})
		}
	}
	err = u.Flush(ctx) // runs the functions above
	return keys, usage, err
}

// restoredColumns are those that any other write sets itself.
var restoredColumns = []string{"created_at", "updated_at", "cached_at", "accessed_at", "access_count", "version", "expires_at"}

func (t *table) restoreStatement(records []item.Record, replace bool) (string, []any) {
	own := slices.Concat([]string{"bytes", "etag", "ttl_seconds"}, restoredColumns)
	columns := slices.Concat(t.identity, t.value, own)
	args := make([]any, 0, len(records)*len(columns))
	rows := make([]string, len(records))
	for i := range records {
		r := &records[i]
		parameters := make([]string, len(columns))
		for column := range columns {
			parameters[column] = fmt.Sprintf("$%d", len(args)+column+1)
		}
		rows[i] = "(" + strings.Join(parameters, ", ") + ")"
		args = append(args, t.identityArgs(r.Value.Key)...)
		args = append(args, t.valueArgs(&r.Value)...)
		args = append(args, r.Value.Bytes, r.Value.ETag, int64(r.TTL),
			r.Created, r.Updated, r.Cached, r.Accessed, r.AccessCount, r.Version, optionalTime(r.Expires))
	}
	set := []string{"prev_bytes = t.bytes"}
	for _, column := range slices.Concat(t.value, own) {
		set = append(set, column+" = excluded."+column)
	}
	// The value itself is compared by its ETag. What is there already is not written
	// again, so that a restore can be repeated at little cost.
	condition := `t.expires_at <= now()`
	if replace {
		condition = `(t.` + strings.Join(own, `, t.`) + `) IS DISTINCT FROM (excluded.` + strings.Join(own, `, excluded.`) + `)`
	}
	return `INSERT INTO ` + t.name + ` AS t (` + strings.Join(columns, ", ") + `) VALUES ` + strings.Join(rows, ", ") +
		` ON CONFLICT (` + strings.Join(t.identity, ", ") + `) DO UPDATE SET ` + strings.Join(set, ", ") +
		` WHERE ` + condition + ` RETURNING t.prev_bytes, t.bytes, t.key`, args
}

// optionalTime is nil for the zero time.
func optionalTime(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	return &at
}
