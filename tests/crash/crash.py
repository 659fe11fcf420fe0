"""Kill a run at random moments, let it end, and compare its tables with those of a run that nobody disturbed."""

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from llm_assets.dagster.local import prepare_instance
from tests.crash.asked import BOUNDS, Asked, Kill
from tests.crash.databases import Place
from tests.crash.engine import IN_FLIGHT
from tests.crash.job import Job, run_once
from tests.crash.lives import QUIET_SECONDS, CrashError, Worker, left_over, wait_for
from tests.crash.table import Review, change, changes, lost_and_doubled, outputs, reviews
from tests.tables.shop import Shop


@dataclass(frozen=True)
class Plan:
    """How often to kill, and when: after so many more questions, or now and then after some seconds."""

    rows: int = 2000
    kills: int = 50
    kinds: tuple[str, ...] = ()
    """What to kill; all that the database has, if none is given."""
    questions: tuple[int, int] = (5, 60)
    seconds_share: float = 0.15
    """The share of the kills that wait for seconds, so that they also come when nothing is asked."""
    seconds_most: float = 4.0
    answer_seconds: float = 0.01
    """What the dummy engine takes for an answer."""
    changed_share: float = 0.2
    """The share of the rows that change when all are answered before the kills are done."""
    model: str = ""
    """The directory of a model for vLLM; without one it is the dummy engine."""
    tolerance: float = 0.0
    """How far a number may be from that of the undisturbed run."""


@dataclass
class Report:
    """What came of one crash test."""

    name: str
    kills: list[Kill] = field(default_factory=list)
    lives: int = 0
    rows: int = 0
    asked: int = 0
    again: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Questions asked again by kind of kill: in all, and the most after a single kill."""
    lost: int = 0
    doubled: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Crash:
    """A run that is killed and begun again, until it was killed often enough and is left alone."""

    def __init__(
        self, name: str, place: Place, plan: Plan, seed: int, directory: Path, tell: Callable[[str], None]
    ) -> None:
        self.place = place
        self.plan = plan
        self.rng = random.Random(f"{name} {seed}")
        self.directory = directory
        self.tell = tell
        self.report = Report(name)
        self.kills = self.report.kills
        self.asked = Asked(directory / "crashed.notes")
        self.versions: list[list[Review]] = [reviews(self.rng, plan.rows)]
        """The rows of the table at first, and every change to them."""
        self.worker: Worker | None = None
        """The worker that is killed; the second one, which is started beside it, only for a while."""
        self._started = time.monotonic()

    def run(self) -> Report:
        """Do it, and return what came of it. Whatever is wrong stands in the report."""
        shops: list[Shop] = []
        # Dagster's own SQLite files do not bear to be made by two processes at once, nor by one that is killed.
        with self._instance() as instance:
            instance.get_runs()
            instance.all_instigator_state()
        try:
            for name in ("crashed", "calm"):
                shops.append(Shop(self.place.create(name)))
                shops[-1].insert("reviews", self.versions[0])
            crashed, calm = shops
            self._kill_often(crashed)
            self._run_calmly(calm)
            self._compare(crashed, calm)
        except CrashError as error:
            self.report.wrong.append(str(error))
        finally:
            for process in left_over(self.directory):
                process.kill()
            for shop in shops:
                shop.database.close()
        self.report.seconds = time.monotonic() - self._started
        return self.report

    def _kill_often(self, shop: Shop) -> None:
        kinds = self.plan.kinds or self.place.kinds
        todo = [kinds[number % len(kinds)] for number in range(self.plan.kills)]
        self.rng.shuffle(todo)
        while todo:
            worker = self.worker = self.worker or self._begin(shop)
            if not self._reaches_moment(worker, todo[-1]):
                self.worker = None
                self._change(shop)
            elif self._kill(worker, todo[-1], shop):
                kind = todo.pop()
                if self.worker is None:
                    # Not at the end only: no row may have an answer and a failure, wherever a run was killed.
                    self.report.doubled += lost_and_doubled(shop)[1]
                self._tell(f"{len(self.kills)} of {self.plan.kills} kills ({kind})")
        self._end(self.worker or self._begin(shop))
        self._tell("left alone, the run has succeeded")

    def _begin(self, shop: Shop) -> Worker:
        self.report.lives += 1
        return Worker(self._job(shop, "crashed", self.report.lives, self.plan.answer_seconds), self.directory)

    def _job(self, shop: Shop, name: str, life: int, seconds: float) -> Job:
        instance, notes = (str(self.directory / f"{name}.{what}") for what in ("dagster", "notes"))
        return Job(shop.url, instance, notes, life, seconds, self.plan.model)

    def _end(self, worker: Worker) -> None:
        wait_for("a run to end", lambda: not worker.lives(), 10 * QUIET_SECONDS)
        worker.check()

    def _reaches_moment(self, worker: Worker, kind: str) -> bool:
        """Wait for the moment of the next kill; return False if the run ends before."""
        # A run that begins while the server is away ends with an error: only a run that has begun waits for it. And a
        # question that is alone in an engine which dies again is taken for the cause, and rightly fails: after two
        # deaths each is asked alone, so a third one waits until those are answered.
        deaths = self._engine_kills(worker) if kind == "engine" else 0
        by_time = kind != "server" and not deaths and self.rng.random() < self.plan.seconds_share
        until = time.monotonic() + (self.rng.uniform(0, self.plan.seconds_most) if by_time else QUIET_SECONDS)
        enough = self.asked.count() + self.rng.randint(*self.plan.questions) + (3 * IN_FLIGHT if deaths > 1 else 0)
        while worker.lives():
            if by_time and time.monotonic() > until:
                return True
            if not by_time and self.asked.count() >= enough:
                time.sleep(self.rng.uniform(0, 0.05))
                return True
            if time.monotonic() > until:
                raise CrashError(f"Life {worker.life} asked too little for {QUIET_SECONDS:.0f} s.")
            time.sleep(0.002)
        worker.check()
        return False

    def _kill(self, worker: Worker, kind: str, shop: Shop) -> bool:
        """Kill something; return False if it is not there any more, or not yet."""
        if not worker.lives():
            return False
        match kind:
            case "worker":
                worker.kill()
                self.worker = None
                self.kills.append(Kill(kind, worker.life))
            case "sigterm":
                worker.terminate()
                self.worker = None
                self.kills.append(Kill(kind, worker.life))
            case "engine":
                number = self._engine_kills(worker)
                if not worker.kill_engine():
                    return False
                self.kills.append(Kill(kind, worker.life, number))
            case "second":
                return self._kill_one_of_two(worker, shop)
            case "server":
                self.place.kill()
                time.sleep(self.rng.uniform(0, 2))
                self.place.start()
                self.kills.append(Kill(kind))
        return True

    def _kill_one_of_two(self, worker: Worker, shop: Shop) -> bool:
        """Start a second worker on the same partitions, and after a while kill one of the two."""
        victim, other = self.rng.sample([worker, self._begin(shop)], 2)
        time.sleep(self.rng.uniform(0, 1.5 * self.plan.seconds_most))
        self.worker = other
        if not victim.lives():
            victim.check()
            return False
        victim.kill()
        self.kills.append(Kill("second", victim.life))
        return True

    def _engine_kills(self, worker: Worker) -> int:
        return sum(kill.kind == "engine" and kill.life == worker.life for kill in self.kills)

    def _change(self, shop: Shop) -> None:
        """Give the next kills something to do."""
        self.versions.append(changes(self.rng, self.plan.rows, self.plan.changed_share, len(self.versions)))
        change(shop, self.versions[-1])
        self._tell(f"all rows had their answers, so {len(self.versions[-1])} were changed")

    def _run_calmly(self, shop: Shop) -> None:
        """Do the same without any kill."""
        for number, rows in enumerate(self.versions):
            if number:
                change(shop, rows)
            job = self._job(shop, "calm", -number, 0.0)
            if job.model:
                self._end(Worker(job, self.directory))  # vLLM keeps its settings for as long as its process lives
            else:
                run_once(job)
        self._tell("the undisturbed run has succeeded")

    def _compare(self, crashed: Shop, calm: Shop) -> None:
        report, wrong = self.report, self.report.wrong
        report.rows, report.asked = self.plan.rows, self.asked.count()
        report.lost, doubled = lost_and_doubled(crashed)
        report.doubled += doubled
        self._count_again()
        undisturbed = Asked(self.directory / "calm.notes")
        undisturbed.count()
        if len(undisturbed.lines) != len(undisturbed.names()) or undisturbed.names() != self.asked.names():
            wrong.append("The undisturbed run asked other questions.")
        wrong += differences(outputs(crashed), outputs(calm), self.plan.tolerance)
        [last] = crashed.column("SELECT run_id FROM llm_throughput ORDER BY started_at DESC LIMIT 1")
        states = crashed.column(f"SELECT DISTINCT status FROM llm_throughput WHERE run_id = '{last}'")
        if states != ["complete"]:
            wrong.append(f"The last run is {states}.")
        wrong += [f"Run {run} was tried again by Dagster." for run in self._retried_runs()]
        wrong += [f"Still held: {lock}." for lock in self.place.locks("crashed")]
        try:
            wait_for("all processes to end", lambda: not left_over(self.directory))
        except CrashError:
            wrong += [f"Left over: {process}." for process in left_over(self.directory)]

    def _count_again(self) -> None:
        again = self.asked.again(self.kills)
        self.report.wrong += [f"Asked again without a kill: {question}." for question in again.unexplained[:5]]
        for kind in dict.fromkeys(kill.kind for kill in self.kills):
            counts = [again.after[number] for number, kill in enumerate(self.kills) if kill.kind == kind]
            self.report.again[kind] = sum(counts), max(counts)
            if max(counts) > BOUNDS[kind]:
                self.report.wrong.append(f"{max(counts)} questions were asked again after one kill ({kind}).")

    def _retried_runs(self) -> list[str]:
        with self._instance() as instance:
            kind = dg.DagsterEventType.STEP_UP_FOR_RETRY
            return [run.run_id for run in instance.get_runs() if instance.all_logs(run.run_id, of_type=kind)]

    def _instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(prepare_instance(self.directory / "crashed.dagster")))

    def _tell(self, text: str) -> None:
        seconds = time.monotonic() - self._started
        self.tell(f"{self.report.name}: {text}; {self.asked.count()} asked, life {self.report.lives}, {seconds:.0f} s")


def differences(
    found: Mapping[str, Sequence[Mapping[str, object]]],
    expected: Mapping[str, Sequence[Mapping[str, object]]],
    tolerance: float,
) -> list[str]:
    """Say in what tables differ."""
    if found.keys() != expected.keys():
        return [f"The tables are {sorted(found)} and should be {sorted(expected)}."]
    wrong = []
    for table, rows in found.items():
        if len(rows) != len(expected[table]):
            wrong.append(f"{table} has {len(rows)} rows and should have {len(expected[table])}.")
        pairs = [pair for pair in zip(rows, expected[table], strict=False) if not _equal(*pair, tolerance)]
        if pairs:
            wrong.append(
                f"{len(pairs)} rows of {table} differ. The first is {pairs[0][0]} and should be {pairs[0][1]}."
            )
    return wrong


def _equal(one: object, other: object, tolerance: float) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=0, abs_tol=tolerance)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key], tolerance) for key in one)
    return one == other


def total(report: Report, kind: str) -> int:
    """Return how often a kind was killed."""
    return Counter(kill.kind for kill in report.kills)[kind]
