# Every target makes the environment it needs; nothing has to be installed first but Python (with venv), git and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
XDIST ?= auto

.PHONY: help demo test check fmt types bench chaos simulate image lock clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "agentflow needs Python 3.11 or newer; say which with: make PYTHON=python3.12 ..."; exit 1; }
	@git --version >/dev/null 2>&1 || { echo "agentflow needs git 2.38 or newer"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing; on Debian: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP) ## Seven scripted agents build a small feature; ends with a branch to look at
	@$(BIN)/agentflow demo

test: $(STAMP) ## All tests (unit, integration, acceptance, guide)
	@$(BIN)/python -m pytest -n $(XDIST) $(ARGS)

check: $(STAMP) ## What CI checks besides the tests: format, lint, types, layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@PYTHONPATH=. $(BIN)/lint-imports --cache-dir .import_linter_cache

fmt: $(STAMP) ## Format, and fix what can be fixed
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

bench: $(STAMP) ## Measure; a table, and --json with ARGS="--json FILE"
	@$(BIN)/python -m bench $(ARGS)

chaos: $(STAMP) ## Everything goes wrong, by seed: SEED=1 MINUTES=60 (WORLD= SIZE= FAULTS= ONLY=); docs/chaos.md
	@PYTHONPATH=.:tests $(BIN)/python -m chaos --seed $(or $(SEED),1) --minutes $(or $(MINUTES),0) --world "$(WORLD)" --size $(or $(SIZE),0) --faults $(or $(FAULTS),12) --only "$(ONLY)"

simulate: $(STAMP) ## Thousands of schedules of the ledger, by seed: SEED=1 SCHEDULES=2000; docs/reliability.md
	@$(BIN)/python -m pytest -q -n $(XDIST) --dist=load --timeout=0 tests/integration/test_simulation.py -k schedule --seed $(or $(SEED),1) --schedules $(or $(SCHEDULES),2000)

image: ## Build the worker's image (docker, podman or buildah; BASE=debian: without a registry)
	@deploy/build-image $(ARGS)

lock: $(STAMP) ## Write requirements.lock anew (needs pip-tools)
	@$(BIN)/python -m pip install --quiet pip-tools
	@$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-header --extra dev --extra local --output-file requirements.lock pyproject.toml

clean: ## Remove what the targets made
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .tools .coverage* build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
