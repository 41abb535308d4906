package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/stockroom/stockroom/internal/pgtest"
	"github.com/stockroom/stockroom/internal/postgres"
)

// Batches do not mix up what they send, whatever their sizes are, whether or not the
// statements are known, and after one that has failed.
func TestSendBatchSendsWhatItIsGiven(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Empty(t)
	for _, mode := range []string{"", "simple_protocol", "exec", "cache_describe"} {
		t.Run("mode "+mode, func(t *testing.T) {
			t.Parallel()
			with := dsn
			if mode != "" {
				with += map[bool]string{true: "&", false: "?"}[strings.Contains(dsn, "?")] + "default_query_exec_mode=" + mode
			}
			db := open(t, with, 4)
			ctx := within(t, soon)
			var group errgroup.Group
			for worker := range 4 {
				group.Go(func() error {
					conn, err := db.Acquire(ctx)
					if err != nil {
						return err
					}
					defer db.Release(conn)
					for i := range 40 {
						if i%8 == 7 {
							err := postgres.SendBatch(ctx, conn.Conn(), failing(strings.Repeat("x", 10_000)))
							if err == nil {
								return errors.New("a batch that fails does not say so")
							}
							continue
						}
						if err := echo(ctx, conn.Conn(), worker, i); err != nil {
							return err
						}
						if err := echoSmall(ctx, conn.Conn(), worker, i); err != nil {
							return err
						}
					}
					return nil
				})
			}
			require.NoError(t, group.Wait())
		})
	}
}

func failing(text string) *pgx.Batch {
	batch := new(pgx.Batch)
	batch.Queue(`SELECT ($1::text || 'x')::integer`, text)
	return batch
}

// echo sends texts of many sizes and checks that they come back.
func echo(ctx context.Context, conn *pgx.Conn, worker, i int) error {
	batch := new(pgx.Batch)
	for statement := range 3 {
		var args [3]string
		for n := range args {
			args[n] = strings.Repeat(fmt.Sprintf("%d.%d.%d.%d ", worker, i, statement, n), 1+i*i*(n+1))
		}
		number := int64(worker*1000 + i)
		batch.Queue(`SELECT $1::text, $2::text, $3::text, $4::bigint`, args[0], args[1], args[2], number).
			QueryRow(func(row pgx.Row) error {
				var got [3]string
				var back int64
				if err := row.Scan(&got[0], &got[1], &got[2], &back); err != nil {
					return err
				}
				if got != args || back != number {
					return fmt.Errorf("worker %d, batch %d: something else has come back", worker, i)
				}
				return nil
			})
	}
	return postgres.SendBatch(ctx, conn, batch)
}

// echoSmall sends many small texts at once, whose buffers a connection keeps, and then
// single ones in those.
func echoSmall(ctx context.Context, conn *pgx.Conn, worker, i int) error {
	const statements = 60
	batch := new(pgx.Batch)
	text := func(n int) string { return fmt.Sprintf("worker %d, batch %d, text %d: some more of it", worker, i, n) }
	for n := range statements {
		batch.Queue(`SELECT $1::text`, text(n)).QueryRow(func(row pgx.Row) error { return isText(row, text(n)) })
	}
	if err := postgres.SendBatch(ctx, conn, batch); err != nil {
		return err
	}
	for n := range statements {
		if err := isText(conn.QueryRow(ctx, `SELECT $1::text`, text(n)), text(n)); err != nil {
			return err
		}
	}
	return nil
}

func isText(row pgx.Row, want string) error {
	var got string
	if err := row.Scan(&got); err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%q has come back instead of %q", got, want)
	}
	return nil
}
