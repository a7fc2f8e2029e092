# The commands of this project; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

INVENTORY ?= inventories/local
PYTHON ?= python3
BIN := .venv/bin
# Further options, such as OPTIONS='--check --diff' or OPTIONS='-e destroy_data=true'.
OPTIONS ?=
# A password is asked for only where sudo wants one.
ASK := $(shell [ "$$(id -u)" = 0 ] || sudo -n true 2> /dev/null || echo --ask-become-pass)
PLAY := $(BIN)/ansible-playbook -i "$(INVENTORY)" $(ASK) $(OPTIONS)

export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
# Trust what this machine trusts, as pip does: a network may have an authority of its own.
export UV_SYSTEM_CERTS := true
export UV_NATIVE_TLS := true
# Lines are shown when they are written, in a log of CI too.
export PYTHONUNBUFFERED := 1
# Without bytecode, each start of Ansible compiles it anew: a third of its processor time.
unexport PYTHONDONTWRITEBYTECODE
# Ansible needs UTF-8, and a locale that was forwarded from elsewhere may not exist here.
export LC_ALL := C.UTF-8
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# In a bundle, everything that Ansible's environment needs is there; nothing is asked of a network.
ifneq ($(wildcard bundle/wheels),)
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := bundle/wheels
export UV_OFFLINE := 1
export UV_FIND_LINKS := bundle/wheels
endif

.PHONY: help
help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

# ---- the stack

.PHONY: configure up check status verify dags dag-test stop start drain forget destroy fetch-secrets rotate-secrets mlflow-gc backup fetch-backups restore restore-part drill upgrade upgrade-back bundle
configure: .venv/controller ## Look at a host, ask a few questions, and write an inventory for it
	@$(BIN)/python tools/configure.py $(ASK) $(OPTIONS)

up: .venv/controller ## Bring the whole stack up, or make it again what the inventory says
	@$(PLAY) site.yml

check: .venv/controller ## Show what `make up` would change
	@$(PLAY) site.yml --check --diff

.PHONY: drift
drift: .venv/controller ## Show what on the hosts differs from the declaration; exit status 2 if anything does
	@$(PLAY) playbooks/drift.yml

status: .venv/controller ## Show what runs, its health, memory and version
	@$(PLAY) playbooks/status.yml

verify: .venv/controller ## Show that the stack works: train a model and follow it to MLflow and MinIO
	@$(PLAY) playbooks/verify.yml

dags: .venv/controller ## Check whether the DAGs of all directories and repositories can be imported; changes nothing
	@$(PLAY) playbooks/dags.yml

dag-test: .venv/controller ## Run one DAG once: DAG=ID [DATE=2026-11-27] [CONF='{"symbol": "AAPL"}']
	@$(PLAY) playbooks/dag_test.yml -e "$$($(BIN)/python -c 'import json, os; \
	    print(json.dumps({f"dag_test_{key}": os.environ.get(name, "") for key, name in (("id", "DAG"), ("date", "DATE"), ("conf", "CONF"))}))')"

upgrade: .venv/controller ## Show what changes, ask, back up, upgrade, and go back by itself if that fails
	@$(PLAY) playbooks/upgrade.yml

upgrade-back: .venv/controller ## Restore the containers from before the last upgrade, and the data if it was migrated
	@$(PLAY) playbooks/upgrade_back.yml

stop: .venv/controller ## Stop the containers
	@$(PLAY) playbooks/stop.yml

start: .venv/controller ## Start the containers again
	@$(PLAY) playbooks/start.yml

.PHONY: logs
logs: .venv/controller ## Show lines of logs: [SERVICE=airflow] [SINCE=1h] [LEVEL=error] [TEXT='words'] [LIMIT=200]
	@$(PLAY) playbooks/logs.yml -e "$$($(BIN)/python -c 'import json, os; \
	    print(json.dumps({f"logs_{name.lower()}": os.environ.get(name, "") for name in ("SERVICE", "SINCE", "LEVEL", "TEXT", "LIMIT")}))')"

drain: .venv/controller ## Let the workers of a host end their tasks and stop: HOST=NAME [OPTIONS='-e drain_timeout=7200']
	@$(PLAY) playbooks/drain.yml $(if $(HOST),--limit '$(HOST)')

forget: .venv/controller ## Remove all of the stack from a host with workers only, which then leaves the inventory: HOST=NAME
	@$(PLAY) playbooks/forget.yml $(if $(HOST),--limit '$(HOST)')

destroy: .venv/controller ## Remove the containers; data stays unless OPTIONS='-e destroy_data=true'
	@$(PLAY) playbooks/destroy.yml

fetch-secrets: .venv/controller ## Restore lost secrets from the hosts; overwrites nothing
	@$(PLAY) playbooks/fetch_secrets.yml

rotate-secrets: .venv/controller ## Replace secrets while the stack runs: SECRETS=NAME,… or a service, or all
	@$(PLAY) playbooks/rotate_secrets.yml -e "$$($(BIN)/python -c 'import json, os; \
	    print(json.dumps({"rotate_secrets": os.environ.get("SECRETS", "")}))')"

# Every shell has a USER of its own, which is nobody's that was meant.
TOKEN_USER := $(if $(filter command,$(firstword $(origin USER))),$(USER))
# Ansible would take it for whoever runs it.
unexport USER
TOKEN = $(PLAY) playbooks/token.yml -e "$$(T_ACTION='$(1)' T_USER='$(TOKEN_USER)' T_NAME='$(NAME)' T_DAYS='$(DAYS)' $(BIN)/python -c 'import json, os; \
	    print(json.dumps({f"token_{key}": os.environ[f"T_{key.upper()}"] for key in ("action", "user", "name", "days")}))')"
.PHONY: token tokens revoke-token
token: .venv/controller ## Make a token with which a program passes the edge: USER=… NAME=… [DAYS=90]
	@$(call TOKEN,add)

tokens: .venv/controller ## List the tokens of the edge
	@$(call TOKEN,list)

revoke-token: .venv/controller ## Revoke a token: USER=… NAME=…
	@$(call TOKEN,revoke)

mlflow-gc: .venv/controller ## Show what was deleted in MLflow and is still stored; OPTIONS='-e mlflow_gc_confirm=NAME' removes it
	@$(PLAY) playbooks/mlflow_gc.yml

backup: .venv/controller ## Make a backup now; OPTIONS='-e backup_verify=true' reads all backups and finds what is damaged
	@$(PLAY) playbooks/backup.yml

restore: .venv/controller ## Bring everything back from a backup: TO=latest, a backup's id, a time in UTC, or end
	@$(PLAY) playbooks/restore.yml -e "$$(TO='$(or $(TO),latest)' $(BIN)/python -c 'import json, os; print(json.dumps({"restore_to": os.environ["TO"]}))')"

restore-part: .venv/controller ## Bring a part back: PART=database:mlflow or bucket:mlflow or 'experiment:my runs' [TO=…]
	@$(PLAY) playbooks/restore_part.yml -e "$$(TO='$(or $(TO),latest)' $(BIN)/python -c 'import json, os; \
	    print(json.dumps({"restore_to": os.environ["TO"], "restore_part": os.environ.get("PART", "")}))')"

fetch-backups: .venv/controller ## Bring the backup repository back from a copy, before `make restore`: FROM=NAME of backup_copies
	@$(PLAY) playbooks/fetch_backups.yml -e "$$(FROM='$(FROM)' $(BIN)/python -c 'import json, os; print(json.dumps({"fetch_from": os.environ["FROM"]}))')"

drill: .venv/controller ## Restore the newest backup beside the stack, compare it with what was backed up, and remove it
	@$(PLAY) playbooks/drill.yml

.PHONY: alert-test silence
alert-test: .venv/controller ## Send an alert that says it is a test to everybody who is told of alerts
	@$(PLAY) playbooks/alert_test.yml

silence: .venv/controller ## Silence an alert: ALERT=NAME [FOR=2h] [WHY='…'], or END=ID; without either, list what fires and is silenced
	@$(PLAY) playbooks/silence.yml -e "$$($(BIN)/python -c 'import json, os; \
	    print(json.dumps({f"silence_{key}": os.environ.get(name, "") for key, name in (("alert", "ALERT"), ("time", "FOR"), ("why", "WHY"), ("end", "END"))}))')"

bundle: .venv/bundle ## Write one archive from which `make up` works without a network: BUNDLE=PATH (bundles/)
	@$(PLAY) playbooks/bundle.yml -e "$$(BUNDLE='$(BUNDLE)' $(BIN)/python -c 'import json, os; print(json.dumps({"bundle_path": os.environ["BUNDLE"]}))')"

# ---- tests

# The newest ansible-core needs a newer Python than the rest.
SANITY_NEWEST := $(if $(filter sanity test-all,$(MAKECMDGOALS)),$(shell python3.13 -c 'print(".venvs/sanity-newest")' 2> /dev/null))

# How many scenarios run beside each other; they spend half of their time waiting.
JOBS ?= 2
# Scenarios of `make test`, and what `make test-all` adds: each role on both Debians, and what takes long.
SCENARIOS ?= redis postgres minio default
SCENARIOS_ALL ?= faults cluster edge edge_services monitoring backup upgrade bundle small_host own_service notebook operators ibkr_gateway docker_host mlflow backend airflow \
    own_backend collection redis@bookworm postgres@trixie minio@trixie ibkr_gateway@bookworm mlflow@bookworm backend@trixie airflow@bookworm

.PHONY: test test-all test-changed vulnerabilities sanity lint unit unit-plugins unit-backend unit-simulator unit-dags types-backend molecule scenarios faults collection
test: lint unit scenarios ## Run the tests: lint, unit, each data service alone, and the whole stack

test-all: test vulnerabilities sanity ## Run `make test`, then the collection's sanity tests, each role on test hosts, the archive with the oldest and newest Ansible, and the faults
	@$(MAKE) --no-print-directory scenarios SCENARIOS='$(SCENARIOS_ALL)'

test-changed: .venv/test ## Run lint, the unit tests, and the scenarios of what changed since BASE=REVISION
	@[ -n "$(BASE)" ] || { echo "Set BASE to the revision since which to look for changes, such as BASE=main." >&2; exit 1; }
	@changed=$$($(BIN)/python tools/changed_scenarios.py --everything '$(SCENARIOS)' '$(BASE)'); \
	    $(MAKE) --no-print-directory lint unit; \
	    [ -z "$$changed" ] || $(MAKE) --no-print-directory scenarios SCENARIOS="$$changed"

vulnerabilities: .venv/controller ## Look for known vulnerabilities in the programs of Go that are built here
	@echo "── vulnerabilities"
	@type go &> /dev/null || { \
	    echo "Installing Go"; \
	    sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	    $$sudo apt-get update -qq; \
	    $$sudo apt-get install -qq --yes --no-install-recommends golang-go > /dev/null; }
	@mkdir -p .cache
	@$(BIN)/ansible-playbook -i inventories/local $(ASK) tools/go_images.yml -e go_images_file=$(CURDIR)/.cache/go-images.json
	@$(BIN)/python tools/vulnerabilities.py .cache/go-images.json

sanity: .venv/controller .venvs/compat-oldest .venvs/publish $(SANITY_NEWEST) ## Run ansible-test sanity with each supported ansible-core, antsibull-docs and galaxy-importer
	@for environment in .venvs/compat-oldest .venv $(SANITY_NEWEST); do \
	    echo "── sanity: $$($$environment/bin/ansible-test --version)"; \
	    $(BIN)/python tools/sanity.py --ansible-test $$environment/bin/ansible-test; \
	done
	@[ -n "$(SANITY_NEWEST)" ] || echo "── sanity: newest ansible-core not tested, because it needs python3.13"
	@echo "── sanity: antsibull-docs and galaxy-importer"
	@$(BIN)/python tools/publish.py

lint: .venv/test ## Check style, types of variables, and that generated files are up to date
	@echo "── lint"
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet .
	@$(BIN)/yamllint --strict .
	@$(BIN)/ansible-lint -q
	@$(BIN)/python tools/role_readmes.py --check
	@shellcheck $$(git ls-files -s | awk '$$1 != 120000 { print $$4 }' | xargs awk 'FNR == 1 && /^#!\/bin\/(ba)?sh/ { print FILENAME }')

unit: .venv/test .venvs/backend .venvs/simulator .venvs/dags ## Run the unit tests
	@# They mostly wait: two at a time take half as long.
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target unit-plugins unit-backend unit-simulator unit-dags types-backend

unit-plugins:
	@echo "── unit tests: plugins and tools"
	@$(BIN)/pytest -q tests/unit/plugins tests/unit/tools

unit-dags:
	@echo "── unit tests: dags"
	@.venvs/dags/bin/python -m pytest -q -p no:cacheprovider tests/unit/dags

unit-backend: APPLICATION := backend
unit-simulator: APPLICATION := gateway_simulator
unit-backend unit-simulator: unit-%:
	@echo "── unit tests: $*"
	@.venvs/$*/bin/python -m pytest -q -p no:cacheprovider apps/$(APPLICATION)/tests

types-backend:
	@echo "── types: backend"
	@.venvs/backend/bin/mypy --config-file apps/backend/pyproject.toml --cache-dir .cache/mypy apps/backend/ibkr_backend

molecule: ## Bring the whole stack up beside any other, test it, train a model, open its pages, remove it
	@$(MAKE) --no-print-directory scenarios SCENARIOS=default

scenarios: .venv/test .venvs/simulator .venvs/dags $(if $(filter edge edge@%,$(SCENARIOS)),.venvs/identity-provider) $(if $(filter collection,$(SCENARIOS)),.venvs/compat-oldest .venvs/compat-newest) ## Run Molecule scenarios: SCENARIOS='redis postgres@trixie'
	@$(BIN)/python tools/run_scenarios.py --jobs $(JOBS) $(SCENARIOS)

faults: ## Kill runs and containers, take services away, change secrets, fill a disk: the stack heals
	@$(MAKE) --no-print-directory scenarios SCENARIOS=faults

collection: .venv/controller ## Build the collection's archive
	@$(BIN)/ansible-galaxy collection build --force

# ---- environments

# The programs of an environment name its folder and the Python that made it. Where either has changed since, it is made again.
MADE_FROM := $(CURDIR) $(shell .venv/bin/python -c 'import sys; print(*sys.version_info[:2])' 2> /dev/null)
ifneq ($(wildcard .venv/uv),)
ifneq ($(shell cat .venv/uv),$(MADE_FROM))
$(shell rm -rf .venv .venvs)
$(info The project was moved, or its Python was replaced: making its environments again)
endif
endif

.PHONY: lock
lock: .venv/controller ## Resolve the requirements again
	@for file in requirements/*.in; do \
	    python=3.11; [ $$file != requirements/compat-newest.in ] || python=3.13; \
	    $(BIN)/uv pip compile --quiet --universal --python-version $$python --generate-hashes --no-header $$file -o $${file%.in}.lock; \
	done
	@# The applications: what their images are built from, then the same versions with what the tests need.
	@for application in apps/*/; do ( \
	    cd $$application; \
	    lock="$(CURDIR)/$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header"; \
	    $$lock pyproject.toml -o requirements.lock; \
	    $$lock pyproject.toml --group test -c requirements.lock -o test.lock; \
	    ! grep -q '^build = ' pyproject.toml || $$lock --group build -o build.lock; \
	); done

.venv/uv: roles/container_image/files/python-build/uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "This needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Set PYTHON to another one." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2> /dev/null || \
	    { echo "Python's venv module is missing: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making .venv: Ansible and what it needs, from requirements/controller.lock"
	@$(PYTHON) -m venv --clear .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	@echo "$(CURDIR) $$(.venv/bin/python -c 'import sys; print(*sys.version_info[:2])')" > $@

.venv/controller: requirements/controller.lock .venv/uv
	@.venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes --only-binary :all: -r $<
	@touch $@

.venv/bundle: requirements/bundle.lock .venv/controller
	@echo "Adding what bundles are made with, from requirements/bundle.lock"
	@.venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes --only-binary :all: -r $<
	@touch $@

.venv/test: requirements/test.lock .venv/controller
	@echo "Adding what the tests need, from requirements/test.lock"
	@.venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes -r $<
	@type chromium shellcheck openssl javac pebble &> /dev/null || { \
	    echo "Installing chromium, shellcheck, openssl, a JDK and Pebble for the tests"; \
	    sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	    $$sudo apt-get update -qq; \
	    $$sudo apt-get install -qq --yes --no-install-recommends chromium shellcheck openssl default-jdk-headless pebble > /dev/null; }
	@touch $@

# The newest Ansible runs on a test host, with the Python of Debian 13.
.venvs/compat-newest: requirements/compat-newest.lock .venv/controller
	@echo "Making $@, from $<"
	@rm -rf $@
	@.venv/bin/uv pip install --quiet --target $@ --python-version 3.13 --python-platform x86_64-manylinux_2_28 \
	    --require-hashes --only-binary :all: -r $<

.venvs/sanity-newest: requirements/compat-newest.lock .venv/controller
	@echo "Making $@, from $<"
	@rm -rf $@
	@.venv/bin/uv venv --quiet --python "$$(python3.13 -c 'import sys; print(sys.executable)')" $@
	@.venv/bin/uv pip install --quiet --python $@/bin/python --require-hashes --only-binary :all: -r $<

.venvs/compat-oldest: requirements/compat-oldest.lock .venv/controller
	@echo "Making $@, from $<"
	@rm -rf $@
	@.venv/bin/uv venv --quiet --python .venv/bin/python $@
	@.venv/bin/uv pip install --quiet --python $@/bin/python --require-hashes --only-binary :all: -r $<

.venvs/publish: requirements/publish.lock .venv/controller
	@echo "Making $@, from $<"
	@rm -rf $@
	@.venv/bin/uv venv --quiet --python .venv/bin/python $@
	@.venv/bin/uv pip install --quiet --python $@/bin/python --require-hashes -r $<

.venvs/dags: requirements/unit-dags.lock
.venvs/backend: apps/backend/test.lock
.venvs/simulator: apps/gateway_simulator/test.lock
.venvs/identity-provider: requirements/identity-provider.lock
.venvs/dags .venvs/backend .venvs/simulator .venvs/identity-provider: .venv/controller
	@echo "Making $@, from $(filter %.lock,$^)"
	@rm -rf $@
	@.venv/bin/uv venv --quiet --python .venv/bin/python $@
	@# The simulator's lock leaves out what a package of data names as its dependencies.
	@.venv/bin/uv pip install --quiet --python $@/bin/python --no-deps --require-hashes -r $(filter %.lock,$^)
