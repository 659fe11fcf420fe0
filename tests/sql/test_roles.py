"""On Postgres, the pipeline's role runs the pipeline and cannot change the source; the analyst's role only reads."""

from pathlib import Path

import psycopg2
import pytest
import sqlalchemy as sa

from definitions import ROOT
from llm_assets.demo.data import load_reviews
from llm_assets.engines import DummyEngine
from llm_assets.tables import Database
from tests.postgres import PostgresServer
from tests.sql.conftest import answer_all
from tests.sql.files import SQL, Sql, statements

PASSWORD = "for-this-test"
OWN_TABLES = [
    "reviews_sentiment",
    "reviews_facts",
    "reviews_summary",
    "llm_answers",
    "llm_failures",
    "llm_throughput",
    "llm_version",
]
READABLE = ["reviews", *OWN_TABLES, "reviews_answered"]


class Shop:
    """The demo's database with its roles."""

    def __init__(self, url: str, server: PostgresServer) -> None:
        self.url, self.server = sa.make_url(url), server
        self.admin = Sql(Database(url))
        load_reviews(self.admin.database, Path(ROOT) / "sql" / "demo")

    def make_roles(self) -> None:
        # Through SQLAlchemy, as an application's migration would.
        with self.admin.database.engine.begin() as connection:
            for statement in statements(SQL / "roles" / "postgres.sql"):
                connection.execute(sa.text(statement))
        for role in ("llm_pipeline", "llm_analyst"):
            self.admin.execute(f"ALTER ROLE {role} PASSWORD '{PASSWORD}'")

    def make_views(self) -> None:
        self.admin.execute(*statements(SQL / "views" / "reviews_answered.sql"))

    def as_role(self, role: str, options: str = "") -> Sql:
        return Sql(Database(self.server.url(str(self.url.database), role, PASSWORD) + options))


@pytest.fixture
def shop(postgres_url: str, postgres: PostgresServer) -> Shop:
    return Shop(postgres_url, postgres)


def assert_denied(sql: Sql, *commands: str) -> None:
    for command in commands:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            sql.execute(command)


def test_the_pipelines_role_runs_the_pipeline_and_cannot_change_the_source(shop: Shop) -> None:
    shop.make_roles()
    pipeline = shop.as_role("llm_pipeline")
    answer_all(pipeline.database, DummyEngine(), "run-1")
    answer_all(pipeline.database, DummyEngine(identity="another"), "run-2")
    assert pipeline.read("SELECT COUNT(*), MIN(model) FROM reviews_sentiment").rows == [(297, "another")]
    assert_denied(
        pipeline,
        "UPDATE reviews SET text = ''",
        "DELETE FROM reviews",
        "INSERT INTO reviews SELECT * FROM reviews",
        "TRUNCATE reviews",
        "DROP TABLE reviews",
        "ALTER TABLE reviews ADD x TEXT",
        "CREATE ROLE another_role",
    )


def test_the_pipelines_role_takes_over_tables_that_were_there(shop: Shop) -> None:
    answer_all(shop.admin.database, DummyEngine(), "run-1")
    shop.make_roles()
    pipeline = shop.as_role("llm_pipeline")
    answer_all(pipeline.database, DummyEngine(identity="another"), "run-2")
    assert pipeline.read("SELECT DISTINCT model FROM reviews_summary").rows == [("another",)]


def test_the_owner_of_a_database_makes_the_roles_without_being_superuser() -> None:
    # Roles belong to a server, so this one has its own.
    with PostgresServer() as server:
        server.execute(f"CREATE ROLE owner LOGIN CREATEROLE PASSWORD '{PASSWORD}'")
        server.execute("CREATE DATABASE shop OWNER owner")
        shop = Shop(server.url("shop", "owner", PASSWORD), server)
        answer_all(shop.admin.database, DummyEngine(), "run-1")
        shop.make_views()
        shop.make_roles()
        shop.make_roles()
        answer_all(shop.as_role("llm_pipeline").database, DummyEngine(identity="another"), "run-2")
        found = shop.as_role("llm_analyst").read("SELECT COUNT(sentiment) FROM reviews_answered")
        assert found.rows == [(297,)]


@pytest.mark.parametrize("roles_first", [True, False], ids=["roles before tables", "roles after tables"])
def test_the_analysts_role_reads_everything_and_writes_nothing(shop: Shop, roles_first: bool) -> None:
    if roles_first:
        shop.make_roles()
        answer_all(shop.as_role("llm_pipeline").database, DummyEngine(), "run-1")
        shop.make_views()
        shop.make_roles()
    else:
        answer_all(shop.admin.database, DummyEngine(), "run-1")
        shop.make_views()
        shop.make_roles()
    analyst = shop.as_role("llm_analyst")
    assert all(analyst.read(f"SELECT COUNT(*) FROM {table}").rows[0][0] > 0 for table in READABLE)
    for path in (SQL / "queries").glob("*.sql"):
        assert analyst.query(path.stem).rows != []

    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        analyst.execute("DELETE FROM reviews")
    # A session can leave that mode; the grants hold without it.
    analyst = shop.as_role("llm_analyst", "?options=-cdefault_transaction_read_only%3Doff")
    for table in ["reviews", *OWN_TABLES]:
        assert_denied(
            analyst,
            f"DELETE FROM {table}",
            f"INSERT INTO {table} SELECT * FROM {table}",
            f"TRUNCATE {table}",
            f"DROP TABLE {table}",
        )
    assert_denied(
        analyst, "UPDATE reviews SET text = ''", "CREATE TABLE mine (x INTEGER)", "DROP VIEW reviews_answered"
    )
