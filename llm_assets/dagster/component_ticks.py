"""The schedule and the sensors of a component, as settings."""

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field

from llm_assets.dagster.automation import Duration, parsed_duration
from llm_assets.dagster.schedules import Schedule, build_schedule
from llm_assets.dagster.sensors import build_partitions_sensor, build_source_sensor, build_unanswered_sensor
from llm_assets.dagster.table import AssetsOfTable, Job

RUNNING = "Run it at once; otherwise somebody turns it on in the UI."


class TableSchedule(Schedule):
    """When a table's assets are materialized: with partitions by time the latest one when its time is over."""

    running: bool = Field(default=False, description=RUNNING)

    def build(self, assets: AssetsOfTable, job: Job) -> dg.ScheduleDefinition:
        """Return Dagster's schedule."""
        status = dg.DefaultScheduleStatus.RUNNING if self.running else dg.DefaultScheduleStatus.STOPPED
        return build_schedule(assets, self, job=job, name=f"{job.name}_schedule", default_status=status)


class TableSensor(BaseModel):
    """What every sensor can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    minimum_interval_seconds: int = Field(default=60, ge=1, description="Seconds between two looks.")
    running: bool = Field(default=False, description=RUNNING)

    @property
    def status(self) -> dg.DefaultSensorStatus:
        """Whether it runs before somebody turns it on."""
        return dg.DefaultSensorStatus.RUNNING if self.running else dg.DefaultSensorStatus.STOPPED


class UnansweredSensor(TableSensor):
    """Asks for runs when rows of the source have neither an answer nor a failure."""

    min_rows: int | None = Field(default=None, ge=1, description="Ask when so many rows are unanswered; 1 by default.")
    max_age: Duration | None = Field(default=None, description="Ask when an unanswered row is this old: 90m, 24h.")
    time_column: str | None = Field(
        default=None, description="Column with the time of a row; that of the partitions by time if not given."
    )
    timezone: str = Field(default="UTC", description="Of a time column that has none.")
    retry_after: Duration = Field(
        default=parsed_duration("1h"), description="Leave partitions whose run failed alone for so long."
    )

    def build(self, assets: AssetsOfTable) -> dg.SensorDefinition:
        """Return Dagster's sensor."""
        return build_unanswered_sensor(
            assets,
            min_rows=self.min_rows,
            max_age=self.max_age,
            time_column=self.time_column,
            timezone=self.timezone,
            retry_after=self.retry_after,
            minimum_interval_seconds=self.minimum_interval_seconds,
            default_status=self.status,
        )


class PartitionsSensor(TableSensor):
    """Makes a dynamic partition of every value of the partitions' column."""

    request_runs: bool = Field(default=False, description="Ask for a run over the new partitions.")
    remove_gone: bool = Field(default=False, description="Remove partitions whose value is gone.")

    def build(self, assets: AssetsOfTable) -> dg.SensorDefinition:
        """Return Dagster's sensor."""
        return build_partitions_sensor(
            assets,
            request_runs=self.request_runs,
            remove_gone=self.remove_gone,
            minimum_interval_seconds=self.minimum_interval_seconds,
            default_status=self.status,
        )


class SourceSensor(TableSensor):
    """Records an event of the source table's asset when the table has changed; `automation: eager` waits for that."""

    minimum_interval_seconds: int = Field(default=300, ge=1, description="Seconds between two looks.")
    column: str | None = Field(
        default=None, description="A column whose largest value tells of a change, such as updated_at."
    )

    def build(self, assets: AssetsOfTable) -> dg.SensorDefinition:
        """Return Dagster's sensor."""
        return build_source_sensor(
            assets,
            column=self.column,
            minimum_interval_seconds=self.minimum_interval_seconds,
            default_status=self.status,
        )


class Sensors(BaseModel):
    """The sensors of a table: those that are given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unanswered: UnansweredSensor | None = Field(
        default=None, description="Ask for runs when rows of the source are unanswered."
    )
    partitions: PartitionsSensor | None = Field(default=None, description="Find the values of dynamic partitions.")
    source: SourceSensor | None = Field(default=None, description="Record when the source table has changed.")

    def given(self) -> dict[str, UnansweredSensor | PartitionsSensor | SourceSensor]:
        """Return those that are given, by their names here."""
        found = {"unanswered": self.unanswered, "partitions": self.partitions, "source": self.source}
        return {name: sensor for name, sensor in found.items() if sensor is not None}
