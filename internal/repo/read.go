package repo

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/txn"
)

// Get reads one item with its value, by its primary key. An item that there is
// not, or that has expired, is item.ErrNotFound.
func Get(ctx context.Context, u *txn.Unit, key item.Key) (item.Stored, error) {
	t := tableOf(key.Kind())
	found, err := item.Stored{}, item.ErrNotFound
	failed := t.readStored(ctx, u, func(_ string, stored func(item.Key) item.Stored) { found, err = stored(key), nil },
		`SELECT `+t.storedColumns()+` FROM `+t.name+` t WHERE `+t.where()+` AND `+alive, t.identityArgs(key)...)
	if failed != nil {
		return item.Stored{}, failed
	}
	return found, err
}

// GetMany reads the items of keys, one statement a kind. What it returns has their
// order and length; an item that there is not has no key.
func GetMany(ctx context.Context, u *txn.Unit, keys []item.Key) ([]item.Stored, error) {
	found := make([]item.Stored, len(keys))
	place := make(map[string]int, len(keys))
	for i := range keys {
		place[keys[i].String()] = i
	}
	groups := byTable(keys)
	for _, t := range tables {
		if len(groups[t]) == 0 {
			continue
		}
		err := t.readStored(ctx, u, func(key string, stored func(item.Key) item.Stored) {
			if i, ok := place[key]; ok {
				found[i] = stored(keys[i])
			}
		}, t.getManyText(), groups[t])
		if err != nil {
			return nil, err
		}
	}
	if len(place) < len(keys) {
		for i := range keys { // of those that are there twice, one has been found
			found[i] = found[place[keys[i].String()]]
		}
	}
	return found, nil
}

// ETags reads the ETags of the items of keys that there are, in one round trip.
func ETags(ctx context.Context, u *txn.Unit, keys []item.Key) (map[item.Key]string, error) {
	etags := make(map[item.Key]string, len(keys))
	queueETags(u, keys, etags)
	err := u.Flush(ctx)
	return etags, err
}

// queueETags is ETags into a map, with the unit's next flush.
func queueETags(u *txn.Unit, keys []item.Key, etags map[item.Key]string) {
	groups := byTable(keys)
	for _, t := range tables {
		if len(groups[t]) == 0 {
			continue
		}
		u.Queue(`SELECT t.key, t.etag FROM `+t.name+` t WHERE t.key = ANY($1) AND `+alive, groups[t]).
			Query(func(rows pgx.Rows) error {
				var text, etag string
				_, err := pgx.ForEachRow(rows, []any{&text, &etag}, func() error {
					key, err := item.ParseKey(text)
					etags[key] = etag
					return err
				})
				return err
			})
	}
}

func (t *table) getManyText() string {
	return `SELECT ` + t.storedColumns() + ` FROM ` + t.name + ` t WHERE t.key = ANY($1) AND ` + alive
}

// Metadata reads what is known of one item besides its value. An item that there
// is not is item.ErrNotFound.
func Metadata(ctx context.Context, u *txn.Unit, key item.Key) (item.Metadata, error) {
	return metadataOf(ctx, u, key, ``)
}

// Lock is Metadata, and keeps anybody else from changing the item until the unit ends.
func Lock(ctx context.Context, u *txn.Unit, key item.Key) (item.Metadata, error) {
	return metadataOf(ctx, u, key, ` FOR UPDATE`)
}

func metadataOf(ctx context.Context, u *txn.Unit, key item.Key, suffix string) (item.Metadata, error) {
	t := tableOf(key.Kind())
	return queryOne(ctx, u, scanMetadata,
		`SELECT `+metadataColumns+` FROM `+t.name+` t WHERE `+t.where()+` AND `+alive+suffix,
		t.identityArgs(key)...)
}
