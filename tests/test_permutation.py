"Permutation importance against scikit-learn's, against shuffling by hand, and on data whose answer is known; orders, groups, clusters, both routes."
import json

import catboost
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import given, settings, strategies as st
from scipy import stats
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor, VotingRegressor
from sklearn.inspection import permutation_importance as theirs
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from alphaplus_ml.core import InputError, MemoryRecorder
from alphaplus_ml.evaluation.metrics import metrics, sign
from alphaplus_ml.explain import permutation
from alphaplus_ml.explain.permutation import PermutationImportance, correlation_clusters, permutation_importance, shuffled_orders
from alphaplus_ml.models import make_model
from alphaplus_ml.models.base import forecast, models

pytestmark = pytest.mark.filterwarnings("error")
rng = np.random.default_rng(11)
index = pd.MultiIndex.from_product([pd.date_range("2024-01-01", periods=60, tz="UTC"), list("ABCDEFGH")], names=["timestamp", "symbol"])
n, mood = len(index), np.repeat(rng.normal(size=60), 8)
X = pd.DataFrame({"a": rng.normal(size=n), "b": rng.normal(size=n), "mood": mood, "noise": rng.normal(size=n)}, index)
X["twin"] = X.a + 0.05*rng.normal(size=n)
y = X.a + X.mood + 0.3*X.a*X.b + pd.Series(rng.normal(size=n), index)
two, three = (y > 0).astype(int), pd.cut(y, 3, labels=[0, 1, 2]).astype(int)
gaps = X.mask(rng.random(X.shape) < 0.1)
train, held = index[:320], index[320:]

gbm, xgb = {"n_estimators": 20, "num_leaves": 8, "verbose": -1, "n_jobs": 1}, {"n_estimators": 20, "max_depth": 4, "n_jobs": 1}
cat, few = {"iterations": 20, "silent": True, "thread_count": 1, "allow_writing_files": False}, {"n_estimators": 10, "max_depth": 5, "random_state": 0}
by_trees = {"LightGBM": (lightgbm.LGBMRegressor(**gbm), y), "LightGBM, two": (lightgbm.LGBMClassifier(**gbm), two), "LightGBM, poisson": (lightgbm.LGBMRegressor(objective="poisson", **gbm), two),
            "XGBoost": (xgboost.XGBRegressor(**xgb), y), "XGBoost, two": (xgboost.XGBClassifier(**xgb), two), "CatBoost": (catboost.CatBoostRegressor(**cat), y),
            "CatBoost, two": (catboost.CatBoostClassifier(**cat), two), "forest": (RandomForestRegressor(**few), y), "forest, two": (RandomForestClassifier(**few), two),
            "extra trees": (ExtraTreesRegressor(**few), y), "boosting, two": (GradientBoostingClassifier(n_estimators=10, random_state=0), two),
            "histogram, two": (HistGradientBoostingClassifier(max_iter=10, random_state=0), two)}


def by_hand(model, rows, columns, orders):
    "Predictions with some columns shuffled, one order after the other"
    found = []
    for order in orders:
        changed = rows.copy()
        for column in columns: changed[column] = rows[column].to_numpy()[order]
        found.append(forecast(model, changed))
    return np.array(found)


@pytest.mark.parametrize("name", by_trees)
def test_trees_walked_again_predict_what_the_model_predicts(name):
    model, target = by_trees[name]
    rows = X if name in ("boosting, two",) else gaps
    model.fit(rows.loc[train], target[train])
    groups, orders = {"first": ["a", "twin"], "b": ["b"], "mood": ["mood"], "noise": ["noise"]}, shuffled_orders(held, 3)
    own = permutation._own_trees(model, rows.loc[held], forecast(model, rows.loc[held]))
    found = list(permutation._by_trees(own, permutation._positions(rows, groups), orders))
    for columns, one in zip(groups.values(), found):
        expected = by_hand(model, rows.loc[held], columns, orders)
        assert np.ptp(expected, axis=0).max() > 0.01 or columns == ["noise"]
        assert np.abs(one - expected).max() < (1e-5 if "XGBoost" in name else 1e-12)
        if "XGBoost" not in name: assert np.array_equal(*(np.unique(kind, return_inverse=True)[1] for kind in (one, expected))), "ties stay ties"
    found = permutation_importance(model, rows.loc[held], target[held], "rmse")
    assert "trees walked again" in found.route


def test_few_numbers_at_once_change_nothing(monkeypatch):
    model = lightgbm.LGBMRegressor(**gbm).fit(X.loc[train], y[train])
    whole = permutation_importance(model, X.loc[held], y[held])
    monkeypatch.setattr(permutation, "most_numbers", 2*5*len(held))   # two groups at a time
    assert permutation_importance(model, X.loc[held], y[held]).drops.equals(whole.drops)
    line = Ridge().fit(X.loc[train], y[train])
    whole = permutation_importance(line, X.loc[held], y[held])
    monkeypatch.setattr(permutation, "most_rows", 2*len(held))
    assert np.allclose(permutation_importance(line, X.loc[held], y[held]).drops, whole.drops, atol=1e-14)


general = {"line": Ridge(), "pipeline": make_pipeline(StandardScaler(), Ridge()), "average": VotingRegressor([("line", Ridge()), ("trees", lightgbm.LGBMRegressor(**gbm))])}

@pytest.mark.parametrize("name", ["LightGBM", "XGBoost", "CatBoost", "forest", *general])
@pytest.mark.parametrize("metric, scoring", [("rmse", "neg_root_mean_squared_error"), ("mae", "neg_mean_absolute_error")])
def test_scikit_learn_finds_the_same_with_the_same_orders(name, metric, scoring, monkeypatch):
    model = (general[name] if name in general else by_trees[name][0]).fit(X.loc[train], y[train])
    expected = theirs(model, X.loc[held], y[held], scoring=scoring, n_repeats=4, random_state=7)
    def orders(index, n_repeats, within, seed):
        assert within is None
        draw, moves, order = np.random.RandomState(np.random.RandomState(7).randint(np.iinfo(np.int32).max + 1)), np.arange(len(index)), np.arange(len(index))
        found = []
        for _ in range(n_repeats):
            draw.shuffle(moves)
            order = order[moves]
            found.append(order)
        return np.array(found)
    monkeypatch.setattr(permutation, "shuffled_orders", orders)
    found = permutation_importance(model, X.loc[held], y[held], metric, n_repeats=4)
    within = 1e-6 if name == "XGBoost" else 1e-12
    assert np.allclose(found.drops, expected.importances, atol=within)
    assert np.allclose(found.frame.loc[list(X), "mean"], expected.importances_mean, atol=within) and np.allclose(found.frame.loc[list(X), "std"], expected.importances_std, atol=within)
    assert found.frame["mean"].is_monotonic_decreasing


def permutation_importance_of(*given, **options): return permutation_importance(*given, **{"n_repeats": 1, "blocks": 2, **options})


def test_callables_boosters_and_classes():
    line = Ridge().fit(X.loc[train], y[train])
    as_model, as_function = (permutation_importance_of(one, X.loc[held], y[held], "mae") for one in (line, lambda rows: line.predict(rows)))
    assert as_model.drops.equals(as_function.drops) and as_function.route == "predictions of the model"
    model = lightgbm.LGBMRegressor(**gbm).fit(X.loc[train], y[train])
    assert permutation_importance_of(model, X.loc[held], y[held]).drops.equals(permutation_importance_of(model.booster_, X.loc[held], y[held]).drops)
    several = LogisticRegression().fit(X.loc[train], three[train])
    assert permutation_importance_of(several, X.loc[held], three[held]).metric == "accuracy"
    one = permutation_importance_of(several, X.loc[held], three[held], label=2)
    said = several.predict_proba(X.loc[held])[:, 2]
    assert one.metric == "log_loss" and np.isclose(one.baseline, -np.log(np.where(three[held] == 2, said, 1 - said)).mean())
    yes = lightgbm.LGBMClassifier(**gbm).fit(X.loc[train], two[train])
    assert permutation_importance_of(yes, X.loc[held], two[held]).metric == "log_loss"
    assert np.allclose(permutation_importance_of(yes, X.loc[held], two[held], label=1).drops, permutation_importance_of(yes, X.loc[held], two[held]).drops)
    assert permutation_importance_of(line, X.loc[held].reset_index(drop=True), y[held].reset_index(drop=True)).metric == "time_series_ic"


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(1, 4), st.sampled_from([None, "timestamp", "symbol"]), st.integers(0, 1000))
def test_orders_are_permutations_within_their_groups(times, symbols, within, seed):
    rows = pd.MultiIndex.from_product([range(times), range(symbols)], names=["timestamp", "symbol"])
    rows = rows[np.random.default_rng(seed).permutation(len(rows))]
    if within == "timestamp" and symbols == 1:
        with pytest.raises(InputError, match="share"): shuffled_orders(rows, 3, within, seed)
        return
    orders = shuffled_orders(rows, 3, within, seed)
    assert (np.sort(orders, axis=1) == np.arange(len(rows))).all()
    if within: assert all((rows[order].get_level_values(within) == rows.get_level_values(within)).all() for order in orders)
    assert np.array_equal(orders, shuffled_orders(rows, 3, within, seed))


def test_every_order_is_as_likely_as_any_other():
    counts = np.unique(shuffled_orders(pd.RangeIndex(3), 6000), axis=0, return_counts=True)[1]
    assert len(counts) == 6 and stats.chisquare(counts).pvalue > 1e-3


def test_the_order_of_rows_does_not_decide_who_moves_with_whom():
    model = lightgbm.LGBMRegressor(**gbm).fit(X.loc[train], y[train])
    found = permutation_importance(model, X.loc[held], y[held], n_repeats=15)
    mixed = held[np.random.default_rng(0).permutation(len(held))]
    again = permutation_importance(model, X.loc[mixed], y[mixed], n_repeats=15)
    error = np.sqrt(found.frame["std"]**2 + again.frame["std"].reindex(found.frame.index)**2)/15**0.5
    assert ((found.frame["mean"] - again.frame["mean"].reindex(found.frame.index)).abs() <= 5*error + 1e-12).all()
    assert np.isclose(found.baseline, again.baseline)


def test_blocks_are_stretches_of_time_in_any_order_of_rows():
    mixed = held[np.random.default_rng(0).permutation(len(held))]
    when = [mixed[rows].get_level_values("timestamp") for rows in permutation._time_blocks(mixed, 6)]
    assert all(before.max() < after.min() for before, after in zip(when, when[1:])) and sum(map(len, when)) == len(held)
    assert [rows.tolist() for rows in permutation._time_blocks(pd.RangeIndex(5), 2)] == [[0, 1, 2], [3, 4]]
    assert [rows.tolist() for rows in permutation._time_blocks(pd.DatetimeIndex(["2024-01-03", "2024-01-01", "2024-01-02"]), 9)] == [[1], [2], [0]]


def test_what_a_feature_is_worth():
    wide = pd.MultiIndex.from_product([pd.date_range("2024-01-01", periods=500, tz="UTC"), list("ABCDEFGH")], names=["timestamp", "symbol"])
    draw = np.random.default_rng(3)
    rows = pd.DataFrame(draw.normal(size=(len(wide), 3)), wide, list("abc"))
    target = 2*rows.a + 1*rows.b + pd.Series(draw.normal(size=len(wide)), wide)
    perfect = lambda X: 2*X.a + X.b
    found = permutation_importance(perfect, rows, target, "rmse", n_repeats=10, blocks=20).frame
    for name, slope in (("a", 2), ("b", 1)):   # the mean squared error grows by twice the variance of what is lost
        expected = np.sqrt(1 + 2*slope**2) - 1
        assert abs(found["mean"][name] - expected) < 0.06 and found.lower[name] < expected + 0.03 and found.upper[name] > expected - 0.03 and found.p_value[name] < 1e-6
    assert found.loc["c"].tolist() == [0, 0, 0, 0, 1]


def test_intervals_cover_the_truth():
    draw, covered = np.random.default_rng(0), []
    days = pd.date_range("2024-01-01", periods=300, tz="UTC")
    for _ in range(80):
        rows = pd.DataFrame(draw.normal(size=(300, 2)), days, ["used", "useless"])
        target = rows.used + pd.Series(draw.normal(size=300), days)
        frame = permutation_importance(lambda X: X.used + 0.3*X.useless, rows, target, "mae", n_repeats=3).frame
        truth = np.sqrt(2/np.pi)*(np.sqrt(1 + 1 + 1 + 0.09) - np.sqrt(1.09))
        covered.append(frame.lower["used"] <= truth <= frame.upper["used"])
    assert 0.87 <= np.mean(covered) <= 1


def test_a_feature_that_the_model_uses_in_vain():
    draw, p_values = np.random.default_rng(1), []
    days = pd.date_range("2024-01-01", periods=300, tz="UTC")
    for _ in range(60):   # noise in a forecast costs as much, whichever row's noise it is
        rows = pd.DataFrame(draw.normal(size=(300, 1)), days, ["noise"])
        p_values.append(permutation_importance(lambda X: X.noise, rows, pd.Series(draw.normal(size=300), days), "mae", n_repeats=2).frame.p_value["noise"])
    assert np.mean(np.array(p_values) < 0.05) <= 0.15 and stats.kstest(p_values, "uniform").pvalue > 0.01


def test_groups_twins_and_within():
    model = lightgbm.LGBMRegressor(**gbm).fit(X.loc[train], y[train])
    alone, together = permutation_importance(model, X.loc[held], y[held]), permutation_importance(model, X.loc[held], y[held], groups={"both": ["a", "twin"]})
    assert together.frame["mean"]["both"] > alone.frame["mean"][["a", "twin"]].max() and together.groups["both"] == ["a", "twin"]
    assert alone.within == "timestamp" and alone.frame["mean"]["mood"] == 0, "rank IC cannot see what is the same for all"
    anywhere = permutation_importance(model, X.loc[held], y[held], within=None)
    assert anywhere.within is None and anywhere.frame["mean"]["mood"] > 0.02
    assert permutation_importance(model, X.loc[held], y[held], "rmse").within is None
    assert permutation_importance(model, X.loc[held], y[held], "rmse", within="timestamp").frame["mean"]["mood"] == 0
    orders = shuffled_orders(held, 5, "timestamp")
    expected = [alone.baseline - metrics["rank_ic"](y[held], one) for one in by_hand(model, X.loc[held], ["b"], orders)]
    assert np.allclose(alone.drops.loc["b"], expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 1.0))
def test_clusters_part_the_columns_and_hold_what_they_promise(seed, threshold):
    draw = np.random.default_rng(seed)
    rows = pd.DataFrame(draw.normal(size=(60, 3)) @ draw.normal(size=(3, 7)) + 0.5*draw.normal(size=(60, 7)), columns=list("abcdefg"))
    found = correlation_clusters(rows.mask(draw.random(rows.shape) < 0.05), threshold)
    assert sorted(sum(found.values(), [])) == list("abcdefg")
    tie, whole = rows.corr("spearman").abs(), correlation_clusters(rows, threshold)
    assert all(tie.loc[columns, columns].to_numpy().min() >= threshold - 1e-9 for columns in whole.values())
    lists = list(whole.values())   # and no two of them could be one
    assert all(tie.loc[one + other, one + other].to_numpy().min() < threshold + 1e-9 for i, one in enumerate(lists) for other in lists[:i])
    assert permutation._positions(rows, whole).keys() == whole.keys()


def test_clusters_of_odd_columns():
    assert correlation_clusters(X[["a"]]) == {"a": ["a"]}
    assert correlation_clusters(X.assign(still=1.0, never=np.nan)[["a", "still", "never"]]) == {"a": ["a"], "still": ["still"], "never": ["never"]}
    assert correlation_clusters(pd.DataFrame({"a": [1.0, 2, 3], "down": [9.0, 4, 1]}), 1.0) == {"a and 1 more": ["a", "down"]}


def test_rows_and_plot():
    model, recorder = lightgbm.LGBMRegressor(**gbm).fit(X.loc[train], y[train]), MemoryRecorder()
    found = permutation_importance(model, X.loc[held], y[held], groups={"both": ["a", "twin"]}, model_name="trees", model_version="3", recorder=recorder)
    kept = recorder.tables[PermutationImportance.table]
    assert kept == found.rows() and [row["feature_importance_rank"] for row in kept] == [1, 2, 3, 4]
    assert [row["feature_name"] for row in kept] == list(found.frame.index) and {row["interpretation_type"] for row in kept} == {"global"}
    assert {(row["model_name"], row["model_version"], row["prediction_id"]) for row in kept} == {("trees", "3", found.importance_id)}
    facts = next(row for row in kept if row["feature_name"] == "both")["metadata"]
    assert facts["statistic"] == "permutation importance" and facts["group"] == ["a", "twin"] and facts["metric"] == "rank_ic" and facts["n_rows"] == len(held)
    json.dumps(kept)
    axes = found.plot(max_display=2).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == list(found.frame.index[:2])[::-1]


@pytest.mark.parametrize("name", list(models))
def test_every_registered_model_has_an_importance(name):
    classes = models.facts(name)["task"] == "classification"
    if models.facts(name)["kind"] != "tabular": pytest.skip("takes windows, not rows")
    model = make_model(name, **({"n_estimators": 20, "n_jobs": 1} if models.facts(name)["family"] == "boosting" else {})).fit(X.loc[train], (two if classes else y)[train])
    found = permutation_importance(model, X.loc[held], (two if classes else y)[held], "log_loss" if classes else "rmse", n_repeats=2)
    assert list(found.frame.columns) == ["mean", "std", "lower", "upper", "p_value"] and np.isfinite(found.frame.to_numpy()).all()
    assert ("trees" in found.route) == (models.facts(name)["family"] == "boosting")
    before = X.loc[held].copy()
    permutation_importance(model, before, (two if classes else y)[held], "log_loss" if classes else "rmse", n_repeats=1, blocks=2)
    assert before.equals(X.loc[held])


def test_the_direction_of_every_metric():
    model = lightgbm.LGBMRegressor(**gbm).fit(X.loc[train], y[train])
    for name in ("rmse", "mae", "median_absolute_error", "hit_rate", "ic", "rank_ic", "time_series_ic", "precision_at_top", "r2_out_of_sample", "pinball_loss"):
        found = permutation_importance(model, X.loc[held, :], y[held], name, groups={"both": ["a", "twin"], "rest": ["b", "mood", "noise"]}, n_repeats=2, blocks=2)
        orders = shuffled_orders(held, 2, found.within)
        shuffled = np.mean([metrics[name](y[held], one) for one in by_hand(model, X.loc[held], ["a", "twin"], orders)])
        assert found.frame["mean"]["both"] > 0 and np.isclose(found.frame["mean"]["both"], sign(name)*(found.baseline - shuffled))
    sharp = permutation_importance(model, X.loc[held], y[held], "pinball_loss", quantile=0.9, n_repeats=1)
    assert np.isclose(sharp.baseline, metrics["pinball_loss"](y[held], model.predict(X.loc[held]), quantile=0.9))


def test_short_and_odd_rows():
    model = Ridge().fit(X.loc[train], y[train])
    day = index[:8]
    found = permutation_importance(model, X.loc[day], y[day])
    assert found.n_blocks == 0 and found.frame[["lower", "upper", "p_value"]].isna().all(axis=None) and found.frame["mean"].notna().all()
    assert json.dumps(found.rows()[0]["metadata"]["statistic"])
    line = permutation_importance(Ridge().fit(X.loc[train].to_numpy(), y[train]), X.loc[held].to_numpy(), y[held].to_numpy(), "rmse")
    assert list(line.drops.index) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("change, says", [
    ({"X": X.loc[held, ["a", "b"]]}, "columns"), ({"X": X.loc[held, ["twin", "noise", "mood", "b", "a"]]}, "order"), ({"y": y[held].iloc[::-1]}, "index"), ({"y": y[held].iloc[:5]}, "index"),
    ({"y": y[held].where(y[held] > 0)}, "NaN"), ({"metric": "rmsee"}, "rmse"), ({"metric": "sharpe_ratio"}, "portfolio"), ({"n_repeats": 0}, "n_repeats"), ({"n_repeats": 2.5}, "n_repeats"),
    ({"blocks": 1}, "blocks"), ({"within": "sector"}, "sector"), ({"groups": {"g": ["a", "z"]}}, "holds columns"), ({"groups": {"g": ["a"], "h": ["a"]}}, "one group"), ({"groups": {"g": []}}, "at least one"),
    ({"X": X.loc[held[:2]], "y": y[held[:2]]}, "defined"), ({"model": Ridge()}, "fitted"), ({"X": X.loc[held].iloc[:0], "y": y[held].iloc[:0]}, "one row"), ({"model": Ridge().fit(X, y), "X": gaps.loc[held]}, "missing"),
    ({"X": X.loc[held].assign(a=np.inf)}, "finite")])
def test_wrong_inputs_are_refused(change, says):
    model = lightgbm.LGBMRegressor(**gbm).fit(X.loc[train], y[train])
    with pytest.raises(InputError, match=says): permutation_importance(**{"model": model, "X": X.loc[held], "y": y[held], **change})
