"Every block of code in the prose of a page runs: commands in a shell, Python in one namespace per page, SQL against a finished study."
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from alphaplus_ml.config import sqlite_url
from alphaplus_ml.docs.pages import read_pages, tokens
from alphaplus_ml.store.database import Database

root = Path(__file__).parent.parent


@cache
def fences():
    "Page, language and text of every block in the prose"
    prose = [(path, cell.source) for path, page in read_pages(root/"nbs").items() for cell in page.notebook.cells if cell.cell_type == "markdown"]
    return [(path, token.info.strip(), token.content) for path, source in prose for token in tokens(source) if token.type == "fence"]


def blocks_of(language):
    "For each page that has some, its blocks in a language"
    found = {}
    for path, its, text in fences():
        if its == language: found.setdefault(path, []).append(text)
    return found


def dry(script):
    "Commands that set up or change a checkout are only checked: make's targets by make, programs by looking them up"
    script = re.sub(r"^make\b", f"make --dry-run --no-print-directory -C {root}", script, flags=re.M)
    return re.sub(r"^(git|pre-commit|source)\b.*$", lambda found: "true" if found[1] == "source" else f"command -v {found[1]}", script, flags=re.M)


def shell(script, folder):
    env = {name: value for name, value in os.environ.items() if not name.startswith("ALPHAPLUS_")}
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}", "HOME": str(folder), "COLUMNS": "120"}
    return subprocess.run(["bash", "-euo", "pipefail", "-c", dry(script)], cwd=folder, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("path", blocks_of("bash"))
def test_commands_run(path, tmp_path):
    for script in blocks_of("bash")[path]:
        done = shell(script, tmp_path)
        assert done.returncode == 0, f"{script}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"


@pytest.mark.parametrize("path", blocks_of("python"))
def test_python_runs(path, tmp_path):
    script = tmp_path/"blocks.py"
    script.write_text("\n\n".join(blocks_of("python")[path]))
    done = subprocess.run([sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [one.name for one in tmp_path.iterdir()] == ["blocks.py"], "an example leaves no file"


@pytest.fixture(scope="module")
def studied(built_site):
    "The database of the study that the site shows"
    return next((root/"build"/"docs"/"experiments").glob("market_study-*/alphaplus.db"))


@pytest.mark.parametrize("path", blocks_of("sql"))
def test_questions_are_answered(path, studied):
    with Database(sqlite_url(studied)) as database, database.engine.connect() as connection:
        for question in blocks_of("sql")[path]: assert len(pd.read_sql(question, connection)), question


@pytest.mark.parametrize("script", ["make no-such-target", "alphaplus run no_such_template", "no-such-program", "false | true"])
def test_a_block_that_fails_is_seen(script, tmp_path):
    assert shell(script, tmp_path).returncode != 0
