# `make demo` and `make test` set up .venv when they first need it.

# python3.11 first: the pinned set is tested with it.
PYTHON ?= $(or $(shell for python in python3.11 python3; do \
	$$python -c '$(CHECK_PYTHON)' 2>/dev/null && echo $$python && break; done),python3)
# Test processes beside each other, and more arguments for pytest or the demo.
JOBS ?= 2
ARGS ?=

DEMO_EXTRAS := cls,demo
TEST_EXTRAS := $(DEMO_EXTRAS),test

SHELL := /bin/bash
VENV := .venv
# Not .venv/bin/pip and the like: their first line breaks when the folder is moved.
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip --disable-pip-version-check --no-input install \
	--progress-bar off -c constraints.txt
# Of pip's many lines, keep those that show that long work goes on.
SHORTLY := awk '/Downloading .*[MG]B\)/ { print "  " $$2, $$3, $$4; fflush() } \
	/^Installing collected/ { print "  Installing"; fflush() }'
# The pinned numpy needs 3.11.
CHECK_PYTHON := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

.PHONY: help demo test lint format setup-demo setup-test clean distclean
# Two set-ups in one environment must not run beside each other.
.NOTPARALLEL:

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' \
		$(firstword $(MAKEFILE_LIST))

demo: setup-demo  ## Show the package at work
	@$(PY) tools/demo.py $(ARGS)

test: setup-test lint  ## Lint, type-check and run all tests
	$(PY) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: setup-test  ## Check style, format and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: setup-test  ## Rewrite the sources as lint wants them
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .

setup-demo: $(VENV)/.ready-demo  ## Set up .venv for the demo
setup-test: $(VENV)/.ready-test  ## Set up .venv for the tests

$(VENV)/.ready-demo: EXTRAS := $(DEMO_EXTRAS)
$(VENV)/.ready-test: EXTRAS := $(TEST_EXTRAS)
# A stamp is touched last, so a broken-off set-up is taken up again. setuptools comes
# first because it builds this project, in place and without asking the network.
$(VENV)/.ready-%: setup.py constraints.txt
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
		$(PYTHON) -c '$(CHECK_PYTHON)' 2>/dev/null || { \
			echo '$(PYTHON) is not a Python >= 3.11 with its venv module:' \
				'name one by `make PYTHON=/path/to/python ...`.' >&2; exit 1; }; \
		$(PYTHON) -m venv --clear $(VENV); }
	@echo 'Setting up $(VENV) with [$(EXTRAS)]' \
		'(the first time: minutes, and 5 GB of disk)'
	@$(PIP_INSTALL) --quiet setuptools
	@set -o pipefail; $(PIP_INSTALL) --no-build-isolation -e '.[$(EXTRAS)]' \
		| tee $(VENV)/pip.log | $(SHORTLY) \
		|| { tail -n 20 $(VENV)/pip.log >&2; exit 1; }
	@touch $@

clean:  ## Remove caches and build leftovers, not .venv or work_dirs
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find mmesbnn configs tools tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## Remove .venv too
	rm -rf $(VENV) mmesbnn.egg-info mmesbnn/.mim
