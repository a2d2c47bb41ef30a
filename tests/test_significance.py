"Intervals and tests of difference against brute force, by simulation, and on bad input"
import numpy as np
import pandas as pd
import polars as pl
import pytest
from arch.bootstrap import MCS, SPA, StationaryBootstrap
from hypothesis import given, settings, strategies as st
from scipy.stats import binom, chi2, norm, t as student
from statsmodels.api import OLS
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests

from alphaplus_ml.core import InputError
from alphaplus_ml.evaluation import bootstrap
from alphaplus_ml.evaluation.significance import (adjust_p_values, adjustments, bootstrap_interval, clark_west, diebold_mariano, discordant, mcnemar,
                                                  model_confidence_set, nadeau_bengio, optimal_block_length, per_timestamp, superior_predictive_ability)

pytestmark = pytest.mark.filterwarnings("error")

def losses(n, seed=0, shift=0.0, memory=0.4):
    "Two loss series whose difference has some memory"
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=n + 1)
    return np.abs(rng.normal(size=n)) + shift, np.abs(rng.normal(size=n)) + noise[1:] + memory*noise[:-1]

def slow_test(a, b, h, kernel, alternative):
    "The test as it is printed: sums over lags, one product at a time"
    d = [x - y for x, y in zip(a, b)]
    n = len(d)
    mean = sum(d)/n
    gamma = lambda k: sum((d[i] - mean)*(d[i - k] - mean) for i in range(k, n))/n
    lags = h - 1 if kernel == "acf" else max(h - 1, 1)
    weight = (lambda k: 1.0) if kernel == "acf" else (lambda k: 1 - k/(lags + 1))
    spread = gamma(0) + 2*sum(weight(k)*gamma(k) for k in range(1, lags + 1))
    fell_back = kernel == "acf" and spread <= 0
    if fell_back: return (*slow_test(a, b, h, "bartlett", alternative)[:2], True)
    value = mean/(spread/n)**0.5*((n + 1 - 2*h + h*(h - 1)/n)/n)**0.5
    tail = {"less": student.cdf(value, n - 1), "greater": 1 - student.cdf(value, n - 1), "two-sided": 2*(1 - student.cdf(abs(value), n - 1))}
    return value, tail[alternative], fell_back

@pytest.mark.parametrize("kernel", ["acf", "bartlett"])
@pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
@given(n=st.integers(6, 60), h=st.integers(1, 5), seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_diebold_mariano_equals_brute_force(kernel, alternative, n, h, seed):
    a, b = losses(n, seed)
    statistic, p_value, fell_back = slow_test(a, b, h, kernel, alternative)
    found = diebold_mariano(a, b, h, kernel, alternative)
    assert found.statistic == pytest.approx(statistic, rel=1e-9)
    assert found.p_value == pytest.approx(p_value, rel=1e-6, abs=1e-12)
    assert found.fell_back == fell_back and found.n == n and found.horizon == h and found.alternative == alternative
    assert found.variance == ("bartlett" if fell_back else kernel)

def test_a_variance_below_zero_falls_back_to_bartlett_and_says_so():
    a = np.tile([1.0, -1.0], 20) + np.linspace(0, 0.1, 40)   # lag 1 is about -1: 1 + 2*(-1) < 0
    b = np.zeros(40)
    found, plain = diebold_mariano(a, b, 2), diebold_mariano(a, b, 2, "bartlett")
    assert found.fell_back and found.variance == "bartlett" and not plain.fell_back
    assert tuple(found) == tuple(plain) and np.isfinite(found.statistic)
    assert found.statistic == pytest.approx(slow_test(a, b, 2, "acf", "two-sided")[0])

def test_bartlett_uses_at_least_one_lag():
    a, b = losses(50)
    assert diebold_mariano(a, b, 1, "bartlett").statistic == pytest.approx(slow_test(a, b, 1, "bartlett", "less")[0])
    assert diebold_mariano(a, b, 1, "bartlett").statistic != pytest.approx(diebold_mariano(a, b, 1).statistic)

def test_less_means_that_the_first_loss_is_smaller():
    a, b = losses(300, shift=-1.0)
    assert diebold_mariano(a, b).statistic < 0 and diebold_mariano(a, b, alternative="less").p_value < 0.001
    assert diebold_mariano(a, b, alternative="greater").p_value > 0.999
    swapped = diebold_mariano(b, a)
    assert swapped.statistic == pytest.approx(-diebold_mariano(a, b).statistic) and swapped.p_value == pytest.approx(diebold_mariano(a, b).p_value)

def panel_losses(t=60, s=5, seed=0):
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([pd.date_range("2022-01-03", periods=t, tz="UTC"), [f"S{k}" for k in range(s)]], names=["timestamp", "symbol"])
    index = index[rng.random(len(index)) > 0.3]   # unequal numbers of symbols: a mean of rows is another number
    return [pd.Series(rng.normal(size=len(index))**2 + k*0.1, index) for k in (0, 1)]

def test_panel_losses_are_averaged_per_timestamp():
    a, b = panel_losses()
    means = [one.groupby("timestamp").mean().to_numpy() for one in (a, b)]
    found = diebold_mariano(a, b, 3)
    assert found.n == a.index.get_level_values("timestamp").nunique() and tuple(found) == tuple(diebold_mariano(*means, 3))
    assert found.statistic != pytest.approx(diebold_mariano(a.to_numpy(), b.to_numpy(), 3).statistic)
    np.testing.assert_allclose(per_timestamp(a), means[0])

def test_the_order_of_panel_rows_does_not_matter():
    a, b = panel_losses()
    order = np.random.default_rng(3).permutation(len(a))
    np.testing.assert_allclose(tuple(diebold_mariano(a.iloc[order], b.iloc[order], 2)), tuple(diebold_mariano(a, b, 2)), rtol=1e-9)

@pytest.mark.parametrize("horizon", [1, 4])
def test_size_of_the_test_under_equal_losses(horizon):
    rejected = []
    for seed in range(400):
        noise = np.random.default_rng(seed).normal(size=120 + horizon)
        d = np.convolve(noise, np.ones(horizon), "valid")[:120]
        rejected.append(diebold_mariano(d, np.zeros(120), horizon).p_value < 0.05)
    assert 0.02 < np.mean(rejected) < 0.09

def test_without_the_horizon_overlapping_losses_reject_too_often():
    rejected = []
    for seed in range(200):
        d = np.convolve(np.random.default_rng(seed).normal(size=124), np.ones(5), "valid")
        rejected.append(diebold_mariano(d, np.zeros(len(d)), 1).p_value < 0.05)
    assert np.mean(rejected) > 0.2

@pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
@pytest.mark.parametrize("gap", [0.0, 0.3, -1e9])
def test_a_difference_that_does_not_vary_has_no_statistic(gap, alternative):
    found = diebold_mariano(np.full(20, gap), np.zeros(20), 3, alternative=alternative)
    assert np.isnan(found.statistic) and np.isnan(found.p_value) and not found.fell_back

@pytest.mark.parametrize("change, words", [
    (dict(horizon=0), "horizon"), (dict(horizon=1.5), "horizon"), (dict(horizon=30), "horizon"), (dict(variance="newey"), "acf or bartlett"),
    (dict(alternative="smaller"), "two-sided, less, greater"), (dict(loss_b=np.zeros(29)), "same length"), (dict(loss_a=np.full(30, np.nan)), "NaN"),
    (dict(loss_a=np.full(30, np.inf)), "infinity"), (dict(loss_a=["x"]*30), "numbers"), (dict(loss_a=np.zeros((30, 2)), loss_b=np.zeros((30, 2))), "same length"),
    (dict(loss_a=pd.Series(np.arange(30.)), loss_b=pd.Series(np.arange(30.), range(1, 31))), "same index")])
def test_what_cannot_be_tested_is_refused(change, words):
    with pytest.raises(InputError, match=words): diebold_mariano(**dict(loss_a=np.arange(30.), loss_b=np.arange(30.)[::-1]) | change)

@pytest.mark.parametrize("horizon", [1, 3])
def test_rounding_is_no_variation(horizon):
    a, b = panel_losses()
    for other in (a + 0.3, a*(1 + 1e-16), a - 1e-17):
        found = diebold_mariano(a, other, horizon)
        assert np.isnan(found.statistic) and np.isnan(found.p_value)
    small = diebold_mariano(a, a + 1e-9*b, horizon)   # a small difference is one
    assert tuple(small) == pytest.approx(tuple(diebold_mariano(np.zeros(len(b)), b.to_numpy(), horizon)), rel=1e-3) or np.isfinite(small.statistic)

# intervals

def autoregressive(n, rho, seed):
    noise = np.random.default_rng(seed).normal(size=n + 50)
    series = np.zeros(n + 50)
    for i in range(1, n + 50): series[i] = rho*series[i - 1] + noise[i]
    return series[50:]

def test_coverage_of_the_mean_of_dependent_observations():
    covered, naive = [], []
    for seed in range(100):
        series = autoregressive(400, 0.5, seed)
        inside = lambda interval: interval.lower <= 0 <= interval.upper
        covered.append(inside(bootstrap_interval(series, n_bootstraps=200, seed=seed)))
        naive.append(inside(bootstrap_interval(series, n_bootstraps=200, seed=seed, block_length=1)))
    assert 0.85 <= np.mean(covered) <= 0.99
    assert np.mean(naive) < np.mean(covered) - 0.05

def test_the_same_seed_gives_the_same_interval():
    series = autoregressive(200, 0.3, 1)
    one, two, other = (bootstrap_interval(series, seed=seed, n_bootstraps=100) for seed in (4, 4, 5))
    assert one == two and one != other and one.block_length == other.block_length

def test_an_interval_says_what_it_is():
    series = autoregressive(300, 0.2, 2)
    narrow, wide = (bootstrap_interval(series, level=level, n_bootstraps=300) for level in (0.5, 0.99))
    lower, upper = narrow
    assert wide.lower < lower < narrow.estimate < upper < wide.upper and narrow.estimate == pytest.approx(series.mean())
    assert narrow.n == 300 and narrow.level == 0.5 and narrow.block_length == pytest.approx(optimal_block_length(series))

def test_statistics_by_name_and_by_function():
    series = 0.1 + autoregressive(300, 0.2, 3)
    named = bootstrap_interval(series, "sharpe", n_bootstraps=200)
    own = bootstrap_interval(series, lambda x: x.mean()/x.std(ddof=1), n_bootstraps=200)
    assert named.estimate == pytest.approx(series.mean()/series.std(ddof=1)) and tuple(named) == pytest.approx(tuple(own))
    two = np.c_[series, 2*series]
    found = bootstrap_interval(two, lambda rows: np.corrcoef(rows.T)[0, 1], n_bootstraps=20)   # rows stay together
    assert tuple(found) == pytest.approx((1, 1))

def test_rows_are_drawn_in_the_blocks_that_the_longest_memory_needs():
    short, long = np.random.default_rng(0).normal(size=400), autoregressive(400, 0.8, 0)
    found = bootstrap_interval(np.c_[short, long], n_bootstraps=10)
    assert found.block_length == optimal_block_length(long) > 2*optimal_block_length(short)

def test_memory_lengthens_the_blocks():
    assert optimal_block_length(autoregressive(800, 0.8, 0)) > 3*optimal_block_length(np.random.default_rng(0).normal(size=800))
    assert optimal_block_length(np.ones(50)) == 1.0 and optimal_block_length([1.0, 2.0]) == 1.0

@pytest.mark.parametrize("n", [2, 7, 8, 9, 10, 11, 12, 20])
def test_short_series_have_blocks_too(n):
    for seed in range(5):
        series = np.random.default_rng(seed).normal(size=n)
        assert 1 <= optimal_block_length(series) <= max(n/2, 1) and np.isfinite([*bootstrap_interval(series, n_bootstraps=10)]).all()
    flat_end = np.r_[1.0, -1.0, np.zeros(n - 2)]
    assert 1 <= optimal_block_length(flat_end) <= max(n/2, 1)

def test_a_constant_series_has_a_point_for_its_mean_and_nothing_for_its_sharpe_ratio():
    assert tuple(bootstrap_interval(np.full(20, 0.5), n_bootstraps=20)) == (0.5, 0.5)
    assert np.isnan([*bootstrap_interval(np.full(20, 0.5), "sharpe", n_bootstraps=20)]).all()

@pytest.mark.parametrize("values, options, words", [
    ([1.0, np.nan, 2.0], {}, "NaN"), ([1.0, np.inf], {}, "infinity"), ([1.0], {}, "at least 2"), (["a", "b"], {}, "numbers"), (np.zeros((3, 2, 2)), {}, "observations"),
    (range(9), dict(level=1.0), "level"), (range(9), dict(level=95), "level"), (range(9), dict(n_bootstraps=0), "draws"), (range(9), dict(block_length=0.5), "block length"),
    (range(9), dict(block_length=10), "block length"), (range(9), dict(statistic="median"), "mean, sharpe")])
def test_what_cannot_be_drawn_is_refused(values, options, words):
    with pytest.raises(InputError, match=words): bootstrap_interval(list(values), **options)

# several tests at once

@pytest.mark.parametrize("method", ["holm", "bonferroni", "fdr_bh", "fdr_by", "hommel"])
def test_adjusted_p_values_equal_statsmodels(method):
    p = np.random.default_rng(0).beta(0.5, 2, size=12)
    np.testing.assert_allclose(adjust_p_values(p, method), multipletests(p, method=method)[1])
    gaps = np.insert(p, [0, 5, 12], np.nan)
    found = adjust_p_values(gaps, method)
    assert np.isnan(found[np.isnan(gaps)]).all()
    np.testing.assert_allclose(found[~np.isnan(gaps)], multipletests(p, method=method)[1])

@pytest.mark.parametrize("seed", range(8))
def test_holm_by_hand(seed):
    rng = np.random.default_rng(seed)
    p = rng.beta(0.3, 1, size=rng.integers(1, 12)).round(2)   # rounded, for ties
    order = np.argsort(p, kind="stable")
    steps = np.minimum(np.maximum.accumulate([(len(p) - k)*p[i] for k, i in enumerate(order)]), 1)
    expected = np.empty(len(p))
    expected[order] = steps
    np.testing.assert_allclose(adjust_p_values(p), expected, atol=1e-12)

def test_p_values_that_are_none_are_refused():
    for bad in ([0.1, 1.2], [-0.1], [np.inf]):
        with pytest.raises(InputError, match="between 0 and 1"): adjust_p_values(bad)
    assert np.isnan(adjust_p_values([np.nan])).all() and len(adjust_p_values([])) == 0

@pytest.mark.parametrize("p, method, expected", [
    ([0.01, 0.02, 0.03, 0.04], "holm", [0.04, 0.06, 0.06, 0.06]), ([0.01, 0.02, 0.03, 0.04], "fdr_bh", [0.04]*4),
    ([0.005, 0.009, 0.05, 0.1, 0.5], "fdr_bh", [0.0225, 0.0225, 0.25/3, 0.125, 0.5]), ([0.005, 0.009, 0.05, 0.1, 0.5], "holm", [0.025, 0.036, 0.15, 0.2, 0.5])])
def test_adjustments_by_hand(p, method, expected):
    np.testing.assert_allclose(adjust_p_values(p, method), expected)

@pytest.mark.parametrize("method", adjustments)
def test_every_adjustment_raises_and_keeps_the_order(method):
    p = np.random.default_rng(1).beta(0.4, 1, size=15)
    found = adjust_p_values(p, method)
    assert (found >= p - 1e-15).all() and (found <= 1).all() and (np.diff(found[np.argsort(p)]) >= -1e-15).all()
    assert adjust_p_values([0.03], method) == pytest.approx([0.03]) and np.isnan(adjust_p_values([np.nan], method)).all()

def test_an_unknown_adjustment_is_refused():
    for bad in ("fdr", "HOLM", None):
        with pytest.raises(InputError, match="holm, fdr_bh"): adjust_p_values([0.1], bad)

# nested models

def nested(n, seed, drift=0.0, window=40):
    draw = np.random.default_rng(seed).normal(drift, 1, size=n + window)
    return draw[window:], np.zeros(n), pd.Series(draw).rolling(window).mean().shift(1).to_numpy()[window:]

@pytest.mark.parametrize("seed", range(5))
def test_clark_west_is_the_t_statistic_of_a_regression_on_a_constant(seed):
    y, b, m = nested(60, seed)
    b = b + 0.1
    f = (y - b)**2 - ((y - m)**2 - (b - m)**2)
    found, theirs = clark_west(y, b, m), OLS(f, np.ones(60)).fit()
    assert found.statistic == pytest.approx(theirs.tvalues[0]) and found.p_value == pytest.approx(norm.sf(theirs.tvalues[0]))
    assert tuple(found) == (found.statistic, found.p_value) and (found.n, found.horizon, found.alternative, found.variance) == (60, 1, "greater", "acf")

@pytest.mark.parametrize("horizon", [2, 4])
def test_clark_west_with_bartlett_weights_is_neweys_and_wests(horizon):
    y, b, m = nested(80, horizon)
    f = (y - b)**2 - ((y - m)**2 - (b - m)**2)
    theirs = OLS(f, np.ones(80)).fit(cov_type="HAC", cov_kwds=dict(maxlags=horizon - 1, use_correction=True))
    assert clark_west(y, b, m, horizon, "bartlett").statistic == pytest.approx(theirs.tvalues[0])
    assert clark_west(y, b, m, horizon).statistic != pytest.approx(theirs.tvalues[0])

def test_clark_west_averages_a_panel_per_timestamp_in_any_order():
    y, m = panel_losses(seed=4)
    m, b = m*0.3, y*0 + 0.5
    f = (y - b)**2 - ((y - m)**2 - (b - m)**2)
    means = f.groupby(level="timestamp").mean()
    found = clark_west(y, b, m)
    assert found.n == len(means) and found.statistic == pytest.approx(means.mean()/means.sem())
    order = np.random.default_rng(0).permutation(len(y))
    assert tuple(clark_west(y.iloc[order], b.iloc[order], m.iloc[order], 3)) == pytest.approx(tuple(clark_west(y, b, m, 3)))

def test_clark_west_keeps_its_size_where_diebold_and_mariano_lose_it():
    ours = [clark_west(*nested(150, seed)).p_value < 0.1 for seed in range(300)]
    theirs = [diebold_mariano(y**2, (y - m)**2, alternative="greater").p_value < 0.1 for y, b, m in (nested(150, seed) for seed in range(300))]
    assert 0.04 < np.mean(ours) < 0.14 and np.mean(theirs) < 0.03
    assert np.mean([clark_west(*nested(150, seed, drift=0.3)).p_value < 0.1 for seed in range(60)]) > 0.8

def test_equal_forecasts_leave_clark_west_nothing_to_say():
    y = np.random.default_rng(0).normal(size=30)
    for same in (y*0.1, y*0 + 0.3):
        for model in (same, same*(1 + 1e-17)):
            found = clark_west(y, same, model)
            assert np.isnan(found.statistic) and np.isnan(found.p_value)
    error = np.random.default_rng(1).uniform(1, 2, size=30)
    for gain in (0.1, 0.3, 0.7): assert np.isnan(clark_west(error, np.zeros(30), gain/error).statistic)   # the same gain each time, but for rounding

@pytest.mark.parametrize("change, words", [
    (dict(model=np.zeros(29)), "same length"), (dict(y=np.zeros((30, 2))), "same length"), (dict(y=np.full(30, np.nan)), "label series has neither NaN"),
    (dict(horizon=0), "horizon"), (dict(horizon="1"), "horizon"), (dict(variance="hac"), "acf or bartlett"),
    (dict(y=pd.Series(np.ones(30)), model=pd.Series(np.ones(30), range(1, 31))), "same index")])
def test_what_clark_west_refuses(change, words):
    with pytest.raises(InputError, match=words): clark_west(**dict(y=np.arange(30.), benchmark=np.zeros(30), model=np.ones(30)) | change)

# folds

@pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
@given(d=st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=2, max_size=20), n_train=st.integers(1, 1000), n_test=st.integers(1, 1000))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_nadeau_bengio_equals_its_formula(alternative, d, n_train, n_test):
    found, k, mean = nadeau_bengio(d, n_train, n_test, alternative), len(d), sum(d)/len(d)
    spread = sum((x - mean)**2 for x in d)/(k - 1)
    if max(d) == min(d): assert np.isnan(found.statistic) and np.isnan(found.p_value) and "vary" in found.reason; return
    statistic = mean/((1/k + n_test/n_train)*spread)**0.5
    tail = {"less": student.cdf(statistic, k - 1), "greater": student.sf(statistic, k - 1), "two-sided": 2*student.sf(abs(statistic), k - 1)}
    assert tuple(found) == pytest.approx((statistic, tail[alternative]), rel=1e-8, abs=1e-12) and found.reason == "" and found.k == k
    back = nadeau_bengio([-x for x in d], n_train, n_test, {"less": "greater", "greater": "less"}.get(alternative, alternative))
    assert back.statistic == pytest.approx(-statistic) and back.p_value == pytest.approx(found.p_value)
    assert nadeau_bengio(np.array(d)*7, n_train, n_test, alternative).p_value == pytest.approx(found.p_value)

def test_one_fold_or_equal_folds_have_no_statistic():
    assert np.isnan([*nadeau_bengio([0.1], 10, 5)]).all() and "one fold" in nadeau_bengio([0.1], 10, 5).reason
    for flat in ([0.1]*4, [0.0]*4, [0.1 + 0.2, 0.3, 0.3]): assert np.isnan([*nadeau_bengio(flat, 10, 5)]).all()

@pytest.mark.parametrize("d, n_train, n_test, options, words", [
    ([0.1, 0.2], 0, 5, {}, "training rows"), ([0.1, 0.2], 5, -1, {}, "training rows"), ([0.1, 0.2], np.nan, 5, {}, "training rows"), ([], 5, 5, {}, "at least 1"),
    ([0.1, np.nan], 5, 5, {}, "NaN"), ([[0.1, 0.2], [0.1, 0.3]], 5, 5, {}, "one difference"), ([0.1, 0.2], 5, 5, dict(alternative="more"), "two-sided"), ([0.1], 5, 5, dict(alternative="more"), "two-sided")])
def test_what_nadeau_bengio_refuses(d, n_train, n_test, options, words):
    with pytest.raises(InputError, match=words): nadeau_bengio(d, n_train, n_test, **options)

# classifiers

@pytest.mark.parametrize("exact", [False, True])
@given(b=st.integers(0, 60), c=st.integers(0, 60))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_mcnemar_equals_statsmodels(exact, b, c):
    found = mcnemar(b, c, exact)
    assert (found.b, found.c, found.method) == (b, c, "exact" if exact else "chi2") and mcnemar(c, b, exact).p_value == found.p_value
    if b + c == 0: assert np.isnan(found.statistic) and found.p_value == 1; return
    if b == c: assert found.p_value == 1; return   # there the correction of statsmodels steps across zero
    theirs = their_mcnemar([[5, b], [c, 7]], exact=exact, correction=True)
    assert tuple(found) == pytest.approx((theirs.statistic, theirs.pvalue))

def test_mcnemar_by_hand():
    assert tuple(mcnemar(59, 6)) == pytest.approx((52**2/65, chi2.sf(52**2/65, 1)))
    assert mcnemar(1, 8, exact=True).p_value == pytest.approx(2*binom.cdf(1, 9, 0.5)) and mcnemar(np.int64(3), 4.0).b == 3

@pytest.mark.parametrize("b, c", [(-1, 3), (1.5, 3), (np.nan, 3), (3, np.inf), ("3", 3), (None, 3)])
def test_counts_that_are_none_are_refused(b, c):
    with pytest.raises(InputError, match="whole numbers"): mcnemar(b, c)

def test_discordant_rows_are_counted_one_by_one():
    rng = np.random.default_rng(0)
    y, a, b = (rng.integers(0, 3, size=200) for _ in range(3))
    expected = (sum(x == t != z for t, x, z in zip(y, a, b)), sum(z == t != x for t, x, z in zip(y, a, b)))
    assert discordant(y, a, b) == expected == discordant(y, b, a)[::-1] and all(type(count) is int for count in discordant(y, a, b))
    assert discordant(pd.Series(y), pd.Series(a), b) == expected and discordant(y.astype(str), a.astype(str), b.astype(str)) == expected
    for bad, words in (((y, a, b[:-1]), "one length"), ((y, a, np.where(b > 1, np.nan, b)), "gap"), ((pd.Series(y), pd.Series(a, range(1, 201)), b), "same index")):
        with pytest.raises(InputError, match=words): discordant(*bad)

# many models

def table(t=200, k=5, seed=0):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(t, 1))
    return pd.DataFrame((common + rng.normal(size=(t, k)))**2 + np.linspace(0, 0.5, k)).add_prefix("m")

@pytest.mark.parametrize("seed, size, block_length", [(0, 0.1, 4), (1, 0.25, 1), (2, 0.05, 10)])
def test_the_confidence_set_is_the_one_of_arch(seed, size, block_length):
    losses = table(seed=seed)
    theirs = MCS(losses, size, reps=300, block_size=block_length, method="R", seed=seed)
    theirs.compute()
    found = model_confidence_set(losses, size, block_length, 300, seed)
    included, excluded, p_values = found
    assert included == theirs.included and excluded == theirs.excluded and found.size == size and found.n == 200
    assert list(p_values.index) == list(theirs.pvalues.index)
    np.testing.assert_allclose(p_values, theirs.pvalues.Pvalue)

def test_a_confidence_set_does_not_depend_on_columns_rows_or_scale():
    losses = table(seed=3)
    index = pd.MultiIndex.from_product([pd.date_range("2020-01-01", periods=200, tz="UTC"), ["A", "B"]], names=["timestamp", "symbol"])
    panel = pd.DataFrame(np.repeat(losses.to_numpy(), 2, axis=0) + np.tile([[0.3], [-0.3]], (200, 1)), index, losses.columns)
    whole = model_confidence_set(losses, n_bootstraps=200, block_length=3).p_values
    for other in (losses.iloc[:, ::-1], losses*1e-6, losses + 5, pl.from_pandas(losses), panel, panel.sample(frac=1, random_state=0)):
        pd.testing.assert_series_equal(model_confidence_set(other, n_bootstraps=200, block_length=3).p_values, whole)
    assert model_confidence_set(losses.to_numpy()).p_values.index.tolist() == [int(name[1]) for name in model_confidence_set(losses).p_values.index]

def test_identical_models_share_their_fate_and_the_others_do_not_notice():
    losses = table(seed=1)
    alone = model_confidence_set(losses, block_length=2, n_bootstraps=300).p_values
    for twin in losses:
        found = model_confidence_set(losses.assign(twin=losses[twin], shifted=losses["m0"] + 0.01), block_length=2, n_bootstraps=300).p_values
        assert found["twin"] == found[twin] == alone[twin] and found["shifted"] == 0
        pd.testing.assert_series_equal(found.drop(["twin", "shifted"]).sort_index(), alone.sort_index())
    assert (model_confidence_set(losses.assign(**dict.fromkeys(losses, losses["m0"]))).p_values == 1).all()

def test_models_that_tie_exactly_stay():
    hits = np.tile([[0., 1.], [1., 0.]], (20, 1))   # each wrong half of the time
    assert model_confidence_set(hits, block_length=1).included == [0, 1]
    constant = model_confidence_set(np.tile([0.1, 0.2, 0.1], (20, 1)))
    assert constant.included == [0, 2] and constant.excluded == [1]
    rounded = np.tile([0.3, 0.1 + 0.2], (20, 1))
    assert model_confidence_set(rounded).included == [0, 1]

def test_the_set_keeps_the_best_and_loses_the_worse():
    kept, lost = [], []
    for seed in range(60):
        losses = np.random.default_rng(seed).normal(size=(150, 4))**2 + [0, 0, 0, 1.0]
        found = model_confidence_set(losses, n_bootstraps=100, block_length=1, seed=seed)
        kept.append(0 in found.included); lost.append(3 in found.excluded)
    assert np.mean(kept) > 0.88 and np.mean(lost) > 0.9

@pytest.mark.parametrize("losses, options, words", [
    (np.ones((30, 1)), {}, "at least 2 models"), (np.ones(30), {}, "one column per model"), (np.full((30, 2), np.nan), {}, "NaN"), (np.ones((30, 2)), dict(size=0), "size"),
    (np.ones((30, 2)), dict(block_length=31), "block length"), (np.ones((30, 2)), dict(n_bootstraps=0), "draws"), (np.ones((30, 2)), dict(n_bootstraps=2.5), "draws"),
    (pd.DataFrame(np.ones((30, 2)), columns=["a", "a"]), {}, "name of its own"), (np.ones((1, 2)), {}, "at least 2 observations")])
def test_what_a_confidence_set_refuses(losses, options, words):
    with pytest.raises(InputError, match=words): model_confidence_set(losses, **options)

def test_superior_predictive_ability_step_by_step():
    losses = table(seed=2)
    benchmark, models = losses["m2"], losses.drop(columns="m2").assign(hopeless=table(seed=9)["m0"] + 2)   # not a neighbour of another model
    d = benchmark.to_numpy()[:, None] - models.to_numpy()
    means = StationaryBootstrap(3, d, seed=7).apply(lambda x: x.mean(axis=0), 400)
    mean, t = d.mean(axis=0), len(d)
    omega = np.sqrt(t*((means - mean)**2).mean(axis=0))
    statistic = max(0, (np.sqrt(t)*mean/omega).max())
    p = {}
    for name, g in {"lower": np.maximum(mean, 0), "p_value": mean*(mean >= -omega/np.sqrt(t)*np.sqrt(2*np.log(np.log(t)))), "upper": mean}.items():
        p[name] = np.mean([max(0, (np.sqrt(t)*(row - g)/omega).max()) >= statistic for row in means])
    found = superior_predictive_ability(benchmark, models, 3, 400, 7)
    assert found.statistic == pytest.approx(statistic) and {name: getattr(found, name) for name in p} == pytest.approx(p)
    assert found.lower <= found.p_value < found.upper and found.n_models == 5 and found.best == models.columns[(mean/omega).argmax()]

@pytest.mark.parametrize("seed", range(3))
def test_superior_predictive_ability_is_the_one_of_arch_for_differences_in_their_own_units(seed):
    losses = table(seed=seed)
    benchmark, models = losses["m3"].to_numpy(), losses.drop(columns="m3").to_numpy()
    d = benchmark[:, None] - models
    spread = StationaryBootstrap(4, d, seed=seed).apply(lambda x: x.mean(axis=0), 500).std(axis=0)
    theirs = SPA(np.zeros(len(d)), -d/spread, block_size=4, reps=500, seed=seed)
    theirs.compute()
    found = superior_predictive_ability(benchmark, models, 4, 500, seed)
    assert found.statistic > 0   # else arch's maximum is negative, and Hansen's is 0
    assert [found.lower, found.p_value, found.upper] == pytest.approx(theirs.pvalues[["lower", "consistent", "upper"]].tolist(), abs=0.01)

def test_a_wild_model_does_not_drown_a_good_one():
    rng = np.random.default_rng(0)
    benchmark = rng.normal(size=300)**2
    good, wild = benchmark - 0.1 + 0.3*rng.normal(size=300), benchmark + 30*rng.normal(size=300)
    found = superior_predictive_ability(benchmark, pd.DataFrame({"good": good, "wild": wild}), block_length=1)
    unscaled = SPA(benchmark, np.c_[good, wild], block_size=1, seed=0)
    unscaled.compute()
    assert found.best == "good" and found.p_value < 0.01 and unscaled.pvalues["consistent"] > 0.1

def test_size_and_power_of_superior_predictive_ability():
    size, power = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        benchmark, models = rng.normal(size=100)**2, rng.normal(size=(100, 8))**2
        ask = lambda losses: superior_predictive_ability(benchmark, losses, 1, 100, seed).p_value < 0.1
        size.append(ask(models)); power.append(ask(models - np.r_[0.8, np.zeros(7)]))
    assert 0.03 < np.mean(size) < 0.18 and np.mean(power) > 0.8

def test_certain_differences_need_no_draws():
    benchmark = np.random.default_rng(0).normal(size=50)**2
    ask = lambda *models: superior_predictive_ability(benchmark, np.column_stack(models), n_bootstraps=50)
    assert tuple(ask(benchmark)) == (0, 1) and tuple(ask(benchmark + 0.1)) == (0, 1) and tuple(ask(benchmark - 0.1)) == (np.inf, 0)
    assert ask(benchmark + 0.1, benchmark - 0.1).best == 1
    for one in (ask(benchmark), ask(benchmark + 0.1)): assert one.lower == one.upper == 1
    better = benchmark - 0.5 + 0.1*np.random.default_rng(1).normal(size=50)
    for gap in (0.1, 0.7): assert (ask(benchmark + gap, better).lower, ask(benchmark + gap, better).upper) == (0, 0)   # what is worse for certain is no noise

@pytest.mark.parametrize("benchmark, models, words", [
    (np.ones(29), np.ones((30, 2)), "one loss for each row"), (np.ones((30, 2)), np.ones((30, 2)), "one loss for each row"), (np.ones(30), np.ones(30), "one column per model"),
    (np.ones(30), np.full((30, 2), np.inf), "infinity"), (pd.Series(np.ones(30), range(1, 31)), pd.DataFrame(np.ones((30, 2))), "same index")])
def test_what_superior_predictive_ability_refuses(benchmark, models, words):
    with pytest.raises(InputError, match=words): superior_predictive_ability(benchmark, models)

# rows

def test_losses_on_timestamps_are_put_in_order():
    stamps = pd.date_range("2020-01-01", periods=60, tz="UTC")
    a, b = (pd.Series(values, stamps) for values in losses(60))
    order = np.random.default_rng(0).permutation(60)
    assert tuple(diebold_mariano(a.iloc[order], b.iloc[order], 3)) == pytest.approx(tuple(diebold_mariano(a, b, 3)))
    flat = pd.Series([1., 3., 5.], stamps[[0, 0, 1]])   # two symbols of one day
    assert per_timestamp(flat).tolist() == [2, 5]

def test_rows_without_a_place_are_refused():
    for index in (pd.MultiIndex.from_product([[1, 2], ["A"]]), pd.DatetimeIndex(["2020-01-01", None])):
        with pytest.raises(InputError, match="timestamp"): per_timestamp(pd.Series([1., 2.], index))

def test_a_statistic_of_several_numbers_is_refused():
    with pytest.raises(InputError, match="one number"): bootstrap_interval(np.ones((20, 2)), lambda rows: rows.mean(axis=0))
    with pytest.raises(InputError, match="one series"): optimal_block_length(np.ones((20, 2)))
    assert bootstrap.bootstrap_interval is bootstrap_interval

def test_a_series_that_is_constant_but_for_rounding_has_no_sharpe_ratio():
    noise = 0.1 + np.array([0, 1e-17, 2e-17, -1e-17]*10)
    noise[::3] = np.nextafter(0.1, 1)
    assert np.isnan([*bootstrap_interval(noise, "sharpe", n_bootstraps=20)]).all() and optimal_block_length(noise) == 1


def test_the_blocks_of_many_models_are_those_of_the_usual_one():
    "The rule is noisy: among fifty columns of noise its longest answer would set long blocks, and the test would reject too often"
    worlds = [np.random.default_rng(seed).normal(size=(250, 50)) for seed in range(60)]
    found = [superior_predictive_ability(np.zeros(250), world, n_bootstraps=150, seed=seed) for seed, world in enumerate(worlds)]
    assert max(one.block_length for one in found) < 3 and np.mean([one.p_value < 0.05 for one in found]) < 0.1
