.PHONY: demo test check deny fuzz bench bench-compare bench-growth bench-tools soak install

THIRD_PARTY := $(CURDIR)/target/third-party
export HOOKGATE_NODE_MODULES ?= $(THIRD_PARTY)/node_modules
export HOOKGATE_PYTHON ?= $(THIRD_PARTY)/venv/bin/python

# The main job, end to end, with nothing to configure.
demo:
	@scripts/install build
	@cargo run --locked -- demo

# All tests.
test:
	@scripts/install test
	cargo test --locked

# What CI asks for besides the tests.
check: deny
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

# Licences, sources, bans and duplicates of the dependencies; `cargo deny check advisories` needs GitHub besides.
deny:
	@scripts/install check
	$(THIRD_PARTY)/bin/cargo-deny check --deny warnings licenses bans sources

# Each fuzz target for FUZZ_SECONDS; needs a nightly toolchain and cargo-fuzz.
FUZZ_SECONDS ?= 60
fuzz:
	@mkdir -p fuzz/corpus/envelope fuzz/corpus/config fuzz/corpus/signature fuzz/corpus/captured fuzz/corpus/proxy_protocol
	cargo +nightly fuzz run envelope fuzz/corpus/envelope tests/corpus/envelope -- \
	  -dict=fuzz/envelope.dict -max_total_time=$(FUZZ_SECONDS)
	cargo +nightly fuzz run signature fuzz/corpus/signature tests/corpus/signature -- -max_total_time=$(FUZZ_SECONDS)
	cargo +nightly fuzz run config fuzz/corpus/config config src/config/cases -- -max_total_time=$(FUZZ_SECONDS)
	cargo +nightly fuzz run captured fuzz/corpus/captured tests/corpus/captured -- -max_total_time=$(FUZZ_SECONDS)
	cargo +nightly fuzz run proxy_protocol fuzz/corpus/proxy_protocol tests/corpus/proxy_protocol -- \
	  -max_total_time=$(FUZZ_SECONDS)

# An hour of everything at once; SOAK_SECONDS says how long.
SOAK_SECONDS ?= 3600
soak:
	@scripts/install test
	HOOKGATE_SOAK_SECONDS=$(SOAK_SECONDS) cargo test --locked --release --test it -- --nocapture soak::

bench:
	@scripts/install build
	cargo bench --locked

# hookgate beside its peers (benches/compare/README.md): some 25 minutes, on a machine that does nothing else. COMPARE takes
# options, as in `make bench-compare COMPARE=--quick`. A peer that can't be installed is skipped.
COMPARE ?=
bench-compare: bench-tools
	-@scripts/install bench
	@python3 benches/compare/compare.py $(COMPARE)

# What hookgate's cost grows with; GROWTH takes options.
GROWTH ?=
bench-growth: bench-tools
	@python3 benches/compare/growth.py $(GROWTH)

bench-tools:
	@scripts/install build
	cargo build --release --locked --target-dir target
	cargo build --release --locked --manifest-path benches/compare/Cargo.toml --target-dir benches/compare/target

# The program, for this user.
install:
	@scripts/install build
	cargo install --locked --path .
	@echo "manual pages: hookgate man --dir ~/.local/share/man/man1; completions: hookgate completions --help"
