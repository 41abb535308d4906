package telemetry

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const docs = "../../docs"

// exposed returns the metrics that /metrics shows once everything has happened, each
// with the labels that it has.
func exposed(t *testing.T) map[string]map[string]bool {
	t.Helper()
	tel, err := Setup(t.Context(), Options{Getenv: func(string) string { return "" }})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tel.Shutdown(context.Background())) })
	m, ctx := tel.Metrics, t.Context()
	m.RequestDone(ctx, Request{Method: http.MethodGet, Scheme: "http", Route: "/v1/items", Status: http.StatusServiceUnavailable, Duration: time.Second})
	m.Evicted(ctx, "component", 1)
	m.Expired(ctx, "component", 1)
	m.SlotWaited(ctx, time.Second)
	m.TransactionRetried(ctx, "40001")
	m.BreakerChanged(ctx, "open")
	m.NoticeDistrusted(ctx, "gap")
	reads := map[string]int64{"component": 1}
	m.ObserveCache(func() CacheState { return CacheState{Hits: reads, Misses: reads} })
	m.ObserveNotices(func() NoticeState { return NoticeState{} })
	m.ObserveGate(func() GateState { return GateState{} })
	m.ObserveBreaker(func() string { return "open" })
	m.ObserveUsage(func() (Usage, bool) { return Usage{Kinds: map[string]KindUsage{"component": {}}}, true })
	m.ObservePool(func() PoolState { return PoolState{} })
	m.ObserveConnections(func() map[string]int { return map[string]int{"http": 1} })

	w := httptest.NewRecorder()
	tel.MetricsHandler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", http.NoBody))
	require.Equal(t, http.StatusOK, w.Code)
	found := map[string]map[string]bool{"up": {}} // Prometheus's own
	for line := range strings.Lines(w.Body.String()) {
		series := regexp.MustCompile(`^([a-z]\w*)(?:\{(.*)\})? `).FindStringSubmatch(line)
		if series == nil {
			continue
		}
		if found[series[1]] == nil {
			found[series[1]] = map[string]bool{}
		}
		for _, label := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(series[2], -1) {
			found[series[1]][label[1]] = true
		}
	}
	return found
}

// query is an expression of PromQL and where it stands.
type query struct{ where, expr string }

// queries returns those of the dashboard and the alerts.
func queries(t *testing.T) (all []query) {
	t.Helper()
	var dashboard struct {
		Title  string
		Panels []struct {
			Title, Description string
			Targets            []struct{ Expr string }
		}
	}
	text, err := os.ReadFile(filepath.Join(docs, "monitoring/dashboard.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &dashboard))
	require.Equal(t, "Stockroom", dashboard.Title)
	for _, panel := range dashboard.Panels {
		require.NotEmpty(t, panel.Description, panel.Title)
		require.NotEmpty(t, panel.Targets, panel.Title)
		for _, target := range panel.Targets {
			all = append(all, query{panel.Title, target.Expr})
		}
	}

	var alerts struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	text, err = os.ReadFile(filepath.Join(docs, "monitoring/alerts.yaml"))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, &alerts))
	operations, err := os.ReadFile(filepath.Join(docs, "operations.md"))
	require.NoError(t, err)
	for _, rule := range alerts.Groups[0].Rules {
		require.NotEmpty(t, rule.Labels["severity"], rule.Alert)
		require.NotEmpty(t, rule.Annotations["summary"], rule.Alert)
		require.NotEmpty(t, rule.Annotations["description"], rule.Alert)
		_, err := time.ParseDuration(rule.For)
		require.NoError(t, err, rule.Alert)
		require.Contains(t, string(operations), "| `"+rule.Alert+"` |", "docs/operations.md says what each alert means")
		all = append(all, query{rule.Alert, rule.Expr})
	}
	return all
}

var (
	selector = regexp.MustCompile(`([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}`)
	matcher  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`)
	grouping = regexp.MustCompile(`\bby \(([^)]*)\)`)
)

// TestMonitoringNamesWhatIsThere holds the metrics and labels of the dashboard and of
// the alerts against those that there are.
func TestMonitoringNamesWhatIsThere(t *testing.T) {
	t.Parallel()
	metrics := exposed(t)
	all := queries(t)
	require.Greater(t, len(all), 30, "not all queries are read")
	for _, q := range all {
		of := map[string]bool{"job": true, "instance": true, "le": true} // Prometheus's own
		for _, use := range selector.FindAllStringSubmatch(q.expr, -1) {
			require.Contains(t, metrics, use[1], q.where)
			for label := range metrics[use[1]] {
				of[label] = true
			}
			for _, label := range matcher.FindAllStringSubmatch(use[2], -1) {
				require.True(t, metrics[use[1]][label[1]] || label[1] == "job" || label[1] == "instance", "%s: %s has no label %s", q.where, use[1], label[1])
			}
		}
		require.Greater(t, len(of), 2, "%s has no metric: %s", q.where, q.expr)
		for _, labels := range grouping.FindAllStringSubmatch(q.expr, -1) {
			for label := range strings.SplitSeq(labels[1], ",") {
				require.True(t, of[strings.TrimSpace(label)], "%s: no metric has the label %s", q.where, label)
			}
		}
	}
}

// TestDocsNameMetricsThatExist does so for the pages in docs.
func TestDocsNameMetricsThatExist(t *testing.T) {
	t.Parallel()
	metrics := exposed(t)
	pages, err := filepath.Glob(filepath.Join(docs, "*.md"))
	require.NoError(t, err)
	named := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, name := range regexp.MustCompile("`((?:stockroom|http_server|db_client|process|go)_[a-z_]+)").FindAllStringSubmatch(string(text), -1) {
			require.Contains(t, metrics, name[1], page)
			named++
		}
	}
	require.NotZero(t, named)
}
