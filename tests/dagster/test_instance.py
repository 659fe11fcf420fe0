"""The production instance of dagster.yaml, on a real Postgres."""

import os
import re
import shutil
import subprocess
import sys
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


def test_the_commands_of_the_readme_make_the_instance(postgres_url: str, tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text().partition("### In production\n")[2]
    [block] = re.findall(r"```console\n(.*?)```", section.partition("\n## ")[0], re.S)
    setting_up = re.findall(r"^\$ ((?:mkdir|export|dagster) .*)$", block, re.M)
    assert len(setting_up) == 3
    commands = "\n".join(setting_up).replace("path/to/this/clone", str(ROOT)).replace("/srv/dagster", str(tmp_path))
    commands = re.sub(r"postgresql://\S+", postgres_url, commands)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-ec", commands], env={**os.environ, "PATH": path}, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_POSTGRES_URL", postgres_url)
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            [limit] = instance.event_log_storage.get_pool_limits()
            assert (limit.name, limit.limit) == ("gpu", 1)
            assert instance.run_retries_enabled
            assert instance.run_monitoring_enabled


def test_a_password_does_not_stand_in_dagster_yaml() -> None:
    text = (ROOT / "dagster.yaml").read_text()
    assert "postgres_url: {env: DAGSTER_POSTGRES_URL}" in text


def test_the_demo_instance_is_made_once_and_kept(tmp_path: Path) -> None:
    directory = prepare_instance(tmp_path / "dagster")
    (directory / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    prepare_instance(directory)
    assert (directory / "dagster.yaml").read_text() == "telemetry:\n  enabled: false\n"
