# quantlab: the only four commands you need (and make lock, for maintainers).
#
#   make lab      set up and open JupyterLab on lesson 1      (ARGS=--no-browser prints the link instead)
#   make test     run every test, and every notebook
#   make check    style, types, layers, notebooks in step
#   make bench    how fast, against the reference libraries

PYTHON ?= python3
ARGS   ?=
BIN    := .venv/bin

.PHONY: help lab test check bench lock clean
help:
	@sed -n 's/^#   //p' Makefile

# one stamp for the course, one for its tests: made again only when the lock or the installer changed
.venv/bin/python:
	@echo "quantlab: making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv

.venv/.lab: .venv/bin/python requirements.lock tools/install.py
	@$(BIN)/python tools/install.py
	@touch $@

.venv/.test: .venv/.lab
	@$(BIN)/python tools/install.py --test
	@touch $@

lab: .venv/.lab
	@$(BIN)/quantlab start $(ARGS)

test: .venv/.test
	@echo "quantlab: running the test suite, then every notebook (nbval)"
	@QUANTLAB_STATE=off $(BIN)/python -m pytest tests --nbval-lax lessons labs $(ARGS)

check: .venv/.test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tools/notebooks.py check
	@$(BIN)/python tools/generate.py --check
	@$(BIN)/python tools/scale.py --check

bench: .venv/.test
	@$(BIN)/python tools/bench.py $(ARGS)

lock: .venv/.test
	@$(BIN)/uv pip compile pyproject.toml --extra llamacpp --extra quantizers --extra finetune --extra dev \
	  --universal --python-version 3.11 --generate-hashes --annotation-style line \
	  --custom-compile-command "make lock" --quiet --output-file requirements.lock
	@echo "quantlab: wrote requirements.lock"
	@$(BIN)/python tools/lock_environments.py

clean:
	@rm -rf .venv build dist
