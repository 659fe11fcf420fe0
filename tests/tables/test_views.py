"""The view of all answers: each row once, each answer and each reason in its place, and nothing lost by a change."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_assets.errors import ConfigError, DatabaseError, OutputTableError
from llm_assets.pipeline import task_outputs
from llm_assets.records import FailureKind
from llm_assets.tables import AnsweredView, Database, Source
from llm_assets.tables.columns import key_text
from llm_assets.tables.row_keys import row_key_sql
from llm_assets.tasks import Classify, Extract, Task
from tests.postgres import PostgresServer
from tests.tables.shop import NOTE, SENTIMENT, FaultyEngine, Shop, changed
from tests.tables.test_store import FACTS, VALUES

REVIEWS = Source(table="reviews")
ODD = Source(table="odd %s table", key=("the :key",))


def view_of(
    shop: Shop, *tasks: Task, source: Source = REVIEWS, schema: str | None = None, **names: Any
) -> AnsweredView:
    return AnsweredView(shop.database, source, task_outputs(source, tasks), schema, **names)


def records(shop: Shop, query: str) -> list[dict[str, Any]]:
    with shop.database.engine.connect() as connection:
        return [dict(row) for row in connection.exec_driver_sql(query).mappings()]


def test_each_row_stands_once_with_its_answers_or_the_reason(shop: Shop) -> None:
    shop.add(["good", None, "bad", "refused"])
    answers = {"good": json.dumps(VALUES), "bad": "[1]"}
    engine = FaultyEngine(answers=answers, errors={"refused": FailureKind.REFUSED_REQUEST})
    shop.run(SENTIMENT, FACTS, engine=engine)
    shop.add(["new"], first_id=5)
    view = view_of(shop, SENTIMENT, FACTS)
    view.create()
    rows = records(shop, "SELECT * FROM reviews_answered ORDER BY id")
    assert list(rows[0]) == [column.name for column in view.columns]
    assert [(row["id"], row["day"], row["text"]) for row in rows] == shop.rows("SELECT * FROM reviews ORDER BY id")
    assert [(row["sentiment_failed"], row["facts_failed"]) for row in rows] == [
        (None, None),
        ("empty_text", "empty_text"),
        (None, "invalid_json"),
        ("refused_request", "refused_request"),
        (None, None),
    ]
    for task, columns in [("sentiment", SENTIMENT.columns), ("facts", FACTS.columns)]:
        stored = {row["id"]: row for row in records(shop, f"SELECT * FROM reviews_{task}")}
        assert set(stored) == {row["id"] for row in rows if row[f"{task}_answered_at"] is not None} != set()
        for row in rows:
            names = [column.name for column in columns] + ["answered_at"]
            expected = stored.get(row["id"], dict.fromkeys(names))
            assert {name: row[f"{task}_{name}"] for name in names} == {name: expected[name] for name in names}


def test_rows_that_the_source_leaves_out_are_not_in_the_view(shop: Shop) -> None:
    shop.add(["100% :x", "50%", "it's 100%"])
    source = Source(table="reviews", where="text LIKE '%100%' AND text <> ':x'")
    shop.run(SENTIMENT, source=source)
    view_of(shop, SENTIMENT, source=source).create()
    assert shop.rows("SELECT id, sentiment_label IS NULL FROM reviews_answered ORDER BY id") == [(1, 0), (3, 0)]


def test_a_source_that_is_a_select_stands_in_the_view(shop: Shop) -> None:
    shop.add(["a", None, "c%:x"])
    query = "SELECT r.id AS number, r.text, LENGTH(r.text) AS size FROM reviews r -- what '%' :x is\n; "
    for where in (None, "number <> 1 AND text_of_source.text IS NOT NULL OR size IS NULL"):
        source = Source(table="text_of_source", query=query, key="number", where=where)
        shop.run(SENTIMENT, source=source)
        view_of(shop, SENTIMENT, source=source).create()
        assert sa.inspect(shop.database.engine).has_table("text_of_source_answered")
        rows = shop.rows(
            "SELECT number, size, sentiment_label IS NOT NULL, sentiment_failed FROM text_of_source_answered "
            "ORDER BY number"
        )
        expected = [(1, 1, True, None), (2, None, False, "empty_text"), (3, 4, True, None)]
        assert rows == (expected if where is None else expected[1:])


def test_names_may_be_anything(shop: Shop) -> None:
    shop.execute('CREATE TABLE "odd %s table" ("the :key" TEXT PRIMARY KEY, "quo""te%" TEXT, "select" TEXT)')
    shop.insert(ODD.table, [{"the :key": "it's", 'quo"te%': "a", "select": "x"}])
    shop.insert(ODD.table, [{"the :key": "b%s", 'quo"te%': None, "select": "y"}])
    schema = {"type": "object", "properties": {"Ä b%": {"type": "string", "description": "it's\n:x % --"}}}
    task = Extract(name="facts", schema=schema, text="{select}")
    shop.run(task, source=ODD, engine=FaultyEngine(answers={"x": '{"Ä b%": "found"}', "y": "[1]"}))
    view = view_of(shop, task, source=ODD)
    view.create()
    view.create()
    rows = records(shop, 'SELECT * FROM odd__s_table_answered ORDER BY "select"')
    assert [(row["the :key"], row['quo"te%'], row["facts_Ä b%"], row["facts_failed"]) for row in rows] == [
        ("it's", "a", "found", None),
        ("b%s", None, None, "invalid_json"),
    ]


def test_keys_of_several_columns_find_their_reasons(shop: Shop) -> None:
    shop.execute("CREATE TABLE lines (shop TEXT, n INTEGER, day DATE, text TEXT, PRIMARY KEY (shop, n, day))")
    keys = [('a "b" \\ é\t表', -1, date(2026, 1, 2)), ("", 0, date(2026, 1, 2)), ("x", 0, date(2026, 1, 3))]
    days = [key[2] if shop.database.dialect == "postgresql" else key[2].isoformat() for key in keys]
    rows = [{"shop": key[0], "n": key[1], "day": day, "text": None} for key, day in zip(keys, days, strict=True)]
    rows[2]["text"] = "answered"
    shop.insert("lines", rows)
    source = Source(table="lines")
    shop.run(SENTIMENT, source=source)
    view_of(shop, SENTIMENT, source=source).create()
    found = shop.rows("SELECT sentiment_failed FROM lines_answered ORDER BY n, day")
    assert found == [("empty_text",), ("empty_text",), (None,)]


KEYS: dict[str, tuple[str, Any, st.SearchStrategy[Any]]] = {
    "text": ("TEXT", sa.Text(), st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"))),
    "integer": ("BIGINT", sa.BigInteger(), st.integers(-(2**63), 2**63 - 1)),
}
POSTGRES_KEYS: dict[str, tuple[str, Any, st.SearchStrategy[Any]]] = {
    **KEYS,
    "boolean": ("BOOLEAN", sa.Boolean(), st.booleans()),
    "date": ("DATE", sa.Date(), st.dates()),
    "timestamp": ("TIMESTAMP", sa.DateTime(), st.datetimes()),
    "timestamptz": (
        "TIMESTAMPTZ",
        sa.DateTime(True),
        st.datetimes(timezones=st.just(UTC), min_value=datetime(2, 1, 1)),
    ),
    "numeric": ("NUMERIC", sa.Numeric(), st.decimals(allow_nan=False, allow_infinity=False, places=3)),
    "uuid": ("UUID", sa.Uuid(), st.uuids().map(str)),
    "char": ("CHAR(3)", sa.CHAR(3), st.sampled_from(["abc", "a", "é", ""])),
}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def connection(request: pytest.FixtureRequest, postgres: PostgresServer) -> Iterator[sa.Connection]:
    database = Database(postgres.url() if request.param == "postgres" else "sqlite://")
    with database.engine.connect() as connection:
        if request.param == "postgres":
            connection.exec_driver_sql("SET timezone TO 'UTC'")
        yield connection
    database.close()


def stored_key(connection: sa.Connection, kinds: Sequence[tuple[str, Any, Any]], values: Sequence[Any]) -> str:
    """Return the key's text in SQL, and make sure that the driver gives what Python writes the same for."""
    names = [f"CAST(%s AS {kind[0]})" if connection.dialect.name == "postgresql" else "?" for kind in kinds]
    row = ", ".join(f"{name} AS k{index}" for index, name in enumerate(names))
    keys = [(f"k{index}", kind[1]) for index, kind in enumerate(kinds)]
    columns = ", ".join(name for name, _ in keys)
    query = f"SELECT {row_key_sql(keys, connection.dialect.name)}, {columns} FROM (SELECT {row}) AS one"
    text, *read = connection.exec_driver_sql(query, tuple(values)).one()
    assert key_text(tuple(read)) == text, (read, text)
    return text


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_key_is_written_in_sql_as_in_python(connection: sa.Connection, data: st.DataObject) -> None:
    known = list((POSTGRES_KEYS if connection.dialect.name == "postgresql" else KEYS).values())
    kinds = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
    values = [data.draw(kind[2]) for kind in kinds]
    text = stored_key(connection, kinds, values)
    if len(kinds) > 1:
        assert len(json.loads(text)) == len(kinds)


def test_postgres_has_a_comment_on_the_view_and_on_each_of_its_columns(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.execute("COMMENT ON COLUMN reviews.text IS 'What the customer''s 100% :sure of.'")
    shop.add(["a"])
    shop.run(SENTIMENT, FACTS, NOTE)
    view_of(shop, SENTIMENT, FACTS, NOTE).create()
    inspector = sa.inspect(shop.database.engine)
    comments = {column["name"]: column["comment"] for column in inspector.get_columns("reviews_answered")}
    assert [name for name, comment in comments.items() if not comment] == []
    assert comments["text"] == "What the customer's 100% :sure of."
    assert comments["day"] == "As in reviews."
    assert comments["sentiment_label"] == "sentiment: The likeliest label: positive, negative."
    assert "Every row of reviews" in str(inspector.get_table_comment("reviews_answered")["text"])


def test_sqlite_keeps_the_comments_in_the_views_own_sql(sqlite_url: str) -> None:
    shop = Shop(sqlite_url)
    shop.run(SENTIMENT, FACTS)
    view = view_of(shop, SENTIMENT, FACTS)
    view.create()
    [text] = shop.column("SELECT sql FROM sqlite_master WHERE name = 'reviews_answered'")
    for column in view.columns:
        if column.owner.startswith("task"):
            assert f"    -- {column.comment}\n    {column.sql} AS {column.name}" in text


def test_answers_and_reasons_are_found_by_their_keys(sqlite_url: str) -> None:
    shop = Shop(sqlite_url)
    shop.run(SENTIMENT, NOTE)
    view_of(shop, SENTIMENT, NOTE).create()
    plan = [row[3] for row in shop.rows("EXPLAIN QUERY PLAN SELECT * FROM reviews_answered")]
    assert plan[0] == "SCAN source"
    assert [step.split(" USING INDEX")[0] for step in plan[1:]] == [
        "SEARCH answer_sentiment",
        "SEARCH failure_sentiment",
        "SEARCH answer_note",
        "SEARCH failure_note",
    ]


def test_the_script_does_what_create_does(shop: Shop) -> None:
    shop.add(["a", None])
    shop.run(SENTIMENT)
    view = view_of(shop, SENTIMENT)
    for _ in range(2):
        with shop.database.engine.begin() as connection:
            cursor = connection.connection.cursor()
            if shop.database.dialect == "sqlite":
                cursor.executescript(view.sql)
            else:
                cursor.execute(view.sql)
    by_script = shop.rows("SELECT * FROM reviews_answered")
    view.create()
    assert shop.rows("SELECT * FROM reviews_answered") == by_script != []


@pytest.mark.parametrize(
    ("source_columns", "tasks", "twice", "owners"),
    [
        ("sentiment_label TEXT", [SENTIMENT], "sentiment_label", "the source 'reviews' and of task 'sentiment'"),
        ("sentiment_failed TEXT", [SENTIMENT], "sentiment_failed", "the source 'reviews' and of task 'sentiment'"),
        (
            "x TEXT",
            [
                Extract(name="a", schema={"type": "object", "properties": {"b_label": {"type": "string"}}}),
                Classify(name="a_b", labels=("x", "y")),
            ],
            "a_b_label",
            "task 'a' and of task 'a_b'",
        ),
    ],
)
def test_a_name_that_would_stand_twice_is_refused(
    shop: Shop, source_columns: str, tasks: list[Task], twice: str, owners: str
) -> None:
    shop.execute(f"ALTER TABLE reviews ADD {source_columns}")
    with pytest.raises(ConfigError, match=f"'reviews_answered' would have the column '{twice}' twice: of {owners}"):
        view_of(shop, *tasks)


def test_a_task_named_like_the_view_is_refused(shop: Shop) -> None:
    task = changed(SENTIMENT, name="answered")
    with pytest.raises(ConfigError, match="cannot be named 'reviews_answered', as the answers of task 'answered' are"):
        view_of(shop, task)
    shop.run(task)
    view_of(shop, task, name="reviews_all").create()


def test_a_name_too_long_for_postgres_is_refused(postgres_url: str) -> None:
    task = changed(SENTIMENT, name="t" * 52)
    with pytest.raises(
        ConfigError, match=r"'t{52}_confidence' .* too long for Postgres: 63 bytes|64 bytes, of at most"
    ):
        view_of(Shop(postgres_url), task)


def test_answers_that_are_not_there_yet_are_named(shop: Shop) -> None:
    with pytest.raises(OutputTableError, match=r"'sentiment' has not been run .*the table does not exist.*Materialize"):
        view_of(shop, SENTIMENT).create()
    shop.run(FACTS)
    more = {"type": "object", "properties": {"words": {"type": "string"}, "colour": {"type": "string"}}}
    with pytest.raises(OutputTableError, match=r"'facts' has not been run .*reviews_facts has no column colour"):
        view_of(shop, Extract(name="facts", schema=more)).create()


@pytest.mark.parametrize("made", ["TABLE reviews_answered (x INTEGER)", "VIEW reviews_answered AS SELECT 1 AS x"])
def test_what_someone_else_made_under_the_name_stays(shop: Shop, made: str) -> None:
    shop.run(SENTIMENT)
    shop.execute(f"CREATE {made}")
    with pytest.raises(OutputTableError, match=r"was not made by llm_assets|is not a view"):
        view_of(shop, SENTIMENT).create()
    assert shop.rows("SELECT x FROM reviews_answered") in ([], [(1,)])
    view_of(shop, SENTIMENT, name="other_name").create()


def test_a_changed_task_changes_the_view(shop: Shop) -> None:
    shop.add(["a"])
    shop.run(SENTIMENT, FACTS)
    view_of(shop, SENTIMENT, FACTS).create()
    view_of(shop, FACTS, SENTIMENT).create()
    view_of(shop, SENTIMENT).create()
    [row] = records(shop, "SELECT * FROM reviews_answered")
    assert not [name for name in row if name.startswith("facts")]
    shop.execute("ALTER TABLE reviews ADD stars INTEGER")
    view_of(shop, SENTIMENT, FACTS).create()
    assert {"stars", "facts_words"} < set(records(shop, "SELECT * FROM reviews_answered")[0])


def test_grants_options_and_owner_survive_a_new_view(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    for role in ("view_reader", "View Owner", "view_other"):
        if not shop.rows(f"SELECT FROM pg_roles WHERE rolname = '{role}'"):
            shop.execute(f'CREATE ROLE "{role}"')
    shop.run(SENTIMENT, FACTS)
    view_of(shop, SENTIMENT, FACTS).create()
    shop.execute(
        'GRANT CREATE, USAGE ON SCHEMA public TO "View Owner"',
        'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "View Owner"',
        'ALTER VIEW reviews_answered OWNER TO "View Owner"',
        "ALTER VIEW reviews_answered SET (security_invoker = true, security_barrier = true)",
        "GRANT SELECT ON reviews_answered TO view_reader WITH GRANT OPTION",
        "GRANT SELECT ON reviews_answered TO PUBLIC",
        "GRANT SELECT (id, facts_words) ON reviews_answered TO view_other",
        # A new view would have this too.
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO view_other",
    )

    def state() -> list[tuple[Any, ...]]:
        return shop.rows(
            "SELECT relowner::regrole::text, reloptions, relacl::text FROM pg_class WHERE relname = 'reviews_answered'"
        )

    before = state()
    view_of(shop, SENTIMENT, FACTS).create()
    assert state() == before
    view_of(shop, SENTIMENT).create()  # columns are gone: dropped and made anew
    assert "facts_words" not in {
        column["name"] for column in sa.inspect(shop.database.engine).get_columns("reviews_answered")
    }
    assert state() == before
    columns = shop.rows(
        "SELECT attname, attacl::text FROM pg_attribute "
        "WHERE attrelid = 'reviews_answered'::regclass AND attacl IS NOT NULL"
    )
    assert columns == [("id", '{"view_other=r/\\"View Owner\\""}')]


def test_a_view_that_others_depend_on_is_left_as_it_was(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.add(["a"])
    shop.run(SENTIMENT, FACTS)
    view_of(shop, SENTIMENT, FACTS).create()
    shop.execute("CREATE VIEW report AS SELECT facts_words FROM reviews_answered")
    shop.execute("ALTER TABLE reviews ADD stars INTEGER")
    with pytest.raises(
        DatabaseError, match=r"cannot be made .*view report depends on view reviews_answered.*as it was"
    ):
        view_of(shop, SENTIMENT).create()
    assert shop.rows("SELECT COUNT(*) FROM report") == [(1,)]
    assert shop.rows("SELECT COUNT(sentiment_label), COUNT(facts_answered_at) FROM reviews_answered") == [(1, 1)]


def test_a_view_stands_in_the_schema_of_the_answers(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.execute("CREATE SCHEMA answers", 'CREATE SCHEMA "Raw Data"', 'ALTER TABLE reviews SET SCHEMA "Raw Data"')
    shop.execute("INSERT INTO \"Raw Data\".reviews VALUES (1, 'monday', 'a'), (2, 'monday', '')")
    source = Source(table="reviews", schema="Raw Data")
    shop.run(SENTIMENT, source=source, output_schema="answers")
    view_of(shop, SENTIMENT, source=source, schema="answers").create()
    found = shop.rows(
        "SELECT id, sentiment_label IS NOT NULL, sentiment_failed FROM answers.reviews_answered ORDER BY id"
    )
    assert found == [(1, True, None), (2, False, "empty_text")]


def test_a_database_that_holds_no_answers_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds no answers: its kind is 'mysql'"):
        AnsweredView(Database("mysql://x/y"), REVIEWS, [])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("postgresql://a:b@h/x", "postgresql+psycopg2://c@h:5432/x", True),
        ("postgresql://a:b@h/x", "postgresql://a:b@h/y", False),
        ("postgresql://h/x", "postgresql://h:5433/x", False),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/../tmp/a.db", True),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/b.db", False),
    ],
)
def test_databases_are_the_same_whoever_connects(one: str, other: str, same: bool) -> None:
    assert Database(one).is_same(Database(other)) is same
