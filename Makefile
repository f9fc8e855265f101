# Everything a newcomer, an operator or CI does with this tree. Each target sets up what it needs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
TOOLS := $(TARGET_DIR)/tools
# Root may load the XDP program and run the vectors' steering frames through it.
STEERING := $(if $(filter 0,$(shell id -u)),--features steering)
export PATH := $(TOOLS)/bin:$(PATH)
export SIXFERRY_GUEST_KERNEL ?= $(TOOLS)/guest-kernel

.PHONY: help setup setup-test demo test interop bench bench-quick bench-publish profile gate gate-update vectors lint soak fuzz fmt docs

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## Install what the build and the demo need (root), or say what to install
	@scripts/setup.sh --tools $(TOOLS) build

setup-test:
	@scripts/setup.sh --tools $(TOOLS) build test

demo: setup ## Build, start a lab in namespaces, send real traffic through a tunnel, clean up
	@scripts/demo.sh

test: setup-test ## All tests; as root also those in namespaces with real peers
	@scripts/test.sh

interop: setup-test ## Of the tests, those with a real Linux peer: 6in4, 6to4, 6rd, fou (root)
	@scripts/interop.sh

bench: setup-test ## All benches and the verdict on every performance goal, at most 25 minutes (root)
	@scripts/bench.sh

bench-quick: setup-test ## Of the benches, what three minutes allow (root)
	@scripts/bench.sh quick

bench-publish: ## Take the report of the last `make bench` into README.md and docs/measured
	@scripts/bench.sh publish

profile: setup-test ## Where the time of a packet goes, by stage; needs perf (linux-perf)
	@cargo build --release --locked -p sixferry-bench --bin sixferry-bench-ratio
	@python3 -B scripts/profile.py $(TARGET_DIR)/release/sixferry-bench-ratio

gate: setup-test ## Instructions a packet takes, against the committed baseline: 5 % more is a failure
	@scripts/gate.sh

gate-update: setup-test ## Take today's instructions as the baseline: make gate-update REASON="why"
	@scripts/gate.sh --update "$(REASON)"

vectors: setup ## Run a vector file: make vectors FILE=x.json
	@test -n "$(FILE)" || { echo "make vectors FILE=x.json: FILE is missing" >&2; exit 2; }
	@cargo build --locked --quiet -p sixferry-vectors $(STEERING)
	@$(TARGET_DIR)/debug/sixferry-vectors "$(FILE)"

lint: setup-test ## Format, clippy, licences and sources, generated and listed documents
	@scripts/lint.sh

fmt: ## Format the tree
	@cargo fmt --all

docs: ## Regenerate docs/counters.md
	@python3 -B scripts/counters_doc.py --write

soak: SECONDS := 600
soak: setup-test ## Mixed traffic for SECONDS=600, then the counter invariant to the packet (root)
	@SIXFERRY_SOAK_SECONDS=$(SECONDS) scripts/soak.sh

fuzz: FUZZ_SECONDS := 60
fuzz: ## Each fuzz target for FUZZ_SECONDS=60
	@scripts/setup.sh --tools $(TOOLS) build fuzz
	@FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz.sh
