package notice

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/stockroom/stockroom/internal/item"
)

// version begins every message.
const version = "1"

const (
	// maxPayload is below PostgreSQL's limit of 8,000 bytes for a notification.
	maxPayload = 7900
	// maxHeader is the most that a message has besides its keys.
	maxHeader = 100
)

// id names a server as long as its process lives.
type id uint64

// short is the part of an id that fits into an advisory lock.
func (i id) short() uint32 { return uint32(i) } //nolint:gosec // the lower half is what is wanted

// message is what servers tell each other. Its text is a line with the fields and
// then a line for each key, in which there are no control characters.
type message struct {
	from   id
	number uint64 // one more than that of the sender's message before
	// sent is when the message was composed, on the sender's clock: for itself,
	// when the message comes back to it.
	sent time.Duration
	// lag is how long the oldest change of the sender that no message up to this
	// one names had been under way when the message was composed.
	lag  time.Duration
	all  bool // any item may have changed
	bye  bool // the sender has changed the last item
	keys []item.Key
}

const (
	flagAll = "all"
	flagBye = "bye"
)

func (m message) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s %x %d %d %d", version, uint64(m.from), m.number, m.sent, m.lag)
	if m.all {
		text.WriteString(" " + flagAll)
	}
	if m.bye {
		text.WriteString(" " + flagBye)
	}
	for _, key := range m.keys {
		text.WriteByte('\n')
		text.WriteString(key.String())
	}
	return text.String()
}

var errGarbage = errors.New("notice: not a message of ours")

// parse reads a message. Its error is errGarbage.
func parse(text string) (message, error) {
	header, keys, hasKeys := strings.Cut(text, "\n")
	fields := strings.Split(header, " ")
	if len(fields) < 5 || fields[0] != version {
		return message{}, errGarbage
	}
	var m message
	from, err1 := strconv.ParseUint(fields[1], 16, 64)
	number, err2 := strconv.ParseUint(fields[2], 10, 64)
	sent, err3 := strconv.ParseInt(fields[3], 10, 64)
	lag, err4 := strconv.ParseInt(fields[4], 10, 64)
	if errors.Join(err1, err2, err3, err4) != nil || sent < 0 || lag < 0 {
		return message{}, errGarbage
	}
	m.from, m.number, m.sent, m.lag = id(from), number, time.Duration(sent), time.Duration(lag)
	for _, flag := range fields[5:] {
		switch flag {
		case flagAll:
			m.all = true
		case flagBye:
			m.bye = true
		default:
			return message{}, errGarbage
		}
	}
	if !hasKeys {
		return m, nil
	}
	for line := range strings.SplitSeq(keys, "\n") {
		key, err := item.ParseKey(line)
		if err != nil {
			return message{}, errGarbage
		}
		m.keys = append(m.keys, key)
	}
	return m, nil
}
