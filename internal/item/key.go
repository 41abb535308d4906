package item

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Kind says which of the three things an item is.
type Kind string

// The kinds of item. Their values are also the first segment of a component's
// or a block's key, and the `kind` of an item's metadata.
const (
	KindComponent Kind = "component"
	KindBlock     Kind = "block"
	KindEntry     Kind = "entry"
)

// Limits of keys.
const (
	MaxKeyBytes       = 255 // bytes of UTF-8 in a key
	MaxFrameworkChars = 50  // characters in a framework
	MaxNameChars      = 100 // characters in a component's or block's name
)

const separator = ":"

// Key names one item. The zero Key names nothing; a Key made by ParseKey,
// ComponentKey or BlockKey obeys all the rules of keys. Keys are comparable.
type Key struct {
	text string
	// Where the kind and the framework end, each before its colon; 0 in an entry's
	// key. Batches compare and hash many keys: so a key is little more than its text.
	kindEnd, frameworkEnd uint8
}

// ParseKey checks text against the rules of keys and says what it names:
// `component:<framework>:<name>`, `block:<framework>:<name>`, or anything else
// for an entry. Its error is a *Fault with CodeInvalidKey.
func ParseKey(text string) (Key, error) {
	if fault := checkKeyText(text); fault != "" {
		return Key{}, invalidKey(text, fault)
	}
	first, rest, _ := strings.Cut(text, separator)
	kind := Kind(first)
	if kind != KindComponent && kind != KindBlock {
		return Key{text: text}, nil
	}
	framework, name, ok := strings.Cut(rest, separator)
	if !ok || framework == "" || name == "" || strings.Contains(name, separator) {
		return Key{}, invalidKey(text, fmt.Sprintf(
			"a key that begins with %q must have the form %s:<framework>:<name>", first, first))
	}
	if fault := checkIdentity("framework", framework, MaxFrameworkChars); fault != "" {
		return Key{}, invalidKey(text, fault)
	}
	if fault := checkIdentity("name", name, MaxNameChars); fault != "" {
		return Key{}, invalidKey(text, fault)
	}
	return Key{text: text, kindEnd: uint8(len(first)), frameworkEnd: uint8(len(text) - len(separator) - len(name))}, nil //nolint:gosec // within MaxKeyBytes
}

// ComponentKey returns the key of a component. Its error is that of ParseKey.
func ComponentKey(framework, name string) (Key, error) {
	return namedKey(KindComponent, framework, name)
}

// BlockKey returns the key of a block. Its error is that of ParseKey.
func BlockKey(framework, name string) (Key, error) {
	return namedKey(KindBlock, framework, name)
}

func namedKey(kind Kind, framework, name string) (Key, error) {
	return ParseKey(string(kind) + separator + framework + separator + name)
}

// CheckFramework checks a framework that stands alone, as in a list of its
// components. Its error is a *Fault with CodeInvalidKey.
func CheckFramework(framework string) error {
	fault := checkKeyText(framework)
	if fault == "" && strings.Contains(framework, separator) {
		fault = "a framework has no colon"
	}
	if fault == "" {
		fault = checkIdentity("framework", framework, MaxFrameworkChars)
	}
	if fault != "" {
		return &Fault{Code: CodeInvalidKey, Detail: fault}
	}
	return nil
}

// String returns the key as clients write it.
func (k Key) String() string { return k.text }

// Kind returns what the key names.
func (k Key) Kind() Kind {
	switch int(k.kindEnd) {
	case len(KindComponent):
		return KindComponent
	case len(KindBlock):
		return KindBlock
	}
	if k.text == "" {
		return "" // the zero Key names nothing
	}
	return KindEntry
}

// Framework returns the framework of a component's or block's key, "" for an entry's.
func (k Key) Framework() string {
	if k.kindEnd == 0 {
		return ""
	}
	return k.text[int(k.kindEnd)+len(separator) : k.frameworkEnd]
}

// Name returns the name of a component's or block's key, "" for an entry's.
func (k Key) Name() string {
	if k.kindEnd == 0 {
		return ""
	}
	return k.text[int(k.frameworkEnd)+len(separator):]
}

// checkKeyText says what is wrong with text as a key of any kind, or "".
func checkKeyText(text string) string {
	switch {
	case text == "":
		return "a key has at least one byte"
	case len(text) > MaxKeyBytes:
		return fmt.Sprintf("a key has at most %d bytes, this one has %d", MaxKeyBytes, len(text))
	case !utf8.ValidString(text):
		return "a key is valid UTF-8"
	case text == "." || text == "..":
		return "the keys . and .. are refused, since clients resolve them away"
	case strings.ContainsFunc(text, isControl):
		return "a key has no control characters (U+0000 to U+001F, U+007F)"
	}
	return ""
}

func checkIdentity(what, text string, maxChars int) string {
	switch {
	case text == "." || text == "..":
		return fmt.Sprintf("a %s is not . or .., since clients resolve them away", what)
	case utf8.RuneCountInString(text) > maxChars:
		return fmt.Sprintf("a %s has at most %d characters", what, maxChars)
	}
	return ""
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

func invalidKey(text, detail string) *Fault {
	// A key that is too long or not UTF-8 is not repeated to the caller.
	if len(text) > MaxKeyBytes || !utf8.ValidString(text) {
		text = ""
	}
	return &Fault{Code: CodeInvalidKey, Key: text, Detail: detail}
}
