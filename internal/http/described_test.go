package http_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"
)

// unit is what the description of a number has to say: what it counts.
var unit = regexp.MustCompile(`(?i)\b(bytes|seconds|how (many|often|well)|requests|connections|reads|items|entries|results|status|number|divided by)\b`)

// gaps finds what the contract does not describe.
type gaps struct {
	found []string
	seen  map[*openapi3.Schema]bool
}

func (g *gaps) addf(format string, args ...any) {
	g.found = append(g.found, fmt.Sprintf(format, args...))
}

// described notes what has no description or no example.
func (g *gaps) described(what, description string, example any, examples int) {
	if strings.TrimSpace(description) == "" {
		g.addf("%s has no description", what)
	}
	if example == nil && examples == 0 {
		g.addf("%s has no example", what)
	}
}

// schema looks at the fields of a schema, and at theirs.
func (g *gaps) schema(where string, ref *openapi3.SchemaRef) {
	if ref == nil || ref.Value == nil || g.seen[ref.Value] {
		return
	}
	s := ref.Value
	g.seen[s] = true
	if _, name, ok := strings.Cut(ref.Ref, "#/components/schemas/"); ok {
		where = name
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		field := s.Properties[name]
		what := "the field " + where + "." + name
		g.described(what, field.Value.Description, field.Value.Example, len(field.Value.Examples))
		g.measured(what, field.Value.Description, field.Value)
		g.schema(where+"."+name, field)
	}
	g.schema(where+"[]", s.Items)
	g.schema(where+".*", s.AdditionalProperties.Schema)
	for _, parts := range []openapi3.SchemaRefs{s.AllOf, s.AnyOf, s.OneOf} {
		for _, part := range parts {
			g.schema(where, part)
		}
	}
}

// measured notes a number that may be of anything.
func (g *gaps) measured(what, description string, s *openapi3.Schema) {
	number := s.Type.Includes(openapi3.TypeInteger) || s.Type.Includes(openapi3.TypeNumber)
	if number && !s.Type.Includes(openapi3.TypeString) && !unit.MatchString(description) {
		g.addf("%s is a number, and nothing says of what", what)
	}
}

func (g *gaps) content(where string, content openapi3.Content) {
	for media, value := range content {
		if value.Example == nil && len(value.Examples) == 0 {
			g.addf("%s as %s has no example", where, media)
		}
		g.schema(where, value.Schema)
	}
}

func (g *gaps) parameters(where string, parameters openapi3.Parameters) {
	for _, ref := range parameters {
		p := ref.Value
		what := "the parameter " + p.Name + " of " + where
		g.described(what, p.Description, p.Example, len(p.Examples))
		g.measured(what, p.Description, p.Schema.Value)
	}
}

func (g *gaps) response(where string, response *openapi3.Response) {
	if response.Description == nil || strings.TrimSpace(*response.Description) == "" {
		g.addf("%s has no description", where)
	}
	for name, header := range response.Headers {
		what := "the header " + name + " of " + where
		g.described(what, header.Value.Description, header.Value.Example, len(header.Value.Examples))
		g.measured(what, header.Value.Description, header.Value.Schema.Value)
	}
	g.content(where, response.Content)
}

// gapsOf returns everything in a contract that lacks its description, its example
// or its unit.
func gapsOf(doc *openapi3.T) []string {
	g := &gaps{seen: map[*openapi3.Schema]bool{}}
	for name, schema := range doc.Components.Schemas {
		if schema.Value.Description == "" {
			g.addf("the schema %s has no description", name)
		}
		g.schema(name, schema)
	}
	for path, pathItem := range doc.Paths.Map() {
		g.parameters(path, pathItem.Parameters)
		for _, operation := range pathItem.Operations() {
			id := operation.OperationID
			if operation.Summary == "" {
				g.addf("the operation %s has no summary", id)
			}
			g.described("the operation "+id, operation.Description, nil, len(shellExamples(operation)))
			g.parameters(id, operation.Parameters)
			if body := operation.RequestBody; body != nil {
				if body.Value.Description == "" {
					g.addf("the body of %s has no description", id)
				}
				g.content("the body of "+id, body.Value.Content)
			}
			for status, response := range operation.Responses.Map() {
				g.response(fmt.Sprintf("the answer %s of %s", status, id), response.Value)
			}
		}
	}
	slices.Sort(g.found)
	return slices.Compact(g.found)
}

func TestContractDescribesEverything(t *testing.T) {
	t.Parallel()
	require.Empty(t, gapsOf(loadContract(t).doc))
}

// TestGapsAreFound takes away from a copy of the contract what TestContractDescribesEverything looks for.
func TestGapsAreFound(t *testing.T) {
	t.Parallel()
	c, err := readContract("3.0.3")
	require.NoError(t, err)
	for gap, take := range map[string]func(*openapi3.T) (undo func()){
		"the operation getItem has no summary": func(doc *openapi3.T) func() {
			return put(&doc.Paths.Find("/v1/items/{key}").Get.Summary, "")
		},
		"the operation getItem has no example": func(doc *openapi3.T) func() {
			return put(&doc.Paths.Find("/v1/items/{key}").Get.Description, "Gets it.")
		},
		"the parameter ttl of putItem has no description": func(doc *openapi3.T) func() {
			return put(&doc.Components.Parameters["TTLQuery"].Value.Description, " ")
		},
		"the parameter ttl of putItem has no example": func(doc *openapi3.T) func() {
			return put(&doc.Components.Parameters["TTLQuery"].Value.Example, nil)
		},
		"the parameter ttl of putItem is a number, and nothing says of what": func(doc *openapi3.T) func() {
			return put(&doc.Components.Parameters["TTLQuery"].Value.Description, "How long.")
		},
		"the header Retry-After of the answer 503 of getItem has no example": func(doc *openapi3.T) func() {
			return put(&doc.Components.Headers["RetryAfter"].Value.Example, nil)
		},
		"the answer 404 of getItem has no description": func(doc *openapi3.T) func() {
			return put(&doc.Components.Responses["NotFound"].Value.Description, new(string))
		},
		"the answer 404 of getItem as application/problem+json has no example": func(doc *openapi3.T) func() {
			return put(&doc.Components.Responses["NotFound"].Value.Content["application/problem+json"].Examples, nil)
		},
		"the body of maintain as application/json has no example": func(doc *openapi3.T) func() {
			return put(&doc.Paths.Find("/v1/maintenance").Post.RequestBody.Value.Content["application/json"].Examples, nil)
		},
		"the schema Metadata has no description": func(doc *openapi3.T) func() {
			return put(&doc.Components.Schemas["Metadata"].Value.Description, "")
		},
		"the field Metadata.accessCount has no description": func(doc *openapi3.T) func() {
			return put(&doc.Components.Schemas["Metadata"].Value.Properties["accessCount"].Value.Description, "")
		},
		"the field Metadata.accessCount has no example": func(doc *openapi3.T) func() {
			return put(&doc.Components.Schemas["Metadata"].Value.Properties["accessCount"].Value.Examples, nil)
		},
		"the field Metadata.accessCount is a number, and nothing says of what": func(doc *openapi3.T) func() {
			return put(&doc.Components.Schemas["Metadata"].Value.Properties["accessCount"].Value.Description, "It is counted.")
		},
	} {
		undo := take(c.doc)
		require.Contains(t, gapsOf(c.doc), gap)
		undo()
	}
	require.Empty(t, gapsOf(c.doc))
}

func put[T any](field *T, value T) (undo func()) {
	was := *field
	*field = value
	return func() { *field = was }
}
