//go:build linux

package main

import (
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/test/bench/load"
	"github.com/stockroom/stockroom/test/bench/report"
)

func testData(t *testing.T) *dataset {
	t.Helper()
	data, err := newDataset(&options{})
	require.NoError(t, err)
	return data
}

func TestPgbenchIsGivenTheServicesOwnStatement(t *testing.T) {
	t.Parallel()
	data := testData(t)
	put, err := data.pgbenchScripts(opPut)
	require.NoError(t, err)
	require.Len(t, put.scripts, batchSize)
	require.Len(t, put.variables, batchSize)
	require.Regexp(t, `(?s)^\\set k7 random\(100000, 109999\)\nINSERT INTO components .* VALUES \(:k7, E'bench', :v7, NULL, E'.*ON CONFLICT .*RETURNING .*;\n$`, put.scripts[7])
	require.NotContains(t, put.scripts[7], "$")

	mset, err := data.pgbenchScripts(opMset)
	require.NoError(t, err)
	require.Len(t, mset.scripts, 1)
	require.Equal(t, put.variables, mset.variables, "both store the same values")
	require.Contains(t, mset.scripts[0], "\\set k99 :b + 9900\n", "rows are locked in order, and batches overlap whole or not at all")
	require.Contains(t, mset.scripts[0], "(:k99, E'bench', :v99, ")
	require.NotContains(t, mset.scripts[0], "$")

	mget, err := data.pgbenchScripts(opMget)
	require.NoError(t, err)
	require.Len(t, mget.scripts, batches)
	require.Contains(t, mget.scripts[3], "t.key = ANY(:a3)")
	require.Equal(t, batchSize, strings.Count(mget.variables["a3"], "component:bench:"))
}

// Behind a colon pgbench sees a variable, in a string too.
func TestLiteralsHoldNothingThatPgbenchReads(t *testing.T) {
	t.Parallel()
	got, err := literal(`{"a":"it's \n; registry:ui"}`)
	require.NoError(t, err)
	require.Equal(t, `E'{"a"\x3a"it\'s \\n\x3b registry\x3aui"}'`, got)
	require.False(t, regexp.MustCompile(`:[A-Za-z0-9_]`).MatchString(got))
	for want, arg := range map[string]any{"NULL": nil, "7": int64(7), "3": int16(3)} {
		got, err := literal(arg)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err = literal(1.5)
	require.Error(t, err)
}

func TestPgbenchLogIsMeasuredBehindTheWarmUp(t *testing.T) {
	t.Parallel()
	result := new(load.Result)
	done, err := readLog(strings.NewReader(`0 1 1000 0 100 1000
1 1 500000 0 100 900000
0 2 2000 0 101 500000
0 2 failed 0 101 600000
1 2 4000 0 103 0
1 3 9000 0 103 900000
`), nil, result)
	require.NoError(t, err)
	summarize(result, done, time.Second, 2*time.Second)
	require.EqualValues(t, 5, result.Sent)
	require.EqualValues(t, 2, result.Requests, "those that ended from 101 to 103")
	require.InDelta(t, 1, result.PerSecond, 0)
	require.Equal(t, 4*time.Millisecond, result.Max)
	require.EqualValues(t, 1, result.Errors)
	_, err = readLog(strings.NewReader("garbage\n"), nil, result)
	require.Error(t, err)
}

// The bare handler must answer the very bytes that are compared with the service's.
func TestTheBareHandlerAnswersTheBytes(t *testing.T) {
	t.Parallel()
	data := testData(t)
	handler := bareHandler(data)
	ask := func(method, path, body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body)))
		return w
	}
	require.Equal(t, string(data.body(12)), ask(http.MethodGet, "/v1/items/"+keyOf(12), "").Body.String())
	require.Equal(t, http.StatusNotFound, ask(http.MethodGet, "/v1/items/none", "").Code)
	require.Equal(t, string(data.mgetAnswer(5)), ask(http.MethodPost, "/v1/mget", string(mgetBody(batchKeys(5)))).Body.String())
}

func TestBatchesHaveNothingInCommon(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for b := range batches {
		for _, key := range batchKeys(b) {
			require.False(t, seen[key], key)
			seen[key] = true
		}
	}
	require.Len(t, seen, items)
}

func TestAllocationsAreFoundInTheOutput(t *testing.T) {
	t.Parallel()
	const output = "goos: linux\nBenchmarkGetCached-2   \t  249984\t      7891 ns/op\t    2916 B/op\t      34 allocs/op\n" +
		"BenchmarkGetBareChi   \t 1579380\t       778.9 ns/op\t     740 B/op\t       7 allocs/op\nPASS\n"
	a := allocations{ours: allocsOf(output, "GetCached"), chi: allocsOf(output, "GetBareChi")}
	require.Equal(t, allocations{34, 7}, a)
	check := a.check()
	require.InDelta(t, 27, check.Value, 0)
	require.Equal(t, "no", check.Reached())
	require.True(t, math.IsNaN(allocsOf("PASS\n", "GetCached")))
}

func TestErrorsSpoilAResult(t *testing.T) {
	t.Parallel()
	p := &part{op: opPut, connections: 1, targets: []target{{ours: sysCached, yardstick: sysChi, throughput: 0.5, p99: 2}}}
	of := func(perSecond float64, errors uint64) []measured {
		return []measured{{Result: load.Result{PerSecond: perSecond, P99: time.Second, Errors: errors}}}
	}
	reached := func(o outcome) (all []string) {
		checks := p.checks(o)
		for i := range checks {
			all = append(all, checks[i].Reached())
		}
		return all
	}
	require.Equal(t, []string{"yes", "yes"}, reached(outcome{sysCached: of(10, 0), sysChi: of(10, 0)}))
	require.Equal(t, []string{"no", "yes"}, reached(outcome{sysCached: of(4, 0), sysChi: of(10, 0)}))
	require.Equal(t, []string{"no: 2 errors of bare chi", "no: 2 errors of bare chi"}, reached(outcome{sysCached: of(10, 0), sysChi: of(10, 2)}))
	require.Equal(t, []string{"not measured", "not measured"}, reached(outcome{sysCached: of(10, 0)}))
}

func TestScaleIsJudgedByItsWorstOperation(t *testing.T) {
	t.Parallel()
	o := make(scaleOutcome)
	for i := range scaleOperations {
		many := 100.0
		if i == 2 {
			many = 70
		}
		o[scaleOperations[i].name] = map[int][]measured{
			1000:   {{Result: load.Result{PerSecond: 100}}},
			100000: {{Result: load.Result{PerSecond: many}}},
		}
	}
	check := o.check([]int{1000, 100000})
	require.InDelta(t, 0.7, check.Value, 1e-9)
	require.Contains(t, check.Yardstick, string(scaleOperations[2].name))
	require.Equal(t, "no", check.Reached())
	require.Equal(t, len(scaleOperations)+2, strings.Count(o.table([]int{1000, 100000}), "\n"))
}

func TestOptions(t *testing.T) {
	t.Parallel()
	var stderr strings.Builder
	o, err := parse([]string{"-rounds=2", "-seconds=3", "-only=put16,scale", "-scale=100,200", "-registry=x"}, &stderr)
	require.NoError(t, err)
	require.Equal(t, options{
		rounds: 2, duration: 3 * time.Second, only: []string{"put16", "scale"}, scale: []int{100, 200}, registry: "x",
		node: true, doc: "docs/benchmarks.md",
	}, o)
	require.True(t, o.runs("scale"))
	require.False(t, o.runs("get32"))
	require.False(t, o.runs(partMemory))
	for _, wrong := range [][]string{{"-rounds=0"}, {"-seconds=0"}, {"-only=nothing"}, {"-scale=10"}, {"-scale=x"}, {"more"}} {
		_, err := parse(wrong, &stderr)
		require.Error(t, err, "%v", wrong)
	}
}

func TestThePageHasAllSections(t *testing.T) {
	t.Parallel()
	for _, name := range []string{sectionResults, sectionScale, sectionMemory} {
		_, err := report.Replace(readPage(t), name, "")
		require.NoError(t, err)
	}
}

func readPage(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", "docs", "benchmarks.md"))
	require.NoError(t, err)
	return string(content)
}
