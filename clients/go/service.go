package stockroom

import (
	"context"
	"iter"

	"github.com/stockroom/stockroom/clients/go/api"
)

// Frameworks returns what each framework holds, in the order of their names.
func (c *Client) Frameworks(ctx context.Context) ([]FrameworkUsage, error) {
	list, err := decode[api.FrameworkList](c.api.ListFrameworks(ctx, nil))
	return list.Frameworks, err
}

// SearchFilter restricts what a search finds; what is "" restricts nothing.
type SearchFilter struct {
	Kind      string // component or block
	Framework string
	Category  string
}

// searchLimit is the most results that the service gives at once.
const searchLimit = 100

// Search finds components and blocks by words, "words in a row", -word and or: the best
// first, page by page. After an error nothing follows.
func (c *Client) Search(ctx context.Context, query string, filter SearchFilter) iter.Seq2[SearchResult, error] {
	return pages(func(cursor *string) ([]SearchResult, string, error) {
		params := &api.SearchParams{
			Q: query, Kind: (*api.SearchParamsKind)(notEmpty(filter.Kind)), Framework: notEmpty(filter.Framework),
			Category: notEmpty(filter.Category), Limit: new(searchLimit), Cursor: cursor,
		}
		found, err := decode[api.SearchResults](c.api.Search(ctx, params))
		return found.Results, found.NextCursor, err
	})
}

// Stats returns the service's usage and state. It needs the scope admin.
func (c *Client) Stats(ctx context.Context) (Stats, error) {
	return decode[Stats](c.api.GetStats(ctx, nil))
}

// Maintain sweeps what has expired, then evicts as request says. It needs the scope
// admin.
func (c *Client) Maintain(ctx context.Context, request MaintenanceRequest) (MaintenanceResult, error) {
	return decode[MaintenanceResult](c.api.Maintain(ctx, nil, request))
}

// Ready returns nil where the service takes requests, and else why not.
func (c *Client) Ready(ctx context.Context) error {
	_, err := c.api.Readyz(ctx, nil)
	return err
}
