"""What stands in the output tables: values, types, comments, and tables that were there before."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from llm_assets.errors import DatabaseError, OutputTableError, SourceError
from llm_assets.pipeline import Pipeline
from llm_assets.tables import Database, Source, prune_ledger
from llm_assets.tasks import Extract, Generate
from tests.tables.shop import NOTE, SENTIMENT, FaultyEngine, RecordingEngine, Shop, changed, only, outcomes

BROKEN = "a\x00b\ud800c\udfffd"
MENDED = "a\ufffdb\ufffdc\ufffdd"

FIELDS: dict[str, dict[str, Any]] = {
    "words": {"type": "string"},
    "count": {"type": "integer"},
    "price": {"type": "number"},
    "open": {"type": "boolean"},
    "day": {"type": "string", "format": "date"},
    "moment": {"type": "string", "format": "date-time"},
    "tags": {"type": "array", "items": {"type": "string"}},
    "address": {"type": "object", "properties": {"city": {"type": "string"}}},
}
EVERY_TYPE = {
    "type": "object",
    "properties": {name: {**field, "description": f"The {name}."} for name, field in FIELDS.items()},
}
VALUES: dict[str, Any] = {
    "words": 'it\'s "quoted", 表, %s :x \\ {}\n',
    "count": 2**62,
    "price": 0.1,
    "open": True,
    "day": "2026-02-28",
    "moment": "2026-02-28T23:59:59.5+02:00",
    "tags": ["a", "表", ""],
    "address": {"city": "Ærø", "n": None, "deep": [1, {"x": 0.5}]},
}
FACTS = Extract(name="facts", schema=EVERY_TYPE)
OWN_TABLES = ["llm_answers", "llm_failures", "llm_throughput", "llm_version", "reviews_sentiment"]


def answers(shop: Shop, table: str = "reviews_facts") -> list[dict[str, Any]]:
    """Return the rows of a table by the types it declares."""
    found = shop.table(table)
    with shop.database.engine.connect() as connection:
        return [dict(row) for row in connection.execute(found.select().order_by(*found.primary_key)).mappings()]


def instant(moment: datetime) -> datetime:
    """SQLite keeps no zone; what is written there is UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def test_fields_come_back_as_what_they_were(shop: Shop) -> None:
    shop.add(["a"])
    shop.run(FACTS, engine=FaultyEngine(answers={"a": json.dumps(VALUES)}))
    [row] = answers(shop)
    assert {name: row[name] for name in ("words", "count", "price", "open", "tags", "address")} == {
        name: VALUES[name] for name in ("words", "count", "price", "open", "tags", "address")
    }
    assert row["day"] == date(2026, 2, 28)
    assert instant(row["moment"]) == datetime(2026, 2, 28, 21, 59, 59, 500_000, UTC)
    assert row["open"] is True


def test_reused_fields_equal_those_of_the_first_answer(shop: Shop) -> None:
    shop.add(["a"])
    shop.run(FACTS, engine=FaultyEngine(answers={"a": json.dumps(VALUES)}))
    shop.add(["a"], first_id=2)
    assert only(shop.run(FACTS)).rows_reused == 1
    first, second = answers(shop)
    assert {**first, "id": 2, "run_id": "run-2", "answered_at": second["answered_at"]} == second


@pytest.mark.parametrize("written", ["{}", json.dumps(dict.fromkeys(VALUES))], ids=["left out", "null"])
def test_fields_without_a_value_are_null(shop: Shop, written: str) -> None:
    shop.add(["a"])
    shop.run(FACTS, engine=FaultyEngine(answers={"a": written}))
    columns = ", ".join(f'"{name}"' for name in VALUES)
    assert shop.rows(f"SELECT {columns} FROM reviews_facts") == [(None,) * len(VALUES)]


def test_columns_whose_names_differ_in_signs_only_hold_their_own_values(shop: Shop) -> None:
    shop.execute("CREATE TABLE orders (order_id INTEGER PRIMARY KEY, text TEXT)")
    shop.insert("orders", [{"order_id": number, "text": "a"} for number in (1, 2)])
    names = ["unit price", "unit_price", "unit.price", "%", "P", ":", "C", "run id", "order id", "value_0"]
    task = Extract(name="facts", schema={"type": "object", "properties": {name: {"type": "integer"} for name in names}})
    for number, text in enumerate("ab"):  # the second time, rows are replaced
        shop.execute(f"UPDATE orders SET text = '{text}'")
        values = {name: 100 * number + index for index, name in enumerate(names)}
        engine = FaultyEngine(answers={text: json.dumps(values)})
        assert only(shop.run(task, source=Source(table="orders"), engine=engine)).rows_removed == 0
        rows = answers(shop, "orders_facts")
        assert [row["order_id"] for row in rows] == [1, 2]
        assert {row["run_id"] for row in rows} == {f"run-{number + 1}"}
        assert [{name: row[name] for name in names} for row in rows] == [values, values]


def test_a_time_without_a_zone_is_utc_whatever_the_servers_zone(shop: Shop) -> None:
    shop.set_time_zone("Asia/Tokyo")
    shop.add(["a"])
    shop.run(FACTS, engine=FaultyEngine(answers={"a": '{"moment": "2026-02-28T12:00:00"}'}))
    assert instant(answers(shop)[0]["moment"]) == datetime(2026, 2, 28, 12, tzinfo=UTC)


NOT_STORABLE = [
    '{"price": NaN}',
    '{"price": -Infinity}',
    '{"price": 1e999}',
    '{"price": 1' + "0" * 400 + "}",
    '{"count": 9223372036854775808}',
    '{"address": {"n": NaN}}',
    '{"day": "2026-02-30"}',
    '{"moment": "noon"}',
    '{"moment": "2026-02-30T00:00:00"}',
    "[1]",
    "",
]


def test_values_that_no_column_holds_fail_their_rows_only(shop: Shop) -> None:
    texts = [f"bad {i}" for i in range(len(NOT_STORABLE))]
    shop.add(["good", *texts])
    counts = only(shop.run(FACTS, engine=FaultyEngine(answers=dict(zip(texts, NOT_STORABLE, strict=True)))))
    assert outcomes(counts) == (1, 0, 0, len(NOT_STORABLE))
    assert set(shop.column("SELECT kind FROM llm_failures")) == {"invalid_json"}
    assert sorted(shop.column("SELECT raw_output FROM llm_failures")) == sorted(NOT_STORABLE)


def test_nul_and_lone_surrogates_become_replacement_characters(shop: Shop) -> None:
    shop.add(["a", "b"])
    facts = {"words": BROKEN, "tags": [BROKEN], "address": {BROKEN: BROKEN}}
    engine = FaultyEngine(answers={"a": json.dumps(facts), "b": f"{{{BROKEN}"})
    shop.run(FACTS, engine=engine)
    [row] = answers(shop)
    assert (row["words"], row["tags"], row["address"]) == (MENDED, [MENDED], {MENDED: MENDED})
    assert shop.column("SELECT raw_output FROM llm_failures") == [f"{{{MENDED}"]
    shop.add(["a"], first_id=3)
    shop.run(FACTS)
    assert answers(shop)[1]["words"] == MENDED


def test_an_error_message_is_stored_with_replacement_characters(shop: Shop) -> None:
    class Breaking(RecordingEngine):
        def answer(self, request):
            completion = super().answer(request)
            return type(completion)(completion.id, error=BROKEN)

    shop.add(["a"])
    shop.run(engine=Breaking())
    assert shop.column("SELECT message FROM llm_failures") == [MENDED]


def test_answers_are_stored_letter_by_letter(shop: Shop) -> None:
    answers = ["'; DROP TABLE reviews; --", "%s %(x)s :x {text} $1 ?", "\\x00 \\' E'\\n'"]
    shop.add(["a", "b", "c"])
    shop.run(NOTE, engine=FaultyEngine(answers=dict(zip("abc", answers, strict=True))))
    assert shop.column("SELECT answer FROM reviews_note ORDER BY id") == answers
    assert shop.column("SELECT id FROM reviews ORDER BY id") == [1, 2, 3]


def test_fields_may_have_any_name(shop: Shop) -> None:
    names = ["select", "Order", "größe", "with space", 'quo"te', "100%", "a:b", "a(b)", "it's", "a.b", "[x]", "-", "1"]
    shop.add(["a"])
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    values = {name: f"value of {name}" for name in names}
    shop.run(Extract(name="facts", schema=schema), engine=FaultyEngine(answers={"a": json.dumps(values)}))
    [row] = answers(shop)
    assert {name: row[name] for name in names} == values


def test_every_answer_says_how_it_came_to_be(shop: Shop) -> None:
    shop.add(["a"])
    before = datetime.now(UTC).replace(microsecond=0)
    pipeline = shop.pipeline()
    shop.run()
    [row] = answers(shop, "reviews_sentiment")
    assert (row["model"], row["run_id"], row["partition_key"], row["finish_reason"]) == (
        "dummy",
        "run-1",
        "all",
        "stop",
    )
    assert row["fingerprint"] == pipeline.fingerprints["sentiment"]
    # The first 32 digits of SHA-256 of "a", as sha256sum prints them.
    assert row["content_hash"] == "ca978112ca1bbdcafac231b39a23dc4d"
    assert before <= instant(row["answered_at"]) <= datetime.now(UTC)
    assert row["prompt_tokens"] > len("a")
    assert row["output_tokens"] == 1
    assert sum(row["scores"].values()) == pytest.approx(1)
    assert row["confidence"] == max(row["scores"].values()) == row["scores"][row["label"]]


def test_postgres_has_a_comment_on_every_table_and_column(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    bare = Extract(name="bare", schema={"type": "object", "properties": {"undescribed": {"type": "integer"}}})
    shop.pipeline(SENTIMENT, FACTS, NOTE, bare)
    inspector = sa.inspect(shop.database.engine)
    tables = [name for name in inspector.get_table_names() if name != "reviews"]
    assert sorted(tables) == sorted([*OWN_TABLES, "reviews_facts", "reviews_note", "reviews_bare"])
    assert [name for name in tables if not inspector.get_table_comment(name)["text"]] == []
    columns = [(name, column) for name in tables for column in inspector.get_columns(name)]
    assert [(name, column["name"]) for name, column in columns if not column["comment"]] == []
    comments = {column["name"]: column["comment"] for column in inspector.get_columns("reviews_sentiment")}
    facts = {column["name"]: column["comment"] for column in inspector.get_columns("reviews_facts")}
    assert facts["price"] == "The price."
    assert comments["label"] == "The likeliest label: positive, negative."
    assert inspector.get_table_comment("reviews_sentiment")["text"] == "Classify of reviews."


def test_postgres_types_say_what_columns_hold(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.pipeline(FACTS)
    query = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'reviews_facts'"
    types = dict(shop.rows(query))
    assert {name: types[name] for name in ["id", *VALUES]} == {
        "id": "bigint",
        "words": "text",
        "count": "bigint",
        "price": "double precision",
        "open": "boolean",
        "day": "date",
        "moment": "timestamp with time zone",
        "tags": "jsonb",
        "address": "jsonb",
    }


def test_the_output_schema_holds_every_table(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.execute("CREATE SCHEMA answers")
    shop.add(["a", None])
    assert outcomes(only(shop.run(output_schema="answers"))) == (1, 0, 0, 1)
    assert outcomes(only(shop.run(output_schema="answers"))) == (0, 0, 1, 1)
    inspector = sa.inspect(shop.database.engine)
    assert sorted(inspector.get_table_names("answers")) == OWN_TABLES
    assert inspector.get_table_names() == ["reviews"]
    assert shop.pipeline(output_schema="answers").store.table_name("sentiment") == "answers.reviews_sentiment"


def test_an_output_schema_that_does_not_exist_is_named(shop: Shop) -> None:
    engine = RecordingEngine()
    with pytest.raises(OutputTableError, match=r"There is no schema 'answres' in .* Create it, or choose one of .*ma"):
        shop.pipeline(output_schema="answres", engine=engine)
    assert engine.loads == 0


def test_a_table_with_other_columns_is_named_with_the_difference(shop: Shop) -> None:
    shop.run()
    shop.execute("ALTER TABLE reviews_sentiment DROP COLUMN margin", "ALTER TABLE reviews_sentiment ADD mine TEXT")
    engine = RecordingEngine()
    with pytest.raises(OutputTableError) as caught:
        shop.pipeline(engine=engine)
    assert str(caught.value) == (
        f"The columns of the output table 'reviews_sentiment' in {shop.database.name} have changed: mine is not "
        "written any more. Give the task another name to keep the old table, or drop what is stale; new columns "
        "are added by themselves:\nALTER TABLE reviews_sentiment DROP COLUMN mine;"
    )
    assert engine.loads == 0


def test_a_task_whose_fields_changed_is_told_apart_from_its_old_table(shop: Shop) -> None:
    shop.run(FACTS)
    fewer = {"type": "object", "properties": {"words": {"type": "string"}}}
    with pytest.raises(OutputTableError, match=r"(?s)address is not written any more; count is .*DROP COLUMN tags;$"):
        shop.pipeline(Extract(name="facts", schema=fewer))


def test_a_refused_pipeline_makes_no_tables(shop: Shop) -> None:
    shop.execute("CREATE TABLE reviews_sentiment (x INTEGER)")
    with pytest.raises(OutputTableError):
        shop.pipeline()
    assert sorted(sa.inspect(shop.database.engine).get_table_names()) == ["reviews", "reviews_sentiment"]


@pytest.mark.parametrize(("name", "size"), [("t" * 54, 64), ("ä" * 28, 66)])
def test_a_table_name_too_long_for_postgres_is_refused(postgres_url: str, name: str, size: int) -> None:
    shop = Shop(postgres_url)
    shop.execute(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, text TEXT)")
    with pytest.raises(OutputTableError, match=rf"'{name}_sentiment' is too long for Postgres: {size} bytes.*most 63"):
        shop.pipeline(source=Source(table=name))


def test_the_longest_table_name_of_postgres_works(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    name = "t" * 53
    shop.execute(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, text TEXT)", f"INSERT INTO {name} VALUES (1, 'a')")
    assert only(shop.run(source=Source(table=name))).rows_answered == 1
    assert only(shop.run(source=Source(table=name))).rows_skipped == 1


def test_pipelines_that_start_together_on_an_empty_database_share_its_tables(shop: Shop) -> None:
    def start(_: int) -> str:
        database = Database(shop.url)
        pipeline = Pipeline(Source(table="reviews"), [SENTIMENT, NOTE, FACTS], RecordingEngine(), database, database)
        database.close()
        return pipeline.store.table_name("note")

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(start, range(8))) == {"reviews_note"}
    assert sorted(sa.inspect(shop.database.engine).get_table_names()) == sorted(
        [*OWN_TABLES, "reviews", "reviews_facts", "reviews_note"]
    )


def test_log_probabilities_are_stored_for_each_token(shop: Shop) -> None:
    shop.add(["a"])
    shop.run(changed(Generate(name="note", instruction="Say."), sampling={"logprobs": 2}))
    [row] = answers(shop, "reviews_note")
    assert "".join(item["token"] for item in row["logprobs"]) == row["answer"]
    # The dummy engine gives every token a probability of 0.9.
    assert {round(math.exp(item["logprob"]), 6) for item in row["logprobs"]} == {0.9}


def test_two_sources_cannot_write_to_the_same_output_tables(shop: Shop) -> None:
    for name in ("a b", "a_b"):
        shop.execute(f'CREATE TABLE "{name}" (id INTEGER PRIMARY KEY, text TEXT)')
        shop.insert(name, [{"id": 1, "text": name}])
    shop.run(source=Source(table="a b"))
    with pytest.raises(OutputTableError, match=r"a_b_sentiment hold the answers of the source 'a b', and 'a_b' would"):
        shop.pipeline(source=Source(table="a_b"))
    assert shop.column("SELECT count(*) FROM a_b_sentiment") == [1]
    shop.run(source=Source(table="a b"))


def test_a_source_that_could_not_be_read_owns_no_output_tables(shop: Shop) -> None:
    for name, id in (("a b", None), ("a_b", 1)):
        shop.execute(f'CREATE TABLE "{name}" (id INTEGER, text TEXT)')
        shop.insert(name, [{"id": id, "text": name}])
    with pytest.raises(SourceError, match="'id' is NULL in some rows"):
        shop.run(source=Source(table="a b", key=("id",)))
    shop.run(source=Source(table="a_b", key=("id",)))
    assert shop.rows("SELECT source, status FROM llm_throughput ORDER BY source") == [
        ("a b", "failed"),
        ("a_b", "complete"),
    ]


def test_the_ledger_is_pruned_by_age_and_the_answers_stay(shop: Shop) -> None:
    shop.add(["a", "b"])
    shop.run()
    [first, _] = shop.column("SELECT content_hash FROM llm_answers ORDER BY content_hash")
    shop.execute(f"UPDATE llm_answers SET answered_at = '2026-01-01 00:00:00' WHERE content_hash = '{first}'")
    assert prune_ledger(shop.database, datetime(2026, 6, 1, tzinfo=UTC)) == 1
    assert first not in shop.column("SELECT content_hash FROM llm_answers")
    assert shop.column("SELECT count(*) FROM reviews_sentiment") == [2]
    engine = RecordingEngine()
    shop.run(engine=engine)
    assert engine.loads == 0


def test_a_database_without_a_ledger_is_named_when_it_is_pruned(shop: Shop) -> None:
    with pytest.raises(DatabaseError, match="There is no table 'llm_answers' in"):
        prune_ledger(shop.database, datetime(2026, 6, 1, tzinfo=UTC))
