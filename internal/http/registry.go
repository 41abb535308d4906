package http

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/registry"
	"github.com/stockroom/stockroom/internal/store"
)

// catalogueName is the name under which the CLI asks for the catalogue, so that
// no item can have it in this view.
const catalogueName = "registry"

// isCatalogue tells whether a path is that of a catalogue.
func isCatalogue(path string) bool {
	return strings.HasPrefix(path, registryPath) && strings.HasSuffix(path, "/"+catalogueName+".json")
}

// getRegistryItem answers with the ETag of the item itself: the registry item is
// made of nothing else, and a tag that a GET gave must hold in a PUT.
func (s *server) getRegistryItem(w http.ResponseWriter, r *http.Request) error {
	framework, name, err := registryName(r)
	if err != nil {
		return err
	}
	namespace, err := namespaceParam(r.URL.Query())
	if err != nil {
		return err
	}
	known, err := tagsHeader(r, "If-None-Match")
	if err != nil {
		return err
	}
	stored, err := s.store.GetPublished(r.Context(), framework, name, noCache(r))
	if err != nil {
		return err
	}
	markStale(w, stored)
	body, err := registry.Encode(stored.Key, stored.JSON)
	if err == nil && namespace != "" {
		body, err = registry.InNamespace(body, namespace)
	}
	if err != nil {
		return err
	}
	writeItem(w, r, known, stored.Metadata, body)
	return nil
}

// Catalogue is a page of what a framework holds, in the form that the CLI wants.
type Catalogue struct {
	Schema     string            `json:"$schema"`
	Name       string            `json:"name"`
	Homepage   string            `json:"homepage"`
	Items      []json.RawMessage `json:"items"`
	Pagination Pagination        `json:"pagination"`
}

const catalogueSchema = "https://ui.shadcn.com/schema/registry.json"

// getCatalogue answers with an ETag of the page itself, which any change of an item in
// it or before it may make another.
func (s *server) getCatalogue(w http.ResponseWriter, r *http.Request) error {
	framework, err := pathParam(r, "framework")
	if err != nil {
		return err
	}
	if err := item.CheckFramework(framework); err != nil {
		return err
	}
	known, err := tagsHeader(r, "If-None-Match")
	if err != nil {
		return err
	}
	// Others than ours are no mistake here: the CLI may add its own.
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return errQuery
	}
	namespace, err := namespaceParam(values)
	if err != nil {
		return err
	}
	ask, err := catalogueParams(values)
	if err != nil {
		return err
	}
	ask.query.Framework = framework
	items, total, err := s.store.Catalogue(r.Context(), ask.query, ask.offset, ask.limit)
	if err != nil {
		return err
	}
	for i := range items {
		if namespace == "" {
			break
		}
		if items[i], err = registry.InNamespace(items[i], namespace); err != nil {
			return err
		}
	}
	body, err := encode(Catalogue{
		Schema: catalogueSchema, Name: framework, Homepage: homepage(r, framework), Items: notNil(items),
		Pagination: Pagination{Total: total, Offset: int64(ask.offset), Limit: int64(ask.limit), HasMore: int64(ask.offset+len(items)) < total},
	})
	if err != nil {
		return err
	}
	etag := item.ETagOf(body)
	setHeader(w, "Etag", quoted(etag))
	w.Header()["Cache-Control"] = cacheControlRevalidate
	if !(item.Precondition{IfNoneMatch: known}).Holds(true, etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	writeBytes(w, http.StatusOK, body)
	return nil
}

// homepage is the address of a framework's catalogue, as its caller sees this server. A
// catalogue has to have one, and Stockroom knows of no other page about it.
func homepage(r *http.Request, framework string) string {
	address := url.URL{Scheme: "http", Host: r.Host, Path: registryPath + framework + "/" + catalogueName + ".json"}
	if r.TLS != nil {
		address.Scheme = "https"
	}
	return address.String()
}

// catalogueAsk is the page of a catalogue that a request asks for.
type catalogueAsk struct {
	query         store.CatalogueQuery
	offset, limit int
}

// maxQueryChars is how long the text may be that is looked for in names and descriptions.
const maxQueryChars = 200

func catalogueParams(values url.Values) (ask catalogueAsk, err error) {
	text := values.Get("q")
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) || utf8.RuneCountInString(text) > maxQueryChars {
		return ask, &apiError{codeInvalidParameter, fmt.Sprintf("q must be at most %d characters of UTF-8 without U+0000", maxQueryChars)}
	}
	ask.query.Words = strings.Fields(text)
	types := values.Get("type")
	if !utf8.ValidString(types) || strings.ContainsRune(types, 0) {
		return ask, &apiError{codeInvalidParameter, "type must be UTF-8 without U+0000"}
	}
	for itemType := range strings.SplitSeq(types, ",") {
		if itemType = strings.TrimSpace(itemType); itemType != "" {
			ask.query.Types = append(ask.query.Types, registry.FullType(itemType))
		}
	}
	if ask.limit, err = countParam(values, "limit"); err != nil {
		return ask, err
	}
	// The CLI's own "no limit" is 0, and some of its pages are as large as all before
	// them: it is told what it gets.
	if ask.limit == 0 || ask.limit > maxLimit {
		ask.limit = maxLimit
	}
	ask.offset, err = countParam(values, "offset")
	return ask, err
}

// countParam returns a parameter that counts something; 0 where it is absent.
func countParam(values url.Values, name string) (int, error) {
	text := values.Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 31) // unlike Atoi it takes no sign
	if err != nil {
		return 0, &apiError{codeInvalidParameter, name + " must be an integer in 0 … 2147483647"}
	}
	return int(n), nil
}

// namespaceParam returns the name by which the caller's configuration knows this
// registry; "" where it does not say.
func namespaceParam(values url.Values) (string, error) {
	namespace := values.Get("namespace")
	if namespace != "" && !registry.IsNamespace(namespace) {
		return "", &apiError{codeInvalidParameter, "namespace must be the name of a registry, such as @acme"}
	}
	return namespace, nil
}

func (s *server) putRegistryItem(w http.ResponseWriter, r *http.Request) error {
	framework, name, err := registryName(r)
	if err != nil {
		return err
	}
	if name == catalogueName {
		return methodNotAllowed(s.router)(w, r)
	}
	required, err := precondition(r)
	if err != nil {
		return err
	}
	body, err := s.readBody(w, r)
	if err != nil {
		return err
	}
	value, err := registry.Decode(framework, name, body)
	if err != nil {
		return err
	}
	written, err := s.store.Publish(r.Context(), value, nil, required)
	if err != nil {
		return err
	}
	return s.writeWritten(w, r, written)
}

// registryName returns what a path /r/{framework}/{name}.json names. chi would end
// the name at its first dot, so the suffix is ours to take off.
func registryName(r *http.Request) (framework, name string, err error) {
	framework, err = pathParam(r, "framework")
	if err != nil {
		return "", "", err
	}
	file, err := pathParam(r, "file")
	if err != nil {
		return "", "", err
	}
	name, ok := strings.CutSuffix(file, ".json")
	if !ok {
		return "", "", errNoRoute
	}
	_, err = item.ComponentKey(framework, name)
	return framework, name, err
}
