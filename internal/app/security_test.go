package app_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	"github.com/stockroom/stockroom"
	"github.com/stockroom/stockroom/internal/app"
	"github.com/stockroom/stockroom/internal/auth"
	"github.com/stockroom/stockroom/internal/config"
	"github.com/stockroom/stockroom/internal/pgtest"
)

// instance is the whole service in this process, as cmd/server runs it: with its
// own form of log, and reading its keys again when it is told to.
type instance struct {
	t       testing.TB
	dsn     string
	url     string
	address string
	client  *http.Client
	reload  chan os.Signal
	log     *record
	stop    func() error
}

// launch runs the service with variables as its environment, on a database of its
// own unless they name one, and returns once it is ready. When the test ends, it
// is stopped and must have nothing to complain about.
func launch(t testing.TB, variables map[string]string) *instance {
	t.Helper()
	i := start(t, variables)
	t.Cleanup(func() { require.NoError(t, i.stop(), "%s", i.log) })
	i.log.await(t, "the service is ready", func(l line) bool { return l["msg"] == "ready" })
	return i
}

// start is launch for a service that may never be ready.
func start(t testing.TB, variables map[string]string) *instance {
	t.Helper()
	environ := map[string]string{
		"STOCKROOM_ADDR": "127.0.0.1:0", "STOCKROOM_DATA_DIR": t.TempDir(), "STOCKROOM_LOG_LEVEL": "debug",
	}
	maps.Copy(environ, variables)
	if environ["DATABASE_URL"] == "" {
		environ["DATABASE_URL"] = pgtest.New(t)
	}
	cfg, err := config.Load(environ)
	require.NoError(t, err)
	i := &instance{t: t, dsn: environ["DATABASE_URL"], reload: make(chan os.Signal), log: newRecord()}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		getenv := func(name string) string { return environ[name] }
		ended <- app.Run(ctx, cfg, app.Signals{Reload: i.reload}, getenv, app.NewLogger(i.log, cfg))
	}()
	i.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(soon):
			return errors.New("the service does not stop")
		}
	})
	t.Cleanup(func() { _ = i.stop() })

	scheme, transport := "http", &http.Transport{MaxIdleConnsPerHost: 1000}
	if cfg.TLS() {
		scheme = "https"
		transport.TLSClientConfig = &tls.Config{RootCAs: certificates(t, cfg.TLSCertFile), MinVersion: tls.VersionTLS12}
		transport.ForceAttemptHTTP2 = true
	}
	t.Cleanup(transport.CloseIdleConnections)
	i.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	// It says where it listens in its log, unless that is to be silent.
	file := filepath.Join(cfg.DataDir, app.AddressFile)
	until(t, "the service listens", func() bool {
		said, _ := i.log.find(func(l line) bool { return l["url"] != nil })
		for _, l := range said {
			address, _ := l["url"].(string)
			i.address = strings.TrimPrefix(address, scheme+"://")
		}
		if text, err := os.ReadFile(file); err == nil && strings.HasSuffix(string(text), "\n") {
			i.address = strings.TrimSpace(string(text))
		}
		select {
		case err := <-ended: // it never will
			ended <- err
			return true
		default:
			return i.address != ""
		}
	})
	i.url = scheme + "://" + i.address
	return i
}

// until waits for what happens by itself.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(soon); !done(); <-ticker.C {
		require.True(t, time.Now().Before(deadline), "waited in vain until %s", what)
	}
}

// line is a line of the log.
type line map[string]any

// record keeps a log. Lines are read only when somebody asks for them, so that a
// service that logs much is not held up.
type record struct {
	mu      sync.Mutex
	text    bytes.Buffer
	read    int // bytes of the text that are in lines
	lines   []line
	changed chan struct{} // closed at the next line
	skipped [][]byte
}

func newRecord() *record { return &record{changed: make(chan struct{})} }

func (r *record) Write(text []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.ContainsFunc(r.skipped, func(part []byte) bool { return bytes.Contains(text, part) }) {
		return len(text), nil
	}
	close(r.changed)
	r.changed = make(chan struct{})
	return r.text.Write(text)
}

// skip keeps lines with one of parts in them out from now on: with many requests
// they would be all that the memory is needed for.
func (r *record) skip(parts ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, part := range parts {
		r.skipped = append(r.skipped, []byte(part))
	}
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// find returns the lines that match, and a channel that is closed when there are more.
func (r *record) find(matches func(line) bool) ([]line, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for text := range bytes.Lines(r.text.Bytes()[r.read:]) {
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			l = line{"msg": "not JSON: " + string(text)}
		}
		r.lines = append(r.lines, l)
	}
	r.read = r.text.Len()
	return slices.DeleteFunc(slices.Clone(r.lines), func(l line) bool { return !matches(l) }), r.changed
}

// await returns the first line that matches, once it is there.
func (r *record) await(t testing.TB, what string, matches func(line) bool) line {
	t.Helper()
	timeout := time.NewTimer(soon)
	defer timeout.Stop()
	for {
		found, changed := r.find(matches)
		if len(found) > 0 {
			return found[0]
		}
		select {
		case <-changed:
		case <-timeout.C:
			require.FailNow(t, "waited in vain until "+what, "%s", r)
		}
	}
}

// reply is an answer of the service.
type reply struct {
	status int
	header http.Header
	body   string
	major  int // version of HTTP
}

// code returns the code of a problem.
func (r reply) code() string {
	var problem struct{ Code string }
	_ = json.Unmarshal([]byte(r.body), &problem)
	return problem.Code
}

// try makes a request; headers are names, each followed by its value. Unlike send
// it may be called in any goroutine.
func (i *instance) try(ctx context.Context, method, path, body string, headers ...string) (reply, error) {
	r, err := http.NewRequestWithContext(ctx, method, i.url+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	for pair := range slices.Chunk(headers, 2) {
		r.Header.Add(pair[0], pair[1])
	}
	response, err := i.client.Do(r)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(text), response.ProtoMajor}, err
}

func decodeReply(t testing.TB, r reply, into any) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(r.body), into), "%s", r.body)
}

func (i *instance) send(method, path, body string, headers ...string) reply {
	i.t.Helper()
	r, err := i.try(i.t.Context(), method, path, body, headers...)
	require.NoError(i.t, err, "%s %s", method, path)
	return r
}

// must makes a request that has to succeed.
func (i *instance) must(method, path, body string, headers ...string) reply {
	i.t.Helper()
	r := i.send(method, path, body, headers...)
	require.Less(i.t, r.status, http.StatusBadRequest, "%s %s: %s", method, path, r.body)
	return r
}

// raw sends bytes on a connection of their own and returns what comes back until
// the service closes it, or has said nothing for a moment.
func (i *instance) raw(text string) string {
	i.t.Helper()
	conn, err := net.Dial("tcp", i.address)
	require.NoError(i.t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, text)
	require.NoError(i.t, err)
	var answer bytes.Buffer
	chunk := make([]byte, 4<<10)
	// A reader that was held up finds its deadline passed, whatever there is to read:
	// only the second time in a row it means that there is nothing.
	for wait, silent := soon, 0; silent < 2; wait = 50 * time.Millisecond {
		require.NoError(i.t, conn.SetReadDeadline(time.Now().Add(wait)))
		n, err := conn.Read(chunk)
		answer.Write(chunk[:n])
		switch {
		case n > 0:
			silent = 0
		case errors.Is(err, os.ErrDeadlineExceeded):
			silent++
		default:
			return answer.String()
		}
	}
	return answer.String()
}

// rawStatus is the status of the first answer to raw bytes.
func rawStatus(t testing.TB, answer string) int {
	t.Helper()
	text := bufio.NewReader(strings.NewReader(answer))
	for {
		response, err := http.ReadResponse(text, nil)
		require.NoError(t, err, "%q", answer)
		_ = response.Body.Close()
		if response.StatusCode != http.StatusContinue {
			return response.StatusCode
		}
	}
}

// operation is an operation of the contract.
type operation struct{ method, pattern string }

func (o operation) String() string { return o.method + " " + o.pattern }

// path is a path of the operation, with value for its parameters.
func (o operation) path(value string) string {
	var path strings.Builder
	for part := range strings.SplitAfterSeq(o.pattern, "}") {
		fixed, _, parameter := strings.Cut(part, "{")
		path.WriteString(fixed)
		if parameter {
			path.WriteString(value)
		}
	}
	return path.String()
}

// scope is what design says that a caller of the operation needs: nothing for
// what shows no data.
func (o operation) scope() auth.Scopes {
	switch {
	case slices.Contains([]string{"/livez", "/readyz", "/metrics", "/openapi.yaml", "/docs", "/docs/{asset}"}, o.pattern):
		return 0
	case o.pattern == "/v1/stats", o.pattern == "/v1/maintenance", o.String() == "DELETE /v1/items":
		return auth.Admin
	case o.method == http.MethodGet, o.method == http.MethodHead, o.pattern == "/v1/mget":
		return auth.Read
	default:
		return auth.Write
	}
}

// contractOperations are all operations of openapi.yaml, in order.
func contractOperations(t testing.TB) []operation {
	t.Helper()
	document, err := openapi3.NewLoader().LoadFromData(stockroom.OpenAPI)
	require.NoError(t, err)
	var all []operation
	for pattern, path := range document.Paths.Map() {
		for method := range path.Operations() {
			all = append(all, operation{method, pattern})
		}
	}
	slices.SortFunc(all, func(a, b operation) int { return strings.Compare(a.pattern+a.method, b.pattern+b.method) })
	return all
}

// keyFile is a file of API keys that a test can change.
type keyFile struct {
	t    testing.TB
	path string
}

// newKeyFile makes a file with a key for each of ids, which are id:scopes, and
// returns it with their tokens by id.
func newKeyFile(t testing.TB, ids ...string) (*keyFile, map[string]string) {
	t.Helper()
	f := &keyFile{t, filepath.Join(t.TempDir(), "keys")}
	tokens, lines := map[string]string{}, []string{}
	for _, text := range ids {
		id, _, _ := strings.Cut(text, ":")
		token, line := newKey(t, text)
		tokens[id] = token
		lines = append(lines, line)
	}
	f.write(lines...)
	return f, tokens
}

func newKey(t testing.TB, text string) (token, line string) {
	t.Helper()
	id, names, _ := strings.Cut(text, ":")
	scopes, err := auth.ParseScopes(names)
	require.NoError(t, err)
	token, line, err = auth.Generate(id, scopes)
	require.NoError(t, err)
	return token, line
}

func (f *keyFile) write(lines ...string) {
	f.t.Helper()
	require.NoError(f.t, os.WriteFile(f.path, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
}

func TestEveryRouteNeedsItsScope(t *testing.T) {
	t.Parallel()
	file, tokens := newKeyFile(t, "reader:read", "writer:write", "both:read,write", "boss:admin")
	i := launch(t, map[string]string{"STOCKROOM_API_KEYS_FILE": file.path})
	has := map[string]auth.Scopes{"reader": auth.Read, "writer": auth.Write, "both": auth.Read | auth.Write, "boss": auth.Read | auth.Write | auth.Admin}
	operations := contractOperations(t)
	require.GreaterOrEqual(t, len(operations), 25)
	for _, o := range operations {
		needs := o.scope()
		require.Equal(t, needs == 0, !strings.HasPrefix(o.pattern, "/v1/") && !strings.HasPrefix(o.pattern, "/r/"), "%s", o)
		for name, token := range map[string]string{"none": "", "unknown": "sr_reader_" + strings.Repeat("x", 43)} {
			var headers []string
			if token != "" {
				headers = []string{"Authorization", "Bearer " + token}
			}
			r := i.send(o.method, o.path("guarded"), "{}", headers...)
			if needs == 0 {
				want := http.StatusOK
				if strings.Contains(o.pattern, "{") {
					want = http.StatusNotFound // open as well, but there is no such thing
				}
				require.Equal(t, want, r.status, "%s, key %s", o, name)
				continue
			}
			require.Equal(t, http.StatusUnauthorized, r.status, "%s, key %s", o, name)
			require.Len(t, r.header["Www-Authenticate"], 1, "%s, key %s", o, name)
			require.Regexp(t, `^Bearer realm="`, r.header.Get("WWW-Authenticate"))
			require.Equal(t, token != "", strings.Contains(r.header.Get("WWW-Authenticate"), `error="invalid_token"`), "RFC 6750, section 3.1")
		}
		for id, scopes := range has {
			r := i.send(o.method, o.path("guarded"), "{}", "Authorization", "Bearer "+tokens[id])
			if scopes&needs == needs {
				require.NotContains(t, []int{http.StatusUnauthorized, http.StatusForbidden}, r.status, "%s, key %s", o, id)
				require.Less(t, r.status, http.StatusInternalServerError, "%s, key %s", o, id)
			} else {
				require.Equal(t, http.StatusForbidden, r.status, "%s, key %s", o, id)
				require.Empty(t, r.header.Get("WWW-Authenticate"))
			}
		}
	}
}

func TestMalformedAuthorization(t *testing.T) {
	t.Parallel()
	file, tokens := newKeyFile(t, "boss:admin")
	i := launch(t, map[string]string{"STOCKROOM_API_KEYS_FILE": file.path})
	i.must(http.MethodPut, "/v1/items/a", `"found"`, "Authorization", "Bearer "+tokens["boss"])
	token := tokens["boss"]
	for _, value := range []string{
		"", " ", "Bearer", "Bearer ", "bearer" + token, token, "Token " + token, "Basic " + token, "Bearer:" + token,
		"Bearer=" + token, "Bearer \"" + token + "\"", "Bearer " + token + " x", "Bearer " + token + "," + token, "Bearer " + token + ";",
		"Bearer " + token[:len(token)-1], "Bearer " + token + "0", "Bearer " + strings.ToUpper(token), "Bearer " + strings.Repeat("x", 50_000),
		"Bearer \xff\xfe", "Bearer *", "Bearer ' OR 1=1 --", "Negotiate, Bearer " + token, "Bearer sr_boss_", "Bearer boss",
	} {
		r := i.send(http.MethodGet, "/v1/items/a", "", "Authorization", value)
		require.Equal(t, http.StatusUnauthorized, r.status, "%.80q", value)
		require.NotEmpty(t, r.header.Get("WWW-Authenticate"))
		require.NotContains(t, r.body, "found")
	}
	for _, value := range []string{"Bearer " + token, "bearer " + token, "BEARER  " + token + " "} {
		require.Equal(t, http.StatusOK, i.send(http.MethodGet, "/v1/items/a", "", "Authorization", value).status, "%q", value)
	}
	// No other place is a place for a key.
	for _, headers := range [][]string{{"X-Api-Key", token}, {"Proxy-Authorization", "Bearer " + token}, {"Cookie", "key=" + token}} {
		require.Equal(t, http.StatusUnauthorized, i.send(http.MethodGet, "/v1/items/a", "", headers...).status)
	}
	require.Equal(t, http.StatusUnauthorized, i.send(http.MethodGet, "/v1/items/a?access_token="+token, "").status)
}

func TestKeysAreRotatedWithoutARestart(t *testing.T) {
	t.Parallel()
	file, tokens := newKeyFile(t, "ci:read", "boss:admin")
	i := launch(t, map[string]string{"STOCKROOM_API_KEYS_FILE": file.path})
	status := func(token string) int {
		return i.send(http.MethodGet, "/v1/frameworks", "", "Authorization", "Bearer "+token).status
	}
	reloaded := 0
	reload := func(message string) line {
		before, _ := i.log.find(func(l line) bool { return l["msg"] == message })
		i.reload <- syscall.SIGHUP
		reloaded++
		var found []line
		until(t, "the keys are read again", func() bool {
			found, _ = i.log.find(func(l line) bool { return l["msg"] == message })
			return len(found) > len(before)
		})
		return found[len(found)-1]
	}
	require.Equal(t, http.StatusOK, status(tokens["ci"]))

	// Both of one id count for as long as both stand there.
	second, line := newKey(t, "ci:read")
	content, err := os.ReadFile(file.path)
	require.NoError(t, err)
	old := strings.Split(strings.TrimSpace(string(content)), "\n")
	file.write(append(old, line)...)
	require.Equal(t, http.StatusUnauthorized, status(second), "not before it is read")
	require.EqualValues(t, 3, reload("API keys read again")["keys"])
	require.Equal(t, http.StatusOK, status(tokens["ci"]))
	require.Equal(t, http.StatusOK, status(second))

	// A key that is gone does not count, on a connection that it has used either.
	file.write(line, old[1])
	reload("API keys read again")
	require.Equal(t, http.StatusUnauthorized, status(tokens["ci"]))
	require.Equal(t, http.StatusOK, status(second))
	require.Equal(t, http.StatusOK, status(tokens["boss"]))

	// A bad file changes nothing, and what stands in it stays out of the log.
	secret, secretLine := newKey(t, "late:read")
	hash := strings.Split(secretLine, ":")[1]
	for name, spoil := range map[string]func(){
		"cut":       func() { file.write(line, old[1], secretLine[:40]) },
		"empty":     func() { file.write() },
		"a token":   func() { file.write(line, old[1], secret) },
		"order":     func() { file.write(line, "late:read:"+hash) },
		"no scope":  func() { file.write(line, old[1], "late:"+hash+":everything") },
		"half good": func() { file.write(secretLine, "nonsense") },
		"a folder": func() {
			require.NoError(t, os.Remove(file.path))
			require.NoError(t, os.Mkdir(file.path, 0o755))
		},
	} {
		spoil()
		require.Equal(t, "ERROR", reload("the API keys stay as they were")["level"], name)
		require.Equal(t, http.StatusOK, status(second), name)
		require.Equal(t, http.StatusOK, status(tokens["boss"]), name)
		require.Equal(t, http.StatusUnauthorized, status(secret), name)
		if info, err := os.Stat(file.path); err == nil && info.IsDir() {
			require.NoError(t, os.Remove(file.path))
		}
	}
	require.NoError(t, os.RemoveAll(file.path))
	reload("the API keys stay as they were")
	require.Equal(t, http.StatusOK, status(second), "the file is gone")
	for _, hidden := range []string{secret, hash, hash[:20], second, tokens["ci"], strings.Split(line, ":")[1], "everything"} {
		require.NotContains(t, i.log.String(), hidden)
	}
	file.write(secretLine)
	reload("API keys read again")
	require.Equal(t, http.StatusOK, status(secret))
	require.Equal(t, http.StatusUnauthorized, status(second))
}

func TestListeningBeyondLoopback(t *testing.T) {
	t.Parallel()
	file, _ := newKeyFile(t, "boss:admin")
	load := func(address string, more ...string) error {
		environ := map[string]string{"STOCKROOM_ADDR": address}
		for pair := range slices.Chunk(more, 2) {
			environ[pair[0]] = pair[1]
		}
		_, err := config.Load(environ)
		return err
	}
	for _, address := range []string{
		"0.0.0.0:8080", ":8080", "[::]:8080", "192.0.2.1:8080", "10.0.0.1:0", "[2001:db8::1]:80", "[::ffff:10.0.0.1]:80", "[fe80::1%eth0]:80",
		"example.org:80", "localhost.example.org:80", "127.0.0.1.example.org:80", "0:80", "127.1:80", "[::127.0.0.1]:80",
	} {
		require.ErrorContains(t, load(address), "STOCKROOM_ALLOW_INSECURE", address)
		require.Error(t, load(address, "STOCKROOM_ALLOW_INSECURE", "false"), address)
		require.NoError(t, load(address, "STOCKROOM_ALLOW_INSECURE", "true"), address)
		require.NoError(t, load(address, "STOCKROOM_API_KEYS_FILE", file.path), address)
	}
	for _, address := range []string{"127.0.0.1:8080", "127.200.0.1:0", "[::1]:8080", "localhost:8080", "LOCALHOST:0", "[::ffff:127.0.0.1]:80"} {
		require.NoError(t, load(address), address)
	}
	// By name, it does so; and says where it is.
	i := launch(t, map[string]string{"STOCKROOM_ADDR": "0.0.0.0:0", "STOCKROOM_ALLOW_INSECURE": "true"})
	require.Equal(t, http.StatusOK, i.send(http.MethodGet, "/v1/items", "").status)
}

// certificate makes a key and a certificate for loopback and returns their files.
func certificate(t testing.TB) (certFile, privateFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stockroom test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	write := func(name, kind string, content []byte) string {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600))
		return path
	}
	return write("cert.pem", "CERTIFICATE", signed), write("key.pem", "PRIVATE KEY", private)
}

func certificates(t testing.TB, file string) *x509.CertPool {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(content))
	return pool
}

func TestTLS(t *testing.T) {
	t.Parallel()
	certFile, keyPath := certificate(t)
	file, tokens := newKeyFile(t, "boss:admin")
	i := launch(t, map[string]string{
		"STOCKROOM_TLS_CERT_FILE": certFile, "STOCKROOM_TLS_KEY_FILE": keyPath, "STOCKROOM_API_KEYS_FILE": file.path,
	})
	bearer := []string{"Authorization", "Bearer " + tokens["boss"]}
	r := i.must(http.MethodPut, "/v1/items/a", `"behind TLS"`, bearer...)
	require.Equal(t, 2, r.major, "HTTP/2")
	require.Equal(t, `"behind TLS"`, i.must(http.MethodGet, "/v1/items/a", "", bearer...).body)
	require.Equal(t, http.StatusUnauthorized, i.send(http.MethodGet, "/v1/items/a", "").status)

	// HTTP/1.1 on the same port.
	old := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: certificates(t, certFile), NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}}
	defer old.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, i.url+"/v1/items/a", http.NoBody)
	require.NoError(t, err)
	request.Header.Set("Authorization", bearer[1])
	response, err := old.RoundTrip(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, 1, response.ProtoMajor)
	require.Equal(t, http.StatusOK, response.StatusCode)

	// Plain HTTP gets nothing, be the key right or not.
	answer := i.raw("GET /v1/items/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + bearer[1] + "\r\n\r\n")
	require.Equal(t, http.StatusBadRequest, rawStatus(t, answer))
	require.NotContains(t, answer, "behind")
	require.NotContains(t, i.raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "behind")
	answer = i.raw("PUT /v1/items/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + bearer[1] + "\r\nContent-Length: 1\r\n\r\n1")
	require.Equal(t, http.StatusBadRequest, rawStatus(t, answer))
	require.Equal(t, `"behind TLS"`, i.must(http.MethodGet, "/v1/items/a", "", bearer...).body)

	for version, name := range map[uint16]string{tls.VersionTLS10: "1.0", tls.VersionTLS11: "1.1"} {
		_, err := tls.Dial("tcp", i.address, &tls.Config{RootCAs: certificates(t, certFile), MinVersion: version, MaxVersion: version})
		require.ErrorContains(t, err, "protocol version", "TLS %s", name)
	}
	require.NotContains(t, i.log.String(), tokens["boss"])
}

// TestSlowClients keeps a service of one slot, for which nobody may wait, busy
// with clients that take all the time in the world.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes the ten seconds that the service gives a client")
	}
	certFile, keyPath := certificate(t)
	// An answer that no buffer between here and there can take.
	const parts, partBytes = 4, 4 << 20
	keys := make([]string, parts)
	full := launch(t, nil)
	for n := range parts {
		keys[n] = fmt.Sprintf("big-%d", n)
		full.must(http.MethodPut, "/v1/items/"+keys[n], `"`+strings.Repeat("x", partBytes)+`"`)
	}
	variables := map[string]string{
		"STOCKROOM_REQUEST_TIMEOUT": "2s", "STOCKROOM_DB_MAX_CONCURRENCY": "1", "STOCKROOM_DB_QUEUE_LENGTH": "0", "STOCKROOM_CACHE_BYTES": "0",
		"DATABASE_URL": full.dsn,
	}
	plain := launch(t, variables)
	variables["STOCKROOM_TLS_CERT_FILE"], variables["STOCKROOM_TLS_KEY_FILE"] = certFile, keyPath
	secure := launch(t, variables)

	all, err := json.Marshal(map[string]any{"keys": keys})
	require.NoError(t, err)
	mgets := func(l line) bool { return l["msg"] == "request" && l["route"] == "/v1/mget" }

	// dial connects, says the first words and then one byte after the other, and
	// returns what the service said before it hung up.
	dial := func(i *instance, first, drop string) (string, error) {
		conn, err := net.Dial("tcp", i.address)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, first); err != nil {
			return "", err
		}
		answer := make(chan string, 1)
		go func() {
			text, _ := io.ReadAll(conn) // reset is an end as well
			answer <- string(text)
		}()
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case text := <-answer:
				return text, nil
			case <-ticker.C:
				_, _ = io.WriteString(conn, drop) // a failure shows in the answer
			}
		}
	}
	var answered sync.WaitGroup // those who now do not read
	answered.Add(2)
	slow := map[string]func(ctx context.Context) error{
		"nothing is sent": func(context.Context) error {
			answer, err := dial(plain, "", "")
			if answer != "" {
				return fmt.Errorf("answered %q", answer)
			}
			return err
		},
		"header by header": func(context.Context) error {
			answer, err := dial(plain, "GET /v1/items HTTP/1.1\r\nHost: localhost\r\n", "X-A: b\r\n")
			if strings.Contains(answer, " 200 ") {
				return fmt.Errorf("answered %q", answer)
			}
			return err
		},
		"one endless header": func(context.Context) error {
			_, err := dial(plain, "GET /v1/items HTTP/1.1\r\nHost: localhost\r\nX-A: ", "a")
			return err
		},
		"no TLS handshake": func(context.Context) error {
			_, err := dial(secure, "\x16\x03\x01\x02\x00\x01", "\x00")
			return err
		},
		"body": func(context.Context) error {
			answer, err := dial(plain, "PUT /v1/items/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n\"", "x")
			if err == nil && !strings.Contains(answer, "request_timeout") {
				err = fmt.Errorf("answered %q", answer)
			}
			return err
		},
		"body in chunks": func(context.Context) error {
			answer, err := dial(plain, "PUT /v1/items/slow HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\"\r\n", "1\r\nx\r\n")
			if err == nil && !strings.Contains(answer, "request_timeout") {
				err = fmt.Errorf("answered %q", answer)
			}
			return err
		},
		"body over HTTP/2": func(ctx context.Context) error {
			body, w := io.Pipe()
			defer w.Close()
			r, err := http.NewRequestWithContext(ctx, http.MethodPut, secure.url+"/v1/items/slow", body)
			if err != nil {
				return err
			}
			response, err := secure.client.Do(r)
			if err != nil {
				return nil // the stream was reset, which is good enough
			}
			defer func() { _ = response.Body.Close() }()
			if response.StatusCode != http.StatusServiceUnavailable {
				return fmt.Errorf("answered %d", response.StatusCode)
			}
			return nil
		},
		"reader": func(ctx context.Context) error {
			conn, err := net.Dial("tcp", plain.address)
			if err != nil {
				return err
			}
			defer conn.Close()
			tcp, ok := conn.(*net.TCPConn)
			if !ok {
				return errors.New("not TCP")
			}
			if err := tcp.SetReadBuffer(4 << 10); err != nil {
				return err
			}
			if _, err := fmt.Fprintf(conn, "POST /v1/mget HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(all), all); err != nil {
				return err
			}
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				return err
			}
			answered.Done()
			return cutShort(ctx, plain, mgets, parts*partBytes)
		},
		"reader over HTTP/2": func(ctx context.Context) error {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, secure.url+"/v1/mget", bytes.NewReader(all))
			if err != nil {
				return err
			}
			response, err := secure.client.Do(r)
			if err != nil {
				return err
			}
			defer func() { _ = response.Body.Close() }()
			answered.Done()
			return cutShort(ctx, secure, mgets, parts*partBytes)
		},
	}
	// What the service gives a client is at most twelve seconds: ten beyond the
	// time of a request.
	const bound = 12*time.Second + 4*time.Second
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	var clients sync.WaitGroup
	for name, client := range slow {
		clients.Go(func() {
			began := time.Now()
			if err := client(ctx); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(began); took > bound || took < 900*time.Millisecond {
				t.Errorf("%s: cut after %v", name, took)
			}
		})
	}
	ended := make(chan struct{})
	go func() {
		clients.Wait()
		close(ended)
	}()
	// From when the readers' reads are done, nobody else notices.
	answered.Wait()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for others := 0; ; others++ {
		for _, i := range []*instance{plain, secure} {
			began := time.Now()
			i.must(http.MethodPut, "/v1/items/quick", strconv.Itoa(others))
			require.Equal(t, strconv.Itoa(others), i.must(http.MethodGet, "/v1/items/quick", "").body)
			require.Less(t, time.Since(began), 5*time.Second)
		}
		select {
		case <-ticker.C:
			continue
		case <-ended:
		}
		require.Greater(t, others, 10)
		break
	}
	// And nothing of them is left.
	for _, i := range []*instance{plain, secure} {
		i.client.CloseIdleConnections()
		until(t, "the slow clients' connections are gone", func() bool {
			return i.metrics()[`stockroom_connections{type="http"}`] == 1
		})
	}
	require.Equal(t, http.StatusNotFound, plain.send(http.MethodGet, "/v1/items/slow", "").status)
}

// cutShort waits until the service has ended a request before its answer was out.
func cutShort(ctx context.Context, i *instance, matches func(line) bool, whole float64) error {
	for {
		found, changed := i.log.find(matches)
		if len(found) > 0 {
			if sent, _ := found[0]["bytes"].(float64); sent >= whole {
				return fmt.Errorf("%v bytes were sent to a client that does not read", sent)
			}
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.New("the request goes on")
		}
	}
}

// TestClaimedLengthsCostNothing has many clients say that large bodies will come.
func TestClaimedLengthsCostNothing(t *testing.T) {
	i := launch(t, map[string]string{"STOCKROOM_DB_MAX_CONCURRENCY": "2"})
	const clients, claim = 100, 8 << 20
	heap := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := heap()
	for range clients {
		conn, err := net.Dial("tcp", i.address)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		_, err = fmt.Fprintf(conn, "PUT /v1/items/a HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", claim)
		require.NoError(t, err)
		_, err = io.ReadFull(conn, make([]byte, len("HTTP/1.1 100"))) // its handler reads the body now
		require.NoError(t, err)
	}
	require.Less(t, heap()-min(before, heap()), uint64(clients*claim/4), "bytes held for bodies of which nothing has come")
}

func TestHeaderAndBodyLimits(t *testing.T) {
	t.Parallel()
	certFile, keyPath := certificate(t)
	variables := map[string]string{"STOCKROOM_MAX_BODY_BYTES": "1KiB", "STOCKROOM_MAX_BATCH": "3"}
	plain := launch(t, variables)
	variables["STOCKROOM_TLS_CERT_FILE"], variables["STOCKROOM_TLS_KEY_FILE"] = certFile, keyPath
	secure := launch(t, variables)
	for _, i := range []*instance{plain, secure} {
		i.must(http.MethodPut, "/v1/items/a", "1")
		require.Equal(t, http.StatusOK, i.send(http.MethodGet, "/v1/items/a", "", "X-Long", strings.Repeat("x", 60<<10)).status)
		var many []string
		for n := range 3000 {
			many = append(many, "X-"+strconv.Itoa(n), strings.Repeat("x", 30))
		}
		// net/http reads up to 8 KiB beyond the limit before it says so.
		for what, try := range map[string]func() (reply, error){
			"long": func() (reply, error) {
				return i.try(t.Context(), http.MethodGet, "/v1/items/a", "", "X-Long", strings.Repeat("x", 73<<10))
			},
			"many": func() (reply, error) { return i.try(t.Context(), http.MethodGet, "/v1/items/a", "", many...) },
			"path": func() (reply, error) {
				return i.try(t.Context(), http.MethodGet, "/v1/items/"+strings.Repeat("x", 73<<10), "")
			},
			"key": func() (reply, error) {
				return i.try(t.Context(), http.MethodGet, "/v1/items/a", "", "Authorization", "Bearer "+strings.Repeat("x", 73<<10))
			},
		} {
			r, err := try()
			if i == secure { // over HTTP/2 the service says beforehand what it takes
				require.ErrorContains(t, err, "larger than peer's advertised limit", what)
				continue
			}
			require.NoError(t, err, what)
			require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, r.status, what)
		}

		require.Equal(t, http.StatusCreated, i.send(http.MethodPut, "/v1/items/fits", `"`+strings.Repeat("x", 1022)+`"`).status)
		r := i.send(http.MethodPut, "/v1/items/large", `"`+strings.Repeat("x", 1023)+`"`)
		require.Equal(t, http.StatusRequestEntityTooLarge, r.status)
		require.Equal(t, "body_too_large", r.code())
		require.Equal(t, "batch_too_large", i.send(http.MethodPost, "/v1/mget", `{"keys":["a","b","c","d"]}`).code())
		require.Equal(t, http.StatusNotFound, i.send(http.MethodGet, "/v1/items/large", "").status)
	}
	chunked := "PUT /v1/items/large HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("200\r\n"+strings.Repeat("1", 512)+"\r\n", 3) + "0\r\n\r\n"
	require.Equal(t, http.StatusRequestEntityTooLarge, rawStatus(t, plain.raw(chunked)))
	// A claim that is too large is refused before anything of it has come.
	require.Equal(t, http.StatusRequestEntityTooLarge, rawStatus(t, plain.raw("PUT /v1/items/large HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000000000000000\r\n\r\n1")))
	require.Equal(t, http.StatusNotFound, plain.send(http.MethodGet, "/v1/items/large", "").status)
}

// from makes the instance's requests come from an address of this machine.
func (i *instance) from(t testing.TB, address string) *instance {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	transport := &http.Transport{DialContext: dialer.DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	other := *i
	other.client = &http.Client{Transport: transport}
	return &other
}

func TestRateLimitIsPerClient(t *testing.T) {
	t.Parallel()
	const perSecond = 10
	file, tokens := newKeyFile(t, "one:read,write", "two:admin")
	guarded := launch(t, map[string]string{"STOCKROOM_API_KEYS_FILE": file.path, "STOCKROOM_RATE_LIMIT": strconv.Itoa(perSecond)})
	open := launch(t, map[string]string{"STOCKROOM_RATE_LIMIT": strconv.Itoa(perSecond)})

	// exhaust asks until it is refused, and says how often it was not.
	exhaust := func(i *instance, headers ...string) int {
		t.Helper()
		for n := range 50 * perSecond { // several seconds' worth, on a slow machine
			// What a client says of its address changes nothing.
			said := fmt.Sprintf("203.0.113.%d", n%250)
			r := i.send(http.MethodGet, "/v1/items?limit=1", "", append(slices.Clone(headers), "X-Forwarded-For", said, "X-Real-Ip", said, "Forwarded", "for="+said, "True-Client-IP", said)...)
			if r.status != http.StatusTooManyRequests {
				continue
			}
			require.Equal(t, "rate_limited", r.code())
			wait, err := strconv.Atoi(r.header.Get("Retry-After"))
			require.NoError(t, err)
			require.Positive(t, wait)
			return n
		}
		require.FailNow(t, "never refused")
		return 0
	}
	one, two := []string{"Authorization", "Bearer " + tokens["one"]}, []string{"Authorization", "Bearer " + tokens["two"]}
	require.GreaterOrEqual(t, exhaust(guarded, one...), perSecond)
	require.Equal(t, http.StatusOK, guarded.send(http.MethodGet, "/v1/items", "", two...).status, "another key, another client")
	// A request that is refused is one, too.
	exhaust(guarded, "Authorization", "Bearer guessed")
	r := guarded.send(http.MethodGet, "/v1/items", "", "Authorization", "Bearer guessed again")
	require.Contains(t, []int{http.StatusTooManyRequests, http.StatusUnauthorized}, r.status)
	require.Equal(t, http.StatusOK, guarded.send(http.MethodGet, "/v1/items", "", two...).status, "nor does somebody's guessing shut out a key")

	require.GreaterOrEqual(t, exhaust(open), perSecond)
	if runtime.GOOS == "linux" { // which has all of 127.0.0.0/8
		require.Equal(t, http.StatusOK, open.from(t, "127.0.0.2").send(http.MethodGet, "/v1/items", "").status, "another address, another client")
	}
	for range 5 * perSecond {
		for _, probe := range []string{"/livez", "/readyz", "/metrics", "/openapi.yaml"} {
			require.Equal(t, http.StatusOK, open.send(http.MethodGet, probe, "").status, "probes are not limited")
		}
	}
	// A while later it may ask again.
	until(t, "the limit has passed", func() bool { return open.send(http.MethodGet, "/v1/items", "").status == http.StatusOK })
}

func TestPagesOfOtherSitesCannotWrite(t *testing.T) {
	t.Parallel()
	i := launch(t, nil)
	i.must(http.MethodPut, "/v1/items/kept", "1")
	foreign := [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Origin", "https://example.org"},
		{"Origin", "null"},
		{"Origin", "http://localhost:1"},
		{"Origin", "https://example.org", "Content-Type", "text/plain"},
		{"Sec-Fetch-Site", "cross-site", "Origin", i.url},
	}
	own := [][]string{
		{},
		{"Sec-Fetch-Site", "same-origin", "Origin", i.url},
		{"Sec-Fetch-Site", "none"},
		{"Origin", i.url},
	}
	for _, o := range contractOperations(t) {
		writes := o.method != http.MethodGet && o.method != http.MethodHead
		for _, headers := range foreign {
			r := i.send(o.method, o.path("kept"), "{}", headers...)
			if writes {
				require.Equal(t, http.StatusForbidden, r.status, "%s %v", o, headers)
				require.Equal(t, "forbidden", r.code())
			} else {
				require.NotEqual(t, http.StatusForbidden, r.status, "%s %v", o, headers)
			}
			// What a page of another site may read is the browser's to decide; it is
			// told nothing that would let it.
			for _, name := range []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials"} {
				require.Empty(t, r.header.Get(name), "%s %v", o, headers)
			}
		}
	}
	require.Equal(t, "1", i.must(http.MethodGet, "/v1/items/kept", "").body)
	for _, headers := range own {
		i.must(http.MethodPut, "/v1/items/kept", "2", headers...)
		i.must(http.MethodPost, "/v1/mset", `{"entries":{"kept":2}}`, headers...)
	}
	// A preflight is answered with no permission.
	r := i.send(http.MethodOptions, "/v1/items/kept", "", "Origin", "https://example.org", "Access-Control-Request-Method", "PUT")
	require.GreaterOrEqual(t, r.status, http.StatusBadRequest)
	require.Empty(t, r.header.Get("Access-Control-Allow-Origin"))
}

// TestOddRequestTargets writes requests byte by byte: each gets no item, or the
// one that it means.
func TestOddRequestTargets(t *testing.T) {
	t.Parallel()
	i := launch(t, nil)
	const inside = "what stands in an item"
	for _, key := range []string{"secret", "dir%2Fsecret", "%2Esecret", "a:b"} {
		i.must(http.MethodPut, "/v1/items/"+key, `"`+inside+`"`)
	}
	i.must(http.MethodPut, "/v1/components/react/button", `{"sourceCode":"`+inside+`"}`)
	i.must(http.MethodPut, "/v1/blocks/react/login", `{"files":["`+inside+`"]}`)
	before := i.must(http.MethodGet, "/v1/items", "").body

	request := func(method, target string) string {
		return method + " " + target + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
	}
	nothing := []string{
		// dots
		"/v1/items/.", "/v1/items/..", "/v1/items/%2e", "/v1/items/%2e%2e", "/v1/items/%2E%2E", "/v1/items/.%2e", "/v1/items/%2e%2e%2fsecret", "/v1/items/..%2Fsecret",
		"/v1/items/./secret", "/v1/items/x/../secret", "/v1/items/%2e/secret", "/v1/items/x/%2e%2e/secret", "/./v1/items/secret", "/v1/./items/secret", "/../v1/items/secret", "/v1/items/secret/.",
		"/v1/components/react/..%2f..%2fitems%2fsecret", "/v1/components/../items/secret", "/v1/components/react/%2e%2e", "/v1/components/%2e%2e/button", "/v1/components/react/./button",
		"/r/react/%2e%2e.json", "/r/react/..%2fbutton.json", "/r/../v1/items/secret", "/r/react/../button.json",
		// slashes
		"//v1/items/secret", "///v1/items/secret", "/v1//items/secret", "/v1/items//secret", "/v1/items/secret/", "/v1/items/secret//", "/v1/items/dir/secret", "/v1%2Fitems%2Fsecret", "/v1/items%2Fsecret",
		"//localhost/v1/items/secret", "/v1/items/\\secret", "/v1\\items\\secret", "/v1/items/dir\\secret", "/v1/items/dir%5Csecret", "/v1/components//react/button",
		// bytes that are no character, or none that a key may have
		"/v1/items/secret%00", "/v1/items/%00secret", "/v1/items/secret%00.json", "/v1/items/%c0%ae", "/v1/items/%c0%ae%c0%ae/secret", "/v1/items/%c0%aesecret", "/v1/items/%e0%80%aesecret", "/v1/items/%f0%80%80%aesecret",
		"/v1/items/dir%c0%afsecret", "/v1/items/secret%ff", "/v1/items/secret%ed%a0%80", "/v1/items/secret%0a", "/v1/items/secret%0d%0aX-Injected:%20yes", "/v1/items/secret%7f", "/v1/items/secret%09",
		"/v1/items/secr\xc0\xaeet", "/v1/items/secret\x00", "/v1/items/secret\x7f",
		// broken and double encodings
		"/v1/items/%", "/v1/items/secret%", "/v1/items/secret%2", "/v1/items/secret%zz", "/v1/items/secret%u0041", "/v1/items/%252e%252e", "/v1/items/%2573ecret", "/v1/items/dir%252Fsecret", "/v1/items/%25%32%65secret", "/v1/items/%252Esecret",
		// what looks alike
		"/v1/items/SECRET", "/v1/items/Secret", "/V1/items/secret", "/v1/Items/secret", "/v1/items/secret%20", "/v1/items/%20secret", "/v1/items/secret+", "/v1/items/secret;x", "/v1/items/secret%3Fx", "/v1/items/secret%23x", "/v1/items/secret#x",
		"/v1/items/secre%74%CC%81", "/v1/items/s%D0%B5cret", "/v1/items/%EF%BD%93ecret", "/v1/items/secret%E2%80%8B", "/v1/items/%EF%BB%BFsecret", "/v1/items/secret?x=1", "/v1/items/secret?", // the last is asked for below
		"/v1/components/react:button/x", "/v1/components/react%3Abutton/x", "/v1/components/react/button%3A", "/v1/components/React/button", "/v1/blocks/react/button", "/v1/components/react/login", "/v1/items/component:react:button:",
		"/r/react/button", "/r/react/button.json.json", "/r/react/button.JSON", "/r/react/button.json/", "/r/react:button/x.json",
		// targets of other forms
		"*", "http:v1/items/secret", "http:///v1/items/secret%00", "http://localhost/../v1/items/secret", "http://localhost//v1/items/secret", "http://localhost",
		"v1/items/secret", "?/v1/items/secret", "", "/", "mailto:secret", "file:///v1/items/secret/x", "localhost:80",
	}
	for _, target := range nothing {
		if target == "/v1/items/secret?" {
			continue // an empty query is no query
		}
		for _, method := range []string{http.MethodGet, http.MethodDelete, http.MethodPut} {
			answer := i.raw(request(method, target))
			require.Contains(t, []int{http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType}, rawStatus(t, answer), "%s %q: %s", method, target, answer)
			require.NotContains(t, answer, inside, "%s %q", method, target)
			require.NotContains(t, answer, "\nX-Injected", "%s %q", method, target)
		}
	}
	require.Equal(t, before, i.must(http.MethodGet, "/v1/items", "").body, "nothing came, nothing went")

	// The same item in other words (RFC 3986, section 6.2.2; RFC 9112, section 3.2).
	for _, target := range []string{
		"/v1/items/secret", "/v1/items/secret?", "/v1/items/%73ecret", "/v1/items/%73%65%63%72%65%74", "/v1/items/dir%2Fsecret", "/v1/items/dir%2fsecret", "/v1/items/.secret", "/v1/items/%2esecret", "/v1/items/a:b", "/v1/items/a%3Ab", "/v1/items/a%3ab",
		"/v1/components/react/%62utton", "/v1/items/component:react:button", "/v1/items/component%3areact%3Abutton", "http://localhost/v1/items/secret", "http://127.0.0.1:1/v1/items/secret", "HTTP://x@localhost/v1/items/secret",
	} {
		answer := i.raw(request(http.MethodGet, target))
		require.Equal(t, http.StatusOK, rawStatus(t, answer), "%q: %s", target, answer)
		require.Contains(t, answer, inside, "%q", target)
	}
	require.NotContains(t, i.log.String(), `"level":"ERROR"`)
}

// TestAmbiguousFraming sends requests of which two servers could make different
// ones: what one takes for a body must not be a request to the other.
func TestAmbiguousFraming(t *testing.T) {
	t.Parallel()
	i := launch(t, nil)
	const victim = "DELETE /v1/items/victim HTTP/1.1\r\nHost: localhost\r\n\r\n"
	i.must(http.MethodPut, "/v1/items/victim", `"here"`)
	for name, tc := range map[string]struct {
		head, body string
		statuses   []int // none: anything, if only the rest of the connection is not believed
	}{
		"length and chunks":                 {"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", nil},
		"chunks and length":                 {"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n", nil},
		"length and chunks, 100-continue":   {"Content-Length: 4\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n", "0\r\n\r\n", nil},
		"two lengths":                       {"Content-Length: 0\r\nContent-Length: 5\r\n", "", []int{400}},
		"two lengths in one line":           {"Content-Length: 0, 5\r\n", "", []int{400}},
		"negative length":                   {"Content-Length: -1\r\n", "", []int{400}},
		"length with a sign":                {"Content-Length: +0\r\n", "", []int{400}},
		"length in hex":                     {"Content-Length: 0x0\r\n", "", []int{400}},
		"length that is none":               {"Content-Length: \r\n", "", []int{400}},
		"length with a space":               {"Content-Length : 0\r\n", "", []int{400}},
		"other coding":                      {"Transfer-Encoding: gzip\r\n", "0\r\n\r\n", []int{400, 501}},
		"two codings":                       {"Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n", []int{400, 501}},
		"two lines of coding":               {"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n", []int{400, 501}},
		"coding with a tab":                 {"Transfer-Encoding:\x0bchunked\r\n", "0\r\n\r\n", []int{400, 501}},
		"coding with a space before colon":  {"Transfer-Encoding : chunked\r\n", "0\r\n\r\n", []int{400, 501}},
		"coding that is folded":             {"X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 0\r\nContent-Length: 1\r\n", "", []int{400}},
		"coding quoted":                     {"Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n", []int{400, 501}},
		"chunk with a sign":                 {"Transfer-Encoding: chunked\r\n", "+0\r\n\r\n", []int{400}},
		"chunk in 0x":                       {"Transfer-Encoding: chunked\r\n", "0x0\r\n\r\n", []int{400}},
		"chunk beyond 64 bits":              {"Transfer-Encoding: chunked\r\n", "10000000000000000\r\n\r\n", []int{400}},
		"chunk without CR":                  {"Transfer-Encoding: chunked\r\n", "1\n1\n0\n\n", []int{400}},
		"chunk with a bare LF in extension": {"Transfer-Encoding: chunked\r\n", "1;a\n1\r\n0\r\n\r\n", []int{400}},
		"chunk that does not end":           {"Transfer-Encoding: chunked\r\n", "1\r\n12\r\n0\r\n\r\n", []int{400}},
		"two hosts":                         {"Host: y\r\nContent-Length: 0\r\n", "", []int{400}},
		"header with NUL":                   {"X: a\x00b\r\nContent-Length: 0\r\n", "", []int{400}},
		"header without a name":             {": x\r\nContent-Length: 0\r\n", "", []int{400}},
		"header with CR":                    {"X: a\rContent-Length: 9\r\nContent-Length: 0\r\n", "", []int{400}},
	} {
		for n, route := range []string{"POST /v1/mget", "PUT /v1/items/other", "GET /v1/items", "GET /livez", "POST /nowhere"} {
			answer := i.raw(route + " HTTP/1.1\r\nHost: localhost\r\n" + tc.head + "\r\n" + tc.body + victim)
			status := rawStatus(t, answer)
			if readsBody := n < 2; readsBody && tc.statuses != nil {
				require.Contains(t, tc.statuses, status, "%s, %s: %s", name, route, answer)
			}
			if i.send(http.MethodGet, "/v1/items/victim", "").status != http.StatusOK {
				i.must(http.MethodPut, "/v1/items/victim", `"here"`)
				t.Errorf("%s, %s: the second request was obeyed, the first answered with %d", name, route, status)
			}
		}
	}
	// HTTP/1.0 knows no chunks: to an older server the body is of the length said.
	answer := i.raw("POST /v1/mget HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + victim)
	if i.send(http.MethodGet, "/v1/items/victim", "").status != http.StatusOK {
		t.Errorf("HTTP/1.0 with chunks: the second request was obeyed, the first answered with %d", rawStatus(t, answer))
	}
}

// TestNoSecretInAnyLog sends marked values wherever a client or an operator can
// put one, has them accepted, refused and fail, and looks for the marks in all
// that is logged at the most talkative level.
func TestNoSecretInAnyLog(t *testing.T) {
	t.Parallel()
	const mark = "mark-me-"
	file, tokens := newKeyFile(t, "boss:admin", "reader:read")
	dsn, err := url.Parse(pgtest.New(t))
	require.NoError(t, err)
	password, _ := dsn.User.Password()
	if password == "" { // where PostgreSQL asks for none
		password = mark + "password"
		dsn.User = url.UserPassword(dsn.User.Username(), password)
	}
	i := launch(t, map[string]string{
		"STOCKROOM_API_KEYS_FILE": file.path, "DATABASE_URL": dsn.String(), "STOCKROOM_MAX_BODY_BYTES": "4KiB",
		"STOCKROOM_MAX_BYTES": "1MiB", "STOCKROOM_BREAKER_FAILURES": "100",
		// A collector that is away.
		"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:" + mark + "collector@127.0.0.1:1",
		"OTEL_EXPORTER_OTLP_HEADERS":  "Authorization=Bearer%20" + mark + "header",
		"OTEL_RESOURCE_ATTRIBUTES":    "deployment=" + mark + "resource",
	})
	conn := pgtest.Connect(t, i.dsn)
	bearer := []string{"Authorization", "Bearer " + tokens["boss"]}
	send := func(method, path, body string, headers ...string) reply {
		return i.send(method, path, body, append(slices.Clone(bearer), headers...)...)
	}
	n := 0
	marked := func() string { n++; return mark + strconv.Itoa(n) }

	// Accepted.
	require.Equal(t, 201, send("PUT", "/v1/items/a", `{"token":"`+marked()+`"}`).status)
	require.Equal(t, 201, send("PUT", "/v1/components/react/button", `{"sourceCode":"`+marked()+`","demoCode":"`+marked()+`","metadata":{"x":"`+marked()+`"}}`).status)
	require.Equal(t, 201, send("PUT", "/v1/blocks/react/login", `{"files":[{"content":"`+marked()+`"}],"description":"`+marked()+`"}`).status)
	require.Equal(t, 201, send("PUT", "/r/react/card.json", `{"name":"card","type":"registry:ui","files":[{"path":"card.tsx","type":"registry:ui","content":"`+marked()+`"}]}`).status)
	require.Equal(t, 200, send("POST", "/v1/mset", `{"entries":{"b":"`+marked()+`","component:vue:b":{"sourceCode":"`+marked()+`"}}}`).status)
	require.Equal(t, 200, send("POST", "/v1/mget", `{"keys":["a","b","c"]}`).status)
	require.Equal(t, 200, send("GET", "/v1/items/a", "").status)
	require.Equal(t, 304, send("GET", "/v1/items/a", "", "If-None-Match", send("HEAD", "/v1/items/a", "").header.Get("ETag")).status)
	require.Equal(t, 200, send("GET", "/v1/items?pattern="+marked(), "").status)
	// Refused.
	for _, body := range []string{
		`{"x":"` + marked() + `"`, `"` + marked() + `" 1`, marked(), `{"` + marked() + `":1,"` + mark + strconv.Itoa(n) + `":2}`,
		`"` + marked() + `\u0000"`, `"` + marked() + `\ud800"`, "\"" + marked() + "\xff\"", strings.Repeat("[", 65) + `"` + marked() + `"` + strings.Repeat("]", 65),
		`"` + marked() + strings.Repeat("x", 5000) + `"`,
	} {
		require.GreaterOrEqual(t, send("PUT", "/v1/items/a", body).status, 400)
	}
	for _, body := range []string{
		`{"sourceCode":["` + marked() + `"]}`, `{"sourceCode":"` + marked() + `","` + marked() + `":1}`, `{"sourceCode":"` + marked() + `","githubSha":"` + marked() + `"}`,
		`{"sourceCode":"","name":"` + marked() + `"}`, `{"sourceCode":"","fileSize":"` + marked() + `"}`, `{"sourceCode":"","lastModified":"` + marked() + `"}`, `{"demoCode":"` + marked() + `"}`,
	} {
		require.GreaterOrEqual(t, send("PUT", "/v1/components/react/button", body).status, 400)
		require.GreaterOrEqual(t, send("POST", "/v1/mset", `{"entries":{"component:react:button":`+body+`}}`).status, 400)
		require.GreaterOrEqual(t, send("PUT", "/r/react/button.json", body).status, 400)
	}
	require.Equal(t, 412, send("PUT", "/v1/items/a", `"`+marked()+`"`, "If-Match", `"`+marked()+`"`).status)
	require.Equal(t, 400, send("PUT", "/v1/items/a", `1`, "If-Match", marked()).status)
	require.Equal(t, 415, send("PUT", "/v1/items/a", marked(), "Content-Type", "text/"+marked()).status)
	require.Equal(t, 400, send("GET", "/v1/items/a?token="+marked(), "").status)
	require.Equal(t, 400, send("GET", "/v1/items?cursor="+marked(), "").status)
	require.Equal(t, 400, send("GET", "/v1/items?pattern="+marked()+"%5C", "").status)
	require.Equal(t, 400, send("PUT", "/v1/items/a?ttl="+marked(), `1`).status)
	require.Equal(t, 403, send("PUT", "/v1/items/a", `"`+marked()+`"`, "Sec-Fetch-Site", "cross-site").status)
	require.Equal(t, 404, send("GET", "/nowhere?"+marked(), "").status)
	require.Equal(t, 405, send("PATCH", "/v1/items/a", marked()).status)
	for _, authorization := range []string{"Bearer " + marked(), "Basic " + marked(), marked(), "Bearer " + tokens["reader"] + marked()} {
		require.Equal(t, 401, i.send("GET", "/v1/items/a", "", "Authorization", authorization).status)
	}
	require.Equal(t, 403, i.send("PUT", "/v1/items/a", `"`+marked()+`"`, "Authorization", "Bearer "+tokens["reader"]).status)
	r := send("GET", "/v1/items/a", "", "X-Request-Id", "no id: "+marked(), "Cookie", "session="+marked(), "X-Api-Key", marked(), "Proxy-Authorization", "Basic "+marked(), "Referer", "http://x/?"+marked(), "User-Agent", marked())
	require.NotContains(t, r.header.Get("X-Request-Id"), mark)
	// Not even HTTP.
	i.raw(marked() + "\r\n\r\n")
	i.raw("GET /v1/items/a?" + marked() + " HTTP/9.9\r\nHost: localhost\r\n\r\n")
	i.raw("GET http://user:" + marked() + "@x/v1/items/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + bearer[1] + "\r\nConnection: close\r\n\r\n")
	i.raw("GET /v1/items/a HTTP/1.1\r\nHost: localhost\r\nAuth\x00orization: Bearer " + marked() + "\r\n\r\n")
	i.raw("PUT /v1/items/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + bearer[1] + "\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + marked() + "\r\n\r\n")

	// Failing in the database, which has the values then, and says so in its own words.
	for _, statement := range []string{
		"ALTER TABLE entries ADD CONSTRAINT c CHECK (key <> 'refused')",
		"ALTER TABLE components ADD CONSTRAINT c CHECK (name <> 'refused')",
		"CREATE UNIQUE INDEX ON entries (value) WHERE key LIKE 'twice%'",
	} {
		_, err := conn.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	require.Equal(t, 500, send("PUT", "/v1/items/refused", `"`+marked()+`"`).status)
	require.Equal(t, 500, send("PUT", "/v1/components/react/refused", `{"sourceCode":"`+marked()+`"}`).status)
	value := marked()
	require.Equal(t, 201, send("PUT", "/v1/items/twice-1", `"`+value+`"`).status)
	require.Equal(t, 500, send("PUT", "/v1/items/twice-2", `"`+value+`"`).status)
	// Sessions that are cut in the middle of a statement.
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "UPDATE entries SET version = version WHERE key = 'a'")
	require.NoError(t, err)
	killed := make(chan reply)
	go func() {
		r, _ := i.try(t.Context(), "PUT", "/v1/items/a", `"`+mark+`killed"`, bearer...)
		killed <- r
	}()
	until(t, "the session is cut", func() bool {
		cut := 0
		require.NoError(t, tx.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'stockroom' AND pg_backend_pid() = ANY (pg_blocking_pids(pid))`).Scan(&cut))
		return cut > 0
	})
	require.Equal(t, 503, (<-killed).status)
	require.NoError(t, tx.Rollback(t.Context()))

	log := func() string { return i.log.String() }
	require.NoError(t, i.stop()) // the traces cannot be delivered, and that is said by now
	require.Contains(t, log(), "request failed", "failures are logged")
	require.Contains(t, log(), "traces cannot be delivered")
	secrets := []string{mark, password, tokens["boss"], tokens["reader"], strings.TrimPrefix(tokens["boss"], "sr_boss_")}
	for _, secret := range secrets {
		require.NotContains(t, log(), secret)
	}

	// A database that cannot be reached, or that does not want us.
	for name, dsn := range map[string]string{
		"refused, URL":           "postgres://boss:" + mark + "1@127.0.0.1:1/stockroom",
		"refused, several hosts": "postgres://boss:" + mark + "1@127.0.0.1:1,127.0.0.1:2/stockroom",
		"refused, keywords":      "host=127.0.0.1 port=1 user=boss password=" + mark + "2 dbname=stockroom",
		"refused, parameter":     "postgres://boss@127.0.0.1:1/stockroom?password=" + mark + "3",
		"no such name":           "postgres://boss:" + mark + "4@stockroom.invalid/stockroom",
		"unreadable":             "postgres://boss:" + mark + "5@127.0.0.1:1/stockroom?sslmode=" + mark + "6",
		"unreadable port":        "host=127.0.0.1 port=x user=boss password=" + mark + "7",
	} {
		i := start(t, map[string]string{"DATABASE_URL": dsn})
		until(t, name+" is logged", func() bool {
			found, _ := i.log.find(func(l line) bool { return l["msg"] == "the database cannot be reached yet" || l["msg"] == "failed" })
			return len(found) > 0
		})
		err := i.stop()
		require.NotContains(t, i.log.String(), mark, name)
		if err != nil {
			require.NotContains(t, err.Error(), mark, name)
		}
	}
}

// TestBodiesThatEndEarly: it is the client's fault, whoever looks: the client, the
// log or the metrics.
func TestBodiesThatEndEarly(t *testing.T) {
	t.Parallel()
	i := launch(t, nil)
	for name, framing := range map[string]string{
		"length": "Content-Length: 10\r\n\r\n\"abc", "chunks": "Transfer-Encoding: chunked\r\n\r\n5\r\n\"abc", "between chunks": "Transfer-Encoding: chunked\r\n\r\n1\r\n\"\r\n",
	} {
		conn, err := net.Dial("tcp", i.address)
		require.NoError(t, err)
		_, err = io.WriteString(conn, "PUT /v1/items/cut HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: cut\r\n"+framing)
		require.NoError(t, err)
		tcp, ok := conn.(*net.TCPConn)
		require.True(t, ok)
		require.NoError(t, tcp.CloseWrite())
		answer, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		require.Equal(t, http.StatusBadRequest, rawStatus(t, string(answer)), "%s: %s", name, answer)
		require.Contains(t, string(answer), "malformed_json", name)
	}
	require.Equal(t, http.StatusNotFound, i.send(http.MethodGet, "/v1/items/cut", "").status)
	failed, _ := i.log.find(func(l line) bool { return l["msg"] == "request" && l["request_id"] == "cut" && l["status"] != 400.0 })
	require.Empty(t, failed)
}

// TestOtherNamesAreNotOurs: a page can make its own name resolve to this machine
// (DNS rebinding). Its browser then takes us for its origin.
func TestOtherNamesAreNotOurs(t *testing.T) {
	t.Parallel()
	file, tokens := newKeyFile(t, "boss:admin")
	bare, told := launch(t, nil), launch(t, map[string]string{"STOCKROOM_ALLOW_INSECURE": "true"})
	keyed := launch(t, map[string]string{"STOCKROOM_API_KEYS_FILE": file.path})
	status := func(i *instance, host, more string) int {
		return rawStatus(t, i.raw("DELETE /v1/items HTTP/1.1\r\nHost: "+host+"\r\nOrigin: http://"+host+"\r\nSec-Fetch-Site: same-origin\r\n"+more+"Connection: close\r\n\r\n"))
	}
	for _, host := range []string{"evil.example:8080", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "0.0.0.0"} {
		require.Equal(t, http.StatusForbidden, status(bare, host, ""), host)
		require.Equal(t, http.StatusOK, status(told, host, ""), host)
		require.Equal(t, http.StatusOK, status(keyed, host, "Authorization: Bearer "+tokens["boss"]+"\r\n"), host)
	}
	for _, host := range []string{"localhost", "LOCALHOST:8080", "localhost.", "stockroom.localhost:1", "127.0.0.1", "127.0.0.2:80", "[::1]:80", "[::1]"} {
		require.Equal(t, http.StatusOK, status(bare, host, ""), host)
	}
	require.Equal(t, http.StatusOK, rawStatus(t, bare.raw("DELETE /v1/items HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")), "no browser")
	require.Equal(t, http.StatusOK, rawStatus(t, bare.raw("GET /readyz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")), "probes")
}
