"""When a table is answered by the clock."""

from typing import Any, Self

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llm_assets.dagster.partitions import DynamicPartitions, MultiPartitions, Partitions, TimePartitions, checked_zone
from llm_assets.errors import ConfigError

RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
"""Tags by which one run answers all partitions from one to another."""


class Schedule(BaseModel):
    """When a table is answered: each partition of time as it ends, or everything whenever a cron expression says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hour: int | None = Field(default=None, ge=0, le=23, description="Hour after a partition's end at which it is run.")
    minute: int | None = Field(default=None, ge=0, le=59, description="Minute of that hour.")
    cron: str | None = Field(
        default=None,
        description="Without partitions of time: run all that there is whenever this cron expression says.",
    )
    timezone: str | None = Field(default=None, description="Time zone of the cron expression; UTC if not given.")
    running: bool = Field(default=False, description="Run it at once; otherwise somebody turns it on in the UI.")

    @field_validator("cron")
    @classmethod
    def _is_a_cron_expression(cls, cron: str | None) -> str | None:
        if cron is not None:
            try:
                dg.AutomationCondition.on_cron(cron)
            except Exception:
                raise ConfigError(
                    f"{cron!r} is no cron expression. Write minute, hour, day, month and day of the week, such as "
                    "'0 2 * * *' for two o'clock each night."
                ) from None
        return cron

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, name: str | None) -> str | None:
        return None if name is None else checked_zone(name)

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if self.cron is not None and (self.hour is not None or self.minute is not None):
            raise ConfigError("hour and minute are for partitions of time, cron is for all other tables. Set one.")
        if self.timezone is not None and self.cron is None:
            raise ConfigError("timezone is the cron expression's. Partitions of time have a time zone of their own.")
        return self

    def check(self, partitions: Partitions | None) -> None:
        """Raise a ConfigError if a table with such partitions cannot have this schedule."""
        time = _time(partitions)
        if time is None:
            if isinstance(partitions, MultiPartitions):
                raise ConfigError("Dagster has no schedule for two dimensions without time. Use `automation`.")
            if self.cron is None:
                raise ConfigError("Without partitions of time, a schedule needs `cron`, such as '0 2 * * *'.")
        elif self.cron is not None:
            raise ConfigError("Partitions of time are run as they end: set `hour` and `minute` in place of `cron`.")
        elif time.cron_schedule is not None and (self.hour, self.minute) != (None, None):
            raise ConfigError("Partitions by a cron expression are run when it says: leave out `hour` and `minute`.")
        elif time.cadence == "hourly" and self.hour is not None:
            raise ConfigError("Hourly partitions are run each hour: set `minute` alone.")

    def definition(
        self, job: Any, partitions: Partitions | None, table: str
    ) -> Any:  # Dagster exports the classes of neither an asset job nor its schedule
        """Return Dagster's schedule of a job that answers a table."""
        status = dg.DefaultScheduleStatus.RUNNING if self.running else dg.DefaultScheduleStatus.STOPPED
        if self.cron is None:
            return dg.build_schedule_from_partitioned_job(
                job, hour_of_day=self.hour, minute_of_hour=self.minute, default_status=status
            )

        def run_all(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
            if partitions is None:
                return dg.RunRequest()
            store = context.instance if isinstance(partitions, DynamicPartitions) else None
            keys = partitions.definition(table).get_partition_keys(dynamic_partitions_store=store)
            if not keys:
                return dg.SkipReason(f"Table {table} has no partitions yet.")
            # One run with one load of the model for all of them.
            return dg.RunRequest(tags=dict(zip(RANGE_TAGS, (keys[0], keys[-1]), strict=True)))

        return dg.ScheduleDefinition(
            name=f"{job.name}_schedule",
            job=job,
            cron_schedule=self.cron,
            execution_timezone=self.timezone or "UTC",
            default_status=status,
            execution_fn=run_all,
        )


def _time(partitions: Partitions | None) -> TimePartitions | None:
    dimensions = partitions.dimensions.values() if isinstance(partitions, MultiPartitions) else [partitions]
    return next((each for each in dimensions if isinstance(each, TimePartitions)), None)
