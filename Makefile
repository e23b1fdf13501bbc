.PHONY: demo test check deny advisories dist profile image release-check macos fuzz fuzz-coverage attack cases power-loss postgres bench instructions bench-compare bench-growth bench-logs bench-replicas bench-tools soak install

THIRD_PARTY := $(CURDIR)/target/third-party
export HOOKSTILE_NODE ?= $(THIRD_PARTY)/bin/node
export HOOKSTILE_NODE_MODULES ?= $(THIRD_PARTY)/node_modules
export HOOKSTILE_PYTHON ?= $(THIRD_PARTY)/venv/bin/python
# The newest.
export HOOKSTILE_POSTGRES ?= $(THIRD_PARTY)/bin/postgres

# The main job, with a dashboard and nothing to configure, until Ctrl-C. DEMO takes options: `make demo DEMO=--once`. It is
# the same build as that of `make install`.
DEMO ?=
demo install: export HOOKSTILE_COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null)
demo:
	@scripts/install build
	@cargo run --release --locked -- demo $(DEMO)

# All tests.
test:
	@scripts/install test
	cargo test --locked

# What CI asks for besides the tests.
check: deny
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

# Licences, sources, bans and duplicates of the dependencies.
deny:
	@scripts/install check
	$(THIRD_PARTY)/bin/cargo-deny check --deny warnings licenses bans sources

# Known vulnerabilities of the dependencies; fetches the list of them.
advisories:
	@scripts/install check
	$(THIRD_PARTY)/bin/cargo-deny check advisories

# What a release consists of, in dist/: archive, Debian package, SBOM, Helm chart, checksums; some 10 minutes. DIST_BIN packs a
# binary that is there, in a minute.
DIST_BIN ?=
dist:
	@HOOKSTILE_BIN=$(DIST_BIN) scripts/dist

# What the compiler lays the binary of a release out by: writes deploy/pgo; some 25 minutes.
profile:
	@scripts/profile

# The image, from the binary of dist/, as an OCI archive there. Needs no daemon.
image:
	@scripts/image

# `make dist` and `make image`, and whether they work: the packages in fresh roots, the unit under a running systemd, the
# image as its user; then `make postgres`, `make power-loss`, `make attack` and `make cases`: some 90 minutes.
# RELEASE_CHECK takes options: --packages stops before the suites (20 minutes), --suites runs only these (an hour), --no-boot
# leaves the unit out, --twice builds again and compares the bytes.
RELEASE_CHECK ?=
release-check:
	@HOOKSTILE_BIN=$(DIST_BIN) scripts/release-check $(RELEASE_CHECK)

# Compiles for macOS, as far as that works here; some 6 minutes.
macos:
	@scripts/check-macos

# Each fuzz target for FUZZ_SECONDS; needs a nightly toolchain and cargo-fuzz. What is found is kept in fuzz/corpus.
FUZZ_SECONDS ?= 60
FUZZ := envelope signature config captured explain head session proxy_protocol
fuzz_corpora = fuzz/corpus/$* $(wildcard tests/corpus/$* tests/corpus/found/$*) $(SEEDS_$*)
SEEDS_config := config src/config/cases
SEEDS_session := tests/corpus/head tests/corpus/found/head
fuzz: $(FUZZ:%=fuzz-%)
fuzz-%:
	@mkdir -p fuzz/corpus/$*
	cargo +nightly fuzz run $* $(fuzz_corpora) -- $(addprefix -dict=,$(wildcard fuzz/$*.dict)) \
	  -timeout=25 -max_total_time=$(FUZZ_SECONDS)

# Which lines of what each target drives its corpora reach, those found included; needs llvm-tools of the nightly besides.
COVERED_envelope := src/event.rs src/json
COVERED_signature := src/signature.rs src/signature src/handshake.rs
COVERED_config := src/config.rs src/config
COVERED_captured := src/explain/captured.rs src/explain/captured
COVERED_explain := src/explain.rs src/explain
COVERED_head := src/gateway/request/head.rs
COVERED_session := src/gateway/session.rs src/gateway/session
COVERED_proxy_protocol := src/proxy_protocol.rs
llvm_cov = $(shell rustc +nightly --print target-libdir)/../bin/llvm-cov
fuzz-coverage: $(FUZZ:%=coverage-%)
coverage-%:
	@mkdir -p fuzz/corpus/$*
	cargo +nightly fuzz coverage --target-dir target/fuzz-coverage $* $(fuzz_corpora)
	$(llvm_cov) report --instr-profile=fuzz/coverage/$*/coverage.profdata \
	  target/fuzz-coverage/x86_64-unknown-linux-gnu/release/$* $(COVERED_$*)

# An hour of everything at once; SOAK_SECONDS says how long.
SOAK_SECONDS ?= 3600
soak:
	@scripts/install test
	HOOKSTILE_SOAK_SECONDS=$(SOAK_SECONDS) cargo test --locked --release --test it -- --nocapture soak::

# Attacks on the release binary, with all that one address may take, and the hostile corpus. Run it after a change of the
# listener, of Pingora or of h2.
HOSTILE := attack head http2 slow_senders descriptors admin_listener admission access proxy_protocol log stop upgrade
attack:
	@scripts/install test
	ulimit -n 8192 && HOOKSTILE_ATTACK=full cargo test --locked --release --test it -- $(HOSTILE:%=%::)

# The faults that were reported in public, against the release binary.
cases:
	@scripts/install test
	cargo test --locked --release --test it -- reported::

# Losses of power under load, POWER_LOSS_ROUNDS with each durability, on a new and on the same boot; as root, with loop devices.
POWER_LOSS_ROUNDS ?= 200
power-loss:
	@scripts/install test
	HOOKSTILE_POWER_LOSS_ROUNDS=$(POWER_LOSS_ROUNDS) cargo test --locked --release --test it -- --nocapture power_loss::

# The tests that use a PostgreSQL, against each supported version; POSTGRES="14 18" names some. 5 minutes a version.
POSTGRES ?=
postgres:
	@scripts/postgres $(POSTGRES)

bench:
	@scripts/install build
	cargo bench --locked

# What one event takes in instructions, held to benches/instructions.json; HOOKSTILE_REGENERATE=1 writes that anew.
instructions:
	@scripts/install check
	@cargo bench --locked --bench instructions

# hookstile beside its peers (benches/compare/README.md): some 40 minutes, on a machine that does nothing else. COMPARE takes
# options, as in `make bench-compare COMPARE="--tables replay,queue --quick"`. A peer that can't be installed is skipped.
COMPARE ?=
bench-compare: bench-tools
	-@scripts/install bench
	@python3 benches/compare/compare.py $(COMPARE)

# What hookstile's cost grows with; GROWTH takes options.
GROWTH ?=
bench-growth: bench-tools
	@python3 benches/compare/growth.py $(GROWTH)

# What a durable commit costs, beside two crates that the commit log could be; LOGS is the folder to write to.
LOGS ?= target
bench-logs:
	@cargo run --release --quiet --manifest-path benches/logs/Cargo.toml --target-dir target/bench-logs -- $(LOGS)

# What a shared store costs beside the embedded one; REPLICAS takes options.
REPLICAS ?=
bench-replicas: bench-tools
	@scripts/install test
	@python3 benches/compare/replicas.py $(REPLICAS)

bench-tools:
	@scripts/install build
	cargo build --release --locked --target-dir target
	cargo build --release --locked --manifest-path benches/compare/Cargo.toml --target-dir benches/compare/target

# The program, for this user.
install:
	@scripts/install build
	cargo install --locked --path .
	@echo "manual pages: hookstile man --dir ~/.local/share/man/man1; completions: hookstile completions --help"
