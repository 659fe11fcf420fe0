"""Keys whose answers stand in a database of the other kind: found again as they are, or refused before a run."""

import pytest

from llm_assets.errors import SourceError
from llm_assets.pipeline import Pipeline
from llm_assets.records import Partition
from llm_assets.tables import Database, Source
from tests.tables.shop import NOTE, RecordingEngine, Shop, only
from tests.tables.test_source import KEYS, POSTGRES_KEYS

KEYS_ELSEWHERE = {
    "sqlite": {
        "DECIMAL(20)": [2**62 + 1, 2**62 + 2, 1.5, -2],
        "NUMERIC": [0.1, 7, 1e300, -(2**40)],
        "UUID": ["6f1e0f6e-0000-4000-8000-000000000002", "12", "1e5e0f6e"],
        "STRING": ["a", "7", "1_000", "inf", "e", "0.1"],
        "DATETIME": ["2026-11-01 10:00:00", 2451.5, 20261101],
    },
    "postgres": {
        **POSTGRES_KEYS,
        "NUMERIC(30,10)": ["12345678901234567890.0123456789", "12345678901234567890.0123456788", "1.5"],
        "NUMERIC": ["1.10", "100", "12345678901234567890.5"],
        "TIMETZ": ["10:00+02", "10:00+00", "11:00+00"],
        "OID": [4_000_000_000, 1],
        "whole": [2, 1],
        "instant": ["2026-11-01 10:00:00+02", "2026-11-01 10:00:00+00"],
        "word": ["a", "7"],
    },
}
CREATED = [
    "CREATE TYPE mood AS ENUM ('happy', 'sad')",
    "CREATE DOMAIN whole AS integer",
    "CREATE DOMAIN instant AS timestamptz",
    "CREATE DOMAIN word AS text",
]


@pytest.mark.parametrize("others", [(), ("part INTEGER",)], ids=["one column", "two columns"])
@pytest.mark.parametrize("here", ["sqlite", "postgres"])
def test_keys_of_every_kind_are_written_to_the_other_database(
    sqlite_url: str, postgres_url: str, here: str, others: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_assets.tables.source_table.CHUNK_ROWS", 2)
    monkeypatch.setattr("llm_assets.tables.store.CHUNK_ROWS", 2)
    shop = Shop(sqlite_url if here == "sqlite" else postgres_url)
    other = Database(postgres_url if here == "sqlite" else sqlite_url)
    if here == "postgres":
        shop.execute(*CREATED)
    kinds = KEYS | KEYS_ELSEWHERE[here]
    key = ("name", *(column.split()[0] for column in others))
    found = {}
    for number, (kind, values) in enumerate(kinds.items()):
        declared = ", ".join([f"name {kind}", *others, "text TEXT", f"PRIMARY KEY ({', '.join(key)})"])
        shop.execute(f"CREATE TABLE t{number} ({declared})")
        shop.insert(f"t{number}", [{**dict.fromkeys(key, 1), "name": v, "text": f"{kind} {v}"} for v in values])
        pipeline = Pipeline(Source(table=f"t{number}"), [NOTE], RecordingEngine(), shop.database, other)
        counts = [only(pipeline.run(Partition(), run)) for run in ("run-1", "run-2")]
        found[kind] = [(each.rows_answered, each.rows_skipped, each.rows_removed) for each in counts]
    other.close()
    assert found == {kind: [(len(values), 0, 0), (0, len(values), 0)] for kind, values in kinds.items()}


def refused_elsewhere(shop: Shop, other: Database) -> str:
    """Answer the table t into another database, which must be refused before anything is asked; return the message."""
    engine = RecordingEngine()
    with pytest.raises(SourceError) as caught:
        Pipeline(Source(table="t", key=("name",)), [NOTE], engine, shop.database, other).run(Partition(), "run-1")
    other.close()
    assert engine.loads == 0
    return str(caught.value)


@pytest.mark.parametrize(
    ("declared", "value", "words"),
    [
        ("BLOB", "x'00ff'", "the key column 'name' is BLOB, which postgresql cannot hold as it is. Read it through"),
        ("", "7", "the key column 'name' holds 7, and TEXT in the output table does not. Give the column one type"),
        ("INTEGER", "'a'", "the key column 'name' holds 'a', and BIGINT in the output table does not."),
    ],
)
def test_a_key_of_sqlite_that_postgres_cannot_hold_is_refused(
    sqlite_url: str, postgres_url: str, declared: str, value: str, words: str
) -> None:
    shop = Shop(sqlite_url)
    shop.execute(f"CREATE TABLE t (name {declared}, text TEXT)", f"INSERT INTO t VALUES ({value}, 'a')")
    assert words in refused_elsewhere(shop, Database(postgres_url))


@pytest.mark.parametrize(("kind", "value"), [("INT4RANGE", "[1,3)"), ("TSTZRANGE", "[2026-11-01,2026-11-02)")])
def test_a_key_of_postgres_that_sqlite_cannot_hold_is_refused(
    sqlite_url: str, postgres_url: str, kind: str, value: str
) -> None:
    shop = Shop(postgres_url)
    shop.execute(f"CREATE TABLE t (name {kind}, text TEXT)", f"INSERT INTO t VALUES ('{value}', 'a')")
    message = refused_elsewhere(shop, Database(sqlite_url))
    assert f"the key column 'name' is {kind}, which sqlite cannot hold as it is. Read it through a view as" in message


def test_a_key_that_is_not_read_as_it_was_written_ends_the_run(sqlite_url: str, postgres_url: str) -> None:
    shop = Shop(sqlite_url)
    shop.execute("CREATE TABLE t (name DECIMAL(15) PRIMARY KEY, text TEXT)")
    shop.insert("t", [{"name": 2**62 + 1, "text": "more digits than are declared"}])
    other = Database(postgres_url)
    pipeline = Pipeline(Source(table="t"), [NOTE], RecordingEngine(), shop.database, other)
    with pytest.raises(
        SourceError, match=r"the key \(4611686018427387905,\) \(name DECIMAL.* is not read from the outp"
    ):
        pipeline.run(Partition(), "run-1")
    other.close()
