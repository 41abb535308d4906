package registry

import (
	"fmt"
	"strings"

	"github.com/stockroom/stockroom/internal/item"
)

const demoSuffix = "-demo"

// DemoTarget returns the key of the component that the value demonstrates: an
// example named X-demo has the demo code of the component X. It reports false
// for everything else, an example without code included: it has nothing to show.
func DemoTarget(v item.Value) (item.Key, bool) {
	name, ok := strings.CutSuffix(v.Key.Name(), demoSuffix)
	if !ok || v.Component == nil || v.Component.SourceCode == "" {
		return item.Key{}, false
	}
	if itemType, _ := keptIn(v).text("type"); itemType != typeExample {
		return item.Key{}, false
	}
	target, err := item.ComponentKey(v.Key.Framework(), name)
	return target, err == nil
}

// DemoOf returns the key under which the example of a component is looked for;
// whether what stands there is one is DemoTarget's to say. It reports false for
// what can have no example.
func DemoOf(component item.Key) (item.Key, bool) {
	if component.Kind() != item.KindComponent {
		return item.Key{}, false
	}
	key, err := item.ComponentKey(component.Framework(), component.Name()+demoSuffix)
	return key, err == nil
}

// DemoBase returns the name that an item and its example have in common: X for
// X and X-demo alike.
func DemoBase(name string) string { return strings.TrimSuffix(name, demoSuffix) }

// WithDemo returns the component v with the demo code, or without any where
// demo is nil. Demo code is no part of a component's registry item.
func WithDemo(v item.Value, demo *string) (item.Value, error) {
	if v.Component == nil {
		return item.Value{}, fmt.Errorf("registry: %s is no component and has no demo code", v.Key)
	}
	component := *v.Component
	component.DemoCode = demo
	return item.NewComponent(v.Key, &component), nil
}
