// Package item defines what Stockroom stores: keys, kinds, values, their
// charged size and their ETag, and the faults that a request can have.
//
// It is the bottom floor: it knows neither HTTP nor SQL and imports nothing of
// ours, so that every other package can speak its terms.
package item
