package repo

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/txn"
)

// LockKeys keeps everybody else from changing the items of keys, and from creating
// those that there are not, until the unit ends. It returns the ETags of those that
// there are.
func LockKeys(ctx context.Context, u *txn.Unit, keys []item.Key) (map[item.Key]string, error) {
	groups := make(map[*table][]item.Key, len(tables))
	for _, key := range keys {
		t := tableOf(key.Kind())
		groups[t] = append(groups[t], key)
	}
	etags := make(map[item.Key]string, len(keys))
	places := make(map[*table][]string, len(tables))
	for _, t := range tables {
		group := groups[t]
		slices.SortFunc(group, func(a, b item.Key) int { return cmp.Compare(a.String(), b.String()) })
		// A statement that met a row of its own would fail.
		for rest := slices.Compact(group); len(rest) > 0; {
			n := statementSize(len(rest))
			sql, args := t.lockStatement(rest[:n])
			u.Queue(sql, args...).Query(func(rows pgx.Rows) error {
				created, err := pgx.CollectRows(rows, pgx.RowTo[string])
				places[t] = append(places[t], created...)
				return err
			})
			rest = rest[n:]
		}
	}
	queueETags(u, keys, etags) // statements of their own: their snapshots are taken when the locks are held
	if err := u.Flush(ctx); err != nil {
		return nil, err
	}
	for _, t := range tables {
		if len(places[t]) > 0 {
			u.Queue(`DELETE FROM `+t.name+` t WHERE t.key = ANY($1)`, places[t])
		}
	}
	return etags, nil
}

// lockStatement returns the statement that locks keys, which are distinct and in
// order, with its arguments. It is an upsert that changes no row: ON CONFLICT locks
// each before it looks at its condition. Where there is no row to lock it creates one
// and returns its key; whoever else wants to create it waits for this transaction,
// even when that has deleted the row again. As the row has expired, it is no item to
// anybody, in this transaction either.
func (t *table) lockStatement(keys []item.Key) (sql string, args []any) {
	var b strings.Builder
	b.WriteString(`INSERT INTO ` + t.name + ` AS t (` + strings.Join(t.identity, ", ") + `, ` + t.content +
		`, bytes, etag, created_at, updated_at, cached_at, accessed_at, expires_at) VALUES `)
	for i, key := range keys {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('(')
		for _, arg := range t.identityArgs(key) {
			args = append(args, arg)
			fmt.Fprintf(&b, "$%d, ", len(args))
		}
		b.WriteString(`'[]', 0, '', now(), now(), now(), now(), '-infinity')`)
	}
	b.WriteString(` ON CONFLICT (` + strings.Join(t.identity, ", ") + `) DO UPDATE SET etag = t.etag WHERE false RETURNING t.key`)
	return b.String(), args
}

// Touched is an item that is to have a time to live from now on: TTL, or its own
// anew where that is nil.
type Touched struct {
	Key item.Key
	TTL *item.TTL
}

// TouchMany is Touch of many, whose keys differ from each other, and returns the
// metadata of those that there are by key.
func TouchMany(ctx context.Context, u *txn.Unit, touched []Touched) (map[item.Key]item.Metadata, error) {
	type columns struct {
		keys []string
		ttls []*int64
	}
	groups := make(map[*table]*columns, len(tables))
	for _, touch := range touched {
		t := tableOf(touch.Key.Kind())
		if groups[t] == nil {
			groups[t] = new(columns)
		}
		groups[t].keys = append(groups[t].keys, touch.Key.String())
		groups[t].ttls = append(groups[t].ttls, (*int64)(touch.TTL))
	}
	all := make(map[item.Key]item.Metadata, len(touched))
	u.Queue(inOrder)
	for _, t := range tables {
		c := groups[t]
		if c == nil {
			continue
		}
		const next = `coalesce(touch.ttl, t.ttl_seconds)`
		u.Queue(`UPDATE `+t.name+` t SET ttl_seconds = `+next+`, cached_at = now(),
				expires_at = now() + nullif(`+next+`, 0) * interval '1 second'
			FROM unnest($1::text[], $2::bigint[]) AS touch (key, ttl)
			WHERE t.key = touch.key AND `+alive+` RETURNING `+metadataColumns, c.keys, c.ttls).
			Query(func(rows pgx.Rows) error {
				list, err := pgx.CollectRows(rows, scanMetadata)
				for i := range list {
					all[list[i].Key] = list[i]
				}
				return err
			})
	}
	err := u.Flush(ctx) // runs the functions above
	return all, err
}
