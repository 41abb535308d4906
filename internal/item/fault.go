package item

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Code is the stable name of what is wrong with a request. Codes are part of
// the interface: they are documented in openapi.yaml and never change meaning.
type Code string

// What can be wrong with a key, a value or the JSON that carries it.
const (
	CodeInvalidKey     Code = "invalid_key"      // a rule of keys is broken
	CodeInvalidTTL     Code = "invalid_ttl"      // not whole seconds in 0 … MaxTTL
	CodeInvalidPattern Code = "invalid_pattern"  // a glob that cannot be read
	CodeInvalidQuery   Code = "invalid_query"    // a search that cannot be read
	CodeMalformedJSON  Code = "malformed_json"   // not one JSON text (RFC 8259) of I-JSON (RFC 7493)
	CodeDuplicateName  Code = "duplicate_name"   // an object has a member twice
	CodeTooDeep        Code = "nesting_too_deep" // more than MaxDepth levels
	CodeWrongType      Code = "wrong_type"       // a field has another JSON type than it must
	CodeUnknownField   Code = "unknown_field"    // a field that there is not
	CodeMissingField   Code = "missing_field"    // a required field is left out
	CodeKeyMismatch    Code = "key_mismatch"     // the body contradicts the key
	CodeInvalidValue   Code = "invalid_value"    // a field breaks its own rule
	CodeTooLarge       Code = "item_too_large"   // one item is larger than the store may be
	CodeInvalidString  Code = "invalid_string"   // a string has U+0000, which PostgreSQL cannot hold, or an unpaired surrogate
)

// Fault is one thing wrong with what a caller sent. Its texts are written for
// the caller and hold nothing internal.
type Fault struct {
	Code    Code
	Key     string // the entry of a batch that is at fault, where there is one
	Pointer string // where in the body, as a JSON Pointer (RFC 6901)
	Detail  string
}

// Error returns the code with the detail.
func (f *Fault) Error() string {
	var b strings.Builder
	b.WriteString(string(f.Code))
	if f.Key != "" {
		b.WriteString(" (key " + f.Key + ")")
	}
	if f.Pointer != "" {
		b.WriteString(" at " + f.Pointer)
	}
	b.WriteString(": " + f.Detail)
	return b.String()
}

// Faults are the bad entries of a batch, in the order of the document; there is
// at least one.
type Faults []*Fault

// Error returns the first fault.
func (f Faults) Error() string { return f[0].Error() }

// What a store answers when the request is right but the world is otherwise.
// Whoever returns one of these wraps it with what it was doing.
var (
	// ErrNotFound says that there is no such item, or that it has expired.
	ErrNotFound = errors.New("item: not found")
	// ErrPreconditionFailed says that the item's ETag, or its absence, is not
	// what the caller required (RFC 9110, section 13).
	ErrPreconditionFailed = errors.New("item: precondition failed")
	// ErrConflict says that another item stands where this one should go.
	ErrConflict = errors.New("item: conflict")
	// ErrTooLarge says that there is no room for an item even with all others gone.
	ErrTooLarge = errors.New("item: larger than the limit of the store")
	// ErrBatchTooLarge says that a batch as a whole is larger than the store's limit.
	ErrBatchTooLarge = errors.New("item: batch larger than the limit of the store")
	// ErrTouchedTooLarge likewise of what a transaction sets, with what it touches.
	ErrTouchedTooLarge = errors.New("item: what is set and touched larger than the limit of the store")
	// ErrDemoTooLarge likewise of a component and its demo, of which only one was sent.
	ErrDemoTooLarge = errors.New("item: component with its demo larger than the limit of the store")
)

// SyntaxFault translates an error of a jsontext.Decoder into the fault that it
// found in the caller's JSON.
func SyntaxFault(err error) *Fault {
	fault := &Fault{Code: CodeMalformedJSON, Detail: "the body is not valid JSON"}
	var syntactic *jsontext.SyntacticError
	switch {
	case errors.As(err, &syntactic):
		fault.Pointer = string(syntactic.JSONPointer)
		fault.Detail = strings.TrimPrefix(syntactic.Error(), "jsontext: ")
		if syntactic.ByteOffset == 0 { // which jsontext leaves out
			fault.Detail += " after offset 0"
		}
		switch {
		case errors.Is(err, jsontext.ErrDuplicateName):
			fault.Code, fault.Detail = CodeDuplicateName, duplicateName(syntactic.JSONPointer.LastToken())
		case strings.Contains(syntactic.Error(), "invalid surrogate pair"): // jsontext has no error value for it
			fault.Code, fault.Detail = CodeInvalidString, unpairedSurrogate
		}
	case errors.Is(err, io.EOF):
		fault.Detail = "the body is empty"
	case errors.Is(err, io.ErrUnexpectedEOF):
		fault.Detail = "the body ends in the middle of a JSON value"
	}
	return fault
}

const unpairedSurrogate = "has a string with an unpaired surrogate, which is no character"

func duplicateName(name string) string { return fmt.Sprintf("duplicate object member name %q", name) }
