"A search that is killed, shared, cut off from its database, stopped early or begun elsewhere: what is lost, and what comes out"
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lightgbm import Dataset, record_evaluation, train
from sklearn.metrics import log_loss

from alphaplus_ml.config import sqlite_url
from alphaplus_ml.core import InputError, MemoryRecorder, child_seed
from alphaplus_ml.evaluation.splits import WalkForward, split_holdout
from alphaplus_ml.models.base import forecast, make_model
from alphaplus_ml.store.database import Database
from alphaplus_ml.tuning.optimize import HyperparameterOptimizationConfig, optimize_hyperparameters
from alphaplus_ml.tuning.records import RecordWarning
from alphaplus_ml.tuning.spaces import Integer

TABLE = "hyperparameter_optimization"
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

setup = '''
import numpy as np, pandas as pd
from alphaplus_ml.evaluation.splits import WalkForward
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
    if len(calls) == int(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)
    return true(name, **parameters)
trials.make_model = deadly
with Database(sys.argv[1]) as database: search(database, n_jobs=int(sys.argv[3]), pruner="none")
'''

# killed

@pytest.mark.parametrize("call, n_jobs", [(1, 1), (11, 1), (24, 2)])   # models made: three in each trial
def test_a_killed_search_goes_on_as_if_nothing_had_happened(tmp_path, call, n_jobs):
    url = sqlite_url(tmp_path/"a.db")
    with Database(url) as database: database.upgrade()
    assert process(dies, url, call, n_jobs).wait(60) == -signal.SIGKILL
    with Database(url) as database:
        left = database.frame(TABLE)
        assert 1 <= (left.optimization_status == "running").sum() <= n_jobs and len(left) == left.trial_number.nunique() < 14
        result = search(database, n_jobs=n_jobs, pruner="none")
        rows = database.frame(TABLE)
    assert story(rows.to_dict("records")) == story(result.rows()) == story(search(n_jobs=n_jobs, pruner="none", optimization_id=None).rows())
    assert len(rows) == 14 and rows.best_trial.sum() == 1 and "running" not in set(rows.optimization_status)


def test_what_kills_the_process_twice_counts_as_failed(tmp_path):
    url = sqlite_url(tmp_path/"a.db")
    with Database(url) as database: database.upgrade()
    for _ in range(2): assert process(dies.replace("len(calls) == int(sys.argv[2])", "abs(parameters.get('alpha', 0) - 1000) < 1e-9"), url, 0, 1).wait(60) == -signal.SIGKILL
    with Database(url) as database:
        result = search(database, pruner="none")
        rows = database.frame(TABLE).sort_values("trial_number")
    assert rows.optimization_status.iloc[0] == "failed" and "died twice" in rows.validation_metrics.iloc[0]["failed_because"]
    assert len(rows) == result.n_trials == 14 and rows.best_trial.sum() == 1 and (rows.optimization_status.iloc[1:] != "failed").all()


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
        killed = process(dies.replace('n_jobs=int(sys.argv[3]), pruner="none"', 'storage=sys.argv[3], n_trials=20, sampler="random"'), url, 11, journal)
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
