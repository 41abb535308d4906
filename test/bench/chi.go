//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
)

// runChi is the yardstick for everything that is not the database: a chi router with
// handlers that do no more than find the bytes of the answer in memory and write
// them. It stores nothing.
func runChi(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("chi", flag.ContinueOnError)
	address := flags.String("address", "127.0.0.1:0", "where to listen")
	registry := flags.String("registry", "", "folder of registry items; made up if empty")
	if err := flags.Parse(args); err != nil {
		return err
	}
	data, err := newDataset(&options{registry: *registry})
	if err != nil {
		return err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", *address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: bareHandler(data), ReadHeaderTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // it has nothing to finish
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func bareHandler(data *dataset) http.Handler {
	values := make(map[string][]byte, items)
	for i := range items {
		values[keyOf(i)] = data.body(i)
	}
	answers := make(map[string][]byte, batches)
	for b := range batches {
		answers[string(mgetBody(batchKeys(b)))] = data.mgetAnswer(b)
	}
	router := chi.NewRouter()
	router.Get("/v1/items/{key}", func(w http.ResponseWriter, r *http.Request) {
		writeBare(w, values[chi.URLParam(r, "key")])
	})
	router.Post("/v1/mget", func(w http.ResponseWriter, r *http.Request) {
		asked, err := io.ReadAll(r.Body)
		if err != nil {
			return // the caller has left
		}
		writeBare(w, answers[string(asked)])
	})
	return router
}

func writeBare(w http.ResponseWriter, body []byte) {
	if body == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	header := w.Header()
	header["Content-Type"] = []string{"application/json"}
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	_, _ = w.Write(body) // a caller that has left reads no answer
}
