"What the number of trials explains: recomputed by hand, calibrated on noise, seen through by a planted edge"
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import kurtosis, skew, t as student

from alphaplus_ml.core import InputError
from alphaplus_ml.evaluation.overfitting import (deflated_sharpe_ratio, effective_number_of_trials, independent_sharpe_variance,
                                                 probability_of_backtest_overfitting)
from alphaplus_ml.evaluation.significance import nadeau_bengio
from alphaplus_ml.tuning.luck import gap_to_defaults, measure_luck, overfitting_note

pytestmark = pytest.mark.filterwarnings("error")


def noise(t=300, k=12, seed=0):
    return pd.DataFrame(np.random.default_rng(seed).normal(0, 0.01, size=(t, k)), columns=range(0, 3*k, 3))   # numbers of complete trials, with gaps

def ratios(net): return net.mean()/net.std()

def test_every_figure_equals_its_recomputation():
    net = noise()
    best = ratios(net).idxmax()
    luck, own = measure_luck(net, best, 40), net[best]
    shape = dict(sharpe=own.mean()/own.std(), n=300, skew=skew(own), kurtosis=kurtosis(own, fisher=False))
    assert luck.sharpe_variance == pytest.approx(ratios(net).var(ddof=1)) and luck.n_trials == 40
    assert luck.deflated_sharpe == pytest.approx(deflated_sharpe_ratio(n_trials=40, variance=luck.sharpe_variance, **shape))
    assert luck.effective_trials == pytest.approx(effective_number_of_trials(net)*40/12) and luck.effective_variance == independent_sharpe_variance(net)
    assert luck.deflated_sharpe_effective == pytest.approx(deflated_sharpe_ratio(n_trials=luck.effective_trials, variance=luck.effective_variance, **shape))
    found = probability_of_backtest_overfitting(net)
    assert luck.pbo == found.pbo and luck.logits == tuple(found.logits) and "12 complete trials" in luck.pbo_note

def test_pruned_and_failed_trials_deflate_more():
    net = noise(seed=1)
    best = ratios(net).idxmax()
    few, many = measure_luck(net, best, 12), measure_luck(net, best, 400)
    assert many.deflated_sharpe < few.deflated_sharpe and many.deflated_sharpe_effective < few.deflated_sharpe_effective
    assert few.effective_trials <= 12 and few.effective_trials < many.effective_trials <= 400 and many.pbo == few.pbo

@pytest.mark.parametrize("copies", [0, 18])
def test_luck_is_hardly_ever_believed_and_an_edge_is(copies):
    believed = {0: [], 0.3: []}
    for seed in range(50):
        net = noise(500, 24, seed)
        net.iloc[:, :copies] = 0.2*net.iloc[:, :copies] + net.iloc[:, [0]].to_numpy()
        for edge in believed:
            played = net + 0.01*edge*(net.columns == net.columns[-1])
            best = ratios(played).idxmax()
            luck = measure_luck(played, best, 24)
            believed[edge].append((luck.deflated_sharpe, luck.deflated_sharpe_effective))
    luck, skill = np.array(believed[0]), np.array(believed[0.3])
    assert (luck > 0.95).mean(axis=0).max() <= 0.06 and 0.35 < luck.mean(axis=0)[1] < 0.65
    assert (skill > 0.95).mean(axis=0).min() > 0.9

def test_copies_count_once_in_the_effective_number():
    net = noise(k=4)
    wide = pd.concat([net] + [net.add_prefix(f"copy {n} of ") for n in range(9)], axis=1)
    best = ratios(net).idxmax()
    one, copied = measure_luck(net, best, 4), measure_luck(wide, best, 40)
    assert copied.effective_trials == pytest.approx(one.effective_trials, rel=0.05)
    assert copied.deflated_sharpe_effective == pytest.approx(one.deflated_sharpe_effective, abs=0.05) and copied.deflated_sharpe < one.deflated_sharpe - 0.05

def test_no_returns_no_measure():
    luck = measure_luck(None, 3, 40)
    assert np.isnan([luck.deflated_sharpe, luck.deflated_sharpe_effective, luck.effective_trials, luck.pbo]).all()
    assert luck.logits == () and luck.pbo_note == "no returns were given" and luck.n_trials == 40

def test_one_trial_has_nothing_to_deflate():
    net = noise(k=1)
    luck = measure_luck(net, 0, 1)
    assert luck.effective_trials == 1 and luck.sharpe_variance == luck.effective_variance == 0 and np.isnan(luck.pbo) and "nothing to compare" in luck.pbo_note
    assert luck.deflated_sharpe == luck.deflated_sharpe_effective == deflated_sharpe_ratio(ratios(net)[0], 300, 1, 0, skew(net[0]), kurtosis(net[0], fisher=False))

def test_a_chosen_trial_that_never_traded_has_no_ratio():
    luck = measure_luck(noise().assign(flat=0.0), "flat", 20)
    assert np.isnan(luck.deflated_sharpe) and np.isnan(luck.deflated_sharpe_effective) and 0 <= luck.pbo <= 1

def test_flat_and_gappy_trials_stop_nothing():
    net = noise()
    before = net.copy()
    gappy = net.assign(flat=0.001, empty=np.nan)
    gappy.iloc[:20, 3] = np.nan
    luck = measure_luck(gappy, 0, 20)
    assert 0 <= luck.deflated_sharpe <= 1 and luck.sharpe_variance == pytest.approx(ratios(gappy.iloc[:, :12]).var()) and "12 complete trials" in luck.pbo_note
    pd.testing.assert_frame_equal(net, before)

@pytest.mark.parametrize("net, words", [(noise(k=1), "nothing to compare"), (noise(t=63), "63 periods are too few"), (noise().mul(0.0), "0 complete trials"), (noise(t=2), "2 periods")])
def test_a_pbo_that_cannot_be_had_says_why(net, words):
    pbo, note, logits = overfitting_note(net)
    assert np.isnan(pbo) and words in note and logits == ()

def test_identical_trials_break_nothing():
    net = pd.concat([noise(k=1)[0]]*5, axis=1, keys=range(5))
    luck = measure_luck(net, 0, 5)
    assert luck.effective_trials == pytest.approx(1, abs=1e-6) and luck.effective_variance == 0 and luck.pbo == 1 and 0 <= luck.deflated_sharpe_effective <= 1

@pytest.mark.parametrize("call, words", [
    (lambda: measure_luck(noise(), 1, 40), "one of the complete"), (lambda: measure_luck(noise(), 0, 11), "There are 12 complete ones"), (lambda: measure_luck(noise(), 0, 40.5), "n_trials"),
    (lambda: measure_luck(noise()[0], 0, 40), "a frame"), (lambda: measure_luck(pd.concat([noise()]*2, axis=1), 0, 40), "one column"), (lambda: measure_luck(noise(), 0, True), "n_trials"),
    (lambda: measure_luck(noise().replace(noise().iloc[0, 0], np.inf), 3, 40), "infinity"), (lambda: measure_luck(noise().astype(str).replace("0", "a") + "x", 3, 40), "numbers")])
def test_what_is_no_search_is_refused(call, words):
    with pytest.raises(InputError, match=words): call()

# the gap to the defaults

@pytest.mark.parametrize("direction", [1, -1])
def test_the_gap_agrees_with_the_test_of_nadeau_and_bengio(direction):
    "At a level of one minus the p-value the interval ends at zero"
    values, defaults = np.array([0.05, 0.04, 0.07, 0.045]), np.array([0.04, 0.042, 0.05, 0.041])
    test = nadeau_bengio(direction*(values - defaults), 800, 200)
    gap = gap_to_defaults(values, defaults, direction, 800, 200, level=1 - test.p_value)
    assert gap.value == pytest.approx(direction*(values - defaults).mean()) and min(abs(gap.low), abs(gap.high)) == pytest.approx(0, abs=1e-9)
    assert gap.by_fold == tuple(direction*(values - defaults)) and gap.low < gap.value < gap.high

@given(st.integers(2, 8), st.floats(0.5, 0.99), st.integers(0, 50))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_the_interval_is_the_corrected_t_interval(k, level, seed):
    gaps = np.random.default_rng(seed).normal(size=k)
    gap = gap_to_defaults(gaps, np.zeros(k), 1, 100, 25, level)
    assert gap.high - gap.low == pytest.approx(2*student.ppf((1 + level)/2, k - 1)*np.sqrt((1/k + 0.25)*gaps.var(ddof=1)))

@pytest.mark.parametrize("values", [[0.1], [0.1, 0.2, 0.3]])
def test_without_variation_there_is_no_interval(values):
    gap = gap_to_defaults(values, values, 1, 100, 25)
    assert gap.value == 0 and np.isnan(gap.low) and np.isnan(gap.high)

@pytest.mark.parametrize("arguments, words", [(([1, 2], [1], 1, 10, 5), "same folds"), (([], [], 1, 10, 5), "same folds"), (([1], [1], 1, 0, 5), "training rows"), (([1], [1], 1, 10, 5, 1.0), "level")])
def test_gaps_that_are_none_are_refused(arguments, words):
    with pytest.raises(InputError, match=words): gap_to_defaults(*arguments)
