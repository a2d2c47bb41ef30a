"Explanations as a reviewer would try to break them: odd columns, types, indexes, scales, models that were saved or built in strange ways, recorders that fail, and sums rebuilt in SQL"
import json
import pickle
import threading
import warnings
from itertools import combinations
from math import factorial

import catboost
import lightgbm
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa
import xgboost
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestRegressor, VotingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from alphaplus_ml.config import Settings
from alphaplus_ml.core import InputError, MemoryRecorder
from alphaplus_ml.explain.base import AdditivityError, check_additivity, margin, model_frame
from alphaplus_ml.explain.eli5_values import path_contributions
from alphaplus_ml.explain.explain import ModelInterpretabilityConfig, explain_model_prediction
from alphaplus_ml.explain.lime_values import lime_values
from alphaplus_ml.explain.permutation import permutation_importance
from alphaplus_ml.explain.shap_values import tree_shap
from alphaplus_ml.explain.trees import codes_of, trees_of
from alphaplus_ml.tracking.start import ExperimentTrackingConfig, start_experiment_tracking

pytestmark = pytest.mark.filterwarnings("error")
TABLE = "model_interpretability"
EVERY = ("shap", "lime", "eli5")
rng = np.random.default_rng(0)
X = pd.DataFrame(rng.normal(size=(200, 3)), columns=["a", "b", "c"])
y = X.a*np.sign(X.b) + 0.1*X.c
gaps = X.mask(rng.random(X.shape) < 0.1)
silent = {"verbose": False, "allow_writing_files": False, "thread_count": 1}

makers = {
    "lightgbm": lambda **o: lightgbm.LGBMRegressor(n_estimators=8, min_child_samples=5, verbose=-1, n_jobs=1, **o),
    "xgboost": lambda **o: xgboost.XGBRegressor(n_estimators=8, max_depth=3, n_jobs=1, **o),
    "catboost": lambda **o: catboost.CatBoostRegressor(iterations=8, depth=3, **silent, **o),
    "forest": lambda **o: RandomForestRegressor(n_estimators=4, max_depth=4, random_state=0, **o),
    "histogram": lambda **o: HistGradientBoostingRegressor(max_iter=6, min_samples_leaf=5, **o),
    "ridge": lambda **o: Ridge(**o),
}
gapless = {"ridge"}
every_model = pytest.mark.parametrize("name", makers)


def config(**changes): return ModelInterpretabilityConfig(**{"methods": EVERY, "n_perturbations": 60, "n_seeds": 2, **changes})


def explained(model, rows, background=X, recorder=None, **changes):
    "An explanation by every method that adds up to the margin and goes into rows"
    found = explain_model_prediction(model, rows, config(**changes), background=background, recorder=recorder)
    sums = margin(model, model_frame(model, rows), changes.get("label"))[:len(found.features)]
    size = max(1e-300, np.abs(sums).max(), found.values["shap"].abs().sum(axis=1).max())
    np.testing.assert_allclose(found.values["shap"].sum(axis=1) + found.base_values["shap"], sums, rtol=0, atol=1e-5*size)
    assert all(values.index.equals(rows.index) and list(values.columns) == list(rows.columns) for values in found.values.values())
    assert len(found.to_frame()) == rows.size and len(json.dumps(found.rows(), allow_nan=False))
    return found


def brute(ask, row, background):
    "Shapley values over all coalitions, filled in from every background row"
    f, worth = len(row), {}
    for size in range(f + 1):
        for known in combinations(range(f), size):
            filled = background.copy()
            filled[:, list(known)] = row[list(known)]
            worth[known] = ask(filled).mean()
    share = lambda size: factorial(size)*factorial(f - size - 1)/factorial(f)
    return [sum(share(len(known))*(worth[tuple(sorted((*known, j)))] - worth[known]) for known in worth if j not in known) for j in range(f)]


# columns

@pytest.mark.parametrize("columns", [["a b", "中", "100%"], [7, 3, 5], ["2", "x|y", "it's"]], ids=str)
@every_model
def test_odd_names_change_no_number(name, columns):
    plain, odd = (explained(makers[name]().fit(rows, y), rows.head(5), rows) for rows in (X, X.set_axis(columns, axis=1)))
    for method in EVERY: np.testing.assert_array_equal(odd.values[method], plain.values[method])
    assert set(odd.to_frame().feature_name) == set(map(str, columns))


@pytest.mark.parametrize("name", ["catboost", "forest", "ridge"])
def test_names_that_some_libraries_refuse(name):
    columns = ['say "x"', "{b: [1, 2]}", "c\\d,<e>"]
    odd, recorder = X.set_axis(columns, axis=1), MemoryRecorder()
    found = explained(makers[name]().fit(odd, y), odd.head(5), odd, recorder)
    assert set(recorder.frame(TABLE).feature_name) == set(columns)
    if name == "ridge": assert "{b: [1, 2]}" in (page := found.to_html()) and "c\\d,<e>" not in page, "names are escaped in the page"


def test_names_that_cannot_be_told_apart_are_refused():
    twice = X.set_axis(["a", "a", "b"], axis=1)
    for names in (twice, X.set_axis([1, "1", "b"], axis=1)):
        with pytest.raises(InputError, match="each appears once"): explain_model_prediction(lambda rows: rows.iloc[:, 0], names, background=names)


@every_model
def test_a_background_has_the_model_s_columns_too(name):
    model = makers[name]().fit(X, y)
    for wrong, message in ((X[["b", "a", "c"]], "order"), (X[["a", "b"]], "columns"), (X.head(0), "one row"), (X.astype(str), "numbers"), (X.assign(a=np.inf), "infinite")):
        for method in ("shap", "lime"):
            with pytest.raises(InputError, match=message): explain_model_prediction(model, X.head(2), config(methods=(method,)), background=wrong)


# types of columns

whole = X.mul(10).round()
frames = {"Int64": (whole, "Int64"), "Float64": (X, "Float64"), "bool": (X > 0, "bool"), "boolean": (X > 0, "boolean"), "int8": (whole, "int8"), "float32": (X.astype("float32"), "float32")}

@pytest.mark.parametrize("kind", frames)
@every_model
def test_types_of_columns_change_no_number(name, kind):
    values, dtype = frames[kind]
    model = makers[name]().fit(values.astype(float), y)
    plain, typed = (explained(model, rows.head(20), rows) for rows in (values.astype(float), values.astype(dtype)))
    for method in EVERY: np.testing.assert_array_equal(typed.values[method], plain.values[method])


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "boolean"])
@pytest.mark.parametrize("name", [name for name in makers if name not in gapless])
def test_a_missing_value_is_one_whatever_its_type(name, dtype):
    values = {"Int64": whole, "Float64": X, "boolean": (X > 0).astype(float)}[dtype].where(gaps.notna())
    model = makers[name]().fit(values, y)
    plain, typed = (explained(model, rows.head(20), rows) for rows in (values, values.astype(dtype)))
    for method in EVERY: np.testing.assert_array_equal(typed.values[method], plain.values[method])
    assert typed.to_frame().feature_value.isna().sum() == values.head(20).isna().sum().sum() > 0


@pytest.mark.parametrize("wrong", [X.astype(object), (X > 0).astype("category"), X.assign(a="high"), X.assign(a=pd.Timestamp("2020-01-01"))], ids=["object", "category", "text", "time"])
def test_what_is_no_number_is_refused(wrong):
    model = makers["lightgbm"]().fit(X, y)
    with pytest.raises(InputError, match="Features are numbers"): explain_model_prediction(model, wrong.head(3))


@pytest.mark.parametrize("rows", [pl.DataFrame(X.to_dict("list")), X.to_numpy(), X.a, None, "X.csv"], ids=["polars", "array", "Series", "None", "text"])
def test_rows_without_an_index_are_refused(rows):
    with pytest.raises(InputError, match="pandas DataFrame"): explain_model_prediction(makers["ridge"]().fit(X, y), rows)


# rows

@pytest.mark.parametrize("index", [rng.permutation(200), np.repeat(np.arange(100), 2), [f"r{i % 7}" for i in range(200)], pd.date_range("2020-01-01", periods=200)[::-1],
                                   pd.MultiIndex.from_arrays([pd.to_datetime(["2020-01-01"]*200, utc=True), ["A"]*200], names=["timestamp", "symbol"])], ids=["unsorted", "twice", "text", "backwards", "panel twice"])
def test_labels_of_rows_change_no_number(index):
    model, rows, recorder = makers["lightgbm"]().fit(X, y), X.set_axis(index), MemoryRecorder()
    plain, found = explained(model, X), explained(model, rows, recorder=recorder)
    for method in EVERY: np.testing.assert_array_equal(found.values[method], plain.values[method])
    assert recorder.frame(TABLE).query("interpretation_type == 'local'").prediction_id.nunique() == len(rows)
    again = explain_model_prediction(model, rows, config(), background=X, recorder=recorder)
    assert again.cached
    for method in EVERY: pd.testing.assert_frame_equal(again.values[method], found.values[method])


@every_model
def test_the_smallest_tables(name):
    model, one = makers[name]().fit(X, y), X[["a"]]
    whole = explained(model, X.head(20))
    for method in EVERY: np.testing.assert_allclose(explained(model, X.iloc[[7]]).values[method], whole.values[method].iloc[[7]], rtol=1e-9, atol=1e-12)
    single = explained(makers[name]().fit(one, y), one.head(5), one)
    assert single.ranks().eq(1).all(axis=None) and single.agreement().rank_correlation.isna().all()
    with pytest.raises(InputError, match="at least one row"): explain_model_prediction(model, X.head(0))
    assert len(explained(model, X.head(3), n_samples=50).features) == 3


@every_model
def test_a_constant_column_gets_nothing(name):
    flat = X.assign(c=1.0)
    found = explained(makers[name]().fit(flat, y), flat.head(10), flat)
    assert (found.values["shap"].c == 0).all() and (found.values["lime"].c.abs() < 1e-9).all()


@pytest.mark.parametrize("name", ["lightgbm", "xgboost", "catboost"])
def test_a_column_without_a_value_gets_nothing(name):
    empty = X.assign(c=np.nan)
    found = explained(makers[name]().fit(empty, y), empty.head(10), empty)
    assert all((values.c.abs() < 1e-9).all() for values in found.values.values())


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@every_model
def test_a_scale_moves_through(name, scale):
    rows = X*scale
    found = explained(makers[name]().fit(rows, y), rows.head(20), rows)
    if name != "ridge" and (name, scale) != ("forest", 1e-12):   # a penalty has a unit, and to scikit-learn's trees values closer than 1e-7 are equal
        plain = explained(makers[name]().fit(X, y), X.head(20))
        for method in EVERY: np.testing.assert_allclose(found.values[method], plain.values[method], rtol=1e-4, atol=1e-5)
    explained(makers[name]().fit(X, y*scale), X.head(20))


@pytest.mark.parametrize("name", makers)
def test_against_all_coalitions(name):
    rows = X if name in gapless else gaps
    model = makers[name]().fit(rows, y)
    ask = lambda values: margin(model, pd.DataFrame(values, columns=X.columns))
    for background in (rows.head(15), rows.head(1), pd.concat([rows.head(3)]*2)):   # one row, and rows that come twice
        found = explained(model, rows.tail(4), background, methods=("shap", "eli5")).values["shap"]
        np.testing.assert_allclose(found, [brute(ask, row, background.to_numpy()) for row in rows.tail(4).to_numpy()], atol=1e-5)
    with pytest.raises(InputError, match="four background rows"): explain_model_prediction(model, rows.tail(2), config(), background=rows.head(1))


# models

def native(model, rows):
    if isinstance(model, lightgbm.LGBMModel): return model.predict(rows, pred_contrib=True)
    if isinstance(model, xgboost.XGBModel): return model.get_booster().predict(xgboost.DMatrix(rows, missing=model.missing), pred_contribs=True)
    return model.get_feature_importance(catboost.Pool(rows), type="ShapValues")


weights = rng.random(200)*3
special = {
    "lightgbm, weights": lambda: makers["lightgbm"]().fit(gaps, y, sample_weight=weights), "xgboost, weights": lambda: makers["xgboost"]().fit(gaps, y, sample_weight=weights),
    "catboost, weights": lambda: makers["catboost"]().fit(gaps, y, sample_weight=weights), "lightgbm, weights of zero": lambda: makers["lightgbm"]().fit(gaps, y, sample_weight=weights*(weights > 1)),
    "lightgbm, monotone": lambda: makers["lightgbm"](monotone_constraints=[1, 0, -1]).fit(gaps, y), "xgboost, monotone": lambda: makers["xgboost"](monotone_constraints=(1, 0, -1)).fit(gaps, y),
    "lightgbm, dart": lambda: makers["lightgbm"](boosting_type="dart").fit(gaps, y),
    "lightgbm, goes on": lambda: makers["lightgbm"]().fit(gaps, y, init_model=makers["lightgbm"]().fit(gaps, -y)), "xgboost, dart": lambda: makers["xgboost"](booster="dart", rate_drop=0.3).fit(gaps, y),
    "xgboost, counts": lambda: makers["xgboost"](objective="count:poisson").fit(gaps, y.abs()), "catboost, missing above": lambda: makers["catboost"](nan_mode="Max").fit(gaps, y),
}

@pytest.mark.parametrize("name", special)
def test_path_dependent_values_are_the_library_s(name):
    model = special[name]()
    values, base = tree_shap(model, gaps)
    theirs = native(model, gaps)
    np.testing.assert_allclose(np.column_stack([values, np.full(len(gaps), base)]), theirs, atol=1e-6*max(1, np.abs(theirs).max()))


def known_means(trees, codes, row, known):
    "The trees' answer when only some features are known: both ways, by the weights of the training rows"
    def walk(node):
        if trees.left[node] < 0: return trees.value[node], trees.cover[node]
        (a, u), (b, v) = walk(trees.left[node]), walk(trees.right[node])
        column = trees.column[node]
        if trees.owner[column] in known: return (a if codes[column, row] <= trees.cut[node] else b), u + v
        return ((u*a + v*b)/(u + v) if u + v > 0 else (a + b)/2), u + v
    return sum(walk(root)[0] for root in trees.roots)


@pytest.mark.parametrize("options", [{"grow_policy": "SymmetricTree"}, {"grow_policy": "Depthwise"}, {"grow_policy": "Lossguide"}, {"monotone_constraints": [1, 0, -1]}], ids=str)
def test_catboost_s_trees_of_every_shape_by_the_definition(options):
    "CatBoost's own values differ: those of two shapes start from another number than its mean prediction, and monotone trees have values where no training row ever was"
    model = makers["catboost"](**options).fit(gaps, y)
    trees = trees_of(model)
    codes, (values, base) = codes_of(trees, gaps.to_numpy()), tree_shap(model, gaps)
    assert abs(base - model.predict(gaps).mean()) < 1e-9
    for row in range(5):
        worth = {known: known_means(trees, codes, row, known) for size in range(4) for known in combinations(range(3), size)}
        exact = [sum(factorial(len(k))*factorial(2 - len(k))/6*(worth[tuple(sorted((*k, j)))] - worth[k]) for k in worth if j not in k) for j in range(3)]
        np.testing.assert_allclose(values[row], exact, atol=1e-12)


@every_model
def test_a_model_is_the_same_after_a_pickle_and_from_another_thread(name):
    made = []
    maker = threading.Thread(target=lambda: made.append(makers[name]().fit(X, y)))
    maker.start(); maker.join()
    first, again, kept = explained(made[0], X.head(5)), explained(pickle.loads(pickle.dumps(made[0])), X.head(5)), []
    reader = threading.Thread(target=lambda: kept.append(explained(made[0], X.head(5))))
    reader.start(); reader.join()
    for method in EVERY:
        np.testing.assert_array_equal(again.values[method], first.values[method])
        np.testing.assert_array_equal(kept[0].values[method], first.values[method])


def reloaded(name, folder):
    if name == "lightgbm":
        makers[name]().fit(X, y).booster_.save_model(folder/"model")
        return lightgbm.Booster(model_file=folder/"model")
    makers[name]().fit(X, y).save_model(folder/("model.json" if name == "xgboost" else "model"))
    model = {"xgboost": xgboost.XGBRegressor, "catboost": catboost.CatBoostRegressor}[name]()
    model.load_model(folder/("model.json" if name == "xgboost" else "model"))
    return model


@pytest.mark.parametrize("name", ["lightgbm", "xgboost", "catboost"])
def test_a_model_is_the_same_after_a_file(name, tmp_path):
    first, again = explained(makers[name]().fit(X, y), X.head(5)), explained(reloaded(name, tmp_path), X.head(5))
    for method in EVERY: np.testing.assert_allclose(again.values[method], first.values[method], atol=1e-9)
    with pytest.raises(InputError, match="columns"): explain_model_prediction(reloaded(name, tmp_path), X[["a", "b"]])


def test_a_booster_of_xgboost_is_refused_with_a_way_out_that_works():
    booster = makers["xgboost"]().fit(X, y).get_booster()
    for call in (lambda: explain_model_prediction(booster, X.head(2), background=X), lambda: tree_shap(booster, X), lambda: lime_values(booster, X.head(2), X), lambda: permutation_importance(booster, X, y)):
        with pytest.raises(InputError): call()
    with pytest.raises(InputError, match=r"load_model\(booster.save_raw"): explain_model_prediction(booster, X.head(2), background=X)
    model = xgboost.XGBRegressor()
    model.load_model(booster.save_raw())
    np.testing.assert_array_equal(explained(model, X.head(5)).values["shap"], explained(makers["xgboost"]().fit(X, y), X.head(5)).values["shap"])


def test_xgboost_s_own_missing_value():
    marked, model = gaps.fillna(-9.9), makers["xgboost"](missing=-9.9).fit(gaps.fillna(-9.9), y)
    ask = lambda values: model.predict(pd.DataFrame(values, columns=X.columns))
    path = tree_shap(model, marked)
    np.testing.assert_allclose(np.column_stack([path.values, np.full(200, path.base)]), native(model, marked), atol=1e-6)
    np.testing.assert_allclose(tree_shap(model, marked.head(4), marked.tail(9)).values, [brute(ask, row, marked.tail(9).to_numpy()) for row in marked.head(4).to_numpy()], atol=1e-5)
    np.testing.assert_allclose(path_contributions(model, marked).values, path_contributions(makers["xgboost"]().fit(gaps, y), gaps).values, atol=1e-6)


def test_what_no_tree_reader_can_read_is_refused_by_name():
    start = GradientBoostingRegressor(n_estimators=3, init=Ridge()).fit(X, y)
    several = makers["xgboost"](multi_strategy="multi_output_tree").fit(X, np.column_stack([y, -y]))
    for model, label, message in ((start, None, "starts from a constant"), (several, 1, "one number"), (makers["lightgbm"](linear_tree=True).fit(X, y), None, "constant")):
        with pytest.raises(InputError, match=message): tree_shap(model, X, label=label)
        assert message in path_contributions(model, X, label=label).facts["reason"]
    sampled = explain_model_prediction(start, X.head(3), config(methods=("shap",), explainers={"shap": "permutation"}), background=X)
    assert sampled.additivity_error < 1e-9, "the way out works"


@pytest.mark.parametrize("weights", [None, [1, 2, 3]])
def test_a_dropped_member_has_no_share(weights):
    model = VotingRegressor([("a", Ridge()), ("b", "drop"), ("c", makers["forest"]())], weights=weights).fit(X, y)
    shares = (0.5, 0.5) if weights is None else (0.25, 0.75)
    whole, parts = explained(model, X.head(5)), [explained(member, X.head(5)) for member in model.estimators_]
    for method in ("shap", "eli5"): np.testing.assert_allclose(whole.values[method], sum(s*p.values[method] for s, p in zip(shares, parts)), atol=1e-12)


@pytest.mark.parametrize("steps", [[("s", "passthrough"), ("m", None)], [("s", None), ("m", None)], [("m", None)], [("s", StandardScaler().set_output(transform="pandas")), ("m", None)], [("p", "passthrough"), ("s", StandardScaler()), ("m", None)]],
                         ids=["passthrough", "None", "alone", "frames", "passthrough and scaler"])
@pytest.mark.parametrize("last", ["lightgbm", "ridge", "logistic"])
def test_pipelines_of_every_kind(last, steps):
    model = Pipeline([*steps[:-1], ("m", LogisticRegression() if last == "logistic" else makers[last]())])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y > 0 if last == "logistic" else y)
    alone = model[-1]
    found = explained(model, X.head(5))
    if len(steps) < 3 and not any(isinstance(step, StandardScaler) for _, step in steps):
        for method in EVERY: np.testing.assert_array_equal(found.values[method], explained(alone, X.head(5)).values[method])


classifiers = {
    "lightgbm": lambda: lightgbm.LGBMClassifier(n_estimators=6, min_child_samples=5, verbose=-1, n_jobs=1), "catboost": lambda: catboost.CatBoostClassifier(iterations=6, depth=3, **silent),
    "histogram": lambda: HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=5), "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
}

three = np.where(y > 0.5, "up", np.where(y < -0.5, "down", "flat"))
two = {"text": np.where(y > 0, "up", "down"), "bool": (y > 0).to_numpy(), "signs": np.where(y > 0, 1, -1)}

@pytest.mark.parametrize("kind", two)
@pytest.mark.parametrize("name", classifiers)
def test_two_classes_of_any_type(name, kind):
    model = classifiers[name]().fit(X, two[kind])
    first, second = np.ravel(model.classes_).tolist()
    found, named = explained(model, X.head(5)), explained(model, X.head(5), label=second)
    np.testing.assert_array_equal(found.values["shap"], named.values["shap"])
    chances = 1/(1 + np.exp(-found.values["shap"].sum(axis=1) - found.base_value))
    np.testing.assert_allclose(chances, model.predict_proba(X.head(5))[:, 1], atol=1e-9)
    with pytest.raises(InputError, match="one margin") as refused: explain_model_prediction(model, X.head(5), config(label=first), background=X)
    assert "np." not in str(refused.value)


@pytest.mark.parametrize("name", classifiers)
def test_three_classes(name):
    model = classifiers[name]().fit(X, three)
    parts = {label: explained(model, X.head(5), label=label) for label in ("up", "flat", "down")}
    scores = pd.DataFrame({label: np.exp(one.values["shap"].sum(axis=1) + one.base_value) for label, one in parts.items()})
    np.testing.assert_allclose(scores.div(scores.sum(axis=1), axis=0)[list(np.ravel(model.classes_))], model.predict_proba(X.head(5)), atol=1e-7)
    assert len({one.explanation_id for one in parts.values()}) == 3
    for label in (None, "sideways", 1):
        with pytest.raises(InputError, match="the class names it") as refused: explain_model_prediction(model, X.head(5), config(label=label), background=X)
        assert "np." not in str(refused.value) and "'flat'" in str(refused.value)


# functions

@pytest.mark.parametrize("answer, message", [(lambda rows: 1.0, "with a number"), (lambda rows: rows.a[:2], "with a number"), (lambda rows: rows.a.where(rows.a > 0), "finite"), (lambda rows: rows.a/0, "finite"),
                                             (lambda rows: rows[["a", "b"]], "class names it")], ids=["a scalar", "too few", "NaN", "infinite", "two columns"])
def test_a_function_that_is_no_model_is_refused(answer, message):
    for method in ("shap", "lime"):
        with pytest.raises(InputError, match=message): explain_model_prediction(answer, X.head(4), config(methods=(method,)), background=X)


def test_a_function_that_writes_into_its_rows_changes_nobody_s():
    def rule(rows):
        answer = rows.a*rows.b
        rows["a"] = 0.0
        return answer
    rows, background = X.head(4).copy(), X.copy()
    found = explained(rule, rows, background)
    pd.testing.assert_frame_equal(rows, X.head(4))
    pd.testing.assert_frame_equal(background, X)
    np.testing.assert_array_equal(found.values["shap"], explained(lambda rows: rows.a*rows.b, rows, background).values["shap"])


def test_an_explanation_stays_when_the_rows_change():
    rows = X.head(4).copy()
    found = explain_model_prediction(makers["lightgbm"]().fit(X, y), rows, config(methods=("shap",)))
    rows.iloc[:] = 0.0
    np.testing.assert_array_equal(found.to_frame().feature_value, X.head(4).to_numpy().ravel())


def test_what_is_no_model_is_refused():
    for wrong in (Ridge, None, "model.pkl", 3, makers["lightgbm"](), makers["xgboost"](), makers["catboost"]()):
        with pytest.raises(InputError): explain_model_prediction(wrong, X.head(4), background=X)


def test_values_that_are_no_numbers_never_add_up():
    for values, base, sums in (([[np.nan]], 0.0, [1.0]), ([[1.0]], np.nan, [1.0]), ([[np.inf]], 0.0, [1.0]), ([[1.0]], 0.0, [np.nan])):
        with pytest.raises(AdditivityError): check_additivity(np.array(values), base, np.array(sums))


@pytest.mark.parametrize("bins", [True, False])
def test_a_row_s_line_does_not_depend_on_the_rows_beside_it(bins, monkeypatch):
    "More rows than LIME asks about at once, each with random rows of its own"
    model, options = makers["lightgbm"]().fit(X, y), {"n_perturbations": 500, "shared_perturbations": False, "discretize_continuous": bins}
    whole = lime_values(model, X.head(9), X, **options)
    monkeypatch.setattr("alphaplus_ml.explain.lime_values._most_numbers", 2*500*3*3)   # two rows with three features and three seeds
    calls, honest = [], lightgbm.LGBMRegressor.predict
    monkeypatch.setattr(lightgbm.LGBMRegressor, "predict", lambda self, rows, **o: (calls.append(len(rows)), honest(self, rows, **o))[1])
    batches = lime_values(model, X.head(9), X, **options)
    assert max(calls) == 2*499*3 and len(calls) == 1 + 5
    np.testing.assert_allclose(batches.values, whole.values, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(lime_values(model, X.iloc[[8]], X, **options).values[0], whole.values[8], rtol=1e-9, atol=1e-12)


def test_a_method_twice_is_there_once():
    found = explain_model_prediction(makers["ridge"]().fit(X, y), X.head(3), config(methods=("eli5", "shap", "eli5")), background=X)
    assert list(found.values) == ["eli5", "shap"] and len(found.rows()) == 9 + 3
    for wrong in ((), "shap", ("shap", "SHAP")):
        with pytest.raises(InputError): config(methods=wrong)


# records

panel = pd.MultiIndex.from_product([pd.date_range("2020-01-01", periods=100, tz="UTC"), ["A|1", "B'2"]], names=["timestamp", "symbol"])
bars = X.set_axis(panel)
sums_in_sql = sa.text("""
    SELECT sample_id, prediction_id, SUM(shap_value) AS total, SUM(eli5_value) AS paths, COUNT(*) AS features, MIN(CAST(metadata AS TEXT)) AS metadata
    FROM model_interpretability WHERE interpretation_type = 'local' GROUP BY sample_id, prediction_id""")


@every_model
def test_the_sum_is_rebuilt_from_sql(name, sqlite_database):
    model = makers[name]().fit(bars, y.set_axis(panel))
    shuffled = bars.sample(30, random_state=0)
    found = explain_model_prediction(model, shuffled, config(), background=bars, recorder=sqlite_database)
    with sqlite_database.engine.connect() as connection: rows = connection.execute(sums_in_sql).all()
    assert len(rows) == 30 and {row.features for row in rows} == {3}
    for row in rows:
        stamp, symbol = row.sample_id.split("|", 1)
        told, position = json.loads(row.metadata), int(row.prediction_id.rsplit("-", 1)[1])
        assert shuffled.index[position] == (pd.Timestamp(stamp), symbol)
        answer = margin(model, bars.loc[[(pd.Timestamp(stamp), symbol)]])[0]
        assert abs(row.total + told["base_value"] - answer) < 1e-5 and abs(told["prediction"] - answer) < 1e-12
        assert abs(row.paths + found.base_values["eli5"] - answer) < 1e-5
    means = sqlite_database.frame(TABLE, interpretation_type="global").set_index("feature_name")
    np.testing.assert_allclose(means.shap_value[list(bars)], found.values["shap"].abs().mean(), atol=1e-12)


class Failing:
    "A recorder that breaks after some blocks"
    def __init__(self, kept, blocks): self.kept, self.left = kept, blocks
    def _broken(self, rows):
        for block in rows:
            self.left -= 1
            if self.left < 0: raise OSError("the disk is full")
            yield block
    def append(self, table, rows): return self.kept.append(table, self._broken(rows))
    def update(self, table, key, values): return self.kept.update(table, key, values)
    def frame(self, table, **filters): return self.kept.frame(table, **filters)


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_a_recorder_that_fails_keeps_nothing(blocks, sqlite_database, monkeypatch):
    model = makers["lightgbm"]().fit(X, y)
    monkeypatch.setattr("alphaplus_ml.explain.explanation.Explanation.blocks.__defaults__", (150,))   # two blocks, and the global rows
    for kept in (MemoryRecorder(), sqlite_database):
        with pytest.raises(OSError, match="disk is full"): explain_model_prediction(model, X, config(), background=X, recorder=Failing(kept, blocks))
        assert not len(kept.frame(TABLE))
        again = explain_model_prediction(model, X, config(), background=X, recorder=Failing(kept, 9))
        assert not again.cached and len(kept.frame(TABLE)) == X.size + 3
        assert explain_model_prediction(model, X, config(), background=X, recorder=Failing(kept, 0)).cached, "what is on record is not written again"


@pytest.mark.filterwarnings("default")   # of MLflow's own
def test_a_run_that_mlflow_follows_is_a_recorder(sqlite_database, tmp_path):
    model, tracking = makers["lightgbm"]().fit(bars, y.set_axis(panel)), ExperimentTrackingConfig(experiment_name="explained", backends=("database", "mlflow"))
    with start_experiment_tracking(tracking, database=sqlite_database, settings=Settings(runs=tmp_path, _env_file=None)) as run:
        first = explain_model_prediction(model, bars.head(10), config(), background=bars, recorder=run)
        importance = permutation_importance(model, bars, y.set_axis(panel), metric="rmse", recorder=run)
        assert explain_model_prediction(model, bars.head(10), config(), background=bars, recorder=run).cached
    kept = sqlite_database.frame(TABLE)
    assert len(kept) == 30 + 3 + 3 and set(kept.prediction_id) >= {first.explanation_id, importance.importance_id}
    local = kept[kept.interpretation_type == "local"].set_index(["sample_id", "feature_name"])
    np.testing.assert_allclose(local.shap_value.unstack()[list(X)].to_numpy(), first.values["shap"].to_numpy(), atol=0)
