# Every target sets up what it needs in .venv, from a Python and nothing else.
# A target run again skips what is done.

# Variables to set on the command line: `make quickstart SIZE=smoke`.
# Python that makes the environment; the first one that fits by default.
PYTHON ?=
# Folders of the quickstart.
DATA_DIR ?= data/mini_uned
WORKDIR ?= runs/quickstart
# Size of the data that it draws: smoke, small, medium or large.
SIZE ?= small
# More flags of its training: --config.key=value ...
CONFIG_FLAGS ?=
# More flags of pytest: -k name, -x, ...
PYTEST_FLAGS ?= -n 2 --dist loadfile

# Whatever the caller's shell looks into, the environment sees itself alone.
unexport PYTHONPATH PYTHONHOME
export PYTHONNOUSERSITE = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

SHELL := /bin/sh
.DELETE_ON_ERROR:
.NOTPARALLEL: # pip twice at once in one environment breaks it
.SUFFIXES:
.DEFAULT_GOAL := help

RUN := .venv/bin/python

.PHONY: help
help: ## Lists the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: quickstart
quickstart: .venv/.installed-data,viz ## Draws a small data set, trains on it, prints the table.
	@echo '== data: $(DATA_DIR)'
	@$(RUN) -m udon_jax.data.synthetic --output='$(DATA_DIR)' --size=$(SIZE) --seed=0
	@$(RUN) -m udon_jax.data.prepare --data_dir='$(DATA_DIR)'
	@echo '== training: $(WORKDIR)'
	@$(RUN) -m udon_jax.main --config=configs/quickstart.py \
	  --config.data_dir='$(DATA_DIR)' --workdir='$(WORKDIR)' $(CONFIG_FLAGS)

.PHONY: test
test: .venv/.installed-test ## Runs the tests but those that take minutes.
	@$(RUN) -m pytest -m 'not slow' $(PYTEST_FLAGS)

.PHONY: test-all
test-all: .venv/.installed-test ## Runs all tests, on programs that XLA optimizes fully.
	@UDON_TEST_OPTIMIZED=1 $(RUN) -m pytest $(PYTEST_FLAGS)

.PHONY: lint
lint: .venv/.installed-dev ## Checks style and types; changes nothing.
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

.PHONY: types
types: .venv/.installed-dev ## Checks types alone.
	@$(RUN) -m mypy

.PHONY: format
format: .venv/.installed-dev ## Formats the code and sorts imports.
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

.PHONY: hooks
hooks: .venv/.installed-dev ## Lets git check style and types before a commit.
	@$(RUN) -m pre_commit install

.PHONY: constraints
constraints: | .venv/bin/pip ## Writes constraints.txt anew, from the newest versions that fit.
	@$(RUN) -m venv --clear .venv-constraints
	@.venv-constraints/bin/python -m pip install --quiet --editable '.[dev]'
	@{ sed '/^[^#]/,$$d' constraints.txt; \
	  .venv-constraints/bin/python -m pip list --format=freeze --exclude-editable --exclude pip --exclude setuptools; } > .venv-constraints/new
	@cp .venv-constraints/new constraints.txt
	@rm -rf .venv-constraints
	@echo 'constraints.txt is new; run "make lint test-all" with it'

.PHONY: clean
clean: ## Removes the environment and caches; data and runs stay.
	@rm -rf .venv .venv-constraints .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment for all; each stamp says which extra it holds already.
.venv/.installed-%: setup.py constraints.txt | .venv/bin/pip
	@echo '== installing udon_jax[$*] into .venv; the first time takes minutes'
	@$(RUN) -m pip install --quiet --editable '.[$*]' --constraint constraints.txt
	@touch $@

# Debian ships a Python without venv, version managers ship names that do not
# run: only a Python that imports what is needed counts.
.venv/bin/pip:
	@set -- $(if $(PYTHON),'$(PYTHON)',python3 python3.13 python3.12 python3.11 python); \
	for python in "$$@"; do \
	  if "$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1; then \
	    echo "== making .venv with $$("$$python" --version)"; \
	    exec "$$python" -m venv --clear .venv; \
	  fi; \
	done; \
	echo "error: udon_jax needs a Python from 3.11 to 3.13 with venv; tried: $$*." >&2; \
	echo "Install one (Debian, Ubuntu: apt install python3-venv) or name it:" >&2; \
	echo "make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
	exit 2
