"""Quality: every defect named, none repaired unasked, and two sources held against each other"""
import math
import warnings
from statistics import median

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from conftest import real_file
from alphaplus_ml.core import InputError, UnknownNameError
from alphaplus_ml.market.anomalies import _joint_pauses, decimal_powers, log_bars, robust_spread
from alphaplus_ml.market.cross_check import cross_check
from alphaplus_ml.market.panel import bars
from alphaplus_ml.market.quality import QualityReport, check_panel, describe_repairs, numbers, quality_repairs, quality_report, quality_rules, require_panel
from alphaplus_ml.market.sources import load_market

same = pd.testing.assert_frame_equal
prices = list(bars[:4])
moves = {"decimal_shift", "spikes", "stale", "gaps"}
quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=[Phase.explicit, Phase.generate])  # a failing panel is small already


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def small():
    return load_market("planted", n_symbols=3, n_bars=12)


@pytest.fixture(scope="module")
def market():
    return load_market("planted", n_symbols=10, n_bars=300)


def of_symbol(panel, symbol): return np.flatnonzero(panel.index.get_level_values(1) == symbol)


def spoil(panel, symbol, where, columns, factor):
    "A copy with some of a symbol's cells multiplied"
    panel = panel.copy()
    panel.iloc[of_symbol(panel, symbol)[where], [panel.columns.get_loc(name) for name in columns]] *= factor
    return panel


def flags(panel, rule):
    "The keys that a rule flags"
    rows = quality_report(panel).rows
    return set(panel.index[rows[rows.rule == rule]["row"]])


def broken(panel, row, column, value):
    panel = panel.copy()
    panel[column] = panel[column].astype(object) if isinstance(value, str) else panel[column]
    panel.iloc[row, panel.columns.get_loc(column)] = value
    return panel


# ---- cells and shape

def oracle(panel):
    "Broken rows by rule, cell by cell"
    found = {}
    add = lambda rule, row: found.setdefault(rule, set()).add(row)
    seen, previous = set(), None
    for row, key in enumerate(panel.index):
        values = dict(zip(panel.columns, panel.iloc[row]))
        known = [values[name] for name in prices if values[name] == values[name]]
        if key in seen: add("unique", row)
        seen.add(key)
        if previous is not None and key < previous: add("sorted", row)
        previous = key
        if len(known) < 4: add("nulls", row)
        if any(abs(value) == np.inf for value in values.values()): add("finite", row)
        if any(price <= 0 for price in known): add("positive", row)
        if values["volume"] < 0: add("volume", row)
        if values["volume"] == 0 or values["volume"] != values["volume"]: add("traded", row)
        if any(price > values["high"] or price < values["low"] for price in known): add("high_low", row)
    return found


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_report_is_what_a_loop_over_the_cells_finds(data):
    panel = load_market("planted", n_symbols=3, n_bars=6)
    for row, column, value in data.draw(st.lists(st.tuples(st.integers(0, 17), st.integers(0, 4), st.sampled_from([0., -1., np.nan, np.inf, 1e6])), max_size=6)):
        panel.iloc[row, column] = value
    panel = panel.iloc[data.draw(st.one_of(st.just(list(range(18))), st.lists(st.integers(0, 17), min_size=8, max_size=20)))]
    expected, report = oracle(panel), quality_report(panel)
    findings = report.findings[~report.findings.rule.isin({"length", *moves})]
    assert set(findings.rule) == set(expected)
    for rule, rows in expected.items():
        assert set(report.rows["row"][report.rows.rule == rule]) == rows
        of_rule = findings[findings.rule == rule].set_index("symbol")
        symbols = pd.Series([panel.index[row][1] for row in sorted(rows)])
        assert of_rule["count"].to_dict() == symbols.value_counts().to_dict()
        for symbol in of_rule.index:
            first = min(row for row in rows if panel.index[row][1] == symbol)
            assert of_rule.timestamp[symbol] == panel.index[first][0]
    if set(expected) <= {"traded"} and "length" not in set(report.findings.rule): assert check_panel(panel) is panel
    else:
        with pytest.raises(InputError) as error: check_panel(panel)
        assert all(f"\n  {rule}: " in str(error.value) for rule in set(expected) - {"traded"}) and "traded" not in str(error.value)
        same(error.value.report.findings, report.findings)


defects = {
    "missing columns": (lambda p: p.drop(columns=["close", "volume"]), "columns", "missing: close, volume; there are: open, high, low"),
    "text": (lambda p: broken(p, 4, "close", "n/a?"), "numbers", "P01 2015-01-02.*close='n/a\\?'"),
    "duplicate": (lambda p: pd.concat([p, p.iloc[[5]]]).sort_index(), "unique", "P02 2015-01-02"),
    "null": (lambda p: broken(p, 7, "low", np.nan), "nulls", "P01 2015-01-05.*low=nan"),
    "infinite": (lambda p: broken(p, 7, "volume", np.inf), "finite", "P01 2015-01-05.*volume=inf"),
    "zero price": (lambda p: broken(p, 8, "low", 0.), "positive", "P02 2015-01-05.*low=0"),
    "high below close": (lambda p: broken(p, 8, "high", 1.), "high_low", "P02 2015-01-05.*high=1"),
    "low above open": (lambda p: broken(p, 0, "low", 1e5), "high_low", "P00 2015-01-01"),
    "negative volume": (lambda p: broken(p, 1, "volume", -5.), "volume", "P01 2015-01-01.*volume=-5"),
    "unsorted": (lambda p: p.iloc[::-1], "sorted", "35 in 3 symbol"),
    "naive": (lambda p: p.tz_localize(None, level="timestamp"), "utc", "naive"),
    "another zone": (lambda p: p.tz_convert("Asia/Tokyo", level="timestamp"), "utc", "Asia/Tokyo"),
    "one row": (lambda p: p.iloc[:1], "length", "one timestamp only \\(1 row\\)"),
    "one timestamp": (lambda p: p.iloc[:3], "length", "3 rows"),
    "empty": (lambda p: p.iloc[:0], "length", "no rows"),
    "no key": (lambda p: p.set_axis(p.index.set_codes([-1] + [1]*35, level=1, verify_integrity=False)), "keys", "1 in 1 symbol"),
}

@pytest.mark.parametrize("case", defects)
def test_each_defect_is_refused_by_rule_and_place(case, small):
    spoiled, rule, match = defects[case]
    with pytest.raises(InputError, match=f"(?s){rule}: .*{match}") as error: check_panel(spoiled(small))
    assert rule in set(error.value.report.errors.rule)


def test_every_rule_has_a_case_a_severity_and_known_repairs():
    assert {rule for _, rule, _ in defects.values()} == {name for name in quality_rules if quality_rules.facts(name)["severity"] == "error"}
    assert {name for name in quality_rules if quality_rules.facts(name)["severity"] == "warning"} == {"traded", *moves}
    for name in quality_rules:
        facts = quality_rules.facts(name)
        assert facts["about"] in ("panel", "rows") and quality_rules[name].__doc__ and set(facts["repairs"]) <= set(quality_repairs)


sick = {
    "sound": lambda p: p, "empty": lambda p: p.iloc[:0], "one row": lambda p: p.iloc[:1], "no columns": lambda p: p[[]], "closes only": lambda p: p[["close"]],
    "no close": lambda p: p.drop(columns="close"), "naive": lambda p: p.tz_localize(None, level=0), "reversed": lambda p: p.iloc[::-1],
    "twice": lambda p: pd.concat([p, p]), "all text": lambda p: p.astype(str).replace(r"^", "x", regex=True), "all null": lambda p: p*np.nan, "zeros": lambda p: p*0,
    "infinite": lambda p: p*np.inf, "constant": lambda p: p*0 + 7., "whole numbers": lambda p: p.round().astype(int), "nanoseconds": lambda p: p.set_axis(p.index.set_levels(p.index.levels[0].as_unit("ns"), level=0)),
    "no keys": lambda p: p.set_axis(p.index.set_codes(np.full(len(p), -1), level=1, verify_integrity=False)),
    "no times": lambda p: p.set_axis(p.index.set_codes(np.r_[-1, p.index.codes[0][1:]], level=0, verify_integrity=False)),
    "unused levels": lambda p: p[p.index.get_level_values(1) == "P01"], "tiny": lambda p: p*1e-300, "huge": lambda p: p*1e300,
}

@pytest.mark.parametrize("case", sick)
def test_every_rule_survives_every_sick_panel_and_leaves_it_alone(case, small):
    panel = sick[case](small)
    before, report = panel.copy(), quality_report(panel)
    same(panel, before)
    assert str(report).startswith(f"{len(panel):,} rows") and report.plot().axes
    assert len(report.errors) + len(report.warnings) == len(report.findings)
    rows = report.findings[report.findings.rule.isin([name for name in quality_rules if quality_rules.facts(name)["about"] == "rows"])]
    if "no keys" not in case: assert rows["count"].sum() == len(report.rows)
    for name in quality_rules:
        found = quality_rules[name](panel)
        if quality_rules.facts(name)["about"] == "rows": assert found.index is panel.index or found.index.equals(panel.index)


@pytest.mark.parametrize("name", quality_rules)
def test_a_rule_finds_nothing_in_sound_bars(name, market):
    found = quality_rules[name](market)
    assert found == [] if quality_rules.facts(name)["about"] == "panel" else not found.to_numpy().any()


def test_what_is_no_panel_is_refused_before_the_rules(small):
    for wrong, match in ((small.close, "DataFrame"), (None, "NoneType"), (small.reset_index(), "timestamp and symbol"), (small.droplevel("symbol"), "timestamp and symbol"),
                         (small.rename(columns={"open": "close"}), "different names"),
                         (small.set_axis(pd.MultiIndex.from_product([["a", "b"]*6, ["x", "y", "z"]], names=["timestamp", "symbol"])), "are times")):
        for function in (require_panel, quality_report, check_panel, lambda p: cross_check(p, small), lambda p: cross_check(small, p)):
            with pytest.raises(InputError, match=match): function(wrong)


def test_text_does_not_hide_other_defects(small):
    panel = broken(small, 0, "close", "oops").assign(high=0.)
    assert {"numbers", "positive", "high_low"} <= set(quality_report(panel).findings.rule)
    assert np.isnan(numbers(panel).close.iloc[0])


def test_a_row_names_all_its_columns_and_its_place(small):
    panel = broken(broken(small, 4, "open", np.nan), 4, "low", np.nan).iloc[::-1]
    report = quality_report(panel)
    [row] = report.rows[report.rows.rule == "nulls"].to_dict("records")
    assert row == {"rule": "nulls", "symbol": "P01", "timestamp": small.index[4][0], "columns": "open low", "row": len(panel) - 5}


# ---- repairs

repairable = {
    ("utc", "utc"): defects["another zone"][0], ("keys", "drop"): lambda p: p.set_axis(p.index.set_codes(np.r_[-1, p.index.codes[1][1:]], level=1, verify_integrity=False)), ("numbers", "drop"): defects["text"][0], ("nulls", "drop"): defects["null"][0],
    ("finite", "drop"): defects["infinite"][0], ("positive", "drop"): defects["zero price"][0], ("volume", "drop"): defects["negative volume"][0],
    ("high_low", "drop"): defects["high below close"][0], ("high_low", "widen"): defects["low above open"][0], ("traded", "drop"): lambda p: broken(p, 1, "volume", 0.),
    ("unique", "keep_first"): defects["duplicate"][0], ("unique", "keep_last"): defects["duplicate"][0], ("sorted", "sort"): defects["unsorted"][0],
    ("decimal_shift", "drop"): lambda p: spoil(p, "P01", [5], prices, 10), ("decimal_shift", "scale"): lambda p: spoil(p, "P01", [5], prices, 10),
    ("spikes", "drop"): lambda p: spoil(p, "P01", [5], prices, 1.5), ("stale", "drop"): lambda p: p.assign(**{name: p[name].where(p.index.get_level_values(1) != "P01", 90.) for name in prices}),
}

@pytest.mark.parametrize("rule, repair", repairable)
def test_each_repair_mends_its_rule_and_is_on_record(rule, repair, small):
    panel = repairable[rule, repair](small)
    found, before = quality_report(panel), panel.copy()
    assert rule in set(found.findings.rule)
    others = {name for name in found.errors.rule if name != rule}
    asked = {rule: repair} | ({"unique": "keep_first"} if "unique" in others else {})
    repaired = check_panel(panel, repair=asked)
    same(panel, before)
    assert "repairs" not in panel.attrs and rule not in set(quality_report(repaired).findings.rule)
    [line] = [line for line in repaired.attrs["repairs"] if line["rule"] == rule]
    flagged = set(found.rows["row"][found.rows.rule == rule])
    assert line == {"rule": rule, "repair": repair, "rows": len(flagged) if flagged else len(panel)}
    if repair == "drop": same(repaired, panel.iloc[[k for k in range(len(panel)) if k not in flagged]].infer_objects())


def test_every_repair_of_every_rule_has_a_case():
    assert set(repairable) == {(rule, repair) for rule in quality_rules for repair in quality_rules.facts(rule)["repairs"]}
    assert set(quality_repairs) == {repair for _, repair in repairable}


def test_nothing_is_repaired_that_was_not_asked_for(small):
    panel = broken(broken(small, 4, "open", np.nan), 7, "high", 1.)
    with pytest.raises(InputError, match="high_low") as error: check_panel(panel, repair={"nulls": "drop"})
    assert set(error.value.report.errors.rule) == {"high_low"} and error.value.report.panel.attrs["repairs"] == [{"rule": "nulls", "repair": "drop", "rows": 1}]
    assert "nulls" not in str(error.value) and "high_low: drop or widen" in str(error.value)
    assert check_panel(small) is small and describe_repairs(small).empty
    untouched = check_panel(small, repair={"nulls": "drop"})
    same(untouched, small)
    assert "repairs" not in small.attrs, "the record stays with the panel that comes back"
    assert describe_repairs(untouched).to_dict("records") == [{"rule": "nulls", "repair": "drop", "rows": 0}]


def test_a_row_that_is_wrong_in_itself_goes_before_one_of_two_is_chosen(small):
    first = broken(small, 4, "close", np.nan).iloc[[4]]
    repaired = check_panel(pd.concat([first, small]), repair={"sorted": "sort", "unique": "keep_first", "nulls": "drop"})
    same(repaired, small)
    assert [line["rule"] for line in repaired.attrs["repairs"]] == ["nulls", "unique", "sorted"]
    again = check_panel(repaired, repair={"traded": "drop"})
    assert [line["rule"] for line in again.attrs["repairs"]] == ["nulls", "unique", "sorted", "traded"]


def test_keep_first_and_keep_last_keep_what_they_say(small):
    doubled = pd.concat([small, small.iloc[[5]]*2])
    for name, factor in (("keep_first", 1), ("keep_last", 2)):
        repaired = check_panel(doubled, repair={"unique": name, "sorted": "sort"})
        same(repaired.iloc[[5]], small.iloc[[5]]*factor)


@pytest.mark.parametrize("repair, kind, match", [
    ({"spike": "drop"}, UnknownNameError, "Did you mean spikes"), ({"nulls": "interpolate"}, InputError, "allows the repairs drop; got 'interpolate'"),
    ({"gaps": "fill"}, InputError, "allows the repairs none"), ({"high_low": "scale"}, InputError, "drop, widen"), ("drop", InputError, "by rule"), ({"nulls": None}, InputError, "got ?|allows")])
def test_a_repair_that_there_is_not_is_refused_with_what_there_is(repair, kind, match, small):
    with pytest.raises(kind, match=match): check_panel(small, repair=repair)


def test_scale_restores_the_prices_and_leaves_a_shift_that_stays(market):
    shifted = spoil(spoil(spoil(market, "P01", [60], prices, 1000), "P02", slice(40, 55), prices, 0.01), "P03", [70], ["high"], 100)
    lasting = spoil(shifted, "P04", slice(200, None), prices, 0.1)
    repaired = check_panel(lasting, repair={"decimal_shift": "scale"})
    np.testing.assert_allclose(repaired.drop("P04", level=1), market.drop("P04", level=1), rtol=1e-14)
    same(repaired.xs("P04", level=1), lasting.xs("P04", level=1), check_exact=True)
    assert describe_repairs(repaired)["rows"].tolist() == [17] and flags(repaired, "decimal_shift") == {market.index[of_symbol(market, "P04")[200]]}


# ---- movement: each rule against a loop over the rows

def lines_by_loop(panel):
    "Per symbol the rows (position, timestamp, log prices) that have keys and sound prices, the first of each key"
    order, seen = {}, set()
    for row, (time, symbol) in enumerate(panel.index):
        if time is pd.NaT or symbol is None or symbol != symbol or (time, symbol) in seen: continue
        seen.add((time, symbol))
        values = [panel[name].iloc[row] for name in prices]
        order.setdefault(symbol, []).append((time, row, values))
    sound = lambda values: all(value == value and 0 < value < np.inf for value in values)
    return {symbol: [(time, row, [math.log(v) for v in values]) for time, row, values in sorted(rows, key=lambda x: x[0]) if sound(values)] for symbol, rows in order.items()}


def spread_by_loop(values):
    known = [value for value in values if value is not None]
    return 1.4826*median([abs(value - median(known)) for value in known]) if known else math.nan


def less_the_crowd(moved):
    "Moves by (symbol, place) with their time, less the median over the symbols of that time"
    at = {}
    for (_, time), value in moved.values():
        if value is not None: at.setdefault(time, []).append(value)
    return {key: None if value is None else value - median(at[time]) if len(at[time]) >= 5 else value for key, ((_, time), value) in moved.items()}


def spikes_by_loop(panel, shifted):
    lines, gap, step = lines_by_loop(panel), {}, {}
    for symbol, line in lines.items():
        for k, (time, _, (o, h, l, c)) in enumerate(line):
            before = line[k - 1][2][3] if k else None
            gap[symbol, k] = (symbol, time), None if before is None else o - before
            step[symbol, k] = (symbol, time), None if before is None else c - before
    own_gap, own_step, found = less_the_crowd(gap), less_the_crowd(step), set()
    for symbol, line in lines.items():
        gap_spread, step_spread = (spread_by_loop([moved[symbol, k][1] for k in range(len(line))]) for moved in (gap, step))
        for k in range(1, len(line) - 1):
            (_, _, (_, h0, l0, c0)), (_, row, (o, h, l, c)), (_, _, (o1, h1, l1, c1)) = line[k - 1:k + 2]
            a, b = own_gap[symbol, k], own_gap[symbol, k + 1]
            size = min(abs(a), abs(b))
            island = (l > max(h0, h1) or h < min(l0, l1)) and a*b < 0 and size > 6*gap_spread and size > step_spread and abs(a + b) < size
            away = [c - other for other in (o, c0, o1, c1)]
            size = max(min(away), min(-x for x in away))
            lone = size > 6*step_spread and min(abs(own_step[symbol, k]), abs(own_step[symbol, k + 1])) > size/2 and abs(c1 - c0) < size
            if (island or lone) and row not in shifted: found.add(row)
    return found


def power_by_loop(step):
    power = round(step/math.log(10))
    return power if power and abs(step - power*math.log(10)) < 0.2 else 0


def shifts_by_loop(panel):
    "Row to its powers of ten by column"
    found = {}
    for line in lines_by_loop(panel).values():
        jump = [0] + [power_by_loop(line[k][2][3] - line[k - 1][2][3]) for k in range(1, len(line))]
        level, k = [0]*len(line), 0
        while k < len(line):
            if not jump[k]:
                k += 1
                continue
            after = next((j for j in range(k + 1, len(line)) if jump[j]), None)
            back = after is not None and after - k <= 20 and jump[after] == -jump[k]
            for j in range(k, after if back else k + 1): level[j] = jump[k]
            k = after + 1 if back else k + 1
        for k, (_, row, values) in enumerate(line):
            powers = [level[k] + power_by_loop(value - values[3]) for value in values]
            if any(powers): found[row] = powers
    return found


def stale_by_loop(panel):
    found = set()
    for line in lines_by_loop(panel).values():
        runs, n = [], len(line)
        for k in range(1, n):
            if line[k][2][3] == line[k - 1][2][3]:
                if runs and runs[-1][-1] == k - 1: runs[-1].append(k)
                else: runs.append([k])
        longest = max(map(len, runs), default=0)
        share = min(max((sum(map(len, runs)) - longest)/max(n - longest, 1), 1e-9), 1 - 1e-9)
        for run in runs:
            if len(run) >= 4 and n*share**len(run) <= 0.01*(1 + 1e-12): found |= {line[k][1] for k in run}
    return found


def gaps_by_loop(panel):
    "Rows after a timestamp of the panel's calendar at which their symbol has no bar"
    keys = {}
    for row, (time, symbol) in enumerate(panel.index):
        if time is not pd.NaT and symbol == symbol: keys.setdefault(symbol, {}).setdefault(time, row)
    times, found = sorted({time for line in keys.values() for time in line}), set()
    alive = lambda time: [line for line in keys.values() if min(line) <= time <= max(line)]
    calendar = [time for time in times if 2*sum(time in line for line in alive(time)) >= len(alive(time))]
    for line in keys.values():
        own = sorted(line)
        found |= {line[now] for before, now in zip(own, own[1:]) if any(before < time < now for time in calendar)}
    return found


@st.composite
def sick_panels(draw):
    panel = load_market("planted", n_symbols=draw(st.sampled_from([1, 3, 6])), n_bars=36, seed=draw(st.integers(0, 5)))
    n = len(panel)
    rows, columns = st.integers(0, n - 1), st.sampled_from([prices, ["close"], ["high", "close"], ["low"], ["open"]])
    for row, names, factor in draw(st.lists(st.tuples(rows, columns, st.sampled_from([1.04, 1.2, 0.9, 0.5, 10, 0.01, 1000, np.nan, 0])), max_size=6)):
        panel.iloc[row, [panel.columns.get_loc(name) for name in names]] *= factor
    n_symbols = len(panel.index.levels[1])
    for row, length in draw(st.lists(st.tuples(rows, st.integers(2, 12)), max_size=2)):
        panel.iloc[row:row + length*n_symbols:n_symbols, :4] = panel.close.iloc[row]
    for row, length, power in draw(st.lists(st.tuples(rows, st.integers(2, 25), st.sampled_from([0.1, 100])), max_size=1)):
        panel.iloc[row:row + length*n_symbols:n_symbols, :4] *= power
    panel = panel.drop(index=panel.index[draw(st.lists(rows, max_size=5))])
    twins = draw(st.lists(st.integers(0, len(panel) - 1), max_size=3))
    panel = pd.concat([panel, panel.iloc[twins]*1.5])
    return panel.sample(frac=1, random_state=draw(st.integers(0, 99))) if draw(st.booleans()) else panel


@quick
@given(sick_panels())
def test_the_rules_of_movement_are_what_loops_over_the_rows_find(panel):
    rows = quality_report(panel).rows
    of_rule = lambda name: set(rows["row"][rows.rule == name])
    shifted = shifts_by_loop(panel)
    assert of_rule("decimal_shift") == set(shifted)
    powers = decimal_powers(panel)[0]
    assert {row: powers.iloc[row].tolist() for row in shifted} == shifted
    assert of_rule("spikes") == spikes_by_loop(panel, shifted)
    assert of_rule("stale") == stale_by_loop(panel)
    assert of_rule("gaps") == gaps_by_loop(panel)       # 36 business days are too short to judge a joint pause


# ---- movement: what it is to find, and what not

@pytest.mark.parametrize("name, spoiled, rule, where", [
    ("a whole bar up", lambda p: spoil(p, "P03", [90], prices, 1.1), "spikes", [("P03", 90)]),
    ("a whole bar down", lambda p: spoil(p, "P03", [90], prices, 0.9), "spikes", [("P03", 90)]),
    ("a close and its low", lambda p: spoil(p, "P03", [90], ["low", "close"], 0.85), "spikes", [("P03", 90)]),
    ("two symbols on one day", lambda p: spoil(spoil(p, "P03", [90], prices, 1.1), "P04", [90], prices, 0.9), "spikes", [("P03", 90), ("P04", 90)]),
    ("a bar of another decimal", lambda p: spoil(p, "P03", [90], prices, 10), "decimal_shift", [("P03", 90)]),
    ("20 bars in cents", lambda p: spoil(p, "P03", slice(90, 110), prices, 100), "decimal_shift", [("P03", k) for k in range(90, 110)]),
    ("one low", lambda p: spoil(p, "P03", [90], ["low"], 0.01), "decimal_shift", [("P03", 90)]),
    ("ten for one", lambda p: spoil(p, "P03", slice(90, None), prices, 0.1), "decimal_shift", [("P03", 90)]),
    ("a frozen feed", lambda p: p.assign(**{name: p[name].where(~p.index.isin(p.index[of_symbol(p, "P03")[90:100]]), 50.) for name in prices}), "stale", [("P03", k) for k in range(91, 100)]),
    ("three missing bars", lambda p: p.drop(index=p.index[of_symbol(p, "P03")[90:93]]), "gaps", [("P03", 93)]),
])
def test_a_planted_defect_is_found_and_nothing_else(name, spoiled, rule, where, market):
    panel = spoiled(market)
    keys = {market.index[of_symbol(market, symbol)[k]] for symbol, k in where}
    report = quality_report(panel)
    found = report.rows[report.rows.rule.isin(moves - {"spikes"} if rule == "stale" else moves)]   # a feed that freezes far from the price makes no spike, but it jumps
    assert set(found.rule) == {rule} and {panel.index[row] for row in found["row"]} == keys
    shuffled = panel.sample(frac=1, random_state=0)
    assert flags(shuffled, rule) == keys


@pytest.mark.parametrize("spoiled", [
    lambda p: spoil(p, "P03", slice(90, None), prices, 0.5), lambda p: spoil(p, "P03", slice(90, None), prices, 8), lambda p: spoil(p, "P03", slice(90, None), prices, 1/3),
    lambda p: p.mul(np.where(p.index.codes[0] == 90, 0.85, 1), axis=0),
    lambda p: p.drop(index=p.index[of_symbol(p, "P03")[:50]]).drop(index=p.index[of_symbol(p, "P04")[250:]]),
    lambda p: p.drop(index=p.index[p.index.codes[0] == 100]),
    lambda p: spoil(spoil(p, "P03", [90], ["high", "close"], 1.2), "P03", slice(91, None), prices, 0.6),
], ids=["split", "reverse split", "three for one", "a crash of all that comes back", "a listing and a delisting", "one holiday of all", "a rise and then a fall far below"])
def test_what_markets_do_is_not_flagged(spoiled, market):
    panel = spoiled(market)
    assert quality_report(panel).findings.empty


def flat_bars(moves):
    "One symbol's bars without any range: log closes from moves"
    close = 50*np.exp(np.cumsum(moves))
    index = pd.MultiIndex.from_product([pd.bdate_range("2020-01-01", periods=len(close), tz="UTC"), ["A"]], names=["timestamp", "symbol"])
    return pd.DataFrame({name: close for name in prices} | {"volume": 1.}, index=index)


@pytest.mark.parametrize("out, back, flagged", [(5.9, 5.9, False), (6.1, 6.1, True), (-6.1, -6.1, True), (20, 5.9, False), (13, 6.6, True), (13, 6.4, False), (6.6, 13, True), (6.4, 13, False), (8, -8, False)])
def test_how_large_a_spike_is_and_how_far_it_comes_back(out, back, flagged):
    moved = np.random.default_rng(3).normal(0, 0.01, 200)
    moved[99:103] = 0
    for _ in range(5):    # the two moves are part of the spread that they are measured in
        spread = robust_spread(moved, np.zeros(200, int))[0]
        moved[100:102] = out*spread, -back*spread
    panel = flat_bars(moved)
    assert flags(panel, "spikes") == ({panel.index[100]} if flagged else set())


@pytest.mark.parametrize("size, flagged", [(0.9, False), (1.1, True)])
def test_where_opens_are_the_last_closes_a_spike_exceeds_an_ordinary_return(size, flagged):
    coin = hourly(500)
    step = np.log(coin.close).diff().to_numpy()
    coin.iloc[99:102, :4] = coin.close.iloc[98]
    coin.iloc[102, 0] = coin.close.iloc[98]
    coin.iloc[102, 1:3] = coin.iloc[102, [0, 3]].max()*1.001, coin.iloc[102, [0, 3]].min()/1.001
    coin.iloc[100, :4] *= np.exp(size*robust_spread(step, np.zeros(500, int))[0])
    assert flags(coin, "spikes") == ({coin.index[100]} if flagged else set())


def test_one_symbol_has_no_crowd_to_hide_in(market):
    own = market.xs("P03", level=1, drop_level=False)
    assert flags(spoil(own, "P03", [90], prices, 0.85), "spikes") == {own.index[90]}


@pytest.mark.parametrize("scale", [1e-8, 1e6])
@pytest.mark.parametrize("n_bars", [30, 300])
def test_flags_do_not_depend_on_the_unit_of_a_price(scale, n_bars):
    panel = spoil(spoil(load_market("planted", n_symbols=2, n_bars=n_bars), "P00", [9], prices, 1.15), "P01", [20], prices, 10)
    expected = {rule: flags(panel, rule) for rule in moves}
    assert len(expected["spikes"]) == 1 and len(expected["decimal_shift"]) == 1
    assert {rule: flags(panel*scale, rule) for rule in moves} == expected


def hourly(n=4000, seed=0):
    "One coin around the clock: each open is the last close"
    rng = np.random.default_rng(seed)
    close = 3e-5*np.exp(np.cumsum(rng.standard_t(3, n)*0.004))
    opening = np.r_[close[0], close[:-1]]
    index = pd.MultiIndex.from_product([pd.date_range("2021-01-01", periods=n, freq="h", tz="UTC"), ["COIN"]], names=["timestamp", "symbol"])
    return pd.DataFrame({"open": opening, "high": np.maximum(opening, close)*1.002, "low": np.minimum(opening, close)/1.002, "close": close, "volume": 1.}, index=index)


def test_hourly_bars_of_one_coin():
    coin = hourly()
    assert quality_report(coin).findings.empty, "fat tails alone are no spikes"
    assert flags(spoil(coin, "COIN", [1000], prices, 1.03), "spikes") == {coin.index[1000]}
    holed = coin.drop(index=coin.index[[500, 501, 502, 2000]])
    assert flags(holed, "gaps") == {coin.index[503], coin.index[2001]}


@pytest.mark.parametrize("times, missing, expected", [
    (pd.bdate_range("2020-01-01", periods=400, tz="UTC"), slice(100, 106), [106]),
    (pd.bdate_range("2020-01-01", periods=400, tz="UTC"), slice(101, 102), []),                       # a holiday in midweek
    (pd.date_range("2020-01-01", periods=900, freq="15min", tz="UTC"), slice(300, 301), [301]),
    (pd.date_range("2010-01-01", periods=120, freq="MS", tz="UTC"), slice(30, 32), [32]),
    (pd.bdate_range("2020-01-01", periods=12, tz="UTC"), slice(0, 0), []),                            # two weekends prove nothing
], ids=["days", "holiday", "quarters of an hour", "months", "a fortnight"])
def test_a_pause_of_all_is_a_gap_when_none_as_long_recurs(times, missing, expected):
    left = times.delete(missing)
    assert left[_joint_pauses(left)].tolist() == times[expected].tolist() and not _joint_pauses(times).any()


def test_the_robust_spread_is_the_standard_deviation_of_normal_moves():
    x = np.random.default_rng(0).normal(0, 0.02, 40_000)
    assert robust_spread(x, np.zeros(len(x), int))[0] == pytest.approx(0.02, rel=0.02)
    x[:40] = 9
    assert robust_spread(x, np.zeros(len(x), int))[0] == pytest.approx(0.02, rel=0.02)


# ---- the report

def test_the_report_draws_and_tells(market):
    panel = broken(spoil(market, "P03", [90], prices, 1.2), 5, "open", np.nan)
    report = quality_report(panel)
    assert isinstance(report, QualityReport) and str(report).splitlines()[0] == "3,000 rows: 1 rule(s) broken, 1 with warnings"
    time, worst = report.plot().axes
    assert [tick.get_text() for tick in time.get_yticklabels()] == ["nulls (1)", "spikes (1)"] and {tick.get_text() for tick in worst.get_yticklabels()} == {"P03", "P05"}
    [axes] = report.plot_symbol("P03").axes
    mark = next(line for line in axes.lines if line.get_label() == "spikes")
    assert mark.get_ydata()[0] == panel.close.iloc[of_symbol(panel, "P03")[90]]
    with pytest.raises(UnknownNameError, match="P03"): report.plot_symbol("P3")


# ---- two sources

def cross_by_loop(panel, other, tolerance):
    "Rows that disagree: key to (kind, columns)"
    left, right, found = lines_by_loop(panel), lines_by_loop(other), {}
    for symbol in set(left) & set(right):
        ours, theirs = ({time: values for time, _, values in line} for line in (left[symbol], right[symbol]))
        times = sorted(set(ours) & set(theirs))
        d, k = [ours[time][3] - theirs[time][3] for time in times], 1
        level = d[:]
        while k < len(times):
            if abs(d[k] - d[k - 1]) <= tolerance:
                k += 1
                continue
            end = next((j for j in range(k + 1, min(k + 6, len(times))) if abs(d[j] - d[k - 1]) <= tolerance), None)
            if end is None: found[times[k], symbol] = "level" if len(times) - 1 - k >= 5 else "undecided", ()
            else: level[k:end] = [d[k - 1]]*(end - k)
            k = end + 1 if end else k + 1
        for k, time in enumerate(times):
            wrong = tuple(name for name, a, b in zip(prices, ours[time], theirs[time]) if abs(a - b - level[k]) > tolerance)
            if wrong: found[time, symbol] = found.get((time, symbol), ("price",))[0], wrong
    return found


@settings(quick, max_examples=15)
@given(sick_panels(), sick_panels(), st.sampled_from([0.003, 0.03]))
def test_a_cross_check_is_what_a_loop_over_the_rows_finds(panel, other, tolerance):
    if not set(lines_by_loop(panel)) & set(lines_by_loop(other)): return
    check = cross_check(panel, other, tolerance=tolerance)
    rows = (check.rows[name] for name in ("timestamp", "symbol", "kind", "columns"))
    found = {(time, symbol): (kind, tuple(columns.split())) for time, symbol, kind, columns in zip(*rows)}
    assert found == cross_by_loop(panel, other, tolerance)
    assert check.summary[["price", "level", "undecided"]].to_numpy().sum() == len(check.rows)
    back = cross_check(other, panel, tolerance=tolerance)
    swapped = back.rows.assign(size=-back.rows["size"], suspect=back.rows.suspect.replace({"panel": "other", "other": "panel"}))
    same(swapped, check.rows, check_exact=False, atol=1e-12)


def adjusted(panel):
    "Another vendor's view of the same bars: cents, a split, dividends, another history"
    other = panel.copy()
    other[prices] *= 100
    other = spoil(other, "P01", slice(0, 150), prices, 0.25)
    for bar in (60, 120, 180): other = spoil(other, "P02", slice(0, bar), prices, 0.985)
    return other.drop(index=other.index[of_symbol(other, "P05")[:100]])


def test_a_wrong_price_is_one_row_and_an_adjustment_is_none(market):
    panel = spoil(spoil(spoil(market, "P03", [90], prices, 1.08), "P04", [90, 91, 92], ["close"], 0.9), "P06", [40], ["low"], 0.97)
    other = spoil(adjusted(market), "P07", [33], prices, 0.9).drop(index=market.index[of_symbol(market, "P08")[50:53]])
    before = panel.copy(), other.copy()
    check = cross_check(panel.sample(frac=1, random_state=1), other)
    same(panel, before[0])
    same(other, before[1])
    wrong = check.rows[check.rows.kind == "price"]
    key = lambda symbol, k: market.index[of_symbol(market, symbol)[k]]
    assert list(zip(wrong.timestamp, wrong.symbol)) == [key("P03", 90), *(key("P04", k) for k in (90, 91, 92)), key("P06", 40), key("P07", 33)]
    assert wrong["columns"].tolist() == ["open high low close", "close", "close", "close", "low", "open high low close"]
    assert wrong.suspect.tolist() == ["panel"]*4 + ["", "other"]
    np.testing.assert_allclose(wrong["size"], np.log([1.08, 0.9, 0.9, 0.9, 0.97, 1/0.9]), rtol=1e-6)
    levels = check.rows[check.rows.kind == "level"]
    assert list(zip(levels.timestamp, levels.symbol)) == [key("P01", 150), *(key("P02", k) for k in (60, 120, 180))]
    np.testing.assert_allclose(levels["size"], np.log([0.25] + [0.985]*3), rtol=1e-6)
    assert list(zip(check.only.timestamp, check.only.symbol, check.only.side)) == [(*key("P08", k), "panel") for k in (50, 51, 52)]
    assert check.summary.loc["P05", "common"] == 200 and check.summary.only_panel.to_dict()["P08"] == 3
    assert "6 rows of 4 symbols" in str(check) and len(check.plot().axes) == 2


@pytest.mark.parametrize("case", ["naive", "no shared symbol", "no shared time", "tolerance", "no close"])
def test_sources_that_cannot_be_compared_are_refused(case, small):
    other, tolerance, match = {"naive": (small.tz_localize(None, level=0), 0.01, "are UTC; those of other are in no zone"),
                               "no shared symbol": (small.rename(index=str.lower, level=1), 0.01, "share symbols"),
                               "no shared time": (small.set_axis(small.index.set_levels(small.index.levels[0] + pd.Timedelta("1h"), level=0)), 0.01, "share timestamps"),
                               "tolerance": (small, -1, r"in \(0, 1\)"), "no close": (small.drop(columns="close"), 0.01, "close")}[case]
    with pytest.raises(InputError, match=match): cross_check(small, other, tolerance=tolerance)


@pytest.mark.parametrize("ours, theirs, suspect", [(0.05, 0.02, "panel"), (0.05, 0.03, ""), (0.02, 0.05, "other"), (0.05, -0.05, ""), (0.05, 0, "panel")])
def test_the_suspect_moves_alone_or_there_is_none(ours, theirs, suspect):
    def source(size):
        moved = np.zeros(40)
        moved[20:22] = size, -size
        return flat_bars(moved)
    assert cross_check(source(ours), source(theirs)).rows[["kind", "suspect"]].to_numpy().tolist() == [["price", suspect]]


def test_closes_alone_can_be_compared(small):
    check = cross_check(spoil(small, "P01", [5], ["close"], 1.2)[["close"]], small[["close"]])
    assert check.rows["columns"].tolist() == ["close"]
    same(cross_check(small, small.set_axis(small.index.set_levels(small.index.levels[0].as_unit("ns"), level=0))).only, cross_check(small, small).only)


# ---- real bars

@pytest.fixture(scope="module")
def listed():
    "The rows of the published file that are known to be wrong"
    table = pd.read_csv(real_file("sp500_5yr_issues.csv"), parse_dates=["date"])
    return pd.MultiIndex.from_arrays([table.date.dt.tz_localize("UTC"), table.symbol]).unique()


@pytest.fixture(scope="module")
def published(): return quality_report(load_market(real_file("sp500_5yr.parquet")))


@pytest.fixture(scope="module")
def second(): return load_market(real_file("us_liquid500_2005_2017_clean.parquet"))


def counts(report): return report.findings.groupby("rule")["count"].sum().to_dict()


def test_the_known_defects_of_published_prices_are_found(published, listed):
    report, published = published, published.panel
    assert counts(report) == {"nulls": 11, "high_low": 12, "traded": 4, "spikes": 160, "gaps": 17}
    assert len(published) == 619_040 and len(listed) == 242
    flagged = published.index[report.rows["row"][report.rows.rule == "spikes"]]
    assert flagged.isin(listed).sum() == 134, "the notebook says so"
    anything = published.index[report.rows["row"][report.rows.rule != "gaps"].unique()]
    assert (~listed.isin(anything)).sum() == 86, "36 % pass every rule, the notebook says"
    lines, *_, close = log_bars(published)
    step = close - lines.previous(close)
    back, large = lines.following(step), 3*robust_spread(step, lines.symbol)
    size = np.minimum(np.abs(step), np.abs(back))
    plain = published.index[lines.row[(step*back < 0) & (size > large) & (np.abs(step + back) < size)]]
    assert (len(plain), plain.isin(listed).sum()) == (766, 90), "what the plain rule finds"


@pytest.mark.parametrize("name, flagged", [("sp500_5yr_clean.parquet", 22), ("second", 72), ("binance_spot_1h.parquet", 6)])
def test_false_alarms_on_clean_bars_are_as_the_notebook_says(name, flagged, request):
    panel = request.getfixturevalue(name) if name == "second" else load_market(real_file(name))
    assert counts(quality_report(panel))["spikes"] == flagged
    if name.startswith("sp500"): assert check_panel(panel) is panel and len(panel) == 618_798


def test_the_gaps_of_hourly_bars_are_counted():
    for symbols in (["BTCUSDT"], ["ETHUSDT"], ["BTCUSDT", "ETHUSDT"]):
        panel = load_market(real_file("binance_spot_1h.parquet"), symbols=symbols)
        rows = quality_report(panel).rows
        assert rows[rows.rule == "gaps"].symbol.value_counts().to_dict() == {symbol: 27 for symbol in symbols}


def test_a_second_source_finds_what_one_cannot_show(published, second, listed):
    report, published = published, published.panel
    check = cross_check(published, second)
    wrong = check.rows[check.rows.kind == "price"]
    found = pd.MultiIndex.from_frame(wrong[["timestamp", "symbol"]])
    comparable = listed[listed.isin(published.index.intersection(second.index))]
    assert len(comparable) == 168 and comparable.isin(found).sum() == 161
    assert (wrong.suspect[found.isin(listed)] == "panel").sum() == 138
    assert comparable.isin(published.index[report.rows["row"][report.rows.rule == "spikes"]]).sum() == 94


def test_a_file_against_its_clean_part_differs_only_in_rows(published, listed):
    clean = load_market(real_file("sp500_5yr_clean.parquet"))
    check = cross_check(published.panel, clean)
    assert check.rows.empty and check.summary.common.sum() == 618_798
    missing = pd.MultiIndex.from_frame(check.only[["timestamp", "symbol"]])
    assert set(check.only.side) == {"panel"} and missing.isin(listed).all() and len(missing) == 231      # of 242: 11 have a null price
