"Drift of explanations: the test keeps its level when days remember each other, and finds what was planted"
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.signal import lfilter

from alphaplus_ml.core import InputError, MemoryRecorder, Result
from alphaplus_ml.explain.base import Attribution
from alphaplus_ml.explain.drift import columns_of_drift, compare_means, explanation_drift, mean_error
from alphaplus_ml.explain.explanation import explanation_from

pytestmark = pytest.mark.filterwarnings("error")


def autoregression(rng, phi, n, k):
    return np.sqrt(1 - phi**2)*lfilter([1], [1, -phi], rng.normal(size=(n + 300, k)), axis=0)[300:]


def explained(values, start="2018-01-01", X=None, s=1, **fields):
    n, f = len(values)//s, values.shape[1]
    index = pd.MultiIndex.from_product([pd.date_range(start, periods=n, tz="UTC"), [f"S{k}" for k in range(s)]], names=["timestamp", "symbol"])
    X = pd.DataFrame(values if X is None else X, index, [f"f{k}" for k in range(f)])
    return explanation_from({"shap": Attribution(np.asarray(values, float), 0.0)}, X, np.nansum(values, axis=1), **fields)


def rejected(drift, aspect=""): return float((drift.changes[f"{aspect}p_value"] < 0.05).mean())


# --- size and power ---

def test_the_standard_error_is_the_known_one():
    rng = np.random.default_rng(0)
    for phi in (0, 0.5, 0.9):
        found = np.mean([mean_error(series)[0]**2 for series in autoregression(rng, phi, 2000, 100).T])
        assert found == pytest.approx((1 + phi)/(1 - phi)/2000, rel=0.2)
    series = rng.normal(size=50)
    _, terms = mean_error(series)
    waves = [np.sqrt(2/50)*sum(np.cos(np.pi*j*(t + 0.5)/50)*(x - series.mean()) for t, x in enumerate(series)) for j in range(1, terms + 1)]
    assert mean_error(series)[0] == pytest.approx(np.sqrt(np.mean(np.square(waves))/50))     # from the definition


@pytest.mark.parametrize("phi, limit", [(0.0, 0.11), (0.8, 0.11), (0.95, 0.13)])
def test_two_periods_without_change_are_rarely_called_changed(phi, limit):
    rng = np.random.default_rng(1)
    a, b = (explained(autoregression(rng, phi, 250, 120), start) for start in ("2015-01-01", "2018-01-01"))
    drift = explanation_drift(a, b)
    assert not drift.paired and rejected(drift) < limit and rejected(drift, "shape_") < limit and rejected(drift, "sign_") < limit + 0.04
    assert len(drift.changed()) <= 2
    naive = stats.ttest_ind(a.values["shap"].abs(), b.values["shap"].abs()).pvalue
    if phi > 0.9: assert (naive < 0.05).mean() > 0.3     # what the plain test would have said
    covered = ((drift.changes.lower <= 0) & (drift.changes.upper >= 0)).mean()
    assert covered == pytest.approx(1 - rejected(drift), abs=1e-9)


def test_two_refits_with_noise_alone_are_rarely_called_changed():
    rng = np.random.default_rng(2)
    X = autoregression(rng, 0.9, 200, 4*60).reshape(800, 60)
    a, b = (explained(X + 0.3*rng.normal(size=X.shape), X=X, s=4) for _ in range(2))
    drift = explanation_drift(a, b)
    assert drift.paired and all(rejected(drift, aspect) < 0.1 for aspect in ("", "sign_", "shape_"))


def test_planted_changes_are_found_each_in_its_aspect():
    rng = np.random.default_rng(3)
    X = autoregression(rng, 0.8, 400, 4)
    after = X + 0.02*rng.normal(size=X.shape)
    after[:, 0] *= 1.3                                                     # size
    after[:, 1] *= -1                                                      # sign
    few = np.where(np.abs(X[:, 2]) > 1.5, X[:, 2], 0.05*X[:, 2])
    after[:, 2] = few*np.abs(X[:, 2]).mean()/np.abs(few).mean()            # shape
    drift = explanation_drift(explained(X, X=X), explained(after, X=X))
    assert drift.changed() == ["f0"] and "f1" in drift.changed("sign") and drift.changed("shape") == ["f2"]
    assert drift.changes.direction_before["f1"] > 0.9 > -0.9 > drift.changes.direction_after["f1"]
    grown = explained(1.5*autoregression(rng, 0.5, 300, 100), "2021-01-01")
    assert rejected(explanation_drift(explained(autoregression(rng, 0.5, 300, 100)), grown)) > 0.9


def test_pairing_sees_what_two_periods_cannot():
    rng = np.random.default_rng(4)
    X = autoregression(rng, 0.95, 250, 60)
    a, b = explained(X), explained(1.05*X + 0.02*rng.normal(size=X.shape))
    later = explained(1.05*autoregression(rng, 0.95, 250, 60), "2022-01-01")
    assert rejected(explanation_drift(a, b)) > 0.9 and rejected(explanation_drift(a, later)) < 0.2


def test_symbols_of_a_day_are_one_observation():
    rng = np.random.default_rng(5)
    day = autoregression(rng, 0, 100, 20)
    copies = [explained(np.repeat(d, 30, axis=0), start, s=30) for d, start in ((day[:50], "2018"), (day[50:], "2020"))]
    alone = [explained(d, start) for d, start in ((day[:50], "2018"), (day[50:], "2020"))]
    pd.testing.assert_series_equal(explanation_drift(*copies).changes.p_value.sort_index(), explanation_drift(*alone).changes.p_value.sort_index(), atol=1e-8)


# --- the numbers, and their order ---

def test_numbers_are_the_plain_means_in_any_order_of_rows():
    rng = np.random.default_rng(6)
    X = rng.normal(size=(120, 3))
    a, b = explained(X, s=2), explained(X*[1, 2, 0.1] + 0.01*rng.normal(size=X.shape), X=X, s=2)
    drift = explanation_drift(a, b)
    for name, row in drift.changes.iterrows():
        assert row.before == pytest.approx(a.values["shap"][name].abs().mean()) and row.after == pytest.approx(b.values["shap"][name].abs().mean())
        assert row.difference == pytest.approx(row.after - row.before) and row.positive_before == pytest.approx((a.values["shap"][name] > 0).mean())
        scaled = [e.values["shap"][name]/e.values["shap"][name].abs().mean() for e in (a, b)]
        assert row.shape_distance == pytest.approx(stats.ks_2samp(*scaled).statistic)
    assert drift.changes.difference.abs().is_monotonic_decreasing and list(drift.changes) == columns_of_drift
    order = rng.permutation(120)
    mixed = explanation_from({"shap": Attribution(b.values["shap"].iloc[order][["f2", "f0", "f1"]].to_numpy(), 0.0)}, b.features.iloc[order][["f2", "f0", "f1"]], b.prediction.iloc[order])
    again = explanation_drift(a, mixed)
    pd.testing.assert_frame_equal(again.changes, drift.changes, atol=1e-9)
    back = explanation_drift(b, a).changes.loc[drift.changes.index]
    np.testing.assert_allclose(back.statistic, -drift.changes.statistic)


def test_what_cannot_be_tested_says_why():
    rng = np.random.default_rng(7)
    X = rng.normal(size=(100, 5))
    before, after = X.copy(), X + 0.1*rng.normal(size=X.shape)
    before[:, 0] = after[:, 0] = 0                     # unused by both
    before[:, 1] = 0                                   # used by one
    after[5:, 2] = np.nan                              # hardly an answer
    before[:, 3] = after[:, 3]                         # the same
    before[::3, 4] = np.nan                            # gaps
    drift = explanation_drift(explained(before, X=X), explained(after, X=X))
    notes = drift.changes.note
    assert "neither" in notes["f0"] and notes["f1"] == "" and "fewer than 10" in notes["f2"] and "neither" in notes["f3"] and notes["f4"] == ""
    assert np.isnan(drift.changes.p_value[["f0", "f2", "f3"]]).all() and drift.changes.p_adjusted["f1"] < 1e-3 and drift.changed() == ["f1"]
    json.dumps(drift.rows(), allow_nan=False)
    drift.plot().canvas.draw()
    fewer = explanation_drift(explained(before, X=X), explained(after[:, :3], X=X[:, :3]))
    assert fewer.changes.note["f4"] == "only in the reference explanation" and len(fewer.rows()) == 5
    assert compare_means(np.zeros(20), np.ones(20), True)["p_value"] == 0


def test_rows_of_type_drift():
    rng = np.random.default_rng(8)
    X = rng.normal(size=(100, 3))
    drift = explanation_drift(explained(X, model_version="1"), explained(X*[1, 2, 3] + 0.01*rng.normal(size=X.shape), X=X, model_version="2"))
    recorder = MemoryRecorder()
    recorder.append(drift.table, drift.rows())
    rows = recorder.frame("model_interpretability", interpretation_type="drift", model_version="2")
    assert isinstance(drift, Result) and rows.feature_name.tolist() == drift.changes.index.tolist() == ["f2", "f1", "f0"] and rows.feature_importance_rank.tolist() == [1, 2, 3]
    np.testing.assert_allclose(rows.shap_value, drift.changes.difference)
    facts = rows.metadata[0]
    assert facts["reference"]["model_version"] == "1" and facts["current"]["n_predictions"] == 100 and facts["p_adjusted"] < 0.05 and facts["paired"] is True
    json.dumps(drift.rows(), allow_nan=False)


def test_the_named_question_finds_them(tmp_path):
    from alphaplus_ml.store.database import Database
    rng = np.random.default_rng(9)
    X = rng.normal(size=(60, 2))
    drift = explanation_drift(explained(X), explained(2*X, X=X))
    database = Database(f"sqlite:///{tmp_path/'x.db'}")
    database.upgrade()
    database.append(drift.table, drift.rows())
    found = database.frame("attribution_history", feature_name="f1", interpretation_type="drift")
    assert len(found) == 1 and found.shap_value[0] == pytest.approx(drift.changes.difference["f1"])


def test_rows_without_timestamps_are_paired_only_when_they_are_the_same():
    rng = np.random.default_rng(10)
    def plain(X, values): return explanation_from({"shap": Attribution(values, 0.0)}, pd.DataFrame(X), values.sum(axis=1))
    X, Y = rng.normal(size=(80, 2)), rng.normal(size=(80, 2))
    assert explanation_drift(plain(X, X), plain(X, 2*X)).paired and not explanation_drift(plain(X, X), plain(Y, Y)).paired


def test_refusals():
    rng = np.random.default_rng(11)
    X = rng.normal(size=(50, 2))
    a = explained(X)
    other = explanation_from({"lime": Attribution(X, 0.0)}, a.features, X.sum(axis=1))
    renamed = explanation_from({"shap": Attribution(X, 0.0)}, a.features.set_axis(["x", "y"], axis=1), X.sum(axis=1))
    for call, message in ((lambda: explanation_drift(a, other), "have the method"), (lambda: explanation_drift(a, a, "eli5"), "have the method"), (lambda: explanation_drift(a, renamed), "feature in common"),
                          (lambda: explanation_drift(a, a, level=0), "between 0 and 1"), (lambda: explanation_drift(a, a, adjustment="storey"), "adjustment"), (lambda: explanation_drift(a, a).changed("sizes"), "aspect")):
        with pytest.raises(InputError, match=message): call()
