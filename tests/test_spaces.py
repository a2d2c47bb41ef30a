"Search spaces, samplers and pruners: ranges against Optuna's own, conditions against brute force, every model's space fitted at both ends"
import itertools
import warnings

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alphaplus_ml.core import InputError, UnknownNameError
from alphaplus_ml.models.base import contract_data, make_model, model_parameters, models
from alphaplus_ml.tuning.samplers import grid_points, make_pruner, make_sampler, pruners, samplers, told
from alphaplus_ml.tuning.spaces import (Choice, Float, Integer, When, describe_space, distributions, inside, resolve_space, search_spaces,
                                        starting_point, suggest)

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.filterwarnings("ignore:IProgress")]
optuna.logging.set_verbosity(optuna.logging.ERROR)
quick = settings(max_examples=60, deadline=None, derandomize=True)

# ranges

@st.composite
def numbers(draw):
    "A Float or an Integer"
    log, points = draw(st.booleans()), draw(st.none() | st.integers(2, 6))
    if draw(st.booleans()):
        low = draw(st.integers(1 if log else -30, 30))
        return Integer(low, low + draw(st.integers(1, 40)), log=log, points=points)
    low = draw(st.floats(0.01 if log else -5, 5))
    return Float(low, low + draw(st.floats(0.01, 50)), log=log, points=points)

@quick
@given(numbers(), st.floats(-100, 100))
def test_a_range_agrees_with_optunas(space, value):
    near, same = space.nearest(value), space.distribution()
    assert near in space and space.nearest(near) == near and same._contains(same.to_internal_repr(near))
    asked = round(value) if isinstance(space, Integer) else value
    assert (asked in space) == bool(same._contains(asked)) and (value in space) <= (near == value)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    assert space.suggest(trial, "x") in space and trial.distributions == {"x": same}
    assert abs(near - value) <= min(abs(end - value) for end in (space.low, space.high)) + 0.5   # no end is nearer

@quick
@given(numbers())
def test_a_grid_reaches_from_end_to_end_in_even_steps(space):
    if isinstance(space, Float) and space.points is None:
        with pytest.raises(InputError, match="points"): space.grid()
        return
    grid = space.grid()
    assert grid[0] == space.low and grid[-1] == space.high and grid == sorted(set(grid)) and all(value in space for value in grid)
    if space.points is None: assert grid == list(range(space.low, space.high + 1))
    elif isinstance(space, Float):
        steps = np.diff(np.log(grid) if space.log else grid)
        assert len(grid) == space.points and np.allclose(steps, steps[0])

def test_values_of_another_kind_lie_outside():
    for value in (None, "3", True, np.nan, np.inf, 2.5): assert value not in Integer(1, 9)
    for value in (None, "3", True, np.nan, np.inf): assert value not in Float(0, 9)
    assert np.float64(3) in Integer(1, 9) and np.int64(3) in Float(1, 9) and 1 not in Choice((True, False)) and None in Choice((None, "a"))
    assert Float(1, 100, log=True).nearest(None) == 10.0 and Integer(1, 9).nearest("x") == 5 and Choice(("a", "b")).nearest(3) == "a"

@pytest.mark.parametrize("make, words", [
    (lambda: Float(1.0, 1.0), "below"), (lambda: Float(2, 1), "below"), (lambda: Float(0, 1, log=True), "above zero"), (lambda: Float(0, np.inf), "finite"),
    (lambda: Float(np.nan, 1), "finite"), (lambda: Float("0", 1), "finite"), (lambda: Float(0, 1, points=1), "two points"), (lambda: Integer(1, 1), "below"),
    (lambda: Integer(1, 2.5), "whole"), (lambda: Integer(True, 5), "whole"), (lambda: Integer(0, 5, log=True), "above zero"), (lambda: Choice(()), "at least two"),
    (lambda: Choice(("a", "a")), "at least two"), (lambda: Choice((1, True, 2)), "differ"), (lambda: Choice(([1], [2])), "options"), (lambda: Choice((1.0, np.nan)), "finite"),
    (lambda: When("a", (), Float(0, 1)), "at least one"), (lambda: When("a", 1, 3), "range"), (lambda: When("a", 1, When("b", 1, Float(0, 1))), "chain")])
def test_an_empty_range_is_refused(make, words):
    with pytest.raises(InputError, match=words): make()

# the models' spaces

@pytest.mark.parametrize("name", search_spaces)
def test_a_space_fits_its_model(name):
    searched, fixed = resolve_space(name, {})
    assert set(searched) <= set(model_parameters(name)) and fixed == {} and all(space.reason for space in searched.values())
    start = starting_point(name, searched)
    assert start == {key: model_parameters(name)[key] for key in searched} and inside(searched, start)   # the defaults lie inside
    described = describe_space(name)
    assert list(described.index) == list(searched) and (described.why != "").all()

@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("name", search_spaces)
def test_both_ends_can_be_fitted(name, end):
    X, y = contract_data()
    if models.facts(name)["task"] == "classification": y = (y > 0).astype(int)
    ends = {key: getattr(space, end) for key, space in resolve_space(name, {})[0].items()}
    if "n_estimators" in ends: ends["n_estimators"] = 5
    assert np.isfinite(make_model(name, **ends).fit(X, y).predict(X)).all()

def test_a_classifier_searches_what_its_regression_does():
    for name in ("lightgbm", "catboost"): assert search_spaces[f"{name}_classifier"] is search_spaces[name]
    one, other = (search_spaces[name]() for name in ("xgboost", "xgboost_classifier"))
    assert list(one) == list(other) and {key for key in one if one[key] != other[key]} == {"min_child_weight"}

# overrides

def test_overrides_replace_fix_and_add():
    mine = {"num_leaves": 7, "subsample": Float(0.9, 1.0), "reg_alpha": Float(0.0, 1.0), "objective": len}
    kept = dict(mine)
    searched, fixed = resolve_space("lightgbm", mine)
    assert fixed == {"num_leaves": 7, "objective": len} and searched["subsample"] == Float(0.9, 1.0) and "reg_alpha" in searched and "num_leaves" not in searched
    assert mine == kept and resolve_space("lightgbm", {"objective": {"a": 1}})[1] == {"objective": {"a": 1}}
    assert inside(searched, starting_point("lightgbm", searched) | fixed, fixed) and not inside(searched, starting_point("lightgbm", searched), fixed)

BINS = Integer(15, 255)

@pytest.mark.parametrize("overrides, words", [
    ({"num_leafs": 7}, "num_leaves"), ({"num_leaves": [3, 7]}, "Choice"), ({"num_leaves": (3, 7)}, "Choice"), ({"num_leaves": range(3, 7)}, "Choice"), ({"num_leaves": np.array([3])}, "Choice"),
    ({"subsample": optuna.distributions.FloatDistribution(0, 1)}, "Float"), ({"max_bin": When("max_dept", 3, BINS)}, "max_depth"),
    ({"max_bin": When("max_depth", 3, BINS)}, "searched or fixed"), ({"max_bin": When("num_leaves", 99, BINS)}, "can hold"), ({"max_bin": When("subsample", 0.5, BINS)}, "Choice or an Integer"),
    ({"max_bin": When("max_bin", 15, BINS)}, "max_bin -> max_bin"),
    ({"max_depth": When("max_bin", 15, Integer(1, 5)), "max_bin": When("objective", "huber", BINS), "objective": When("max_bin", 15, Choice(("huber", "regression")))}, "max_bin -> objective -> max_bin")])
def test_overrides_that_make_no_sense_are_refused(overrides, words):
    with pytest.raises(InputError, match=words): resolve_space("lightgbm", overrides)

def test_conditions_on_fixed_parameters_are_settled():
    chain = {"max_bin": When("max_depth", [2, 3], BINS), "reg_alpha": When("max_bin", 15, Float(0, 1))}
    for depth, left in ((3, {"max_bin", "reg_alpha"}), (4, set())):
        searched, fixed = resolve_space("lightgbm", chain | {"max_depth": depth})
        assert set(searched) & {"max_bin", "reg_alpha"} == left and fixed == {"max_depth": depth} and not isinstance(searched.get("max_bin"), When)
    assert set(resolve_space("ridge", {"alpha": Float(1, 2)})[0]) == {"alpha"}
    with pytest.raises(InputError, match="at least one parameter"): resolve_space("ridge", {"alpha": 3.0})
    with pytest.raises(InputError, match="at least one parameter"): resolve_space("past_mean", {})

def test_a_condition_of_the_library_gives_way(monkeypatch):
    own = {"max_depth": Choice((1, 2)), "max_bin": When("max_depth", 2, BINS), "subsample": Float(0.5, 1)}
    monkeypatch.setitem(search_spaces._members, "lightgbm", lambda: own)
    assert set(resolve_space("lightgbm", {"max_depth": Choice((1, 3))})[0]) == {"max_depth", "subsample"}

# conditions, against brute force

NAMES = ("num_leaves", "max_depth", "max_bin", "n_estimators", "n_jobs")

@st.composite
def conditional(draw):
    "A space in which some parameters depend on others, in an order that does not show it"
    found = {}
    for place, name in enumerate(NAMES[:draw(st.integers(1, 5))]):
        plain = Integer(1, draw(st.integers(2, 3))) if draw(st.booleans()) else Choice(tuple(range(1, 1 + draw(st.integers(2, 3)))))
        on = draw(st.sampled_from(NAMES[:place])) if place and draw(st.booleans()) else None
        found[name] = plain if on is None else When(on, draw(st.lists(st.sampled_from([1, 2]), min_size=1, max_size=2)), plain)
    return {name: found[name] for name in draw(st.permutations(list(found)))}

def plain(space): return space.range if isinstance(space, When) else space

def counts(space, name, values):
    "Whether a parameter counts, from its own condition up to the first parameter"
    return not isinstance(space[name], When) or values[space[name].parameter] in space[name].values and counts(space, space[name].parameter, values)

def brute_force(space):
    "Every combination of values, without what does not count"
    everything = (dict(zip(space, values)) for values in itertools.product(*(plain(one).grid() for one in space.values())))
    return {frozenset((name, value) for name, value in values.items() if counts(space, name, values)) for values in everything}

def resolved(space):
    "The space as a search sees it: LightGBM's own ranges fixed or replaced"
    return resolve_space("lightgbm", {name: 1 for name in search_spaces["lightgbm"]()} | space)[0]

@quick
@given(conditional(), st.integers(0, 5))
def test_conditions_agree_with_brute_force(space, seed):
    searched, valid = resolved(space), brute_force(space)
    points = grid_points(searched)
    assert {frozenset(point.items()) for point in points} == valid and len(points) == len(valid)
    assert set(distributions(searched)) == set(searched) == set(space)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(5):
        trial = study.ask()
        chosen = suggest(trial, searched)
        assert frozenset(chosen.items()) in valid and trial.params == chosen and inside(searched, chosen)
    assert frozenset(starting_point("lightgbm", searched).items()) in valid

@quick
@given(conditional(), st.dictionaries(st.sampled_from(NAMES), st.sampled_from([1, 2, 3, 4, 1.5, "a", None])))
def test_inside_agrees_with_brute_force(space, values):
    assert inside(resolved(space), values) == (frozenset(values.items()) in brute_force(space))

def test_a_grid_that_is_too_large_or_unknown_is_refused():
    with pytest.raises(InputError, match="10,000"): grid_points({str(k): Integer(1, 200) for k in range(9)})
    with pytest.raises(InputError, match="learning_rate"): make_sampler("grid", 0, resolve_space("lightgbm", {})[0])
    assert len(grid_points(resolve_space("ridge", {})[0])) == 13

# samplers

SMALL = {"depth": Integer(1, 3), "bins": When("depth", [2, 3], Choice((15, 255))), "x": Float(0.0, 1.0, points=3)}   # 3 + 6 + 6 configurations

def searched_by(sampler, n, seed=0, space=SMALL, pruner="none", start=None, stop=True, name=None):
    "The configurations of a search by ask and tell"
    study, ended = optuna.create_study(sampler=make_sampler(sampler, seed, space), pruner=make_pruner(pruner), study_name=name), []
    study.stop = lambda: ended.append(True)
    if start: study.enqueue_trial(start)
    while len(study.trials) < n and not (stop and ended):
        trial = study.ask()
        chosen = suggest(trial, space)
        for step in range(10): trial.report(chosen["x"], step)   # enough for a hyperband of three brackets
        trial.should_prune()
        study.tell(trial, (chosen["x"] - 0.3)**2 + 0.1*chosen["depth"])
    return [trial.params for trial in study.trials]

@pytest.mark.parametrize("name", samplers)
def test_every_sampler_is_reproducible_and_stays_inside(name):
    one, two, other = (searched_by(name, 14, seed=seed, name=title) for seed, title in ((3, "a"), (3, "b"), (4, "c")))
    assert one == two != other and all(inside(SMALL, chosen) for chosen in one) and len(one) == 14

def test_tpe_draws_ten_at_random_and_then_learns():
    start = samplers.facts("tpe")["startup"]
    tpe, random = (searched_by(name, 40, seed=1) for name in ("tpe", "random"))
    assert start == 10 and tpe[:start] == random[:start] and tpe[start] != random[start]
    assert np.mean([abs(chosen["x"] - 0.3) for chosen in tpe[start:]]) < 0.6*np.mean([abs(chosen["x"] - 0.3) for chosen in random[start:]])

def test_tpe_is_joint_and_grouped_where_ranges_depend():
    for space, grouped in ((SMALL, True), ({"x": Float(0, 1)}, False)):
        sampler = make_sampler("tpe", 0, space)
        assert sampler._multivariate and sampler._constant_liar and sampler._group == grouped

def test_only_the_one_notice_is_kept_back():
    with pytest.warns(optuna.exceptions.ExperimentalWarning): optuna.samplers.TPESampler(group=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_sampler("tpe", 0, SMALL), make_pruner("wilcoxon")
    assert not caught

@pytest.mark.parametrize("pruner", pruners)
@pytest.mark.parametrize("start", [None, {"depth": 1, "x": 0.5}, {"depth": 1, "x": 0.4}])
def test_a_grid_is_visited_once(pruner, start):
    found = searched_by("grid", 99, pruner=pruner, start=start)
    wanted = {frozenset(point.items()) for point in grid_points(SMALL)} | ({frozenset(start.items())} if start else set())
    assert len(found) == len(wanted) and {frozenset(chosen.items()) for chosen in found} == wanted

def test_workers_share_a_grid():
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(storage=storage, study_name="one")
    workers = [optuna.load_study(storage=storage, study_name="one", sampler=make_sampler("grid", 0, SMALL)) for _ in range(3)]
    for worker in workers: worker.stop = lambda: None
    found = []
    while len(found) < 15:
        trials = [worker.ask() for worker in workers]   # all have started before the first says what it takes
        found += [suggest(trial, SMALL) for trial in trials]
        for worker, trial in zip(workers, trials): worker.tell(trial, 1.0)
    assert len({frozenset(chosen.items()) for chosen in found}) == 15

def test_a_study_that_goes_on_goes_on_with_its_grid():
    before = searched_by("grid", 6)
    study, ended = optuna.create_study(sampler=make_sampler("grid", 0, SMALL)), []
    study.stop, space = (lambda: ended.append(True)), distributions(SMALL)
    for chosen in before: study.add_trial(optuna.trial.create_trial(params=chosen, distributions={key: space[key] for key in chosen}, value=1.0))
    while not ended:
        trial = study.ask()
        suggest(trial, SMALL)
        study.tell(trial, 1.0)
    assert [trial.params for trial in study.trials] == searched_by("grid", 99)

def test_a_sampler_that_is_handed_over_is_copied():
    own = optuna.samplers.RandomSampler(seed=5)
    assert searched_by(own, 5) == searched_by(own, 5) == searched_by("random", 5, seed=5)
    pruner = optuna.pruners.HyperbandPruner()
    assert make_pruner(pruner) is not pruner and type(make_pruner(pruner)) is type(pruner)

@pytest.mark.parametrize("call, near", [(lambda: make_sampler("tpee", 0, SMALL), "tpe"), (lambda: make_pruner("medain"), "median"), (lambda: told("wilcox"), "wilcoxon")])
def test_an_unknown_name_comes_with_near_ones(call, near):
    with pytest.raises(UnknownNameError, match=near): call()

# pruners

def pruned_at(pruner, curves, stages=1, name=None):
    "The number of values after which each trial was stopped; None for one that was not"
    study, found = optuna.create_study(direction="maximize", pruner=make_pruner(pruner, stages), study_name=name), []
    for curve in curves:
        trial, ended = study.ask(), None
        for step, value in enumerate(curve):
            trial.report(value, step)
            if step + 1 < len(curve) and trial.should_prune(): ended = step + 1; break
        study.tell(trial, float(np.mean(curve)) if ended is None else None, state=None if ended is None else optuna.trial.TrialState.PRUNED)
        found.append(ended)
    return found

GOOD, BAD = [1.0]*12, [-1.0]*12

@pytest.mark.parametrize("name", [name for name in pruners if name != "none"])
@pytest.mark.parametrize("stages", [1, 3, 5])
def test_what_is_plainly_worse_is_stopped_and_what_is_best_is_not(name, stages):
    rng = np.random.default_rng(0)
    curves = [(np.array(GOOD) + 0.01*rng.normal(size=12)).tolist() for _ in range(9)] + [BAD]*3 + [[2.0]*12]
    found = pruned_at(name, curves, stages)
    assert all(found[9:12]) and found[0] is None and found[12] is None
    assert name == "wilcoxon" or min(found[9:12]) == max(2, stages)   # the end of the first fold, and never the first look

def test_none_lets_everything_finish():
    assert pruned_at("none", [GOOD, *[BAD]*9]) == [None]*10

def test_the_median_is_that_of_complete_trials_at_the_same_step():
    history = [[0.0, level, 0.0, 0.0] for level in (1, 2, 3, 4, 5)]
    assert pruned_at("median", [*history, [0, 2.9, 9, 9]])[5] == 2 and pruned_at("median", [*history, [0, 3.1, 9, 9]])[5] is None
    assert pruned_at("median", [*history[:4], [0, 0.1, 9, 9]])[4] is None   # five complete trials come first

def test_wilcoxon_needs_three_folds():
    better = [[1.0, 2.0, 3.0, 4.0, 5.0]]
    assert pruned_at("wilcoxon", [*better, [0.9, 1.8, 2.7, 3.6, 4.5]]) == [None, 3]
    assert pruned_at("wilcoxon", [*better, [1.1, 2.1, 2.7, 3.6, 9.0]]) == [None, None]

def test_brackets_do_not_depend_on_the_studys_name():
    curves = np.random.default_rng(1).normal(size=(60, 12)).tolist()
    one, two = (pruned_at("hyperband", curves, name=name) for name in ("a", "b"))
    theirs = [pruned_at(optuna.pruners.HyperbandPruner(), curves, name=name) for name in ("a", "b")]
    assert one == two and theirs[0] != theirs[1] and len(set(one)) > 2

def patient(pruner):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.pruners.PatientPruner(pruner, patience=1)

def test_a_pruner_is_told_what_it_compares():
    own = optuna.pruners
    for name in pruners: assert told(make_pruner(name)) == told(name) == ("fold" if name == "wilcoxon" else "standing")
    for pruner in (own.ThresholdPruner(lower=0), patient(make_pruner("wilcoxon")), patient(patient(make_pruner("wilcoxon")))): assert told(pruner) == "fold"
    for pruner in (own.MedianPruner(), own.PercentilePruner(25.0), own.SuccessiveHalvingPruner(), patient(None)): assert told(pruner) == "standing"
