.PHONY: demo test check fuzz bench install

RECEIVERS := $(CURDIR)/target/receivers
export HOOKGATE_NODE_MODULES ?= $(RECEIVERS)/node_modules
export HOOKGATE_PYTHON ?= $(RECEIVERS)/venv/bin/python

# The main job, end to end, with nothing to configure.
demo:
	@scripts/install build
	@cargo run --locked -- demo

# All tests.
test:
	@scripts/install test
	cargo test --locked

# What CI asks for besides the tests.
check:
	@scripts/install build
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

# Each fuzz target for FUZZ_SECONDS; needs a nightly toolchain and cargo-fuzz.
FUZZ_SECONDS ?= 60
fuzz:
	@for target in $$(cargo +nightly fuzz list); do \
	  cargo +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

bench:
	@scripts/install build
	cargo bench --locked

# The program, for this user.
install:
	@scripts/install build
	cargo install --locked --path .
