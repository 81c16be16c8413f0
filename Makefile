# `make help` lists the targets; `make demo` and `make test` are all that a fresh machine needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A file of version limits for pip, such as tests/oldest-requirements.txt.
CONSTRAINTS ?=
# Two to four workers; the tests of a file share fixtures, so one worker runs them all.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
# What may depend on the version of Python or of a library and is quick to run.
SHORT := ops models config checkpoint data runs launch analysis/statistics analysis/figures/test_style.py \
	analysis/report/test_page.py analysis/test_make_tables.py analysis/test_study.py analysis/test_run_index.py

.PHONY: help demo test test-slow test-short coverage lint format types environment clean
.DEFAULT_GOAL := demo

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: environment ## train two small networks on built-in data and print the tables
	$(BIN)/python -m htc.run -m model.mask_flow=true,false
	$(BIN)/python analysis/make_tables.py

test: lint types ## linter, formatter's check, types, and all tests that are not slow
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-slow: environment ## the slow tests
	$(PYTEST) -m slow $(PYTEST_ARGS)

test-short: environment ## a few minutes of tests, for one more version of Python or of a library
	$(PYTEST) -m "not slow" $(SHORT:%=tests/%) $(PYTEST_ARGS)

coverage: environment ## all tests, with the share of the code that they run
	$(PYTEST) --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

lint: environment ## linter, formatter's check, and the contract on imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: environment ## format the code and repair what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: environment ## type checker
	$(BIN)/mypy

environment: $(VENV)/.installed ## a virtual environment in VENV, made by PYTHON

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]' $(CONSTRAINTS:%=--constraint %)
	touch $@

clean: ## remove the environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage *.egg-info
