"Every picture of a search: over complete, short, pruned, conditional and running studies, with what it must show; the line of progress"
import io
from datetime import datetime, timedelta

import matplotlib
import numpy as np
import optuna
import pandas as pd
import pytest

from alphaplus_ml.core import InputError
from alphaplus_ml.tuning.luck import measure_luck
from alphaplus_ml.tuning.pictures import (_Progress, draw_pictures, importances, pictures, plot_history, plot_importances, plot_logits, plot_parallel_coordinates,
                                          plot_slice, plot_timeline, progress_bar, save_pictures, trials_of)

pytestmark = pytest.mark.filterwarnings("error")
matplotlib.use("agg")
optuna.logging.set_verbosity(optuna.logging.ERROR)
State = optuna.trial.TrialState
Float, Integer, Choice = optuna.distributions.FloatDistribution, optuna.distributions.IntDistribution, optuna.distributions.CategoricalDistribution
SPACE = {"rate": Float(0.001, 1, log=True), "leaves": Integer(2, 64, log=True), "share": Float(0, 1), "kind": Choice(("a", "b", None, True)), "drop": Float(0, 1)}


def study_of(states, names=tuple(SPACE), direction=1, seed=0, equal=False, workers=0):
    "A study whose value depends on the rate alone; drop exists beside kind a only"
    rng, study, sampler = np.random.default_rng(seed), optuna.create_study(direction="maximize"), optuna.samplers.RandomSampler(seed=seed)
    for number, state in enumerate(states):
        params = {key: SPACE[key].to_external_repr(SPACE[key].to_internal_repr(sampler.sample_independent(None, None, key, SPACE[key]))) for key in names}
        if params.get("kind", "a") != "a": params.pop("drop", None)
        value = 1.0 if equal else 1 + np.log(params.get("rate", 1)) + 0.1*rng.normal()
        trial = optuna.trial.create_trial(state=state, value=direction*value if state == State.COMPLETE else None, params=params, distributions={key: SPACE[key] for key in params},
                                          user_attrs={"worker": f"w{number % workers}"} if workers else {})
        trial.datetime_start = None if state == State.WAITING else datetime(2024, 1, 1) + timedelta(seconds=10*number)
        trial.datetime_complete = trial.datetime_start + timedelta(seconds=15) if state.is_finished() else None
        study.add_trial(trial)
    return study

C, P, F, R, W = State.COMPLETE, State.PRUNED, State.FAIL, State.RUNNING, State.WAITING
STUDIES = {"long": [C]*40 + [P]*8 + [F], "two": [C, C], "one": [C], "pruned": [P]*4 + [F], "running": [C, C, P, R, R, W], "waiting": [W], "none": []}
LUCK = measure_luck(pd.DataFrame(np.random.default_rng(0).normal(size=(100, 6))), 2, 9)
figure_of = lambda study, name, **context: pictures[name](study, "rank_ic", **context)

# the contract of every registered picture

@pytest.mark.parametrize("name", pictures)
@pytest.mark.parametrize("states", STUDIES.values(), ids=STUDIES)
@pytest.mark.parametrize("names", [tuple(SPACE), ("rate",), ("kind",), ("leaves", "drop")], ids="-".join)
def test_a_picture_or_a_reason(name, states, names, recwarn):
    try: figure = figure_of(study_of(states, names), name, default_value=-1.0, holdout_value=-2.0, luck=LUCK)
    except InputError as error: assert "got" in str(error) and len(str(error)) > 30
    else:
        assert isinstance(figure, matplotlib.figure.Figure)
        figure.savefig(io.BytesIO(), dpi=40)   # drawing it warns of nothing
    assert not matplotlib.pyplot.get_fignums()

@pytest.mark.parametrize("name", pictures)
def test_pictures_need_no_context_and_know_what_is_no_study(name):
    if name != "overfitting": assert figure_of(study_of(STUDIES["long"]), name)
    with pytest.raises(InputError): figure_of("study", name)

@pytest.mark.parametrize("name", sorted(set(pictures) - {"overfitting", "timeline"}))
def test_the_metric_names_the_picture(name):
    text = lambda figure: " ".join([figure.get_suptitle()] + [axis.get_title() + axis.get_ylabel() for axis in figure.axes])
    assert "rank ic" in text(figure_of(study_of(STUDIES["long"]), name)) and "in the search" in text(figure_of(study_of(STUDIES["long"]), name))
    assert "rmse" in text(pictures[name](study_of(STUDIES["long"], direction=-1), "rmse"))

def test_drawing_leaves_the_study_alone():
    study = study_of(STUDIES["long"])
    before = [(trial.number, trial.value, trial.params, trial.state) for trial in study.trials]
    draw_pictures(study, "rank_ic", luck=LUCK)
    assert [(trial.number, trial.value, trial.params, trial.state) for trial in study.trials] == before

# values in the metric's own direction

def test_a_value_to_be_minimised_is_turned_back():
    high, low = study_of([C]*6 + [P]), study_of([C]*6 + [P], direction=-1)
    pd.testing.assert_frame_equal(trials_of(high, "rank_ic"), trials_of(low, "rmse"))
    assert trials_of(study_of([C, W, R]), "rmse").status.tolist() == ["complete", "running"]   # what waits has not begun
    assert np.isnan(trials_of(high, "rank_ic").value[6]) and trials_of(high, "rank_ic").status[6] == "pruned"

@pytest.mark.parametrize("metric, direction, best", [("rank_ic", 1, "max"), ("rmse", -1, "min")])
def test_the_best_is_marked_in_either_direction(metric, direction, best):
    study = study_of([C]*12, direction=direction)
    values = trials_of(study, metric).value
    star = [line for line in plot_slice(study, metric).axes[0].lines if line.get_marker() == "*"][0]
    assert star.get_ydata()[0] == getattr(values, best)()
    steps = [line for line in plot_history(study, metric).axes[0].lines if line.get_drawstyle() == "steps-post"][0]
    np.testing.assert_array_equal(steps.get_ydata(), getattr(values, f"cum{best}")())
    bold = max(plot_parallel_coordinates(study, metric).axes[0].lines, key=lambda line: line.get_linewidth())
    assert bold.get_ydata()[-1] == (1.0 if best == "max" else 0.0)

# what each must show

def test_history_puts_the_values_into_proportion():
    axis = plot_history(study_of(STUDIES["long"]), "rank_ic", default_value=-1.5, holdout_value=-2.5).axes[0]
    lines = {line.get_label(): line for line in axis.lines}
    assert set(lines["defaults, in the search"].get_ydata()) == {-1.5} and set(lines["best trial, on the holdout"].get_ydata()) == {-2.5}
    assert len(lines["complete trial"].get_xdata()) == 40 and {"pruned: 8", "failed: 1"} <= set(lines)
    assert not {"defaults, in the search", "best trial, on the holdout"} & {line.get_label() for line in plot_history(study_of([C]), "rank_ic").axes[0].lines}

def test_slices_use_the_scale_of_the_search():
    axes = {axis.get_xlabel(): axis for axis in plot_slice(study_of(STUDIES["long"]), "rank_ic").axes if axis.get_visible()}
    assert set(axes) == set(SPACE) and [name for name in axes if axes[name].get_xscale() == "log"] == ["rate", "leaves"]
    assert [label.get_text() for label in axes["kind"].get_xticklabels()] == ["a", "b", "None", "True"]
    assert [label.get_text() for label in axes["leaves"].get_xticklabels()] == ["2", "11", "64"]
    with_drop = [trial for trial in study_of(STUDIES["long"]).trials if "drop" in trial.params and trial.state == C]
    assert len(axes["drop"].collections[0].get_offsets()) == len(with_drop) < 40

def test_parallel_coordinates_pass_absent_parameters_at_the_foot():
    study = study_of(STUDIES["long"])
    lines = plot_parallel_coordinates(study, "rank_ic").axes[0].lines
    data = np.array([line.get_ydata() for line in lines if len(line.get_ydata()) == 6])
    absent = [trial for trial in study.trials if trial.state == C and "drop" not in trial.params]
    assert (data[:, 4] == -0.15).sum() >= len(absent) > 0 and (data[:, [0, 1, 2, 3, 5]] >= 0).all() and data.max() <= 1
    rate = sorted(np.log(trial.params["rate"]/0.001)/np.log(1000) for trial in study.trials if trial.state == C)
    np.testing.assert_allclose(sorted(data[:-1, 0]), rate, atol=1e-9)

def test_importances_find_what_counts_and_nothing_in_noise():
    found = importances(study_of(STUDIES["long"]), "rank_ic")
    assert found.index[0] == "rate" and found.importance.sum() == pytest.approx(1) and found.index[found.importance > found.by_chance].tolist() == ["rate"]
    false = [(importances(study_of([C]*60, names=("share", "kind", "leaves"), seed=seed), "rank_ic").eval("importance > by_chance")).sum() for seed in range(15)]
    assert np.mean(false) < 0.5   # three parameters, five in a hundred each

@pytest.mark.parametrize("metric", ["rank_ic", "rmse"])
def test_importance_is_for_the_best_not_for_the_worst(metric):
    "Being among the best is a matter of share alone, being among the worst of drop as well; the study maximises whatever the metric"
    rng, study = np.random.default_rng(0), optuna.create_study(direction="maximize")
    for share, drop in rng.random((90, 2)):
        study.add_trial(optuna.trial.create_trial(value=(10.0 if share < 1/3 else -drop), params={"share": share, "drop": drop}, distributions={key: SPACE[key] for key in ("share", "drop")}))
    found = importances(study, metric)
    assert found.importance["share"] > 0.9

def test_importances_of_few_trials_say_that_they_are_noise():
    few, many = (plot_importances(study_of([C]*n), "rank_ic").axes[0] for n in (19, 20))
    assert "19 complete trials for 5 parameters: below 20 this is noise" in few.get_title() and "noise" not in many.get_title()
    assert len({patch.get_facecolor() for patch in few.patches}) == 1 and len({patch.get_facecolor() for patch in many.patches}) == 2

@pytest.mark.parametrize("study, words", [(study_of([C]*9, names=("rate",)), "two searched"), (study_of([C]*9, equal=True), "all are equal"), (study_of([C, P, F]), "2 complete")])
def test_importances_that_cannot_be_told_are_refused(study, words):
    with pytest.raises(InputError, match=words): plot_importances(study, "rank_ic")

def test_the_timeline_shows_workers_and_states():
    figure = plot_timeline(study_of(STUDIES["running"], workers=2), "rank_ic")
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["w0", "w1"] and "5 trials on 2 workers" in axis.get_title()
    assert {text.get_text() for text in axis.get_legend().get_texts()} == {"complete: 2", "pruned: 1", "running: 2"}
    ends = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axis.patches]
    assert ends[-2:] == [(30, 40), (40, 40)]   # both run; the last time known is the last start

def test_trials_without_a_worker_never_overlap_in_a_lane():
    axis = plot_timeline(study_of([C]*6), "rank_ic").axes[0]   # each takes 15 seconds, one starts every 10
    assert len(axis.get_yticklabels()) == 2
    bars = sorted((patch.get_y(), patch.get_x(), patch.get_x() + patch.get_width()) for patch in axis.patches)
    assert all(one[0] != other[0] or one[2] <= other[1] for one, other in zip(bars, bars[1:]))

def test_a_timeline_without_starts_says_so():
    with pytest.raises(InputError, match="has started"): plot_timeline(study_of([W]), "rank_ic")

def test_logits_show_every_split():
    axis = plot_logits(luck=LUCK).axes[0]
    assert sum(patch.get_height() for patch in axis.patches) == len(LUCK.logits) and f"PBO {LUCK.pbo:.2f}" in axis.get_title()
    red = sum(patch.get_height() for patch in axis.patches if patch.get_facecolor() == matplotlib.colors.to_rgba("tab:red"))
    assert red == round(LUCK.pbo*len(LUCK.logits))

# together

def test_what_can_be_drawn_is_drawn_and_the_rest_has_its_reason():
    figures, reasons = draw_pictures(study_of([P, F]), "rank_ic")
    assert set(figures) == {"timeline"} and set(figures) | set(reasons) == set(pictures) and "1 pruned" in reasons["history"]
    figures, reasons = draw_pictures(study_of(STUDIES["long"]), "rank_ic", luck=LUCK)
    assert set(figures) == set(pictures) and not reasons
    with pytest.raises(InputError, match="Did you mean history"): draw_pictures(study_of([C]), "rank_ic", ["histori"])

def test_saved_twice_a_picture_is_the_same_file(tmp_path):
    one, two = (save_pictures(draw_pictures(study_of([C]*8), "rank_ic", ["slice", "history"])[0], tmp_path/name/"deep") for name in "ab")
    assert [path.name for path in one] == ["slice.png", "history.png"] and [path.read_bytes() for path in one] == [path.read_bytes() for path in two]

def test_a_real_search_can_be_drawn_while_it_runs(tmp_path):
    study = optuna.create_study(direction="maximize", storage=f"sqlite:///{tmp_path}/study.db", pruner=optuna.pruners.NopPruner())
    trial = study.ask()
    study.tell(trial, trial.suggest_float("x", 0.1, 1, log=True))
    running = study.ask()
    running.suggest_float("x", 0.1, 1, log=True)
    figures, _ = draw_pictures(study, "rank_ic")
    assert {"history", "slice", "timeline"} <= set(figures) and trials_of(study, "rank_ic").status.tolist() == ["complete", "running"]

def test_values_without_bound_are_left_out():
    study = study_of([C]*3)
    study.add_trial(optuna.trial.create_trial(value=-np.inf, params={}, distributions={}))
    assert np.isnan(trials_of(study, "rank_ic").value[3])
    assert len([line for line in plot_history(study, "rank_ic").axes[0].lines if line.get_label() == "complete trial"][0].get_xdata()) == 3
    plot_slice(study, "rank_ic"), importances(study, "rank_ic")

# progress

def lines_of(screen): return [line for line in screen.getvalue().replace("\n", "\r").split("\r") if line.strip()]

@pytest.mark.parametrize("metric, best", [("rank_ic", "0.05"), ("rmse", "0.02")])
def test_progress_tells_the_best_and_the_last(metric, best):
    screen = io.StringIO()
    with progress_bar(metric, n_trials=4, file=screen) as report:
        for status, value in (("complete", 0.05), ("complete", 0.02), ("complete", float("nan")), ("pruned", None)): report(status, value)
    last = lines_of(screen)[-1]
    assert "4/4" in last and f"best {metric.replace('_', ' ')} {best}, last pruned" in last and "left" in last

def test_progress_goes_on_where_it_ended():
    screen = io.StringIO()
    with progress_bar("rmse", n_trials=10, done=6, best=0.01, file=screen) as report: report("complete", 0.02)
    assert "7/10" in lines_of(screen)[-1] and "best rmse 0.01" in lines_of(screen)[-1]

def test_nothing_is_written_when_not_wanted(capsys):
    with progress_bar("rmse", n_trials=3, show=False) as report: report("complete", 0.1)
    assert capsys.readouterr() == ("", "")

def test_the_line_is_closed_after_an_error():
    screen = io.StringIO()
    with pytest.raises(KeyError):
        with progress_bar("rmse", n_trials=3, file=screen) as report: raise KeyError
    assert screen.getvalue().endswith("\n")

def test_time_left_is_the_smaller_of_pace_and_limit(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("alphaplus_ml.tuning.pictures.time.monotonic", lambda: clock[0])
    left = {}
    for timeout in (None, 100, 25):
        clock[0] = 0.0
        progress = _Progress("rmse", 10, timeout, done=2, file=io.StringIO())
        unknown = progress.left()
        clock[0] = 20.0
        progress.report("complete", 0.1), progress.report("failed")
        left[timeout] = unknown, progress.left()
        progress.bar.close()
    assert left == {None: (None, 60.0), 100: (100.0, 60.0), 25: (25.0, 5.0)}   # ten seconds a trial, six to come
    endless = _Progress("rmse", file=io.StringIO())
    assert endless.left() is None
    endless.bar.close()
