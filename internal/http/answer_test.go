package http_test

import (
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	stockhttp "github.com/stockroom/stockroom/internal/http"
	"github.com/stockroom/stockroom/internal/item"
)

func TestHTTPDate(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("", 5*60*60+30*60)
	for range 1000 {
		moment := time.Unix(rand.Int64N(253_402_300_800), rand.Int64N(1e9)).In(zone) // any up to the year 9999
		require.Equal(t, moment.UTC().Format(http.TimeFormat), string(stockhttp.AppendHTTPDate(nil, moment)))
	}
	require.Equal(t, "Sun, 06 Nov 1994 08:49:37 GMT", string(stockhttp.AppendHTTPDate(nil, time.Unix(784111777, 0))), "the one of RFC 9110")
}

func TestMetadataIsWrittenAsEncoded(t *testing.T) {
	t.Parallel()
	moment := time.Date(2026, 11, 20, 16, 4, 11, 482_900_000, time.UTC)
	for _, text := range []string{"component:react:button", "block:vue:login", `any "text" \ <b>&é🎉`} {
		key, err := item.ParseKey(text)
		require.NoError(t, err)
		m := item.Metadata{
			Key: key, Bytes: 1824, Created: moment, Updated: moment.Add(time.Second), Accessed: moment.Truncate(time.Second),
			AccessCount: 7, ETag: "abc", Version: 3,
		}
		for range 2 {
			want, err := stockhttp.EncodeMetadata(m)
			require.NoError(t, err)
			require.Equal(t, string(want), string(stockhttp.AppendMetadata([]byte("before"), m))[len("before"):])
			m.TTL, m.Remaining, m.Expires = 3600, 90*time.Second+1, moment.Add(time.Hour)
		}
	}
}
