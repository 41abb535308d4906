package legacy_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/legacy"
	"github.com/stockroom/stockroom/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// made is a database of a test's own that consists of statements.
func made(t *testing.T, statements ...string) string {
	t.Helper()
	dsn := pgtest.Empty(t)
	conn := pgtest.Connect(t, dsn)
	for _, sql := range statements {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
	require.NoError(t, conn.Close(t.Context()))
	return dsn
}

// schema is what most of these stores have.
func schema(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../test/pglite/schema.sql")
	require.NoError(t, err)
	return string(text)
}

func open(t *testing.T, dsn string) *legacy.Store {
	t.Helper()
	s, err := legacy.Open(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	return s
}

// rows are those of the database that consists of statements, by their names.
func rows(t *testing.T, statements ...string) map[string]legacy.Row {
	t.Helper()
	all := map[string]legacy.Row{}
	require.NoError(t, open(t, made(t, statements...)).Each(t.Context(), func(row legacy.Row) error {
		require.NotContains(t, all, row.Name)
		all[row.Name] = row
		return nil
	}))
	return all
}

func at(t *testing.T, text string) time.Time {
	t.Helper()
	parsed, err := time.Parse(time.RFC3339Nano, text)
	require.NoError(t, err)
	return parsed
}

func TestCopiesWhatThereIs(t *testing.T) {
	t.Parallel()
	all := rows(t, `SET TimeZone = 'UTC'`, schema(t), `INSERT INTO components VALUES
		(1, 'react', 'button', E'line\n"é"', 'demo', '{"b": 1.50, "a": [1e3]}', '{a,"b c",NULL}', '{}', '0123456789ABCDEF0123456789abcdef01234567', 7,
			'2026-01-31 12:00:00.5', '2026-01-01 00:00:00.123456', '2026-02-01', 42, NULL),
		(2, 'react', 'card', '', '', 'null', '{utils}', NULL, '', NULL, NULL, '2026-01-01', NULL, NULL, 60),
		(3, 'vue', 'card', 'x', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0)`,
		`INSERT INTO blocks VALUES (1, 'react', 'page', 'pages', 'simple', 'a page', '{"b": {"content": "abc"}}', '[1, 2]', '{x}', '{button}', 9, 1,
			NULL, '2026-01-01', '2026-01-02', 3)`)
	require.Len(t, all, 4)

	// An array with a hole is none of strings: that is for the rules to say.
	require.ErrorContains(t, all["component:react:button"].Fault, "wrong_type at /dependencies/2: must be a string")

	card := all["component:react:card"]
	require.NoError(t, card.Fault)
	require.Equal(t, `{"framework":"react","name":"card","sourceCode":"","demoCode":"","dependencies":["utils"]}`, string(card.Record.Value.JSON()))
	cached := at(t, "2026-01-01T00:00:00Z")
	card.Record.Value = item.Value{}
	require.Equal(t, item.Record{
		TTL: 60, Expires: cached.Add(time.Minute), Created: cached, Updated: cached, Cached: cached, Accessed: cached, AccessCount: 1, Version: 1,
	}, card.Record)

	// Where nobody has noted when it was stored, that is now.
	vue := all["component:vue:card"].Record
	require.WithinDuration(t, time.Now(), vue.Cached, time.Minute)
	require.Equal(t, []time.Time{vue.Cached, vue.Cached, vue.Cached}, []time.Time{vue.Created, vue.Updated, vue.Accessed})
	require.Zero(t, vue.AccessCount)
	require.Zero(t, vue.TTL)

	page := all["block:react:page"].Record
	require.Equal(t, `{"framework":"react","name":"page","category":"pages","type":"simple","description":"a page","files":{"b":{"content":"abc"}},`+
		`"structure":[1,2],"dependencies":["x"],"componentsUsed":["button"],"totalSize":9}`, string(page.Value.JSON()))
	require.Equal(t, int64(9), page.Value.Bytes)
	require.Equal(t, int64(3), page.AccessCount)
	require.Equal(t, at(t, "2026-01-02T00:00:00Z"), page.Accessed)
}

// The same store as other tools and versions declare it: each column of another type.
func TestTypesOfColumns(t *testing.T) {
	t.Parallel()
	const want = `{"framework":"react","name":"button","sourceCode":"x","metadata":{"a":1.50},"dependencies":["a","b"],"registryDependencies":["c"],` +
		`"fileSize":2048,"lastModified":"2026-01-31T12:00:00.5Z"}`
	for name, tc := range map[string]struct{ columns, values string }{
		"zones": {
			`metadata json, dependencies jsonb, registry_dependencies json, file_size bigint, last_modified timestamptz, cached_at timestamptz,
				accessed_at timestamptz, access_count bigint`,
			`'{"a": 1.50}', '["a", "b"]', '["c"]', 2048, '2026-01-31 13:00:00.5+01', '2026-01-01 00:00:00.123+00', '2026-02-01 00:00:00+00', 5`,
		},
		"zone of the database": {
			`metadata jsonb, dependencies text[], registry_dependencies varchar(20)[], file_size numeric(10, 2), last_modified timestamp, cached_at timestamp,
				accessed_at timestamp, access_count numeric`,
			`'{"a": 1.50}', '{a,b}', '{c}', 2048, '2026-01-31 13:00:00.5', '2026-01-01 01:00:00.123', '2026-02-01 01:00:00', 5`,
		},
		"text": {
			`metadata text, dependencies text, registry_dependencies varchar(100), file_size text, last_modified text, cached_at text,
				accessed_at varchar(50), access_count text`,
			`'{"a": 1.50}', '["a", "b"]', '["c"]', '2048', '2026-01-31T12:00:00.5Z', '2026-01-01 00:00:00.123+00', '2026-02-01', '5'`,
		},
		"seconds": {
			`metadata text, dependencies jsonb, registry_dependencies text[], file_size smallint, last_modified double precision, cached_at numeric,
				accessed_at double precision, access_count smallint`,
			`'{"a": 1.50}', '["a", "b"]', '{c}', 2048, 1769860800.5, 1767225600.123, 1769904000, 5`,
		},
		"milliseconds": {
			`metadata text, dependencies jsonb, registry_dependencies text[], file_size integer, last_modified bigint, cached_at bigint,
				accessed_at numeric, access_count integer`,
			`'{"a": 1.50}', '["a", "b"]', '{c}', 2048, 1769860800500, 1767225600123, 1769904000000, 5`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := rows(t, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET TimeZone = ''Europe/Berlin''', current_database()); END $$`,
				`CREATE TABLE components (framework text, name text, source_code text, `+tc.columns+`)`,
				`INSERT INTO components VALUES ('react', 'button', 'x', `+tc.values+`)`)
			require.Len(t, all, 1)
			row := all["component:react:button"]
			require.NoError(t, row.Fault)
			require.Equal(t, want, strings.Replace(string(row.Record.Value.JSON()), "2048.00", "2048", 1))
			require.Equal(t, at(t, "2026-01-01T00:00:00.123Z"), row.Record.Cached)
			require.Equal(t, at(t, "2026-02-01T00:00:00Z"), row.Record.Accessed)
			require.Equal(t, int64(5), row.Record.AccessCount)
		})
	}
}

// A row that breaks a rule is named with the rule, and keeps no other from being read.
func TestFaults(t *testing.T) {
	t.Parallel()
	for values, want := range map[string]string{
		`framework = ''`:                                "invalid_key",
		`name = 'a:b'`:                                  "invalid_key",
		`name = repeat('n', 101)`:                       "invalid_key (key component:react:nnn",
		`name = E'a\x1b[2Jb'`:                           "invalid_key",
		`metadata = '[]'`:                               "wrong_type at /metadata: must be an object",
		`metadata = '{'`:                                "malformed_json at /metadata: unexpected EOF",
		`metadata = '{},"demoCode":"injected"'`:         "malformed_json at /metadata: invalid character",
		`metadata = '{"a":1,"a":2}'`:                    "duplicate_name at /metadata/a",
		`metadata = '{"a":"\u0000"}'`:                   "invalid_string at /metadata/a",
		`metadata = repeat('[', 65) || repeat(']', 65)`: "nesting_too_deep at /metadata",
		`dependencies = 'a, b'`:                         "malformed_json at /dependencies",
		`dependencies = '"a"'`:                          "wrong_type at /dependencies: must be an array of strings",
		`github_sha = 'main'`:                           "invalid_value at /githubSha: must be 40 hexadecimal digits",
		`file_size = '-1'`:                              "invalid_value at /fileSize",
		`file_size = '1.5'`:                             "wrong_type at /fileSize: must be an integer",
		`file_size = 'NaN'`:                             "wrong_type at /fileSize: must be an integer",
		`last_modified = 'yesterday'`:                   `invalid_value at /lastModified: must be a time, not "yesterday"`,
		`cached_at = 'infinity'`:                        `cached_at: must be a time, not "Infinity"`,
		`cached_at = '10000-01-01'`:                     `cached_at: must be a time of the years 1 to 9999`,
		`access_count = -1`:                             `access_count: must be a whole number, 0 or more, not "-1"`,
		`ttl_override = 10000000000`:                    `ttl_override: must be whole seconds, at most 3155760000, not "10000000000"`,
	} {
		t.Run(values, func(t *testing.T) {
			t.Parallel()
			all := rows(t, `CREATE TABLE components (framework text, name text, source_code text, metadata text, dependencies text, github_sha text,
				file_size text, last_modified text, cached_at timestamptz, access_count integer, ttl_override bigint)`,
				`INSERT INTO components (framework, name, source_code) VALUES ('react', 'good', 'x'), ('react', 'bad', 'x'), ('react', 'last', 'x')`,
				`UPDATE components SET `+values+` WHERE name = 'bad'`)
			require.Len(t, all, 3)
			faults := 0
			for name, row := range all {
				if row.Fault == nil {
					continue
				}
				faults++
				require.ErrorContains(t, row.Fault, want)
				require.NotContains(t, []string{"component:react:good", "component:react:last"}, name)
				require.NotContains(t, name, "\x1b")
				require.Zero(t, row.Record)
			}
			require.Equal(t, 1, faults)
		})
	}
}

// Times and ends of lives as some stores have them besides cached_at.
func TestLives(t *testing.T) {
	t.Parallel()
	all := rows(t, `CREATE TABLE components (framework text, name text, source_code text, created_at timestamptz, updated_at timestamptz, cached_at timestamptz,
		ttl bigint, expires_at timestamptz)`,
		`INSERT INTO components VALUES
		('react', 'times', 'x', '2026-01-01Z', '2026-01-02Z', '2026-01-03Z', NULL, NULL),
		('react', 'end', 'x', NULL, NULL, '2026-01-01Z', NULL, '2026-01-01 00:00:01.5Z'),
		('react', 'both', 'x', NULL, NULL, '2026-01-01Z', 60, '2026-01-02Z'),
		('react', 'forever', 'x', NULL, NULL, '2026-01-01Z', -1, NULL)`)
	day := func(n int) time.Time { return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC) }
	times := all["component:react:times"].Record
	require.Equal(t, []time.Time{day(1), day(2), day(3), day(3)}, []time.Time{times.Created, times.Updated, times.Cached, times.Accessed})
	end := all["component:react:end"].Record
	require.Equal(t, item.TTL(2), end.TTL)
	require.Equal(t, day(1).Add(1500*time.Millisecond), end.Expires)
	both := all["component:react:both"].Record
	require.Equal(t, item.TTL(60), both.TTL)
	require.Equal(t, day(2), both.Expires)
	forever := all["component:react:forever"].Record
	require.Zero(t, forever.TTL)
	require.True(t, forever.Expires.IsZero())
}

// Many rows come in parts, and a row that stands there twice comes twice.
func TestManyRows(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 50, 101} {
		s := open(t, made(t, `CREATE TABLE blocks (framework text, name text, files jsonb)`,
			`INSERT INTO blocks SELECT 'react', 'b' || n % 60, '[]' FROM generate_series(1, `+strconv.Itoa(n)+`) n`))
		count, err := s.Count(t.Context())
		require.NoError(t, err)
		require.Equal(t, n, count)
		seen := 0
		require.NoError(t, s.Each(t.Context(), func(row legacy.Row) error {
			seen++
			return row.Fault
		}))
		require.Equal(t, n, seen)
		require.Equal(t, []string{"there is no table components to copy"}, s.Notes())
	}
}

// What is written while the store is read is not seen, nor does reading keep anybody
// from writing.
func TestOneSnapshot(t *testing.T) {
	t.Parallel()
	dsn := made(t, schema(t), `INSERT INTO components (framework, name, source_code) SELECT 'react', 'c' || n, 'x' FROM generate_series(1, 200) n`)
	other := pgtest.Connect(t, dsn)
	s := open(t, dsn)
	seen := 0
	require.NoError(t, s.Each(t.Context(), func(row legacy.Row) error {
		require.NoError(t, row.Fault)
		require.Equal(t, int64(1), row.Record.AccessCount)
		if seen == 0 {
			_, err := other.Exec(t.Context(), `DELETE FROM components WHERE name LIKE '%7'; UPDATE components SET access_count = 9;
				INSERT INTO blocks (framework, name, files) VALUES ('react', 'new', '[]')`)
			require.NoError(t, err)
		}
		seen++
		return nil
	}))
	require.Equal(t, 200, seen)
}

// On this machine nobody is asked for TLS who need not have it: some servers of PGlite
// die of that.
func TestNoTLSOnThisMachine(t *testing.T) {
	t.Parallel()
	for mode, wantsTLS := range map[string]bool{"": false, "prefer": false, "disable": false, "require": true} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		first := make(chan uint32, 1)
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				var begin [8]byte // the length, and the protocol that is asked for
				_, _ = io.ReadFull(conn, begin[:])
				select {
				case first <- binary.BigEndian.Uint32(begin[4:]):
				default:
				}
				_ = conn.Close()
			}
		}()
		dsn := "postgres://user@" + listener.Addr().String() + "/x"
		if mode != "" {
			dsn += "?sslmode=" + mode
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		_, err = legacy.Open(ctx, dsn)
		cancel()
		require.Error(t, err)
		const sslRequest = 80877103
		require.Equal(t, wantsTLS, <-first == sslRequest, mode)
		require.NoError(t, listener.Close())
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	_, err := legacy.Open(t.Context(), "postgres://user:secret@127.0.0.1:notaport/x")
	require.ErrorIs(t, err, legacy.ErrBadDSN)
	require.NotContains(t, err.Error(), "secret")
	_, err = legacy.Open(t.Context(), "postgres://user:secret@127.0.0.1:1/x")
	require.ErrorContains(t, err, "connect to the store to copy")
	require.NotContains(t, err.Error(), "secret")
	_, err = legacy.Open(t.Context(), made(t))
	require.ErrorIs(t, err, legacy.ErrNoTables)
	_, err = legacy.Open(t.Context(), made(t, `CREATE TABLE components (name text, source_code text)`))
	require.ErrorContains(t, err, "the table components has no column framework")
	_, err = legacy.Open(t.Context(), pgtest.New(t))
	require.ErrorIs(t, err, legacy.ErrStockroom)
}

func TestNotes(t *testing.T) {
	t.Parallel()
	s := open(t, made(t, schema(t), `ALTER TABLE components ADD tags text[], ADD "Quoted ""name""" text`))
	require.Equal(t, []string{
		`columns of components that are not copied: Quoted "name", tags`, "columns of blocks that are not copied: file_count",
	}, s.Notes())
}
