"""How Dagster comes to know of each partition that a step has brought to its end."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from llm_assets.dagster.table import TableDefinition
from llm_assets.pipeline import PartitionResult
from llm_assets.tasks import Task

DATA_VERSION_TAG = "dagster/data_version"
DIMENSION_TAG = "dagster/partition/"
"""Tags of materializations that Dagster sets on those that it makes itself."""


class Record:
    """The materializations of one step, each recorded when its partition is complete.

    Dagster makes the materializations of a step's output itself, and of all partitions of the run at once: when the
    step yields the output, which it can do only at its end. So with several partitions the step yields an
    `AssetMaterialization` for each, which is recorded at once, and no output: the outputs of a step that can be
    subsetted are optional. Thus each partition is recorded once, a killed run keeps what it has recorded, and a
    backfill counts a failed run's complete partitions as done.

    But a step that waits for an output which does not come is skipped: an asset downstream, or a check of its own, in
    the same run. Where there is one, the outputs are yielded too, and Dagster records every partition a second time,
    with the same metadata and data version. That is better than to record nothing before the end.

    The data version is the run's id: like that of Dagster's own materializations, it changes with each. No versions of
    the inputs are recorded, so what is stale goes by the times of the materializations.
    """

    def __init__(self, context: dg.AssetExecutionContext, table: TableDefinition, tasks: Sequence[Task]) -> None:
        self._context = context
        self._assets = {task.name: table.task_asset(task) for task in tasks}
        keys = context.partition_keys if table.partitions else [""]
        self._keys = {str(key): key for key in keys}
        self._has_outputs = len(keys) == 1 or _has_dependents(context)

    def partitions_left(self) -> list[str]:
        """Return the keys of the run's partitions, without those that an earlier attempt of the step has recorded."""
        if len(self._keys) == 1 or not self._context.retry_number:
            return list(self._keys.values())
        recorded = {}
        entries = self._context.instance.all_logs(
            self._context.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        for entry in entries:
            if entry.asset_materialization is not None:
                event = entry.asset_materialization
                recorded[event.asset_key, str(event.partition)] = event
        assets = self._assets.values()
        done = [key for key in self._keys if all((asset, key) in recorded for asset in assets)]
        for key in done if self._has_outputs else []:
            for asset in assets:
                metadata = recorded[asset, key].metadata
                self._context.add_asset_metadata(metadata, asset_key=asset, partition_key=self._keys[key])
        return [original for key, original in self._keys.items() if key not in done]

    def materialized(
        self, task: Task, result: PartitionResult, metadata: Mapping[str, Any]
    ) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult]:
        """Yield what records a task's partition that is complete."""
        asset = self._assets[task.name]
        if len(self._keys) == 1:
            yield dg.MaterializeResult(asset_key=asset, metadata=metadata)
            return
        key = self._keys[result.partition_key]
        tags = {DATA_VERSION_TAG: self._context.run_id}
        if isinstance(key, dg.MultiPartitionKey):
            tags |= {f"{DIMENSION_TAG}{name}": value for name, value in key.keys_by_dimension.items()}
        if self._has_outputs:
            self._context.add_asset_metadata(metadata, asset_key=asset, partition_key=key)
        yield dg.AssetMaterialization(asset, metadata=metadata, partition=key, tags=tags)

    def outputs(self) -> Iterator[dg.MaterializeResult]:
        """Yield the outputs that other steps of the run wait for, when all partitions are complete."""
        if len(self._keys) > 1 and self._has_outputs:
            for asset in self._assets.values():
                yield dg.MaterializeResult(asset_key=asset, data_version=dg.DataVersion(self._context.run_id))


def _has_dependents(context: dg.AssetExecutionContext) -> bool:
    """Return whether a step of the run waits for this one."""
    name = context.op_handle.name
    return any(
        dependency.node == name
        for inputs in context.job_def.dependencies.values()
        for definition in inputs.values()
        for dependency in definition.get_node_dependencies()
    )
