package item

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxSizeClaim is the largest fileSize or totalSize that a caller may claim: the
// largest integer that every JSON reader keeps exactly (RFC 7493, section 2.2).
const MaxSizeClaim = 1<<53 - 1

// MaxCategoryChars is how many characters a category may have.
const MaxCategoryChars = 50

// Value is a checked item as it is stored under its key.
type Value struct {
	Key       Key
	Component *Component // set where the key is a component's
	Block     *Block     // set where the key is a block's
	Entry     string     // compact JSON, where the key is an entry's
	ETag      string     // opaque tag of JSON, without the quotes
	Bytes     int64      // charged size
}

// JSON returns what a reader gets, byte for byte.
func (v *Value) JSON() []byte {
	switch {
	case v.Component != nil:
		return v.Component.JSON(v.Key)
	case v.Block != nil:
		return v.Block.JSON(v.Key)
	}
	return []byte(v.Entry)
}

// Component is one UI component. Fields that were left out are nil; JSON
// arrays and objects are kept as compact JSON.
type Component struct {
	Identity             Identity
	SourceCode           string
	DemoCode             *string
	Metadata             *string // JSON object
	Dependencies         *string // JSON array of strings
	RegistryDependencies *string // JSON array of strings
	GitHubSHA            *string // 40 hexadecimal digits
	FileSize             *int64  // bytes, as the caller claims
	LastModified         *string // RFC 3339, as written by the caller
}

// Block is a composition of several files. Fields that were left out are nil;
// JSON arrays and objects are kept as compact JSON.
type Block struct {
	Identity       Identity
	Category       *string
	Type           *string // simple or complex
	Description    *string
	Files          string  // JSON object or array
	Structure      *string // JSON
	Dependencies   *string // JSON array of strings
	ComponentsUsed *string // JSON array of strings
	TotalSize      *int64  // bytes, as the caller claims
	GitHubSHA      *string // 40 hexadecimal digits
}

// Identity says which parts of the key a body repeated, so that what comes back
// is what was put: a framework or name that was left out stays out.
type Identity int16

// The parts of a key that a body can repeat.
const (
	HasFramework Identity = 1 << iota
	HasName
)

// Parse reads body as the value of key. Its error is a *Fault.
func Parse(key Key, body []byte) (value Value, err error) {
	if quickly(body, func(q *quick) (ok bool) {
		value, ok = q.item(key)
		return ok
	}) {
		return value, nil
	}
	err = Decode(body, func(dec *jsontext.Decoder) error {
		var err error
		value, err = Read(dec, key)
		return err
	})
	return value, err
}

// Read reads the decoder's next JSON value as the value of key. Where it breaks
// a rule of the item, the error is a *Fault and the decoder stands behind the
// value; any other error is the decoder's own.
func Read(dec *jsontext.Decoder, key Key) (Value, error) {
	switch key.Kind() {
	case KindComponent:
		component, err := readComponent(dec, key)
		if err != nil {
			return Value{}, err
		}
		return NewComponent(key, component), nil
	case KindBlock:
		block, err := readBlock(dec, key)
		if err != nil {
			return Value{}, err
		}
		return NewBlock(key, block)
	default:
		raw, err := ReadRaw(dec)
		if err != nil {
			return Value{}, err
		}
		return newEntry(key, raw), nil
	}
}

func newEntry(key Key, raw []byte) Value {
	return Value{Key: key, Entry: string(raw), ETag: ETagOf(raw), Bytes: int64(len(raw))}
}

// NewComponent returns the value of a component whose fields obey the rules.
func NewComponent(key Key, c *Component) Value {
	return Value{Key: key, Component: c, ETag: ETagOf(c.JSON(key)), Bytes: c.size()}
}

// size is what the component is charged.
func (c *Component) size() int64 {
	size := int64(len(c.SourceCode))
	if c.DemoCode != nil {
		size += int64(len(*c.DemoCode))
	}
	if c.FileSize != nil {
		size = max(size, *c.FileSize)
	}
	return size
}

// NewBlock returns the value of a block whose fields obey the rules.
func NewBlock(key Key, b *Block) (Value, error) {
	contents, err := contentBytes([]byte(b.Files))
	if err != nil {
		return Value{}, err
	}
	return Value{Key: key, Block: b, ETag: ETagOf(b.JSON(key)), Bytes: b.size(contents)}, nil
}

// size is what the block is charged, of whose files contents are the bytes.
func (b *Block) size(contents int64) int64 {
	if b.TotalSize != nil {
		return max(contents, *b.TotalSize)
	}
	return contents
}

// ETagOf returns the opaque tag of a representation, without quotes: equal
// bytes have equal tags, others differ (128 bits of SHA-256).
func ETagOf(representation []byte) string {
	sum := sha256.Sum256(representation)
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

func readComponent(dec *jsontext.Decoder, key Key) (*Component, error) {
	var c Component
	hasSource := false
	start := dec.StackPointer()
	err := ReadObject(dec, func(name string) (err error) {
		switch name {
		case "framework":
			c.Identity |= HasFramework
			return readIdentity(dec, "framework", key.Framework())
		case "name":
			c.Identity |= HasName
			return readIdentity(dec, "name", key.Name())
		case "sourceCode":
			hasSource = true
			c.SourceCode, err = ReadString(dec)
		case "demoCode":
			c.DemoCode, err = optionalString(ReadString(dec))
		case "metadata":
			c.Metadata, err = optionalJSON(ReadRawKind(dec, "an object", jsontext.KindBeginObject))
		case "dependencies":
			c.Dependencies, err = optionalJSON(readStringsJSON(dec))
		case "registryDependencies":
			c.RegistryDependencies, err = optionalJSON(readStringsJSON(dec))
		case "githubSha":
			c.GitHubSHA, err = readSHA(dec)
		case "fileSize":
			c.FileSize, err = optionalInt(ReadInteger(dec, MaxSizeClaim, CodeInvalidValue))
		case "lastModified":
			c.LastModified, err = readTime(dec)
		default:
			return UnknownField(dec, name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if !hasSource {
		return nil, missingField(start, "sourceCode")
	}
	return &c, nil
}

func readBlock(dec *jsontext.Decoder, key Key) (*Block, error) {
	var b Block
	start := dec.StackPointer()
	err := ReadObject(dec, func(name string) (err error) {
		switch name {
		case "framework":
			b.Identity |= HasFramework
			return readIdentity(dec, "framework", key.Framework())
		case "name":
			b.Identity |= HasName
			return readIdentity(dec, "name", key.Name())
		case "category":
			b.Category, err = readCategory(dec)
		case "type":
			b.Type, err = readBlockType(dec)
		case "description":
			b.Description, err = optionalString(ReadString(dec))
		case "files":
			var files []byte
			files, err = ReadRawKind(dec, "an object or an array", jsontext.KindBeginObject, jsontext.KindBeginArray)
			b.Files = string(files)
		case "structure":
			b.Structure, err = optionalJSON(ReadRaw(dec))
		case "dependencies":
			b.Dependencies, err = optionalJSON(readStringsJSON(dec))
		case "componentsUsed":
			b.ComponentsUsed, err = optionalJSON(readStringsJSON(dec))
		case "totalSize":
			b.TotalSize, err = optionalInt(ReadInteger(dec, MaxSizeClaim, CodeInvalidValue))
		case "githubSha":
			b.GitHubSHA, err = readSHA(dec)
		default:
			return UnknownField(dec, name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if b.Files == "" {
		return nil, missingField(start, "files")
	}
	return &b, nil
}

// UnknownField consumes the value of a member that there is not and refuses it:
// a field that were dropped silently would be data lost.
func UnknownField(dec *jsontext.Decoder, name string) error {
	if err := dec.SkipValue(); err != nil {
		return err
	}
	return faultAt(dec, CodeUnknownField, fmt.Sprintf("there is no field %q", name))
}

func missingField(object jsontext.Pointer, name string) *Fault {
	return &Fault{Code: CodeMissingField, Pointer: string(object.AppendToken(name)), Detail: fmt.Sprintf("the field %q is required", name)}
}

func readIdentity(dec *jsontext.Decoder, what, want string) error {
	got, err := ReadString(dec)
	if err != nil {
		return err
	}
	if got != want {
		return faultAt(dec, CodeKeyMismatch, fmt.Sprintf("the %s must be %q as in the key, or be left out", what, want))
	}
	return nil
}

func readCategory(dec *jsontext.Decoder) (*string, error) {
	text, err := ReadString(dec)
	if err != nil {
		return nil, err
	}
	if !isCategory([]byte(text)) {
		return nil, faultAt(dec, CodeInvalidValue, fmt.Sprintf("must have at most %d characters", MaxCategoryChars))
	}
	return &text, nil
}

func readBlockType(dec *jsontext.Decoder) (*string, error) {
	text, err := ReadString(dec)
	if err != nil {
		return nil, err
	}
	if !isBlockType([]byte(text)) {
		return nil, faultAt(dec, CodeInvalidValue, `must be "simple" or "complex"`)
	}
	return &text, nil
}

func readSHA(dec *jsontext.Decoder) (*string, error) {
	text, err := ReadString(dec)
	if err != nil {
		return nil, err
	}
	if !isSHA([]byte(text)) {
		return nil, faultAt(dec, CodeInvalidValue, "must be 40 hexadecimal digits")
	}
	return &text, nil
}

func readTime(dec *jsontext.Decoder) (*string, error) {
	text, err := ReadString(dec)
	if err != nil {
		return nil, err
	}
	if !isTime([]byte(text)) {
		return nil, faultAt(dec, CodeInvalidValue, "must be a time as RFC 3339 writes it, such as 2026-01-31T12:00:00Z")
	}
	return &text, nil
}

// What the texts of some fields have to be.

func isCategory(text []byte) bool { return utf8.RuneCount(text) <= MaxCategoryChars }

func isBlockType(text []byte) bool { return string(text) == "simple" || string(text) == "complex" }

func isSHA(text []byte) bool {
	return len(text) == 40 && len(bytes.Trim(text, "0123456789abcdefABCDEF")) == 0
}

// isTime tells whether text is a time to the letter of RFC 3339, section 5.6, of which
// time.Parse takes less, and other things besides.
func isTime(text []byte) bool {
	const date, clock, seconds = len("0000-00-00"), len("0000-00-00T00:00"), len("0000-00-00T00:00:00")
	if len(text) < seconds || !hasForm(text[:seconds], "0000-00-00T00:00:00") {
		return false
	}
	year, month, day := number(text[:4]), number(text[5:7]), number(text[8:date])
	hour, minute, second := number(text[date+1:date+3]), number(text[date+4:clock]), number(text[clock+1:seconds])
	zone := text[seconds:]
	if len(zone) > 1 && zone[0] == '.' && isDigit(zone[1]) {
		zone = bytes.TrimLeft(zone[1:], "0123456789")
	}
	ahead, ok := offset(zone)
	if !ok || hour > 23 || minute > 59 || second > 60 {
		return false
	}
	t := time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC)
	if t.Month() != time.Month(month) || t.Day() != day {
		return false // there is no such day
	}
	if second < 60 {
		return true
	}
	// Leap seconds are the last ones of months, in UTC (section 5.7).
	t = t.Add(time.Duration(hour)*time.Hour + time.Duration(minute+1)*time.Minute - ahead)
	return t.Day() == 1 && t.Hour() == 0 && t.Minute() == 0
}

// offset returns how far the zone that a time ends with is ahead of UTC.
func offset(zone []byte) (ahead time.Duration, ok bool) {
	switch {
	case hasForm(zone, "Z"):
		return 0, true
	case !hasForm(zone, "+00:00") && !hasForm(zone, "-00:00"):
		return 0, false
	}
	hours, minutes := number(zone[1:3]), number(zone[4:6])
	ahead = time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute
	if zone[0] == '-' {
		ahead = -ahead
	}
	return ahead, hours <= 23 && minutes <= 59
}

// hasForm tells whether text is form with any digits for its zeros, and with its
// letters in either case.
func hasForm(text []byte, form string) bool {
	if len(text) != len(form) {
		return false
	}
	for i, c := range text {
		switch want := form[i]; want {
		case '0':
			if !isDigit(c) {
				return false
			}
		case 'T', 'Z':
			if c != want && c != want+'a'-'A' {
				return false
			}
		default:
			if c != want {
				return false
			}
		}
	}
	return true
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// number returns the value of a few digits.
func number(digits []byte) (n int) {
	for _, c := range digits {
		n = n*10 + int(c-'0')
	}
	return n
}

func optionalString(text string, err error) (*string, error) {
	if err != nil {
		return nil, err
	}
	return &text, nil
}

func optionalJSON(raw []byte, err error) (*string, error) {
	return optionalString(string(raw), err)
}

func optionalInt(n int64, err error) (*int64, error) {
	if err != nil {
		return nil, err
	}
	return &n, nil
}

// contentBytes returns the bytes of all strings named `content` in files, which
// is compact JSON, or the bytes of the JSON where there are none.
func contentBytes(files []byte) (int64, error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(files))
	var sum int64
	found, isContent := false, false
	for range files { // a token has at least one byte, so this ends
		token, err := dec.ReadToken()
		if err != nil {
			return 0, fmt.Errorf("read files: %w", err)
		}
		if dec.StackDepth() == 0 {
			break
		}
		kind, length := dec.StackIndex(dec.StackDepth())
		isName := token.Kind() == jsontext.KindString && kind == jsontext.KindBeginObject && length%2 == 1
		if isContent && token.Kind() == jsontext.KindString {
			found = true
			sum += int64(len(token.String()))
		}
		isContent = isName && token.String() == "content"
	}
	if !found {
		return int64(len(files)), nil
	}
	return sum, nil
}
