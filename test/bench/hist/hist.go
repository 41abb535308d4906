// Package hist counts durations in buckets whose width grows with the duration, so
// that millions of them take little memory and any quantile is right to 1.6 %.
package hist

import (
	"math"
	"math/bits"
	"time"
)

// subBits is the number of bits of a duration that a bucket tells apart.
const subBits = 6

// buckets is how many there are for durations of 63 bits.
const buckets = (64 - subBits) << subBits

// Histogram counts durations. The zero value is an empty one. It is not safe for
// concurrent use: each goroutine has its own, and Add brings them together.
type Histogram struct {
	counts [buckets]uint64
	total  uint64
	max    time.Duration
}

// Record counts one duration; a negative one counts as 0.
func (h *Histogram) Record(d time.Duration) {
	d = max(d, 0)
	h.counts[bucketOf(uint64(d))]++
	h.total++
	h.max = max(h.max, d)
}

// Add counts all that other has counted.
func (h *Histogram) Add(other *Histogram) {
	for i, n := range &other.counts {
		h.counts[i] += n
	}
	h.total += other.total
	h.max = max(h.max, other.max)
}

// Count returns how many durations were counted.
func (h *Histogram) Count() uint64 { return h.total }

// Max returns the longest of them, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Quantile returns the duration that the share q of all does not exceed, q being
// from 0 to 1; 0 where nothing was counted.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := min(max(uint64(math.Ceil(q*float64(h.total))), 1), h.total)
	var seen uint64
	for i, n := range &h.counts {
		if seen += n; seen >= rank {
			return min(upperBound(i), h.max)
		}
	}
	return h.max
}

// bucketOf returns the bucket of v: one for each value below 2^subBits, and above it
// 2^(subBits-1) for each doubling.
func bucketOf(v uint64) int {
	shift := max(bits.Len64(v)-subBits, 0)
	return shift<<(subBits-1) + int(v>>shift) //nolint:gosec // below buckets
}

// upperBound returns the largest value of a bucket.
func upperBound(bucket int) time.Duration {
	shift := max(bucket>>(subBits-1)-1, 0)
	v := uint64(bucket - shift<<(subBits-1)) //nolint:gosec // not negative
	return time.Duration((v+1)<<shift - 1)   //nolint:gosec // bucketOf takes no more
}
