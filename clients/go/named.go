package stockroom

import (
	"context"
	"encoding/json"
	"iter"

	"github.com/stockroom/stockroom/clients/go/api"
)

func checkNames(framework, name string) error {
	if err := checkName("framework", framework); err != nil {
		return err
	}
	return checkName("name", name)
}

// GetComponent reads a component. One that there is not is [ErrNotFound].
func (c *Client) GetComponent(ctx context.Context, framework, name string, options ...ReadOption) (*Stored[Component], error) {
	if err := checkNames(framework, name); err != nil {
		return nil, err
	}
	p := readParamsOf(options)
	return stored[Component](c.api.GetComponent(ctx, framework, name, &api.GetComponentParams{CacheControl: p.cacheControl, IfNoneMatch: p.ifNoneMatch}))
}

// HasComponent tells whether there is a component.
func (c *Client) HasComponent(ctx context.Context, framework, name string) (bool, error) {
	if err := checkNames(framework, name); err != nil {
		return false, err
	}
	return exists(c.api.HeadComponent(ctx, framework, name, nil))
}

// SetComponent puts a component; its Framework and Name may be left out.
func (c *Client) SetComponent(ctx context.Context, framework, name string, component *Component, options ...WriteOption) (*Written, error) {
	if err := checkNames(framework, name); err != nil {
		return nil, err
	}
	p, content, err := toWrite(component, options)
	if err != nil {
		return nil, err
	}
	params := &api.PutComponentParams{TTL: p.ttl, IfMatch: p.ifMatch, IfNoneMatch: p.ifNoneMatch}
	return written(c.api.PutComponentWithBody(ctx, framework, name, params, contentType, content))
}

// DeleteComponent deletes a component. One that there is not is [ErrNotFound].
func (c *Client) DeleteComponent(ctx context.Context, framework, name string) error {
	if err := checkNames(framework, name); err != nil {
		return err
	}
	_, err := c.api.DeleteComponent(ctx, framework, name, nil)
	return err
}

// Components lists a framework's components in the order of their names, page by
// page. After an error nothing follows.
func (c *Client) Components(ctx context.Context, framework string) iter.Seq2[ComponentSummary, error] {
	return pages(func(cursor *string) ([]ComponentSummary, string, error) {
		if err := checkName("framework", framework); err != nil {
			return nil, "", err
		}
		list, err := decode[api.ComponentList](c.api.ListComponents(ctx, framework, &api.ListComponentsParams{Limit: new(pageLimit), Cursor: cursor}))
		return list.Items, list.NextCursor, err
	})
}

// GetBlock reads a block. One that there is not is [ErrNotFound].
func (c *Client) GetBlock(ctx context.Context, framework, name string, options ...ReadOption) (*Stored[Block], error) {
	if err := checkNames(framework, name); err != nil {
		return nil, err
	}
	p := readParamsOf(options)
	return stored[Block](c.api.GetBlock(ctx, framework, name, &api.GetBlockParams{CacheControl: p.cacheControl, IfNoneMatch: p.ifNoneMatch}))
}

// HasBlock tells whether there is a block.
func (c *Client) HasBlock(ctx context.Context, framework, name string) (bool, error) {
	if err := checkNames(framework, name); err != nil {
		return false, err
	}
	return exists(c.api.HeadBlock(ctx, framework, name, nil))
}

// SetBlock puts a block; its Framework and Name may be left out.
func (c *Client) SetBlock(ctx context.Context, framework, name string, block *Block, options ...WriteOption) (*Written, error) {
	if err := checkNames(framework, name); err != nil {
		return nil, err
	}
	p, content, err := toWrite(block, options)
	if err != nil {
		return nil, err
	}
	params := &api.PutBlockParams{TTL: p.ttl, IfMatch: p.ifMatch, IfNoneMatch: p.ifNoneMatch}
	return written(c.api.PutBlockWithBody(ctx, framework, name, params, contentType, content))
}

// DeleteBlock deletes a block. One that there is not is [ErrNotFound].
func (c *Client) DeleteBlock(ctx context.Context, framework, name string) error {
	if err := checkNames(framework, name); err != nil {
		return err
	}
	_, err := c.api.DeleteBlock(ctx, framework, name, nil)
	return err
}

// Blocks lists a framework's blocks in the order of their names, page by page: those
// of a category, or with "" all. After an error nothing follows.
func (c *Client) Blocks(ctx context.Context, framework, category string) iter.Seq2[BlockSummary, error] {
	return pages(func(cursor *string) ([]BlockSummary, string, error) {
		if err := checkName("framework", framework); err != nil {
			return nil, "", err
		}
		params := &api.ListBlocksParams{Limit: new(pageLimit), Cursor: cursor, Category: notEmpty(category)}
		list, err := decode[api.BlockList](c.api.ListBlocks(ctx, framework, params))
		return list.Items, list.NextCursor, err
	})
}

// GetRegistryItem reads a component or block as a shadcn registry item.
func (c *Client) GetRegistryItem(ctx context.Context, framework, name string, options ...ReadOption) (*Stored[json.RawMessage], error) {
	if err := checkNames(framework, name); err != nil {
		return nil, err
	}
	p := readParamsOf(options)
	return stored[json.RawMessage](c.api.GetRegistryItem(ctx, framework, name, &api.GetRegistryItemParams{CacheControl: p.cacheControl, IfNoneMatch: p.ifNoneMatch}))
}

// PutRegistryItem publishes a shadcn registry item: anything that is its JSON. Where
// an item of the other kind has the name, the error is [ErrConflict].
func (c *Client) PutRegistryItem(ctx context.Context, framework, name string, item any, conditions ...Condition) (*Written, error) {
	if err := checkNames(framework, name); err != nil {
		return nil, err
	}
	p, content, err := toWrite(item, conditions)
	if err != nil {
		return nil, err
	}
	params := &api.PutRegistryItemParams{IfMatch: p.ifMatch, IfNoneMatch: p.ifNoneMatch}
	return written(c.api.PutRegistryItemWithBody(ctx, framework, name, params, contentType, content))
}
