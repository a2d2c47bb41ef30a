"ELI5 values against eli5 itself, against the boosters' own path contributions, and against a walk by hand; weights of every registered model."
import json
import warnings
from importlib import import_module

import catboost
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import given, settings, strategies as st
from sklearn.decomposition import PCA
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import (
    ExtraTreesClassifier, ExtraTreesRegressor, GradientBoostingClassifier, GradientBoostingRegressor, HistGradientBoostingClassifier, HistGradientBoostingRegressor,
    RandomForestClassifier, RandomForestRegressor, VotingRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import ElasticNet, LinearRegression, LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from alphaplus_ml.core import InputError
from alphaplus_ml.explain.base import explain_by, explainer_for, explainers, margin
from alphaplus_ml.explain.eli5_values import coefficient_contributions, explain_weights, follow_paths, node_means, path_contributions, weighers
from alphaplus_ml.explain.shap_values import tree_shap
from alphaplus_ml.explain.trees import trees_of
from alphaplus_ml.models import make_model
from alphaplus_ml.models.base import models

pytestmark = pytest.mark.filterwarnings("error")
rng = np.random.default_rng(5)
names = ["momentum", "volatility", "volume", "spread"]
index = pd.MultiIndex.from_product([pd.date_range("2024-01-01", periods=40, tz="UTC"), list("ABCDEFGH")], names=["timestamp", "symbol"])
X = pd.DataFrame(rng.normal(size=(320, 4)), index, names)
y = (X.momentum*X.volatility + X.volume + 0.2*pd.Series(rng.normal(size=320), index)).rename("y")
two, three = (y > 0).astype(int), pd.cut(y, 3, labels=[0, 1, 2]).astype(int)
gaps = X.mask(rng.random(X.shape) < 0.1)

gbm = {"n_estimators": 12, "num_leaves": 7, "verbose": -1, "n_jobs": 1}
xgb = {"n_estimators": 12, "max_depth": 4, "n_jobs": 1}
cat = {"iterations": 12, "silent": True, "thread_count": 1, "allow_writing_files": False}
few = {"n_estimators": 8, "random_state": 0}

as_eli5 = {
    "tree": (DecisionTreeRegressor(max_depth=4), y), "tree of medians": (DecisionTreeRegressor(max_depth=4, criterion="absolute_error"), y),
    "tree, two": (DecisionTreeClassifier(max_depth=4), two), "tree, three": (DecisionTreeClassifier(max_depth=4), three),
    "forest": (RandomForestRegressor(max_depth=5, **few), y), "forest, two": (RandomForestClassifier(max_depth=5, **few), two), "forest, three": (RandomForestClassifier(max_depth=5, **few), three),
    "extra trees": (ExtraTreesRegressor(max_depth=5, **few), y), "extra trees, two": (ExtraTreesClassifier(max_depth=5, **few), two),
    "boosting": (GradientBoostingRegressor(**few), y), "boosting, two": (GradientBoostingClassifier(**few), two),
    "LightGBM": (lightgbm.LGBMRegressor(**gbm), y), "LightGBM, two": (lightgbm.LGBMClassifier(**gbm), two), "LightGBM, three": (lightgbm.LGBMClassifier(**gbm), three),
    "LightGBM, weights": (lightgbm.LGBMRegressor(class_weight=None, subsample=0.7, subsample_freq=1, **gbm), y),
    "line": (LinearRegression(), y), "ridge": (Ridge(), y), "elastic net": (ElasticNet(alpha=0.1), y), "no intercept": (Ridge(fit_intercept=False), y),
    "logistic": (LogisticRegression(), two), "logistic, three": (LogisticRegression(), three),
}


@pytest.fixture(scope="module")
def eli5():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module("eli5")


def theirs(eli5, model, row, **options):
    "eli5's contributions to one prediction, per target, with <BIAS> last"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = eli5.explain_prediction(model, row.to_numpy(), feature_names=names, **options)
    assert found.error is None, found.error
    weights = lambda target: {one.feature: one.weight for one in target.feature_weights.pos + target.feature_weights.neg}
    return {target.target: np.array([weights(target).get(name, 0.0) for name in [*names, "<BIAS>"]]) for target in found.targets}


def ours(model, rows, label=None):
    found = explain_by(explainer_for(model, "eli5"), model, rows, label=label)
    return np.column_stack([found.values, np.broadcast_to(found.base, len(rows))])


@pytest.mark.parametrize("name", as_eli5)
def test_contributions_are_eli5s(eli5, name):
    model, target = as_eli5[name]
    rows = X.iloc[[0, 7, 100, 319]]
    model.fit(X, target)
    several = target is three
    voted = target is two and not hasattr(model, "decision_function") and "LightGBM" not in name   # eli5 shows the winner's probability
    for i in range(len(rows)):
        options = {"targets": [1]} if target is two and not voted else {}
        for label, expected in theirs(eli5, model, rows.iloc[i], **options).items():
            found = ours(model, rows.iloc[[i]], label if several or voted else None)[0]
            assert np.allclose(found, expected, rtol=0, atol=1e-9), (label, found, expected)


def test_eli5_is_wrong_by_a_constant_for_xgboost(eli5):
    model = xgboost.XGBRegressor(**xgb).fit(X.to_numpy(), y + 3)   # eli5 asks for predictions without names
    rows = X.iloc[:4]
    mine = ours(model, rows)
    found = np.array([theirs(eli5, model, rows.iloc[i])["y"] for i in range(4)])
    assert np.allclose(mine[:, :-1], found[:, :-1], atol=1e-5), "the features' contributions are right"
    apart = mine[:, -1] - found[:, -1]
    assert np.ptp(apart) < 1e-6 and abs(apart[0]) > 2, "the base score is missing from <BIAS>"
    assert np.allclose(mine.sum(axis=1), model.predict(rows), atol=1e-5) and np.abs(found.sum(axis=1) - model.predict(rows)).min() > 2


@pytest.mark.parametrize("label", [0, 1, 2])
def test_boosting_of_three_classes_is_walked_by_hand(label):
    "eli5 raises a ValueError here: it puts an array of one number into a cell"
    model, out = GradientBoostingClassifier(**few).fit(X, three), np.zeros(X.shape)
    for tree in (trees[label].tree_ for trees in model.estimators_):
        for i, row in enumerate(X.to_numpy(np.float32)):
            at = 0
            while tree.children_left[at] >= 0:
                k = tree.feature[at]
                child = (tree.children_left if row[k] <= tree.threshold[at] else tree.children_right)[at]
                out[i, k] += model.learning_rate*(tree.value[child, 0, 0] - tree.value[at, 0, 0])
                at = child
    found = path_contributions(model, X, label=label)
    assert np.allclose(found.values, out, atol=1e-12) and np.allclose(out.sum(axis=1) + found.base, model.decision_function(X)[:, label])


def test_eli5_has_nothing_for_catboost_and_we_have_its_trees(eli5):
    model = catboost.CatBoostRegressor(**cat).fit(X, y)
    assert "not supported" in eli5.explain_prediction(model, X.iloc[0].to_numpy()).error
    assert np.isfinite(path_contributions(model, X).values).all()


libraries = {"regression": (xgboost.XGBRegressor(**xgb), y, None), "two": (xgboost.XGBClassifier(**xgb), two, None), "three": (xgboost.XGBClassifier(**xgb), three, 2),
             "dart": (xgboost.XGBRegressor(booster="dart", rate_drop=0.3, **xgb), y, None), "gblinear": (xgboost.XGBRegressor(booster="gblinear", updater="coord_descent", n_jobs=1), y, None),
             "catboost": (catboost.CatBoostRegressor(**cat), y, None), "catboost, two": (catboost.CatBoostClassifier(**cat), two, None), "catboost, three": (catboost.CatBoostClassifier(**cat), three, 1)}

@pytest.mark.parametrize("name", libraries)
def test_contributions_are_the_boosters_own(name):
    model, target, label = libraries[name]
    rows = X if name == "gblinear" else gaps
    model.fit(rows, target)
    if "catboost" in name: own = model.get_feature_importance(catboost.Pool(rows), type="ShapValues", shap_calc_type="Approximate").reshape(len(rows), -1, 5)
    else: own = model.get_booster().predict(xgboost.DMatrix(rows), pred_contribs=True, approx_contribs=True, strict_shape=True)
    assert np.abs(ours(model, rows, label) - own[:, label or 0]).max() < (1e-12 if "catboost" in name else 1e-5)


def test_trees_that_ask_about_categories_are_explained_by_their_library():
    rows = X.assign(volume=(2*X.volume).round().clip(-1, 2).astype(int) + 1)
    one = xgboost.XGBRegressor(feature_types=["q", "q", "c", "q"], enable_categorical=True, **xgb).fit(rows, y)
    other = catboost.CatBoostRegressor(cat_features=["volume"], **cat).fit(rows, y)
    approximate = one.get_booster().predict(xgboost.DMatrix(rows, feature_types=["q", "q", "c", "q"], enable_categorical=True), pred_contribs=True, approx_contribs=True)
    assert np.abs(ours(one, rows) - approximate).max() < 1e-12
    pool = catboost.Pool(rows, cat_features=["volume"])
    assert np.abs(ours(other, rows) - other.get_feature_importance(pool, type="ShapValues", shap_calc_type="Approximate")).max() < 1e-12
    for model, exact in ((one, one.get_booster().predict(xgboost.DMatrix(rows, feature_types=["q", "q", "c", "q"], enable_categorical=True), pred_contribs=True)), (other, other.get_feature_importance(pool, type="ShapValues"))):
        assert "by the library" in path_contributions(model, rows).facts["route"] and np.abs(ours(model, rows) - exact).max() > 1e-3, "not the SHAP values"


@pytest.mark.parametrize("policy", ["Lossguide", "Depthwise"])
def test_catboost_that_grows_leaf_by_leaf_is_walked_by_hand(policy, tmp_path):
    model = catboost.CatBoostRegressor(grow_policy=policy, **cat).fit(X, y)
    model.save_model(str(tmp_path/"model.json"), format="json")
    def mean(node):
        if "split" not in node: return node["value"], node["weight"]
        (a, v), (b, w) = mean(node["left"]), mean(node["right"])
        return (a*v + b*w)/(v + w), v + w
    out = np.zeros(X.shape)
    for node in json.loads((tmp_path/"model.json").read_text())["trees"]:
        for i, row in enumerate(X.to_numpy(np.float32)):
            at = node
            while "split" in at:
                k = at["split"]["float_feature_index"]
                child = at["right" if row[k] > np.float32(at["split"]["border"]) else "left"]
                out[i, k] += mean(child)[0] - mean(at)[0]
                at = child
    assert np.allclose(path_contributions(model, X).values, out, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.booleans())
def test_contributions_add_up_and_unused_features_get_nothing(seed, leaves, missing):
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(rng.normal(size=(80, 3)), columns=list("abc")).mask(rng.random((80, 3)) < 0.2*missing).assign(constant=1.0)
    target = rows.a.fillna(0)*rows.b.fillna(0) + rng.normal(size=80)
    model = lightgbm.LGBMRegressor(n_estimators=5, num_leaves=leaves, min_child_samples=3, verbose=-1, n_jobs=1).fit(rows, target)
    found = path_contributions(model, rows)
    assert np.allclose(found.base + found.values.sum(axis=1), model.predict(rows)) and not found.values[:, 3].any()
    mixed = rng.permutation(80)
    assert np.array_equal(path_contributions(model, rows.iloc[mixed]).values, found.values[mixed])


def test_the_mean_of_a_part_without_rows_counts_both_sides():
    trees = trees_of(DecisionTreeRegressor(max_depth=2, random_state=0).fit(X, y))
    empty = type(trees)(**{**trees.__dict__, "cover": np.zeros(len(trees.cover))})
    inner = np.flatnonzero(trees.left >= 0)
    mean = node_means(empty)
    assert np.allclose(mean[inner], (mean[trees.left[inner]] + mean[trees.right[inner]])/2)
    values, base = follow_paths(empty, X.to_numpy())
    assert np.allclose(base + values.sum(axis=1), margin(DecisionTreeRegressor(max_depth=2, random_state=0).fit(X, y), X))


def test_they_are_not_shap_values():
    switches = pd.DataFrame(rng.integers(0, 2, (400, 2)).astype(float), columns=["one", "other"])
    for model in (DecisionTreeRegressor(max_depth=2), lightgbm.LGBMRegressor(**gbm), xgboost.XGBRegressor(**xgb), catboost.CatBoostRegressor(**cat)):
        model.fit(switches, (switches.one != switches.other) + 0.0)
        assert np.abs(path_contributions(model, switches).values - tree_shap(model, switches).values).max() > 0.1
    alone = DecisionTreeRegressor(max_depth=3).fit(X[["volume"]], y)   # of one feature there is one explanation
    assert np.allclose(path_contributions(alone, X[["volume"]]).values, tree_shap(alone, X[["volume"]]).values)


def test_a_pipeline_leads_back_to_the_columns():
    front = [SimpleImputer(add_indicator=True), StandardScaler()]
    for last in (DecisionTreeRegressor(max_depth=4), Ridge()):
        model = make_pipeline(*front, last).fit(gaps, y)
        found = explain_by(explainer_for(model, "eli5"), model, gaps)
        assert found.values.shape == gaps.shape and np.allclose(found.values.sum(axis=1) + found.base, model.predict(gaps))
    inside = model[:-1].transform(gaps)*model[-1].coef_   # an imputed value and its indicator belong to one column
    assert np.allclose(found.values, inside[:, :4] + inside[:, 4:])


def test_what_has_no_answer_says_why():
    unread = [lightgbm.LGBMRegressor(linear_tree=True, **gbm).fit(X, y), make_pipeline(PolynomialFeatures(), Ridge()).fit(X, y),
              make_pipeline(PCA(2), DecisionTreeRegressor()).fit(X, y), KNeighborsRegressor().fit(X, y), lambda rows: rows.momentum,
              VotingRegressor([("near", KNeighborsRegressor()), ("line", Ridge())]).fit(X, y)]
    for model in unread:
        found = explain_by(explainer_for(model, "eli5"), model, X)
        assert np.isnan(found.values).all() and found.values.shape == X.shape and np.isnan(found.base)
        assert found.facts["route"] == "none" and len(found.facts["reason"]) > 20
        json.dumps(found.facts)


def test_wrong_inputs_are_refused():
    tree, line = DecisionTreeRegressor(max_depth=3).fit(X, y), LogisticRegression().fit(X, three)
    for model, rows, label, says in ((tree, X[names[::-1]], None, "order"), (tree, X.drop(columns="volume"), None, "columns"), (DecisionTreeRegressor(), X, None, "fitted"),
                                     (tree, X.iloc[:0], None, "one row"), (line, X, None, "class"), (line, X, 7, "class"), (line, gaps, 1, "missing"), (tree, X.assign(volume="high"), None, "numbers")):
        with pytest.raises(InputError, match=says): explain_by(explainer_for(model, "eli5"), model, rows, label=label)


def test_averages_of_models():
    model = VotingRegressor([("trees", lightgbm.LGBMRegressor(**gbm)), ("line", Ridge()), ("mean", DummyRegressor())], weights=[1, 2, 3]).fit(X, y)
    found = explain_by(explainer_for(model, "eli5"), model, X)
    trees, line, mean = model.estimators_
    assert np.allclose(found.values, (path_contributions(trees, X).values + 2*coefficient_contributions(line, X).values)/6)
    assert np.allclose(found.values.sum(axis=1) + found.base, model.predict(X))


@pytest.mark.parametrize("name", [name for name in explainers if explainers.facts(name)["method"] == "eli5"])
def test_every_explainer_keeps_the_contract(name):
    made = {"paths": DecisionTreeRegressor(max_depth=3), "coefficients": Ridge(), "constant value": DummyRegressor(), "no contributions": KNeighborsRegressor(),
            "weighted contributions": VotingRegressor([("line", Ridge()), ("tree", DecisionTreeRegressor(max_depth=2))])}
    model, before = made[name].fit(X, y), X.copy()
    assert explainer_for(model, "eli5") == name
    found = explainers[name](model, X, X.iloc[:10])
    assert found.values.shape == X.shape and isinstance(found.facts["route"], str) and X.equals(before)
    assert "reason" in found.facts or found.facts["additivity_error"] < 1e-9


weighed = {**{name: case for name, case in as_eli5.items() if "LightGBM" in name or case[1] is not three},
           "catboost": (catboost.CatBoostRegressor(**cat), y), "xgboost": (xgboost.XGBRegressor(**xgb), y), "xgboost, two": (xgboost.XGBClassifier(**xgb), two)}

@pytest.mark.parametrize("name", weighed)
def test_weights_are_eli5s(eli5, name):
    model, target = weighed[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = eli5.explain_weights(model.fit(X, target), feature_names=names, top=None)
    assert expected.error is None
    if expected.feature_importances: listed = [(one.feature, one.weight, np.nan if one.std is None else one.std) for one in expected.feature_importances.importances]
    else: listed = [(one.feature, one.weight, np.nan) for one in expected.targets[0].feature_weights.pos + expected.targets[0].feature_weights.neg]
    table = pd.DataFrame(listed, columns=["feature", "weight", "std"]).set_index("feature")
    mine = explain_weights(model)
    assert set(table.index) <= set(mine.index) and (mine.weight.abs().diff().dropna() <= 0).all()
    assert np.allclose(mine.weight.reindex(table.index), table.weight, atol=1e-6 if "boost" in name else 1e-12)
    assert np.allclose(mine["std"].reindex(table.index), table["std"], equal_nan=True) and not mine.weight.drop(table.index).any()
    assert "as eli5" in mine.attrs["route"]


def test_weights_of_several_classes_and_of_histograms():
    line = LogisticRegression().fit(X, three)
    assert np.allclose(explain_weights(line, 2).weight[names], line.coef_[2]) and explain_weights(line, 2).weight["<BIAS>"] == line.intercept_[2]
    with pytest.raises(InputError, match="class"): explain_weights(line)
    histogram = explain_weights(HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(X, three))
    assert np.isclose(histogram.weight.sum(), 1) and "no rule" in histogram.attrs["route"]
    stub = explain_weights(lightgbm.LGBMRegressor(**{**gbm, "min_child_samples": 1000}).fit(X, y))
    assert not stub.weight.any() and len(stub) == 4
    assert explain_weights(HistGradientBoostingRegressor(max_iter=5).fit(X, y)).index[0] in ("momentum", "volatility", "volume")


@pytest.mark.parametrize("name", list(models))
def test_every_registered_model_is_explained_and_weighed(name):
    classes = models.facts(name)["task"] == "classification"
    if models.facts(name)["kind"] != "tabular": pytest.skip("takes windows, not rows")
    model = make_model(name, **({"n_estimators": 10, "n_jobs": 1} if models.facts(name)["family"] == "boosting" else {})).fit(gaps, two if classes else y)
    found = explain_by(explainer_for(model, "eli5"), model, gaps)
    assert np.isfinite(found.values).all() and np.allclose(found.values.sum(axis=1) + found.base, margin(model, gaps), atol=1e-6)
    table = explain_weights(model)
    assert set(names) <= set(table.index) and np.isfinite(table.weight).all() and {"weight", "route"} <= set(table.attrs)


def test_weights_that_do_not_exist_are_refused():
    for model, says in ((KNeighborsRegressor().fit(X, y), "permutation_importance"), (Ridge(), "fitted"), (lambda rows: rows, "read from"),
                        (xgboost.XGBRegressor(booster="gblinear", updater="coord_descent", n_jobs=1).fit(X, y), "coef_")):
        with pytest.raises(InputError, match=says): explain_weights(model)
    assert all({"classes", "weight", "route"} <= set(weighers.facts(name)) for name in weighers)
