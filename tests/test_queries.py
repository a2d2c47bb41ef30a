"The named questions, on both databases: the index that serves each, and its answer beside one worked out by hand in pandas."
import re

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from alphaplus_ml.core import InputError
from alphaplus_ml.store.queries import list_queries, queries, statement
from alphaplus_ml.store.schema import tables

n_rows = 300
start = pd.Timestamp("2024-01-01", tz="UTC")


def random_rows(name, rng):
    "Rows with few distinct words, ties in time, and gaps"
    def pick(words): return rng.choice(words, n_rows)
    def numbers(gaps=0.1): return np.where(rng.random(n_rows) < gaps, np.nan, rng.normal(size=n_rows))
    def flags(): return pd.array(rng.choice([True, False, None], n_rows), dtype="boolean")
    moments = start + pd.to_timedelta(rng.integers(0, 60, n_rows), unit="h")
    models = ["ridge", "lightgbm", "forest"]
    columns = {
        "hyperparameter_optimization": lambda: dict(
            model_name=pick(models), optimization_id=pick(["a", "b", "c", "d"]), trial_number=rng.permutation(n_rows), best_trial=flags(),
            optimization_status=pick(["running", "complete", "pruned", "failed"])),
        "model_interpretability": lambda: dict(
            model_name=pick(models), model_version=pick(["1", "2"]), prediction_id=pick(["p", "q", "r"]), feature_name=pick(["momentum", "volume", "range"]),
            feature_importance_rank=rng.integers(1, 9, n_rows), interpretation_type=pick(["local", "global", "drift"]), shap_value=numbers()),
        "ml_experiments": lambda: dict(
            experiment_id=[f"run{i}" for i in range(n_rows)], experiment_type=pick(["experiment", "study", "default"]),
            parent_experiment_id=pick(["run1", "run2", None])),
        "advanced_feature_engineering": lambda: dict(
            feature_name=pick(["momentum", "volume", "range"]), feature_category=pick(["price", "flow"]), is_active=flags(), importance_score=numbers()),
        "transformer_models": lambda: dict(model_name=pick(["deep", "wide"]), model_type=pick(["lstm", "gru", "transformer"]), is_active=flags()),
        "ensemble_models": lambda: dict(ensemble_name=pick(["pair", "trio"]), ensemble_type=pick(["voting", "stacking"]), is_active=flags()),
        "feature_selection_history": lambda: dict(
            selection_id=pick(["s", "t", "u"]), model_name=pick(models), selection_method=pick(["lasso", "boruta", "mutual"])),
        "model_performance_comparison": lambda: dict(
            comparison_id=pick(["c", "d"]), winner_model=pick([*models, None]), test_period_start=start + pd.to_timedelta(rng.integers(0, 400, n_rows), unit="D"),
            test_period_end=start + pd.to_timedelta(rng.integers(300, 800, n_rows), unit="D")),
    }
    return pd.DataFrame({"timestamp": moments, **columns[name]()})


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(7)
    return {name: random_rows(name, rng) for name in tables()}


@pytest.fixture(scope="module")
def filled(shared_database, rows):
    for name, frame in rows.items(): assert shared_database.append(name, frame) == n_rows
    if shared_database.backend == "postgresql":
        with shared_database.transaction(writes=True) as connection: connection.exec_driver_sql("ANALYZE")
    return shared_database


def newest(rows, limit=None): return rows.sort_values(["timestamp", "row"], ascending=False).head(n_rows if limit is None else limit)


def active(rows, column): return rows[rows.is_active.fillna(False)].sort_values(column)


first, last = start + pd.Timedelta("50D"), start + pd.Timedelta("500D")

# question -> its parameters, the answer worked out in pandas, the columns that set its order
answers = {
    "trials_of_study": (dict(optimization_id="b"), lambda r: r[r.optimization_id == "b"].sort_values("trial_number"), ["trial_number"]),
    "best_trials": (dict(model_name="ridge"), lambda r: newest(r[(r.model_name == "ridge") & r.best_trial.fillna(False)]), ["row"]),
    "trials_by_status": (dict(status="pruned", limit=17), lambda r: newest(r[r.optimization_status == "pruned"], 17), ["row"]),
    "top_features": (dict(prediction_id="q", n=5), lambda r: r[(r.prediction_id == "q") & (r.feature_importance_rank <= 5)].sort_values("feature_importance_rank"),
                     ["feature_importance_rank"]),
    "attribution_history": (dict(feature_name="range"), lambda r: newest(r[(r.feature_name == "range") & (r.interpretation_type == "global")]), ["row"]),
    "run_by_id": (dict(experiment_id="run7"), lambda r: r[r.experiment_id == "run7"], ["row"]),
    "latest_runs": (dict(experiment_type="default", limit=200), lambda r: newest(r[r.experiment_type == "default"], 200), ["row"]),
    "children_of_run": (dict(experiment_id="run2"), lambda r: newest(r[r.parent_experiment_id == "run2"]), ["row"]),
    "feature_versions": (dict(feature_name="volume", limit=9), lambda r: newest(r[r.feature_name == "volume"], 9), ["row"]),
    "active_features": (dict(category="flow"), lambda r: active(r[r.feature_category == "flow"], "feature_name"), ["feature_name"]),
    "most_important_features": (dict(limit=12), lambda r: r[r.is_active.fillna(False) & r.importance_score.notna()].nlargest(12, "importance_score"), ["row"]),
    "active_sequence_models": (dict(), lambda r: active(r, "model_name"), ["model_name"]),
    "sequence_model_versions": (dict(model_name="deep"), lambda r: newest(r[r.model_name == "deep"]), ["row"]),
    "latest_sequence_models": (dict(model_type="transformer", limit=200), lambda r: newest(r[r.model_type == "transformer"], 200), ["row"]),
    "active_ensembles": (dict(), lambda r: active(r, "ensemble_name"), ["ensemble_name"]),
    "ensemble_versions": (dict(ensemble_name="trio"), lambda r: newest(r[r.ensemble_name == "trio"]), ["row"]),
    "latest_ensembles": (dict(ensemble_type="voting", limit=200), lambda r: newest(r[r.ensemble_type == "voting"], 200), ["row"]),
    "selection_by_id": (dict(selection_id="t"), lambda r: r[r.selection_id == "t"].sort_values("selection_method"), ["selection_method"]),
    "selections_of_model": (dict(model_name="forest"), lambda r: newest(r[r.model_name == "forest"]), ["row"]),
    "selections_by_method": (dict(method="boruta", limit=11), lambda r: newest(r[r.selection_method == "boruta"], 11), ["row"]),
    "comparison_by_id": (dict(comparison_id="d"), lambda r: newest(r[r.comparison_id == "d"]), ["row"]),
    "comparisons_in_period": (dict(start=first, end=last.tz_convert("Asia/Tokyo").isoformat()),
                              lambda r: r[(r.test_period_start >= first) & (r.test_period_end <= last)].sort_values(["test_period_start", "test_period_end"]),
                              ["test_period_start", "test_period_end"]),
    "winner_history": (dict(model_name="ridge"), lambda r: newest(r[r.winner_model == "ridge"]), ["row"]),
}
shap_of = dict(model_name="ridge", model_version="2", interpretation_type="local")
parameters = {name: one[0] for name, one in answers.items()} | {"mean_absolute_shap": shap_of}


def test_every_question_is_here():
    assert set(parameters) == set(queries) and len(queries) == 24
    assert list_queries().groupby("table").size().to_dict() == dict.fromkeys(tables(), 3)
    assert sorted(list_queries()["index"]) == sorted(index.name for table in tables().values() for index in table.indexes)


def used_indexes(database, name):
    "The indexes in the plan of what the database really runs for a question, and whether it reads a table from end to end"
    said = []
    note = lambda connection, cursor, sql, values, context, many: said.append((sql, values))
    sa.event.listen(database.engine, "before_cursor_execute", note)
    try: database.frame(name, **parameters[name])
    finally: sa.event.remove(database.engine, "before_cursor_execute", note)
    sql, values = said[-1]
    with database.transaction() as connection:
        if database.backend == "sqlite":
            steps = [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)]
            return [found for step in steps for found in re.findall(r"INDEX (\w+)", step)], any(re.match(r"SCAN", step) for step in steps)
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = connection.exec_driver_sql(f"EXPLAIN {sql}", values).scalars().all()
        return [found for step in plan for found in re.findall(r"Index (?:Only )?Scan (?:Backward )?(?:using|on) (\w+)", step)], any("Seq Scan" in step for step in plan)


@pytest.mark.parametrize("name", sorted(parameters))
def test_plan_uses_its_index(filled, name):
    indexes, scanned = used_indexes(filled, name)
    assert indexes == [queries.facts(name)["index"]] and not scanned


@pytest.mark.parametrize("name", sorted(answers))
def test_answer_equals_brute_force(filled, rows, name):
    given, work_out, order = answers[name]
    table = queries.facts(name)["table"]
    shipped = int(filled.counts(defaults=True)[table]) - n_rows  # their ids come first
    expected = work_out(rows[table].assign(row=range(n_rows)))
    answer = filled.frame(name, **given).assign(row=lambda f: f["id"] - 1 - shipped)
    assert 0 < len(expected) < n_rows and sorted(answer.row) == sorted(expected.row)
    assert answer[order].values.tolist() == expected[order].values.tolist()
    again = rows[table].iloc[answer.row]
    for column in rows[table]: assert [None if pd.isna(v) else v for v in answer[column]] == [None if pd.isna(v) else v for v in again[column]], column


def test_mean_absolute_shap_equals_brute_force(filled, rows):
    frame = rows["model_interpretability"].query("model_name == 'ridge' and model_version == '2' and interpretation_type == 'local'").dropna(subset="shap_value")
    expected = frame.shap_value.abs().groupby(frame.feature_name).agg(["mean", "size"]).sort_values("mean", ascending=False)
    answer = filled.frame("mean_absolute_shap", **shap_of)
    assert answer.feature_name.tolist() == expected.index.tolist() and answer["rows"].tolist() == expected["size"].tolist()
    np.testing.assert_allclose(answer.mean_absolute_shap.astype(float), expected["mean"], rtol=1e-12)


def test_defaults_are_read_by_name_only(filled):
    assert len(filled.frame("sequence_model_versions", model_name="default")) == len(filled.frame("ensemble_versions", ensemble_name="default")) == 1
    assert filled.frame("run_by_id", experiment_id="default").experiment_type.tolist() == ["default"]
    assert "default" not in set(filled.frame("latest_runs", experiment_type="default", limit=1000).experiment_id)


def test_no_answer_is_an_empty_frame(filled):
    answer = filled.frame("run_by_id", experiment_id="never")
    assert answer.empty and answer.columns.tolist() == tables()["ml_experiments"].c.keys()


@pytest.mark.parametrize("hostile", ["x' OR '1'='1", "'; DROP TABLE ml_experiments; --", "%s", ":id", "?"])
def test_parameters_are_plain_data(filled, hostile):
    assert filled.frame("run_by_id", experiment_id=hostile).empty and filled.counts()["ml_experiments"] == n_rows


def test_unknown_question_and_parameters(filled):
    with pytest.raises(InputError, match="latest_runs"): filled.frame("latest_run")
    with pytest.raises(InputError, match="model_name"): filled.frame("best_trials", model="ridge")
    with pytest.raises(InputError, match="needs model_name, model_version"): filled.frame("mean_absolute_shap")
    with pytest.raises(InputError, match="best_trials"): statement("best_trial", model_name="ridge")
    with pytest.raises(InputError): statement("comparisons_in_period", start="yesterday", end="2026-01-01")
