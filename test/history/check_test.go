package history_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/test/history"
)

const timeout = 10 * time.Second

// between sets the times of an operation, in milliseconds.
func between(call, end int, op history.Op) history.Op {
	op.Call, op.Return = time.Duration(call)*time.Millisecond, time.Duration(end)*time.Millisecond
	return op
}

func read(value int64) history.Op  { return history.Op{Kind: history.Read, Value: value} }
func write(value int64) history.Op { return history.Op{Kind: history.Write, Value: value} }

func final(value int64) history.Op {
	return history.Op{Kind: history.Read, Value: value, Final: true}
}

func unknown(op history.Op) history.Op { op.Outcome = history.Unknown; return op }
func refused(op history.Op) history.Op { op.Outcome = history.Refused; return op }

func met(before history.Before, op history.Op) history.Op { op.Before = before; return op }

func create(value int64) history.Op { return history.Op{Kind: history.Create, Value: value} }
func swap(value, expect int64) history.Op {
	return history.Op{Kind: history.Swap, Value: value, Expect: expect}
}
func remove() history.Op { return history.Op{Kind: history.Delete} }

func TestSound(t *testing.T) {
	for name, ops := range map[string][]history.Op{
		"nothing":             nil,
		"one after the other": {between(0, 1, write(1)), between(2, 3, read(1)), between(4, 5, write(2)), between(6, 7, final(2))},
		"a read while it is written may see either": {
			between(0, 1, write(1)), between(2, 9, write(2)), between(3, 4, read(1)), between(5, 6, read(2)), between(10, 11, final(2)),
		},
		"an unknown write that was carried out": {
			between(0, 1, write(1)), between(2, 3, unknown(write(2))), between(4, 5, read(1)), between(6, 7, read(2)), between(8, 9, final(2)),
		},
		"an unknown write that was not": {
			between(0, 1, write(1)), between(2, 3, unknown(write(2))), between(4, 5, read(1)), between(8, 9, final(1)),
		},
		"an unknown write that is late": {
			between(0, 1, write(1)), between(2, 3, unknown(write(2))), between(4, 5, write(3)), between(6, 7, read(3)), between(8, 9, final(2)),
		},
		"what was refused has done nothing": {
			between(0, 1, write(1)), between(2, 3, refused(write(2))), between(4, 5, refused(read(0))), between(8, 9, final(1)),
		},
		"conditions": {
			between(0, 1, met(history.Absent, create(1))), between(2, 3, met(history.Present, create(2))),
			between(4, 5, swap(3, 1)), between(6, 7, met(history.Other, swap(4, 1))), between(8, 9, met(history.Present, remove())),
			between(10, 11, met(history.Absent, remove())), between(12, 13, met(history.Other, swap(5, 3))),
			between(14, 15, met(history.Absent, write(6))), between(16, 17, met(history.Present, write(7))), between(18, 19, final(7)),
		},
		"an unknown deletion": {
			between(0, 1, write(1)), between(2, 3, unknown(remove())), between(4, 5, met(history.Absent, write(2))), between(6, 7, final(2)),
		},
		"an unknown deletion that nothing came of": {
			between(0, 1, write(1)), between(2, 3, unknown(remove())), between(4, 5, met(history.Present, write(2))), between(6, 7, final(2)),
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.True(t, history.Check(ops, timeout).Sound())
		})
	}
}

func TestNotLinearizable(t *testing.T) {
	for name, ops := range map[string][]history.Op{
		"a stale read": {between(0, 1, write(1)), between(2, 3, write(2)), between(4, 5, read(1))},
		"back in time, while it is written": {
			between(0, 1, write(1)), between(2, 9, write(2)), between(3, 4, read(2)), between(5, 6, read(1)),
		},
		"an unknown write that comes and goes": {
			between(0, 1, write(1)), between(2, 3, unknown(write(2))), between(4, 5, read(2)), between(6, 7, read(1)),
		},
		"nothing where there is something":    {between(0, 1, write(1)), between(2, 3, read(0))},
		"made twice":                          {between(0, 1, met(history.Absent, create(1))), between(2, 3, met(history.Absent, create(2)))},
		"replaced what was not there":         {between(0, 1, met(history.Present, write(1)))},
		"two swaps of the same":               {between(0, 1, write(1)), between(2, 9, swap(2, 1)), between(2, 9, swap(3, 1))},
		"a swap that should have been":        {between(0, 1, write(1)), between(2, 3, met(history.Other, swap(2, 1)))},
		"a deletion that met nothing":         {between(0, 1, write(1)), between(2, 3, met(history.Absent, remove()))},
		"an unknown swap of what never stood": {between(0, 1, write(1)), between(2, 3, unknown(swap(2, 5))), between(4, 5, read(2))},
	} {
		t.Run(name, func(t *testing.T) {
			v := history.Check(ops, timeout)
			require.True(t, v.NotLinearizable)
			require.False(t, v.Sound())
		})
	}
}

func TestLost(t *testing.T) {
	for name, tc := range map[string]struct {
		ops  []history.Op
		lost int
	}{
		"a write":         {[]history.Op{between(0, 1, write(1)), between(2, 3, write(2)), between(9, 9, final(1))}, 1},
		"the only write":  {[]history.Op{between(0, 1, write(1)), between(9, 9, final(0))}, 1},
		"a deletion":      {[]history.Op{between(0, 1, write(1)), between(2, 3, remove()), between(9, 9, final(1))}, 1},
		"behind a delete": {[]history.Op{between(0, 1, remove()), between(2, 3, write(2)), between(9, 9, final(0))}, 1},
		"two":             {[]history.Op{between(0, 1, write(1)), between(2, 3, write(2)), between(4, 5, write(3)), between(9, 9, final(1))}, 2},

		"together":           {[]history.Op{between(0, 3, write(1)), between(2, 3, write(2)), between(9, 9, final(1))}, 0},
		"not acknowledged":   {[]history.Op{between(0, 1, write(1)), between(2, 3, unknown(write(2))), between(9, 9, final(1))}, 0},
		"overwritten late":   {[]history.Op{between(0, 1, unknown(write(1))), between(2, 3, write(2)), between(9, 9, final(1))}, 0},
		"deleted late":       {[]history.Op{between(0, 1, unknown(remove())), between(2, 3, write(2)), between(9, 9, final(0))}, 0},
		"refused deletion":   {[]history.Op{between(0, 1, write(1)), between(2, 3, refused(remove())), between(9, 9, final(0))}, 1},
		"no change asked":    {[]history.Op{between(0, 1, write(1)), between(2, 3, met(history.Present, create(2))), between(9, 9, final(1))}, 0},
		"no deletion needed": {[]history.Op{between(2, 3, met(history.Absent, remove())), between(9, 9, final(0))}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			v := history.Check(tc.ops, timeout)
			require.Len(t, v.Lost, tc.lost)
			require.Equal(t, tc.lost == 0, v.Sound())
		})
	}
}

func TestPhantom(t *testing.T) {
	for name, ops := range map[string][]history.Op{
		"never written":  {between(0, 1, write(1)), between(2, 3, read(2))},
		"refused":        {between(0, 1, refused(write(1))), between(2, 3, read(1))},
		"did not create": {between(0, 1, write(1)), between(2, 3, met(history.Present, create(2))), between(4, 5, read(2))},
	} {
		t.Run(name, func(t *testing.T) {
			v := history.Check(ops, timeout)
			require.Len(t, v.Phantom, 1)
			require.False(t, v.Sound())
		})
	}
}

func TestRecorder(t *testing.T) {
	r := history.NewRecorder(3)
	require.True(t, r.Add(history.Op{Object: "b", Call: 2}))
	require.True(t, r.Add(history.Op{Object: "b", Call: 1, Kind: history.Write, Outcome: history.Unknown}))
	require.True(t, r.Add(history.Op{Object: "a", Outcome: history.Unknown}))
	require.False(t, r.Add(history.Op{Object: "a"}), "full")
	require.Equal(t, []string{"a", "b"}, r.Objects())
	require.Equal(t, time.Duration(1), r.Ops("b")[0].Call)
	require.Equal(t, 1, r.Unknown("b"))
	require.Zero(t, r.Unknown("a"), "a read changes nothing")
	require.Contains(t, r.Ops("b")[0].String(), "write")
}
