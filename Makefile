# `make` lists the targets. Everything runs on private stores that end with the command.
SHELL := bash
.DEFAULT_GOAL := help

# Queries were checked against a database when they were written (.sqlx); builds need none.
export SQLX_OFFLINE ?= true
# A clone without rustup's line in the shell's profile works too.
export PATH := $(HOME)/.cargo/bin:$(PATH)

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
DEVSTACK := $(TARGET)/debug/devstack
# One selection of packages everywhere: another one would build shared libraries again.
ALL := --workspace --locked
TOOLS := $(TARGET)/tools

NEXTEST := $(shell PATH="$(PATH)" cargo nextest --version >/dev/null 2>&1 && echo yes)
ifeq ($(NEXTEST),yes)
RUN_TESTS = $(CARGO) nextest run $(ALL)
else
RUN_TESTS = $(CARGO) test $(ALL) --lib --bins --tests
endif

.PHONY: help
help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 22

.PHONY: setup
setup: ## Install what is missing, or say what to install
	@scripts/setup.sh

.PHONY: build
build: setup ## Build the release binaries into target/release
	$(CARGO) build $(ALL) --release

.PHONY: demo
demo: setup ## Watch a simulated town, e.g. make demo ARGS='--for 60s'
	$(CARGO) build $(ALL) --release --bin devstack
	$(TARGET)/release/devstack demo $(ARGS)

.PHONY: test
test: setup ## Run every test on real stores
	@echo "== build of the tests"
	$(CARGO) test $(ALL) --no-run
	@echo "== tests"
	$(DEVSTACK) exec -- $(RUN_TESTS)
	@echo "== examples in the documentation"
	$(CARGO) test $(ALL) --doc

.PHONY: api-check
api-check: setup ## Check the OpenAPI documents against the services, e.g. ARGS='--role driver --max-examples 100'
	$(CARGO) build $(ALL) --bin devstack
	scripts/api-check.sh $(DEVSTACK) $(TARGET)/api-check $(ARGS)

.PHONY: lint
lint: setup ## Check format, lints, dependencies, documentation, offline query data, images
	@echo "== format"
	$(CARGO) fmt --all --check
	@echo "== clippy"
	$(CARGO) clippy $(ALL) --all-targets -- -D warnings
	@echo "== documentation"
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc $(ALL) --no-deps --document-private-items
	@echo "== query data"
	scripts/sqlx.sh --check
	@echo "== images"
	scripts/images.sh $(TOOLS)
	@echo "== licences and sources of dependencies"
	scripts/deny.sh $(TOOLS) check licenses bans sources

.PHONY: audit
audit: ## Ask the advisory database about our dependencies (needs the network)
	scripts/deny.sh $(TOOLS) check advisories

.PHONY: fmt
fmt: ## Format the code
	$(CARGO) fmt --all

.PHONY: upgrade-check
upgrade-check: ## Run an older build's migrators on this schema; OLDER=DIR with its binaries, else the last tag
	scripts/upgrade.sh $(OLDER)

.PHONY: sqlx
sqlx: ## Write .sqlx again after a change of queries or migrations
	scripts/sqlx.sh

# By file, as a selection of all benches would also build and start every crate's library as one.
BENCHES ?= $(basename $(notdir $(wildcard benches/benches/*.rs)))
# Short, for all of them in ten minutes; `cargo bench -p benches --bench wire` takes its time.
BENCH_TIMES := --noplot --warm-up-time 0.5 --measurement-time 1 --sample-size 30

.PHONY: bench
bench: ## Measure the hot functions in 10 minutes, or e.g. BENCHES='wire token'
	@scripts/setup.sh || echo "bench: going on, without the stores that are missing" >&2
	$(CARGO) bench $(ALL) --no-fail-fast $(BENCHES:%=--bench %) -- $(BENCH_TIMES) $(ARGS)

.PHONY: bench-counts
bench-counts: ## Count instructions against benches/counts.txt (ARGS=--bless writes it)
	$(CARGO) bench $(ALL) --bench counts -- $(ARGS)

.PHONY: chaos
chaos: build ## Break things and check what was promised, about two hours, or e.g. ARGS='orders --quick'
	@if [ -n "$(ARGS)" ]; then $(TARGET)/release/chaos $(ARGS); else \
	    failed=0; \
	    for what in gps menu orders; do $(TARGET)/release/chaos $$what || failed=1; done; \
	    exit $$failed; \
	fi

.PHONY: bench-system
bench-system: build ## Put the whole system under its loads, half an hour; ARGS='--only REGEX', --list, --growth, --soak
	$(TARGET)/release/bench-system $(ARGS)

.PHONY: flame
flame: build ## Draw flame graphs of the services under load, e.g. ROWS='single ws'
	scripts/flame.sh $(ROWS)

.PHONY: clean
clean: ## Remove build results and the data of `devstack up`
	$(CARGO) clean
	@for moved in .devstack/*/moved; do \
	    if [ -f "$$moved" ]; then \
	        place=$$(cat "$$moved"); \
	        case "$$place" in /var/tmp/swift-eats-postgres-*) rm -rf -- "$$place" ;; esac; \
	    fi; \
	done
	rm -rf .devstack
