package notice_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/conntrack"
	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/notice"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/postgres"
	"github.com/stockroom/stockroom/internal/readcache"
	"github.com/stockroom/stockroom/internal/store"
	"github.com/stockroom/stockroom/internal/txn"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	// soon is when a test that waits for something gives up.
	soon = 30 * time.Second
	// long is a staleness that no test waits for: what is seen earlier was heard.
	long = time.Hour
)

// server is what of a server has to do with notices.
type server struct {
	t           testing.TB
	db          *postgres.DB
	connections *conntrack.Registry
	cache       *watched
	notices     *notice.Notices
	log         *logs
	*store.Store
}

// watched is a cache that counts what it has been told: once a test sees the count,
// it has been done.
type watched struct {
	*readcache.Cache
	distrusts, resets atomic.Int64
	heard             atomic.Pointer[time.Time]
}

func (w *watched) Distrust() { w.Cache.Distrust(); w.distrusts.Add(1) }

func (w *watched) Reset() { w.Cache.Reset(); w.resets.Add(1) }

func (w *watched) Heard(until time.Time) { w.Cache.Heard(until); w.heard.Store(&until) }

// hears tells whether everything until a time has been heard.
func (w *watched) hears(when time.Time) bool {
	heard := w.heard.Load()
	return heard != nil && !heard.Before(when)
}

// logs keeps what is logged.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logs) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// start starts a server on the database of dsn, which takes leave when the test ends.
func start(t testing.TB, dsn string, staleness time.Duration) *server {
	t.Helper()
	const connections = 4
	s := &server{t: t, connections: new(conntrack.Registry), cache: &watched{Cache: readcache.New(1<<20, staleness)}, log: new(logs)}
	log := slog.New(slog.NewTextHandler(s.log, nil))
	var err error
	s.db, err = postgres.Open(postgres.Config{DSN: dsn, MaxConns: connections, ConnectTimeout: soon, Connections: s.connections})
	require.NoError(t, err)
	s.notices = notice.Start(notice.Config{Database: s.db, Cache: s.cache, MaxStaleness: staleness, Log: log})
	s.Store = store.New(txn.New(s.db, nil, log), store.Options{Cache: s.cache.Cache, Notices: s.notices})
	t.Cleanup(s.close)
	require.NoError(t, s.notices.Hello(within(t)))
	return s
}

func (s *server) close() {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	require.NoError(s.t, s.notices.Close(ctx))
	require.NoError(s.t, s.db.Close(ctx))
	s.cache.Close()
	require.Empty(s.t, s.connections.List())
}

// pair returns two servers that hear each other.
func pair(t testing.TB, staleness time.Duration) (a, b *server, conn *pgx.Conn) {
	t.Helper()
	dsn := pgtest.New(t)
	a, b = start(t, dsn, staleness), start(t, dsn, staleness)
	b.awaitHears(a)
	a.awaitHears(b)
	return a, b, pgtest.Connect(t, dsn)
}

// awaitHears returns when s knows all that the others have changed until now.
func (s *server) awaitHears(others ...*server) {
	s.t.Helper()
	now := time.Now()
	until(s.t, "it hears the others", func() bool { return s.notices.Peers() >= len(others) && s.cache.hears(now) })
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	t.Cleanup(cancel)
	return ctx
}

// until looks again and again until something is true.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(soon); !done(); <-ticker.C {
		if time.Now().After(deadline) {
			require.FailNow(t, "waited in vain until "+what)
		}
	}
}

func key(t testing.TB, text string) item.Key {
	t.Helper()
	k, err := item.ParseKey(text)
	require.NoError(t, err)
	return k
}

func value(t testing.TB, k item.Key, text string) item.Value {
	t.Helper()
	v, err := item.Parse(k, fmt.Appendf(nil, "%q", text))
	require.NoError(t, err)
	return v
}

func (s *server) put(k item.Key, text string) {
	s.t.Helper()
	_, err := s.Put(within(s.t), value(s.t, k, text), nil, item.Precondition{})
	require.NoError(s.t, err)
}

// get returns an item's text, or "" where there is none.
func (s *server) get(k item.Key) string {
	s.t.Helper()
	stored, err := s.Get(within(s.t), k)
	if errors.Is(err, item.ErrNotFound) {
		return ""
	}
	require.NoError(s.t, err)
	return strings.Trim(string(stored.JSON), `"`)
}

// cached tells whether the server answers the key from its cache.
func (s *server) cached(k item.Key) bool {
	_, ok := s.cache.Lookup(k)
	return ok
}

// behind changes an item where no server sees it.
func behind(t testing.TB, conn *pgx.Conn, k item.Key, text string) {
	t.Helper()
	_, err := conn.Exec(t.Context(), `UPDATE entries SET value = $2 WHERE key = $1`, k.String(), fmt.Sprintf("%q", text))
	require.NoError(t, err)
}

// listeners are the sessions of servers' own connections.
func listeners(t testing.TB, conn *pgx.Conn) (pids []int32) {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT DISTINCT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = $1
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`, uint32(0x73746f63))
	require.NoError(t, err)
	pids, err = pgx.CollectRows(rows, pgx.RowTo[int32])
	require.NoError(t, err)
	return pids
}

// notify says something on the channel in another's name.
func notify(t testing.TB, conn *pgx.Conn, payload string) {
	t.Helper()
	_, err := conn.Exec(t.Context(), `SELECT pg_notify('stockroom', $1)`, payload)
	require.NoError(t, err)
}

// Whatever changes on one server is seen on the other, long before it is stale.
func TestChangesAreHeard(t *testing.T) {
	a, b, _ := pair(t, long)
	k, other := key(t, "e"), key(t, "other")
	for name, change := range map[string]func(){
		"put":    func() { a.put(k, "new") },
		"delete": func() { require.NoError(t, a.Delete(t.Context(), k, item.Precondition{})) },
		"mset": func() {
			require.NoError(t, a.PutMany(t.Context(), []item.Value{value(t, other, "x"), value(t, k, "new")}, nil))
		},
		"mdelete": func() { _, err := a.DeleteMany(t.Context(), []item.Key{k}); require.NoError(t, err) },
		"clear":   func() { _, err := a.Clear(t.Context(), item.Pattern{}); require.NoError(t, err) },
		"touch":   func() { ttl := item.TTL(1000); _, err := a.Touch(t.Context(), k, &ttl); require.NoError(t, err) },
		"transaction": func() {
			_, err := a.Transact(t.Context(), []store.Operation{{Action: store.Delete, Key: other}, {Action: store.Set, Key: k, Value: value(t, k, "new")}})
			require.NoError(t, err)
		},
		"evict": func() {
			n := int64(1000)
			_, err := a.Maintain(t.Context(), store.Maintenance{EvictItems: &n})
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b.put(k, "old")
			until(t, "both have it cached", func() bool {
				return a.get(k) == "old" && b.get(k) == "old" && a.cached(k) && b.cached(k)
			})
			change()
			until(t, "the other has heard of it", func() bool { return !b.cached(k) })
			require.Equal(t, a.get(k), b.get(k))
		})
	}
	require.EqualValues(t, 1, b.cache.resets.Load(), "only clear is about everything")
}

func TestOneConnectionIsOpenBesideThePool(t *testing.T) {
	dsn := pgtest.New(t)
	s := start(t, dsn, long)
	s.awaitHears()
	listening := 0
	for _, c := range s.connections.List() {
		if c.Doing == conntrack.Listening {
			listening++
		}
	}
	require.Equal(t, 1, listening)
	require.Zero(t, s.db.Stat().TotalConns())
	require.True(t, s.notices.Listening())
}

// A batch that does not fit into one notice is told in several.
func TestLargeBatchesAreHeard(t *testing.T) {
	a, b, conn := pair(t, long)
	var values []item.Value
	for i := range 1000 {
		values = append(values, value(t, key(t, fmt.Sprintf("%s%06d", strings.Repeat("k", item.MaxKeyBytes-6), i)), "x"))
	}
	require.NoError(t, a.PutMany(t.Context(), values, nil))
	first, last := values[0].Key, values[len(values)-1].Key
	b.awaitHears(a)
	require.Equal(t, "x", b.get(first))
	require.Equal(t, "x", b.get(last))
	require.True(t, b.cached(first) && b.cached(last))
	resets := b.cache.resets.Load()
	require.NoError(t, a.PutMany(t.Context(), values, nil))
	until(t, "all has been heard", func() bool { return !b.cached(first) && !b.cached(last) })
	require.Equal(t, resets, b.cache.resets.Load())
	require.Len(t, listeners(t, conn), 2)
}

func TestAGapIsNotTrusted(t *testing.T) {
	_, b, conn := pair(t, long)
	k := key(t, "e")
	b.put(k, "old")
	stranger := func(number int) { notify(t, conn, fmt.Sprintf("1 abcdef %d 0 0", number)) }
	before := b.cache.distrusts.Load()
	stranger(1)
	until(t, "it is known", func() bool { return b.cache.distrusts.Load() == before+1 })
	stranger(2)
	until(t, "it is cached", func() bool { return b.get(k) == "old" && b.cached(k) })
	behind(t, conn, k, "new")
	stranger(4)
	until(t, "the gap is found", func() bool { return b.cache.distrusts.Load() == before+2 })
	require.False(t, b.cached(k))
	require.Equal(t, "new", b.get(k))
}

func TestGarbageIsIgnored(t *testing.T) {
	a, b, conn := pair(t, long)
	distrusts := b.cache.distrusts.Load()
	for _, payload := range []string{"", "hello", "1 2 3", `{"keys":["e"]}`, "2 1 1 0 0"} {
		notify(t, conn, payload)
	}
	b.awaitHears(a)
	require.Equal(t, distrusts, b.cache.distrusts.Load())
	require.Equal(t, 1, b.log.count("something else than notices"))
	require.Equal(t, 1, b.notices.Peers())
}

// A server that falls silent keeps the others from going on with what they have,
// until it takes leave.
func TestASilentPeerHoldsBack(t *testing.T) {
	_, b, conn := pair(t, long)
	notify(t, conn, "1 abcdef 1 0 0")
	notify(t, conn, "1 abcdef 2 0 0")
	until(t, "it is known", func() bool { return b.notices.Peers() == 2 })
	silent := time.Now()
	k := key(t, "e")
	b.put(k, "x")
	require.Equal(t, "x", b.get(k))
	for range 3 { // its own notices come back, which moves nothing
		heard := *b.cache.heard.Load()
		require.False(t, heard.After(silent))
		b.put(key(t, "other"), "y")
	}
	notify(t, conn, "1 abcdef 3 0 0 bye")
	until(t, "it has left", func() bool { return b.notices.Peers() == 1 && b.cache.hears(silent) })
}

// A server says that it leaves, and whoever comes is known before it changes anything.
func TestHelloAndFarewell(t *testing.T) {
	dsn := pgtest.New(t)
	b := start(t, dsn, long)
	k := key(t, "e")
	for range 3 {
		a := start(t, dsn, long)
		until(t, "it is known", func() bool { return b.notices.Peers() == 1 })
		a.put(k, "x")
		require.Equal(t, "x", a.get(k))
		require.NoError(t, a.notices.Close(within(t)))
		require.NoError(t, a.notices.Close(within(t)), "closing twice")
		require.ErrorIs(t, a.notices.Hello(within(t)), notice.ErrClosed)
		a.notices.Announce(k)()
		require.Equal(t, 1, a.log.count(notice.ErrClosed.Error()))
		until(t, "it has left", func() bool { return b.notices.Peers() == 0 })
	}
}

// What is changed last is told before the server leaves.
func TestTheLastChangeIsTold(t *testing.T) {
	a, b, _ := pair(t, long)
	k := key(t, "e")
	a.put(k, "old")
	b.awaitHears(a)
	require.Equal(t, "old", b.get(k))
	require.True(t, b.cached(k))
	a.put(k, "new")
	require.NoError(t, a.notices.Close(within(t)))
	until(t, "it has left", func() bool { return b.notices.Peers() == 0 })
	require.Equal(t, "new", b.get(k))
}

// While a commit is in doubt the others know only what was before it.
func TestACommitInDoubtHoldsBack(t *testing.T) {
	a, b, _ := pair(t, long)
	before := time.Now()
	settled := a.notices.Announce(key(t, "e"))
	after := time.Now()
	until(t, "it hears what was before", func() bool { return b.cache.hears(before.Add(-time.Second)) })
	for range 3 {
		a.put(key(t, "other"), "x")
		b.put(key(t, "other"), "x")
		require.False(t, b.cache.hears(after))
	}
	settled()
	until(t, "it hears again", func() bool { return b.cache.hears(after) })

	settled = a.notices.Announce(key(t, "e"))
	require.NoError(t, a.notices.Close(within(t)))
	settled()
	require.Equal(t, 1, b.notices.Peers(), "it has not said that it will change nothing more")
}

// Who loses its connection tells what it changes by another way; and what it has
// missed itself does not stay.
func TestALostConnection(t *testing.T) {
	for name, tc := range map[string]struct{ staleness time.Duration }{"short": {200 * time.Millisecond}, "long": {long}} {
		t.Run(name, func(t *testing.T) {
			a, b, conn := pair(t, tc.staleness)
			k := key(t, "e")
			for i := range 5 {
				a.put(k, fmt.Sprint("old", i))
				until(t, "it is heard", func() bool { return b.get(k) == fmt.Sprint("old", i) })
				was := listeners(t, conn)
				require.Len(t, was, 2)
				_, err := conn.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) pid`, was)
				require.NoError(t, err)
				a.put(k, fmt.Sprint("new", i))
				until(t, "it is heard all the same", func() bool { return b.get(k) == fmt.Sprint("new", i) })
				until(t, "both have new connections", func() bool {
					now := listeners(t, conn)
					return len(now) == 2 && now[0] != was[0] && now[0] != was[1] && now[1] != was[0] && now[1] != was[1]
				})
				a.awaitHears(b)
				b.awaitHears(a)
			}
			require.Positive(t, b.log.count("notices between servers go on"))
		})
	}
}

// A server without a cache tells, and does not listen.
func TestWithoutACache(t *testing.T) {
	dsn := pgtest.New(t)
	b := start(t, dsn, long)
	db, err := postgres.Open(postgres.Config{DSN: dsn, MaxConns: 2, ConnectTimeout: soon})
	require.NoError(t, err)
	notices := notice.Start(notice.Config{Database: db, MaxStaleness: long, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, notices.Hello(within(t)))
	a := store.New(txn.New(db, nil, slog.New(slog.DiscardHandler)), store.Options{Notices: notices})
	k := key(t, "e")
	b.put(k, "old")
	until(t, "it is cached", func() bool { return b.get(k) == "old" && b.cached(k) && b.notices.Peers() == 1 })
	_, err = a.Put(t.Context(), value(t, k, "new"), nil, item.Precondition{})
	require.NoError(t, err)
	until(t, "it is heard", func() bool { return b.get(k) == "new" })
	require.False(t, notices.Listening())
	require.NoError(t, notices.Close(within(t)))
	require.NoError(t, db.Close(within(t)))
}

// A database that is not there, or not any more, is waited for, and left in time.
func TestNoDatabase(t *testing.T) {
	db, err := postgres.Open(postgres.Config{DSN: "postgres://u@127.0.0.1:1/x", MaxConns: 2, ConnectTimeout: soon})
	require.NoError(t, err)
	log := new(logs)
	notices := notice.Start(notice.Config{
		Database: db, Cache: readcache.New(1<<20, long), MaxStaleness: long, Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	until(t, "it is logged", func() bool { return log.count("no connection for notices") == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, notices.Hello(ctx), context.Canceled)
	require.NoError(t, notices.Close(within(t)))
	require.ErrorIs(t, notices.Hello(within(t)), notice.ErrClosed)
	require.NoError(t, db.Close(within(t)))
}

// An engine that refuses notices is served without them.
func TestRefusedNotices(t *testing.T) {
	dsn := pgtest.Empty(t)
	conn := pgtest.Connect(t, dsn)
	// A function of that name which comes first plays the engine that has none.
	_, err := conn.Exec(t.Context(), `CREATE SCHEMA engine;
		CREATE FUNCTION engine.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN RAISE EXCEPTION 'no notices here' USING ERRCODE = 'feature_not_supported'; END $$`)
	require.NoError(t, err)
	s := start(t, dsn+pathOf(dsn), 100*time.Millisecond)
	require.Equal(t, 1, s.log.count("has no notices"))
	require.False(t, s.notices.Listening())
}

// pathOf makes the connections of a URL look into the engine's schema first.
func pathOf(dsn string) string {
	separator := "?"
	if strings.Contains(dsn, "?") {
		separator = "&"
	}
	return separator + "search_path=engine,pg_catalog"
}

// Two servers write batches and read them: no mget is torn, whether it comes from
// the cache or from the database, and none is older than what its own server has
// acknowledged.
func TestBatchesAreNeverTorn(t *testing.T) {
	a, b, _ := pair(t, 500*time.Millisecond)
	servers := []*server{a, b}
	keys := []item.Key{key(t, "entry:1"), key(t, "entry:2"), key(t, "entry:3"), key(t, "entry:4")}
	batch := func(n int64) (values []item.Value) {
		for _, k := range keys {
			values = append(values, value(t, k, strconv.FormatInt(n, 10)))
		}
		return values
	}
	var version atomic.Int64
	require.NoError(t, a.PutMany(t.Context(), batch(0), nil))
	end := time.Now().Add(5 * time.Second)
	if testing.Short() {
		end = time.Now().Add(time.Second)
	}
	var wrong atomic.Pointer[string]
	fail := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		wrong.CompareAndSwap(nil, &text)
	}
	going := func() bool { return wrong.Load() == nil && time.Now().Before(end) }
	var all sync.WaitGroup
	var torn, reads atomic.Int64
	for _, s := range servers {
		all.Go(func() {
			for going() {
				if err := s.PutMany(t.Context(), batch(version.Add(1)), nil); err != nil {
					fail("put: %v", err)
				}
				// Now and then there is quiet, in which what is cached may be used.
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(int(1200*time.Millisecond))))
				<-ctx.Done()
				cancel()
			}
		})
		for range 3 {
			all.Go(func() {
				for going() {
					get := s.GetMany
					switch rand.IntN(20) {
					case 0:
						get = s.GetManyFresh
					case 1: // one by one they may differ, and fill the cache in other ways
						if _, err := s.Get(t.Context(), keys[rand.IntN(len(keys))]); err != nil {
							fail("get: %v", err)
						}
						continue
					}
					found, err := get(t.Context(), keys)
					if err != nil || len(found) != len(keys) {
						fail("mget: %d items, %v", len(found), err)
						return
					}
					reads.Add(1)
					for i := range found {
						if !bytes.Equal(found[i].JSON, found[0].JSON) {
							torn.Add(1)
							fail("torn: %s and %s", found[0].JSON, found[i].JSON)
						}
					}
				}
			})
		}
	}
	all.Wait()
	if text := wrong.Load(); text != nil {
		t.Fatal(*text)
	}
	var hits int64
	for _, s := range servers {
		hits += s.cache.Stats().Hits.Total()
	}
	t.Logf("%d reads, %d items from the caches", reads.Load(), hits)
	require.Positive(t, hits)
}
