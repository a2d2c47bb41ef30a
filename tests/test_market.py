"Sources and quality: one market read in many shapes is one panel, and what cannot be read is refused with its place."
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from alphaplus_ml.core import InputError, UnknownNameError
from alphaplus_ml.evaluation.metrics import ic_series
from alphaplus_ml.market.labels import forward_return
from alphaplus_ml.market.quality import check_panel, quality_report, quality_rules
from alphaplus_ml.market.sources import load_market, planted_signal, sources

shared = Path(__file__).parent.parent.parent/"shared"/"data"


@pytest.fixture(scope="module")
def panel(): return load_market("planted", n_symbols=3, n_bars=30, seed=0)


@pytest.fixture(scope="module")
def table(panel): return panel.reset_index()


def same(one, other): pd.testing.assert_frame_equal(one, other, check_exact=False, rtol=1e-12)


@pytest.mark.parametrize("names", [
    {"timestamp": "Date", "symbol": "Ticker", "open": "O", "high": "H", "low": "L", "close": "C", "volume": "Vol"},
    {"timestamp": "ts", "symbol": "asset", "open": "<OPEN>", "high": "<HIGH>", "low": "<LOW>", "close": "<CLOSE>", "volume": "<VOL>"},
    {"timestamp": "DateTime", "symbol": "Instrument", "open": "Open", "high": "High", "low": "Low", "close": "Close", "volume": "VOLUME"},
])
@pytest.mark.parametrize("shape", ["csv", "csv.gz", "parquet", "pandas", "polars", "indexed"])
def test_one_market_in_many_shapes(panel, table, tmp_path, names, shape):
    renamed = table.rename(columns=names)
    if shape.startswith("csv"):
        path = tmp_path/f"bars.{shape}"
        renamed.to_csv(path, index=False, float_format="%.17g")
        read = load_market(path)
    elif shape == "parquet":
        renamed.to_parquet(tmp_path/"bars.parquet")
        read = load_market(str(tmp_path/"bars.parquet"))
    else: read = load_market({"pandas": renamed, "polars": pl.from_pandas(renamed.assign(**{names["timestamp"]: table.timestamp.dt.tz_convert(None)})), "indexed": renamed.set_index([names["timestamp"], names["symbol"]])}[shape])
    same(read, panel)
    assert read.attrs["source"]["columns"][names["close"]] == "close"


def test_row_order_does_not_matter(panel, table): same(load_market(table.sample(frac=1, random_state=0)), panel)


def test_a_file_without_symbols_is_one_symbol(table, tmp_path):
    table[table.symbol == "P01"].drop(columns="symbol").to_csv(tmp_path/"ACME.csv", index=False)
    assert load_market(tmp_path/"ACME.csv").index.get_level_values("symbol").unique().tolist() == ["ACME"]
    assert load_market(tmp_path/"ACME.csv", symbol="other").index.get_level_values("symbol").unique().tolist() == ["other"]


def test_bundled_bars_are_sound_and_real():
    panel = check_panel(load_market())
    assert panel.index.get_level_values("symbol").unique().tolist() == ["NASDAQ", "SP500"] and len(panel) == 10062
    assert panel.loc[("2008-10-15", "SP500"), "close"].item() == pytest.approx(907.84, abs=0.01), "a close that the newspapers printed"
    assert panel.vix.first_valid_index()[0] >= pd.Timestamp("2014-01-01", tz="UTC"), "nothing is filled backwards"


@pytest.mark.parametrize("name", sorted(sources))
def test_every_source_gives_a_sound_panel(name, table, tmp_path):
    if sources.facts(name)["kind"] == "file":
        path = tmp_path/f"bars.{name}"
        table.to_parquet(path) if name == "parquet" else table.to_csv(path, index=False)
        panel = load_market(name, path=path)
    else: panel = load_market(name)
    assert check_panel(panel).index.is_monotonic_increasing and panel.attrs["source"]["name"]


def test_selection_keeps_whole_days_and_symbols():
    panel = load_market(start="2010-01-04", end="2010-01-05", symbols="SP500")
    assert len(panel) == 2 and panel.index.levels[1].tolist() == ["SP500"]
    with pytest.raises(UnknownNameError, match="SP500"): load_market(symbols="SP501")
    with pytest.raises(InputError, match="at least one bar"): load_market(start="2030-01-01")


def test_the_planted_signal_has_its_ic():
    panel = load_market("planted", n_symbols=60, n_bars=2000, seed=5, ic=0.1)
    found = ic_series(forward_return(panel).dropna(), planted_signal(panel).reindex(forward_return(panel).dropna().index)).mean()
    assert found == pytest.approx(0.1, abs=4/np.sqrt(60*2000)), "four standard errors"
    none = load_market("planted", n_symbols=60, n_bars=1000, seed=6, ic=0.0)
    assert abs(ic_series(forward_return(none).dropna(), planted_signal(none).reindex(forward_return(none).dropna().index)).mean()) < 4/np.sqrt(60*1000)


def csv(tmp_path, text):
    (tmp_path/"bars.csv").write_text(text)
    return tmp_path/"bars.csv"


head = "Date,Open,High,Low,Close,Volume\n"


@pytest.mark.parametrize("text, says", [
    ("", "empty"),
    (head, "row|rows|empty"),
    ("Date,Open,High,Low,Clsoe,Volume\n2024-01-02,1,1,1,1,1\n", "close"),
    (head + "2024-01-02,1,1,1,ten,1\n", "'ten' in row 1"),
    (head + "31/12/2024,1,1,1,1,1\n", "Date"),
    (head + "2024-01-02,1,1,1,1,1\n,1,1,1,1,1\n", "row 2"),
    ("Date,Close,Close\n2024-01-02,1,2\n", "Close"),
])
def test_unreadable_files_are_refused(tmp_path, text, says):
    with pytest.raises(InputError, match=says): load_market(csv(tmp_path, text))


@pytest.mark.parametrize("source, says", [("us_indicies", "us_indices"), ("nowhere.csv", "nowhere.csv"), ("nowhere.parquet", "nowhere"), (5, "int")])
def test_unknown_sources_are_refused(source, says):
    with pytest.raises(InputError, match=says): load_market(source)


def test_an_unknown_option_is_refused():
    with pytest.raises(UnknownNameError, match="n_symbols"): load_market("planted", n_symbls=3)


def broken(panel, rule):
    "A panel that breaks one rule"
    other = panel.copy()
    row = other.index[7]
    if rule == "columns": return other.drop(columns="low")
    if rule == "length": return other.iloc[:1]
    if rule == "utc": return other.set_axis(other.index.set_levels(other.index.levels[0].tz_localize(None), level=0))
    if rule == "keys": return other.set_axis(pd.MultiIndex.from_tuples([(pd.NaT, "P00"), *other.index[1:]], names=other.index.names))
    if rule == "unique": return pd.concat([other.iloc[:8], other.iloc[7:]])
    if rule == "sorted": return other.iloc[::-1]
    if rule == "numbers": other["close"] = other["close"].astype(object); other.loc[row, "close"] = "ten"
    if rule == "nulls": other.loc[row, "open"] = np.nan
    if rule == "finite": other.loc[row, "high"] = np.inf
    if rule == "positive": other.loc[row, "low"] = -1.0
    if rule == "volume": other.loc[row, "volume"] = -5.0
    if rule == "high_low": other.loc[row, "high"] = other.loc[row, "low"]/2
    if rule == "traded": other.loc[row, "volume"] = 0.0
    return other


@pytest.mark.parametrize("rule", list(quality_rules))
def test_every_rule_sees_its_defect_and_only_then(panel, rule):
    assert rule not in set(quality_report(panel).rule), "a sound panel"
    report = quality_report(broken(panel, rule))
    assert rule in set(report.rule)
    if quality_rules.facts(rule)["severity"] == "error":
        with pytest.raises(InputError, match=rule): check_panel(broken(panel, rule))
    else: check_panel(broken(panel, rule))


def test_all_defects_are_told_at_once(panel):
    other = panel.copy()
    other.loc[other.index[3], "open"], other.loc[other.index[5], "high"], other.loc[other.index[8], "low"] = np.nan, np.inf, -1.0
    with pytest.raises(InputError) as error: check_panel(other)
    assert all(rule in str(error.value) for rule in ("nulls", "finite", "positive"))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from("ABC")), min_size=2, max_size=30, unique=True), st.randoms())
def test_any_rows_become_a_sorted_panel(keys, random):
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta([day for day, _ in keys], "D")
    frame = pd.DataFrame({"date": days, "symbol": [s for _, s in keys], **{name: np.arange(1., len(keys) + 1) for name in ("open", "high", "low", "close", "volume")}})
    panel = load_market(frame)
    assert panel.index.is_monotonic_increasing and panel.index.is_unique and len(panel) == len(keys)
    for row in frame.itertuples(): assert panel.loc[(row.date.tz_localize("UTC"), row.symbol), "close"] == row.close


@pytest.mark.skipif(not shared.exists(), reason="the development data lie beside some checkouts only")
def test_real_files():
    large = load_market(shared/"us_liquid500_2005_2017_clean.parquet")
    assert len(large) == 1_600_752 and large.index.is_monotonic_increasing
    hourly = load_market(shared/"binance_spot_1h.parquet")
    assert len(hourly) == 950_336 and hourly.index.levels[1].nunique() == 33
    with pytest.raises(InputError, match="nulls"): check_panel(load_market(shared/"sp500_5yr.parquet"))
