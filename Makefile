# Each target sets up what it needs (environments, locked dependencies); `make` alone lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Triton's Python backend starts its processes by a line of shell, in which it does not quote the path: it would hang.
ifneq ($(shell pwd | LC_ALL=C tr -d 'A-Za-z0-9/._+@%,=\200-\377\n-' | od -c -An),)
$(error This checkout is in '$(shell pwd)': Triton can't start models below a path with a space, or with other characters than \
letters, digits and / . _ - + @ % , =. Nothing was changed. Move the checkout to another folder)
endif

UV := .cache/uv/bin/uv
MAIN := .venv/.stamp
TRITON := .venv-triton/.stamp
TORCH := .venv/.torch-stamp
ZOO := .cache/zoo/.stamp
SITE := .cache/site/.stamp
# nvidia-pytriton's wheels need glibc 2.35; every other wheel needs less.
COMPILE = $(UV) pip compile --quiet --upgrade --generate-hashes --python-version 3.11 \
	--python-platform x86_64-manylinux_2_35 --only-binary :all: --custom-compile-command 'make lock'
# What the images hold is a part of what was tested.
IMAGE = $(COMPILE) --constraint requirements/main.txt
# PyTorch for CPUs is not on PyPI, whose build brings CUDA along: where pip is told to look for wheels, uv looks as well.
PIP_CONFIG = .cache/uv/bin/python -m pip config get
FIND_LINKS = UV_FIND_LINKS="$${UV_FIND_LINKS:-$$({ $(PIP_CONFIG) :env:.find-links || $(PIP_CONFIG) global.find-links \
	|| $(PIP_CONFIG) user.find-links; } 2>/dev/null | tr -s '[:space:]' ',' | sed 's/,$$//')}"
# Two at a time would write one environment.
ALONE = @mkdir -p .cache && exec 9> .cache/setup.lock && { flock --nonblock 9 \
	|| { echo 'another make sets up this checkout: waiting for it ...' >&2; flock 9; }; } && $(MAKE) --silent
# Python answers Ctrl-C with a traceback: what a step says is shown when it failed, not when it was ended.
QUIETLY = { mkdir -p .cache; set +e;
OR_SAY = > .cache/setup.log 2>&1; status=$$?; [ $$status = 0 ] || [ $$status -ge 128 ] || cat .cache/setup.log >&2; exit $$status; }
# It lets the signal in as soon as it can answer it without a traceback.
STACK = env --block-signal=INT .venv/bin/python -m stack
# Three workers keep two cores busy; a fourth takes from the tests on the running Airflow, which are the longest chain
# (tests/support/spreading.py).
WORKERS ?= 3
SPREAD = -n $(WORKERS)
CHECKED := ml_code dags stack bench deploy/airflow/*.py deploy/grafana/*.py

.PHONY: help demo up up-distributed test test-unit coverage soak planted bench bench-quick torch zoo site lint format docs lock clean env main

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: env  ## the main job end to end: train, deploy twice, roll back a broken model, revert (under 6 minutes)
	@$(STACK) demo

up: env  ## start the stack and leave it running; prints URLs and logins; Ctrl-C stops all of it
	@$(STACK) up

up-distributed: env  ## the same with Redis, Celery and two hosts, each with a worker, a Triton and a gateway
	@$(STACK) up-distributed

test: env torch  ## every component and every way of failing, on the real servers (under 18 minutes on 2 cores)
	.venv/bin/pytest tests $(SPREAD)

# Not in `test`: counting lines slows down what computes.
coverage: env torch  ## `make test`, counting the lines and branches of ml_code that it reaches
	.venv/bin/pytest tests $(SPREAD) --cov=ml_code

test-unit: main  ## what needs neither a server nor PyTorch (under a minute)
	.venv/bin/pytest tests/unit -n 2

soak: env torch zoo  ## variants, whole sweeps, long runs (under an hour); writes docs/reliability.json
	FAULTS_SEED=$${FAULTS_SEED:-$$(date +%s)} .venv/bin/pytest tests -m soak $(SPREAD)

planted: env  ## plant each bug of tests/planted in a copy of the tree: its tests must see it
	.venv/bin/python -m tests.planted

bench: env  ## measure what docs/performance.md claims, side by side, and write it anew
	.venv/bin/python -m bench --output docs/performance.json
	.venv/bin/python docs/generate.py

bench-quick: env  ## the same with a few rounds, printed only
	.venv/bin/python -m bench --quick

torch:  ## PyTorch, for the trainers that need it
	$(ALONE) $(TORCH)

zoo:  ## the packages whose models `make soak` serves
	$(ALONE) $(ZOO)

lint: main  ## ruff, mypy --strict, and who may import whom
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy $(CHECKED)
	.venv/bin/lint-imports

format: main  ## format and mend what ruff can
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

docs: main  ## write the generated parts of the documents, and the dashboards
	.venv/bin/python docs/generate.py
	.venv/bin/python deploy/grafana/dashboards.py

site: $(SITE)  ## the documents as a site in .cache/site/html, with a search that needs no internet
	.cache/site/venv/bin/mkdocs build --quiet --strict --site-dir .cache/site/html
	@echo 'open .cache/site/html/index.html; the search needs a server: python3 -m http.server --directory .cache/site/html'

lock: $(UV)  ## resolve requirements/*.in again into requirements/*.txt
	$(COMPILE) requirements/uv.in -o requirements/uv.txt
	$(COMPILE) requirements/triton.in -o requirements/triton.txt
	$(COMPILE) pyproject.toml --extra airflow --extra distributed --extra events --extra gateway --extra training requirements/main.in -o requirements/main.txt
	$(FIND_LINKS) $(COMPILE) --constraint requirements/main.txt --no-emit-package torch requirements/torch.in -o requirements/torch.txt
	$(COMPILE) --constraint requirements/main.txt --no-deps requirements/zoo.in -o requirements/zoo.txt
	$(COMPILE) requirements/docs.in -o requirements/docs.txt
	$(IMAGE) requirements/build.in -o requirements/build.txt
	$(IMAGE) requirements/mlflow.in -o requirements/mlflow.txt
	$(IMAGE) pyproject.toml --extra airflow --extra distributed --extra events --extra training -o requirements/airflow.txt
	$(IMAGE) pyproject.toml --extra gateway -o requirements/gateway.txt

clean:  ## remove the environments, caches and the stack's state
	@for lock in .stack/run/lock .stack/*/run/lock .stack/*/*/run/lock; do \
	  if [ -e "$$lock" ] && ! flock --nonblock "$$lock" true; then \
	    echo "a stack is running here (pid $$(cat "$$lock")): end it first. Nothing was removed." >&2; exit 1; fi; done
	rm -rf .venv .venv-triton .stack .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .schemathesis .coverage

env:
	$(ALONE) $(MAIN) $(TRITON)

main:
	$(ALONE) $(MAIN)

$(MAIN): requirements/main.txt pyproject.toml | $(UV)
	@echo 'setting up .venv ...'
	$(UV) venv --quiet --allow-existing --python .cache/uv/bin/python .venv
	$(UV) pip sync --quiet --python .venv --require-hashes --no-build requirements/main.txt
	$(UV) pip install --quiet --python .venv --no-deps --no-build-isolation --editable .
	@touch $@

$(TRITON): requirements/triton.txt | $(UV)
	@echo 'setting up .venv-triton ...'
	$(UV) venv --quiet --allow-existing --python .cache/uv/bin/python .venv-triton
	$(UV) pip sync --quiet --python .venv-triton --require-hashes --no-build requirements/triton.txt
	@touch $@

# PyTorch itself is the one package that is not held by its hash: which build of it is to be had differs from place to place.
$(TORCH): requirements/torch.in requirements/torch.txt $(MAIN)
	@echo 'setting up PyTorch in .venv ...'
	$(UV) pip install --quiet --python .venv --require-hashes --no-build -r requirements/torch.txt
	$(FIND_LINKS) $(UV) pip install --quiet --python .venv --no-build -r requirements/torch.in
	@touch $@

# A folder beside .venv, which `uv pip sync` would otherwise empty of it.
$(ZOO): requirements/zoo.txt $(MAIN)
	@echo 'setting up the zoo in .cache/zoo ...'
	@rm -rf .cache/zoo/site
	$(UV) pip install --quiet --python .venv --target .cache/zoo/site --no-deps --require-hashes --no-build -r requirements/zoo.txt
	@touch $@

$(SITE): requirements/docs.txt | $(UV)
	@echo 'setting up MkDocs in .cache/site ...'
	$(UV) venv --quiet --allow-existing --python .cache/uv/bin/python .cache/site/venv
	$(UV) pip sync --quiet --python .cache/site/venv --require-hashes --no-build requirements/docs.txt
	@touch $@

$(UV): requirements/uv.txt
	@echo 'setting up uv in .cache ...'
	@python=; for candidate in python3.11 python3; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
	    python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo 'Python 3.11 is needed, the version for which every dependency is locked: install it so that python3.11 is on' >&2; \
	  echo 'PATH (with its venv module).' >&2; exit 1; fi; \
	$(QUIETLY) "$$python" -m venv --clear .cache/uv $(OR_SAY)
	@$(QUIETLY) .cache/uv/bin/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements/uv.txt $(OR_SAY)
	@touch $@
