package store_test

import (
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/registry"
	"github.com/stockroom/stockroom/internal/store"
)

// registryItem returns what a registry item of a type is stored as.
func registryItem(t require.TestingT, itemType, name string) item.Value {
	return registryItemOf(t, itemType, name, "code of "+name)
}

func registryItemOf(t require.TestingT, itemType, name, code string) item.Value {
	v, err := registry.Decode("react", name, fmt.Appendf(nil,
		`{"name":%q,"type":%q,"files":[{"path":"%s.tsx","type":%q,"content":%q}]}`, name, itemType, name, itemType, code))
	require.NoError(t, err)
	return v
}

// publish stores a registry item.
func (b *bundle) publish(itemType, name string) error {
	_, err := b.Publish(b.t.Context(), registryItem(b.t, itemType, name), nil, item.Precondition{})
	return err
}

// demoCode returns the demo code of a component, "" for none.
func (b *bundle) demoCode(name string) string {
	b.t.Helper()
	return scan[string](b.t, b.other, `SELECT coalesce(demo_code, '') FROM components WHERE name = $1`, name)
}

func TestANameBelongsToOneKind(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	require.NoError(t, b.publish("registry:ui", "button"))
	before := b.content()
	require.ErrorIs(t, b.publish("registry:block", "button"), item.ErrConflict)
	require.Equal(t, before, b.content())
	require.NoError(t, b.publish("registry:block", "login"))
	require.ErrorIs(t, b.publish("registry:ui", "login"), item.ErrConflict)
	require.NoError(t, b.publish("registry:ui", "button"), "again")

	expire(t, b.other, key(t, "component:react:button"))
	require.NoError(t, b.publish("registry:block", "button"), "what has expired is in nobody's way")
	require.NoError(t, b.Delete(t.Context(), key(t, "block:react:login"), item.Precondition{}))
	require.NoError(t, b.publish("registry:ui", "login"))
	checkUsage(t, b.other)
}

func TestPublishersOfBothKinds(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	won := map[string]int{}
	for round := range 15 {
		name := fmt.Sprint("name-", round)
		types := []string{"registry:ui", "registry:block"}
		errs := make([]error, 16)
		together(len(errs), func(i int) { errs[i] = b.publish(types[(i+round)%2], name) })
		require.Equal(t, 1, scan[int](t, b.other, `SELECT (SELECT count(*) FROM components WHERE name = $1) + (SELECT count(*) FROM blocks WHERE name = $1)`, name))
		stored, err := b.GetPublished(t.Context(), "react", name, false)
		require.NoError(t, err)
		for i, err := range errs {
			itsKind := map[string]item.Kind{"registry:ui": item.KindComponent, "registry:block": item.KindBlock}[types[(i+round)%2]]
			if itsKind == stored.Key.Kind() {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, item.ErrConflict)
			}
		}
		won[string(stored.Key.Kind())]++
	}
	checkUsage(t, b.other)
	t.Log(won)
}

// Both have looked before either has written, as far as the store lets them.
func TestPublishersOfBothKindsSideBySide(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	holder := b.holdUsage()
	component := start(func() error { return b.publish("registry:ui", "name") })
	b.awaitBlocked(1)
	block := start(func() error { return b.publish("registry:block", "name") })
	b.awaitBlocked(2)
	exec(t, holder, `ROLLBACK`)
	require.NoError(t, receive(t, component))
	require.ErrorIs(t, receive(t, block), item.ErrConflict)
	checkUsage(t, b.other)
}

func TestDemoFillsItsComponent(t *testing.T) {
	t.Parallel()
	for name, order := range map[string][]string{
		"the demo last":  {"button", "button-demo"},
		"the demo first": {"button-demo", "button"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, store.Options{})
			types := map[string]string{"button": "registry:ui", "button-demo": "registry:example"}
			for _, name := range order {
				require.NoError(t, b.publish(types[name], name))
			}
			require.Equal(t, "code of button-demo", b.demoCode("button"))
			require.Empty(t, b.demoCode("button-demo"))
			checkUsage(t, b.other)

			// The registry view does not carry the demo, so publishing must not lose it.
			_, err := b.Publish(t.Context(), registryItemOf(t, "registry:ui", "button", "new"), nil, item.Precondition{})
			require.NoError(t, err)
			require.Equal(t, "code of button-demo", b.demoCode("button"))
			_, err = b.Publish(t.Context(), registryItemOf(t, "registry:example", "button-demo", "another demo"), nil, item.Precondition{})
			require.NoError(t, err)
			require.Equal(t, "another demo", b.demoCode("button"))
			require.Equal(t, "new", scan[string](t, b.other, `SELECT source_code FROM components WHERE name = 'button'`))
			checkUsage(t, b.other)
		})
	}
}

func TestWhatIsNoDemoFillsNothing(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	require.NoError(t, b.publish("registry:ui", "button"))
	require.NoError(t, b.publish("registry:ui", "button-demo"), "named like one, but none")
	require.Empty(t, b.demoCode("button"))
	require.NoError(t, b.publish("registry:example", "card-demo"), "there is no card")
	require.NoError(t, b.publish("registry:block", "chart-demo"))
	require.NoError(t, b.publish("registry:ui", "chart"))
	require.Empty(t, b.demoCode("chart"))
	expire(t, b.other, key(t, "component:react:card-demo"))
	require.NoError(t, b.publish("registry:ui", "card"))
	require.Empty(t, b.demoCode("card"), "what has expired is no demo either")
	require.NoError(t, b.publish("registry:ui", "dialog"))
	require.NoError(t, b.publish("registry:example", "dialog-demo"))
	_, err := b.Publish(t.Context(), registryItemOf(t, "registry:example", "dialog-demo", ""), nil, item.Precondition{})
	require.NoError(t, err)
	require.Equal(t, "code of dialog-demo", b.demoCode("dialog"), "one without code takes nothing away")
	checkUsage(t, b.other)
}

// Whoever of a component and its demo comes last sees the other.
func TestDemoAndComponentAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	for round := range 25 {
		name := fmt.Sprint("c", round)
		errs := make([]error, 4)
		together(len(errs), func(i int) {
			if i%2 == 0 {
				errs[i] = b.publish("registry:ui", name)
			} else {
				errs[i] = b.publish("registry:example", name+"-demo")
			}
		})
		require.NoError(t, errors.Join(errs...))
		require.Equal(t, "code of "+name+"-demo", b.demoCode(name))
	}
	checkUsage(t, b.other)
}

func TestDemoAndComponentSideBySide(t *testing.T) {
	t.Parallel()
	// A demo can have a demo of its own, under whose name another pair might meet.
	for _, pair := range [][2]string{{"button", "button-demo"}, {"button-demo", "button-demo-demo"}} {
		for _, componentFirst := range []bool{true, false} {
			t.Run(fmt.Sprint(pair[0], componentFirst), func(t *testing.T) {
				t.Parallel()
				b := setup(t, store.Options{})
				publish := []func() error{
					func() error { return b.publish("registry:ui", pair[0]) },
					func() error { return b.publish("registry:example", pair[1]) },
				}
				if !componentFirst {
					publish[0], publish[1] = publish[1], publish[0]
				}
				holder := b.holdUsage()
				first := start(publish[0])
				b.awaitBlocked(1)
				second := start(publish[1])
				b.awaitBlocked(2)
				exec(t, holder, `ROLLBACK`)
				require.NoError(t, receive(t, first))
				require.NoError(t, receive(t, second))
				require.Equal(t, "code of "+pair[1], b.demoCode(pair[0]))
				checkUsage(t, b.other)
			})
		}
	}
}

// A component keeps the demo code that it has when its registry item is
// published, and not one that it had.
// A batch locks a component before its demo, and so must who publishes the demo.
func TestDemoAndBatchWaitForEachOtherInOneOrder(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	component, demo := registryItem(t, "registry:ui", "x"), registryItem(t, "registry:example", "x-demo")
	require.NoError(t, b.publish("registry:ui", "x"))
	together(2, func(i int) {
		for n := range 100 {
			var err error
			if i == 0 {
				_, err = b.Publish(t.Context(), registryItemOf(t, "registry:example", "x-demo", strconv.Itoa(n)), nil, item.Precondition{})
			} else {
				err = b.PutMany(t.Context(), []item.Value{component, demo}, nil)
			}
			if err != nil {
				t.Errorf("%d: %v", i, err)
				return
			}
		}
	})
	require.Zero(t, b.log.deadlocks.Load())
}

func TestPublishKeepsTheDemoCodeThatIsWrittenMeanwhile(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	k := key(t, "component:react:button")
	old, err := item.Parse(k, []byte(`{"sourceCode":"old","demoCode":"old demo"}`))
	require.NoError(t, err)
	_, err = b.Put(t.Context(), old, nil, item.Precondition{})
	require.NoError(t, err)
	somebody := pgtest.Connect(t, b.dsn)
	exec(t, somebody, `BEGIN; UPDATE components SET demo_code = 'new demo'`)
	publishing := start(func() error { return b.publish("registry:ui", "button") })
	b.awaitBlocked(1)
	exec(t, somebody, `COMMIT`)
	require.NoError(t, receive(t, publishing))
	require.Equal(t, "new demo", b.demoCode("button"))
}

func TestPublishPreconditions(t *testing.T) {
	t.Parallel()
	b := setup(t, store.Options{})
	first := registryItemOf(t, "registry:ui", "button", "first")
	written, err := b.Publish(t.Context(), first, nil, ifNone)
	require.NoError(t, err)
	require.True(t, written.Created)
	before := b.content()
	_, err = b.Publish(t.Context(), registryItemOf(t, "registry:ui", "button", "second"), nil, ifNone)
	require.ErrorIs(t, err, item.ErrPreconditionFailed)
	_, err = b.Publish(t.Context(), registryItemOf(t, "registry:block", "button", "second"), nil, ifNone)
	require.ErrorIs(t, err, item.ErrConflict)
	require.Equal(t, before, b.content())
	_, err = b.Publish(t.Context(), registryItemOf(t, "registry:ui", "button", "second"), nil, ifMatch(written.ETag))
	require.NoError(t, err)
}
