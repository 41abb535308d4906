package stockroom

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"
)

// transport sends requests and returns answers, already read. Those that refuse are
// returned as an *Error.
type transport struct {
	client  *http.Client
	key     string
	timeout time.Duration
	retries int
}

// Do sends a request, again where the service says that it may be.
func (t *transport) Do(request *http.Request) (*http.Response, error) {
	ctx := request.Context()
	if t.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.timeout)
		defer cancel()
	}
	for try := 0; ; try++ {
		response, content, err := t.once(ctx, request)
		if err != nil {
			return nil, err
		}
		if response.StatusCode < http.StatusBadRequest {
			return response, nil
		}
		refused := newError(response, content)
		if try >= t.retries || !again(request, refused) || !wait(ctx, refused.RetryAfter) {
			return nil, refused
		}
	}
}

// once sends a request and reads the answer.
func (t *transport) once(ctx context.Context, request *http.Request) (*http.Response, []byte, error) {
	attempt := request.Clone(ctx)
	if request.GetBody != nil {
		content, err := request.GetBody()
		if err != nil {
			return nil, nil, fmt.Errorf("stockroom: read the body again: %w", err)
		}
		attempt.Body = content
	}
	if t.key != "" {
		attempt.Header.Set("Authorization", "Bearer "+t.key)
	}
	response, err := t.client.Do(attempt) //nolint:gosec // where to is for the program to say
	if err != nil {
		return nil, nil, fmt.Errorf("stockroom: %w", err)
	}
	content, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if err != nil {
		return nil, nil, fmt.Errorf("stockroom: read the answer: %w", err)
	}
	response.Body = io.NopCloser(bytes.NewReader(content))
	return response, content, nil
}

// again tells whether a request that was refused may be sent once more.
func again(request *http.Request, refused *Error) bool {
	if request.Body != nil && request.Body != http.NoBody && request.GetBody == nil {
		return false // it is read, and cannot be read again
	}
	return refused.Status == http.StatusServiceUnavailable && refused.RetryAfter > 0 && refused.Code != codeCommitUnknown
}

// jitterShare is how much longer than it must a request waits at most, so that a
// crowd that was turned away together does not come back together.
const jitterShare = 4

// wait waits for at least so long, and tells whether there is time for another try.
func wait(ctx context.Context, atLeast time.Duration) bool {
	timer := time.NewTimer(atLeast + rand.N(atLeast/jitterShare+1)) //nolint:gosec // spreads load, keeps no secret
	defer timer.Stop()
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= atLeast {
		return false
	}
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
