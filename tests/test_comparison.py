"Comparing models: the verdict on planted and on worthless forecasts, the figures against independent recomputation, bad input"
from math import sqrt

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kurtosis, skew, spearmanr

from alphaplus_ml.core import InputError, UnknownNameError
from alphaplus_ml.evaluation.comparison import ComparisonResult, _draws, common_rows, compare_models, headline_interval
from alphaplus_ml.evaluation.metrics import max_drawdown, metrics, r2_out_of_sample
from alphaplus_ml.evaluation.overfitting import deflated_sharpe_ratio, probabilistic_sharpe_ratio
from alphaplus_ml.evaluation.portfolio import portfolio_returns
from alphaplus_ml.evaluation.significance import diebold_mariano

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
COLUMNS = {"comparison_id", "model_names", "comparison_metrics", "test_period_start", "test_period_end", "dataset_size", "comparison_method", "winner_model",
           "statistical_significance", "confidence_interval", "created_by", "metadata"}

def planted(t=200, s=6, strength=0.5, seed=0):
    "Labels, a benchmark of zero, a forecast that knows something, and one that does not"
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([pd.date_range("2023-01-02", periods=t, tz="UTC"), [f"S{k}" for k in range(s)]], names=["timestamp", "symbol"])
    signal = pd.Series(rng.normal(size=len(index)), index)
    y = 0.01*(strength*signal + rng.normal(size=len(index)))
    noise = pd.Series(rng.normal(size=len(index)), index)
    return y, {"past_mean": y*0 + 1e-5, "good": 0.01*strength*signal, "noise": 0.002*noise}

Y, PREDICTIONS = planted()

@pytest.fixture(scope="module")
def result(): return compare_models(PREDICTIONS, Y, returns=Y, n_bootstraps=100, trials={"good": (20, 0.002)}, name="mine")

def test_a_planted_forecast_wins(result):
    assert result.winner == "good" == result.leaderboard.index[0] and result.p_value < 0.001
    assert "good forecasts better than past_mean at 5 %" in result.verdict and "Diebold-Mariano" in result.verdict and "Holm" in result.verdict
    assert "2023-01-02" in result.verdict and "200 timestamps" in result.verdict
    lower, upper = result.interval
    assert lower < result.leaderboard.rank_ic["good"] < upper and lower > 0

@pytest.mark.parametrize("seed", range(3))
def test_noise_has_no_winner(seed):
    y, predictions = planted(strength=0.0, seed=seed)
    rng = np.random.default_rng(100 + seed)
    predictions = {"past_mean": predictions["past_mean"], **{f"noise_{k}": pd.Series(0.001*rng.normal(size=len(y)), y.index) for k in range(4)}}
    result = compare_models(predictions, y, n_bootstraps=20)
    assert result.winner is None and result.p_value > 0.05
    assert "No model is distinguishable from past_mean at 5 %" in result.verdict and f"{result.p_value:.2g}" in result.verdict
    assert result.rows()[0]["winner_model"] is None

def test_the_benchmark_itself_never_wins():
    result = compare_models(PREDICTIONS, Y, benchmark="good", n_bootstraps=20)
    assert result.benchmark == "good" and result.winner is None and np.isnan(result.leaderboard.p_value["good"])
    assert result.leaderboard.index[0] == "good" and (result.leaderboard.p_value.drop("good") > 0.95).all()

def test_equal_forecasts_are_not_distinguishable():
    result = compare_models({"a": PREDICTIONS["good"], "b": PREDICTIONS["good"].copy()}, Y, n_bootstraps=20)
    assert result.winner is None and np.isnan(result.p_value) and "no loss differs" in result.verdict
    assert result.rows()[0]["statistical_significance"] is None

def test_a_level_is_kept():
    strict = compare_models(PREDICTIONS, Y, level=0.99, n_bootstraps=50)
    assert "1 %" in strict.verdict and strict.rows()[0]["confidence_interval"]["level"] == 0.99
    loose = compare_models(PREDICTIONS, Y, level=0.8, n_bootstraps=50)
    assert strict.interval[0] < loose.interval[0] < loose.interval[1] < strict.interval[1]

def test_the_leaderboard_equals_an_independent_recomputation(result):
    for name, prediction in PREDICTIONS.items():
        line = result.leaderboard.loc[name]
        by_day = [spearmanr(y, prediction.loc[y.index]).statistic for _, y in Y.groupby("timestamp")] if name != "past_mean" else [np.nan]
        assert line.rank_ic == pytest.approx(np.mean(by_day), nan_ok=True) and line.n == len(Y)
        assert line.rmse == pytest.approx(sqrt(((Y - prediction).to_numpy()**2).mean()))
        assert line.r2_out_of_sample == pytest.approx(r2_out_of_sample(Y, prediction))
        net = portfolio_returns(prediction, Y, cost_bps=1.0)
        assert line.sharpe == pytest.approx(net.mean()/net.std(ddof=1)*sqrt(252) if net.std() > 0 else np.nan, nan_ok=True)
        assert line.max_drawdown == pytest.approx(max_drawdown(net))

def test_p_values_are_holm_over_one_sided_tests(result):
    board = result.leaderboard
    loss = {name: (Y - one)**2 for name, one in PREDICTIONS.items()}
    p = {name: diebold_mariano(loss[name], loss["past_mean"], alternative="less").p_value for name in ("good", "noise")}
    assert board.p_value["good"] == pytest.approx(p["good"]) and board.p_value["noise"] == pytest.approx(p["noise"])
    low, high = sorted(p, key=p.get)
    assert board.p_adjusted[low] == pytest.approx(min(2*p[low], 1)) and board.p_adjusted[high] == pytest.approx(max(p[high], min(2*p[low], 1)))

def test_deflated_sharpe_equals_its_parts_and_falls_with_trials(result):
    net = portfolio_returns(PREDICTIONS["good"], Y, cost_bps=1.0)
    parts = dict(sharpe=net.mean()/net.std(ddof=1), n=len(net), skew=skew(net), kurtosis=kurtosis(net, fisher=False))
    assert result.leaderboard.deflated_sharpe["good"] == pytest.approx(deflated_sharpe_ratio(n_trials=20, variance=0.002, **parts))
    assert result.leaderboard.probabilistic_sharpe["good"] == pytest.approx(probabilistic_sharpe_ratio(**parts))
    weak, y = {"past_mean": PREDICTIONS["past_mean"], "noise": PREDICTIONS["noise"]}, Y
    found = [compare_models(weak, y, returns=y, trials={"noise": (n, 0.01)}, n_bootstraps=5).leaderboard.deflated_sharpe["noise"] for n in (1, 5, 50, 500)]
    assert found == sorted(found, reverse=True) and len(set(found)) == 4
    assert result.leaderboard.deflated_sharpe["noise"] == result.leaderboard.probabilistic_sharpe["noise"]   # one trial when nothing is said

def test_costs_and_horizon_reach_the_portfolio():
    cheap, dear = (compare_models(PREDICTIONS, Y, returns=Y, cost_bps=cost, n_bootstraps=5).leaderboard.sharpe["good"] for cost in (0, 20))
    assert dear < cheap
    held = compare_models(PREDICTIONS, Y, returns=Y, horizon=3, n_bootstraps=5).leaderboard
    net = portfolio_returns(PREDICTIONS["good"], Y, horizon=3)
    assert held.sharpe["good"] == pytest.approx(net.mean()/net.std(ddof=1)*sqrt(252))
    assert held.turnover["good"] < 0.7*compare_models(PREDICTIONS, Y, returns=Y, n_bootstraps=5).leaderboard.turnover["good"]

def test_rows_fill_every_column(result):
    row, = result.rows()
    assert ComparisonResult.table == "model_performance_comparison" and set(row) == COLUMNS
    assert row["comparison_id"] == "mine" and sorted(row["model_names"]) == sorted(PREDICTIONS) and row["dataset_size"] == len(Y)
    assert row["winner_model"] == "good" and row["statistical_significance"] == result.p_value and row["created_by"]
    assert row["test_period_start"] == pd.Timestamp("2023-01-02", tz="UTC") and row["test_period_end"].tzinfo is not None
    assert row["comparison_metrics"]["good"]["rank_ic"] == result.leaderboard.rank_ic["good"]
    assert set(row["confidence_interval"]["models"]) == set(PREDICTIONS) and row["confidence_interval"]["metric"] == "rank_ic"
    assert row["metadata"]["n_trials"]["good"] == 20 and row["metadata"]["verdict"] == result.verdict
    plain, = compare_models({"a": PREDICTIONS["good"], "b": PREDICTIONS["noise"]}, Y, n_bootstraps=5).rows()
    assert set(plain) == COLUMNS and plain["comparison_id"] != row["comparison_id"]

def test_a_permuted_panel_gives_the_same(result):
    order = np.random.default_rng(0).permutation(len(Y))
    mixed = {name: one.iloc[np.random.default_rng(k).permutation(len(Y))] for k, (name, one) in enumerate(PREDICTIONS.items())}
    other = compare_models(mixed, Y.iloc[order], returns=Y.iloc[order[::-1]], n_bootstraps=100, trials={"good": (20, 0.002)}, name="mine")
    pd.testing.assert_frame_equal(other.leaderboard, result.leaderboard)
    assert other.verdict == result.verdict and other.interval == pytest.approx(result.interval)

def test_the_same_seed_gives_the_same_intervals(result):
    again = compare_models(PREDICTIONS, Y, returns=Y, n_bootstraps=100, trials={"good": (20, 0.002)}, name="mine")
    other = compare_models(PREDICTIONS, Y, returns=Y, n_bootstraps=100, trials={"good": (20, 0.002)}, name="mine", seed=1)
    pd.testing.assert_frame_equal(again.leaderboard, result.leaderboard)
    assert other.interval != result.interval

def test_models_are_judged_on_their_common_rows():
    gaps = {**PREDICTIONS, "good": PREDICTIONS["good"].iloc[300:], "noise": PREDICTIONS["noise"].where(np.arange(len(Y)) < 900)}
    y = Y.where(np.arange(len(Y)) % 50 != 0)
    kept, models = common_rows(gaps, y)
    assert list(kept.index) == list(Y.index[[k for k in range(300, 900) if k % 50]]) and models.notna().all(axis=None)
    result = compare_models(gaps, y, n_bootstraps=20)
    assert (result.leaderboard.n == len(kept)).all() and result.rows()[0]["dataset_size"] == len(kept)
    assert result.timestamps[0] == kept.index[0][0] and result.timestamps[-1] == kept.index[-1][0]

@pytest.mark.parametrize("metric, best", [("rmse", "min"), ("mae", "min"), ("ic", "max"), ("hit_rate", "max"), ("time_series_ic", "max")])
def test_the_first_line_is_the_best_by_any_metric(metric, best):
    board = compare_models(PREDICTIONS, Y, metric=metric, n_bootstraps=50).leaderboard
    assert board[metric].iloc[0] == getattr(board[metric], best)() and board.index[0] == "good"
    told = board[board[metric].notna() & (board.index != "past_mean")]
    assert ((told.lower <= told[metric]) & (told[metric] <= told.upper)).all()

def test_the_r2s_interval_draws_each_row_with_the_mean_of_its_own_time():
    y, predictions = planted(t=300, strength=0.3, seed=1)
    r2, (lower, upper) = r2_out_of_sample(y, predictions["good"]), headline_interval("r2_out_of_sample", y, predictions["good"])
    assert lower < r2 < upper and upper - lower < 0.5
    result = compare_models(predictions, y, metric="r2_out_of_sample", n_bootstraps=50)
    assert result.leaderboard.index[0] == "good" and result.interval[0] < result.leaderboard.r2_out_of_sample["good"] < result.interval[1]
    history = pd.Series(5.0, y.index[:400].set_levels(y.index.levels[0] - pd.Timedelta("9999D"), level=0))     # a past mean far off is easily beaten
    assert headline_interval("r2_out_of_sample", y, predictions["good"], history=history)[0] > upper

@pytest.mark.parametrize("metric", [name for name in metrics if hasattr(metrics[name], "by_row")])
def test_a_mean_over_rows_is_drawn_by_its_daily_sums(metric):
    rng = np.random.default_rng(0)
    y = (planted(t=60, s=4)[0] > 0).astype(float)
    p = pd.Series(rng.uniform(0.0, 1.0, len(y)), y.index).sample(frac=0.8, random_state=1)   # days of unlike length, in another order
    values, statistic, memory = _draws(metric, y, p, horizon=1)
    days = sorted(p.index.get_level_values("timestamp").unique())
    drawn = rng.integers(len(days), size=len(days))
    rows = [one for day in drawn for one in p.index[p.index.get_level_values("timestamp") == days[day]]]
    assert statistic(values[drawn]) == pytest.approx(metrics[metric](y.loc[rows].to_numpy(), p.loc[rows].to_numpy())) and len(memory) == len(days)
    lower, upper = headline_interval(metric, y, p, n_bootstraps=100)
    assert lower < metrics[metric](y, p) < upper

def test_two_symbols_are_compared_over_time():
    y, predictions = planted(t=150, s=2)
    result = compare_models(predictions, y, returns=y, n_bootstraps=50)
    expected = np.mean([np.corrcoef(y.xs(k, level="symbol"), predictions["good"].xs(k, level="symbol"))[0, 1] for k in ("S0", "S1")])
    assert result.question.metric == "time_series_ic" and result.leaderboard.time_series_ic["good"] == pytest.approx(expected)
    assert result.winner == "good" and result.interval[0] > 0

def test_the_interval_of_the_rank_ic_covers_it():
    covered = []
    for seed in range(40):
        y, predictions = planted(t=80, strength=0.0, seed=seed)
        lower, upper = headline_interval("rank_ic", y, predictions["noise"], seed=seed, n_bootstraps=200)
        covered.append(lower <= 0 <= upper)
    assert 0.8 <= np.mean(covered)

@pytest.mark.parametrize("change, words", [
    (dict(predictions={"a": PREDICTIONS["good"]}), "at least two models"), (dict(predictions=list(PREDICTIONS.values())), "dictionary"),
    (dict(y=Y.droplevel("symbol")), "panel's index"), (dict(y=Y.to_numpy()), "panel's index"), (dict(level=1.0), "level"), (dict(level=95), "level"),
    (dict(metric="qlike"), "regression, direction or ranking"), (dict(returns=Y.iloc[:0]), "share rows"),
    (dict(predictions={"a": PREDICTIONS["good"].iloc[:300], "b": PREDICTIONS["good"].iloc[300:]}), "at least one predicted row"),
    (dict(predictions={"a": PREDICTIONS["good"], "b": PREDICTIONS["good"]*np.inf}), "finite"), (dict(horizon=0), "horizon"), (dict(cost_bps=-1, returns=Y), "basis points")])
def test_what_cannot_be_compared_is_refused(change, words):
    with pytest.raises(InputError, match=words): compare_models(**dict(predictions=PREDICTIONS, y=Y, n_bootstraps=5) | change)

@pytest.mark.parametrize("change, near", [(dict(benchmark="past_maen"), "past_mean"), (dict(trials={"goood": (2, 0.1)}), "good"), (dict(metric="rank_ci"), "rank_ic")])
def test_an_unknown_name_comes_with_near_ones(change, near):
    with pytest.raises(UnknownNameError, match=f"Did you mean.*{near}"): compare_models(PREDICTIONS, Y, **change)

def test_the_r2_benchmark_knows_the_labels_before_the_test_rows():
    tested = np.arange(len(Y)) >= 600
    late = {name: one.where(tested) for name, one in PREDICTIONS.items()}
    y = Y + np.where(tested, 0.0, 0.05)   # a past that the mean of the test rows knows nothing of
    own, given = compare_models(late, y, n_bootstraps=5), compare_models({name: one[tested] for name, one in late.items()}, y[tested], history=y[~tested], n_bootstraps=5)
    for name, one in late.items(): assert own.leaderboard.r2_out_of_sample[name] == pytest.approx(r2_out_of_sample(y, one)) == given.leaderboard.r2_out_of_sample[name]
