"""What tests of the incremental state share: texts that fail, engines and databases that stop, and what is stored."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from llm_assets.engines import DummyEngine
from llm_assets.errors import AccountingError, EngineError, LLMAssetsError
from llm_assets.records import Candidate, Completion, FailureKind, GenerateText, Request
from llm_assets.tables import Database
from llm_assets.tasks import Task

REFUSED, CRASHES, BAD_JSON, SILENT, LONG, ENDLESS = "refused", "crashes", "bad json", "silent", "long", "endless"
TOO_LONG = "very " * 12 + "long"

Place = Literal["statement", "commit", "committed", "load", "request", "completion", "listener", "result"]
Way = Literal["kill", "interrupt", "refuse", "lose", "die"]


class Interrupted(KeyboardInterrupt):
    """Someone stopped the run."""


class Stop:
    """Stops a run when it is at a place for the n-th time.

    To `kill` lets nothing more reach a database, not even the cleaning up; to `interrupt` lets the cleaning up pass. A
    database can `refuse` once, or `lose` its connection once; an engine can `die`, and stay dead if `for_good`.
    """

    def __init__(self, place: Place, number: int, way: Way, for_good: bool = False) -> None:
        self.place, self.number, self.way, self.for_good = place, number, way, for_good
        self.fired = False
        self._times = 0

    def __repr__(self) -> str:
        return f"Stop({self.place!r}, {self.number}, {self.way!r}, for_good={self.for_good})"

    @property
    def is_deadly(self) -> bool:
        """Whether rows may be taken for those that kill the engine."""
        return self.fired and self.way == "die" and self.for_good

    def explains(self, error: BaseException) -> bool:
        """Whether a run that was stopped in this way may end with an error. An interrupt stays an interrupt."""
        if not self.fired or isinstance(error, AccountingError):
            return False
        if self.way == "interrupt":
            return isinstance(error, Interrupted)
        return self.way == "kill" or isinstance(error, LLMAssetsError | sa.exc.DBAPIError)

    def reach(self, place: Place, error: Callable[[Way], BaseException] | None = None) -> None:
        """Count that the run is at a place, and stop it if its time has come."""
        if self.fired:
            if self.way == "kill" and place in ("statement", "commit"):
                raise Interrupted
            if self.is_deadly and place == "request":
                raise EngineError("the engine is dead")
            return
        self._times += place == self.place
        if self._times != self.number:
            return
        self.fired = True
        if self.way in ("kill", "interrupt") or error is None:
            raise Interrupted
        raise error(self.way)


NO_STOP = Stop("result", -1, "kill")


class Asked(NamedTuple):
    """One request, without its id."""

    fingerprint: str
    text: str
    request: str


class StateEngine(DummyEngine):
    """Answers differently for each identity, fails for some texts, and finishes what it holds in any order.

    `busy` are texts that it has no answer to this time.
    """

    def __init__(
        self,
        identity: str,
        tasks: Sequence[Task],
        in_flight: int = 1,
        busy: frozenset[str] = frozenset(),
        stop: Stop = NO_STOP,
    ) -> None:
        super().__init__(identity=identity)
        self.in_flight, self.busy, self.stop = in_flight, busy, stop
        self.loads = self.runs = 0
        self.asked: Counter[Asked] = Counter()
        self._order = random.Random(0)
        self._fingerprints = {task.system_message(): task.fingerprint(identity) for task in tasks}
        assert set(self._fingerprints.values()) == {task.fingerprint(identity) for task in tasks}

    def load(self) -> None:
        self.loads += 1
        self.stop.reach("load", lambda _: EngineError("the engine does not start"))

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        self.runs += 1
        held: list[Request] = []
        for request in requests:
            held.append(request)
            self.asked[self._asked(request)] += 1
            self.stop.reach("request", lambda _: EngineError("the engine died"))
            if len(held) >= self.in_flight:
                yield self._finish(held)
        while held:
            yield self._finish(held)

    def _finish(self, held: list[Request]) -> Completion:
        completion = self.answer(held.pop(self._order.randrange(len(held))))
        self.stop.reach("completion", lambda _: EngineError("the engine died"))
        return completion

    def answer(self, request: Request) -> Completion:
        _, text = self._messages(request)
        if text in self.busy:
            return Completion(request.id, error="the engine is busy")
        if text == CRASHES:
            return Completion(request.id, error="the engine stumbled")
        if text == REFUSED:
            return Completion(request.id, error="the engine refuses", error_kind=FailureKind.REFUSED_REQUEST)
        identity = list(self.identity.encode())
        completion = super().answer(replace(request, prompt_token_ids=[*identity, *request.prompt_token_ids]))
        if not isinstance(request.ask, GenerateText):
            return completion
        if text in (SILENT, BAD_JSON):
            written = "" if text == SILENT else '{"price":'
            return replace(completion, candidates=(Candidate(written, (1,), "stop", (-0.5,)),))
        if text == ENDLESS or (text == LONG and int(str(request.ask.sampling["max_tokens"])) < 512):
            cut = [replace(item, text=item.text[:5], finish_reason="length") for item in completion.candidates]
            return replace(completion, candidates=tuple(cut))
        return completion

    def _messages(self, request: Request) -> tuple[str, str]:
        """Return what a prompt says first, and the row's text. What stands after it begins the answer."""
        turns: list[bytearray] = []
        for token_id in request.prompt_token_ids:
            if token_id == self.tokenizer.turn_token_id:
                turns.append(bytearray())
            elif token_id not in self.tokenizer.end_token_ids:
                turns[-1].append(token_id)
        system, *_, text, _ = (turn.decode().partition("\n")[2] for turn in turns)
        return system, text

    def _asked(self, request: Request) -> Asked:
        system, text = self._messages(request)
        return Asked(self._fingerprints[system], text, f"{request.prompt_token_ids}{request.ask}")


def watch(database: Database, stop: Callable[[], Stop]) -> None:
    """Let the database stop a run: at a statement, or just before or after a transaction is committed."""
    engine = database.engine
    driver = engine.dialect.loaded_dbapi
    commit = engine.dialect.do_commit

    def error(way: Way) -> BaseException:
        if way == "refuse":
            return driver.InternalError("the disk is full")
        words = "database is locked" if database.dialect == "sqlite" else "server closed the connection unexpectedly"
        return driver.OperationalError(words)

    def execute(*_: object) -> None:
        stop().reach("statement", error)

    def do_commit(connection: Any) -> None:
        stop().reach("commit", error)
        commit(connection)
        stop().reach("committed", error)

    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        sa.event.listen(engine, name, execute)
    engine.dialect.do_commit = do_commit


class Stored(NamedTuple):
    """What a table says of one row and task: an answer, or a failure with its attempts. Of `values` NULLs are left out.

    In what is expected, `written_at` may be None: it is written by the run, at whatever time.
    """

    partition_key: str
    fingerprint: str
    content_hash: str
    values: dict[str, Any]
    run_id: str
    written_at: datetime | None
    attempts: int | None = None

    @property
    def about(self) -> tuple[str, str]:
        return self.fingerprint, self.content_hash

    @property
    def is_answer(self) -> bool:
        return self.attempts is None

    @property
    def failure_kind(self) -> str | None:
        return None if self.is_answer else self.values["kind"]

    def is_as(self, expected: "Stored | None") -> bool:
        if expected is not None and expected.written_at is None:
            return self._replace(written_at=None) == expected
        return self == expected


State = dict[tuple[str, int], Stored]
"""Outcomes by task and key."""


class Tables:
    """Reads the output tables of some tasks over `reviews`; tables that do not exist yet are empty."""

    def __init__(self, database: Database, tasks: Sequence[Task]) -> None:
        self.database = database
        self.tasks = tasks
        self._names = set(sa.inspect(database.engine).get_table_names())

    def outcomes(self) -> State:
        """Return the outcome of every task and row. None has two."""
        found: State = {}

        def add(task: str, key: int, row: dict[str, Any], written_at: str) -> None:
            assert (task, key) not in found, f"task {task}, row {key}: two answers, two failures, or one of each"
            about = {name: row.pop(name) for name in ("partition_key", "fingerprint", "content_hash", "run_id")}
            at, attempts = row.pop(written_at), row.pop("attempts", None)
            values = {name: value for name, value in row.items() if value is not None}
            found[task, key] = Stored(**about, values=values, written_at=_typed(at, "datetime"), attempts=attempts)

        for task in self.tasks:
            types = {column.name: column.type for column in task.columns}
            for row in self._rows(f"reviews_{task.name}"):
                typed = {name: _typed(value, types.get(name)) for name, value in row.items()}
                add(task.name, typed.pop("id"), typed, "answered_at")
        for row in self._rows("llm_failures"):
            assert row.pop("source") == "reviews"
            add(row.pop("task"), int(row.pop("row_key")), row, "failed_at")
        return found

    def ledger(self) -> frozenset[tuple[str, str]]:
        return frozenset((row["fingerprint"], row["content_hash"]) for row in self._rows("llm_answers"))

    def _rows(self, table: str) -> list[dict[str, Any]]:
        if table not in self._names:
            return []
        with self.database.engine.connect() as connection:
            return [dict(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table}").mappings()]


def _typed(value: Any, kind: str | None) -> Any:
    """SQLite has neither JSON nor booleans nor times. It keeps no zone; what is written there is UTC."""
    match kind:
        case "boolean" if value is not None:
            return bool(value)
        case "json" if isinstance(value, str):
            return json.loads(value)
        case "date" if isinstance(value, str):
            return date.fromisoformat(value)
        case "datetime" if value is not None:
            moment = datetime.fromisoformat(value) if isinstance(value, str) else value
            return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    return value
