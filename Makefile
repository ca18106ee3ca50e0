# Two commands do all the set-up: `make run` and `make test`. Everything is made in .venv; nothing is installed twice.
PYTHON ?= python3
BIN := .venv/bin
MAIN := -m reg=none,lcr,lmr,lcr_lmr channels=48,128

.PHONY: run test check format bench dashboard clean
run: .venv/.installed
	$(BIN)/python run.py $(MAIN)

test: .venv/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: .venv/.installed-dev
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/ruff check --no-cache .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: .venv/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/.installed
	$(BIN)/python -m ssvae bench --out runs/bench.json

dashboard: .venv/.installed
	MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true $(BIN)/mlflow server --host 127.0.0.1 --port $(or $(PORT),5000) \
		--backend-store-uri sqlite:///$(CURDIR)/runs/mlflow.db --default-artifact-root $(CURDIR)/runs/mlartifacts

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 run"; exit 1; }
	$(PYTHON) -m venv .venv

# A stamp is newer than what it was made from, so a second call installs nothing.
.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ .venv/.installed
