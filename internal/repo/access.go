package repo

import (
	"context"
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

// ApplyMarks adds marks to the items that there still are, one statement a kind.
func ApplyMarks(ctx context.Context, u *txn.Unit, marks []Mark) error {
	type columns struct {
		keys   []string
		counts []int64
		ages   []float64
	}
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
	for _, t := range tables {
		c := groups[t]
		if c == nil {
			continue
		}
		// Ages, not times, so that only the database's clock counts.
		_, err := u.Exec(ctx, `UPDATE `+t.name+` t SET access_count = t.access_count + mark.count,
				accessed_at = greatest(t.accessed_at, now() - mark.age * interval '1 second')
			FROM unnest($1::text[], $2::bigint[], $3::float8[]) AS mark (key, count, age)
			WHERE t.key = mark.key`, c.keys, c.counts, c.ages)
		if err != nil {
			return err
		}
	}
	return nil
}
