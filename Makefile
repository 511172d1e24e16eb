# Everything a newcomer needs: `make demo` and `make test` set up their own virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# More than the cores of a small machine: some tests wait for servers and for processes they have killed.
JOBS ?= 4
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help demo test lint setup clean

help:
	@echo "make demo   install, sweep four residual schemes on your Python's own source, build the leaderboard (minutes on a laptop)"
	@echo "make test   install, then linters, type checker and tests"
	@echo "make setup  install only, into $(VENV)"

demo: $(VENV)/.installed
	$(BIN)/resbench sweep run sweeps/demo.yaml
	$(BIN)/resbench leaderboard build --study demo

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p resbench

setup: $(VENV)/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "resbench needs Python >= 3.11, $(PYTHON) is $$($(PYTHON) -V 2>&1): run make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing with the development tools into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist src/*.egg-info
