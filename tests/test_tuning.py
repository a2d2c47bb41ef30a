"A hyperparameter search: what it may see, what it records, what its figures mean, and what it refuses"
from math import sqrt

import numpy as np
import optuna
import pandas as pd
import pytest
from scipy.stats import kurtosis, skew, spearmanr
from sklearn.base import BaseEstimator

from alphaplus_ml.core import InputError, MemoryRecorder, RunError, child_seed
from alphaplus_ml.evaluation.comparison import headline_interval
from alphaplus_ml.evaluation.metrics import metrics, r2_out_of_sample, score, sign
from alphaplus_ml.evaluation.overfitting import deflated_sharpe_ratio, probability_of_backtest_overfitting
from alphaplus_ml.evaluation.portfolio import portfolio_returns
from alphaplus_ml.evaluation.splits import WalkForward, split_holdout
from alphaplus_ml.models.base import make_model, model_parameters, predict_out_of_fold
from alphaplus_ml.tuning import search as search_module
from alphaplus_ml.tuning import trials as trials_module
from alphaplus_ml.tuning.optimize import HyperparameterOptimizationConfig, OptimizationResult, optimize_hyperparameters
from alphaplus_ml.tuning.spaces import Choice, Float, Integer
from alphaplus_ml.tuning.trials import standing

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
TABLE = OptimizationResult.table
TREES = {"n_estimators": 8, "min_child_samples": Integer(5, 25), "n_jobs": 1}   # the number of trees is fixed and small

def panel(t=130, s=4, horizon=1, seed=0):
    "Features, labels over a horizon, label ends, and one-bar returns"
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([pd.date_range("2022-01-03", periods=t, tz="UTC"), [f"S{k}" for k in range(s)]], names=["timestamp", "symbol"])
    X = pd.DataFrame(rng.normal(size=(t*s, 3)), index=index, columns=["a", "b", "c"])
    returns = 0.004*X.a + 0.01*pd.Series(rng.normal(size=t*s), index)
    ahead = returns.unstack().rolling(horizon).sum().shift(1 - horizon).stack(future_stack=True).reindex(index)
    stamps = index.get_level_values("timestamp").to_series(index=index).groupby(level="symbol").shift(-horizon)
    return X, ahead.where(stamps.notna()).rename("y"), stamps, returns

def config(**changes): return HyperparameterOptimizationConfig(**dict(model_name="ridge", n_trials=4, splitter=WalkForward(3), seed=3) | changes)

def search(data=None, recorder=None, luck=True, **changes):
    X, y, ends, returns = data or panel(horizon=changes.get("horizon", 1))
    return optimize_hyperparameters(X, y, config(**changes), label_end=ends, returns=returns if luck else None, recorder=recorder)

def without_time(rows): return [{k: v for k, v in row.items() if k not in ("training_duration_seconds", "optimization_id")} for row in rows]

class PruneOdd(optuna.pruners.BasePruner):
    def prune(self, study, trial): return trial.number % 2 == 1

# the holdout

@pytest.mark.parametrize("model, space, horizon", [("ridge", {}, 5), ("lightgbm", TREES, 1)])
def test_a_poisoned_holdout_changes_no_trial(model, space, horizon):
    X, y, ends, returns = data = panel(horizon=horizon)
    first = int(len(X)*0.8)   # of 130 timestamps the last 26
    poisoned = [one.copy() for one in (X, y, ends, returns)]
    for one in (poisoned[0], poisoned[3]): one.iloc[first:] = np.random.default_rng(1).normal(0, 0.05, one.iloc[first:].shape)
    poisoned[1].iloc[first:] = np.where(y.iloc[first:].isna(), np.nan, np.random.default_rng(0).normal(0, 99, len(y) - first))
    clean, dirty = (search(one, model_name=model, search_space=space, horizon=horizon) for one in (data, poisoned))
    assert clean.holdout.min() == first and set(X.index[clean.holdout].get_level_values(0)) == set(X.index[first:].get_level_values(0))
    pd.testing.assert_frame_equal(clean.trials, dirty.trials)
    assert clean.best_params == dirty.best_params and clean.best_value == dirty.best_value and clean.default_value == dirty.default_value
    assert (clean.pbo, clean.deflated_sharpe, clean.sharpe_variance) == pytest.approx((dirty.pbo, dirty.deflated_sharpe, dirty.sharpe_variance), nan_ok=True)
    np.testing.assert_array_equal(clean.model.predict(X), dirty.model.predict(X))
    assert clean.holdout_value != dirty.holdout_value

def test_labels_that_reach_into_the_holdout_are_not_trained_on():
    X, y, ends, returns = panel(horizon=7)
    result = search((X, y, ends, returns), horizon=7)
    start = X.index[result.holdout[0]][0]
    assert (ends.iloc[result.development] <= start).all() and len(result.development) == 4*(104 - 7 + 1)
    y = y.mask((ends > start) & (X.index.get_level_values(0) < start), 1e6)   # the purged rows
    assert search((X, y, ends, returns), horizon=7).best_value == result.best_value

class SpySplitter(BaseEstimator):
    "A walk-forward splitter that remembers what it was given"
    seen = []
    def __init__(self, label_end=None): self.label_end = label_end
    def split(self, X, y=None, groups=None):
        SpySplitter.seen.append((X.index, self.label_end))
        return WalkForward(2, label_end=self.label_end).split(X, y)

def test_the_splitter_gets_the_label_ends_of_the_development_part():
    SpySplitter.seen = []
    X, _, ends, _ = data = panel(horizon=4)
    result = search(data, splitter=SpySplitter(), horizon=4)
    (rows, given), = SpySplitter.seen
    assert rows.equals(X.index[result.development]) and given.loc[rows].equals(ends.loc[rows])

def test_folds_are_purged(monkeypatch):
    X, y, ends, returns = panel(horizon=4)
    fitted, true = [], trials_module.make_model
    class Spy(BaseEstimator):
        def fit(self, X, y): fitted.append(X.index); self.model_ = true("ridge").fit(X, y); return self
        def predict(self, X): return self.model_.predict(X)
    monkeypatch.setattr(trials_module, "make_model", lambda name, **parameters: Spy())
    result = search((X, y, ends, returns), n_trials=2, horizon=4)
    expected = [result.development[train] for train, _ in WalkForward(3, label_end=ends).split(X.iloc[result.development])]
    assert len(fitted) == 2*3 + 2   # two trials, then best and defaults once each for the holdout
    for rows, wanted in zip(fitted, expected*2): assert rows.equals(X.index[wanted])
    assert all(rows.equals(X.index[result.development]) for rows in fitted[6:])

# the figures

@pytest.mark.parametrize("model, space", [("ridge", {}), ("lightgbm", TREES)])
def test_the_holdout_value_is_that_of_the_best_parameters(model, space):
    X, y, ends, returns = data = panel(horizon=3)
    result = search(data, model_name=model, search_space=space, horizon=3)
    development, holdout = split_holdout(X, fraction=0.2, label_end=ends)
    np.testing.assert_array_equal(result.development, development)
    seed = {"random_state": child_seed(3, "search")} if "random_state" in model_parameters(model) else {}
    defaults = result.records[0]["hyperparameters"]
    for parameters, found in ((result.best_params, result.holdout_value), (defaults, result.default_holdout_value)):
        fitted = make_model(model, **seed | parameters).fit(X.iloc[development], y.iloc[development])
        both = pd.DataFrame({"y": y.iloc[holdout], "p": fitted.predict(X.iloc[holdout])}, index=X.index[holdout]).dropna()
        assert found == pytest.approx(np.mean([spearmanr(day.y, day.p).statistic for _, day in both.groupby("timestamp")]))
    scored = y.iloc[holdout].dropna()
    assert result.holdout_interval == pytest.approx(headline_interval("rank_ic", scored, result.prediction.loc[scored.index], 3, seed=child_seed(3, "interval")))
    assert result.prediction.index.equals(X.index[holdout]) and f"{result.holdout_value:.4f} on the holdout" in result.verdict

def out_of_fold(data, parameters, model="ridge", splits=3):
    X, y, ends, returns = data
    development, _ = split_holdout(X, fraction=0.2, label_end=ends)
    part = X.iloc[development], y.iloc[development]
    return part[1], predict_out_of_fold(make_model(model, **parameters), *part, WalkForward(splits), label_end=ends.iloc[development])

@pytest.mark.parametrize("metric", ["rank_ic", "rmse"])
def test_values_and_standings_are_what_they_say(metric):
    data = panel(horizon=2)
    result = search(data, metric=metric, horizon=2, pruner="none", luck=False)
    reference = result.records[0]["validation_metrics"]["folds"]
    for row in result.records:
        y, predicted = out_of_fold(data, row["hyperparameters"])
        blocks = [test for _, test in WalkForward(3).split(y.to_frame())]
        folds = [score(metric, y.iloc[test].dropna(), predicted.iloc[test].loc[y.iloc[test].dropna().index]) for test in blocks]
        found = row["validation_metrics"]
        assert found["folds"] == pytest.approx(folds) and row["objective_value"] == pytest.approx(np.mean(folds)) and row["objective_name"] == metric
        if row["trial_number"]: assert found["standing"] == pytest.approx([sign(metric)*np.mean(np.subtract(folds, reference)[:k + 1]) for k in range(3)])
        else: assert found["standing"] == [0, 0, 0]
    best = max(result.records, key=lambda row: sign(metric)*row["objective_value"])
    assert best["best_trial"] and result.best_value == best["objective_value"] and result.best_params == best["hyperparameters"]
    assert result.default_value == result.records[0]["objective_value"] and sign(metric)*(result.best_value - result.default_value) >= 0

def test_a_standing_compares_the_same_folds():
    defaults = [[0.1], [0.1], [0.9]]
    assert standing([[0.3], [0.1]], defaults, 1) == pytest.approx(0.1) and standing([[0.3], [0.1]], defaults, -1) == pytest.approx(-0.1)
    assert standing([[1.0]], None, 1) == 0.0

def test_a_look_inside_a_fold_is_compared_with_the_same_look():
    defaults = [[0.1, 0.4], [0.2, 0.6]]
    assert standing([[0.3]], defaults, 1) == pytest.approx(0.2) and standing([[0.3, 0.3]], defaults, 1) == pytest.approx(-0.1)
    assert standing([[0.3, 0.3], [0.4]], defaults, 1) == pytest.approx((-0.1 + 0.2)/2)
    assert np.isnan(standing([[None]], defaults, 1)) and np.isnan(standing([[0.3]], [[None, 0.4]], 1))

@pytest.mark.parametrize("pruner", ["none", PruneOdd()])
def test_measures_of_luck_equal_their_recomputation(pruner):
    data = panel(t=220, horizon=2)
    result = search(data, horizon=2, n_trials=7, pruner=pruner, cost_bps=2.0, search_space={"alpha": Float(1e-3, 1e7, log=True)})
    complete = {row["trial_number"]: row for row in result.records if row["optimization_status"] == "complete"}
    net = pd.DataFrame({number: portfolio_returns(out_of_fold(data, row["hyperparameters"])[1], data[3], horizon=2, cost_bps=2.0) for number, row in complete.items()})
    ratios = net.mean()/net.std(ddof=1)
    best = next(row["trial_number"] for row in result.records if row["best_trial"])
    assert result.sharpe_variance == pytest.approx(ratios.var(ddof=1)) and result.n_trials == 7 and len(complete) == (7 if pruner == "none" else 4)
    assert result.deflated_sharpe == pytest.approx(deflated_sharpe_ratio(ratios[best], len(net), 7, ratios.var(ddof=1), skew(net[best]), kurtosis(net[best], fisher=False)))
    assert result.pbo == pytest.approx(probability_of_backtest_overfitting(net, 16).pbo)
    assert f"over {len(complete)} complete trials" in next(row for row in result.records if row["best_trial"])["validation_metrics"]["pbo_note"]

def test_no_returns_no_measure_of_luck():
    result = search(luck=False)
    assert np.isnan(result.deflated_sharpe) and np.isnan(result.pbo)
    assert "returns" in next(row for row in result.records if row["best_trial"])["validation_metrics"]["pbo_note"]

@pytest.mark.parametrize("metric", [name for name in metrics if metrics.facts(name)["task"] in ("regression", "direction", "ranking")])
def test_every_metric_can_be_searched(metric):
    result = search(panel(s=6), metric=metric, n_trials=2, luck=False)
    values = result.trials.value.astype(float)
    assert result.best_value == (values.max() if sign(metric) > 0 else values.min()) and np.isfinite(result.holdout_value)
    lower, upper = result.holdout_interval
    assert lower <= upper

def test_a_metric_that_the_panel_is_too_narrow_for_is_refused_before_any_work():
    with pytest.raises(InputError, match="quantile_spread is defined.*perfect forecast"): search(panel(s=4), metric="quantile_spread")
    with pytest.raises(InputError, match="rank_ic is defined"): search(panel(s=2), metric="rank_ic")

@pytest.mark.parametrize("metric", [name for name in metrics if metrics.facts(name)["task"] not in ("regression", "direction", "ranking")])
def test_metrics_of_other_forecasts_are_not_searched(metric):
    with pytest.raises(ValueError, match="regression, direction or ranking"): config(metric=metric)

def test_r2_on_the_holdout_compares_with_what_was_known():
    X, y, ends, returns = data = panel(horizon=3)
    result = search(data, metric="r2_out_of_sample", horizon=3, luck=False)
    scored = y.iloc[result.holdout].dropna()
    expected = r2_out_of_sample(scored, result.prediction.loc[scored.index], horizon=3, label_end=ends, history=y.iloc[result.development])
    assert result.holdout_value == pytest.approx(expected)

def test_one_asset_is_searched_over_time():
    result = search(panel(s=1))
    assert result.metric == "time_series_ic" and np.isfinite(result.best_value)

# records

class Spy(MemoryRecorder):
    "Remembers the order of what was written"
    def __init__(self): super().__init__(); self.log = []
    def append(self, table, rows):
        self.log += [("append", table, row["trial_number"], row["optimization_status"]) for row in rows]
        return super().append(table, rows)
    def update(self, table, key, values):
        self.log.append(("update", table, key["trial_number"], values["optimization_status"]))
        found = super().update(table, key, values)
        assert found == 1
        return found

@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_row_is_written_when_a_trial_starts_and_when_it_ends(n_jobs):
    spy = Spy()
    result = search(recorder=spy, n_trials=5, pruner=PruneOdd(), n_jobs=n_jobs, optimization_id="mine")
    for number in range(5):
        own = [entry for entry in spy.log if entry[2] == number]
        assert own[0] == ("append", TABLE, number, "running") and own[1] == ("update", TABLE, number, "pruned" if number % 2 else "complete")
    rows = spy.frame(TABLE)
    assert list(rows.trial_number) == list(range(5)) and (rows.optimization_id == "mine").all() and rows.best_trial.sum() == 1
    assert spy.tables[TABLE] == list(result.rows()) and (rows.training_duration_seconds > 0).all()
    told = rows.validation_metrics[rows.best_trial].iloc[0]
    assert told["verdict"] == result.verdict and told["n_trials"] == 5 and told["holdout_value"] == result.holdout_value

def test_pruned_trials_say_what_pruned_them():
    result = search(n_trials=6, pruner=PruneOdd())
    for row in result.records:
        found = row["validation_metrics"]
        if row["trial_number"] % 2 == 0: assert row["optimization_status"] == "complete" and "pruned_by" not in found
        else: assert row["objective_value"] is None and len(found["folds"]) == 1 and found["pruned_by"].startswith("PruneOdd after fold 0") and not row["best_trial"]
    assert result.n_trials == 6 and (result.trials.why[result.trials.status == "pruned"] != "").all()

def test_the_median_pruner_stops_what_lags_behind():
    result = search(panel(t=200), n_trials=16, metric="rmse", sampler="random", luck=False, search_space={"alpha": Float(1.0, 1e6, log=True)})
    pruned = result.trials[result.trials.status == "pruned"]
    assert 0 < len(pruned) < 11 and pruned.index.min() >= 5 and pruned.why.str.contains("MedianPruner").all()

def test_failed_trials_are_recorded_and_counted():
    spy = Spy()
    result = search(recorder=spy, n_trials=8, sampler="random", search_space={"alpha": Choice((10.0, -1.0))})
    failed = [row for row in result.records if row["optimization_status"] == "failed"]
    assert 0 < len(failed) < 8 and result.n_trials == 8 and "8 trials" in result.verdict
    assert all("alpha" in row["validation_metrics"]["failed_because"] and row["objective_value"] is None for row in failed)
    assert set(spy.frame(TABLE).optimization_status) == {"complete", "failed"} and result.best_params["alpha"] == 10.0

def test_defaults_that_fail_do_not_end_the_search():
    result = search(n_trials=8, sampler="random", luck=False, search_space={"alpha": Choice((-1.0, 10.0, 20.0))})
    assert result.trials.status[0] == "failed" and np.isnan(result.default_value) and result.best_params["alpha"] > 0
    assert np.isnan(result.default_holdout_value) and result.default_prediction.isna().all() and np.isfinite(result.holdout_value)
    assert "not distinguishable" in result.verdict and "the defaults failed" in result.verdict

def test_defaults_without_a_metric_are_compared_all_the_same():
    result = search(model_name="lightgbm", search_space=TREES | {"min_child_samples": Choice((400, 10, 20))}, n_trials=6, luck=False)
    assert result.trials.status[0] == "failed" and "constant prediction" in result.trials.why[0]
    assert result.default_prediction.nunique() == 1 and "Diebold-Mariano" in result.verdict

def test_a_search_without_a_complete_trial_says_why():
    spy = Spy()
    with pytest.raises(RunError, match="None of 3 trials.*alpha"): search(recorder=spy, n_trials=3, search_space={"alpha": Choice((-1.0, -2.0))})
    assert (spy.frame(TABLE).optimization_status == "failed").all()

@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("call", [2, 5, 8])   # in the first trial, between, and later
def test_an_interrupt_leaves_no_running_row(monkeypatch, n_jobs, call):
    true, calls, spy = trials_module.make_model, [], Spy()
    def interrupted(name, **parameters):
        calls.append(name)
        if len(calls) == call: raise KeyboardInterrupt
        return true(name, **parameters)
    monkeypatch.setattr(trials_module, "make_model", interrupted)
    with pytest.raises(KeyboardInterrupt): search(recorder=spy, n_trials=9, n_jobs=n_jobs, pruner="none")
    rows = spy.frame(TABLE)
    assert not (rows.optimization_status == "running").any() and (rows.optimization_status == "failed").any() and not rows.best_trial.any()
    failed = rows.validation_metrics[rows.optimization_status == "failed"]
    assert failed.map(lambda found: "KeyboardInterrupt" in found["failed_because"]).all()

@pytest.mark.parametrize("number", [0, 2])
def test_an_interrupt_between_evaluation_and_record_leaves_no_running_row(monkeypatch, number):
    true, spy = search_module.end, Spy()
    def interrupted(search, attempt):
        if attempt.number == number: raise KeyboardInterrupt
        true(search, attempt)
    monkeypatch.setattr(search_module, "end", interrupted)
    with pytest.raises(KeyboardInterrupt): search(recorder=spy, n_trials=6, n_jobs=2)
    assert "running" not in set(spy.frame(TABLE).optimization_status)

# what is proposed

@pytest.mark.parametrize("model, space, n_jobs", [("ridge", {}, 1), ("ridge", {}, 2), ("lightgbm", TREES, 2)])
def test_the_same_seed_gives_the_same_search(model, space, n_jobs):
    one, two = (search(model_name=model, search_space=space, n_jobs=n_jobs, n_trials=12, luck=n_jobs == 2) for _ in range(2))
    assert without_time(one.rows()) == without_time(two.rows()) and one.optimization_id != two.optimization_id
    assert one.verdict == two.verdict and one.holdout_interval == two.holdout_interval
    np.testing.assert_array_equal(one.prediction, two.prediction)

def test_another_seed_gives_another_search():
    one, two = (search(seed=seed) for seed in (0, 1))
    assert one.trials.alpha[0] == two.trials.alpha[0] == 1000.0 and one.trials.alpha[1] != two.trials.alpha[1]

def test_permuted_rows_give_the_same_search():
    data = panel(horizon=2)
    order = np.random.default_rng(0).permutation(len(data[0]))
    one, two = search(data, horizon=2), search([part.iloc[order] for part in data], horizon=2)
    pd.testing.assert_frame_equal(one.trials, two.trials)
    assert one.holdout_value == pytest.approx(two.holdout_value) and one.deflated_sharpe == pytest.approx(two.deflated_sharpe)

def test_the_first_trial_is_the_defaults():
    result = search(model_name="lightgbm", search_space=TREES | {"learning_rate": Float(0.05, 0.2), "num_leaves": 5}, n_trials=2)
    first = result.records[0]["hyperparameters"]
    assert first["min_child_samples"] == 25 and first["learning_rate"] == 0.05   # the nearest values inside
    assert first["n_estimators"] == 8 and first["num_leaves"] == 5 and first["reg_lambda"] == 10.0

def test_values_stay_inside_their_ranges():
    space = TREES | {"objective": Choice(("regression", "huber")), "learning_rate": Float(0.01, 0.02)}
    trials = search(model_name="lightgbm", search_space=space, n_trials=8, pruner="none", luck=False).trials
    assert trials.min_child_samples.between(5, 25).all() and trials.learning_rate.between(0.01, 0.02).all() and set(trials.objective) <= {"regression", "huber"}
    assert (trials.n_estimators == 8).all() and trials.min_child_samples.nunique() > 2

def test_an_optuna_sampler_can_be_handed_over():
    sampler = optuna.samplers.RandomSampler(seed=11)
    one, two = search(sampler=sampler), search(sampler=sampler)   # a copy is used: the first search does not advance it
    assert list(one.trials.alpha) == list(two.trials.alpha) != list(search().trials.alpha)

def test_a_sampler_that_is_exhausted_ends_the_search():
    result = search(sampler=optuna.samplers.GridSampler({"alpha": [10.0, 1e3, 1e5]}, seed=0), n_trials=20, luck=False)
    assert 3 <= result.n_trials <= 4 and set(result.trials.alpha) == {10.0, 1e3, 1e5}

def test_tpe_takes_over_after_ten_trials():
    by_tpe, at_random = (search(sampler=name, n_trials=13, pruner="none", luck=False) for name in ("tpe", "random"))
    assert "No Bayesian step" not in by_tpe.verdict and "No Bayesian step" in search(n_trials=2, luck=False).verdict
    assert list(by_tpe.trials.alpha[11:]) != list(at_random.trials.alpha[11:])

def test_a_timeout_stops_but_not_before_the_first_trial():
    result = search(n_trials=50, timeout=1e-9)
    assert result.n_trials == 1 and result.best_value == result.default_value and result.trials.best[0]

def test_optuna_is_as_talkative_as_before(capsys):
    before = optuna.logging.get_verbosity()
    search(n_trials=2)
    assert optuna.logging.get_verbosity() == before and capsys.readouterr() == ("", "")

def test_inputs_are_left_as_they_were():
    data, kept = panel(), panel()
    splitter = WalkForward(3)
    search(data, splitter=splitter)
    for one, other in zip(data, kept): assert one.equals(other)
    assert splitter.label_end is None

# bad input

@pytest.mark.parametrize("change, near", [(dict(model_name="rigde"), "ridge"), (dict(metric="rank_ci"), "rank_ic"), (dict(sampler="tpee"), "tpe"), (dict(pruner="medain"), "median"),
                                          (dict(search_space={"alhpa": 1.0}), "alpha"), (dict(n_trails=3), "n_trails")])
def test_an_unknown_name_comes_with_near_ones(change, near):
    with pytest.raises(InputError, match=near): config(**change)

@pytest.mark.parametrize("change, words", [
    (dict(n_trials=0), "n_trials"), (dict(timeout=0), "timeout"), (dict(holdout=0), "holdout"), (dict(holdout=1.0), "holdout"), (dict(n_jobs=0), "n_jobs"), (dict(horizon=0), "horizon"),
    (dict(cost_bps=-1), "cost_bps"), (dict(seed=-1), "seed"), (dict(splitter=5), "split"), (dict(sampler=5), "sampler"), (dict(pruner=5), "pruner"),
    (dict(search_space={"alpha": 3.0}), "at least one parameter"), (dict(model_name="past_mean"), "at least one parameter")])
def test_a_config_that_makes_no_sense_is_refused(change, words):
    with pytest.raises(InputError, match=words): config(**change)

@pytest.mark.parametrize("change, words", [
    (lambda X, y, e, r: (X, y.mask(np.arange(len(y)) == 40), e, r), "missing only where"), (lambda X, y, e, r: (X, y.mask(np.arange(len(y)) == 510), e, r), "missing only where"),
    (lambda X, y, e, r: (X, y.mask(np.arange(len(y)) == 40, np.inf), e, r), "finite"), (lambda X, y, e, r: (X, y.iloc[::-1], e, r), "target has the index"),
    (lambda X, y, e, r: (X, y.iloc[1:], e, r), "target has the index"), (lambda X, y, e, r: (X, y.to_numpy(), e, r), "Series"), (lambda X, y, e, r: (X, y, e.iloc[1:], r), "label_end"),
    (lambda X, y, e, r: (X, y, e, r.iloc[1:]), "returns"), (lambda X, y, e, r: (X.assign(a=np.inf), y, e, r), "finite"), (lambda X, y, e, r: (X.assign(a="x"), y, e, r), "numbers"),
    (lambda X, y, e, r: (X.to_numpy(), y, e, r), "DataFrame"), (lambda X, y, e, r: (X, y.where(y.index.get_level_values(0) < "2022-04-01"), e.where(y.index.get_level_values(0) < "2022-04-01"), r), "holdout has labelled")])
def test_inputs_that_do_not_fit_are_refused_before_any_work(change, words):
    spy = Spy()
    with pytest.raises(InputError, match=words): search(change(*panel()), recorder=spy)
    assert not spy.log

@pytest.mark.parametrize("horizon, holdout", [(1, 0.015), (10, 0.1), (12, 0.1)])
def test_a_holdout_too_short_for_its_test_is_refused_before_any_work(horizon, holdout):
    spy = Spy()
    with pytest.raises(InputError, match="more timestamps than the horizon"): search(panel(horizon=horizon), recorder=spy, horizon=horizon, holdout=holdout, splitter=WalkForward(3))
    assert not spy.log

def test_an_id_belongs_to_one_search():
    spy = Spy()
    first = search(recorder=spy, optimization_id="mine")
    with pytest.raises(InputError, match="belongs to one search.*'mine'"): search(recorder=spy, optimization_id="mine", seed=1)
    for splitter in (WalkForward(4), WalkForward(3, embargo=5), WalkForward(3, train_size=60)):   # other folds are another search
        with pytest.raises(InputError, match="belongs to one search"): search(recorder=spy, optimization_id="mine", splitter=splitter)
    assert spy.tables[TABLE] == first.rows()
    search(recorder=spy, optimization_id="other")

def test_a_missing_target_inside_is_found_without_label_ends():
    X, y, _, _ = panel(horizon=2)
    assert np.isfinite(optimize_hyperparameters(X, y, config(n_trials=1, horizon=2)).best_value)
    with pytest.raises(InputError, match="1 of 520 are NaN"): optimize_hyperparameters(X, y.mask(np.arange(len(y)) == 4*127), config(n_trials=1, horizon=2))
    with pytest.raises(InputError, match="4 of 520 are NaN"): optimize_hyperparameters(X, y, config(n_trials=1, horizon=1))   # one bar too many is missing

@pytest.mark.parametrize("splitter", [WalkForward(500), WalkForward(3, train_size=2, horizon=5), WalkForward(40, test_size=10)])
def test_more_folds_than_there_is_room_for_are_refused(splitter):
    spy = Spy()
    with pytest.raises(InputError, match="splits"): optimize_hyperparameters(*panel(horizon=5)[:2], config(splitter=splitter, horizon=5), recorder=spy)
    assert not spy.log
