"Explanations against independent oracles: Shapley values by brute force, shap itself, the models' own predictions"
import itertools
import json
import math
import os
import subprocess
import sys
import warnings

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost as xgb
from catboost import Pool
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import (ExtraTreesRegressor, GradientBoostingClassifier, GradientBoostingRegressor, HistGradientBoostingClassifier,
                              HistGradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor, VotingRegressor)
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler, StandardScaler
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeRegressor

from alphaplus_ml.core import InputError, MemoryRecorder, Result
from alphaplus_ml.explain.explain import ModelInterpretabilityConfig, explain_model_prediction
from alphaplus_ml.explain.base import AdditivityError, additivity_error, check_additivity, explainer_for, explainers, margin, methods, model_frame
from alphaplus_ml.explain.shap_values import linear_shap, load_shap, tree_shap
from alphaplus_ml.models.base import forecast, make_model

names = ["a", "b", "c", "d"]


def table(n=200, f=4, seed=0, missing=0.0):
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n, f)), columns=names[:f])
    y = X.iloc[:, 0] + X.iloc[:, min(1, f - 1)] * X.iloc[:, -1] + 0.1 * rng.normal(size=n)
    return X.where(rng.random(X.shape) >= missing), y


def boosted(X, y, **parameters):
    return lightgbm.LGBMRegressor(**{"n_estimators": 4, "num_leaves": 6, "min_child_samples": 5, "verbose": -1, "n_jobs": 1, **parameters}).fit(X, y)


# --- oracles, from the definitions ---

def shapley(value, f):
    "Shapley values of a set function by summing over every subset of the other players"
    phi = np.zeros(f)
    for i in range(f):
        others = [j for j in range(f) if j != i]
        for size in range(f):
            weight = math.factorial(size) * math.factorial(f - size - 1) / math.factorial(f)
            for subset in itertools.combinations(others, size):
                phi[i] += weight * (value(set(subset) | {i}) - value(set(subset)))
    return phi


def descend(node, row, known):
    "Expected output of a dumped LightGBM tree when only the known features may be asked (path-dependent)"
    if "leaf_value" in node: return node["leaf_value"]
    count = lambda child: child.get("internal_count", child.get("leaf_count"))
    left, right = node["left_child"], node["right_child"]
    if node["split_feature"] in known:
        x = row[node["split_feature"]]
        if np.isnan(x) and node["missing_type"] != "NaN": x = 0.0
        goes_left = node["default_left"] if np.isnan(x) else x <= node["threshold"]
        return descend(left if goes_left else right, row, known)
    return (count(left) * descend(left, row, known) + count(right) * descend(right, row, known)) / (count(left) + count(right))


def descend_sklearn(tree, row, known, node=0):
    "The same for a scikit-learn tree"
    if tree.children_left[node] < 0: return tree.value[node].ravel()[0]
    left, right, j = tree.children_left[node], tree.children_right[node], tree.feature[node]
    if j in known: return descend_sklearn(tree, row, known, left if np.float32(row[j]) <= tree.threshold[node] else right)
    w = tree.weighted_n_node_samples
    return (w[left] * descend_sklearn(tree, row, known, left) + w[right] * descend_sklearn(tree, row, known, right)) / (w[left] + w[right])


def interventional(predict, X, background):
    "Interventional SHAP values: unknown features come from the background rows, one after another"
    def one(row):
        def value(known):
            mixed = background.copy()
            for j in known: mixed[:, j] = row[j]
            return predict(mixed).mean()
        return shapley(value, len(row))
    return np.array([one(row) for row in X])


# --- trees ---

@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_path_dependent_values_equal_brute_force(missing):
    X, y = table(missing=missing)
    model = boosted(X, y)
    trees = [tree["tree_structure"] for tree in model.booster_.dump_model()["tree_info"]]
    rows = table(missing=0.2, seed=1)[0].head(6)    # NaN at prediction also where training had none
    expected = [shapley(lambda known: sum(descend(tree, row, known) for tree in trees), 4) for row in rows.to_numpy()]
    values, base = tree_shap(model, rows)
    np.testing.assert_allclose(values, expected, atol=1e-12)
    assert base == pytest.approx(sum(descend(tree, rows.iloc[0].to_numpy(), set()) for tree in trees), abs=1e-12)


def test_path_dependent_values_of_scikit_learn_equal_brute_force():
    X, y = table()
    model = DecisionTreeRegressor(max_depth=4, random_state=0).fit(X, y)
    expected = [shapley(lambda known: descend_sklearn(model.tree_, row, known), 4) for row in X.head(6).to_numpy()]
    np.testing.assert_allclose(tree_shap(model, X.head(6))[0], expected, atol=1e-7)


@pytest.mark.parametrize("options", [{}, {"zero_as_missing": True}, {"boosting_type": "rf", "bagging_fraction": 0.6, "bagging_freq": 1}, {"boosting_type": "dart"}],
                         ids=["plain", "zero as missing", "forest", "dart"])
@pytest.mark.parametrize("n_background", [1, 30, 150])
def test_interventional_values_equal_brute_force(options, n_background):
    X, y = table()
    if "zero_as_missing" in options: X = X.where(X > -1, 0.0)
    model, rows = boosted(X, y, **options), X.head(4).where(np.eye(4) == 0)
    expected = interventional(lambda x: model.predict(pd.DataFrame(x, columns=names)), rows.to_numpy(), X.tail(n_background).to_numpy())
    values, base = tree_shap(model, rows, background=X.tail(n_background))
    np.testing.assert_allclose(values, expected, atol=1e-12)
    assert base == pytest.approx(model.predict(X.tail(n_background)).mean(), abs=1e-12)


def test_background_is_used_whole():
    X, y = table(n=600)
    model = boosted(X, y)
    assert tree_shap(model, X.head(3), background=X)[1] == pytest.approx(model.predict(X).mean(), abs=1e-12)


def test_path_dependent_values_are_those_of_lightgbm_and_shap():
    X, y = table(missing=0.1)
    model = boosted(X, y, n_estimators=30)
    explainer = load_shap().TreeExplainer(model)
    values, base = tree_shap(model, X)
    np.testing.assert_allclose(values, explainer.shap_values(X), rtol=0, atol=1e-13)
    assert base == pytest.approx(explainer.expected_value, abs=1e-13)


def test_interactions_sum_to_the_values_and_are_symmetric():
    X, y = table(missing=0.1)
    model = boosted(X, y)
    rows = table(missing=0.3, seed=2)[0].head(10)
    pairs, base = tree_shap(model, rows, interactions=True)
    values, _ = tree_shap(model, rows)
    assert pairs.shape == (10, 4, 4)
    np.testing.assert_allclose(pairs.sum(axis=2), values, atol=1e-12)
    np.testing.assert_allclose(pairs, pairs.transpose(0, 2, 1), atol=1e-12)


sklearn_trees = [DecisionTreeRegressor(max_depth=4), RandomForestRegressor(n_estimators=5, random_state=0), ExtraTreesRegressor(n_estimators=5, random_state=0),
                 GradientBoostingRegressor(n_estimators=5), HistGradientBoostingRegressor(max_iter=5), RandomForestClassifier(n_estimators=5, random_state=0),
                 GradientBoostingClassifier(n_estimators=5), HistGradientBoostingClassifier(max_iter=5)]


@pytest.mark.parametrize("model", sklearn_trees, ids=lambda model: type(model).__name__)
@pytest.mark.parametrize("against", [False, True], ids=["path-dependent", "interventional"])
@pytest.mark.filterwarnings("error")
def test_scikit_learn_trees_add_up(model, against):
    X, y = table()
    model.fit(X, y > 0 if hasattr(model, "predict_proba") else y)
    background = X.tail(120) if against else None
    values, base = tree_shap(model, X.head(20), background=background)
    assert values.shape == (20, 4)
    assert additivity_error(values, base, margin(model, X.head(20))) < 1e-6
    if against: assert base == pytest.approx(margin(model, background).mean(), abs=1e-6)


def test_boosted_classifier_is_explained_on_its_log_odds():
    X, y = table()
    model = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1).fit(X, y > 0)
    values, base = tree_shap(model, X)
    np.testing.assert_allclose(1 / (1 + np.exp(-values.sum(axis=1) - base)), model.predict_proba(X)[:, 1], atol=1e-12)


def test_early_stopping_explains_the_trees_that_predict():
    X, y = table()
    booster = boosted(X, y, n_estimators=30).booster_
    everything = booster.predict(X)
    booster.best_iteration = 5      # what early stopping leaves behind
    assert np.abs(booster.predict(X) - everything).max() > 0.01
    for background in (None, X.head(10)): assert additivity_error(*tree_shap(booster, X, background), booster.predict(X)) < 1e-6


def test_a_constant_tree_and_a_booster_and_an_array():
    X, y = table()
    values, base = tree_shap(boosted(X, y * 0 + 3), X)
    assert not values.any() and base == pytest.approx(3)
    model = boosted(X, y)
    for same in (model.booster_, model): np.testing.assert_array_equal(tree_shap(same, X.to_numpy())[0], tree_shap(model, X)[0])
    unnamed = boosted(X.to_numpy(), y)
    np.testing.assert_array_equal(tree_shap(unnamed, X)[0], tree_shap(model, X)[0])
    spaced = X.rename(columns={"a": "a b"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # LightGBM says that it replaces the space
        np.testing.assert_array_equal(tree_shap(boosted(spaced, y), spaced)[0], tree_shap(model, X)[0])


def test_categorical_splits_are_exact():
    X, y = table(n=400)
    X["d"] = np.arange(len(X)) % 7
    model = lightgbm.LGBMRegressor(n_estimators=5, min_child_samples=5, min_data_per_group=5, verbose=-1, n_jobs=1).fit(X, y + 2 * X.d.isin([1, 4]), categorical_feature=["d"])
    X.loc[:20, "d"] = np.nan
    np.testing.assert_allclose(tree_shap(model, X).values, model.predict(X, pred_contrib=True)[:, :-1], rtol=0, atol=1e-13)
    rows, background = X.iloc[18:22], X.tail(9)
    expected = interventional(lambda x: model.predict(pd.DataFrame(x, columns=names)), rows.to_numpy(), background.to_numpy())
    np.testing.assert_allclose(tree_shap(model, rows, background=background).values, expected, rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="numerical splits"): tree_shap(model, X, interactions=True)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10_000), f=st.integers(1, 4), leaves=st.integers(2, 20), trees=st.integers(1, 8), missing=st.sampled_from([0.0, 0.3]),
       scale=st.sampled_from([1e-6, 1.0, 1e6]), shift=st.sampled_from([0.0, 100.0]), against=st.booleans())
def test_values_add_up_whatever_the_model(seed, f, leaves, trees, missing, scale, shift, against):
    X, y = table(80, f, seed, missing)
    y = scale * (y.fillna(0) + shift)
    model = boosted(X, y, num_leaves=leaves, n_estimators=trees, min_child_samples=2)
    background = table(7, f, seed + 1, 0.3)[0] if against else None
    values, base = tree_shap(model, X, background)
    bound = 1e-11 * scale * (shift + 10)
    assert additivity_error(values, base, model.predict(X)) <= bound
    unused = np.flatnonzero(model.feature_importances_ == 0)
    assert not np.abs(values[:, unused]).any()


@pytest.mark.parametrize("wrong, error", [(1e-3, AdditivityError), (np.nan, InputError)])
def test_values_that_do_not_add_up_are_an_error(monkeypatch, wrong, error):
    X, y = table()
    model = boosted(X, y)
    honest = lightgbm.LGBMRegressor.predict
    def off(self, X, **options): return honest(self, X, **options) + (wrong if len(X) > 1 else 0)
    monkeypatch.setattr(lightgbm.LGBMRegressor, "predict", off)
    with pytest.raises(error): tree_shap(model, X)
    recorder = MemoryRecorder()
    with pytest.raises(error): explain_model_prediction(model, X, recorder=recorder)
    assert not recorder.tables


def test_tolerance_is_relative_to_the_size_of_the_margin():
    values = np.array([[1e-5, 2e-5]])
    with pytest.raises(AdditivityError): check_additivity(values, 0.0, np.array([3.001e-5]))
    assert check_additivity(values * 1e9, 0.0, np.array([3e4 + 1e-3])) == pytest.approx(1e-3, rel=1e-3)


# --- linear models and constants ---

@pytest.mark.parametrize("model", [Ridge(), LinearRegression(), Ridge(fit_intercept=False)], ids=repr)
def test_linear_values_equal_shap(model):
    X, y = table()
    model.fit(X, y)
    shap = load_shap()
    expected = shap.LinearExplainer(model, shap.maskers.Independent(X, max_samples=len(X)))
    values, base = linear_shap(model, X, background=X)
    np.testing.assert_allclose(values, expected.shap_values(X), atol=1e-10)
    assert base == pytest.approx(float(expected.expected_value))


@pytest.mark.parametrize("indicator", [False, True])
@pytest.mark.parametrize("against", [False, True])
def test_pipeline_values_equal_brute_force(indicator, against):
    X, y = table(missing=0.2)
    model = make_pipeline(SimpleImputer(add_indicator=indicator), StandardScaler(), Ridge()).fit(X, y.fillna(0))
    background = X.sample(50, random_state=0) if against else X
    expected = interventional(lambda x: model.predict(pd.DataFrame(x, columns=names)), X.head(8).to_numpy(), background.to_numpy())
    values, base = linear_shap(model, X.head(8), background if against else None)
    np.testing.assert_allclose(values, expected, atol=1e-10)
    assert base == pytest.approx(model.predict(background).mean())


@pytest.mark.filterwarnings("ignore:Skipping features")
def test_a_column_that_the_imputer_drops_gets_zero():
    X, y = table(missing=0.1)
    X["b"] = np.nan
    model = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler(), Ridge()).fit(X, y.fillna(0))
    values, base = linear_shap(model, X)
    assert model[0].transform(X).shape[1] == 7 and not values[:, 1].any()


def test_logistic_regression_is_explained_on_its_log_odds():
    X, y = table()
    model = LogisticRegression().fit(X, y > 0)
    assert additivity_error(*linear_shap(model, X, background=X), model.decision_function(X)) < 1e-12


def test_linear_refusals():
    X, y = table()
    with pytest.raises(InputError, match="background=X_train"): linear_shap(Ridge().fit(X, y), X)
    with pytest.raises(InputError, match="background=X_train"): linear_shap(make_pipeline(RobustScaler(), Ridge()).fit(X, y), X)
    with pytest.raises(InputError, match="KNNImputer"): linear_shap(make_pipeline(KNNImputer(), StandardScaler(), Ridge()).fit(X, y), X)
    with pytest.raises(InputError, match="linear models"): linear_shap(boosted(X, y), X)
    two = Ridge().fit(X, np.c_[y, X.a])
    with pytest.raises(InputError, match="Of several margins"): linear_shap(two, X, background=X)
    np.testing.assert_allclose(linear_shap(two, X, X, label=1).values[:, 0], (X.a - X.a.mean())*two.coef_[1, 0])


# --- the family: every registered explainer, and the project's own models ---

specimens = {"tree": lambda X, y: boosted(X, y), "linear": lambda X, y: make_pipeline(SimpleImputer(), StandardScaler(), Ridge()).fit(X, y),
             "constant": lambda X, y: DummyRegressor().fit(X, y), "permutation": lambda X, y: SVR().fit(X, y),
             "weighted": lambda X, y: VotingRegressor([("booster", xgb.XGBRegressor(n_estimators=10, max_depth=3, n_jobs=1)), ("tree", DecisionTreeRegressor(max_depth=3))], weights=[2, 1]).fit(X, y)}


@pytest.mark.parametrize("name", [name for name in explainers if explainers.facts(name)["method"] == "shap" and name != "gradients"])   # test_networks has a network
def test_explainer_contract(name):
    facts = explainers.facts(name)
    assert facts["method"] and facts["kinds"] and all("." in path for path in facts["classes"] or ())
    X, y = table()
    model = specimens[name](X, y)
    before = X.copy()
    assert explainer_for(model, facts["method"]) == name
    for background in (None, X.head(5)):
        if background is None and facts["classes"] is None:
            with pytest.raises(InputError, match="Hand over background"): explainers[name](model, X, background)
            continue
        found = explainers[name](model, X, background)
        values, base = found
        assert found.facts["route"] and found.facts["additivity_error"] < 1e-6
        assert np.shape(values) == X.shape and isinstance(base, float) and np.isfinite(values).all()
        assert additivity_error(values, base, margin(model, X)) < 1e-6
    pd.testing.assert_frame_equal(X, before)


def panel(n=40, seed=0):
    days = pd.date_range("2018-01-30", periods=n, tz="UTC", name="timestamp")
    index = pd.MultiIndex.from_product([days, ["nasdaq", "sp500"]], names=["timestamp", "symbol"])
    X, y = table(2 * n, seed=seed, missing=0.1)
    return X.set_index(index), y.fillna(0).set_axis(index)


@pytest.mark.parametrize("name", ["xgboost", "catboost", "xgboost_classifier", "catboost_classifier"])
@pytest.mark.filterwarnings("error")
def test_other_boosters_add_up(name):
    X, y = table(300, missing=0.1)
    X = X.set_axis([f"rank[{column}]<1" for column in X], axis=1)
    y = (y > 0).astype(int) if name.endswith("classifier") else y.fillna(0)
    model = make_model(name, n_estimators=8, **({"depth": 2} if "catboost" in name else {"max_depth": 2, "min_child_weight": 5.0})).fit(X, y)
    values, base = tree_shap(model, X)
    scale = np.abs(values).max()
    np.testing.assert_allclose(values.sum(axis=1) + base, margin(model, X), atol=1e-5*scale)
    if name.endswith("classifier"): np.testing.assert_allclose(1/(1 + np.exp(-margin(model, X))), forecast(model, X), rtol=1e-5)
    if "xgboost" in name:   # another program's reading of the same trees
        theirs = load_shap().TreeExplainer(model.get_booster()).shap_values(X.to_numpy(), check_additivity=False)
        np.testing.assert_allclose(values, theirs, atol=1e-4*scale)
    explanation = explain_model_prediction(model, X)
    assert explanation.explainers["shap"] == "tree" and list(explanation.values["shap"]) == list(X)
    three = make_model(name).fit(X, pd.Series(np.arange(len(X)) % 3, X.index)) if name.endswith("classifier") else None
    if three is not None:
        with pytest.raises(InputError, match="Of several margins"): tree_shap(three, X)
        found = [tree_shap(three, X, label=label).values for label in range(3)]
        library = three.get_booster().predict(xgb.DMatrix(X.set_axis(three.get_booster().feature_names, axis=1)), pred_contribs=True)[..., :-1].transpose(1, 0, 2) if "xgboost" in name else \
            three.get_feature_importance(Pool(X), type="ShapValues")[..., :-1].transpose(1, 0, 2)
        np.testing.assert_allclose(found, library, atol=1e-6)


@pytest.mark.parametrize("name", ["past_mean", "ridge", "lightgbm"])
@pytest.mark.filterwarnings("error")
def test_project_models(name):
    X, y = panel(200)
    model = make_model(name).fit(X, y)
    explanation = explain_model_prediction(model, X)
    assert isinstance(explanation, Result)
    np.testing.assert_allclose(explanation.values["shap"].sum(axis=1) + explanation.base_value, model.predict(X), atol=1e-10)
    against = explain_model_prediction(model, X.tail(9), background=X.head(120))
    assert against.base_value == pytest.approx(model.predict(X.head(120)).mean())
    if name == "lightgbm": np.testing.assert_allclose(tree_shap(model, X.tail(9), interactions=True)[0].sum(axis=2), explanation.values["shap"].tail(9), atol=1e-12)
    if name == "past_mean": assert not explanation.values["shap"].to_numpy().any() and explanation.base_value == pytest.approx(y.mean())


# --- the explanation and its rows ---

@pytest.fixture(scope="module")
def explained():
    X, y = panel()
    model, recorder = boosted(X, y), CountingRecorder()
    config = ModelInterpretabilityConfig(n_samples=30, model_name="m", model_version="7", seed=3)
    return model, X, explain_model_prediction(model, X, config, recorder=recorder), recorder


class CountingRecorder(MemoryRecorder):
    def __init__(self): super().__init__(); self.calls = 0
    def append(self, table, rows): self.calls += 1; return super().append(table, rows)


columns = ["model_name", "model_version", "prediction_id", "feature_name", "feature_value", "shap_value", "lime_value", "eli5_value",
           "feature_importance_rank", "interpretation_type", "sample_id", "metadata"]


def test_rows_are_complete_and_written_in_one_call(explained):
    model, X, explanation, recorder = explained
    rows = explanation.rows()
    assert recorder.calls == 1 and recorder.tables["model_interpretability"] == rows and len(rows) == 30 * 4 + 4
    assert all(list(row) == columns for row in rows)
    types = {"model_name": str, "model_version": str, "prediction_id": str, "feature_name": str, "feature_value": (float, type(None)), "shap_value": float,
             "lime_value": type(None), "eli5_value": type(None), "feature_importance_rank": int, "interpretation_type": str, "sample_id": (str, type(None)), "metadata": dict}
    assert all(type(row[c]) in (kind if isinstance(kind, tuple) else (kind,)) for row in rows for c, kind in types.items())
    json.dumps(rows, allow_nan=False)


def test_local_rows_lead_back_to_their_sample(explained):
    model, X, explanation, _ = explained
    local = [row for row in explanation.rows() if row["interpretation_type"] == "local"]
    assert len({row["prediction_id"] for row in local}) == 30 and len({(row["prediction_id"], row["feature_name"]) for row in local}) == 120
    for row in local:
        time, symbol = row["sample_id"].split("|")
        original = X.loc[(pd.Timestamp(time), symbol), row["feature_name"]]
        assert row["feature_value"] == original or (row["feature_value"] is None and np.isnan(original))
        assert row["metadata"]["prediction"] == pytest.approx(model.predict(X.loc[[(pd.Timestamp(time), symbol)]])[0])
        assert row["metadata"]["explainer"] == {"shap": "tree"} and row["metadata"]["additivity_error"] <= explanation.additivity_error
    first = [row for row in local if row["prediction_id"] == local[0]["prediction_id"]]
    assert sum(row["shap_value"] for row in first) + first[0]["metadata"]["base_value"] == pytest.approx(first[0]["metadata"]["prediction"])
    assert local[0]["sample_id"].startswith("2018-") and "T00:00:00+00:00|" in local[0]["sample_id"]


def test_ranks_order_absolute_values_within_each_prediction(explained):
    frame = explained[2].to_frame()
    assert list(frame.columns) == columns and len(frame) == 120
    for _, one in frame.groupby("prediction_id"):
        ordered = one.sort_values("feature_importance_rank")
        assert ordered.feature_importance_rank.tolist() == [1, 2, 3, 4] and ordered.shap_value.abs().is_monotonic_decreasing


def test_global_rows_are_the_mean_absolute_values(explained):
    _, _, explanation, _ = explained
    rows = {row["feature_name"]: row for row in explanation.rows() if row["interpretation_type"] == "global"}
    means = explanation.values["shap"].abs().mean()
    assert {name: row["shap_value"] for name, row in rows.items()} == pytest.approx(means.to_dict())
    assert [rows[name]["feature_importance_rank"] for name in explanation.importance().index] == [1, 2, 3, 4]
    assert all(row["prediction_id"] == explanation.explanation_id and row["sample_id"] is None for row in rows.values())


def test_samples_are_seeded_sorted_and_ids_unique(explained):
    model, X, explanation, _ = explained
    take = lambda **fields: explain_model_prediction(model, X, ModelInterpretabilityConfig(**fields))
    again = take(n_samples=30, seed=3)
    assert again.features.equals(explanation.features) and again.features.index.is_monotonic_increasing and again.features.index.is_unique
    assert again.explanation_id != explanation.explanation_id
    assert not take(n_samples=30, seed=4).features.equals(again.features)
    assert len(take(n_samples=1000).features) == len(X)


def test_background_of_the_config_and_of_the_call(explained):
    model, X, _, _ = explained
    by_config = explain_model_prediction(model, X, ModelInterpretabilityConfig(background=X.head(9)))
    by_call = explain_model_prediction(model, X, ModelInterpretabilityConfig(background=X.tail(20)), background=X.head(9))
    pd.testing.assert_frame_equal(by_config.values["shap"], by_call.values["shap"])
    assert by_call.background_rows == 9 and by_call.rows()[0]["metadata"]["background_rows"] == 9
    assert by_call.base_value == pytest.approx(model.predict(X.head(9)).mean())


# --- plots ---

@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n, f", [(1, 1), (1, 4), (2, 2), (30, 4)])
def test_plots_return_closed_figures_and_leave_the_process_as_it_was(n, f):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    X, y = table(100, f)
    X["nothing"], X["same"] = np.nan, 1.0
    explanation = explain_model_prediction(boosted(X, 1e-3 * y), X.head(n))
    plt.ion()
    state, opened = np.random.get_state(), plt.get_fignums()
    for figure in (explanation.beeswarm(), explanation.bar(), explanation.waterfall(0), explanation.waterfall(X.index[n - 1], max_display=2)):
        assert isinstance(figure, matplotlib.figure.Figure)
        figure.canvas.draw()
        assert max(len(ax.patches) + len(ax.collections) + len(ax.lines) for ax in figure.axes) > 0
    assert plt.get_fignums() == opened and plt.isinteractive()
    assert all(np.array_equal(a, b) for a, b in zip(state, np.random.get_state()))
    plt.ioff()


# --- what is refused ---

def refusals():
    X, y = panel()
    model = boosted(X, y)
    call = explain_model_prediction
    config = ModelInterpretabilityConfig
    return {
        "unknown method": (lambda: config(methods=("limee",)), "No method of explanation.*mean lime"),
        "no method": (lambda: config(methods=()), "at least 1"),
        "no samples": (lambda: config(n_samples=0), "n_samples"),
        "unknown field": (lambda: config(n_sample=3), "n_sample"),
        "background is no frame": (lambda: config(background=[1, 2]), "background"),
        "unfitted booster": (lambda: call(lightgbm.LGBMRegressor(), X), "is fitted"),
        "unfitted pipeline": (lambda: call(make_pipeline(StandardScaler(), Ridge()), X), "is fitted"),
        "unfitted project model": (lambda: call(make_model("lightgbm"), X), "is fitted"),
        "other order": (lambda: call(model, X[names[::-1]]), "order"),
        "another column": (lambda: call(model, X.rename(columns={"a": "z"})), "columns that the model was fitted on"),
        "a column less": (lambda: call(model, X[names[:3]]), "columns that the model was fitted on"),
        "a column twice": (lambda: call(model, X[["a", "a", "b", "c"]]), "once"),
        "text": (lambda: call(model, X.assign(a="high")), "numbers"),
        "infinite": (lambda: call(model, X.assign(a=np.inf)), "finite"),
        "zero rows": (lambda: call(model, X.head(0)), "at least one row"),
        "an array": (lambda: call(model, X.to_numpy()), "DataFrame"),
        "a file name": (lambda: call(model, "X.csv"), "DataFrame"),
        "nothing": (lambda: call(model, None), "DataFrame"),
        "no background for a model that only answers": (lambda: call(SVR().fit(X.fillna(0), y), X.fillna(0)), "Hand over background"),
        "no model": (lambda: call(None, X), "LightGBM.*linear.*constant"),
        "background without rows": (lambda: call(model, X, background=X.head(0)), "at least one row"),
        "background of other columns": (lambda: call(model, X, background=X[["a"]]), "columns that the model was fitted on"),
        "interactions against a background": (lambda: tree_shap(model, X, X, interactions=True), "path-dependent"),
        "NaN without a rule": (lambda: linear_shap(Ridge().fit(X.fillna(0), y), X, background=X.fillna(0)), "no missing values"),
        "a pipeline that mixes columns": (lambda: call(make_pipeline(PCA(), DecisionTreeRegressor()).fit(X.fillna(0), y), X.fillna(0)), "column by column"),
        "a tree of another kind": (lambda: tree_shap(Ridge().fit(X.fillna(0), y), X.fillna(0)), "explains a tree model"),
        "a row that is not there": (lambda: call(model, X).waterfall(1000), "position below 80"),
    }


@pytest.mark.parametrize("case", list(refusals()))
@pytest.mark.filterwarnings("error")
def test_refusals_are_input_errors(case):
    call, message = refusals()[case]
    with pytest.raises(InputError, match=f"(?s){message}"): call()


@pytest.mark.filterwarnings("error")
def test_a_model_fitted_on_an_array_takes_a_frame_in_silence():
    X, y = table()
    for model in (Ridge(), DecisionTreeRegressor(max_depth=3), boosted(X.to_numpy(), y)):
        explanation = explain_model_prediction(model.fit(X.to_numpy(), y), X, background=X)
        assert list(explanation.values["shap"].columns) == names
        np.testing.assert_allclose(explanation.values["shap"].sum(axis=1) + explanation.base_value, explanation.prediction, atol=1e-6)
    with pytest.raises(InputError, match="4 columns"): explain_model_prediction(model, X[["a"]])


def test_of_three_classes_one_is_named():
    X, y = table()
    model = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1, n_jobs=1).fit(X, pd.qcut(y, 3, labels=False))
    with pytest.raises(InputError, match="Name one of"): tree_shap(model, X)
    with pytest.raises(InputError, match="Name one of"): tree_shap(model, X, label=3)
    theirs = model.predict(X, pred_contrib=True).reshape(len(X), 3, 5)
    for label in range(3): np.testing.assert_allclose(tree_shap(model, X, label=label).values, theirs[:, label, :-1], rtol=0, atol=1e-13)


def test_native_values_need_no_shap():
    program = """
import sys, numpy as np, pandas as pd
from alphaplus_ml.explain.explain import explain_model_prediction
assert not {"shap", "lightgbm", "matplotlib"} & set(sys.modules), "heavy packages load with the module"
import lightgbm
X = pd.DataFrame(np.random.default_rng(0).normal(size=(100, 2)), columns=["a", "b"])
explain_model_prediction(lightgbm.LGBMRegressor(n_estimators=2, verbose=-1, n_jobs=1).fit(X, X.a), X)
assert "shap" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
