# make demo    three shards with replicas, the proxy, 200,000 rows and six questions; Ctrl-C ends it
# make test    all that CI runs
# make deps    installs what the tests need and is not there: Postgres, drivers and their languages
# make lint    format check and clippy alone
# make fuzz    random messages and SELECTs to Postgres and to the proxy, seed after seed, for FUZZ_MINUTES=10
# make soak    clients that vanish and cancel, and 100,000 startups, for SOAK_MINUTES=10
# make bench   pgbench through the proxy, beside PgBouncer and beside one server (BENCH=quick for a short run)
# make count   instructions of planning, lexing and merging, by valgrind, beside the baseline that is kept
# make clean   removes the demo's servers and everything built
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# A run that hangs must not hold a machine: seconds for all tests together.
TEST_LIMIT ?= 1500
BENCH ?= full
FUZZ_MINUTES ?= 10
SOAK_MINUTES ?= 10
# Debian's package manager, as root or by sudo.
APT := $(if $(filter 0,$(shell id -u)),,sudo )apt-get

.PHONY: help deps deps-postgres deps-bench deps-count demo test lint fuzz soak bench count clean

help:
	@sed -n 's/^# //p' Makefile | head -9

# What the tests need: Postgres, and the drivers that are tested against the proxy.
deps: deps-postgres deps-count
	@tests/drivers/deps.sh

deps-postgres:
	@if ! { command -v initdb || ls /usr/lib/postgresql/*/bin/initdb || ls "$$(pg_config --bindir)/initdb"; } >/dev/null 2>&1; then \
		echo 'No Postgres found: installing the package postgresql.'; \
		$(APT) update -q && DEBIAN_FRONTEND=noninteractive $(APT) install -qy --no-install-recommends postgresql; \
	fi

deps-bench: deps-postgres
	@if ! command -v pgbouncer >/dev/null; then \
		$(APT) update -q && DEBIAN_FRONTEND=noninteractive $(APT) install -qy --no-install-recommends pgbouncer; \
	fi

deps-count:
	@if ! command -v valgrind >/dev/null; then \
		$(APT) update -q && DEBIAN_FRONTEND=noninteractive $(APT) install -qy --no-install-recommends valgrind; \
	fi

demo: deps-postgres
	cargo build --release --locked
	@exec target/release/trunkline demo $(DEMO_FLAGS)

lint:
	cargo fmt --check
	cargo fmt --check --manifest-path tests/drivers/sqlx/Cargo.toml
	cargo clippy --locked --all-targets -- -D warnings

test: deps lint
	@if cargo nextest --version >/dev/null 2>&1; then \
		timeout --kill-after=20 $(TEST_LIMIT) cargo nextest run --locked --no-fail-fast; \
	else \
		timeout --kill-after=20 $(TEST_LIMIT) cargo test --locked --no-fail-fast; \
	fi
	cargo bench --locked --bench instructions -- --check

fuzz: deps-postgres
	@end=$$((SECONDS + 60 * $(FUZZ_MINUTES))); seed=$${TRUNKLINE_SEED:-$$(date +%s)}; \
	while ((SECONDS < end)); do \
		TRUNKLINE_SEED=$$seed TRUNKLINE_FUZZ_CASES=$${TRUNKLINE_FUZZ_CASES:-500} \
			cargo test --locked --quiet --test it -- --nocapture random_messages_are_answered_as_by_postgres; \
		TRUNKLINE_SEED=$$seed TRUNKLINE_STATEMENTS=$${TRUNKLINE_STATEMENTS:-1500} \
			cargo test --locked --quiet --test it -- --nocapture random_selects_are_answered_right_or_refused; \
		seed=$$((seed + 1)); \
	done

soak: deps-postgres
	TRUNKLINE_SOAK_MINUTES=$(SOAK_MINUTES) cargo test --locked --test it -- --nocapture soak::

bench: deps-bench
	cargo build --release --locked
	benches/bench.sh $(BENCH)

count: deps-count
	cargo bench --locked --bench instructions

clean:
	rm -rf .demo
	cargo clean
