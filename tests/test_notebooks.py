"Every library notebook, top to bottom, in a fresh kernel."
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

root = Path(__file__).parent.parent
notebooks = sorted((root/"nbs").glob("[0-9]*.ipynb")) + [root/"nbs"/"index.ipynb"]


@pytest.mark.parametrize("path", notebooks, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("ALPHAPLUS_RUNS", str(tmp_path/"runs"))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name in ("ALPHAPLUS_DATABASE_URL", "ALPHAPLUS_MLFLOW_URI", "ALPHAPLUS_EXPERIMENT_ID"): monkeypatch.delenv(name, raising=False)
    notebook = nbformat.read(path, 4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute(env=dict(os.environ))
    said = [output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]
    assert [text for text in said if "IPKernelApp" not in text] == [], "a notebook writes nothing to standard error"
