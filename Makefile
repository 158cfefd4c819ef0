# Needs make and Python >= 3.10 with its venv module; the rest comes through pip. `make help` lists the targets.

PYTHON ?= python3

VENV  := .venv
BIN   := $(VENV)/bin
TOOLS := build/tools
DEMO  := build/demo
DIST  := dist
SOURCES := $(shell find tessera tesseracc runtime -name '*.py' -o -name '*.yaml' -o -name '*.toml' -o -name py.typed)
# Test processes: the processors that this process may use, four at most.
JOBS  ?= $(shell $(PYTHON) -c 'import os; print(min(4, len(os.sched_getaffinity(0))))')
# A file's tests share what they compile, so one process runs them. Files in order, not by their number of tests.
PYTEST := $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder
# Of `make fuzz-bundle`.
CASES ?= 100000
SEED  ?= 1
PIP   := -m pip --disable-pip-version-check --quiet
# Wheels get the same bytes whenever they are built.
export SOURCE_DATE_EPOCH ?= 1735689600

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup test test-full demo wheel lint type fuzz fuzz-bundle bench bless clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.stamp ## Create .venv with the project (editable) and its test dependencies

$(VENV)/.stamp: pyproject.toml | python
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) install -e '.[test]'
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp
	$(BIN)/python $(PIP) install -e '.[dev]'
	@touch $@

.PHONY: python
python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: $(PYTHON) is older than 3.10; use make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "error: $(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

test: $(VENV)/.stamp ## Run the tests (under 10 minutes on two cores)
	$(PYTEST)

test-full: $(VENV)/.stamp ## Run every test that needs no GPU, the slow ones too
	$(PYTEST) -m 'not gpu'

demo: $(DEMO)/compiler/.stamp $(DEMO)/runtime/.stamp ## Compile samples/digits.py and read real handwritten digits with the bundle
	$(DEMO)/compiler/bin/tesseracc build samples/digits.py --arch cpu --arch sm_90 -o $(DEMO)/digits.tsb
	$(DEMO)/runtime/bin/python samples/demo.py $(DEMO)/digits.tsb --at-least 96

$(DEMO)/compiler/.stamp: $(DIST)/.stamp
	$(PYTHON) -m venv $(DEMO)/compiler
	$(DEMO)/compiler/bin/python $(PIP) install --upgrade --force-reinstall --no-deps $(DIST)/tesseracc-*.whl
	$(DEMO)/compiler/bin/python $(PIP) install $(DIST)/tesseracc-*.whl
	@touch $@

$(DEMO)/runtime/.stamp: $(DIST)/.stamp
	$(PYTHON) -m venv $(DEMO)/runtime
	$(DEMO)/runtime/bin/python $(PIP) install --upgrade --force-reinstall --no-deps $(DIST)/tessera_runtime-*.whl
	$(DEMO)/runtime/bin/python $(PIP) install $(DIST)/tessera_runtime-*.whl
	@touch $@

wheel: $(DIST)/.stamp ## Build dist/: the main wheel, and the runtime's own for machines that only run bundles
	@ls -l $(DIST)/*.whl

# setuptools packs whatever lies in its build folder, so an old one must not survive.
$(DIST)/.stamp: $(TOOLS)/.stamp pyproject.toml README.md LICENSE $(SOURCES)
	rm -rf $(DIST) build/lib build/bdist.* runtime/build
	$(TOOLS)/bin/python $(PIP) wheel --no-build-isolation --no-deps --wheel-dir $(DIST) . ./runtime
	@touch $@

$(TOOLS)/.stamp: | python
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python $(PIP) install 'setuptools>=77' wheel
	@touch $@

lint: $(VENV)/.stamp-dev ## Check style (ruff) and the direction of imports (import-linter)
	$(BIN)/ruff check .
	$(BIN)/lint-imports

type: $(VENV)/.stamp-dev ## Check types (mypy --strict)
	$(BIN)/mypy

fuzz: $(VENV)/.stamp ## Run the property-based tests for long, with fresh seeds
	$(PYTEST) -m 'hypothesis and not gpu' --hypothesis-profile=fuzz

fuzz-bundle: $(VENV)/.stamp ## Attack the bundle reader: CASES mutants, and writers killed at random
	$(BIN)/python -m tests.bundle.campaign --cases $(CASES) --seed $(SEED)
	$(BIN)/python -m tests.bundle.kill

bench: $(VENV)/.stamp ## Measure against NumPy, side by side
	$(BIN)/python -m benchmarks

bless: $(VENV)/.stamp ## Rewrite the expected output of tests and the generated specs; review the diff
	$(BIN)/python -m pytest -q --bless -n 0

clean: ## Remove everything that make has built
	rm -rf $(VENV) build dist runtime/build *.egg-info runtime/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find tessera tesseracc runtime tests samples -name __pycache__ -type d -prune -exec rm -rf {} +
