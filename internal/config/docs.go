package config

import (
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Variable documents one variable of the environment.
type Variable struct {
	Name        string
	Default     string // as it would be written; "" is none
	Type        string // what a value looks like, in words
	Description string
}

// standard are the variables of the OpenTelemetry standard that the server's
// telemetry honours. They are read there, not by Load.
var standard = []Variable{
	{"OTEL_SDK_DISABLED", "false", "true or false", "no traces, and none of Stockroom's own metrics"},
	{"OTEL_SERVICE_NAME", "stockroom", "text", "name of this service in traces and metrics"},
	{"OTEL_RESOURCE_ATTRIBUTES", "", "key=value,…", "more attributes of this service"},
	{"OTEL_TRACES_EXPORTER", "", "otlp or none", "where traces go; empty: otlp if an endpoint is set, else none"},
	{"OTEL_EXPORTER_OTLP_ENDPOINT", "", "URL", "collector of traces, by OTLP over HTTP; /v1/traces is appended"},
	{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "", "URL", "the same, taken as it is"},
	{"OTEL_EXPORTER_OTLP_HEADERS", "", "key=value,…", "headers for the collector, such as its credentials"},
	{"OTEL_TRACES_SAMPLER", "parentbased_always_on", "name of a sampler", "always_on, always_off, traceidratio, or one of them after parentbased_"},
	{"OTEL_TRACES_SAMPLER_ARG", "1", "0 to 1", "share of the traces that traceidratio keeps"},
}

// Variables documents every variable that the server honours: those of Config in
// its order, then the standard ones of OpenTelemetry.
func Variables() []Variable {
	var vars []Variable
	for f := range fields() {
		vars = append(vars, Variable{
			Name:        f.Tag.Get("env"),
			Default:     f.Tag.Get("envDefault"),
			Type:        kind(f.Type),
			Description: f.Tag.Get("about"),
		})
	}
	return append(vars, standard...)
}

// MarkdownTable returns Variables as the README shows them.
func MarkdownTable() string {
	var b strings.Builder
	b.WriteString("| variable | default | value | meaning |\n|---|---|---|---|\n")
	escape := strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;")
	for _, v := range Variables() {
		value := "empty"
		if v.Default != "" {
			value = "`" + v.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", v.Name, value, escape.Replace(v.Type), escape.Replace(v.Description))
	}
	return b.String()
}

// HelpText returns Variables as aligned columns for a terminal.
func HelpText() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, v := range Variables() {
		value := ""
		if v.Default != "" {
			value = " (default " + v.Default + ")"
		}
		fmt.Fprintf(w, "%s\t%s\t%s%s\n", v.Name, v.Type, v.Description, value)
	}
	_ = w.Flush() // a strings.Builder does not fail
	return b.String()
}

// fields yields the fields of Config that are variables.
func fields() iter.Seq[reflect.StructField] {
	return func(yield func(reflect.StructField) bool) {
		for _, f := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
			if f.Tag.Get("env") != "-" && !yield(f) {
				return
			}
		}
	}
}

// kind names what a value of the type looks like.
func kind(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[DSN]():
		return "connection string"
	case reflect.TypeFor[Address]():
		return "host:port"
	case reflect.TypeFor[Bytes]():
		return "size"
	case reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.TypeFor[int]():
		return "number"
	case reflect.TypeFor[bool]():
		return "true or false"
	case reflect.TypeFor[string]():
		return "path"
	case reflect.TypeFor[MigrateMode]():
		return "auto, check or off"
	case reflect.TypeFor[LogLevel]():
		return "debug, info, warn or error"
	case reflect.TypeFor[LogFormat]():
		return "json or text"
	default:
		panic(fmt.Sprintf("config: %v has no description", t))
	}
}

// prefix marks the variables that are ours.
const prefix = "STOCKROOM_"

// foreign reports whether a variable with our prefix is meant for somebody else:
// the tests, the SDKs and the command-line tools.
func foreign(name string) bool {
	return strings.HasPrefix(name, "STOCKROOM_TEST_") ||
		name == "STOCKROOM_REGISTRY_DIR" || name == "STOCKROOM_API_KEY"
}

// warnings names the variables that have our prefix and no meaning, in order.
func warnings(environ map[string]string) []string {
	known := map[string]bool{}
	for f := range fields() {
		known[f.Tag.Get("env")] = true
	}
	var found []string
	for _, name := range slices.Sorted(maps.Keys(environ)) {
		if !strings.HasPrefix(name, prefix) || known[name] || foreign(name) {
			continue
		}
		sentence := fmt.Sprintf("%q is not a variable of Stockroom and is ignored", name)
		if near := nearest(name); near != "" {
			sentence += "; did you mean " + near + "?"
		}
		found = append(found, sentence)
	}
	return found
}

// nearest returns the variable that the name was probably meant to be, or "".
// The prefix counts for nothing, so STOCKROOM_DATABASE_URL is found as well.
func nearest(name string) (best string) {
	const tooFar = 5 // edits: a forgotten _FILE is still found
	least := tooFar + 1
	for f := range fields() {
		variable := f.Tag.Get("env")
		ours, theirs := strings.TrimPrefix(variable, prefix), strings.TrimPrefix(name, prefix)
		// More than half of it different is another name, however short.
		if d := distance(theirs, ours); d < least && d <= len(ours)/2 {
			best, least = variable, d
		}
	}
	return best
}

// distance is Levenshtein's: the edits that turn a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
