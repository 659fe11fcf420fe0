"""Which rows of a source have neither an answer nor a failure, for sensors that look at it and for the check of it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from math import ceil
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from llm_assets.records import Condition, Key, Partition, Within
from llm_assets.tables.database import retried
from llm_assets.tables.partitions import ColumnOf
from llm_assets.tables.source_table import SourceTable, matches
from llm_assets.tables.store import Output, Store

COUNTED_ROWS = 100_000
"""No more unanswered rows are looked at together. What is beyond is found when these are answered."""

CONDITIONS_OF_A_QUERY = 500
"""SQLite takes statements of a million characters at most, and a window takes eight hundred."""

SURELY_WHOLE = 480
"""Characters of a key in `llm_failures` that was surely not cut."""

Moment = tuple[str, datetime]
"""A column, and a time."""


@dataclass(frozen=True, slots=True)
class UnansweredRows:
    """Unanswered rows of a partition: how many, and how many of them are as old as was asked for."""

    rows: int = 0
    old: int = 0


@dataclass(frozen=True, slots=True)
class RowOutcomes:
    """What became of a partition's rows, each by its own key, for one task.

    `missing` have neither an answer nor a failure; `first_missing` are the first keys of these.
    """

    rows: int
    answered: int
    failed: int
    missing: int
    first_missing: tuple[Key, ...]


class Unanswered:
    """The rows of a source that some task has neither answered nor failed at. It reads, and writes nothing.

    If answers and source are in one database and one integer or text column is the key, the database compares them;
    else keys are read and looked up in lists. A row whose text has changed since counts as answered.

    Args:
        source: The source, with the columns of its partitions, and that of `old_before`.
        store: The output tables, which need not exist yet.
        outputs: Those whose answers are asked for.
        schema: Database schema of the output tables.
    """

    def __init__(self, source: SourceTable, store: Store, outputs: Sequence[Output], schema: str | None) -> None:
        self.database = source.database
        self._source = source
        self._store = store
        self._outputs = outputs
        self._schema = schema

    def count(
        self, partitions: Sequence[Partition], old_before: Moment | None = None, at_least: int = 1
    ) -> dict[str, UnansweredRows]:
        """Return what is unanswered by partition key, leaving out partitions without any.

        Args:
            partitions: Where to look.
            old_before: What makes a row an old one: a column whose time is before a moment.
            at_least: A count that must not be missed because no more rows are looked at.
        """
        limit = max(COUNTED_ROWS, at_least)
        if self._compared_by_database():
            return self._count(partitions, old_before, self._is_open(), limit)
        found: dict[str, UnansweredRows] = {}
        looked_at = 0
        for keys in self._open_keys():
            columns = [self._source.column(name) for name in self._source.key_columns]
            for name, more in self._count(partitions, old_before, matches(columns, keys), len(keys)).items():
                before = found.get(name, UnansweredRows())
                found[name] = UnansweredRows(before.rows + more.rows, before.old + more.old)
            looked_at += len(keys)
            if looked_at >= limit:
                break
        return found

    def outcomes(self, task: str, partition: Partition, shown: int) -> RowOutcomes:
        """Return what became of a partition's rows for one of the outputs' tasks.

        A row counts as answered or failed by its own key, under whatever partition that stands.

        Args:
            task: The task's name.
            partition: Where to look.
            shown: So many keys without an outcome are returned.
        """
        output = next(output for output in self._outputs if output.task == task)
        if self._compared_by_database():
            return self._outcomes(output, partition, shown)
        rows = answered = failed = missing = 0
        first: list[Key] = []
        for page in self._source.read(partition):
            keys = [row.key for row in page]
            with_answer, with_failure = self._answered(output, keys), self._failed(output, keys)
            open_keys = [key for key in keys if key not in with_answer and key not in with_failure]
            rows += len(keys)
            answered += len(with_answer)
            failed += len(with_failure - with_answer)
            missing += len(open_keys)
            first += open_keys[: shown - len(first)]
        return RowOutcomes(rows, answered, failed, missing, tuple(first))

    @retried
    def _outcomes(self, output: Output, partition: Partition, shown: int) -> RowOutcomes:
        # Counted first: a row that comes in meanwhile is then missing, and not taken for an answered one.
        rows = self._source.count(partition)
        unanswered, not_failed = self._without_answer(output), self._without_failure(output)
        where = [*self._source.conditions(partition), unanswered]
        source = self._source.selectable
        counted = sa.select(sa.func.count(), sa.func.sum(sa.case((not_failed, 1), else_=0))).select_from(source)
        columns = [self._source.column(name) for name in self._source.key_columns]
        first = sa.select(*columns).where(*where, not_failed).order_by(*columns).limit(shown)
        with self.database.engine.connect() as connection:
            open_rows, missing = connection.execute(counted.where(*where)).one()
            keys = [tuple(row) for row in connection.execute(first)] if missing else []
        missing = int(missing or 0)
        return RowOutcomes(rows, max(rows - open_rows, 0), open_rows - missing, missing, tuple(keys))

    def _open_keys(self) -> Iterator[list[Key]]:
        """Yield the keys of unanswered rows, in lists, by comparing those of the source with the output tables."""
        for rows in self._source.read(Partition()):
            keys = [row.key for row in rows]
            done = [self._answered(output, keys) | self._failed(output, keys) for output in self._outputs]
            if unanswered := [key for key in keys if not all(key in each for each in done)]:
                yield unanswered

    def _answered(self, output: Output, keys: Sequence[Key]) -> set[Key]:
        return set(self._store.answered(output.task, keys)) if output.table in self._existing else set()

    def _failed(self, output: Output, keys: Sequence[Key]) -> set[Key]:
        return set(self._store.failed(output.task, keys)) if "llm_failures" in self._existing else set()

    @cached_property
    def _existing(self) -> set[str]:
        """The output tables that exist."""
        return set(sa.inspect(self._store.database.engine).get_table_names(self._schema))

    def _compared_by_database(self) -> bool:
        kinds = self._source.key_types
        if self.database.url != self._store.database.url or len(kinds) != 1:
            return False
        # Their values are in llm_failures as the database itself writes them as text.
        if isinstance(kinds[0], sa.Integer):
            return True
        own_text = isinstance(kinds[0], sa.CHAR | sa.Enum | postgresql.CITEXT)
        return isinstance(kinds[0], sa.String) and not own_text and not self._has_cut_keys()

    @retried
    def _has_cut_keys(self) -> bool:
        """Whether a failed row has a key so long that `llm_failures` may hold only its beginning."""
        if "llm_failures" not in self._existing:
            return False
        table = sa.table("llm_failures", sa.column("source"), sa.column("row_key"), schema=self._schema)
        long = sa.func.length(table.c.row_key) >= SURELY_WHOLE
        query = sa.select(sa.literal(1)).where(table.c.source == self._source.source.name, long).limit(1)
        with self.database.engine.connect() as connection:
            return connection.execute(query).first() is not None

    def _is_open(self) -> sa.ColumnElement[bool]:
        """The condition that some task has neither answered a row nor failed at it."""
        return sa.or_(
            *(sa.and_(self._without_answer(output), self._without_failure(output)) for output in self._outputs)
        )

    def _without_answer(self, output: Output) -> sa.ColumnElement[bool]:
        """The condition that a row has no answer, if one column is the key."""
        if output.table not in self._existing:
            return sa.true()
        [name] = self._source.key_columns
        answers = sa.table(output.table, sa.column(name), schema=self._schema).alias(f"answers_{output.task}")
        return ~sa.exists().where(answers.c[name] == self._source.column(name))

    def _without_failure(self, output: Output) -> sa.ColumnElement[bool]:
        """The condition that a row has not failed, if one column is the key."""
        if "llm_failures" not in self._existing:
            return sa.true()
        [name] = self._source.key_columns
        columns = [sa.column(column) for column in ("source", "task", "row_key")]
        failures = sa.table("llm_failures", *columns, schema=self._schema).alias(f"failures_{output.task}")
        return ~sa.exists().where(
            failures.c.source == self._source.source.name,
            failures.c.task == output.task,
            failures.c.row_key == sa.cast(self._source.column(name), sa.Text),
        )

    def _count(
        self, partitions: Sequence[Partition], old_before: Moment | None, where: sa.ColumnElement[bool], limit: int
    ) -> dict[str, UnansweredRows]:
        found: dict[str, UnansweredRows] = {}
        for some in _with_few_conditions(self._narrowed(partitions, where, limit)):
            found |= self._count_some(some, old_before, where, limit)
        return found

    def _narrowed(
        self, partitions: Sequence[Partition], where: sa.ColumnElement[bool], limit: int
    ) -> Sequence[Partition]:
        """Leave out stretches of time without unanswered rows, if there are more windows than fit into one query."""
        index = next((i for i, each in enumerate(partitions[0].conditions) if isinstance(each, Within)), None)
        windows = [] if index is None else _windows(each.conditions[index] for each in partitions)
        if index is None or len(windows) <= CONDITIONS_OF_A_QUERY:
            return partitions
        size = ceil(len(windows) / CONDITIONS_OF_A_QUERY)
        stretches: list[list[Within]] = []
        for window in windows:
            # None reaches over a partition that is not looked at, whose rows would take the place of others.
            if stretches and stretches[-1][-1].instants[1] == window.instants[0] and len(stretches[-1]) < size:
                stretches[-1].append(window)
            else:
                stretches.append([window])
        whole = [
            Partition(str(number), (Within(each[0].column, each[0].start, each[-1].end),))
            for number, each in enumerate(stretches)
        ]
        found: set[str] = set()
        for some in _with_few_conditions(whole):
            found |= self._count_some(some, None, where, limit).keys()
        kept = {window for number, each in enumerate(stretches) if str(number) in found for window in each}
        return [each for each in partitions if each.conditions[index] in kept]

    @retried
    def _count_some(
        self, partitions: Sequence[Partition], old_before: Moment | None, where: sa.ColumnElement[bool], limit: int
    ) -> dict[str, UnansweredRows]:
        names = {each.conditions: each.key for each in partitions}
        choices = [list(dict.fromkeys(choice)) for choice in zip(*names, strict=True)]
        # With an offset, the database does this first: to compare keys is cheaper than to place times.
        query = sa.select(*self._source.selectable.c).where(*self._source.conditions(Partition()), where)
        open_rows = query.offset(0).subquery()

        def column(name: str) -> ColumnOf:
            return replace(self._source.column_of(name), column=open_rows.c[name])

        places, limits = [], []
        for number, choice in enumerate(choices):
            places.append(_place(column(choice[0].column), choice).label(f"place_{number}"))
            limits += _limits(column(choice[0].column), choice)
        old = sa.false() if old_before is None else column(old_before[0]).before(old_before[1])
        query = sa.select(*places, sa.case((old, 1), else_=0).label("old")).select_from(open_rows)
        rows = query.where(*limits).subquery()
        # Rows in no partition do not take the place of others.
        placed = sa.select(rows).where(*(rows.c[place.name].is_not(None) for place in places)).limit(limit).subquery()
        by = [placed.c[place.name] for place in places]
        counted = sa.select(*by, sa.func.count(), sa.func.sum(placed.c.old)).select_from(placed).group_by(*by)
        found = {}
        with self.database.engine.connect() as connection:
            for *numbers, count, count_old in connection.execute(counted):
                met = tuple(choice[number] for choice, number in zip(choices, numbers, strict=True))
                if count and met in names:
                    found[names[met]] = UnansweredRows(count, int(count_old))
        return found


def _limits(column: ColumnOf, choice: Sequence[Condition]) -> list[sa.ColumnElement[bool]]:
    """What rows that meet one of some conditions on a column have in common; quick to tell."""
    windows = _windows(choice)
    if not windows:
        return []
    last = max(windows, key=lambda window: window.instants[1])
    return [sa.not_(column.before(windows[0].start)), column.before(last.end)]


def _place(column: ColumnOf, choice: Sequence[Condition]) -> sa.ColumnElement[Any]:
    """Which of some conditions on a column a row meets, by its number; NULL for none."""
    number = [sa.literal_column(str(index)) for index in range(len(choice))]
    windows = [(each, index) for index, each in enumerate(choice) if isinstance(each, Within)]
    if not windows:
        whens = [(column.condition(each), number[index]) for index, each in enumerate(choice)]
        return sa.case(*whens, else_=sa.null())
    windows.sort(key=lambda window: window[0].instants)

    # Halved again and again, so that a row is compared with few of many windows.
    def among(first: int, last: int) -> sa.ColumnElement[Any]:
        middle = (first + last) // 2
        window, index = windows[middle]
        if first == middle:
            return sa.case((column.condition(window), number[index]), else_=sa.null())
        return sa.case((column.before(window.start), among(first, middle)), else_=among(middle, last))

    return among(0, len(windows))


def _windows(conditions: Iterable[Condition]) -> list[Within]:
    """Return the windows among some conditions, each once and by their beginning."""
    return sorted({each for each in conditions if isinstance(each, Within)}, key=lambda window: window.instants)


def _with_few_conditions(partitions: Sequence[Partition]) -> Iterator[list[Partition]]:
    """Yield the partitions in lists that a statement has room for."""
    some: list[Partition] = []
    conditions: set[Condition] = set()
    for each in partitions:
        if len(conditions.union(each.conditions)) > CONDITIONS_OF_A_QUERY:
            yield some
            some, conditions = [], set()
        some.append(each)
        conditions.update(each.conditions)
    if some:
        yield some
