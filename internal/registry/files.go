package registry

import (
	"cmp"
	"fmt"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/stockroom/stockroom/internal/item"
)

// componentFiles returns the files of a component, nil where it has none. The
// source is the content of the first.
func componentFiles(key item.Key, source string, kept object) (jsontext.Value, error) {
	if kept == nil {
		return arrayJSON([]jsontext.Value{newFile(componentPath(key), source)}), nil
	}
	raw := kept.get("files")
	var files []jsontext.Value
	if raw != nil {
		var err error
		if files, err = parseArray(raw); err != nil {
			return nil, err
		}
	}
	if len(files) == 0 {
		if source == "" {
			return raw, nil
		}
		return arrayJSON([]jsontext.Value{newFile(componentPath(key), source)}), nil
	}
	first, err := parseObject(files[0])
	if err != nil {
		return nil, err
	}
	content := quote(source)
	if source == "" && first.get("content").Kind() == jsontext.KindNull {
		content = nil // as takeContent marks it
	}
	files[0] = first.with("content", content).inOrder(fileFields).json()
	return arrayJSON(files), nil
}

// blockFiles returns the files of a block. Those of a registry item are as they
// were; through /v1 anything may have been put, of which it finds the files: in
// a list, or in an object by their path, where an element is a file's content
// or an object that has the content among its members. What is no file is left out.
func blockFiles(key item.Key, raw jsontext.Value) ([]jsontext.Value, error) {
	var files []jsontext.Value
	if raw.Kind() == jsontext.KindBeginArray {
		elements, err := parseArray(raw)
		if err != nil {
			return nil, err
		}
		for i, element := range elements {
			path := fmt.Sprintf("blocks/%s/file-%d%s", pathName(key), i+1, extension(key))
			if file := fileOf(path, element); file != nil {
				files = append(files, file)
			}
		}
		return files, nil
	}
	byPath, err := parseObject(raw)
	if err != nil {
		return nil, err
	}
	for _, m := range byPath {
		files = append(files, filesAt(m.name, m.value)...)
	}
	return files, nil
}

// filesAt returns the files that stand at a path: one, or those of a folder.
func filesAt(path string, value jsontext.Value) []jsontext.Value {
	if file := fileOf(path, value); file != nil {
		return []jsontext.Value{file}
	}
	folder, err := parseObject(value)
	if err != nil {
		return nil
	}
	var files []jsontext.Value
	for _, m := range folder {
		// A string in an object that is no file may be anything about it.
		if m.value.Kind() == jsontext.KindBeginObject {
			files = append(files, filesAt(path+"/"+m.name, m.value)...)
		}
	}
	return files
}

// fileOf returns value as a file, with the path where it has none itself, or
// nil where it is no file.
func fileOf(path string, value jsontext.Value) jsontext.Value {
	if value.Kind() == jsontext.KindString {
		return newFile(path, unquote(value))
	}
	o, err := parseObject(value)
	if err != nil {
		return nil
	}
	// An item holds its files two levels down.
	if check(value, file, MaxDepth-2) == nil {
		return value
	}
	content, ok := o.text("content")
	if !ok {
		return nil
	}
	if own, ok := o.text("path"); ok {
		path = own
	} else if own, ok := o.text("name"); ok {
		path = own
	}
	fileType, _ := o.text("type")
	target, hasTarget := o.text("target")
	switch {
	case needsTarget(fileType) && !hasTarget:
		target, hasTarget = path, true
	case !isRegistryType(fileType):
		fileType = typeComponent
	}
	made := object{{"path", quote(path)}, {"content", quote(content)}, {"type", quote(fileType)}}
	if hasTarget {
		made = made.with("target", quote(target))
	}
	return made.json()
}

func newFile(path, content string) jsontext.Value {
	return object{{"path", quote(path)}, {"content", quote(content)}, {"type", quote(typeComponent)}}.json()
}

func componentPath(key item.Key) string {
	return "components/" + pathName(key) + extension(key)
}

// pathName returns the name as one segment of a path. A name may have slashes
// and dots, and a path is where the CLI writes a file.
func pathName(key item.Key) string {
	name := strings.Map(func(r rune) rune {
		if r == '.' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) {
			return r
		}
		return '-'
	}, key.Name())
	return cmp.Or(strings.TrimLeft(name, ".-"), "item")
}

// extensions are those of the frameworks whose components are not TSX.
var extensions = map[string]string{
	"angular": ".ts",
	"astro":   ".astro",
	"lit":     ".ts",
	"svelte":  ".svelte",
	"vue":     ".vue",
}

func extension(key item.Key) string {
	if known, ok := extensions[strings.ToLower(key.Framework())]; ok {
		return known
	}
	return ".tsx"
}
