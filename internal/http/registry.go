package http

import (
	"net/http"
	"strings"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/registry"
)

// catalogueName is the name under which the CLI asks for the catalogue, so that
// no item can have it in this view.
const catalogueName = "registry"

// getRegistryItem answers with the ETag of the item itself: the registry item is
// made of nothing else, and a tag that a GET gave must hold in a PUT.
func (s *server) getRegistryItem(w http.ResponseWriter, r *http.Request) error {
	framework, name, err := registryName(r)
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
	if err != nil {
		return err
	}
	writeItem(w, known, stored.Metadata, body)
	return nil
}

func (s *server) putRegistryItem(w http.ResponseWriter, r *http.Request) error {
	framework, name, err := registryName(r)
	if err != nil {
		return err
	}
	required, err := precondition(r)
	if err != nil {
		return err
	}
	if name == catalogueName {
		return &item.Fault{Code: item.CodeInvalidValue, Pointer: "/name", Detail: "the name is that of the catalogue, /r/{framework}/registry.json"}
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
