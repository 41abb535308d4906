package item

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"sync"
	"unicode/utf8"
)

// quick reads bodies that are right, in one pass and nearly without allocating: that is
// most of what a server's own time of a write is spent on. It takes no more than what
// Decode and Read take and makes the same of it, but knows nothing about what is
// wrong: at whatever it does not take for certain it gives up, and they read the body
// anew and say so. FuzzParse holds the two against each other.
type quick struct {
	body   []byte // valid UTF-8
	at     int    // how far it has been read
	depth  int    // of the objects and arrays around that
	spaces bool   // white space has been skipped

	text      []byte // the last string, decoded
	canonical bool   // it is written as AppendQuote writes it

	names       [][]byte // of the members so far of the objects around that
	contents    int64    // bytes of all strings named content
	hasContents bool     // there was one

	json []byte // of the item, for its ETag
}

// maxQuickNames is how many members an object may have, whose names are all compared
// with each other.
const maxQuickNames = 64

// maxQuickKept is how large the buffers may be that are kept for another body.
const maxQuickKept = 1 << 20

var quicks = sync.Pool{New: func() any { return new(quick) }}

// quickly calls read with what reads body, and tells whether that has taken it, whole.
func quickly(body []byte, read func(*quick) bool) bool {
	if !utf8.Valid(body) {
		return false
	}
	q, ok := quicks.Get().(*quick)
	if !ok {
		q = new(quick)
	}
	*q = quick{body: body, text: q.text[:0], names: q.names[:0], json: q.json[:0]}
	ok = read(q) && q.peek() == 0 && q.at == len(body)
	if q.body = nil; cap(q.text) <= maxQuickKept && cap(q.json) <= maxQuickKept {
		clear(q.names[:cap(q.names)]) // they are parts of the body
		quicks.Put(q)
	}
	return ok
}

// peek skips white space and returns the byte behind it, 0 at the end.
func (q *quick) peek() byte {
	for ; q.at < len(q.body); q.at++ {
		switch c := q.body[q.at]; c {
		case ' ', '\t', '\n', '\r':
			q.spaces = true
		default:
			return c
		}
	}
	return 0
}

// skip reads the byte c, with white space before it.
func (q *quick) skip(c byte) bool {
	if q.peek() != c {
		return false
	}
	q.at++
	return true
}

// object reads an object and calls member for each member, in front of its value,
// with its name, which stands in the body unless it has escapes.
func (q *quick) object(member func(name []byte) bool) bool {
	return q.list('{', '}', func() bool {
		name, ok := q.name()
		return ok && member(name)
	})
}

// list reads what stands between two brackets, with commas between its elements.
func (q *quick) list(opening, closing byte, element func() bool) bool {
	if !q.skip(opening) || q.depth == MaxDepth {
		return false
	}
	q.depth++
	if q.peek() != closing {
		for {
			if !element() {
				return false
			}
			if q.peek() != ',' {
				break
			}
			q.at++
		}
	}
	q.depth--
	return q.skip(closing)
}

// name reads the name of a member. With escapes it would be valid only until the
// next string: such names are rare.
func (q *quick) name() ([]byte, bool) {
	raw, ok := q.string()
	if !ok || len(raw)-2 != len(q.text) || !q.skip(':') {
		return nil, false
	}
	return raw[1 : len(raw)-1], true
}

// string reads a string without U+0000, of which it returns what stands in the body.
func (q *quick) string() (raw []byte, ok bool) {
	if q.peek() != '"' {
		return nil, false
	}
	start := q.at
	q.at++
	q.text, q.canonical = q.text[:0], true
	for {
		plain := plainPrefixBytes(q.body[q.at:])
		q.text = append(q.text, q.body[q.at:q.at+plain]...)
		if q.at += plain; q.at == len(q.body) {
			return nil, false
		}
		switch q.body[q.at] {
		case '"':
			q.at++
			return q.body[start:q.at], true
		case '\\':
			if !q.escape() {
				return nil, false
			}
		default: // a control character
			return nil, false
		}
	}
}

// escape reads an escape of a string and adds it to the text.
func (q *quick) escape() bool {
	if q.at+1 >= len(q.body) {
		return false
	}
	c := q.body[q.at+1]
	switch c {
	case '"', '\\':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case '/':
		q.canonical = false
	case 'u':
		return q.unicodeEscape()
	default:
		return false
	}
	q.at += len(`\n`)
	q.text = append(q.text, c)
	return true
}

// unicodeEscape likewise for \u and four digits, twice for a surrogate pair.
func (q *quick) unicodeEscape() bool {
	r, ok := q.hex()
	if !ok || r == 0 {
		return false
	}
	if r >= 0xd800 && r < 0xe000 {
		low, ok := q.hex()
		if !ok || r >= 0xdc00 || low < 0xdc00 || low >= 0xe000 {
			return false
		}
		r = (r-0xd800)<<10 | (low - 0xdc00) + 0x10000
	}
	q.canonical = false
	q.text = utf8.AppendRune(q.text, r)
	return true
}

func (q *quick) hex() (r rune, ok bool) {
	const length = len(`\u0000`)
	if q.at+length > len(q.body) || q.body[q.at] != '\\' || q.body[q.at+1] != 'u' {
		return 0, false
	}
	for _, c := range q.body[q.at+2 : q.at+length] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	q.at += length
	return r, true
}

// value reads any value and throws it away, but for the bytes of those named content.
func (q *quick) value() bool {
	switch q.peek() {
	case '{':
		names := len(q.names)
		ok := q.object(func(name []byte) bool {
			if !q.remember(name, names) {
				return false
			}
			isContent := string(name) == "content" && q.peek() == '"'
			ok := q.value()
			if isContent {
				q.hasContents = true
				q.contents += int64(len(q.text))
			}
			return ok
		})
		q.names = q.names[:names]
		return ok
	case '[':
		return q.list('[', ']', q.value)
	case '"':
		_, ok := q.string()
		return ok
	case 't':
		return q.literal("true")
	case 'f':
		return q.literal("false")
	case 'n':
		return q.literal("null")
	}
	return q.number()
}

// remember takes note of the name of a member of the object whose names begin at
// first, unless it has the name already.
func (q *quick) remember(name []byte, first int) bool {
	if len(q.names)-first == maxQuickNames {
		return false
	}
	for _, other := range q.names[first:] {
		if bytes.Equal(name, other) {
			return false
		}
	}
	q.names = append(q.names, name)
	return true
}

func (q *quick) literal(text string) bool {
	if !bytes.HasPrefix(q.body[q.at:], []byte(text)) {
		return false
	}
	q.at += len(text)
	return true
}

func (q *quick) number() bool {
	if q.peek() == '-' {
		q.at++
	}
	leading := q.at
	if n := q.digits(); n == 0 || n > 1 && q.body[leading] == '0' {
		return false
	}
	if q.at < len(q.body) && q.body[q.at] == '.' {
		q.at++
		if q.digits() == 0 {
			return false
		}
	}
	if q.at < len(q.body) && (q.body[q.at] == 'e' || q.body[q.at] == 'E') {
		q.at++
		if q.at < len(q.body) && (q.body[q.at] == '+' || q.body[q.at] == '-') {
			q.at++
		}
		return q.digits() > 0
	}
	return true
}

// digits reads the digits that there are and returns how many.
func (q *quick) digits() int {
	start := q.at
	for q.at < len(q.body) && q.body[q.at] >= '0' && q.body[q.at] <= '9' {
		q.at++
	}
	return q.at - start
}

// integer reads an integer of 0 to limit that is written as one.
func (q *quick) integer(limit int64) (n int64, ok bool) {
	const safeDigits = 18 // fit into an int64
	q.peek()
	start := q.at
	if !q.number() {
		return 0, false
	}
	digits := q.body[start:q.at]
	if len(digits) > safeDigits {
		return 0, false
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, n <= limit
}

// raw reads a value with read and returns its compact JSON, as ReadRaw does. It is
// valid until the next string is read.
func (q *quick) raw(read func() bool) (raw []byte, ok bool) {
	q.peek()
	start := q.at
	q.spaces = false
	if !read() {
		return nil, false
	}
	raw = q.body[start:q.at]
	if q.spaces {
		q.text = appendCompact(q.text[:0], raw)
		raw = q.text
	}
	return raw, true
}

// appendCompact appends raw, which is valid JSON, without white space outside strings.
func appendCompact(out, raw []byte) []byte {
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; c {
		case ' ', '\t', '\n', '\r':
		case '"':
			end := endOfString(raw, i)
			out = append(out, raw[i:end+1]...)
			i = end
		default:
			out = append(out, c)
		}
	}
	return out
}

// The functions below read what the fields of components and blocks are; where they
// return true the text obeys the field's rules.

func (q *quick) optionalText(right func(text []byte) bool) (*string, bool) {
	if _, ok := q.string(); !ok || right != nil && !right(q.text) {
		return nil, false
	}
	text := string(q.text)
	return &text, true
}

func (q *quick) optionalRaw(read func() bool) (*string, bool) {
	raw, ok := q.raw(read)
	text := string(raw)
	return &text, ok
}

func (q *quick) optionalInteger() (*int64, bool) {
	n, ok := q.integer(MaxSizeClaim)
	return &n, ok
}

func (q *quick) anyObject() bool { return q.peek() == '{' && q.value() }

func (q *quick) strings() bool {
	return q.list('[', ']', func() bool {
		_, ok := q.string()
		return ok
	})
}

// same reads a string that has to be want.
func (q *quick) same(want string) bool {
	_, ok := q.string()
	return ok && string(q.text) == want
}

// item reads the value of key.
func (q *quick) item(key Key) (Value, bool) {
	switch key.Kind() {
	case KindComponent:
		return q.component(key)
	case KindBlock:
		return q.block(key)
	default:
		raw, ok := q.raw(q.value)
		if !ok {
			return Value{}, false
		}
		return newEntry(key, raw), true
	}
}

// The fields of components and blocks, as bits: none may be there twice.
const (
	fieldFramework = 1 << iota
	fieldName
	fieldSourceCode
	fieldDemoCode
	fieldMetadata
	fieldDependencies
	fieldRegistryDependencies
	fieldGitHubSHA
	fieldFileSize
	fieldLastModified
	fieldCategory
	fieldType
	fieldDescription
	fieldFiles
	fieldStructure
	fieldComponentsUsed
	fieldTotalSize
)

func (q *quick) component(key Key) (Value, bool) {
	c := new(Component)
	fields := 0
	var source []byte // as it stands in the body, if that is how it is written in the JSON
	ok := q.object(func(name []byte) (ok bool) {
		var field int
		switch string(name) {
		case "framework":
			field, ok = fieldFramework, q.same(key.Framework())
			c.Identity |= HasFramework
		case "name":
			field, ok = fieldName, q.same(key.Name())
			c.Identity |= HasName
		case "sourceCode":
			field = fieldSourceCode
			if source, ok = q.string(); ok {
				c.SourceCode = string(q.text)
				if !q.canonical {
					source = nil
				}
			}
		case "demoCode":
			field = fieldDemoCode
			c.DemoCode, ok = q.optionalText(nil)
		case "metadata":
			field = fieldMetadata
			c.Metadata, ok = q.optionalRaw(q.anyObject)
		case "dependencies":
			field = fieldDependencies
			c.Dependencies, ok = q.optionalRaw(q.strings)
		case "registryDependencies":
			field = fieldRegistryDependencies
			c.RegistryDependencies, ok = q.optionalRaw(q.strings)
		case "githubSha":
			field = fieldGitHubSHA
			c.GitHubSHA, ok = q.optionalText(isSHA)
		case "fileSize":
			field = fieldFileSize
			c.FileSize, ok = q.optionalInteger()
		case "lastModified":
			field = fieldLastModified
			c.LastModified, ok = q.optionalText(isTime)
		}
		ok = ok && fields&field == 0
		fields |= field
		return ok
	})
	if !ok || fields&fieldSourceCode == 0 {
		return Value{}, false
	}
	q.json = c.appendJSON(q.json[:0], key, source)
	return Value{Key: key, Component: c, ETag: ETagOf(q.json), Bytes: c.size()}, true
}

func (q *quick) block(key Key) (Value, bool) {
	b := new(Block)
	fields := 0
	var contents int64
	ok := q.object(func(name []byte) (ok bool) {
		var field int
		switch string(name) {
		case "framework":
			field, ok = fieldFramework, q.same(key.Framework())
			b.Identity |= HasFramework
		case "name":
			field, ok = fieldName, q.same(key.Name())
			b.Identity |= HasName
		case "category":
			field = fieldCategory
			b.Category, ok = q.optionalText(isCategory)
		case "type":
			field = fieldType
			b.Type, ok = q.optionalText(isBlockType)
		case "description":
			field = fieldDescription
			b.Description, ok = q.optionalText(nil)
		case "files":
			field = fieldFiles
			q.contents, q.hasContents = 0, false
			if kind := q.peek(); kind == '{' || kind == '[' {
				var raw []byte
				raw, ok = q.raw(q.value)
				b.Files = string(raw)
			}
			if contents = q.contents; !q.hasContents {
				contents = int64(len(b.Files))
			}
		case "structure":
			field = fieldStructure
			b.Structure, ok = q.optionalRaw(q.value)
		case "dependencies":
			field = fieldDependencies
			b.Dependencies, ok = q.optionalRaw(q.strings)
		case "componentsUsed":
			field = fieldComponentsUsed
			b.ComponentsUsed, ok = q.optionalRaw(q.strings)
		case "totalSize":
			field = fieldTotalSize
			b.TotalSize, ok = q.optionalInteger()
		case "githubSha":
			field = fieldGitHubSHA
			b.GitHubSHA, ok = q.optionalText(isSHA)
		}
		ok = ok && fields&field == 0
		fields |= field
		return ok
	})
	if !ok || fields&fieldFiles == 0 {
		return Value{}, false
	}
	q.json = b.appendJSON(q.json[:0], key)
	return Value{Key: key, Block: b, ETag: ETagOf(q.json), Bytes: b.size(contents)}, true
}

// Batch is what an mset stores.
type Batch struct {
	Values []Value
	TTL    *TTL // nil: none was named
}

// ParseBatch reads `{entries, ttl?}` with at most limit entries, where it is right and
// written in no unusual way. Otherwise ok is false, and the body is for Decode to read.
func ParseBatch(body []byte, limit int) (batch Batch, ok bool) {
	hasEntries := false
	ok = quickly(body, func(q *quick) bool {
		return q.object(func(name []byte) (ok bool) {
			switch {
			case string(name) == "entries" && !hasEntries:
				hasEntries = true
				batch.Values, ok = q.entries(limit)
			case string(name) == "ttl" && batch.TTL == nil:
				var n int64
				n, ok = q.integer(int64(MaxTTL))
				batch.TTL = (*TTL)(&n)
			}
			return ok
		})
	})
	return batch, ok && hasEntries
}

// entries reads an object of values by key.
func (q *quick) entries(limit int) (values []Value, ok bool) {
	seen := make(map[string]struct{})
	ok = q.object(func(name []byte) bool {
		key, err := ParseKey(string(name))
		if err != nil || len(values) == limit {
			return false
		}
		if _, twice := seen[key.text]; twice {
			return false
		}
		seen[key.text] = struct{}{}
		value, ok := q.item(key)
		values = append(values, value)
		return ok
	})
	return values, ok
}

// plainPrefixBytes is plainPrefix for bytes.
func plainPrefixBytes(text []byte) int {
	i := 0
	for ; i+8 <= len(text); i += 8 {
		word := binary.LittleEndian.Uint64(text[i:])
		if special := specials(word); special != 0 {
			return i + bits.TrailingZeros64(special)/8
		}
	}
	for ; i < len(text); i++ {
		if c := text[i]; c < 0x20 || c == '"' || c == '\\' {
			break
		}
	}
	return i
}
