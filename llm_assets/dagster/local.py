"""Run a job in this process, as a real run of an instance."""

from pathlib import Path

import dagster as dg

from llm_assets.errors import LLMAssetsError

INSTANCE = """\
# An instance for one machine: everything that Dagster remembers is in SQLite files beside this one.
concurrency:
  pools:
    granularity: run
    default_limit: 1
python_logs:
  managed_python_loggers: [llm_assets]
  python_log_level: INFO
telemetry:
  enabled: false
nux:
  enabled: false
"""


def prepare_instance(directory: Path) -> Path:
    """Make a Dagster instance in a directory, unless there is one, and return the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "dagster.yaml").exists():
        (directory / "dagster.yaml").write_text(INSTANCE)
    return directory


def run_job(definitions: dg.Definitions, job_name: str, instance_directory: Path) -> str:
    """Run a job over all partitions that exist, in one run, and return the run's id.

    Raises:
        LLMAssetsError: what stopped the run, without Dagster's wrapping.
    """
    job = definitions.resolve_job_def(job_name)
    tags: dict[str, str] = {}
    if job.partitions_def is not None:
        keys = job.partitions_def.get_partition_keys()
        tags = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with dg.DagsterInstance.from_config(str(instance_directory)) as instance:
        try:
            result = job.execute_in_process(instance=instance, tags=tags, run_config=quiet)
        except Exception as error:
            raise _own_error(error) or error from None
    return result.run_id


def _own_error(error: BaseException) -> LLMAssetsError | None:
    """Return the error of this package that lies beneath Dagster's, if there is one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, LLMAssetsError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
