package item

// Precondition is what a caller requires of an item before it is read or
// changed (RFC 9110, section 13). The zero Precondition requires nothing.
type Precondition struct {
	IfMatch     *Tags // the item must be one of these
	IfNoneMatch *Tags // the item must be none of these
}

// Tags is a list of entity tags, or `*` for any.
type Tags struct {
	Any  bool
	List []Tag
}

// Tag is an entity tag without its quotes.
type Tag struct {
	Opaque string
	Weak   bool
}

// None tells whether nothing is required.
func (p Precondition) None() bool { return p.IfMatch == nil && p.IfNoneMatch == nil }

// Holds tells whether an item that exists with the strong tag etag, or that does
// not exist, is as required. If-Match compares strongly, so a weak tag never
// matches; If-None-Match compares weakly.
func (p Precondition) Holds(exists bool, etag string) bool {
	if p.IfMatch != nil && !(exists && p.IfMatch.has(etag, false)) {
		return false
	}
	return p.IfNoneMatch == nil || !exists || !p.IfNoneMatch.has(etag, true)
}

func (t *Tags) has(etag string, weakly bool) bool {
	if t.Any {
		return true
	}
	for _, tag := range t.List {
		if tag.Opaque == etag && (weakly || !tag.Weak) {
			return true
		}
	}
	return false
}
