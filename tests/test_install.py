"The wheel: what `pip install .` brings to a machine without the checkout."
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns
from zipfile import ZipFile

import pytest

root = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The wheel, built from a copy of the checkout so that nothing is left in it"
    folder = tmp_path_factory.mktemp("wheel")
    copytree(root, folder/"source", ignore=ignore_patterns(".git", ".venv*", "runs", "*.egg-info", "build", ".pytest_cache", "__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), "."]
    subprocess.run(command, cwd=folder/"source", check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_wheel_holds_templates_and_migrations(wheel):
    names = ZipFile(wheel).namelist()
    assert {f"alphaplus_ml/_templates/{path.name}" for path in (root/"nbs"/"experiments").glob("*.ipynb")} <= set(names)
    assert "alphaplus_ml/store/migrations/env.py" in names and any("/versions/0001" in name for name in names)
    assert not [name for name in names if name.startswith(("tests", "nbs", "runs"))]


def test_installed_package_finds_its_templates(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path/"site"), str(wheel)], check=True)
    program = ("import alphaplus_ml, sys; from alphaplus_ml.experiments import list_templates\n"
               "assert alphaplus_ml.__file__.startswith(sys.argv[1]), alphaplus_ml.__file__\n"
               "print(*list_templates().index)")
    env = {**os.environ, "PYTHONPATH": str(tmp_path/"site")}
    shown = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=tmp_path, env=env, check=True, capture_output=True, text=True).stdout
    assert "market_study" in shown.split()


def test_make_says_which_python_it_wants(tmp_path):
    "With no fitting Python on the path, set-up stops with a sentence and leaves nothing behind"
    for name in ("settings.ini", "setup.py", "constraints.txt", "Makefile"): (tmp_path/name).write_text((root/name).read_text())
    tools = tmp_path/"bin"
    tools.mkdir()
    for name in ("bash", "grep", "touch", "make"): (tools/name).symlink_to(subprocess.check_output(["which", name], text=True).strip())
    (tools/"python3").write_text("#!/bin/bash\nexit 1\n")
    (tools/"python3").chmod(0o755)
    env = {"PATH": str(tools), "HOME": str(tmp_path)}
    done = subprocess.run([str(tools/"make"), "setup", f"SHELL={tools/'bash'}"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode != 0 and "needs Python 3.11, 3.12 or 3.13" in done.stderr and not (tmp_path/".venv").exists()
