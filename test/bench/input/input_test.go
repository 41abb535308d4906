package input_test

import (
	"bytes"
	"compress/flate"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/test/bench/input"
)

// requireAnsweredAsPut holds that a body comes back from the service to the byte.
func requireAnsweredAsPut(t *testing.T, body []byte) {
	t.Helper()
	key, err := item.ComponentKey("bench", "a")
	require.NoError(t, err)
	value, err := item.Parse(key, body)
	require.NoError(t, err)
	require.Equal(t, string(body), string(value.Component.JSON(key)))
}

func TestLoadTakesWhatHasContent(t *testing.T) {
	t.Parallel()
	set, err := input.Load(filepath.Join("..", "..", "..", "examples"))
	require.NoError(t, err)
	require.Len(t, set.Bodies, 7)
	for _, body := range set.Bodies {
		requireAnsweredAsPut(t, body)
	}
}

func TestLoadOfNothingIsAnError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := input.Load(dir)
	require.ErrorContains(t, err, "no registry items")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "a"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a", "b.json"), []byte(`{"name":"b"}`), 0o600))
	_, err = input.Load(dir)
	require.ErrorContains(t, err, "no registry items")
}

func TestGeneratedBodiesAreLikeARegistry(t *testing.T) {
	t.Parallel()
	set, err := input.Generate(365)
	require.NoError(t, err)
	require.Len(t, set.Bodies, 365)
	var whole, compressed int
	for _, body := range set.Bodies {
		requireAnsweredAsPut(t, body)
		whole += len(body)
		compressed += deflated(t, body)
	}
	// Those of shadcn/ui have 3.4 KB and shrink to a third.
	require.InDelta(t, 3400, set.Mean(), 400)
	require.InDelta(t, 3.1, float64(whole)/float64(compressed), 0.5)
	again, err := input.Generate(365)
	require.NoError(t, err)
	require.Equal(t, set, again, "each run must measure the same")
}

func deflated(t *testing.T, body []byte) int {
	t.Helper()
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestSpeed)
	require.NoError(t, err)
	_, err = w.Write(body)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.Len()
}

func TestASampleHasTheSizesOfAll(t *testing.T) {
	t.Parallel()
	set := &input.Set{}
	for i := range 1000 {
		set.Bodies = append(set.Bodies, make([]byte, (i*7)%1000))
	}
	sample := set.Sample(10)
	sizes := make([]int, len(sample))
	for i, body := range sample {
		sizes[i] = len(body)
	}
	require.False(t, slices.IsSorted(sizes), "they are mixed")
	slices.Sort(sizes)
	require.Equal(t, []int{50, 150, 250, 350, 450, 550, 650, 750, 850, 950}, sizes)
	require.Len(t, set.Sample(2000), 2000, "of few bodies, some are taken more than once")
}
