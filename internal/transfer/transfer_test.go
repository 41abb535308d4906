package transfer_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/legacy"
	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/store"
	"github.com/stockroom/stockroom/internal/transfer"
)

// strange are values that an encoding could lose something of.
var strange = map[string]string{
	"component:react:plain":     `{"sourceCode":""}`,
	"component:react:named":     `{"framework":"react","name":"named","sourceCode":"a\u2028b\"\\\n\t\u0001 <>&"}`,
	"component:react:framework": `{"framework":"react","sourceCode":"x"}`,
	"component:react:full": `{"sourceCode":"é𝄞","demoCode":"","metadata":{"b":1.50,"a":[1e400,-0.0,null],"A":"\u00e9"},"dependencies":[],` +
		`"registryDependencies":["a","a"],"githubSha":"0123456789abcdef0123456789ABCDEF01234567","fileSize":9007199254740991,"lastModified":"2026-01-31T12:00:00.120+02:00"}`,
	"component:Ünï/cödé:\"q\" \\b": `{"sourceCode":"the key is strange"}`,
	"block:react:array":            `{"files":[{"path":"a","content":"x"}]}`,
	"block:react:object":           `{"files":{"b":1,"a":2.0},"structure":null,"type":"simple","category":"","description":"d","dependencies":["x"],"componentsUsed":[],"totalSize":0}`,
	"block:react:named":            `{"name":"named","files":[],"structure":"text","githubSha":"0000000000000000000000000000000000000000"}`,
	"null":                         `null`,
	"text":                         `"\ud834\udd1e \/ \u0041 é"`,
	"number":                       `123456789012345678901234567890.000`,
	"nested":                       strings.Repeat("[", item.MaxDepth) + strings.Repeat("]", item.MaxDepth),
	"true":                         `true`,
	"object":                       `{"":{"end":true},"format":"stockroom-export"}`,
}

func (b *bundle) putStrange() {
	b.t.Helper()
	for key, body := range strange {
		b.put(key, body, 0)
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	from, to := setup(t, 0), setup(t, 0)
	from.putStrange()
	from.fill(8_000)
	from.vary()
	from.put("large", `"`+strings.Repeat("0123456789abcdef", 1<<18)+`"`, 0) // 4 MiB
	from.put("component:react:large", `{"sourceCode":"`+strings.Repeat(`line\n`, 1<<20)+`"}`, 0)
	from.put("short", `1`, 3600)
	from.put("block:react:long", `{"files":[]}`, item.MaxTTL)
	touched := item.TTL(7200)
	_, err := from.Touch(t.Context(), value(t, "short", "1").Key, &touched)
	require.NoError(t, err)

	path := from.export()
	report := to.loads(path, transfer.Options{})
	require.Equal(t, transfer.Report{Imported: 24_000 + len(strange) + 4}, report)
	if from.content() != to.content() { // too long for a diff
		t.Fatal("the rows differ")
	}
	again := lines(t, to.export())
	require.Equal(t, lines(t, path)[1:len(again)-1], again[1:len(again)-1], "the second export differs from the first")

	// What is read through the front door is the same, too.
	for key := range strange {
		k := value(t, key, strange[key]).Key
		want, err := from.Get(t.Context(), k)
		require.NoError(t, err)
		got, err := to.Get(t.Context(), k)
		require.NoError(t, err)
		require.Equal(t, string(want.JSON), string(got.JSON))
		want.Remaining, got.Remaining = 0, 0
		require.Equal(t, want.Metadata, got.Metadata)
	}
}

// Expired items are not there: not for an export, and, where they expire on the way,
// not after an import.
func TestExpired(t *testing.T) {
	t.Parallel()
	from, to := setup(t, 0), setup(t, 0)
	from.put("stays", `1`, 3600)
	from.put("gone", `2`, 3600)
	from.put("going", `3`, 3600)
	from.exec(`UPDATE entries SET expires_at = now() WHERE key = 'gone'`)
	var path string
	for life := time.Second; path == "" || len(lines(t, path)) < 4; life *= 2 { // a busy machine may be too slow for it
		from.exec(`UPDATE entries SET expires_at = clock_timestamp() + $1 WHERE key = 'going'`, life)
		path = from.export()
	}
	require.NotContains(t, strings.Join(lines(t, path), "\n"), "gone")
	to.exec(`SELECT pg_sleep_until($1)`, scan[time.Time](from, `SELECT expires_at + interval '1 millisecond' FROM entries WHERE key = 'going'`))

	require.Equal(t, transfer.Report{Imported: 1, Expired: 1}, to.loads(path, transfer.Options{}))
	require.Equal(t, "stays", scan[string](to, `SELECT string_agg(key, ' ') FROM entries`))

	// An expired row that stands in the way is not there either, whatever the policy.
	for _, existing := range []store.Existing{store.Replace, store.Keep, store.Refuse} {
		to.exec(`UPDATE entries SET expires_at = now(), value = '5', etag = 'other'`)
		require.Equal(t, transfer.Report{Imported: 1, Expired: 1}, to.loads(path, transfer.Options{Existing: existing}))
		require.Equal(t, "1", scan[string](to, `SELECT value FROM entries`))
	}
}

func TestImportAgain(t *testing.T) {
	t.Parallel()
	from, to := setup(t, 0), setup(t, 0)
	from.fill(700)
	from.putStrange()
	from.vary()
	path := from.export()
	all := 2100 + len(strange)
	require.Equal(t, transfer.Report{Imported: all}, to.loads(path, transfer.Options{}))
	before := scan[string](to, `SELECT string_agg(t.xmin::text || t.ctid, ' ' ORDER BY key) FROM components t`)
	for _, existing := range []store.Existing{store.Replace, store.Keep, store.Refuse} {
		require.Equal(t, transfer.Report{Unchanged: all}, to.loads(path, transfer.Options{Existing: existing}))
	}
	require.Equal(t, before, scan[string](to, `SELECT string_agg(t.xmin::text || t.ctid, ' ' ORDER BY key) FROM components t`), "a row was written again")

	// Only what is not as it was is written: here a lost item, a changed and a read one.
	to.exec(`DELETE FROM components WHERE key = 'component:react:c000001'`)
	to.exec(`UPDATE usage_counters SET component_items = component_items - 1, component_bytes = component_bytes - $1 WHERE slot = 0`, int64(len("source 1")))
	to.put("entry:000002", `"changed, and longer than before"`, 60)
	to.exec(`UPDATE blocks SET access_count = access_count + 1 WHERE key = 'block:vue:b000003'`)
	require.Equal(t, transfer.Report{Imported: 3, Unchanged: all - 3}, to.loads(path, transfer.Options{}))
	require.Equal(t, from.content(), to.content())
}

func TestExisting(t *testing.T) {
	t.Parallel()
	from := setup(t, 0)
	from.put("a", `1`, 0)
	from.put("b", `2`, 0)
	path := from.export()
	t.Run("keep", func(t *testing.T) {
		t.Parallel()
		to := setup(t, 0)
		to.put("b", `"mine"`, 60)
		before := scan[string](to, `SELECT t::text FROM entries t`)
		require.Equal(t, transfer.Report{Imported: 1, Kept: 1}, to.loads(path, transfer.Options{Existing: store.Keep}))
		require.Equal(t, before, scan[string](to, `SELECT t::text FROM entries t WHERE key = 'b'`))
	})
	t.Run("refuse", func(t *testing.T) {
		t.Parallel()
		to := setup(t, 0)
		to.put("b", `"mine"`, 60)
		before := to.content()
		report, err := to.load(path, transfer.Options{Existing: store.Refuse})
		require.ErrorIs(t, err, store.ErrTaken)
		require.ErrorContains(t, err, ": b")
		require.Equal(t, transfer.Report{}, report)
		require.Equal(t, before, to.content())
		to.requireUsage()
	})
	t.Run("refuse what was only read", func(t *testing.T) {
		t.Parallel()
		to := setup(t, 0)
		to.loads(path, transfer.Options{})
		to.exec(`UPDATE entries SET access_count = 7, accessed_at = now()`)
		require.Equal(t, transfer.Report{Unchanged: 2}, to.loads(path, transfer.Options{Existing: store.Refuse}))
	})
	t.Run("replace", func(t *testing.T) {
		t.Parallel()
		to := setup(t, 0)
		to.put("b", `"mine"`, 60)
		to.put("c", `"stays"`, 0)
		require.Equal(t, transfer.Report{Imported: 2}, to.loads(path, transfer.Options{}))
		require.Equal(t, "1 2 \"stays\"", scan[string](to, `SELECT string_agg(value, ' ' ORDER BY key) FROM entries`))
	})
}

func TestDryRun(t *testing.T) {
	t.Parallel()
	// Each of three batches would fit, but not all of them.
	from, to := setup(t, 0), setup(t, 78_000)
	from.fill(400)
	path := from.export()
	to.put("entry:000001", `"mine"`, 0)
	before := to.content()
	report, err := to.load(path, transfer.Options{DryRun: true, Existing: store.Keep})
	// It knows that there is no room although it keeps nothing of what it has tried.
	require.ErrorIs(t, err, store.ErrNoRoom)
	require.NotContains(t, err.Error(), "stay")
	require.True(t, report.DryRun)
	require.Equal(t, 500, report.Imported)
	require.Equal(t, before, to.content())

	roomy := setup(t, 0)
	roomy.put("entry:000001", `"mine"`, 0)
	roomy.put("entry:000002", `{"n":2.50}`, 0)
	before = roomy.content()
	require.Equal(t, transfer.Report{DryRun: true, Imported: 1200}, roomy.loads(path, transfer.Options{DryRun: true}))
	require.Equal(t, transfer.Report{DryRun: true, Imported: 1198, Kept: 2}, roomy.loads(path, transfer.Options{DryRun: true, Existing: store.Keep}))
	require.Equal(t, before, roomy.content())
}

// An import evicts nothing: it says that there is no room.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	from := setup(t, 0)
	for i := range 10 {
		from.put(fmt.Sprintf("component:react:c%d", i), `{"sourceCode":"x","fileSize":1000}`, 0)
	}
	path := from.export()
	t.Run("in no store", func(t *testing.T) {
		t.Parallel()
		to := setup(t, 9_999)
		_, err := to.load(path, transfer.Options{})
		require.ErrorIs(t, err, store.ErrNoRoom)
		require.ErrorContains(t, err, "charged 10000 bytes, and the limit is 9999: set STOCKROOM_MAX_BYTES")
		require.Empty(t, to.content())
	})
	t.Run("exactly", func(t *testing.T) {
		t.Parallel()
		to := setup(t, 10_000)
		require.Equal(t, transfer.Report{Imported: 10}, to.loads(path, transfer.Options{}))
		require.Equal(t, from.content(), to.content())
	})
	t.Run("beside others", func(t *testing.T) {
		t.Parallel()
		to := setup(t, 10_000)
		to.put("mine", `1`, 0)
		before := to.content()
		_, err := to.load(path, transfer.Options{})
		require.ErrorIs(t, err, store.ErrNoRoom)
		require.ErrorContains(t, err, "it is 10000 bytes, and would be 1 bytes over it: set STOCKROOM_MAX_BYTES")
		require.Equal(t, before, to.content(), "something was evicted, or stored")
		to.requireUsage()
	})
	t.Run("beside what has expired", func(t *testing.T) {
		t.Parallel()
		to := setup(t, 10_000)
		to.put("mine", `1`, 1)
		to.exec(`UPDATE entries SET expires_at = now()`)
		require.Equal(t, transfer.Report{Imported: 10}, to.loads(path, transfer.Options{}))
		require.Equal(t, from.content(), to.content())
	})
	t.Run("for the second batch", func(t *testing.T) {
		t.Parallel()
		from, to := setup(t, 0), setup(t, 20_000)
		from.fill(400)
		path := from.export()
		to.maxBytes = 0 // as if the limit had been another one: the store's own counts
		report, err := to.load(path, transfer.Options{})
		require.ErrorIs(t, err, store.ErrNoRoom)
		require.Equal(t, 500, report.Imported)
		require.ErrorContains(t, err, "500 items are imported and stay; the same command goes on from there")
		to.requireUsage()
	})
}

// hook is a writer that does something before its first write.
type hook struct {
	bytes.Buffer

	do func()
}

func (h *hook) Write(p []byte) (int, error) {
	if h.do != nil {
		h.do()
		h.do = nil
	}
	return h.Buffer.Write(p)
}

func TestExportIsOneSnapshot(t *testing.T) {
	t.Parallel()
	from, to := setup(t, 0), setup(t, 0)
	from.fill(3_000)
	before := from.content()
	changed := false
	out := &hook{do: func() {
		// Only a part has been read by now: what is written first is not the whole.
		changed = true
		from.put("block:vue:b000000", `{"files":["changed"]}`, 0)
		from.put("entry:002999", `"changed"`, 0)
		from.put("new", `"new"`, 0)
		_, err := from.DeleteMany(t.Context(), []item.Key{value(t, "entry:001000", "1").Key, value(t, "component:react:c002000", `{"sourceCode":""}`).Key})
		require.NoError(t, err)
	}}
	exported, err := transfer.Export(t.Context(), from.Store, out, "a test", nil)
	require.NoError(t, err)
	require.True(t, changed)
	require.Greater(t, out.Len(), 1<<19, "it is written at once")
	require.Equal(t, transfer.Exported{Blocks: 3000, Components: 3000, Entries: 3000}, exported)
	require.NotEqual(t, before, from.content())

	path := filepath.Join(t.TempDir(), "backup")
	require.NoError(t, os.WriteFile(path, out.Bytes(), 0o600))
	to.loads(path, transfer.Options{})
	require.Equal(t, before, to.content())
}

// cancelling is a writer that cancels as soon as it is written to.
type cancelling struct{ cancel func() }

func (c cancelling) Write(p []byte) (int, error) {
	c.cancel()
	return len(p), nil
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	from, to := setup(t, 0), setup(t, 0)
	from.fill(4_000) // 12,000 items; the first line of progress comes after 10,000
	path := from.export()
	checked, err := transfer.Check(t.Context(), path, nil, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	report, err := checked.Import(ctx, to.Store, transfer.Options{Show: cancelling{cancel}})
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, checked.Close())
	require.True(t, report.Interrupted)
	require.GreaterOrEqual(t, report.Imported, 10_000)
	require.Less(t, report.Imported, 12_000)
	to.requireUsage()

	require.Equal(t, transfer.Report{Imported: 12_000 - report.Imported, Unchanged: report.Imported}, to.loads(path, transfer.Options{}))
	require.Equal(t, from.content(), to.content())
}

// An export that fails or is called off leaves the file that was there, and no other.
func TestExportFileIsWholeOrNotThere(t *testing.T) {
	t.Parallel()
	from := setup(t, 0)
	from.fill(4_000)
	folder := t.TempDir()
	path := filepath.Join(folder, "backup.ndjson")
	require.NoError(t, os.WriteFile(path, []byte("the one before"), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := transfer.ExportFile(ctx, from.Store, path, "a test", cancelling{cancel})
	require.ErrorIs(t, err, context.Canceled)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "the one before", string(content))
	names, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Len(t, names, 1)

	link := filepath.Join(folder, "link")
	require.NoError(t, os.Symlink(path, link))
	_, err = transfer.ExportFile(t.Context(), from.Store, link, "a test", nil)
	require.NoError(t, err)
	require.Len(t, lines(t, path), 12_002, "the link was replaced, not what it leads to")
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())

	_, err = transfer.ExportFile(t.Context(), from.Store, folder, "a test", nil)
	require.ErrorContains(t, err, "no file that could be replaced")
	_, err = transfer.ExportFile(t.Context(), from.Store, filepath.Join(folder, "none", "x"), "a test", nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// check reads a file that consists of content.
func check(t *testing.T, content string) error {
	t.Helper()
	checked, err := transfer.Check(t.Context(), "-", strings.NewReader(content), nil)
	if err != nil {
		return err
	}
	return checked.Close()
}

// TestDamage cuts and changes a file at every byte: it is refused before anything
// is imported.
func TestDamage(t *testing.T) {
	t.Parallel()
	from := setup(t, 0)
	from.fill(2)
	from.put("short", `[1, "a"]`, 3600)
	whole := strings.Join(lines(t, from.export()), "\n") + "\n"
	require.NoError(t, check(t, whole))
	for i := range len(whole) {
		if err := check(t, whole[:i]); err == nil || i > 0 && !strings.Contains(err.Error(), "cut off") && !strings.Contains(err.Error(), "no file of") {
			t.Fatalf("cut off at byte %d: %v", i, err)
		}
		changed := []byte(whole)
		changed[i] ^= 1
		require.Error(t, check(t, string(changed)), "changed at byte %d", i)
		require.Error(t, check(t, whole[:i]+whole[i+1:]), "byte %d is missing", i)
	}
}

func TestDamageHasItsLine(t *testing.T) {
	t.Parallel()
	from := setup(t, 0)
	from.fill(2)
	whole := lines(t, from.export())
	require.Len(t, whole, 8)
	for name, tc := range map[string]struct {
		damage func(lines []string) []string
		want   string
	}{
		"cut off between lines": {func(l []string) []string { return l[:5] }, "line 6: the file has no last line: it is cut off here, 4 items"},
		"cut off inside a line": {func(l []string) []string { l[4] = l[4][:50]; return append(l[:4], l[4]+"\x00") }, "line 5: the file is cut off in the middle of it"},
		"a value":               {func(l []string) []string { l[3] = strings.Replace(l[3], "source 0", "source X", 1); return l }, "line 4: the value of component:react:c000000 was changed"},
		"no JSON":               {func(l []string) []string { l[2] = "{" + l[2]; return l }, "line 3: malformed_json"},
		"something behind it":   {func(l []string) []string { l[2] += " 1"; return l }, "line 3: "},
		"an unknown member":     {func(l []string) []string { l[2] = strings.Replace(l[2], "{", `{"colour":1,`, 1); return l }, `line 3: unknown_field at /colour`},
		"a member less":         {func(l []string) []string { l[2] = strings.Replace(l[2], `,"version":1`, ``, 1); return l }, `line 3: it has no "version"`},
		"a TTL without its end": {func(l []string) []string { l[2] = strings.Replace(l[2], "{", `{"ttlSeconds":1,`, 1); return l }, "line 3: ttlSeconds and expiresAt"},
		"a time": {func(l []string) []string {
			l[6] = strings.Replace(l[6], `"accessedAt":"2`, `"accessedAt":"x`, 1)
			return l
		}, "line 7: invalid_value at /accessedAt"},
		"a count": {func(l []string) []string {
			l[6] = strings.Replace(l[6], `"accessCount":1`, `"accessCount":-1`, 1)
			return l
		}, "line 7: invalid_value at /accessCount"},
		"a key":               {func(l []string) []string { l[1] = strings.Replace(l[1], "block:vue:", "block::", 1); return l }, "line 2: invalid_key"},
		"a line twice":        {func(l []string) []string { l[2] = l[1]; return l }, "line 3: the key block:vue:b000000 stands behind block:vue:b000000"},
		"lines the wrong way": {func(l []string) []string { l[2], l[3] = l[3], l[2]; return l }, "line 4: the key block:vue:b000001 stands behind component:react:c000000"},
		"a line less":         {func(l []string) []string { return append(l[:2], l[3:]...) }, "line 7: the file should have 6 items and has 5"},
		"a hidden change": {func(l []string) []string {
			l[5] = strings.Replace(l[5], `"accessCount":1`, `"accessCount":2`, 1)
			return l
		}, "line 8: the lines before this one are not those that were written"},
		"a line behind the last": {func(l []string) []string { return append(l, l[1]) }, "line 9: something follows"},
		"a later version":        {func(l []string) []string { l[0] = strings.Replace(l[0], `"version":1`, `"version":2`, 1); return l }, "version 2 of the format, this program reads version 1: use the program that wrote it (a test)"},
		"another format":         {func(l []string) []string { l[0] = `{"name":"button"}`; return l }, "this is no file of `server export`"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			damaged := tc.damage(append([]string(nil), whole...))
			content := strings.Join(damaged, "\n") + "\n"
			content = strings.TrimSuffix(content, "\x00\n")
			require.ErrorContains(t, check(t, content), tc.want)
		})
	}
}

func TestIsExport(t *testing.T) {
	t.Parallel()
	from := setup(t, 0)
	path := from.export()
	require.True(t, transfer.IsExport(path))
	require.Equal(t, transfer.Report{}, setup(t, 0).loads(path, transfer.Options{}), "an empty store")
	for name, content := range map[string]string{
		"empty": "", "item": "{\"name\":\"a\",\"type\":\"registry:ui\"}\n", "long": strings.Repeat("x", 1<<16), "no line": `{"format":"stockroom-export"}`,
	} {
		other := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(other, []byte(content), 0o600))
		require.False(t, transfer.IsExport(other), name)
	}
	require.False(t, transfer.IsExport(filepath.Dir(path)))
	require.False(t, transfer.IsExport(path+".none"))
}

// Standard input is kept in a file for as long as it is needed.
func TestStandardInputIsKeptInAFile(t *testing.T) { //nolint:paralleltest // TMPDIR is the process's
	from, to := setup(t, 0), setup(t, 0)
	from.fill(10)
	folder := t.TempDir()
	t.Setenv("TMPDIR", folder)
	content, err := os.ReadFile(from.export())
	require.NoError(t, err)
	checked, err := transfer.Check(t.Context(), "-", bytes.NewReader(content), nil)
	require.NoError(t, err)
	report, err := checked.Import(t.Context(), to.Store, transfer.Options{})
	require.NoError(t, err)
	require.Equal(t, transfer.Report{Imported: 30}, report)
	require.NoError(t, checked.Close())
	require.Error(t, check(t, string(content[:100])))
	left, err := filepath.Glob(filepath.Join(folder, "stockroom-import-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestReportPrints(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, transfer.Report{Imported: 1, Unchanged: 2, Kept: 3, Expired: 4, Failed: 5}.Print(&out))
	require.NoError(t, transfer.Report{DryRun: true}.Print(&out))
	require.Equal(t, "imported 1, unchanged 2, kept 3, expired 4, failed 5\nwould import 0, unchanged 0, kept 0, expired 0, failed 0\n", out.String())
}

// A store of the other kind may have a row twice, where nothing forbids that.
func TestCopyOfARowThatIsThereTwice(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	_, err := pgtest.Connect(t, dsn).Exec(t.Context(), `CREATE TABLE components (framework text, name text, source_code text, cached_at timestamptz);
		INSERT INTO components VALUES ('react', 'a', 'first', '2026-01-01Z'), ('react', 'b', 'x', '2026-01-01Z'), ('react', 'a', 'second', '2026-01-02Z')`)
	require.NoError(t, err)
	from, err := legacy.Open(t.Context(), dsn)
	require.NoError(t, err)
	defer func() { require.NoError(t, from.Close(context.Background())) }()
	to := setup(t, 0)
	var shown bytes.Buffer
	report, err := transfer.Copy(t.Context(), from, to.Store, transfer.Options{Show: &shown})
	require.NoError(t, err)
	require.Equal(t, transfer.Report{Imported: 3}, report)
	require.Equal(t, "note: there is no table blocks to copy\n", shown.String())
	to.requireUsage()
	require.Equal(t, "second x", scan[string](to, `SELECT string_agg(source_code, ' ' ORDER BY key) FROM components`))
}
