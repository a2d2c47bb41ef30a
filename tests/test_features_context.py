"Features of the market and transforms (39) and beyond the bars (47), each against an oracle that shares no code with it, and at the edges of what a panel can be."
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.special import binom
from scipy.stats import rankdata

from alphaplus_ml.evaluation.leakage import check_causal
from alphaplus_ml.features.catalogue import concrete_features, list_features, transforms
from alphaplus_ml.features.engine import FeatureState, FeatureWarning, build_features, feature_report, update_features
from alphaplus_ml.market.labels import fracdiff
from alphaplus_ml.market.sources import load_market

categories = ("market", "memory", "calendar", "exogenous")
category_of = {name: one.category for name, one in concrete_features(["rate"]).items() if one.of is None and one.category in categories}
mine, market_names = list(category_of), [name for name, category in category_of.items() if category == "market"]
prices = ["open", "high", "low", "close"]
pytestmark = pytest.mark.filterwarnings("error")


def index_of(times, symbols): return pd.MultiIndex.from_product([times, symbols], names=["timestamp", "symbol"])


def roughened(panel, seed):
    "Gaps, a late listing, a delisting, a constant price, bars without volume, unknown prices, an extra column with holes, zeros and negative values, and sectors"
    rng, panel = np.random.default_rng(seed), panel.copy()
    symbol, day = panel.index.get_level_values("symbol"), panel.index.codes[0]
    panel["rate"] = pd.Series(np.round(np.cumsum(rng.standard_normal(day.max() + 1)), 1), panel.index.levels[0])[panel.index.get_level_values(0)].to_numpy()
    panel.loc[rng.random(len(panel)) < 0.2, "rate"] = np.nan
    panel.loc[(day > 3) & (day < 11), "rate"] = np.nan
    panel.loc[rng.random(len(panel)) < 0.01, "volume"] = 0.0
    panel.loc[symbol == "P00", prices] = 50.0
    panel.loc[(symbol == "P04") & (day == 290), prices] = np.nan
    panel["sector"] = np.where(symbol == "P05", 7.0, panel.index.codes[1]%2)
    panel.loc[(symbol == "P03") & (day > 300), "sector"] = np.nan
    return panel[(rng.random(len(panel)) > 0.01) & ~((symbol == "P01") & (day < 70)) & ~((symbol == "P02") & (day > 310))]


@pytest.fixture(scope="module")
def whole(): return load_market("planted", n_symbols=5, n_bars=300, seed=2).assign(rate=1.0, sector=0.0)


@pytest.fixture(scope="module")
def rough(): return roughened(load_market("planted", n_symbols=6, n_bars=340, seed=4), 4)


@pytest.fixture(scope="module")
def hourly():
    "Bars of the hours from 6 to 23 o'clock, so that each night is a gap"
    panel = load_market("planted", n_symbols=6, n_bars=275, seed=6)
    times = pd.DatetimeIndex([time for time in pd.date_range("2024-01-27", periods=600, freq="h", tz="UTC") if time.hour >= 6][:275])
    return roughened(panel.set_axis(pd.MultiIndex.from_arrays([times[panel.index.codes[0]], panel.index.get_level_values("symbol")], names=panel.index.names)), 6)


def quietly(panel, names, **how):
    "What build_features gives; no warning but of features without a value"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FeatureWarning)
        return build_features(panel, names, **how)


# --- loops that say what the definitions mean ---

def windowed(function, window, *series):
    "A function of each complete window of a symbol's own bars"
    frame, out = np.column_stack(series), np.full(len(series[0]), np.nan)
    for _, rows in pd.Series(np.arange(len(out)), series[0].index).groupby("symbol"):
        rows = rows.to_numpy()
        for k in range(window, len(rows) + 1):
            part = frame[rows[k - window:k]]
            if not np.isnan(part).any(): out[rows[k - 1]] = function(*part.T)
    return pd.Series(out, series[0].index)


def across(function, *series, own=True):
    "A function of the values at each timestamp, where three or more are known; own: one value per symbol that has one, else the same for all"
    frame, out = pd.concat(series, axis=1).to_numpy(), np.full(len(series[0]), np.nan)
    for _, rows in pd.Series(np.arange(len(out)), series[0].index).groupby("timestamp"):
        rows = rows.to_numpy()
        known = ~np.isnan(frame[rows]).any(axis=1)
        if known.sum() >= 3: out[rows[known] if own else rows] = function(*frame[rows[known]].T)
    return pd.Series(out, series[0].index)


def shifted(x, bars): return x.groupby("symbol").shift(bars)
def grown(x, bars): return x/shifted(x, bars) - 1
def mean_across(x): return across(lambda v: v.mean(), x, own=False)
def less_mean(x): return across(lambda v: v - v.mean(), x)
def sd(x): return np.std(x, ddof=1)


def line(y, m):
    "Residuals and slope of y on m and a constant; nothing where either does not vary"
    if np.ptp(m) == 0: return np.full(len(y), np.nan), np.nan
    X = np.column_stack([np.ones_like(m), m])
    found = np.linalg.lstsq(X, y, rcond=None)[0]
    return y - X @ found, found[1]


def positive(x): return x.where(x > 0)
def quotient(a, b): return a/b if b else np.nan


def market_oracles(panel):
    "Every feature of the market, row by row"
    close, volume, r = panel["close"], panel["volume"], grown(panel["close"], 1)
    m = across(lambda v: np.array([np.delete(v, k).mean() for k in range(len(v))]), r)
    found = {}
    for w in (1, 5, 20, 60):
        found[f"market_return_{w}"] = mean_across(grown(close, w))
        found[f"relative_return_{w}"] = less_mean(grown(close, w))
    for w in (1, 20):
        found[f"dispersion_{w}"] = across(sd, grown(close, w), own=False)
        found[f"breadth_{w}"] = across(lambda v: (v > 0).mean(), grown(close, w), own=False)
    for w in (50, 200): found[f"breadth_above_average_{w}"] = mean_across(windowed(lambda c: c[-1] > c.mean(), w, close)*1.0)
    for w in (20, 250): found[f"net_new_highs_{w}"] = mean_across(windowed(lambda h, l: (h[-1] == h.max())*1.0 - (l[-1] == l.min()), w, panel["high"], panel["low"]))
    for w in (20, 60):
        found[f"market_volatility_{w}"] = windowed(sd, w, mean_across(r))
        s, V = windowed(sd, w, r), mean_across(found[f"market_volatility_{w}"]**2)
        pairs = lambda s, V: (len(s)**2*V[0] - (s**2).sum())/(s.sum()**2 - (s**2).sum()) if (s > 0).sum() > 1 else np.nan
        found[f"average_correlation_{w}"] = across(pairs, s, V).groupby("timestamp").transform("max").clip(-1, 1)
    for w in (60, 120):
        beta = windowed(lambda y, x: line(y, x)[1], w, r, m)
        found[f"market_beta_{w}"], found[f"residual_return_{w}"] = beta, r - shifted(beta, 1)*m
        moving = lambda f: lambda y, x: f(y, x) if np.ptp(y) > 0 else np.nan
        found[f"market_correlation_{w}"] = windowed(moving(lambda y, x: np.corrcoef(y, x)[0, 1]), w, r, m)
        found[f"idiosyncratic_volatility_{w}"] = windowed(moving(lambda y, x: np.sqrt((line(y, x)[0]**2).sum()/(len(y) - 2))), w, r, m)
        found[f"downside_beta_{w}"] = windowed(lambda y, x: quotient((y*x)[x < 0].sum(), (x*x)[x < 0].sum()), w, r, m)
    found["lagged_market_correlation_60"] = windowed(moving(lambda y, x: np.corrcoef(y, x)[0, 1]), 60, r, shifted(m, 1))
    def summed(e, w): return e[-w:].sum()/np.sqrt((e**2).sum()/118)/w**0.5
    for w in (20, 60): found[f"residual_momentum_{w}_120"] = windowed(moving(lambda y, x: summed(line(y, x)[0], w)), 120, r, m)
    found["up_capture_60"] = windowed(lambda y, x: quotient(y[x > 0].sum(), x[x > 0].sum()), 60, r, m)
    found["down_capture_60"] = windowed(lambda y, x: quotient(y[x < 0].sum(), x[x < 0].sum()), 60, r, m)
    def coskewness(y, x):
        e, d = line(y, x)[0], x - x.mean()
        return np.mean(e*d*d)/(np.sqrt(np.mean(e*e))*np.mean(d*d))
    found["coskewness_120"] = windowed(moving(coskewness), 120, r, m)
    found["relative_traded_value_20"] = less_mean(np.log(positive(windowed(np.mean, 20, close*volume))))
    found["relative_volume_20"] = less_mean(np.log(positive(positive(volume)/positive(windowed(np.mean, 20, volume)))))
    found["relative_volatility_20"] = less_mean(np.log(positive(windowed(sd, 20, r))))
    return found


def other_oracles(panel):
    "Memory, calendar and other series"
    found, time = {}, panel.index.get_level_values("timestamp")
    for d in (0.2, 0.4, 0.6, 0.8):
        weights = [(-1)**k*binom(d, k) for k in range(400)]
        K = max(k for k in range(400) if abs(weights[k]) >= 0.001)
        found[f"fracdiff_{d}"] = windowed(lambda x: sum(weights[k]*(x[-1 - k] - x[0]) for k in range(K)), K + 1, np.log(panel["close"]))
    minutes = time.hour*60 + time.minute
    shares = {"weekday": time.day_of_week/7, "month": (time.month - 1)/12, "month_day": (time.day - 1)/time.days_in_month,
              "quarter": ((time.month - 1)%3 + (time.day - 1)/time.days_in_month)/3, "hour": minutes/1440, "session": minutes%480/480}
    for name, share in shares.items(): found |= {f"{name}_{part}": pd.Series(getattr(np, part)(2*np.pi*share.to_numpy()), panel.index) for part in ("sin", "cos")}
    found["days_from_month_start"] = pd.Series(time.day - 1.0, panel.index)
    found["days_to_month_end"] = pd.Series(((time + pd.offsets.MonthEnd(0)).normalize() - time.normalize()).days*1.0, panel.index)
    found["weekend"] = pd.Series(time.day_name().isin(["Saturday", "Sunday"])*1.0, panel.index)
    x, r = panel["rate"].groupby("symbol").ffill(limit=5), grown(panel["close"], 1)
    step = x - shifted(x, 1)
    for w in (1, 5, 20): found[f"exogenous_change_rate_{w}"] = x/positive(shifted(x, w)) - 1
    for k in (1, 2): found[f"exogenous_lag_rate_{k}"] = shifted(found["exogenous_change_rate_1"], k)
    for w in (5, 20): found[f"exogenous_move_rate_{w}"] = (x - shifted(x, w))/positive(windowed(sd, 60, step))/w**0.5
    found["exogenous_zscore_rate_60"] = windowed(lambda v: quotient(v[-1] - v.mean(), sd(v)), 60, x)
    found["exogenous_rank_rate_250"] = windowed(lambda v: ((v < v[-1]).sum() + (v == v[-1]).sum()/2)/len(v) - 0.5, 250, x)
    found["exogenous_correlation_rate_60"] = windowed(lambda y, d: np.corrcoef(y, d)[0, 1] if np.ptp(y) > 0 and np.ptp(d) > 0 else np.nan, 60, r, step)
    return found


def base_names(): return ["relative_return_5", "market_beta_60"]


def transform_oracles(panel):
    "Every transform of a feature with holes, of another one, and of a column"
    built = quietly(panel, base_names())
    x, z = built["relative_return_5"], built["market_beta_60"]
    sector = panel["sector"]
    def within(v, g): return np.array([v[k] - v[g == g[k]].mean() if (g == g[k]).sum() > 1 else np.nan for k in range(len(v))])
    both = pd.DataFrame({"x": x, "sector": sector}).dropna()
    grouped = pd.concat([pd.Series(within(part["x"].to_numpy(), part["sector"].to_numpy()), part.index) for _, part in both.groupby("timestamp")]).reindex(panel.index)
    return {
        "rank(relative_return_5)": across(lambda v: (rankdata(v) - 0.5)/len(v) - 0.5, x),
        "zscore(relative_return_5)": across(lambda v: (v - v.mean())/sd(v), x),
        "clipped(zscore(relative_return_5), 0.5)": across(lambda v: np.minimum(np.maximum((v - v.mean())/sd(v), -0.5), 0.5), x),
        "neutral(relative_return_5, sector)": grouped,
        "residual(relative_return_5, market_beta_60)": across(lambda v, u: line(v, u)[0], x, z),
        "residual(relative_return_5, lag(market_beta_60, 3))": across(lambda v, u: line(v, u)[0], x, shifted(z, 3)),
        "residual(relative_return_5, rate)": across(lambda v, u: line(v, u)[0], x, panel["rate"]),
        "lag(relative_return_5, 0)": x,
        "lag(relative_return_5, 3)": shifted(x, 3),
        "difference(relative_return_5, 3)": x - shifted(x, 3),
        "mean(relative_return_5, 7)": windowed(np.mean, 7, x),
        "decay(relative_return_5, 7)": windowed(lambda v: (v*np.arange(1, 8)).sum()/28, 7, x),
        "deviation(relative_return_5, 7)": windowed(sd, 7, x),
        "standardised(relative_return_5, 7)": windowed(lambda v: (v[-1] - v.mean())/sd(v), 7, x),
        "time_rank(relative_return_5, 7)": windowed(lambda v: (rankdata(v)[-1] - 0.5)/7 - 0.5, 7, x),
        "correlation(relative_return_5, market_beta_60, 9)": windowed(lambda v, u: np.corrcoef(v, u)[0, 1] if sd(u) > 1e-10*abs(u.mean()) else np.nan, 9, x, z),
        "correlation(relative_return_5, volume, 9)": windowed(lambda v, u: np.corrcoef(v, u)[0, 1], 9, x, panel["volume"]),
        "mean(rank(relative_return_5), 4)": windowed(np.mean, 4, across(lambda v: (rankdata(v) - 0.5)/len(v) - 0.5, x)),
    }


composed = ["rank(relative_return_5)", "zscore(market_beta_60)", "clipped(zscore(relative_return_5), 0.5)", "neutral(relative_return_5, sector)",
    "residual(relative_return_5, market_beta_60)", "lag(rank(relative_return_5), 3)", "difference(market_beta_60, 3)", "mean(rank(relative_return_5), 4)", "decay(relative_return_5, 7)",
    "deviation(relative_return_5, 7)", "standardised(relative_return_5, 7)", "time_rank(relative_return_5, 7)", "correlation(relative_return_5, market_beta_60, 9)"]


def compare(found, expected):
    for name, values in expected.items(): np.testing.assert_allclose(found[name], values, rtol=1e-7, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("market", ["rough", "hourly"])
def test_every_market_feature_equals_a_loop(request, market):
    panel = request.getfixturevalue(market)
    expected = market_oracles(panel)
    assert set(expected) == set(market_names)
    compare(quietly(panel, list(expected)), expected)
    assert all(values.notna().any() for values in expected.values())


@pytest.mark.parametrize("market", ["rough", "hourly"])
def test_memory_calendar_and_other_series_equal_a_loop(request, market):
    panel = request.getfixturevalue(market)
    expected = other_oracles(panel)
    assert set(expected) == set(mine) - set(market_names)
    compare(quietly(panel, list(expected)), expected)
    assert all(values.notna().any() for values in expected.values())


@pytest.mark.parametrize("market", ["rough", "hourly"])
def test_every_transform_equals_a_loop(request, market):
    panel = request.getfixturevalue(market)
    expected = transform_oracles(panel)
    assert {name.split("(")[0] for name in expected} == {name for name in transforms if transforms[name].__module__.endswith("library.context")}
    compare(quietly(panel, list(expected)), expected)


# --- what each is known to be ---

def test_the_average_correlation_is_that_of_the_pairs(whole):
    r = whole["close"].unstack().pct_change(fill_method=None).iloc[-60:]
    sizes, off = np.outer(r.std(), r.std()), ~np.eye(5, dtype=bool)
    expected = np.average(r.corr().to_numpy()[off], weights=sizes[off])
    np.testing.assert_allclose(quietly(whole, "average_correlation_60").iloc[-5:, 0], expected, rtol=1e-10)


def test_windows_of_different_times_make_no_correlation_above_one():
    "The first symbol's last 20 bars are old and wild, the others' are calm"
    rng = np.random.default_rng(6)
    moves = np.where(np.arange(300) < 200, 0.05, 0.001)[:, None]*rng.standard_normal((300, 1))
    panel = panel_of(100*np.cumprod(1 + np.repeat(moves, 4, axis=1), axis=0))
    sparse = panel[(panel.index.codes[1] > 0) | (panel.index.codes[0] < 200) | (panel.index.codes[0] == 299)]
    assert (build_features(sparse, "average_correlation_20")["average_correlation_20"].iloc[-4:] == 1).all()


def test_a_fractional_difference_is_the_published_one_less_its_level(whole):
    log_price = np.log(whole["close"])
    plain = fracdiff(log_price, 0.4, 1e-3)
    weights = [(-1)**k*binom(0.4, k) for k in range(55)]
    pd.testing.assert_series_equal(build_features(whole, "fracdiff_0.4")["fracdiff_0.4"], plain - sum(weights)*shifted(log_price, 54), check_names=False)
    flat = whole.assign(**dict.fromkeys(prices, 12.34))
    assert (build_features(flat, "memory").dropna() == 0).all().all()


def panel_of(close, **columns):
    "A panel whose bars are single prices; close: t x s"
    close = np.asarray(close, float)
    index = index_of(pd.bdate_range("2020-01-01", periods=len(close), tz="UTC"), [f"P{k:02}" for k in range(close.shape[1])])
    return pd.DataFrame({**dict.fromkeys(prices, close.ravel()), "volume": 1e6, **columns}, index=index)


def test_a_market_that_does_not_move_gives_nothing_to_divide_by():
    "Two prices stand still, or cancel to rounding; the third one's beta to them would be noise over noise"
    rng = np.random.default_rng(0)
    moving = 100*np.cumprod(1 + 0.01*rng.standard_normal(200))
    for a, b in ((np.full(200, 7.0), np.full(200, 3.0)), (np.cumprod(np.full(200, 1.01)), np.cumprod(np.full(200, 0.99)))):
        last = quietly(panel_of(np.column_stack([moving, a, b])), market_names).iloc[-3]
        for name in ("market_beta_60", "market_correlation_120", "downside_beta_60", "up_capture_60", "down_capture_60", "residual_return_60", "coskewness_120", "average_correlation_60"): assert np.isnan(last[name]), name
        assert last[market_names].abs().max() < 100


def test_a_price_that_grows_evenly_has_no_volatility_to_compare():
    rng = np.random.default_rng(5)
    panel = panel_of(np.column_stack([100*np.cumprod(1 + 0.01*rng.standard_normal((60, 4)), axis=0), 7.3*np.exp(0.0137*np.arange(60))]))
    last = build_features(panel, "relative_volatility_20")["relative_volatility_20"].iloc[-5:]
    assert np.isnan(last.iloc[4]) and last.iloc[:4].abs().max() < 1


def test_equal_symbols_are_explained_whole():
    rng = np.random.default_rng(1)
    same = 100*np.cumprod(1 + 0.01*rng.standard_normal(200))
    last = quietly(panel_of(np.column_stack([same]*4)*[1, 2, 3, 5]), market_names).iloc[-1]
    for name in ("market_beta_60", "market_correlation_60", "average_correlation_20", "up_capture_60", "down_capture_60", "downside_beta_120"): assert last[name] == pytest.approx(1, abs=1e-6), name
    for name in ("residual_momentum_20_120", "coskewness_120"): assert np.isnan(last[name]), name
    assert last["idiosyncratic_volatility_60"] < 1e-8 and abs(last["residual_return_60"]) < 1e-12 and last["dispersion_20"] < 1e-12


def test_the_symbol_itself_is_not_in_its_market():
    rng = np.random.default_rng(2)
    apart = build_features(panel_of(100*np.cumprod(1 + 0.01*rng.standard_normal((3000, 3)), axis=0)), "market_correlation_120")["market_correlation_120"]
    assert abs(apart.mean()) < 0.03   # with the symbol in it: 0.58


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_symbols_are_no_market(count, whole):
    few = whole[whole.index.codes[1] < count]
    with pytest.warns(FeatureWarning, match="three at a timestamp"): X = build_features(few, [*market_names, "rank(fracdiff_0.4)", "zscore(fracdiff_0.4)", "residual(fracdiff_0.4, volume)"])
    assert X.isna().all().all()


def test_a_timestamp_with_two_symbols_gives_nothing_and_the_next_one_something(whole):
    days, day = whole.index.levels[0], whole.index.codes[0]
    gap = whole[(day != 250) | (whole.index.codes[1] < 2)]
    X = quietly(gap, ["market_return_1", "relative_return_1", "breadth_1", "rank(fracdiff_0.4)", "market_return_5"])
    assert X.loc[days[250]].isna().all().all() and X.loc[days[251]].notna().all().all()
    assert quietly(gap, "market_beta_60").loc[days[251]].isna().sum().item() == 2   # the window of these two holds a bar without a market


@pytest.mark.parametrize("groups, expected", [([1, 1, 1, 1], "demeaned"), ([1, 2, 3, 4], "none"), ([np.nan]*4, "none"), ([1, 1, 2, np.nan], "two")], ids=str)
def test_groups_at_the_edge(groups, expected):
    rng = np.random.default_rng(3)
    panel = panel_of(100*np.cumprod(1 + 0.01*rng.standard_normal((30, 4)), axis=0), sector=np.tile(groups, 30))
    X = quietly(panel, ["relative_return_1", "neutral(relative_return_1, sector)"]).iloc[-4:]
    own, left = X.iloc[:, 0].to_numpy(), X.iloc[:, 1].to_numpy()
    if expected == "demeaned": np.testing.assert_allclose(left, own, atol=1e-15)
    if expected == "none": assert np.isnan(left).all()
    if expected == "two": np.testing.assert_allclose(left, [own[0] - own[:2].mean(), own[1] - own[:2].mean(), np.nan, np.nan])


def test_a_residual_of_itself_is_nothing_and_not_rounding():
    rng = np.random.default_rng(4)
    panel = panel_of(100*np.cumprod(1 + 0.01*rng.standard_normal((30, 6)), axis=0), level=5.0)
    X = quietly(panel, ["residual(relative_return_1, relative_return_1)", "zscore(residual(relative_return_1, relative_return_1))", "residual(relative_return_1, level)"])
    assert (X.iloc[6:, 0] == 0).all() and X.iloc[:, 1].isna().all() and X.iloc[:, 2].isna().all()


def test_arguments_that_mean_nothing_are_refused_in_words(whole):
    bad = {"lag(fracdiff_0.4, -1)": "never forward", "mean(fracdiff_0.4, 0)": "at least 1", "decay(fracdiff_0.4, 2.5)": "whole number", "decay(fracdiff_0.4, 1)": "at least 2", "mean(fracdiff_0.4, sector)": "whole number",
           "clipped(fracdiff_0.4, 0)": "above zero", "clipped(fracdiff_0.4, sector)": "above zero", "neutral(fracdiff_0.4, industry)": "industry", "residual(fracdiff_0.4, fracdif_0.4)": "fracdif_0.4",
           "residual(fracdiff_0.4, rnk(fracdiff_0.4))": "rank"}
    with pytest.warns(FeatureWarning): X = build_features(whole, ["fracdiff_0.4", *bad])
    assert list(X) == ["fracdiff_0.4"]
    problems = feature_report(X).problem
    for name, words in bad.items(): assert words in problems[name] and "Error" in problems[name].split(":")[0], problems[name]


def test_other_series_with_zeros_and_holes():
    rate = np.array([1.0, 2, 0, -1, 3, *[np.nan]*7, 4, 5])
    panel = panel_of(np.full((14, 1), 10.0), rate=rate)
    change = quietly(panel, ["exogenous_change_rate_1"])["exogenous_change_rate_1"].to_numpy()
    np.testing.assert_allclose(change, [np.nan, 1, -1, np.nan, np.nan, 0, 0, 0, 0, 0, np.nan, np.nan, np.nan, 0.25])


# --- the contract ---

def test_what_the_catalogue_says(rough):
    catalogue = list_features(rough).loc[mine]
    assert len(mine) >= 60 and catalogue.description.is_unique and not catalogue[["description", "formula"]].map(lambda text: "{" in text).any().any()
    assert catalogue.query("category == 'market'").type.eq("cross-sectional").all() and catalogue.query("category != 'market'").type.eq("per symbol").all()
    assert catalogue.loc["relative_return_20"].function_of == "momentum_20 - market_return_20"
    listed = list_features()
    assert {"rank(market_beta_120)", "rank(relative_traded_value_20)"} <= set(listed.index) and listed.loc["rank(market_beta_120)"].category == "cross-sectional"
    assert listed.loc["rank(market_beta_120)"].description == "Rank of market_beta_120 among the symbols, -0.5 to 0.5"


def test_prices_and_volumes_have_no_unit(rough):
    scaled = rough.assign(**{name: 100.0*rough[name] for name in prices}, volume=rough["volume"]/128)
    names = [*mine, *composed]
    pd.testing.assert_frame_equal(quietly(scaled, names), quietly(rough, names), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("market", ["rough", "hourly"])
def test_nothing_knows_the_future(request, market):
    panel = request.getfixturevalue(market)
    names = [*mine, *composed]
    report = check_causal(lambda part: quietly(part, names), panel, cuts=3, rtol=0)
    assert report.leaks.empty and not report.refused


@pytest.mark.parametrize("market", ["rough", "hourly"])
@pytest.mark.parametrize("cuts", [[150], [3, 70, 71, 72, 201, 311], [*range(262, 275)]], ids=["halves", "uneven", "bar by bar"])
def test_updates_equal_the_whole_to_the_last_bit(request, market, cuts):
    panel, names = request.getfixturevalue(market), [*mine, *composed]
    state, day = FeatureState(names), panel.index.codes[0]
    edges = [0, *cuts, 10_000]
    parts = [update_features(state, panel[(day >= a) & (day < b)]) for a, b in zip(edges[:-1], edges[1:])]
    pd.testing.assert_frame_equal(pd.concat(parts).loc[panel.index], quietly(panel, names), check_exact=True)


def test_short_histories_and_empty_ones(whole):
    names = [*mine, *composed]
    for panel in (whole[whole.index.codes[0] < 1], whole.iloc[:0], whole.assign(**dict.fromkeys(prices, np.nan)), whole.assign(volume=0.0), whole.assign(**dict.fromkeys(prices, 3.0))):
        X = quietly(panel, names)
        assert X.index.equals(panel.index) and list(X) == names and not np.isinf(X.to_numpy()).any()
