"Planted leaks of every kind are named; causal functions pass"
import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from alphaplus_ml.core import InputError, LeakageError
from alphaplus_ml.evaluation.leakage import CausalReport, check_causal

days = pd.date_range("2022-01-03", periods=90, freq="B", tz="UTC")


def make_panel(seed=0, gaps=0.05):
    "Random walks; C is listed late, D is delisted early, some bars are missing"
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([days, list("ABCD")], names=["timestamp", "symbol"])
    close = 100*np.exp(rng.normal(0, 0.02, (len(days), 4)).cumsum(axis=0)).ravel()
    frame = pd.DataFrame({"open": close*1.001, "high": close*1.01, "low": close*0.99, "close": close, "volume": rng.lognormal(10, 1, len(index))}, index=index)
    late, gone = (frame.index.isin([(day, symbol) for day in span]) for symbol, span in [("C", days[:30]), ("D", days[60:])])
    return frame[~late & ~gone & (rng.random(len(frame)) >= gaps)]


panel = make_panel()


def each(column, change): return lambda p: p[column].groupby(level="symbol").transform(change).rename("f")


causal = {
    "trailing mean": each("close", lambda c: c.rolling(10).mean()),
    "rolling deviation": each("close", lambda c: c.rolling(20).std()),
    "exponential mean": each("close", lambda c: c.ewm(span=12).mean()),
    "expanding z-score": each("close", lambda c: (c - c.expanding().mean())/c.expanding().std()),
    "past return": each("close", lambda c: c.pct_change(fill_method=None)),
    "forward fill": each("close", lambda c: c.where(c > c.shift()).ffill()),
    "cross-sectional rank": lambda p: p["close"].groupby(level="timestamp").rank(),
    "calendar": lambda p: pd.Series(p.index.get_level_values(0).day_of_week, index=p.index),
    "text": lambda p: pd.Series(np.where(p["close"] > 100, "up", "down"), index=p.index),
    "own timestamp": lambda p: p.index.get_level_values(0).to_series(index=p.index),
    "range": lambda p: np.log(p["high"]/p["low"]).to_frame("range").assign(volume=np.log(p["volume"])),
    "constant": lambda p: pd.Series(1, index=p.index),
}
leaking = {
    "centred window": each("close", lambda c: c.rolling(5, center=True).mean()),
    "full-sample z-score": each("close", lambda c: (c - c.mean())/c.std()),
    "full-sample rank": each("close", lambda c: c.rank(pct=True)),
    "backward fill": each("close", lambda c: c.rolling(5).mean().bfill()),
    "next return": each("close", lambda c: c.shift(-1)/c - 1),
    "far return": each("close", lambda c: c.shift(-30)/c - 1),
    "interpolation": each("close", lambda c: c.where(c > c.shift()).interpolate()),
    "reversed mean": each("close", lambda c: c[::-1].ewm(span=3).mean()[::-1]),
    "share of the sample": lambda p: p.groupby(level="symbol").cumcount()/len(p),
    "symbols there will be": lambda p: p["close"].groupby(level="timestamp").transform("size")/p.index.get_level_values("symbol").nunique(),
    "label end": lambda p: p.index.get_level_values(0).to_series(index=p.index).groupby(level="symbol").shift(-2),
    "next weekday as text": lambda p: pd.Series(np.where(p["close"].groupby(level="symbol").shift(-1) > p["close"], "up", "down"), index=p.index),
    "spike filter": lambda p: p["close"].where(~((p["close"].groupby(level="symbol").shift(-1)/p["close"] - 1).abs() > 0.5)),
    "best lag of the sample": lambda p: p["close"].groupby(level="symbol").shift(1 + int(p["volume"].sum()) % 7),
    "market's future": lambda p: p["close"]*0 + p["close"].groupby(level="timestamp").mean().shift(-1).reindex(p.index, level=0),
    "a tiny share of the next bar": each("close", lambda c: c + 1e-6*c.shift(-1)),
}


orderless = ["cross-sectional rank", "calendar", "text", "own timestamp", "range", "constant"]  # the others take row order for time
@pytest.mark.parametrize("name, data", [(name, panel) for name in causal] + [(name, panel.sample(frac=1, random_state=1)) for name in orderless])
def test_causal_functions_pass(name, data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = check_causal(causal[name], data)
    assert isinstance(report, CausalReport) and report.leaks.empty and len(report.cuts) == 8


@pytest.mark.parametrize("name", leaking)
def test_planted_leaks_are_named(name):
    with pytest.raises(LeakageError) as caught: check_causal(leaking[name], panel)
    assert caught.value.report.leaks.index.tolist() == list(caught.value.report.columns)
    assert repr(caught.value.report.columns[0]) in str(caught.value) and str(caught.value.report.leaks["first"].iloc[0]) in str(caught.value)


def test_all_leaking_columns_are_named_and_no_other():
    def features(p): return pd.DataFrame({name: function(p) for name, function in {**leaking, **causal}.items() if name != "range"})
    with pytest.raises(LeakageError) as caught: check_causal(features, panel)
    assert set(caught.value.report.leaks.index) == set(leaking)
    assert all(name in str(caught.value) for name in leaking) and "trailing mean" not in str(caught.value)


grid = make_panel(gaps=0).drop(["C", "D"], level="symbol")
@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-6, 6), min_size=1, max_size=4), st.integers(0, 60))
def test_a_sum_over_offsets_leaks_exactly_when_one_lies_ahead(offsets, begin):
    "Row t is the sum of close[t+k]: it has its first value at -min(k), and knows the future when some k > 0"
    def total(p):
        close = p["close"].groupby(level="symbol")
        return sum(close.shift(-k) for k in offsets).where(p.index.get_level_values(0) >= days[begin])
    if max(offsets) <= 0:
        assert check_causal(total, grid).leaks.empty
        return
    with pytest.raises(LeakageError) as caught: check_causal(total, grid)
    assert caught.value.report.leaks["first"].tolist() == [days[max(begin, -min(offsets))]]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(causal)), st.sampled_from(sorted(set(leaking) - {"best lag of the sample", "label end"})))
def test_verdicts_hold_on_other_panels(seed, good, bad):
    data = make_panel(seed, gaps=0.2)
    assert check_causal(causal[good], data, cuts=3).leaks.empty
    with pytest.raises(LeakageError): check_causal(leaking[bad], data, cuts=24)   # a backward fill shows only where a cut meets a gap


def test_a_frame_of_one_asset_can_be_checked():
    single = panel.xs("A", level="symbol")
    assert check_causal(lambda p: p["close"].diff(), single).columns == ("close",)
    with pytest.raises(LeakageError, match="close"): check_causal(lambda p: p["close"].diff(-1), single)


@pytest.mark.parametrize("name", ["label end", "share of the sample", "far return", "next return"])
def test_the_first_timestamp_is_where_the_leak_begins(name):
    with pytest.raises(LeakageError) as caught: check_causal(leaking[name], panel)
    first = leaking[name](panel).dropna().index[0][0] if name != "share of the sample" else days[1]     # 0/n is 0 for every n
    assert caught.value.report.leaks["first"].tolist() == [first]


def test_a_leak_at_the_very_start_needs_and_gets_an_early_cut():
    early = lambda p: p["close"].groupby(level="symbol").shift(-1).where(p.index.get_level_values(0) == days[4])
    with pytest.raises(LeakageError, match=str(days[4].date())): check_causal(early, panel)


def test_a_rare_leak_needs_its_cut():
    rare = lambda p: p["close"].groupby(level="symbol").shift(-1).where(p.index.get_level_values(0) == days[41])
    assert check_causal(rare, grid).leaks.empty
    with pytest.raises(LeakageError): check_causal(rare, grid, cuts=[days[41]])
    with pytest.raises(LeakageError): check_causal(rare, grid, cuts=200)


def test_columns_that_come_with_the_future_leak():
    def dummies(p): return pd.get_dummies(p.index.get_level_values("symbol")).set_axis(p.index).astype(float)
    with pytest.raises(LeakageError) as caught: check_causal(dummies, panel)     # C is not yet known at the first cuts
    assert caught.value.report.leaks.index.tolist() == ["C"]


def test_rounding_is_tolerated_and_said():
    noisy = lambda p: p["close"]*(1 + 1e-13*len(p))
    assert check_causal(noisy, panel).leaks.empty
    with pytest.raises(LeakageError): check_causal(noisy, panel, rtol=0)


def test_the_panel_is_left_alone_and_types_are_kept():
    before, kinds = panel.copy(), []
    data = panel.assign(count=1)
    def spoil(p):
        kinds.append(p.dtypes.astype(str).to_dict())
        p["close"] = 0.0
        return p["volume"]
    check_causal(spoil, data)
    assert panel.equals(before) and data["close"].equals(before["close"])
    assert all(kind == kinds[0] for kind in kinds)


def test_garbage_keeps_high_above_low():
    def strict(p):
        assert (p["high"] >= p["low"]).all() and (p["close"] > 0).all()
        return p["close"]
    assert check_causal(strict, panel).leaks.empty


def test_a_report_is_frozen_and_says_what_was_not_tested():
    report = check_causal(lambda p: pd.DataFrame({"empty": np.nan, "close": p["close"]}), panel)
    assert report.untested == ("empty",) and "empty" in str(report)
    with pytest.raises(dataclasses.FrozenInstanceError): report.cuts = ()


close = lambda p: p["close"]
@pytest.mark.parametrize("function, data, cuts, message", [
    (lambda p: p["close"].dropna()[5:], panel, None, "panel's index"),
    (lambda p: p["close"].sort_index(level="symbol"), panel, None, "panel's index"),
    (lambda p: p["close"].reset_index(drop=True), panel, None, "panel's index"),
    (lambda p: p["close"].to_numpy(), panel, None, "Series or a DataFrame"),
    (lambda p: None, panel, None, "Series or a DataFrame"),
    (lambda p: p[[]], panel, None, "with columns"),
    (lambda p: p[["close", "close"]], panel, None, "different names"),
    (lambda p: p["close"] + np.random.default_rng().normal(size=len(p)), panel, None, "same values for the same panel"),
    (close, panel["close"], None, "DataFrame"),
    (close, panel.reset_index(), None, "DataFrame"),
    (close, pd.concat([panel, panel[:1]]), None, "unique"),
    (close, panel.loc[[days[0]]], None, "at least 2 timestamps"),
    (close, panel, [days[-1]], "before its last one"),
    (close, panel, [days[3], pd.Timestamp("1999-01-01", tz="UTC")], "1999"),
    (close, panel, [], "before its last one"),
    (close, panel, 0, "before its last one"),
    (close, panel, "yesterday", "yesterday"),
])
def test_bad_input_is_refused(function, data, cuts, message):
    with pytest.raises(InputError, match=message): check_causal(function, data, cuts)


def test_a_function_that_refuses_short_panels_is_still_tested():
    def picky(p, change):
        if len(p) < 100: raise KeyError("too short")
        return change(p)
    report = check_causal(lambda p: picky(p, causal["trailing mean"]), panel)
    assert 0 < len(report.refused) < len(report.cuts) and "KeyError('too short')" in str(report)
    with pytest.raises(LeakageError) as caught: check_causal(lambda p: picky(p, leaking["next return"]), panel)
    assert caught.value.report.leaks["first"].tolist() == [days[0]] and caught.value.report.refused


def test_the_error_of_a_function_that_refuses_every_cut_is_raised():
    def picky(p):
        if len(p) < len(panel): raise KeyError("too short")
        return p["close"]
    with pytest.raises(KeyError) as caught: check_causal(picky, panel)
    assert "the panel up to" in caught.value.__notes__[0]


next_close = lambda p: p["close"].groupby(level="symbol").shift(-1)
rising = lambda p: next_close(p) > p["close"]
sneaky = {
    "last timestamp, from the index's levels": lambda p: pd.Series((p.index.levels[0].max() - p.index.get_level_values(0)).days, index=p.index),
    "number of symbols, from the index's levels": lambda p: p["close"]/len(p.index.levels[1]),
    "whole numbers of 19 digits": lambda p: pd.Series(p.index.get_level_values(0).asi8*1000//1000 + rising(p).to_numpy(), index=p.index),
    "truth values": rising,
    "categories": lambda p: pd.Series(pd.Categorical(np.where(rising(p), "up", "down")), index=p.index),
    "nullable text": lambda p: pd.Series(np.where(rising(p), "up", pd.NA), index=p.index, dtype="string"),
    "one symbol": lambda p: p["close"].where(p.index.get_level_values("symbol") != "B", next_close(p)),
    "the last bar but one": lambda p: p["close"].where(p.index.get_level_values(0) != days[-2], next_close(p)),
    "a symbol listed later": lambda p: p["close"]*(p.index.get_level_values("symbol") == "C").any(),
    "a small symbol beside large ones": lambda p: pd.Series(np.where(p.index.get_level_values("symbol") == "B", 1e-9*rising(p), 1e6*p["close"]), index=p.index),
    "only in long panels": lambda p: each("close", lambda c: c - c.mean())(p) if len(p) > 250 else each("close", lambda c: c - c.expanding().mean())(p),
}
@pytest.mark.parametrize("name", sneaky)
def test_leaks_that_hide_are_found(name):
    with pytest.raises(LeakageError): check_causal(sneaky[name], panel)


def test_a_leak_with_holes_begins_at_its_first_day():
    mondays = lambda p: p["close"].where(p.index.get_level_values(0).day_of_week != 0, next_close(p)).where(p.index.get_level_values(0) >= days[20])
    with pytest.raises(LeakageError) as caught: check_causal(mondays, grid, cuts=[days[85]])
    assert caught.value.report.leaks["first"].tolist() == [days[20]] and days[20].day_of_week == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_first_day_of_a_leak_in_signs_is_not_a_matter_of_luck(seed):
    data = make_panel(seed, gaps=0).xs("A", level="symbol", drop_level=False)
    late = lambda p: rising(p).where(p.index.get_level_values(0) >= days[3]).astype("boolean")
    with pytest.raises(LeakageError) as caught: check_causal(late, data, cuts=[days[70], days[71], days[72], days[73]])
    assert caught.value.report.leaks["first"].tolist() == [days[3]]


def test_what_a_callable_object_remembers_is_forgotten_between_calls():
    class FirstSeen:
        mean = None
        def __call__(self, p):
            if self.mean is None: self.mean = p["close"].mean()
            return p["close"] - self.mean
    fitted = FirstSeen()
    with pytest.raises(LeakageError): check_causal(fitted, panel)
    assert fitted.mean is None


def test_a_frame_that_is_written_again_and_again_is_compared_as_it_was():
    buffer = {}
    def writes(p):
        out = buffer.setdefault(len(p), pd.DataFrame(index=p.index, columns=["x"], dtype=float))
        out["x"] = np.random.default_rng().normal(size=len(p))
        return out
    with pytest.raises(InputError, match="same values for the same panel"): check_causal(writes, panel)


def test_columns_that_are_not_computed_from_the_bars_are_named():
    table, cache = next_close(panel), {}
    def looked_up(p):
        cache.setdefault("far", next_close(p))
        return pd.DataFrame({"close": p["close"], "table": table.reindex(p.index), "cached": cache["far"].reindex(p.index), "weekday": p.index.get_level_values(0).day_of_week}, index=p.index)
    report = check_causal(looked_up, panel)
    assert report.unmoved == ("table", "cached", "weekday") and "not computed from the bars: table, cached, weekday" in str(report)


sane = {
    "running sums in single precision": each("close", lambda c: c.cumsum().astype("float32")),
    "rounding that depends on the sample": lambda p: p["close"] - p["close"].mean() + p["close"].mean(),
    "the same in single precision": lambda p: (p["close"].astype("float32")*np.float32(3) + np.float32(len(p))) - np.float32(len(p)),
    "whole numbers, floats where one is missing": lambda p: p["volume"].astype(int) if len(p) % 2 else p["volume"].astype(int).astype(float),
    "warm-up": each("close", lambda c: c.rolling(30).skew()),
    "expanding quantile": each("volume", lambda v: v.expanding(5).quantile(0.9)),
    "nullable": lambda p: (p["close"] > p["open"]).astype("boolean").where(p["volume"] > 2e4),
    "complex": lambda p: p["close"]*1j,
    "demeaned by date": lambda p: p["close"] - p["close"].groupby(level="timestamp").transform("mean"),
}
@pytest.mark.parametrize("name", sane)
def test_sane_functions_are_left_alone(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_causal(sane[name], panel).leaks.empty


def test_a_cell_holds_one_value():
    def cells(p): return pd.Series([[1, 2]]*len(p), index=p.index)
    with pytest.raises(InputError, match="a number, a text"): check_causal(cells, panel)
