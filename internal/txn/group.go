package txn

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/stockroom/stockroom/internal/limit"
)

// Group runs operations that wait at the same moment together, in one transaction
// and with one slot: where the database is the bottleneck, they share its round
// trips and its commit. An operation that comes alone waits for nobody.
//
// While an operation waits, it has a place in the gate's queue like any other
// work: it is refused where that is full, and sent away after as long.
type Group[T any] struct {
	manager *Manager
	rules   GroupRules[T]
	run     func(ctx context.Context, ops []*Op[T])

	mu      sync.Mutex
	queue   []*Op[T]
	workers int
	running []*underway // transactions at this moment, in the order of their begins
	ended   int         // transactions so far
	last    int         // operations in the one that ended last
	// overdue calls hurry for what waits behind a transaction, at overdueAt; zero: it is
	// not set.
	overdue   *time.Timer
	overdueAt time.Time
	// waiting ends when nothing is queued any more, and with it the workers' waits
	// for a slot.
	waiting context.Context //nolint:containedctx // not of a call
	idle    context.CancelFunc
}

// GroupRules are how operations go together.
type GroupRules[T any] struct {
	Workers int // transactions at once, but for those that hang, or begin for want of a place to wait
	Size    int // operations in one at most
	// Fits tells whether one more operation may go with those chosen already. One
	// that may not waits for the next transaction.
	Fits func(chosen []*Op[T], next T) bool
}

// Op is an operation of a group.
type Op[T any] struct {
	Value T
	Err   error // what Do returns, for run to set where it fails

	ctx   context.Context //nolint:containedctx // of the caller who waits for it
	until time.Time       // when it has to end; zero: never
	tell  func()          // tells the caller the outcome; nil: it is he who runs it
	place *limit.Place    // nil: it does not wait in line
	timer *time.Timer     // calls it off at the end of its wait; nil: the caller does
	batch *batch          // nil while it is queued
	left  bool            // its caller has; guarded by Group.mu, as batch is
	ended int             // transactions when it was queued
	alone bool            // see RunAlone
}

// RunAlone sets Err to what one operation of several ends with in a transaction of its
// own, which fn runs: the circuit breaker counts that one, and so not the operation.
func (op *Op[T]) RunAlone(fn func() error) { op.Err, op.alone = fn(), true }

// batch is what those have in common who are run together.
type batch struct {
	callers int // who have not left; guarded by Group.mu
	cancel  context.CancelCauseFunc
}

// underway is a transaction.
type underway struct {
	operations int
	began      time.Time
}

// NewGroup returns a group whose operations run runs. It is given a context that
// ends with the first deadline of theirs, or when all their callers have left, and
// in which the first transaction begins with the slot that the group has.
func NewGroup[T any](manager *Manager, rules GroupRules[T], run func(ctx context.Context, ops []*Op[T])) *Group[T] {
	return &Group[T]{manager: manager, rules: rules, run: run}
}

// Do runs an operation, alone or with others, and returns its error, or else why
// it was not run: that of the gate, of ctx, ErrBreakerOpen or ErrClosed. A caller
// whose ctx ends while the operation runs still waits for its outcome, which then
// does not take long.
func (g *Group[T]) Do(ctx context.Context, value T) error {
	if err := g.refuses(ctx); err != nil {
		return err
	}
	op := &Op[T]{Value: value, ctx: ctx}
	op.until, _ = ctx.Deadline()
	if slot, ok := g.beginAlone(ctx); ok {
		g.work(slot, []*Op[T]{op})
		return op.Err
	}
	done := make(chan struct{})
	op.tell = func() { close(done) }
	slot, err := g.enqueue(op, nil)
	if err != nil {
		return err
	}
	if slot != nil {
		op.tell = nil
		g.work(slot, []*Op[T]{op})
		return op.Err
	}
	return g.await(op, done)
}

// Start is Do for a caller who does not wait in it: finish is called with the error,
// once, by whoever comes to know it, which may be Start itself. finish must not take
// long: others wait for the same goroutine. The operation ends after timeout, or
// when leave is called, whose reason is then the cause: it is for a caller who has gone.
// ctx only has its values.
func (g *Group[T]) Start(ctx context.Context, timeout time.Duration, value T, finish func(error)) (leave func(reason error)) {
	if err := g.refuses(ctx); err != nil {
		finish(err)
		return func(error) {}
	}
	ctx, end := context.WithCancelCause(context.WithoutCancel(ctx))
	op := &Op[T]{Value: value, ctx: ctx, until: time.Now().Add(timeout)}
	op.tell = func() {
		end(nil)
		finish(op.Err)
	}
	if slot, ok := g.beginAlone(ctx); ok {
		go g.work(slot, []*Op[T]{op})
	} else if slot, err := g.enqueue(op, func() {
		if g.withdraw(op) {
			op.Err = noSlot(op.place.GiveUp())
			op.tell()
		}
	}); err != nil {
		op.Err = err
		op.tell()
	} else if slot != nil {
		go g.work(slot, []*Op[T]{op})
	}
	return func(reason error) {
		end(reason)
		if g.withdraw(op) {
			op.Err = reason
			op.tell()
		} else {
			g.leave(op)
		}
	}
}

// refuses returns why an operation is not even queued.
func (g *Group[T]) refuses(ctx context.Context) error {
	switch {
	case ctx.Value(insideKey{}) != nil:
		return ErrNested
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return g.manager.breaker.refusal()
}

// beginAlone returns a slot, if nobody waits and there are fewer workers than
// there may be. The caller is one of them then, for one operation.
func (g *Group[T]) beginAlone(ctx context.Context) (slot *limit.Slot, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) > 0 || !g.mayBegin(1) {
		return nil, false
	}
	if gate := g.manager.gate; gate != nil {
		if slot, ok = gate.TryAcquire(); !ok {
			return nil, false
		}
	}
	g.workers++
	if slot != nil {
		g.manager.metrics.SlotWaited(ctx, 0)
	}
	return slot, true
}

// enqueue has an operation wait for the next transaction. tooLong, if not nil, is
// called when it has waited for as long as it may. Where there is no place to wait but a
// slot is free, it need not, though it would better go with others: then the slot is
// returned, and the caller is one more worker.
func (g *Group[T]) enqueue(op *Op[T], tooLong func()) (*limit.Slot, error) {
	if gate := g.manager.gate; gate != nil {
		place, slot, err := gate.EnterOrTake()
		if err != nil {
			return nil, noSlot(err)
		}
		if slot != nil {
			g.manager.metrics.SlotWaited(op.ctx, 0)
			g.mu.Lock()
			defer g.mu.Unlock()
			g.workers++
			return slot, nil
		}
		op.place = place
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if op.place != nil && tooLong != nil {
		op.timer = time.AfterFunc(time.Until(op.place.Deadline()), tooLong)
	}
	if len(g.queue) == 0 {
		g.waiting, g.idle = context.WithCancel(context.Background()) //nolint:gosec // by checkIdle
	}
	op.ended = g.ended
	g.queue = append(g.queue, op)
	if g.mayBegin(len(g.queue)) {
		g.workers++
		go g.work(nil, nil)
	} else {
		g.watch()
	}
	return nil, nil
}

// mayBegin tells whether there may be one more worker for so many operations. Others
// who are under way are let end first, since a transaction costs more than an operation
// and the callers of theirs will come back: but not where nobody goes with anybody, or as
// many wait as can go together, or those take too long. It is called under mu.
func (g *Group[T]) mayBegin(operations int) bool {
	if g.workers == 0 || g.workers-g.hanging() >= g.rules.Workers {
		return g.workers == 0
	}
	alone := g.last <= 1 && !slices.ContainsFunc(g.running, func(u *underway) bool { return u.operations > 1 })
	return alone || operations >= g.rules.Size || len(g.running) == g.workers && time.Since(g.running[len(g.running)-1].began) >= patience
}

// patience is how long an operation waits for a transaction that is under way: that
// may be waiting for a lock.
const patience = 5 * time.Millisecond

// hangs is how long a transaction that is under way counts as one of those that there
// may be at once. After that it waits for something of its own, most likely a lock, which
// is no reason to keep others waiting: then only the slots bound how many there are.
const hangs = 100 * time.Millisecond

// hanging counts the transactions that hang. It is called under mu.
func (g *Group[T]) hanging() (n int) {
	if g.workers < g.rules.Workers {
		return 0 // nobody is kept waiting
	}
	for n < len(g.running) && time.Since(g.running[n].began) >= hangs {
		n++
	}
	return n
}

// watch has what is queued begin when those who are under way take too long. It is
// called under mu.
func (g *Group[T]) watch() {
	if len(g.queue) == 0 || len(g.running) == 0 || len(g.running) < g.workers {
		return
	}
	due := g.running[len(g.running)-1].began.Add(patience)
	if n := g.hanging(); g.workers-n >= g.rules.Workers {
		due = g.running[n].began.Add(hangs)
	}
	if !g.overdueAt.IsZero() && !due.Before(g.overdueAt) {
		return
	}
	g.overdueAt = due
	if g.overdue == nil {
		g.overdue = time.AfterFunc(time.Until(due), g.hurry)
	} else {
		g.overdue.Reset(time.Until(due))
	}
}

// hurry begins with what is queued, if there may be one more worker by now.
func (g *Group[T]) hurry() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.overdueAt = time.Time{}
	if len(g.queue) > 0 && g.mayBegin(len(g.queue)) {
		g.workers++
		go g.work(nil, nil)
	} else {
		g.watch()
	}
}

// await returns when a queued operation has been run, or will not be; done is closed
// in the first case.
func (g *Group[T]) await(op *Op[T], done <-chan struct{}) error {
	if op.place != nil {
		defer op.place.Leave()
	}
	var tooLong <-chan time.Time
	if op.place != nil {
		timer := time.NewTimer(time.Until(op.place.Deadline()))
		defer timer.Stop()
		tooLong = timer.C
	}
	select {
	case <-done:
		return op.Err
	case <-op.ctx.Done():
		if g.withdraw(op) {
			return op.ctx.Err()
		}
	case <-tooLong:
		if g.withdraw(op) {
			return noSlot(op.place.GiveUp())
		}
	}
	select {
	case <-done:
	case <-op.ctx.Done():
		g.leave(op)
		<-done
	}
	return op.Err
}

// withdraw takes an operation back that has not begun.
func (g *Group[T]) withdraw(op *Op[T]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.queue, op)
	if i < 0 {
		return false
	}
	g.queue = slices.Delete(g.queue, i, i+1)
	op.leaveQueue()
	g.checkIdle()
	if len(g.running) > 0 && g.ended == op.ended {
		// The database has not answered anybody for as long as this one waited, up to its
		// deadline if that is the cause. It would
		// count as a failure if it had been sent; it must not be none for having waited.
		g.manager.breaker.report(context.Cause(op.ctx))
	}
	return true
}

// leaveQueue ends the wait of an operation, and returns how long that was. It is called
// under mu.
func (op *Op[T]) leaveQueue() (waited time.Duration) {
	if op.timer != nil {
		op.timer.Stop()
	}
	if op.place != nil {
		waited = op.place.Leave()
	}
	return waited
}

// checkIdle is called under mu whenever the queue has become shorter.
func (g *Group[T]) checkIdle() {
	if len(g.queue) == 0 {
		g.idle()
	}
}

// leave says that an operation's caller has gone while it is run. The last of
// those who are run together calls it off.
func (g *Group[T]) leave(op *Op[T]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	op.left = true
	if op.batch == nil {
		return // it is alone, or was never run
	}
	op.batch.callers--
	if op.batch.callers == 0 {
		op.batch.cancel(context.Cause(op.ctx))
	}
}

// work runs ops, where there are some, with slot, and then what is queued: in a
// goroutine of its own, where this one is of a caller who lent a hand and waits for his
// answer.
func (g *Group[T]) work(slot *limit.Slot, ops []*Op[T]) {
	if ops != nil {
		lent := ops[0].tell == nil
		g.perform(slot, ops)
		if !g.goOn() {
			return
		}
		if lent {
			go g.work(nil, nil)
			return
		}
	}
	for {
		slot, err := g.awaitSlot()
		switch {
		case errors.Is(err, errNobodyWaits): // whoever has come since needs a slot all the same
		case err != nil:
			g.refuse(err)
		default:
			if ops := g.choose(); len(ops) > 0 {
				g.perform(slot, ops)
			} else if slot != nil {
				slot.Release()
			}
		}
		if !g.goOn() {
			return
		}
	}
}

// goOn tells a worker whether there is something to do at once. If not, it is none any
// more, and what is queued goes with the next one.
func (g *Group[T]) goOn() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.workers--
	if len(g.queue) == 0 || !g.mayBegin(len(g.queue)) {
		g.watch()
		return false
	}
	g.workers++
	return true
}

var errNobodyWaits = errors.New("txn: nobody waits any more")

// awaitSlot waits for a slot as long as anything is queued, or else returns
// errNobodyWaits; each operation sees to it itself that it does not wait for too long.
func (g *Group[T]) awaitSlot() (*limit.Slot, error) {
	if g.manager.gate == nil {
		return nil, nil
	}
	g.mu.Lock()
	waiting := g.waiting
	g.mu.Unlock()
	if slot, ok := g.manager.gate.TryAcquire(); ok {
		return slot, nil
	}
	slot, err := g.manager.gate.Wait(waiting)
	if waiting.Err() != nil {
		if slot != nil {
			slot.Release()
		}
		return nil, errNobodyWaits
	}
	return slot, err
}

// refuse ends everything that is queued, since there will be no slot.
func (g *Group[T]) refuse(err error) {
	g.mu.Lock()
	refused := g.queue
	for _, op := range refused {
		op.Err = noSlot(err)
		op.leaveQueue()
	}
	g.queue = nil
	g.checkIdle()
	g.mu.Unlock()
	for _, op := range refused {
		op.tell()
	}
}

// choose takes the operations that are run next.
func (g *Group[T]) choose() []*Op[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	chosen := make([]*Op[T], 0, min(len(g.queue), g.rules.Size))
	left := g.queue[:0]
	for _, op := range g.queue {
		// One whose caller is gone is being withdrawn, and must not end the others
		// with its deadline.
		if len(chosen) == g.rules.Size || op.ctx.Err() != nil || len(chosen) > 0 && !g.rules.Fits(chosen, op.Value) {
			left = append(left, op)
			continue
		}
		chosen = append(chosen, op)
		if waited := op.leaveQueue(); op.place != nil {
			g.manager.metrics.SlotWaited(op.ctx, waited)
		}
	}
	clear(g.queue[len(left):])
	g.queue = left
	if len(chosen) > 0 {
		g.checkIdle()
		share(chosen)
	}
	return chosen
}

// perform runs ops with slot, and tells their callers. Those who had to end with
// another one's deadline are run once more.
func (g *Group[T]) perform(slot *limit.Slot, ops []*Op[T]) {
	for len(ops) > 0 {
		ctx, cancel := g.contextOf(ops)
		transaction := g.begin(len(ops))
		g.runSafely(withSlot(ctx, slot), ops)
		g.end(transaction)
		if slot != nil {
			slot.Release()
			slot = nil
		}
		var again []*Op[T]
		counted := false // the transaction, which is for one of them
		for _, op := range ops {
			switch {
			case ctx.Err() != nil && op.hasMoreTime(ctx) &&
				errors.Is(op.Err, context.DeadlineExceeded) && !errors.Is(op.Err, ErrCommitUnknown):
				again = append(again, op)
				continue
			case op.alone:
			case !counted:
				counted = true
			case !errors.Is(op.Err, errSessionLost):
				// A session that was lost is one failure for all of them: five on one
				// connection do not make the database be down.
				g.manager.breaker.report(op.Err)
			}
			if op.tell != nil {
				op.tell()
			}
		}
		cancel()
		for _, op := range again {
			op.Err, op.alone = nil, false // run need not set Err where it succeeds
		}
		g.mu.Lock()
		share(again)
		g.mu.Unlock()
		ops = again
	}
}

// begin notes that a transaction begins.
func (g *Group[T]) begin(operations int) *underway {
	u := &underway{operations: operations, began: time.Now()}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running = append(g.running, u)
	g.watch()
	return u
}

// end notes that a transaction has ended.
func (g *Group[T]) end(u *underway) {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.running, u)
	g.running = slices.Delete(g.running, i, i+1)
	g.ended++
	g.last = u.operations
}

// hasMoreTime tells whether an operation may go on for longer than ctx.
func (op *Op[T]) hasMoreTime(ctx context.Context) bool {
	if op.ctx.Err() != nil {
		return false
	}
	end, _ := ctx.Deadline()
	return op.until.IsZero() || op.until.After(end)
}

// share makes ops those who are run together. It is called under mu.
func share[T any](ops []*Op[T]) {
	common := &batch{cancel: func(error) {}} // until contextOf
	for _, op := range ops {
		op.batch = common
		if !op.left {
			common.callers++
		}
	}
}

// contextOf returns the context in which ops are run.
func (g *Group[T]) contextOf(ops []*Op[T]) (context.Context, context.CancelFunc) {
	first := ops[0]
	if first.batch == nil { // it has begun alone
		if first.tell == nil {
			return first.ctx, func() {} // and in its caller's goroutine
		}
		return context.WithDeadline(first.ctx, first.until)
	}
	ctx, cancelCause := context.WithCancelCause(context.WithoutCancel(first.ctx))
	cancel := func() { cancelCause(nil) }
	g.mu.Lock()
	first.batch.cancel = cancelCause
	if first.batch.callers == 0 {
		cancelCause(context.Cause(first.ctx))
	}
	g.mu.Unlock()
	var earliest time.Time
	for _, op := range ops {
		if !op.until.IsZero() && (earliest.IsZero() || op.until.Before(earliest)) {
			earliest = op.until
		}
	}
	if earliest.IsZero() {
		return ctx, cancel
	}
	ctx, end := context.WithDeadline(ctx, earliest)
	return ctx, func() { end(); cancel() }
}

func (g *Group[T]) runSafely(ctx context.Context, ops []*Op[T]) {
	defer func() {
		if r := recover(); r != nil {
			for _, op := range ops {
				op.Err = fmt.Errorf("txn: an operation of a group panicked: %v\n%s", r, debug.Stack())
			}
		}
	}()
	g.run(ctx, ops)
}

type slotKey struct{}

// lentSlot is a slot for the first transaction in a context.
type lentSlot struct {
	mu   sync.Mutex
	slot *limit.Slot
}

// withSlot lends a slot to the first transaction in the context that is returned.
func withSlot(ctx context.Context, slot *limit.Slot) context.Context {
	if slot == nil {
		return ctx
	}
	return context.WithValue(ctx, slotKey{}, &lentSlot{slot: slot})
}

// takeSlot returns the slot that was lent in ctx, unless it has been taken.
func takeSlot(ctx context.Context) *limit.Slot {
	lent, ok := ctx.Value(slotKey{}).(*lentSlot)
	if !ok {
		return nil
	}
	lent.mu.Lock()
	defer lent.mu.Unlock()
	slot := lent.slot
	lent.slot = nil
	return slot
}
