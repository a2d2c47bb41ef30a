"""Sources: one panel from every kind of table"""
import gzip
import inspect
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from conftest import real_file
from alphaplus_ml.core import InputError, UnknownNameError
from alphaplus_ml.market.panel import bars, describe_source, from_frame, match_columns, read_numbers, read_times, select_bars, to_panel
from alphaplus_ml.market.quality import check_panel
from alphaplus_ml.market.sources import load_market, planted_signal, sources

same = pd.testing.assert_frame_equal


@pytest.fixture
def small():
    return load_market("planted", n_symbols=3, n_bars=12)


# ---- the contract of every source that needs no file

bundled = [name for name in sources if "path" not in inspect.signature(sources[name]).parameters]

@pytest.mark.parametrize("name", bundled)
def test_every_source_gives_a_sound_panel_and_says_how(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sources[name]()  # importing the package behind it may warn
    panel = load_market(name)
    assert check_panel(panel) is panel
    assert list(panel.columns[:5]) == list(bars) and (panel.dtypes == float).all()
    assert panel.index.names == ["timestamp", "symbol"] and str(panel.index.levels[0].dtype) == "datetime64[us, UTC]"
    assert isinstance(panel.index.levels[1].dtype, pd.StringDtype)
    assert panel.attrs["source"]["name"] == name
    described = describe_source(panel)
    assert {"timestamp", "symbol", *bars} <= set(described["as"])
    same(load_market(name), panel)
    assert sources.facts(name)["kind"] in ("bundled", "generated")


# ---- bundled bars

def test_us_indices_are_archs_bars_with_vix_and_wti_of_the_same_day_and_nothing_filled():
    from arch.data import nasdaq, sp500, vix, wti
    panel = load_market()
    for symbol, module in (("SP500", sp500), ("NASDAQ", nasdaq)):
        own, raw = panel.xs(symbol, level="symbol"), module.load()
        np.testing.assert_array_equal(own[list(bars)], raw[["Open", "High", "Low", "Close", "Volume"]])
        days = own.index.tz_localize(None)
        for name, series in (("vix", vix.load().iloc[:, 0]), ("wti", wti.load().iloc[:, 0])):
            np.testing.assert_array_equal(own[name], [series.get(day, np.nan) for day in days])
    assert panel.vix[:"2013"].isna().all() and panel.vix["2014":].notna().mean() > .95 and panel.wti.isna().any()


# ---- the planted market

def test_the_planted_ic_is_the_stated_one():
    found = []
    for seed in range(12):
        panel = load_market("planted", n_bars=500, seed=seed)
        signal, returns = planted_signal(panel).unstack(), panel.close.unstack().pct_change().shift(-1)
        found.append([signal.corrwith(returns, axis=1).mean(), signal.corrwith(returns).mean(), signal.stack().std(), returns.stack().std()])
    cross_section, over_time, spread, volatility = np.mean(found, axis=0)
    error = 1/np.sqrt(12*500*40)  # of a mean correlation
    assert abs(cross_section - .08) < 4*error and abs(over_time - .08) < 4*error
    assert abs(spread - 1) < .01 and abs(volatility/.015 - 1) < .01


def test_nothing_is_planted_at_ic_zero_and_a_signal_never_sees_its_own_future():
    null = load_market("planted", n_bars=2000, ic=0)
    returns = null.close.unstack().pct_change().shift(-1).stack()
    assert abs(planted_signal(null).corr(returns)) < 4/np.sqrt(80_000)
    panel = load_market("planted", n_symbols=3, n_bars=60)
    cut = panel[:panel.index.levels[0][40]]
    pd.testing.assert_series_equal(planted_signal(cut), planted_signal(panel).loc[cut.index])


def test_planted_bars_are_seeded_and_options_are_checked():
    panel = load_market("planted", n_symbols=4, n_bars=30, seed=3)
    same(panel, load_market("planted", n_symbols=4, n_bars=30, seed=3))
    assert not panel.equals(load_market("planted", n_symbols=4, n_bars=30, seed=4))
    assert len(panel) == 120 and panel.attrs["source"]["truth"]["ic"] == .08
    for options, match in (({"n_symbols": 0}, "n_symbols is a whole number"), ({"n_bars": 2.5}, "n_bars"), ({"ic": 1}, "true IC"),
                           ({"volatility": .5}, "volatility"), ({"n_symbol": 3}, "n_symbols")):
        with pytest.raises(InputError, match=match): load_market("planted", **options)


# ---- one panel from every kind of table

def as_csv(panel, folder):
    panel.reset_index().to_csv(path := folder/"bars.csv", index=False)
    return path

def as_gzip(panel, folder):
    (path := folder/"bars.csv.gz").write_bytes(gzip.compress(panel.reset_index().to_csv(index=False).encode()))
    return str(path)

def as_parquet(panel, folder):
    panel.reset_index().to_parquet(path := folder/"bars.parquet")
    return path

def as_indexed_parquet(panel, folder):
    panel.to_parquet(path := folder/"indexed.PARQUET")
    return str(path)

def as_pandas(panel, folder): return panel
def as_flat_pandas(panel, folder): return panel.reset_index().sample(frac=1, random_state=0)
def as_objects(panel, folder): return panel.reset_index().astype(object)
def as_arrow(panel, folder): return panel.reset_index().convert_dtypes(dtype_backend="pyarrow")
def as_categorical(panel, folder): return panel.reset_index().astype({"symbol": "category"})
def as_new_york(panel, folder): return panel.tz_convert("America/New_York", level="timestamp")
def as_nanoseconds(panel, folder): return panel.reset_index().astype({"timestamp": "datetime64[ns, UTC]"})
def as_polars(panel, folder): return from_frame(panel)
def as_lazy(panel, folder): return from_frame(panel).lazy()
def as_polars_categorical(panel, folder): return from_frame(panel).with_columns(pl.col("symbol").cast(pl.Categorical))
def as_epoch(panel, folder): return from_frame(panel).with_columns(pl.col("timestamp").dt.epoch("ms"))
def as_float_epoch(panel, folder): return from_frame(panel).with_columns(pl.col("timestamp").dt.epoch("s").cast(pl.Float64))
def as_compact_dates(panel, folder): return from_frame(panel).with_columns(pl.col("timestamp").dt.strftime("%Y%m%d").cast(pl.Int32))
def as_dates(panel, folder): return from_frame(panel).with_columns(pl.col("timestamp").dt.date())

shapes = [as_csv, as_gzip, as_parquet, as_indexed_parquet, as_pandas, as_flat_pandas, as_objects, as_arrow, as_categorical, as_new_york, as_nanoseconds,
          as_polars, as_lazy, as_polars_categorical, as_epoch, as_float_epoch, as_compact_dates, as_dates]

@pytest.mark.parametrize("shape", shapes, ids=lambda shape: shape.__name__)
def test_every_kind_of_table_gives_the_identical_panel(shape, small, tmp_path):
    small.iloc[4, 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        panel = load_market(shape(small, tmp_path))
    same(panel, small)
    assert panel.index.is_monotonic_increasing


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["B", "a", "NA", "000001", "é", "nan"])), min_size=1, max_size=25),
       st.sampled_from(["Date", "TIMESTAMP", "ts", "<Datetime>"]), st.sampled_from(["Ticker", "symbol", "ASSET"]), st.data())
def test_any_order_and_any_spelling_gives_the_sorted_panel(rows, time, symbol, data):
    table = pl.DataFrame({time: [f"2024-01-{day + 1:02}" for day, _ in rows], symbol: [name for _, name in rows],
                          **{spelled: [float(i) for i in range(len(rows))] for spelled in ("O", "High", "l", "CLOSE", "Vol.")}})
    table = table.select(data.draw(st.permutations(table.columns)))
    panel = load_market(table)
    expected = sorted((pd.Timestamp(f"2024-01-{day + 1:02}", tz="UTC"), name) for day, name in rows)
    assert list(panel.index) == expected
    order = sorted(range(len(rows)), key=lambda i: (rows[i], i))
    assert panel.close.tolist() == order
    same(load_market(pl.read_csv(table.write_csv().encode(), infer_schema=False)), panel)


# ---- what is said

def test_the_map_names_every_column_and_what_was_left_out():
    table = pl.DataFrame({"": [0, 1], "Date": ["2024-01-02", "2024-01-03"], "O": [1., 1], "H": [2., 2], "L": [1., 1], "C": [2., 2], "Adj Close": [1., 1],
                          "Volume": [5, 6], "Sector": ["x", "y"], "P/E": [10, None], "Halted": [True, False], "Empty": [None, None]})
    panel = load_market(table, symbol="ACME")
    assert list(panel.columns) == [*bars, "p_e", "halted", "empty"]
    source = panel.attrs["source"]
    assert source["columns"] == {"Date": "timestamp", "O": "open", "H": "high", "L": "low", "C": "close", "Volume": "volume",
                                 "P/E": "p_e", "Halted": "halted", "Empty": "empty"}
    assert source["notes"]["Date"] == "naive, taken as UTC" and "ACME" in source["notes"]["symbol"]
    assert "adjusted=True" in source["notes"]["Adj Close"] and "no numbers" in source["notes"]["Sector"] and source["notes"][""] == "left out"
    assert set(describe_source(panel).index) == {*table.columns, "symbol"}
    with pytest.raises(InputError, match="recorded by load_market"): describe_source(pd.DataFrame())


def test_an_aware_timestamp_gets_no_note(small):
    assert load_market(small).attrs["source"]["notes"] == {}


def test_adjusted_closes():
    table = pl.DataFrame({"Date": ["2024-01-02", "2024-01-03"], "Open": [8., 8], "High": [12., 12], "Low": [8., 8], "Close": [10., 10], "AdjClose": [5., 10], "Volume": [1, 1]})
    assert load_market(table).close.tolist() == [10, 10]
    scaled = load_market(table, adjusted=True)
    assert scaled.iloc[0].tolist() == [4, 6, 4, 5, 1] and scaled.iloc[1].tolist() == [8, 12, 8, 10, 1]
    assert "scaled" in scaled.attrs["source"]["notes"]["AdjClose"]
    only = load_market(table.drop("Close"))
    assert only.close.tolist() == [5, 10] and only.attrs["source"]["columns"]["AdjClose"] == "close" and "adjusted" in only.attrs["source"]["notes"]["AdjClose"]
    with pytest.raises(InputError, match="needs both"): load_market(table.drop("AdjClose"), adjusted=True)


def test_the_readers_own_map_wins():
    table = pl.DataFrame({"When": ["2024-01-02"], "Code": ["X"], "Open": [1.], "High": [1.], "Low": [1.], "Close": [9.], "Settle": [1.], "Volume": [1]})
    panel = load_market(table, columns={"When": "timestamp", "Code": "symbol", "Settle": "close", "Close": None})
    assert panel.close.tolist() == [1.] and panel.index[0][1] == "X" and "Close" not in panel.attrs["source"]["columns"]
    with pytest.raises(UnknownNameError, match="Clsoe.*Close"): load_market(table, columns={"Clsoe": "close"})


@pytest.mark.parametrize("name, symbol", [("AAPL.csv", "AAPL"), ("BRK.B.csv", "BRK.B"), ("spx.csv.gz", "spx"), ("X.parquet", "X")])
def test_a_file_without_symbols_is_named_after_itself(name, symbol, small, tmp_path):
    one = small.xs("P00", level="symbol").reset_index()
    path = tmp_path/name
    one.to_parquet(path) if name.endswith("parquet") else one.to_csv(path, index=False)
    assert list(load_market(path).index.levels[1]) == [symbol]
    assert list(load_market(path, symbol="Q").index.levels[1]) == ["Q"]
    assert list(load_market(one).index.levels[1]) == ["asset"]


def test_separator_and_other_endings(small, tmp_path):
    small.reset_index().to_csv(path := tmp_path/"bars.txt", index=False, sep=";")
    same(load_market("csv", path=path, separator=";"), small)
    with pytest.raises(InputError, match=r"ends in .csv.*load_market\('csv', path"): load_market(path)
    with pytest.raises(InputError, match="ends in .csv"): load_market(str(path))
    with pytest.raises(InputError, match="separator=';'"): load_market("csv", path=path)


def test_a_byte_order_mark_and_windows_lines_are_no_obstacle(small, tmp_path):
    text = small.reset_index().to_csv(index=False).replace("\n", "\r\n")
    (path := tmp_path/"bars.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    same(load_market(path), small)


# ---- a part of the bars

def test_periods_are_inclusive_and_a_date_is_its_whole_day():
    times = pd.date_range("2024-01-01", periods=96, freq="h", tz="UTC")
    table = pd.DataFrame({"timestamp": np.repeat(times, 2), "symbol": ["A", "B"]*96, **{name: 1. for name in bars}})
    day = load_market(table, start="2024-01-02", end="2024-01-02")
    assert len(day) == 48 and day.index[0][0] == times[24] and day.index[-1][0] == times[47]
    assert len(load_market(table, start=times[3], end=times[5].tz_localize(None), symbols="B")) == 3
    assert load_market(table, symbols=["B"]).index.levels[1].tolist() == ["B"]
    assert len(load_market(table, end="2024")) == 192
    for options, match in (({"start": "2025"}, "at least one bar.*2024-01-04"), ({"symbols": ["C"]}, "No symbol"), ({"start": "soon"}, "timestamps"), ({"symbols": []}, "at least one bar"),
                           ({"start": "2024-01-03", "end": "2024-01-02"}, "at least one bar"), ({"start": object()}, "timestamps")):
        with pytest.raises(InputError, match=match): load_market(table, **options)


# ---- what is refused at the door

header = "Date,Open,High,Low,Close,Volume\n"
bad_files = {
    "empty": ("", "0 bytes"),
    "header only": (header, "rows below its header"),
    "wrong column": (header.replace("Close", "Clsoe") + "2024-01-02,1,1,1,1,1\n", r"missing: close; got .*'Clsoe'.*columns="),
    "no timestamp": (header.replace("Date", "When") + "2024-01-02,1,1,1,1,1\n", "missing: timestamp"),
    "text": (header + "2024-01-02,1,1,1,1,1\n2024-01-03,1,1,1,abc,1\n2024-01-04,1,x,1,1,1\n", r"'High' has 'x' in row 3; 'Close' has 'abc' in row 2"),
    "much text": (header + "2024-01-02,1,1,1,#1,1\n"*9, r"'#1' in row 1, '#1' in row 2, '#1' in row 3 and 6 more"),
    "american dates": (header + "01/31/2024,1,1,1,1,1\n", r"readable 'Date'; 1 rows.*row 1.*01/31/2024.*timestamp_format"),
    "no date": (header + "2024-01-02,1,1,1,1,1\n,1,1,1,1,1\n", "readable 'Date'.*row 2.*null"),
    "mixed zones": (header + "2024-01-02 10:00Z,1,1,1,1,1\n2024-01-02 11:00,1,1,1,1,1\n", "time zone"),
    "ragged": (header + "2024-01-02,1,1,1,1,1,7,8\n", "readable CSV"),
    "twice": (header.replace("Open", "Close") + "2024-01-02,1,1,1,1,1\n", "each column once.*Close"),
    "two closes": (header.replace("Open", "C").replace("Close", "c") + "2024-01-02,1,1,1,1,1\n", r"One column gives the close.*\['C', 'c'\]"),
    "no symbol": ("Symbol," + header + ",2024-01-02,1,1,1,1,1\n", "readable 'Symbol'.*row 1"),
    "damaged extra": (header.strip() + ",VIX\n2024-01-02,1,1,1,1,1,13\n2024-01-03,1,1,1,1,1,#\n", "'VIX' has '#' in row 2"),
}

@pytest.mark.parametrize("case", bad_files)
def test_a_bad_file_is_refused_by_name(case, tmp_path):
    text, match = bad_files[case]
    (path := tmp_path/"bad.csv").write_text(text)
    with pytest.raises(InputError, match=match): load_market(path)


def test_files_that_are_none(tmp_path):
    for ending in ("csv", "csv.gz", "parquet"):
        with pytest.raises(InputError, match=f"exists; got '.*absent.{ending}'"): load_market(tmp_path/f"absent.{ending}")
    (tmp_path/"folder.csv").mkdir()
    with pytest.raises(InputError, match="It holds no files"): load_market(tmp_path/"folder.csv")
    for name, content in (("a.parquet", b"no parquet"), ("b.csv.gz", b"\x1f\x8bno gzip"), ("c.csv", header.encode() + b"2024-01-02,\xff\xfe,1,1,1,1\n")):
        (tmp_path/name).write_bytes(content)
        with pytest.raises(InputError, match="is readable|'.*' in row 1"): load_market(tmp_path/name)


def test_sources_and_options_that_are_none(small):
    with pytest.raises(UnknownNameError, match="us_indicies.*us_indices"): load_market("us_indicies")
    with pytest.raises(InputError, match="registered name, a path, a frame or a dictionary of frames; got 'int'"): load_market(42)
    with pytest.raises(InputError, match="got 'NoneType'"): load_market(None)
    with pytest.raises(UnknownNameError, match="separater.*separator"): load_market("csv", path="x.csv", separater=";")
    with pytest.raises(UnknownNameError, match="colums.*columns"): load_market(small, colums={})
    with pytest.raises(InputError, match="reads a path"): load_market("parquet")
    with pytest.raises(InputError, match="different names.*close"): load_market(small.reset_index().rename(columns={"open": "close"}))
    with pytest.raises(InputError, match="strptime"): load_market(pl.DataFrame({"date": ["x"], **{name: [1.] for name in bars}}), timestamp_format="%Q")


@given(st.lists(st.one_of(st.floats(allow_nan=False, allow_infinity=False).map(repr), st.integers(-10**9, 10**9).map(str),
                          st.sampled_from(["", "NA", " nan ", "NULL", "1,5", "abc", "--", "1 000"])), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_numbers_are_what_python_reads_and_the_rest_is_found(texts):
    values, wrong = read_numbers(pl.Series(texts))
    for row, text in enumerate(texts):
        mark = text.strip().lower() in ("", "na", "nan", "null")
        try: expected = float("nan") if mark else float(text)
        except ValueError: assert row in wrong; continue
        assert row not in wrong and (np.isnan(values[row]) if mark else values[row] == pytest.approx(expected, rel=1e-15))


@pytest.mark.parametrize("unit, per_second", [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
@pytest.mark.parametrize("year", [1980, 2024, 2100])
def test_the_unit_of_epoch_numbers_follows_from_their_size(unit, per_second, year):
    moment = pd.Timestamp(year, 5, 6, 7, 8, 9, tz="UTC")
    number = int(moment.timestamp())*per_second
    for column in (pl.Series([number]), pl.Series([str(number)])):
        micro, note = read_times(column)
        assert pd.Timestamp(micro[0], unit="us", tz="UTC") == moment and f"as {unit} since" in note


def test_symbols_of_a_file_are_text(tmp_path):
    (path := tmp_path/"bars.csv").write_text("ticker," + header + "".join(f"{name},2024-01-02,1,1,1,1,1\n" for name in ("000001", "NA", "1e5", "nan", "TRUE")))
    assert list(load_market(path).index.levels[1]) == ["000001", "1e5", "NA", "TRUE", "nan"]
    path.write_text("ticker," + header + "000001,2024-01-02,1,1,1,1,1\n")
    assert list(load_market(path).index.levels[1]) == ["000001"]


def test_columns_of_no_values_and_no_rows():
    assert read_times(pl.Series([None, None]))[0].null_count() == 2
    with pytest.raises(InputError, match="readable 'date'"): load_market(pl.DataFrame({"date": [None], **{name: [1.] for name in bars}}))
    with pytest.raises(InputError, match="missing"): load_market(pd.DataFrame())


# ---- real bars

def test_a_large_file_needs_about_the_memory_of_its_bars():
    panel = load_market(real_file("us_liquid500_2005_2017_clean.parquet"))
    assert len(panel) == 1_600_752 and panel.index.is_monotonic_increasing and panel.index.is_unique
    assert panel.memory_usage(deep=True).sum() < 1.3*panel.to_numpy().nbytes
    raw = pl.read_parquet(real_file("us_liquid500_2005_2017_clean.parquet")).filter(pl.col("symbol") == "AAPL").sort("date")
    np.testing.assert_array_equal(panel.xs("AAPL", level="symbol").close, raw["close"].cast(pl.Float64))


def test_hourly_bars_with_gaps():
    panel = load_market(real_file("binance_spot_1h.parquet"), symbols=["BTCUSDT", "ETHUSDT"], start="2018")
    assert check_panel(panel) is panel and panel.attrs["source"]["columns"]["ts"] == "timestamp" and panel.attrs["source"]["notes"] == {}
