package stockroom

import (
	"context"
	"encoding/json"

	"github.com/stockroom/stockroom/clients/go/api"
)

// MGet reads many items in one snapshot, and returns those that there are by key,
// with the keys of the others.
func (c *Client) MGet(ctx context.Context, keys ...string) (items map[string]json.RawMessage, missing []string, err error) {
	content, err := body(api.MgetRequest{Keys: notNil(keys)})
	if err != nil {
		return nil, nil, err
	}
	found, err := decode[api.MgetResponse](c.api.MgetWithBody(ctx, nil, contentType, content))
	return found.Items, found.Missing, err
}

// MSet puts many items, all or none, and returns how many; values are as in
// [Client.Set].
func (c *Client) MSet(ctx context.Context, items map[string]any, ttl ...TTL) (int64, error) {
	seconds, err := secondsOf(ttl)
	if err != nil {
		return 0, err
	}
	entries := make(map[string]json.RawMessage, len(items))
	for key, value := range items {
		if entries[key], err = encode(value); err != nil {
			return 0, err
		}
	}
	content, err := body(api.MsetRequest{Entries: entries, TTL: seconds})
	if err != nil {
		return 0, err
	}
	done, err := decode[api.MsetResponse](c.api.MsetWithBody(ctx, nil, contentType, content))
	return done.Stored, err
}

// MDelete deletes many items, all or none, and returns how many there were.
func (c *Client) MDelete(ctx context.Context, keys ...string) (int64, error) {
	content, err := body(api.MdeleteRequest{Keys: notNil(keys)})
	if err != nil {
		return 0, err
	}
	done, err := decode[api.MdeleteResponse](c.api.MdeleteWithBody(ctx, nil, contentType, content))
	return done.Deleted, err
}

// Operation is one of a transaction: what [Check], [CheckAbsent], [Set], [Delete] or
// [Touch] returns.
type Operation struct {
	operation api.Operation
	err       error
}

// Check requires that an item has this ETag.
func Check(key, etag string) Operation {
	return Operation{operation: api.Operation{Check: &api.CheckOperation{Key: key, ETag: &etag}}}
}

// CheckAbsent requires that there is no item.
func CheckAbsent(key string) Operation {
	return Operation{operation: api.Operation{Check: &api.CheckOperation{Key: key}}}
}

// Set puts an item; the value is as in [Client.Set].
func Set(key string, value any, ttl ...TTL) Operation {
	encoded, err := encode(value)
	if err != nil {
		return Operation{err: err}
	}
	seconds, err := secondsOf(ttl)
	return Operation{operation: api.Operation{Set: &api.SetOperation{Key: key, Value: encoded, TTL: seconds}}, err: err}
}

// Delete deletes an item, where there is one.
func Delete(key string) Operation {
	return Operation{operation: api.Operation{Delete: &api.DeleteOperation{Key: key}}}
}

// Touch gives an item, which there must be, a time to live from now on: ttl, or its
// own anew where that is left out.
func Touch(key string, ttl ...TTL) Operation {
	seconds, err := secondsOf(ttl)
	return Operation{operation: api.Operation{Touch: &api.TouchOperation{Key: key, TTL: seconds}}, err: err}
}

// Transaction carries out operations, of which no two change the same item: all of
// them, where every check holds, or else none. Checks look at what was before. Where
// one fails, the error is [ErrCheckFailed], and the Errors of that *Error name each.
//
// It returns what became of each operation, in their order; the ETag there is good
// for the next check.
func (c *Client) Transaction(ctx context.Context, operations ...Operation) ([]TransactionResult, error) {
	request := api.TransactionRequest{Operations: make([]api.Operation, len(operations))}
	for i, operation := range operations {
		if operation.err != nil {
			return nil, operation.err
		}
		request.Operations[i] = operation.operation
	}
	content, err := body(request)
	if err != nil {
		return nil, err
	}
	done, err := decode[api.TransactionResponse](c.api.TransactWithBody(ctx, nil, contentType, content))
	return done.Results, err
}

// notNil makes an absent list an empty one, which JSON writes as [].
func notNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
