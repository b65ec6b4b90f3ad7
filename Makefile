# The commands of a working day. `make` alone lists them.

PYTHON ?=
PYTEST_ARGS ?= -m "not network" -r s

# Files of tests run side by side; a file's tests share what they compiled.
AT_ONCE ?= --numprocesses=auto --maxprocesses=4 --dist=loadfile

VENV := .venv
BIN := $(VENV)/bin
LIGHT := $(VENV)/.light.stamp
FULL := $(VENV)/.full.stamp
TEST_EXTRAS := cpu,text,images,dask,models,monitor,serving,dev
DEMO := models/demo
MIN_PYTHON := import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help setup setup-test demo test lint types unit format benchmarks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=/path/to/python    interpreter for $(VENV), 3.11 or newer (found by itself otherwise)"
	@echo "  PYTEST_ARGS='-k gate'     what make test hands to pytest (default: $(PYTEST_ARGS))"

setup: $(LIGHT) ## create .venv with skipc and ONNX Runtime for the CPU

setup-test: $(FULL) ## add the test tools to .venv

demo: $(LIGHT) ## compile the small model that comes with the repository, then measure it
	@mkdir -p build
	$(BIN)/skipc compile $(DEMO)/demo.onnx -o build/demo.skip.onnx
	$(BIN)/skipc bench $(DEMO)/demo.onnx build/demo.skip.onnx --data $(DEMO)/demo.test.npz

test: lint types unit ## everything that CI checks: lint, types, tests

lint: $(FULL) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(FULL) ## mypy, strict
	$(BIN)/mypy

unit: $(FULL) ## the tests alone
	$(BIN)/python -m pytest $(AT_ONCE) $(PYTEST_ARGS)

format: $(FULL) ## rewrite the code in the house format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

benchmarks: $(FULL) ## measure what the README quotes; writes benchmarks/results
	$(BIN)/python -m benchmarks.run

clean: ## remove what these commands made, .venv included
	rm -rf $(VENV) build dist skipc.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@set -e; \
	for candidate in $(if $(PYTHON),'$(PYTHON)',python3 python3.14 python3.13 python3.12 python3.11); do \
	    if "$$candidate" -c '$(MIN_PYTHON)' 2>/dev/null; then chosen="$$candidate"; break; fi; \
	done; \
	if [ -z "$${chosen:-}" ]; then \
	    echo "skipc needs Python 3.11 or newer; $(or $(PYTHON),no python3 on the PATH) is not." >&2; \
	    echo "hint: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.11" >&2; exit 2; \
	fi; \
	"$$chosen" -m venv $(VENV)

$(LIGHT): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cpu]'
	@touch $@

# After the light one: two installs into one environment must not run at once.
$(FULL): pyproject.toml $(LIGHT)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(TEST_EXTRAS)]'
	@touch $@
