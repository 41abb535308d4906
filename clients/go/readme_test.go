package stockroom_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeExampleIsTheExample holds the program that the README shows, and what it
// is said to print, against the Example, which is run and whose output is checked.
func TestReadmeExampleIsTheExample(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	ok(t, err)
	example, err := os.ReadFile("example_test.go")
	ok(t, err)
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```.*?```\n(.*?)```").FindStringSubmatch(string(readme))
	if blocks == nil {
		t.Fatal("README.md has lost its example")
	}
	program, output := blocks[1], blocks[2]
	statements, comment, found := strings.Cut(bodyOf(t, string(example), "Example"), "\n\t// Output:\n")
	equal(t, true, found)
	equal(t, strings.TrimSpace(statements), strings.TrimSpace(bodyOf(t, program, "main")))
	equal(t, strings.ReplaceAll(comment, "\t// ", ""), output)
	equal(t, importsOf(t, string(example)), importsOf(t, program))
}

func parse(t *testing.T, source string) (*token.FileSet, *ast.File) {
	t.Helper()
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, "", source, parser.ParseComments)
	ok(t, err)
	return files, file
}

// bodyOf returns what stands between the braces of a function.
func bodyOf(t *testing.T, source, name string) string {
	t.Helper()
	files, file := parse(t, source)
	for _, declaration := range file.Decls {
		if function, isFunction := declaration.(*ast.FuncDecl); isFunction && function.Name.Name == name {
			return source[files.Position(function.Body.Lbrace).Offset+1 : files.Position(function.Body.Rbrace).Offset]
		}
	}
	t.Fatalf("there is no func %s", name)
	return ""
}

func importsOf(t *testing.T, source string) (paths []string) {
	t.Helper()
	_, file := parse(t, source)
	for _, spec := range file.Imports {
		paths = append(paths, spec.Path.Value)
	}
	return paths
}
