# The same commands for a developer and for CI. Everything that needs the network runs in namespaces made for it, as root.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MUTANTS := 27.1.0
MUTANTS_FILES ?= src/cookie/**/*.rs src/engine/**/*.rs src/table/**/*.rs src/wire/**/*.rs
SCRIPTS := .ci/run deploy/grafana/check-types deploy/hooks/webhook deploy/lab/lab deploy/lab/demo deploy/lab/deps \
	fuzz/run fuzz/grow tests/netns/both-planes

.PHONY: help deps demo test unit sim fuzz mutants xdp xdp-profile netns bench dashboard-types dashboard-picture fmt clippy core docs shellcheck build lab-up lab-down

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 20

deps: ## install what the lab and the tests call (apt-get)
	@deploy/lab/deps

build: ## the program, as released
	cargo build --release --bin synwall

demo: deps build ## a SYN flood with and without synwall, in about a minute
	deploy/lab/demo

test: deps fmt clippy core docs shellcheck unit sim fuzz xdp netns ## all of the checks and tests

fmt: ## formatting, unchanged
	cargo fmt --check

clippy: ## lints as errors, on all feature sets
	cargo clippy --all-targets -- -D warnings
	cargo clippy --all-targets --no-default-features --features appliance -- -D warnings
	cargo clippy --no-default-features --lib -- -D warnings

core: ## the packet core compiles and passes its tests alone: no sockets, no clock, no configuration; so does all but XDP
	cargo check --no-default-features --lib
	cargo test --no-default-features --lib
	cargo check --no-default-features --features appliance

docs: ## rustdoc, warnings as errors
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items

shellcheck:
	shellcheck $(SCRIPTS)

unit: ## unit tests, scenarios, vectors
	cargo test

sim: ## smoltcp and other TCPs around the engine, on a virtual clock: docs/simulation.md; SIM_SCALE=10 for a longer run
	cargo test --release --test sim -- --nocapture

fuzz: ## every fuzz target for FUZZ_SECONDS (60), two at a time: docs/fuzzing.md
	fuzz/run

mutants: ## mutation testing of the core, a minute a mutant; MUTANTS_ARGS="--shard 1/8", MUTANTS_FILES=src/wire/icmp.rs: docs/mutation.md
	@cargo mutants --version 2>/dev/null | grep -qx 'cargo-mutants $(MUTANTS)' || \
		cargo install cargo-mutants --version $(MUTANTS) --locked
	CARGO_PROFILE_DEV_DEBUG=0 nice -n 15 cargo mutants --jobs 1 --gitignore true --output target \
		$(foreach files,$(MUTANTS_FILES),--file '$(files)') $(MUTANTS_ARGS)

xdp: deps ## the XDP program against the engine: vectors, random frames, its size; XDP_SEED=, XDP_FRAMES= for other ones
	cargo test --release --test xdp -- --test-threads=1

xdp-profile: deps ## how large the program is, and what a packet of each kind costs one by one
	cargo test --release --test xdp -- --test-threads=1 --nocapture size::

netns: deps ## real kernels, real packets: one lab after another
	tests/netns/both-planes

bench: deps ## against plain forwarding, the kernel's synproxy and bare XDP, in one run: docs/performance.md; about half an hour
	cargo build --release --bin synwall --example lab_load
	benches/lab/run --document $(BENCH)

dashboard-types: ## the dashboard against the types of @grafana/schema; needs npm, so it is no part of test
	deploy/grafana/check-types

dashboard-picture: deps ## docs/dashboard.svg anew, from a flood in the lab: docs/monitoring.md
	cargo test --release --test netns -- --test-threads=1 observed
	docs/render-panels < target/tmp/observed.json > docs/dashboard.svg

lab-up: deps ## a lab to play in; LAB=NAME make lab-up for one more beside it; deploy/lab/lab says what can be done in it
	deploy/lab/lab up

lab-down: ## remove it, with the same LAB=NAME
	deploy/lab/lab down
