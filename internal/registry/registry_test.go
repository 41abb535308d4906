package registry_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/registry"
)

// tree reads JSON with its numbers as they are written, so that equal trees are
// equal JSON to the last digit.
func tree(t require.TestingT, raw []byte) any {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var value any
	require.NoError(t, dec.Decode(&value), "%s", raw)
	return value
}

// requireRoundTrip decodes a registry item, has what is stored pass for what
// /v1 would have taken, and requires the same item back.
func requireRoundTrip(t require.TestingT, body []byte) item.Value {
	value, err := registry.Decode("react", "", body)
	require.NoError(t, err)
	stored, err := item.Parse(value.Key, value.JSON())
	require.NoError(t, err)
	require.Equal(t, value, stored)
	back, err := registry.Encode(value.Key, value.JSON())
	require.NoError(t, err)
	require.Equal(t, tree(t, body), tree(t, back))
	return value
}

// items reads all items of a folder.
func items(t *testing.T, folder string) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	all := make(map[string][]byte, len(paths))
	for _, path := range paths {
		all[filepath.Base(path)], err = os.ReadFile(path)
		require.NoError(t, err)
	}
	return all
}

func TestRoundTripOfARealRegistry(t *testing.T) {
	t.Parallel()
	folder := os.Getenv("STOCKROOM_REGISTRY_DIR")
	if folder == "" {
		folder = filepath.Join("..", "..", "..", "shared", "registry", "new-york")
		if _, err := os.Stat(folder); err != nil {
			t.Skipf("no registry to read: set STOCKROOM_REGISTRY_DIR to a folder of registry items (%v)", err)
		}
	}
	for name, body := range items(t, folder) {
		value := requireRoundTrip(t, body)
		require.Equal(t, strings.TrimSuffix(name, ".json"), value.Key.Name())
		// What is stored twice is paid for twice.
		require.Less(t, len(value.JSON()), len(body)+len(body)/2+256, name)
	}
}

func TestRoundTripOfTheExamples(t *testing.T) {
	t.Parallel()
	kinds := map[item.Kind]int{}
	demos := 0
	for name, body := range items(t, filepath.Join("..", "..", "examples", "registry")) {
		value := requireRoundTrip(t, body)
		require.Equal(t, strings.TrimSuffix(name, ".json"), value.Key.Name())
		kinds[value.Key.Kind()]++
		if _, ok := registry.DemoTarget(value); ok {
			demos++
		}
	}
	require.Equal(t, 2, kinds[item.KindBlock])
	require.Positive(t, kinds[item.KindComponent])
	require.Equal(t, 1, demos)
}

func TestRoundTripOfCorners(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{"name":"a","type":"registry:ui"}`,
		`{"name":"a","type":"registry:ui","files":[]}`,
		`{"name":"a","type":"registry:ui","files":[{"path":"a.tsx","type":"registry:ui"}]}`,
		`{"name":"a","type":"registry:ui","files":[{"path":"a.tsx","type":"registry:ui","content":""}]}`,
		`{"name":"a","type":"registry:ui","files":[{"path":"a.tsx","type":"registry:ui","content":"\u00e9\ud83c\udf89\\u0000"}]}`,
		`{"name":"a","type":"registry:ui","files":[{"path":"a","type":"registry:ui"},{"path":"b","type":"registry:page","target":"t","content":"b","extra":[1.50]}]}`,
		`{"name":"a","type":"registry:block"}`,
		`{"name":"a","type":"registry:block","files":[]}`,
		`{"name":"a","type":"registry:block","files":[{"path":"a.tsx","type":"registry:ui"}]}`,
		`{"name":"a","type":"registry:block","categories":[],"description":""}`,
		`{"name":"a","type":"registry:block","categories":["one"]}`,
		`{"name":"a","type":"registry:block","categories":["","two","one"]}`,
		`{"name":"a","type":"registry:block","categories":["` + strings.Repeat("é", 51) + `","two"]}`,
		`{"name":"a","type":"registry:ui","categories":["one"],"title":"","docs":"d","description":"a component's own","dependencies":[],"devDependencies":["x"],"registryDependencies":["@acme/x"]}`,
		`{"name":"a","type":"registry:ui","meta":{"n":[1.10,12345678901234567890,1e400,-0]},"unheard-of":{"z":null},"framework":"vue","registryItem":1}`,
		`{"name":"a","type":"registry:item","files":[{"path":"a","type":"registry:internal"}]}`,
		`{"name":"a","type":"registry:theme","cssVars":{"theme":{"r":"1"},"light":{},"dark":{"x":"y"},"more":1},"tailwind":{"config":{"content":["a"],"theme":{"x":{"y":1}},"plugins":[]}}}`,
		`{"name":"a","type":"registry:style","extends":"none","css":{"@layer base":{"body":{"color":"red"},"@apply x":{}},"@import 'a'":"","b":["c",{"d":"e"}]},"envVars":{"A":"b"}}`,
		`{"name":"a","type":"registry:font","font":{"family":"'Inter'","provider":"google","import":"Inter","variable":"--font","weight":["400"]}}`,
		`{"name":"a","type":"registry:base","config":{"style":"new-york","iconLibrary":"lucide","rsc":true,"tailwind":{"baseColor":"neutral"},"aliases":{"ui":"@/ui"}}}`,
		`{"name":"a","type":"registry:base","config":{"rsc":null,"tsx":"yes","rtl":1,"menuColor":"inverted","menuAccent":"bold","tailwind":{"cssVariables":false,"more":1},"aliases":{"more":1},"registries":{"@a":"http://a/{name}","@b":{"url":"{name}","params":{"a":"b"},"headers":{},"more":1}}}}`,
		`{"name":"a","type":"registry:ui","font":5,"config":"of no meaning here"}`,
	} {
		value := requireRoundTrip(t, []byte(body))
		require.Contains(t, string(value.JSON()), `{"framework":"react","name":"a",`)
	}
}

func TestColumns(t *testing.T) {
	t.Parallel()
	component := requireRoundTrip(t, []byte(`{"name":"button","type":"registry:ui","title":"Button","dependencies":["clsx"],
		"registryDependencies":["utils"],"files":[{"path":"ui/button.tsx","content":"one","type":"registry:ui"},{"path":"b","content":"two","type":"registry:lib"}]}`))
	require.Equal(t, "component:react:button", component.Key.String())
	require.Equal(t, `{"framework":"react","name":"button","sourceCode":"one","metadata":{"registryItem":{"type":"registry:ui","title":"Button","files":[{"path":"ui/button.tsx","type":"registry:ui"},{"path":"b","content":"two","type":"registry:lib"}]}},"dependencies":["clsx"],"registryDependencies":["utils"]}`,
		string(component.JSON()))

	block := requireRoundTrip(t, []byte(`{"name":"login","type":"registry:block","description":"Log in.","dependencies":["zod"],
		"registryDependencies":["button"],"categories":["authentication","login"],"files":[{"path":"page.tsx","content":"one","type":"registry:page","target":"app/page.tsx"}]}`))
	require.Equal(t, "block:react:login", block.Key.String())
	require.Equal(t, `{"framework":"react","name":"login","category":"authentication","type":"simple","description":"Log in.","files":[{"path":"page.tsx","content":"one","type":"registry:page","target":"app/page.tsx"}],"structure":{"registryItem":{"categories":["login"]}},"dependencies":["zod"],"componentsUsed":["button"]}`,
		string(block.JSON()))
	require.Equal(t, int64(3), block.Bytes)

	for files, want := range map[string]string{
		`[]`:                                  "complex",
		`[{"path":"a","type":"registry:ui"}]`: "simple",
		`[{"path":"a","type":"registry:ui"},{"path":"data.json","type":"registry:ui"}]`: "complex",
	} {
		value := requireRoundTrip(t, []byte(`{"name":"a","type":"registry:block","files":`+files+`}`))
		require.Equal(t, want, *value.Block.Type, files)
	}
}

func TestDecodeFaults(t *testing.T) {
	t.Parallel()
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	with := func(members string) string { return `{"name":"a","type":"registry:ui",` + members + `}` }
	base := func(members string) string { return `{"name":"a","type":"registry:base","config":{` + members + `}}` }
	for name, tc := range map[string]struct {
		body    string
		code    item.Code
		pointer string
	}{
		"empty":                   {"", item.CodeMalformedJSON, ""},
		"not an object":           {"[]", item.CodeWrongType, ""},
		"trailing":                {`{"name":"a","type":"registry:ui"} 1`, item.CodeMalformedJSON, ""},
		"duplicate":               {with(`"meta":{"a":1,"a":1}`), item.CodeDuplicateName, "/meta/a"},
		"too deep":                {with(`"meta":{"a":` + deep(registry.MaxDepth-1) + `}`), item.CodeTooDeep, "/meta/a" + strings.Repeat("/0", registry.MaxDepth-2)},
		"far too deep":            {with(`"meta":{"a":` + deep(99) + `}`), item.CodeTooDeep, ""},
		"no name":                 {`{"type":"registry:ui"}`, item.CodeMissingField, "/name"},
		"no type":                 {`{"name":"a"}`, item.CodeMissingField, "/type"},
		"null type":               {`{"name":"a","type":null}`, item.CodeWrongType, "/type"},
		"other type":              {`{"name":"a","type":"component"}`, item.CodeInvalidValue, "/type"},
		"empty type":              {`{"name":"a","type":"registry:"}`, item.CodeInvalidValue, "/type"},
		"other name":              {`{"name":"b","type":"registry:ui"}`, item.CodeKeyMismatch, "/name"},
		"null title":              {with(`"title":null`), item.CodeWrongType, "/title"},
		"short author":            {with(`"author":"x"`), item.CodeInvalidValue, "/author"},
		"dependencies string":     {with(`"dependencies":"x"`), item.CodeWrongType, "/dependencies"},
		"dependency number":       {with(`"registryDependencies":["x",1,{}]`), item.CodeWrongType, "/registryDependencies/1"},
		"categories of null":      {with(`"categories":[null]`), item.CodeWrongType, "/categories/0"},
		"files object":            {with(`"files":{}`), item.CodeWrongType, "/files"},
		"file string":             {with(`"files":["x"]`), item.CodeWrongType, "/files/0"},
		"file without path":       {with(`"files":[{"type":"registry:ui"}]`), item.CodeMissingField, "/files/0/path"},
		"file without type":       {with(`"files":[{"path":"x"}]`), item.CodeMissingField, "/files/0/type"},
		"file of no type":         {with(`"files":[{"path":"x","type":"tsx"}]`), item.CodeInvalidValue, "/files/0/type"},
		"page without target":     {with(`"files":[{"path":"x","type":"registry:ui"},{"path":"x","type":"registry:page"}]`), item.CodeMissingField, "/files/1/target"},
		"file without target":     {with(`"files":[{"type":"registry:file","path":"x"}]`), item.CodeMissingField, "/files/0/target"},
		"null target":             {with(`"files":[{"type":"registry:ui","path":"x","target":null}]`), item.CodeWrongType, "/files/0/target"},
		"content number":          {with(`"files":[{"path":"x","type":"registry:ui","content":1}]`), item.CodeWrongType, "/files/0/content"},
		"NUL in content":          {with(`"files":[{"path":"x","type":"registry:ui","content":"\u0000"}]`), item.CodeInvalidString, "/files/0/content"},
		"NUL in meta":             {with(`"meta":{"x":["\u0000"]}`), item.CodeInvalidString, "/meta/x/0"},
		"NUL in an unknown field": {with(`"x/y":"\u0000"`), item.CodeInvalidString, "/x~1y"},
		"NUL in a name":           {with(`"meta":{"x":{"\u0000":1}}`), item.CodeInvalidString, "/meta/x/\x00"},
		"NUL in a key of meta":    {with(`"meta":{"\u0000":1}`), item.CodeInvalidString, "/meta/\x00"},
		"NUL in a field":          {with(`"\u0000":1`), item.CodeInvalidString, "/\x00"},
		"NUL in a theme":          {with(`"cssVars":{"light":{"\u0000":"x"}}`), item.CodeInvalidString, "/cssVars/light/\x00"},
		"NUL in a registry":       {base(`"registries":{"@\u0000":"https://a/{name}"}`), item.CodeInvalidString, "/config/registries/@\x00"},
		"meta array":              {with(`"meta":[]`), item.CodeWrongType, "/meta"},
		"cssVars number":          {with(`"cssVars":{"light":{"radius":1}}`), item.CodeWrongType, "/cssVars/light/radius"},
		"css number":              {with(`"css":{"a":{"b":1}}`), item.CodeWrongType, "/css/a/b"},
		"css list of lists":       {with(`"css":{"a":["b",[]]}`), item.CodeWrongType, "/css/a/1"},
		"envVars number":          {with(`"envVars":{"A":1}`), item.CodeWrongType, "/envVars/A"},
		"tailwind plugins":        {with(`"tailwind":{"config":{"plugins":[{}]}}`), item.CodeWrongType, "/tailwind/config/plugins/0"},
		"font without font":       {`{"name":"a","type":"registry:font"}`, item.CodeMissingField, "/font"},
		"font of another":         {`{"font":{"family":"f","provider":"p","import":"i","variable":"v"},"name":"a","type":"registry:font"}`, item.CodeInvalidValue, "/font/provider"},
		"config number":           {`{"name":"a","type":"registry:base","config":{"style":1}}`, item.CodeWrongType, "/config/style"},
		"type of tomorrow":        {`{"name":"a","type":"registry:of-tomorrow"}`, item.CodeInvalidValue, "/type"},
		"file type of tomorrow":   {with(`"files":[{"path":"x","type":"registry:of-tomorrow"}]`), item.CodeInvalidValue, "/files/0/type"},
		"config with more":        {base(`"colour":"red"`), item.CodeUnknownField, "/config/colour"},
		"config of a menu":        {base(`"menuColor":"red"`), item.CodeInvalidValue, "/config/menuColor"},
		"config of an accent":     {base(`"menuAccent":""`), item.CodeInvalidValue, "/config/menuAccent"},
		"config of variables":     {base(`"tailwind":{"cssVariables":"yes"}`), item.CodeWrongType, "/config/tailwind/cssVariables"},
		"registry without @":      {base(`"registries":{"a":"{name}"}`), item.CodeInvalidValue, "/config/registries/a"},
		"registry without name":   {base(`"registries":{"@a":"http://a"}`), item.CodeInvalidValue, "/config/registries/@a"},
		"registry without URL":    {base(`"registries":{"@a":{}}`), item.CodeMissingField, "/config/registries/@a/url"},
		"registry of a number":    {base(`"registries":{"@a":1}`), item.CodeWrongType, "/config/registries/@a"},
		"header of a number":      {base(`"registries":{"@a":{"url":"{name}","headers":{"b":1}}}`), item.CodeWrongType, "/config/registries/@a/headers/b"},
		"the first fault":         {with(`"title":1,"docs":2,"files":{}`), item.CodeWrongType, "/title"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := registry.Decode("react", "a", []byte(tc.body))
			var fault *item.Fault
			require.ErrorAs(t, err, &fault)
			require.Equal(t, tc.code, fault.Code, fault.Error())
			require.Equal(t, tc.pointer, fault.Pointer, fault.Error())
		})
	}
	requireRoundTrip(t, []byte(with(`"meta":{"a":`+deep(registry.MaxDepth-2)+`}`)))
}

func TestDecodeNames(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		framework, name string
		code            item.Code
		pointer         string
	}{
		{"", "a", item.CodeInvalidKey, ""},
		{"re:act", "a", item.CodeInvalidKey, ""},
		{"react", "", item.CodeInvalidKey, "/name"},
		{"react", "a:b", item.CodeInvalidKey, "/name"},
		{"react", strings.Repeat("a", 101), item.CodeInvalidKey, "/name"},
		{"react", "registry", item.CodeInvalidValue, "/name"},
	} {
		for _, itemType := range []string{"registry:ui", "registry:block"} {
			_, err := registry.Decode(tc.framework, tc.name, []byte(`{"name":"`+tc.name+`","type":"`+itemType+`"}`))
			var fault *item.Fault
			require.ErrorAs(t, err, &fault)
			require.Equal(t, tc.code, fault.Code, fault.Error())
			require.Equal(t, tc.pointer, fault.Pointer, fault.Error())
		}
	}
}
