"Intervals and tests of difference against brute force, by simulation, and on bad input"
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from arch.bootstrap import SPA, StationaryBootstrap
from scipy.stats import norm, t as student, ttest_1samp
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from alphaplus_ml.core import InputError
from alphaplus_ml.evaluation.significance import (
    adjust_p_values, bootstrap_interval, clark_west, diebold_mariano, discordant, mcnemar, model_confidence_set, nadeau_bengio,
    optimal_block_length, per_timestamp, superior_predictive_ability)

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


# nested models

def nested(slope, n=200, start=80, seed=0):
    "Realised values, past means and regressions on the past, refitted at every step"
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = slope*x + rng.normal(size=n)
    fits = [np.polyfit(x[:t], y[:t], 1) for t in range(start, n)]
    return y[start:], np.array([y[:t].mean() for t in range(start, n)]), np.array([np.polyval(fit, one) for fit, one in zip(fits, x[start:])])


@pytest.mark.parametrize("horizon", [2, 4])
def test_clark_west_is_the_t_value_of_a_regression_on_a_constant(horizon):
    y, small, large = nested(0.2)
    adjusted = (y - small)**2 - ((y - large)**2 - (small - large)**2)
    plain = OLS(adjusted, np.ones(len(y))).fit()
    assert clark_west(y, small, large).statistic == pytest.approx(plain.tvalues[0], rel=1e-9)
    assert clark_west(y, small, large).p_value == pytest.approx(norm.sf(plain.tvalues[0]), rel=1e-9)
    robust = OLS(adjusted, np.ones(len(y))).fit(cov_type="HAC", cov_kwds={"maxlags": horizon - 1, "use_correction": True})
    assert clark_west(y, small, large, horizon, "bartlett").statistic == pytest.approx(robust.tvalues[0], rel=1e-9)


def test_clark_west_keeps_its_size_and_finds_what_diebold_mariano_misses():
    rejected = {slope: np.mean([clark_west(*nested(slope, 160, 60, seed)).p_value < 0.1 for seed in range(120)]) for slope in (0.0, 0.25)}
    missed = np.mean([diebold_mariano((y - large)**2, (y - small)**2, alternative="less").p_value < 0.1
                      for y, small, large in (nested(0.25, 160, 60, seed) for seed in range(120))])
    assert rejected[0.0] < 0.17 and rejected[0.25] > missed + 0.1


def test_clark_west_on_a_panel_averages_per_timestamp_in_any_row_order():
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([pd.date_range("2024", periods=40, tz="UTC"), list("ABCD")], names=["timestamp", "symbol"])
    y, small, large = (pd.Series(rng.normal(size=160), index) for _ in range(3))
    adjusted = ((y - small)**2 - (y - large)**2 + (small - large)**2).groupby("timestamp").mean()
    expected = adjusted.mean()/(adjusted.std()/np.sqrt(40))
    order = rng.permutation(160)
    assert clark_west(y, small, large).statistic == pytest.approx(expected, rel=1e-9) and clark_west(y, small, large).n == 40
    assert clark_west(*(one.iloc[order] for one in (y, small, large))).statistic == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("change, words", [(dict(model=np.zeros(9)), "same length"), (dict(y=np.full(10, np.nan)), "NaN"), (dict(horizon=0), "horizon"), (dict(variance="x"), "acf or bartlett"),
                                           (dict(y=pd.Series(range(10)), model=pd.Series(range(10), range(1, 11))), "same index"), (dict(model=np.zeros((10, 2))), "same length")])
def test_clark_west_refuses(change, words):
    with pytest.raises(InputError, match=words): clark_west(**dict(y=np.arange(10.), benchmark=np.zeros(10), model=np.ones(10)) | change)


def test_equal_forecasts_of_nested_models_have_no_statistic():
    found = clark_west(np.arange(10.), np.ones(10), np.ones(10))
    assert np.isnan(found.statistic) and np.isnan(found.p_value) and found.alternative == "greater"


# folds and classifiers

@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20), st.integers(1, 1000), st.integers(1, 1000), st.sampled_from(["two-sided", "less", "greater"]))
def test_nadeau_bengio_equals_its_formula(differences, n_train, n_test, alternative):
    found, k = nadeau_bengio(differences, n_train, n_test, alternative), len(differences)
    assert found.n == k and found.alternative == alternative
    if max(differences) - min(differences) <= 1e-14: return   # rounding, or nothing
    mean = sum(differences)/k
    variance = sum((d - mean)**2 for d in differences)/(k - 1)
    t = mean/(variance*(1/k + n_test/n_train))**0.5
    tail = {"two-sided": 2*student.sf(abs(t), k - 1), "less": student.cdf(t, k - 1), "greater": student.sf(t, k - 1)}
    assert found.statistic == pytest.approx(t, rel=1e-6) and found.p_value == pytest.approx(tail[alternative], rel=1e-6, abs=1e-12)


def test_the_corrected_test_is_never_bolder_than_the_plain_one():
    d = np.random.default_rng(0).normal(0.3, 1, 10)
    assert nadeau_bengio(d, 900, 100).p_value > ttest_1samp(d, 0).pvalue
    assert nadeau_bengio(d, 10**9, 1).p_value == pytest.approx(ttest_1samp(d, 0).pvalue, rel=1e-6)


def test_fold_scores_of_equal_learners_are_rejected_too_often_without_the_correction():
    "Ten folds of one noise sample; two learners that predict their own halves' means of noise features"
    plain, corrected = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        x, y, d = rng.normal(size=(60, 2)), rng.normal(size=60), []
        for _ in range(15):
            order = rng.permutation(60)
            train, test = order[:54], order[54:]
            errors = [np.mean((y[test] - np.polyval(np.polyfit(x[train, k], y[train], 1), x[test, k]))**2) for k in (0, 1)]
            d.append(errors[0] - errors[1])
        plain.append(ttest_1samp(d, 0).pvalue < 0.05)
        corrected.append(nadeau_bengio(d, 54, 6).p_value < 0.05)
    assert np.mean(plain) > 0.12 > 0.07 > np.mean(corrected)


@pytest.mark.parametrize("differences", [[0.1], [0.1, 0.1, 0.1], [0.0, 0.0]])
def test_folds_that_do_not_differ_have_no_statistic(differences):
    assert all(np.isnan(tuple(nadeau_bengio(differences, 10, 2))))


@pytest.mark.parametrize("arguments, words", [(([], 9, 1), "at least 1 observations"), (([0.1, np.nan], 9, 1), "NaN"), (([0.1, 0.2], 0, 1), "n_train"), (([0.1, 0.2], 9, 0), "n_test"), (([0.1, 0.2], 9, 1, "up"), "two-sided")])
def test_nadeau_bengio_refuses(arguments, words):
    with pytest.raises(InputError, match=words): nadeau_bengio(*arguments)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_statsmodels_wherever_that_is_defined(b, c):
    for exact in (False, True):
        found = mcnemar(b, c, exact)
        if b + c == 0:
            assert np.isnan(found.statistic) and np.isnan(found.p_value)
            continue
        peer = statsmodels_mcnemar([[5, b], [c, 7]], exact=exact)
        assert found.n == b + c and found.p_value <= 1
        if exact or b != c: assert found.p_value == pytest.approx(peer.pvalue, rel=1e-9) and found.statistic == pytest.approx(peer.statistic)
        else: assert found.statistic == 0 and found.p_value == 1   # statsmodels corrects a difference of nothing by one


def test_discordant_rows_are_counted():
    y, first, second = np.array([1, 1, 0, 0, 1, 2]), np.array([1, 0, 0, 1, 1, 2]), np.array([1, 1, 1, 1, 0, 2])
    assert discordant(y, first, second) == (2, 1) and discordant(y, second, first) == (1, 2)
    with pytest.raises(InputError, match="same length"): discordant(y, first, second[1:])


@pytest.mark.parametrize("b, c", [(-1, 2), (1.5, 2), (2, np.nan)])
def test_mcnemar_refuses_what_is_no_count(b, c):
    with pytest.raises(InputError, match="number of rows"): mcnemar(b, c)


# many models

def many_losses(t=300, k=6, seed=0, gap=0.0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(rng.normal(size=(t, 1))**2 + 0.5*rng.normal(size=(t, k)) + gap*np.arange(k), columns=[f"m{j}" for j in range(k)])


def slow_confidence_set(values, size, length, n, seed):
    "The range statistic and its eliminations, written out"
    k = values.shape[1]
    rows = [np.asarray(data[0][0], int) for data in StationaryBootstrap(length, np.arange(len(values)), seed=seed).bootstrap(n)]
    drawn = np.array([values[one].mean(axis=0) for one in rows])
    left, p_values, running = list(range(k)), {}, 0.0
    spread = lambda i, j: np.sqrt(np.mean(((drawn[:, i] - drawn[:, j]) - (values[:, i].mean() - values[:, j].mean()))**2))
    while len(left) > 1:
        t = {(i, j): (values[:, i].mean() - values[:, j].mean())/spread(i, j) for i in left for j in left if i != j}
        null = np.max([np.abs((drawn[:, i] - drawn[:, j]) - (values[:, i].mean() - values[:, j].mean()))/spread(i, j) for i in left for j in left if i < j], axis=0)
        running = max(running, float(np.mean(null > max(t.values()))))
        worst = max(t, key=t.get)[0]
        p_values[worst] = running
        left.remove(worst)
    p_values[left[0]] = 1.0
    return [p_values[j] for j in range(k)]


@pytest.mark.parametrize("seed, gap", [(0, 0.0), (1, 0.03), (2, 0.1)])
def test_the_confidence_set_is_the_papers_algorithm(seed, gap):
    losses = many_losses(120, 4, seed, gap)
    found = model_confidence_set(losses, 0.1, block_length=3, n_bootstraps=300, seed=seed)
    np.testing.assert_allclose(found.p_values, slow_confidence_set(losses.to_numpy(), 0.1, 3, 300, seed))
    assert found.included == [name for name in losses if found.p_values[name] > 0.1] and sorted(found.included + found.excluded) == sorted(losses)


def test_the_best_model_stays_in_the_set_as_often_as_promised():
    kept = [("m0" in model_confidence_set(many_losses(80, 4, seed, 0.05), 0.1, block_length=1, n_bootstraps=200, seed=seed).included) for seed in range(100)]
    assert np.mean(kept) >= 0.87


def test_a_confidence_set_unpacks_and_repeats_itself():
    losses = many_losses(gap=0.08)
    included, excluded, p_values = model_confidence_set(losses)
    assert "m0" in included and "m5" in excluded and (p_values == model_confidence_set(losses).p_values).all()
    assert model_confidence_set(losses + 5).included == included and model_confidence_set(losses*1e-6).included == included
    assert model_confidence_set(losses.to_numpy()).included == [int(name[1:]) for name in included]


def test_twins_and_constant_distances_are_settled_without_a_draw():
    losses = many_losses(k=3, gap=0.02)
    more = losses.assign(copy=losses.m0, dearer=losses.m0 + 1e-3, cheaper=losses.m2 - 10)
    found = model_confidence_set(more)
    assert found.p_values["copy"] == found.p_values["m0"] and found.p_values["dearer"] == 0 and found.p_values["m2"] == 0
    assert found.included == ["cheaper"]
    same = model_confidence_set(np.ones((50, 3)))
    assert same.included == [0, 1, 2] and (same.p_values == 1).all()


def test_panel_losses_of_many_models_are_averaged_per_timestamp():
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([pd.date_range("2024", periods=60, tz="UTC"), list("ABC")], names=["timestamp", "symbol"])
    losses = pd.DataFrame(rng.normal(size=(180, 3)), index, list("xyz"))
    mean = losses.groupby("timestamp").mean()
    assert (model_confidence_set(losses.sample(frac=1, random_state=0)).p_values == model_confidence_set(mean).p_values).all()
    assert tuple(superior_predictive_ability(losses.x, losses[["y", "z"]])) == tuple(superior_predictive_ability(mean.x, mean[["y", "z"]]))


def slow_spa(d, length, n, seed):
    "Hansen's three p-values, written out; standard errors from the same draws"
    t, mean = len(d), d.mean(axis=0)
    drawn = StationaryBootstrap(length, d, seed=seed).apply(lambda rows: rows.mean(axis=0), n)
    error = drawn.std(axis=0)*np.sqrt(t)
    statistic = max((np.sqrt(t)*mean/error).max(), 0)
    centre = {"lower": np.maximum(mean, 0), "upper": mean, "consistent": np.where(np.sqrt(t)*mean/error >= -np.sqrt(2*np.log(np.log(t))), mean, 0)}
    return statistic, {name: float(np.mean((np.sqrt(t)*(drawn - c)/error).max(axis=1) > statistic)) for name, c in centre.items()}


@pytest.mark.parametrize("seed", range(4))
def test_superior_predictive_ability_is_hansens_test(seed):
    losses, benchmark = many_losses(150, 5, seed, 0.04), np.random.default_rng(seed + 50).normal(size=150)**2
    found = superior_predictive_ability(benchmark, losses, block_length=2, n_bootstraps=400, seed=seed)
    statistic, p_values = slow_spa(benchmark[:, None] - losses.to_numpy(), 2, 400, seed)
    assert found.statistic == pytest.approx(statistic)
    for name, value in (("lower", found.lower), ("consistent", found.p_value), ("upper", found.upper)): assert value == p_values[name], name


@pytest.mark.parametrize("seed", range(3))
def test_arch_agrees_on_advantages_in_standard_errors(seed):
    losses, benchmark = many_losses(120, 4, seed), np.random.default_rng(seed + 50).normal(size=120)**2 + 0.1
    found = superior_predictive_ability(benchmark, losses, block_length=2, n_bootstraps=400, seed=seed)
    d = benchmark[:, None] - losses.to_numpy()
    drawn = StationaryBootstrap(2, d, seed=seed).apply(lambda rows: rows.mean(axis=0), 400)
    peer = SPA(np.zeros(120), -d/drawn.std(axis=0), block_size=2, reps=400, nested=True, seed=seed)
    peer.compute()
    assert found.statistic > 0 and [found.lower, found.p_value, found.upper] == pytest.approx(list(peer.pvalues[["lower", "consistent", "upper"]]), abs=0.005)


def test_size_and_power_of_superior_predictive_ability():
    def p_value(seed, gain):
        rng = np.random.default_rng(seed)
        return superior_predictive_ability(np.zeros(150), rng.normal(size=(150, 8)) - gain*np.eye(8)[3], block_length=1, n_bootstraps=150, seed=seed).p_value
    assert np.mean([p_value(seed, 0.0) < 0.1 for seed in range(150)]) < 0.17
    assert np.mean([p_value(seed, 0.35) < 0.1 for seed in range(40)]) > 0.8


def test_units_and_names_do_not_change_superior_predictive_ability():
    losses, benchmark = many_losses(100, 4), np.ones(100)
    found = superior_predictive_ability(benchmark, losses)
    scaled = superior_predictive_ability(benchmark*1e-4, losses*1e-4)
    assert found.p_value == scaled.p_value and found.best == scaled.best and found.statistic == pytest.approx(scaled.statistic)
    one = losses.assign(m1=1 - 1000*(1 - losses.m1))     # one model's unit: a thousand times its advantage and its error
    assert superior_predictive_ability(benchmark, one).statistic == pytest.approx(found.statistic)
    nothing = superior_predictive_ability(benchmark, np.ones((100, 2)))
    assert np.isnan(nothing.p_value) and nothing.best is None


@pytest.mark.parametrize("losses, words", [(np.ones((10, 1)), "at least 2"), (np.full((10, 2), np.nan), "NaN"), (np.ones((1, 2)), "at least 2 observations"), (pd.DataFrame(np.ones((10, 2)), columns=["a", "a"]), "different names"), ([["x", "y"]]*5, "numbers")])
def test_a_table_of_losses_is_checked(losses, words):
    with pytest.raises(InputError, match=words): model_confidence_set(losses)


@pytest.mark.parametrize("how, words", [(dict(size=0), "size"), (dict(size=1.5), "size"), (dict(block_length=0), "block length"), (dict(block_length=400), "block length"), (dict(n_bootstraps=0), "at least once")])
def test_a_confidence_set_refuses(how, words):
    with pytest.raises(InputError, match=words): model_confidence_set(many_losses(50, 3), **how)


def test_a_benchmark_of_another_length_is_refused():
    with pytest.raises(InputError, match="same length"): superior_predictive_ability(np.ones(9), np.random.default_rng(0).normal(size=(10, 2)))


def test_unknown_adjustments_are_refused_and_the_known_ones_are_statsmodels():
    with pytest.raises(InputError, match="holm"): adjust_p_values([0.1], "hol")
    p = [0.001, 0.02, 0.03, 0.5]
    for method in ("holm", "fdr_bh", "fdr_by"): np.testing.assert_allclose(adjust_p_values(p, method), multipletests(p, method=method)[1])
    np.testing.assert_allclose(adjust_p_values(p), [0.004, 0.06, 0.06, 0.5])
    np.testing.assert_allclose(adjust_p_values(p, "fdr_bh"), [0.004, 0.04, 0.04, 0.5])
