package shadcn

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/registry"
)

// samples have every field that the schema knows.
var samples = []string{
	`{"$schema":"s","extends":"none","name":"a","type":"registry:ui","title":"t","author":"me","description":"d","dependencies":["a"],"devDependencies":["b"],
		"registryDependencies":["c"],"files":[{"path":"a","content":"c","type":"registry:page","target":"t"},{"path":"b","type":"registry:lib"},{"path":"b","type":"registry:file","target":""}],
		"tailwind":{"config":{"content":["a"],"theme":{"a":1},"plugins":["p"]}},"cssVars":{"theme":{"a":"b"},"light":{"a":"b"},"dark":{"a":"b"}},
		"css":{"@a":"b","@c":["d",{"e":"f"}],"@g":{"h":{"i":"j"}}},"envVars":{"A":"b"},"meta":{"a":null},"docs":"d","categories":["c"],"unknown":1}`,
	`{"name":"a","type":"registry:font","font":{"family":"f","provider":"google","import":"i","variable":"v","weight":["1"],"subsets":["s"],"selector":"s","dependency":"d"}}`,
	`{"name":"a","type":"registry:base","config":{"$schema":"s","style":"s","rsc":true,"tsx":true,"rtl":true,"menuColor":"inverted","menuAccent":"bold","iconLibrary":"i",
		"tailwind":{"config":"c","css":"c","baseColor":"b","cssVariables":true,"prefix":"p"},"aliases":{"components":"c","utils":"u","ui":"u","lib":"l","hooks":"h"},
		"registries":{"@a":"{name}","@b":{"url":"{name}","params":{"a":"b"},"headers":{"a":"b"}}}}}`,
	`{"name":"a","type":"registry:block","files":[]}`,
}

// replacements are what the tests put into every place of the samples.
var replacements = []any{
	nil, true, 1.5, "", "x", "registry:ui", "registry:font", "registry:base", "registry:page", "registry:example", "registry:of-tomorrow", "{name}",
	[]any{},
	[]any{"x"},
	[]any{1.5},
	[]any{[]any{}},
	[]any{map[string]any{"x": 1.5}},
	map[string]any{},
	map[string]any{"x": "y"},
	map[string]any{"x": 1.5},
	map[string]any{"@x": "{name}"},
}

// mutants returns value and what becomes of it where one thing in it is another or is
// not there.
func mutants(value any) (all []any) {
	all = append(all, replacements...)
	switch value := value.(type) {
	case map[string]any:
		for name, member := range value {
			for _, mutant := range mutants(member) {
				changed := maps.Clone(value)
				changed[name] = mutant
				all = append(all, changed)
			}
			less := maps.Clone(value)
			delete(less, name)
			more := maps.Clone(value)
			more["unheard-of"] = 1.5
			all = append(all, less, more)
		}
	case []any:
		for i, element := range value {
			for _, mutant := range mutants(element) {
				changed := slices.Clone(value)
				changed[i] = mutant
				all = append(all, changed)
			}
		}
	}
	return all
}

// TestSchemaIsThatOfTheCLI shows items, good and bad, to our schema and to that of the
// pinned CLI: what one refuses the other refuses, for the same place.
func TestSchemaIsThatOfTheCLI(t *testing.T) {
	needsNode(t)
	t.Parallel()
	seen := map[string]bool{}
	var items [][]byte
	add := func(value any) {
		text, err := json.Marshal(value)
		require.NoError(t, err)
		if !seen[string(text)] {
			seen[string(text)] = true
			items = append(items, text)
		}
	}
	for _, sample := range samples {
		var value map[string]any
		require.NoError(t, json.Unmarshal([]byte(sample), &value))
		add(value)
		for _, mutant := range mutants(value) {
			// The name of an item is ours to judge: it is a part of its address.
			if o, ok := mutant.(map[string]any); ok && o["name"] == "a" {
				add(mutant)
			}
		}
	}
	for _, folder := range []string{examples(t), filepath.Join("..", "..", "..", "shared", "registry", "new-york")} {
		paths, err := filepath.Glob(filepath.Join(folder, "*.json")) // there may be none
		require.NoError(t, err)
		for _, path := range paths {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			var value any
			require.NoError(t, json.Unmarshal(text, &value))
			add(value)
		}
	}
	require.Greater(t, len(items), 1000)

	cmd := exec.CommandContext(t.Context(), "node", "schema.mjs")
	cmd.Stdin = bytes.NewReader(append(bytes.Join(items, []byte("\n")), '\n'))
	var stderr output
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	verdicts := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Len(t, verdicts, len(items))
	refused := 0
	for i, text := range items {
		var places [][]any
		require.NoError(t, json.Unmarshal([]byte(verdicts[i]), &places))
		_, err := registry.Decode(framework, "", text)
		if places == nil {
			require.NoError(t, err, "the CLI takes %s", text)
			continue
		}
		refused++
		var fault *item.Fault
		require.ErrorAs(t, err, &fault, "the CLI refuses %s for %s", text, verdicts[i])
		// The CLI says no more than which of several forms is not met; we say where.
		require.True(t, slices.ContainsFunc(places, func(place []any) bool {
			steps := []string{""}
			for _, step := range place {
				steps = append(steps, fmt.Sprint(step))
			}
			pointer := strings.Join(steps, "/")
			return fault.Pointer == pointer || strings.HasPrefix(fault.Pointer, pointer+"/")
		}), "%s is refused for %s, not for %s", text, fault.Pointer, verdicts[i])
	}
	require.Greater(t, refused, 500)
	require.Greater(t, len(items)-refused, 300)
}
