package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/stockroom/stockroom/internal/auth"
	"github.com/stockroom/stockroom/internal/config"
	"github.com/stockroom/stockroom/internal/postgres"
	"github.com/stockroom/stockroom/internal/telemetry"
)

// ErrUsage says that a command line cannot be understood.
var ErrUsage = errors.New("app: unknown command")

// CheckConfig finds the mistakes in a configuration that config.Load cannot know.
func CheckConfig(cfg config.Config) error {
	if dsn := cfg.DatabaseURL.Reveal(); dsn != "" && postgres.CheckDSN(dsn) != nil {
		return config.Mistakes{"DATABASE_URL: expected a connection string that PostgreSQL's clients can read (the value is not shown: it may hold a password)"}
	}
	return nil
}

// Migrate runs `server migrate`: up, down [N], version or force N. On the
// embedded PostgreSQL it starts that for as long as it works.
func Migrate(ctx context.Context, cfg config.Config, args []string, log *slog.Logger, out io.Writer) error {
	action, err := migration(args)
	if err != nil {
		return err
	}
	a := &App{cfg: cfg, log: log}
	err = a.withMigrator(ctx, func(m *postgres.Migrator) error {
		if err := action(m); err != nil {
			return err
		}
		at, err := m.Version()
		if err != nil {
			return err
		}
		state := ""
		if at.Dirty {
			state = ", dirty"
		}
		_, err = fmt.Fprintf(out, "schema version %d of %d%s\n", at.Version, at.Latest, state)
		return err
	})
	return errors.Join(err, a.stop())
}

// migration returns what the words behind `server migrate` ask for.
func migration(args []string) (func(*postgres.Migrator) error, error) {
	number := -1
	if len(args) == 2 {
		n, err := strconv.Atoi(args[1])
		if err != nil || n < 0 {
			return nil, ErrUsage
		}
		number = n
	}
	switch command := strings.Join(args[:min(len(args), 1)], ""); {
	case command == "up" && len(args) == 1:
		return (*postgres.Migrator).Up, nil
	case command == "version" && len(args) == 1:
		return func(*postgres.Migrator) error { return nil }, nil
	case command == "down" && len(args) == 1:
		return func(m *postgres.Migrator) error { return m.Down(1) }, nil
	case command == "down" && len(args) == 2:
		return func(m *postgres.Migrator) error { return m.Down(number) }, nil
	case command == "force" && len(args) == 2:
		return func(m *postgres.Migrator) error { return m.Force(number) }, nil
	}
	return nil, ErrUsage
}

func (a *App) withMigrator(ctx context.Context, do func(*postgres.Migrator) error) error {
	if err := a.findDatabase(ctx); err != nil {
		return err
	}
	migrator, err := postgres.NewMigrator(ctx, a.dsn, a.connectTimeout())
	if err != nil {
		return err
	}
	return errors.Join(do(migrator), migrator.Close())
}

// NewLogger returns the logger that cfg asks for.
func NewLogger(w io.Writer, cfg config.Config) *slog.Logger {
	return telemetry.NewLogger(w, cfg.LogLevel, string(cfg.LogFormat))
}

// NewToolLogger returns the logger of a command that speaks to a person in
// sentences: it has no more than what goes wrong.
func NewToolLogger(w io.Writer, cfg config.Config) *slog.Logger {
	return telemetry.NewLogger(w, max(cfg.LogLevel.Level(), slog.LevelWarn), "text")
}

// Keygen makes an API key and prints it, with the line that STOCKROOM_API_KEYS_FILE
// needs. The key itself is kept nowhere.
func Keygen(id, scopes string, out io.Writer) error {
	set, err := auth.ParseScopes(scopes)
	if err != nil {
		return fmt.Errorf("keygen: %w", err)
	}
	token, line, err := auth.Generate(id, set)
	if err != nil {
		return fmt.Errorf("keygen: %w", err)
	}
	_, err = fmt.Fprintf(out, "key (shown this once; give it to the client): %s\nline for STOCKROOM_API_KEYS_FILE:              %s\n", token, line)
	return err
}

const healthTimeout = 5 * time.Second

// Healthcheck asks the service that is configured like this whether it is ready;
// an error says why not. It is what a container's health check calls.
func Healthcheck(ctx context.Context, cfg config.Config) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	address, err := healthAddress(cfg)
	if err != nil {
		return err
	}
	scheme := "http"
	client := &http.Client{}
	if cfg.TLS() {
		scheme = "https"
		// The certificate is for a name that this connection, to loopback, does not
		// use, and nothing secret is sent.
		client.Transport = &http.Transport{TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, //nolint:gosec // see above
		}}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+address+"/readyz", nil)
	if err != nil {
		return fmt.Errorf("healthcheck: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("healthcheck: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10))
		return fmt.Errorf("healthcheck: not ready: %s", strings.TrimSpace(string(body)))
	}
	return nil
}

// healthAddress returns where this machine reaches the service: what it wrote
// down where the system picked its port, and loopback where it listens on all
// addresses.
func healthAddress(cfg config.Config) (string, error) {
	address := string(cfg.Addr)
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("healthcheck: %w", err)
	}
	if port == "0" {
		written, err := os.ReadFile(filepath.Join(cfg.DataDir, AddressFile))
		if err != nil {
			return "", fmt.Errorf("healthcheck: %w", err)
		}
		if host, port, err = net.SplitHostPort(strings.TrimSpace(string(written))); err != nil {
			return "", fmt.Errorf("healthcheck: %w", err)
		}
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip != nil && ip.To4() == nil {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port), nil
}
