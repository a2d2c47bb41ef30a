"Technical indicators: TA-Lib's numbers on whole histories, and formulas written out by hand on histories with holes."
import numpy as np
import pandas as pd
import pytest
from conftest import real_file

from alphaplus_ml.features.catalogue import concrete_features, filled
from alphaplus_ml.features.engine import build_features
from alphaplus_ml.market.sources import load_market

names = [name for name, one in concrete_features().items() if one.category == "technical"]
bars = ["open", "high", "low", "close", "volume"]


def ticks(panel):
    "Prices in cents and volumes in lots: closes repeat, ranges vanish, highs tie"
    rounded = panel.copy()
    rounded[bars[:4]] = (panel[bars[:4]]/20).round(2)
    rounded["volume"] = panel["volume"].round(-2)
    return rounded


@pytest.fixture(scope="module")
def smooth(): return load_market("planted", n_symbols=3, n_bars=900, seed=11)


@pytest.fixture(scope="module", params=["smooth", "ticks", "real"])
def market(request, smooth):
    if request.param == "real": return load_market(real_file("sp500_5yr_clean.parquet")).loc[(slice(None), ["AAPL", "COST", "GE", "JNJ", "NKE"]), :]
    return smooth if request.param == "smooth" else ticks(smooth)


@pytest.fixture(scope="module")
def holed(smooth):
    "Unknown prices and volumes, bars without a range or volume, a late listing, and a symbol that stands still"
    rng, panel = np.random.default_rng(5), ticks(smooth)[smooth.index.codes[0] < 400].copy()
    symbol, day = panel.index.get_level_values("symbol"), panel.index.codes[0]
    flat = rng.random(len(panel)) < 0.05
    for name in bars[:3]: panel.loc[flat, name] = panel.loc[flat, "close"]
    panel.loc[rng.random(len(panel)) < 0.05, "volume"] = 0.0
    panel = panel.mask(rng.random(panel.shape) < 0.004)
    panel.loc[symbol == "P02", bars[:4]] = 12.5
    return panel[~((symbol == "P01") & (day < 120))]


# --- TA-Lib ---

def of_talib(o, h, l, c, v):
    "By feature: what it equals, and after how many bars of both (0 where everything is a window or begins alike)"
    import talib as ta
    back = lambda x, n: x - np.r_[np.full(n, np.nan), x[:-n]]
    rolled = lambda x, n: pd.Series(x).rolling(n).sum().to_numpy()
    macd, signal, histogram = ta.MACD(c, 12, 26, 9)
    upper, middle, lower = ta.BBANDS(c, 20, 2.0, 2.0, 0)
    aroon_down, aroon_up = ta.AROON(h, l, 25)
    slow, slower = ta.STOCH(h, l, c, 14, 3, 0, 3, 0)
    return {
        "rsi_2": (ta.RSI(c, 2), 0), "rsi_14": (ta.RSI(c, 14), 0), "stochastic_rsi_14_14": (ta.STOCHRSI(c, 14, 14, 3, 0)[0], 0),
        "stochastic_14": (ta.STOCHF(h, l, c, 14, 3, 0)[0], 0), "stochastic_slow_14_3": (slow, 0), "stochastic_signal_14_3_3": (slower, 0), "williams_r_14": (ta.WILLR(h, l, c, 14), 0),
        "aroon_up_25": (aroon_up, 0), "aroon_down_25": (aroon_down, 0), "aroon_oscillator_25": (ta.AROONOSC(h, l, 25), 0),
        "percent_b_20": ((c - lower)/(upper - lower), 0), "bollinger_width_20": ((upper - lower)/middle, 0), "cci_20": (ta.CCI(h, l, c, 20), 0),
        "macd_12_26": (macd/c, 270), "macd_signal_12_26_9": (signal/c, 270), "macd_histogram_12_26_9": (histogram/c, 270),   # TA-Lib begins the fast average later
        "ppo_12_26": (ta.PPO(c, 12, 26, 1), 0), "trix_15": (ta.TRIX(c, 15), 0), "atr_14": (ta.ATR(h, l, c, 14)/c, 0),
        "plus_di_14": (ta.PLUS_DI(h, l, c, 14), 280), "minus_di_14": (ta.MINUS_DI(h, l, c, 14), 280), "dx_14": (ta.DX(h, l, c, 14), 290), "adx_14": (ta.ADX(h, l, c, 14), 310),   # begins with 13 bars
        "ultimate_oscillator_7_14_28": (ta.ULTOSC(h, l, c, 7, 14, 28), 0), "mfi_14": (ta.MFI(h, l, c, v, 14), 0),
        "on_balance_volume_20": (back(ta.OBV(c, v), 20)/rolled(v, 20), 0), "money_flow_20": (back(ta.AD(h, l, c, v), 20)/rolled(v, 20), 0),
        "chaikin_oscillator_3_10": (ta.ADOSC(h, l, c, v, 3, 10)/(rolled(v, 10)/10), 110),   # TA-Lib begins at the first bar
    }


def test_indicators_equal_talib_after_its_beginning_is_forgotten(market):
    pytest.importorskip("talib")
    X = build_features(market, names)
    for symbol, own in market.groupby("symbol"):
        for name, (theirs, after) in of_talib(*[own[column].to_numpy(float) for column in bars]).items():
            ours = X[name].xs(symbol, level="symbol").to_numpy()
            first = max(np.argmax(~np.isnan(ours)), np.argmax(~np.isnan(theirs)))
            assert np.argmax(~np.isnan(ours)) <= np.argmax(~np.isnan(theirs)), name
            where = slice(first + after, None)
            known = ~np.isnan(ours[where])
            assert known.mean() > 0.95, name
            np.testing.assert_allclose(ours[where][known], theirs[where][known], rtol=1e-9, atol=1e-9*np.nanmax(np.abs(theirs)), err_msg=f"{symbol} {name}")


@pytest.mark.parametrize("name, after", [("plus_di_14", 100), ("macd_12_26", 30), ("chaikin_oscillator_3_10", 20)])
def test_before_that_they_differ(smooth, name, after):
    "The comparison can fail: a stated wait that is far too short is noticed"
    pytest.importorskip("talib")
    own = smooth.xs("P01", level="symbol")
    theirs = of_talib(*[own[column].to_numpy(float) for column in bars])[name][0]
    ours = build_features(smooth, [name])[name].xs("P01", level="symbol").to_numpy()
    assert np.nanmax(np.abs(ours - theirs)[after:after + 20]) > 1e-9*np.nanmax(np.abs(theirs))


# --- by hand ---

def averaged(x, window, weight):
    "An exponential average that begins with a plain mean, and waits at holes"
    out, seen, value = x*np.nan, [], None
    for time, now in x.items():
        if np.isnan(now): continue
        if value is None:
            seen.append(now)
            if len(seen) == window: value = np.mean(seen)
        else: value = (1 - weight)*value + weight*now
        if value is not None: out[time] = value
    return out


def by_hand(own):
    "Every indicator of one symbol, written out"
    o, h, l, c, v = (own[name] for name in bars)
    ema, wilder = lambda x, n: averaged(x, n, 2/(n + 1)), lambda x, n: averaged(x, n, 1/n)
    total, mean, top, bottom = (lambda x, n, what=what: getattr(x.rolling(n), what)() for what in ("sum", "mean", "max", "min"))
    each = lambda x, n, function: x.rolling(n).apply(function, raw=True)
    over = lambda a, b: (a/b).where((b != 0) & c.notna())   # a ratio of a bar whose close is unknown is unknown
    d, p, m, before = c.diff(), (h + l + c)/3, (h + l)/2, c.shift()
    tr = pd.concat([h - l, (h - before).abs(), (l - before).abs()], axis=1).max(axis=1, skipna=False)
    rsi = lambda n: 100*over(wilder(d.clip(lower=0), n), wilder(d.abs(), n))
    width = lambda n: top(h, n) - bottom(l, n)
    k = 100*over(c - bottom(l, 14), width(14))
    raw = ema(c, 12) - ema(c, 26)
    sd = lambda n: each(c, n, lambda x: np.std(x) if np.ptp(x) else np.nan)   # a frozen price has no spread, not one of rounding
    e3 = ema(ema(ema(c, 15), 15), 15)
    trix = 100*(e3/e3.shift() - 1)
    up, down = h - h.shift(), l.shift() - l
    known = up.notna() & down.notna()
    plus, minus = (100*over(wilder(a.where((a > 0) & (a > b), 0.0).where(known), 14), wilder(tr, 14)) for a, b in ((up, down), (down, up)))
    dx = 100*over((plus - minus).abs(), plus + minus)
    flow = ((2*c - h - l)/(h - l)).where(h > l, 0.0).where(h.notna() & l.notna() & c.notna())*v
    money = np.sign(p.diff().where(p.diff().abs() > 1e-12, p.diff()*0))*p*v
    pressure = c - pd.concat([l, before], axis=1).min(axis=1, skipna=False)
    uo = lambda n: over(total(pressure, n), total(tr, n))
    ago = lambda x: each(x, 26, lambda y: np.argmax(y[::-1]))
    r14, middle = rsi(14), lambda n: (top(h, n) + bottom(l, n))/2
    body = ((c - o)/(h - l)).where(h > l, 0.0).where(h.notna() & l.notna() & c.notna() & o.notna())
    return {
        "rsi_2": rsi(2), "rsi_14": r14, "chande_momentum_14": 100*over(c - c.shift(14), total(d.abs(), 14)),
        "stochastic_rsi_14_14": 100*over(r14 - bottom(r14, 14), top(r14, 14) - bottom(r14, 14)),
        "true_strength_25_13": 100*over(ema(ema(d, 25), 13), ema(ema(d.abs(), 25), 13)),
        "stochastic_14": k, "stochastic_slow_14_3": mean(k, 3), "stochastic_signal_14_3_3": mean(mean(k, 3), 3), "williams_r_14": k - 100,
        **{f"donchian_{n}": over(c - bottom(l, n).shift(), width(n).shift()) for n in (20, 55)}, **{f"donchian_width_{n}": width(n)/c for n in (20, 55)},
        "ichimoku_9_26": (middle(9) - middle(26))/c, "aroon_up_25": 100*(25 - ago(h))/25, "aroon_down_25": 100*(25 - ago(-l))/25, "aroon_oscillator_25": 4*(ago(-l) - ago(h)),
        "bollinger_20": (c - mean(c, 20))/sd(20)*np.sqrt(19/20), "percent_b_20": (c - mean(c, 20) + 2*sd(20))/(4*sd(20)), "bollinger_width_20": 4*sd(20)/mean(c, 20),
        "cci_20": over(p - mean(p, 20), 0.015*each(p, 20, lambda x: np.abs(x - x.mean()).mean() if np.ptp(x) > 1e-12 else 0.0)),
        "macd_12_26": raw/c, "macd_signal_12_26_9": ema(raw, 9)/c, "macd_histogram_12_26_9": (raw - ema(raw, 9))/c, "ppo_12_26": 100*(ema(c, 12)/ema(c, 26) - 1),
        "trix_15": trix, "trix_histogram_15_9": trix - ema(trix, 9), "awesome_oscillator_5_34": (mean(m, 5) - mean(m, 34))/c,
        "atr_14": wilder(tr, 14)/c, "keltner_20_10": over(c - ema(c, 20), 2*wilder(tr, 10)), "keltner_width_20_10": 4*wilder(tr, 10)/ema(c, 20),
        "squeeze_20": 4*sd(20)/(3*mean(tr, 20)), "bull_power_13": (h - ema(c, 13))/c, "bear_power_13": (l - ema(c, 13))/c,
        "plus_di_14": plus, "minus_di_14": minus, "dx_14": dx, "adx_14": wilder(dx, 14),
        "vortex_plus_14": over(total((h - l.shift()).abs(), 14), total(tr, 14)), "vortex_minus_14": over(total((l - h.shift()).abs(), 14), total(tr, 14)),
        "ultimate_oscillator_7_14_28": 100*(4*uo(7) + 2*uo(14) + uo(28))/7, "choppiness_14": 100*np.log10(over(total(tr, 14), width(14)))/np.log10(14),
        "on_balance_volume_20": over(total(np.sign(d)*v, 20), total(v, 20)), "money_flow_20": over(total(flow, 20), total(v, 20)),
        "mfi_14": 100*over(total(money.clip(lower=0), 14), total(money.abs(), 14)), "force_13": over(ema(d*v, 13), c*mean(v, 13)), "balance_of_power_14": mean(body, 14),
        "chaikin_oscillator_3_10": over(4.5*ema(flow, 10) - ema(flow, 3), mean(v, 10)),
    }


def test_every_indicator_equals_its_formula_with_holes_gaps_and_frozen_prices(holed):
    X = build_features(holed, names)
    for symbol, own in holed.groupby("symbol"):
        own = own.droplevel("symbol")
        expected = by_hand(own)
        assert set(expected) == set(names)
        for name, values in expected.items():
            ours = X[name].xs(symbol, level="symbol")
            np.testing.assert_array_equal(ours.isna(), values.isna(), err_msg=f"{symbol} {name}")
            np.testing.assert_allclose(ours, values, rtol=1e-7, atol=1e-9, err_msg=f"{symbol} {name}")


def test_chaikins_oscillator_needs_no_sum_since_the_beginning(smooth):
    "Averages of the flow against those of the accumulation line itself"
    own = smooth.xs("P00", level="symbol")
    flow = (2*own.close - own.high - own.low)/(own.high - own.low)*own.volume
    line = flow.cumsum()
    direct = (line.ewm(span=3, adjust=False).mean() - line.ewm(span=10, adjust=False).mean())/own.volume.rolling(10).mean()
    ours = build_features(smooth, ["chaikin_oscillator_3_10"]).xs("P00", level="symbol").iloc[:, 0]
    np.testing.assert_allclose(ours.iloc[150:], direct.iloc[150:], rtol=1e-8, atol=1e-9)


def test_what_is_a_function_of_others_is(smooth):
    X = build_features(smooth, names)
    for one in (concrete_features()[name] for name in names):
        said = filled(one.facts["function_of"], one)
        if said: np.testing.assert_allclose(X[one.name], eval(said, {"sqrt": np.sqrt}, dict(X)), rtol=1e-8, atol=1e-9, err_msg=one.name)


# --- where there is nothing to measure ---

ratios = [name for name in names if not name.startswith(("macd", "ppo", "trix", "awesome", "atr", "keltner_width", "bull", "bear", "donchian_width", "ichimoku", "aroon", "on_balance", "money_flow", "force", "balance", "chaikin"))]


def bare(closes, **columns):
    "A symbol whose bars are their closes"
    index = pd.MultiIndex.from_product([pd.date_range("2020", periods=len(closes), tz="UTC"), ["A"]], names=["timestamp", "symbol"])
    return pd.DataFrame({"open": closes, "high": closes, "low": closes, "close": closes, "volume": 1e6}, index=index).assign(**columns)


@pytest.mark.filterwarnings("ignore::alphaplus_ml.features.engine.FeatureWarning")
@pytest.mark.parametrize("noise", [0.0, 1e-15])
def test_a_price_that_stands_still_has_no_ratios(noise):
    "Also where it differs from itself by rounding"
    closes = 30.1*(1 + noise*np.random.default_rng(0).integers(-1, 2, 150))
    X = build_features(bare(closes), names)
    assert X[[name for name in ratios if name != "mfi_14" or not noise]].isna().all().all()
    others = X.drop(columns=ratios)
    assert others.notna().any().all() and (others.drop(columns=[name for name in others if name.startswith(("aroon", "on_balance"))]).abs().max() < 1e-9).all()


@pytest.mark.filterwarnings("ignore::alphaplus_ml.features.engine.FeatureWarning")
def test_a_price_that_only_rises_is_at_the_upper_end():
    X = build_features(bare(20*1.01**np.arange(120)), names).iloc[-1]
    full = {"rsi_2": 100, "rsi_14": 100, "chande_momentum_14": 100, "true_strength_25_13": 100, "stochastic_14": 100, "williams_r_14": 0, "aroon_up_25": 100, "aroon_down_25": 0,
            "plus_di_14": 100, "minus_di_14": 0, "dx_14": 100, "adx_14": 100, "mfi_14": 100, "on_balance_volume_20": 1, "ultimate_oscillator_7_14_28": 100, "money_flow_20": 0, "balance_of_power_14": 0}
    np.testing.assert_allclose(X[list(full)], list(full.values()), rtol=1e-9, atol=1e-9)
    assert np.isnan(X["stochastic_rsi_14_14"]) and X["donchian_20"] > 1


@pytest.mark.filterwarnings("ignore::alphaplus_ml.features.engine.FeatureWarning")
def test_without_volume_there_are_no_volume_indicators(smooth):
    X = build_features(smooth.assign(volume=0.0), names)
    volume = ["on_balance_volume_20", "money_flow_20", "mfi_14", "force_13", "chaikin_oscillator_3_10"]
    assert X[volume].isna().all().all() and X.drop(columns=volume).notna().any().all()

