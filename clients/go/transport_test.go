package stockroom_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	stockroom "github.com/stockroom/stockroom/clients/go"
)

// stub stands in for a server that answers as told: a busy one cannot be had at
// will. Its requests arrive without a network, so that time is the test's own.
type stub struct {
	answers []answer // one for each request, the last one for all that follow
	bodies  []string // what was sent
	at      []time.Duration
	headers []http.Header
}

type answer struct {
	status     int
	retryAfter string
	body       string
}

func busy(retryAfter string) answer {
	return answer{http.StatusServiceUnavailable, retryAfter, `{"code":"busy","detail":"too many requests"}`}
}

var fine = answer{http.StatusOK, "", `{"stored":1}`}

// client returns a client of the stub.
func (s *stub) client(t *testing.T, options ...stockroom.Option) *stockroom.Client {
	t.Helper()
	start := time.Now()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		a := s.answers[min(len(s.bodies), len(s.answers)-1)]
		s.bodies, s.at, s.headers = append(s.bodies, string(sent)), append(s.at, time.Since(start)), append(s.headers, r.Header)
		if a.retryAfter != "" {
			w.Header().Set("Retry-After", a.retryAfter)
		}
		w.Header().Set("X-Request-Id", "the-id")
		w.WriteHeader(a.status)
		_, _ = io.WriteString(w, a.body)
	})
	client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
		received := r.Clone(r.Context())
		if received.Body == nil {
			received.Body = http.NoBody
		}
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, received)
		return recorder.Result(), nil
	})}
	c, err := stockroom.New("http://stub", append([]stockroom.Option{stockroom.WithHTTPClient(client)}, options...)...)
	ok(t, err)
	return c
}

func set(ctx context.Context, c *stockroom.Client) error {
	_, err := c.MSet(ctx, map[string]any{"k": "v"})
	return err
}

const sent = `{"entries":{"k":"v"}}`

func TestBusyIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &stub{answers: []answer{busy("1"), busy("2"), {http.StatusServiceUnavailable, "4", `{"code":"request_timeout"}`}, fine}}
		ok(t, set(t.Context(), s.client(t, stockroom.WithAPIKey("secret"))))
		equal(t, 4, len(s.bodies))
		least := time.Duration(0)
		for i, body := range s.bodies {
			equal(t, sent, strings.TrimSpace(body))
			equal(t, "Bearer secret", s.headers[i].Get("Authorization"))
			if s.at[i] < least || s.at[i] > least*5/4+time.Second/10 {
				t.Fatalf("try %d was after %v, not %v", i, s.at[i], least)
			}
			least = s.at[i] + time.Second<<i
		}
	})
}

func TestRetryAfterAsADate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &stub{answers: []answer{busy(time.Now().Add(10 * time.Second).UTC().Format(http.TimeFormat)), fine}}
		ok(t, set(t.Context(), s.client(t)))
		if s.at[1] < 9*time.Second || s.at[1] > 13*time.Second {
			t.Fatal(s.at)
		}
	})
}

func TestRetriesAreBounded(t *testing.T) {
	t.Parallel()
	for retries, options := range map[int][]stockroom.Option{3: nil, 0: {stockroom.WithRetries(0)}, 1: {stockroom.WithRetries(1)}, 5: {stockroom.WithRetries(5)}} {
		synctest.Test(t, func(t *testing.T) {
			s := &stub{answers: []answer{busy("1")}}
			refused := refusal(t, set(t.Context(), s.client(t, options...)), stockroom.ErrBusy)
			equal(t, stockroom.Error{
				Status: http.StatusServiceUnavailable, Code: "busy", Detail: "too many requests", RequestID: "the-id", RetryAfter: time.Second,
			}, *refused)
			equal(t, retries+1, len(s.bodies))
		})
	}
}

// TestNothingElseIsTriedAgain: after these nobody knows whether it would be right, or
// it would be wrong for sure.
func TestNothingElseIsTriedAgain(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer answer
		kind   error
	}{
		"the commit is unknown": {answer{503, "1", `{"code":"commit_unknown"}`}, stockroom.ErrCommitUnknown},
		"no Retry-After":        {busy(""), stockroom.ErrBusy},
		"a bad Retry-After":     {busy("soon"), stockroom.ErrBusy},
		"too many requests":     {answer{429, "1", `{"code":"rate_limited"}`}, stockroom.ErrRateLimited},
		"internal":              {answer{500, "1", `{"code":"internal"}`}, nil},
		"a bad gateway":         {answer{502, "1", `<html>`}, nil},
		"a conflict":            {answer{409, "1", `{"code":"check_failed"}`}, stockroom.ErrCheckFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &stub{answers: []answer{tc.answer, fine}}
				err := set(t.Context(), s.client(t))
				var refused *stockroom.Error
				if !errors.As(err, &refused) || refused.Status != tc.answer.status {
					t.Fatal(err)
				}
				equal(t, 1, len(s.bodies))
				for _, kind := range []error{
					stockroom.ErrBusy, stockroom.ErrCommitUnknown, stockroom.ErrRateLimited, stockroom.ErrCheckFailed, stockroom.ErrNotFound,
					stockroom.ErrInvalid, stockroom.ErrPreconditionFailed, stockroom.ErrTooLarge, stockroom.ErrForbidden, stockroom.ErrUnauthorized,
				} {
					equal(t, errors.Is(tc.kind, kind), errors.Is(err, kind))
				}
			})
		})
	}
	t.Run("a connection that is lost", func(t *testing.T) {
		t.Parallel()
		tries := 0
		lost := errors.New("lost")
		client := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) { tries++; return nil, lost })}
		c, err := stockroom.New("http://stub", stockroom.WithHTTPClient(client))
		ok(t, err)
		if err := set(t.Context(), c); !errors.Is(err, lost) || errors.Is(err, stockroom.ErrBusy) {
			t.Fatal(err)
		}
		equal(t, 1, tries)
	})
}

// TestBodiesThatAreGone: a body that can be read only once is not sent half.
func TestBodiesThatAreGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &stub{answers: []answer{busy("1"), fine}}
		_, err := s.client(t).API().MsetWithBody(t.Context(), nil, "application/json", io.NopCloser(strings.NewReader(sent)))
		fails(t, err, stockroom.ErrBusy)
		equal(t, []string{sent}, s.bodies)
	})
}

func TestWaitingEnds(t *testing.T) {
	t.Parallel()
	t.Run("with the context", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := &stub{answers: []answer{busy("20")}}
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(5*time.Second, cancel)
			start := time.Now()
			fails(t, set(ctx, s.client(t)), stockroom.ErrBusy)
			equal(t, 5*time.Second, time.Since(start))
			equal(t, 1, len(s.bodies))
		})
	})
	// There is no use in waiting for what comes too late.
	for name, options := range map[string][]stockroom.Option{"at once by default": nil, "at once by the option": {stockroom.WithTimeout(10 * time.Second)}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &stub{answers: []answer{busy(map[bool]string{true: "30", false: "10"}[options == nil])}}
				start := time.Now()
				fails(t, set(t.Context(), s.client(t, options...)), stockroom.ErrBusy)
				equal(t, 0, time.Since(start))
				equal(t, 1, len(s.bodies))
			})
		})
	}
	t.Run("not without a timeout", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := &stub{answers: []answer{busy("3600"), fine}}
			ok(t, set(t.Context(), s.client(t, stockroom.WithTimeout(0))))
		})
	})
}

// TestTimeoutBoundsACall: a server that does not answer, or not to the end.
func TestTimeoutBoundsACall(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]bool{"no answer": false, "half an answer": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			silent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if begin {
					_, _ = fmt.Fprint(w, `{"stored":`)
					_ = http.NewResponseController(w).Flush()
				}
				<-r.Context().Done()
			}))
			t.Cleanup(silent.Close)
			c, err := stockroom.New(silent.URL, stockroom.WithTimeout(50*time.Millisecond))
			ok(t, err)
			if err := set(t.Context(), c); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		})
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	t.Parallel()
	for name, a := range map[string]answer{"no JSON": {200, "", `<html>`}, "nothing": {200, "", ``}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := set(t.Context(), (&stub{answers: []answer{a}}).client(t)); err == nil || !strings.Contains(err.Error(), "contract") {
				t.Fatal(err)
			}
		})
	}
	_, err := (&stub{answers: []answer{{502, "", strings.Repeat("<html>", 1000)}}}).client(t).Get(t.Context(), "k")
	var refused *stockroom.Error
	if !errors.As(err, &refused) {
		t.Fatal(err)
	}
	equal(t, "", refused.Code)
	equal(t, 200, len(refused.Detail))
}
