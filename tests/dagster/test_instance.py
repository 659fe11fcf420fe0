"""The production instance of dagster.yaml, on a real Postgres."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from llm_assets.dagster.local import prepare_instance

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def instance(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", postgres_url)
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def test_the_instance_keeps_its_runs_in_postgres(instance: dg.DagsterInstance) -> None:
    @dg.asset
    def answer() -> int:
        return 42

    result = dg.materialize([answer], instance=instance)
    assert result.success
    assert "postgres" in str(type(instance.run_storage)).lower()
    assert instance.get_run_by_id(result.run_id) is not None


def test_runs_are_queued_and_the_gpu_pool_is_held_for_the_whole_run(instance: dg.DagsterInstance) -> None:
    concurrency = instance.get_concurrency_config()
    assert concurrency.pool_config.pool_granularity.value == "run"
    assert concurrency.pool_config.default_pool_limit == 1
    assert type(instance.run_coordinator).__name__ == "QueuedRunCoordinator"


def test_killed_runs_are_retried_and_failed_ones_are_not(instance: dg.DagsterInstance) -> None:
    assert instance.run_retries_enabled
    assert instance.run_monitoring_enabled
    assert not instance.get_settings("run_retries")["retry_on_asset_or_op_failure"]


def test_a_password_does_not_stand_in_dagster_yaml() -> None:
    text = (ROOT / "dagster.yaml").read_text()
    assert "postgres_url: {env: DAGSTER_POSTGRES_URL}" in text


def test_the_demo_instance_is_made_once_and_kept(tmp_path: Path) -> None:
    directory = prepare_instance(tmp_path / "dagster")
    (directory / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    prepare_instance(directory)
    assert (directory / "dagster.yaml").read_text() == "telemetry:\n  enabled: false\n"
