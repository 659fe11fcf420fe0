"""Which checks an asset has, by its task and the table's settings."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import dagster as dg

from llm_assets.dagster.checks.finding import Finding, Subject
from llm_assets.dagster.checks.labels import accuracy, drift, label_column
from llm_assets.dagster.checks.rows import confidence, coverage, failures
from llm_assets.dagster.checks.settings import Check
from llm_assets.dagster.checks.texts import free_fields, grounded, summaries
from llm_assets.dagster.checks.validity import valid
from llm_assets.dagster.table import TableDefinition
from llm_assets.errors import ConfigError, did_you_mean
from llm_assets.tasks import Extract, Summarize, Task

_NEEDED = {
    "confidence": "a task with a confidence",
    "valid": "a Classify, an Extract, or a Generate with choice",
    "drift": "a task with labels, and partitions by time",
    "grounded": "an Extract with strings or numbers that are not in `skip`",
    "summaries": "a Summarize",
    "accuracy": "`gold`, which names the column with a task's right labels",
}
"""What there must be for some task to have a check."""


class CheckOfTask(NamedTuple):
    """A check as it is made for one task: its name, its settings, and what evaluates it for a partition."""

    name: str
    task: Task
    settings: Check
    evaluate: Callable[[Any, Subject], Finding]


def checks_of(table: TableDefinition, task: Task, partitions_def: dg.PartitionsDefinition | None) -> list[CheckOfTask]:
    """Return the checks of a task's asset that fit it and are not off."""
    checks, labels = table.checks, label_column(task)
    has_confidence = getattr(task, "confidence", True)  # a task that generates can do without
    is_extract = isinstance(task, Extract)
    has_free_values = isinstance(task, Extract) and bool(free_fields(task, checks.grounded.skip))
    fitting = [
        (True, CheckOfTask("coverage", task, checks.coverage, coverage)),
        (True, CheckOfTask("failures", task, checks.failures, failures)),
        (has_confidence, CheckOfTask("confidence", task, checks.confidence, confidence)),
        (bool(labels) or is_extract, CheckOfTask("valid", task, checks.valid, valid)),
        (bool(labels) and has_order(partitions_def), CheckOfTask("drift", task, checks.drift, drift)),
        (has_free_values, CheckOfTask("grounded", task, checks.grounded, grounded)),
        (isinstance(task, Summarize), CheckOfTask("summaries", task, checks.summaries, summaries)),
        (task.name in checks.accuracy.gold, CheckOfTask("accuracy", task, checks.accuracy, accuracy)),
    ]
    return [check for fits, check in fitting if fits and check.settings.enabled]


def has_order(definition: dg.PartitionsDefinition | None) -> bool:
    """Return whether some partitions come before others: those by time, alone or as one of two dimensions."""
    return isinstance(definition, dg.TimeWindowPartitionsDefinition) or time_place(definition) is not None


def time_place(definition: dg.PartitionsDefinition | None) -> int | None:
    """Return which part of a key of several dimensions is the time; None if it has none."""
    if isinstance(definition, dg.MultiPartitionsDefinition):
        for place, dimension in enumerate(definition.partitions_defs):
            if isinstance(dimension.partitions_def, dg.TimeWindowPartitionsDefinition):
                return place
    return None


def check_specs(table: TableDefinition, partitions_def: dg.PartitionsDefinition | None) -> list[dg.AssetCheckSpec]:
    """Return the specs of all checks of a table's assets.

    Raises:
        ConfigError: the settings name a task or field that there is not, or a check that no task has.
    """
    _check_names(table)
    checks = [check for task in table.tasks for check in checks_of(table, task, partitions_def)]
    _check_given(table, {check.name for check in checks})
    with warnings.catch_warnings():
        # Results by partition are new in Dagster 1.13, and it warns of them for each check.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                check.name,
                asset=table.task_asset(check.task),
                description=type(check.settings).__doc__,
                blocking=check.settings.blocking,
                partitions_def=partitions_def,
                metadata=check.settings.model_dump(mode="json"),
            )
            for check in checks
        ]


def _check_given(table: TableDefinition, found: set[str]) -> None:
    """Raise a ConfigError for a check that is given, on, and no task's."""
    for name in sorted(table.checks.model_fields_set - found):
        if getattr(table.checks, name).enabled:
            raise ConfigError(
                f"checks.{name} would check nothing: it needs {_NEEDED[name]}. Add that, or leave it out."
            )


def _check_names(table: TableDefinition) -> None:
    """Raise a ConfigError for a task or a field that the checks' settings name and that there is not."""
    tasks = {task.name: task for task in table.tasks}
    for name in table.checks.accuracy.gold:
        if name not in tasks:
            raise ConfigError(f"checks.accuracy.gold names the task {name!r}. {did_you_mean(name, tasks)}")
        if label_column(tasks[name]) is None:
            raise ConfigError(
                f"checks.accuracy.gold names the task {name!r}, whose answers are not one of some values. It is for "
                "Classify, Generate with choice, and Extract of one choice."
            )
    extracts = [task for task in table.tasks if isinstance(task, Extract)]
    fields = {name for task in extracts for name in _field_names(task)}
    for name in table.checks.grounded.skip:
        if name not in fields:
            raise ConfigError(f"checks.grounded.skip names the field {name!r}. {did_you_mean(name, fields)}")


def _field_names(task: Extract) -> Sequence[str]:
    return [name for field in free_fields(task, ()) for name in (field, f"{task.name}.{field}")]
