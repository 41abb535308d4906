package registry

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/stockroom/stockroom/internal/item"
)

// The types of item and file that mean something here.
const (
	typeBlock     = "registry:block"
	typeComponent = "registry:component"
	typeExample   = "registry:example"
	typeFont      = "registry:font"
	typeBase      = "registry:base"
	typePage      = "registry:page"
	typeFile      = "registry:file"
)

// registryTypes are all types of item and file that the CLI knows. One that it does
// not know it refuses, and the whole catalogue with it.
var registryTypes = []string{
	"registry:lib", typeBlock, typeComponent, "registry:ui", "registry:hook", typePage, typeFile, "registry:theme",
	"registry:style", "registry:item", typeBase, typeFont, typeExample, "registry:internal",
}

// schemaURL is the $schema of items that did not come with one of their own.
const schemaURL = "https://ui.shadcn.com/schema/registry-item.json"

// The order in which items and their files are written: that of the CLI's own build.
var (
	itemFields = []string{
		"$schema", "extends", "name", "type", "title", "author", "description", "dependencies", "devDependencies",
		"registryDependencies", "files", "tailwind", "cssVars", "css", "envVars", "meta", "docs", "categories",
		"config", "font",
	}
	fileFields = []string{"path", "content", "type", "target"}
)

// itemRule is the schema of the CLI (4.x) for an item of the type, except that
// fields it does not know are kept where the CLI drops them.
func itemRule(itemType string) rule {
	known := fields{
		"$schema":              text,
		"extends":              text,
		"name":                 text,
		"type":                 textThat(registryTypeForm, isRegistryType),
		"title":                text,
		"author":               textThat("at least 2 characters", func(s string) bool { return utf8.RuneCountInString(s) >= 2 }),
		"description":          text,
		"dependencies":         texts,
		"devDependencies":      texts,
		"registryDependencies": texts,
		"files":                listOf(file),
		"tailwind":             tailwind,
		"cssVars":              cssVars,
		"css":                  recordOf(css),
		"envVars":              recordOf(text),
		"meta":                 recordOf(anything),
		"docs":                 text,
		"categories":           texts,
	}
	required := []string{"name", "type"}
	switch itemType {
	case typeFont:
		known["font"] = font
		required = append(required, "font")
	case typeBase:
		known["config"] = config
	}
	return objectOf(known, required...)
}

// isRegistryType tells whether the CLI knows a type.
func isRegistryType(got string) bool { return slices.Contains(registryTypes, got) }

// FullType returns a type with its prefix, which people leave out: ui is registry:ui.
func FullType(itemType string) string {
	if strings.HasPrefix(itemType, typePrefix) {
		return itemType
	}
	return typePrefix + itemType
}

const typePrefix = "registry:"

var registryTypeForm = "one of " + strings.Join(registryTypes, ", ")

// needsTarget tells whether a file of the type must say where it goes, since
// nothing else decides it.
func needsTarget(fileType string) bool { return fileType == typePage || fileType == typeFile }

func file(dec *jsontext.Decoder) error {
	var fileType string
	hasTarget := false
	err := objectOf(fields{
		"path":    text,
		"content": text,
		"type": textThat(registryTypeForm, func(got string) bool {
			fileType = got
			return isRegistryType(got)
		}),
		"target": func(dec *jsontext.Decoder) error {
			hasTarget = true
			return text(dec)
		},
	}, "type", "path")(dec)
	if err == nil && needsTarget(fileType) && !hasTarget {
		return missingField(dec, "target")
	}
	return err
}

var (
	tailwind = objectOf(fields{
		"config": objectOf(fields{"content": texts, "theme": recordOf(anything), "plugins": texts}),
	})
	cssVars = objectOf(fields{"theme": recordOf(text), "light": recordOf(text), "dark": recordOf(text)})
	font    = objectOf(fields{
		"family":     text,
		"provider":   textThat(`"google"`, func(got string) bool { return got == "google" }),
		"import":     text,
		"variable":   text,
		"weight":     texts,
		"subsets":    texts,
		"selector":   text,
		"dependency": text,
	}, "family", "provider", "import", "variable")
	// config is a part of the CLI's components.json. It alone may have no members but
	// those that are known.
	config = onlyKnown(fields{
		"$schema":     text,
		"style":       text,
		"rsc":         anything, // the CLI makes a boolean of whatever it finds
		"tsx":         anything,
		"rtl":         anything,
		"iconLibrary": text,
		"menuColor":   oneOf("default", "inverted", "default-translucent", "inverted-translucent"),
		"menuAccent":  oneOf("subtle", "bold"),
		"tailwind":    objectOf(fields{"config": text, "css": text, "baseColor": text, "cssVariables": boolean, "prefix": text}),
		"aliases":     objectOf(fields{"components": text, "utils": text, "ui": text, "lib": text, "hooks": text}),
		"registries":  registries,
	})
	registryURL = textThat("a URL with {name} in it", func(got string) bool { return strings.Contains(got, "{name}") })
)

// css is a declaration, a list of them, or a rule with more of these inside.
func css(dec *jsontext.Decoder) error {
	switch dec.PeekKind() {
	case jsontext.KindString:
		return text(dec)
	case jsontext.KindBeginArray:
		return listOf(cssListed)(dec)
	case jsontext.KindBeginObject:
		return recordOf(css)(dec)
	default:
		return wrongType(dec, "a string, an array or an object")
	}
}

func cssListed(dec *jsontext.Decoder) error {
	switch dec.PeekKind() {
	case jsontext.KindString:
		return text(dec)
	case jsontext.KindBeginObject:
		return recordOf(text)(dec)
	default:
		return wrongType(dec, "a string or an object of strings")
	}
}

// registries are where the names behind an @ are fetched from.
func registries(dec *jsontext.Decoder) error {
	return item.ReadObject(dec, func(name string) error {
		err := named(dec, name, registryAddress)
		if err == nil && !strings.HasPrefix(name, "@") {
			return faultAt(dec, item.CodeInvalidValue, "the name of a registry must begin with @")
		}
		return err
	})
}

func registryAddress(dec *jsontext.Decoder) error {
	switch dec.PeekKind() {
	case jsontext.KindString:
		return registryURL(dec)
	case jsontext.KindBeginObject:
		return objectOf(fields{"url": registryURL, "params": recordOf(text), "headers": recordOf(text)}, "url")(dec)
	default:
		return wrongType(dec, "a URL or an object with one")
	}
}
