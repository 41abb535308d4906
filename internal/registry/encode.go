package registry

import (
	"fmt"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/stockroom/stockroom/internal/item"
)

// Encode returns the registry item of a component or block, given its key and
// the JSON that is stored under it. For one that Decode made, the item equals
// the one decoded; where a column was changed since, the item shows the change.
// Any other component or block comes out as an item made of its columns alone.
// Either way the item obeys the schema.
func Encode(key item.Key, stored []byte) ([]byte, error) {
	o, err := itemOf(key, stored)
	if err != nil {
		return nil, err
	}
	return o.json(), nil
}

// Summarize returns what the catalogue shows of a component or block: the item that
// Encode returns, without the content of its files. Of a component's source only whether
// there is any counts.
func Summarize(value item.Value) ([]byte, error) {
	o, err := itemOfValue(value)
	if err != nil {
		return nil, err
	}
	if raw := o.get("files"); raw != nil {
		files, err := parseArray(raw)
		if err != nil {
			return nil, err
		}
		for i := range files {
			file, err := parseObject(files[i])
			if err != nil {
				return nil, err
			}
			files[i] = file.without("content").json()
		}
		o = o.with("files", arrayJSON(files))
	}
	return o.json(), nil
}

func itemOf(key item.Key, stored []byte) (object, error) {
	if key.Kind() == item.KindEntry {
		return nil, fmt.Errorf("registry: the entry %s is no registry item", key)
	}
	value, err := item.Parse(key, stored)
	if err != nil {
		return nil, fmt.Errorf("registry: read the stored %s: %w", key, err)
	}
	return itemOfValue(value)
}

func itemOfValue(value item.Value) (object, error) {
	// What is kept is the caller's own JSON and may have been written through
	// /v1 by anyone. Where no item can be made of it, it is left aside.
	if kept := keptIn(value); kept != nil {
		if o, err := assemble(value, kept); err == nil && checkItem(o, o.json()) == nil {
			return o, nil
		}
	}
	return assemble(value, nil)
}

// keptIn returns what Decode kept in the value besides its columns, nil where it
// was not made by Decode.
func keptIn(value item.Value) object {
	var around *string
	switch {
	case value.Component != nil:
		around = value.Component.Metadata
	case value.Block != nil:
		around = value.Block.Structure
	}
	if around == nil {
		return nil
	}
	outer, err := parseObject([]byte(*around))
	if err != nil {
		return nil
	}
	kept, err := parseObject(outer.get(keptMember))
	if err != nil {
		return nil
	}
	return kept
}

// assemble makes the item of the columns and what is kept besides them, if anything.
func assemble(value item.Value, kept object) (object, error) {
	if value.Block != nil {
		return assembleBlock(value.Key, value.Block, kept)
	}
	return assembleComponent(value.Key, value.Component, kept)
}

func assembleComponent(key item.Key, c *item.Component, kept object) (object, error) {
	files, err := componentFiles(key, c.SourceCode, kept)
	if err != nil {
		return nil, err
	}
	o := kept
	if kept == nil {
		o = freshItem(typeComponent)
	} else if itemType, _ := kept.text("type"); itemType == typeBlock {
		return nil, fmt.Errorf("registry: the component %s is kept as a block", key)
	}
	o = o.
		with("name", quote(key.Name())).
		with("dependencies", columnJSON(c.Dependencies)).
		with("registryDependencies", columnJSON(c.RegistryDependencies)).
		with("files", files)
	return o.inOrder(itemFields), nil
}

func assembleBlock(key item.Key, b *item.Block, kept object) (object, error) {
	o := kept
	if kept == nil {
		o = freshItem(typeBlock).with("files", jsontext.Value("[]"))
	}
	files, err := blockFiles(key, jsontext.Value(b.Files))
	if err != nil {
		return nil, err
	}
	if len(files) > 0 || o.get("files") != nil {
		o = o.with("files", arrayJSON(files))
	}
	if b.Category != nil {
		categories := []jsontext.Value{quote(*b.Category)}
		if raw := kept.get("categories"); raw != nil {
			others, err := parseArray(raw)
			if err != nil {
				return nil, err
			}
			categories = append(categories, others...)
		}
		o = o.with("categories", arrayJSON(categories))
	}
	o = o.
		with("name", quote(key.Name())).
		with("type", quote(typeBlock)).
		with("description", optionalQuote(b.Description)).
		with("dependencies", columnJSON(b.Dependencies)).
		with("registryDependencies", columnJSON(b.ComponentsUsed))
	return o.inOrder(itemFields), nil
}

func freshItem(itemType string) object {
	return object{{"$schema", quote(schemaURL)}, {"type", quote(itemType)}}
}

func columnJSON(column *string) jsontext.Value {
	if column == nil {
		return nil
	}
	return jsontext.Value(*column)
}
