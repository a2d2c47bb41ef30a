"Signals: standard errors against statsmodels and by simulation, decay and quantiles against loops over timestamps, bad input"
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import spearmanr, t as student, ttest_1samp
from statsmodels.api import OLS

from alphaplus_ml.core import InputError
from alphaplus_ml.evaluation.comparison import headline_interval
from alphaplus_ml.evaluation.metrics import ic_series, metrics, score
from alphaplus_ml.evaluation.significance import bootstrap_interval
from alphaplus_ml.evaluation.signals import (ic_decay, ic_inference, mean_inference, newey_west_lags, plot_decay, plot_quantiles, quantile_returns, quantile_series,
                                             quantile_spread, rank_autocorrelation, spread_series)
from alphaplus_ml.market.labels import forward_return

pytestmark = pytest.mark.filterwarnings("error")

def bars(t=60, s=12, seed=0, drop=0.1):
    "A panel of closes with absent rows, and a forecast with gaps and ties"
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([pd.date_range("2021-03-01", periods=t, tz="UTC"), [f"S{i:05}" for i in range(s)]], names=["timestamp", "symbol"])
    close = 100*np.cumprod(1 + 0.01*rng.normal(size=(t, s)), axis=0).ravel()
    panel = pd.DataFrame({"close": close}, index)[rng.random(t*s) >= drop]
    prediction = pd.Series(rng.normal(size=len(panel)).round(1), panel.index)
    return panel, prediction.mask(rng.random(len(panel)) < 0.1)

def autoregression(n, memory, seed):
    values = np.random.default_rng(seed).normal(size=n)
    for now in range(1, n): values[now] += memory*values[now - 1]
    return values

# --- the mean of a series over time ------------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(st.integers(12, 120), st.floats(-0.8, 0.9), st.integers(0, 10**6), st.data())
def test_errors_equal_statsmodels(n, memory, seed, data):
    values, lags = 0.1 + autoregression(n, memory, seed), data.draw(st.integers(0, n - 1))
    found = mean_inference(values, lags=lags)
    fit = OLS(values, np.ones(n)).fit(cov_type="HAC", cov_kwds={"maxlags": lags})
    assert np.isclose(found.se, fit.bse[0], rtol=1e-6) and np.isclose(found.t, fit.tvalues[0], rtol=1e-6) and found.lags == lags
    assert (found.p_value < 1 - found.level) == (not found.lower <= 0 <= found.upper)

@pytest.mark.parametrize("seed", range(3))
def test_without_lags_it_is_the_t_test(seed):
    values = np.random.default_rng(seed).normal(0.2, 1, 30)
    found, test = mean_inference(values, lags=0), ttest_1samp(values, 0)
    assert np.isclose(found.p_value, test.pvalue) and np.allclose([found.lower, found.upper], test.confidence_interval(0.95)) and np.isclose(found.n_effective, 30)

@pytest.mark.parametrize("lags", [0, 3, 20])
def test_p_values_allow_for_what_the_variance_does_not_know(lags):
    n, values = 60, autoregression(60, 0.3, 2) + 0.3
    weight = lambda i, j: max(1 - abs(i - j)/(lags + 1), 0)
    expected = 1 - sum(weight(i, j) for i in range(n) for j in range(n))/n**2        # of independent values with variance 1
    found = mean_inference(values, lags=lags)
    degrees = min(n - 1, 1.5*n/(lags + 1))
    assert np.isclose(found.p_value, 2*student.sf(abs(found.t)*np.sqrt(expected), degrees))
    assert np.isclose(found.upper - found.mean, student.ppf(0.975, degrees)*found.se/np.sqrt(expected))

def test_gaps_keep_their_place_in_time():
    values = autoregression(40, 0.5, 1)
    values[[3, 4, 17, 30]] = np.nan
    d = values - np.nanmean(values)
    total = sum((1 - abs(i - j)/4)*d[i]*d[j] for i in range(40) for j in range(40) if abs(i - j) < 4 and not np.isnan(d[i]*d[j]))
    found = mean_inference(values, lags=3)
    assert np.isclose(found.se, np.sqrt(total)/36) and (found.n, found.n_undefined) == (36, 4)
    assert not np.isclose(found.se, mean_inference(values[~np.isnan(values)], lags=3).se)     # closing the gaps is something else

@pytest.mark.parametrize("horizon, low, high", [(1, 0.02, 0.085), (5, 0.02, 0.1), (20, 0.02, 0.12)])
def test_noise_is_seldom_significant(horizon, low, high):
    rng = np.random.default_rng(horizon)
    series = [np.convolve(rng.normal(size=799 + horizon), np.ones(horizon), "valid") for _ in range(300)]
    share = lambda lags: np.mean([mean_inference(one, horizon, lags).p_value < 0.05 for one in series])
    assert low <= share(None) <= high
    if horizon > 1: assert share(0) > 0.3                                            # the plain t-value

def test_lags_follow_the_overlap_and_the_length():
    assert newey_west_lags(100) == 13 and newey_west_lags(100, 20) == 38 and newey_west_lags(5, 20) == 4 and newey_west_lags(0) == newey_west_lags(1) == 0
    values = autoregression(200, 0.3, 0)
    assert mean_inference(values, horizon=30).lags == 58 and mean_inference(values).lags == 19
    assert mean_inference(autoregression(2000, 0.8, 0)).n_effective < 600 and mean_inference(autoregression(2000, -0.5, 0)).n_effective > 3000

@pytest.mark.parametrize("values", [[], [0.1], [0.1, 0.2], [0.3]*20, [np.nan]*9, [np.nan, 0.1, np.nan]])
def test_what_has_no_error_is_nan(values):
    for found in (mean_inference(values), ic_inference(pd.Series(values, dtype=float))):
        assert np.isnan([found.se, found.t, found.p_value, found.lower, found.upper, found.n_effective]).all()
        assert found.n + found.n_undefined == len(values) and np.isnan(found.mean) == (found.n == 0)

def test_alternating_values_have_no_error():
    assert np.isnan(mean_inference([1., -1., 1., -1.], lags=1).t) or mean_inference([1., -1., 1., -1.], lags=1).se > 0

@pytest.mark.parametrize("change, words", [(dict(lags=-1), "lags"), (dict(lags=30), "below the number"), (dict(lags=1.5), "lags"), (dict(lags=True), "lags"), (dict(level=95), "level"),
                                           (dict(horizon=0), "horizon"), (dict(horizon=1.5), "horizon"), (dict(series=["a"]*30), "one number"), (dict(series=[np.inf]*30), "finite")])
def test_bad_settings_are_refused(change, words):
    with pytest.raises(InputError, match=words): mean_inference(**dict(series=np.arange(30.)) | change)

def test_an_ic_series_in_any_order():
    series = pd.Series(autoregression(80, 0.5, 3), pd.date_range("2020", periods=80, tz="UTC"))
    mixed = series.sample(frac=1, random_state=0)
    assert ic_inference(mixed, 5) == ic_inference(series, 5) and mixed.index[0] != series.index[0]

def test_ic_inference_agrees_with_its_parts():
    panel, prediction = bars()
    series = ic_series(forward_return(panel, 5), prediction, "spearman")
    found, plain = ic_inference(series, 5, n_bootstraps=50, seed=3), mean_inference(series, 5)
    assert all(getattr(found, name) == value for name, value in vars(plain).items())
    assert np.isclose(found.icir, series.mean()/series.std()) and np.isclose(found.hit_rate, (series.dropna() > 0).mean())
    drawn = bootstrap_interval(series.dropna(), block_length=found.bootstrap.block_length, n_bootstraps=50, seed=3)
    assert found.bootstrap == drawn and found.bootstrap.block_length >= 5

# --- decay --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_decay_equals_a_loop_over_timestamps(method):
    panel, prediction = bars(t=40)
    found = ic_decay(prediction, panel, (1, 3, 7), method)
    wide = panel.close.unstack()
    for horizon in (1, 3, 7):
        own = {symbol: wide[symbol].dropna() for symbol in wide}                     # the horizon counts each symbol's own bars
        label = pd.DataFrame({symbol: series.shift(-horizon)/series - 1 for symbol, series in own.items()})
        daily = [label.loc[stamp].corr(prediction.unstack().loc[stamp], method=method) for stamp in wide.index[:-horizon]]
        assert np.isclose(found.loc[horizon, "mean"], np.nanmean(daily))
    assert found.lags.tolist() == [newey_west_lags(n, h) for h, n in found.n.items()] and found.lags[7] == 12
    assert list(found.index) == [1, 3, 7] and found.index.name == "horizon" and (found.n + found.n_undefined == 40).all() and (found.n <= 40 - found.index).all()

def test_decay_does_not_depend_on_row_order_and_leaves_its_input():
    panel, prediction = bars(t=40)
    before = panel.copy(), prediction.copy()
    mixed = prediction.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(ic_decay(mixed, panel.sample(frac=1, random_state=1), (1, 5)), ic_decay(prediction, panel, (1, 5)))
    assert panel.equals(before[0]) and prediction.equals(before[1])

@pytest.mark.parametrize("change, words", [(dict(horizons=()), "at least one"), (dict(horizons=(1, 0)), "horizon"), (dict(horizons=(500,)), "room"), (dict(method="kendall"), "pearson or spearman"),
                                           (dict(price="vwap"), "price"), (dict(level=0), "level"), (dict(panel=1), "DataFrame")])
def test_bad_decays_are_refused(change, words):
    panel, prediction = bars(t=20)
    with pytest.raises(InputError, match=words): ic_decay(**dict(prediction=prediction, panel=panel) | change)

def test_rank_autocorrelation_equals_a_loop():
    _, prediction = bars(t=40)
    wide = prediction.unstack()
    rows = {symbol: prediction.xs(symbol, level="symbol", drop_level=False).droplevel("symbol") for symbol in wide}
    for lag, value in rank_autocorrelation(prediction, (1, 4)).items():
        later = pd.DataFrame({symbol: series.shift(-lag) for symbol, series in rows.items()})
        assert np.isclose(value, np.nanmean([wide.loc[stamp].corr(later.loc[stamp], method="spearman") for stamp in wide.index[:-lag]]))
    assert np.isnan(rank_autocorrelation(prediction, (100,))[100]) and rank_autocorrelation(prediction*0, (1,)).isna().all()
    with pytest.raises(InputError, match="Series"): rank_autocorrelation([1., 2.])
    with pytest.raises(InputError, match="horizon"): rank_autocorrelation(prediction, (0,))

# --- quantiles ----------------------------------------------------------------------------------------------------------------

def slow_quantiles(prediction, y, q):
    "A loop over timestamps and rows"
    out = {}
    for stamp, part in pd.DataFrame({"y": y, "p": prediction}).groupby(level="timestamp"):
        part = part.dropna()
        place = [int(((part.p < p).sum() + ((part.p == p).sum() + 1)/2 - 0.5)/len(part)*q) + 1 for p in part.p]
        means = part.y.groupby(place).mean().reindex(range(1, q + 1)) if len(part) else pd.Series(np.nan, range(1, q + 1))
        out[stamp] = means if means.notna().all() else means*np.nan
    return pd.DataFrame(out).T

@pytest.mark.parametrize("q", [2, 3, 5, 13])
@pytest.mark.parametrize("seed", range(2))
def test_quantiles_equal_a_loop(q, seed):
    panel, prediction = bars(seed=seed)
    y = forward_return(panel)
    found = quantile_series(prediction, y, q)
    np.testing.assert_allclose(found, slow_quantiles(prediction, y, q), atol=1e-15)
    assert found.isna().any(axis=None) == (q >= 5 or found.iloc[-1].isna().all()) and list(found) == list(range(1, q + 1))
    pd.testing.assert_frame_equal(quantile_series(prediction.sample(frac=1, random_state=0), y.sample(frac=1, random_state=1), q), found)

def test_quantile_returns_by_their_definitions():
    panel, prediction = bars(s=30)
    y = forward_return(panel, 3)
    found = quantile_returns(prediction, y, 4, horizon=3)
    means = quantile_series(prediction, y, 4)
    pd.testing.assert_frame_equal(found.returns, means)
    pd.testing.assert_series_equal(found.spread, means[4] - means[1], check_names=False)
    assert np.isclose(found.monotonicity, spearmanr(range(4), means.mean()).statistic) and found.n == means[1].notna().sum() and found.n + found.n_undefined == len(means)
    for name, series in {**dict(means.items()), "spread": found.spread}.items():
        one = mean_inference(series, 3)
        np.testing.assert_allclose(found.summary.loc[name], [one.mean, one.se, one.t, one.p_value, one.lower, one.upper])

def test_a_forecast_that_is_the_label_is_monotone():
    panel, _ = bars(s=30, drop=0)
    y = forward_return(panel)
    found = quantile_returns(y, y, 5)
    assert np.isclose(found.monotonicity, 1) and found.summary.p_value["spread"] < 1e-6 and np.isclose(quantile_returns(-y, y).monotonicity, -1)
    assert (found.returns.dropna().diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)

def test_ties_are_never_split():
    index = pd.MultiIndex.from_product([pd.date_range("2020", periods=2, tz="UTC"), list("abcdef")], names=["timestamp", "symbol"])
    y = pd.Series(np.arange(12.), index)
    assert quantile_series(pd.Series([0, 0, 0, 1, 1, 1]*2, index), y, 2).to_numpy().tolist() == [[1, 4], [7, 10]]
    assert quantile_series(pd.Series([0, 0, 0, 0, 0, 1]*2, index), y, 3).isna().all(axis=None)      # the middle is empty

@pytest.mark.parametrize("silent", [lambda y: y*0, lambda y: y*np.nan])
def test_a_forecast_that_says_nothing_has_no_spread(silent):
    y = forward_return(bars()[0])
    found = quantile_returns(silent(y), y)
    assert found.n == 0 and found.n_undefined == 60 and found.summary.isna().all(axis=None) and np.isnan(found.monotonicity)

@pytest.mark.parametrize("t, s", [(30, 1), (30, 4), (30, 10_000)])
def test_few_and_many_symbols(t, s):
    panel, prediction = bars(t=t, s=s, drop=0)
    y = forward_return(panel)
    found, inference = quantile_returns(prediction, y), ic_inference(ic_series(y, prediction), n_bootstraps=10)
    assert found.n == (29 if s > 5 else 0) and found.n_undefined == 30 - found.n and np.isnan(found.monotonicity) == (s < 5)
    assert inference.n == (0 if s < 3 else inference.n) and np.isnan(inference.t) == (s < 3)
    assert np.isnan(quantile_spread(y, prediction)) == (s < 5)

@pytest.mark.parametrize("change, words", [(dict(n_quantiles=1), "at least 2"), (dict(n_quantiles=2.5), "whole"), (dict(n_quantiles=True), "whole"), (dict(y=np.arange(5.), prediction=np.arange(5.)), "panel"),
                                           (dict(horizon=0), "horizon"), (dict(level=2), "level")])
def test_bad_quantiles_are_refused(change, words):
    panel, prediction = bars(t=20)
    with pytest.raises(InputError, match=words): quantile_returns(**dict(prediction=prediction, y=forward_return(panel)) | change)

def test_the_spread_is_a_metric_with_an_interval():
    panel, prediction = bars(s=30)
    y = forward_return(panel).dropna()
    forecast = (y + 0.01*prediction).dropna()
    lower, upper = headline_interval("quantile_spread", y, forecast, n_bootstraps=100)
    value = score("quantile_spread", y, forecast)
    assert lower < value < upper and np.isclose(value, spread_series(y, forecast).mean()) and metrics.facts("quantile_spread")["task"] == "ranking"

def test_figures_show_what_the_tables_say():
    panel, prediction = bars(s=30)
    decay, found = ic_decay(prediction, panel, (1, 5)), quantile_returns(prediction, forward_return(panel), 3)
    axis = plot_decay({"one": decay, "two": decay}).axes[0]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["1", "5"] and [text.get_text() for text in axis.get_legend().get_texts()] == ["one", "two"]
    np.testing.assert_allclose(plot_decay(decay).axes[0].containers[0][0].get_ydata().astype(float), decay["mean"])
    heights = [bar.get_height() for bar in plot_quantiles(found).axes[0].patches]
    np.testing.assert_allclose(heights, 1e4*found.summary["mean"])
    assert found.plot().axes[0].get_ylabel() == "mean label (bp)"
