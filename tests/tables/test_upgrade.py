"""Tables of an earlier version, and tasks whose columns changed: brought up to date, or refused with the SQL to run."""

import re

import pytest
import sqlalchemy as sa

from llm_assets.errors import DatabaseError, OutputTableError
from llm_assets.pipeline import Pipeline
from llm_assets.records import Partition
from llm_assets.tables import Database, Source
from llm_assets.tables.upgrade import LAYOUT
from llm_assets.tasks import Extract
from tests.postgres import PostgresServer
from tests.tables.shop import SENTIMENT, RecordingEngine, Shop, only, outcomes

SIZE = {"type": "string", "maxLength": 20}
FACTS = Extract(name="facts", schema={"type": "object", "properties": {"size": SIZE}})
MORE_FACTS = Extract(
    name="facts",
    schema={
        "type": "object",
        "properties": {"size": SIZE, "100%?": {"type": "number", "description": "50% or 100%"}},
        "required": ["100%?"],
    },
)
OTHER_FACTS = Extract(name="facts", schema={"type": "object", "properties": {"size": {"type": "integer"}}})


LATER_COLUMNS = ("status", "rows_left", "seconds_idle", "layout", "expected_tokens", "cost", "currency")
"""What `llm_throughput` has gained since the first layout of the tables."""


def make_first_layout(shop: Shop) -> None:
    """Give the tables the shape that they had before they carried a version."""
    shop.execute(
        "DROP TABLE llm_version",
        *(f"ALTER TABLE llm_throughput DROP COLUMN {name}" for name in LATER_COLUMNS),
    )


def test_new_tables_carry_the_version(shop: Shop) -> None:
    shop.run()
    shop.run()
    assert shop.column("SELECT layout FROM llm_version") == [LAYOUT]


def test_tables_of_the_first_layout_are_brought_up_to_date_and_keep_their_rows(shop: Shop) -> None:
    shop.add(["a", "b"])
    shop.run()
    make_first_layout(shop)
    engine = RecordingEngine()
    assert outcomes(only(shop.run(engine=engine))) == (0, 0, 2, 0)
    assert engine.loads == 0
    assert shop.column("SELECT layout FROM llm_version") == [LAYOUT]
    found = shop.rows("SELECT run_id, status, rows_left, rows_answered, layout FROM llm_throughput ORDER BY run_id")
    assert found == [
        ("run-1", "complete", 0, 2, "instruction_first"),
        ("run-2", "complete", 0, 0, "instruction_first"),
    ]
    assert shop.column("SELECT expected_tokens FROM llm_throughput") == [0, 0]


def test_an_added_column_has_its_comment_in_postgres(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.run()
    make_first_layout(shop)
    shop.run()
    columns = {column["name"]: column for column in sa.inspect(shop.database.engine).get_columns("llm_throughput")}
    assert columns["rows_left"]["comment"].startswith("Rows not asked")
    shop.database.close()


def test_tables_of_a_later_version_are_refused(shop: Shop) -> None:
    shop.run()
    shop.execute(f"UPDATE llm_version SET layout = {LAYOUT + 1}")
    engine = RecordingEngine()
    with pytest.raises(
        OutputTableError, match=rf"have layout {LAYOUT + 1}, and this version knows layout {LAYOUT}\. In"
    ):
        shop.pipeline(engine=engine)
    assert engine.loads == 0


def test_a_field_that_a_schema_gains_becomes_a_column(shop: Shop) -> None:
    shop.add(["a", "b"])
    shop.run(FACTS)
    assert outcomes(only(shop.run(MORE_FACTS))) == (2, 0, 0, 0)
    table = shop.table("reviews_facts")
    with shop.database.engine.connect() as connection:
        assert [type(row["100%?"]) for row in connection.execute(table.select()).mappings()] == [float, float]


@pytest.mark.parametrize("task", [FACTS, OTHER_FACTS], ids=["lost a field", "changed a type"])
def test_the_sql_of_a_refusal_makes_the_next_run_work(shop: Shop, task: Extract) -> None:
    shop.add(["a", "b"])
    shop.run(MORE_FACTS)
    with pytest.raises(
        OutputTableError, match=r"columns of the output table 'reviews_facts' in .* have changed"
    ) as caught:
        shop.pipeline(task)
    statements = re.findall(r"^ALTER .*;$", str(caught.value), re.MULTILINE)
    assert statements
    shop.execute(*statements)
    assert outcomes(only(shop.run(task))) == (2, 0, 0, 0)


KEY_CHANGES = {
    "more digits": ("NUMERIC(10,2)", "NUMERIC(12,4)", 1.25, 1.2525),
    "longer text": ("VARCHAR(5)", "VARCHAR(20)", "short", "longer than that"),
    "text": ("INTEGER", "TEXT", 7, "007"),
}


def source_with_key(shop: Shop, columns: str, rows: list[dict[str, object]]) -> Source:
    """Make the table of the same name anew, with such a key."""
    shop.execute("DROP TABLE IF EXISTS t", f"CREATE TABLE t (text TEXT, {columns})")
    shop.insert("t", [{**row, "text": f"text {i}"} for i, row in enumerate(rows)])
    return Source(table="t")


@pytest.mark.parametrize(("before", "after", "old", "new"), KEY_CHANGES.values(), ids=KEY_CHANGES)
def test_a_key_of_another_type_is_refused_with_the_sql_that_mends_it(
    postgres_url: str, before: str, after: str, old: object, new: object
) -> None:
    shop = Shop(postgres_url)
    shop.run(source=source_with_key(shop, f"name {before} PRIMARY KEY", [{"name": old}]))
    rows = [{"name": str(old) if isinstance(new, str) else old}, {"name": new}]
    source = source_with_key(shop, f"name {after} PRIMARY KEY", rows)
    with pytest.raises(
        OutputTableError, match=r"key of the output table 't_sentiment' in .* name is .* there"
    ) as caught:
        shop.pipeline(source=source)
    shop.execute(*re.findall(r"^ALTER .*;$", str(caught.value), re.MULTILINE))
    assert outcomes(only(shop.run(source=source))) == (1, 0, 1, 0)
    assert shop.column("SELECT COUNT(*) FROM t JOIN t_sentiment USING (name)") == [2]


def test_a_key_that_sqlite_would_change_is_refused(sqlite_url: str) -> None:
    shop = Shop(sqlite_url)
    shop.run(source=source_with_key(shop, "name INTEGER PRIMARY KEY", [{"name": 7}]))
    source = source_with_key(shop, "name TEXT PRIMARY KEY", [{"name": "007"}])
    with pytest.raises(
        OutputTableError, match=r"name is BIGINT there and TEXT now\. Rename or drop that table, or give"
    ):
        shop.pipeline(source=source)
    shop.execute("DROP TABLE t_sentiment")
    assert outcomes(only(shop.run(source=source))) == (0, 1, 0, 0)


@pytest.mark.parametrize("kinds", [("TEXT", "VARCHAR(20)"), ("NUMERIC", "NUMERIC(9,2)")])
def test_a_key_that_fits_as_it_is_changes_nothing(shop: Shop, kinds: tuple[str, str]) -> None:
    for kind in kinds:
        source = source_with_key(shop, f"name {kind} PRIMARY KEY", [{"name": "1"}])
        counts = only(shop.run(source=source))
    assert outcomes(counts) == (0, 0, 1, 0)


def test_a_longer_text_as_key_changes_nothing_in_sqlite(sqlite_url: str) -> None:
    shop = Shop(sqlite_url)
    shop.run(source=source_with_key(shop, "name VARCHAR(1) PRIMARY KEY", [{"name": "a"}]))
    source = source_with_key(shop, "name VARCHAR(20) PRIMARY KEY", [{"name": "a"}, {"name": "longer"}])
    assert outcomes(only(shop.run(source=source))) == (1, 0, 1, 0)


@pytest.mark.parametrize("same", [True, False], ids=["source and answers by one URL", "by two"])
def test_a_created_type_as_key_fits_however_the_database_was_reached_before(postgres_url: str, same: bool) -> None:
    shop = Shop(postgres_url)
    shop.execute("CREATE TYPE mood AS ENUM ('happy', 'sad')")
    source = source_with_key(shop, "name mood PRIMARY KEY", [{"name": "sad"}])
    other = Database(f"{postgres_url}?application_name=other")
    for number, database in enumerate((shop.database, other) if same else (other, shop.database)):
        pipeline = Pipeline(source, [SENTIMENT], RecordingEngine(), shop.database, database)
        assert only(pipeline.run(Partition(), f"run-{number}")).rows_skipped == number
    other.close()


def test_a_key_of_fewer_columns_is_refused_without_sql(shop: Shop) -> None:
    keyed = [{"id": 1, "lang": "en"}]
    shop.run(source=source_with_key(shop, "id INTEGER, lang TEXT, PRIMARY KEY (id, lang)", keyed))
    source = source_with_key(shop, "id INTEGER PRIMARY KEY, lang TEXT", keyed)
    with pytest.raises(OutputTableError) as caught:
        shop.pipeline(source=source)
    assert str(caught.value) == (
        f"The key of the output table 't_sentiment' in {shop.database.name} is (id, lang), and the source's is (id). "
        "Rename or drop that table, or give the task another name."
    )


def test_a_role_that_may_not_alter_tables_is_told_what_their_owner_must_run(
    postgres_url: str, postgres: PostgresServer
) -> None:
    shop = Shop(postgres_url)
    shop.add(["a"])
    shop.run()
    make_first_layout(shop)
    [name] = shop.column("SELECT current_database()")
    role = f"reader_{name}"
    shop.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'x'",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
    )
    try:
        database = Database(postgres.url(name, role, "x"))
        with pytest.raises(
            DatabaseError, match=r"must be owner of table llm_throughput.*let their owner run"
        ) as caught:
            Pipeline(Source(table="reviews"), [SENTIMENT], RecordingEngine(), database, database)
        database.close()
        statements = re.findall(r"^(?:ALTER|COMMENT) .*;$", str(caught.value), re.MULTILINE)
        shop.execute(*statements)
        shop.run()
    finally:
        shop.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")
        shop.database.close()
