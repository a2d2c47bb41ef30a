"The whole call: every registered model by every method, records on both databases, the cache, kills, and a hundred thousand rows"
import os
import resource
import signal
import subprocess
import sys
import textwrap

import lightgbm
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from alphaplus_ml.core import InputError, MemoryRecorder
from alphaplus_ml.explain.base import margin
from alphaplus_ml.explain.explain import ModelInterpretabilityConfig, explain_model_prediction
from alphaplus_ml.explain.fingerprints import answer_key, model_fingerprint
from alphaplus_ml.models.base import contract_data, make_model, models
from alphaplus_ml.store.database import Database

TABLE = "model_interpretability"
EVERY = ("shap", "lime", "eli5")


class Mine(Ridge): "A class whose code may change under its name"


def config(**changes): return ModelInterpretabilityConfig(**{"methods": EVERY, "n_perturbations": 100, "n_seeds": 2, **changes})


@pytest.fixture(scope="module")
def boosted():
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([pd.date_range("2020-01-01", periods=60, tz="UTC"), ["A", "B"]], names=["timestamp", "symbol"])
    X = pd.DataFrame(rng.normal(size=(120, 3)), index, ["momentum", "volatility", "volume"]).mask(rng.random((120, 3)) < 0.05)
    y = X.momentum.fillna(0)*np.sign(X.volatility.fillna(0)) + 0.1*rng.normal(size=120)
    return lightgbm.LGBMRegressor(n_estimators=10, min_child_samples=5, verbose=-1, n_jobs=1).fit(X, y), X, y


@pytest.mark.parametrize("name", list(models))
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_every_model_is_explained_by_every_method(name):
    X, y = contract_data(models.facts(name)["task"])
    model, rows, recorder = make_model(name).fit(X, y), X.tail(12), MemoryRecorder()
    explanation = explain_model_prediction(model, rows, config(), background=X, recorder=recorder)
    assert list(explanation.values) == list(EVERY) and explanation.additivity_error < 1e-5
    np.testing.assert_allclose(explanation.prediction, margin(model, rows), atol=1e-12)
    for method, values in explanation.values.items():
        assert values.shape == rows.shape
        if values.isna().all(axis=None): assert explanation.facts[method]["reason"], method
    assert explanation.values["shap"].notna().all(axis=None) and "route" in explanation.facts["eli5"]
    written = recorder.frame(TABLE)
    assert len(written) == rows.size + rows.shape[1] and set(written.interpretation_type) == {"local", "global"}
    assert not explanation.values["shap"]["empty"].any()


def test_a_named_explainer_takes_the_place_of_the_one_that_fits(boosted):
    model, X, _ = boosted
    sampled = explain_model_prediction(model, X.head(5), config(methods=("shap",), explainers={"shap": "permutation"}, n_orders=40), background=X)
    exact = explain_model_prediction(model, X.head(5), config(methods=("shap",)), background=X)
    assert sampled.explainers == {"shap": "permutation"} and exact.explainers == {"shap": "tree"}
    assert np.abs(sampled.values["shap"] - exact.values["shap"]).max(axis=None) < 0.1*exact.values["shap"].abs().max(axis=None)
    for wrong in ({"shap": "lime"}, {"shap": "nothing"}, {"nothing": "tree"}):
        with pytest.raises(InputError, match="explainer has this name"): config(explainers=wrong)


def test_the_config_reaches_the_explainers(boosted):
    model, X, _ = boosted
    found = explain_model_prediction(model, X.head(4), config(n_perturbations=77, n_seeds=4, kernel_width=2.5, shared_perturbations=False), background=X)
    assert {key: found.facts["lime"][key] for key in ("n_perturbations", "n_seeds", "kernel_width", "shared_perturbations")} == {"n_perturbations": 77, "n_seeds": 4, "kernel_width": 2.5, "shared_perturbations": False}


# the cache

def test_the_second_call_reads_the_rows_of_the_first(boosted, database):
    database.upgrade()
    model, X, _ = boosted
    first = explain_model_prediction(model, X, config(), background=X, recorder=database)
    count = len(database.frame(TABLE))
    again = explain_model_prediction(model, X, config(n_jobs=2), background=X.copy(), recorder=database)
    assert again.cached and not first.cached and len(database.frame(TABLE)) == count == X.size + 3
    for method in EVERY:
        pd.testing.assert_frame_equal(again.values[method], first.values[method])
        pd.testing.assert_frame_equal(again.by_row[method], first.by_row[method], check_column_type=False)
        assert again.facts[method] == first.facts[method]
    pd.testing.assert_series_equal(again.prediction, first.prediction)
    assert again.base_values["shap"] == first.base_values["shap"] and again.rows() == first.rows()


@pytest.mark.parametrize("change", ["a tree more", "a row more", "another order of rows", "another background", "no background", "another seed", "another method", "another name", "another version", "no cache"])
def test_what_changed_is_computed(boosted, change):
    model, X, y = boosted
    how, recorder = config(methods=("shap", "eli5")), MemoryRecorder()
    call = lambda model=model, X=X.head(20), how=how, background=X: explain_model_prediction(model, X, how, background=background, recorder=recorder)
    first = call()
    larger = lightgbm.LGBMRegressor(n_estimators=11, min_child_samples=5, verbose=-1, n_jobs=1).fit(X, y)
    again = {"a tree more": lambda: call(larger), "a row more": lambda: call(X=X.head(21)), "another order of rows": lambda: call(X=X.head(20)[::-1]), "another background": lambda: call(background=X.head(50)),
             "no background": lambda: call(background=None), "another seed": lambda: call(how=config(methods=("shap", "eli5"), seed=1)), "another method": lambda: call(how=config(methods=("shap",))),
             "another name": lambda: call(how=config(methods=("shap", "eli5"), model_name="other")), "another version": lambda: call(how=config(methods=("shap", "eli5"), model_version="2")),
             "no cache": lambda: call(how=config(methods=("shap", "eli5"), cache=False))}[change]()
    assert not again.cached and (again.explanation_id != first.explanation_id) == (change != "no cache")
    assert call().cached == True   # noqa: E712


def test_a_model_changed_in_place_never_meets_its_old_explanation(boosted):
    model, X, y = boosted
    ridge, recorder = Ridge(), MemoryRecorder()
    filled, how = X.fillna(0), config(methods=("shap",))
    ids = set()
    for alpha in (1.0, 10.0):
        found = explain_model_prediction(ridge.set_params(alpha=alpha).fit(filled, y), filled, how, background=filled, recorder=recorder)
        assert not found.cached
        ids.add(found.explanation_id)
    ridge.coef_[0] += 1e-9
    assert not explain_model_prediction(ridge, filled, how, background=filled, recorder=recorder).cached and len(ids) == 2


def test_code_that_may_change_under_its_name_is_not_cached(boosted):
    model, X, y = boosted
    assert model_fingerprint(Mine().fit(X.fillna(0), y)) is None and model_fingerprint(lambda rows: rows.momentum) is None and model_fingerprint(model) is not None
    recorder, rule = MemoryRecorder(), lambda rows: rows.momentum.fillna(0)
    found = [explain_model_prediction(rule, X.head(3), config(methods=("shap",)), background=X, recorder=recorder) for _ in range(2)]
    assert not any(one.cached for one in found) and len({one.explanation_id for one in found}) == 2 and len(recorder.frame(TABLE)) == 2*(9 + 3)


def test_a_key_is_the_same_in_another_process(boosted, tmp_path):
    model, X, _ = boosted
    model.booster_.save_model(tmp_path/"model.txt")
    X.to_pickle(tmp_path/"X.pkl")
    program = f"""
    import lightgbm, pandas as pd
    from alphaplus_ml.explain.fingerprints import answer_key
    model, X = lightgbm.Booster(model_file=r"{tmp_path/'model.txt'}"), pd.read_pickle(r"{tmp_path/'X.pkl'}")
    print(answer_key(model, model.predict(X), X, None, dict(seed=0)))
    """
    keys = {subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": str(seed)}).stdout.strip() for seed in range(2)}
    assert len(keys) == 1 and len(keys.pop()) == 32


def test_predictions_tell_models_apart_whatever_their_state_says(boosted, monkeypatch):
    from alphaplus_ml.explain import fingerprints
    monkeypatch.setattr(fingerprints, "model_fingerprint", lambda model: "the same for all")
    _, X, _ = boosted
    keys = {answer_key(None, np.full(len(X), value), X) for value in (0.0, 1.0, 1.0 + 1e-15)}
    assert len(keys) == 3


def test_half_an_explanation_on_record_is_no_explanation(boosted):
    model, X, _ = boosted
    recorder, how = MemoryRecorder(), config(methods=("shap",))
    explain_model_prediction(model, X.head(10), how, recorder=recorder)
    recorder.tables[TABLE] = [row for row in recorder.tables[TABLE] if row["prediction_id"][-2:] != "-7"]
    assert not explain_model_prediction(model, X.head(10), how, recorder=recorder).cached


# at size

def test_an_error_in_the_middle_writes_nothing(boosted, database, monkeypatch):
    from alphaplus_ml.explain import explanation as module
    database.upgrade()
    model, X, _ = boosted
    honest = module.local_frame
    def breaks(explanation, first=0):
        if first >= 40: raise RuntimeError("in the middle")
        return honest(explanation, first)
    monkeypatch.setattr(module, "local_frame", breaks)
    monkeypatch.setattr(module.Explanation.blocks, "__defaults__", (20,))
    with pytest.raises(RuntimeError, match="in the middle"): explain_model_prediction(model, X, config(), background=X, recorder=database)
    assert not len(database.frame(TABLE))


program = '''
import os, signal, sys
import lightgbm, numpy as np, pandas as pd
from alphaplus_ml.explain import explanation as module
from alphaplus_ml.explain.explain import ModelInterpretabilityConfig, explain_model_prediction
from alphaplus_ml.explain.fingerprints import answer_key, model_fingerprint
from alphaplus_ml.store.database import Database
honest, calls = module.local_frame, []
def deadly(explanation, first=0):
    calls.append(first)
    if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)
    return honest(explanation, first)
module.local_frame = deadly
module.Explanation.blocks.__defaults__ = (20,)
X = pd.DataFrame(np.random.default_rng(0).normal(size=(200, 3)), columns=list("abc"))
model = lightgbm.LGBMRegressor(n_estimators=3, verbose=-1, n_jobs=1).fit(X, X.a)
with Database(sys.argv[1]) as database: explain_model_prediction(model, X, recorder=database)
'''


def test_a_kill_in_the_middle_writes_nothing(database):
    database.upgrade()
    url = database.engine.url.render_as_string(hide_password=False)
    killed = subprocess.run([sys.executable, "-c", program, url], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-500:]
    assert not len(database.frame(TABLE))


def test_a_hundred_thousand_rows_need_little_memory_and_tell_how_far_they_are(boosted, tmp_path, capsys):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(100_000, 4)), columns=list("abcd"))
    model = lightgbm.LGBMRegressor(n_estimators=5, verbose=-1, n_jobs=1).fit(X.head(1000), X.a.head(1000))
    class Counting(MemoryRecorder):
        written = largest = 0
        def append(self, table, rows):
            for block in rows: self.written, self.largest = self.written + len(block), max(self.largest, len(block))
            return self.written
    recorder, before = Counting(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = explain_model_prediction(model, X, config(methods=("shap", "eli5")), recorder=recorder, progress=True)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)/1024
    assert recorder.written == 400_004 and recorder.largest <= 8_000 and found.additivity_error < 1e-9
    assert grown < 200, f"{grown:.0f} MB more for 400,000 rows"   # as dictionaries they are above 400 MB
    assert "explaining: 100%" in capsys.readouterr().err
