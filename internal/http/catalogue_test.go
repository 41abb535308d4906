package http_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// catalogue is what the tests look at in one.
type catalogue struct {
	Name, Homepage string
	Items          []struct {
		Name, Type, Title, Description string
		RegistryDependencies           []string
	}
	Pagination pagination
}

type pagination struct {
	Total, Offset, Limit int
	HasMore              bool
}

// catalogued asks for a catalogue and returns it with the names of its items.
func (b *bundle) catalogued(path string, options ...option) (c catalogue, names []string) {
	b.t.Helper()
	c = decode[catalogue](b.get(path, options...).is(http.StatusOK))
	names = []string{}
	for _, item := range c.Items {
		names = append(names, item.Name)
	}
	return c, names
}

// TestCatalogue fills a framework through both doors and looks at its catalogue.
func TestCatalogue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	c, names := b.catalogued("/r/react/registry.json") // nothing yet
	require.Empty(t, names)
	require.Equal(t, pagination{Limit: 1000}, c.Pagination)

	b.put("/r/react/button.json", uiButton).is(http.StatusCreated)
	b.put("/r/react/login.json", blockLogin).is(http.StatusCreated)
	b.put("/v1/components/react/Plain", `{"sourceCode":"x"}`).is(http.StatusCreated)
	b.put("/v1/blocks/react/a-block", `{"files":{"a.tsx":"x"},"description":"Of v1."}`).is(http.StatusCreated)
	b.put("/v1/blocks/react/button", `{"files":[]}`).is(http.StatusCreated) // stands behind the component
	b.put("/r/vue/other.json", `{"name":"other","type":"registry:ui"}`).is(http.StatusCreated)
	b.put("/v1/items/react", `1`).is(http.StatusCreated)

	a := b.get("/r/react/registry.json").is(http.StatusOK)
	require.Equal(t, "no-cache", a.header.Get("Cache-Control"))
	requireSameJSON(t, `{"$schema":"https://ui.shadcn.com/schema/registry.json","name":"react","homepage":"`+b.URL+`/r/react/registry.json","items":[
		{"$schema":"https://ui.shadcn.com/schema/registry-item.json","name":"Plain","type":"registry:component","files":[{"path":"components/Plain.tsx","type":"registry:component"}]},
		{"$schema":"https://ui.shadcn.com/schema/registry-item.json","name":"a-block","type":"registry:block","description":"Of v1.","files":[{"path":"a.tsx","type":"registry:component"}]},
		{"$schema":"https://ui.shadcn.com/schema/registry-item.json","name":"button","type":"registry:ui","author":"me","dependencies":["a"],"registryDependencies":["utils"],
		 "files":[{"path":"ui/button.tsx","type":"registry:ui","target":"","own":1.0}],"meta":{"n":1.10},"unknown":{"kept":[12345678901234567890]}},
		{"name":"login","type":"registry:block","description":"A form","registryDependencies":["button"],"categories":["auth","more"],
		 "files":[{"path":"page.tsx","type":"registry:page","target":"app/page.tsx"},{"path":"b.tsx","type":"registry:component"}]}
		],"pagination":{"total":4,"offset":0,"limit":1000,"hasMore":false}}`, a.body, "the catalogue")
	require.Equal(t, a.body, b.get("/r/react/styles/any-style/registry.json").is(http.StatusOK).body)

	// It is no access to what it shows.
	b.flushMarks()
	require.EqualValues(t, 1, b.metadata("component:react:button").AccessCount)

	// What has expired is neither shown nor counted, nor in the way of a block.
	b.expire("component:react:button", "block:react:login")
	c, names = b.catalogued("/r/react/registry.json")
	require.Equal(t, []string{"Plain", "a-block", "button"}, names)
	require.Equal(t, 3, c.Pagination.Total)
	require.Equal(t, "registry:block", c.Items[2].Type)
	c, names = b.catalogued("/r/react/registry.json?limit=1&offset=2")
	require.Equal(t, []string{"button"}, names)
	require.Equal(t, pagination{3, 2, 1, false}, c.Pagination)

	// An item that is not one by the schema is shown as what GET answers.
	b.put("/v1/components/f/odd", `{"sourceCode":"x","metadata":{"registryItem":{"type":"registry:ui","files":5}}}`).is(http.StatusCreated)
	b.put("/v1/components/f/odder", `{"sourceCode":"x","metadata":{"registryItem":[["a"]]}}`).is(http.StatusCreated)
	c, _ = b.catalogued("/r/f/registry.json")
	for _, item := range c.Items {
		require.Equal(t, item.Type, decode[map[string]any](b.get(registryPath("f", item.Name)).is(http.StatusOK))["type"])
	}
}

// TestCatalogueIsConditional asks for a catalogue that is known.
func TestCatalogueIsConditional(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const path = "/r/react/registry.json"
	b.put("/r/react/button.json", uiButton).is(http.StatusCreated)
	tag := b.get(path).is(http.StatusOK).header.Get("ETag")
	a := b.get(path, header("If-None-Match", tag)).is(http.StatusNotModified)
	require.Equal(t, tag, a.header.Get("ETag"))
	require.NotEqual(t, tag, b.get(path+"?limit=5", header("If-None-Match", tag)).is(http.StatusOK).header.Get("ETag"))
	b.put("/r/react/button.json", strings.Replace(uiButton, `"content":"`, `"content":"changed `, 1)).is(http.StatusOK)
	b.get(path, header("If-None-Match", tag)).is(http.StatusNotModified) // nothing of it is in the catalogue
	b.put("/r/react/login.json", blockLogin).is(http.StatusCreated)
	b.get(path, header("If-None-Match", tag)).is(http.StatusOK)
	b.get(path, header("If-None-Match", `x`), marked(bad)).fails(http.StatusBadRequest, "invalid_header")
}

// searched puts the items that the tests below look for.
func searched(t *testing.T) *bundle {
	t.Helper()
	b := setup(t)
	for name, members := range map[string]string{
		"table":           `"type":"registry:ui"`,
		"table-demo":      `"type":"registry:example"`,
		"data-table":      `"type":"registry:ui","title":"A Grid"`,
		"chart":           `"type":"registry:ui","description":"Beside a TABLE, 100% of_it."`,
		"use-table":       `"type":"registry:hook"`,
		"dashboard":       `"type":"registry:block","description":"A data table and a chart."`,
		"calendar":        `"type":"registry:block","title":"Übersicht der Tage"`,
		"theme":           `"type":"registry:theme"`,
		"long":            `"type":"registry:lib","description":"` + strings.Repeat("é", 500) + ` tail"`,
		`back\slash_%100`: `"type":"registry:internal"`,
	} {
		text, err := json.Marshal(name)
		require.NoError(t, err)
		b.put(registryPath("react", name), `{"name":`+string(text)+`,`+members+`}`).is(http.StatusCreated)
	}
	b.put("/v1/components/react/by-hand", `{"sourceCode":"table"}`).is(http.StatusCreated)
	b.put("/r/vue/table.json", `{"name":"table","type":"registry:ui"}`).is(http.StatusCreated)
	return b
}

func TestCatalogueQuery(t *testing.T) {
	t.Parallel()
	b := searched(t)
	for query, want := range map[string][]string{
		"table":            {"table", "table-demo", "data-table", "use-table", "chart", "dashboard"},
		"TABLE":            {"table", "table-demo", "data-table", "use-table", "chart", "dashboard"},
		"data table":       {"data-table", "dashboard"},
		"  table \t data ": {"data-table", "dashboard"},
		"grid":             {"data-table"},
		"tab grid":         {"data-table"},
		"übersicht":        {"calendar"},
		"ÜBERSICHT tage":   {"calendar"},
		"100%":             {"chart"},
		"f_it":             {"chart"},
		"%":                {`back\slash_%100`, "chart"},
		"_":                {`back\slash_%100`, "chart"},
		`\`:                {`back\slash_%100`},
		`k\s`:              {`back\slash_%100`},
		"nothing":          {},
		"table\nnothing":   {},
		"tail":             {}, // too far behind
		"éé":               {"long"},
		"' OR 1=1 --":      {},
	} {
		c, names := b.catalogued("/r/react/registry.json?q=" + url.QueryEscape(query))
		require.Equal(t, want, names, query)
		require.Equal(t, pagination{Total: len(want), Limit: 1000}, c.Pagination, query)
	}
	all, _ := b.catalogued("/r/react/registry.json?q=")
	require.Equal(t, 11, all.Pagination.Total)
	all, _ = b.catalogued("/r/react/registry.json?q=%20%20")
	require.Equal(t, 11, all.Pagination.Total)

	b.get("/r/react/registry.json?q=" + strings.Repeat("é", 200)).is(http.StatusOK)
	for _, text := range []string{strings.Repeat("é", 201), "a%00", "%ff"} {
		b.get("/r/react/registry.json?q="+text, marked(bad)).fails(http.StatusBadRequest, "invalid_parameter")
	}
}

func TestCatalogueTypes(t *testing.T) {
	t.Parallel()
	b := searched(t)
	for types, want := range map[string][]string{
		"registry:ui":                                 {"chart", "data-table", "table"},
		"ui":                                          {"chart", "data-table", "table"},
		"registry:block":                              {"calendar", "dashboard"},
		"registry:block,registry:hook":                {"calendar", "dashboard", "use-table"},
		"registry:theme, ,block":                      {"calendar", "dashboard", "theme"},
		"registry:component":                          {"by-hand"},
		"registry:nothing":                            {},
		"registry:ui&q=table":                         {"table", "data-table", "chart"},
		"registry:block&q=table":                      {"dashboard"},
		"registry:block,registry:ui&q=chart":          {"chart", "dashboard"},
		"registry:block,registry:ui&limit=2":          {"calendar", "chart"},
		"registry:block,registry:ui&limit=2&offset=2": {"dashboard", "data-table"},
	} {
		_, names := b.catalogued("/r/react/registry.json?type=" + strings.ReplaceAll(types, " ", "%20"))
		require.Equal(t, want, names, types)
	}
	b.get("/r/react/registry.json?type=%00", marked(bad)).fails(http.StatusBadRequest, "invalid_parameter")
	b.get("/r/react/registry.json?type=%ff", marked(bad)).fails(http.StatusBadRequest, "invalid_parameter")

	// A component hides a block of its name, whatever the type that is asked for.
	b.put("/v1/blocks/react/theme", `{"files":[]}`).is(http.StatusCreated)
	_, names := b.catalogued("/r/react/registry.json?type=block")
	require.Equal(t, []string{"calendar", "dashboard"}, names)
	_, names = b.catalogued("/r/react/registry.json?type=block&q=theme")
	require.Empty(t, names)
}

// TestCataloguePages reads catalogues page by page.
func TestCataloguePages(t *testing.T) {
	t.Parallel()
	b := searched(t)
	for _, query := range []string{"", "&q=table", "&type=ui,block"} {
		whole, want := b.catalogued("/r/react/registry.json?" + query)
		require.Greater(t, len(want), 4)
		for _, limit := range []int{1, 2, 3, len(want) - 1, len(want), len(want) + 1} {
			names := []string{}
			for offset := 0; ; offset += limit {
				c, page := b.catalogued(fmt.Sprintf("/r/react/registry.json?limit=%d&offset=%d%s", limit, offset, query))
				require.Equal(t, pagination{whole.Pagination.Total, offset, limit, offset+len(page) < len(want)}, c.Pagination)
				names = append(names, page...)
				if !c.Pagination.HasMore {
					break
				}
			}
			require.Equal(t, want, names, "%s by %d", query, limit)
		}
		// Behind the end.
		for _, offset := range []int{len(want), len(want) + 1, 2147483647} {
			c, page := b.catalogued(fmt.Sprintf("/r/react/registry.json?offset=%d%s", offset, query))
			require.Empty(t, page)
			require.Equal(t, pagination{len(want), offset, 1000, false}, c.Pagination)
		}
	}
	// The CLI's own "no limit", and pages of more than there can be.
	for _, limit := range []string{"0", "", "1000", "1001", "2147483647"} {
		options := []option{}
		if limit == "" {
			options = append(options, marked(loose))
		}
		c, names := b.catalogued("/r/react/registry.json?limit="+limit, options...)
		require.Len(t, names, 11)
		require.Equal(t, 1000, c.Pagination.Limit)
	}
	for _, name := range []string{"limit", "offset"} {
		for _, value := range []string{"-1", "%2B1", "1.5", "x", "1e2", "2147483648", "99999999999999999999", "0x1"} {
			b.get("/r/react/registry.json?"+name+"="+value, marked(bad)).fails(http.StatusBadRequest, "invalid_parameter")
		}
	}
	b.get("/r/react/registry.json?q=a;b", marked(bad)).fails(http.StatusBadRequest, "invalid_parameter")
	b.get("/r/re:act/registry.json", marked(bad)).fails(http.StatusBadRequest, "invalid_key")
	// The CLI and its users' configuration may add parameters.
	_, names := b.catalogued("/r/react/registry.json?style=new-york&limit=1&token=")
	require.Len(t, names, 1)
}

// TestNamespace asks for items as the CLI does that knows this registry by a name.
func TestNamespace(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const text = `{"name":"a","type":"registry:ui","registryDependencies":["button","@acme/card","@other/x","https://a.example/r/b.json","./local.json","file.json",` +
		`"owner/repo/item","data.table"],"meta":{"registryDependencies":["button"]}}`
	b.put("/r/react/a.json", text).is(http.StatusCreated)
	b.put("/r/react/b.json", `{"name":"b","type":"registry:block"}`).is(http.StatusCreated)
	plain := b.get("/r/react/a.json").is(http.StatusOK)
	requireSameJSON(t, text, plain.body, "without a namespace")

	inAcme := strings.NewReplacer(`["button","@acme`, `["@acme/button","@acme`, `"data.table"`, `"@acme/data.table"`).Replace(text)
	for _, path := range []string{"/r/react/a.json?namespace=@acme", "/r/react/a.json?namespace=%40acme&more=1", "/r/react/styles/new-york/a.json?namespace=@acme"} {
		a := b.get(path).is(http.StatusOK)
		requireSameJSON(t, inAcme, a.body, path)
		require.Equal(t, plain.header.Get("ETag"), a.header.Get("ETag"))
	}
	requireSameJSON(t, `{"name":"b","type":"registry:block"}`, b.get("/r/react/b.json?namespace=@acme").is(http.StatusOK).body, "no dependencies")
	c, _ := b.catalogued("/r/react/registry.json?namespace=@acme")
	require.Equal(t, []string{"@acme/button", "@acme/card", "@other/x", "https://a.example/r/b.json", "./local.json", "file.json", "owner/repo/item", "@acme/data.table"},
		c.Items[0].RegistryDependencies)
	c, _ = b.catalogued("/r/react/registry.json")
	require.Equal(t, "button", c.Items[0].RegistryDependencies[0])

	for _, namespace := range []string{"acme", "@", "@a/b", "@-a", "@a-", "@a%20b", "@%C3%A9", "@a%0A", "%00"} {
		for _, path := range []string{"/r/react/a.json", "/r/react/styles/s/a.json", "/r/react/registry.json"} {
			b.get(path+"?namespace="+namespace, marked(bad)).fails(http.StatusBadRequest, "invalid_parameter")
		}
	}
}

// TestStyles asks for items where the CLI asks for those of its own registry.
func TestStyles(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.put("/r/react/button.json", uiButton).is(http.StatusCreated)
	want := b.get("/r/react/button.json").is(http.StatusOK)
	for _, style := range []string{"new-york-v4", "default", "a.b", "%C3%A9", "a%2Fb"} {
		a := b.get("/r/react/styles/" + style + "/button.json").is(http.StatusOK)
		require.Equal(t, want.body, a.body)
		require.Equal(t, want.header.Get("ETag"), a.header.Get("ETag"))
		b.get("/r/react/styles/"+style+"/missing.json").fails(http.StatusNotFound, "not_found")
		b.get("/r/vue/styles/"+style+"/button.json").fails(http.StatusNotFound, "not_found")
	}
	b.get("/r/react/styles/new-york/button", marked(loose)).fails(http.StatusNotFound, "not_found")
	b.get("/r/react/styles/button.json", marked(loose)).fails(http.StatusNotFound, "not_found")
}

// TestCatalogueOfARealRegistry compares the catalogue of a real registry with its files.
func TestCatalogueOfARealRegistry(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(registryFolder(t), "*.json"))
	require.NoError(t, err)
	b := setup(t, slots(8))
	texts := make([]string, len(files))
	names := make([]string, len(files))
	for i, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		texts[i], names[i] = string(text), strings.TrimSuffix(filepath.Base(file), ".json")
	}
	const workers = 8
	together(t, workers, func(worker int) error {
		for i := worker; i < len(names); i += workers {
			a, err := b.try(http.MethodPut, registryPath("react", names[i]), body(texts[i]))
			if err == nil && a.status != http.StatusCreated {
				err = fmt.Errorf("publish %s: %d: %s", names[i], a.status, a.body)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	got := decode[struct {
		Items      []map[string]any
		Pagination pagination
	}](b.get("/r/react/registry.json").is(http.StatusOK))
	require.Equal(t, pagination{len(files), 0, 1000, false}, got.Pagination)
	want := map[string]any{}
	byType := map[string]int{}
	for i, text := range texts {
		item, ok := parsed(t, text).(map[string]any)
		require.True(t, ok)
		if files, ok := item["files"].([]any); ok {
			for _, file := range files {
				file, ok := file.(map[string]any)
				require.True(t, ok)
				delete(file, "content")
			}
		}
		want[names[i]] = item
		byType[fmt.Sprint(item["type"])]++
	}
	slices.Sort(names)
	for i, item := range got.Items {
		require.Equal(t, names[i], item["name"])
		text, err := json.Marshal(item)
		require.NoError(t, err)
		require.Equal(t, want[names[i]], parsed(t, string(text)), names[i])
	}
	for itemType, n := range byType {
		c, _ := b.catalogued("/r/react/registry.json?type=" + itemType)
		require.Equal(t, n, c.Pagination.Total, itemType)
		for _, item := range c.Items {
			require.Equal(t, itemType, item.Type)
		}
	}
	for query, first := range map[string]string{"button": "button", "date picker": "date-picker-demo", "data-table": "data-table-demo", "sidebar 07": "sidebar-07"} {
		c, found := b.catalogued("/r/react/registry.json?limit=5&q=" + url.QueryEscape(query))
		require.NotEmpty(t, c.Items, query)
		require.Equal(t, first, found[0], query)
	}
}
