package item_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/test/bench/input"
)

func BenchmarkParse(b *testing.B) {
	set, err := input.Generate(101)
	require.NoError(b, err)
	component := set.Sample(1)[0] // of the size that the middle one of a registry has
	for name, c := range map[string]struct {
		key  string
		body []byte
	}{
		"component": {"component:bench:button", component},
		"block":     {"block:bench:page", append(append([]byte(`{"category":"forms","files":[{"path":"a.tsx","content":"a"},`), component...), "]}"...)},
		"entry":     {"bench:entry", component},
	} {
		b.Run(name, func(b *testing.B) {
			key, err := item.ParseKey(c.key)
			require.NoError(b, err)
			b.SetBytes(int64(len(c.body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := item.Parse(key, c.body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
