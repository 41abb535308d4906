package repo

import (
	"context"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/txn"
)

// usageSlots is how many rows usage_counters has; migration 4 made them.
const usageSlots = 64

// AddUsage adds a change to the counters when the unit ends. It is the last
// statement of a unit: the row that it locks is one of a few that every writer needs.
func AddUsage(u *txn.Unit, change item.Usage) {
	if change == (item.Usage{}) {
		return
	}
	u.Queue(`UPDATE usage_counters SET
			component_items = component_items + $2, block_items = block_items + $3, entry_items = entry_items + $4,
			component_bytes = component_bytes + $5, block_bytes = block_bytes + $6, entry_bytes = entry_bytes + $7
		WHERE slot = $1`,
		rand.IntN(usageSlots), //nolint:gosec // spreads load, keeps no secret
		change.Items.Components, change.Items.Blocks, change.Items.Entries,
		change.Bytes.Components, change.Bytes.Blocks, change.Bytes.Entries)
}

// ResetUsage sets the counters to nothing, in a unit that holds LockAll and has
// deleted everything.
func ResetUsage(u *txn.Unit) {
	u.Queue(`UPDATE usage_counters SET
		component_items = 0, block_items = 0, entry_items = 0,
		component_bytes = 0, block_bytes = 0, entry_bytes = 0`)
}

// Usage returns what is stored, expired items that still have their rows
// included.
func Usage(ctx context.Context, u *txn.Unit) (item.Usage, error) {
	scan := func(row pgx.CollectableRow) (usage item.Usage, err error) {
		err = row.Scan(&usage.Items.Components, &usage.Items.Blocks, &usage.Items.Entries,
			&usage.Bytes.Components, &usage.Bytes.Blocks, &usage.Bytes.Entries)
		return usage, err
	}
	return queryOne(ctx, u, scan,
		`SELECT sum(component_items)::bigint, sum(block_items)::bigint, sum(entry_items)::bigint,
			`+sumOfSizes("component_bytes")+`, `+sumOfSizes("block_bytes")+`, `+sumOfSizes("entry_bytes")+`
		FROM usage_counters`)
}

// sumOfSizes sums sizes in SQL. Items may claim to be larger than they are: without a
// limit, a thousand claims can be more than a bigint holds. So a sum is 2^61 at most, and
// the three kinds' together still one.
func sumOfSizes(size string) string {
	return `least(coalesce(sum(` + size + `), 0), 2305843009213693952)::bigint`
}
