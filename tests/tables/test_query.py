"""A source that is a SELECT: its rows, keys, types and partitions, and what it cannot be."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from llm_assets.errors import SourceError
from llm_assets.pipeline import Pipeline, task_outputs
from llm_assets.records import Equals, OneOf, Partition, Within
from llm_assets.tables import AnsweredView, Database, Source, SourceTable
from llm_assets.tables.source_table import CHUNK_ROWS
from tests.tables.shop import SENTIMENT, RecordingEngine, Shop, only, outcomes

JOINED = """
SELECT r.id, c.name AS customer, r.text || ' (' || c.name || ')' AS text
FROM letters r JOIN customers c ON c.id = r.customer  -- one row for each letter
"""


@pytest.fixture
def letters(shop: Shop) -> Shop:
    """Three letters of two customers."""
    shop.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT)")
    shop.execute("CREATE TABLE letters (id INTEGER PRIMARY KEY, customer INTEGER, at TIMESTAMP, text TEXT)")
    shop.insert("customers", [{"id": 1, "name": "Ada"}, {"id": 2, "name": "Bo"}])
    shop.insert(
        "letters",
        [
            {"id": n, "customer": 1 + n % 2, "at": datetime(2026, 11, 1 + n), "text": text}
            for n, text in enumerate(("fine", "late", "odd"))
        ],
    )
    return shop


def source(query: str = JOINED, **settings: object) -> Source:
    return Source.model_validate({"table": "mail", "query": query, "key": "id", **settings})


def refused(shop: Shop, query: str, **settings: object) -> str:
    engine = RecordingEngine()
    with pytest.raises(SourceError) as caught:
        shop.run(SENTIMENT, source=source(query, **settings), engine=engine)
    assert engine.runs == 0
    return str(caught.value)


def test_rows_of_a_query_are_asked_about_and_answered_under_its_name(letters: Shop) -> None:
    engine = RecordingEngine()
    assert only(letters.run(SENTIMENT, source=source(), engine=engine)).rows_answered == 3
    assert sorted(engine.texts) == ["fine (Ada)", "late (Bo)", "odd (Ada)"]
    with letters.database.engine.connect() as connection:
        found = connection.execute(sa.text("SELECT id, label FROM mail_sentiment ORDER BY id")).all()
        assert [row.id for row in found] == [0, 1, 2]
        joined = "SELECT count(*) FROM letters l JOIN mail_sentiment s ON s.id = l.id"
        assert connection.execute(sa.text(joined)).scalar_one() == 3


def test_a_rerun_asks_only_about_what_the_query_gives_otherwise(letters: Shop) -> None:
    letters.run(SENTIMENT, source=source())
    letters.execute("UPDATE customers SET name = 'Bea' WHERE id = 2")
    letters.execute("DELETE FROM letters WHERE id = 0")
    counts = only(letters.run(SENTIMENT, source=source()))
    assert (outcomes(counts), counts.rows_removed) == ((1, 0, 1, 0), 1)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT id, text FROM letters;",
        "WITH chosen AS (SELECT * FROM letters) SELECT * FROM chosen",
        "SELECT id, text FROM letters UNION ALL SELECT id + 10, name FROM customers WHERE id > 100",
        "SELECT id, text || ' 5% off: yes\\:no at 10:30 :name ?' AS text FROM letters",
        "SELECT id, text FROM letters -- and no more",
        "SELECT * FROM letters WHERE text <> '%s' ORDER BY text DESC",
    ],
)
def test_any_select_is_read(letters: Shop, query: str) -> None:
    engine = RecordingEngine()
    assert only(letters.run(SENTIMENT, source=source(query), engine=engine)).rows_answered == 3
    if "off" in query:
        assert engine.texts[0] == "fine 5% off: yes\\:no at 10:30 :name ?"


def test_casts_of_postgres_are_no_parameters(postgres_url: str) -> None:
    database = Database(postgres_url)
    table = SourceTable(database, source("SELECT 7::bigint AS id, 'x'::text AS text"), ["text"])
    assert [row.key for page in table.read(Partition()) for row in page] == [(7,)]
    database.close()


def test_a_long_query_is_read_page_by_page_in_the_order_of_its_key(shop: Shop) -> None:
    count = 2 * CHUNK_ROWS + 5
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
    table = SourceTable(shop.database, source(f"{numbers} SELECT -i AS id, 'x' AS text FROM n"), ["text"])
    pages = [[row.key[0] for row in page] for page in table.read(Partition())]
    assert [len(page) for page in pages] == [CHUNK_ROWS, CHUNK_ROWS, 5]
    assert [key for page in pages for key in page] == list(range(-count, 0))


def test_partitions_and_conditions_go_over_the_query(letters: Shop) -> None:
    table = SourceTable(
        letters.database, source("SELECT id, at AS day, text FROM letters", where="text <> 'odd'"), ["text"], ["day"]
    )
    days = {
        day: Partition(
            str(day), (Within("day", datetime(2026, 11, day, tzinfo=UTC), datetime(2026, 11, day + 1, tzinfo=UTC)),)
        )
        for day in (1, 2, 3)
    }
    assert [table.count(days[day]) for day in (1, 2, 3)] == [1, 1, 0]
    assert table.present(days[2], [(0,), (1,), (2,)]) == {(1,)}


@pytest.mark.parametrize(
    ("expression", "texts", "rows"),
    [
        ("id + 2025", ["2025", "2026", "2027"], 3),
        ("upper(text)", ["FINE", "LATE", "ODD"], 3),
        ("date(at)", ["2026-11-01", "2026-11-02", "2026-11-03"], 3),
        ("CASE id WHEN 0 THEN 7 WHEN 1 THEN '7' END", ["7"], 2),
    ],
)
def test_a_computed_column_of_sqlite_cuts_by_the_texts_of_its_values(
    sqlite_url: str, expression: str, texts: list[str], rows: int
) -> None:
    shop = Shop(sqlite_url)
    shop.execute("CREATE TABLE letters (id INTEGER PRIMARY KEY, at TEXT, text TEXT)")
    shop.insert(
        "letters",
        [{"id": n, "at": f"2026-11-0{n + 1}", "text": text} for n, text in enumerate(("fine", "late", "odd"))],
    )
    query = f"SELECT id, {expression} AS part, text FROM letters"
    shop.execute(f"CREATE VIEW seen AS {query}")
    for each in (source(query), Source(table="seen", key=("id",))):
        table = SourceTable(shop.database, each, ["text"], ["part"])
        assert sum(table.count(Partition(text, (Equals("part", text),))) for text in texts) == rows
        assert table.count(Partition("some", (OneOf("part", tuple(texts)),))) == rows
        assert table.values("part", 10).texts == texts


@pytest.mark.parametrize(
    ("expression", "value"),
    [("id", 5), ("text", "x"), ("at", None), ("id || 'a'", "5a"), ("id * 1.5", None), ("NULL", None)],
)
def test_keys_of_every_type_are_found_again(shop: Shop, expression: str, value: object) -> None:
    shop.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, at TIMESTAMP, text TEXT)")
    shop.insert("t", [{"id": 5, "at": datetime(2026, 11, 1, 12, 30), "text": "x"}])
    query = source(f"SELECT {expression} AS key, text FROM t", key="key")
    if expression == "NULL":
        with pytest.raises(SourceError, match="the key column 'key' is NULL in some rows"):
            shop.run(SENTIMENT, source=query)
        return
    assert only(shop.run(SENTIMENT, source=query)).rows_answered == 1
    assert outcomes(only(shop.run(SENTIMENT, source=query))) == (0, 0, 1, 0)
    if value is not None:
        with shop.database.engine.connect() as connection:
            assert connection.execute(sa.text("SELECT key FROM mail_sentiment")).scalar() == value


@pytest.mark.parametrize(
    ("kind", "value"), [("CHAR(5)", "ab   "), ("BPCHAR", "ab"), ("BIT(3)", "101"), ("BIT(9)", "1" * 9), ("VARBIT", "1")]
)
def test_keys_of_kinds_with_a_length_are_stored_and_found_again(postgres_url: str, kind: str, value: str) -> None:
    shop = Shop(postgres_url)
    shop.execute(f"CREATE TABLE t (code {kind} PRIMARY KEY, text TEXT)", f"INSERT INTO t VALUES ('{value}', 'x')")
    query = source("SELECT code, text FROM t", key="code")
    assert only(shop.run(SENTIMENT, source=query)).rows_answered == 1
    assert outcomes(only(shop.run(SENTIMENT, source=query))) == (0, 0, 1, 0)
    assert shop.column("SELECT code FROM t JOIN mail_sentiment USING (code)") == [value]


def test_a_padded_key_finds_its_reason_in_the_view(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.execute("CREATE TABLE t (code CHAR(5) PRIMARY KEY, text TEXT)", "INSERT INTO t VALUES ('ab', '')")
    query = source("SELECT code, text FROM t", key="code")
    shop.run(SENTIMENT, source=query)
    AnsweredView(shop.database, query, task_outputs(query, [SENTIMENT])).create()
    assert shop.column("SELECT sentiment_failed FROM mail_answered") == ["empty_text"]


def test_a_query_in_sqlite_is_answered_in_postgres(tmp_path: Path, postgres_url: str) -> None:
    source_database, output = Database(f"sqlite:///{tmp_path / 'source.db'}"), Database(postgres_url)
    with source_database.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)"))
        connection.execute(sa.text("INSERT INTO t VALUES (1, 'a'), (2, 'b')"))
    mail = source("SELECT id, upper(text) AS text FROM t")
    for expected in ((2, 0, 0, 0), (0, 0, 2, 0)):
        pipeline = Pipeline(mail, [SENTIMENT], RecordingEngine(), source_database, output)
        assert outcomes(pipeline.run(Partition(), "run").counts["sentiment"]) == expected
    source_database.close()
    output.close()


@pytest.mark.parametrize(
    ("expression", "kind"), [("ARRAY[text]", "ARRAY"), ("to_jsonb(text)", "JSONB"), ("to_json(text)", "JSON")]
)
def test_a_key_of_lists_or_json_in_postgres_is_refused_with_the_way_out(
    postgres_url: str, expression: str, kind: str
) -> None:
    shop = Shop(postgres_url)
    query = f"SELECT {expression} AS key, text FROM reviews"
    message = f"the key column 'key' is {kind}, and its values name no rows. Read it through a view as text: CAST(key"
    assert message in refused(shop, query, key="key")
    shop.execute(f"CREATE VIEW seen AS {query}")
    with pytest.raises(SourceError, match=r"the key column 'key' is \S+, and its values name no rows"):
        SourceTable(shop.database, Source(table="seen", key=("key",)), ["text"])


def test_columns_are_checked_before_a_row_is_read(letters: Shop) -> None:
    assert "The query of 'mail' has no column 'text', which a text template names." in refused(
        letters, "SELECT id, text AS body FROM letters"
    )
    assert "Did you mean 'id'?" in refused(letters, "SELECT id, text FROM letters", key="idd")


def test_two_columns_of_one_name_are_refused_where_the_database_does_not_rename_one(postgres_url: str) -> None:
    database = Database(postgres_url)
    with pytest.raises(SourceError, match="two columns named 'id'"):
        SourceTable(database, source("SELECT 1 AS id, 2 AS id, 'x' AS text"), ["text"])
    database.close()


def test_a_query_that_the_database_refuses_is_shown_with_the_reason(letters: Shop) -> None:
    message = refused(letters, "SELECT id, text FROM leters")
    assert "The query of source 'mail' cannot be run: " in message
    assert message.count("leters") >= 2
    for query in ("DELETE FROM letters", "SELECT 1; DROP TABLE letters", "no SQL at all"):
        assert "cannot be run" in refused(letters, query)
    with letters.database.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM letters")).scalar_one() == 3


def test_a_key_that_the_query_gives_twice_is_refused(letters: Shop) -> None:
    message = refused(letters, "SELECT customer AS id, text FROM letters")
    assert "The query of 'mail': the key (id) is not unique: id=1 stands in several rows" in message


def test_a_query_without_rows_is_a_source_without_rows(letters: Shop) -> None:
    counts = only(letters.run(SENTIMENT, source=source("SELECT id, text FROM letters WHERE id > 99")))
    assert counts.rows_read == 0
    counts = only(letters.run(SENTIMENT, source=source("SELECT id, text FROM letters")))
    assert counts.rows_answered == 3


def test_a_read_only_role_is_enough_to_find_the_columns(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (id UUID PRIMARY KEY, at TIMESTAMPTZ, text TEXT)"))
        name = connection.execute(sa.text("SELECT current_database()")).scalar_one()
        connection.execute(sa.text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    database.close()
    reader = Database(postgres_url)
    table = SourceTable(reader, source("SELECT * FROM t"), ["text"], ["at"])
    [key] = table.key_types
    assert isinstance(key, sa.Uuid)
    reader.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"key": ()}, "A query has no primary key"),
        ({"query": "  "}, "The source's query is empty"),
        ({"schema": "crm"}, "schema='crm' says where a table is"),
    ],
)
def test_settings_that_do_not_go_with_a_query_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        source(**settings)
