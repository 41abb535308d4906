// Package search makes the documents and the queries of full-text search: words
// are cut, weighed and written here, in the forms of PostgreSQL's tsvector and
// tsquery; the database indexes, matches and ranks them.
package search

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/stockroom/stockroom/internal/item"
)

// Format numbers the rules by which documents are made. Whoever changes them raises
// it, and every document is made anew.
const Format = 2

// Document is what the database keeps of an item to find it by.
type Document struct {
	Vector     string // tsvector of all its texts
	Head       string // tsvector of name, title, description and categories alone
	Folded     string // the name in lower case, without what separates its parts
	Words      int    // parts of the name
	Categories []string
}

// What a text counts: PostgreSQL's weights A to D.
const (
	weightName  byte = 'A'
	weightTitle byte = 'B' // title, description, categories
	weightParts byte = 'C' // dependencies, paths, the framework
	weightBody  byte = 'D' // source, demo, contents
)

// field is a text of an item.
type field struct {
	weight byte
	text   string
	label  bool // says what the item is, such as a category, but is nothing to read
}

// NewDocument makes the document of a component or a block; that which it is not
// is nil.
func NewDocument(key item.Key, component *item.Component, block *item.Block) Document {
	var doc Document
	fields := fieldsOf(key, component, block, reader{category: func(category string) { doc.Categories = append(doc.Categories, category) }})
	for s := (scanner{text: key.Name()}); s.next(); {
		doc.Words += len(s.parts)
		doc.Folded += joined(s.parts)
	}
	names := beginnings(key.Name())
	heads := slices.IndexFunc(fields, func(f field) bool { return f.weight > weightTitle })
	doc.Head = vectorOf(maxHead, names, fields[:heads]).String()
	vector := vectorOf(maxVector, names, fields)
	if vector.full {
		vector = crowdedVector(names, fields)
	}
	doc.Vector = vector.String()
	return doc
}

// vectorOf makes the vector of texts, as far as there is room.
func vectorOf(limit bounds, names []string, fields []field) *vector {
	v := newVector(limit)
	// A short prefix is looked for in names alone, as a word of its own: by its
	// letters it would be the beginning of half of what there is.
	for _, name := range names {
		v.put(name, 1, weightName)
	}
	for _, f := range fields {
		v.add(f, allForms)
	}
	return v
}

// crowdedVector makes the vector of texts that are too much for one. Behind the name each
// word of them comes first, however far behind it stands, and then, while there is room,
// what is made of several. By its mark a query knows what may lack that.
func crowdedVector(names []string, fields []field) *vector {
	v := vectorOf(maxVector, names, fields[:1])
	v.word(crowdedMark)
	last := v.last
	for _, some := range []forms{words, pairs, wholes} {
		v.last = last
		for _, f := range fields[1:] {
			v.add(f, some)
		}
	}
	return v
}

// fieldsOf returns the texts of an item, those first that matter most: where the
// whole is too much, the end is left out.
func fieldsOf(key item.Key, component *item.Component, block *item.Block, r reader) []field {
	fields := []field{{weight: weightName, text: key.Name(), label: true}, {weight: weightParts, text: key.Framework(), label: true}}
	r.put = func(f field) {
		if f.text != "" {
			fields = append(fields, f)
		}
	}
	switch {
	case component != nil:
		r.read(component.Metadata, false)
		r.strings(component.Dependencies)
		r.strings(component.RegistryDependencies)
		r.add(weightBody, component.SourceCode)
		if component.DemoCode != nil {
			r.add(weightBody, *component.DemoCode)
		}
	case block != nil:
		if block.Category != nil {
			r.text("category", *block.Category, false)
		}
		if block.Description != nil {
			r.add(weightTitle, *block.Description)
		}
		r.read(block.Structure, false)
		r.strings(block.Dependencies)
		r.strings(block.ComponentsUsed)
		r.read(&block.Files, true)
	}
	slices.SortStableFunc(fields, func(a, b field) int { return int(a.weight) - int(b.weight) })
	return fields
}

// reader takes the texts out of JSON.
type reader struct {
	put      func(field)
	category func(string) // nil: nobody asks
	cut      bool         // the JSON may end too early
}

func (r reader) add(weight byte, text string) { r.put(field{weight: weight, text: text}) }

// strings reads an array of strings that matter as dependencies do.
func (r reader) strings(raw *string) {
	if raw != nil {
		dec := jsontext.NewDecoder(strings.NewReader(*raw))
		_ = r.value(dec, "dependencies", false) // what is stored has been checked
	}
}

// read reads the texts of members that are known; with all, every text.
func (r reader) read(raw *string, all bool) {
	if raw == nil {
		return
	}
	text := *raw
	if r.cut && !jsontext.Value(text).IsValid() {
		text = endString(text)
	}
	// What is stored has been checked; of what has been cut, all that is there is read.
	_ = r.value(jsontext.NewDecoder(strings.NewReader(text)), "", all)
}

// endString ends the string within which JSON was cut, so that it can be read.
func endString(text string) string {
	const longest = len(`\ud83d\ude00`) // escape
	if escape := strings.LastIndexByte(text[max(0, len(text)-longest):], '\\'); escape >= 0 {
		text = strings.TrimRight(text[:max(0, len(text)-longest)+escape], `\`)
	}
	return text + `"`
}

// value reads one value, that of the member name or within it.
func (r reader) value(dec *jsontext.Decoder, name string, all bool) error {
	switch dec.PeekKind() {
	case jsontext.KindString:
		token, err := dec.ReadToken()
		if err != nil {
			return err
		}
		r.text(name, token.String(), all)
		return nil
	case jsontext.KindBeginArray:
		_, err := dec.ReadToken()
		for err == nil && dec.PeekKind() != jsontext.KindEndArray {
			if dec.PeekKind() == jsontext.KindInvalid {
				return errCut
			}
			err = r.value(dec, name, all)
		}
		if err != nil {
			return err
		}
		_, err = dec.ReadToken()
		return err
	case jsontext.KindBeginObject:
		return r.object(dec, all)
	default:
		return dec.SkipValue()
	}
}

var errCut = errors.New("search: the JSON ends too early")

func (r reader) object(dec *jsontext.Decoder, all bool) error {
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for dec.PeekKind() != jsontext.KindEndObject {
		token, err := dec.ReadToken()
		if err != nil {
			return err
		}
		name := token.String()
		// Files may be an object of contents by path.
		if _, known := members[name]; all && !known && dec.PeekKind() == jsontext.KindString {
			r.add(weightParts, name)
		}
		if err := r.value(dec, name, all); err != nil {
			return err
		}
	}
	_, err := dec.ReadToken()
	return err
}

// members says what the texts of a member count; 0 is nothing.
var members = map[string]byte{
	"title": weightTitle, "description": weightTitle, "docs": weightTitle, "category": weightTitle,
	"categories": weightTitle, "tags": weightTitle, "keywords": weightTitle,
	"path": weightParts, "target": weightParts, "dependencies": weightParts, "devDependencies": weightParts,
	"registryDependencies": weightParts,
	"content":              weightBody,
	"type":                 0, "name": 0, "$schema": 0, "author": 0,
}

var labels = []string{"category", "categories", "tags", "keywords"}

func (r reader) text(name, text string, all bool) {
	weight, known := members[name]
	if !known && all {
		weight = weightBody
	}
	if r.category != nil && (name == "categories" || name == "category") {
		r.category(text)
	}
	if weight != 0 {
		r.put(field{weight: weight, text: text, label: slices.Contains(labels, name)})
	}
}

// Bounds of a tsvector.
const (
	maxPosition  = 16383 // the last place that a tsvector knows
	maxPositions = 255   // of one lexeme
	// fieldGap keeps phrases from reaching from one text into the next.
	fieldGap = 8
)

// bounds are how many bytes a vector may have, where each of its lexemes counts so many
// besides its letters and places.
type bounds struct{ size, lexeme int }

var (
	// maxVector is what PostgreSQL takes.
	maxVector = bounds{1<<20 - 1, 0}
	// maxHead keeps a head where it is read without being fetched from elsewhere.
	maxHead = bounds{1200, 5}
)

// crowdedMark is the lexeme of vectors that have no room for all that is made of several
// words; it is no word's own.
const crowdedMark = "^^"

// forms are the lexemes that are made of a text.
type forms int

const (
	words    forms = 1 << iota // the parts of compounds, and their singulars
	pairs                      // neighbouring parts of a compound
	wholes                     // longer compounds, and two words with a space between them
	allForms = words | pairs | wholes
)

// vector is a tsvector in the making.
type vector struct {
	bounds   bounds
	size     int
	full     bool // something had no room
	last     int  // position
	postings map[string]*posting
}

// posting is where a lexeme stands.
type posting struct {
	places  []place
	highest int
}

type place struct {
	position int
	weight   byte
}

func newVector(limit bounds) *vector {
	return &vector{bounds: limit, postings: make(map[string]*posting)}
}

// add adds some forms of the words of a text behind those that are there.
func (v *vector) add(f field, some forms) {
	before := "" // the last part of the compound before
	for s := (scanner{text: f.text}); !v.full && s.next(); {
		first := v.last + 1
		if some&wholes != 0 && s.spaced && before != "" && spacedPair(f.weight, before, s.parts[0].lexeme) {
			v.put(bounded(before+s.parts[0].lexeme), v.last, f.weight)
		}
		for i, p := range s.parts {
			v.last++
			if some&words != 0 {
				v.put(p.lexeme, v.last, f.weight)
				if one := singular(p.lexeme); one != "" {
					v.put(one, v.last, f.weight)
				}
			}
			if some&pairs != 0 && i > 0 {
				v.put(bounded(s.parts[i-1].lexeme+p.lexeme), v.last-1, f.weight)
			}
		}
		if n := len(s.parts); some&wholes != 0 && n > 2 && n <= maxWhole {
			v.put(joined(s.parts), first, f.weight)
		}
		before = s.parts[len(s.parts)-1].lexeme
	}
	v.last += fieldGap
}

// spacedPair tells whether two words with a space between them also count as one, as
// `data table` does for dataTable. Of code that is only where both may be words.
func spacedPair(weight byte, a, b string) bool {
	return weight < weightBody || len(a) > 2 && len(b) > 2 && a[0] > '9' && b[0] > '9'
}

// word returns the posting of a lexeme, nil where there is no room for it.
func (v *vector) word(lexeme string) *posting {
	p := v.postings[lexeme]
	if p == nil && v.room(v.bounds.lexeme+len(lexeme)) {
		p = new(posting)
		v.postings[strings.Clone(lexeme)] = p
	}
	return p
}

// room takes so many bytes, if they are there.
func (v *vector) room(bytes int) bool {
	v.full = v.full || v.size+bytes > v.bounds.size
	if !v.full {
		v.size += bytes
	}
	return !v.full
}

// put puts a lexeme at a position, where there is room. Behind the last position that
// there is, it stands without one: it is found, though not in a row with others.
func (v *vector) put(lexeme string, position int, weight byte) {
	p := v.word(lexeme)
	if p == nil || position > maxPosition || p.highest == position || len(p.places) == maxPositions {
		return
	}
	bytes := 2
	if len(p.places) == 0 {
		bytes += 3 // their number, aligned
	}
	if v.room(bytes) {
		p.highest = position
		p.places = append(p.places, place{position, weight})
	}
}

// String returns the vector as PostgreSQL reads it. A lexeme has nothing in it that
// would have to be escaped.
func (v *vector) String() string {
	var b strings.Builder
	b.Grow(2 * v.size)
	for lexeme, p := range v.postings {
		b.WriteByte('\'')
		b.WriteString(lexeme)
		b.WriteByte('\'')
		for i, at := range p.places {
			b.WriteByte(":,"[min(i, 1)])
			b.WriteString(strconv.Itoa(at.position))
			if at.weight != weightBody {
				b.WriteByte(at.weight)
			}
		}
		b.WriteByte(' ')
	}
	return b.String()
}

// maxBeginning is how many characters a word may have that is looked for as the
// beginning of a name's words only.
const maxBeginning = 2

// beginnings returns the short beginnings of the parts of a name.
func beginnings(name string) (list []string) {
	for s := (scanner{text: name}); s.next(); {
		for _, p := range s.parts {
			n := 0
			for i := range p.lexeme + " " {
				if n > 0 {
					list = append(list, beginning(p.lexeme[:i]))
				}
				if n++; n > maxBeginning {
					break
				}
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// beginning is the lexeme of the beginning of a word; it is no word's own.
func beginning(text string) string { return "^" + text }
