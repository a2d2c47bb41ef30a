"LIME against the lime package, fed with the same random rows and with its own; bins, gaps, windows, refusals"
import tracemalloc
import warnings

import lightgbm
import numpy as np
import pandas as pd
import pytest
from catboost import CatBoostRegressor
from hypothesis import given, settings
from hypothesis import strategies as st
from lime.discretize import QuartileDiscretizer
from lime.lime_tabular import LimeTabularExplainer, RecurrentTabularExplainer
from scipy.stats import chisquare, kstest, truncnorm
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from xgboost import XGBRegressor

from alphaplus_ml.core import InputError
from alphaplus_ml.explain import lime_values as module
from alphaplus_ml.explain.base import Attribution, WindowModel, explainer_for, explainers, flatten_windows, margin, methods, over_windows
from alphaplus_ml.explain.lime_values import bin_conditions, lime_values

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning", "error::FutureWarning")
names = [f"x{i}" for i in range(8)]
rng = np.random.default_rng(0)
X = pd.DataFrame(rng.normal(size=(500, 8)), columns=names) * [1, 2, .5, 1, 1, 10, 1, 1] + [0, 5, 0, 0, -3, 0, 0, 0]
y = X.x0.clip(upper=.5) + X.x1*X.x2 - X.x3 + .2*X.x5 + rng.normal(scale=.3, size=500)
boosted = lightgbm.LGBMRegressor(n_estimators=40, num_leaves=8, verbose=-1, n_jobs=1).fit(X, y)


def ask(values): return boosted.predict(pd.DataFrame(values, columns=names))
def told(one, f): return np.array([dict(one.local_exp[1])[i] for i in range(f)])


def by_lime(seed, rows, discretize, n=1000):
    explainer = LimeTabularExplainer(X.to_numpy(), mode="regression", feature_selection="none", discretize_continuous=discretize, random_state=seed)
    found = [explainer.explain_instance(row, ask, num_features=8, num_samples=n) for row in rows.to_numpy()]
    return np.array([told(one, 8) for one in found]), np.array([one.score for one in found])


# --- lime's own random rows give lime's own line ---

def feed(monkeypatch, explainer, row, n, discretize):
    "Let lime draw, remember what it drew, and hand the same to lime_values"
    kept = explainer._LimeTabularExplainer__data_inverse(row, n)
    monkeypatch.setattr(explainer, "_LimeTabularExplainer__data_inverse", lambda *_: kept)
    inverse = kept[1][1:]
    if discretize: drawn = explainer.discretizer.discretize(inverse).T.astype(np.int8)
    else: drawn = ((inverse - explainer.scaler.mean_)/explainer.scaler.scale_).T
    monkeypatch.setattr(module._Bins if discretize else module._Normals, "draw", lambda *_: (drawn, inverse))


@pytest.mark.parametrize("discretize", [True, False])
@pytest.mark.parametrize("width", [None, 0.9])
@pytest.mark.parametrize("place", range(4))
def test_the_same_random_rows_give_the_same_explanation_as_lime(monkeypatch, discretize, width, place):
    explainer = LimeTabularExplainer(X.to_numpy(), mode="regression", feature_selection="none", discretize_continuous=discretize, kernel_width=width, random_state=place)
    row = X.iloc[[place*100]]
    feed(monkeypatch, explainer, row.to_numpy()[0], 1500, discretize)
    theirs = explainer.explain_instance(row.to_numpy()[0], ask, num_features=8, num_samples=1500)
    ours = lime_values(boosted, row, X, n_perturbations=1500, n_seeds=1, discretize_continuous=discretize, kernel_width=width)
    np.testing.assert_allclose(ours.values[0], told(theirs, 8), atol=1e-8)
    np.testing.assert_allclose([ours.base[0], ours.by_row["surrogate_r2"][0], ours.by_row["local_prediction"][0]],
                               [theirs.intercept[1], theirs.score, theirs.local_pred[0]], atol=1e-8)


@pytest.mark.parametrize("discretize", [True, False])
def test_own_random_rows_agree_with_lime_as_lime_does_with_itself(discretize):
    rows = X.head(25)
    lime = [by_lime(seed, rows, discretize) for seed in range(3)]
    ours = [lime_values(boosted, rows, X, seed=seed, n_seeds=1, n_perturbations=1000, discretize_continuous=discretize) for seed in range(3)]
    def correlation(a, b): return np.mean([np.corrcoef(one, other)[0, 1] for one, other in zip(a, b)])
    among_lime = np.mean([correlation(lime[i][0], lime[j][0]) for i, j in ((0, 1), (0, 2), (1, 2))])
    with_ours = np.mean([correlation(one.values, theirs) for one in ours for theirs, _ in lime])
    assert among_lime > 0.9 and abs(with_ours - among_lime) < 0.25*(1 - among_lime) + 0.002
    scores = np.mean([r2 for _, r2 in lime]), np.mean([one.by_row["surrogate_r2"] for one in ours])
    assert abs(scores[0] - scores[1]) < 0.02


@pytest.mark.parametrize("discretize", [True, False])
def test_the_mean_of_many_seeds_is_limes_mean(discretize):
    row, seeds = X.iloc[[7]], range(40)
    explainer = LimeTabularExplainer(X.to_numpy(), mode="regression", feature_selection="none", discretize_continuous=discretize, random_state=0)
    lime = np.array([told(explainer.explain_instance(row.to_numpy()[0], ask, num_features=8, num_samples=400), 8) for _ in seeds])
    ours = np.array([lime_values(boosted, row, X, seed=seed, n_seeds=1, n_perturbations=400, discretize_continuous=discretize).values[0] for seed in seeds])
    error = np.sqrt((lime.var(axis=0, ddof=1) + ours.var(axis=0, ddof=1))/len(seeds))
    assert (np.abs(lime.mean(axis=0) - ours.mean(axis=0)) < 4*error).all()
    assert 0.7 < np.linalg.norm(ours.std(axis=0))/np.linalg.norm(lime.std(axis=0)) < 1.4, "one line is as noisy as lime's"


# --- bins ---

columns = st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-100, 100, allow_subnormal=False)), min_size=4, max_size=40)

@given(columns)
@settings(max_examples=150, deadline=None)
def test_bins_are_limes(values):
    column = np.array(values)
    lime = QuartileDiscretizer(column[:, None], [], ["x"], random_state=0)
    edges = module._quartiles(column)
    bins, table = module._bin_numbers(column[:, None], edges[None])[:, 0], module._bin_table(column, edges)
    assert np.array_equal(bins, lime.discretize(column[:, None])[:, 0])
    assert table[4, 0] == 0 and table[:, 0].sum() == len(column)
    for number in np.unique(bins):
        inside = column[bins == number]
        mean, spread, low, high = table[number, 1:]
        assert np.isclose(mean, lime.means[0][number], atol=1e-9) and np.isclose(spread, lime.stds[0][number], atol=1e-9)
        if np.ptp(inside): assert (low, high) == (lime.mins[0][number], lime.maxs[0][number])
        else: assert mean == low == high == inside[0]


@given(columns, st.integers(0, 10))
@settings(max_examples=100, deadline=None)
def test_draws_stay_in_their_bins(values, gaps):
    column = np.array(values + [np.nan]*gaps)[:, None]
    space = module._Bins.of(column)
    drawn, rows = space.draw(np.random.default_rng(0), 200)
    met = np.unique(module._bin_numbers(column, space.edges))
    assert set(drawn[0]) <= set(met) and (np.isnan(rows[:, 0]) == (drawn[0] == 4)).all()
    kept = drawn[0] != 4
    assert (rows[kept, 0] >= np.nanmin(column)).all() and (rows[kept, 0] <= np.nanmax(column)).all()
    again = module._bin_numbers(rows, space.edges)[:, 0]
    edge = np.isin(rows[:, 0], space.edges)                 # a draw may fall on its bin's open end, as lime's may
    assert (again == drawn[0])[~edge].all()


def test_draws_have_limes_distribution():
    column = np.concatenate([np.random.default_rng(1).exponential(size=700), [np.nan]*100])
    space = module._Bins.of(column[:, None])
    drawn, rows = space.draw(np.random.default_rng(0), 40_000)
    observed = np.bincount(drawn[0], minlength=5)
    assert chisquare(observed, 40_000*np.array([175, 175, 175, 175, 100])/800).pvalue > 1e-4
    lime = QuartileDiscretizer(column[:700, None], [], ["x"], random_state=0)
    for number in range(4):
        mean, spread = lime.means[0][number], lime.stds[0][number]
        cut = truncnorm((lime.mins[0][number] - mean)/spread, (lime.maxs[0][number] - mean)/spread, mean, spread)
        assert kstest(rows[drawn[0] == number, 0], cut.cdf).pvalue > 1e-4


def test_a_bin_of_equal_values_gives_this_value_where_lime_gives_zero():
    data = np.column_stack([np.full(200, 100.), np.random.default_rng(0).integers(5, 8, 200)])
    explainer = LimeTabularExplainer(data, mode="regression", random_state=0)
    _, inverse = explainer._LimeTabularExplainer__data_inverse(data[0], 1000)
    assert set(inverse[1:, 0]) == {0.} and 0. in inverse[1:, 1], "lime still asks the model about a price of 0: if not, the notebook should no longer say so"
    _, rows = module._Bins.of(data).draw(np.random.default_rng(0), 1000)
    assert set(rows[:, 0]) == {100.} and set(rows[:, 1]) == {5., 6., 7.}


@given(st.lists(st.one_of(st.none(), st.floats(-1e4, 1e4, allow_subnormal=False)), min_size=4, max_size=30))
@settings(max_examples=60, deadline=None)
def test_the_words_of_a_bin_hold_for_its_values(values):
    frame = pd.DataFrame({"x": np.array(values, float)})
    words, bins = bin_conditions(frame, frame).x, module._bin_numbers(frame.to_numpy(), module._quartiles(frame.x.to_numpy())[None])[:, 0]
    assert words.str.startswith("x is missing").equals(frame.x.isna())
    assert pd.Series(bins).groupby(words.to_numpy()).nunique().max() == 1 or len(set(words)) < len(set(bins)), "one text, one bin"
    rounded = frame.x.map(lambda value: float(f"{value:.4g}"))
    for value, text in zip(rounded, words):
        if "missing" in text or "has a value" in text: continue
        assert eval(text.replace("<", "<=").replace("<==", "<=").replace(">", ">="), {"x": value}), (value, text)   # up to the four digits that are shown


def test_the_words_of_the_four_bins():
    known = pd.DataFrame({"x": [1., 2., 3., 4., 5.], "flag": [0., 0., 0., 0., 1.], "gap": np.nan})
    rows = pd.DataFrame({"x": [2., 2.5, 4., 4.5, np.nan], "flag": [0., 1., -1., np.nan, 0.], "gap": [1., np.nan, 1., 1., 1.]}, index=list("abcde"))
    words = bin_conditions(rows, known)
    assert words.x.tolist() == ["x <= 2", "2 < x <= 3", "3 < x <= 4", "x > 4", "x is missing"] and list(words.index) == list("abcde")
    assert words.flag.tolist() == ["flag <= 0", "flag > 0", "flag <= 0", "flag is missing", "flag <= 0"]
    assert words.gap.tolist() == ["gap has a value", "gap is missing", *["gap has a value"]*3]


# --- what a line is about ---

@pytest.mark.parametrize("shared", [True, False])
def test_a_linear_model_gives_back_its_slopes(shared):
    line = LinearRegression().fit(X, y)
    found = lime_values(line, X.head(5), X, discretize_continuous=False, shared_perturbations=shared, n_seeds=2)
    np.testing.assert_allclose(found.values, np.tile(line.coef_*X.std(ddof=0).to_numpy(), (5, 1)), rtol=2e-2, atol=2e-3)
    assert (found.by_row["surrogate_r2"] > 0.999).all() and (found.by_row["stability"] > 0.9999).all()
    np.testing.assert_allclose(found.by_row["local_prediction"], line.predict(X.head(5)), atol=0.05)


def test_a_step_gives_back_its_height():
    def step(rows): return 3.*(rows.x0 > X.x0.quantile(.75)) + 7
    found = lime_values(step, X, X, n_seeds=2)
    above = (X.x0 > X.x0.quantile(.75)).to_numpy()
    np.testing.assert_allclose(found.values[above, 0], 3, atol=.05)
    assert (found.values[~above, 0] < -0.4).all() and np.abs(found.values[:, 1:]).max() < 0.3
    assert (found.by_row["surrogate_r2"][above] > 0.99).all() and (found.by_row["surrogate_r2"][~above] < 0.7).all()


def test_intercept_and_values_add_up_to_the_lines_prediction():
    for discretize in (True, False):
        found = lime_values(boosted, X.head(30), X, n_perturbations=500, discretize_continuous=discretize)
        inputs = 1 if discretize else ((X - X.mean())/X.std(ddof=0)).head(30).to_numpy()
        np.testing.assert_allclose(found.base + (found.values*inputs).sum(axis=1), found.by_row["local_prediction"], atol=1e-10)
        assert np.array_equal(found.base, found.by_row["intercept"])


def test_values_do_not_depend_on_the_level_of_the_margin():
    ways = [lime_values(lambda rows: ask(rows) + level, X.head(3), X, n_perturbations=500) for level in (0, 1e6)]
    np.testing.assert_allclose(ways[0].values, ways[1].values, atol=1e-7)
    np.testing.assert_allclose(ways[0].by_row["surrogate_r2"], ways[1].by_row["surrogate_r2"], atol=1e-7)


# --- seeds and sharing ---

@pytest.mark.parametrize("discretize", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_a_row_is_explained_the_same_alone_and_among_others(monkeypatch, discretize, shared):
    options = dict(n_perturbations=300, n_seeds=2, discretize_continuous=discretize, shared_perturbations=shared)
    rows = X.iloc[40:90]
    found = lime_values(boosted, rows, X, **options)
    assert np.array_equal(found.values, lime_values(boosted, rows, X, **options).values)
    turned = lime_values(boosted, rows.iloc[::-1], X, **options)
    np.testing.assert_allclose(found.values, turned.values[::-1], atol=1e-12)
    for place in (0, 17, 49):
        np.testing.assert_allclose(found.values[place], lime_values(boosted, rows.iloc[[place]], X, **options).values[0], atol=1e-12)
    assert not np.allclose(found.values, lime_values(boosted, rows, X, seed=1, **options).values)


def test_without_sharing_many_rows_come_in_batches_of_bounded_size():
    sizes = []
    def watching(rows): sizes.append(len(rows)); return rows.to_numpy().sum(axis=1)
    lime_values(watching, X, X, n_perturbations=5000, n_seeds=1, shared_perturbations=False)
    assert sum(sizes) == 500 + 500*4999 and max(sizes)*8*8 <= 2**27
    sizes.clear()
    lime_values(watching, X, X, n_perturbations=5000, n_seeds=2)
    assert sorted(sizes) == [500, 2*4999], "shared: one call for all rows"


def test_errors_go_together_only_when_shared():
    twins = X.iloc[:2].copy(); twins.iloc[1] = twins.iloc[0] + 1e-9       # the same bins
    def pairs(shared): return np.array([lime_values(boosted, twins, X, seed=seed, n_seeds=1, n_perturbations=200, shared_perturbations=shared).values[:, 1] for seed in range(30)])
    together, apart = np.corrcoef(pairs(True).T)[0, 1], np.corrcoef(pairs(False).T)[0, 1]
    assert together > 0.99 and abs(apart) < 0.6


def test_several_seeds_are_averaged_and_their_agreement_is_the_correlation_around_zero():
    rows, options = X.head(4), dict(n_perturbations=300)
    found = lime_values(boosted, rows, X, n_seeds=3, **options)
    slopes, others = np.zeros((3, 4, 8)), np.zeros((3, 4, 3))
    space = module._Bins.of(X.to_numpy())
    for turn in range(3):
        drawn, values = space.draw(np.random.default_rng([0, turn]), 299)
        for place, row in enumerate(rows.to_numpy()):
            same = np.vstack([np.ones(8), (drawn == module._bin_numbers(row[None], space.edges).T).T])
            weights = np.exp(-(1 - same).sum(axis=1)/(2*.5625*8))
            answers = ask(np.vstack([row, values]))
            line = Ridge(alpha=1).fit(same, answers, weights)
            slopes[turn, place], others[turn, place] = line.coef_, [line.intercept_, line.predict(np.ones((1, 8)))[0], line.score(same, answers, weights)]
    np.testing.assert_allclose(found.values, slopes.mean(axis=0), atol=1e-10)
    told = np.column_stack([found.by_row[name] for name in ("intercept", "local_prediction", "surrogate_r2")])
    np.testing.assert_allclose(told, others.mean(axis=0), atol=1e-10)
    cosine = lambda a, b: a @ b/np.sqrt(a @ a*(b @ b))
    wanted = [np.mean([cosine(slopes[i, k], slopes[j, k]) for i, j in ((0, 1), (0, 2), (1, 2))]) for k in range(4)]
    np.testing.assert_allclose(found.by_row["stability"], wanted, atol=1e-10)


def test_more_random_rows_are_more_stable():
    few, many = (np.mean(lime_values(boosted, X.head(20), X, n_perturbations=n).by_row["stability"]) for n in (100, 4000))
    assert few < many and many > 0.98
    assert np.isnan(lime_values(boosted, X.head(2), X, n_perturbations=100, n_seeds=1).by_row["stability"]).all()


# --- gaps, constants, far away ---

def test_being_missing_has_a_value():
    gappy = X.assign(x0=X.x0.where(np.arange(500) % 4 > 0))
    def alarm(rows): return 5.*rows.x0.isna()
    found = lime_values(alarm, gappy, gappy)
    missing = gappy.x0.isna().to_numpy()
    np.testing.assert_allclose(found.values[missing, 0], 5, atol=.05)
    assert (found.by_row["surrogate_r2"][missing] > 0.99).all() and (found.values[~missing, 0] < 0).all()
    assert "reason" not in found.facts and np.isfinite(found.values).all()


def test_what_the_background_never_meets_has_no_value():
    row = X.head(2).assign(x0=[np.nan, 0.])
    found = lime_values(boosted, row, X, n_perturbations=500)
    assert np.array_equal(np.isnan(found.values), np.isnan(row.to_numpy()))
    assert found.facts["reason"] == "values in a bin that holds no background row: 1"
    space = module._Bins.of(X.to_numpy())
    drawn, values = space.draw(np.random.default_rng([0, 0]), 499)
    same = np.vstack([np.ones(8), (drawn == module._bin_numbers(row.to_numpy()[:1], space.edges).T).T])[:, 1:]     # the line goes through the other features
    weights = np.exp(-(1 - same).sum(axis=1)/(2*.5625*8))
    line = Ridge(alpha=1).fit(same, ask(np.vstack([row.to_numpy()[0], values])), weights)
    alone = lime_values(boosted, row.head(1), X, n_perturbations=500, n_seeds=1)
    np.testing.assert_allclose([*alone.values[0, 1:], *alone.by_row["local_prediction"]], [*line.coef_, line.predict(np.ones((1, 7)))[0]], atol=1e-10)
    constant = X.assign(x7=3.)
    for discretize in (True, False):
        found = lime_values(lambda rows: rows.x0 + rows.x7, constant.head(3).assign(x7=[3., 4., 3.]), constant, n_perturbations=500, discretize_continuous=discretize)
        assert np.isnan(found.values[:, 7]).tolist() == [False, True, False] and np.abs(found.values[[0, 2], 7]).max() < 1e-12
        assert np.isfinite(found.values[:, :7]).all()


def test_a_feature_without_a_single_value_is_explained_as_nothing():
    empty = X.assign(x3=np.nan)
    found = lime_values(lambda rows: rows.x0, empty.head(3), empty, n_perturbations=500)
    assert np.abs(found.values[:, 3]).max() < 1e-12 and np.isfinite(found.values).all()


def test_a_model_that_says_one_thing_adds_nothing():
    found = lime_values(lambda rows: np.full(len(rows), 0.1), X.head(3), X, n_perturbations=500)
    assert (found.values == 0).all() and np.allclose(found.base, 0.1, rtol=1e-15)
    assert np.isnan(found.by_row["surrogate_r2"]).all() and np.isnan(found.by_row["stability"]).all()
    assert found.facts["reason"] == "rows without R2, because the model answers their perturbations all alike: 3"


def test_a_row_far_from_everything_has_no_explanation():
    far = X.head(2).assign(x0=[0., 1e4])
    found = lime_values(boosted, far, X, n_perturbations=500, discretize_continuous=False)
    assert np.isnan(found.values[1]).all() and np.isfinite(found.values[0]).all() and np.isnan(found.base[1])
    assert all(np.isnan(numbers[1]) and np.isfinite(numbers[0]) for numbers in found.by_row.values())
    assert found.facts["reason"] == "rows so far from the background that all perturbations together weigh less than the row itself: 1"
    assert np.isfinite(lime_values(boosted, far, X, n_perturbations=500).values).all(), "bins have no far"


# --- any model ---

labels = pd.cut(y, [-np.inf, -1, 1, np.inf], labels=["falls", "stays", "rises"]).astype(str)
quiet = dict(iterations=10, verbose=False, allow_writing_files=False, thread_count=1)
models = {
    "lightgbm": lambda: boosted, "booster": lambda: boosted.booster_,
    "lightgbm classes": lambda: lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1).fit(X, y > 0),
    "xgboost": lambda: XGBRegressor(n_estimators=10, n_jobs=1).fit(X, y),
    "catboost": lambda: CatBoostRegressor(**quiet).fit(X, y), "nameless catboost": lambda: CatBoostRegressor(**quiet).fit(X.to_numpy(), y),
    "forest": lambda: RandomForestRegressor(5, random_state=0).fit(X, y), "histogram": lambda: HistGradientBoostingClassifier(max_iter=10).fit(X, y > 0),
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y > 0), "imputed": lambda: make_pipeline(SimpleImputer(), Ridge()).fit(X, y),
    "nameless": lambda: Ridge().fit(X.to_numpy(), y), "support vectors": lambda: SVR().fit(X, y), "function": lambda: (lambda rows: rows.x0),
}


@pytest.mark.parametrize("name", models)
@pytest.mark.filterwarnings("error")
def test_any_model_is_explained_on_its_margin(name):
    model, before = models[name](), X.copy()
    assert explainer_for(model, "lime") == "lime"
    found = explainers["lime"](model, X.head(6), background=X, n_perturbations=2000)
    assert isinstance(found, Attribution) and found.values.shape == (6, 8) and np.isfinite(found.values).all()
    assert set(found.by_row) == {"surrogate_r2", "intercept", "local_prediction", "stability"} and all(len(numbers) == 6 for numbers in found.by_row.values())
    pd.testing.assert_frame_equal(X, before)
    if name == "lightgbm classes": assert np.corrcoef(found.by_row["local_prediction"], margin(model, X.head(6)))[0, 1] > 0.8
    if name == "nameless": assert np.array_equal(found.values, lime_values(model, X.head(6).to_numpy(), X.to_numpy(), n_perturbations=2000).values)


def test_of_three_classes_one_is_named():
    model = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1).fit(X, labels)
    rises, falls = (lime_values(model, X, X, label=label, n_seeds=1, n_perturbations=1000).values[:, 3] for label in ("rises", "falls"))
    assert np.corrcoef(rises, X.x3)[0, 1] < -0.8 and np.corrcoef(falls, X.x3)[0, 1] > 0.8
    with pytest.raises(InputError, match="names it"): lime_values(model, X, X)


@pytest.mark.parametrize("options, said", [
    ({"background": None}, "distribution of the training rows"), ({"background": X.head(1)}, "at least four"), ({"background": X[names[::-1]]}, "order"),
    ({"background": X.iloc[:, :3]}, "columns"), ({"background": X.assign(x0="a")}, "numbers"), ({"X": X.iloc[:0]}, "at least one row"), ({"X": X.assign(x0=np.inf)}, "finite"),
    ({"n_perturbations": 9}, "more than 9 rows"), ({"n_perturbations": 0}, "more than"), ({"n_seeds": 0}, "Seeds"), ({"seed": -1}, "Seeds"),
    ({"kernel_width": 0.}, "positive"), ({"kernel_width": -1.}, "positive"), ({"kernel_width": np.nan}, "positive"), ({"kernel_width": np.inf}, "positive"),
    ({"discretize_continuous": False, "X": X.where(X > 0)}, "bin of its own"), ({"discretize_continuous": False, "background": X.where(X > 0)}, "bin of its own"),
    ({"model": Ridge()}, "fitted"), ({"model": lambda rows: np.log(rows.x0.where(rows.x0 > 0))}, "finite"),
    ({"model": Ridge().fit(X, y), "background": X.where(X > 0)}, "no missing values"),
])
def test_what_cannot_be_explained_is_refused(options, said):
    with pytest.raises(InputError, match=said): lime_values(**{"model": boosted, "X": X, "background": X, "n_perturbations": 200, **options})


def test_memory_does_not_grow_with_the_rows_beyond_the_answer():
    def peak(n):
        rows = pd.DataFrame(np.random.default_rng(0).normal(size=(n, 4)), columns=names[:4])
        tracemalloc.start()
        lime_values(lambda frame: frame.x0, rows, rows.head(100), n_perturbations=50, n_seeds=1)
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()
    assert peak(6000)[0] - peak(1000)[0] < 5000*1500, "about a kilobyte per row"


# --- windows ---

windows = np.random.default_rng(2).normal(size=(120, 4, 3))


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_windows_come_back_from_their_rows(n, w, f):
    cells = np.arange(n*w*f, dtype=float).reshape(n, w, f)
    flat = flatten_windows(cells, names[:f], index=range(10, 10 + n))
    seen = []
    over_windows(lambda given: seen.append(given) or given[:, 0, 0], w)(flat)
    assert np.array_equal(seen[0], cells) and list(flat.index) == list(range(10, 10 + n))
    for step in range(w):
        for place, name in enumerate(names[:f]): assert np.array_equal(flat[f"{name}[t-{w - 1 - step}]"], cells[:, step, place])


def test_windows_are_explained_as_limes_recurrent_explainer_does(monkeypatch):
    def sequence(given): return given[:, -1, 0]*given[:, -2, 1] + np.tanh(given[:, 0, 2])
    explainer = RecurrentTabularExplainer(windows, mode="regression", feature_names=["a", "b", "c"], feature_selection="none", random_state=0)
    flat = flatten_windows(windows, ["a", "b", "c"])
    assert [name.replace("[", "_").replace("]", "") for name in flat] == explainer.feature_names
    feed(monkeypatch, explainer, flat.to_numpy()[5], 800, True)
    theirs = explainer.explain_instance(windows[5], sequence, num_features=12, num_samples=800)
    ours = lime_values(over_windows(sequence, 4), flat.iloc[[5]], flat, n_perturbations=800, n_seeds=1)
    np.testing.assert_allclose(ours.values[0], told(theirs, 12), atol=1e-8)


def test_wrong_windows_are_refused():
    with pytest.raises(InputError, match="n x w x f"): flatten_windows(windows[0], ["a", "b", "c"])
    with pytest.raises(InputError, match="n x w x f"): flatten_windows(windows, ["a", "b"])
    with pytest.raises(InputError, match="at least one bar"): over_windows(len, 0)
    with pytest.raises(InputError, match="columns per feature"): over_windows(len, 5)(flatten_windows(windows, ["a", "b", "c"]))


def test_a_recurrent_network_is_explained():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((4, 3)), keras.layers.LSTM(4), keras.layers.Dense(1)])
    network.compile(keras.optimizers.Adam(0.05), "mse")
    network.fit(windows, windows[:, -1, 0], epochs=30, batch_size=20, verbose=0)
    flat, model = flatten_windows(windows, ["a", "b", "c"]), over_windows(network, 4)
    assert isinstance(model, WindowModel) and explainer_for(model, "lime") == "lime"
    np.testing.assert_allclose(margin(model, flat), network.predict(windows, verbose=0)[:, 0], atol=1e-5)
    found = lime_values(model, flat.head(20), flat, discretize_continuous=False, n_perturbations=1000)
    assert flat.columns[np.abs(found.values).mean(axis=0).argmax()] == "a[t-0]" and (found.by_row["stability"] > 0.95).all()


def test_lime_is_one_of_the_methods(): assert "lime" in methods()
