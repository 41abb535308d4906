package app_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAnswersOfAllSizes: an answer is put together from what net/http writes in
// pieces, whose borders depend on its size.
func TestAnswersOfAllSizes(t *testing.T) {
	t.Parallel()
	i := launch(t, nil)
	sizes := []int{1, 100, 2000, 2048, 2049, 60_000, 64<<10 - 1, 64 << 10, 64<<10 + 1, 200_000}
	for size := 3500; size < 4200; size += 7 {
		sizes = append(sizes, size)
	}
	bodies := make([]string, len(sizes))
	var entries []string
	for n, size := range sizes {
		bodies[n] = `"` + strings.Repeat(string(rune('a'+n%26)), size) + `"`
		entries = append(entries, fmt.Sprintf(`"k%d":%s`, n, bodies[n]))
	}
	i.must(http.MethodPost, "/v1/mset", `{"entries":{`+strings.Join(entries, ",")+`}}`)

	for _, pipelined := range []bool{false, true} {
		conn, err := net.Dial("tcp", i.address)
		require.NoError(t, err)
		reader := bufio.NewReader(conn)
		ask := func(method string, n int, more string) {
			_, err := fmt.Fprintf(conn, "%s /v1/items/k%d HTTP/1.1\r\nHost: localhost\r\n%s\r\n", method, n, more)
			require.NoError(t, err)
		}
		answered := func(method string, n, status int) (etag string) {
			response, err := http.ReadResponse(reader, &http.Request{Method: method})
			require.NoError(t, err)
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.Equal(t, status, response.StatusCode)
			if method == http.MethodGet && status == http.StatusOK {
				require.Equal(t, bodies[n], string(body))
				require.EqualValues(t, len(bodies[n]), response.ContentLength)
			} else {
				require.Empty(t, body)
			}
			return response.Header.Get("Etag")
		}
		for n := range bodies {
			ask(http.MethodGet, n, "")
			if pipelined {
				ask(http.MethodHead, n, "")
				ask(http.MethodGet, n, "Cache-Control: no-cache\r\n")
			}
			etag := answered(http.MethodGet, n, http.StatusOK)
			if pipelined {
				answered(http.MethodHead, n, http.StatusOK)
				answered(http.MethodGet, n, http.StatusOK)
			}
			ask(http.MethodGet, n, "If-None-Match: "+etag+"\r\n")
			answered(http.MethodGet, n, http.StatusNotModified)
		}
		require.NoError(t, conn.Close())
	}
}
