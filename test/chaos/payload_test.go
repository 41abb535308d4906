//go:build linux

package chaos

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/test/history"
)

func TestValues(t *testing.T) {
	g := newGroup("g")
	for _, m := range g.members {
		for _, n := range []int64{1, 2, 26, 99, 100, 12345} {
			body := m.body(n)
			require.True(t, json.Valid([]byte(body)))
			got, err := m.parse([]byte(body))
			require.NoError(t, err)
			require.Equal(t, n, got)

			other := m.body(n + 1)
			_, err = m.parse([]byte(body[:len(body)/2] + other[len(other)/2:]))
			require.Error(t, err, "put together from two")
		}
		for _, body := range []string{"", "{}", "1", `{"value":"x"}`, `{"value":"99999999999999999999:"}`} {
			_, err := m.parse([]byte(body))
			require.Error(t, err, body)
		}
	}
	require.True(t, json.Valid([]byte(g.mset(7))))
	require.True(t, json.Valid([]byte(keysRequest(g.members))))
}

func TestParseMget(t *testing.T) {
	members := []member{{"a", "entry"}, {"b", "block"}}
	values, err := parseMget(members, []byte(`{"items":{"b":`+members[1].body(3)+`},"missing":["a"]}`))
	require.NoError(t, err)
	require.Equal(t, []int64{history.None, 3}, values)
	for _, body := range []string{``, `{}`, `{"items":{},"missing":["a"]}`, `{"items":{"a":1},"missing":["b"]}`} {
		_, err := parseMget(members, []byte(body))
		require.Error(t, err, body)
	}
}

func TestReport(t *testing.T) {
	made := func(fault string, violations ...string) *Report {
		tally := newTally()
		tally.answered(answer{status: 200, end: time.Second})
		tally.answered(answer{status: 503, code: "busy"})
		tally.acknowledge()
		tally.judged(10)
		tally.recovered(fault, time.Millisecond, time.Second)
		for range maxViolations + 1 {
			for _, kind := range violations {
				tally.violated(Violation{Kind: kind, Round: 1, Fault: fault, Detail: "detail"})
			}
		}
		r := run{tally: tally, config: Config{Seed: 7, RequestTimeout: time.Second}, rounds: 1, started: time.Now()}
		return r.report()
	}
	report := made("rain")
	require.True(t, report.Sound())
	other := made("snow", lost, notLinearizable)
	require.False(t, other.Sound())
	report.Add(other)
	require.False(t, report.Sound())
	require.Len(t, report.Violations, 2*maxViolations, "all are counted, some are kept")

	var text strings.Builder
	report.Print(&text)
	for _, line := range []string{
		"| seed | 7 |", "| requests | 4 |", "| answered: OK | 2 |", "| answered: Service Unavailable busy | 2 |", "| acknowledged writes | 2 |",
		"| slowest request | 1s (limit 2s) |", "| lost writes | 6 |", "| torn batches | 0 |", "| linearizable | no (6 keys) |",
		"| rain | 1 | 1ms | 1s |", "| snow | 1 | 1ms | 1s |", "violation: round 1 (snow): lost: detail",
	} {
		require.Contains(t, text.String(), line+"\n")
	}
}
