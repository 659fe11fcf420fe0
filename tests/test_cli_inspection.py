"""The commands that look before a run, as a user calls them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llm_assets.engines import VllmEngine
from llm_assets.inspection.asking import random_rows
from llm_assets.inspection.preview import preview
from llm_assets.inspection.row import inspect_row
from llm_assets.inspection.variants import make_variants
from llm_assets.pipeline import Pipeline
from llm_assets.records import Failure, Partition
from llm_assets.tasks import Classify, Extract, Summarize
from tests.inspection.looking import contents, looking
from tests.tables.shop import Shop

PROGRAM = [sys.executable, "-c", "from llm_assets.cli import main; main(prog_name='llm-assets')"]
DEFINITIONS = """
import dagster as dg
from llm_assets.dagster import DatabaseResource, DummyEngineResource, StaticPartitions, build_llm_assets
from llm_assets.tables import Source
from llm_assets.tasks import Classify, Generate

NOTE = Generate(name="note", instruction="Say something about the text.")
SENTIMENT = Classify(name="sentiment", labels=("good", "bad"), instruction="INSTRUCTION")
days = StaticPartitions(column="day", values=("monday", "tuesday"))
parts = Source(table="parts", key=("shelf", "place"))
defs = dg.Definitions(
    assets=[*build_llm_assets(Source(table="reviews"), [SENTIMENT, NOTE], days), *build_llm_assets(parts, [NOTE])],
    resources={"database": DatabaseResource(url=dg.EnvVar("SHOP_URL")), "engine": DummyEngineResource()},
)
"""


@pytest.fixture
def shop(sqlite_url: str, tmp_path: Path) -> Shop:
    shop = Shop(sqlite_url)
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    shop.execute("CREATE TABLE parts (shelf TEXT, place INTEGER, text TEXT, PRIMARY KEY (shelf, place))")
    shop.insert("parts", [{"shelf": "a b", "place": 7, "text": "a screw"}])
    return shop


def run_cli(shop: Shop, *arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    assert shop.database.file is not None
    root = str(Path(__file__).resolve().parent.parent)
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        cwd=shop.database.file.parent,
        env={**os.environ, "SHOP_URL": shop.url, "PYTHONPATH": root, "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def shown(shop: Shop, *arguments: object, **environment: str) -> str:
    done = run_cli(shop, *arguments, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def edit(shop: Shop) -> None:
    assert shop.database.file is not None
    file = shop.database.file.parent / "definitions.py"
    file.write_text(DEFINITIONS.replace("INSTRUCTION", "Edited."))


def answer(shop: Shop) -> None:
    """Materialize the table as it stands in the definitions."""
    from llm_assets.dagster.load import load_project

    os.environ["SHOP_URL"] = shop.url
    assert shop.database.file is not None
    project = load_project(shop.database.file.parent / "definitions.py")
    table = project.table("reviews")
    with project.pipeline(table) as pipeline:
        arguments = (table.source, table.tasks, pipeline.engine, shop.database, shop.database, ("day",))
    list(Pipeline(*arguments).run_all([table.partition("monday"), table.partition("tuesday")], "run-1"))


def test_explain_then_edit_then_canary(shop: Shop) -> None:
    shop.add([f"text {number}" for number in range(30)], day="monday")
    shop.add(["text 1", None], first_id=50, day="tuesday")
    shop.add(["text 2"], first_id=60, day="sunday")
    tables = contents(shop)
    assert "1 row is in no partition, and not asked about." in shown(shop, "explain", "reviews")
    found = json.loads(shown(shop, "explain", "reviews", "--json"))
    assert [(task["to_ask"], task["duplicates"], task["empty"]) for task in found["tasks"]] == [(30, 1, 1)] * 2
    assert "reviews, partition tuesday: 2 rows" in shown(shop, "explain", "reviews", "--partition", "tuesday")
    assert contents(shop) == tables
    answer(shop)
    assert "model is not loaded" in shown(shop, "explain", "reviews")
    edit(shop)
    edits = json.loads(shown(shop, "explain", "reviews", "--since-edit", "--json"))
    assert [(task["stale"], task["current"]) for task in edits] == [(31, 0), (0, 31)]
    narrow = shown(shop, "explain", "reviews", "--since-edit", "--partition", "tuesday", COLUMNS="40")
    assert "reviews_sentiment: 0 answers stay, 1 are" in narrow
    tables = contents(shop)
    assert "of 31 rows are answered otherwise" in shown(shop, "preview", "sentiment", "--canary", "200")
    assert contents(shop) == tables
    assert "no edit to compare" in run_cli(shop, "preview", "reviews_note", "--canary", "9").stderr


def test_a_preview_shows_rows_and_variants(shop: Shop) -> None:
    shop.add([f"[bold]text {number}" for number in range(30)])
    text = shown(shop, "preview", "reviews_note", "-n", "3", "--vary", "temperature=0,1")
    assert text.count("[bold]text") == 3
    assert "The variants differ in 0 of 3 rows (0%)." in text
    assert "temperature=1: mean confidence 0.90" in text
    assert "[bold]text 4" in shown(shop, "preview", "sentiment", "--key", "5")
    assert "a screw" in shown(shop, "preview", "parts_note", "--key", '["a b", 7]')


def test_an_inspection_is_printed_or_written(shop: Shop, tmp_path: Path) -> None:
    shop.add(["a text"])
    assert "a|·|t|e|x|t" in shown(shop, "inspect", "sentiment", "1")
    assert "parts_note, key a b 7" in shown(shop, "inspect", "parts_note", "a b", "7", COLUMNS="40")
    page = tmp_path / "row.html"
    assert shown(shop, "inspect", "sentiment", "1", "--html", page) == f"Written to {page}.\n"
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1", "FORCE_COLOR": "1"}, {"TERM": "dumb"}, {}])
def test_a_terminal_without_colour_gets_none(shop: Shop, environment: dict[str, str]) -> None:
    shop.add(["a text"])
    for arguments in (["explain", "reviews"], ["preview", "sentiment"], ["inspect", "sentiment", "1"]):
        text = shown(shop, *arguments, **environment, COLUMNS="40")
        assert "\x1b[3" not in text
        assert "\x1b[4" not in text
        assert max(map(len, re.sub("\x1b\\[[0-9;]*m", "", text).splitlines())) <= 40  # bold is no colour


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain"], "several tables. Say which: parts, reviews"),
        (["explain", "revews"], "Did you mean 'reviews'?"),
        (["explain", "reviews", "--partition", "moonday"], "'moonday' is no partition"),
        (["explain", "parts", "--partition", "monday"], "has no partitions"),
        (["explain", "-f", "nothing.py"], "There is no file 'nothing.py'"),
        (["explain", "-m", "no_such"], "There is no module 'no_such'"),
        (["preview", "sentimnt"], "Did you mean 'sentiment'?"),
        (["preview", "note"], "by its output table: parts_note, reviews_note"),
        (["preview", "sentiment"], "Table 'reviews' has no rows in any partition: day in monday, tuesday."),
        (["preview", "sentiment", "--key", "5"], "no row with the key '5'. It has no rows"),
        (["preview", "parts_note", "--key", "5"], """Write a JSON list, such as '["de", 17]'"""),
        (["preview", "parts_note", "--vary", "temprature=1"], "Did you mean 'temperature'?"),
        (["preview", "parts_note", "--vary", "temperature=-1"], "greater than or equal to 0"),
        (["preview", "parts_note", "--vary", "temperature=0,1", "--canary", "9"], "A canary compares one edit"),
        (["preview", "parts_note", "--canary", "9"], "There are no stored answers in parts_note"),
        (["preview", "parts_note", "--canary", "9", "--key", "1"], "--key names the rows"),
        (["inspect", "parts_note", "a b"], "The key of 'parts' is shelf, place: 2 value(s), and 1 were given: a b"),
        (["inspect", "parts_note", "a", "8"], "no row with the key 'a 8'. Its first keys are a b 7."),
        (["inspect", "parts_note", "a b", "7", "--html", "no/such/file"], "cannot be written: No such file"),
    ],
)
def test_what_is_wrong_is_one_message(shop: Shop, arguments: list[str], message: str) -> None:
    done = run_cli(shop, *arguments)
    assert done.returncode != 0
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_column_that_vanished_is_named(shop: Shop) -> None:
    shop.execute("ALTER TABLE reviews RENAME COLUMN day TO weekday")
    for command in (["explain", "reviews"], ["preview", "sentiment"], ["inspect", "sentiment", "1"]):
        assert "has no column 'day', which the partitions name. Did you mean" in run_cli(shop, *command).stderr


def test_vllm_is_previewed_at_several_temperatures_and_inspected(shop: Shop, vllm_engine: VllmEngine) -> None:
    shop.add(["The lamp broke on day two. I want my money back.", "Lovely chair, and so cheap!", "Works."])
    tables = contents(shop)
    summary = Summarize(name="summary", max_words=8)
    schema = {"type": "object", "properties": {"item": {"type": "string", "maxLength": 12}}, "required": ["item"]}
    facts = Extract(name="facts", schema=schema)
    labels = Classify(name="sentiment", labels=("positive", "negative"))
    pipeline = looking(shop, summary, facts, labels, engine=vllm_engine)  # pyright: ignore[reportArgumentType]
    rows = random_rows(pipeline, [Partition()], 3, 0)
    found = preview(pipeline, make_variants(summary, ["temperature=0,0,1.5"]), rows)
    assert all(row.outcomes[0] == row.outcomes[1] for row in found.rows)
    assert found.differing > 0
    assert found.columns[2].confidence is not None
    assert found.columns[0].confidence is not None
    assert found.columns[2].confidence < found.columns[0].confidence
    seen = inspect_row(pipeline, summary, rows[0])
    assert not isinstance(seen.outcome, Failure)
    assert (
        "".join(step.token.text for step in seen.steps if not step.token.is_special).strip()
        == (seen.outcome.columns["summary"])
    )
    for step in seen.steps:
        assert len(step.top) == 5
        assert step.top[0][1] >= (step.probability or 0) > 0
        assert sum(probability for _, probability in step.top) <= 1.001
        assert step.top[0][0].id == step.token.id  # greedy
    scored = inspect_row(pipeline, labels, rows[0])
    assert not isinstance(scored.outcome, Failure)
    assert scored.probabilities == pytest.approx(scored.outcome.columns["scores"])
    constrained = inspect_row(pipeline, facts, rows[0])
    assert constrained.is_constrained
    assert "".join(token.text for token in constrained.row) == rows[0].values["text"]
    assert contents(shop) == tables
