package stockroom

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Error is an answer of the service that refuses a request.
type Error struct {
	Status    int          // of the answer
	Code      string       // what went wrong, stable; "" where the answer is not the service's own
	Detail    string       // what went wrong, for people
	RequestID string       // finds the request in the service's log
	Errors    []FieldError // the places of the error, for a batch one for each bad entry
	// RetryAfter is how long to wait before trying again; 0 where the answer does not say.
	RetryAfter time.Duration
}

// FieldError is one place of an error.
type FieldError struct {
	Key     string `json:"key"`     // of the bad entry, in a batch
	Pointer string `json:"pointer"` // where in the body (RFC 6901)
	Code    string `json:"code"`
	Detail  string `json:"detail"`
}

// Error says what went wrong.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "stockroom: %d", e.Status)
	if e.Code != "" {
		b.WriteString(" " + e.Code)
	}
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	if e.RequestID != "" {
		b.WriteString(" (request " + e.RequestID + ")")
	}
	return b.String()
}

// Kinds of errors, for errors.Is.
var (
	ErrInvalid            = errors.New("stockroom: invalid request")                    // 400, 415, 422
	ErrUnauthorized       = errors.New("stockroom: no valid API key")                   // 401
	ErrForbidden          = errors.New("stockroom: the API key lacks the scope")        // 403
	ErrNotFound           = errors.New("stockroom: not found")                          // 404
	ErrConflict           = errors.New("stockroom: conflict")                           // 409
	ErrCheckFailed        = errors.New("stockroom: a check of a transaction failed")    // 409 check_failed
	ErrPreconditionFailed = errors.New("stockroom: the item is not as was required")    // 412
	ErrTooLarge           = errors.New("stockroom: too large")                          // 413
	ErrRateLimited        = errors.New("stockroom: too many requests")                  // 429
	ErrBusy               = errors.New("stockroom: busy, nothing was done")             // 503, but for the next one
	ErrCommitUnknown      = errors.New("stockroom: the write may have happened or not") // 503 commit_unknown
)

// ErrNotModified is the error of a read with [IfNoneMatch] where the item has that
// ETag still.
var ErrNotModified = errors.New("stockroom: not modified")

const (
	codeCheckFailed   = "check_failed"
	codeCommitUnknown = "commit_unknown"
)

// Is makes errors.Is tell the kinds of errors apart.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrCheckFailed:
		return e.Code == codeCheckFailed
	case ErrCommitUnknown:
		return e.Code == codeCommitUnknown
	case ErrBusy:
		return e.Status == http.StatusServiceUnavailable && e.Code != codeCommitUnknown
	}
	kind, ok := kinds[e.Status]
	return ok && kind == target
}

// kinds are those that the status tells.
var kinds = map[int]error{
	http.StatusBadRequest:            ErrInvalid,
	http.StatusUnsupportedMediaType:  ErrInvalid,
	http.StatusUnprocessableEntity:   ErrInvalid,
	http.StatusUnauthorized:          ErrUnauthorized,
	http.StatusForbidden:             ErrForbidden,
	http.StatusNotFound:              ErrNotFound,
	http.StatusConflict:              ErrConflict,
	http.StatusPreconditionFailed:    ErrPreconditionFailed,
	http.StatusRequestEntityTooLarge: ErrTooLarge,
	http.StatusTooManyRequests:       ErrRateLimited,
}

// foreignDetail is how much is kept of an answer that is not the service's own.
const foreignDetail = 200

// newError returns the error that an answer says.
func newError(response *http.Response, content []byte) *Error {
	var problem struct {
		Code      string       `json:"code"`
		Detail    string       `json:"detail"`
		RequestID string       `json:"request_id"`
		Errors    []FieldError `json:"errors"`
	}
	e := &Error{Status: response.StatusCode, RequestID: response.Header.Get("X-Request-Id"), RetryAfter: retryAfter(response.Header)}
	switch {
	case json.Unmarshal(content, &problem) == nil && problem.Code != "":
		e.Code, e.Detail, e.Errors = problem.Code, problem.Detail, problem.Errors
	case len(content) == 0: // HEAD
		e.Detail = http.StatusText(response.StatusCode)
	default: // of a proxy
		e.Detail = strings.ToValidUTF8(string(content[:min(len(content), foreignDetail)]), "")
	}
	return e
}

// retryAfter returns what the header of this name says, in either of its forms (RFC
// 9110, section 10.2.3).
func retryAfter(header http.Header) time.Duration {
	text := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}

// checkName refuses what cannot be a segment of a path, since it would be resolved
// away and name something else.
func checkName(what, name string) error {
	switch name {
	case "", ".", "..":
		return &Error{Status: http.StatusBadRequest, Code: "invalid_key", Detail: fmt.Sprintf("%q is no %s", name, what)}
	}
	return nil
}
