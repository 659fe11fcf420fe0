"""Everything that a table's assets were built from. Each asset carries it, for tools that work with the table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard, Union

import dagster as dg

from llm_assets.dagster.checks import Checks
from llm_assets.dagster.partitions import DynamicPartitions, MultiPartitions, Partitions, TimePartitions
from llm_assets.errors import ConfigError
from llm_assets.pipeline import Pipeline, PipelineSettings, output_table_name
from llm_assets.records import Partition
from llm_assets.tables import Source
from llm_assets.tasks import Task

TABLE_METADATA = "llm_assets/table"
"""The key under which an asset's metadata holds its `TableDefinition`."""

AssetsOfTable = Sequence[dg.AssetsDefinition | dg.AssetSpec]
"""What `build_llm_assets` returns."""

Job = Union[dg.JobDefinition, "dg.UnresolvedAssetJobDefinition"]  # Dagster names the second for type checkers only


@dataclass(frozen=True)
class TableDefinition:
    """A source table, what is asked about its rows, how it is cut, and the keys of the resources that do it."""

    source: Source
    tasks: tuple[Task, ...]
    partitions: Partitions | None
    settings: PipelineSettings
    key_prefix: tuple[str, ...]
    database_key: str
    source_database_key: str
    engine_key: str
    checks: Checks = field(default_factory=Checks, hash=False)
    made_by: dg.AssetKey | None = None
    """The key of an asset of the project that makes the source table; None if one is declared for the table."""
    given_name: str | None = None
    """What its step, jobs, schedule and sensors are named for; None is the prefix and the source."""

    @property
    def name(self) -> str:
        """What its step, jobs, schedule and sensors are named for: each table of a project has another."""
        return self.given_name or dg.AssetKey([*self.key_prefix, self.source.output_prefix]).to_python_identifier()

    @property
    def source_asset(self) -> dg.AssetKey:
        """The key of the asset that makes the source table, or stands for it."""
        return self.made_by or dg.AssetKey([*self.key_prefix, self.source.output_prefix])

    @property
    def resource_keys(self) -> set[str]:
        """The keys of the resources."""
        return {self.database_key, self.source_database_key, self.engine_key}

    def task_asset(self, task: Task) -> dg.AssetKey:
        """Return the key of a task's asset."""
        return dg.AssetKey([*self.key_prefix, output_table_name(self.source, task)])

    @property
    def partitions_definition(self) -> dg.PartitionsDefinition | None:
        """Dagster's definition of the partitions; None if the table is taken whole."""
        return self.partitions.definition(self.source.name) if self.partitions else None

    @property
    def dimensions(self) -> list[Partitions]:
        """The partitions by one column that the table is cut by: none, one or two."""
        if isinstance(self.partitions, MultiPartitions):
            return list(self.partitions.dimensions.values())
        return [self.partitions] if self.partitions else []

    @property
    def partitions_by_time(self) -> TimePartitions | None:
        """The only partitions by time that there are, alone or as one of two dimensions."""
        found = [each for each in self.dimensions if isinstance(each, TimePartitions)]
        return found[0] if len(found) == 1 else None

    def partition(self, key: str) -> Partition:
        """Return the rows that a partition key means; with no partitions, the whole table."""
        return self.partitions.partition(key) if self.partitions else Partition()

    def pipeline(
        self,
        resources: Mapping[str, Any],
        tasks: Sequence[Task] | None = None,
        settings: PipelineSettings | None = None,
        read_only: bool = False,
    ) -> Pipeline:
        """Return the pipeline that answers the table, with resources by their keys.

        Args:
            resources: A `DatabaseResource` and an `EngineResource` under each of this table's resource keys.
            tasks: Only these; all of them if not given.
            settings: In place of the table's own.
            read_only: Write nothing, not even tables; see `Pipeline`.
        """
        pipeline = Pipeline(
            self.source,
            self.tasks if tasks is None else tasks,
            resources[self.engine_key].get_engine(),
            resources[self.source_database_key].get_database(),
            resources[self.database_key].get_database(),
            self.partitions.columns if self.partitions else (),
            settings or self.settings,
            read_only,
        )
        if self.partitions:
            pipeline.source.check_partitions(self.partitions.examples())
        return pipeline


def assets_of(assets: AssetsOfTable) -> tuple[dg.AssetsDefinition, TableDefinition]:
    """Return what computes the answers among a table's assets, and the table's definition."""
    [answers] = [item for item in assets if isinstance(item, dg.AssetsDefinition) and item.is_executable]
    [table, *_] = [spec.metadata[TABLE_METADATA] for spec in answers.specs if TABLE_METADATA in spec.metadata]
    return answers, table


def check_together(table: TableDefinition, other: TableDefinition) -> None:
    """Raise a ConfigError if two tables cannot be in one project."""
    assets = {other.task_asset(task) for task in other.tasks}
    for task in table.tasks:
        if table.task_asset(task) in assets:
            raise ConfigError(
                f"Two tables have the asset {table.task_asset(task).to_user_string()}: both ask {task.name!r} about "
                f"{table.source.name!r}. Name one of the two tasks otherwise."
            )
    if table.name == other.name:
        first, second = (", ".join(task.name for task in each.tasks) for each in (table, other))
        own = f"{table.name}_{table.tasks[0].name}"
        raise ConfigError(
            f"Two tables are named {table.name!r}, the one that asks {first} and the one that asks {second}. Dagster "
            f"tells their steps and jobs apart by names: give one of them its own, name: {own}."
        )
    check_outputs(table, other)
    _check_sets(table, other)


def check_outputs(table: TableDefinition, other: TableDefinition) -> None:
    """Raise a ConfigError if two tables write to one output table about other rows: each removes those of the other."""
    if (table.source, table.source_database_key) == (other.source, other.source_database_key):
        return
    taken = _outputs(other)
    for output, task in _outputs(table).items():
        if output in taken:
            raise ConfigError(
                f"The tables {table.name!r} and {other.name!r} both write to {output[-1]!r}, and do not read the same "
                "rows: their source databases, queries or `where` differ, so that each would remove the answers of the "
                f"other. Give one of them another settings.output_schema, or name one task {task.name!r} otherwise."
            )


def _outputs(table: TableDefinition) -> dict[tuple[str, str | None, str], Task]:
    """A table's tasks by where their answers are written."""
    place = (table.database_key, table.settings.output_schema)
    return {(*place, output_table_name(table.source, task)): task for task in table.tasks}


def _check_sets(table: TableDefinition, other: TableDefinition) -> None:
    """Raise a ConfigError if two tables have one set of dynamic partitions, and find other values for it."""
    taken = {each.set_name(other.source.name): each.column for each in other.dimensions if _is_dynamic(each)}
    for each in table.dimensions:
        if not _is_dynamic(each) or (name := each.set_name(table.source.name)) not in taken:
            continue
        if (each.column, table.source.where) != (taken[name], other.source.where):
            names = {table.name: f"{table.name}_{each.column}", other.name: f"{other.name}_{taken[name]}"}
            owner, own = next(item for item in names.items() if item[1] != name)
            raise ConfigError(
                f"The tables {table.name!r} and {other.name!r} share the dynamic partitions {name!r}, but not the "
                "column and `where` that their values come from, so that each would remove those of the other. Give "
                f"the partitions of {owner!r} their own, name: {own}."
            )


def _is_dynamic(dimension: Partitions) -> TypeGuard[DynamicPartitions]:
    return isinstance(dimension, DynamicPartitions)
