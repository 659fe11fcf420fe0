"""Two runs at once on the same partitions, in processes of their own: each row is asked once, and both end well."""

import logging
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

from llm_assets.pipeline import Pipeline, PipelineSettings, run
from llm_assets.prompts.text import content_hash
from llm_assets.records import Completion, FailureKind, Request, ScoreTokens
from llm_assets.tables import Database, Source, locks
from tests.tables.shop import NOTE, SENTIMENT, RecordingEngine, Shop, day

DAYS = ("monday", "tuesday", "wednesday")
ROWS = 12
TASKS = {"sentiment": SENTIMENT, "note": NOTE}
BOTH = tuple(TASKS)

FAULTY = "faulty"
"""A text with this word fails as long as the engine is told so."""

PATIENCE = 30.0
"""Seconds. Two runs that need longer wait for each other."""

SPAWN = multiprocessing.get_context("spawn")

Asked = Counter[tuple[str, str]]
"""How often a task was asked about a text."""


@dataclass(frozen=True)
class Part:
    """What one of the two does in a round."""

    days: tuple[str, ...]
    tasks: tuple[str, ...] = BOTH
    settings: tuple[tuple[str, Any], ...] = ()
    pause: float = 0.0
    """The most seconds that the engine takes for an answer."""
    fails: bool = False
    stalls: bool = False
    """Whether the engine says so at the first question, and then takes for ever."""


@dataclass(frozen=True)
class Done:
    """What became of it."""

    asked: Asked
    answered: int
    statuses: dict[str, str]


class NotingEngine(RecordingEngine):
    """Notes what each task was asked."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._rng = random.Random(1)
        self._pipe = pipe

    def begin(self, part: Part) -> None:
        self.part = part
        self.asked: Asked = Counter()

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            text = self.text_of(request)
            self.asked["sentiment" if isinstance(request.ask, ScoreTokens) else "note", text] += 1
            if self.part.stalls:
                self._pipe.send("stalled")
                time.sleep(10 * PATIENCE)
            if self.part.pause:
                time.sleep(self._rng.uniform(0, self.part.pause))
            if self.part.fails and FAULTY in text:
                yield Completion(request.id, error="not now", error_kind=FailureKind.ENGINE_ERROR)
            else:
                yield self.answer(request)


class Telling(logging.Handler):
    """Says through the pipe, once in each part, that a run waits for the other one."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self.told = False
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        if not self.told and record.getMessage().startswith("Another run works on"):
            self.told = True
            self._pipe.send("waiting")


def work(url: str, pipe: Connection, barrier: Barrier | None) -> None:
    """Do one part after another, some of them at the same moment as the other process does its own."""
    if barrier is not None:
        run.POLL_SECONDS = locks.POLL_SECONDS = 0.02  # there are many rounds
    logger = logging.getLogger("llm_assets.pipeline.run")
    logger.setLevel(logging.INFO)
    telling = Telling(pipe)
    logger.addHandler(telling)
    database, engine = Database(url), NotingEngine(pipe)

    @cache
    def pipeline(tasks: tuple[str, ...], settings: tuple[tuple[str, Any], ...]) -> Pipeline:
        chosen = [TASKS[task] for task in tasks]
        checked = PipelineSettings(commit_rows=4, **dict(settings))
        return Pipeline(Source(table="reviews"), chosen, engine, database, database, ("day",), checked)

    while True:
        name, part, together = pipe.recv()
        engine.begin(part)
        telling.told = False
        ready = pipeline(part.tasks, part.settings)
        if barrier is not None and together:
            barrier.wait(PATIENCE)
        results = list(ready.run_all([day(value) for value in part.days], name))
        answered = sum(counts.rows_answered for result in results for counts in result.counts.values())
        pipe.send(Done(engine.asked, answered, {result.partition_key: result.status for result in results}))


class Partner:
    """One of the two processes."""

    def __init__(self, url: str, barrier: Barrier | None = None) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=work, args=(url, theirs, barrier), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is noticed here
        self.waits = 0
        """In how many parts it found a partition in the other one's hands."""

    def begin(self, name: str, part: Part, together: bool) -> None:
        self.pipe.send((name, part, together))

    def hears(self) -> object:
        assert self.pipe.poll(PATIENCE), f"nothing came for {PATIENCE} s"
        return self.pipe.recv()

    def hears_end(self) -> Done:
        while (heard := self.hears()) == "waiting":
            self.waits += 1
        assert isinstance(heard, Done)
        return heard

    def end(self) -> None:
        self.process.kill()
        self.process.join()


@contextmanager
def partners(url: str, together: bool) -> Iterator[list[Partner]]:
    barrier = SPAWN.Barrier(2) if together else None
    both = [Partner(url, barrier) for _ in range(2)]
    try:
        yield both
    finally:
        for partner in both:
            partner.end()


def text(row: int, version: int) -> str:
    """Two rows of a day have the same text. Those of two days never do: two runs may ask about them at once."""
    number = (row - 1) // len(DAYS) // 2
    return f"{DAYS[row % len(DAYS)]} {FAULTY if number == 1 else number} {version}"


def fill(shop: Shop, version: int, rows: Iterable[int] = range(1, ROWS + 1)) -> set[str]:
    """Give rows new texts, and return these."""
    texts = {row: text(row, version) for row in rows}
    shop.execute(*(f"UPDATE reviews SET text = '{value}' WHERE id = {row}" for row, value in texts.items()))
    return set(texts.values())


class Rounds:
    """The rounds, of five kinds. Each leaves a table of which every row has an answer."""

    def __init__(self, shop: Shop, both: Sequence[Partner]) -> None:
        self.shop = shop
        self.both = both
        self.rng = random.Random(1)
        self.number = 0
        self._runs = 0
        rows = range(1, ROWS + 1)
        shop.insert("reviews", [{"id": row, "day": DAYS[row % len(DAYS)], "text": text(row, 0)} for row in rows])
        self.run(Part(DAYS), Part(DAYS))
        self.check_tables()

    def play(self) -> None:
        self.number += 1
        kinds = (self.same, self.crossed, self.tasks, self.refresh, self.failed)
        kinds[self.number % len(kinds)]()
        self.check_tables()

    def same(self) -> None:
        """Both run on the same partition; in the end one runs on the others."""
        texts = fill(self.shop, self.number)
        value = self.rng.choice(DAYS)
        asked = self.run(Part((value,), pause=self.pause()), Part((value,), pause=self.pause()))
        assert asked == once(BOTH, {item for item in texts if item.startswith(value)})
        rest = self.run(Part(DAYS))
        assert rest + asked == once(BOTH, texts)

    def crossed(self) -> None:
        """Both run on all partitions, one backwards; some rows are new."""
        texts = fill(self.shop, self.number, self.rng.sample(range(1, ROWS + 1), 6))
        asked = self.run(Part(DAYS, pause=self.pause()), Part(DAYS[::-1], pause=self.pause()))
        assert asked == once(BOTH, texts)

    def tasks(self) -> None:
        """One run has two tasks, and the other one of them."""
        texts = fill(self.shop, self.number)
        days = tuple(self.rng.sample(DAYS, len(DAYS)))
        [task] = self.rng.sample(BOTH, 1)
        asked = self.run(Part(DAYS, pause=self.pause()), Part(days, (task,), pause=self.pause()))
        assert asked == once(BOTH, texts)

    def refresh(self) -> None:
        """One run asks everything anew, and the other what has changed."""
        changed = fill(self.shop, self.number, self.rng.sample(range(1, ROWS + 1), 4))
        refresh = Part(DAYS, settings=(("full_refresh", True),), pause=self.pause())
        asked = self.run(refresh, Part(DAYS[::-1], pause=self.pause()))
        # What the other run has answered before this one began is asked anew, too.
        texts = set(self.shop.column("SELECT DISTINCT text FROM reviews"))
        assert set(asked) == set(once(BOTH, texts))
        assert all(count == 1 or (count == 2 and item in changed) for (_, item), count in asked.items())

    def failed(self) -> None:
        """One run asks what failed before, and the other everything."""
        texts = fill(self.shop, self.number)
        faulty = {item for item in texts if FAULTY in item}
        self.run(Part(DAYS, fails=True))
        assert self.shop.column("SELECT count(*) FROM llm_failures") == [2 * len(BOTH) * len(faulty)]
        only_failed = Part(DAYS, settings=(("only_failed", True),), pause=self.pause())
        changed = fill(self.shop, -self.number, [1])  # which has not failed
        asked = self.run(only_failed, Part(DAYS[::-1], pause=self.pause()))
        assert asked == once(BOTH, faulty | changed)

    def pause(self) -> float:
        return self.rng.choice([0.0, 0.0, 0.002, 0.01])

    def run(self, *parts: Part) -> Asked:
        """Let both do their parts, or one of them the only one; return what was asked."""
        self._runs += 1
        players = self.rng.sample(self.both, 2)
        for player, partner, part in zip("ab", players, parts, strict=False):
            partner.begin(f"run-{self._runs}{player}", part, len(parts) == 2)
        asked: Asked = Counter()
        answered = 0
        for partner, part in zip(players, parts, strict=False):
            done = partner.hears_end()
            assert done.statuses == dict.fromkeys(part.days, "complete")
            asked += done.asked
            answered += done.answered
        if not any(part.fails for part in parts):
            assert answered == asked.total()
        return asked

    def check_tables(self) -> None:
        """Every row has the answer to its text, by itself and in its partition, and no failure."""
        assert self.shop.rows("SELECT * FROM llm_failures") == []
        rows = self.shop.rows("SELECT id, day, text FROM reviews ORDER BY id")
        expected = [(row, value, content_hash(item)) for row, value, item in rows]
        for task, column in (("sentiment", "label"), ("note", "answer")):
            table = f"reviews_{task}"
            assert self.shop.rows(f"SELECT id, partition_key, content_hash FROM {table} ORDER BY id") == expected
            pairs = self.shop.column(f"SELECT count(DISTINCT {column}) FROM {table} GROUP BY content_hash")
            assert set(pairs) == {1}


def once(tasks: Iterable[str], texts: Iterable[str]) -> Asked:
    return Counter((task, item) for task in tasks for item in set(texts))


def play_rounds(url: str, count: int) -> None:
    shop = Shop(url)
    with partners(url, together=True) as both:
        rounds = Rounds(shop, both)
        for _ in range(count):
            rounds.play()
        assert min(partner.waits for partner in both) > count / 4
    shop.database.close()


def test_two_runs_at_once_ask_each_row_once_on_postgres(postgres_url: str) -> None:
    play_rounds(postgres_url, 200)


def test_two_runs_at_once_ask_each_row_once_on_sqlite(sqlite_url: str) -> None:
    play_rounds(sqlite_url, 30)


def test_a_run_whose_partner_is_killed_gets_the_partition_at_once(shop: Shop) -> None:
    shop.add([f"text {number}" for number in range(10)])
    with partners(shop.url, together=False) as (first, second):
        first.begin("first", Part(("monday",), stalls=True), together=False)
        assert first.hears() == "stalled"
        second.begin("second", Part(("monday",)), together=False)
        assert second.hears() == "waiting"
        first.process.kill()
        started = time.monotonic()
        done = second.hears_end()
        assert time.monotonic() - started < 5 * locks.POLL_SECONDS
    assert done.statuses == {"monday": "complete"}
    assert done.asked == once(BOTH, [f"text {number}" for number in range(10)])
    assert shop.column("SELECT DISTINCT run_id FROM reviews_note") == ["second"]
