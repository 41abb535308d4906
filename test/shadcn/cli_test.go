package shadcn

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func noExample(item *registryItem) bool { return item.Type != "registry:example" }

// registries are those that the tests below are made with.
var registries = map[string]struct {
	folder func(*testing.T) string
	add    func(*registryItem) bool // what can be added to one project, no two files in one place
	block  string                   // one with dependencies that have some, too
}{
	"examples": {folder: examples, add: noExample, block: "stock-page"},
	"bare":     {folder: bareExamples, add: noExample, block: "stock-page"},
	"real": {
		folder: realRegistry,
		add: func(item *registryItem) bool {
			return slices.Contains([]string{"registry:ui", "registry:hook", "registry:lib"}, item.Type) || item.Name == "sidebar-07" || item.Name == "login-01"
		},
		block: "sidebar-07",
	},
}

// TestAddByNamespace adds items with an API key from the environment.
func TestAddByNamespace(t *testing.T) {
	needsNode(t)
	t.Parallel()
	for name, registry := range registries {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := fill(t, registry.folder(t))
			known := map[string]any{namespace: registryOf(s.guarded, "?namespace="+namespace, bearer)}
			token := tokenVariable + "=" + s.tokens["read"]

			p := newProject(t, known, token)
			args := []string{"add", "--yes"}
			var names []string
			for _, name := range slices.Sorted(maps.Keys(s.items)) {
				if registry.add(s.items[name]) {
					names = append(names, name)
					args = append(args, namespace+"/"+name)
				}
			}
			p.run(args...)
			p.requireAdded(s, names)

			p = newProject(t, known, token)
			p.run("add", "--yes", namespace+"/"+registry.block)
			p.requireAdded(s, s.closure(registry.block))
		})
	}
}

// TestAddByURL adds items whose dependencies have no namespace, from a server that is
// named to the CLI as its registry.
func TestAddByURL(t *testing.T) {
	needsNode(t)
	t.Parallel()
	for name, registry := range registries {
		if name == "examples" {
			continue // all their dependencies have a namespace
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := fill(t, registry.folder(t))
			p := newProject(t, nil, "REGISTRY_URL="+s.open.url+"/r/"+framework)
			p.run("add", "--yes", s.open.url+"/r/"+framework+"/"+registry.block+".json")
			p.requireAdded(s, s.closure(registry.block))

			// By its name alone.
			p = newProject(t, nil, "REGISTRY_URL="+s.open.url+"/r/"+framework)
			p.run("add", "--yes", registry.block)
			p.requireAdded(s, s.closure(registry.block))
			var all []string
			for _, found := range p.search("search", "@shadcn", "--json", "--limit", "1000").Items {
				all = append(all, found.Name)
			}
			require.Equal(t, slices.Sorted(maps.Keys(s.items)), all)
		})
	}
}

// closure are an item and what it depends on.
func (s *stock) closure(name string) (names []string) {
	for todo := []string{name}; len(todo) > 0; todo = todo[1:] {
		if !slices.Contains(names, todo[0]) {
			names = append(names, todo[0])
			for _, dependency := range s.items[todo[0]].RegistryDependencies {
				todo = append(todo, strings.TrimPrefix(dependency, namespace+"/"))
			}
		}
	}
	return names
}

// requireAdded compares all that the CLI has added to the project with the items.
func (p *project) requireAdded(s *stock, names []string) {
	p.t.Helper()
	wanted := map[string]string{}
	packages := map[string]bool{}
	for _, name := range names {
		for _, file := range s.items[name].Files {
			path := p.place(file)
			text := file.Content
			if strings.HasPrefix(filepath.Ext(path), ".ts") {
				text = rewritten(text)
			}
			require.Contains(p.t, []string{"", text}, wanted[path], "two files for %s", path)
			wanted[path] = text
		}
		for _, dependency := range s.items[name].Dependencies {
			packages[dependency] = true
		}
	}
	require.NotEmpty(p.t, wanted)
	for path, text := range wanted {
		got, err := os.ReadFile(filepath.Join(p.dir, filepath.FromSlash(path)))
		require.NoError(p.t, err)
		require.Equal(p.t, text, string(got), path)
	}
	var made []string
	for _, folder := range []string{"app", "components", "hooks", "lib"} {
		require.NoError(p.t, filepath.Walk(filepath.Join(p.dir, folder), func(path string, info os.FileInfo, err error) error {
			if err == nil && !info.IsDir() && info.Name() != "globals.css" {
				made = append(made, filepath.ToSlash(strings.TrimPrefix(path, p.dir+string(filepath.Separator))))
			}
			if os.IsNotExist(err) {
				return nil
			}
			return err
		}))
	}
	require.ElementsMatch(p.t, slices.Collect(maps.Keys(wanted)), made)

	asked, err := os.ReadFile(filepath.Join(p.dir, "npm.log"))
	if len(packages) > 0 {
		require.NoError(p.t, err, "no package was asked for")
	}
	_, list, _ := strings.Cut(string(asked), "--\n")
	for dependency := range packages {
		require.Contains(p.t, strings.Split(list, "\n"), dependency)
	}
}

// place is where the CLI puts a file: where its target says, else in the folder for its
// type, with the last part of its path.
func (p *project) place(file registryFile) string {
	p.t.Helper()
	if file.Target != "" {
		return file.Target
	}
	folder, ok := map[string]string{
		"registry:ui": "components/ui", "registry:component": "components", "registry:block": "components",
		"registry:hook": "hooks", "registry:lib": "lib",
	}[file.Type]
	require.True(p.t, ok, "no place for a file of the type %s", file.Type)
	return folder + "/" + filepath.Base(file.Path)
}

// rewritten is the text that the CLI makes of a source: imports from the places of the
// registry become imports from those that components.json names, and a comment on top is
// left out. All else is as it was.
func rewritten(text string) string {
	text = topComment.ReplaceAllString(text, "")
	text = registryImport.ReplaceAllStringFunc(text, func(found string) string {
		return "@/" + map[string]string{"ui": "components/ui", "lib": "lib", "hooks": "hooks"}[registryImport.FindStringSubmatch(found)[1]] + "/"
	})
	return blockImport.ReplaceAllString(text, "@/components/")
}

var (
	topComment     = regexp.MustCompile(`^(//[^\n]*\n)+\n*`)
	registryImport = regexp.MustCompile(`@/registry/[a-z-]+/(ui|lib|hooks)/`)
	blockImport    = regexp.MustCompile(`@/registry/[a-z-]+/blocks/[a-z0-9-]+/components/`)
)

// TestView shows items as they were published.
func TestView(t *testing.T) {
	needsNode(t)
	t.Parallel()
	for name, registry := range registries {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := fill(t, registry.folder(t))
			// Before it shows an item it looks at what that depends on.
			p := newProject(t, map[string]any{namespace: registryOf(s.guarded, "", bearer)},
				tokenVariable+"="+s.tokens["read"], "REGISTRY_URL="+s.open.url+"/r/"+framework)
			names := slices.Sorted(maps.Keys(s.items))
			args := []string{"view"}
			for _, name := range names {
				args = append(args, namespace+"/"+name)
			}
			var shown []json.RawMessage
			require.NoError(t, json.Unmarshal([]byte(p.run(args...)), &shown))
			require.Len(t, shown, len(names))
			for i, name := range names {
				require.JSONEq(t, s.items[name].text, string(shown[i]), name)
			}
		})
	}
}

// found is what search and list answer as JSON.
type found struct {
	Pagination struct {
		Total, Offset, Limit int
		HasMore              bool
	}
	Items []struct{ Name, Type, Description, Registry, AddCommandArgument string }
}

func (p *project) search(args ...string) (f found) {
	p.t.Helper()
	require.NoError(p.t, json.Unmarshal([]byte(p.run(args...)), &f))
	return f
}

// TestSearchAndList compares what the CLI finds with what there is.
func TestSearchAndList(t *testing.T) {
	needsNode(t)
	t.Parallel()
	for name, registry := range registries {
		if name == "bare" {
			continue // what an item depends on is in no list
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := fill(t, registry.folder(t))
			p := newProject(t, map[string]any{namespace: registryOf(s.guarded, "?namespace="+namespace, bearer)}, tokenVariable+"="+s.tokens["read"])
			names := slices.Sorted(maps.Keys(s.items))

			// Page by page, by namespace.
			size := len(names)/3 + 1
			var all []string
			for offset := 0; offset < len(names); offset += size {
				page := p.search("list", namespace, "--json", "--limit", strconv.Itoa(size), "--offset", strconv.Itoa(offset))
				require.Equal(t, len(names), page.Pagination.Total)
				require.Equal(t, offset+size < len(names), page.Pagination.HasMore)
				for _, item := range page.Items {
					require.Equal(t, s.items[item.Name].Type, item.Type)
					require.Equal(t, namespace+"/"+item.Name, item.AddCommandArgument)
					all = append(all, item.Name)
				}
			}
			require.Equal(t, names, all)

			// By type, and by URL.
			blocks := 0
			for _, item := range s.items {
				if item.Type == "registry:block" {
					blocks++
				}
			}
			page := p.search("list", namespace, "--json", "--type", "block", "--limit", "1000")
			require.Len(t, page.Items, blocks)
			open := newProject(t, nil)
			page = open.search("search", s.open.url+"/r/"+framework+"/registry.json", "--json", "--query", registry.block, "--type", "block,ui")
			require.NotEmpty(t, page.Items)
			require.Equal(t, registry.block, page.Items[0].Name)
			require.Equal(t, s.open.url+"/r/"+framework+"/"+registry.block+".json", page.Items[0].AddCommandArgument)

			if name != "examples" {
				return
			}
			// What its user sees.
			require.Contains(t, p.run("search", namespace, "--query", registry.block, "--type", "block"), "- "+namespace+"/"+registry.block+" (block)")
			require.Contains(t, p.run("search", "--query", "no such thing"), "No items found")
			require.Contains(t, newProject(t, nil).run("list", s.open.url+"/r/nothing/registry.json"), "No items found")
		})
	}
}

// TestErrors shows what the user of the CLI is told.
func TestErrors(t *testing.T) {
	needsNode(t)
	t.Parallel()
	s := fill(t, examples(t))
	known := map[string]any{
		"@guarded": registryOf(s.guarded, "", bearer),
		"@keyless": registryOf(s.guarded, "", nil),
	}
	for name, tc := range map[string]struct {
		token    string
		commands []string // one after the other fails in the same way
		message  string
	}{
		"missing item":         {s.tokens["read"], []string{"add @guarded/missing", "view @guarded/missing"}, "there is no such item"},
		"missing key":          {"", []string{"add @keyless/status-badge", "view @keyless/status-badge", "search @keyless"}, "an API key is required: Authorization: Bearer <key>"},
		"unknown key":          {"wrong", []string{"add @guarded/status-badge"}, "the API key is not known"},
		"key of another scope": {s.tokens["write"], []string{"add @guarded/status-badge"}, "the API key lacks the scope read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProject(t, known, tokenVariable+"="+tc.token)
			for _, command := range tc.commands {
				require.Contains(t, p.fails(strings.Fields(command)...), tc.message)
			}
		})
	}
}
