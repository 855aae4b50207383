# seqprior: set-up and the everyday commands. `make help` lists them.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: demo test lint format bench scaling proteins regulatory accuracy train clean help

# The Python that creates .venv, and the cores that the workflow may use: `make demo CORES=4 PYTHON=python3.12`.
PYTHON ?= python3
CORES ?= $(shell getconf _NPROCESSORS_ONLN)

# Jobs of the workflow call `python`, which has to be the one of .venv.
IN_VENV := PATH="$$PWD/.venv/bin:$$PATH" PYTHONNOUSERSITE=1

# $(call install,FILE,STAMPS): the packages of FILE and of requirements-no-deps.txt into .venv. While it runs there is .venv/incomplete; whoever finds one
# left behind by a killed installation starts from an empty .venv.
define install
@found=$$("$(PYTHON)" -c 'import sys; print("Python %d.%d.%d" % sys.version_info[:3])' 2> /dev/null) || found="not found"; \
if [ ! -x .venv/bin/python ] || [ -e .venv/incomplete ]; then \
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
		echo "error: seqprior needs Python 3.11 or newer and $(PYTHON) is $$found; name another, for example make demo PYTHON=python3.12" >&2; \
		exit 1; }; \
	rm -rf .venv; mkdir .venv; touch .venv/incomplete; \
	"$(PYTHON)" -m venv .venv; \
fi
@touch .venv/incomplete
@echo "Installing $(1) into .venv (some minutes the first time)"
@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $(1)
@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-no-deps.txt
@rm .venv/incomplete
@touch $(2)
endef

.venv/requirements.stamp: requirements.txt requirements-no-deps.txt
	$(call install,requirements.txt,$@)

.venv/requirements-dev.stamp: requirements-dev.txt .venv/requirements.stamp
	$(call install,requirements-dev.txt,.venv/requirements.stamp $@)

demo: .venv/requirements.stamp ## run the workflow on the embedded demo, on the CPU, and print the report's path
	$(IN_VENV) python -m snakemake --cores $(CORES) --rerun-incomplete
	@cohort=$$(.venv/bin/python -c 'import yaml; print(yaml.safe_load(open("config/config.yaml"))["cohort"])'); \
	report="$$PWD/results/$$cohort/report.html"; test -s "$$report"; echo "Report: $$report"

test: lint ## lint, format check and every test that needs no extra service
	$(IN_VENV) python -m pytest

lint: .venv/requirements-dev.stamp ## check style and formatting of Python and Snakemake files
	$(IN_VENV) python -m ruff check .
	$(IN_VENV) python -m ruff format --check .
	$(IN_VENV) python -m snakefmt --check Snakefile workflow/Snakefile rules/*.smk
	$(IN_VENV) python -m snakemake --lint

format: .venv/requirements-dev.stamp ## bring Python and Snakemake files into the house's format
	$(IN_VENV) python -m ruff check --fix .
	$(IN_VENV) python -m ruff format .
	$(IN_VENV) python -m snakefmt Snakefile workflow/Snakefile rules/*.smk

bench: .venv/requirements.stamp ## speed, side by side in one run: benchmarks/results/speed.tsv
	$(IN_VENV) python benchmarks/speed.py

scaling: .venv/requirements.stamp ## time and memory from 10,000 to 1,000,000 sites: benchmarks/results/scaling.tsv
	$(IN_VENV) python benchmarks/scaling.py

proteins: .venv/requirements.stamp ## protein changes against csq, and deep mutational scans: benchmarks/results/proteins.tsv, consequences.tsv
	$(IN_VENV) python benchmarks/consequences.py
	$(IN_VENV) python benchmarks/proteins.py

regulatory: .venv/requirements-dev.stamp ## elements, binding sites and measured effects with real labels: benchmarks/results/regulatory.tsv
	$(IN_VENV) python benchmarks/regulatory.py

accuracy: .venv/requirements.stamp ## accuracy on the data that is there: benchmarks/results/accuracy.tsv
	$(IN_VENV) python benchmarks/accuracy.py

train: .venv/requirements.stamp ## train the embedded model anew, with the workflow's train target
	$(IN_VENV) python -m snakemake --cores $(CORES) --rerun-incomplete train

clean: ## remove .venv, caches and the demo's results; other cohorts stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis results/demo
	find scripts tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2> /dev/null || true

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile
