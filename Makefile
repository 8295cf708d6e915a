# Every target installs what it needs into .venv first; a bare machine needs Python 3.11 (with venv) and make.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help install run test chaos check fmt migrate revision openapi bench lock

help: ## What can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

.venv/.installed: requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

install: .venv/.installed ## Create .venv from the lock file

run: install ## Serve everything on this machine: Postgres, sandbox, API and worker
	$(BIN)/python -m app serve

# Leases, drains and clocks are a matter of seconds, and two other files want the same two cores meanwhile: what
# failed is tried once more, alone. Who fails twice, fails.
test: install ## The whole test suite, on embedded Postgres, three files at a time
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile || \
		$(BIN)/python -m pytest --last-failed --last-failed-no-failures none

chaos: install ## Kill, freeze and spoil everything at random, 300 times, and check what clients saw
	$(BIN)/python -m tests.chaos $(if $(seed),--seed $(seed)) $(if $(kills),--kills $(kills))

check: install ## Everything but the tests: format, lint, types, doors, dependencies, spelling, openapi.json
	scripts/check

fmt: install ## Format and fix
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

migrate: install ## Bring DATABASE_URL's schema up to date
	$(BIN)/python -m app migrate

revision: install ## New migration from the tables: make revision m="add x"
	$(BIN)/python -m scripts.revision "$(m)"

openapi: install ## Write openapi.json from the application
	$(BIN)/python -m scripts.openapi > openapi.json

bench: install ## Measure against the upstream and a naive relay, side by side
	$(BIN)/python -m bench

lock: ## Compile the hashed lock files again (needs uv)
	scripts/lock
