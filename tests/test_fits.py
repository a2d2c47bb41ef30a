"Folds and fits of a search: who trains, who is watched, and staged fits that equal fresh ones"
import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.metrics import log_loss, mean_pinball_loss, mean_squared_error

from alphaplus_ml.core import InputError
from alphaplus_ml.evaluation.splits import PurgedKFold, WalkForward
from alphaplus_ml.models import base
from alphaplus_ml.models.base import forecast
from alphaplus_ml.tuning.fits import KEPT, fit_in_stages, fitters, shared, stopping_rounds
from alphaplus_ml.tuning.folds import Fold, cut_folds

pytestmark = pytest.mark.filterwarnings("error")
BOOSTERS = ["lightgbm", "xgboost", "catboost"]
FREE = {"lightgbm": {"min_child_samples": 5}, "xgboost": {"min_child_weight": 1.0}}   # trees that do split a hundred rows

def make_model(name, **options):
    "A model that is not held back so far that it predicts a constant, on one thread"
    booster = name.removesuffix("_classifier")
    return base.make_model(name, **(({"n_jobs": 1, "reg_lambda": 1.0} if booster in BOOSTERS else {}) | FREE.get(booster, {}) | options))

def panel(t=60, s=4, horizon=1, seed=0, classes=0):
    "Features with gaps, a constant and a rare one, labels (of so many classes), label ends"
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([pd.date_range("2022-01-03", periods=t, tz="UTC"), [f"S{k}" for k in range(s)]], names=["timestamp", "symbol"])
    X = pd.DataFrame(rng.normal(size=(t*s, 5)), index=index, columns=["a", "b", "gaps", "rare", "none"])
    X["gaps"], X["rare"], X["flat"], X["none"] = X.gaps.where(rng.random(t*s) > 0.3), (rng.random(t*s) < 0.02)*1.0, 1.0, np.nan
    ends = index.get_level_values("timestamp").to_series(index=index).groupby(level="symbol").shift(-horizon)
    y = 0.01*X.a + 0.01*pd.Series(rng.normal(size=t*s), index)
    if classes: y = (y.rank(pct=True)*classes).clip(upper=classes - 1e-9).floordiv(1) - (classes > 2)
    return X, y.where(ends.notna()).rename("y"), ends

# folds

def brute_force(X, y, ends, train, share):
    "The inner split, row by row"
    stamps, rows = X.index.get_level_values(0), [k for k in train if not np.isnan(y.iloc[k])]
    times = sorted({stamps[k] for k in rows})
    first = times[len(times) - max(1, round(share*len(times)))]
    return [place for place, k in enumerate(rows) if stamps[k] < first and ends.iloc[k] <= first], [place for place, k in enumerate(rows) if stamps[k] >= first]

@settings(max_examples=25, deadline=None)
@given(horizon=st.integers(1, 6), share=st.floats(0.05, 0.6), seed=st.integers(0, 99), kfold=st.booleans(), by_ends=st.booleans(), shuffled=st.booleans())
def test_an_inner_split_equals_brute_force(horizon, share, seed, kfold, by_ends, shuffled):
    X, y, ends = panel(t=90, horizon=horizon, seed=seed)
    rng = np.random.default_rng(seed)
    y = y.mask(rng.random(len(y)) < 0.05)
    if shuffled: X, y, ends = (one.iloc[order] for order in [rng.permutation(len(X))] for one in (X, y, ends))
    splitter = (PurgedKFold if kfold else WalkForward)(3, horizon=1 if by_ends else horizon)
    folds = cut_folds(X, y, splitter, ends if by_ends else None, inner=share)
    true = (PurgedKFold if kfold else WalkForward)(3, label_end=ends)
    for fold, (train, test) in zip(folds, true.split(X), strict=True):
        assert fold.y_train.index.equals(y.iloc[train].dropna().index) and np.array_equal(fold.test, test)
        assert fold.X_test.index.equals(X.index[test]) and fold.y_test.index.equals(y.iloc[test].dropna().index)
        fit, watched = brute_force(X, y, ends, train, share)
        assert fold.inner[0].tolist() == fit and fold.inner[1].tolist() == watched
        inner = fold.watched
        assert inner is fold.watched and inner.X_train.equals(fold.X_train.iloc[fit]) and inner.y_test.equals(fold.y_train.iloc[watched])

def test_plain_rows_and_the_splitters_own_label_ends():
    rng = np.random.default_rng(0)
    X, y = pd.DataFrame({"a": rng.normal(size=60)}), pd.Series(rng.normal(size=60))
    own = pd.Series(np.arange(60) + 4, index=X.index)
    for fold in cut_folds(X, y, WalkForward(3, label_end=own), None, inner=0.25):
        fit, watched = fold.inner
        n = len(fold.y_train)
        assert watched.tolist() == list(range(n - round(n/4), n)) and fit.tolist() == list(range(watched[0] - 3))
    longer = cut_folds(X, y, WalkForward(3, horizon=5), None, inner=0.25, horizon=2)[0]
    assert longer.inner[1][0] - longer.inner[0][-1] == 5

def test_weights_are_those_of_the_folds_own_training_labels():
    X, y, ends = panel(classes=3)
    given, rng = pd.Series(np.random.default_rng(1).random(len(X)), X.index).where(y.notna()), None
    for fold in cut_folds(X, y, WalkForward(3), ends, weights=given, class_weight="balanced"):
        counts = fold.y_train.value_counts()
        expected = [given[row]*len(fold.y_train)/(3*counts[label]) for row, label in fold.y_train.items()]
        np.testing.assert_allclose(fold.weights, expected, rtol=1e-12)
        assert fold.weights.index.equals(fold.y_train.index)
    for fold in cut_folds(X, y, WalkForward(3), ends, class_weight={-1: 5.0}): assert fold.weights.tolist() == [5.0 if label == -1 else 1.0 for label in fold.y_train]
    assert all(fold.weights is None and fold.inner is None and fold.watched is None for fold in cut_folds(X, y, WalkForward(3), ends))

def test_labels_of_test_rows_change_no_weight_and_no_split():
    X, y, ends = panel(classes=2)
    first = cut_folds(X, y, WalkForward(3), ends, class_weight="balanced", inner=0.2)[0]
    other = cut_folds(X, y.mask(y.notna() & (np.arange(len(y)) >= first.test[0]), 1.0), WalkForward(3), ends, class_weight="balanced", inner=0.2)[0]
    assert first.weights.equals(other.weights) and all(np.array_equal(*pair) for pair in zip(first.inner, other.inner))

@pytest.mark.parametrize("message, changes", [
    ("finite and not below zero", {"weights": lambda X, y: pd.Series(-1.0, X.index)}),
    ("finite and not below zero.*1 of", {"weights": lambda X, y: pd.Series(1.0, X.index).mask(np.arange(len(X)) == 5)}),
    ("index of the features", {"weights": lambda X, y: pd.Series(1.0, X.index[::-1])}),
    ("a Series", {"weights": lambda X, y: np.ones(len(X))}),
    ("fold's training part counts", {"weights": lambda X, y: pd.Series(0.0, X.index)}),
    ("name classes", {"class_weight": {7: 1.0}}), ("above zero", {"class_weight": {1: 0.0}}), ("'balanced' or a mapping", {"class_weight": "even"}),
    ("share between", {"inner": 0.0}), ("share between", {"inner": 1.0}), ("rows to fit before", {"inner": 0.99})])
def test_what_folds_refuse(message, changes):
    X, y, ends = panel(classes=2)
    with pytest.raises(InputError, match=message): cut_folds(X, y, WalkForward(3), ends, **{key: value(X, y) if callable(value) else value for key, value in changes.items()})

def test_folds_without_room_are_refused():
    X, y, ends = panel(classes=2)
    half = np.arange(len(y)) < len(y)//2
    with pytest.raises(InputError, match="train on differ; got 'only 1 in fold 0'"): cut_folds(X, y.mask(half, 1.0), WalkForward(3), ends)
    with pytest.raises(InputError, match="to train on; got 'none in fold 0'"): cut_folds(X, y.mask(half), WalkForward(3), ends)
    with pytest.raises(InputError, match="scored on; got 'none in fold 2'"): cut_folds(X, y.mask(np.arange(len(y)) > 170), WalkForward(3), ends)
    with pytest.raises(InputError, match="classes; got 'labels that are not whole"): cut_folds(X, y + 0.5, WalkForward(3), ends, class_weight="balanced")

def test_a_copy_of_a_fold_starts_without_bins():
    X, y, ends = panel()
    fold = cut_folds(X, y, WalkForward(3), ends, inner=0.2)[-1]
    list(fit_in_stages(make_model("lightgbm", n_estimators=2), fold))
    for other in (copy.deepcopy(fold), pickle.loads(pickle.dumps(fold))):
        assert fold.bins and not other.bins and other.X_train.equals(fold.X_train) and np.array_equal(other.inner[1], fold.inner[1])

# staged fits

def fold_of(n_train=150, seed=0, classes=0, weighted=False, **options):
    X, y, ends = panel(seed=seed, classes=classes)
    weights = pd.Series(np.random.default_rng(seed).integers(0, 4, len(X))/2, X.index) if weighted else None
    fold = cut_folds(X, y, WalkForward(1, train_size=-(-n_train//4)), ends, weights=weights, **options)[0]
    return fold

def fresh(model, fold):
    weights = {} if fold.weights is None else {"sample_weight": fold.weights}
    return forecast(clone(model).fit(fold.X_train, fold.y_train, **weights), fold.X_test)

def user_loss(y, score): return score - y, np.ones(len(y))
def user_log_loss(y, score): return 1/(1 + np.exp(-score)) - y, np.full(len(y), 0.25)

FOLDS = {}
def kept_fold(*key):
    "The same fold for many examples: later fits must not be touched by earlier ones"
    if key not in FOLDS: FOLDS[key] = fold_of(**dict(zip(("n_train", "seed", "classes", "weighted"), key)))
    return FOLDS[key]

SIZES = {"lightgbm": {"num_leaves": st.integers(2, 15), "min_child_samples": st.sampled_from([1, 5, 20, 200]), "min_split_gain": st.sampled_from([0.0, 1e-5])},
         "xgboost": {"max_depth": st.integers(1, 5), "min_child_weight": st.sampled_from([0.0, 1.0, 20.0, 500.0]), "gamma": st.sampled_from([0.0, 1e-5])},
         "catboost": {"depth": st.integers(1, 5), "random_strength": st.sampled_from([0.0, 1.0])}}

def parameters(name):
    common = {"n_estimators": st.integers(1, 25), "learning_rate": st.sampled_from([0.01, 0.1, 0.5]), "subsample": st.floats(0.3, 1.0), "colsample_bytree": st.floats(0.3, 1.0),
              "reg_lambda": st.sampled_from([0.1, 10.0]), "max_bin": st.sampled_from([8, 64, 254]), "random_state": st.integers(0, 2), "n_jobs": st.just(1),
              "monotone": st.sampled_from([None, {"a": -1, "gaps": 1}])}
    return st.fixed_dictionaries(common | SIZES[name])

@pytest.mark.parametrize("name", BOOSTERS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_staged_fits_equal_fresh_ones(name, data):
    classes = data.draw(st.sampled_from([0, 0, 2, 3]))
    values, stages = data.draw(parameters(name)), data.draw(st.integers(1, 5))
    fold = kept_fold(data.draw(st.sampled_from([60, 150] if name == "catboost" else [12, 60, 150])), data.draw(st.integers(0, 1)), classes, data.draw(st.booleans()))
    if classes > 2: values["monotone"] = None
    make = lambda **changes: make_model(name + ("_classifier" if classes else ""), **values | changes)
    found = list(fit_in_stages(make(), fold, stages))
    assert len(found) == stages and all(one.dtype == float and one.shape == (len(fold.X_test),) for one in found)
    np.testing.assert_array_equal(found[-1], fresh(make(), fold))
    if name == "catboost" and values["monotone"]: return   # it adjusts the finished model
    early = data.draw(st.integers(1, stages))
    np.testing.assert_array_equal(found[early - 1], fresh(make(n_estimators=int(np.ceil(values["n_estimators"]*early/stages))), fold))

@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", BOOSTERS)
@pytest.mark.parametrize("objective, classes", [(user_loss, 0), (user_log_loss, 2)])
def test_losses_of_the_users(name, objective, classes, weighted):
    fold = kept_fold(150, 0, classes, weighted)
    make = lambda rounds=12: make_model(name + ("_classifier" if classes else ""), objective=objective, n_estimators=rounds, learning_rate=0.3)
    found = list(fit_in_stages(make(), fold, 3))
    assert len(found) == (1 if name == "catboost" else 3)
    np.testing.assert_array_equal(found[-1], fresh(make(), fold))
    assert np.ptp(found[-1]) > 0
    if name != "catboost": np.testing.assert_array_equal(found[0], fresh(make(4), fold))

@pytest.mark.parametrize("name, objective", [("lightgbm", "huber"), ("lightgbm", "quantile"), ("lightgbm", "mae"), ("xgboost", "reg:absoluteerror"), ("xgboost", "reg:pseudohubererror"), ("catboost", "MAE"), ("catboost", "Quantile:alpha=0.9")])
def test_other_losses_by_name(name, objective):
    fold, make = kept_fold(150, 0, 0, True), lambda rounds=12: make_model(name, objective=objective, n_estimators=rounds, learning_rate=0.3)
    found = list(fit_in_stages(make(), fold, 2))
    np.testing.assert_array_equal(found[1], fresh(make(), fold))
    np.testing.assert_array_equal(found[0], fresh(make(6), fold))

@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize("name", BOOSTERS)
def test_constraints_hold_in_shared_fits(name, classes):
    fold, options = kept_fold(150, 0, classes, False), {"n_estimators": 20, "learning_rate": 0.1}
    free, bound = ([*fit_in_stages(model, fold)][0] for model in (make_model(name + ("_classifier" if classes else ""), **options, monotone=one) for one in (None, {"a": -1})))
    np.testing.assert_array_equal(bound, fresh(make_model(name + ("_classifier" if classes else ""), **options, monotone={"a": -1}), fold))
    assert not np.array_equal(free, bound)

@pytest.mark.parametrize("name", BOOSTERS)
def test_fits_that_grow_in_turns_do_not_change_each_other(name):
    fold = fold_of()
    many = [make_model(name, n_estimators=12, subsample=share, colsample_bytree=0.5) for share in (0.5, 0.8)]
    in_turns = list(zip(*[fit_in_stages(model, fold, 4) for model in many]))[-1]
    for model, found in zip(many, in_turns): np.testing.assert_array_equal(found, fresh(model, fold))

@pytest.mark.parametrize("name", BOOSTERS)
def test_threads_equal_one_after_the_other(name):
    many = [make_model(name, n_estimators=10, learning_rate=rate, subsample=share, max_bin=bins) for rate in (0.05, 0.3) for share in (0.5, 0.9) for bins in (16, 64, 128)]
    folds = [fold_of(seed=seed) for seed in range(2)]
    jobs = [(model, fold) for model in many for fold in folds]*2
    last = lambda model, fold: list(fit_in_stages(model, fold, 2))[-1]
    with ThreadPoolExecutor(4) as pool: found = list(pool.map(lambda job: last(*job), jobs))
    for job, one in zip(jobs, found): np.testing.assert_array_equal(one, fresh(*job))
    assert all(len(fold.bins) == 3 for fold in folds)

@pytest.mark.parametrize("name", ["lightgbm", "xgboost"])
def test_one_fit_goes_on_while_another_one_grows(name):
    fold, begun, other_is_done, waited = fold_of(), threading.Event(), threading.Event(), []
    def slow_loss(y, score):
        begun.set()
        waited.append(other_is_done.wait(20))
        return score - y, np.ones(len(y))
    with ThreadPoolExecutor(1) as pool:
        growing = pool.submit(lambda: list(fit_in_stages(make_model(name, n_estimators=2, objective=slow_loss), fold)))
        assert begun.wait(20)
        list(fit_in_stages(make_model(name, n_estimators=5, max_bin=64), fold))
        other_is_done.set()
        growing.result()
    assert all(waited), "the other fit had to wait for this one"

@pytest.mark.parametrize("name", BOOSTERS)
def test_rows_are_binned_once(name, monkeypatch):
    fold, made = fold_of(), []
    from alphaplus_ml.tuning import fits
    true = getattr(fits, f"_{name}_bins")
    monkeypatch.setattr(fits, f"_{name}_bins", lambda *given: made.append(1) or true(*given))
    for rate in (0.1, 0.2, 0.3): list(fit_in_stages(make_model(name, n_estimators=2, learning_rate=rate), fold))
    assert len(made) == 1
    list(fit_in_stages(make_model(name, n_estimators=2, max_bin=16), fold))
    assert len(made) == 2

def test_few_binnings_are_kept():
    fold = fold_of()
    for bins in range(10, 10 + 2*KEPT): list(fit_in_stages(make_model("lightgbm", n_estimators=2, max_bin=bins), fold))
    assert [key[2] for key in fold.bins] == list(range(10 + KEPT, 10 + 2*KEPT))
    growing = fit_in_stages(model := make_model("lightgbm", n_estimators=4, max_bin=9), fold, 2)
    next(growing)
    for bins in range(10, 10 + KEPT): shared(fold, ("other", bins), object)
    np.testing.assert_array_equal(next(growing), fresh(model, fold))

def test_what_makes_no_bins_fails_again():
    fold = fold_of()
    with pytest.raises(ZeroDivisionError): shared(fold, ("x",), lambda: 1/0)
    assert shared(fold, ("x",), lambda: 7) == 7

def test_nothing_is_grown_before_it_is_asked_for():
    from alphaplus_ml.tuning.fits import LightGBMGrowth
    fold, grown = fold_of(), []
    class Spy(LightGBMGrowth):
        def grow(self, rounds): grown.append(rounds); return super().grow(rounds)
    fitters._members["lightgbm"], true = Spy, fitters["lightgbm"]
    try:
        growing = fit_in_stages(make_model("lightgbm", n_estimators=10), fold, 3)
        assert grown == []
        next(growing), next(growing)
        assert grown == [4, 7]
    finally: fitters._members["lightgbm"] = true

@pytest.mark.parametrize("name, classes", [("ridge", 0), ("past_mean", 0), ("logistic", 2)])
def test_a_model_without_a_fitter_has_one_stage(name, classes):
    fold, model = fold_of(classes=classes), make_model(name)
    found, = fit_in_stages(model, fold, 3)
    np.testing.assert_array_equal(found, fresh(model, fold))
    assert not hasattr(model, "columns_")

@pytest.mark.parametrize("name", BOOSTERS)
def test_inputs_stay_as_they_are_and_bad_ones_are_refused(name):
    fold, model = fold_of(weighted=True), make_model(name, n_estimators=2)
    kept = [one.copy() for one in (fold.X_train, fold.y_train, fold.X_test, fold.weights)]
    list(fit_in_stages(model, fold))
    assert all(one.equals(other) for one, other in zip(kept, (fold.X_train, fold.y_train, fold.X_test, fold.weights)))
    assert not hasattr(model, "columns_")
    parts = [fold.X_train, fold.y_train, fold.X_test, fold.y_test, fold.test]
    for place, bad in ((0, fold.X_train.assign(a=np.inf)), (2, fold.X_test.assign(a=np.inf)), (1, fold.y_train*np.nan)):
        with pytest.raises(InputError): list(fit_in_stages(model, Fold(*parts[:place], bad, *parts[place + 1:])))
    for stages in (0, 1.5, True):
        with pytest.raises(InputError, match="stages is a whole number"): fit_in_stages(model, fold, stages)
    with pytest.raises(InputError, match="two classes|classes need"): list(fit_in_stages(make_model(f"{name}_classifier", monotone={"a": 1}), fold_of(classes=3)))
    with pytest.raises(InputError, match="No feature of the training"): list(fit_in_stages(make_model(name, monotone={"zzz": 1}), fold))

# stopping

def true_loss(model, fold, rounds):
    "The watched loss of a fresh fit with so many rounds"
    fit, watched = fold.inner
    weights = None if fold.weights is None else fold.weights.iloc[fit]
    inner = Fold(fold.X_train.iloc[fit], fold.y_train.iloc[fit], fold.X_train.iloc[watched], fold.y_train.iloc[watched], watched, weights)
    key = "iterations" if "iterations" in model.get_params() else "n_estimators"
    found, y = fresh(clone(model).set_params(**{key: rounds}), inner), inner.y_test
    own = None if fold.weights is None else fold.weights.iloc[watched]
    if len(set(y)) == 2: return log_loss(y, found, sample_weight=own)
    if "quantile" in str(model.get_params().get("objective")): return mean_pinball_loss(y, found, alpha=0.9, sample_weight=own)
    return mean_squared_error(y, found, sample_weight=own)

@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name, classes, options", [(name, classes, {}) for name in BOOSTERS for classes in (0, 2)] + [("lightgbm", 0, {"objective": user_loss}), ("lightgbm", 2, {"objective": user_log_loss}), ("xgboost", 2, {"objective": user_log_loss}), ("lightgbm", 0, {"objective": "quantile"})])
def test_stopping_rounds_have_the_least_watched_loss(name, classes, options, weighted):
    found = set()
    for seed in range(3):
        fold = fold_of(classes=classes, weighted=weighted, inner=0.3, seed=seed)
        model = make_model(name + ("_classifier" if classes else ""), n_estimators=20, learning_rate=0.2, subsample=0.5, **options)
        losses = [true_loss(model, fold, rounds) for rounds in range(1, 21)]
        for patience in (1, 2, 4, 20):
            best = 0
            for k, loss in enumerate(losses):
                if loss < losses[best]: best = k
                if k - best == patience: break
            rounds = stopping_rounds(model, fold, patience)
            assert losses[rounds - 1] == pytest.approx(losses[best], rel=2e-7), (seed, patience, rounds, best + 1)
            found.add(rounds)
    assert len(found) > 2

@pytest.mark.parametrize("name", BOOSTERS)
def test_stopping_never_sees_the_test_rows_or_the_labels_of_purged_ones(name):
    fold = fold_of(inner=0.3)
    model = make_model(name, n_estimators=30, learning_rate=0.3)
    spoilt_y = fold.y_train.copy()
    purged = np.setdiff1d(np.arange(len(spoilt_y)), np.r_[fold.inner])
    spoilt_y.iloc[purged] = 1e6
    spoilt = Fold(fold.X_train, spoilt_y, fold.X_test*1e3, fold.y_test + 99, fold.test, fold.weights, fold.inner)
    assert stopping_rounds(model, fold, 30) == stopping_rounds(model, spoilt, 30)
    assert 1 <= stopping_rounds(make_model(name, n_estimators=1), fold, 5) <= 1
    with pytest.raises(InputError, match="patience is a whole number"): stopping_rounds(model, fold, 0)
    with pytest.raises(InputError, match="inner split"): stopping_rounds(model, fold_of(), 5)
    with pytest.raises(InputError, match="grows in rounds"): stopping_rounds(make_model("ridge"), fold, 5)

def test_a_watched_class_that_is_never_fitted_is_refused():
    fold = fold_of(classes=2, inner=0.3)
    y = fold.y_train.copy()
    y.iloc[fold.inner[1][0]] = 5.0
    with pytest.raises(InputError, match="watched class is fitted"): stopping_rounds(make_model("lightgbm_classifier"), Fold(fold.X_train, y, fold.X_test, fold.y_test, fold.test, None, fold.inner), 3)
