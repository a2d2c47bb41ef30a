"The contract of every feature, present and future: causal, finite, updated bit for bit, independent of row order, of other symbols and of units; and the engine's answers to bad input."
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import real_file

from alphaplus_ml.core import InputError, LeakageError, UnknownNameError
from alphaplus_ml.evaluation.leakage import check_causal
from alphaplus_ml.features.catalogue import concrete_features, feature, feature_catalogue, features, list_features, transforms
from alphaplus_ml.features.engine import FeatureState, FeatureWarning, build_features, feature_report, load_state, save_state, update_features
from alphaplus_ml.features.expressions import close, column, nodes_of
from alphaplus_ml.features.words import change, cross_mean, ema, mean, slope, windows
from alphaplus_ml.market.labels import forward_return
from alphaplus_ml.market.sources import load_market

pytestmark = pytest.mark.filterwarnings("ignore::alphaplus_ml.features.engine.FeatureWarning")
everything = sorted(concrete_features(["rate"]))


@pytest.fixture(scope="module")
def planted(): return load_market("planted", n_symbols=6, n_bars=330, seed=2)


def roughened(panel, seed):
    "Gaps, a late listing, a delisting, a constant price, bars without volume or range, and an extra column with holes"
    rng, panel = np.random.default_rng(seed), panel.copy()
    symbol, day = panel.index.get_level_values("symbol"), panel.index.codes[0]
    names, last = symbol.unique().sort_values(), day.max()
    panel["rate"] = rng.uniform(1, 3, len(panel))
    panel.loc[rng.random(len(panel)) < 0.2, "rate"] = np.nan
    panel.loc[rng.random(len(panel)) < 0.05, "volume"] = 0.0
    flat = rng.random(len(panel)) < 0.02
    for name in ("open", "high", "low"): panel.loc[flat, name] = panel.loc[flat, "close"]
    panel.loc[symbol == names[0], ["open", "high", "low", "close"]] = 50.0
    return panel[(rng.random(len(panel)) > 0.03) & ~((symbol == names[1]) & (day < 0.45*last)) & ~((symbol == names[2]) & (day > 0.6*last))]


@pytest.fixture(scope="module")
def rough(): return roughened(load_market("planted", n_symbols=7, n_bars=340, seed=4), 4)


@pytest.fixture(scope="module")
def hourly():
    "Bars of every hour, on a clock of its own"
    panel = load_market("planted", n_symbols=4, n_bars=400, seed=6)
    times = pd.date_range("2024-01-01", periods=400, freq="h", tz="UTC")
    return roughened(panel.set_axis(pd.MultiIndex.from_arrays([times[panel.index.codes[0]], panel.index.get_level_values("symbol")], names=panel.index.names)), 6)


@pytest.fixture(scope="module")
def real(): return roughened(load_market(real_file("sp500_5yr_clean.parquet"), start="2016-06-01").loc[(slice(None), ["AAPL", "GE", "KO", "XOM", "T"]), :], 8)


@pytest.fixture(scope="module")
def built(rough): return build_features(rough, everything)


# --- the catalogue ---

def test_the_catalogue_is_large_and_says_what_each_feature_is():
    catalogue = list_features()
    assert len(catalogue) > 250 and (catalogue.category == "alpha158").sum() == 158
    assert catalogue.function_of[catalogue.category == "alpha158"].notna().sum() == 30
    assert {"momentum", "trend", "range", "volume", "liquidity", "technical", "volatility", "alpha158", "market", "memory", "calendar", "cross-sectional"} <= set(catalogue.category)
    assert set(list_features(pd.DataFrame(columns=["close", "rate"])).category) - set(catalogue.category) == {"exogenous"}
    texts = catalogue[["description", "formula"]]
    assert (catalogue.description.str.len() > 10).all() and (catalogue.formula.str.len() > 3).all() and not texts.map(lambda text: "{" in text).any().any()
    assert catalogue.description.is_unique and (catalogue.bars >= 1).all()


@pytest.mark.parametrize("name", everything)
def test_every_feature_has_values_somewhere_and_they_differ(name, built, hourly):
    values = built[name] if built[name].nunique() > 1 else build_features(hourly, [name])[name]
    assert values.notna().any() and values.nunique() > 1


def test_a_first_value_stands_where_the_catalogue_says(planted):
    "bars is the position of a symbol's first value, on bars without a hole"
    X, bars = build_features(planted.assign(rate=np.arange(len(planted)) % 7 + 1.0), everything), list_features(planted.assign(rate=1.0)).bars
    first = X.xs("P03", level="symbol").notna().apply(lambda has: has.argmax() + 1 if has.any() else np.nan)
    wrong = {name: (bars[name], place) for name, place in first.items() if place == place and place != bars[name] and built_from_start(name)}
    assert not wrong


def built_from_start(name): return name not in late_by_nature


late_by_nature = set()   # features whose first value waits for an event, not for bars


# --- causality ---

@pytest.mark.parametrize("market", ["planted", "rough", "hourly", "real"])
def test_no_feature_knows_the_future(request, market):
    "Prefix invariance and garbage futures, to the last bit, for every feature that has a value"
    panel = request.getfixturevalue(market)
    wanted = [name for name in (everything if "rate" in panel else sorted(concrete_features())) ]
    X = build_features(panel, wanted)
    wanted = X.columns[X.notna().any()].tolist()
    report = check_causal(lambda part: build_features(part, wanted), panel, cuts=5, rtol=0)
    assert len(wanted) > 0.9*len(X.columns) and report.leaks.empty and not report.refused


def test_a_planted_future_feature_is_caught(planted):
    def tomorrow(panel): return build_features(panel, ["momentum_5"]).assign(tomorrow=panel["close"].groupby("symbol").shift(-1))
    with pytest.raises(LeakageError, match="tomorrow"): check_causal(tomorrow, planted, cuts=3)


# --- updates ---

def in_pieces(panel, names, cuts, **how):
    "update_features over the panel, cut at some timestamps"
    state, times = FeatureState(names, **how), panel.index.get_level_values("timestamp")
    days = times.unique().sort_values()
    edges = [days[0], *days[list(cuts)], None]
    parts = [panel[(times >= a) & ((times < b) if b is not None else True)] for a, b in zip(edges[:-1], edges[1:])]
    return pd.concat([update_features(state, part) for part in parts if len(part)]).loc[panel.index], state


@pytest.mark.parametrize("market", ["planted", "rough", "hourly", "real"])
@pytest.mark.parametrize("cuts", [[200], [3, 50, 51, 52, 120, 300], list(range(310, 330))], ids=["halves", "uneven", "daily"])
def test_updates_equal_the_whole_to_the_last_bit(request, market, cuts):
    panel = request.getfixturevalue(market)
    names = everything if "rate" in panel else sorted(concrete_features())
    found, _ = in_pieces(panel, names, cuts)
    pd.testing.assert_frame_equal(found, build_features(panel, names), check_exact=True)


def test_updates_in_single_precision_and_of_new_symbols(rough):
    symbol = rough.index.get_level_values("symbol")
    names = ["momentum_20", "rank(momentum_20)", "rsi_14"]
    times = rough.index.get_level_values("timestamp")
    late = rough[~((symbol == "P00") & (times < times.unique().sort_values()[100]))]     # the first name joins in the middle
    found, state = in_pieces(late, names, [90, 110], dtype="float32")
    pd.testing.assert_frame_equal(found, build_features(late, names, dtype="float32"), check_exact=True)
    assert "7 symbols" in repr(state)


def test_a_refused_update_leaves_the_state_as_it_was(planted):
    times = planted.index.get_level_values("timestamp")
    days = times.unique()
    state = FeatureState(["rsi_14", "momentum_5"])
    update_features(state, planted[times <= days[200]])
    with pytest.raises(InputError, match="later than every bar"): update_features(state, planted[times >= days[200]])
    with pytest.raises(InputError, match="volume"): update_features(state, planted[times > days[200]].drop(columns="volume"))
    with pytest.raises(InputError, match="one row per timestamp"): update_features(state, pd.concat([planted[times == days[201]]]*2))
    assert len(update_features(state, planted.iloc[:0])) == 0
    found = update_features(state, planted[times > days[200]])
    pd.testing.assert_frame_equal(found, build_features(planted, ["rsi_14", "momentum_5"])[times > days[200]], check_exact=True)


def test_a_new_bar_without_a_column_of_the_bars_before_is_refused(rough):
    times = rough.index.get_level_values("timestamp")
    state = FeatureState(["exogenous_change_rate_5"])
    update_features(state, rough[times < times[1500]])
    with pytest.raises(InputError, match="rate"): update_features(state, rough[times >= times[1500]].drop(columns="rate"))


def test_a_state_is_saved_and_resumed_in_another_process(rough, tmp_path):
    "Every feature, through a file that holds no code"
    times = rough.index.get_level_values("timestamp")
    days = times.unique().sort_values()
    state = FeatureState(everything)
    update_features(state, rough[times <= days[250]])
    path = save_state(state, tmp_path/"state")
    rest = rough[times > days[250]]
    rest.to_pickle(tmp_path/"rest.pkl")
    program = ("import sys, warnings, pandas as pd; warnings.simplefilter('ignore')\n"
               "from alphaplus_ml.features.engine import load_state, update_features\n"
               "update_features(load_state(sys.argv[1]), pd.read_pickle(sys.argv[2])).to_pickle(sys.argv[3])")
    subprocess.run([sys.executable, "-c", program, str(path), str(tmp_path/"rest.pkl"), str(tmp_path/"found.pkl")], check=True)
    pd.testing.assert_frame_equal(pd.read_pickle(tmp_path/"found.pkl"), update_features(state, rest), check_exact=True)


def test_a_state_whose_features_have_changed_is_refused(own, planted, tmp_path):
    @own("mine", "ema(close, 5)/close[t]")
    def changing(): "x"; return ema(close, 5)/close
    state = FeatureState(["changing"])
    with pytest.raises(InputError, match="has seen bars"): save_state(state, tmp_path/"state")
    update_features(state, planted)
    path = save_state(state, tmp_path/"state")
    @own("mine", "ema(close, 6)/close[t]")
    def changing(): "x"; return ema(close, 6)/close
    with pytest.raises(InputError, match="defined as they were"): load_state(path)
    @own("mine", "slope of close")
    def sloping(): "x"; return slope(close, 5)/close
    update_features(state := FeatureState(["sloping"]), planted)
    path = save_state(state, tmp_path/"slope")
    @own("mine", "slope of close")
    def sloping(): "x"; return slope(close, 6)/close
    with pytest.raises(InputError, match="defined as they were"): load_state(path)
    np.savez(tmp_path/"other.npz", a=np.zeros(2))
    with pytest.raises(InputError, match="npz file"): load_state(tmp_path/"other.npz")
    (tmp_path/"zip.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(InputError, match="npz file"): load_state(tmp_path/"zip.npz")
    (tmp_path/"text.npz").write_text("no arrays")
    with pytest.raises(InputError, match="npz file"): load_state(tmp_path/"text.npz")


# --- what all features have in common ---

def test_nothing_is_infinite(built): assert not np.isinf(built.to_numpy()).any()


def test_row_order_does_not_matter(rough, built):
    pd.testing.assert_frame_equal(build_features(rough.sample(frac=1, random_state=0), everything).loc[rough.index], built, check_exact=True)


def test_single_precision_is_the_same_rounded(rough, built):
    single = build_features(rough, everything, dtype="float32")
    assert (single.dtypes == "float32").all()
    pd.testing.assert_frame_equal(single, built.astype("float32"), check_exact=True)


def test_a_feature_does_not_depend_on_what_else_is_asked_for(rough, built):
    for name in everything[::17]: pd.testing.assert_series_equal(build_features(rough, [name])[name], built[name], check_exact=True)


def per_symbol(names): return [name for name in names if not concrete_features(["rate"])[name].compares]


def test_a_symbols_features_do_not_depend_on_other_symbols(planted):
    known = concrete_features()
    own = [name for name, one in known.items() if not one.compares]
    other = planted.copy()
    other.loc[other.index.get_level_values("symbol") != "P03"] *= 1.7
    one, two = (build_features(panel, own).xs("P03", level="symbol") for panel in (planted, other))
    assert len(own) > 250
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_prices_and_volumes_have_no_unit(planted):
    "A price in cents and a volume in lots give the same features, so that symbols can be pooled"
    scaled = planted.copy()
    scaled[["open", "high", "low", "close"]] *= 100.0
    scaled["volume"] /= 128.0
    names = [name for name in concrete_features() if not name.startswith(("CORR", "CORD"))]   # published with log(volume + 1)
    pd.testing.assert_frame_equal(build_features(scaled, names), build_features(planted, names), rtol=1e-6, atol=1e-8)


# --- composed names ---

def test_names_compose(planted):
    X = build_features(planted, ["momentum_20", "rank(momentum_20)", "lag(rank(momentum_20), 3)"])
    rank = X["momentum_20"].groupby("timestamp").rank()
    count = X["momentum_20"].groupby("timestamp").transform("count")
    pd.testing.assert_series_equal(X["rank(momentum_20)"], (rank - 0.5)/count - 0.5, check_names=False)
    pd.testing.assert_series_equal(X["lag(rank(momentum_20), 3)"], X["rank(momentum_20)"].groupby("symbol").shift(3), check_names=False)
    assert list(build_features(planted, ["rank( momentum_20 )"])) == ["rank(momentum_20)"]


@pytest.mark.parametrize("name", ["momentum_20", "rsi_14", "KMID"])
def test_every_transform_composes_with_a_feature(name, planted):
    "Present and future transforms: with arguments by their annotation, causal and finite"
    panel = planted.assign(sector=planted.index.codes[1] % 2*1.0)
    asked = []
    for transform_name in transforms:
        wanted = transforms[transform_name].__code__.co_varnames[1:transforms[transform_name].__code__.co_argcount]
        arguments = ["sector" if word == "group" else "5" if word in ("bars", "window") else None for word in wanted]
        if None not in arguments: asked.append(f"{transform_name}({', '.join([name, *arguments])})")
    X = build_features(panel, asked)
    assert len(asked) >= 6 and X.notna().any().all()
    assert check_causal(lambda part: build_features(part, asked), panel, cuts=3, rtol=0).leaks.empty


def test_a_category_stands_for_its_features(planted):
    assert list(build_features(planted, "calendar")) == [name for name, one in concrete_features().items() if one.category == "calendar"]
    both = build_features(planted, ["alpha158", "momentum_20"])
    assert both.shape[1] == 159


# --- bad input ---

def odd_panels():
    "Panels at the edges of what there is"
    rng = np.random.default_rng(3)
    usual = lambda **how: load_market("planted", **{"n_symbols": 4, "n_bars": 80, **how})
    yield "one symbol", usual(n_symbols=1)
    yield "one bar", usual(n_bars=1)
    yield "one row", usual(n_symbols=1, n_bars=1)
    yield "an empty panel", usual().iloc[:0]
    for name in ("open", "close", "volume"): yield f"no value in {name}", usual().assign(**{name: np.nan})
    yield "nothing at all", usual().assign(**dict.fromkeys(["open", "high", "low", "close", "volume"], np.nan))
    yield "constant prices", usual().assign(open=7.0, high=7.0, low=7.0, close=7.0)
    yield "zero volume", usual().assign(volume=0.0)
    yield "infinities", usual().mask(rng.random((320, 5)) < 0.1, np.inf)
    yield "negative prices", -usual()
    yield "prices beyond every range", usual()*[1e300, 1e300, 1e300, 1e300, 1e300]
    yield "tiny prices", usual()*[1e-300, 1e-300, 1e-300, 1e-300, 1]
    yield "holes everywhere", usual().mask(rng.random((320, 5)) < 0.3)
    yield "integers", (usual()*100).astype("int64")
    yield "pandas' nullable numbers", usual().astype("Float64").mask(rng.random((320, 5)) < 0.1)
    yield "many short symbols", load_market("planted", n_symbols=300, n_bars=20)


@pytest.mark.parametrize("name, panel", [pytest.param(*pair, id=pair[0]) for pair in odd_panels()])
def test_odd_panels_give_numbers_or_nan_and_say_why(name, panel):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FeatureWarning)
        X = build_features(panel, sorted(concrete_features()))
        state = FeatureState(sorted(concrete_features()))
        updated = update_features(state, panel)
    assert X.index.equals(panel.index) and not np.isinf(X.to_numpy()).any()
    empty = X.columns[X.isna().all()]
    assert set(empty) <= set(feature_report(X).index) and feature_report(X).problem.str.len().gt(10).all()
    pd.testing.assert_frame_equal(updated, X, check_exact=True)


def test_the_report_says_why(planted):
    short, names = planted[planted.index.codes[0] < 30], ["momentum_60", "rank(momentum_5)", "on_balance_volume_20", "VWAP0"]
    lone = short.xs("P01", level="symbol", drop_level=False).assign(volume=np.nan)
    lone.iloc[3, lone.columns.get_loc("close")] = np.inf
    with pytest.warns(FeatureWarning) as said: report = feature_report(build_features(lone, names))
    assert len(said) == 3 and "'momentum_60' has no value: too few bars: it needs 61 of a symbol, the longest history has 30" in str(said[0].message)
    assert report.loc["rank(momentum_5)"].problem == "it compares symbols and needs three at a timestamp; there are at most 1"
    assert "no value in volume" in report.loc["on_balance_volume_20"].problem
    assert report.loc["close"].problem == "1 value infinite or not above zero: taken as unknown" and report.loc["vwap"].problem == "not in the panel; (((high + low) + close) / 3) stands in for it in 1 feature"


def test_a_column_that_the_panel_has_needs_no_stand_in(planted):
    own = planted.assign(vwap=planted["close"]*1.01)
    X = build_features(own, ["VWAP0"])
    np.testing.assert_allclose(X["VWAP0"], 1.01)
    assert feature_report(X).empty and not X.attrs["stand_ins"]
    row, = feature_catalogue(build_features(planted, ["VWAP0"])).rows()
    assert row["metadata"]["stand_ins"] == {"vwap": "(((high + low) + close) / 3)"}


def test_without_names_what_has_no_value_is_left_out(planted):
    X = build_features(planted)
    report = feature_report(X)
    assert not X.isna().all().any() and set(X) | set(report[report.kind == "feature"].index) == set(concrete_features())
    assert "same value" in report.loc["hour_sin"].problem


def test_bad_input():
    panel = load_market("planted", n_symbols=3, n_bars=30)
    with pytest.raises(UnknownNameError, match="momentum_20"): build_features(panel, ["momentun_20"])
    with pytest.raises(UnknownNameError, match="rank"): build_features(panel, ["rnk(momentum_20)"])
    with pytest.raises(UnknownNameError, match="momentum_20"): build_features(panel, ["rank(momentun_20)"])
    with pytest.raises(InputError, match="neutral"): build_features(panel, ["neutral(momentum_20)"])
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
    spoiled.iloc[120, spoiled.columns.get_loc("close")] = bad
    own = [name for name, one in concrete_features().items() if not one.compares]
    last = build_features(planted, own).iloc[-6:].notna()
    assert (build_features(spoiled, own).iloc[-6:].notna() | ~last).all().all()


# --- a user's own feature ---

@pytest.fixture
def own():
    "Registered features of a test, forgotten afterwards"
    before = set(features)
    yield feature
    for name in set(features) - before: del features._members[name], features._facts[name]


def test_a_users_feature_is_one_function(own, planted):
    @own("mine", "close[t]/mean(close, {window}) - 1", window=(7, 9))
    def stretched(window): "Close against its {window}-bar mean"; return close/mean(close, window) - 1
    X = build_features(planted, ["mine", "rank(stretched_9)"])
    assert list(X) == ["stretched_7", "stretched_9", "rank(stretched_9)"] and list_features().loc["stretched_9"].description == "Close against its 9-bar mean"
    expected = planted["close"]/planted["close"].groupby("symbol").transform(lambda x: x.rolling(7).mean()) - 1
    pd.testing.assert_series_equal(X["stretched_7"], expected, check_names=False)


def test_failing_features_name_themselves_and_the_others_are_built(own, planted):
    @own("mine", "none")
    def no_column(): "x"; return close/column("nowhere")
    @own("mine", "none")
    def raises(): "x"; raise RuntimeError("no idea")
    @own("mine", "none")
    def wrong_shape(): "x"; return ema(windows(lambda values: values[:1], close, 5), 3)
    @own("mine", "none")
    def fails_across(): "x"; return close - cross_mean(windows(lambda values: 1/0, close, 5))
    @own("mine", "none")
    def a_number(): "x"; return 3.0
    with pytest.warns(FeatureWarning) as said: X = build_features(planted, ["momentum_5", "mine", "rank(momentum_5)"])
    assert list(X) == ["momentum_5", "rank(momentum_5)"]
    text = "\n".join(str(one.message) for one in said)
    for part in ("no_column.*nowhere", "raises.*no idea", "wrong_shape.*one value per window", "fails_across.*division by zero", "a_number.*expression"): assert pd.Series([text]).str.contains(part, regex=True)[0], part
    assert set(feature_report(X).index) == {"no_column", "raises", "wrong_shape", "fails_across", "a_number"}
    with pytest.warns(FeatureWarning, match="no idea"): assert list(update_features(FeatureState(["momentum_5", "raises"]), planted)) == ["momentum_5"]
    with pytest.raises(InputError, match="At least one"): build_features(planted, "mine")


# --- the rows ---

def test_catalogue_rows(rough, built):
    y, names = forward_return(rough), list(built)
    importances = pd.Series(np.arange(len(names), dtype=float), names)
    rows = {row["feature_name"]: row for row in feature_catalogue(built, y, importances=importances, references={"momentum_5": {"n": 3}}).rows()}
    assert set(rows) == set(names) and rows[names[3]]["importance_score"] == 3.0
    assert rows["momentum_5"]["correlation_with_target"] == pytest.approx(built.momentum_5.corr(y, method="spearman"), abs=1e-12)
    assert rows["exogenous_change_rate_5"]["parameters"] == {"column": "rate", "window": 5} and rows["SUMN5"]["metadata"]["function_of"]
    assert rows["momentum_5"]["metadata"]["drift_reference"] == {"n": 3} and rows["rank(momentum_20)"]["feature_type"] == "cross-sectional"


def test_a_feature_without_values_is_not_active(planted):
    X = build_features(planted, ["momentum_5"]).assign(momentum_60=np.nan)
    assert [row["is_active"] for row in feature_catalogue(X).rows()] == [True, False]
