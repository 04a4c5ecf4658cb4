# Every target sets up its own environment; `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help train test test-clients check bench bench-peers docs clean

help:
	@echo "make train   train y = 3x + noise, then a model on the example table"
	@echo "make test    run the tests"
	@echo "make test-clients   train inside Lightning, Transformers, timm and others"
	@echo "make check   formatting, lint, types and import floors"
	@echo "make bench   compare speed with torch.optim and a plain PyTorch loop, on tables too"
	@echo "make bench-peers   compare with other optimizers (DeepSpeed, optax, ...) and trainers (Lightning, Keras, ...)"
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
	$(BIN)/python -m pytest --numprocesses auto

.venv-clients/.ready: pyproject.toml constraints.txt tests/clients/requirements.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet --upgrade pip
	.venv-clients/bin/python -m pip install --quiet --requirement tests/clients/requirements.txt --editable .
	touch $@

test-clients: .venv-clients/.ready
	.venv-clients/bin/python -m pytest tests/clients

check: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: .venv/.ready
	$(BIN)/python bench/step.py
	$(BIN)/python bench/train.py
	$(BIN)/python bench/table.py
	$(BIN)/python bench/stream.py

.venv-peers/.ready: pyproject.toml constraints.txt bench/requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --upgrade pip
	.venv-peers/bin/python -m pip install --quiet --requirement bench/requirements.txt --editable .
	touch $@

bench-peers: .venv-peers/.ready
	.venv-peers/bin/python bench/peers.py
	.venv-peers/bin/python bench/train.py --peers

docs: .venv/.ready
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv .venv-clients .venv-peers site docs/optimizers
