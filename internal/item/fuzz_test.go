package item_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stockroom/stockroom/internal/item"
)

// FuzzParseKey holds keys against their rules, written down a second time.
func FuzzParseKey(f *testing.F) {
	for _, seed := range []string{
		"", ".", "..", "...", "a", "component", "component:react:button", "block:react:login-01", "component:react:a:b", "component::a", "block:a:",
		"components:a:b", ":component:a:b", "Component:a:b", "component:.:x", "component:x:..", "a\x00", "\x7f", "a\xff", "\xc0\xae", "é", "\u2028", "a b/c%2F?#",
		"component:" + strings.Repeat("é", 50) + ":" + strings.Repeat("n", 100), "component:" + strings.Repeat("f", 51) + ":n", "block:f:" + strings.Repeat("é", 101),
		strings.Repeat("k", 255), strings.Repeat("k", 256), strings.Repeat("é", 128),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		key, err := item.ParseKey(text)
		if got, want := err == nil, goodKey(text); got != want {
			t.Fatalf("%q: %v, which is not the rule", text, err)
		}
		if err != nil {
			fault, ok := errors.AsType[*item.Fault](err)
			if !ok || fault.Code != item.CodeInvalidKey || fault.Detail == "" || !utf8.ValidString(fault.Key) || len(fault.Key) > 255 {
				t.Fatalf("%q: %#v", text, err)
			}
			return
		}
		if key.String() != text {
			t.Fatalf("%q has become %q", text, key)
		}
		segments := strings.Split(text, ":")
		var again item.Key
		switch key.Kind() {
		case item.KindComponent:
			again, err = item.ComponentKey(key.Framework(), key.Name())
		case item.KindBlock:
			again, err = item.BlockKey(key.Framework(), key.Name())
		case item.KindEntry:
			again, err = item.ParseKey(text)
			segments = []string{"entry", "", ""}
		}
		if err != nil || again != key || key.Kind() != item.Kind(segments[0]) || key.Framework() != segments[1] || key.Name() != segments[2] {
			t.Fatalf("%q is %s %q %q, and again %v, %v", text, key.Kind(), key.Framework(), key.Name(), again, err)
		}
		// A framework that stands in a key may stand alone.
		if key.Kind() != item.KindEntry && item.CheckFramework(key.Framework()) != nil {
			t.Fatalf("the framework %q is good in a key only", key.Framework())
		}
	})
}

func goodKey(text string) bool {
	if len(text) < 1 || len(text) > 255 || !utf8.ValidString(text) || text == "." || text == ".." {
		return false
	}
	for _, r := range text {
		if r < 0x20 || r == 0x7f {
			return false
		}
	}
	segments := strings.Split(text, ":")
	if segments[0] != "component" && segments[0] != "block" {
		return true
	}
	good := func(segment string, most int) bool {
		n := utf8.RuneCountInString(segment)
		return n >= 1 && n <= most && segment != "." && segment != ".."
	}
	return len(segments) == 3 && good(segments[1], 50) && good(segments[2], 100)
}

// FuzzParse reads bodies as each kind of item and holds them against what
// encoding/json makes of them.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		``, ` `, `null`, `1`, `-0`, `1.50`, `1e400`, `01`, `"a"`, `"\u0000"`, `"\\u0000"`, `"\ud800"`, `"\udc00\udc00"`, `"\ud83d\ude00"`, "\"\xff\"", "\"\x00\"", `[]`, `[1,[2,{"a":[]}]]`, `{}`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`,
		`{"a":1} 2`, `{"a":1`, `{"a":}`, `[1,]`, "\ufeff1", `/**/1`, `NaN`, `'a'`, " { \"a\" : 1.10 , \"b\" : [ ] } ", strings.Repeat("[", 64) + strings.Repeat("]", 64), strings.Repeat("[", 65) + strings.Repeat("]", 65),
		`{"sourceCode":""}`, `{"sourceCode":"é\n","demoCode":"x","metadata":{"n":1.50},"dependencies":["a"],"registryDependencies":[],"githubSha":"4f2c1d9e8b7a6f5e4d3c2b1a09f8e7d6c5b4a392","fileSize":1e3,"lastModified":"2026-01-31T12:00:00.120+02:00","framework":"f","name":"n"}`,
		`{"sourceCode":"","fileSize":-0}`, `{"sourceCode":"","fileSize":1.0}`, `{"sourceCode":"","fileSize":1e-400}`, `{"sourceCode":"","fileSize":9007199254740991}`, `{"sourceCode":"","fileSize":9007199254740991.4}`, `{"sourceCode":"","fileSize":1.00000000000000000001}`, `{"sourceCode":"","fileSize":0.1e1}`, `{"sourceCode":"","fileSize":1e99999999999}`,
		`{"sourceCode":"","githubSha":"x"}`, `{"sourceCode":null}`, `{"sourceCode":"","extra":[{"a":1,"a":1}]}`, `{"sourceCode":"","metadata":[]}`, `{"sourceCode":"","dependencies":[1]}`, `{"sourceCode":"","lastModified":"yesterday"}`, `{"name":"m","sourceCode":""}`,
		`{"files":[]}`, `{"files":{"a":{"content":"é"}},"structure":null,"type":"simple","category":"c","totalSize":5,"description":"","componentsUsed":["a"]}`, `{"files":[{"content":"a\u0000"}]}`, `{"files":1}`, `{"type":"medium","files":[]}`, `{"files":[],"totalSize":1.5}`,
	} {
		f.Add([]byte(seed))
	}
	var keys []item.Key
	for _, text := range []string{"e", "component:f:n", "block:f:n"} {
		key, err := item.ParseKey(text)
		if err != nil {
			f.Fatal(err)
		}
		keys = append(keys, key)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		sent := bytes.Clone(body)
		for _, key := range keys {
			value, err := item.Parse(key, body)
			checkWays(t, key, body)
			if !bytes.Equal(sent, body) {
				t.Fatal("the body was changed")
			}
			if err != nil {
				checkParseFault(t, key, body, err)
			} else {
				checkParsed(t, key, body, value)
			}
		}
	})
}

// checkWays checks that the quick way to read a body takes nothing else than the
// thorough one, and makes the same of it.
func checkWays(t *testing.T, key item.Key, body []byte) {
	t.Helper()
	quick, ok := item.ParseQuickly(key, body)
	if !ok {
		return
	}
	thorough, err := item.ParseThoroughly(key, body)
	if err != nil || !reflect.DeepEqual(thorough, quick) {
		t.Fatalf("%s: %q is taken: %v, %+v, not %+v", key, body, err, quick, thorough)
	}
}

// FuzzParseBatch holds that what is taken for a batch at once is one entry by entry.
func FuzzParseBatch(f *testing.F) {
	for _, seed := range []string{
		`{"entries":{}}`, `{"entries":{"e":1,"component:f:n":{"sourceCode":"x"},"block:f:n":{"files":[{"content":"é"}]}},"ttl":5}`,
		` { "ttl" : 0 , "entries" : { "e" : [ 1 , 2 ] , "\u0065f" : 1 } } `, `{"entries":{"e":1,"e":2}}`, `{"entries":{"e":1},"entries":{}}`,
		`{"entries":{"a":1,"b":2,"c":3}}`, `{"ttl":1,"ttl":1,"entries":{}}`, `{"ttl":99999999999999999999,"entries":{}}`, `{"ttl":1.0,"entries":{}}`,
		`{"ttl":1}`, `{"entries":{".":1}}`, `{"entries":[]}`, `{"entries":{"e":1}}x`, `{"other":1,"entries":{}}`, `{"entries":{"component:f:n":{"sourceCode":"x","sourceCode":"y"}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		batch, ok := item.ParseBatch(body, 2)
		if !ok {
			return
		}
		var read struct {
			Entries map[string]json.RawMessage `json:"entries"`
			TTL     *item.TTL                  `json:"ttl"`
		}
		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&read); err != nil || read.Entries == nil || !isGoodJSON(body) {
			t.Fatalf("%q is taken: %v", body, err)
		}
		if len(batch.Values) > 2 || len(batch.Values) != len(read.Entries) || !reflect.DeepEqual(batch.TTL, read.TTL) {
			t.Fatalf("%q has become %+v", body, batch)
		}
		for _, value := range batch.Values {
			want, err := item.ParseThoroughly(value.Key, read.Entries[value.Key.String()])
			if err != nil || !reflect.DeepEqual(want, value) {
				t.Fatalf("%q: %v, %+v, not %+v", body, err, value, want)
			}
		}
	})
}

// checkParseFault checks an error of Parse: it is one that callers are told, and
// an entry is refused only for its JSON.
func checkParseFault(t *testing.T, key item.Key, body []byte, err error) {
	t.Helper()
	fault, ok := errors.AsType[*item.Fault](err)
	if !ok || fault.Code == "" || fault.Detail == "" || !utf8.ValidString(fault.Error()) {
		t.Fatalf("%s %q: %#v", key, body, err)
	}
	if fault.Pointer != "" && fault.Pointer[0] != '/' {
		t.Fatalf("%s %q: the place is %q", key, body, fault.Pointer)
	}
	faulty := map[item.Code]bool{item.CodeMalformedJSON: true, item.CodeDuplicateName: true, item.CodeTooDeep: true, item.CodeInvalidString: true}[fault.Code]
	if key.Kind() != item.KindEntry {
		return
	}
	if !faulty {
		t.Fatalf("an entry is refused for %s: %q", fault.Code, body)
	}
	if isGoodJSON(body) {
		t.Fatalf("%q is refused: %v", body, err)
	}
}

// checkParsed checks what Parse has made of a body: the same value, in a form that
// stays as it is from then on.
func checkParsed(t *testing.T, key item.Key, body []byte, value item.Value) {
	t.Helper()
	if !isGoodJSON(body) {
		t.Fatalf("%s: %q is taken", key, body)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, value.JSON()); err != nil || !bytes.Equal(compact.Bytes(), value.JSON()) {
		t.Fatalf("%s %q: %q is not compact JSON", key, body, value.JSON())
	}
	if want, got := decodedJSON(body), decodedJSON(value.JSON()); !sameJSON(want, got, key.Kind() != item.KindEntry) {
		t.Fatalf("%s: %q has become %q", key, body, value.JSON())
	}
	again, err := item.Parse(key, value.JSON())
	if err != nil || !bytes.Equal(again.JSON(), value.JSON()) || again.ETag != value.ETag || again.Bytes != value.Bytes {
		t.Fatalf("%s %q: what is got cannot be put: %q, %v", key, body, value.JSON(), err)
	}
	if value.Bytes < 0 || value.Key != key || value.ETag != item.ETagOf(value.JSON()) {
		t.Fatalf("%s %q: %d bytes, key %s, tag %s", key, body, value.Bytes, value.Key, value.ETag)
	}
	compact.Reset()
	if key.Kind() == item.KindEntry && (json.Compact(&compact, body) != nil || !bytes.Equal(compact.Bytes(), value.JSON()) || value.Bytes != int64(len(value.JSON()))) {
		t.Fatalf("%q is charged %d bytes as %q", body, value.Bytes, value.JSON())
	}
}

// isGoodJSON tells whether body is one value of I-JSON as the rules want it, by
// encoding/json's tokens.
func isGoodJSON(body []byte) bool {
	if !json.Valid(body) || !utf8.Valid(body) || hasBadEscape(body) {
		return false
	}
	type level struct {
		names map[string]bool // nil: an array
		value bool            // a member's value comes next
	}
	var levels []level
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	for {
		token, err := decoder.Token()
		if err != nil {
			return errors.Is(err, io.EOF)
		}
		var top *level
		if len(levels) > 0 {
			top = &levels[len(levels)-1]
		}
		if name, ok := token.(string); ok && top != nil && top.names != nil && !top.value {
			if top.names[name] {
				return false
			}
			top.names[name], top.value = true, true
			continue
		}
		if top != nil {
			top.value = false
		}
		switch token {
		case json.Delim('{'):
			levels = append(levels, level{names: map[string]bool{}})
		case json.Delim('['):
			levels = append(levels, level{})
		case json.Delim('}'), json.Delim(']'):
			levels = levels[:len(levels)-1]
		}
		if len(levels) > 64 {
			return false
		}
	}
}

// hasBadEscape tells whether valid JSON has the escape of U+0000 or of a
// surrogate without its other half, which encoding/json replaces without a word.
func hasBadEscape(body []byte) bool {
	for at := 0; at < len(body); at++ {
		if body[at] != '\\' {
			continue
		}
		at++
		if body[at] != 'u' {
			continue
		}
		unit := escaped(body[at+1:])
		at += 4
		switch {
		case unit == 0, unit >= 0xdc00 && unit < 0xe000:
			return true
		case unit >= 0xd800 && unit < 0xdc00:
			if at+6 >= len(body) || body[at+1] != '\\' || body[at+2] != 'u' {
				return true
			}
			if low := escaped(body[at+3:]); low < 0xdc00 || low >= 0xe000 {
				return true
			}
			at += 6
		}
	}
	return false
}

func escaped(digits []byte) int64 {
	n, _ := new(big.Int).SetString(string(digits[:4]), 16)
	return n.Int64()
}

func decodedJSON(text []byte) any {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var v any
	_ = decoder.Decode(&v) // it is valid
	return v
}

// sameJSON compares values; numbers must have the same digits or, with sizes, the
// same value in fileSize and totalSize.
func sameJSON(want, got any, sizes bool) bool {
	switch want := want.(type) {
	case map[string]any:
		got, ok := got.(map[string]any)
		if !ok || len(got) != len(want) {
			return false
		}
		for name, value := range want {
			other, ok := got[name]
			if !ok {
				return false
			}
			if sizes && (name == "fileSize" || name == "totalSize") {
				if !sameNumber(value, other) {
					return false
				}
				continue
			}
			if !sameJSON(value, other, false) {
				return false
			}
		}
		return true
	case []any:
		got, ok := got.([]any)
		if !ok || len(got) != len(want) {
			return false
		}
		for i := range want {
			if !sameJSON(want[i], got[i], false) {
				return false
			}
		}
		return true
	}
	return want == got
}

// sameNumber compares the values of two numbers exactly. An exponent beyond what
// sizes can need is not looked at: with it there is no such size but zero.
func sameNumber(want, got any) bool {
	a, ok := want.(json.Number)
	b, isNumber := got.(json.Number)
	if !ok || !isNumber {
		return false
	}
	mantissa, exponent, _ := strings.Cut(strings.ToLower(string(a)), "e")
	if len(exponent) > 5 {
		return strings.Trim(mantissa, "-0.") == "" && b == "0"
	}
	x, ok := new(big.Rat).SetString(string(a))
	y, isRat := new(big.Rat).SetString(string(b))
	return ok && isRat && x.Cmp(y) == 0
}
