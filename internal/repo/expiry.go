package repo

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/txn"
)

// sweepLock is the key of the advisory lock that keeps servers on one database
// from sweeping at the same time. It is ours by nothing but its odd value.
const sweepLock int64 = 0x53746f636b537770 // "StockSwp"

// TrySweepLock tells whether this unit alone may sweep, until it ends.
func TrySweepLock(ctx context.Context, u *txn.Unit) (bool, error) {
	return queryOne(ctx, u, pgx.RowTo[bool], `SELECT pg_try_advisory_xact_lock($1)`, sweepLock)
}

// DeleteExpired deletes at most limit expired items of each kind, those that
// expired first, and returns how many, with the change of the usage, which the
// caller owes to AddUsage.
func DeleteExpired(ctx context.Context, u *txn.Unit, limit int) (int, item.Usage, error) {
	var usage item.Usage
	deleted := 0
	for _, t := range tables {
		keys, err := query(ctx, u, pgx.RowTo[string],
			`SELECT t.key FROM `+t.name+` t WHERE t.expires_at <= now() ORDER BY t.expires_at LIMIT $1`, limit)
		if err != nil {
			return 0, item.Usage{}, err
		}
		if len(keys) == 0 {
			continue
		}
		u.Queue(inOrder)
		slices.Sort(keys)
		// The condition again: the item may have been written anew in between. IS TRUE
		// keeps its index, which has another order, out of it.
		sizes, err := query(ctx, u, pgx.RowTo[int64],
			`DELETE FROM `+t.name+` t WHERE t.key = ANY($1) AND (t.expires_at <= now()) IS TRUE RETURNING t.bytes`, keys)
		if err != nil {
			return 0, item.Usage{}, err
		}
		deleted += len(sizes)
		for _, size := range sizes {
			usage = usage.Plus(item.UsageOf(t.kind, -1, -size))
		}
	}
	return deleted, usage, nil
}

// LockName keeps two units from deciding about the same framework and name at
// once, from the unit's next statement on until it ends. It is for rules that span
// two tables.
func LockName(u *txn.Unit, framework, name string) {
	u.Queue(`SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, framework+":"+name)
}
