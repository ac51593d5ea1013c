# `make demo` and `make test` need only Python 3.11+, make and the network; see README.md.
PORT ?= 8080
BIN := .venv/bin

.PHONY: help demo up test venv-trainer test-torch test-compose check docs protos dashboards lock clean

help: ## lists these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

.venv/.local: requirements/local.txt pyproject.toml
	@deploy/install.sh local
	@touch $@

.venv/.dev: requirements/dev.txt pyproject.toml
	@deploy/install.sh dev
	@touch .venv/.local $@

demo: .venv/.local ## starts the stack as local processes, asks questions, stops (QUESTION="…" asks yours)
	@$(BIN)/python -m deploy.local demo --port $(PORT) $(if $(QUESTION),--question "$$QUESTION")

up: .venv/.local ## runs the stack as local processes until Ctrl-C
	@$(BIN)/python -m deploy.local up --port $(PORT)

test: .venv/.dev ## runs unit, integration and end-to-end tests
	@command -v redis-server >/dev/null || deploy/ci/install.sh redis-server
	@command -v chromium >/dev/null || deploy/ci/install.sh chromium fonts-dejavu-core || echo "the tests of the page are skipped"
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --no-loadscope-reorder --durations=15

venv-trainer: .venv-trainer/.done ## makes .venv-trainer, which has torch, transformers, peft and verl

.venv-trainer/.done: requirements/trainer-test.txt
	@python3 -m venv .venv-trainer
	@.venv-trainer/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	@.venv-trainer/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements/trainer-test.txt
	@touch $@

test-torch: .venv-trainer/.done ## runs the tests that need torch, on a CPU: training with the real verl, encoders, GPU search
	@.venv-trainer/bin/python -m pytest tests/learning tests/unit/learning tests/unit/trainer \
		$(addprefix tests/unit/retriever/,test_cross_encoder.py test_packed.py test_token_ids.py test_torch_benchmarks.py test_torch_device.py test_torch_encoder.py)

test-compose: .venv/.dev ## builds the images and tests the stack in containers
	@deploy/ci/test-compose.sh

check: .venv/.dev ## checks format, lint, types, and that stubs match their protos, tables and dashboards the code
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@deploy/ci/check-stubs.sh
	@$(BIN)/python -m docs.generate --check
	@$(BIN)/python -m deploy.grafana --check

docs: .venv/.dev ## writes the generated tables of README.md, docs/ and bench/README.md
	@$(BIN)/python -m docs.generate

protos: .venv/.dev ## generates the stubs from contracts/v1/*.proto
	@$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. contracts/v1/*.proto

dashboards: .venv/.dev ## writes Grafana's dashboards from deploy/grafana/*.py
	@$(BIN)/python -m deploy.grafana

lock: .venv/.dev ## compiles requirements/*.txt from pyproject.toml
	@deploy/lock.sh

clean: ## removes what these commands made
	rm -rf .venv .venv-trainer .run *.egg-info
