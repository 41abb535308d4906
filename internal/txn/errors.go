package txn

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stockroom/stockroom/internal/limit"
	"github.com/stockroom/stockroom/internal/postgres"
)

// conflictOf returns the SQLSTATE of err where that says that the same
// transaction may succeed when it is tried again.
func conflictOf(err error) (state string, conflict bool) {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return "", false
	}
	switch postgres.MeaningOf(pgErr.Code) {
	case postgres.Conflict:
		return pgErr.Code, true
	case postgres.LockTimeout: // unless it was called off, see classifyAnswer
		return pgErr.Code, !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
	default:
		return pgErr.Code, false
	}
}

// classify gives an error of a unit's function its meaning; conn is the unit's
// connection. What it does not know it leaves as it is.
func classify(ctx context.Context, conn *pgx.Conn, err error) error {
	if err == nil {
		return nil
	}
	if pgErr, answered := errors.AsType[*pgconn.PgError](err); answered {
		return classifyAnswer(ctx, pgErr, err)
	}
	// pgx closes a connection that fails; the error itself could as well be the
	// function's own.
	if conn.IsClosed() {
		if err = unavailable(ctx, "run a statement", err); errors.Is(err, ErrUnavailable) {
			return sessionLost(err)
		}
	}
	return err
}

// errSessionLost marks the errors of a session that has ended: they say something of the
// database once, however many operations it was at work for.
var errSessionLost = errors.New("txn: the session has ended")

func sessionLost(err error) error { return fmt.Errorf("%w: %w", errSessionLost, err) }

// classifyAnswer is classify for an answer of the database.
func classifyAnswer(ctx context.Context, pgErr *pgconn.PgError, err error) error {
	meaning := postgres.MeaningOf(pgErr.Code)
	switch {
	case (meaning == postgres.Cancelled || meaning == postgres.LockTimeout) && ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	case postgres.IsInfrastructure(err) && pgErr.SeverityUnlocalized != "ERROR":
		return sessionLost(fmt.Errorf("%w: %w", ErrUnavailable, err))
	case postgres.IsInfrastructure(err):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
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
	if errors.Is(err, context.DeadlineExceeded) {
		// pgx's own, of a try to connect. It must not be taken for the caller's.
		return fmt.Errorf("%w: %s: %v", ErrUnavailable, doing, err) //nolint:errorlint // see above
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, doing, err)
}

// errNoSlot marks the errors of the gate: they say nothing of the database.
var errNoSlot = errors.New("txn: no slot")

// noSlot gives an error of the gate its meaning: that it has been closed is the
// same to callers as that the connections have.
func noSlot(err error) error {
	if errors.Is(err, limit.ErrClosed) {
		return fmt.Errorf("%w: %w: %w", ErrClosed, errNoSlot, err)
	}
	return fmt.Errorf("%w: %w", errNoSlot, err)
}

// commitError gives an error of COMMIT its meaning. Only an answer of the
// database says that it has not committed; one that ends the session (FATAL)
// says nothing of what was done before. What pgx says to be safe to retry is not:
// it loses the error of a connection that ends while it reads the answer.
func commitError(ctx context.Context, err error) error {
	pgErr, answered := errors.AsType[*pgconn.PgError](err)
	switch {
	case err == nil:
		return nil
	case answered && pgErr.SeverityUnlocalized == "ERROR":
		return classifyAnswer(ctx, pgErr, err)
	case errors.Is(err, pgx.ErrTxCommitRollback):
		return err
	}
	return sessionLost(fmt.Errorf("%w: %w", ErrCommitUnknown, err))
}
