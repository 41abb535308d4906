package registry

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/stockroom/stockroom/internal/item"
)

// MaxDepth is how deep an item may be nested: as deep as any body, less the
// levels that it is wrapped in on its way through /v1, down to an mset
// ({"entries": {key: {"metadata": {"registryItem": …}}}}).
const MaxDepth = item.MaxDepth - 4

// catalogueName is the one name that no item can have, for /r/{framework}/registry.json
// is the catalogue.
const catalogueName = "registry"

// keptMember is the member of a component's metadata or of a block's structure
// that holds what the columns do not.
const keptMember = "registryItem"

// maxCategoryChars is how much the category of a block holds.
const maxCategoryChars = 50

// The types of block, by the number of its files.
const (
	blockSimple  = "simple"
	blockComplex = "complex"
)

// What the columns hold, and what is therefore not kept in keptMember.
var (
	componentColumns = []string{"name", "dependencies", "registryDependencies"}
	blockColumns     = []string{"name", "type", "description", "dependencies", "registryDependencies"}
)

// Decode checks body as a registry item and returns the component or block that
// it is of the framework. The name is that of the address the item was sent to;
// where there is no address it is empty and the item's own name counts. Every
// error that is the body's fault is a *item.Fault.
func Decode(framework, name string, body []byte) (item.Value, error) {
	if err := item.CheckFramework(framework); err != nil {
		return item.Value{}, err
	}
	o, err := read(body)
	if err != nil {
		return item.Value{}, err
	}
	own, _ := o.text("name")
	switch {
	case name != "" && name != own:
		return item.Value{}, &item.Fault{
			Code: item.CodeKeyMismatch, Pointer: "/name", Detail: fmt.Sprintf("the name must be %q as in the address", name),
		}
	case own == catalogueName:
		return item.Value{}, &item.Fault{
			Code: item.CodeInvalidValue, Pointer: "/name", Detail: fmt.Sprintf("%q is the name of the catalogue", own),
		}
	}
	if itemType, _ := o.text("type"); itemType == typeBlock {
		key, err := item.BlockKey(framework, own)
		if err != nil {
			return item.Value{}, atName(err)
		}
		block, err := blockOf(o)
		if err != nil {
			return item.Value{}, err
		}
		return item.NewBlock(key, block)
	}
	key, err := item.ComponentKey(framework, own)
	if err != nil {
		return item.Value{}, atName(err)
	}
	component, err := componentOf(o)
	if err != nil {
		return item.Value{}, err
	}
	return item.NewComponent(key, component), nil
}

// read returns the item in body, compact and held against its schema.
func read(body []byte) (object, error) {
	var value jsontext.Value
	err := item.Decode(body, func(dec *jsontext.Decoder) error {
		whole, err := dec.ReadValue()
		value = whole.Clone()
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := value.Compact(); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	if value.Kind() != jsontext.KindBeginObject {
		return nil, &item.Fault{Code: item.CodeWrongType, Detail: "must be an object"}
	}
	o, err := parseObject(value)
	if err != nil {
		return nil, err
	}
	return o, checkItem(o, value)
}

// checkItem holds an item, given both taken apart and whole, against the schema
// of its type.
func checkItem(o object, whole jsontext.Value) error {
	itemType, _ := o.text("type")
	return check(whole, itemRule(itemType), MaxDepth)
}

// atName says that a fault of the key is the name's, which is where the key
// comes from.
func atName(err error) error {
	if fault, ok := errors.AsType[*item.Fault](err); ok {
		fault.Pointer = "/name"
	}
	return err
}

func componentOf(o object) (*item.Component, error) {
	kept := o.without(componentColumns...)
	source := ""
	if raw := o.get("files"); raw != nil {
		files, err := parseArray(raw)
		if err != nil {
			return nil, err
		}
		if len(files) > 0 {
			if files[0], source, err = takeContent(files[0]); err != nil {
				return nil, err
			}
			kept = kept.with("files", arrayJSON(files))
		}
	}
	return &item.Component{
		Identity:             item.HasFramework | item.HasName,
		SourceCode:           source,
		Metadata:             wrapKept(kept),
		Dependencies:         column(o.get("dependencies")),
		RegistryDependencies: column(o.get("registryDependencies")),
	}, nil
}

// takeContent returns a file without its content, and the content. A file that
// has none is marked with a null, which no file of an item can have, so that it
// is not taken for one whose content is empty.
func takeContent(raw jsontext.Value) (jsontext.Value, string, error) {
	o, err := parseObject(raw)
	if err != nil {
		return nil, "", err
	}
	content, ok := o.text("content")
	if !ok {
		return o.with("content", jsontext.Value("null")).json(), "", nil
	}
	return o.without("content").json(), content, nil
}

func blockOf(o object) (*item.Block, error) {
	kept := o.without(blockColumns...)
	files := jsontext.Value("[]")
	blockType := blockComplex
	if raw := o.get("files"); raw != nil {
		all, err := parseArray(raw)
		if err != nil {
			return nil, err
		}
		if len(all) == 1 {
			blockType = blockSimple
		}
		// The column cannot tell an empty list from none at all: that one is kept.
		if len(all) > 0 {
			files = raw
			kept = kept.without("files")
		}
	}
	category, others, err := takeCategory(o.get("categories"))
	if err != nil {
		return nil, err
	}
	return &item.Block{
		Identity:       item.HasFramework | item.HasName,
		Category:       category,
		Type:           &blockType,
		Description:    optionalText(o.text("description")),
		Files:          string(files),
		Structure:      wrapKept(kept.with("categories", others)),
		Dependencies:   column(o.get("dependencies")),
		ComponentsUsed: column(o.get("registryDependencies")),
	}, nil
}

// takeCategory returns the first of the categories, where there is one that the
// column can hold, and what is then left of them.
func takeCategory(raw jsontext.Value) (*string, jsontext.Value, error) {
	if raw == nil {
		return nil, nil, nil
	}
	categories, err := parseArray(raw)
	if err != nil || len(categories) == 0 {
		return nil, raw, err
	}
	first := unquote(categories[0])
	switch {
	case utf8.RuneCountInString(first) > maxCategoryChars:
		return nil, raw, nil
	case len(categories) == 1:
		return &first, nil, nil
	}
	return &first, arrayJSON(categories[1:]), nil
}

// wrapKept returns the metadata or structure that keeps what no column holds.
func wrapKept(kept object) *string {
	return column(object{{keptMember, kept.json()}}.json())
}

func column(value jsontext.Value) *string {
	if value == nil {
		return nil
	}
	text := string(value)
	return &text
}

func optionalText(text string, ok bool) *string {
	if !ok {
		return nil
	}
	return &text
}
