"""A factory of assets: one for each task, computed together, upstream the source table."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import dagster as dg
from pydantic import Field, ValidationError

from llm_assets.dagster.metadata import asset_metadata, materialization_metadata
from llm_assets.dagster.partitions import Partitions
from llm_assets.dagster.table import TABLE_METADATA, TableDefinition
from llm_assets.errors import ConfigError, DatabaseError, EngineError, validation_message
from llm_assets.pipeline import PartitionResult, PipelineSettings, output_table_name
from llm_assets.progress import listener
from llm_assets.secrets import masked, masked_errors
from llm_assets.tables import Source
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

    def applied_to(self, settings: PipelineSettings) -> PipelineSettings:
        """Return the settings of one run, or raise a ConfigError."""
        values = {**settings.model_dump(), **self.model_dump(exclude_defaults=True)}
        try:
            return PipelineSettings.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"The run's config: {validation_message(error)}") from None


def build_llm_assets(
    source: Source,
    tasks: Sequence[Task],
    partitions: Partitions | None = None,
    *,
    settings: PipelineSettings | None = None,
    key_prefix: Sequence[str] = (),
    group_name: str = "llm_assets",
    owners: Sequence[str] = (),
    tags: dict[str, str] | None = None,
    automation_condition: dg.AutomationCondition | None = None,
    freshness_policy: dg.FreshnessPolicy | None = None,
    pool: str | None = "gpu",
    database_key: str = "database",
    source_database_key: str | None = None,
    engine_key: str = "engine",
) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Return the assets of one source table: an external one for the table, and one for each task.

    The tasks are computed in one step that reads the table once and shares one engine; any subset of them can be
    materialized. A range of partitions is one run with one load of the model.

    Args:
        source: The table to read.
        tasks: What to ask about each row. Each becomes the asset and table `<table>_<task>`.
        partitions: How the table is cut; None takes it whole.
        settings: How rows are worked through.
        key_prefix: Put before the asset keys.
        group_name: Dagster group of the assets.
        owners: Dagster owners of the assets.
        tags: Dagster tags of the assets.
        automation_condition: When Dagster materializes the assets by itself.
        freshness_policy: How old the answers may become before Dagster calls them stale.
        pool: Concurrency pool of the step, so that runs take turns at the GPU; None sets no limit.
        database_key: Resource key of the `DatabaseResource` that answers are written to.
        source_database_key: Resource key of the one that rows are read from; None reads from the same.
        engine_key: Resource key of the `EngineResource`.

    Returns:
        Definitions to pass to `dg.Definitions(assets=...)`.
    """
    table = TableDefinition(
        source,
        tuple(tasks),
        partitions,
        settings or PipelineSettings(),
        tuple(key_prefix),
        database_key,
        source_database_key or database_key,
        engine_key,
    )
    definition = partitions.definition() if partitions else None
    by_key = {table.task_asset(task): task for task in tasks}
    specs = [
        dg.AssetSpec(
            key,
            deps=[table.source_asset],
            description=masked(f"{task.system_message()}\n\nAsked about: {task.text}"),
            metadata={**asset_metadata(task, output_table_name(source, task), source.name), TABLE_METADATA: table},
            group_name=group_name,
            owners=list(owners),
            tags=tags or {},
            kinds={"vllm", type(task).__name__.lower()},
            partitions_def=definition,
            automation_condition=automation_condition,
            freshness_policy=freshness_policy,
        )
        for key, task in by_key.items()
    ]
    resource_keys = {table.database_key, table.source_database_key, table.engine_key}

    @dg.multi_asset(
        name=dg.AssetKey([*key_prefix, source.output_prefix, "answers"]).to_python_identifier(),
        specs=specs,
        can_subset=True,
        required_resource_keys=resource_keys,
        backfill_policy=dg.BackfillPolicy.single_run() if definition else None,
        pool=pool,
    )
    def answers(context: dg.AssetExecutionContext, config: RunConfig) -> Iterator[dg.MaterializeResult]:
        with masked_errors():
            chosen = answer(context, config)
        for task in chosen:
            yield dg.MaterializeResult(asset_key=table.task_asset(task))

    def answer(context: dg.AssetExecutionContext, config: RunConfig) -> list[Task]:
        chosen = [task for key, task in by_key.items() if key in context.selected_asset_keys]
        resources = {key: getattr(context.resources, key) for key in resource_keys}
        pipeline = table.pipeline(resources, chosen, config.applied_to(table.settings))
        slices = [table.partition(key) for key in (context.partition_keys if partitions else [""])]
        with _retried():
            for result in pipeline.run_all(slices, context.run_id, listener(context.log.info)):
                for task in chosen:
                    _log(
                        context.log,
                        f"{output_table_name(source, task)}, partition {result.partition_key}",
                        task,
                        result,
                    )
                    metadata = materialization_metadata(pipeline, task, result)
                    partition_key = result.partition_key if partitions else None
                    context.add_asset_metadata(metadata, asset_key=table.task_asset(task), partition_key=partition_key)
        return chosen

    source_spec = dg.AssetSpec(
        table.source_asset,
        description=f"Table {source.name}, read by llm_assets.",
        metadata={"dagster/table_name": source.name},
        group_name=group_name,
        kinds={"table"},
    )
    return [source_spec, answers]


def build_failed_rows_job(
    assets: Sequence[dg.AssetsDefinition | dg.AssetSpec],
    kinds: Sequence[str] = (),
    name: str | None = None,
    executor_def: dg.ExecutorDefinition | None = None,
):
    """Return a job that asks again only the rows that failed before; all other answers stay as they are.

    Args:
        assets: What `build_llm_assets` returned.
        kinds: Kinds of failures to ask again; none given is all.
        name: The job's name; `ask_failed_<table>` if not given.
        executor_def: How the job's steps are run.
    """
    [answers] = [item for item in assets if isinstance(item, dg.AssetsDefinition)]
    config = RunConfig(only_failed=True, failure_kinds=list(kinds))
    config.applied_to(PipelineSettings())
    table = answers.op.name.removesuffix("__answers")
    what = f"the rows of {table} that failed" + (f" with {', '.join(kinds)}" if kinds else "")
    return dg.define_asset_job(
        name or f"ask_failed_{table}",
        selection=dg.AssetSelection.assets(*answers.keys),
        config=dg.RunConfig(ops={answers.op.name: config}),
        description=f"Ask again about {what}, and about no others.",
        executor_def=executor_def,
    )


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
