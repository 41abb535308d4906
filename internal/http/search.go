package http

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/search"
	"github.com/stockroom/stockroom/internal/store"
)

const (
	defaultSearchLimit = 20
	maxSearchLimit     = 100
)

// headerSearchIncomplete is on answers that may lack items which have just been written.
const headerSearchIncomplete = "Stockroom-Search-Incomplete"

func (s *server) search(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "q", "framework", "kind", "category", "limit", "cursor")
	if err != nil {
		return err
	}
	ask, scope, err := searchParams(values)
	if err != nil {
		return err
	}
	found, err := s.store.Search(r.Context(), ask)
	if err != nil {
		return err
	}
	results := SearchResults{Results: make([]SearchResult, len(found.List))}
	for i, f := range found.List {
		results.Results[i] = SearchResult{
			Key: f.Key.String(), Kind: Kind(f.Key.Kind()), Framework: f.Key.Framework(), Name: f.Key.Name(),
			Score: f.Score, Snippet: f.Snippet,
		}
	}
	if found.More {
		results.NextCursor = newCursor(scope, formatPlace(found.List[len(found.List)-1].Place))
	}
	if found.Incomplete {
		w.Header().Set(headerSearchIncomplete, "true")
	}
	return s.writeJSON(w, http.StatusOK, results)
}

// searchParams returns what a request looks for, and the scope of its cursors.
func searchParams(values url.Values) (ask store.Search, scope string, err error) {
	if !values.Has("q") {
		return ask, "", &apiError{codeInvalidParameter, "the parameter q is missing"}
	}
	if ask.Query, err = search.ParseQuery(values.Get("q")); err != nil {
		return ask, "", err
	}
	if ask.Framework, err = frameworkParam(values); err != nil {
		return ask, "", err
	}
	if values.Has("kind") {
		kind := values.Get("kind")
		if kind != string(item.KindComponent) && kind != string(item.KindBlock) {
			return ask, "", &apiError{codeInvalidParameter, "kind must be component or block; entries are not searched"}
		}
		ask.Kind = &kind
	}
	if ask.Category, err = categoryParam(values); err != nil {
		return ask, "", err
	}
	if ask.Limit, err = limitParam(values, defaultSearchLimit, maxSearchLimit); err != nil {
		return ask, "", err
	}
	scope = fmt.Sprintf("search:%q:%q:%q:%q", values["q"], values["framework"], values["kind"], values["category"])
	if values.Has("cursor") {
		after, err := parseCursor(scope, values.Get("cursor"))
		if err != nil {
			return ask, "", err
		}
		place, err := parsePlace(after)
		if err != nil {
			return ask, "", errCursor
		}
		ask.After = &place
	}
	return ask, scope, nil
}

// frameworkParam returns the parameter framework, or nil where there is none.
func frameworkParam(values url.Values) (*string, error) {
	if !values.Has("framework") {
		return nil, nil
	}
	framework := values.Get("framework")
	if err := item.CheckFramework(framework); err != nil {
		detail := "the framework is invalid"
		if fault, ok := errors.AsType[*item.Fault](err); ok {
			detail = fault.Detail
		}
		return nil, &apiError{codeInvalidParameter, detail}
	}
	return &framework, nil
}

// formatPlace writes a place so that parsePlace reads the very same.
func formatPlace(p store.Place) string {
	return fmt.Sprintf("%x %t %s", math.Float64bits(p.Score), p.Brief, p.Key)
}

func parsePlace(text string) (p store.Place, err error) {
	score, rest, _ := strings.Cut(text, " ")
	brief, key, _ := strings.Cut(rest, " ")
	bits, err := strconv.ParseUint(score, 16, 64)
	if err != nil {
		return p, err
	}
	if p.Brief, err = strconv.ParseBool(brief); err != nil {
		return p, err
	}
	p.Score, p.Key = math.Float64frombits(bits), key
	if _, err := item.ParseKey(key); err != nil {
		return p, err
	}
	return p, nil
}
