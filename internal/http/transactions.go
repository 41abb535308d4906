package http

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/store"
)

func (s *server) transact(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	body, err := s.readBody(w, r)
	if err != nil {
		return err
	}
	operations, err := s.parseTransaction(body)
	if err != nil {
		return err
	}
	outcomes, err := s.store.Transact(r.Context(), operations)
	if err != nil {
		return placed(err, operations)
	}
	results := make([]TransactionResult, len(outcomes))
	for i := range outcomes {
		results[i] = resultOf(&operations[i], &outcomes[i])
	}
	return s.writeJSON(w, http.StatusOK, TransactionResponse{Results: results})
}

// actions are the members that an operation can have, by their names.
var actions = map[string]store.Action{"check": store.Check, "set": store.Set, "delete": store.Delete, "touch": store.Touch}

// nameOf is the member that an operation has.
func nameOf(op *store.Operation) string {
	for name, action := range actions {
		if action == op.Action {
			return name
		}
	}
	return ""
}

// parseTransaction reads TransactionRequest. Where operations are bad, the error is
// a item.Faults with one of each.
func (s *server) parseTransaction(body []byte) ([]store.Operation, error) {
	var operations []store.Operation
	n, present := 0, false
	faults, err := decodeBatch(body, func(dec *jsontext.Decoder, name string) (err error) {
		if name != "operations" {
			return item.UnknownField(dec, name)
		}
		present = true
		operations, n, err = s.readOperations(dec)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case n > s.config.MaxBatch:
		return nil, &apiError{codeBatchTooLarge, fmt.Sprintf("a transaction has at most %d operations, this one has %d", s.config.MaxBatch, n)}
	case len(faults) > 0:
		return nil, faults
	case !present:
		return nil, &apiError{codeInvalidBatch, `the field "operations" is required`}
	}
	return operations, nil
}

// readOperations reads an array of operations and counts them, as readEntries does.
func (s *server) readOperations(dec *jsontext.Decoder) (operations []store.Operation, n int, err error) {
	var faults item.Faults
	changed := make(map[item.Key]int)
	err = item.ReadArray(dec, func(i int) error {
		if n++; n > s.config.MaxBatch {
			return dec.SkipValue()
		}
		op, err := readOperation(dec)
		if err == nil && op.Action != store.Check {
			if before, twice := changed[op.Key]; twice {
				err = &item.Fault{
					Code: item.CodeInvalidValue, Pointer: string(dec.StackPointer()),
					Detail: fmt.Sprintf("changes the same item as operation %d; a transaction changes each once", before),
				}
			}
			changed[op.Key] = i
		}
		if fault, ok := errors.AsType[*item.Fault](err); ok && fault.Key == "" {
			fault.Key = op.Key.String()
		}
		if err == nil {
			operations = append(operations, op)
		}
		return collect(&faults, err)
	})
	if err == nil {
		err = orNil(faults)
	}
	return operations, n, err
}

// readOperation reads an operation, an object with exactly one member. Its error
// can be a *item.Fault, and the key is then that of the operation, as far as known.
func readOperation(dec *jsontext.Decoder) (op store.Operation, err error) {
	n := 0
	err = item.ReadObject(dec, func(name string) error {
		action, known := actions[name]
		if !known {
			return item.UnknownField(dec, name)
		}
		if n++; n > 1 {
			return dec.SkipValue()
		}
		op.Action = action
		return readAction(dec, &op)
	})
	if err == nil && n != 1 {
		fault := &item.Fault{Code: item.CodeInvalidValue, Pointer: string(dec.StackPointer()), Detail: "an operation has one of check, set, delete and touch, not several"}
		if n == 0 {
			fault.Code, fault.Detail = item.CodeMissingField, "an operation has one of check, set, delete and touch"
		}
		err = fault
	}
	return op, err
}

// readAction reads what an operation's member says.
func readAction(dec *jsontext.Decoder, op *store.Operation) error {
	place := dec.StackPointer()
	var value []byte
	var has struct{ key, etag, value bool }
	err := item.ReadObject(dec, func(name string) (err error) {
		switch {
		case name == "key":
			has.key = true
			op.Key, err = item.ReadKey(dec)
		case name == "etag" && op.Action == store.Check:
			has.etag = true
			op.ETag, err = readETag(dec)
		case name == "value" && op.Action == store.Set:
			has.value = true
			// What it must be depends on the key, which may stand behind it.
			value, err = dec.ReadValue()
			value = bytes.Clone(value)
		case name == "ttl" && (op.Action == store.Set || op.Action == store.Touch):
			op.TTL, err = readTTL(dec)
		default:
			err = item.UnknownField(dec, name)
		}
		return err
	})
	if err != nil {
		return err
	}
	missing := func(name string) error {
		return &item.Fault{Code: item.CodeMissingField, Pointer: string(place.AppendToken(name)), Detail: fmt.Sprintf("the field %q is required", name)}
	}
	switch {
	case !has.key:
		return missing("key")
	case op.Action == store.Check && !has.etag:
		return missing("etag")
	case op.Action == store.Set && !has.value:
		return missing("value")
	case op.Action != store.Set:
		return nil
	}
	op.Value, err = item.Parse(op.Key, value)
	if fault, ok := errors.AsType[*item.Fault](err); ok {
		fault.Pointer = string(place.AppendToken("value")) + fault.Pointer
	}
	return err
}

// readETag reads the strong entity tag that an item is expected to have, as the
// header ETag has it; null is nil, for none.
func readETag(dec *jsontext.Decoder) (*string, error) {
	if dec.PeekKind() == jsontext.KindNull {
		_, err := dec.ReadToken()
		return nil, err
	}
	text, err := item.ReadString(dec)
	if err != nil {
		return nil, err
	}
	opaque, opened := strings.CutPrefix(text, `"`)
	opaque, closed := strings.CutSuffix(opaque, `"`)
	if !opened || !closed || opaque == "" || strings.ContainsFunc(opaque, func(r rune) bool { return r == '"' || notInTag(r) }) {
		return nil, &item.Fault{
			Code: item.CodeInvalidValue, Pointer: string(dec.StackPointer()),
			Detail: `must be an entity tag with its quotes, as in the header ETag, or null for no item`,
		}
	}
	return &opaque, nil
}

// placed names the operations that are at fault in an error of the store.
func placed(err error, operations []store.Operation) error {
	place := func(i int) string { return fmt.Sprintf("/operations/%d/%s", i, nameOf(&operations[i])) }
	if faults, ok := errors.AsType[item.Faults](err); ok {
		for _, fault := range faults {
			for i := range operations {
				if operations[i].Action == store.Set && operations[i].Key.String() == fault.Key {
					fault.Pointer = place(i) + "/value"
				}
			}
		}
		return err
	}
	refusals, ok := errors.AsType[store.Refusals](err)
	if !ok {
		return err
	}
	faults := make(item.Faults, len(refusals))
	for i, refusal := range refusals {
		op := &operations[refusal.Operation]
		faults[i] = &item.Fault{Code: codeNotFound, Key: op.Key.String(), Pointer: place(refusal.Operation), Detail: "there is no such item"}
		if op.Action != store.Check {
			continue
		}
		faults[i].Code = codeCheckFailed
		switch {
		case refusal.ETag == "":
			faults[i].Detail = "there is no item under the key"
		case op.ETag == nil:
			faults[i].Detail = "there is an item under the key, with the ETag " + quoted(refusal.ETag)
		default:
			faults[i].Detail = "the item has another ETag, " + quoted(refusal.ETag)
		}
	}
	return faults
}

// resultOf is what a caller is told of an operation.
func resultOf(op *store.Operation, outcome *store.Outcome) TransactionResult {
	result := TransactionResult{Key: op.Key.String()}
	if outcome.ETag != "" {
		etag := quoted(outcome.ETag)
		result.ETag = &etag
	}
	switch op.Action {
	case store.Check:
	case store.Set:
		result.Created = &outcome.Created
	case store.Delete:
		result.Deleted = &outcome.Deleted
	case store.Touch:
	}
	if op.Action == store.Set || op.Action == store.Touch {
		metadata := metadataOf(outcome.Metadata)
		result.Metadata = &metadata
	}
	return result
}
