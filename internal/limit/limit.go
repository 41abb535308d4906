// Package limit bounds how much database work is done at once, and how many
// callers wait for their turn.
package limit

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// Why a caller got no slot. Apart from these, Acquire returns only the error of
// the caller's own context.
var (
	// ErrBusy is what ErrQueueFull and ErrWaitedTooLong have in common.
	ErrBusy = errors.New("busy")
	// ErrQueueFull says that as many callers wait already as may.
	ErrQueueFull = fmt.Errorf("%w: the queue for database work is full", ErrBusy)
	// ErrWaitedTooLong says that no slot came free in time.
	ErrWaitedTooLong = fmt.Errorf("%w: no slot for database work came free in time", ErrBusy)
	// ErrClosed says that the gate was closed, before or while the caller waited.
	ErrClosed = errors.New("the gate for database work is closed")
)

// Gate hands out a fixed number of slots, first come, first served, to callers
// of whom a bounded number wait for a bounded time. It is safe for concurrent
// use.
type Gate struct {
	slots       int
	queueLength int
	maxWait     time.Duration

	sem    *semaphore.Weighted
	closed context.Context //nolint:containedctx // ends when the gate is closed, and with it every wait
	close  context.CancelFunc

	inUse   atomic.Int64
	waiting atomic.Int64

	waits, queueFull, waitedTooLong atomic.Int64
}

// NewGate returns a gate of so many slots, for which at most queueLength callers
// wait, each at most maxWait. With a queueLength of 0 nobody waits.
func NewGate(slots, queueLength int, maxWait time.Duration) *Gate {
	if slots < 1 || queueLength < 0 || maxWait <= 0 {
		panic(fmt.Sprintf("limit: NewGate(%d, %d, %v)", slots, queueLength, maxWait))
	}
	g := &Gate{slots: slots, queueLength: queueLength, maxWait: maxWait, sem: semaphore.NewWeighted(int64(slots))}
	g.closed, g.close = context.WithCancel(context.Background())
	return g
}

// Slot is leave to do one transaction's work at a time.
type Slot struct {
	// The gate, until the slot is released. A slot is a pointer of its own, not
	// a reused one, so that a second Release can never free somebody else's.
	gate   atomic.Pointer[Gate]
	waited time.Duration
}

// Release gives the slot back. Further calls do nothing.
func (s *Slot) Release() {
	if g := s.gate.Swap(nil); g != nil {
		g.inUse.Add(-1) // before the slot is free: never more in use than there are
		g.sem.Release(1)
	}
}

// Waited returns how long the caller waited for the slot: 0 if it was free.
func (s *Slot) Waited() time.Duration { return s.waited }

// Acquire returns a slot, which the caller has to release. It waits if none is
// free or others wait already. A caller that gives up leaves no trace.
func (g *Gate) Acquire(ctx context.Context) (*Slot, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if slot, ok := g.TryAcquire(); ok {
		return slot, nil
	}
	place, err := g.Enter()
	if err != nil {
		return nil, err
	}
	defer place.Leave()
	return place.Acquire(ctx)
}

// TryAcquire returns a slot if one is free, nobody waits for it and the gate is
// not closed. The caller has to release it.
func (g *Gate) TryAcquire() (*Slot, bool) {
	if g.closed.Err() != nil || !g.sem.TryAcquire(1) {
		return nil, false
	}
	return g.take(0), true
}

func (g *Gate) take(waited time.Duration) *Slot {
	g.inUse.Add(1)
	slot := &Slot{waited: waited}
	slot.gate.Store(g)
	return slot
}

// Wait returns a slot, which the caller has to release, for those who have places
// of their own and each see to how long they wait. Apart from the error of ctx it
// returns only ErrClosed.
func (g *Gate) Wait(ctx context.Context) (*Slot, error) {
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.closed, cancel)() //nolint:contextcheck // wait watches the caller's context
	if err := g.sem.Acquire(wait, 1); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, ErrClosed
	}
	if g.closed.Err() != nil { // the slot came free before the wait was called off
		g.sem.Release(1)
		return nil, ErrClosed
	}
	g.waits.Add(1)
	return g.take(0), nil
}

// Place is a place among those who wait. Acquire takes one by itself; it stands
// alone for those who share a transaction, and so a slot: each of them enters, one
// waits for the slot, and each leaves when the transaction begins.
type Place struct {
	gate    *Gate
	entered time.Time
	left    atomic.Bool
}

// Enter takes a place, which the caller has to leave. It never waits: the error
// is ErrQueueFull or ErrClosed.
func (g *Gate) Enter() (*Place, error) {
	if g.closed.Err() != nil {
		return nil, ErrClosed
	}
	if place := g.enter(); place != nil {
		return place, nil
	}
	g.queueFull.Add(1)
	return nil, ErrQueueFull
}

// EnterOrTake is Enter for who would rather wait, though a slot may be free: where all
// places are taken it takes one, as TryAcquire does.
func (g *Gate) EnterOrTake() (*Place, *Slot, error) {
	if g.closed.Err() != nil {
		return nil, nil, ErrClosed
	}
	if place := g.enter(); place != nil {
		return place, nil, nil
	}
	if slot, ok := g.TryAcquire(); ok {
		return nil, slot, nil
	}
	g.queueFull.Add(1)
	return nil, nil, ErrQueueFull
}

// enter takes a place, nil where there is none.
func (g *Gate) enter() *Place {
	for {
		n := g.waiting.Load()
		if n >= int64(g.queueLength) {
			return nil
		}
		if g.waiting.CompareAndSwap(n, n+1) {
			return &Place{gate: g, entered: time.Now()}
		}
	}
}

// Leave gives the place back, and returns for how long it was taken. Further calls
// only do that.
func (p *Place) Leave() time.Duration {
	if !p.left.Swap(true) {
		p.gate.waiting.Add(-1)
	}
	return time.Since(p.entered)
}

// Deadline is until when one may wait.
func (p *Place) Deadline() time.Time { return p.entered.Add(p.gate.maxWait) }

// GiveUp gives the place back since the deadline has passed: ErrWaitedTooLong.
func (p *Place) GiveUp() error {
	p.Leave()
	p.gate.waitedTooLong.Add(1)
	return ErrWaitedTooLong
}

// Acquire waits for a slot, which the caller has to release, and keeps the
// place. The longest wait counts from Enter.
func (p *Place) Acquire(ctx context.Context) (*Slot, error) {
	g := p.gate
	wait, cancel := context.WithDeadline(ctx, p.Deadline())
	defer cancel()
	defer context.AfterFunc(g.closed, cancel)() //nolint:contextcheck // wait watches the caller's context

	if err := g.sem.Acquire(wait, 1); err != nil {
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case g.closed.Err() != nil:
			return nil, ErrClosed
		default:
			g.waitedTooLong.Add(1)
			return nil, ErrWaitedTooLong
		}
	}
	if g.closed.Err() != nil { // the slot came free before the wait was called off
		g.sem.Release(1)
		return nil, ErrClosed
	}
	g.waits.Add(1)
	return g.take(time.Since(p.entered)), nil
}

// State is what a gate looks like at one moment, and what it did since it was
// made.
type State struct {
	Slots       int // how many there are
	InUse       int // of them
	QueueLength int // how many may wait
	Waiting     int // how many do

	Waits         int64 // slots that were waited for
	QueueFull     int64 // callers sent away since too many waited
	WaitedTooLong int64 // callers sent away since they waited too long
}

// State returns the state. Its numbers are each right, but not of one instant.
func (g *Gate) State() State {
	return State{
		Slots: g.slots, InUse: int(g.inUse.Load()),
		QueueLength: g.queueLength, Waiting: int(g.waiting.Load()),
		Waits: g.waits.Load(), QueueFull: g.queueFull.Load(), WaitedTooLong: g.waitedTooLong.Load(),
	}
}

// Close sends away everybody who waits or comes later, with ErrClosed. Slots in
// use stay so until they are released; Close does not wait for them. Further
// calls do nothing.
func (g *Gate) Close() { g.close() }
