"""Everything that a table's assets were built from. Each asset carries it, for tools that work with the table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from llm_assets.dagster.partitions import Partitions
from llm_assets.pipeline import Pipeline, PipelineSettings, output_table_name
from llm_assets.records import Partition
from llm_assets.tables import Source
from llm_assets.tasks import Task

TABLE_METADATA = "llm_assets/table"
"""The key under which an asset's metadata holds its `TableDefinition`."""


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

    @property
    def source_asset(self) -> dg.AssetKey:
        """The key of the asset that stands for the source table."""
        return dg.AssetKey([*self.key_prefix, self.source.output_prefix])

    def task_asset(self, task: Task) -> dg.AssetKey:
        """Return the key of a task's asset."""
        return dg.AssetKey([*self.key_prefix, output_table_name(self.source, task)])

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
        return Pipeline(
            self.source,
            self.tasks if tasks is None else tasks,
            resources[self.engine_key].get_engine(),
            resources[self.source_database_key].get_database(),
            resources[self.database_key].get_database(),
            self.partitions.column if self.partitions else None,
            settings or self.settings,
            read_only,
        )
