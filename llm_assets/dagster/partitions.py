"""Partitions of a source table: by time, by the values of a column, by two of these together, or none."""

from collections.abc import Mapping
from datetime import date, datetime
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal, Protocol, Self
from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llm_assets.errors import ConfigError
from llm_assets.records import Equals, Partition, Within

_DEFINITIONS = {
    "hourly": dg.HourlyPartitionsDefinition,
    "daily": dg.DailyPartitionsDefinition,
    "weekly": dg.WeeklyPartitionsDefinition,
    "monthly": dg.MonthlyPartitionsDefinition,
}
_OFFSETS = {
    "hourly": ("minute_offset",),
    "daily": ("minute_offset", "hour_offset"),
    "weekly": ("minute_offset", "hour_offset", "day_offset"),
    "monthly": ("minute_offset", "hour_offset", "day_offset"),
}
_DAYS = {"weekly": (0, 6, "0 is Sunday"), "monthly": (1, 28, "the day of the month, which every month has")}

LONGEST_KEY = 500
"""Bytes of a partition key. Dagster keeps keys in indexed columns, and shows them whole."""
_NEVER_IN_A_KEY = ("...", "\a", "\b", "\f", "\n", "\r", "\t", "\v", "\0")
_NEVER_IN_A_DIMENSION = ("|", ",", "[", "]")


class Partitions(Protocol):
    """How a table is cut: the columns, Dagster's definition, and the rows that a partition key means."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns whose values say to which partition a row belongs."""
        ...

    def definition(self, table: str) -> dg.PartitionsDefinition:
        """Return Dagster's definition for a source table of some name."""
        ...

    def partition(self, key: str) -> Partition:
        """Return the slice of the table that a partition key means, or raise a ConfigError."""
        ...

    def examples(self) -> list[Partition]:
        """Return partitions by which it shows whether the columns are of the right types."""
        ...


class _OfOneColumn(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)


class TimePartitions(_OfOneColumn):
    """Partitions by a column that holds a time. Rows before `start`, and rows without a time, are in none."""

    type: Literal["time"] = "time"
    column: str = Field(description="Column with the time of the row.")
    cadence: Literal["hourly", "daily", "weekly", "monthly"] = Field(
        default="daily", description="Length of a partition."
    )
    cron_schedule: str | None = Field(
        default=None, description="In place of the cadence: partitions begin whenever this cron expression says."
    )
    start: str = Field(description="When the first partition begins: 2026-11-01, or 2026-11-01T00:00.")
    end: str | None = Field(default=None, description="When the last one ends, exclusive; None follows the clock.")
    timezone: str = Field(default="UTC", description="Time zone of the partitions, and of a column that has none.")
    minute_offset: int = Field(default=0, ge=0, le=59, description="Minutes past the hour at which partitions begin.")
    hour_offset: int = Field(default=0, ge=0, le=23, description="Hour at which days, weeks and months begin.")
    day_offset: int | None = Field(
        default=None, description="Day at which weeks (0 to 6, 0 is Sunday) or months (1 to 28) begin."
    )
    end_offset: int = Field(
        default=0, ge=0, description="Partitions that exist before their time is over; 1 has the present one too."
    )

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, name: str) -> str:
        return checked_zone(name)

    @field_validator("start", "end", mode="before")
    @classmethod
    def _is_a_time(cls, value: Any) -> Any:
        if isinstance(value, date):  # as YAML reads it
            value = value.isoformat()
        if isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                raise ConfigError(f"{value!r} is no time. Write 2026-11-01 or 2026-11-01T00:00.") from None
            if moment.tzinfo is not None:
                raise ConfigError(f"{value!r} has a zone of its own. Leave it out, and set `timezone`.")
        return value

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.end is not None and datetime.fromisoformat(self.end) <= datetime.fromisoformat(self.start):
            raise ConfigError(f"end {self.end!r} is not after start {self.start!r}: there would be no partition.")
        given = [name for name in _OFFSETS["weekly"] if getattr(self, name)]
        if self.cron_schedule is not None:
            also = ["cadence"] * ("cadence" in self.model_fields_set) + given
            if also:
                raise ConfigError(f"cron_schedule stands in place of {' and '.join(also)}: leave one of them out.")
        else:
            for name in given:
                if name not in _OFFSETS[self.cadence]:
                    raise ConfigError(
                        f"{name}={getattr(self, name)!r} means nothing to {self.cadence} partitions. They have "
                        f"{' and '.join(_OFFSETS[self.cadence])}."
                    )
            if self.day_offset is not None:
                first, last, meaning = _DAYS.get(self.cadence, (0, 0, "it has no meaning for shorter partitions"))
                if not first <= self.day_offset <= last:
                    raise ConfigError(
                        f"day_offset={self.day_offset} is no day of {self.cadence} partitions. Write {first} to "
                        f"{last}: {meaning}."
                    )
        try:
            self._definition.validate_partition_definition()
        except (dg.DagsterInvalidDefinitionError, ValueError) as error:
            if self.cron_schedule is None:
                raise ConfigError(f"These partitions cannot be: {error}") from None
            raise ConfigError(
                f"{self.cron_schedule!r} is no cron expression for partitions. Write minute, hour, day, month and day "
                "of the week, such as '0 6 * * *' for days that begin at six."
            ) from None
        self._check_holds_a_partition()
        return self

    def _check_holds_a_partition(self) -> None:
        """Raise a ConfigError if no whole partition lies between start and end."""
        definition = self._definition
        first = definition.get_next_partition_window(definition.start, respect_bounds=False)
        if definition.end is not None and first is not None and first.end.timestamp() > definition.end.timestamp():
            raise ConfigError(
                f"Between start {self.start!r} and end {self.end!r} lies no whole partition. The first one lasts from "
                f"{first.start:%Y-%m-%dT%H:%M} to {first.end:%Y-%m-%dT%H:%M}: set end to that, or later."
            )

    @cached_property
    def _definition(self) -> dg.TimeWindowPartitionsDefinition:
        start = datetime.fromisoformat(self.start)
        end = None if self.end is None else datetime.fromisoformat(self.end)
        if self.cron_schedule is not None:
            return dg.TimeWindowPartitionsDefinition(
                start=start,
                end=end,
                timezone=self.timezone,
                cron_schedule=self.cron_schedule,
                fmt="%Y-%m-%d" if _is_daily(self.cron_schedule) else "%Y-%m-%d-%H:%M",
                end_offset=self.end_offset,
            )
        offsets = {name: getattr(self, name) for name in _OFFSETS[self.cadence] if getattr(self, name) is not None}
        zone = ZoneInfo(self.timezone)
        return _DEFINITIONS[self.cadence](
            start_date=start.replace(tzinfo=zone),
            end_date=None if end is None else end.replace(tzinfo=zone),
            timezone=self.timezone,
            end_offset=self.end_offset,
            **offsets,
        )

    def definition(self, table: str = "") -> dg.TimeWindowPartitionsDefinition:
        return self._definition

    def partition(self, key: str) -> Partition:
        definition, window = self._definition, self._window(key)
        if window is None:
            first, last = definition.get_first_partition_key(), definition.get_last_partition_key()
            if first is None:
                raise ConfigError(f"{key!r} is no partition: there is none yet, they begin at {self.start}.")
            kind = self.cadence if self.cron_schedule is None else f"{self.cron_schedule!r}"
            raise ConfigError(f"{key!r} is no {kind} partition. They run from {first} to {last}; write one as {first}.")
        return Partition(key, (Within(self.column, window.start, window.end),))

    def _window(self, key: str) -> dg.TimeWindow | None:
        """Return the time that a key means; None if it is no partition's."""
        definition = self._definition
        if definition.has_partition_key(key):
            return definition.time_window_for_partition_key(key)
        if key not in definition.get_partition_keys():
            return None
        # Dagster reads a time that comes twice as the first one, also where the schedule has only the second.
        start = datetime.strptime(key, definition.fmt).replace(tzinfo=ZoneInfo(self.timezone), fold=1)
        return definition.get_next_partition_window(start, respect_bounds=False)

    def examples(self) -> list[Partition]:
        first = self._definition.get_first_partition_key()
        return [] if first is None else [self.partition(first)]


class StaticPartitions(_OfOneColumn):
    """Partitions by some values of a column. Rows with another value, or with none, are in none."""

    type: Literal["static"] = "static"
    column: str = Field(description="Column whose values are the partitions.")
    values: tuple[str, ...] = Field(min_length=1, description="The values, one partition each.")

    @field_validator("values", mode="before")
    @classmethod
    def _are_texts(cls, values: Any) -> Any:
        return tuple(map(_value_text, values)) if isinstance(values, list | tuple) else values

    @field_validator("values")
    @classmethod
    def _are_keys(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if problem := key_problem(value):
                raise ConfigError(f"The value {value!r} cannot be a partition: {problem}.")
        for first, second in pairwise(sorted(values)):
            if first == second:
                raise ConfigError(f"The value {first!r} stands twice. Each value is one partition.")
        return values

    def definition(self, table: str = "") -> dg.StaticPartitionsDefinition:
        return dg.StaticPartitionsDefinition(list(self.values))

    def partition(self, key: str) -> Partition:
        if key not in self.values:
            raise ConfigError(f"{key!r} is no partition of column {self.column!r}. Valid: {', '.join(self.values)}.")
        return Partition(key, (Equals(self.column, key),))

    def examples(self) -> list[Partition]:
        return [self.partition(value) for value in self.values]


class DynamicPartitions(_OfOneColumn):
    """Partitions by all values of a column, which `build_partitions_sensor` finds. Rows without a value are in none."""

    type: Literal["dynamic"] = "dynamic"
    column: str = Field(description="Column whose values are the partitions.")
    name: str | None = Field(
        default=None, description="What Dagster calls this set of partitions; `<table>_<column>` if not given."
    )

    def set_name(self, table: str) -> str:
        """Return what Dagster calls the set of partitions of a source table."""
        return self.name or f"{table}_{self.column}"

    def definition(self, table: str) -> dg.DynamicPartitionsDefinition:
        return dg.DynamicPartitionsDefinition(name=self.set_name(table))

    def partition(self, key: str) -> Partition:
        if problem := key_problem(key):
            raise ConfigError(f"{key!r} is no partition of column {self.column!r}: {problem}.")
        return Partition(key, (Equals(self.column, key),))

    def examples(self) -> list[Partition]:
        return []


Dimension = Annotated[TimePartitions | StaticPartitions | DynamicPartitions, Field(discriminator="type")]
"""What a table can be cut by, alone or as one of two."""


class MultiPartitions(BaseModel):
    """Partitions by two columns at once, such as day and country: one for each pair of their partitions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["multi"] = "multi"
    dimensions: dict[str, Dimension] = Field(
        description="Two partitions by a name of yours: day: {type: time, ...}, country: {type: static, ...}."
    )

    @field_validator("dimensions")
    @classmethod
    def _are_two(cls, dimensions: Mapping[str, Any]) -> Mapping[str, Any]:
        if len(dimensions) != 2:
            raise ConfigError(
                f"Dagster takes two dimensions, not {len(dimensions)}: {', '.join(dimensions) or 'none'}."
            )
        first, second = dimensions.values()
        if first.column == second.column:
            raise ConfigError(f"Both dimensions are of the column {first.column!r}. Take two columns.")
        sets = [each.name for each in (first, second) if isinstance(each, DynamicPartitions) and each.name]
        if len(sets) > len({*sets}):
            raise ConfigError(f"Both dimensions are the set {sets[0]!r}. Give each a `name` of its own.")
        for name, dimension in dimensions.items():
            if not name.isidentifier():
                raise ConfigError(f"The dimension's name {name!r} is no name. Write letters, digits and _.")
            for value in dimension.values if isinstance(dimension, StaticPartitions) else ():
                if problem := key_problem(value, in_dimension=True):
                    raise ConfigError(f"The value {value!r} cannot be a partition of {name!r}: {problem}.")
        return dimensions

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dimension.column for dimension in self.dimensions.values())

    def definition(self, table: str) -> dg.MultiPartitionsDefinition:
        return dg.MultiPartitionsDefinition({name: each.definition(table) for name, each in self.dimensions.items()})

    def partition(self, key: str) -> Partition:
        # Dagster writes the dimensions in the order of their names.
        names = sorted(self.dimensions)
        parts = key.split("|")
        if len(parts) != len(names):
            raise ConfigError(f"{key!r} is no partition. Write one as {'|'.join(f'<{name}>' for name in names)}.")
        found = [self.dimensions[name].partition(part) for name, part in zip(names, parts, strict=True)]
        return Partition(key, tuple(condition for part in found for condition in part.conditions))

    def examples(self) -> list[Partition]:
        return [example for dimension in self.dimensions.values() for example in dimension.examples()]


AnyPartitions = Annotated[
    TimePartitions | StaticPartitions | DynamicPartitions | MultiPartitions, Field(discriminator="type")
]
"""Every way to cut a table; in YAML, `type` says which."""


def key_problem(key: str, in_dimension: bool = False) -> str | None:
    """Return why Dagster cannot have a text as a partition key, or as one half of one; None if it can."""
    if not key:
        return "it is empty"
    never = (*_NEVER_IN_A_KEY, *_NEVER_IN_A_DIMENSION) if in_dimension else _NEVER_IN_A_KEY
    for text in never:
        if text in key:
            return f"Dagster has no {text!r} in a partition key{' of two dimensions' if in_dimension else ''}"
    size = len(key.encode("utf-8", "surrogatepass"))
    return f"it has {size} bytes, of at most {LONGEST_KEY}" if size > LONGEST_KEY else None


def checked_zone(name: str) -> str:
    """Return the name of a time zone, or raise a ConfigError if there is none of that name."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ConfigError(f"There is no time zone {name!r}. Write a name such as 'UTC' or 'Europe/Berlin'.") from None
    return name


def _value_text(value: Any) -> Any:
    """Return a value as YAML reads it as the text that was meant."""
    if isinstance(value, bool):
        raise ConfigError(
            f"The value {value!r} was written without quotes: write 'true' or 'false', or 'no' or 'on' if that was "
            "meant."
        )
    return str(value) if isinstance(value, int | float | date) else value


def _is_daily(cron_schedule: str) -> bool:
    """Whether a cron expression begins at most one partition a day."""
    minute, hour, *_ = [*cron_schedule.split(), "", ""]
    return minute.isdecimal() and hour.isdecimal()
