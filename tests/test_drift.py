"Drift against its definitions and other libraries; its alarms against features that never change, and features that do."
import json
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats
from scipy.signal import lfilter
from scipy.spatial.distance import jensenshannon

from alphaplus_ml.core import InputError, UnknownNameError
from alphaplus_ml.features import chance, drift
from alphaplus_ml.features.chance import TAILS, Null, draw_stretches, learn_null, stretch_length, upper_quantiles
from alphaplus_ml.features.drift import (DriftReference, bin_edges, drift_distance, drift_measures, drift_over_time, drift_reference, feature_drift,
                                         plot_distribution, plot_drift, plot_drift_over_time, psi, psi_alarm_level)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def remember(phi, n, k, rng):
    "n steps of k autoregressions with variance 1"
    return np.sqrt(1 - phi**2)*lfilter([1], [1, -phi], rng.normal(size=(n + 300, k)), axis=0)[300:]


def days(n): return pd.date_range("2015-01-01", periods=n, tz="UTC", name="timestamp")
def many(phi, n, k, rng): return pd.DataFrame(remember(phi, n, k, rng), index=days(n)).add_prefix("f")


def panel(phi, n, s, k, rng):
    "k features of s symbols that share half of their variance"
    index = pd.MultiIndex.from_product([days(n), [f"S{i:02}" for i in range(s)]], names=["timestamp", "symbol"])
    return pd.DataFrame({f"f{j}": (np.sqrt(.5)*(remember(phi, n, 1, rng) + remember(phi, n, s, rng))).ravel() for j in range(k)}, index=index)


# the distances

def by_hand(reference, current, bins):
    "Shares counted value by value"
    edges = sorted(set(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1])))
    def share(values, i):
        low, high = ([-np.inf] + edges)[i], (edges + [np.inf])[i]
        return max(sum(low < v <= high for v in values)/len(values), 1e-4)
    pairs = [(share(reference, i), share(current, i)) for i in range(len(edges) + 1)]
    return sum((q - p)*np.log(q/p) for p, q in pairs)


samples = st.lists(st.integers(-5, 5), min_size=2, max_size=40), st.lists(st.integers(-9, 9), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(*samples, st.integers(2, 12))
def test_psi_equals_the_definition(reference, current, bins):
    assert psi(reference, current, bins) == pytest.approx(by_hand(reference, current, bins), abs=1e-12)
    assert psi(reference, reference, bins) == 0 and psi(reference, current, bins) >= 0


@settings(max_examples=50, deadline=None)
@given(*samples)
def test_other_measures_equal_scipy(reference, current):
    assert drift_distance(reference, current, "ks") == pytest.approx(stats.ks_2samp(reference, current, method="asymp").statistic, abs=1e-12)
    assert drift_distance(reference, current, "wasserstein") == pytest.approx(stats.wasserstein_distance(reference, current), abs=1e-12)
    edges = bin_edges(np.array(reference))
    p, q = (np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) for values in (reference, current))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")   # the root of a rounding error below zero
        assert drift_distance(reference, current, "jensen_shannon") == pytest.approx(np.nan_to_num(jensenshannon(p, q, 2)), abs=1e-7)


@pytest.mark.parametrize("name", list(drift_measures))
def test_contract_of_every_measure(name):
    rng, facts = np.random.default_rng(0), drift_measures.facts(name)
    a, b = rng.normal(size=491), rng.normal(0.7, 2, size=300)
    d = drift_distance(a, b, name)
    assert d > 0 and drift_distance(a, a, name) == 0 and drift_distance(a, rng.permutation(a), name) == 0
    assert drift_distance(np.r_[a, np.nan, np.inf], np.r_[np.nan, b, -np.inf], name) == d
    assert drift_distance(8*a, 8*b, name) == pytest.approx(8*d if facts["unit"] == "feature" else d)
    assert drift_distance(a + 16, b + 16, name) == pytest.approx(d)
    if facts["on"] == "values": assert drift_distance(b, a, name) == pytest.approx(d)
    assert drift_distance(np.ones(9), np.ones(5), name) == 0 and drift_distance(np.ones(9), np.full(5, 2.), name) > 0
    assert facts["power"] in (1, 2) and drift_distance(a, a + 3, name) > drift_distance(a, a + 0.3, name)
    p, q, values = rng.dirichlet(np.ones(6), 4), rng.dirichlet(np.ones(6), 4), np.arange(6.)
    many = drift_measures[name](p, q, values)
    assert many.shape == (4,) and (many > 0).all()
    assert many == pytest.approx([drift_measures[name](one, other, values) for one, other in zip(p, q)]) and many == pytest.approx(drift_measures[name](q, p, values))


def test_monotone_maps_change_nothing():
    rng = np.random.default_rng(1)
    # Quantiles between two values move under a map; those of 491 values are values
    a, b = rng.normal(size=491), rng.normal(0.3, 1, size=300)
    for name in ("psi", "ks", "jensen_shannon"): assert drift_distance(np.exp(a), np.exp(b), name) == pytest.approx(drift_distance(a, b, name))


def test_alarm_level_holds_its_size():
    rng = np.random.default_rng(0)
    level = psi_alarm_level(2000, 400)
    alarms = np.mean([psi(rng.normal(size=2000), rng.normal(size=400)) > level for _ in range(400)])
    assert 0.02 < alarms < 0.09 and level == pytest.approx(stats.chi2.ppf(0.95, 9)*(1/2000 + 1/400))


# the law

def test_drawn_histories_are_stretches():
    t, n = 40, 400
    drawn = dict(draw_stretches(np.eye(t), 8, [1, 10, 40], n, seed=1))
    for length, counts in drawn.items(): assert counts.shape == (n, t) and (counts >= 0).all() and (counts.sum(1) == length).all() and (counts == counts.round()).all()
    assert (drawn[10] <= drawn[40]).all() and (drawn[1] <= drawn[10]).all(), "the shorter ones are beginnings"
    assert drawn[40].mean(0) == pytest.approx(np.ones(t), abs=0.3), "every timestamp is as likely"
    (_, whole), = draw_stretches(np.eye(t), 1e12, [15], n, seed=2)
    runs = {tuple(np.flatnonzero(row)) for row in whole.astype(int)}
    assert runs == {tuple(sorted((start + np.arange(15)) % t)) for start in range(t)}, "one stretch, around the end"
    (_, single), (_, long) = *draw_stretches(np.eye(400), 1, [40], 100, 3), *draw_stretches(np.eye(400), 20, [40], 100, 3)
    pieces = lambda drawn: np.mean([(np.diff(np.flatnonzero(row), append=-9) != 1).sum() for row in drawn])
    assert pieces(single) > 30 and 2 < pieces(long) < 4.5, "40 timestamps in stretches of 20 are about three pieces"


def test_draws_have_the_variance_of_the_stationary_bootstrap():
    x, t, length = remember(0.7, 300, 1, np.random.default_rng(0))[:, 0], 300, 60
    (_, sums), = draw_stretches(x[:, None], 10, [length], 20_000, 0)
    c = np.array([np.mean((x - x.mean())*np.roll(x - x.mean(), -lag)) for lag in range(length)])   # circular autocovariances
    weights = np.r_[1, 2*(1 - np.arange(1, length)/length)*0.9**np.arange(1, length)]
    assert (sums/length).var() == pytest.approx((weights@c)/length, rel=0.04)


def test_quantiles_of_a_law():
    rng = np.random.default_rng(0)
    drawn = rng.chisquare(5, size=(3, 200_000))*[[1], [2], [3]]
    known = upper_quantiles(drawn, np.inf)
    assert known == pytest.approx(stats.chi2.isf(TAILS, 5)*np.array([[1], [2], [3]]), rel=0.05)
    few, near = upper_quantiles(drawn[0], 6), np.array(TAILS) >= 0.01
    assert few[near] == pytest.approx(5*stats.f.isf(TAILS, 5, 30)[near], rel=0.05), "a scale learned from six stretches in each of five directions"
    assert few[~near] == pytest.approx((few[near][-1]*stats.f.isf(TAILS, 5, 6)/stats.f.isf(0.01, 5, 6))[~near], rel=0.05), "and in one beyond"
    assert upper_quantiles(drawn[0], 6, True) == pytest.approx(5*stats.f.isf(TAILS, 5, 6), rel=0.05)
    assert (np.diff(upper_quantiles(np.ones(100), 10)) >= -1e-9).all(), "draws that do not differ"


def test_p_values_and_levels_are_inverse():
    null = Null(5., [1, 8, 64], {"psi": chance._table(upper_quantiles(np.random.default_rng(0).chisquare(4, size=(3, 5000)), 20))})
    for alpha in (0.5, 0.05, 0.003, 1e-7):
        for length in (0.5, 1, 5, 64, 1e5): assert null.p_value("psi", length, null.level("psi", length, alpha)) == pytest.approx(alpha)
    p = [null.p_value("psi", 20, s) for s in np.linspace(0, 500, 300)]
    assert (np.diff(p) <= 0).all() and p[0] == 1 and null.p_value("psi", 20, 1e9) == pytest.approx(1e-8)


def test_stretches_grow_with_the_memory():
    rng = np.random.default_rng(0)
    lengths = [stretch_length(remember(phi, 1000, 1, rng)[:, 0]) for phi in (0, 0.5, 0.9)]
    assert 1 <= lengths[0] < 10 < lengths[1] < lengths[2] <= 250 and 100 < stretch_length(np.arange(1000.)) <= 250 == 1000/4 and stretch_length(np.arange(60.)) == 15 and stretch_length(np.ones(100)) == 1


def test_effective_rows_of_a_known_memory():
    rng = np.random.default_rng(3)
    def worth(x, s=1):
        values, at = x.ravel(), np.repeat(np.arange(len(x)), s)
        return learn_null(values, at, np.quantile(values, np.linspace(0, 1, 1001)), bin_edges(values), None, 300, 0)[1]
    assert 600 < worth(remember(0, 1000, 1, rng)) <= 1000
    assert 300 < worth(np.repeat(remember(0, 400, 1, rng), 5, axis=1), 5) <= 420, "five copies of one series are one series"
    assert worth(np.repeat(remember(0, 100, 1, rng), 10, axis=0)) < 200, "ten bars with the same value are one"


# the reference

def odd_frame(n=300, s=3):
    rng = np.random.default_rng(5)
    X = panel(0.5, n, s, 1, rng).rename(columns={"f0": "plain"})
    return X.assign(constant=2.5, empty=np.nan, third=rng.integers(0, 4, n*s)/3, flag=rng.random(n*s) > 0.97, huge=X.plain*1e307, tiny=X.plain*1e-300, far=1e9 + X.plain*1e-3,
                    wide=np.exp(8*X.plain), gaps=X.plain.where(rng.random(n*s) > 0.3), late=X.plain.where(np.arange(n*s) > 60*s), infinite=X.plain.where(rng.random(n*s) > 0.01, np.inf),
                    short=X.plain.where(np.arange(n*s) < 10*s), whole=pd.array(rng.integers(0, 100, n*s), dtype="Int64"))


def test_a_reference_survives_json():
    X = odd_frame()
    for frame in (X, X.reset_index(drop=True)):
        reference = drift_reference(frame, n_bootstraps=100)
        stored = {name: json.dumps(reference.metadata(name), allow_nan=False) for name in frame}
        again = DriftReference.from_metadata({name: json.loads(text) for name, text in reversed(stored.items())})
        assert again == reference and max(map(len, stored.values())) < 26_000 and len(stored["wide"]) < 16_000 and len(stored["third"]) < 4_500
        now = frame.iloc[600:]
        kept, fresh = (feature_drift(one, now).sort_values("feature", ignore_index=True) for one in (again, reference))
        found = fresh.set_index("feature")
        pd.testing.assert_frame_equal(kept[["feature", "psi", "ks"]], fresh[["feature", "psi", "ks"]])
        for name in frame.columns.drop(["empty", "short"]):
            a, b = (part[name].to_numpy(float) for part in (frame, now))
            a, b = a[np.isfinite(a)], b[np.isfinite(b)]
            assert found.psi[name] == psi(a, b), name
            assert found.ks[name] == pytest.approx(stats.ks_2samp(a, b, method="asymp").statistic, abs=4e-3), name
            if name not in ("huge", "tiny", "wide"): assert found.wasserstein[name] == pytest.approx(stats.wasserstein_distance(a, b), abs=5e-3*a.std()), name


def test_quantiles_are_kept():
    X = odd_frame()
    reference = drift_reference(X, n_bootstraps=100)
    for name in ("plain", "third", "far", "wide", "tiny"):
        exact, kept = np.quantile(X[name], np.linspace(0, 1, 1001), method="inverted_cdf"), reference.features[name].quantiles
        assert len(kept) == 1001 and (np.diff(kept) >= 0).all() and len(np.unique(kept)) == len(np.unique(exact))
        assert np.abs(kept - exact).max() <= np.ptp(exact)/20 and np.median(np.abs(kept - exact)) < np.ptp(exact)/5000
    assert set(reference.features["third"].values) == {0, 1/3, 2/3, 1.0}, "what ties is kept to the last digit"
    one = reference.features["infinite"]
    assert one.infinite == one.missing == np.isinf(X.infinite).sum() and one.rows == 900 and reference.features["empty"].missing == 900


def test_only_the_reference_is_learned_from():
    rng = np.random.default_rng(0)
    X = many(0.8, 500, 3, rng)
    reference = drift_reference(X, n_bootstraps=100)
    before, copy = X.copy(), reference.metadata("f0")
    feature_drift(reference, X*3), feature_drift(X, X*3, n_bootstraps=100)
    pd.testing.assert_frame_equal(X, before)
    assert reference.metadata("f0") == copy == drift_reference(X, n_bootstraps=100).metadata("f0") != drift_reference(X, n_bootstraps=100, seed=1).metadata("f0")


def test_any_order_and_any_frame():
    rng = np.random.default_rng(0)
    X = panel(0.5, 200, 4, 3, rng)
    old, new = X.iloc[:600], X.iloc[600:]
    found = feature_drift(old, new, n_bootstraps=100)
    mixed = feature_drift(old.sample(frac=1, random_state=0), new.sample(frac=1, random_state=1)[["f2", "f0", "f1"]], n_bootstraps=100)
    pd.testing.assert_frame_equal(mixed, found)
    def polars_of(frame):
        keys = {"timestamp": frame.index.get_level_values(0).tz_localize(None).to_numpy(), "symbol": frame.index.get_level_values(1).to_list()}
        return pl.DataFrame(keys | {name: frame[name].to_numpy() for name in frame}).with_columns(pl.col("timestamp").dt.replace_time_zone("UTC"))
    polars = feature_drift(polars_of(old), polars_of(new).lazy(), n_bootstraps=100)
    pd.testing.assert_frame_equal(polars, found)


# alarms

@pytest.mark.parametrize("phi", [0, 0.9, 0.96])
def test_few_alarms_when_nothing_changes(phi):
    X = many(phi, 1000, 40, np.random.default_rng(int(100*phi) + 2))
    old, new = X.iloc[:750], X.iloc[750:]
    reference = drift_reference(old, n_bootstraps=200)
    for measure in drift_measures:
        found = feature_drift(reference, new, measure=measure)
        assert (found.p_value < 0.05).mean() < 0.15 and not found.drifted.any(), measure
        assert ((found[measure] > found.alarm_level) == (found.p_value < 0.05)).all(), "the level is that of the feature alone"
    naive = np.mean([psi(old[name], new[name]) > psi_alarm_level(750, 250) for name in X])
    assert naive > 0.6 if phi else naive < 0.15, "the level for independent rows cries wolf"


def test_few_alarms_in_panels_that_move_together():
    X = panel(0.9, 800, 8, 25, np.random.default_rng(4))
    old, new = X.iloc[:600*8], X.iloc[600*8:]
    reference = drift_reference(old, n_bootstraps=200)
    for length in (200, 20, 3, 1):
        found = feature_drift(reference, new.iloc[:8*length])
        assert (found.p_value < 0.05).mean() < 0.18 and not found.drifted.any(), length
    assert np.mean([psi(old[name], new[name]) > psi_alarm_level(len(old), len(new)) for name in X]) > 0.8


def test_any_false_alarm_is_rare():
    rng = np.random.default_rng(8)
    X = pd.concat([many(phi, 500, 60, rng).add_suffix(f"_{phi}") for phi in (0.3, 0.8)], axis=1)
    found = feature_drift(X.iloc[:375], X.iloc[375:], n_bootstraps=100)
    least = found.p_value.to_numpy().reshape(12, 10).min(1)
    assert (10*least < 0.05).sum() <= 2, "Holm's first step in twelve worlds of ten features"


@pytest.mark.parametrize("measure", list(drift_measures))
def test_planted_changes_are_named(measure):
    X = panel(0.7, 800, 10, 12, np.random.default_rng(2))
    late = X.index.get_level_values(0) >= days(800)[600]
    X.loc[late, "f3"] += 1.5
    X.loc[late, "f8"] *= 4
    found = feature_drift(X[~late], X[late], measure=measure)
    assert found.feature[found.drifted].tolist() == ["f3", "f8"]
    assert found.p_adjusted[found.drifted].max() < 0.01


def test_independent_rows_have_the_known_law():
    rng = np.random.default_rng(0)
    old, new = (pd.DataFrame(rng.normal(size=(n, 40))).add_prefix("f") for n in (2000, 500))
    reference = drift_reference(old, n_bootstraps=500)
    found = feature_drift(reference, new)
    both = 1/(1/2000 + 1/500)
    known = stats.chi2.sf(found.psi*both, 9)
    assert found.p_value[known > 0.01].to_numpy() == pytest.approx(known[known > 0.01]) and found.alarm_level.to_numpy() == pytest.approx(psi_alarm_level(2000, 500))
    for measure in drift_measures: assert (feature_drift(reference, new, measure=measure).p_value < 0.05).mean() < 0.12
    ks = feature_drift(reference, new, measure="ks")
    exact = np.array([stats.ks_2samp(old[name], new[name], method="asymp").pvalue for name in old])
    gap = np.abs(ks.p_value - exact)
    assert gap[exact < 0.5].max() < 0.12 and gap[exact < 0.1].max() < 0.03, "the drawn law is Kolmogorov's"
    assert feature_drift(reference, new + 0.5).drifted.all()


def test_bins_that_do_not_fill_have_no_known_law():
    rng = np.random.default_rng(0)
    reference = drift_reference(pd.DataFrame({"a": rng.normal(size=2000)}))
    for rows in (15, 40):
        found = pd.concat([feature_drift(reference, pd.DataFrame({"a": rng.normal(size=rows)}), adjustment="bonferroni") for _ in range(150)])
        assert (found.p_value < 0.05).mean() < 0.11 < 0.13 < (found.psi > psi_alarm_level(2000, rows)).mean(), "where chi-square fails, the drawn law holds"


def test_an_empty_bin_is_no_miracle():
    old = pd.DataFrame({"a": np.arange(10_000.)})
    new = pd.DataFrame({"a": np.r_[np.repeat(np.arange(9), 15)*1000. + 500]})       # the tenth bin is empty, the others are even
    found, naive = feature_drift(old, new), stats.chi2.sf(psi(old.a, new.a)/(1/10_000 + 1/135), 9)
    chance = 10*0.9**135
    assert naive < 1e-12 and chance/30 < found.p_value[0] < 0.01, "as rare as it is, give or take"


def test_ranks_never_drift_and_rounding_is_no_drift():
    n, s = 400, 50
    X = panel(0.9, n, s, 2, np.random.default_rng(0))
    ranks = X.groupby(level=0).rank(pct=True)
    reference = drift_reference(ranks.iloc[:300*s], n_bootstraps=200)
    for measure in drift_measures: assert feature_drift(reference, ranks.iloc[300*s:], measure=measure).p_value.min() > 0.05, measure
    assert reference.features["f0"].effective_rows == 300*s
    assert feature_drift(reference, ranks.iloc[300*s:]**2).drifted.all()


def test_values_never_seen_before_are_news_only_when_there_are_some():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"cap": np.where(rng.random(1000) < 0.03, -1., 0.)}, index=days(1000))
    reference, new = drift_reference(X), X.iloc[:200]
    once, often = new.copy(), new.copy()
    once.iloc[7], often.iloc[::10] = 1., 1.
    assert feature_drift(reference, once).p_value[0] > 0.05 and feature_drift(reference, often).drifted[0]
    index = pd.MultiIndex.from_product([days(400), range(50)], names=["timestamp", "symbol"])
    wide = pd.DataFrame({"cap": np.where(rng.random(20_000) < 0.03, -1., 0.)}, index=index)
    reference, once = drift_reference(wide), wide.iloc[:100*50].copy()
    once.iloc[50:100] = 1.
    assert feature_drift(reference, once).p_value[0] > 0.05, "all symbols together, once in a hundred timestamps"


def test_a_narrow_current_part_counts_less():
    X = panel(0, 400, 20, 1, np.random.default_rng(0))
    reference, new = drift_reference(X.iloc[:6000]), X.iloc[6000:]
    few = new[new.index.get_level_values(1) < "S02"]
    full, narrow = feature_drift(reference, new), feature_drift(reference, few)
    assert narrow.effective_current[0] == pytest.approx(full.effective_current[0]/10) and narrow.alarm_level[0] > 4*full.alarm_level[0]


def test_missing_values_drift_on_their_own():
    n, s = 600, 5
    X = panel(0.5, n, s, 4, np.random.default_rng(1))
    place = np.arange(n*s)//s
    X["f0"] = X.f0.where(place >= 60)                                             # no value at first: a long look-back
    X["f1"] = X.f1.where((place < 450) | (np.arange(n*s) % 2 == 0))               # half of it is lost in the end
    X["f2"] = X.f2.where(np.random.default_rng(0).random(n*s) > 0.2)              # as many missing as ever
    X.iloc[-3, 3] = np.inf
    found = feature_drift(X.iloc[:450*s], X.iloc[450*s:], n_bootstraps=300).set_index("feature")
    assert found.missing_drifted.to_dict() == {"f0": False, "f1": True, "f2": False, "f3": False} and not found.drifted.any()
    assert found.missing_reference["f0"] == pytest.approx(60/450) and found.missing_current["f1"] == 0.5 and found.infinite.tolist() == [0, 0, 0, 1]
    plain = feature_drift(pd.DataFrame({"a": [np.nan]*3 + [1., 2.]*50}), pd.DataFrame({"a": [np.nan]*9 + [1., 2.]*20}))
    assert plain.missing_p_value[0] == pytest.approx(stats.fisher_exact([[3, 100], [9, 40]])[1])


@pytest.mark.parametrize("cut", [0., 1., 1.7])
def test_the_share_of_missing_rows_has_an_honest_law(cut):
    spells, n = remember(0.9, 600, 60, np.random.default_rng(3)) > cut, 450                # missing for weeks, as ever
    X = pd.DataFrame(np.where(spells, np.nan, np.arange(600)[:, None] % 7), index=days(600)).add_prefix("f")
    found = feature_drift(X.iloc[:n], X.iloc[n:], n_bootstraps=100)
    rare = cut > 1.5                                                                      # a handful of spells teaches little
    assert (found.missing_p_value < 0.05).mean() <= 0.1 and (found.missing_p_value < 0.01).mean() <= (0.05 if rare else 0.034) and found.missing_drifted.sum() <= rare
    naive = [stats.fisher_exact([[a.sum(), n - a.sum()], [b.sum(), 600 - n - b.sum()]])[1] < 0.01 for a, b in zip(spells[:n].T, spells[n:].T)]
    assert np.mean(naive) > 0.25


def test_what_cannot_be_compared_says_why():
    X = odd_frame()
    found = feature_drift(X, X.iloc[750:].assign(plain=np.nan, constant=np.where(np.arange(150) < 75, 2.5, 2.6)), n_bootstraps=100).set_index("feature")
    assert found.note.filter(["empty", "plain", "short"]).tolist() == ["no value in the reference", "no value in the current part", "no value in the current part"]
    assert found.loc[["empty", "plain"], ["psi", "ks", "alarm_level", "p_value", "p_adjusted"]].isna().all(axis=None) and not found.drifted[["empty", "plain"]].any()
    assert found.drifted["constant"] and "constant" in found.note["constant"] and found.bins["empty"] == 0 and found.missing_drifted["plain"]
    same = feature_drift(X, X, n_bootstraps=100).set_index("feature")
    assert not same.drifted.any() and (same.psi.dropna() == 0).all() and same.ks.max() < 3e-3 and "fewer than 20" in same.note["short"]
    one = feature_drift(X, X.iloc[:3], n_bootstraps=100)      # one timestamp
    assert not one.drifted[one.note == ""].any()


def test_bad_input_is_refused_in_words():
    X = odd_frame()[["plain", "third"]]
    reference = drift_reference(X, n_bootstraps=100)
    for message, call in {
        "same features; got 'only in one: third'": lambda: feature_drift(reference, X[["plain"]]),
        "the current part has rows": lambda: feature_drift(reference, X.iloc[:0]),
        "the reference has rows and features": lambda: feature_drift(X[[]], X[[]]),
        "at least 20 timestamps; got 19": lambda: drift_reference(X.iloc[:57]),
        "timestamps, or none has": lambda: feature_drift(reference, X.reset_index(drop=True)),
        "timestamps, or none": lambda: feature_drift(X.reset_index(drop=True), X),
        "two bins; got 1": lambda: drift_reference(X, bins=1), "two bins; got True": lambda: psi([1, 2], [1], bins=True),
        "two bins; got 2.5": lambda: bin_edges(np.arange(9.), 2.5),
        "finite value": lambda: psi([np.nan], [1.0]), "holds numbers": lambda: psi([1.], ["a"]),
        "numbers under different names": lambda: drift_reference(X.assign(word="a")), "numbers under different": lambda: drift_reference(pd.concat([X, X], axis=1)),
        "frame of features; got 'Series'": lambda: drift_reference(X.plain),
        "level lies between": lambda: feature_drift(reference, X, level=5), "adjustment is one of": lambda: feature_drift(reference, X, adjustment="bh"),
        "block length lies": lambda: drift_reference(X, block_length=0.5), "100 histories": lambda: drift_reference(X, n_bootstraps=10),
        "entry of its own": lambda: drift_reference(pd.concat([X, X])), "at least one period": lambda: drift_over_time(reference, X, periods=0),
        "metadata gave": lambda: DriftReference.from_metadata({"a": {"rows": 3}}), "both samples have rows": lambda: psi_alarm_level(0, 3),
    }.items():
        with pytest.raises(InputError, match=f"(?i){message}"): call()
    with pytest.raises(UnknownNameError, match="Did you mean psi"): feature_drift(reference, X, measure="psy")
    with pytest.raises(UnknownNameError, match="Did you mean plain"): reference.metadata("plane")
    with pytest.raises(UnknownNameError, match="plain"): plot_distribution(reference, X, "plane")


# over time, and pictures

def test_drift_over_time_says_when():
    X = panel(0.5, 900, 6, 3, np.random.default_rng(0))
    late = X.index.get_level_values(0) >= days(900)[700]
    X.loc[late, "f1"] += 2
    reference, later = drift_reference(X.iloc[:500*6], n_bootstraps=300), X.iloc[500*6:]
    course = drift_over_time(reference, later.sample(frac=1, random_state=0), periods=4)
    assert len(course) == 12 and course.start.unique().tolist() == days(900)[[500, 600, 700, 800]].tolist() and course.end.max() == days(900)[899]
    assert [(f, s) for f, s in zip(course.feature[course.drifted], course.start[course.drifted])] == [("f1", days(900)[700]), ("f1", days(900)[800])]
    alone = feature_drift(reference, later.iloc[:600])
    pd.testing.assert_series_equal(course.psi[:3], alone.psi)
    assert (course.p_adjusted[:3] >= alone.p_adjusted).all(), "more comparisons, more care"
    plain = drift_over_time(pd.DataFrame({"a": np.arange(100.)}), pd.DataFrame({"a": np.arange(100.)}), periods=3)
    assert plain.start.tolist() == [0, 34, 67] and plain.drifted.all()


def test_pictures():
    X = panel(0.5, 300, 4, 3, np.random.default_rng(0)).assign(constant=1., empty=np.nan)
    reference = drift_reference(X.iloc[:800], n_bootstraps=100)
    found, course = feature_drift(reference, X.iloc[800:] + 1), drift_over_time(reference, X.iloc[800:], periods=4)
    axis = plot_drift(found).axes[0]
    assert {tick.get_text() for tick in axis.get_yticklabels()} == {"f0", "f1", "f2"}, "only what can be compared"
    assert len(plot_distribution(reference, X, "f0").axes[0].patches) == 2 and plot_distribution(reference, X, "constant")
    assert len(plot_drift_over_time(course).axes) == 3 and len(plot_drift_over_time(course, ["f1"]).axes) == 1
