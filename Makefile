# `make` lists the targets. Every target first sets up what it needs, with TENSORFLOW=gpu, PYTHON=...
# and HOROVOD_... (see tools/build_horovod.sh) if they are given; HOROVOD=off leaves Horovod out.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: help setup test test-slow test-runs test-gpu-build test-versions test-machines lint format docs quickstart small study benchmarks chaos soak workers32 clean clean-cache
# One after the other, even with -j: the targets share the cores and one .venv.
.NOTPARALLEL:

BIN := .venv/bin

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## set up .venv with TensorFlow (TENSORFLOW=cpu or gpu), Horovod and all other dependencies
	@tools/setup.sh

test: lint ## lint, then run all tests except the slow ones (ARGS="-k name" selects)
	@$(BIN)/python -m pytest -q -m "not slow and not runs" -n 2 --dist loadfile \
		--no-loadscope-reorder $(ARGS)

test-slow: setup ## run the slow tests
	@$(BIN)/python -m pytest -q -m slow $(ARGS)

test-runs: setup ## train every run of the paper's tables for a few steps
	@$(BIN)/python -m pytest -q -n 2 tests/flags $(ARGS)

test-gpu-build: setup ## build Horovod for GPUs in a new environment and start it, without a GPU (2 GB, 10 minutes)
	@$(BIN)/python tools/gpu_build.py $(ARGS)

test-versions: setup ## test with the oldest and newest TensorFlow, Keras and Python (6 GB, an hour or two)
	@$(BIN)/python tools/test_versions.py $(ARGS)

test-machines: setup ## train on several machines, made of namespaces, over networks that fail (root, an hour)
	@$(BIN)/python tools/test_machines.py $(ARGS)

lint: setup ## check style, formatting and types
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/ruff format --check --quiet . || { echo "lint: run 'make format'" >&2; exit 1; }

format: setup ## fix style and formatting
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

docs: ## build the documentation as a site in build/site; a warning or a dead link is an error
	@tools/setup_docs.sh
	@mkdir -p build
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict $(ARGS) >build/docs.log 2>&1 || \
		{ grep -v '^INFO' build/docs.log >&2; exit 1; }
	@echo "The documentation: build/site/index.html"

quickstart: setup ## train with mixture batch normalization on two workers, then attack the model
	@rm -rf runs/quickstart
ifeq ($(HOROVOD),off)
	@$(BIN)/python -m tfadv.train --flagfile=flags/quickstart.flags $(ARGS)
	@$(BIN)/python -m tfadv.evaluate --flagfile=flags/eval/quickstart.flags
	@echo "One process, without Horovod: several workers, and what keeps them equal, were left out."
else
	@./run_horovod.sh -np 2 --flagfile=flags/quickstart.flags $(ARGS)
	@./run_horovod.sh -np 2 --program evaluate --flagfile=flags/eval/quickstart.flags
endif
	@echo "Statistics of both branches: runs/quickstart/statistics.png"
	@echo "The whole training: $(BIN)/tensorboard --logdir runs"

# The strategies of Table 7, with PGD-10 in training where the table has it, else with PGD-30.
SMALL := pgd10-clean100 pgd30-clean80 pgd30-clean60 pgd30-clean40 pgd30-clean20 pgd10-clean0 \
	pgd10-clean0-running pgd10-alp pgd10-mbn pgd10-mbn-running pgd10-mbn-alp pgd30-gn

small: setup ## train the paper's strategies on handwritten digits and report the results (half an hour)
	@for run in $(SMALL:%=table7/resnet152-%) table1/clean_only; do \
		out=runs/small/$${run#*/}; domain=adv; last=0; \
		case $$run in *mbn*) domain=both;; esac; case $$run in *running) last=4;; esac; \
		[ -f $$out/evaluation.json ] && continue; rm -rf $$out; \
		$(BIN)/python -m tfadv.train --flagfile=flags/$$run.flags --flagfile=flags/small.flags \
			--running_statistics=$$last --run_dir=$$out; \
		$(BIN)/python -m tfadv.evaluate --run_dir=$$out --num_steps=10,20,100,500 \
			--domain=$$domain --images_per_worker=60; \
	done
	@$(BIN)/python -m tfadv.report runs/small --output=runs/small/report

study: setup ## run what is missing of the study on Fashion-MNIST, in the background's time (ARGS="study/mbn")
	@nice -n 19 $(BIN)/python tools/study.py $(ARGS)

benchmarks: setup ## compare with other libraries; fills docs/performance.md (ARGS="attack --quick")
	@tools/setup_benchmarks.sh
	@$(BIN)/python -m benchmarks $(ARGS)

chaos: setup ## kill a run on two workers 38 times, resume it, and compare (half an hour at most)
	@$(BIN)/python tools/chaos.py $(ARGS)

soak: setup ## train 2,000 steps with every callback; fails if memory or open files grow
	@$(BIN)/python tools/soak.py $(ARGS)

workers32: setup ## train a few steps on 32 workers; fails unless they agree to the bit (16 GB, some minutes)
	@$(BIN)/python tools/many_workers.py 32 $(ARGS)

clean: ## remove .venv and all caches in the checkout; runs/ stays
	@rm -rf .venv .venv-docs build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	@find tfadv tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

clean-cache: ## remove what is kept for other clones on this machine: Horovod wheels, environments, XLA's programs
	@rm -rf "$${TFADV_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/tfadv}"/{horovod,versions}
	@rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}"/tfadv/xla
