"""Every query and every line of Python in docs/query-the-answers.md runs, and gives what the text says."""

import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from definitions import ROOT, TASKS
from llm_assets.dagster.analysts import create_view
from llm_assets.demo.data import load_reviews
from llm_assets.records import FailureKind
from llm_assets.tables import Database
from tests.postgres import PostgresServer
from tests.sql.conftest import answer_all, demo_table
from tests.sql.files import Answer, Sql
from tests.tables.shop import FaultyEngine, changed

PAGE = (ROOT / "docs" / "query-the-answers.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
QUERIES = {text.partition("\n")[0].removeprefix("-- "): text for kind, text in BLOCKS if kind == "sql"}
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
COMMANDS = [line[2:] for kind, text in BLOCKS if kind == "console" for line in text.splitlines()]
REFUSED, NEW = 1002, 2001
NAMES = [task.name for task in TASKS]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sql]:
    """The demo's database, answered by two models with two prompts, with a refused review and one not asked yet."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path_factory.mktemp('docs') / 'demo.db'}")
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        name = f"docs_{secrets.token_hex(4)}"
        server.execute(f"CREATE DATABASE {name}")
        database = Database(server.url(name))
    load_reviews(database, ROOT / "sql" / "demo")
    sql = Sql(database)
    [(text,)] = sql.read(f"SELECT text FROM reviews WHERE id = {REFUSED}").rows
    for run, model in [("run-1", "small"), ("run-2", "large")]:
        engine = FaultyEngine(errors={text: FailureKind.REFUSED_REQUEST})
        engine.identity = model
        answer_all(database, engine, run, [changed(task, align_prompt=model == "small") for task in TASKS])
    sql.execute(
        "INSERT INTO reviews (id, created_at, channel, product, text) "
        f"VALUES ({NEW}, '2026-11-14 23:00:00', 'review', 'Lamp', 'New.')"
    )
    create_view(demo_table(), database)
    yield sql
    database.close()


def numbers(found: Answer, column: str) -> list[float]:
    return [float(value) for value in found.column(column)]


def falling(values: list[float]) -> bool:
    return values == sorted(values, reverse=True) and len(set(values)) > 1


def days_add_up(found: Answer) -> bool:
    rows = found.by("day")
    assert all(row["reviews"] == row["answered"] + row["failed"] + row["not_asked"] for row in rows.values())
    assert sum(found.column("not_asked")) == rows["2026-11-14"]["not_asked"] == 1
    return (len(rows), sum(found.column("reviews")), sum(found.column("failed"))) == (14, 301, 4)


CHECKS: dict[str, Callable[[Answer], object]] = {
    "What do unhappy customers ask for?": lambda found: (
        falling(numbers(found, "reviews")) and "none" not in found.column("facts_request")
    ),
    "Which labels should a person read first?": lambda found: (
        falling([-margin for margin in numbers(found, "sentiment_margin")]) and len(found.rows) == 20
    ),
    "How many rows are left if only sure labels count?": lambda found: (
        sum(found.column("labelled")) == 296 and 0 < sum(found.column("sure")) < 296
    ),
    "Which negative reviews were nearly positive?": lambda found: (
        falling(numbers(found, "positive")) and max(numbers(found, "positive")) <= 0.5
    ),
    "How does the mood differ between the channels?": lambda found: (
        found.column("channel") == ["review", "support"]
        and all(0 < share < 1 for share in numbers(found, "positive_share"))
    ),
    "When was each day answered last, and what is still open?": days_add_up,
    "Which partitions have the last runs been through, and are they done?": lambda found: (
        found.rows[0][:3] == ("run-2", "2026-11-14", "complete") and len(found.rows) == 20
    ),
    "Why do rows have no answer?": lambda found: (
        {key: row["failed_rows"] for key, row in found.by("task", "kind").items()}
        == {(task, kind): n for task in NAMES for kind, n in [("empty_text", 3), ("refused_request", 1)]}
    ),
    "What do the failed rows say, and what did the model say to them?": lambda found: (
        set(found.column("id")) == {REFUSED, 1029, 1095, 1252}
    ),
    "Which models and prompts are the present answers from?": lambda found: (
        found.column("model") == ["large"] and found.column("answers") == [296]
    ),
    "How many labels did the last change of model or prompt turn round?": lambda found: (
        len(found.rows) == 4
        and sum(found.column("reviews")) == 296
        and len(set(found.column("former_fingerprint"))) == 1
    ),
    "What did each task cost?": lambda found: (
        found.column("task") == sorted(NAMES)
        and found.column("asked") == [2 * 293] * 3
        and found.column("reused") == [2 * 3] * 3
        and min(found.column("prompt_tokens")) > 0
        and found.column("cost") == [None] * 3  # the demo's engine has no prices
    ),
    "How fast was each run?": lambda found: (
        found.column("run_id") == ["run-1", "run-2"]
        and [int(n) for n in found.column("answers")] == [293 * 3] * 2
        and min(numbers(found, "answers_per_second")) > 1
    ),
    "How often is the label right, and how often would the commonest label be?": lambda found: (
        found.column("compared") == [286]
        and 0 < numbers(found, "accuracy")[0] < 1
        and 0.5 < numbers(found, "commonest_label")[0] < 0.53
    ),
}


def test_every_query_of_the_page_is_checked_here() -> None:
    assert list(QUERIES) == list(CHECKS)
    assert len([kind for kind, _ in BLOCKS if kind == "sql"]) == len(QUERIES)
    assert {kind for kind, _ in BLOCKS} == {"sql", "python", "console"}


@pytest.mark.parametrize("question", QUERIES)
def test_a_query_answers_its_question(demo: Sql, question: str) -> None:
    found = demo.read(QUERIES[question])
    assert found.rows != []
    assert CHECKS[question](found), found


def test_the_python_runs_and_gives_what_it_says(demo: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_ASSETS_DATABASE_URL", demo.database.url)
    names: dict[str, Any] = {}
    for block in PYTHON:
        exec(block, names)
    [(day,)] = demo.read("SELECT COUNT(*) FROM reviews_sentiment WHERE partition_key = '2026-11-03'").rows
    assert len(names["one_day"]) == day > 10
    assert list(names["one_week"].columns) == ["label", "confidence"]
    assert len(names["everything"]) == 301
    assert (names["models"], list(names["fingerprints"].values())) == (["large"], [day])
    assert 0 < len(names["unsure"]) < 296
    assert names["by_day"].shape == (14, 2)
    assert names["by_day"].to_numpy().sum() == 296


def test_the_page_names_what_there_is(demo: Sql) -> None:
    """Tables, columns and kinds of failures that the page explains are those of the database, and all of them."""
    tables = set(re.findall(r"`((?:reviews|llm)_[a-z_]+)`", PAGE)) - {"llm_pipeline", "llm_analyst"}
    assert tables == {
        *(f"reviews_{name}" for name in (*NAMES, "answered")),
        *(f"llm_{name}" for name in ("answers", "failures", "throughput", "version")),
    }
    for table in tables:
        demo.read(f"SELECT * FROM {table}")
    explained = PAGE.partition("## One task's table")[2].partition("Join it")[0]
    columns = demo.read("SELECT * FROM reviews_sentiment").columns
    assert [name for row in re.findall(r"^\| (`.*?) \|", explained, re.M) for name in re.findall(r"`(\w+)`", row)] == (
        columns[columns.index("model") :]
    )
    kinds = PAGE.partition("## Rows without an answer")[2].partition("## Which model")[0]
    assert re.findall(r"^\| `(\w+)` \|", kinds, re.M) == [
        kind for kind in re.findall(r"`(\w+)`", kinds) if kind in set(FailureKind)
    ]
    assert set(re.findall(r"^\| `(\w+)` \|", kinds, re.M)) == set(FailureKind)


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, anchor = target.partition("#")
        assert (ROOT / "docs" / path).exists(), target
        if not path:
            assert re.search(rf"^## {anchor.replace('-', ' ')}$", PAGE, re.M | re.I), target
