// Package legacy reads the components and blocks of a store that Stockroom takes
// the place of: the two tables that registry tools keep in a PostgreSQL, or in a
// PGlite folder that is served by @electric-sql/pglite-socket.
//
// Such stores differ in the types of their columns and in which of them they have:
// what each has is looked up first. All reading is one snapshot over one connection,
// row by row, and by nothing but what a PGlite can do: no prepared statements, no
// second connection.
package legacy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stockroom/stockroom/internal/item"
)

// What can be wrong with a store as a whole.
var (
	// ErrBadDSN says that the connection string cannot be read. Its text leaves out
	// the string, which may hold a password.
	ErrBadDSN = errors.New("the connection string is neither a URL (postgres://user@host/database) nor key=value pairs")
	// ErrNoTables says that there is nothing to copy.
	ErrNoTables = errors.New("the database has neither a table components nor a table blocks (where its search_path looks)")
	// ErrStockroom says that the database is one of Stockroom's own.
	ErrStockroom = errors.New("this is a database of Stockroom: copy it by `server export` and `import FILE`, which keep entries and TTLs, too")
)

const (
	connectTimeout = 10 * time.Second
	closeTimeout   = 5 * time.Second
	// A PGlite takes one connection at a time, and may not yet have noticed the end
	// of the one before.
	connectTries = 20
	connectWait  = 100 * time.Millisecond
	// fetchRows is how many rows are asked for at once: a PGlite holds that many.
	fetchRows = 50
)

// Store is an open store. It is for one goroutine.
type Store struct {
	conn   *pgx.Conn
	tables []*table
}

// Row is a row, read as the item that it is to become.
type Row struct {
	Name   string // for messages, such as component:react:button
	Record item.Record
	Fault  error // the rule that it breaks; then there is no Record
}

// Open connects to the store of dsn and begins a snapshot of it. The caller must
// Close it.
func Open(ctx context.Context, dsn string) (*Store, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, ErrBadDSN
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	conn, err := connect(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to the store to copy: %w", err)
	}
	s := &Store{conn: conn}
	if err := s.begin(ctx); err != nil {
		return nil, errors.Join(err, s.Close(ctx))
	}
	return s, nil
}

// connect connects as the configuration says. But where that leaves it to the server
// whether to encrypt (sslmode=prefer, the default), a server on this machine is first
// asked without TLS: one that has none costs pgx a second connection, which a PGlite
// turns away as long as it has not noticed the end of the first, or dies of.
func connect(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	plain := withoutTLS(config)
	if plain == nil {
		return pgx.ConnectConfig(ctx, config)
	}
	var err error
	for range connectTries {
		var conn *pgx.Conn
		conn, err = pgx.ConnectConfig(ctx, plain)
		if err == nil {
			return conn, nil
		}
		if answered(err) { // perhaps that it wants TLS
			return pgx.ConnectConfig(ctx, config)
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
		select {
		case <-time.After(connectWait): // it may be busy with whoever was there before
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, err
}

// withoutTLS returns a configuration for a server on this machine that need not
// encrypt, or nil where it must, or is elsewhere.
func withoutTLS(config *pgx.ConnConfig) *pgx.ConnConfig {
	plain := config.Copy()
	plain.Fallbacks = slices.DeleteFunc(plain.Fallbacks, func(f *pgconn.FallbackConfig) bool { return f.TLSConfig != nil })
	if plain.TLSConfig != nil && len(plain.Fallbacks) > 0 {
		first := plain.Fallbacks[0]
		plain.Host, plain.Port, plain.TLSConfig, plain.Fallbacks = first.Host, first.Port, nil, plain.Fallbacks[1:]
	}
	if ip := net.ParseIP(plain.Host); plain.TLSConfig != nil || plain.Host != "localhost" && !ip.IsLoopback() {
		return nil
	}
	return plain
}

// answered tells whether a server has refused us for a reason of its own.
func answered(err error) bool {
	_, ok := errors.AsType[*pgconn.PgError](err)
	return ok
}

// Close ends the snapshot and the connection.
func (s *Store) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return s.conn.Close(ctx)
}

func (s *Store) begin(ctx context.Context) error {
	if _, err := s.conn.Exec(ctx, `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`); err != nil {
		return err
	}
	for _, shape := range []shape{components, blocks} {
		columns, err := s.columns(ctx, shape.name)
		if err != nil {
			return err
		}
		if len(columns) == 0 {
			continue
		}
		if _, ours := columns["body_identity"]; ours {
			return ErrStockroom
		}
		t, err := newTable(shape, columns)
		if err != nil {
			return err
		}
		s.tables = append(s.tables, t)
	}
	if len(s.tables) == 0 {
		return ErrNoTables
	}
	return nil
}

// columns returns the columns of a table with the categories of their types; none
// where there is no such table.
func (s *Store) columns(ctx context.Context, name string) (map[string]column, error) {
	rows, err := s.conn.Query(ctx, `SELECT a.attname::text, t.typname::text, t.typcategory::text
		FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
		WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`, name)
	if err != nil {
		return nil, err
	}
	columns := map[string]column{}
	var c column
	_, err = pgx.ForEachRow(rows, []any{&c.name, &c.typeName, &c.category}, func() error {
		columns[c.name] = c
		return nil
	})
	return columns, err
}

// Notes says in sentences what there is that will not be copied.
func (s *Store) Notes() (notes []string) {
	for _, shape := range []shape{components, blocks} {
		i := slices.IndexFunc(s.tables, func(t *table) bool { return t.shape.name == shape.name })
		if i < 0 {
			notes = append(notes, fmt.Sprintf("there is no table %s to copy", shape.name))
		} else if ignored := s.tables[i].ignored; len(ignored) > 0 {
			notes = append(notes, fmt.Sprintf("columns of %s that are not copied: %s", shape.name, strings.Join(ignored, ", ")))
		}
	}
	return notes
}

// Count returns how many rows there are.
func (s *Store) Count(ctx context.Context) (n int, err error) {
	for _, t := range s.tables {
		var rows int
		if err := s.conn.QueryRow(ctx, `SELECT count(*) FROM `+t.shape.name).Scan(&rows); err != nil {
			return 0, err
		}
		n += rows
	}
	return n, nil
}

// Each calls give for every row. An error of give's ends it.
func (s *Store) Each(ctx context.Context, give func(Row) error) error {
	for _, t := range s.tables {
		// A cursor, not pages by key: nobody says that these stores have an index for
		// those, or that a key stands in them only once.
		cursor := "copy_" + t.shape.name
		if _, err := s.conn.Exec(ctx, `DECLARE `+cursor+` NO SCROLL CURSOR FOR `+t.query()); err != nil {
			return fmt.Errorf("read %s: %w", t.shape.name, err)
		}
		for more := true; more; {
			n, err := s.fetch(ctx, t, cursor, give)
			if err != nil {
				return err
			}
			more = n == fetchRows
		}
		if _, err := s.conn.Exec(ctx, `CLOSE `+cursor); err != nil {
			return fmt.Errorf("read %s: %w", t.shape.name, err)
		}
	}
	return nil
}

func (s *Store) fetch(ctx context.Context, t *table, cursor string, give func(Row) error) (n int, err error) {
	rows, err := s.conn.Query(ctx, fmt.Sprintf(`FETCH %d FROM %s`, fetchRows, cursor))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", t.shape.name, err)
	}
	defer rows.Close()
	for rows.Next() {
		n++
		values := make([]*string, len(t.columns))
		dests := make([]any, len(values))
		for i := range values {
			dests[i] = &values[i]
		}
		if err := rows.Scan(dests...); err != nil {
			return n, fmt.Errorf("read %s: %w", t.shape.name, err)
		}
		if err := give(t.row(values)); err != nil {
			return n, err
		}
	}
	if err := rows.Err(); err != nil {
		return n, fmt.Errorf("read %s: %w", t.shape.name, err)
	}
	return n, nil
}
