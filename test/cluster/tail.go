//go:build linux

package cluster

import (
	"bytes"
	"sync"
)

// maxTail bounds what is kept of a log.
const maxTail = 256 << 10

// alarms are what must never stand in the server's log.
var alarms = [][]byte{[]byte("DATA RACE"), []byte(`"msg":"panic"`), []byte("\npanic: "), []byte("fatal error: ")}

// tail keeps the end of a log and looks out for alarms.
type tail struct {
	mu     sync.Mutex
	text   []byte
	alarms int
}

// Write implements io.Writer. It never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, alarm := range alarms {
		t.alarms += bytes.Count(p, alarm)
	}
	t.text = append(t.text, p...)
	if over := len(t.text) - maxTail; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

func (t *tail) state() (text string, alarms int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text), t.alarms
}
