"Trees of four libraries read into arrays, and SHAP values from tables: the libraries' own routines and brute force are the oracles"
import itertools

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost as xgb
from catboost import CatBoostClassifier, CatBoostRegressor, Pool
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import (ExtraTreesRegressor, GradientBoostingClassifier, GradientBoostingRegressor, HistGradientBoostingClassifier,
                              HistGradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from alphaplus_ml.core import InputError
from alphaplus_ml.explain import tables as tables_module
from alphaplus_ml.explain.base import margin
from alphaplus_ml.explain.shap_values import load_shap, tree_shap
from alphaplus_ml.explain.tables import explain_rows, plan_tables, shap_tables
from alphaplus_ml.explain.trees import UnreadableTrees, codes_of, readers, tree_margin, trees_of


def table(n=300, f=4, seed=0, missing=0.0, grid=0):
    "Rows with gaps; on a coarse grid many values equal a threshold"
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, f))
    if grid: X = np.round(X*grid)/grid
    y = X[:, 0]*np.sign(X[:, -1]) + X[:, f//2]**2 + 0.1*rng.normal(size=n)
    return pd.DataFrame(np.where(rng.random(X.shape) < missing, np.nan, X), columns=[f"x{j}" for j in range(f)]), pd.Series(y)


def shapley(game, f):
    "From the definition, over all subsets"
    value = {known: game(frozenset(known)) for size in range(f + 1) for known in itertools.combinations(range(f), size)}
    out, fact = np.zeros(f), [np.prod(range(1, k + 1)) if k else 1 for k in range(f + 1)]
    for known in value:
        for j in set(range(f)) - set(known):
            more = tuple(sorted({*known, j}))
            out[j] += fact[len(known)]*fact[f - len(known) - 1]/fact[f]*(value[more] - value[known])
    return out


def against(model, row, background):
    "The game of filling in unknown features from background rows"
    def game(known):
        rows = background.copy()
        for j in known: rows.iloc[:, j] = row.iloc[j]
        return margin(model, rows).mean()
    return game


silent = {"silent": True, "thread_count": 1, "allow_writing_files": False, "random_seed": 0}
makers = {
    "lightgbm": lambda: lightgbm.LGBMRegressor(n_estimators=20, min_child_samples=3, verbose=-1, n_jobs=1),
    "lightgbm, zero is missing": lambda: lightgbm.LGBMRegressor(n_estimators=20, zero_as_missing=True, min_child_samples=3, verbose=-1, n_jobs=1),
    "lightgbm, no missing": lambda: lightgbm.LGBMRegressor(n_estimators=20, use_missing=False, min_child_samples=3, verbose=-1, n_jobs=1),
    "lightgbm, dart": lambda: lightgbm.LGBMRegressor(n_estimators=20, boosting_type="dart", min_child_samples=3, verbose=-1, n_jobs=1),
    "lightgbm, forest": lambda: lightgbm.LGBMRegressor(n_estimators=20, boosting_type="rf", bagging_freq=1, bagging_fraction=0.6, min_child_samples=3, verbose=-1, n_jobs=1),
    "lightgbm, poisson": lambda: lightgbm.LGBMRegressor(n_estimators=20, objective="huber", min_child_samples=3, verbose=-1, n_jobs=1),
    "xgboost": lambda: xgb.XGBRegressor(n_estimators=20, max_depth=4, n_jobs=1),
    "xgboost, exact": lambda: xgb.XGBRegressor(n_estimators=20, max_depth=4, tree_method="exact", n_jobs=1),
    "xgboost, leaf by leaf": lambda: xgb.XGBRegressor(n_estimators=20, max_leaves=12, max_depth=0, grow_policy="lossguide", gamma=0.1, n_jobs=1),
    "xgboost, dart": lambda: xgb.XGBRegressor(n_estimators=20, booster="dart", rate_drop=0.3, max_depth=4, n_jobs=1),
    "xgboost, forest": lambda: xgb.XGBRegressor(n_estimators=5, num_parallel_tree=4, subsample=0.7, max_depth=4, n_jobs=1),
    "xgboost, base score": lambda: xgb.XGBRegressor(n_estimators=20, base_score=7.5, max_depth=4, n_jobs=1),
    "catboost": lambda: CatBoostRegressor(iterations=20, depth=4, **silent),
    "catboost, missing is large": lambda: CatBoostRegressor(iterations=20, depth=4, nan_mode="Max", **silent),
    "catboost, deep": lambda: CatBoostRegressor(iterations=10, depth=8, **silent),
    "catboost, leaf by leaf": lambda: CatBoostRegressor(iterations=20, grow_policy="Lossguide", max_leaves=9, **silent),
    "catboost, level by level": lambda: CatBoostRegressor(iterations=20, grow_policy="Depthwise", depth=4, **silent),
    "tree": lambda: DecisionTreeRegressor(max_depth=6, random_state=0),
    "forest": lambda: RandomForestRegressor(12, max_depth=6, random_state=0),
    "extra trees": lambda: ExtraTreesRegressor(12, max_depth=6, random_state=0),
    "histogram boosting": lambda: HistGradientBoostingRegressor(max_iter=20, random_state=0),
    "gradient boosting": lambda: GradientBoostingRegressor(n_estimators=20, random_state=0),
}
rough = lambda name: 5e-6 if "xgboost" in name else 1e-12
gaps = lambda name: 0.0 if name == "gradient boosting" else 0.2


@pytest.fixture(scope="module")
def fitted():
    found = {}
    def of(name):
        if name not in found:
            X, y = table(missing=gaps(name), grid=8)
            found[name] = makers[name]().fit(X, y)
        return found[name]
    return of


# what the trees predict

@pytest.mark.parametrize("name", makers)
@pytest.mark.filterwarnings("error")
def test_trees_predict_what_the_model_predicts(fitted, name):
    trees = trees_of(fitted(name))
    for X in (table(missing=gaps(name), grid=8, seed=1)[0], table(n=50, missing=gaps(name), seed=2)[0], table(missing=gaps(name), grid=8)[0]*1e-3):
        np.testing.assert_allclose(tree_margin(trees, codes_of(trees, X.to_numpy())), margin(fitted(name), X), rtol=0, atol=rough(name))


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_values_at_a_threshold_go_where_the_library_sends_them(fitted, library):
    model = fitted(library)
    trees = trees_of(model)
    feature, known = trees.columns[0][0], trees.edges[0]
    values = np.concatenate([np.nextafter(known, -np.inf), known, np.nextafter(known, np.inf), np.nextafter(known.astype(np.float32), np.float32(np.inf)), known + 1e-9, known - 1e-9])
    X = pd.DataFrame(0.25, index=range(len(values)), columns=[f"x{j}" for j in range(4)])
    X.iloc[:, feature] = values
    np.testing.assert_allclose(tree_margin(trees, codes_of(trees, X.to_numpy())), margin(model, X), rtol=0, atol=rough(library))


@pytest.mark.parametrize("model", [
    lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1), xgb.XGBClassifier(n_estimators=5, n_jobs=1), CatBoostClassifier(iterations=5, **silent),
    RandomForestClassifier(5, max_depth=5, random_state=0), DecisionTreeClassifier(max_depth=5, random_state=0),
    HistGradientBoostingClassifier(max_iter=5, random_state=0), GradientBoostingClassifier(n_estimators=5, random_state=0)], ids=lambda model: type(model).__name__)
@pytest.mark.parametrize("classes", [2, 3])
def test_each_class_has_its_trees(model, classes):
    X, y = table(missing=gaps("gradient boosting" if isinstance(model, GradientBoostingClassifier) else ""))
    model.fit(X, pd.qcut(y, classes, labels=False))
    for label in ([None] if classes == 2 else [0, 1, 2]):
        trees = trees_of(model, label)
        np.testing.assert_allclose(tree_margin(trees, codes_of(trees, X.to_numpy())), margin(model, X, label), rtol=0, atol=2e-6)
        values, base = tree_shap(model, X, label=label)
        np.testing.assert_allclose(values.sum(axis=1) + base, margin(model, X, label), rtol=0, atol=2e-6)
    if classes == 3:
        with pytest.raises(InputError, match="Name one of"): trees_of(model)


def test_only_the_rounds_that_predict_are_read():
    X, y = table(n=400)
    for model in (lightgbm.LGBMRegressor(n_estimators=60, learning_rate=0.5, verbose=-1, n_jobs=1), xgb.XGBRegressor(n_estimators=60, learning_rate=0.9, early_stopping_rounds=3, n_jobs=1)):
        if isinstance(model, lightgbm.LGBMRegressor): model.fit(X[:200], y[:200], eval_X=X[200:], eval_y=y[200:], callbacks=[lightgbm.early_stopping(3, verbose=False)])
        else: model.fit(X[:200], y[:200], eval_set=[(X[200:], y[200:])], verbose=False)
        trees = trees_of(model)
        assert len(trees.roots) < 60
        np.testing.assert_allclose(tree_margin(trees, codes_of(trees, X.to_numpy())), margin(model, X), rtol=0, atol=2e-6)


def test_a_booster_of_constants_is_a_constant():
    X, _ = table(n=30)
    for model in (lightgbm.LGBMRegressor(verbose=-1, n_jobs=1), xgb.XGBRegressor(n_estimators=3, n_jobs=1), DecisionTreeRegressor()):
        values, base = tree_shap(model.fit(X, pd.Series(2.5, X.index)), X)
        np.testing.assert_allclose(base, 2.5, atol=1e-6)
        assert np.abs(values).max() < 1e-6


def test_every_reader_has_a_model_here(fitted):
    kinds = {name: readers.facts(name)["classes"] for name in readers}
    from alphaplus_ml.explain.base import is_a
    assert all(any(is_a(make(), classes) for make in makers.values()) for classes in kinds.values())


def test_what_cannot_be_read_is_left_to_the_library_or_refused():
    X, y = table(n=400)
    X = X.assign(x1=(X.x1*2).round().astype(int))
    booster = CatBoostRegressor(iterations=5, cat_features=["x1"], **silent).fit(X, y)
    with pytest.raises(UnreadableTrees, match="categorical features"): trees_of(booster)
    with pytest.raises(UnreadableTrees, match="categorical features"): tree_shap(booster, X, background=X)
    found = tree_shap(booster, X)
    assert found.facts["route"] == "the library's own SHAP values"
    np.testing.assert_array_equal(found.values, booster.get_feature_importance(Pool(X, cat_features=["x1"]), type="ShapValues")[:, :-1])
    with pytest.raises(InputError, match="Trees are read from"): trees_of("a path")


# the values

def test_path_dependent_values_are_the_librarys_own(fitted):
    for name in makers:
        X, model = table(missing=gaps(name), grid=8, seed=1)[0], fitted(name)
        if name.startswith("lightgbm"):
            theirs = model.predict(X, pred_contrib=True)/(20 if "forest" in name else 1)
        elif name.startswith("xgboost"): theirs = model.get_booster().predict(xgb.DMatrix(X), pred_contribs=True)
        elif "by" in name or not name.startswith("catboost"): continue   # CatBoost has no values of its own for nested trees
        else: theirs = model.get_feature_importance(Pool(X), type="ShapValues")
        values, base = tree_shap(model, X)
        np.testing.assert_allclose(values, theirs[:, :-1], rtol=0, atol=rough(name)*10, err_msg=name)
        np.testing.assert_allclose(base, theirs[0, -1], rtol=0, atol=rough(name)*10, err_msg=name)


@pytest.mark.parametrize("name", ["tree", "forest", "extra trees", "gradient boosting"])
def test_path_dependent_values_of_scikit_learn_are_shaps(fitted, name):
    X = table(grid=8, seed=1)[0].head(40)
    theirs = load_shap().TreeExplainer(fitted(name)).shap_values(X.to_numpy(), check_additivity=False)
    np.testing.assert_allclose(tree_shap(fitted(name), X).values, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", makers)
def test_interventional_values_are_brute_force(fitted, name):
    model, rows, background = fitted(name), table(missing=gaps(name), grid=8, seed=3)[0].head(3), table(missing=gaps(name), grid=8, seed=4)[0].head(15)
    values, base = tree_shap(model, rows, background=background)
    np.testing.assert_allclose(base, margin(model, background).mean(), rtol=0, atol=rough(name))
    expected = [shapley(against(model, row, background), 4) for _, row in rows.iterrows()]
    np.testing.assert_allclose(values, expected, rtol=0, atol=rough(name)*10)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10_000), f=st.integers(1, 14), leaves=st.integers(2, 60), n=st.integers(1, 80), missing=st.sampled_from([0.0, 0.3]), most=st.integers(0, 10), with_background=st.booleans())
def test_values_do_not_depend_on_the_tables(seed, f, leaves, n, missing, most, with_background):
    X, y = table(120, f, seed, missing)
    model = lightgbm.LGBMRegressor(n_estimators=3, num_leaves=leaves, min_child_samples=1, verbose=-1, n_jobs=1).fit(X, y)
    trees, rows, background = trees_of(model), X.head(n).to_numpy(), X.tail(9).to_numpy() if with_background else None
    whole = shap_tables(trees, 2**most, background)
    alone = shap_tables(trees, 1, background)
    assert all(bits <= most for bits in whole.tables[0])
    np.testing.assert_allclose(explain_rows(whole, rows), explain_rows(alone, rows), rtol=0, atol=1e-12)
    assert whole.base == pytest.approx(alone.base, abs=1e-12)
    if background is None: np.testing.assert_allclose(explain_rows(whole, rows), model.predict(X.head(n), pred_contrib=True)[:, :-1], rtol=0, atol=1e-12)
    else: np.testing.assert_allclose(explain_rows(whole, rows).sum(axis=1) + whole.base, model.predict(X.head(n)), rtol=0, atol=1e-12)


def test_deep_paths_through_many_features():
    X, y = table(n=3000, f=40)
    y = pd.Series(np.cumsum(X.to_numpy() > 0.2, axis=1).argmax(axis=1) + X.to_numpy() @ np.linspace(1, 2, 40))
    model = lightgbm.LGBMRegressor(n_estimators=3, num_leaves=800, min_child_samples=1, verbose=-1, n_jobs=1).fit(X, y)
    tables = shap_tables(trees_of(model), 3000)
    assert len(tables.deep) > 100 and max(len(leaf[1]) for leaf in tables.deep) > 14
    np.testing.assert_allclose(explain_rows(tables, X.to_numpy()), model.predict(X, pred_contrib=True)[:, :-1], rtol=0, atol=1e-10)
    rows, background = X.head(20), X.tail(40)
    values, base = tree_shap(model, rows, background=background)
    np.testing.assert_allclose(values.sum(axis=1) + base, model.predict(rows), rtol=0, atol=1e-10)


@pytest.mark.parametrize("share", [(0.5, 0.25, 0.125), (0.5, 0.0, 0.7), (0.0, 0.0, 0.3), (0.0, 0.0, 0.0), (1e-5, 1e-9, 1.0), (1.0, 1.0, 1.0)])
def test_a_deep_leaf_is_its_table(share):
    "Also where nobody, or nearly nobody, went this way in training"
    share, kinds, rules = np.array(share), np.arange(8), tables_module.quadrature()
    codes, out = np.array([kinds >> j & 1 for j in range(3)], np.uint16), np.zeros((3, 8))
    lines, ends = np.array([[j, 1, 1] for j in range(3)]), np.arange(1, 4)
    tables_module.add_deep_leaf(codes, 2.0, np.arange(3), share, lines, ends, rules, out)
    points, weights, sizes = rules
    np.testing.assert_allclose(out.T, tables_module.leaf_table(2.0, share, points[3, :sizes[3]], weights[3, :sizes[3]]), rtol=0, atol=1e-14)
    for kind in kinds: np.testing.assert_allclose(out.T[kind], shapley(lambda known: 2.0*np.prod([kind >> j & 1 if j in known else share[j] for j in range(3)]), 3), rtol=0, atol=1e-14)


def test_a_path_through_more_features_than_bits_is_the_librarys(monkeypatch):
    X, y = table(f=8)
    model = lightgbm.LGBMRegressor(n_estimators=5, num_leaves=60, min_child_samples=1, verbose=-1, n_jobs=1).fit(X, y)
    expected = tree_shap(model, X)
    monkeypatch.setattr(tables_module, "most_features", 3)
    found = tree_shap(model, X)
    assert expected.facts["route"] == "tabulated leaves" and found.facts["route"] == "the library's own SHAP values"
    np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="3 features at most.*smaller max_depth"): tree_shap(model, X, background=X)


def test_tables_stay_within_their_memory(monkeypatch):
    X, y = table(n=2000, f=12)
    trees = trees_of(lightgbm.LGBMRegressor(n_estimators=20, num_leaves=120, min_child_samples=3, verbose=-1, n_jobs=1).fit(X, y))
    large = shap_tables(trees, 2000)
    monkeypatch.setattr(tables_module, "most_numbers", 20_000)
    small = shap_tables(trees, 2000)
    assert len(small.tables[-1]) <= 20_000 < len(large.tables[-1])
    np.testing.assert_allclose(explain_rows(small, X.to_numpy()), explain_rows(large, X.to_numpy()), rtol=0, atol=1e-12)


def test_every_leaf_is_in_one_table_or_deep():
    X, y = table(n=500, f=10)
    trees = trees_of(lightgbm.LGBMRegressor(n_estimators=5, num_leaves=60, min_child_samples=1, verbose=-1, n_jobs=1).fit(X, y))
    for n in (1, 10, 1000):
        plan = plan_tables(trees, n)
        below = []
        for top in plan.tables:
            stack = [top]
            while stack:
                node = stack.pop()
                if trees.left[node] < 0: below.append(node)
                else: stack += [trees.left[node], trees.right[node]]
        assert sorted([*below, *plan.deep]) == list(np.flatnonzero(trees.left < 0))


def test_threads_and_blocks_change_nothing(monkeypatch):
    X, y = table(n=1000, f=6, missing=0.1)
    tables = shap_tables(trees_of(lightgbm.LGBMRegressor(n_estimators=10, verbose=-1, n_jobs=1).fit(X, y)), 1000)
    whole, told = explain_rows(tables, X.to_numpy()), []
    monkeypatch.setattr(tables_module, "most_rows", 130)
    np.testing.assert_array_equal(explain_rows(tables, X.to_numpy(), 3, told.append), whole)
    assert told == [130]*7 + [90]
    assert explain_rows(tables, X.to_numpy()[:0]).shape == (0, 6)


def test_a_tree_without_rows_in_a_leaf_is_no_division_by_zero(fitted):
    model = CatBoostRegressor(iterations=10, depth=8, **silent)
    X, y = table(n=60, f=4, grid=2)
    model.fit(X, y)
    trees = trees_of(model)
    assert (trees.cover == 0).any()
    with np.errstate(all="raise"): values, base = tree_shap(model, X)
    np.testing.assert_allclose(values, model.get_feature_importance(Pool(X), type="ShapValues")[:, :-1], rtol=0, atol=1e-10)
    unseen = pd.DataFrame(np.random.default_rng(5).normal(size=(50, 4))*3, columns=X.columns)
    np.testing.assert_allclose(tree_shap(model, unseen).values.sum(axis=1) + base, model.predict(unseen), rtol=0, atol=1e-10)
    np.testing.assert_allclose(tree_shap(model, unseen, background=X).values.sum(axis=1) + margin(model, X).mean(), model.predict(unseen), rtol=0, atol=1e-10)
