package http_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/stockroom/stockroom/internal/readcache"
)

// The samples have all fields, in the order in which they come back.
const (
	sampleComponent = `{"framework":"react","name":"button","sourceCode":"export const Button = () => <b>\"ü\\n🎉\"</b>\n",` +
		`"demoCode":"<Button/>","metadata":{"n":1.10,"deep":{"big":12345678901234567890,"list":[null,true,""]}},` +
		`"dependencies":["a","b"],"registryDependencies":[],"githubSha":"4f2c1d9e8b7a6f5e4d3c2b1a09f8e7d6c5b4a392",` +
		`"fileSize":1824,"lastModified":"2026-11-18T08:00:00.120+01:00"}`
	sampleBlock = `{"framework":"react","name":"login","category":"authentication","type":"complex","description":"A form.",` +
		`"files":[{"path":"page.tsx","content":"日本語"},{"path":"form.tsx","content":"b","x":0.10}],` +
		`"structure":{"entry":"page.tsx","n":1e2},"dependencies":["zod"],"componentsUsed":["button","card"],` +
		`"totalSize":6230,"githubSha":"4F2C1D9E8B7A6F5E4D3C2B1A09F8E7D6C5B4A392"}`
	sampleEntry = `{"remaining":4999,"rate":1.50,"exp":1E400,"neg":-0,"big":123456789012345678901234567890,"text":"\u00e9 \/ 🎉","z":null}`
)

// samples are one item of each kind, under each of its addresses.
var samples = []struct {
	kind, key, path, text string
	size                  int64
}{
	{"component", "component:react:button", "/v1/components/react/button", sampleComponent, 1824},
	{"block", "block:react:login", "/v1/blocks/react/login", sampleBlock, 6230},
	{"entry", "team:theme", "/v1/items/team:theme", sampleEntry, int64(len(sampleEntry))},
}

//nolint:tparallel // few subtests on one store
func TestWhatIsPutIsWhatIsGot(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, sample := range samples {
		t.Run(sample.kind, func(t *testing.T) {
			b := b.on(t)
			a := b.put(sample.path, sample.text).is(http.StatusCreated)
			require.Equal(t, sample.path, a.header.Get("Location"))
			m := a.metadata()
			require.Equal(t, sample.key, m.Key)
			require.Equal(t, sample.kind, m.Kind)
			require.Equal(t, sample.size, m.SizeBytes)
			require.Equal(t, m.ETag, a.header.Get("ETag"))
			for _, path := range []string{sample.path, itemPath(sample.key), "/v1/items/" + strings.ReplaceAll(url.QueryEscape(sample.key), ":", "%3A")} {
				got := b.get(path).is(http.StatusOK)
				require.Equal(t, sample.text, got.body, path)
				require.Equal(t, m.ETag, got.header.Get("ETag"))
				require.Equal(t, m.UpdatedAt.UTC().Format(http.TimeFormat), got.header.Get("Last-Modified"))
				require.Empty(t, got.header.Get("Stockroom-Expires"))
				require.Equal(t, strconv.Itoa(len(sample.text)), got.header.Get("Content-Length"))
			}
			require.Equal(t, `{"items":{"`+sample.key+`":`+sample.text+`},"missing":[]}`,
				b.post("/v1/mget", `{"keys":["`+sample.key+`"]}`).is(http.StatusOK).body)
		})
	}
}

// TestFormOfWhatComesBack is about bodies that come back in another form than
// they were sent in: fields in their order, without white space.
func TestFormOfWhatComesBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, tc := range map[string]struct{ key, sent, want string }{
		"white space of an entry":     {"a", " { \"a\" : [ 1 , 2.0 ] ,\n\t\"b c\" : \" d \" } \r\n", `{"a":[1,2.0],"b c":" d "}`},
		"string":                      {"b", `"text"`, `"text"`},
		"empty string":                {"c", `""`, `""`},
		"number":                      {"d", `-0.10e+5`, `-0.10e+5`},
		"null":                        {"e", `null`, `null`},
		"false":                       {"f", `false`, `false`},
		"empty object":                {"g", `{ }`, `{}`},
		"order of an entry's members": {"h", `{"b":1,"a":2,"":3}`, `{"b":1,"a":2,"":3}`},
		"escapes of an entry":         {"i", `"\u003c\/\b\ud83c\udf89\u0001\\u0000"`, `"\u003c\/\b\ud83c\udf89\u0001\\u0000"`},
		"order of a component":        {"component:f:a", `{"demoCode":"d","sourceCode":"s","name":"a"}`, `{"name":"a","sourceCode":"s","demoCode":"d"}`},
		"escapes of a component":      {"component:f:b", `{"sourceCode":"\u003c\u00e9\u2028"}`, "{\"sourceCode\":\"<é\u2028\"}"},
		"metadata as it was sent":     {"component:f:c", `{"sourceCode":"","metadata":{ "b" : 1.0, "a" : "\u00e9" }}`, `{"sourceCode":"","metadata":{"b":1.0,"a":"\u00e9"}}`},
		"empty lists stay":            {"component:f:d", `{"sourceCode":"","dependencies":[],"registryDependencies":[]}`, `{"sourceCode":"","dependencies":[],"registryDependencies":[]}`},
		"integer with a fraction":     {"component:f:e", `{"sourceCode":"","fileSize":12.0}`, `{"sourceCode":"","fileSize":12}`},
		"files as an object":          {"block:f:a", `{"files":{"a.tsx":"x"}}`, `{"files":{"a.tsx":"x"}}`},
		"null structure":              {"block:f:b", `{"structure":null,"files":[]}`, `{"files":[],"structure":null}`},
		"structure of any type":       {"block:f:c", `{"structure":1.50,"files":[ ]}`, `{"files":[],"structure":1.50}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := b.on(t)
			b.stored(tc.key, tc.sent)
			require.Equal(t, tc.want, b.get(itemPath(tc.key)).is(http.StatusOK).body)
		})
	}
}

// combinations returns the JSON of an object with the required member and every
// subset of the optional ones.
func combinations(required string, optional []string) []string {
	all := make([]string, 0, 1<<len(optional))
	for set := range 1 << len(optional) {
		members := []string{required}
		for i, member := range optional {
			if set&(1<<i) != 0 {
				members = append(members, member)
			}
		}
		all = append(all, "{"+strings.Join(members, ",")+"}")
	}
	return all
}

// TestFieldsLeftOutAreAbsent puts components and blocks with every combination of
// their fields.
func TestFieldsLeftOutAreAbsent(t *testing.T) {
	t.Parallel()
	for kind, texts := range map[string][]string{
		"component": combinations(`"sourceCode":"s"`, []string{
			`"framework":"f"`, `"name":"NAME"`, `"demoCode":""`, `"metadata":{"a":1.0}`, `"dependencies":["d"]`,
			`"registryDependencies":["r"]`, `"githubSha":"4f2c1d9e8b7a6f5e4d3c2b1a09f8e7d6c5b4a392"`, `"fileSize":0`,
			`"lastModified":"2026-11-18T08:00:00Z"`,
		}),
		"block": combinations(`"files":[]`, []string{
			`"framework":"f"`, `"name":"NAME"`, `"category":""`, `"type":"simple"`, `"description":""`, `"structure":null`,
			`"dependencies":[]`, `"componentsUsed":["c"]`, `"totalSize":7`, `"githubSha":"4f2c1d9e8b7a6f5e4d3c2b1a09f8e7d6c5b4a392"`,
		}),
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			b := setup(t, limits(8<<20, len(texts)))
			var sent strings.Builder
			keys := make([]string, len(texts))
			for i, text := range texts {
				name := fmt.Sprintf("n%d", i)
				keys[i] = kind + ":f:" + name
				fmt.Fprintf(&sent, `,%q:%s`, keys[i], strings.ReplaceAll(text, "NAME", name))
			}
			items := "{" + sent.String()[1:] + "}"
			b.post("/v1/mset", `{"entries":`+items+`}`).is(http.StatusOK)
			a := b.do(http.MethodPost, "/v1/mget", bodyOf(map[string]any{"keys": keys})).is(http.StatusOK)
			requireSameJSON(t, `{"items":`+items+`,"missing":[]}`, a.body, kind)
		})
	}
}

func TestBigValues(t *testing.T) {
	t.Parallel()
	b := setup(t)
	big := strings.Repeat("0123456789 ü🎉\\n\\\"", 1<<20/20)
	for key, text := range map[string]string{
		"big":             `"` + big + `"`,
		"component:f:big": `{"sourceCode":"` + big + `"}`,
		"block:f:big":     `{"files":[{"content":"` + big + `"}]}`,
	} {
		b.stored(key, text)
		require.Equal(t, text, b.get(itemPath(key)).is(http.StatusOK).body, key)
	}
}

// nastyTexts are what a path, a pattern or SQL could take for something else.
var nastyTexts = []string{
	"a/b", "/", "//", "a//b", "/a/", "a%2Fb", "%", "%%", "100%", "a b", " ", "a+b", "a;b", "a?b=c", "a#b", "a&b=c", `"quoted"`,
	"it's", "`x`", "$1", "a\\b", "ünïcödé", "日本語", "🎉👩‍💻", "e\u0301", "\u202e\ufeff", "a*b?c", "under_score", "...", ".hidden",
	"{x}", "<script>", "~", "|", "a.b.c", "a.json", "registry.json", "metadata", "touch", "%00", "%ff", "x'; DROP TABLE entries; --",
}

// TestNastyKeys takes each key through every route that takes one.
func TestNastyKeys(t *testing.T) {
	t.Parallel()
	b := setup(t)
	keys := append([]string{
		":", "::", "components:react:button", "Component:react:button", "a:b:c:d", ":component:x", "blocks",
		strings.Repeat("k", 255), strings.Repeat("é", 127) + "x", strings.Repeat("🎉", 63),
	}, nastyTexts...)
	for _, key := range keys {
		t.Run(fmt.Sprintf("%.20q", key), func(t *testing.T) {
			t.Parallel()
			b := b.on(t)
			path := itemPath(key)
			a := b.put(path, sampleEntry).is(http.StatusCreated)
			require.Equal(t, key, a.metadata().Key)
			b.get(a.header.Get("Location")).is(http.StatusOK)
			require.Equal(t, sampleEntry, b.get(path).is(http.StatusOK).body)
			require.Equal(t, sampleEntry, b.get("/v1/items/"+everyByteEscaped(key)).is(http.StatusOK).body)
			b.do(http.MethodHead, path).is(http.StatusOK)
			require.Equal(t, key, b.metadata(key).Key)
			require.Equal(t, key, b.post(path+"/touch", `{"ttl":100}`).is(http.StatusOK).metadata().Key)
			require.Equal(t, []string{key}, b.keys(escapedPattern(key), 10))
			asked := bodyOf(map[string]any{"keys": []string{key}})
			got := decode[mgetResult](b.do(http.MethodPost, "/v1/mget", asked).is(http.StatusOK))
			require.Equal(t, map[string]json.RawMessage{key: json.RawMessage(sampleEntry)}, got.Items)
			b.do(http.MethodPost, "/v1/mset", bodyOf(map[string]any{"entries": map[string]any{key: 2}})).is(http.StatusOK)
			require.Equal(t, "2", b.get(path).is(http.StatusOK).body)
			require.JSONEq(t, `{"deleted":1}`, b.do(http.MethodPost, "/v1/mdelete", asked).is(http.StatusOK).body)
			b.stored(key, "3")
			b.do(http.MethodDelete, path).is(http.StatusNoContent)
			b.stored(key, "4")
			cleared := b.do(http.MethodDelete, "/v1/items?pattern="+url.QueryEscape(escapedPattern(key))).is(http.StatusOK)
			require.JSONEq(t, `{"components":0,"blocks":0,"entries":1}`, cleared.body)
			b.get(path).fails(http.StatusNotFound, "not_found")
		})
	}
	require.Empty(t, b.keys("", 1000))
}

// TestNastyNames likewise takes frameworks and names.
func TestNastyNames(t *testing.T) {
	t.Parallel()
	b := setup(t)
	texts := append([]string{strings.Repeat("🎉", 13), strings.Repeat("n", 50)}, nastyTexts...)
	for i, name := range texts {
		framework := texts[(i+7)%len(texts)]
		t.Run(fmt.Sprintf("%.20q and %.20q", framework, name), func(t *testing.T) {
			t.Parallel()
			b := b.on(t)
			kinds := map[string]string{"component": `{"sourceCode":""}`, "block": `{"files":[]}`}
			delete(kinds, []string{"component", "block"}[i%2]) // half of them each, which is enough
			for kind, text := range kinds {
				key, path := kind+":"+framework+":"+name, namedPath(kind, framework, name)
				a := b.put(path, text).is(http.StatusCreated)
				require.Equal(t, key, a.metadata().Key)
				require.Equal(t, path, a.header.Get("Location"))
				require.Equal(t, text, b.get(path).is(http.StatusOK).body)
				require.Equal(t, text, b.get(itemPath(key)).is(http.StatusOK).body)
				b.do(http.MethodHead, path).is(http.StatusOK)
				list := walk[map[string]any](b, "/v1/"+kind+"s/"+url.PathEscape(framework), "items", url.Values{}, nil)
				require.Len(t, list, 1)
				require.Equal(t, framework, list[0]["framework"])
				require.Equal(t, name, list[0]["name"])
				b.do(http.MethodDelete, path).is(http.StatusNoContent)
			}
			sent := bodyOf(map[string]any{"name": name, "type": "registry:ui", "files": []any{}})
			b.do(http.MethodPut, registryPath(framework, name), sent).is(http.StatusCreated)
			got := decode[map[string]any](b.get(registryPath(framework, name)).is(http.StatusOK))
			require.Equal(t, name, got["name"])
			b.do(http.MethodDelete, namedPath("component", framework, name)).is(http.StatusNoContent)
		})
	}
}

func everyByteEscaped(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		fmt.Fprintf(&b, "%%%02x", c)
	}
	return b.String()
}

// escapedPattern is the pattern that matches nothing but key.
func escapedPattern(key string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`).Replace(key)
}

func TestETags(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, sample := range samples {
		t.Run(sample.kind, func(t *testing.T) {
			t.Parallel()
			b := b.on(t)
			first := b.put(sample.path, sample.text).is(http.StatusCreated).header.Get("ETag")
			again := b.put(sample.path, " "+sample.text+"\n").is(http.StatusOK)
			require.Equal(t, first, again.header.Get("ETag"), "the same content")
			require.Empty(t, again.header.Get("Location"))
			other := strings.Replace(sample.text, "19", "18", 1)
			other = strings.Replace(other, "1824", "1825", 1)
			other = strings.Replace(other, "6230", "6231", 1)
			other = strings.Replace(other, "4999", "5000", 1)
			changed := b.put(sample.path, other).is(http.StatusOK).header.Get("ETag")
			require.NotEqual(t, first, changed, "another content")
			require.Equal(t, changed, b.do(http.MethodHead, sample.path).is(http.StatusOK).header.Get("ETag"))
			require.Equal(t, changed, b.metadata(sample.key).ETag)
			b.do(http.MethodDelete, sample.path).is(http.StatusNoContent)
			require.Equal(t, first, b.put(sample.path, sample.text).is(http.StatusCreated).header.Get("ETag"), "the same content once more")
		})
	}
}

func TestIfNoneMatchOnReads(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, sample := range samples {
		t.Run(sample.kind, func(t *testing.T) {
			t.Parallel()
			b := b.on(t)
			tag := b.put(sample.path, sample.text).is(http.StatusCreated).header.Get("ETag")
			for value, status := range map[string]int{
				tag:                            http.StatusNotModified,
				"W/" + tag:                     http.StatusNotModified,
				`"other", W/"x" , ` + tag:      http.StatusNotModified,
				"*":                            http.StatusNotModified,
				"  *  ":                        http.StatusNotModified,
				`"other"`:                      http.StatusOK,
				`""`:                           http.StatusOK,
				`W/"other","` + tag[1:3] + `"`: http.StatusOK,
			} {
				for _, method := range []string{http.MethodGet, http.MethodHead} {
					a := b.do(method, sample.path, header("If-None-Match", value)).is(status)
					require.Equal(t, tag, a.header.Get("ETag"), value)
					require.NotEmpty(t, a.header.Get("Last-Modified"), value)
					if status == http.StatusOK && method == http.MethodGet {
						require.Equal(t, sample.text, a.body)
					}
				}
			}
			two := b.get(sample.path, header("If-None-Match", `"other"`), header("If-None-Match", tag))
			two.is(http.StatusNotModified)
			b.get(sample.path, header("If-None-Match", `,, "other" ,,`+tag+","), marked(loose)).is(http.StatusNotModified)
			b.put(sample.path+"?ttl=60", sample.text).is(http.StatusOK)
			expiring := b.get(sample.path, header("If-None-Match", tag)).is(http.StatusNotModified)
			require.NotEmpty(t, expiring.header.Get("Stockroom-Expires"))
			b.get(itemPath(sample.key+"x"), header("If-None-Match", "*")).fails(http.StatusNotFound, "not_found")
		})
	}
}

func TestPreconditionsOfWrites(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, sample := range samples {
		t.Run(sample.kind, func(t *testing.T) {
			t.Parallel()
			b := b.on(t)
			put := func(name, value string) *answer { return b.put(sample.path, sample.text, header(name, value)) }
			remove := func(name, value string) *answer { return b.do(http.MethodDelete, sample.path, header(name, value)) }
			const failed = "precondition_failed"

			put("If-Match", "*").fails(http.StatusPreconditionFailed, failed)
			put("If-Match", `"x"`).fails(http.StatusPreconditionFailed, failed)
			remove("If-Match", "*").fails(http.StatusNotFound, "not_found")
			remove("If-Match", `"x"`).fails(http.StatusNotFound, "not_found")
			b.get(sample.path).is(http.StatusNotFound)
			tag := put("If-None-Match", "*").is(http.StatusCreated).header.Get("ETag")

			put("If-None-Match", "*").fails(http.StatusPreconditionFailed, failed)
			put("If-None-Match", tag).fails(http.StatusPreconditionFailed, failed)
			put("If-None-Match", "W/"+tag).fails(http.StatusPreconditionFailed, failed)
			put("If-Match", `"x", "y"`).fails(http.StatusPreconditionFailed, failed)
			put("If-Match", "W/"+tag).fails(http.StatusPreconditionFailed, failed) // compared strongly
			b.put(sample.path, sample.text, header("If-Match", tag), header("If-None-Match", tag)).fails(http.StatusPreconditionFailed, failed)
			remove("If-Match", `"x"`).fails(http.StatusPreconditionFailed, failed)
			remove("If-Match", "W/"+tag).fails(http.StatusPreconditionFailed, failed)
			require.EqualValues(t, 1, b.metadata(sample.key).AccessCount, "a write that failed has changed something")

			put("If-None-Match", `"x"`).is(http.StatusOK)
			put("If-Match", tag).is(http.StatusOK)
			put("If-Match", `"x", `+tag).is(http.StatusOK)
			put("If-Match", "*").is(http.StatusOK)
			remove("If-Match", `"x",`+tag).is(http.StatusNoContent)
			b.put(sample.path, sample.text).is(http.StatusCreated)
			remove("If-Match", "*").is(http.StatusNoContent)
			b.do(http.MethodDelete, sample.path).fails(http.StatusNotFound, "not_found")
		})
	}
}

// TestPreconditionsTakeExpiredItemsForAbsent is about rows that are there but
// whose items are not.
func TestPreconditionsTakeExpiredItemsForAbsent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, sample := range samples {
		tag := b.put(sample.path, sample.text).is(http.StatusCreated).header.Get("ETag")
		b.expire(sample.key)
		b.put(sample.path, sample.text, header("If-Match", tag)).fails(http.StatusPreconditionFailed, "precondition_failed")
		b.put(sample.path, sample.text, header("If-Match", "*")).fails(http.StatusPreconditionFailed, "precondition_failed")
		b.do(http.MethodDelete, sample.path, header("If-Match", tag)).fails(http.StatusNotFound, "not_found")
		b.put(sample.path, sample.text, header("If-None-Match", tag)).is(http.StatusCreated)
		b.expire(sample.key)
		b.put(sample.path, sample.text, header("If-None-Match", "*")).is(http.StatusCreated)
	}
}

const crowd = 32

// together runs f by that many goroutines at once.
func together(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	var group errgroup.Group
	start := make(chan struct{})
	for i := range n {
		group.Go(func() error {
			<-start
			return f(i)
		})
	}
	close(start)
	require.NoError(t, group.Wait())
}

// TestOneOfManyCreates has many clients create the same item at once, where there
// was none and where one has expired.
func TestOneOfManyCreates(t *testing.T) {
	t.Parallel()
	b := setup(t, slots(crowd/2))
	b.stored("old", "0")
	b.expire("old")
	for key, text := range map[string]string{"component:f:n": `{"sourceCode":"%d"}`, "block:f:n": `{"files":[%d]}`, "new": "%d", "old": "%d"} {
		statuses := make([]int, crowd)
		together(t, crowd, func(i int) error {
			a, err := b.try(http.MethodPut, itemPath(key), body(fmt.Sprintf(text, i)), header("If-None-Match", "*"))
			if err == nil {
				statuses[i] = a.status
			}
			return err
		})
		created := -1
		for i, status := range statuses {
			if status == http.StatusCreated {
				require.Equal(t, -1, created, "%s was created twice", key)
				created = i
				continue
			}
			require.Equal(t, http.StatusPreconditionFailed, status, key)
		}
		require.NotEqual(t, -1, created, "nobody created %s", key)
		require.Equal(t, fmt.Sprintf(text, created), b.get(itemPath(key)).is(http.StatusOK).body)
		require.EqualValues(t, 1, b.metadata(key).AccessCount, "%s was written by more than one", key)
	}
}

// TestNoUpdateIsLost has many clients add to a counter by compare-and-set, with
// and without a cache between them and the counter.
func TestNoUpdateIsLost(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		cacheBytes int64
		clients    int
	}{"cache": {1 << 20, crowd / 4}, "no cache": {0, crowd}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cache := readcache.New(tc.cacheBytes, time.Minute)
			t.Cleanup(cache.Close)
			b := setup(t, slots(crowd/2), func(s *settings) { s.options.Cache = cache })
			b.stored("counter", "0")
			together(t, tc.clients, func(int) error { return b.increment("/v1/items/counter") })
			require.Equal(t, strconv.Itoa(tc.clients), b.get("/v1/items/counter").is(http.StatusOK).body)
			b.flushMarks()
			require.GreaterOrEqual(t, b.metadata("counter").AccessCount, int64(1+2*tc.clients))
		})
	}
}

// increment adds 1 to the number at path, however often others are faster.
func (b *bundle) increment(path string) error {
	for range 10 * crowd { // others can be faster once each
		now, err := b.try(http.MethodGet, path)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(now.body)
		if err != nil {
			return err
		}
		set, err := b.try(http.MethodPut, path, body(strconv.Itoa(n+1)), header("If-Match", now.header.Get("ETag")))
		switch {
		case err != nil:
			return err
		case set.status == http.StatusOK:
			return nil
		case set.status != http.StatusPreconditionFailed:
			return fmt.Errorf("status %d: %s", set.status, set.body)
		}
	}
	return errors.New("the tag of a GET does not hold in a PUT")
}

func TestTTL(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, sample := range samples {
		t.Run(sample.kind, func(t *testing.T) {
			t.Parallel()
			b := b.on(t)
			never := func(m metadata) {
				t.Helper()
				require.Zero(t, m.TTLSeconds)
				require.Nil(t, m.TTLRemainingSeconds)
				require.Empty(t, b.do(http.MethodHead, sample.path).is(http.StatusOK).header.Get("Stockroom-Expires"))
			}
			expires := func(m metadata, ttl int64) {
				t.Helper()
				require.Equal(t, ttl, m.TTLSeconds)
				require.NotNil(t, m.TTLRemainingSeconds)
				require.InDelta(t, ttl, *m.TTLRemainingSeconds, patience.Seconds())
				require.LessOrEqual(t, *m.TTLRemainingSeconds, ttl)
				got, err := time.Parse(time.RFC3339, b.get(sample.path).is(http.StatusOK).header.Get("Stockroom-Expires"))
				require.NoError(t, err)
				require.Equal(t, time.UTC, got.Location())
				require.WithinDuration(t, time.Now().Add(time.Duration(ttl)*time.Second), got, patience)
			}
			never(b.put(sample.path, sample.text).metadata())
			expires(b.put(sample.path+"?ttl=3600", sample.text).is(http.StatusOK).metadata(), 3600)
			expires(b.metadata(sample.key), 3600)
			never(b.put(sample.path+"?ttl=0", sample.text).metadata())
			expires(b.put(sample.path+"?ttl=3155760000", sample.text).metadata(), 3155760000)
			never(b.put(sample.path, sample.text).metadata()) // a write replaces the TTL as well
			b.post("/v1/mset", `{"entries":{"`+sample.key+`":`+sample.text+`},"ttl":60}`).is(http.StatusOK)
			expires(b.metadata(sample.key), 60)
			b.post("/v1/mset", `{"entries":{"`+sample.key+`":`+sample.text+`}}`).is(http.StatusOK)
			never(b.metadata(sample.key))
		})
	}
}

// TestRemainingTimeIsRoundedUp compares it with what the database says is left.
func TestRemainingTimeIsRoundedUp(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.stored("a", "1")
	b.expireIn(100500*time.Millisecond, "a")
	shown := b.metadata("a").TTLRemainingSeconds
	require.NotNil(t, shown)
	var left float64 // a little later
	require.NoError(t, b.conn.QueryRow(t.Context(), `SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 FROM entries`).Scan(&left))
	require.GreaterOrEqual(t, float64(*shown), left)
}

func TestDefaultTTL(t *testing.T) {
	t.Parallel()
	b := setup(t, defaultTTL(120))
	require.EqualValues(t, 120, b.stored("a", "1").TTLSeconds)
	require.EqualValues(t, 0, b.put("/v1/items/b?ttl=0", "1").is(http.StatusCreated).metadata().TTLSeconds)
	require.EqualValues(t, 5, b.put("/v1/items/c?ttl=5", "1").is(http.StatusCreated).metadata().TTLSeconds)
	b.post("/v1/mset", `{"entries":{"d":1}}`).is(http.StatusOK)
	require.EqualValues(t, 120, b.metadata("d").TTLSeconds)
	b.post("/v1/mset", `{"entries":{"e":1},"ttl":0}`).is(http.StatusOK)
	require.EqualValues(t, 0, b.metadata("e").TTLSeconds)
	b.put("/r/f/n.json", `{"name":"n","type":"registry:ui"}`).is(http.StatusCreated)
	require.EqualValues(t, 120, b.metadata("component:f:n").TTLSeconds)
}

// TestExpiredItemsDoNotExist looks for expired items on every route.
func TestExpiredItemsDoNotExist(t *testing.T) {
	t.Parallel()
	b := setup(t)
	alive := map[string]string{"component:react:alive": `{"sourceCode":"abc"}`, "block:react:alive": `{"files":[],"totalSize":10}`, "alive": "1"}
	for key, text := range alive {
		b.put(itemPath(key)+"?ttl=1000", text).is(http.StatusCreated)
	}
	var keys []string
	for _, sample := range samples {
		b.put(sample.path+"?ttl=1000", sample.text).is(http.StatusCreated)
		b.get(sample.path).is(http.StatusOK)
		keys = append(keys, sample.key)
	}
	b.put("/v1/components/vue/only", `{"sourceCode":""}`).is(http.StatusCreated)
	b.put("/r/react/published.json", `{"name":"published","type":"registry:ui"}`).is(http.StatusCreated)
	keys = append(keys, "component:vue:only", "component:react:published")
	b.expire(keys...)

	for _, key := range keys {
		b.get(itemPath(key)).fails(http.StatusNotFound, "not_found")
		b.do(http.MethodHead, itemPath(key)).is(http.StatusNotFound)
		b.get(itemPath(key)+"/metadata").fails(http.StatusNotFound, "not_found")
		b.post(itemPath(key)+"/touch", `{"ttl":100}`).fails(http.StatusNotFound, "not_found")
	}
	b.get("/r/react/published.json").fails(http.StatusNotFound, "not_found")
	require.Equal(t, []string{"alive", "block:react:alive", "component:react:alive"}, b.keys("", 2))
	for _, kind := range []string{"components", "blocks"} {
		list := walk[metadata](b, "/v1/"+kind+"/react", "items", url.Values{}, nil)
		require.Len(t, list, 1, kind)
		require.True(t, strings.HasSuffix(list[0].Key, ":react:alive"))
	}
	require.Empty(t, walk[metadata](b, "/v1/blocks/react", "items", url.Values{"category": {"authentication"}}, nil))
	require.JSONEq(t, `{"frameworks":[{"framework":"react","components":1,"blocks":1,"sizeBytes":13}]}`, b.get("/v1/frameworks").is(http.StatusOK).body)
	got := decode[mgetResult](b.do(http.MethodPost, "/v1/mget", bodyOf(map[string]any{"keys": append(keys, "alive")})).is(http.StatusOK))
	require.Equal(t, mgetResult{Items: map[string]json.RawMessage{"alive": json.RawMessage("1")}, Missing: keys}, got)
	b.flushMarks() // must not trip over them either

	// A write to an expired item is a first write.
	for _, sample := range samples {
		var before time.Time
		require.NoError(t, b.conn.QueryRow(t.Context(), `SELECT now()`).Scan(&before))
		m := b.put(sample.path, sample.text).is(http.StatusCreated).metadata()
		require.False(t, m.CreatedAt.Before(before.Truncate(time.Microsecond)), "createdAt is that of the expired item")
		require.EqualValues(t, 1, m.AccessCount)
		b.expire(sample.key)
		b.do(http.MethodDelete, sample.path).fails(http.StatusNotFound, "not_found")
		b.stored(sample.key, sample.text)
	}
	b.expire("alive", samples[0].key)
	require.JSONEq(t, `{"deleted":1}`, b.post("/v1/mdelete", `{"keys":["alive","`+samples[0].key+`","block:react:alive"]}`).is(http.StatusOK).body)
	b.expire("component:react:alive")
	require.JSONEq(t, `{"components":0,"blocks":1,"entries":1}`, b.do(http.MethodDelete, "/v1/items").is(http.StatusOK).body)
}

func TestTouch(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, sample := range samples {
		t.Run(sample.kind, func(t *testing.T) {
			t.Parallel()
			b := b.on(t)
			touch := itemPath(sample.key) + "/touch"
			b.post(touch, `{"ttl":1}`).fails(http.StatusNotFound, "not_found")
			before := b.put(sample.path, sample.text).is(http.StatusCreated).metadata()
			same := func(m metadata, ttl int64) {
				t.Helper()
				require.Equal(t, ttl, m.TTLSeconds)
				require.Equal(t, ttl == 0, m.TTLRemainingSeconds == nil)
				want := before
				want.TTLSeconds, want.TTLRemainingSeconds = m.TTLSeconds, m.TTLRemainingSeconds
				require.Equal(t, want, m, "a touch has changed more than the TTL")
			}
			same(b.post(touch, `{}`).is(http.StatusOK).metadata(), 0)
			same(b.post(touch, "").is(http.StatusOK).metadata(), 0)
			same(b.post(touch, `{"ttl":100}`).is(http.StatusOK).metadata(), 100)
			b.expireIn(time.Minute, sample.key)
			for _, text := range []string{"", "{}"} { // its own TTL anew
				m := b.post(touch, text).is(http.StatusOK).metadata()
				same(m, 100)
				require.Greater(t, *m.TTLRemainingSeconds, int64(60))
			}
			same(b.do(http.MethodPost, touch).is(http.StatusOK).metadata(), 100)
			same(b.post(touch, `{"ttl":0}`).is(http.StatusOK).metadata(), 0)
			same(b.post(touch, `{}`).is(http.StatusOK).metadata(), 0)
			b.flushMarks()
			same(b.metadata(sample.key), 0)
			require.Equal(t, before.ETag, b.get(sample.path).is(http.StatusOK).header.Get("ETag"))
		})
	}
}

func TestAccessesAreCounted(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, sample := range samples {
		first := b.stored(sample.key, sample.text)
		require.EqualValues(t, 1, first.AccessCount)
		require.Equal(t, first.CreatedAt, first.UpdatedAt)
		require.Equal(t, first.CreatedAt, first.AccessedAt)

		counts := func(what string, n int64) metadata {
			t.Helper()
			b.flushMarks()
			m := b.metadata(sample.key)
			require.Equal(t, n, m.AccessCount, "%s, after %s", sample.key, what)
			require.Equal(t, first.CreatedAt, m.CreatedAt)
			return m
		}
		for range 3 {
			b.get(sample.path).is(http.StatusOK)
		}
		read := counts("three gets", 4)
		require.True(t, read.AccessedAt.After(first.AccessedAt))
		require.Equal(t, first.UpdatedAt, read.UpdatedAt)
		asked := fmt.Sprintf(`{"keys":[%q,"missing",%[1]q]}`, sample.key)
		b.post("/v1/mget", asked).is(http.StatusOK)
		counts("an mget that names it twice", 5)

		b.do(http.MethodHead, sample.path).is(http.StatusOK)
		b.get("/v1/items").is(http.StatusOK)
		b.get("/v1/components/react").is(http.StatusOK)
		b.get("/v1/blocks/react").is(http.StatusOK)
		b.get("/v1/frameworks").is(http.StatusOK)
		b.post(itemPath(sample.key)+"/touch", `{"ttl":0}`).is(http.StatusOK)
		quiet := counts("what is no access", 5)
		require.Equal(t, counts("nothing", 5).AccessedAt, quiet.AccessedAt)

		replaced := b.put(sample.path, sample.text).is(http.StatusOK).metadata()
		require.EqualValues(t, 6, replaced.AccessCount)
		require.Equal(t, first.CreatedAt, replaced.CreatedAt)
		require.True(t, replaced.UpdatedAt.After(first.UpdatedAt))
		b.post("/v1/mset", fmt.Sprintf(`{"entries":{%q:%s}}`, sample.key, sample.text)).is(http.StatusOK)
		counts("an overwrite by mset", 7)
	}
	b.get("/r/react/button.json").is(http.StatusOK)
	b.flushMarks()
	require.EqualValues(t, 8, b.metadata("component:react:button").AccessCount, "a get as a registry item is an access")
}

func TestChargedSize(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, tc := range []struct {
		key, text string
		size      int64
	}{
		{"component:f:a", `{"sourceCode":"abc","demoCode":"ü"}`, 5},
		{"component:f:b", `{"sourceCode":"abc","fileSize":100}`, 100},
		{"component:f:c", `{"sourceCode":"abc","fileSize":1,"metadata":{"not":"charged"}}`, 3},
		{"component:f:d", `{"sourceCode":"","fileSize":9007199254740991}`, 9007199254740991},
		{"block:f:a", `{"files":[{"content":"abc"},{"x":{"content":"ü"}}]}`, 5},
		{"block:f:b", `{"files":[{"content":"abc"}],"totalSize":200}`, 200},
		{"block:f:c", `{"files":{ "a" : 1 }}`, 7},
		{"a", ` { "a" : "b c" } `, 11},
	} {
		require.Equal(t, tc.size, b.stored(tc.key, tc.text).SizeBytes, tc.text)
	}
	b.put("/v1/items/a", "1").is(http.StatusOK)
	b.do(http.MethodDelete, "/v1/items/component%3Af%3Ad").is(http.StatusNoContent)
	// The counters are compared with this when the test ends.
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, tc := range map[string]struct {
		sent string
		kept bool
	}{
		"sane":                {"build-7421.3_X", true},
		"128 characters":      {strings.Repeat("a", 128), true},
		"129 characters":      {strings.Repeat("a", 129), false},
		"empty":               {"", false},
		"space":               {"a b", false},
		"slash":               {"a/b", false},
		"not ASCII":           {"ü", false},
		"what a log is of":    {`"},{"level":"ERROR`, false},
		"what a markup is of": {"<script>", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := b.on(t)
			seen := map[string]bool{}
			for _, path := range []string{"/livez", "/v1/items", "/v1/items/missing", "/r/f/missing.json"} {
				got := b.get(path, header("X-Request-Id", tc.sent)).header.Get("X-Request-Id")
				if tc.kept {
					require.Equal(t, tc.sent, got)
					continue
				}
				require.Regexp(t, `^[A-Za-z0-9._-]{16,128}$`, got)
				require.False(t, seen[got], "an id was made twice")
				seen[got] = true
			}
		})
	}
	id := b.get("/livez").header.Get("X-Request-Id")
	b.log.waitFor(t, func(r logRecord) bool {
		return r.RequestID == id && r.Message == "request" && r.Status == http.StatusOK
	})
}

func TestHeadHasTheHeadersOfGet(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, sample := range samples {
		tag := b.put(sample.path+"?ttl=1000", sample.text).is(http.StatusCreated).metadata().ETag
		for known, status := range map[string]int{`"other"`: http.StatusOK, tag: http.StatusNotModified} {
			head := b.do(http.MethodHead, sample.path, header("If-None-Match", known)).is(status).header
			get := b.get(sample.path, header("If-None-Match", known)).is(status).header
			if status == http.StatusOK {
				require.Equal(t, strconv.Itoa(len(sample.text)), head.Get("Content-Length"))
			}
			for _, name := range []string{"X-Request-Id", "Date"} {
				head.Del(name)
				get.Del(name)
			}
			require.Equal(t, get, head)
		}
	}
}

// TestHeadHasNoBody reads what comes over the wire, since net/http's client
// would not show a body.
func TestHeadHasNoBody(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.stored("a", sampleEntry)
	raw := func(path string, status int) {
		t.Helper()
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(b.URL, "http://"))
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		_, err = fmt.Fprintf(conn, "HEAD %s HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", path)
		require.NoError(t, err)
		reader := bufio.NewReader(conn)
		resp, err := http.ReadResponse(reader, &http.Request{Method: http.MethodHead})
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, status, resp.StatusCode, path)
		rest, err := io.ReadAll(reader)
		require.NoError(t, err)
		require.Empty(t, string(rest), path)
	}
	for path, status := range map[string]int{
		"/v1/items/a": http.StatusOK, "/v1/items/missing": http.StatusNotFound, "/v1/items/component:x": http.StatusBadRequest,
		"/nowhere": http.StatusNotFound, "/v1/mget": http.StatusMethodNotAllowed,
	} {
		raw(path, status)
	}
}
