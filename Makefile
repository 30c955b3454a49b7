PYTHON ?= python

.PHONY: check format docs

check:
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m ruff check
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -q

format:
	$(PYTHON) -m ruff format
	$(PYTHON) -m ruff check --fix

docs:
	$(PYTHON) -m sphinx -W --keep-going docs docs/_build
