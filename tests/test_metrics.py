"Metrics against independent oracles, by properties, and on bad input"
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from alphaplus_ml.core import InputError, UnknownNameError
from alphaplus_ml.evaluation.metrics import (annual_return, annual_volatility, default_metric, ic, ic_series, ic_summary, known_mean, max_drawdown, metrics,
                                             net_returns, pair, qlike, r2_out_of_sample, rank_ic, score, sharpe_ratio, sign, sortino_ratio,
                                             time_series_ic, turnover)

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

@pytest.mark.parametrize("name", list(metrics))
class TestEveryMetric:
    def test_says_its_direction_unit_and_task(self, name):
        facts = metrics.facts(name)
        assert facts["direction"] in ("maximise", "minimise") and facts["unit"] and facts["task"] in ("regression", "ranking", "direction")
        assert metrics[name].__doc__ and sign(name) == (1 if facts["direction"] == "maximise" else -1)
    def test_prefers_the_truth_to_its_opposite(self, name):
        y, _ = panel(drop=0)
        y = y.dropna()
        assert sign(name)*score(name, y, y) > sign(name)*score(name, y, -y)
    def test_does_not_depend_on_row_order_or_on_the_kind_of_prediction(self, name):
        y, prediction = panel()
        mixed = prediction.sample(frac=1, random_state=1)
        value = metrics[name](y, prediction)
        assert isinstance(value, float) and metrics[name](y, mixed) == value == metrics[name](y, prediction.to_numpy())
        assert np.isclose(metrics[name](y.loc[mixed.index], mixed), value)
    def test_of_nothing_is_nan(self, name):
        y, prediction = panel(t=4)
        assert np.isnan(metrics[name](y, prediction*np.nan)) and np.isnan(metrics[name](y[:0], prediction[:0]))
    @pytest.mark.parametrize("spoil", [lambda y, p: (y.mask(y.index == y.index[3]), p), lambda y, p: (y, p.where(p.index != p.index[5], np.inf)),
                                       lambda y, p: (y, p.to_numpy()[:-1]), lambda y, p: (y, p*np.nan), lambda y, p: (y, p.reset_index(drop=True)),
                                       lambda y, p: (y, p.astype(str) + "x"), lambda y, p: (y, p.to_frame())])
    def test_score_refuses_bad_input(self, name, spoil):
        y, prediction = panel()
        keep = y.notna() & prediction.notna()
        with pytest.raises(InputError): score(name, *spoil(y[keep], prediction[keep]))

@pytest.mark.parametrize("name", [name for name in metrics if name != "r2_out_of_sample"])   # whose benchmark uses labels without a prediction too
def test_incomplete_pairs_are_left_out(name):
    y, prediction = panel()
    keep = y.notna() & prediction.notna()
    assert np.isclose(metrics[name](y, prediction), metrics[name](y[keep], prediction[keep]))

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
