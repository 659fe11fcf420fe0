"""Partitions of a source table: by time, by the values of a column, or none."""

from datetime import datetime
from typing import Literal, Protocol
from zoneinfo import ZoneInfo

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, field_validator

from llm_assets.errors import ConfigError
from llm_assets.records import Partition

_DEFINITIONS = {
    "hourly": dg.HourlyPartitionsDefinition,
    "daily": dg.DailyPartitionsDefinition,
    "weekly": dg.WeeklyPartitionsDefinition,
    "monthly": dg.MonthlyPartitionsDefinition,
}


class Partitions(Protocol):
    """How a table is cut: the column, Dagster's definition, and the rows that a partition key means."""

    column: str

    def definition(self) -> dg.PartitionsDefinition:
        """Return Dagster's definition."""
        ...

    def partition(self, key: str) -> Partition:
        """Return the slice of the table that a partition key means, or raise a ConfigError."""
        ...


class TimePartitions(BaseModel):
    """Partitions by a column that holds a time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str = Field(description="Column with the time of the row.")
    cadence: Literal["hourly", "daily", "weekly", "monthly"] = Field(
        default="daily", description="Length of a partition."
    )
    start: str = Field(description="When the first partition begins: 2026-11-01, or 2026-11-01T00:00.")
    end: str | None = Field(default=None, description="When the last one ends, exclusive; None follows the clock.")
    timezone: str = Field(default="UTC", description="Time zone of the partitions, and of a column that has none.")

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ConfigError(
                f"There is no time zone {name!r}. Write a name such as 'UTC' or 'Europe/Berlin'."
            ) from None
        return name

    @field_validator("start", "end")
    @classmethod
    def _is_a_time(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                datetime.fromisoformat(text)
            except ValueError:
                raise ConfigError(f"{text!r} is no time. Write 2026-11-01 or 2026-11-01T00:00.") from None
        return text

    def definition(self) -> dg.TimeWindowPartitionsDefinition:
        zone = ZoneInfo(self.timezone)
        start = datetime.fromisoformat(self.start).replace(tzinfo=zone)
        end = None if self.end is None else datetime.fromisoformat(self.end).replace(tzinfo=zone)
        return _DEFINITIONS[self.cadence](start_date=start, end_date=end, timezone=self.timezone)

    def partition(self, key: str) -> Partition:
        definition = self.definition()
        if not definition.has_partition_key(key):
            first, last = definition.get_first_partition_key(), definition.get_last_partition_key()
            if first is None:
                raise ConfigError(f"{key!r} is no partition: there is none yet, they begin at {self.start}.")
            raise ConfigError(
                f"{key!r} is no {self.cadence} partition. They run from {first} to {last}; write one as {first}."
            )
        window = definition.time_window_for_partition_key(key)
        return Partition(key, self.column, start=window.start, end=window.end)


class StaticPartitions(BaseModel):
    """Partitions by the values of a column."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str = Field(description="Column whose values are the partitions.")
    values: tuple[str, ...] = Field(min_length=1, description="The values, one partition each.")

    def definition(self) -> dg.StaticPartitionsDefinition:
        return dg.StaticPartitionsDefinition(list(self.values))

    def partition(self, key: str) -> Partition:
        if key not in self.values:
            raise ConfigError(f"{key!r} is no partition of column {self.column!r}. Valid: {', '.join(self.values)}.")
        return Partition(key, self.column, value=key)
