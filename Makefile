# Two commands for a newcomer: `make chat` and `make test`. The others are for developers.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= ../shared/data
LIMIT ?= 100
WORKERS ?= 2
READY := $(VENV)/.ready
BYTECODE := $(VENV)/.bytecode
EXAMPLES := What_is_catastrophic_forgetting? 什么是灾难性遗忘？ \
  In_which_year_was_the_transformer_introduced? 反转诅咒是谁在_2023_年的论文中提出的？
SELDOM := /(tests?|transformers/models|torch/(_inductor|testing)|site-packages/(pip|setuptools|mypyc?))/
SOURCES := ingest retrieval model eval app benchmarks docs examples tests

# Else every process that a test or a user starts would compile what it imports, each time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install chat test soak lint types fix docs bench clean

install: $(READY)

chat: $(BYTECODE)
	$(BIN)/tether ingest examples/knowledge
	$(BIN)/tether chat $(foreach question,$(EXAMPLES),--example "$(subst _, ,$(question))")

# Lint and types need one core, and no bytecode; meanwhile the other core makes it for the tests.
test: $(READY)
	@$(MAKE) --no-print-directory --jobs --output-sync lint types $(BYTECODE)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

# The long forms: hours of kills, thousands of hostile files. Not part of `make test`.
soak: $(READY)
	$(BIN)/python -m pytest --override-ini addopts=-q --override-ini timeout=0 tests/soak
	$(BIN)/python -m pytest --override-ini timeout=0 -m slow

lint: $(READY)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(READY)
	$(BIN)/mypy

fix: $(READY)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

docs: $(READY)
	$(BIN)/python -m docs.generate

bench: $(READY)
	@mkdir -p build
	$(BIN)/python -m benchmarks.answering --data $(DATA) --limit $(LIMIT) --resume \
	  --out build/answering-$(shell git rev-parse --short HEAD).jsonl

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Every version is pinned in constraints.txt, so that a fresh machine gets what was tested.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Tether needs Python 3.11 or newer; run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing pinned packages into $(VENV), once: this takes some minutes ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[weights,ocr,train,dev]'
	@touch $(READY)

# pip would make all bytecode on one core, for two minutes; so all cores do it, and leave out what is
# seldom imported: packages' tests, installers, and transformers' hundreds of models.
$(BYTECODE): $(READY)
	@$(BIN)/python -W ignore -m compileall -qq -j 0 -x '$(SELDOM)' $(VENV)/lib || true
	@touch $(BYTECODE)
