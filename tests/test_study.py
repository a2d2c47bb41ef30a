"The market study, end to end, and searches through papermill; the templates' own records are in test_templates."
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alphaplus_ml.config import Settings, sqlite_url
from alphaplus_ml.core import InputError, MemoryRecorder
from alphaplus_ml.evaluation.splits import split_holdout
from alphaplus_ml.experiments import run_experiment
from alphaplus_ml.features.engine import build_features
from alphaplus_ml.market.sources import load_market
from alphaplus_ml.store.database import Database
from alphaplus_ml.study import StudyConfig, explained_rows, held_out_model, market_study, study_data, study_search
from alphaplus_ml.tracking.to_mlflow import mlflow_client

pytestmark = pytest.mark.usefixtures("mlflow_tables")

config = StudyConfig(study_id="test", features=("momentum", "range", "volume", "cross-sectional"), n_trials=4, n_explained=15, seed=1)


@pytest.fixture(scope="module")
def panel(): return load_market("planted", n_symbols=10, n_bars=320, seed=1)


@pytest.fixture(scope="module")
def study(panel):
    recorder = MemoryRecorder()
    return market_study(panel, config, recorder=recorder), recorder


def test_same_seed_same_study(panel, study):
    again = market_study(panel, config)
    pd.testing.assert_frame_equal(again.leaderboard, study[0].leaderboard)
    for name, values in again.predictions.items(): pd.testing.assert_series_equal(values, study[0].predictions[name])
    assert again.metrics() == pytest.approx(study[0].metrics(), nan_ok=True)


def test_nothing_learned_knows_the_holdout(panel, study):
    "Garbage in the holdout's bars changes neither the trials nor the tuned model"
    data = study_data(panel, config)
    _, holdout = split_holdout(data.X, fraction=config.holdout, label_end=data.label_end)
    first = data.X.index[holdout].get_level_values("timestamp").min()
    poisoned = panel.copy()
    late = poisoned.index.get_level_values("timestamp") > first  # the bar at `first` still decides the last training label
    poisoned.loc[late] *= np.random.default_rng(0).uniform(2, 3, (late.sum(), 1))
    search = study_search(study_data(poisoned, config), config)
    pd.testing.assert_frame_equal(search.trials, study[0].tuned.trials)
    development = data.X.iloc[study[0].tuned.development]
    np.testing.assert_array_equal(search.model.predict(development), study[0].tuned.model.predict(development))


def test_every_prediction_is_of_a_holdout_row(study):
    result = study[0]
    holdout = result.data.X.index[result.tuned.holdout]
    development = result.data.label_end.iloc[result.tuned.development]
    assert all(values.index.equals(holdout) for values in result.predictions.values())
    assert development.max() <= holdout.get_level_values("timestamp").min()


def test_rows_reach_four_tables_under_one_id(study):
    tables = study[1].tables
    assert {row["optimization_id"] for row in tables["hyperparameter_optimization"]} == {"test"}
    assert {row["comparison_id"] for row in tables["model_performance_comparison"]} == {"test"}
    assert {row["model_version"] for row in tables["model_interpretability"]} == {"test"}
    assert all(row["importance_score"] is not None and row["feature_drift_score"] is not None for row in tables["advanced_feature_engineering"])
    assert sum(row["best_trial"] for row in tables["hyperparameter_optimization"]) == 1


def test_a_market_without_signal_has_no_winner():
    "Three markets in which nothing is planted: a winner in each would be a leak"
    winners = [market_study(load_market("planted", n_symbols=10, n_bars=320, ic=0.0, seed=seed), config.model_copy(update={"seed": seed, "n_trials": 2})).comparison.winner
               for seed in (2, 3, 4)]
    assert winners.count(None) >= 2


def test_a_strong_signal_is_found():
    study = market_study(load_market("planted", n_symbols=20, n_bars=500, ic=0.25, seed=0), config.model_copy(update={"n_trials": 2}))
    assert study.comparison.winner is not None and study.metrics()["holdout_value"] > 0.08


@pytest.mark.parametrize("bad, says", [({"features": ("momentun_20",)}, "momentum_20"), ({"model_name": "lightgmb"}, "lightgbm"), ({"horizon": 400}, "horizon")])
def test_bad_input_is_refused(panel, bad, says):
    with pytest.raises(InputError, match=says): market_study(panel, config.model_copy(update=bad))


small = {"source": "planted", "end": "2015-10-30", "features": "momentum_1, momentum_5, rsi_14", "n_trials": 3}


def search_run(runs, **parameters):
    "A small search through papermill: the run, its trials and its row"
    run = run_experiment("hyperparameter_optimization", small | parameters, settings=Settings(runs=runs, database_url=None, mlflow_uri=None, _env_file=None))
    with Database(sqlite_url(runs/"alphaplus.db")) as database:
        return run, database.frame("hyperparameter_optimization", optimization_id=parameters.get("optimization_id", run.id)), database.frame("ml_experiments", experiment_id=run.id).iloc[0]


def test_a_search_leaves_trials_numbers_and_pictures(tmp_path):
    "The best trial's row, the run's numbers and MLflow say the same; the pictures lie in the run's folder and in MLflow"
    run, trials, row = search_run(tmp_path, model_name="lightgbm_classifier", early_stopping=5, class_weight="balanced", uniqueness=True, horizon=3)
    assert run.status == "completed", run.error
    best = trials[trials.best_trial].iloc[0]
    found = best.validation_metrics
    assert len(trials) == run.metrics["n_trials"] == sum(run.metrics[f"n_{status}"] for status in ("complete", "pruned", "failed")) == 3 and best.objective_name == "log_loss"
    assert run.metrics["best_value"] == best.objective_value and [run.metrics["holdout_lower"], run.metrics["holdout_upper"]] == found["holdout_interval"]
    assert {name: run.metrics[name] for name in ("holdout_value", "pbo", "deflated_sharpe", "effective_trials")} == {name: found[name] for name in ("holdout_value", "pbo", "deflated_sharpe", "effective_trials")}
    assert row.tags["verdict"] == f"planted: {found['verdict']}"
    pictures = {path.stem for path in run.path.glob("*.png")}
    client = mlflow_client(Settings(runs=tmp_path, database_url=None, mlflow_uri=None, _env_file=None))
    logged = {Path(one.path).stem for one in client.list_artifacts(row.tags["mlflow_run_id"]) if one.path.endswith(".png")}
    assert {"history", "slice", "timeline", "parallel_coordinates", "overfitting"} <= pictures == logged


def test_a_search_goes_on_under_its_id(tmp_path):
    for n in (2, 3):
        run, trials, _ = search_run(tmp_path, model_name="ridge", optimization_id="mine", n_trials=n)
        assert run.metrics["n_trials"] == n and trials.trial_number.tolist() == list(range(n)) and trials.best_trial.sum() == 1


def test_a_search_that_makes_no_sense_reads_no_data(tmp_path):
    run, trials, row = search_run(tmp_path, model_name="logistic", metric="rank_ic")
    assert run.status == "failed" and "classification metric" in run.error["text"] and trials.empty and "data" not in row.config


def explained_run(runs, **parameters):
    "A small explanation through papermill: the run, its settings, and an open database"
    settings = Settings(runs=runs, database_url=None, mlflow_uri=None, _env_file=None)
    small = {"source": "planted", "end": "2015-10-30", "features": "momentum_1, momentum_5, rsi_14, volume_zscore_20", "n_explained": 40, "n_background": 60, "n_perturbations": 300, "n_repeats": 2}
    return run_experiment("explain_prediction", small | parameters, settings=settings), settings, Database(sqlite_url(runs/"alphaplus.db"))


def test_an_explained_model_leaves_rows_that_lead_back_to_the_market(tmp_path):
    "Local, global, permutation and drift rows under one version; each local row leads to its bar, where its values are the model's"
    run, settings, database = explained_run(tmp_path, model_name="lightgbm_classifier", model_version="7")
    assert run.status == "completed", run.error
    with database:
        rows = database.frame("model_interpretability", model_name="lightgbm_classifier", model_version="7")
        local, overall, drift = (rows[rows.interpretation_type == kind] for kind in ("local", "global", "drift"))
        shuffled = overall[[facts.get("statistic") == "permutation importance" for facts in overall.metadata]]
        assert len(local) == 40*4 and len(overall) - len(shuffled) == 4 and len(drift) == 4 and 1 <= len(shuffled) <= 4 and len(rows) == len(local) + len(overall) + len(drift)
        assert local[["shap_value", "eli5_value", "lime_value"]].notna().all(axis=None)
        bars = build_features(load_market("planted", end="2015-10-30"), ["momentum_1", "momentum_5", "rsi_14", "volume_zscore_20"])
        where = local.sample_id.str.split("|", expand=True)
        assert pd.to_datetime(where[0]).max() == bars.index.get_level_values("timestamp").max()
        known = [bars.at[(pd.Timestamp(time), symbol), name] for time, symbol, name in zip(where[0], where[1], local.feature_name)]
        np.testing.assert_allclose(local.feature_value, known)
        for _, one in local.groupby("prediction_id"):
            facts = one.metadata.iloc[0]
            assert facts["base_value"] + one.shap_value.sum() == pytest.approx(facts["prediction"], abs=1e-9)
        assert database.frame("latest_explanation", model_name="lightgbm_classifier", model_version="7").shap_value.notna().all()
        assert len(database.frame("comparison_by_id", comparison_id=run.id)) == 1
        row = database.frame("ml_experiments", experiment_id=run.id).iloc[0]
    assert run.metrics["n_explained"] == 40 and run.metrics["additivity_error"] < 1e-9 and 0 <= run.metrics["mean_surrogate_r2"] <= 1
    assert run.metrics["changed_size"] == sum(facts["changed"] for facts in drift.metadata) and row.tags["verdict"].startswith("planted: lightgbm_classifier's 40 explained predictions")
    logged = {one.path for one in mlflow_client(settings).list_artifacts(row.tags["mlflow_run_id"])}
    assert {"explanation.html", "waterfall.png", "agreement.png", "heat_map.png", "drift.png"} <= logged
    page = (run.path/"explanation.html").read_text()
    assert "<script" not in page and "src=\"http" not in page and "href=\"http" not in page


def test_one_method_and_a_model_that_cannot_be(tmp_path):
    run, _, database = explained_run(tmp_path, model_name="ridge", methods="eli5")
    assert run.status == "completed" and not [name for name in run.metrics if "rank_correlation" in name], run.error
    with database: assert database.frame("model_interpretability", model_version=run.id, interpretation_type="local").shap_value.isna().all()
    refused, _, database = explained_run(tmp_path, methods="shap, shapley")
    with database: assert refused.status == "failed" and "shapley" in refused.error["text"] and "data" not in database.frame("ml_experiments", experiment_id=refused.id).iloc[0].config


def test_the_newest_rows_are_explained_and_the_choice_is_the_seeds():
    index = pd.MultiIndex.from_product([pd.date_range("2020-01-01", periods=50, tz="UTC"), list("ABC")], names=["timestamp", "symbol"])[::-1]
    rows = explained_rows(index, 20, seed=1)
    assert set(rows) >= {0, 1, 2} and len(set(rows)) == 20 and list(rows) == sorted(rows)
    assert np.array_equal(rows, explained_rows(index, 20, seed=1)) and not np.array_equal(rows, explained_rows(index, 20, seed=2))
    assert list(explained_rows(index, 999)) == list(range(150)) and len(explained_rows(index[:3], 2)) == 2 and sum(explained_rows(index, 4) < 3) == 2
    with pytest.raises(InputError, match="Two rows"): explained_rows(index, 1)


@pytest.mark.parametrize("name", ["ridge", "lightgbm_classifier"])
def test_a_held_out_model_knows_nothing_of_the_holdout(panel, name):
    "Garbage in the holdout's labels changes no forecast"
    data = study_data(panel, config)
    y = (data.y > 0).astype(float).where(data.y.notna()) if name.endswith("classifier") else data.y
    first = held_out_model(data.X, y, name, label_end=data.label_end)
    garbled = y.copy()
    garbled.iloc[first.holdout] = 1 - garbled.iloc[first.holdout]
    again = held_out_model(data.X, garbled, name, label_end=data.label_end)
    unseen = data.X.iloc[first.holdout]
    np.testing.assert_array_equal(first.model.predict(unseen), again.model.predict(unseen))
    assert not set(first.train) & set(first.holdout) and set(first.judged) <= set(first.holdout) and set(first.comparison.leaderboard.index) == {"past_mean", name}
    assert data.label_end.iloc[first.train].max() <= unseen.index.get_level_values("timestamp").min()
