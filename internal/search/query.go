package search

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/stockroom/stockroom/internal/item"
)

// Limits of a query.
const (
	MaxQueryChars = 1000
	MaxQueryWords = 32
	maxQueryParts = 256
)

// Query is what is looked for, in the forms of PostgreSQL's tsquery.
type Query struct {
	// Text finds documents by their Vector; "" finds nothing.
	Text string
	// Words are the words of Text one by one, not those that are left out by `-`;
	// Names likewise, as they stand in a name; Sizes is how many parts each has.
	Words, Names []string
	Sizes        []int32
	// Any finds by their Head the documents in whose heads one of Words stands.
	Any string
	// Folded is what Document.Folded must be equal to for a name that is just what
	// was asked for; "" is equal to none.
	Folded string
	// Name is what was typed, to be held against the name itself.
	Name string
	// Head finds by their Head those that Any finds and those of such a name.
	Head string

	wanted []wanted
}

// ParseQuery reads what a person types: words, all of which must be there, the last
// of them in part; "several words" in a row; -word, which must not be there; and
// `or` between alternatives. Its error is a *item.Fault.
//
// Where no word is left to look for, the query finds nothing.
func ParseQuery(text string) (Query, error) {
	switch {
	case !utf8.ValidString(text):
		return Query{}, invalidQuery("is not valid UTF-8")
	case strings.ContainsRune(text, 0):
		return Query{}, invalidQuery("has a character U+0000")
	case text == "":
		return Query{}, invalidQuery("is empty")
	case utf8.RuneCountInString(text) > MaxQueryChars:
		return Query{}, invalidQuery(fmt.Sprintf("has more than %d characters", MaxQueryChars))
	}
	terms := splitQuery(text)
	words, parts := 0, 0
	for _, t := range terms {
		words += len(t.words)
		for _, w := range t.words {
			parts += len(w)
		}
	}
	if words > MaxQueryWords || parts > maxQueryParts {
		return Query{}, invalidQuery(fmt.Sprintf("has more than %d words", MaxQueryWords))
	}
	q := compile(terms)
	q.Name = strings.TrimSpace(text)
	return q, nil
}

func invalidQuery(detail string) *item.Fault {
	return &item.Fault{Code: item.CodeInvalidQuery, Detail: "q " + detail}
}

// term is a part of a query that stands or falls as one.
type term struct {
	or     bool // the word `or`
	not    bool
	phrase bool
	words  [][]part // its compounds
}

// splitQuery cuts a query into its terms.
func splitQuery(text string) (terms []term) {
	for rest := text; ; {
		rest = strings.TrimLeftFunc(rest, unicode.IsSpace)
		if rest == "" {
			return terms
		}
		var t term
		if len(rest) > 1 && rest[0] == '-' && rest[1] != '-' {
			t.not = true
			rest = rest[1:]
		}
		var word string
		if rest[0] == '"' {
			t.phrase = true
			word, rest, _ = strings.Cut(rest[1:], `"`)
		} else {
			end := strings.IndexFunc(rest, func(r rune) bool { return r == '"' || unicode.IsSpace(r) })
			if end < 0 {
				end = len(rest)
			}
			word, rest = rest[:end], rest[end:]
		}
		if !t.not && !t.phrase && strings.EqualFold(word, "or") {
			terms = append(terms, term{or: true})
			continue
		}
		for s := (scanner{text: word}); s.next(); {
			t.words = append(t.words, slices.Clone(s.parts))
		}
		if len(t.words) > 0 {
			terms = append(terms, t)
		}
	}
}

// compile makes the query of terms.
func compile(terms []term) Query {
	var q Query
	var alternatives, words []node
	plain := true
	groups := splitGroups(terms)
	for i, group := range groups {
		last := i == len(groups)-1
		n, found := addGroup(&q, group, last)
		if found {
			alternatives = append(alternatives, n)
		}
		for _, t := range group {
			plain = plain && !t.not
		}
	}
	if len(alternatives) == 0 {
		return Query{}
	}
	q.Text = anyOf(alternatives).render("")
	for _, word := range q.Words {
		words = append(words, node{op: opRaw, lexeme: word})
	}
	q.Any = anyOf(words).render("")
	if len(groups) == 1 && plain {
		q.Folded = fold(groups[0])
	}
	q.Head = q.Any
	if q.Folded != "" && len(words) > 1 {
		q.Head = anyOf(append(words, node{op: opLexeme, lexeme: q.Folded})).render("")
	}
	return q
}

// splitGroups cuts terms at each `or`.
func splitGroups(terms []term) (groups [][]term) {
	var group []term
	for _, t := range terms {
		if !t.or {
			group = append(group, t)
			continue
		}
		groups = append(groups, group)
		group = nil
	}
	groups = append(groups, group)
	return slices.DeleteFunc(groups, func(group []term) bool { return len(group) == 0 })
}

// addGroup adds the terms that must all be there to a query, and tells whether there
// are any that find something.
func addGroup(q *Query, group []term, last bool) (node, bool) {
	var all, not []node
	for i, t := range group {
		end := last && i == len(group)-1 && !t.phrase
		switch {
		case t.not:
			not = append(not, node{op: '!', kids: []node{t.node(false)}})
		case !end && t.idle() && slices.ContainsFunc(group, func(t term) bool { return !t.not && !t.idle() }):
		default:
			n := t.node(end)
			all = append(all, t.inCrowded(n, end))
			q.Words = append(q.Words, n.render(""))
			q.Names = append(q.Names, n.render("A"))
			q.Sizes = append(q.Sizes, t.size())
			q.wanted = append(q.wanted, t.wanted(len(q.Words)-1, end)...)
		}
	}
	if len(all) == 0 {
		return node{}, false
	}
	if len(all) > 1 && len(not) == 0 && len(all) == len(group) && !slices.ContainsFunc(group, func(t term) bool { return t.phrase }) {
		// `data table` also finds what is written datatable.
		whole := oneOf(fold(group), last)
		return anyOf([]node{allOf(all), whole}), true
	}
	return allOf(append(all, not...)), true
}

// fold returns the parts of terms as one word.
func fold(terms []term) string {
	var b strings.Builder
	for _, t := range terms {
		for _, w := range t.words {
			b.WriteString(joined(w))
		}
	}
	return bounded(b.String())
}

func (t term) size() (n int32) {
	for _, w := range t.words {
		n += int32(len(w)) //nolint:gosec // a query has a few hundred parts at most
	}
	return n
}

// idle words say little in a question and stand nearly everywhere; they need not be
// there.
var idleWords = []string{"a", "an", "and", "for", "in", "of", "the", "to", "with"}

func (t term) idle() bool {
	return !t.phrase && len(t.words) == 1 && len(t.words[0]) == 1 && slices.Contains(idleWords, t.words[0][0].lexeme)
}

// node makes the tsquery of a term, which with prefix is still being typed.
func (t term) node(prefix bool) node {
	if t.phrase {
		var row []node
		for _, w := range t.words {
			for _, p := range w {
				row = append(row, node{op: opLexeme, lexeme: p.lexeme})
			}
		}
		if len(row) == 1 {
			return row[0]
		}
		return node{op: '<', kids: row}
	}
	var all []node
	for i, w := range t.words {
		all = append(all, compound(w, prefix && i == len(t.words)-1))
	}
	return allOf(all)
}

// inCrowded finds what a term's node does and, where a document has no room for compounds,
// what has all their parts.
func (t term) inCrowded(n node, prefix bool) node {
	if t.phrase || !slices.ContainsFunc(t.words, func(w []part) bool { return len(w) > 1 }) {
		return n
	}
	all := []node{{op: opLexeme, lexeme: crowdedMark}}
	for i, w := range t.words {
		for j, p := range w {
			all = append(all, oneOf(p.lexeme, prefix && i == len(t.words)-1 && j == len(w)-1))
		}
	}
	return anyOf([]node{n, allOf(all)})
}

// compound finds a compound as it is written, or with other separators.
func compound(parts []part, prefix bool) node {
	if len(parts) == 1 {
		return oneOf(parts[0].lexeme, prefix)
	}
	var pairs []node
	for i := 1; i < len(parts); i++ {
		pair := bounded(parts[i-1].lexeme + parts[i].lexeme)
		if i == len(parts)-1 {
			pairs = append(pairs, oneOf(pair, prefix))
		} else {
			pairs = append(pairs, node{op: opLexeme, lexeme: pair})
		}
	}
	if n := len(parts); n == 2 || n > maxWhole {
		return allOf(pairs)
	}
	return anyOf([]node{oneOf(joined(parts), prefix), allOf(pairs)})
}

// oneOf finds a word, its singular or, with prefix, what begins with it.
func oneOf(lexeme string, prefix bool) node {
	list := []node{{op: opLexeme, lexeme: lexeme}}
	if prefix && utf8.RuneCountInString(lexeme) <= maxBeginning {
		list = append(list, node{op: opLexeme, lexeme: beginning(lexeme)})
	} else {
		list[0].prefix = prefix
	}
	if one := singular(lexeme); one != "" {
		list = append(list, node{op: opLexeme, lexeme: one})
	}
	return anyOf(list)
}

// node is a part of a tsquery.
type node struct {
	op     byte // opLexeme, opRaw, or an operator between kids
	lexeme string
	prefix bool
	kids   []node
}

const (
	opLexeme byte = 'l'
	opRaw    byte = 'r' // lexeme is a tsquery already
)

func allOf(kids []node) node { return of('&', kids) }

func anyOf(kids []node) node { return of('|', kids) }

func of(op byte, kids []node) node {
	if len(kids) == 1 {
		return kids[0]
	}
	return node{op: op, kids: kids}
}

// render writes the node as PostgreSQL reads it, its lexemes restricted to weights.
func (n node) render(weights string) string {
	var b strings.Builder
	n.write(&b, weights)
	return b.String()
}

func (n node) write(b *strings.Builder, weights string) {
	switch n.op {
	case opRaw:
		b.WriteString("(" + n.lexeme + ")")
	case opLexeme:
		b.WriteString("'" + n.lexeme + "'")
		if n.prefix || weights != "" {
			b.WriteByte(':')
		}
		if n.prefix {
			b.WriteByte('*')
		}
		b.WriteString(weights)
	case '!':
		b.WriteByte('!')
		n.kids[0].writeInParentheses(b, weights)
	default:
		operator := map[byte]string{'&': " & ", '|': " | ", '<': " <-> "}[n.op]
		for i, kid := range n.kids {
			if i > 0 {
				b.WriteString(operator)
			}
			kid.writeInParentheses(b, weights)
		}
	}
}

func (n node) writeInParentheses(b *strings.Builder, weights string) {
	if n.op == opLexeme || n.op == opRaw {
		n.write(b, weights)
		return
	}
	b.WriteByte('(')
	n.write(b, weights)
	b.WriteByte(')')
}

// MayFind tells whether a Vector may be found: it has a word that is looked for, or
// one that begins like it, or no room for all that is.
func (q Query) MayFind(vector string) bool {
	return strings.Contains(vector, "'"+crowdedMark+"'") ||
		slices.ContainsFunc(q.wanted, func(w wanted) bool { return strings.Contains(vector, "'"+w.lexeme) })
}
