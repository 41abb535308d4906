package importer

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/registry"
)

// entry is one file, read as the item that it holds.
type entry struct {
	path  string
	body  []byte     // the file, but for a byte order mark
	value item.Value // what is to be stored
	// hasDemo says that the demo code of value comes from an example among the
	// files; a component without one keeps the demo code that the server has.
	hasDemo bool
	// demoOf is the component that this example demonstrates where that is not
	// among the files: the server may have it. It is zero otherwise.
	demoOf item.Key
}

// loaded is what was found under a path.
type loaded struct {
	entries  []*entry
	failures []Failure
	skipped  []string // catalogues
}

// load reads all items under path, which is a folder or one file. Its error
// says that there is none.
func load(framework, path string) (loaded, error) {
	paths, err := find(path)
	if err != nil {
		return loaded{}, err
	}
	var found loaded
	for _, path := range paths {
		body, err := os.ReadFile(path)
		if err != nil {
			found.failures = append(found.failures, Failure{Path: path, Reason: err})
			continue
		}
		body = bytes.TrimPrefix(body, []byte("\ufeff"))
		if isCatalogue(path, body) {
			found.skipped = append(found.skipped, path)
			continue
		}
		value, err := registry.Decode(framework, "", body)
		if err != nil {
			found.failures = append(found.failures, Failure{Path: path, Reason: err})
			continue
		}
		found.entries = append(found.entries, &entry{path: path, body: body, value: value})
	}
	if len(found.entries)+len(found.failures) == 0 {
		return loaded{}, fmt.Errorf("there are no registry items (*.json) in %s", path)
	}
	found.refuseDoubles()
	if err := found.linkDemos(); err != nil {
		return loaded{}, err
	}
	return found, nil
}

// find returns the path itself where it is a file, else all JSON files below it
// except in hidden folders, in order.
func find(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var paths []string
	// Through os.DirFS the folder may be a symbolic link.
	err = fs.WalkDir(os.DirFS(path), ".", func(below string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && below != "." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case !d.IsDir() && filepath.Ext(below) == ".json":
			paths = append(paths, filepath.Join(path, filepath.FromSlash(below)))
		}
		return nil
	})
	return paths, err
}

// isCatalogue tells whether a file lists items instead of being one: it has the
// name that catalogues have, and it does not say what type of item it is.
func isCatalogue(path string, body []byte) bool {
	if base := filepath.Base(path); base != "registry.json" && base != "index.json" {
		return false
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(body))
	if dec.PeekKind() == jsontext.KindBeginArray {
		return true
	}
	isItem := false
	err := item.ReadObject(dec, func(name string) error {
		isItem = isItem || name == "type"
		return dec.SkipValue()
	})
	return err == nil && !isItem
}

// refuseDoubles fails all files that claim one name, in whatever kind: which of
// them is meant is not for us to guess.
func (l *loaded) refuseDoubles() {
	byName := map[string][]*entry{}
	for _, e := range l.entries {
		byName[e.value.Key.Name()] = append(byName[e.value.Key.Name()], e)
	}
	l.entries = slices.DeleteFunc(l.entries, func(e *entry) bool {
		same := byName[e.value.Key.Name()]
		if len(same) == 1 {
			return false
		}
		var others []string
		for _, other := range same {
			if other != e {
				others = append(others, fmt.Sprintf("%s (as %s)", other.path, other.value.Key))
			}
		}
		l.failures = append(l.failures, Failure{
			Path:   e.path,
			Reason: fmt.Errorf("%s has the name of another file: %s", e.value.Key, strings.Join(others, ", ")),
		})
		return true
	})
}

// linkDemos puts the code of examples into the components that they demonstrate.
func (l *loaded) linkDemos() error {
	byKey := make(map[item.Key]*entry, len(l.entries))
	for _, e := range l.entries {
		byKey[e.value.Key] = e
	}
	for _, demo := range l.entries {
		target, ok := registry.DemoTarget(demo.value)
		if !ok {
			continue
		}
		component, ok := byKey[target]
		if !ok {
			demo.demoOf = target
			continue
		}
		value, err := registry.WithDemo(component.value, &demo.value.Component.SourceCode)
		if err != nil {
			return err
		}
		component.value, component.hasDemo = value, true
	}
	return nil
}

// batches groups entries in their order, so that none has more of them or more
// bytes than it may; an entry that is larger alone is a batch of its own.
func batches(entries []*entry, maxItems, maxBytes int) [][]*entry {
	var groups [][]*entry
	size := 0
	for _, e := range entries {
		last, more := len(groups)-1, len(e.value.JSON())
		if last < 0 || len(groups[last]) == maxItems || size+more > maxBytes {
			groups = append(groups, nil)
			last, size = last+1, 0
		}
		groups[last] = append(groups[last], e)
		size += more
	}
	return groups
}
