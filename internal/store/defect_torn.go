//go:build defect_torn

package store

// tornBatches writes the items of a batch in two transactions.
const tornBatches = true
