# make test runs every test. CI runs every target (.ci/run).

# The packages that test, fuzz and bench are about.
PACKAGES ?= ./...
# How many inputs each fuzz test tries. A number and no time: where the time is over while
# an input is tried, Go before 1.27 reports a failure that is none (go.dev/issue/75804).
FUZZTIME ?= 30000x
# How long, or how often, each benchmark runs.
BENCHTIME ?= 1x
# What bench-flow is given: short, so that it shows that it works; the flags' defaults measure.
FLOW ?= -duration 1s -rounds 1
# How long soak runs; from 20s on, which is what test does.
SOAK ?= 10m

GOLANGCI_LINT_VERSION := v2.15.0
GOLANGCI_LINT := bin/golangci-lint-$(GOLANGCI_LINT_VERSION)

.PHONY: test fmt tidy vet lint build fuzz bench bench-flow soak image
.DEFAULT_GOAL := test

# Every test, on a real PostgreSQL and in a real browser. Takes what this machine
# has, installs what is missing as root on Debian and Ubuntu, and otherwise says
# what it needs; see CONTRIBUTING.md.
test:
	@.ci/test $(PACKAGES)

# Fails if a file is not formatted.
fmt:
	@unformatted=$$(gofmt -l .) && if [ -n "$$unformatted" ]; then echo "not formatted by gofmt:"; echo "$$unformatted"; exit 1; fi

# Fails if go.mod or go.sum would be changed by go mod tidy.
tidy:
	go mod tidy -diff

vet:
	go vet ./... ./.ci/testreport

lint: $(GOLANGCI_LINT)
	$(GOLANGCI_LINT) run ./... ./.ci/testreport

$(GOLANGCI_LINT):
	GOBIN=$(CURDIR)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	mv bin/golangci-lint $@

# Compiles everything for the systems that it runs on.
build:
	go build ./...
	GOOS=darwin GOARCH=arm64 go build ./...
	GOOS=windows GOARCH=amd64 go build ./...

fuzz:
	@.ci/fuzz $(FUZZTIME) $(PACKAGES)

bench:
	go test -run='^$$' -bench=. -benchtime=$(BENCHTIME) $(PACKAGES)

# The complete flow over HTTP, with the gate and without: bench/flow.
bench-flow:
	go run ./bench/flow $(FLOW)

# Two servers under mixed load, with their sweepers: nothing may grow, and nothing be used
# twice. Prints what there was in the first and in the second half.
soak:
	@.ci/setup server
	SOAK_DURATION=$(SOAK) go test -count=1 -v -timeout=0 ./integration/soak

# An image with PostgreSQL 17 and PgBouncer out of Debian's packages, for machines that reach no
# container registry.
image:
	.ci/postgres-image postgres-local:17
