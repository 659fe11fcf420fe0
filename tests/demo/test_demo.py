"""The demo's tasks with its real model in a real Dagster run, and the command line around it."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from rich.console import Console

import definitions
from llm_assets.dagster import DatabaseResource, EngineResource, build_llm_assets
from llm_assets.dagster.local import prepare_instance, run_job
from llm_assets.demo.data import load_reviews, load_tickets
from llm_assets.demo.model import MODEL_DIRECTORY
from llm_assets.demo.report import print_report
from llm_assets.engines import Engine
from llm_assets.errors import SourceError
from llm_assets.tables import Database, Source

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = {
    1053: "emoji only",
    1074: "special tokens",
    1121: "SQL",
    1155: "HTML",
    1178: "prompt injection",
    1224: "NUL byte",
    1233: "right-to-left",
    1271: "spreadsheet formula",
    1290: "ANSI escapes",
}
ORDINARY = (1001, 1002, 1003)
EMPTY = (1029, 1095, 1252)


class LentEngineResource(EngineResource):
    """The engine of the whole test session, which outlives the run."""

    @classmethod
    def lend(cls, engine: Engine) -> "LentEngineResource":
        cls._lent = engine
        return cls()

    def make_engine(self) -> Engine:
        return self._lent

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        self._engine = None


@pytest.fixture(scope="module")
def answered(vllm_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> tuple[Database, str]:
    """Some of the demo's rows, answered by all of its tasks in one Dagster run."""
    directory = tmp_path_factory.mktemp("demo")
    database = Database(f"sqlite:///{directory / 'demo.db'}")
    load_reviews(database, ROOT / "sql" / "demo")
    kept = ",".join(map(str, (*HOSTILE, *ORDINARY, *EMPTY)))
    with database.engine.begin() as connection:
        connection.execute(sa.text(f"DELETE FROM reviews WHERE id NOT IN ({kept})"))
    assets = build_llm_assets(definitions.REVIEWS, definitions.TASKS)
    resources = {"database": DatabaseResource(url=database.url), "engine": LentEngineResource.lend(vllm_engine)}
    result = dg.materialize(assets, resources=resources)
    assert result.success
    return database, result.run_id


def query(database: Database, sql: str) -> list[tuple]:
    with database.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(sql))]


def test_every_row_has_a_label_from_a_real_model(answered) -> None:
    database, _ = answered
    rows = query(database, "SELECT id, label, confidence, margin, scores FROM reviews_sentiment")
    assert {row[0] for row in rows} == {*HOSTILE, *ORDINARY}
    for _, label, confidence, margin, scores in rows:
        scores = json.loads(scores)
        assert set(scores) == {"positive", "negative"}
        assert sum(scores.values()) == pytest.approx(1)
        assert confidence == pytest.approx(scores[label])
        assert margin == pytest.approx(max(scores.values()) - min(scores.values()))
    assert len({round(row[2], 6) for row in rows}) > len(rows) / 2


def test_every_row_is_extracted_and_summarized_or_failed_with_a_reason(answered) -> None:
    database, _ = answered
    for task in ("facts", "summary"):
        done = {row[0] for row in query(database, f"SELECT id FROM reviews_{task}")}
        failed = {int(row[0]) for row in query(database, f"SELECT row_key FROM llm_failures WHERE task = '{task}'")}
        assert done | failed == {*HOSTILE, *ORDINARY, *EMPTY}
        assert not done & failed
        assert len(done) > 8
    requests = {row[0] for row in query(database, "SELECT request FROM reviews_facts")}
    assert requests <= {"refund", "exchange", "repair", "question", "none"}
    assert all(row[0].strip() for row in query(database, "SELECT summary FROM reviews_summary"))


def test_empty_texts_are_failures_and_not_questions(answered) -> None:
    database, _ = answered
    rows = query(database, "SELECT DISTINCT row_key, kind FROM llm_failures WHERE task = 'sentiment' ORDER BY row_key")
    assert rows == [(str(key), "empty_text") for key in EMPTY]


def test_the_report_shows_answers_labels_accuracy_failures_and_throughput(answered) -> None:
    database, run_id = answered
    console = Console(width=140, record=True, file=io.StringIO())
    print_report(console, database, definitions.REVIEWS, definitions.TASKS, run_id, "text", "gold_label")
    text = console.export_text()
    for expected in (
        "rows with their answers",
        "Labels of reviews_sentiment",
        "Accuracy against gold_label",
        "empty_text",
    ):
        assert expected in text
    assert "\x1b[31m" not in text
    assert "answers/s" in text


def test_a_second_run_asks_nothing(answered, vllm_engine: Engine) -> None:
    database, _ = answered
    assets = build_llm_assets(definitions.REVIEWS, definitions.TASKS)
    resources = {"database": DatabaseResource(url=database.url), "engine": LentEngineResource.lend(vllm_engine)}
    result = dg.materialize(assets, resources=resources)
    asked = f"SELECT sum(rows_answered), sum(rows_reused) FROM llm_throughput WHERE run_id = '{result.run_id}'"
    assert query(database, asked) == [(0, 0)]


def test_the_tickets_in_yaml_are_answered_beside_the_reviews_in_python(vllm_engine: Engine, tmp_path: Path) -> None:
    graph = definitions.defs.resolve_asset_graph()
    groups = {key.to_user_string(): graph.get(key).group_name for key in graph.materializable_asset_keys}
    assert groups == {
        **dict.fromkeys(("reviews_sentiment", "reviews_facts", "reviews_summary"), "reviews"),
        **dict.fromkeys(("tickets_urgency", "tickets_topic"), "tickets"),
    }
    database = Database(f"sqlite:///{tmp_path / 'demo.db'}")
    load_tickets(database, ROOT / "sql" / "demo")
    with database.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM tickets WHERE id NOT IN (501, 502, 505, 540)"))
    resources = {"database": DatabaseResource(url=database.url), "engine": LentEngineResource.lend(vllm_engine)}
    in_yaml = dg.load_from_defs_folder(path_within_project=ROOT)
    tickets = dg.Definitions.merge(in_yaml, dg.Definitions(resources=resources))
    run_job(tickets, "answer_tickets", prepare_instance(tmp_path / "dagster"))
    labels = dict(query(database, "SELECT id, label FROM tickets_urgency"))
    assert labels.keys() == {501, 502, 505}
    assert set(labels.values()) <= {"urgent", "normal"}
    topics = dict(query(database, "SELECT id, request FROM tickets_topic"))
    assert set(topics.values()) <= {"refund", "exchange", "repair", "delivery", "account", "question", "none"}
    failed = query(database, "SELECT row_key, task, kind FROM llm_failures WHERE row_key = '540' ORDER BY task")
    assert failed == [("540", "topic", "empty_text"), ("540", "urgency", "empty_text")]


def test_an_error_in_a_run_comes_out_as_itself(
    tmp_path: Path, sqlite_url: str, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_ASSETS_DATABASE_URL", sqlite_url)
    wrong = definitions.table_definitions(Source(table="nothing_here"), definitions.TASKS)
    with pytest.raises(SourceError, match="There is no table 'nothing_here'"):
        run_job(wrong, "answer_nothing_here", prepare_instance(tmp_path / "dagster"))


def run_cli(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("llm-assets")
    return subprocess.run([program, *arguments], cwd=directory, capture_output=True, text=True, timeout=120)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A directory with what the demo needs of the repository."""
    shutil.copy(ROOT / "definitions.py", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "sql", tmp_path / "sql")
    shutil.copytree(ROOT / "defs", tmp_path / "defs")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--csv", "x.csv"], "--csv needs --text COLUMN and --key COLUMN"),
        (["demo", "--text", "text"], "belong to --csv FILE"),
        (["demo", "--csv", "x.csv", "--text", "t", "--key", "k"], "x.csv cannot be read: No such file or directory"),
        (["dmo"], "No such command 'dmo'"),
    ],
)
def test_bad_input_at_the_command_line_is_one_message_without_a_traceback(
    clone: Path, arguments: list[str], message: str
) -> None:
    result = run_cli(clone, *arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


def test_a_task_that_cannot_be_is_one_message_without_a_traceback(clone: Path) -> None:
    (clone / ".llm_assets/models").mkdir(parents=True)
    (clone / MODEL_DIRECTORY).symlink_to(ROOT / MODEL_DIRECTORY)
    text = (clone / "definitions.py").read_text()
    (clone / "definitions.py").write_text(text.replace('labels=("positive", "negative")', 'labels=("good", "good")'))
    result = run_cli(clone, "demo")
    assert result.returncode == 1
    assert "Task 'sentiment': label 'good' is given 2 times. Keep one." in result.stderr
    assert "Traceback" not in result.stderr


def test_a_model_that_is_not_there_is_one_message_without_a_traceback(
    clone: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clone / ".llm_assets/models").mkdir(parents=True)
    (clone / MODEL_DIRECTORY).symlink_to(smollm2)
    monkeypatch.setenv("LLM_ASSETS_MODEL", "/nowhere/model")
    result = run_cli(clone, "demo")
    assert result.returncode == 1
    assert "Model directory '/nowhere/model' does not exist." in result.stderr
    assert "Traceback" not in result.stderr


def test_the_demo_outside_a_clone_says_so(tmp_path: Path) -> None:
    result = run_cli(tmp_path, "demo")
    assert result.returncode == 1
    assert "Run the demo from a clone of the repository" in result.stderr
    assert "Traceback" not in result.stderr
