# Two commands are all that a fresh machine needs: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

.PHONY: demo test coverage lint types environment clean
.DEFAULT_GOAL := demo

demo: environment
	$(BIN)/python -m htc.run -m model.mask_flow=true,false
	$(BIN)/python analysis/make_tables.py

# Tests that take more than half a minute begin within eight minutes, so that all end within fifteen on slow machines, too;
# `HTC_TEST_MINUTES= make test` runs every one of them.
test: export HTC_TEST_MINUTES ?= 8
test: environment lint types
	$(PYTEST) $(PYTEST_ARGS)

coverage: environment
	$(PYTEST) --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: environment
	$(BIN)/mypy

environment: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage *.egg-info
