"""Partitions as ranges: what one run can take together."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import dagster as dg

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
PARTITION = "dagster/partition"


class Range(NamedTuple):
    """Partitions from one key to another, both included. Of two dimensions it has every pair in between."""

    start: str
    end: str

    def request(self, assets: Sequence[dg.AssetKey]) -> dg.RunRequest:
        """Return a request for one run over the range."""
        if self.start == self.end:
            return dg.RunRequest(partition_key=self.start, asset_selection=assets)
        return dg.RunRequest(asset_selection=assets, tags={RANGE_START: self.start, RANGE_END: self.end})


class _Stretch(NamedTuple):
    """Rows and columns of the table of keys, the last ones included; one dimension has a single row."""

    first_row: int
    last_row: int
    first: int
    last: int


def ranges(keys: Sequence[str], wanted: Collection[str], two_dimensions: bool, most: int | None = None) -> list[Range]:
    """Return the ranges that hold the wanted keys and no others, as few as are found by going along the dimensions.

    Args:
        keys: Every partition key in Dagster's order.
        wanted: Those of them that the ranges are to hold.
        two_dimensions: Whether a key is a pair, written with a bar.
        most: Partitions in a range at most.
    """
    pairs = _pairs(keys, two_dimensions)
    rows = list(dict.fromkeys(pair[0] for pair in pairs))
    columns = list(dict.fromkeys(pair[1] for pair in pairs))
    at = {pair: key in wanted for pair, key in zip(pairs, keys, strict=True)}
    open_ones: dict[tuple[int, int], _Stretch] = {}
    done: list[_Stretch] = []
    for number, row in enumerate(rows):
        found = {}
        for first, last in _stretches([at.get((row, column), False) for column in columns], most):
            above = open_ones.pop((first, last), None)
            size = (last - first + 1) * (number - above.first_row + 1 if above else 1)
            if above and (most is None or size <= most):
                found[first, last] = above._replace(last_row=number)
            else:
                done += [above] if above else []
                found[first, last] = _Stretch(number, number, first, last)
        done += open_ones.values()
        open_ones = found
    done += open_ones.values()

    def key(row: int, column: int) -> str:
        return f"{rows[row]}|{columns[column]}" if two_dimensions else columns[column]

    return [Range(key(each.first_row, each.first), key(each.last_row, each.last)) for each in sorted(done)]


def most_partitions(answers: dg.AssetsDefinition) -> int | None:
    """Return how many partitions one run of some assets takes at most; None if it takes them all."""
    return answers.backfill_policy.max_partitions_per_run if answers.backfill_policy else 1


def members(keys: Sequence[str], taken: Range, two_dimensions: bool) -> list[str]:
    """Return the keys in a range; of an end that is no key any more, none."""
    pairs = _pairs(keys, two_dimensions)
    ends = _pairs(taken, two_dimensions)
    rows, columns = (list(dict.fromkeys(pair[side] for pair in pairs)) for side in (0, 1))
    if any(row not in rows or column not in columns for row, column in ends):
        return []
    (first_row, first), (last_row, last) = ((rows.index(row), columns.index(column)) for row, column in ends)
    inside = {(row, column) for row in rows[first_row : last_row + 1] for column in columns[first : last + 1]}
    return [key for pair, key in zip(pairs, keys, strict=True) if pair in inside]


def _pairs(keys: Sequence[str], two_dimensions: bool) -> list[tuple[str, str]]:
    """Return keys as rows and columns; of one dimension all are in one row."""
    return [(key.partition("|")[0], key.partition("|")[2]) if two_dimensions else ("", key) for key in keys]


def _stretches(wanted: Sequence[bool], most: int | None) -> list[tuple[int, int]]:
    """Return the first and the last number of each stretch of wanted ones, none longer than `most`."""
    found: list[tuple[int, int]] = []
    for number, is_wanted in enumerate(wanted):
        if not is_wanted:
            continue
        if found and found[-1][1] == number - 1 and (most is None or number - found[-1][0] < most):
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
