# Two commands: `make demo` and `make test`. Both install what they need on a
# Debian machine when run as root, and print the line to type otherwise.
SHELL := /bin/bash
GO    ?= go
BUNDLE ?= configs/examples/bundle.yaml
OUT    ?= out

.PHONY: demo test test-all test-arm64 bench fuzz build lint needs clean

demo: needs
	$(GO) run ./cmd/slipway demo -f $(BUNDLE) --out $(OUT)

build:
	$(GO) run ./cmd/slipway build -f $(BUNDLE) --out $(OUT)

test: needs
	$(GO) run ./test/run

# Everything that `make test` has a smaller part of: power cuts, crash points,
# clusters of both architectures, years of clock. Hours.
test-all: needs
	$(GO) run ./test/run -all

# arm64: its ISO, the combined one, every program of its root, its machines.
test-arm64: needs
	$(GO) run ./test/run -arm64

bench:
	@bash test/needs.sh bench
	$(GO) run ./test/run -bench

# Every fuzz target for FUZZTIME; `make test` runs their seeds.
FUZZTIME ?= 60s
fuzz:
	$(GO) run ./test/run -fuzz $(FUZZTIME)

lint:
	$(GO) run ./test/run -lint

needs:
	@bash test/needs.sh

clean:
	rm -rf $(OUT)
