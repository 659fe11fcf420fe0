"""The commands views and roles, on the definitions of this repository and on a project of its own."""

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from definitions import ROOT
from llm_assets.demo.data import load_reviews
from llm_assets.engines import DummyEngine
from llm_assets.tables import Database
from tests.sql.conftest import answer_all
from tests.sql.test_docs import COMMANDS
from tests.tables.shop import SENTIMENT, Shop

PROGRAM = str(Path(sys.executable).with_name("llm-assets"))
PROJECT = """
import os
import dagster as dg
from llm_assets.dagster import DatabaseResource, DummyEngineResource, build_llm_assets
from llm_assets.tables import Source
from llm_assets.tasks import Classify

TASKS = [Classify(name="sentiment", labels=("positive", "negative"))]
defs = dg.Definitions(
    assets=[
        *build_llm_assets(Source(table="reviews"), TASKS, group_name="reviews"),
        *build_llm_assets(Source(table="tickets"), TASKS, group_name="tickets", source_database_key="other"),
    ],
    resources={
        "database": DatabaseResource(url=dg.EnvVar("SHOP_URL")),
        "other": DatabaseResource(url=dg.EnvVar("OTHER_URL")),
        "engine": DummyEngineResource(),
    },
)
"""


def run_cli(
    *arguments: object, directory: Path = ROOT, fails: bool = False, **environment: str
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [PROGRAM, *map(str, arguments)],
        env={**os.environ, **environment},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode != 0) is fails, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def demo_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('cli') / 'demo.db'}")
    load_reviews(database, ROOT / "sql" / "demo")
    answer_all(database, DummyEngine(), "run-1")
    database.close()
    return database.url


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "definitions.py").write_text(PROJECT)
    return tmp_path


def test_every_command_of_the_docs_runs(demo_url: str, tmp_path: Path) -> None:
    printed = {}
    for command in COMMANDS:
        program, *arguments = command.replace("reviews.csv", str(tmp_path / "reviews.csv")).split()
        assert program == "llm-assets"
        printed[command] = run_cli(*arguments, LLM_ASSETS_DATABASE_URL=demo_url).stdout
    assert list(printed) == [
        "llm-assets views reviews --create",
        "llm-assets export reviews_answered --output reviews.csv",
        "llm-assets roles reviews",
    ]
    assert "view reviews_answered of 25 columns is made" in printed["llm-assets views reviews --create"]
    assert len((tmp_path / "reviews.csv").read_text().splitlines()) > 300
    assert printed["llm-assets roles reviews"] == (ROOT / "sql" / "roles" / "postgres.sql").read_text()


def test_the_printed_sql_makes_the_view(demo_url: str) -> None:
    script = run_cli("views", "reviews", "--name", "by_hand", LLM_ASSETS_DATABASE_URL=demo_url).stdout
    with sqlite3.connect(demo_url.removeprefix("sqlite:///")) as connection:
        connection.executescript(script)
        assert connection.execute("SELECT COUNT(sentiment_label) FROM by_hand").fetchone() == (297,)


def test_a_table_of_several_is_chosen_and_one_view_is_made_of_each(project: Path) -> None:
    shop = Shop(f"sqlite:///{project / 'shop.db'}")
    shop.run(SENTIMENT)
    urls = {"SHOP_URL": shop.url, "OTHER_URL": f"sqlite:///{project / 'other.db'}"}
    assert "view reviews_answered" in run_cli("views", "reviews", "--create", directory=project, **urls).stdout
    assert shop.rows("SELECT COUNT(*) FROM reviews_answered") == [(0,)]
    failed = run_cli("views", "--name", "x", directory=project, fails=True, **urls)
    assert "several tables. Say which: reviews, tickets" in failed.stderr
    failed = run_cli("views", "ticket", directory=project, fails=True, **urls)
    assert "Did you mean 'tickets'" in failed.stderr


def test_answers_in_another_database_than_the_source_are_explained(project: Path) -> None:
    urls = {"SHOP_URL": "postgresql://a:hunter2-view@h/shop", "OTHER_URL": "postgresql://b@h/raw"}
    failed = run_cli("views", "tickets", directory=project, fails=True, **urls).stderr
    assert re.search(
        r"'tickets' is in postgresql://b@h/raw and its\s+answers\s+are in postgresql://a:\*\*\*@h/shop", failed
    )
    assert "hunter2-view" not in failed
    # No server is asked for these.
    script = run_cli("roles", "tickets", directory=project, **urls).stdout
    assert "From here on in the database of the source" in script
    urls["OTHER_URL"] = "postgresql+psycopg2://c@h:5432/shop"
    script = run_cli("roles", "tickets", "--analyst", "report", directory=project, **urls).stdout
    assert "GRANT SELECT ON public.tickets TO llm_pipeline, report;" in script


def test_a_view_before_the_first_run_is_refused_with_what_to_do(project: Path) -> None:
    shop = Shop(f"sqlite:///{project / 'shop.db'}")
    urls = {"SHOP_URL": shop.url, "OTHER_URL": shop.url}
    assert "CREATE VIEW reviews_answered" in run_cli("views", "reviews", directory=project, **urls).stdout
    failed = run_cli("views", "reviews", "--create", directory=project, fails=True, **urls).stderr
    assert "Materialize reviews_sentiment first" in failed
    urls["SHOP_URL"] = f"sqlite:///{project / 'none.db'}"
    failed = run_cli("views", "reviews", directory=project, fails=True, **urls).stderr
    assert "There is no database sqlite:" in failed
    assert not (project / "none.db").exists()
