package history

import (
	"fmt"
	"math"
	"time"

	"github.com/anishathalye/porcupine"
)

// Verdict is what is wrong with the history of one object; the zero Verdict is
// that nothing is.
type Verdict struct {
	// Lost are acknowledged operations that what was read in the end knows
	// nothing of.
	Lost []Op
	// Phantom are reads of a value that nobody has written: because the write was
	// refused, or there was none.
	Phantom []Op
	// NotLinearizable says that no order of the operations, each at some time
	// between its call and its return, explains all answers.
	NotLinearizable bool
	// Undecided says that it could not be found out in time.
	Undecided bool
}

// Sound tells whether nothing is wrong.
func (v Verdict) Sound() bool {
	return len(v.Lost) == 0 && len(v.Phantom) == 0 && !v.NotLinearizable && !v.Undecided
}

// Check judges the operations on one object, which held nothing at first. It
// takes about as long as timeout at most.
func Check(ops []Op, timeout time.Duration) Verdict {
	var v Verdict
	v.Lost = lost(ops)
	v.Phantom = phantoms(ops)
	switch porcupine.CheckOperationsTimeout(model, operations(ops), timeout) {
	case porcupine.Illegal:
		v.NotLinearizable = true
	case porcupine.Unknown:
		v.Undecided = true
	case porcupine.Ok:
	}
	return v
}

// effective tells whether an operation that is done has changed its object.
func (o Op) effective() bool {
	switch o.Kind {
	case Write:
		return true
	case Create:
		return o.Before == Absent
	case Swap:
		return o.Before != Other
	case Delete:
		return o.Before != Absent
	case Read:
	}
	return false
}

// end is when an operation was carried out at the latest.
func (o Op) end() time.Duration {
	if o.Outcome == Unknown {
		return math.MaxInt64
	}
	return o.Return
}

// lost returns the acknowledged operations that came after all that can have left
// what was read in the end.
func lost(ops []Op) (lost []Op) {
	for _, final := range ops {
		if !final.Final {
			continue
		}
		// What left the final state: the write of its value, or for nothing, any
		// deletion or the beginning.
		latest := time.Duration(-1)
		for _, op := range ops {
			left := op.Value == final.Value
			if final.Value == None {
				left = op.Kind == Delete
			}
			if left && op.Kind != Read && op.Outcome != Refused && (op.Outcome == Unknown || op.effective()) {
				latest = max(latest, op.end())
			}
		}
		for _, op := range ops {
			if op.Outcome == Done && op.effective() && op.Call > latest {
				lost = append(lost, op)
			}
		}
	}
	return lost
}

// phantoms returns the reads of what nobody has written.
func phantoms(ops []Op) (phantoms []Op) {
	written := map[int64]bool{None: true}
	for _, op := range ops {
		if op.Kind != Read && op.Outcome != Refused && (op.Outcome == Unknown || op.effective()) {
			written[op.Value] = true
		}
	}
	for _, op := range ops {
		if op.Kind == Read && op.Outcome == Done && !written[op.Value] {
			phantoms = append(phantoms, op)
		}
	}
	return phantoms
}

// operations translates a history for porcupine. What was refused is left out, for
// it has done nothing; and so are reads that were not answered.
func operations(ops []Op) []porcupine.Operation {
	list := make([]porcupine.Operation, 0, len(ops))
	for _, op := range ops {
		if op.Outcome == Refused || op.Outcome == Unknown && op.Kind == Read {
			continue
		}
		list = append(list, porcupine.Operation{ClientId: op.Client, Input: op, Call: int64(op.Call), Return: int64(op.end())})
	}
	return list
}

// model is an object that holds one value. An operation of unknown outcome that
// was never carried out comes last in the order, after everything that was read.
var model = porcupine.Model{
	Init: func() any { return None },
	Step: func(state, input, _ any) (bool, any) {
		value, op := state.(int64), input.(Op) //nolint:errcheck // of this model's own making
		return step(value, op)
	},
	DescribeOperation: func(input, _ any) string { return fmt.Sprint(input) },
}

// step says whether an operation may have been answered as it was in a state, and
// which state it leaves.
func step(state int64, op Op) (bool, int64) {
	if op.Kind == Read {
		return op.Value == state, state
	}
	if op.Outcome == Unknown {
		return true, after(state, op)
	}
	switch op.Before {
	case Absent:
		if state != None {
			return false, state
		}
	case Present:
		if state == None {
			return false, state
		}
	case Other:
		if state == op.Expect {
			return false, state
		}
	case Unsaid:
		if op.Kind == Swap && state != op.Expect {
			return false, state
		}
	}
	return true, after(state, op)
}

// after is the state that an operation leaves where it is carried out.
func after(state int64, op Op) int64 {
	switch op.Kind {
	case Create:
		if state != None {
			return state
		}
	case Swap:
		if state != op.Expect {
			return state
		}
	case Delete:
		return None
	case Read:
		return state
	case Write:
	}
	return op.Value
}

// Explainable tells whether the first n of ops, which are in the order of their
// returns, are linearizable as they stand; what was still under way then counts as
// unknown.
func Explainable(ops []Op, n int, timeout time.Duration) bool {
	at := ops[n-1].Return
	begun := make([]Op, 0, len(ops))
	for i, op := range ops {
		if i >= n {
			if op.Call > at || op.Kind == Read {
				continue
			}
			if op.Outcome == Done {
				op.Outcome, op.Before = Unknown, Unsaid
			}
		}
		begun = append(begun, op)
	}
	return porcupine.CheckOperationsTimeout(model, operations(begun), timeout) == porcupine.Ok
}
