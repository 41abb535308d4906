package store_test

import (
	"context"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/readcache"
	"github.com/stockroom/stockroom/internal/store"
	"github.com/stockroom/stockroom/internal/txn"
)

// TestOperationsAfterClose calls every method of a store that has been closed, as
// the service closes it: the cache, then the gate, then the connections.
func TestOperationsAfterClose(t *testing.T) {
	t.Parallel()
	for name, closes := range map[string]func(*bundle) error{
		"gate":                 func(b *bundle) error { b.gate.Close(); return nil },
		"connections":          func(b *bundle) error { return b.db.Close(b.within(soon)) },
		"gate and connections": func(b *bundle) error { b.gate.Close(); return b.db.Close(b.within(soon)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cache := readcache.New(1<<20, time.Hour)
			b := setup(t, store.Options{Cache: cache, MaxBytes: 1 << 20})
			component := key(t, "component:f:n")
			_, err := b.Put(t.Context(), value(t, component, "x"), nil, item.Precondition{})
			require.NoError(t, err)
			_, err = b.Get(t.Context(), component)
			require.NoError(t, err) // it is in the cache, and an access waits to be written
			before := b.content()
			cache.Close()
			require.NoError(t, closes(b))
			b.requireClosed(component)
			require.Equal(t, before, b.content())
		})
	}
}

// TestBackgroundAfterClose is the same for what runs by the clock, which has no gate.
func TestBackgroundAfterClose(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	background := b.On(txn.New(b.db, nil, slog.New(slog.DiscardHandler)))
	component := key(t, "component:f:n")
	_, err := b.Put(t.Context(), value(t, component, "x"), nil, item.Precondition{})
	require.NoError(t, err)
	_, err = b.Get(t.Context(), component)
	require.NoError(t, err)
	require.NoError(t, b.db.Close(b.within(soon)))
	b.Store = background
	b.requireClosed(component)
}

// requireClosed calls every method there is, so that none that is added later can
// be forgotten.
func (b *bundle) requireClosed(component item.Key) {
	b.t.Helper()
	all, err := item.ParsePattern("*")
	require.NoError(b.t, err)
	page := store.Page{Limit: 1}
	operations := map[string]func(context.Context) error{
		"Get":      func(ctx context.Context) error { _, err := b.Get(ctx, component); return err },
		"GetFresh": func(ctx context.Context) error { _, err := b.GetFresh(ctx, component); return err },
		"GetMany":  func(ctx context.Context) error { _, err := b.GetMany(ctx, keys(b.t, "a", "component:f:n")); return err },
		"GetManyFresh": func(ctx context.Context) error {
			_, err := b.GetManyFresh(ctx, keys(b.t, "a", "component:f:n"))
			return err
		},
		"GetPublished": func(ctx context.Context) error {
			_, err := b.GetPublished(ctx, "f", "n", false)
			return err
		},
		"Catalogue": func(ctx context.Context) error {
			_, _, err := b.Catalogue(ctx, store.CatalogueQuery{Framework: "f"}, 0, 1)
			return err
		},
		"Head":     func(ctx context.Context) error { _, err := b.Head(ctx, component); return err },
		"Metadata": func(ctx context.Context) error { _, err := b.Metadata(ctx, component); return err },
		"Put": func(ctx context.Context) error {
			_, err := b.Put(ctx, value(b.t, component, "y"), nil, item.Precondition{})
			return err
		},
		"PutMany": func(ctx context.Context) error {
			return b.PutMany(ctx, values(b.t, keys(b.t, "a", "component:f:n"), "y"), nil)
		},
		"Transact": func(ctx context.Context) error {
			_, err := b.Transact(ctx, []store.Operation{expect(component, ""), setTo(value(b.t, component, "y"))})
			return err
		},
		"Publish": func(ctx context.Context) error {
			_, err := b.Publish(ctx, value(b.t, component, "y"), nil, item.Precondition{})
			return err
		},
		"Delete":     func(ctx context.Context) error { return b.Delete(ctx, component, item.Precondition{}) },
		"DeleteMany": func(ctx context.Context) error { _, err := b.DeleteMany(ctx, []item.Key{component}); return err },
		"Touch":      func(ctx context.Context) error { _, err := b.Touch(ctx, component, nil); return err },
		"Keys":       func(ctx context.Context) error { _, _, err := b.Keys(ctx, all, page); return err },
		"List": func(ctx context.Context) error {
			_, _, err := b.List(ctx, item.KindComponent, "f", nil, page)
			return err
		},
		"Frameworks": func(ctx context.Context) error { _, err := b.Frameworks(ctx); return err },
		"Clear":      func(ctx context.Context) error { _, err := b.Clear(ctx, all); return err },
		"Stats":      func(ctx context.Context) error { _, err := b.Stats(ctx); return err },
		"ReadUsage":  b.ReadUsage,
		"Sweep":      func(ctx context.Context) error { _, _, err := b.Sweep(ctx); return err },
		"Maintain":   func(ctx context.Context) error { _, err := b.Maintain(ctx, store.Maintenance{}); return err },
		"FlushMarks": b.FlushMarks,
		"Search": func(ctx context.Context) error {
			_, err := b.Search(ctx, ask(b.t, "n"))
			return err
		},
		"ReadAll": func(ctx context.Context) error {
			return b.ReadAll(ctx, func(item.Usage) error { return nil }, func(item.Record) error { return nil })
		},
		"Restore": func(ctx context.Context) error {
			_, err := b.Restore(ctx, []item.Record{{Value: value(b.t, component, "z")}}, store.RestoreRules{})
			return err
		},
		"MakeDocuments":    func(ctx context.Context) error { _, _, err := b.MakeDocuments(ctx); return err },
		"CompareDocuments": func(ctx context.Context) error { _, _, err := b.CompareDocuments(ctx); return err },
		"On":               nil, // these ask nobody
		"Usage":            nil,
		"ManyMarks":        nil,
	}
	var methods []string
	for method := range reflect.TypeFor[*store.Store]().Methods() {
		methods = append(methods, method.Name)
	}
	require.ElementsMatch(b.t, methods, slices.Collect(maps.Keys(operations)))
	for name, operation := range operations {
		if operation != nil {
			require.ErrorIs(b.t, operation(b.within(soon)), txn.ErrClosed, name)
		}
	}
}
