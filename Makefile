PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

# Two processes with one thread each
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2

# A short real run; `make train ARGS="-n 65536 --seed 1"` passes these on instead
ARGS ?= -n 32768 -params n_steps:32 n_epochs:1

.PHONY: train demo evidence test test-kernels fuzz docs check lint format

train: $(INSTALLED)
	$(BIN)/python train.py --algo ppo_snd --env MontezumaRevengeNoFrameskip-v4 --progress $(ARGS)

# PPO with and without a bonus in MountainCar and MiniGrid's DoorKey: 6 runs, a picture and a table
demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

# The paper's curves, run after run, as far as the time goes: days on two cores. Called again it goes on where it was stopped
evidence: $(INSTALLED)
	$(BIN)/python -m sb3_snd evidence

# All tests of a file run in one of the processes, as some share what is slow to prepare
test: $(INSTALLED)
	$(PYTEST) --dist loadfile

# The tests that compare numbers, as two older processors compute them: without AVX512 the second is much like `make test`
test-kernels: $(INSTALLED)
	MKL_CBWR=COMPATIBLE ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) --dist worksteal -m numbers
ifneq ($(shell grep -som1 avx512f /proc/cpuinfo),)
	MKL_CBWR=AVX2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX512_CORE $(PYTEST) --dist worksteal -m numbers
endif

# Ten thousand random arguments instead of the few hundred of `make test`
fuzz: $(INSTALLED)
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -q tests/test_fuzz.py

# The pages, with warnings as errors; the notebooks are executed. They are in docs/_build/html
docs: $(INSTALLED)
	@$(BIN)/python -c 'import sys; sys.version_info >= (3, 11) or sys.exit("docs: Sphinx needs Python 3.11 or later.")'
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html

check: docs lint

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(INSTALLED): setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[all,sweep,test,docs]"
	# With all cores, which pip does not use. Some packages have files for other versions of Python
	$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null || true
	touch $(INSTALLED)
