"Every notebook, top to bottom, in a fresh kernel; and what it shows is what it has stored."
import gc
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat.v4 import new_code_cell

from warm_kernels import WarmKernelManager

root = Path(__file__).parent.parent
notebooks = sorted((root/"nbs").glob("[0-9]*.ipynb")) + [root/"nbs"/"index.ipynb"] + sorted(
    path for folder in ("tutorials", "explanations", "benchmarks") for path in (root/"nbs"/folder).glob("*.ipynb"))
small = {"01_features": {"n_symbols": 6, "n_bars": 300, "repeats": 1},
         "02_recording": {"n_rows": 500, "n_stored": 2000, "repeats": 1},
         "03_evaluation": {"n_symbols": 6, "n_bars": 200, "n_trials": 5, "n_periods": 80, "repeats": 1},
         "04_search": {"n_times": 120, "n_symbols": 8, "n_features": 13, "n_trials": 4, "seeds": 1, "n_trivial": 60},
         "05_explanations": {"n_trees": 5, "n_features": 16, "n_train": 300, "n_rows": 50, "n_slow": 4, "repeats": 1, "with_eli5": False}}  # a benchmark's code is run, not timed


def name_of(path): return path.stem if path.parent.name == "nbs" else f"{path.parent.name}/{path.stem}"


def with_parameters(notebook, values):
    "A notebook whose cell of parameters is followed by one that sets them"
    cell = new_code_cell("\n".join(f"{name} = {value!r}" for name, value in values.items()))
    place = next(k for k, one in enumerate(notebook.cells) if "parameters" in one.metadata.get("tags", []))
    assert all(re.search(rf"^{name}\s*:", notebook.cells[place].source, re.M) for name in values), "the parameters have other names now"
    notebook.cells.insert(place + 1, cell)
    return notebook


def texts(notebook):
    "What each code cell shows as text, without the numbers: these may differ between machines"
    def words(output): return output.get("text") or output.get("data", {}).get("text/plain", "")
    def masked(text): return re.sub(r"[\s\d.,:+\-–─━…%]+|0x\w+|\be\b|\bnan\b|\binf\b", " ", text, flags=re.I).split()
    return {cell.id: masked("".join(map(words, cell.get("outputs", [])))) for cell in notebook.cells if cell.cell_type == "code"}


def run(notebook, folder):
    "A notebook, executed in a kernel of its own"
    NotebookClient(notebook, timeout=300, kernel_name="python3", kernel_manager_class=WarmKernelManager, resources={"metadata": {"path": str(folder)}}).execute(env=dict(os.environ))
    return notebook


@pytest.fixture(autouse=True)
def sockets_are_closed():
    "A client leaves its sockets to the garbage collector, whose warnings would otherwise hit the next test"
    yield
    gc.collect()


@pytest.mark.parametrize("path", notebooks, ids=name_of)
def test_notebook_runs_and_shows_what_it_has_stored(path, tmp_path, monkeypatch):
    monkeypatch.setenv("ALPHAPLUS_RUNS", str(tmp_path/"runs"))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name in ("ALPHAPLUS_DATABASE_URL", "ALPHAPLUS_MLFLOW_URI", "ALPHAPLUS_EXPERIMENT_ID"): monkeypatch.delenv(name, raising=False)
    notebook, stored = nbformat.read(path, 4), texts(nbformat.read(path, 4))
    measures = path.parent.name == "benchmarks"
    if measures: with_parameters(notebook, small[path.stem])
    run(notebook, tmp_path)
    said = [output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]
    assert [text for text in said if "IPKernelApp" not in text] == [], "a notebook writes nothing to standard error"
    if not measures:
        fresh = texts(notebook)
        assert {cell: fresh[cell] for cell in stored if fresh[cell] != stored[cell]} == {}, "stored outputs say something else: run the notebook and keep its outputs"


def test_a_warm_kernel_knows_nothing_of_ours(tmp_path):
    "Neither our modules, nor the tests, nor what the kernel before it has done"
    said = """import os, sys, pathlib, pandas
print([name for name in sys.modules if name.startswith("alphaplus_ml") or name == "matplotlib.pyplot"], [path for path in sys.path if "tests" in pathlib.Path(path).parts])
print("spoiled" in globals(), "SPOILED" in os.environ, hasattr(pandas, "spoiled"), os.listdir())
spoiled = pandas.spoiled = os.environ["SPOILED"] = "1"
"""
    for _ in range(2): assert run(nbformat.v4.new_notebook(cells=[new_code_cell(said)]), tmp_path).cells[0].outputs[0].text == "[] []\nFalse False False []\n"


@pytest.mark.parametrize("source, error", [("1/0", CellExecutionError), ("import os; os._exit(1)", DeadKernelError)])
def test_a_notebook_that_fails_is_seen(source, error, tmp_path):
    with pytest.raises(error): run(nbformat.v4.new_notebook(cells=[new_code_cell(source)]), tmp_path)


def test_a_stale_output_is_seen():
    fresh, stale = (nbformat.v4.new_notebook(cells=[new_code_cell("", id="a", outputs=[nbformat.v4.new_output("stream", text=text)])])
                    for text in ("ridge  0.12 wins", "lightgbm 0.12 wins"))
    assert texts(fresh) != texts(stale)
