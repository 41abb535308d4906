package legacy

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/jackc/pgx/v5"

	"github.com/stockroom/stockroom/internal/item"
)

// shape is what is known of a table beforehand.
type shape struct {
	name     string
	key      func(framework, name string) (item.Key, error)
	prefix   string // of its keys
	required []string
	fields   []field
}

// field is a column that becomes a member of the item.
type field struct {
	column string
	member string
	form   form
}

// form is how a column's text becomes JSON.
type form int

const (
	text      form = iota // a string, as it is
	mark                  // a string; an empty one says that there is none
	raw                   // JSON, as it is
	number                // a number
	timestamp             // a time, which becomes RFC 3339
)

var components = shape{
	name: "components", prefix: "component", key: item.ComponentKey,
	required: []string{"framework", "name", "source_code"},
	fields: []field{
		{"framework", "framework", text},
		{"name", "name", text},
		{"source_code", "sourceCode", text},
		{"demo_code", "demoCode", text},
		{"metadata", "metadata", raw},
		{"dependencies", "dependencies", raw},
		{"registry_dependencies", "registryDependencies", raw},
		{"github_sha", "githubSha", mark},
		{"file_size", "fileSize", number},
		{"last_modified", "lastModified", timestamp},
	},
}

var blocks = shape{
	name: "blocks", prefix: "block", key: item.BlockKey,
	required: []string{"framework", "name", "files"},
	fields: []field{
		{"framework", "framework", text},
		{"name", "name", text},
		{"category", "category", text},
		{"type", "type", mark},
		{"description", "description", text},
		{"files", "files", raw},
		{"structure", "structure", raw},
		{"dependencies", "dependencies", raw},
		{"components_used", "componentsUsed", raw},
		{"total_size", "totalSize", number},
		{"github_sha", "githubSha", mark},
	},
}

// Columns of what a store knows of an item. ttl_override and the names beside it
// are seconds.
var (
	timeColumns = []string{"cached_at", "accessed_at", "created_at", "updated_at", "expires_at"}
	ttlColumns  = []string{"ttl_seconds", "ttl_override", "ttl"}
)

const countColumn = "access_count"

// column is a column as a store has it.
type column struct{ name, typeName, category string }

// The categories of types (PostgreSQL, "pg_type").
const (
	arrays   = "A"
	datetime = "D"
)

func (c column) isTime() bool { return c.category == datetime }

// expression returns what reads the column as text: arrays as JSON, times as
// microseconds since 1970, everything else as PostgreSQL writes it.
func (c column) expression() string {
	name := pgx.Identifier{c.name}.Sanitize()
	switch {
	case c.category == arrays:
		return `array_to_json(` + name + `)::text`
	case c.isTime():
		return `(extract(epoch FROM ` + name + `::timestamptz) * 1000000)::text`
	}
	return name + `::text`
}

// table is a table that there is.
type table struct {
	shape   shape
	columns []column
	at      map[string]int // the place of a column among them
	ignored []string
}

func newTable(shape shape, has map[string]column) (*table, error) {
	for _, name := range shape.required {
		if _, ok := has[name]; !ok {
			return nil, fmt.Errorf("the table %s has no column %s", shape.name, name)
		}
	}
	wanted := slices.Concat(timeColumns, ttlColumns, []string{countColumn})
	for _, f := range shape.fields {
		wanted = append(wanted, f.column)
	}
	t := &table{shape: shape, at: map[string]int{}}
	for _, name := range slices.Sorted(maps.Keys(has)) {
		switch {
		case slices.Contains(wanted, name):
			t.at[name] = len(t.columns)
			t.columns = append(t.columns, has[name])
		case name != "id":
			t.ignored = append(t.ignored, name)
		}
	}
	return t, nil
}

func (t *table) query() string {
	expressions := make([]string, len(t.columns))
	for i, c := range t.columns {
		expressions[i] = c.expression()
	}
	return `SELECT ` + strings.Join(expressions, ", ") + ` FROM ` + t.shape.name
}

// row makes an item of a row's texts.
func (t *table) row(values []*string) Row {
	get := func(name string) *string {
		if i, ok := t.at[name]; ok {
			return values[i]
		}
		return nil
	}
	framework, name := deref(get("framework")), deref(get("name"))
	row := Row{Name: t.shape.prefix + ":" + framework + ":" + name}
	if strings.ContainsFunc(row.Name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		row.Name = strconv.Quote(row.Name) // it goes to a terminal
	}
	value, err := t.value(framework, name, get)
	if err == nil {
		row.Record, err = t.record(value, get)
	}
	if err != nil {
		return Row{Name: row.Name, Fault: err}
	}
	return row
}

// value holds a row against the rules of an item: they are those of a body that a
// client puts.
func (t *table) value(framework, name string, get func(string) *string) (item.Value, error) {
	key, err := t.shape.key(framework, name)
	if err != nil {
		return item.Value{}, err
	}
	body := []byte{'{'}
	for _, f := range t.shape.fields {
		content := get(f.column)
		if content == nil {
			continue
		}
		member, err := f.json(*content, t.columns[t.at[f.column]])
		if err != nil {
			return item.Value{}, err
		}
		if member == nil {
			continue
		}
		if len(body) > 1 {
			body = append(body, ',')
		}
		body = item.AppendQuote(body, f.member)
		body = append(append(body, ':'), member...)
	}
	return item.Parse(key, append(body, '}'))
}

// json returns what a member of the item is, nil for none.
func (f field) json(content string, c column) ([]byte, error) {
	if !utf8.ValidString(content) {
		return nil, f.fault(item.CodeInvalidString, "is not UTF-8")
	}
	switch f.form {
	case text:
	case mark:
		if content == "" {
			return nil, nil
		}
	case raw:
		return f.rawJSON(content)
	case number:
		if value := jsontext.Value(content); value.IsValid() && value.Kind() == jsontext.KindNumber {
			return value, nil
		}
	case timestamp:
		if content == "" {
			return nil, nil
		}
		at, asWritten, err := readTime(content, c)
		if err != nil {
			return nil, f.fault(item.CodeInvalidValue, err.Error())
		}
		if !asWritten {
			content = at.Format(time.RFC3339Nano)
		}
	}
	return item.AppendQuote(nil, content), nil
}

func (f field) rawJSON(content string) ([]byte, error) {
	if strings.TrimSpace(content) == "" {
		return nil, nil // a column of text that has nothing in it
	}
	kind := jsontext.KindNull
	err := item.Decode([]byte(content), func(dec *jsontext.Decoder) error {
		kind = dec.PeekKind()
		return dec.SkipValue()
	})
	if fault, ok := err.(*item.Fault); ok { //nolint:errorlint // Decode returns it bare, and it is changed here
		fault.Pointer = "/" + f.member + fault.Pointer
		fault.Detail = strings.Replace(fault.Detail, "the body", "the column "+f.column, 1)
	}
	if err != nil || kind == jsontext.KindNull {
		return nil, err
	}
	return []byte(content), nil
}

func (f field) fault(code item.Code, detail string) error {
	return &item.Fault{Code: code, Pointer: "/" + f.member, Detail: detail}
}

// record adds what the store knows of an item besides its value.
func (t *table) record(value item.Value, get func(string) *string) (item.Record, error) {
	r := item.Record{Value: value, AccessCount: 1, Version: 1}
	times := map[string]time.Time{}
	for _, name := range timeColumns {
		content := get(name)
		if content == nil || *content == "" {
			continue
		}
		at, _, err := readTime(*content, t.columns[t.at[name]])
		if err != nil {
			return item.Record{}, fmt.Errorf("%s: %w", name, err)
		}
		times[name] = at
	}
	first := func(names ...string) time.Time {
		for _, name := range names {
			if at, ok := times[name]; ok {
				return at
			}
		}
		return time.Time{}
	}
	r.Cached = first("cached_at", "updated_at", "created_at", "accessed_at")
	if r.Cached.IsZero() {
		r.Cached = time.Now().UTC().Truncate(time.Microsecond) // nobody knows: it is new here
	}
	r.Created, r.Updated, r.Accessed = r.Cached, r.Cached, r.Cached
	for name, into := range map[string]*time.Time{"created_at": &r.Created, "updated_at": &r.Updated, "accessed_at": &r.Accessed} {
		if at, ok := times[name]; ok {
			*into = at
		}
	}
	if count := get(countColumn); count != nil {
		n, ok := whole(*count)
		if !ok || n < 0 {
			return item.Record{}, fmt.Errorf("access_count: must be a whole number, 0 or more, not %s", quoted(*count))
		}
		r.AccessCount = n
	}
	err := setLife(&r, times["expires_at"], get)
	return r, err
}

// setLife gives a record the TTL and the end that its row has.
func setLife(r *item.Record, expires time.Time, get func(string) *string) error {
	for _, name := range ttlColumns {
		content := get(name)
		if content == nil || r.TTL != 0 {
			continue
		}
		n, ok := whole(*content)
		if !ok || item.TTL(n) > item.MaxTTL {
			return fmt.Errorf("%s: must be whole seconds, at most %d, not %s", name, item.MaxTTL, quoted(*content))
		}
		r.TTL = item.TTL(max(n, 0)) // 0 and less meant for ever
	}
	switch {
	case !expires.IsZero():
		r.Expires = expires
		if r.TTL == 0 {
			r.TTL = item.TTL(max(1, math.Ceil(expires.Sub(r.Cached).Seconds())))
		}
	case r.TTL > 0:
		r.Expires = r.Cached.Add(time.Duration(r.TTL) * time.Second)
	}
	return nil
}

// Times as text that are not RFC 3339: as PostgreSQL and JavaScript write them, and
// without a zone for UTC.
var layouts = []string{
	"2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999Z07", "2006-01-02T15:04:05.999999999",
	"2006-01-02 15:04:05.999999999", "2006-01-02",
}

// readTime reads a time of any column. asWritten tells that its text is RFC 3339.
func readTime(content string, c column) (at time.Time, asWritten bool, err error) {
	if !c.isTime() {
		if at.UnmarshalText([]byte(content)) == nil {
			return at.UTC(), true, nil
		}
		for _, layout := range layouts {
			if at, err := time.Parse(layout, content); err == nil {
				return at.UTC(), false, nil
			}
		}
	}
	micros, ok := microseconds(content, c.isTime())
	if !ok {
		return time.Time{}, false, fmt.Errorf("must be a time, not %s", quoted(content))
	}
	at = time.UnixMicro(micros).UTC()
	if year := at.Year(); year < 1 || year > 9999 {
		return time.Time{}, false, fmt.Errorf("must be a time of the years 1 to 9999, not %s", quoted(content))
	}
	return at, false, nil
}

// microseconds reads a number of them, as expression makes it of a column of times;
// of any other column it may as well be seconds or, as JavaScript counts,
// milliseconds, told apart by its size.
func microseconds(content string, exact bool) (int64, bool) {
	if n, ok := whole(content); ok && exact {
		return n, true
	}
	n, err := strconv.ParseFloat(content, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) || math.Abs(n) > 1<<62 {
		return 0, false
	}
	const secondsEnd, millisecondsEnd = 1e11, 1e14 // of the year 5138
	switch size := math.Abs(n); {
	case exact || size >= millisecondsEnd:
	case size >= secondsEnd:
		n *= 1e3
	default:
		n *= 1e6
	}
	return int64(math.Round(n)), true
}

// whole reads an integer, which a column of decimals writes with a fraction of zeros.
func whole(content string) (int64, bool) {
	digits, fraction, _ := strings.Cut(content, ".")
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, err == nil && strings.Trim(fraction, "0") == ""
}

// quoted is for messages.
func quoted(content string) string {
	const longest = 60
	if runes := []rune(content); len(runes) > longest {
		content = string(runes[:longest]) + "…"
	}
	return strconv.Quote(content)
}

func deref(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}
