# make book   sets up and builds the rendered book          make test   sets up and runs all tests
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PAGE   := _build/html/index.html
BUILT  := _build/.built
export TQDM_DISABLE := 1
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM := false

.PHONY: book test pages code units smoke browser lint format notebooks bench parity world ablations clean FORCE

book: notebooks
	@$(MAKE) --no-print-directory $(BUILT)
	@echo "the book: $(CURDIR)/$(PAGE)"

# Side by side, each with half of the cores: the build, which runs every page at normal size, checks and all, and then the
# tests of the built pages; and the tests of the code, and then the notebooks again, at smoke size.
test: $(STAMP) lint browser
	@OMP_NUM_THREADS=$(HALF) $(MAKE) --no-print-directory -j2 pages code

pages: $(BUILT)
	$(PYTEST) tests/test_book.py $(CHOSEN)

code: $(STAMP)
	@$(MAKE) --no-print-directory units
	@$(MAKE) --no-print-directory smoke

units: $(STAMP)
	$(PYTEST) tests --ignore tests/test_book.py $(CHOSEN)

smoke: $(STAMP)
	ANIMATEDIFF_REF_RUN=$${ANIMATEDIFF_REF_RUN:-smoke} $(PYTEST) book $(CHOSEN)

HALF   := $(shell expr $$(getconf _NPROCESSORS_ONLN) / 2 \| 1)
PYTEST := $(BIN)/python -m pytest
CHOSEN := $(PYTEST_ARGS) $(if $(PYTEST_ARGS),|| [ $$? -eq 5 ])  # 5: none of those chosen are here

# Tests look at a built book. They do not rewrite the notebooks first: whether those are in step with their sources is a test.
$(BUILT): $(STAMP) _build/.code $(wildcard animatediff_ref/*/*.py animatediff_ref/*/*.html book/*.ipynb book/*.md book/*/* _config.yml _toc.yml)
	$(BIN)/jupyter-book build . -W --keep-going --all
	@touch $@

# The built pages are tested in Chromium, or in what CHROME names; root on Debian gets it installed.
browser:
	@command -v "$${CHROME:-chromium}" google-chrome >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	  || echo "no Chromium here: the browser tests will be skipped"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(STAMP)
	$(BIN)/python book/_ext/make_notebooks.py

bench: $(STAMP)
	$(BIN)/python tests/bench_animate.py

# A table: how far this package is from diffusers' own classes, and how far the wrong convention would be.
parity: $(STAMP)
	$(BIN)/python tests/parity.py

# The mini world's models and measures: what is missing, or with FORCE=1 all; SMOKE=1 a toy world in a folder of its own.
DEVICE ?= cpu
world: $(STAMP)
	PYTHONPATH=data $(BIN)/python -m recipes.make_world --device $(DEVICE) $(if $(FORCE),--force) $(if $(SMOKE),--smoke)

# The ablations' tables in data/results: what is missing; SMOKE=1 every sweep at toy size, in the toy world.
ablations: $(STAMP)
	PYTHONPATH=data $(BIN)/python -m recipes.make_ablations --device $(DEVICE) $(if $(SMOKE),--smoke)

# Empties the cache of executed pages when the code (not its docstrings) or the data under them has changed.
_build/.code: $(STAMP) FORCE
	@PYTHONPATH=data $(BIN)/python book/_ext/fresh_cache.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq -c constraints.txt -e ".[dev]"
	@$(BIN)/python -c "import matplotlib.font_manager"
	@touch $@

clean:
	rm -rf _build
