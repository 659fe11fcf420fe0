"""Reading a source table: keys, names, pages, views, conditions, and settings that do not fit the table."""

import pytest
from pydantic import ValidationError

from llm_assets.errors import LLMAssetsError, SourceError
from llm_assets.records import Equals, Partition
from llm_assets.tables import Source, SourceTable
from llm_assets.tables.source_table import CHUNK_ROWS
from llm_assets.tasks import Classify
from tests.tables.shop import RecordingEngine, Shop, day, only, outcomes

ODD_NAMES = ["order", 'My semi;"quote', "it's", "büro-表", "100%s", "a:b.c", "Robert'); --"]
HOSTILE = 'reviews"; DROP TABLE reviews; --'


def refuse(shop: Shop, source: Source, text: str = "{text}", column: str | None = None) -> str:
    """Run a pipeline that must be refused before the engine is touched; return the message."""
    engine = RecordingEngine()
    task = sentiment(text)
    with pytest.raises(LLMAssetsError) as caught:
        shop.run(task, source=source, column=column, engine=engine)
    assert (engine.loads, engine.runs) == (0, 0)
    assert isinstance(caught.value, SourceError)
    return str(caught.value)


def sentiment(text: str) -> Classify:
    return Classify(name="sentiment", labels=("positive", "negative"), text=text)


def quoted(shop: Shop, name: str) -> str:
    return shop.database.engine.dialect.identifier_preparer.quote_identifier(name).replace("%%", "%")


def read_keys(shop: Shop, source: Source) -> list[list[tuple[object, ...]]]:
    table = SourceTable(shop.database, source, ["text"])
    return [[row.key for row in rows] for rows in table.read(Partition())]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_tables_and_keys_with_odd_names_are_read_and_written(shop: Shop, name: str) -> None:
    table = quoted(shop, name)
    shop.execute(f"CREATE TABLE {table} ({table} TEXT PRIMARY KEY, text TEXT)")
    shop.insert(name, [{name: "a'b", "text": "x"}, {name: 'c"d', "text": "y"}])
    assert only(shop.run(source=Source(table=name))).rows_answered == 2
    shop.execute(f"DELETE FROM {table} WHERE text = 'x'")
    assert outcomes(only(shop.run(source=Source(table=name)))) == (0, 0, 1, 0)
    output = shop.table(Source(table=name).output_prefix + "_sentiment")
    with shop.database.engine.connect() as connection:
        assert [row[0] for row in connection.execute(output.select())] == ['c"d']


def test_templates_may_name_columns_with_reserved_and_unicode_names(shop: Shop) -> None:
    columns = ["select", "Text", "größe", "user", "values", "index", "key"]
    declared = ", ".join(f'"{column}" TEXT' for column in columns)
    shop.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, {declared})")
    shop.insert("t", [{"id": 1, **{column: column.upper() for column in columns}}])
    engine = RecordingEngine()
    shop.run(sentiment("|".join(f"{{{column}}}" for column in columns)), source=Source(table="t"), engine=engine)
    assert engine.texts == ["SELECT|TEXT|GRÖSSE|USER|VALUES|INDEX|KEY"]


def test_a_hostile_table_name_is_a_name(shop: Shop) -> None:
    shop.add(["a"])
    shop.execute(f"CREATE TABLE {quoted(shop, HOSTILE)} (id INTEGER PRIMARY KEY, text TEXT)")
    shop.insert(HOSTILE, [{"id": 5, "text": "b"}])
    engine = RecordingEngine()
    shop.run(source=Source(table=HOSTILE), engine=engine)
    assert engine.texts == ["b"]
    assert shop.column("SELECT id FROM reviews") == [1]


@pytest.mark.parametrize("name", [HOSTILE, "reviews WHERE 1=1", "reviews; SELECT 1"])
def test_a_hostile_table_name_that_does_not_exist_is_refused(shop: Shop, name: str) -> None:
    shop.add(["a"])
    assert f"There is no table {name!r}" in refuse(shop, Source(table=name))
    assert shop.column("SELECT id FROM reviews") == [1]


def test_hostile_values_are_values(shop: Shop) -> None:
    hostile = "x'; DROP TABLE reviews; --"
    shop.execute("CREATE TABLE t (name TEXT PRIMARY KEY, part TEXT, text TEXT)")
    rows = [{"name": f"{hostile}{i}", "part": part, "text": hostile} for i, part in enumerate([hostile, "safe"])]
    shop.insert("t", rows)
    partition = Partition(hostile, (Equals("part", hostile),))
    engine = RecordingEngine()
    counts = only(shop.run(source=Source(table="t"), column="part", partition=partition, engine=engine))
    assert counts.rows_read == 1
    assert engine.texts == [hostile]
    assert shop.rows("SELECT name, partition_key FROM t_sentiment") == [(f"{hostile}0", hostile)]
    assert shop.rows("SELECT * FROM reviews") == []


def test_a_partition_value_is_compared_as_it_is(shop: Shop) -> None:
    shop.add(["a"], day="monday")
    table = SourceTable(shop.database, Source(table="reviews"), ["text"], ["day"])
    values = ["monday", "' OR '1'='1", "monday' --", "%", "_onday", "monday\\"]
    assert [table.count(day(value)) for value in values] == [1, 0, 0, 0, 0, 0]


KEYS = {
    "INTEGER": [1, 2, 2**31 - 1, -5],
    "BIGINT": [2**40, -(2**62), 0],
    "TEXT": ["b", "a", "", "it's", 'say "x"', "naïve", "表", "1", "A", "%s", ":x", "a\\b"],
    "VARCHAR(40)": ["b", "a"],
    "DATE": ["2026-11-02", "2026-11-01"],
    "TIMESTAMP": ["2026-11-01 10:00:00", "2026-11-01 09:59:59"],
    "NUMERIC(10,2)": [1.1, 2.25, -3],
    "DOUBLE PRECISION": [0.1, 1e300, -2.5],
    "BOOLEAN": [True, False],
}


POSTGRES_KEYS = {
    "UUID": ["6f1e0f6e-0000-4000-8000-000000000002", "6f1e0f6e-0000-4000-8000-000000000001"],
    "TIMESTAMPTZ": ["2026-11-01 10:00:00+02", "2026-11-01 10:00:00.000001+00", "infinity", "-infinity"],
    "TIMESTAMP": ["2026-11-01 10:00:00", "infinity", "-infinity"],
    "DATE": ["infinity", "2026-11-01", "-infinity"],
    "CHAR(5)": ["ab", "c"],
    "SMALLINT": [2, 1],
    "TIME": ["10:00:00", "09:00:00"],
    "INTERVAL": ["1 day", "2 hours"],
    "INET": ["10.0.0.1", "10.0.0.0"],
    "mood": ["sad", "happy"],
}


def answer_twice(shop: Shop, kind: str, values: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer rows with such a key, delete one, and run again: the others must be found, in pages of two."""
    monkeypatch.setattr("llm_assets.tables.source_table.CHUNK_ROWS", 2)
    monkeypatch.setattr("llm_assets.tables.store.CHUNK_ROWS", 2)
    shop.execute(f"CREATE TABLE t (name {kind} PRIMARY KEY, text TEXT)")
    shop.insert("t", [{"name": value, "text": f"text {i}"} for i, value in enumerate(values)])
    source = Source(table="t")
    assert only(shop.run(source=source)).rows_answered == len(values)
    shop.execute("DELETE FROM t WHERE text = 'text 1'")
    counts = only(shop.run(source=source))
    assert (counts.rows_skipped, counts.rows_removed) == (len(values) - 1, 1)
    assert shop.column("SELECT COUNT(*) FROM t JOIN t_sentiment USING (name)") == [len(values) - 1]


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_every_kind_find_their_answers_again(shop: Shop, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_twice(shop, kind, KEYS[kind], monkeypatch)


@pytest.mark.parametrize("kind", POSTGRES_KEYS)
def test_keys_of_kinds_only_in_postgres_find_their_answers_again(
    postgres_url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(postgres_url)
    shop.execute("CREATE TYPE mood AS ENUM ('happy', 'sad')")
    answer_twice(shop, kind, POSTGRES_KEYS[kind], monkeypatch)


def test_a_real_key_in_postgres_is_refused_with_the_way_out(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.execute("CREATE TABLE t (size REAL PRIMARY KEY, text TEXT)", "INSERT INTO t VALUES (0.1, 'a')")
    assert "the key column 'size' is REAL, whose values do not equal the numbers that they are read as. Read it" in (
        refuse(shop, Source(table="t"))
    )
    shop.execute("CREATE VIEW v AS SELECT CAST(size AS TEXT) AS size, text FROM t")
    source = Source(table="v", key=("size",))
    assert [only(shop.run(source=source)).rows_skipped for _ in range(2)] == [0, 1]


def test_a_key_with_a_column_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"The key \(id, day, id\) has the column 'id' twice\. Name it once"):
        Source(table="reviews", key=("id", "day", "id"))


def test_a_binary_key_in_postgres_is_refused_with_the_way_out(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.execute("CREATE TABLE t (code BYTEA PRIMARY KEY, text TEXT)", "INSERT INTO t VALUES ('\\x00ff', 'a')")
    assert "the key column 'code' is binary. Read it through a view as text: encode(code, 'hex')." in refuse(
        shop, Source(table="t")
    )
    shop.execute("CREATE VIEW v AS SELECT encode(code, 'hex') AS code, text FROM t")
    assert only(shop.run(source=Source(table="v", key=("code",)))).rows_answered == 1


def test_composite_keys_find_their_answers_again(shop: Shop) -> None:
    shop.execute("CREATE TABLE t (shop TEXT, number INTEGER, text TEXT, PRIMARY KEY (shop, number))")
    shop.insert("t", [{"shop": name, "number": i, "text": f"{name}{i}"} for name in ("a", "b'") for i in (1, 2)])
    shop.execute("UPDATE t SET text = NULL WHERE number = 2")
    assert outcomes(only(shop.run(source=Source(table="t")))) == (2, 0, 0, 2)
    assert shop.column("SELECT row_key FROM llm_failures ORDER BY row_key") == ['["a", 2]', '["b\'", 2]']
    assert outcomes(only(shop.run(source=Source(table="t")))) == (0, 0, 2, 2)
    shop.execute("DELETE FROM t WHERE shop = 'a'")
    assert only(shop.run(source=Source(table="t"))).rows_removed == 1
    assert shop.rows("SELECT shop, number FROM t_sentiment") == [("b'", 1)]
    assert shop.column("SELECT row_key FROM llm_failures") == ['["b\'", 2]']


def test_pages_hold_every_row_once_in_the_order_of_a_composite_key(shop: Shop) -> None:
    shop.execute("CREATE TABLE t (a INTEGER, b TEXT, c INTEGER, text TEXT, PRIMARY KEY (a, b, c))")
    names = ["", "A", "a", "z", "ä"]
    keys = [(i % 3, names[i % 5], i) for i in range(2 * CHUNK_ROWS + 10)]
    shop.insert("t", [{"a": a, "b": b, "c": c, "text": "x"} for a, b, c in keys])
    pages = read_keys(shop, Source(table="t"))
    assert [len(page) for page in pages] == [CHUNK_ROWS, CHUNK_ROWS, 10]
    found = [key for page in pages for key in page]
    assert found == sorted(keys)
    assert found == shop.rows("SELECT a, b, c FROM t ORDER BY a, b, c")


def test_a_run_over_several_pages_of_a_composite_key_skips_them_all_next_time(shop: Shop) -> None:
    shop.execute("CREATE TABLE t (a INTEGER, b TEXT, text TEXT, PRIMARY KEY (a, b))")
    total = 2 * CHUNK_ROWS + 10
    shop.insert("t", [{"a": i % 7, "b": f"b{i}", "text": f"text {i}"} for i in range(total)])
    assert only(shop.run(source=Source(table="t"))).rows_answered == total
    assert outcomes(only(shop.run(source=Source(table="t")))) == (0, 0, total, 0)


def test_a_key_may_be_given_instead_of_the_primary_key(shop: Shop) -> None:
    shop.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, code TEXT, text TEXT)")
    shop.insert("t", [{"id": 1, "code": "x", "text": "a"}, {"id": 2, "code": "w", "text": "b"}])
    shop.run(source=Source.model_validate({"table": "t", "key": "code"}))
    assert shop.column("SELECT code FROM t_sentiment ORDER BY code") == ["w", "x"]


@pytest.mark.parametrize("expression", ["id", "id + 1"], ids=["column", "expression"])
def test_a_view_is_a_source(shop: Shop, expression: str) -> None:
    shop.add(["a", "b", "c"])
    shop.execute(f"CREATE VIEW short AS SELECT {expression} AS number, text FROM reviews WHERE id <> 2")
    source = Source(table="short", key=("number",))
    engine = RecordingEngine()
    shop.run(source=source, engine=engine)
    assert sorted(engine.texts) == ["a", "c"]
    assert outcomes(only(shop.run(source=source))) == (0, 0, 2, 0)


def test_a_condition_leaves_rows_out(shop: Shop) -> None:
    shop.add(["a", "b", "ab"])
    source = Source(table="reviews", where="text LIKE 'a%' OR id = 99")
    engine = RecordingEngine()
    shop.run(source=source, engine=engine, column="day", partition=day("monday"))
    assert engine.texts == ["a", "ab"]


def test_a_condition_is_sql_as_it_stands(shop: Shop) -> None:
    shop.add([":b", "12:30", "%"])
    found = {}
    for where in ["text = ':b'", "text <> ':b' AND text <> '12:30'", "text LIKE '%:30'", "CAST(id AS TEXT) = '3'"]:
        table = SourceTable(shop.database, Source(table="reviews", where=where), ["text"])
        found[where] = [row.key for rows in table.read(Partition()) for row in rows]
    assert list(found.values()) == [[(1,)], [(3,)], [(2,)], [(3,)]]


def test_a_condition_that_is_no_sql_is_named(shop: Shop) -> None:
    shop.add(["a"])
    message = refuse(shop, Source(table="reviews", where="txt IS NOT NULL"))
    assert "Table 'reviews': partition 'all' cannot be read: " in message
    assert "txt" in message
    assert "Check the partition's value, `where`, and the right to read the table." in message


def test_rows_that_a_condition_leaves_out_later_lose_their_answers(shop: Shop) -> None:
    shop.add(["a", "b"])
    shop.run()
    assert only(shop.run(source=Source(table="reviews", where="id = 1"))).rows_removed == 1


def test_a_table_of_another_schema_is_a_source(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.execute('CREATE SCHEMA "My Shop"', 'CREATE TABLE "My Shop".t (id INTEGER PRIMARY KEY, text TEXT)')
    shop.execute("""INSERT INTO "My Shop".t VALUES (1, 'a'), (2, NULL)""")
    source = Source.model_validate({"table": "t", "schema": "My Shop"})
    assert outcomes(only(shop.run(source=source))) == (1, 0, 0, 1)
    assert shop.column("SELECT source FROM llm_failures") == ["My Shop.t"]
    assert "Did you mean 't'?" in refuse(shop, Source.model_validate({"table": "tt", "schema": "My Shop"}))


def test_text_that_is_no_utf8_is_read_with_replacement_characters(sqlite_url: str) -> None:
    shop = Shop(sqlite_url)
    shop.execute("INSERT INTO reviews VALUES (1, 'monday', CAST(X'6180FF62' AS TEXT))")
    engine = RecordingEngine()
    shop.run(engine=engine)
    assert engine.texts == ["a\ufffd\ufffdb"]


def test_values_that_are_no_text_are_asked_about_as_text(shop: Shop) -> None:
    shop.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, price DOUBLE PRECISION, open BOOLEAN, day DATE)")
    shop.insert("t", [{"id": 1, "price": 2.5, "open": None, "day": "2026-11-01"}])
    engine = RecordingEngine()
    shop.run(sentiment("{price}|{open}|{day}"), source=Source(table="t"), engine=engine)
    assert engine.texts == ["2.5||2026-11-01"]


def test_an_unknown_column_in_a_template_is_named_with_the_nearest(shop: Shop) -> None:
    message = refuse(shop, Source(table="reviews"), text="{txt}")
    assert message == (
        "Table 'reviews' has no column 'txt', which a text template names. Did you mean 'text'? Valid: day, id, text."
    )


def test_an_unknown_key_or_partition_column_is_named(shop: Shop) -> None:
    assert "no column 'idd', which the key names. Did you mean 'id'?" in refuse(
        shop, Source(table="reviews", key=("idd",))
    )
    assert "no column 'dya', which the partitions name. Did you mean 'day'?" in refuse(
        shop, Source(table="reviews"), column="dya"
    )


def test_an_unknown_table_is_named_with_the_nearest(shop: Shop) -> None:
    shop.execute("CREATE VIEW view_of_all AS SELECT * FROM reviews")
    message = refuse(shop, Source(table="reviewz"))
    assert f"There is no table 'reviewz' in {shop.database.name}. Did you mean 'reviews'?" in message
    assert "Did you mean 'view_of_all'?" in refuse(shop, Source(table="view_of_al"))


def test_a_table_without_a_key_is_refused(shop: Shop) -> None:
    shop.execute("CREATE TABLE t (id INTEGER, text TEXT)")
    message = refuse(shop, Source(table="t"))
    assert message == ("Table 't' has no primary key. Say which columns name a row: key=['id']. Columns: id, text.")


@pytest.mark.parametrize("key", [("code",), ("shop", "code")])
def test_a_key_that_stands_twice_is_refused_with_its_value(shop: Shop, key: tuple[str, ...]) -> None:
    shop.execute("CREATE TABLE t (shop TEXT, code TEXT, text TEXT)")
    shop.insert("t", [{"shop": "s", "code": code, "text": "x"} for code in ("a", "b", "b")])
    message = refuse(shop, Source(table="t", key=key))
    assert f"Table 't': the key ({', '.join(key)}) is not unique" in message
    assert "code='b' stands in several rows of partition 'all'" in message
    assert "Choose columns that name one row each." in message


def test_a_key_that_is_null_is_refused_and_where_is_the_way_out(shop: Shop) -> None:
    shop.execute("CREATE TABLE t (code TEXT UNIQUE, text TEXT)")
    shop.insert("t", [{"code": None, "text": "x"}, {"code": "a", "text": "y"}])
    message = refuse(shop, Source(table="t", key=("code",)))
    assert "Table 't': the key column 'code' is NULL in some rows of partition 'all'." in message
    assert "leave those rows out with `where`" in message
    assert only(shop.run(source=Source(table="t", key=("code",), where="code IS NOT NULL"))).rows_answered == 1


def test_duplicate_keys_in_another_partition_do_not_stop_this_one(shop: Shop) -> None:
    shop.execute("CREATE TABLE t (code TEXT, day TEXT, text TEXT)")
    rows = [("a", "monday"), ("b", "tuesday"), ("b", "tuesday")]
    shop.insert("t", [{"code": code, "day": name, "text": "x"} for code, name in rows])
    source = Source(table="t", key=("code",))
    assert only(shop.run(source=source, column="day", partition=day("monday"))).rows_answered == 1


@pytest.mark.parametrize("table", ["", "  "])
def test_a_source_needs_a_table_name(table: str) -> None:
    with pytest.raises(ValidationError, match=r"The source has no table name. Write the name of a table or view."):
        Source(table=table)
