// Package http is Stockroom's interface over HTTP: routes, handlers, middleware
// and problems. It knows no SQL. openapi.yaml is its contract: api.gen.go is
// generated from it, and tests hold the routes and every answer against it.
package http

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/store"
)

// Config bounds what a request may ask for.
type Config struct {
	MaxBodyBytes   int64         // bytes of a request's body
	MaxBatch       int           // keys of a batch
	RequestTimeout time.Duration // from a request's headers to its answer
}

// Dependencies are what the handlers work with; all are needed.
type Dependencies struct {
	Store *store.Store
	Log   *slog.Logger
	// Contract is openapi.yaml.
	Contract []byte
	// Serving returns nil while requests for data are answered, else ErrStarting
	// or ErrShuttingDown. It must be fast.
	Serving func() error
	// NotReady returns the reasons why the service should get no requests; none
	// where it should. It must be bounded in time.
	NotReady func(context.Context) []string
}

type server struct {
	config Config
	Dependencies
	store *store.Store
	log   *slog.Logger
}

// The paths whose first segment decides how errors look.
const registryPath = "/r/"

// New returns the handler of the whole interface.
func New(config Config, deps Dependencies) http.Handler {
	s := &server{config: config, Dependencies: deps, store: deps.Store, log: deps.Log}
	r := chi.NewRouter()
	r.NotFound(s.handle(s.noRoute))
	r.MethodNotAllowed(s.handle(methodNotAllowed(r)))

	r.Method(http.MethodGet, "/livez", s.handle(s.livez))
	r.Method(http.MethodGet, "/readyz", s.handle(s.readyz))
	r.Method(http.MethodGet, "/openapi.yaml", s.handle(s.contract))

	r.Group(func(r chi.Router) {
		r.Use(s.serve)
		r.Method(http.MethodGet, "/v1/items", s.handle(s.listKeys))
		r.Method(http.MethodDelete, "/v1/items", s.handle(s.clearItems))
		s.itemRoutes(r, "/v1/items/{key}", itemKey)
		r.Method(http.MethodGet, "/v1/items/{key}/metadata", s.handle(s.getItemMetadata))
		r.Method(http.MethodPost, "/v1/items/{key}/touch", s.handle(s.touchItem))
		r.Method(http.MethodPost, "/v1/mget", s.handle(s.mget))
		r.Method(http.MethodPost, "/v1/mset", s.handle(s.mset))
		r.Method(http.MethodPost, "/v1/mdelete", s.handle(s.mdelete))
		s.itemRoutes(r, "/v1/components/{framework}/{name}", componentKey)
		r.Method(http.MethodGet, "/v1/components/{framework}", s.handle(s.listComponents))
		s.itemRoutes(r, "/v1/blocks/{framework}/{name}", blockKey)
		r.Method(http.MethodGet, "/v1/blocks/{framework}", s.handle(s.listBlocks))
		r.Method(http.MethodGet, "/v1/frameworks", s.handle(s.listFrameworks))
		r.Method(http.MethodGet, registryPath+"{framework}/{name}.json", s.handle(s.getRegistryItem))
		r.Method(http.MethodPut, registryPath+"{framework}/{name}.json", s.handle(s.putRegistryItem))
	})
	return s.observe(r)
}

// itemRoutes registers the routes of one item, whose key keyOf takes from the path.
func (s *server) itemRoutes(r chi.Router, pattern string, keyOf keyFunc) {
	r.Method(http.MethodGet, pattern, s.handle(s.getItem(keyOf)))
	r.Method(http.MethodHead, pattern, s.handle(s.headItem(keyOf)))
	r.Method(http.MethodPut, pattern, s.handle(s.putItem(keyOf)))
	r.Method(http.MethodDelete, pattern, s.handle(s.deleteItem(keyOf)))
}

type keyFunc func(*http.Request) (item.Key, error)

func componentKey(r *http.Request) (item.Key, error) { return namedKey(r, item.ComponentKey) }

func blockKey(r *http.Request) (item.Key, error) { return namedKey(r, item.BlockKey) }

// handler is a handler that leaves its errors to be answered in one place. It
// must not have written anything when it returns one.
type handler func(http.ResponseWriter, *http.Request) error

func (s *server) handle(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			s.writeProblem(w, r, err)
		}
	}
}

func (s *server) noRoute(_ http.ResponseWriter, r *http.Request) error {
	if r.URL.Path == "/v1/items/" {
		_, err := item.ParseKey("") // chi has no empty parameters
		return err
	}
	return &apiError{codeNotFound, "there is no such route"}
}
