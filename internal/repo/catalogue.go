package repo

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/txn"
)

// CatalogueQuery says which items of the registry view a catalogue has: those of a
// framework, of one of the types if there are any, in whose name, title or description
// each of the words occurs, whatever their case.
type CatalogueQuery struct {
	Framework string
	Types     []string
	Words     []string
}

// Catalogue returns the keys of limit items behind the first offset: those in whose name
// the words occur first, before them that of their name and those whose names begin with
// it, and all else in the order of names.
func Catalogue(ctx context.Context, u *txn.Unit, q CatalogueQuery, offset, limit int) ([]item.Key, error) {
	var args arguments
	var parts []string
	order := `name`
	if len(q.Words) > 0 {
		// All that match have to be seen before the first is known.
		order = `rank, name`
		rank := `, ` + q.rank(&args) + ` AS rank`
		for _, part := range q.parts(&args, notShadowed) {
			parts = append(parts, `SELECT `+part.name+` AS name, '`+string(part.kind)+`' AS kind`+rank+part.from)
		}
	} else {
		// Each part ends by itself after as many rows of its index as may be needed.
		end := args.add(int64(offset) + int64(limit))
		for _, part := range q.parts(&args, notShadowedOneByOne) {
			parts = append(parts, `(SELECT `+part.name+` AS name, '`+string(part.kind)+`' AS kind`+part.from+` ORDER BY t.key LIMIT `+end+`)`)
		}
	}
	if len(parts) == 0 {
		return nil, nil
	}
	scan := func(row pgx.CollectableRow) (item.Key, error) {
		var name, kind string
		if err := row.Scan(&name, &kind); err != nil {
			return item.Key{}, err
		}
		if item.Kind(kind) == item.KindBlock {
			return item.BlockKey(q.Framework, name)
		}
		return item.ComponentKey(q.Framework, name)
	}
	return query(ctx, u, scan, `SELECT name, kind FROM (`+strings.Join(parts, ` UNION ALL `)+`) AS items
		ORDER BY `+order+` OFFSET `+args.add(int64(offset))+` LIMIT `+args.add(int64(limit)), args...)
}

// CatalogueSize returns how many items a catalogue has.
func CatalogueSize(ctx context.Context, u *txn.Unit, q CatalogueQuery) (int64, error) {
	var args arguments
	counts := []string{`0`}
	for _, part := range q.parts(&args, notShadowed) {
		counts = append(counts, `(SELECT count(*)`+part.from+`)`)
	}
	return queryOne(ctx, u, pgx.RowTo[int64], `SELECT `+strings.Join(counts, ` + `), args...)
}

// EachCatalogued gives each the components and blocks of keys that there are, in no
// particular order, without what a catalogue does not show: of a component's source it
// has only whether there is any. What each is given lives as long as the call.
func EachCatalogued(ctx context.Context, u *txn.Unit, keys []item.Key, each func(item.Value) error) error {
	groups := byTable(keys)
	// One row at a time: together they may be larger than what fits.
	forEach := func(t *table, columns string, dests []any, value func() item.Value) error {
		if len(groups[t]) == 0 {
			return nil
		}
		var text string
		return u.Select(ctx, func(rows pgx.Rows) error {
			_, err := pgx.ForEachRow(rows, append([]any{&text}, dests...), func() error {
				key, err := item.ParseKey(text)
				if err != nil {
					return fmt.Errorf("repo: a row with a key that is none: %w", err)
				}
				v := value()
				v.Key = key
				return each(v)
			})
			return err
		}, `SELECT t.key, `+columns+` FROM `+t.name+` t WHERE t.key = ANY($1) AND `+alive, groups[t])
	}
	var c item.Component
	err := forEach(components, `CASE WHEN t.source_code = '' THEN '' ELSE '…' END, t.metadata, t.dependencies, t.registry_dependencies`,
		[]any{&c.SourceCode, &c.Metadata, &c.Dependencies, &c.RegistryDependencies},
		func() item.Value { return item.Value{Component: &c} })
	if err != nil {
		return err
	}
	var b item.Block
	return forEach(blocks, `t.category, t.description, t.files, t.structure, t.dependencies, t.components_used`,
		[]any{&b.Category, &b.Description, &b.Files, &b.Structure, &b.Dependencies, &b.ComponentsUsed},
		func() item.Value { return item.Value{Block: &b} })
}

// cataloguePart is what one table has in a catalogue.
type cataloguePart struct {
	kind item.Kind
	name string // the name of a row's item
	from string // FROM … WHERE …
}

// A block behind a component of its name is not in the registry view. The database may
// join for the first form, which is best for all blocks; the second it looks up for one
// block after the other, which is best for the first few.
const (
	notShadowed         = ` AND NOT EXISTS (SELECT %s)`
	notShadowedOneByOne = ` AND (SELECT 1 %s) IS NULL`
	shadow              = `FROM components c WHERE c.key = %s || %s AND (c.expires_at IS NULL OR c.expires_at > now())`
)

// What a query looks at is in no index, so that no write pays for it: a framework's rows
// are read where there are words or types. Pages and counts of all need the keys alone.
const (
	registryType = `CASE WHEN t.metadata::json #>> '{registryItem,type}' IN (
		'registry:lib', 'registry:component', 'registry:ui', 'registry:hook', 'registry:page', 'registry:file', 'registry:theme',
		'registry:style', 'registry:item', 'registry:base', 'registry:font', 'registry:example', 'registry:internal')
		THEN t.metadata::json #>> '{registryItem,type}' ELSE 'registry:component' END`
	componentText = `t.name COLLATE "default" || E'\n' || coalesce(t.metadata::json #>> '{registryItem,title}', '')
		|| E'\n' || coalesce(t.metadata::json #>> '{registryItem,description}', '')`
	blockText = `t.name COLLATE "default" || E'\n' || coalesce(t.structure::json #>> '{registryItem,title}', '')
		|| E'\n' || coalesce(t.description, '')`
	// maxCatalogueText is how many characters of that a query looks in.
	maxCatalogueText = 480
)

// parts returns where the items of the query are read. An item of the catalogue's own
// name, which /v1 can put, has no address.
func (q CatalogueQuery) parts(args *arguments, shadowed string) (parts []cataloguePart) {
	part := func(t *table, text string) cataloguePart {
		prefix := string(t.kind) + ":" + q.Framework + ":"
		begin := args.add(prefix)
		// Names stand in the order of their keys, whose index tells whether they expire.
		p := cataloguePart{kind: t.kind, name: `substr(t.key, length(` + begin + `) + 1)`, from: ` FROM ` + t.name + ` t`}
		if len(q.Words) > 0 {
			// Made once a row, wherever it is used.
			p.from += fmt.Sprintf(` CROSS JOIN LATERAL (SELECT left(lower(%s), %d) AS registry_text OFFSET 0) x`, text, maxCatalogueText)
		}
		p.from += ` WHERE t.key >= ` + begin + ` AND t.key < ` + args.add(prefix+afterEveryKey) +
			` AND t.key <> ` + args.add(prefix+"registry") + ` AND ` + alive
		if len(q.Words) > 0 {
			p.from += ` AND x.registry_text LIKE ALL ` + q.patterns(args)
		}
		return p
	}
	var ofComponents []string // the types
	withBlocks := len(q.Types) == 0
	for _, itemType := range q.Types {
		if itemType == typeOfBlocks {
			withBlocks = true
		} else {
			ofComponents = append(ofComponents, itemType)
		}
	}
	if len(q.Types) == 0 || len(ofComponents) > 0 {
		p := part(components, componentText)
		if len(ofComponents) > 0 {
			p.from += ` AND ` + registryType + ` = ANY(` + args.add(ofComponents) + `)`
		}
		parts = append(parts, p)
	}
	if withBlocks {
		p := part(blocks, blockText)
		p.from += fmt.Sprintf(shadowed, fmt.Sprintf(shadow, args.add(string(item.KindComponent)+":"+q.Framework+":")+`::text`, p.name))
		parts = append(parts, p)
	}
	return parts
}

// typeOfBlocks is the registry's type of all blocks and of nothing else.
const typeOfBlocks = "registry:block"

// patterns are those that the words have to match. They become lower case where the
// column did, so that both mean the same by it; the SELECT is there to do that once.
func (q CatalogueQuery) patterns(args *arguments) string {
	patterns := make([]string, len(q.Words))
	for i, word := range q.Words {
		patterns[i] = `%` + strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(word) + `%`
	}
	return `((SELECT string_to_array(lower(` + args.add(strings.Join(patterns, "\n")) + `), E'\n'))::text[])`
}

// rank is the place in the order for one whose name is that of the query, begins with it,
// or holds its words. The name is the first line of the text.
func (q CatalogueQuery) rank(args *arguments) string {
	name := `lower(` + args.add(strings.Join(q.Words, "-")) + `)`
	return `CASE WHEN split_part(x.registry_text, E'\n', 1) = ` + name + ` THEN 0 WHEN starts_with(x.registry_text, ` + name + `) THEN 1
		WHEN split_part(x.registry_text, E'\n', 1) LIKE ALL ` + q.patterns(args) + ` THEN 2 ELSE 3 END`
}

// arguments are those of a statement that is made of parts.
type arguments []any

// add returns the placeholder of one more argument.
func (a *arguments) add(value any) string {
	*a = append(*a, value)
	return fmt.Sprintf("$%d", len(*a))
}
