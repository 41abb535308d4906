package http_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/go-chi/chi/v5"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom"
	stockhttp "github.com/stockroom/stockroom/internal/http"
)

// contract is openapi.yaml, to hold requests and answers against.
type contract struct {
	doc    *openapi3.T
	router routers.Router // gorilla/mux: kin's own finds no route for a path with %2F
}

var (
	wholeContract = sync.OnceValues(func() (*contract, error) { return readContract("") })
	// quickContract claims an older version of OpenAPI. For 3.1 kin compiles a
	// schema anew for each value, and then mostly uses its older validator all the
	// same; the suite would take four times as long.
	// TestContractTransportNotices holds the two against each other.
	quickContract = sync.OnceValues(func() (*contract, error) { return readContract("3.0.3") })
)

func readContract(version string) (*contract, error) {
	loader := openapi3.NewLoader()
	doc, err := loader.LoadFromData(stockroom.OpenAPI)
	if err != nil {
		return nil, err
	}
	if version == "" {
		err = doc.Validate(loader.Context)
	} else {
		doc.OpenAPI = version
	}
	if err != nil {
		return nil, err
	}
	router, err := gorillamux.NewRouter(doc)
	return &contract{doc, router}, err
}

func loadContract(t testing.TB) *contract {
	t.Helper()
	c, err := quickContract()
	require.NoError(t, err, "openapi.yaml")
	return c
}

var checkOptions = &openapi3filter.Options{
	AuthenticationFunc:    openapi3filter.NoopAuthenticationFunc,
	SkipSettingDefaults:   true, // they would be written into the request
	IncludeResponseStatus: true, // a status that is not in the contract is an error
}

// find returns what the contract says of a request: for a method that the path
// does not have, what it says of the path's others, which is enough for a 405; for
// a path that it does not have, that the answer is a problem.
func (c *contract) find(req *http.Request) (input *openapi3filter.RequestValidationInput, known bool, err error) {
	route, params, err := c.router.FindRoute(req)
	known = err == nil
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		if errors.Is(err, routers.ErrMethodNotAllowed) {
			other := req.Clone(req.Context())
			other.Method = method
			route, params, err = c.router.FindRoute(other)
		}
	}
	if errors.Is(err, routers.ErrPathNotFound) {
		name := "NotFound"
		if strings.HasPrefix(req.URL.Path, "/r/") {
			name = "RegistryNotFound"
		}
		responses := openapi3.NewResponses(openapi3.WithName("default", c.doc.Components.Responses[name].Value))
		route, err = &routers.Route{Spec: c.doc, PathItem: &openapi3.PathItem{}, Operation: &openapi3.Operation{Responses: responses}}, nil
	}
	if err != nil {
		return nil, false, err
	}
	for name, value := range params {
		// The router matches the encoded path and leaves its parameters so.
		if params[name], err = url.PathUnescape(value); err != nil {
			return nil, false, err
		}
	}
	return &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route, Options: checkOptions}, known, nil
}

// checkResponse holds an answer against the contract.
func (c *contract) checkResponse(input *openapi3filter.RequestValidationInput, resp *http.Response, body []byte) error {
	status := resp.StatusCode
	if input.Request.Method == http.MethodHead || status == http.StatusNotModified {
		// kin looks at none of these, so they are shown to it as if they were
		// another answer, without a body.
		responses := input.Route.Operation.Responses
		ref := cmp.Or(responses.Status(status), responses.Default())
		if ref == nil {
			return fmt.Errorf("the status %d is not in the contract", status)
		}
		headers := *ref.Value
		headers.Content = nil
		route := *input.Route
		route.Operation = &openapi3.Operation{Responses: openapi3.NewResponses(openapi3.WithStatus(http.StatusOK, &openapi3.ResponseRef{Value: &headers}))}
		request := input.Request.Clone(input.Request.Context())
		request.Method = http.MethodGet
		input = &openapi3filter.RequestValidationInput{Request: request, Route: &route, Options: checkOptions}
		status = http.StatusOK
	}
	return openapi3filter.ValidateResponse(input.Request.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input,
		Status:                 status,
		Header:                 resp.Header,
		Body:                   io.NopCloser(bytes.NewReader(body)),
		Options:                checkOptions,
	})
}

// contractTransport checks every request and every answer.
type contractTransport struct {
	next     http.RoundTripper
	contract *contract
}

// RoundTrip is http.RoundTripper's.
func (c contractTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	call, ok := req.Context().Value(callKey{}).(*call)
	if !ok {
		return nil, errors.New("a request that did not come from the bundle")
	}
	report := func(format string, args ...any) {
		call.t.Helper()
		call.t.Errorf("%s %s: %s", req.Method, req.URL.RequestURI(), fmt.Sprintf(format, args...))
	}
	sent, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	withBody := func() *http.Request {
		clone := req.Clone(req.Context()) // keeps a ContentLength that is unknown
		clone.Body = io.NopCloser(bytes.NewReader(sent))
		if len(sent) == 0 {
			clone.Body = http.NoBody
		}
		return clone
	}
	input, known, err := c.contract.find(withBody())
	if err != nil {
		return nil, err
	}
	if call.mark == good && !known {
		report("the contract has no such route")
	} else if call.mark == good {
		if err := openapi3filter.ValidateRequest(req.Context(), input); err != nil {
			report("the request is not as in the contract: %v", err)
		}
	}

	resp, err := c.next.RoundTrip(withBody())
	if err != nil {
		return nil, err
	}
	received, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(received))
	if err := c.contract.checkResponse(input, resp, received); err != nil {
		report("the answer %d is not as in the contract: %v\n%s", resp.StatusCode, err, received)
	}
	checkAnswer(req, resp, received, report)
	switch refused := isRefusal(resp.StatusCode); {
	case refused && call.mark == good:
		report("a request as in the contract was refused with %d: %s", resp.StatusCode, received)
	case resp.StatusCode < http.StatusBadRequest && call.mark == bad:
		report("a bad request was answered with %d: %s", resp.StatusCode, received)
	}
	return resp, nil
}

// isRefusal tells whether a status says that the request itself is wrong,
// whatever the service holds.
func isRefusal(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusRequestEntityTooLarge,
		http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

var saneRequestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

// checkAnswer checks what holds for every answer and stands in the descriptions
// of the contract only.
func checkAnswer(req *http.Request, resp *http.Response, body []byte, report func(string, ...any)) {
	id := resp.Header.Get("X-Request-Id")
	if sent := req.Header.Get("X-Request-Id"); saneRequestID.MatchString(sent) && id != sent {
		report("the answer has the request id %q, not %q", id, sent)
	}
	if got := resp.Header.Get("X-Content-Type-Options"); got != "nosniff" {
		report("X-Content-Type-Options is %q", got)
	}
	switch {
	case req.Method == http.MethodHead || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified:
		if len(body) > 0 {
			report("a body where none may be: %s", body)
		}
	case resp.StatusCode < http.StatusBadRequest || req.URL.Path == "/readyz":
		if resp.Header.Get("Content-Type") == "application/json" && (!json.Valid(body) || !bytes.Equal(compacted(body), body)) {
			report("the answer is not compact JSON: %s", body)
		}
	default:
		checkProblem(req, resp, body, report)
	}
	if got := resp.Header.Get("Retry-After"); resp.StatusCode == http.StatusServiceUnavailable && req.URL.Path != "/readyz" {
		if seconds, err := strconv.Atoi(got); err != nil || seconds < 1 {
			report("503 with Retry-After %q", got)
		}
	}
}

func compacted(text []byte) []byte {
	var out bytes.Buffer
	if err := json.Compact(&out, text); err != nil {
		return nil
	}
	return out.Bytes()
}

func checkProblem(req *http.Request, resp *http.Response, body []byte, report func(string, ...any)) {
	wantType, inRegistry := "application/problem+json", strings.HasPrefix(req.URL.Path, "/r/")
	if inRegistry {
		wantType = "application/json"
	}
	if got := resp.Header.Get("Content-Type"); got != wantType {
		report("the problem has the type %q, not %q", got, wantType)
	}
	var p problem
	if err := json.Unmarshal(body, &p); err != nil {
		report("the problem is not JSON: %v: %s", err, body)
		return
	}
	want := problem{
		Type: "urn:stockroom:problem:" + p.Code, Title: p.Title, Status: resp.StatusCode, Code: p.Code,
		Detail: p.Detail, Instance: req.URL.EscapedPath(), RequestID: resp.Header.Get("X-Request-Id"),
		Errors: p.Errors, Message: p.Message,
	}
	if fmt.Sprint(p) != fmt.Sprint(want) {
		report("the problem contradicts itself or its answer:\n%+v\nwant\n%+v", p, want)
	}
	if status, ok := stockhttp.Statuses()[p.Code]; !ok || status != resp.StatusCode {
		report("the code %s is answered with %d", p.Code, resp.StatusCode)
	}
	if inRegistry != (p.Message != "") || inRegistry && p.Message != p.Detail && p.Detail != "" {
		report("the message is %q", p.Message)
	}
	for _, name := range []string{"ETag", "Last-Modified", "Stockroom-Expires", "Location"} {
		if resp.Header.Get(name) != "" {
			report("a problem with the header %s, which is an item's", name)
		}
	}
	if got := resp.Header.Get("Cache-Control"); got != "no-store" {
		report("a problem with Cache-Control %q", got)
	}
}

// TestContractTransportNotices shows answers and requests to the checks that the
// whole suite goes through: good ones, and each with one thing wrong.
func TestContractTransportNotices(t *testing.T) {
	t.Parallel()
	whole, err := wholeContract()
	require.NoError(t, err, "openapi.yaml")
	contracts := []*contract{whole, loadContract(t)}
	const (
		meta = `{"key":"a","kind":"entry","sizeBytes":1,"ttlSeconds":0,"ttlRemainingSeconds":null,"createdAt":"2026-11-20T16:04:11.482913Z",` +
			`"updatedAt":"2026-11-20T16:04:11Z","accessedAt":"2026-11-20T16:04:11Z","accessCount":1,"etag":"\"x\""}`
		wrong = `{"type":"urn:stockroom:problem:not_found","title":"Not found","status":404,"code":"not_found","detail":"","instance":"/","request_id":"x"}`
	)
	for name, tc := range map[string]struct {
		method, path string
		status       int
		header, body string
		good         bool
	}{
		"metadata":                    {http.MethodGet, "/v1/items/a/metadata", 200, "", meta, true},
		"metadata of an expiring one": {http.MethodGet, "/v1/items/a/metadata", 200, "", strings.Replace(meta, "null", "5", 1), true},
		"problem":                     {http.MethodGet, "/v1/items/a", 404, "Content-Type: application/problem+json", wrong, true},
		"head":                        {http.MethodHead, "/v1/items/a", 200, "Etag: \"x\"\nLast-Modified: Sat, 21 Nov 2026 09:30:00 GMT", "", true},
		"not modified":                {http.MethodGet, "/v1/items/a", 304, "Etag: \"x\"\nLast-Modified: Sat, 21 Nov 2026 09:30:00 GMT", "", true},
		"method":                      {http.MethodPatch, "/v1/items/a", 405, "Allow: GET\nContent-Type: application/problem+json", wrong, true},
		"no route":                    {http.MethodGet, "/nowhere", 404, "Content-Type: application/problem+json", wrong, true},
		"status":                      {http.MethodGet, "/v1/items/a/metadata", 202, "", meta, false},
		"type of the answer":          {http.MethodGet, "/v1/items/a/metadata", 200, "Content-Type: text/plain", meta, false},
		"type of a problem":           {http.MethodGet, "/v1/items/a", 404, "", wrong, false},
		"no request id":               {http.MethodGet, "/v1/items/a/metadata", 200, "X-Request-Id:", meta, false},
		"request id":                  {http.MethodGet, "/v1/items/a/metadata", 200, "X-Request-Id: a b", meta, false},
		"member left out":             {http.MethodGet, "/v1/items/a/metadata", 200, "", strings.Replace(meta, `"sizeBytes":1,`, "", 1), false},
		"member too many":             {http.MethodGet, "/v1/items/a/metadata", 200, "", strings.Replace(meta, `{`, `{"x":1,`, 1), false},
		"enum":                        {http.MethodGet, "/v1/items/a/metadata", 200, "", strings.Replace(meta, `entry`, `item`, 1), false},
		"integer":                     {http.MethodGet, "/v1/items/a/metadata", 200, "", strings.Replace(meta, `"sizeBytes":1`, `"sizeBytes":1.5`, 1), false},
		"minimum":                     {http.MethodGet, "/v1/items/a/metadata", 200, "", strings.Replace(meta, `"sizeBytes":1`, `"sizeBytes":-1`, 1), false},
		"string for an integer":       {http.MethodGet, "/v1/items/a/metadata", 200, "", strings.Replace(meta, `"sizeBytes":1`, `"sizeBytes":"1"`, 1), false},
		"null":                        {http.MethodGet, "/v1/items/a/metadata", 200, "", strings.Replace(meta, `"sizeBytes":1`, `"sizeBytes":null`, 1), false},
		"time":                        {http.MethodGet, "/v1/items/a/metadata", 200, "", strings.Replace(meta, `T16:04:11Z`, ` 16:04:11`, 1), false},
		"pattern":                     {http.MethodGet, "/v1/items/a/metadata", 200, "", strings.Replace(meta, `\"x\"`, `x`, 1), false},
		"no JSON":                     {http.MethodGet, "/v1/items/a/metadata", 200, "", meta[1:], false},
		"head without ETag":           {http.MethodHead, "/v1/items/a", 200, "Last-Modified: Sat, 21 Nov 2026 09:30:00 GMT", "", false},
		"head with a bad date":        {http.MethodHead, "/v1/items/a", 200, "Etag: \"x\"\nLast-Modified: today", "", false},
		"not modified without ETag":   {http.MethodGet, "/v1/items/a", 304, "Last-Modified: Sat, 21 Nov 2026 09:30:00 GMT", "", false},
		"not modified metadata":       {http.MethodGet, "/v1/items/a/metadata", 304, "Etag: \"x\"", "", false},
		"method without Allow":        {http.MethodPatch, "/v1/items/a", 405, "Content-Type: application/problem+json", wrong, false},
		"busy without Retry-After":    {http.MethodGet, "/v1/items/a", 503, "Content-Type: application/problem+json", wrong, false},
		"busy":                        {http.MethodGet, "/v1/items/a", 503, "Retry-After: 1\nContent-Type: application/problem+json", wrong, true},
		"no message under /r":         {http.MethodGet, "/r/f/n.json", 404, "", wrong, false},
		"item of another shape":       {http.MethodGet, "/v1/components/f/n", 200, "Etag: \"x\"\nLast-Modified: Sat, 21 Nov 2026 09:30:00 GMT", `{"sourceCode":1}`, false},
		"item":                        {http.MethodGet, "/v1/components/f/n", 200, "Etag: \"x\"\nLast-Modified: Sat, 21 Nov 2026 09:30:00 GMT", `{"sourceCode":""}`, true},
	} {
		for _, c := range contracts {
			req, err := http.NewRequestWithContext(t.Context(), tc.method, tc.path, http.NoBody)
			require.NoError(t, err)
			resp := &http.Response{StatusCode: tc.status, Header: http.Header{"X-Request-Id": {"x"}, "Content-Type": {"application/json"}}}
			for line := range strings.SplitSeq(tc.header, "\n") {
				field, value, _ := strings.Cut(line, ":")
				if resp.Header.Del(field); strings.TrimSpace(value) != "" {
					resp.Header.Set(field, strings.TrimSpace(value))
				}
			}
			input, _, err := c.find(req)
			require.NoError(t, err)
			err = c.checkResponse(input, resp, []byte(tc.body))
			require.Equal(t, tc.good, err == nil, "%s, as %s: %v", name, c.doc.OpenAPI, err)
		}
	}
	for target, good := range map[string]bool{
		"/v1/items/a%2Fb?ttl=5": true, "/v1/items/a%2Fb?ttl=-1": false, "/v1/items/a%2Fb?ttl=x": false, "/v1/items/a%0Ab": false,
		"/v1/items/" + strings.Repeat("k", 256): false,
	} {
		for _, c := range contracts {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, target, strings.NewReader("1"))
			require.NoError(t, err)
			req.Header.Set("Content-Type", "application/json")
			input, known, err := c.find(req)
			require.NoError(t, err)
			require.True(t, known)
			err = openapi3filter.ValidateRequest(t.Context(), input)
			require.Equal(t, good, err == nil, "%s, as %s: %v", target, c.doc.OpenAPI, err)
		}
	}
}

func TestRoutesAreThoseOfTheContract(t *testing.T) {
	t.Parallel()
	inContract := map[string]bool{}
	for path, pathItem := range loadContract(t).doc.Paths.Map() {
		for method := range pathItem.Operations() {
			inContract[method+" "+path] = true
		}
	}
	served := map[string]bool{}
	require.NoError(t, chi.Walk(stockhttp.Routes(), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		// chi has no names with dots, so the suffix is the handler's.
		served[method+" "+strings.Replace(route, "{file}", "{name}.json", 1)] = true
		return nil
	}))
	require.Equal(t, slices.Sorted(maps.Keys(inContract)), slices.Sorted(maps.Keys(served)))
}

// operation is a good request of an operation of the contract.
type operation struct {
	id, method, path, body string
	noData                 bool // it is answered whatever the state of the service
}

func (o operation) send(b *bundle, options ...option) *answer {
	b.t.Helper()
	if o.body != "" {
		options = append([]option{body(o.body)}, options...)
	}
	return b.do(o.method, o.path, options...)
}

// operations are all of them.
var operations = []operation{
	{id: "getItem", method: http.MethodGet, path: "/v1/items/a"},
	{id: "headItem", method: http.MethodHead, path: "/v1/items/a"},
	{id: "putItem", method: http.MethodPut, path: "/v1/items/a", body: `1`},
	{id: "deleteItem", method: http.MethodDelete, path: "/v1/items/a"},
	{id: "getItemMetadata", method: http.MethodGet, path: "/v1/items/a/metadata"},
	{id: "touchItem", method: http.MethodPost, path: "/v1/items/a/touch", body: `{}`},
	{id: "listKeys", method: http.MethodGet, path: "/v1/items"},
	{id: "clearItems", method: http.MethodDelete, path: "/v1/items"},
	{id: "mget", method: http.MethodPost, path: "/v1/mget", body: `{"keys":["a"]}`},
	{id: "mset", method: http.MethodPost, path: "/v1/mset", body: `{"entries":{"a":1}}`},
	{id: "mdelete", method: http.MethodPost, path: "/v1/mdelete", body: `{"keys":["a"]}`},
	{id: "transact", method: http.MethodPost, path: "/v1/transactions", body: `{"operations":[{"set":{"key":"a","value":1}}]}`},
	{id: "getComponent", method: http.MethodGet, path: "/v1/components/f/n"},
	{id: "headComponent", method: http.MethodHead, path: "/v1/components/f/n"},
	{id: "putComponent", method: http.MethodPut, path: "/v1/components/f/n", body: `{"sourceCode":""}`},
	{id: "deleteComponent", method: http.MethodDelete, path: "/v1/components/f/n"},
	{id: "listComponents", method: http.MethodGet, path: "/v1/components/f"},
	{id: "getBlock", method: http.MethodGet, path: "/v1/blocks/f/n"},
	{id: "headBlock", method: http.MethodHead, path: "/v1/blocks/f/n"},
	{id: "putBlock", method: http.MethodPut, path: "/v1/blocks/f/n", body: `{"files":[]}`},
	{id: "deleteBlock", method: http.MethodDelete, path: "/v1/blocks/f/n"},
	{id: "listBlocks", method: http.MethodGet, path: "/v1/blocks/f"},
	{id: "listFrameworks", method: http.MethodGet, path: "/v1/frameworks"},
	{id: "search", method: http.MethodGet, path: "/v1/search?q=a"},
	{id: "getStats", method: http.MethodGet, path: "/v1/stats"},
	{id: "maintain", method: http.MethodPost, path: "/v1/maintenance", body: `{}`},
	{id: "getCatalogue", method: http.MethodGet, path: "/r/f/registry.json"},
	{id: "getCatalogueOfStyle", method: http.MethodGet, path: "/r/f/styles/s/registry.json"},
	{id: "getRegistryItemOfStyle", method: http.MethodGet, path: "/r/f/styles/s/n.json"},
	{id: "getRegistryItem", method: http.MethodGet, path: "/r/f/n.json"},
	{id: "putRegistryItem", method: http.MethodPut, path: "/r/f/n.json", body: `{"name":"n","type":"registry:ui"}`},
	{id: "livez", method: http.MethodGet, path: "/livez", noData: true},
	{id: "readyz", method: http.MethodGet, path: "/readyz", noData: true},
	{id: "getMetrics", method: http.MethodGet, path: "/metrics", noData: true},
	{id: "getOpenAPI", method: http.MethodGet, path: "/openapi.yaml", noData: true},
	{id: "getDocs", method: http.MethodGet, path: "/docs", noData: true},
	{id: "getDocsFile", method: http.MethodGet, path: "/docs/start.js", noData: true},
}

// documented returns the contract's operation.
func (o operation) documented(t testing.TB) *openapi3.Operation {
	t.Helper()
	for _, pathItem := range loadContract(t).doc.Paths.Map() {
		for _, documented := range pathItem.Operations() {
			if documented.OperationID == o.id {
				return documented
			}
		}
	}
	require.Fail(t, "the contract has no operation "+o.id)
	return nil
}

func TestTableOfOperationsIsWhole(t *testing.T) {
	t.Parallel()
	c := loadContract(t)
	documented, listed := []string{}, []string{}
	for _, pathItem := range c.doc.Paths.Map() {
		for _, operation := range pathItem.Operations() {
			documented = append(documented, operation.OperationID)
		}
	}
	for _, operation := range operations {
		listed = append(listed, operation.id)
		req, err := http.NewRequestWithContext(t.Context(), operation.method, operation.path, http.NoBody)
		require.NoError(t, err)
		route, _, err := c.router.FindRoute(req)
		require.NoError(t, err, operation.id)
		require.Equal(t, operation.id, route.Operation.OperationID)
	}
	require.ElementsMatch(t, documented, listed)
}

// codeRow is a row of the table of codes in the contract's description.
var codeRow = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([0-9]{3}) \\|")

func TestCodesAreThoseOfTheContract(t *testing.T) {
	t.Parallel()
	c := loadContract(t)
	documented := map[string]int{}
	for _, row := range codeRow.FindAllStringSubmatch(c.doc.Info.Description, -1) {
		status, err := strconv.Atoi(row[2])
		require.NoError(t, err)
		documented[row[1]] = status
	}
	require.Len(t, documented, 34, "the table of codes is not read as a whole")
	require.Equal(t, documented, stockhttp.Statuses())

	titles := map[string]string{}
	for _, response := range c.doc.Components.Responses {
		for _, media := range response.Value.Content {
			for _, example := range media.Examples {
				value, ok := example.Value.Value.(map[string]any)
				require.True(t, ok)
				code, title := fmt.Sprint(value["code"]), fmt.Sprint(value["title"])
				require.Equal(t, title, cmp.Or(titles[code], title), "the examples disagree about the title of %s", code)
				titles[code] = title
			}
		}
	}
	for code := range documented {
		require.Contains(t, titles, code, "no example")
		require.Equal(t, titles[code], stockhttp.TitleOf(code), "the title of %s", code)
	}
}

func TestOpenAPIDocumentIsTheContract(t *testing.T) {
	t.Parallel()
	b := setup(t)
	a := b.get("/openapi.yaml").is(http.StatusOK)
	require.Equal(t, string(stockroom.OpenAPI), a.body)
}

func TestProbes(t *testing.T) {
	t.Parallel()
	var reasons []string
	b := setup(t, func(s *settings) {
		s.dependencies.NotReady = func(context.Context) []string { return reasons }
	})
	require.JSONEq(t, `{"status":"alive"}`, b.get("/livez").is(http.StatusOK).body)
	require.JSONEq(t, `{"status":"ready"}`, b.get("/readyz").is(http.StatusOK).body)
	reasons = []string{"the database does not answer", "another"}
	a := b.get("/readyz").is(http.StatusServiceUnavailable)
	require.JSONEq(t, `{"status":"not_ready","reasons":["the database does not answer","another"]}`, a.body)
	require.Equal(t, "no-store", a.header.Get("Cache-Control"))
}

// TestMetricsShowNoKeys looks for the requests that were made in the metrics,
// which name routes and nothing that a caller chose.
func TestMetricsShowNoKeys(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.stored("secret-key", `"secret-value"`)
	b.get("/v1/items/secret-key").is(http.StatusOK)
	b.get("/r/secret-framework/secret-name.json").is(http.StatusNotFound)
	b.get("/secret-path", marked(bad)).is(http.StatusNotFound)
	b.do("SECRET", "/v1/items", marked(bad)).is(http.StatusMethodNotAllowed)
	metrics := b.get("/metrics").is(http.StatusOK).body
	require.Contains(t, metrics, `http_route="/v1/items/{key}"`)
	require.NotContains(t, strings.ToLower(metrics), "secret")
}
