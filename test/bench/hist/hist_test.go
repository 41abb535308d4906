package hist_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/test/bench/hist"
)

func TestAnEmptyHistogramHasNoQuantiles(t *testing.T) {
	t.Parallel()
	var h hist.Histogram
	require.Zero(t, h.Quantile(0.5))
	require.Zero(t, h.Count())
}

func TestSmallDurationsAreExact(t *testing.T) {
	t.Parallel()
	var h hist.Histogram
	for d := range time.Duration(64) {
		h.Record(d)
	}
	for d := range time.Duration(64) {
		require.Equal(t, d, h.Quantile((float64(d)+1)/64), "rank %d", d)
	}
}

func TestQuantilesAreRightToTheBucket(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	var whole, half hist.Histogram
	var all []time.Duration
	for i := range 20_000 {
		d := time.Duration(1) << random.IntN(62)
		d += time.Duration(random.Int64N(int64(d)))
		all = append(all, d)
		if i%2 == 0 {
			whole.Record(d)
		} else {
			half.Record(d)
		}
	}
	whole.Add(&half)
	slices.Sort(all)
	require.Equal(t, uint64(len(all)), whole.Count())
	require.Equal(t, all[len(all)-1], whole.Max())
	for _, q := range []float64{0, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[max(int(q*float64(len(all)))-1, 0)]
		got := whole.Quantile(q)
		require.InEpsilon(t, float64(want), float64(got), 0.033, "quantile %v", q)
		require.GreaterOrEqual(t, got, want, "a quantile is not understated")
	}
}

func TestExtremesHaveABucket(t *testing.T) {
	t.Parallel()
	var h hist.Histogram
	h.Record(-time.Second)
	h.Record(1<<63 - 1)
	require.Zero(t, h.Quantile(0.5))
	require.Equal(t, time.Duration(1<<63-1), h.Quantile(1))
}
