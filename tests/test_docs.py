"The documentation: what the reference says against what Python says, what a reader would stumble over, and the built site."
import ast
import dataclasses
import html.parser
import importlib
import inspect
import re
import socket
import subprocess
import sys
from pathlib import Path
from shutil import copyfile

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from pydantic import BaseModel

from alphaplus_ml import cli
from alphaplus_ml.core import InputError, LeakageError, UnknownNameError
from alphaplus_ml.docs import reference, site as docs_site, source
from alphaplus_ml.docs.content import label, site_of
from alphaplus_ml.docs.pages import DocsError, check_pages, page_name, page_rules, problems_of, read_pages
from alphaplus_ml.docs.reference import errors
from alphaplus_ml.docs.source import fields, find_symbol, library, members, parameters, public_symbols

root = Path(__file__).parent.parent
public = [symbol for module in library().values() for symbol in public_symbols(module)]
functions = [symbol for symbol in public if not symbol.is_class] + [member for symbol in public if symbol.is_class for member in members(symbol) if not member.is_property]


def name_of(symbol): return f"{symbol.module.name}.{symbol.name}"


def live(symbol):
    "The object that a symbol stands for"
    found = importlib.import_module(f"alphaplus_ml.{symbol.module.name}".removesuffix(".__init__"))
    for part in symbol.name.split("."): found = inspect.getattr_static(found, part)
    return getattr(found, "__func__", found)


# --- the reference, read from text, against the objects themselves

def test_every_public_name_is_found():
    for module in library().values():
        imported = importlib.import_module(f"alphaplus_ml.{module.name}".removesuffix(".__init__"))
        offered = {name for name in getattr(imported, "__all__", []) if inspect.isroutine(one := getattr(imported, name)) or inspect.isclass(one)}
        defined = {name for name in offered if getattr(getattr(imported, name), "__module__", "") == imported.__name__}
        assert defined <= {symbol.name for symbol in public_symbols(module)}, module.name


@pytest.mark.parametrize("symbol", functions, ids=name_of)
def test_parameters_are_those_of_the_function(symbol):
    function = live(symbol)
    if isinstance(function, type(lambda: 0)): function = inspect.unwrap(function)
    marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    real = {marks.get(one.kind, "") + name: one for name, one in inspect.signature(function).parameters.items() if name not in ("self", "cls")}
    told = {field.name: field for field in parameters(symbol)}
    assert list(told) == list(real)
    assert {name for name, field in told.items() if field.default} == {name for name, one in real.items() if one.default is not inspect.Parameter.empty}


@pytest.mark.parametrize("symbol", [symbol for symbol in public if symbol.is_class], ids=name_of)
def test_fields_are_those_of_the_class(symbol):
    cls, told = live(symbol), [field.name for field in fields(symbol)]
    if issubclass(cls, BaseModel): assert told == list(cls.model_fields)
    elif dataclasses.is_dataclass(cls): assert told == [field.name for field in dataclasses.fields(cls)]
    elif hasattr(cls, "__table__"): assert {name.removesuffix("_") if name == "metadata_" else name for name in told} == set(cls.__table__.c.keys())


def test_meanings_are_those_that_nbdev_reads():
    "fastcore's docments reads the same comments with code of its own"
    from fastcore.docments import docments
    compared = 0
    for symbol in public:
        if symbol.is_class or any(symbol.node.decorator_list): continue
        theirs = docments(live(symbol))
        for field in source.own_parameters(symbol):
            said = symbol.module.comments.get(next(a.lineno for n, a, _ in source.arguments(symbol.node) if n == field.name), "")
            if said and field.name in theirs and field.meaning == said:
                assert theirs[field.name] == said, name_of(symbol)
                compared += 1
    assert compared > 400


def test_nothing_public_is_without_words():
    assert reference.undocumented() == []


@pytest.mark.parametrize("text, says", [
    ("def f(\n    a,  # a number\n    b,\n):\n    'Add'\n", "f: b has no meaning"),
    ("def f(a): return a  # the same\n", "f has no docstring"),
    ("class C:\n    'A thing'\n    def go(self, far): 'Go'\n", "C.go: far has no meaning"),
    ("class C:\n    'A thing'\n    x:int  # metres\n    y:int\n", "C: y has no meaning"),
    ("class C:\n    'A thing'\n    def __init__(self, x): self.x = x\n", "C: x has no meaning"),
    ("class C:\n    'A thing'\n    @property\n    def size(self): return 1\n", "C.size has no docstring"),
])
def test_what_lacks_words_is_named(text, says):
    import ast
    module = source.Module("example", "", text, ast.parse(text), source.comments_of(text), {})
    assert f"example.{says}" in [gap for symbol in public_symbols(module) for gap in reference.gaps(symbol)]


def rules_of(module, name): return [rule for kind, rule in errors(find_symbol(library()[module], name))]


def fits(rule, message): return re.match(".*".join(map(re.escape, rule.split("…"))), message)


def raised_by_walk_forward():
    from alphaplus_ml.evaluation.splits import WalkForward
    next(WalkForward(0).split(range(10)))


def raised_by_load_market():
    from alphaplus_ml.market.sources import load_market
    load_market("no_such_source")


def raised_by_build_features():
    from alphaplus_ml.features.engine import build_features
    from alphaplus_ml.market.sources import load_market
    build_features(load_market("planted", n_symbols=3, n_bars=40), ["no_such_feature"])


def raised_by_check_causal():
    from alphaplus_ml.evaluation.leakage import check_causal
    from alphaplus_ml.market.sources import load_market
    check_causal(lambda panel: panel[["close"]].groupby("symbol").shift(-1), load_market("planted", n_symbols=3, n_bars=60))


@pytest.mark.parametrize("module, name, fails, kind", [
    ("evaluation.splits", "WalkForward.split", raised_by_walk_forward, InputError), ("market.sources", "load_market", raised_by_load_market, UnknownNameError),
    ("features.engine", "build_features", raised_by_build_features, UnknownNameError), ("evaluation.leakage", "check_causal", raised_by_check_causal, LeakageError),
])
def test_an_error_that_is_raised_is_listed(module, name, fails, kind):
    with pytest.raises(kind) as caught: fails()
    listed = errors(find_symbol(library()[module], name))
    assert any(cls == type(caught.value).__name__ and (kind in (UnknownNameError, LeakageError) or fits(rule, str(caught.value))) for cls, rule in listed), str(caught.value)


# --- pages that would trip a reader

def write(folder, name, *cells, title="# A page\n\n> Its subtitle"):
    made = [new_markdown_cell(cell) if isinstance(cell, str) else cell for cell in (title, *cells)]
    for number, cell in enumerate(made): cell["id"] = f"cell{number}"
    (folder/name).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=made, metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "python3"}}), folder/name)


@pytest.fixture
def nbs(tmp_path):
    copyfile(root/"settings.ini", tmp_path/"settings.ini")
    (tmp_path/"alphaplus_ml").mkdir()
    write(tmp_path/"nbs", "index.ipynb", "Welcome to [a page](tutorials/01_page.ipynb).", title="# Home")
    write(tmp_path/"nbs", "tutorials/01_page.ipynb", "## A heading", new_code_cell("1 + 1", outputs=[new_output("stream", text="2")]))
    return tmp_path/"nbs"


error = new_output("error", ename="ZeroDivisionError", evalue="division by zero", traceback=[])
faults = {
    "no title": (["text"], "## Not a title", "cell0", "begins with"),
    "crowded title": ([], "# A title\n\n> A subtitle\n\nA story", "cell0", "of its own"),
    "error output": ([new_code_cell("1/0", outputs=[error])], None, "cell1", "ZeroDivisionError"),
    "unknown nbdev directive": (["text", new_code_cell("#| exprot\n1")], None, "cell2", "'export'"),
    "sphinx directive": (["```{note}\ntext\n```"], None, "cell1", "{note}"),
    "missing image": (["![a dot](dot.png)"], None, "cell1", "dot.png"),
    "image on the web": (["![a dot](https://example.org/dot.png)"], None, "cell1", "never on the web"),
    "missing attachment": (["![a dot](attachment:dot.png)"], None, "cell1", "attachment:dot.png"),
    "moved page": (["text", "[a page](tutorials/02_page.ipynb)"], None, "cell2", "Did you mean 'tutorials/01_page.ipynb'?"),
    "missing heading": (["[a page](tutorials/01_page.ipynb#a-headign)"], None, "cell1", "Did you mean #a-heading?"),
    "block without a language": (["```\nmake run\n```"], None, "cell1", "says one of the languages"),
    "indented block": (["text:\n\n    make run"], None, "cell1", "says one of the languages"),
}


@pytest.mark.parametrize("fault", faults)
def test_a_fault_is_named_with_notebook_and_cell(nbs, fault):
    cells, title, place, says = faults[fault]
    write(nbs, "20_bad.ipynb", *cells, title=title or "# A page\n\n> Its subtitle")
    with pytest.raises(DocsError) as caught: check_pages(read_pages(nbs))
    assert f"nbs/20_bad.ipynb, cell {place}: " in str(caught.value) and says in str(caught.value)
    assert str(caught.value).count("nbs/") == 1, "one fault, one line"


def test_all_faults_are_named_at_once(nbs):
    write(nbs, "20_bad.ipynb", "![a dot](dot.png)", "[a page](nowhere.ipynb)", title="Nothing")
    with pytest.raises(DocsError, match="3 problems"): check_pages(read_pages(nbs))


def test_every_page_of_this_checkout_keeps_the_rules():
    pages = read_pages(root/"nbs")
    assert len(pages) > 50 and len(page_rules) >= 6
    assert [str(problem) for page in pages.values() for problem in problems_of(page, pages)] == []


def sphinx_on(nbs, tmp_path):
    "A build of a small checkout, without the rules in front"
    site, work = site_of(nbs.parent, read_pages(nbs)), tmp_path/"work"
    processed = docs_site.process_notebooks(nbs.parent)
    docs_site.write_changed(work/"source", docs_site.notebook_files(site, processed, {}) | {"tutorials/index.md": docs_site.section_index(site, "tutorials").encode(),
                                                                                           "command_line.md": b"# alphaplus\n"})
    docs_site.write_changed(work/"static", docs_site.static_files())
    return docs_site.run_sphinx(site, work)


def test_sphinx_is_a_second_net(nbs, tmp_path):
    faults = {"[a page](/tutorials/nowhere.ipynb)": "nowhere", "[a name](#class-core.nothing)": "class-core.nothing", "![a dot](dot.png)": "dot.png", "```{nonsense}\ntext\n```": "nonsense"}
    write(nbs, "tutorials/01_page.ipynb", *faults)
    for _ in range(2):   # also when nothing has changed since
        with pytest.raises(DocsError) as caught: sphinx_on(nbs, tmp_path)
        for number, says in enumerate(faults.values(), 1): assert re.search(rf"nbs/tutorials/01_page.ipynb, cell cell{number}: .*{says}", str(caught.value))


def test_hidden_cells_and_quarto_options_mean_what_they_say(nbs, tmp_path):
    two = new_output("stream", text="two")
    write(nbs, "tutorials/01_page.ipynb", new_code_cell("#| hide\nsecret_of_mine", outputs=[two]), new_code_cell("#| echo: false\nunseen_source", outputs=[two]),
          new_code_cell("#| output: false\nseen_source", outputs=[new_output("stream", text="unseen_text")]))
    page = (sphinx_on(nbs, tmp_path)/"tutorials"/"page.html").read_text()
    assert "secret_of_mine" not in page and "unseen_source" not in page and "unseen_text" not in page
    assert "seen_source" in page and ">two" in page


def test_plotly_figures_and_formulas_are_drawn_by_local_scripts(nbs, tmp_path):
    import plotly.graph_objects as go
    figure = nbformat.from_dict({"application/vnd.plotly.v1+json": go.Figure(go.Scatter(y=[1, 3, 2])).to_plotly_json(), "text/html": "<script src='https://cdn.example/plotly.js'>"})
    write(nbs, "tutorials/01_page.ipynb", "The root $\\sqrt{x}$.", new_code_cell("figure", outputs=[new_output("display_data", figure)]))
    out = sphinx_on(nbs, tmp_path)
    page = (out/"tutorials"/"page.html").read_text()
    assert "../_static/plotly.min.js" in page and "Plotly.newPlot" in page and "cdn.example" not in page and outside(page) == []
    assert (out/"_static"/"plotly.min.js").stat().st_size > 1e6 and (out/"_static"/"tex-svg.js").stat().st_size > 1e6
    assert re.search(r'src="[./]*_static/tex-svg\.js', page)


# --- the site

class Outside(html.parser.HTMLParser):
    "Collects what a browser would fetch from another host"
    def __init__(self):
        super().__init__()
        self.found = []
    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        address = attributes.get("src") or (attributes.get("href") if tag == "link" else None) or ""
        if re.match(r"(https?:)?//", address): self.found.append(address)


def outside(text):
    parser = Outside()
    parser.feed(text)
    return parser.found + re.findall(r"url\(['\"]?(?:https?:)?//[^)]*\)|@import[^;]*//[^;]*", text)


def test_what_asks_another_host_is_seen():
    assert outside('<script src="//cdn.example/x.js"></script><a href="https://example.org">') == ["//cdn.example/x.js"]


def test_the_site_asks_no_other_host(built_site):
    pages = [path for kind in ("html", "css") for path in built_site.rglob(f"*.{kind}")]
    assert len(pages) > 90
    assert {path.name: found for path in pages if (found := outside(path.read_text(errors="replace")))} == {}


def test_every_notebook_and_document_is_a_page(built_site):
    for path in read_pages(root/"nbs"): assert (built_site/f"{page_name(path)}.html").is_file(), path


def test_every_public_name_has_an_entry_and_a_source(built_site):
    for module in library().values():
        symbols = public_symbols(module)
        if not symbols: continue
        page = (built_site/f"{page_name(module.notebook)}.html").read_text()
        missing = [symbol.name for symbol in symbols if f'id="{re.sub("[^a-z0-9]+", "-", label(symbol)).strip("-")}"' not in page]
        assert missing == [], module.name
        assert (built_site/"source"/f"{module.name}.html").is_file() and f"source/{module.name}.html#" in page


def test_the_study_is_shown_as_it_was_executed(built_site):
    page = (built_site/"experiments"/"market_study.html").read_text()
    assert page.count("<img") >= 5 and "n_trials" in page and "Positive control" in page and "30 trials" in page
    first_run = (built_site/"tutorials"/"first_run.html").read_text()
    words = lambda text: re.sub(r"[\s\d.,:+\-─e_]+", " ", text).split()
    printed = re.search(r"The command printed:.*?<pre>(.*?)</pre>", page, re.S)[1]
    told = next(text for text in re.findall(r"<pre>(.*?)</pre>", first_run, re.S) if "lightgbm_tuned" in text)
    assert words(re.sub("<[^>]+>", "", told)) == words(re.sub("<[^>]+>", "", printed)), "nbs/tutorials/00_first_run.ipynb shows what make run no longer prints"


def test_the_command_line_is_there_with_its_help(built_site):
    page = (built_site/"command_line.html").read_text()
    assert all(f"alphaplus {name}" in page for name in ("run", "runs", "show", "docs", "db upgrade", "verify"))


def test_a_second_build_does_only_what_changed(built_site):
    before = {path: path.stat().st_mtime_ns for path in built_site.rglob("*.html")}
    docs_site.build_docs(cli.app, built_site)
    touched = [path.name for path, stamp in before.items() if path.stat().st_mtime_ns != stamp]
    assert touched in ([], ["search.html"])


# --- the command

def test_a_build_outside_a_checkout_is_refused(monkeypatch):
    monkeypatch.setattr(docs_site, "checkout", lambda: None)
    with pytest.raises(InputError, match="checkout"): docs_site.build_docs(cli.app)


def test_undocumented_names_and_modules_without_a_page_stop_the_build(monkeypatch, tmp_path):
    monkeypatch.setattr(docs_site, "undocumented", lambda: ["market.labels.f: x has no meaning"])
    with pytest.raises(DocsError, match="market.labels.f: x has no meaning"): docs_site.build_docs(cli.app, tmp_path)
    monkeypatch.setattr(docs_site, "undocumented", list)
    monkeypatch.setattr(docs_site, "check_pages", lambda pages: pages)
    orphan = dataclasses.replace(library()["core"], name="orphan", notebook="55_orphan.ipynb")
    monkeypatch.setattr(docs_site, "library", lambda: {"orphan": orphan})
    with pytest.raises(DocsError, match="orphan"): docs_site.build_docs(cli.app, tmp_path)
    assert not list(tmp_path.iterdir()), "a refused build writes nothing"


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path/"letter.txt").write_text("Dear")
    with pytest.raises(InputError, match="empty folder"): docs_site.build_docs(cli.app, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_failed_build_leaves_the_last_site_as_it_was(built_site, monkeypatch):
    before = {path: path.read_bytes() for path in built_site.rglob("*.html")}
    files = docs_site.other_files
    monkeypatch.setattr(docs_site, "process_notebooks", lambda root: root/"_proc")   # the build before has just made it
    monkeypatch.setattr(docs_site, "other_files", lambda site, commands: files(site, commands) | {"command_line.md": b"# alphaplus\n\n[x](#nowhere-at-all)\n"})
    with pytest.raises(DocsError, match="nowhere-at-all"): docs_site.build_docs(cli.app, built_site)
    assert {path: path.read_bytes() for path in built_site.rglob("*.html")} == before


def test_a_failing_experiment_stops_the_build(tmp_path, monkeypatch):
    monkeypatch.setattr(docs_site, "run_command", lambda name, parameters: ["alphaplus", "run", "no_such_template"])
    with pytest.raises(DocsError, match="market_study failed.*\n.*no_such_template"): docs_site.experiment_run(root/"nbs"/"experiments"/"market_study.ipynb", tmp_path)


def test_a_taken_port_is_refused_before_the_build():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-c", "from alphaplus_ml.cli import main; main()", "docs", "--serve", "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "free port" in done.stderr and "Traceback" not in done.stderr


def test_the_server_listens_on_this_machine_only(tmp_path):
    with docs_site.docs_server(tmp_path, 0) as server: assert server.server_address[0] == "127.0.0.1"


def test_a_maker_of_errors_that_does_not_say_which_is_refused():
    symbol = find_symbol(library()["market.quality"], "check_panel")
    kind, rule = reference.stated_error(symbol, ast.parse("_refusal(report)").body[0].value)
    assert kind == "InputError"
    silent = ast.parse("def silent(report): ...").body[0]
    module = dataclasses.replace(symbol.module, tree=ast.Module([*symbol.module.tree.body, silent], []))
    with pytest.raises(InputError, match="return annotation"): reference.stated_error(dataclasses.replace(symbol, module=module), ast.parse("silent(report)").body[0].value)
