package http

import (
	"net/http"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/stockroom/stockroom/internal/buildinfo"
	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/store"
)

// State is what the service is doing now, as far as the store does not know it.
type State struct {
	Breaker     BreakerState
	Queue       QueueStats
	Pool        PoolStats
	Connections ConnectionStats
	Uptime      time.Duration
}

func (s *server) getStats(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	stats, err := s.store.Stats(r.Context())
	if err != nil {
		return err
	}
	state := s.State()
	w.Header().Set("Cache-Control", "no-store")
	return s.writeJSON(w, http.StatusOK, Stats{
		SizeBytes:          totals(stats.Usage.Bytes),
		Items:              totals(stats.Usage.Items),
		Limit:              stats.LimitBytes,
		Hits:               stats.Hits,
		Misses:             stats.Misses,
		HitRatio:           hitRatio(stats),
		Evictions:          stats.Evictions,
		Expirations:        stats.Expirations,
		BreakerState:       state.Breaker,
		Queue:              state.Queue,
		Pool:               state.Pool,
		TrackedConnections: state.Connections,
		Uptime:             int64(state.Uptime / time.Second),
		Version:            buildinfo.String(),
	})
}

func totals(c item.Counts) KindTotals {
	return KindTotals{Total: c.Total(), Components: c.Components, Blocks: c.Blocks, Entries: c.Entries}
}

func hitRatio(stats store.Stats) float64 {
	reads := stats.Hits + stats.Misses
	if reads == 0 {
		return 0
	}
	return float64(stats.Hits) / float64(reads)
}

func (s *server) maintain(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	body, err := s.readBody(w, r)
	if err != nil {
		return err
	}
	ask, err := parseMaintenance(body)
	if err != nil {
		return err
	}
	done, err := s.store.Maintain(r.Context(), ask)
	if err != nil {
		return err
	}
	return s.writeJSON(w, http.StatusOK, MaintenanceResult{
		Expired: done.Expired, Evicted: done.Evicted,
		SizeBytes: done.Usage.Bytes.Total(), Items: done.Usage.Items.Total(),
	})
}

// parseMaintenance reads MaintenanceRequest; no body at all is as good as an
// empty object.
func parseMaintenance(body []byte) (ask store.Maintenance, err error) {
	if len(body) == 0 {
		return ask, nil
	}
	read := func(dec *jsontext.Decoder) (*int64, error) {
		n, err := item.ReadInteger(dec, item.MaxSizeClaim, item.CodeInvalidValue)
		return &n, err
	}
	err = item.Decode(body, func(dec *jsontext.Decoder) error {
		return item.ReadObject(dec, func(name string) (err error) {
			switch name {
			case "evictItems":
				ask.EvictItems, err = read(dec)
			case "targetBytes":
				ask.TargetBytes, err = read(dec)
			default:
				err = item.UnknownField(dec, name)
			}
			return err
		})
	})
	if err == nil && ask.EvictItems != nil && ask.TargetBytes != nil {
		err = &item.Fault{Code: item.CodeInvalidValue, Detail: "evictItems and targetBytes exclude each other"}
	}
	return ask, err
}
