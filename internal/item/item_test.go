package item_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
)

func TestParseKey(t *testing.T) {
	t.Parallel()
	good := map[string]item.Kind{
		"component:react:button":     item.KindComponent,
		"block:react:login-01":       item.KindBlock,
		"components:react:button":    item.KindEntry,
		"metadata:github_rate_limit": item.KindEntry,
		"a/b c%2F\"'ü🎉":              item.KindEntry,
		strings.Repeat("k", 255):     item.KindEntry,
		"...":                        item.KindEntry,
		":component":                 item.KindEntry,
		"component:" + strings.Repeat("é", 50) + ":" + strings.Repeat("n", 100): item.KindComponent,
	}
	for text, kind := range good {
		key, err := item.ParseKey(text)
		require.NoError(t, err, text)
		require.Equal(t, kind, key.Kind(), text)
		require.Equal(t, text, key.String())
	}
	for _, text := range []string{
		"", ".", "..", strings.Repeat("k", 256), strings.Repeat("é", 128), "a\x00b", "a\nb", "a\x7fb", "a\xffb",
		"component", "block", "component:", "component:react", "component:react:", "component::button", "component:react:a:b",
		"block:react", "component:" + strings.Repeat("f", 51) + ":n", "block:f:" + strings.Repeat("n", 101),
		"component:react:..", "component:.:x",
	} {
		_, err := item.ParseKey(text)
		var fault *item.Fault
		require.ErrorAs(t, err, &fault, "%q", text)
		require.Equal(t, item.CodeInvalidKey, fault.Code)
	}
}

func parse(t *testing.T, key, body string) (item.Value, error) {
	t.Helper()
	k, err := item.ParseKey(key)
	require.NoError(t, err)
	return item.Parse(k, []byte(body))
}

// What clients send is read quickly, or else nobody would notice that it is not.
func TestWhatIsRightIsReadQuickly(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ key, body string }{
		{"component:f:n", `{"framework":"f","name":"n","sourceCode":"a\n\t\"\\\u0001\/é🎉\ud83c\udf89","demoCode":"","metadata":{"n":1.50,"deep":[{"a":null},true,false,-0.1e+9]},"dependencies":["a","b"],"registryDependencies":[],"githubSha":"4f2c1d9e8b7a6f5e4d3c2b1a09f8e7d6c5b4a392","fileSize":9007199254740991,"lastModified":"2026-01-31T12:00:00.120+02:00"}`},
		{"block:f:n", "{ \"files\" : [ {\"path\":\"a b\", \"content\":\"é\"},\r\n\t{\"content\":\"x\"} ], \"structure\":1, \"type\":\"simple\", \"category\":\"c\", \"description\":\"d\", \"componentsUsed\":[ \"a\" ], \"totalSize\": 3, \"name\":\"n\" }\n"},
		{"e", ` {"a": [0, 1.5, "b c"]} `},
		{"e", strings.Repeat("[", item.MaxDepth) + strings.Repeat("]", item.MaxDepth)},
	} {
		key, err := item.ParseKey(tc.key)
		require.NoError(t, err)
		quick, ok := item.ParseQuickly(key, []byte(tc.body))
		require.True(t, ok, tc.body)
		thorough, err := item.ParseThoroughly(key, []byte(tc.body))
		require.NoError(t, err, tc.body)
		require.Equal(t, thorough, quick)
	}
}

func TestParseFaults(t *testing.T) {
	t.Parallel()
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for name, tc := range map[string]struct {
		key, body string
		code      item.Code
		pointer   string
	}{
		"empty body":           {"e", "", item.CodeMalformedJSON, ""},
		"white space":          {"e", "  \n", item.CodeMalformedJSON, ""},
		"not JSON":             {"e", "{a:1}", item.CodeMalformedJSON, ""},
		"cut off":              {"e", `{"a":`, item.CodeMalformedJSON, "/a"},
		"trailing value":       {"e", `1 2`, item.CodeMalformedJSON, ""},
		"trailing brace":       {"e", `{}}`, item.CodeMalformedJSON, ""},
		"trailing after fault": {"component:f:n", `{"x":1} 2`, item.CodeMalformedJSON, ""},
		"invalid UTF-8":        {"e", "\"\xff\"", item.CodeMalformedJSON, ""},
		"unpaired surrogate":   {"e", `"\ud800"`, item.CodeInvalidString, ""},
		"control character":    {"e", "\"a\nb\"", item.CodeMalformedJSON, ""},
		"leading zero":         {"e", `01`, item.CodeMalformedJSON, ""},
		"duplicate":            {"e", `{"a":{"b":1,"b":2}}`, item.CodeDuplicateName, "/a/b"},
		"escaped duplicate":    {"e", `{"a":1,"\u0061":2}`, item.CodeDuplicateName, "/a"},
		"too deep":             {"e", deep(65), item.CodeTooDeep, ""},
		"NUL in entry":         {"e", `{"a":["x\u0000"]}`, item.CodeInvalidString, "/a/0"},
		"NUL in name":          {"e", `{"\u0000":1}`, item.CodeInvalidString, "/\x00"},
		"NUL in source":        {"component:f:n", `{"sourceCode":"a\u0000"}`, item.CodeInvalidString, "/sourceCode"},
		"NUL in metadata":      {"component:f:n", `{"sourceCode":"a","metadata":{"a":"\\\u0000"}}`, item.CodeInvalidString, "/metadata/a"},
		"component not object": {"component:f:n", `[]`, item.CodeWrongType, ""},
		"unknown field":        {"component:f:n", `{"sourceCode":"","x/y":{"z":1}}`, item.CodeUnknownField, "/x~1y"},
		"null source":          {"component:f:n", `{"sourceCode":null}`, item.CodeWrongType, "/sourceCode"},
		"no source":            {"component:f:n", `{}`, item.CodeMissingField, "/sourceCode"},
		"number for source":    {"component:f:n", `{"sourceCode":1}`, item.CodeWrongType, "/sourceCode"},
		"other framework":      {"component:f:n", `{"sourceCode":"","framework":"g"}`, item.CodeKeyMismatch, "/framework"},
		"other name":           {"component:f:n", `{"sourceCode":"","name":"m"}`, item.CodeKeyMismatch, "/name"},
		"metadata array":       {"component:f:n", `{"sourceCode":"","metadata":[]}`, item.CodeWrongType, "/metadata"},
		"dependency number":    {"component:f:n", `{"sourceCode":"","dependencies":["a",1]}`, item.CodeWrongType, "/dependencies/1"},
		"short sha":            {"component:f:n", `{"sourceCode":"","githubSha":"abc"}`, item.CodeInvalidValue, "/githubSha"},
		"sha not hex":          {"component:f:n", `{"sourceCode":"","githubSha":"` + strings.Repeat("g", 40) + `"}`, item.CodeInvalidValue, "/githubSha"},
		"negative size":        {"component:f:n", `{"sourceCode":"","fileSize":-1}`, item.CodeInvalidValue, "/fileSize"},
		"huge size":            {"component:f:n", `{"sourceCode":"","fileSize":1e400}`, item.CodeInvalidValue, "/fileSize"},
		"fractional size":      {"component:f:n", `{"sourceCode":"","fileSize":1.5}`, item.CodeWrongType, "/fileSize"},
		"bad time":             {"component:f:n", `{"sourceCode":"","lastModified":"2026-01-31"}`, item.CodeInvalidValue, "/lastModified"},
		"no files":             {"block:f:n", `{}`, item.CodeMissingField, "/files"},
		"files string":         {"block:f:n", `{"files":"x"}`, item.CodeWrongType, "/files"},
		"long category":        {"block:f:n", `{"files":[],"category":"` + strings.Repeat("é", 51) + `"}`, item.CodeInvalidValue, "/category"},
		"bad type":             {"block:f:n", `{"files":[],"type":"medium"}`, item.CodeInvalidValue, "/type"},
		"first fault wins":     {"block:f:n", `{"type":"medium","files":1}`, item.CodeInvalidValue, "/type"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parse(t, tc.key, tc.body)
			var fault *item.Fault
			require.ErrorAs(t, err, &fault)
			require.Equal(t, tc.code, fault.Code, fault.Error())
			require.Equal(t, tc.pointer, fault.Pointer, fault.Error())
		})
	}
	_, err := parse(t, "e", deep(64))
	require.NoError(t, err)
}

func TestMalformedJSONHasAPlace(t *testing.T) {
	t.Parallel()
	for body, offset := range map[string]int{
		"1 2": 2, "01": 1, "{} {}": 3, "1.": 2, "1e": 2, "1e+": 3, "-": 1, "x": 0, "NaN": 0, "\ufeff1": 0, "  x": 2, "{} x": 3, "{}}": 2, "1\n,": 2, "\x00": 0,
		`{"a":1`: 6, `{"a":`: 5, `{`: 1, `[1.]`: 3, `[1 2]`: 3, `"a`: 2, `"a\u00`: 6, "tru": 3, "\"\xff\"": 1, " -": 2, "{} 1.": 5, "\"\xff": 1, "{a:1}": 1, "'a'": 0,
	} {
		for _, key := range []string{"e", "component:f:n", "block:f:n"} {
			_, err := parse(t, key, body)
			var fault *item.Fault
			require.ErrorAs(t, err, &fault)
			require.Equal(t, item.CodeMalformedJSON, fault.Code, "%q", body)
			require.Regexp(t, fmt.Sprintf(` after offset %d$`, offset), fault.Detail, "%q", body)
		}
	}
}

func TestWhatIsPutIsWhatIsGot(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		key, body, want string
		bytes           int64
	}{
		{"e", " { \"a\" : 1.10 , \"b\":[ 12345678901234567890, \"x  y\\u00e9\" ]} ", `{"a":1.10,"b":[12345678901234567890,"x  y\u00e9"]}`, 50},
		{"e", `null`, `null`, 4},
		{"e", `"\\u0000"`, `"\\u0000"`, 9},
		{"component:f:n", `{"sourceCode":"é\n"}`, `{"sourceCode":"é\n"}`, 3},
		{"component:f:n", `{"name":"n","demoCode":"abc","sourceCode":"de","framework":"f"}`, `{"framework":"f","name":"n","sourceCode":"de","demoCode":"abc"}`, 5},
		{"component:f:n", `{"sourceCode":"de","fileSize":100}`, `{"sourceCode":"de","fileSize":100}`, 100},
		{"component:f:n", `{"sourceCode":"abcd","fileSize":1.0}`, `{"sourceCode":"abcd","fileSize":1}`, 4},
		{"component:f:n", `{"sourceCode":"","metadata":{"n":1.50},"dependencies":[],"lastModified":"2026-01-31T12:00:00.120+02:00"}`, `{"sourceCode":"","metadata":{"n":1.50},"dependencies":[],"lastModified":"2026-01-31T12:00:00.120+02:00"}`, 0},
		{"block:f:n", `{"files":[{"path":"content","content":"abc"},{"content":"é"}]}`, `{"files":[{"path":"content","content":"abc"},{"content":"é"}]}`, 5},
		{"block:f:n", `{"files":{"a":{"b":{"content":""}}}}`, `{"files":{"a":{"b":{"content":""}}}}`, 0},
		{"block:f:n", `{"files":{"a":{"content":1}}}`, `{"files":{"a":{"content":1}}}`, 19},
		{"block:f:n", `{"totalSize":200,"files":[],"structure":null}`, `{"files":[],"structure":null,"totalSize":200}`, 200},
	} {
		value, err := parse(t, tc.key, tc.body)
		require.NoError(t, err, tc.body)
		require.Equal(t, tc.want, string(value.JSON()))
		require.Equal(t, tc.bytes, value.Bytes, tc.body)
		require.Len(t, value.ETag, 22)
	}
}

func TestLastModified(t *testing.T) {
	t.Parallel()
	body := func(text string) string { return `{"sourceCode":"","lastModified":"` + text + `"}` }
	key, err := item.ParseKey("component:f:n")
	require.NoError(t, err)
	for _, text := range []string{
		"2026-01-31T12:00:00Z", "2026-01-31t12:00:00z", "2026-01-31T12:00:00.0Z", "2026-01-31T12:00:00.123456789012345678901234567890+02:00", "0000-02-29T00:00:00Z",
		"2024-02-29T23:59:59-00:00", "2026-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999-23:59", "2016-12-31T23:59:60Z", "1998-12-31T15:59:60.123-08:00",
		"2017-01-01T05:29:60+05:30", "2015-06-30T23:59:60z", "1972-03-31T23:59:60Z",
	} {
		quick, ok := item.ParseQuickly(key, []byte(body(text)))
		require.True(t, ok, text)
		require.Equal(t, body(text), string(quick.JSON()))
		thorough, err := item.ParseThoroughly(key, []byte(body(text)))
		require.NoError(t, err, text)
		require.Equal(t, thorough, quick)
	}
	for _, text := range []string{
		"", "Z", "2026-01-31", "2026-01-31T12:00:00", "2026-01-31T12:00:00.Z", "2026-01-01T00:00:00,5Z", "2026-01-01T0:00:00Z", "2026-01-01T00:00Z", "2026-01-01 00:00:00Z",
		"2026-01-01T00:00:00+24:00", "2026-01-01T00:00:00+00:60", "2026-01-01T00:00:00+0000", "2026-01-01T00:00:00+00", "2026-01-01T00:00:00+1:00", "2026-01-01T00:00:00ZZ",
		"2026-01-01T00:00:00Z ", " 2026-01-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-13-01T00:00:00Z", "2026-01-00T00:00:00Z", "2026-01-32T00:00:00Z", "2026-02-29T00:00:00Z",
		"2100-02-29T00:00:00Z", "2026-04-31T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z", "2026-01-01T00:00:61Z", "2016-12-31T23:58:60Z", "2016-12-31T22:59:60Z",
		"2016-12-30T23:59:60Z", "2016-12-31T23:59:60+00:01", "+026-01-01T00:00:00Z", "-2026-01-01T00:00:00Z", "20260-01-01T00:00:00Z", "２026-01-01T00:00:00Z", "2026-01-01T00:00:00\u22121:00",
	} {
		_, err := parse(t, "component:f:n", body(text))
		var fault *item.Fault
		require.ErrorAs(t, err, &fault, text)
		require.Equal(t, item.CodeInvalidValue, fault.Code, text)
	}
}

func TestPattern(t *testing.T) {
	t.Parallel()
	for glob, want := range map[string][2]string{
		"component:react:*": {"component:react:%", "component:react:"},
		"a?c":               {"a_c", "a"},
		`100%_\*\\x`:        {`100\%\_*\\x`, `100%_*\x`},
		"*":                 {"%", ""},
	} {
		pattern, err := item.ParsePattern(glob)
		require.NoError(t, err)
		require.Equal(t, want, [2]string{pattern.Like(), pattern.Prefix()}, glob)
	}
	for _, glob := range []string{"", `a\`, "a\x00", "\xff", strings.Repeat("a", 511)} {
		_, err := item.ParsePattern(glob)
		var fault *item.Fault
		require.ErrorAs(t, err, &fault, glob)
		require.Equal(t, item.CodeInvalidPattern, fault.Code)
	}
}

func TestParseTTL(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]item.TTL{"0": 0, "60": 60, "3155760000": item.MaxTTL} {
		ttl, err := item.ParseTTL(text)
		require.NoError(t, err)
		require.Equal(t, want, ttl)
	}
	for _, text := range []string{"", "-1", "1.5", "3155760001", "99999999999999999999", "1e3", "+1", " 1", "x"} {
		_, err := item.ParseTTL(text)
		require.Error(t, err, text)
	}
}
