//go:build linux

package chaos_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/stockroom/stockroom/test/chaos"
	"github.com/stockroom/stockroom/test/cluster"
)

// timeout is when a test that waits for something gives up.
const timeout = 3 * time.Minute

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// build builds the server, with a defect where there is a tag for it.
func build(ctx context.Context, t *testing.T, flags ...string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("takes many seconds")
	}
	dir, err := os.MkdirTemp("", "stockroom-chaos-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	program, err := cluster.Build(ctx, dir, flags...)
	require.NoError(t, err)
	return program
}

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	return ctx
}

// config is a short run.
func config(program string, faults ...string) chaos.Config {
	return chaos.Config{
		Program: program, Seed: 1, Faults: faults, Clients: 6, Every: 20 * time.Millisecond,
		RequestTimeout: 1500 * time.Millisecond, BreakerTimeout: 500 * time.Millisecond,
	}
}

// run runs it and shows what there was.
func run(ctx context.Context, t *testing.T, config chaos.Config) *chaos.Report {
	t.Helper()
	var log bytes.Buffer
	config.Log = &log
	report, err := chaos.Run(ctx, config)
	t.Log("\n" + log.String())
	require.NoError(t, err)
	return report
}

func sound(t *testing.T, report *chaos.Report) {
	t.Helper()
	require.Positive(t, report.Writes)
	if !report.Sound() {
		var text strings.Builder
		report.Print(&text)
		t.Errorf("the service has broken its promises:\n%s", text.String())
	}
}

func TestExternalDatabase(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	sound(t, run(ctx, t, config(build(ctx, t, raceFlag), "database killed", "COMMIT late", "database frozen")))
}

func TestEmbeddedDatabase(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	config := config(build(ctx, t, raceFlag), "server and database killed")
	config.Embedded = true
	sound(t, run(ctx, t, config))
}

// What is never found is no proof: each defect that is built in must be found.
func TestDefectsAreFound(t *testing.T) {
	t.Parallel()
	for tag, violation := range map[string]string{
		"defect_torn":  "torn",
		"defect_stale": "not linearizable",
	} {
		t.Run(tag, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			const fault = "latency" // it keeps the windows open that the defects leave
			config := config(build(ctx, t, "-tags="+tag), fault)
			config.Clients, config.Every = 16, 5*time.Millisecond
			config.Duration, config.UntilViolated = time.Minute, true
			report := run(ctx, t, config)
			require.Positive(t, report.Counts[violation], "not found")
			require.False(t, report.Sound())
			require.NotEmpty(t, report.Violations)
			var text strings.Builder
			report.Print(&text)
			require.Contains(t, text.String(), fmt.Sprintf("(%s): %s", fault, violation))
		})
	}
}

func TestUnknownFault(t *testing.T) {
	_, err := chaos.Run(t.Context(), chaos.Config{Faults: []string{"rain"}})
	require.ErrorContains(t, err, "rain")
	_, err = chaos.Run(t.Context(), chaos.Config{Faults: []string{"latency"}, Embedded: true})
	require.ErrorContains(t, err, "latency")
}
