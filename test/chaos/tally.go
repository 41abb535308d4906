//go:build linux

package chaos

import (
	"fmt"
	"sync"
	"time"
)

// Violation is one thing that the service must never do.
type Violation struct {
	Kind   string // lost, torn, …
	Round  int
	Fault  string
	Detail string
}

// String describes the violation for people.
func (v Violation) String() string {
	return fmt.Sprintf("round %d (%s): %s: %s", v.Round, v.Fault, v.Kind, v.Detail)
}

// The kinds of violations.
const (
	lost             = "lost"             // an acknowledged write is gone
	torn             = "torn"             // a batch was seen in part
	phantom          = "phantom"          // what was refused, or never asked for, was read
	notLinearizable  = "not linearizable" // no order explains the answers
	undecided        = "undecided"        // whether there is one was not found out in time
	slow             = "slow"             // an answer later than the deadline allows
	undocumented     = "undocumented"     // an answer that the contract does not have
	corrupt          = "corrupt"          // a value that nobody has made
	lateRecovery     = "late recovery"    // not well again in time
	fairWeatherError = "error in fair weather"
	miscounted       = "miscounted" // the counters are not the sum of the rows
	alarm            = "alarm"      // a panic or a data race
	standstill       = "standstill" // background work that has stopped for good
	badExit          = "bad exit"   // the server did not end, or not as it should
)

// maxViolations bounds those of a kind that are kept. All are counted.
const maxViolations = 5

// tally counts what happens, for all clients together.
type tally struct {
	mu           sync.Mutex
	requests     int
	answers      map[string]int
	acknowledged int
	stale        int
	slowest      time.Duration
	counts       map[string]int // of violations, by kind
	violations   []Violation
	recoveries   map[string]Recovery // by fault
	objects      int                 // histories that were judged
	operations   int
}

func newTally() *tally {
	return &tally{
		answers: map[string]int{}, counts: map[string]int{}, recoveries: map[string]Recovery{},
	}
}

func (t *tally) answered(a answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests++
	t.answers[a.name()]++
	t.slowest = max(t.slowest, a.end-a.call)
	if a.isStale() {
		t.stale++
	}
}

func (t *tally) acknowledge() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.acknowledged++
}

func (t *tally) violated(v Violation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts[v.Kind]++
	if t.counts[v.Kind] <= maxViolations {
		t.violations = append(t.violations, v)
	}
}

// broken tells whether any promise was.
func (t *tally) broken() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.counts) > 0
}

func (t *tally) recovered(fault string, took, limit time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.recoveries[fault] = t.recoveries[fault].plus(Recovery{Times: 1, Slowest: took, Limit: limit})
}

func (t *tally) judged(operations int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.objects++
	t.operations += operations
}
