PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

# A short real run; `make train ARGS="-n 65536 --seed 1"` passes these on instead
ARGS ?= -n 32768 -params n_steps:32 n_epochs:1

.PHONY: train demo evidence test test-kernels fuzz check format

train: $(INSTALLED)
	$(BIN)/python train.py --algo ppo_snd --env MontezumaRevengeNoFrameskip-v4 --progress $(ARGS)

# PPO with and without the bonus on two control tasks: 20 runs, a picture and a table
demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

# The paper's curves, run after run, as far as the time goes: days on two cores. Called again it goes on where it was stopped
evidence: $(INSTALLED)
	$(BIN)/python benchmarks/evidence.py

test: $(INSTALLED)
	$(BIN)/python -m pytest -q

# The tests that compare numbers, as two older processors compute them
test-kernels: $(INSTALLED)
	MKL_CBWR=COMPATIBLE ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest -q -m numbers
	MKL_CBWR=AVX2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX512_CORE $(BIN)/python -m pytest -q -m numbers

# Ten thousand random arguments instead of the few hundred of `make test`
fuzz: $(INSTALLED)
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -q tests/test_fuzz.py

check: $(INSTALLED)
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
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,sweep,test]"
	touch $(INSTALLED)
