"""Sources of every shape: folders, wide tables, dictionaries and what real vendors write come to one panel, or are refused by name"""
import gzip
import io
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from alphaplus_ml.core import InputError
from alphaplus_ml.market.columns import bars, join_times, match_columns, read_clock, read_numbers, read_times
from alphaplus_ml.market.files import file_symbols, folder_files, read_csv
from alphaplus_ml.market.panel import describe_source, from_frame
from alphaplus_ml.market.sources import load_market, sources
from alphaplus_ml.market.wide import wide_columns

same = pd.testing.assert_frame_equal


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def panel_of(rows):
    "A panel from {(timestamp, symbol): five values}, built by pandas alone"
    index = pd.MultiIndex.from_tuples(sorted(rows), names=["timestamp", "symbol"])
    index = index.set_levels([index.levels[0].as_unit("us"), pd.Index(index.levels[1], dtype="str")])
    return pd.DataFrame([rows[key] for key in index], index=index, columns=list(bars), dtype=float)


tickers = ["AAPL", "BRK-B", "BRK.B", "C", "T", "000001", "NA", "^GSPC", "é"]
values = st.floats(min_value=1e-8, max_value=1e12) | st.just(np.nan)
bar = st.tuples(*[values]*5).filter(lambda bar: not all(np.isnan(bar)))
moments = st.integers(0, 40).map(lambda i: pd.Timestamp("2024-03-09", tz="UTC") + pd.Timedelta(minutes=37*i))
panels = st.dictionaries(st.tuples(moments, st.sampled_from(tickers)), bar, min_size=1, max_size=30).map(panel_of)


# ---- any panel, in every form, bit for bit

def wide(panel): return panel.unstack("symbol")
def flat(pattern): return lambda panel, folder: wide(panel).pipe(lambda w: w.set_axis([pattern.format(f=field, s=symbol) for field, symbol in w.columns], axis=1))
def written(make, write):
    def form(panel, folder):
        write(make(panel), path := folder/"bars.x")
        return path.rename(path.with_suffix(".parquet" if write is to_parquet else ".csv"))
    return form
def to_csv(frame, path): frame.to_csv(path)
def to_parquet(frame, path): frame.to_parquet(path)
def by_symbol(panel): return {symbol: part.droplevel("symbol") for symbol, part in panel.groupby("symbol")}
def by_field(panel): return {field: panel[field].unstack("symbol") for field in panel}
def in_polars(tables): return {name: from_frame(table) for name, table in tables.items()}
def a_file_each(write, ending):
    def form(panel, folder):
        for symbol, part in by_symbol(panel).items(): write(part, folder/f"{symbol}.{ending}")
        return folder
    return form
def a_file_a_day(panel, folder):
    for day, part in panel.groupby(panel.index.get_level_values(0).strftime("%Y-%m-%d")): part.to_parquet(folder/f"{day}.parquet")
    return folder
def partitioned(panel, folder):
    for symbol, part in by_symbol(panel).items():
        (path := folder/"year=2024"/f"symbol={symbol}").mkdir(parents=True)
        part.to_parquet(path/"part-0.parquet")
    return folder

forms = {
    "long": lambda panel, folder: panel.reset_index().sample(frac=1, random_state=1),
    "lazy": lambda panel, folder: from_frame(panel).lazy(),
    "two levels": lambda panel, folder: wide(panel),
    "two levels, named": lambda panel, folder: wide(panel).rename_axis(index="Date", columns=["Price", "Ticker"]),
    "two levels, without names": lambda panel, folder: wide(panel).rename_axis(index=None, columns=[None, None]),
    "symbols first": lambda panel, folder: wide(panel).swaplevel(axis=1).sort_index(axis=1),
    "two levels, index reset": lambda panel, folder: wide(panel).reset_index(),
    "two levels in polars": lambda panel, folder: from_frame(wide(panel)),
    "two levels in Parquet": written(wide, to_parquet),
    "two levels in Parquet, index without a name": written(lambda p: wide(p).rename_axis(index=None), to_parquet),
    "two levels in CSV": written(wide, to_csv),
    "two levels in CSV, yfinance's names": written(lambda p: wide(p).rename_axis(index="Date", columns=["Price", "Ticker"]), to_csv),
    "two levels in CSV, no names": written(lambda p: wide(p).rename_axis(index="Date", columns=[None, None]), to_csv),
    "symbols first in CSV": written(lambda p: wide(p).swaplevel(axis=1).sort_index(axis=1), to_csv),
    "AAPL_close": flat("{s}_{f}"), "close_AAPL": flat("{f}_{s}"), "Close AAPL": lambda p, d: flat("{f} {s}")(p.rename(columns=str.title), d),
    "AAPL.Close": flat("{s}.{f}"), "AAPL|close": flat("{s}|{f}"),
    "fields": lambda panel, folder: by_field(panel), "fields in polars": lambda panel, folder: in_polars(by_field(panel)),
    "symbols": lambda panel, folder: by_symbol(panel), "symbols in polars": lambda panel, folder: in_polars(by_symbol(panel)),
    "stacked by pd.concat": lambda panel, folder: pd.concat(by_symbol(panel)),
    "CSV for each symbol": a_file_each(to_csv, "csv"), "gzip for each symbol": a_file_each(to_csv, "csv.gz"), "Parquet for each symbol": a_file_each(to_parquet, "parquet"),
    "Parquet for each day": a_file_a_day, "partitions": partitioned,
}

@pytest.mark.parametrize("form", forms)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(panel=panels)
def test_every_form_of_a_panel_is_that_panel(form, panel, tmp_path_factory):
    found = load_market(forms[form](panel, tmp_path_factory.mktemp("bars")))
    same(found, panel)
    described = describe_source(found)
    assert {"timestamp", "symbol", *bars} <= set(described["as"]) | ({"symbol"} if "symbol" in described.index else set())


@settings(max_examples=25, deadline=None)
@given(panels, st.data())
def test_a_cell_without_values_is_no_bar_and_is_counted(panel, data):
    table = wide(panel)
    cells = len(table)*panel.index.get_level_values("symbol").nunique()
    found = load_market(table)
    same(found, panel)
    note = found.attrs["source"]["notes"].get("(cells)", "0 of")
    assert int(note.split()[0]) == cells - len(panel)


# ---- what vendors really write

def sample(text, folder, name="bars.csv", **options):
    (folder/name).write_text(text)
    return load_market(folder/name, **options)

yfinance = """Price,Close,Close,High,High,Low,Low,Open,Open,Volume,Volume
Ticker,AAPL,BRK-B,AAPL,BRK-B,AAPL,BRK-B,AAPL,BRK-B,AAPL,BRK-B
Date,,,,,,,,,,
2024-01-02,185.64,361.32,188.44,362.4,183.89,356.4,187.15,357.0,82488700,4000000
2024-01-03,184.25,,185.88,,183.43,,184.22,,58414500,
"""

def test_yfinance(tmp_path):
    panel = sample(yfinance, tmp_path)
    assert [(str(time.date()), symbol) for time, symbol in panel.index] == [("2024-01-02", "AAPL"), ("2024-01-02", "BRK-B"), ("2024-01-03", "AAPL")]
    assert panel.iloc[1].tolist() == [357.0, 362.4, 356.4, 361.32, 4e6]
    described = describe_source(panel)
    assert described.loc["('Close', *)", "as"] == "close" and described.loc["(cells)", "note"].startswith("1 of 4 cells")
    one = sample("Price,Close,High,Low,Open,Volume\nTicker,C,C,C,C,C\nDate,,,,,\n2024-01-02,2,3,1,2,9\n", tmp_path)
    assert one.index[0][1] == "C" and one.iloc[0].tolist() == [2, 3, 1, 2, 9]
    grouped = sample("Ticker,MSFT,MSFT,MSFT,MSFT,MSFT,MSFT\nPrice,Open,High,Low,Close,Adj Close,Volume\nDatetime,,,,,,\n2024-07-01 13:30:00+00:00,1,3,1,2,1,9\n", tmp_path)
    assert grouped.index[0] == (pd.Timestamp("2024-07-01 13:30", tz="UTC"), "MSFT") and grouped.close.item() == 2
    assert load_market(tmp_path/"bars.csv", adjusted=True).close.item() == 1
    old = sample(",Adj Close,Close,High,Low,Open,Volume\n,X,X,X,X,X,X\nDate,,,,,,\n2024-01-02,1,2,3,1,2,9\n", tmp_path)
    assert old.iloc[0].tolist() == [2, 3, 1, 2, 9]


vendors = {
    "Stooq": ("<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\nAAPL.US,5,20240102,153000,1,3,1,2,9,0\n", {}, "2024-01-02 15:30", "AAPL.US"),
    "MetaTrader": ("<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n2024.01.02\t15:30:00\t1\t3\t1\t2\t5\t9\t7\n", {"separator": "\t"}, "2024-01-02 15:30", "bars"),
    "Nasdaq.com": ('Date,Close/Last,Volume,Open,High,Low\n01/02/2024,$2.00,9,$1.00,$3.00,$1.00\n', {"timestamp_format": "%m/%d/%Y"}, "2024-01-02", "bars"),
    "Binance": ("Open time,Open,High,Low,Close,Volume,Close time,Quote asset volume,Number of trades,Taker buy base asset volume,Taker buy quote asset volume,Ignore\n"
                "1704207000000,1,3,1,2,9,1704207059999,18,4,5,10,0\n", {}, "2024-01-02 14:50", "bars"),
    "Polygon": ('{"T":"AAPL"}', {}, None, None),
    "CryptoDataDownload": ("unix,date,symbol,open,high,low,close,Volume BTC\n1704207000,2024-01-02 14:50:00,BTC/USD,1,3,1,2,9\n", {}, "2024-01-02 14:50", "BTC/USD"),
    "Kaggle": ("date,open,high,low,close,volume,Name\n2024-01-02,1,3,1,2,9,AAL\n", {}, "2024-01-02", "AAL"),
    "Yahoo": ("Date,Open,High,Low,Close,Adj Close,Volume\n2024-01-02,1,3,1,2,1.5,9\n", {}, "2024-01-02", "bars"),
    "Yahoo's table": ('Date,Open,High,Low,Close*,Adj. Close**,Volume\n2024-01-02,1,3,1,2,1.5,9\n', {}, "2024-01-02", "bars"),
    "Tiingo": ("date,close,high,low,open,volume,adjClose,adjHigh,adjLow,adjOpen,adjVolume,divCash,splitFactor\n2024-01-02T00:00:00.000Z,2,3,1,1,9,1,1,1,1,1,0,1\n", {}, "2024-01-02", "bars"),
    "Dukascopy": ("Gmt time,Open,High,Low,Close,Volume\n02.01.2024 15:30:00.000,1,3,1,2,9\n", {"timestamp_format": "%d.%m.%Y %H:%M:%S.%f"}, "2024-01-02 15:30", "bars"),
    "Frankfurt": ("Datum;Zeit;Eroeffnung;Hoch;Tief;Schluss;Stueck\n2024-01-02;09:00;1,0;3,0;1,0;2,0;9\n",
                  {"separator": ";", "decimal": ",", "columns": {"Datum": "timestamp", "Zeit": "time", "Eroeffnung": "open", "Hoch": "high", "Tief": "low", "Schluss": "close", "Stueck": "volume"}}, "2024-01-02 09:00", "bars"),
    "pandas, index without a name": (",Open,High,Low,Close,Volume\n2024-01-02,1,3,1,2,9\n", {}, "2024-01-02", "bars"),
    "thousands": ('Date,Open,High,Low,Close,Volume\n2024-01-02,1,3,1,2,"9"\n2024-01-03,1,3,1,2,"1,234,567"\n', {"end": "2024-01-02"}, "2024-01-02", "bars"),
}
del vendors["Polygon"]

@pytest.mark.parametrize("vendor", vendors)
def test_what_vendors_write(vendor, tmp_path):
    text, options, time, symbol = vendors[vendor]
    kind = {"source": "csv", "path": tmp_path/"bars.csv"} if "separator" in options else {"source": tmp_path/"bars.csv"}
    (tmp_path/"bars.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    panel = load_market(**kind, **options)
    assert panel.index[0] == (pd.Timestamp(time, tz="UTC"), symbol)
    assert panel[list(bars)].iloc[0].tolist() == [1, 3, 1, 2, 9]
    assert not {"unix", "close_time", "ignore", "adjopen", "adj_open", "date", "time"} & set(panel.columns)
    assert set(text.splitlines()[0].replace("\t", ",").replace(";", ",").split(",")) <= set(describe_source(panel).index) | {"", "timestamp"}


def test_polygon_and_alpaca_in_frames():
    grouped = pd.DataFrame({"T": ["AAPL"], "v": [9], "vw": [1.5], "o": [1], "c": [2], "h": [3], "l": [1], "t": [1704207000000], "n": [4]})
    panel = load_market(grouped)
    assert panel.index[0] == (pd.Timestamp("2024-01-02 14:50", tz="UTC"), "AAPL") and panel.iloc[0].tolist() == [1, 3, 1, 2, 9, 1.5, 4]
    alpaca = {"AAPL": grouped.drop(columns="T"), "MSFT": grouped.drop(columns="T")}
    assert list(load_market(alpaca).index.get_level_values(1)) == ["AAPL", "MSFT"]


def test_summer_time_is_no_gap_and_no_double():
    times = pd.date_range("2024-11-03 00:30", periods=4, freq="h", tz="America/New_York")
    panel = load_market(pd.DataFrame({name: 1. for name in bars}, index=times))
    assert panel.index.get_level_values(0).diff().dropna().unique().tolist() == [pd.Timedelta(hours=1)]
    text = pd.DataFrame({"time": [str(time) for time in times], **{name: 1. for name in bars}})
    same(load_market(text), panel)


def test_frames_with_every_kind_of_index_and_type():
    base = pd.DataFrame({name: [1., 2.] for name in bars})
    days = pd.DatetimeIndex(["2024-01-02", "2024-01-03"])
    expected = load_market(base.assign(timestamp=days))
    for index in (days, days.rename("Date"), days.to_period("D"), days.to_period("D").rename("Day").rename("date"), pd.Index(["2024-01-02", "2024-01-03"]), days.tz_localize("UTC")):
        same(load_market(base.set_axis(index)), expected)
    same(load_market(base.assign(date=days).astype({"open": "category"})), expected)
    same(load_market(base.assign(date=days).convert_dtypes(dtype_backend="pyarrow")), expected)
    same(load_market(base.assign(date=days.date)), expected)
    coded = base.assign(date=days, symbol=pd.Categorical(["A", "B"], categories=["B", "unused", "A"]))
    assert list(load_market(coded).index.get_level_values(1)) == ["A", "B"]
    with pytest.raises(InputError, match="day or shorter"): load_market(base.set_axis(days.to_period("M")))
    with pytest.raises(InputError, match="different names"): load_market(base.assign(date=days).set_axis(days.rename("date")))
    before = coded.copy(deep=True)
    load_market(coded)
    same(coded, before)


# ---- long tables that look wide, and wide ones that cannot be read for sure

five = ["open", "high", "low", "close", "volume"]
prefixed = lambda *names, sign="_": [f"{name}{sign}{field}" for name in names for field in five]

@pytest.mark.parametrize("header", [
    ["date", *five, "spy_open", "spy_high", "spy_low", "spy_close", "spy_volume"], ["date", "symbol", *prefixed("spy")], ["date", *five, "close_1", "close_lag"],
    ["date", "open", "high", "low", "volume", *prefixed("AAPL")], ["Date", "Volume USDT", "close_time"], ["date", "vix_close", "spy_close"]])
def test_long_headers_are_no_wide_ones(header): assert wide_columns(tuple(header)) == {}


@pytest.mark.parametrize("header, match", [
    (["date", *prefixed("bid", "ask")], "prices of several kinds"), (["date", *prefixed("x", "y")], "prices of several kinds"), (["date", *[f"{f}_price" for f in five]], "prices of several kinds"),
    (["date", *prefixed("AAPL"), *prefixed("MSFT", sign="-")], "one pattern"), (["date", *prefixed("AAPL"), *prefixed("MSFT")[:3]], r"missing \(field, symbol\).*close.*MSFT"),
    (["date", *[f"{s}_{f}" for s in "ohlcv" for f in "ohlcv"]], "one pattern"), (["date", "AAPL", "MSFT", "NVDA"], "five fields, one such table each"),
    (["date", "('a', 'X')", "('b', 'X')"], "One level of the columns"), (["date", "('Close', 'AAPL', 'x')"], "one level or two"),
    (["date", *[str((f, s)) for f in "OHLCV" for s in "OHLCV"]], "One level of the columns"), (["date", *[str((f, "AAPL")) for f in five[:4]]], "missing: volume")])
def test_what_could_mean_two_things_is_refused(header, match):
    with pytest.raises(InputError, match=match): load_market(pl.DataFrame({name: ["2024-01-02"] if name == "date" else [1.] for name in header}))


def test_tickers_that_are_single_letters_or_hold_the_sign():
    assert {pair for pair in wide_columns(("date", *prefixed("C", "BRK_B", "T"))).values()} == {(field, symbol) for field in five for symbol in ("C", "BRK_B", "T")}
    assert wide_columns(("date", *prefixed("AAPL"), "AAPL_adj_close", "AAPL_vwap", "vix"))["AAPL_adj_close"] == ("adj_close", "AAPL")
    table = pl.DataFrame({"date": ["2024-01-02"], **{name: [1.] for name in prefixed("A", "B")}, "A_vwap": [7.], "vix": [13.]})
    panel = load_market(table)
    assert panel.vwap.tolist()[0] == 7 and np.isnan(panel.vwap.tolist()[1]) and panel.vix.tolist() == [13, 13]


def test_fields_with_different_times_and_wrong_dictionaries():
    times = pd.date_range("2024-01-01", periods=3, tz="UTC")
    frames = {field: pd.DataFrame({"C": [1., 2, 3], "T": [np.nan, 5, 6]}, index=times) for field in five}
    frames["volume"] = frames["volume"].iloc[[2, 1]]
    panel = load_market(frames)
    assert list(panel.index) == [(times[0], "C"), (times[1], "C"), (times[1], "T"), (times[2], "C"), (times[2], "T")]
    assert np.isnan(panel.volume.iloc[0]) and panel.volume.iloc[1:].tolist() == [2, 5, 3, 6]
    day = lambda **extra: pd.DataFrame({"date": ["2024-01-02"], **dict.fromkeys(five, 1.), **extra})
    for wrong, match in (({}, "has entries"), ({"AAPL": 3}, "'AAPL' is none; got 'int'"), ({"close": frames["close"]}, "missing: open, high, low, volume"),
                         ({name: day() for name in "OHLCV"}, "could be both"), ({"A": day(), "B": day(symbol="B")}, r"these have none; got \['A'\]"),
                         ({"A": day(), "B": day().drop(columns="low")}, "missing in B: low"), (frames | {"close": frames["close"].drop(columns="T")}, r"missing \(field, symbol\).*'close', 'T'"),
                         ({"A": day(), "B": day(close="x")}, "'close' has 'x' in row 1 of B"), ({"A": day(), "B": day(date=["2024-01-02 10:00Z"])}, "time zone"),
                         ({"A": day(), "B": day(date=["2024-01-02 10:00Z"], vix=13.)}, "time zone"),
                         (frames | {"volume": frames["volume"].iloc[[0, 0]]}, "stands once.*'volume'")):
        with pytest.raises(InputError, match=match): load_market(wrong)
    letters = {field: pd.DataFrame({name: [1., 2, 3] for name in "OHLCVT"}, index=times) for field in five}
    assert len(load_market(letters)) == len(load_market(pd.concat(letters, axis=1))) == 18
    assert list(load_market({"2023": day(symbol="B"), "2024": day(symbol="A")}).index.get_level_values(1)) == ["A", "B"]
    assert list(load_market({"a": day(), "b": day(date=["2024-01-03"])}, symbol="Q").index.get_level_values(1)) == ["Q", "Q"]


# ---- folders

def files(folder, **texts):
    for name, text in texts.items():
        path = folder/name.replace("__", "/").replace("_csv", ".csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder

head = "Date,Open,High,Low,Close,Volume\n"

def test_headers_of_a_folder_are_matched_one_by_one(tmp_path):
    files(tmp_path, AAPL_csv=head + "2024-01-02,1,3,1,2,9\n", MSFT_csv="ts,c,l,h,o,v,VIX\n2024-01-02,2,1,3,1,9,13\n", NVDA_csv=head)
    panel = load_market(tmp_path)
    assert panel.iloc[0, :5].tolist() == panel.iloc[1, :5].tolist() == [1, 3, 1, 2, 9]
    assert np.isnan(panel.vix.iloc[0]) and panel.vix.iloc[1] == 13
    source = panel.attrs["source"]
    assert source["name"] == "csv" and source["columns"]["c"] == source["columns"]["Close"] == "close"
    assert source["notes"]["(files)"] == "3 files read, 1 of them without rows (NVDA.csv)" and source["notes"]["symbol"] == "from the names of the tables"


@pytest.mark.parametrize("texts, match", [
    ({"A_csv": head + "2024-01-02,1,3,1,2,9\n", "B_csv": head.replace("Low,", "") + "2024-01-02,1,3,2,9\n"}, "missing in B.csv: low"),
    ({"A_csv": head + "2024-01-02,1,3,1,2,9\n", "B_csv": head.replace("Close", "Adj Close") + "2024-01-02,1,3,1,2,9\n"}, "missing in B.csv: close"),
    ({"A_csv": head + "2024-01-02,1,3,1,2,9\n", "B_csv": head + "2024-01-02,1,3,1,two,9\n"}, "'Close' has 'two' in row 1 of B.csv"),
    ({"A_csv": head + "2024-01-02,1,3,1,2,9\n", "B_csv": head + "2024-01-03,1,3,1,2,9\n02/01/24,1,3,1,2,9\n"}, "row 2 of B.csv"),
    ({"A_csv": head + "2024-01-02,1,3,1,2,9\n", "B_csv": head + "2024-01-03 10:00Z,1,3,1,2,9\n"}, "time zone"),
    ({"A_csv": head + "2024-01-02,1,3,1,2,9\n", "B_csv": "Symbol," + head + "B,2024-01-02,1,3,1,2,9\n"}, r"these have none; got \['A.csv'\]"),
    ({"A_csv": head + "2024-01-02,1,3,1,2,9\n", "B_csv": ""}, "0 bytes"), ({"A_csv": head, "B_csv": head}, "rows below its header"),
    ({"2023_csv": head + "2023-01-02,1,3,1,2,9\n", "2024_csv": head + "2024-01-02,1,3,1,2,9\n"}, "called after their symbols"),
    ({"BTCUSDT-1m-2024-01_csv": head + "2024-01-02,1,3,1,2,9\n"}, "called after their symbols.*symbol='AAPL'"),
    ({"A_csv": head + "2024-01-02,1,3,1,2,9\n", "B.parquet": "x"}, "one kind; got .*A.csv.*B.parquet"), ({"notes.md": "x"}, "notes.md and no such file"), ({}, "no files")])
def test_a_folder_is_refused_by_the_name_of_the_file(texts, match, tmp_path):
    with pytest.raises(InputError, match=match): load_market(files(tmp_path, **texts))


def test_what_counts_in_a_folder(tmp_path):
    row = head + "2024-01-0{},1,3,1,2,9\n"
    files(tmp_path, AAPL_csv=row.format(2), nyse__AAPL_csv=row.format(3), nyse__MSFT_csv=row.format(2), _SUCCESS="", **{".hidden.csv": "x", ".AAPL.csv.crc": "x", ".ipynb_checkpoints/AAPL-checkpoint.csv": row.format(4),
          "_delta_log/0.csv": "x", "README.md": "x"})
    panel = load_market(f"{tmp_path}/")
    assert [(time.day, symbol) for time, symbol in panel.index] == [(2, "AAPL"), (2, "MSFT"), (3, "AAPL")]
    assert panel.attrs["source"]["notes"]["(files)"] == "3 files read; not read: README.md"
    same(load_market("csv", path=tmp_path), panel)
    (tmp_path/"x.parquet").write_text("no parquet")
    same(load_market("csv", path=tmp_path), panel)
    with pytest.raises(InputError, match="readable Parquet"): load_market("parquet", path=tmp_path)
    assert [path.as_posix() for path in folder_files(tmp_path)] == ["AAPL.csv", "README.md", "nyse/AAPL.csv", "nyse/MSFT.csv", "x.parquet"]


def test_one_symbol_in_many_files_and_the_same_bar_twice(tmp_path):
    files(tmp_path, **{f"BTC-2024-0{m}_csv": head + f"2024-0{m}-02,1,3,1,2,9\n" for m in (1, 2)})
    panel = load_market(tmp_path, symbol="BTC")
    assert list(panel.index.get_level_values(1)) == ["BTC", "BTC"] and "every row is 'BTC'" in panel.attrs["source"]["notes"]["symbol"]
    files(tmp_path, again_csv=head + "2024-01-02,1,3,1,2,9\n")
    assert load_market(tmp_path, symbol="BTC").index.duplicated().sum() == 1  # check_panel refuses it by name


def test_data_sets_of_polars_and_arrow(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    panel = load_market("planted", n_symbols=3, n_bars=4)
    table = panel.reset_index().assign(year=lambda t: t.timestamp.dt.year)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas warns about what pyarrow does
        pq.write_to_dataset(pa.Table.from_pandas(table), tmp_path/"arrow.parquet", partition_cols=["year", "symbol"])
    found = load_market(tmp_path/"arrow.parquet")
    same(found, panel)
    assert found.attrs["source"]["notes"]["year="].startswith("left out") and "names of the folders" in found.attrs["source"]["notes"]["symbol="]
    for day in ("2024-01-02", "2024-01-03"):
        (path := tmp_path/"days"/f"date={day}").mkdir(parents=True)
        pl.DataFrame({"symbol": ["A"], **{name: [1.] for name in five}}).write_parquet(path/"0.parquet")
    assert [time.day for time, _ in load_market(tmp_path/"days").index] == [2, 3]


def test_files_for_each_field(tmp_path):
    panel = load_market("planted", n_symbols=3, n_bars=4)
    for field in panel: panel[field].unstack("symbol").to_csv(tmp_path/f"{field.title()}.csv")
    same(load_market(tmp_path), panel)


def test_a_registered_name_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files(tmp_path/"sp500", A_csv=head + "2024-01-02,1,3,1,2,9\n")
    files(tmp_path/"bars", A_csv=head + "2024-01-02,1,3,1,2,9\n")
    assert len(load_market("sp500")) == 5031 and len(load_market("./sp500")) == len(load_market("bars")) == 1


@pytest.mark.parametrize("name, symbol", [("nyse/BRK.B.csv", "BRK.B"), ("x.csv.gz", "x"), ("000001.parquet", "000001"), ("7203.csv", "7203"), ("aapl.us.txt", "aapl.us"), ("_GSPC.csv", "_GSPC"), ("BTC-USD.csv", "BTC-USD")])
def test_the_symbol_in_a_name(name, symbol): assert file_symbols([name]) == {name: symbol}


# ---- columns

def test_numbers_with_signs_are_read_only_where_they_are_sure():
    read = lambda texts, decimal=None: read_numbers(pl.Series(texts), decimal)
    for texts, decimal, expected in ((["$1.5", "-$2"], None, [1.5, -2]), (["1,234.5", "1,000"], None, [1234.5, 1000]), (["1,234"], ".", [1234]), (["1.234,5", "7"], ",", [1234.5, 7]), (["1,5"], ",", [1.5]),
                                     (["-1,234,567", "12"], None, [-1234567, 12])):
        found, wrong = read(texts, decimal)
        assert found.tolist() == expected and not len(wrong)
    for texts, decimal in ((["1,234"], None), (["1,5"], None), (["1,23,456"], None), (["$1", "€2"], None), (["1.5"], ","), (["1,5"], "."), (["$"], None), (["1,234", "1,5", "1,234,567"], None)):
        assert len(read(texts, decimal)[1]), texts


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e9, 1e9).map(lambda x: round(x, 4)), min_size=1, max_size=8))
def test_thousands_and_decimal_commas_are_what_python_formats(numbers):
    english = [f"{number:,}" for number in numbers]
    assert read_numbers(pl.Series(english), ".")[0].tolist() == numbers
    german = [text.translate(str.maketrans(",.", ".,")) for text in english]
    assert read_numbers(pl.Series(german), ",")[0].tolist() == numbers


@settings(max_examples=40, deadline=None)
@given(st.lists(st.datetimes(pd.Timestamp("1990-01-01"), pd.Timestamp("2050-01-01")).map(lambda time: time.replace(microsecond=0)), min_size=1, max_size=5), st.sampled_from(["%Y-%m-%d", "%Y%m%d", "%Y.%m.%d"]), st.sampled_from(["%H:%M:%S", "%H%M%S", "time", "int"]))
def test_a_date_and_a_time_of_day_are_joined(moments, day, clock):
    times = [m.time() for m in moments] if clock == "time" else [int(m.strftime("%H%M%S")) for m in moments] if clock == "int" else [m.strftime(clock) for m in moments]
    if clock == "int" and max(times) <= 2359: return  # then they are hours and minutes
    micro, note = join_times(pl.Series("Date", [m.strftime(day) for m in moments]), pl.Series("Time", times))
    assert pd.to_datetime(micro.to_numpy(), unit="us").tolist() == [pd.Timestamp(m) for m in moments] and "joined with 'Time'" in note


def test_date_and_time_in_the_record_and_times_that_are_none(tmp_path):
    panel = sample("Date,Time,Open,High,Low,Close,Volume\n2024-01-02,09:30,1,3,1,2,9\n", tmp_path)
    described = describe_source(panel)
    assert described.loc["Date", "as"] == described.loc["Time", "as"] == "timestamp" and described.loc["Date", "note"] == "a date, joined with 'Time'; naive, taken as UTC"
    for time in ("25:00", "noon", "2024-01-02 09:30", "9", "09:61"):
        with pytest.raises(InputError, match="'Time' is not a time of day"): sample(f"Date,Time,Open,High,Low,Close,Volume\n2024-01-02,{time},1,3,1,2,9\n", tmp_path)
    with pytest.raises(InputError, match="'Date' is not a date alone"): sample("Date,Time,Open,High,Low,Close,Volume\n2024-01-02 09:30,09:30,1,3,1,2,9\n", tmp_path)
    assert read_clock(pl.Series([930, 1600])).to_list() == [34_200_000_000, 57_600_000_000]


def test_times_and_volumes_that_stand_twice():
    assert match_columns(["timestamp", "date", "time", "close"]) == {"timestamp": "timestamp", "date": None, "time": None, "close": "close"}
    with pytest.raises(InputError, match="One column gives the volume.*Volume BTC.*Volume USDT"): match_columns(["date", "Volume BTC", "Volume USDT"])
    assert match_columns(["Volume_(BTC)"]) == {"Volume_(BTC)": "volume"} and match_columns(["volume_ma5"]) == {"volume_ma5": "volume_ma5"}


def test_a_csv_of_numbers_and_one_of_text_are_read_alike(tmp_path):
    rows = [("NA", "1"), ("000001", "2.5"), ("", "3")]
    for last in ("4", " 4 "):
        (tmp_path/"a.csv").write_text("Ticker,Close\n" + "".join(f"{s},{c}\n" for s, c in rows) + f"x,{last}\n")
        table = read_csv(tmp_path/"a.csv")
        assert table["Ticker"].cast(pl.String).to_list() == ["NA", "000001", None, "x"] and read_numbers(table["Close"])[0].tolist() == [1, 2.5, 3, 4]


def test_files_that_no_csv_reader_should_be_given(tmp_path):
    (tmp_path/"a.csv").write_bytes(head.encode("utf-16"))
    with pytest.raises(InputError, match="UTF-16"): load_market(tmp_path/"a.csv")
    with pytest.raises(InputError, match="one character"): load_market("csv", path=tmp_path/"a.csv", separator="::")
    (tmp_path/"a.csv").write_text("\n\n")
    with pytest.raises(InputError): load_market(tmp_path/"a.csv")
    (tmp_path/"b.csv.gz").write_bytes(gzip.compress(head.encode())[:-6])
    with pytest.raises(InputError, match="readable CSV"): load_market(tmp_path/"b.csv.gz")
    with pytest.raises(InputError, match="decimal is"): load_market("sp500", decimal=";")
    cut = io.BytesIO()
    load_market("planted", n_bars=3000, n_symbols=2).reset_index().to_parquet(cut)
    (tmp_path/"[1].parquet").write_bytes(cut.getvalue())
    assert len(load_market(tmp_path/"[1].parquet")) == 6000
    broken = bytearray(cut.getvalue())
    broken[2000:4000] = bytes(2000)
    (tmp_path/"c.parquet").write_bytes(broken)
    with pytest.raises(InputError, match="readable"): load_market(tmp_path/"c.parquet")


def test_rows_of_numbers_without_a_time_are_no_second_header(tmp_path):
    with pytest.raises(InputError, match="missing: timestamp|readable"): sample(",Open,High,Low,Close,Volume\n,1,3,1,2,9\n", tmp_path)


def test_a_lazy_frame_that_fails(tmp_path):
    for lazy in (pl.scan_parquet(tmp_path/"absent.parquet"), pl.LazyFrame({"a": [1]}).select("b")):
        for source in (lazy, {"A": lazy}):
            with pytest.raises(InputError, match="can be collected"): load_market(source)


def test_a_new_source_of_many_tables_is_one_small_cell():
    assert {sources.facts(name)["kind"] for name in sources} == {"bundled", "generated", "file"}
