"The store on both databases: its schema beside the table of the design, round trips, transactions, several processes, and what it refuses."
import json
import math
import os
import pickle
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alphaplus_ml.config import sqlite_url
from alphaplus_ml.core import DatabaseError, InputError
from alphaplus_ml.store.database import Database, revisions
from alphaplus_ml.store.schema import tables
from alphaplus_ml.store.writing import fit, fit_column

designed = {
    "hyperparameter_optimization": """model_name VARCHAR, optimization_id VARCHAR, trial_number INTEGER, hyperparameters JSONB, objective_value FLOAT,
        objective_name VARCHAR, optimization_status VARCHAR, training_duration_seconds FLOAT, validation_metrics JSONB, best_trial BOOLEAN""",
    "model_interpretability": """model_name VARCHAR, model_version VARCHAR, prediction_id VARCHAR, feature_name VARCHAR, feature_value FLOAT,
        shap_value FLOAT, lime_value FLOAT, eli5_value FLOAT, feature_importance_rank INTEGER, interpretation_type VARCHAR, sample_id VARCHAR,
        metadata JSONB""",
    "ml_experiments": """experiment_id VARCHAR, experiment_name VARCHAR, experiment_type VARCHAR, status VARCHAR, config JSONB, metrics JSONB,
        artifacts JSONB, parent_experiment_id VARCHAR, tags JSONB, created_by VARCHAR, started_at TIMESTAMPTZ, completed_at TIMESTAMPTZ,
        duration_seconds FLOAT""",
    "advanced_feature_engineering": """feature_name VARCHAR, feature_type VARCHAR, feature_category VARCHAR, feature_description TEXT,
        feature_formula TEXT, parameters JSONB, importance_score FLOAT, correlation_with_target FLOAT, feature_drift_score FLOAT, is_active BOOLEAN,
        created_by VARCHAR, version VARCHAR, metadata JSONB""",
    "transformer_models": """model_name VARCHAR, model_type VARCHAR, model_config JSONB, tokenizer_config JSONB, training_config JSONB,
        model_size_mb FLOAT, parameters_count BIGINT, max_sequence_length INTEGER, vocabulary_size INTEGER, embedding_dimension INTEGER,
        num_layers INTEGER, num_heads INTEGER, dropout_rate FLOAT, learning_rate FLOAT, batch_size INTEGER, epochs_trained INTEGER,
        is_fine_tuned BOOLEAN, base_model VARCHAR, fine_tuning_config JSONB, performance_metrics JSONB, model_path VARCHAR, is_active BOOLEAN""",
    "ensemble_models": """ensemble_name VARCHAR, ensemble_type VARCHAR, base_models JSONB, ensemble_config JSONB, weighting_strategy VARCHAR,
        base_model_weights JSONB, ensemble_performance JSONB, is_active BOOLEAN, created_by VARCHAR, version VARCHAR, metadata JSONB""",
    "feature_selection_history": """selection_id VARCHAR, model_name VARCHAR, selection_method VARCHAR, selected_features JSONB,
        feature_scores JSONB, selection_threshold FLOAT, total_features INTEGER, selected_count INTEGER, performance_impact JSONB, is_active BOOLEAN,
        created_by VARCHAR, metadata JSONB""",
    "model_performance_comparison": """comparison_id VARCHAR, model_names JSONB, comparison_metrics JSONB, test_period_start TIMESTAMPTZ,
        test_period_end TIMESTAMPTZ, dataset_size INTEGER, comparison_method VARCHAR, winner_model VARCHAR, statistical_significance FLOAT,
        confidence_interval JSONB, created_by VARCHAR, metadata JSONB""",
}
designed = {name: dict(column.split() for column in text.split(",")) for name, text in designed.items()}
on_postgresql = {"VARCHAR": "character varying", "TEXT": "text", "INTEGER": "integer", "BIGINT": "bigint", "FLOAT": "double precision",
                 "BOOLEAN": "boolean", "JSONB": "jsonb", "TIMESTAMPTZ": "timestamp with time zone"}
on_sqlite = {**{name: name for name in on_postgresql}, "FLOAT": "REAL", "JSONB": "JSON", "TIMESTAMPTZ": "TIMESTAMP"}
samples = {"VARCHAR": "Zürich 東京 🚀", "TEXT": "a\tb\nc\\d \\N \\. \"q\" 'q' %s :x ?", "INTEGER": -2**31, "BIGINT": 2**63 - 1, "FLOAT": 0.1 + 0.2, "BOOLEAN": False,
           "JSONB": {"κ": [1, 2.5, None, True, "\\\"\n\t", {"deep": []}]}, "TIMESTAMPTZ": datetime(2024, 2, 29, 23, 59, 59, 999999, timezone.utc)}
dtypes = {"VARCHAR": "str", "TEXT": "str", "INTEGER": "int64", "BIGINT": "int64", "FLOAT": "float64", "BOOLEAN": "bool", "JSONB": "object",
          "TIMESTAMPTZ": "datetime64[us, UTC]"}
slow = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sql(database, text, **values):
    "Plain SQL, around the library"
    with database.engine.begin() as connection:
        result = connection.execute(sa.text(text), values)
        return result.all() if result.returns_rows else None


def live_columns(database):
    "table -> column -> (type, may be null), as the database itself says"
    found = {}
    for name in designed:
        if database.backend == "sqlite": rows = [(r[1], r[2], not r[3]) for r in sql(database, f"PRAGMA table_info({name})")]
        else: rows = sql(database, "SELECT column_name, data_type, is_nullable = 'YES' FROM information_schema.columns WHERE table_schema = 'public' "
                                   "AND table_name = :name ORDER BY ordinal_position", name=name)
        found[name] = {column: (kind, null) for column, kind, null in rows}
    return found


def test_schema_is_the_designed_one(database):
    types = on_sqlite if database.backend == "sqlite" else on_postgresql
    expected = {name: {"id": (types["INTEGER"], False), "timestamp": (types["TIMESTAMPTZ"], False), **{column: (types[kind], True) for column, kind in columns.items()}}
                for name, columns in designed.items()}
    assert live_columns(database) == expected and all([*columns][:2] == ["id", "timestamp"] for columns in live_columns(database).values())
    assert set(sa.inspect(database.engine).get_table_names()) == {*designed, "alembic_version"}


def test_keys_and_indexes(database):
    inspector = sa.inspect(database.engine)
    indexes = {name: inspector.get_indexes(name) for name in designed}
    assert {name: len(found) for name, found in indexes.items()} == dict.fromkeys(designed, 3)
    assert [one["column_names"] for found in indexes.values() for one in found if one["unique"]] == [["experiment_id"]]
    assert {name: inspector.get_pk_constraint(name)["constrained_columns"] for name in designed} == dict.fromkeys(designed, ["id"])
    if database.backend == "postgresql":
        assert len(sql(database, "SELECT 1 FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'")) == 24 + 8
        defaults = dict(sql(database, "SELECT column_name, column_default FROM information_schema.columns WHERE table_name = 'ensemble_models' AND column_default IS NOT NULL"))
        assert defaults == {"id": "nextval('ensemble_models_id_seq'::regclass)", "timestamp": "now()"}


def test_default_rows(database):
    assert database.counts().to_dict() == dict.fromkeys(designed, 0)
    homes = {"transformer_models": "model_name", "ensemble_models": "ensemble_name", "ml_experiments": "experiment_id"}
    assert database.counts(defaults=True).to_dict() == {name: int(name in homes) for name in designed}
    for table, column in homes.items(): assert database.frame(table)[column].tolist() == ["default"]
    assert not database.frame("transformer_models").is_active.any() and not database.frame("ensemble_models").is_active.any()
    for table, column in homes.items():
        with pytest.raises(InputError, match="came with the tables"): database.append(table, [{column: "mine"}, {column: "default"}])
        assert database.append(table, [{column: "mine"}]) == 1 and database.counts()[table] == 1
        with pytest.raises(InputError, match="came with the tables"): database.update(table, {column: "mine"}, {column: "default"})


def test_upgrade_twice(empty_url):
    with Database(empty_url) as database:
        assert database.status()["pending"] == revisions() and database.status()["rows"] == {}
        with pytest.raises(DatabaseError, match="alphaplus db upgrade"): database.frame("ml_experiments")
        with pytest.raises(DatabaseError, match="0001"): database.append("ml_experiments", [{"experiment_id": "a"}])
        assert database.check()
        assert database.upgrade() == revisions()
        before = live_columns(database), sql(database, "SELECT * FROM ml_experiments")
        assert database.upgrade() == [] and Database(empty_url).upgrade() == []
        assert before == (live_columns(database), sql(database, "SELECT * FROM ml_experiments"))
        state = database.status()
        assert (state["current"], state["pending"], state["rows"]) == (revisions()[-1], [], dict.fromkeys(designed, 0)) and database.check() == []


@pytest.mark.parametrize("change, said", [
    ("ALTER TABLE ensemble_models ADD COLUMN surprise INTEGER", "ensemble_models.surprise is not known"),
    ("ALTER TABLE ensemble_models DROP COLUMN version", "ensemble_models.version is missing"),
    ("DROP INDEX ix_ml_experiments_experiment_type", "ix_ml_experiments_experiment_type is missing"),
    ("DROP TABLE model_interpretability", "model_interpretability is missing"),
    ("CREATE TABLE stranger (id INTEGER PRIMARY KEY)", "stranger is not known"),
])
def test_check_sees_a_manual_change(database, change, said):
    sql(database, change)
    assert said in " / ".join(database.check())


def test_check_sees_a_changed_type(postgres_url):
    with Database(postgres_url) as database:
        database.upgrade()
        sql(database, "ALTER TABLE transformer_models ALTER COLUMN parameters_count TYPE INTEGER")
        assert ["parameters_count" in one for one in database.check()] == [True]


@pytest.mark.parametrize("table", designed)
def test_every_column_round_trips(shared_database, table):
    full = {column: samples[kind] for column, kind in designed[table].items()}
    before = int(shared_database.counts(defaults=True)[table])
    assert shared_database.append(table, [full]) == 1
    frame = shared_database.frame(table).iloc[before:]
    assert frame[list(full)].to_dict("records") == [full]
    if table not in ("transformer_models", "ensemble_models", "ml_experiments"):  # whose default rows have gaps
        assert shared_database.frame(table).dtypes.astype(str)[list(full)].to_dict() == {column: dtypes[kind] for column, kind in designed[table].items()}
    assert abs(frame.timestamp.iloc[0] - pd.Timestamp.now("UTC")) < pd.Timedelta("60s")
    assert shared_database.append(table, [dict.fromkeys(full), dict.fromkeys(full, float("nan"))]) == 2
    assert shared_database.frame(table).iloc[before + 1:][list(full)].isna().all(axis=None)
    nulls = sql(shared_database, f"SELECT count(*) FROM {table} WHERE " + " AND ".join(f"{column} IS NULL" for column in full))
    assert nulls == [(2,)]  # SQL's null, and no JSON null


def test_frames_go_in_and_come_out(database):
    frame = pd.DataFrame({"model_name": pd.Categorical(["a", "b", "a"]), "trial_number": pd.array([1, None, 3], dtype="Int32"), "objective_value": np.float32([0.5, np.nan, -2]),
                          "best_trial": np.array([True, False, True]), "hyperparameters": [{"depth": np.int64(3)}, None, {"rates": np.array([0.1, 0.2])}]})
    assert database.append("hyperparameter_optimization", frame) == 3
    back = database.frame("hyperparameter_optimization")
    assert back.model_name.tolist() == ["a", "b", "a"] and back.best_trial.tolist() == [True, False, True] and back.trial_number.dtype == "Int64"
    assert back.trial_number.fillna(-1).tolist() == [1, -1, 3] and back.objective_value.fillna(9).tolist() == [0.5, 9, -2]
    assert back.hyperparameters.tolist() == [{"depth": 3}, None, {"rates": [0.1, 0.2]}]
    assert back["id"].is_monotonic_increasing and database.append("hyperparameter_optimization", []) == 0


def test_not_finite_numbers(database):
    metrics = {"sharpe": float("nan"), "folds": [1.0, float("inf"), np.float32("-inf")], "deep": {"x": np.nan, "y": 2}}
    database.append("ml_experiments", [{"experiment_id": "a", "metrics": metrics, "duration_seconds": float("nan")}, {"experiment_id": "b", "duration_seconds": math.inf}])
    a, b = database.frame("ml_experiments", experiment_id=["a", "b"]).itertuples()
    assert a.metrics == {"sharpe": None, "folds": [1.0, None, None], "deep": {"x": None, "y": 2}, "not_finite": ["deep.x", "folds.1", "folds.2", "sharpe"]}
    assert math.isnan(a.duration_seconds) and b.duration_seconds == math.inf
    assert sql(database, "SELECT duration_seconds FROM ml_experiments WHERE experiment_id = 'a'") == [(None,)]
    database.update("ml_experiments", {"experiment_id": "b"}, {"metrics": {"ic": np.inf}})
    assert database.frame("ml_experiments", experiment_id="b").metrics.item() == {"ic": None, "not_finite": ["ic"]}


moment = datetime(2024, 7, 1, 3, 30, 0, 123456, timezone.utc)


@pytest.mark.parametrize("spelling", [
    moment, moment.astimezone(ZoneInfo("Asia/Tokyo")), moment.astimezone(ZoneInfo("America/New_York")), moment.astimezone(timezone(timedelta(hours=5, minutes=45))),
    moment.replace(tzinfo=None), pd.Timestamp(moment).tz_convert("Europe/Berlin"), np.datetime64("2024-07-01T03:30:00.123456789"),
    "2024-07-01T05:30:00.123456+02:00", "2024-07-01 03:30:00.123456"], ids=str)
def test_moments_come_back_in_utc(shared_database, spelling):
    id = f"moment {spelling} {type(spelling)}"
    if shared_database.backend == "postgresql": sql(shared_database, f"ALTER DATABASE {shared_database.engine.url.database} SET timezone = 'Asia/Tokyo'")
    with Database(shared_database.engine.url) as database:
        database.append("ml_experiments", [{"experiment_id": id, "started_at": spelling, "timestamp": spelling}])
        row = database.frame("ml_experiments", experiment_id=id).iloc[0]
        assert row.started_at == row.timestamp == pd.Timestamp(moment) and str(row.started_at.tz) == "UTC"
        assert database.frame("ml_experiments", started_at=spelling, experiment_id=id).shape[0] == 1


def test_a_day_of_changed_clocks(database):
    hours = pd.date_range("2024-10-27", periods=30, freq="h", tz="Europe/Berlin")
    database.append("model_performance_comparison", pd.DataFrame({"test_period_start": hours, "test_period_end": hours.tz_convert("UTC")}))
    back = database.frame("model_performance_comparison")
    assert (back.test_period_start == hours.tz_convert("UTC")).all() and (back.test_period_end == back.test_period_start).all()
    assert sql(database, "SELECT count(*) FROM model_performance_comparison WHERE test_period_start <> test_period_end") == [(0,)]


hostile = ["'; DROP TABLE ml_experiments; --", "x' OR '1'='1", '"; DELETE FROM ml_experiments; --', "\\'; SELECT 1", "%(a)s %s ? :a", "a\tb\n\\.\n", "\\N", "", " ", "NULL",
           "e\u0301 ≠ é", "\u202eright to left", "😀" * 50]


@pytest.mark.parametrize("text", hostile, ids=range(len(hostile)))
def test_hostile_text_is_plain_data(shared_database, text):
    id = f"{text}!"
    shared_database.append("ml_experiments", [{"experiment_id": id, "experiment_name": text, "tags": {text: [text]}}])
    row = shared_database.frame("ml_experiments", experiment_name=text, experiment_id=[id]).iloc[0]
    assert row.experiment_name == text and row.tags == {text: [text]}
    assert shared_database.update("ml_experiments", {"experiment_id": id}, {"status": text}) == 1
    assert shared_database.frame("ml_experiments", status=text).experiment_id.tolist() == [id]
    for name in (f"ml_experiments{text} ", f"{text};"):
        with pytest.raises(InputError): shared_database.append(name, [{"experiment_id": "x"}])
        with pytest.raises(InputError): shared_database.frame(name)
    with pytest.raises(InputError): shared_database.frame("ml_experiments", **{f"status {text}": 1})
    with pytest.raises(InputError): shared_database.append("ml_experiments", [{f"status {text}": 1}])
    with pytest.raises(InputError): shared_database.update("ml_experiments", {"status": "a"}, {f"status = {text}": 1})


scalars = st.none() | st.booleans() | st.integers(-2**63, 2**63 - 1) | st.floats(allow_nan=True, allow_infinity=True) | st.text(
    st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=8)
keys = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=6).filter(lambda key: key != "not_finite")
values = st.dictionaries(keys, st.recursive(scalars, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(keys, inside, max_size=3), max_leaves=8), max_size=4)


def lost_paths(value, path=()):
    "Where a value holds what JSON cannot"
    if isinstance(value, float): return [] if math.isfinite(value) else [".".join(path)]
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, one in inside for found in lost_paths(one, (*path, str(key)))]


def same(got, sent):
    "Whether JSON says again what was sent; PostgreSQL writes 1e23 with all its digits, which reads as an int"
    if isinstance(sent, dict): return isinstance(got, dict) and got.keys() == sent.keys() and all(same(got[key], sent[key]) for key in sent)
    if isinstance(sent, list): return isinstance(got, list) and len(got) == len(sent) and all(map(same, got, sent))
    if isinstance(sent, float): return got is None if not math.isfinite(sent) else not isinstance(got, bool) and float(got) == sent
    return type(got) is type(sent) and got == sent


@slow
@given(value=values)
def test_json_round_trip(shared_database, value):
    count = int(shared_database.counts()["feature_selection_history"])
    shared_database.append("feature_selection_history", [{"metadata": value, "selection_id": f"json {count}"}])
    got = dict(shared_database.frame("feature_selection_history", selection_id=f"json {count}").metadata.item())
    assert got.pop("not_finite", []) == sorted(set(lost_paths(value))) and same(got, value)


@slow
@given(number=st.floats(allow_nan=False), whole=st.integers(-2**63, 2**63 - 1), moment=st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), text=st.text(
    st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])))
def test_plain_values_round_trip(shared_database, number, whole, moment, text):
    with shared_database.transaction(writes=True) as connection: connection.exec_driver_sql("DELETE FROM transformer_models WHERE model_name <> 'default'")
    shared_database.append("transformer_models", [{"model_name": "m", "model_size_mb": number, "parameters_count": whole, "model_path": text}])
    row = shared_database.frame("transformer_models", model_name="m").iloc[0]
    assert (row.model_size_mb, row.parameters_count, row.model_path) == (number, whole, text)
    aware = moment.replace(tzinfo=timezone.utc)
    shared_database.append("model_performance_comparison", [{"test_period_start": moment, "comparison_id": "moment"}])
    assert shared_database.frame("model_performance_comparison").test_period_start.iloc[-1] == aware


def test_all_or_none(database):
    rows = [{"experiment_id": f"r{i}", "config": {"i": i}} for i in range(3000)]
    with pytest.raises(InputError, match="breaks a rule"): database.append("ml_experiments", [*rows, {"experiment_id": "r0"}])  # seen by the database, after several statements
    assert database.counts()["ml_experiments"] == 0
    with pytest.raises(InputError, match="duration_seconds"): database.append("ml_experiments", [*rows, {"experiment_id": "z", "duration_seconds": "long"}])
    assert database.counts()["ml_experiments"] == 0
    assert database.append("ml_experiments", rows) == 3000 == database.counts()["ml_experiments"]
    with pytest.raises(InputError): database.update("ml_experiments", {"experiment_id": ["r1", "r2"]}, {"experiment_id": "same"})
    assert len(database.frame("ml_experiments", experiment_id=["r1", "r2"])) == 2
    with pytest.raises(ZeroDivisionError), database.transaction(writes=True) as connection:
        connection.exec_driver_sql("DELETE FROM ml_experiments")
        1/0
    assert database.counts()["ml_experiments"] == 3000


def test_update(database):
    database.append("hyperparameter_optimization", [{"optimization_id": "s", "trial_number": i, "best_trial": False} for i in range(5)])
    change = {"optimization_status": "complete", "objective_value": np.float64(0.25), "validation_metrics": {"fold": (1, 2)}, "timestamp": "2024-01-01T00:00:00+09:00"}
    assert database.update("hyperparameter_optimization", {"optimization_id": "s", "trial_number": [1, 3, 99]}, change) == 2
    frame = database.frame("hyperparameter_optimization")
    assert frame[frame.optimization_status.notna()].trial_number.tolist() == [1, 3] and frame.objective_value.tolist()[1::2] == [0.25, 0.25]
    assert frame.validation_metrics[1] == {"fold": [1, 2]} and frame.timestamp[3] == pd.Timestamp("2023-12-31 15:00", tz="UTC")
    assert database.update("hyperparameter_optimization", {"trial_number": 1}, {"optimization_status": None, "validation_metrics": None}) == 1
    assert sql(database, "SELECT count(*) FROM hyperparameter_optimization WHERE validation_metrics IS NULL AND optimization_status IS NULL") == [(4,)]
    assert database.update("hyperparameter_optimization", {"optimization_id": "nobody"}, {"trial_number": 1}) == 0
    for key, values in ({}, {"trial_number": 1}), ({"trial_number": 1}, {}), ({"trial_number": 1}, {"id": 7}), ({"validation_metrics": 1}, {"trial_number": 1}):
        with pytest.raises(InputError): database.update("hyperparameter_optimization", key, values)


def test_filters(database):
    database.append("hyperparameter_optimization", pd.DataFrame({"model_name": ["a", "b", None, "a"], "trial_number": range(4), "best_trial": [True, False, None, False]}))
    numbers = lambda **filters: database.frame("hyperparameter_optimization", **filters).trial_number.tolist()
    assert numbers() == [0, 1, 2, 3] and numbers(model_name="a") == [0, 3] and numbers(model_name="a", best_trial=False) == [3]
    for several in (["a", "b"], ("a", "b"), {"a", "b"}, np.array(["a", "b"]), pd.Series(["a", "b"]), pd.Index(["a", "b"])): assert numbers(model_name=several) == [0, 1, 3]
    assert numbers(trial_number=np.arange(2)) == [0, 1] and numbers(trial_number=[]) == [] and numbers(trial_number=2.0) == [2]
    assert numbers(model_name=None) == [2] and numbers(model_name=["b", None]) == [1, 2]
    with pytest.raises(InputError, match="trial_number"): numbers(trial_number="two")
    with pytest.raises(InputError, match="JSON"): numbers(hyperparameters={"a": 1})


def test_unknown_names(sqlite_database):
    with pytest.raises(InputError, match="ml_experiments"): sqlite_database.append("ml_experiment", [{"experiment_id": "a"}])
    with pytest.raises(InputError, match="ensemble_models"): sqlite_database.frame("ensemble_model")
    with pytest.raises(InputError, match="experiment_name"): sqlite_database.append("ml_experiments", [{"experiment_nme": "a"}])
    with pytest.raises(InputError, match="status"): sqlite_database.frame("ml_experiments", statsu="a")
    with pytest.raises(InputError, match="status"): sqlite_database.update("ml_experiments", {"statsu": "a"}, {"status": "b"})
    with pytest.raises(InputError, match="metadata"): sqlite_database.append("ensemble_models", [{"metadata_": {}}])
    assert sqlite_database.counts().sum() == 0


@pytest.mark.parametrize("table, row", [
    ("ml_experiments", {"id": 1}), ("ml_experiments", {}), ("ml_experiments", "row"), ("ml_experiments", {"experiment_id": ["a"]}), ("ml_experiments", {"experiment_id": "a\0b"}),
    ("ml_experiments", {"experiment_id": "\ud800"}), ("ml_experiments", {"tags": {"a": print}}), ("ml_experiments", {"tags": {"a": "\0"}}),
    ("ml_experiments", {"started_at": "yesterday"}), ("ml_experiments", {"started_at": 5}), ("ml_experiments", {"duration_seconds": "3"}), ("ml_experiments", {3: "a"}),
    ("transformer_models", {"batch_size": 2**31}), ("transformer_models", {"batch_size": 1.5}), ("transformer_models", {"parameters_count": 2**63}),
    ("transformer_models", {"is_active": 2}), ("transformer_models", {"is_active": "yes"})], ids=str)
def test_refused_rows(shared_database, table, row):
    before = shared_database.counts()
    with pytest.raises(InputError): shared_database.append(table, [row])
    assert shared_database.counts().equals(before)


def run_together(code, *arguments, n=2, wait_for):
    "The outputs of n processes that run code at the same moment"
    code = "import sys, time\nfrom pathlib import Path\nfrom alphaplus_ml.store.database import Database\n" + textwrap.dedent(code)
    running = [subprocess.Popen([sys.executable, "-c", code, *arguments, str(wait_for), str(i)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for i in range(n)]
    deadline = time.monotonic() + 60
    while len(list(wait_for.glob("ready*"))) < n and time.monotonic() < deadline and all(one.poll() is None for one in running): time.sleep(0.01)
    (wait_for/"go").touch()
    outputs = [one.communicate(timeout=60) for one in running]
    assert [one.returncode for one in running] == [0]*n, outputs
    return [out.strip() for out, error in outputs]


def test_processes_upgrade_and_append_at_once(empty_url, tmp_path):
    outputs = run_together("""
        url, folder, me = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
        database = Database(url)
        (folder/f"ready{me}").touch()
        while not (folder/"go").exists(): time.sleep(0.001)
        print(database.upgrade())
        for batch in range(20):
            database.append("ml_experiments", [{"experiment_id": f"{me}-{batch}-{i}", "status": "running"} for i in range(20)])
            database.update("ml_experiments", {"experiment_id": f"{me}-{batch}-0"}, {"status": "completed"})
        """, empty_url, n=3, wait_for=tmp_path)
    assert sorted(outputs) == [str(revisions()), "[]", "[]"]
    with Database(empty_url) as database:
        frame = database.frame("ml_experiments", status=["running", "completed"])
        assert frame.experiment_id.nunique() == len(frame) == 3*20*20 and (frame.status == "completed").sum() == 60
        assert database.counts(defaults=True)[["transformer_models", "ensemble_models"]].tolist() == [1, 1] and database.check() == []


def test_a_first_connection_waits_for_another_writer(tmp_path):
    "SQLite's busy_timeout leaves out the change to WAL while another connection is about to write"
    file = tmp_path/"alphaplus.db"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE other (x)")
    other.execute("BEGIN IMMEDIATE")
    later = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    later.start()
    with Database(file) as database: assert database.upgrade() == revisions() and not later.is_alive()
    other.close()


def blocks_of(n, size, fails_at=None, name="r"):
    "Frames and lists in turn, as a generator makes them"
    for k in range(n):
        if k == fails_at: raise ZeroDivisionError(f"block {k}")
        ids = [f"{name}{k}-{i}" for i in range(size)]
        yield pd.DataFrame({"experiment_id": ids, "duration_seconds": float(k)}) if k % 2 else [{"experiment_id": one, "tags": {"k": k}} for one in ids]


def test_rows_come_from_an_iterator(database):
    assert database.append("ml_experiments", blocks_of(4, 30)) == 120 and database.append("ml_experiments", ({"experiment_id": f"one{i}"} for i in range(50))) == 50
    back = database.frame("ml_experiments").iloc[1:]   # without the default row
    assert back.experiment_id.tolist() == [f"r{k}-{i}" for k in range(4) for i in range(30)] + [f"one{i}" for i in range(50)]   # ids in the order of the blocks
    assert back.timestamp.iloc[:120].nunique() == back.timestamp.iloc[120:].nunique() == 1 and back.duration_seconds.count() == 60
    assert [tags and tags["k"] for tags in back.tags.iloc[:120:30]] == [0, None, 2, None]
    assert database.append("ml_experiments", iter([])) == database.append("ml_experiments", [[], pd.DataFrame()].__iter__()) == database.append("ml_experiments", []) == 0


def test_rows_of_nothing_are_rows(database):
    assert database.append("ml_experiments", [{"experiment_id": None}]*2) == 2 and database.frame("ml_experiments", experiment_id=None).timestamp.nunique() == 1


def test_an_iterator_is_all_or_none(database):
    for rows, error in ((blocks_of(4, 30, fails_at=3), ZeroDivisionError),                                     # its maker fails
                        ([*blocks_of(3, 30), [{"experiment_id": "z", "duration_seconds": "long"}]].__iter__(), InputError),   # a value does not fit
                        (iter([*blocks_of(3, 30), [{"experiment_id": "r0-0"}]]), InputError)):                     # a rule of the table is broken
        with pytest.raises(error): database.append("ml_experiments", rows)
        assert database.counts()["ml_experiments"] == 0
    assert database.append("ml_experiments", blocks_of(4, 30)) == 120


def test_large_rows_at_hand_are_all_or_none(database):
    "More than one block: the mistake shows when others are written"
    frame = pd.DataFrame({"experiment_id": [f"r{i}" for i in range(45_000)]})
    for wrong in ({"experiment_id": ["r0"]}, {"experiment_id": ["a\0b"]}):
        with pytest.raises(InputError): database.append("ml_experiments", pd.concat([frame, pd.DataFrame(wrong)]))
        assert database.counts()["ml_experiments"] == 0
    assert database.append("ml_experiments", frame) == 45_000 == database.counts()["ml_experiments"]
    assert sql(database, "SELECT count(DISTINCT timestamp) FROM ml_experiments WHERE experiment_id <> 'default'") == [(1,)]


def test_others_write_while_rows_are_made(database):
    "The writer's lock is not held while a generator works: what it writes itself would wait for ever"
    def making():
        for k, block in enumerate(blocks_of(3, 5)):
            yield block
            database.append("ensemble_models", [{"ensemble_name": f"e{k}"}])
            assert database.counts()["ml_experiments"] == 0
    assert database.append("ml_experiments", making()) == 15 and database.counts()["ensemble_models"] == 3


def test_what_is_wrong_shows_before_rows_are_made(empty_url):
    def never():
        raise AssertionError("the rows were made")
        yield
    with Database(empty_url) as database:
        with pytest.raises(DatabaseError, match="upgrade"): database.append("ml_experiments", never())
        with pytest.raises(InputError, match="ml_experiments"): database.append("ml_experiment", never())


@pytest.mark.parametrize("rows", [{"experiment_id": "a"}, "rows", 7, None, [7], lambda: iter([7]), lambda: iter(["row"]), lambda: iter([[{"experiment_id": "a"}], 3.5]), pd.Series(["a"]), lambda: iter([[7]]),
                                  pd.DataFrame([["a", "b"]], columns=["experiment_id"]*2), pd.DataFrame({"id": [1]}), pd.DataFrame(index=[1])], ids=lambda rows: type(rows).__name__)
def test_refused_blocks(shared_database, rows):
    before = shared_database.counts()
    with pytest.raises(InputError): shared_database.append("ml_experiments", rows() if callable(rows) else rows)
    assert shared_database.counts().equals(before)


def test_a_frame_goes_in_like_its_dictionaries(database):
    "Whole columns at once, value by value, and with types that have to be looked at: the same rows"
    shared = {"base": np.float32(0.5), "bad": np.inf}
    frame = pd.DataFrame({"model_name": pd.array(["a", None, "ü"], dtype="str"), "model_version": pd.Categorical(["1", "2", "1"]), "feature_value": np.array([1.5, np.nan, np.inf], "float32"),
                          "shap_value": [1, 2, 3], "lime_value": pd.array([1.25, None, 3], "Float64"), "eli5_value": [True, None, 2.5], "prediction_id": [Path("p"), 7, "q"],
                          "feature_importance_rank": pd.array([1, None, 3], "Int64"), "interpretation_type": None, "metadata": [shared, None, shared],
                          "timestamp": [pd.Timestamp("2024-01-01", tz="Asia/Tokyo"), None, "2024-01-02"]}, index=[5, 5, 6])
    before = frame.copy(deep=True)
    one_by_one = [{name: frame[name].iloc[i] for name in frame} for i in range(3)]
    for rows in (frame, one_by_one, iter([frame.iloc[:1], one_by_one[1:2], frame.iloc[2:]])): assert database.append("model_interpretability", rows) == 3
    back = database.frame("model_interpretability").drop(columns="id")
    groups = [back.iloc[k:k + 3].reset_index(drop=True) for k in (0, 3, 6)]
    for one in groups: one.loc[1, "timestamp"] = pd.NaT   # the moment of its own write
    for other in groups[1:]: pd.testing.assert_frame_equal(groups[0], other)
    first = groups[0]
    assert first.model_name.tolist()[::2] == ["a", "ü"] and pd.isna(first.model_name[1]) and first.prediction_id.tolist() == ["p", "7", "q"]
    assert first.feature_value[0] == 1.5 and np.isnan(first.feature_value[1]) and first.feature_value[2] == np.inf and first.eli5_value.tolist()[::2] == [1, 2.5]
    assert first.metadata[0] == {"base": 0.5, "bad": None, "not_finite": ["bad"]} == first.metadata[2] and first.metadata[1] is None
    assert first.timestamp[0] == pd.Timestamp("2023-12-31 15:00", tz="UTC") and sql(database, "SELECT count(*) FROM model_interpretability WHERE feature_value IS NULL") == [(3,)]
    pd.testing.assert_frame_equal(frame, before)


columns_by_kind = {"text": tables()["ml_experiments"].c.status, "number": tables()["ml_experiments"].c.duration_seconds, "whole": tables()["transformer_models"].c.batch_size,
                   "long": tables()["transformer_models"].c.parameters_count, "flag": tables()["transformer_models"].c.is_active, "json": tables()["ml_experiments"].c.tags}


@given(kind=st.sampled_from(sorted(columns_by_kind)), data=st.data())
@settings(deadline=None, max_examples=300)
def test_a_column_fits_as_its_values_do(kind, data):
    "The quick way over a whole column says what `fit` says of each value, refusals too"
    likely = {"text": st.text(st.characters(codec=None)), "number": st.floats(), "whole": st.integers(-2**32, 2**32), "long": st.integers(-2**65, 2**65), "flag": st.booleans(),
              "json": st.dictionaries(st.text(max_size=3), st.floats())}[kind]
    values = data.draw(st.lists(st.one_of(likely, likely, likely, st.none()), max_size=6)) + data.draw(st.lists(st.sampled_from([float("nan"), 1, True, "x", 2.0, np.float64(3)]), max_size=1))
    def outcome(function):
        try: return "fits", function()
        except InputError as error: return "refused", str(error)
    column = columns_by_kind[kind]
    quick, slow = outcome(lambda: fit_column(column, values)), outcome(lambda: [fit(column, value) for value in values])
    assert repr(quick) == repr(slow)


def killed(code, *arguments, folder):
    "SIGKILL for a process at the moment when it says that it is ready"
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *arguments, str(folder)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (folder/"ready").exists() and process.poll() is None and time.monotonic() < deadline: time.sleep(0.01)
    assert (folder/"ready").exists(), process.communicate()[1]
    process.kill()
    assert process.wait(30) == -9


@pytest.mark.parametrize("where", ["while rows are made", "while rows are written"])
def test_a_killed_writer_leaves_nothing(empty_url, tmp_path, where):
    code = """
        import sys, time
        from pathlib import Path
        from alphaplus_ml.store import database as module
        def wait(): Path(sys.argv[2], "ready").touch(); time.sleep(60)
        def blocks():
            for k in range(3):
                yield [{"experiment_id": f"{k}-{i}"} for i in range(1000)]
                if k == 1 and WHERE == "while rows are made": wait()
        write = module.insert_blocks
        def stopped(connection, table, blocks):
            def some():
                for k, block in enumerate(blocks):
                    yield block
                    if k == 1: wait()   # two blocks are with the database
            return write(connection, table, some())
        if WHERE == "while rows are written": module.insert_blocks = stopped
        module.Database(sys.argv[1]).append("ml_experiments", blocks())
        """.replace("WHERE", repr(where))
    with Database(empty_url) as database:
        database.upgrade()
        killed(code, empty_url, folder=tmp_path)
        assert database.counts()["ml_experiments"] == 0 and database.append("ml_experiments", [{"experiment_id": "0-0"}]) == 1
        assert database.check() == [] and not [one for one in tmp_path.iterdir() if one.name.startswith("tmp")]   # nothing set aside is left


def test_memory_stays_flat(sqlite_database):
    "A write of ten times the rows needs the memory of one block"
    def blocks(n):
        for k in range(n): yield pd.DataFrame({"prediction_id": [f"{k}-{i}" for i in range(2000)], "shap_value": np.random.default_rng(k).normal(size=2000)}).assign(metadata=[{"k": k}]*2000)
    def peak(n):
        tracemalloc.start()
        try:
            assert sqlite_database.append("model_interpretability", blocks(n)) == 2000*n
            return tracemalloc.get_traced_memory()[1]
        finally: tracemalloc.stop()
    peak(2)   # what is loaded once
    few, many = peak(3), peak(30)
    assert many < 1.5*few, (few, many)


def test_database_newer_than_the_code(database):
    sql(database, "UPDATE alembic_version SET version_num = '9999'")
    with Database(database.engine.url) as late:
        for act in (late.upgrade, late.status, late.counts, lambda: late.frame("ml_experiments"), lambda: late.append("ml_experiments", [{"experiment_id": "a"}])):
            with pytest.raises(DatabaseError, match="newer than the code.*9999"): act()
    assert sql(database, "SELECT version_num FROM alembic_version") == [("9999",)]


@pytest.mark.parametrize("url", ["postgresql://me:hunter2@127.0.0.1:1/nothing", "postgres://me:hunter2@127.0.0.1:1/nothing",
                                 "postgresql+psycopg2://127.0.0.1:1/nothing?user=me&password=hunter2", "postgresql://me:hunter2@/nothing?host=/nowhere"])
def test_unreachable_server(url):
    database = Database(url)
    assert "hunter2" not in repr(database)
    for act in (database.upgrade, database.status, database.check, lambda: database.append("ml_experiments", [{"experiment_id": "a"}])):
        with pytest.raises(DatabaseError, match="Check that the server runs") as caught: act()
        assert "hunter2" not in str(caught.value) and "nothing" in str(caught.value)


def test_no_such_database(postgres_server):
    with pytest.raises(DatabaseError, match="never_made.*does not exist"): Database(postgres_server.set(database="never_made")).upgrade()


def test_files_that_are_no_database(tmp_path):
    file = tmp_path/"notes.db"
    file.write_text("These are notes, and no database. " * 100)
    with pytest.raises(DatabaseError, match="not a database"): Database(file).upgrade()
    assert file.read_text().startswith("These are notes")
    with pytest.raises(DatabaseError, match="folder exists"): Database(tmp_path).upgrade()
    with pytest.raises(DatabaseError, match="cannot be made"): Database(file/"inside"/"a.db")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="has no /proc")
def test_a_folder_that_cannot_be_made():
    with pytest.raises(DatabaseError, match="The folder of .* cannot be made"): Database("sqlite:////proc/nowhere/alphaplus.db")


def test_a_read_only_database(sqlite_database):
    with Database(f"sqlite:///file:{sqlite_database.engine.url.database}?mode=ro&uri=true") as database:
        assert len(database.frame("ml_experiments")) == 1 and database.upgrade() == []
        with pytest.raises(DatabaseError, match="readonly.*can be written"): database.append("ml_experiments", [{"experiment_id": "a"}])
        with pytest.raises(DatabaseError, match="readonly"): database.update("ml_experiments", {"experiment_id": "default"}, {"status": "completed"})


@pytest.mark.parametrize("url", ["mysql://me:hunter2@host/name", "no url at all", "", "oracle://x"])
def test_other_databases(url, monkeypatch):
    with pytest.raises(InputError, match="SQLite or PostgreSQL") as caught: Database(url or "://")
    assert "hunter2" not in str(caught.value)


def test_a_damaged_file(tmp_path):
    file = tmp_path/"alphaplus.db"
    with Database(file) as database:
        database.upgrade()
        database.append("ml_experiments", [{"experiment_id": f"r{i}", "config": {"a": "x"*500}} for i in range(500)])
        sql(database, "PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(file.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    file.write_bytes(data)
    with pytest.raises(DatabaseError): Database(file).frame("ml_experiments")


def test_the_folder_is_made_and_settings_are_read(tmp_path, monkeypatch):
    with Database(tmp_path/"new"/"deep"/"a.db") as database: assert database.upgrade() == revisions()
    monkeypatch.setenv("ALPHAPLUS_RUNS", str(tmp_path/"runs"))
    assert Database().engine.url.database == str(tmp_path/"runs"/"alphaplus.db")
    monkeypatch.setenv("ALPHAPLUS_DATABASE_URL", sqlite_url(tmp_path/"other.db"))
    assert Database().engine.url.database == str(tmp_path/"other.db")


def test_a_pickled_database_works(database):
    database.append("ml_experiments", [{"experiment_id": "a", "started_at": date(2024, 1, 1)}])
    with pickle.loads(pickle.dumps(database)) as again: assert again.counts().equals(database.counts()) and again.counts().sum() == 1


def test_statements_of_the_users_own(database):
    database.append("ml_experiments", [{"experiment_id": "a", "metrics": {"ic": 0.5}}, {"experiment_id": "b"}])
    table = tables()["ml_experiments"]
    assert database.frame(sa.select(table.c.experiment_id, table.c.metrics).where(table.c.experiment_id == "a")).to_dict("records") == [{"experiment_id": "a", "metrics": {"ic": 0.5}}]
    assert database.frame(sa.text("SELECT count(*) AS n FROM ml_experiments WHERE experiment_id <> :id"), id="default").n.item() == 2
    with pytest.raises(DatabaseError): database.frame(sa.text("SELECT nothing FROM nowhere"))


def test_sqlite_keeps_json_readable(sqlite_database):
    sqlite_database.append("ml_experiments", [{"experiment_id": "a", "tags": {"stadt": "Zürich"}}])
    (stored,), = sql(sqlite_database, "SELECT tags FROM ml_experiments WHERE experiment_id = 'a'")
    assert "Zürich" in stored and json.loads(stored) == {"stadt": "Zürich"}
