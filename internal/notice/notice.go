// Package notice tells the servers of one database what each of them changes, so
// that none keeps in its read cache what another has replaced.
//
// A server sends its notices after its commits, never inside of them: NOTIFY takes
// a lock that would make the commits of all servers wait for each other. It sends
// them on one connection of its own, each after the one before it, numbered: while
// one is on its way the next gathers. Where there is nothing to tell, an empty one
// says that, again and again. Each server hears all of them, its own as well, in
// the order in which they were committed, and works out from that up to when it has
// heard everything (see hearing). That, not the notices' promptness, is what bounds
// how old a cached item may be: a server that is frozen, cut off or in doubt of a
// commit does not stop the others, but keeps them from trusting what they hold
// for longer than they would without notices.
//
// Where that connection is lost, notices go over the pool until there is a new one:
// who can write can also tell.
package notice

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/postgres"
	"github.com/stockroom/stockroom/internal/telemetry"
)

// ErrClosed says that the notices have been closed.
var ErrClosed = errors.New("notice: closed")

const (
	channel = "stockroom"
	// group is what the advisory locks have in common by which servers find each
	// other: "stoc" in ASCII.
	group int32 = 0x73746f63

	// A server speaks at least so many times in the staleness that is allowed. What
	// it hears is up to three of its messages old (see hearing); the rest is for delays.
	beatsPerStaleness = 5
	// Not more often than a database should be bothered with, nor so seldom that a
	// server with a smaller limit would have to wait for it.
	minBeat, maxBeat = 50 * time.Millisecond, 200 * time.Millisecond
	// gap is how long after a message the next one waits for company.
	gap = 10 * time.Millisecond

	firstRetry, lastRetry = 10 * time.Millisecond, time.Second
	connectTimeout        = 5 * time.Second
	sendTimeout           = 5 * time.Second
	farewellTimeout       = time.Second
	closeTimeout          = time.Second
	// How long our own notices may take to come back before that is worth a warning.
	echoTimeout = 5 * time.Second
)

// Cache is what is told of the changes of other servers; see readcache.Cache.
type Cache interface {
	Invalidate(keys ...item.Key)
	Reset()
	Distrust()
	Heard(until time.Time)
}

// Config says how notices are given and taken. All of it is needed but what says
// otherwise.
type Config struct {
	Database     *postgres.DB
	Cache        Cache // nil: there is none, and what others change is of no interest
	MaxStaleness time.Duration
	Metrics      *telemetry.Metrics // nil counts nothing
	Log          *slog.Logger
}

// Notices gives the notices of one server and takes those of the others. Its
// methods may be called by several goroutines.
type Notices struct {
	config Config
	id     id
	start  time.Time // carries a monotonic reading, from which the times in messages count
	beat   time.Duration
	outbox outbox

	life, abort     context.Context //nolint:containedctx // they are the loop's: when it should end, and when it must
	endLife, endNow context.CancelFunc
	done            chan struct{} // closed when the loop has ended
	said            chan struct{} // closed when hello was said, or cannot be
	sayOnce         sync.Once

	listening atomic.Bool
	peers     atomic.Int64

	// What follows is the loop's alone.
	hearing   *hearing
	number    uint64    // of the next message
	nextBeat  time.Time // when it is due
	nextSend  time.Time // before which it is not
	connected time.Time // when the connection was opened
	down      bool      // and this was logged
	warned    warned
}

// warned remembers what has been logged and is not worth a second line.
type warned struct{ garbage, refused, echo bool }

// Start begins to give and take notices, and tries to until the caller calls Close.
func Start(config Config) *Notices {
	if config.Metrics == nil {
		config.Metrics = telemetry.NoMetrics()
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // it never fails
	n := &Notices{
		config: config,
		id:     id(binary.NativeEndian.Uint64(random[:])),
		start:  time.Now(),
		beat:   min(max(config.MaxStaleness/beatsPerStaleness, minBeat), maxBeat),
		done:   make(chan struct{}),
		said:   make(chan struct{}),
		number: 1,
	}
	n.hearing = newHearing(n.id)
	n.abort, n.endNow = context.WithCancel(context.Background())
	n.life, n.endLife = context.WithCancel(n.abort)
	go n.run()
	return n
}

// Hello returns once the other servers know of this one, or where this database
// has no notices. Nothing should be changed before: nobody would be waiting for
// the notice. It waits until ctx ends.
func (n *Notices) Hello(ctx context.Context) error {
	select {
	case <-n.life.Done():
		return ErrClosed
	default:
	}
	select {
	case <-n.said:
		return nil
	case <-n.life.Done():
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Announce says that the items of these keys are about to change. What it returns
// must be called when the outcome is settled; then the other servers are told.
func (n *Notices) Announce(keys ...item.Key) (settled func()) {
	return n.announce(keys, false)
}

// AnnounceAll is Announce of all keys.
func (n *Notices) AnnounceAll() (settled func()) { return n.announce(nil, true) }

func (n *Notices) announce(keys []item.Key, all bool) (settled func()) {
	c := n.outbox.begin(time.Now(), keys, all)
	if c == nil {
		n.config.Log.Error("a change is not announced", "error", ErrClosed)
		return func() {}
	}
	return func() { n.outbox.settle(c) }
}

// Listening tells whether notices come in.
func (n *Notices) Listening() bool { return n.listening.Load() }

// Peers returns how many other servers are known.
func (n *Notices) Peers() int { return int(n.peers.Load()) }

// Close tells the others what there is to tell, takes leave and closes the
// connection; what is not done when ctx ends is left. To announce a change after
// it is an error. Further calls do nothing.
func (n *Notices) Close(ctx context.Context) error {
	n.outbox.close()
	n.endLife()
	select {
	case <-n.done:
		return nil
	case <-ctx.Done():
		n.endNow()
		<-n.done
		return ctx.Err()
	}
}

// run holds a connection as long as the notices live.
func (n *Notices) run() {
	defer close(n.done)
	defer n.endNow()
	waits := &backoff.ExponentialBackOff{
		InitialInterval: firstRetry, MaxInterval: lastRetry, Multiplier: 2, RandomizationFactor: 0.5,
	}
	waits.Reset()
	for {
		l, err := n.connect()
		if err == nil {
			err = n.converse(l, waits.Reset)
			if err == nil {
				n.leave(l.Notify)
			}
			n.disconnect(l)
		}
		if n.life.Err() == nil {
			n.lost(err)
			n.detour(waits.NextBackOff())
		}
		if n.life.Err() != nil {
			if err != nil {
				n.leave(n.config.Database.Notify)
			}
			return
		}
	}
}

// connect opens the connection and begins to listen on it.
func (n *Notices) connect() (*postgres.Listener, error) {
	ctx, cancel := context.WithTimeout(n.life, connectTimeout)
	defer cancel()
	l, err := n.config.Database.Connect(ctx)
	if err != nil {
		return nil, err
	}
	before := time.Since(n.start)
	if n.config.Cache != nil {
		err = l.Listen(ctx, channel)
	}
	var others []uint32
	if err == nil {
		// After LISTEN: who comes later is heard.
		others, err = l.Meet(ctx, group, n.id.short())
	}
	if err != nil {
		n.disconnect(l)
		return nil, err
	}
	n.connected = time.Now()
	if n.config.Cache != nil {
		n.hearing.begin(before, others)
		n.distrust(reasonConnection)
	}
	return l, nil
}

func (n *Notices) disconnect(l *postgres.Listener) {
	n.listening.Store(false)
	ctx, cancel := context.WithTimeout(n.abort, closeTimeout)
	defer cancel()
	l.Close(ctx)
}

// converse sends and hears until the connection is lost, which is its error, or
// the notices are closed. It calls works when the connection has shown that it does.
func (n *Notices) converse(l *postgres.Listener, works func()) error {
	for n.life.Err() == nil {
		if n.due() {
			if err := n.send(l.Notify, false); err != nil {
				return err
			}
			works()
			n.up()
		}
		if err := n.listen(l); err != nil {
			return err
		}
	}
	return nil
}

// due tells whether a message should be sent now. One that comes soon after another
// waits for company: to name each of many changes by itself would cost as much as
// they do.
func (n *Notices) due() bool {
	now := time.Now()
	return !now.Before(n.nextBeat) || n.outbox.pending() && !now.Before(n.nextSend)
}

// awaitDue returns a context that ends when a message is due, or at until.
func (n *Notices) awaitDue(until time.Time) (context.Context, context.CancelFunc) {
	if n.nextBeat.Before(until) {
		until = n.nextBeat
	}
	if n.outbox.pending() && n.nextSend.Before(until) {
		return context.WithDeadline(n.life, n.nextSend)
	}
	ctx, cancel := context.WithDeadline(n.life, until)
	n.outbox.onSettled(cancel)
	return ctx, func() {
		n.outbox.onSettled(nil)
		cancel()
	}
}

// listen hears what comes until a message is due.
func (n *Notices) listen(l *postgres.Listener) error {
	ctx, cancel := n.awaitDue(n.nextBeat)
	defer cancel()
	for {
		text, err := l.Next(ctx)
		switch {
		case err == nil:
			n.hear(text)
		case ctx.Err() != nil:
			return nil // a connection that is lost at the same time shows at the next message
		default:
			return err
		}
	}
}

// detour sends over the pool what is due, for as long as nobody tries to connect.
func (n *Notices) detour(wait time.Duration) {
	until := time.Now().Add(wait)
	works := true
	for n.life.Err() == nil && time.Now().Before(until) {
		if works && n.due() {
			works = n.send(n.config.Database.Notify, false) == nil
			continue
		}
		n.pause(until, works)
	}
}

// pause waits until a time, or until a message is due that can be sent.
func (n *Notices) pause(until time.Time, works bool) {
	ctx, cancel := context.WithDeadline(n.life, until)
	if works {
		cancel()
		ctx, cancel = n.awaitDue(until)
	}
	defer cancel()
	<-ctx.Done()
}

// leave announces what is left, and takes leave of the others. A commit that is in
// doubt could still change something after that: then they should rather wait.
func (n *Notices) leave(notify notifyFunc) {
	if n.number == 1 {
		return // nobody knows of us
	}
	end := time.Now().Add(farewellTimeout)
	for n.outbox.pending() {
		if time.Now().After(end) || n.send(notify, false) != nil {
			return
		}
	}
	if n.outbox.empty() {
		_ = n.send(notify, true) // else they will miss us, and forget us
	}
}

type notifyFunc func(ctx context.Context, channel, payload string) error

// send sends the next message. One that fails may have arrived all the same: so the
// next try has its number, and all that it has.
func (n *Notices) send(notify notifyFunc, bye bool) error {
	timeout := sendTimeout
	if n.life.Err() != nil {
		timeout = farewellTimeout
	}
	ctx, cancel := context.WithTimeout(n.abort, timeout)
	defer cancel()
	now := time.Now()
	m, end := n.outbox.next(now)
	m.from, m.number, m.sent, m.bye = n.id, n.number, now.Sub(n.start), bye
	if err := notify(ctx, channel, m.String()); err != nil {
		n.refused(err)
		return err
	}
	n.outbox.announced(end)
	n.number++
	n.nextBeat, n.nextSend = time.Now().Add(n.beat), time.Now().Add(gap)
	n.sayOnce.Do(func() { close(n.said) })
	return nil
}

// hear takes in what has come on the channel.
func (n *Notices) hear(text string) {
	m, err := parse(text)
	if err != nil || m.from == n.id && m.sent > time.Since(n.start) {
		if !n.warned.garbage {
			n.warned.garbage = true
			n.config.Log.Warn("something else than notices comes in", "channel", channel)
		}
		return
	}
	switch {
	case m.from == n.id:
		n.listening.Store(true)
	case m.all:
		n.config.Cache.Reset()
	default:
		n.config.Cache.Invalidate(m.keys...)
	}
	if reason := n.hearing.hear(m); reason != "" {
		n.distrust(reason)
	}
	if until := n.hearing.until(); until != never {
		n.config.Cache.Heard(n.start.Add(until))
	}
	n.peers.Store(int64(len(n.hearing.peers)))
}

func (n *Notices) distrust(reason string) {
	n.config.Cache.Distrust()
	n.config.Metrics.NoticeDistrusted(context.Background(), reason)
	n.config.Log.Debug("what is cached is not trusted any more", "reason", reason)
}

// lost logs that the connection is not there, once until it is again.
func (n *Notices) lost(err error) {
	if !n.down && !n.warned.refused {
		n.config.Log.Warn("no connection for notices between servers; cached items live for the staleness that is configured", "error", err)
	}
	n.down = true
}

// up takes note of a connection that works.
func (n *Notices) up() {
	if n.down && !n.warned.refused {
		n.config.Log.Info("notices between servers go on")
	}
	n.down = false
	if n.config.Cache != nil && !n.listening.Load() && !n.warned.echo && time.Since(n.connected) > echoTimeout {
		n.warned.echo = true
		n.config.Log.Warn("notices are sent, but none comes in: is there a pooler before the database? " +
			"Cached items live for the staleness that is configured")
	}
}

// refused takes note of a database that has no notices. Another try costs little:
// who knows what will be there tomorrow.
func (n *Notices) refused(err error) {
	if !postgres.Refused(err) {
		return
	}
	if !n.warned.refused {
		n.warned.refused = true
		n.config.Log.Warn("this database has no notices between servers; cached items live for the staleness that is configured", "error", err)
	}
	n.sayOnce.Do(func() { close(n.said) })
}
