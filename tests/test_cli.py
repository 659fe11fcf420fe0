"""The command line: exports, secrets, and row text that reaches a terminal."""

import io
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from llm_assets.demo.report import print_report
from llm_assets.records import FailureKind
from llm_assets.tables import Source
from llm_assets.tasks import Classify, Extract, Summarize
from tests.tables.shop import FaultyEngine, Shop

TOKEN = "hf_Q9w8E7r6T5y4U3i2"
PROGRAM = str(Path(sys.executable).with_name("llm-assets"))


def run_cli(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [PROGRAM, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=120,
    )


@pytest.fixture
def shop(sqlite_url: str) -> Shop:
    return Shop(sqlite_url)


@pytest.fixture
def endless(shop: Shop) -> Shop:
    """A shop with a view of more rows than anyone waits for."""
    shop.execute(
        "CREATE VIEW numbers AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000000) "
        "SELECT i FROM n"
    )
    return shop


def test_an_export_goes_to_stdout_as_utf_8_whatever_the_locale(shop: Shop) -> None:
    shop.add(["=1+1", "表 é", None])
    done = run_cli("export", "reviews", LLM_ASSETS_DATABASE_URL=shop.url, LC_ALL="C", PYTHONUTF8="0", COLUMNS="20")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == ('"id","day","text"\r\n1,"monday","\'=1+1"\r\n2,"monday","表 é"\r\n3,"monday",\r\n')
    assert b'"=1+1"' in run_cli("export", "reviews", "--raw", "--url", shop.url).stdout


def test_an_export_to_a_file_says_how_many_rows_it_wrote(shop: Shop, tmp_path: Path) -> None:
    shop.add(["a", "b"])
    path = tmp_path / "answers.csv"
    done = run_cli("export", "reviews", "--output", path, LLM_ASSETS_DATABASE_URL=shop.url)
    assert done.stdout.decode() == f"2 rows of reviews in {shop.url} written to {path}.\n"
    assert len(path.read_text().splitlines()) == 3


def test_an_export_that_cannot_be_is_one_message(shop: Shop, tmp_path: Path) -> None:
    for arguments, message in [
        (["revues"], "There is no table 'revues'"),
        (["reviews", "--schema", "x"], "There is no schema 'x'"),
        (["reviews", "--output", tmp_path / "no" / "file"], "cannot be written: No such file or directory"),
        (["reviews", "--output", tmp_path], "is a directory"),
    ]:
        done = run_cli("export", *arguments, "--url", shop.url)
        assert done.returncode != 0
        assert done.stdout == b""
        assert message in done.stderr.decode()
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_export_leaves_no_file(endless: Shop, tmp_path: Path, stop: signal.Signals) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    command = [PROGRAM, "export", "numbers", "--url", endless.url, "--output", str(folder / "numbers.csv")]
    listening = partial(signal.signal, stop, signal.SIG_DFL)  # which it is not when the tests run in the background
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=listening) as process:
        deadline = time.monotonic() + 60
        while not any(item.stat().st_size for item in folder.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        [part] = folder.iterdir()
        assert part.name != "numbers.csv"
        process.send_signal(stop)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"Traceback" not in errors
    assert list(folder.iterdir()) == []


def test_a_reader_that_has_enough_ends_an_export(endless: Shop) -> None:
    command = [PROGRAM, "export", "numbers", "--url", endless.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b'"i"\r\n'
        process.stdout.close()
        errors = process.stderr.read()
    assert b"Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune", "--days", "1", "--url", "mysql://me:{}@h/d"], "***@h/d is not installed"),
        (["prune", "--url", "sqlite://", "--days", "mysql://me:{}@h/d"], "'mysql://me:***@h/d' is not a valid"),
        (["export", "{}", "--url", "sqlite://"], "There is no table '***'"),
        (["mysql://me:{}@h/d"], "No such command 'mysql://me:***@h/d'"),
    ],
)
def test_no_message_repeats_a_secret(arguments: list[str], message: str) -> None:
    done = run_cli(*(argument.format(TOKEN) for argument in arguments), HF_TOKEN=TOKEN)
    assert done.returncode != 0
    assert message in done.stderr.decode()
    assert TOKEN not in done.stderr.decode() + done.stdout.decode()


def test_an_error_cannot_act_on_the_terminal(shop: Shop) -> None:
    done = run_cli("export", "\x1b[31m[bold]red[/]\u202e", "--url", shop.url)
    assert "There is no table '\\x1b[31m[bold]red[/]\\u202e'" in done.stderr.decode()
    shop.execute('CREATE TABLE "a\x1b]0;title\x07" (x TEXT)')
    done = run_cli("export", "nothing", "--url", shop.url)
    assert "a\ufffd]0;title\ufffd" in done.stderr.decode()


HOSTILE = (
    "[bold red]loud[/] [link=http://example.org]here[/link] :warning: \x1b[31mred\x1b]8;;http://example.org\x07"
    "\u202eback\u2066\x9b2J\r\b <b>html</b> **md** \\[x\\"
)
ACTING = ("\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\r", "\b")
MARKUP = ("[bold red]loud[/]", "[link=http://example.org]", ":warning:")


def test_row_text_in_the_report_is_text(shop: Shop) -> None:
    """Keys, texts, answers, failures, and the names of columns, which come from a CSV file's header."""
    key, gold = "[red]id :smile:", "[bold]gold\x1b[1m"
    shop.execute(f'CREATE TABLE rows ("{key}" TEXT PRIMARY KEY, text TEXT, "{gold}" TEXT)')
    keys = [HOSTILE, f"failing {HOSTILE}"]
    shop.insert("rows", [{key: value, "text": value, gold: "good"} for value in keys])
    schema = {"type": "object", "properties": {"words": {"type": "string"}}}
    tasks = [
        Classify(name="sentiment", labels=("good", HOSTILE.strip())),
        Extract(name="facts", schema=schema),
        Summarize(name="summary"),
    ]
    source = Source(table="rows")

    class Hostile(FaultyEngine):
        def answer(self, request):
            completion = super().answer(request)
            if completion.error:
                completion = type(completion)(completion.id, error=HOSTILE, error_kind=completion.error_kind)
            return completion

    engine = Hostile(errors={keys[1]: FailureKind.ENGINE_ERROR})
    shop.run(*tasks, source=source, engine=engine)
    shop.execute("UPDATE rows_facts SET words = (SELECT text FROM rows LIMIT 1)")
    shop.execute("UPDATE rows_summary SET summary = (SELECT text FROM rows LIMIT 1)")
    shop.execute("UPDATE rows_sentiment SET label = (SELECT text FROM rows LIMIT 1)")
    shop.execute("UPDATE llm_throughput SET device = '[red]device'")
    [run_id] = set(shop.column("SELECT run_id FROM llm_throughput"))
    stream = io.StringIO()
    console = Console(file=stream, width=2000, force_terminal=True, color_system=None)
    print_report(console, shop.database, source, tasks, run_id, "text", gold)
    printed = stream.getvalue()
    assert [character for character in ACTING if character in printed] == []
    for words in (
        *MARKUP,
        key,
        "Accuracy against [bold]gold\ufffd[1m",
        "on [red]device",
        "\ufffd[31mred",
    ):
        assert words in printed


def test_the_report_keeps_its_style(shop: Shop) -> None:
    shop.add(["a", "b"])
    task = Classify(name="sentiment", labels=("good", "bad"))
    shop.run(task)
    [run_id] = set(shop.column("SELECT run_id FROM llm_throughput"))
    stream = io.StringIO()
    console = Console(file=stream, width=200, force_terminal=True, color_system="standard")
    print_report(console, shop.database, Source(table="reviews"), [task], run_id, "text", None)
    assert "\x1b[2;3m" in stream.getvalue()
