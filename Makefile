# Two commands matter to a reader: `make lab` and `make test`. `make` alone lists the rest.
# pip's own settings (index, extra index, find-links) apply as they are.
PYTHON3 ?= python3
VENV := .venv
PYTHON := $(VENV)/bin/python
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
# More flags for JupyterLab, for example: make lab LAB_FLAGS="--no-browser --port=8889"
LAB_FLAGS ?=
# `make lock` keeps torch where it is, unless told otherwise: make lock TORCH=2.14.0
TORCH ?= $(shell sed -n 's/^torch==//p' constraints.txt)
OLDEST := $(shell sed -n 's/^requires-python = ">=\(.*\)"/\1/p' pyproject.toml)

# The stamps make a second run install nothing, until one of the two files changes.
LAB_STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test

# .venv holds absolute paths and belongs to one Python, so a moved clone or an upgraded Python needs a new one.
HERE := $(CURDIR) $(shell $(PYTHON) -c 'import sys; print(*sys.version_info[:2], sep=".")' 2> /dev/null)
MADE := $(strip $(shell cat $(VENV)/.made-for 2> /dev/null))
ifneq ($(MADE),)
ifneq ($(MADE),$(strip $(HERE)))
ANEW := anew
endif
endif

# PyPI's torch for Linux brings several GB of CUDA along. Where no NVIDIA GPU answers, torch alone comes from its own
# index of CPU builds; if that cannot be reached, from where pip finds everything else.
CPU_INDEX := https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help lab test student export execute contract home bench assets lock doctor clean anew

help:  ## list these targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 17

lab: $(LAB_STAMP)  ## install what is missing and open the student edition in JupyterLab
	@$(PYTHON) -m mmlesson student
	$(PYTHON) -m jupyterlab --ServerApp.root_dir="$(CURDIR)" $(LAB_FLAGS) student/00_start_here.ipynb

test: export MMLESSON_STRICT := 1
test: export MMLESSON_RESULTS := $(CURDIR)/test-artifacts/results
test: $(TEST_STAMP)  ## run every test and every notebook
	$(PYTHON) -m ruff check .
	$(PYTHON) -m pytest tests $(NOTEBOOKS) --nbval-lax --nbval-current-env --nbval-cell-timeout=3600

student: $(LAB_STAMP)  ## build the student edition in student/ (keeps every file that exists)
	$(PYTHON) -m mmlesson student

doctor: $(LAB_STAMP)  ## check this machine and say how to fix what is wrong
	@$(PYTHON) -m mmlesson doctor

export: $(TEST_STAMP)  ## write mmlesson/models from the notebooks' "#| export" cells
	$(PYTHON) -m mmlesson.tools.export

# `jupyter execute`, because `nbconvert --execute` sometimes hangs on widgets. GitHub refuses notebooks with stored
# widgets, and a patch version of Python is no news: nbstripout drops both and keeps outputs, counts and cell ids.
execute: $(TEST_STAMP)  ## run every notebook in place, in order, and store its outputs
	@set -e; for notebook in $(NOTEBOOKS); do \
	  echo "$$notebook"; \
	  $(VENV)/bin/jupyter execute --inplace --timeout 3600 --kernel_name=python3 "$$notebook"; \
	  $(VENV)/bin/nbstripout --keep-output --keep-count --keep-id \
	    --extra-keys "metadata.widgets metadata.language_info.version" "$$notebook"; \
	done

contract: execute  ## measure every lesson and write the README's table of minutes and megabytes
	$(PYTHON) -m mmlesson contract

home: $(LAB_STAMP)  ## write every address of the course as pyproject.toml's Homepage says: for a fork
	$(PYTHON) -m mmlesson home

bench: $(LAB_STAMP)  ## measure scenes per second, and our CLIP against transformers (10 minutes)
	$(PYTHON) tests/tools/bench_world.py
	$(PYTHON) tests/tools/bench_clip.py

assets: $(LAB_STAMP)  ## train the shipped checkpoints again
	$(PYTHON) -m mmlesson.tools.train_checkpoints

# For the oldest Python that pyproject.toml names, and for every system (uv's universal resolution). torch brings its
# own CUDA packages or none, as the build wants.
lock:  ## write constraints.txt: the newest versions of everything, except torch
	@test -n "$(TORCH)" || { echo "constraints.txt names no torch version: say which, as in make lock TORCH=2.13.0"; exit 1; }
	@set -e; lock=$$(mktemp -d); trap 'rm -rf "$$lock"' EXIT; \
	$(PYTHON3) -m venv "$$lock"; \
	"$$lock/bin/python" -m pip install --quiet uv; \
	echo "torch==$(TORCH)" > "$$lock/torch"; \
	"$$lock/bin/uv" pip compile --universal --fork-strategy fewest --python-version "$(OLDEST)" --extra test --extra speech \
	  --constraint "$$lock/torch" --no-annotate --no-header --quiet pyproject.toml > "$$lock/all"; \
	grep -vE '^(nvidia|cuda|triton)' "$$lock/all" | LC_ALL=C sort -f > constraints.txt; \
	echo "constraints.txt: $$(wc -l < constraints.txt) packages"

clean:  ## remove .venv, caches and test artifacts (student/ and results/ are yours: they stay)
	rm -rf $(VENV) .pytest_cache .ruff_cache test-artifacts
	find mmlesson tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Not a file: asks for a new .venv where ANEW names it.
anew:
	@echo "The course was moved or its Python changed: installing it anew in $(VENV)."

$(PYTHON): $(ANEW)
	@$(PYTHON3) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
	  "mmlesson needs Python 3.11 or newer, but $(PYTHON3) is " + sys.version.split()[0] + \
	  ". Name a newer one: make lab PYTHON3=python3.12")'
	$(PYTHON3) -m venv --clear $(VENV)

$(LAB_STAMP): pyproject.toml constraints.txt $(ANEW) | $(PYTHON)
	$(call install,.[lab])
	@touch $@

$(TEST_STAMP): pyproject.toml constraints.txt $(ANEW) | $(PYTHON)
	$(call install,.[test])
	@touch $(LAB_STAMP) $@

define install
@if [ "$$(uname -s)" = Linux ] && ! nvidia-smi -L > /dev/null 2>&1; then \
  $(PYTHON) -m pip install --quiet --retries 1 --timeout 15 --no-deps -c constraints.txt --index-url $(CPU_INDEX) torch \
    > /dev/null 2>&1 || echo "torch comes from pip's own indexes: its index of CPU builds has none for this machine."; \
fi
$(PYTHON) -m pip install -c constraints.txt -e "$(1)"
@echo "$(CURDIR) $$($(PYTHON) -c 'import sys; print(*sys.version_info[:2], sep=".")')" > $(VENV)/.made-for
endef
