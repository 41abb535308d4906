package item

import (
	"fmt"
	"strconv"
)

// TTL is how long an item lives after a write or touch, in whole seconds;
// 0 means that it never expires.
type TTL int64

// MaxTTL is the longest time to live: a hundred years of 365.25 days.
const MaxTTL TTL = 100 * 365.25 * 24 * 60 * 60

// ParseTTL reads a TTL as it stands in a query. Its error is a *Fault with
// CodeInvalidTTL.
func ParseTTL(text string) (TTL, error) {
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil || TTL(n) > MaxTTL {
		return 0, &Fault{
			Code:   CodeInvalidTTL,
			Detail: fmt.Sprintf("ttl must be whole seconds in 0 … %d, 0 meaning never", MaxTTL),
		}
	}
	return TTL(n), nil
}
