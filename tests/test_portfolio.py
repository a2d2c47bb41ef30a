"Portfolio weights and returns against a simulation that buys and sells, bar by bar"
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import rankdata

from alphaplus_ml.core import InputError
from alphaplus_ml.evaluation.portfolio import overlapping_weights, plot_equity, portfolio_returns, portfolio_weights

days = pd.date_range("2021-03-01", periods=40, tz="UTC", name="timestamp")


def make_index(n_times, n_symbols): return pd.MultiIndex.from_product([days[:n_times], [f"S{k}" for k in range(n_symbols)]], names=["timestamp", "symbol"])


@st.composite
def cases(draw):
    "A prediction with gaps and ties, returns with unknown ends, rows in any order"
    n_times, n_symbols, seed = draw(st.integers(1, 12)), draw(st.integers(1, 6)), draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    index = make_index(n_times, n_symbols)
    index = index[rng.random(len(index)) > draw(st.sampled_from([0, 0.2]))]
    if not len(index): index = make_index(1, 1)
    prediction = pd.Series(rng.integers(-2, 3, len(index)).astype(float), index=index)
    prediction[rng.random(len(index)) < draw(st.sampled_from([0, 0.3]))] = np.nan
    returns = pd.Series(rng.normal(0, 0.05, len(index)), index=index)
    order = rng.permutation(len(index)) if draw(st.booleans()) else np.arange(len(index))
    return prediction.iloc[order], returns


def expected_weights(prediction):
    "Per timestamp, in plain Python"
    wide, weights = prediction.groupby(level=0).size().max() >= 3, {}
    for stamp, group in prediction.groupby(level=0):
        known = group.dropna()
        if wide: score = rankdata(known) - (len(known) + 1)/2 if len(known) >= 3 else 0*known.to_numpy()
        else: score = np.sign(known.to_numpy())
        gross = np.abs(score).sum()
        weights.update(dict.fromkeys(group.index, 0.0) | dict(zip(known.index, score/gross if gross else 0*score)))
    return pd.Series(weights).reindex(prediction.index)


@settings(max_examples=150, deadline=None)
@given(cases())
def test_weights_are_the_definition(case):
    prediction, _ = case
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights = portfolio_weights(prediction)
    assert weights.index is prediction.index or weights.index.equals(prediction.index)
    assert np.allclose(weights, expected_weights(prediction), atol=1e-12)
    gross = weights.abs().groupby(level=0).sum()
    assert (np.isclose(gross, 1) | (gross == 0)).all()
    if prediction.groupby(level=0).size().max() >= 3: assert np.allclose(weights.groupby(level=0).sum(), 0)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_only_the_order_of_predictions_matters_in_a_panel(case):
    prediction, _ = case
    if prediction.groupby(level=0).size().max() < 3: return
    assert np.allclose(portfolio_weights(prediction), portfolio_weights(np.exp(3*prediction) + 7))


def simulate(weights, returns, cost_bps):
    "One account, bar by bar: trade from what the market left to the target, pay, earn"
    out, holding = {}, {}
    for stamp in sorted(weights.index.get_level_values(0).unique()):
        target = weights.xs(stamp).to_dict()
        traded = sum(abs(target.get(s, 0) - holding.get(s, 0)) for s in target.keys() | holding.keys())
        moves = {s: returns.get((stamp, s), np.nan) for s in target}
        earned = sum(w*moves[s] for s, w in target.items() if not np.isnan(moves[s]))
        known = not any(target.values()) or any(w and not np.isnan(moves[s]) for s, w in target.items())
        if known: out[stamp] = earned - traded*cost_bps/1e4
        growth = {s: w*(1 + (0 if np.isnan(moves[s]) else moves[s])) for s, w in target.items()}
        holding = {s: g/(1 + earned) for s, g in growth.items()}
    return pd.Series(out)


def expected_overlap(weights, horizon):
    stamps = sorted(weights.index.get_level_values(0).unique())
    value = lambda k, symbol: weights.get((stamps[k], symbol), 0.0) if k >= 0 else 0.0
    return pd.Series([sum(value(stamps.index(stamp) - lag, symbol) for lag in range(horizon))/horizon for stamp, symbol in weights.index], index=weights.index)


@settings(max_examples=80, deadline=None)
@given(cases(), st.integers(1, 4), st.sampled_from([0, 1.0, 25]))
def test_returns_are_the_simulated_account(case, horizon, cost_bps):
    prediction, returns = case
    if prediction.notna().sum() == 0:
        with pytest.raises(InputError, match="at least one value"): portfolio_returns(prediction, returns)
        return
    stamps = prediction.index.get_level_values(0)
    known = stamps[prediction.notna()]
    weights = expected_weights(prediction)[(stamps >= known.min()) & (stamps <= known.max())]
    expected = simulate(expected_overlap(weights, horizon), returns, cost_bps)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = portfolio_returns(prediction, returns, horizon=horizon, cost_bps=cost_bps)
    pd.testing.assert_series_equal(found, expected, check_names=False, check_freq=False, check_index_type=False)


def test_unknown_returns_at_the_end_are_not_zeros():
    index = make_index(5, 4)
    prediction = pd.Series(np.arange(20.)**1.1, index=index)
    returns = pd.Series(0.01, index=index)
    returns.loc[days[4]] = np.nan
    assert portfolio_returns(prediction, returns).index.tolist() == days[:4].tolist()


def test_one_series_without_symbols_trades_its_sign():
    prediction, returns = pd.Series([1., -2., np.nan, 3.], index=days[:4]), pd.Series([0.1, 0.1, 0.1, -0.1], index=days[:4])
    assert portfolio_weights(prediction).tolist() == [1, -1, 0, 1]
    assert np.allclose(portfolio_returns(prediction, returns, cost_bps=0), [0.1, -0.1, 0, -0.1])
    overlap = overlapping_weights(portfolio_weights(prediction), 2)
    assert overlap.tolist() == [0.5, 0, -0.5, 0.5]
    assert overlapping_weights(portfolio_weights(prediction.iloc[[2, 0, 3, 1]]), 2).tolist() == overlap.iloc[[2, 0, 3, 1]].tolist()


def test_a_cost_is_paid_for_the_first_position_and_grows_with_its_rate():
    prediction = pd.Series([1., 2., 3.], index=make_index(1, 3))
    returns = pd.Series(0.0, index=prediction.index)
    assert portfolio_returns(prediction, returns, cost_bps=0).tolist() == [0.0]
    assert np.isclose(portfolio_returns(prediction, returns, cost_bps=20).iloc[0], -0.002)


index = make_index(4, 3)
good = pd.Series(np.arange(12.), index=index)
@pytest.mark.parametrize("call, message", [
    (lambda: portfolio_weights(good.to_numpy()), "is a Series"),
    (lambda: portfolio_weights(good.to_frame()), "is a Series"),
    (lambda: portfolio_returns(good, good.to_numpy()), "is a Series"),
    (lambda: portfolio_returns(good, good[:5]/100), "7 rows without"),
    (lambda: portfolio_returns(good, good/100, horizon=0), "at least 1"),
    (lambda: portfolio_returns(good, good/100, horizon=1.5), "at least 1"),
    (lambda: portfolio_returns(good, good/100, cost_bps=-1), "at least 0"),
    (lambda: portfolio_returns(good, good/100, cost_bps=float("nan")), "at least 0"),
    (lambda: portfolio_returns(good[:0], good/100), "at least one value"),
])
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message): call()


def test_the_equity_curve_compounds():
    returns = pd.Series([0.1, -0.5, np.nan, 0.2], index=days[:4])
    axes = plot_equity({"a": returns, "b": returns/2}).axes[0]
    assert np.allclose(axes.lines[0].get_ydata(), [1.1, 0.55, 0.66])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    assert len(plot_equity(pd.DataFrame({"a": returns})).axes) == 1
