"The site and JupyterLab in a real browser: nothing broken, nothing asked of another host, and what a reader clicks leads on."
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import urlsplit

import nbformat
import pytest
from playwright.sync_api import expect, sync_playwright

from alphaplus_ml.docs.site import docs_server

names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
chromium = next(filter(None, map(shutil.which, names)), None)
pytestmark = pytest.mark.skipif(chromium is None, reason=f"no browser on the path: `apt-get install chromium` brings one (any of {', '.join(names)} will do)")
flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]   # what asks for another host is told on, and does not get there
expect.set_options(timeout=20_000)
wide, phone = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
study, splits, entry = "experiments/market_study.html", "evaluation.splits.html", "#class-evaluation-splits-walkforward"
chosen = ("index.html", study, "tutorials/first_run.html", "tutorials/your_own_data.html", "explanations/architecture.html",
          "explanations/leakage_and_splits.html", "explanations/schema.html", "benchmarks/features.html", "reference.html", splits, "market.sources.html",
          "store.schema.html", "command_line.html", f"source/{splits}")

faults = """() => {
    const {clientWidth, scrollWidth} = document.documentElement;
    const beyond = [...document.querySelectorAll("body *")].filter(one => one.getBoundingClientRect().right > clientWidth + 1);
    return [...[...document.images].filter(one => !one.naturalWidth).map(one => `broken image: ${one.src}`),
            ...(scrollWidth > clientWidth ? [`${scrollWidth - clientWidth} px wider than the window: ${beyond.at(-1)?.outerHTML.slice(0, 80)}`] : [])];
}"""

# WCAG 2's relative luminance and contrast; the canvas turns any CSS colour into numbers
colours = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
    const rgba = colour => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const luminance = pixel => pixel.slice(0, 3).map(v => v / 255 <= .04045 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4)
                                    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const behind = one => {
        const own = rgba(getComputedStyle(one).backgroundColor);
        return own[3] > 250 || !one.parentElement ? own : behind(one.parentElement);
    };
    const texts = document.querySelectorAll("article :is(h1, h2, h3, p, li, td, th, summary, pre, code, a, pre span), .sidebar-tree a, .toc-tree a");
    const found = [...texts].filter(one => one.innerText?.trim() && one.checkVisibility()).map(one => {
        const [low, high] = [rgba(getComputedStyle(one).color), behind(one)].map(luminance).sort((a, b) => a - b);
        return [(high + .05) / (low + .05), one.outerHTML.slice(0, 60)];
    });
    const pale = found.filter(([ratio]) => ratio < 4.5).map(([ratio, what]) => `${ratio.toFixed(2)}: ${what}`);
    return {page: luminance(behind(document.body)), seen: found.length, pale};
}"""


# --- what the tests share ---

class Visit:
    "A page of a browser, and everything that went wrong on it"
    def __init__(self, page, base, allowed):
        self.page, self.base, self.allowed, self.requests, self.said = page, base, allowed, [], []
        note = lambda text: self.said.append(text)
        page.on("console", lambda message: message.type == "error" and note(f"console: {message.text} {message.location['url']}"))
        page.on("pageerror", lambda error: note(f"error: {error}"))
        page.on("response", lambda response: response.status >= 400 and note(f"status {response.status}: {response.url}"))
        page.on("requestfailed", lambda request: self.failed(request))
        page.on("request", lambda request: self.asked(request.url))
        page.on("websocket", lambda socket: self.asked(socket.url))

    def failed(self, request):
        "A click that leaves a page aborts what it was loading, which is no fault"
        if request.failure != "net::ERR_ABORTED": self.said.append(f"failed: {request.url} {request.failure}")

    def asked(self, url):
        self.requests.append(url)
        if urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).netloc != urlsplit(self.base).netloc: self.said.append(f"another host: {url}")

    def open(self, path):
        "Go to a page and wait until it is drawn, formulas included"
        self.page.goto(f"{self.base}/{path}")
        self.page.evaluate("() => window.MathJax?.startup?.promise.then(() => null)")
        return self.page

    def complaints(self):
        "What has gone wrong since the last look, and what is wrong with the page as it stands"
        drawn = self.page.evaluate(faults)   # a round trip first: events that are under way arrive
        said, self.said = self.said, []
        return [one for one in said + drawn if not re.search(self.allowed, one)]

@contextmanager
def visiting(browser, base, allowed="(?!)", **options):
    "A page in a context of its own, on which nothing may go wrong until the end"
    context = browser.new_context(**{"viewport": wide, "color_scheme": "light", **options})
    context.set_default_timeout(20_000)
    try:
        visit = Visit(context.new_page(), base, allowed)
        yield visit
        assert visit.complaints() == []
    finally: context.close()

@contextmanager
def serving(folder):
    "A folder, served until the end: its address"
    server = docs_server(folder, port=0)
    thread = threading.Thread(target=server.serve_forever, args=(.02,), daemon=True)
    thread.start()
    try: yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

@pytest.fixture(scope="module")
def site(built_site):
    with serving(built_site) as base: yield base

@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    "Has a home of its own: Chromium writes there"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=flags, env={**os.environ, "HOME": str(tmp_path_factory.mktemp("home"))})
        yield opened
        opened.close()


# --- every page ---

def test_no_page_has_an_error_or_asks_another_host(built_site, site, browser):
    "Pages of source are all alike: some of them are enough"
    pages = sorted(path.relative_to(built_site).as_posix() for path in built_site.rglob("*.html"))
    pages = [page for page in pages if not page.startswith("source/")] + [page for page in pages if page.startswith("source/")][::5]
    with visiting(browser, site) as visit:
        found = {}
        for path in pages:
            visit.open(path)
            if complaints := visit.complaints(): found[path] = complaints
        assert found == {} and len(visit.requests) > len(pages) > 50

@pytest.mark.parametrize("size", [wide, phone], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_and_can_be_read(scheme, size, site, browser):
    with visiting(browser, site, viewport=size, color_scheme=scheme) as visit:
        found, plots = {}, 0
        for path in chosen:
            page = visit.open(path)
            shown = page.evaluate(colours)
            widths = [box["width"] for box in (image.bounding_box() for image in page.locator(".cell_output img").all())]
            wrong = [*visit.complaints(), *shown["pale"], *(f"a plot {width} px wide" for width in widths if not 250 <= width <= size["width"])]
            if shown["seen"] < 10: wrong.append(f"only {shown['seen']} texts")
            if not (shown["page"] > .8 if scheme == "light" else shown["page"] < .05): wrong.append(f"a background of luminance {shown['page']}")
            if wrong: found[path] = wrong
            plots += len(widths)
        assert found == {} and plots > 5


# --- a reader ---

def test_a_newcomer_gets_from_the_first_page_to_the_source(site, browser):
    with visiting(browser, site) as visit:
        page = visit.open("index.html")
        sidebar, article = page.locator(".sidebar-tree"), page.locator("article")
        article.locator(f"a[href='{study}']").first.click()
        expect(article.locator("h1")).to_contain_text("Can the next bar be predicted?")
        expect(article.locator(".cell_output img")).not_to_have_count(0)
        assert visit.complaints() == []

        sidebar.get_by_role("link", name="Tutorials", exact=True).click()
        expect(article.locator("h1")).to_contain_text("Tutorials")
        sidebar.locator("a[href='first_run.html']").click()
        page.wait_for_url("**/tutorials/first_run.html")
        following = page.locator("a.next-page")
        title = following.locator(".title").inner_text()
        following.click()
        expect(article.locator("h1")).to_contain_text(title)
        assert "/tutorials/" in page.url and visit.complaints() == []

        sidebar.get_by_role("link", name="Explanations", exact=True).click()
        sidebar.locator("a[href='leakage_and_splits.html']").click()
        page.wait_for_url("**/leakage_and_splits.html")
        article.locator("p a", has_text=re.compile("^WalkForward$")).first.click()
        page.wait_for_url(f"**/{splits}{entry}")
        expect(page.locator(f"{entry} > h3")).to_be_in_viewport()
        assert page.locator(f"{entry} > h3").inner_text().startswith("WalkForward") and visit.complaints() == []

        page.locator(f"{entry} > p > a", has_text=re.compile("^source$")).first.click()
        page.wait_for_url(f"**/source/{splits}#source-*")
        code = page.locator("div.highlight-python:target, div.highlight-python:has(:target)")
        expect(code).to_contain_text("class WalkForward")
        expect(code.locator("span.k", has_text="class").first).to_be_in_viewport()

def test_the_errors_of_an_entry_open_on_a_click(site, browser):
    with visiting(browser, site) as visit:
        errors = visit.open(splits + entry).locator(f"{entry} details").first
        expect(errors.locator("li").first).to_be_hidden()
        errors.locator("summary").click()
        expect(errors.locator("li").first).to_be_visible()
        expect(errors.locator("li").first).to_contain_text("Error")

def test_the_search_finds_a_name(site, browser):
    with visiting(browser, site) as visit:
        page = visit.open("index.html")
        page.get_by_role("textbox", name="Search").fill("WalkForward")
        page.keyboard.press("Enter")
        result = page.locator(f"#search-results li a[href^='{splits}']").first
        expect(result).to_be_visible()
        expect(page.locator("#search-results .search-summary")).to_contain_text("page")
        result.click()
        page.wait_for_url(f"**/{splits}*")
        expect(page.locator("article h1")).to_contain_text("Splits")

def test_formulas_are_drawn(site, browser):
    with visiting(browser, site) as visit:
        page = visit.open("market.sources.html")
        formulas = page.locator("article mjx-container")
        drawn, shown = formulas.count(), page.evaluate("document.querySelectorAll('article .math').length")
        assert drawn == shown > 3 and formulas.locator("svg").count() >= drawn
        expect(formulas.first.locator("svg").first).to_be_visible()
        assert page.locator("mjx-merror").count() == 0 and not re.search(r"\$|\\[(\[]", " ".join(page.locator("article p").all_inner_texts()))

def test_the_theme_switch_changes_the_colours_and_asks_for_nothing(site, browser):
    with visiting(browser, site) as visit:
        page = visit.open("index.html")
        light, before = page.evaluate(colours), len(visit.requests)
        page.locator(".theme-toggle:visible").click()
        dark = page.evaluate(colours)
        assert light["page"] > .8 and dark["page"] < .05 and dark["pale"] == [] and len(visit.requests) == before
        assert visit.open(study).evaluate(colours)["page"] < .05   # and stays

def test_the_menus_of_a_phone_open(site, browser):
    with visiting(browser, site, viewport=phone, has_touch=True) as visit:
        page = visit.open(splits)
        link, headings = page.locator(".sidebar-tree a[href='reference.html']"), page.locator(".toc-tree a:not([href='#'])")
        heading = headings.last
        for one in (link, heading): expect(one).not_to_be_in_viewport()
        page.locator(".mobile-header .toc-overlay-icon").tap()
        expect(headings.first).to_be_in_viewport()
        heading.tap()
        page.locator(".toc-overlay").tap(position={"x": 20, "y": 400})   # beside the menu, which stays open until then
        expect(heading).not_to_be_in_viewport()
        expect(page.locator(f"article {heading.get_attribute('href')} > :is(h2, h3)")).to_be_in_viewport()
        page.locator(".mobile-header .nav-overlay-icon").tap()
        expect(link).to_be_in_viewport()
        link.tap()
        page.wait_for_url("**/reference.html")


# --- these tests themselves ---

@pytest.mark.parametrize("body, complaint", [
    ("<p>good", None),
    ("<img src='http://example.org/x.png'>", "another host: http://example.org/x.png"),
    ("<style>@import url(//example.org/x.css)</style>", "another host: http://example.org/x.css"),
    ("<script>new WebSocket('ws://example.org/')</script>", "another host: ws://example.org/"),
    ("<img src='gone.png'>", "broken image: "),
    ("<img src='index.html'>", "broken image: "),
    ("<script src='gone.js'></script>", "status 404: "),
    ("<script>console.error('planted')</script>", "console: planted"),
    ("<script>throw new Error('planted')</script>", "error: planted"),
    ("<div style='width: 2000px'>wide</div>", "560 px wider than the window: <div"),
])
def test_a_planted_fault_is_seen(body, complaint, browser, tmp_path):
    (tmp_path/"index.html").write_text(f"<!doctype html><link rel='icon' href='data:,'><style>body {{ margin: 0 }}</style>{body}")
    with serving(tmp_path) as base, visiting(browser, base) as visit:
        visit.open("index.html")
        found = visit.complaints()
        visit.page.goto("about:blank")
        assert any(one.startswith(complaint) for one in found) if complaint else found == []

def test_pale_text_is_seen(browser, tmp_path):
    page = "<!doctype html><link rel='icon' href='data:,'><body style='background: #111'><article><p>black<p style='color: #eee'>white"
    (tmp_path/"index.html").write_text(page)
    with serving(tmp_path) as base, visiting(browser, base) as visit:
        shown = visit.open("index.html").evaluate(colours)
        assert shown["seen"] == 2 and [one[:5] for one in shown["pale"]] == ["1.11:"] and shown["page"] < .05


# --- JupyterLab ---

@contextmanager
def jupyterlab(folder, home):
    "JupyterLab on a folder, with a home of its own and without the settings that ask the network: its address and its token"
    own = {name: home/name.lower() for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "ALPHAPLUS_RUNS")}
    for path in own.values(): path.mkdir()
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--ServerApp.port=0", f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=planted",
               "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate",
               "--LabApp.extension_manager=readonly", "--LanguageServerManager.autodetect=False"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "ALPHAPLUS_"))}
    with open(home/"log", "w") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env={**inherited, **{name: str(path) for name, path in own.items()}},
                                  stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until, facts = monotonic() + 60, []
        while not facts:
            assert server.poll() is None and monotonic() < until, (home/"log").read_text()
            sleep(.05)
            facts = list(own["JUPYTER_RUNTIME_DIR"].glob("jpserver-*.json"))
        yield f"http://127.0.0.1:{json.loads(facts[0].read_text())['port']}", "planted"
    finally:
        server.terminate()   # it ends its kernels, too
        try: server.wait(20)
        finally: server.kill()

def test_a_template_runs_in_jupyterlab(browser, tmp_path):
    "As someone who opens it to explore: the cells up to the first figure, and one more that says who ran them"
    (tmp_path/"home").mkdir()
    shutil.copytree(Path(__file__).parents[1]/"nbs"/"experiments", tmp_path/"experiments", ignore=shutil.ignore_patterns(".*"))
    path = tmp_path/"experiments"/"market_study.ipynb"
    notebook = nbformat.read(path, 4)
    last = next(number for number, cell in enumerate(notebook.cells) if "plt.show()" in cell.source) + 1
    notebook.cells.insert(last, nbformat.v4.new_code_cell("import os, sys\nprint('ran by', os.getpid(), 'of', sys.prefix)"))
    for cell in notebook.cells: cell.get("outputs", []).clear()
    nbformat.write(notebook, path)
    with jupyterlab(tmp_path/"experiments", tmp_path/"home") as (base, token), \
            visiting(browser, base, "Shared module @jupyter-widgets/base doesn't exist") as visit:   # said of CatBoost's extension, which wants ipywidgets
        page = visit.open(f"lab/tree/market_study.ipynb?token={token}")
        # The notebook's own sign says idle before there is a kernel, and then a cell asks for one
        page.locator("#jp-main-statusbar").get_by_text("(ipykernel) | Idle").wait_for()
        cells = page.locator(".jp-Notebook .jp-Cell")
        expect(cells).to_have_count(len(notebook.cells))
        for number in (number for number in range(last + 1) if notebook.cells[number].cell_type == "code"):
            cells.nth(number).locator(".cm-content").focus()   # a click may hit a neighbour while the page is still being laid out
            page.keyboard.press("Shift+Enter")
            expect(cells.nth(number).locator(".jp-InputPrompt")).not_to_have_text("[ ]:")
        errors, said = (cells.locator(".jp-OutputArea-output", has_text=text) for text in ("Traceback (most recent call last)", "ran by"))
        errors.or_(said).first.wait_for(timeout=60_000)
        assert errors.all_inner_texts() == []
        kernel, prefix = re.search(r"ran by (\d+) of (.+)", said.inner_text()).groups()
        assert Path(prefix) == Path(sys.prefix)
        expect(page.locator(".jp-OutputArea-output table.dataframe tr").nth(5)).to_be_visible()
        figure = page.locator(".jp-OutputArea-output img")
        expect(figure).to_have_count(1)
        assert figure.bounding_box()["width"] > 400 and visit.complaints() == []
    with pytest.raises(ProcessLookupError): os.kill(int(kernel), 0)
