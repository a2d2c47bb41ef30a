"Labels against a bar-by-bar definition, on panels with gaps and late listings."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from alphaplus_ml.core import InputError
from alphaplus_ml.market.labels import direction, forward_return, label_end
from alphaplus_ml.market.sources import load_market


def panel_of(keys, seed):
    "A panel with a bar for each (day, symbol), in a random order"
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_tuples([(pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(day, "D"), symbol) for day, symbol in keys], names=["timestamp", "symbol"])
    return pd.DataFrame({"open": rng.uniform(1, 9, len(keys)), "close": rng.uniform(1, 9, len(keys))}, index=index).sample(frac=1, random_state=seed)


def by_hand(panel, horizon, price, log):
    "Every label from the definition, one row at a time"
    values, ends = {}, {}
    for stamp, symbol in panel.index:
        own = panel.xs(symbol, level="symbol").sort_index()
        at = own.index.get_loc(stamp)
        start, end = (at, at + horizon) if price == "close" else (at + 1, at + horizon + 1)
        if end < len(own):
            ratio = own[price].iloc[end]/own[price].iloc[start]
            values[stamp, symbol], ends[stamp, symbol] = (np.log(ratio) if log else ratio - 1), own.index[end]
        else: values[stamp, symbol], ends[stamp, symbol] = np.nan, pd.NaT
    return pd.Series(values).reindex(panel.index), pd.Series(ends).reindex(panel.index)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 25), st.sampled_from("ABC")), min_size=8, max_size=40, unique=True), st.integers(1, 3), st.sampled_from(["close", "open"]), st.booleans(), st.integers(0, 99))
def test_labels_equal_the_definition(keys, horizon, price, log, seed):
    panel = panel_of(keys, seed)
    longest = max(np.bincount(panel.index.codes[1]))
    if horizon + (price == "open") >= longest:
        with pytest.raises(InputError): forward_return(panel, horizon, price)
        return
    values, ends = by_hand(panel, horizon, price, log)
    np.testing.assert_allclose(forward_return(panel, horizon, price, log), values, rtol=1e-12)
    found = label_end(panel, horizon, price)
    assert ((found == ends) | (found.isna() & ends.isna())).all() and str(found.dt.tz) == "UTC"
    rises = direction(panel, horizon, price)
    assert (rises.isna() == values.isna()).all() and (rises.dropna() == (values.dropna() > 0)).all()


def test_a_pause_counts_the_symbols_own_bars():
    panel = panel_of([(0, "A"), (1, "A"), (9, "A"), (0, "B"), (1, "B"), (2, "B")], 0).sort_index()
    assert label_end(panel)[(pd.Timestamp("2024-01-02", tz="UTC"), "A")] == pd.Timestamp("2024-01-10", tz="UTC")


@pytest.mark.parametrize("horizon", [0, -1, 1.5, True, "5"])
def test_what_is_no_horizon_is_refused(horizon):
    with pytest.raises(InputError, match="horizon"): forward_return(load_market("planted", n_symbols=2, n_bars=10), horizon)


def test_bad_input_is_refused():
    panel = load_market("planted", n_symbols=2, n_bars=10)
    with pytest.raises(InputError, match="10 bars"): forward_return(panel, 10)
    with pytest.raises(InputError, match="close"): forward_return(panel, 1, "clsoe")
    with pytest.raises(InputError, match="timestamp and symbol"): forward_return(panel.reset_index())
    with pytest.raises(InputError, match="one row per timestamp"): forward_return(pd.concat([panel, panel.iloc[:1]]))
    with pytest.raises(InputError, match="above zero"): forward_return(panel.assign(close=0.0))
