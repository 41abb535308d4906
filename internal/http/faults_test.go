package http_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/auth"
	stockhttp "github.com/stockroom/stockroom/internal/http"
	"github.com/stockroom/stockroom/internal/limit"
)

// TestServiceThatIsNotUp asks every operation of a service that is starting or
// shutting down.
func TestServiceThatIsNotUp(t *testing.T) {
	t.Parallel()
	for code, reason := range map[string]error{"starting": stockhttp.ErrStarting, "shutting_down": stockhttp.ErrShuttingDown} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			b := setup(t, func(s *settings) { s.dependencies.Serving = func() error { return reason } })
			for _, operation := range operations {
				a := operation.send(b)
				switch {
				case operation.noData:
					a.is(http.StatusOK)
				case operation.method == http.MethodHead:
					a.is(http.StatusServiceUnavailable)
				default:
					a.fails(http.StatusServiceUnavailable, code)
				}
			}
			b.get("/nowhere", marked(bad)).fails(http.StatusNotFound, "not_found")
		})
	}
}

// TestClosedStore asks every operation of a store that has been closed behind the
// handlers, as for one that a shutdown has overtaken.
func TestClosedStore(t *testing.T) {
	t.Parallel()
	for name, closes := range map[string]func(*bundle) error{
		"gate":        func(b *bundle) error { b.gate.Close(); return nil },
		"connections": func(b *bundle) error { return b.db.Close(b.t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, faulty)
			b.stored("a", "1")
			require.NoError(t, closes(b))
			for _, operation := range operations {
				a := operation.send(b)
				switch {
				case operation.noData:
					a.is(http.StatusOK)
				case operation.method == http.MethodHead:
					a.is(http.StatusServiceUnavailable)
				default:
					a.fails(http.StatusServiceUnavailable, "shutting_down")
				}
			}
		})
	}
}

// TestStartingServiceHasNoStore makes sure that nothing is asked of a store that
// is not there yet.
func TestStartingServiceHasNoStore(t *testing.T) {
	t.Parallel()
	b := setup(t)
	starting := b.at(b.another(func(s *settings) {
		s.dependencies.Store = nil
		s.dependencies.Serving = func() error { return stockhttp.ErrStarting }
	}))
	starting.get("/v1/items/a").fails(http.StatusServiceUnavailable, "starting")
	starting.get("/livez").is(http.StatusOK)
}

// lockRow holds the row of an item, so that a write of it waits.
func (b *bundle) lockRow(key string) (release func()) {
	b.t.Helper()
	return b.hold(`SELECT 1 FROM entries WHERE key = $1 FOR UPDATE`, key)
}

// goTry sends a request that will take its time.
func goTry(b *bundle, method, path string, options ...option) <-chan *answer {
	done := make(chan *answer, 1)
	go func() {
		a, err := b.try(method, path, options...)
		if err != nil {
			a = &answer{t: b.t, what: err.Error()}
		}
		done <- a
	}()
	return done
}

func TestBusy(t *testing.T) {
	t.Parallel()
	b := setup(t, faulty, func(s *settings) { s.gate = limit.NewGate(1, 0, patience) })
	b.stored("a", "1")
	release := b.lockRow("a")
	defer release()
	slow := goTry(b, http.MethodPut, "/v1/items/a", body("2"))
	b.waitForBlocked(1)
	for _, operation := range operations {
		a := operation.send(b)
		switch {
		case operation.noData:
			a.is(http.StatusOK)
		case operation.method == http.MethodHead:
			a.is(http.StatusServiceUnavailable)
		default:
			a.fails(http.StatusServiceUnavailable, "busy")
		}
	}
	// What is wrong with a request is said whether or not there is a slot.
	b.put("/v1/items/a", "{", marked(bad)).fails(http.StatusBadRequest, "malformed_json")
	release()
	(<-slow).is(http.StatusOK)
	require.Equal(t, "2", b.get("/v1/items/a").is(http.StatusOK).body)
}

func TestBusyAfterWaiting(t *testing.T) {
	t.Parallel()
	b := setup(t, faulty, func(s *settings) { s.gate = limit.NewGate(1, 1, 50*time.Millisecond) })
	b.stored("a", "1")
	release := b.lockRow("a")
	defer release()
	slow := goTry(b, http.MethodPut, "/v1/items/a", body("2"))
	b.waitForBlocked(1)
	b.get("/v1/items/a").fails(http.StatusServiceUnavailable, "busy")
	release()
	(<-slow).is(http.StatusOK)
	b.get("/v1/items/a").is(http.StatusOK)
}

// TestRequestTimeout has requests wait for a lock for longer than they may. The
// connections that they used must be as good as before.
func TestRequestTimeout(t *testing.T) {
	t.Parallel()
	const timeout = 200 * time.Millisecond
	b := setup(t, faulty, func(s *settings) { s.connections = 1 })
	impatient := b.at(b.another(func(s *settings) { s.config.RequestTimeout = timeout }))
	b.stored("a", "1")
	release := b.lockRow("a")
	defer release()
	for name, send := range map[string]func() *answer{
		"put":      func() *answer { return impatient.put("/v1/items/a", "2") },
		"if-match": func() *answer { return impatient.put("/v1/items/a", "2", header("If-Match", "*")) },
		"delete":   func() *answer { return impatient.do(http.MethodDelete, "/v1/items/a") },
		"touch":    func() *answer { return impatient.post("/v1/items/a/touch", `{"ttl":5}`) },
		"mset": func() *answer {
			return impatient.post("/v1/mset", `{"entries":{"b":1,"a":2,"component:f:n":{"sourceCode":""}}}`)
		},
		"mdelete":      func() *answer { return impatient.post("/v1/mdelete", `{"keys":["b","a"]}`) },
		"transaction":  func() *answer { return impatient.transact(`{"check":{"key":"a","etag":null}}`) },
		"clear":        func() *answer { return impatient.do(http.MethodDelete, "/v1/items") },
		"clear a part": func() *answer { return impatient.do(http.MethodDelete, "/v1/items?pattern=a*") },
	} {
		start := time.Now()
		send().fails(http.StatusServiceUnavailable, "request_timeout")
		took := time.Since(start)
		require.GreaterOrEqual(t, took, timeout, name)
		require.Less(t, took, 20*timeout, name)
		b.until("its slot and connection are given back", func() bool {
			return b.gate.State().InUse == 0 && b.db.Stat().AcquiredConns() == 0
		})
	}
	release()
	require.Equal(t, []string{"a"}, b.keys("", 10), "a request that timed out has written something")
	require.Equal(t, "1", b.get("/v1/items/a").is(http.StatusOK).body)
	b.put("/v1/items/a", "3").is(http.StatusOK)
	require.EqualValues(t, 1, b.db.Stat().NewConnsCount(), "a cancelled statement has cost a connection")
}

// TestTimeoutInTheQueue has a request time out before it gets a slot.
func TestTimeoutInTheQueue(t *testing.T) {
	t.Parallel()
	b := setup(t, faulty, func(s *settings) { s.gate = limit.NewGate(1, 10, patience) })
	impatient := b.at(b.another(func(s *settings) { s.config.RequestTimeout = 100 * time.Millisecond }))
	b.stored("a", "1")
	release := b.lockRow("a")
	defer release()
	slow := goTry(b, http.MethodPut, "/v1/items/a", body("2"))
	b.waitForBlocked(1)
	impatient.get("/v1/items/a").fails(http.StatusServiceUnavailable, "request_timeout")
	b.until("its place is given back", func() bool { return b.gate.State().Waiting == 0 })
	release()
	(<-slow).is(http.StatusOK)
}

// TestClientThatLeaves cuts requests that wait for a lock, for a slot, or with
// half a body. It is nobody's fault, and nothing of theirs stays behind.
func TestClientThatLeaves(t *testing.T) {
	t.Parallel()
	b := setup(t, func(s *settings) { s.gate = limit.NewGate(1, 10, patience) })
	b.stored("a", "1")
	release := b.lockRow("a")
	defer release()
	leave := func(id string, while func()) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		failed := make(chan error, 1)
		go func() {
			_, err := b.try(http.MethodPut, "/v1/items/a", body("2"), header("X-Request-Id", id), within(ctx))
			failed <- err
		}()
		while()
		cancel()
		require.ErrorIs(t, <-failed, context.Canceled)
	}
	logged := func(id string) {
		t.Helper()
		record := b.log.waitFor(t, func(r logRecord) bool { return r.RequestID == id && r.Message == "request" })
		require.NotEqual(t, http.StatusInternalServerError, record.Status)
	}
	leave("waits-for-a-lock", func() {
		b.waitForBlocked(1)
		leave("waits-for-a-slot", func() {
			b.until("a place is taken", func() bool { return b.gate.State().Waiting == 1 })
		})
		logged("waits-for-a-slot")
		b.until("its place is given back", func() bool { return b.gate.State().Waiting == 0 })
	})
	logged("waits-for-a-lock")
	b.until("its slot is given back", func() bool { return b.gate.State().InUse == 0 })
	release()
	require.Equal(t, "1", b.get("/v1/items/a").is(http.StatusOK).body)
	b.put("/v1/items/a", "3").is(http.StatusOK)

	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(b.URL, "http://"))
	require.NoError(t, err)
	_, err = fmt.Fprintf(conn, "PUT /v1/items/a HTTP/1.1\r\nHost: test\r\nX-Request-Id: half-a-body\r\nContent-Length: 10\r\n\r\n\"4")
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	logged("half-a-body")
	require.Equal(t, "3", b.get("/v1/items/a").is(http.StatusOK).body)
	require.Empty(t, b.log.find(func(r logRecord) bool { return r.Level == "ERROR" || r.Status == http.StatusInternalServerError }))
}

// TestRequestsCutByShutdown cancels what a server is doing, as a shutdown does
// whose time is over, while its clients still wait.
func TestRequestsCutByShutdown(t *testing.T) {
	t.Parallel()
	b := setup(t)
	requests, cut := context.WithCancel(t.Context())
	defer cut()
	stopping := b.at(b.another(func(s *settings) { s.base = requests }))
	b.stored("a", "1")
	release := b.lockRow("a")
	defer release()
	slow := goTry(stopping, http.MethodPut, "/v1/items/a", body("2"))
	b.waitForBlocked(1)
	cut()
	(<-slow).fails(http.StatusServiceUnavailable, "shutting_down")
}

// TestDatabaseThatIsNotThere asks every operation of a service whose database
// cannot be reached, and looks for what nobody outside must see.
func TestDatabaseThatIsNotThere(t *testing.T) {
	t.Parallel()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close()) // nobody listens there from now on
	b := setup(t, faulty, func(s *settings) {
		s.dsn = "postgres://secretuser:secretpassword@" + address + "/secretdatabase"
	})
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	for _, operation := range operations {
		a := operation.send(b)
		switch {
		case operation.noData:
			a.is(http.StatusOK)
		case operation.method == http.MethodHead:
			a.is(http.StatusServiceUnavailable)
		default:
			a.fails(http.StatusServiceUnavailable, "unavailable")
			for name, values := range a.header {
				a.body += name + strings.Join(values, "")
			}
			if operation.id != "getOpenAPI" {
				for _, secret := range []string{"secret", "127.0.0.1", port, "refused", "SELECT", "INSERT", "dial", "pgx", "postgres", "txn"} {
					require.NotContains(t, a.body, secret, operation.id)
				}
			}
		}
	}
}

// TestBrokenStatementIsNotShown makes a statement fail in a way that nobody has
// thought of.
func TestBrokenStatementIsNotShown(t *testing.T) {
	t.Parallel()
	b := setup(t, faulty)
	b.exec(`ALTER TABLE entries RENAME COLUMN value TO secret_value`)
	p := b.put("/v1/items/a", "1").fails(http.StatusInternalServerError, "internal")
	require.Empty(t, p.Detail)
	p = b.get("/v1/items/a").fails(http.StatusInternalServerError, "internal")
	require.Empty(t, p.Detail)
	found := b.log.find(func(r logRecord) bool {
		return r.Level == "ERROR" && strings.Contains(r.Error, "column") && r.RequestID == p.RequestID
	})
	require.Len(t, found, 1, "the log does not say what it was")
	b.exec(`ALTER TABLE components ADD CHECK (false)`)
	p = b.put("/r/f/n.json", `{"name":"n","type":"registry:ui"}`).fails(http.StatusInternalServerError, "internal")
	require.Equal(t, p.Title, p.Message)
}

func TestLimitOfTheStore(t *testing.T) {
	t.Parallel()
	b := setup(t, func(s *settings) { s.options.MaxBytes = 100 })
	text := func(n int) string { return `"` + strings.Repeat("x", n-2) + `"` }
	tooLarge := func(a *answer, key, pointer string) {
		t.Helper()
		a.fails(http.StatusRequestEntityTooLarge, "item_too_large", place{key, pointer, "item_too_large"})
	}
	b.stored("old", text(60))
	tooLarge(b.put("/v1/items/big", text(101), marked(loose)), "big", "")
	tooLarge(b.put("/v1/components/f/n", `{"sourceCode":"","fileSize":101}`, marked(loose)), "component:f:n", "")
	tooLarge(b.put("/r/f/n.json", `{"name":"n","type":"registry:ui","files":[{"path":"p","type":"registry:ui","content":`+text(103)+`}]}`, marked(loose)), "component:f:n", "")
	tooLarge(b.post("/v1/mset", `{"entries":{"a":1,"b":`+text(101)+`}}`, marked(loose)), "b", "/entries/b")
	b.post("/v1/mset", `{"entries":{"a":`+text(60)+`,"b":`+text(41)+`}}`, marked(loose)).fails(http.StatusRequestEntityTooLarge, "batch_too_large")
	require.Equal(t, []string{"old"}, b.keys("", 10), "what was refused has changed something")
	b.put("/v1/items/fits", text(100)).is(http.StatusCreated)
	require.Equal(t, []string{"fits"}, b.keys("", 10))
	b.put("/v1/items/fits", text(100)).is(http.StatusOK)
	b.post("/v1/mset", `{"entries":{"a":`+text(60)+`,"b":`+text(40)+`}}`).is(http.StatusOK)
	require.Equal(t, []string{"a", "b"}, b.keys("", 10))
}

// TestDemoBeyondTheLimit publishes what fits by itself, but not with what is stored
// for it besides.
func TestDemoBeyondTheLimit(t *testing.T) {
	t.Parallel()
	b := setup(t, func(s *settings) { s.options.MaxBytes = 100 })
	publish := func(name, itemType string, size int) *answer {
		t.Helper()
		return b.put("/r/f/"+name+".json", fmt.Sprintf(`{"name":%q,"type":%q,"files":[{"path":"p.tsx","type":%[2]q,"content":%q}]}`, name, itemType, strings.Repeat("x", size)), marked(loose))
	}
	refused := func(a *answer) {
		t.Helper()
		p := a.fails(http.StatusRequestEntityTooLarge, "batch_too_large")
		require.Equal(t, "a component and its demo, which is stored with it, are together larger than the limit of the store", p.Detail)
		require.Equal(t, p.Detail, p.Message)
	}
	b.stored("old", "1")
	publish("c", "registry:ui", 60).is(http.StatusCreated)
	refused(publish("c-demo", "registry:example", 41)) // the component alone would have 101 bytes
	refused(publish("c-demo", "registry:example", 21)) // and here 81, beside a demo of 21
	require.Equal(t, []string{"component:f:c", "old"}, b.keys("", 10), "what was refused has changed something")
	publish("c-demo", "registry:example", 10).is(http.StatusCreated)
	require.Equal(t, []string{"component:f:c", "component:f:c-demo", "old"}, b.keys("", 10))
	refused(publish("c", "registry:ui", 91)) // it keeps its demo
	a := publish("c-demo", "registry:example", 101)
	a.fails(http.StatusRequestEntityTooLarge, "item_too_large", place{"component:f:c-demo", "", "item_too_large"})
}

// keyring writes a file of API keys, one for each set of scopes, and returns it
// with their tokens.
func keyring(t *testing.T, scopes ...auth.Scopes) (*auth.Keyring, map[auth.Scopes]string) {
	t.Helper()
	tokens := map[auth.Scopes]string{}
	var lines strings.Builder
	for i, scope := range scopes {
		token, line, err := auth.Generate(fmt.Sprintf("id%d", i), scope)
		require.NoError(t, err)
		tokens[scope] = token
		lines.WriteString(line + "\n")
	}
	path := filepath.Join(t.TempDir(), "keys")
	require.NoError(t, os.WriteFile(path, []byte(lines.String()), 0o600))
	keys, err := auth.Load(path)
	require.NoError(t, err)
	return keys, tokens
}

// TestScopes sends every operation with every kind of key and holds the answer
// against the scope that the contract names.
func TestScopes(t *testing.T) {
	t.Parallel()
	keys, tokens := keyring(t, auth.Read, auth.Write, auth.Read|auth.Write, auth.Admin)
	b := setup(t, func(s *settings) { s.dependencies.Keys = keys })
	for _, operation := range operations {
		if operation.noData {
			require.Empty(t, *operation.documented(t).Security, operation.id)
			operation.send(b, header("Authorization", "Bearer unknown")).is(http.StatusOK)
			continue
		}
		needs := auth.Scopes(0)
		for _, requirement := range *operation.documented(t).Security {
			for _, names := range requirement {
				scope, err := auth.ParseScopes(strings.Join(names, ","))
				require.NoError(t, err)
				needs |= scope
			}
		}
		require.NotZero(t, needs, operation.id)
		refused := func(a *answer, status int, code string) {
			t.Helper()
			if a.is(status); operation.method != http.MethodHead {
				a.fails(status, code)
			}
		}
		for scopes, token := range tokens {
			a := operation.send(b, header("Authorization", "Bearer "+token))
			if scopes&auth.Admin != 0 || scopes&needs == needs {
				require.NotContains(t, []int{http.StatusUnauthorized, http.StatusForbidden}, a.status, "%s by %s", operation.id, scopes)
			} else {
				refused(a, http.StatusForbidden, "forbidden")
			}
		}
		for name, value := range map[string]string{
			"none": "", "unknown": "Bearer sr_x_123", "empty": "Bearer ", "another scheme": "Basic " + tokens[auth.Admin], "no scheme": tokens[auth.Admin],
			"cut": "Bearer " + tokens[auth.Admin][:20], "two": "Bearer " + tokens[auth.Admin] + " " + tokens[auth.Read],
		} {
			option := header("Authorization", value)
			if value == "" {
				option = func(*http.Request, *call) {}
			}
			a := operation.send(b, option)
			refused(a, http.StatusUnauthorized, "unauthorized")
			require.True(t, strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer "), name)
		}
	}
	operation := operations[0]
	require.NotEqual(t, http.StatusUnauthorized, operation.send(b, header("Authorization", "bEARER   "+tokens[auth.Read])).status)
}

// TestPagesOfOtherSites refuses what a browser sends for a page of another site.
func TestPagesOfOtherSites(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.put("/v1/items/a", "1", header("Sec-Fetch-Site", "cross-site")).fails(http.StatusForbidden, "forbidden")
	b.put("/v1/items/a", "1", header("Origin", "https://example.org")).fails(http.StatusForbidden, "forbidden")
	b.put("/v1/items/a", "1", header("Sec-Fetch-Site", "same-origin")).is(http.StatusCreated)
	b.get("/v1/items/a", header("Sec-Fetch-Site", "cross-site")).is(http.StatusOK)
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	keys, tokens := keyring(t, auth.Read, auth.Admin)
	const perSecond = 5
	b := setup(t, func(s *settings) {
		s.config.RateLimit = perSecond
		s.dependencies.Keys = keys
	})
	reader, admin := header("Authorization", "Bearer "+tokens[auth.Read]), header("Authorization", "Bearer "+tokens[auth.Admin])
	limited := 0
	for range 10 * perSecond {
		if a := b.get("/v1/items", reader); a.status == http.StatusTooManyRequests {
			a.fails(http.StatusTooManyRequests, "rate_limited")
			limited++
		} else {
			a.is(http.StatusOK)
		}
	}
	require.NotZero(t, limited)
	b.get("/v1/items", admin).is(http.StatusOK) // another client has its own
	b.get("/livez").is(http.StatusOK)
	b.get("/r/f/n.json", admin).fails(http.StatusNotFound, "not_found")
	for range 10 * perSecond { // one who guesses keys is limited as well
		if b.get("/v1/items", header("Authorization", "Bearer guess")).status == http.StatusTooManyRequests {
			return
		}
	}
	require.Fail(t, "guessing keys is not limited")
}
