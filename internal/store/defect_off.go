//go:build !defect_torn

package store

// tornBatches is a defect that the soak test must find; see docs/reliability.md.
const tornBatches = false
