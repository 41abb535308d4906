package http

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/stockroom/stockroom/internal/item"
	"github.com/stockroom/stockroom/internal/limit"
	"github.com/stockroom/stockroom/internal/txn"
)

// code is the stable name of an answer that is an error. openapi.yaml lists them
// all; those of package item are codes as well.
type code = item.Code

const (
	codeInvalidParameter     code = "invalid_parameter"
	codeInvalidCursor        code = "invalid_cursor"
	codeInvalidHeader        code = "invalid_header"
	codeInvalidBatch         code = "invalid_batch"
	codeNotFound             code = "not_found"
	codeMethodNotAllowed     code = "method_not_allowed"
	codeUnauthorized         code = "unauthorized"
	codeForbidden            code = "forbidden"
	codeRateLimited          code = "rate_limited"
	codeConflict             code = "conflict"
	codeCheckFailed          code = "check_failed"
	codePreconditionFailed   code = "precondition_failed"
	codeBodyTooLarge         code = "body_too_large"
	codeBatchTooLarge        code = "batch_too_large"
	codeUnsupportedMediaType code = "unsupported_media_type"
	codeInternal             code = "internal"
	codeBusy                 code = "busy"
	codeUnavailable          code = "unavailable"
	codeStarting             code = "starting"
	codeShuttingDown         code = "shutting_down"
	codeCommitUnknown        code = "commit_unknown"
	codeRequestTimeout       code = "request_timeout"
)

// statuses is the one place where a code gets its status.
var statuses = map[code]int{
	item.CodeInvalidKey:      http.StatusBadRequest,
	item.CodeInvalidTTL:      http.StatusBadRequest,
	item.CodeMalformedJSON:   http.StatusBadRequest,
	item.CodeDuplicateName:   http.StatusBadRequest,
	item.CodeTooDeep:         http.StatusBadRequest,
	item.CodeWrongType:       http.StatusBadRequest,
	codeInvalidParameter:     http.StatusBadRequest,
	codeInvalidCursor:        http.StatusBadRequest,
	codeInvalidHeader:        http.StatusBadRequest,
	codeInvalidBatch:         http.StatusBadRequest,
	item.CodeUnknownField:    http.StatusUnprocessableEntity,
	item.CodeMissingField:    http.StatusUnprocessableEntity,
	item.CodeKeyMismatch:     http.StatusUnprocessableEntity,
	item.CodeInvalidValue:    http.StatusUnprocessableEntity,
	item.CodeInvalidString:   http.StatusUnprocessableEntity,
	codeUnauthorized:         http.StatusUnauthorized,
	codeForbidden:            http.StatusForbidden,
	codeRateLimited:          http.StatusTooManyRequests,
	codeNotFound:             http.StatusNotFound,
	codeMethodNotAllowed:     http.StatusMethodNotAllowed,
	codeConflict:             http.StatusConflict,
	codeCheckFailed:          http.StatusConflict,
	codePreconditionFailed:   http.StatusPreconditionFailed,
	codeBodyTooLarge:         http.StatusRequestEntityTooLarge,
	codeBatchTooLarge:        http.StatusRequestEntityTooLarge,
	item.CodeTooLarge:        http.StatusRequestEntityTooLarge,
	codeUnsupportedMediaType: http.StatusUnsupportedMediaType,
	codeInternal:             http.StatusInternalServerError,
	codeBusy:                 http.StatusServiceUnavailable,
	codeUnavailable:          http.StatusServiceUnavailable,
	codeStarting:             http.StatusServiceUnavailable,
	codeShuttingDown:         http.StatusServiceUnavailable,
	codeCommitUnknown:        http.StatusServiceUnavailable,
	codeRequestTimeout:       http.StatusServiceUnavailable,
}

// meanings translates the errors of the floors below, first match first. The
// details are for callers: nothing internal is in them.
var meanings = []struct {
	err    error
	code   code
	detail string
}{
	{ErrStarting, codeStarting, "the service is starting and cannot reach its data yet"},
	{ErrShuttingDown, codeShuttingDown, "the service is shutting down"},
	{item.ErrNotFound, codeNotFound, "there is no such item"},
	{item.ErrPreconditionFailed, codePreconditionFailed, "the item is not what If-Match or If-None-Match requires"},
	{item.ErrConflict, codeConflict, "an item of the other kind, component or block, has this name"},
	{item.ErrTooLarge, item.CodeTooLarge, "the item is larger than the limit of the store"},
	{item.ErrBatchTooLarge, codeBatchTooLarge, "the batch is larger than the limit of the store"},
	{item.ErrTouchedTooLarge, codeBatchTooLarge, "what the transaction sets and touches is together larger than the limit of the store"},
	{item.ErrDemoTooLarge, codeBatchTooLarge, "a component and its demo, which is stored with it, are together larger than the limit of the store"},
	{txn.ErrCommitUnknown, codeCommitUnknown, "the connection to the database was lost while committing: the request was carried out whole or not at all; read before you repeat it"},
	{limit.ErrBusy, codeBusy, "too many requests are waiting for the database"},
	{limit.ErrClosed, codeShuttingDown, "the service is shutting down"},
	{txn.ErrClosed, codeShuttingDown, "the service is shutting down"},
	{txn.ErrContention, codeBusy, "too many others are changing the same items"},
	// A caller that left reads no answer; who does has been cut off by a shutdown.
	{context.Canceled, codeShuttingDown, "the service is shutting down and could not finish the request"},
	{context.DeadlineExceeded, codeRequestTimeout, "the request took longer than the service allows; nothing of it was carried out"},
	{txn.ErrUnavailable, codeUnavailable, "the database cannot be reached"},
}

// Errors with which a service that is not up answers; see Dependencies.Serving.
var (
	ErrStarting     = errors.New("http: starting")
	ErrShuttingDown = errors.New("http: shutting down")
)

// retryAfterSeconds is how long a 503 tells its caller to wait: until the circuit
// breaker lets somebody through, or else long enough that a crowd of them does not
// make things worse and short enough not to be noticed.
func retryAfterSeconds(err error) int {
	return max(1, int(math.Ceil(txn.RetryAfter(err).Seconds())))
}

// apiError is an error that is only HTTP's: of its headers, parameters or routes.
type apiError struct {
	code   code
	detail string
}

func (e *apiError) Error() string { return string(e.code) + ": " + e.detail }

// problemOf translates any error into the problem that its caller is told.
func problemOf(err error) Problem {
	var fault *item.Fault
	var faults item.Faults
	var api *apiError
	switch {
	case errors.As(err, &faults):
		p := newProblem(faults[0].Code, detailOf(faults))
		details := make([]FieldProblem, len(faults))
		for i, fault := range faults {
			details[i] = fieldProblem(fault)
		}
		p.Errors = details
		return p
	case errors.As(err, &fault):
		p := newProblem(publicCode(fault.Code), fault.Detail)
		if fault.Pointer != "" || fault.Key != "" {
			p.Errors = []FieldProblem{fieldProblem(fault)}
		}
		return p
	case errors.As(err, &api):
		return newProblem(api.code, api.detail)
	}
	for _, meaning := range meanings {
		if errors.Is(err, meaning.err) {
			return newProblem(meaning.code, meaning.detail)
		}
	}
	return newProblem(codeInternal, "")
}

// detailOf says what is wrong with a batch.
func detailOf(faults item.Faults) string {
	first, what := faults[0].Detail, "entries are bad"
	if faults[0].Code == codeCheckFailed {
		first, what = fmt.Sprintf("the check of %q failed: %s", faults[0].Key, first), "checks failed"
	}
	if len(faults) == 1 {
		return first
	}
	return fmt.Sprintf("%d %s; the first: %s", len(faults), what, first)
}

// publicCode folds the codes that differ only by where in HTTP they occur.
func publicCode(c code) code {
	if c == item.CodeInvalidPattern || c == item.CodeInvalidQuery {
		return codeInvalidParameter
	}
	return c
}

func newProblem(c code, detail string) Problem {
	status, ok := statuses[c]
	if !ok {
		c, status = codeInternal, http.StatusInternalServerError
	}
	return Problem{
		Type:   "urn:stockroom:problem:" + string(c),
		Title:  titleOf(c),
		Status: status,
		Code:   string(c),
		Detail: detail,
	}
}

// titleOf returns the code in words, such as "Not found".
func titleOf(c code) string {
	words := strings.NewReplacer("_", " ", "json", "JSON", "ttl", "TTL").Replace(string(c))
	return strings.ToUpper(words[:1]) + words[1:]
}

func fieldProblem(fault *item.Fault) FieldProblem {
	f := FieldProblem{Code: string(fault.Code), Pointer: fault.Pointer, Detail: fault.Detail}
	if fault.Key != "" {
		f.Key = &fault.Key
	}
	return f
}

// writeProblem answers a request with err. The registry view answers in
// application/json with a `message`, since the shadcn CLI shows no other.
func (s *server) writeProblem(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err)
	s.logFailure(r, p, err)
	p.Instance = r.URL.EscapedPath()
	p.RequestID = w.Header().Get(headerRequestID)
	header := w.Header()
	header.Del("ETag")
	header.Del("Last-Modified")
	header.Set("Cache-Control", "no-store")
	if p.Status == http.StatusServiceUnavailable {
		header.Set("Retry-After", strconv.Itoa(retryAfterSeconds(err)))
	}
	var body any = p
	header.Set("Content-Type", "application/problem+json")
	if strings.HasPrefix(r.URL.Path, registryPath) {
		header.Set("Content-Type", "application/json")
		body = RegistryProblem{
			Type: p.Type, Title: p.Title, Status: p.Status, Code: p.Code, Detail: p.Detail,
			Instance: p.Instance, RequestID: p.RequestID, Errors: p.Errors, Message: messageOf(p),
		}
	}
	encoded, encodeErr := encode(body)
	if encodeErr != nil {
		s.log.ErrorContext(r.Context(), "encode a problem", "error", encodeErr)
	}
	header.Set("Content-Length", strconv.Itoa(len(encoded)))
	w.WriteHeader(p.Status)
	_, _ = w.Write(encoded) // a caller that has left reads no answer
}

func messageOf(p Problem) string {
	if p.Detail == "" {
		return p.Title
	}
	return p.Detail
}

// logFailure logs the cause of an answer that is the service's fault. A caller's
// mistake is in the access log only, and a caller that left is nobody's fault.
func (s *server) logFailure(r *http.Request, p Problem, err error) {
	if p.Status < http.StatusInternalServerError || errors.Is(err, context.Canceled) ||
		errors.Is(err, ErrStarting) || errors.Is(err, ErrShuttingDown) {
		return
	}
	s.log.ErrorContext(r.Context(), "request failed", "code", p.Code, "error", err)
}
