package notice

import (
	"math"
	"time"
)

// forgetAfter is how long a server may be silent before it is taken for gone.
// Until then its silence keeps the others from trusting what they have cached for
// longer than they would without notices.
const forgetAfter = time.Minute

// never is before everything that could have been heard.
const never time.Duration = math.MinInt64

// hearing works out up to when the changes of all servers have been heard. It
// knows no clock but the messages of this server itself, as they come back among
// those of the others: times are when they were composed.
//
// What it rests on: the database delivers messages to all in the order of their
// commits, and a server composes a message only after the one before it has been
// committed. So when a peer's message comes after our own of time s, that peer's
// next message was composed after s; and a change that is not named up to that
// next one had begun no earlier than the next one's lag before it was composed.
// Hence all changes of the peer until s less that lag have been heard.
type hearing struct {
	me     id
	newest time.Duration // of our messages that have come back
	peers  map[id]*peer
	// strangers are the servers that were there before we listened, and that
	// have not said anything since; since says when that was.
	strangers map[uint32]struct{}
	since     time.Duration
}

// peer is what is known of another server.
type peer struct {
	number  uint64        // of its last message
	spoke   time.Duration // our newest when that came: it was committed after this
	heard   time.Duration // up to then all its changes have been heard
	resumed bool          // messages may have been missed before we listened (again)
}

// Reasons why what is cached cannot be trusted.
const (
	reasonConnection = "connection" // nobody listened for a while
	reasonGap        = "gap"        // a message is missing
	reasonPeer       = "peer"       // a server that was not known may have changed things unheard
	reasonSilence    = "silence"    // one that is forgotten may have, before it fell silent
)

func newHearing(me id) *hearing { return &hearing{me: me, peers: make(map[id]*peer)} }

// begin says that we listen from now on, and that there are others besides those
// already known. What was missed before concerns nothing that is read from now on.
func (h *hearing) begin(now time.Duration, others []uint32) {
	h.newest, h.since = now, now
	h.strangers = make(map[uint32]struct{}, len(others))
	for _, other := range others {
		h.strangers[other] = struct{}{}
	}
	for from, p := range h.peers {
		p.resumed, p.spoke = true, now
		delete(h.strangers, from.short())
	}
}

// hear takes a message in. A reason that it returns is one to distrust all that is
// cached.
func (h *hearing) hear(m message) (reason string) {
	if m.from == h.me {
		h.newest = max(h.newest, m.sent)
		return h.forget()
	}
	p := h.peers[m.from]
	switch {
	case m.bye:
		delete(h.peers, m.from)
		delete(h.strangers, m.from.short())
		return ""
	case p == nil:
		if _, stranger := h.strangers[m.from.short()]; stranger {
			delete(h.strangers, m.from.short())
		} else {
			reason = reasonPeer
		}
		p = &peer{heard: never}
		h.peers[m.from] = p
	case m.number <= p.number:
		// Sent twice, for the sender did not know whether the first had arrived.
		return ""
	case m.number == p.number+1:
		p.heard = max(p.heard, p.spoke-m.lag)
	case !p.resumed:
		reason = reasonGap
	}
	p.number, p.spoke, p.resumed = m.number, h.newest, false
	return reason
}

// forget drops who has been silent for too long. The last that such a server did may
// have been a commit that it told nobody of, so that what was loaded before it is stale.
func (h *hearing) forget() (reason string) {
	for from, p := range h.peers {
		if h.newest-p.spoke >= forgetAfter {
			delete(h.peers, from)
			reason = reasonSilence
		}
	}
	if len(h.strangers) > 0 && h.newest-h.since >= forgetAfter {
		clear(h.strangers)
		reason = reasonSilence
	}
	return reason
}

// until returns up to when the changes of all servers have been heard; never where
// somebody is there who has not yet been heard at all.
func (h *hearing) until() time.Duration {
	if len(h.strangers) > 0 {
		return never
	}
	until := h.newest
	for _, p := range h.peers {
		until = min(until, p.heard)
	}
	return until
}
