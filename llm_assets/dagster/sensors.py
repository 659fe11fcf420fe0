"""Sensors over a table's source: new values of a column become partitions, and rows without answers become runs."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from llm_assets.dagster.metadata import PREFIX, plain
from llm_assets.dagster.partitions import (
    DynamicPartitions,
    MultiPartitions,
    TimePartitions,
    checked_zone,
    key_problem,
)
from llm_assets.dagster.ranges import PARTITION, RANGE_END, RANGE_START, Range, members, most_partitions, ranges
from llm_assets.dagster.table import AssetsOfTable, Job, TableDefinition, assets_of
from llm_assets.errors import ConfigError
from llm_assets.pipeline import output_table_name
from llm_assets.records import Partition
from llm_assets.secrets import masked_errors
from llm_assets.tables import Output, SourceTable, Store, Unanswered

MOST_VALUES = 10_000
"""A column with more values than this is no column to cut a table by."""
SHOWN_VALUES = 10

WHOLE_TABLE = "all"
UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
STOPPED = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def build_partitions_sensor(
    assets: AssetsOfTable,
    *,
    request_runs: bool = False,
    remove_gone: bool = False,
    job: Job | None = None,
    name: str | None = None,
    minimum_interval_seconds: int = 60,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
) -> dg.SensorDefinition:
    """Return a sensor that makes a dynamic partition of every value of the partitions' column.

    Rows whose column is NULL are in no partition, and neither are those with a value that Dagster cannot have as a key;
    the tick's log names these values.

    Args:
        assets: What `build_llm_assets` returned, with `DynamicPartitions`.
        request_runs: Ask for a run over the new partitions. Not for two dimensions: `build_unanswered_sensor` does it.
        remove_gone: Remove partitions whose value is gone, unless the table is empty. Their answers stay in the tables:
            they are removed when the partition is materialized, so do that before.
        job: The job that runs them; one for just these assets if not given.
        name: The sensor's name; `find_partitions_of_<table>` if not given.
        minimum_interval_seconds: Seconds between two looks.
        default_status: Whether it runs before someone switches it on.

    Raises:
        ConfigError: the table has no dynamic partitions.
    """
    answers, table = assets_of(assets)
    in_pairs = isinstance(table.partitions, MultiPartitions)
    dynamic = [each for each in table.dimensions if isinstance(each, DynamicPartitions)]
    if not dynamic:
        raise ConfigError(f"The table {table.source.name!r} has no DynamicPartitions, so there are none to find.")
    if request_runs and in_pairs:
        raise ConfigError("request_runs is for partitions by one column. For two, use build_unanswered_sensor.")
    keys = sorted(answers.keys)

    @dg.sensor(
        name=name or f"find_partitions_of_{table.name}",
        description=f"Makes a partition of every value of {', '.join(each.column for each in dynamic)}.",
        required_resource_keys={table.source_database_key},
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        target=job or dg.AssetSelection.assets(*keys),
    )
    def find_partitions(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        with masked_errors():
            source = _source(context, table, [each.column for each in dynamic])
            found = {each: _usable_values(context, source, each.column, in_pairs) for each in dynamic}
        requests: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
        runs: list[dg.RunRequest] = []
        for each, values in found.items():
            definition = each.definition(table.source.name)
            present = dict.fromkeys(context.instance.get_dynamic_partitions(each.set_name(table.source.name)))
            new = [value for value in values if value not in present]
            if new:
                requests.append(definition.build_add_request(new))
                if request_runs:
                    chosen = ranges(new, new, two_dimensions=False, most=most_partitions(answers))
                    runs += [each.request(keys) for each in chosen]
            gone = present.keys() - set(values) if remove_gone and values else ()
            if gone:
                requests.append(definition.build_delete_request(sorted(gone)))
        skipped = None if requests else f"{sum(map(len, found.values()))} values, each of them a partition already."
        return dg.SensorResult(run_requests=runs, dynamic_partitions_requests=requests, skip_reason=skipped)

    return find_partitions


def _usable_values(context: dg.SensorEvaluationContext, source: SourceTable, column: str, in_pairs: bool) -> list[str]:
    """Return the values of a column that can be partitions, and log those that cannot."""
    found = source.values(column, MOST_VALUES + 1)
    if len(found.texts) + len(found.others) > MOST_VALUES:
        raise ConfigError(
            f"The column {column!r} of {source.source.name!r} has more than {MOST_VALUES:,} values, which are too many "
            "partitions. Choose another column, or group its values in a view."
        )
    problems = {text: problem for text in found.texts if (problem := key_problem(text, in_pairs))}
    refused = [(repr(text), problem) for text, problem in problems.items()]
    refused += [(repr(value), "as text it is another value, or none") for value in found.others]
    for value, problem in refused[:SHOWN_VALUES]:
        context.log.warning(f"Rows whose {column!r} is {plain(value)} are in no partition: {problem}.")
    if len(refused) > SHOWN_VALUES:
        context.log.warning(f"{len(refused) - SHOWN_VALUES} more values of {column!r} can be no partition.")
    if found.has_null:
        context.log.info(f"Rows whose {column!r} is NULL are in no partition.")
    return [text for text in found.texts if text not in problems]


def build_unanswered_sensor(
    assets: AssetsOfTable,
    *,
    min_rows: int | None = None,
    max_age: timedelta | None = None,
    time_column: str | None = None,
    timezone: str = "UTC",
    retry_after: timedelta = timedelta(hours=1),
    job: Job | None = None,
    name: str | None = None,
    minimum_interval_seconds: int = 60,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
) -> dg.SensorDefinition:
    """Return a sensor that asks for runs when rows of the source have neither an answer nor a failure for some task.

    When there are `min_rows` of them, or one is as old as `max_age`, it asks for all partitions that have any: one run
    for partitions that follow upon each other, up to the `max_partitions_per_run` of the assets. Partitions that a run
    works on or waits for are left out, and their rows are not counted. A row whose text has changed counts as answered;
    a run finds it.

    Looking costs one query that compares the keys of source and answers in their database. If they are in two
    databases, or the key is not a single integer or text, all keys are read instead.

    Args:
        assets: What `build_llm_assets` returned.
        min_rows: Ask when so many rows are unanswered; 1 if neither this nor `max_age` is given.
        max_age: Ask when an unanswered row is this old, however few there are.
        time_column: The column with the time of a row; that of the partitions by time if not given.
        timezone: Of a time column that has none; the partitions' own, if it is theirs.
        retry_after: Partitions whose run, asked for by this sensor, failed or was cancelled are left alone for so long.
        job: The job that runs them; one for just these assets if not given.
        name: The sensor's name; `answer_new_rows_of_<table>` if not given.
        minimum_interval_seconds: Seconds between two looks.
        default_status: Whether it runs before someone switches it on.

    Raises:
        ConfigError: `min_rows` or `max_age` cannot be, or there is no column to tell the age by.
    """
    answers, table = assets_of(assets)
    if min_rows is None and max_age is None:
        min_rows = 1
    if min_rows is not None and min_rows < 1:
        raise ConfigError(f"min_rows={min_rows} would ask for runs without rows. Write 1 or more.")
    if max_age is not None and max_age < timedelta():
        raise ConfigError(f"max_age={max_age} lies in the future. Write how old a row may become.")
    checked_zone(timezone)
    by_time = {each.column: each.timezone for each in table.dimensions if isinstance(each, TimePartitions)}
    if max_age is not None and time_column is None:
        if not by_time:
            raise ConfigError("max_age needs the time of a row: set time_column to the name of its column.")
        time_column = next(iter(by_time))
    if max_age is None and time_column is not None:
        raise ConfigError(f"time_column={time_column!r} has no effect without max_age. Set max_age, or leave it out.")
    if max_age is None and timezone != "UTC":
        raise ConfigError(f"timezone={timezone!r} has no effect without max_age. Set max_age, or leave it out.")
    keys = sorted(answers.keys)

    @dg.sensor(
        name=name or f"answer_new_rows_of_{table.name}",
        description=f"Asks for runs when rows of {table.source.name} are unanswered.",
        required_resource_keys={table.database_key, table.source_database_key},
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        target=job or dg.AssetSelection.assets(*keys),
    )
    def answer_new_rows(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        old_before = None
        if max_age is not None and time_column is not None:
            zone = ZoneInfo(by_time.get(time_column, timezone))
            old_before = (time_column, (datetime.now(UTC) - max_age).astimezone(zone))
        definition = table.partitions_definition
        names: Sequence[str] = [WHOLE_TABLE]
        if definition is not None:
            names = definition.get_partition_keys(dynamic_partitions_store=context.instance)
        if not names:
            return dg.SkipReason("There is no partition yet.")
        in_pairs = isinstance(table.partitions, MultiPartitions)
        busy = _busy(context, answers, names, in_pairs, retry_after)
        left_out = f"a run works on them, waits, or failed less than {retry_after} ago."
        partitions = [table.partition(name) for name in names if name not in busy]
        if not partitions:
            return dg.SkipReason(f"No rows were looked at: {left_out}")
        with masked_errors():
            unanswered = _unanswered(context, table, [old_before[0]] if old_before else [])
            found = unanswered.count(partitions, old_before, min_rows or 1)
        rows, old = sum(each.rows for each in found.values()), sum(each.old for each in found.values())
        if not (old or (min_rows is not None and rows >= min_rows)):
            elsewhere = f" {len(names) - len(partitions)} partitions were left out: {left_out}" if busy else ""
            return dg.SkipReason(f"{rows} rows are unanswered, and none of them for too long.{elsewhere}")
        context.log.info(f"{rows} rows of {len(found)} partitions are unanswered.")
        if definition is None:
            return dg.SensorResult(run_requests=[dg.RunRequest(asset_selection=keys)])
        chosen = ranges(names, set(found), in_pairs, most_partitions(answers))
        return dg.SensorResult(run_requests=[each.request(keys) for each in chosen])

    return answer_new_rows


def build_source_sensor(
    assets: AssetsOfTable,
    *,
    column: str | None = None,
    name: str | None = None,
    minimum_interval_seconds: int = 300,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
) -> dg.SensorDefinition:
    """Return a sensor that records an event of the source table's asset when the table has changed.

    Assets with the automation `eager` wait for that. Leave it out if an asset of the project makes the table, which
    `source_asset` names: its events count. A change is another number of rows, or another largest value of the column.

    Args:
        assets: What `build_llm_assets` returned.
        column: One whose largest value tells of a change, such as updated_at; that of the partitions by time if not
            given. With an index on it, looking is quick but for the count.
        name: The sensor's name; `watch_<table>` if not given.
        minimum_interval_seconds: Seconds between two looks.
        default_status: Whether it runs before someone switches it on.
    """
    _, table = assets_of(assets)
    time = table.partitions_by_time
    watched = column or (time.column if time else None)

    @dg.sensor(
        name=name or f"watch_{table.name}",
        description=f"Records when the table {table.source.name} has changed.",
        required_resource_keys={table.source_database_key},
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        with masked_errors():
            source = _source(context, table, [watched] if watched else [])
            rows = source.count(Partition())
            largest = plain(source.largest(watched)) if watched and rows else None
        state = json.dumps([rows, largest])
        if state == context.cursor:
            return dg.SkipReason(f"Unchanged: {rows} rows" + (f", {watched} to {largest}." if watched else "."))
        metadata: dict[str, Any] = {"dagster/row_count": rows}
        if largest is not None:
            metadata[f"{PREFIX}{watched}"] = largest
        event = dg.AssetMaterialization(table.source_asset, metadata=metadata)
        return dg.SensorResult(asset_events=[event], cursor=state)

    return watch


def _source(context: dg.SensorEvaluationContext, table: TableDefinition, columns: Sequence[str]) -> SourceTable:
    database = getattr(context.resources, table.source_database_key).get_database()
    database.check()
    return SourceTable(database, table.source, [], columns)


def _unanswered(context: dg.SensorEvaluationContext, table: TableDefinition, columns: Sequence[str]) -> Unanswered:
    source = _source(context, table, [*(table.partitions.columns if table.partitions else ()), *columns])
    if table.partitions:
        source.check_partitions(table.partitions.examples())
    outputs = [Output(task.name, output_table_name(table.source, task), task.columns, "") for task in table.tasks]
    schema = table.settings.output_schema
    store = Store(getattr(context.resources, table.database_key).get_database(), source, outputs, schema)
    return Unanswered(source, store, outputs, schema)


def _busy(
    context: dg.SensorEvaluationContext,
    answers: dg.AssetsDefinition,
    names: Sequence[str],
    in_pairs: bool,
    retry_after: timedelta,
) -> set[str]:
    """Return the partitions that a run works on or waits for, or whose run, asked for by this sensor, just failed."""
    own = {"dagster/sensor_name": context.sensor_name}
    since = datetime.now(UTC) - retry_after
    runs = [
        *context.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)),
        *context.instance.get_runs(dg.RunsFilter(statuses=STOPPED, tags=own, updated_after=since)),
    ]
    busy: set[str] = set()
    for run in runs:
        if not _concerns(context, run, answers):
            continue
        if PARTITION in run.tags:
            busy.add(run.tags[PARTITION])
        elif RANGE_START in run.tags:
            busy.update(members(names, Range(run.tags[RANGE_START], run.tags[RANGE_END]), in_pairs))
        else:
            return set(names)
    return busy


def _concerns(context: dg.SensorEvaluationContext, run: dg.DagsterRun, answers: dg.AssetsDefinition) -> bool:
    """Whether a run computes some of a table's answers."""
    if run.asset_selection is not None:
        return not answers.keys.isdisjoint(run.asset_selection)
    # A whole job, which is one of this code location's, or of another's and then not ours.
    repository = context.repository_def
    if repository is None or not repository.has_job(run.job_name):
        return False
    return answers.op.name in {node.name for node in repository.get_job(run.job_name).nodes}
