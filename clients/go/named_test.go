package stockroom_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	stockroom "github.com/stockroom/stockroom/clients/go"
	"github.com/stockroom/stockroom/clients/go/api"
)

func TestComponents(t *testing.T) {
	t.Parallel()
	ctx, c := t.Context(), connect(t)
	const framework = "components test/ü"
	modified := time.Date(2026, 11, 18, 8, 0, 0, 0, time.UTC)
	component := stockroom.Component{
		SourceCode: "export const A = () => <b>&</b>", DemoCode: new(""), Metadata: json.RawMessage(`{"n":1.50,"html":"<b>"}`),
		Dependencies: []string{}, RegistryDependencies: []string{"utils"}, GitHubSHA: new("4f2c1d9e8b7a6f5e4d3c2b1a09f8e7d6c5b4a392"),
		FileSize: new(int64(100)), LastModified: &modified,
	}
	has, err := c.HasComponent(ctx, framework, "a")
	ok(t, err)
	equal(t, false, has)
	_, err = c.GetComponent(ctx, framework, "a")
	fails(t, err, stockroom.ErrNotFound)
	for i := range 3 {
		written, err := c.SetComponent(ctx, framework, fmt.Sprintf("%c", 'a'+i), &component, stockroom.TTL(time.Hour), stockroom.IfAbsent())
		ok(t, err)
		equal(t, 100, written.SizeBytes)
		equal(t, "component", string(written.Kind))
	}
	stored, err := c.GetComponent(ctx, framework, "a")
	ok(t, err)
	equal(t, component, stored.Value) // what was left out is absent, and what is empty is not
	same, err := c.Get(ctx, "component:"+framework+":a")
	ok(t, err)
	equal(t, stored.ETag, same.ETag)
	has, err = c.HasComponent(ctx, framework, "a")
	ok(t, err)
	equal(t, true, has)

	list, err := collect(c.Components(ctx, framework))
	ok(t, err)
	equal(t, 3, len(list))
	for i, summary := range list {
		equal(t, fmt.Sprintf("%c", 'a'+i), summary.Name)
		equal(t, []string{"utils"}, summary.RegistryDependencies)
	}
	results, err := collect(c.Search(ctx, "export a", stockroom.SearchFilter{Kind: "component", Framework: framework}))
	ok(t, err)
	equal(t, 3, len(results))
	equal(t, "component:"+framework+":a", results[0].Key)
	results, err = collect(c.Search(ctx, "export", stockroom.SearchFilter{Framework: framework, Category: "none"}))
	ok(t, err)
	equal(t, 0, len(results))
	_, err = collect(c.Search(ctx, "", stockroom.SearchFilter{}))
	fails(t, err, stockroom.ErrInvalid)
	component.SourceCode = ""
	_, err = c.SetComponent(ctx, framework, "a", &component, stockroom.IfMatch(`"other"`))
	fails(t, err, stockroom.ErrPreconditionFailed)
	component.Name = new("b")
	_, err = c.SetComponent(ctx, framework, "a", &component)
	refused := refusal(t, err, stockroom.ErrInvalid)
	equal(t, []stockroom.FieldError{{Pointer: "/name", Code: "key_mismatch", Detail: refused.Errors[0].Detail}}, refused.Errors)

	frameworks, err := c.Frameworks(ctx)
	ok(t, err)
	found := false
	for _, f := range frameworks {
		if f.Framework == framework {
			found = true
			equal(t, stockroom.FrameworkUsage{Framework: framework, Components: 3, SizeBytes: 300}, f)
		}
	}
	equal(t, true, found)
	for i := range 3 {
		ok(t, c.DeleteComponent(ctx, framework, fmt.Sprintf("%c", 'a'+i)))
	}
	fails(t, c.DeleteComponent(ctx, framework, "a"), stockroom.ErrNotFound)
	list, err = collect(c.Components(ctx, framework))
	ok(t, err)
	equal(t, 0, len(list))
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	ctx, c := t.Context(), connect(t)
	const framework = "blocks-test"
	block := stockroom.Block{
		Category: new("forms"), Type: new(stockroom.BlockComplex), Description: new("<a form>"),
		Files: json.RawMessage(`[{"path":"a.tsx","content":"<a/>"},{"path":"b.tsx","content":"\u0041"}]`), Structure: json.RawMessage(`null`),
		ComponentsUsed: []string{"button"}, TotalSize: new(int64(200)),
	}
	_, err := c.SetBlock(ctx, framework, "x", &block)
	ok(t, err)
	block.Category, block.Type, block.Structure = nil, nil, nil
	_, err = c.SetBlock(ctx, framework, "y", &block)
	ok(t, err)
	stored, err := c.GetBlock(ctx, framework, "y", stockroom.Fresh())
	ok(t, err)
	equal(t, block, stored.Value)
	stored, err = c.GetBlock(ctx, framework, "x")
	ok(t, err)
	equal(t, "null", string(stored.Value.Structure))
	equal(t, stockroom.BlockComplex, *stored.Value.Type)
	for category, want := range map[string][]string{"": {"x", "y"}, "forms": {"x"}, "none": nil} {
		list, err := collect(c.Blocks(ctx, framework, category))
		ok(t, err)
		var names []string
		for _, summary := range list {
			names = append(names, summary.Name)
		}
		equal(t, want, names)
	}
	has, err := c.HasBlock(ctx, framework, "x")
	ok(t, err)
	equal(t, true, has)
	for _, name := range []string{"x", "y"} {
		ok(t, c.DeleteBlock(ctx, framework, name))
	}
	has, err = c.HasBlock(ctx, framework, "x")
	ok(t, err)
	equal(t, false, has)
}

func TestRegistryItems(t *testing.T) {
	t.Parallel()
	ctx, c := t.Context(), connect(t)
	const framework = "registry-test"
	component := json.RawMessage(`{"name":"x","type":"registry:ui","files":[{"path":"x.tsx","type":"registry:ui","content":"<x/>"}],"meta":{"n":1.50}}`)
	written, err := c.PutRegistryItem(ctx, framework, "x", component, stockroom.IfAbsent())
	ok(t, err)
	equal(t, "component:"+framework+":x", written.Key)
	stored, err := c.GetRegistryItem(ctx, framework, "x")
	ok(t, err)
	var want, got any
	ok(t, json.Unmarshal(component, &want))
	ok(t, json.Unmarshal(stored.Value, &got))
	equal(t, want, got)
	_, err = c.PutRegistryItem(ctx, framework, "x", map[string]any{"name": "x", "type": "registry:block", "files": []any{}})
	refused := refusal(t, err, stockroom.ErrConflict)
	equal(t, "conflict", refused.Code)
	ok(t, c.DeleteComponent(ctx, framework, "x"))
	_, err = c.GetRegistryItem(ctx, framework, "x")
	fails(t, err, stockroom.ErrNotFound)
}

func TestService(t *testing.T) {
	t.Parallel()
	ctx, c := t.Context(), connect(t)
	ok(t, c.Ready(ctx))
	stats, err := c.Stats(ctx)
	ok(t, err)
	equal(t, "closed", string(stats.BreakerState))
	equal(t, int64(1<<30), stats.Limit)
	done, err := c.Maintain(ctx, stockroom.MaintenanceRequest{EvictItems: new(int64(0))})
	ok(t, err)
	equal(t, 0, done.Evicted)
}

// TestGeneratedClient is what has no method: it goes the same way.
func TestGeneratedClient(t *testing.T) {
	t.Parallel()
	c := connect(t)
	_, err := c.API().GetItem(t.Context(), "generated", &api.GetItemParams{XRequestID: new("my-id")})
	refused := refusal(t, err, stockroom.ErrNotFound)
	equal(t, "my-id", refused.RequestID)
	equal(t, "stockroom: 404 not_found: there is no such item (request my-id)", err.Error())
	response, err := c.API().ListFrameworks(t.Context(), nil)
	ok(t, err)
	ok(t, response.Body.Close())
	equal(t, 200, response.StatusCode)
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	nobody, err := stockroom.New(server.url)
	ok(t, err)
	_, err = nobody.Get(ctx, "credentials")
	equal(t, "unauthorized", refusal(t, err, stockroom.ErrUnauthorized).Code)
	_, err = nobody.Has(ctx, "credentials") // HEAD has no body that would say so
	fails(t, err, stockroom.ErrUnauthorized)
	reader := connect(t, stockroom.WithAPIKey(server.readOnly))
	_, err = reader.Get(ctx, "credentials")
	fails(t, err, stockroom.ErrNotFound)
	_, err = reader.Set(ctx, "credentials", 1)
	fails(t, err, stockroom.ErrForbidden)
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	_, err := connect(t).Set(t.Context(), "large", string(make([]byte, 9<<20)))
	fails(t, err, stockroom.ErrTooLarge)
}
