package registry

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/stockroom/stockroom/internal/item"
)

// rule checks the value in front of the decoder and always consumes it. What it
// finds is a *item.Fault; any other error is the decoder's own.
type rule func(*jsontext.Decoder) error

// check holds value, which is valid JSON, against a rule and a bound on its
// levels of nesting.
func check(value jsontext.Value, rule rule, maxDepth int) error {
	if err := checkDepth(value, maxDepth); err != nil {
		return err
	}
	return rule(jsontext.NewDecoder(bytes.NewBuffer(value)))
}

func checkDepth(value jsontext.Value, maxDepth int) error {
	dec := jsontext.NewDecoder(bytes.NewBuffer(value))
	for {
		if _, err := dec.ReadToken(); err != nil {
			return err
		}
		switch depth := dec.StackDepth(); {
		case depth > maxDepth:
			return faultAt(dec, item.CodeTooDeep, fmt.Sprintf("is nested deeper than %d levels", maxDepth))
		case depth == 0:
			return nil
		}
	}
}

func text(dec *jsontext.Decoder) error {
	_, err := item.ReadString(dec)
	return err
}

// textThat is text that passes ok.
func textThat(want string, ok func(string) bool) rule {
	return func(dec *jsontext.Decoder) error {
		got, err := item.ReadString(dec)
		if err != nil {
			return err
		}
		if !ok(got) {
			return faultAt(dec, item.CodeInvalidValue, "must be "+want)
		}
		return nil
	}
}

// oneOf is text that is one of some words.
func oneOf(words ...string) rule {
	return textThat("one of "+strings.Join(words, ", "), func(got string) bool { return slices.Contains(words, got) })
}

func boolean(dec *jsontext.Decoder) error {
	switch dec.PeekKind() {
	case jsontext.KindTrue, jsontext.KindFalse:
		return dec.SkipValue()
	default:
		return wrongType(dec, "true or false")
	}
}

func anything(dec *jsontext.Decoder) error {
	_, err := item.ReadRaw(dec)
	return err
}

func texts(dec *jsontext.Decoder) error { return listOf(text)(dec) }

func listOf(element rule) rule {
	return func(dec *jsontext.Decoder) error {
		if dec.PeekKind() != jsontext.KindBeginArray {
			return wrongType(dec, "an array")
		}
		if _, err := dec.ReadToken(); err != nil {
			return err
		}
		var first *item.Fault
		for dec.PeekKind() != jsontext.KindEndArray {
			if err := element(dec); err != nil {
				fault, ok := errors.AsType[*item.Fault](err)
				if !ok {
					return err
				}
				if first == nil {
					first = fault
				}
			}
		}
		if _, err := dec.ReadToken(); err != nil {
			return err
		}
		if first != nil {
			return first
		}
		return nil
	}
}

// recordOf is an object whose members, whatever their names, obey one rule.
func recordOf(value rule) rule {
	return func(dec *jsontext.Decoder) error {
		return item.ReadObject(dec, func(name string) error { return named(dec, name, value) })
	}
}

// named holds a member, whose name the decoder has just read and no rule knows,
// against the rule of its value, and the name against what PostgreSQL can hold.
func named(dec *jsontext.Decoder, name string, value rule) error {
	if err := value(dec); err != nil {
		return err
	}
	return item.CheckString(dec, name)
}

// fields are the rules of an object's members. A member without a rule may be anything.
type fields map[string]rule

// onlyKnown is an object that obeys the rules of its fields and has no other members.
func onlyKnown(known fields) rule {
	return func(dec *jsontext.Decoder) error {
		return item.ReadObject(dec, func(name string) error {
			if rule, ok := known[name]; ok {
				return rule(dec)
			}
			if err := dec.SkipValue(); err != nil {
				return err
			}
			return faultAt(dec, item.CodeUnknownField, fmt.Sprintf("there is no field %q here", name))
		})
	}
}

// objectOf is an object that has the required members and obeys the rules of its fields.
func objectOf(known fields, required ...string) rule {
	return func(dec *jsontext.Decoder) error {
		seen := make(map[string]bool, len(known))
		err := item.ReadObject(dec, func(name string) error {
			seen[name] = true
			if rule, ok := known[name]; ok {
				return rule(dec)
			}
			return named(dec, name, anything)
		})
		if err != nil {
			return err
		}
		for _, name := range required {
			if !seen[name] {
				return missingField(dec, name)
			}
		}
		return nil
	}
}

func wrongType(dec *jsontext.Decoder, want string) error {
	if err := dec.SkipValue(); err != nil {
		return err
	}
	return faultAt(dec, item.CodeWrongType, "must be "+want)
}

// missingField is a fault of the object that the decoder has just read.
func missingField(dec *jsontext.Decoder, name string) *item.Fault {
	fault := faultAt(dec, item.CodeMissingField, fmt.Sprintf("the field %q is required", name))
	fault.Pointer = string(jsontext.Pointer(fault.Pointer).AppendToken(name))
	return fault
}

// faultAt is a fault of the value that the decoder has just read.
func faultAt(dec *jsontext.Decoder, code item.Code, detail string) *item.Fault {
	return &item.Fault{Code: code, Pointer: string(dec.StackPointer()), Detail: detail}
}
