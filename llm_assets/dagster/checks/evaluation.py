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
from dataclasses import replace
from typing import Any

import dagster as dg

from llm_assets.dagster.checks.finding import EXAMPLES, Finding, Subject
from llm_assets.dagster.checks.specs import CheckOfTask, checks_of, time_place
from llm_assets.dagster.shown import PREFIX, plain, records_table
from llm_assets.dagster.table import TableDefinition
from llm_assets.errors import ConfigError, DatabaseError, printable
from llm_assets.pipeline import task_outputs
from llm_assets.secrets import masked
from llm_assets.tables import SourceTable, Unanswered

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
        self._found: dict[tuple[dg.AssetKey, str], dict[str, Finding]] = {}
        """What each check found, by the partition's key."""
        self._targets: dict[tuple[dg.AssetKey, str], Any] = {}
        """The materialization that a partition's results were told to be about."""
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
        columns = table.partitions.columns if table.partitions else ()
        keys = SourceTable(pipeline.source.database, table.source, [], columns)
        outputs = task_outputs(table.source, tasks)
        self._unanswered = Unanswered(keys, pipeline.store, outputs, pipeline.settings.output_schema)
        for check in self._checks:
            if check.name == "accuracy":
                column = table.checks.accuracy.gold[check.task.name]
                pipeline.source.check_column(column, f"checks.accuracy.gold names for task {check.task.name!r}")

    def run(self) -> Iterator[CheckEvent]:
        """Evaluate the checks of a run that does nothing else, and yield their results."""
        keys = self._partition_keys() if self._checks else []
        if len(keys) == 1:
            yield from self.partition(keys[0])
        else:
            yield from self.all_partitions(keys)

    def _partition_keys(self) -> Sequence[str]:
        """The partitions of the run. A run of checks alone that has none is about the last partitions with answers."""
        if self._table.partitions is None:
            return [""]
        if self._context.has_partition_key or self._context.has_partition_key_range:
            return list(map(str, self._context.partition_keys))
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

    def partition(self, key: str, several: bool = False) -> Iterator[CheckEvent]:
        """Evaluate the checks for one partition, and yield their results.

        Args:
            key: The partition's key.
            several: Whether the run has other partitions too.
        """
        partition = self._table.partition(key)
        for check in self._checks:
            answers = self._pipeline.store.statistics(check.task.name)
            subject = Subject(check.task, partition, answers, self._pipeline.source, self._unanswered, self._time_place)
            finding = self._finding(check, subject)
            self._found.setdefault(self._name(check), {})[key] = finding
            # With several partitions, Dagster cannot know itself which one a result is about.
            yield self._of_partition(check, key, finding) if several else self._result(check, finding)

    def all_partitions(self, keys: Sequence[str]) -> Iterator[CheckEvent]:
        """Yield one result for each check of a run over several partitions. It names the worst of them.

        Partitions that were not checked yet are checked before. Those that were recorded once more since they were
        checked have their results told once more too: the UI shows a result only if it is about the last recording.
        """
        for key in map(str, keys):
            if any(key not in self._found.get(self._name(check), {}) for check in self._checks):
                yield from self.partition(key, several=True)
        for (asset, key), target in list(self._targets.items()):
            if self._target(asset, key) != target:
                for check in self._checks:
                    if self._table.task_asset(check.task) == asset:
                        yield self._of_partition(check, key, self._found[self._name(check)][key])
        for check in self._checks:
            yield self._result(check, *_together(self._found.get(self._name(check), {})))

    def _finding(self, check: CheckOfTask, subject: Subject) -> Finding:
        """Evaluate a check. One that breaks has failed: it is no reason to lose the answers of other partitions."""
        try:
            return check.evaluate(check.settings, subject)
        except DatabaseError:
            raise
        except Exception as error:
            self._context.log.error(f"The check {check.name!r} of {subject.answers.table_name} broke.", exc_info=True)
            return Finding(False, f"The check could not be evaluated: {type(error).__name__}: {error}", 1.0)

    def _name(self, check: CheckOfTask) -> tuple[dg.AssetKey, str]:
        return self._table.task_asset(check.task), check.name

    def _result(
        self, check: CheckOfTask, finding: Finding, more: Mapping[str, Any] | None = None
    ) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            asset_key=self._table.task_asset(check.task),
            check_name=check.name,
            passed=finding.passed,
            severity=_severity(check),
            description=_text(finding.text),
            metadata={**(more or {}), **_metadata(finding)},
        )

    def _of_partition(self, check: CheckOfTask, key: str, finding: Finding) -> dg.AssetCheckEvaluation:
        asset = self._table.task_asset(check.task)
        if (asset, key) not in self._targets:
            self._targets[asset, key] = self._target(asset, key)
        return dg.AssetCheckEvaluation(
            asset_key=asset,
            check_name=check.name,
            passed=finding.passed,
            severity=_severity(check),
            description=_text(finding.text),
            metadata=_metadata(finding),
            target_materialization_data=self._target(asset, key),
            partition=key,
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


def _together(found: Mapping[str, Finding]) -> tuple[Finding, dict[str, Any]]:
    """Return what was found in all partitions together: the worst one's finding, and a table of all."""
    if not found:
        return Finding(True, "There was no partition to check."), {}
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
    table = {
        f"{PREFIX}partitions": len(found),
        f"{PREFIX}partitions_failed": failed,
        f"{PREFIX}worst_partition": key,
        f"{PREFIX}by_partition": records_table(listed),
    }
    return replace(found[key], passed=not failed, text=text), table


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
