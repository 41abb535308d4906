// Package repo holds the SQL, each statement beside the function that runs it.
// Every function takes the *txn.Unit in which it runs and neither begins nor
// ends one.
//
// Transactions lock in one order, so that they do not wait for each other in a
// circle: blocks, components, entries, each by key, and usage_counters last.
package repo

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/txn"
)

// table is what differs between the three tables. All else, the columns of the
// metadata included, they have in common.
type table struct {
	kind     item.Kind
	name     string
	identity []string // columns of the primary key
	content  string   // the column of the value that is never NULL
	value    []string // columns of the value that are written, body_identity included
	summary  []string // those of them that a list shows
	category bool     // has a column category to filter by

	identityArgs func(key item.Key) []any
	valueArgs    func(v *item.Value) []any
	// scanValue returns the destinations of the value columns of rows that are read one
	// after the other, and a function that makes the value's JSON of a row's once they
	// are filled. What they are filled with goes with the row.
	scanValue func() (dests []any, encode func(item.Key) []byte)
	// scanSummary likewise for the summary columns.
	scanSummary func() (dests []any, set func(*item.Summary))

	upsert upsertSQL
}

var components = &table{
	kind:     item.KindComponent,
	name:     "components",
	identity: []string{"name", "framework"},
	content:  "source_code",
	value: []string{
		"source_code", "demo_code", "metadata", "dependencies", "registry_dependencies",
		"github_sha", "file_size", "last_modified", "body_identity",
	},
	summary:      []string{"dependencies", "registry_dependencies", "github_sha", "file_size", "last_modified"},
	identityArgs: namedArgs,
	valueArgs: func(v *item.Value) []any {
		c := v.Component
		return []any{
			c.SourceCode, orNull(c.DemoCode), orNull(c.Metadata), orNull(c.Dependencies), orNull(c.RegistryDependencies),
			orNull(c.GitHubSHA), orNull(c.FileSize), orNull(c.LastModified), int16(c.Identity),
		}
	},
	scanValue: func() ([]any, func(item.Key) []byte) {
		c := new(item.Component)
		return []any{
			&text{to: &c.SourceCode}, optional(&c.DemoCode), optional(&c.Metadata), optional(&c.Dependencies),
			optional(&c.RegistryDependencies), optional(&c.GitHubSHA), &optionalInt{to: &c.FileSize}, optional(&c.LastModified),
			(*int16)(&c.Identity),
		}, c.JSON
	},
	scanSummary: func() ([]any, func(*item.Summary)) {
		c := new(item.Component)
		return []any{&c.Dependencies, &c.RegistryDependencies, &c.GitHubSHA, &c.FileSize, &c.LastModified},
			func(s *item.Summary) { s.Component = c }
	},
}

var blocks = &table{
	kind:     item.KindBlock,
	name:     "blocks",
	identity: []string{"name", "framework"},
	content:  "files",
	value: []string{
		"category", "type", "description", "files", "structure", "dependencies",
		"components_used", "total_size", "github_sha", "body_identity",
	},
	summary:      []string{"category", "type", "description", "dependencies", "components_used", "total_size", "github_sha"},
	category:     true,
	identityArgs: namedArgs,
	valueArgs: func(v *item.Value) []any {
		b := v.Block
		return []any{
			orNull(b.Category), orNull(b.Type), orNull(b.Description), b.Files, orNull(b.Structure), orNull(b.Dependencies),
			orNull(b.ComponentsUsed), orNull(b.TotalSize), orNull(b.GitHubSHA), int16(b.Identity),
		}
	},
	scanValue: func() ([]any, func(item.Key) []byte) {
		b := new(item.Block)
		return []any{
			optional(&b.Category), optional(&b.Type), optional(&b.Description), &text{to: &b.Files}, optional(&b.Structure),
			optional(&b.Dependencies), optional(&b.ComponentsUsed), &optionalInt{to: &b.TotalSize}, optional(&b.GitHubSHA),
			(*int16)(&b.Identity),
		}, b.JSON
	},
	scanSummary: func() ([]any, func(*item.Summary)) {
		b := new(item.Block)
		return []any{&b.Category, &b.Type, &b.Description, &b.Dependencies, &b.ComponentsUsed, &b.TotalSize, &b.GitHubSHA},
			func(s *item.Summary) { s.Block = b }
	},
}

var entries = &table{
	kind:         item.KindEntry,
	name:         "entries",
	identity:     []string{"key"},
	content:      "value",
	value:        []string{"value"},
	identityArgs: func(key item.Key) []any { return []any{key.String()} },
	valueArgs:    func(v *item.Value) []any { return []any{v.Entry} },
	scanValue: func() ([]any, func(item.Key) []byte) {
		value := new([]byte)
		return []any{value}, func(item.Key) []byte { return *value }
	},
}

// orNull returns what value points to, or NULL. pgx would do so, too, by reflection.
func orNull[T any](value *T) any {
	if value == nil {
		return nil
	}
	return *value
}

// tables in the order in which transactions lock them.
var tables = []*table{blocks, components, entries}

func tableOf(kind item.Kind) *table {
	switch kind {
	case item.KindComponent:
		return components
	case item.KindBlock:
		return blocks
	case item.KindEntry:
		return entries
	}
	panic("repo: no table for kind " + string(kind)) // a Key of no constructor of item's
}

func namedArgs(key item.Key) []any { return []any{key.Name(), key.Framework()} }

// alive is the condition that an item has not expired, by the database's clock.
const alive = `(t.expires_at IS NULL OR t.expires_at > now())`

// metadataColumns are selected in the order that metadataDests scans them.
const metadataColumns = `t.key, t.bytes, t.ttl_seconds, now(), t.expires_at,
	t.created_at, t.updated_at, t.accessed_at, t.access_count, t.etag, t.version`

// metadataRow receives metadataColumns.
type metadataRow struct {
	item.Metadata
	key     string
	now     time.Time // by the database's clock
	expires pgtype.Timestamptz
}

func (r *metadataRow) dests() []any {
	return []any{
		&r.key, &r.Bytes, (*int64)(&r.TTL), &r.now, &r.expires,
		&r.Created, &r.Updated, &r.Accessed, &r.AccessCount, &r.ETag, &r.Version,
	}
}

// finish makes the metadata of what was scanned.
func (r *metadataRow) finish() (item.Metadata, error) {
	key, err := item.ParseKey(r.key)
	if err != nil {
		return item.Metadata{}, fmt.Errorf("repo: a row with a key that is none: %w", err)
	}
	return r.of(key), nil
}

// of makes the metadata of what was scanned of a row whose key is known.
func (r *metadataRow) of(key item.Key) item.Metadata {
	m := r.Metadata
	m.Key = key
	if r.expires.Valid {
		m.Expires = r.expires.Time.UTC()
		m.Remaining = m.Expires.Sub(r.now)
	}
	// Clients see UTC, whatever the time zone of the server is.
	m.Created, m.Updated, m.Accessed = m.Created.UTC(), m.Updated.UTC(), m.Accessed.UTC()
	return m
}

// prefixed lists columns as the table's alias t has them.
func prefixed(columns []string) string {
	var b strings.Builder
	for _, column := range columns {
		b.WriteString(", t." + column)
	}
	return b.String()
}

// where is the condition that a row is that of the key whose columns are the
// arguments from $1 on.
func (t *table) where() string {
	conditions := make([]string, len(t.identity))
	for i, column := range t.identity {
		conditions[i] = fmt.Sprintf("t.%s = $%d", column, i+1)
	}
	return strings.Join(conditions, " AND ")
}

// query runs a statement and reads all its rows.
func query[T any](ctx context.Context, u *txn.Unit, scan pgx.RowToFunc[T], sql string, args ...any) (all []T, err error) {
	err = u.Select(ctx, func(rows pgx.Rows) error {
		all, err = pgx.CollectRows(rows, scan)
		return err
	}, sql, args...)
	return all, err
}

// queryOne runs a statement that returns one row at most; none is ErrNotFound.
func queryOne[T any](ctx context.Context, u *txn.Unit, scan pgx.RowToFunc[T], sql string, args ...any) (T, error) {
	all, err := query(ctx, u, scan, sql, args...)
	if err != nil || len(all) == 0 {
		return *new(T), cmp.Or(err, item.ErrNotFound)
	}
	return all[0], nil
}

func scanMetadata(row pgx.CollectableRow) (item.Metadata, error) {
	var r metadataRow
	if err := row.Scan(r.dests()...); err != nil {
		return item.Metadata{}, err
	}
	return r.finish()
}

// byTable sorts keys into their tables, in the order of locking, without
// duplicates and in the order of keys.
func byTable(keys []item.Key) map[*table][]string {
	groups := make(map[*table][]string, len(tables))
	for _, key := range keys {
		t := tableOf(key.Kind())
		groups[t] = append(groups[t], key.String())
	}
	for t, group := range groups {
		slices.Sort(group)
		groups[t] = slices.Compact(group)
	}
	return groups
}
