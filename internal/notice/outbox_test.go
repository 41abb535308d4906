package notice

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
)

// pass lets time pass, in a bubble of synctest: nobody really waits.
func pass(d time.Duration) { <-time.After(d) }

func manyKeys(t *testing.T, n, length int) (keys []item.Key) {
	t.Helper()
	for i := range n {
		keys = append(keys, keyOf(t, fmt.Sprintf("%s%06d", strings.Repeat("x", length-6), i)))
	}
	return keys
}

func TestOutboxNamesEachChange(t *testing.T) {
	t.Parallel()
	var o outbox
	a, b := keyOf(t, "a"), keyOf(t, "b")
	first := o.begin(time.Now(), []item.Key{a, b}, false)
	second := o.begin(time.Now(), []item.Key{b}, false)
	require.False(t, o.pending())
	o.settle(second)
	o.settle(first)
	m, _ := o.next(time.Now())
	require.Equal(t, []item.Key{b, a}, m.keys, "each once")
	again, end := o.next(time.Now())
	require.Equal(t, m.keys, again.keys, "until it has been announced")
	o.settle(o.begin(time.Now(), []item.Key{keyOf(t, "c")}, false))
	o.announced(end)
	require.Equal(t, []message{{keys: []item.Key{keyOf(t, "c")}}}, drain(t, &o), "what came meanwhile is not lost")
	require.True(t, o.empty())
}

func TestOutboxSplitsWhatIsLarge(t *testing.T) {
	t.Parallel()
	var o outbox
	keys := manyKeys(t, 1000, item.MaxKeyBytes)
	o.settle(o.begin(time.Now(), keys[:300], false))
	o.settle(o.begin(time.Now(), keys[300:], false))
	var got []item.Key
	messages := drain(t, &o)
	for _, m := range messages {
		require.False(t, m.all)
		got = append(got, m.keys...)
	}
	require.Equal(t, keys, got)
	require.Len(t, messages, 1000/((maxPayload-maxHeader)/(item.MaxKeyBytes+1))+1)
	require.True(t, o.empty())
}

func TestOutboxGivesUpOnTooManyKeys(t *testing.T) {
	t.Parallel()
	var o outbox
	for range 3 {
		o.settle(o.begin(time.Now(), manyKeys(t, maxKeys/2, 10), false))
	}
	require.Equal(t, []message{{all: true}}, drain(t, &o))
	o.settle(o.begin(time.Now(), nil, true))
	o.settle(o.begin(time.Now(), []item.Key{keyOf(t, "a")}, false))
	require.Equal(t, []message{{all: true}}, drain(t, &o), "who reads everything again needs no keys")
	require.True(t, o.empty())
}

// A change counts from before its commit was sent until a message has named it all.
func TestOutboxCountsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var o outbox
		lag := func() time.Duration {
			m, _ := o.next(time.Now())
			return m.lag
		}
		doubtful := o.begin(time.Now(), []item.Key{keyOf(t, "a")}, false)
		pass(time.Second)
		large := o.begin(time.Now(), manyKeys(t, 100, 200), false)
		pass(time.Second)
		require.Equal(t, 2*time.Second, lag())
		o.settle(doubtful)
		require.Equal(t, time.Second, lag(), "the message names it")
		o.settle(large)
		require.Equal(t, time.Second, lag(), "only a part of it fits")
		drain(t, &o)
		require.Zero(t, lag())
		require.True(t, o.empty())
	})
}

func TestOutboxWakes(t *testing.T) {
	t.Parallel()
	var o outbox
	woken := 0
	o.onSettled(func() { woken++ })
	c := o.begin(time.Now(), nil, true)
	require.Zero(t, woken)
	o.settle(c)
	require.Equal(t, 1, woken)
	o.onSettled(func() { woken++ })
	require.Equal(t, 2, woken, "there is something already")
	o.onSettled(nil)
	o.settle(o.begin(time.Now(), nil, true))
	require.Equal(t, 2, woken)
	o.close()
	require.Nil(t, o.begin(time.Now(), nil, true))
}
