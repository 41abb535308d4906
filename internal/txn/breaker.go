package txn

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/sony/gobreaker/v2"

	"github.com/stockroom/stockroom/internal/postgres"
)

// ErrBreakerOpen says that the circuit breaker lets nobody near the database for
// now. It is an ErrUnavailable.
var ErrBreakerOpen = fmt.Errorf("%w: the circuit breaker is open", ErrUnavailable)

// openError is an ErrBreakerOpen that knows when the breaker will probe.
type openError struct {
	retryAfter time.Duration
}

func (e *openError) Error() string { return ErrBreakerOpen.Error() }

func (e *openError) Unwrap() error { return ErrBreakerOpen }

// RetryAfter returns how long whoever got err does well to wait: until the circuit
// breaker that err is of lets somebody through. It is 0 where err does not say.
func RetryAfter(err error) time.Duration {
	if open, ok := errors.AsType[*openError](err); ok {
		return open.retryAfter
	}
	return 0
}

// Breaker guards the database: after a number of infrastructure failures in a
// row it is open, and everything fails at once; after a while it is half-open and
// lets one transaction through, whose outcome closes or opens it again.
//
// Only what says that the database cannot work is a failure. A caller's mistake,
// a missing row or a conflict is a success, for the database has answered; a full
// queue or a caller that left says nothing either way.
type Breaker struct {
	circuit *gobreaker.CircuitBreaker[struct{}]
	probes  atomic.Pointer[time.Time] // when it lets the next one through, if it is open
}

// NewBreaker returns a closed breaker that opens after so many failures in a row
// and probes after timeout. changed, which may be nil, is told each change of
// state: closed, half-open or open. It must be fast.
func NewBreaker(failures int, timeout time.Duration, changed func(state string)) *Breaker {
	b := &Breaker{}
	settings := gobreaker.Settings{
		Name:        "database",
		MaxRequests: 1,
		Timeout:     timeout,
		ReadyToTrip: func(counts gobreaker.Counts) bool {
			return int64(counts.ConsecutiveFailures) >= int64(failures)
		},
		IsSuccessful: func(err error) bool { return outcomeOf(err) != failure },
		IsExcluded:   func(err error) bool { return outcomeOf(err) == neither },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				probes := time.Now().Add(timeout)
				b.probes.Store(&probes)
			}
			if changed != nil {
				changed(to.String())
			}
		},
	}
	b.circuit = gobreaker.NewCircuitBreaker[struct{}](settings)
	return b
}

// State returns closed, half-open or open.
func (b *Breaker) State() string { return b.circuit.State().String() }

// Open tells whether requests for the database fail at once.
func (b *Breaker) Open() bool { return b.circuit.State() == gobreaker.StateOpen }

// refusal returns with what whoever came now would be turned away: the breaker is
// open, or half-open with its probe under way. It is nil for everybody else.
func (b *Breaker) refusal() error {
	if b == nil {
		return nil
	}
	switch b.circuit.State() {
	case gobreaker.StateOpen:
		return b.openError()
	case gobreaker.StateHalfOpen:
		counts := b.circuit.Counts()
		if counts.Requests > counts.TotalExclusions { // those that said nothing are over
			return ErrBreakerOpen
		}
	case gobreaker.StateClosed:
	}
	return nil
}

func (b *Breaker) openError() error {
	return &openError{retryAfter: time.Until(*b.probes.Load())}
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
	switch {
	case errors.Is(err, gobreaker.ErrOpenState):
		return b.openError()
	case errors.Is(err, gobreaker.ErrTooManyRequests):
		return ErrBreakerOpen // how long the probe takes is not known
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
