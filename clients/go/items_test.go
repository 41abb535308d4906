package stockroom_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	stockroom "github.com/stockroom/stockroom/clients/go"
)

func TestItems(t *testing.T) {
	t.Parallel()
	ctx, c := t.Context(), connect(t)
	// What a URL would take for something else, and what JSON need not escape.
	for i, key := range []string{"items:a", "items:a/b c", "items:a?b#c", "items:100%_*\\", "items:ключ", "items:../..", "items:a%2Fb", "items:;,+&="} {
		value := json.RawMessage(`{"html":"<b>&amp;</b>","number":1.50,"big":12345678901234567890}`)
		_, err := c.Get(ctx, key)
		fails(t, err, stockroom.ErrNotFound)
		has, err := c.Has(ctx, key)
		ok(t, err)
		equal(t, false, has)

		written, err := c.Set(ctx, key, value)
		ok(t, err)
		equal(t, true, written.Created)
		equal(t, key, written.Key)
		stored, err := c.Get(ctx, key)
		ok(t, err)
		equal(t, string(value), string(stored.Value))
		equal(t, written.ETag, stored.ETag)
		equal(t, true, stored.Expires.IsZero())
		equal(t, written.UpdatedAt.Truncate(time.Second), stored.LastModified)
		equal(t, false, stored.Stale)

		written, err = c.Set(ctx, key, i, stockroom.TTL(time.Hour), stockroom.IfMatch(stored.ETag))
		ok(t, err)
		equal(t, false, written.Created)
		equal(t, 3600, written.TTLSeconds)
		number, err := stockroom.GetAs[int](ctx, c, key, stockroom.Fresh())
		ok(t, err)
		equal(t, i, number.Value)
		if left := time.Until(number.Expires); left < 59*time.Minute || left > 61*time.Minute {
			t.Fatalf("it expires in %v", left)
		}
		_, err = c.Set(ctx, key, 0, stockroom.IfMatch(stored.ETag))
		fails(t, err, stockroom.ErrPreconditionFailed)
		_, err = c.Set(ctx, key, 0, stockroom.IfAbsent())
		fails(t, err, stockroom.ErrPreconditionFailed)
		_, err = c.Get(ctx, key, stockroom.IfNoneMatch(number.ETag))
		if !errors.Is(err, stockroom.ErrNotModified) {
			t.Fatal(err)
		}
		_, err = c.Get(ctx, key, stockroom.IfNoneMatch(stored.ETag))
		ok(t, err)

		metadata, err := c.Touch(ctx, key)
		ok(t, err)
		equal(t, 3600, metadata.TTLSeconds)
		_, err = c.Touch(ctx, key, stockroom.TTL(0))
		ok(t, err)
		metadata, err = c.Metadata(ctx, key)
		ok(t, err)
		equal(t, 0, metadata.TTLSeconds)
		equal(t, "entry", string(metadata.Kind))

		has, err = c.Has(ctx, key)
		ok(t, err)
		equal(t, true, has)
		fails(t, c.DeleteIfMatch(ctx, key, stored.ETag), stockroom.ErrPreconditionFailed)
		ok(t, c.DeleteIfMatch(ctx, key, metadata.ETag))
		fails(t, c.Delete(ctx, key), stockroom.ErrNotFound)
		_, err = c.Set(ctx, key, nil, stockroom.IfAbsent())
		ok(t, err)
		ok(t, c.Delete(ctx, key))
	}
}

// collect returns what a sequence has, and its error.
func collect[T any](seq iter.Seq2[T, error]) (all []T, err error) {
	for v, err := range seq {
		if err != nil {
			return all, err
		}
		all = append(all, v)
	}
	return all, nil
}

func TestKeysComeByPages(t *testing.T) {
	t.Parallel()
	ctx, c := t.Context(), connect(t)
	var want []string
	for range 2 {
		items := map[string]any{}
		for range 900 {
			key := fmt.Sprintf("pages:%04d", len(want))
			want = append(want, key)
			items[key] = 1
		}
		n, err := c.MSet(ctx, items, stockroom.TTL(time.Hour))
		ok(t, err)
		equal(t, 900, n)
	}
	keys, err := collect(c.Keys(ctx, "pages:*"))
	ok(t, err)
	equal(t, want, keys)
	for key, err := range c.Keys(ctx, "pages:1*") {
		ok(t, err)
		equal(t, "pages:1000", key)
		break // and nothing else is asked for
	}
	_, err = collect(c.Keys(ctx, `pages:\`))
	fails(t, err, stockroom.ErrInvalid)
	ended, end := context.WithCancel(ctx)
	end()
	_, err = collect(c.Keys(ended, ""))
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	cleared, err := c.Clear(ctx, "pages:*")
	ok(t, err)
	equal(t, stockroom.ClearResult{Entries: 1800}, cleared)
	keys, err = collect(c.Keys(ctx, "pages:*"))
	ok(t, err)
	equal(t, 0, len(keys))
}

func TestBatches(t *testing.T) {
	t.Parallel()
	ctx, c := t.Context(), connect(t)
	items, missing, err := c.MGet(ctx)
	ok(t, err)
	equal(t, 0, len(items)+len(missing))
	n, err := c.MSet(ctx, map[string]any{
		"batch:a": json.RawMessage(` {"html": "<i>"} `), "batch:b": []int{1}, "component:batch:c": &stockroom.Component{SourceCode: "<p/>"},
	})
	ok(t, err)
	equal(t, 3, n)
	items, missing, err = c.MGet(ctx, "batch:a", "batch:none", "component:batch:c", "batch:b")
	ok(t, err)
	equal(t, map[string]json.RawMessage{
		"batch:a": json.RawMessage(`{"html":"<i>"}`), "batch:b": json.RawMessage(`[1]`), "component:batch:c": json.RawMessage(`{"sourceCode":"<p/>"}`),
	}, items)
	equal(t, []string{"batch:none"}, missing)
	_, err = c.MSet(ctx, map[string]any{"batch:d": 1, "component:batch": 1})
	refused := refusal(t, err, stockroom.ErrInvalid)
	equal(t, "invalid_key", refused.Code)
	equal(t, 1, len(refused.Errors))
	equal(t, [3]string{"component:batch", "/entries/component:batch", "invalid_key"}, [3]string{refused.Errors[0].Key, refused.Errors[0].Pointer, refused.Errors[0].Code})
	n, err = c.MDelete(ctx, "batch:a", "batch:b", "batch:d", "component:batch:c")
	ok(t, err)
	equal(t, 3, n)
	n, err = c.MDelete(ctx)
	ok(t, err)
	equal(t, 0, n)
}

func TestTransactions(t *testing.T) {
	t.Parallel()
	ctx, c := t.Context(), connect(t)
	results, err := c.Transaction(ctx)
	ok(t, err)
	equal(t, 0, len(results))
	results, err = c.Transaction(ctx, stockroom.CheckAbsent("txn:a"), stockroom.Set("txn:a", json.RawMessage(`"<"`), stockroom.TTL(time.Hour)), stockroom.Delete("txn:b"))
	ok(t, err)
	equal(t, true, *results[1].Created)
	equal(t, 5-2, int(results[1].Metadata.SizeBytes))
	equal(t, false, *results[2].Deleted)
	etag := *results[0].ETag
	equal(t, etag, results[1].Metadata.ETag)
	results, err = c.Transaction(ctx, stockroom.Check("txn:a", etag), stockroom.Touch("txn:a"), stockroom.Set("txn:b", 1))
	ok(t, err)
	equal(t, 3600, results[1].Metadata.TTLSeconds)

	_, err = c.Transaction(ctx, stockroom.Set("txn:c", 1), stockroom.Check("txn:a", `"other"`), stockroom.CheckAbsent("txn:b"))
	refused := refusal(t, err, stockroom.ErrCheckFailed)
	fails(t, err, stockroom.ErrConflict)
	equal(t, 2, len(refused.Errors))
	equal(t, "txn:a /operations/1/check", refused.Errors[0].Key+" "+refused.Errors[0].Pointer)
	_, err = c.Transaction(ctx, stockroom.Touch("txn:none", stockroom.TTL(0)))
	fails(t, err, stockroom.ErrNotFound)
	_, err = c.Transaction(ctx, stockroom.Delete("txn:a"), stockroom.Delete("txn:b"))
	ok(t, err)
	for _, key := range []string{"txn:a", "txn:b", "txn:c"} {
		has, err := c.Has(ctx, key)
		ok(t, err)
		equal(t, false, has)
	}
}

// TestCounter is what transactions are for: read, compute, and write where nobody
// else has meanwhile.
func TestCounter(t *testing.T) {
	t.Parallel()
	const clients, each = 8, 5
	ctx, c := t.Context(), connect(t)
	_, err := c.Set(ctx, "counter", 0)
	ok(t, err)
	increment := func() error {
		for {
			now, err := stockroom.GetAs[int](ctx, c, "counter")
			if err != nil {
				return err
			}
			_, err = c.Transaction(ctx, stockroom.Check("counter", now.ETag), stockroom.Set("counter", now.Value+1))
			if !errors.Is(err, stockroom.ErrCheckFailed) {
				return err
			}
		}
	}
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for range each {
				if err := increment(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	total, err := c.Get(ctx, "counter")
	ok(t, err)
	equal(t, strconv.Itoa(clients*each), string(total.Value))
	ok(t, c.Delete(ctx, "counter"))
}

func TestWhatCannotBeSent(t *testing.T) {
	t.Parallel()
	ctx, c := t.Context(), connect(t)
	for _, name := range []string{"", ".", ".."} {
		_, err := c.Get(ctx, name)
		fails(t, err, stockroom.ErrInvalid)
		fails(t, c.Delete(ctx, name), stockroom.ErrInvalid)
		fails(t, c.DeleteComponent(ctx, "react", name), stockroom.ErrInvalid)
		_, err = collect(c.Blocks(ctx, name, ""))
		fails(t, err, stockroom.ErrInvalid)
	}
	half := stockroom.TTL(time.Second / 2)
	for _, send := range []func() error{
		func() error { _, err := c.Set(ctx, "unsent", 1, half); return err },
		func() error { _, err := c.Touch(ctx, "unsent", half); return err },
		func() error { _, err := c.MSet(ctx, map[string]any{"unsent": 1}, half); return err },
		func() error { _, err := c.Transaction(ctx, stockroom.Set("unsent", 1, half)); return err },
		func() error { _, err := c.Transaction(ctx, stockroom.Touch("unsent", half)); return err },
		func() error { _, err := c.Set(ctx, "unsent", func() {}); return err },
		func() error { _, err := c.Set(ctx, "unsent", json.RawMessage(`{`)); return err },
		func() error { _, err := c.MSet(ctx, map[string]any{"unsent": func() {}}); return err },
		func() error { _, err := c.Transaction(ctx, stockroom.Set("unsent", func() {})); return err },
	} {
		if err := send(); err == nil || errors.As(err, new(*stockroom.Error)) {
			t.Fatalf("it was sent: %v", err)
		}
	}
	_, err := c.Set(ctx, "unsent", 1, stockroom.TTL(-time.Second))
	equal(t, "invalid_ttl", refusal(t, err, stockroom.ErrInvalid).Code)
	for _, url := range []string{"", "127.0.0.1:8080", "ftp://x", "http://", "http://x?y=1", "http://x/#y", "http://[::1", "/v1"} {
		if _, err := stockroom.New(url); err == nil {
			t.Fatalf("%q is taken for a base URL", url)
		}
	}
	keys, err := collect(c.Keys(ctx, "unsent"))
	ok(t, err)
	equal(t, false, slices.Contains(keys, "unsent"))
}
