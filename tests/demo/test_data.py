"""The demo's tables, and CSV files with something wrong in them."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from definitions import TASKS, table_definitions
from llm_assets.demo.data import load_csv, load_reviews, load_tickets
from llm_assets.errors import ConfigError, SourceError
from llm_assets.pipeline import task_outputs
from llm_assets.tables import AnsweredView, Database, Source
from tests.inspection.looking import contents
from tests.tables.shop import NOTE, SENTIMENT, Shop

ROOT = Path(__file__).resolve().parents[2]


def rows_of(database: Database, table: str) -> list[dict]:
    with database.engine.connect() as connection:
        return [dict(row) for row in connection.execute(sa.text(f'SELECT * FROM "{table}"')).mappings()]


def test_the_demo_rows_are_loaded_once_and_edits_stay(database_url: str) -> None:
    database = Database(database_url)
    assert load_reviews(database, ROOT / "sql" / "demo") == 300
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE reviews SET text = 'edited' WHERE id = 1001"))
        connection.execute(sa.text("DELETE FROM reviews WHERE id = 1002"))
    assert load_reviews(database, ROOT / "sql" / "demo") == 1
    texts = {row["id"]: row["text"] for row in rows_of(database, "reviews")}
    assert (len(texts), texts[1001]) == (300, "edited")
    database.close()


def test_the_tickets_are_loaded_once(database_url: str) -> None:
    database = Database(database_url)
    assert [load_tickets(database, ROOT / "sql" / "demo") for _ in range(2)] == [40, 0]
    assert {row["id"] for row in rows_of(database, "tickets")} == set(range(501, 541))
    database.close()


def test_the_demo_needs_the_repository(sqlite_url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Run the demo from a clone of the repository"):
        load_reviews(Database(sqlite_url), tmp_path)


def write(directory: Path, content: bytes, name: str = "My reviews-2.csv") -> Path:
    path = directory / name
    path.write_bytes(content)
    return path


def test_a_csv_file_becomes_a_table_of_its_name(sqlite_url: str, tmp_path: Path) -> None:
    content = '\ufeffid,text,note\r\n1,"two\r\nlines, ""quoted""",x\r\n\r\n2,二,\r\n'.encode()
    database = Database(sqlite_url)
    assert load_csv(database, write(tmp_path, content), "id", "text") == ("my_reviews_2", 2)
    assert rows_of(database, "my_reviews_2") == [
        {"id": "1", "text": 'two\r\nlines, "quoted"', "note": "x"},
        {"id": "2", "text": "二", "note": ""},
    ]


@pytest.mark.parametrize(
    ("file", "table"),
    [
        ("Kundenw\u00fcnsche 2024.csv", "kundenwunsche_2024"),
        ("\u043e\u0442\u0437\u044b\u0432\u044b.csv", "csv_rows"),
        ("\u8a55\u8ad6-b.csv", "b"),
        ("---.csv", "csv_rows"),
        ("sqlite_x.csv", "csv_sqlite_x"),
        ("order.csv", "order"),
    ],
)
def test_the_name_of_a_csv_file_can_be_that_of_a_table_and_of_assets(
    sqlite_url: str, tmp_path: Path, file: str, table: str
) -> None:
    database = Database(sqlite_url)
    path = write(tmp_path, b"id,text\n1,a\n", file)
    assert [load_csv(database, path, "id", "text") for _ in range(2)] == [(table, 1)] * 2
    assert rows_of(database, table) == [{"id": "1", "text": "a"}]
    table_definitions(Source(table=table), TASKS).resolve_job_def(f"answer_{table}")


@pytest.mark.parametrize(
    "name", ["llm_answers", "llm_reviews", "reviews_sentiment", "reviews_note", "reviews_answered"]
)
def test_a_csv_file_does_not_replace_what_this_package_writes(shop: Shop, tmp_path: Path, name: str) -> None:
    shop.add(["a"])
    shop.run(SENTIMENT, NOTE)
    AnsweredView(shop.database, Source(table="reviews"), task_outputs(Source(table="reviews"), [NOTE])).create()
    before = contents(shop)
    with pytest.raises(SourceError, match=f"would replace the table '{name}', which this package writes"):
        load_csv(shop.database, write(tmp_path, b"id,text\n1,a\n", f"{name}.csv"), "id", "text")
    assert contents(shop) == before


def test_a_column_for_the_accuracy_must_be_there(sqlite_url: str, tmp_path: Path) -> None:
    path = write(tmp_path, b"id,text,label\n1,a,positive\n")
    assert load_csv(Database(sqlite_url), path, "id", "text", gold="label")[1] == 1
    with pytest.raises(SourceError, match=r"has no column 'lable'. Did you mean 'label'\?"):
        load_csv(Database(sqlite_url), path, "id", "text", gold="lable")


def test_a_csv_file_in_another_encoding_is_read_if_it_is_named(sqlite_url: str, tmp_path: Path) -> None:
    database = Database(sqlite_url)
    load_csv(database, write(tmp_path, "id,text\n1,caf\u00e9\n".encode("cp1252"), "a.csv"), "id", "text", "cp1252")
    assert rows_of(database, "a") == [{"id": "1", "text": "caf\u00e9"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"id,text\n1,fine\n2,caf\xe9\n",
            r"line 3: byte 0xe9 is not utf-8. Save the file as UTF-8, or say .*ENCODING=cp1252",
        ),
        (b"id,text\n1,a\n2,b\n1,c\n", r"line 4: the key id='1' stands in line 2 too"),
        (b"id,text\n1,a\n ,b\n", r"line 3: the key 'id' is empty"),
        (b"id,text\n1,a\n2,b,c\n", r"line 3: 3 fields, but the header has 2"),
        (b'id,text\n1,"a\nb"\n2\n', r"line 4: 1 fields, but the header has 2"),
        (b"id,id,text\n1,2,a\n", r"line 1: the column name 'id' is empty or stands twice"),
        (b"id,Text,text\n1,2,a\n", r"line 1: the column name 'Text' is empty or stands twice"),
        (b"id,txt\n1,a\n", r"has no column 'text'. Did you mean 'txt'\?"),
        (b"", r"is empty. Its first line must name the columns"),
    ],
)
def test_what_is_wrong_in_a_csv_file_is_said_with_its_line(
    sqlite_url: str, tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        load_csv(Database(sqlite_url), write(tmp_path, content), "id", "text")


def test_a_csv_file_that_is_not_there_is_named(sqlite_url: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere.csv cannot be read: No such file or directory"):
        load_csv(Database(sqlite_url), tmp_path / "nowhere.csv", "id", "text")


def test_an_unknown_encoding_is_named(sqlite_url: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="There is no encoding 'klingon'"):
        load_csv(Database(sqlite_url), write(tmp_path, b"id,text\n"), "id", "text", "klingon")
