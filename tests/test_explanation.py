"The explanation as an object: every number against brute force, row by row"
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import spearmanr

from alphaplus_ml.core import InputError, MemoryRecorder, Result, records
from alphaplus_ml.explain.agreement import agreement_of, groups_of, ranks, strongest_partner, summed_groups
from alphaplus_ml.explain.base import Attribution
from alphaplus_ml.explain.explanation import explanation_from
from alphaplus_ml.explain.records import json_value, local_frame

pytestmark = pytest.mark.filterwarnings("error")
names = ["a", "b", "c", "d", "e", "f"]


def panel_index(n, s=2, start="2018-01-01"):
    return pd.MultiIndex.from_product([pd.date_range(start, periods=n//s, tz="UTC"), [f"S{k}" for k in range(s)]], names=["timestamp", "symbol"])


def made(n=40, f=6, seed=0, index=None, **fields):
    "SHAP exact, LIME with a base per row and a gap, ELI5 without an answer"
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n, f)), panel_index(n) if index is None else index, names[:f])
    shap, lime = 0.01*rng.normal(size=(n, f)), 0.01*rng.normal(size=(n, f))
    lime[3, 0] = np.nan
    computed = {"shap": Attribution(shap, 0.5), "lime": Attribution(lime, rng.normal(size=n), {"n_perturbations": 100}, {"surrogate_r2": rng.uniform(size=n)}),
                "eli5": Attribution(np.full((n, f), np.nan), np.nan, {"reason": "no paths"})}
    return explanation_from(computed, X, shap.sum(axis=1) + 0.5, {"shap": "tables"}, **fields)


# --- ranks and agreement, from their definitions ---

values_with_gaps = arrays.arrays(float, (3, 5), elements=st.one_of(st.just(np.nan), st.integers(-3, 3).map(float)))


@given(values_with_gaps)
def test_ranks_are_places_among_what_has_a_value(values):
    for row, places in zip(values, ranks(values)):
        told = [j for j in range(5) if not np.isnan(row[j])]
        ordered = sorted(told, key=lambda j: (-abs(row[j]), j))
        assert [places[j] for j in ordered] == list(range(1, len(told) + 1)) and all(places[j] == 0 for j in range(5) if j not in told)


def agreement_by_hand(a, b, k):
    "One prediction's three measures, by walking over its features"
    both = [j for j in range(len(a)) if not np.isnan(a[j]) and not np.isnan(b[j])]
    sizes = [[abs(x[j]) for j in both] for x in (a, b)]
    rank = spearmanr(*sizes).statistic if len(both) >= 3 and all(len(set(s)) > 1 for s in sizes) else np.nan
    telling = [j for j in both if a[j] != 0 and b[j] != 0]
    sign = np.mean([(a[j] > 0) == (b[j] > 0) for j in telling]) if telling else np.nan
    first = [{j for j in sorted(both, key=lambda j: (-abs(x[j]), j))[:k] if x[j] != 0} for x in (a, b)]
    top = len(first[0] & first[1])/max(map(len, first)) if all(first) else np.nan
    return rank, sign, top


@settings(max_examples=150, deadline=None)
@given(values_with_gaps, values_with_gaps, st.integers(1, 6))
def test_agreement_equals_a_walk_over_the_features(a, b, k):
    found = agreement_of({"one": pd.DataFrame(a), "two": pd.DataFrame(b)}, k)
    expected = [agreement_by_hand(*pair, k) for pair in zip(a, b)]
    np.testing.assert_allclose(found[["rank_correlation", "same_sign", "top_k"]], expected, atol=1e-12)


def test_agreement_with_itself_is_whole_and_its_summary_counts():
    explanation = made()
    same = agreement_of({"one": explanation.values["shap"], "two": 3*explanation.values["shap"]})
    np.testing.assert_allclose(same, 1)
    means = explanation.agreement(k=2)
    assert means.index.tolist() == ["shap, lime", "shap, eli5", "lime, eli5"] and means.loc["shap, eli5"].drop("predictions")[:3].isna().all()
    assert means.top_k_by_chance.tolist() == [2/6]*3 and means.predictions.tolist() == [40, 0, 0]
    np.testing.assert_allclose(means.loc["shap, lime", "top_k"], explanation.agreement(2, by_prediction=True).loc["shap, lime", "top_k"].mean())


def test_two_methods_that_know_nothing_meet_chance():
    rng = np.random.default_rng(0)
    found = agreement_of({"one": pd.DataFrame(rng.normal(size=(4000, 20))), "two": pd.DataFrame(rng.normal(size=(4000, 20)))}, 5).mean()
    np.testing.assert_allclose(found, [0, 0.5, 5/20], atol=0.02)


def test_the_partner_of_an_interaction_is_found():
    rng = np.random.default_rng(1)
    X = pd.DataFrame(rng.normal(size=(500, 5)), columns=list("abcde"))
    for partner in "bcde": assert strongest_partner("a", 0.1*X.a + X.a*X[partner], X.where(rng.random(X.shape) > 0.05)) == partner


# --- the explanation ---

def test_additivity_is_told_row_by_row():
    explanation = made()
    assert explanation.additivity_error < 1e-15 and explanation.base_value == 0.5
    off = explanation.prediction.copy(); off.iloc[7] += 0.25
    wrong = explanation_from({"shap": Attribution(explanation.values["shap"].to_numpy(), 0.5)}, explanation.features, off)
    assert wrong.additivity_error == pytest.approx(0.25) and wrong.additivity_errors().argmax() == 7
    alone = explanation_from({"lime": Attribution(explanation.values["lime"].to_numpy(), 0.5)}, explanation.features, off)
    assert np.isnan(alone.additivity_error) and alone.rows()[0]["metadata"]["additivity_error"] is None


def test_importance_and_ranks_follow_the_method_that_is_asked():
    explanation = made()
    for method in ("shap", "lime"):
        expected = {name: np.nanmean(np.abs(explanation.values[method][name])) for name in names}
        assert explanation.importance(method).to_dict() == pytest.approx(expected) and explanation.importance(method).is_monotonic_decreasing
    assert explanation.importance("eli5").isna().all() and explanation.ranks("eli5").isna().all(axis=None)
    assert explanation.ranks("lime").isna().sum().sum() == 1 and explanation.ranks().iloc[0].tolist() == ranks(explanation.values["shap"].to_numpy())[0].tolist()
    assert explanation.importance().equals(explanation.importance("shap"))


@pytest.mark.parametrize("by", [{"a": "x", "c": "x", "f": "y"}, pd.Series({"a": "x", "b": "x", "c": "x", "d": "x", "e": "x", "f": "x", "unknown": "z"})])
def test_groups_add_up_and_keep_additivity(by):
    explanation = made()
    grouped = explanation.grouped(by)
    for method in explanation.values:
        for group in grouped.values[method]:
            members = [name for name in names if dict(by).get(name, name) == group]
            np.testing.assert_allclose(grouped.values[method][group], sum(explanation.values[method][name] for name in members), atol=1e-15)
    assert grouped.additivity_error < 1e-15 and set(grouped.to_frame().feature_name) == set(map(str, grouped.features))
    alone = [group for group in grouped.features if group in names]
    pd.testing.assert_frame_equal(grouped.features[alone], explanation.features[alone])
    assert grouped.features["x"].isna().all() and ("y" not in grouped.features or grouped.features["y"].equals(explanation.features["f"].rename("y")))


def test_look_back_steps_in_any_order_of_columns():
    rng = np.random.default_rng(0)
    columns = [f"{name}[t-{step}]" for step in range(11) for name in ("mom[x]", "vol")]
    X = pd.DataFrame(rng.normal(size=(20, 22)), panel_index(20), columns)[list(rng.permutation(columns))]
    explanation = explanation_from({"shap": Attribution(X.to_numpy(), 0.0)}, X, X.sum(axis=1))
    steps = explanation.steps()
    assert steps.columns.tolist() == [f"t-{step}" for step in range(10, -1, -1)] and set(steps.index) == {"mom[x]", "vol"}
    assert steps.loc["mom[x]", "t-3"] == pytest.approx(X["mom[x][t-3]"].abs().mean())
    np.testing.assert_allclose(explanation.grouped("step").values["shap"]["t-10"], X["mom[x][t-10]"] + X["vol[t-10]"])
    np.testing.assert_allclose(explanation.grouped("feature").values["shap"]["vol"], X[[c for c in X if c.startswith("vol")]].sum(axis=1))


def test_means_over_time_and_parts():
    explanation = made(n=240)
    monthly = explanation.over_time("lime", freq="M")
    times = explanation.features.index.get_level_values("timestamp")
    for period, row in monthly.iterrows():
        inside = (times.year == period.year) & (times.month == period.month)
        np.testing.assert_allclose(row, np.nanmean(explanation.values["lime"][inside], axis=0))
    assert len(explanation.over_time()) <= 60 and explanation.over_time(absolute=True).min(axis=None) >= 0
    part = explanation.between("2018-02-01", "2018-02-28")
    assert len(part.features) == 56 and part.explanation_id != explanation.explanation_id and part.facts["shap"]["part_of"] == explanation.explanation_id
    pd.testing.assert_series_equal(part.base_values["lime"], explanation.base_values["lime"][part.features.index])
    pd.testing.assert_frame_equal(part.by_row["lime"], explanation.by_row["lime"].loc[part.features.index])
    assert part.additivity_error < 1e-15 and len(part.rows()) == 57*6
    chosen = explanation.select([explanation.features.index[9], explanation.features.index[2]])
    assert chosen.features.index.tolist() == explanation.features.index[[2, 9]].tolist()
    assert len(explanation.select(explanation.prediction > 0.5).features) == (explanation.prediction > 0.5).sum()
    gap = explanation.select(np.isin(times.month, [1, 4])).over_time(freq="M")
    assert len(gap) == 4 and gap.isna().all(axis=1).tolist() == [False, True, True, False]


def test_nothing_that_was_handed_over_is_changed():
    explanation = made()
    before = {method: values.copy() for method, values in explanation.values.items()}
    X = explanation.features.copy()
    explanation.grouped({"a": "x"}), explanation.rows(), explanation.agreement(), explanation.over_time(), explanation.to_html()
    for method in before: pd.testing.assert_frame_equal(before[method], explanation.values[method])
    pd.testing.assert_frame_equal(X, explanation.features)


# --- rows ---

def test_rows_say_what_the_frames_say():
    explanation = made(model_name="m", model_version="7", background_rows=9)
    rows = explanation.rows()
    assert isinstance(explanation, Result) and len(rows) == 41*6
    json.dumps(rows, allow_nan=False)
    for k, row in enumerate(rows[:240]):
        i, name = divmod(k, 6)[0], names[k % 6]
        assert row["feature_name"] == name and row["prediction_id"] == f"{explanation.explanation_id}-{i}" and row["feature_value"] == explanation.features.iloc[i][name]
        assert row["shap_value"] == explanation.values["shap"].iloc[i][name] and row["eli5_value"] is None
        assert row["lime_value"] == explanation.values["lime"].iloc[i][name] if (i, name) != (3, "a") else row["lime_value"] is None
        facts = row["metadata"]
        assert facts["lime"] == {"n_perturbations": 100, "surrogate_r2": explanation.by_row["lime"].surrogate_r2.iloc[i], "base_value": explanation.base_values["lime"].iloc[i]}
        assert facts["eli5"]["reason"] == "no paths" and facts["eli5"]["base_value"] is None and facts["background_rows"] == 9
    whole = rows[-1]["metadata"]
    assert whole["lime"]["surrogate_r2"] == pytest.approx(explanation.by_row["lime"].surrogate_r2.mean()) and whole["n_predictions"] == 40


def test_a_prediction_has_one_dictionary_and_a_gap_has_no_rank():
    explanation = made()
    lime_first = explanation_from({"lime": Attribution(explanation.values["lime"].to_numpy(), 0.0)}, explanation.features, explanation.prediction)
    frame = local_frame(lime_first)
    assert frame.metadata[0] is frame.metadata[5] and frame.metadata[5] is not frame.metadata[6]
    assert frame.feature_importance_rank.isna().sum() == 1 and frame.feature_importance_rank.isna()[18]
    assert records(frame)[18]["feature_importance_rank"] is None and type(records(frame)[19]["feature_importance_rank"]) is int


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=3), st.floats().map(np.float64), st.integers(-5, 5).map(np.int32)),
                    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=3)), max_leaves=8))
def test_metadata_is_json_whatever_a_method_says(value):
    json.dumps(json_value(value), allow_nan=False)


def test_other_kinds_of_rows():
    for index in (pd.RangeIndex(10), pd.date_range("2018", periods=10, tz="UTC"), pd.Index(list("abcdefghij")), pd.date_range("2018", periods=10)):
        explanation = made(n=10, index=index)
        recorder = MemoryRecorder()
        assert recorder.append(explanation.table, explanation.rows()) == 66 and explanation.to_html().startswith("<!DOCTYPE html>")
    numbered = explanation_from({"shap": Attribution(np.ones((3, 2)), 0.0)}, pd.DataFrame(np.ones((3, 2))), np.full(3, 2.0))
    assert numbered.to_frame().feature_name.tolist() == ["0", "1"]*3 and numbered.grouped({0: "x"}).values["shap"].columns.tolist() == ["x", 1]


refusals = {
    "unknown method": (lambda e: e.importance("sharp"), "Did you mean shap"), "unknown frequency": (lambda e: e.over_time(freq="S"), "frequency"),
    "a row that is not there": (lambda e: e.waterfall(40), "position below 40"), "an empty selection": (lambda e: e.select([]), "at least one row"),
    "a short mask": (lambda e: e.select(np.array([True, False])), "one boolean for each of the 40 rows"), "an empty period": (lambda e: e.between("2030-01-01"), "They lie between"),
    "steps of plain columns": (lambda e: e.steps(), "look-back|Look-back"), "groups of strangers": (lambda e: e.grouped({"z": "x"}), "some of the features"),
    "an unknown grouping": (lambda e: e.grouped("category"), "mapping"), "an unknown feature": (lambda e: e.dependence("z"), "feature in this explanation"),
    "k of zero": (lambda e: e.agreement(0), "At least one"), "no lime": (lambda e: e.select([e.features.index[0]]).grouped({"a": "x"}).lime_bars(99), "position below 1"),
    "nothing to show": (lambda e: e.bar(0), "at least one feature"),
    "values of another shape": (lambda e: explanation_from({"shap": Attribution(np.ones((2, 2)), 0.0)}, e.features, e.prediction), "40 rows and 6 columns"),
    "no method": (lambda e: explanation_from({}, e.features, e.prediction), "at least one method"),
    "time without timestamps": (lambda e: made(n=10, index=pd.RangeIndex(10)).over_time(), "timestamps"),
    "one method alone": (lambda e: agreement_of({"shap": e.values["shap"]}), "two methods"),
}


@pytest.mark.parametrize("case", refusals)
def test_refusals(case):
    call, message = refusals[case]
    with pytest.raises(InputError, match=message): call(made())
