package item

import (
	"strings"
	"unicode/utf8"
)

// maxPatternBytes leaves room for a pattern that escapes every byte of a key.
const maxPatternBytes = 2 * MaxKeyBytes

// Pattern is a glob over keys: `*` stands for any number of characters, `?` for
// one, and `\` makes the character behind it stand for itself. The zero Pattern
// matches every key.
type Pattern struct {
	like   string
	prefix string
}

// ParsePattern reads a glob. Its error is a *Fault with CodeInvalidPattern.
func ParsePattern(glob string) (Pattern, error) {
	switch {
	case glob == "":
		return Pattern{}, invalidPattern("is empty")
	case len(glob) > maxPatternBytes:
		return Pattern{}, invalidPattern("is longer than any key")
	case !utf8.ValidString(glob):
		return Pattern{}, invalidPattern("is not valid UTF-8")
	case strings.ContainsFunc(glob, isControl):
		return Pattern{}, invalidPattern("has a control character")
	}
	var like, prefix strings.Builder
	literal, escaped := true, false
	for _, r := range glob {
		switch {
		case !escaped && r == '\\':
			escaped = true
			continue
		case !escaped && r == '*':
			literal = false
			like.WriteByte('%')
			continue
		case !escaped && r == '?':
			literal = false
			like.WriteByte('_')
			continue
		case r == '%' || r == '_' || r == '\\':
			like.WriteByte('\\')
		}
		escaped = false
		like.WriteRune(r)
		if literal {
			prefix.WriteRune(r)
		}
	}
	if escaped {
		return Pattern{}, invalidPattern(`ends with a lone \`)
	}
	return Pattern{like: like.String(), prefix: prefix.String()}, nil
}

// MatchesAll tells whether the pattern is the zero Pattern, or as good as it.
func (p Pattern) MatchesAll() bool { return p.like == "" || p.like == "%" }

// Like returns the pattern for SQL's LIKE with its default escape `\`.
func (p Pattern) Like() string {
	if p.like == "" {
		return "%"
	}
	return p.like
}

// Prefix returns what every key that matches begins with.
func (p Pattern) Prefix() string { return p.prefix }

func invalidPattern(detail string) *Fault {
	return &Fault{Code: CodeInvalidPattern, Detail: "the pattern " + detail}
}
