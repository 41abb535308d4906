package store

import (
	"context"
	"errors"
	"slices"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/repo"
	"github.com/stockroom/stockroom/internal/txn"
)

// GetMany reads the items of keys, which differ from each other, in their order;
// those that there are not are left out. What it returns is one snapshot: from the
// read cache where that has one, else from the database. It counts as an access to
// each item.
func (s *Store) GetMany(ctx context.Context, keys []item.Key) ([]item.Stored, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	if found, ok := s.cache.LookupMany(keys); ok {
		return found, nil // the cache has counted them
	}
	return s.GetManyFresh(ctx, keys)
}

// GetManyFresh is GetMany from the database, whatever the read cache holds. While
// the circuit breaker is open, a snapshot that the cache still has is returned with
// Stale set on each item, however old it is.
func (s *Store) GetManyFresh(ctx context.Context, keys []item.Key) ([]item.Stored, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	read := s.units.Read
	if sameKind(keys) {
		read = s.units.ReadOne // a single statement is a snapshot of its own
	}
	found, err := s.cache.LoadMany(keys, func() (found []item.Stored, err error) {
		err = read(ctx, func(ctx context.Context, u *txn.Unit) error {
			found, err = repo.GetMany(ctx, u, keys)
			return err
		})
		return slices.DeleteFunc(found, missing), err
	})
	if errors.Is(err, txn.ErrBreakerOpen) {
		if cached, ok := s.cache.LookupManyStale(keys); ok {
			found, err = cached, nil
			for i := range found {
				found[i].Stale = true
			}
		}
	}
	if err != nil {
		return nil, err
	}
	s.marks.addAll(found)
	return found, nil
}

// missing tells whether an item was asked for that there is not.
func missing(found item.Stored) bool { return found.Key == item.Key{} }

func sameKind(keys []item.Key) bool {
	return !slices.ContainsFunc(keys, func(key item.Key) bool { return key.Kind() != keys[0].Kind() })
}
