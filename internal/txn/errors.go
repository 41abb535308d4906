package txn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stockroom/stockroom/internal/postgres"
)

// SQLSTATEs (PostgreSQL, appendix A) that mean something to a unit of work.
const (
	stateSerializationFailure = "40001"
	stateDeadlockDetected     = "40P01"
	stateQueryCanceled        = "57014"
	stateLockNotAvailable     = "55P03"
)

// conflictOf returns the SQLSTATE of err where that says that the same
// transaction may succeed when it is tried again.
func conflictOf(err error) (state string, conflict bool) {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return "", false
	}
	return pgErr.Code, pgErr.Code == stateSerializationFailure || pgErr.Code == stateDeadlockDetected
}

// classify gives an error of a statement its meaning. What it does not know it
// leaves as it is.
func classify(ctx context.Context, err error) error {
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &pgErr):
		if (pgErr.Code == stateQueryCanceled || pgErr.Code == stateLockNotAvailable) && ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		if postgres.IsInfrastructure(pgErr) {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return err
	case isConnectionLoss(err):
		return unavailable(ctx, "run a statement", err)
	}
	return err
}

// isConnectionLoss tells whether err comes from the connection, not from the
// database's answer or from the unit's own function.
func isConnectionLoss(err error) bool {
	var netErr net.Error
	var connectErr *pgconn.ConnectError
	return errors.As(err, &connectErr) || errors.As(err, &netErr) && !errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, pgconn.ErrConnClosed)
}

// unavailable reports that the database could not be reached, unless it was the
// caller's own context that ended.
func unavailable(ctx context.Context, doing string, err error) error {
	if ctxErr := ctx.Err(); ctxErr != nil {
		return fmt.Errorf("%s: %w: %w", doing, ctxErr, err)
	}
	if errors.Is(err, postgres.ErrClosed) {
		return fmt.Errorf("%w: %s", ErrClosed, doing)
	}
	if _, conflict := conflictOf(err); conflict {
		return err
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, doing, err)
}

// commitError gives an error of COMMIT its meaning. Only an answer of the
// database says that it has not committed; one that ends the session (FATAL)
// says nothing of what was done before.
func commitError(err error) error {
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &pgErr) && pgErr.SeverityUnlocalized == "ERROR":
		if postgres.IsInfrastructure(pgErr) {
			return fmt.Errorf("%w: commit: %w", ErrUnavailable, err)
		}
		return err
	case errors.Is(err, pgx.ErrTxCommitRollback):
		return err
	case pgconn.SafeToRetry(err): // nothing was sent
		return fmt.Errorf("%w: commit: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", ErrCommitUnknown, err)
}
