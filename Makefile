# `make demo` and `make test` set everything up by themselves, on a machine with Python 3.10+.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.lanac-ready

.PHONY: demo test test-all lint types format bench clean

demo: $(READY)
	$(BIN)/lanac examples/fashion_mnist/model.py --budget 0.5x --target cpu \
		--distill-samples 4096 --score-samples 1024 --evaluate-images 2000 \
		--finetune-epochs 2 --out fashion_mnist.lanac

test: $(READY)
	$(BIN)/python -m pytest -q -m "not slow"

test-all: $(READY)
	$(BIN)/python -m pytest -q

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch first and alone: with it in place the rest takes what fits it.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "torch>=2.9" "torchvision>=0.24"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) *.lanac .pytest_cache .mypy_cache .ruff_cache .hypothesis
