# Every target sets up its own environment; `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help train test check bench docs clean

help:
	@echo "make train   train y = 3x + noise, then a model on the example table"
	@echo "make test    run the tests"
	@echo "make check   formatting, lint, types and import floors"
	@echo "make bench   compare speed with torch.optim and a plain PyTorch loop"
	@echo "make docs    build the documentation into site/"

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

train: .venv/.ready
	$(BIN)/steepest train line
	$(BIN)/steepest train table --data examples/diabetes.csv --target progression

test: .venv/.ready
	$(BIN)/python -m pytest

check: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: .venv/.ready
	$(BIN)/python bench/step.py
	$(BIN)/python bench/train.py

docs: .venv/.ready
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv site docs/optimizers
