package item

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxDepth is how many objects and arrays may stand inside one another in a body.
const MaxDepth = 64

// Decode reads the one JSON value of body with read and checks that nothing
// follows it. JSON here is I-JSON (RFC 7493): valid UTF-8, no unpaired
// surrogates, no member twice; deeper than MaxDepth is refused before it is read.
// Every error is a *Fault, a Faults, or whatever else read returned of its own.
func Decode(body []byte, read func(*jsontext.Decoder) error) error {
	return decode(body, read)
}

// DecodeBatch is Decode for a body of which everything that is bad is looked for: its
// decoder takes names that are there twice and unpaired surrogates, and read refuses
// them, with ReadMembers, ReadString, ReadKey, or Parse for a whole value.
func DecodeBatch(body []byte, read func(*jsontext.Decoder) error) error {
	if !utf8.Valid(body) {
		return decode(body, (*jsontext.Decoder).SkipValue, jsontext.AllowDuplicateNames(true))
	}
	return decode(body, read, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

func decode(body []byte, read func(*jsontext.Decoder) error, options ...jsontext.Options) error {
	if depth(body) > MaxDepth {
		return &Fault{Code: CodeTooDeep, Detail: fmt.Sprintf("the body is nested deeper than %d levels", MaxDepth)}
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(body), options...)
	if err := read(dec); err != nil {
		var fault *Fault
		var faults Faults
		if errors.As(err, &fault) || errors.As(err, &faults) {
			// A fault leaves the decoder behind the value, so that what else the
			// body has is still held against JSON's grammar first.
			if tail := expectEnd(dec); tail != nil {
				return tail
			}
			return err
		}
		return syntaxFault(dec, err)
	}
	return expectEnd(dec)
}

func expectEnd(dec *jsontext.Decoder) error {
	rest := dec.UnreadBuffer()
	at := dec.InputOffset() + int64(len(rest)-len(bytes.TrimLeft(rest, " \t\r\n")))
	switch _, err := dec.ReadToken(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return syntaxFault(dec, err)
	default:
		return &Fault{Code: CodeMalformedJSON, Detail: fmt.Sprintf("the body has something behind its JSON value after offset %d", at)}
	}
}

// syntaxFault is SyntaxFault for a decoder that has all of a body. Where that ends too
// early, the decoder's own offset may be that of a token before.
func syntaxFault(dec *jsontext.Decoder, err error) *Fault {
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok && errors.Is(err, io.ErrUnexpectedEOF) {
		syntactic.ByteOffset = dec.InputOffset() + int64(len(dec.UnreadBuffer()))
	}
	return SyntaxFault(err)
}

// ReadObject reads an object and calls member for each of its members with the
// decoder in front of the value, which member must consume. A *Fault that
// member returns is kept until the object has been read to its end, and the
// first one is then returned: the decoder always stands behind the object. Any
// other error of member's ends the reading at once.
func ReadObject(dec *jsontext.Decoder, member func(name string) error) error {
	var first *Fault
	err := ReadMembers(dec, func(name string, bad *Fault) error {
		err := SkipBad(dec, bad)
		if err == nil {
			err = member(name)
		}
		if fault, ok := errors.AsType[*Fault](err); ok {
			first = cmp.Or(first, fault)
			return nil
		}
		return err
	})
	if err == nil && first != nil {
		return first
	}
	return err
}

// SkipBad consumes the value of a member whose name is bad, and returns that.
func SkipBad(dec *jsontext.Decoder, bad *Fault) error {
	if bad == nil {
		return nil
	}
	if err := dec.SkipValue(); err != nil {
		return err
	}
	return bad
}

// ReadMembers is ReadObject for members whose names may be bad, which are then given
// with what is wrong with them. Any error of member's ends the reading at once.
func ReadMembers(dec *jsontext.Decoder, member func(name string, bad *Fault) error) error {
	if dec.PeekKind() != jsontext.KindBeginObject {
		return wrongType(dec, "an object")
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	names := make(map[string]struct{})
	for dec.PeekKind() != jsontext.KindEndObject {
		name, bad, err := readText(dec)
		if err != nil {
			return err
		}
		if bad == nil {
			if _, twice := names[name]; twice {
				bad = faultAt(dec, CodeDuplicateName, duplicateName(name))
			}
			names[name] = struct{}{}
		}
		if err := member(name, bad); err != nil {
			return err
		}
	}
	_, err := dec.ReadToken()
	return err
}

// readText reads a string, or the name of a member, and says what is wrong with it
// that the decoder takes.
func readText(dec *jsontext.Decoder) (text string, bad *Fault, err error) {
	quoted, err := dec.ReadValue()
	if err != nil {
		return "", nil, err
	}
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1]), nil, nil
	}
	unquoted, err := jsontext.AppendUnquote(nil, quoted)
	if err != nil { // all else about it has been looked at
		bad = faultAt(dec, CodeInvalidString, unpairedSurrogate)
	}
	return string(unquoted), bad, nil
}

// ReadArray reads an array and calls element with the index of each of its elements
// and the decoder in front of it, which element must consume. Any error of element's
// ends the reading at once.
func ReadArray(dec *jsontext.Decoder, element func(i int) error) error {
	if dec.PeekKind() != jsontext.KindBeginArray {
		return wrongType(dec, "an array")
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for i := 0; dec.PeekKind() != jsontext.KindEndArray; i++ {
		if err := element(i); err != nil {
			return err
		}
	}
	_, err := dec.ReadToken()
	return err
}

// ReadString reads a string without U+0000.
func ReadString(dec *jsontext.Decoder) (string, error) {
	text, err := readAnyString(dec)
	if err != nil {
		return "", err
	}
	return text, CheckString(dec, text)
}

// readAnyString reads a string that may have U+0000.
func readAnyString(dec *jsontext.Decoder) (string, error) {
	if dec.PeekKind() != jsontext.KindString {
		return "", wrongType(dec, "a string")
	}
	text, bad, err := readText(dec)
	if err == nil && bad != nil {
		return "", bad
	}
	return text, err
}

// ReadKey reads a string that has to be a key. U+0000 breaks a rule of keys before
// one of strings.
func ReadKey(dec *jsontext.Decoder) (Key, error) {
	text, err := readAnyString(dec)
	if err != nil {
		return Key{}, err
	}
	key, err := ParseKey(text)
	if fault, ok := errors.AsType[*Fault](err); ok {
		fault.Pointer = string(dec.StackPointer())
	}
	return key, err
}

// CheckString says so where text, a string that the decoder has just read or the
// name of the member that it has just read, has a U+0000.
func CheckString(dec *jsontext.Decoder, text string) error {
	if strings.IndexByte(text, 0) >= 0 {
		return nulFault(dec)
	}
	return nil
}

// ReadInteger reads an integer of 0 to limit. Like JSON Schema's integer it may
// be written with a fraction or an exponent (1.0, 1e3) as long as it is whole.
func ReadInteger(dec *jsontext.Decoder, limit int64, code Code) (int64, error) {
	if dec.PeekKind() != jsontext.KindNumber {
		return 0, wrongType(dec, "an integer")
	}
	token, err := dec.ReadToken()
	if err != nil {
		return 0, err
	}
	n, ok := wholeNumber(token.String())
	switch {
	case !ok:
		if code == CodeInvalidValue {
			code = CodeWrongType
		}
		return 0, faultAt(dec, code, "must be an integer")
	case n < 0 || n > limit:
		return 0, faultAt(dec, code, fmt.Sprintf("must be in 0 … %d", limit))
	}
	return n, nil
}

// wholeNumber parses a JSON number whose value is an integer, exactly. One beyond
// the range of int64 comes back as the nearest int64.
func wholeNumber(text string) (int64, bool) {
	mantissa, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	mantissa, negative := strings.CutPrefix(mantissa, "-")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(whole+fraction, "0")
	if digits == "" {
		return 0, true // whatever the exponent is
	}
	// The number is 0.digits times ten to the power of point.
	point := len(digits) - len(fraction)
	if exponent != "" {
		shift, err := strconv.ParseInt(exponent, 10, 32)
		if err != nil && !strings.HasPrefix(exponent, "-") {
			shift = math.MaxInt32
		} else if err != nil {
			shift = math.MinInt32
		}
		point += int(shift)
	}
	if point < len(digits) && strings.Trim(digits[max(point, 0):], "0") != "" {
		return 0, false
	}
	limit := int64(math.MaxInt64)
	if negative {
		limit = math.MinInt64
	}
	const maxDigits = 19 // of an int64
	if point > maxDigits {
		return limit, true
	}
	digits = (digits + strings.Repeat("0", maxDigits))[:point]
	n, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case err != nil:
		return limit, true
	case negative:
		return -n, true
	}
	return n, true
}

// ReadRaw reads any JSON value without U+0000 in its strings and returns a
// compact copy: white space outside strings is gone, all else is as sent, so
// numbers keep their digits and strings their escapes.
func ReadRaw(dec *jsontext.Decoder) ([]byte, error) {
	value, err := dec.ReadValue()
	if err != nil {
		return nil, err
	}
	if hasNUL(value) {
		fault := nulFault(dec)
		fault.Pointer += nulPointer(value)
		return nil, fault
	}
	return compact(value)
}

// ReadRawKind is ReadRaw for a value of one of the kinds.
func ReadRawKind(dec *jsontext.Decoder, what string, kinds ...jsontext.Kind) ([]byte, error) {
	if !slices.Contains(kinds, dec.PeekKind()) {
		return nil, wrongType(dec, what)
	}
	return ReadRaw(dec)
}

// readStringsJSON reads an array of strings and returns its compact JSON.
func readStringsJSON(dec *jsontext.Decoder) ([]byte, error) {
	if dec.PeekKind() != jsontext.KindBeginArray {
		return nil, wrongType(dec, "an array of strings")
	}
	value, err := dec.ReadValue()
	if err != nil {
		return nil, err
	}
	raw, err := compact(value)
	if err != nil {
		return nil, err
	}
	if _, err := readStrings(jsontext.NewDecoder(bytes.NewBuffer(raw))); err != nil {
		if fault, ok := errors.AsType[*Fault](err); ok {
			fault.Pointer = string(dec.StackPointer()) + fault.Pointer
		}
		return nil, err
	}
	return raw, nil
}

// readStrings reads an array of strings without U+0000. Where elements are none,
// it reads the array to its end and returns the fault of the first.
func readStrings(dec *jsontext.Decoder) ([]string, error) {
	if dec.PeekKind() != jsontext.KindBeginArray {
		return nil, wrongType(dec, "an array of strings")
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	list := []string{}
	var first *Fault
	for dec.PeekKind() != jsontext.KindEndArray {
		text, err := ReadString(dec)
		var fault *Fault
		switch {
		case errors.As(err, &fault):
			if first == nil {
				first = fault
			}
		case err != nil:
			return nil, err
		}
		list = append(list, text)
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	if first != nil {
		return nil, first
	}
	return list, nil
}

// compact returns a copy of value, which is valid JSON, without white space
// outside its strings.
func compact(value []byte) ([]byte, error) {
	out := jsontext.Value(bytes.Clone(value))
	if err := out.Compact(); err != nil {
		return nil, fmt.Errorf("compact: %w", err)
	}
	return out, nil
}

// wrongType consumes the value in front of the decoder and says what should
// have stood there, unless the value is not JSON at all.
func wrongType(dec *jsontext.Decoder, want string) error {
	if err := dec.SkipValue(); err != nil {
		return err
	}
	return faultAt(dec, CodeWrongType, "must be "+want)
}

func nulFault(dec *jsontext.Decoder) *Fault {
	return faultAt(dec, CodeInvalidString, "has a string with the character U+0000, which PostgreSQL cannot hold")
}

// faultAt is a fault of the value that the decoder has just read.
func faultAt(dec *jsontext.Decoder, code Code, detail string) *Fault {
	return &Fault{Code: code, Pointer: string(dec.StackPointer()), Detail: detail}
}

// hasNUL tells whether a string in value, which is valid JSON, has the escape
// of U+0000. The character itself is not valid in JSON.
func hasNUL(value []byte) bool {
	escape := []byte(`\u0000`)
	for at := 0; ; {
		i := bytes.Index(value[at:], escape)
		if i < 0 {
			return false
		}
		at += i
		backslashes := 0
		for j := at - 1; j >= 0 && value[j] == '\\'; j-- {
			backslashes++
		}
		if backslashes%2 == 0 {
			return true
		}
		at += len(escape)
	}
}

// nulPointer returns where in value, which is valid JSON, the first string with
// U+0000 stands.
func nulPointer(value []byte) string {
	dec := jsontext.NewDecoder(bytes.NewBuffer(bytes.Clone(value)))
	for {
		token, err := dec.ReadToken()
		if err != nil {
			return ""
		}
		if token.Kind() == jsontext.KindString && strings.IndexByte(token.String(), 0) >= 0 {
			return string(dec.StackPointer())
		}
	}
}

// depth returns how deep the objects and arrays of body are nested. It is
// right for valid JSON; in anything else it only has to end.
func depth(body []byte) int {
	deepest, now := 0, 0
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '{', '[':
			now++
			deepest = max(deepest, now)
		case '}', ']':
			now--
		case '"':
			i = endOfString(body, i)
		}
	}
	return deepest
}

// endOfString returns the index of the quote that closes the string which
// begins at body[start], or of the last byte where none does.
func endOfString(body []byte, start int) int {
	for at := start + 1; ; {
		i := bytes.IndexByte(body[at:], '"')
		if i < 0 {
			return len(body) - 1
		}
		at += i
		backslashes := 0
		for j := at - 1; j > start && body[j] == '\\'; j-- {
			backslashes++
		}
		if backslashes%2 == 0 {
			return at
		}
		at++
	}
}
