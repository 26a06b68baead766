# The two commands of the README: `make study` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SPACE ?= search_spaces/be.yaml
UV := $(shell command -v uv 2>/dev/null)
STATE := $(VENV)/.installed

.PHONY: study test test-peers bench chaos lint clean

study: $(STATE)-study
	$(BIN)/python -m study.run --space $(SPACE)

test: $(STATE)-test lint
	$(BIN)/python -m pytest

test-peers: $(STATE)-test
	$(BIN)/python -m pytest -m peer

bench: $(STATE)-test
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.analysis_scale --trials 20

chaos: $(STATE)-test
	$(BIN)/python -m tests.chaos --kills 100

lint: $(STATE)-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
ifdef UV
	uv venv --python $(PYTHON) $(VENV)
else
	$(PYTHON) -m venv $(VENV)
endif

$(STATE)-study: pyproject.toml | $(BIN)/python
ifdef UV
	uv pip install --quiet --python $(BIN)/python -e .
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
endif
	@touch $@

$(STATE)-test: pyproject.toml | $(BIN)/python
ifdef UV
	uv pip install --quiet --python $(BIN)/python -e '.[test]'
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
endif
	@touch $@ $(STATE)-study

clean:
	rm -rf $(VENV) build *.egg-info
