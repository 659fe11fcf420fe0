"""Evaluates checks in the step that answers a table, and tells Dagster what they found.

The checks belong to the same step as the answers, for three reasons. They run after each materialization by
themselves, a partition at a time, so that in a backfill a partition that fails, or a run that is killed, does not cost
the checks of the others. The step can be told to do checks only: "Execute" on a check in the UI reads the tables and
loads no model. And a check that blocks fails the step, so that Dagster stops what is downstream. The price is that a
run of checks alone waits for its turn in the step's pool, if that is taken.

A run over several partitions has a result for each of them, which the UI shows by partition, and at its end one for
all, which names the worst.
"""

import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from llm_assets.dagster.checks.finding import EXAMPLES, Finding, Subject
from llm_assets.dagster.checks.specs import CheckOfTask, checks_of, time_place
from llm_assets.dagster.shown import PREFIX, plain, records_table
from llm_assets.dagster.table import TableDefinition
from llm_assets.errors import ConfigError, printable
from llm_assets.secrets import masked

SHOWN_PARTITIONS = 50
"""So many partitions are listed in the result for all, the worst first."""

LONGEST_TEXT = 2000
"""Characters of a description."""

CheckEvent = dg.AssetCheckEvaluation | dg.AssetCheckResult


class TableChecks:
    """The selected checks of one run.

    Args:
        context: The step's context.
        table: The table with its checks.
        resources: The resources under the table's resource keys. No model is loaded.

    Raises:
        SourceError: the source has no column that is named for the right labels.
    """

    def __init__(self, context: dg.AssetExecutionContext, table: TableDefinition, resources: Mapping[str, Any]) -> None:
        self._context = context
        self._table = table
        selected, partitions_def = context.selected_asset_check_keys, context.assets_def.partitions_def
        self._time_place = time_place(partitions_def) or 0
        self._checks = [
            check
            for task in table.tasks
            for check in checks_of(table, task, partitions_def)
            if dg.AssetCheckKey(table.task_asset(task), check.name) in selected
        ]
        tasks = list({check.task.name: check.task for check in self._checks}.values())
        if not tasks:
            return
        self._pipeline = pipeline = table.pipeline(resources, tasks)
        for check in self._checks:
            if check.name == "accuracy":
                column = table.checks.accuracy.gold[check.task.name]
                pipeline.source.check_column(column, f"checks.accuracy.gold names for task {check.task.name!r}")
        self._found: dict[tuple[dg.AssetKey, str], dict[str, Finding]] = {}

    def run(self) -> Iterator[CheckEvent]:
        """Evaluate the checks for every partition of the run, and yield their results."""
        keys = self._partition_keys() if self._checks else []
        for key in keys:
            yield from self.partition(key, len(keys) == 1)
        if len(keys) != 1:
            yield from self.all_partitions()

    def _partition_keys(self) -> Sequence[str]:
        """The partitions of the run. A run of checks alone that has none is about the last partitions with answers."""
        if self._table.partitions is None:
            return [""]
        if self._context.has_partition_key or self._context.has_partition_key_range:
            return list(self._context.partition_keys)
        keys: set[str] = set()
        for task in self._pipeline.tasks:
            keys.update(self._pipeline.store.statistics(task.name).partitions(SHOWN_PARTITIONS))
        return [key for key in sorted(keys) if self._exists(key)]

    def _exists(self, key: str) -> bool:
        """Whether a key that stands in the tables is a partition still."""
        try:
            self._table.partition(key)
        except ConfigError:
            return False
        return True

    def partition(self, key: str, alone: bool) -> Iterator[CheckEvent]:
        """Evaluate the checks for one partition, and yield their results.

        Args:
            key: The partition's key.
            alone: Whether the run has no other partition.
        """
        partition = self._table.partition(key)
        for check in self._checks:
            task, asset = check.task, self._table.task_asset(check.task)
            answers = self._pipeline.store.statistics(task.name)
            subject = Subject(task, partition, answers, self._pipeline.source, self._time_place)
            finding = check.evaluate(check.settings, subject)
            self._found.setdefault((asset, check.name), {})[key] = finding
            if alone:
                yield dg.AssetCheckResult(
                    asset_key=asset,
                    check_name=check.name,
                    passed=finding.passed,
                    severity=_severity(check),
                    description=_text(finding.text),
                    metadata=_metadata(finding),
                )
            else:
                yield dg.AssetCheckEvaluation(
                    asset_key=asset,
                    check_name=check.name,
                    passed=finding.passed,
                    severity=_severity(check),
                    description=_text(finding.text),
                    metadata=_metadata(finding),
                    target_materialization_data=self._target(asset, key),
                    partition=key,
                )

    def all_partitions(self) -> Iterator[dg.AssetCheckResult]:
        """Yield one result for each check of a run over several partitions. It names the worst of them."""
        for check in self._checks:
            asset = self._table.task_asset(check.task)
            found = self._found.get((asset, check.name), {})
            passed, text, metadata = _together(found)
            yield dg.AssetCheckResult(
                asset_key=asset,
                check_name=check.name,
                passed=passed,
                severity=_severity(check),
                description=_text(text),
                metadata=metadata,
            )

    def _target(self, asset: dg.AssetKey, key: str) -> Any:
        """Return what names a partition's last materialization: without it, the UI takes no result as current.

        Dagster has no public name for that class; the annotation of the field that takes it has.
        """
        records = self._context.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[key]), limit=1
        ).records
        if not records:
            return None
        [target, *_] = typing.get_args(typing.get_type_hints(dg.AssetCheckEvaluation)["target_materialization_data"])
        [last] = records
        return target(storage_id=last.storage_id, run_id=last.run_id, timestamp=last.timestamp)


def _severity(check: CheckOfTask) -> dg.AssetCheckSeverity:
    return dg.AssetCheckSeverity.ERROR if check.settings.severity == "error" else dg.AssetCheckSeverity.WARN


def _together(found: Mapping[str, Finding]) -> tuple[bool, str, dict[str, Any]]:
    """Return whether all partitions passed, in words which is the worst, and the numbers to show."""
    if not found:
        return True, "No partition was checked.", {}
    worst = sorted(found, key=lambda key: (found[key].passed, -found[key].measure))
    failed = sum(not finding.passed for finding in found.values())
    key = worst[0]
    if failed:
        text = f"{failed} of {len(found)} partitions fail. The worst is {key}: {found[key].text}"
    else:
        text = f"All {len(found)} partitions pass. The nearest to failing, or the first, is {key}: {found[key].text}"
    listed = [
        {"partition": name, "passed": found[name].passed, "found": found[name].text}
        for name in worst[:SHOWN_PARTITIONS]
    ]
    metadata = {
        f"{PREFIX}partitions": len(found),
        f"{PREFIX}partitions_failed": failed,
        f"{PREFIX}worst_partition": key,
        f"{PREFIX}by_partition": records_table(listed),
        **_metadata(found[key]),
    }
    return not failed, text, metadata


def _metadata(finding: Finding) -> dict[str, Any]:
    """Return a finding's numbers and examples, fit to be shown."""
    metadata: dict[str, Any] = {f"{PREFIX}{name}": plain(value) for name, value in finding.numbers.items()}
    if finding.examples:
        metadata[f"{PREFIX}examples"] = records_table(finding.examples[: 2 * EXAMPLES])
    return metadata


def _text(text: str) -> str:
    """Return a description without secrets and control characters, of a bounded length."""
    shown = printable(masked(text))
    return shown if len(shown) <= LONGEST_TEXT else f"{shown[: LONGEST_TEXT - 1]}…"
