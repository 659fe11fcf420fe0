"""Answers as DataFrames: every value as it was answered, the same types from both databases, and clear refusals."""

import json
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_assets import to_pandas
from llm_assets.engines import DummyEngine
from llm_assets.errors import ConfigError, DatabaseError
from llm_assets.pipeline import task_outputs
from llm_assets.records import Answer, Column
from llm_assets.tables import AnsweredView, AnswerToWrite, Batch, Database, Output, Source, SourceTable, Store
from tests.postgres import PostgresServer
from tests.tables.shop import SENTIMENT, FaultyEngine, Shop, day
from tests.tables.test_store import FACTS, VALUES

COLUMNS = (
    Column("words", "text", "Words."),
    Column("count", "integer", "Count."),
    Column("price", "number", "Price."),
    Column("open", "boolean", "Open."),
    Column("day", "date", "Day."),
    Column("moment", "datetime", "Moment."),
    Column("tags", "json", "Tags."),
)
DTYPES = {
    "words": "string",
    "count": "Int64",
    "price": "float64",
    "open": "boolean",
    "day": "datetime64[s]",
    "moment": "datetime64[us, UTC]",
    "tags": "object",
    "model": "string",
    "fingerprint": "string",
    "content_hash": "string",
    "prompt_tokens": "Int64",
    "output_tokens": "Int64",
    "finish_reason": "string",
    "run_id": "string",
    "answered_at": "datetime64[us, UTC]",
    "partition_key": "string",
}

texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
# In JSON, Postgres makes no difference between 1e16 and 10000000000000000.
json_numbers = st.floats(-1e15, 1e15) | st.integers(-(2**63), 2**63 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | json_numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
rows_of_answers = st.lists(
    st.fixed_dictionaries(
        {
            "words": st.none() | texts,
            "count": st.none() | st.integers(-(2**63), 2**63 - 1),
            "price": st.none() | numbers,
            "open": st.none() | st.booleans(),
            "day": st.none() | st.dates(),
            "moment": st.none() | st.datetimes(timezones=st.just(UTC)),
            "tags": st.none() | st.lists(json_values, max_size=3) | st.dictionaries(texts, json_values, max_size=3),
        }
    ),
    min_size=1,
    max_size=6,
)


class Answers:
    """A table of answers that are written as a pipeline writes them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        shop = Shop(database.url)
        source = SourceTable(database, Source(table="reviews"), ())
        self.store = Store(database, source, [Output("facts", "reviews_facts", COLUMNS, "Facts.")])
        self.store.prepare()
        shop.database.close()

    def write(self, answers: list[dict[str, Any]]) -> None:
        with self.database.engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM reviews_facts")
        batch = Batch()
        for index, columns in enumerate(answers):
            answer = Answer(columns, 10 + index, index, "stop")
            batch.answers.append(AnswerToWrite("facts", (index,), "all", "fp", f"hash {index}", answer, False, False))
        self.store.write(batch, "model", "run-1")


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def answers(
    request: pytest.FixtureRequest, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Answers]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('frame') / 'answers.db'}"
    else:
        postgres.execute("CREATE DATABASE frames")
        url = postgres.url("frames")
    database = Database(url)
    yield Answers(database)
    database.close()


def plain(value: Any) -> Any:
    """Return a cell as Python's own value, None for every kind of nothing."""
    if isinstance(value, list | dict):
        return value
    return None if pd.isna(value) else value


@settings(max_examples=60, deadline=None)
@given(written=rows_of_answers)
def test_every_value_comes_back_as_it_was_answered(answers: Answers, written: list[dict[str, Any]]) -> None:
    answers.write(written)
    found = to_pandas(answers.database, "reviews_facts")
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == DTYPES
    assert list(found.index) == list(range(len(written)))
    for name in ("words", "count", "price", "open", "tags"):
        assert [plain(value) for value in found[name]] == [row[name] for row in written]
    assert [value and value.to_pydatetime() for value in map(plain, found["moment"])] == [
        row["moment"] for row in written
    ]
    assert [value and value.to_pydatetime().date() for value in map(plain, found["day"])] == [
        row["day"] for row in written
    ]
    assert list(found["prompt_tokens"]) == [10 + index for index in range(len(written))]


def test_types_do_not_depend_on_what_stands_there(answers: Answers) -> None:
    answers.write([])
    empty = to_pandas(answers.database, "reviews_facts")
    assert {name: str(dtype) for name, dtype in empty.dtypes.items()} == DTYPES
    assert (len(empty), empty.index.name, str(empty.index.dtype)) == (0, "id", "Int64")
    answers.write([dict.fromkeys([column.name for column in COLUMNS])])
    nothing = to_pandas(answers.database, "reviews_facts")
    assert {name: str(dtype) for name, dtype in nothing.dtypes.items()} == DTYPES
    assert nothing[[column.name for column in COLUMNS]].isna().all().all()


def test_portions_give_what_one_portion_gives(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"words": None if n % 3 else str(n), "count": n, "price": n / 7, "open": n % 2 == 0 or None}
        | {"day": date(2026, 1, 1) + timedelta(n), "moment": None, "tags": [n]}
        for n in range(25)
    ]
    answers.write(rows)
    whole = to_pandas(answers.database, "reviews_facts")
    monkeypatch.setattr("llm_assets.tables.answers.FETCH_ROWS", 4)
    pd.testing.assert_frame_equal(to_pandas(answers.database, "reviews_facts"), whole)


@pytest.fixture
def days(shop: Shop) -> Shop:
    """A shop with three days, of which the last has no text at all, and a fourth that no run has seen."""
    shop.set_time_zone("Asia/Tokyo")
    for number in range(3):
        name = f"2026-11-0{number + 1}"
        shop.add(["a", f"b{number}"] if number < 2 else ["", None], first_id=10 * number, day=name)
        shop.run(SENTIMENT, partition=day(name), column="day", engine=FaultyEngine())
    return shop


def test_a_partition_or_a_range_of_them_is_read(days: Shop) -> None:
    def ids(partition: Any) -> list[int]:
        return list(to_pandas(days.url, "reviews_sentiment", partition).index)

    assert ids("2026-11-01") == [0, 1]
    assert ids("2026-11-02") == ids(("2026-11-02", "2026-11-02")) == [10, 11]
    assert ids(("2026-11-01", "2026-11-02")) == ids(("2026-10-01", "2026-12-01")) == ids(None) == [0, 1, 10, 11]


def test_a_partition_whose_rows_all_failed_is_empty_and_no_error(days: Shop) -> None:
    found = to_pandas(days.url, "reviews_sentiment", "2026-11-03")
    assert len(found) == 0
    assert str(found["confidence"].dtype) == "float64"


def test_a_partition_that_is_not_there_is_named_with_the_closest(days: Shop) -> None:
    with pytest.raises(ConfigError, match=r"'reviews_sentiment' .* no partition '2026-11-1'\. Did you mean '2026-11-"):
        to_pandas(days.url, "reviews_sentiment", "2026-11-1")
    with pytest.raises(ConfigError, match=r"no partition from '2027-01-01' to '2027-02-01'"):
        to_pandas(days.url, "reviews_sentiment", ("2027-01-01", "2027-02-01"))
    with pytest.raises(ConfigError, match=r"ends at '2026-11-01', before it begins at '2026-11-02'"):
        to_pandas(days.url, "reviews_sentiment", ("2026-11-02", "2026-11-01"))
    with pytest.raises(ConfigError, match=r"\('a', 'b', 'c'\) is neither a key"):
        to_pandas(days.url, "reviews_sentiment", ("a", "b", "c"))  # pyright: ignore[reportArgumentType]


def test_of_many_partitions_the_first_and_the_last_are_named(days: Shop) -> None:
    days.execute(
        *(f"UPDATE reviews_sentiment SET partition_key = 'p{n:03}' WHERE id = {n}" for n in (0, 1, 10, 11)),
        *(
            f"INSERT INTO llm_throughput SELECT run_id, source, task, 'p{n:03}', "
            + ", ".join(column.name for column in days.table("llm_throughput").columns if not column.primary_key)
            + " FROM llm_throughput WHERE partition_key = '2026-11-01'"
            for n in range(100, 130)
        ),
    )
    with pytest.raises(ConfigError, match=r"no partition 'q'\. They go from '2026-11-01' to 'p129'\.$"):
        to_pandas(days.url, "reviews_sentiment", "q")


def test_a_table_or_column_that_is_not_there_is_named_with_the_closest(days: Shop) -> None:
    with pytest.raises(DatabaseError, match=r"no table 'reviews_sentimnt' in .*Did you mean 'reviews_sentiment'"):
        to_pandas(days.url, "reviews_sentimnt")
    with pytest.raises(ConfigError, match=r"no column 'lable'\. Did you mean 'label'"):
        to_pandas(days.url, "reviews_sentiment", columns=["lable"])
    with pytest.raises(ConfigError, match="'label' is given twice"):
        to_pandas(days.url, "reviews_sentiment", columns=["label", "label"])
    with pytest.raises(DatabaseError, match=r"There is no schema 'nowhere'"):
        to_pandas(days.url, "reviews_sentiment", schema="nowhere")
    with pytest.raises(ConfigError, match=r"'reviews' has no column partition_key"):
        to_pandas(days.url, "reviews", "2026-11-01")


def test_a_database_that_is_not_there_is_not_made(tmp_path) -> None:
    with pytest.raises(DatabaseError, match="There is no database"):
        to_pandas(f"sqlite:///{tmp_path / 'none.db'}", "reviews_sentiment")
    assert list(tmp_path.iterdir()) == []


def test_columns_are_chosen_and_ordered(days: Shop) -> None:
    found = to_pandas(days.url, "reviews_sentiment", columns=["margin", "label"])
    assert (list(found.columns), found.index.name) == (["margin", "label"], "id")
    found = to_pandas(days.url, "reviews_sentiment", columns=["label", "id"], index=False)
    assert list(found.columns) == ["label", "id"]
    assert isinstance(found.index, pd.RangeIndex)


def test_it_says_what_answered(days: Shop) -> None:
    [before] = days.column("SELECT DISTINCT fingerprint FROM reviews_sentiment")
    days.run(SENTIMENT, partition=day("2026-11-02"), column="day", engine=DummyEngine(identity="other"))
    attrs = to_pandas(days.url, "reviews_sentiment", columns=["label"]).attrs
    assert (attrs["table"], attrs["partition"], attrs["models"]) == ("reviews_sentiment", None, ["dummy", "other"])
    assert attrs["fingerprints"][before] == 2
    assert sum(attrs["fingerprints"].values()) == 4
    attrs = to_pandas(days.url, "reviews_sentiment", "2026-11-02").attrs
    assert (attrs["partition"], attrs["models"], list(attrs["fingerprints"].values())) == ("2026-11-02", ["other"], [2])


def test_an_engine_and_a_database_are_read_and_left_open(days: Shop) -> None:
    engine = sa.create_engine(days.url)
    expected = to_pandas(days.url, "reviews_sentiment")
    for given_database in (engine, days.database):
        pd.testing.assert_frame_equal(to_pandas(given_database, "reviews_sentiment"), expected)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1
    engine.dispose()


def test_a_time_is_utc_whatever_the_sessions_zone(days: Shop) -> None:
    found = to_pandas(days.url, "reviews_sentiment")["answered_at"]
    now = datetime.now(UTC)
    assert (abs(found - now) < timedelta(minutes=10)).all()


def test_the_packages_other_tables_are_read(days: Shop) -> None:
    failures = to_pandas(days.url, "llm_failures")
    assert list(failures.index.names) == ["source", "task", "row_key"]
    assert list(failures["kind"]) == ["empty_text"] * 2
    assert str(failures["failed_at"].dtype) == "datetime64[us, UTC]"
    throughput = to_pandas(days.url, "llm_throughput", ("2026-11-01", "2026-11-02"))
    assert throughput["rows_read"].sum() == 4
    assert to_pandas(days.url, "llm_answers", index=False)["answer"].map(lambda answer: set(answer)).tolist()[0] == {
        "label",
        "confidence",
        "margin",
        "scores",
    }


def test_the_view_is_read_with_the_types_of_source_and_answers(shop: Shop) -> None:
    shop.execute("ALTER TABLE reviews ADD at TIMESTAMP", "ALTER TABLE reviews ADD stars NUMERIC(3, 1)")
    shop.add(["good", None])
    shop.execute("UPDATE reviews SET at = '2026-11-01 12:00:00.5', stars = 4.5 WHERE id = 1")
    shop.run(SENTIMENT, FACTS, engine=FaultyEngine(answers={"good": json.dumps(VALUES)}))
    source = Source(table="reviews")
    AnsweredView(shop.database, source, task_outputs(source, [SENTIMENT, FACTS])).create()
    found = to_pandas(shop.url, "reviews_answered").set_index("id")
    types = {name: str(dtype) for name, dtype in found.dtypes.items()}
    assert types == {
        "day": "string",
        "text": "string",
        "at": "datetime64[us]",
        "stars": "float64",
        "sentiment_label": "string",
        "sentiment_confidence": "float64",
        "sentiment_margin": "float64",
        "sentiment_scores": "object",
        "sentiment_answered_at": "datetime64[us, UTC]",
        "sentiment_failed": "string",
        **{f"facts_{name}": DTYPES.get(name, "object") for name in VALUES if name != "address"},
        "facts_address": "object",
        "facts_confidence": "float64",
        "facts_answered_at": "datetime64[us, UTC]",
        "facts_failed": "string",
    }
    assert found.loc[1, "at"] == pd.Timestamp("2026-11-01 12:00:00.5")
    assert found.loc[1, "facts_moment"] == pd.Timestamp("2026-02-28T21:59:59.5Z")
    assert found.loc[1, "facts_address"] == VALUES["address"]
    assert found.loc[2, "sentiment_failed"] == "empty_text"
    assert pd.isna(found.loc[2, "sentiment_label"])


def test_a_view_of_any_name_has_the_types_of_source_and_answers(shop: Shop) -> None:
    shop.execute("ALTER TABLE reviews ADD sentiment_at TIMESTAMP")
    shop.add(["good"])
    shop.run(SENTIMENT, FACTS, engine=FaultyEngine(answers={"good": json.dumps(VALUES)}))
    source = Source(table="reviews")
    AnsweredView(shop.database, source, task_outputs(source, [SENTIMENT, FACTS]), name="overview").create()
    types = {name: str(dtype) for name, dtype in to_pandas(shop.url, "overview").dtypes.items()}
    assert {name: dtype for name, dtype in types.items() if dtype.startswith("datetime64[us")} == {
        "sentiment_at": "datetime64[us]",
        "sentiment_answered_at": "datetime64[us, UTC]",
        "facts_moment": "datetime64[us, UTC]",
        "facts_answered_at": "datetime64[us, UTC]",
    }


@pytest.mark.parametrize("name", ["label", "kind", "source", "task"])
def test_json_may_have_the_name_of_a_text_that_repeats(shop: Shop, name: str) -> None:
    shop.execute(f"CREATE TABLE odd (id INTEGER PRIMARY KEY, {name} JSON)")
    shop.execute("""INSERT INTO odd VALUES (1, '["a", {"b": 1}]'), (2, NULL), (3, '"a"'), (4, '[]')""")
    assert [plain(value) for value in to_pandas(shop.url, "odd")[name]] == [["a", {"b": 1}], None, "a", []]


def test_arrays_may_have_the_name_of_a_text_that_repeats(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.execute("CREATE TABLE odd AS SELECT 1 AS id, '{a,b}'::TEXT[] AS source UNION SELECT 2, NULL ORDER BY id")
    assert [plain(value) for value in to_pandas(shop.database, "odd")["source"]] == [["a", "b"], None]


def test_a_source_column_that_is_not_what_it_says_keeps_its_values(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_assets.tables.answers.FETCH_ROWS", 2)
    shop = Shop(sqlite_url)
    shop.execute(
        "CREATE TABLE odd (id INTEGER PRIMARY KEY, n INTEGER, at DATETIME, flag BOOLEAN, data JSON, x REAL)",
        "INSERT INTO odd VALUES (1, 1, '2026-01-01 00:00:00', 1, '[1]', 1.5), (2, NULL, NULL, NULL, NULL, NULL)",
        "INSERT INTO odd VALUES (3, 'three', 'noon', 7, '[1,', 'x'), (4, 4, '2026-01-02 00:00:00', 0, '2', 2)",
    )
    found = to_pandas(sqlite_url, "odd")
    assert {str(dtype) for dtype in found.dtypes} == {"object"}
    assert [plain(value) for value in found["n"]] == [1, None, "three", 4]
    assert [plain(value) for value in found["at"]][1:] == [None, "noon", "2026-01-02 00:00:00"]
    assert [plain(value) for value in found["flag"]] == [True, None, 7, 0]
    assert [plain(value) for value in found["data"]] == [[1], None, "[1,", "2"]
    assert [plain(value) for value in found["x"]] == [1.5, None, "x", 2]


def test_times_that_python_lacks_are_kept_as_postgres_writes_them(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.execute("CREATE TABLE old (id INTEGER PRIMARY KEY, at TIMESTAMP)")
    shop.execute("INSERT INTO old VALUES (1, '0044-03-15 12:00 BC'), (2, NULL)")
    found = to_pandas(shop.database, "old")["at"]
    assert [plain(value) for value in found] == ["0044-03-15 12:00:00 BC", None]


def test_a_long_table_takes_little_more_memory_than_its_dataframe(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_assets.tables.answers.FETCH_ROWS", 1000)
    shop = Shop(sqlite_url)
    shop.execute(
        "CREATE TABLE long (id INTEGER PRIMARY KEY, n BIGINT, x DOUBLE, label TEXT)",
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 100000) "
        "INSERT INTO long SELECT i, i, i * 0.5, 'a label of some length ' || (i % 3) FROM c",
    )
    to_pandas(shop.database, "long", columns=["n"])  # what is loaded at first use is no part of it
    tracemalloc.start()
    found = to_pandas(shop.database, "long")
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 100_000
    # All rows as Python's objects would be ten times as much.
    assert peak < 2.2 * size
    assert size < 7e6


def test_a_table_that_may_not_be_read_is_named_without_the_password(
    postgres: PostgresServer, postgres_url: str
) -> None:
    shop = Shop(postgres_url)
    shop.execute("DROP ROLE IF EXISTS frame_reader", "CREATE ROLE frame_reader LOGIN PASSWORD 'hunter2-frames'")
    url = postgres.url(postgres_url.rpartition("/")[2], "frame_reader", "hunter2-frames")
    for database in (url, sa.create_engine(url)):
        with pytest.raises(DatabaseError, match=r"'reviews' in .* cannot be read: permission denied") as caught:
            to_pandas(database, "reviews")
        assert "hunter2-frames" not in str(caught.value)
