package repo

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/txn"
)

// Mark says that an item has been read.
type Mark struct {
	Key   item.Key
	Count int64         // how often since the last mark
	Age   time.Duration // since the last time
}

// inOrder makes PostgreSQL look rows up by index, in the order of the index or of
// the list that they are joined with, until the unit ends: it leaves no other
// plan. Statements that count on it are prepared under it alone.
const inOrder = `SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
	set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)`

// ApplyMarks adds marks to the items that there still are, one statement a kind.
// It locks rows in the order of their keys, as all others do.
func ApplyMarks(ctx context.Context, u *txn.Unit, marks []Mark) error {
	type columns struct {
		keys   []string
		counts []int64
		ages   []float64
	}
	slices.SortFunc(marks, func(a, b Mark) int { return cmp.Compare(a.Key.String(), b.Key.String()) })
	groups := make(map[*table]*columns, len(tables))
	for _, mark := range marks {
		t := tableOf(mark.Key.Kind())
		c := groups[t]
		if c == nil {
			c = new(columns)
			groups[t] = c
		}
		c.keys = append(c.keys, mark.Key.String())
		c.counts = append(c.counts, mark.Count)
		c.ages = append(c.ages, mark.Age.Seconds())
	}
	u.Queue(inOrder)
	for _, t := range tables {
		if c := groups[t]; c != nil {
			// Ages, not times, so that only the database's clock counts: as it is now,
			// for the unit may have waited long for its locks. What was accessed before
			// the item was created was another one.
			u.Queue(`UPDATE `+t.name+` t SET access_count = t.access_count + mark.count,
					accessed_at = greatest(t.accessed_at, clock_timestamp() - mark.age * interval '1 second')
				FROM unnest($1::text[], $2::bigint[], $3::float8[]) AS mark (key, count, age)
				WHERE t.key = mark.key AND t.created_at <= clock_timestamp() - mark.age * interval '1 second'`, c.keys, c.counts, c.ages)
		}
	}
	return u.Flush(ctx)
}
