"""The demo's reviews with answers from two runs of the demo's own tasks, and their view, in each kind of database."""

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from definitions import DAYS, REVIEWS, ROOT, TASKS, defs
from llm_assets.dagster.analysts import create_view
from llm_assets.dagster.table import TABLE_METADATA, TableDefinition
from llm_assets.demo.data import load_reviews
from llm_assets.engines import Engine
from llm_assets.pipeline import Pipeline
from llm_assets.records import FailureKind
from llm_assets.tables import Database
from llm_assets.tasks import Task
from tests.postgres import PostgresServer
from tests.sql.files import Sql
from tests.tables.shop import FaultyEngine

REFUSED, FLAKY = 1002, 1003
"""The model refuses the first review in both runs; the second fails once and is answered by the second run."""


def demo_table() -> TableDefinition:
    """Return the definition of the demo's table, as its assets carry it."""
    found = (spec.metadata.get(TABLE_METADATA) for spec in defs.resolve_all_asset_specs())
    return next(table for table in found if isinstance(table, TableDefinition) and table.source == REVIEWS)


def answer_all(database: Database, engine: Engine, run_id: str, tasks: Sequence[Task] = TASKS) -> None:
    """Run all days of the demo."""
    pipeline = Pipeline(REVIEWS, tasks, engine, database, database, DAYS.columns)
    days = DAYS.definition().get_partition_keys()
    for _ in pipeline.run_all([DAYS.partition(key) for key in days], run_id):
        pass


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def answered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sql]:
    """The demo's database after two runs, with the view. Tests only read it."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path_factory.mktemp('sql') / 'demo.db'}")
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        name = f"demo_{secrets.token_hex(4)}"
        server.execute(f"CREATE DATABASE {name}")
        database = Database(server.url(name))
    load_reviews(database, Path(ROOT) / "sql" / "demo")
    sql = Sql(database)
    texts = dict(sql.read(f"SELECT id, text FROM reviews WHERE id IN ({REFUSED}, {FLAKY})").rows)
    refused = {texts[REFUSED]: FailureKind.REFUSED_REQUEST}
    answer_all(database, FaultyEngine(errors={**refused, texts[FLAKY]: FailureKind.ENGINE_ERROR}), "run-1")
    answer_all(database, FaultyEngine(errors=refused), "run-2")
    create_view(demo_table(), database)
    yield sql
    database.close()
