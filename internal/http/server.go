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
	"github.com/go-chi/httprate"

	"github.com/stockroom/stockroom/internal/auth"
	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/store"
	"github.com/stockroom/stockroom/internal/telemetry"
)

// Config bounds what a request may ask for.
type Config struct {
	MaxBodyBytes   int64         // bytes of a request's body
	MaxBatch       int           // keys of a batch
	RequestTimeout time.Duration // from a request's headers to its answer
	RateLimit      int           // requests per second and client; 0: no limit
	// OwnNamesOnly refuses browsers' requests for a host that is not this machine's
	// loopback.
	OwnNamesOnly bool
}

// Dependencies are what the handlers work with. All are needed but those that
// say otherwise.
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
	// State returns what /v1/stats shows besides the store; nil shows nothing.
	State func() State
	// Keys are the API keys; nil lets everybody do everything.
	Keys *auth.Keyring
	// Metrics counts requests; nil counts nothing.
	Metrics *telemetry.Metrics
	// MetricsHandler answers /metrics; nil answers that there is nothing.
	MetricsHandler http.Handler
}

type server struct {
	config Config
	Dependencies
	store   *store.Store
	log     *slog.Logger
	limiter *httprate.RateLimiter // nil: no limit

	crossOrigin http.CrossOriginProtection
	router      chi.Router
}

// registryPath is where errors look as the shadcn CLI wants them.
const registryPath = "/r/"

// New returns the handler of the whole interface.
func New(config Config, deps Dependencies) http.Handler {
	s := newServer(config, deps)
	return s.observe(s.router)
}

func newServer(config Config, deps Dependencies) *server {
	if deps.Metrics == nil {
		deps.Metrics = telemetry.NoMetrics()
	}
	if deps.State == nil {
		deps.State = func() State { return State{Breaker: BreakerStateClosed} }
	}
	if deps.MetricsHandler == nil {
		deps.MetricsHandler = http.NotFoundHandler()
	}
	s := &server{config: config, Dependencies: deps, store: deps.Store, log: deps.Log, router: chi.NewRouter()}
	if config.RateLimit > 0 {
		s.limiter = httprate.NewRateLimiter(config.RateLimit, time.Second)
	}
	s.router.NotFound(s.handle(s.noRoute))
	s.router.MethodNotAllowed(s.handle(methodNotAllowed(s.router)))

	s.open("/livez", s.livez)
	s.open("/readyz", s.readyz)
	s.open("/openapi.yaml", s.contract)
	s.open("/docs", s.docs)
	s.open("/docs/{asset}", s.docsFile)
	s.router.Method(http.MethodGet, "/metrics", deps.MetricsHandler)

	s.route(auth.Read, http.MethodGet, "/v1/items", s.listKeys)
	s.route(auth.Admin, http.MethodDelete, "/v1/items", s.clearItems)
	s.itemRoutes("/v1/items/{key}", itemKey)
	s.route(auth.Read, http.MethodGet, "/v1/items/{key}/metadata", s.getItemMetadata)
	s.route(auth.Write, http.MethodPost, "/v1/items/{key}/touch", s.touchItem)
	s.route(auth.Read, http.MethodPost, "/v1/mget", s.mget)
	s.route(auth.Write, http.MethodPost, "/v1/mset", s.mset)
	s.route(auth.Write, http.MethodPost, "/v1/mdelete", s.mdelete)
	s.route(auth.Write, http.MethodPost, "/v1/transactions", s.transact)
	s.itemRoutes("/v1/components/{framework}/{name}", componentKey)
	s.route(auth.Read, http.MethodGet, "/v1/components/{framework}", s.listComponents)
	s.itemRoutes("/v1/blocks/{framework}/{name}", blockKey)
	s.route(auth.Read, http.MethodGet, "/v1/blocks/{framework}", s.listBlocks)
	s.route(auth.Read, http.MethodGet, "/v1/frameworks", s.listFrameworks)
	s.route(auth.Read, http.MethodGet, "/v1/search", s.search)
	s.route(auth.Admin, http.MethodGet, "/v1/stats", s.getStats)
	s.route(auth.Admin, http.MethodPost, "/v1/maintenance", s.maintain)
	s.route(auth.Read, http.MethodGet, registryPath+"{framework}/registry.json", s.getCatalogue)
	s.route(auth.Read, http.MethodGet, registryPath+"{framework}/{file}", s.getRegistryItem)
	s.route(auth.Write, http.MethodPut, registryPath+"{framework}/{file}", s.putRegistryItem)
	// What the CLI asks where REGISTRY_URL is /r/{framework}.
	s.route(auth.Read, http.MethodGet, registryPath+"{framework}/styles/{style}/registry.json", s.getCatalogue)
	s.route(auth.Read, http.MethodGet, registryPath+"{framework}/styles/{style}/{file}", s.getRegistryItem)
	return s
}

// open registers a GET that anybody may send at any time.
func (s *server) open(pattern string, h handler) {
	s.router.Method(http.MethodGet, pattern, s.handle(h))
}

// route registers a route that needs data, and a key with scope.
func (s *server) route(scope auth.Scopes, method, pattern string, h handler) {
	s.router.Method(method, pattern, s.handle(s.guarded(scope, h)))
}

// itemRoutes registers the routes of one item, whose key keyOf takes from the path.
func (s *server) itemRoutes(pattern string, keyOf keyFunc) {
	s.route(auth.Read, http.MethodGet, pattern, s.getItem(keyOf))
	s.route(auth.Read, http.MethodHead, pattern, s.headItem(keyOf))
	s.route(auth.Write, http.MethodPut, pattern, s.putItem(keyOf))
	s.route(auth.Write, http.MethodDelete, pattern, s.deleteItem(keyOf))
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

func (s *server) noRoute(w http.ResponseWriter, r *http.Request) error {
	switch r.URL.Path {
	case "/v1/items/":
		_, err := item.ParseKey("") // chi has no empty parameters
		return err
	case "/docs/":
		// As people type it. The page's links are relative to where it is.
		http.Redirect(w, r, "../docs", http.StatusPermanentRedirect)
		return nil
	}
	return errNoRoute
}

var errNoRoute = &apiError{codeNotFound, "there is no such route"}
