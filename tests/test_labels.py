"""Labels against brute-force loops, on panels with gaps, late listings and missing prices; and a contract that every registered label keeps"""
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings, strategies as st
from scipy.stats import chisquare

from alphaplus_ml.core import InputError, UnknownNameError
from alphaplus_ml.evaluation.leakage import check_causal
from alphaplus_ml.evaluation.splits import WalkForward
from alphaplus_ml.market.fractional import minimum_fracdiff
from alphaplus_ml.market.labels import (bars_ahead, direction, forward_return, fracdiff, fracdiff_weights, label_end, label_spans,
                                        label_uniqueness, labels, make_label, triple_barrier)
from alphaplus_ml.market.sources import load_market
from alphaplus_ml.market.targets import estimators, meta_label, volatility_target
from alphaplus_ml.market.uniqueness import draw_probabilities, label_concurrency, sample_weights, sequential_bootstrap, time_decay

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


# ---- the contract of every registered label

variants = [(name, {}) for name in labels] + [
    ("forward_return", {"price": "open"}), ("forward_return", {"log": True}), ("direction", {"price": "open"}),
    ("triple_barrier", {"vertical": "zero", "target": 0.05}), ("triple_barrier", {"sl": None}), ("triple_barrier", {"side": -1}), ("triple_barrier", {"pt": 0, "sl": 0})]
variants += [("volatility", {"estimator": name}) for name in estimators] + [("volatility", {"variance": True})]
every_label = pytest.mark.parametrize("name, parameters", variants, ids=lambda value: value if isinstance(value, str) else "-".join(f"{k}={v}" for k, v in value.items()) or "plain")


def random_bars(n_symbols=4, n_bars=30, seed=0, drop=0.15):
    "Sound bars of random walks; the first symbol is complete, the others have gaps and start late"
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([pd.bdate_range("2024-01-01", periods=n_bars, tz="UTC", unit="us"), [f"S{s:05d}" for s in range(n_symbols)]], names=["timestamp", "symbol"])
    close = 50*np.exp(np.cumsum(rng.normal(0, .02, (n_bars, n_symbols)), axis=0)).ravel()
    open_ = close*np.exp(rng.normal(0, .01, len(close)))
    spread = np.exp(abs(rng.normal(0, .01, (2, len(close)))))
    panel = pd.DataFrame({"open": open_, "high": np.maximum(open_, close)*spread[0], "low": np.minimum(open_, close)/spread[1], "close": close, "volume": 1.}, index=index)
    return panel[(rng.random(len(panel)) > drop) | (index.get_level_values(1) == "S00000")]


def with_bars(panel, where, factor):
    "The same panel with other prices, and wider ranges, in some rows"
    panel = panel.copy()
    for name, width in {"open": 1, "high": 1.5, "low": 1/1.5, "close": 1}.items(): panel.loc[where, name] *= factor*width
    return panel


def some_known(table, count=8):
    known = table.dropna().index
    return known[np.unique(np.linspace(0, len(known) - 1, count).astype(int))]


@every_label
def test_a_label_has_the_panels_index_and_an_end_exactly_where_it_is_known(name, parameters):
    panel = random_bars()
    panel.iloc[[20, 41, 60], 3] = np.nan
    table = make_label(panel, name, **parameters)
    assert table.index.equals(panel.index) and list(table) == ["label", "label_end"]
    assert table.label.dtype == float and str(table.label_end.dtype) == "datetime64[us, UTC]"
    assert table.label.isna().equals(table.label_end.isna()) and table.label.notna().sum() > 20
    known = table.dropna()
    assert (known.label_end > known.index.get_level_values(0)).all() and np.isfinite(known.label).all()
    assert next(WalkForward(2, label_end=table.label_end).split(panel))[0].size


@every_label
def test_a_label_depends_on_its_own_bars_from_the_decision_to_its_end_and_needs_the_last(name, parameters):
    panel = random_bars(seed=1)
    table, times, symbols = make_label(panel, name, **parameters), panel.index.get_level_values(0), panel.index.get_level_values(1)
    for row in some_known(table):
        end = table.label_end[row]
        inside = (times >= row[0]) & (times <= end) & (symbols == row[1])
        for factor in (3., .2):
            other = make_label(with_bars(panel, ~inside, factor), name, **parameters)
            assert other.label_end[row] == end
            np.testing.assert_allclose(other.label[row], table.label[row], rtol=1e-12)
        at_end = (times == end) & (symbols == row[1])
        changed = [make_label(with_bars(panel, at_end, factor), name, **parameters).loc[row] for factor in (10., .1)]
        assert any(one.label != table.label[row] or one.label_end != end for one in changed), "the last bar matters, so the end is not too late"


@every_label
def test_a_label_does_not_care_for_the_order_of_rows_or_the_unit_of_prices(name, parameters):
    panel = random_bars(seed=2)
    table = make_label(panel, name, **parameters)
    pd.testing.assert_frame_equal(make_label(panel.sample(frac=1, random_state=0), name, **parameters).reindex(panel.index), table)
    for factor in (1e-3, 7.3, 1e5): pd.testing.assert_frame_equal(make_label(panel.mul([factor]*4 + [1]), name, **parameters), table, rtol=1e-9, atol=1e-13)
    one = panel.index.get_level_values(1) == "S00000"
    pd.testing.assert_frame_equal(make_label(panel[one], name, **parameters), table[one])
    before = panel.copy()
    make_label(panel, name, **parameters)
    pd.testing.assert_frame_equal(panel, before)


@every_label
def test_a_longer_horizon_is_known_no_earlier(name, parameters):
    panel = random_bars(seed=3)
    short, long = (make_label(panel, name, horizon=h, **parameters).label_end for h in (2, 6))
    both = short.notna() & long.notna()
    assert (long >= short)[both].all() and (long > short)[both].any() and long.notna().sum() < short.notna().sum()


@every_label
@pytest.mark.parametrize("horizon", [0, -1, 1.5, True, None, 30, 10**9])
def test_a_bad_horizon_is_refused_by_every_label(name, parameters, horizon):
    with pytest.raises(InputError, match="horizon"): make_label(random_bars(), name, horizon=horizon, **parameters)


@every_label
def test_bars_that_give_no_label_are_refused_by_every_label(name, parameters):
    panel = random_bars()
    with pytest.raises(InputError, match="one row per timestamp"): make_label(pd.concat([panel, panel.iloc[[7]]]), name, **parameters)
    for value in (0., -1., np.inf):
        spoiled = panel.copy()
        spoiled.iloc[9, :4] = value
        with pytest.raises(InputError, match="above zero"): make_label(spoiled, name, **parameters)
    with pytest.raises(InputError, match="timezone-aware UTC"): make_label(panel.tz_localize(None, level="timestamp"), name, **parameters)
    with pytest.raises(InputError, match="takes other parameters.*horizn"): make_label(panel, name, horizn=3, **parameters)
    with pytest.raises(InputError): make_label(panel.close, name, **parameters)


@every_label
def test_constant_prices_and_many_short_symbols_make_no_noise(name, parameters):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flat = random_bars().assign(open=5., high=5., low=5., close=5.)
        assert make_label(flat, name, **parameters).label.dropna().eq(0).all()
        assert make_label(random_bars(10_000, 12, drop=.1), name, horizon=3, **parameters).label.notna().sum() > 60_000


def test_make_label_names_what_there_is():
    assert {"forward_return", "direction", "triple_barrier", "volatility"} <= set(labels)
    with pytest.raises(UnknownNameError, match="triple_barrier"): make_label(random_bars(), "triple_barriers")


# ---- triple barrier

def exact_barriers(panel, horizon, target, pt, sl, side, vertical):
    "End, touch and label of every row in exact arithmetic, one path at a time"
    found = {}
    for symbol in set(panel.index.get_level_values("symbol")):
        own = panel.close[panel.index.get_level_values("symbol") == symbol].sort_index()
        price = [None if np.isnan(value) else Fraction(value) for value in own]
        for t, row in enumerate(own.index):
            found[row] = (pd.NaT, None, None)
            if t + horizon >= len(own) or price[t] is None: continue
            for last in range(t + 1, t + horizon + 1):
                if price[last] is None: continue
                earned = side*(price[last]/price[t] - 1)
                touch = "pt" if pt and earned >= pt*target else "sl" if sl and earned <= -sl*target else "vertical" if last == t + horizon else None
                if touch is None: continue
                sign = (earned > 0) - (earned < 0)
                found[row] = own.index[last][0], touch, {"pt": 1, "sl": -1, "vertical": sign if vertical == "sign" else 0}[touch]
                break
    return [found[row] for row in panel.index]


@settings(max_examples=120, deadline=None)
@given(panels(), st.integers(1, 5), st.sampled_from([Fraction(1, 10), Fraction(1, 2), Fraction(2)]), st.sampled_from([None, 0, 1, 2]), st.sampled_from([None, 0, Fraction(1, 2), 1]),
       st.sampled_from([1, -1]), st.sampled_from(["sign", "zero"]), st.booleans())
def test_barriers_are_what_exact_paths_touch(panel, horizon, target, pt, sl, side, vertical, shuffle):
    "Prices from a handful of values lie on barriers often, where rounding would decide"
    assume(allowed(panel, horizon, "close"))
    if shuffle: panel = panel.sample(frac=1, random_state=0)
    expected = exact_barriers(panel, horizon, target, pt, sl, side, vertical)
    found = triple_barrier(panel, None, horizon, float(target), pt, sl and float(sl), vertical, side)
    assert list(found) == ["end", "touch", "ret", "label"] and found.index.equals(panel.index)
    for (end, touch, label), row in zip(expected, found.itertuples(index=False)):
        if touch is None: assert row.end is pd.NaT and pd.isna(row.touch) and np.isnan(row.ret) and np.isnan(row.label)
        else: assert (row.end, row.touch, row.label) == (end, touch, label)
    known = found.dropna()
    last = panel.close.reindex(pd.MultiIndex.from_arrays([known.end, known.index.get_level_values(1)])).to_numpy()
    np.testing.assert_allclose(known.ret, side*(last/panel.close[known.index] - 1), atol=1e-14)


@pytest.mark.parametrize("prices, touch", [([100, 110], "pt"), ([100, 90], "sl"), ([100, 109.99], "vertical"), ([100, 90.01], "vertical")])
def test_a_close_on_the_barrier_touches_it(prices, touch):
    index = pd.MultiIndex.from_product([pd.date_range("2024", periods=2, tz="UTC"), ["A"]], names=["timestamp", "symbol"])
    assert triple_barrier(pd.DataFrame({"close": prices}, index=index), horizon=1, target=.1).touch.iloc[0] == touch


def test_events_select_rows_and_targets_and_sides_belong_to_them():
    panel = random_bars(seed=5)
    rng = np.random.default_rng(0)
    target = pd.Series(rng.choice([.01, .03, np.nan], len(panel)), index=panel.index)
    side = pd.Series(rng.choice([1, -1, 0, np.nan], len(panel)), index=panel.index)
    mask = pd.Series(rng.random(len(panel)) < .3, index=panel.index)
    whole = triple_barrier(panel, target=target, side=side)
    assert whole.label.isna().equals((target.isna() | side.isin([0]) | side.isna() | label_end(panel, 5).isna()))
    few = triple_barrier(panel, events=mask.sample(frac=1, random_state=1), target=target.sample(frac=1, random_state=2), side=side)
    pd.testing.assert_frame_equal(few, whole[mask])
    order = panel.index[mask][::-1]
    pd.testing.assert_frame_equal(triple_barrier(panel, events=order, target=target[order], side=side), whole.loc[order])
    pd.testing.assert_frame_equal(triple_barrier(panel, events=list(order), target=target, side=side), whole.loc[order])
    frame = pd.DataFrame({"target": target, "side": side})[mask]
    pd.testing.assert_frame_equal(triple_barrier(panel, frame), whole[mask])
    pd.testing.assert_frame_equal(triple_barrier(panel, frame[["side"]], target=target), whole[mask])
    assert triple_barrier(panel, events=mask & False).empty
    number = triple_barrier(panel, target=.03)
    pd.testing.assert_series_equal(whole.label[(target == .03) & (side == 1)], number.label[(target == .03) & (side == 1)])


def test_a_row_without_a_full_horizon_has_no_label_even_when_a_barrier_was_touched():
    panel = random_bars(1)
    panel.iloc[-1, 3] *= 10
    assert triple_barrier(panel, horizon=5).iloc[-5:].isna().all(axis=None)
    assert triple_barrier(panel, horizon=5).label.iloc[-6] in (1, -1)


@pytest.mark.parametrize("parameters, message", [
    ({"target": 0}, "finite return above zero; got 0.0"), ({"target": -1.}, "above zero"), ({"target": np.inf}, "finite return"), ({"target": "1%"}, "number or a Series"), ({"target": True}, "number or a Series"),
    ({"target": np.nan}, "number or a Series"), ({"pt": -1}, "pt is a multiple"), ({"sl": np.nan}, "sl is a multiple"), ({"sl": "1"}, "sl is a multiple"), ({"pt": np.inf}, "pt is a multiple"),
    ({"vertical": "ret"}, "vertical barrier"), ({"side": 2}, "side is 1, -1 or 0"), ({"events": [(pd.Timestamp("2030", tz="UTC"), "S00000")]}, "event is a row"),
    ({"events": [3, 4]}, "Events are"), ({"events": 3}, "Events are"), ({"events": pd.date_range("2024", periods=2, tz="UTC")}, "Events are")])
def test_what_is_no_barrier_is_refused(parameters, message):
    with pytest.raises(InputError, match=message): triple_barrier(random_bars(), **parameters)


def test_series_that_do_not_fit_the_events_are_refused():
    panel = random_bars()
    target = pd.Series(.01, index=panel.index)
    with pytest.raises(InputError, match="target has a value for every event"): triple_barrier(panel, target=target.iloc[1:])
    with pytest.raises(InputError, match="one value per row"): triple_barrier(panel, target=pd.concat([target, target.iloc[:1]]))
    with pytest.raises(InputError, match="finite return above zero"): triple_barrier(panel, target=target*0)
    with pytest.raises(InputError, match="boolean"): triple_barrier(panel, events=target)
    with pytest.raises(InputError, match="events has a value"): triple_barrier(panel, events=(target > 0).iloc[2:])


# ---- targets

@settings(max_examples=60, deadline=None)
@given(panels(), st.sampled_from([1, -1]), st.integers(1, 3))
def test_a_meta_label_says_whether_the_side_earned(panel, side, horizon):
    assume(allowed(panel, horizon, "close"))
    found = meta_label(panel, side, horizon=horizon, target=.5)
    pd.testing.assert_frame_equal(found.drop(columns="label"), triple_barrier(panel, horizon=horizon, target=.5, side=side).drop(columns="label"))
    assert found.label.equals((found.ret > 0).astype(float).where(found.ret.notna()).rename("label"))
    with pytest.raises(InputError, match="belongs to a position"): meta_label(panel, None)


def variance_by_hand(bars, t, horizon, estimator):
    "Mean variance of the bars after t"
    o, h, l, c = (np.log(bars[name].to_numpy()) for name in ("open", "high", "low", "close"))
    each = {"close": lambda k: (c[k] - c[k - 1])**2, "parkinson": lambda k: (h[k] - l[k])**2/(4*np.log(2)),
            "garman_klass": lambda k: .5*(h[k] - l[k])**2 - (2*np.log(2) - 1)*(c[k] - o[k])**2}[estimator]
    return np.mean([each(k) for k in range(t + 1, t + horizon + 1)])


@pytest.mark.parametrize("estimator", ["close", "parkinson", "garman_klass"])
@pytest.mark.parametrize("horizon", [1, 7])
def test_volatility_is_what_a_loop_finds(estimator, horizon):
    panel = random_bars(seed=6)
    variance, volatility = (volatility_target(panel, horizon, estimator, squared) for squared in (True, False))
    for symbol, own in panel.groupby("symbol"):
        expected = [variance_by_hand(own, t, horizon, estimator) if t + horizon < len(own) else np.nan for t in range(len(own))]
        np.testing.assert_allclose(variance[own.index], expected, rtol=1e-9)
        np.testing.assert_allclose(volatility[own.index], np.sqrt(expected), rtol=1e-9)


def test_volatility_misses_only_what_a_missing_price_touches_and_refuses_ranges_that_are_none():
    panel = random_bars(1)
    holed = panel.copy()
    holed.iloc[10, 3] = np.nan
    assert np.flatnonzero(volatility_target(holed, 2).isna()).tolist() == [8, 9, 10, 28, 29]
    assert np.flatnonzero(volatility_target(holed, 2, "parkinson").isna()).tolist() == [28, 29]
    panel.iloc[4, 1] = panel.iloc[4, 2]*.9
    assert volatility_target(panel, 2).notna().sum() == 28
    with pytest.raises(InputError, match="high and low hold"): volatility_target(panel, 2, "garman_klass")
    with pytest.raises(InputError, match="columns"): volatility_target(panel.drop(columns="high"), 2, "parkinson")
    with pytest.raises(UnknownNameError, match="parkinson"): volatility_target(panel, 2, "parkinsn")


# ---- overlapping labels

@st.composite
def label_ends(draw):
    "A panel's index, ends some bars later or none, and the position of each among its symbol's bars"
    index = draw(panels(missing=False)).index
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    end = pd.Series(pd.NaT, index=index, dtype="datetime64[us, UTC]")
    for symbol in set(index.get_level_values(1)):
        rows = np.flatnonzero(index.get_level_values(1) == symbol)
        for k in range(len(rows) - 1):
            if rng.random() < .85: end.iloc[rows[k]] = index[rows[rng.integers(k + 1, min(k + 6, len(rows)))]][0]
    assume(end.notna().any())
    return end


def bars_of(index, end):
    "The bars at which each label earns, as sets"
    return [set() if last is pd.NaT else {row for row in index if row[1] == symbol and time < row[0] <= last} for (time, symbol), last in zip(end.index, end)]


def uniqueness_by_hand(bars):
    count = {bar: sum(bar in other for other in bars) for one in bars for bar in one}
    return [np.mean([1/count[bar] for bar in one]) if one else np.nan for one in bars]


@settings(max_examples=80, deadline=None)
@given(label_ends(), st.booleans())
def test_uniqueness_is_what_sets_of_bars_say(end, shuffle):
    if shuffle: end = end.sample(frac=1, random_state=0)
    bars = bars_of(end.index, end)
    expected = uniqueness_by_hand(bars)
    found = label_uniqueness(end.index, end)
    assert found.index.equals(end.index)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(label_uniqueness(end.index, end, bars=end.index), expected, rtol=1e-12)
    start = pd.Series(end.index.get_level_values(0), index=end.index)
    np.testing.assert_allclose(label_uniqueness(start, end.sample(frac=1, random_state=1)), expected, rtol=1e-12)
    count = label_concurrency(end.index, end)
    assert sorted(count.index) == sorted(end.index) and all(count[row] == sum(row in one for one in bars) for row in end.index)


@settings(max_examples=60, deadline=None)
@given(label_ends(), st.integers(0, 99))
def test_a_few_events_are_averaged_over_bars_that_they_do_not_show(end, seed):
    events = end[end.notna()].sample(frac=.5, random_state=seed)
    assume(len(events))
    expected = uniqueness_by_hand(bars_of(end.index, events))
    np.testing.assert_allclose(label_uniqueness(events.index, events, bars=end.index), expected, rtol=1e-12)


@pytest.mark.parametrize("unit", ["D", "h", "ns"])
def test_the_books_three_labels_with_times_numbers_and_without_their_bars(unit):
    "Lopez de Prado (2018), section 4.5.3: returns from 0 to 3, 2 to 4 and 4 to 6"
    at = lambda numbers: pd.Timestamp("2024", tz="UTC") + pd.to_timedelta(numbers, unit=unit)
    for start, end in [([0, 2, 4], [3, 4, 6]), (at([0, 2, 4]), at([3, 4, 6])), (pd.Series(at([0, 2, 4])), pd.Series(at([3, 4, 6]))), (at([0, 2, 4]), pd.Series(at([3, 4, 6]), index=at([0, 2, 4])))]:
        np.testing.assert_allclose(label_uniqueness(start, end), [5/6, 3/4, 1], rtol=1e-12)
        np.testing.assert_allclose(draw_probabilities(start, end, [1]), [5/14, 3/14, 6/14], rtol=1e-12)
        np.testing.assert_allclose(draw_probabilities(start, end), 1/3, rtol=1e-12)


def test_bars_over_weekends_count_as_bars_when_labels_start_at_each():
    panel = random_bars(3, 40)
    end = label_end(panel, 4)
    found = label_uniqueness(panel.index, end)
    for _, own in found.groupby("symbol"):
        np.testing.assert_allclose(own.iloc[3:-7], 1/4, rtol=1e-12)
        np.testing.assert_allclose(own.iloc[0], np.mean(1/np.arange(1, 5)), rtol=1e-12)
    training = end[end <= panel.index.get_level_values(0)[-20]]
    np.testing.assert_allclose(label_uniqueness(training.index, training), label_uniqueness(training.index, training, bars=panel.index), rtol=1e-12)


def test_uniqueness_keeps_its_digits_on_long_histories_and_other_symbols_do_not_matter():
    times = pd.date_range("2020", periods=200_000, freq="min", tz="UTC")
    index = pd.MultiIndex.from_product([times[:100_000], ["A", "B"]], names=["timestamp", "symbol"])
    end = pd.Series(index.get_level_values(0) + pd.Timedelta("7min"), index=index).where(index.get_level_values(0) < times[99_990])
    found = label_uniqueness(index, end).xs("B", level="symbol")
    np.testing.assert_allclose(found.iloc[10:-30], 1/7, rtol=1e-10)
    one = index.get_level_values(1) == "B"
    np.testing.assert_array_equal(label_uniqueness(index[one], end[one]), found)


@pytest.mark.parametrize("start, end, message", [
    ([0, 1], [1], "1 ends for 2 starts"), ([], [], "0 starts"), ([0, 2], [1, 2], "1 labels do not, the first from 2 to 2"), (["a", "b"], ["c", "d"], "same clock"), ([0, 2], [1, 1], "ends after its start"), ([0., np.nan], [1, 2], "has a start"),
    ([0], [np.nan], "At least one label"), (pd.date_range("2024", periods=2, tz="UTC"), pd.date_range("2025", periods=2), "same clock"), ([0, 1], pd.date_range("2025", periods=2), "same clock")])
def test_what_is_no_span_is_refused(start, end, message):
    for function in (label_uniqueness, label_concurrency, sequential_bootstrap, draw_probabilities):
        with pytest.raises(InputError, match=message): function(start, end)


def test_bars_must_hold_starts_and_ends_and_may_hold_other_symbols():
    panel = random_bars(3)
    end = label_end(panel, 3)
    one = panel.index.get_level_values(1) == "S00001"
    expected = label_uniqueness(panel.index, end)[one]
    part = panel.index[one].remove_unused_levels()
    np.testing.assert_array_equal(label_uniqueness(part, end[one], bars=panel.index), expected)
    with pytest.raises(InputError, match="starts and ends at one of the bars"): label_uniqueness(panel.index, end, bars=panel.index[:-5])
    with pytest.raises(InputError, match="one end"): label_uniqueness(panel.index, end.iloc[1:])
    with pytest.raises(InputError, match="same clock"): label_uniqueness(panel.index, end, bars=panel.tz_localize(None, level=0).index)
    for drawn in ([len(panel)], [-1], [len(panel) - 1]):
        with pytest.raises(InputError, match="positions of labels with an end"): draw_probabilities(panel.index, end, drawn)


def test_draws_have_the_chances_they_should():
    start, end, size = [0, 2, 4, 5, 1], [3, 4, 6, 9, 2], 2000
    pairs = np.array([sequential_bootstrap(start, end, size=2, seed=seed) for seed in range(size)])
    joint = np.array([draw_probabilities(start, end)[first]*draw_probabilities(start, end, [first]) for first in range(5)])
    assert chisquare(np.bincount(pairs[:, 0]*5 + pairs[:, 1], minlength=25), joint.ravel()*size).pvalue > 1e-3
    plain = np.full(25, size/25)
    assert chisquare(np.bincount(pairs[:, 0]*5 + pairs[:, 1], minlength=25), plain).pvalue < 1e-6, "the test can tell it from a plain bootstrap"


@settings(max_examples=40, deadline=None)
@given(label_ends(), st.lists(st.integers(0, 10**6), max_size=6))
def test_chances_are_the_uniqueness_beside_what_is_drawn(end, drawn):
    known = np.flatnonzero(end.notna())
    drawn = [int(known[k % len(known)]) for k in drawn]
    bars = bars_of(end.index, end)
    expected = np.array([np.mean([1/(1 + sum(bar in bars[k] for k in drawn)) for bar in one]) if one else 0 for one in bars])
    np.testing.assert_allclose(draw_probabilities(end.index, end, drawn), expected/expected.sum(), rtol=1e-9)


def test_the_sequential_bootstrap_overlaps_less_repeats_itself_and_leaves_out_what_has_no_label():
    panel = random_bars(2, 60)
    end = triple_barrier(panel, target=.03, horizon=8).end.where(np.arange(len(panel)) % 5 > 0)
    def kept(drawn): return label_uniqueness(end.index[drawn], end.iloc[drawn], bars=panel.index).mean()
    known, rng = np.flatnonzero(end.notna()), np.random.default_rng(0)
    drawn = [sequential_bootstrap(panel.index, end, size=40, seed=seed) for seed in range(30)]
    assert np.mean([kept(one) for one in drawn]) > np.mean([kept(rng.choice(known, 40)) for _ in range(30)]) + .03
    assert all(end.iloc[one].notna().all() for one in drawn) and (drawn[0] == sequential_bootstrap(panel.index, end, size=40)).all()
    assert (drawn[0] != drawn[1]).any() and len(sequential_bootstrap(panel.index, end)) == len(known)
    for size in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="whole number of draws"): sequential_bootstrap(panel.index, end, size=size)


@settings(max_examples=40, deadline=None)
@given(label_ends(), st.integers(0, 99))
def test_attribution_shares_each_return_among_the_labels_that_earn_it(end, seed):
    returns = pd.Series(np.random.default_rng(seed).normal(size=len(end)), index=end.index)
    bars = bars_of(end.index, end)
    count = {bar: sum(bar in other for other in bars) for one in bars for bar in one}
    own = np.array([abs(sum(returns[bar]/count[bar] for bar in one)) if one else np.nan for one in bars])
    np.testing.assert_allclose(sample_weights(end.index, end, returns.sample(frac=1, random_state=1)), own/np.nanmean(own), rtol=1e-6, atol=1e-9)


def test_attribution_misses_what_a_missing_return_touches_and_refuses_returns_of_nothing():
    returns = pd.Series([np.nan, .01, np.nan, .02, .01, -.02, -.02])
    np.testing.assert_allclose(sample_weights([0, 2, 4], [3, 4, 6], returns), [np.nan, .02/.03, .04/.03])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for nothing in (returns*0, returns*np.nan):
            with pytest.raises(InputError, match="earns a return"): sample_weights([0, 2, 4], [3, 4, 6], nothing)


@pytest.mark.parametrize("oldest", [1, .5, 0, -.25])
def test_time_decay_is_the_books_line_over_accumulated_uniqueness(oldest):
    times = pd.date_range("2024", periods=50, tz="UTC")
    share = pd.Series(np.random.default_rng(0).uniform(.1, 1, 50), index=times)
    learned = share.cumsum()
    slope = (1 - oldest)/learned.iloc[-1] if oldest >= 0 else 1/((oldest + 1)*learned.iloc[-1])
    expected = (1 - slope*learned.iloc[-1] + slope*learned).clip(lower=0)
    np.testing.assert_allclose(time_decay(share, oldest), expected, atol=1e-12)
    np.testing.assert_allclose(time_decay(share[::-1], oldest)[::-1], expected, atol=1e-12)
    assert time_decay(share.where(share > .5), oldest).isna().equals(share <= .5)


def test_a_panels_timestamps_fade_together():
    panel = random_bars(3)
    faded = time_decay(label_uniqueness(panel.index, label_end(panel, 3)), .2).dropna()
    assert (faded.groupby("timestamp").nunique() == 1).all() and np.isclose(faded.iloc[-1], 1) and faded.min() > .2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for nothing in (faded*np.nan, faded[:0]):
            with pytest.raises(InputError, match="uniqueness above zero"): time_decay(nothing)
    for oldest in (-1, 1.1, np.nan, "1", True):
        with pytest.raises(InputError, match="oldest label"): time_decay(faded, oldest)


# ---- fractional differences

def weights_by_hand(d, threshold):
    weights = [1.]
    while abs(following := -weights[-1]*(d - len(weights) + 1)/len(weights)) >= threshold: weights.append(following)
    return weights


@pytest.mark.parametrize("d", [0, .1, .4, .5, .99, 1, 1.3, 2, 3])
@pytest.mark.parametrize("threshold", [.05, 1e-3, 1e-4])
def test_weights_follow_the_recursion(d, threshold):
    np.testing.assert_allclose(fracdiff_weights(d, threshold), weights_by_hand(d, threshold), rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(panels(), st.sampled_from([0, .3, .7, 1, 1.5]), st.sampled_from([.2, .05, .01]), st.booleans())
def test_a_fractional_difference_is_each_window_times_the_weights(panel, d, threshold, shuffle):
    series = panel.close*1e5
    if shuffle: series = series.sample(frac=1, random_state=0)
    weights = weights_by_hand(d, threshold)
    if len(weights) > series.groupby("symbol").size().max():
        with pytest.raises(InputError, match="window fits into the history"): fracdiff(series, d, threshold)
        return
    found = fracdiff(series, d, threshold)
    assert found.index.equals(series.index)
    for _, own in series.groupby("symbol"):
        own = own.sort_index()
        expected = [sum(w*own.iloc[t - k] for k, w in enumerate(weights)) if t >= len(weights) - 1 else np.nan for t in range(len(own))]
        np.testing.assert_allclose(found[own.index], expected, rtol=1e-9, atol=1e-9)


def test_fractional_differences_are_linear_causal_and_leave_a_plain_series_in_its_order():
    rng = np.random.default_rng(0)
    a, b = (pd.Series(1e5*np.exp(np.cumsum(rng.normal(0, .02, 400)))) for _ in range(2))
    difference = lambda series: fracdiff(series, .4, 1e-3)
    np.testing.assert_allclose(difference(2*a - 3*b), 2*difference(a) - 3*difference(b), rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(difference(a)[:200], difference(a[:200]), rtol=1e-12)
    assert difference(a).isna().sum() == len(fracdiff_weights(.4, 1e-3)) - 1
    panel = random_bars(3, 120).mul(2000)
    assert check_causal(lambda bars: fracdiff(bars.close, .4, .01), panel, cuts=4).leaks.empty
    integers = pd.Series(range(10))
    assert fracdiff(integers, 1, 1e-3).tolist()[1:] == [1]*9 and fracdiff(integers, 0, 1e-3).tolist() == list(range(10))


@pytest.mark.parametrize("d, threshold, message", [(-.1, 1e-3, "order of a difference"), (11, 1e-3, "order of a difference"), (np.nan, 1e-3, "order of a difference"), (True, 1e-3, "order of a difference"), ("1", 1e-3, "order"),
                                                   (.5, 0, "threshold"), (.5, 1, "threshold"), (.5, -1, "threshold"), (.5, None, "threshold"), (.001, 1e-12, "fewer than")])
def test_what_is_no_order_or_threshold_is_refused(d, threshold, message):
    with pytest.raises(InputError, match=message): fracdiff_weights(d, threshold)


def test_series_without_a_history_are_refused():
    panel = random_bars()
    for series, message in [(panel, "Series with values"), (panel.close[:0], "empty Series"), (pd.concat([panel.close, panel.close[:1]]), "one row per timestamp"), (panel.close.replace(panel.close.iloc[3], np.inf), "finite values"),
                            (panel.close.xs("S00000", level=1)[::-1], "order of time"), (pd.Series([1.]), "window fits")]:
        with pytest.raises(InputError, match=message): fracdiff(series, 1, .01)


def test_the_smallest_order_leaves_white_noise_alone_and_differences_a_random_walk():
    noise = pd.Series(np.random.default_rng(2).normal(size=1500))
    assert minimum_fracdiff(noise, 1e-3) == 0
    walk = minimum_fracdiff(noise.cumsum(), 1e-3)
    assert 0 < walk <= 1 and minimum_fracdiff(noise.cumsum(), 1e-3, level=1e-9) > walk
    with pytest.raises(InputError, match="no unit root after one"): minimum_fracdiff(noise.cumsum().cumsum(), 1e-3)
    with pytest.raises(InputError, match="20 values that differ"): minimum_fracdiff(noise[:19], 1e-1)
    with pytest.raises(InputError, match="level is a number"): minimum_fracdiff(noise, 1e-3, level=0)
    with pytest.raises(InputError, match="step is a number"): minimum_fracdiff(noise, 1e-3, step=1)


def test_text_in_a_price_column_is_refused_in_words():
    panel = load_market("planted", n_symbols=2, n_bars=30)
    spoiled = panel.assign(close=panel["close"].astype(object).where(np.arange(len(panel)) != 7, "n.a."))
    for make in (forward_return, triple_barrier, direction):
        with pytest.raises(InputError, match="A price column holds numbers; 1 rows of close do not.*got 'n.a.'"): make(spoiled)
