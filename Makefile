# Every target sets up what it needs, once. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.setup-done

.DEFAULT_GOAL := help
.PHONY: help setup demo ui test lint crash bench lock clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(SETUP)  ## Install everything into .venv

$(SETUP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else \
	  f"This needs Python 3.11, 3.12 or 3.13, and {sys.executable} is {v.major}.{v.minor}. Say which: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@$(BIN)/python scripts/check_torch.py
	@touch $@

demo: $(SETUP)  ## Answer 300 reviews on this machine, or a file: make demo CSV=file TEXT=column KEY=column [GOLD=column]
	@$(BIN)/llm-assets demo $(if $(CSV),--csv '$(CSV)') $(if $(TEXT),--text '$(TEXT)') $(if $(KEY),--key '$(KEY)') \
	  $(if $(GOLD),--gold '$(GOLD)') $(if $(ENCODING),--encoding '$(ENCODING)')

ui: $(SETUP)  ## Serve the Dagster UI on the demo's database (PORT=3000)
	@$(BIN)/llm-assets ui --port $(or $(PORT),3000)

test: $(SETUP)  ## Run all tests: real vLLM on the CPU, SQLite, a Postgres of their own, Dagster
	@$(BIN)/python -m pytest $(ARGS)

lint: $(SETUP)  ## Check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

crash: $(SETUP)  ## Kill runs, engines and databases at random moments, and compare what is in the tables (15 minutes)
	@$(BIN)/python -m tests.crash $(ARGS)

bench: $(SETUP)  ## Measure against plain vLLM on this machine, in small sizes (20 minutes)
	@$(BIN)/python -m benchmarks --rounds 2 $(ARGS)

lock: $(SETUP)  ## Resolve requirements.lock anew
	$(BIN)/python scripts/lock.py

clean:  ## Remove .venv, and the demo's databases and model
	rm -rf $(VENV) .llm_assets
