"""Whatever happens to rows, tasks and runs, the tables end as if all had been computed once, from nothing.

A state machine changes rows, tasks and the model at random, and runs them in every way: all partitions or some, all
tasks or some, anew or not, up to the end or stopped anywhere. After each run every row has the outcome that it must
have, or if the run was stopped, still the one that it had; nothing in between. After a run that came to its end, the
tables are those of a fresh database.

HYPOTHESIS_PROFILE=thorough searches for many minutes, with other examples each time.
"""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy.exc import SQLAlchemyError

from llm_assets.errors import LLMAssetsError
from llm_assets.pipeline import MAX_ATTEMPTS, PartitionResult, Pipeline
from llm_assets.prompts.text import content_hash
from llm_assets.records import Partition
from llm_assets.tables import Database, Source, prune_ledger
from llm_assets.tasks import Classify, Extract, Generate, Task
from tests.tables.shop import Shop, day
from tests.tables.state import (
    BAD_JSON,
    CRASHES,
    ENDLESS,
    LONG,
    NO_STOP,
    REFUSED,
    SILENT,
    TOO_LONG,
    Interrupted,
    State,
    StateEngine,
    Stop,
    Stored,
    Tables,
    watch,
)

CHUNK_ROWS = 3
"""Rows that are read and looked up together here, instead of a thousand."""

DAYS = ("monday", "tuesday")
NO_PARTITION = "some other day"
GOOD_TEXTS = ["a", " a\n", "b", "c", "Zoë 表 🙂", "100% {text} :x 'it''s' \"q\" \\"]
BAD_TEXTS = [None, "", " \t\u3000", REFUSED, CRASHES, BAD_JSON, SILENT, LONG, ENDLESS, TOO_LONG]

FIELDS: dict[str, dict[str, Any]] = {
    "price": {"type": "integer"},
    "weight": {"type": "number"},
    "sold": {"type": "boolean"},
    "made_on": {"type": "string", "format": "date"},
    "made_at": {"type": "string", "format": "date-time"},
    "tags": {"type": "array", "items": {"type": "string"}},
}


def facts(fields: Mapping[str, object]) -> Extract:
    schema = {"type": "object", "properties": {**FIELDS, **fields}, "required": ["price", "made_at"]}
    return Extract(name="facts", schema=schema, too_long="fail", max_text_tokens=40)


SAMPLED = {"instruction": "Say something new.", "sampling": {"temperature": 0.8}}
VARIANTS: dict[str, tuple[Task, ...]] = {
    "sentiment": (
        Classify(name="sentiment", labels=("good", "great", "bad")),
        Classify(name="sentiment", labels=("bad", "great", "good")),
        Classify(name="sentiment", labels={"good": "praise", "bad": "blame"}),
    ),
    "note": (
        Generate(name="note", instruction="Say something."),
        Generate(name="note", instruction="Say something else."),
        Generate(name="note", instruction="Choose.", choice=("yes", "no")),
    ),
    # The first two differ only in what may be reused. The last asks what a note asks, so that they share the ledger.
    "remark": (
        Generate(name="remark", **SAMPLED),
        Generate(name="remark", **SAMPLED, reuse_sampled=True),
        Generate(name="remark", instruction="Say something."),
    ),
    "facts": (facts({}), facts({"price": {"type": "integer", "maximum": 9}}), facts({"stars": {"type": "integer"}})),
}
NAMES = tuple(VARIANTS)

Rows = dict[int, tuple[str, str | None]]
"""Day and text of reviews, by key."""


class Put(NamedTuple):
    """Insert rows, or give them another day and text."""

    rows: Rows


class Delete(NamedTuple):
    keys: set[int]


class Move(NamedTuple):
    keys: set[int]
    to: str


class Edit(NamedTuple):
    """Give a task other settings, perhaps earlier ones."""

    name: str
    variant: int


class SwapModel(NamedTuple):
    identity: str


class PruneLedger(NamedTuple):
    """Delete all of the ledger."""


Change = Put | Delete | Move | Edit | SwapModel | PruneLedger


@dataclass(frozen=True)
class How:
    """How a run is done. `busy` are texts that the engine has no answer to this time."""

    days: tuple[str, ...] = DAYS
    names: tuple[str, ...] = NAMES
    commit_rows: int = 2
    in_flight: int = 1
    busy: frozenset[str] = frozenset()
    full_refresh: bool = False


def reviews(least: int, most: int) -> st.SearchStrategy[Rows]:
    day_and_text = st.tuples(st.sampled_from([*DAYS, NO_PARTITION]), st.sampled_from([*2 * GOOD_TEXTS, *BAD_TEXTS]))
    return st.dictionaries(st.integers(1, 9), day_and_text, min_size=least, max_size=most)


def hows(days: st.SearchStrategy[list[str]], names: st.SearchStrategy[list[str]]) -> st.SearchStrategy[How]:
    return st.builds(
        How,
        days=days.map(tuple),
        names=names.map(tuple),
        commit_rows=st.sampled_from([1, 3, 200]),
        in_flight=st.sampled_from([1, 2, 5, 100]),
        busy=st.frozensets(st.sampled_from(["a", "b", LONG]), max_size=2),
        full_refresh=st.sampled_from([*5 * [False], True]),
    )


def stops(places: list[str], least: int, most: int, ways: list[str]) -> st.SearchStrategy[Stop]:
    return st.builds(Stop, st.sampled_from(places), st.integers(least, most), st.sampled_from(ways), st.booleans())


def weighted(weights: Mapping[st.SearchStrategy[Any], int]) -> st.SearchStrategy[Any]:
    """Return one of some strategies. Of equal ones st.one_of keeps a single one, so it cannot give them weight."""
    return st.sampled_from([*Counter(weights).elements()]).flatmap(lambda chosen: chosen)


KEYS = st.sets(st.integers(1, 9), min_size=1, max_size=4)
CHANGES = st.lists(
    weighted(
        {
            st.builds(Put, reviews(1, 4)): 3,
            st.builds(Delete, KEYS): 1,
            st.builds(Move, KEYS, st.sampled_from(DAYS)): 3,
            st.builds(Edit, st.sampled_from(NAMES), st.sampled_from([0, 1, 0, 1, 2])): 5,
            st.builds(SwapModel, st.sampled_from(["small", "large"])): 1,
            st.builds(PruneLedger): 1,
        }
    ),
    max_size=4,
)
EVERYTHING = hows(st.permutations(DAYS), st.just([*NAMES]))
PART = hows(
    st.lists(st.sampled_from(DAYS), min_size=1, unique=True), st.lists(st.sampled_from(NAMES), min_size=1, unique=True)
)
STOPS = weighted(
    {
        st.just(NO_STOP): 5,
        # What a run was about to commit is lost. The first commit makes the tables.
        stops(["commit"], 2, 7, ["kill", "refuse"]): 4,
        # What it has committed is committed again.
        stops(["commit", "committed"], 1, 12, ["interrupt", "lose"]): 1,
        stops(["statement"], 1, 80, ["kill", "interrupt", "refuse", "lose"]): 2,
        stops(["request", "completion"], 1, 12, ["kill", "interrupt", "die"]): 2,
        stops(["load"], 1, 1, ["kill", "interrupt"]) | stops(["result", "listener"], 1, 4, ["kill", "interrupt"]): 1,
    }
)


class Outcome(NamedTuple):
    """What may become of a row: how it comes about, and what is stored then."""

    kind: str
    stored: Stored


@dataclass
class Expected:
    """What may become of the rows of one task."""

    rows: dict[int, list[Outcome]] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    """Rows with an outcome in a partition of the run that does not hold them any more."""

    def bounds(self, *kinds: str) -> tuple[int, int]:
        """Return how many rows at least and at most have an outcome of these kinds."""
        hits = [[outcome.kind in kinds for outcome in outcomes] for outcomes in self.rows.values()]
        return sum(map(all, hits)), sum(map(any, hits))

    def asked(self, certainly: bool = False) -> Counter[tuple[str, str]]:
        """Return the questions that are asked, perhaps or certainly, with the number of their rows."""
        quantifier = all if certainly else any
        return Counter(
            outcomes[0].stored.about
            for outcomes in self.rows.values()
            if quantifier(outcome.kind in ("answered", "asked in vain") for outcome in outcomes)
        )

    def kinds(self, about: tuple[str, str]) -> set[str]:
        """Return the kinds of outcome that a question's rows may have."""
        every = itertools.chain.from_iterable(self.rows.values())
        return {outcome.kind for outcome in every if outcome.stored.about == about}


_ideals: dict[tuple[str, str], dict[str | None, Stored]] = {}
"""What becomes of each text in a fresh database, by task and model."""


def ideals(task: Task, identity: str) -> dict[str | None, Stored]:
    """Return what becomes of each text in a fresh database."""
    name = (repr(task), identity)
    if name not in _ideals:
        shop = Shop("sqlite:///:memory:")
        texts = [*GOOD_TEXTS, *BAD_TEXTS]
        shop.add(texts, first_id=0)
        shop.run(task, engine=StateEngine(identity, [task]))
        _ideals[name] = {texts[key]: stored for (_, key), stored in Tables(shop.database, [task]).outcomes().items()}
        shop.database.close()
    return _ideals[name]


@dataclass
class Case:
    """One run: what it was told and what it found, what must come of it, and what did."""

    how: How
    stop: Stop
    run_id: str
    tasks: list[Task]
    slices: list[Partition]
    places: dict[int, str]
    """The partition key of every source row."""
    texts: dict[int, str | None]
    before: State
    ledger: frozenset[tuple[str, str]]
    engine: StateEngine
    results: list[PartitionResult] | None = None
    after: State = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parts = [part.key for part in self.slices]
        self.expected = {task.name: self._expect(task) for task in self.tasks}

    @property
    def was_stopped(self) -> bool:
        return self.results is None

    def ideal(self, task: Task, key: int) -> Stored:
        """Return what would become of a row in a fresh database."""
        return ideals(task, self.engine.identity)[self.texts[key]]._replace(partition_key=self.places[key])

    def _expect(self, task: Task) -> Expected:
        expected = Expected()
        for key, part in self.places.items():
            if part in self.parts:
                had = self.before.get((task.name, key))
                expected.rows[key] = [self._outcome(task, key, had)]
                # If a row came from a partition that is finished first, its outcome there is removed first.
                if had and had.partition_key in self.parts[: self.parts.index(part)]:
                    expected.rows[key].append(self._outcome(task, key, None))
        for (name, key), had in self.before.items():
            if name == task.name and had.partition_key in self.parts and self.places.get(key) != had.partition_key:
                expected.gone.add(key)
        return expected

    def _outcome(self, task: Task, key: int, had: Stored | None) -> Outcome:
        """Return what becomes of a row that had some outcome."""
        ideal = self.ideal(task, key)._replace(run_id=self.run_id, written_at=None)
        if had and had.about != ideal.about:
            had = None
        if had and had.is_answer and not self.how.full_refresh:
            return Outcome("skipped", had._replace(partition_key=ideal.partition_key))
        if ideal.failure_kind == "empty_text":
            return Outcome("failed", ideal)
        attempts = had.attempts if had and had.attempts else 0
        is_final = attempts >= MAX_ATTEMPTS or (had is not None and had.failure_kind != "engine_error")
        if attempts and is_final and not self.how.full_refresh:
            assert had is not None
            return Outcome("failed", ideal._replace(values=had.values, attempts=attempts))
        once_more = ideal._replace(attempts=attempts + 1)
        if task.reusable and not self.how.full_refresh and ideal.about in self.ledger:
            return Outcome("reused", ideal)
        if ideal.failure_kind == "too_long":
            return Outcome("failed", once_more)
        if (self.texts[key] or "").strip() in self.how.busy:
            busy = {"kind": "engine_error", "message": "the engine is busy"}
            return Outcome("asked in vain", once_more._replace(values=busy))
        return Outcome("answered", ideal) if ideal.is_answer else Outcome("asked in vain", once_more)


class IncrementalState(RuleBasedStateMachine):
    """Rows, tasks and runs, in any order."""

    make_shop: Callable[[], Shop]

    def __init__(self) -> None:
        super().__init__()
        self.shop = self.make_shop()
        self.stop = NO_STOP
        watch(self.shop.database, lambda: self.stop)
        self.rows: Rows = {}
        self.is_partitioned = True
        self.variant = dict.fromkeys(NAMES, 0)
        self.identity = "small"
        self.runs = 0
        self.stored: State = {}
        self.ledger: frozenset[tuple[str, str]] = frozenset()

    def teardown(self) -> None:
        self.shop.database.close()

    @initialize(rows=reviews(4, 9), is_partitioned=st.sampled_from([True, True, False]))
    def begin(self, rows: Rows, is_partitioned: bool) -> None:
        self.is_partitioned = is_partitioned
        self.change([Put(rows)])

    @rule(changes=CHANGES, how=EVERYTHING | PART, stop=STOPS, is_run_again=st.sampled_from([*5 * [False], True]))
    def change_and_run(self, changes: list[Change], how: How, stop: Stop, is_run_again: bool) -> None:
        self.change(changes)
        case = self.run(how, stop)
        is_complete = not case.was_stopped and {*how.names} == {*NAMES} and {*how.days} == {*DAYS}
        if is_complete and is_run_again:
            self.run_again(how.days)

    def run_again(self, days: tuple[str, ...]) -> None:
        """Nothing is asked again, and all is as in a fresh database."""
        case = self.run(How(days))
        may_pass = [had for had in case.before.values() if had.failure_kind == "engine_error"]
        if not any(had.attempts and had.attempts < MAX_ATTEMPTS for had in may_pass):
            assert (case.engine.loads, case.engine.runs) == (0, 0)
            assert answers(case.before) == answers(case.after)
        check_against_fresh(case.after, self.fresh())

    def change(self, changes: Iterable[Change]) -> None:
        for change in changes:
            match change:
                case Put(rows):
                    self.delete(rows)
                    self.shop.insert(
                        "reviews", [{"id": key, "day": at, "text": text} for key, (at, text) in rows.items()]
                    )
                    self.rows |= rows
                case Delete(keys):
                    self.delete(keys)
                case Move(keys, to):
                    self.shop.execute(f"UPDATE reviews SET day = '{to}' WHERE id IN ({', '.join(map(str, keys))})")
                    self.rows |= {key: (to, self.rows[key][1]) for key in keys if key in self.rows}
                case Edit(name, variant):
                    had, has = VARIANTS[name][self.variant[name]], VARIANTS[name][variant]
                    # A table takes more columns, but no fewer.
                    if {column.name for column in had.columns} <= {column.name for column in has.columns}:
                        self.variant[name] = variant
                case SwapModel(identity):
                    self.identity = identity
                case PruneLedger():
                    if self.ledger:
                        prune_ledger(self.shop.database, datetime.now(UTC) + timedelta(days=1))
                    self.ledger = frozenset()

    def delete(self, keys: Iterable[int]) -> None:
        self.shop.execute(f"DELETE FROM reviews WHERE id IN ({', '.join(map(str, keys))})")
        self.rows = {key: row for key, row in self.rows.items() if key not in keys}

    def run(self, how: How, stop: Stop = NO_STOP) -> Case:
        """Do a run, and check all that it did."""
        self.runs += 1
        tasks = [VARIANTS[name][self.variant[name]] for name in how.names]
        case = Case(
            how=how,
            stop=stop,
            run_id=f"run-{self.runs}",
            tasks=tasks,
            slices=self.slices(how.days),
            places={key: at if self.is_partitioned else "all" for key, (at, _) in self.rows.items()},
            texts={key: text for key, (_, text) in self.rows.items()},
            before=self.stored,
            ledger=self.ledger,
            engine=StateEngine(self.identity, tasks, how.in_flight, how.busy, stop),
        )
        case.results = self.results(case)
        tables = Tables(self.shop.database, self.tasks())
        case.after = tables.outcomes()
        check_outcomes(case)
        check_asked(case)
        self.ledger = tables.ledger()
        assert self.ledger == case.ledger | new_in_ledger(case)
        if case.results is not None:
            check_counts(case.results, case)
            check_throughput(case.results, case, self.shop)
            check_against_fresh(
                {
                    name: has
                    for name, has in case.after.items()
                    if name[0] in how.names and has.partition_key in case.parts
                },
                {(task.name, key): case.ideal(task, key) for task in tasks for key in case.expected[task.name].rows},
            )
        self.stored = case.after
        return case

    def slices(self, days: Iterable[str]) -> list[Partition]:
        return [day(name) for name in days] if self.is_partitioned else [Partition()]

    def tasks(self) -> list[Task]:
        return [VARIANTS[name][self.variant[name]] for name in NAMES]

    def results(self, case: Case) -> list[PartitionResult] | None:
        """Do a run and return its results; None if it was stopped."""
        stop, found = case.stop, []
        self.stop = stop
        try:
            pipeline = self.shop.pipeline(
                *case.tasks,
                engine=case.engine,
                column="day" if self.is_partitioned else None,
                commit_rows=case.how.commit_rows,
                full_refresh=case.how.full_refresh,
            )
            results = pipeline.run_all(case.slices, case.run_id, lambda _: stop.reach("listener"))
            try:
                for result in results:
                    found.append(result)
                    stop.reach("result")
            finally:
                with suppress(Interrupted):
                    results.close()
        except (Interrupted, LLMAssetsError, SQLAlchemyError) as error:
            if not stop.explains(error):
                raise
            return None
        finally:
            self.stop = NO_STOP
            if stop.fired:
                self.shop.database.close()
        return found

    def fresh(self) -> State:
        """Return what a complete run leaves in a fresh database."""
        database = Database("sqlite:///:memory:")
        engine = StateEngine(self.identity, self.tasks())
        columns = ("day",) if self.is_partitioned else ()
        pipeline = Pipeline(Source(table="reviews"), self.tasks(), engine, self.shop.database, database, columns)
        for _ in pipeline.run_all(self.slices(DAYS), "fresh"):
            pass
        outcomes = Tables(database, self.tasks()).outcomes()
        database.close()
        return outcomes


def answers(state: State) -> State:
    return {name: stored for name, stored in state.items() if stored.is_answer}


def check_outcomes(case: Case) -> None:
    """Every row has one of its outcomes, or after a stop perhaps the one before; all other rows are untouched."""
    names = {(task, key) for task, expected in case.expected.items() for key in expected.rows}
    for name in names | case.before.keys() | case.after.keys():
        task, key = name
        had, has = case.before.get(name), case.after.get(name)
        expected = case.expected.get(task, Expected())
        outcomes, is_gone = expected.rows.get(key, []), key in expected.gone
        allowed: list[Stored | None] = [outcome.stored for outcome in outcomes]
        if is_gone and (case.was_stopped or not outcomes):
            allowed.append(None)
        if case.was_stopped or not (outcomes or is_gone):
            allowed.append(had)
        is_allowed = any(has.is_as(stored) if has else stored is None for stored in allowed)
        if not is_allowed and case.stop.is_deadly and has and has.failure_kind == "poison":
            # Of an engine that stays dead the first rows are suspected, before the run gives up.
            is_allowed = any(outcome.kind in ("answered", "asked in vain") for outcome in outcomes)
        assert is_allowed, (name, had, has, allowed)


def check_asked(case: Case) -> None:
    """What must be asked is asked, and nothing else; and that once, but for what fails or may not be reused."""
    asked = {question: content_hash(question.text) for question in case.engine.asked}
    abouts = {(question.fingerprint, digest) for question, digest in asked.items()}
    assert abouts <= {about for expected in case.expected.values() for about in expected.asked()}
    if not case.was_stopped:
        assert abouts >= {about for expected in case.expected.values() for about in expected.asked(certainly=True)}
        if not case.stop.fired:
            assert bool(case.engine.loads) == bool(case.engine.runs) == bool(abouts)
    if case.stop.fired and case.stop.way == "die":
        return  # what the engine had in its hands is asked again
    for question, digest in asked.items():
        about, most = (question.fingerprint, digest), 0
        for task in case.tasks:
            expected = case.expected[task.name]
            rows = expected.asked()[about]
            most += min(rows, 1) if task.reusable and expected.kinds(about) <= {"answered", "skipped"} else rows
        assert case.engine.asked[question] <= most, question


def new_in_ledger(case: Case) -> set[tuple[str, str]]:
    """Return the questions whose answers the run wrote, where they may serve for other rows."""
    reusable = {task.name for task in case.tasks if task.reusable}
    written = [stored for name, stored in case.after.items() if name[0] in reusable and stored.run_id == case.run_id]
    return {stored.about for stored in written if stored.is_answer}


def check_counts(results: list[PartitionResult], case: Case) -> None:
    """Every row is counted once, as what has become of it."""
    assert sorted(result.partition_key for result in results) == sorted(case.parts)
    held = Counter(case.places.values())
    for result in results:
        for counts in result.counts.values():
            assert counts.rows_read == held[result.partition_key]
            done = counts.rows_answered + counts.rows_reused + counts.rows_skipped + counts.rows_failed
            assert counts.rows_read == done
    if case.stop.is_deadly:
        return
    for task in case.tasks:
        expected, counts = case.expected[task.name], [result.counts[task.name] for result in results]
        assert_within(sum(item.rows_skipped for item in counts), expected.bounds("skipped"))
        assert_within(sum(item.rows_failed for item in counts), expected.bounds("failed", "asked in vain"))
        served = sum(item.rows_answered + item.rows_reused for item in counts)
        assert_within(served, expected.bounds("answered", "reused"))
        least, most = expected.bounds("answered")
        if task.reusable:
            questions = {about for about in expected.asked() if "answered" in expected.kinds(about)}
            others = {about for name in case.expected if name != task.name for about in case.expected[name].asked()}
            least, most = (len(questions) if least == most and not questions & others else 0), len(questions)
        assert_within(sum(item.rows_answered for item in counts), (least, most))
        gone = [case.before[task.name, key].is_answer for key in expected.gone if key not in expected.rows]
        moved = [case.before[task.name, key].is_answer for key in expected.gone if key in expected.rows]
        # What a lost connection hid is deleted again, and then there is nothing to delete.
        least = 0 if case.stop.fired and case.stop.place == "committed" else sum(gone)
        assert_within(sum(item.rows_removed for item in counts), (least, sum(gone) + sum(moved)))


def assert_within(count: int, bounds: tuple[int, int]) -> None:
    least, most = bounds
    assert least <= count <= most, f"{count} is not within {bounds}"


def check_throughput(results: list[PartitionResult], case: Case, shop: Shop) -> None:
    """The counts stand in `llm_throughput` as they were returned."""
    columns = ["rows_read", "rows_answered", "rows_reused", "rows_skipped", "rows_failed", "rows_removed"]
    query = f"SELECT task, partition_key, {', '.join(columns)} FROM llm_throughput WHERE run_id = '{case.run_id}'"
    assert sorted(shop.rows(query)) == sorted(
        (task, result.partition_key, *(getattr(counts, column) for column in columns))
        for result in results
        for task, counts in result.counts.items()
    )


def check_against_fresh(found: State, fresh: State) -> None:
    """All is as in a fresh database, but for failures that may pass, or that stay because a run has died of them."""
    assert found.keys() == fresh.keys()
    for name, has in found.items():
        wanted = fresh[name]
        assert (has.partition_key, has.about) == (wanted.partition_key, wanted.about)
        if has.failure_kind not in ("engine_error", "poison"):
            assert (has.values, has.is_answer) == (wanted.values, wanted.is_answer)


@pytest.fixture(params=["sqlite", "postgres"])
def make_shop(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Shop]:
    """Makes databases with an empty table `reviews`: SQLite files, or one database on Postgres that is emptied."""
    if request.param == "sqlite":
        numbers = itertools.count()
        return lambda: Shop(f"sqlite:///{tmp_path / str(next(numbers))}.db")
    url = request.getfixturevalue("postgres_url")

    def make() -> Shop:
        database = Database(url)
        with database.engine.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        database.close()
        return Shop(url)

    return make


IS_THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
EXAMPLES = {"sqlite": 300, "postgres": 100} if IS_THOROUGH else {"sqlite": 18, "postgres": 6}
SETTINGS = settings(
    stateful_step_count=30 if IS_THOROUGH else 20,
    derandomize=not IS_THOROUGH,
    database=None,
    deadline=None,
    # To explain a failure takes as long as to find it.
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[*HealthCheck],
)


@pytest.mark.timeout(7200 if IS_THOROUGH else 600)
def test_tables_end_as_if_computed_once_from_nothing(
    make_shop: Callable[[], Shop], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("source_table", "store"):
        monkeypatch.setattr(f"llm_assets.tables.{module}.CHUNK_ROWS", CHUNK_ROWS)
    dialect = request.node.callspec.params["make_shop"]
    # Examples are derived from the name, so each database gets its own.
    machine = type(f"On_{dialect}", (IncrementalState,), {"make_shop": staticmethod(make_shop)})
    run_state_machine_as_test(machine, settings=settings(SETTINGS, max_examples=EXAMPLES[dialect]))
