// Package input is what the benchmarks store: components as a registry has them.
package input

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stockroom/stockroom/internal/item"
)

// Set is bodies of components, as a client puts them and as the service answers
// them: to the byte the same.
type Set struct {
	Source string // where they come from, for the report
	Bodies [][]byte
}

// Mean returns the mean size of the bodies.
func (s *Set) Mean() int {
	sum := 0
	for _, body := range s.Bodies {
		sum += len(body)
	}
	return sum / max(len(s.Bodies), 1)
}

// Sample returns n bodies whose sizes are distributed as those of all: of n parts of
// the bodies in the order of their sizes, the middle of each. Their own order is
// mixed, but always the same.
func (s *Set) Sample(n int) [][]byte {
	sorted := slices.Clone(s.Bodies)
	slices.SortStableFunc(sorted, func(a, b []byte) int { return len(a) - len(b) })
	sample := make([][]byte, n)
	for i := range sample {
		sample[i] = sorted[(2*i+1)*len(sorted)/(2*n)]
	}
	shuffle(sample)
	return sample
}

func shuffle(bodies [][]byte) {
	random := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // the same at each run, on purpose
	random.Shuffle(len(bodies), func(i, j int) { bodies[i], bodies[j] = bodies[j], bodies[i] })
}

// registryItem is what is taken of a registry's file; the rest of it is metadata.
type registryItem struct {
	Dependencies         []string `json:"dependencies"`
	RegistryDependencies []string `json:"registryDependencies"`
	Files                []struct {
		Content string `json:"content"`
	} `json:"files"`
}

// Load reads the items of a registry: all .json files below a folder that have a
// file with content.
func Load(dir string) (*Set, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*", "*.json"))
	if err != nil {
		return nil, err
	}
	set := &Set{}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		body, err := bodyOf(content)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if body != nil {
			set.Bodies = append(set.Bodies, body)
		}
	}
	if len(set.Bodies) == 0 {
		return nil, fmt.Errorf("no registry items in %s", dir)
	}
	shuffle(set.Bodies)
	set.Source = fmt.Sprintf("%d items of a registry", len(set.Bodies))
	return set, nil
}

// bodyOf makes a component of a registry item: the contents of its files are its
// source. An item without any is nil.
func bodyOf(content []byte) ([]byte, error) {
	var read registryItem
	if err := json.Unmarshal(content, &read); err != nil {
		return nil, err
	}
	var rest map[string]any
	if err := json.Unmarshal(content, &rest); err != nil {
		return nil, err
	}
	var source strings.Builder
	for _, file := range read.Files {
		source.WriteString(file.Content)
	}
	if source.Len() == 0 {
		return nil, nil
	}
	for _, name := range []string{"$schema", "name", "files", "dependencies", "registryDependencies"} {
		delete(rest, name)
	}
	return component(source.String(), rest, read.Dependencies, read.RegistryDependencies)
}

// component returns the body of a component in the service's own form.
func component(source string, metadata map[string]any, dependencies, registryDependencies []string) ([]byte, error) {
	fields := map[string]any{"sourceCode": source}
	if len(metadata) > 0 {
		fields["metadata"] = metadata
	}
	if len(dependencies) > 0 {
		fields["dependencies"] = dependencies
	}
	if len(registryDependencies) > 0 {
		fields["registryDependencies"] = registryDependencies
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	key, err := item.ComponentKey("any", "any")
	if err != nil {
		return nil, err
	}
	value, err := item.Parse(key, raw)
	if err != nil {
		return nil, err
	}
	if value.Component == nil {
		return nil, errors.New("a component that is none")
	}
	return value.Component.JSON(key), nil
}

// sizes are those of the bodies of a real registry, that of shadcn/ui, by the share
// of the bodies that are no larger: what Generate imitates.
var sizes = []struct {
	share float64
	bytes int
}{
	{0, 228},
	{0.05, 306},
	{0.1, 394},
	{0.15, 557},
	{0.2, 802},
	{0.25, 909},
	{0.3, 1134},
	{0.35, 1342},
	{0.4, 1676},
	{0.45, 2002},
	{0.5, 2262},
	{0.55, 2432},
	{0.6, 2587},
	{0.65, 2759},
	{0.7, 3058},
	{0.75, 3368},
	{0.8, 4039},
	{0.85, 5240},
	{0.9, 7197},
	{0.95, 10091},
	{0.97, 15798},
	{0.99, 23967},
	{1, 74121},
}

// sizeAt returns the size below which the share of all bodies is.
func sizeAt(share float64) int {
	above := 1
	for above < len(sizes)-1 && sizes[above].share < share {
		above++
	}
	low, high := sizes[above-1], sizes[above]
	return low.bytes + int(float64(high.bytes-low.bytes)*(share-low.share)/(high.share-low.share))
}

// Generate makes n bodies of source code of nobody's, with the sizes of a real
// registry's and about as compressible as those. They are the same each time.
func Generate(n int) (*Set, error) {
	random := rand.New(rand.NewPCG(2, 2)) //nolint:gosec // the same at each run, on purpose
	set := &Set{Source: fmt.Sprintf("%d generated items with the sizes of a registry's", n)}
	for i := range n {
		size := sizeAt((float64(i) + 0.5) / float64(n))
		body, err := component(sourceCode(random, max(size-frame, 1)),
			map[string]any{"type": "registry:ui", "author": "nobody"}, []string{"lucide-react"}, []string{"button", "card"})
		if err != nil {
			return nil, err
		}
		set.Bodies = append(set.Bodies, body)
	}
	shuffle(set.Bodies)
	return set, nil
}

// frame is what a generated body has besides its source, and what escaping adds to
// the shortest.
const frame = 130

// escaped is by how much JSON's escapes lengthen generated source.
const escaped = 1.07

var (
	words = strings.Fields(`Button Card Input Label Select Dialog Table Badge Avatar Sidebar Tooltip Popover Command Chart Calendar
		Header Footer Content Title Description Trigger Item Group Panel Field Toggle Switch Slider Menu Sheet`)
	classes = strings.Fields(`flex grid gap-2 gap-4 p-2 p-4 px-3 py-1.5 rounded-md border text-sm text-muted-foreground font-medium
		items-center justify-between w-full h-9 shadow-sm bg-background hover:bg-accent focus-visible:ring-2 sr-only md:grid-cols-2`)
	shapes = []string{
		"import { %[1]s, %[2]s } from \"@/components/ui/%[3]s\"\n",
		"      <%[1]s className=\"%[4]s %[5]s %[6]s\">\n",
		"        <%[2]s%[3]s className=\"%[5]s %[4]s\" />\n",
		"      </%[1]s>\n",
		"  const [open%[7]d, setOpen%[7]d] = React.useState<%[2]sProps>(%[7]d)\n",
		"export function %[1]s%[2]s%[7]d({ className, ...props }: %[3]sProps) {\n  return (\n",
		"  )\n}\n\n",
		"  { label: \"%[1]s %[3]s\", value: %[7]d, href: \"#%[2]s\" },\n",
	}
)

// sourceCode makes source code that takes about size bytes in JSON.
func sourceCode(random *rand.Rand, size int) string {
	size = int(float64(size) / escaped)
	pick := func(from []string) string { return from[random.IntN(len(from))] }
	var b strings.Builder
	for b.Len() < size {
		fmt.Fprintf(&b, pick(shapes), pick(words), pick(words), pick(words), pick(classes), pick(classes), pick(classes), random.IntN(10_000))
	}
	return b.String()[:size]
}
