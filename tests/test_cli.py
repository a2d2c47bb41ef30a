"The command as a shell meets it: exit codes, one sentence per refusal, no traceback."
import subprocess
import sys
from pathlib import Path

import pytest

from alphaplus_ml import cli

pytestmark = pytest.mark.usefixtures("mlflow_tables")

command = str(Path(sys.executable).parent/"alphaplus")


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALPHAPLUS_RUNS", str(tmp_path/"runs"))
    for name in ("ALPHAPLUS_DATABASE_URL", "ALPHAPLUS_MLFLOW_URI", "ALPHAPLUS_EXPERIMENT_ID"): monkeypatch.delenv(name, raising=False)


def outcome(capsys, *words):
    "Exit code, standard output and standard error of one command"
    try: cli.main(list(words))
    except SystemExit as end: code = end.code or 0
    else: code = 0
    return code, *capsys.readouterr()


def test_console_script_knows_version_and_help():
    done = subprocess.run([command, "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("alphaplus_ml ")
    shown = subprocess.run([command, "--help"], capture_output=True, text=True).stdout
    assert all(name in shown for name in ("run", "runs", "show", "summary", "verify", "db", "templates"))


@pytest.mark.parametrize("words, says", [
    (["run", "market_studdy"], "market_study"),
    (["run", "market_study", "-p", "n_trails=3"], "n_trials"),
    (["run", "market_study", "-p", "n_trials=many"], "n_trials"),
    (["run", "market_study", "-p", "n_trials"], "n_trials"),
    (["run", "nowhere.ipynb"], "nowhere.ipynb"),
    (["show", "19990101"], "19990101"),
    (["run", "market_study", "--runs", "/proc/nowhere"], "/proc/nowhere"),
])
def test_refusals_end_with_2_before_work_starts(capsys, words, says, tmp_path):
    code, out, error = outcome(capsys, *words)
    assert code == 2 and says in error and error.startswith("Error: ") and "Traceback" not in error
    assert not list((tmp_path/"runs").glob("market_study/*"))


def test_debug_brings_the_traceback_back():
    with pytest.raises(Exception, match="market_study"): cli.main(["--debug", "run", "market_studdy"])


def test_unreachable_database_hides_the_password(capsys, monkeypatch):
    monkeypatch.setenv("ALPHAPLUS_DATABASE_URL", "postgresql+psycopg://me:hunter2@127.0.0.1:1/nothing")
    code, out, error = outcome(capsys, "db", "status")
    assert code == 2 and "127.0.0.1" in error and "hunter2" not in out + error


def test_database_commands(capsys):
    assert outcome(capsys, "db", "upgrade")[0] == 0
    assert "up to date" in outcome(capsys, "db", "upgrade")[1]
    assert outcome(capsys, "db", "check")[0] == 0
    assert "hyperparameter_optimization" in outcome(capsys, "db", "status")[1]


def test_a_failing_template_ends_with_1_and_is_listed(capsys, tmp_path):
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook
    parameters = new_code_cell("seed: int = 0  # a seed", metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[parameters, new_code_cell("1 / seed")]), tmp_path/"halves.ipynb")
    code, out, error = outcome(capsys, "run", str(tmp_path/"halves.ipynb"))
    assert code == 1 and "ZeroDivisionError" in error and "failed" in out
    code, out, error = outcome(capsys, "runs")
    assert code == 0 and "failed" in out
    code, out, error = outcome(capsys, "run", str(tmp_path/"halves.ipynb"), "-p", "seed=2")
    assert code == 0 and "completed" in out
    run_id = out.strip().split("\n")[-1].split(":")[0]
    assert "seed" in outcome(capsys, "show", run_id)[1]


def test_summary_counts_and_lists(capsys):
    outcome(capsys, "db", "upgrade")
    code, out, error = outcome(capsys, "summary")
    assert code == 0 and "ml_experiments" in out and "lightgbm" in out


def test_verify_says_what_is_not_built(capsys):
    code, out, error = outcome(capsys, "verify")
    lines = out.strip().split("\n")
    assert code == 1 and lines[-1] == "6 of 8 checks passed"
    assert [line.split(":")[0] for line in lines if line.startswith("FAILED")] == ["FAILED sequence model", "FAILED ensemble"]


holes = "date,symbol,open,high,low,close,volume\n2024-01-02,ACME,10,11,9,10.5,1000\n2024-01-03,ACME,10.5,,10,10.2,900\n2024-01-04,ACME,10.2,10.9,10.1,10.8,1200\n"


def test_check_says_what_was_read_and_refuses_broken_bars(capsys, tmp_path):
    (tmp_path/"bars.csv").write_text(holes)
    code, out, error = outcome(capsys, "check", "bars.csv")
    assert code == 2 and "naive, taken as UTC" in out and "2024-01-03" in out and "--repair nulls=drop" in error and "Traceback" not in error


def test_check_repairs_what_it_was_asked_to_and_keeps_it(capsys, tmp_path):
    from alphaplus_ml.market.sources import load_market
    (tmp_path/"bars.csv").write_text(holes)
    code, out, error = outcome(capsys, "check", "bars.csv", "--repair", "nulls=drop", "--rows", "--output", "good.parquet")
    assert code == 0 and error == "" and "2 bars" in out
    assert load_market(tmp_path/"good.parquet").equals(load_market(tmp_path/"bars.csv").dropna())


def test_check_holds_a_second_source_against_the_first(capsys, tmp_path):
    from alphaplus_ml.market.sources import load_market
    panel = load_market("planted", n_symbols=4, n_bars=80)
    panel.reset_index().to_parquet(tmp_path/"one.parquet")
    wrong = panel.copy()
    wrong.iloc[200, :4] *= 1.05
    wrong.reset_index().to_parquet(tmp_path/"two.parquet")
    code, out, error = outcome(capsys, "check", "one.parquet", "--against", "two.parquet")
    assert code == 0 and "320 rows of 4 symbols in common" in out and "price: 1 rows of 1 symbols disagree" in out


@pytest.mark.parametrize("words, says", [(["--repair", "nulls"], "RULE=REPAIR"), (["--repair", "nuls=drop"], "nulls"), (["--repair", "nulls=fill"], "drop"), (["--output", "x.csv"], ".parquet"),
                                         (["--against", "nowhere.csv"], "nowhere.csv"), (["--output", "nowhere/x.parquet"], "nowhere")])
def test_what_check_cannot_do_is_refused(capsys, words, says):
    code, out, error = outcome(capsys, "check", "sp500", *words)
    assert code == 2 and says in error and "Traceback" not in error


def test_repairs_complete_in_the_shell():
    assert "nulls=drop" in cli.complete_repair("nul") and all("=" in pair for pair in cli.complete_repair(""))
