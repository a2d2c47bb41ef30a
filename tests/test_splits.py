"The splitters against their definitions, computed row by row, and against two other libraries"
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from purgedcv import WalkForwardSplit
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_val_score

from alphaplus_ml.core import InputError
from alphaplus_ml.evaluation.splits import WalkForward, plot_splits, split_holdout, with_label_end

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
    theirs = WalkForwardSplit(4, 10, prediction_times=stamps, evaluation_times=ends - pd.Timedelta("1us"))
    ours = WalkForward(4, test_size=10, label_end=pd.Series(ends.array, index=pd.DatetimeIndex(stamps)))
    assert listed(ours, pd.DatetimeIndex(stamps)) == listed(theirs, np.zeros((60, 1)))


def test_symbols_own_bars_count_not_the_calendar():
    index = grid.drop([(day, "B") for day in days[5:15]])
    train, test = next(WalkForward(2, horizon=1).split(index))   # the first block starts at day 10, in B's pause
    trained = index[train]
    assert (days[9], "A") in trained and (days[3], "B") in trained and (days[4], "B") not in trained


def test_every_form_of_x_gives_the_same_folds():
    frame = pd.DataFrame({"x": np.arange(len(grid))}, index=grid)
    expected = listed(WalkForward(3, horizon=2), grid)
    assert all(listed(WalkForward(3, horizon=2), X, *y) == expected for X, *y in [(frame,), (frame["x"],), (frame.to_numpy(), frame["x"]), (frame.reset_index(drop=True), frame["x"])])


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
    (WalkForward(label_end=stamps), np.zeros((len(grid), 1)), "holds every row"),
    (WalkForward(label_end=stamps.to_numpy()), grid, "is a Series"),
])
def test_what_cannot_be_split_is_refused_before_the_first_fold(splitter, X, message):
    with pytest.raises(InputError, match=message): splitter.split(X)


def test_x_and_y_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="same number of rows"): WalkForward().split(np.zeros((5, 1)), np.zeros(4))


def test_a_splitter_is_a_scikit_learn_citizen():
    ends = stamps + pd.Timedelta("2D")
    splitter = WalkForward(3, embargo=1, label_end=ends)
    copy = clone(splitter)
    assert copy is not splitter and copy.get_params().keys() == {"n_splits", "horizon", "embargo", "train_size", "test_size", "label_end"}
    assert listed(copy, grid) == listed(splitter, grid) and copy.get_n_splits(grid) == 3
    X, y = pd.DataFrame({"x": np.arange(90.)}, index=grid), pd.Series(np.arange(90.), index=grid)
    assert len(cross_val_score(LinearRegression(), X, y, cv=splitter)) == 3
    search = GridSearchCV(LinearRegression(), {"fit_intercept": [True, False]}, cv=splitter).fit(X, y)
    assert search.n_splits_ == 3


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


@pytest.mark.parametrize("splitter, X", [(WalkForward(3, horizon=4), grid), (TimeSeriesSplit(3, gap=2), np.zeros((40, 1)))])
def test_folds_can_be_drawn(splitter, X):
    figure = plot_splits(splitter, X)
    drawn = {bar.get_label(): [path.get_extents() for path in bar.get_paths()] for bar in figure.axes[0].collections if not bar.get_label().startswith("_")}
    assert drawn.keys() == {"train", "purged", "test"}
    train, test = next(splitter.split(X))
    first = grid.get_level_values(0)[test[0]] if X is grid else None
    assert drawn["test"][0].x0 == (days.get_loc(first) if X is grid else test[0])
    assert drawn["train"][0].x1 < drawn["test"][0].x0
