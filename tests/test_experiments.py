"Experiments end to end: papermill to folder, SQL and MLflow and back, failures, signals, refusals."
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import nbformat
import pytest
from hypothesis import given, strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from alphaplus_ml.config import Settings
from alphaplus_ml.core import DatabaseError, InputError
from alphaplus_ml.experiments import (begin_folder, environment_lock, list_runs, list_templates, parse_parameters, run_experiment, show_run, stand_alone_html,
                                      template_parameters)
from alphaplus_ml.templates import Parameter, fitted, from_text, read_parameters
from alphaplus_ml.tracking.start import ExperimentTrackingConfig, open_database, start_experiment_tracking
from alphaplus_ml.tracking.to_mlflow import find_run, mlflow_client

pytestmark = pytest.mark.usefixtures("mlflow_tables")

join = "from alphaplus_ml.tracking.start import current_run\nrun = current_run('by_hand')"
notebooks = {
    "good": ("factor: float = 1.0  # a factor, a = b\nn: int|None = None  # rows\nname: str = 'it\\'s'\nfast: bool = True", join,
             "import matplotlib.pyplot as plt, pandas as pd\nplt.plot([1, 2]); plt.show()\nrun.log_data(pd.DataFrame({'close': [1., 2.]}))",
             "run.log_metrics({'answer': factor*21, 'nothing': float('nan')})\nrun.log_text('verdict', f'{name} {n} {fast}')\nrun.finish()"),
    "failing": ("seed: int = 0", join + "\nrun.log_metrics({'before': 1.0})", "1/seed", "'never reached'"),
    "dying": ("seed: int = 0", "import os\nprint('here', flush=True)", "os._exit(1)", "'never reached'"),
    "sleeping": ("marker: str = ''", "import os, time\nfrom pathlib import Path\nPath(marker).write_text(str(os.getpid()))\ntime.sleep(120)"),
    "waiting": ("marker: str = ''\nother: str = ''", join + "\nimport os, time\nfrom pathlib import Path\nPath(marker).write_text('')\n"
                "while not Path(other).exists(): time.sleep(.02)\nrun.log_metrics({'mine': float(marker[-1])})"),
}


def write(folder, name, parameters, *code, tagged=1):
    "A small template in a folder"
    head = [new_code_cell(parameters, metadata={"tags": ["parameters"]}) for _ in range(tagged)]
    nbformat.write(new_notebook(cells=[new_markdown_cell(f"# The {name} one"), *head, *map(new_code_cell, code)]), folder/f"{name}.ipynb")
    return folder/f"{name}.ipynb"

@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("templates")
    return {name: write(folder, name, *sources) for name, sources in notebooks.items()}

@pytest.fixture(scope="module")
def settings(tmp_path_factory): return Settings(runs=tmp_path_factory.mktemp("runs {x}"), _env_file=None)   # papermill reads braces as its own

@pytest.fixture(scope="module")
def database(settings):
    with open_database(settings) as opened: yield opened

@pytest.fixture(scope="module")
def seen(): return []

@pytest.fixture(scope="module")
def good(templates, settings, seen): return run_experiment(templates["good"], {"factor": 2}, settings=settings, progress=lambda *facts: seen.append(facts))

@pytest.fixture(scope="module")
def failed(templates, settings): return run_experiment(templates["failing"], settings=settings)


# --- a run that ends well ---

def test_a_run_leaves_everything_in_its_folder(good, settings):
    assert good.status == "completed" and good.error is None and good.path == settings.runs/"good"/good.id
    assert re.fullmatch(r"\d{8}T\d{6}_[0-9a-f]{8}", good.id)
    read = lambda name: json.loads((good.path/name).read_text())
    assert read("params.json") == {"factor": 2.0, "n": None, "name": "it's", "fast": True}
    assert read("metrics.json") == good.metrics == {"answer": 42.0, "nothing": None, "not_finite": ["nothing"]}
    assert len(read("data.json")["panel"]["fingerprint"]) == 16
    facts = read("run.json")
    assert facts["status"] == "completed" and facts["error"] is None and {"git_commit", "git_dirty", "alphaplus_ml", "mlflow_run_id", "completed_at"} <= set(facts)
    lines = (good.path/"environment.txt").read_text().split()
    assert lines == environment_lock().split() == sorted(lines, key=str.lower) and all("==" in line for line in lines)

def test_the_executed_notebook_and_its_page(good):
    executed = nbformat.read(good.path/"good.ipynb", 4)
    assert [c.metadata.papermill.status for c in executed.cells] == ["completed"]*6
    page = (good.path/"good.html").read_text()
    assert "data:image/png;base64" in page and "The good one" in page

def test_sql_and_mlflow_know_the_same(good, settings, database):
    row = database.frame("ml_experiments", experiment_id=good.id).iloc[0]
    client = mlflow_client(settings)
    kept, = client.search_runs([e.experiment_id for e in client.search_experiments()], f"tags.`alphaplus.experiment_id` = '{good.id}'")
    assert kept.info.run_id == row.tags["mlflow_run_id"] == json.loads((good.path/"run.json").read_text())["mlflow_run_id"]
    assert row.status == "completed" and kept.info.status == "FINISHED" and kept.info.run_name == good.id
    assert row.config["parameters"] == json.loads((good.path/"params.json").read_text())
    assert kept.data.params == {name: str(value) for name, value in row.config["parameters"].items()}
    assert row.metrics["answer"] == kept.data.metrics["answer"] == 42 and kept.data.metrics["nothing"] != kept.data.metrics["nothing"]
    assert row.tags["verdict"] == kept.data.tags["verdict"] == "it's None True"
    assert kept.inputs.dataset_inputs[0].dataset.digest == row.config["data"]["panel"]["fingerprint"]
    files = {"good.ipynb", "good.html", "params.json", "metrics.json", "data.json", "environment.txt"}
    assert set(row.artifacts) == files == {one.path for one in client.list_artifacts(kept.info.run_id)}

def test_progress_tells_each_cell(good, seen):
    assert [done for done, _, _ in seen] == list(range(6)) and {total for _, total, _ in seen} == {6} and seen[-1][2] == "The good one"

def test_a_rerun_never_overwrites(good, templates, settings, tmp_path, monkeypatch):
    (tmp_path/"kernels"/"python3").mkdir(parents=True)   # somebody else's idea of python3
    (tmp_path/"kernels"/"python3"/"kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "mine", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    before = {path: path.read_bytes() for path in good.path.iterdir()}
    with start_experiment_tracking(ExperimentTrackingConfig(experiment_name="good", backends=["database"]), settings=settings) as run: pass
    (good.path.parent/run.id).mkdir()
    with pytest.raises(FileExistsError): begin_folder(run, templates["good"], {})
    again = run_experiment(templates["good"], {"factor": 2}, settings=settings)
    assert again.path != good.path and again.metrics == good.metrics
    assert before == {path: path.read_bytes() for path in good.path.iterdir()}


# --- runs that do not ---

def test_a_failing_cell(failed, settings, database):
    assert failed.status == "failed" and failed.error == {"cell": 3, "name": "ZeroDivisionError", "text": "division by zero"}
    assert failed.metrics == {"before": 1.0} and json.loads((failed.path/"run.json").read_text())["error"] == failed.error
    row, kept = database.frame("ml_experiments", experiment_id=failed.id).iloc[0], find_run(mlflow_client(settings), failed.id)
    assert row.status == "failed" and kept.info.status == "FAILED"
    assert row.tags["error"] == kept.data.tags["error"] == "code cell 3: ZeroDivisionError: division by zero"
    cells = nbformat.read(failed.path/"failing.ipynb", 4).cells
    assert cells[-1].source == "'never reached'" and cells[-1].execution_count is None and "ZeroDivisionError" in (failed.path/"failing.html").read_text()

def test_a_dead_kernel(templates, settings, database):
    run = run_experiment(templates["dying"], settings=settings)
    assert run.status == "failed" and run.error["cell"] == 3 and run.error["name"] == "DeadKernelError"
    assert database.frame("ml_experiments", experiment_id=run.id).status.tolist() == ["failed"]
    assert "here" in str(nbformat.read(run.path/"dying.ipynb", 4).cells[2].outputs) and (run.path/"dying.html").is_file()


# --- signals and neighbours ---

@pytest.mark.parametrize("seed, kept", [(1, False), (0, True)])
def test_what_the_kernel_complains_of_is_kept_when_the_run_failed(seed, kept, tmp_path, settings):
    "ipykernel may complain at the end of a good run, too, and nobody should find a file for it"
    noisy = write(tmp_path, "noisy", "seed: int = 0", "import os\nos.write(2, b'from the kernel')", "1/seed")
    run = run_experiment(noisy, {"seed": seed}, settings=settings)
    assert (run.path/"kernel.log").is_file() == kept


def alive(process_id):
    try: return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError: return False

@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_stopped_from_outside(number, code, templates, settings, database, tmp_path):
    marker, private = tmp_path/"marker", tmp_path/"t"
    private.mkdir()
    script = f"""
        from alphaplus_ml.experiments import run_experiment
        run_experiment({str(templates['sleeping'])!r}, {{"marker": {str(marker)!r}}}, runs={str(settings.runs)!r})
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(private)})
    deadline = time.monotonic() + 60
    while not (marker.exists() and marker.read_text()) and time.monotonic() < deadline: time.sleep(.05)
    process.send_signal(number)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == code and "never retrieved" not in stderr and "destroyed" not in stderr, stderr
    row = database.frame("ml_experiments", experiment_name="sleeping").iloc[-1]
    folder = Path(row.tags["path"])
    assert row.status == "interrupted" and json.loads((folder/"run.json").read_text())["status"] == "interrupted"
    assert find_run(mlflow_client(settings), row.experiment_id).info.status == "KILLED"
    assert nbformat.read(folder/"sleeping.ipynb", 4).cells[2].source and (folder/"sleeping.html").is_file()
    assert not alive(marker.read_text()), "the kernel is gone"
    assert not list(private.glob("alphaplus_*")), "and so are its sockets"

def test_two_runs_at_once_do_not_meet(templates, settings, tmp_path):
    "Each waits for the other's marker, so both kernels are there at the same time, and each must write into its own run"
    markers, runs = [str(tmp_path/"1"), str(tmp_path/"2")], {}
    def work(mine, other): runs[mine] = run_experiment(templates["waiting"], {"marker": mine, "other": other}, settings=settings)
    threads = [threading.Thread(target=work, args=pair) for pair in (markers, markers[::-1])]
    for thread in threads: thread.start()
    for thread in threads: thread.join(60)
    assert {mine: (run.status, run.metrics) for mine, run in runs.items()} == {mine: ("completed", {"mine": float(mine[-1])}) for mine in markers}
    assert len({run.path for run in runs.values()}) == 2 and "ALPHAPLUS_EXPERIMENT_ID" not in os.environ


# --- refusals: nothing starts ---

@pytest.mark.parametrize("parameters, said", [({"facter": 2.0}, "factor"), ({"factor": "2"}, "'2'"), ({"factor": True}, "float"), ({"n": 2.5}, "int"), ({"fast": 1}, "bool"),
                                              ({"name": 3}, "str"), ({"fast": None}, "bool"), ({"factor": float("inf")}, "inf")])
def test_wrong_parameters_are_refused(parameters, said, templates, tmp_path):
    with pytest.raises(InputError, match=said): run_experiment(templates["good"], parameters, runs=tmp_path/"runs")
    assert not (tmp_path/"runs").exists()

@pytest.mark.parametrize("url", ["postgresql://me:hunter2@server/trials", "see postgresql+psycopg://:hunter2@server"])
def test_a_password_is_no_parameter(url, templates, tmp_path):
    with pytest.raises(InputError, match="holds no password") as caught: run_experiment(templates["good"], {"name": url}, runs=tmp_path/"runs")
    assert "hunter2" not in str(caught.value) and not (tmp_path/"runs").exists()
    assert parse_parameters(templates["good"], ["name=postgresql://me@server/trials"])["name"].endswith("trials")

@pytest.mark.parametrize("source, tagged", [("", 0), ("n: int = 1", 2), ("n = [1]", 1), ("n = 1 + 1", 1), ("n = None", 1), ("n: int = 'x'", 1), ("import os", 1), ("n = m = 1", 1),
                                            ("n: int", 1), ("n = ", 1), ("n: int|str = 1", 1), ("n += 1", 1)])
def test_templates_that_cannot_be_checked_are_refused(source, tagged, tmp_path):
    with pytest.raises(InputError): run_experiment(write(tmp_path, "odd", source, "1", tagged=tagged), runs=tmp_path/"runs")
    assert not (tmp_path/"runs").exists()

def test_templates_that_are_not_there(tmp_path):
    (tmp_path/"broken.ipynb").write_text("{")
    for name in ("no_such_template", tmp_path/"nothing.ipynb", tmp_path/"broken.ipynb"):
        with pytest.raises(InputError): run_experiment(name, runs=tmp_path/"runs")
    assert not (tmp_path/"runs").exists()

@pytest.mark.parametrize("place", ["a_file", "a_file/runs", "/proc/runs"])
def test_a_runs_folder_that_takes_no_files_is_refused(place, templates, tmp_path):
    (tmp_path/"a_file").write_text("")
    with pytest.raises(InputError, match="The runs folder takes files"): run_experiment(templates["good"], runs=tmp_path/place)

def test_an_unreachable_database_is_refused(templates, tmp_path):
    unreachable = Settings(runs=tmp_path/"runs", database_url="postgresql://me:hunter2@127.0.0.1:1/alpha", _env_file=None)
    with pytest.raises(DatabaseError) as caught: run_experiment(templates["good"], settings=unreachable)
    assert "hunter2" not in str(caught.value) and not list((tmp_path/"runs").iterdir())


# --- parameters ---

def test_parameters_are_read_from_the_cell(templates):
    frame = template_parameters(templates["good"])
    assert frame.type.to_dict() == {"factor": "float", "n": "int|None", "name": "str", "fast": "bool"}
    assert frame.help["factor"] == "a factor, a = b" and frame.default["name"] == "it's" and frame.default["n"] is None

def test_annotations_in_every_spelling(tmp_path):
    path = write(tmp_path, "spelled", "from_value = 1.5\na: 'int' = 1\nb: Optional[str] = None\nc: None | float = 2\nd: int = (\n    7  # seven\n)")
    assert {name: (p.type, p.optional) for name, p in read_parameters(path).items()} == {
        "from_value": ("float", False), "a": ("int", False), "b": ("str", True), "c": ("float", True), "d": ("int", False)}

@pytest.mark.parametrize("texts, values", [(["factor=2"], {"factor": 2.0}), (["n=none"], {"n": None}), (["n=7", "fast=No"], {"n": 7, "fast": False}),
                                           (["name=a=b"], {"name": "a=b"}), (["name="], {"name": ""}), ([], {})])
def test_text_becomes_values(texts, values, templates): assert parse_parameters(templates["good"], texts) == values

@pytest.mark.parametrize("text", ["factor=two", "factor=nan", "n=2.5", "fast=1", "factor", "=3", "facter=2", "fast=none"])
def test_wrong_text_is_refused(text, templates):
    with pytest.raises(InputError): parse_parameters(templates["good"], [text])

@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text()))
def test_what_fits_survives_the_command_line(value):
    parameter = Parameter("p", type(value).__name__, False, value, "")
    assert fitted(parameter, value) == value
    assert from_text(parameter, str(value)) == value

def test_every_template_of_the_house_can_be_listed():
    frame = list_templates()
    assert frame.index.is_unique and frame.title.str.len().gt(0).all()


# --- pages ---

def requests(page):
    "Every address that a browser would fetch on its own"
    return re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)\s*=\s*[\"']?\s*((?:https?:)?//[^\"' >]+)", page) + re.findall(r"import\s*\(?\s*[\"'](https?:[^\"']+)", page)

def test_a_page_requests_nothing():
    html = '<script src="https://cdn.example.com/plotly.js"></script><link rel="stylesheet" href="//example.com/a.css"><b>kept</b><script>let kept = 1</script>'
    notebook = new_notebook(cells=[new_markdown_cell("# T\n\n$x^2$"), new_code_cell("1", execution_count=1, outputs=[new_output("display_data", {"text/html": html})])])
    page = stand_alone_html(notebook, "T")
    assert requests(page) == [] and "<b>kept</b>" in page and "let kept = 1" in page and "x^2" in page
    assert page.index("Content-Security-Policy") < page.index("<title>") and "default-src 'none'" in page


# --- looking back ---

def test_listing_and_showing(good, failed, settings, database):
    frame = list_runs(database=database)
    assert frame.index.is_unique and "default" not in frame.index and {good.id, failed.id} <= set(frame.index)
    assert list_runs("failing", database=database).index.tolist() == [failed.id] and len(list_runs(limit=1, database=database)) == 1
    details = show_run(good.id, settings=settings)
    assert (details.status, details.path, details.verdict, details.error) == ("completed", str(good.path), "it's None True", None)
    assert details.parameters["factor"] == 2 and "good.html" in details.artifacts
    assert show_run(failed.id[:-2], database=database).error == "code cell 3: ZeroDivisionError: division by zero"
    with pytest.raises(InputError, match="No run"): show_run(good.id + "0", database=database)
    with pytest.raises(InputError, match="belongs to one run"): show_run("2", database=database)
    with pytest.raises(InputError, match="No run"): show_run("", database=database)

def test_comparisons_of_a_run(good, database):
    database.append("model_performance_comparison", [
        {"comparison_id": f"{good.id}{end}", "comparison_metrics": {"ridge": {"sharpe": 1.0}}, "metadata": {"verdict": "nobody"}} for end in ("", "-control")])
    shown = show_run(good.id, database=database).comparisons
    assert [one["title"] for one in shown] == ["leaderboard", "control"]
    assert shown[0]["leaderboard"] == [{"model": "ridge", "sharpe": 1.0}] and shown[0]["verdict"] == "nobody"
