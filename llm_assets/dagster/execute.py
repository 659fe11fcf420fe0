"""The step that answers a table's partitions."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import dagster as dg
from pydantic import Field, ValidationError

from llm_assets.dagster.checks.evaluation import CheckEvent, TableChecks
from llm_assets.dagster.metadata import materialization_metadata
from llm_assets.dagster.record import Record
from llm_assets.dagster.table import TableDefinition
from llm_assets.errors import ConfigError, DatabaseError, EngineError, validation_message
from llm_assets.pipeline import PartitionResult, PipelineSettings, output_table_name
from llm_assets.progress import listener
from llm_assets.secrets import masked_errors
from llm_assets.tasks import Task

STEP_RETRIES = 2
STEP_RETRY_SECONDS = 30
"""A step whose engine or database failed is tried again so often, and so much later."""


class RunConfig(dg.Config):
    """What can be set for one run, in the launchpad or as a job's config. It goes before the table's own settings."""

    full_refresh: bool = Field(default=False, description="Ask about every row again, answered or not.")
    only_failed: bool = Field(default=False, description="Ask only rows that failed before, however often.")
    failure_kinds: list[str] = Field(
        default=[], description="With only_failed: ask only failures of these kinds; empty is all."
    )
    max_seconds: float | None = Field(default=None, description="Stop asking in time to end after this long.")
    max_rows: int | None = Field(
        default=None, description="Ask at most this many questions, one for each row and task."
    )
    max_tokens: int | None = Field(default=None, description="Use at most this many tokens of prompts and output.")
    max_cost: float | None = Field(
        default=None, description="Spend at most this much, in the currency of the engine's prices."
    )

    def applied_to(self, settings: PipelineSettings) -> PipelineSettings:
        """Return the settings of one run, or raise a ConfigError."""
        values = {**settings.model_dump(), **self.model_dump(exclude_defaults=True)}
        try:
            return PipelineSettings.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"The run's config: {validation_message(error)}") from None


TableEvent = dg.AssetMaterialization | dg.MaterializeResult | CheckEvent
"""What the step of a table tells Dagster."""

ExecuteTable = Callable[[dg.AssetExecutionContext, TableDefinition, RunConfig], Iterator[TableEvent]]
"""A function that does a step's work; see `execute_table`."""


def execute_table(context: dg.AssetExecutionContext, table: TableDefinition, config: RunConfig) -> Iterator[TableEvent]:
    """Bring the run's partitions of the selected assets up to date, and yield what Dagster is to record.

    With one partition, or none, that is a `MaterializeResult` for each asset. With several, it is an
    `AssetMaterialization` for each asset and partition as soon as the partition is complete, so that a run that is
    killed or fails has recorded what it has done. The results of a partition's checks follow. A run of checks alone
    asks nothing.

    Args:
        context: The step's context, with the resources under the table's resource keys.
        table: What to ask about which rows.
        config: What this run does otherwise.

    Raises:
        LLMAssetsError: see `Pipeline.run_all`.
        dagster.RetryRequested: the engine or a database failed.
    """
    tasks = [task for task in table.tasks if table.task_asset(task) in context.selected_asset_keys]
    resources = {key: getattr(context.resources, key) for key in table.resource_keys}
    with masked_errors(), _retried():
        checks = TableChecks(context, table, resources)
        if not tasks:
            yield from checks.run()
            return
    record = Record(context, table, tasks)
    several = table.partitions is not None and len(context.partition_keys) > 1
    with masked_errors():
        pipeline = table.pipeline(resources, tasks, config.applied_to(table.settings))
        slices = [table.partition(key) for key in record.partitions_left()]
        with _retried(), closing(pipeline.run_all(slices, context.run_id, listener(context.log.info))) as results:
            for result in results:
                for task in tasks:
                    name = f"{output_table_name(table.source, task)}, partition {result.partition_key}"
                    _log(context.log, name, task, result)
                    metadata = materialization_metadata(
                        pipeline, task, result, table.source_asset, whole_table=table.partitions is None
                    )
                    yield from record.materialized(task, result, metadata)
                yield from checks.partition(result.partition_key, several)
    yield from record.outputs()
    if several:
        with masked_errors(), _retried():
            yield from checks.all_partitions(context.partition_keys)


def _log(log: dg.DagsterLogManager, name: str, task: Task, result: PartitionResult) -> None:
    counts = result.counts[task.name]
    log.info(
        f"{name}: {counts.rows_read} read, {counts.rows_answered} answered, {counts.rows_reused} reused, "
        f"{counts.rows_skipped} unchanged, {counts.rows_failed} failed, {counts.rows_removed} removed."
    )
    if counts.rows_left:
        reason = f"this one reached {result.limit}" if result.limit else "this one asks only failed rows"
        log.warning(f"{name}: {counts.rows_left} left for another run, because {reason}.")


@contextmanager
def _retried() -> Iterator[None]:
    """Have Dagster try the step again when what failed is the machinery, not the settings or the rows."""
    try:
        yield
    except (DatabaseError, EngineError) as error:
        raise dg.RetryRequested(max_retries=STEP_RETRIES, seconds_to_wait=STEP_RETRY_SECONDS) from error
