package txn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/sony/gobreaker/v2"

	"github.com/stockroom/stockroom/internal/postgres"
)

// ErrBreakerOpen says that the circuit breaker lets nobody near the database for
// now. It is an ErrUnavailable.
var ErrBreakerOpen = fmt.Errorf("%w: the circuit breaker is open", ErrUnavailable)

// Breaker guards the database: after a number of infrastructure failures in a
// row it is open, and everything fails at once; after a while it is half-open and
// lets one transaction through, whose outcome closes or opens it again.
//
// Only what says that the database cannot work is a failure. A caller's mistake,
// a missing row or a conflict is a success, for the database has answered; a full
// queue or a caller that left says nothing either way.
type Breaker struct {
	circuit *gobreaker.CircuitBreaker[struct{}]
}

// NewBreaker returns a closed breaker that opens after so many failures in a row
// and probes after timeout. changed, which may be nil, is told each change of
// state: closed, half-open or open. It must be fast.
func NewBreaker(failures int, timeout time.Duration, changed func(state string)) *Breaker {
	settings := gobreaker.Settings{
		Name:        "database",
		MaxRequests: 1,
		Timeout:     timeout,
		ReadyToTrip: func(counts gobreaker.Counts) bool {
			return int64(counts.ConsecutiveFailures) >= int64(failures)
		},
		IsSuccessful: func(err error) bool { return outcomeOf(err) != failure },
		IsExcluded:   func(err error) bool { return outcomeOf(err) == neither },
	}
	if changed != nil {
		settings.OnStateChange = func(_ string, _, to gobreaker.State) { changed(to.String()) }
	}
	return &Breaker{circuit: gobreaker.NewCircuitBreaker[struct{}](settings)}
}

// State returns closed, half-open or open.
func (b *Breaker) State() string { return b.circuit.State().String() }

// Open tells whether requests for the database fail at once.
func (b *Breaker) Open() bool { return b.circuit.State() == gobreaker.StateOpen }

// refuses tells whether whoever came now would be turned away: the breaker is open,
// or half-open with its probe under way.
func (b *Breaker) refuses() bool {
	if b == nil {
		return false
	}
	switch b.circuit.State() {
	case gobreaker.StateOpen:
		return true
	case gobreaker.StateHalfOpen:
		counts := b.circuit.Counts()
		return counts.Requests > counts.TotalExclusions // those that said nothing are over
	default:
		return false
	}
}

// report counts the end of a request that shared another one's transaction.
func (b *Breaker) report(err error) {
	if outcomeOf(err) == failure {
		_ = b.do(func() error { return err }) // if it is open already, so be it
	}
}

// do runs try unless the breaker is open. A nil breaker lets everything through.
func (b *Breaker) do(try func() error) error {
	if b == nil {
		return try()
	}
	_, err := b.circuit.Execute(func() (struct{}, error) { return struct{}{}, try() })
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return ErrBreakerOpen
	}
	return err
}

// outcome is what the end of a transaction says of the database.
type outcome int

const (
	success outcome = iota
	failure
	neither
)

func outcomeOf(err error) outcome {
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
		return success
	case errors.Is(err, errNoSlot), errors.Is(err, ErrClosed):
		return neither // it was not asked
	case errors.As(err, &pgErr) && postgres.MeaningOf(pgErr.Code) == postgres.Full:
		return success // it can still be read
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrCommitUnknown):
		return failure
	case errors.As(err, &pgErr) && (!errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)):
		return success // it answered, be it that it was called off when the time was up
	case errors.Is(err, context.DeadlineExceeded):
		return failure // it did not answer in time
	case errors.Is(err, context.Canceled):
		return neither // the caller left
	}
	return success
}
