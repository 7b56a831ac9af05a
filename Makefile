# make train: train Sparse MERIT on the embedded corpus
# make test:  run the test suite
# make fix-copies FROM=FILE: write what a YAML file or train.py shares into others
# Both set up .venv first; a second time nothing is installed again.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
HPARAMS ?= hparams/sparse_merit.yaml
ARGS ?=
# Side by side, a file of tests in one process. Each makes data of its own.
PYTEST := pytest -n auto --maxprocesses 4 --dist loadfile

# A file whose sections, or whose steps, are right in all others.
FROM ?= hparams/sparse_merit.yaml

.PHONY: train test lint fix-copies setup clean

train: $(READY)
	@# What env.log lists are the packages of the pip that is on the PATH.
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python train.py $(HPARAMS) $(ARGS)

test: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m $(PYTEST) $(ARGS)

lint: $(READY)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

fix-copies: $(READY)
	$(BIN)/python -m tests.helpers.copies $(FROM)

setup: $(READY)

$(READY): requirements.txt setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: Python 3.10 or later is needed; PYTHON=/path/to/it"; \
		exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -r requirements.txt
	$(BIN)/python -m pip install --no-deps -e .
	@# PESQ is compiled here; without a C compiler all else still works.
	$(BIN)/python -m pip install pesq==0.0.4 || \
		echo "warning: no PESQ scores: pesq needs a C compiler to install"
	touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info
