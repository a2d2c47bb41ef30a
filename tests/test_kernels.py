"Every kernel against a loop that says what it means, on segments of any length with holes anywhere; and the words against pandas."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from alphaplus_ml.core import InputError
from alphaplus_ml.features import kernels, words
from alphaplus_ml.features.compute import Plan, as_bars, evaluate
from alphaplus_ml.features.expressions import bars_needed, close, column, element, high, log, low, nodes_of, same, sqrt, volume, where
from alphaplus_ml.market.sources import load_market

few = settings(max_examples=40, deadline=None)
values = st.lists(st.one_of(st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: round(x, 1)), st.just(np.nan)), min_size=1, max_size=40)


@st.composite
def segments(draw, columns=1):
    "Flat arrays of one to four symbols, and where each begins"
    lengths = draw(st.lists(st.integers(0, 14), min_size=1, max_size=4))
    n = sum(lengths)
    draws = [np.array(draw(st.lists(st.one_of(st.integers(-5, 5).map(float), st.floats(-100, 100), st.just(np.nan)), min_size=n, max_size=n)), float) for _ in range(columns)]
    return *draws, np.concatenate([[0], np.cumsum(lengths)])


def by_window(arrays, starts, window, function):
    "The definition: a function of each complete window without holes"
    out = np.full(len(arrays[0]), np.nan)
    for a, b in zip(starts[:-1], starts[1:]):
        for i in range(a + window - 1, b):
            parts = [x[i-window+1:i+1] for x in arrays]
            if not any(np.isnan(part).any() for part in parts): out[i] = function(*parts)
    return out


def check(found, expected): np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@few
@given(segments(), st.integers(1, 13), st.booleans())
def test_weighted_sum(drawn, window, centred):
    (x, starts), weights = drawn, np.linspace(-1, 2, window)
    check(kernels.weighted_sum(x, starts, weights, centred), by_window([x], starts, window, lambda part: np.sum(weights*((part - part[-1]*centred)[::-1]))))


@few
@given(segments(), st.integers(1, 13), st.sampled_from([1, 2, 3, 4]))
def test_central_sum(drawn, window, power):
    x, starts = drawn
    found, expected = kernels.central_sum(x, starts, window, power), by_window([x], starts, window, lambda part: np.sum((np.abs(part - part.mean()) if power == 1 else part - part.mean())**power))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-6)


@few
@given(segments(2), st.integers(1, 13))
def test_product_sum(drawn, window):
    x, y, starts = drawn
    np.testing.assert_allclose(kernels.product_sum(x, y, starts, window), by_window([x, y], starts, window, lambda a, b: np.sum((a - a.mean())*(b - b.mean()))), rtol=1e-9, atol=1e-8)


@few
@given(segments(), st.integers(1, 13))
def test_rank_in_window(drawn, window):
    x, starts = drawn
    check(kernels.rank_in_window(x, starts, window), by_window([x], starts, window, lambda part: stats.rankdata(part)[-1]))


@few
@given(segments(), st.integers(1, 13), st.booleans())
def test_age_of_highest(drawn, window, newest):
    x, starts = drawn
    age = lambda part: np.argmax(part[::-1]) if newest else window - 1 - np.argmax(part)
    check(kernels.age_of_highest(x, starts, window, newest), by_window([x], starts, window, age))
    check(kernels.highest_in_window(x, starts, window), by_window([x], starts, window, np.max))


@few
@given(segments(), st.integers(1, 13), st.floats(0, 1))
def test_quantile_in_window(drawn, window, share):
    x, starts = drawn
    for found, part in zip(kernels.quantiles_in_window(x, starts, window, share).T, (share, 1 - share)):
        check(found, by_window([x], starts, window, lambda values: np.quantile(values, part)))


@few
@given(segments(), st.integers(1, 6), st.floats(0.05, 1), st.integers(0, 14))
def test_smooth_is_wilders_average_and_can_be_resumed(drawn, window, weight, cut):
    x, starts = drawn
    expected = np.full(len(x), np.nan)
    for a, b in zip(starts[:-1], starts[1:]):
        seen = []
        for i in range(a, b):
            if np.isnan(x[i]): continue
            seen.append(x[i])
            if len(seen) == window: expected[i] = average = np.mean(seen)
            elif len(seen) > window: expected[i] = average = (1 - weight)*average + weight*x[i]
    whole = kernels.smooth(x, starts, np.zeros((len(starts) - 1, 2)), window, weight)
    check(whole, expected)
    one, state = x[starts[0]:starts[1]], np.zeros((1, 2))
    parts = [kernels.smooth(part.copy(), np.array([0, len(part)]), state, window, weight) for part in (one[:cut], one[cut:])]
    assert np.array_equal(np.concatenate(parts), whole[:starts[1]], equal_nan=True)


@few
@given(segments(), st.integers(0, 6))
def test_shifting(drawn, bars):
    x, starts = drawn
    series, symbol = pd.Series(x), np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    check(kernels.lagged(x, starts, bars), series.groupby(symbol).shift(bars).to_numpy() if len(x) else x)
    if bars: check(kernels.last_known(x, starts, bars), series.groupby(symbol).ffill(limit=bars).to_numpy() if len(x) else x)


@few
@given(st.lists(st.tuples(st.integers(0, 4), st.one_of(st.integers(-3, 3).map(float), st.just(np.nan))), min_size=1, max_size=40))
def test_comparisons_across_symbols_equal_pandas(pairs):
    codes, x = np.unique([code for code, _ in pairs], return_inverse=True)[1], np.array([value for _, value in pairs])
    when, frame = words.CrossSection(codes), pd.DataFrame({"t": codes, "x": x}).groupby("t").x
    enough = frame.transform("count") >= 3
    check(words._cross_rank(x, when), ((frame.rank() - 0.5)/frame.transform("count") - 0.5).where(enough & ~np.isnan(x)))
    check(when.mean(x), frame.transform("mean").where(enough))
    check(words._cross_deviation(x, when), frame.transform("std").where(enough))
    group = np.abs(x)%2 + 0*x
    both = pd.DataFrame({"t": codes, "g": group, "x": x}).groupby(["t", "g"]).x
    check(words._within(x, group, when), (x - both.transform("mean")).where(both.transform("count") >= 2))


def test_windows_of_large_prices_and_volumes_keep_their_digits():
    "Prices of 1e5 and volumes of 1e9, against a two-pass computation in extended precision"
    rng = np.random.default_rng(0)
    price, traded, starts = 1e5*np.exp(rng.normal(0, 1e-4, 4000).cumsum()), 1e9*rng.lognormal(0, 1, 4000), np.array([0, 4000])
    wide = lambda part: part.astype(np.longdouble)
    two_pass = {
        "sum": (kernels.weighted_sum(traded, starts, np.ones(60), False), [traded], lambda v: wide(v).sum()),
        "variance": (kernels.central_sum(price, starts, 60, 2), [price], lambda v: ((wide(v) - wide(v).mean())**2).sum()),
        "covariance": (kernels.product_sum(price, traded, starts, 60), [price, traded], lambda v, u: ((wide(v) - wide(v).mean())*(wide(u) - wide(u).mean())).sum()),
    }
    for name, (found, arrays, function) in two_pass.items():
        expected = by_window(arrays, starts, 60, function)
        scale = np.abs(expected[59:]) if name != "covariance" else np.sqrt(by_window([price], starts, 60, lambda v: v.var())*by_window([traded], starts, 60, lambda v: v.var()))[59:]*60
        assert np.max(np.abs(found[59:] - expected[59:])/scale) < 1e-9, name


# --- the words, computed by the engine, against pandas ---

@pytest.fixture(scope="module")
def panel(): return load_market("planted", n_symbols=3, n_bars=150, seed=5)


def computed(expression, panel):
    "An expression's values on the panel's index"
    bars, found = as_bars(panel), np.empty(len(panel))
    plan = Plan({"x": expression}, bars.columns)
    def write(root, rows, part): found[bars.order[rows]] = part
    memory = {one: np.zeros((len(bars.symbols), 2)) for one in plan.nodes if one.kind == "memory"}
    with np.errstate(all="ignore"): evaluate(plan, bars, {}, memory, write)
    return pd.Series(found, panel.index)


def rolling(x, window, what, *arguments): return x.groupby("symbol", group_keys=False).transform(lambda s: getattr(s.rolling(window), what)(*arguments))


def pairs(function, x, y, window):
    "A rolling statistic of two series per symbol"
    return pd.concat([function(x[x.index.get_level_values("symbol") == s].rolling(window), y[y.index.get_level_values("symbol") == s]) for s in x.index.levels[1]]).reindex(x.index)


expressions = {
    "mean": (words.mean(close, 20), lambda c, h, v: rolling(c, 20, "mean")),
    "total": (words.total(volume, 7), lambda c, h, v: rolling(v, 7, "sum")),
    "deviation": (words.deviation(close, 20), lambda c, h, v: rolling(c, 20, "std")),
    "spread": (words.spread(close, 20), lambda c, h, v: rolling(c, 20, "std")),
    "highest": (words.highest(high, 20), lambda c, h, v: rolling(h, 20, "max")),
    "lowest": (words.lowest(close, 20), lambda c, h, v: rolling(c, 20, "min")),
    "quantile": (words.quantile(close, 20, 0.8), lambda c, h, v: rolling(c, 20, "quantile", 0.8)),
    "low quantile": (words.quantile(close, 20, 0.1), lambda c, h, v: rolling(c, 20, "quantile", 0.1)),
    "median": (words.quantile(close, 21, 0.5), lambda c, h, v: rolling(c, 21, "median")),
    "rank": (words.rank(close, 20), lambda c, h, v: c.groupby("symbol", group_keys=False).transform(lambda s: s.rolling(20).rank(pct=True))),
    "lag": (words.lag(close, 3), lambda c, h, v: c.groupby("symbol").shift(3)),
    "change": (words.change(close, 3), lambda c, h, v: c.groupby("symbol").pct_change(3)),
    "difference": (words.difference(close), lambda c, h, v: c.groupby("symbol").diff()),
    "correlation": (words.correlation(close, volume, 20), lambda c, h, v: pairs(lambda r, y: r.corr(y), c, v, 20)),
    "beta": (words.beta(close, volume, 20), lambda c, h, v: pairs(lambda r, y: r.cov(y), c, v, 20)/rolling(v, 20, "var")),
    "slope": (words.slope(close, 20), lambda c, h, v: c.groupby("symbol", group_keys=False).transform(lambda s: s.rolling(20).apply(lambda w: np.polyfit(np.arange(20), w, 1)[0], raw=True))),
    "ema": (words.ema(close, 10), lambda c, h, v: c.groupby("symbol", group_keys=False).transform(lambda s: pd.concat([s.iloc[:9]*np.nan, pd.concat([pd.Series([s.iloc[:10].mean()], s.index[9:10]), s.iloc[10:]]).ewm(span=10, adjust=False).mean()]))),
    "windows": (words.windows(lambda w: w.max(axis=1) - w.min(axis=1), close, 9), lambda c, h, v: rolling(c, 9, "max") - rolling(c, 9, "min")),
    "where": (where(close > words.mean(close, 5), 1, -1), lambda c, h, v: np.sign(c - rolling(c, 5, "mean"))),
}


@pytest.mark.parametrize("name", expressions)
def test_words_equal_pandas(name, panel):
    expression, oracle = expressions[name]
    expected = oracle(panel["close"], panel["high"], panel["volume"])
    assert expected.notna().sum() > 250
    pd.testing.assert_series_equal(computed(expression, panel), expected.rename(None), rtol=1e-9, atol=1e-12, check_names=False)
    assert bars_needed(expression) == 1 + expected.xs("P00", level="symbol").notna().argmax()


def test_undefined_stays_undefined(panel):
    odd = panel.copy()
    odd["zero"] = 0.0
    for expression in (close/column("zero"), log(column("zero")), sqrt(column("zero") - close), words.correlation(column("zero"), close, 5), (close/column("zero") > 1), where(close/column("zero"), 1, 2), same(log(column("zero")), 1)):
        assert computed(expression, odd).isna().all(), expression
    assert (computed(element(np.exp, 1e6*close), odd).isna()).all(), "too large is unknown, not infinite"


def test_what_differs_by_rounding_only_is_not_divided_by(panel):
    steady = panel.copy()
    steady["close"] = 100*1.01**steady.index.codes[0]
    assert computed(words.returns/words.spread(words.returns, 20), steady).isna().all()
    assert computed(words.deviation(words.returns, 20), steady).dropna().max() < 1e-12


def test_equal_descriptions_are_one_object():
    assert words.mean(close/words.lag(close, 1) - 1, 20) is words.mean(words.returns, 20)
    assert len(nodes_of([words.correlation(close, volume, 20), words.spread(close, 20)])) == len(nodes_of([words.correlation(close, volume, 20)]))
    assert words.mean(close, 20) is not words.mean(close, 21)


@pytest.mark.parametrize("wrong, words_of_error", [
    (lambda: words.lag(close, -1), "never forward"), (lambda: words.mean(close, 0), "whole number"), (lambda: words.mean(close, True), "whole number"),
    (lambda: words.highest(close, 2.0), "whole number"), (lambda: close + "a", "expressions and numbers"), (lambda: bool(close > 1), "truth value"),
    (lambda: words.clock("wekday"), "weekday"), (lambda: element(np.tanh, None), "expressions and numbers"), (lambda: words.slope(close, 1), "at least 2"), (lambda: words.quantile(close, 5, 1.2), "between 0 and 1")])
def test_words_refuse_what_makes_no_sense(wrong, words_of_error):
    with pytest.raises(InputError, match=words_of_error): wrong()
