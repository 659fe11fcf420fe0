"""What is checked of a table's answers, and how much of what is wrong is too much. The same in Python and YAML."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llm_assets.errors import ConfigError


class Check(BaseModel):
    """What every check can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(default=True, description="Whether there is such a check.")
    severity: Literal["warn", "error"] = Field(default="warn", description="How bad it is when the check fails.")
    blocking: bool = Field(
        default=False, description="Stop what is downstream in the run when the check fails; the severity is error."
    )

    @model_validator(mode="before")
    @classmethod
    def _blocking_is_an_error(cls, values: Any) -> Any:
        """Dagster goes on after a warning, so a check that is to block is an error unless its severity is given."""
        if isinstance(values, dict) and values.get("blocking") is True and "severity" not in values:
            return {**values, "severity": "error"}
        return values

    @model_validator(mode="after")
    def _a_warning_does_not_block(self) -> Self:
        if self.blocking and self.severity == "warn":
            raise ConfigError(
                "Dagster goes on after a warning: with blocking, set severity to 'error' or leave it out."
            )
        return self


class Coverage(Check):
    """Every source row is answered or failed."""

    severity: Literal["warn", "error"] = Field(default="error", description="How bad it is when the check fails.")
    max_missing_share: float = Field(
        default=0.0, ge=0, le=1, description="Share of the rows that may be neither answered nor failed."
    )


class Failures(Check):
    """Few rows failed."""

    max_share: float = Field(default=0.05, ge=0, le=1, description="Share of the rows that may have failed.")


class Valid(Check):
    """Stored answers are what the task allows: labels of the list, fields that fit the schema."""

    severity: Literal["warn", "error"] = Field(default="error", description="How bad it is when the check fails.")
    max_share: float = Field(default=0.0, ge=0, le=1, description="Share of the answers that may be invalid.")
    sample_rows: int = Field(
        default=10_000, ge=1, description="Of more answers, about so many are looked at, chosen by the text's hash."
    )


class Drift(Check):
    """Labels are as frequent as in the partitions before."""

    max_distance: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Total variation distance: the share of rows that would need another label to be as before.",
    )
    partitions: int = Field(default=7, ge=1, description="So many earlier partitions, taken together, are compared.")
    min_rows: int = Field(default=50, ge=1, description="Below so many answers on either side, nothing is compared.")


class Confidence(Check):
    """Few answers have a low confidence."""

    low: float = Field(default=0.5, ge=0, le=1, description="A confidence below this is low.")
    max_share: float = Field(default=0.3, ge=0, le=1, description="Share of the answers that may have a low one.")


class Grounded(Check):
    """Extracted strings and numbers stand in the text. Fields with fixed values are left out."""

    max_share: float = Field(default=0.2, ge=0, le=1, description="Share of the values that may not stand in the text.")
    sample_rows: int = Field(default=1000, ge=1, description="Of more answers, about so many are looked at.")
    skip: tuple[str, ...] = Field(
        default=(), description="Fields whose values are put in other words: field, or task.field."
    )


class Summaries(Check):
    """Summaries are neither empty, nor copies of the text, nor far too long, nor cut off."""

    max_share: float = Field(default=0.1, ge=0, le=1, description="Share of the summaries that may be such.")
    sample_rows: int = Field(default=1000, ge=1, description="Of more summaries, about so many are looked at.")
    min_words: int = Field(default=2, ge=1, description="A summary of fewer words counts as empty.")
    copied_words: int = Field(
        default=10, ge=2, description="So many words or more that all stand in a row in the text count as a copy."
    )
    longer_than: float = Field(
        default=1.5, ge=1, description="A summary counts as too long at more than so many times the task's max_words."
    )


class Accuracy(Check):
    """Labels are those of a column with the right ones, where that is not NULL. Compared by the answer's type."""

    gold: dict[str, str] = Field(default={}, description="Columns of the source with the right labels, by task.")
    min_accuracy: float = Field(default=0.8, ge=0, le=1, description="Share of the labels that must be right.")
    min_rows: int = Field(default=30, ge=1, description="With fewer rows that have a right label, nothing is decided.")


class Checks(BaseModel):
    """The checks of a table: each asset gets those that fit its task, and each can be set, or off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    coverage: Coverage = Field(default=Coverage(), description="Every source row is answered or failed.")
    failures: Failures = Field(default=Failures(), description="Few rows failed.")
    valid: Valid = Field(default=Valid(), description="Labels are of the list; fields fit the schema.")
    drift: Drift = Field(default=Drift(), description="Labels are as frequent as in the partitions before.")
    confidence: Confidence = Field(default=Confidence(), description="Few answers have a low confidence.")
    grounded: Grounded = Field(default=Grounded(), description="Extracted strings and numbers stand in the text.")
    summaries: Summaries = Field(
        default=Summaries(), description="Summaries are not empty, copied, far too long or cut off."
    )
    accuracy: Accuracy = Field(default=Accuracy(), description="Labels are those of a column with the right ones.")

    @classmethod
    def off(cls) -> "Checks":
        """Return settings with no check at all."""
        return cls.model_validate({name: {"enabled": False} for name in cls.model_fields})
