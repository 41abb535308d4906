package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/pgtest"
)

// randomValue returns what a key of the kind may hold.
func randomValue(random *rand.Rand, kind string) string {
	text := make([]rune, random.IntN(3000))
	for i := range text {
		text[i] = []rune("aZ09 \n\t\"\\/<&'äß漢😀\u2028")[random.IntN(17)]
	}
	value := map[string]any{}
	switch kind {
	case "component":
		value["sourceCode"] = string(text)
		value["metadata"] = map[string]any{"n": random.Int64(), "title": string(text[:len(text)/2])}
		value["dependencies"] = []string{string(text[:len(text)/3])}
	case "block":
		value["files"] = []any{map[string]any{"path": "a.tsx", "content": string(text)}}
		value["category"] = "dashboard"
		value["type"] = "simple"
	default:
		value["text"] = string(text)
		value["n"] = random.Int64()
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(encoded)
}

func TestKilledServer(t *testing.T) {
	t.Parallel()
	dir := newDataDir(t)
	s := startReady(t, dir)
	const writes, writers = 64, 8
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	type write struct{ key, value string }
	queue := make(chan write, writes)
	for i := range writes {
		kind := []string{"component", "block", "entry"}[random.IntN(3)]
		queue <- write{fmt.Sprintf("%s:%d:%d", kind, random.IntN(4), i), randomValue(random, kind)}
	}
	close(queue)
	var group sync.WaitGroup
	var mu sync.Mutex
	acknowledged := map[string]string{}
	for range writers {
		group.Go(func() {
			for w := range queue {
				answer, err := s.try(context.Background(), http.MethodPut, "/v1/items/"+url.PathEscape(w.key), w.value)
				if err != nil || answer.status != http.StatusCreated {
					t.Errorf("%s: %d %s %v", w.key, answer.status, answer.body, err)
					return
				}
				mu.Lock()
				acknowledged[w.key] = w.value
				mu.Unlock()
			}
		})
	}
	group.Wait()
	require.Len(t, acknowledged, writes)

	postgres := s.postgres()
	s.signal(syscall.SIGKILL)
	code, _ := s.wait(soon)
	require.Equal(t, -1, code)
	eventually(t, "PostgreSQL has ended as well", func() bool { return gone(t, postgres) })

	s = startReady(t, dir)
	for key, value := range acknowledged {
		got := s.get("/v1/items/" + url.PathEscape(key))
		require.Equal(t, http.StatusOK, got.status, key)
		require.JSONEq(t, value, got.body, key)
	}
}

// batchWriter writes one batch after the other: each overwrites the cells of the
// one before and adds keys of its own. So what stands in the store afterwards
// tells how far it came, and whether all of a batch is there.
type batchWriter struct {
	name         string
	sent         int // number of the last batch on its way
	acknowledged int // number of the last one that was answered
}

const cells, added = 5, 2

func (w *batchWriter) cell(i int) string { return fmt.Sprintf("cell:%s:%d", w.name, i) }
func (w *batchWriter) added(batch, i int) string {
	return fmt.Sprintf("added:%s:%d:%d", w.name, batch, i)
}

// run writes until the server does not answer any more. The batches are small:
// what PostgreSQL writes late it writes by the page.
func (w *batchWriter) run(s *server, count *atomic.Int64) error {
	for {
		w.sent++
		entries := map[string]any{}
		for i := range cells {
			entries[w.cell(i)] = map[string]any{"batch": w.sent}
		}
		for i := range added {
			entries[w.added(w.sent, i)] = map[string]any{"batch": w.sent}
		}
		body, err := json.Marshal(map[string]any{"entries": entries})
		if err != nil {
			return err
		}
		answer, err := s.try(context.Background(), http.MethodPost, "/v1/mset", string(body))
		if err != nil || answer.status == http.StatusServiceUnavailable {
			return nil //nolint:nilerr // the server was killed, which is what the test is about
		}
		if answer.status != http.StatusOK {
			return fmt.Errorf("%d %s", answer.status, answer.body)
		}
		w.acknowledged = w.sent
		count.Add(1)
	}
}

// check holds what the store has against what the writer knows.
func (w *batchWriter) check(t *testing.T, s *server) {
	t.Helper()
	var keys []string
	for i := range cells {
		keys = append(keys, w.cell(i))
	}
	for batch := 1; batch <= w.sent; batch++ {
		for i := range added {
			keys = append(keys, w.added(batch, i))
		}
	}
	stored := map[string]int{} // batch by key
	for len(keys) > 0 {
		part := keys[:min(len(keys), 1000)]
		keys = keys[len(part):]
		body, err := json.Marshal(map[string]any{"keys": part})
		require.NoError(t, err)
		answer := s.post("/v1/mget", string(body))
		require.Equal(t, http.StatusOK, answer.status)
		var found struct {
			Items map[string]struct{ Batch int }
		}
		require.NoError(t, json.Unmarshal([]byte(answer.body), &found))
		for key, item := range found.Items {
			stored[key] = item.Batch
		}
	}
	last := stored[w.cell(0)]
	require.GreaterOrEqual(t, last, w.acknowledged, "writer %s: an acknowledged batch is lost", w.name)
	for i := range cells {
		require.Equal(t, last, stored[w.cell(i)], "writer %s: a batch is there in part", w.name)
	}
	for batch := 1; batch <= w.sent; batch++ {
		for i := range added {
			_, there := stored[w.added(batch, i)]
			require.Equal(t, batch <= last, there, "writer %s, which came to batch %d: key %d of batch %d", w.name, last, i, batch)
		}
	}
}

func TestKilledWithItsPostgres(t *testing.T) {
	t.Parallel()
	dir := newDataDir(t)
	s := startReady(t, dir)
	var group sync.WaitGroup
	var count atomic.Int64
	writers := make([]*batchWriter, 4)
	for i := range writers {
		w := &batchWriter{name: strconv.Itoa(i)}
		writers[i] = w
		group.Go(func() {
			if err := w.run(s, &count); err != nil {
				t.Errorf("writer %s: %v", w.name, err)
			}
		})
	}
	const enough = 200
	s.eventually("enough batches are acknowledged", func() bool { return count.Load() >= enough })
	postgres := s.postgres()
	require.NoError(t, syscall.Kill(postgres, syscall.SIGKILL))
	s.signal(syscall.SIGKILL)
	s.wait(soon)
	group.Wait()

	s = startReady(t, dir)
	for _, w := range writers {
		w.check(t, s)
	}
	t.Logf("%d batches acknowledged", count.Load())
}

func TestPostgresKilledAlone(t *testing.T) {
	t.Parallel()
	dir := newDataDir(t)
	s := startReady(t, dir)
	require.Equal(t, http.StatusCreated, s.put("/v1/items/a", "1").status)
	require.NoError(t, syscall.Kill(s.postgres(), syscall.SIGKILL))
	// The server cannot go on; whoever runs it starts it again.
	code, _ := s.wait(soon)
	require.Equal(t, exitFailure, code)
	require.Contains(t, s.out.String(), "embedded PostgreSQL has ended")

	s = startReady(t, dir)
	require.Equal(t, "1", s.get("/v1/items/a").body)
}

func TestPostgresKilledDuringTheStart(t *testing.T) {
	t.Parallel()
	s := start(t, newDataDir(t))
	// It answers, but the migrations have hardly begun. Should this come too late,
	// nothing else is expected.
	s.eventually("PostgreSQL is up", func() bool {
		return strings.Contains(s.out.String(), "embedded PostgreSQL is ready")
	})
	require.NoError(t, syscall.Kill(s.postgres(), syscall.SIGKILL))
	code, _ := s.wait(soon / 2)
	require.Equal(t, exitFailure, code)
	require.Contains(t, s.out.String(), "embedded PostgreSQL has ended")
}

// A server may be stopped or killed at any time, while it migrates as well: that
// must not take a person to mend.
func TestStoppedWhileMigrating(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		signal syscall.Signal
		code   int
	}{
		"SIGTERM": {syscall.SIGTERM, exitOK},
		"SIGKILL": {syscall.SIGKILL, -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := pgtest.Empty(t)
			// From where the tables are there, the migrations make indexes on them.
			const tables = 4
			var latest, known int
			_, err := fmt.Sscanf(migrate(t, dsn, "up"), "schema version %d of %d", &latest, &known)
			require.NoError(t, err)
			migrate(t, dsn, "down", strconv.Itoa(latest-tables))

			conn := pgtest.Connect(t, dsn)
			goOn := holdUp(t, dsn)
			s := start(t, newDataDir(t), on(dsn))
			s.eventually("a migration waits", func() bool { return sessions(t, conn, waiting) == 1 })
			s.signal(tc.signal)
			code, took := s.wait(soon)
			require.Equal(t, tc.code, code)
			require.Less(t, took, 5*time.Second)
			goOn()
			eventually(t, "no session is left", func() bool { return sessions(t, conn, ours) == 0 })

			s = startReady(t, newDataDir(t), on(dsn))
			require.Equal(t, http.StatusCreated, s.put("/v1/items/a", "1").status)
		})
	}
}
