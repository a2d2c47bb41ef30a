"Metrics against independent oracles, by properties, and on bad input"
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import linregress, norm, pearsonr, rankdata, spearmanr
import sklearn.metrics as peers
from sklearn.metrics import mean_absolute_error, mean_pinball_loss, median_absolute_error, root_mean_squared_error

from alphaplus_ml.core import InputError, UnknownNameError
from alphaplus_ml.evaluation.classification import calibration_table
from alphaplus_ml.evaluation.comparison import headline_interval
from alphaplus_ml.evaluation.metrics import (annual_return, annual_volatility, check_forecast_metric, default_metric, ic, ic_series, ic_summary, max_drawdown, metrics,
                                             net_returns, qlike, r2_out_of_sample, rank_ic, score, sharpe_ratio, sign, sortino_ratio,
                                             time_series_ic, turnover)
from alphaplus_ml.evaluation.pairs import correlations, grouped_correlation, grouped_ranks, groups_of, known_mean, pair

pytestmark = pytest.mark.filterwarnings("error")

def panel(t=40, s=7, seed=0, drop=0.15):
    "y and a prediction on an uneven panel: some rows absent, some values NaN, some ties"
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([pd.date_range("2021-03-01", periods=t, tz="UTC"), [f"S{i}" for i in range(s)]], names=["timestamp", "symbol"])
    index = index[rng.random(len(index)) > drop]
    y = pd.Series(rng.normal(size=len(index)).round(1), index)
    prediction = pd.Series((0.3*y + rng.normal(size=len(index))).round(1), index)
    return y.mask(rng.random(len(y)) < 0.1), prediction.mask(rng.random(len(y)) < 0.1)

def one_correlation(function, part):
    part = part.dropna()
    if len(part) < 3 or part.y.nunique() < 2 or part.prediction.nunique() < 2: return np.nan
    return function(part.y, part.prediction).statistic

ORACLES = {"pearson": pearsonr, "spearman": spearmanr}

@pytest.mark.parametrize("method", ORACLES)
@pytest.mark.parametrize("seed", range(4))
def test_ic_series_equals_a_loop_of_scipy(method, seed):
    y, prediction = panel(seed=seed, drop=0.4)
    both = pd.DataFrame({"y": y, "prediction": prediction})
    expected = [one_correlation(ORACLES[method], part) for _, part in both.groupby(level="timestamp")]
    found = ic_series(y, prediction, method)
    assert found.isna().any() and found.index.is_monotonic_increasing and str(found.index.tz) == "UTC"
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.isclose(metrics["ic" if method == "pearson" else "rank_ic"](y, prediction), np.nanmean(expected))

@pytest.mark.parametrize("method", ORACLES)
def test_time_series_ic_equals_a_loop_of_scipy(method):
    y, prediction = panel(s=2)
    both = pd.DataFrame({"y": y, "prediction": prediction})
    expected = np.mean([one_correlation(ORACLES[method], part) for _, part in both.groupby(level="symbol")])
    assert np.isclose(time_series_ic(y, prediction, method), expected)
    alone = both.xs("S0", level="symbol")
    assert np.isclose(time_series_ic(alone.y, alone.prediction, method), one_correlation(ORACLES[method], alone))

def test_overlapping_labels_leave_the_time_series_ic_plain():
    y, prediction = panel(t=200, s=1, drop=0)
    overlapping = y.fillna(0).rolling(5).sum().dropna()
    assert np.isclose(time_series_ic(overlapping, prediction), one_correlation(pearsonr, pd.DataFrame({"y": overlapping, "prediction": prediction})))

def test_errors_equal_scikit_learn():
    y, prediction = panel()
    both = pd.DataFrame({"y": y, "prediction": prediction}).dropna()
    assert np.isclose(metrics["rmse"](y, prediction), root_mean_squared_error(both.y, both.prediction))
    assert np.isclose(metrics["mae"](y, prediction), mean_absolute_error(both.y, both.prediction))
    assert np.isclose(metrics["hit_rate"](y, prediction), (np.sign(both.y) == np.sign(both.prediction)).mean())

# --- what every metric keeps, whoever registered it ---------------------------------------------------------------------------

FORECASTS = [name for name in metrics if metrics.facts(name)["task"] != "portfolio"]
PORTFOLIO = [name for name in metrics if metrics.facts(name)["task"] == "portfolio"]

def task(name): return metrics.facts(name)["task"]

def truth(name, t=40, s=7, seed=0, drop=0.15):
    "Labels that a metric can judge, and what a forecaster with a given error says"
    rng = np.random.default_rng(seed)
    y, _ = panel(t, s, seed, drop)
    latent = y if task(name) != "classification" else pd.Series(rng.normal(size=len(y)), y.index).where(y.notna())
    error = pd.Series(rng.normal(size=len(y)), y.index)
    if task(name) == "volatility": return np.exp(y), lambda size: np.exp(y + size*error)
    if task(name) == "classification": return (latent > rng.normal(size=len(y))).astype(float).where(y.notna()), lambda size: pd.Series(norm.cdf(latent + size*error), y.index)
    return y, lambda size: y + size*error

def example(name, **shape):
    "Labels and a forecast with gaps on an uneven panel"
    y, forecast = truth(name, **shape)
    return y, forecast(1.0).round(2).clip(lower=0.01 if task(name) == "volatility" else None).mask(np.random.default_rng(9).random(len(y)) < 0.1)

class TestEveryMetric:
    @pytest.mark.parametrize("name", metrics)
    def test_says_its_direction_unit_and_task(self, name):
        facts = metrics.facts(name)
        assert facts["direction"] in ("maximise", "minimise") and facts["unit"]
        assert facts["task"] in ("regression", "direction", "ranking", "volatility", "classification", "portfolio")
        assert metrics[name].__doc__ and sign(name) == (1 if facts["direction"] == "maximise" else -1)

@pytest.mark.parametrize("name", FORECASTS)
class TestEveryForecastMetric:
    def test_prefers_the_truth_to_what_is_unrelated(self, name):
        y, _ = truth(name, drop=0)
        y = y.dropna()
        mixed = pd.Series(np.random.default_rng(3).permutation(y), y.index)
        assert sign(name)*score(name, y, y) > sign(name)*score(name, y, mixed)
    def test_falls_as_a_forecast_gets_worse(self, name):
        values = np.zeros(3)
        for seed in range(4):
            y, forecast = truth(name, t=150, seed=seed, drop=0)
            keep = y.notna()
            values += [sign(name)*score(name, y[keep], forecast(size)[keep]) for size in (0.2, 1.0, 4.0)]
        assert values[0] > values[1] > values[2]
    def test_does_not_depend_on_row_order_or_on_the_kind_of_prediction(self, name):
        y, prediction = example(name)
        mixed = prediction.sample(frac=1, random_state=1)
        value = metrics[name](y, prediction)
        assert isinstance(value, float) and metrics[name](y, mixed) == value == metrics[name](y, prediction.to_numpy())
        assert np.isclose(metrics[name](y.loc[mixed.index], mixed), value)
    def test_leaves_incomplete_pairs_out(self, name):
        y, prediction = example(name)
        keep = (y.notna() & prediction.notna()) | (name == "r2_out_of_sample")   # whose benchmark uses labels without a prediction too
        assert np.isclose(metrics[name](y, prediction), metrics[name](y[keep], prediction[keep]))
    def test_leaves_its_input_alone(self, name):
        y, prediction = example(name)
        before = y.copy(), prediction.copy()
        metrics[name](y, prediction)
        assert y.equals(before[0]) and prediction.equals(before[1])
    def test_index_matching_decides_not_position(self, name):
        y, prediction = example(name)
        moved = prediction.set_axis(prediction.index[::-1])
        assert metrics[name](y, moved) != metrics[name](y, prediction)
    def test_of_nothing_is_nan(self, name):
        y, prediction = example(name, t=4)
        assert np.isnan(metrics[name](y, prediction*np.nan)) and np.isnan(metrics[name](y[:0], prediction[:0]))
    @pytest.mark.parametrize("shape", [dict(t=1, s=1), dict(t=1, s=7), dict(t=40, s=1), dict(t=40, s=2), dict(t=2, s=10_000)])
    def test_little_data_gives_a_number_or_nan(self, name, shape):
        y, prediction = example(name, **shape, drop=0)
        assert isinstance(metrics[name](y, prediction), float)
    def test_of_constants_gives_a_number_or_nan(self, name):
        y, prediction = example(name)
        flat = prediction*0 + 1
        for labels, forecast in ((y, flat), (flat, prediction), (flat, flat)):
            value = metrics[name](labels, forecast)
            assert isinstance(value, float) and not np.isinf(value)
    @pytest.mark.parametrize("spoil", [lambda y, p: (y.mask(y.index == y.index[3]), p), lambda y, p: (y, p.where(p.index != p.index[5], np.inf)),
                                       lambda y, p: (y, p.to_numpy()[:-1]), lambda y, p: (y, p*np.nan), lambda y, p: (y, p.reset_index(drop=True)),
                                       lambda y, p: (y, p.astype(str) + "x"), lambda y, p: (y, p.to_frame())])
    def test_score_refuses_bad_input(self, name, spoil):
        y, prediction = example(name)
        keep = y.notna() & prediction.notna()
        with pytest.raises(InputError): score(name, *spoil(y[keep], prediction[keep]))
    def test_by_timestamp_averages_to_the_metric(self, name):
        if not hasattr(metrics[name], "by_timestamp"): return
        y, prediction = example(name)
        daily = metrics[name].by_timestamp(y, prediction)
        assert np.isclose(daily.mean(), metrics[name](y, prediction)) and daily.index.is_monotonic_increasing

@pytest.mark.parametrize("name", PORTFOLIO)
class TestEveryPortfolioMetric:
    returns = pd.Series(np.random.default_rng(5).normal(0.001, 0.01, 300).round(4), pd.date_range("2020", periods=300, tz="UTC"))
    def test_falls_as_a_portfolio_gets_worse(self, name):
        worse = 2*self.returns if name == "annual_volatility" else self.returns - 0.002
        assert sign(name)*metrics[name](self.returns) > sign(name)*metrics[name](worse)
    def test_leaves_missing_returns_out(self, name):
        gappy = self.returns.mask(np.arange(300) % 7 == 0)
        value = metrics[name](gappy)
        assert isinstance(value, float) and value == metrics[name](gappy.dropna()) == metrics[name](gappy.tolist())
    @pytest.mark.parametrize("little", [[], [np.nan], [0.01], [-0.01], [0.0]*5, [0.01]*5, [-0.01]*5, [-1.0, 0.5], [-2.0, 0.1]])
    def test_little_gives_a_number_or_nan(self, name, little):
        value = metrics[name](little)
        assert isinstance(value, float) and not np.isinf(value)
    def test_refuses_what_is_no_return(self, name):
        for wrong in ([0.1, np.inf], ["a"], pd.DataFrame({"a": [0.1], "b": [0.2]})):
            with pytest.raises(InputError): metrics[name](wrong)
    def test_is_no_score(self, name):
        with pytest.raises(InputError, match="returns"): score(name, [1., 2.], [1., 2.])
        with pytest.raises(InputError, match="regression, direction or ranking"): check_forecast_metric(name)

@pytest.mark.parametrize("name", metrics)
def test_every_metric_has_an_interval(name):
    if name in PORTFOLIO: y, prediction = TestEveryPortfolioMetric.returns, None
    else:
        y, prediction = example(name, t=60, drop=0)
        keep = y.notna() & prediction.notna()
        y, prediction = y[keep], prediction[keep]
    lower, upper = headline_interval(name, y, prediction, n_bootstraps=60, level=0.99)
    value = metrics[name](*([y] if prediction is None else [y, prediction]))
    assert lower < upper and lower - 1e-9 <= value <= upper + 1e-9 or name in ("max_drawdown", "calmar_ratio", "calibration_error")   # biased in a drawn sample
    mixed = [None if one is None else one.sample(frac=1, random_state=0) for one in (y, prediction)]
    assert np.allclose((lower, upper), headline_interval(name, *mixed, n_bootstraps=60, level=0.99))
    if name in PORTFOLIO: assert np.isnan(headline_interval(name, y*np.nan)).all()
    else: assert np.isnan(headline_interval(name, y, prediction*np.nan)).all() and np.isnan(headline_interval(name, y[:3], prediction[:3])).all()

def test_intervals_leave_gaps_out_and_take_one_series():
    y, prediction = panel(t=60, s=1, drop=0)
    keep = y.notna() & prediction.notna()
    for name in ("rmse", "time_series_ic", "r2_out_of_sample", "hit_rate"):
        found = headline_interval(name, y, prediction, n_bootstraps=30)
        plain = headline_interval(name, y.droplevel("symbol"), prediction.droplevel("symbol"), n_bootstraps=30)
        assert np.allclose(found, plain)
        if name != "r2_out_of_sample": assert np.allclose(found, headline_interval(name, y[keep].to_numpy(), prediction[keep].to_numpy(), n_bootstraps=30))

def test_the_interval_of_r2_knows_the_mean_of_the_labels():
    y, prediction = panel(t=60)
    found = headline_interval("r2_out_of_sample", y, prediction, n_bootstraps=30)
    assert np.allclose(found, headline_interval("r2_out_of_sample", y + 3, prediction + 3, n_bootstraps=30))
    assert not np.allclose(found, headline_interval("r2_out_of_sample", y, prediction, 10, n_bootstraps=30))

def test_intervals_refuse_the_wrong_kind_of_series():
    y, prediction = panel()
    with pytest.raises(InputError, match="returns"): headline_interval("sharpe_ratio", y, prediction)
    with pytest.raises(InputError, match="prediction"): headline_interval("rmse", y)
    with pytest.raises(InputError, match="horizon"): headline_interval("rmse", y, prediction, 0)

@pytest.mark.parametrize("name", [name for name in FORECASTS if task(name) in ("classification", "volatility")])
def test_metrics_of_other_forecasts_are_not_offered_for_returns(name):
    with pytest.raises(InputError, match="rmse"): check_forecast_metric(name)
    y, prediction = panel()
    with pytest.raises(InputError): metrics[name](y, prediction)      # returns are neither classes nor variances

# --- pairs and groups -----------------------------------------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([-1e300, -2.0, -0.0, 0.0, 1e-300, 0.1, 0.1 + 1e-17, 3.0, 1e300])), max_size=60))
def test_grouped_ranks_equal_scipy(rows):
    group, values = np.array([g for g, _ in rows], dtype=int), np.array([v for _, v in rows], dtype=float)
    found = grouped_ranks(values, group, 7)
    for one in set(group): assert found[group == one].tolist() == rankdata(values[group == one]).tolist()
    assert len(found) == len(rows)

def test_grouped_ranks_of_more_groups_than_sixteen_bits_hold():
    rng = np.random.default_rng(0)
    group, values = rng.integers(0, 70_000, 200_000), rng.integers(0, 5, 200_000).astype(float)
    np.testing.assert_array_equal(grouped_ranks(values, group, 70_000), pd.Series(values).groupby(group).rank())

@pytest.mark.parametrize("sizes", [[], [0, 0], [3], [70_000, 0, 5, 2], [0]*5 + [10]*20_000 + [0, 1, 0], [65_536, 65_536], [4, 65_535, 3, 3]])
@pytest.mark.parametrize("mixed", [False, True])
def test_rank_correlation_in_blocks_is_the_correlation_of_ranks(sizes, mixed):
    rng, group = np.random.default_rng(1), np.repeat(np.arange(len(sizes)), sizes).astype(int)
    if mixed: group = rng.permutation(group)
    both = pd.DataFrame({"y": rng.normal(size=len(group)).round(1), "prediction": rng.normal(size=len(group))})
    ranks = [grouped_ranks(both[name].to_numpy(), group, len(sizes)) for name in both]
    found = correlations(both, group, len(sizes), "spearman")
    np.testing.assert_allclose(found, grouped_correlation(*ranks, group, len(sizes)), atol=1e-12)
    assert len(found) == len(sizes) and (np.isnan(found) >= (np.array(sizes, dtype=int) < 3)).all()

def test_groups_of_a_level_that_is_not_sorted():
    days = pd.DatetimeIndex(["2021-03-02", "2021-03-01", "2021-03-03"], tz="UTC")
    index = pd.MultiIndex(levels=[days, ["B", "A"]], codes=[[0, 0, 1], [0, 1, 0]], names=["timestamp", "symbol"])
    group, names = groups_of(index, "timestamp")
    assert group.tolist() == [1, 1, 0] and list(names) == [days[1], days[0]] and list(groups_of(index, "symbol")[1]) == ["A", "B"]
    with pytest.raises(InputError, match="timestamp"): groups_of(pd.MultiIndex.from_arrays([[pd.NaT], ["A"]], names=["timestamp", "symbol"]), "timestamp")

# --- further oracles --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(3))
def test_further_errors_equal_scikit_learn(seed):
    y, prediction = panel(seed=seed)
    both = pd.DataFrame({"y": y, "p": prediction}).dropna()
    assert np.isclose(metrics["median_absolute_error"](y, prediction), median_absolute_error(both.y, both.p))
    for quantile in (0.05, 0.5, 0.9):
        assert np.isclose(metrics["pinball_loss"](y, prediction, quantile=quantile), mean_pinball_loss(both.y, both.p, alpha=quantile))
    v, f = np.exp(both.y), np.exp(both.p)
    assert np.isclose(metrics["variance_mse"](v, f), ((v - f)**2).mean()) and np.isclose(metrics["mincer_zarnowitz_r2"](v, f), linregress(f, v).rvalue**2)
    with pytest.raises(InputError, match="quantile"): metrics["pinball_loss"](y, prediction, quantile=1)

@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_precision_at_the_top_equals_a_loop(share):
    y, prediction = panel(s=12, seed=2)
    values = []
    for _, part in pd.DataFrame({"y": y, "p": prediction}).dropna().groupby(level="timestamp"):
        top = lambda v: {i for i, rank in enumerate(rankdata(v)) if (rank - 0.5)/len(v) > 1 - share}
        chosen, right = top(part.p), top(part.y)
        if len(part) >= 3 and chosen: values.append(len(chosen & right)/len(chosen))
    assert np.isclose(metrics["precision_at_top"](y, prediction, share=share), np.mean(values))
    with pytest.raises(InputError, match="share"): metrics["precision_at_top"](y, prediction, share=0)

@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-0.5, 0.5).map(lambda x: round(x, 6)), min_size=1, max_size=40), st.sampled_from([0.01, 0.05, 0.25, 0.5]))
def test_the_bad_days_by_their_definitions(values, share):
    "Rockafellar and Uryasev: expected shortfall is the best value over levels c of c less the mean shortfall below c, over the share"
    r = np.array(values)
    at_risk, shortfall = metrics["value_at_risk"](r, share=share), metrics["expected_shortfall"](r, share=share)
    assert at_risk == min(x for x in values if (r <= x).mean() >= share - 1e-12)
    assert np.isclose(shortfall, max(c - np.maximum(c - r, 0).mean()/share for c in values)) and shortfall <= at_risk + 1e-12
    assert metrics["win_rate"](r) == (r > 0).mean()
    depth = max_drawdown(r)
    assert np.isclose(metrics["calmar_ratio"](r, 12), annual_return(r, 12)/-depth) if depth < 0 else np.isnan(metrics["calmar_ratio"](r, 12))

def test_patton_losses_rank_by_the_truth_behind_a_noisy_proxy():
    rng = np.random.default_rng(0)
    true = np.exp(rng.normal(size=20000)/2)
    proxy = true*rng.chisquare(1, 20000) + 1e-12
    for name in ("qlike", "variance_mse"): assert metrics[name](proxy, true) < min(metrics[name](proxy, true*0.6), metrics[name](proxy, true*1.5))
    assert np.abs(proxy - 0.6*true).mean() < np.abs(proxy - true).mean()       # the absolute error is fooled

# --- classes and probabilities ------------------------------------------------------------------------------------------------------

LABELS_ONLY = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "matthews_correlation")

@pytest.mark.parametrize("labels", [(0, 1), (-1, 1)])
def test_classification_equals_scikit_learn(labels):
    y, p = (values.dropna() for values in example("roc_auc", t=60, drop=0))
    y, p = y[y.index.intersection(p.index)], p[y.index.intersection(p.index)]
    true = y.map({0.0: labels[0], 1.0: labels[1]}).astype(float)
    hard = (p > 0.5).astype(int)
    expected = {"accuracy": peers.accuracy_score(y, hard), "balanced_accuracy": peers.balanced_accuracy_score(y, hard), "precision": peers.precision_score(y, hard),
                "recall": peers.recall_score(y, hard), "f1": peers.f1_score(y, hard), "matthews_correlation": peers.matthews_corrcoef(y, hard),
                "roc_auc": peers.roc_auc_score(y, p), "average_precision": peers.average_precision_score(y, p), "log_loss": peers.log_loss(y, p),
                "brier_score": peers.brier_score_loss(y, p)}
    for name, value in expected.items(): assert np.isclose(metrics[name](true, p), value), name
    for name in LABELS_ONLY:                                                        # predicted labels count as what they are
        assert np.isclose(metrics[name](true, hard.map({0: labels[0], 1: labels[1]})), expected[name]), name

def test_several_classes_equal_scikit_learn():
    rng = np.random.default_rng(0)
    true, said = rng.integers(-1, 2, 300), rng.integers(-1, 2, 300)
    assert metrics["accuracy"](true, said) == peers.accuracy_score(true, said)
    assert np.isclose(metrics["balanced_accuracy"](true, said), peers.balanced_accuracy_score(true, said))
    assert np.isclose(metrics["matthews_correlation"](true, said), peers.matthews_corrcoef(true, said))
    for name in ("roc_auc", "log_loss", "brier_score", "f1", "precision"):
        with pytest.raises(InputError, match="two classes"): metrics[name](true, said)

@pytest.mark.parametrize("name", [name for name in metrics if metrics.facts(name)["task"] == "classification"])
def test_one_class_only(name):
    value = metrics[name]([1.0]*6, [0.9, 0.8, 0.4, 0.7, 0.6, 0.2])
    if name in ("balanced_accuracy", "matthews_correlation", "roc_auc", "average_precision"): assert np.isnan(value)
    else: assert np.isfinite(value)
    with pytest.raises(InputError, match="whole numbers"): metrics[name]([0.01, -0.02], [0.5, 0.5])
    if name not in LABELS_ONLY:
        with pytest.raises(InputError, match="probability"): metrics[name]([0, 1], [0.5, 1.2])

def test_undefined_shares_are_nan():
    assert np.isnan(metrics["precision"]([0, 1], [0.1, 0.2])) and np.isnan(metrics["recall"]([0, 0], [0.1, 0.9])) and np.isnan(metrics["f1"]([0, 0], [0.1, 0.2]))
    assert metrics["recall"]([0, 1], [0.1, 0.2]) == 0 and metrics["f1"]([0, 0], [0.1, 0.9]) == 0

def test_calibration_by_a_slow_loop():
    rng = np.random.default_rng(4)
    p = np.r_[rng.random(300), 0, 1, 0.1, 0.2]
    y = (rng.random(len(p)) < 0.5 + 0.45*np.sin(31*p)).astype(int)      # too high here, too low there
    distance, sizes = 0, []
    for k in range(10):
        rows = [i for i in range(len(p)) if (k/10 < p[i] <= (k + 1)/10) or (k == 0 and p[i] == 0)]
        if rows: distance += abs(np.mean(p[rows]) - np.mean(y[rows]))*len(rows)/len(p)
        sizes.append(len(rows))
    assert np.isclose(metrics["calibration_error"](y, p), distance)
    assert calibration_table(y, p)["n"].tolist() == sizes and sum(sizes) == len(p)

@pytest.mark.parametrize("name", LABELS_ONLY)
def test_classes_under_other_names_are_refused(name):
    assert np.isclose(metrics[name]([-1, 1, 1, -1], [-1, 1, -1, -1]), metrics[name]([0, 1, 1, 0], [0, 1, 0, 0]))
    with pytest.raises(InputError, match="same names"): metrics[name]([0, 1, 1, 0], [-1, 1, -1, -1])

def test_a_wide_and_a_long_panel():
    stamps = pd.date_range("2024-01-01", periods=30, tz="UTC")
    wide = pd.MultiIndex.from_product([stamps, [f"S{k:05}" for k in range(10000)]], names=["timestamp", "symbol"])
    y = pd.Series(np.random.default_rng(0).normal(size=len(wide)), wide)
    found = ic_series(y, -y, "spearman")
    assert len(found) == 30 and np.allclose(found, -1)
    assert np.isclose(ic_series(y, y.round(1), "spearman").iloc[3], spearmanr(y[stamps[3]], y[stamps[3]].round(1)).statistic)
    one = y[y.index.get_level_values("symbol") == "S00000"]
    assert ic_series(one, one).isna().all() and np.isnan(rank_ic(one, one)) and time_series_ic(one, one) == 1

def test_unknown_metric_lists_near_names():
    with pytest.raises(UnknownNameError, match="rank_ic"): score("rank_icc", [1.], [1.])
    with pytest.raises(UnknownNameError): sign("sharp")

@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-6, 1e6), st.floats(-1e3, 1e3))
def test_ic_does_not_depend_on_scale_and_location(seed, scale, shift):
    y, prediction = panel(t=6, seed=seed)
    np.testing.assert_allclose(ic_series(y, prediction), ic_series(y, scale*prediction + shift), atol=1e-6)
    np.testing.assert_allclose(ic_series(y, prediction, "spearman"), -ic_series(y, -prediction, "spearman"), atol=1e-12)
    assert ic_series(y, prediction).abs().max() <= 1

@pytest.mark.parametrize("unit", [1e-200, 1e-12, 1e12, 1e150])
def test_tiny_and_huge_units_keep_the_correlation(unit):
    y, prediction = panel()
    np.testing.assert_allclose(ic_series(y*unit, prediction), ic_series(y, prediction), atol=1e-9)

@pytest.mark.parametrize("level", [0.1, 1e-17, 1/3, 1e9 + 0.1])
def test_a_constant_prediction_is_nan_and_counted(level):
    y, _ = panel(drop=0)
    series = ic_series(y, pd.Series(level, y.index))
    assert series.isna().all() and ic_summary(series).n_undefined == 40 and np.isnan(ic_summary(series).mean)

def test_two_symbols_have_no_cross_section():
    y, prediction = panel(s=2, drop=0)
    assert ic_series(y, prediction).isna().all() and default_metric(y.index) == "time_series_ic"
    assert default_metric(panel(s=3, drop=0)[0].index) == "rank_ic" and default_metric(pd.RangeIndex(9)) == "time_series_ic"

def test_ic_summary_by_hand():
    series = pd.Series([0.1, -0.2, np.nan, 0.4, 0.3])
    found = ic_summary(series)
    assert np.isclose(found.mean, 0.15) and np.isclose(found.std, series.std()) and np.isclose(found.icir, 0.15/series.std())
    assert np.isclose(found.t, 2*found.icir) and found.hit_rate == 0.75 and (found.n, found.n_undefined) == (4, 1)
    assert np.isnan(ic_summary(pd.Series([0.1])).icir) and np.isnan(ic_summary(pd.Series([0.1, 0.1])).t)

# --- out-of-sample R2 ------------------------------------------------------------------------------------------------------

def slow_r2(y, prediction, known):
    "known(row) -> the labels known at that row's timestamp"
    top = bottom = 0.0
    for row in y.index:
        labels = known(row).dropna()
        if len(labels) and not np.isnan(y[row]) and not np.isnan(prediction[row]):
            top += (y[row] - prediction[row])**2
            bottom += (y[row] - labels.mean())**2
    return 1 - top/bottom

@pytest.mark.parametrize("horizon", [1, 3])
def test_r2_counts_the_horizon_in_each_symbols_own_rows(horizon):
    y, prediction = panel(t=25, s=4, drop=0.3)
    ends = pd.Series(y.index.get_level_values(0), y.index).groupby(level="symbol").shift(-horizon)
    expected = slow_r2(y, prediction, lambda row: y[(ends <= row[0]).to_numpy()])
    assert np.isclose(r2_out_of_sample(y, prediction, horizon=horizon), expected)
    assert np.isclose(r2_out_of_sample(y, prediction, label_end=ends), expected)

def test_r2_with_history_uses_earlier_labels_only_when_they_are_known():
    y, prediction = panel(t=30, s=3)
    ends = pd.Series(y.index.get_level_values(0), y.index).groupby(level="symbol").shift(-4)
    test = y.index.get_level_values(0) >= y.index.get_level_values(0).unique()[20]
    expected = slow_r2(y[test], prediction[test], lambda row: y[(ends <= row[0]).to_numpy()])
    assert np.isclose(r2_out_of_sample(y[test], prediction[test], label_end=ends, history=y[~test]), expected)
    assert np.isclose(r2_out_of_sample(y[test], prediction[test], label_end=ends, history=y), expected)     # rows given twice count once
    assert np.isclose(r2_out_of_sample(y[test], prediction[test], horizon=4, history=y[~test]), expected)

def test_r2_of_plain_rows_is_campbell_and_thompson():
    rng = np.random.default_rng(0)
    y, prediction = rng.normal(size=50), rng.normal(size=50)
    mean = pd.Series(y).expanding().mean().shift(1)
    assert np.isclose(r2_out_of_sample(y, prediction), 1 - ((y - prediction)[1:]**2).sum()/((y - mean)[1:]**2).sum())
    assert np.isclose(r2_out_of_sample(y[20:], prediction[20:], history=y[:20]), 1 - ((y - prediction)[20:]**2).sum()/((y - mean)[20:]**2).sum())

def test_the_benchmark_never_moves_with_a_label_that_is_not_known():
    y, _ = panel(t=30, s=3)
    changed = y.copy()
    late = y.index.get_level_values(0) >= y.index.get_level_values(0).unique()[15]
    changed[late] += 100
    early = y.index.get_level_values(0) < y.index.get_level_values(0).unique()[18]
    pd.testing.assert_series_equal(known_mean(y, 3)[early], known_mean(changed, 3)[early])
    with pytest.raises(InputError, match="horizon"): known_mean(y, 0)

def test_qlike_by_hand():
    s, h = np.array([1., 2., 5.]), np.array([2., 2., 1.])
    assert np.isclose(qlike(s, h), np.mean(s/h - np.log(s/h) - 1)) and np.isclose(qlike(2.0, 1.0), 1 - np.log(2))
    with pytest.raises(InputError): qlike([1.], [-1.])

# --- returns ----------------------------------------------------------------------------------------------------------------

RETURNS = st.lists(st.floats(-0.5, 0.5).map(lambda x: round(x, 6)), min_size=2, max_size=40)

@settings(max_examples=80, deadline=None)
@given(RETURNS)
def test_return_statistics_by_their_definitions(values):
    r = np.array(values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sharpe_ratio(r), sortino_ratio(r, 12), annual_return(r, 12), annual_volatility(r, 12), max_drawdown(r)
    wealth = [1.0]
    for x in values: wealth.append(wealth[-1]*(1 + x))
    assert np.isclose(found[4], min(wealth[j]/max(wealth[:j + 1]) - 1 for j in range(len(wealth))))
    assert np.isclose(found[2], wealth[-1]**(12/len(r)) - 1) and -1 <= found[4] <= 0
    if np.ptp(r) > 0: assert np.isclose(found[0], r.mean()/r.std(ddof=1)*252**0.5) and np.isclose(found[3], r.std(ddof=1)*12**0.5)
    else: assert np.isnan(found[0]) and found[3] == 0
    if (r < 0).any(): assert np.isclose(found[1], r.mean()/np.sqrt(sum(min(x, 0)**2 for x in values)/len(r))*12**0.5)
    else: assert np.isnan(found[1])

def test_return_statistics_of_little():
    for function in (sharpe_ratio, sortino_ratio, annual_return, annual_volatility): assert np.isnan(function([]))
    assert max_drawdown([]) == 0 and annual_return([-1.0, 0.5]) == -1 and sharpe_ratio([0.1, np.nan, 0.3]) == sharpe_ratio([0.1, 0.3])
    with pytest.raises(InputError): sharpe_ratio([0.1, np.inf])

def slow_portfolio(weights, returns, cost_bps):
    "Cash accounting: money in each symbol, trades in money"
    wealth, money, out = 1.0, pd.Series(dtype=float), []
    for stamp, target in weights.groupby(level="timestamp"):
        target = target.droplevel("timestamp")*wealth
        names = target.index.union(money.index)
        traded = (target.reindex(names, fill_value=0) - money.reindex(names, fill_value=0)).abs().sum()
        moved = target*(1 + returns.loc[stamp].reindex(target.index).fillna(0))
        gained = moved.sum() - target.sum()
        out.append((traded/wealth, gained/wealth - traded/wealth*cost_bps/1e4))
        wealth, money = wealth + gained, moved
    return np.array(out).T

@pytest.mark.parametrize("seed", range(3))
def test_turnover_and_net_returns_equal_cash_accounting(seed):
    rng = np.random.default_rng(seed)
    y, _ = panel(seed=seed)
    weights, returns = pd.Series(rng.normal(size=len(y))/7, y.index), pd.Series(rng.normal(size=len(y))*0.02, y.index)
    traded, net = slow_portfolio(weights, returns, 7)
    np.testing.assert_allclose(turnover(weights, returns), traded)
    np.testing.assert_allclose(net_returns(weights, returns, 7), net)
    np.testing.assert_allclose(net_returns(weights.unstack(), returns.unstack(), 7), net)

def test_one_asset_bought_and_held_trades_once():
    stamps = pd.date_range("2020", periods=4, tz="UTC")
    held, earned = pd.Series(1.0, stamps), pd.Series([0.1, -0.2, 0.3, np.nan], stamps)
    assert np.allclose(turnover(held, earned), [1, 0, 0, 0])
    assert np.allclose(net_returns(held, earned, 10)[:3], [0.099, -0.2, 0.3]) and np.isnan(net_returns(held, earned, 10).iloc[3])

@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 50))
def test_costs_never_help(seed, cost):
    rng = np.random.default_rng(seed)
    y, _ = panel(t=5, seed=seed)
    weights, returns = pd.Series(rng.normal(size=len(y))/7, y.index), pd.Series(rng.normal(size=len(y))*0.02, y.index)
    assert (net_returns(weights, returns, cost) <= net_returns(weights, returns, 0)).all() and (turnover(weights, returns) >= 0).all()

def test_pairs_need_unique_labels_when_matched():
    y = pd.Series([1., 2.], index=[0, 0])
    with pytest.raises(InputError, match="unique"): pair(y, pd.Series([1., 2.], index=[0, 1]))
