//go:build linux

package chaos

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/stockroom/stockroom/test/history"
)

// An object's value is a number. As an item of any kind it is a text that begins
// with the number and goes on as the number says: so a value that was put together
// from two others shows.

// padding is the longest text behind a number. Some are longer than a packet, and
// every hundredth is longer than what a socket takes at once.
const padding = 3000

func text(n int64) string {
	length := int(n * 7919 % padding)
	if n%100 == 0 {
		length *= 20
	}
	return strconv.FormatInt(n, 10) + ":" + strings.Repeat(string(rune('a'+n%26)), length)
}

// member is the key of an item, with its kind.
type member struct{ key, kind string }

// body returns the value n as an item of the kind, in the form in which the
// service answers it.
func (m member) body(n int64) string {
	switch m.kind {
	case "component":
		return `{"sourceCode":"` + text(n) + `"}`
	case "block":
		return `{"files":[{"path":"a.tsx","content":"` + text(n) + `"}]}`
	default:
		return `{"value":"` + text(n) + `"}`
	}
}

// parse returns the value of a body. One that no client has made is an error.
func (m member) parse(body []byte) (int64, error) {
	digits := body[max(bytes.IndexAny(body, "0123456789"), 0):]
	number, _, _ := bytes.Cut(digits, []byte(":"))
	n, err := strconv.ParseInt(string(number), 10, 64)
	if err != nil || string(body) != m.body(n) {
		return 0, fmt.Errorf("%s: no value of ours: %.100q", m.key, body)
	}
	return n, nil
}

// group is keys that are only ever written together.
type group struct {
	name    string
	members []member
}

func newGroup(name string) group {
	g := group{name: name}
	for i, kind := range []string{"component", "block", "entry", "component", "entry"} {
		g.members = append(g.members, member{key: keyOf(kind, fmt.Sprintf("%s-%d", name, i)), kind: kind})
	}
	return g
}

func keyOf(kind, name string) string {
	if kind == "entry" {
		return "soak:" + name
	}
	return kind + ":soak:" + name
}

// mset is the request that writes n to all members.
func (g group) mset(n int64) string {
	var b strings.Builder
	b.WriteString(`{"entries":{`)
	for i, m := range g.members {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:%s", m.key, m.body(n))
	}
	b.WriteString("}}")
	return b.String()
}

// keys is the request that names the members.
func keysRequest(members []member) string {
	var b strings.Builder
	b.WriteString(`{"keys":[`)
	for i, m := range members {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q", m.key)
	}
	b.WriteString("]}")
	return b.String()
}

// parseMget returns the values of members in an answer of mget, in their order.
func parseMget(members []member, body []byte) ([]int64, error) {
	var answer struct {
		Items   map[string]json.RawMessage `json:"items"`
		Missing []string                   `json:"missing"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, err
	}
	if len(answer.Items)+len(answer.Missing) != len(members) {
		return nil, fmt.Errorf("%d items and %d missing for %d keys", len(answer.Items), len(answer.Missing), len(members))
	}
	values := make([]int64, len(members))
	for i, m := range members {
		item, there := answer.Items[m.key]
		if !there {
			values[i] = history.None
			continue
		}
		n, err := m.parse(item)
		if err != nil {
			return nil, err
		}
		values[i] = n
	}
	return values, nil
}
