package load

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

const (
	// maxHead bounds the head of a response.
	maxHead = 16 << 10
	// sample is how much of a long body is kept.
	sample = 1 << 10
)

var (
	errHeadTooLong = errors.New("load: the head of the response is too long")
	errNoLength    = errors.New("load: the response has no Content-Length")
	headEnd        = []byte("\r\n\r\n")
	lineEnd        = []byte("\r\n")
	lengthName     = []byte("content-length:")
)

// responseReader reads the responses of one connection, one after the other: the
// little of HTTP/1.1 that servers answer to keep-alive requests with, so that the
// reader costs next to nothing on a machine that it shares with what it measures.
type responseReader struct {
	from       io.Reader
	buf        []byte
	start, end int // what of buf was read and not used
}

func newResponseReader(from io.Reader) *responseReader {
	return &responseReader{from: from, buf: make([]byte, 64<<10)}
}

// response is what is known of a response that was read to its end.
type response struct {
	status int
	length int    // of the body
	body   []byte // the beginning of the body, until the next call
}

// next reads one response. After an error the connection is of no more use.
func (r *responseReader) next() (response, error) {
	head, err := r.head()
	if err != nil {
		return response{}, err
	}
	var got response
	if got.status, got.length, err = parseHead(head); err != nil {
		return response{}, err
	}
	left := got.length - (r.end - r.start)
	if left <= 0 {
		got.body = r.buf[r.start : r.start+got.length]
		r.start += got.length
		return got, nil
	}
	// More than is here: the beginning is kept for who wants to see it, the rest
	// passes through the buffer behind it.
	kept := copy(r.buf[:sample], r.buf[r.start:r.end])
	r.start, r.end = 0, 0
	for left > 0 {
		n, err := r.from.Read(r.buf[kept : kept+min(left, len(r.buf)-kept)])
		if n == 0 && err != nil {
			return response{}, unexpected(err)
		}
		left -= n
		kept = min(kept+n, sample)
	}
	got.body = r.buf[:kept]
	return got, nil
}

// head returns the next head, without the empty line behind it.
func (r *responseReader) head() ([]byte, error) {
	if r.start == r.end {
		r.start, r.end = 0, 0
	}
	for searched := 0; ; {
		at := bytes.Index(r.buf[r.start+searched:r.end], headEnd)
		if at >= 0 {
			head := r.buf[r.start : r.start+searched+at]
			r.start += searched + at + len(headEnd)
			return head, nil
		}
		have := r.end - r.start
		if have > maxHead {
			return nil, errHeadTooLong
		}
		searched = max(have-len(headEnd)+1, 0)
		if r.start > len(r.buf)/2 {
			copy(r.buf, r.buf[r.start:r.end])
			r.start, r.end = 0, have
		}
		n, err := r.from.Read(r.buf[r.end:])
		if n == 0 && err != nil {
			if have > 0 {
				err = unexpected(err)
			}
			return nil, err
		}
		r.end += n
	}
}

// unexpected is err in the middle of a response.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// parseHead returns the status and the length of the body.
func parseHead(head []byte) (status, length int, err error) {
	line, rest, _ := bytes.Cut(head, lineEnd)
	if len(line) < len("HTTP/1.1 200") || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return 0, 0, fmt.Errorf("load: no response of HTTP/1: %.60q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, 0, fmt.Errorf("load: a response without a status: %.60q", line)
	}
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, lineEnd)
		if len(line) < len(lengthName) || !bytes.EqualFold(line[:len(lengthName)], lengthName) {
			continue
		}
		length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(lengthName):])))
		if err != nil || length < 0 {
			return 0, 0, fmt.Errorf("load: a wrong length: %.60q", line)
		}
		return status, length, nil
	}
	return 0, 0, errNoLength
}
