"""Schedules: the latest partition whose time is over, or a table at certain times."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Self

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llm_assets.dagster.automation import checked_cron
from llm_assets.dagster.partitions import MultiPartitions, checked_zone
from llm_assets.dagster.ranges import most_partitions, ranges
from llm_assets.dagster.table import AssetsOfTable, Job, TableDefinition, assets_of
from llm_assets.errors import ConfigError

_PLACES = ("minute_of_hour", "hour_of_day", "day_of_week", "day_of_month")


class Schedule(BaseModel):
    """When a table's assets are materialized: with partitions by time the latest one when its time is over."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    minute_of_hour: int | None = Field(default=None, ge=0, le=59, description="Minute at which it runs.")
    hour_of_day: int | None = Field(default=None, ge=0, le=23, description="Hour at which it runs.")
    day_of_week: int | None = Field(
        default=None, ge=0, le=6, description="Day at which weekly partitions run; 0 is Sunday."
    )
    day_of_month: int | None = Field(default=None, ge=1, le=28, description="Day at which monthly partitions run.")
    cron: str | None = Field(
        default=None, description="For a table without partitions by time: a cron expression. All partitions are run."
    )
    timezone: str = Field(default="UTC", description="Time zone of cron.")

    _timezone = field_validator("timezone")(checked_zone)

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str | None) -> str | None:
        return None if cron is None else checked_cron(cron)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        given = [name for name in _PLACES if getattr(self, name) is not None]
        if self.cron is not None and given:
            raise ConfigError(f"cron says when it runs, and so does {given[0]}: leave one of them out.")
        if self.cron is None and self.timezone != "UTC":
            raise ConfigError("timezone is that of cron; without it, the partitions' own time zone holds.")
        return self

    def expression(self, table: TableDefinition) -> tuple[str, str]:
        """Return the cron expression for a table, and its time zone, or raise a ConfigError."""
        name = table.source.name
        time = table.partitions_by_time
        if time is None:
            if self.cron is None:
                raise ConfigError(
                    f"The table {name!r} has no partitions by time for the schedule to follow. Set cron, such as "
                    "'0 2 * * *'."
                )
            return self.cron, self.timezone
        if self.cron is not None:
            raise ConfigError(
                f"The schedule of {name!r} follows its partitions by time: in place of cron={self.cron!r}, set "
                "hour_of_day or minute_of_hour, or nothing."
            )
        values = {place: getattr(self, place) for place in _PLACES}
        try:
            return time.definition().get_cron_schedule(**values), time.timezone
        except Exception as error:  # Dagster's checks: an hour for hourly partitions, a day for daily ones
            raise ConfigError(f"The schedule of {name!r}: {error}") from None


def build_schedule(
    assets: AssetsOfTable,
    schedule: Schedule | None = None,
    *,
    job: Job | None = None,
    name: str | None = None,
    default_status: dg.DefaultScheduleStatus = dg.DefaultScheduleStatus.STOPPED,
) -> dg.ScheduleDefinition:
    """Return a schedule for a table's assets, each tick of which is one run.

    With partitions by time it runs the latest one whose time is over, in two dimensions with all values of the other
    one. With an `end_offset` it runs those too that have begun since, so that each is run while it lasts and once more
    when it is over. Without partitions by time, it runs all partitions, or the whole table.

    Args:
        assets: What `build_llm_assets` returned.
        schedule: When; as soon as a partition's time is over if not given.
        job: The job that runs them; one for just these assets if not given.
        name: The schedule's name; `<table>_schedule` if not given.
        default_status: Whether it runs before someone switches it on.

    Raises:
        ConfigError: the schedule does not fit the table's partitions.
    """
    answers, table = assets_of(assets)
    cron, zone = (schedule or Schedule()).expression(table)
    keys = sorted(answers.keys)

    @dg.schedule(
        name=name or f"{table.name}_schedule",
        cron_schedule=cron,
        execution_timezone=zone,
        description=f"Answers the rows of {table.source.name}.",
        default_status=default_status,
        target=job or dg.AssetSelection.assets(*keys),
    )
    def run_table(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        definition = table.partitions_definition
        if definition is None:
            yield dg.RunRequest(asset_selection=keys)
            return
        names = definition.get_partition_keys(context.scheduled_execution_time, context.instance)
        wanted = _latest(table, names, context.scheduled_execution_time)
        if not wanted:
            yield dg.SkipReason("There is no partition yet.")
        for each in ranges(names, wanted, isinstance(table.partitions, MultiPartitions), most_partitions(answers)):
            yield each.request(keys)

    return run_table


def _latest(table: TableDefinition, names: Sequence[str], now: datetime) -> set[str]:
    """Return the partitions of the latest time that is over, and of those that have begun since; else all.

    A partition whose time is not over exists with an end_offset only: whoever sets one wants its rows answered too.
    """
    time = table.partitions_by_time
    if time is None:
        return set(names)
    definition, moment = time.definition(), now.timestamp()  # as instants: a clock that is turned back repeats times
    times: set[str] = set()
    for key in reversed(definition.get_partition_keys(now)):
        window = definition.time_window_for_partition_key(key)
        if window.start.timestamp() <= moment:
            times.add(key)
        if window.end.timestamp() <= moment:
            break
    if isinstance(table.partitions, MultiPartitions):
        side = 0 if table.partitions.dimensions[sorted(table.partitions.dimensions)[0]] is time else 1
        return {name for name in names if name.split("|")[side] in times}
    return times
