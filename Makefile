# Each target is enough alone: it makes the environment that it needs, then runs.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
       $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
# Nearly all the time of the tests is XLA's. Its older emitters take two thirds of it, but
# all memory over a Bessel function.
OLDER := XLA_FLAGS=--xla_cpu_use_fusion_emitters=false
PYTEST := $(BIN)/python -m pytest --numprocesses auto --quiet
NONE_CHOSEN := [ $$? -eq 5 ]
TESTS ?=
OUT ?= out

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-newest lint type docs bench clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: $(VENV)/.examples ## distil a diffusion model of digits to one step; recolour a photograph
	$(BIN)/python -m examples.one_step_digits --out $(OUT)/one_step_digits
	$(BIN)/python -m examples.ot_color_map --out $(OUT)/ot_color_map
	@printf '\nThe pictures:\n'; ls $(OUT)/one_step_digits/*.png $(OUT)/ot_color_map/*.png

test: $(VENV)/.test ## the tests that take seconds
	$(PYTEST) -m 'bessel and not slow' $(TESTS) || $(NONE_CHOSEN)
	$(OLDER) $(PYTEST) -m 'not bessel and not slow' $(TESTS) || $(NONE_CHOSEN)

test-all: $(VENV)/.test ## all tests, examples and notebooks in their quick mode among them
	$(PYTEST) -m bessel
	$(OLDER) $(PYTEST) -m 'not bessel'

test-newest: ## every public function under Python 3.13, the newest releases, XLA's defaults
	@newest=$$(command -v python3.13 >/dev/null && python3.13 --version >/dev/null 2>&1 && command -v python3.13 \
	  || ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.13*/bin/python3.13 2>/dev/null | tail -n 1); \
	if [ -n "$$newest" ]; then \
	  $(MAKE) test PYTHON="$$newest" VENV=.venv-newest CONSTRAINTS= OLDER= \
	    TESTS='jaxdiv tests/test_registry.py'; \
	else echo "No python3.13 on this machine: the newest releases were not tested."; fi

lint: $(VENV)/.test ## ruff: format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: $(VENV)/.test ## pyright on jaxdiv
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.docs ## build the documentation into docs/_build
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build

bench: $(VENV)/.bench ## side by side with the peers
	$(BIN)/python -m benchmarks.bessel
	$(BIN)/python -m benchmarks.divergence
	$(BIN)/python -m benchmarks.transport
	$(BIN)/python -m benchmarks.streaming
	$(BIN)/python -m benchmarks.map_training
	$(BIN)/python -m benchmarks.implicit
	$(BIN)/python -m benchmarks.hypergradients
	$(BIN)/python -m benchmarks.qp
	$(BIN)/python -m benchmarks.diffusion

clean: ## remove environments, caches and output
	rm -rf .venv .venv-newest .cache .pytest_cache .ruff_cache .hypothesis docs/_build $(OUT)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "jaxdiv needs Python 3.11 or newer; $$($(PYTHON) --version) found. Try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip

# One stamp an extra; made again when what is to be installed has changed.
$(VENV)/.%: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	@echo "Installing jaxdiv[$*] into $(VENV) (a minute or two the first time)"
	$(PIP) --editable '.[$*]'
	@touch $@
