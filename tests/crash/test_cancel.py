"""A run that is cancelled: what was answered is committed, its engine ends, and the next run asks only the rest."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from dagster_graphql import DagsterGraphQLClient

from llm_assets.dagster.local import prepare_instance
from tests.crash.asked import Asked
from tests.crash.engine import IN_FLIGHT, ROOT
from tests.crash.job import NAME, Job
from tests.crash.lives import Worker, left_over, wait_for
from tests.crash.table import DAYS, lost_and_doubled, reviews
from tests.tables.shop import Shop

ROWS = 200
CANCELLED_AFTER = 100
"""Questions."""

RANGE = {"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[-1]}

DIRECT_LAUNCH = """\
# The webserver launches runs itself, without a daemon that takes them from a queue.
run_coordinator:
  module: dagster._core.run_coordinator
  class: DefaultRunCoordinator
telemetry:
  enabled: false
nux:
  enabled: false
"""


class Cancelled:
    """A table of reviews, a job over it that commits only at its end, and what was asked."""

    def __init__(self, url: str, directory: Path) -> None:
        self.shop = Shop(url)
        self.shop.insert("reviews", reviews(random.Random(1), ROWS))
        self.directory = directory
        self.asked = Asked(directory / "notes")
        self.job = Job(
            url, str(directory / "dagster"), str(self.asked.path), 1, 0.01, commit_rows=10**6, commit_seconds=10**6
        )

    def wait_until_asked(self) -> None:
        wait_for("the questions", lambda: self.asked.count() >= CANCELLED_AFTER)
        assert self.committed() == 0

    def committed(self) -> int:
        """Return how many questions have an outcome in the tables."""
        failed = "SELECT count(DISTINCT content_hash || task) FROM llm_failures WHERE kind <> 'empty_text'"
        return self.shop.column("SELECT count(*) FROM llm_answers")[0] + self.shop.column(failed)[0]

    def check(self) -> None:
        """Look at what the cancelled run has left, and run again."""
        wait_for("the engine to end", lambda: not left_over(self.directory))
        asked = self.asked.count()
        assert CANCELLED_AFTER <= asked < len(reviews(random.Random(1), ROWS))
        assert self.committed() >= asked - IN_FLIGHT
        rest = asked - self.committed()
        Worker(replace(self.job, life=2, seconds=0.0), self.directory).process.wait()
        assert lost_and_doubled(self.shop) == (0, 0)
        assert self.asked.count() - len(self.asked.names()) == rest


@pytest.fixture
def cancelled(database_url: str, tmp_path: Path) -> Iterator[Cancelled]:
    cancelled = Cancelled(database_url, tmp_path)
    yield cancelled
    cancelled.shop.database.close()


@contextmanager
def started(command: list[str], job: Job) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a program of Dagster's, with the job and its instance in the environment."""
    environment = {**os.environ, **job.environment(), "DAGSTER_HOME": job.instance}
    arguments = [sys.executable, "-m", *command]
    with subprocess.Popen(arguments, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            for left in left_over(Path(job.instance).parent):
                left.kill()


@pytest.mark.parametrize(
    ("database_url", "number"), [("sqlite", signal.SIGINT), ("postgres", signal.SIGTERM)], indirect=["database_url"]
)
def test_a_run_that_gets_a_signal(cancelled: Cancelled, number: signal.Signals) -> None:
    prepare_instance(Path(cancelled.job.instance))
    tags = json.dumps(RANGE)
    command = ["dagster", "job", "execute", "-m", "tests.crash.job", "-j", NAME, "--tags", tags]
    with started(command, cancelled.job) as process:
        cancelled.wait_until_asked()
        process.send_signal(number)
        process.wait(30)
    cancelled.check()


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_run_that_is_terminated_in_the_webserver(cancelled: Cancelled) -> None:
    instance = Path(cancelled.job.instance)
    instance.mkdir()
    (instance / "dagster.yaml").write_text(DIRECT_LAUNCH)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with started(["dagster_webserver", "-m", "tests.crash.job", "-p", str(port)], cancelled.job) as process:
        wait_for("the webserver", lambda: answers(f"http://127.0.0.1:{port}/server_info"))
        client = DagsterGraphQLClient("127.0.0.1", port_number=port)
        run = client.submit_job_execution(NAME, tags=RANGE)
        cancelled.wait_until_asked()
        client.terminate_run(run)
        wait_for("the run to end", lambda: client.get_run_status(run) == dg.DagsterRunStatus.CANCELED)
        process.terminate()
        process.wait(30)
    cancelled.check()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url):
            return True
    except OSError:
        return False
