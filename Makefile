# Two commands do everything: make train, make test. Both begin by making .venv if it isn't there.
PYTHON ?= python3
BIN := .venv/bin
DONE := .venv/.installed

# The figures of Tiny Shakespeare are checked when that text is at hand: in $CHARLM_DATA or in the cache.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/charlm
# Notebooks run side by side, one a core, so each gets one thread: two runtimes spinning on the same cores slow each other tenfold.
FLAGS ?= $(if $(wildcard $(or $(CHARLM_DATA),$(CACHE))/tinyshakespeare.txt),shakespeare)

.PHONY: help train test notebooks docs serve pytest lint export outputs bench race clean

help: ## show this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(DONE): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "charlm needs Python 3.11 or newer; say which with make PYTHON=python3.12"; exit 2; }
	@echo "installing into .venv; this takes a few minutes the first time"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

train: $(DONE) ## train a GPT on real text, show what it writes, say where it is
	@$(BIN)/charlm-train --steps 200

test: notebooks lint docs pytest ## everything: notebooks, lint, the site, pytest (which checks that generated files are in step)

notebooks: $(DONE) ## run a copy of the notebooks as tests; tests/test_outputs.py compares what it prints with what is saved
	rm -rf _proc/fresh && mkdir -p _proc && cp -r nbs _proc/fresh
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test _proc/fresh --do-print --save --flags "$(FLAGS)"

lint: $(DONE) ## ruff, on notebooks and modules alike
	$(BIN)/ruff check .

# Warnings are errors: a missing page, a dead link inside the site, bad LaTeX.
SPHINX := -W --keep-going -n -d docs/_build/doctrees -c docs docs/_build/src docs/_build/html

docs: $(DONE) ## make the site in docs/_build/html
	OMP_NUM_THREADS=1 $(BIN)/python docs/convert.py
	$(BIN)/sphinx-build -q $(SPHINX)

serve: $(DONE) ## show the site at http://127.0.0.1:8000 and make again what changes
	$(BIN)/python docs/convert.py
	$(BIN)/sphinx-autobuild --pre-build "$(BIN)/python docs/convert.py" --watch nbs --watch charlm --watch docs --watch CONTRIBUTING.md \
		--watch CHANGELOG.md --re-ignore "_build|__pycache__|\.ipynb_checkpoints" --port 8000 $(filter-out -W,$(SPHINX))

pytest: $(DONE) ## what a notebook can't test well: faults, packaging, the house's rules
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile tests/test_wheel.py tests # the one that waits for pip first

export: $(DONE) ## write charlm/ and README.md from the notebooks, and clean the notebooks
	$(BIN)/nbdev-export
	$(BIN)/nbdev-clean
	$(BIN)/python docs/readme.py

outputs: $(DONE) ## run everything, long trainings included, and save what it prints and draws (needs Tiny Shakespeare)
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test --do-print --flags "shakespeare slow" --save
	$(MAKE) export

bench: $(DONE) ## compare speeds with the lecture's way, by ratio, in one run (a quarter of an hour); writes benchmarks/results.json
	$(BIN)/python benchmarks/compare.py

race: $(DONE) ## the speedrun against nanoGPT's laptop setting, and the second record (a quarter of an hour); writes benchmarks/speedrun.json
	$(BIN)/python benchmarks/speedrun.py

clean: ## remove everything that make made
	rm -rf .venv *.egg-info build dist _proc docs/_build
