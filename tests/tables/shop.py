"""What tests of tables and pipelines share: a small table of reviews, and engines that count and fail on request."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from llm_assets.engines import DummyEngine
from llm_assets.errors import EngineError
from llm_assets.pipeline import Counts, PartitionResult, Pipeline, PipelineSettings
from llm_assets.records import Candidate, Completion, Equals, FailureKind, Partition, Request
from llm_assets.tables import Database, Source
from llm_assets.tasks import Classify, Generate, Task

SENTIMENT = Classify(name="sentiment", labels=("positive", "negative"))
NOTE = Generate(name="note", instruction="Say something about the text.")


class RecordingEngine(DummyEngine):
    """Counts its loads and runs, and remembers the texts it was asked about."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.loads = self.runs = 0
        self.texts: list[str] = []

    def load(self) -> None:
        self.loads += 1

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        self.runs += 1
        for request in requests:
            yield self.ask(request)

    def ask(self, request: Request) -> Completion:
        self.texts.append(self.text_of(request))
        return self.answer(request)

    def text_of(self, request: Request) -> str:
        """Return the row's text in a prompt."""
        prompt = self.tokenizer.decode(request.prompt_token_ids)
        return prompt.rpartition("user\n")[2].removesuffix("assistant\n")


class SlowEngine(RecordingEngine):
    """Holds many requests in flight and finishes the last one first."""

    def __init__(self, in_flight: int) -> None:
        super().__init__()
        self.in_flight = in_flight

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        self.runs += 1
        held: list[Request] = []
        for request in requests:
            held.append(request)
            if len(held) == self.in_flight:
                while held:
                    yield self.ask(held.pop())
        while held:
            yield self.ask(held.pop())


@dataclass
class Faults:
    """What goes wrong, by the text of the row."""

    errors: dict[str, FailureKind] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    cut_off: set[str] = field(default_factory=set)
    lose: set[str] = field(default_factory=set)
    double: set[str] = field(default_factory=set)
    stop_at: str | None = None


class FaultyEngine(RecordingEngine):
    """Answers like the dummy engine except where `faults` says otherwise."""

    def __init__(self, **faults: Any) -> None:
        super().__init__()
        self.faults = Faults(**faults)

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        self.runs += 1
        for request in requests:
            text = self.text_of(request)
            if text == self.faults.stop_at:
                raise EngineError("the engine died")
            completion = self.ask(request)
            if text not in self.faults.lose:
                yield completion
            if text in self.faults.double:
                yield completion

    def answer(self, request: Request) -> Completion:
        text = self.text_of(request)
        kind = self.faults.errors.get(text)
        if kind is not None:
            return Completion(request.id, error=f"no answer: {kind}", error_kind=kind)
        completion = super().answer(request)
        if text in self.faults.answers:
            written = self.faults.answers[text]
            completion = replace(completion, candidates=(Candidate(written, (1,), "stop", (-0.5,)),))
        if text in self.faults.cut_off:
            cut = tuple(replace(candidate, finish_reason="length") for candidate in completion.candidates)
            completion = replace(completion, candidates=cut)
        return completion


class Shop:
    """A database with a table `reviews` (id, day, text)."""

    def __init__(self, url: str, make: bool = True) -> None:
        self.url = url
        self.database = Database(url)
        self._runs = 0
        if make:
            self.execute("CREATE TABLE reviews (id INTEGER PRIMARY KEY, day TEXT, text TEXT)")

    def execute(self, *statements: str) -> None:
        with self.database.engine.begin() as connection:
            # Straight to the driver: neither % nor : has a meaning in these statements.
            cursor = connection.connection.cursor()
            for statement in statements:
                cursor.execute(statement)

    def insert(self, table: str, rows: Sequence[Mapping[str, object]]) -> None:
        if rows:
            with self.database.engine.begin() as connection:
                connection.execute(sa.table(table, *map(sa.column, rows[0])).insert(), list(rows))

    def add(self, texts: Sequence[str | None], first_id: int = 1, day: str = "monday") -> None:
        """Add reviews with ids from `first_id` on."""
        self.insert("reviews", [{"id": first_id + i, "day": day, "text": text} for i, text in enumerate(texts)])

    def set_time_zone(self, name: str) -> None:
        """Set the zone of the sessions to come; SQLite has none."""
        if self.database.dialect == "postgresql":
            [database] = self.column("SELECT current_database()")
            self.execute(f"ALTER DATABASE {database} SET timezone TO '{name}'")
            self.database.close()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.database.engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]

    def column(self, query: str) -> list[Any]:
        """Return the first column of a query."""
        return [row[0] for row in self.rows(query)]

    def table(self, name: str, schema: str | None = None) -> sa.Table:
        return sa.Table(name, sa.MetaData(), schema=schema, autoload_with=self.database.engine)

    def pipeline(
        self,
        *tasks: Task,
        engine: DummyEngine | None = None,
        source: Source | None = None,
        column: str | None = None,
        **settings: Any,
    ) -> Pipeline:
        return Pipeline(
            source or Source(table="reviews"),
            tasks or (SENTIMENT,),
            engine or RecordingEngine(),
            self.database,
            self.database,
            (column,) if column else (),
            PipelineSettings(**settings),
        )

    def run(self, *tasks: Task, partition: Partition | None = None, **arguments: Any) -> PartitionResult:
        """Make a pipeline and run it once, under a new run id: run-1, run-2, ..."""
        self._runs += 1
        pipeline = self.pipeline(*tasks, **arguments)
        return pipeline.run(partition or Partition(), f"run-{self._runs}")


def changed(task: Task, **values: object) -> Task:
    """Return a task with other settings."""
    return type(task).model_validate({**task.model_dump(exclude_unset=True), **values})


def only(result: PartitionResult) -> Counts:
    """Return the counts of a result with one task."""
    [counts] = result.counts.values()
    return counts


def outcomes(counts: Counts) -> tuple[int, int, int, int]:
    """Return answered, reused, skipped and failed."""
    return counts.rows_answered, counts.rows_reused, counts.rows_skipped, counts.rows_failed


def day(value: str) -> Partition:
    """Return the partition of a day of the table `reviews`."""
    return Partition(value, (Equals("day", value),))
