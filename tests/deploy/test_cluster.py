"""Runs as deploy/values.yaml launches them: a backfill becomes Jobs, as many at once as the pool has slots."""

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from sqlalchemy.engine import make_url

from tests.crash.lives import wait_for
from tests.dagster.backfill_location import FOLDER
from tests.dagster.dagster_processes import ROOT, Dagster, running
from tests.dagster.test_backfill import LAUNCH
from tests.deploy.chart import instance_config, values
from tests.deploy.cluster import Cluster, serving
from tests.tables.shop import Shop

IMAGE = "registry.example.com/llm-assets:0.1.0"
DAYS = [f"2026-01-0{day}" for day in range(1, 7)]
ROWS = 3
SECONDS = 240.0

LAUNCH_JOB = """
mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
  __typename ... on PythonError { message } ... on RunConfigValidationInvalid { errors { message } }
} }
"""

LOCATION = "query { repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"


class Deployment:
    """Dagster with the instance of the values, whose runs go to a cluster of one machine: this one."""

    def __init__(self, dagster: Dagster, cluster: Cluster, shop: Shop, folder: Path) -> None:
        self.dagster = dagster
        self.cluster = cluster
        self.shop = shop
        self.folder = folder

    def waiting(self) -> list[int]:
        """Return the processes whose engine waits, or has waited, at the text that is held."""
        notes = self.folder / "notes"
        lines = notes.read_text().splitlines() if notes.exists() else []
        return [int(line.removeprefix("wait ")) for line in lines if line.startswith("wait ")]

    def answered(self) -> list[str]:
        found = self.shop.rows("SELECT r.text FROM reviews r JOIN reviews_sentiment s ON s.id = r.id ORDER BY r.id")
        return [text for (text,) in found]

    def backfill(self) -> None:
        params = {"assetSelection": [{"path": ["reviews_sentiment"]}], "partitionNames": DAYS}
        answer = self.dagster.ask(LAUNCH, params=params)["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer

    def launch(self, job: str, day: str) -> None:
        [repository] = self.dagster.ask(LOCATION)["repositoriesOrError"]["nodes"]
        selector = {
            "repositoryName": repository["name"],
            "repositoryLocationName": repository["location"]["name"],
            "pipelineName": job,
        }
        tags = [{"key": "dagster/partition", "value": day}]
        params = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": tags}}
        answer = self.dagster.ask(LAUNCH_JOB, params=params)["launchPipelineExecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer


TEXTS = [f"{day} {n}" for day in DAYS for n in range(ROWS)]


def fill(shop: Shop) -> None:
    shop.execute("CREATE TABLE reviews (id INTEGER PRIMARY KEY, created_at TIMESTAMP, text TEXT)")
    times = [datetime.fromisoformat(day) + timedelta(hours=n) for day in DAYS for n in range(ROWS)]
    rows = [
        {"id": n, "created_at": time, "text": text} for n, (time, text) in enumerate(zip(times, TEXTS, strict=True))
    ]
    shop.insert("reviews", rows)


def set_slots(folder: Path, slots: int) -> None:
    """Say how many runs may be in the pool, as the page says it."""
    subprocess.run(
        [sys.executable, "-m", "dagster", "instance", "concurrency", "set", "gpu", str(slots)],
        env={**os.environ, "DAGSTER_HOME": str(folder / "home")},
        cwd=ROOT,
        check=True,
        capture_output=True,
    )


@contextmanager
def deployment(postgres_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, start: bool) -> Iterator[Deployment]:
    url = make_url(postgres_url)
    given = copy.deepcopy(values())
    # What is elsewhere here: the database, and the cluster. And the daemon looks after runs more often.
    given["postgresql"] |= {
        "postgresqlHost": url.host,
        "postgresqlUsername": url.username,
        "postgresqlDatabase": url.database,
        "service": {"port": url.port},
    }
    given["dagsterDaemon"]["runMonitoring"]["pollIntervalSeconds"] = 1
    config = instance_config(given)
    secrets = {
        "llm-assets": {"LLM_ASSETS_DATABASE_URL": postgres_url},
        "dagster-postgresql": {"postgresql-password": str(url.password)},
    }
    environment = {
        "LLM_ASSETS_DATABASE_URL": postgres_url,
        FOLDER: str(folder),
        "DAGSTER_PG_PASSWORD": str(url.password),
        "DAGSTER_CURRENT_IMAGE": IMAGE,
    }
    overrides = {"DAGSTER_HOME": str(folder / "home"), FOLDER: str(folder)}
    shop = Shop(postgres_url, make=False)
    fill(shop)
    cluster = Cluster(secrets, overrides, folder, start)
    with serving(cluster, folder) as kubeconfig:
        config["run_launcher"]["config"] |= {"load_incluster_config": False, "kubeconfig_file": str(kubeconfig)}
        with running("tests.deploy.location", folder / "home", environment, yaml.safe_dump(config)) as dagster:
            monkeypatch.setenv("DAGSTER_PG_PASSWORD", str(url.password))
            set_slots(folder, 2)
            yield Deployment(dagster, cluster, shop, folder)
    shop.database.close()


def container(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]["containers"][0]


def variables(job: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in container(job)["env"]}


def test_a_backfill_runs_on_as_many_machines_as_the_pool_has_slots_and_one_that_dies_costs_nothing(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = tmp_path / "held"
    held.write_text("2026-01-04 1")
    with deployment(postgres_url, tmp_path, monkeypatch, start=True) as scene:
        scene.backfill()
        wait_for("the run of the third and fourth day", lambda: bool(scene.waiting()), SECONDS)
        [waiting] = scene.waiting()
        jobs = [_processes(scene, name) for name in scene.cluster.running()]
        [victim] = [processes for processes in jobs if waiting in (process.pid for process in processes)]
        for process in victim:
            process.kill()
        held.unlink()
        wait_for("all answers", lambda: scene.answered() == TEXTS, SECONDS)
        wait_for("the end of the runs", lambda: not scene.cluster.running(), SECONDS)
        # Three runs of two days each, and the one again that died.
        assert len(scene.cluster.jobs) == 4
        assert scene.cluster.most_at_once <= 2
        for job in scene.cluster.jobs.values():
            assert container(job)["image"] == IMAGE
            assert container(job)["resources"]["limits"]["nvidia.com/gpu"] == "1"


def _processes(scene: Deployment, name: str) -> list[psutil.Process]:
    """Return a Job's processes: those that its command began, and its own."""
    worker = psutil.Process(scene.cluster.processes[name].pid)
    return [*worker.children(recursive=True), worker]


def test_a_run_is_a_job_with_a_gpu_shared_memory_and_the_cache_and_tags_give_more_gpus_or_none(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with deployment(postgres_url, tmp_path, monkeypatch, start=False) as scene:
        scene.launch("__ASSET_JOB", DAYS[0])
        scene.launch("ask_the_server", DAYS[1])
        wait_for("two Jobs", lambda: len(scene.cluster.jobs) == 2, SECONDS)
        # The pool has two slots, and no run ends here: the next one waits for more.
        set_slots(scene.folder, 3)
        scene.launch("answer_reviews_on_four_gpus", DAYS[2])
        wait_for("the third Job", lambda: len(scene.cluster.jobs) == 3, SECONDS)
    by_name = {variables(job)["DAGSTER_RUN_JOB_NAME"]: job for job in scene.cluster.jobs.values()}
    pod = by_name["__ASSET_JOB"]["spec"]["template"]["spec"]
    main = container(by_name["__ASSET_JOB"])
    assert main["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": "1"}
    mounts = {mount["mountPath"]: mount["name"] for mount in main["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}
    assert volumes[mounts["/cache"]]["persistentVolumeClaim"] == {"claimName": "llm-assets-cache"}
    assert pod["securityContext"]["runAsNonRoot"]
    assert {"secretRef": {"name": "llm-assets"}} in main["envFrom"]
    [password] = [variable for variable in main["env"] if variable["name"] == "DAGSTER_PG_PASSWORD"]
    assert password["valueFrom"]["secretKeyRef"] == {"key": "postgresql-password", "name": "dagster-postgresql"}
    four = container(by_name["answer_reviews_on_four_gpus"])
    assert four["resources"]["limits"] == {"memory": "128Gi", "nvidia.com/gpu": "4"}
    assert four["volumeMounts"] == main["volumeMounts"]
    other = container(by_name["ask_the_server"])
    assert "nvidia.com/gpu" not in {**other["resources"]["limits"], **other["resources"]["requests"]}
    assert other["image"] == IMAGE


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster's address is this machine's, whatever proxy the environment names."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
