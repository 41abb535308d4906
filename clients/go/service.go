package stockroom

import (
	"context"

	"github.com/stockroom/stockroom/clients/go/api"
)

// Frameworks returns what each framework holds, in the order of their names.
func (c *Client) Frameworks(ctx context.Context) ([]FrameworkUsage, error) {
	list, err := decode[api.FrameworkList](c.api.ListFrameworks(ctx, nil))
	return list.Frameworks, err
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
