package notice

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
)

func keyOf(t testing.TB, text string) item.Key {
	t.Helper()
	key, err := item.ParseKey(text)
	require.NoError(t, err)
	return key
}

func TestMessages(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]message{
		"heartbeat":  {from: 1, number: 1},
		"largest":    {from: 1<<64 - 1, number: 1<<64 - 1, sent: 1<<63 - 1, lag: 1<<63 - 1, all: true, bye: true},
		"a key":      {from: 2, number: 3, sent: 4, lag: 5, keys: []item.Key{keyOf(t, "component:react:button")}},
		"keys":       {from: 2, number: 3, keys: []item.Key{keyOf(t, "a b"), keyOf(t, "block:f:n"), keyOf(t, "ключ 1 2")}},
		"everything": {from: 2, number: 3, all: true},
		"farewell":   {from: 2, number: 3, bye: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parse(m.String())
			require.NoError(t, err)
			require.Equal(t, m, got)
			m.keys = nil
			require.LessOrEqual(t, len(m.String()), maxHeader)
		})
	}
}

func TestGarbage(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "\n", "hello", "{}", "1", "1 2 3 4", "2 2 3 4 5", "1 x 3 4 5", "1 2 -3 4 5", "1 2 3 -4 5", "1 2 3 4 -5",
		"1 2 3 4 5 maybe", "1 2 3 4 5 ", "1 2 3 4 5\n", "1 2 3 4 5\na\n", "1 2 3 4 5\ncomponent:x",
		"1 2 3 4 99999999999999999999", strings.Repeat("1", 8000),
	} {
		_, err := parse(text)
		require.ErrorIs(t, err, errGarbage, "%q", text)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("1 2 3 4 5 all bye\na\ncomponent:f:n")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parse(text)
		if err != nil {
			require.Equal(t, errGarbage, err)
			return
		}
		again, err := parse(m.String())
		require.NoError(t, err)
		require.Equal(t, m, again)
	})
}

// What is taken out of an outbox, message by message, until it is empty.
func drain(t *testing.T, o *outbox) (messages []message) {
	t.Helper()
	for o.pending() {
		m, end := o.next(time.Now())
		require.LessOrEqual(t, len(m.String()), maxPayload)
		messages = append(messages, m)
		o.announced(end)
	}
	require.Zero(t, o.keys)
	require.Zero(t, o.alls)
	return messages
}
