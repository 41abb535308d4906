package http

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/go-chi/chi/v5"
	"github.com/swaggest/swgui/v5/static"

	"github.com/stockroom/stockroom/internal/item"
)

// The reference page is Swagger UI, which renders the contract in the browser. All
// that it loads is in this binary.

//go:embed docs
var ownDocs embed.FS

// docsPolicy lets the page load what this server has and nothing else. Swagger UI
// writes styles into its markup and draws its icons from data.
const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// docsPage is the name of the page among its files.
const docsPage = ""

// docsFile is a file of the reference page.
type docsFile struct {
	contentType string
	content     []byte
	gzipped     bool // content is
	etag        string
}

// readDocs returns the files of the page by their names below /docs/.
var readDocs = sync.OnceValues(func() (map[string]docsFile, error) {
	const script, style = "text/javascript; charset=utf-8", "text/css; charset=utf-8"
	files := map[string]docsFile{}
	for _, f := range []struct {
		name, contentType string
		from              fs.FS
		path              string
	}{
		{docsPage, "text/html; charset=utf-8", ownDocs, "docs/page.html"},
		{"start.js", script, ownDocs, "docs/start.js"},
		{"style.css", style, ownDocs, "docs/style.css"},
		{"swagger-ui-bundle.js", script, static.FS, "swagger-ui-bundle.js.gz"},
		{"swagger-ui.css", style, static.FS, "swagger-ui.css.gz"},
	} {
		content, err := fs.ReadFile(f.from, f.path)
		if err != nil {
			return nil, fmt.Errorf("the reference page: %w", err)
		}
		sum := sha256.Sum256(content)
		files[f.name] = docsFile{
			contentType: f.contentType,
			content:     content,
			gzipped:     strings.HasSuffix(f.path, ".gz"),
			etag:        base64.RawURLEncoding.EncodeToString(sum[:16]),
		}
	}
	return files, nil
})

func (s *server) docs(w http.ResponseWriter, r *http.Request) error {
	return writeDocs(w, r, docsPage)
}

func (s *server) docsFile(w http.ResponseWriter, r *http.Request) error {
	return writeDocs(w, r, chi.URLParam(r, "asset"))
}

// writeDocs answers with a file of the page, or with 304 where the caller has it.
func writeDocs(w http.ResponseWriter, r *http.Request, name string) error {
	files, err := readDocs()
	if err != nil {
		return err
	}
	file, ok := files[name]
	if !ok {
		return errNoRoute
	}
	// A malformed header asks for nothing: this is for browsers.
	known, _ := tagsHeader(r, "If-None-Match")
	header := w.Header()
	etag, unpack := file.etag, false
	if file.gzipped {
		header.Set("Vary", "Accept-Encoding")
		if unpack = !acceptsGzip(r); unpack {
			etag += "-unpacked"
		}
	}
	header.Set("ETag", quoted(etag))
	header.Set("Cache-Control", "no-cache") // another version of the server has other files
	header.Set("Content-Security-Policy", docsPolicy)
	header.Set("Referrer-Policy", "no-referrer")
	if !(item.Precondition{IfNoneMatch: known}).Holds(true, etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	content := file.content
	switch {
	case unpack:
		if content, err = unzip(content); err != nil {
			return err
		}
	case file.gzipped:
		header.Set("Content-Encoding", "gzip")
	}
	header.Set("Content-Type", file.contentType)
	header.Set("Content-Length", strconv.Itoa(len(content)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(content) // a caller that has left reads no answer
	return nil
}

func unzip(zipped []byte) ([]byte, error) {
	reader, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		return nil, fmt.Errorf("unpack a file of the reference page: %w", err)
	}
	content, err := io.ReadAll(reader)
	if err != nil {
		return nil, fmt.Errorf("unpack a file of the reference page: %w", err)
	}
	return content, nil
}

var weightZero = regexp.MustCompile(`^\s*[qQ]=0(\.0*)?\s*$`)

// acceptsGzip tells whether the caller names gzip among what it can unpack.
func acceptsGzip(r *http.Request) bool {
	for _, line := range r.Header["Accept-Encoding"] {
		for coding := range strings.SplitSeq(line, ",") {
			name, weight, _ := strings.Cut(coding, ";")
			if strings.EqualFold(strings.TrimSpace(name), "gzip") {
				return !weightZero.MatchString(weight)
			}
		}
	}
	return false
}
