"Alpha158: against Qlib's own numbers, and against windows written from the published expressions."
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from alphaplus_ml.evaluation.leakage import check_causal
from alphaplus_ml.features.catalogue import list_features
from alphaplus_ml.features.engine import FeatureState, FeatureWarning, build_features, feature_report, update_features
from alphaplus_ml.market.sources import load_market

pytestmark = pytest.mark.filterwarnings("ignore::alphaplus_ml.features.engine.FeatureWarning")
lengths = (5, 10, 20, 30, 60)
bar_names = ["open", "high", "low", "close", "volume"]


# --- what the publication says, window by window ---

def windows(x, length):
    "(n, length): each bar's window, with NaN where there is no bar"
    return np.lib.stride_tricks.sliding_window_view(np.r_[np.full(length - 1, np.nan), x], length)


def before(x, bars=1): return np.r_[np.full(min(bars, len(x)), np.nan), x[:max(len(x) - bars, 0)]]


def ratio(a, b): return np.where(b != 0, a/np.where(b != 0, b, 1), np.nan)


def varies(x, length): return np.ptp(windows(x, length), axis=1) > 0


def place(x, length, find):
    "Where a window's extreme stands, the oldest of ties; from 1/length to 1"
    seen = windows(x, length)
    return np.where(np.isnan(seen).any(axis=1), np.nan, (find(np.nan_to_num(seen), axis=1) + 1)/length)


def correlated(x, y, length):
    a, b = windows(x, length), windows(y, length)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    return np.where(varies(x, length) & varies(y, length), ratio((a*b).sum(axis=1), np.sqrt((a**2).sum(axis=1)*(b**2).sum(axis=1))), np.nan)


def compared(compare, a, b): return np.where(np.isnan(a) | np.isnan(b), np.nan, compare(a, b))


def of_range(part, high, low): return np.where(high > low, ratio(part, high - low), np.where((part == 0) & (high <= low), 0.0, np.nan))


def shapes(o, h, l, c, v, vwap):
    top, bottom = np.maximum(o, c), np.minimum(o, c)
    return {"KMID": (c - o)/o, "KLEN": (h - l)/o, "KMID2": of_range(c - o, h, l), "KUP": (h - top)/o, "KUP2": of_range(h - top, h, l),
            "KLOW": (bottom - l)/o, "KLOW2": of_range(bottom - l, h, l), "KSFT": (2*c - h - l)/o, "KSFT2": of_range(2*c - h - l, h, l),
            "OPEN0": o/c, "HIGH0": h/c, "LOW0": l/c, "VWAP0": vwap/c}


def of_price(o, h, l, c, v, d):
    closes, time = windows(c, d), np.arange(d) - (d - 1)/2
    slope = (closes*time).sum(axis=1)/(time**2).sum()
    highest, lowest = windows(h, d).max(axis=1), windows(l, d).min(axis=1)
    rest = closes - closes.mean(axis=1, keepdims=True) - slope[:, None]*time
    total = ((closes - closes.mean(axis=1, keepdims=True))**2).sum(axis=1)
    return {"ROC": before(c, d)/c, "MA": closes.mean(axis=1)/c, "STD": closes.std(axis=1, ddof=1)/c, "BETA": slope/c,
            "RSQR": np.where(varies(c, d), 1 - ratio((rest**2).sum(axis=1), total), np.nan), "RESI": rest[:, -1]/c, "MAX": highest/c, "MIN": lowest/c,
            "QTLU": np.quantile(closes, 0.8, axis=1)/c, "QTLD": np.quantile(closes, 0.2, axis=1)/c,
            "RANK": np.where(np.isnan(closes).any(axis=1), np.nan, ((closes < c[:, None]).sum(axis=1) + ((closes == c[:, None]).sum(axis=1) + 1)/2)/d),
            "RSV": ratio(c - lowest, highest - lowest), "IMAX": place(h, d, np.argmax), "IMIN": place(l, d, np.argmin), "IMXD": place(h, d, np.argmax) - place(l, d, np.argmin)}


def of_moves(o, h, l, c, v, d):
    total = lambda x: windows(x, d).sum(axis=1)
    rose, fell = compared(np.greater, c, before(c)), compared(np.less, c, before(c))
    found = {"CORR": correlated(c, np.log(v + 1), d), "CORD": correlated(c/before(c), np.log(ratio(v, before(v)) + 1), d),
             "CNTP": total(rose)/d, "CNTN": total(fell)/d, "CNTD": (total(rose) - total(fell))/d}
    for name, x in (("SUM", c), ("VSUM", v)):
        move = x - before(x)
        up, down, size = total(np.maximum(move, 0)), total(np.maximum(-move, 0)), total(abs(move))
        found |= {name + "P": ratio(up, size), name + "N": ratio(down, size), name + "D": ratio(up - down, size)}
    traded = windows(abs(c/before(c) - 1)*v, d)
    return found | {"VMA": ratio(windows(v, d).mean(axis=1), v), "VSTD": ratio(windows(v, d).std(axis=1, ddof=1), v), "WVMA": ratio(traded.std(axis=1, ddof=1), traded.mean(axis=1))}


def brute_force(panel):
    "All features of a panel, symbol by symbol, on its own bars"
    parts = []
    for _, own in panel.sort_index().groupby("symbol"):
        bars = own[bar_names].to_numpy().T
        vwap = own["vwap"].to_numpy() if "vwap" in own else bars[1:4].mean(axis=0)
        found = shapes(*bars, vwap)
        for d in lengths: found |= {f"{name}{d}": values for name, values in (of_price(*bars, d) | of_moves(*bars, d)).items()}
        parts.append(pd.DataFrame(found, index=own.index))
    return pd.concat(parts).reindex(panel.index)


def assert_equal_to_brute_force(panel):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FeatureWarning)
        found = build_features(panel, names)
    expected = brute_force(panel)[names]
    wrong = ~np.isclose(found, expected, rtol=1e-9, atol=1e-11, equal_nan=True).all(axis=0)
    assert not wrong.any(), [names[k] for k in np.flatnonzero(wrong)]


catalogue = list_features()
catalogue = catalogue[catalogue.category == "alpha158"]
names = catalogue.index.tolist()
pieces = [re.fullmatch(r"([A-Z]+?2?)(\d*)", name).groups() for name in names]


# --- Qlib's own numbers ---

@pytest.fixture(scope="module")
def qlib():
    "Bars and Qlib's features, as tests/data/README.md describes them"
    long = pd.read_parquet(Path(__file__).parent/"data"/"alpha158_qlib.parquet")
    order = long["column"].drop_duplicates().tolist()
    wide = long.pivot(index=["timestamp", "symbol"], columns="column", values="value")[order].astype("float64")
    wide.index = wide.index.set_levels(wide.index.levels[0].tz_localize("UTC"), level=0)
    return wide.rename_axis(columns=None)


@pytest.fixture(scope="module")
def both(qlib): return build_features(qlib[[*bar_names, "vwap"]], "alpha158"), qlib.drop(columns=[*bar_names, "vwap"])


def complete(X, name): return X.groupby("symbol").cumcount() >= catalogue.bars[name] - 1


def test_the_names_and_their_order_are_qlibs(both):
    X, theirs = both
    assert len(names) == 158 and list(X) == list(theirs) == names


@pytest.mark.parametrize("name", names)
def test_complete_windows_agree_with_qlib(name, both):
    "Qlib takes ratios, products and logarithms in single precision before they enter a window: hence the wider tolerance there"
    wide = name.startswith(("CORR", "CORD", "WVMA"))
    X, theirs = both[0][name], both[1][name]
    known = complete(both[0], name) & X.notna()
    assert X[~complete(both[0], name)].isna().all() and known.sum() > 60
    np.testing.assert_allclose(X[known], theirs[known], rtol=1e-4 if wide else 1e-6, atol=2e-5 if wide else 1e-6)


@pytest.mark.parametrize("name", names)
def test_where_qlib_has_a_value_and_we_do_not(name, both):
    "Only where a quantity that is divided by is zero: prices that rest, bars without volume"
    X, theirs = both
    silent = X[name].isna() & theirs[name].notna() & complete(X, name)
    assert not (theirs[name].isna() & X[name].notna()).any()
    assert not silent[X.index.get_level_values("symbol") == "USUAL"].any()
    family = name.rstrip("0123456789")
    if family not in ("CORD", "VMA", "VSTD", "RSV", "SUMP", "SUMN", "SUMD", "VSUMP", "VSUMN", "VSUMD", "WVMA"): assert not silent.any()


def test_qlibs_constant_in_the_denominator_is_not_taken_over(both, qlib):
    X, theirs = both
    still = (qlib["volume"] == 0) & complete(X, "VMA5")
    assert still.sum() == 3 and (theirs.loc[still, "VMA5"] > 1e15).all() and X.loc[still, ["VMA5", "VSTD5"]].isna().all(axis=None)
    frozen = X.xs("EDGES", level="symbol").iloc[75:80]
    assert (theirs.xs("EDGES", level="symbol").iloc[75:80][["SUMP5", "SUMN5", "RSV5"]] == 0).all(axis=None)
    assert frozen[["SUMP5", "SUMN5", "SUMD5", "RSQR5", "CORR5", "CORD5"]].isna().all(axis=None)
    assert (frozen[["KMID2", "KUP2", "KLOW2", "KSFT2", "CNTP5", "STD5", "BETA5"]].abs() < 1e-15).all(axis=None) and (frozen["RANK5"] == 0.6).all()


# --- brute force ---

def market(seed, n_bars=130, holes=0.0, still=0.0, rounded=None):
    "Generated bars with gaps, a late listing, NaN holes, days without volume, ties"
    rng = np.random.default_rng(seed)
    panel = load_market("planted", n_symbols=4, n_bars=n_bars, seed=seed).copy()
    if rounded is not None: panel = panel.round({**dict.fromkeys(bar_names[:4], rounded), "volume": -4})
    panel.loc[rng.random(len(panel)) < still, "volume"] = 0.0
    flat = rng.random(len(panel)) < still
    for name in ("open", "high", "low"): panel.loc[flat, name] = panel.loc[flat, "close"]
    panel = panel.mask(rng.random(panel.shape) < holes)
    symbol, day = panel.index.get_level_values("symbol"), panel.index.codes[0]
    return panel[(rng.random(len(panel)) > holes) & ~((symbol == "P01") & (day < 0.3*n_bars))]


markets = {"usual": {}, "ties": {"rounded": 0}, "still": {"still": 0.1}, "holes": {"holes": 0.002, "n_bars": 300}, "everything": {"holes": 0.01, "still": 0.05, "rounded": 0}, "short": {"n_bars": 12}, "one bar": {"n_bars": 1}}


@pytest.mark.parametrize("kind", markets)
def test_every_feature_equals_brute_force(kind): assert_equal_to_brute_force(market(3, **markets[kind]))


def test_every_column_counts_where_the_panel_has_it():
    panel = market(5)
    assert_equal_to_brute_force(panel.assign(vwap=panel["close"]*np.linspace(0.9, 1.1, len(panel))))


@st.composite
def few_bars(draw):
    "One symbol's bars on a coarse grid: ties, resting prices, no range, no volume, holes"
    n = draw(st.integers(1, 24))
    grid = st.lists(st.sampled_from([1.0, 1.5, 2.0, 4.0, np.nan]), min_size=n, max_size=n)
    prices = np.array([draw(grid) for _ in range(4)])
    volume = draw(st.lists(st.sampled_from([0.0, 1.0, 3.0, 1e9, np.nan]), min_size=n, max_size=n))
    if draw(st.booleans()): prices[1], prices[2] = np.nan_to_num(prices, nan=1.0).max(axis=0), np.nan_to_num(prices, nan=1.0).min(axis=0)
    index = pd.MultiIndex.from_product([pd.date_range("2024-01-01", periods=n, tz="UTC"), ["A"]], names=["timestamp", "symbol"])
    return pd.DataFrame(np.column_stack([*prices, volume]), index=index, columns=bar_names)


@settings(max_examples=30, deadline=None)
@given(few_bars())
def test_odd_bars_equal_brute_force(panel): assert_equal_to_brute_force(panel)


# --- what the catalogue promises ---

def test_thirty_features_are_exact_functions_of_others():
    X = build_features(market(7, n_bars=200, still=0.05, rounded=0), names)
    marked = catalogue.function_of.dropna()
    assert len(marked) == 30 and {name.rstrip("0123456789") for name in marked.index} == {"IMXD", "CNTD", "SUMN", "SUMD", "VSUMN", "VSUMD"}
    for name, formula in marked.items():
        assert not set(re.findall(r"[A-Z]+\d+", formula)) & set(marked.index), "of features that are themselves no functions of others"
        pd.testing.assert_series_equal(X.eval(formula), X[name], check_names=False, check_exact=True)


def test_what_else_follows_from_others_is_known():
    "To rounding, not to the last bit: the residual from mean and slope, two shapes from others, the stand-in for vwap, and falls from rises where nothing ties"
    X = build_features(load_market("planted", n_symbols=4, n_bars=500, seed=9), names).dropna()
    np.testing.assert_allclose(X["RESI20"], 1 - X["MA20"] - X["BETA20"]*9.5, atol=1e-14)
    np.testing.assert_allclose(X["KSFT"], X["KMID"] + X["KLOW"] - X["KUP"], atol=1e-14)
    follow = [name for name in names if name in catalogue.function_of.dropna() or name.startswith(("RESI", "KSFT", "VWAP", "CNTN"))]
    rank = lambda X: np.linalg.matrix_rank(((X - X.mean())/X.std()).to_numpy())
    assert len(X) > 1500 and rank(X) == rank(X.drop(columns=follow)) == 158 - len(follow) == 115


def test_ranges():
    X = build_features(market(11, n_bars=300, still=0.05), names)
    low = {**dict.fromkeys(("RANK", "IMAX", "IMIN"), 0.01), **dict.fromkeys(("KMID2", "KSFT2", "CORR", "CORD", "CNTD", "IMXD", "SUMD", "VSUMD"), -1), **dict.fromkeys(("KUP2", "KLOW2", "RSQR", "RSV", "CNTP", "CNTN", "SUMP", "SUMN", "VSUMP", "VSUMN", "KLEN", "STD", "VMA", "VSTD", "WVMA"), 0)}
    high = {**{family: 1 for family in low if family not in ("KLEN", "STD", "VMA", "VSTD", "WVMA")}}
    for name, (family, _) in zip(names, pieces):
        values = X[name].dropna()
        if family in low: assert values.min() >= low[family] - 1e-12, name
        if family in high: assert values.max() <= 1 + 1e-12, name


def test_cheap_shares_have_features():
    "Qlib's limits are in dollars and silence a share of a thousandth of a dollar"
    panel = market(13)
    cheap = build_features(panel*[1e-5, 1e-5, 1e-5, 1e-5, 1], names)
    pd.testing.assert_frame_equal(cheap, build_features(panel, names), rtol=1e-6, atol=1e-8)
    assert cheap[["RSQR5", "CORR5"]].notna().to_numpy().any(axis=0).all()


def test_a_volume_in_lots_changes_nothing_but_the_correlation_with_its_logarithm():
    panel = market(13)
    lots, shares = build_features(panel*[1, 1, 1, 1, 0.01], names), build_features(panel, names)
    others = [name for name in names if not name.startswith("CORR")]
    pd.testing.assert_frame_equal(lots[others], shares[others], rtol=1e-6, atol=1e-8)
    assert 0 < (lots["CORR20"] - shares["CORR20"]).abs().max() < 0.01


def test_the_stand_in_for_the_average_price_is_recorded():
    X = build_features(market(1, n_bars=70), "alpha158")
    assert X.attrs["stand_ins"] == {"vwap": ("(((high + low) + close) / 3)", ["VWAP0"])} and "vwap" in feature_report(X).index


def test_single_precision_is_the_same_rounded():
    panel = market(17, n_bars=90)
    pd.testing.assert_frame_equal(build_features(panel, names, dtype="float32"), build_features(panel, names).astype("float32"), check_exact=True)


# --- no future, and new bars ---

@pytest.mark.parametrize("kind", ["usual", "everything"])
def test_no_feature_knows_the_future(kind):
    panel = market(19, **{"n_bars": 100, **markets[kind]})
    assert check_causal(lambda part: build_features(part, names), panel, cuts=4, rtol=0).leaks.empty


@pytest.mark.parametrize("cuts", [(1,), (59, 60, 61), range(85, 100)])
def test_updates_equal_the_whole_to_the_last_bit(cuts):
    panel = market(23, n_bars=100, holes=0.02, still=0.05)
    times, state = panel.index.get_level_values("timestamp"), FeatureState(names)
    edges = [times.min(), *times.unique().sort_values()[list(cuts)], times.max() + pd.Timedelta(days=1)]
    parts = [update_features(state, panel[(times >= a) & (times < b)]) for a, b in zip(edges[:-1], edges[1:])]
    pd.testing.assert_frame_equal(pd.concat(parts).loc[panel.index], build_features(panel, names), check_exact=True)
