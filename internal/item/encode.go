package item

import "strconv"

// encoder writes one JSON object, compactly and in the order of its calls.
type encoder struct {
	out []byte
}

// room is how much is needed for an object whose large fields have size bytes.
func room(size int) int { return size + size/8 + 256 }

func (e *encoder) name(name string) {
	if e.out[len(e.out)-1] != '{' {
		e.out = append(e.out, ',')
	}
	e.out = append(e.out, '"')
	e.out = append(e.out, name...)
	e.out = append(e.out, '"', ':')
}

func (e *encoder) text(name, value string) {
	e.name(name)
	e.out = AppendQuote(e.out, value)
}

func (e *encoder) optionalText(name string, value *string) {
	if value != nil {
		e.text(name, *value)
	}
}

func (e *encoder) raw(name string, value *string) {
	if value != nil {
		e.name(name)
		e.out = append(e.out, *value...)
	}
}

func (e *encoder) integer(name string, value *int64) {
	if value != nil {
		e.name(name)
		e.out = strconv.AppendInt(e.out, *value, 10)
	}
}

func (e *encoder) end() []byte { return append(e.out, '}') }

func (e *encoder) identity(key Key, has Identity) {
	if has&HasFramework != 0 {
		e.text("framework", key.Framework())
	}
	if has&HasName != 0 {
		e.text("name", key.Name())
	}
}

// JSON encodes the component in the order of its fields in openapi.yaml:
// equal components have equal bytes, whatever order they were sent in.
func (c *Component) JSON(key Key) []byte {
	size := len(c.SourceCode)
	for _, field := range []*string{c.DemoCode, c.Metadata, c.Dependencies, c.RegistryDependencies} {
		if field != nil {
			size += len(*field)
		}
	}
	return c.appendJSON(make([]byte, 0, room(size)), key, nil)
}

// appendJSON appends that. source is how SourceCode is quoted, where that is known.
func (c *Component) appendJSON(out []byte, key Key, source []byte) []byte {
	e := encoder{append(out, '{')}
	e.identity(key, c.Identity)
	if source == nil {
		e.text("sourceCode", c.SourceCode)
	} else {
		e.name("sourceCode")
		e.out = append(e.out, source...)
	}
	e.optionalText("demoCode", c.DemoCode)
	e.raw("metadata", c.Metadata)
	e.raw("dependencies", c.Dependencies)
	e.raw("registryDependencies", c.RegistryDependencies)
	e.optionalText("githubSha", c.GitHubSHA)
	e.integer("fileSize", c.FileSize)
	e.optionalText("lastModified", c.LastModified)
	return e.end()
}

// JSON encodes the block as Component.JSON does a component.
func (b *Block) JSON(key Key) []byte {
	size := len(b.Files)
	for _, field := range []*string{b.Description, b.Structure, b.Dependencies, b.ComponentsUsed} {
		if field != nil {
			size += len(*field)
		}
	}
	return b.appendJSON(make([]byte, 0, room(size)), key)
}

func (b *Block) appendJSON(out []byte, key Key) []byte {
	e := encoder{append(out, '{')}
	e.identity(key, b.Identity)
	e.optionalText("category", b.Category)
	e.optionalText("type", b.Type)
	e.optionalText("description", b.Description)
	e.raw("files", &b.Files)
	e.raw("structure", b.Structure)
	e.raw("dependencies", b.Dependencies)
	e.raw("componentsUsed", b.ComponentsUsed)
	e.integer("totalSize", b.TotalSize)
	e.optionalText("githubSha", b.GitHubSHA)
	return e.end()
}
