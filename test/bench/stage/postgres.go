//go:build linux

package stage

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockroom/stockroom/internal/embeddedpg"
	"github.com/stockroom/stockroom/internal/search"
)

// maxConnections leaves room for several servers' pools and 64 clients of pgbench.
const maxConnections = 200

// Postgres is the one PostgreSQL that all share, with the settings of the service's
// embedded one.
type Postgres struct {
	server *embeddedpg.Server
	socket string // folder
}

// StartPostgres starts it on a folder.
func StartPostgres(ctx context.Context, dir string) (*Postgres, error) {
	server, err := embeddedpg.Start(ctx, embeddedpg.Config{
		DataDir: dir, BinDir: os.Getenv("STOCKROOM_POSTGRES_BIN"), MaxConnections: maxConnections,
	})
	if err != nil {
		return nil, err
	}
	config, err := pgx.ParseConfig(server.DSN())
	if err != nil {
		return nil, errors.Join(err, server.Stop(context.WithoutCancel(ctx)))
	}
	return &Postgres{server: server, socket: config.Host}, nil
}

// Stop ends it.
func (p *Postgres) Stop(ctx context.Context) error { return p.server.Stop(ctx) }

// PID returns the process id of the postmaster.
func (p *Postgres) PID() int { return p.server.PID() }

// Program returns the path of a program of PostgreSQL's that belongs to it.
func (p *Postgres) Program(name string) (string, error) {
	postgres, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID()))
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(postgres), name)
	_, err = os.Stat(path)
	return path, err
}

// Env returns the variables by which PostgreSQL's own programs find a database.
func (p *Postgres) Env(database string) []string {
	return []string{"PGHOST=" + p.socket, "PGPORT=5432", "PGUSER=postgres", "PGDATABASE=" + database}
}

// DSN returns the connection string of a database.
func (p *Postgres) DSN(database string) string {
	return "postgres:///" + database + "?" + url.Values{
		"host": {p.socket}, "port": {"5432"}, "user": {"postgres"}, "sslmode": {"disable"},
	}.Encode()
}

// Create makes an empty database.
func (p *Postgres) Create(ctx context.Context, database string) error {
	return p.Exec(ctx, "postgres", "CREATE DATABASE "+pgx.Identifier{database}.Sanitize()+" TEMPLATE template0")
}

// Exec runs statements in a database, each by itself.
func (p *Postgres) Exec(ctx context.Context, database string, statements ...string) error {
	return p.with(ctx, database, func(conn *pgx.Conn) error {
		for _, sql := range statements {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%.80s: %w", sql, err)
			}
		}
		return nil
	})
}

// Text returns the one text that a query selects.
func (p *Postgres) Text(ctx context.Context, database, query string) (text string, err error) {
	err = p.with(ctx, database, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, query).Scan(&text) })
	return text, err
}

func (p *Postgres) with(ctx context.Context, database string, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, p.DSN(database))
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx) // nothing depends on its farewell
	}()
	return do(conn)
}

// Settle lets each measurement of writes begin alike: without dead rows of the one
// before, and without a checkpoint that it has left behind.
func (p *Postgres) Settle(ctx context.Context, database string) error {
	return p.Exec(ctx, database, "VACUUM (ANALYZE) components", "CHECKPOINT")
}

// Recount makes usage_counters the sum of the rows, for those who change rows behind
// the service's back.
func (p *Postgres) Recount(ctx context.Context, database string) error {
	return p.Exec(ctx, database, `UPDATE usage_counters u SET
		component_items = CASE slot WHEN 0 THEN c.items ELSE 0 END, component_bytes = CASE slot WHEN 0 THEN c.bytes ELSE 0 END
		FROM (SELECT count(*) AS items, coalesce(sum(bytes), 0)::bigint AS bytes FROM components) c`)
}

// AwaitDocuments returns when a service has made the documents for search of all
// components, so that it does nothing else while it is measured.
func (p *Postgres) AwaitDocuments(ctx context.Context, database string) error {
	return p.with(ctx, database, func(conn *pgx.Conn) error {
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for {
			var missing int64
			// All of them: to find whether there is one, PostgreSQL without statistics
			// would take a plan that is quadratic where there is none.
			err := conn.QueryRow(ctx, `SELECT count(*) FROM components t LEFT JOIN search_documents d
				ON d.name = t.name AND d.framework = t.framework AND d.kind = 'component' AND d.etag = t.etag WHERE d.name IS NULL`).Scan(&missing)
			if err != nil || missing == 0 {
				return err
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return fmt.Errorf("documents for search are still made: %w", context.Cause(ctx))
			}
		}
	})
}

// Fill makes n small components in a database that has none: framework f<i mod 10>,
// name ScaleFirstName + i, each of about 700 bytes of which a half compresses. They
// have documents for search, without words, and are not soon to be held against
// them: nothing of that goes on beside what is measured.
func (p *Postgres) Fill(ctx context.Context, database string, n int) error {
	err := p.Exec(ctx, database, fmt.Sprintf(`INSERT INTO components
			(name, framework, source_code, bytes, etag, created_at, updated_at, cached_at, accessed_at)
		SELECT (%d + i)::text, 'f' || i %% %d, source, length(source), md5(i::text), now(), now(), now(), now() - i * interval '1 millisecond'
		FROM generate_series(0, %d) AS i,
			LATERAL (SELECT repeat('export const Item = () => <li className="flex items-center" />' || E'\n', 6)
				|| md5(i::text) || md5((i + 1)::text) || md5((i + 2)::text) || md5((i + 3)::text) AS source) s
		ORDER BY md5(i::text)`, ScaleFirstName, ScaleFrameworks, n-1),
		fmt.Sprintf(`INSERT INTO search_documents (name, framework, kind, etag, format, words, folded, categories, head, vector)
			SELECT name, framework, 'component', etag, %d, 1, name, '{}', '', '' FROM components`, search.Format),
		fmt.Sprintf("UPDATE search_state SET complete = now(), reached = now(), format = %d, compare_at = now() + interval '1 day'", search.Format),
		"VACUUM (ANALYZE, FREEZE) components, search_documents")
	return errors.Join(err, p.Recount(ctx, database))
}

// What Fill names its items.
const (
	ScaleFirstName  = 1_000_000
	ScaleFrameworks = 10
)
