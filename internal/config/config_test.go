package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLoadDefaults(t *testing.T) {
	t.Parallel()
	want := Config{
		Addr:                "127.0.0.1:8080",
		DataDir:             "./data",
		Migrate:             MigrateAuto,
		MaxBytes:            GiB,
		DBMaxConcurrency:    16,
		DBQueueLength:       1024,
		DBQueueTimeout:      5 * time.Second,
		BreakerFailures:     5,
		BreakerTimeout:      30 * time.Second,
		CacheBytes:          64 * MiB,
		CacheMaxStaleness:   time.Second,
		AccessFlushInterval: time.Second,
		SweepInterval:       30 * time.Second,
		MaxBodyBytes:        8 * MiB,
		MaxBatch:            1000,
		RequestTimeout:      30 * time.Second,
		ShutdownGrace:       15 * time.Second,
		LogLevel:            LogInfo,
		LogFormat:           LogJSON,
	}
	got, err := Load(nil)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.False(t, got.TLS())

	empty := map[string]string{}
	for _, v := range Variables() {
		empty[v.Name] = ""
	}
	got, err = Load(empty)
	require.NoError(t, err)
	require.Equal(t, want, got, "a variable set to nothing has its default")
}

// Not parallel: it changes the environment of the process.
func TestLoadKnowsOnlyWhatItIsGiven(t *testing.T) {
	t.Setenv("STOCKROOM_MAX_BATCH", "7")
	for _, environ := range []map[string]string{nil, {}} {
		c, err := Load(environ)
		require.NoError(t, err)
		require.Equal(t, 1000, c.MaxBatch)
	}
}

func TestLoadEveryVariable(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	environ := map[string]string{
		"DATABASE_URL":                    "postgres://u:p@db:5432/stockroom?sslmode=disable",
		"STOCKROOM_ADDR":                  "[::1]:0",
		"STOCKROOM_DATA_DIR":              "/var/lib/stockroom",
		"STOCKROOM_POSTGRES_BIN":          "/opt/pg/bin",
		"STOCKROOM_MIGRATE":               "check",
		"STOCKROOM_MAX_BYTES":             "0",
		"STOCKROOM_DEFAULT_TTL":           "24h",
		"STOCKROOM_DB_MAX_CONCURRENCY":    "4",
		"STOCKROOM_DB_QUEUE_LENGTH":       "0",
		"STOCKROOM_DB_QUEUE_TIMEOUT":      "250ms",
		"STOCKROOM_BREAKER_FAILURES":      "1",
		"STOCKROOM_BREAKER_TIMEOUT":       "1s",
		"STOCKROOM_CACHE_BYTES":           "0",
		"STOCKROOM_CACHE_MAX_STALENESS":   "2s",
		"STOCKROOM_ACCESS_FLUSH_INTERVAL": "3s",
		"STOCKROOM_SWEEP_INTERVAL":        "1m",
		"STOCKROOM_MAX_BODY_BYTES":        "512KiB",
		"STOCKROOM_MAX_BATCH":             "10",
		"STOCKROOM_REQUEST_TIMEOUT":       "1m30s",
		"STOCKROOM_SHUTDOWN_GRACE":        "1s",
		"STOCKROOM_API_KEYS_FILE":         file,
		"STOCKROOM_ALLOW_INSECURE":        "true",
		"STOCKROOM_TLS_CERT_FILE":         file,
		"STOCKROOM_TLS_KEY_FILE":          file,
		"STOCKROOM_RATE_LIMIT":            "100",
		"STOCKROOM_LOG_LEVEL":             "WARN",
		"STOCKROOM_LOG_FORMAT":            "text",
	}
	for _, v := range Variables() {
		if !strings.HasPrefix(v.Name, "OTEL_") {
			require.Contains(t, environ, v.Name, "this test has to name every variable")
		}
	}
	got, err := Load(environ)
	require.NoError(t, err)
	require.Equal(t, Config{
		DatabaseURL:         "postgres://u:p@db:5432/stockroom?sslmode=disable",
		Addr:                "[::1]:0",
		DataDir:             "/var/lib/stockroom",
		PostgresBin:         "/opt/pg/bin",
		Migrate:             MigrateCheck,
		DefaultTTL:          24 * time.Hour,
		DBMaxConcurrency:    4,
		DBQueueTimeout:      250 * time.Millisecond,
		BreakerFailures:     1,
		BreakerTimeout:      time.Second,
		CacheMaxStaleness:   2 * time.Second,
		AccessFlushInterval: 3 * time.Second,
		SweepInterval:       time.Minute,
		MaxBodyBytes:        512 * KiB,
		MaxBatch:            10,
		RequestTimeout:      90 * time.Second,
		ShutdownGrace:       time.Second,
		APIKeysFile:         file,
		AllowInsecure:       true,
		TLSCertFile:         file,
		TLSKeyFile:          file,
		RateLimit:           100,
		LogLevel:            LogWarn,
		LogFormat:           LogText,
	}, got)
	require.True(t, got.TLS())
	require.Equal(t, slog.LevelWarn, got.LogLevel.Level())
}

func TestLoadNamesEveryMistakeAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := Load(map[string]string{
		"DATABASE_URL":                 "postgres://stockroom:s3cr%t@db/stockroom",
		"STOCKROOM_ADDR":               "8080",
		"STOCKROOM_MIGRATE":            "yes",
		"STOCKROOM_MAX_BYTES":          "10GB",
		"STOCKROOM_DEFAULT_TTL":        "-1s",
		"STOCKROOM_DB_MAX_CONCURRENCY": "0",
		"STOCKROOM_DB_QUEUE_LENGTH":    "-1",
		"STOCKROOM_DB_QUEUE_TIMEOUT":   "5",
		"STOCKROOM_MAX_BATCH":          strings.Repeat("9", 1000),
		"STOCKROOM_SHUTDOWN_GRACE":     "0",
		"STOCKROOM_API_KEYS_FILE":      filepath.Join(dir, "none"),
		"STOCKROOM_ALLOW_INSECURE":     "maybe",
		"STOCKROOM_TLS_CERT_FILE":      dir,
		"STOCKROOM_LOG_LEVEL":          "loud\nand clear",
	})
	var mistakes Mistakes
	require.ErrorAs(t, err, &mistakes)
	require.Equal(t, []string{
		`DATABASE_URL: expected postgres://user:password@host:5432/database, with special characters in the password percent-encoded, or keyword=value pairs (the value is not shown: it may hold a password)`,
		`STOCKROOM_ADDR="8080": expected host:port, such as 127.0.0.1:8080 or [::1]:8080`,
		`STOCKROOM_MIGRATE="yes": expected auto, check or off`,
		`STOCKROOM_MAX_BYTES="10GB": expected a size such as 1048576, 512KiB, 64MiB or 1GiB, 0 or more`,
		`STOCKROOM_DEFAULT_TTL="-1s": expected a duration such as 500ms, 30s or 5m, 0s to 876600h`,
		`STOCKROOM_DB_MAX_CONCURRENCY="0": expected a whole number, 1 to 10000`,
		`STOCKROOM_DB_QUEUE_LENGTH="-1": expected a whole number, 0 or more`,
		`STOCKROOM_DB_QUEUE_TIMEOUT="5": expected a duration such as 500ms, 30s or 5m, at least 1ms`,
		`STOCKROOM_MAX_BATCH="` + strings.Repeat("9", 100) + `…": expected a whole number, at least 1`,
		`STOCKROOM_SHUTDOWN_GRACE="0": expected a duration such as 500ms, 30s or 5m, at least 1ms`,
		`STOCKROOM_API_KEYS_FILE="` + filepath.Join(dir, "none") + `": expected a readable file (no such file or directory)`,
		`STOCKROOM_ALLOW_INSECURE="maybe": expected true or false`,
		`STOCKROOM_TLS_CERT_FILE="` + dir + `": expected a readable file (it is a folder)`,
		`STOCKROOM_LOG_LEVEL="loud\nand clear": expected debug, info, warn or error`,
		`STOCKROOM_TLS_CERT_FILE and STOCKROOM_TLS_KEY_FILE: expected both or neither`,
	}, []string(mistakes))
	require.Len(t, strings.Split(err.Error(), "\n"), len(mistakes))
}

func TestLoadDefaultTTLHasWholeSeconds(t *testing.T) {
	t.Parallel()
	_, err := Load(map[string]string{"STOCKROOM_DEFAULT_TTL": "1500ms"})
	require.EqualError(t, err, `STOCKROOM_DEFAULT_TTL="1.5s": expected whole seconds`)
}

func TestLoadDoesNotOpenPipes(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	_, err := Load(map[string]string{"STOCKROOM_API_KEYS_FILE": pipe}) // opening it would wait for a writer
	require.NoError(t, err)
}

func TestCheckExposure(t *testing.T) {
	t.Parallel()
	loopback := []Address{"127.0.0.1:8080", "127.1.2.3:0", "[::1]:8080", "[::ffff:127.0.0.1]:1", "localhost:8080", "LOCALHOST:8080"}
	beyond := []Address{":8080", "0.0.0.0:8080", "[::]:8080", "10.0.0.1:80", "example.org:443", "localhost.example.org:80", "127.0.0.1.example.org:80", "", "nonsense"}
	for _, addr := range loopback {
		require.NoError(t, CheckExposure(addr, false, false), addr)
	}
	for _, addr := range beyond {
		err := CheckExposure(addr, false, false)
		require.ErrorContains(t, err, "STOCKROOM_API_KEYS_FILE", addr)
		require.ErrorContains(t, err, "STOCKROOM_ALLOW_INSECURE", addr)
		require.NoError(t, CheckExposure(addr, true, false), addr)
		require.NoError(t, CheckExposure(addr, false, true), addr)
	}
	_, err := Load(map[string]string{"STOCKROOM_ADDR": ":8080"})
	require.ErrorContains(t, err, `STOCKROOM_ADDR=":8080": expected a loopback address`)
}

func TestAddress(t *testing.T) {
	t.Parallel()
	for _, good := range []string{":0", "127.0.0.1:8080", "[::1]:65535", "[fe80::1%eth0]:80", "stockroom.internal:80"} {
		var a Address
		require.NoError(t, a.UnmarshalText([]byte(good)), good)
		require.Equal(t, Address(good), a)
	}
	for _, bad := range []string{"", "127.0.0.1", ":", ":-1", ":65536", ":http", "::1:80", "http://127.0.0.1:80", "a b:80"} {
		require.Error(t, new(Address).UnmarshalText([]byte(bad)), bad)
	}
}

func TestBytes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Bytes{
		"0": 0, "1": 1, "1000": 1000, "1KiB": 1024, "3MiB": 3 << 20, "2GiB": 2 << 30,
		"9223372036854775807": 1<<63 - 1, "8589934591GiB": 8589934591 << 30,
	} {
		var b Bytes
		require.NoError(t, b.UnmarshalText([]byte(text)), text)
		require.Equal(t, want, b, text)
		require.Equal(t, text, b.String())
	}
	require.Equal(t, "1MiB", (1024 * KiB).String())
	for _, bad := range []string{
		"", "KiB", "-1", "+1", "1.5GiB", "1 KiB", "1kib", "1KB", "1K", "1TiB", "0x10", "1_000", "1e3", "١",
		"9223372036854775808", "8589934592GiB", "99999999999999999999",
	} {
		require.Error(t, new(Bytes).UnmarshalText([]byte(bad)), bad)
	}
}

func TestDSN(t *testing.T) {
	t.Parallel()
	for text, shown := range map[string]string{
		"postgres://u:s3cret@db:5432/stockroom?sslmode=disable":  "postgres://u:xxxxx@db:5432/stockroom",
		"postgresql://u:s3cret@db/stockroom?password=s3cret#s3c": "postgresql://u:xxxxx@db/stockroom",
		"postgres://u:s3cret@/stockroom?host=/run":               "postgres://u:xxxxx@/stockroom",
		"postgres://db/stockroom":                                "postgres://db/stockroom",
		"postgres://u:12/s3cret@db/stockroom":                    hidden, // an unescaped slash
		"postgres://u:12?s3cret@db/stockroom":                    hidden,
		"postgres://u:12#s3cret@db/stockroom":                    hidden,
		"postgres://u:s3cret@h1:1,h2:2/stockroom":                "postgres://u:xxxxx@h1:1,h2:2/stockroom",
		"postgres://u:s3cret@h1:1,h2/stockroom":                  hidden, // right, but not for net/url
		"host=db user=u password=s3cret":                         hidden,
		"password = 's3cret' host = db":                          hidden,
	} {
		var d DSN
		require.NoError(t, d.UnmarshalText([]byte(text)), text)
		require.Equal(t, text, d.Reveal())
		require.Equal(t, shown, d.String())

		// Wherever it is printed, alone or inside the Config, it hides.
		c := Config{DatabaseURL: d}
		encoded, err := json.Marshal(c)
		require.NoError(t, err)
		var logged bytes.Buffer
		for _, h := range []slog.Handler{slog.NewJSONHandler(&logged, nil), slog.NewTextHandler(&logged, nil)} {
			slog.New(h).InfoContext(t.Context(), "start", "dsn", d, "config", c)
		}
		for _, printed := range []string{
			fmt.Sprintf("%v %+v %#v %s %q %x", d, d, d, d, d, d), fmt.Sprintf("%v %+v %#v", c, c, c), string(encoded), logged.String(),
		} {
			require.NotContains(t, printed, "s3c")
		}
	}
	require.Empty(t, DSN("").String())
	for _, bad := range []string{"s3cret", "mysql://u:s3cret@db/x", "postgres://u:s3%cret@db/x", "postgres://u:p@db:s3cret/x", "-=s3cret"} {
		_, err := Load(map[string]string{"DATABASE_URL": bad})
		require.ErrorContains(t, err, "DATABASE_URL: expected postgres://")
		require.NotContains(t, err.Error(), "s3")
	}
}

func TestLogLevel(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]slog.Level{
		"debug": slog.LevelDebug, "Info": slog.LevelInfo, "warn": slog.LevelWarn, "ERROR": slog.LevelError,
	} {
		var l LogLevel
		require.NoError(t, l.UnmarshalText([]byte(text)))
		require.Equal(t, want, l.Level())
	}
	require.Equal(t, slog.LevelInfo, LogLevel("").Level())
	require.Error(t, new(LogLevel).UnmarshalText([]byte("info+2")))
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	environ := map[string]string{
		"PATH":                     "/bin",
		"STOCKROOM":                "1",
		"STOCKROOM_TEST_BACKEND":   "container",
		"STOCKROOM_REGISTRY_DIR":   "/x",
		"STOCKROOM_API_KEY":        "s3cret",
		"STOCKROOM_MAX_BATCH":      "0", // a mistake keeps no warning away
		"STOCKROOM_MAXBYTES":       "s3cret",
		"STOCKROOM_API_KEYS":       "s3cret",
		"STOCKROOM_DATABASE_URL":   "s3cret",
		"STOCKROOM_COLOUR_OF_DOOR": "green",
	}
	c, err := Load(environ)
	require.Error(t, err)
	require.Equal(t, []string{
		`"STOCKROOM_API_KEYS" is not a variable of Stockroom and is ignored; did you mean STOCKROOM_API_KEYS_FILE?`,
		`"STOCKROOM_COLOUR_OF_DOOR" is not a variable of Stockroom and is ignored`,
		`"STOCKROOM_DATABASE_URL" is not a variable of Stockroom and is ignored; did you mean DATABASE_URL?`,
		`"STOCKROOM_MAXBYTES" is not a variable of Stockroom and is ignored; did you mean STOCKROOM_MAX_BYTES?`,
	}, c.Warnings)
}

func TestDistance(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"same", "same", 0}, {"ab", "ba", 2}} {
		require.Equal(t, tc.want, distance(tc.a, tc.b), tc)
	}
}
