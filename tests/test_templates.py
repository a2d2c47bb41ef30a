"Every template leaves its records: in its folder, in SQL and in MLflow, on both databases."
import json
from pathlib import Path

import pytest

from alphaplus_ml.config import Settings, sqlite_url
from alphaplus_ml.docs import site as docs_site
from alphaplus_ml.experiments import Run, run_experiment
from alphaplus_ml.store.database import Database
from alphaplus_ml.tracking.to_mlflow import mlflow_client

pytestmark = pytest.mark.usefixtures("mlflow_tables")

root = Path(__file__).parent.parent
filled = ("hyperparameter_optimization", "model_interpretability", "ml_experiments", "advanced_feature_engineering", "model_performance_comparison")
templates = sorted(path.stem for path in (root/"nbs"/"experiments").glob("*.ipynb"))


@pytest.fixture(scope="module", params=templates)
def finished(request, built_site):
    "Every template as the site shows it: run by the command, with its own defaults or those of `make run`, on embedded SQLite"
    kept = docs_site.experiment_run(root/"nbs"/"experiments"/f"{request.param}.ipynb", root/"build"/"docs"/"experiments")
    path = next(kept.glob(f"{request.param}/*/"))
    told = {name: json.loads((path/f"{name}.json").read_text()) for name in ("run", "metrics")}
    settings = Settings(runs=kept, database_url=None, mlflow_uri=None, _env_file=None)
    return settings, Run(told["run"]["id"], path, told["run"]["status"], told["metrics"], told["run"]["error"])


def read_back(database, settings, run):
    "The facts of a run, from SQL and from MLflow"
    counts = database.counts()
    row = database.frame("ml_experiments", experiment_id=run.id).iloc[0]
    tracked = mlflow_client(settings).get_run(row.tags["mlflow_run_id"])
    return counts, row, tracked


def check_records(counts, row, tracked, run):
    "One run, the same in its folder, in SQL and in MLflow"
    assert run.status == row.status == "completed" and tracked.info.status == "FINISHED"
    assert tracked.data.tags["alphaplus.experiment_id"] == run.id and row.metrics == run.metrics
    finite = {name: value for name, value in row.metrics.items() if isinstance(value, (int, float))}
    assert all(tracked.data.metrics[name] == pytest.approx(value) for name, value in finite.items())
    assert finite and (row.experiment_name != "market_study" or all(counts[table] > 0 for table in filled))


def test_template_leaves_folder_rows_and_mlflow_run(finished):
    settings, run = finished
    assert run.status == "completed", run.error
    database = Database(sqlite_url(settings.runs/"alphaplus.db"))
    check_records(*read_back(database, settings, run), run)
    name = run.path.parent.name
    assert {f"{name}.ipynb", f"{name}.html", "params.json", "metrics.json", "environment.txt", "data.json", "run.json"} <= {path.name for path in run.path.iterdir()}
    page = (run.path/f"{name}.html").read_text()
    assert "<script src=\"http" not in page and "<link rel=\"stylesheet\" href=\"http" not in page


def test_template_on_postgresql(postgres_url, tmp_path):
    settings = Settings(runs=tmp_path, database_url=postgres_url, mlflow_uri=sqlite_url(tmp_path/"mlflow.db"), _env_file=None)
    run = run_experiment("market_study", {"n_trials": 2, "control": False, "start": "2012-01-01"}, settings=settings)
    assert run.status == "completed", run.error
    assert json.loads((run.path/"metrics.json").read_text()) == run.metrics
    with Database(postgres_url) as database: counts, row, tracked = read_back(database, settings, run)
    check_records(counts, row, tracked, run)
