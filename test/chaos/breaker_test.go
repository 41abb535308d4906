//go:build linux

package chaos_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/test/cluster"
)

// A database that hangs must open the breaker, whoever asks for what: else every
// reader would wait for its whole deadline for as long as that lasts.
func TestReadsAloneOpenTheBreaker(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	program := build(ctx, t, raceFlag)
	const requestTimeout, failures = 3 * time.Second, 5
	c, err := cluster.New(ctx, cluster.Options{
		Program: program, RequestTimeout: requestTimeout, BreakerTimeout: time.Minute,
		Settings: map[string]string{"fsync": "off"},
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close(context.WithoutCancel(ctx))) }()
	require.NoError(t, c.Server.Start())
	require.NoError(t, c.Server.AwaitReady(ctx))
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	ask := func(method, key, body string) answer {
		begin := time.Now()
		a := answer{}
		a.err = func() error {
			request, err := http.NewRequestWithContext(ctx, method, c.Server.URL()+"/v1/items/"+key, strings.NewReader(body))
			if err != nil {
				return err
			}
			response, err := client.Do(request)
			if err != nil {
				return err
			}
			defer response.Body.Close()
			content, err := io.ReadAll(response.Body)
			a.status, a.header, a.body = response.StatusCode, response.Header, string(content)
			return err
		}()
		a.took = time.Since(begin)
		return a
	}
	require.Equal(t, http.StatusCreated, ask(http.MethodPut, "cached", "1").status)
	require.Equal(t, "1", ask(http.MethodGet, "cached", "").body)

	require.NoError(t, c.Postgres().Freeze())
	var readers sync.WaitGroup
	answers := make([]answer, failures)
	for i := range answers {
		readers.Go(func() { answers[i] = ask(http.MethodGet, fmt.Sprintf("absent-%d", i), "") })
	}
	readers.Wait()
	for _, a := range answers {
		require.NoError(t, a.err)
		require.Equal(t, http.StatusServiceUnavailable, a.status)
		// Or, where another connection was tried meanwhile, that there is none.
		require.Regexp(t, `"code":"(request_timeout|unavailable)"`, a.body)
		require.Less(t, a.took, 2*requestTimeout)
	}

	// Each of them has been answered at its deadline, and its connection is given up
	// a moment later: one more may get through before that.
	const atOnce = requestTimeout / 2
	a := ask(http.MethodGet, "absent", "")
	if a.took >= atOnce {
		a = ask(http.MethodGet, "absent", "")
	}
	require.NoError(t, a.err)
	require.Less(t, a.took, atOnce)
	require.Equal(t, http.StatusServiceUnavailable, a.status)
	require.Contains(t, a.body, `"code":"unavailable"`)
	require.NotEmpty(t, a.header.Get("Retry-After"))
	// What the cache holds is still served, and says how old it may be.
	a = ask(http.MethodGet, "cached", "")
	require.NoError(t, a.err)
	require.Equal(t, http.StatusOK, a.status)
	require.Equal(t, "1", a.body)
	require.Equal(t, "true", a.header.Get("Stockroom-Stale"))
	require.Less(t, a.took, atOnce)
}

// answer is what became of a request.
type answer struct {
	status int
	header http.Header
	body   string
	err    error
	took   time.Duration
}
