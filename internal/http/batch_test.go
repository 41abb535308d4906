package http_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMget(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, sample := range samples {
		b.stored(sample.key, sample.text)
	}
	for name, tc := range map[string]struct{ keys, want string }{
		"nothing":        {``, `{"items":{},"missing":[]}`},
		"one":            {`"team:theme"`, `{"items":{"team:theme":` + sampleEntry + `},"missing":[]}`},
		"twice":          {`"team:theme","team:theme"`, `{"items":{"team:theme":` + sampleEntry + `},"missing":[]}`},
		"missing":        {`"z","a","component:f:n"`, `{"items":{},"missing":["z","a","component:f:n"]}`},
		"missing twice":  {`"z","a","z"`, `{"items":{},"missing":["z","a"]}`},
		"in other words": {`"team\u003atheme"`, `{"items":{"team:theme":` + sampleEntry + `},"missing":[]}`},
		"all kinds": {
			`"block:react:login","missing","team:theme","component:react:button","component:react:login"`,
			`{"items":{"block:react:login":` + sampleBlock + `,"team:theme":` + sampleEntry + `,"component:react:button":` + sampleComponent +
				`},"missing":["missing","component:react:login"]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tc.want, b.on(t).post("/v1/mget", `{"keys":[`+tc.keys+`]}`).is(http.StatusOK).body)
		})
	}
}

// TestMgetIsOneSnapshot reads two items of different kinds while others write
// both in one batch: they must always agree.
func TestMgetIsOneSnapshot(t *testing.T) {
	t.Parallel()
	b := setup(t)
	write := func(n int) error {
		a, err := b.try(http.MethodPost, "/v1/mset", body(fmt.Sprintf(`{"entries":{"component:f:n":{"sourceCode":"%d"},"k":%[1]d}}`, n)))
		if err == nil && a.status != http.StatusOK {
			err = fmt.Errorf("status %d: %s", a.status, a.body)
		}
		return err
	}
	require.NoError(t, write(0))
	together(t, 4, func(i int) error {
		for n := range 15 {
			if i == 0 {
				if err := write(n); err != nil {
					return err
				}
				continue
			}
			a, err := b.try(http.MethodPost, "/v1/mget", body(`{"keys":["k","component:f:n"]}`))
			if err != nil {
				return err
			}
			var got struct {
				Items struct {
					Entry     int `json:"k"`
					Component struct {
						SourceCode string `json:"sourceCode"`
					} `json:"component:f:n"`
				} `json:"items"`
			}
			if err := json.Unmarshal([]byte(a.body), &got); err != nil {
				return err
			}
			if strconv.Itoa(got.Items.Entry) != got.Items.Component.SourceCode {
				return fmt.Errorf("a batch was seen in part: %s", a.body)
			}
		}
		return nil
	})
}

func TestMset(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.stored("kept", "1")
	b.stored("team:theme", `"old"`)
	require.JSONEq(t, `{"stored":0}`, b.post("/v1/mset", `{"entries":{}}`).is(http.StatusOK).body)
	require.JSONEq(t, `{"stored":0}`, b.post("/v1/mset", `{"ttl":5,"entries":{}}`).is(http.StatusOK).body)
	sent := fmt.Sprintf(`{"ttl":1000,"entries":{"component:react:button":%s,"team:theme":%s,"block:react:login":%s}}`, sampleComponent, sampleEntry, sampleBlock)
	require.JSONEq(t, `{"stored":3}`, b.post("/v1/mset", sent).is(http.StatusOK).body)
	for _, sample := range samples {
		require.Equal(t, sample.text, b.get(sample.path).is(http.StatusOK).body)
		require.EqualValues(t, 1000, b.metadata(sample.key).TTLSeconds)
	}
	require.Equal(t, "1", b.get("/v1/items/kept").is(http.StatusOK).body)
	require.EqualValues(t, 0, b.metadata("kept").TTLSeconds)
}

// TestMsetIsRefusedWhole sends batches with bad entries: each of them is named,
// in the order of the document, and no entry is stored.
//
//nolint:tparallel // what they have left is looked at behind them
func TestMsetIsRefusedWhole(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.stored("k1", `"old"`)
	mismatch := place{"component:f:a", "/entries/component:f:a/name", "key_mismatch"}
	unknown := place{"block:f:b", "/entries/block:f:b/colour", "unknown_field"}
	wrong := place{"component:f:c", "/entries/component:f:c/sourceCode", "wrong_type"}
	badKey := place{"component:x", "/entries/component:x", "invalid_key"}
	tooLong := place{"", "/entries/" + strings.Repeat("k", 256), "invalid_key"}
	slash := place{"block:/:~", "/entries/block:~1:~0/type", "invalid_value"}
	texts := map[place]string{
		mismatch: `"component:f:a":{"sourceCode":"","name":"b","framework":"g"}`,
		unknown:  `"block:f:b":{"files":[],"colour":{"deep":["x"]},"another":1}`,
		wrong:    `"component:f:c":{"sourceCode":["x"]}`,
		badKey:   `"component:x":{"anything":[1,{"a":2}]}`,
		tooLong:  `"` + strings.Repeat("k", 256) + `":1`,
		slash:    `"block:/:~":{"files":[],"type":"x"}`,
	}
	for name, tc := range map[string]struct {
		faults []place
		status int
	}{
		"one":               {[]place{mismatch}, http.StatusUnprocessableEntity},
		"two":               {[]place{unknown, wrong}, http.StatusUnprocessableEntity},
		"the other way":     {[]place{wrong, unknown}, http.StatusBadRequest},
		"a bad key last":    {[]place{mismatch, badKey}, http.StatusUnprocessableEntity},
		"a bad key first":   {[]place{badKey, tooLong, mismatch, wrong}, http.StatusBadRequest},
		"all":               {[]place{slash, unknown, badKey, wrong, mismatch, tooLong}, http.StatusUnprocessableEntity},
		"not by their keys": {[]place{wrong, slash, mismatch}, http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			entries := []string{`"k0":0`}
			for i, fault := range tc.faults {
				entries = append(entries, texts[fault], fmt.Sprintf(`"k%d":{"good":true}`, i+1))
			}
			b.on(t).post("/v1/mset", `{"entries":{`+strings.Join(entries, ",")+`}}`, marked(bad)).fails(tc.status, tc.faults[0].Code, tc.faults...)
		})
	}
	require.Equal(t, []string{"k1"}, b.keys("", 10))
	require.Equal(t, `"old"`, b.get("/v1/items/k1").is(http.StatusOK).body)
}

func TestBadKeysOfABatchAreAllNamed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.stored("good", "1")
	long := strings.Repeat("é", 128)
	sent := bodyOf(map[string]any{"keys": []string{"component:x", "good", long, "", "block:f:n:o", "good", "component:x"}})
	want := []place{
		{"component:x", "/keys/0", "invalid_key"},
		{"", "/keys/2", "invalid_key"},
		{"", "/keys/3", "invalid_key"},
		{"block:f:n:o", "/keys/4", "invalid_key"},
		{"component:x", "/keys/6", "invalid_key"},
	}
	b.do(http.MethodPost, "/v1/mget", sent, marked(bad)).fails(http.StatusBadRequest, "invalid_key", want...)
	b.do(http.MethodPost, "/v1/mdelete", sent, marked(bad)).fails(http.StatusBadRequest, "invalid_key", want...)
	b.get("/v1/items/good").is(http.StatusOK)
}

// TestAllThatIsBadInABatchIsNamed has strings and types among it that end the reading
// of a value.
func TestAllThatIsBadInABatchIsNamed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const mget, mdelete, mset, transactions = "/v1/mget", "/v1/mdelete", "/v1/mset", "/v1/transactions"
	key := func(key string, i int) place { return place{key, fmt.Sprintf("/keys/%d", i), "invalid_key"} }
	entry := func(key, behind, code string) place { return place{key, "/entries/" + key + behind, code} }
	operation := func(key string, i int, behind, code string) place {
		return place{key, fmt.Sprintf("/operations/%d%s", i, behind), code}
	}
	for name, tc := range map[string]struct {
		path, text string
		status     int
		places     []place
	}{
		"a number among keys":      {mget, `{"keys":["component:x",5,"block:y"]}`, 400, []place{key("component:x", 0), {"", "/keys/1", "wrong_type"}, key("block:y", 2)}},
		"anything among keys":      {mdelete, `{"keys":[{"a":"\ud800"},null,"k",["\u0000"],"block:y"]}`, 400, []place{{"", "/keys/0", "wrong_type"}, {"", "/keys/1", "wrong_type"}, {"", "/keys/3", "wrong_type"}, key("block:y", 4)}},
		"NUL among keys":           {mget, `{"keys":["component:x","a\u0000","block:y"]}`, 400, []place{key("component:x", 0), key("a\x00", 1), key("block:y", 2)}},
		"a surrogate among keys":   {mdelete, `{"keys":["\ud800","component:x","\udc00"]}`, 422, []place{{"", "/keys/0", "invalid_string"}, key("component:x", 1), {"", "/keys/2", "invalid_string"}}},
		"beside keys":              {mget, `{"limit":"\ud800","keys":["block:y"],"keys":1,"\ud800":2}`, 422, []place{{"", "/limit", "unknown_field"}, key("block:y", 0), {"", "/keys", "duplicate_name"}, {"", "/\ufffd", "invalid_string"}}},
		"a surrogate behind a key": {mset, `{"entries":{"component:x":1,"f":["\ud800"]}}`, 400, []place{entry("component:x", "", "invalid_key"), entry("f", "/0", "invalid_string")}},
		"a surrogate before a key": {mset, `{"entries":{"f":["\ud800"],"component:x":{"a":1,"a":2}}}`, 422, []place{entry("f", "/0", "invalid_string"), entry("component:x", "", "invalid_key")}},
		"names twice":              {mset, `{"entries":{"a":{"b":{"x":1,"x":2}},"ok":1,"component:f:n":{"sourceCode":"","sourceCode":""},"a":2}}`, 400, []place{entry("a", "/b/x", "duplicate_name"), entry("component:f:n", "/sourceCode", "duplicate_name"), entry("a", "", "duplicate_name")}},
		"a name in two spellings":  {mset, `{"entries":{"k":1,"\u006b":2}}`, 400, []place{entry("k", "", "duplicate_name")}},
		"a name that is none":      {mset, `{"entries":{"\ud800":1,"block:y":2}}`, 422, []place{{"", "/entries/\ufffd", "invalid_string"}, entry("block:y", "", "invalid_key")}},
		"in a component":           {mset, `{"entries":{"component:f:n":{"sourceCode":"","dependencies":["\ud800"]},"block:f:n":{"files":[],"description":"\udc00"}}}`, 422, []place{entry("component:f:n", "/dependencies/0", "invalid_string"), entry("block:f:n", "/description", "invalid_string")}},
		"beside entries":           {mset, `{"ttl":-1,"entries":{"component:x":1},"ttl":1}`, 400, []place{{"", "/ttl", "invalid_ttl"}, entry("component:x", "", "invalid_key"), {"", "/ttl", "duplicate_name"}}},
		"a surrogate to set":       {transactions, `{"operations":[{"set":{"value":"\ud800","key":"k"}},{"delete":{"key":"block:y"}}]}`, 422, []place{operation("k", 0, "/set/value", "invalid_string"), operation("block:y", 1, "/delete/key", "invalid_key")}},
		"names twice to set":       {transactions, `{"operations":[{"set":{"key":"k","value":1,"value":1}},{"set":{"value":{"a":1,"a":2},"key":"l"}},{"delete":{"key":"m"},"delete":{"key":"m"}}]}`, 400, []place{operation("k", 0, "/set/value", "duplicate_name"), operation("l", 1, "/set/value/a", "duplicate_name"), operation("m", 2, "/delete", "duplicate_name")}},
		"a surrogate as a key":     {transactions, `{"operations":[{"delete":{"key":"\ud800"}},{"touch":{"key":5}}]}`, 422, []place{operation("", 0, "/delete/key", "invalid_string"), operation("", 1, "/touch/key", "wrong_type")}},
		"a surrogate as an ETag":   {transactions, `{"operations":[{"check":{"key":"k","etag":"\"\ud800\""}},5]}`, 422, []place{operation("k", 0, "/check/etag", "invalid_string"), operation("", 1, "", "wrong_type")}},
		"a surrogate as a name":    {transactions, `{"operations":[{"\ud800":{"key":"k"}},{"set":{"key":"k","\ud800":1,"value":1}}]}`, 422, []place{operation("", 0, "/\ufffd", "invalid_string"), operation("k", 1, "/set/\ufffd", "invalid_string")}},
		"the second of operations": {transactions, `{"operations":[{"delete":{"key":"block:y"}}],"operations":[]}`, 400, []place{operation("block:y", 0, "/delete/key", "invalid_key"), {"", "/operations", "duplicate_name"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b.on(t).post(tc.path, tc.text, marked(bad)).fails(tc.status, tc.places[0].Code, tc.places...)
		})
	}
	// What is no JSON is nothing else.
	for _, text := range []string{`{"entries":{"component:x":1,"f":[}}`, `{"entries":{"component:x":1}} 2`, "{\"entries\":{\"component:x\":\"\xff\"}}"} {
		require.Equal(t, "malformed_json", decode[problem](b.post(mset, text, marked(bad)).is(http.StatusBadRequest)).Code, text)
	}
}

func TestMdelete(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, sample := range samples {
		b.stored(sample.key, sample.text)
	}
	b.stored("kept", "1")
	require.JSONEq(t, `{"deleted":0}`, b.post("/v1/mdelete", `{"keys":[]}`).is(http.StatusOK).body)
	require.JSONEq(t, `{"deleted":0}`, b.post("/v1/mdelete", `{"keys":["missing","component:f:n"]}`).is(http.StatusOK).body)
	asked := `{"keys":["team:theme","missing","component:react:button","team:theme","block:react:login"]}`
	require.JSONEq(t, `{"deleted":3}`, b.post("/v1/mdelete", asked).is(http.StatusOK).body)
	require.JSONEq(t, `{"deleted":0}`, b.post("/v1/mdelete", asked).is(http.StatusOK).body)
	require.Equal(t, []string{"kept"}, b.keys("", 10))
}

// TestBatchesAreDeletedWhole has a batch commit while a delete of the same keys
// waits for it: one of them stood before, the other is new.
func TestBatchesAreDeletedWhole(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ method, path, text, want string }{
		"mdelete": {http.MethodPost, "/v1/mdelete", `{"keys":["new","old"]}`, `{"deleted":2}`},
		"transaction": {
			http.MethodPost, "/v1/transactions", `{"operations":[{"delete":{"key":"new"}},{"delete":{"key":"old"}}]}`,
			`{"results":[{"key":"new","etag":null,"deleted":true},{"key":"old","etag":null,"deleted":true}]}`,
		},
		"clear":        {http.MethodDelete, "/v1/items", ``, `{"components":0,"blocks":0,"entries":2}`},
		"clear a part": {http.MethodDelete, "/v1/items?pattern=???", ``, `{"components":0,"blocks":0,"entries":2}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.stored("old", "1")
			tx, err := b.conn.Begin(t.Context())
			require.NoError(t, err)
			for _, sql := range []string{
				`UPDATE entries SET version = version + 1`,
				`INSERT INTO entries (key, value, bytes, etag, created_at, updated_at, cached_at, accessed_at)
					SELECT 'new', value, bytes, etag, created_at, updated_at, cached_at, accessed_at FROM entries`,
				`UPDATE usage_counters SET entry_items = entry_items + 1, entry_bytes = entry_bytes + 1 WHERE slot = 0`,
			} {
				_, err := tx.Exec(t.Context(), sql)
				require.NoError(t, err)
			}
			deleted := goTry(b, tc.method, tc.path, body(tc.text))
			b.waitForBlocked(1)
			require.NoError(t, tx.Commit(t.Context()))
			require.JSONEq(t, tc.want, (<-deleted).is(http.StatusOK).body)
			require.Empty(t, b.keys("", 10))
		})
	}
}

// TestBatchesDoNotDeadlock runs batches over the same keys in opposite orders.
func TestBatchesDoNotDeadlock(t *testing.T) {
	t.Parallel()
	b := setup(t, slots(crowd/2))
	const n = 12
	entries, keys := make([]string, 0, 3*n), make([]string, 0, 3*n)
	for i := range n {
		for key, text := range map[string]string{"component:f:n%d": `{"sourceCode":""}`, "block:f:n%d": `{"files":[]}`, "k%d": `1`} {
			key = fmt.Sprintf(key, i)
			keys = append(keys, fmt.Sprintf("%q", key))
			entries = append(entries, fmt.Sprintf("%q:%s", key, text))
		}
	}
	rotated := func(list []string, by int) string {
		by %= len(list)
		return strings.Join(append(append([]string{}, list[by:]...), list[:by]...), ",")
	}
	together(t, 16, func(i int) error {
		for range 4 {
			path, text := "/v1/mset", `{"entries":{`+rotated(entries, i*5)+`}}`
			if i%4 == 3 {
				path, text = "/v1/mdelete", `{"keys":[`+rotated(keys, i*7)+`]}`
			}
			a, err := b.try(http.MethodPost, path, body(text))
			if err != nil {
				return err
			}
			if a.status != http.StatusOK {
				return fmt.Errorf("status %d: %s", a.status, a.body)
			}
		}
		return nil
	})
	found := decode[mgetResult](b.post("/v1/mget", `{"keys":[`+strings.Join(keys, ",")+`]}`).is(http.StatusOK))
	require.Contains(t, []int{0, 3 * n}, len(found.Items), "a batch was stored or deleted in part")
	require.Empty(t, b.log.find(func(r logRecord) bool { return strings.Contains(r.Error, "deadlock") }))
}

//nolint:tparallel // each clears what the one before has left
func TestClear(t *testing.T) {
	t.Parallel()
	b := setup(t)
	fill := func() {
		t.Helper()
		b.post("/v1/mset", `{"entries":{"component:react:a":{"sourceCode":"abc"},"component:vue:a":{"sourceCode":""},"block:react:a":{"files":[]},
			"block:react:b":{"files":[],"totalSize":100},"a":1,"ab":2,"b*":3,"react:a":4}}`).is(http.StatusOK)
	}
	const everything = "a ab b* block:react:a block:react:b component:react:a component:vue:a react:a"
	for name, tc := range map[string]struct{ query, want, left string }{
		"everything":         {``, `{"components":2,"blocks":2,"entries":4}`, ``},
		"everything by star": {`?pattern=*`, `{"components":2,"blocks":2,"entries":4}`, ``},
		"two stars":          {`?pattern=**`, `{"components":2,"blocks":2,"entries":4}`, ``},
		"one kind":           {`?pattern=component:*`, `{"components":2,"blocks":0,"entries":0}`, `a ab b* block:react:a block:react:b react:a`},
		"one framework":      {`?pattern=*:react:*`, `{"components":1,"blocks":2,"entries":0}`, `a ab b* component:vue:a react:a`},
		"one name":           {`?pattern=*react:a`, `{"components":1,"blocks":1,"entries":1}`, `a ab b* block:react:b component:vue:a`},
		"one character":      {`?pattern=%3F`, `{"components":0,"blocks":0,"entries":1}`, `ab b* block:react:a block:react:b component:react:a component:vue:a react:a`},
		"escaped":            {`?pattern=b%5C*`, `{"components":0,"blocks":0,"entries":1}`, `a ab block:react:a block:react:b component:react:a component:vue:a react:a`},
		"none":               {`?pattern=zz*`, `{"components":0,"blocks":0,"entries":0}`, everything},
	} {
		t.Run(name, func(t *testing.T) {
			b := b.on(t)
			fill()
			require.JSONEq(t, tc.want, b.do(http.MethodDelete, "/v1/items"+tc.query).is(http.StatusOK).body)
			require.Equal(t, strings.Fields(tc.left), b.keys("", 100))
			b.requireUsageIsTrue()
		})
	}
	b.do(http.MethodDelete, "/v1/items").is(http.StatusOK)
	require.JSONEq(t, `{"components":0,"blocks":0,"entries":0}`, b.do(http.MethodDelete, "/v1/items").is(http.StatusOK).body)
}

// TestClearAmongWriters clears while others write batches, which must be there
// whole or not at all.
func TestClearAmongWriters(t *testing.T) {
	t.Parallel()
	b := setup(t, slots(8))
	together(t, 8, func(i int) error {
		for n := range 5 {
			method, path, text := http.MethodPost, "/v1/mset", fmt.Sprintf(`{"entries":{"component:f:n%d":{"sourceCode":"%d"},"block:f:n%[1]d":{"files":[]},"k%[1]d":1}}`, i, n)
			if i >= 6 {
				method, path, text = http.MethodDelete, "/v1/items", ""
			}
			a, err := b.try(method, path, body(text))
			if err != nil {
				return err
			}
			if a.status != http.StatusOK {
				return fmt.Errorf("status %d: %s", a.status, a.body)
			}
		}
		return nil
	})
	kinds := map[string]int{}
	for _, key := range b.keys("", 100) {
		kinds[key[len(key)-1:]]++
	}
	for writer, n := range kinds {
		require.Equal(t, 3, n, "the batch of writer %s was cleared in part", writer)
	}
}
