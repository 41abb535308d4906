package registry_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/registry"
)

// encode encodes what was written through /v1 and requires the result to be an
// item by the schema.
func encode(t *testing.T, key, stored string) string {
	t.Helper()
	k, err := item.ParseKey(key)
	require.NoError(t, err)
	back, err := registry.Encode(k, []byte(stored))
	require.NoError(t, err)
	_, err = registry.Decode(k.Framework(), k.Name(), back)
	require.NoError(t, err, "%s", back)
	return string(back)
}

const schema = `"$schema":"https://ui.shadcn.com/schema/registry-item.json",`

func TestEncodeOfComponentsWithoutAnItem(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ key, stored, want string }{
		{
			"component:react:button", `{"sourceCode":"x"}`,
			`{` + schema + `"name":"button","type":"registry:component","files":[{"path":"components/button.tsx","content":"x","type":"registry:component"}]}`,
		},
		{
			"component:Vue:button", `{"sourceCode":"","demoCode":"d","dependencies":["a"],"registryDependencies":[],"metadata":{"a":1},"fileSize":5}`,
			`{` + schema + `"name":"button","type":"registry:component","dependencies":["a"],"registryDependencies":[],"files":[{"path":"components/button.vue","content":"","type":"registry:component"}]}`,
		},
		{
			"component:react:../.ssh/é k", `{"sourceCode":"x"}`,
			`{` + schema + `"name":"../.ssh/é k","type":"registry:component","files":[{"path":"components/ssh-é-k.tsx","content":"x","type":"registry:component"}]}`,
		},
		{
			"component:react:...", `{"sourceCode":"x"}`,
			`{` + schema + `"name":"...","type":"registry:component","files":[{"path":"components/item.tsx","content":"x","type":"registry:component"}]}`,
		},
	} {
		require.Equal(t, tc.want, encode(t, tc.key, tc.stored))
	}
	fresh := encode(t, "component:react:a", `{"sourceCode":"x"}`)
	for _, kept := range []string{
		`null`, `5`, `[]`, `{}`, `{"type":1}`, `{"type":"registry:block"}`, `{"type":"ui"}`, `{"type":"registry:ui","title":1}`,
		`{"type":"registry:ui","files":1}`, `{"type":"registry:ui","files":[1]}`, `{"type":"registry:ui","files":[{}]}`, `{"type":"registry:font"}`,
	} {
		require.Equal(t, fresh, encode(t, "component:react:a", `{"sourceCode":"x","metadata":{"registryItem":`+kept+`}}`), kept)
	}
}

func TestEncodeOfBlocksWithoutAnItem(t *testing.T) {
	t.Parallel()
	const head = `{` + schema + `"name":"login","type":"registry:block",`
	for _, tc := range []struct{ stored, want string }{
		{`{"files":[]}`, head + `"files":[]}`},
		{
			`{"files":{},"category":"auth","description":"d","dependencies":["a"],"componentsUsed":["button"],"structure":[1],"totalSize":9}`,
			head + `"description":"d","dependencies":["a"],"registryDependencies":["button"],"files":[],"categories":["auth"]}`,
		},
		{
			`{"files":{"page.tsx":"p","components/form.tsx":{"content":"f","size":3},"hooks":{"use-x.ts":{"content":"h"},"count":1,"note":"n"},"version":2,"tags":["t"]}}`,
			head + `"files":[{"path":"page.tsx","content":"p","type":"registry:component"},{"path":"components/form.tsx","content":"f","type":"registry:component"},` +
				`{"path":"hooks/use-x.ts","content":"h","type":"registry:component"}]}`,
		},
		{
			`{"files":["a",{"name":"b.tsx","content":"b"},{"path":"c.tsx","type":"registry:page","content":"c"},{"path":"d","type":"registry:ui","more":1},` +
				`{"path":"e","type":"tsx","target":"t","content":"e"},{"path":"no content"},7]}`,
			head + `"files":[{"path":"blocks/login/file-1.tsx","content":"a","type":"registry:component"},{"path":"b.tsx","content":"b","type":"registry:component"},` +
				`{"path":"c.tsx","content":"c","type":"registry:page","target":"c.tsx"},{"path":"d","type":"registry:ui","more":1},` +
				`{"path":"e","content":"e","type":"registry:component","target":"t"}]}`,
		},
	} {
		require.Equal(t, tc.want, encode(t, "block:react:login", tc.stored))
	}
	deep := strings.Repeat("[", item.MaxDepth-4) + strings.Repeat("]", item.MaxDepth-4)
	require.Equal(t, head+`"files":[{"path":"a","content":"x","type":"registry:ui"}]}`,
		encode(t, "block:react:login", `{"files":[{"path":"a","type":"registry:ui","content":"x","extra":`+deep+`}]}`))
	fresh := encode(t, "block:react:login", `{"files":[]}`)
	for _, kept := range []string{`null`, `[]`, `{"title":1}`, `{"files":5,"docs":2}`} {
		require.Equal(t, fresh, encode(t, "block:react:login", `{"files":[],"structure":{"registryItem":`+kept+`}}`), kept)
	}
}

func TestEncodeShowsWhatTheColumnsBecame(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ key, stored, want string }{
		{
			"component:react:a", `{"sourceCode":"new","metadata":{"registryItem":{"type":"registry:ui","files":[{"path":"a","type":"registry:ui"},{"path":"b","type":"registry:lib"}]}}}`,
			`{"name":"a","type":"registry:ui","files":[{"path":"a","content":"new","type":"registry:ui"},{"path":"b","type":"registry:lib"}]}`,
		},
		{
			"component:react:a", `{"sourceCode":"","metadata":{"registryItem":{"type":"registry:ui","files":[{"path":"a","type":"registry:ui"}]}}}`,
			`{"name":"a","type":"registry:ui","files":[{"path":"a","content":"","type":"registry:ui"}]}`,
		},
		{
			"component:react:a", `{"sourceCode":"new","metadata":{"registryItem":{"type":"registry:ui","files":[{"path":"a","type":"registry:ui","content":null}]}}}`,
			`{"name":"a","type":"registry:ui","files":[{"path":"a","content":"new","type":"registry:ui"}]}`,
		},
		{
			"component:react:a", `{"sourceCode":"new","dependencies":["d"],"metadata":{"registryItem":{"type":"registry:theme","dependencies":["old"],"name":"old","cssVars":{}}}}`,
			`{"name":"a","type":"registry:theme","dependencies":["d"],"files":[{"path":"components/a.tsx","content":"new","type":"registry:component"}],"cssVars":{}}`,
		},
		{
			"block:react:a", `{"files":{"x.tsx":"x"},"category":"c","structure":{"registryItem":{"title":"T","categories":["b"],"files":[],"description":"old"},"other":1}}`,
			`{"name":"a","type":"registry:block","title":"T","files":[{"path":"x.tsx","content":"x","type":"registry:component"}],"categories":["c","b"]}`,
		},
		{
			"block:react:a", `{"files":[],"structure":{"registryItem":{"title":"T","categories":["b"],"files":[{"path":"old","type":"registry:ui"}]}}}`,
			`{"name":"a","type":"registry:block","title":"T","files":[],"categories":["b"]}`,
		},
	} {
		require.Equal(t, tc.want, encode(t, tc.key, tc.stored))
	}
}

func TestEncodeRefusesEntries(t *testing.T) {
	t.Parallel()
	key, err := item.ParseKey("entry")
	require.NoError(t, err)
	_, err = registry.Encode(key, []byte(`{}`))
	require.ErrorContains(t, err, "no registry item")
}

func TestSummarize(t *testing.T) {
	t.Parallel()
	value := requireRoundTrip(t, []byte(`{"name":"a","type":"registry:ui","title":"A","description":"An a.","files":[{"path":"a","content":"x","type":"registry:ui"},{"path":"b","type":"registry:ui"}]}`))
	summary, err := registry.Summarize(value)
	require.NoError(t, err)
	want := `{"name":"a","type":"registry:ui","title":"A","description":"An a.","files":[{"path":"a","type":"registry:ui"},{"path":"b","type":"registry:ui"}]}`
	require.Equal(t, want, string(summary))
}

func TestDemo(t *testing.T) {
	t.Parallel()
	decode := func(name, itemType string) item.Value {
		return requireRoundTrip(t, []byte(`{"name":"`+name+`","type":"`+itemType+`","files":[{"path":"a","content":"code of `+name+`","type":"registry:ui"}]}`))
	}
	component, demo := decode("button", "registry:ui"), decode("button-demo", "registry:example")
	target, ok := registry.DemoTarget(demo)
	require.True(t, ok)
	require.Equal(t, component.Key, target)
	key, ok := registry.DemoOf(component.Key)
	require.True(t, ok)
	require.Equal(t, demo.Key, key)
	for _, other := range []item.Value{
		component, decode("button-demo", "registry:ui"), decode("button-demo", "registry:internal"), decode("button-demo", "registry:block"),
		decode("button-demos", "registry:example"), decode("-demo", "registry:example"),
	} {
		_, ok := registry.DemoTarget(other)
		require.False(t, ok, other.Key.String())
	}
	_, ok = registry.DemoOf(decode("a", "registry:block").Key)
	require.False(t, ok)

	require.Equal(t, "button", registry.DemoBase("button"))
	require.Equal(t, "button", registry.DemoBase("button-demo"))

	shown, err := registry.WithDemo(component, &demo.Component.SourceCode)
	require.NoError(t, err)
	require.Equal(t, "code of button-demo", *shown.Component.DemoCode)
	require.Nil(t, component.Component.DemoCode)
	require.NotEqual(t, component.ETag, shown.ETag)
	back, err := registry.Encode(shown.Key, shown.JSON())
	require.NoError(t, err)
	plain, err := registry.Encode(component.Key, component.JSON())
	require.NoError(t, err)
	require.Equal(t, plain, back)
	again, err := registry.WithDemo(shown, nil)
	require.NoError(t, err)
	require.Equal(t, component, again)

	_, err = registry.WithDemo(decode("a", "registry:block"), nil)
	require.ErrorContains(t, err, "no component")
}
