# The two commands of the README: `make study` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SPACE ?= search_spaces/be.yaml
RUN ?= runs/be
PORT ?= 8080
UV := $(shell command -v uv 2>/dev/null)
STATE := $(VENV)/.installed
# More processes than two cores, as many tests wait.
PARALLEL := --dist loadfile --no-loadscope-reorder

.PHONY: study dashboard test test-slow test-all test-peers test-cluster bench chaos results audit lint clean

study: $(STATE)-study
	$(BIN)/python -m study.run --space $(SPACE)

# The search of a run, under way or finished, in the browser.
dashboard: $(STATE)-dashboard
	@test -f $(RUN)/optuna.journal || { echo "error: RUN=$(RUN): must be the folder of a run, but has no optuna.journal; give RUN=runs/NAME" >&2; exit 2; }
	$(BIN)/optuna-dashboard --host 127.0.0.1 --port $(PORT) $(RUN)/optuna.journal

test: $(STATE)-test lint
	$(BIN)/python -m pytest -n 3 $(PARALLEL)

# What `make test` leaves out: whole studies, clusters, other libraries, simulations.
test-slow: $(STATE)-test
	$(BIN)/python -m pytest -n 3 $(PARALLEL) -m "slow or peer or cluster" --durations 10

# Both at once, with more examples of what is drawn at random.
test-all: $(STATE)-test lint
	$(BIN)/python -m pytest -n 3 $(PARALLEL) -m "" --hypothesis-profile thorough --durations 10

test-peers: $(STATE)-test
	$(BIN)/python -m pytest -m peer

# Clusters of hosts that are namespaces of this machine, with a log: needs root.
test-cluster: $(STATE)-test
	$(BIN)/python -m pytest -m cluster -s

bench: $(STATE)-test
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.analysis_scale --trials 20

chaos: $(STATE)-test
	$(BIN)/python -m tests.chaos --kills 100

# Judge the published results again; fails where a number is no longer what the code gives.
results: $(STATE)-study
	$(BIN)/python -m analysis.publication
	$(BIN)/python -m analysis.factorial

# Known vulnerabilities of what is installed; needs the public index of packages.
audit: $(STATE)-test
	$(INSTALL) pip-audit
	$(BIN)/python -m pip_audit --local --progress-spinner off

lint: $(STATE)-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ifdef UV
MAKE_VENV := uv venv --python $(PYTHON) $(VENV)
INSTALL := uv pip install --quiet --python $(BIN)/python
else
MAKE_VENV := $(PYTHON) -m venv $(VENV)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

# An install that was interrupted may leave a package that pip itself stumbles over.
install = @echo "$(INSTALL) -e '$(1)'"; $(INSTALL) -e '$(1)' || { echo "error: packages could not be\
 installed; if an earlier install was interrupted, give make clean and the same command again" >&2; exit 2; }

$(BIN)/python:
	$(MAKE_VENV)

$(STATE)-study: pyproject.toml | $(BIN)/python
	$(call install,.)
	@touch $@

$(STATE)-dashboard: pyproject.toml | $(BIN)/python
	$(call install,.[dashboard])
	@touch $@

$(STATE)-test: pyproject.toml | $(BIN)/python
	$(call install,.[test])
	@touch $@ $(STATE)-study

clean:
	rm -rf $(VENV) build *.egg-info
