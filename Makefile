# make demo, make app, make test: each makes .venv first. PYTHON=python3.12 make ... uses another interpreter.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo app test slow lint format docs install clean

demo: $(STAMP)
	$(BIN)/python eval_clevr.py --count infer
	$(BIN)/python eval_celeba.py
	$(BIN)/python eval_animal.py --checkpoint animals-mini

app: $(STAMP)
	$(BIN)/python demo/app.py

test: lint
	$(BIN)/python -m pytest -n 2 -m "not slow"

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, in site/: a warning, a broken link or anchor, or a page that loads something from elsewhere, is an error.
docs: $(STAMP)
	rm -rf site
	$(BIN)/python -m sphinx -E -W --keep-going -q -b html -c docs/sphinx -d build/doctrees . site
	$(BIN)/python docs/sphinx/check_site.py site

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version) if sys.version_info < (3, 11) else 0'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(STAMP)

clean:
	rm -rf .venv outputs site
