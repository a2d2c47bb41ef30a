"""Labels against a brute-force loop, on panels with gaps, late listings and missing prices"""
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from alphaplus_ml.core import InputError, UnknownNameError
from alphaplus_ml.market.labels import bars_ahead, direction, forward_return, label_end
from alphaplus_ml.market.sources import load_market

names = ("open", "high", "low", "close", "volume")


@st.composite
def panels(draw, missing=True):
    "Up to 5 symbols over up to 14 timestamps; each symbol trades on a subset of them"
    n_times, n_symbols = draw(st.integers(2, 14)), draw(st.integers(1, 5))
    times = pd.date_range("2024-01-01", periods=n_times, freq="7h", tz="UTC", unit="us")
    pairs = [(times[t], f"S{s}") for t in range(n_times) for s in range(n_symbols) if draw(st.booleans())]
    pairs += [(time, "Z") for time in times]  # one symbol is always complete
    index = pd.MultiIndex.from_tuples(sorted(pairs), names=["timestamp", "symbol"])
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    panel = pd.DataFrame(rng.choice([1., 2., 3., 5.5], (len(index), 5)), index=index, columns=list(names))
    return panel.mask(rng.random(panel.shape) < .1) if missing and draw(st.booleans()) else panel


def brute_force(panel, horizon, price):
    "Labels and their ends, one row and one symbol at a time"
    first, values, ends = {"close": 0, "open": 1}[price], {}, {}
    for symbol in set(panel.index.get_level_values("symbol")):
        own = panel[panel.index.get_level_values("symbol") == symbol].sort_index()
        times = [time for time, _ in own.index]
        for t, time in enumerate(times):
            last = t + first + horizon
            complete = last < len(times)
            values[time, symbol] = own[price].iloc[last]/own[price].iloc[t + first] - 1 if complete else np.nan
            ends[time, symbol] = times[last] if complete else pd.NaT
    return [values[key] for key in panel.index], [ends[key] for key in panel.index]


def overwrite(panel, rows):
    "The same panel with other prices in some rows"
    panel = panel.copy()
    panel.loc[rows] = 99.
    return panel


def allowed(panel, horizon, price):
    return panel.index.get_level_values("symbol").value_counts().max() > horizon + (price == "open")


@settings(max_examples=80, deadline=None)
@given(panels(), st.integers(1, 5), st.sampled_from(["close", "open"]), st.booleans(), st.integers(0, 99))
def test_labels_are_what_a_loop_finds(panel, horizon, price, shuffle, seed):
    if shuffle: panel = panel.sample(frac=1, random_state=seed)
    if not allowed(panel, horizon, price):
        with pytest.raises(InputError, match="at least one label"): forward_return(panel, horizon, price)
        return
    values, ends = brute_force(panel, horizon, price)
    label, end, rise = forward_return(panel, horizon, price), label_end(panel, horizon, price), direction(panel, horizon, price)
    np.testing.assert_allclose(label, values, rtol=1e-12)
    np.testing.assert_allclose(forward_return(panel, horizon, price, log=True), np.log1p(values), rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(rise, [np.nan if np.isnan(v) else float(v > 0) for v in values])
    assert end.isna().tolist() == [time is pd.NaT for time in ends]
    assert all(a == b for a, b in zip(end, ends) if b is not pd.NaT)
    for series in (label, end, rise): assert series.index.equals(panel.index)
    assert str(end.dtype) == "datetime64[us, UTC]"


@settings(max_examples=40, deadline=None)
@given(panels(missing=False), st.integers(1, 3), st.sampled_from(["close", "open"]))
def test_a_label_knows_nothing_after_its_end_and_nothing_of_the_decision_bar_when_made_from_opens(panel, horizon, price):
    if not allowed(panel, horizon, price): return
    label, end = forward_return(panel, horizon, price), label_end(panel, horizon, price)
    known = end.dropna()
    if known.empty: return
    row = known.index[len(known)//2]
    later = panel.index.get_level_values("timestamp") > known[row]
    assert forward_return(overwrite(panel, later), horizon, price)[row] == label[row]
    at_end = (known[row], row[1])
    assert forward_return(overwrite(panel, panel.index == at_end), horizon, price)[row] != label[row]
    changed = forward_return(overwrite(panel, panel.index == row), horizon, price)[row]
    assert (changed == label[row]) == (price == "open")


@settings(max_examples=40, deadline=None)
@given(panels(), st.integers(0, 20))
def test_bars_ahead_stays_with_the_symbol_and_moves_that_many_bars(panel, count):
    ahead, index = bars_ahead(panel.index, count), panel.index
    rank = pd.Series(1, index=index).groupby("symbol").cumsum().to_numpy()
    for row in range(len(index)):
        left = (index.get_level_values(1) == index[row][1]).sum() - rank[row]
        if left < count: assert ahead[row] == -1
        else: assert index[ahead[row]][1] == index[row][1] and rank[ahead[row]] == rank[row] + count


def test_unused_index_levels_and_unsorted_levels_do_not_matter():
    panel = load_market("planted", n_symbols=4, n_bars=30)
    part = panel[panel.index.get_level_values("symbol").isin(["P03", "P01"])].iloc[10:]
    expected = forward_return(part.set_axis(part.index.remove_unused_levels()), 3)
    np.testing.assert_array_equal(forward_return(part, 3), expected)
    backwards = part.set_axis(pd.MultiIndex.from_tuples(list(part.index)[::-1], names=part.index.names))
    assert forward_return(backwards, 1).notna().sum() == len(part) - 2


def test_the_horizon_counts_bars_not_timestamps():
    times = pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-01", "2024-01-03"], utc=True)
    index = pd.MultiIndex.from_arrays([times, list("AAABB")], names=["timestamp", "symbol"])
    panel = pd.DataFrame({"close": [1., 2., 4., 10., 5.]}, index=index).sort_index()
    assert forward_return(panel).xs("B", level="symbol").iloc[0] == -.5
    assert label_end(panel).xs("B", level="symbol").iloc[0] == times[2]


@pytest.mark.parametrize("function", [forward_return, label_end, direction])
@pytest.mark.parametrize("horizon", [0, -1, 1.0, 1.5, "1", None, True, np.True_, np.nan])
def test_a_horizon_is_a_whole_number_of_at_least_one(function, horizon):
    panel = load_market("planted", n_symbols=2, n_bars=10)
    with pytest.raises(InputError, match="whole number of bars, at least 1"): function(panel, horizon)


@pytest.mark.parametrize("function", [forward_return, label_end, direction])
def test_refusals_name_the_rule_and_the_way_out(function):
    panel = load_market("planted", n_symbols=2, n_bars=10)
    assert function(panel, np.int64(9)).notna().sum() == 2
    with pytest.raises(InputError, match="longest symbol has 10 bars: at most 9"): function(panel, 10)
    with pytest.raises(InputError, match="longest symbol has 10 bars"): function(panel, 9, price="open")
    with pytest.raises(UnknownNameError, match="clsoe.*close"): function(panel, price="clsoe")
    with pytest.raises(InputError, match="columns.*close.*load_market"): function(panel.drop(columns="close"))
    with pytest.raises(InputError, match="one row per timestamp.*P01"): function(pd.concat([panel, panel.iloc[[1]]]))
    with pytest.raises(InputError, match="indexed by timestamp and symbol"): function(panel.reset_index())
    with pytest.raises(InputError, match="pandas DataFrame; got 'Series'"): function(panel.close)
    with pytest.raises(InputError, match="timezone-aware UTC"): function(panel.tz_localize(None, level="timestamp"))
    with pytest.raises(InputError, match="at least one label.*longest symbol has 0 bars"): function(panel.iloc[:0])
    with pytest.raises(InputError, match="longest symbol has 1 bars"): function(panel.iloc[:1])


@pytest.mark.parametrize("value", [0., -1., np.inf])
def test_a_price_without_a_return_is_refused_with_its_place(value):
    panel = load_market("planted", n_symbols=2, n_bars=10)
    panel.iloc[5, 3] = value
    with pytest.raises(InputError, match=rf"finite close above zero; 1 rows.*P01.*got {value}"): forward_return(panel)
    assert forward_return(panel, price="open").notna().sum() == 16


def test_a_missing_price_makes_only_its_own_labels_nan_and_no_warning():
    panel = load_market("planted", n_symbols=1, n_bars=10)
    panel.iloc[4, 3] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.flatnonzero(forward_return(panel).isna()).tolist() == [3, 4, 9]
        assert np.flatnonzero(direction(panel).isna()).tolist() == [3, 4, 9]
        assert np.flatnonzero(label_end(panel).isna()).tolist() == [9]
