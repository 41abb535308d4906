package store

import (
	"context"
	"errors"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/registry"
	"github.com/stockroom/stockroom/internal/repo"
	"github.com/stockroom/stockroom/internal/txn"
)

// withStoredDemo returns a component about to be published with the demoCode
// that it already has, or else that of the demo which was published before it.
// A registry item does not carry its demo, so publishing must not lose it.
func withStoredDemo(ctx context.Context, u *txn.Unit, value item.Value) (item.Value, error) {
	current, err := component(ctx, u, value.Key)
	switch {
	case err == nil && current.Component.DemoCode != nil:
		return registry.WithDemo(value, current.Component.DemoCode)
	case err != nil && !errors.Is(err, item.ErrNotFound):
		return item.Value{}, err
	}
	demoKey, ok := registry.DemoOf(value.Key)
	if !ok {
		return value, nil
	}
	demo, err := component(ctx, u, demoKey)
	if errors.Is(err, item.ErrNotFound) {
		return value, nil
	}
	if err != nil {
		return item.Value{}, err
	}
	if target, ok := registry.DemoTarget(demo); !ok || target != value.Key {
		return value, nil
	}
	return registry.WithDemo(value, &demo.Component.SourceCode)
}

// fillDemo writes a demo that was published into the component which it shows,
// where there is one, and returns that one's key with the change of the usage.
// That is a write of the component: its TTL starts anew.
func fillDemo(ctx context.Context, u *txn.Unit, demo item.Value) (*item.Key, item.Usage, error) {
	target, ok := registry.DemoTarget(demo)
	if !ok {
		return nil, item.Usage{}, nil
	}
	current, err := repo.Lock(ctx, u, target)
	if errors.Is(err, item.ErrNotFound) {
		return nil, item.Usage{}, nil
	}
	if err != nil {
		return nil, item.Usage{}, err
	}
	value, err := component(ctx, u, target)
	if err != nil {
		return nil, item.Usage{}, err
	}
	filled, err := registry.WithDemo(value, &demo.Component.SourceCode)
	if err != nil || filled.ETag == current.ETag {
		return nil, item.Usage{}, err
	}
	_, usage, err := repo.Upsert(ctx, u, []repo.Write{{Value: filled, TTL: current.TTL}})
	return &target, usage, err
}

// component reads a component back as the value that it was written as.
func component(ctx context.Context, u *txn.Unit, key item.Key) (item.Value, error) {
	stored, err := repo.Get(ctx, u, key)
	if err != nil {
		return item.Value{}, err
	}
	return item.Parse(key, stored.JSON)
}
