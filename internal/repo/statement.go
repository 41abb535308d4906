package repo

import (
	"errors"

	"github.com/stockroom/stockroom/internal/item"
)

// UpsertStatement returns the statement by which Upsert stores one write, or
// UpsertMany several, all of them at once, with its arguments. They have to be of one
// kind and one mode. It is for benchmarks, which measure the database by the very text
// that it is sent.
func UpsertStatement(writes []Write) (sql string, args []any, err error) {
	if len(writes) == 0 {
		return "", nil, errors.New("repo: a statement of no writes")
	}
	kind, createOnly := writes[0].Value.Key.Kind(), writes[0].CreateOnly
	for i := range writes {
		if writes[i].Value.Key.Kind() != kind || writes[i].CreateOnly != createOnly {
			return "", nil, errors.New("repo: a statement has one kind and one mode")
		}
	}
	sql, args = tableOf(kind).upsertStatement(writes, len(writes) > 1)
	return sql, args, nil
}

// GetManyStatement returns the statement by which GetMany reads items of a kind; its
// one argument is the array of their keys. As UpsertStatement, it is for benchmarks.
func GetManyStatement(kind item.Kind) string { return tableOf(kind).getManyText() }
