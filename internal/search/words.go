package search

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Texts and queries are cut into words in one way, so that they meet. A compound is
// a run of letters and digits, with single joiners (- _ . /) inside, such as
// data-table, useCarousel or ui/button.tsx; its parts begin at joiners, at changes
// of case, and between letters and digits. Scripts without spaces have a part for
// each character.

const (
	// maxLexeme bounds a lexeme in bytes: PostgreSQL takes 2 KiB, its GIN indexes
	// less. What is longer counts by its beginning.
	maxLexeme = 400
	// maxParts bounds the parts of a compound; what follows is the next one.
	maxParts = 64
	// maxWhole is how many parts a compound may have that is kept whole, too. Longer
	// ones are found by their neighbouring parts.
	maxWhole = 8
)

// part is a part of a compound.
type part struct {
	start, end int // in the text
	lexeme     string
}

// scanner finds the compounds of a text, one after the other.
type scanner struct {
	text  string
	at    int
	parts []part // of the compound that next has found
	// spaced tells that nothing but one space stands between this and the compound
	// before.
	spaced bool
}

type class int

const (
	other class = iota
	joiner
	lower // and letters without case
	upper
	digit
	ideograph // of a script without spaces
	mark      // continues what it follows
)

func classOf(r rune) class {
	switch {
	case 'a' <= r && r <= 'z':
		return lower
	case 'A' <= r && r <= 'Z':
		return upper
	case '0' <= r && r <= '9':
		return digit
	case r == '-' || r == '_' || r == '.' || r == '/':
		return joiner
	case r < utf8.RuneSelf:
		return other
	case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar):
		if unicode.IsMark(r) {
			return mark
		}
		return ideograph
	case unicode.IsUpper(r):
		return upper
	case unicode.IsLetter(r):
		return lower
	case unicode.IsNumber(r):
		return digit
	case unicode.IsMark(r):
		return mark
	}
	return other
}

// next finds the next compound and tells whether there is one.
func (s *scanner) next() bool {
	before := s.at
	for s.at < len(s.text) {
		c, size := s.peek(s.at)
		if c >= lower && c != mark {
			break
		}
		s.at += size
	}
	s.spaced = before > 0 && s.at-before == 1 && s.text[before] == ' '
	s.parts = s.parts[:0]
	for s.at < len(s.text) && len(s.parts) < maxParts {
		s.run()
		c, size := s.peek(s.at)
		if c != joiner {
			break
		}
		if c, _ := s.peek(s.at + size); c < lower || c == mark {
			break
		}
		s.at += size
	}
	return len(s.parts) > 0
}

func (s *scanner) peek(at int) (class, int) {
	if at >= len(s.text) {
		return other, 0
	}
	r, size := utf8.DecodeRuneInString(s.text[at:])
	return classOf(r), size
}

// run reads a run of letters and digits and cuts it into parts.
func (s *scanner) run() {
	start := s.at
	last, lastSize, uppers := other, 0, 0
	for s.at < len(s.text) && len(s.parts) < maxParts {
		c, size := s.peek(s.at)
		if c < lower {
			break
		}
		if c == mark {
			s.at += size
			lastSize += size
			continue
		}
		switch {
		case last == other:
		case last == upper && c == lower:
			if uppers > 1 { // HTMLElement: the last capital belongs to what follows
				s.cut(start, s.at-lastSize)
				start = s.at - lastSize
			}
		case last != c || c == ideograph:
			s.cut(start, s.at)
			start = s.at
		}
		uppers++
		if c != upper {
			uppers = 0
		}
		last, lastSize = c, size
		s.at += size
	}
	s.cut(start, s.at)
}

func (s *scanner) cut(start, end int) {
	if start < end {
		s.parts = append(s.parts, part{start, end, lexemeOf(s.text[start:end])})
	}
}

// lexemeOf returns a word as it is compared.
func lexemeOf(word string) string { return bounded(strings.ToLower(word)) }

// bounded cuts a lexeme that is too long, between characters.
func bounded(lexeme string) string {
	if len(lexeme) <= maxLexeme {
		return lexeme
	}
	end := maxLexeme
	for !utf8.RuneStart(lexeme[end]) {
		end--
	}
	return lexeme[:end]
}

// joined returns the lexeme of several parts in a row.
func joined(parts []part) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(p.lexeme)
	}
	return bounded(b.String())
}

// singular returns the singular of an English plural, or "" for what looks like none.
func singular(lexeme string) string {
	n := len(lexeme)
	if n < 4 || lexeme[n-1] != 's' || lexeme[n-2] >= utf8.RuneSelf {
		return ""
	}
	switch {
	case strings.HasSuffix(lexeme, "ies") && n > 4:
		return lexeme[:n-3] + "y"
	case strings.HasSuffix(lexeme, "sses"), strings.HasSuffix(lexeme, "shes"),
		strings.HasSuffix(lexeme, "ches"), strings.HasSuffix(lexeme, "xes"):
		return lexeme[:n-2]
	case strings.ContainsRune("suio", rune(lexeme[n-2])), '0' <= lexeme[n-2] && lexeme[n-2] <= '9':
		return ""
	}
	return lexeme[:n-1]
}
