"""Backfills as Dagster's own daemon does them: one load, what is done stays done, and only the rest is asked again."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tests.crash.lives import wait_for
from tests.dagster.backfill_location import DATABASE, FOLDER
from tests.dagster.dagster_processes import Dagster, run_processes, running
from tests.tables.shop import Shop

FIRST = datetime(2026, 1, 1)
DAYS = [f"2026-01-{day:02}" for day in range(1, 31)]
ROWS = {day: 1 + number % 3 for number, day in enumerate(DAYS)}
TEXTS = [f"{day} {n}" for day, rows in ROWS.items() for n in range(rows)]
ASSET = ["reviews_sentiment"]
SECONDS = 180.0

LAUNCH = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  }
}
"""

RETRY = """
mutation ($params: ReexecutionParams!) {
  reexecutePartitionBackfill(reexecutionParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  }
}
"""

STATUS = """
query ($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    __typename
    ... on PartitionBackfill {
      status
      assetBackfillData {
        assetBackfillStatuses {
          ... on AssetPartitionsStatusCounts {
            assetKey { path } numPartitionsMaterialized numPartitionsFailed numPartitionsTargeted
          }
        }
      }
    }
  }
}
"""

STALE = """
query ($asset: AssetKeyInput!, $day: String!) { assetNodeOrError(assetKey: $asset) {
  ... on AssetNode { staleStatus(partition: $day) }
} }
"""


class Scene:
    """A table of 30 days, Dagster over it, and what the engine was asked."""

    def __init__(self, folder: Path, dagster: Dagster) -> None:
        self.folder = folder
        self.dagster = dagster
        self.shop = Shop(f"sqlite:///{folder}/shop.db", make=False)
        self.instance = dg.DagsterInstance.from_config(str(folder / "dagster"))

    def fill(self) -> None:
        self.shop.execute("CREATE TABLE reviews (id INTEGER PRIMARY KEY, created_at TIMESTAMP, text TEXT)")
        rows = [
            {"created_at": FIRST + timedelta(days=number, hours=n), "text": f"{day} {n}"}
            for number, day in enumerate(DAYS)
            for n in range(ROWS[day])
        ]
        self.shop.insert("reviews", [{"id": number, **row} for number, row in enumerate(rows)])

    def hold(self, text: str | None) -> None:
        """Let the engine wait when it is asked about a text, or let it go on."""
        held = self.folder / "held"
        held.unlink(missing_ok=True)
        if text is not None:
            held.write_text(text)

    def notes(self) -> list[str]:
        path = self.folder / "notes"
        return path.read_text().splitlines() if path.exists() else []

    def loads(self) -> int:
        return sum(line.startswith("load ") for line in self.notes())

    def asked(self) -> list[str]:
        return [line.removeprefix("ask ") for line in self.notes() if line.startswith("ask ")]

    def backfill(self, asset: list[str] = ASSET, days: list[str] = DAYS) -> str:
        """Launch a backfill as the UI does."""
        params = {"assetSelection": [{"path": asset}], "partitionNames": days}
        answer = self.dagster.ask(LAUNCH, params=params)["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        return answer["backfillId"]

    def retry(self, backfill: str) -> str:
        """Launch what the UI calls to re-execute a backfill from failure."""
        params = {"parentRunId": backfill, "strategy": "FROM_FAILURE"}
        answer = self.dagster.ask(RETRY, params=params)["reexecutePartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        return answer["backfillId"]

    def status(self, backfill: str) -> dict[str, Any]:
        return self.dagster.ask(STATUS, id=backfill)["partitionBackfillOrError"]

    def finished(self, backfill: str) -> tuple[str, int, int]:
        """Wait for a backfill's end; return its status, and how many partitions are materialized and failed."""
        ends = ("COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED")
        wait_for("the backfill", lambda: self.status(backfill)["status"] in ends, SECONDS)
        status = self.status(backfill)
        [counts] = status["assetBackfillData"]["assetBackfillStatuses"]
        return status["status"], counts["numPartitionsMaterialized"], counts["numPartitionsFailed"]

    def recorded(self, backfill: str, asset: list[str] = ASSET) -> dict[str, list[dg.AssetMaterialization]]:
        """Return the materializations of a backfill's runs, by partition."""
        runs = self.runs(backfill)
        found: dict[str, list[dg.AssetMaterialization]] = {}
        for record in self.instance.fetch_materializations(dg.AssetKey(asset), limit=1000).records:
            if record.run_id in runs and record.asset_materialization is not None:
                found.setdefault(str(record.asset_materialization.partition), []).append(record.asset_materialization)
        return found

    def runs(self, backfill: str) -> list[str]:
        filters = dg.RunsFilter(tags={"dagster/backfill": backfill})
        return [run.run_id for run in self.instance.get_runs(filters)]

    def stale(self, day: str) -> str:
        return self.dagster.ask(STALE, asset={"path": ["report"]}, day=day)["assetNodeOrError"]["staleStatus"]


@pytest.fixture(scope="module")
def dagster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Dagster]]:
    folder = tmp_path_factory.mktemp("backfill")
    environment = {FOLDER: str(folder), DATABASE: f"sqlite:///{folder}/shop.db"}
    with running("tests.dagster.backfill_location", folder / "dagster", environment) as dagster:
        yield folder, dagster


@pytest.fixture
def scene(dagster: tuple[Path, Dagster]) -> Iterator[Scene]:
    """Each test begins with the source as it was, and without answers or notes."""
    scene = Scene(*dagster)
    tables = scene.shop.column("SELECT name FROM sqlite_master WHERE type = 'table'")
    scene.shop.execute(*(f"DROP TABLE {table}" for table in tables))
    scene.fill()
    (scene.folder / "notes").unlink(missing_ok=True)
    yield scene
    scene.hold(None)
    scene.shop.database.close()
    scene.instance.dispose()


def has_own_metadata(found: dict[str, list[dg.AssetMaterialization]], days: list[str]) -> None:
    """Assert that some days are recorded once each, with the numbers of that day."""
    assert sorted(found) == days
    for day, materializations in found.items():
        [materialization] = materializations
        assert materialization.metadata["llm_assets/rows_read"].value == ROWS[day]
        assert materialization.metadata["dagster/partition_row_count"].value == ROWS[day]


def test_a_backfill_of_30_days_is_one_run_with_one_load_and_30_materializations(scene: Scene) -> None:
    backfill = scene.backfill()
    assert scene.finished(backfill) == ("COMPLETED_SUCCESS", 30, 0)
    assert len(scene.runs(backfill)) == 1
    assert scene.loads() == 1
    assert sorted(scene.asked()) == sorted(TEXTS)
    has_own_metadata(scene.recorded(backfill), DAYS)


def test_a_backfill_that_is_killed_in_the_middle_keeps_what_it_has_recorded(scene: Scene) -> None:
    scene.hold("2026-01-16 0")
    killed = scene.backfill()
    wait_for("the 16th", lambda: "2026-01-16 0" in scene.asked(), SECONDS)
    # A partition is complete when the next one has begun.
    wait_for("what is complete to be recorded", lambda: len(scene.recorded(killed)) >= 14, SECONDS)
    before = scene.recorded(killed)
    has_own_metadata(before, DAYS[: len(before)])
    [load] = [line for line in scene.notes() if line.startswith("load ")]
    for process in run_processes(int(load.split()[1])):
        process.kill()
    assert scene.finished(killed) == ("COMPLETED_FAILED", len(before), 30 - len(before))

    asked = len(scene.asked())
    scene.hold(None)
    again = scene.retry(killed)
    rest = DAYS[len(before) :]
    assert scene.finished(again) == ("COMPLETED_SUCCESS", len(rest), 0)
    has_own_metadata(scene.recorded(again), rest)
    assert scene.loads() == 2
    # Twice was asked only what had not been committed when the run was killed: it was in the engine's hands.
    assert Counter(scene.asked()) == Counter(TEXTS) + Counter(["2026-01-16 0"])
    assert set(scene.asked()[asked:]) <= {text for text in TEXTS if text[:10] in rest}
    assert scene.shop.column("SELECT COUNT(*) FROM reviews_sentiment") == [len(TEXTS)]


def test_a_backfill_again_after_a_kill_asks_only_the_rest_and_records_every_day(scene: Scene) -> None:
    scene.hold("2026-01-20 0")
    killed = scene.backfill()
    wait_for("the 20th", lambda: "2026-01-20 0" in scene.asked(), SECONDS)
    [load] = [line for line in scene.notes() if line.startswith("load ")]
    for process in run_processes(int(load.split()[1])):
        process.kill()
    assert scene.finished(killed)[0] == "COMPLETED_FAILED"
    asked = len(scene.asked())
    scene.hold(None)
    again = scene.backfill()
    assert scene.finished(again) == ("COMPLETED_SUCCESS", 30, 0)
    has_own_metadata(scene.recorded(again), DAYS)
    assert set(scene.asked()[asked:]) <= set(TEXTS[TEXTS.index("2026-01-20 0") - 3 :])
    assert set(scene.asked()) == set(TEXTS)


def test_days_that_fail_do_not_take_the_others_with_them_and_cost_only_themselves(scene: Scene) -> None:
    for day in ("2026-01-05", "2026-01-06", "2026-01-21"):
        scene.shop.execute(f"UPDATE reviews SET text = NULL WHERE date(created_at) = '{day}'")
    backfill = scene.backfill()
    assert scene.finished(backfill) == ("COMPLETED_FAILED", 27, 3)
    assert scene.loads() == 1
    has_own_metadata(scene.recorded(backfill), [d for d in DAYS if d not in ("2026-01-05", "2026-01-06", "2026-01-21")])
    [run] = scene.runs(backfill)
    [failure] = [e for e in scene.instance.all_logs(run) if e.dagster_event and e.dagster_event.is_step_failure]
    message = str(failure.dagster_event.step_failure_data.error)
    for line in ("3 of 30 partitions failed", "2026-01-05: 2 of 2 answers failed", "2026-01-21: 3 of 3 answers failed"):
        assert line in message

    asked = len(scene.asked())
    scene.shop.execute("UPDATE reviews SET text = 'mended ' || id WHERE text IS NULL")
    again = scene.retry(backfill)
    assert scene.finished(again) == ("COMPLETED_SUCCESS", 3, 0)
    assert all(text.startswith("mended ") for text in scene.asked()[asked:])
    # Dagster's runs are of neighbouring partitions.
    assert len(scene.runs(again)) == 2


def test_a_backfill_is_split_into_runs_for_several_gpus(scene: Scene) -> None:
    backfill = scene.backfill(["split", "reviews_sentiment"])
    assert scene.finished(backfill) == ("COMPLETED_SUCCESS", 30, 0)
    assert len(scene.runs(backfill)) == 3
    assert scene.loads() == 3
    assert sorted(scene.asked()) == sorted(TEXTS)
    has_own_metadata(scene.recorded(backfill, ["split", "reviews_sentiment"]), DAYS)


def test_what_is_made_of_the_answers_is_stale_when_they_come_anew(scene: Scene) -> None:
    days = DAYS[:2]
    scene.finished(scene.backfill(days=days))
    scene.finished(scene.backfill(["report"], days))
    assert [scene.stale(day) for day in days] == ["FRESH", "FRESH"]
    scene.finished(scene.backfill(days=days))
    assert [scene.stale(day) for day in days] == ["STALE", "STALE"]
