package http_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/stockroom/stockroom"
)

// decodeText lets the checks of answers read the reference page.
func decodeText() {
	for _, media := range []string{"text/html", "text/css", "text/javascript"} {
		openapi3filter.RegisterBodyDecoder(media, openapi3filter.RegisteredBodyDecoder("text/plain"))
	}
}

// examplesServer is where the contract's examples send their requests.
const examplesServer = "http://127.0.0.1:8080"

var shellBlock = regexp.MustCompile("(?s)```sh\n(.*?)\n```")

// shellExamples returns the examples in an operation's description.
func shellExamples(operation *openapi3.Operation) (commands []string) {
	for _, block := range shellBlock.FindAllStringSubmatch(operation.Description, -1) {
		commands = append(commands, block[1])
	}
	return commands
}

// putExamples puts what the examples of the contract are about, whatever is there.
func (b *bundle) putExamples() {
	b.t.Helper()
	examples := loadContract(b.t).doc.Components.Examples
	for path, name := range map[string]string{
		"/v1/items/metadata:github_rate_limit": "entry",
		"/v1/components/react/button":          "component",
		"/v1/blocks/react/login-01":            "block",
	} {
		a := b.do(http.MethodPut, path, bodyOf(examples[name].Value.Value))
		require.Contains(b.t, []int{http.StatusOK, http.StatusCreated}, a.status, a.body)
	}
}

// TestExamplesOfTheContractWork runs the commands that the contract, and so the
// reference page, shows for each operation.
func TestExamplesOfTheContractWork(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for path, pathItem := range loadContract(t).doc.Paths.Map() {
		for method, operation := range pathItem.Operations() {
			commands := shellExamples(operation)
			require.NotEmpty(t, commands, "%s has no example in a block of kind sh", operation.OperationID)
			for i, command := range commands {
				b.putExamples()
				id := fmt.Sprintf("%s-%d", operation.OperationID, i)
				require.Contains(t, command, examplesServer)
				out := runExample(t, strings.ReplaceAll(command, examplesServer, b.URL), id)
				done := b.log.waitFor(t, func(r logRecord) bool { return r.Message == "request" && r.RequestID == id })
				require.Equal(t, method+" "+path, done.Method+" "+done.Route, command)
				require.Less(t, done.Status, http.StatusBadRequest, "%s\n%s", command, out)
			}
		}
	}
}

// runExample runs a command of curl's as it stands, but silently, and such that a
// refusal makes it fail.
func runExample(t *testing.T, command, requestID string) string {
	t.Helper()
	home := t.TempDir()
	settings := fmt.Sprintf("silent\nshow-error\nfail-with-body\nmax-time = %.0f\nheader = \"X-Request-Id: %s\"\n", patience.Seconds(), requestID)
	require.NoError(t, os.WriteFile(filepath.Join(home, ".curlrc"), []byte(settings), 0o600))
	cmd := exec.CommandContext(t.Context(), "bash", "-c", command)
	cmd.Env = append(os.Environ(), "CURL_HOME="+home)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\n%s", command, out)
	return string(out)
}

func TestReferencePageIsCachedAndBound(t *testing.T) {
	t.Parallel()
	b := setup(t)
	page := b.get("/docs").is(http.StatusOK)
	require.Equal(t, "text/html; charset=utf-8", page.header.Get("Content-Type"))
	links := regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(page.body, -1)
	paths := []string{"/docs"}
	for _, link := range links {
		if !strings.HasPrefix(link[1], "data:") {
			require.NotRegexp(t, "^([a-z]+:|/)", link[1], "a link that is not relative")
			paths = append(paths, "/"+link[1])
		}
	}
	require.Subset(t, paths, []string{"/openapi.yaml", "/docs/start.js", "/docs/style.css", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"})
	for _, path := range paths {
		if path == "/openapi.yaml" {
			continue
		}
		bodies, tags := map[string]string{}, map[string]bool{}
		// net/http asks for gzip by itself, and unpacks it, where nobody says what to accept.
		for _, accept := range []string{"", "identity", "gzip;q=0, *;q=0"} {
			options := []option{}
			if accept != "" {
				options = append(options, header("Accept-Encoding", accept))
			}
			a := b.get(path, options...).is(http.StatusOK)
			require.Empty(t, a.header.Get("Content-Encoding"), "%s, accepting %q", path, accept)
			require.Contains(t, a.header.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self';", path)
			require.Equal(t, "no-cache", a.header.Get("Cache-Control"), path)
			etag := a.header.Get("ETag")
			bodies[a.body], tags[etag] = path, true
			again := b.get(path, append(options, header("If-None-Match", etag))...).is(http.StatusNotModified)
			require.Equal(t, etag, again.header.Get("ETag"))
			b.get(path, append(options, header("If-None-Match", `"another"`))...).is(http.StatusOK)
			b.get(path, append(options, header("If-None-Match", `malformed`), marked(loose))...).is(http.StatusOK)
		}
		require.Len(t, bodies, 1, "%s differs by its encoding", path)
		zipped := b.get(path, header("Accept-Encoding", "br, gzip;q=0.5")).is(http.StatusOK)
		if zipped.header.Get("Content-Encoding") == "gzip" {
			require.Len(t, tags, 2, "%s: two contents with one strong tag", path)
			require.Equal(t, "Accept-Encoding", zipped.header.Get("Vary"))
		}
		b.do(http.MethodHead, path, marked(bad)).is(http.StatusMethodNotAllowed) // as the other open routes
	}
	require.Equal(t, "gzip", b.get("/docs/swagger-ui-bundle.js", header("Accept-Encoding", "gzip")).header.Get("Content-Encoding"))
	b.get("/docs/swagger-ui.js", marked(bad)).fails(http.StatusNotFound, "not_found")
	b.get("/docs/page.html", marked(bad)).fails(http.StatusNotFound, "not_found")

	resp, err := http.Get(b.URL + "/docs/") // follows
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, page.body, string(body))
}

// browser is a headless Chromium with a record of all that it asked for.
type browser struct {
	context.Context // the browser, to chromedp

	mu       sync.Mutex
	requests map[string]bool // URLs
	trouble  []string        // failed requests, exceptions, and what was written to the console
}

// openBrowser starts Chromium. It resolves no names, so that it reaches nothing but this machine.
func openBrowser(t *testing.T) *browser {
	t.Helper()
	if os.Getenv("SKIP_NODE") == "1" {
		t.Skip("SKIP_NODE=1: this needs Chromium")
	}
	b := &browser{requests: map[string]bool{}}
	options := []chromedp.ExecAllocatorOption{
		chromedp.NoSandbox, // which root cannot have
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
		chromedp.WindowSize(1300, 1000),
	}
	if path := os.Getenv("STOCKROOM_TEST_CHROMIUM"); path != "" {
		options = append(options, chromedp.ExecPath(path))
	}
	ctx, stop := chromedp.NewContext(context.Background(), chromedp.WithListener(b.heard), chromedp.WithAllocatorOptions(options...))
	t.Cleanup(stop)
	b.Context = ctx
	_, err := chromedp.Call(ctx, network.Enable, network.EnableParams{})
	require.NoError(t, err, "Chromium does not start: `make chromium` installs it, STOCKROOM_TEST_CHROMIUM says where it is, SKIP_NODE=1 does without")
	return b
}

func (b *browser) heard(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	note := func(format string, args ...any) { b.trouble = append(b.trouble, fmt.Sprintf(format, args...)) }
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		b.requests[e.Request.URL] = true
	case *network.EventResponseReceived:
		if e.Response.Status >= http.StatusBadRequest {
			note("%d for %s", e.Response.Status, e.Response.URL)
		}
	case *network.EventLoadingFailed:
		note("a request failed: %s %s", e.ErrorText, e.BlockedReason)
	case *cdplog.EventEntryAdded:
		note("console: %s: %s", e.Entry.Level, e.Entry.Text)
	case *runtime.EventConsoleAPICalled:
		note("console.%s: %s", e.Type, e.Args[0].Value)
	case *runtime.EventExceptionThrown:
		note("exception: %v", e.ExceptionDetails)
	}
}

// evaluate evaluates an expression in the page, and waits for the promise that it is.
func evaluate[T any](t *testing.T, b *browser, expression string) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.Context, 6*patience)
	defer cancel()
	result, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	require.NoError(t, err, "%s\n%s", expression, b.troubles())
	return result
}

func (b *browser) troubles() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.trouble, "\n")
}

func (b *browser) open(t *testing.T, url string) {
	t.Helper()
	_, err := chromedp.Run(b.Context, chromedp.Navigate(url))
	require.NoError(t, err)
}

// inPage are functions for the page: until waits for what find returns; tried does
// with an operation what a reader does who tries it, and returns its example and the
// status of the answer.
const inPage = `
	const until = (what, find) => new Promise((resolve, reject) => {
		const start = performance.now()
		const look = () => {
			const found = find()
			if (found) resolve(found)
			else if (performance.now() - start > 60_000) reject(new Error('there is no ' + what))
			else setTimeout(look, 10)
		}
		look()
	})
	const tried = async (id, parameters) => {
		const block = await until('operation', () => document.getElementById(id))
		block.querySelector('.opblock-summary-control').click()
		// The page follows references, and then fills in examples, when an operation is opened.
		await until('whole list of parameters', () => block.querySelectorAll('tr[data-param-in]').length == parameters)
		await until('value in each field that needs one',
			() => [...block.querySelectorAll('tr[data-param-in]:has(.required) :is(input, select)')].every((field) => field.value))
		const example = block.querySelector('.opblock-description pre')?.textContent ?? ''
		block.querySelector('.try-out__btn').click();
		(await until('button to execute', () => block.querySelector('.execute'))).click()
		const status = await until('answer', () => block.querySelector('.live-responses-table tbody .response-col_status'))
		const result = {example, status: parseInt(status.textContent)}
		block.querySelector('.opblock-summary-control').click()
		return result
	}
`

// TestReferencePage opens the page in a browser, and tries each operation in it with
// the values that it offers. Everything must come from this server, and succeed.
func TestReferencePage(t *testing.T) {
	t.Parallel()
	browser := openBrowser(t)
	b := setup(t)
	browser.open(t, b.URL+"/docs")
	all, parameters := map[string]*openapi3.Operation{}, map[string]int{}
	for _, pathItem := range loadContract(t).doc.Paths.Map() {
		for _, operation := range pathItem.Operations() {
			id := "operations-" + operation.Tags[0] + "-" + operation.OperationID
			all[id], parameters[id] = operation, len(pathItem.Parameters)+len(operation.Parameters)
		}
	}
	for id, operation := range all {
		b.putExamples()
		got := evaluate[struct {
			Example string `json:"example"`
			Status  int    `json:"status"`
		}](t, browser, fmt.Sprintf(`(async () => { %s; return await tried(%q, %d) })()`, inPage, id, parameters[id]))
		require.Contains(t, shellExamples(operation), strings.TrimSpace(got.Example), "the page does not show the example of %s", id)
		require.Contains(t, []int{http.StatusOK, http.StatusCreated, http.StatusNoContent}, got.Status, "%s: %s", id, browser.troubles())
	}
	require.Equal(t, len(all), evaluate[int](t, browser, `document.querySelectorAll('.opblock').length`), "operations that the page shows")

	// A link to an operation opens it.
	browser.open(t, "about:blank")
	browser.open(t, b.URL+"/docs#/Batches/mset")
	evaluate[bool](t, browser, `(async () => { `+inPage+`; await until('open operation', () => document.querySelector('#operations-Batches-mset .opblock-body')); return true })()`)

	require.Empty(t, browser.troubles())
	browser.mu.Lock()
	defer browser.mu.Unlock()
	for url := range browser.requests {
		require.Regexp(t, "^("+regexp.QuoteMeta(b.URL)+"/|data:|about:blank$)", url)
	}
	require.Contains(t, browser.requests, b.URL+"/openapi.yaml")
	require.Contains(t, browser.requests, b.URL+"/v1/mset")
}

// followed follows the references of a value of a document as the reference page does,
// and returns what is in the way of that: behind holds those that lead to it.
func followed(document map[string]any, value any, behind []string) (wrong []string) {
	switch value := value.(type) {
	case []any:
		for _, part := range value {
			wrong = append(wrong, followed(document, part, behind)...)
		}
	case map[string]any:
		for name, part := range value {
			if name != "$ref" {
				wrong = append(wrong, followed(document, part, behind)...)
				continue
			}
			reference, _ := part.(string)
			var to any = document
			for _, name := range strings.Split(reference, "/")[1:] {
				within, _ := to.(map[string]any)
				to = within[name]
			}
			switch {
			case !strings.HasPrefix(reference, "#/") || to == nil:
				wrong = append(wrong, fmt.Sprintf("%v leads nowhere", part))
			case slices.Contains(behind, reference):
				wrong = append(wrong, reference+" leads back to itself")
			default:
				wrong = append(wrong, followed(document, to, append(slices.Clip(behind), reference))...)
			}
		}
	}
	return wrong
}

func TestReferencePageCanFollowReferences(t *testing.T) {
	t.Parallel()
	follow := func(text string) []string {
		var document map[string]any
		require.NoError(t, yaml.Unmarshal([]byte(text), &document))
		return followed(document, document, nil)
	}
	require.Empty(t, follow(string(stockroom.OpenAPI)))
	const model = "\ncomponents: {schemas: {A: {items: {$ref: '#/components/schemas/A'}}, b/c: {type: string}}}"
	require.Contains(t, follow(model), "#/components/schemas/A leads back to itself")
	for _, nowhere := range []string{"'#/components/schemas/b~1c'", "'#/components/schemas/B'", "other.yaml", "1"} {
		require.Contains(t, follow("x: [{$ref: "+nowhere+"}]"+model), strings.Trim(nowhere, "'")+" leads nowhere")
	}
}
