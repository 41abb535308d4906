//go:build defect_stale

package readcache

// refilledByOvertaken lets a load fill the cache after a write has overtaken it.
const refilledByOvertaken = true
