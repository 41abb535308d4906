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
		faults  item.Faults
		ttl     *item.TTL
		n       int
		present bool
	)
	err := item.Decode(body, func(dec *jsontext.Decoder) error {
		return item.ReadObject(dec, func(name string) (err error) {
			switch name {
			case "ttl":
				ttl, err = readTTL(dec)
			case "entries":
				present = true
				values, faults, n, err = s.readEntries(dec)
			default:
				err = item.UnknownField(dec, name)
			}
			return err
		})
	})
	switch {
	case err != nil:
		return nil, nil, withEntry(err)
	case !present:
		return nil, nil, &apiError{codeInvalidBatch, `the field "entries" is required`}
	case n > s.config.MaxBatch:
		return nil, nil, s.tooManyKeys(n)
	case len(faults) > 0:
		return nil, nil, faults
	}
	return values, ttl, nil
}

// withEntry names the entry that has a bad string, which ended the reading; other
// such faults are of the JSON as a whole.
func withEntry(err error) error {
	fault, ok := errors.AsType[*item.Fault](err)
	if !ok || fault.Key != "" || fault.Code != item.CodeInvalidString {
		return err
	}
	n := 0
	for token := range jsontext.Pointer(fault.Pointer).Tokens() {
		if n++; n == 1 && token != "entries" {
			break
		}
		if n == 2 {
			fault.Key = token
			break
		}
	}
	return err
}

// readEntries reads an object of values by key and counts them. Each that breaks
// a rule is a fault, and reading goes on behind it; those beyond the limit of a
// batch are only counted.
func (s *server) readEntries(dec *jsontext.Decoder) (values []item.Value, faults item.Faults, n int, err error) {
	err = item.ReadObject(dec, func(name string) error {
		if n++; n > s.config.MaxBatch {
			return dec.SkipValue()
		}
		key, err := item.ParseKey(name)
		if err != nil {
			if skipErr := dec.SkipValue(); skipErr != nil {
				return skipErr
			}
			faults = append(faults, asFault(err, name, string(dec.StackPointer())))
			return nil
		}
		value, err := item.Read(dec, key)
		var fault *item.Fault
		switch {
		case errors.As(err, &fault):
			fault.Key = name
			faults = append(faults, fault)
		case err != nil:
			return err
		default:
			values = append(values, value)
		}
		return nil
	})
	return values, faults, n, err
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
	var texts []string
	present := false
	err = item.Decode(body, func(dec *jsontext.Decoder) error {
		return item.ReadObject(dec, func(name string) (err error) {
			if name != "keys" {
				return item.UnknownField(dec, name)
			}
			present = true
			texts, err = item.ReadStrings(dec)
			return err
		})
	})
	switch {
	case err != nil:
		return nil, err
	case !present:
		return nil, &apiError{codeInvalidBatch, `the field "keys" is required`}
	case len(texts) > s.config.MaxBatch:
		return nil, s.tooManyKeys(len(texts))
	}
	return parseKeys(texts)
}

func parseKeys(texts []string) ([]item.Key, error) {
	var faults item.Faults
	keys := make([]item.Key, 0, len(texts))
	seen := make(map[item.Key]struct{}, len(texts))
	for i, text := range texts {
		key, err := item.ParseKey(text)
		if err != nil {
			faults = append(faults, asFault(err, text, fmt.Sprintf("/keys/%d", i)))
			continue
		}
		if _, twice := seen[key]; !twice {
			seen[key] = struct{}{}
			keys = append(keys, key)
		}
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return slices.Clip(keys), nil
}

// asFault returns the fault of a key of a batch, with its place.
func asFault(err error, key, pointer string) *item.Fault {
	fault := &item.Fault{Code: item.CodeInvalidKey, Key: key, Detail: err.Error()}
	errors.As(err, &fault)
	fault.Pointer = pointer
	return fault
}

func (s *server) tooManyKeys(n int) error {
	return &apiError{codeBatchTooLarge, fmt.Sprintf("a batch has at most %d keys, this one has %d", s.config.MaxBatch, n)}
}
