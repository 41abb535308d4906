package http

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/stockroom/stockroom/internal/item"
)

func (s *server) mget(w http.ResponseWriter, r *http.Request) error {
	keys, err := s.readKeys(w, r)
	if err != nil {
		return err
	}
	get := s.store.GetMany
	if noCache(r) {
		get = s.store.GetManyFresh
	}
	found, err := get(r.Context(), keys)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		markStale(w, found[0])
	}
	body, ok := bodies.Get().(*[]byte)
	if !ok {
		body = new([]byte)
	}
	if *body, err = appendMget((*body)[:0], keys, found); err != nil {
		return err
	}
	writeBytes(w, http.StatusOK, *body)
	if cap(*body) <= maxBodyKept { // nobody reads it any more
		bodies.Put(body)
	}
	return nil
}

// bodies are the buffers of requests and answers that are large again and again.
var bodies sync.Pool

// maxBodyKept is how large a buffer may be that is kept for another answer.
const maxBodyKept = 1 << 20

// appendMget writes MgetResponse around the stored bytes of the items found, which
// are in the order of keys.
func appendMget(out []byte, keys []item.Key, found []item.Stored) ([]byte, error) {
	size := 64
	for i := range keys {
		size += len(keys[i].String()) + 8
	}
	for i := range found {
		size += len(found[i].JSON)
	}
	var err error
	out = append(slices.Grow(out, size), `{"items":{`...)
	var missing []item.Key
	next := 0
	for _, key := range keys {
		if next == len(found) || found[next].Key != key {
			missing = append(missing, key)
			continue
		}
		if next > 0 {
			out = append(out, ',')
		}
		if out, err = jsontext.AppendQuote(out, key.String()); err != nil {
			return nil, fmt.Errorf("encode a key: %w", err)
		}
		out = append(append(out, ':'), found[next].JSON...)
		next++
	}
	out = append(out, `},"missing":[`...)
	for i, key := range missing {
		if i > 0 {
			out = append(out, ',')
		}
		if out, err = jsontext.AppendQuote(out, key.String()); err != nil {
			return nil, fmt.Errorf("encode a key: %w", err)
		}
	}
	return append(out, "]}"...), nil
}

func (s *server) mset(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	var values []item.Value
	var ttl *item.TTL
	if err := s.withBody(w, r, func(body []byte) (err error) {
		values, ttl, err = s.parseMset(body)
		return err
	}); err != nil {
		return err
	}
	if err := s.store.PutMany(r.Context(), values, ttl); err != nil {
		if faults, ok := errors.AsType[item.Faults](err); ok {
			for _, fault := range faults {
				fault.Pointer = string(jsontext.Pointer("/entries").AppendToken(fault.Key))
			}
		}
		return err
	}
	return s.writeJSON(w, http.StatusOK, MsetResponse{Stored: int64(len(values))})
}

// parseMset reads MsetRequest. Where entries are bad, the error is a
// item.Faults with one of each.
func (s *server) parseMset(body []byte) ([]item.Value, *item.TTL, error) {
	if batch, ok := item.ParseBatch(body, s.config.MaxBatch); ok {
		return batch.Values, batch.TTL, nil
	}
	var (
		values  []item.Value
		ttl     *item.TTL
		n       int
		present bool
	)
	faults, err := decodeBatch(body, func(dec *jsontext.Decoder, name string) (err error) {
		switch name {
		case "ttl":
			ttl, err = readTTL(dec)
		case "entries":
			present = true
			values, n, err = s.readEntries(dec)
		default:
			err = item.UnknownField(dec, name)
		}
		return err
	})
	switch {
	case err != nil:
		return nil, nil, err
	case n > s.config.MaxBatch:
		return nil, nil, s.tooManyKeys(n)
	case len(faults) > 0:
		return nil, nil, faults
	case !present:
		return nil, nil, &apiError{codeInvalidBatch, `the field "entries" is required`}
	}
	return values, ttl, nil
}

// decodeBatch reads the object that a batch is with member, as item.ReadObject does,
// but returns all that is bad in it: faults are member's own and those of its lists.
func decodeBatch(body []byte, member func(dec *jsontext.Decoder, name string) error) (faults item.Faults, err error) {
	err = item.DecodeBatch(body, func(dec *jsontext.Decoder) error {
		return item.ReadMembers(dec, func(name string, bad *item.Fault) error {
			err := item.SkipBad(dec, bad)
			if err == nil {
				err = member(dec, name)
			}
			return collect(&faults, err)
		})
	})
	return faults, err
}

// collect adds err to faults where it is of what the caller sent, and returns it
// otherwise.
func collect(faults *item.Faults, err error) error {
	if list, ok := errors.AsType[item.Faults](err); ok {
		*faults = append(*faults, list...)
		return nil
	}
	if fault, ok := errors.AsType[*item.Fault](err); ok {
		*faults = append(*faults, fault)
		return nil
	}
	return err
}

// orNil returns faults as an error, where there are any.
func orNil(faults item.Faults) error {
	if len(faults) == 0 {
		return nil
	}
	return faults
}

// readEntries reads an object of values by key and counts them. Each that breaks
// a rule is a fault, and reading goes on behind it; those beyond the limit of a
// batch are only counted.
func (s *server) readEntries(dec *jsontext.Decoder) (values []item.Value, n int, err error) {
	var faults item.Faults
	err = item.ReadMembers(dec, func(name string, bad *item.Fault) error {
		if n++; n > s.config.MaxBatch {
			return dec.SkipValue()
		}
		value, err := readEntry(dec, name, bad)
		if err == nil {
			values = append(values, value)
		}
		return collect(&faults, err)
	})
	if err == nil {
		err = orNil(faults)
	}
	return values, n, err
}

// readEntry reads the value of an entry, whose name may be bad.
func readEntry(dec *jsontext.Decoder, name string, bad *item.Fault) (value item.Value, err error) {
	body, err := dec.ReadValue()
	if err != nil {
		return item.Value{}, err
	}
	key, err := item.ParseKey(name)
	if fault, ok := errors.AsType[*item.Fault](err); ok {
		name = fault.Key // none where it is too long to be repeated
	}
	if bad != nil {
		if bad.Code == item.CodeDuplicateName { // an unpaired surrogate has no name
			bad.Key = name
		}
		return item.Value{}, bad
	}
	if err == nil {
		value, err = item.Parse(key, body)
	}
	if fault, ok := errors.AsType[*item.Fault](err); ok {
		fault.Key, fault.Pointer = name, string(dec.StackPointer())+fault.Pointer
	}
	return value, err
}

func (s *server) mdelete(w http.ResponseWriter, r *http.Request) error {
	keys, err := s.readKeys(w, r)
	if err != nil {
		return err
	}
	deleted, err := s.store.DeleteMany(r.Context(), keys)
	if err != nil {
		return err
	}
	return s.writeJSON(w, http.StatusOK, MdeleteResponse{Deleted: int64(deleted)})
}

// readKeys reads `{keys}` and returns the keys without duplicates, in their order.
func (s *server) readKeys(w http.ResponseWriter, r *http.Request) ([]item.Key, error) {
	if _, err := query(r); err != nil {
		return nil, err
	}
	body, err := s.readBody(w, r)
	if err != nil {
		return nil, err
	}
	var keys []item.Key
	n, present := 0, false
	faults, err := decodeBatch(body, func(dec *jsontext.Decoder, name string) (err error) {
		if name != "keys" {
			return item.UnknownField(dec, name)
		}
		present = true
		keys, n, err = s.readKeyList(dec)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case n > s.config.MaxBatch:
		return nil, s.tooManyKeys(n)
	case len(faults) > 0:
		return nil, faults
	case !present:
		return nil, &apiError{codeInvalidBatch, `the field "keys" is required`}
	}
	return unique(keys), nil
}

// readKeyList reads an array of keys and counts them, as readEntries does.
func (s *server) readKeyList(dec *jsontext.Decoder) (keys []item.Key, n int, err error) {
	var faults item.Faults
	err = item.ReadArray(dec, func(int) error {
		if n++; n > s.config.MaxBatch {
			return dec.SkipValue()
		}
		key, err := item.ReadKey(dec)
		if err == nil {
			keys = append(keys, key)
		}
		return collect(&faults, err)
	})
	if err == nil {
		err = orNil(faults)
	}
	return keys, n, err
}

// unique returns the keys without duplicates, in place.
func unique(keys []item.Key) []item.Key {
	seen := make(map[item.Key]struct{}, len(keys))
	return slices.DeleteFunc(keys, func(key item.Key) bool {
		_, twice := seen[key]
		seen[key] = struct{}{}
		return twice
	})
}

func (s *server) tooManyKeys(n int) error {
	return &apiError{codeBatchTooLarge, fmt.Sprintf("a batch has at most %d keys, this one has %d", s.config.MaxBatch, n)}
}
