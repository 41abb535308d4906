package config

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the table into README.md")

// TestReadmeHasTheTable keeps the README true: its table is MarkdownTable.
func TestReadmeHasTheTable(t *testing.T) {
	const (
		readme = "../../README.md"
		begin  = "<!-- configuration:begin -->\n"
		end    = "<!-- configuration:end -->"
		advice = "run `go test ./internal/config -run TestReadmeHasTheTable -update`"
	)
	content, err := os.ReadFile(readme)
	require.NoError(t, err, "the README has to show the configuration between the lines %q and %q", begin, end)
	before, rest, foundBegin := strings.Cut(string(content), begin)
	table, after, foundEnd := strings.Cut(rest, end)
	require.True(t, foundBegin && foundEnd, "README.md: the lines %q and %q have to stand around the table of variables", begin, end)
	if *update {
		require.NoError(t, os.WriteFile(readme, []byte(before+begin+MarkdownTable()+end+after), 0o644))
		return
	}
	require.Equal(t, MarkdownTable(), table, "README.md is not what internal/config says: %s", advice)
}

func TestVariablesAreComplete(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, v := range Variables() {
		require.False(t, seen[v.Name], "%s is there twice", v.Name)
		seen[v.Name] = true
		require.NotEmpty(t, v.Type, v.Name)
		require.NotEmpty(t, v.Description, v.Name)
	}
	require.True(t, seen["DATABASE_URL"] && seen["STOCKROOM_LOG_FORMAT"] && seen["OTEL_SERVICE_NAME"])
	require.NotContains(t, seen, "-")
}

func TestHelpText(t *testing.T) {
	t.Parallel()
	lines := strings.Split(strings.TrimSuffix(HelpText(), "\n"), "\n")
	require.Len(t, lines, len(Variables()))
	require.Regexp(t, `^DATABASE_URL  +connection string  +PostgreSQL to use; empty: the embedded one$`, lines[0])
	require.Regexp(t, `^STOCKROOM_ADDR .* \(default 127\.0\.0\.1:8080\)$`, lines[1])
}

func TestMarkdownTable(t *testing.T) {
	t.Parallel()
	rows := strings.Split(strings.TrimSuffix(MarkdownTable(), "\n"), "\n")
	require.Len(t, rows, len(Variables())+2)
	for _, row := range rows {
		require.Equal(t, 5, strings.Count(row, "|")-strings.Count(row, `\|`), row)
	}
}

// TestDocsNameVariablesThatExist looks at every page that names variables.
func TestDocsNameVariablesThatExist(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, v := range Variables() {
		known[v.Name] = true
	}
	pages, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	alerts, err := filepath.Glob("../../docs/monitoring/*")
	require.NoError(t, err)
	named := 0
	for _, page := range slices.Concat(pages, alerts, []string{"../../README.md"}) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, name := range regexp.MustCompile(`\b(?:STOCKROOM|OTEL)_[A-Z_]+\b`).FindAllString(string(text), -1) {
			require.True(t, known[name] || foreign(name), "%s names %s", page, name)
			named++
		}
	}
	require.Greater(t, named, len(known), "the README alone names all")
}
