package registry_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/registry"
)

func anyText() *rapid.Generator[string] {
	return rapid.Map(rapid.String(), func(s string) string { return strings.ReplaceAll(s, "\x00", "") })
}

func textOr(texts ...string) *rapid.Generator[string] {
	return rapid.OneOf(rapid.SampledFrom(texts), anyText())
}

// anyJSON generates JSON values; their numbers are kept as they are written.
func anyJSON(depth int) *rapid.Generator[any] {
	scalars := []*rapid.Generator[any]{
		rapid.SampledFrom([]any{nil, true, false, json.Number("1.50"), json.Number("1e400"), json.Number("-0"), json.Number("12345678901234567890")}),
		anyText().AsAny(),
	}
	if depth == 0 {
		return rapid.OneOf(scalars...)
	}
	return rapid.OneOf(append(scalars,
		rapid.SliceOfN(anyJSON(depth-1), 0, 3).AsAny(),
		rapid.MapOfN(textOr("content", "path", "name"), anyJSON(depth-1), 0, 3).AsAny())...)
}

var fileTypes = []string{"registry:ui", "registry:page", "registry:file", "registry:lib", "registry:internal"}

func anyFile(t *rapid.T) map[string]any {
	file := map[string]any{"path": anyText().Draw(t, "path"), "type": rapid.SampledFrom(fileTypes).Draw(t, "file type")}
	maybe(t, file, "content", anyText().AsAny())
	maybe(t, file, "unknown", anyJSON(2))
	maybe(t, file, "target", anyText().AsAny())
	if file["type"] == "registry:page" || file["type"] == "registry:file" {
		file["target"] = anyText().Draw(t, "needed target")
	}
	return file
}

func maybe(t *rapid.T, object map[string]any, name string, value *rapid.Generator[any]) {
	if rapid.Bool().Draw(t, "has "+name) {
		object[name] = value.Draw(t, name)
	}
}

func anyItem(t *rapid.T) map[string]any {
	texts := rapid.SliceOfN(anyText(), 0, 3).AsAny()
	record := rapid.MapOfN(anyText(), anyText(), 0, 3).AsAny()
	o := map[string]any{
		"name": rapid.StringMatching(`[a-z][-a-z0-9_.]{0,20}[0-9]`).Draw(t, "name"),
		"type": rapid.SampledFrom([]string{"registry:block", "registry:ui", "registry:example", "registry:internal"}).Draw(t, "type"),
	}
	for _, name := range []string{"dependencies", "devDependencies", "registryDependencies"} {
		maybe(t, o, name, texts)
	}
	for _, name := range []string{"$schema", "title", "description", "docs"} {
		maybe(t, o, name, anyText().AsAny())
	}
	maybe(t, o, "categories", rapid.SliceOfN(textOr("", "login", strings.Repeat("é", 51)), 0, 3).AsAny())
	maybe(t, o, "files", rapid.SliceOfN(rapid.Custom(anyFile), 0, 3).AsAny())
	maybe(t, o, "envVars", record)
	maybe(t, o, "cssVars", rapid.Custom(func(t *rapid.T) any { return map[string]any{"light": record.Draw(t, "light")} }))
	maybe(t, o, "meta", rapid.MapOfN(anyText(), anyJSON(2), 0, 3).AsAny())
	maybe(t, o, "unknown", anyJSON(2))
	return o
}

func encoded(t *rapid.T, value any) []byte {
	raw, err := json.Marshal(value)
	require.NoError(t, err)
	return raw
}

func TestPropertyAnItemComesBackAsItWent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		requireRoundTrip(t, encoded(t, anyItem(t)))
	})
}

func TestPropertyWhateverIsStoredMakesAnItem(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		kept := anyItem(t)
		delete(kept, rapid.SampledFrom([]string{"name", "type", "files", "no such member"}).Draw(t, "deleted"))
		around := map[string]any{"registryItem": rapid.OneOf(rapid.Just[any](kept), anyJSON(1)).Draw(t, "kept")}
		stored := map[string]any{}
		kind := rapid.SampledFrom([]string{"component", "block"}).Draw(t, "kind")
		if kind == "component" {
			stored["sourceCode"] = anyText().Draw(t, "source")
			stored["metadata"] = around
		} else {
			stored["files"] = rapid.OneOf(
				rapid.SliceOfN(anyJSON(2), 0, 3).AsAny(),
				rapid.SliceOfN(rapid.Custom(anyFile), 0, 3).AsAny(),
				rapid.MapOfN(anyText(), anyJSON(2), 0, 3).AsAny()).Draw(t, "files")
			stored["structure"] = rapid.OneOf(rapid.Just[any](around), anyJSON(1)).Draw(t, "structure")
			maybe(t, stored, "category", rapid.Just[any]("login"))
		}
		key, err := item.ParseKey(kind + ":react:" + rapid.StringMatching(`[-a-z0-9_./ é]{1,20}x`).Draw(t, "name"))
		require.NoError(t, err)
		back, err := registry.Encode(key, encoded(t, stored))
		require.NoError(t, err)
		again, err := registry.Decode("react", key.Name(), back)
		require.NoError(t, err)
		require.Equal(t, key, again.Key)
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"name":"a","type":"registry:ui","files":[{"path":"a","type":"registry:ui","content":"x"}],"meta":{"n":1.0}}`))
	f.Add([]byte(`{"name":"a","type":"registry:block","categories":["x","y"],"files":[],"description":"\ud83c\udf89"}`))
	f.Add([]byte(`{"name":"a","type":"registry:style","css":{"a":["b",{"c":"d"}]},"tailwind":{"config":{"plugins":["x"]}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		_, err := registry.Decode("react", "", body)
		if err != nil {
			var fault *item.Fault
			require.ErrorAs(t, err, &fault)
			require.NotEmpty(t, fault.Detail)
			return
		}
		requireRoundTrip(t, body)
	})
}
