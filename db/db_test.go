package db_test

import (
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom/db"
)

var (
	fileName    = regexp.MustCompile(`^(\d{4})_([a-z0-9_]+)\.(up|down)\.sql$`)
	comment     = regexp.MustCompile(`--[^\n]*`)
	doBlock     = regexp.MustCompile(`(?s)\bDO \$\$.*?\$\$`)
	createIndex = regexp.MustCompile(`(?i)\bCREATE\s+(UNIQUE\s+)?INDEX\b`)
	transaction = regexp.MustCompile(`(?i)\b(BEGIN|START\s+TRANSACTION|COMMIT|ROLLBACK|SAVEPOINT|CONCURRENTLY)\b`)
	forbidden   = regexp.MustCompile(`(?i)\b(TRIGGER|SERIAL|BIGSERIAL|IDENTITY|UNIQUE)\b`)
)

// statements returns a migration's text without comments.
func statements(t *testing.T, name string) string {
	t.Helper()
	raw, err := fs.ReadFile(db.Migrations, "migrations/"+name)
	require.NoError(t, err)
	return comment.ReplaceAllString(string(raw), "")
}

func migrationFiles(t *testing.T) []string {
	t.Helper()
	files, err := fs.ReadDir(db.Migrations, "migrations")
	require.NoError(t, err)
	names := make([]string, len(files))
	for i, file := range files {
		require.Regexp(t, fileName, file.Name())
		names[i] = file.Name()
	}
	require.NotEmpty(t, names)
	return names
}

func TestEveryMigrationHasItsWayBackAndNoNumberIsLeftOut(t *testing.T) {
	t.Parallel()
	titles := map[string]map[int]string{"up": {}, "down": {}}
	for _, name := range migrationFiles(t) {
		parts := fileName.FindStringSubmatch(name)
		number, err := strconv.Atoi(parts[1])
		require.NoError(t, err)
		require.NotContains(t, titles[parts[3]], number, "two migrations have the number of %s", name)
		titles[parts[3]][number] = parts[2]
	}
	require.Equal(t, titles["up"], titles["down"], "every up has its down, of the same name")
	for number := 1; number <= len(titles["up"]); number++ {
		require.Contains(t, titles["up"], number, "migrations are numbered without gaps")
	}
}

// A migration runs in the implicit transaction of its one message, so that a
// failed one leaves nothing behind; and an index a file keeps each of them short.
func TestAMigrationIsOneTransactionWithOneIndexAtMost(t *testing.T) {
	t.Parallel()
	for _, name := range migrationFiles(t) {
		text := statements(t, name)
		require.NotEmpty(t, strings.TrimSpace(text), name)
		indexes := createIndex.FindAllString(text, -1)
		require.LessOrEqual(t, len(indexes), 1, "%s creates more than one index", name)
		if len(indexes) == 1 {
			require.Equal(t, 1, strings.Count(text, ";"), "%s does more than create its index", name)
		}
		// In a DO block BEGIN opens a block, not a transaction.
		require.NotRegexp(t, transaction, doBlock.ReplaceAllString(text, ""), name)
		require.NotRegexp(t, forbidden, text, "%s: the design's rules 1 and 5 of SQL", name)
	}
}

func TestPrimaryKeysAreTheItemsOwnNames(t *testing.T) {
	t.Parallel()
	var all strings.Builder
	for _, name := range migrationFiles(t) {
		if strings.HasSuffix(name, ".up.sql") {
			all.WriteString(statements(t, name))
		}
	}
	keys := regexp.MustCompile(`PRIMARY KEY \([^)]*\)`).FindAllString(all.String(), -1)
	slices.Sort(keys)
	require.Equal(t, []string{"PRIMARY KEY (key)", "PRIMARY KEY (name, framework)", "PRIMARY KEY (name, framework)", "PRIMARY KEY (name, framework, kind)"}, keys)
}
