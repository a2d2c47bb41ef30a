# Two commands do everything: `make run` (the market study) and `make test` (all checks). Both set up first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup run test docs readme hooks export lock clean

PY := .venv/bin/python
# Compiled modules are kept: without them every kernel compiles its imports again.
unexport PYTHONDONTWRITEBYTECODE
STAMP := .venv/installed

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP)  ## make .venv with the locked versions

# A Python fits when it runs, is 3.11 to 3.13 and can make virtual environments (Debian ships venv apart).
$(STAMP): settings.ini setup.py constraints.txt
	@python=""; \
	for candidate in "$${PYTHON:-}" python3.13 python3.12 python3.11 python3 python; do \
	  if [ -n "$$candidate" ] && "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; \
	  then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "alphaplus_ml needs Python 3.11, 3.12 or 3.13 with its venv module, and none was found on PATH." >&2; \
	  echo "Install one (Debian and Ubuntu: apt install python3 python3-venv), or name it: make run PYTHON=/path/to/python3.12" >&2; exit 2; \
	fi; \
	echo "Setting up .venv with $$("$$python" --version) ..."; \
	[ -x $(PY) ] && $(PY) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || "$$python" -m venv --clear .venv; \
	if command -v uv >/dev/null 2>&1; then install="uv pip install --quiet --python $(PY)"; else install="$(PY) -m pip install --quiet --disable-pip-version-check"; fi; \
	$$install -c constraints.txt setuptools wheel; \
	$$install -c constraints.txt --no-build-isolation -e '.[all,dev]'; \
	touch $@

run: setup  ## the market study on real bars: notebook, MLflow run, SQL rows, leaderboard
	@.venv/bin/alphaplus run market_study -p n_trials=30 $(ARGS)

test: setup  ## house rules, every notebook and template, pytest, a real PostgreSQL
	@$(PY) -m pytest $(ARGS)

readme: setup  ## README.md and its picture from nbs/index.ipynb
	@$(PY) -c 'from alphaplus_ml.docs.content import write_readme; write_readme()'

docs: setup  ## the site of all pages, in _docs/; `make docs ARGS=--serve` shows it on 127.0.0.1
	@.venv/bin/alphaplus docs $(ARGS)

hooks: setup  ## checks before each commit, by pre-commit
	@.venv/bin/pre-commit install

export: setup  ## the package from the notebooks
	@.venv/bin/nbdev_export && .venv/bin/nbdev_clean

# One resolution for the three platforms that have wheels of everything; needs uv. The markers that every line shares are left out.
lock:  ## constraints.txt anew from settings.ini
	@work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	python3 -c 'import configparser; ini = configparser.ConfigParser(delimiters=["="], interpolation=None); ini.read("settings.ini"); c = ini["DEFAULT"]; print(*(c["requirements"] + " " + " ".join(c[k] for k in c if k.startswith("extra_")) + " " + c["dev_requirements"]).split(), sep="\n")' > "$$work/requirements.in"; \
	printf '%s\n' '[project]' 'name = "lock"' 'version = "0"' 'requires-python = ">=3.11,<3.14"' '[tool.uv]' 'environments = [' \
	  "\"sys_platform == 'linux' and platform_machine == 'x86_64' and python_full_version < '3.14'\"," \
	  "\"sys_platform == 'linux' and platform_machine == 'aarch64' and python_full_version < '3.14'\"," \
	  "\"sys_platform == 'darwin' and platform_machine == 'arm64' and python_full_version < '3.14'\"]" > "$$work/pyproject.toml"; \
	cp constraints.txt "$$work/constraints.txt"; \
	(cd "$$work" && uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url --no-emit-find-links requirements.in -o constraints.txt); \
	everywhere="((platform_machine == 'arm64' and sys_platform == 'darwin') or (platform_machine == 'aarch64' and sys_platform == 'linux') or (platform_machine == 'x86_64' and sys_platform == 'linux'))"; \
	sed -e "s/ ; python_full_version < '3.14' and $$everywhere//" -e "s/ and python_full_version < '3.14' and $$everywhere//" -e "s/ and $$everywhere//" \
	  -e "s/python_full_version < '3.14' and //" "$$work/constraints.txt" > constraints.txt

clean:  ## remove the environment and build leftovers; runs/ stays
	@rm -rf .venv build dist *.egg-info _proc _docs .pytest_cache
