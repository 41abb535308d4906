package repo_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/repo"
	"github.com/stockroom/stockroom/internal/txn"
)

// Rows are read one after the other into the same variables: nothing of one may be
// found in the next, be it shorter, or without what the one before has.
func TestGetManyKeepsRowsApart(t *testing.T) {
	t.Parallel()
	b := setup(t)
	bodies := []struct{ key, body string }{
		{"component:react:a", `{"framework":"react","name":"a","sourceCode":"a long source","demoCode":"demo","metadata":{"a":1},
			"dependencies":["x"],"registryDependencies":["y"],"githubSha":"0123456789012345678901234567890123456789","fileSize":77,
			"lastModified":"2026-01-31T12:00:00Z"}`},
		{"component:react:b", `{"sourceCode":""}`},
		{"component:react:c", `{"sourceCode":"c","fileSize":3,"demoCode":""}`},
		{"block:react:a", `{"framework":"react","name":"a","category":"forms","type":"simple","description":"long","files":{"a":"b"},
			"structure":[1],"dependencies":["x"],"componentsUsed":["y"],"totalSize":9,"githubSha":"0123456789012345678901234567890123456789"}`},
		{"block:react:b", `{"files":[]}`},
		{"long", `"a long entry"`},
		{"short", `1`},
	}
	values := make([]item.Value, len(bodies))
	keys := make([]item.Key, len(bodies))
	for i, of := range bodies {
		var err error
		keys[i] = key(t, of.key)
		values[i], err = item.Parse(keys[i], []byte(of.body))
		require.NoError(t, err)
		b.upsert(repo.Write{Value: values[i], TTL: item.TTL(60 * (i % 2))})
	}
	asked := append([]item.Key{key(t, "component:react:nobody")}, keys...)
	asked = append(asked, keys...) // each twice

	var found []item.Stored
	b.do(func(ctx context.Context, u *txn.Unit) (err error) {
		found, err = repo.GetMany(ctx, u, asked)
		return err
	})
	require.Len(t, found, len(asked))
	require.Zero(t, found[0], "there is no such item")
	for i, got := range found[1:] {
		want := values[i%len(values)]
		require.Equal(t, want.Key, got.Key)
		require.Equal(t, string(want.JSON()), string(got.JSON), want.Key)
		require.Equal(t, want.ETag, got.ETag, want.Key)
		require.Equal(t, want.Bytes, got.Bytes, want.Key)
		require.Equal(t, i%len(values)%2 == 1, !got.Expires.IsZero(), want.Key)
		require.Equal(t, got.Expires.IsZero(), got.Remaining == 0, want.Key)
	}
}
