# Every command a contributor needs. Each installs what it lacks into .venv/ and .cache/ and is quick the second time.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install demo up test simulate coverage check docs picture histories fmt bench soak lock release clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/.installed  ## make .venv/ from requirements.lock

.venv/.installed: requirements.lock pyproject.toml
	@echo "Installing into .venv/ ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install  ## play the call of bobrapet #87 in a real LiveKit room, without Exeunt and with it
	@$(BIN)/python tests/demo.py

up: install  ## the same on this machine, to try by hand with kubectl
	@$(BIN)/exeunt up

test: install  ## all tests, on a real kube-apiserver, etcd, nats-server, Prometheus and LiveKit
	@$(BIN)/exeunt up --prometheus --livekit --prepare-only
	@$(BIN)/python tests/prepare_helm.py
	@$(BIN)/python -m pytest

SEEDS ?= 10000

simulate: install  ## play SEEDS=10000 simulations of everything, or one with its trace: SEED=123
	@$(BIN)/python tests/simulate.py $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

coverage: install  ## the same, and which lines and branches they pass through, those of the services' processes among them
	@$(BIN)/exeunt up --prometheus --livekit --prepare-only
	@$(BIN)/python tests/prepare_helm.py
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest $(TESTS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

check: install  ## ruff, ruff format, mypy --strict, import-linter, generated documents
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python docs/generate.py --check
	@$(BIN)/python deploy/grafana/generate.py --check
	@$(BIN)/python deploy/helm/generate_chart.py --check

docs: install  ## write the generated documents, dashboards and templates of the Helm chart
	@$(BIN)/python docs/generate.py
	@$(BIN)/python deploy/grafana/generate.py
	@$(BIN)/python deploy/helm/generate_chart.py

picture: install  ## draw the pictures in docs/ anew: the dashboard of a storm of stops that is played for it, and the report
	@$(BIN)/python tests/report_pictures.py
	@$(BIN)/python tests/dashboard_picture.py

histories: install  ## record the golden histories of tests/ anew, from the real services
	@$(BIN)/python tests/record_histories.py

fmt: install  ## format and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: install  ## measured figures as ratios to floors of the same run
	@$(BIN)/python tests/bench

MINUTES ?= 10

soak: install  ## MINUTES=10 of faults on real parts while runs are ended, then what was promised is checked: SEED=123
	@$(BIN)/python tests/soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

LOCK = uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
  --custom-compile-command "make lock" -q

lock:  ## write the requirements*.lock files anew (needs uv)
	$(LOCK) pyproject.toml --extra local --group dev --upgrade -o requirements.lock
	$(LOCK) pyproject.toml --constraint requirements.lock -o requirements-runtime.lock
	printf 'hatchling\nsetuptools\n' | $(LOCK) - --constraint requirements.lock -o requirements-build.lock

DIST ?= dist
CHANGELOG ?= CHANGELOG.md

release: install  ## build wheel, sdist and chart into dist/, and the notes of the version; its CI does the rest
	@mkdir -p $(DIST)
	@version=$$($(BIN)/exeunt --version) && \
	  awk -v version="$$version" '/^## /{found = $$2 == version; next} found' $(CHANGELOG) > $(DIST)/notes.md && \
	  { test -s $(DIST)/notes.md || { echo "$(CHANGELOG) says nothing of $$version"; exit 1; }; }
	@SOURCE_DATE_EPOCH=0 $(BIN)/hatchling build -d $(DIST)
	@$(BIN)/python tests/prepare_helm.py package deploy/chart --destination $(DIST)

clean:  ## remove what the commands above made
	rm -rf .venv .cache .coverage* dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
