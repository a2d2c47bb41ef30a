"The named questions, on both databases: the index that serves each, and its answer beside one worked out by hand in pandas."
import re

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from alphaplus_ml.core import InputError
from alphaplus_ml.store.database import Database
from alphaplus_ml.store.queries import list_queries, queries, statement
from alphaplus_ml.store.schema import tables

n_rows = 300
start = pd.Timestamp("2024-01-01", tz="UTC")


not_of_p = ["p1", "p1-0", "P", "P-0", "p.0", "p_0", "p 0", "p,0", "pa", "q-0", "p~", "ö-0"]   # ids near those of the explanation "p"


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
            model_name=pick(models), model_version=pick(["1", "2"]), prediction_id=pick(["p", "q", *not_of_p, "p-0", "p-9", "p-10"]), feature_name=pick(["momentum", "volume", "range"]),
            feature_importance_rank=rng.integers(1, 9, n_rows), interpretation_type=pick(["local", "global", "drift"]), shap_value=numbers(),
            sample_id=pick([f"{day}T00:00:00+00:00|sp500" for day in ("2018-01-30", "2018-01-31", "2018-02-01", "2019-01-31")]),
            metadata=[{"n_predictions": int(n), "p_adjusted": round(float(rng.random()), 3)} if n else None for n in rng.integers(0, 5, n_rows)]),
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


of_version = dict(model_name="ridge", model_version="2")


def latest(rows, kind):
    "The rows of the newest id of a type, by rank"
    rows = rows[(rows.model_name == "ridge") & (rows.model_version == "2") & (rows.interpretation_type == kind)]
    return rows[rows.prediction_id == newest(rows).prediction_id.iloc[0]].sort_values(["feature_importance_rank", "row"])


first, last = start + pd.Timedelta("50D"), start + pd.Timedelta("500D")

# question -> its parameters, the answer worked out in pandas, the columns that set its order
answers = {
    "trials_of_study": (dict(optimization_id="b"), lambda r: r[r.optimization_id == "b"].sort_values("trial_number"), ["trial_number"]),
    "best_trials": (dict(model_name="ridge"), lambda r: newest(r[(r.model_name == "ridge") & r.best_trial.fillna(False)]), ["row"]),
    "trials_by_status": (dict(status="pruned", limit=17), lambda r: newest(r[r.optimization_status == "pruned"], 17), ["row"]),
    "top_features": (dict(prediction_id="q", n=5), lambda r: r[(r.prediction_id == "q") & (r.feature_importance_rank <= 5)].sort_values("feature_importance_rank"),
                     ["feature_importance_rank"]),
    "explanation": (dict(explanation_id="p"), lambda r: r[r.prediction_id.isin(["p", "p-0", "p-9", "p-10"])], ["row"]),
    "sample_attributions": (dict(sample_id="2018-01-31T00:00:00+00:00|sp500", feature_name="volume"), lambda r: newest(
        r[(r.sample_id == "2018-01-31T00:00:00+00:00|sp500") & (r.feature_name == "volume") & (r.interpretation_type == "local")]), ["row"]),
    "latest_explanation": (of_version, lambda r: latest(r, "global"), ["feature_importance_rank", "row"]),
    "drifted_features": (of_version | dict(level=0.9), lambda r: latest(r, "drift")[lambda d: d.metadata.map(lambda m: m is not None and m["p_adjusted"] <= 0.9)], ["feature_importance_rank", "row"]),
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
shap_of = of_version | dict(interpretation_type="local")
parameters = {name: one[0] for name, one in answers.items()} | {"mean_absolute_shap": shap_of, "shap_over_time": of_version}


def test_every_question_is_here():
    assert set(parameters) == set(queries)
    assert list_queries().groupby("table")["index"].nunique().to_dict() == dict.fromkeys(tables(), 3)
    assert set(list_queries()["index"]) == {index.name for table in tables().values() for index in table.indexes}


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


by_prediction = "ix_model_interpretability_prediction_id"
then = {"latest_explanation": [by_prediction], "drifted_features": [by_prediction]}   # first which comparison or explanation is the newest, then its rows


@pytest.mark.parametrize("name", sorted(parameters))
def test_plan_uses_its_index(filled, name):
    indexes, scanned = used_indexes(filled, name)
    assert queries.facts(name)["index"] in indexes and set(indexes) <= {queries.facts(name)["index"], *then.get(name, [])} and not scanned


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
    for column in rows[table].columns.drop("metadata", errors="ignore"): assert [None if pd.isna(v) else v for v in answer[column]] == [None if pd.isna(v) else v for v in again[column]], column


def told(answer, *by):
    "A mean per group, ready to be compared"
    assert answer.mean_absolute_shap.dtype == "float64" and answer.predictions.dtype == "int64"
    return answer.set_index(list(by))


@pytest.mark.parametrize("kind", ["local", "global"])
def test_mean_absolute_shap_equals_brute_force(filled, rows, kind):
    "A global row weighs as many predictions as its metadata says, a local one is one"
    frame = rows["model_interpretability"].query("model_name == 'ridge' and model_version == '2' and interpretation_type == @kind").dropna(subset="shap_value")
    weight = frame.metadata.map(lambda m: m["n_predictions"] if m and kind == "global" else 1)
    expected = pd.DataFrame({"total": frame.shap_value.abs()*weight, "predictions": weight, "rows": 1}).groupby(frame.feature_name).sum()
    expected = expected.assign(mean=expected.total/expected.predictions).sort_values("mean", ascending=False)
    answer = told(filled.frame("mean_absolute_shap", **of_version, interpretation_type=kind), "feature_name")
    assert answer.index.tolist() == expected.index.tolist() and len(expected) == 3
    assert answer["rows"].tolist() == expected["rows"].tolist() and answer.predictions.tolist() == expected.predictions.tolist()
    np.testing.assert_allclose(answer.mean_absolute_shap, expected["mean"], rtol=1e-12)


@pytest.mark.parametrize("period, characters", [("year", 4), ("month", 7), ("day", 10)])
@pytest.mark.parametrize("feature", [None, "volume"])
def test_shap_over_time_equals_brute_force(filled, rows, period, characters, feature):
    frame = rows["model_interpretability"].query("model_name == 'ridge' and model_version == '2' and interpretation_type == 'local'").dropna(subset="shap_value")
    if feature: frame = frame[frame.feature_name == feature]
    expected = frame.shap_value.abs().groupby([frame.feature_name, frame.sample_id.str[:characters]]).agg(["mean", "size"])
    answer = told(filled.frame("shap_over_time", **of_version, feature_name=feature, period=period), "feature_name", "period")
    assert answer.index.tolist() == expected.index.tolist() and answer.predictions.tolist() == expected["size"].tolist()
    np.testing.assert_allclose(answer.mean_absolute_shap, expected["mean"], rtol=1e-12)


def test_attribution_history_of_a_period(filled, rows):
    since, until = start + pd.Timedelta("10h"), start + pd.Timedelta("30h")
    frame = rows["model_interpretability"].query("feature_name == 'range' and interpretation_type == 'global'")
    for given, within in ((dict(since=since), frame.timestamp >= since), (dict(until=until.isoformat()), frame.timestamp < until), (dict(since=since, until=until), (frame.timestamp >= since) & (frame.timestamp < until))):
        assert 0 < within.sum() < len(frame) and len(filled.frame("attribution_history", feature_name="range", **given)) == within.sum()


@pytest.mark.parametrize("hostile", ["%", "_", "p%", "p-0", "", "p' OR '1'='1", "no such"])
def test_an_explanation_is_found_by_its_own_id(filled, rows, hostile):
    expected = rows["model_interpretability"].prediction_id.map(lambda one: one == hostile or one.startswith(f"{hostile}-"))
    assert len(filled.frame("explanation", explanation_id=hostile)) == expected.sum()


# how languages sort, as far as it matters here: case last, and punctuation before digits and letters (Unicode), or overlooked unless all else is equal (older C libraries)
orders = {"bytes": lambda text: text.encode(), "Unicode": lambda text: ([(c.isalpha(), c.isdigit(), c.lower()) for c in text], text.swapcase()),
          "overlooks punctuation": lambda text: ("".join(filter(str.isalnum, text)).lower(), text.swapcase())}
pairs = [(one, row) for one in ("20260131T120000_1a2b3c4d", "0f3a", "abc9", "ABC", "z") for row in (one, *(f"{one}-{i}" for i in (0, 1, 9, 10, 99, 123456)))]


@pytest.mark.parametrize("order", orders)
def test_the_range_of_an_explanation_holds_in_any_order(order):
    "The ids of an explanation's rows lie in the range of the index that the question reads, however a database sorts text"
    key = orders[order]
    for low, row in pairs: assert key(low) <= key(row) < key(f"{low}-a"), row


def test_the_range_of_an_explanation_holds_in_the_servers_collations(postgres_url):
    with Database(postgres_url) as database, database.transaction(checked=False) as connection:
        known = connection.exec_driver_sql("SELECT quote_ident(collname) FROM pg_collation WHERE collisdeterministic AND collprovider <> 'i' "
                                           "AND collencoding IN (-1, pg_char_to_encoding('UTF8'))").scalars().all()
        assert len(known) >= 3   # which there are is up to the server
        for collation in known:
            for low, row in pairs:
                inside = sa.text(f"SELECT CAST(:row AS text) >= CAST(:low AS text) COLLATE {collation} AND CAST(:row AS text) < CAST(:high AS text) COLLATE {collation}")
                assert connection.execute(inside, {"row": row, "low": low, "high": f"{low}-a"}).scalar(), (row, collation)


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
    with pytest.raises(InputError, match="year, month, day"): statement("shap_over_time", **of_version, period="week")
    with pytest.raises(InputError): statement("comparisons_in_period", start="yesterday", end="2026-01-01")
