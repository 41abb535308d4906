//go:build !defect_stale

package readcache

// refilledByOvertaken is a defect that the soak test must find; see
// docs/reliability.md.
const refilledByOvertaken = false
