"The feature study: associations against loops, no finding on noise, a holdout that changes nothing that is learned, rows on record, and the template."
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from alphaplus_ml.config import Settings, sqlite_url
from alphaplus_ml.core import InputError, MemoryRecorder, UnknownNameError
from alphaplus_ml.evaluation.metrics import rank_ic
from alphaplus_ml.evaluation.splits import split_holdout
from alphaplus_ml.experiments import run_experiment
from alphaplus_ml.features.drift import DriftReference, feature_drift
from alphaplus_ml.features.engine import build_features
from alphaplus_ml.features.study import FeatureStudyConfig, association, association_table, feature_study, kind_of_association
from alphaplus_ml.market.labels import forward_return, label_end
from alphaplus_ml.market.sources import load_market
from alphaplus_ml.store.database import Database

pytestmark = pytest.mark.usefixtures("mlflow_tables")

config = FeatureStudyConfig(study_id="test", features=("gap", "close_location", "intraday_return", "range_expansion_20", "rank(momentum_5)", "weekday_sin", "dispersion_20"), n_explained=40)


@pytest.fixture(scope="module")
def panel(): return load_market("planted", n_symbols=10, n_bars=360, ic=0.25, seed=3)


@pytest.fixture(scope="module")
def study(panel):
    recorder = MemoryRecorder()
    return feature_study(panel, config, recorder=recorder), recorder


def test_association_across_symbols_is_the_rank_ic(panel):
    x, y = build_features(panel, "close_location")["close_location"], forward_return(panel)
    assert kind_of_association(x) == "rank_ic" and association(x, y, "rank_ic").mean() == pytest.approx(rank_ic(y, x))


def test_association_over_time_equals_a_loop(panel):
    "Each place among the values so far, symbol by symbol; rows in any order"
    rng = np.random.default_rng(0)
    x, y = build_features(panel, "momentum_20")["momentum_20"].where(rng.random(len(panel)) > 0.1), forward_return(panel)
    products = {}
    for symbol in panel.index.levels[1]:
        places = []
        for series in (x, y):
            one = series.xs(symbol, level="symbol").dropna()
            ranks = [stats.rankdata(one.iloc[:k + 1])[-1] if k >= 19 else np.nan for k in range(len(one))]
            places.append(pd.Series([2*(rank - 0.5)/(k + 1) - 1 for k, rank in enumerate(ranks)], one.index))
        products[symbol] = 3*places[0]*places[1]
    expected = pd.DataFrame(products).mean(axis=1)
    shuffled = np.random.default_rng(1).permutation(len(x))
    found = association(x.iloc[shuffled], y.iloc[shuffled], "over_time")
    pd.testing.assert_series_equal(found.dropna(), expected.reindex(found.index).dropna(), check_names=False, check_freq=False)


def test_what_is_the_same_for_all_symbols_is_asked_over_time(panel):
    X = build_features(panel, ["weekday_sin", "dispersion_20", "momentum_20"])
    assert [kind_of_association(X[name]) for name in X] == ["over_time", "over_time", "rank_ic"]
    assert kind_of_association(X["momentum_20"].xs("P01", level="symbol", drop_level=False)) == "over_time"
    late = X["momentum_20"].where(X.index.codes[0] > 240)     # a feature with a long warm-up still has a cross-section where it has values
    assert kind_of_association(late) == "rank_ic"


def test_slow_features_of_unpredictable_prices_are_not_associated():
    "The bias of means over the whole sample (Stambaugh 1999) is there, and ours does not have it"
    ordinary, ours = [], []
    for seed in range(40):
        noise = load_market("planted", n_symbols=1, n_bars=450, seed=seed, ic=0.0)
        x, y = build_features(noise, "drawdown_250")["drawdown_250"], forward_return(noise)
        ordinary.append(x.corr(y, method="spearman"))
        ours.append(association(x, y, "over_time").mean())
    t = lambda values: np.mean(values)/(np.std(values, ddof=1)/len(values)**0.5)
    assert t(ordinary) < -4 and abs(t(ours)) < 3


def test_nothing_is_found_in_noise():
    found = []
    for seed in range(16):
        noise = load_market("planted", n_symbols=8, n_bars=300, seed=seed, ic=0.0)
        X, y = build_features(noise, ["momentum", "range", "calendar"]), forward_return(noise)
        table = association_table(X, y, *split_holdout(X, fraction=0.2, label_end=label_end(noise)))
        found.append(table.found.any())
        assert (table.p_value < 0.05).mean() < 0.35
    assert sum(found) <= 3


def test_a_planted_signal_is_found_and_holds(study):
    table = study[0].table
    assert table.loc["close_location", ["found", "holds"]].all() and table.loc["close_location", "mean"] < -0.1
    assert not table.loc["weekday_sin", "found"] and (table.p_adjusted >= table.p_value - 1e-12).all()
    assert "features are associated with the return over 1 bar" in study[0].verdict and study[0].metrics()["n_found"] == table.found.sum()


def test_the_holdout_changes_nothing_that_is_learned(panel, study):
    "Garbage in the holdout's bars leaves associations, importances, correlations and references of the development rows as they are"
    _, holdout = split_holdout(study[0].X, fraction=config.holdout, label_end=label_end(panel))
    late = panel.index.get_level_values("timestamp") > panel.index[holdout].get_level_values("timestamp").min()
    poisoned = panel.copy()
    poisoned.loc[late] *= np.random.default_rng(0).uniform(2, 3, (late.sum(), 1))
    again = feature_study(poisoned, config)
    learned = ["mean", "se", "p_value", "p_adjusted", "importance"]
    pd.testing.assert_frame_equal(again.table[learned].sort_index(), study[0].table[learned].sort_index())
    for one, two in zip(again.catalogue.rows(), study[0].catalogue.rows()):
        assert one["correlation_with_target"] == two["correlation_with_target"] and one["metadata"]["drift_reference"] == two["metadata"]["drift_reference"]
    assert again.table.psi.ne(study[0].table.psi).any()


def test_rows_on_record_replace_the_older_ones_and_hold_the_reference(panel, study):
    result, recorder = study
    feature_study(panel, config.model_copy(update={"study_id": "later"}), recorder=recorder)
    rows = recorder.frame("advanced_feature_engineering")
    assert set(rows[rows.is_active].version) == {"later"} and len(rows) == 2*len(result.table)
    assert rows[["importance_score", "correlation_with_target", "feature_drift_score"]].notna().all().all()
    stored = {row.feature_name: json.loads(json.dumps(row.metadata))["drift_reference"] for row in rows[rows.version == "later"].itertuples()}
    development, holdout = split_holdout(result.X, fraction=config.holdout, label_end=label_end(panel))
    found = feature_drift(DriftReference.from_metadata(stored), result.X.iloc[holdout][list(stored)]).set_index("feature")
    np.testing.assert_allclose(found.psi.loc[result.table.index], result.table.psi, rtol=1e-9)


def test_same_seed_same_study(panel, study):
    pd.testing.assert_frame_equal(feature_study(panel, config).table, study[0].table)


@pytest.mark.parametrize("bad, error, says", [
    ({"features": ("momentun_5",)}, UnknownNameError, "momentum_5"), ({"features": ("momentum_250",)}, UnknownNameError, "momentum"),
    ({"horizon": 300}, InputError, "horizon|label|bars"), ({"features": ("range_expansion_20",), "holdout": 0.89}, InputError, "20 timestamps|timestamps")])
def test_wrong_input_is_refused_in_words(bad, error, says):
    short = load_market("planted", n_symbols=3, n_bars=40)
    with pytest.raises(error, match=says): feature_study(short, config.model_copy(update=bad))


def test_the_template_records_its_catalogue(tmp_path):
    "Through papermill into SQL, on a panel of three symbols and with exogenous columns left out"
    settings = Settings(runs=tmp_path)
    run = run_experiment("feature_study", {"features": "range, momentum_5", "horizon": 2}, settings=settings)
    assert run.status == "completed" and run.metrics["n_features"] > 5
    rows = Database(sqlite_url(tmp_path/"alphaplus.db")).frame("advanced_feature_engineering", version=run.id)
    assert len(rows) == run.metrics["n_features"] and rows.is_active.all() and rows.feature_drift_score.notna().all()
