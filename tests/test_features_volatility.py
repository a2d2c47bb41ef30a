"Volatility: every definition against the same thing computed window by window with NumPy and SciPy, and against prices whose volatility is known."
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from alphaplus_ml.features.catalogue import concrete_features, filled
from alphaplus_ml.features.engine import build_features
from alphaplus_ml.market.sources import load_market

pytestmark = pytest.mark.filterwarnings("ignore::alphaplus_ml.features.engine.FeatureWarning")
names = [name for name, one in concrete_features().items() if one.category == "volatility"]
bars = ["open", "high", "low", "close", "volume"]


@pytest.fixture(scope="module")
def holed():
    "Unknown prices, bars without a range, a late listing, and a symbol that stands still"
    rng, panel = np.random.default_rng(7), load_market("planted", n_symbols=3, n_bars=420, seed=12).copy()
    symbol, day = panel.index.get_level_values("symbol"), panel.index.codes[0]
    flat = rng.random(len(panel)) < 0.05
    for name in bars[:3]: panel.loc[flat, name] = panel.loc[flat, "close"]
    panel = panel.mask((rng.random(panel.shape) < 0.004) & (day > 300)[:, None])
    panel.loc[symbol == "P02", bars[:4]] = 12.5
    return panel[~((symbol == "P01") & (day < 90))]


def frame_of(closes, **columns):
    "A symbol whose bars are their closes"
    index = pd.MultiIndex.from_product([pd.date_range("2020", periods=len(closes), tz="UTC"), ["A"]], names=["timestamp", "symbol"])
    return pd.DataFrame({"open": closes, "high": closes, "low": closes, "close": closes, "volume": 1e6}, index=index).assign(**columns)


def each(values, window, function):
    "A function of each complete window's rows"
    rows, out = np.column_stack([np.asarray(x, float) for x in values]), np.full(len(values[0]), np.nan)
    for k in range(window - 1, len(out)):
        part = rows[k-window+1:k+1]
        if not np.isnan(part).any(): out[k] = function(*part.T)
    return out


def fallen(x): return min(x[j]/x[:j+1].max() - 1 for j in range(len(x)))


def yang_zhang(night, day, rs):
    n = len(night)
    k = 0.34/(1.34 + (n + 1)/(n - 1))
    return np.sqrt(np.var(night, ddof=1) + k*np.var(day, ddof=1) + (1 - k)*np.mean(rs))


def faded(r2, decay=0.94):
    "RiskMetrics' variance, begun with a mean of 20; holes leave it as it is"
    out, seen, value = np.full(len(r2), np.nan), [], np.nan
    for k, now in enumerate(r2):
        if np.isnan(now): continue
        seen.append(now)
        if len(seen) == 20: value = np.mean(seen)
        elif len(seen) > 20: value = decay*value + (1 - decay)*now
        if len(seen) >= 20: out[k] = value
    return out


def by_hand(own):
    "Every measure of one symbol, window by window"
    o, h, l, c = (own[name].to_numpy(float) for name in bars[:4])
    before = np.r_[np.nan, c[:-1]]
    r, night, day, reach = c/before - 1, np.log(o/before), np.log(c/o), np.log(h/l)
    rs, gk = np.log(h/c)*np.log(h/o) + np.log(l/c)*np.log(l/o), 0.5*reach**2 - (2*np.log(2) - 1)*day**2
    moves = lambda function: lambda x, *others: function(x, *others) if np.ptp(x) > 1e-12 else np.nan
    sd = lambda n: each([r], n, lambda x: np.std(x, ddof=1))
    parkinson = lambda n: each([reach], n, lambda x: np.sqrt(np.mean(x**2)/(4*np.log(2))))
    past = np.r_[np.nan, r[:-1]]
    correlated = lambda x, y: np.corrcoef(x, y)[0, 1] if np.ptp(x) and np.ptp(y) else np.nan
    bipower = lambda x: np.pi/2*np.mean(np.abs(x[1:]*x[:-1]))
    drop = c/each([c], 14, np.max) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            **{f"realised_volatility_{n}": sd(n) for n in (5, 10, 20, 60)}, **{f"parkinson_volatility_{n}": parkinson(n) for n in (5, 20, 60)}, "ewma_volatility_94": np.sqrt(faded(r**2)),
            "garman_klass_volatility_20": each([gk], 20, lambda x: np.sqrt(np.mean(x))), "rogers_satchell_volatility_20": each([rs], 20, lambda x: np.sqrt(np.mean(x))),
            **{f"yang_zhang_volatility_{n}": each([night, day, rs], n, yang_zhang) for n in (20, 60)},
            **{f"har_variance_{n}": each([night**2 + gk], n, lambda x: np.log(np.mean(x)) if np.mean(x) else np.nan) for n in (1, 5, 22)},
            **{f"volatility_ratio_{a}_{b}": sd(a)/np.where(sd(b) > 0, sd(b), np.nan) for a in (5, 20) for b in (60, 250)},
            "volatility_of_volatility_20": each([sd(5)], 20, lambda x: np.std(x, ddof=1)/np.mean(x) if x.any() else np.nan),
            **{f"downside_deviation_{n}": each([r], n, lambda x: np.sqrt(np.sum(x[x < 0]**2)/len(x))) for n in (20, 60)},
            **{f"upside_deviation_{n}": each([r], n, lambda x: np.sqrt(np.sum(x[x > 0]**2)/len(x))) for n in (20, 60)},
            **{f"signed_variation_{n}": each([r], n, moves(lambda x: (np.sum(x[x > 0]**2) - np.sum(x[x < 0]**2))/np.sum(x**2))) for n in (20, 60)},
            **{f"bipower_volatility_{n}": each([r], n, lambda x: np.sqrt(bipower(x))) for n in (20, 60)},
            **{f"jump_share_{n}": each([r], n, moves(lambda x: max(0, 1 - bipower(x)/np.mean(x**2)))) for n in (20, 60)},
            "overnight_share_20": each([night, day], 20, lambda x, y: np.sum(x**2)/np.sum(x**2 + y**2)), "range_ratio_20": parkinson(20)/np.where(sd(20) > 0, sd(20), np.nan),
            "skewness_60": each([r], 60, moves(stats.skew)), "kurtosis_60": each([r], 60, moves(lambda x: stats.kurtosis(x, fisher=False))),
            "autocorrelation_60": each([r, past], 60, correlated), "volatility_clustering_60": each([abs(r), abs(past)], 60, correlated), "leverage_correlation_60": each([r**2, past], 60, correlated),
            **{f"max_drawdown_{n}": each([c], n, fallen) for n in (20, 60, 250)}, "ulcer_index_14": each([drop], 14, lambda x: np.sqrt(np.mean(x**2))),
            "worst_return_20": each([r], 20, np.min), "best_return_20": each([r], 20, np.max), **{f"value_at_risk_{n}": each([r], n, lambda x: -np.percentile(x, 5)) for n in (60, 250)},
        }
    return found


def test_every_measure_equals_its_formula_with_holes_gaps_and_frozen_prices(holed):
    X = build_features(holed, names)
    for symbol, own in holed.groupby("symbol"):
        expected = by_hand(own)
        assert set(expected) == set(names)
        for name, values in expected.items():
            ours = X[name].xs(symbol, level="symbol").to_numpy()
            np.testing.assert_array_equal(np.isnan(ours), np.isnan(values), err_msg=f"{symbol} {name}")
            np.testing.assert_allclose(ours, values, rtol=1e-8, atol=1e-12, err_msg=f"{symbol} {name}")


@pytest.fixture(scope="module")
def walk():
    "Bars of 400 steps each, 1 % a bar, with nights of half a percent"
    rng, n = np.random.default_rng(1), 1500
    steps, nights = 0.01/20*rng.standard_normal((n, 400)), 0.005*rng.standard_normal(n)
    within = np.cumsum(np.column_stack([np.zeros(n), steps]), axis=1)
    opens = np.cumsum(nights) + np.r_[0, np.cumsum(within[:, -1])[:-1]]
    path = np.exp(opens[:, None] + within)
    return frame_of(path[:, -1], open=path[:, 0], high=path.max(1), low=path.min(1))


def test_estimators_find_the_volatility_of_a_price_that_was_made_with_it(walk):
    X = build_features(walk, names).iloc[300:]
    whole, root = np.sqrt(0.01**2 + 0.005**2), lambda name: np.sqrt((X[name]**2).mean())
    for name in ("realised_volatility_20", "ewma_volatility_94", "yang_zhang_volatility_20", "yang_zhang_volatility_60"): assert root(name) == pytest.approx(whole, rel=0.06), name
    for name in ("parkinson_volatility_20", "garman_klass_volatility_20", "rogers_satchell_volatility_20"): assert root(name) == pytest.approx(0.01, rel=0.08), name   # a bar's inside; the steps are seen coarsely
    assert X["overnight_share_20"].mean() == pytest.approx(0.2, abs=0.03) and np.exp(X["har_variance_22"]).mean() == pytest.approx(whole**2, rel=0.12)
    assert root("upside_deviation_60") == pytest.approx(whole/np.sqrt(2), rel=0.06) and root("bipower_volatility_60") == pytest.approx(whole, rel=0.06)
    assert X["kurtosis_60"].mean() == pytest.approx(3, abs=0.2) and X["value_at_risk_250"].mean() == pytest.approx(1.645*whole, rel=0.1)
    for name in ("skewness_60", "autocorrelation_60", "volatility_clustering_60", "leverage_correlation_60", "signed_variation_60"): assert abs(X[name].mean()) < 0.12, name


def test_jumps_are_told_from_diffusion(walk):
    jumpy = walk.copy()
    jumpy.iloc[600:, :4] *= 1.2
    X, Y = (build_features(panel, ["jump_share_60", "bipower_volatility_60", "realised_volatility_60"]).iloc[610] for panel in (walk, jumpy))
    assert Y["jump_share_60"] > 0.7 > 0.3 > X["jump_share_60"]
    assert Y["bipower_volatility_60"] < 1.7*X["bipower_volatility_60"] and Y["realised_volatility_60"] > 2*X["realised_volatility_60"]


def test_losses_that_wake_the_market_show_as_leverage():
    rng, r, size = np.random.default_rng(2), [], 0.01
    for shock in rng.standard_normal(1500):
        r.append(size*shock)
        size = 0.01*(2.5 if r[-1] < -0.01 else 1)
    X = build_features(frame_of(100*np.cumprod(1 + np.array(r))), ["leverage_correlation_60", "volatility_clustering_60"])
    assert X["leverage_correlation_60"].mean() < -0.15 < 0 < X["volatility_clustering_60"].mean()


@pytest.mark.parametrize("window", [1, 2, 3, 7, 20, 21])
def test_the_deepest_fall_is_found_for_every_window(window):
    from alphaplus_ml.features.catalogue import features
    from alphaplus_ml.features.compute import Plan, as_bars, evaluate
    panel, found = frame_of(np.random.default_rng(window).lognormal(size=60)), []
    plan = Plan({"fall": features["max_drawdown"](window)}, panel.columns)
    with np.errstate(all="ignore"): evaluate(plan, as_bars(panel), {}, {}, lambda root, rows, values: found.append(values))
    np.testing.assert_allclose(found[0], each([panel.close], window, fallen), atol=1e-15)


@pytest.mark.parametrize("growth, noise", [(1.0, 0.0), (1.0, 1e-15), (1.01, 0.0)])
def test_without_spread_nothing_is_divided_by_rounding(growth, noise):
    "Frozen prices, prices frozen up to rounding, and prices that grow by exactly one percent"
    closes = 30.1*growth**np.arange(320)*(1 + noise*np.random.default_rng(0).integers(-1, 2, 320))
    X = build_features(frame_of(closes), names)
    assert not np.isinf(X.to_numpy()).any()
    spreads = ["volatility_ratio", "skewness", "kurtosis", "autocorrelation", "volatility_clustering", "leverage", "range_ratio"]
    still = ["volatility_of", "har", "signed", "jump", "overnight"]
    assert X[[name for name in X if name.startswith(tuple(spreads + still*(growth == 1)))]].isna().all().all()
    if growth > 1: np.testing.assert_allclose(X.iloc[-1][["signed_variation_20", "max_drawdown_60", "worst_return_20", "downside_deviation_20"]], [1, 0, 0.01, 0], atol=1e-9)
    else: assert X[[name for name in X if name.startswith(("realised", "parkinson", "max_drawdown", "ewma", "value_at_risk"))]].abs().max().max() < 1e-12


def test_a_range_against_its_open_and_close_is_missing():
    "An open outside the bar's range makes Garman and Klass's variance negative: no number, and no warning"
    panel = frame_of(np.full(40, 100.0), open=50.0)
    X = build_features(panel, ["garman_klass_volatility_20", "har_variance_1", "parkinson_volatility_20"])
    assert X["garman_klass_volatility_20"].isna().all() and (X["parkinson_volatility_20"].dropna() == 0).all()


def test_what_is_a_function_of_others_is(walk):
    X = build_features(walk, names)
    for one in (concrete_features()[name] for name in names):
        said = filled(one.facts["function_of"], one)
        if said: np.testing.assert_allclose(X[one.name], eval(said, {}, dict(X)), rtol=1e-8, err_msg=one.name)
