package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// environment reads the standard OTEL_* variables. The SDK reads them as well,
// but it logs what it does not understand, value and all, and goes on without.
type environment func(name string) string

func (e environment) get(name string) string { return strings.TrimSpace(e(name)) }

// otlp returns the exporter's variable: that for traces, else that for all, with
// the name of the one that was set.
func (e environment) otlp(name string) (variable, value string) {
	for _, variable := range []string{"OTEL_EXPORTER_OTLP_TRACES_" + name, "OTEL_EXPORTER_OTLP_" + name} {
		if value := e.get(variable); value != "" {
			return variable, value
		}
	}
	return "", ""
}

func (e environment) disabled() bool {
	return strings.EqualFold(e.get("OTEL_SDK_DISABLED"), "true")
}

// resource describes this service. What the environment says wins.
func (e environment) resource(ctx context.Context, name, version string) (*resource.Resource, error) {
	attrs := []attribute.KeyValue{semconv.ServiceName(name), semconv.ServiceVersion(version)}
	more, err := e.pairs("OTEL_RESOURCE_ATTRIBUTES")
	if err != nil {
		return nil, err
	}
	for key, value := range more {
		attrs = append(attrs, attribute.String(key, value))
	}
	if name := e.get("OTEL_SERVICE_NAME"); name != "" {
		attrs = append(attrs, semconv.ServiceName(name))
	}
	return resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(attrs...)) // the last of a key wins
}

// traceExporter returns nil if traces go nowhere.
func (e environment) traceExporter(ctx context.Context) (sdktrace.SpanExporter, error) {
	variable, endpoint := e.otlp("ENDPOINT")
	switch e.get("OTEL_TRACES_EXPORTER") {
	case "none":
		return nil, nil //nolint:nilnil // said above
	case "":
		if endpoint == "" {
			return nil, nil //nolint:nilnil // said above
		}
	case "otlp":
	default:
		return nil, errors.New("OTEL_TRACES_EXPORTER: expected otlp or none")
	}
	if name, protocol := e.otlp("PROTOCOL"); protocol != "" && protocol != "http/protobuf" {
		return nil, fmt.Errorf("%s: expected http/protobuf, the only protocol that is built in", name)
	}

	if endpoint == "" {
		variable, endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318" // the standard's default
	}
	target, err := url.Parse(endpoint)
	if err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" {
		return nil, fmt.Errorf("%s: expected a URL such as http://localhost:4318", variable)
	}
	if variable == "OTEL_EXPORTER_OTLP_ENDPOINT" {
		target = target.JoinPath("v1", "traces") // the one for traces is taken as it is
	}
	opts := []otlptracehttp.Option{otlptracehttp.WithEndpointURL(target.String())}

	if name, value := e.otlp("HEADERS"); value != "" {
		headers, err := e.pairs(name)
		if err != nil {
			return nil, err
		}
		opts = append(opts, otlptracehttp.WithHeaders(headers))
	}
	return otlptracehttp.New(ctx, opts...)
}

func (e environment) sampler() (sdktrace.Sampler, error) {
	name := strings.ToLower(e.get("OTEL_TRACES_SAMPLER"))
	if name == "" {
		name = "parentbased_always_on"
	}
	root, parentBased := strings.CutPrefix(name, "parentbased_")
	var sampler sdktrace.Sampler
	switch root {
	case "always_on":
		sampler = sdktrace.AlwaysSample()
	case "always_off":
		sampler = sdktrace.NeverSample()
	case "traceidratio":
		ratio := 1.0
		if arg := e.get("OTEL_TRACES_SAMPLER_ARG"); arg != "" {
			var err error
			if ratio, err = strconv.ParseFloat(arg, 64); err != nil || !(ratio >= 0 && ratio <= 1) {
				return nil, errors.New("OTEL_TRACES_SAMPLER_ARG: expected a number from 0 to 1")
			}
		}
		sampler = sdktrace.TraceIDRatioBased(ratio)
	default:
		return nil, errors.New("OTEL_TRACES_SAMPLER: expected always_on, always_off, traceidratio, or one of them after parentbased_")
	}
	if parentBased {
		sampler = sdktrace.ParentBased(sampler)
	}
	return sampler, nil
}

// pairs reads key=value,… with percent-encoded values.
func (e environment) pairs(variable string) (map[string]string, error) {
	pairs := map[string]string{}
	for field := range strings.SplitSeq(e.get(variable), ",") {
		if strings.TrimSpace(field) == "" {
			continue
		}
		key, value, found := strings.Cut(field, "=")
		key = strings.TrimSpace(key)
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !found || key == "" || err != nil {
			return nil, fmt.Errorf("%s: expected key=value pairs separated by commas, their values percent-encoded", variable)
		}
		pairs[key] = value
	}
	return pairs, nil
}
