package report_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/test/bench/report"
)

func TestMedian(t *testing.T) {
	t.Parallel()
	require.InDelta(t, 2, report.Median([]float64{9, 1, 2}), 0)
	require.InDelta(t, 3, report.Median([]float64{9, 1, 4, 2}), 0)
	require.True(t, math.IsNaN(report.Median(nil)))
	values := []float64{3, 1, 2}
	report.Median(values)
	require.Equal(t, []float64{3, 1, 2}, values, "they stay in the order of the rounds")
}

func TestRatioComparesWithinARound(t *testing.T) {
	t.Parallel()
	// Half as fast in each round, on a machine of changing speed.
	require.InDelta(t, 0.5, report.Ratio([]float64{10, 50, 500}, []float64{20, 100, 1000}), 1e-9)
	require.InDelta(t, 2, report.Ratio([]float64{4, 1}, []float64{2}), 0, "a round that one of them missed is left out")
	require.InDelta(t, 2, report.Ratio([]float64{4, 1}, []float64{2, 0}), 0, "as is one in which nothing came")
	require.True(t, math.IsNaN(report.Ratio(nil, []float64{1})))
}

func TestReached(t *testing.T) {
	t.Parallel()
	for want, checks := range map[string][]report.Check{
		"yes":                 {{Value: 0.9, Bound: 0.9}, {Value: 1, Bound: 0.9}, {Value: 1.3, Bound: 1.3, AtMost: true}},
		"no":                  {{Value: 0.89, Bound: 0.9}, {Value: 1.31, Bound: 1.3, AtMost: true}},
		"not measured":        {{Value: math.NaN(), Bound: 0.9}, {Value: math.NaN(), Bound: 0.9, Spoilt: "3 errors"}},
		"no: it had 3 errors": {{Value: 1, Bound: 0.9, Spoilt: "it had 3 errors"}},
	} {
		for _, c := range checks {
			require.Equal(t, want, c.Reached(), "%+v", c)
		}
	}
}

func TestChecksAreATable(t *testing.T) {
	t.Parallel()
	require.Equal(t, `| operation | compared with | target | measured | reached |
|---|---|---:|---:|---|
| GET | chi | ≥ 0.90 | 0.95 | yes |
| memory | after a minute | ≤ 1.05 | – | not measured |
`, report.Checks([]report.Check{
		{Operation: "GET", Yardstick: "chi", Value: 0.954, Bound: 0.9},
		{Operation: "memory", Yardstick: "after a minute", Value: math.NaN(), Bound: 1.05, AtMost: true},
	}))
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for want, v := range map[string]float64{
		"0.00": 0, "0.93": 0.934, "12.3": 12.34, "123": 123.4, "28,812": 28811.7, "1,234,567": 1234567, "-1,234": -1234, "–": math.NaN(),
	} {
		require.Equal(t, want, report.Number(v))
	}
	require.Equal(t, "1.50", report.Milliseconds(1500*time.Microsecond))
}

func TestReplaceKeepsTheRest(t *testing.T) {
	t.Parallel()
	const page = "# A\n<!-- x:begin -->\nold\n<!-- x:end -->\nprose\n<!-- y:begin -->\n<!-- y:end -->\n"
	got, err := report.Replace(page, "x", "new\n\n")
	require.NoError(t, err)
	require.Equal(t, "# A\n<!-- x:begin -->\nnew\n<!-- x:end -->\nprose\n<!-- y:begin -->\n<!-- y:end -->\n", got)
	again, err := report.Replace(got, "x", "new")
	require.NoError(t, err)
	require.Equal(t, got, again)
	_, err = report.Replace(page, "z", "new")
	require.ErrorContains(t, err, `no section "z"`)
	_, err = report.Replace("<!-- x:begin -->\n", "x", "new")
	require.ErrorContains(t, err, "no end")
}
