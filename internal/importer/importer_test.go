package importer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is the part of Stockroom that an import meets, with a way to make it
// refuse: what is hard to get from a real server on demand.
type server struct {
	*httptest.Server

	refuse func(method, path string, keys []string) *problem // nil: carry it out

	mu       sync.Mutex
	items    map[string]json.RawMessage
	requests []string // method and path
}

type problem struct {
	Status     int             `json:"status"`
	Code       string          `json:"code"`
	Detail     string          `json:"detail"`
	Errors     []refusalDetail `json:"errors,omitempty"`
	retryAfter string
}

func newServer(t *testing.T, refuse func(method, path string, keys []string) *problem) *server {
	t.Helper()
	s := &server{refuse: refuse, items: map[string]json.RawMessage{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Keys    []string                   `json:"keys"`
		Entries map[string]json.RawMessage `json:"entries"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+r.URL.EscapedPath())
	s.mu.Unlock()
	keys := slices.Concat(body.Keys, slices.Sorted(maps.Keys(body.Entries)))
	if s.refuse != nil {
		if p := s.refuse(r.Method, r.URL.Path, keys); p != nil {
			w.Header().Set("Content-Type", "application/problem+json")
			if p.retryAfter != "" {
				w.Header().Set("Retry-After", p.retryAfter)
			}
			w.WriteHeader(p.Status)
			writeJSON(w, p)
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := map[string]any{"stored": len(body.Entries)}
	if r.URL.Path == "/v1/mget" {
		found := map[string]json.RawMessage{}
		for _, key := range keys {
			if value, ok := s.items[key]; ok {
				found[key] = value
			}
		}
		answer = map[string]any{"items": found}
	}
	maps.Copy(s.items, body.Entries)
	writeJSON(w, answer)
}

func writeJSON(w io.Writer, value any) {
	if err := json.NewEncoder(w).Encode(value); err != nil {
		panic(err)
	}
}

func (s *server) count(request string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.requests {
		if r == request {
			n++
		}
	}
	return n
}

// folder writes files, by their names, into a folder of the test's own.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return root
}

// component is a registry item whose only file has its name for content.
func component(name, itemType string) string {
	return fmt.Sprintf(`{"name":%q,"type":%q,"files":[{"path":"a.tsx","content":%q,"type":"registry:ui"}]}`, name, itemType, name)
}

// components are n files, c000.json and so on.
func components(n int) map[string]string {
	files := map[string]string{}
	for i := range n {
		name := fmt.Sprintf("c%03d", i)
		files[name+".json"] = component(name, "registry:ui")
	}
	return files
}

func options(s *server, path string) Options {
	return Options{Server: s.URL + "/", Framework: "react", Path: path, Batch: 10, Parallel: 3, Timeout: time.Minute}
}

func imports(t *testing.T, o Options) Report {
	t.Helper()
	report, err := Run(t.Context(), o)
	require.NoError(t, err)
	return report
}

// reasons are the failures of a report, by the files' names.
func reasons(r Report) map[string]string {
	all := map[string]string{}
	for _, failure := range r.Failures {
		all[filepath.Base(failure.Path)] = failure.Reason.Error()
	}
	return all
}

func TestRunImportsWhatDiffers(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	path := folder(t, components(25))

	dry := options(s, path)
	dry.DryRun = true
	report := imports(t, dry)
	require.Equal(t, 25, report.Imported)
	require.Empty(t, s.items)
	require.Equal(t, "would add component:react:c000 ("+filepath.Join(path, "c000.json")+")", report.Planned[0])

	report = imports(t, options(s, path))
	require.Equal(t, Report{Imported: 25}, report)
	require.Len(t, s.items, 25)
	require.Equal(t, 3, s.count("POST /v1/mset"))

	s.items["component:react:c001"] = json.RawMessage(`{"sourceCode":"changed"}`)
	// Not the same bytes, but the same JSON.
	var members map[string]any
	require.NoError(t, json.Unmarshal(s.items["component:react:c002"], &members))
	reordered, err := json.MarshalIndent(members, "", "  ")
	require.NoError(t, err)
	s.items["component:react:c002"] = reordered
	report = imports(t, dry)
	require.Equal(t, []string{"would replace component:react:c001 (" + filepath.Join(path, "c001.json") + ")"}, report.Planned)
	require.Equal(t, Report{Imported: 1, Unchanged: 24}, imports(t, options(s, path)))
	require.Equal(t, Report{Unchanged: 25}, imports(t, options(s, path)))
}

func TestRunOfOneFile(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	path := folder(t, components(2))
	require.Equal(t, Report{Imported: 1}, imports(t, options(s, filepath.Join(path, "c001.json"))))
	require.Len(t, s.items, 1)
}

func TestRunFailsSingleFiles(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	s.items["block:react:a-block"] = json.RawMessage(`{"files":[]}`)
	s.items["component:react:a-component"] = json.RawMessage(`{"sourceCode":""}`)
	report := imports(t, options(s, folder(t, map[string]string{
		"good.json":              "\ufeff" + component("good", "registry:ui"),
		"below/more/good2.json":  component("good2", "registry:block"),
		".hidden/skipped.json":   "{",
		"package.txt":            "{",
		"registry.json":          `{"name":"acme","items":[` + component("x", "registry:ui") + `]}`,
		"below/index.json":       `[` + component("x", "registry:ui") + `]`,
		"broken.json":            `{"name":`,
		"list.json":              `[]`,
		"nameless.json":          `{"type":"registry:ui"}`,
		"one.json":               component("same", "registry:ui"),
		"two.json":               component("same", "registry:hook"),
		"three.json":             component("same", "registry:block"),
		"a-block.json":           component("a-block", "registry:ui"),
		"below/a-component.json": component("a-component", "registry:block"),
	})))
	require.Equal(t, 2, report.Imported)
	require.Len(t, report.Skipped, 2)
	why := reasons(report)
	require.Len(t, why, 8)
	require.Contains(t, why["broken.json"], "malformed_json")
	require.Contains(t, why["list.json"], "wrong_type")
	require.Contains(t, why["nameless.json"], "missing_field")
	require.Contains(t, why["a-block.json"], "the server has block:react:a-block")
	require.Contains(t, why["a-component.json"], "the server has component:react:a-component")
	for name, others := range map[string][]string{
		"one.json": {"three.json (as block:react:same)", "two.json (as component:react:same)"},
		"two.json": {"one.json", "three.json"}, "three.json": {"one.json", "two.json"},
	} {
		for _, other := range others {
			require.Contains(t, why[name], other)
		}
	}
}

func TestRunAnItemNamedLikeACatalogue(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	report := imports(t, options(s, folder(t, map[string]string{"index.json": component("index", "registry:ui")})))
	require.Equal(t, Report{Imported: 1}, report)
}

func TestRunLinksDemos(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	demoOf := func(name string) any {
		var stored struct {
			DemoCode any `json:"demoCode"`
		}
		require.NoError(t, json.Unmarshal(s.items["component:react:"+name], &stored))
		return stored.DemoCode
	}
	both := folder(t, map[string]string{"a.json": component("a", "registry:ui"), "a-demo.json": component("a-demo", "registry:example")})
	alone := folder(t, map[string]string{"a.json": component("a", "registry:ui")})

	require.Equal(t, Report{Imported: 2}, imports(t, options(s, both)))
	require.Equal(t, "a-demo", demoOf("a"))
	require.Equal(t, Report{Unchanged: 2}, imports(t, options(s, both)))

	// What no file says of the demo is kept, a demo written by hand included.
	require.Equal(t, Report{Unchanged: 1}, imports(t, options(s, alone)))
	s.items["component:react:a"] = json.RawMessage(`{"sourceCode":"old","demoCode":"by hand"}`)
	require.Equal(t, Report{Imported: 1}, imports(t, options(s, alone)))
	require.Equal(t, "by hand", demoOf("a"))

	// A component that comes after its example finds it.
	delete(s.items, "component:react:a")
	require.Equal(t, Report{Imported: 1}, imports(t, options(s, alone)))
	require.Equal(t, "a-demo", demoOf("a"))
}

func TestRunPublishesADemoWhoseComponentIsElsewhere(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	path := folder(t, map[string]string{"a-demo.json": component("a-demo", "registry:example")})
	require.Equal(t, Report{Imported: 1}, imports(t, options(s, path)), "there is no component yet")
	require.Equal(t, 1, s.count("POST /v1/mset"))

	s.items["component:react:a"] = json.RawMessage(`{"sourceCode":""}`)
	dry := options(s, path)
	dry.DryRun = true
	require.Equal(t, "would replace component:react:a-demo ("+filepath.Join(path, "a-demo.json")+") and fill the demo code of component:react:a",
		imports(t, dry).Planned[0])
	require.Equal(t, Report{Imported: 1}, imports(t, options(s, path)))
	require.Equal(t, 1, s.count("PUT /r/react/a-demo.json"))

	s.items["component:react:a"] = json.RawMessage(`{"sourceCode":"","demoCode":"another"}`)
	require.Equal(t, Report{Imported: 1}, imports(t, options(s, path)))
	require.Equal(t, 2, s.count("PUT /r/react/a-demo.json"))

	s.items["component:react:a"] = json.RawMessage(`{"sourceCode":"","demoCode":"a-demo"}`)
	require.Equal(t, Report{Unchanged: 1}, imports(t, options(s, path)))
	require.Equal(t, 2, s.count("PUT /r/react/a-demo.json"))
}

func TestRunSendsTheRestOfARefusedBatch(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(_, path string, keys []string) *problem {
		p := &problem{Status: http.StatusRequestEntityTooLarge, Code: "item_too_large", Detail: "2 entries are too large"}
		for _, key := range keys {
			if path == "/v1/mset" && (key == "component:react:c003" || key == "component:react:c007") {
				p.Errors = append(p.Errors, refusalDetail{Key: key, Code: "item_too_large", Detail: "is too large"})
			}
		}
		if p.Errors == nil {
			return nil
		}
		return p
	})
	report := imports(t, options(s, folder(t, components(20))))
	require.Equal(t, 18, report.Imported)
	require.Equal(t, map[string]string{
		"c003.json": "the server refuses it: item_too_large: is too large",
		"c007.json": "the server refuses it: item_too_large: is too large",
	}, reasons(report))
	require.Len(t, s.items, 18)
	require.Equal(t, 3, s.count("POST /v1/mset"))
}

func TestRunHalvesWhatIsTooLarge(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(_, path string, keys []string) *problem {
		if len(keys) > 3 || path == "/v1/mset" && slices.Contains(keys, "component:react:c000") {
			return &problem{Status: http.StatusRequestEntityTooLarge, Code: "batch_too_large", Detail: "too much"}
		}
		return nil
	})
	report := imports(t, options(s, folder(t, components(10))))
	require.Equal(t, 9, report.Imported)
	require.Equal(t, map[string]string{"c000.json": "the server answers 413 batch_too_large: too much"}, reasons(report))
}

func TestRunFailsABatchForAnyOtherReason(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(_, path string, keys []string) *problem {
		switch {
		case path == "/v1/mset" && slices.Contains(keys, "component:react:c005"):
			return &problem{Status: http.StatusForbidden, Code: "forbidden", Detail: "no scope", Errors: []refusalDetail{{Pointer: "/ttl", Code: "x", Detail: "y"}}}
		case path == "/v1/mget" && slices.Contains(keys, "component:react:c015"):
			return &problem{Status: http.StatusInternalServerError, Code: ""}
		}
		return nil
	})
	report := imports(t, options(s, folder(t, components(25))))
	require.Equal(t, 5, report.Imported)
	why := reasons(report)
	require.Len(t, why, 20)
	require.Equal(t, "the server answers 403 forbidden: no scope; x at /ttl: y", why["c005.json"])
	require.Equal(t, "the server answers 500: 500 Internal Server Error", why["c015.json"])
	require.True(t, slices.IsSortedFunc(report.Failures, func(a, b Failure) int { return strings.Compare(a.Path, b.Path) }))

	s.Close()
	report = imports(t, options(s, folder(t, components(1))))
	require.Contains(t, reasons(report)["c000.json"], "connection refused")
}

func TestRunRefusesAServerThatIsAnother(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"<html>", "{}"} {
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
		t.Cleanup(other.Close)
		report := imports(t, options(&server{Server: other}, folder(t, components(1))))
		require.Contains(t, reasons(report)["c000.json"], "none of Stockroom's")
	}
}

func TestClientWaitsForAServerThatIsBusy(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		status     int
		code       string
		refusals   int
		retryAfter string
		waits      []time.Duration
		succeeds   bool
	}{
		{http.StatusServiceUnavailable, "commit_unknown", 2, "3", []time.Duration{3 * time.Second, 3 * time.Second}, true},
		{http.StatusTooManyRequests, "rate_limited", 1, "0", []time.Duration{0}, true},
		{http.StatusServiceUnavailable, "unavailable", 1, "3600", []time.Duration{30 * time.Second}, true},
		{http.StatusServiceUnavailable, "busy", 1, "soon", []time.Duration{time.Second}, true},
		{http.StatusServiceUnavailable, "busy", 9, "1", slices.Repeat([]time.Duration{time.Second}, 5), false},
		{http.StatusInternalServerError, "internal", 1, "1", nil, false},
	} {
		refusals := 0
		s := newServer(t, func(string, string, []string) *problem {
			if refusals == tc.refusals {
				return nil
			}
			refusals++
			return &problem{Status: tc.status, Code: tc.code, retryAfter: tc.retryAfter}
		})
		c := newClient(options(s, ""))
		var waits []time.Duration
		c.wait = func(_ context.Context, d time.Duration) error {
			waits = append(waits, d)
			return nil
		}
		found, err := c.mget(t.Context(), []string{"a"})
		c.close()
		require.Equal(t, tc.waits, waits, tc.code)
		if tc.succeeds {
			require.NoError(t, err)
			require.Equal(t, values{}, found)
		} else {
			require.ErrorContains(t, err, tc.code)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, wait(ctx, time.Hour), context.Canceled)
	require.NoError(t, wait(t.Context(), 0))
}

func TestClientSendsTheKey(t *testing.T) {
	t.Parallel()
	var seen http.Header
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header
		_, _ = w.Write([]byte(`{"items":{}}`))
	}))
	t.Cleanup(s.Close)
	c := newClient(Options{Server: s.URL, APIKey: "secret", Parallel: 1, Timeout: time.Minute})
	defer c.close()
	_, err := c.mget(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, "Bearer secret", seen.Get("Authorization"))
	require.Equal(t, "application/json", seen.Get("Content-Type"))
}

func TestClientEscapesNames(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	c := newClient(options(s, ""))
	defer c.close()
	key, err := item.ComponentKey("re act", "a/b%é")
	require.NoError(t, err)
	require.NoError(t, c.publish(t.Context(), key, []byte("{}")))
	require.Equal(t, []string{"PUT /r/re%20act/a%2Fb%25%C3%A9.json"}, s.requests)
}

func TestRunStopsWhenInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stored := 0
	s := newServer(t, func(_, path string, _ []string) *problem {
		if path != "/v1/mset" {
			return nil
		}
		if stored++; stored > 1 {
			cancel()
			return &problem{Status: http.StatusServiceUnavailable, Code: "busy", retryAfter: "3600"}
		}
		return nil
	})
	o := options(s, folder(t, components(50)))
	o.Parallel = 1
	report, err := Run(ctx, o)
	require.NoError(t, err)
	require.Equal(t, Report{Imported: 10, Interrupted: 40}, report)
	require.Equal(t, 2, s.count("POST /v1/mset"))
}

func TestRunRefusesOptionsWithoutSense(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	path := folder(t, components(1))
	for want, spoil := range map[string]func(*Options){
		"must look like":        func(o *Options) { o.Server = "localhost:8080" },
		"cannot be read":        func(o *Options) { o.Server = "http://[" },
		"has a query":           func(o *Options) { o.Server += "?x=1" },
		"a framework":           func(o *Options) { o.Framework = "a:b" },
		"at least 1 item":       func(o *Options) { o.Batch = 0 },
		"at least 1 request":    func(o *Options) { o.Parallel = 0 },
		"timeout":               func(o *Options) { o.Timeout = 0 },
		"no such file":          func(o *Options) { o.Path = filepath.Join(path, "none") },
		"no registry items":     func(o *Options) { o.Path = t.TempDir() },
		"no registry items (*.": func(o *Options) { o.Path = folder(t, map[string]string{"registry.json": "[]"}) },
	} {
		o := options(s, path)
		spoil(&o)
		_, err := Run(t.Context(), o)
		require.ErrorContains(t, err, want)
	}
}

func TestBatches(t *testing.T) {
	t.Parallel()
	var entries []*entry
	for _, size := range []int{4, 4, 2, 1, 1, 1, 50, 3} {
		entries = append(entries, &entry{value: item.Value{Entry: strings.Repeat("x", size)}})
	}
	var sizes [][]int
	for _, batch := range batches(entries, 3, 10) {
		var of []int
		for _, e := range batch {
			of = append(of, len(e.value.JSON()))
		}
		sizes = append(sizes, of)
	}
	require.Equal(t, [][]int{{4, 4, 2}, {1, 1, 1}, {50}, {3}}, sizes)
	require.Empty(t, batches(nil, 3, 10))
}

func TestEqual(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{`{"a":1,"b":[1.0,"\u00e9"]}`, ` { "b" : [ 1.0, "é" ], "a" : 1 } `, true},
		{`{"a":{"c":1,"b":2}}`, `{"a":{"b":2,"c":1}}`, true},
		{`1.0`, `1`, false},
		{`12345678901234567890`, `12345678901234567891`, false},
		{`[1,2]`, `[2,1]`, false},
		{``, `{}`, false},
	} {
		require.Equal(t, tc.want, equal([]byte(tc.a), []byte(tc.b)), "%s %s", tc.a, tc.b)
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	report := Report{
		Imported: 1, Unchanged: 2, Interrupted: 3,
		Failures: []Failure{{"a.json", errors.New("no good")}},
		Skipped:  []string{"registry.json"},
	}
	var stdout, stderr bytes.Buffer
	require.NoError(t, report.Print(&stdout, &stderr))
	require.Equal(t, "imported 1, unchanged 2, failed 1\n", stdout.String())
	require.Equal(t, "skipped registry.json: it is a catalogue, not an item\nfailed a.json: no good\ninterrupted: 3 not imported, or not known to be\n", stderr.String())

	stdout.Reset()
	require.NoError(t, (&Report{DryRun: true, Imported: 1, Planned: []string{"would add a"}}).Print(&stdout, &stderr))
	require.Equal(t, "would add a\nwould import 1, unchanged 0, failed 0\n", stdout.String())
}

func TestKeysOf(t *testing.T) {
	t.Parallel()
	value, err := registry.Decode("react", "", []byte(component("a", "registry:ui")))
	require.NoError(t, err)
	demo, err := registry.Decode("react", "", []byte(component("b-demo", "registry:example")))
	require.NoError(t, err)
	target, ok := registry.DemoTarget(demo)
	require.True(t, ok)
	require.Equal(t, []string{
		"block:react:a", "block:react:b-demo", "component:react:a", "component:react:a-demo",
		"component:react:b", "component:react:b-demo", "component:react:b-demo-demo",
	}, keysOf([]*entry{{value: value}, {value: demo, demoOf: target}}))
}
