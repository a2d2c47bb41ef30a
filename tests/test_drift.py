"The population stability index against its definition and against chance."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from alphaplus_ml.core import InputError
from alphaplus_ml.features.drift import bin_edges, feature_drift, psi, psi_alarm_level


def by_hand(reference, current, bins):
    "Shares counted value by value"
    edges = sorted(set(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1])))
    def share(values, i):
        low, high = ([-np.inf] + edges)[i], (edges + [np.inf])[i]
        return max(sum(low < v <= high for v in values)/len(values), 1e-4)
    pairs = [(share(reference, i), share(current, i)) for i in range(len(edges) + 1)]
    return sum((q - p)*np.log(q/p) for p, q in pairs)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=2, max_size=40), st.lists(st.integers(-9, 9), min_size=1, max_size=40), st.integers(2, 12))
def test_psi_equals_the_definition(reference, current, bins):
    assert psi(reference, current, bins) == pytest.approx(by_hand(reference, current, bins), abs=1e-12)
    assert psi(reference, reference, bins) == 0 and psi(reference, current, bins) >= 0


def test_alarm_level_holds_its_size():
    rng = np.random.default_rng(0)
    level = psi_alarm_level(2000, 400)
    alarms = np.mean([psi(rng.normal(size=2000), rng.normal(size=400)) > level for _ in range(400)])
    assert 0.02 < alarms < 0.09


def test_monotone_maps_change_nothing():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=500), rng.normal(0.3, 1, size=300)
    # Quantiles between two values move under a map; ranks of a reference whose quantiles are its own values do not
    a = a[:491]
    assert psi(np.exp(a), np.exp(b)) == pytest.approx(psi(a, b))


def test_frames_and_bad_input():
    old, new = pd.DataFrame({"a": np.arange(100.), "b": np.nan}), pd.DataFrame({"a": np.arange(50., 150.), "b": 1.0})
    found = feature_drift(old, new).set_index("feature")
    assert found.drifted["a"] and np.isnan(found.psi["b"]) and not found.drifted["b"]
    with pytest.raises(InputError, match="same features"): feature_drift(old, new[["b", "a"]])
    with pytest.raises(InputError, match="two bins"): bin_edges(np.arange(9.), 1)
    with pytest.raises(InputError, match="finite"): psi([np.nan], [1.0])
