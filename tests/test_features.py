"Every feature: causal, finite, independent of row order and of other symbols, free of scale; many against pandas."
import numpy as np
import pandas as pd
import polars as pl
import pytest

from alphaplus_ml.core import InputError, LeakageError, UnknownNameError
from alphaplus_ml.evaluation.leakage import check_causal
from alphaplus_ml.features.engine import FeatureWarning, build_features, concrete_features, feature_catalogue, feature_report, list_features
from alphaplus_ml.features.library import close, features
from alphaplus_ml.market.labels import forward_return
from alphaplus_ml.market.sources import load_market


@pytest.fixture(scope="module")
def planted(): return load_market("planted", n_symbols=6, n_bars=330, seed=2)


@pytest.fixture(scope="module")
def rough():
    "Gaps, late listings, delistings, a constant price, days without volume, and an extra column with holes"
    rng = np.random.default_rng(4)
    panel = load_market("planted", n_symbols=7, n_bars=340, seed=4).copy()
    panel["rate"] = rng.uniform(1, 3, len(panel))
    panel.loc[rng.random(len(panel)) < 0.2, "rate"] = np.nan
    panel.loc[rng.random(len(panel)) < 0.05, "volume"] = 0.0
    symbol, day = panel.index.get_level_values("symbol"), panel.index.codes[0]
    panel.loc[symbol == "P00", ["open", "high", "low", "close"]] = 50.0
    return panel[(rng.random(len(panel)) > 0.03) & ~((symbol == "P01") & (day < 150)) & ~((symbol == "P02") & (day > 200))]


@pytest.fixture(scope="module")
def names(rough): return build_features(rough).columns.tolist()


def test_there_are_enough_of_every_kind():
    catalogue = list_features()
    assert len(catalogue) >= 60 and len(features) >= 36
    assert {"momentum", "trend", "volatility", "range", "volume", "oscillators", "calendar", "cross-sectional"} <= set(catalogue.category)
    assert (catalogue.description.str.len() > 10).all() and (catalogue.formula.str.len() > 3).all() and not catalogue.description.str.contains("{", regex=False).any()


@pytest.mark.parametrize("market", ["planted", "rough"])
def test_no_feature_knows_the_future(request, market):
    "Prefix invariance and a garbage future, for every feature that has a value"
    panel = request.getfixturevalue(market)
    wanted = build_features(panel).columns.tolist()
    report = check_causal(lambda part: build_features(part, wanted), panel, cuts=5)
    assert len(wanted) >= 70 and report.leaks.empty and not report.refused and not report.untested


@pytest.mark.parametrize("name", sorted(concrete_features(["rate"])))
def test_every_feature_has_values_somewhere(rough, planted, name, names): assert name in names


def test_a_planted_future_feature_is_caught(planted):
    def tomorrow(panel): return build_features(panel, ["momentum_5"]).assign(tomorrow=panel["close"].groupby("symbol").shift(-1))
    with pytest.raises(LeakageError, match="tomorrow"): check_causal(tomorrow, planted, cuts=3)


def test_nothing_is_infinite_and_nothing_is_constant_by_mistake(rough, names):
    X = build_features(rough, names)
    assert not np.isinf(X.to_numpy()).any() and (X.nunique() > 1).all()


def test_row_order_does_not_matter(rough, names):
    pd.testing.assert_frame_equal(build_features(rough.sample(frac=1, random_state=0), names).loc[rough.index], build_features(rough, names))


def test_a_symbols_features_do_not_depend_on_other_symbols(planted):
    own = [name for name, one in concrete_features().items() if not one.compares]
    other = planted.copy()
    other.loc[other.index.get_level_values("symbol") != "P03"] *= 1.7
    one, two = (build_features(panel, own).xs("P03", level="symbol") for panel in (planted, other))
    pd.testing.assert_frame_equal(one, two)


def test_prices_have_no_unit(planted):
    "A price in cents and a volume in lots give the same features, so that symbols can be pooled"
    scaled = planted.copy()
    scaled[["open", "high", "low", "close"]] *= 100.0
    scaled["volume"] /= 100.0
    pd.testing.assert_frame_equal(build_features(scaled), build_features(planted), rtol=1e-6, atol=1e-9)


def per_symbol(series, function): return series.groupby("symbol", group_keys=False).transform(function)


def oracles(panel):
    "Independent pandas computations of some features"
    o, h, l, c, v = (panel[name] for name in ("open", "high", "low", "close", "volume"))
    r = per_symbol(c, lambda x: x/x.shift() - 1)
    before = per_symbol(c, lambda x: x.shift())
    roll = lambda x, w, what: per_symbol(x, lambda s: getattr(s.rolling(w), what)())
    loss, gain = (-r.clip(upper=0)), r.clip(lower=0)
    diff = per_symbol(c, lambda x: x.diff())
    wilder = lambda x: per_symbol(x, lambda s: s.ewm(alpha=1/14, adjust=False, min_periods=14).mean())
    ema = lambda x, n: per_symbol(x, lambda s: s.ewm(span=n, adjust=False).mean())
    true_range = np.maximum(h, before.fillna(h)) - np.minimum(l, before.fillna(l))
    rank = lambda x: (x.groupby("timestamp").rank() - 0.5)/x.groupby("timestamp").transform("count") - 0.5
    return {
        "momentum_20": per_symbol(c, lambda x: x/x.shift(20) - 1),
        "momentum_skip_120_20": per_symbol(c, lambda x: x.shift(20)/x.shift(120) - 1),
        "sma_ratio_50": c/roll(c, 50, "mean") - 1,
        "macd_12_26": (ema(c, 12) - ema(c, 26))/c,
        "realised_volatility_20": roll(r, 20, "std"),
        "parkinson_volatility_20": np.sqrt(roll(np.log(h/l)**2, 20, "mean")/(4*np.log(2))),
        "downside_deviation_20": np.sqrt(roll(loss**2, 20, "mean")),
        "gap": o/before - 1,
        "intraday_return": c/o - 1,
        "close_location": (c - l)/(h - l),
        "volume_zscore_20": (v - roll(v, 20, "mean"))/roll(v, 20, "std"),
        "rsi_14": 100*wilder(diff.clip(lower=0))/(wilder(diff.clip(lower=0)) + wilder(-diff.clip(upper=0))),
        "stochastic_14": 100*(c - roll(l, 14, "min"))/(roll(h, 14, "max") - roll(l, 14, "min")),
        "bollinger_20": (c - roll(c, 20, "mean"))/roll(c, 20, "std"),
        "momentum_rank_20": rank(per_symbol(c, lambda x: x/x.shift(20) - 1)),
        "relative_return_20": (lambda m: m - m.groupby("timestamp").transform("mean"))(per_symbol(c, lambda x: x/x.shift(20) - 1)),
        "weekday_sin": pd.Series(np.sin(2*np.pi*panel.index.get_level_values("timestamp").day_of_week/7), panel.index),
    }


def test_features_equal_pandas(planted):
    expected = oracles(planted)
    assert set(expected) - set(concrete_features()) == set(), "an oracle for a feature that does not exist checks nothing"
    X = build_features(planted, list(expected))
    for name, values in expected.items():
        both = X[name].notna()
        assert both.mean() > 0.5, name
        np.testing.assert_allclose(X.loc[both, name], values[both], rtol=1e-7, atol=1e-10, err_msg=name)


def test_small_and_odd_panels():
    one_bar = load_market("planted", n_symbols=4, n_bars=1)
    built = build_features(one_bar, ["momentum_1", "intraday_return"])
    assert built.momentum_1.isna().all() and built.intraday_return.notna().all()
    single = load_market("planted", n_symbols=1, n_bars=60)
    assert not [name for name in build_features(single) if concrete_features()[name].compares]
    with pytest.raises(InputError, match="three symbols"): build_features(single, ["momentum_rank_20"])
    assert "no value" in feature_report(build_features(single)).problem.iloc[0]


def test_bad_input():
    panel = load_market("planted", n_symbols=3, n_bars=30)
    with pytest.raises(UnknownNameError, match="momentum_20"): build_features(panel, ["momentun_20"])
    with pytest.raises(InputError, match="volume"): build_features(panel.drop(columns="volume"))
    with pytest.raises(InputError, match="timestamp and symbol"): build_features(panel.reset_index())
    with pytest.raises(InputError, match="once"): build_features(panel, ["momentum_5", "momentum_5"])
    with pytest.raises(InputError, match="one row per timestamp"): build_features(pd.concat([panel, panel.iloc[:1]]))
    with pytest.raises(InputError, match="time zone"): build_features(panel.tz_localize(None, level="timestamp"))
    with pytest.raises(InputError, match="numeric.*sector"): build_features(panel.assign(sector="banks"))


def test_a_name_alone_and_a_polars_table_are_accepted():
    panel = load_market("planted", n_symbols=3, n_bars=30)
    expected = build_features(panel, ["momentum_5"])
    pd.testing.assert_frame_equal(build_features(panel, "momentum_5"), expected)
    table = panel.reset_index()
    pd.testing.assert_frame_equal(build_features(pl.from_pandas(table.assign(timestamp=table.timestamp.dt.tz_convert(None))), ["momentum_5"]), expected)


@pytest.mark.parametrize("bad", [np.inf, 0.0, -1.0])
def test_one_bad_price_does_not_spoil_the_rest_of_a_history(planted, bad):
    spoiled = planted.copy()
    spoiled.iloc[600, spoiled.columns.get_loc("close")] = bad
    own = [name for name, one in concrete_features().items() if not one.compares]
    last = build_features(planted, own).iloc[-6:].notna()
    assert (build_features(spoiled, own).iloc[-6:].notna() | ~last).all().all()


def test_a_feature_without_values_is_not_active(planted):
    X = build_features(planted, ["momentum_5"]).assign(momentum_60=np.nan)
    assert [row["is_active"] for row in feature_catalogue(X).rows()] == [True, False]


def test_a_failing_feature_names_itself():
    @features.register("fails", type="per symbol", category="momentum", formula="none", of=None, grid={})
    def fails(): return close/pl.col("nowhere")
    try:
        panel = load_market("planted", n_symbols=3, n_bars=30)
        with pytest.warns(FeatureWarning, match="fails"): built = build_features(panel, ["momentum_5", "fails"])
        assert list(built) == ["momentum_5"]
    finally: del features._members["fails"], features._facts["fails"]


def test_catalogue_rows(rough, names):
    X, y = build_features(rough, names), forward_return(rough)
    importances = pd.Series(np.arange(len(names), dtype=float), names)
    rows = {row["feature_name"]: row for row in feature_catalogue(X, y, importances=importances).rows()}
    assert set(rows) == set(names) and rows[names[3]]["importance_score"] == 3.0
    assert rows["momentum_5"]["correlation_with_target"] == pytest.approx(X.momentum_5.corr(y, method="spearman"), abs=1e-12)
    assert rows["exogenous_change_rate_5"]["parameters"] == {"column": "rate", "window": 5}
