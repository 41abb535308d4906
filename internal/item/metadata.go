package item

import "time"

// Metadata is what a store knows of an item besides its value.
type Metadata struct {
	Key         Key
	Bytes       int64         // charged size
	TTL         TTL           // as given at the last write or touch
	Remaining   time.Duration // until it expires, by the database's clock at the time of the read; 0 where TTL is 0
	Expires     time.Time     // zero where it never expires
	Created     time.Time
	Updated     time.Time // of the last write of the value
	Accessed    time.Time
	AccessCount int64
	ETag        string // opaque tag, without the quotes
	Version     int64  // 1 at the first write, one more at each that follows
}

// Stored is an item as it was read.
type Stored struct {
	Metadata
	JSON []byte // the value, as in Value.JSON; never changed by anyone
	// Stale says that the database could not be asked whether this is the latest.
	Stale bool
}

// Summary is what a list says of a component or a block: its metadata and its
// small fields. What the item does not have is nil.
type Summary struct {
	Metadata
	Component *Component // without SourceCode, DemoCode and Metadata
	Block     *Block     // without Files and Structure
}

// Counts counts items by kind.
type Counts struct {
	Components int64
	Blocks     int64
	Entries    int64
}

// Total returns the sum over the kinds.
func (c Counts) Total() int64 { return c.Components + c.Blocks + c.Entries }

// CountKinds counts keys by their kinds.
func CountKinds(keys []Key) (n Counts) {
	for i := range keys {
		switch keys[i].Kind() {
		case KindComponent:
			n.Components++
		case KindBlock:
			n.Blocks++
		case KindEntry:
			n.Entries++
		}
	}
	return n
}

// Usage is how many items there are and what they are charged, by kind.
type Usage struct {
	Items Counts
	Bytes Counts
}

// UsageOf returns the usage of items of one kind.
func UsageOf(kind Kind, items, bytes int64) Usage {
	switch kind {
	case KindComponent:
		return Usage{Items: Counts{Components: items}, Bytes: Counts{Components: bytes}}
	case KindBlock:
		return Usage{Items: Counts{Blocks: items}, Bytes: Counts{Blocks: bytes}}
	case KindEntry:
		return Usage{Items: Counts{Entries: items}, Bytes: Counts{Entries: bytes}}
	}
	return Usage{}
}

// Plus returns the sum of two usages.
func (u Usage) Plus(other Usage) Usage {
	return Usage{Items: u.Items.plus(other.Items, 1), Bytes: u.Bytes.plus(other.Bytes, 1)}
}

// Minus returns the usage without other.
func (u Usage) Minus(other Usage) Usage {
	return Usage{Items: u.Items.plus(other.Items, -1), Bytes: u.Bytes.plus(other.Bytes, -1)}
}

func (c Counts) plus(other Counts, sign int64) Counts {
	return Counts{
		Components: c.Components + sign*other.Components,
		Blocks:     c.Blocks + sign*other.Blocks,
		Entries:    c.Entries + sign*other.Entries,
	}
}

// FrameworkUsage is what one framework holds.
type FrameworkUsage struct {
	Framework  string
	Components int64
	Blocks     int64
	Bytes      int64
}
