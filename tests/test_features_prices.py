"Momentum, trend, range, volume and liquidity: every definition against plain loops and other libraries, on whole and on broken histories."
import re
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from alphaplus_ml.evaluation.leakage import check_causal
from alphaplus_ml.features.catalogue import concrete_features, described, features
from alphaplus_ml.features.engine import FeatureState, build_features, feature_report, update_features
from alphaplus_ml.features.library import prices

own = {name: one for name, one in concrete_features().items() if one.of is None and features[one.definition].__module__ == prices.__name__}
old = """momentum_1 momentum_5 momentum_10 momentum_20 momentum_60 momentum_skip_120_20 momentum_skip_250_20 risk_adjusted_momentum_20
risk_adjusted_momentum_60 momentum_change_20 return_surprise_20 rising_share_20 sma_ratio_10 sma_ratio_50 sma_ratio_200 ema_ratio_12 ema_ratio_26
trend_t_20 trend_t_60 efficiency_ratio_20 gap intraday_return close_location range_expansion_20 distance_to_high_20 distance_to_high_250
distance_to_low_20 distance_to_low_250 volume_zscore_20 volume_ratio_5_60 illiquidity_change_20_120 vwap_ratio_20
volume_correlation_20""".split()


# panels

def one_symbol(rng, n, name, spread=0.004, nights=0.01):
    "Bars of prices in whole cents, so that some do not move; quiet and busy, with gaps over night"
    steps = rng.normal(0, 0.002, (n, 30))*rng.choice([0.3, 1, 2], (n, 1))
    steps[:, 0] += rng.normal(0.0005, nights, n)*rng.choice([0.1, 1], n)
    paths = np.round(8*np.exp(np.cumsum(steps).reshape(n, 30) + spread/2*rng.choice([-1, 1], (n, 30))), 2)
    index = pd.MultiIndex.from_product([pd.date_range("2020-01-01", periods=n, tz="UTC"), [name]], names=["timestamp", "symbol"])
    volume = np.where(rng.random(n) < 0.04, 0.0, np.round(rng.lognormal(8, 0.8, n)))
    return pd.DataFrame({"open": paths[:, 0], "high": paths.max(1), "low": paths.min(1), "close": paths[:, -1], "volume": volume}, index=index)


def rough_panel(n=420, seed=0):
    "A whole history; holes and a bad price; days without rows and a late start; a long stop; a delisting"
    rng = np.random.default_rng(seed)
    whole, holes, gaps, stop, dead = (one_symbol(rng, n, name) for name in ("whole", "holes", "gaps", "stop", "dead"))
    holes.iloc[rng.choice(np.arange(20, n, 97), 3, replace=False), :4] = np.nan
    holes.iloc[5, 4] = holes.iloc[8, 3] = np.nan
    holes.iloc[11, 3] = -1.0
    gaps = gaps[(np.arange(n) > 60) & (rng.random(n) > 0.05)]
    stop.iloc[150:300, :4] = stop.iloc[149, 3]
    stop.iloc[200:270, 4] = 0.0
    return pd.concat([whole, holes, gaps, stop, dead.iloc[:280]]).sort_index()


@pytest.fixture(scope="module")
def rough(): return rough_panel()


@pytest.fixture(scope="module")
def built(rough): return build_features(rough, list(own))


def flat(close, **others):
    "One symbol with bars without range"
    close = np.asarray(close, float)
    index = pd.MultiIndex.from_product([pd.date_range("2020-01-01", periods=len(close), tz="UTC"), ["A"]], names=["timestamp", "symbol"])
    return pd.DataFrame({"open": close, "high": close, "low": close, "close": close, "volume": 1000.0, **others}, index=index)


def quietly(panel, names):
    "Features, where some are expected to have no value; any other warning is an error"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "feature .* has no value")
        return build_features(panel, list(names))


# oracles: plain loops over windows of one symbol's arrays

def roll(function, window, *arrays):
    "A function of each complete window"
    out = np.full(len(arrays[0]), np.nan)
    for i in range(window - 1, len(out)):
        parts = [array[i-window+1:i+1] for array in arrays]
        if np.isfinite(parts).all(): out[i] = function(*parts)
    return np.where(np.isfinite(out), out, np.nan)


def back(x, bars): return np.concatenate([np.full(bars, np.nan), x])[:len(x)]
def moves(x): return np.ptp(x) > 1e-9*np.abs(x).max()
def sd(x): return np.std(x, ddof=1) if moves(x) else np.nan
def zscore(x): return (x[-1] - x.mean())/sd(x)
def time(x): return np.arange(len(x))
def fit(x): return stats.linregress(time(x), x) if moves(x) else SimpleNamespace(slope=0.0, rvalue=np.nan)
def slope(x): return np.polyfit(time(x), x, 1)[0] if moves(x) else 0.0
def divided(a, b): return a/b if b else np.nan


def exponential(x, first, weight):
    "The plain mean of the first values, then the average that forgets; holes are passed over"
    out, seen, value = np.full(len(x), np.nan), [], np.nan
    for i in np.flatnonzero(np.isfinite(x)):
        if len(seen) < first:
            seen.append(x[i])
            value = np.mean(seen)
        else: value = (1 - weight)*value + weight*x[i]
        if len(seen) == first: out[i] = value
    return out


def linear_t(x):
    f = fit(x)
    return f.rvalue*np.sqrt((len(x) - 2)/(1 - f.rvalue**2)) if f.rvalue**2 < 1 - 1e-9 else np.nan


def lo_mackinlay(d, q):
    "Equations (12) of Lo and MacKinlay (1988), from one-bar log returns"
    n, mu = len(d), d.mean()
    longer = np.array([d[i:i+q].sum() - q*mu for i in range(n - q + 1)])
    return (longer**2).sum()/(q*(n - q + 1)*(1 - q/n))/((d - mu)**2).sum()*(n - 1) if moves(d) else np.nan


def roll_1984(d, before):
    covariance = np.cov(d, before)[0, 1]
    return 2*np.sqrt(-covariance) if covariance < 0 and moves(d) else np.nan


def corwin_schultz(h, l, c):
    "The estimate from two bars, as in the paper's appendix"
    (h0, h1), (l0, l1), (c0, _) = h, l, c
    if l1 > c0: h1, l1 = h1 - (l1 - c0), c0
    elif h1 < c0: h1, l1 = c0, l1 + (c0 - h1)
    beta, gamma = np.log(h0/l0)**2 + np.log(h1/l1)**2, np.log(max(h0, h1)/min(l0, l1))**2
    alpha = (np.sqrt(2*beta) - np.sqrt(beta))/(3 - 2*np.sqrt(2)) - np.sqrt(gamma/(3 - 2*np.sqrt(2)))
    return max(2*(np.exp(alpha) - 1)/(1 + np.exp(alpha)), 0)


def abdi_ranaldo(h, l, c):
    "The estimate from two bars"
    middle = (np.log(h) + np.log(l))/2
    return np.sqrt(max(4*(np.log(c[0]) - middle[0])*(np.log(c[0]) - middle[1]), 0))


def amihud(r, value):
    "The log of the mean over bars that trade; a bar that does not needs no return"
    out = np.full(len(r), np.nan)
    for i in range(19, len(r)):
        a, v = r[i-19:i+1], value[i-19:i+1]
        traded = v > 0
        if np.isfinite(v).all() and traded.any() and np.isfinite(a[traded]).all():
            mean = (np.abs(a[traded])/v[traded]).mean()
            out[i] = np.log(mean) if mean > 0 else np.nan
    return out


def drop_length(x): return len(x) - 1 - max(i for i in range(len(x)) if x[i] == x.max())


def oracles(bars):
    "Every feature of one symbol, computed another way"
    o, h, l, c, v = (np.where(bars[name] > 0, bars[name], np.nan) if name != "volume" else bars[name].to_numpy() for name in ("open", "high", "low", "close", "volume"))
    r, d, before, value = c/back(c, 1) - 1, np.log(c) - np.log(back(c, 1)), back(c, 1), c*v
    skip = lambda long, short: back(c, short)/back(c, long) - 1
    q = np.sign(r)*value
    per = lambda name, windows, function: {f"{name}_{w}": function(w) for w in windows}
    volatility = np.sqrt(exponential(r**2, 60, 1/61))
    ids = {f"information_discreteness_{w}_20": roll(lambda x: (x < 0).mean() - (x > 0).mean(), w - 20, back(r, 20))*np.sign(skip(w, 20)) for w in (120, 250)}
    with np.errstate(divide="ignore"):
        surprise = {f"volume_surprise_{w}": np.log(v/roll(np.mean, w, back(v, 1))) for w in (20, 60)}
        tsm = {f"time_series_momentum_{w}": (np.log(c) - np.log(back(c, w)))/(volatility*np.sqrt(w)) for w in (60, 250)}
    cs, ar = roll(corwin_schultz, 2, h, l, c), roll(abdi_ranaldo, 2, h, l, c)
    i20, i120 = (roll(lambda a, b: divided(np.abs(a).sum(), b.sum()), w, r, value) for w in (20, 120))
    log_ratio = lambda a, b: np.log(np.where((a > 0) & (b > 0), a/np.where(b > 0, b, 1), np.nan))
    average = lambda w: roll(np.mean, w, value)
    return {
        **per("momentum", (1, 5, 10, 20, 60), lambda w: c/back(c, w) - 1),
        "momentum_skip_120_20": skip(120, 20), "momentum_skip_250_20": skip(250, 20), "intermediate_momentum_250_120": skip(250, 120),
        **per("risk_adjusted_momentum", (20, 60), lambda w: roll(lambda x: stats.ttest_1samp(x, 0).statistic if moves(x) else np.nan, w, r)),
        **tsm,
        "momentum_change_20": (c/back(c, 20) - 1) - (back(c, 20)/back(c, 40) - 1),
        "return_surprise_20": roll(lambda x: (x[-1] - x[:-1].mean())/sd(x[:-1]), 21, r),
        "rising_share_20": roll(lambda x: (x > 0).mean(), 20, r),
        "max_return_20": roll(np.max, 20, r),
        **per("overnight_momentum", (20, 60), lambda w: roll(np.sum, w, np.log(o/before))),
        **per("intraday_momentum", (20, 60), lambda w: roll(np.sum, w, np.log(c/o))),
        **ids,
        **per("sma_ratio", (10, 50, 200), lambda w: c/roll(np.mean, w, c) - 1),
        **per("ema_ratio", (12, 26), lambda w: c/exponential(c, w, 2/(w + 1)) - 1),
        "sma_cross_20_200": roll(lambda x: x[-20:].mean()/x.mean() - 1, 200, c), "sma_cross_50_200": roll(lambda x: x[-50:].mean()/x.mean() - 1, 200, c),
        **per("trend_slope", (20, 60), lambda w: roll(slope, w, np.log(c))),
        **per("trend_r2", (20, 60), lambda w: roll(lambda x: fit(x).rvalue**2, w, np.log(c))),
        **per("trend_t", (20, 60), lambda w: roll(linear_t, w, np.log(c))),
        "clenow_momentum_90": roll(lambda x: fit(x).slope*fit(x).rvalue**2, 90, np.log(c)),
        "acceleration_60": roll(lambda x: 2*59*np.polyfit(time(x), x, 2)[0], 60, np.log(c)),
        "efficiency_ratio_20": roll(lambda x: divided(abs(x[-1] - x[0]), np.abs(np.diff(x)).sum()), 21, c),
        **{f"variance_ratio_{k}_60": roll(lambda x: lo_mackinlay(x, k), 60, d) for k in (2, 5, 10)},
        "gap": o/before - 1, "intraday_return": c/o - 1,
        "close_location": np.where(h > l, (c - l)/np.where(h > l, h - l, 1), np.nan),
        "range_expansion_20": roll(lambda x: divided(x[-1], x.mean()), 20, h - l),
        **per("distance_to_high", (20, 250), lambda w: c/roll(np.max, w, h) - 1), **per("distance_to_low", (20, 250), lambda w: c/roll(np.min, w, l) - 1),
        **per("drawdown", (60, 250), lambda w: roll(lambda x: x[-1]/x.max() - 1, w, c)), **per("drawdown_length", (60, 250), lambda w: roll(drop_length, w, c)),
        "volume_zscore_20": roll(zscore, 20, v),
        "volume_ratio_5_60": roll(lambda x: divided(x[-5:].mean(), x.mean()), 60, v),
        **{name: np.where(np.isfinite(x), x, np.nan) for name, x in surprise.items()},
        "volume_percentile_50": roll(lambda x: stats.rankdata(x)[-1]/50, 50, v),
        **per("volume_trend", (20, 60), lambda w: roll(lambda x: divided(slope(x), x.mean()), w, v)),
        "vwap_ratio_20": c/roll(lambda p, w: np.average(p, weights=w) if w.sum() else np.nan, 20, (h + l + c)/3, v) - 1,
        "volume_correlation_20": roll(lambda a, b: np.corrcoef(a, b)[0, 1] if moves(a) and moves(b) else np.nan, 20, r, v),
        "illiquidity_change_20_120": log_ratio(i20, i120),
        "illiquidity_zscore_20_120": roll(zscore, 120, amihud(r, value)),
        "roll_spread_60": roll(roll_1984, 60, d, back(d, 1)),
        **per("corwin_schultz_spread", (20, 60), lambda w: roll(np.mean, w, cs)), **per("abdi_ranaldo_spread", (20, 60), lambda w: roll(np.mean, w, ar)),
        **per("kyle_lambda", (20, 60), lambda w: roll(lambda a, b, t: np.polyfit(b/t.mean(), a, 1)[0] if moves(b) else np.nan, w, r, q, value)),
        **per("zero_return_share", (20, 60), lambda w: roll(lambda x: (x == 0).mean(), w, r)),
        **per("turnover_zscore", (5, 20, 60), lambda w: roll(zscore, w, value)),
        **per("traded_value_momentum", (20, 60), lambda w: log_ratio(average(w), back(average(w), w))),
        "traded_value_variability_60": roll(lambda x: sd(x)/x.mean(), 60, value),
    }


@pytest.fixture(scope="module")
def expected(rough):
    with np.errstate(invalid="ignore"):
        return pd.concat([pd.DataFrame(oracles(bars), bars.index) for _, bars in rough.groupby("symbol")]).loc[rough.index]


def test_every_definition_has_an_oracle_and_the_old_names_live(expected):
    assert set(expected) == set(own) and set(old) <= set(own) and 60 <= len(own) <= 90
    assert {one.category for one in own.values()} == {"momentum", "trend", "range", "volume", "liquidity"}


@pytest.mark.parametrize("name", own)
def test_it_equals_its_oracle_bar_by_bar(name, built, expected):
    "Values and holes, on a whole history and on broken ones"
    known = expected[name].notna()
    assert known.groupby("symbol").mean()["whole"] > 0.3
    assert (built[name].notna() == known).all(), pd.concat([built[name], expected[name]], axis=1)[built[name].notna() != known].head()
    np.testing.assert_allclose(built.loc[known, name], expected.loc[known, name], rtol=1e-8, atol=1e-12)


def test_the_rough_panel_is_rough(rough, expected):
    "What the oracles are compared on does contain the cases"
    c = rough.close.groupby("symbol")
    assert (c.diff() == 0).mean() > 0.02 and (rough.volume == 0).mean() > 0.02 and rough.close.isna().any()
    shift = (rough.low > c.shift()) | (rough.high < c.shift())
    assert shift.mean() > 0.05 and expected.roll_spread_60.isna().groupby("symbol").mean()["whole"] > 0.16


def test_variance_ratios_and_lines_equal_other_libraries(rough, built):
    from arch.unitroot import VarianceRatio
    from statsmodels.api import OLS, add_constant
    c = np.log(rough.close.xs("whole", level="symbol").to_numpy())
    X = built.xs("whole", level="symbol")
    for i in (60, 200, 419):
        for q in (2, 5, 10): assert X[f"variance_ratio_{q}_60"].iloc[i] == pytest.approx(VarianceRatio(c[i-60:i+1], lags=q).vr, rel=1e-10)
        line = OLS(c[i-59:i+1], add_constant(np.arange(60.))).fit()
        assert X.trend_t_60.iloc[i] == pytest.approx(line.tvalues[1], rel=1e-8) and X.trend_r2_60.iloc[i] == pytest.approx(line.rsquared, rel=1e-8)


# what must hold for all

def test_texts_are_whole():
    for name, one in own.items():
        said = described(one)
        assert "{" not in said["description"] + said["formula"] + (said["function_of"] or "") and len(said["description"]) > 20, name
        for parameter in one.parameters: assert "{" + parameter + "}" in one.facts["formula"], name


def test_what_is_a_function_of_others_is_that(built):
    marked = {name: described(one)["function_of"] for name, one in own.items() if one.facts["function_of"]}
    assert len(marked) == 2
    for name, formula in marked.items():
        value = eval(re.sub(r"[a-z]\w+", lambda found: f"X[{found[0]!r}]", formula).replace("^", "**"), {"X": built})
        np.testing.assert_allclose(built[name][value.notna()], value.dropna(), rtol=1e-9)


def test_no_feature_knows_the_future(rough):
    report = check_causal(lambda part: quietly(part, own), rough, cuts=4)
    assert report.leaks.empty and not report.refused and not report.untested


@pytest.mark.parametrize("cuts", [(300,), (1, 61, 62, 250, 281, 300), tuple(range(255, 275))])
def test_new_bars_give_the_same_bits(rough, built, cuts):
    times = rough.index.get_level_values("timestamp")
    days, state, pieces = times.unique(), FeatureState(list(own)), []
    for first, end in zip((0, *cuts), (*cuts, len(days))):
        pieces.append(update_features(state, rough[(times >= days[first]) & (times <= days[end - 1])]))
    pd.testing.assert_frame_equal(pd.concat(pieces), built, check_exact=True)


def test_prices_have_no_unit(rough, built):
    scaled = rough.assign(**{name: rough[name]*100 for name in ("open", "high", "low", "close")}, volume=rough.volume/100)
    pd.testing.assert_frame_equal(build_features(scaled, list(own)), built, rtol=1e-6, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.002, 0.02]), st.sampled_from([0.0, 0.01, 0.2]))
def test_values_stay_where_they_belong(seed, spread, nights):
    names = ["rising_share_20", "trend_r2_20", "efficiency_ratio_20", "close_location", "volume_percentile_50", "zero_return_share_20"]
    signs = ["volume_correlation_20", "information_discreteness_120_20"]
    least = ["variance_ratio_5_60", "drawdown_length_60", "corwin_schultz_spread_20", "abdi_ranaldo_spread_20", "distance_to_low_20", "traded_value_variability_60"]
    most = ["distance_to_high_20", "drawdown_60"]
    X = quietly(one_symbol(np.random.default_rng(seed), 160, "A", spread, nights), names + signs + least + most)
    assert not np.isinf(X).any().any() and X.notna().any().all()
    assert (X[names].min() >= 0).all() and (X[names].max() <= 1).all() and (X[signs].abs().max() <= 1 + 1e-12).all()
    assert (X[least].min() >= 0).all() and (X[most].max() <= 0).all() and X.drawdown_length_60.max() <= 59


# panels at the edge

def test_a_price_that_never_moves():
    "What is defined there, and nothing else"
    X = quietly(flat(np.full(400, 7.3)), own)
    zero = [name for name in own if re.match(r"(momentum|intermediate|overnight|intraday|max_return|rising|sma|ema|trend_slope|acceleration|gap|distance|drawdown|information"
                                             r"|vwap|volume_trend|corwin|abdi|traded_value_momentum)", name)]
    last = X.iloc[-1]
    defined = {**dict.fromkeys(zero, 0.0), "zero_return_share_20": 1.0, "zero_return_share_60": 1.0, "volume_ratio_5_60": 1.0, "volume_surprise_20": 0.0, "volume_surprise_60": 0.0,
               "volume_percentile_50": 0.51}
    assert set(last.dropna().index) == set(defined)
    np.testing.assert_allclose(last[list(defined)], list(defined.values()), atol=1e-15)


def test_a_price_that_grows_by_the_same_share():
    "Returns that differ by rounding only are divided by nowhere"
    X = quietly(flat(50*1.01**np.arange(400)), own)
    undefined = ["risk_adjusted_momentum_20", "return_surprise_20", "trend_t_20", "trend_t_60", "variance_ratio_2_60", "variance_ratio_10_60", "roll_spread_60", "volume_correlation_20"]
    assert X[undefined].isna().all().all() and X.drop(columns=undefined).abs().max().max() < 100
    np.testing.assert_allclose(X.iloc[-1][["trend_slope_60", "clenow_momentum_90"]], np.log(1.01), rtol=1e-9)
    assert X.trend_r2_60.iloc[-1] == pytest.approx(1) and (X[["trend_r2_20", "trend_r2_60"]].max() <= 1).all() and X.information_discreteness_120_20.iloc[-1] == -1 and X.time_series_momentum_60.iloc[-1] == pytest.approx(np.sqrt(60)*np.log(1.01)/0.01)


def test_rounding_is_no_range_and_no_way():
    "A price that stands still but for its last bit"
    price = np.where(np.arange(60)%2, 7.3, np.nextafter(7.3, 8))
    X = quietly(flat(price, high=np.nextafter(price, 8), low=np.nextafter(price, 0)), ["close_location", "range_expansion_20", "efficiency_ratio_20", "trend_t_20"])
    assert X.isna().all().all()


def test_nothing_trades():
    panel = one_symbol(np.random.default_rng(1), 300, "A").assign(volume=0.0)
    X = quietly(panel, own)
    needs_trades = [name for name, one in own.items() if one.category == "volume" and name != "volume_percentile_50" or re.match("illiq|kyle|turnover|traded", name)]
    assert X[needs_trades].isna().all().all() and X.drop(columns=needs_trades).notna().any().all()
    assert set(feature_report(X).index) - {"volume_percentile_50"} == set(needs_trades)   # that one is the same at every bar


@pytest.mark.parametrize("bars", [1, 2, 19])
def test_short_histories(bars):
    "Each feature begins on the bar that the catalogue names, not before"
    X = quietly(one_symbol(np.random.default_rng(3), 300, "A").iloc[:bars], own)
    assert set(X.columns[X.notna().any()]) <= {name for name, one in own.items() if described(one)["bars"] <= bars}


def test_first_values_stand_where_the_catalogue_says(built):
    X = built.xs("whole", level="symbol")
    for name, one in own.items():
        if name == "roll_spread_60": continue   # its first covariances may be positive
        assert X.index.get_loc(X[name].first_valid_index()) + 1 - described(one)["bars"] in range(0, 3), name


# known answers

def test_spreads_are_found():
    "Three spreads in a market whose trades hit the bid or the ask by chance"
    rng = np.random.default_rng(5)
    names = ["roll_spread_60", "corwin_schultz_spread_60", "abdi_ranaldo_spread_60"]
    for spread in (0.01, 0.03):
        logs = np.cumsum(rng.normal(0, 0.006/20, (1500, 400))).reshape(1500, 400) + spread/2*rng.choice([-1, 1], (1500, 400))
        panel = flat(np.exp(logs[:, -1]), open=np.exp(logs[:, 0]), high=np.exp(logs.max(1)), low=np.exp(logs.min(1)))
        np.testing.assert_allclose(build_features(panel, names).mean(), spread, rtol=0.15)


def test_a_gap_over_night_is_no_spread_and_no_volatility():
    "Two bars by hand: the later one, 10 dollars up over night, is moved back to touch the close"
    bars = flat([100.]*22).assign(high=[102.]*21 + [112.], low=[98.]*21 + [110.], close=[100.]*21 + [112.])
    X = build_features(bars, ["corwin_schultz_spread_20"])
    assert X.iloc[-2, 0] == pytest.approx(0.04)      # both bars span 98 to 102 and close at 100: all of it is spread
    moved = corwin_schultz(np.array([102., 102.]), np.array([98., 100.]), np.array([100., 102.]))
    assert X.iloc[-1, 0] == pytest.approx((19*0.04 + moved)/20) and 0 < moved < 0.04


def test_impact_is_the_slope():
    flow = np.random.default_rng(2).normal(0, 1e6, 200)
    close = 100*np.cumprod(1 + 3e-9*flow)
    X = build_features(flat(close, volume=np.abs(flow)/close), ["kyle_lambda_20"])
    np.testing.assert_allclose(X.kyle_lambda_20.iloc[25:], 3e-9*pd.Series(np.abs(flow)).rolling(20).mean()[25:], rtol=1e-8)


def test_returns_that_carry_over_have_ratios_above_one_and_reversals_below():
    rng = np.random.default_rng(8)
    from scipy.signal import lfilter
    for carried, ratio in ((0.4, 1.4), (0.0, 1.0), (-0.4, 0.6)):
        walk = flat(50*np.exp(np.cumsum(lfilter([1], [1, -carried], rng.normal(0, 0.01, 8000)))))
        assert build_features(walk, ["variance_ratio_2_60"]).mean().item() == pytest.approx(ratio, abs=0.05)
