//go:build linux

package stage

import (
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAProcessThatDoesNotComeUpSaysWhy(t *testing.T) {
	t.Parallel()
	p, err := start(command{name: "it", path: "/bin/sh", args: []string{"-c", "echo no such luck; exit 3"}, dir: t.TempDir(), url: "http://127.0.0.1:1"})
	require.NoError(t, err)
	_, err = p.ready(p.await(t.Context(), "/"))
	require.ErrorContains(t, err, "it does not come up")
	require.ErrorContains(t, err, "no such luck")
}

func TestStopEndsAProcess(t *testing.T) {
	t.Parallel()
	p, err := start(command{name: "it", path: "/bin/sh", args: []string{"-c", "while :; do :; done"}, dir: t.TempDir()})
	require.NoError(t, err)
	_, err = CPU(p.PID())
	require.NoError(t, err)
	bytes, err := RSS(p.PID())
	require.NoError(t, err)
	require.Positive(t, bytes)
	require.NoError(t, p.Stop())
	require.ErrorIs(t, syscall.Kill(p.PID(), 0), syscall.ESRCH)
	require.NoError(t, p.Stop(), "once more is no error")
	_, err = CPU(p.PID())
	require.ErrorContains(t, err, "does not run")
	_, err = RSS(p.PID())
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestAPortThatIsFree(t *testing.T) {
	t.Parallel()
	address, err := freeAddress(t.Context())
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(address, "127.0.0.1:"))
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address, http.NoBody)
	require.NoError(t, err)
	_, err = http.DefaultClient.Do(request) //nolint:bodyclose // there is none
	require.Error(t, err)
}

func TestTheTailOfALogIsKept(t *testing.T) {
	t.Parallel()
	var log tail
	for range 3 {
		n, err := log.Write([]byte(strings.Repeat("a", maxTail)))
		require.NoError(t, err)
		require.Equal(t, maxTail, n)
	}
	_, _ = log.Write([]byte("end"))
	require.Len(t, log.text(), maxTail)
	require.True(t, strings.HasSuffix(log.text(), "aend"))
}
