"Tracked runs: one contract for every back end, and an end on record whatever ends the process."
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, strategies as st

from alphaplus_ml.config import Settings
from alphaplus_ml.core import DatabaseError, InputError, MemoryRecorder, Recorder, RunError
from alphaplus_ml.store.database import Database
from alphaplus_ml.tracking.base import RunFacts, Terminated, Tracker, outcome, trackers
from alphaplus_ml.tracking.start import (ExperimentTrackingConfig, JoinedRun, attach, current_run, default_config, open_database, relay,
                                         start_experiment_tracking)
from alphaplus_ml.tracking.to_database import merged, merged_metrics
from alphaplus_ml.tracking.to_mlflow import find_run, flat, mlflow_client

pytestmark = pytest.mark.usefixtures("mlflow_tables")

members = sorted(trackers)


@pytest.fixture(scope="module")
def settings(tmp_path_factory): return Settings(runs=tmp_path_factory.mktemp("runs"), _env_file=None)

@pytest.fixture(scope="module")
def database(settings):
    with open_database(settings) as opened: yield opened

@pytest.fixture
def start(database, settings):
    def start(*backends, **fields):
        config = ExperimentTrackingConfig(experiment_name="test", backends=backends or ("database",), **fields)
        return start_experiment_tracking(config, database=database, settings=settings)
    return start


def read_database(facts, settings, database):
    row = database.frame("ml_experiments", experiment_id=facts.id).iloc[0]
    return {"status": row.status, "parameter": row.config["parameters"]["a"], "metric": row.metrics["m"], "loss": [v for _, v in row.metrics["history"]["loss"]],
            "tag": row.tags["t"], "error": row.tags.get("error"), "digest": row.config["data"]["panel"]["fingerprint"], "artifact": list(row.artifacts),
            "name": row.experiment_name, "user": row.created_by}

def read_mlflow(facts, settings, database):
    client = mlflow_client(settings)
    run = find_run(client, facts.id)
    statuses = {"FINISHED": "completed", "FAILED": "failed", "KILLED": "interrupted"}
    return {"status": statuses[run.info.status], "parameter": int(run.data.params["a"]), "metric": run.data.metrics["m"],
            "loss": [m.value for m in client.get_metric_history(run.info.run_id, "loss")], "tag": run.data.tags["t"], "error": run.data.tags.get("error"),
            "digest": run.inputs.dataset_inputs[0].dataset.digest, "artifact": [f.path for f in client.list_artifacts(run.info.run_id)],
            "name": client.get_experiment(run.info.experiment_id).name, "user": run.info.user_id}

readers = {"database": read_database, "mlflow": read_mlflow}


# --- the contract, for every registered back end ---

@pytest.mark.parametrize("member", members)
@pytest.mark.parametrize("status, error", [("completed", None), ("failed", "ValueError: a bad value"), ("interrupted", "stopped from the keyboard")])
def test_contract(member, status, error, settings, database, tmp_path):
    facts = RunFacts("contract", config={"parameters": {}}, created_by="somebody")
    tracker = trackers[member](facts, settings, database)
    started = tracker.start()
    assert isinstance(started, dict) and all(isinstance(value, str) for value in started.values())
    tracker.log_parameters({"a": 1, "b": {"c": "x"}})
    tracker.log_data("panel", {"fingerprint": "0123456789abcdef", "rows": 3, "columns": ["close"]})
    joined = trackers[member](facts, settings, database)      # another process, which knows the id only
    joined.log_metrics({"m": math.nan}); joined.log_metrics({"m": 2.5})
    for step in (0, 1): joined.log_metrics({"loss": 1.0 - step/2}, step)
    (tmp_path/"note.txt").write_text("a note")
    joined.log_artifact(tmp_path/"note.txt")
    joined.set_tags({"t": "old"}); joined.set_tags({"t": "new"})
    tracker.finish(status, error)
    if member in readers:
        assert readers[member](facts, settings, database) == {
            "status": status, "parameter": 1, "metric": 2.5, "loss": [1.0, .5], "tag": "new", "error": error, "digest": "0123456789abcdef",
            "artifact": ["note.txt"], "name": "contract", "user": "somebody"}


@pytest.mark.parametrize("member", members)
def test_writing_to_a_run_that_never_started_is_an_error(member, settings, database):
    with pytest.raises(InputError): trackers[member](RunFacts("contract"), settings, database).log_metrics({"m": 1.0})


json_trees = st.dictionaries(st.text(max_size=3), st.recursive(st.integers(), lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=5), max_size=4)

@given(json_trees, json_trees)
def test_merging_keeps_everything_new(old, new):
    both = merged(old, new)
    assert set(both) == set(old) | set(new) and merged(both, new) == both and merged({}, new) == new
    assert {name: both[name] for name in old if name not in new} == {name: old[name] for name in old if name not in new}

@given(json_trees)
def test_flat_parameters_suit_mlflow(tree):
    from mlflow.utils.validation import _validate_param
    for name, value in flat({f"p{key}": one for key, one in tree.items()}).items():
        assert len(name) <= 250 and isinstance(value, str)
        if name.strip("./ ") == name and "//" not in name and "." not in name: _validate_param(name, value)

def test_a_number_after_nan_clears_the_mark():
    assert merged_metrics({"m": None, "not_finite": ["m"]}, {"m": 1.0}) == {"m": 1.0}


# --- one id, the same facts ---

def test_sql_and_mlflow_tell_the_same(start, database, settings):
    with start("database", "mlflow", tags={"desk": "equities"}) as run:
        run.log_parameters({"horizon": 5}); run.log_metrics({"rank_ic": .03})
        with run.child() as child: child.log_metrics({"rank_ic": .01})
    for each in (run, child):
        row, kept = database.frame("ml_experiments", experiment_id=each.id).iloc[0], find_run(mlflow_client(settings), each.id)
        assert row.status == "completed" and kept.info.status == "FINISHED" and kept.info.run_name == each.id
        assert row.metrics == kept.data.metrics and row.tags["mlflow_run_id"] == kept.info.run_id
        assert abs(row.started_at.timestamp()*1000 - kept.info.start_time) < 1 and row.completed_at >= row.started_at and row.duration_seconds > 0
        assert {"host", "process_id", "heartbeat", "python"} <= set(row.tags) & set(kept.data.tags)
    parent = find_run(mlflow_client(settings), run.id)
    assert kept.data.tags["mlflow.parentRunId"] == parent.info.run_id and row.parent_experiment_id == run.id
    assert parent.data.params == {"horizon": "5"} and parent.data.tags["desk"] == "equities"
    columns = set(database.frame("ml_experiments", experiment_id=child.id).dropna(axis="columns").columns)
    assert columns == set(database.frame("ml_experiments").columns), "every column is filled"

def test_a_run_is_a_recorder(start, database):
    with start() as run:
        assert isinstance(run, Recorder) and isinstance(attach(run.id, database=database), Recorder)
        run.append("model_performance_comparison", [{"comparison_id": run.id}])
        assert run.update("model_performance_comparison", {"comparison_id": run.id}, {"winner_model": "ridge"}) == 1
        assert run.frame("model_performance_comparison", comparison_id=run.id).winner_model.tolist() == ["ridge"]

def in_blocks(id, n, fails_at=None):
    "Rows as a generator makes them: frames and lists in turn"
    for k in range(n):
        if k == fails_at: raise ZeroDivisionError
        rows = [{"comparison_id": id, "dataset_size": 10*k + i, "statistical_significance": None if i else .5} for i in range(3)]
        yield pd.DataFrame(rows) if k % 2 else rows

@pytest.mark.parametrize("kind", ["memory", "started run", "joined run"])
def test_recorders_take_rows_in_blocks(kind, start, database):
    "A frame, an iterator of frames and lists, an iterator of dictionaries; all of it or nothing"
    with start() as run:
        recorder = {"memory": MemoryRecorder(), "started run": run, "joined run": attach(run.id, database=database)}[kind]
        numbers = lambda: recorder.frame("model_performance_comparison", comparison_id=run.id)
        with pytest.raises(ZeroDivisionError): recorder.append("model_performance_comparison", in_blocks(run.id, 4, fails_at=3))
        assert numbers().empty
        assert recorder.append("model_performance_comparison", in_blocks(run.id, 4)) == 12
        assert recorder.append("model_performance_comparison", pd.DataFrame({"comparison_id": [run.id], "dataset_size": [40], "statistical_significance": [math.nan]}, index=[9])) == 1
        assert recorder.append("model_performance_comparison", ({"comparison_id": run.id, "dataset_size": size} for size in (41, 42))) == 2
        assert recorder.append("model_performance_comparison", iter([])) == 0
        assert numbers().dataset_size.tolist() == [10*k + i for k in range(4) for i in range(3)] + [40, 41, 42]
        assert numbers().statistical_significance.count() == 4
        with pytest.raises(InputError): recorder.append("model_performance_comparison", {"comparison_id": run.id})

def test_a_run_goes_on_while_rows_are_made(start, caplog):
    "Neither its metrics nor its heartbeat wait for a write whose rows are still being made"
    with start(heartbeat=.02) as run:
        def making():
            for block in in_blocks(run.id, 3):
                yield block
                run.log_metrics({"made": 1.0})
                before, deadline = run.row()["tags"]["heartbeat"], time.monotonic() + 10
                while run.row()["tags"]["heartbeat"] == before and time.monotonic() < deadline: time.sleep(.05)
                assert run.row()["tags"]["heartbeat"] != before
        assert run.append("model_performance_comparison", making()) == 9 and run.row()["metrics"]["made"] == 1.0
    assert not caplog.records

def test_no_config_means_the_default_row(settings, database, monkeypatch):
    with start_experiment_tracking(database=database, settings=settings) as run: pass
    assert run.config == default_config(database) and run.facts.name == "default"
    changed = {"experiment_name": "team", "backends": ["database"]}
    monkeypatch.setattr("alphaplus_ml.tracking.start.default_config", lambda database: ExperimentTrackingConfig(**changed))
    with start_experiment_tracking(database=database, settings=settings) as run: assert run.facts.name == "team"


# --- how runs end ---

@pytest.mark.parametrize("error, status, mlflow", [(KeyboardInterrupt(), "interrupted", "KILLED"), (Terminated(), "interrupted", "KILLED"),
                                                   (SystemExit(0), "completed", "FINISHED"), (SystemExit("no"), "failed", "FAILED"), (ValueError("x"), "failed", "FAILED")])
def test_what_leaves_the_block_decides(error, status, mlflow, start, settings):
    with pytest.raises(type(error)):
        with start("database", "mlflow") as run: raise error
    assert run.status == run.row()["status"] == status == outcome(error)[0]
    assert find_run(mlflow_client(settings), run.id).info.status == mlflow

program = """
    import os, signal, sys, threading, time
    from alphaplus_ml.tracking.start import ExperimentTrackingConfig, start_experiment_tracking, current_run
    config = ExperimentTrackingConfig(experiment_name={name!r}, backends=["database"])
    {code}
"""
block = "with start_experiment_tracking(config) as run: "
endings = {
    "returns": (block + "pass", 0, "completed"),
    "raises": (block + "1/0", 1, "failed"),
    "exits": (block + "sys.exit(0)", 0, "completed"),
    "exits_with_code": (block + "sys.exit(3)", 3, "failed"),
    "sigterm": (block + "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", 143, "interrupted"),
    "sigterm_twice": (block + "threading.Timer(.2, lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(2)]).start(); time.sleep(60)", 143, "interrupted"),
    "sigint": (block + "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -signal.SIGINT, "interrupted"),
    "never_finished": ("run = start_experiment_tracking(config)", 0, "interrupted"),
    "never_finished_raises": ("run = start_experiment_tracking(config); 1/0", 1, "failed"),
    "sigterm_without_block": ("run = start_experiment_tracking(config); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", 143, "interrupted"),
    "finished": ("run = current_run('finished'); run.finish('failed', 'on purpose')", 0, "failed"),
    "forks": (block + "child = os.fork(); child or (run.finish('failed', 'in the child'), os._exit(0)); child and os.waitpid(child, 0)", 0, "completed"),
}

@pytest.fixture(scope="module")
def ended(settings, database):
    "Every ending, in a process of its own; four at a time"
    env = {**os.environ, "ALPHAPLUS_RUNS": str(settings.runs)}
    env.pop("ALPHAPLUS_EXPERIMENT_ID", None)
    start = lambda name, code: subprocess.Popen([sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program).format(name=name, code=code)], env=env, stderr=subprocess.PIPE, text=True, cwd=settings.runs)
    names, results = list(endings), {}
    for place in range(0, len(names), 4):
        running = {name: start(name, endings[name][0]) for name in names[place:place + 4]}
        for name, process in running.items():
            stderr = process.communicate(timeout=60)[1]
            results[name] = process.returncode, stderr
    return results

@pytest.mark.parametrize("name", endings)
def test_the_end_is_written_whatever_ends_the_process(name, ended, database):
    code, stderr = ended[name]
    row = database.frame("ml_experiments", experiment_name=name).iloc[0]
    assert (code, row.status) == endings[name][1:], stderr
    assert row.completed_at >= row.started_at and ("error" in row.tags) == (row.status != "completed")

def test_a_traceback_is_kept(ended, database):
    tags = database.frame("ml_experiments", experiment_name="raises").iloc[0].tags
    assert tags["error"] == "ZeroDivisionError: division by zero" and "Traceback" in tags["traceback"]

def test_signal_handlers_are_put_back(start):
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with start() as outer:
        ours = signal.getsignal(signal.SIGTERM)
        with outer.child(): assert signal.getsignal(signal.SIGTERM) is ours is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is ours
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

def test_a_handler_of_the_user_stays(start):
    mine = lambda number, frame: None
    signal.signal(signal.SIGTERM, mine)
    try:
        with start(): assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGTERM) is mine
    finally: signal.signal(signal.SIGTERM, signal.SIG_DFL)

def test_only_the_first_end_counts(start):
    with start() as run: run.finish("interrupted", "enough")
    assert run.row()["status"] == "interrupted" and run.row()["tags"]["error"] == "enough"

def test_an_unknown_end_is_refused(start):
    with start() as run:
        with pytest.raises(InputError, match="ends as"): run.finish("done")
    assert run.status == "completed"


# --- several writers, several back ends ---

def test_heartbeat_goes_on(start):
    with start(heartbeat=.05) as run:
        run.set_tags({"heartbeat": "long ago"})
        deadline = time.monotonic() + 10
        while run.row()["tags"]["heartbeat"] == "long ago" and time.monotonic() < deadline: time.sleep(.05)
        assert run.row()["tags"]["heartbeat"] != "long ago"
    beats = run.row()["tags"]["heartbeat"]
    time.sleep(.2)
    assert run.row()["tags"]["heartbeat"] == beats, "the heart stops with the run"

def test_writers_do_not_take_back_each_others_facts(start, settings):
    with start() as run:
        guests = [attach(run.id, database=Database(settings.resolved_database_url())) for _ in range(3)]
        work = lambda guest, place: [guest.log_metrics({f"m{place}_{i}": i}) for i in range(15)]
        threads = [threading.Thread(target=work, args=(guest, place)) for place, guest in enumerate(guests)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert run.row()["metrics"] == {f"m{place}_{i}": i for place in range(3) for i in range(15)}

@pytest.fixture
def breaking(monkeypatch):
    "A back end that starts and then fails"
    class Breaking(Tracker):
        def log_metrics(self, metrics, step=None): raise OSError("disk full at postgresql://me:hunter2@db/x")
        def finish(self, status, error=None): raise OSError("disk full")
    monkeypatch.setitem(trackers._members, "breaking", Breaking)

def test_one_back_end_fails_and_the_other_keeps_the_run(breaking, start, caplog):
    with start("breaking", "database") as run: run.log_metrics({"m": 1.0})
    row = run.row()
    assert row["status"] == "completed" and row["metrics"] == {"m": 1.0}
    assert "disk full" in row["tags"]["tracking_problems"] and "disk full" in caplog.text
    assert "hunter2" not in row["tags"]["tracking_problems"] + caplog.text

def test_no_back_end_left_is_an_error(breaking, start):
    with pytest.raises(RunError, match="in no back end"):
        with start("breaking"): pass

def test_a_back_end_that_cannot_start_is_refused(start, database, settings, monkeypatch):
    broken = settings.model_copy(update={"mlflow_uri": Settings(mlflow_uri="sqlite:////proc/nowhere/mlflow.db", _env_file=None).mlflow_uri})
    config = ExperimentTrackingConfig(experiment_name="refused", backends=("database", "mlflow"))
    with pytest.raises(InputError, match="'mlflow'"): start_experiment_tracking(config, database=database, settings=broken)
    assert database.frame("ml_experiments", experiment_name="refused").status.tolist() == ["failed"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

def test_an_unreachable_database_is_refused(tmp_path):
    unreachable = Settings(runs=tmp_path, database_url="postgresql://me:hunter2@127.0.0.1:1/alpha", _env_file=None)
    with pytest.raises(DatabaseError) as caught: start_experiment_tracking(settings=unreachable)
    assert "hunter2" not in str(caught.value) and not list(tmp_path.iterdir())


# --- joining ---

def test_joined_runs_are_ended_by_their_owner(start, database, settings, monkeypatch):
    with start("database", "mlflow") as owner:
        monkeypatch.setenv("ALPHAPLUS_EXPERIMENT_ID", owner.id)
        monkeypatch.setenv("ALPHAPLUS_RUNS", str(settings.runs))
        with current_run("another") as guest:
            assert type(guest) is JoinedRun and guest.id == owner.id
            guest.log_metrics({"m": math.nan, "n": 1}); guest.log_metrics({"loss": .5}, step=0); guest.log_metrics({"loss": .25}, step=1)
            guest.log_data(pd.DataFrame({"close": [1., 2.]})); guest.log_text("verdict", "nothing"); guest.log_parameters({"late": True})
        guest.finish()
        assert owner.row()["status"] == "running"
        with guest.child() as part: assert part.config.backends == ("database", "mlflow")
        relay(owner)
    client = mlflow_client(settings)
    kept = find_run(client, owner.id)
    assert kept.data.params == {"late": "True"} and kept.data.metrics["n"] == 1 and math.isnan(kept.data.metrics["m"])
    assert [(m.step, m.value) for m in client.get_metric_history(kept.info.run_id, "loss")] == [(0, .5), (1, .25)]
    assert kept.data.tags["verdict"] == "nothing" and len(kept.inputs.dataset_inputs) == 1

def test_unknown_and_ended_runs_are_not_joined(start, database, settings):
    with start() as run: pass
    with pytest.raises(InputError, match="is completed"): attach(run.id, database=database)
    with pytest.raises(InputError, match=run.id): attach(run.id[:-1] + "x", database=database)
    with pytest.raises(InputError, match="No run"): start(parent="20000101T000000_00000000")


# --- refusals ---

@pytest.mark.parametrize("fields, said", [({"backends": ["mlflo"]}, "mlflow"), ({"backends": []}, "backends"), ({"experiment_name": ""}, "experiment_name"),
                                          ({"heartbeat": 0}, "heartbeat"), ({"experimentname": "x"}, "experimentname")])
def test_bad_configurations_are_refused(fields, said):
    with pytest.raises(InputError, match=said): ExperimentTrackingConfig(**fields)

@pytest.mark.parametrize("metrics", [{"m": "text"}, {"m": None}, {"m": [1, 2]}, {1: 2.0}, {"": 1.0}])
def test_metrics_are_numbers(metrics, start):
    with start() as run:
        with pytest.raises(InputError): run.log_metrics(metrics)
    assert run.row()["metrics"] == {} and run.back_ends.problems == []

def test_an_artifact_is_a_file(start, tmp_path):
    with start() as run:
        with pytest.raises(InputError, match="file that exists"): run.log_artifact(tmp_path/"nothing")


def test_processes_that_meet_in_a_new_folder_make_the_tables_once(tmp_path):
    "MLflow's migrations break each other when two processes run them at once"
    code = """import sys, time
from pathlib import Path
from alphaplus_ml.config import Settings
from alphaplus_ml.tracking.to_mlflow import experiment_for, mlflow_client
from mlflow import MlflowClient
settings = Settings(runs=Path(sys.argv[1]), database_url=None, mlflow_uri=None, _env_file=None)
Path(sys.argv[1], f"ready_{sys.argv[2]}").touch()
while len(list(Path(sys.argv[1]).glob("ready_*"))) < 3: time.sleep(0.01)
print(experiment_for(mlflow_client(settings), "together", settings))"""
    racing = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(k)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for k in range(3)]
    ended = [(*process.communicate(timeout=120), process.returncode) for process in racing]
    assert [code for *_, code in ended] == [0, 0, 0], ended
    assert {said.strip() for said, *_ in ended} == {"1"}


def test_tracking_never_uses_the_network(settings):
    "A tracked run in a process in which every connection but to a local socket fails"
    code = """
        import socket, sys
        def refuse(self, address):
            if self.family != socket.AF_UNIX: print("CONNECT", address, flush=True); raise OSError("no network here")
        def unknown(host, *others, **more): print("LOOK UP", host, flush=True); raise socket.gaierror("no network here")
        socket.socket.connect = socket.socket.connect_ex = refuse
        socket.getaddrinfo = unknown
        from alphaplus_ml.tracking.start import ExperimentTrackingConfig, start_experiment_tracking
        with start_experiment_tracking(ExperimentTrackingConfig(experiment_name="offline")) as run: run.log_metrics({"m": 1.0})
        print("fluent", sys.modules["mlflow"].active_run())
    """
    env = {name: value for name, value in os.environ.items() if name not in ("PYTEST_CURRENT_TEST", "CI", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env={**env, "ALPHAPLUS_RUNS": str(settings.runs)}, capture_output=True, text=True, cwd=settings.runs, timeout=60)
    assert done.returncode == 0 and done.stdout == "fluent None\n" and done.stderr == "", done.stdout + done.stderr
    assert not (Path(settings.runs)/"mlruns").exists()
