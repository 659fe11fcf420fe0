"""A factory of assets: one for each task, computed together, upstream the source table."""

from collections.abc import Callable, Iterator, Sequence

import dagster as dg

from llm_assets.dagster.checks import Checks
from llm_assets.dagster.checks.specs import check_specs
from llm_assets.dagster.execute import ExecuteTable, RunConfig, TableEvent, execute_table
from llm_assets.dagster.keys import KeyOfAsset, asset_key, checked_name, checked_prefix
from llm_assets.dagster.metadata import asset_metadata, source_metadata
from llm_assets.dagster.partitions import Partitions
from llm_assets.dagster.table import TABLE_METADATA, AssetsOfTable, TableDefinition, assets_of
from llm_assets.errors import ConfigError
from llm_assets.pipeline import PipelineSettings, output_table_name
from llm_assets.secrets import masked
from llm_assets.tables import Source
from llm_assets.tasks import Task, check_tasks


def build_llm_assets(
    source: Source,
    tasks: Sequence[Task],
    partitions: Partitions | None = None,
    *,
    settings: PipelineSettings | None = None,
    checks: Checks | None = None,
    name: str | None = None,
    source_asset: KeyOfAsset | None = None,
    key_prefix: Sequence[str] = (),
    group_name: str = "llm_assets",
    owners: Sequence[str] = (),
    tags: dict[str, str] | None = None,
    automation_condition: dg.AutomationCondition | None = None,
    freshness_policy: dg.FreshnessPolicy | None = None,
    pool: str | None = "gpu",
    max_partitions_per_run: int | None = None,
    database_key: str = "database",
    source_database_key: str | None = None,
    engine_key: str = "engine",
    execute: ExecuteTable | None = None,
    translate: Callable[[dg.AssetSpec], dg.AssetSpec] | None = None,
) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Return the assets of one source table: one for each task, and an external one for the table if none makes it.

    The tasks are computed in one step that reads the table once and shares one engine; any subset of them can be
    materialized. A range of partitions is one run with one load of the model.

    The step is `<name>__answers`; run configs and logs have that name, and jobs, schedules and sensors are named alike.
    It is made of the table's name and not of its tasks, so that it stays when these change: Dagster knows by the names
    which schedules and sensors are turned on. Where two tables ask about one source, one of them is given a name,
    and also `source_asset` if it has another group: Dagster takes the source's asset twice only if both are equal.

    Args:
        source: The table to read.
        tasks: What to ask about each row. Each becomes the asset and table `<table>_<task>`.
        partitions: How the table is cut; None takes it whole.
        settings: How rows are worked through.
        checks: What is checked of the answers; `Checks.off()` for nothing.
        name: What the step is named for, and jobs, schedule and sensors; the prefix and the table if not given.
        source_asset: Key of the asset that makes the table, such as "crm/reviews"; None declares an external one.
        key_prefix: Put before the asset keys.
        group_name: Dagster group of the assets.
        owners: Dagster owners of the assets.
        tags: Dagster tags of the assets.
        automation_condition: When Dagster materializes the assets by itself.
        freshness_policy: How old the answers may become before Dagster calls them stale.
        pool: Concurrency pool of the step, so that runs take turns at the GPU; None sets no limit.
        max_partitions_per_run: A backfill starts a run for each so many partitions; None takes all in one.
        database_key: Resource key of the `DatabaseResource` that answers are written to.
        source_database_key: Resource key of the one that rows are read from; None reads from the same.
        engine_key: Resource key of the `EngineResource`.
        execute: What the step does in place of `execute_table`, which it can call.
        translate: Changes the spec of each task's asset; its key stays.

    Returns:
        Definitions to pass to `dg.Definitions(assets=...)`.

    Raises:
        ConfigError: an argument cannot be so.
    """
    check_tasks(tasks)
    table = TableDefinition(
        source,
        tuple(tasks),
        partitions,
        settings or PipelineSettings(),
        checked_prefix(key_prefix),
        database_key,
        source_database_key or database_key,
        engine_key,
        checks or Checks(),
        None if source_asset is None else asset_key(source_asset),
        None if name is None else checked_name(name),
    )
    _check_keys(table)
    definition = table.partitions_definition
    if definition is None and max_partitions_per_run is not None:
        raise ConfigError(
            f"max_partitions_per_run={max_partitions_per_run} has no effect on a table without partitions. Give it "
            "partitions, or leave it out."
        )
    specs = [
        dg.AssetSpec(
            table.task_asset(task),
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
        for task in tasks
    ]
    if translate is not None:
        specs = [_translated(spec, translate) for spec in specs]

    @dg.multi_asset(
        name=f"{table.name}__answers",
        specs=specs,
        check_specs=check_specs(table, definition),
        can_subset=True,
        required_resource_keys=table.resource_keys,
        backfill_policy=_backfill_policy(max_partitions_per_run) if definition else None,
        pool=pool,
    )
    def answers(context: dg.AssetExecutionContext, config: RunConfig) -> Iterator[TableEvent]:
        yield from (execute or execute_table)(context, table, config)

    if source_asset is not None:
        return [answers]
    source_spec = dg.AssetSpec(
        table.source_asset,
        description=f"{source.title}, read by llm_assets.",
        metadata=source_metadata(source),
        group_name=group_name,
        kinds={"table"},
    )
    return [source_spec, answers]


def build_failed_rows_job(
    assets: AssetsOfTable,
    kinds: Sequence[str] = (),
    name: str | None = None,
    executor_def: dg.ExecutorDefinition | None = None,
):
    """Return a job that asks again only the rows that failed before; all other answers stay as they are.

    Args:
        assets: What `build_llm_assets` returned.
        kinds: Kinds of failures to ask again; none given is all.
        name: The job's name; `ask_failed_<name of the table>` if not given.
        executor_def: How the job's steps are run.

    Raises:
        ConfigError: there is no such kind, or the table's settings ask about all rows.
    """
    answers, table = assets_of(assets)
    config = RunConfig(only_failed=True, failure_kinds=list(kinds))
    if table.settings.full_refresh:
        raise ConfigError(
            "settings.full_refresh asks about every row again in each run, and the job that asks only failed rows "
            "cannot do that. Leave it out of the settings; a single run can have full_refresh in its config."
        )
    config.applied_to(table.settings)
    what = f"the rows of {table.name} that failed" + (f" with {', '.join(kinds)}" if kinds else "")
    return dg.define_asset_job(
        name or f"ask_failed_{table.name}",
        selection=dg.AssetSelection.assets(*answers.keys),
        config=dg.RunConfig(ops={answers.op.name: config}),
        description=f"Ask again about {what}, and about no others.",
        executor_def=executor_def,
    )


def _check_keys(table: TableDefinition) -> None:
    for task in table.tasks:
        if table.task_asset(task) == table.source_asset:
            raise ConfigError(
                f"source_asset is {table.source_asset.to_user_string()}, which is the asset of the task {task.name!r}. "
                "Give the key of the asset that makes the source table."
            )


def _translated(spec: dg.AssetSpec, translate: Callable[[dg.AssetSpec], dg.AssetSpec]) -> dg.AssetSpec:
    """Return what a user makes of a spec, which must keep what its execution goes by."""
    changed = translate(spec)
    if changed.key != spec.key:
        raise ConfigError(
            f"translate gave {spec.key.to_user_string()} the key {changed.key.to_user_string()}. An asset has the name "
            "of its table: set the table's or the task's name, or key_prefix."
        )
    return changed.merge_attributes(metadata={TABLE_METADATA: spec.metadata[TABLE_METADATA]})


def _backfill_policy(max_partitions_per_run: int | None) -> dg.BackfillPolicy:
    if max_partitions_per_run is None:
        return dg.BackfillPolicy.single_run()
    if max_partitions_per_run < 1:
        raise ConfigError(f"max_partitions_per_run is {max_partitions_per_run}. Give 1 or more, or None for one run.")
    return dg.BackfillPolicy.multi_run(max_partitions_per_run)
