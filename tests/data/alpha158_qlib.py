"""Makes alpha158_qlib.parquet: generated bars and what Qlib's Alpha158 says of them

    python alpha158_qlib.py     in an environment with pyqlib 0.9.7
"""
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import qlib
from qlib.contrib.data.loader import Alpha158DL
from qlib.data import D

columns, days = ["open", "high", "low", "close", "volume", "vwap"], pd.bdate_range("2021-01-04", periods=96)


def bars(rng, n):
    "A price with bars around it, good for float32"
    close = 50*np.exp(np.cumsum(rng.normal(0, 0.02, n)))
    start = np.r_[50, close[:-1]]*np.exp(rng.normal(0, 0.007, n))
    high, low = np.maximum(start, close)*np.exp(abs(rng.normal(0, 0.01, n))), np.minimum(start, close)*np.exp(-abs(rng.normal(0, 0.01, n)))
    table = pd.DataFrame({"open": start, "high": high, "low": low, "close": close, "volume": np.round(np.exp(rng.normal(13, 0.5, n)))})
    return table.assign(vwap=table[["high", "low", "close"]].mean(axis=1)*np.exp(rng.normal(0, 0.002, n)))


def generated():
    "Three symbols: a usual one that is listed late, one full of ties, one with frozen prices and days without volume"
    rng = np.random.default_rng(158)
    usual, ties, edges = bars(rng, 90), bars(rng, 96), bars(rng, 96)
    ties[columns] = ties[columns].round(dict.fromkeys(columns, 0)).assign(volume=ties["volume"].round(-5))
    edges.loc[[10, 25, 26], ["open", "high", "low", "vwap"]] = np.repeat(edges.loc[[10, 25, 26], ["close"]].to_numpy(), 4, axis=1)
    edges.loc[70:79, columns[:4] + ["vwap"]] = 47.0
    edges.loc[[5, 12, 13], "volume"] = 0.0
    tables = {"USUAL": usual.set_axis(days[6:]), "TIES": ties.set_axis(days), "EDGES": edges.set_axis(days)}
    return {symbol: table.astype("float32") for symbol, table in tables.items()}


def stored(tables, folder):
    "Qlib's store: a calendar, the symbols' first and last days, a file of float32 per symbol and column"
    for name in ("calendars", "instruments"): (folder/name).mkdir()
    (folder/"calendars"/"day.txt").write_text("\n".join(f"{day:%Y-%m-%d}" for day in days) + "\n")
    (folder/"instruments"/"all.txt").write_text("".join(f"{symbol}\t{table.index[0]:%Y-%m-%d}\t{table.index[-1]:%Y-%m-%d}\n" for symbol, table in tables.items()))
    for symbol, table in tables.items():
        place = folder/"features"/symbol.lower()
        place.mkdir(parents=True)
        for name in columns: np.r_[days.get_loc(table.index[0]), table[name]].astype("<f4").tofile(place/f"{name}.day.bin")


if __name__ == "__main__":
    np.seterr(all="ignore")
    tables = generated()
    with TemporaryDirectory() as folder:
        stored(tables, Path(folder))
        qlib.init(provider_uri=folder, region="us", expression_cache=None, dataset_cache=None, kernels=1, logging_level=logging.ERROR)
        formulas, names = Alpha158DL.get_feature_config()
        found = D.features(D.instruments("all"), formulas, freq="day", disk_cache=0).set_axis(names, axis=1)
    panel = pd.concat(tables, names=["symbol", "timestamp"])
    found.index = found.index.set_names(["symbol", "timestamp"])
    long = panel.join(found).reset_index().melt(["symbol", "timestamp"], var_name="column")
    long.to_parquet(Path(__file__).with_suffix(".parquet"), index=False, compression="zstd", compression_level=22, use_dictionary=["symbol", "timestamp", "column"],
                    column_encoding={"value": "BYTE_STREAM_SPLIT"})
