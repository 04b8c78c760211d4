# Everything a person does with the project. `make help` lists it.
# `demo` and `test` need Python 3.11 or newer and make, nothing else.

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
SERVE ?= 1
DATA ?=
DJANGO ?=
ONLY ?=

BIN := $(VENV)/bin
RUN := $(BIN)/python manage.py

.DEFAULT_GOAL := help
.PHONY: help demo test lint types chaos bench docs wheel clean always
.DELETE_ON_ERROR: # else an environment whose pip failed would count as made

help: ## List the targets.
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: $(VENV)/.demo ## Run the scenario and serve it; PORT=8000, SERVE=0, DATA=DIR.
	@$(RUN) demo $(if $(DATA),--data "$(DATA)")
	@if [ "$(SERVE)" != 0 ]; then \
	  echo "Serving http://127.0.0.1:$(PORT)/ (Ctrl-C stops it; PORT= takes another port)"; \
	  exec $(RUN) runserver --noreload 127.0.0.1:$(PORT); \
	fi

test: $(VENV)/.dev ## Run the whole suite, on SQLite and on PostgreSQL.
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --vendor sqlite $(ARGS)
	$(BIN)/coverage run -m pytest --vendor postgresql $(ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report $(if $(ARGS),--fail-under=0)

lint: $(VENV)/.dev ## Format, rules, layers, spelling, migrations, deploy checks, API schema.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/typos
	$(RUN) makemigrations --check --dry-run
	$(RUN) check --fail-level WARNING
	DJANGO_DEBUG=0 DJANGO_ALLOWED_HOSTS=example.org \
	  DJANGO_SECRET_KEY=$$($(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(50))') \
	  $(RUN) check --deploy --fail-level WARNING
	$(RUN) spectacular --validate --fail-on-warn --file /dev/null

types: $(VENV)/.dev ## Check the types, strictly.
	$(BIN)/mypy

chaos: $(VENV)/.dev ## Run what takes long: 10,000 generated histories, 200 kills, races, a minute of tailing.
	DBPATTERNS_TEST_HISTORIES=10000 $(BIN)/python -m pytest --vendor sqlite \
	  tests/repositories/test_histories.py tests/ledger/test_histories.py tests/ledger/test_concurrency.py \
	  tests/sharding/test_random_querysets.py
	DBPATTERNS_TEST_HISTORIES=10000 $(BIN)/python -m pytest --vendor postgresql \
	  tests/repositories/test_histories.py tests/ledger/test_histories.py tests/ledger/test_concurrency.py \
	  tests/ledger/test_kills.py tests/transactions/test_histories.py tests/sharding/test_random_querysets.py
	DBPATTERNS_TEST_RACE_SECONDS=30 $(BIN)/python -m pytest --vendor sqlite tests/ledger/test_sums.py
	DBPATTERNS_TEST_RACE_SECONDS=30 $(BIN)/python -m pytest --vendor postgresql tests/ledger/test_sums.py
	DBPATTERNS_TEST_TAIL_SECONDS=60 $(BIN)/python -m pytest --vendor postgresql tests/eventstore/test_reading.py

bench: $(VENV)/.bench ## Measure; a table, and JSON in benchmarks/results/; ONLY=SUBJECT for one.
	$(BIN)/python -m benchmarks $(ONLY)

docs: $(VENV)/.dev ## Build the documentation; every warning is an error.
	$(BIN)/sphinx-build -q -W -n -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

wheel: $(VENV)/.dev ## Build the wheel.
	$(BIN)/python -m hatchling build -t wheel -t sdist

clean: ## Remove the environment, the databases and all that was built.
	rm -rf $(VENV) var build dist docs/_build .coverage .coverage.*

# The environment: made again when pyproject.toml changed, or DJANGO="Django~=6.1" is asked for.
REMADE := $(if $(DJANGO),always)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "pip>=25.1"

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml $(REMADE)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e . --group demo $(if $(DJANGO),"$(DJANGO)")
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml $(REMADE)
	$(BIN)/python -m pip install -q --disable-pip-version-check \
	  -e . --group types --group lint --group docs $(if $(DJANGO),"$(DJANGO)")
	@touch $@ $(VENV)/.demo

$(VENV)/.bench: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q --disable-pip-version-check \
	  -e . --group bench $(if $(DJANGO),"$(DJANGO)")
	@touch $@ $(VENV)/.demo
