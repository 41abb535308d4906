package registry

import (
	"regexp"
	"strings"
)

// IsNamespace tells whether text is the name of a registry, as the CLI's components.json
// has them, such as @acme.
var IsNamespace = regexp.MustCompile(`^@[a-zA-Z0-9](?:[a-zA-Z0-9_-]*[a-zA-Z0-9])?$`).MatchString

// InNamespace returns a registry item whose bare registryDependencies, such as button,
// name items of the registry namespace: @acme/button. To the CLI a bare name is an item of
// the registry that is built into it. URLs, paths and names that have a registry already
// stay.
func InNamespace(registryItem []byte, namespace string) ([]byte, error) {
	o, err := parseObject(registryItem)
	if err != nil {
		return nil, err
	}
	raw := o.get("registryDependencies")
	if raw == nil {
		return registryItem, nil
	}
	names, err := parseArray(raw)
	if err != nil {
		return nil, err
	}
	for i := range names {
		if name := unquote(names[i]); isBare(name) {
			names[i] = quote(namespace + "/" + name)
		}
	}
	return o.with("registryDependencies", arrayJSON(names)).json(), nil
}

// isBare tells whether the CLI takes a registry dependency for the name of an item in
// the registry that is built into it.
func isBare(name string) bool {
	return name != "" && name[0] != '@' && !strings.ContainsAny(name, "/:\\") && !strings.HasSuffix(name, ".json")
}
