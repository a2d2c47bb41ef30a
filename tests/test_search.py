"A search that is killed, shared, cut off from its database, stopped early or begun elsewhere: what is lost, and what comes out"
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from contextlib import ExitStack, contextmanager

import numpy as np
import optuna
import pandas as pd
import pytest
import sklearn.metrics as skm
import sqlalchemy as sa
from lightgbm import Dataset, record_evaluation, train
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import log_loss

from alphaplus_ml.config import sqlite_url
from alphaplus_ml.core import InputError, MemoryRecorder, RunError, child_seed
from alphaplus_ml.evaluation.metrics import metrics, score
from alphaplus_ml.evaluation.splits import WalkForward, split_holdout
from alphaplus_ml.models.base import forecast, make_model, models
from alphaplus_ml.store.database import Database
from alphaplus_ml.tuning import optimize
from alphaplus_ml.tuning.optimize import HyperparameterOptimizationConfig, development_problem, optimize_hyperparameters
from alphaplus_ml.tuning.records import RecordWarning, sign_trial, this_worker
from alphaplus_ml.tuning.search import open_storage, run_trials
from alphaplus_ml.tuning.spaces import Choice, Float, Integer

TABLE = "hyperparameter_optimization"
pytestmark = [pytest.mark.filterwarnings("error::RuntimeWarning"), pytest.mark.filterwarnings("error:The reported value is ignored")]

setup = '''
import numpy as np, pandas as pd
from alphaplus_ml.evaluation.splits import WalkForward
from alphaplus_ml.tuning import optimize
from alphaplus_ml.tuning.optimize import HyperparameterOptimizationConfig, optimize_hyperparameters
def panel(t=130, s=4, seed=0):
    "Features, labels of the next bar, label ends, and one-bar returns"
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([pd.date_range("2022-01-03", periods=t, tz="UTC"), [f"S{k}" for k in range(s)]], names=["timestamp", "symbol"])
    X = pd.DataFrame(rng.normal(size=(t*s, 3)), index=index, columns=["a", "b", "c"])
    y = (0.004*X.a + 0.01*pd.Series(rng.normal(size=t*s), index)).rename("y")
    ends = index.get_level_values("timestamp").to_series(index=index).groupby(level="symbol").shift(-1)
    return X, y.where(ends.notna()), ends, y
def search(recorder=None, data=None, **changes):
    X, y, ends, returns = data or panel()
    config = HyperparameterOptimizationConfig(**dict(model_name="ridge", n_trials=14, splitter=WalkForward(3), seed=3, optimization_id="mine") | changes)
    return optimize_hyperparameters(X, y, config, label_end=ends, returns=returns, recorder=recorder)
'''
exec(setup)


def story(rows):
    "What a search did, without its times"
    return [(row["trial_number"], row["hyperparameters"], row["optimization_status"], row["validation_metrics"]["folds"]) for row in sorted(rows, key=lambda row: row["trial_number"])]


@pytest.fixture(scope="module")
def undisturbed():
    return story(search().rows())


def process(code, *words):
    "A Python process that knows the example's data"
    return subprocess.Popen([sys.executable, "-c", setup + "import os, sys, time, signal\nfrom alphaplus_ml.store.database import Database\n" + code, *map(str, words)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_THREAD_LIMIT": "1"})


dies = '''
from alphaplus_ml.tuning import trials
true, calls = trials.make_model, []
def deadly(name, **parameters):
    calls.append(name)
    if len(calls) == 11: os.kill(os.getpid(), signal.SIGKILL)
    return true(name, **parameters)
trials.make_model = deadly
with Database(sys.argv[1]) as database: search(database, storage=sys.argv[2], n_trials=20, sampler="random")
'''

# killed, stopped, prolonged

def test_an_interrupted_search_goes_on(undisturbed, monkeypatch):
    from alphaplus_ml.tuning import trials
    true, calls, recorder = trials.make_model, [], MemoryRecorder()
    def nervous(name, **parameters):
        calls.append(name)
        if len(calls) == 17: raise KeyboardInterrupt
        return true(name, **parameters)
    monkeypatch.setattr(trials, "make_model", nervous)
    with pytest.raises(KeyboardInterrupt): search(recorder)
    assert "running" not in set(recorder.frame(TABLE).optimization_status) and "interrupted" in [*recorder.frame(TABLE).validation_metrics][-1]
    search(recorder)
    assert story(recorder.tables[TABLE]) == undisturbed


def test_a_search_may_be_prolonged_and_repeated(undisturbed):
    recorder = MemoryRecorder()
    assert story(search(recorder, n_trials=5).rows()) == undisturbed[:5]
    assert story(search(recorder).rows()) == undisturbed
    before = json.dumps(recorder.tables[TABLE], default=str)
    again = search(recorder)
    assert story(again.rows()) == undisturbed and json.dumps(recorder.tables[TABLE], default=str) == before


@pytest.mark.parametrize("change", [dict(seed=4), dict(search_space={"alpha": Integer(1, 50)}), dict(metric="rmse"), dict(sampler="random"), dict(data=panel(seed=1))])
def test_another_search_under_the_same_id_is_refused(change, tmp_path):
    recorder, journal = MemoryRecorder(), str(tmp_path/"a.journal")
    search(recorder, n_trials=2)
    before = json.dumps(recorder.tables[TABLE], default=str)
    with pytest.raises(InputError, match="belongs to one search.*'mine'"): search(recorder, n_trials=3, **change)
    assert json.dumps(recorder.tables[TABLE], default=str) == before
    search(n_trials=2, storage=journal)
    with pytest.raises(InputError, match="belongs to one search.*'mine'"): search(n_trials=3, storage=journal, **change)

# shared

shares = '''
with Database(sys.argv[1]) as database: result = search(database, storage=sys.argv[2], n_trials=20, sampler="random")
from alphaplus_ml.tuning.records import this_worker
print(sum(trial.user_attrs.get("worker") == this_worker() for trial in result.study.trials if trial.number < 20), result.verdict)
'''

def check_shared(workers, database):
    "Each trial was evaluated once, and everyone says the same"
    told = [worker.communicate(timeout=120) for worker in workers]
    assert all(out for out, _ in told), [error[-600:] for _, error in told]
    counts, verdicts = zip(*[out.strip().split(" ", 1) for out, _ in told])
    rows = database.frame(TABLE)
    assert sum(map(int, counts)) == len(rows) == 20 and set(rows.trial_number) == set(range(20)) and len(set(verdicts)) == 1
    assert rows.best_trial.sum() == 1 and "running" not in set(rows.optimization_status) and rows.hyperparameters.map(str).nunique() == 20
    assert rows[rows.best_trial].iloc[0].validation_metrics["verdict"] == verdicts[0]


def test_processes_share_a_search_through_a_journal(tmp_path):
    url = sqlite_url(tmp_path/"a.db")
    with Database(url) as database:
        database.upgrade()
        check_shared([process(shares, url, tmp_path/"a.journal") for _ in range(2)], database)


def test_processes_share_a_search_through_postgresql(postgres_url):
    with Database(postgres_url) as database:
        database.upgrade()
        check_shared([process(shares, postgres_url, postgres_url) for _ in range(2)], database)


def test_a_killed_workers_trial_is_taken_over(tmp_path):
    url, journal = sqlite_url(tmp_path/"a.db"), tmp_path/"a.journal"
    with Database(url) as database:
        database.upgrade()
        killed = process(dies, url, journal)
        assert killed.wait(60) == -signal.SIGKILL and (database.frame(TABLE).optimization_status == "running").sum() == 1
        result = search(database, storage=str(journal), n_trials=20, sampler="random")
        rows = database.frame(TABLE)
    assert len(rows) == result.n_trials == 20 and "running" not in set(rows.optimization_status) and rows.best_trial.sum() == 1
    assert story(rows.to_dict("records")) == story(result.rows())
    assert [row[1] for row in story(result.rows())] == [row[1] for row in story(search(n_trials=20, sampler="random").rows())]


def test_a_storages_password_is_shown_nowhere():
    config = HyperparameterOptimizationConfig(storage="postgresql://me:s3cret@localhost:1/none", optimization_id="x")
    assert "s3cret" not in repr(config) + json.dumps(config.to_dict())
    with pytest.raises(InputError, match="storage is the URL") as caught: search(storage="postgresql://me:s3cret@127.0.0.1:1/none")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(InputError, match="know it by its optimization_id"): HyperparameterOptimizationConfig(storage="a.journal")

# a database that goes away

class Moody(MemoryRecorder):
    "A recorder that is away between two of its calls"
    def __init__(self, first, last): super().__init__(); self.calls, self.first, self.last = 0, first, last
    def _here(self):
        self.calls += 1
        if self.first <= self.calls < self.last: raise ConnectionError("the server closed the connection")
    def append(self, *change): self._here(); return super().append(*change)
    def update(self, *change): self._here(); return super().update(*change)


@pytest.mark.parametrize("first, last", [(1, 3), (6, 8), (28, 30)])
def test_rows_follow_when_the_database_comes_back(undisturbed, first, last):
    recorder = Moody(first, last)
    with pytest.warns(RecordWarning, match="cannot be written, they wait: ConnectionError: the server"): result = search(recorder)
    assert story(recorder.tables[TABLE]) == undisturbed and recorder.tables[TABLE] == result.rows()


def test_a_database_that_is_gone_for_good_does_not_take_the_result_with_it(undisturbed):
    recorder = Moody(4, 10**9)
    with pytest.warns(RecordWarning) as told: result = search(recorder)
    assert story(result.rows()) == undisturbed and len(told) == 2 and "never written: result.rows() holds the rows" in str(told[1].message)


def test_a_row_that_is_refused_is_no_absence():
    class Strict(MemoryRecorder):
        def update(self, *change): raise InputError("A row has the columns of its table", "another")
    with pytest.raises(InputError, match="columns of its table"): search(Strict())


def test_each_trial_costs_one_insert_and_one_update():
    class Counting(MemoryRecorder):
        log = []
        def append(self, table, rows): self.log.append("append"); return super().append(table, rows)
        def update(self, *change): self.log.append("update"); return super().update(*change)
    search(recorder := Counting(), n_trials=30)
    assert recorder.log.count("append") == 30 and recorder.log.count("update") == 31   # the outcome is the best row's second update

# early stopping and weights

def test_rounds_are_those_of_a_plain_loop_on_the_inner_split():
    X, y, ends, returns = panel()
    space = {"n_estimators": 60, "learning_rate": 0.3, "min_child_samples": Integer(5, 25), "n_jobs": 1}
    result = search(model_name="lightgbm", search_space=space, n_trials=1, early_stopping=5)
    row, at = result.records[0], X.index.get_level_values(0)
    development, _ = split_holdout(X, fraction=0.2, label_end=ends)
    part, expected = X.iloc[development], []
    for train_rows, _ in WalkForward(3, label_end=ends).split(part):
        own = part.iloc[train_rows]
        times = own.index.get_level_values(0).unique()
        first = times[-round(0.2*len(times))]
        fit, watched = own[(own.index.get_level_values(0) < first) & (ends.loc[own.index] <= first)], own[own.index.get_level_values(0) >= first]
        parameters = {key: value for key, value in make_model("lightgbm", **row["hyperparameters"], random_state=child_seed(3, "search")).get_params().items() if value is not None and key not in ("n_estimators", "importance_type", "class_weight", "monotone")}
        data = Dataset(fit, y.loc[fit.index], params=parameters | {"feature_pre_filter": False})
        losses = {}
        train(parameters | {"feature_pre_filter": False}, data, 60, valid_sets=[Dataset(watched, y.loc[watched.index], reference=data)], callbacks=[record_evaluation(losses)])
        curve, best = next(iter(losses["valid_0"].values())), 0
        for k, value in enumerate(curve):
            if value < curve[best]: best = k
            elif k - best >= 5: break
        expected.append(best + 1)
    assert row["validation_metrics"]["rounds"] == expected


def test_early_stopping_never_sees_what_scores_the_trial():
    X, y, ends, returns = panel()
    fixed = dict(model_name="lightgbm", search_space={"n_estimators": 60, "learning_rate": 0.3, "min_child_samples": Integer(5, 25), "n_jobs": 1}, n_trials=3, early_stopping=5, splitter=WalkForward(1), pruner="none")
    plain = search(data=(X, y, ends, returns), **fixed)
    (_, test), = WalkForward(1, label_end=ends).split(X.iloc[plain.development])
    spoilt = y.copy()
    spoilt.iloc[plain.development[test]] *= -50
    other = search(data=(X, spoilt, ends, returns), **fixed)
    assert [row["validation_metrics"]["rounds"] for row in plain.records] == [row["validation_metrics"]["rounds"] for row in other.records]
    assert plain.records[0]["validation_metrics"]["folds"] != other.records[0]["validation_metrics"]["folds"]


def test_weights_reach_every_fit():
    X, y, ends, returns = panel()
    weights = pd.Series(np.random.default_rng(1).uniform(0, 3, len(X)), X.index)
    config = HyperparameterOptimizationConfig(model_name="ridge", n_trials=1, splitter=WalkForward(2), seed=3, metric="rmse")
    result = optimize_hyperparameters(X, y, config, label_end=ends, weights=weights)
    part, known = result.development, []
    for train_rows, test in WalkForward(2, label_end=ends).split(X.iloc[part]):
        rows = part[train_rows]
        model = make_model("ridge").fit(X.iloc[rows], y.iloc[rows], sample_weight=weights.iloc[rows])
        known.append(float(np.sqrt(np.mean((y.iloc[part[test]] - model.predict(X.iloc[part[test]]))**2))))
    assert result.records[0]["validation_metrics"]["folds"] == pytest.approx(known)
    with pytest.raises(InputError, match="weight"): optimize_hyperparameters(X, y, config, label_end=ends, weights=-weights)

# classes

@pytest.mark.parametrize("classes", [(0, 1), (-1, 1), (-1, 0, 1)])
def test_a_classifier_is_judged_by_what_it_says(classes):
    X, y, ends, returns = panel(t=200)
    labels = pd.Series(np.array(classes, float)[pd.qcut(y.fillna(0), len(classes), labels=False)], X.index).where(y.notna())
    metric = "log_loss" if len(classes) == 2 else "accuracy"
    result = search(data=(X, labels, ends, returns), model_name="logistic", metric=None if len(classes) == 2 else metric, n_trials=3, class_weight="balanced")
    assert result.metric == metric and np.isfinite(result.deflated_sharpe) and np.isfinite(result.best_interval).all()
    (train_rows, test), *_ = WalkForward(3, label_end=ends).split(X.iloc[result.development])
    rows, tested = result.development[train_rows], result.development[test]
    share = labels.iloc[rows].map(len(rows)/len(classes)/labels.iloc[rows].value_counts())
    said = forecast(make_model("logistic", **result.records[0]["hyperparameters"]).fit(X.iloc[rows], labels.iloc[rows], sample_weight=share), X.iloc[tested])
    true = labels.iloc[tested].to_numpy()
    value = log_loss((true == classes[-1]).astype(int), said) if len(classes) == 2 else np.mean(said == true)
    assert result.records[0]["validation_metrics"]["folds"][0] == pytest.approx(value)


def test_metrics_and_models_of_different_tasks_are_refused():
    with pytest.raises(InputError, match="classification metric"): HyperparameterOptimizationConfig(model_name="logistic", metric="rank_ic")
    with pytest.raises(InputError, match="regression, direction or ranking"): HyperparameterOptimizationConfig(model_name="ridge", metric="log_loss")
    with pytest.raises(InputError, match="grow in rounds"): HyperparameterOptimizationConfig(model_name="ridge", early_stopping=5)
    X, y, ends, returns = panel()
    one = (y > y.quantile(0.99)).astype(float).where(y.notna())
    one.iloc[:300] = 0.0
    with pytest.raises(InputError, match="differ|one class|two classes"): search(data=(X, one, ends, returns), model_name="logistic")

# earlier searches

def test_only_searches_that_saw_no_later_data_are_a_start():
    X, y, ends, returns = panel(t=200)
    early = X.index.get_level_values(0) < X.index.get_level_values(0).unique()[120]
    recorder = MemoryRecorder()
    known = search(recorder, data=tuple(one[early] for one in (X, y.where(ends < ends.iloc[0] + pd.Timedelta(days=118)), ends.where(ends < ends.iloc[0] + pd.Timedelta(days=118)), returns)), optimization_id="early")
    result = search(recorder, data=(X, y, ends, returns), warm_start=3, n_trials=4, optimization_id="later")
    assert result.records[1]["hyperparameters"] == known.best_params and result.luck.n_trials == 4 + 14 and result.n_trials == 4
    blind = search(recorder, data=tuple(one[early] for one in (X, y.where(ends < ends.iloc[0] + pd.Timedelta(days=118)), ends.where(ends < ends.iloc[0] + pd.Timedelta(days=118)), returns)),
                   warm_start=3, n_trials=4, optimization_id="third", seed=5)
    assert blind.records[1]["hyperparameters"] == known.best_params and blind.luck.n_trials == 4 + 14   # the later one saw more than this one may


def test_a_search_without_progress_ends():
    result = search(n_trials=200, patience=5, pruner="none", sampler="random")
    values = [row["objective_value"] for row in result.records]
    assert len(values) - 1 - int(np.argmax(values)) == 5


# at any moment: a process of its own that kills itself, forked, so that a dozen moments cost a dozen searches and no imports

def forked(work):
    "The number of a process that does some work; it ends with 0, with 1 after an error, or by a signal"
    if number := os.fork(): return number
    try: work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ending(number, patience=60.0):
    "How a forked process ended; one that does not end is killed"
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        done, status = os.waitpid(number, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return "did not end"


def deadly(owner, name, call, behind):
    "Let a method kill its process at one of its calls, before or behind its work"
    true, calls = getattr(owner, name), []
    def method(*args, **kwargs):
        calls.append(name)
        if len(calls) == call and not behind: os.kill(os.getpid(), signal.SIGKILL)
        found = true(*args, **kwargs)
        if len(calls) == call: os.kill(os.getpid(), signal.SIGKILL)
        return found
    setattr(owner, name, method)


class Slope(RegressorMixin, BaseEstimator):
    "A forecast that needs no fit, and a fit that may do anything"
    def __init__(self, slope=0.0, bias=0.0): self.slope, self.bias = slope, bias
    def fit(self, X, y, sample_weight=None):
        Slope.fitted(self, X, y)
        return self
    def predict(self, X): return self.bias + self.slope*X["a"].to_numpy()
    fitted = staticmethod(lambda model, X, y: None)


@pytest.fixture
def slope(monkeypatch):
    "The model above among the registered ones; called, it says what a fit does. Intervals, which take longer than such a search, are left out"
    monkeypatch.setattr(optimize, "headline_interval", lambda *args, **kwargs: (0.0, 1.0))
    monkeypatch.setitem(models._members, "slope", lambda slope=0.5, bias=0.0: Slope(slope, bias))
    monkeypatch.setitem(models._facts, "slope", dict(task="regression", family="baseline", kind="tabular"))
    return lambda fitted: monkeypatch.setattr(Slope, "fitted", staticmethod(fitted))


def quick(recorder=None, data=None, **changes):
    "A search whose trials cost nothing"
    return search(recorder, data, **dict(model_name="slope", metric="rmse", splitter=WalkForward(2), search_space={"slope": Float(-1.0, 1.0)}, n_trials=8) | changes)


@pytest.fixture
def stored(tmp_path):
    "The URL of an upgraded SQLite database"
    with Database(sqlite_url(tmp_path/"rows.db")) as database: database.upgrade()
    return sqlite_url(tmp_path/"rows.db")


def best_of(rows): return [row["trial_number"] for row in rows if row["best_trial"]]


def check_rows(rows, result, whole):
    "The rows of a finished search: those of an undisturbed one, none running, one best"
    rows = rows.to_dict("records")
    assert story(rows) == story(result.rows()) == story(whole) and len(rows) == len(whole)
    assert best_of(rows) == best_of(whole) and len(best_of(rows)) == 1


HALVED = dict(model_name="lightgbm", pruner="hyperband", stages=3, search_space={"n_estimators": 12, "min_child_samples": Integer(5, 25), "n_jobs": 1})
MOMENTS = [("append", 2, False), ("update", 1, False), ("append", 9, True), ("update", 12, False), ("update", 5, True), ("update", 13, True), ("update", 15, False)]

@pytest.mark.parametrize("n_jobs, how, moments", [(1, {}, MOMENTS), (2, {}, MOMENTS[1::2]), (2, HALVED, MOMENTS[::3]), (3, HALVED, MOMENTS[2::2])], ids=["ridge-1", "ridge-2", "lightgbm-2", "lightgbm-3"])
def test_killed_at_any_write_a_search_ends_as_an_undisturbed_one(tmp_path, n_jobs, how, moments):
    how = dict(n_jobs=n_jobs, n_trials=14) | how
    whole = search(**how).rows()
    for place, moment in enumerate(moments):
        url = sqlite_url(tmp_path/f"{place}.db")
        with Database(url) as database: database.upgrade()
        def work():
            deadly(Database, *moment)   # each trial is written when it begins and when it ends
            with Database(url) as database: search(database, **how)
        assert ending(forked(work)) == -signal.SIGKILL
        with Database(url) as database:
            left = database.frame(TABLE)
            assert (left.optimization_status == "running").sum() <= n_jobs and left.trial_number.is_unique
            result = search(database, **how)
            check_rows(database.frame(TABLE), result, whole)


def test_what_kills_its_process_is_given_up_after_two_times_and_the_search_ends(stored, slope):
    slope(lambda model, X, y: os.kill(os.getpid(), signal.SIGKILL) if model.slope > 0.6 else None)
    def work():
        with Database(stored) as database: quick(database, sampler="random", n_trials=12)
    endings = []
    while not endings or endings[-1] == -signal.SIGKILL: endings.append(ending(forked(work)))
    with Database(stored) as database: rows = database.frame(TABLE)
    killed = rows[rows.optimization_status == "failed"]
    assert endings == [-signal.SIGKILL]*2*len(killed) + [0] and len(killed) == (rows.hyperparameters.map(lambda found: found["slope"]) > 0.6).sum() > 0
    assert len(rows) == 12 and rows.best_trial.sum() == 1 and killed.validation_metrics.map(lambda found: "died twice" in found["failed_because"]).all()


def test_want_of_memory_fails_the_trial_and_not_the_search(stored, slope):
    slope(lambda model, X, y: np.ones(2**33) if model.slope > 0.3 else None)   # 64 GiB where 32 are allowed
    def work():
        resource.setrlimit(resource.RLIMIT_AS, (2**35, 2**35))
        with Database(stored) as database: quick(database, sampler="random")
    assert ending(forked(work)) == 0
    with Database(stored) as database: rows = database.frame(TABLE)
    failed = rows.hyperparameters.map(lambda found: found["slope"]) > 0.3
    assert 0 < failed.sum() < 8 and ((rows.optimization_status == "failed") == failed).all()
    assert rows.validation_metrics[failed].map(lambda found: "MemoryError" in found["failed_because"]).all()


@pytest.mark.parametrize("error", [ZeroDivisionError("a leaf without rows"), SystemError("native code")])
def test_a_trial_that_raises_keeps_its_reason(slope, error):
    def fitted(model, X, y):
        if model.slope > 0.3: raise error
    slope(fitted)
    recorder = MemoryRecorder()
    result = quick(recorder, n_trials=9, n_jobs=2, sampler="random")
    failed = [row for row in recorder.tables[TABLE] if row["hyperparameters"]["slope"] > 0.3]
    assert 0 < len(failed) < 9 and result.n_trials == result.luck.n_trials == 9 and np.isnan(result.default_value)
    for row in failed: assert row["optimization_status"] == "failed" and row["validation_metrics"]["failed_because"] == f"{type(error).__name__}: {error}" and row["objective_value"] is None


def test_a_value_that_is_no_number_fails_the_trial(slope):
    slope(lambda model, X, y: setattr(model, "bias", np.nan if model.slope > 0.3 else 0.0))
    result = quick(n_trials=9, sampler="random")
    for row in result.rows(): assert (row["optimization_status"] == "failed") == (row["hyperparameters"]["slope"] > 0.3)
    assert np.isfinite(result.best_value) and result.best_params["slope"] <= 0.3


def test_a_fold_of_one_class_is_said_to_be_the_reason():
    X, y, ends, returns = panel(t=200)
    labels = (y > 0).astype(float).where(y.notna())
    labels.iloc[318:482] = 0.0   # the whole second fold
    with pytest.raises(RunError, match="roc_auc is a number in every fold.*fold 1.*labels are the same"): search(data=(X, labels, ends, returns), model_name="logistic", metric="roc_auc", n_trials=2)
    labels.iloc[:170] = 1.0      # what the first fold is trained on
    with pytest.raises(InputError, match="labels of the rows to train on differ.*only 1 in fold 0"): search(data=(X, labels, ends, returns), model_name="logistic", n_trials=2)


@pytest.mark.parametrize("space, words", [({"alpah": Float(1.0, 2.0)}, "alpha"), ({"alpha": (1.0, 2.0)}, "Float"), ({"alpha": 3.0}, "at least one parameter")])
def test_spaces_that_cannot_be_searched_are_refused(space, words):
    with pytest.raises(InputError, match=words): HyperparameterOptimizationConfig(model_name="ridge", search_space=space)


@pytest.mark.parametrize("range_of", [lambda: Float(2.0, 2.0), lambda: Float(3.0, 1.0), lambda: Integer(5, 5), lambda: Float(0.0, 1.0, log=True), lambda: Choice(("a",)), lambda: Float(0.0, float("nan"))])
def test_empty_ranges_are_refused(range_of):
    with pytest.raises(InputError): range_of()


# going on

@pytest.mark.parametrize("pruner, stages, seed", [("median", 3, 5), ("hyperband", 1, 3), ("hyperband", 3, 3), ("wilcoxon", 2, 3)])
def test_a_prolonged_search_is_the_longer_one(stored, pruner, stages, seed):
    how = HALVED | dict(pruner=pruner, stages=stages, seed=seed)
    whole = search(n_trials=22, **how)
    with Database(stored) as database:
        for n_trials in (3, 11, 22): result = search(database, n_trials=n_trials, **how)
        check_rows(database.frame(TABLE), result, whole.rows())
    assert [trial.intermediate_values for trial in result.study.trials] == [trial.intermediate_values for trial in whole.study.trials]


def test_one_row_is_the_best_one_when_a_longer_search_finds_a_better(slope):
    moved = 0
    for seed in range(4):
        recorder, best = MemoryRecorder(), []
        for n_trials in (2, 12):
            result = quick(recorder, n_trials=n_trials, seed=seed)
            best.append(best_of(recorder.tables[TABLE]))
            assert best[-1] == best_of(result.rows()) and len(best[-1]) == 1 and recorder.tables[TABLE] == result.rows()
        moved += best[0] != best[1]
    assert moved > 1


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_what_runs_side_by_side_does_not_race(monkeypatch, pruner):
    from alphaplus_ml.tuning import trials
    true, rng = trials._look, np.random.default_rng(0)
    def late(*args):
        time.sleep(rng.uniform(0, 0.004))
        return true(*args)
    how = HALVED | dict(n_jobs=3, n_trials=16, pruner=pruner)
    whole = search(**how).rows()
    monkeypatch.setattr(trials, "_look", late)
    for _ in range(3): assert story(search(**how).rows()) == story(whole)


def test_another_number_of_workers_is_no_other_search(slope):
    recorder = MemoryRecorder()
    quick(recorder, n_trials=5)
    assert quick(recorder, n_trials=9, n_jobs=2).n_trials == len(recorder.tables[TABLE]) == 9


def test_what_a_killed_process_left_is_finished_first_whatever_the_budget(slope):
    class Dies(MemoryRecorder):
        def update(self, table, key, values):
            if key["trial_number"] == 3: raise KeyboardInterrupt
            return super().update(table, key, values)
    killed, recorder = Dies(), MemoryRecorder()
    with pytest.raises(KeyboardInterrupt): quick(killed)
    recorder.tables = killed.tables
    assert recorder.tables[TABLE][-1]["optimization_status"] == "running"
    result = quick(recorder, timeout=1e-9)
    assert result.n_trials == 4 and "running" not in {row["optimization_status"] for row in recorder.tables[TABLE]}


def test_seconds_are_a_budget(slope):
    slope(lambda model, X, y: time.sleep(0.02))
    started = time.monotonic()
    result = quick(n_trials=10_000, timeout=0.5)
    assert 2 <= result.n_trials < 15 and time.monotonic() - started < 5
    assert quick(n_trials=10_000, timeout=1e-9).n_trials == 1


# workers

def test_workers_on_postgresql_outlive_one_that_is_killed(postgres_url, tmp_path, slope):
    def work(name, dies):
        def fitted(model, X, y):
            with (tmp_path/name).open("a") as log: log.write(f"{model.slope!r}\n")
            time.sleep(0.02)
            if dies and len((tmp_path/name).read_text().splitlines()) == 6: os.kill(os.getpid(), signal.SIGKILL)
        slope(fitted)
        with Database(postgres_url) as database: result = quick(database, storage=postgres_url, sampler="random", n_trials=24)
        (tmp_path/f"{name}.verdict").write_text(result.verdict)
    with Database(postgres_url) as database: database.upgrade()
    workers = [forked(lambda name=name: work(name, name == "b")) for name in "abc"]   # the first is waited for first: until then the killed one is a zombie
    assert [ending(worker) for worker in workers] == [0, -signal.SIGKILL, 0]
    with Database(postgres_url) as database: rows = database.frame(TABLE)
    alone = quick(sampler="random", n_trials=24)
    assert sorted(rows.trial_number) == list(range(24)) and set(rows.optimization_status) <= {"complete", "pruned"} and rows.best_trial.sum() == 1
    assert [row[1] for row in story(rows.to_dict("records"))] == [row[1] for row in story(alone.rows())]
    verdicts = {path.read_text() for path in tmp_path.glob("*.verdict")}
    assert verdicts == {rows[rows.best_trial].iloc[0].validation_metrics["verdict"]}
    logs = {name: (tmp_path/name).read_text().splitlines() for name in "abc"}
    twice = {value for value in logs["a"] + logs["b"] + logs["c"] if sum(value in log for log in logs.values()) > 1}
    looked = {repr(row["slope"]) for row in (rows.hyperparameters[rows.trial_number == 0].iloc[0], rows.hyperparameters[rows.best_trial].iloc[0])}
    assert len(logs["b"]) == 6 and twice <= looked | {logs["b"][-1]}   # fitted by two: what everyone looks at in the end, and what was taken over


def test_a_process_that_was_started_again_under_its_old_number_goes_on(slope, tmp_path):
    journal = str(tmp_path/"a.journal")
    quick(storage=journal, n_trials=3)
    study = optuna.load_study(study_name="mine", storage=open_storage(journal))
    sign_trial(study.ask(), this_worker())   # what a container's first life left
    number = forked(lambda: None)            # and a process that has died since
    assert ending(number) == 0
    sign_trial(study.ask(), f"{this_worker().rpartition('/')[0]}/{number}")
    done = []
    thread = threading.Thread(target=lambda: done.append(quick(storage=journal, n_trials=8)), daemon=True)
    thread.start()
    thread.join(30)
    assert done and done[0].n_trials == 8 and {trial.state.name for trial in done[0].study.trials} <= {"COMPLETE", "PRUNED"}


def test_of_two_that_take_up_a_trial_one_evaluates_it_and_it_died_once(slope, tmp_path, monkeypatch):
    from alphaplus_ml.tuning import search as module
    X, y, ends, _ = panel()
    config = HyperparameterOptimizationConfig(model_name="slope", metric="rmse", n_trials=6, splitter=WalkForward(2), search_space={"slope": Float(-1.0, 1.0)}, optimization_id="mine", storage=str(tmp_path/"a.journal"))
    problem, *_ = development_problem(X, y, config, ends, None)
    number = forked(lambda: None)
    assert ending(number) == 0
    opened = module.open_search(problem, 6, storage=str(tmp_path/"a.journal"))
    left = module.begin(opened)
    module.end(opened, module.run_batch(opened, [left])[0])
    left = module.begin(opened)
    sign_trial(left.trial, f"{this_worker().rpartition('/')[0]}/{number}")
    def overtaken(trial, worker=""):
        sign_trial(trial, worker)
        if trial.number == left.number: sign_trial(trial, "elsewhere/7")
    other = module.open_search(problem, 6, storage=str(tmp_path/"a.journal"))
    with monkeypatch.context() as patch:
        patch.setattr(module, "sign_trial", overtaken)
        assert module.begin(other).number == 2
    sign_trial(left.trial, f"{this_worker().rpartition('/')[0]}/{number}")
    taken = module.begin(other)
    assert taken.number == left.number and taken.status == "running" and taken.trial.user_attrs["starts"] == 2 and taken.parameters == left.parameters


def test_interrupts_are_no_deaths(slope, tmp_path):
    fits = []
    def fitted(model, X, y):
        fits.append(model.slope)
        if len(fits) in (5, 7, 9, 11): raise KeyboardInterrupt
    slope(fitted)
    for recorder, storage in ((MemoryRecorder(), None), (MemoryRecorder(), str(tmp_path/"a.journal"))):
        fits.clear()
        for _ in range(4):
            with pytest.raises(KeyboardInterrupt): quick(recorder, storage=storage)
        result = quick(recorder, storage=storage)
        assert set(result.trials.status) <= {"complete", "pruned"} and len(recorder.tables[TABLE]) == 8 and len(best_of(recorder.tables[TABLE])) == 1


def test_a_trial_too_many_counts_once_the_search_is_prolonged(slope, tmp_path, monkeypatch):
    journal, recorder = str(tmp_path/"a.journal"), MemoryRecorder()
    quick(recorder, storage=journal, n_trials=3)
    other, true, asked = optuna.load_study(study_name="mine", storage=open_storage(journal)), optuna.Study.ask, []
    def overtaken(study):
        if not asked: asked.append(sign_trial(true(other)))   # another process was faster, and gave its trial up
        return true(study)
    monkeypatch.setattr(optuna.Study, "ask", overtaken)
    assert quick(recorder, storage=journal, n_trials=4).n_trials == 4
    assert len(optuna.load_study(study_name="mine", storage=open_storage(journal)).trials) == 5
    assert quick(recorder, storage=journal, n_trials=8).n_trials == 8
    assert sorted(row["trial_number"] for row in recorder.tables[TABLE]) == list(range(8))


def test_recorded_trials_are_not_begun_again_elsewhere(slope, tmp_path):
    recorder, journal = MemoryRecorder(), str(tmp_path/"a.journal")
    quick(recorder, n_trials=3)
    before = json.dumps(recorder.tables[TABLE], default=str)
    with pytest.raises(InputError, match="in the storage where it was begun.*'mine'"): quick(recorder, storage=journal)
    assert json.dumps(recorder.tables[TABLE], default=str) == before
    both = MemoryRecorder()
    quick(both, storage=str(tmp_path/"b.journal"), n_trials=3)
    assert quick(both, n_trials=5).n_trials == len(both.tables[TABLE]) == 5   # the rows alone are enough to go on


def test_another_search_under_a_running_ones_id_is_refused_and_changes_nothing(slope, stored):
    seen = []
    with Database(stored) as database:
        def intrude(model, X, y):
            if seen: return
            seen.append(str(database.frame(TABLE).to_dict("records")))
            with pytest.raises(InputError, match="belongs to one search"): quick(database, seed=9)
            seen.append(str(database.frame(TABLE).to_dict("records")))
        slope(intrude)
        result = quick(database)
        assert seen[0] == seen[1] and "'running'" in seen[0]
        check_rows(database.frame(TABLE), result, quick().rows())


@pytest.mark.parametrize("change", [dict(horizon=2), dict(holdout=0.3), dict(splitter=WalkForward(3)), dict(search_space={"slope": Float(-1.0, 0.9)}), dict(search_space={"slope": Float(-1.0, 1.0), "bias": 0.1}), dict(pruner="none"), dict(cost_bps=3.0)])
def test_what_makes_another_search(slope, change):
    recorder = MemoryRecorder()
    quick(recorder, n_trials=2)
    with pytest.raises(InputError, match="belongs to one search"): quick(recorder, n_trials=3, **change)
    assert len(recorder.tables[TABLE]) == 2


@pytest.mark.parametrize("storage", ["/dev/null/x/a.journal", "", "nosuch://me:s3cret@h/x", "postgresql://me:s3cret@127.0.0.1:1/none", "postgresql://127.0.0.1:1/none?user=me&password=s3cret", "sqlite:////nowhere/at/all.db"])
def test_a_storage_that_cannot_be_is_refused(slope, storage):
    with pytest.raises(InputError, match="storage is the URL of a database.*or the path of a journal") as caught: quick(storage=storage)
    assert "s3cret" not in str(caught.value)


def test_optuna_opens_a_study_on_postgresql_and_no_connection_stays(postgres_url, slope):
    result = quick(storage=postgres_url, optimization_id="seen")
    url = sa.make_url(postgres_url).set(drivername="postgresql+psycopg").update_query_dict({"options": "-csearch_path=optuna"})
    theirs = optuna.load_study(study_name="seen", storage=url.render_as_string(hide_password=False))
    assert [trial.params for trial in theirs.trials] == [trial.params for trial in result.study.trials] and len(theirs.trials) == 8
    theirs._storage._backend.engine.dispose()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        del result, theirs
        gc.collect()
    assert not [warning for warning in told if issubclass(warning.category, ResourceWarning)]


# databases that go away

@contextmanager
def shut(url):
    "A PostgreSQL database that nobody may connect to, and that has ended all its connections"
    server, name = sa.make_url(url).set(database="postgres"), sa.make_url(url).database
    admin = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
    def run(sql):
        with admin.connect() as connection: connection.exec_driver_sql(sql)
    run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    try: yield
    finally: run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def test_rows_follow_when_postgresql_comes_back(postgres_url, slope):
    with Database(postgres_url) as database, ExitStack() as stack:
        database.upgrade()
        fits = []
        def fitted(model, X, y):
            fits.append(model.slope)
            if len(fits) == 5: stack.enter_context(shut(postgres_url))
            if len(fits) == 9: stack.close()
        slope(fitted)
        with pytest.warns(RecordWarning, match="cannot be written, they wait: DatabaseError") as told: result = quick(database)
        assert len(told) == 1
        slope(lambda model, X, y: None)
        check_rows(database.frame(TABLE), result, quick().rows())


def test_a_study_whose_postgresql_goes_away_can_go_on(postgres_url, slope):
    fits = []
    with Database(postgres_url) as database, ExitStack() as stack:
        database.upgrade()
        def fitted(model, X, y):
            fits.append(model.slope)
            if len(fits) == 7: stack.enter_context(shut(postgres_url))
        slope(fitted)
        with pytest.warns(RecordWarning), pytest.raises(RunError, match="lost its storage.*same call goes on"): quick(database, storage=postgres_url)
        stack.close()
        result = quick(database, storage=postgres_url)
        slope(lambda model, X, y: None)
        rows = database.frame(TABLE).sort_values("trial_number")
        assert len(rows) == result.n_trials == 8 and set(rows.optimization_status) <= {"complete", "pruned"} and rows.best_trial.sum() == 1
        assert story(rows.to_dict("records")) == story(quick().rows())


def test_a_storage_that_fails_once_fails_no_trial(slope, tmp_path, monkeypatch):
    true, told, journal, recorder = optuna.storages.JournalStorage.set_trial_intermediate_value, [], str(tmp_path/"a.journal"), MemoryRecorder()
    def told_once(self, *value):
        told.append(value)
        if len(told) == 5: raise optuna.exceptions.StorageInternalError("the disk is full")
        return true(self, *value)
    monkeypatch.setattr(optuna.storages.JournalStorage, "set_trial_intermediate_value", told_once)
    with pytest.raises(RunError, match="lost its storage"): quick(recorder, storage=journal)
    assert "running" not in {row["optimization_status"] for row in recorder.tables[TABLE]}
    assert story(quick(recorder, storage=journal).rows()) == story(recorder.tables[TABLE]) == story(quick().rows())


@pytest.mark.parametrize("call", [1, 3, 12, 17])
def test_an_answer_that_is_lost_doubles_no_row(slope, call):
    class Deaf(MemoryRecorder):
        calls = 0
        def _answer(self, found):
            self.calls += 1
            if self.calls == call: raise ConnectionError("no answer")
            return found
        def append(self, *change): return self._answer(super().append(*change))
        def update(self, *change): return self._answer(super().update(*change))
    recorder = Deaf()
    with pytest.warns(RecordWarning): result = quick(recorder)
    assert recorder.tables[TABLE] == result.rows()


def test_a_warning_when_rows_begin_to_wait_and_one_when_they_are_given_up(slope):
    class Gone(MemoryRecorder):
        tries = 0
        def append(self, *change):
            Gone.tries += 1
            raise OSError("disk full\nand more")
        update = append
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = quick(Gone(), n_trials=40)
    told = [str(one.message) for one in told if one.category is RecordWarning]
    assert told == ["rows of the search cannot be written, they wait: OSError: disk full", "81 changes of rows were never written: result.rows() holds the rows, append them when the recorder is back"]
    assert Gone.tries < 12 and len(result.rows()) == 40


# what a trial costs

def test_each_trial_costs_one_insert_and_one_update_of_the_database(stored, slope):
    statements = []
    with Database(stored) as database:
        database.counts()
        sa.event.listen(database.engine, "checkout", lambda connection, *rest: connection.set_trace_callback(lambda statement: statements.append(statement.split()[0])))
        quick(database, n_trials=60, sampler="random", pruner="none", splitter=WalkForward(1))
    counted = pd.Series(statements).value_counts()
    assert counted["INSERT"] == 60 and counted["UPDATE"] == 61
    assert counted.get("SELECT", 0) < 60 + 12 and counted["BEGIN"] < 60 + 61 + 12   # a moment per insert, and what the search asks at its start


# early stopping, weights, classes

STOPPED = dict(model_name="lightgbm", search_space={"n_estimators": 60, "learning_rate": 0.3, "min_child_samples": Integer(5, 25), "n_jobs": 1}, n_trials=3, early_stopping=5, splitter=WalkForward(1), pruner="none", horizon=4)

def stopped(X, y, ends):
    "The rounds of each trial, and its values"
    result = search(data=(X, y, ends, None), **STOPPED)
    return [row["validation_metrics"]["rounds"] for row in result.rows()], [row["objective_value"] for row in result.rows()]


def ahead(bars=4):
    "The example with labels of so many bars"
    X, _, _, returns = panel()
    stamps = X.index.get_level_values("timestamp").to_series(index=X.index).groupby(level="symbol").shift(-bars)
    total = returns.unstack().rolling(bars).sum().shift(1 - bars).stack(future_stack=True).reindex(X.index)
    return X, total.where(stamps.notna()).rename("y"), stamps


def test_rounds_depend_on_training_rows_only():
    X, y, ends = ahead()
    rounds, values = stopped(X, y, ends)
    development, holdout = split_holdout(X, fraction=0.2, label_end=ends)
    (train_rows, test), = WalkForward(1, label_end=ends).split(X.iloc[development])
    at, own = X.index.get_level_values(0), development[train_rows]
    times = at[own].unique()
    first = times[-round(0.2*len(times))]
    purged = own[((at[own] < first) & (ends.iloc[own] > first)).to_numpy()]
    used = np.r_[own[((at[own] < first) & (ends.iloc[own] <= first)).to_numpy()], own[at[own] >= first]]
    unused = np.setdiff1d(np.arange(len(X)), used)
    assert len(purged) == 3*4 and set(purged) | set(holdout) | set(development[test]) <= set(unused)
    rng = np.random.default_rng(0)
    def poisoned(rows):
        spoilt_X, spoilt_y = X.copy(), y.copy()
        spoilt_X.iloc[rows] = rng.normal(size=(len(rows), 3))*7
        spoilt_y.iloc[rows] = np.where(y.iloc[rows].isna(), np.nan, rng.normal(size=len(rows)))
        return stopped(spoilt_X, spoilt_y, ends)
    for rows in (unused, purged):
        found, changed = poisoned(rows)
        assert found == rounds and changed != values   # nothing but the rounds is blind to these rows
    assert poisoned(used[:80])[0] != rounds and poisoned(used[-40:])[0] != rounds


@pytest.mark.parametrize("name, classes, class_weight", [("lightgbm", 0, None), ("lightgbm_classifier", 2, {0: 1.0, 1: 4.0}), ("lightgbm_classifier", 3, "balanced"), ("logistic", 3, {0: 3.0, 1: 1.0, 2: 1.0})])
def test_weights_and_class_weights_reach_every_fit(name, classes, class_weight):
    X, y, ends, returns = panel()
    if classes: y = pd.Series(np.arange(classes, dtype=float)[np.searchsorted(y.dropna().quantile([0.3, 0.8][:classes - 1]), y.fillna(0))], X.index).where(y.notna())
    weights = pd.Series(np.random.default_rng(1).uniform(0.1, 3, len(X)), X.index)
    space = {"n_estimators": 15, "min_child_samples": Integer(5, 25)} if name != "logistic" else {}
    metric = "rmse" if not classes else "log_loss" if classes == 2 else "accuracy"
    config = HyperparameterOptimizationConfig(model_name=name, metric=metric, n_trials=2, splitter=WalkForward(2), seed=3, search_space=space, pruner="none", class_weight=class_weight)
    problem, _, development = development_problem(X, y, config, ends, None, weights)
    differing = 0
    for attempt in run_trials(problem, 2, pruner="none"):
        assert attempt.status == "complete"
        for value, (train_rows, test) in zip(attempt.values, WalkForward(2, label_end=ends).split(X.iloc[development]), strict=True):
            rows, tested = development[train_rows], development[test]
            share = class_weight if class_weight != "balanced" else {k: len(rows)/classes/(y.iloc[rows] == k).sum() for k in range(classes)}
            own = weights.iloc[rows]*(1.0 if share is None else y.iloc[rows].map(share))
            seed = {} if name == "logistic" else {"random_state": child_seed(3, "search"), "n_jobs": 1}
            true = y.iloc[tested].to_numpy()
            judged = {"rmse": lambda said: np.sqrt(np.mean((true - said)**2)), "log_loss": lambda said: log_loss(true, said), "accuracy": lambda said: np.mean(true == said)}[metric]
            fit = lambda counted: judged(forecast(make_model(name, **seed | attempt.parameters).fit(X.iloc[rows], y.iloc[rows], sample_weight=counted), X.iloc[tested]))
            assert value == pytest.approx(fit(own), rel=1e-9)
            differing += (share is None or value != pytest.approx(fit(weights.iloc[rows]))) and value != pytest.approx(fit(own/weights.iloc[rows]))
    assert differing > 1   # neither the weights nor the classes' are idle


by_sklearn = {"roc_auc": skm.roc_auc_score, "average_precision": skm.average_precision_score, "log_loss": skm.log_loss, "brier_score": skm.brier_score_loss} | {
    name: lambda true, said, judge=judge: judge(true, said > 0.5) for name, judge in dict(accuracy=skm.accuracy_score, balanced_accuracy=skm.balanced_accuracy_score, precision=skm.precision_score,
                                                                                          recall=skm.recall_score, f1=skm.f1_score, matthews_correlation=skm.matthews_corrcoef).items()}
of_several = dict(accuracy=skm.accuracy_score, balanced_accuracy=skm.balanced_accuracy_score, matthews_correlation=skm.matthews_corrcoef)
by_sklearn["calibration_error"] = lambda true, said: score("calibration_error", pd.Series(true*1.0), pd.Series(said))

@pytest.mark.parametrize("classes", [(0, 1), (-1, 1), (-1, 0, 1)])
@pytest.mark.parametrize("metric", [name for name in metrics if metrics.facts(name)["task"] == "classification"])
def test_every_metric_of_classes_is_searched_or_refused(metric, classes):
    X, y, ends, returns = panel(t=160)
    labels = pd.Series(np.array(classes, float)[pd.qcut(y.fillna(0), len(classes), labels=False)], X.index).where(y.notna())
    config = HyperparameterOptimizationConfig(model_name="logistic", metric=metric, n_trials=2, splitter=WalkForward(2), search_space={"alpha": Float(1.0, 100.0, log=True)})
    if len(classes) > 2 and metric not in of_several:
        with pytest.raises(InputError, match="classes"): development_problem(X, labels, config, ends, None)
        return
    problem, _, development = development_problem(X, labels, config, ends, None)
    for attempt in run_trials(problem, 2, pruner="none"):
        assert attempt.status == "complete" and attempt.why is None
        for value, (train_rows, test) in zip(attempt.values, WalkForward(2, label_end=ends).split(X.iloc[development]), strict=True):
            rows, tested = development[train_rows], development[test]
            model = make_model("logistic", **attempt.parameters).fit(X.iloc[rows], labels.iloc[rows])
            true = labels.iloc[tested].to_numpy()
            if len(classes) == 2: assert value == pytest.approx(by_sklearn[metric](true == classes[1], model.predict_proba(X.iloc[tested])[:, 1]))
            else: assert value == pytest.approx(of_several[metric](true, model.predict(X.iloc[tested])))


# earlier searches

def test_the_first_trials_are_the_defaults_and_then_the_latest_earlier_searches(slope):
    X, y, ends, returns = panel(t=160)
    at, recorder = X.index.get_level_values(0), MemoryRecorder()
    def part(last):
        early, known = at < at.unique()[last], ends < at.unique()[last] if last < 160 else ends.notna()
        return X[early], y[early].where(known[early]), ends[early].where(known[early]), returns[early]
    kinds = [("first", 80, {}), ("second", 100, {}), ("of another metric", 80, dict(metric="mae")), ("too late", 159, {}), ("outside", 80, dict(search_space={"slope": Float(3.0, 9.0)})), ("third", 90, {})]
    for k, (name, last, how) in enumerate(kinds): quick(recorder, data=part(last), optimization_id=name, seed=k, sampler="random", n_trials=4 + k, **how)
    best = {row["optimization_id"]: row["hyperparameters"] for row in recorder.tables[TABLE] if row["best_trial"]}
    recorder.append(TABLE, [row | {"optimization_id": "unfinished", "best_trial": False} for row in recorder.tables[TABLE] if row["optimization_id"] == "first"])
    known = [dict(row) for row in recorder.tables[TABLE]]
    started = lambda limit: quick(recorder, data=part(130), warm_start=limit, n_trials=6, optimization_id="now", sampler="random")
    result = started(5)
    assert [row["hyperparameters"] for row in result.rows()][:4] == [{"slope": 0.5}, best["third"], best["second"], best["first"]]
    assert result.luck.n_trials == 6 + (9 + 5 + 4) and result.n_trials == 6
    recorder.tables[TABLE] = known
    result = started(1)
    assert [row["hyperparameters"] for row in result.rows()][:2] == [{"slope": 0.5}, best["third"]] and result.luck.n_trials == 6 + 9


@pytest.mark.parametrize("holdout, counted", [(0.16, 0), (0.2, 5), (0.3, 5)])   # rows up to bar 98, 93 and 80; labels known by bar 109, 104 and 91
def test_what_counts_is_when_an_earlier_searchs_labels_were_known(slope, holdout, counted):
    X, y, _, returns = panel()
    ends = X.index.get_level_values(0).to_series(index=X.index).groupby(level="symbol").shift(-10)
    recorder = MemoryRecorder()
    quick(recorder, data=(X, y.where(ends.notna()), ends, returns), optimization_id="ten bars", horizon=10, holdout=holdout, n_trials=5)
    assert quick(recorder, data=panel(), optimization_id="now", warm_start=1, n_trials=3).luck.n_trials == 3 + counted   # its holdout begins at bar 104


@pytest.mark.parametrize("lengths", [(130, 80), (1300, 990)])   # as text, 103 stands before 63, and 1039 before 791
def test_later_rows_are_told_by_number(slope, lengths):
    rng, recorder = np.random.default_rng(0), MemoryRecorder()
    X = pd.DataFrame(rng.normal(size=(max(lengths), 1)), columns=["a"])
    y = 0.5*X.a + rng.normal(size=len(X))
    def started(n, name):
        config = HyperparameterOptimizationConfig(model_name="slope", metric="rmse", n_trials=3, seed=n, optimization_id=name, splitter=WalkForward(2), search_space={"slope": Float(-1.0, 1.0)}, warm_start=2)
        return optimize_hyperparameters(X.iloc[:n], y.iloc[:n].where(X.index[:n] < n - 1), config, recorder=recorder)
    started(lengths[0], "long")
    assert started(lengths[1], "short").luck.n_trials == 3 and started(lengths[0] - 1, "nearly as long").luck.n_trials == 3 + 3
