"""When Dagster materializes assets by itself, and when it calls them stale: as settings that YAML can hold."""

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

import dagster as dg
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from llm_assets.dagster.partitions import checked_zone
from llm_assets.errors import ConfigError, did_you_mean

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_CONDITIONS = ("eager", "on_missing")


def checked_cron(text: str) -> str:
    """Return a cron expression, or raise a ConfigError if it is none."""
    try:
        dg.ScheduleDefinition(job_name="any", cron_schedule=text)
    except (dg.DagsterInvalidDefinitionError, ValueError):
        raise ConfigError(
            f"{text!r} is no cron expression. Write minute, hour, day, month and day of the week, such as '0 2 * * *' "
            "for two o'clock every night."
        ) from None
    return text


def parsed_duration(value: Any) -> Any:
    """Return a duration that is written as 24h, 1d 12h or 90m; ISO durations (PT24H) are left to pydantic."""
    if isinstance(value, timedelta) or (isinstance(value, str) and re.match(r"[+-]?P", value)):
        return value
    found = re.findall(r"(\d+(?:\.\d+)?)\s*([smhdw])", value) if isinstance(value, str) else []
    if not found or re.sub(r"\d+(?:\.\d+)?\s*[smhdw]", "", value).strip():
        raise ConfigError(f"{value!r} is no duration. Write a number and its unit: 90m, 24h, 1d 12h or PT24H.")
    return timedelta(**{_UNITS[unit]: float(number) for number, unit in found})


Duration = Annotated[timedelta, BeforeValidator(parsed_duration)]
"""A length of time: 90m, 24h, 1d 12h, or as ISO 8601 has it, PT24H."""


class OnCron(BaseModel):
    """Materialize at certain times."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cron: str = Field(description="When: a cron expression, such as 0 2 * * *.")
    timezone: str = Field(default="UTC", description="Its time zone.")

    _cron = field_validator("cron")(checked_cron)
    _timezone = field_validator("timezone")(checked_zone)


def _known(value: Any) -> Any:
    if isinstance(value, str) and value not in _CONDITIONS:
        raise ConfigError(
            f"There is no automation {value!r}. {did_you_mean(value, _CONDITIONS)} Or say when: {{cron: '0 2 * * *'}}."
        )
    return value


Automation = Annotated[Literal["eager", "on_missing"] | OnCron, BeforeValidator(_known)]
"""eager, on_missing, or a mapping with `cron` and `timezone`; see `automation_condition`."""


def automation_condition(automation: Automation | str) -> dg.AutomationCondition:
    """Return Dagster's condition.

    `eager` materializes when the source table's asset has an event, which `build_source_sensor` reports, or the asset
    that makes the table; `on_missing` a partition when it comes to exist; a cron expression at those times. Of time
    partitions, each looks at the latest one only. Unlike Dagster's own, the last two do not wait for an event of the
    source table's asset, which it may never have.

    Raises:
        ConfigError: there is no such automation.
    """
    try:
        chosen = TypeAdapter(Automation).validate_python(automation)
    except ValidationError as error:
        raise ConfigError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    condition = dg.AutomationCondition
    if chosen == "eager":
        return condition.eager()
    if isinstance(chosen, OnCron):
        begun, label = condition.cron_tick_passed(chosen.cron, chosen.timezone), f"at {chosen.cron} {chosen.timezone}"
    else:
        begun, label = condition.missing().newly_true(), "on_missing"
    latest = condition.in_latest_time_window() & begun.since_last_handled() & ~condition.in_progress()
    return latest.with_label(label)


class Freshness(BaseModel):
    """When Dagster calls the answers stale: by their age, or if they were not made in time for a deadline."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fail_window: Duration | None = Field(default=None, description="Stale after this long without a run: 24h, 7d.")
    warn_window: Duration | None = Field(default=None, description="Warn after this long; shorter than fail_window.")
    deadline_cron: str | None = Field(
        default=None, description="In place of fail_window: stale if not made before these times."
    )
    lower_bound_delta: Duration | None = Field(
        default=None, description="With deadline_cron: how long before a deadline a run counts for it."
    )
    timezone: str = Field(default="UTC", description="Time zone of deadline_cron.")

    _timezone = field_validator("timezone")(checked_zone)

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.fail_window is None) == (self.deadline_cron is None):
            raise ConfigError("Set either fail_window, such as 24h, or deadline_cron with lower_bound_delta.")
        if (self.deadline_cron is None) != (self.lower_bound_delta is None):
            raise ConfigError("deadline_cron and lower_bound_delta go together: '0 9 * * *' and 2h is from 7 to 9.")
        if self.deadline_cron is not None:
            checked_cron(self.deadline_cron)
            if self.warn_window is not None:
                raise ConfigError("warn_window goes with fail_window; a deadline has no warning.")
        try:
            self.policy()
        except Exception as error:
            # Dagster's checks: a window of less than a minute, a warning later than the failure, a lower bound longer
            # than the time between two deadlines.
            raise ConfigError(str(error).removeprefix("Invariant failed. Description: ")) from None
        return self

    def policy(self) -> dg.FreshnessPolicy:
        """Return Dagster's policy."""
        if self.deadline_cron is not None and self.lower_bound_delta is not None:
            return dg.FreshnessPolicy.cron(self.deadline_cron, self.lower_bound_delta, self.timezone)
        assert self.fail_window is not None
        return dg.FreshnessPolicy.time_window(self.fail_window, self.warn_window)
