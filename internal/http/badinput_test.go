package http_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"
)

// badKeys are keys that break a rule, as they stand in a path.
var badKeys = map[string]struct{ escaped, text string }{
	"256 bytes":                {strings.Repeat("k", 256), strings.Repeat("k", 256)},
	"256 bytes, 128 runes":     {strings.Repeat("%C3%A9", 128), strings.Repeat("é", 128)},
	"NUL":                      {"a%00b", "a\x00b"},
	"line feed":                {"%0A", "\n"},
	"delete":                   {"a%7F", "a\x7f"},
	"unit separator":           {"%1f", "\x1f"},
	"invalid UTF-8":            {"a%ff", "a\xff"},
	"cut UTF-8":                {"%e2%82", "\xe2\x82"},
	"overlong slash":           {"%c0%af", "\xc0\xaf"},
	"surrogate in UTF-8":       {"%ed%a0%80", "\xed\xa0\x80"},
	"dot":                      {"%2e", "."},
	"dot as it is":             {".", "."},
	"dots":                     {"%2e%2e", ".."},
	"dots in mixed spelling":   {"%2E.", ".."},
	"only the kind":            {"component", "component"},
	"kind and colon":           {"block:", "block:"},
	"two segments":             {"component:react", "component:react"},
	"two segments and a colon": {"component:react:", "component:react:"},
	"four segments":            {"component:react:a:b", "component:react:a:b"},
	"no framework":             {"component::x", "component::x"},
	"nothing but colons":       {"block::", "block::"},
	"escaped colons":           {"block%3Areact", "block:react"},
	"framework of 51":          {"block:" + strings.Repeat("f", 51) + ":n", "block:" + strings.Repeat("f", 51) + ":n"},
	"name of 101":              {"component:f:" + strings.Repeat("n", 101), "component:f:" + strings.Repeat("n", 101)},
	"dot as the framework":     {"component:.:n", "component:.:n"},
	"dots as the name":         {"block:f:%2e%2e", "block:f:.."},
}

// repeated is the key as a problem names it: not where it is no text, or too long.
func repeated(key string) string {
	if len(key) > 255 || !utf8.ValidString(key) {
		return ""
	}
	return key
}

// keyPlace is the place of a bad key in a path.
func keyPlace(key string) []place {
	if key = repeated(key); key == "" {
		return nil
	}
	return []place{{Key: key, Code: "invalid_key"}}
}

func TestBadKeys(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, key := range badKeys {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, path, places := b.on(t), "/v1/items/"+key.escaped, keyPlace(key.text)
			b.get(path, marked(bad)).fails(http.StatusBadRequest, "invalid_key", places...)
			b.do(http.MethodHead, path, marked(bad)).is(http.StatusBadRequest)
			b.put(path, "1", marked(bad)).fails(http.StatusBadRequest, "invalid_key", places...)
			b.do(http.MethodDelete, path, marked(bad)).fails(http.StatusBadRequest, "invalid_key", places...)
			b.get(path+"/metadata", marked(bad)).fails(http.StatusBadRequest, "invalid_key", places...)
			b.post(path+"/touch", "{}", marked(bad)).fails(http.StatusBadRequest, "invalid_key", places...)
			if !utf8.ValidString(key.text) {
				return // which is no JSON
			}
			keys := bodyOf(map[string]any{"keys": []string{"good", key.text}})
			inKeys := place{Key: repeated(key.text), Pointer: "/keys/1", Code: "invalid_key"}
			b.do(http.MethodPost, "/v1/mget", keys, marked(bad)).fails(http.StatusBadRequest, "invalid_key", inKeys)
			b.do(http.MethodPost, "/v1/mdelete", keys, marked(bad)).fails(http.StatusBadRequest, "invalid_key", inKeys)
			operations := bodyOf(map[string]any{"operations": []any{map[string]any{"touch": map[string]any{"key": key.text}}}})
			b.do(http.MethodPost, "/v1/transactions", operations, marked(bad)).fails(http.StatusBadRequest, "invalid_key",
				place{Key: repeated(key.text), Pointer: "/operations/0/touch/key", Code: "invalid_key"})
			entries := bodyOf(map[string]any{"entries": map[string]any{key.text: map[string]any{}}})
			b.do(http.MethodPost, "/v1/mset", entries, marked(bad)).fails(http.StatusBadRequest, "invalid_key",
				place{Key: repeated(key.text), Pointer: "/entries/" + pointerEscaped(key.text), Code: "invalid_key"})
		})
	}
}

func pointerEscaped(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

func TestEmptyKeys(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
		b.do(method, "/v1/items/", body("1"), marked(bad)).fails(http.StatusBadRequest, "invalid_key")
	}
	b.do(http.MethodHead, "/v1/items/", marked(bad)).is(http.StatusBadRequest)
	b.get("/v1/items//metadata", marked(bad)).fails(http.StatusBadRequest, "invalid_key")
	b.post("/v1/items//touch", "{}", marked(bad)).fails(http.StatusBadRequest, "invalid_key")
	b.post("/v1/mget", `{"keys":[""]}`, marked(bad)).fails(http.StatusBadRequest, "invalid_key", place{Pointer: "/keys/0", Code: "invalid_key"})
	b.post("/v1/mdelete", `{"keys":[""]}`, marked(bad)).fails(http.StatusBadRequest, "invalid_key", place{Pointer: "/keys/0", Code: "invalid_key"})
	b.post("/v1/mset", `{"entries":{"":1}}`, marked(bad)).fails(http.StatusBadRequest, "invalid_key", place{Pointer: "/entries/", Code: "invalid_key"})
}

// TestDoubleEncoding is about keys that look like an encoding of others: they are
// decoded once, and are other keys.
func TestDoubleEncoding(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for escaped, key := range map[string]string{
		"a%252Fb": "a%2Fb", "%252e%252e": "%2e%2e", "%2500": "%00", "component%253Areact": "component%3Areact", "%25c0%25af": "%c0%af",
	} {
		require.Equal(t, key, b.put("/v1/items/"+escaped, "1").is(http.StatusCreated).metadata().Key)
	}
	b.get("/v1/items/a%2Fb").fails(http.StatusNotFound, "not_found")
	b.get("/v1/items/component%3Areact", marked(bad)).fails(http.StatusBadRequest, "invalid_key", keyPlace("component:react")...)
}

// badNames are parts of a path that cannot be a framework; all but the longest
// cannot be a name either.
var badNames = map[string]struct{ escaped, text string }{
	"colon":         {"a%3Ab", "a:b"},
	"only a colon":  {":", ":"},
	"dot":           {"%2e", "."},
	"dots":          {"%2e%2e", ".."},
	"NUL":           {"%00", "\x00"},
	"line feed":     {"a%0a", "a\n"},
	"delete":        {"%7f", "\x7f"},
	"invalid UTF-8": {"%ff", "\xff"},
	"101":           {strings.Repeat("%C3%A9", 101), strings.Repeat("é", 101)},
}

func TestBadFrameworksAndNames(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, part := range badNames {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := b.on(t)
			for kind, text := range map[string]string{"component": `{"sourceCode":""}`, "block": `{"files":[]}`} {
				for path, key := range map[string]string{
					"/v1/" + kind + "s/" + part.escaped + "/n": kind + ":" + part.text + ":n",
					"/v1/" + kind + "s/f/" + part.escaped:      kind + ":f:" + part.text,
				} {
					b.get(path, marked(bad)).fails(http.StatusBadRequest, "invalid_key", keyPlace(key)...)
					b.do(http.MethodHead, path, marked(bad)).is(http.StatusBadRequest)
					b.put(path, text, marked(bad)).fails(http.StatusBadRequest, "invalid_key", keyPlace(key)...)
					b.do(http.MethodDelete, path, marked(bad)).fails(http.StatusBadRequest, "invalid_key", keyPlace(key)...)
				}
				b.get("/v1/"+kind+"s/"+part.escaped, marked(bad)).fails(http.StatusBadRequest, "invalid_key")
			}
			for _, path := range []string{"/r/" + part.escaped + "/n.json", "/r/f/" + part.escaped + ".json"} {
				b.get(path, marked(bad)).is(http.StatusBadRequest)
				a := b.put(path, `{"name":"n","type":"registry:ui"}`, marked(bad)).is(http.StatusBadRequest)
				require.Equal(t, "invalid_key", decode[problem](a).Code)
			}
		})
	}
	long := strings.Repeat("f", 51)
	b.get("/v1/components/"+long, marked(bad)).fails(http.StatusBadRequest, "invalid_key")
	b.get("/v1/blocks/"+long+"/n", marked(bad)).fails(http.StatusBadRequest, "invalid_key", keyPlace("block:"+long+":n")...)
	// Each part is short enough, but the key that they make is not.
	b.get("/v1/components/"+strings.Repeat("%F0%9F%8E%89", 50)+"/"+strings.Repeat("%F0%9F%8E%89", 20), marked(loose)).
		fails(http.StatusBadRequest, "invalid_key")
}

// carrier is a way to send a JSON value in a body, as a part of what is good
// otherwise.
type carrier struct {
	method, path string
	around       string // the body, %s being the value
	pointer      string // of the value
	key          string // that a fault of the value names, in a batch
}

func (c carrier) send(b *bundle, value string, options ...option) *answer {
	b.t.Helper()
	return b.do(c.method, c.path, append([]option{body(strings.Replace(c.around, "%s", value, 1)), marked(bad)}, options...)...)
}

// anyValue are the carriers of values that may be anything.
var anyValue = map[string]carrier{
	"entry":      {http.MethodPut, "/v1/items/k", "%s", "", ""},
	"metadata":   {http.MethodPut, "/v1/items/component:f:n", `{"sourceCode":"","metadata":{"m":%s}}`, "/metadata/m", ""},
	"component":  {http.MethodPut, "/v1/components/f/n", `{"metadata":{"m":%s},"sourceCode":""}`, "/metadata/m", ""},
	"files":      {http.MethodPut, "/v1/blocks/f/n", `{"files":[1,%s]}`, "/files/1", ""},
	"structure":  {http.MethodPut, "/v1/items/block:f:n", `{"files":[],"structure":%s}`, "/structure", ""},
	"mset":       {http.MethodPost, "/v1/mset", `{"entries":{"k":%s}}`, "/entries/k", "k"},
	"mset block": {http.MethodPost, "/v1/mset", `{"entries":{"block:f:n":{"files":{"a":%s}}}}`, "/entries/block:f:n/files/a", "block:f:n"},
	"registry":   {http.MethodPut, "/r/f/r.json", `{"name":"r","type":"registry:ui","meta":{"m":%s}}`, "/meta/m", ""},
}

func TestBadJSONValues(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, tc := range map[string]struct {
		value, pointer string
		status         int
		code           string
	}{
		"duplicate name":                 {`{"a":1,"a":1}`, "/a", http.StatusBadRequest, "duplicate_name"},
		"nested duplicate name":          {`[{"b":{"a":1,"x":{},"a":2}}]`, "/0/b/a", http.StatusBadRequest, "duplicate_name"},
		"duplicate name in two spelling": {`{"a":1,"\u0061":2}`, "/a", http.StatusBadRequest, "duplicate_name"},
		"NUL":                            {`["","x\u0000"]`, "/1", http.StatusUnprocessableEntity, "invalid_string"},
		"NUL in a name":                  {`{"\u0000":1}`, "/\x00", http.StatusUnprocessableEntity, "invalid_string"},
		"NUL behind a backslash":         {`["\\\u0000"]`, "/0", http.StatusUnprocessableEntity, "invalid_string"},
		"high surrogate":                 {`["\ud83c"]`, "/0", http.StatusUnprocessableEntity, "invalid_string"},
		"low surrogate":                  {`{"a":"\udf89x"}`, "/a", http.StatusUnprocessableEntity, "invalid_string"},
		"surrogates in the wrong order":  {`"\udf89\ud83c"`, "", http.StatusUnprocessableEntity, "invalid_string"},
	} {
		for route, carrier := range anyValue {
			t.Run(name+" in "+route, func(t *testing.T) {
				t.Parallel()
				b := b.on(t)
				want := at(carrier.pointer+tc.pointer, tc.code)
				if carrier.key != "" {
					want[0].Key = carrier.key
				}
				carrier.send(b, tc.value).fails(tc.status, tc.code, want...)
			})
		}
	}
	for name, value := range map[string]string{
		"no JSON": `{a:1}`, "nothing": ``, "two values": `1 2`, "cut": `{"a":`, "cut string": `"a`, "comma at the end": `[1,]`,
		"comment": `1/**/`, "NaN": `NaN`, "leading zero": `01`, "plus": `+1`, "no digits": `.5`, "single quotes": `'a'`,
		"line feed in a string": "\"a\nb\"", "NUL itself": "\x00", "invalid UTF-8": "\"\xff\"", "overlong UTF-8": "\"\xc0\xaf\"",
		"byte order mark": "\ufeff1", "bad escape": `"\x"`, "one bracket more": `1]`, "cut escape": `"\u00"`, "true with capitals": `TRUE`,
	} {
		for route, carrier := range anyValue {
			t.Run(name+" in "+route, func(t *testing.T) {
				t.Parallel()
				p := decode[problem](carrier.send(b.on(t), value).is(http.StatusBadRequest))
				require.Equal(t, "malformed_json", p.Code, p.Detail)
				if carrier.around != "%s" || value != "" {
					require.Regexp(t, ` after offset [0-9]+$`, p.Detail)
				}
			})
		}
	}
}

// TestStringsThatLookBad are good ones.
func TestStringsThatLookBad(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for route, carrier := range anyValue {
		t.Run(route, func(t *testing.T) {
			t.Parallel()
			b := b.on(t)
			carrier.send(b, `["\\u0000","\ud83c\udf89","\u0001","\\ud83c",{"\\u0000":"\ufffd\uffff"}]`, marked(good))
		})
	}
}

func nested(levels int) string { return strings.Repeat("[", levels) + strings.Repeat("]", levels) }

//nolint:tparallel // some routes write the same item
func TestNesting(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for route, carrier := range anyValue {
		before, _, _ := strings.Cut(carrier.around, "%s")
		levels := 64 - strings.Count(before, "{") - strings.Count(before, "[") + strings.Count(before, "]")
		if route == "registry" {
			levels -= 4 // what it is wrapped in on its way through /v1
		}
		t.Run(route, func(t *testing.T) {
			b := b.on(t)
			for _, value := range []string{nested(levels + 1), strings.Repeat(`{"a":[`, 100_000)} {
				a := carrier.send(b, value).is(http.StatusBadRequest)
				require.Equal(t, "nesting_too_deep", decode[problem](a).Code, a.body)
			}
			carrier.send(b, `"`+strings.Repeat("[", 1000)+`"`, marked(good))
			a := carrier.send(b, nested(levels), marked(good))
			require.Less(t, a.status, 300, a.body)
			if carrier.method == http.MethodPut {
				require.Contains(t, b.get(carrier.path).is(http.StatusOK).body, nested(levels))
				b.post("/v1/mget", `{"keys":["k","component:f:n","block:f:n"]}`).is(http.StatusOK)
			}
		})
	}
}

// componentCarriers and blockCarriers send a whole component or block.
var (
	componentCarriers = map[string]carrier{
		"items":      {http.MethodPut, "/v1/items/component:f:n", "%s", "", ""},
		"components": {http.MethodPut, "/v1/components/f/n", "%s", "", ""},
		"mset":       {http.MethodPost, "/v1/mset", `{"entries":{"component:f:n":%s}}`, "/entries/component:f:n", "component:f:n"},
	}
	blockCarriers = map[string]carrier{
		"items":  {http.MethodPut, "/v1/items/block:f:n", "%s", "", ""},
		"blocks": {http.MethodPut, "/v1/blocks/f/n", "%s", "", ""},
		"mset":   {http.MethodPost, "/v1/mset", `{"entries":{"block:f:n":%s}}`, "/entries/block:f:n", "block:f:n"},
	}
)

type badValue struct {
	value, pointer string
	status         int
	code           string
}

// refuse sends each value by each carrier.
func refuse(t *testing.T, b *bundle, carriers map[string]carrier, values map[string]badValue) {
	t.Helper()
	for name, tc := range values {
		for route, carrier := range carriers {
			t.Run(name+" in "+route, func(t *testing.T) {
				t.Parallel()
				want := at(carrier.pointer+tc.pointer, tc.code)
				if carrier.key != "" {
					want[0].Key = carrier.key
				}
				carrier.send(b.on(t), tc.value).fails(tc.status, tc.code, want...)
			})
		}
	}
}

// fieldCases are the bad values of a field: of another type, and of its own type
// but breaking its rule. The rest of the object is good.
func fieldCases(into map[string]badValue, rest, field string, wrong, invalid []string) {
	for _, value := range wrong {
		name := fmt.Sprintf("%s %.20s", field, value)
		into[name] = badValue{fmt.Sprintf(`{%s%q:%s}`, rest, field, value), "/" + field, http.StatusBadRequest, "wrong_type"}
	}
	for _, value := range invalid {
		name := fmt.Sprintf("%s %.60s", field, value)
		into[name] = badValue{fmt.Sprintf(`{%s%q:%s}`, rest, field, value), "/" + field, http.StatusUnprocessableEntity, "invalid_value"}
	}
}

var (
	notStrings = []string{`1`, `null`, `["a"]`, `{"a":"b"}`, `true`}
	notObjects = []string{`"{}"`, `null`, `[]`, `1`, `false`}
	notLists   = []string{`"a"`, `null`, `{}`, `1`, `true`}
	notSizes   = []string{`"1"`, `null`, `1.5`, `[1]`, `{}`, `true`}
	badSizes   = []string{`-1`, `9007199254740992`, `1e400`, `-9223372036854775809`, `99999999999999999999`}
	badSHAs    = []string{
		`""`, `"4f2c1d9e8b7a6f5e4d3c2b1a09f8e7d6c5b4a39"`, `"4f2c1d9e8b7a6f5e4d3c2b1a09f8e7d6c5b4a3922"`,
		`"gf2c1d9e8b7a6f5e4d3c2b1a09f8e7d6c5b4a392"`, `" 4f2c1d9e8b7a6f5e4d3c2b1a09f8e7d6c5b4a39"`,
	}
)

func listElementCases(into map[string]badValue, rest, field string) {
	for _, value := range []string{`1`, `null`, `["a"]`, `{}`} {
		into[field+" of "+value] = badValue{
			fmt.Sprintf(`{%s%q:["a",%s]}`, rest, field, value), "/" + field + "/1", http.StatusBadRequest, "wrong_type",
		}
	}
	into[field+" with NUL"] = badValue{
		fmt.Sprintf(`{%s%q:["a","b\u0000"]}`, rest, field), "/" + field + "/1", http.StatusUnprocessableEntity, "invalid_string",
	}
}

func TestBadComponents(t *testing.T) {
	t.Parallel()
	const rest = `"sourceCode":"",`
	values := map[string]badValue{
		"list":              {`[]`, "", http.StatusBadRequest, "wrong_type"},
		"string":            {`"x"`, "", http.StatusBadRequest, "wrong_type"},
		"null":              {`null`, "", http.StatusBadRequest, "wrong_type"},
		"no source":         {`{"demoCode":""}`, "/sourceCode", http.StatusUnprocessableEntity, "missing_field"},
		"nothing":           {`{}`, "/sourceCode", http.StatusUnprocessableEntity, "missing_field"},
		"unknown field":     {`{"sourceCode":"","colour":{"a":[1]}}`, "/colour", http.StatusUnprocessableEntity, "unknown_field"},
		"field of a block":  {`{"sourceCode":"","files":[]}`, "/files", http.StatusUnprocessableEntity, "unknown_field"},
		"field in capitals": {`{"sourceCode":"","DemoCode":""}`, "/DemoCode", http.StatusUnprocessableEntity, "unknown_field"},
		"empty name":        {`{"sourceCode":"","":1}`, "/", http.StatusUnprocessableEntity, "unknown_field"},
		"escaped pointer":   {`{"sourceCode":"","a/b~c":1}`, "/a~1b~0c", http.StatusUnprocessableEntity, "unknown_field"},
		"other framework":   {`{"sourceCode":"","framework":"g"}`, "/framework", http.StatusUnprocessableEntity, "key_mismatch"},
		"other name":        {`{"name":"N","sourceCode":""}`, "/name", http.StatusUnprocessableEntity, "key_mismatch"},
		"no name":           {`{"name":"","sourceCode":""}`, "/name", http.StatusUnprocessableEntity, "key_mismatch"},
		"NUL in the source": {`{"sourceCode":"\u0000"}`, "/sourceCode", http.StatusUnprocessableEntity, "invalid_string"},
		"NUL in a name":     {`{"sourceCode":"","a\u0000":1}`, "/a\x00", http.StatusUnprocessableEntity, "unknown_field"},
		"first fault wins":  {`{"fileSize":-1,"sourceCode":1}`, "/fileSize", http.StatusUnprocessableEntity, "invalid_value"},
	}
	fieldCases(values, ``, "sourceCode", notStrings, nil)
	for _, field := range []string{"framework", "name", "demoCode"} {
		fieldCases(values, rest, field, notStrings, nil)
	}
	fieldCases(values, rest, "metadata", notObjects, nil)
	for _, field := range []string{"dependencies", "registryDependencies"} {
		fieldCases(values, rest, field, notLists, nil)
		listElementCases(values, rest, field)
	}
	fieldCases(values, rest, "githubSha", notStrings, badSHAs)
	fieldCases(values, rest, "fileSize", notSizes, badSizes)
	fieldCases(values, rest, "lastModified", notStrings, []string{
		`""`, `"yesterday"`, `"2026-01-31"`, `"2026-01-31T12:00:00"`, `"2026-02-30T12:00:00Z"`, `"2026-01-31 12:00:00Z"`, `"2026-01-31T25:00:00Z"`,
		`"2026-01-01T00:00:00,5Z"`, `"2026-01-01T0:00:00Z"`, `"2026-01-01T00:00:00+24:00"`, `"2026-01-01T00:00:00+00:60"`,
	})
	refuse(t, setup(t), componentCarriers, values)
}

func TestBadBlocks(t *testing.T) {
	t.Parallel()
	const rest = `"files":[],`
	values := map[string]badValue{
		"list":                 {`[]`, "", http.StatusBadRequest, "wrong_type"},
		"no files":             {`{"type":"simple"}`, "/files", http.StatusUnprocessableEntity, "missing_field"},
		"unknown field":        {`{"files":[],"colour":1}`, "/colour", http.StatusUnprocessableEntity, "unknown_field"},
		"field of a component": {`{"files":[],"sourceCode":""}`, "/sourceCode", http.StatusUnprocessableEntity, "unknown_field"},
		"other framework":      {`{"files":[],"framework":"F"}`, "/framework", http.StatusUnprocessableEntity, "key_mismatch"},
		"other name":           {`{"files":[],"name":"nn"}`, "/name", http.StatusUnprocessableEntity, "key_mismatch"},
	}
	fieldCases(values, ``, "files", []string{`"a"`, `null`, `1`, `true`}, nil)
	for _, field := range []string{"framework", "name", "description"} {
		fieldCases(values, rest, field, notStrings, nil)
	}
	fieldCases(values, rest, "category", notStrings, []string{`"` + strings.Repeat("é", 51) + `"`})
	fieldCases(values, rest, "type", notStrings, []string{`""`, `"Simple"`, `"medium"`})
	for _, field := range []string{"dependencies", "componentsUsed"} {
		fieldCases(values, rest, field, notLists, nil)
		listElementCases(values, rest, field)
	}
	fieldCases(values, rest, "totalSize", notSizes, badSizes)
	fieldCases(values, rest, "githubSha", notStrings, badSHAs)
	refuse(t, setup(t), blockCarriers, values)
}

func TestBadTTLs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.stored("k", "1")
	for _, value := range []string{"-1", "1.5", "x", "", "3155760001", "99999999999999999999", "1e3", "%2B1", "%201", "0x10", "null", "-0"} {
		t.Run("query "+value, func(t *testing.T) {
			t.Parallel()
			b := b.on(t)
			for _, sample := range samples {
				b.put(sample.path+"?ttl="+value, sample.text, marked(bad)).fails(http.StatusBadRequest, "invalid_ttl")
			}
		})
	}
	send := func(b *bundle, value, code string) {
		b.t.Helper()
		b.post("/v1/mset", `{"entries":{"k":2},"ttl":`+value+`}`, marked(bad)).fails(http.StatusBadRequest, code, at("/ttl", code)...)
		b.post("/v1/items/k/touch", `{"ttl":`+value+`}`, marked(bad)).fails(http.StatusBadRequest, code, at("/ttl", code)...)
	}
	for _, value := range []string{"-1", "1.5", "3155760001", "99999999999999999999", "1e300", "-1e300", "1e-300", "0.1"} {
		t.Run("body "+value, func(t *testing.T) {
			t.Parallel()
			send(b.on(t), value, "invalid_ttl")
		})
	}
	for _, value := range []string{`"60"`, `null`, `true`, `[]`, `{}`} {
		t.Run("body "+value, func(t *testing.T) {
			t.Parallel()
			send(b.on(t), value, "wrong_type")
		})
	}
	t.Run("whole numbers in other forms", func(t *testing.T) {
		t.Parallel()
		b := b.on(t)
		for _, value := range []string{"60.0", "6e1", "600E-1", "60"} {
			require.EqualValues(t, 60, b.post("/v1/items/k/touch", `{"ttl":`+value+`}`).is(http.StatusOK).metadata().TTLSeconds)
		}
	})
}

func TestBadEnvelopes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.stored("k", "1")
	for name, tc := range map[string]struct {
		path, text    string
		status        int
		code, pointer string
	}{
		"mget without keys":         {"/v1/mget", `{}`, http.StatusBadRequest, "invalid_batch", ""},
		"mdelete without keys":      {"/v1/mdelete", `{}`, http.StatusBadRequest, "invalid_batch", ""},
		"mset without entries":      {"/v1/mset", `{"ttl":1}`, http.StatusBadRequest, "invalid_batch", ""},
		"mget of a list":            {"/v1/mget", `["k"]`, http.StatusBadRequest, "wrong_type", ""},
		"mset of a list":            {"/v1/mset", `[]`, http.StatusBadRequest, "wrong_type", ""},
		"touch of a list":           {"/v1/items/k/touch", `[]`, http.StatusBadRequest, "wrong_type", ""},
		"touch of null":             {"/v1/items/k/touch", `null`, http.StatusBadRequest, "wrong_type", ""},
		"keys as a string":          {"/v1/mget", `{"keys":"k"}`, http.StatusBadRequest, "wrong_type", "/keys"},
		"keys as null":              {"/v1/mdelete", `{"keys":null}`, http.StatusBadRequest, "wrong_type", "/keys"},
		"key as a number":           {"/v1/mget", `{"keys":["k",1]}`, http.StatusBadRequest, "wrong_type", "/keys/1"},
		"key as null":               {"/v1/mdelete", `{"keys":[null]}`, http.StatusBadRequest, "wrong_type", "/keys/0"},
		"entries as a list":         {"/v1/mset", `{"entries":[]}`, http.StatusBadRequest, "wrong_type", "/entries"},
		"entries as null":           {"/v1/mset", `{"entries":null}`, http.StatusBadRequest, "wrong_type", "/entries"},
		"unknown field of mget":     {"/v1/mget", `{"keys":[],"limit":1}`, http.StatusUnprocessableEntity, "unknown_field", "/limit"},
		"unknown field of mset":     {"/v1/mset", `{"entries":{},"TTL":1}`, http.StatusUnprocessableEntity, "unknown_field", "/TTL"},
		"unknown field of mdelete":  {"/v1/mdelete", `{"keys":[],"x":null}`, http.StatusUnprocessableEntity, "unknown_field", "/x"},
		"unknown field of touch":    {"/v1/items/k/touch", `{"tll":1}`, http.StatusUnprocessableEntity, "unknown_field", "/tll"},
		"two lists of keys":         {"/v1/mget", `{"keys":[],"keys":[]}`, http.StatusBadRequest, "duplicate_name", "/keys"},
		"two TTLs":                  {"/v1/items/k/touch", `{"ttl":1,"ttl":1}`, http.StatusBadRequest, "duplicate_name", "/ttl"},
		"surrogate in a key":        {"/v1/mdelete", `{"keys":["\ud800"]}`, http.StatusUnprocessableEntity, "invalid_string", "/keys/0"},
		"no operations":             {"/v1/transactions", `{}`, http.StatusBadRequest, "invalid_batch", ""},
		"transaction as a list":     {"/v1/transactions", `[]`, http.StatusBadRequest, "wrong_type", ""},
		"operations as an object":   {"/v1/transactions", `{"operations":{}}`, http.StatusBadRequest, "wrong_type", "/operations"},
		"operations as null":        {"/v1/transactions", `{"operations":null}`, http.StatusBadRequest, "wrong_type", "/operations"},
		"unknown beside operations": {"/v1/transactions", `{"operations":[],"ttl":1}`, http.StatusUnprocessableEntity, "unknown_field", "/ttl"},
		"two lists of operations":   {"/v1/transactions", `{"operations":[],"operations":[]}`, http.StatusBadRequest, "duplicate_name", "/operations"},
		"empty transaction":         {"/v1/transactions", ``, http.StatusBadRequest, "malformed_json", ""},
		"more behind transaction":   {"/v1/transactions", `{"operations":[]}1`, http.StatusBadRequest, "malformed_json", ""},
		"empty mget":                {"/v1/mget", ``, http.StatusBadRequest, "malformed_json", ""},
		"empty mset":                {"/v1/mset", ``, http.StatusBadRequest, "malformed_json", ""},
		"empty mdelete":             {"/v1/mdelete", ``, http.StatusBadRequest, "malformed_json", ""},
		"more behind mget":          {"/v1/mget", `{"keys":[]}{}`, http.StatusBadRequest, "malformed_json", ""},
		"more behind touch":         {"/v1/items/k/touch", `{} {}`, http.StatusBadRequest, "malformed_json", ""},
		"malformed touch":           {"/v1/items/k/touch", `{"ttl":}`, http.StatusBadRequest, "malformed_json", "/ttl"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b.on(t).post(tc.path, tc.text, marked(bad)).fails(tc.status, tc.code, at(tc.pointer, tc.code)...)
		})
	}
}

func TestBadRegistryItems(t *testing.T) {
	t.Parallel()
	values := map[string]badValue{
		"list":             {`[]`, "", http.StatusBadRequest, "wrong_type"},
		"no type":          {`{"name":"n"}`, "/type", http.StatusUnprocessableEntity, "missing_field"},
		"no name":          {`{"type":"registry:ui"}`, "/name", http.StatusUnprocessableEntity, "missing_field"},
		"other name":       {`{"name":"m","type":"registry:ui"}`, "/name", http.StatusUnprocessableEntity, "key_mismatch"},
		"bad type":         {`{"name":"n","type":"ui"}`, "/type", http.StatusUnprocessableEntity, "invalid_value"},
		"short author":     {`{"name":"n","type":"registry:ui","author":"x"}`, "/author", http.StatusUnprocessableEntity, "invalid_value"},
		"page to nowhere":  {`{"name":"n","type":"registry:block","files":[{"path":"p","type":"registry:page"}]}`, "/files/0/target", http.StatusUnprocessableEntity, "missing_field"},
		"file of no type":  {`{"name":"n","type":"registry:ui","files":[{"path":"p"}]}`, "/files/0/type", http.StatusUnprocessableEntity, "missing_field"},
		"font of no font":  {`{"name":"n","type":"registry:font"}`, "/font", http.StatusUnprocessableEntity, "missing_field"},
		"NUL in a content": {`{"name":"n","type":"registry:ui","files":[{"path":"p","type":"registry:ui","content":"\u0000"}]}`, "/files/0/content", http.StatusUnprocessableEntity, "invalid_string"},
	}
	const rest = `"name":"n","type":"registry:ui",`
	fieldCases(values, rest, "title", notStrings, nil)
	fieldCases(values, rest, "files", notLists, nil)
	fieldCases(values, rest, "meta", notObjects, nil)
	listElementCases(values, rest, "dependencies")
	refuse(t, setup(t), map[string]carrier{"registry": {http.MethodPut, "/r/f/n.json", "%s", "", ""}}, values)
}

// TestNameOfTheCatalogue is about the one name that no item of the registry view
// can have.
func TestNameOfTheCatalogue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, path := range []string{"/r/f/registry.json", "/r/f/registry%2Ejson"} {
		a := b.put(path, `{"name":"registry","type":"registry:ui"}`, marked(bad))
		a.fails(http.StatusMethodNotAllowed, "method_not_allowed")
		require.Equal(t, "GET", a.header.Get("Allow"))
	}
	b.put("/v1/components/f/registry", `{"sourceCode":""}`).is(http.StatusCreated) // under /v1 it is a name as any other
	require.Empty(t, decode[catalogue](b.get("/r/f/registry.json").is(http.StatusOK)).Items)
}

func TestBadParameters(t *testing.T) {
	t.Parallel()
	b := setup(t)
	lists := []string{"/v1/items", "/v1/components/f", "/v1/blocks/f"}
	for _, value := range []string{"0", "1001", "10000", "-1", "x", "1.5", "", "1e2", "%2B5", "%205", "99999999999999999999", "10,20"} {
		t.Run("limit "+value, func(t *testing.T) {
			t.Parallel()
			for _, path := range lists {
				b.on(t).get(path+"?limit="+value, marked(bad)).fails(http.StatusBadRequest, "invalid_parameter")
			}
		})
	}
	for name, value := range map[string]string{
		"lone backslash": `a%5C`, "three backslashes": `%5C%5C%5C`, "empty": "", "NUL": "%00", "line feed": "a%0A*",
		"invalid UTF-8": "%ff", "511 bytes": strings.Repeat("a", 511),
	} {
		t.Run("pattern "+name, func(t *testing.T) {
			t.Parallel()
			b := b.on(t)
			b.stored("kept "+name, "1")
			b.get("/v1/items?pattern="+value, marked(bad)).fails(http.StatusBadRequest, "invalid_parameter")
			b.do(http.MethodDelete, "/v1/items?pattern="+value, marked(bad)).fails(http.StatusBadRequest, "invalid_parameter")
			b.get(itemPath("kept " + name)).is(http.StatusOK) // and nothing is deleted
		})
	}
	for name, value := range map[string]string{"NUL": "%00", "invalid UTF-8": "%ff", "51 characters": strings.Repeat("%C3%A9", 51)} {
		t.Run("category "+name, func(t *testing.T) {
			t.Parallel()
			b.on(t).get("/v1/blocks/f?category="+value, marked(bad)).fails(http.StatusBadRequest, "invalid_parameter")
		})
	}
	for name, query := range map[string]string{"broken encoding": "limit=%zz", "semicolon": "limit=1;cursor=x", "only a name": "nope", "no name": "=1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, path := range lists {
				b.on(t).get(path+"?"+query, marked(bad)).fails(http.StatusBadRequest, "invalid_parameter")
			}
		})
	}
}

// TestUnknownAndRepeatedParameters sends every operation a parameter that it has
// not, and each that it has twice.
func TestUnknownAndRepeatedParameters(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, operation := range operations {
		if operation.noData || strings.HasPrefix(operation.path, "/r/") {
			continue
		}
		t.Run(operation.id, func(t *testing.T) {
			t.Parallel()
			queries := []string{"nope=1", "TTL=1", "limits=1"}
			known := operation.documented(t).Parameters
			if operation.path == "/v1/items" {
				queries = append(queries, "pattern=a&pattern=a") // a parameter of the path in the contract
			}
			for _, parameter := range known {
				if parameter.Value.In == openapi3.ParameterInQuery {
					name := parameter.Value.Name
					queries = append(queries, name+"=1&"+name+"=1", name+"=1&"+name+"=2")
				}
			}
			for _, query := range queries {
				with := operation
				if strings.Contains(with.path, "?") {
					with.path += "&" + query
				} else {
					with.path += "?" + query
				}
				a := with.send(b.on(t), marked(bad)).is(http.StatusBadRequest)
				if operation.method != http.MethodHead {
					a.fails(http.StatusBadRequest, "invalid_parameter")
				}
			}
		})
	}
	b.put("/r/f/n.json?nope=1", `{"name":"n","type":"registry:ui"}`).is(http.StatusCreated)
	b.get("/r/f/n.json?nope=1&nope=2&ttl=x").is(http.StatusOK)
}

func TestBadCursors(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var entries []string
	for i := range 5 {
		for _, kind := range []string{`"component:f:n%d":{"sourceCode":""}`, `"block:f:n%d":{"files":[],"category":"c"}`, `"block:g:n%d":{"files":[]}`, `"a%d":1`} {
			entries = append(entries, fmt.Sprintf(kind, i))
		}
	}
	b.post("/v1/mset", `{"entries":{`+strings.Join(entries, ",")+`}}`).is(http.StatusOK)
	lists := []string{
		"/v1/items?limit=1", "/v1/items?limit=1&pattern=*", "/v1/items?limit=1&pattern=a*", "/v1/components/f?limit=1", "/v1/blocks/f?limit=1",
		"/v1/blocks/f?limit=1&category=c", "/v1/blocks/g?limit=1",
	}
	cursors := map[string]string{}
	for _, list := range lists {
		cursor := decode[struct{ NextCursor string }](b.get(list).is(http.StatusOK)).NextCursor
		require.NotEmpty(t, cursor)
		cursors[cursor] = list
	}
	require.Len(t, cursors, len(lists), "two lists have the same cursor")
	garbage := []string{"", "x", "!!!", "AAAA", "AAAAAAAA", "\x00", "\xff", strings.Repeat("A", 1000)}
	for _, list := range lists {
		t.Run(list, func(t *testing.T) {
			t.Parallel()
			b := b.on(t)
			garbage := garbage
			for cursor, of := range cursors {
				if of == list {
					b.get(list + "&cursor=" + cursor).is(http.StatusOK)
					garbage = append(slices.Clip(garbage), cursor[:len(cursor)-1], cursor+"A", "A"+cursor[1:], cursor+"=", " "+cursor, strings.ToUpper(cursor), list)
					continue
				}
				b.get(list+"&cursor="+cursor, marked(bad)).fails(http.StatusBadRequest, "invalid_cursor")
			}
			for _, cursor := range garbage {
				b.get(list+"&cursor="+url.QueryEscape(cursor), marked(bad)).
					fails(http.StatusBadRequest, "invalid_cursor")
			}
		})
	}
}

func TestBadPreconditions(t *testing.T) {
	t.Parallel()
	b := setup(t)
	sample := samples[0]
	b.put(sample.path, sample.text).is(http.StatusCreated)
	for _, value := range []string{
		``, ` `, `abc`, `"abc`, `abc"`, `W/abc`, `w/"abc"`, `W/ "abc"`, `"a" "b"`, `"a"b`, `*,"a"`, `"a",*`, `**`, `,`, `, ,`, `"a";"b"`, `'a'`, `"a b"`, `"a	b"`, `W/`, `W/*`,
	} {
		t.Run(value, func(t *testing.T) {
			t.Parallel()
			b := b.on(t)
			b.get(sample.path, header("If-None-Match", value), marked(bad)).fails(http.StatusBadRequest, "invalid_header")
			b.do(http.MethodHead, sample.path, header("If-None-Match", value), marked(bad)).is(http.StatusBadRequest)
			b.put(sample.path, sample.text, header("If-Match", value), marked(bad)).fails(http.StatusBadRequest, "invalid_header")
			b.put(sample.path, sample.text, header("If-None-Match", value), marked(bad)).fails(http.StatusBadRequest, "invalid_header")
			b.do(http.MethodDelete, sample.path, header("If-Match", value), marked(bad)).fails(http.StatusBadRequest, "invalid_header")
		})
	}
}

//nolint:tparallel // the operations are in each other's way
func TestContentTypes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, operation := range operations {
		if operation.body == "" {
			continue
		}
		t.Run(operation.id, func(t *testing.T) {
			b := b.on(t)
			b.onlyA()
			for _, name := range []string{
				"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonx", "application/problem+json",
				"text/json", "application/*", "json", ";", "application/json, text/plain",
			} {
				operation.send(b, contentType(name), marked(bad)).fails(http.StatusUnsupportedMediaType, "unsupported_media_type")
			}
			operation.send(b, header("Content-Encoding", "gzip"), marked(bad)).fails(http.StatusUnsupportedMediaType, "unsupported_media_type")
			for _, name := range []string{"", "application/json; charset=utf-8", "Application/JSON"} {
				b.onlyA()
				a := operation.send(b, contentType(name), marked(loose))
				require.Less(t, a.status, 300, "%q: %s", name, a.body)
			}
		})
	}
}

//nolint:tparallel // the operations are in each other's way
func TestBodyLimit(t *testing.T) {
	t.Parallel()
	const limit = 500
	b := setup(t, limits(limit, 1000))
	for _, operation := range operations {
		if operation.body == "" {
			continue
		}
		t.Run(operation.id, func(t *testing.T) {
			b := b.on(t)
			b.onlyA()
			padded := func(size int) option { return body(operation.body + strings.Repeat(" ", size-len(operation.body))) }
			for name, how := range map[string]option{"Content-Length": func(*http.Request, *call) {}, "chunked": chunked} {
				b.onlyA()
				a := operation.send(b, padded(limit), how)
				require.Less(t, a.status, 300, "%s: %s", name, a.body)
				operation.send(b, padded(limit+1), how, marked(bad)).fails(http.StatusRequestEntityTooLarge, "body_too_large")
				operation.send(b, padded(100_000), how, marked(bad)).fails(http.StatusRequestEntityTooLarge, "body_too_large")
			}
		})
	}
}

// TestBodyOverTheLimitIsAnswered sends like clients that read nothing before they have
// sent all: more than the connection holds by itself.
func TestBodyOverTheLimitIsAnswered(t *testing.T) {
	t.Parallel()
	const limit = 8 << 20
	b := setup(t, limits(limit, 1000))
	lengthOf := func(n int) string { return fmt.Sprintf("Content-Length: %d", n) }
	chunk := func(n int) string { return fmt.Sprintf("%x\r\n%s\r\n", n, strings.Repeat("x", n)) }
	const chunks = "Transfer-Encoding: chunked"
	for name, tc := range map[string]struct{ header, body string }{
		"one byte more":               {lengthOf(limit + 1), strings.Repeat("x", limit+1)},
		"twice":                       {lengthOf(2 * limit), strings.Repeat("x", 2*limit)},
		"four times":                  {lengthOf(4 * limit), strings.Repeat("x", 4*limit)},
		"chunks":                      {chunks, chunk(limit) + chunk(limit) + chunk(1<<10) + "0\r\n\r\n"},
		"cut by the caller":           {lengthOf(2 * limit), "x"},
		"too much to wait for":        {lengthOf(4*limit + 1), ""},
		"only if it is wanted":        {lengthOf(limit+1) + "\r\nExpect: 100-continue", ""},
		"only if it is wanted, twice": {lengthOf(2*limit) + "\r\nExpect: 100-Continue", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(b.URL, "http://"))
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()
			require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
			_, err = io.WriteString(conn, "PUT /v1/items/a HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"+tc.header+"\r\n\r\n"+tc.body)
			require.NoError(t, err)
			if tc.body == "x" {
				half, ok := conn.(*net.TCPConn)
				require.True(t, ok)
				require.NoError(t, half.CloseWrite())
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
			content, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Contains(t, string(content), `"body_too_large"`)
			require.NoError(t, resp.Body.Close())
		})
	}
}

func TestBatchLimit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	entries := func(n int, value func(i int) string) string {
		var text strings.Builder
		for i := range n {
			fmt.Fprintf(&text, `,"k%d":%s`, i, value(i))
		}
		return `{"entries":{` + text.String()[1:] + `}}`
	}
	keys := func(n int) string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf("k%d", i)
		}
		text, err := json.Marshal(map[string]any{"keys": list})
		require.NoError(t, err)
		return string(text)
	}
	one := func(int) string { return "1" }
	require.JSONEq(t, `{"stored":1000}`, b.post("/v1/mset", entries(1000, one)).is(http.StatusOK).body)
	require.Len(t, decode[mgetResult](b.post("/v1/mget", keys(1000)).is(http.StatusOK)).Items, 1000)
	for _, n := range []int{1001, 1002, 5000} {
		b.post("/v1/mset", entries(n, one), marked(bad)).fails(http.StatusRequestEntityTooLarge, "batch_too_large")
		b.post("/v1/mget", keys(n), marked(bad)).fails(http.StatusRequestEntityTooLarge, "batch_too_large")
		b.post("/v1/mdelete", keys(n), marked(bad)).fails(http.StatusRequestEntityTooLarge, "batch_too_large")
		// Bad entries must not make room for others.
		for _, every := range []int{1, 2, 1000} {
			withBad := entries(n, func(i int) string {
				if i%every == 0 {
					return `"\u0000"`
				}
				return `"changed"`
			})
			b.post("/v1/mset", withBad, marked(bad)).fails(http.StatusRequestEntityTooLarge, "batch_too_large")
		}
	}
	require.Len(t, b.keys("", 1000), 1000)
	require.Equal(t, "1", b.get("/v1/items/k1").is(http.StatusOK).body)
	require.JSONEq(t, `{"deleted":1000}`, b.post("/v1/mdelete", keys(1000)).is(http.StatusOK).body)
}

func TestUnsupportedMethods(t *testing.T) {
	t.Parallel()
	b := setup(t)
	allowed := map[string][]string{}
	for _, operation := range operations {
		allowed[operation.path] = append(allowed[operation.path], operation.method)
	}
	for path, methods := range allowed {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			b := b.on(t)
			for _, method := range []string{
				http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodPatch,
				http.MethodOptions, http.MethodTrace, "PROPFIND", "get",
			} {
				if slices.Contains(methods, method) {
					continue
				}
				a := b.do(method, path, marked(bad)).is(http.StatusMethodNotAllowed)
				got := strings.Split(a.header.Get("Allow"), ", ")
				require.ElementsMatch(t, methods, got, "%s %s", method, path)
				if method != http.MethodHead {
					a.fails(http.StatusMethodNotAllowed, "method_not_allowed")
				}
			}
		})
	}
}

func TestUnknownRoutes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, path := range []string{
		"/", "/v1", "/v1/", "/v1/nope", "/v2/items", "/V1/items", "/v1/item/a", "/v1/items/a/b", "/v1/items/a/", "/v1/items/a/metadata/",
		"/v1/items/a/touch/x", "/v1/components", "/v1/components/", "/v1/components/f/n/", "/v1/components/f/n/x", "/v1/blocks", "/v1/mget/",
		"/v1/frameworks/f", "//v1/items", "/v1//items", "/v1/../v1/items", "/v1%2Fitems", "/livez/", "/r", "/openapi.json", "/favicon.ico", "/%00", "/%ff",
		"/r/", "/r/f", "/r/f/", "/r/f/n", "/r/f/n.txt", "/r/f/n.json/", "/r/f/n/x.json", "/r/f/n.JSON",
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			b := b.on(t)
			for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, "PROPFIND"} {
				b.do(method, path, marked(bad)).fails(http.StatusNotFound, "not_found")
			}
			b.do(http.MethodHead, path, marked(bad)).is(http.StatusNotFound)
		})
	}
}

func TestNoBadRequestChangesAnything(t *testing.T) {
	t.Parallel()
	b := setup(t)
	want := map[string]string{}
	for _, sample := range samples {
		b.put(sample.path+"?ttl=1000", sample.text).is(http.StatusCreated)
		want[sample.key] = sample.text
	}
	before := map[string]metadata{}
	for key := range want {
		before[key] = b.metadata(key)
	}
	for _, request := range []struct{ method, path, text string }{
		{http.MethodPut, "/v1/components/react/button", `{"sourceCode":1}`},
		{http.MethodPut, "/v1/components/react/button?ttl=x", sampleComponent},
		{http.MethodPut, "/v1/components/react/button?nope=1", sampleComponent},
		{http.MethodPost, "/v1/mset", `{"entries":{"team:theme":1,"component:react:button":{}}}`},
		{http.MethodPost, "/v1/mset", `{"entries":{"team:theme":1},"ttl":-1}`},
		{http.MethodPost, "/v1/mset", `{"entries":{"team:theme":1}}}`},
		{http.MethodPost, "/v1/mdelete", `{"keys":["team:theme","component:x"]}`},
		{http.MethodPost, "/v1/transactions", `{"operations":[{"delete":{"key":"team:theme"}},{"delete":{"key":"component:x"}}]}`},
		{http.MethodPost, "/v1/items/team:theme/touch", `{"ttl":5,"x":1}`},
		{http.MethodDelete, "/v1/items/team:theme?nope=1", ``},
		{http.MethodDelete, "/v1/items?patern=team*", ``},
		{http.MethodPut, "/r/react/button.json", `{"name":"button","type":1}`},
	} {
		b.do(request.method, request.path, body(request.text), marked(bad))
	}
	for key, text := range want {
		m := b.metadata(key)
		m.TTLRemainingSeconds = before[key].TTLRemainingSeconds
		require.Equal(t, before[key], m)
		require.Equal(t, text, b.get(itemPath(key)).is(http.StatusOK).body)
	}
	require.Equal(t, slices.Sorted(maps.Keys(want)), b.keys("", 10))
}
