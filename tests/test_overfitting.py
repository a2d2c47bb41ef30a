"Sharpe ratio statistics against closed formulas, published figures and another library; PBO against brute force"
from itertools import combinations
from math import e, erf, inf, log, sqrt

import numpy as np
import pandas as pd
import purgedcv
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import kurtosis, norm, rankdata, skew

from alphaplus_ml.core import InputError
from alphaplus_ml.evaluation.overfitting import (deflated_sharpe_ratio, effective_number_of_trials, expected_maximum_sharpe, independent_sharpe_variance,
                                                 minimum_track_record_length, probabilistic_sharpe_ratio, probability_of_backtest_overfitting, sharpe_moments)

pytestmark = pytest.mark.filterwarnings("error")

GAMMA = 0.57721566490153286

def by_formula(sharpe, n, skewness, kurt, benchmark):
    z = (sharpe - benchmark)*sqrt(n - 1)/sqrt(1 - skewness*sharpe + (kurt - 1)/4*sharpe**2)
    return 0.5*(1 + erf(z/sqrt(2)))

MOMENTS = [(0.1, 250, 0, 3, 0), (-0.05, 100, -1, 6, 0.02), (0.3, 36, 0.5, 4, 0.1), (0, 20, 0, 3, 0), (2.0, 12, -2, 9, 1.5)]

@pytest.mark.parametrize("sharpe, n, skewness, kurt, benchmark", MOMENTS)
def test_probabilistic_sharpe_ratio_equals_its_formula(sharpe, n, skewness, kurt, benchmark):
    assert probabilistic_sharpe_ratio(sharpe, n, skewness, kurt, benchmark) == pytest.approx(by_formula(sharpe, n, skewness, kurt, benchmark), abs=1e-12)

@pytest.mark.parametrize("n_trials", [2, 10, 100, 5000])
def test_expected_maximum_equals_its_formula(n_trials):
    z = (1 - GAMMA)*norm.ppf(1 - 1/n_trials) + GAMMA*norm.ppf(1 - 1/(n_trials*e))
    assert expected_maximum_sharpe(n_trials, 0.04) == pytest.approx(0.2*z, rel=1e-9)

@pytest.mark.parametrize("n_trials", [10, 100, 1000])
def test_expected_maximum_is_that_of_simulated_trials(n_trials):
    best = np.random.default_rng(0).normal(0, 0.05, size=(4000, n_trials)).max(axis=1)
    assert expected_maximum_sharpe(n_trials, 0.05**2) == pytest.approx(best.mean(), rel=0.03)

def test_the_example_of_bailey_and_lopez_de_prado():
    "Sharpe 2.5 a year over five years of days, 100 trials whose annual Sharpe ratios have variance 1/2"
    daily, variance = 2.5/sqrt(250), 0.5/250
    assert expected_maximum_sharpe(100, variance) == pytest.approx(0.1132, abs=5e-5)
    assert deflated_sharpe_ratio(daily, 1250, 100, variance, skew=-3, kurtosis=10) == pytest.approx(0.9004, abs=5e-5)
    assert deflated_sharpe_ratio(daily, 1250, 46, variance, skew=-3, kurtosis=10) == pytest.approx(0.9505, abs=5e-4)   # the paper: 46 trials were still significant

def test_one_trial_needs_no_deflation():
    assert expected_maximum_sharpe(1, 0.5) == 0.0 == expected_maximum_sharpe(1, 0)
    assert deflated_sharpe_ratio(0.1, 100, 1, 0.5, -1, 5) == probabilistic_sharpe_ratio(0.1, 100, -1, 5)

@given(st.floats(-0.3, 0.5), st.integers(10, 3000), st.integers(2, 500), st.floats(1e-6, 0.1))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_more_trials_deflate_more(sharpe, n, n_trials, variance):
    few, many = (deflated_sharpe_ratio(sharpe, n, k, variance) for k in (n_trials, n_trials + 50))
    assert 0 <= many <= few <= 1 and few <= probabilistic_sharpe_ratio(sharpe, n)

@pytest.mark.parametrize("skewness, kurt", [(0, 3), (-1.5, 8)])
@pytest.mark.parametrize("level", [0.6, 0.95, 0.99])
def test_minimum_track_record_is_where_the_probability_reaches_the_level(skewness, kurt, level):
    n = minimum_track_record_length(0.12, 0.02, skewness, kurt, level)
    assert n == pytest.approx(1 + (1 - skewness*0.12 + (kurt - 1)/4*0.12**2)*(norm.ppf(level)/0.1)**2)
    assert probabilistic_sharpe_ratio(0.12, n, skewness, kurt, 0.02) == pytest.approx(level)

def test_published_minimum_track_record():
    "Bailey and Lopez de Prado (2012), monthly: Sharpe 2 a year, normal returns, against 1 a year, takes 2.73 years of daily returns"
    assert minimum_track_record_length(2/sqrt(252), 1/sqrt(252))/252 == pytest.approx(2.73, abs=0.01)

@pytest.mark.parametrize("sharpe", [0.1, 0.0999, -1])
def test_no_record_is_long_enough_without_an_advantage(sharpe):
    assert minimum_track_record_length(sharpe, 0.1) == inf

@pytest.mark.parametrize("seed", range(4))
def test_sharpe_statistics_equal_purgedcv(seed):
    returns = np.random.default_rng(seed).standard_t(6, size=400)*0.01 + 0.0005*seed
    sharpe, shape = returns.mean()/returns.std(ddof=1), dict(skew=skew(returns), kurtosis=kurtosis(returns, fisher=False))
    assert probabilistic_sharpe_ratio(sharpe, 400, **shape, benchmark=0.01) == pytest.approx(purgedcv.probabilistic_sharpe_ratio(returns, 0.01), rel=5e-3)
    assert deflated_sharpe_ratio(sharpe, 400, 40, 0.002, **shape) == pytest.approx(purgedcv.deflated_sharpe_ratio(returns, 40, 0.002), rel=5e-3)
    theirs = purgedcv.min_track_record_length(0.1, 0.01, 0.05, **{"skew": shape["skew"], "kurtosis": shape["kurtosis"]})
    assert np.ceil(minimum_track_record_length(0.1, 0.01, **shape)) == pytest.approx(theirs, abs=1)

def test_a_ratio_without_uncertainty_is_certain():
    assert probabilistic_sharpe_ratio(2.0, 50, 1, 2, benchmark=0) == 1.0   # 1 - 2 + 1/4*4 = 0
    assert probabilistic_sharpe_ratio(2.0, 50, 1, 2, benchmark=2.5) == 0.0

@pytest.mark.parametrize("call, words", [
    (lambda: probabilistic_sharpe_ratio(0.1, 1), "2 observations"), (lambda: probabilistic_sharpe_ratio(np.nan, 10), "finite"),
    (lambda: probabilistic_sharpe_ratio(0.1, 10, 0, 0), "not excess"), (lambda: probabilistic_sharpe_ratio(0.1, 10, 3, 5), "not excess"),
    (lambda: probabilistic_sharpe_ratio(0.1, np.nan), "2 observations"), (lambda: minimum_track_record_length(0.1, level=1), "level"),
    (lambda: minimum_track_record_length(np.inf), "finite"), (lambda: expected_maximum_sharpe(0, 1), "one trial"), (lambda: expected_maximum_sharpe(5, -1), "at least 0"),
    (lambda: expected_maximum_sharpe(5, np.nan), "at least 0"), (lambda: deflated_sharpe_ratio(0.1, 100, 0, 0.1), "one trial"),
    (lambda: probabilistic_sharpe_ratio(0.1, 100, benchmark=np.nan), "benchmark"), (lambda: minimum_track_record_length(0.1, np.nan), "benchmark")])
def test_what_has_no_answer_is_refused(call, words):
    with pytest.raises(InputError, match=words): call()

def test_moments_fit_the_functions_that_take_them():
    returns = pd.Series(np.random.default_rng(2).standard_t(5, size=300)*0.01 + 0.001)
    moments = sharpe_moments(returns)
    z = (returns - returns.mean())/returns.std(ddof=0)
    assert moments == pytest.approx({"sharpe": returns.mean()/returns.std(), "n": 300, "skew": (z**3).mean(), "kurtosis": (z**4).mean()})
    assert probabilistic_sharpe_ratio(**moments) == pytest.approx(purgedcv.probabilistic_sharpe_ratio(returns.to_numpy(), 0), rel=5e-3)
    assert deflated_sharpe_ratio(**moments, n_trials=20, variance=0.001) < probabilistic_sharpe_ratio(**moments)

@pytest.mark.parametrize("flat", [[0.01]*20, [0.0]*5, [0.1 + 0.2, 0.3, 0.3], [0.1], []])
def test_returns_that_do_not_vary_have_no_moments(flat):
    moments = sharpe_moments(flat)
    assert moments.pop("n") == len(flat) and np.isnan([*moments.values()]).all()

@pytest.mark.parametrize("returns, words", [([0.1, np.nan], "NaN"), (np.ones((4, 2)), "one series"), (["a", "b"], "numbers")])
def test_returns_that_are_none_are_refused(returns, words):
    with pytest.raises(InputError, match=words): sharpe_moments(returns)

@pytest.mark.parametrize("level", [0.1, 0.5])
def test_an_even_chance_is_reached_at_once(level):
    assert minimum_track_record_length(0.1, level=level) == 1

@given(st.floats(1, 3))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_best_of_few_is_never_expected_below_zero(n_trials):
    assert 0 <= expected_maximum_sharpe(n_trials, 1) <= 1.2

# probability of backtest overfitting

def slow_pbo(performance, n_blocks):
    performance = performance[len(performance) % n_blocks:]
    blocks = np.array_split(performance, n_blocks)
    ratio = lambda part: np.array([0 if np.ptp(x) == 0 else x.mean()/x.std(ddof=1) for x in part.T])
    logits = []
    for inside in combinations(range(n_blocks), n_blocks//2):
        outside = [k for k in range(n_blocks) if k not in inside]
        best = ratio(np.concatenate([blocks[k] for k in inside])).argmax()
        omega = rankdata(ratio(np.concatenate([blocks[k] for k in outside])))[best]/(performance.shape[1] + 1)
        logits.append(log(omega/(1 - omega)))
    return np.mean([logit <= 0 for logit in logits]), logits

@pytest.mark.parametrize("t, k, n_blocks", [(24, 3, 4), (47, 5, 6), (64, 2, 8), (101, 7, 10), (20, 4, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_pbo_equals_brute_force(t, k, n_blocks, seed):
    performance = np.random.default_rng(seed).normal(0.001, 0.01, size=(t, k))*np.linspace(0.5, 2, k)
    pbo, logits = slow_pbo(performance, n_blocks)
    found = probability_of_backtest_overfitting(performance, n_blocks)
    assert found.pbo == pbo
    np.testing.assert_allclose(found.logits, logits, atol=1e-12)
    assert (found.n_trials, found.n_blocks, found.n_observations) == (k, n_blocks, t - t % n_blocks) and tuple(found)[0] == pbo

def test_the_oldest_rows_are_dropped():
    performance = np.random.default_rng(1).normal(size=(67, 4))
    whole, tail, head = (probability_of_backtest_overfitting(part, 8) for part in (performance, performance[3:], performance[:-3]))
    np.testing.assert_array_equal(whole.logits, tail.logits)
    assert whole.n_observations == 64 and not np.array_equal(whole.logits, head.logits)

def test_pbo_equals_purgedcv():
    performance = np.random.default_rng(3).normal(0.0005, 0.01, size=(160, 6))
    assert probability_of_backtest_overfitting(performance, 8).pbo == pytest.approx(purgedcv.probability_of_backtest_overfitting(performance.T, 8).pbo)

def test_the_best_of_noise_is_overfitted():
    found = [probability_of_backtest_overfitting(np.random.default_rng(seed).normal(size=(240, 10)), 8).pbo for seed in range(40)]
    assert 0.4 < np.mean(found) < 0.65

def test_a_trial_that_is_better_is_not():
    performance = np.random.default_rng(0).normal(size=(480, 10))
    performance[:, 3] += 0.5
    found = probability_of_backtest_overfitting(performance)
    assert found.pbo < 0.01 and len(found.logits) == 12_870

def test_scale_and_a_frame_do_not_matter():
    performance = np.random.default_rng(5).normal(0.001, 0.01, size=(96, 4))
    one, other = probability_of_backtest_overfitting(performance, 6), probability_of_backtest_overfitting(pd.DataFrame(performance*[1, 10, 1e3, 1e-3], columns=list("abcd")), 6)
    np.testing.assert_allclose(one.logits, other.logits)

def test_a_large_mean_costs_no_precision():
    performance = np.random.default_rng(6).normal(size=(48, 4)) + 1e4
    np.testing.assert_allclose(probability_of_backtest_overfitting(performance, 6).logits, slow_pbo(performance, 6)[1], atol=1e-9)

def test_equal_trials_share_their_rank():
    one = np.random.default_rng(0).normal(size=40)
    found = probability_of_backtest_overfitting(np.c_[one, one, one], 4)
    np.testing.assert_allclose(found.logits, 0, atol=1e-12)
    assert found.pbo == 1.0   # in the middle is not above the median

def test_trials_without_variation_do_not_break_it():
    found = probability_of_backtest_overfitting(np.c_[np.zeros(40), np.ones(40), np.random.default_rng(0).normal(size=40)], 4)
    assert np.isfinite(found.logits).all()

@pytest.mark.parametrize("performance, n_blocks, words", [
    (np.zeros((40, 1)), 4, "at least 2"), (np.zeros(40), 4, "at least 2"), (np.zeros((40, 2)), 5, "even"), (np.zeros((40, 2)), 22, "even"), (np.zeros((40, 2)), 0, "even"),
    (np.zeros((7, 2)), 4, "rows"), (np.full((40, 2), np.nan), 4, "2 of 2 trials"), ([["a", "b"]]*40, 4, "numbers")])
def test_what_cannot_be_compared_is_refused(performance, n_blocks, words):
    with pytest.raises(InputError, match=words): probability_of_backtest_overfitting(performance, n_blocks)

@pytest.mark.parametrize("seed", range(3))
def test_what_the_chosen_trial_earned_equals_brute_force(seed):
    performance = np.random.default_rng(seed).normal(0.001, 0.01, size=(60, 4))
    blocks, inside, outside = np.split(performance, 6), [], []
    for chosen in combinations(range(6), 3):
        one, other = (np.concatenate([blocks[k] for k in range(6) if (k in chosen) == side]) for side in (True, False))
        ratios = one.mean(axis=0)/one.std(axis=0, ddof=1)
        inside.append(ratios.max()); outside.append((other.mean(axis=0)/other.std(axis=0, ddof=1))[ratios.argmax()])
    found = probability_of_backtest_overfitting(performance, 6)
    np.testing.assert_allclose(found.inside, inside, atol=1e-11); np.testing.assert_allclose(found.outside, outside, atol=1e-11)
    assert found.probability_of_loss == np.mean(np.array(outside) < 0) and found.degradation == pytest.approx(np.polyfit(inside, outside, 1)[0])

def test_a_ratio_that_never_changes_has_no_slope():
    found = probability_of_backtest_overfitting(np.zeros((40, 3)), 4)
    assert np.isnan(found.degradation) and found.probability_of_loss == 0 and found.pbo == 1   # all tie in the middle

def test_many_trials_in_parts_give_what_one_part_gives_bit_for_bit():
    performance = np.random.default_rng(0).normal(size=(640, 90))   # 12,870 splits x 90 trials: several parts
    one, two = (probability_of_backtest_overfitting(performance) for _ in range(2))
    for name in ("logits", "inside", "outside"): np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    halves = list(combinations(range(16), 8))
    for split in (0, 6_435, 12_869):
        rows = np.concatenate([np.arange(40) + 40*k for k in halves[split]])
        ratios = performance[rows].mean(axis=0)/performance[rows].std(axis=0, ddof=1)
        assert one.inside[split] == pytest.approx(ratios.max(), abs=1e-11)

def test_rounding_is_no_movement():
    rng = np.random.default_rng(0)
    riskless = 0.001*(1 + rng.choice([0, 1e-16, -1e-16], size=64))
    performance = np.c_[riskless, rng.normal(0, 0.01, size=(64, 2))]
    clean = np.c_[np.full(64, 0.001), performance[:, 1:]]
    np.testing.assert_array_equal(probability_of_backtest_overfitting(performance, 4).logits, probability_of_backtest_overfitting(clean, 4).logits)

@pytest.mark.parametrize("n_blocks", [4.0, "4", None, 0, -2])
def test_blocks_that_are_no_even_number_are_refused(n_blocks):
    with pytest.raises(InputError, match="even"): probability_of_backtest_overfitting(np.ones((40, 2)), n_blocks)

def test_the_figure_shows_every_split():
    result = probability_of_backtest_overfitting(np.random.default_rng(0).normal(size=(80, 5)), 8)
    left, right = result.plot().axes
    assert sum(patch.get_height() for patch in left.patches) == 70 == len(right.lines[0].get_xdata()) and f"{result.pbo:.2f}" in left.get_title()
    assert sum(patch.get_height() for patch in left.patches[:30]) == round(70*result.pbo)

# trials that are alike

def alike(k, groups, correlation, t=500, seed=0):
    rng = np.random.default_rng(seed)
    return sqrt(correlation)*rng.normal(size=(t, groups))[:, np.arange(k) % groups] + sqrt(1 - correlation)*rng.normal(size=(t, k))

def ratios(trials): return trials.mean(axis=0)/trials.std(axis=0, ddof=1)

LIKENESS = {"independent": (20, 1, 0), "correlated": (30, 1, 0.5), "blocks": (40, 8, 0.9), "many": (120, 12, 0.95)}

@pytest.mark.parametrize("k, groups, correlation", LIKENESS.values(), ids=LIKENESS)
@pytest.mark.parametrize("t", [250, 1000])
def test_effective_trials_have_the_expected_maximum_of_correlated_ones(k, groups, correlation, t):
    "Oracle: the mean best Sharpe ratio of searches simulated from their returns"
    searches = [ratios(alike(k, groups, correlation, t, seed)) for seed in range(150)]
    true = np.mean([np.ptp(found)/2 for found in searches])
    counts = [effective_number_of_trials(alike(k, groups, correlation, t, seed)) for seed in range(3)]
    assert expected_maximum_sharpe(np.mean(counts), 1/t) == pytest.approx(true, rel=0.08)
    freed = np.mean([independent_sharpe_variance(alike(k, groups, correlation, t, seed)) for seed in range(60)])
    assert freed*t == pytest.approx(1, rel=0.2)

@pytest.mark.parametrize("k", [2, 3, 10])
def test_independent_numbers_equal_the_exact_expected_maximum(k):
    "Orthogonal columns have no sample correlation at all"
    columns = np.linalg.qr(np.c_[np.ones(64), np.random.default_rng(k).normal(size=(64, k))])[0][:, 1:]
    assert effective_number_of_trials(columns) == pytest.approx(k, rel=0.05) and effective_number_of_trials(columns) <= k

@pytest.mark.parametrize("copies", [1, 5, 40])
def test_clones_count_once(copies):
    one = alike(3, 3, 0)
    found = effective_number_of_trials(np.tile(one, copies)*np.repeat(np.arange(1, copies + 1), 3))   # leverage changes nothing
    assert found == pytest.approx(effective_number_of_trials(one), rel=0.03)
    assert effective_number_of_trials(np.tile(one[:, :1], copies)) == pytest.approx(1, abs=1e-6) and independent_sharpe_variance(np.tile(one[:, :1], copies)) == 0

@given(st.integers(1, 12), st.integers(2, 30), st.floats(0, 0.99), st.integers(0, 99))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_effective_trials_lie_between_one_and_all_whatever_order_and_scale(k, t, correlation, seed):
    trials = alike(k, 1, correlation, t, seed)
    found = effective_number_of_trials(trials)
    assert 1 <= found <= k and found == effective_number_of_trials(pd.DataFrame(trials))
    assert found == pytest.approx(effective_number_of_trials(trials[::-1]*0.01 + 5), rel=1e-3)
    assert independent_sharpe_variance(trials) >= 0

def test_the_more_alike_the_fewer():
    found = [effective_number_of_trials(alike(25, 1, correlation)) for correlation in (0, 0.3, 0.6, 0.9, 0.99)]
    assert np.all(np.diff(found) < 0) and found[-1] < 2

def test_gaps_and_trials_that_never_moved_are_no_trials():
    trials = pd.DataFrame(alike(10, 2, 0.9))
    whole = effective_number_of_trials(trials)
    before = trials.copy()
    assert effective_number_of_trials(trials.assign(flat=0.01, rounding=0.1 + 1e-17, empty=np.nan)) == whole
    assert independent_sharpe_variance(trials.assign(flat=0.01, empty=np.nan)) == independent_sharpe_variance(trials)
    assert effective_number_of_trials(trials.mask(np.random.default_rng(0).random(trials.shape) < 0.1)) == pytest.approx(whole, rel=0.15)
    pd.testing.assert_frame_equal(trials, before)

def test_trials_that_never_meet_count_as_independent():
    one, apart = alike(2, 1, 0.99), np.full((500, 2), np.nan)
    apart[:250, 0], apart[250:, 1] = one[:250, 0], one[:250, 1]
    assert effective_number_of_trials(apart) == pytest.approx(2, rel=0.05)

def test_the_variance_is_the_one_across_trials_freed_of_their_correlation():
    trials = alike(6, 1, 0.7)
    matrix = np.corrcoef(trials.T)
    mean = matrix[np.triu_indices(6, 1)].mean()
    assert independent_sharpe_variance(trials) == pytest.approx(ratios(trials).var(ddof=1)/(1 - mean))

@pytest.mark.parametrize("returns", [np.zeros((5, 3)), np.full((5, 2), np.nan), np.zeros((0, 2)), [[0.1, 0.2]], np.ones((9, 1))])
def test_nothing_to_tell_apart_is_one_trial(returns):
    assert effective_number_of_trials(returns) == 1 and independent_sharpe_variance(returns) == 0

@pytest.mark.parametrize("returns, words", [([["a"]], "numbers"), (np.zeros((4, 0)), "at least one trial"), ([[np.inf, 1], [0, 2]], "infinity")])
def test_returns_of_trials_that_are_none_are_refused(returns, words):
    for function in (effective_number_of_trials, independent_sharpe_variance):
        with pytest.raises(InputError, match=words): function(returns)
