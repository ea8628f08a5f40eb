# Every command a contributor or CI needs. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
# Each has a stack of its own; a test waits more than it computes, so two cores carry three.
TEST_WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin
# uv comes from PyPI into its own small environment, so that nothing but Python has to be installed.
UV_HOME := .uv
UV_VERSION := 0.13.9
UV := $(UV_HOME)/bin/uv
MEMBERS := proto/gen libs/contracts libs/chassis libs/client libs/cli services/quota tools
LOCK_FLAGS := --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --group dev \
	$(foreach name,proto contracts chassis client cli quota tools,--no-emit-package tokenomics-$(name))
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export UV_PYTHON_DOWNLOADS := never

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Tokenomics needs Python 3.11 or newer, found " + sys.version.split()[0] + "; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(UV_HOME)
	$(UV_HOME)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# The stamp changes when the lock or a member's metadata does; everything else waits for it.
$(VENV)/.installed: requirements.lock $(addsuffix /pyproject.toml,$(MEMBERS)) | $(UV)
	[ -x $(BIN)/python ] || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	$(UV) pip sync --require-hashes requirements.lock
	$(UV) pip install --quiet --no-deps --no-build-isolation $(addprefix -e ,$(MEMBERS))
	touch $@

.PHONY: setup
setup: $(VENV)/.installed ## install everything from the lock, and fetch Kafka once
	$(BIN)/python -m tokenomics_tools.stack fetch

.PHONY: lock
lock: | $(UV) ## pin every dependency anew, with hashes (UPGRADE=1 takes newer versions)
	$(UV) pip compile $(LOCK_FLAGS) $(if $(UPGRADE),--upgrade) pyproject.toml -o requirements.lock

.PHONY: lock-check
lock-check: | $(UV) ## fail when requirements.lock does not fit the pyproject files
	cp requirements.lock $(UV_HOME)/checked.lock
	$(UV) pip compile $(LOCK_FLAGS) pyproject.toml -o $(UV_HOME)/checked.lock
	diff -u requirements.lock $(UV_HOME)/checked.lock || { echo 'requirements.lock is out of date: run `make lock`' >&2; exit 1; }

.PHONY: lint
lint: $(VENV)/.installed ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: format
format: $(VENV)/.installed ## ruff: mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: types
types: $(VENV)/.installed ## mypy --strict
	$(BIN)/mypy

.PHONY: imports
imports: $(VENV)/.installed ## import-linter: the rules of dependence
	$(BIN)/lint-imports

.PHONY: proto
proto: $(VENV)/.installed ## buf lint, generate proto/gen and the exported schemas
	$(BIN)/python -m tokenomics_tools.contracts generate

.PHONY: proto-check
proto-check: $(VENV)/.installed ## contracts are current and break no reader
	$(BIN)/python -m tokenomics_tools.contracts check

.PHONY: test
test: setup ## every test, on real Kafka and PostgreSQL (TEST_WORKERS=1 for one after another)
	$(BIN)/pytest -n $(TEST_WORKERS) --dist worksteal

.PHONY: demo
demo: setup ## the main job on real input, each claim checked; ends by itself
	$(BIN)/python -m tokenomics_tools.demo

.PHONY: up
up: setup ## start the stack and the services, and leave them running
	$(BIN)/python -m tokenomics_tools.stack up

.PHONY: down
down: $(VENV)/.installed ## stop what `make up` started
	$(BIN)/python -m tokenomics_tools.stack down

.PHONY: bench
bench: setup ## each path beside its floor (BENCH_JSON=file, BENCH_SCALE=0.1 for a short run)
	$(BIN)/python -m tokenomics_tools.bench

.PHONY: prove
prove: setup ## the guarantees at full size, seeded (PROVE_JSON=file, PROVE_SCALE=0.1, PROVE_SEED=1)
	$(BIN)/python -m tests.proofs
