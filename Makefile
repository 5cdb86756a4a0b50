# `make demo` and `make test` set up .venv on their first run. There are two sizes: the demos
# need only mmcv-lite; detection and the tests need mmcv, which is compiled.

# python3.11 first, because the pinned set is tested with it.
PYTHON ?= $(or $(shell for python in python3.11 python3; do \
	$$python -c '$(CHECK_PYTHON)' 2>/dev/null && echo $$python && break; done),python3)
# Number of parallel test processes, and more arguments for pytest or the demo.
JOBS ?= 2
ARGS ?=

DEMO_EXTRAS := cls,sr,deploy,demo
FULL_EXTRAS := all,test,docs

SHELL := /bin/bash
VENV := .venv
# Not .venv/bin/pip: the first line of such scripts is wrong after the folder has moved.
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip --disable-pip-version-check --no-input install \
	--progress-bar off -c constraints.txt
# Show only the lines of pip that report progress of long work.
SHORTLY := awk '/Downloading .*[MG]B\)/ { print "  " $$2, $$3, $$4; fflush() } \
	/^Installing collected/ { print "  Installing"; fflush() }'
# The pinned numpy needs 3.11.
CHECK_PYTHON := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

# Compiled mmcv wheels are kept for later set-ups. pip's own cache cannot be used, because it
# does not know for which torch a wheel was compiled.
CACHE ?= $(HOME)/.cache/mmesbnn
WHEELS_PY = $(PY)
WHEELS = $(CACHE)/$(shell $(WHEELS_PY) -c 'import sysconfig; from importlib.metadata \
	import version; print("torch" + version("torch"), sysconfig.get_config_var("SOABI"), sep="-")')
# Built in another folder and then moved, so that an interrupted build leaves no files.
compile-mmcv = rm -rf $(WHEELS)/part; mkdir -p $(WHEELS)/part; \
	MMCV_WITH_OPS=1 MAX_JOBS=$(JOBS) $(WHEELS_PY) -m pip wheel --no-cache-dir \
	--no-build-isolation --no-deps -w $(WHEELS)/part $(1)
MMCV := $(shell grep '^mmcv==' constraints.txt)

.PHONY: help demo demo-det demo-es demo-sr test lint format docs \
	release-check test-min test-newest test-onedl \
	setup-demo setup-full install-mmcv install-onedl-mmcv clean distclean
# Two set-ups of one environment must not run at the same time.
.NOTPARALLEL:

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' \
		$(firstword $(MAKEFILE_LIST))

demo: setup-demo  ## Train, check, pack and export a classifier
	@$(PY) tools/demo.py $(ARGS)

demo-det: setup-full  ## Train a detector and its baseline
	@$(PY) tools/demo_det.py $(ARGS)

demo-es: setup-demo  ## Train a network and its ES form at equal operations
	@$(PY) tools/demo_es.py $(ARGS)

demo-sr: setup-demo  ## Train a super-resolution network and its baseline
	@$(PY) tools/demo_sr.py $(ARGS)

# A dead process must end the run, because pytest-xdist can wait forever for a new one.
test: setup-full lint  ## Lint, type-check and run all tests
	$(PY) -m pytest -n $(JOBS) --dist loadfile --max-worker-restart 0 $(ARGS)

lint: setup-full  ## Check style, format and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: setup-full  ## Rewrite the sources as lint wants them
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .

# The variable silences an advertisement of the theme. Warnings are errors.
docs: setup-full  ## Build the documentation site in build/site
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	$(PY) tools/docs/check_links.py build/site

# Leaves the checked files in dist/.
release-check: setup-full  ## Build dist/, install it elsewhere and try it
	$(PY) -m pytest tests/e2e/test_release.py tests/test_packaging.py tests/test_repository.py
	rm -rf dist
	$(PY) -m build --no-isolation --outdir dist .
	$(PY) -m twine check --strict dist/*

# The torch of .venv must support the GPU.
test-gpu: setup-full  ## Test on a GPU
	$(PY) -m pytest --gpu tests/e2e/test_cuda.py $(ARGS)

# Environments beside .venv, for other versions than the pinned ones. PYTHON selects theirs.
# Tests that need a missing package are skipped.
TESTS ?= $(addprefix tests/,analysis binary checkpoints conversion engine models native project \
	test_errors.py test_import.py test_optional.py whole_files)
SETUPTOOLS := 'setuptools>=70.1,<82'
TEST_TOOLS := pytest pytest-xdist hypothesis packaging safetensors scikit-image scikit-learn
# $(call in-environment,NAME,arguments of Python): run the Python of .venv-NAME.
in-environment = .venv-$(1)/bin/python $(2)
pip-in = $(call in-environment,$(1),-m pip --disable-pip-version-check --no-input install \
	--quiet --progress-bar off $(2))
run-tests = $(call in-environment,$(1),-m pytest -n $(JOBS) --dist loadfile \
	--max-worker-restart 0 -m 'not slow' $(TESTS) $(ARGS))

.venv-%/bin/python:
	$(PYTHON) -m venv .venv-$*

test-min: .venv-min/bin/python  ## Test the core with the lowest versions
	$(call pip-in,min,$(SETUPTOOLS))
	$(call in-environment,min,tools/dev/lowest.py) > .venv-min/lowest.txt
	$(call pip-in,min,--no-build-isolation -c .venv-min/lowest.txt -e . $(TEST_TOOLS))
	$(call run-tests,min)

test-newest: .venv-newest/bin/python  ## Test the core with the newest versions
	$(call pip-in,newest,$(SETUPTOOLS))
	$(call pip-in,newest,--no-build-isolation --upgrade -e '.[deploy]' torchvision $(TEST_TOOLS))
	$(call run-tests,newest)

# The forks have the names of their originals for Python, but not for pip. So this package is
# installed without its requirements, which would add the originals. The index has no wheel of
# onedl-mmcv, and pip's own build has no operators, which detectors need. The compiled wheel is
# kept.
ONEDL := onedl-mim onedl-mmengine onedl-mmdetection onedl-mmpretrain ftfy regex
test-onedl: TESTS += $(addprefix tests/,configs datasets evaluation)
test-onedl: .venv-onedl/bin/python  ## Test with the OneDL forks of OpenMMLab
	$(call pip-in,onedl,-c constraints.txt setuptools ninja torch torchvision $(TEST_TOOLS))
	$(call pip-in,onedl,--no-build-isolation -c constraints.txt $(ONEDL))
	@$(MAKE) --no-print-directory install-onedl-mmcv
	$(call pip-in,onedl,--no-build-isolation --no-deps -e .)
	$(call run-tests,onedl)
	$(call in-environment,onedl,-m pytest tests/e2e/test_detection.py)

# Another make, because the name of the folder needs an installed torch.
install-onedl-mmcv: WHEELS_PY := .venv-onedl/bin/python
install-onedl-mmcv:
	@echo '  Compiling onedl-mmcv for $(WHEELS), if it is not there (15 minutes on two cores)'
	$(call compile-mmcv,--quiet -f $(WHEELS) onedl-mmcv)
	mv $(WHEELS)/part/*.whl $(WHEELS)
	$(call pip-in,onedl,--no-index --no-deps -f $(WHEELS) onedl-mmcv)

# The demos can also use the full environment.
setup-demo: $(or $(wildcard $(VENV)/.ready-full),$(VENV)/.ready-demo)  ## For the demos
setup-full: $(VENV)/.ready-full  ## For everything

# An editable install sees new Python code at once, but compiles the kernels only when it is made.
BUILT_FROM := setup.py constraints.txt $(wildcard mmesbnn/native/src/*)

# A stamp is touched last, so an interrupted set-up runs again. setuptools comes first,
# because it builds this project in place and without the network.
define install
@set -o pipefail; $(PIP_INSTALL) --no-build-isolation $(1) \
	| tee $(VENV)/pip.log | $(SHORTLY) || { tail -n 20 $(VENV)/pip.log >&2; exit 1; }
endef

$(VENV)/.ready-demo: $(BUILT_FROM) | $(VENV)/.python
	@echo 'Setting up $(VENV) (the first time: minutes, and 6 GB of disk)'
	$(call install,-e '.[$(DEMO_EXTRAS)]')
	@touch $@

# mmcv-lite and mmcv overwrite each other's files, so one is removed before the other is installed.
$(VENV)/.ready-full: $(BUILT_FROM) | $(VENV)/.python
	@echo 'Setting up $(VENV) with mmcv (the first time: 20 minutes, and 6 GB of disk)'
	$(call install,torch torchvision ninja)
	@$(PY) -m pip --disable-pip-version-check uninstall --quiet --yes mmcv-lite
	@$(MAKE) --no-print-directory install-mmcv
	$(call install,-e '.[$(FULL_EXTRAS)]')
	@touch $@

install-mmcv: WHEEL = $(WHEELS)/$(subst ==,-,$(MMCV))-*.whl
install-mmcv:
	@ls $(WHEEL) >/dev/null 2>&1 || { \
		echo '  Compiling $(MMCV) for $(WHEELS) (about 12 minutes on two cores)'; \
		$(call compile-mmcv,$(MMCV)) 2>&1 \
			| tee $(VENV)/pip.log | grep --line-buffered 'still running'; \
		mv $(WHEELS)/part/mmcv-*.whl $(WHEELS) || { \
			tail -n 20 $(VENV)/pip.log >&2; exit 1; }; }
	$(call install,--no-deps $(WHEEL))

$(VENV)/.python:
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
		$(PYTHON) -c '$(CHECK_PYTHON)' 2>/dev/null || { \
			echo '$(PYTHON) is not a Python >= 3.11 with its venv module:' \
				'name one by `make PYTHON=/path/to/python ...`.' >&2; exit 1; }; \
		$(PYTHON) -m venv --clear $(VENV); }
	@$(PIP_INSTALL) --quiet setuptools
	@touch $@

clean:  ## Remove caches and build leftovers, not .venv or work_dirs
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find mmesbnn configs tools tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## Remove .venv and its like too
	rm -rf $(VENV) $(wildcard .venv-*) mmesbnn.egg-info mmesbnn/.mim
