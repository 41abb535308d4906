// Package history records what clients asked of a store and what they were
// answered, and judges afterwards whether one store, doing one thing after the
// other, could have answered so.
//
// An object is a key, or a group of keys that are only ever written together. It
// holds a value or nothing. Each value is written at most once, so a value that
// is read tells which write it comes from.
package history

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Kind is what an operation does to its object.
type Kind int

// The kinds of operations.
const (
	Read   Kind = iota
	Write       // sets Value
	Create      // sets Value where there is none
	Swap        // sets Value where Expect stands
	Delete      // leaves nothing
)

// String returns the kind in a word.
func (k Kind) String() string { return [...]string{"read", "write", "create", "swap", "delete"}[k] }

// Outcome is what its caller knows of an operation.
type Outcome int

// The outcomes of an operation.
const (
	Done    Outcome = iota // it was carried out, as it was answered
	Refused                // it was answered that nothing has been done
	Unknown                // it may be carried out, or not, at any time from its call on
)

// Before is what an answer tells of the state that its operation met.
type Before int

// The states that an operation can have met.
const (
	Unsaid  Before = iota
	Absent         // nothing: the write made something new, the deletion found nothing
	Present        // something: the write replaced, or did not create
	Other          // not what the swap expected: nothing, or something else
)

// None is the value of an object that holds nothing.
const None int64 = 0

// Op is one operation on one object. Call and Return are readings of one
// monotonic clock.
type Op struct {
	Client  int
	Object  string
	Kind    Kind
	Value   int64 // that a Read returned or that the others set
	Expect  int64 // by a Swap
	Before  Before
	Outcome Outcome
	Answer  string // for people
	Call    time.Duration
	Return  time.Duration
	// Final marks a read after everything has come to rest.
	Final bool
}

// String describes the operation for people.
func (o Op) String() string {
	text := fmt.Sprintf("[%v, %v] client %d: %s", o.Call, o.Return, o.Client, o.Kind)
	switch o.Kind {
	case Write, Create:
		text += fmt.Sprintf(" %d", o.Value)
	case Swap:
		text += fmt.Sprintf(" %d for %d", o.Value, o.Expect)
	case Read, Delete:
	}
	text += " → " + o.Answer
	if o.Kind == Read {
		text += fmt.Sprintf(" %d", o.Value)
	}
	return text
}

// Recorder collects operations. Its methods may be called by several goroutines.
type Recorder struct {
	mu      sync.Mutex
	limit   int
	n       int
	objects map[string][]Op
	unknown map[string]int
}

// NewRecorder returns a recorder of at most limit operations.
func NewRecorder(limit int) *Recorder {
	return &Recorder{limit: limit, objects: make(map[string][]Op), unknown: make(map[string]int)}
}

// Add records an operation. It returns false where the recorder is full: then the
// history is no longer complete, and whoever records must stop.
func (r *Recorder) Add(op Op) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n >= r.limit {
		return false
	}
	r.n++
	r.objects[op.Object] = append(r.objects[op.Object], op)
	if op.Outcome == Unknown && op.Kind != Read {
		r.unknown[op.Object]++
	}
	return true
}

// Unknown returns how many writes of an object have an unknown outcome.
func (r *Recorder) Unknown(object string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unknown[object]
}

// Objects returns the names of the objects, in order.
func (r *Recorder) Objects() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := make([]string, 0, len(r.objects))
	for name := range r.objects {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Ops returns the operations on an object, by their calls.
func (r *Recorder) Ops(object string) []Op {
	r.mu.Lock()
	ops := slices.Clone(r.objects[object])
	r.mu.Unlock()
	slices.SortStableFunc(ops, func(a, b Op) int { return int(a.Call - b.Call) })
	return ops
}
