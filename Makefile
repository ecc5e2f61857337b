# These commands do everything on a fresh machine with Python 3.11 or newer:
#     make story    sets up and tells a story
#     make chat     sets up, fetches the chat model, and opens a chat with it
#     make test     sets up and passes the tests
# PYTHON=python3.12 chooses an interpreter, ARGS passes options on: make story ARGS='-t 0'.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: story chat test check parity bench revert pictures clean

story: $(VENV)/installed
	$(BIN)/story-teller -m models/story $(ARGS)

chat: $(VENV)/installed
	$(BIN)/python tools/chat.py $(ARGS)

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -q $(ARGS)

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

parity: $(VENV)/installed-parity
	$(BIN)/python -m pytest -q -m parity $(ARGS)

bench: $(VENV)/installed-bench
	$(BIN)/python -m bench $(ARGS)

revert: $(VENV)/installed
	$(BIN)/chat-revert -m models/chat $(ARGS)

pictures: $(VENV)/installed-test
	PYTHONPATH=tests $(BIN)/python tools/pictures.py $(ARGS)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'rewindlm needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

# One rule for every group of optional dependencies in pyproject.toml.
$(VENV)/installed-%: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[$*]'
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build dist *.egg-info
