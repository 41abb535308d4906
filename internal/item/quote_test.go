package item_test

import (
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/stockroom/stockroom/internal/item"
)

// AppendQuote does what jsontext's does.
func TestAppendQuote(t *testing.T) {
	t.Parallel()
	check := func(t require.TestingT, text string) {
		want, err := jsontext.AppendQuote([]byte("x"), text)
		require.NoError(t, err)
		require.Equal(t, string(want), string(item.AppendQuote([]byte("x"), text)), "%q", text)
	}
	for c := range 0x180 { // alone, and at each place of a word
		for place := range 17 {
			check(t, strings.Repeat("a", place)+string(rune(c))+strings.Repeat("b", 20-place))
			check(t, strings.Repeat(" ", place)+string(rune(c)))
			check(t, strings.Repeat("\u00ff", place)+string(rune(c))+string(rune(c+1)))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		runes := rapid.OneOf(rapid.RuneFrom([]rune("\"\\\n\t\x00\x1f \x7f!#[]a<>&\u2028\U0001f600")), rapid.Rune())
		check(t, strings.ToValidUTF8(rapid.StringOf(runes).Draw(t, "text"), "?"))
	})
}

func BenchmarkAppendQuote(b *testing.B) {
	text := strings.Repeat("  return <div className={cn(\"rounded-xl border\", className)} {...props} />\n", 50)
	var out []byte
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		out = item.AppendQuote(out[:0], text)
	}
}
