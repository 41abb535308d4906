package importer

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/registry"
)

// values are what the server has, by key.
type values map[string]jsontext.Value

// verdict says what has to be done with an entry.
type verdict int

const (
	unchanged verdict = iota // the server has it
	store                    // write it, in a batch
	publish                  // publish it, so that the server fills the demo code of a component that only it has
)

// keysOf returns all that compare has to know of.
func keysOf(batch []*entry) []string {
	var keys []string
	for _, e := range batch {
		keys = append(keys, e.value.Key.String(), e.sibling())
		if e.demoOf != (item.Key{}) {
			keys = append(keys, e.demoOf.String())
		}
		if demo, ok := registry.DemoOf(e.value.Key); ok && !e.hasDemo {
			keys = append(keys, demo.String())
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// sibling returns the key of the other kind with the entry's name.
func (e *entry) sibling() string {
	other := item.KindBlock
	if e.value.Key.Kind() == item.KindBlock {
		other = item.KindComponent
	}
	return fmt.Sprintf("%s:%s:%s", other, e.value.Key.Framework(), e.value.Key.Name())
}

// compare says what has to be done with the entry, given what stands on the
// server. From there it takes over the demo code that no file has.
func (e *entry) compare(standing values) (verdict, error) {
	if _, ok := standing[e.sibling()]; ok {
		return 0, fmt.Errorf("conflict: the server has %s, and a name belongs to one kind", e.sibling())
	}
	if e.value.Component != nil && !e.hasDemo {
		demo, err := standingDemo(e.value.Key, standing)
		if err != nil {
			return 0, err
		}
		if e.value, err = registry.WithDemo(e.value, demo); err != nil {
			return 0, err
		}
	}
	same := equal(standing[e.value.Key.String()], e.value.JSON())
	if target, ok := standing[e.demoOf.String()]; ok {
		component, err := item.Parse(e.demoOf, target)
		if err != nil {
			return 0, fmt.Errorf("read the server's %s: %w", e.demoOf, err)
		}
		demo := component.Component.DemoCode
		if !same || demo == nil || *demo != e.value.Component.SourceCode {
			return publish, nil
		}
	}
	if same {
		return unchanged, nil
	}
	return store, nil
}

// plan says what importing the entry would do.
func (e *entry) plan(standing values) string {
	does := "add"
	if _, ok := standing[e.value.Key.String()]; ok {
		does = "replace"
	}
	text := fmt.Sprintf("would %s %s (%s)", does, e.value.Key, e.path)
	if _, ok := standing[e.demoOf.String()]; ok {
		text += fmt.Sprintf(" and fill the demo code of %s", e.demoOf)
	}
	return text
}

// standingDemo returns the demo code that a component has on the server, or
// else that of its example there, or nil.
func standingDemo(key item.Key, standing values) (*string, error) {
	if raw, ok := standing[key.String()]; ok {
		value, err := item.Parse(key, raw)
		if err != nil {
			return nil, fmt.Errorf("read the server's %s: %w", key, err)
		}
		if value.Component.DemoCode != nil {
			return value.Component.DemoCode, nil
		}
	}
	demoKey, ok := registry.DemoOf(key)
	if !ok {
		return nil, nil //nolint:nilnil // a component may have no demo, and that is no error
	}
	raw, ok := standing[demoKey.String()]
	if !ok {
		return nil, nil //nolint:nilnil // the same
	}
	demo, err := item.Parse(demoKey, raw)
	if err != nil {
		return nil, fmt.Errorf("read the server's %s: %w", demoKey, err)
	}
	if target, ok := registry.DemoTarget(demo); !ok || target != key {
		return nil, nil //nolint:nilnil // the same
	}
	return &demo.Component.SourceCode, nil
}

// equal tells whether two JSON values are equal, down to the digits of their
// numbers but whatever the order of their members.
func equal(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, y := jsontext.Value(bytes.Clone(a)), jsontext.Value(bytes.Clone(b))
	inOrder := jsontext.ReorderRawObjects(true)
	return x.Format(inOrder) == nil && y.Format(inOrder) == nil && bytes.Equal(x, y)
}
