"""On Postgres, the pipeline's role runs the pipeline and cannot change the source; the analyst's role only reads."""

from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest
import sqlalchemy as sa

from definitions import ROOT
from llm_assets.dagster.analysts import create_view, table_roles_sql
from llm_assets.demo.data import load_reviews
from llm_assets.engines import DummyEngine
from llm_assets.errors import DatabaseError
from llm_assets.pipeline import Pipeline, PipelineSettings
from llm_assets.records import Partition
from llm_assets.tables import Database, Source
from tests.postgres import PostgresServer
from tests.sql.conftest import answer_all, demo_table
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
        create_view(demo_table(), self.admin.database)

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
        found = shop.as_role("llm_analyst").read("SELECT COUNT(sentiment_label) FROM reviews_answered")
        assert found.rows == [(297,)]


def test_the_file_is_what_the_command_prints_for_the_demo() -> None:
    expected = (SQL / "roles" / "postgres.sql").read_text(encoding="utf-8")
    assert table_roles_sql(demo_table()) == expected, "Run: llm-assets roles reviews > sql/roles/postgres.sql"


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


def test_the_pipelines_role_makes_the_view_and_the_analyst_reads_it(shop: Shop) -> None:
    shop.make_roles()
    pipeline = shop.as_role("llm_pipeline")
    answer_all(pipeline.database, DummyEngine(), "run-1")
    create_view(demo_table(), pipeline.database)
    create_view(demo_table(), pipeline.database)
    analyst = shop.as_role("llm_analyst")
    assert analyst.read("SELECT COUNT(sentiment_label) FROM reviews_answered").rows == [(297,)]
    with pytest.raises(DatabaseError, match=r"cannot be made .* cannot execute CREATE VIEW"):
        create_view(demo_table(), analyst.database)


ODD_TABLE = replace(
    demo_table(),
    source=Source(table="raw 'reviews'", schema="Raw Data"),
    settings=PipelineSettings(output_schema="the answers"),
    partitions=None,
)


def test_roles_and_tables_may_have_any_names_and_nothing_is_needed_from_public(shop: Shop) -> None:
    names = {"pipeline": 'llm\'s "pipe%line"', "analyst": "LLM Analyst"}
    shop.admin.execute(
        f"REVOKE ALL ON DATABASE {shop.url.database} FROM PUBLIC",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        'CREATE SCHEMA "Raw Data"',
        'CREATE SCHEMA "the answers"',
        'ALTER TABLE reviews SET SCHEMA "Raw Data"',
        'ALTER TABLE "Raw Data".reviews RENAME TO "raw \'reviews\'"',
    )
    script = table_roles_sql(ODD_TABLE, pipeline=names["pipeline"], analyst=names["analyst"])
    for _ in range(2):
        shop.admin.execute(script)
    for name in names.values():
        quoted = name.replace('"', '""')
        shop.admin.execute(f"ALTER ROLE \"{quoted}\" PASSWORD '{PASSWORD}'")
    source, tasks = ODD_TABLE.source, ODD_TABLE.tasks
    pipeline = shop.as_role(names["pipeline"])
    made = Pipeline(source, tasks, DummyEngine(), pipeline.database, pipeline.database, settings=ODD_TABLE.settings)
    assert made.run(Partition(), "run-1").counts["sentiment"].rows_failed == 3
    view = create_view(ODD_TABLE, pipeline.database)
    analyst = shop.as_role(names["analyst"], "?options=-cdefault_transaction_read_only%3Doff")
    assert analyst.read(f'SELECT COUNT(sentiment_label) FROM "the answers".{view}').rows == [(297,)]
    assert analyst.read('SELECT COUNT(*) FROM "Raw Data"."raw \'reviews\'"').rows == [(300,)]
    assert_denied(
        analyst,
        'DELETE FROM "the answers".llm_failures',
        'CREATE TABLE "the answers".mine (x INTEGER)',
        'CREATE TABLE "Raw Data".mine (x INTEGER)',
        "CREATE TEMP TABLE mine (x INTEGER)",
    )
    assert_denied(pipeline, 'DELETE FROM "Raw Data"."raw \'reviews\'"', 'CREATE TABLE "Raw Data".mine (x INTEGER)')


def test_what_a_select_reads_is_left_to_whoever_knows() -> None:
    source = Source(table="joined", query="SELECT id, text FROM reviews", key="id")
    script = table_roles_sql(replace(demo_table(), source=source))
    assert "GRANT SELECT ON public.joined TO" not in script
    assert "-- GRANT SELECT ON THE_TABLES TO llm_pipeline, llm_analyst;" in script


def test_a_source_in_another_database_is_granted_to_the_pipeline_only() -> None:
    script = table_roles_sql(demo_table(), same_database=False)
    answers, other = script.split("-- From here on in the database of the source")
    assert "public.reviews " not in answers
    assert "GRANT SELECT ON public.reviews TO llm_pipeline;" in other
    assert "GRANT USAGE ON SCHEMA public TO llm_pipeline;" in other
