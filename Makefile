# Everything is done through this file; .ci/run calls the same targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The version is passed by -ldflags, so a missing git or a foreign owner of the
# folder is no reason to fail.
export GOFLAGS := $(strip $(shell go env GOFLAGS 2>/dev/null) -buildvcs=false)

TOOL := go tool -modfile=tools/go.mod

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS = -s -w -X github.com/stockroom/stockroom/internal/buildinfo.Version=$(VERSION)

IMAGE ?= stockroom:dev
GO_IMAGE ?= golang:1.26
RUNTIME_IMAGE ?= scratch

SERVER ?= http://127.0.0.1:8080
FRAMEWORK ?= react
FOLDER ?= examples/registry

.PHONY: help
help: ## show this help
	@awk 'BEGIN { FS = ":.*## " } /^[a-z][a-z\/-]*:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

##  Use

.PHONY: run
run: build ## start the server on its own PostgreSQL (or on DATABASE_URL)
	@scripts/run.sh

.PHONY: import
import: build ## load a folder of registry items: SERVER=, FRAMEWORK=, FOLDER=
	bin/import --server '$(SERVER)' --framework '$(FRAMEWORK)' '$(FOLDER)'

.PHONY: postgres
postgres: ## install PostgreSQL's binaries where the machine has none
	@scripts/ensure-postgres.sh

.PHONY: chromium
chromium: ## install the browser for the test of the reference page, where root has none
	@scripts/ensure-chromium.sh

##  Develop

.PHONY: build
build: ## build bin/server and bin/import, static
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/server ./cmd/import

# A slow machine gets more than the ten minutes that go test gives a package.
TESTING := -race -shuffle=on -timeout 30m

.PHONY: test
test: ## run every test, with the race detector
	@[ -n "$${TEST_DATABASE_URL:-}" ] || scripts/ensure-postgres.sh
	@scripts/ensure-chromium.sh
	go test $(TESTING) ./...
	@$(MAKE) --no-print-directory test/clients-go test/typescript

.PHONY: test/typescript
test/typescript: ## run the tests of the TypeScript client: SKIP_NODE=1 leaves them out
ifeq ($(SKIP_NODE),1)
	@echo 'test/typescript: skipped, for SKIP_NODE=1'
else
	@$(MAKE) -s clients/typescript/node_modules/.package-lock.json
	cd clients/typescript && npm run --silent build && npm run --silent typecheck
	cd clients/typescript && ../../scripts/with-server.sh --keys npm run --silent test
endif

.PHONY: test/clients-go
test/clients-go: ## run the tests of the Go client, on a server of their own
	@env -u DATABASE_URL scripts/ensure-postgres.sh
	go -C clients/go test $(TESTING) ./...

.PHONY: test/short
test/short: ## run the fast tests
	@[ -n "$${TEST_DATABASE_URL:-}" ] || scripts/ensure-postgres.sh
	@scripts/ensure-chromium.sh
	go test -short -shuffle=on ./...

.PHONY: test/shadcn
test/shadcn: ## run the shadcn CLI against a server, which make test does as well
	@[ -n "$${TEST_DATABASE_URL:-}" ] || scripts/ensure-postgres.sh
	go test $(TESTING) -count=1 ./test/shadcn

.PHONY: test/containers
test/containers: ## run the integration tests on PostgreSQL in a container
	env -u TEST_DATABASE_URL STOCKROOM_TEST_BACKEND=container \
		go test $(TESTING) -count=1 ./internal/... ./cmd/...

FUZZTIME ?= 60s

.PHONY: fuzz
fuzz: ## run every fuzz target, each for FUZZTIME (60s)
	@scripts/fuzz.sh '$(FUZZTIME)'

DURATION ?= 10m
SEED ?= 0

.PHONY: soak
soak: ## break things under load and judge every answer: DURATION= (10m), SEED=
	@[ -n "$${TEST_DATABASE_URL:-}" ] || scripts/ensure-postgres.sh
	go run ./test/soak -duration '$(DURATION)' -seed '$(SEED)'

# Without the race detector, and one test alone: more load for the same time.
.PHONY: load
load: DURATION = 60s
load: ## 500 clients against 2 slots, in three settings, each for DURATION (60s)
	@[ -n "$${TEST_DATABASE_URL:-}" ] || scripts/ensure-postgres.sh
	STOCKROOM_LOAD_DURATION='$(DURATION)' go test -count=1 -timeout 0 -v -run '^TestLoad$$' ./internal/app

REGISTRY ?=
ROUNDS ?= 4
SECONDS ?= 4
MEMORY ?= 0
ONLY ?=
BENCH = go run ./test/bench -registry '$(REGISTRY)' -only '$(ONLY)' -memory '$(MEMORY)'

.PHONY: bench
bench: ## compare with the yardsticks, write docs/benchmarks.md: REGISTRY=, ROUNDS=, SECONDS=, MEMORY=10m, ONLY=
	@scripts/ensure-postgres.sh
	$(BENCH) -rounds '$(ROUNDS)' -seconds '$(SECONDS)'

.PHONY: bench/quick
bench/quick: ## the same in three minutes: few rounds, no Node, fewer items, nothing written
	@scripts/ensure-postgres.sh
	$(BENCH) -rounds 2 -seconds 1 -node=false -scale 1000,10000 -doc ''

BENCHTIME ?= 1s

.PHONY: bench/micro
bench/micro: ## measure the hot paths one by one, with their allocations: BENCHTIME= (1s)
	@[ -n "$${TEST_DATABASE_URL:-}" ] || scripts/ensure-postgres.sh
	go test -run '^$$' -bench . -benchmem -benchtime '$(BENCHTIME)' ./internal/...

.PHONY: lint
lint: lint/go lint/openapi lint/alerts ## check the code, openapi.yaml and the alert rules

.PHONY: lint/go
lint/go:
	$(TOOL) golangci-lint run
	cd clients/go && go tool -modfile=../../tools/go.mod golangci-lint run

# REDOCLY_*: a linter reports to nobody and looks for no newer self.
.PHONY: lint/openapi
lint/openapi: tools/openapi/node_modules/.package-lock.json
	REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true \
		tools/openapi/node_modules/.bin/redocly lint --config tools/openapi/redocly.yaml openapi.yaml

# Tests hold the names in the rules against /metrics; this parses them.
.PHONY: lint/alerts
lint/alerts:
	@if command -v promtool >/dev/null; then promtool check rules docs/monitoring/alerts.yaml; \
	else echo 'promtool is not installed: docs/monitoring/alerts.yaml is not parsed'; fi

tools/openapi/node_modules/.package-lock.json: tools/openapi/package-lock.json
	cd tools/openapi && npm ci
	@touch $@

.PHONY: fmt
fmt: ## format the code
	$(TOOL) golangci-lint fmt

.PHONY: generate
generate: generate/go generate/typescript ## generate the HTTP interface and the clients from openapi.yaml

.PHONY: generate/go
generate/go:
	$(TOOL) oapi-codegen -config internal/http/oapi-codegen.yaml openapi.yaml
	$(TOOL) oapi-codegen -config clients/go/oapi-codegen.yaml openapi.yaml

.PHONY: generate/typescript
generate/typescript: clients/typescript/node_modules/.package-lock.json
	cd clients/typescript && npm run --silent generate

clients/typescript/node_modules/.package-lock.json: clients/typescript/package-lock.json
	cd clients/typescript && npm ci
	@touch $@

.PHONY: verify
verify: ## check that what is generated, numbered or locked is in order
	@scripts/verify.sh

.PHONY: image
image: ## build the container image: IMAGE=, GO_IMAGE=, RUNTIME_IMAGE=
	docker build -t $(IMAGE) --build-arg GO_IMAGE=$(GO_IMAGE) --build-arg RUNTIME_IMAGE=$(RUNTIME_IMAGE) --build-arg VERSION=$(VERSION) .

.PHONY: clean
clean: ## remove what was built or installed here, never data
	rm -rf bin node_modules tools/openapi/node_modules test/bench/pglite/node_modules
	rm -rf test/pglite/node_modules test/shadcn/node_modules clients/typescript/node_modules clients/typescript/dist
