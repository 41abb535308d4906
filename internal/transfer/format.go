// Package transfer moves items between a store and what is outside of it: into an
// export file, out of one, and out of a store of the kind that Stockroom takes the
// place of.
//
// An export file is lines of JSON (NDJSON), of any number and in constant memory:
//
//	{"format":"stockroom-export","version":1,"exportedAt":"…","by":"stockroom …"}
//	{"key":"…","etag":"…","ttlSeconds":60,"expiresAt":"…",…,"value":…}
//	…
//	{"end":true,"blocks":1,"components":2,"entries":3,"sha256":"…"}
//
// An item's value is what a client gets, byte for byte, and its times are those of
// its row, to the microsecond. Items come by kind (blocks, components, entries) and
// each kind in the order of its keys. The last line has their number, and the hash
// of all lines before it, so that a file that was cut off or changed is noticed; an
// item's own ETag says in which line. A member that a reader does not know is an
// error: what a later version adds comes with another number.
package transfer

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/stockroom/stockroom/internal/item"
)

const (
	formatName    = "stockroom-export"
	formatVersion = 1
	// maxLine is longer than PostgreSQL lets a value be, quoted: a line that is longer
	// is none of ours.
	maxLine = 2 << 30
	// bufferSize is that of reads and writes.
	bufferSize = 1 << 18
)

// header is the first line.
type header struct {
	Format     string    `json:"format"`
	Version    int       `json:"version"`
	ExportedAt time.Time `json:"exportedAt"`
	By         string    `json:"by"`
}

// trailer is the last line.
type trailer struct {
	End bool `json:"end"`
	counts
	SHA256 string `json:"sha256"`
}

// counts are how many items there are, by kind.
type counts struct {
	Blocks     int64 `json:"blocks"`
	Components int64 `json:"components"`
	Entries    int64 `json:"entries"`
}

func (c *counts) add(kind item.Kind) {
	switch kind {
	case item.KindBlock:
		c.Blocks++
	case item.KindComponent:
		c.Components++
	case item.KindEntry:
		c.Entries++
	}
}

func (c *counts) total() int64 { return c.Blocks + c.Components + c.Entries }

// rank is the place of a kind in a file.
func rank(kind item.Kind) int {
	switch kind {
	case item.KindBlock:
		return 0
	case item.KindComponent:
		return 1
	case item.KindEntry:
	}
	return 2
}

// writer writes an export file.
type writer struct {
	out    *bufio.Writer
	sum    hash.Hash
	line   []byte
	counts counts
}

func newWriter(w io.Writer) *writer {
	return &writer{out: bufio.NewWriterSize(w, bufferSize), sum: sha256.New()}
}

// write writes w.line and adds it to the hash.
func (w *writer) write() error {
	w.line = append(w.line, '\n')
	w.sum.Write(w.line) // it never fails
	_, err := w.out.Write(w.line)
	return err
}

func (w *writer) begin(now time.Time, by string) (err error) {
	w.line, err = json.Marshal(header{Format: formatName, Version: formatVersion, ExportedAt: now.UTC(), By: by})
	if err != nil {
		return err
	}
	return w.write()
}

func (w *writer) item(r item.Record) error {
	line := w.line[:0]
	line = append(line, `{"key":`...)
	line = item.AppendQuote(line, r.Value.Key.String())
	line = append(line, `,"etag":"`...)
	line = append(append(line, r.Value.ETag...), '"')
	if r.TTL != 0 {
		line = strconv.AppendInt(append(line, `,"ttlSeconds":`...), int64(r.TTL), 10)
	}
	if !r.Expires.IsZero() {
		line = appendTime(line, "expiresAt", r.Expires)
	}
	line = appendTime(line, "createdAt", r.Created)
	line = appendTime(line, "updatedAt", r.Updated)
	line = appendTime(line, "cachedAt", r.Cached)
	line = appendTime(line, "accessedAt", r.Accessed)
	line = strconv.AppendInt(append(line, `,"accessCount":`...), r.AccessCount, 10)
	line = strconv.AppendInt(append(line, `,"version":`...), r.Version, 10)
	line = append(append(line, `,"value":`...), r.JSON...)
	line = append(line, '}')
	w.line = line
	w.counts.add(r.Value.Key.Kind())
	return w.write()
}

func appendTime(line []byte, name string, at time.Time) []byte {
	line = append(append(append(line, ',', '"'), name...), '"', ':', '"')
	return append(at.UTC().AppendFormat(line, time.RFC3339Nano), '"')
}

func (w *writer) end() (err error) {
	w.line, err = json.Marshal(trailer{End: true, counts: w.counts, SHA256: hex.EncodeToString(w.sum.Sum(nil))})
	if err != nil {
		return err
	}
	if err := w.write(); err != nil {
		return err
	}
	return w.out.Flush()
}

// ErrNoExport says that a file is none of ours.
var ErrNoExport = errors.New("this is no file of `server export`")

// lineError says which line of a file is wrong, and why.
type lineError struct {
	line int64
	err  error
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %v", e.line, e.err) }

func (e *lineError) Unwrap() error { return e.err }

// reader reads an export file, and holds it against everything that it promises.
type reader struct {
	in     *bufio.Reader
	sum    hash.Hash
	line   []byte // the current one, without its end
	number int64  // of the current one
	value  []byte
	counts counts
	last   item.Key
}

func newReader(r io.Reader) *reader {
	return &reader{in: bufio.NewReaderSize(r, bufferSize), sum: sha256.New()}
}

// read reads the file to its end, or to the first thing that is wrong with it, and
// gives every item. The record is read anew for each.
func (r *reader) read(give func(item.Record) error) error {
	if err := r.begin(); err != nil {
		return err
	}
	for {
		before := r.sum.Sum(nil)
		if err := r.next(); err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("the file has no last line: it is cut off here, %d items after its beginning", r.counts.total())
			}
			return r.wrong(err)
		}
		if bytes.HasPrefix(r.line, []byte(`{"end":`)) {
			return r.end(before)
		}
		record, err := r.item()
		if err != nil {
			return r.wrong(err)
		}
		if err := give(record); err != nil {
			return err
		}
	}
}

func (r *reader) wrong(err error) error { return &lineError{line: r.number, err: err} }

// next reads the next line. The error at the end of the file is io.EOF; a last line
// without its end is cut off.
func (r *reader) next() error {
	r.number++
	r.line = r.line[:0]
	for {
		part, err := r.in.ReadSlice('\n')
		if len(r.line)+len(part) > maxLine {
			return fmt.Errorf("it has more than %d bytes", maxLine)
		}
		r.line = append(r.line, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(r.line) > 0:
			return errors.New("the file is cut off in the middle of it")
		case err != nil:
			return err
		}
		r.sum.Write(r.line) // it never fails
		r.line = r.line[:len(r.line)-1]
		return nil
	}
}

func (r *reader) begin() error {
	if err := r.next(); err != nil {
		return fmt.Errorf("%w: %w", ErrNoExport, r.wrong(err))
	}
	first, ok := parseHeader(r.line)
	if !ok {
		return ErrNoExport
	}
	if first.Version != formatVersion {
		return fmt.Errorf("the file is of version %d of the format, this program reads version %d: use the program that wrote it (%s), or a later one",
			first.Version, formatVersion, first.By)
	}
	return nil
}

func parseHeader(line []byte) (header, bool) {
	var h header
	err := json.Unmarshal(line, &h)
	return h, err == nil && h.Format == formatName
}

func (r *reader) item() (item.Record, error) {
	var record item.Record
	var key, etag string
	r.value = r.value[:0]
	has := map[string]bool{}
	dec := jsontext.NewDecoder(bytes.NewBuffer(r.line))
	err := item.ReadObject(dec, func(name string) (err error) {
		has[name] = true
		switch name {
		case "key":
			key, err = item.ReadString(dec)
		case "etag":
			etag, err = item.ReadString(dec)
		case "ttlSeconds":
			var ttl int64
			ttl, err = item.ReadInteger(dec, int64(item.MaxTTL), item.CodeInvalidTTL)
			record.TTL = item.TTL(ttl)
		case "expiresAt":
			record.Expires, err = readTime(dec)
		case "createdAt":
			record.Created, err = readTime(dec)
		case "updatedAt":
			record.Updated, err = readTime(dec)
		case "cachedAt":
			record.Cached, err = readTime(dec)
		case "accessedAt":
			record.Accessed, err = readTime(dec)
		case "accessCount":
			record.AccessCount, err = item.ReadInteger(dec, math.MaxInt64, item.CodeInvalidValue)
		case "version":
			record.Version, err = item.ReadInteger(dec, math.MaxInt64, item.CodeInvalidValue)
		case "value":
			var value jsontext.Value
			value, err = dec.ReadValue()
			r.value = append(r.value, value...)
		default:
			err = item.UnknownField(dec, name)
		}
		return err
	})
	if err == nil {
		err = expectEnd(dec)
	}
	if fault := (*item.Fault)(nil); err != nil && !errors.As(err, &fault) {
		err = item.SyntaxFault(err)
	}
	if err != nil {
		return item.Record{}, err
	}
	for _, name := range []string{"key", "etag", "createdAt", "updatedAt", "cachedAt", "accessedAt", "accessCount", "version", "value"} {
		if !has[name] {
			return item.Record{}, fmt.Errorf("it has no %q", name)
		}
	}
	if has["ttlSeconds"] != has["expiresAt"] {
		return item.Record{}, errors.New("ttlSeconds and expiresAt come together")
	}
	if record.Value, err = r.parse(key, etag); err != nil {
		return item.Record{}, err
	}
	r.counts.add(record.Value.Key.Kind())
	return record, nil
}

// parse reads the value of a line by the rules of an item.
func (r *reader) parse(text, etag string) (item.Value, error) {
	key, err := item.ParseKey(text)
	if err != nil {
		return item.Value{}, err
	}
	if last := r.last; last != (item.Key{}) {
		after := rank(key.Kind()) > rank(last.Kind()) || key.Kind() == last.Kind() && key.String() > last.String()
		if !after {
			return item.Value{}, fmt.Errorf("the key %s stands behind %s", key, last)
		}
	}
	r.last = key
	value, err := item.Parse(key, r.value)
	if err != nil {
		return item.Value{}, err
	}
	if value.ETag != etag {
		return item.Value{}, fmt.Errorf("the value of %s was changed: it is not that of its ETag", key)
	}
	return value, nil
}

func expectEnd(dec *jsontext.Decoder) error {
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.Join(errors.New("it has something behind its JSON value"), err)
	}
	return nil
}

func readTime(dec *jsontext.Decoder) (at time.Time, err error) {
	text, err := item.ReadString(dec)
	if err != nil {
		return time.Time{}, err
	}
	if err := at.UnmarshalText([]byte(text)); err != nil {
		return time.Time{}, &item.Fault{
			Code: item.CodeInvalidValue, Pointer: string(dec.StackPointer()), Detail: "must be a time as RFC 3339 writes it",
		}
	}
	return at, nil
}

// end holds the file against its last line; sum is the hash of the lines before it.
func (r *reader) end(sum []byte) error {
	var last trailer
	if err := json.Unmarshal(r.line, &last, json.RejectUnknownMembers(true)); err != nil {
		return r.wrong(err)
	}
	number := r.number
	if last.counts != r.counts {
		return r.wrong(fmt.Errorf("the file should have %d items and has %d: lines are missing, or there are too many", last.total(), r.counts.total()))
	}
	if last.SHA256 != hex.EncodeToString(sum) {
		return r.wrong(errors.New("the lines before this one are not those that were written: the file was changed"))
	}
	if err := r.next(); !errors.Is(err, io.EOF) {
		return &lineError{line: number + 1, err: errors.New("something follows what should be the last line")}
	}
	return nil
}
