package repo

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/txn"
)

// afterEveryKey is greater than any key in the order of bytes, and so is a
// prefix with it behind than any key with that prefix.
var afterEveryKey = strings.Repeat("\U0010FFFF", item.MaxKeyBytes/4+1)

// keyRange is the condition that a key begins with a prefix and comes after
// another key; its arguments are rangeArgs. A range, unlike LIKE with a
// parameter, is always read from the index.
const keyRange = `t.key >= $1 AND t.key < $2 AND t.key > $3`

func rangeArgs(prefix, after string) []any {
	return []any{prefix, prefix + afterEveryKey, after}
}

// Keys returns the first limit keys of all kinds, in the order of their bytes,
// that match pattern and come after the key after ("": from the beginning).
func Keys(ctx context.Context, u *txn.Unit, pattern item.Pattern, after string, limit int) ([]string, error) {
	// Each table's part is ordered and cut by itself, so that it ends after limit
	// rows of the index.
	parts := make([]string, len(tables))
	for i, t := range tables {
		parts[i] = `(SELECT t.key FROM ` + t.name + ` t
			WHERE ` + keyRange + ` AND t.key LIKE $4 AND ` + alive + ` ORDER BY t.key LIMIT $5)`
	}
	return query(ctx, u, pgx.RowTo[string],
		strings.Join(parts, ` UNION ALL `)+` ORDER BY key LIMIT $5`,
		append(rangeArgs(pattern.Prefix(), after), pattern.Like(), limit)...)
}

// List returns the first limit components or blocks of a framework, in the order
// of their names, after the one with the key after. A category other than nil
// restricts blocks to it.
func List(ctx context.Context, u *txn.Unit, kind item.Kind, framework string, category *string, after string, limit int) ([]item.Summary, error) {
	t := tableOf(kind)
	prefix := string(kind) + ":" + framework + ":"
	conditions, args := keyRange, rangeArgs(prefix, after)
	order := `t.key`
	if category != nil {
		// Names stand in the order of their keys, and blocks_category_idx is in theirs.
		conditions, args = `t.framework = $1 AND t.category = $2 AND t.name > $3`,
			[]any{framework, *category, strings.TrimPrefix(after, prefix)}
		order = `t.name`
	}
	scan := func(row pgx.CollectableRow) (item.Summary, error) {
		var r metadataRow
		fields, set := t.scanSummary()
		if err := row.Scan(append(r.dests(), fields...)...); err != nil {
			return item.Summary{}, err
		}
		metadata, err := r.finish()
		summary := item.Summary{Metadata: metadata}
		set(&summary)
		return summary, err
	}
	return query(ctx, u, scan,
		`SELECT `+metadataColumns+prefixed(t.summary)+` FROM `+t.name+` t
			WHERE `+conditions+` AND `+alive+` ORDER BY `+order+` LIMIT $4`,
		append(args, limit)...)
}

// Frameworks returns what each framework holds, in the order of their names.
func Frameworks(ctx context.Context, u *txn.Unit) ([]item.FrameworkUsage, error) {
	// The framework is taken out of the key, so that key indexes alone, which
	// include the other two columns, answer this.
	part := func(t *table, components, blocks int) string {
		return fmt.Sprintf(`SELECT split_part(t.key, ':', 2) COLLATE "C" AS framework, %d AS components, %d AS blocks, t.bytes
			FROM %s t WHERE %s`, components, blocks, t.name, alive)
	}
	return query(ctx, u, pgx.RowToStructByPos[item.FrameworkUsage],
		`SELECT framework, sum(components)::bigint, sum(blocks)::bigint, `+sumOfSizes("bytes")+`
			FROM (`+part(components, 1, 0)+` UNION ALL `+part(blocks, 0, 1)+`) AS items
			GROUP BY framework ORDER BY framework`)
}
