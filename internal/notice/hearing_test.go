package notice

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	me     id = 1
	ann    id = 1<<40 + 2
	bob    id = 3
	second    = time.Second
)

// heardOf takes messages in and returns the reasons for distrust.
func heardOf(h *hearing, messages ...message) (reasons []string) {
	for _, m := range messages {
		if reason := h.hear(m); reason != "" {
			reasons = append(reasons, reason)
		}
	}
	return reasons
}

func own(sent time.Duration) message { return message{from: me, sent: sent} }

func TestHearingAlone(t *testing.T) {
	t.Parallel()
	h := newHearing(me)
	h.begin(second, nil)
	require.Equal(t, second, h.until(), "what was before concerns nothing that is read now")
	require.Empty(t, heardOf(h, own(2*second)))
	require.Equal(t, 2*second, h.until())
	require.Empty(t, heardOf(h, own(second)), "one that was sent twice")
	require.Equal(t, 2*second, h.until())
}

func TestHearingAPeer(t *testing.T) {
	t.Parallel()
	h := newHearing(me)
	h.begin(0, nil)
	require.Equal(t, []string{reasonPeer}, heardOf(h, own(1*second), message{from: ann, number: 7}))
	require.Equal(t, never, h.until(), "its first message says nothing of what was before")
	require.Empty(t, heardOf(h, own(2*second), message{from: ann, number: 8}))
	require.Equal(t, 1*second, h.until(), "it was composed after the one before it had been committed")
	require.Empty(t, heardOf(h, own(3*second), message{from: ann, number: 9, lag: second / 2}))
	require.Equal(t, 3*second/2, h.until(), "a commit is under way")
	require.Empty(t, heardOf(h, own(4*second), message{from: ann, number: 10, lag: 10 * second}))
	require.Equal(t, 3*second/2, h.until(), "what is known stays known")
	require.Empty(t, heardOf(h, own(5*second), message{from: ann, number: 11}))
	require.Equal(t, 4*second, h.until())

	require.Empty(t, heardOf(h, message{from: ann, number: 11}, message{from: ann, number: 9}), "sent twice")
	require.Equal(t, 4*second, h.until())
	require.Equal(t, []string{reasonGap}, heardOf(h, message{from: ann, number: 13}))
	require.Equal(t, 4*second, h.until())
	require.Empty(t, heardOf(h, own(6*second), message{from: ann, number: 14}))
	require.Equal(t, 5*second, h.until())
}

func TestHearingSeveralPeers(t *testing.T) {
	t.Parallel()
	h := newHearing(me)
	h.begin(0, nil)
	for i := range 3 {
		heardOf(h, own(time.Duration(i+1)*second), message{from: ann, number: uint64(i + 1)}, message{from: bob, number: uint64(i + 1)})
	}
	require.Equal(t, 2*second, h.until())
	heardOf(h, own(4*second), message{from: ann, number: 4})
	require.Equal(t, 2*second, h.until(), "one has not spoken")
	require.Empty(t, heardOf(h, message{from: bob, number: 4, bye: true}))
	require.Equal(t, 3*second, h.until(), "it has gone")
	require.Empty(t, heardOf(h, message{from: ann, bye: true}, message{from: ann, bye: true}))
	require.Equal(t, 4*second, h.until(), "nobody else is there")
}

func TestHearingForgetsWhoIsSilent(t *testing.T) {
	t.Parallel()
	h := newHearing(me)
	h.begin(0, nil)
	heardOf(h, own(1*second), message{from: ann, number: 1}, message{from: ann, number: 2})
	require.Empty(t, heardOf(h, own(1*second+forgetAfter-1)))
	require.Equal(t, 1*second, h.until())
	require.Equal(t, []string{reasonSilence}, heardOf(h, own(1*second+forgetAfter)), "its last commit may have gone unheard")
	require.Equal(t, 1*second+forgetAfter, h.until())
	require.Empty(t, heardOf(h, own(2*second+forgetAfter)), "that is over")
	require.Equal(t, []string{reasonPeer}, heardOf(h, message{from: ann, number: 3}))
}

// Those who were there before are waited for; that they have been missed is no
// reason for distrust, since everything was distrusted when listening began.
func TestHearingBeginsAgain(t *testing.T) {
	t.Parallel()
	h := newHearing(me)
	h.begin(0, []uint32{ann.short()})
	heardOf(h, own(1*second))
	require.Equal(t, never, h.until(), "somebody is there who has not spoken")
	require.Empty(t, heardOf(h, message{from: ann, number: 5}, own(2*second), message{from: ann, number: 6}))
	require.Equal(t, 1*second, h.until())

	h.begin(10*second, []uint32{ann.short(), bob.short()})
	heardOf(h, own(11*second))
	require.Equal(t, never, h.until())
	require.Empty(t, heardOf(h, message{from: bob, number: 1}, message{from: bob, number: 2}))
	require.Equal(t, 1*second, h.until(), "one is still to speak")
	require.Empty(t, heardOf(h, message{from: ann, number: 60}, own(12*second), message{from: ann, number: 61}))
	require.Equal(t, 11*second, h.until())
	require.Equal(t, []string{reasonGap}, heardOf(h, message{from: ann, number: 63}), "from now on, nothing may be missing")

	h.begin(20*second, []uint32{99})
	heardOf(h, own(20*second+forgetAfter-1), message{from: ann, number: 64}, message{from: bob, number: 4},
		message{from: ann, number: 65}, message{from: bob, number: 5})
	require.Equal(t, never, h.until())
	require.Equal(t, []string{reasonSilence}, heardOf(h, own(20*second+forgetAfter)))
	require.Equal(t, 20*second+forgetAfter-1, h.until(), "a stranger who never speaks is forgotten")
	require.Empty(t, heardOf(h, message{from: 99, bye: true}))
}

// However servers commit, send, are delayed and die, what has been heard is what was
// changed: whenever a listener claims to know all until some time, every change
// that was committed before has been named to it. One clock is enough here; who
// looks at it is chosen at random.
func TestHearingClaimsNothingUnheard(t *testing.T) {
	t.Parallel()
	advances := 0
	for seed := range uint64(300) {
		advances += simulate(t, seed)
	}
	require.Greater(t, advances, 1000, "it claims something")
}

// A simulated change is named by its number.
type simulated struct {
	began, committed time.Duration // committed is 0 while it is not
	named            bool          // to the listener
}

type simulatedServer struct {
	id      id
	number  uint64
	changes []int     // that no message names, the oldest first
	sending *envelope // composed, not committed
	unsure  []int     // named by a message that may have been committed
}

type envelope struct {
	message
	changes []int
}

func simulate(t *testing.T, seed uint64) (advances int) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 0))
	var now time.Duration
	var changes []simulated
	servers := []*simulatedServer{{id: me, number: 1}, {id: ann, number: 1}, {id: bob, number: 1}}
	h := newHearing(me)
	h.begin(0, []uint32{ann.short(), bob.short()})
	deliver := func(e *envelope) {
		for _, i := range e.changes {
			changes[i].named = true
		}
		if reason := h.hear(e.message); reason != "" {
			require.Truef(t, len(servers) == 2 && reason == reasonSilence, "seed %d: %s", seed, reason)
			for i := range changes { // nothing is trusted that was loaded before them
				changes[i].named = changes[i].named || changes[i].committed != 0
			}
		}
		until := h.until()
		for i, c := range changes {
			if c.committed != 0 && c.committed <= until && !c.named {
				t.Fatalf("seed %d: at %v everything until %v is said to be known, but not change %d, committed at %v", seed, now, until, i, c.committed)
			}
		}
	}
	last := h.until()
	killed := seed%3 == 0
	for step := range 2000 {
		now += time.Duration(1 + random.IntN(int(10*time.Millisecond)))
		if killed && step >= 1000 { // one is, whatever it has told; and it takes long until that is noticed
			servers = servers[:2]
			now += time.Duration(random.IntN(int(200 * time.Millisecond)))
		}
		s := servers[random.IntN(len(servers))]
		switch action := random.IntN(4); {
		case action == 0 && s.id != me: // a commit is sent
			changes = append(changes, simulated{began: now})
			s.changes = append(s.changes, len(changes)-1)
		case action == 1 && len(s.changes) > 0: // one takes effect
			if c := &changes[s.changes[random.IntN(len(s.changes))]]; c.committed == 0 {
				c.committed = now
			}
		case action == 2 && s.sending == nil: // a message is composed, of some of what has been committed
			e := &envelope{message: message{from: s.id, number: s.number, sent: now}, changes: s.unsure}
			s.changes = slices.DeleteFunc(s.changes, func(i int) bool {
				named := changes[i].committed != 0 && random.IntN(3) > 0
				if named {
					e.changes = append(e.changes, i)
				}
				return named
			})
			if len(s.changes) > 0 {
				e.lag = now - changes[s.changes[0]].began
			}
			s.sending = e
		case action == 3 && s.sending != nil: // it is committed
			e := s.sending
			lost := random.IntN(10) == 0
			if !lost {
				deliver(e)
			}
			s.sending, s.unsure = nil, nil
			if lost || random.IntN(10) == 0 { // its sender does not know, and names all of it again
				s.unsure = e.changes
			} else {
				s.number++
			}
		}
		if until := h.until(); until > last {
			last = until
			advances++
		}
	}
	return advances
}
