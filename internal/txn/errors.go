package txn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATE codes (PostgreSQL, appendix A) that mean something to a unit of work.
const (
	stateSerializationFailure = "40001"
	stateDeadlockDetected     = "40P01"
	stateQueryCanceled        = "57014"
	stateReadOnlyTransaction  = "25006" // a primary that has become a standby
	stateLockNotAvailable     = "55P03"
)

// infrastructureStates are the states, and classes of states, in which the
// database itself cannot work, whatever the statement was.
var infrastructureStates = []string{
	"08",                      // connection exception
	"53",                      // insufficient resources: disk full, too many connections
	"57P01", "57P02", "57P03", // shutting down, crashed, starting up
	"57P05",          // idle session timeout
	"58",             // system error: I/O
	"XX001", "XX002", // data or index corrupted
	stateReadOnlyTransaction,
}

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
		if IsInfrastructure(pgErr) {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return err
	case isConnectionLoss(err):
		return unavailable(ctx, "run a statement", err)
	}
	return err
}

// IsInfrastructure tells whether the database itself cannot work now, whatever it
// was asked to do.
func IsInfrastructure(err *pgconn.PgError) bool {
	for _, state := range infrastructureStates {
		if strings.HasPrefix(err.Code, state) {
			return true
		}
	}
	return false
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
		if IsInfrastructure(pgErr) {
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
