package repo

import (
	"context"
	"unsafe"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/txn"
)

// storedColumns are metadataColumns followed by the value's.
func (t *table) storedColumns() string { return metadataColumns + prefixed(t.value) }

// readStored runs a statement that selects storedColumns and gives each row to found,
// with the row's key; that is a text of the row, as all that is scanned.
//
// Most of what a SELECT of many items costs the server is moving their bytes. So these
// are copied once, from the driver's memory into the item's JSON, and rows are
// scanned into the same variables one after the other.
func (t *table) readStored(
	ctx context.Context, u *txn.Unit, found func(key string, stored func(item.Key) item.Stored), sql string, args ...any,
) error {
	var r metadataRow
	values, encode := t.scanValue()
	dests := append(r.dests(), values...)
	dests[0] = &text{to: &r.key}
	stored := func(key item.Key) item.Stored {
		return item.Stored{Metadata: r.of(key), JSON: encode(key)}
	}
	return u.Select(ctx, func(rows pgx.Rows) error {
		for rows.Next() {
			if err := rows.Scan(dests...); err != nil {
				return err
			}
			found(r.key, stored)
		}
		return rows.Err()
	}, sql, args...)
}

// text scans a text without copying it: what is scanned is the driver's memory, and
// valid until the next row.
type text struct{ to *string }

// ScanBytes sets the text. It is never NULL.
func (t *text) ScanBytes(of []byte) error {
	*t.to = view(of)
	return nil
}

func view(of []byte) string {
	return unsafe.String(unsafe.SliceData(of), len(of)) //nolint:gosec // nobody changes it before the next row
}

// optionalText is a text that may be NULL.
type optionalText struct {
	to   **string
	text string
}

func optional(to **string) *optionalText { return &optionalText{to: to} }

// ScanBytes sets the text.
func (o *optionalText) ScanBytes(of []byte) error {
	*o.to = nil
	if of != nil {
		o.text = view(of)
		*o.to = &o.text
	}
	return nil
}

// optionalInt is a number that may be NULL.
type optionalInt struct {
	to **int64
	n  int64
}

// ScanInt64 sets the number.
func (o *optionalInt) ScanInt64(of pgtype.Int8) error {
	*o.to = nil
	if of.Valid {
		o.n = of.Int64
		*o.to = &o.n
	}
	return nil
}
