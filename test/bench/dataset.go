//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"

	"github.com/stockroom/stockroom/test/bench/input"
	"github.com/stockroom/stockroom/test/bench/load"
)

// What is stored: components of one framework, whose names are numbers, since
// pgbench can choose no others. A batch is every so manieth key, the same ones in
// each system; so two batches are the same or have nothing in common.
const (
	items     = 10_000
	batchSize = 100
	batches   = items / batchSize
	framework = "bench"
	firstName = 100_000
)

// dataset is what all systems store.
type dataset struct {
	set *input.Set
	// sample is for pgbench, which must be given its values one by one.
	sample [][]byte
}

func newDataset(o *options) (*dataset, error) {
	var set *input.Set
	var err error
	if o.registry != "" {
		set, err = input.Load(o.registry)
	} else {
		set, err = input.Generate(365)
	}
	if err != nil {
		return nil, err
	}
	return &dataset{set: set, sample: set.Sample(batchSize)}, nil
}

func keyOf(i int) string { return "component:" + framework + ":" + strconv.Itoa(firstName+i) }

func (d *dataset) body(i int) []byte { return d.set.Bodies[i%len(d.set.Bodies)] }

// batchKeys returns the keys of a batch, in their order.
func batchKeys(batch int) []string {
	keys := make([]string, batchSize)
	for i := range keys {
		keys[i] = keyOf(batch + i*batches)
	}
	return keys
}

// mgetBody is what the client asks for.
func mgetBody(keys []string) []byte {
	body, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		panic(err) // strings can be encoded
	}
	return body
}

// appendItems writes what mget answers and mset takes: an object of values by key.
func appendItems(out []byte, keys []string, body func(i int) []byte) []byte {
	out = append(out, '{')
	for i, key := range keys {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(strconv.AppendQuote(out, key), ':')
		out = append(out, body(i)...)
	}
	return append(out, '}')
}

// msetBody is what stores a batch.
func (d *dataset) msetBody(batch int) []byte {
	out := appendItems([]byte(`{"entries":`), batchKeys(batch), func(i int) []byte { return d.body(batch + i*batches) })
	return append(out, '}')
}

// mgetAnswer is what mget of a batch answers.
func (d *dataset) mgetAnswer(batch int) []byte {
	out := appendItems([]byte(`{"items":`), batchKeys(batch), func(i int) []byte { return d.body(batch + i*batches) })
	return append(out, `,"missing":[]}`...)
}

// operation is what a client does again and again.
type operation string

const (
	opGet  operation = "GET"
	opPut  operation = "PUT"
	opMset operation = "mset of 100"
	opMget operation = "mget of 100"
)

// request writes a whole HTTP request.
func request(method, path string, body []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: bench\r\n", method, path)
	if body != nil {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes()
}

// ownRequests are the requests of an operation as the service takes them.
func (d *dataset) ownRequests(op operation) [][]byte {
	switch op {
	case opGet:
		return each(items, func(i int) []byte { return request("GET", "/v1/items/"+keyOf(i), nil) })
	case opPut:
		return each(items, func(i int) []byte { return request("PUT", "/v1/items/"+keyOf(i), d.body(i)) })
	case opMset:
		return each(batches, func(b int) []byte { return request("POST", "/v1/mset", d.msetBody(b)) })
	case opMget:
		return each(batches, func(b int) []byte { return request("POST", "/v1/mget", mgetBody(batchKeys(b))) })
	}
	panic("no requests for " + string(op))
}

// webdisRequests are those of the same operations as webdis takes them.
func (d *dataset) webdisRequests(op operation) [][]byte {
	switch op {
	case opGet: // .txt is the value as it is, without JSON around it
		return each(items, func(i int) []byte { return request("GET", "/GET/"+keyOf(i)+".txt", nil) })
	case opPut:
		return each(items, func(i int) []byte { return request("PUT", "/SET/"+keyOf(i), d.body(i)) })
	case opMset:
		return each(batches, func(b int) []byte {
			command := []byte("MSET")
			for i, key := range batchKeys(b) {
				command = append(append(append(command, '/'), key...), '/')
				command = append(command, url.PathEscape(string(d.body(b+i*batches)))...)
			}
			return request("POST", "/", command)
		})
	case opMget:
	}
	panic("no requests for " + string(op))
}

func each(n int, make1 func(i int) []byte) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = make1(i)
	}
	return all
}

// requestFiles are written when they are needed.
type requestFiles struct {
	dir  string
	made map[string]string
}

// file returns the path of a file of requests that make makes.
func (f *requestFiles) file(name string, requests func() [][]byte) (string, error) {
	if path, ok := f.made[name]; ok {
		return path, nil
	}
	path := filepath.Join(f.dir, strconv.Itoa(len(f.made))+".requests")
	if err := load.WriteRequests(path, requests()); err != nil {
		return "", err
	}
	f.made[name] = path
	return path, nil
}
