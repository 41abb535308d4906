package search_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/search"
)

func component(t testing.TB, name, source string) search.Document {
	t.Helper()
	key, err := item.ComponentKey("zz", name)
	require.NoError(t, err)
	return search.NewDocument(key, &item.Component{SourceCode: source}, nil)
}

// lexemes returns those of a vector's lexemes that stand in texts of weight, "" for D.
func lexemes(vector, weight string) []string {
	list := []string{}
	for entry := range strings.FieldsSeq(vector) {
		lexeme, places, _ := strings.Cut(strings.TrimPrefix(entry, "'"), "':")
		if strings.Trim(places, "0123456789,") == weight {
			list = append(list, lexeme)
		}
	}
	return list
}

func TestWords(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"":                     {},
		"-_./ !":               {},
		"table":                {"table"},
		"dataTable":            {"data", "table", "datatable"},
		"data-table":           {"data", "table", "datatable"},
		"DATA_TABLE":           {"data", "table", "datatable"},
		"data table":           {"data", "table", "datatable"},
		"data\ttable":          {"data", "table"},
		"data, table":          {"data", "table"},
		"HTMLElement":          {"html", "element", "htmlelement"},
		"useDataTable":         {"use", "data", "table", "usedata", "datatable", "usedatatable"},
		"ui/x.tsx":             {"ui", "x", "tsx", "uix", "xtsx", "uixtsx"},
		"@radix-ui/react-tabs": {"radix", "ui", "react", "tabs", "tab", "radixui", "uireact", "reacttabs", "radixuireacttabs"},
		"h1":                   {"h", "1", "h1"},
		"a b":                  {"a", "b"},
		"x--y":                 {"x", "y"},
		"entries":              {"entries", "entry"},
		"classes boxes":        {"classes", "class", "boxes", "box", "classesboxes"},
		"class status axis":    {"class", "status", "axis", "classstatus", "statusaxis"},
		"it's":                 {"it", "s"},
		"Größe":                {"größe"},
		"e\u0301te\u0301":      {"e\u0301te\u0301"},
		"数据表":                  {"数", "据", "表", "数据", "据表", "数据表"},
		"🎉":                    {},
		"a'b\\c":               {"a", "b", "c"},
	} {
		require.ElementsMatch(t, want, lexemes(component(t, "zzz", text).Vector, ""), "%q", text)
	}
}

func TestDocument(t *testing.T) {
	t.Parallel()
	key, err := item.BlockKey("react", "login-01")
	require.NoError(t, err)
	text := func(s string) *string { return &s }
	d := search.NewDocument(key, nil, &item.Block{
		Category:     text("auth"),
		Description:  text("A simple form"),
		Files:        `[{"path":"x/page.tsx","type":"registry:page","content":"hello body"},{"path":"x/data.json","content":"other"}]`,
		Structure:    text(`{"registryItem":{"title":"Sign in","categories":["more"],"author":"nobody","devDependencies":["vite"]}}`),
		Dependencies: text(`["zod"]`), ComponentsUsed: text(`["button"]`),
	})
	require.Equal(t, "login01", d.Folded)
	require.Equal(t, 2, d.Words)
	require.ElementsMatch(t, []string{"auth", "more"}, d.Categories)
	require.ElementsMatch(t, []string{"^l", "^lo", "^0", "^01", "login", "01", "login01"}, lexemes(d.Head, "A"))
	require.Subset(t, lexemes(d.Head, "B"), []string{"auth", "simple", "form", "sign", "in", "more", "signin"})
	require.Subset(t, lexemes(d.Vector, "C"), []string{"react", "zod", "button", "vite", "page", "tsx"})
	require.Subset(t, lexemes(d.Vector, ""), []string{"hello", "body", "other"})
	require.NotContains(t, d.Vector, "nobody")
	require.NotContains(t, d.Vector, "registry")

	// Files in another form: everything in them is text.
	d = search.NewDocument(key, nil, &item.Block{Files: `{"a/b.css":"color","list":[{"note":"deep"}]}`})
	require.Subset(t, lexemes(d.Vector, ""), []string{"color", "deep"})
	require.Contains(t, lexemes(d.Vector, "C"), "css")
}

// Words behind the last position that a vector knows have none; where a vector has no
// room for all that is made of words, it has the words, and what is made of the first ones.
func TestDocumentOfManyWords(t *testing.T) {
	t.Parallel()
	many := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			letters := []byte("aaaaaa")
			for j := range letters {
				letters[j] += byte(i % 26)
				i /= 26
			}
			b.WriteString(strings.ReplaceAll(format, "%", string(letters)))
		}
		return b.String() + "theEnd"
	}
	for _, tc := range []struct {
		text    string
		crowded bool
		has     []string
		not     []string
	}{
		{many(16_000, "%\n"), false, []string{"'aaaaaa':", "'the':", "'end':", "'theend':"}, nil},
		{many(17_000, "%\n"), false, []string{"'aaaaaa':", "'the' ", "'end' ", "'theend' "}, nil},
		{many(60_000, "% "), true, []string{"'aaaaaa':", "'the' ", "'end' ", "'datatable':1A", "'theend' ", "'aaaaaabaaaaa':"}, nil},
		{many(100_000, "% "), true, []string{"'aaaaaa':", "'the' ", "'end' ", "'datatable':1A", "'theend' "}, nil},
		{many(170_000, "% "), true, []string{"'aaaaaa':", "'datatable':1A"}, []string{"'end' ", "'theend' "}},
	} {
		vector := component(t, "dataTable", tc.text).Vector
		require.Equal(t, tc.crowded, strings.Contains(vector, "'^^' "), len(tc.text))
		lacks := func(entry string) bool { return !strings.Contains(vector, entry) }
		require.Empty(t, slices.DeleteFunc(tc.not, lacks), len(tc.text))
		require.Equal(t, slices.Clone(tc.has), slices.DeleteFunc(tc.has, lacks), len(tc.text))
	}
}

func TestParseQuery(t *testing.T) {
	t.Parallel()
	for q, want := range map[string]string{
		" ":                "",
		"-":                "",
		"?! ---":           "",
		"-table":           "",
		"or":               "",
		"🎉":                "",
		"table":            "'table':*",
		"ta":               "'ta' | '^ta'",
		"buttons":          "'buttons':* | 'button'",
		"big table":        "('big' & 'table':*) | 'bigtable':*",
		"a table":          "'table':*",
		"table with":       "('table' & 'with':*) | 'tablewith':*",
		"the of":           "('the' & ('of' | '^of')) | ('theof':*)",
		"dataTable":        "'datatable':* | ('^^' & 'data' & 'table':*)",
		"use-data-table x": "(('usedatatable' | ('usedata' & 'datatable') | ('^^' & 'use' & 'data' & 'table')) & ('x' | '^x')) | 'usedatatablex':*",
		"tab -dataTable":   "'tab' & (!'datatable')",
		`"data table"`:     "'data' <-> 'table'",
		`"data table`:      "'data' <-> 'table'",
		`"dataTable" big`:  "('data' <-> 'table') & ('big':*)",
		"table -big":       "'table' & (!'big')",
		`table -"big one"`: "'table' & (!('big' <-> 'one'))",
		"red or big table": "'red' | (('big' & 'table':*) | 'bigtable':*)",
		"red OR -big":      "'red'",
		"or red or":        "'red':*",
		"--color":          "'color':*",
		"it's":             "'it' & ('s' | '^s')",
		`a'b\c:*A`:         "'a' & 'b' & 'c' & ('a' | '^a')",
	} {
		query, err := search.ParseQuery(q)
		require.NoError(t, err, q)
		require.Equal(t, strings.NewReplacer("(", "", ")", "").Replace(want), strings.NewReplacer("(", "", ")", "").Replace(query.Text), q)
		require.Len(t, query.Names, len(query.Words))
		require.Len(t, query.Sizes, len(query.Words))
	}
	for q, detail := range map[string]string{
		"":                         "empty",
		"a\x00b":                   "U+0000",
		"\xff":                     "UTF-8",
		strings.Repeat("é", 1001):  "1000 characters",
		strings.Repeat("a ", 33):   "32 words",
		strings.Repeat("aB ", 100): "32 words",
	} {
		_, err := search.ParseQuery(q)
		fault, ok := errors.AsType[*item.Fault](err)
		require.True(t, ok, "%q: %v", q, err)
		require.Equal(t, item.CodeInvalidQuery, fault.Code)
		require.Contains(t, fault.Detail, detail)
	}
	for _, q := range []string{strings.Repeat("é", 1000), strings.Repeat("a ", 32), strings.Repeat("数", 200)} {
		_, err := search.ParseQuery(q)
		require.NoError(t, err)
	}
}

func TestSnippet(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("nothing here at all ", 30)
	for _, tc := range []struct{ q, description, source, want string }{
		{"table", "", "a table\n\n\tof  tables", "a ⟦table⟧ of ⟦tables⟧"},
		{"dataTable", "", "x data-table y DataTableRow z", "x ⟦data-table⟧ y ⟦DataTable⟧Row z"},
		{"data table", "", "useDataTable", "use⟦DataTable⟧"},
		{"tab", "", "the tabs", "the ⟦tabs⟧"},
		{"table", "About a table", "table table", "About a ⟦table⟧"},
		{"table big", "About a table", "a big table", "a ⟦big⟧ ⟦table⟧"},
		{`"big table"`, "", "a big table", "a ⟦big⟧ ⟦table⟧"},
		{"table -big", "", "a big table", "a big ⟦table⟧"},
		{"table", "", "⟦ table ⟧", "[ ⟦table⟧ ]"},
		{"zzz", "", "const <b> & \"c\"", "const <b> & \"c\""},
		{"zzz", "described", "source", "described"},
		{"表格", "", "数据表格", "数据⟦表格⟧"},
		{"", "", "", ""},
	} {
		query, err := search.ParseQuery("x")
		if tc.q != "" {
			query, err = search.ParseQuery(tc.q)
		}
		require.NoError(t, err)
		key, err := item.BlockKey("react", "n")
		require.NoError(t, err)
		files, err := encode(tc.source)
		require.NoError(t, err)
		require.Equal(t, tc.want, query.Snippet(key, nil, &item.Block{Description: &tc.description, Files: files}), "%+v", tc)
	}
	query, err := search.ParseQuery("needle")
	require.NoError(t, err)
	key, err := item.ComponentKey("react", "n")
	require.NoError(t, err)
	snippet := query.Snippet(key, &item.Component{SourceCode: long + "a needle in it " + long}, nil)
	require.Contains(t, snippet, "a ⟦needle⟧ in it")
	require.True(t, strings.HasPrefix(snippet, "…") && strings.HasSuffix(snippet, "…"), snippet)
	require.Less(t, len(snippet), 300)
	// What is read of a large item is cut anywhere, in the middle of its JSON too.
	files, err := encode("a needle " + long)
	require.NoError(t, err)
	for end := len(files) - 40; end > len(files)-60; end-- {
		require.Contains(t, query.Snippet(key, nil, &item.Block{Files: files[:end]}), "⟦needle⟧", end)
	}
}

func encode(source string) (string, error) {
	body, err := json.Marshal([]map[string]string{{"path": "a.tsx", "content": source}})
	return string(body), err
}

// FuzzDocument makes documents of any text: what stands in it is found, and what
// PostgreSQL reads is whole.
func FuzzDocument(f *testing.F) {
	for _, seed := range []string{
		"", "a", "dataTable", "HTMLElement", "a-b_c.d/e", "x--y", "it's", `\`, "é", "e\u0301", "\u0301", "数据表格", "İß", "ǅ", "٣", "a\u00a0b", "🎉", "\xff", strings.Repeat("a", 500),
		strings.Repeat("é", 300), strings.Repeat("aB", 100), "⟦a⟧", "the of a",
	} {
		f.Add(seed)
	}
	key, err := item.ComponentKey("react", "n")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) || len(text) > 10_000 {
			return
		}
		source := &item.Component{SourceCode: text}
		vector := search.NewDocument(key, source, nil).Vector
		for entry := range strings.SplitSeq(strings.TrimSuffix(vector, " "), " ") {
			lexeme, places, ok := strings.Cut(strings.TrimPrefix(entry, "'"), "':")
			if !ok || lexeme == "" || len(lexeme) > 400 || strings.ContainsAny(lexeme, `'\`) || strings.ContainsFunc(lexeme, unicode.IsSpace) ||
				strings.Trim(places, "0123456789,ABCD") != "" {
				t.Fatalf("%q has %q", text, entry)
			}
		}
		query, err := search.ParseQuery(text)
		if err != nil || query.Text == "" || strings.ContainsAny(text, `-"`) {
			return
		}
		if !query.MayFind(vector) {
			t.Errorf("%q does not find itself", text)
		}
		if snippet := query.Snippet(key, source, nil); !strings.Contains(snippet, search.MarkBegin) {
			t.Errorf("%q is not marked in %q", text, snippet)
		}
	})
}
