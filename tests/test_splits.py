"The splitters against their definitions, computed row by row, and against two other libraries"
import itertools
import math
import pickle

import numpy as np
import pandas as pd
import purgedcv
import pytest
import sklearn
from hypothesis import given, settings, strategies as st
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, KFold, TimeSeriesSplit, check_cv, cross_val_predict, cross_val_score

from alphaplus_ml.core import InputError
from alphaplus_ml.evaluation.splits import (KINDS, CombinatorialPurgedKFold, PurgedKFold, WalkForward, backtest_paths, plot_splits, split_holdout,
                                            with_label_end)
from alphaplus_ml.evaluation.timeline import NEVER, timeline

pytestmark = pytest.mark.filterwarnings("error")

days = pd.date_range("2021-03-01", periods=30, tz="UTC")
grid = pd.MultiIndex.from_product([days, ["A", "B", "C"]], names=["timestamp", "symbol"])


def expected_ends(index, horizon):
    "Each row's label end by definition: the symbol's h-th next row, None where there is none"
    def end(stamp, symbol):
        later = sorted(s for s, other in index if other == symbol and s > stamp)
        return later[horizon - 1] if len(later) >= horizon else None
    return [end(*row) for row in index]


def expected_folds(index, ends, n_splits, embargo=0, train_size=None, test_size=None):
    "Walk-forward by definition, row by row"
    stamps = [row[0] for row in index]
    times = sorted(set(stamps))
    size = test_size or len(times)//(n_splits + 1)
    folds = []
    for k in range(n_splits):
        start = len(times) - (n_splits - k)*size
        block = set(times[start:start + size])
        limit = times[start - embargo] if start >= embargo else None
        window = set(times[:start] if train_size is None else times[max(0, start - train_size):start])
        train = [i for i, stamp in enumerate(stamps)
                 if stamp in window and limit is not None and stamp < limit and ends[i] is not None and ends[i] <= limit]
        folds.append((train, [i for i, stamp in enumerate(stamps) if stamp in block]))
    return folds


def expected_groups(n_times, n):
    "The positions of n groups as equal as possible, the longer ones first"
    size, longer = divmod(n_times, n)
    ends = list(itertools.accumulate([size + (k < longer) for k in range(n)]))
    return [range(end - size - (k < longer), end) for k, end in enumerate(ends)]


def stays(i, stamps, ends, times, block, embargo):
    "Whether a row may train beside a contiguous block of test timestamps, by definition"
    known = [ends[j] for j, stamp in enumerate(stamps) if stamp in block and ends[j] is not None]
    a, b = min(block), max(known, default=max(block))
    position = lambda x: sum(time < x for time in times)
    return ends[i] <= a or (stamps[i] >= b and position(stamps[i]) >= position(b) + embargo)


def expected_purged(index, ends, n_splits, n_test_splits=1, embargo=0):
    "K-fold with purging and its combinatorial form by definition, row by row"
    stamps = [row[0] for row in index]
    times, folds = sorted(set(stamps)), []
    groups = expected_groups(len(times), n_splits)
    for chosen in itertools.combinations(range(n_splits), n_test_splits):
        blocks = []
        for k in chosen:
            days_of = [times[p] for p in groups[k]]
            if k - 1 in chosen: blocks[-1] += days_of
            else: blocks.append(days_of)
        tested = set().union(*blocks)
        train = [i for i, stamp in enumerate(stamps) if stamp not in tested and ends[i] is not None
                 and all(stays(i, stamps, ends, times, block, embargo) for block in blocks)]
        folds.append((train, [i for i, stamp in enumerate(stamps) if stamp in tested]))
    return folds


def listed(splitter, X, *rest): return [(train.tolist(), test.tolist()) for train, test in splitter.split(X, *rest)]


@st.composite
def panels(draw):
    "Panels with gaps and late listings, in any row order"
    n_times, n_symbols = draw(st.integers(6, 22)), draw(st.integers(1, 4))
    keep = draw(st.lists(st.booleans(), min_size=n_times*n_symbols, max_size=n_times*n_symbols))
    first = draw(st.lists(st.integers(0, n_times//2), min_size=n_symbols, max_size=n_symbols))
    rows = [(days[t], "ABCD"[s]) for t in range(n_times) for s in range(n_symbols) if t >= first[s] and (keep[t*n_symbols + s] or s == 0)]
    order = draw(st.permutations(range(len(rows)))) if draw(st.booleans()) else range(len(rows))
    return pd.MultiIndex.from_tuples([rows[i] for i in order], names=["timestamp", "symbol"])


def check_against_definition(splitter, index, ends, **sizes):
    expected = None
    try: expected = expected_folds(index, ends, splitter.n_splits, splitter.embargo, **sizes)
    except IndexError: pass
    times = len(index.get_level_values(0).unique())
    size = sizes.get("test_size") or times//(splitter.n_splits + 1)
    if size < 1 or times <= splitter.n_splits*size or any(not train for train, _ in expected):
        with pytest.raises(InputError): splitter.split(index)
    else: assert listed(splitter, index) == expected


@settings(max_examples=150, deadline=None)
@given(panels(), st.integers(1, 4), st.integers(1, 6), st.integers(0, 3), st.none() | st.integers(1, 12), st.none() | st.integers(1, 5))
def test_purging_by_horizon_is_the_row_by_row_definition(index, n_splits, horizon, embargo, train_size, test_size):
    splitter = WalkForward(n_splits, horizon=horizon, embargo=embargo, train_size=train_size, test_size=test_size)
    check_against_definition(splitter, index, expected_ends(index, horizon), train_size=train_size, test_size=test_size)


@settings(max_examples=150, deadline=None)
@given(panels(), st.data())
def test_purging_by_label_ends_is_the_row_by_row_definition(index, data):
    hours = data.draw(st.lists(st.none() | st.integers(0, 200), min_size=len(index), max_size=len(index)))
    ends = [None if h is None else stamp + pd.Timedelta(hours=h) for (stamp, _), h in zip(index, hours)]
    series = pd.Series(pd.DatetimeIndex([pd.NaT if e is None else e for e in ends]).tz_convert("UTC") if any(hours) else pd.DatetimeIndex(
        [pd.NaT if e is None else e for e in ends], tz="UTC"), index=index)
    splitter = WalkForward(data.draw(st.integers(1, 4)), embargo=data.draw(st.integers(0, 2)), label_end=series.sample(frac=1, random_state=0))
    check_against_definition(splitter, index, ends)


@st.composite
def labelled(draw):
    "A panel and label ends between bars, on them and after the last; some missing, also for whole days"
    index = draw(panels())
    hours = draw(st.lists(st.none() | st.sampled_from([0, 24, 48, 72]) | st.integers(0, 300), min_size=len(index), max_size=len(index)))
    silent = draw(st.sets(st.sampled_from(list(days[:22])), max_size=5))
    ends = [None if h is None or stamp in silent else stamp + pd.Timedelta(hours=h) for (stamp, _), h in zip(index, hours)]
    return index, ends, pd.Series(pd.to_datetime(pd.Series(ends, dtype="datetime64[us, UTC]")).array, index=index)


def check_purged(splitter, index, ends):
    n_test, n_times = getattr(splitter, "n_test_splits", 1), len(set(index.get_level_values(0)))
    expected = expected_purged(index, ends, splitter.n_splits, n_test, splitter.embargo) if n_times >= splitter.n_splits else None
    if expected is None or any(not train for train, _ in expected):
        with pytest.raises(InputError): splitter.split(index)
    else: assert listed(splitter, index) == expected


@settings(max_examples=150, deadline=None)
@given(labelled(), st.integers(2, 5), st.integers(0, 3))
def test_purged_k_fold_is_the_row_by_row_definition(data, n_splits, embargo):
    index, ends, series = data
    check_purged(PurgedKFold(n_splits, embargo=embargo, label_end=series.sample(frac=1, random_state=1)), index, ends)


@settings(max_examples=100, deadline=None)
@given(labelled(), st.integers(2, 6), st.integers(1, 5), st.integers(0, 3))
def test_combinatorial_folds_are_the_row_by_row_definition(data, n_splits, n_test_splits, embargo):
    index, ends, series = data
    if n_test_splits < n_splits: check_purged(CombinatorialPurgedKFold(n_splits, n_test_splits, embargo=embargo, label_end=series), index, ends)


@settings(max_examples=100, deadline=None)
@given(panels(), st.integers(2, 5), st.integers(1, 3), st.integers(1, 6), st.integers(0, 3))
def test_purging_on_both_sides_by_horizon_is_the_definition(index, n_splits, n_test_splits, horizon, embargo):
    ends = expected_ends(index, horizon)
    check_purged(PurgedKFold(n_splits, horizon=horizon, embargo=embargo), index, ends)
    if n_test_splits < n_splits: check_purged(CombinatorialPurgedKFold(n_splits, n_test_splits, horizon=horizon, embargo=embargo), index, ends)


@settings(max_examples=60, deadline=None)
@given(panels(), st.integers(1, 3), st.integers(1, 4))
def test_no_fold_splits_a_date_or_trains_on_an_unknown_label(index, n_splits, horizon):
    try: folds = list(WalkForward(n_splits, horizon=horizon).split(index))
    except InputError: return
    stamps, ends = index.get_level_values(0), expected_ends(index, horizon)
    for train, test in folds:
        assert stamps[train].max() < stamps[test].min()
        assert all(ends[i] <= stamps[test].min() for i in train)
        assert stamps[test].value_counts().sum() == stamps.isin(stamps[test]).sum()
    tested = np.concatenate([test for _, test in folds])
    assert len(set(tested)) == len(tested)


@pytest.mark.parametrize("n_splits, test_size", [(2, None), (5, None), (4, 7)])
@pytest.mark.parametrize("horizon, embargo", [(1, 0), (4, 0), (3, 2)])
def test_one_row_per_timestamp_is_sklearns_time_series_split(n_splits, test_size, horizon, embargo):
    rows, gap = np.zeros((61, 2)), horizon - 1 + embargo
    theirs = listed(TimeSeriesSplit(n_splits, gap=gap, test_size=test_size), rows)
    assert listed(WalkForward(n_splits, horizon=horizon, embargo=embargo, test_size=test_size), rows) == theirs
    stamped = pd.DataFrame(rows, index=pd.date_range("2020", periods=61, tz="UTC"))
    assert listed(WalkForward(n_splits, horizon=horizon, embargo=embargo, test_size=test_size), stamped) == theirs


@pytest.mark.parametrize("horizon", [1, 3, 6])
def test_expanding_folds_are_purgedcvs(horizon):
    # purgedcv closes its intervals at both ends, so a label that ends on the first test bar counts as overlapping there:
    # an end one microsecond earlier states our half-open rule in its terms
    stamps = pd.Series(pd.date_range("2020", periods=60, tz="UTC"))
    ends = stamps + pd.Timedelta(days=horizon)
    theirs = purgedcv.WalkForwardSplit(4, 10, prediction_times=stamps, evaluation_times=ends - pd.Timedelta("1us"))
    ours = WalkForward(4, test_size=10, label_end=pd.Series(ends.array, index=pd.DatetimeIndex(stamps)))
    assert listed(ours, pd.DatetimeIndex(stamps)) == listed(theirs, np.zeros((60, 1)))


@pytest.mark.parametrize("bars, embargo", [(1, 0), (4, 0), (4, 3), (9, 2)])
@pytest.mark.parametrize("n_splits, n_test_splits", [(5, 1), (7, 1), (5, 2), (6, 2), (6, 3)])
def test_purged_folds_are_purgedcvs(n_splits, n_test_splits, bars, embargo):
    # they agree when every row has a label and the labels of a test block leave no gap. purgedcv's embargo is a duration, closed at its end:
    # a microsecond less states ours. (Its embargo in observations counts from the last tested row, not from the last label end.)
    stamps = pd.Series(pd.date_range("2020", periods=83, tz="UTC"))
    ends = stamps + pd.to_timedelta(np.random.default_rng(0).integers(1, bars + 1, size=83), unit="D")
    times = dict(prediction_times=stamps, evaluation_times=ends, embargo=pd.Timedelta(days=embargo) - pd.Timedelta("1us") if embargo else None)
    ours = dict(embargo=embargo, label_end=pd.Series(ends.array, index=pd.DatetimeIndex(stamps)))
    if n_test_splits == 1: pair = PurgedKFold(n_splits, **ours), purgedcv.PurgedKFold(n_splits, **times)
    else: pair = CombinatorialPurgedKFold(n_splits, n_test_splits, **ours), purgedcv.CombinatorialPurgedCV(n_splits, n_test_splits, **times)
    assert listed(pair[0], pd.DatetimeIndex(stamps)) == listed(pair[1], np.zeros((83, 1)))


@pytest.mark.parametrize("n", [17, 20, 61])
def test_without_overlap_the_folds_are_scikit_learns_k_fold(n):
    at_once = pd.Series(range(n))
    assert listed(PurgedKFold(5, label_end=at_once), np.zeros((n, 1))) == listed(KFold(5), np.zeros((n, 1)))
    assert listed(CombinatorialPurgedKFold(5, 1, label_end=at_once), np.zeros((n, 1))) == listed(KFold(5), np.zeros((n, 1)))


def test_an_embargo_counts_from_the_position_of_the_last_label_end():
    rows = np.zeros((12, 1))
    def behind(end, embargo): return listed(PurgedKFold(4, embargo=embargo, label_end=pd.Series(range(12), dtype=float).where(lambda x: x != 5, end)), rows)[1][0]
    assert behind(5, 0) == [0, 1, 2, 6, 7, 8, 9, 10, 11]          # tested 3, 4, 5
    assert behind(7, 0) == [0, 1, 2, 7, 8, 9, 10, 11]             # the bar at which the last label is known may train
    assert behind(6.5, 0) == behind(7, 0)                         # between two bars: the next one
    assert behind(7, 2) == [0, 1, 2, 9, 10, 11] and behind(5, 2) == [0, 1, 2, 7, 8, 9, 10, 11]
    assert behind(40, 0) == behind(11.5, 0) == [0, 1, 2]          # known after the last bar


def test_unlabelled_rows_of_a_block_do_not_move_its_end():
    rows, ends = np.zeros((12, 1)), pd.Series(range(12), dtype=float)
    ends[[4, 5]] = np.nan
    assert listed(PurgedKFold(4, embargo=2, label_end=ends), rows)[1][0] == [0, 1, 2, 6, 7, 8, 9, 10, 11]   # counts from 3, the only label of the block
    ends[3] = np.nan
    assert listed(PurgedKFold(4, embargo=2, label_end=ends), rows)[1][0] == [0, 1, 2, 7, 8, 9, 10, 11]      # no label: counts from 5, the block's last bar


def test_touching_groups_are_one_block():
    ends = pd.Series(range(24), dtype=float)
    ends[6:12] = np.nan                                                       # the second group has no label, and the first ends at its last bar
    folds = dict(zip(itertools.combinations(range(4), 2), listed(CombinatorialPurgedKFold(4, 2, embargo=4, label_end=ends), np.zeros((24, 1)))))
    assert folds[0, 1] == (list(range(12, 24)), list(range(12)))              # joined, the last label ends at 5: 5 + 4 lies inside the block
    assert folds[1, 3] == ([0, 1, 2, 3, 4, 5, 15, 16, 17], [*range(6, 12), *range(18, 24)])   # alone, the group ends at its last bar: 11 + 4


# paths

def test_the_published_paths():
    # Lopez de Prado (2018), chapter 12: 6 groups, 2 tested, give 15 splits and 5 paths; the first two are listed there
    splitter = CombinatorialPurgedKFold(6, 2)
    folds = list(splitter.split(days[:24]))
    origin = backtest_paths(splitter, [np.full(len(test), split + 1) for split, (_, test) in enumerate(folds)], days[:24])
    assert len(folds) == splitter.get_n_splits() == 15 and splitter.n_paths == 5
    assert origin[::4, 0].tolist() == [1, 1, 2, 3, 4, 5] and origin[::4, 1].tolist() == [2, 6, 6, 7, 8, 9]
    assert (origin.reshape(6, 4, 5) == origin[::4, None]).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 7), st.integers(1, 6), st.integers(7, 30), st.integers(0, 9))
def test_paths_are_purgedcvs_and_hold_each_split_where_it_tests(n_splits, n_test_splits, n, seed):
    if n_test_splits >= n_splits: return
    rng, splitter = np.random.default_rng(seed), CombinatorialPurgedKFold(n_splits, n_test_splits, label_end=pd.Series(range(n)))
    folds = list(splitter.split(range(n)))
    predictions = [rng.normal(size=len(test)) for _, test in folds]
    paths = backtest_paths(splitter, iter(predictions), range(n))
    assert len(folds) == math.comb(n_splits, n_test_splits) and paths.shape == (n, n_test_splits*math.comb(n_splits, n_test_splits)//n_splits)
    theirs = purgedcv.reconstruct_paths(predictions, [test for _, test in folds], n_splits, n_test_splits, n)
    assert np.array_equal(paths, theirs.T)
    for row in range(n): assert sorted(paths[row]) == sorted(prediction[list(test).index(row)] for prediction, (_, test) in zip(predictions, folds) if row in test)


def test_paths_lie_in_the_rows_own_order():
    order = np.random.default_rng(0).permutation(len(grid))
    splitter, value = CombinatorialPurgedKFold(5, 2), np.arange(len(grid))
    straight = backtest_paths(splitter, [1000*k + value[test] for k, (_, test) in enumerate(splitter.split(grid))], grid)
    mixed = backtest_paths(splitter, [1000*k + value[order][test] for k, (_, test) in enumerate(splitter.split(grid[order]))], grid[order])
    assert np.array_equal(mixed, straight[order]) and np.array_equal(straight % 1000, np.tile(value[:, None], 4))
    y = pd.Series(0., index=grid)
    assert np.array_equal(backtest_paths(splitter, [1000*k + value[test] for k, (_, test) in enumerate(splitter.split(y.to_numpy(), y))], y.to_numpy(), y), straight)


@pytest.mark.parametrize("predictions, message", [([np.zeros(36)]*9, "9 for 10 splits"), ([np.zeros(35)]*10, "split 0"), ([np.zeros((36, 1))]*10, "split 0")])
def test_predictions_that_do_not_fit_the_splits_are_refused(predictions, message):
    with pytest.raises(InputError, match=message): backtest_paths(CombinatorialPurgedKFold(5, 2), predictions, grid)


# what holds for each of them

EACH = {"walk-forward": lambda **more: WalkForward(3, **more), "k-fold": lambda **more: PurgedKFold(3, **more),
        "combinatorial": lambda **more: CombinatorialPurgedKFold(4, 2, **more)}
each = pytest.mark.parametrize("make", EACH.values(), ids=EACH)


@each
def test_every_form_of_x_gives_the_same_folds(make):
    frame, splitter = pd.DataFrame({"x": np.arange(len(grid))}, index=grid), make(horizon=2)
    expected = listed(splitter, grid)
    forms = [(frame,), (frame["x"],), (frame.to_numpy(), frame["x"]), (frame.reset_index(drop=True), frame["x"]), (frame, frame["x"].to_numpy()), (frame, list(range(90)))]
    assert all(listed(splitter, X, *y) == expected for X, *y in forms)
    assert listed(splitter, days) == listed(splitter, range(30)) == listed(splitter, np.zeros((30, 2)), np.zeros(30)) == listed(splitter, pd.DataFrame({"x": range(30)}))
    naive = frame.set_axis(grid.set_levels(days.tz_localize(None), level=0))
    assert listed(splitter, naive) == expected


@each
def test_rows_in_any_order_and_the_index_of_a_subset(make):
    ends = pd.Series(grid.get_level_values(0) + pd.Timedelta("3D"), index=grid)
    part = grid[np.random.default_rng(3).permutation(60)]         # its levels still name all days
    sorted_part = part.sort_values()
    for (train, test), (train_s, test_s) in zip(make(label_end=ends).split(part), make(label_end=ends).split(sorted_part), strict=True):
        assert set(part[train]) == set(sorted_part[train_s]) and set(part[test]) == set(sorted_part[test_s])
    backwards = pd.MultiIndex(levels=[days[::-1], ["C", "B", "A"]], codes=[29 - part.codes[0].astype(int), 2 - part.codes[1].astype(int)], names=part.names)
    assert list(backwards) == list(part) and listed(make(label_end=ends), backwards) == listed(make(label_end=ends), part)
    mixed = days[np.random.default_rng(4).permutation(30)]
    for (train, test), (train_s, test_s) in zip(make(horizon=2).split(mixed), make(horizon=2).split(days), strict=True):
        assert set(mixed[train]) == set(days[train_s]) and set(mixed[test]) == set(days[test_s])
    fresh = pd.MultiIndex.from_tuples(list(part), names=part.names)
    assert listed(make(label_end=ends), part) == listed(make(label_end=ends[fresh]), fresh)


@each
def test_no_row_trains_without_a_label_or_inside_a_test_block(make):
    ends = pd.Series(grid.get_level_values(0), index=grid) + pd.Timedelta("2D")
    ends[::4] = pd.NaT
    without, tested = set(np.arange(0, len(grid), 4)), set()
    for train, test in make(label_end=ends).split(grid):
        assert len(train) and not without & set(train) and not set(grid.get_level_values(0)[train]) & set(grid.get_level_values(0)[test])
        assert np.all(np.diff(train) > 0) and np.all(np.diff(test) > 0) and train.dtype.kind == test.dtype.kind == "i"
        tested |= set(test)
    assert without & tested


@each
def test_a_splitter_is_a_scikit_learn_citizen(make):
    ends = pd.Series(grid.get_level_values(0) + pd.Timedelta("2D"), index=grid)
    splitter = make(embargo=1, label_end=ends)
    copy = clone(splitter)
    assert copy is not splitter and copy.get_params().keys() == splitter.get_params().keys() >= {"n_splits", "horizon", "embargo", "label_end"}
    assert listed(copy, grid) == listed(splitter, grid) == listed(pickle.loads(pickle.dumps(splitter)), grid)
    assert copy.get_n_splits(grid) == splitter.get_n_splits() == len(listed(splitter, grid)) and check_cv(splitter) is splitter
    X, y = pd.DataFrame({"x": np.arange(90.)}, index=grid), pd.Series(np.arange(90.), index=grid)
    for data in ((X, y), (X.to_numpy(), y), (X, y.to_numpy())):
        assert len(cross_val_score(LinearRegression(), *data, cv=splitter, groups=np.arange(90))) == splitter.get_n_splits()
    search = GridSearchCV(LinearRegression(), {"fit_intercept": [True, False]}, cv=splitter).fit(X, y)
    assert search.n_splits_ == splitter.get_n_splits() and len(repr(search)) < 1000
    assert not hasattr(splitter, "set_split_request")             # groups are nobody's to ask for, as with scikit-learn's own
    with sklearn.config_context(enable_metadata_routing=True): assert len(cross_val_score(LinearRegression(), X, y, cv=splitter)) == splitter.get_n_splits()
    assert X.index.equals(grid) and ends.equals(pd.Series(grid.get_level_values(0) + pd.Timedelta("2D"), index=grid))


@each
def test_a_splitter_shows_its_parameters_and_not_its_data(make):
    ends = pd.Series(grid.get_level_values(0), index=grid)
    assert "label_end=<90 label ends>" in repr(make(label_end=ends)) and "2021" not in repr(make(label_end=ends)) and "label_end=None" in repr(make())
    assert make(label_end=ends)._repr_mimebundle_() == {"text/plain": repr(make(label_end=ends))}


def test_only_purged_k_fold_partitions_the_rows():
    X, y = pd.DataFrame({"x": np.arange(90.)}, index=grid), pd.Series(np.arange(90.), index=grid)
    assert np.allclose(cross_val_predict(LinearRegression(), X, y, cv=PurgedKFold(4)), y)
    for splitter in (WalkForward(3), CombinatorialPurgedKFold(4, 2)):
        with pytest.raises(ValueError, match="partitions"): cross_val_predict(LinearRegression(), X, y, cv=splitter)


@pytest.mark.parametrize("cls, arguments", [(PurgedKFold, {"n_splits": 1}), (PurgedKFold, {"n_splits": 3.0}), (PurgedKFold, {"horizon": True}), (PurgedKFold, {"embargo": 0.01}),
                                            (CombinatorialPurgedKFold, {"n_test_splits": 6}), (CombinatorialPurgedKFold, {"n_test_splits": 0}),
                                            (CombinatorialPurgedKFold, {"n_splits": 2}), (CombinatorialPurgedKFold, {"horizon": -1})])
def test_counts_without_meaning_are_refused(cls, arguments):
    with pytest.raises(InputError): cls(**arguments)
    with pytest.raises(InputError): cls().set_params(**arguments).split(grid)


@pytest.mark.parametrize("splitter, message", [(PurgedKFold(31), "31 groups fit.*30 timestamps"), (CombinatorialPurgedKFold(31), "31 groups"),
                                               (PurgedKFold(2, horizon=20), "train on after purging"), (PurgedKFold(2, embargo=16), "train on after purging"),
                                               (CombinatorialPurgedKFold(4, 3, horizon=9), "train on after purging")])
def test_folds_without_room_are_refused_before_the_first(splitter, message):
    with pytest.raises(InputError, match=message): splitter.split(grid)


# the timeline

def test_ends_on_a_finer_clock_are_not_rounded():
    coarse = days.as_unit("s")
    ends = pd.Series(coarse.as_unit("ns") + pd.Timedelta(1, "ns"), index=coarse)
    assert timeline(coarse, label_end=ends).known.tolist() == list(range(1, 31))
    assert timeline(coarse.as_unit("ns"), label_end=pd.Series(coarse, index=coarse.as_unit("ns"))).known.tolist() == list(range(30))
    elsewhere = pd.Series((coarse + pd.Timedelta("1D")).tz_convert("US/Eastern"), index=coarse)
    assert timeline(coarse, label_end=elsewhere).known.tolist() == list(range(1, 31))


def test_one_label_series_serves_an_index_with_other_levels_and_other_units():
    ends = pd.Series(grid.get_level_values(0) + pd.Timedelta("1D"), index=grid)
    other = pd.MultiIndex.from_tuples([(stamp.as_unit("ns"), symbol) for stamp, symbol in grid[40:10:-1] if symbol != "B"], names=grid.names)
    found = timeline(other, label_end=ends)
    assert [found.times[k] if k < len(found.times) else None for k in found.known][-3:] == [s + pd.Timedelta("1D") for s, _ in other[-3:]]


@settings(max_examples=60, deadline=None)
@given(labelled())
def test_first_and_last_labels_of_each_timestamp(data):
    index, ends, series = data
    line = timeline(index, label_end=series)
    for position, stamp in enumerate(line.times):
        known = [sum(time < end for time in line.times) for (own, _), end in zip(index, ends) if own == stamp and end is not None]
        assert line.first_known[position] == min(known, default=NEVER) and line.last_known[position] == max(known, default=-1)


@pytest.mark.parametrize("X, message", [(pd.DataFrame({"x": 1.}, index=grid).reset_index(), "in the index"), (grid.set_codes([-1] + [0]*89, level=1), "in a panel a symbol"),
                                        (grid.append(grid[5:6]), r"B'|C'"), (pd.Series(0, pd.DatetimeIndex([])), "X has rows")])
def test_rows_without_a_place_are_refused(X, message):
    with pytest.raises(InputError, match=message): timeline(X)


@pytest.mark.parametrize("label_end, message", [(pd.Series(range(90)), "indexed like X"), (pd.Series(days, index=days), "indexed like X"), (pd.Series("soon", index=grid), "same clock"),
                                                (pd.Series(list(grid.get_level_values(0).date), index=grid), "same clock"), (pd.Series(pd.NaT, index=grid), "same clock")])
def test_label_ends_of_another_kind_are_refused(label_end, message):
    with pytest.raises(InputError, match=message): timeline(grid, label_end=label_end)


def test_a_row_with_two_label_ends_is_refused():
    ends = pd.Series(grid.get_level_values(0), index=grid)
    with pytest.raises(InputError, match="one entry per row; got .*03-30.*'C'"): PurgedKFold(3, label_end=pd.concat([ends, ends[-1:]])).split(grid)
    with pytest.raises(InputError, match="one entry per row"): PurgedKFold(3, label_end=pd.concat([ends, ends[-1:]])).split(grid[:60])   # also outside of X


def test_symbols_own_bars_count_not_the_calendar():
    index = grid.drop([(day, "B") for day in days[5:15]])
    train, test = next(WalkForward(2, horizon=1).split(index))   # the first block starts at day 10, in B's pause
    trained = index[train]
    assert (days[9], "A") in trained and (days[3], "B") in trained and (days[4], "B") not in trained


def test_a_subset_of_rows_finds_its_label_ends():
    ends = pd.Series(grid.get_level_values(0) + pd.Timedelta("3D"), index=grid)
    half = grid[grid.get_level_values(0) < days[20]]
    assert listed(WalkForward(3, label_end=ends), half) == listed(WalkForward(3, label_end=ends[half]), half)


def test_a_label_known_at_its_own_bar_never_takes_a_test_row_into_training():
    folds = listed(WalkForward(3, label_end=stamps), grid)
    assert folds == expected_folds(list(grid), list(stamps), 3) and not any(set(train) & set(test) for train, test in folds)


def test_rows_without_a_label_are_tested_but_never_trained_on():
    ends = pd.Series(grid.get_level_values(0), index=grid) + pd.Timedelta("1D")
    ends[::4] = pd.NaT
    without = set(np.arange(0, len(grid), 4))
    folds = list(WalkForward(3, label_end=ends).split(grid))
    assert not any(without & set(train) for train, _ in folds)
    assert any(without & set(test) for _, test in folds)


@pytest.mark.parametrize("arguments", [{"n_splits": 0}, {"n_splits": 2.0}, {"n_splits": True}, {"horizon": 0}, {"horizon": None}, {"embargo": -1},
                                       {"train_size": 0}, {"test_size": 0}, {"test_size": "5"}])
def test_meaningless_counts_are_refused_when_made_and_when_set(arguments):
    name = next(iter(arguments))
    with pytest.raises(InputError, match=name): WalkForward(**arguments)
    with pytest.raises(InputError, match=name): WalkForward().set_params(**arguments).split(grid)


stamps = pd.Series(grid.get_level_values(0), index=grid)
@pytest.mark.parametrize("splitter, X, message", [
    (WalkForward(30), grid, "30 timestamps"),
    (WalkForward(3, test_size=10), grid, "blocks of 10"),
    (WalkForward(5, horizon=30), grid, "train on after purging"),
    (WalkForward(5, embargo=9), grid, "train on after purging"),
    (WalkForward(5, horizon=4, train_size=3), grid, "train on after purging"),
    (WalkForward(), grid.append(grid[:1]), "index entry of its own"),
    (WalkForward(), days.append(days[-1:]), "index entry of its own"),
    (WalkForward(), grid.swaplevel(), "levels"),
    (WalkForward(), days.insert(3, pd.NaT), "has a timestamp"),
    (WalkForward(), np.zeros((0, 2)), "X has rows"),
    (WalkForward(label_end=stamps - pd.Timedelta("1h")), grid, "at or after its row"),
    (WalkForward(label_end=stamps.iloc[:-1]), grid, "holds every row"),
    (WalkForward(label_end=pd.concat([stamps, stamps.iloc[:1]])), grid, "one entry per row"),
    (WalkForward(label_end=stamps.dt.tz_localize(None)), grid, "same clock"),
    (WalkForward(label_end=pd.Series(1.0, index=grid)), grid, "same clock"),
    (WalkForward(label_end=stamps), np.zeros((len(grid), 1)), "indexed like X"),
    (WalkForward(label_end=stamps.to_numpy()), grid, "is a Series"),
])
def test_what_cannot_be_split_is_refused_before_the_first_fold(splitter, X, message):
    with pytest.raises(InputError, match=message): splitter.split(X)


def test_x_and_y_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="same number of rows"): WalkForward().split(np.zeros((5, 1)), np.zeros(4))


def test_label_ends_join_only_a_splitter_that_lacks_them():
    ends = stamps + pd.Timedelta("2D")
    given = with_label_end(WalkForward(3, embargo=1), ends)
    assert given.label_end is ends and given.embargo == 1
    assert with_label_end(given, ends) is given
    plain = [(np.arange(5), np.arange(5, 9))]
    assert with_label_end(plain, ends) is plain


@settings(max_examples=60, deadline=None)
@given(panels(), st.floats(0.05, 0.6), st.integers(1, 3))
def test_the_holdout_is_the_last_timestamps_and_purges_development(index, fraction, horizon):
    try: development, holdout = split_holdout(index, fraction=fraction, horizon=horizon)
    except InputError: return
    times = sorted(index.get_level_values(0).unique())
    put_away = times[-max(1, round(fraction*len(times))):]
    assert holdout.tolist() == [i for i, (stamp, _) in enumerate(index) if stamp in put_away]
    ends = expected_ends(index, horizon)
    assert development.tolist() == [i for i in range(len(index)) if ends[i] is not None and index[i][0] < put_away[0] and ends[i] <= put_away[0]]


@pytest.mark.parametrize("fraction", [0, 1, -0.2, 1.2, float("nan")])
def test_a_holdout_is_a_share(fraction):
    with pytest.raises(InputError, match="share"): split_holdout(grid, fraction=fraction)


def drawn(figure): return {bar.get_label(): [path.get_extents() for path in bar.get_paths()] for bar in figure.axes[0].collections if not bar.get_label().startswith("_")}


@pytest.mark.parametrize("splitter, X", [(WalkForward(3, horizon=4), grid), (TimeSeriesSplit(3, gap=2), np.zeros((40, 1)))])
def test_folds_can_be_drawn(splitter, X):
    shown = drawn(plot_splits(splitter, X))
    assert shown.keys() == {"train", "purged", "test"}
    train, test = next(splitter.split(X))
    first = grid.get_level_values(0)[test[0]] if X is grid else None
    assert shown["test"][0].x0 == (days.get_loc(first) if X is grid else test[0])
    assert shown["train"][0].x1 < shown["test"][0].x0


def test_purged_and_embargoed_stretches_are_told_apart():
    splitter = PurgedKFold(3, horizon=3, embargo=2)
    figure = plot_splits(splitter, grid)
    spans = {name: [(round(box.x0), round(box.x1)) for box in boxes] for name, boxes in drawn(figure).items()}
    assert spans == {"train": [(14, 27)], "purged": [(10, 12)], "embargoed": [(12, 14)], "test": [(0, 10)]}   # fold 0: the last label ends at day 12
    middle = [[(round(box.x0), round(box.x1)) for box in (path.get_extents() for path in bar.get_paths())] for bar in figure.axes[0].collections][1::3]
    assert middle == [[(0, 8), (24, 27)], [(8, 10), (20, 22)], [(22, 24)], [(10, 20)]] and list(KINDS) == ["train", "purged", "embargoed", "test"]
    assert splitter.embargo == 2


def test_many_folds_stay_readable():
    figure = plot_splits(CombinatorialPurgedKFold(10, 3), grid)
    assert figure.get_size_inches()[1] < 7 and len(figure.axes[0].get_yticks()) <= 20 and len(figure.axes[0].collections) == 3*120
