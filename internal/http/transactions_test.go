package http_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// transactionResult is what a caller is told of an operation.
type transactionResult struct {
	Key      string    `json:"key"`
	ETag     *string   `json:"etag"`
	Created  *bool     `json:"created"`
	Deleted  *bool     `json:"deleted"`
	Metadata *metadata `json:"metadata"`
}

func (b *bundle) transact(operations ...string) *answer {
	b.t.Helper()
	return b.post("/v1/transactions", `{"operations":[`+strings.Join(operations, ",")+`]}`)
}

func (a *answer) results() []transactionResult {
	a.t.Helper()
	return decode[struct{ Results []transactionResult }](a.is(http.StatusOK)).Results
}

func TestTransaction(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.JSONEq(t, `{"results":[]}`, b.transact().is(http.StatusOK).body)
	yes, no := true, false

	// The value may stand before its key, and a check behind what it guards.
	created := b.transact(
		`{"set":{"value":`+sampleComponent+`,"ttl":1000,"key":"component:react:button"}}`,
		`{"set":{"key":"team:theme","value":`+sampleEntry+`}}`,
		`{"set":{"key":"block:react:login","value":`+sampleBlock+`}}`,
		`{"delete":{"key":"gone"}}`,
		`{"check":{"key":"component:react:button","etag":null}}`,
	).results()
	etags := map[string]string{}
	for i, key := range []string{"component:react:button", "team:theme", "block:react:login"} {
		m := b.metadata(key)
		etags[key] = m.ETag
		require.Equal(t, transactionResult{Key: key, ETag: &m.ETag, Created: &yes, Metadata: &m}, withRemaining(created[i], m))
		require.Equal(t, map[bool]int64{true: 1000}[i == 0], m.TTLSeconds)
	}
	require.Equal(t, transactionResult{Key: "gone", Deleted: &no}, created[3])
	component := etags["component:react:button"]
	require.Equal(t, transactionResult{Key: "component:react:button", ETag: &component}, created[4])
	for _, sample := range samples {
		require.Equal(t, sample.text, b.get(sample.path).is(http.StatusOK).body)
	}

	next := b.transact(
		`{"check":{"key":"team:theme","etag":`+quoted(etags["team:theme"])+`}}`,
		`{"set":{"key":"team:theme","value":null}}`,
		`{"delete":{"key":"component:react:button"}}`,
		`{"touch":{"key":"block:react:login","ttl":50}}`,
	).results()
	require.Equal(t, "null", b.get("/v1/items/team:theme").is(http.StatusOK).body)
	m := b.metadata("team:theme")
	require.Equal(t, transactionResult{Key: "team:theme", ETag: &m.ETag}, next[0])
	require.Equal(t, transactionResult{Key: "team:theme", ETag: &m.ETag, Created: &no, Metadata: &m}, next[1])
	require.EqualValues(t, 2, m.AccessCount)
	require.Equal(t, transactionResult{Key: "component:react:button", Deleted: &yes}, next[2])
	b.get("/v1/components/react/button").is(http.StatusNotFound)
	m = b.metadata("block:react:login")
	require.EqualValues(t, 50, m.TTLSeconds)
	require.Equal(t, transactionResult{Key: "block:react:login", ETag: &m.ETag, Metadata: &m}, withRemaining(next[3], m))
	// Its own time to live, anew.
	require.EqualValues(t, 50, b.transact(`{"touch":{"key":"block:react:login"}}`).results()[0].Metadata.TTLSeconds)
	// The result's ETag is good for the next check.
	again := b.transact(`{"check":{"key":"team:theme","etag":`+quoted(*next[1].ETag)+`}}`, `{"delete":{"key":"team:theme"}}`).results()
	require.Nil(t, again[0].ETag)
	require.Equal(t, []string{"block:react:login"}, b.keys("", 10))
	b.requireUsageIsTrue()
}

// withRemaining takes over from metadata what time has changed.
func withRemaining(result transactionResult, from metadata) transactionResult {
	if result.Metadata != nil {
		m := *result.Metadata
		m.TTLRemainingSeconds = from.TTLRemainingSeconds
		result.Metadata = &m
	}
	return result
}

func quoted(text string) string { return `"` + strings.ReplaceAll(text, `"`, `\"`) + `"` }

//nolint:tparallel // what they have left is looked at behind them
func TestTransactionsThatDoNotHappen(t *testing.T) {
	t.Parallel()
	b := setup(t)
	etag := b.stored("here", "1").ETag
	b.stored("component:f:n", `{"sourceCode":""}`)
	writes := []string{`{"set":{"key":"new","value":1}}`, `{"set":{"key":"here","value":2}}`, `{"delete":{"key":"component:f:n"}}`}
	is := func(key, etag string) string { return fmt.Sprintf(`{"check":{"key":%q,"etag":%s}}`, key, etag) }
	failed := func(key string, at int) place {
		return place{key, fmt.Sprintf("/operations/%d/check", at), "check_failed"}
	}
	for name, tc := range map[string]struct {
		operations []string
		places     []place
		detail     string
	}{
		"another ETag": {
			[]string{is("here", `"\"other\""`)},
			[]place{failed("here", 3)},
			`the check of "here" failed: the item has another ETag, ` + etag,
		},
		"no item": {[]string{is("none", quoted(etag))}, []place{failed("none", 3)}, `the check of "none" failed: there is no item under the key`},
		"an item": {[]string{is("here", "null")}, []place{failed("here", 3)}, `the check of "here" failed: there is an item under the key, with the ETag ` + etag},
		"two of four": {
			[]string{is("none", "null"), is("here", "null"), is("here", quoted(etag)), is("component:f:n", `"\"x\""`)},
			[]place{failed("here", 4), failed("component:f:n", 6)},
			`2 checks failed; the first: the check of "here" failed: there is an item under the key, with the ETag ` + etag,
		},
		"before a touch of nothing": {[]string{`{"touch":{"key":"none"}}`, is("here", "null")}, []place{failed("here", 4)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := b.on(t).transact(append(writes[:3:3], tc.operations...)...).fails(http.StatusConflict, "check_failed", tc.places...)
			if tc.detail != "" {
				require.Equal(t, tc.detail, p.Detail)
			}
		})
	}
	b.transact(writes[0], `{"touch":{"key":"none","ttl":5}}`, is("here", quoted(etag)), `{"touch":{"key":"block:f:n"}}`).fails(http.StatusNotFound, "not_found",
		place{"none", "/operations/1/touch", "not_found"}, place{"block:f:n", "/operations/3/touch", "not_found"})
	require.Equal(t, []string{"component:f:n", "here"}, b.keys("", 10))
	require.Equal(t, "1", b.get("/v1/items/here").is(http.StatusOK).body)
	require.EqualValues(t, 1, b.metadata("here").AccessCount)
	b.requireUsageIsTrue()
}

// TestBadOperations sends each of them among good ones, which do not happen.
//
//nolint:tparallel // what they have left is looked at behind them
func TestBadOperations(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const unprocessable = http.StatusUnprocessableEntity
	for name, tc := range map[string]struct {
		operation         string
		status            int
		key, behind, code string
	}{
		"no object":              {`1`, 400, "", "", "wrong_type"},
		"null":                   {`null`, 400, "", "", "wrong_type"},
		"nothing":                {`{}`, unprocessable, "", "", "missing_field"},
		"two at once":            {`{"check":{"key":"k","etag":null},"set":{"key":"k","value":1}}`, unprocessable, "k", "", "invalid_value"},
		"unknown":                {`{"put":{"key":"k","value":1}}`, unprocessable, "", "/put", "unknown_field"},
		"unknown beside known":   {`{"delete":{"key":"k"},"if":1}`, unprocessable, "k", "/if", "unknown_field"},
		"list":                   {`{"set":["k",1]}`, 400, "", "/set", "wrong_type"},
		"no key":                 {`{"set":{"value":1}}`, unprocessable, "", "/set/key", "missing_field"},
		"no key to delete":       {`{"delete":{}}`, unprocessable, "", "/delete/key", "missing_field"},
		"no key to touch":        {`{"touch":{"ttl":1}}`, unprocessable, "", "/touch/key", "missing_field"},
		"no key to check":        {`{"check":{"etag":null}}`, unprocessable, "", "/check/key", "missing_field"},
		"key as a number":        {`{"delete":{"key":1}}`, 400, "", "/delete/key", "wrong_type"},
		"empty key":              {`{"delete":{"key":""}}`, 400, "", "/delete/key", "invalid_key"},
		"bad key":                {`{"set":{"key":"component:x","value":{}}}`, 400, "component:x", "/set/key", "invalid_key"},
		"no value":               {`{"set":{"key":"k"}}`, unprocessable, "k", "/set/value", "missing_field"},
		"no ETag":                {`{"check":{"key":"k"}}`, unprocessable, "k", "/check/etag", "missing_field"},
		"ETag as a number":       {`{"check":{"key":"k","etag":1}}`, 400, "k", "/check/etag", "wrong_type"},
		"ETag without quotes":    {`{"check":{"key":"k","etag":"abc"}}`, unprocessable, "k", "/check/etag", "invalid_value"},
		"ETag of one quote":      {`{"check":{"key":"k","etag":"\""}}`, unprocessable, "k", "/check/etag", "invalid_value"},
		"empty ETag":             {`{"check":{"key":"k","etag":"\"\""}}`, unprocessable, "k", "/check/etag", "invalid_value"},
		"weak ETag":              {`{"check":{"key":"k","etag":"W/\"abc\""}}`, unprocessable, "k", "/check/etag", "invalid_value"},
		"two ETags":              {`{"check":{"key":"k","etag":"\"a\", \"b\""}}`, unprocessable, "k", "/check/etag", "invalid_value"},
		"any ETag":               {`{"check":{"key":"k","etag":"*"}}`, unprocessable, "k", "/check/etag", "invalid_value"},
		"value to check":         {`{"check":{"key":"k","etag":null,"value":1}}`, unprocessable, "k", "/check/value", "unknown_field"},
		"value to delete":        {`{"delete":{"key":"k","value":1}}`, unprocessable, "k", "/delete/value", "unknown_field"},
		"ETag to set":            {`{"set":{"key":"k","value":1,"etag":null}}`, unprocessable, "k", "/set/etag", "unknown_field"},
		"TTL to delete":          {`{"delete":{"key":"k","ttl":1}}`, unprocessable, "k", "/delete/ttl", "unknown_field"},
		"negative TTL":           {`{"set":{"key":"k","value":1,"ttl":-1}}`, 400, "k", "/set/ttl", "invalid_ttl"},
		"fractional TTL":         {`{"touch":{"key":"k","ttl":1.5}}`, 400, "k", "/touch/ttl", "invalid_ttl"},
		"TTL as null":            {`{"touch":{"key":"k","ttl":null}}`, 400, "k", "/touch/ttl", "wrong_type"},
		"wrong field":            {`{"set":{"key":"component:f:n","value":{"sourceCode":1}}}`, 400, "component:f:n", "/set/value/sourceCode", "wrong_type"},
		"wrong field before key": {`{"set":{"value":{"files":[],"colour":1},"key":"block:f:n"}}`, unprocessable, "block:f:n", "/set/value/colour", "unknown_field"},
		"value of another kind":  {`{"set":{"key":"block:f:n","value":1}}`, 400, "block:f:n", "/set/value", "wrong_type"},
		"other name":             {`{"set":{"key":"component:f:n","value":{"sourceCode":"","name":"m"}}}`, unprocessable, "component:f:n", "/set/value/name", "key_mismatch"},
		"no source":              {`{"set":{"key":"component:f:n","value":{}}}`, unprocessable, "component:f:n", "/set/value/sourceCode", "missing_field"},
		"NUL":                    {`{"set":{"key":"k","value":{"a":["\u0000"]}}}`, unprocessable, "k", "/set/value/a/0", "invalid_string"},
		"written twice":          {`{"set":{"key":"x","value":1}}`, unprocessable, "x", "", "invalid_value"},
		"written and deleted":    {`{"delete":{"key":"x"}}`, unprocessable, "x", "", "invalid_value"},
		"written and touched":    {`{"touch":{"key":"x"}}`, unprocessable, "x", "", "invalid_value"},
	} {
		t.Run(name, func(t *testing.T) {
			b := b.on(t)
			sent := `{"operations":[{"check":{"key":"x","etag":null}},{"set":{"key":"x","value":1}},` + tc.operation + `,{"set":{"key":"y","value":1}}]}`
			b.post("/v1/transactions", sent, marked(bad)).fails(tc.status, tc.code, place{tc.key, "/operations/2" + tc.behind, tc.code})
		})
	}
	// Each of several is named; the first one decides.
	b.post("/v1/transactions", `{"operations":[{"delete":{"key":"block:"}},{"set":{"key":"x","value":1}},{"check":{"key":"k"}},{"delete":{"key":"x"}}]}`, marked(bad)).
		fails(http.StatusBadRequest, "invalid_key", place{"block:", "/operations/0/delete/key", "invalid_key"},
			place{"k", "/operations/2/check/etag", "missing_field"}, place{"x", "/operations/3", "invalid_value"})
	require.Empty(t, b.keys("", 10))
}

func TestLimitsOfTransactions(t *testing.T) {
	t.Parallel()
	b := setup(t, limits(1<<20, 1000), func(s *settings) { s.options.MaxBytes = 3000 })
	operations := func(n int, operation string) string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf(operation, i)
		}
		return `{"operations":[` + strings.Join(list, ",") + `]}`
	}
	post := func(text string, options ...option) *answer { return b.post("/v1/transactions", text, options...) }
	require.Len(t, post(operations(1000, `{"set":{"key":"k%d","value":1}}`)).results(), 1000)
	require.Len(t, post(operations(1000, `{"check":{"key":"none%d","etag":null}}`)).results(), 1000)
	post(operations(1001, `{"delete":{"key":"k%d"}}`), marked(bad)).fails(http.StatusRequestEntityTooLarge, "batch_too_large")
	post(operations(1001, `{"delete":{"key":1%d}}`), marked(bad)).fails(http.StatusRequestEntityTooLarge, "batch_too_large")
	post(operations(1, `{"set":{"key":"k%d","value":"`+strings.Repeat("x", 1<<20)+`"}}`), marked(bad)).fails(http.StatusRequestEntityTooLarge, "body_too_large")
	large := `{"operations":[{"delete":{"key":"k1"}},{"set":{"key":"a","value":"` + strings.Repeat("x", 2000) + `"}},{"set":{"key":"b","value":"` + strings.Repeat("x", 1000) + `"}}`
	post(large+`]}`, marked(bad)).fails(http.StatusRequestEntityTooLarge, "batch_too_large")
	post(large+`,{"set":{"value":{"sourceCode":"","fileSize":3001},"key":"component:f:n"}}]}`, marked(bad)).
		fails(http.StatusRequestEntityTooLarge, "item_too_large", place{"component:f:n", "/operations/3/set/value", "item_too_large"})
	require.Len(t, b.keys("", 1000), 1000)
	// The item that is touched must stay; one that is only checked need not.
	b.transact(`{"set":{"key":"component:f:n","value":{"sourceCode":"","fileSize":2000}}}`).is(http.StatusOK)
	etag := b.metadata("component:f:n").ETag
	set := `{"set":{"key":"a","value":"` + strings.Repeat("x", 1500) + `"}}`
	p := post(`{"operations":[{"touch":{"key":"component:f:n"}},`+set+`]}`, marked(bad)).
		fails(http.StatusRequestEntityTooLarge, "batch_too_large")
	require.Equal(t, "what the transaction sets and touches is together larger than the limit of the store", p.Detail)
	b.transact(`{"check":{"key":"component:f:n","etag":`+quoted(etag)+`}}`, set).is(http.StatusOK)
	require.Equal(t, []string{"a"}, b.keys("", 10))
	b.requireUsageIsTrue()
}
