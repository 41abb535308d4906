package search

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/stockroom/stockroom/internal/item"
)

// What encloses a word that was found in a snippet. They stand in hardly any
// source; where one does, the snippet has a plain bracket in its place.
const (
	MarkBegin = "⟦"
	MarkEnd   = "⟧"
)

const (
	// MaxSnippetText is how many characters of a text are looked at for a snippet.
	MaxSnippetText = 64 << 10
	// snippetBytes and leadBytes are how long a snippet is, its marks apart, and how
	// much of that stands in front of the first word found, about.
	snippetBytes, leadBytes = 180, 50
)

// wanted is a lexeme to be marked.
type wanted struct {
	word   int // index in Words
	lexeme string
	prefix bool
}

// wanted returns what is to be marked of a term.
func (t term) wanted(word int, prefix bool) (list []wanted) {
	for n, w := range t.words {
		end := prefix && n == len(t.words)-1
		want := func(lexeme string, prefix bool) {
			list = append(list, wanted{word, lexeme, prefix})
			if one := singular(lexeme); one != "" {
				list = append(list, wanted{word, one, false})
			}
		}
		switch {
		case t.phrase:
			for _, p := range w {
				want(p.lexeme, false)
			}
		case len(w) == 1:
			want(w[0].lexeme, end && utf8.RuneCountInString(w[0].lexeme) > maxBeginning)
		default:
			for i := range w[1:] {
				want(bounded(w[i].lexeme+w[i+1].lexeme), end && i == len(w)-2)
			}
			want(joined(w), end)
		}
	}
	return list
}

// hit is a place in a text where something wanted stands.
type hit struct{ start, end, word int }

// window is a part of a text, and what of the query is in it.
type window struct {
	text  string
	hits  []hit
	words int // different ones
}

// Snippet returns, of an item whose texts may have been cut, a piece of the item's description or contents in which as much
// as possible of the query stands, with marks around it; without any, how it
// begins. White space is folded.
func (q Query) Snippet(key item.Key, component *item.Component, block *item.Block) string {
	var best window
	left := MaxSnippetText
	for _, f := range fieldsOf(key, component, block, reader{cut: true}) {
		if f.label || f.weight == weightParts {
			continue
		}
		text := f.text
		if len(text) > left {
			text = strings.ToValidUTF8(text[:left], "")
		}
		left -= len(text)
		if w := q.window(text); best.text == "" || w.words > best.words {
			best = w
		}
	}
	return best.render()
}

// window returns the part of a text with the most of the query in it.
func (q Query) window(text string) window {
	hits := q.hits(text)
	best := window{text: text}
	for i := range hits {
		seen, n, end := make(map[int]bool, len(q.Words)), 0, i
		for ; end < len(hits) && (end == i || hits[end].end-hits[i].start <= snippetBytes-leadBytes); end++ {
			seen[hits[end].word] = true
			n++
		}
		if len(seen) > best.words || len(seen) == best.words && n > len(best.hits) {
			best.hits, best.words = hits[i:end], len(seen)
		}
		if best.words == len(q.Words) {
			break
		}
	}
	return best
}

// maxHits is how many places of a text are looked at.
const maxHits = 1000

// hits returns the places of what is wanted, in their order, none within another.
func (q Query) hits(text string) (hits []hit) {
	var before part
	for s := (scanner{text: text}); len(hits) < maxHits && s.next(); {
		first := len(hits)
		if s.spaced && before.lexeme != "" {
			hits = q.hit(hits, before, s.parts[0])
		}
		for i, p := range s.parts {
			if i > 0 {
				hits = q.hit(hits, s.parts[i-1], p)
			}
			hits = q.hit(hits, p)
		}
		if n := len(s.parts); len(hits) == first && n > 2 && n <= maxWhole {
			hits = q.hit(hits, s.parts...)
		}
		before = s.parts[len(s.parts)-1]
	}
	return hits
}

// hit adds the place of parts in a row where that is wanted, joined with the last
// one where they meet.
func (q Query) hit(hits []hit, parts ...part) []hit {
	start, end := parts[0].start, parts[len(parts)-1].end
	lexeme := joined(parts)
	one := singular(lexeme)
	// What begins with something wanted counts only where it takes all the parts.
	most := len(lexeme) - len(parts[len(parts)-1].lexeme)
	for _, w := range q.wanted {
		if w.lexeme != lexeme && (one == "" || w.lexeme != one) &&
			(!w.prefix || len(w.lexeme) <= most || !strings.HasPrefix(lexeme, w.lexeme)) {
			continue
		}
		if n := len(hits); n > 0 && start < hits[n-1].end {
			hits[n-1].start, hits[n-1].end = min(start, hits[n-1].start), max(end, hits[n-1].end)
			return hits
		}
		return append(hits, hit{start, end, w.word})
	}
	return hits
}

// render writes the window with its marks.
func (w window) render() string {
	start := 0
	if len(w.hits) > 0 {
		start = w.back(w.hits[0].start)
	}
	end := w.forward(start)
	var b strings.Builder
	if start > 0 {
		b.WriteString("…")
	}
	at, open := start, false
	for _, h := range w.hits {
		if h.start < at || h.start >= end {
			continue
		}
		h.end = min(h.end, end)
		if open && h.start > at {
			b.WriteString(MarkEnd)
			open = false
		}
		foldSpace(&b, w.text[at:h.start])
		if !open {
			b.WriteString(MarkBegin)
			open = true
		}
		foldSpace(&b, w.text[h.start:h.end])
		at = h.end
	}
	if open {
		b.WriteString(MarkEnd)
	}
	foldSpace(&b, w.text[at:end])
	text := strings.TrimSpace(b.String())
	if end < len(w.text) {
		text += "…"
	}
	return text
}

// back returns the beginning of a word some way in front of at.
func (w window) back(at int) int {
	start := max(0, at-leadBytes)
	if start == 0 {
		return 0
	}
	if space := strings.IndexFunc(w.text[start:at], unicode.IsSpace); space >= 0 {
		return start + space
	}
	return at
}

// forward returns where a snippet ends that begins at start.
func (w window) forward(start int) int {
	end := min(len(w.text), start+snippetBytes)
	for _, h := range w.hits {
		if h.start < end {
			end = max(end, min(h.end, start+2*snippetBytes))
		}
	}
	if end == len(w.text) {
		return end
	}
	if space := strings.LastIndexFunc(w.text[start:end], unicode.IsSpace); space > snippetBytes/2 {
		return start + space
	}
	for end > start && !utf8.RuneStart(w.text[end]) {
		end--
	}
	return end
}

// foldSpace writes a text with its white space folded and without marks of its own.
func foldSpace(b *strings.Builder, text string) {
	space := false
	for _, r := range text {
		switch {
		case unicode.IsSpace(r) || unicode.IsControl(r):
			space = true
			continue
		case string(r) == MarkBegin:
			r = '['
		case string(r) == MarkEnd:
			r = ']'
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	if space {
		b.WriteByte(' ')
	}
}
