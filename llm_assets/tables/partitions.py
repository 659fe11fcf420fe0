"""The conditions of partitions as SQL, in the kind of value that a column holds."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from llm_assets.errors import SourceError
from llm_assets.records import Condition, Equals, OneOf

BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
LARGEST_INTEGER = 2**63 - 1
"""What a database's integers hold; SQLite's driver refuses to compare with more."""


class ColumnValues(NamedTuple):
    """What a column holds: values by the texts that stand for them, those that have none, and whether NULL."""

    texts: list[str]
    others: list[object]
    has_null: bool


@dataclass(frozen=True)
class ColumnOf:
    """A column that a table is cut by: its type, and what a partition's condition on it is in the database."""

    table: str
    column: sa.ColumnClause[Any]
    kind: sa.types.TypeEngine[Any]
    dialect: str

    def condition(self, condition: Condition) -> sa.ColumnElement[bool]:
        """Return what a condition is in SQL.

        Raises:
            SourceError: the column's type holds no such value, or no time.
        """
        # To SQLite, a number in a column without a type is never equal to text.
        column = sa.cast(self.column, sa.Text) if self._has_no_type else self.column
        if isinstance(condition, Equals):
            return column == self.value(condition.value)
        if isinstance(condition, OneOf):
            values = [self.value(text) for text in condition.values]
            return column.in_(values) if values else sa.false()
        self._check_is_time()
        if self.dialect == "sqlite":
            since = _in_sqlite(self.column, condition.start, lambda time, bound: time >= bound)
            return sa.and_(since, _in_sqlite(self.column, condition.end, lambda time, bound: time < bound))
        return sa.and_(self.column >= self._bound(condition.start), self.column < self._bound(condition.end))

    def before(self, moment: datetime) -> sa.ColumnElement[bool]:
        """Return the condition that a row's time is before a moment; a day without a time, that it has ended before.

        Raises:
            SourceError: the column's type holds no time.
        """
        self._check_is_time()
        if self.dialect == "sqlite":
            return _in_sqlite(self.column, moment, lambda time, bound: time < bound)
        return self.column < (moment.date() if isinstance(self.kind, sa.Date) else self._bound(moment))

    def value(self, text: str) -> object:
        """Return a partition's value as the column's own kind of value, or raise a SourceError."""
        try:
            python_type = self.kind.python_type
        except NotImplementedError:
            return text
        try:
            if python_type is bool:
                return BOOLEANS[text.lower()]
            value = python_type(text) if python_type in (int, float) else text
        except (ValueError, KeyError):
            raise self._no_value(text) from None
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise self._no_value(text)
        return value

    def text(self, value: object) -> str | None:
        """Return a value that was read from the column as the text that stands for it; None if there is none.

        A text stands for a value if `value` makes that very value of it again.
        """
        if isinstance(value, str):
            text = value
        elif isinstance(value, bool):
            text = str(value).lower()
        elif isinstance(value, int | float | Decimal | date | UUID):
            text = str(value)
        else:
            return None
        try:
            again = self.value(text)
        except SourceError:
            return None
        # Text beside a column of some types is read as their value by the database.
        read_by_database = again == text and (
            isinstance(value, Decimal | date | UUID)
            or (isinstance(value, int) and self._has_no_type)
            or (isinstance(value, int | float) and isinstance(self.kind, sa.Numeric))
        )
        same = again == value and isinstance(again, str) == isinstance(value, str)
        return text if (same or read_by_database) and "\ufffd" not in text else None

    @property
    def _has_no_type(self) -> bool:
        """Whether this is a column of SQLite without a declared type, as one that a SELECT or a view computes."""
        return self.dialect == "sqlite" and isinstance(self.kind, sa.types.NullType)

    def _no_value(self, text: str) -> SourceError:
        return SourceError(f"Partition {text!r} is no value of column {self.column.name!r}, whose type is {self.kind}.")

    def _check_is_time(self) -> None:
        # SQLite has no type for time: text and Julian days hold one, whatever is declared.
        never = (sa.Integer, sa.Boolean, sa.LargeBinary)
        if self.dialect != "sqlite":
            never = (*never, sa.String, sa.Numeric, sa.Time, sa.Interval, sa.JSON, sa.Uuid, sa.ARRAY)
        if isinstance(self.kind, never):
            raise SourceError(
                f"Table {self.table!r}: the column {self.column.name!r} is {self.kind}, which is no time. Cast it in a "
                "view and read that, or choose another column for the partitions."
            )

    def _bound(self, moment: datetime) -> object:
        """A partition's edge as the column's own kind of time."""
        if isinstance(self.kind, sa.Date):
            if not _begins_day(moment):
                raise SourceError(
                    f"Table {self.table!r}: the column {self.column.name!r} is {self.kind}, and a partition's edge at "
                    f"{moment:%H:%M} would cut a day. Choose daily, weekly or monthly partitions without "
                    "minute_offset and hour_offset, or a column with the time of day."
                )
            return moment.date()
        # A time without a zone means the partition's own; one with a zone is compared as an instant.
        return moment if getattr(self.kind, "timezone", False) else on_the_clock(moment)


def on_the_clock(moment: datetime) -> datetime:
    """Return a moment without its zone, so that a later moment is never earlier on the clock.

    Where the clock is turned back, an hour comes twice. Without a zone both look alike, and are taken as the second:
    every moment of the first becomes the beginning of that hour. So ranges that follow upon each other share no time.
    """
    moment = moment.astimezone(UTC).astimezone(moment.tzinfo)
    offset, later = moment.utcoffset(), moment.replace(fold=1).utcoffset()
    assert offset is not None
    assert later is not None
    if later >= offset:
        return moment.replace(tzinfo=None, fold=0)
    # The clock is turned back within so long after the moment as it is turned back by.
    before = moment.astimezone(UTC)
    after = before + (offset - later)
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) // 2
        if middle.astimezone(moment.tzinfo).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after.astimezone(moment.tzinfo).replace(tzinfo=None, microsecond=0, fold=0)


def _begins_day(moment: datetime) -> bool:
    """Whether a moment is the first of its day, by the clock of its zone; not every day has a midnight."""
    before = (moment.astimezone(UTC) - timedelta(microseconds=1)).astimezone(moment.tzinfo)
    return before.date() < moment.date() or on_the_clock(moment).time() == datetime.min.time()


def _in_sqlite(
    column: sa.ColumnElement[Any], moment: datetime, compare: Callable[[Any, str], sa.ColumnElement[bool]]
) -> sa.ColumnElement[bool]:
    """SQLite has no type for time: text in any of its formats becomes `YYYY-MM-DD HH:MM:SS`, by an offset also UTC."""
    time = sa.func.datetime(column)
    has_offset = sa.or_(column.like("%Z"), column.op("GLOB")("*[+-][0-9][0-9]:[0-9][0-9]"))
    instant, clock = (
        bound.replace(tzinfo=None).isoformat(" ", "seconds") for bound in (moment.astimezone(UTC), on_the_clock(moment))
    )
    return sa.case((has_offset, compare(time, instant)), else_=compare(time, clock))
