package http_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// registryFolder returns the folder of a real registry, or skips the test.
func registryFolder(t *testing.T) string {
	t.Helper()
	folder := os.Getenv("STOCKROOM_REGISTRY_DIR")
	if folder == "" {
		folder = filepath.Join("..", "..", "..", "shared", "registry", "new-york")
		if _, err := os.Stat(folder); err != nil {
			t.Skipf("no registry to read: set STOCKROOM_REGISTRY_DIR to a folder of registry items (%v)", err)
		}
	}
	return folder
}

// TestRealRegistry publishes every item of a real registry and gets each back.
func TestRealRegistry(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(registryFolder(t), "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	b := setup(t, slots(8))
	texts := map[string]string{}
	var names []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		names = append(names, name)
		texts[name] = string(text)
	}
	got := make([]string, len(names))
	const workers = 8
	together(t, workers, func(worker int) error {
		for i := worker; i < len(names); i += workers {
			path := registryPath("react", names[i])
			a, err := b.try(http.MethodPut, path, body(texts[names[i]]))
			if err == nil && a.status != http.StatusCreated {
				err = fmt.Errorf("publish %s: %d: %s", names[i], a.status, a.body)
			}
			if err != nil {
				return err
			}
			if a, err = b.try(http.MethodGet, path); err != nil {
				return err
			}
			got[i] = a.body
		}
		return nil
	})
	components, blocks := 0, 0
	for i, name := range names {
		requireSameJSON(t, texts[name], got[i], name)
		if strings.Contains(texts[name], `"type": "registry:block"`) {
			blocks++
		} else {
			components++
		}
	}
	require.Len(t, b.keys("", 1000), len(names))
	require.Len(t, b.keys("component:react:*", 1000), components)
	require.Len(t, b.keys("block:react:*", 1000), blocks)

	// Each demo has become the demo code of what it shows.
	shown := 0
	for name, text := range texts {
		of, isDemo := strings.CutSuffix(name, "-demo")
		if _, there := texts[of]; !isDemo || !there || registryType(t, text) != "registry:example" || registryType(t, texts[of]) == "registry:block" {
			continue
		}
		component := decode[struct{ DemoCode string }](b.get(namedPath("component", "react", of)).is(http.StatusOK))
		require.Equal(t, firstContent(t, text), component.DemoCode, of)
		shown++
	}
	require.NotZero(t, shown)
}

func registryType(t *testing.T, text string) string {
	t.Helper()
	var item struct{ Type string }
	require.NoError(t, json.Unmarshal([]byte(text), &item))
	return item.Type
}

func firstContent(t *testing.T, text string) string {
	t.Helper()
	var item struct{ Files []struct{ Content string } }
	require.NoError(t, json.Unmarshal([]byte(text), &item))
	return item.Files[0].Content
}

const (
	uiButton = `{"$schema":"https://ui.shadcn.com/schema/registry-item.json","name":"button","type":"registry:ui","author":"me",` +
		`"dependencies":["a"],"registryDependencies":["utils"],"files":[{"path":"ui/button.tsx","content":"ü<b>\n","type":"registry:ui","target":"","own":1.0}],` +
		`"meta":{"n":1.10},"unknown":{"kept":[12345678901234567890]}}`
	blockLogin = `{"name":"login","type":"registry:block","description":"A form","registryDependencies":["button"],"categories":["auth","more"],` +
		`"files":[{"path":"page.tsx","content":"x","type":"registry:page","target":"app/page.tsx"},{"path":"b.tsx","type":"registry:component"}]}`
	buttonDemo = `{"name":"button-demo","type":"registry:example","files":[{"path":"demo.tsx","content":"%s","type":"registry:example"}]}`
)

func TestRegistryItems(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, tc := range map[string]struct{ key, text string }{
		"button": {"component:react:button", uiButton}, "login": {"block:react:login", blockLogin},
	} {
		path := registryPath("react", name)
		b.get(path).fails(http.StatusNotFound, "not_found")
		a := b.put(path, tc.text).is(http.StatusCreated)
		m := a.metadata()
		require.Equal(t, tc.key, m.Key)
		require.Equal(t, path, a.header.Get("Location"))
		require.Equal(t, m.ETag, a.header.Get("ETag"))
		requireSameJSON(t, tc.text, b.get(path).is(http.StatusOK).body, name)
		again := b.put(path, tc.text).is(http.StatusOK)
		require.Equal(t, m.ETag, again.metadata().ETag)
		require.Empty(t, again.header.Get("Location"))
		b.get(registryPath("vue", name)).fails(http.StatusNotFound, "not_found")
	}
	component := decode[map[string]any](b.get("/v1/components/react/button").is(http.StatusOK))
	require.Equal(t, "ü<b>\n", component["sourceCode"])
	require.Equal(t, []any{"utils"}, component["registryDependencies"])
	block := decode[map[string]any](b.get("/v1/blocks/react/login").is(http.StatusOK))
	require.Equal(t, "auth", block["category"])
	require.Equal(t, "complex", block["type"])
	require.Equal(t, []any{"button"}, block["componentsUsed"])
	b.put("/r/react/one.json", `{"name":"one","type":"registry:block","files":[{"path":"a","type":"registry:ui"}]}`).is(http.StatusCreated)
	require.Equal(t, "simple", decode[map[string]any](b.get("/v1/blocks/react/one").is(http.StatusOK))["type"])

	// What is deleted under /v1 is gone here.
	b.do(http.MethodDelete, "/v1/components/react/button").is(http.StatusNoContent)
	b.get("/r/react/button.json").fails(http.StatusNotFound, "not_found")
}

// TestItemsOfV1AsRegistryItems gets as registry items what was put under /v1.
func TestItemsOfV1AsRegistryItems(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.put("/v1/components/react/button", sampleComponent).is(http.StatusCreated)
	b.put("/v1/blocks/react/login", sampleBlock).is(http.StatusCreated)
	b.put("/v1/components/react/plain", `{"sourceCode":""}`).is(http.StatusCreated)
	b.put("/v1/blocks/react/plain-block", `{"files":{"any":["thing"]}}`).is(http.StatusCreated)
	for name, want := range map[string]string{"button": "registry:component", "login": "registry:block", "plain": "registry:component", "plain-block": "registry:block"} {
		got := decode[map[string]any](b.get(registryPath("react", name)).is(http.StatusOK))
		require.Equal(t, name, got["name"])
		require.Equal(t, want, got["type"], name)
	}
	// Where /v1 has put both, the component is what the registry has.
	b.put("/v1/blocks/react/button", `{"files":[]}`).is(http.StatusCreated)
	require.Equal(t, "registry:component", decode[map[string]any](b.get("/r/react/button.json").is(http.StatusOK))["type"])
}

// TestRegistryConflict publishes a name as the other kind than it is.
func TestRegistryConflict(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.put("/r/f/a.json", `{"name":"a","type":"registry:ui"}`).is(http.StatusCreated)
	b.put("/r/f/b.json", `{"name":"b","type":"registry:block"}`).is(http.StatusCreated)
	b.put("/v1/components/f/c", `{"sourceCode":""}`).is(http.StatusCreated)
	b.put("/v1/blocks/f/d", `{"files":[]}`).is(http.StatusCreated)
	for name, itemType := range map[string]string{"a": "registry:block", "b": "registry:ui", "c": "registry:block", "d": "registry:hook"} {
		path, text := registryPath("f", name), fmt.Sprintf(`{"name":%q,"type":%q}`, name, itemType)
		before := b.get(path).is(http.StatusOK).body
		p := b.put(path, text).fails(http.StatusConflict, "conflict")
		require.NotEmpty(t, p.Message)
		require.Equal(t, before, b.get(path).is(http.StatusOK).body)
		b.put(registryPath("g", name), text).is(http.StatusCreated) // in another framework it is free
	}
	b.do(http.MethodDelete, "/v1/components/f/a").is(http.StatusNoContent)
	b.put("/r/f/a.json", `{"name":"a","type":"registry:block"}`).is(http.StatusCreated)
	b.put("/v1/blocks/f/e?ttl=100", `{"files":[]}`).is(http.StatusCreated)
	b.expire("block:f:e")
	b.put("/r/f/e.json", `{"name":"e","type":"registry:ui"}`).is(http.StatusCreated) // what has expired is not in the way
}

// TestRegistryConflictOfMany publishes one name as both kinds at once: one wins.
func TestRegistryConflictOfMany(t *testing.T) {
	t.Parallel()
	b := setup(t, slots(crowd/2))
	statuses := make([]int, crowd)
	together(t, crowd, func(i int) error {
		itemType := []string{"registry:block", "registry:ui"}[i%2]
		a, err := b.try(http.MethodPut, "/r/f/n.json", body(`{"name":"n","type":"`+itemType+`"}`))
		if err == nil {
			statuses[i] = a.status
		}
		return err
	})
	created := 0
	ok := map[int]int{}
	for i, status := range statuses {
		switch status {
		case http.StatusCreated:
			created++
			ok[i%2]++
		case http.StatusOK:
			ok[i%2]++
		default:
			require.Equal(t, http.StatusConflict, status)
		}
	}
	require.Equal(t, 1, created)
	require.Len(t, ok, 1, "both kinds were stored")
	require.Len(t, b.keys("", 10), 1)
}

// TestExamplesOfRefusedItems holds the contract's examples of items that break a rule
// against what is refused.
func TestExamplesOfRefusedItems(t *testing.T) {
	t.Parallel()
	b := setup(t)
	examples := loadContract(t).doc.Components.Responses["RegistryInvalidItem"].Value.Content["application/json"].Examples
	bodies := map[string]string{
		"missing_field":  `{"name":"button"}`,
		"key_mismatch":   `{"name":"card","type":"registry:ui"}`,
		"invalid_value":  `{"name":"button","type":"registry:ui","author":"x"}`,
		"invalid_string": `{"name":"button","type":"registry:ui","title":"\u0000"}`,
	}
	require.Len(t, bodies, len(examples))
	for name, text := range bodies {
		example, err := json.Marshal(examples[name].Value.Value)
		require.NoError(t, err)
		var want problem
		require.NoError(t, json.Unmarshal(example, &want))
		b.put(want.Instance, text, marked(bad)).fails(want.Status, want.Code, want.Errors...)
	}
	// A block has no more than a category may have, but the item keeps all that it had.
	long := `{"name":"long","type":"registry:block","categories":["` + strings.Repeat("c", 51) + `"]}`
	b.put("/r/react/long.json", long).is(http.StatusCreated)
	require.NotContains(t, b.get("/v1/blocks/react/long").is(http.StatusOK).body, `"category"`)
	require.Contains(t, b.get("/r/react/long.json").is(http.StatusOK).body, strings.Repeat("c", 51))
}

// TestDemos publishes a component and its demo in both orders.
func TestDemos(t *testing.T) {
	t.Parallel()
	b := setup(t)
	demoCode := func(framework, want string) {
		t.Helper()
		text := b.get(namedPath("component", framework, "button")).is(http.StatusOK).body
		component := decode[struct{ DemoCode *string }](&answer{t: t, body: text})
		if want == "" {
			require.Nil(t, component.DemoCode)
			return
		}
		require.NotNil(t, component.DemoCode)
		require.Equal(t, want, *component.DemoCode)
		requireSameJSON(t, uiButton, b.get(registryPath(framework, "button")).is(http.StatusOK).body, "the demo shows in the registry item")
	}
	publish := func(framework, name, text string) { b.put(registryPath(framework, name), text) }
	demo := func(code string) string { return fmt.Sprintf(buttonDemo, code) }

	publish("one", "button", uiButton)
	demoCode("one", "")
	publish("one", "button-demo", demo("first"))
	demoCode("one", "first")
	publish("one", "button-demo", demo("second"))
	demoCode("one", "second")
	publish("one", "button", uiButton) // publishing the component anew keeps the demo
	demoCode("one", "second")

	publish("two", "button-demo", demo("before"))
	b.get("/v1/components/two/button").is(http.StatusNotFound)
	publish("two", "button", uiButton)
	demoCode("two", "before")
	demoCode("one", "second") // each framework has its own

	// Only an example is a demo, and only a component has one.
	publish("three", "button", uiButton)
	publish("three", "button-demo", strings.Replace(demo("no"), "registry:example", "registry:ui", 1))
	demoCode("three", "")
	publish("three", "login", blockLogin)
	b.put("/r/three/login-demo.json", strings.ReplaceAll(demo("no"), "button", "login")).is(http.StatusCreated)
	require.NotContains(t, b.get("/v1/blocks/three/login").is(http.StatusOK).body, "demoCode")

	// Filling the demo is a write of the component.
	publish("four", "button", uiButton)
	before := b.metadata("component:four:button")
	b.post("/v1/items/component:four:button/touch", `{"ttl":1000}`).is(http.StatusOK)
	publish("four", "button-demo", demo("twelve bytes"))
	after := b.metadata("component:four:button")
	require.NotEqual(t, before.ETag, after.ETag)
	require.Equal(t, before.SizeBytes+12, after.SizeBytes)
	require.EqualValues(t, 1000, after.TTLSeconds)
}

// TestConditionalRequestsOfTheRegistry uses the tags that the registry view
// itself gave.
func TestConditionalRequestsOfTheRegistry(t *testing.T) {
	t.Parallel()
	b := setup(t)
	path := "/r/react/button.json"
	tag := b.put(path, uiButton, header("If-None-Match", "*")).is(http.StatusCreated).header.Get("ETag")
	a := b.get(path).is(http.StatusOK)
	require.Equal(t, tag, a.header.Get("ETag"))
	require.NotEmpty(t, a.header.Get("Last-Modified"))
	b.get(path, header("If-None-Match", tag)).is(http.StatusNotModified)
	b.get(path, header("If-None-Match", `"other"`)).is(http.StatusOK)
	b.put(path, uiButton, header("If-None-Match", "*")).fails(http.StatusPreconditionFailed, "precondition_failed")
	b.put(path, uiButton, header("If-Match", `"other"`)).fails(http.StatusPreconditionFailed, "precondition_failed")
	changed := strings.Replace(uiButton, `"me"`, `"you"`, 1)
	next := b.put(path, changed, header("If-Match", tag)).is(http.StatusOK).header.Get("ETag")
	require.NotEqual(t, tag, next)
	b.get(path, header("If-None-Match", tag)).is(http.StatusOK)
	b.get(path, header("If-None-Match", next)).is(http.StatusNotModified)
	b.get(path, header("If-None-Match", `x`), marked(bad)).fails(http.StatusBadRequest, "invalid_header")
	b.put(path, changed, header("If-Match", `x`), marked(bad)).fails(http.StatusBadRequest, "invalid_header")
}
