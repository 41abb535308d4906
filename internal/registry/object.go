package registry

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
)

// object is a JSON object with its members in their order. Its methods leave
// it as it is and return what they made of it.
type object []member

type member struct {
	name  string
	value jsontext.Value
}

func parseObject(raw []byte) (object, error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(raw))
	if dec.PeekKind() != jsontext.KindBeginObject {
		return nil, fmt.Errorf("registry: %s where an object should be", dec.PeekKind())
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	o := object{} // never nil: an object without members is not no object
	for dec.PeekKind() != jsontext.KindEndObject {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, err
		}
		m := member{name: name.String()}
		value, err := dec.ReadValue()
		if err != nil {
			return nil, err
		}
		m.value = value.Clone()
		o = append(o, m)
	}
	return o, nil
}

func parseArray(raw []byte) ([]jsontext.Value, error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(raw))
	if dec.PeekKind() != jsontext.KindBeginArray {
		return nil, fmt.Errorf("registry: %s where an array should be", dec.PeekKind())
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	var elements []jsontext.Value
	for dec.PeekKind() != jsontext.KindEndArray {
		value, err := dec.ReadValue()
		if err != nil {
			return nil, err
		}
		elements = append(elements, value.Clone())
	}
	return elements, nil
}

// get returns the value of a member, nil where there is no such member.
func (o object) get(name string) jsontext.Value {
	for _, m := range o {
		if m.name == name {
			return m.value
		}
	}
	return nil
}

// text returns the string that a member is; it reports false where there is no
// such member or it is no string.
func (o object) text(name string) (string, bool) {
	value := o.get(name)
	if value.Kind() != jsontext.KindString {
		return "", false
	}
	return unquote(value), true
}

// with has the member set to the value; a nil value removes it.
func (o object) with(name string, value jsontext.Value) object {
	if value == nil {
		return o.without(name)
	}
	changed := slices.Clone(o)
	for i := range changed {
		if changed[i].name == name {
			changed[i].value = value
			return changed
		}
	}
	return append(changed, member{name: name, value: value})
}

func (o object) without(names ...string) object {
	return slices.DeleteFunc(slices.Clone(o), func(m member) bool { return slices.Contains(names, m.name) })
}

// inOrder has the members that are named in their order, then the others as
// they stand.
func (o object) inOrder(names []string) object {
	rank := func(m member) int {
		if i := slices.Index(names, m.name); i >= 0 {
			return i
		}
		return len(names)
	}
	sorted := slices.Clone(o)
	slices.SortStableFunc(sorted, func(a, b member) int { return cmp.Compare(rank(a), rank(b)) })
	return sorted
}

func (o object) json() jsontext.Value {
	out := jsontext.Value{'{'}
	for i, m := range o {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, quote(m.name)...)
		out = append(out, ':')
		out = append(out, m.value...)
	}
	return append(out, '}')
}

func arrayJSON(elements []jsontext.Value) jsontext.Value {
	return slices.Concat(jsontext.Value{'['}, bytes.Join(asBytes(elements), []byte{','}), jsontext.Value{']'})
}

func asBytes(values []jsontext.Value) [][]byte {
	out := make([][]byte, len(values))
	for i, value := range values {
		out[i] = value
	}
	return out
}

// quote returns text as a JSON string. All text here has come out of JSON, so
// it is valid UTF-8, the one thing that quoting asks for.
func quote(text string) jsontext.Value {
	quoted, _ := jsontext.AppendQuote(nil, text)
	return quoted
}

func optionalQuote(text *string) jsontext.Value {
	if text == nil {
		return nil
	}
	return quote(*text)
}

// unquote returns the string that value, a valid JSON string, stands for.
func unquote(value jsontext.Value) string {
	text, _ := jsontext.AppendUnquote(nil, value)
	return string(text)
}
