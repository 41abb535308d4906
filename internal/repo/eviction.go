package repo

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/txn"
)

// sizeLock is the key of the advisory lock under which the size of the store is
// decided. It is ours by nothing but its odd value.
const sizeLock int64 = 0x53746f636b53697a // "StockSiz"

// Size is what a unit that wants to add to the store has to know.
type Size struct {
	Bytes int64 // charged to all items, those of units in flight not included
	// Writers is how many transactions there can be at once on this database.
	Writers int64
}

// LockSize reads the size of the store into size, with the unit's next statement,
// and keeps it from being decided otherwise until the unit ends. With alone, nobody
// else holds the lock; without, others who also ask without may. It comes before any
// other lock of the unit.
func LockSize(u *txn.Unit, alone bool, size *Size) {
	if alone {
		u.Queue(`SELECT pg_advisory_xact_lock($1)`, sizeLock)
	} else {
		ShareSize(u)
	}
	// A statement of its own: its snapshot must be taken when the lock is held.
	u.Queue(readSize).QueryRow(func(row pgx.Row) error { return row.Scan(&size.Bytes, &size.Writers) })
}

// ShareSize is LockSize without alone, for who does not want to know the size.
func ShareSize(u *txn.Unit) { u.Queue(`SELECT pg_advisory_xact_lock_shared($1)`, sizeLock) }

var readSize = `SELECT ` + sumOfSizes(`component_bytes + block_bytes + entry_bytes`) + `, current_setting('max_connections')::bigint
	FROM usage_counters`

// ReadSize reads the size of the store as it is now.
func ReadSize(ctx context.Context, u *txn.Unit) (Size, error) {
	return queryOne(ctx, u, pgx.RowToStructByPos[Size], readSize)
}

// Victim is an item that may be evicted.
type Victim struct {
	Key      item.Key
	Bytes    int64
	Accessed time.Time
}

// LeastRecentlyUsed returns at most limit items of all kinds, those first whose
// last access is the longest ago, without those of keep.
func LeastRecentlyUsed(ctx context.Context, u *txn.Unit, keep []item.Key, limit int) ([]Victim, error) {
	kept := make([]string, len(keep))
	for i, key := range keep {
		kept[i] = key.String()
	}
	parts := make([]string, len(tables))
	for i, t := range tables {
		// Those of keep are left out only outside, so that each part ends after a
		// bounded number of rows of its index.
		parts[i] = `(SELECT t.key, t.bytes, t.accessed_at FROM ` + t.name + ` t ORDER BY t.accessed_at LIMIT $2)`
	}
	return query(ctx, u, func(row pgx.CollectableRow) (Victim, error) {
		var v Victim
		var key string
		if err := row.Scan(&key, &v.Bytes, &v.Accessed); err != nil {
			return Victim{}, err
		}
		var err error
		v.Key, err = item.ParseKey(key)
		return v, err
	}, `SELECT key, bytes, accessed_at FROM (`+strings.Join(parts, ` UNION ALL `)+`) AS oldest
		WHERE key <> ALL($1) ORDER BY accessed_at, key LIMIT $3`, kept, limit+len(kept), limit)
}

// Evict deletes those of victims that nobody has used since they were chosen, and
// returns their keys, with the change of the usage, which the caller owes to
// AddUsage.
func Evict(ctx context.Context, u *txn.Unit, victims []Victim) ([]item.Key, item.Usage, error) {
	keys := make([]item.Key, len(victims))
	latest := make(map[*table]time.Time, len(tables))
	for i, v := range victims {
		keys[i] = v.Key
		if t := tableOf(v.Key.Kind()); v.Accessed.After(latest[t]) {
			latest[t] = v.Accessed
		}
	}
	groups := byTable(keys)
	u.Queue(inOrder)
	var evicted []item.Key
	var usage item.Usage
	for _, t := range tables {
		if len(groups[t]) == 0 {
			continue
		}
		rows, err := query(ctx, u, pgx.RowToStructByPos[deletedRow],
			`DELETE FROM `+t.name+` t WHERE t.key = ANY($1) AND (t.accessed_at <= $2) IS TRUE RETURNING t.key, t.bytes, `+alive,
			groups[t], latest[t])
		if err != nil {
			return nil, item.Usage{}, err
		}
		for _, row := range rows {
			key, err := item.ParseKey(row.Key)
			if err != nil {
				return nil, item.Usage{}, err
			}
			evicted = append(evicted, key)
			usage = usage.Plus(item.UsageOf(t.kind, -1, -row.Bytes))
		}
	}
	return evicted, usage, nil
}

// Expired returns what is stored but has expired, so that counts can leave it out.
func Expired(ctx context.Context, u *txn.Unit) (item.Usage, error) {
	var expired item.Usage
	for _, t := range tables {
		row, err := queryOne(ctx, u, pgx.RowToStructByPos[sumRow],
			`SELECT count(*), `+sumOfSizes("t.bytes")+` FROM `+t.name+` t WHERE t.expires_at <= now()`)
		if err != nil {
			return item.Usage{}, err
		}
		expired = expired.Plus(item.UsageOf(t.kind, row.Items, row.Bytes))
	}
	return expired, nil
}

type sumRow struct{ Items, Bytes int64 }
