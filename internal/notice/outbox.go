package notice

import (
	"container/list"
	"sync"
	"time"

	"github.com/stockroom/stockroom/internal/item"
)

// maxKeys is how many keys may wait to be announced: with more of them, to say
// that anything may have changed costs the others less.
const maxKeys = 10_000

// outbox holds the changes that no message has named yet.
type outbox struct {
	mu      sync.Mutex
	closed  bool
	open    list.List // of *change, in the order in which they began
	settled []*change // those of them that are to be announced, in their order
	keys    int       // of settled
	alls    int       // of settled
	wake    func()    // is called when there is something to announce; nil: nobody waits
}

// change is a commit, from before it is sent until a message has named it.
type change struct {
	element *list.Element
	began   time.Time
	keys    []item.Key // those that have not been named
	all     bool
	named   bool // whole, in the message that is being sent
}

// begin takes note of a commit that is about to be sent. It returns nil once the
// outbox is closed.
func (o *outbox) begin(now time.Time, keys []item.Key, all bool) *change {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil
	}
	c := &change{began: now, keys: keys, all: all}
	c.element = o.open.PushBack(c)
	return c
}

// settle makes a change one to be announced.
func (o *outbox) settle(c *change) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.keys+len(c.keys) > maxKeys {
		c.all, c.keys = true, nil
	}
	o.settled = append(o.settled, c)
	o.keys += len(c.keys)
	if c.all {
		o.alls++
	}
	if o.wake != nil {
		o.wake()
	}
}

// onSettled has wake called as soon as there is something to announce, which may be
// now. Nil takes that back.
func (o *outbox) onSettled(wake func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wake = wake
	if wake != nil && len(o.settled) > 0 {
		wake()
	}
}

// pending tells whether there is something to announce.
func (o *outbox) pending() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.settled) > 0
}

// cut says how much of an outbox a message names: so many of the settled changes,
// and so many keys of the next one.
type cut struct{ changes, keys int }

// next makes the next message out of what there is to announce. Nothing has been
// announced until announced says so: until then the same comes again, and more.
func (o *outbox) next(now time.Time) (message, cut) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var m message
	var end cut
	if o.alls > 0 {
		m.all = true
		end.changes = len(o.settled)
	} else {
		m.keys, end = o.fill(maxPayload - maxHeader)
	}
	for i, c := range o.settled {
		c.named = i < end.changes
	}
	for e := o.open.Front(); e != nil; e = e.Next() {
		if c, ok := e.Value.(*change); ok && !c.named {
			m.lag = max(0, now.Sub(c.began))
			break
		}
	}
	return m, end
}

// fill returns the keys that fit into a message, each once.
func (o *outbox) fill(room int) (keys []item.Key, end cut) {
	named := make(map[item.Key]struct{})
	for _, c := range o.settled {
		for i, key := range c.keys {
			if _, twice := named[key]; twice {
				continue
			}
			if room -= len(key.String()) + 1; room < 0 {
				end.keys = i
				return keys, end
			}
			named[key] = struct{}{}
			keys = append(keys, key)
		}
		end.changes++
	}
	return keys, end
}

// announced takes out what a message that was committed has named.
func (o *outbox) announced(end cut) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.settled[:end.changes] {
		o.open.Remove(c.element)
		o.keys -= len(c.keys)
		if c.all {
			o.alls--
		}
	}
	clear(o.settled[:end.changes])
	if o.settled = o.settled[end.changes:]; len(o.settled) == 0 {
		o.settled = nil
	}
	if end.keys > 0 {
		o.settled[0].keys = o.settled[0].keys[end.keys:]
		o.keys -= end.keys
	}
}

// close ends the outbox for changes that have not begun.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
}

// empty tells whether every change that has begun has been announced.
func (o *outbox) empty() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.open.Len() == 0
}
