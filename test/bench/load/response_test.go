package load

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// readers are the ways in which bytes can arrive.
var readers = map[string]func(io.Reader) io.Reader{
	"at once":           func(r io.Reader) io.Reader { return r },
	"byte by byte":      iotest.OneByteReader,
	"in halves":         iotest.HalfReader,
	"with the last EOF": iotest.DataErrReader,
}

func answer(status int, name, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d Whatever\r\nX-A: b\r\n%s: %d\r\nX-C: d\r\n\r\n%s", status, name, len(body), body)
}

func TestResponsesAreReadOneAfterTheOther(t *testing.T) {
	t.Parallel()
	bodies := []string{
		"short", "", strings.Repeat("0123456789", 50_000), "\r\n\r\n", strings.Repeat("x", 64<<10), strings.Repeat("y", 64<<10-70), "end",
	}
	for name, reader := range readers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var all strings.Builder
			for i, body := range bodies {
				all.WriteString(answer(200+i, []string{"Content-Length", "content-length"}[i%2], body))
			}
			r := newResponseReader(reader(strings.NewReader(all.String())))
			for i, body := range bodies {
				got, err := r.next()
				require.NoError(t, err, "response %d", i)
				require.Equal(t, 200+i, got.status)
				require.Equal(t, len(body), got.length)
				require.True(t, strings.HasPrefix(body, string(got.body)), "response %d: the sample is not its beginning", i)
				require.GreaterOrEqual(t, len(got.body), min(len(body), sample))
			}
			_, err := r.next()
			require.ErrorIs(t, err, io.EOF)
		})
	}
}

func TestWhatIsNoResponseIsAnError(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want string
	}{
		"another protocol":  {"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no response of HTTP/1"},
		"no status":         {"HTTP/1.1 abc Hm\r\n\r\n", "without a status"},
		"no length":         {"HTTP/1.1 200 OK\r\n\r\n", errNoLength.Error()},
		"chunks":            {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", errNoLength.Error()},
		"a wrong length":    {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "wrong length"},
		"an endless head":   {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 10_000), errHeadTooLong.Error()},
		"an end in a head":  {"HTTP/1.1 200 OK\r\nContent-", io.ErrUnexpectedEOF.Error()},
		"an end in a body":  {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1234", io.ErrUnexpectedEOF.Error()},
		"an end before all": {"", io.EOF.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for how, reader := range readers {
				_, err := newResponseReader(reader(strings.NewReader(c.text))).next()
				require.ErrorContains(t, err, c.want, how)
			}
		})
	}
}
