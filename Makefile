# Everything a person or the CI runs. Needs only Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := core langchain_bgem3 llamaindex_bgem3 tests examples benchmarks tools
MODEL ?= examples/bge-m3-mini

.PHONY: help demo serve install test test-integration fix check bench docs release audit clean
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

demo: .venv/.demo  ## ingest a multilingual collection and search it (MODEL=BAAI/bge-m3 for the real model)
	$(BIN)/python examples/demo.py --model "$(MODEL)"
	@echo
	@echo 'Now look for yourself:  make serve MODEL=$(MODEL)'
	@echo 'and open http://127.0.0.1:8080'

serve: .venv/.demo  ## the page and the HTTP API on http://127.0.0.1:8080 (MODEL=BAAI/bge-m3 for the real model)
	$(BIN)/python -m bgem3 serve --model "$(MODEL)" --db db/serve

install: .venv/.dev  ## make .venv with every extra that demo and tests use

test: .venv/.dev  ## run every test, offline
	$(BIN)/python -m pytest -n auto --dist loadfile

test-integration: .venv/.dev  ## run only the slower tests
	$(BIN)/python -m pytest -n auto --dist loadfile -m integration

fix: .venv/.dev  ## format, and mend what can be mended
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

check: .venv/.dev  ## format, lint, types, budgets, imports, versions
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python tools/budget.py core/bgem3 core/bgem3_server langchain_bgem3 llamaindex_bgem3
	$(BIN)/python tools/house.py

bench: .venv/.dev  ## time the encoder beside FlagEmbedding
	$(BIN)/python benchmarks/encode.py

docs: .venv/.dev  ## build the documentation in site/
	$(BIN)/mkdocs build --strict --clean

release: .venv/.release  ## build wheel and sdist in dist/ and check them
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents --toplevel bgem3,bgem3_server,langchain_bgem3,llamaindex_bgem3 dist/*.whl

audit: .venv/.release  ## known vulnerabilities in the pinned versions, weak spots of the workflows, and dist/sbom.json
	mkdir -p dist
	$(BIN)/cyclonedx-py environment .venv --output-file dist/sbom.json
	$(BIN)/zizmor --offline --pedantic .github
# strict: a version that could not be looked up is a failure, not a pass
	$(BIN)/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

clean:  ## remove what make made
	rm -rf .venv .mypy_cache .ruff_cache build dist site

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bgem3 needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

# The demo needs no torch, so that a newcomer waits one minute and not ten.
.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e ".[demo]"
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e ".[dev]"
	@touch $@ .venv/.demo

.venv/.release: .venv/.dev
	$(PIP) -e ".[release]"
	@touch $@
