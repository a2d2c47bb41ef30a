"Intervals and tests of difference against brute force, by simulation, and on bad input"
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests

from alphaplus_ml.core import InputError
from alphaplus_ml.evaluation.significance import adjust_p_values, bootstrap_interval, diebold_mariano, optimal_block_length, per_timestamp

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

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
