# The two commands of the README are `make run` and `make test`. Each installs what it needs, and can be run again.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CACHE := .cache
STATE ?= $(CACHE)/state
BOARDS ?= 1
TEST_PACKAGES := $(CACHE)/packages-$(if $(filter 0,$(BOARDS)),unit,test)
PYTHONS ?= python3.11 python3.12 python3.13 python3.14
# ARGS goes to the program behind the target: `make test ARGS="-k plan"`, `make run ARGS="--port 8090"`.
ARGS ?=

.PHONY: help run test test-thorough test-pythons test-vm lint bench board spec lock wheel engine clean

help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(CACHE)/packages-%: tools/packages
	@tools/packages $*
	@mkdir -p $(CACHE) && touch $@

$(VENV)/build: requirements/build.lock | $(CACHE)/packages-wheel
	@tools/venv $(PYTHON) $(VENV)
	@touch $@

$(VENV)/runtime: requirements/runtime.lock requirements/build.lock requirements/assets.lock pyproject.toml | $(CACHE)/packages-venv
	@tools/venv $(PYTHON) $(VENV) requirements/runtime.lock
	@touch $@

$(VENV)/dev: requirements/dev.lock $(VENV)/runtime
	@tools/venv $(PYTHON) $(VENV) requirements/dev.lock
	@touch $@

engine: $(CACHE)/packages-run ## Start Docker Engine where nothing else does
	@tools/engine

run: $(VENV)/runtime $(CACHE)/packages-run ## Install what is needed and serve on 127.0.0.1:8080
	@tools/engine || echo "homed starts without Docker Engine and takes it up when it comes"
	@exec $(BIN)/homed serve --state $(STATE) $(ARGS)

test: $(VENV)/dev $(TEST_PACKAGES) lint ## Run all that CI runs (BOARDS=0 leaves out what needs root)
	@BOARDS=$(BOARDS) $(BIN)/python -m pytest $(ARGS)

test-thorough: $(VENV)/dev $(CACHE)/packages-test ## Run the tests that take minutes or gigabytes, which `make test` leaves out (root)
	@BOARDS=1 $(BIN)/python -m pytest -m thorough $(ARGS)

test-pythons: $(TEST_PACKAGES) ## Run the tests without root parts on every Python from 3.11 to 3.14 that is there
	@for python in $(PYTHONS); do \
		"$$python" -c "" 2>/dev/null || continue; \
		venv=$(CACHE)/venv-$$("$$python" -c "import sys; print(*sys.version_info[:2], sep='.')"); \
		$(MAKE) --no-print-directory VENV=$$venv PYTHON=$$python $$venv/dev; \
		"$$venv/bin/python" --version; \
		BOARDS=0 "$$venv/bin/python" -m pytest -p no:cacheprovider $(ARGS); \
	done

test-vm: $(VENV)/dev $(CACHE)/packages-test ## Update real systems in QEMU and cut their power (root; 15 minutes; ARGS=story or cuts)
	@$(BIN)/python -m tests.vm $(ARGS)

lint: $(VENV)/dev ## Check style, types and the arrows between packages
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(VENV)/dev $(CACHE)/packages-test ## Measure, as ratios within one run (ARGS names single ones)
	@tools/engine
	@$(BIN)/python -m tests.bench $(ARGS)

wheel: $(VENV)/build ## Build the wheel into dist/
	@$(BIN)/python -m pip --quiet wheel --no-deps --no-build-isolation --wheel-dir dist . && ls dist/*.whl

board: wheel $(VENV)/dev $(CACHE)/packages-test ## Boot a board with homed in it and open a shell there
	@$(BIN)/python -m tests.boards --wheel $$(ls -t dist/*.whl | head -n1) $(ARGS)

spec: $(VENV)/runtime ## Write api-spec/ anew from the routes
	@$(BIN)/homed spec api-spec

lock: $(VENV)/dev ## Write requirements/*.lock anew from pyproject.toml
	@tools/lock $(BIN)

clean: ## Remove what was built here, the boards' root too
	rm -rf $(VENV) $(CACHE) dist
