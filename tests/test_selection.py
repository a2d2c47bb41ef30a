"Feature selection: a contract for every selector, definitions against other libraries and loops, poisoned labels, null markets, records"
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.base import clone
from sklearn.linear_model import Lasso
from sklearn.metrics import mean_squared_error, mutual_info_score
from sklearn.pipeline import Pipeline
from sklearn.utils.estimator_checks import check_estimator
from statsmodels.api import OLS
from statsmodels.stats.inter_rater import fleiss_kappa
from statsmodels.stats.multitest import multipletests

from alphaplus_ml.core import InputError, MemoryRecorder, RunError, UnknownNameError
from alphaplus_ml.evaluation.metrics import ic_series, rank_ic
from alphaplus_ml.evaluation.significance import nadeau_bengio
from alphaplus_ml.evaluation.signals import mean_inference, newey_west_lags
from alphaplus_ml.evaluation.splits import WalkForward, split_holdout
from alphaplus_ml.features.engine import build_features
from alphaplus_ml.features.selection import FeatureSelectionConfig, FeatureSelector, record_selection, select_features, selection_stability, selectors
from alphaplus_ml.features.selectors import Training, bounded, inner_folds, moves, planted_features
from alphaplus_ml.market.labels import forward_return, label_end
from alphaplus_ml.models.base import make_model
from conftest import real_file

pytestmark = pytest.mark.filterwarnings("error")
every = sorted(selectors)
relevant = ["signal_a", "signal_b", "bend", "copy_a"]

@pytest.fixture(scope="module")
def strong(): return planted_features(11, n_times=260, n_symbols=10, n_noise=5, strength=0.5)

@pytest.fixture(scope="module")
def small(): return planted_features(4, n_times=200, n_symbols=5, n_noise=3, strength=0.8)

def names(method, X, y, **settings): return list(FeatureSelector(method, **settings).fit(X, y).get_feature_names_out())

# --- every selector ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", every)
def test_it_says_what_it_does(method):
    facts = selectors.facts(method)
    assert facts["score"] and facts["rule"] and facts["rows"] in ("bounded", "all") and selectors[method].__doc__

@pytest.mark.parametrize("method", every)
def test_planted_features_are_found(method, strong):
    X, y, ends = strong
    found = names(method, X, y, label_end=ends)
    assert "signal_b" in found and {"signal_a", "copy_a"} & set(found)
    assert len([name for name in found if name.startswith("noise")]) <= (4 if method == "lasso" else 2)   # the penalty that predicts best keeps small coefficients
    if method in ("mutual_information", "mean_shap", "permutation", "boruta"): assert "bend" in found
    two = names(method, X, y, label_end=ends, n_features=2)
    assert len(two) == 2 and set(two) <= set(relevant)

@pytest.mark.parametrize("method", every)
def test_order_and_unit_do_not_matter_and_seeds_reproduce(method, small):
    X, y, ends = small
    kept, first = (X.copy(), y.copy(), ends.copy()), FeatureSelector(method, label_end=ends).fit(X, y)
    mixed = np.random.default_rng(0).permutation(len(X))
    for again in (FeatureSelector(method, label_end=ends).fit(X, y), FeatureSelector(method, label_end=ends).fit(X.iloc[mixed], y.iloc[mixed]),
                  FeatureSelector(method, label_end=ends).fit(X[X.columns[::-1]], y)):
        pd.testing.assert_frame_equal(again.report().loc[X.columns], first.report(), check_names=False)
        assert again.threshold_ == first.threshold_
    assert names(method, X, 1000*y, label_end=ends) == list(first.get_feature_names_out())
    assert X.equals(kept[0]) and y.equals(kept[1]) and ends.equals(kept[2])

@pytest.mark.parametrize("method", every)
def test_gaps_empty_and_constant_features(method, small):
    X, y, ends = small
    rng = np.random.default_rng(1)
    holed = X.assign(empty=np.nan, constant=3.0, warm_up=X.noise_0.where(np.arange(len(X)) > 300), first=[1.0, *[np.nan]*(len(X) - 1)], two=[1.0, 2.0, *[np.nan]*(len(X) - 2)])
    holed["signal_b"] = holed.signal_b.where(rng.random(len(X)) > 0.1)
    found = FeatureSelector(method, label_end=ends).fit(holed, y)
    report = found.report()
    assert report.why["empty"] == "no value" and report.why["constant"] == report.why["first"] == "a single value" and report.why["signal_b"] == ""
    assert report.why["two"] == "values at fewer than 10 timestamps" and report.score[["empty", "constant", "first", "two"]].isna().all() and not report.selected[["empty", "constant", "first", "two"]].any()
    assert report.selected["signal_b"] and (report.score.isna() == (report.why != "")).all()

@pytest.mark.parametrize("method", every)
def test_one_feature_more_features_than_rows_and_none(method, small):
    X, y, ends = small
    assert names(method, X[["signal_b"]], y, label_end=ends) == ["signal_b"]
    days, rng = pd.date_range("2020-01-01", periods=40, tz="UTC"), np.random.default_rng(0)
    wide = pd.DataFrame(rng.normal(size=(40, 70)), days, [f"f{i:02}" for i in range(70)])
    assert len(names(method, wide, pd.Series(rng.normal(size=40), days))) <= 70
    dead = FeatureSelector(method).fit(wide[["f00"]]*0, pd.Series(rng.normal(size=40), days))
    assert not dead.support_.any() and np.isnan(dead.scores_).all()

@pytest.mark.parametrize("method", every)
def test_tiny_panels_and_still_labels(method, small):
    X, y, ends = small
    with pytest.raises(InputError, match="at least 10 timestamps"): FeatureSelector(method).fit(X.iloc[:45], y.iloc[:45])
    names(method, X.iloc[:60], y.iloc[:60], label_end=ends)
    assert names(method, X, y*0 + 1, label_end=ends) == []

@pytest.mark.parametrize("method", every)
def test_bounded_rows(method, strong):
    X, y, ends = strong
    assert "signal_b" in names(method, X, y, label_end=ends, n_rows=1300)

def test_scikit_learn_accepts_it():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        told = check_estimator(FeatureSelector("false_discovery_rate"), on_fail=None, on_skip=None)
    assert [check["check_name"] for check in told if check["status"] == "failed"] == [] and len(told) > 30

# --- definitions --------------------------------------------------------------------------------------------------------------

def test_moves_take_whole_cross_sections():
    X, y, ends = planted_features(0, n_times=60, n_symbols=5)
    data = Training(X, y, label_end=ends)
    for rows in moves(data, 20, "test"):
        step = np.unique((data.line.at[rows] - data.line.at)%60)
        assert len(step) == 1 and 6 <= step[0] <= 54 and (data.symbol[rows] == data.symbol).all()
    assert not np.array_equal(moves(data, 3, "test"), moves(data, 3, "other")) and np.array_equal(moves(data, 3, "test"), moves(data, 3, "test"))

@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 30), st.integers(1, 6))
def test_moves_in_ragged_panels_make_no_gaps(seed, t, s):
    X, y, _ = planted_features(seed, n_times=t, n_symbols=s)
    keep = np.random.default_rng(seed).random(len(X)) > 0.3
    keep[::s] = True                                                                  # one symbol is always there
    data = Training(X[keep], y[keep])
    rows, at = moves(data, 1)[0], data.line.at
    assert len(set((at[rows] - at)%t)) == 1 and rows.min() >= 0 and rows.max() < keep.sum()
    grid = {(time, symbol) for time, symbol in zip(at, data.symbol)}
    step = ((at[rows] - at)%t)[0]
    assert all(data.symbol[row] == symbol for row, time, symbol in zip(rows, at, data.symbol) if ((time + step)%t, symbol) in grid)

def test_inner_folds_are_purged():
    X, y, ends = planted_features(0, n_times=80, n_symbols=4, horizon=7)
    times = X.index.get_level_values(0)
    for data in (Training(X, y, label_end=ends), Training(X, y, horizon=7)):
        folds = inner_folds(data)
        assert len(folds) == 3
        for train, check in folds: assert ends.iloc[train].max() <= times[check].min()

def test_bounded_keeps_whole_timestamps(strong):
    X, y, ends = strong
    some = bounded(Training(X, y, label_end=ends, n_rows=1200))
    assert (some.X.groupby("timestamp").size() == 10).all() and len(some.X) == 1200 and some.X.index.is_monotonic_increasing
    assert bounded(Training(X, y, n_rows=len(X))).X is X

def test_mutual_information_against_a_loop(small):
    X, y, ends = small
    data = Training(X, y, label_end=ends)
    scores, threshold = selectors["mutual_information"](data)
    label = y.groupby("timestamp").rank(pct=True)
    def binned(values): return np.searchsorted(np.unique(np.quantile(values, np.arange(1, 5)/5)), values, side="right")
    rolled = [binned(label)] + [binned(label)[rows] for rows in moves(data, 19, "labels")]
    shared = np.array([[mutual_info_score(binned(X[name]), one) for name in X] for one in rolled])
    z = np.array([(shared[k] - np.delete(shared, k, 0).mean(0))/np.delete(shared, k, 0).std(0, ddof=1) for k in range(20)])
    np.testing.assert_allclose(scores, z[0])
    assert threshold == pytest.approx(z[1:].max())

def test_lasso_walks_forward_to_its_penalty(small):
    X, y, ends = small
    data = Training(X, y, label_end=ends)
    unit = ((y - y.mean())/y.std(ddof=0)).to_numpy()
    def standard(train, rows): return (X.iloc[rows] - X.iloc[train].mean())/X.iloc[train].std(ddof=0)
    every_row = np.arange(len(X))
    most = np.abs(standard(every_row, every_row).to_numpy().T @ unit).max()/len(X)
    def error(penalty): return np.mean([mean_squared_error(unit[check], Lasso(alpha=penalty).fit(standard(train, train), unit[train]).predict(standard(train, check)))
                                        for train, check in inner_folds(data)])
    best = min(most*np.geomspace(1, 0.01, 15), key=error)
    expected = np.abs(Lasso(alpha=best).fit(standard(every_row, every_row), unit).coef_)*y.std(ddof=0)
    np.testing.assert_allclose(selectors["lasso"](data)[0], expected, atol=1e-6)

@pytest.mark.parametrize("seed", range(3))
def test_false_discovery_rate_against_statsmodels(seed):
    X, y, ends = planted_features(seed, n_times=100, n_symbols=8, strength=0.12, horizon=3)
    found, p_values = FeatureSelector("false_discovery_rate", horizon=3, label_end=ends).fit(X, y), []
    for name in X:
        series = y.groupby("timestamp").rank().groupby("timestamp").corr(X[name].groupby("timestamp").rank()).to_numpy()
        fit = OLS(series, np.ones(100)).fit(cov_type="HAC", cov_kwds={"maxlags": newey_west_lags(100, 3)})
        ours = mean_inference(series, 3)
        assert np.isclose(ours.se, fit.bse[0])
        p_values.append(ours.p_value)
    np.testing.assert_allclose(found.scores_, -np.log10(p_values))
    assert found.support_.tolist() == multipletests(p_values, 0.05, "fdr_bh")[0].tolist()
    assert (found.support_ == (found.scores_ >= found.threshold_)).all()

def test_a_single_series_is_tested_over_time():
    rng, days = np.random.default_rng(0), pd.date_range("2015-01-01", periods=600, tz="UTC")
    X = pd.DataFrame(rng.normal(size=(600, 6)), days, list("abcdef"))
    y = 0.2*X.a + pd.Series(rng.standard_t(3, 600), days)
    found = FeatureSelector("false_discovery_rate").fit(X, y)
    series = [np.prod([(r := one.rank()).sub(r.mean())/r.std(ddof=0) for one in (X[name], y)], axis=0) for name in X]
    np.testing.assert_allclose(found.scores_, [-np.log10(mean_inference(one).p_value) for one in series])
    assert list(found.get_feature_names_out()) == ["a"]

def test_minimum_redundancy_against_its_definition(strong):
    X, y, ends = strong
    t = pd.Series({name: abs(mean_inference(ic_series(y, X[name], "spearman")).t) for name in X})
    alike = X.groupby("timestamp").rank(pct=True).corr().abs()
    taken, scores = [], {}
    while len(taken) < len(X.columns):
        now = {name: t[name]*(1 - max((alike.loc[name, other] for other in taken), default=0)) for name in X if name not in taken}
        best = max(now, key=now.get)
        taken.append(best)
        scores[best] = now[best]
    found = FeatureSelector("minimum_redundancy", label_end=ends).fit(X, y).report().score
    np.testing.assert_allclose(found, pd.Series(scores)[X.columns])
    assert list(scores.values()) == sorted(scores.values(), reverse=True)

@pytest.mark.parametrize("n_features", [None, 8])
def test_minimum_redundancy_takes_no_copy_twice(strong, n_features):
    X, y, ends = strong
    X = X.drop(columns="copy_a").assign(twin=X.signal_b, opposite=-X.signal_b, cube=X.signal_b**3)
    found = names("minimum_redundancy", X, y, label_end=ends, n_features=n_features)
    assert len({"signal_b", "twin", "opposite", "cube"} & set(found)) == 1 and "signal_a" in found

def test_elimination_finds_the_order_of_strength():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(800, 5)), pd.date_range("2015-01-01", periods=800, tz="UTC"), list("abcde"))
    y = X @ [0.1, 0.9, 0.0, 0.5, 0.3] + 0.1*rng.normal(size=800)
    report = FeatureSelector("recursive_elimination").fit(X, y).report()
    assert report.score.sort_values(ascending=False).index.tolist() == list("bdeac") and set(report.index[report.selected]) >= set("bdea")

def test_permutation_asks_the_model_that_it_is_for():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(1500, 4)), pd.date_range("2015-01-01", periods=1500, tz="UTC"), ["line", "bend", "noise", "other"])
    y = X.line + X.bend**2 + 0.1*rng.normal(size=1500)
    trees, line = (FeatureSelector("permutation", model_name=name).fit(X, y).report().score for name in ("lightgbm", "ridge"))
    assert trees.bend > 0.2 and abs(line.bend) < 0.05 and line.line > 0.2
    # moving a feature of a linear model loses twice the variance that it explains: b²E(x'-x)² = 2b² of var(y), which is about 3 here
    assert line.line == pytest.approx(2*(y.cov(X.line)/X.line.var())**2*(1500/(1500 + 1000))**2/y.var(), rel=0.5)

# --- noise ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method, horizon", [("false_discovery_rate", 1), ("false_discovery_rate", 5), ("minimum_redundancy", 1), ("mutual_information", 1), ("mutual_information", 5)])
def test_noise_is_seldom_chosen(method, horizon):
    chosen = []
    for seed in range(50):
        X, y, ends = planted_features(seed, n_times=120, n_symbols=5, n_noise=3, strength=0, horizon=horizon)
        chosen.append(bool(names(method, X.drop(columns="copy_a"), y, label_end=ends, horizon=horizon)))
    assert np.mean(chosen) <= 0.16                                                                     # 8 of 50 where 2.5 are expected

def test_slow_noise_does_not_fool_boruta_but_shuffled_shadows_do(monkeypatch):
    import alphaplus_ml.features.selection_methods as methods
    markets = [planted_features(seed, n_times=160, n_symbols=4, n_noise=5, strength=0, horizon=15) for seed in range(2)]
    def finds(): return sum(len(names("boruta", X, y, label_end=ends, horizon=15)) for X, y, ends in markets)
    moved = finds()
    monkeypatch.setattr(methods, "moves", lambda data, n, *path: np.array([np.random.default_rng(abs(hash(path)) + k).permutation(len(data.X)) for k in range(n)]))
    assert moved <= 3 and finds() >= 6

def test_selecting_gains_nothing_on_noise():
    lines = []
    for seed in range(12):
        X, y, ends = planted_features(seed, n_times=160, n_symbols=6, n_noise=16, strength=0)
        lines.append(select_features(X, y, FeatureSelectionConfig(methods=("minimum_redundancy",), n_features=5, model_name="ridge", n_splits=2, holdout=0), label_end=ends).impact.loc["minimum_redundancy"])
    lines = pd.DataFrame(lines)
    assert (lines.p_value < 0.05).sum() <= 3
    for name in ("with", "difference"): assert abs(lines[name].mean()) < 3*lines[name].std()/12**0.5

# --- select_features -----------------------------------------------------------------------------------------------------------

config = FeatureSelectionConfig(methods=("mutual_information", "ridge", "false_discovery_rate"), model_name="ridge", n_splits=3, selection_id="test")

@pytest.fixture(scope="module")
def result(small):
    X, y, ends = small
    recorder = MemoryRecorder()
    return select_features(X, y, config, label_end=ends, recorder=recorder), recorder

def same(one, other, *fields):
    for name in fields or ("scores", "choices", "stability", "impact", "folds"): pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name))
    assert one.selected == other.selected and one.thresholds.equals(other.thresholds)

def test_same_seed_any_row_order(small, result):
    X, y, ends = small
    mixed = np.random.default_rng(3).permutation(len(X))
    same(select_features(X.iloc[mixed], y.iloc[mixed], config, label_end=ends.iloc[mixed]), result[0])

@pytest.mark.parametrize("methods", [tuple(every)])
def test_no_choice_sees_the_holdout(methods):
    X, y, ends = planted_features(4, n_times=90, n_symbols=4, n_noise=1, strength=0.5)
    asked = FeatureSelectionConfig(methods=methods, model_name="ridge", n_splits=2)
    _, holdout = split_holdout(X, fraction=0.2, label_end=ends)
    rng, (dirty, wrong) = np.random.default_rng(0), (X.copy(), y.copy())
    dirty.iloc[holdout] = rng.normal(5, 9, (len(holdout), X.shape[1]))
    wrong.iloc[holdout] = rng.normal(1, 9, len(holdout))
    clean, poisoned = select_features(X, y, asked, label_end=ends), select_features(dirty, wrong, asked, label_end=ends)
    same(clean, poisoned, "scores", "choices", "stability", "folds")
    seen = [name for name in clean.impact if not name.startswith("holdout")]
    pd.testing.assert_frame_equal(clean.impact[seen], poisoned.impact[seen])
    assert not clean.impact.holdout_with.equals(poisoned.impact.holdout_with)

@pytest.mark.parametrize("horizon", [1, 6])
def test_no_choice_sees_its_test_part(horizon):
    "Everything from a fold's first test timestamp on is poisoned; so are labels that were not yet known by then"
    X, y, ends = planted_features(5, n_times=150, n_symbols=5, n_noise=3, strength=0.5, horizon=horizon)
    asked = FeatureSelectionConfig(methods=("mutual_information", "lasso", "minimum_redundancy"), model_name="ridge", n_splits=2, horizon=horizon, holdout=0)
    clean, times = select_features(X, y, asked, label_end=ends), X.index.get_level_values("timestamp")
    for fold, (_, test) in enumerate(WalkForward(2, horizon=horizon, label_end=ends).split(X)):
        rng, start, dirty, wrong = np.random.default_rng(fold), times[test].min(), X.copy(), y.copy()
        dirty[times >= start] = rng.normal(3, 9, ((times >= start).sum(), X.shape[1]))
        wrong[(ends > start).to_numpy()] = rng.normal(3, 9, (ends > start).sum())
        poisoned = select_features(dirty, wrong, asked, label_end=ends)
        for method in asked.methods: assert (poisoned.choices[method, fold] == clean.choices[method, fold]).all()

def test_impact_is_what_it_says(small, result):
    X, y, ends = small
    found = result[0]
    development, holdout = split_holdout(X, fraction=0.2, label_end=ends)
    seen, label, lines = X.iloc[development], y.iloc[development], {}
    for fold, (train, test) in enumerate(WalkForward(3, label_end=ends).split(seen)):
        for method in config.methods:
            kept = seen.columns[found.choices[method, fold]]
            if not kept.size: continue
            small_one, whole = (pd.Series(make_model("ridge").fit(part.iloc[train], label.iloc[train]).predict(part.iloc[test]), label.index[test]) for part in (seen[kept], seen))
            assert found.folds.loc[(method, fold), "with"] == pytest.approx(rank_ic(label.iloc[test], small_one)) and found.folds.loc[(method, fold), "n_selected"] == len(kept)
            assert found.folds.loc[(method, fold), "without"] == pytest.approx(rank_ic(label.iloc[test], whole))
            lines.setdefault(method, []).append(ic_series(label.iloc[test], small_one, "spearman") - ic_series(label.iloc[test], whole, "spearman"))
    for method, series in lines.items():
        told, line = mean_inference(pd.concat(series)), found.impact.loc[method]
        assert np.allclose([line.difference, line.lower, line.upper, line.p_value], [told.mean, told.lower, told.upper, told.p_value], equal_nan=True)
    kept = found.selected["ridge"]
    last = make_model("ridge").fit(seen[kept], label).predict(X.iloc[holdout][kept])
    assert found.impact.holdout_with["ridge"] == pytest.approx(rank_ic(y.iloc[holdout], pd.Series(last, y.index[holdout])))

@pytest.mark.parametrize("metric", ["rmse", "mae"])
def test_other_metrics_are_compared_by_fold(small, metric):
    X, y, ends = small
    found = select_features(X, y, config.model_copy(update={"metric": metric, "methods": ("ridge",)}), label_end=ends)
    line, direction = found.impact.loc["ridge"], -1
    d = direction*(found.folds["with"] - found.folds["without"]).to_numpy()
    sizes = [(len(train), len(test)) for train, test in WalkForward(3, label_end=ends).split(X.iloc[split_holdout(X, label_end=ends)[0]])]
    test = nadeau_bengio(d, *np.mean(sizes, axis=0))
    assert line.difference == pytest.approx(d.mean()) and line.p_value == pytest.approx(test.p_value)
    assert (line.lower <= 0 <= line.upper) == (line.p_value >= 0.05)

def test_two_symbols_go_by_the_time_series_ic():
    X, y, ends = planted_features(3, n_times=300, n_symbols=2, n_noise=3, strength=0.5)
    found = select_features(X, y, config.model_copy(update={"methods": ("ridge",)}), label_end=ends)
    line = found.impact.loc["ridge"]
    assert found.metric == "time_series_ic" and line.n == 180
    assert line.difference == pytest.approx((found.folds["with"] - found.folds["without"]).mean())     # folds of one size: the same mean
    one = X.xs("S00", level="symbol"), y.xs("S00", level="symbol"), ends.xs("S00", level="symbol")
    single = select_features(one[0], one[1], config.model_copy(update={"methods": ("ridge",)}), label_end=one[2])
    assert single.metric == "time_series_ic" and np.isfinite(single.impact.p_value["ridge"])

def test_nothing_chosen_is_told_and_not_counted():
    X, y, ends = planted_features(7, n_times=200, n_symbols=5, strength=0)
    found = select_features(X, y, FeatureSelectionConfig(methods=("false_discovery_rate", "ridge"), model_name="ridge", n_splits=2), label_end=ends)
    line = found.impact.loc["false_discovery_rate"]
    assert found.selected["false_discovery_rate"] == [] and line.n_empty == 2 and np.isnan([line["with"], line.difference, line.p_value]).all()
    assert "none in any fold" in found.verdicts["false_discovery_rate"] and np.isnan(found.stability.stability["false_discovery_rate"])
    row = found.rows()[0]
    assert row["performance_impact"]["with"] is None and "p_value" in row["performance_impact"]["not_finite"] and row["selected_count"] == 0

@pytest.mark.parametrize("difference, p_value, says", [(0.02, 0.01, "do not cost accuracy at 5 %"), (-0.02, 0.01, "worse"), (-0.02, 0.2, "not distinguishable"), (0.0, np.nan, "the same"), (np.nan, np.nan, "too few")])
def test_verdicts(difference, p_value, says):
    from alphaplus_ml.features.selection import _verdict
    line = {"with": 0.1, "without": 0.1 - difference, "difference": difference, "lower": -1, "upper": 1, "p_value": p_value, "n_empty": 1, "n_folds": 4}
    told = _verdict("lasso", "rank_ic", 3, 9, line)
    assert says in told and told.startswith("lasso keeps 3 of 9 features") and ("In 1 of 4 folds" in told) == np.isfinite(p_value)

def test_own_folds_threshold_and_no_holdout(small):
    X, y, ends = small
    asked = FeatureSelectionConfig(methods=("lasso",), threshold=1e9, splitter=WalkForward(2, embargo=3, label_end=ends), holdout=0, model_name="ridge")
    found = select_features(X, y, asked, label_end=ends, progress=False)
    assert found.selected == {"lasso": []} and found.thresholds["lasso"] == 1e9 and len(found.folds) == 2 and found.impact.holdout_with.isna().all()
    with pytest.raises(InputError, match="at least two folds"): select_features(X, y, asked.model_copy(update={"splitter": WalkForward(1)}), label_end=ends)

def test_stability_is_fleiss_kappa():
    rng = np.random.default_rng(0)
    for _ in range(20):
        chosen = rng.random((rng.integers(2, 9), rng.integers(2, 30))) < rng.uniform(0.2, 0.8)
        if not 0 < chosen.mean() < 1: continue
        count = chosen.sum(axis=0)
        assert selection_stability(chosen)[0] == pytest.approx(fleiss_kappa(np.c_[count, len(chosen) - count]))
    assert selection_stability(np.tile([True, False], (3, 1))) == (1.0, 1.0, 1.0)
    assert np.isnan(selection_stability(np.ones((3, 4)))).all()
    for wrong in (np.ones((1, 4)), np.ones(4)):
        with pytest.raises(InputError, match="at least two choices"): selection_stability(wrong)

def test_the_interval_of_stability_covers():
    rng, share = np.random.default_rng(0), np.array([0.95]*4 + [0.5]*4 + [0.05]*12)
    truth = 1 - (share*(1 - share)).mean()/(share.mean()*(1 - share.mean()))
    hits = [lower <= truth <= upper for _, lower, upper in (selection_stability(rng.random((40, 20)) < share) for _ in range(400))]
    assert 0.9 <= np.mean(hits) <= 0.99

# --- records -------------------------------------------------------------------------------------------------------------------

def test_rows_reach_the_table_and_the_newest_is_active(small, result, sqlite_database):
    X, y, ends = small
    found, table = result[0], "feature_selection_history"
    assert record_selection(found, sqlite_database) == 3 and result[1].tables[table] == found.rows()
    again = select_features(X.assign(empty=np.nan), y, config.model_copy(update={"selection_id": "later", "methods": ("ridge",)}), label_end=ends, recorder=sqlite_database)
    other = select_features(X, y, config.model_copy(update={"selection_id": "other", "methods": ("ridge",), "model_name": "lightgbm", "n_splits": 2}), label_end=ends, recorder=sqlite_database)
    rows = sqlite_database.frame(table).set_index(["selection_id", "selection_method"]).sort_index()
    assert rows.is_active.to_dict() == {("test", "mutual_information"): True, ("test", "ridge"): False, ("test", "false_discovery_rate"): True, ("later", "ridge"): True, ("other", "ridge"): True}
    row = rows.loc[("later", "ridge")]
    assert row.selected_features == again.selected["ridge"] and row.selected_count == len(again.selected["ridge"]) and row.total_features == 8 and row.model_name == "ridge"
    assert row.feature_scores["empty"] is None and row.feature_scores["not_finite"] == ["empty"] and row.feature_scores["signal_b"] == again.scores.ridge["signal_b"]
    kept = [score for name, score in row.feature_scores.items() if name in row.selected_features]
    assert min(kept) >= row.selection_threshold > max(score for name, score in row.feature_scores.items() if isinstance(score, float) and name not in row.selected_features)
    impact = row.performance_impact
    assert impact["metric"] == "rank_ic" and impact["with"] == again.impact["with"]["ridge"] and impact["without"] == again.impact.without["ridge"] and len(impact["folds"]["with"]) == 3
    assert row.metadata["verdict"] == again.verdict and row.metadata["left_out"] == {"empty": "no value"} and row.created_by and other.model_name == "lightgbm"
    with pytest.raises(InputError, match="belongs to one selection"): select_features(X, y, config, label_end=ends, recorder=sqlite_database)

def test_pictures(result):
    for figure in (result[0].plot_scores(3), result[0].plot_stability(), result[0].plot_impact()): assert figure.axes
    assert result[0].frequency.equals(pd.DataFrame({method: result[0].choices[method].mean(axis=1) for method in config.methods}).rename_axis(columns="method"))

# --- refusals ------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bad, says", [
    ({"methods": ("laso",)}, "lasso"), ({"methods": ("lasso", "lasso")}, "once"), ({"methods": ()}, "at least 1"), ({"model_name": "rigde"}, "ridge"), ({"metric": "qlike"}, "volatility"),
    ({"threshold": 0.1}, "one method"), ({"methods": ("lasso",), "threshold": 0.1, "n_features": 2}, "n_features"), ({"splitter": WalkForward(3), "embargo": 2}, "splitter"),
    ({"n_splits": 1}, "n_splits"), ({"level": 0}, "level"), ({"holdout": 1}, "holdout"), ({"metod": 1}, "metod")])
def test_wrong_configurations(bad, says):
    with pytest.raises(InputError, match=says): FeatureSelectionConfig(**bad)

@pytest.mark.parametrize("bad, says", [({"method": "borutta"}, "boruta"), ({"n_features": 2, "threshold": 0.1}, "by n_features or by a threshold"), ({"n_features": 0}, "n_features"), ({"n_features": True}, "n_features"),
                                       ({"level": 0.9}, "level"), ({"n_rows": 0}, "n_rows"), ({"horizon": 0}, "horizon"), ({"model_name": "lightgmb"}, "lightgbm")])
def test_wrong_selectors(bad, says, small):
    with pytest.raises(InputError, match=says): FeatureSelector(**{"method": "ridge"} | bad).fit(*small[:2])

def test_wrong_inputs(small):
    X, y, ends = small
    for wrong, says in ((dict(X=X.assign(signal_a=np.inf)), "finite"), (dict(y=y.iloc[::-1]), "index"), (dict(y=y.mask(y > y.quantile(0.9))), "missing only"), (dict(label_end=ends.iloc[1:]), "index"),
                        (dict(X=X.to_numpy()), "DataFrame")):
        with pytest.raises(InputError, match=says): select_features(**{"X": X, "y": y, "config": config, "label_end": ends} | wrong)
    with pytest.raises(InputError, match="timestamps"): select_features(X.iloc[:60], y.iloc[:60], config, label_end=ends.iloc[:60])
    with pytest.raises(UnknownNameError): FeatureSelector("nope").fit(X, y)

@pytest.mark.parametrize("function, says", [(lambda data: 1/0, "'mine' failed: ZeroDivisionError"), (lambda data: (np.zeros(3), 0), "'mine' gave scores of shape"), (lambda data: None, "'mine' failed: TypeError")])
def test_a_failing_selector_names_itself(function, says, small, monkeypatch):
    monkeypatch.setitem(selectors._members, "mine", function)
    monkeypatch.setitem(selectors._facts, "mine", {})
    with pytest.raises(RunError, match=says): FeatureSelector("mine").fit(*small[:2])
    with pytest.raises(RunError, match=says): select_features(*small[:2], FeatureSelectionConfig(methods=("mine",)), label_end=small[2])

def test_in_a_pipeline(small):
    X, y, ends = small
    chain = Pipeline([("select", FeatureSelector("ridge", n_features=2, label_end=ends).set_output(transform="pandas")), ("model", make_model("ridge"))])
    chain.fit(X, y)
    assert chain.predict(X).shape == (len(X),) and len(chain["select"].get_feature_names_out()) == 2
    assert clone(chain)["select"].label_end is not None and FeatureSelector("ridge").fit(X.to_numpy(), y.to_numpy()).transform(X.to_numpy()).ndim == 2

def test_real_bars():
    bars = pd.read_parquet(real_file("sp500_5yr_clean.parquet"))
    times = pd.to_datetime(bars["date"], utc=True)
    panel = bars.assign(timestamp=times)[bars.symbol.isin(sorted(bars.symbol.unique())[:8]) & (times > pd.Timestamp("2016-01-01", tz="UTC"))]
    panel = panel.set_index(["timestamp", "symbol"]).sort_index()[["open", "high", "low", "close", "volume"]]
    X = build_features(panel, ["momentum_20", "realised_volatility_20", "rsi_14"])
    found = select_features(X, forward_return(panel, 5), FeatureSelectionConfig(model_name="ridge", methods=("mutual_information", "lasso", "permutation", "false_discovery_rate"), horizon=5),
                            label_end=label_end(panel, 5))
    assert found.verdict.count("\n") == 3 and found.scores.notna().all(axis=None)
