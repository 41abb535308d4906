// Package registry translates between the registry items of the shadcn CLI and
// the components and blocks that Stockroom stores.
//
// A `registry:block` is a block, every other type is a component. Fields that a
// column holds (source, description, dependencies, …) stand there, where every
// other reader of the store looks for them; the rest rides along in the
// component's metadata or the block's structure, under the member registryItem.
// Where the two disagree, because the column was changed through another door,
// the column is right.
package registry
