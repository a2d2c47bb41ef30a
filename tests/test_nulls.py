"Noise is noise, honest pipelines are left alone, planted leaks are found, and whatever cannot be judged is refused by name"
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from alphaplus_ml.core import InputError, LeakageError
from alphaplus_ml.evaluation import nulls as battery_module
from alphaplus_ml.evaluation.metrics import ic_series
from alphaplus_ml.evaluation.noise import Market, label_bars, label_function, noise_bars, nulls
from alphaplus_ml.evaluation.nulls import NullBattery, null_battery
from alphaplus_ml.evaluation.splits import WalkForward
from alphaplus_ml.market.labels import forward_return, label_end
from alphaplus_ml.market.sources import load_market


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


panel = load_market("planted", n_symbols=10, n_bars=300)


def ragged(seed=0):
    "Late listings, early ends, missing bars, an integer volume and an extra column"
    rng = np.random.default_rng(seed)
    data = load_market("planted", n_symbols=6, n_bars=120, seed=seed)
    times, symbols = data.index.get_level_values(0), data.index.codes[1]
    keep = (rng.random(len(data)) > 0.1) & ~((symbols == 1) & (times < times.unique()[30])) & ~((symbols == 2) & (times > times.unique()[80]))
    return data[keep].assign(volume=lambda d: d["volume"].astype("int64"), sector=symbols[keep] % 2)


def by_symbol(values): return values.groupby(level="symbol")
def features(bars):
    close, volume = np.log(bars["close"]), np.log(bars["volume"])
    return pd.DataFrame({"last": by_symbol(close).diff(), "five": by_symbol(close).diff(5), "volume": by_symbol(volume).diff()}).fillna(0.0)


def fit_predict(X, y, splits):
    "A ridge on standardised columns, in numpy: fast, and not the library's own way"
    X, target, found = X.to_numpy(), y.to_numpy(), np.full(len(y), np.nan)
    for train, test in splits:
        train = train[~np.isnan(target[train])]
        middle, spread, mean = X[train].mean(axis=0), X[train].std(axis=0) + 1e-12, target[train].mean()
        Z = (X[train] - middle)/spread
        found[test] = mean + (X[test] - middle)/spread @ np.linalg.solve(Z.T @ Z + np.eye(X.shape[1]), Z.T @ (target[train] - mean))
    return pd.Series(found, y.index)


def honest(bars, y, ends): return fit_predict(features(bars), y, WalkForward(4, label_end=ends).split(bars.index))
def examined(pipeline, data=panel, *args, **kwargs):
    try: return null_battery(pipeline, data, *args, **kwargs)
    except LeakageError as error: return error.report


# noise bars

@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0.0, 0.3]))
def test_noise_bars_have_the_panels_form(seed, shuffle, ic):
    data = ragged(seed % 5).sample(frac=1, random_state=seed) if shuffle else ragged(seed % 5)
    before = data.copy()
    made = noise_bars(data, seed, ic=ic)
    assert made.index.equals(data.index) and made.dtypes.equals(data.dtypes) and list(made) == list(data) and data.equals(before)
    assert (made["high"] >= made[["open", "close"]].max(axis=1)*(1 - 1e-12)).all() and (made["low"] <= made[["open", "close"]].min(axis=1)*(1 + 1e-12)).all()
    assert np.isfinite(made.to_numpy()).all() and set(made["sector"]) <= {0, 1}
    assert made.sort_index().equals(noise_bars(data.sort_index(), seed, ic=ic)), "row order means nothing"


def test_every_noise_bar_is_a_real_one_upright_or_upside_down_and_a_timestamp_has_one_donor():
    data = ragged()
    def shapes(bars):
        logs = np.log(bars[["open", "high", "low", "close"]])
        return logs.sub(by_symbol(logs["close"]).shift(), axis=0).dropna()
    real, made = shapes(data), shapes(noise_bars(data, 3))
    upside_down = (-real).rename(columns={"high": "low", "low": "high"})[real.columns]
    known = {tuple(np.round(row, 9)): stamp for form in (real, upside_down) for row, stamp in zip(form.to_numpy(), form.index.get_level_values(0))}
    origins = pd.Series([known[tuple(np.round(row, 9))] for row in made.to_numpy()], made.index)
    assert (origins.groupby(level=0).nunique() == 1).all()
    assert origins.groupby(level=0).first().nunique() > 30


def test_volume_and_extras_come_with_the_bar():
    data = panel.assign(mark=np.arange(float(len(panel))))
    made = noise_bars(data, 1)
    assert made["volume"].equals(pd.Series(data["volume"].to_numpy()[made["mark"].astype(int)], made.index))
    donors = made["mark"].astype(int)//10
    assert (donors.groupby(level=0).nunique() == 1).all()


def test_a_donor_that_is_drawn_twice_is_dealt_twice():
    made = noise_bars(panel.assign(mark=np.arange(float(len(panel)))), 1)["mark"].astype(int).unstack()
    twice = made.groupby((made["P00"]//10).to_numpy()).apply(lambda group: len(group) > 1 and (group.nunique() > 1).any())
    assert twice.sum() > 50


def test_upside_down_markets_mirror_each_other():
    up, down = noise_bars(panel, 5), noise_bars(panel, 5, mirrored=True)
    assert np.allclose(np.log(up["high"]) + np.log(down["low"]), 2*np.log(by_symbol(panel["close"]).transform("first")))


def test_nothing_can_be_known_of_noise_and_something_of_a_planted_market():
    data = load_market("planted", n_symbols=30, n_bars=500, ic=0.3)
    def ic_of_reversal(bars, h):
        y, s = forward_return(bars, h), -by_symbol(np.log(bars["close"])).diff(h)
        return ic_series(y, s).mean()
    assert abs(ic_of_reversal(noise_bars(data, 0), 1)) < 0.03 < ic_of_reversal(data, 1)
    for ic, h in [(0.1, 1), (0.3, 1), (0.2, 5)]: assert ic_of_reversal(noise_bars(data, 1, ic=ic, horizon=h), h) == pytest.approx(ic, abs=0.2*ic + 0.02)


def test_drift_and_differences_between_symbols_are_gone():
    nth, number = by_symbol(panel["close"]).cumcount().to_numpy(), panel.index.codes[1]
    rising = panel[["close"]].mul(np.exp(0.01*nth*(1 + number/3)), axis=0)
    means = np.array([by_symbol(by_symbol(np.log(noise_bars(rising, seed)["close"])).diff()).mean() for seed in range(60)])
    real = by_symbol(by_symbol(np.log(rising["close"])).diff()).mean()
    assert real.max() > 0.03 and np.abs(means.mean(axis=0)).max() < 4*means.std()/np.sqrt(60)
    assert abs(np.corrcoef(np.tile(number[:10], 60), means.ravel())[0, 1]) < 0.15


# the family

@pytest.mark.parametrize("name", nulls)
@pytest.mark.parametrize("data", [panel, ragged(), ragged().sample(frac=1, random_state=0), panel.xs("P03", level="symbol", drop_level=False)], ids=["grid", "ragged", "unsorted", "single"])
def test_every_null_gives_what_a_pipeline_takes(name, data):
    before, label = data.copy(), label_function(3)
    market, again, other = (nulls[name](data, label, seed) for seed in (1, 1, 2))
    assert isinstance(market, Market) and data.equals(before) and np.isfinite(market.centre)
    for part in (market.panel, market.y, market.label_end): assert part.index.equals(data.index)
    assert market.y.isna().equals(label(data)[0].isna()) and market.y.isna().equals(market.label_end.isna())
    assert market.y.equals(again.y) and not market.y.equals(other.y)
    assert {"truth", "overlap", "look"} <= set(nulls.facts(name))


@pytest.mark.parametrize("name", nulls)
def test_under_every_null_a_prediction_made_beforehand_is_worth_nothing(name):
    "Whatever the prediction: reversal, level, a symbol's own number, last known label"
    label, scores = label_function(1), []
    for seed in range(25):
        market = nulls[name](panel, label, seed)
        fixed = {"reversal": -by_symbol(market.panel["close"]).pct_change(), "level": -market.panel["close"],
                 "number": pd.Series(market.panel.index.codes[1].astype(float), panel.index), "last": by_symbol(market.y).shift()}
        scores.append({kind: ic_series(market.y, prediction, "spearman").mean() for kind, prediction in fixed.items()})
    scores = pd.DataFrame(scores)
    assert (scores.mean().abs() < 4*scores.std()/np.sqrt(len(scores))).all()


def test_dealt_labels_come_from_one_other_timestamp():
    y, _ = label_function(2)(panel)
    dealt = nulls["shuffled_labels"](panel, label_function(2), 0).y
    whole = {tuple(sorted(group)): stamp for stamp, group in y.dropna().groupby(level=0)}
    origins = [whole[tuple(sorted(group))] for _, group in dealt.dropna().groupby(level=0)]
    assert np.mean([a == b for a, b in zip(origins, dealt.index.get_level_values(0).unique())]) < 0.05
    assert (y.unstack().notna() == dealt.unstack().notna()).all(axis=None)


def test_foreign_labels_overlap_as_real_ones_do():
    market = nulls["foreign_labels"](panel, label_function(5), 0)
    assert by_symbol(market.y).shift().corr(market.y) == pytest.approx(0.8, abs=0.05) and market.panel.equals(panel)


# the score and its luck

def test_the_score_of_a_cross_section_is_the_rank_ic_by_scipy():
    y, prediction = label_function(1)(panel)[0], -panel["close"]
    ours = battery_module._skill("rank_ic", y, prediction, 0.0)
    theirs = [stats.spearmanr(group, prediction[group.index]).statistic for _, group in y.dropna().groupby(level=0)]
    assert np.allclose(ours, theirs)


def test_the_score_over_time_is_a_product_with_what_was_known_then():
    rng = np.random.default_rng(0)
    index = panel.index[panel.index.codes[1] < 2][:60]
    y, prediction = pd.Series(rng.normal(size=60), index), pd.Series(rng.normal(size=60), index)
    ours, theirs = battery_module._skill("time_series_ic", y, prediction, 0.1), {}
    for symbol in ("P00", "P01"):
        a, b = y.xs(symbol, level="symbol"), prediction.xs(symbol, level="symbol")
        centred = [b.iloc[k] - b.iloc[:k].mean() if k else np.nan for k in range(30)]
        for k in range(1, 30):
            scale = np.sqrt(np.nanmean(np.square(centred[:k + 1])))*np.sqrt(((a - 0.1)**2).mean())
            theirs.setdefault(a.index[k], []).append((a.iloc[k] - 0.1)*centred[k]/scale)
    assert np.allclose(ours, [np.mean(theirs[stamp]) for stamp in ours.index]) and len(ours) == 29


def test_a_correlation_over_time_is_recovered():
    rng = np.random.default_rng(1)
    stamps = pd.date_range("2000-01-01", periods=4000, tz="UTC")
    index = pd.MultiIndex.from_product([stamps, ["A"]], names=["timestamp", "symbol"])
    prediction = pd.Series(5 + rng.normal(size=4000), index)
    y = 0.3*prediction + np.sqrt(1 - 0.09)*pd.Series(rng.normal(size=4000), index)
    assert battery_module._skill("time_series_ic", y, prediction, 1.5).mean() == pytest.approx(0.3, abs=0.04)


def test_the_test_on_single_timestamps_is_scipys_t_test():
    values = np.random.default_rng(2).normal(0.1, 1, 80)
    ours, theirs = battery_module._judge(battery_module._block_means(pd.Series(values), 1)), stats.ttest_1samp(values, 0)
    assert ours["p_value"] == pytest.approx(theirs.pvalue) and (ours["lower"], ours["upper"]) == pytest.approx(tuple(theirs.confidence_interval(0.95)))


def test_a_perfect_score_is_no_luck_and_a_single_one_proves_nothing():
    assert battery_module._judge(np.ones(30))["p_value"] == 0 and battery_module._judge(np.ones(30))["lower"] == 1
    assert battery_module._judge(np.zeros(30))["p_value"] == 1 and np.isnan(battery_module._judge(np.ones(1))["p_value"]) and np.isnan(battery_module._judge(np.array([]))["score"])


def test_blocks_are_twice_the_horizon_and_at_least_five():
    assert len(battery_module._block_means(pd.Series(np.arange(120.0)), 6)) == 10
    assert len(battery_module._block_means(pd.Series(np.arange(60.0)), 20)) == 5
    assert battery_module._block_means(pd.Series(np.arange(24.0)), 2).tolist() == [1.5, 5.5, 9.5, 13.5, 17.5, 21.5]
    assert len(battery_module._block_means(pd.Series(dtype=float), 5)) == 0


@pytest.mark.parametrize("h", [1, 7])
def test_the_horizon_is_read_from_the_label_ends(h):
    assert battery_module._horizon(label_end(panel, h)) == h
    assert battery_module._horizon(label_end(panel, h, price="open")) == h + 1


# the battery

def test_an_honest_pipeline_is_rarely_accused_and_sees_the_control():
    reports = [examined(honest, load_market("planted", n_symbols=8, n_bars=200, seed=seed), horizon, n_repeats=1, level=0.1, seed=seed) for seed in range(10) for horizon in (1, 5)]
    assert sum(bool(report.leaks) for report in reports) <= 6, "at 10 %, two of twenty are expected; more than six have a probability of 0.2 %"
    assert sum(report.frame.loc["control", "verdict"] == "seen" for report in reports) >= 15
    assert all(report.frame.loc["later_bars", "verdict"] == "quiet" for report in reports)


def walk(X, y, ends): return fit_predict(X, y, WalkForward(4, label_end=ends).split(X.index))
def unpurged(bars, y, ends): return fit_predict(features(bars), y, WalkForward(4).split(bars.index))
def centred(bars, y, ends): return walk(by_symbol(bars["close"]).transform(lambda c: c/c.rolling(3, center=True).mean() - 1).fillna(0.0).to_frame("c"), y, ends)
def scaled(bars, y, ends): return walk(by_symbol(bars["close"]).transform(lambda c: (c - c.mean())/c.std()).to_frame("z"), y, ends)
def encoded(bars, y, ends): return walk(features(bars).assign(mean=y.groupby([bars.index.get_level_values(1), bars.index.get_level_values(0).strftime("%Y-%m")]).transform("mean")), y, ends)
def next_bar(bars, y, ends): return walk(features(bars).assign(next=by_symbol(bars["close"]).pct_change().groupby(level="symbol").shift(-1).fillna(0.0)), y, ends)
def in_sample(bars, y, ends): return fit_predict(pd.DataFrame(np.random.default_rng(0).normal(size=(len(y), 100)), y.index), y, [(np.arange(len(y)), np.arange(len(y)))])
def selected(bars, y, ends):
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(len(y), 150)), y.index)
    return walk(X[X[y.notna()].corrwith(y[y.notna()]).abs().nlargest(8).index], y, ends)
def stopped(bars, y, ends):
    "Each fold takes the feature whose model scores best on it, as an early stop on the scored fold takes its round"
    X, found = features(bars), pd.Series(np.nan, y.index)
    candidates = [walk(sign*X[[name]], y, ends)*sign for name in X for sign in (-1, 1)]
    for _, test in WalkForward(4).split(X): found.iloc[test] = max((one.iloc[test] for one in candidates), key=lambda one: one.corr(y.iloc[test]))
    return found


leaking = {  # pipeline, horizon, who has to find it, who cannot
    "unpurged": (unpurged, 10, {"later_bars"}, {"shuffled_labels"}),
    "centred window": (centred, 1, {"noise_bars", "later_bars"}, {"shuffled_labels", "foreign_labels"}),
    "scaled prices": (scaled, 1, {"noise_bars"}, {"shuffled_labels", "foreign_labels"}),
    "next bar": (next_bar, 1, {"noise_bars", "later_bars"}, {"shuffled_labels", "foreign_labels"}),
    "encoder on all rows": (encoded, 1, set(nulls), set()),
    "fitted on the scored rows": (in_sample, 1, set(nulls), set()),
    "selected before the split": (selected, 1, set(nulls), set()),
    "stopped on the score": (stopped, 1, {"later_bars"}, set()),
}
@pytest.mark.parametrize("name", leaking)
def test_planted_leaks_are_found_by_who_should(name):
    pipeline, horizon, finds, blind = leaking[name]
    with pytest.raises(LeakageError) as caught: null_battery(pipeline, panel, horizon, n_repeats=3 if name == "scaled prices" else 1)
    report = caught.value.report
    assert isinstance(report, NullBattery) and finds <= set(report.leaks) and not blind & set(report.leaks)
    assert all(leak in str(caught.value) for leak in report.leaks) and str(report.runs["first"].min().date()) in str(caught.value)


def test_the_error_says_where_to_look():
    for pipeline, horizon, word in [(centred, 1, "check_causal"), (selected, 1, "reads labels"), (unpurged, 10, "purge")]:
        with pytest.raises(LeakageError, match=word): null_battery(pipeline, panel, horizon, n_repeats=1)


def test_purged_k_folds_are_not_accused_unless_they_claim_to_walk_forward():
    def folds(index, ends):
        times = index.get_level_values(0)
        for block in np.array_split(times.unique().sort_values(), 4):
            test, end = times.isin(block), ends[times.isin(block)].max()
            yield np.flatnonzero(~test & ((ends <= block[0]).to_numpy() | (times >= end))), np.flatnonzero(test)
    def k_fold(bars, y, ends): return fit_predict(features(bars), y, folds(bars.index, ends))
    report = null_battery(k_fold, panel, 5)
    assert "K-fold" in report.frame.loc["later_bars", "verdict"]
    with pytest.raises(LeakageError, match="later_bars"): null_battery(k_fold, panel, 5, n_repeats=1, walk_forward=True)
    assert null_battery(honest, panel, 5, n_repeats=1, walk_forward=True).leaks == ()


def test_a_leak_with_the_wrong_sign_is_found():
    def leave_one_out(bars, y, ends):
        times = y.index.get_level_values(0)
        return (y.groupby(times).transform("sum") - y)/(y.groupby(times).transform("count") - 1)
    with pytest.raises(LeakageError) as caught: null_battery(leave_one_out, panel, n_repeats=1)
    assert caught.value.report.frame.loc["noise_bars", "score"] < -0.9


def test_many_small_signs_are_added_up():
    lines = pd.DataFrame({"score": [0.02, 0.02, 0.02, np.nan], "p_value": [0.02, 0.02, 0.02, np.nan]})
    z = 3*stats.norm.isf(0.01)/np.sqrt(3)
    assert battery_module._together(lines)["p_value"] == pytest.approx(2*stats.norm.sf(z)) and battery_module._together(lines.assign(score=[0.02, -0.02, 0.0, 0]))["p_value"] > 0.5
    assert np.isnan(battery_module._together(lines.iloc[3:])["p_value"])


def test_the_report_is_complete_and_reproducible():
    report, again, other = (null_battery(honest, panel, 2, seed=seed) for seed in (3, 3, 4))
    assert list(report.frame.index) == ["real", "delayed", "later_bars", *nulls, "together", "control"]
    assert report.frame.equals(again.frame) and not report.frame.equals(other.frame) and report.runs.drop(columns=["first", "last"]).equals(again.runs.drop(columns=["first", "last"]))
    assert len(report.runs) == 2 + 2*len(nulls) + 1 and str(report) == report.verdict and report.metric == "rank_ic"
    p = report.frame["p_value"][[*nulls, "together"]].to_numpy()
    holm = np.empty(4); order = np.argsort(p); holm[order] = np.maximum.accumulate(np.minimum(p[order]*[4, 3, 2, 1], 1))
    assert np.allclose(report.frame["p_adjusted"][[*nulls, "together"]], holm)
    y, _ = label_bars(panel, label_function(2))
    prediction = honest(panel, y, label_end(panel, 2))
    assert report.frame.loc["real", "score"] == pytest.approx(ic_series(y, prediction, "spearman").mean(), abs=0.002)      # block means weigh a little unequally
    assert report.frame.loc["delayed", "score"] == pytest.approx(ic_series(y, by_symbol(prediction).shift(), "spearman").mean(), abs=0.002)


def test_inputs_are_left_alone_and_a_pipeline_may_spoil_its_copies():
    before = panel.copy()
    def spoils(bars, y, ends):
        found = honest(bars, y, ends)
        bars.loc[:, "close"], y[:], ends[:] = 0.0, 0.0, pd.NaT
        return found
    assert null_battery(spoils, panel, n_repeats=1).frame.equals(null_battery(honest, panel, n_repeats=1).frame) and panel.equals(before)


@pytest.mark.parametrize("data, metric", [(ragged(), "rank_ic"), (ragged().sample(frac=1, random_state=1), "rank_ic"), (load_market("planted", n_symbols=1, n_bars=400), "time_series_ic"),
                                          (load_market("planted", n_symbols=2, n_bars=300), "time_series_ic"), (panel[["close", "volume"]], "rank_ic")], ids=["ragged", "unsorted", "single", "two", "closes"])
def test_panels_of_every_form(data, metric):
    def pipeline(bars, y, ends): return honest(bars.sort_index(), y.reindex(bars.sort_index().index), ends).reindex(bars.index)
    report = null_battery(pipeline, data, 2, n_repeats=1)
    assert report.metric == metric and report.leaks == () and report.frame.loc[[*nulls, "control"], "score"].notna().all()


def test_leaks_of_one_asset_are_found():
    single = load_market("planted", n_symbols=1, n_bars=500)
    for pipeline, name in [(centred, "noise_bars"), (in_sample, "shuffled_labels")]:
        with pytest.raises(LeakageError, match=name): null_battery(pipeline, single, n_repeats=1)


def test_labels_of_any_kind():
    def rises(bars):
        change = forward_return(bars, 3)
        return (change > 0).astype(float).where(change.notna()), label_end(bars, 3)
    def volatility(bars):
        change = by_symbol(np.log(bars["close"])).diff().abs()
        return by_symbol(change).shift(-1), label_end(bars, 1)
    loud = panel.assign(close=by_symbol(panel["close"]).transform("first")*(panel["close"]/by_symbol(panel["close"]).transform("first"))**(1 + panel.index.codes[1]))[["close", "volume"]]
    def own_mean(bars, y, ends): return walk(by_symbol(by_symbol(np.log(bars["close"])).diff().abs()).transform(lambda r: r.expanding().mean()).fillna(0.0).to_frame("v"), y, ends)
    assert null_battery(honest, panel, rises, n_repeats=1).leaks == ()
    report = null_battery(own_mean, loud, volatility)      # symbols differ in volatility for good: no leak
    assert report.frame.loc["real", "score"] > 0.5 and report.leaks == ()


def test_a_pipeline_that_sees_nothing_is_said_to_be_blind():
    def blind(bars, y, ends): return pd.Series(np.random.default_rng(len(bars)).normal(size=len(y)), y.index).where(bars["close"] > 0) + 1e-12*bars["close"]
    report = null_battery(blind, panel, n_repeats=1)
    assert report.frame.loc["control", "verdict"] == "blind" and "proves little" in report.verdict
    def visible(bars, seed): return noise_bars(bars, seed).assign(volume=lambda b: b["volume"]*np.exp(20*by_symbol(b["close"]).pct_change().groupby(level="symbol").shift(-1).fillna(0.0)))
    def volume(bars, y, ends): return walk(features(bars)[["volume"]], y, ends)
    assert null_battery(volume, panel, n_repeats=1, control=visible).frame.loc["control", "verdict"] == "seen"


def test_constant_predictions_have_no_score():
    report = null_battery(lambda bars, y, ends: pd.Series(0.0, y.index), panel, n_repeats=1)
    assert report.frame["score"].isna().all() and report.frame.loc["noise_bars", "verdict"].startswith("no score") and "proves little" in report.verdict
    report = null_battery(lambda bars, y, ends: pd.Series(1.0, y.index), load_market("planted", n_symbols=1, n_bars=200), n_repeats=1)
    assert report.frame["score"].isna().all()


def test_delay_says_what_remains():
    fast = null_battery(honest, load_market("planted", n_symbols=20, n_bars=400, ic=0.2), n_repeats=1)
    assert fast.frame.loc["delayed", "verdict"].startswith("fragile") and "remains" in fast.frame.loc["delayed", "verdict"]
    slow = noise_bars(load_market("planted", n_symbols=20, n_bars=400), 0, ic=0.5, horizon=20)
    def trend(bars, y, ends): return walk(by_symbol(np.log(bars["close"])).diff(20).fillna(0.0).to_frame("trend"), y, ends)
    report = null_battery(trend, slow, 20, n_repeats=1)
    assert report.frame.loc["delayed", "score"] > 0.7*report.frame.loc["real", "score"] > 0 and "fragile" not in report.frame.loc["delayed", "verdict"]


def test_the_plot_shows_every_scored_line():
    report = examined(selected, panel, n_repeats=1)
    axis = report.plot().axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["control", "noise bars", "foreign labels", "shuffled labels", "delayed", "real"]
    assert "rank ic" in axis.get_xlabel()


beforehand = features(panel)["last"]
@pytest.mark.parametrize("pipeline, options, message", [
    (lambda bars, y, ends: y.to_numpy(), {}, "returns a Series of numbers.*the real panel"),
    (lambda bars, y, ends: y.astype(str), {}, "Series of numbers"),
    (lambda bars, y, ends: None, {}, "NoneType"),
    (lambda bars, y, ends: honest(bars, y, ends).dropna(), {}, "panel's index"),
    (lambda bars, y, ends: honest(bars, y, ends).where(bars["close"] < 1e9).replace(np.nan, np.inf), {}, "finite"),
    (lambda bars, y, ends: honest(bars, y, ends)*np.nan, {}, "at least 20 timestamps"),
    (lambda bars, y, ends: y.where(y.index.get_level_values(0) > panel.index[-100][0]), {}, "at least 20 timestamps.*the real panel"),
    (lambda bars, y, ends: beforehand, {}, "the panel it is handed.*noise_bars, repeat 1"),
    (lambda bars, y, ends: honest(bars, y, ends) if bars["close"].equals(panel["close"]) and y.equals(forward_return(panel)) else y.iloc[:5], {}, "real bars up to"),
    (honest, {"metric": "rmse"}, "scored with a correlation"),
    (honest, {"metric": "iq"}, "iq"),
    (honest, {"n_repeats": 0}, "n_repeats"), (honest, {"n_repeats": True}, "n_repeats"), (honest, {"n_repeats": 1.5}, "n_repeats"),
    (honest, {"level": 0}, "level"), (honest, {"level": 1.0}, "level"),
    (honest, {"control": 0}, "control"), (honest, {"control": 1.5}, "control"),
    (honest, {"label": 0}, "horizon"), (honest, {"label": lambda bars: forward_return(bars)}, "label function"),
    (honest, {"label": lambda bars: (forward_return(bars), forward_return(bars))}, "label function"),
    (honest, {"label": lambda bars: (forward_return(bars).dropna(), label_end(bars))}, "label function"),
])
def test_bad_input_is_refused(pipeline, options, message):
    with pytest.raises(InputError, match=message): null_battery(pipeline, panel, **options)


@pytest.mark.parametrize("data, message", [(panel["close"], "DataFrame"), (panel.reset_index(), "timestamp and symbol"), (panel[["volume"]], "close")])
def test_bad_panels_are_refused(data, message):
    with pytest.raises(InputError, match=message): null_battery(honest, data)


def test_an_error_says_under_which_null_it_arose():
    def fails_on_noise(bars, y, ends):
        if not bars.equals(panel): raise KeyError("no such bar")
        return honest(bars, y, ends)
    with pytest.raises(KeyError) as caught: null_battery(fails_on_noise, panel)
    assert "real bars up to" in caught.value.__notes__[0]
    def fails_late(bars, y, ends):
        if not bars.iloc[:500].equals(panel.iloc[:500]): raise KeyError("no such bar")
        return honest(bars, y, ends)
    with pytest.raises(KeyError) as caught: null_battery(fails_late, panel)
    assert "noise_bars, repeat 1" in caught.value.__notes__[0]


def test_a_whole_study_passes():
    "Features, a search with its own folds and holdout, and the tuned model's predictions"
    from alphaplus_ml.features.engine import build_features
    from alphaplus_ml.tuning.optimize import HyperparameterOptimizationConfig, optimize_hyperparameters
    names = ["relative_return_1", "relative_return_20", "realised_volatility_20"]
    config = HyperparameterOptimizationConfig(model_name="ridge", n_trials=3, holdout=0.4, splitter=WalkForward(2), seed=1)
    def study(bars, y, ends):
        X = build_features(bars, names)
        tuned = optimize_hyperparameters(X, y, config, label_end=ends)
        return tuned.prediction.reindex(bars.index)
    report = null_battery(study, panel, 2, n_repeats=1)
    assert report.leaks == () and report.frame.loc["later_bars", "verdict"] == "quiet" and report.frame.loc["control", "verdict"] == "seen"


def test_a_frame_of_make_label_is_a_label():
    from alphaplus_ml.market.labels import make_label
    panel = load_market("planted", n_symbols=4, n_bars=60)
    y, ends = label_bars(panel, lambda bars: make_label(bars, "direction", horizon=2))
    expected = make_label(panel, "direction", horizon=2)
    assert y.equals(expected["label"].astype(float)) and ends.equals(expected["label_end"])
