//go:build linux

// Package cluster runs the service and its database as they run in production, as
// processes of their own, and does to them what can happen there: it kills,
// freezes and restarts them, fills their disk, and puts a faulty network between
// them.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockroom/stockroom/test/faults"
)

// Options say what a cluster is made of.
type Options struct {
	// Program is the server's (see Build).
	Program string
	// Embedded leaves the database to the server. Otherwise it is a PostgreSQL of the
	// cluster's own, which the server reaches through a proxy.
	Embedded bool
	// RequestTimeout and BreakerTimeout are the server's.
	RequestTimeout, BreakerTimeout time.Duration
	// Env are further variables of the server's.
	Env []string
	// Settings are further settings of the cluster's own PostgreSQL.
	Settings map[string]string
	// DiskBytes is the size of the disk of the cluster's own PostgreSQL; 0: it has
	// none of its own. Without the permission for one, Disk is nil.
	DiskBytes int
}

// Cluster is one server with its database.
type Cluster struct {
	Server *Server
	// Disk is that of the database; nil where it has none of its own.
	Disk *Disk

	dir   string
	nodes [2]node // of the database; that of a cluster with an embedded one has none
	at    int     // the node that works
}

// node is one of the hosts that the server knows.
type node struct {
	postgres *Postgres // nil: there is none
	proxy    *faults.Proxy
}

// dirPrefix begins the name of a cluster's folder.
const dirPrefix = "stockroom-cluster-"

// New makes a cluster in a temporary folder and starts its database. The server
// does not run yet. The caller must Close it.
func New(ctx context.Context, options Options) (_ *Cluster, err error) {
	dir, err := os.MkdirTemp("", dirPrefix)
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close(context.WithoutCancel(ctx)))
		}
	}()
	// PostgreSQL's user, which is not ours where we are root, must be able to enter.
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // see above
		return nil, err
	}
	env := []string{
		"STOCKROOM_REQUEST_TIMEOUT=" + options.RequestTimeout.String(),
		"STOCKROOM_BREAKER_TIMEOUT=" + options.BreakerTimeout.String(),
		"STOCKROOM_SHUTDOWN_GRACE=" + options.RequestTimeout.String(),
		"STOCKROOM_DB_MAX_CONCURRENCY=8",
	}
	if !options.Embedded {
		if err := c.startDatabase(ctx, options); err != nil {
			return nil, err
		}
		env = append(env, "DATABASE_URL="+c.dsn())
	}
	c.Server, err = newServer(options.Program, filepath.Join(dir, "server"), append(env, options.Env...))
	if err != nil {
		return nil, err
	}
	return c, os.Mkdir(c.Server.dir, 0o755) //nolint:gosec // see above
}

func (c *Cluster) startDatabase(ctx context.Context, options Options) error {
	disk := filepath.Join(c.dir, diskFolder)
	if err := os.Mkdir(disk, 0o755); err != nil { //nolint:gosec // PostgreSQL's user must be able to enter
		return err
	}
	if options.DiskBytes > 0 {
		mounted, err := newDisk(disk, options.DiskBytes)
		if err != nil && !errors.Is(err, ErrNoDisk) {
			return err
		}
		c.Disk = mounted
	}
	settings := maps.Clone(options.Settings)
	c.nodes[0].postgres = newPostgres(c.folder(0), settings)
	if err := c.nodes[0].postgres.Start(ctx); err != nil {
		return err
	}
	network, address, err := c.nodes[0].postgres.Target()
	if err != nil {
		return err
	}
	for i := range c.nodes {
		if c.nodes[i].proxy, err = faults.Listen(network, address); err != nil {
			return err
		}
	}
	return c.nodes[1].proxy.Set(faults.Rule{Refuse: true})
}

// diskFolder is where the disk is.
const diskFolder = "disk"

// folder is that of a node's database.
func (c *Cluster) folder(node int) string {
	return filepath.Join(c.dir, diskFolder, strconv.Itoa(node))
}

// dsn names both hosts, of which only one works at a time.
func (c *Cluster) dsn() string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d,127.0.0.1:%d/stockroom?sslmode=disable&target_session_attrs=read-write",
		c.nodes[0].proxy.Port(), c.nodes[1].proxy.Port())
}

// Embedded tells whether the server has the database of its own.
func (c *Cluster) Embedded() bool { return c.nodes[0].proxy == nil }

// Postgres returns the database that works.
func (c *Cluster) Postgres() *Postgres { return c.nodes[c.at].postgres }

// Proxy returns what stands between the server and that database.
func (c *Cluster) Proxy() *faults.Proxy { return c.nodes[c.at].proxy }

// Standby makes a standby of the database, for which every commit waits from now
// on, for Failover.
func (c *Cluster) Standby(ctx context.Context) error {
	other := &c.nodes[1-c.at]
	standby, err := c.Postgres().Clone(ctx, c.folder(1-c.at))
	if err != nil {
		return err
	}
	other.postgres = standby
	network, address, err := standby.Target()
	if err != nil {
		return err
	}
	other.proxy.Target(network, address)
	return nil
}

// Failover kills the database, makes a primary of its standby, and returns when
// that can be reached under its own host. The first one never comes back: its host
// is as left says.
func (c *Cluster) Failover(ctx context.Context, left faults.Rule) error {
	old, next := &c.nodes[c.at], &c.nodes[1-c.at]
	if next.postgres == nil {
		return errors.New("cluster: there is no standby")
	}
	if err := errors.Join(old.proxy.Set(left), old.postgres.Kill(ctx)); err != nil {
		return err
	}
	if left.Refuse {
		old.proxy.Cut()
	}
	if err := next.postgres.Promote(ctx); err != nil {
		return err
	}
	old.postgres, c.at = nil, 1-c.at
	return next.proxy.Set(faults.Rule{})
}

// Bury takes the host that does not work off the network: it refuses connections.
func (c *Cluster) Bury() error {
	if c.Embedded() {
		return nil
	}
	proxy := c.nodes[1-c.at].proxy
	err := proxy.Set(faults.Rule{Refuse: true})
	proxy.Cut()
	return err
}

// Close ends everything, by force where it must, and removes it. Further calls do
// nothing.
func (c *Cluster) Close(ctx context.Context) error {
	var failures []error
	if c.Server != nil {
		failures = append(failures, c.Server.Kill(ctx), c.Server.port.Release())
		c.Server = nil
	}
	for i := range c.nodes {
		if proxy := c.nodes[i].proxy; proxy != nil {
			failures = append(failures, proxy.Close())
		}
		if postgres := c.nodes[i].postgres; postgres != nil {
			failures = append(failures, postgres.Stop(ctx))
		}
		c.nodes[i] = node{}
	}
	if c.Disk != nil {
		failures = append(failures, c.Disk.unmount())
		c.Disk = nil
	}
	return errors.Join(append(failures, removeAll(ctx, c.dir))...)
}

// removeAll removes a folder of which an embedded PostgreSQL that lost its server
// may still be at work.
func removeAll(ctx context.Context, dir string) error {
	return poll(ctx, func() error { return os.RemoveAll(dir) })
}

// admin opens a connection to the database past any proxy, be it the server's own.
func (c *Cluster) admin(ctx context.Context) (*pgx.Conn, error) {
	if !c.Embedded() {
		return c.Postgres().Connect(ctx)
	}
	config, err := pgx.ParseConfig("user=postgres dbname=stockroom sslmode=disable application_name=administrator")
	if err != nil {
		return nil, err
	}
	config.Host, config.Port = filepath.Join(c.Server.dir, "run"), 5432
	return pgx.ConnectConfig(ctx, config)
}

// Busy returns how many sessions of the server's are at work or in a transaction.
func (c *Cluster) Busy(ctx context.Context) (n int, err error) {
	conn, err := c.admin(ctx)
	if err != nil {
		return 0, err
	}
	defer closeQuietly(conn)
	err = conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
		WHERE application_name = 'stockroom' AND state IS DISTINCT FROM 'idle'`).Scan(&n)
	return n, err
}

// Miscount holds the server's counters against what there is, in one snapshot, and
// says where they differ; nothing where they do not.
func (c *Cluster) Miscount(ctx context.Context) (string, error) {
	conn, err := c.admin(ctx)
	if err != nil {
		return "", err
	}
	defer closeQuietly(conn)
	var wrong string
	err = conn.QueryRow(ctx, `SELECT coalesce(string_agg(format('%s: counted %s items of %s bytes, there are %s of %s', kind, ci, cb, i, b), '; ')
			FILTER (WHERE (ci, cb) <> (i, b)), '') FROM (
		SELECT 'components' AS kind, sum(component_items) AS ci, sum(component_bytes) AS cb,
			(SELECT count(*) FROM components) AS i, (SELECT coalesce(sum(bytes), 0) FROM components) AS b FROM usage_counters
		UNION ALL SELECT 'blocks', sum(block_items), sum(block_bytes),
			(SELECT count(*) FROM blocks), (SELECT coalesce(sum(bytes), 0) FROM blocks) FROM usage_counters
		UNION ALL SELECT 'entries', sum(entry_items), sum(entry_bytes),
			(SELECT count(*) FROM entries), (SELECT coalesce(sum(bytes), 0) FROM entries) FROM usage_counters) counted`).Scan(&wrong)
	return wrong, err
}
