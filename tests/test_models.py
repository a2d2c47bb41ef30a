"The contract of every model, predictions out of fold against a hand-written loop, and bad input"
import pickle
import warnings
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.dummy import DummyRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, TimeSeriesSplit

from alphaplus_ml.core import InputError, UnknownNameError
from alphaplus_ml.evaluation.splits import CombinatorialPurgedKFold, PurgedKFold, WalkForward
from alphaplus_ml.models.base import (CheckedClasses, CheckedInputs, check_model, checks_of, contract_data, forecast, list_models, make_model, model_checks,
                                      model_parameters, models, predict_out_of_fold, predict_paths, same_columns)
from alphaplus_ml.models.boosting import UserObjective, monotone_signs

SMALL = {"lightgbm": dict(n_estimators=15, min_child_samples=20, n_jobs=1), "xgboost": dict(n_estimators=15, min_child_weight=5.0, n_jobs=1),
         "catboost": dict(n_estimators=15, n_jobs=1)}   # quick to train
regressions = [name for name in models if models.facts(name)["task"] == "regression"]
classifiers = [name for name in models if models.facts(name)["task"] == "classification"]
boosters = [name for name in models if models.facts(name)["family"] == "boosting"]

def small(name, **changes): return make_model(name, **SMALL.get(name.removesuffix("_classifier"), {}) | changes)

def fitting(name, y): return (y > 0).astype(int) if name in classifiers else y   # the target for a model's task

def panel(t=60, s=4, seed=0):
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([pd.date_range("2022-01-03", periods=t, tz="UTC"), [f"S{k}" for k in range(s)]], names=["timestamp", "symbol"])
    X = pd.DataFrame(rng.normal(size=(t*s, 3)), index=index, columns=["a", "b", "c"])
    return X, (0.02*X.a + 0.01*rng.normal(size=t*s)).rename("target")

def ends_of(index, horizon):
    "The timestamp of each symbol's h-th next row, NaT at the end"
    stamps = index.get_level_values("timestamp").to_series(index=index)
    return stamps.groupby(level="symbol").shift(-horizon)

# the contract

@pytest.mark.parametrize("name, check", [(name, check) for name in models for check in checks_of(name)])
@pytest.mark.filterwarnings("error")
def test_every_model_passes_every_check(name, check): model_checks[check](lambda **changes: small(name, **changes), *contract_data(models.facts(name)["task"]))

@pytest.mark.parametrize("name", models)
@pytest.mark.filterwarnings("error")
def test_every_model_passes_with_its_defaults(name): assert check_model(name) == checks_of(name)

def test_checks_follow_task_and_parameters():
    assert set(model_checks) - set(checks_of("catboost_classifier")) == set()
    assert set(model_checks) - set(checks_of("lightgbm")) == {"classes"} and set(model_checks) - set(checks_of("ridge")) == {"classes", "monotone"}
    assert set(model_checks) - set(checks_of("logistic")) == {"monotone"}
    assert len(classifiers) >= 4 and len(boosters) >= 6

class Broken(BaseEstimator, RegressorMixin):
    "A model with one fault"
    def __init__(self, fault=""): self.fault = fault
    def fit(self, X, y, sample_weight=None):
        self.columns_ = list(X.columns)
        weights = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, float)
        if isinstance(sample_weight, pd.Series) and not sample_weight.index.equals(X.index): raise InputError("Weights are aligned")
        if self.fault != "any weight" and not ((weights >= 0).all() and weights.any()): raise InputError("Weights are not negative")
        if self.fault == "weightless": weights = np.ones(len(X))
        if self.fault != "lenient":
            if not np.isfinite(y).all() or np.isinf(X.to_numpy()).any(): raise InputError("A target is known")
        if self.fault == "vandal": X.iloc[0, 0] = 7.0
        self.mean_ = np.random.rand() if self.fault == "random" else float(np.average(y.fillna(0), weights=weights))
        return self
    def predict(self, X):
        if self.fault != "lenient" and (set(X.columns) != set(self.columns_) or np.isinf(X.to_numpy()).any()): raise InputError("Columns are known")
        first = X[self.columns_[0]] if self.fault != "by position" else X.iloc[:, 0]
        if self.fault == "neighbours": first = first - first.mean()
        if self.fault == "gaps": first = X["gaps"]
        prediction = self.mean_ + np.asarray(first)*1e-3
        return prediction[:, None] if self.fault == "shape" else prediction

FAULTS = {"": None, "random": "reproducible", "vandal": "inputs untouched", "by position": "row by row", "neighbours": "row by row", "gaps": "predictions",
          "shape": "predictions", "lenient": "refusals", "weightless": "weights", "any weight": "weights"}

@pytest.mark.parametrize("fault, caught_by", FAULTS.items())
def test_a_faulty_model_is_caught(fault, caught_by):
    caught = []
    for check in checks_of("ridge"):
        try: model_checks[check](lambda: Broken(fault), *contract_data())
        except AssertionError: caught.append(check)
    assert caught == [] if caught_by is None else caught_by in caught

def test_the_message_names_model_and_check(monkeypatch):
    models["ridge"]
    monkeypatch.setitem(models._members, "ridge", lambda: Broken("random"))
    with pytest.raises(AssertionError, match="ridge breaks the check 'reproducible'"): check_model("ridge")

# leakage

@pytest.mark.parametrize("name", models)
def test_a_model_learns_nothing_from_the_rows_it_predicts(name):
    X, y = panel()
    model = small(name).fit(X[:160], fitting(name, y)[:160])
    state, poisoned = pickle.dumps(model), X[160:].copy()
    before = model.predict(X[160:])
    poisoned.iloc[5:] = 1e9
    np.testing.assert_allclose(model.predict(poisoned)[:5], before[:5], rtol=1e-9)
    np.testing.assert_array_equal(model.predict(X[160:]), before)
    if "lightgbm" not in name: assert pickle.dumps(model) == state   # LightGBM's pickle holds C state

def test_imputer_and_scaler_of_ridge_know_the_training_rows_only():
    X, y = panel()
    X = X.where(np.random.default_rng(1).random(X.shape) > 0.2)
    X.iloc[160:] = X.iloc[160:]*100 + 5000
    model = make_model("ridge").fit(X[:160], y[:160])
    model.predict(X[160:])
    train, low, high = X[:160], X[:160].min(), X[:160].max()
    np.testing.assert_allclose(model["clip"].data_max_, high)
    share = (train - low)/(high - low)
    np.testing.assert_allclose(model["scale"].mean_, share.mean())
    np.testing.assert_allclose(model["scale"].scale_, share.std(ddof=0))
    np.testing.assert_allclose(model["impute"].statistics_, ((share - share.mean())/share.std(ddof=0)).median())

def test_ridge_does_not_extrapolate():
    "Rows beyond the training's range are forecast like its edge, and a column that is hardly known stays harmless"
    X, y = panel()
    model = make_model("ridge", alpha=1.0).fit(X, y)
    far, edge = X.iloc[:5]*0 + 1e6, pd.DataFrame([X.max()]*5, X.index[:5])
    np.testing.assert_allclose(model.predict(far), model.predict(edge))
    rare = X.assign(rare=np.nan)
    rare.iloc[:4, -1] = [1.0, 1.001, 0.999, 1.0]
    later = rare.assign(rare=-5.0)
    assert np.abs(make_model("ridge").fit(rare, y).predict(later) - make_model("ridge").fit(X, y).predict(X)).max() < 0.1*y.std()

def test_ridge_equals_its_normal_equations():
    X, y = panel()
    Z = ((X - X.mean())/X.std(ddof=0)).to_numpy()
    weights = np.linalg.solve(Z.T @ Z + 50*np.eye(3), Z.T @ (y - y.mean()).to_numpy())
    np.testing.assert_allclose(make_model("ridge", alpha=50.0).fit(X, y).predict(X), Z @ weights + y.mean(), rtol=1e-9)

def test_past_mean_is_the_mean():
    X, y = panel()
    np.testing.assert_allclose(make_model("past_mean").fit(X, y).predict(X[:7]), [y.mean()]*7)

def test_boosters_are_the_libraries_own():
    "The same numbers from each library, called by hand with the parameters' own names"
    import catboost, lightgbm, xgboost
    X, y = panel()
    up, w = (y > 0).astype(int), np.random.default_rng(0).random(len(y)) + 0.5
    common = dict(random_state=0, n_jobs=1, n_estimators=15, learning_rate=0.03, subsample=0.8, colsample_bytree=0.6)
    light = common | dict(num_leaves=7, min_child_samples=20, subsample_freq=1, max_bin=255, deterministic=True, force_col_wise=True, verbose=-1)
    extreme = common | dict(max_depth=3, min_child_weight=5.0, tree_method="hist", seed_per_iteration=True)
    cat = dict(random_seed=0, thread_count=1, iterations=15, learning_rate=0.03, depth=4, subsample=0.8, rsm=0.6, bootstrap_type="Bernoulli", logging_level="Silent",
               allow_writing_files=False)
    theirs = {"lightgbm": lightgbm.LGBMRegressor(**light, reg_lambda=10.0), "lightgbm_classifier": lightgbm.LGBMClassifier(**light, reg_lambda=2.5),
              "xgboost": xgboost.XGBRegressor(**extreme, reg_lambda=10.0), "xgboost_classifier": xgboost.XGBClassifier(**extreme, reg_lambda=2.5),
              "catboost": catboost.CatBoostRegressor(**cat, l2_leaf_reg=10.0), "catboost_classifier": catboost.CatBoostClassifier(**cat, l2_leaf_reg=2.5)}
    assert set(theirs) == set(boosters)
    for name, model in theirs.items():
        model.fit(X, up if name in classifiers else y, sample_weight=w)
        expected = model.predict_proba(X)[:, 1] if name in classifiers else model.predict(X)
        np.testing.assert_array_equal(forecast(small(name).fit(X, fitting(name, y), sample_weight=w), X), expected.astype(float), err_msg=name)

def test_elastic_net_solves_its_own_problem():
    "The optimality conditions of the stated penalty hold, in units of the target's deviation"
    X, y = panel()
    w = np.random.default_rng(0).integers(1, 4, len(y))
    for scale in (1.0, 1e-4):
        model = make_model("elastic_net", alpha=0.2, l1_ratio=0.7).fit(X, y*scale, sample_weight=w)
        Z = (X - np.average(X, axis=0, weights=w))/np.sqrt(np.average((X - np.average(X, axis=0, weights=w))**2, axis=0, weights=w))
        unit = np.sqrt(np.cov(y*scale, aweights=w, ddof=0))
        beta, rest = model["elastic_net"].coef_/unit, (y*scale - model.predict(X))/unit
        slope = np.average(Z*rest.to_numpy()[:, None], axis=0, weights=w)
        kept = beta != 0
        assert kept.any() and not kept.all()
        np.testing.assert_allclose(slope[kept], 0.2*(0.7*np.sign(beta[kept]) + 0.3*beta[kept]), atol=1e-4)
        assert (np.abs(slope[~kept]) <= 0.2*0.7 + 1e-6).all()
    np.testing.assert_allclose(make_model("elastic_net").fit(X, y*0 + 3).predict(X), 3.0)   # nothing to explain

def test_logistic_solves_its_own_problem():
    "The gradient of the stated penalised likelihood is zero"
    X, y = panel()
    up, w = (y > 0).astype(int), np.random.default_rng(0).integers(1, 4, len(y))
    model = make_model("logistic", alpha=80.0).fit(X, up, sample_weight=w)
    Z = (X - np.average(X, axis=0, weights=w))/np.sqrt(np.average((X - np.average(X, axis=0, weights=w))**2, axis=0, weights=w))
    miss = w*(up - forecast(model, X))
    np.testing.assert_allclose(Z.T @ miss, model["logistic"].coef_[0]*80/4, rtol=1e-5)
    assert abs(miss.sum()) < 1e-6

@pytest.mark.parametrize("name", ["past_mean", "ridge", "elastic_net", "logistic"])
def test_a_row_of_weight_two_is_the_row_twice(name):
    X, y = panel()
    y, w = fitting(name, y), np.random.default_rng(0).integers(0, 3, len(y))
    weighted = small(name).fit(X, y, sample_weight=w)
    rows = np.repeat(np.arange(len(X)), w)
    np.testing.assert_allclose(forecast(weighted, X), forecast(small(name).fit(X.iloc[rows], y.iloc[rows]), X), rtol=1e-5)
    np.testing.assert_array_equal(forecast(small(name).fit(X, y, sample_weight=pd.Series(w, X.index)), X), forecast(weighted, X))

@pytest.mark.parametrize("weights, words", [
    ("heavy", "numbers"), ([1.0, 2.0], "one weight per row"), (np.ones((240, 2)), "one weight per row"), (np.full(240, -1.0), "negative"), (np.full(240, np.inf), "finite"),
    (np.full(240, np.nan), "finite"), (np.zeros(240), "above zero"), (pd.Series(1.0, range(240)), "weight has the index")])
@pytest.mark.parametrize("name", ["ridge", "lightgbm", "catboost_classifier"])
def test_what_is_no_weight_is_refused(name, weights, words):
    X, y = panel()
    with pytest.raises(InputError, match=words): small(name).fit(X, fitting(name, y), sample_weight=weights)

# classes

@pytest.mark.parametrize("name", classifiers)
@pytest.mark.filterwarnings("error")
def test_classes_that_weigh_nothing_are_not_there(name):
    X, y = panel()
    three = pd.Series(np.arange(len(X)) % 3 - 1, X.index)
    model = small(name).fit(X, three, sample_weight=(three != 0)*1.0)
    assert list(model.classes_) == [-1, 1]
    with pytest.raises(InputError, match="two classes"): small(name).fit(X, three, sample_weight=(three == 0)*1.0)

@pytest.mark.parametrize("name", classifiers)
@pytest.mark.filterwarnings("error")
def test_a_model_can_be_trained_again_on_other_classes(name):
    X, y = panel()
    three, two = pd.Series(np.arange(len(X)) % 3 - 1, X.index), fitting(name, y)
    model, parameters = small(name), repr(small(name).get_params())
    for target in (three, two, three):
        model.fit(X, target)
        np.testing.assert_array_equal(forecast(model, X), forecast(small(name).fit(X, target), X))
        assert repr(model.get_params()) == parameters and model.predict(X).dtype.kind == "i"

@pytest.mark.parametrize("name", classifiers)
def test_a_forecast_is_what_metrics_read(name):
    X, y = panel()
    model = small(name).fit(X, np.sign(y))
    np.testing.assert_array_equal(forecast(model, X), model.predict_proba(X)[:, 1])
    assert np.corrcoef(forecast(model, X), y)[0, 1] > 0.5
    three = small(name).fit(X, pd.Series(pd.qcut(y, 3, labels=False) - 1, X.index))
    np.testing.assert_array_equal(forecast(three, X), three.predict(X).astype(float))
    for call in (lambda: model.predict_proba(X.assign(a=np.inf)), lambda: model.predict_proba(X[["a", "b"]]), lambda: small(name).predict_proba(X)):
        with pytest.raises((InputError, NotFittedError)): call()

@pytest.mark.parametrize("change, words", [(lambda up: up*0, "two classes.*class 0"), (lambda up: up*0.5, "whole numbers.*0.5"), (lambda up: up.where(up > 0), "known"),
                                           (lambda up: up.map({0: "down", 1: "up"}), "numbers")])
@pytest.mark.parametrize("name", classifiers)
def test_what_is_no_class_is_refused(name, change, words):
    X, y = panel()
    with pytest.raises(InputError, match=words): small(name).fit(X, change((y > 0).astype(int)))

@pytest.mark.parametrize("name", classifiers)
def test_labels_of_any_number_type_are_classes(name):
    X, y = panel()
    whole = small(name).fit(X, (y > 0).astype(int))
    for labels in (y > 0, (y > 0).astype("int8"), (y > 0).astype(float), (y > 0).astype("Int64")):
        model = small(name).fit(X, labels)
        np.testing.assert_array_equal(forecast(model, X), forecast(whole, X))
        assert model.predict(X).dtype.kind == "i" and list(model.classes_) == [0, 1] and np.asarray(model.classes_).dtype.kind == "i"

# constraints and losses

def test_signs_stand_in_the_order_of_the_columns():
    assert monotone_signs({"c": -1, "a": 1}, ["a", "b", "c"]) == [1, 0, -1] and monotone_signs(None, ["a"]) == monotone_signs({}, ["a"]) == [0]
    with pytest.raises(UnknownNameError, match="Did you mean momentum"): monotone_signs({"momentun": 1}, ["momentum"])

@pytest.mark.parametrize("name", boosters)
@pytest.mark.filterwarnings("error")
def test_constraints_follow_their_feature(name):
    "Under odd names and in any column, also after pickling, and on the margin's side that the forecast shows"
    X, y = panel()
    X, y = X.set_axis(["x[0],1", "b<2", 'c:"3"'], axis=1), fitting(name, y - 0.02*X.a + 0.004*X.c)
    for column, direction in ((X.columns[2], 1), (X.columns[2], -1), (X.columns[0], 1)):
        model = small(name, n_estimators=60, monotone={column: direction}).fit(X, y)
        grid = pd.concat([X.iloc[[row]*40].assign(**{column: np.linspace(-3, 3, 40)}) for row in range(20)])
        steps = np.diff(forecast(pickle.loads(pickle.dumps(model)), grid).reshape(20, 40), axis=1)
        assert (direction*steps >= -1e-9).all()
        free = np.diff(forecast(small(name, n_estimators=60).fit(X, y), grid).reshape(20, 40), axis=1)
        assert (direction*free < -1e-9).any(), "the constraint did not bind: this test shows nothing"
    assert clone(model).fit(X, y).get_params() == model.get_params() == small(name, n_estimators=60, monotone={X.columns[0]: 1}).get_params()

@pytest.mark.parametrize("name", [name for name in boosters if name in classifiers])
def test_several_classes_have_no_monotone_forecast(name):
    X, y = panel()
    three = pd.Series(np.arange(len(X)) % 3, X.index)
    for asked in ({"monotone": {"a": 1}}, {"objective": log_loss}):
        with pytest.raises(InputError, match="two classes.*3 classes"): small(name, **asked).fit(X, three)
    small(name, monotone={"a": 0}).fit(X, three)

def squared(y_true, y_pred): return y_pred - y_true, np.ones_like(y_pred)

def log_loss(y_true, score):
    chance = 1/(1 + np.exp(-score))
    return chance - y_true, chance*(1 - chance)

@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", boosters)
@pytest.mark.filterwarnings("error")
def test_a_loss_by_hand_equals_the_built_in(name, weighted):
    "Around a mean of zero, where both start from the same constant"
    X, y = panel()
    y = y - y.mean()
    half = pd.Series(np.where(y > y.median(), 1, -1), X.index)
    w = np.where(np.arange(len(X)) % 4 < 2, 1.0, 3.0) if weighted else None
    plain = {"subsample": 1.0, "colsample_bytree": 1.0} | ({"random_strength": 0.0} if "catboost" in name else {})
    if weighted: y = y - np.average(y, weights=w)
    if weighted and name in classifiers: w = w/pd.Series(w, X.index).groupby(half).transform("sum").to_numpy()*240
    target, own = (half, log_loss) if name in classifiers else (y, squared)
    by_name, by_hand = (small(name, **plain, **asked).fit(X, target, sample_weight=w) for asked in ({}, {"objective": own}))
    np.testing.assert_allclose(forecast(by_hand, X), forecast(by_name, X), atol=0.02*np.ptp(forecast(by_name, X)))
    np.testing.assert_array_equal(forecast(clone(by_hand).fit(X, target, sample_weight=w), X), forecast(by_hand, X))
    np.testing.assert_array_equal(forecast(pickle.loads(pickle.dumps(by_hand)), X), forecast(by_hand, X))
    if name in classifiers: np.testing.assert_array_equal(by_hand.predict(X), np.where(forecast(by_hand, X) > 0.5, 1, -1))

def test_weights_reach_a_loss_by_hand():
    loss = UserObjective(squared)
    np.testing.assert_array_equal(loss(np.array([1.0, 2.0]), np.zeros(2), np.array([1.0, 3.0])), ([-1.0, -6.0], [1.0, 3.0]))
    assert loss.calc_ders_range([0.0, 0.0], [1.0, 2.0], [1.0, 3.0]) == [(1.0, -1.0), (6.0, -3.0)] and loss.calc_ders_range([0.0], [1.0], None) == [(1.0, -1.0)]
    assert loss == UserObjective(squared) and deepcopy(loss) is loss

# out of fold

class Spy(BaseEstimator, RegressorMixin):
    "Remembers every row that a clone of it was trained on"
    seen = []
    def fit(self, X, y):
        assert y.notna().all()
        Spy.seen.append((X.index, y.copy()))
        self.mean_ = y.mean()
        return self
    def predict(self, X): return np.full(len(X), self.mean_)

@pytest.fixture
def spy():
    Spy.seen = []
    return Spy()

@pytest.mark.parametrize("horizon", [1, 5])
def test_nothing_unknown_or_purged_is_trained_on(spy, horizon):
    X, y = panel()
    ends = ends_of(X.index, horizon)
    y = y.where(ends.notna()).mask(np.random.default_rng(0).random(len(y)) < 0.1)
    splitter = WalkForward(4)
    found = predict_out_of_fold(spy, X, y, splitter, label_end=ends)
    tests = [X.index[test].get_level_values("timestamp").min() for _, test in WalkForward(4).split(X)]
    assert len(Spy.seen) == 4 and splitter.label_end is None and not hasattr(spy, "mean_")
    for (rows, target), first in zip(Spy.seen, tests):
        assert (ends.loc[rows] <= first).all() and (rows.get_level_values("timestamp") < first).all()
        assert rows.equals(X.index[(ends <= first).to_numpy() & y.notna().to_numpy()]) and target.equals(y.loc[rows])
    assert found.isna().sum() == (X.index.get_level_values("timestamp") < tests[0]).sum()

@pytest.mark.parametrize("name", models)
def test_out_of_fold_equals_a_loop(name):
    X, y = panel()
    ends = ends_of(X.index, 3)
    y = fitting(name, y).where(ends.notna())
    splitter = WalkForward(3, label_end=ends, embargo=2, train_size=30)
    expected = pd.Series(np.nan, X.index, name="prediction")
    for train, test in splitter.split(X):
        train = [row for row in train if not np.isnan(y.iloc[row])]
        fitted = small(name).fit(X.iloc[train], y.iloc[train])
        expected.iloc[test] = fitted.predict_proba(X.iloc[test])[:, 1] if name in classifiers else fitted.predict(X.iloc[test])
    found = predict_out_of_fold(small(name), X, y, WalkForward(3, embargo=2, train_size=30), label_end=ends)
    pd.testing.assert_series_equal(found, expected)
    assert found.iloc[-3:].notna().all()   # unlabelled rows are predicted

def test_purged_k_fold_predicts_every_row_as_a_loop_does(spy):
    X, y = panel()
    ends = ends_of(X.index, 3)
    y = y.where(ends.notna())
    found = predict_out_of_fold(Ridge(), X, y, PurgedKFold(4, embargo=1), label_end=ends)
    for train, test in PurgedKFold(4, embargo=1, label_end=ends).split(X):
        np.testing.assert_allclose(found.iloc[test], Ridge().fit(X.iloc[train], y.iloc[train]).predict(X.iloc[test]))
    assert found.notna().all()

@pytest.mark.parametrize("n_splits, n_test_splits", [(5, 1), (5, 2), (5, 4)])
def test_paths_hold_the_predictions_of_every_split(spy, n_splits, n_test_splits):
    X, y = panel()
    order = np.random.default_rng(1).permutation(len(X))
    X, y, kept = X.iloc[order], y.iloc[order].mask(np.random.default_rng(0).random(len(y)) < 0.1), X.copy()
    ends = ends_of(kept.index, 3)
    splitter = CombinatorialPurgedKFold(n_splits, n_test_splits, embargo=1)
    found = predict_paths(spy, X, y, splitter, label_end=ends)
    assert found.index.equals(X.index) and list(found) == list(range(splitter.n_paths)) and found.notna().all(axis=None)
    seen = {row: [] for row in range(len(X))}
    for number, (train, test) in enumerate(CombinatorialPurgedKFold(n_splits, n_test_splits, embargo=1, label_end=ends).split(X)):
        train = [row for row in train if not np.isnan(y.iloc[row])]
        assert Spy.seen[number][0].equals(X.index[train]) and Spy.seen[number][1].equals(y.iloc[train])
        for row in test: seen[row].append(y.iloc[train].mean())
    np.testing.assert_allclose(found, list(seen.values()))   # a row's j-th test is its prediction on path j
    assert splitter.label_end is None and not hasattr(spy, "mean_")

def test_one_path_is_purged_k_fold():
    X, y = panel()
    paths = predict_paths(Ridge(), X, y, CombinatorialPurgedKFold(5, 1, horizon=3))
    np.testing.assert_array_equal(paths[0], predict_out_of_fold(Ridge(), X, y, PurgedKFold(5, horizon=3)))

def test_what_gives_no_paths_is_refused():
    X, y = panel()
    with pytest.raises(InputError, match="CombinatorialPurgedKFold; got 'PurgedKFold'"): predict_paths(Ridge(), X, y, PurgedKFold(4))
    with pytest.raises(InputError, match="predict_paths"): predict_out_of_fold(Ridge(), X, y, CombinatorialPurgedKFold(4, 2))
    with pytest.raises(InputError, match="labelled row.*fold 0"): predict_paths(Ridge(), X, y*np.nan, CombinatorialPurgedKFold(4, 2))
    with pytest.raises(InputError, match="index of the features"): predict_paths(Ridge(), X, y.iloc[::-1], CombinatorialPurgedKFold(4, 2))

@pytest.mark.parametrize("name", models)
def test_later_labels_do_not_change_earlier_predictions(name):
    X, y = panel()
    cut = 160   # the third of four folds and what follows
    y = fitting(name, y)
    poisoned_X, poisoned_y = X.copy(), y.copy()
    poisoned_X.iloc[cut:], poisoned_y.iloc[cut:] = 1e6, 1 - y.iloc[cut:] if name in classifiers else -1e6
    splitter = WalkForward(4, horizon=2, test_size=10)
    before, after = (predict_out_of_fold(small(name), a, b, splitter).iloc[:cut] for a, b in ((X, y), (poisoned_X, poisoned_y)))
    assert before.notna().any()
    pd.testing.assert_series_equal(before, after)

def test_permuted_rows_get_the_same_predictions():
    X, y = panel()
    order = np.random.default_rng(0).permutation(len(X))
    model, splitter = make_model("ridge"), WalkForward(3, horizon=2)
    one, other = predict_out_of_fold(model, X, y, splitter), predict_out_of_fold(model, X.iloc[order], y.iloc[order], splitter)
    assert other.index.equals(X.index[order])
    np.testing.assert_allclose(other.reindex(X.index), one, rtol=1e-9)

def test_other_splitters_and_plain_estimators_work():
    X, y = panel()
    rows = X.reset_index(drop=True), y.reset_index(drop=True)
    found = predict_out_of_fold(Ridge(), *rows, TimeSeriesSplit(3))
    assert found.iloc[:60].isna().all() and found.iloc[60:].notna().all()
    assert predict_out_of_fold(DummyRegressor(), *rows, KFold(4), label_end=pd.Series(0, rows[0].index)).notna().all()

@pytest.mark.parametrize("name", models)
def test_the_same_seed_gives_the_same_predictions(name):
    X, y = panel()
    one, two = (predict_out_of_fold(small(name), X, fitting(name, y), WalkForward(3)) for _ in range(2))
    pd.testing.assert_series_equal(one, two)

@pytest.mark.parametrize("name", boosters)
def test_another_seed_or_thread_count(name):
    X, y = panel()
    found = {key: forecast(small(name, random_state=key[0], n_jobs=key[1]).fit(X, fitting(name, y)), X) for key in ((0, 1), (0, 2), (1, 1))}
    np.testing.assert_array_equal(found[0, 1], found[0, 2])
    assert not np.array_equal(found[0, 1], found[1, 1])

class Overlapping:
    def split(self, X, y=None): yield from [(np.arange(50), np.arange(50, 80)), (np.arange(50), np.arange(70, 90))]

def test_what_cannot_be_predicted_out_of_fold_is_refused():
    X, y = panel()
    model = make_model("past_mean")
    with pytest.raises(InputError, match="one fold only"): predict_out_of_fold(model, X, y, Overlapping())
    with pytest.raises(InputError, match="labelled row.*fold 0"): predict_out_of_fold(model, X, y.mask(np.arange(len(y)) < 100), WalkForward(3))
    with pytest.raises(InputError, match="index of the features"): predict_out_of_fold(model, X, y.iloc[::-1], WalkForward(3))
    with pytest.raises(InputError, match="Series"): predict_out_of_fold(model, X, y.to_numpy(), WalkForward(3))
    with pytest.raises(InputError, match="label_end|label ends"): predict_out_of_fold(model, X, y, WalkForward(3), label_end=ends_of(X.index[:40], 1))

# bad input

@pytest.mark.parametrize("name", models)
@pytest.mark.parametrize("change, words", [
    (lambda X, y: (X.to_numpy(), y), "DataFrame"), (lambda X, y: (X.iloc[:0], y.iloc[:0]), "at least one row"), (lambda X, y: (X[[]], y), "at least one row"),
    (lambda X, y: (X.set_axis(["a", "a", "c"], axis=1), y), "once"), (lambda X, y: (X.set_axis([0, 1, 2], axis=1), y), "text"),
    (lambda X, y: (X.assign(b="x"), y), r"numbers.*'b'"), (lambda X, y: (X.assign(b=-np.inf), y), r"finite.*'b'"), (lambda X, y: (X, y.mask(y > 0)), "known targets"),
    (lambda X, y: (X, y.iloc[1:]), "index of the features"), (lambda X, y: (X, y.to_numpy()), "Series"), (lambda X, y: (X, y.mask(y > 0, np.inf)), "finite|infinit")])
def test_what_cannot_be_trained_on_is_refused(name, change, words):
    X, y = panel()
    with pytest.raises(InputError, match=words): small(name).fit(*change(X, fitting(name, y).astype(float)))

@pytest.mark.parametrize("name", models)
def test_missing_features_are_allowed_and_infinite_ones_are_not(name):
    X, y = panel()
    gaps = X.where(np.random.default_rng(0).random(X.shape) > 0.3)
    model = small(name).fit(gaps, fitting(name, y))
    assert np.isfinite(model.predict(gaps)).all() and np.isfinite(model.predict(gaps*np.nan)).all()
    with pytest.raises(InputError, match="finite"): model.predict(X.assign(a=np.inf))

@pytest.mark.parametrize("name", models)
def test_columns_are_found_by_name_or_refused(name):
    X, y = panel()
    model = small(name).fit(X, fitting(name, y))
    np.testing.assert_array_equal(model.predict(X[["c", "a", "b"]]), model.predict(X))
    np.testing.assert_array_equal(model.predict(X.to_numpy()), model.predict(X))   # an array is in the order of the training
    for bad in (X[["a", "b"]], X.assign(d=0.0), X.rename(columns={"a": "z"}), X.to_numpy()[:, :2], X[["a", "a", "b"]]):
        with pytest.raises(InputError, match="3 columns it was trained on"): model.predict(bad)
    with pytest.raises(InputError, match=r"missing.*'a'.*surplus.*'z'"): same_columns(X.rename(columns={"a": "z"}), ["a", "b", "c"])

@pytest.mark.parametrize("name", models)
def test_an_unfitted_model_and_a_clone_do_not_predict(name):
    X, y = panel()
    for model in (small(name), clone(small(name).fit(X, fitting(name, y)))):
        with pytest.raises(NotFittedError): model.predict(X)

@pytest.mark.parametrize("name", models)
def test_a_fitted_model_survives_pickling(name):
    X, y = panel()
    model = small(name).fit(X, fitting(name, y))
    for copy in (pickle.loads(pickle.dumps(model)), deepcopy(model)):
        np.testing.assert_array_equal(forecast(copy, X[["c", "a", "b"]]), forecast(model, X))
        assert copy.columns_ == model.columns_ and copy.get_params().keys() == model.get_params().keys()

def test_unknown_names_come_with_near_ones():
    with pytest.raises(UnknownNameError, match="No model.*Did you mean.*lightgbm"): make_model("lihgtgbm")
    with pytest.raises(UnknownNameError, match="parameter of 'ridge'.*Did you mean alpha"): make_model("ridge", alhpa=1)
    with pytest.raises(UnknownNameError, match="Did you mean.*n_estimators"): make_model("lightgbm", n_estimator=5)
    with pytest.raises(UnknownNameError, match="parameter of 'past_mean'"): make_model("past_mean", alpha=1)
    with pytest.raises(UnknownNameError): check_model("nothing")

def test_the_catalogue_names_every_model():
    catalogue = list_models()
    assert list(catalogue.index) == list(models) and {"past_mean", "ridge", "lightgbm"} <= set(catalogue.index)
    assert catalogue[["description", "task", "family", "kind"]].notna().all(axis=None) and catalogue.parameters["ridge"] == {"alpha": 1000.0}
    assert set(catalogue.task) == {"regression", "classification"}
    for name in models:
        assert repr(make_model(name)) == repr(make_model(name, **model_parameters(name)))
        assert isinstance(make_model(name), CheckedClasses if name in classifiers else CheckedInputs) and isinstance(make_model(name), CheckedClasses) == (name in classifiers)
