package item

import "time"

// Record is an item with all that a store knows of it, as it moves from one store
// to another.
type Record struct {
	Value       Value  // of an item that is read out of a store: Key, ETag and Bytes alone
	JSON        []byte // of such an item, as in Value.JSON
	TTL         TTL
	Expires     time.Time // zero where it never expires
	Created     time.Time
	Updated     time.Time // of the last write of the value
	Cached      time.Time // of the last write or touch
	Accessed    time.Time
	AccessCount int64
	Version     int64
}

// SameWrite tells whether two records are of the same write: whatever differs
// between them is what readers have left.
func (r Record) SameWrite(other Record) bool {
	return r.Value.ETag == other.Value.ETag && r.Version == other.Version && r.TTL == other.TTL &&
		r.Created.Equal(other.Created) && r.Updated.Equal(other.Updated) && r.Expires.Equal(other.Expires)
}
