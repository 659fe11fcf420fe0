"""Values that are no text where a text or a key should stand: bytes, broken UTF-8, NUL, NaN, times beyond Python's."""

import random
from itertools import islice

import pytest

from llm_assets.errors import ConfigError, SourceError
from llm_assets.pipeline import Pipeline
from llm_assets.records import Partition
from llm_assets.tables import Database, Source, SourceTable
from tests.tables.shop import SENTIMENT, RecordingEngine, Shop, only, outcomes

TABLE = Source(table="t")


def texts_of(shop: Shop) -> set[str]:
    """Run twice and return what was asked the first time; the second time nothing may be."""
    engines = RecordingEngine(), RecordingEngine()
    for engine in engines:
        shop.run(source=TABLE, engine=engine)
    assert engines[1].texts == []
    assert len(set(engines[0].texts)) == len(engines[0].texts)
    return set(engines[0].texts)


def settle(shop: Shop, output: Database | None = None) -> None:
    """Run twice. The source is refused in words, or each row has its own outcome, which the second run finds again."""
    output = output or shop.database
    [rows] = shop.column("SELECT COUNT(*) FROM t")
    for number in range(2):
        engine = RecordingEngine()
        try:
            pipeline = Pipeline(TABLE, [SENTIMENT], engine, shop.database, output)
            counts = only(pipeline.run(Partition(), f"run-{number}"))
        except (ConfigError, SourceError):
            assert number == 0
            return
        assert counts.rows_read == rows
        assert counts.rows_removed == 0
        with output.engine.connect() as connection:
            stored = [
                connection.exec_driver_sql(f"SELECT COUNT(*) FROM {table}").scalar_one()
                for table in ("t_sentiment", "llm_failures")
            ]
        assert sum(stored) == rows
    assert (counts.rows_answered, counts.rows_reused) == (0, 0)
    assert engine.texts == []


# Texts.


def test_bytes_in_a_column_of_text_are_read_as_utf8(sqlite_url: str) -> None:
    shop = Shop(sqlite_url)
    shop.execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)",
        "INSERT INTO t VALUES (1, CAST('caf\u00e9' AS BLOB)), (2, X'62616420FF'), (3, X''), (4, X'2020')",
    )
    assert texts_of(shop) == {"caf\u00e9", "bad \ufffd"}
    assert shop.column("SELECT kind FROM llm_failures") == ["empty_text", "empty_text"]


def test_bytes_in_postgres_are_read_as_utf8(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, text BYTEA)",
        "INSERT INTO t VALUES (1, convert_to('caf\u00e9', 'UTF8')), (2, '\\x62616420ff')",
    )
    assert texts_of(shop) == {"caf\u00e9", "bad \ufffd"}


@pytest.mark.parametrize("kind", ["JSON", "JSONB"])
def test_json_in_postgres_is_asked_about_as_json(postgres_url: str, kind: str) -> None:
    shop = Shop(postgres_url)
    shop.execute(
        f"CREATE TABLE t (id INTEGER PRIMARY KEY, text {kind})",
        """INSERT INTO t VALUES (1, '{"a": null, "b": [true, "x"]}')""",
    )
    assert texts_of(shop) == {'{"a": null, "b": [true, "x"]}'}


@pytest.mark.parametrize("moment", ["0044-03-15 BC", "12024-01-01"])
def test_a_time_that_python_cannot_hold_stops_no_other_row(postgres_url: str, moment: str) -> None:
    shop = Shop(postgres_url)
    shop.execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, text TIMESTAMP)",
        f"INSERT INTO t VALUES (1, '{moment}'), (2, '2024-02-29')",
    )
    settle(shop)


def test_numbers_in_a_column_without_a_type_are_asked_about_as_text(sqlite_url: str) -> None:
    shop = Shop(sqlite_url)
    shop.execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, text)",
        "INSERT INTO t VALUES (1, 42), (2, 4.5), (3, 9e999), (4, 1=1), (5, date('2024-02-29')), (6, 0)",
    )
    assert texts_of(shop) == {"42", "4.5", "inf", "1", "2024-02-29", "0"}


# Keys.

BROKEN_KEYS = {
    "one": ["X'61FF'"],
    "two alike": ["X'61FF'", "X'61FE'"],
    "surrogate": ["X'EDA080'"],
}


@pytest.mark.parametrize("keys", BROKEN_KEYS.values(), ids=BROKEN_KEYS)
def test_keys_that_are_no_utf8_keep_their_answers(sqlite_url: str, keys: list[str]) -> None:
    shop = Shop(sqlite_url)
    shop.execute("CREATE TABLE t (name TEXT PRIMARY KEY, text TEXT)", "INSERT INTO t VALUES ('plain', 'a film')")
    shop.execute(*(f"INSERT INTO t VALUES (CAST({key} AS TEXT), 'film {n}')" for n, key in enumerate(keys)))
    settle(shop)


@pytest.mark.parametrize("byte", ["FF", "80"], ids=["behind", "before"])
def test_pages_go_on_behind_a_key_that_is_no_utf8(sqlite_url: str, byte: str, monkeypatch) -> None:
    monkeypatch.setattr("llm_assets.tables.source_table.CHUNK_ROWS", 1)
    shop = Shop(sqlite_url)
    shop.execute(
        "CREATE TABLE t (name TEXT PRIMARY KEY, text TEXT)",
        f"INSERT INTO t VALUES (CAST(X'61{byte}' AS TEXT), 'one'), ('a\u00e9', 'two'), ('b', 'three')",
    )
    try:
        pages = list(islice(SourceTable(shop.database, TABLE, ["text"]).read(Partition()), 10))
    except (ConfigError, SourceError):
        return
    assert sorted(str(row.values["text"]) for page in pages for row in page) == ["one", "three", "two"]


def test_a_nul_in_a_key_is_no_obstacle_to_writing_to_postgres(sqlite_url: str, postgres_url: str) -> None:
    shop = Shop(sqlite_url)
    shop.execute("CREATE TABLE t (name TEXT PRIMARY KEY, text TEXT)")
    shop.insert("t", [{"name": "a\0b", "text": "one"}, {"name": "c", "text": "two"}])
    output = Database(postgres_url)
    settle(shop, output)
    output.close()


def test_failing_rows_whose_keys_differ_only_in_their_type_both_stand_among_the_failures(sqlite_url: str) -> None:
    shop = Shop(sqlite_url)
    shop.execute("CREATE TABLE t (name PRIMARY KEY, text TEXT)")
    shop.insert("t", [{"name": key, "text": None} for key in (1, "1", b"x", "b'x'")])
    settle(shop)


def test_keys_of_numbers_and_text_find_their_answers_again(sqlite_url: str) -> None:
    shop = Shop(sqlite_url)
    shop.execute("CREATE TABLE t (name PRIMARY KEY, text TEXT)")
    shop.insert("t", [{"name": key, "text": f"film {key}"} for key in (1.5, "a", b"b", 7)])
    settle(shop)


@pytest.mark.parametrize("kind", ["DOUBLE PRECISION", "NUMERIC"])
def test_a_key_that_is_no_number_keeps_its_answer(postgres_url: str, kind: str) -> None:
    shop = Shop(postgres_url)
    shop.execute(
        f"CREATE TABLE t (name {kind} PRIMARY KEY, text TEXT)",
        "INSERT INTO t VALUES ('NaN', 'one'), ('Infinity', 'two'), (1, 'three')",
    )
    settle(shop)


def test_failing_rows_whose_keys_grow_in_json_are_written(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.execute("CREATE TABLE t (shop TEXT, name TEXT, text TEXT, PRIMARY KEY (shop, name))")
    letters = random.Random(1)
    controls = [chr(code) for code in (*range(1, 9), *range(14, 32))]
    name = "".join(letters.choices(controls, k=2000) + [chr(letters.randrange(33, 127)) for _ in range(500)])
    shop.insert("t", [{"shop": "a", "name": name, "text": None}, {"shop": "a", "name": "b", "text": "a film"}])
    settle(shop)


def test_failing_rows_with_keys_as_long_as_postgres_takes_are_written(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.execute("CREATE TABLE t (name TEXT PRIMARY KEY, text TEXT)")
    letters = random.Random(1)
    keys = ["".join(chr(letters.randrange(33, 127)) for _ in range(size)) for size in (2000, 2600)]
    shop.insert("t", [{"name": key, "text": None} for key in keys])
    settle(shop)
    assert outcomes(only(shop.run(source=TABLE))) == (0, 0, 0, 2)
