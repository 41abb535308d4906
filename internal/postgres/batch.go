package postgres

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// SendBatch sends a batch and reads every answer, as conn.SendBatch(ctx, batch).Close()
// does. But pgx begins each time with small buffers for the arguments and for the
// messages, which grow step by step to the size of all texts: for sources that costs
// more than all else that is done to send them, and several times the memory. Here
// those buffers have their size from the start. They are made anew for each batch, since
// a connection may keep them for its next one.
func SendBatch(ctx context.Context, conn *pgx.Conn, batch *pgx.Batch) error {
	largest, all := 0, 0
	for _, query := range batch.QueuedQueries {
		n := textBytes(query.Arguments)
		largest, all = max(largest, n), all+n
	}
	if _, ok := conn.PgConn().CustomData()[presizing]; !ok || all < minPresized {
		return conn.SendBatch(ctx, batch).Close()
	}
	arguments := make([]byte, 0, largest)
	for _, query := range batch.QueuedQueries {
		if len(query.Arguments) > 0 {
			if text, ok := query.Arguments[0].(string); ok {
				query.Arguments[0] = presized{text: text, buffer: arguments}
			}
		}
	}
	conn.PgConn().Frontend().Send(&room{make([]byte, 0, all)})
	return conn.SendBatch(ctx, batch).Close()
}

const (
	// minPresized is how many bytes of texts are worth it.
	minPresized = 4 << 10
	// perArgument is what an argument takes beside its text: in a message its length
	// and format, and any number.
	perArgument = 16
)

// textBytes is how much room arguments take.
func textBytes(arguments []any) int {
	n := perArgument * len(arguments)
	for _, argument := range arguments {
		if text, ok := argument.(string); ok {
			n += len(text)
		}
	}
	return n
}

// presized is a text, the first argument of a statement, with the buffer for all of
// them.
type presized struct {
	text   string
	buffer []byte
}

// presizing is where a connection carries that it knows what presized is.
const presizing = "stockroom.presizing"

// presize makes a connection know that. The simple protocol, which a connection string
// can ask for, puts arguments into the text of a statement, and cannot.
func presize(conn *pgx.Conn) {
	if conn.Config().DefaultQueryExecMode == pgx.QueryExecModeSimpleProtocol {
		return
	}
	conn.PgConn().CustomData()[presizing] = true
	types := conn.TypeMap()
	types.TryWrapEncodePlanFuncs = slices.Insert(slices.Clone(types.TryWrapEncodePlanFuncs), 0, wrapPresized)
}

func wrapPresized(value any) (plan pgtype.WrappedEncodePlanNextSetter, next any, ok bool) {
	p, ok := value.(presized)
	return new(presizedPlan), p.text, ok
}

type presizedPlan struct{ next pgtype.EncodePlan }

// SetNext takes the plan for the text.
func (p *presizedPlan) SetNext(next pgtype.EncodePlan) { p.next = next }

// Encode begins a statement's arguments in the buffer that is large enough.
func (p *presizedPlan) Encode(value any, out []byte) ([]byte, error) {
	first, ok := value.(presized)
	if ok && len(out) == 0 {
		out = first.buffer
	}
	return p.next.Encode(first.text, out)
}

// room is a message of nothing, which gives those that follow it a buffer.
type room struct{ buffer []byte }

// Frontend makes it one that is sent.
func (*room) Frontend() {}

// Decode is for messages that are received.
func (*room) Decode([]byte) error { return nil }

// Encode returns the buffer in place of one that holds nothing yet.
func (r *room) Encode(out []byte) ([]byte, error) {
	if len(out) == 0 {
		return r.buffer, nil
	}
	return slices.Grow(out, cap(r.buffer)), nil
}
