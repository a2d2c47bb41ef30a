"Figures of explanations: what they draw, that they are quiet, and the page that stands alone"
import os
import re
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest

from alphaplus_ml.explain.base import Attribution
from alphaplus_ml.explain.explanation import explanation_from
from alphaplus_ml.explain.page import standalone_page
from alphaplus_ml.explain.pictures import plain, plot_bars, plot_beeswarm, plot_heat, plot_waterfall, summed, unit_power, weightiest

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module", autouse=True)
def agg():
    import matplotlib
    matplotlib.use("Agg")


def made(n=60, f=5, scale=0.01, seed=0, names=None):
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([pd.date_range("2018-01-01", periods=n, tz="UTC"), ["nasdaq"]], names=["timestamp", "symbol"])
    X = pd.DataFrame(rng.normal(size=(n, f)), index, names or [f"x{j}[t-{j % 3}]" if f % 3 == 0 else f"feature {j}" for j in range(f)])
    X.iloc[::7, 0], X.iloc[:, -1] = np.nan, 1.0
    shap, lime = scale*rng.normal(size=(n, f)), scale*rng.normal(size=(n, f))
    lime[0, 0] = np.nan
    computed = {"shap": Attribution(shap, 0.5*scale), "lime": Attribution(lime, scale*rng.normal(size=n), {}, {"surrogate_r2": rng.uniform(size=n)}), "eli5": Attribution(np.full((n, f), np.nan), np.nan)}
    return explanation_from(computed, X, shap.sum(axis=1) + 0.5*scale, {"shap": "tables"})


pictures = {"bar": lambda e: e.bar(), "beeswarm": lambda e: e.beeswarm(), "beeswarm of lime": lambda e: e.beeswarm("lime", 3), "beeswarm of nothing": lambda e: e.beeswarm("eli5"),
            "waterfall": lambda e: e.waterfall(-1), "waterfall of lime": lambda e: e.waterfall(0, "lime"), "dependence": lambda e: e.dependence(e.features.columns[0]),
            "dependence on a constant": lambda e: e.dependence(e.features.columns[-1], "lime", e.features.columns[0]), "heat map": lambda e: e.heat_map(),
            "heat map of nothing": lambda e: e.heat_map("eli5", "W"), "lime bars": lambda e: e.lime_bars(0), "side by side": lambda e: e.side_by_side(0, 4),
            "agreement": lambda e: e.agreement_picture(3)}


@pytest.mark.parametrize("picture", pictures)
@pytest.mark.parametrize("n, f, scale", [(1, 1, 1.0), (2, 2, 0.0), (60, 5, 1e-4), (60, 60, 1e7), (2500, 6, 0.3)])
def test_pictures_are_quiet_closed_and_leave_the_process_as_it_was(picture, n, f, scale):
    import matplotlib.pyplot as plt
    explanation = made(n, f, scale)
    plt.ion()
    state, opened = np.random.get_state(), plt.get_fignums()
    figure = pictures[picture](explanation)
    figure.canvas.draw()
    assert figure.axes and plt.get_fignums() == opened and plt.isinteractive()
    assert all(np.array_equal(a, b) for a, b in zip(state, np.random.get_state()))
    labels = [text for text in figure.axes[0].get_yticklabels() if text.get_text()]
    assert len(labels) <= 22
    plt.ioff()


def test_a_sequence_is_drawn_by_step():
    figure = made(60, 6).step_map()
    figure.canvas.draw()
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["t-2", "t-1", "t-0"]


def test_the_waterfall_leads_from_base_to_prediction():
    values, features = pd.Series([0.3, -0.5, 0.1, 0.05]), pd.Series([1.0, 2.0, 3.0, np.nan])
    axis = plot_waterfall(values, 1.0, 0.95, features, max_display=3).axes[0]
    bars = sorted(axis.patches, key=lambda bar: -bar.get_y())       # from the bottom of the picture, where y is largest
    ends = [(min(b.get_x(), b.get_x() + b.get_width()), max(b.get_x(), b.get_x() + b.get_width())) for b in bars]
    np.testing.assert_allclose(ends, [(1.0, 1.15), (1.15, 1.45), (0.95, 1.45)])
    assert [text.get_text() for text in axis.get_yticklabels()] == ["1 = 2", "0 = 1", "2 other features"]
    left = plot_waterfall(values, 1.0, 2.0, features).axes[0]
    assert left.get_yticklabels()[-1].get_text() == "not explained" and "+1.05" in [text.get_text() for text in left.texts]


def test_bars_are_the_mean_absolute_values_in_the_named_unit():
    values = pd.DataFrame({"a": [0.002, -0.004], "b": [0.001, 0.001], "c": [0.0005, -0.0005], "d": [-0.0005, 0.0005]})
    axis = plot_bars({"shap": values}, max_display=3).axes[0]
    np.testing.assert_allclose([bar.get_width() for bar in axis.patches], [3, 1, 0], atol=1e-9)   # c and d cancel each other
    assert "1e-3" in axis.get_xlabel() and [t.get_text() for t in axis.get_yticklabels()] == ["a", "b", "2 other features"]


def test_the_beeswarm_draws_every_value_in_its_place():
    rng = np.random.default_rng(0)
    values = pd.DataFrame(rng.normal(size=(200, 3))*[3, 2, 1], columns=list("abc"))
    axis = plot_beeswarm(values, values, seed=1).axes[0]
    swarms = [c.get_offsets() for c in axis.collections if len(c.get_offsets())]
    for k, swarm in enumerate(swarms):
        np.testing.assert_allclose(np.sort(swarm[:, 0]), np.sort(values.iloc[:, k])), np.testing.assert_array_less(np.abs(swarm[:, 1] - k), 0.41)
    again = plot_beeswarm(values, values, seed=1).axes[0]
    np.testing.assert_array_equal(swarms[0], [c.get_offsets() for c in again.collections if len(c.get_offsets())][0])


def test_heat_keeps_gaps_apart_from_zero():
    cells = plot_heat(pd.DataFrame([[0.0, np.nan], [1.0, -2.0]]), "t").axes[0].collections[0].get_array()
    assert cells.mask.tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize("name", ["$a", "$x_{$", "a\nb", "<b>", "x"*300, "ümlaut", "100 %", "", "a_b^c", r"\frac"])
def test_any_name_can_be_drawn(name):
    explanation = made(names=[name, "b", "c", "d", "e"])
    for figure in (explanation.bar(), explanation.waterfall(), explanation.beeswarm(), explanation.dependence(name), explanation.lime_bars()): figure.canvas.draw()
    assert len(plain(name)) <= 36


def test_lines_sum_to_the_whole():
    values = made(60, 60).values["shap"]
    for shown in (1, 2, 59, 60, 99): np.testing.assert_allclose(summed(values, weightiest(values, shown)).sum(axis=1), values.sum(axis=1), atol=1e-12)
    assert len(weightiest(values, 7)) == 7 and list(weightiest(values, 7))[-1] == "54 other features"
    assert unit_power([0.00012, np.inf]) == 4


# --- the page ---

def hostile_page():
    names = ["<script>document.title='run'</script>", "<img src=https://example.com/x.png onerror=\"document.title='run'\">", "a & b", "\"quoted\"", "plain"]
    explanation = made(names=names)
    return explanation_from({m: Attribution(v.to_numpy(), 0.0, {"reason": "</td><script>1</script>"}) for m, v in explanation.values.items()}, explanation.features, explanation.prediction,
                            model_name="</title><script>document.title='run'</script>", model_version="1")


def test_the_page_stands_alone_and_is_text_where_data_speaks(tmp_path):
    explanation = hostile_page()
    path = explanation.to_html(tmp_path/"page.html", max_display=4)
    page = path.read_text(encoding="utf-8")
    assert page == explanation.to_html(max_display=4) and [one.name for one in tmp_path.iterdir()] == ["page.html"]
    assert not re.search(r"<(script|iframe|link|object|embed|form)", page, re.I) and set(re.findall(r"<img [^>]*src=\"(\w+):", page)) == {"data"}
    assert explanation.explanation_id in page and "largest additivity error" in page and "rank_correlation" in page
    assert page.count("<img") == 1 + 2 + 1 + 1 + 2 + 1      # bars, swarms, heat, agreement, waterfalls, side by side


def test_a_page_that_fails_leaves_no_half_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    (tmp_path/"page.html").write_text("before")
    with pytest.raises(OSError): made().to_html(tmp_path/"page.html")
    assert (tmp_path/"page.html").read_text() == "before"


chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)


@pytest.mark.skipif(chromium is None, reason="no browser on the path")
def test_a_browser_shows_the_page_and_asks_no_host(tmp_path):
    from playwright.sync_api import sync_playwright
    path, asked = hostile_page().to_html(tmp_path/"page.html"), []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"], env={**os.environ, "HOME": str(tmp_path)})
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        broken = page.evaluate("[...document.images].filter(one => !one.naturalWidth).length")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert page.title().startswith("Explanation of </title>") and broken == 0 and wide <= 0
        assert "<script>document.title='run'</script>" in page.inner_text("body")
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
