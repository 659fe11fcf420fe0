"""Tables as CSV: what stands in the cells, what a spreadsheet would act on, and how much memory it takes."""

import csv
import io
import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from llm_assets.errors import ConfigError, DatabaseError
from llm_assets.tables import Database, export_csv, export_file
from llm_assets.tables.export import unformulaic
from llm_assets.tasks import Extract
from tests.postgres import PostgresServer
from tests.tables.shop import FaultyEngine, Shop
from tests.tables.test_store import EVERY_TYPE, VALUES

FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "=cmd|' /C calc'!A0",
    '=HYPERLINK("http://example.org/?"&A1;"click")',
    "\t=1",
    "\r=1",
    "\n=1",
    "\tharmless after a tab",
    "\rharmless after a return",
    "   =1+1",
    "\N{NO-BREAK SPACE}=1",
    "\N{IDEOGRAPHIC SPACE}@x",
    "\N{ZERO WIDTH NO-BREAK SPACE}=1",
    "\N{RIGHT-TO-LEFT OVERRIDE}=1",
    "\x1b=1",
    "\N{FULLWIDTH EQUALS SIGN}1",
    "\N{FULLWIDTH PLUS SIGN}1",
    "\N{FULLWIDTH HYPHEN-MINUS}1",
    "\N{FULLWIDTH COMMERCIAL AT}x",
    "\N{SMALL EQUALS SIGN}1",
    "\N{MINUS SIGN}1",
    " \N{FULLWIDTH EQUALS SIGN}1",
    "=",
]
HARMLESS = [
    "",
    " ",
    "a=1",
    "1+1",
    "'=1",
    '"=1"',
    "me@example.org",
    "5-4",
    "—x",
    "表",
    "*bold*",
    "12",
    "#REF!",
    "<b>",
    "a\n=1",
    "a,b;c\td",
]


def exported(shop: Shop, table: str, **options: object) -> str:
    stream = io.StringIO(newline="")
    count = export_csv(shop.database, table, stream, **options)  # pyright: ignore[reportArgumentType]
    text = stream.getvalue()
    assert len(list(csv.reader(io.StringIO(text, newline="")))) == count + 1
    return text


def cells(shop: Shop, table: str, **options: object) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(exported(shop, table, **options), newline="")))


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_a_spreadsheet_takes_for_a_formula_gets_an_apostrophe(text: str) -> None:
    assert unformulaic(text) == f"'{text}"


@pytest.mark.parametrize("text", HARMLESS)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert unformulaic(text) == text


def test_formulas_in_answers_do_not_act_and_raw_leaves_them(shop: Shop) -> None:
    texts = [f"text {n}" for n in range(len(FORMULAS))]
    shop.add(texts)
    answers = [json.dumps({"words": text}) for text in FORMULAS]
    facts = Extract(name="facts", schema=EVERY_TYPE)
    shop.run(facts, engine=FaultyEngine(answers=dict(zip(texts, answers, strict=True))))
    assert shop.column("SELECT words FROM reviews_facts ORDER BY id") == FORMULAS
    assert [row["words"] for row in cells(shop, "reviews_facts")] == [f"'{text}" for text in FORMULAS]
    assert [row["words"] for row in cells(shop, "reviews_facts", raw=True)] == FORMULAS


def test_every_text_stands_in_quotes_so_that_another_separator_does_not_cut_it(shop: Shop) -> None:
    shop.add(["a;=1", 'b",=1', "c\t=1", "d\n=1", "e\r\n=1"])
    lines = exported(shop, "reviews")
    assert lines.startswith('"id","day","text"\r\n1,"monday","a;=1"\r\n2,"monday","b"",=1"\r\n3,"monday","c\t=1"\r\n')
    assert [row["text"] for row in cells(shop, "reviews")] == shop.column("SELECT text FROM reviews ORDER BY id")


def test_cells_of_every_type(shop: Shop) -> None:
    shop.add(["a", "b", "c"])
    answers = {"a": json.dumps(VALUES), "b": "{}", "c": json.dumps({"words": "", "count": -5, "price": -0.25})}
    answers["c"] = answers["c"][:-1] + ', "open": false, "tags": [], "address": {}}'
    shop.run(Extract(name="facts", schema=EVERY_TYPE), engine=FaultyEngine(answers=answers))
    full, empty, negative = cells(shop, "reviews_facts")
    moment = datetime.fromisoformat(full["moment"])
    assert moment.utcoffset() in (None, timedelta(0))
    assert moment.replace(tzinfo=None) == datetime(2026, 2, 28, 21, 59, 59, 500_000)
    assert {name: full[name] for name in VALUES if name != "moment"} == {
        "words": VALUES["words"],
        "count": "4611686018427387904",
        "price": "0.1",
        "open": "true",
        "day": "2026-02-28",
        "tags": '["a","表",""]',
        "address": full["address"],
    }
    assert json.loads(full["address"]) == VALUES["address"]
    assert ": " not in full["address"]
    assert {empty[name] for name in VALUES} == {""}
    assert [negative[name] for name in ("words", "count", "price", "open", "tags", "address")] == [
        "",
        "-5",
        "-0.25",
        "false",
        "[]",
        "{}",
    ]
    datetime.fromisoformat(full["answered_at"])
    # NULL is nothing at all, and empty text is a pair of quotes.
    line = exported(shop, "reviews_facts").splitlines()[-1]
    assert line.startswith('3,"",-5,-0.25,false,,,"[]","{}",')


def test_rows_come_in_the_order_of_the_key(shop: Shop) -> None:
    shop.execute("CREATE TABLE pairs (b TEXT, a INTEGER, PRIMARY KEY (a, b))")
    shop.insert("pairs", [{"a": a, "b": b} for a, b in [(2, "x"), (10, "a"), (1, "z"), (2, "a")]])
    assert exported(shop, "pairs").split() == ['"b","a"', '"z",1', '"a",2', '"x",2', '"a",10']


def test_a_view_and_an_empty_table_can_be_exported(shop: Shop) -> None:
    assert exported(shop, "reviews") == '"id","day","text"\r\n'
    shop.add(["=a"])
    shop.execute("CREATE VIEW shown AS SELECT id, text AS \"=what, he said\" FROM reviews WHERE day = 'monday'")
    assert exported(shop, "shown") == '"id","\'=what, he said"\r\n1,"\'=a"\r\n'
    assert exported(shop, "shown", raw=True) == '"id","=what, he said"\r\n1,"=a"\r\n'


def test_a_materialized_view_can_be_exported(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.add(["a"])
    shop.execute("CREATE MATERIALIZED VIEW kept AS SELECT text FROM reviews")
    assert exported(shop, "kept") == '"text"\r\n"a"\r\n'


def test_names_may_be_anything(shop: Shop) -> None:
    shop.execute('CREATE TABLE "a b%s:x" ("quo""te" TEXT, "100%" INTEGER PRIMARY KEY)')
    shop.execute("INSERT INTO \"a b%s:x\" VALUES ('x', 1)")
    assert exported(shop, "a b%s:x") == '"quo""te","100%"\r\n"x",1\r\n'


def test_values_that_are_not_of_their_columns_type_are_text(sqlite_url: str) -> None:
    shop = Shop(sqlite_url)
    shop.execute(
        "CREATE TABLE odd (number INTEGER, moment DATETIME, data JSON, flag BOOLEAN, blob BLOB)",
        "INSERT INTO odd VALUES ('=1', '=NOW()', '=[1]', '=TRUE()', x'3d31'), ('-7', 'noon', '[1,', 2, '-')",
        "INSERT INTO odd VALUES (-7, '2026-02-28 12:00:00', '\"\\ud800\"', 1, NULL)",
        "INSERT INTO odd VALUES (-7.5, '2026-02-28T12:00:00+02:00', '[1, 2.50]', 0, 1)",
    )
    assert exported(shop, "odd").split("\r\n")[1:-1] == [
        '"\'=1","\'=NOW()","\'=[1]","\'=TRUE()","\\x3d31"',
        '-7,"noon","[1,",2,"\'-"',
        '-7,2026-02-28T12:00:00,"""\\ud800""",true,',
        '-7.5,2026-02-28T12:00:00+02:00,"[1,2.5]",false,1',
    ]


def test_values_of_postgres_types(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.set_time_zone("Asia/Tokyo")
    shop.execute(
        "CREATE TABLE odd (n NUMERIC, zoned TIMESTAMPTZ, plain TIMESTAMP, t TIME, words TEXT[], data JSON, b BYTEA)",
        "INSERT INTO odd VALUES (-1.50, '2026-02-28 12:00+02', '2026-02-28 12:00', '12:30', '{=a,b}', '\"=1\"', '=1')",
        "INSERT INTO odd VALUES ('NaN', 'infinity', NULL, NULL, '{}', 'null', '')",
    )
    assert exported(shop, "odd").split("\r\n")[1:-1] == [
        '-1.50,2026-02-28T10:00:00+00:00,2026-02-28T12:00:00,12:30:00,"[""=a"",""b""]","""=1""","\\x3d31"',
        'NaN,"infinity",,,"[]","null","\\x"',
    ]


def test_a_table_that_does_not_exist_is_named_with_the_closest(shop: Shop) -> None:
    with pytest.raises(DatabaseError, match=r"There is no table 'revews' in .*\. Did you mean 'reviews'\?"):
        exported(shop, "revews")
    with pytest.raises(DatabaseError, match=r"There is no schema 'mian' in .*(Did you mean 'main'|Valid: )"):
        exported(shop, "reviews", schema="mian")


def test_a_table_of_a_schema_is_exported(postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.execute("CREATE SCHEMA answers", "CREATE TABLE answers.reviews AS SELECT 'other' AS x")
    assert exported(shop, "reviews", schema="answers") == '"x"\r\n"other"\r\n'
    with pytest.raises(DatabaseError, match=r"There is no table 'reviws' in .*\. Did you mean 'reviews'\? Valid: rev"):
        exported(shop, "reviws", schema="answers")


def test_a_table_that_may_not_be_read_is_named(postgres: PostgresServer, postgres_url: str) -> None:
    shop = Shop(postgres_url)
    shop.execute("DROP ROLE IF EXISTS exporter", "CREATE ROLE exporter LOGIN PASSWORD 'hunter2-exports'")
    database = Database(postgres.url(postgres_url.rpartition("/")[2], "exporter", "hunter2-exports"))
    with pytest.raises(DatabaseError, match=r"'reviews' in .* cannot be read: permission denied .*Check the right to"):
        export_csv(database, "reviews", io.StringIO())
    database.close()


@pytest.fixture
def failing(sqlite_url: str) -> Shop:
    """A shop with a view that cannot be read to its end."""
    shop = Shop(sqlite_url)
    shop.add([f"text {n}" for n in range(5000)])
    shop.execute(
        "CREATE VIEW failing AS SELECT id, abs(CASE id WHEN 4000 THEN -9223372036854775808 ELSE id END) FROM reviews"
    )
    return shop


def test_a_file_appears_when_it_is_complete_and_keeps_its_rights(shop: Shop, tmp_path: Path) -> None:
    shop.add(["é", None])
    path = tmp_path / "answers.csv"
    assert export_file(shop.database, "reviews", path) == 2
    assert path.read_bytes() == '"id","day","text"\r\n1,"monday","é"\r\n2,"monday",\r\n'.encode()
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    path.chmod(0o640)
    link = tmp_path / "link.csv"
    link.symlink_to(path)
    shop.add(["z"], first_id=3)
    assert export_file(shop.database, "reviews", link) == 3
    assert link.is_symlink()
    assert len(path.read_text().splitlines()) == 4
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(item.name for item in tmp_path.glob("*.csv*")) == ["answers.csv", "link.csv"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_export_that_fails_leaves_the_old_file_and_nothing_else(failing: Shop, tmp_path: Path) -> None:
    path = tmp_path / "out" / "answers.csv"
    path.parent.mkdir()
    with pytest.raises(DatabaseError, match=r"'failing' in .* cannot be read: integer overflow"):
        export_file(failing.database, "failing", path)
    assert list(path.parent.iterdir()) == []
    path.write_text("old")
    with pytest.raises(DatabaseError):
        export_file(failing.database, "failing", path)
    assert [(item.name, item.read_text()) for item in path.parent.iterdir()] == [("answers.csv", "old")]


def test_a_pipe_is_written_to_and_not_replaced(shop: Shop, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    export_file(shop.database, "reviews", pipe)
    assert os.read(reader, 100) == b'"id","day","text"\r\n'
    os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["missing/answers.csv", "file/answers.csv"])
def test_a_file_that_cannot_be_written_is_named(shop: Shop, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=rf"The file '.*{name}' cannot be written: (No such file|Not a directory)"):
        export_file(shop.database, "reviews", tmp_path / name)


MEASURE = """
import resource, sys
from llm_assets.tables import Database, export_csv

class Nowhere:
    size = 0
    def write(self, text): self.size += len(text)
    def flush(self): pass

database, out = Database(sys.argv[1]), Nowhere()
export_csv(database, "few", out)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
export_csv(database, "many", out)
print(out.size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_table(shop: Shop) -> None:
    numbers = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT i, i || '{}' FROM n"
    )
    shop.execute(
        "CREATE TABLE many (id INTEGER PRIMARY KEY, text TEXT)",
        f"INSERT INTO many {numbers.format('x' * 200)}",
        "CREATE VIEW few AS SELECT * FROM many WHERE id <= 2000",
    )
    done = subprocess.run([sys.executable, "-c", MEASURE, shop.url], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    size, kilobytes = map(int, done.stdout.split())
    assert size > 60_000_000
    assert kilobytes < 10_000
