# Only Python 3.11 and make are needed; `make help` lists the targets.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
SITE := .venv/site

.PHONY: help demo test test-all results docs site lint format clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "got Python %d.%d; expected 3.11 or later; cure: make PYTHON=python3.11" % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all]' -c constraints.txt
	touch $@

$(SITE): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[site]' -c constraints.txt
	touch $@

demo: $(READY)  ## install, compare the scenarios on synthetic identities, say where the report lies
	WANDB_MODE=offline $(BIN)/python -m experiments.compare name=demo n_identities=[500,1000] seeds=3 trainer.max_epochs=30 logger=csv

test: $(READY)  ## install, run the default test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(READY)  ## the slow tests as well
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m ""

results: $(READY)  ## compute README's quicker figures again and compare: make results DATA=FOLDER of the EmbeddingSets
	$(BIN)/python -m tests.results $(DATA)

lint: $(READY)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.docstrings

docs: $(READY)  ## make docs/configuration.md and docs/troubleshooting.md of the code, and the figure of docs/findings.md, anew
	$(BIN)/python -m experiments.list --keys docs/configuration.md
	$(BIN)/python -m tests.troubleshooting
	$(BIN)/python -m tests.findings

site: $(SITE)  ## build docs/ and the API reference as build/site; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "to look at it: python3 -m http.server -d build/site"

format: $(READY)  ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and caches; runs stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
