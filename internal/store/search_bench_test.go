package store_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/store"
)

// BenchmarkSearch searches a store of STOCKROOM_SEARCH_ITEMS items (10,000): copies
// of those of the real registry under other names, with a word of their own.
func BenchmarkSearch(b *testing.B) {
	n := 10_000
	if text := os.Getenv("STOCKROOM_SEARCH_ITEMS"); text != "" {
		var err error
		n, err = strconv.Atoi(text)
		require.NoError(b, err)
	}
	s := setup(b, store.Options{})
	began := time.Now()
	names := fillForSearch(s, n)
	b.Logf("%d items written in %s", n, time.Since(began))
	began = time.Now()
	s.makeDocuments()
	b.Logf("their documents made in %s", time.Since(began))
	s.exec(`VACUUM ANALYZE`)
	b.Logf("documents: %s, of which the index %s; items: %s",
		scan[string](b, s.other, `SELECT pg_size_pretty(pg_total_relation_size('search_documents'))`),
		scan[string](b, s.other, `SELECT pg_size_pretty(pg_relation_size('search_documents_words_idx'))`),
		scan[string](b, s.other, `SELECT pg_size_pretty(pg_total_relation_size('components') + pg_total_relation_size('blocks'))`))

	random := rand.New(rand.NewPCG(1, 1))
	run := func(name string, query func() string) {
		b.Run(name, func(b *testing.B) {
			var times []time.Duration
			found := 0
			for b.Loop() {
				ask := ask(b, query())
				began := time.Now()
				results, err := s.Search(b.Context(), ask)
				times = append(times, time.Since(began))
				require.NoError(b, err)
				found += len(results.List)
			}
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "ms-median")
			b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "ms-p99")
			b.ReportMetric(float64(found)/float64(len(times)), "results")
		})
	}
	run("name", func() string { return names[random.IntN(len(names))] })
	run("own word", func() string { return fmt.Sprintf("word%dq", random.IntN(n)) })
	run("obvious", func() string { return obvious[random.IntN(len(obvious))].query })
	for _, q := range []string{"dialog", "date picker", "useCarousel", "login form", `"data table"`, "button", "react", "import react", "d", "re"} {
		run("q="+strings.ReplaceAll(q, " ", "+"), func() string { return q })
	}
}

// fillForSearch stores so many items and returns their names.
func fillForSearch(b *bundle, n int) []string {
	b.t.Helper()
	items := realRegistry(b.t)
	frameworks := []string{"react", "vue", "svelte", "solid", "angular", "qwik", "lit", "preact"}
	var names []string
	var batch []item.Value
	for i := range n {
		v := items[i%len(items)]
		framework, name := frameworks[i/len(items)%len(frameworks)], fmt.Sprintf("%s-v%d", v.Key.Name(), i/len(items))
		var err error
		own := fmt.Sprintf("\n// word%dq", i)
		if v.Component != nil {
			c := *v.Component
			c.SourceCode += own
			var key item.Key
			key, err = item.ComponentKey(framework, name)
			require.NoError(b.t, err)
			v = item.NewComponent(key, &c)
		} else {
			block := *v.Block
			description := "Variant" + own
			if block.Description != nil {
				description = *block.Description + own
			}
			block.Description = &description
			var key item.Key
			key, err = item.BlockKey(framework, name)
			require.NoError(b.t, err)
			v, err = item.NewBlock(key, &block)
			require.NoError(b.t, err)
		}
		names, batch = append(names, name), append(batch, v)
		if len(batch) == 500 || i == n-1 {
			require.NoError(b.t, b.PutMany(b.t.Context(), batch, nil))
			batch = nil
		}
	}
	return names
}
