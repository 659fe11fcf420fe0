"""The rows that are in some partition, as one slice: what runs over every partition would ask about."""

import os

import dagster as dg

from llm_assets.dagster.partitions import (
    DynamicPartitions,
    MultiPartitions,
    Partitions,
    StaticPartitions,
    TimePartitions,
    key_problem,
)
from llm_assets.dagster.sensors import MOST_VALUES
from llm_assets.dagster.table import TableDefinition
from llm_assets.errors import ConfigError
from llm_assets.inspection.reading import EveryPartition
from llm_assets.records import Condition, OneOf, Partition, Within
from llm_assets.secrets import masked
from llm_assets.tables import SourceTable

SHOWN_VALUES = 5


def every_partition(table: TableDefinition, source: SourceTable) -> Partition:
    """Return the rows that are in some partition which Dagster has now; of a table without partitions, all rows.

    There is one condition for each dimension, however many partitions it has. Dynamic partitions are those that are
    registered in the instance of DAGSTER_HOME, or without one, those that `build_partitions_sensor` would find.

    Raises:
        ConfigError: the column of dynamic partitions has too many values.
    """
    if table.partitions is None:
        return Partition()
    found = [_every(each, table, source) for each in table.dimensions]
    conditions, dimensions = zip(*found, strict=True)
    return EveryPartition(conditions=conditions, dimensions=dimensions)


def _every(dimension: Partitions, table: TableDefinition, source: SourceTable) -> tuple[Condition, str]:
    """Return the condition that a row is in some partition of a dimension, and which there are, in words."""
    if isinstance(dimension, TimePartitions):
        return _time(dimension)
    if isinstance(dimension, StaticPartitions):
        return OneOf(dimension.column, dimension.values), f"{dimension.column} in {_listed(dimension.values)}"
    assert isinstance(dimension, DynamicPartitions)
    return _dynamic(dimension, table, source)


def _time(dimension: TimePartitions) -> tuple[Condition, str]:
    definition = dimension.definition()
    first, last = definition.get_first_partition_window(), definition.get_last_partition_window()
    if first is None or last is None:
        return OneOf(dimension.column, ()), f"{dimension.column} has none yet, they begin at {dimension.start}"
    keys = f"{definition.get_first_partition_key()} to {definition.get_last_partition_key()}"
    return Within(dimension.column, first.start, last.end), f"{dimension.column} from {keys}"


def _dynamic(dimension: DynamicPartitions, table: TableDefinition, source: SourceTable) -> tuple[Condition, str]:
    column = dimension.column
    found = source.values(column, MOST_VALUES + 1)
    if len(found.texts) > MOST_VALUES:
        raise ConfigError(
            f"The column {column!r} of {source.source.name!r} has more than {MOST_VALUES:,} values, which are too many "
            "partitions. Say which one is meant: --partition KEY."
        )
    in_pairs = isinstance(table.partitions, MultiPartitions)
    usable = tuple(text for text in found.texts if not key_problem(text, in_pairs))
    registered, why = _registered(dimension.set_name(table.source.name))
    if registered is None:
        return OneOf(column, usable), f"{column} in {_listed(usable)} (all that it has, because {why})"
    values = tuple(text for text in usable if text in registered)
    return OneOf(column, values), f"{column} in {_listed(values)} (registered in {why})"


def _registered(name: str) -> tuple[set[str] | None, str]:
    """Return a set of dynamic partitions and the instance that has it; if there is none, None and the reason."""
    home = os.environ.get("DAGSTER_HOME")
    if not home:
        return None, "DAGSTER_HOME names no instance that knows which are partitions"
    try:
        with dg.DagsterInstance.get() as instance:
            return set(instance.get_dynamic_partitions(name)), f"the instance of DAGSTER_HOME={home}"
    except Exception as error:  # the storage can be anything, and so can its errors
        reason = masked(str(error)).partition("\n")[0]
        return None, f"the instance of DAGSTER_HOME={home} cannot be read: {type(error).__name__}: {reason}"


def _listed(values: tuple[str, ...]) -> str:
    if not values:
        return "no value"
    return ", ".join(values) if len(values) <= SHOWN_VALUES else f"{len(values):,} values"
